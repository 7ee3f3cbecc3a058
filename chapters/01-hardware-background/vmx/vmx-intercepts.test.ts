import { describe, expect, it } from 'vitest';
import { Fault, VECTOR, VmExit } from '../faults.ts';
import type { IoAccess } from '../intercepts.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { CpuState, CR0, CR4, OFFSET } from '../state.ts';
import { CPU_BASED, PIN, SECONDARY } from './controls.ts';
import { EXIT_REASON } from './exit-reasons.ts';
import type { VmxProcessor } from './processor.ts';
import { AT, type FieldName, Vmcs } from './vmcs.ts';
import { VmxIntercepts } from './vmx-intercepts.ts';

const { mask: C } = CPU_BASED;
const { mask: S } = SECONDARY;
const BITMAP_A = 0x1000;
const BITMAP_B = 0x2000;
const MSRS = 0x3000;
const VAPIC = 0x4000;
const VMCS = 0x5000;

/** Intercepts compiled from a VMCS with the given fields; `acknowledge` is an exit control. */
function intercepts(
  fields: Partial<Record<FieldName, number>> = {},
  { secondary = 0, acknowledge = false } = {},
): { it: VmxIntercepts; memory: PhysicalMemory; state: CpuState } {
  const memory = new PhysicalMemory({ ramBytes: 1 << 16, privateBytes: 1 << 16 });
  const state = new CpuState(memory);
  const v = new Vmcs(memory);
  v.point(VMCS);
  const all = { IO_BITMAP_A: BITMAP_A, IO_BITMAP_B: BITMAP_B, MSR_BITMAP: MSRS, VIRTUAL_APIC_PAGE_ADDR: VAPIC, ...fields };
  for (const [name, value] of Object.entries(all)) v.write32(AT[name as FieldName], value);
  if (secondary) {
    v.write32(AT.SECONDARY_VM_EXEC_CONTROL, secondary);
    v.write32(AT.CPU_BASED_VM_EXEC_CONTROL, v.read32(AT.CPU_BASED_VM_EXEC_CONTROL) | C.ACTIVATE_SECONDARY_CONTROLS);
  }
  const made = new VmxIntercepts({ memory, state, acknowledgeInterrupt: () => 0x21 } as unknown as VmxProcessor);
  made.compile(v, acknowledge);
  return { it: made, memory, state };
}

/** The exit an action causes, returned or thrown; '#vector' for a fault; or null when it goes on. */
function outcome(action: () => unknown): VmExit | string | null {
  try {
    const answer = action();
    return answer instanceof VmExit ? answer : null;
  } catch (thrown) {
    if (thrown instanceof Fault) return `#${thrown.vector}`;
    return thrown as VmExit;
  }
}
const reason = (action: () => unknown): number | string | null => {
  const result = outcome(action);
  return result instanceof VmExit ? result.reason : result;
};

describe('instructions', () => {
  const always = [EXIT_REASON.CPUID, EXIT_REASON.INVD, EXIT_REASON.XSETBV, EXIT_REASON.VMCALL];
  const switched: [number, number, number][] = [
    [EXIT_REASON.HLT, C.HLT_EXITING, 0],
    [EXIT_REASON.INVLPG, C.INVLPG_EXITING, 0],
    [EXIT_REASON.RDPMC, C.RDPMC_EXITING, 0],
    [EXIT_REASON.RDTSC, C.RDTSC_EXITING, 0],
    [EXIT_REASON.MWAIT_INSTRUCTION, C.MWAIT_EXITING, 0],
    [EXIT_REASON.MONITOR_INSTRUCTION, C.MONITOR_EXITING, 0],
    [EXIT_REASON.PAUSE_INSTRUCTION, C.PAUSE_EXITING, 0],
    [EXIT_REASON.GDTR_IDTR, 0, S.DESC_EXITING],
    [EXIT_REASON.LDTR_TR, 0, S.DESC_EXITING],
    [EXIT_REASON.WBINVD, 0, S.WBINVD_EXITING],
  ];

  it('exit always, or when their control says so', () => {
    const off = intercepts().it;
    for (const number of always) expect(reason(() => off.instruction(number, 2))).toBe(number);
    for (const [number, primary, secondary] of switched) {
      expect(
        reason(() => off.instruction(number, 2)),
        `off ${number}`,
      ).toBeNull();
      const on = intercepts({ CPU_BASED_VM_EXEC_CONTROL: primary }, { secondary }).it;
      const exit = outcome(() => on.instruction(number, 3, 5n, 7)) as VmExit;
      expect([exit.reason, exit.qualification, exit.details]).toEqual([number, 5n, { instructionLength: 3, instructionInfo: 7 }]);
      for (const [other] of switched)
        if (other !== number && primary)
          expect(
            reason(() => on.instruction(other, 2)),
            `${other} under ${number}`,
          ).toBeNull();
    }
  });

  it('that need enabling are #UD without it', () => {
    const off = intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.RDTSC_EXITING | C.INVLPG_EXITING }).it;
    expect(reason(() => off.instruction(EXIT_REASON.RDTSCP, 3))).toBe('#6');
    expect(reason(() => off.instruction(EXIT_REASON.INVPCID, 5))).toBe('#6');
    const on = intercepts({}, { secondary: S.ENABLE_RDTSCP | S.ENABLE_INVPCID }).it;
    expect(reason(() => on.instruction(EXIT_REASON.RDTSCP, 3))).toBeNull();
    const exiting = intercepts(
      { CPU_BASED_VM_EXEC_CONTROL: C.RDTSC_EXITING | C.INVLPG_EXITING },
      { secondary: S.ENABLE_RDTSCP | S.ENABLE_INVPCID },
    ).it;
    expect(reason(() => exiting.instruction(EXIT_REASON.RDTSCP, 3))).toBe(EXIT_REASON.RDTSCP);
    expect(reason(() => exiting.instruction(EXIT_REASON.INVPCID, 5))).toBe(EXIT_REASON.INVPCID);
  });
});

describe('ports', () => {
  const access = (port: number, size: 1 | 2 | 4, more: Partial<IoAccess> = {}): IoAccess => ({
    port,
    size,
    direction: 'out',
    string: false,
    rep: false,
    immediate: false,
    ...more,
  });

  it('exit by bitmap, for any byte of the access, and past the last port', () => {
    const { it: made, memory } = intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.USE_IO_BITMAPS });
    memory.slice(BITMAP_A, 4096)[0x3f8 >> 3] = 1; // port 0x3f8
    memory.slice(BITMAP_B, 4096)[0] = 1; // port 0x8000
    const exits = (port: number, size: 1 | 2 | 4): boolean => reason(() => made.io(access(port, size), 1)) === EXIT_REASON.IO_INSTRUCTION;
    expect([exits(0x3f8, 1), exits(0x3f7, 1), exits(0x3f7, 2), exits(0x3f5, 4), exits(0x3f4, 4), exits(0x3f9, 4)]).toEqual([
      true,
      false,
      true,
      true,
      false,
      false,
    ]);
    expect([exits(0x8000, 1), exits(0x7ffe, 2), exits(0x7fff, 2)]).toEqual([true, false, true]);
    expect([exits(0xffff, 1), exits(0xffff, 2), exits(0xfffd, 4), exits(0xfffc, 4)]).toEqual([false, true, true, false]);
  });

  it('exit unconditionally only without bitmaps, and not at all by default', () => {
    expect(reason(() => intercepts().it.io(access(1, 1), 1))).toBeNull();
    expect(reason(() => intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.UNCOND_IO_EXITING }).it.io(access(1, 1), 1))).toBe(EXIT_REASON.IO_INSTRUCTION);
    expect(reason(() => intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.UNCOND_IO_EXITING | C.USE_IO_BITMAPS }).it.io(access(1, 1), 1))).toBeNull();
  });

  it('describe the access', () => {
    const { it: made } = intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.UNCOND_IO_EXITING });
    const one = outcome(() => made.io(access(0x80, 1, { immediate: true }), 2)) as VmExit;
    expect([one.qualification, one.details]).toEqual([0x80_0040n, { instructionLength: 2 }]);
    const two = outcome(() =>
      made.io(access(0xffff, 4, { direction: 'in', string: true, rep: true, linear: 0x1234n, addressSize: 64, segment: 3 }), 2),
    ) as VmExit;
    expect(two.qualification).toBe(0xffff_003bn);
    expect(two.details).toEqual({ instructionLength: 2, instructionInfo: (2 << 7) | (3 << 15), guestLinearAddress: 0x1234n });
  });
});

describe('MSRs', () => {
  it('exit by four bitmaps, outside their ranges, and without them', () => {
    const { it: made, memory } = intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.USE_MSR_BITMAPS });
    const page = memory.slice(MSRS, 4096);
    page[0x10 >> 3] = 1; // read 0x10
    page[1024 + (0x80 >> 3)] = 2; // read 0xc0000081
    page[2048 + (0x1fff >> 3)] = 0x80; // write 0x1fff
    page[3072 + (0x82 >> 3)] = 4; // write 0xc0000082
    const read = (n: number): boolean => reason(() => made.readMsr(n, 2)) === EXIT_REASON.MSR_READ;
    const write = (n: number): boolean => reason(() => made.writeMsr(n, 2)) === EXIT_REASON.MSR_WRITE;
    expect([read(0x10), write(0x10), read(0x11), read(0xc000_0081), write(0xc000_0081)]).toEqual([true, false, false, true, false]);
    expect([write(0x1fff), read(0x1fff), write(0xc000_0082), read(0xc000_0082)]).toEqual([true, false, true, false]);
    expect([read(0x2000), read(0xbfff_ffff), read(0xc000_2000), write(0xffff_ffff), write(0x4000_0000)]).toEqual([true, true, true, true, true]);
    expect(reason(() => intercepts().it.readMsr(0x10, 2))).toBe(EXIT_REASON.MSR_READ);
  });

  it('exit when the bitmap is not RAM', () => {
    const { it: made } = intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.USE_MSR_BITMAPS, MSR_BITMAP: 0x10_0000 });
    expect(reason(() => made.readMsr(0x10, 2))).toBe(EXIT_REASON.MSR_READ);
  });
});

describe('control registers', () => {
  it('CR0: host-owned bits come from the shadow and exit when they would differ', () => {
    const { it: made, state } = intercepts({ CR0_GUEST_HOST_MASK: CR0.PE | CR0.NE | CR0.PG, CR0_READ_SHADOW: CR0.PE | CR0.PG });
    state.set64(OFFSET.CR0, 0x8000_0031n);
    expect(made.readCr(0, 0x8000_0031n, 0, 3)).toBe(0x8000_0011n);
    expect(made.writeCr(0, 0x8000_0019n, 0, 3)).toBe(0x8000_0039n); // TS changes freely, NE stays
    const exit = outcome(() => made.writeCr(0, 0x10n, 7, 3)) as VmExit;
    expect([exit.reason, exit.qualification, exit.details.instructionLength]).toEqual([EXIT_REASON.CR_ACCESS, 0x700n, 3]);
    expect(reason(() => made.writeCr(0, 0x8000_0031n, 0, 3))).toBe(EXIT_REASON.CR_ACCESS); // setting NE differs from the shadow, too
  });

  it('CR0: bits left to the guest still obey VMX operation', () => {
    const { it: made, state } = intercepts();
    state.set64(OFFSET.CR0, 0x8000_0031n);
    expect(reason(() => made.writeCr(0, 0x8000_0011n, 0, 3))).toBe('#13'); // NE
    expect(reason(() => made.writeCr(0, 0x31n, 0, 3))).toBe('#13'); // PG
    const { it: free } = intercepts({}, { secondary: S.ENABLE_EPT | S.UNRESTRICTED_GUEST });
    expect(free.writeCr(0, 0x30n, 0, 3)).toBe(0x30n);
    expect(reason(() => free.writeCr(0, 0x10n, 0, 3))).toBe('#13');
    expect(reason(() => made.writeCr(4, 0n, 0, 3))).toBe('#13'); // VMXE
  });

  it('CR3: exits unless the value is a target', () => {
    const { it: made } = intercepts({
      CPU_BASED_VM_EXEC_CONTROL: C.CR3_LOAD_EXITING | C.CR3_STORE_EXITING,
      CR3_TARGET_COUNT: 2,
      CR3_TARGET_VALUE0: 0x1000,
      CR3_TARGET_VALUE1: 0x2000,
      CR3_TARGET_VALUE2: 0x3000,
    });
    expect(made.writeCr(3, 0x2000n, 0, 3)).toBe(0x2000n);
    expect((outcome(() => made.writeCr(3, 0x3000n, 2, 3)) as VmExit).qualification).toBe(0x203n);
    expect((outcome(() => made.readCr(3, 0n, 1, 3)) as VmExit).qualification).toBe(0x113n);
    expect(intercepts().it.writeCr(3, 0x9000n, 0, 3)).toBe(0x9000n);
  });

  it('CR4: mask and shadow', () => {
    const { it: made, state } = intercepts({ CR4_GUEST_HOST_MASK: CR4.VMXE, CR4_READ_SHADOW: 0 });
    state.set64(OFFSET.CR4, BigInt(CR4.VMXE | CR4.PAE));
    expect(made.readCr(4, BigInt(CR4.VMXE | CR4.PAE), 0, 3)).toBe(BigInt(CR4.PAE));
    expect(made.writeCr(4, BigInt(CR4.PGE), 0, 3)).toBe(BigInt(CR4.VMXE | CR4.PGE));
    expect(reason(() => made.writeCr(4, BigInt(CR4.VMXE), 0, 3))).toBe(EXIT_REASON.CR_ACCESS);
  });

  it('CR8: exits, or goes to the virtual-APIC page', () => {
    const { it: exiting } = intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.CR8_LOAD_EXITING | C.CR8_STORE_EXITING });
    expect(reason(() => exiting.writeCr(8, 1n, 0, 4))).toBe(EXIT_REASON.CR_ACCESS);
    expect(reason(() => exiting.readCr(8, 1n, 0, 4))).toBe(EXIT_REASON.CR_ACCESS);
    const { it: shadowed, memory } = intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.TPR_SHADOW, TPR_THRESHOLD: 4 });
    expect(shadowed.writeCr(8, 9n, 0, 4)).toBe(0n); // the register itself does not change
    expect(memory.slice(VAPIC, 4096)[0x80]).toBe(0x90);
    expect(shadowed.readCr(8, 0n, 0, 4)).toBe(9n);
    const exit = outcome(() => shadowed.writeCr(8, 3n, 0, 4)) as VmExit;
    expect([exit.reason, exit.details.afterInstruction, memory.slice(VAPIC, 4096)[0x80]]).toEqual([EXIT_REASON.TPR_BELOW_THRESHOLD, true, 0x30]);
    expect(reason(() => shadowed.writeCr(8, 16n, 0, 4))).toBe('#13');
  });

  it('CLTS and LMSW: by mask and shadow of CR0', () => {
    const { it: made, state } = intercepts({ CR0_GUEST_HOST_MASK: CR0.TS | CR0.PE, CR0_READ_SHADOW: CR0.TS | CR0.PE });
    state.set64(OFFSET.CR0, 0x8000_0031n);
    expect((outcome(() => made.clts(2)) as VmExit).qualification).toBe(0x20n);
    expect((outcome(() => made.lmsw(1, 3, false, 0n)) as VmExit).qualification).toBe(0x1_0030n);
    expect(outcome(() => made.lmsw(0x1234, 3, true, 0x99n)) as VmExit).toMatchObject({
      qualification: 0x1234_0070n,
      details: { guestLinearAddress: 0x99n },
    });
    expect(made.lmsw(CR0.TS, 3, false, 0n)).toBe(1); // PE cannot be cleared by LMSW; TS stays the host's
    const { it: clear } = intercepts({ CR0_GUEST_HOST_MASK: CR0.TS });
    expect(outcome(() => clear.clts(2))).toBeNull();
    expect(clear.hostOwnsTs).toBe(true);
    expect(intercepts().it.hostOwnsTs).toBe(false);
  });

  it('debug registers and task switches', () => {
    const { it: made } = intercepts({ CPU_BASED_VM_EXEC_CONTROL: C.MOV_DR_EXITING });
    expect((outcome(() => made.accessDr(7, 'out', 3, 3)) as VmExit).qualification).toBe(0x307n);
    expect((outcome(() => made.accessDr(6, 'in', 3, 3)) as VmExit).qualification).toBe(0x316n);
    expect(outcome(() => intercepts().it.accessDr(7, 'in', 3, 3))).toBeNull();
    expect((outcome(() => made.taskSwitch(0x28, 'idt', 2)) as VmExit).qualification).toBe(0xc000_0028n);
  });
});

describe('events', () => {
  it('exceptions by bitmap', () => {
    const { it: made } = intercepts({ EXCEPTION_BITMAP: (1 << VECTOR.UD) | (1 << VECTOR.BP) | (1 << VECTOR.GP) | (1 << VECTOR.DB) });
    const ud = outcome(() => made.exception(new Fault(VECTOR.UD), 2, 0)) as VmExit;
    expect([ud.reason, ud.details]).toEqual([EXIT_REASON.EXCEPTION_NMI, { interruptionInfo: 0x8000_0306 }]);
    const gp = outcome(() => made.exception(new Fault(VECTOR.GP, 0x50), 2, 0)) as VmExit;
    expect(gp.details).toEqual({ interruptionInfo: 0x8000_0b0d, interruptionErrorCode: 0x50 });
    const bp = outcome(() => made.exception(new Fault(VECTOR.BP), 1, 0)) as VmExit;
    expect(bp.details).toEqual({ interruptionInfo: 0x8000_0603, instructionLength: 1 });
    expect((outcome(() => made.exception(new Fault(VECTOR.DB), 1, 0x4001)) as VmExit).qualification).toBe(0x4001n);
    expect(outcome(() => made.exception(new Fault(VECTOR.NM), 2, 0))).toBeNull();
  });

  it('page faults by mask, match and bit', () => {
    const exits = (bit: boolean, mask: number, match: number, code: number): boolean => {
      const { it: made } = intercepts({
        EXCEPTION_BITMAP: bit ? 1 << VECTOR.PF : 0,
        PAGE_FAULT_ERROR_CODE_MASK: mask,
        PAGE_FAULT_ERROR_CODE_MATCH: match,
      });
      return outcome(() => made.exception(new Fault(VECTOR.PF, code, 0x1234n), 2, 0)) !== null;
    };
    expect([exits(true, 0, 0, 2), exits(false, 0, 0, 2)]).toEqual([true, false]);
    expect([exits(true, 1, 1, 3), exits(true, 1, 1, 2)]).toEqual([true, false]);
    expect([exits(false, 1, 1, 3), exits(false, 1, 1, 2)]).toEqual([false, true]);
    expect([exits(true, 0, 0xffff_ffff, 2), exits(false, 0, 0xffff_ffff, 2)]).toEqual([false, true]); // a match that cannot be
    const { it: made } = intercepts({ EXCEPTION_BITMAP: 1 << VECTOR.PF });
    expect(outcome(() => made.exception(new Fault(VECTOR.PF, 6, 0xabcn), 2, 0))).toMatchObject({
      qualification: 0xabcn,
      details: { interruptionErrorCode: 6 },
    });
  });

  it('interrupts, NMIs and windows', () => {
    expect(intercepts().it.externalInterrupt()).toBe(false);
    expect(intercepts().it.nmi()).toBe(false);
    expect(outcome(() => intercepts().it.windows(true, true))).toBeNull();
    const { it: made } = intercepts({
      PIN_BASED_VM_EXEC_CONTROL: PIN.mask.EXT_INTR_EXITING | PIN.mask.NMI_EXITING,
      CPU_BASED_VM_EXEC_CONTROL: C.INTR_WINDOW_EXITING | C.NMI_WINDOW_EXITING,
    });
    expect(outcome(() => made.externalInterrupt())).toMatchObject({ reason: EXIT_REASON.EXTERNAL_INTERRUPT, details: {} });
    expect(outcome(() => made.nmi())).toMatchObject({ reason: EXIT_REASON.EXCEPTION_NMI, details: { interruptionInfo: 0x8000_0202 } });
    expect(reason(() => made.windows(false, false))).toBeNull();
    expect(reason(() => made.windows(true, false))).toBe(EXIT_REASON.INTERRUPT_WINDOW);
    expect(reason(() => made.windows(true, true))).toBe(EXIT_REASON.NMI_WINDOW);
    const { it: acknowledging } = intercepts({ PIN_BASED_VM_EXEC_CONTROL: PIN.mask.EXT_INTR_EXITING }, { acknowledge: true });
    expect(outcome(() => acknowledging.externalInterrupt())).toMatchObject({ details: { interruptionInfo: 0x8000_0021 } });
    expect(reason(() => made.tripleFault())).toBe(EXIT_REASON.TRIPLE_FAULT);
  });
});
