import { describe, expect, it } from 'vitest';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { VECTOR, VmExit } from '../faults.ts';
import { AR, EFER, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { ENTRY } from './controls.ts';
import { EXIT_REASON } from './exit-reasons.ts';
import { ALL_ONES, Bench, C, DF_BIT, EPT_ROOT, event, HOST_RIP, MSR_AREA, OTHER_VMCS, S, VMCS_REGION } from './laboratory.ts';
import { MsrEntry } from './msr-areas.ts';
import { EVENT_TYPE } from './processor.ts';
import { REGION } from './vmcs.ts';

describe('VM entry and exit', () => {
  it('loads the guest and brings back the host', () => {
    const bench = new Bench();
    const { state } = bench.cpu;
    bench.write({
      GUEST_FS_BASE: 0x1234_5678_9abcn,
      GUEST_IDTR_BASE: 0xffff_8000_0000_0000n,
      GUEST_IDTR_LIMIT: 0xfff,
      GUEST_RFLAGS: FLAG.IF | FLAG.CF | 2,
    });
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect(bench.cpu.intercepts).toBe(bench.vmx.intercepts);
    expect(state.slot(SLOT.RIP)).toBe(0x10_0000n);
    expect(state.slot(SLOT.RSP)).toBe(0x20_0000n);
    expect(state.segBase(SEG.FS)).toBe(0x1234_5678_9abcn);
    expect(state.get64(OFFSET.IDTR_BASE)).toBe(0xffff_8000_0000_0000n);
    expect(state.get32(OFFSET.IDTR_LIMIT)).toBe(0xfff);
    expect(readFlags(state)).toBe(FLAG.IF | FLAG.CF | 2);
    expect(bench.vmx.intercepts.ept).toEqual({ root: EPT_ROOT, accessedDirty: false, executeOnly: true });

    state.setSlot(SLOT.RIP, 0x10_0004n);
    state.setSlot(SLOT.RSP, 0x1f_fff8n);
    state.set64(OFFSET.CR3, 0xc000n);
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID, 0n, { instructionLength: 2 }));
    expect(bench.read('VM_EXIT_REASON')).toBe(BigInt(EXIT_REASON.CPUID));
    expect(bench.read('VM_EXIT_INSTRUCTION_LEN')).toBe(2n);
    expect(bench.read('GUEST_RIP')).toBe(0x10_0004n);
    expect(bench.read('GUEST_RSP')).toBe(0x1f_fff8n);
    expect(bench.read('GUEST_CR3')).toBe(0xc000n);
    expect(bench.read('GUEST_FS_BASE')).toBe(0x1234_5678_9abcn);
    expect(bench.read('GUEST_RFLAGS')).toBe(BigInt(FLAG.IF | FLAG.CF | 2));
    expect(bench.cpu.intercepts).toBeNull();
    expect(state.slot(SLOT.RIP)).toBe(HOST_RIP);
    expect(state.slot(SLOT.NEXT_RIP)).toBe(HOST_RIP);
    expect(state.get64(OFFSET.CR3)).toBe(0xa000n);
    expect(readFlags(state)).toBe(2);
    expect(state.segRights(SEG.CS)).toBe(0xa09b);
    expect(state.segRights(SEG.FS)).toBe(AR.UNUSABLE);
    expect(state.segLimit(SEG.TR)).toBe(0x67);
    expect(bench.vmx.vmlaunch()).toBe('failValid');
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(4n);
    expect(bench.vmx.vmresume()).toBe('entered');
  });

  it('saves the next RIP for trap-like exits, and RF for fault-like ones', () => {
    const run = (exit: VmExit, flags = 2): Bench => {
      const bench = new Bench();
      bench.vmx.vmlaunch();
      writeFlags(bench.cpu.state, flags);
      bench.cpu.state.setSlot(SLOT.NEXT_RIP, 0x10_0003n);
      bench.vmx.exit(exit);
      return bench;
    };
    const trap = run(new VmExit(EXIT_REASON.TPR_BELOW_THRESHOLD, 0n, { instructionLength: 3, afterInstruction: true }));
    expect(trap.read('GUEST_RIP')).toBe(0x10_0003n);
    expect(run(new VmExit(EXIT_REASON.EPT_VIOLATION, 1n)).read('GUEST_RFLAGS')).toBe(BigInt(FLAG.RF | 2));
    expect(run(new VmExit(EXIT_REASON.HLT, 0n, { instructionLength: 1 }), FLAG.RF | 2).read('GUEST_RFLAGS')).toBe(2n);
  });

  it('reports the interrupted event, unless the exit replaced it', () => {
    const run = (exit: VmExit): Bench => {
      const bench = new Bench();
      bench.vmx.vmlaunch();
      bench.cpu.delivering = { vector: 0x80, type: EVENT_TYPE.SOFTWARE_INTERRUPT, errorCode: null, instructionLength: 2 };
      bench.vmx.exit(exit);
      return bench;
    };
    const violation = run(new VmExit(EXIT_REASON.EPT_VIOLATION, 2n, { guestPhysicalAddress: 0x12_3000, guestLinearAddress: 0x4000n }));
    expect(violation.read('IDT_VECTORING_INFO_FIELD')).toBe(0x8000_0480n);
    expect(violation.read('VM_EXIT_INSTRUCTION_LEN')).toBe(2n);
    expect(violation.read('GUEST_PHYSICAL_ADDRESS')).toBe(0x12_3000n);
    expect(violation.read('GUEST_LINEAR_ADDRESS')).toBe(0x4000n);
    expect(violation.cpu.delivering).toBeNull();
    expect(run(new VmExit(EXIT_REASON.TRIPLE_FAULT)).read('IDT_VECTORING_INFO_FIELD')).toBe(0n);
  });

  it('injects once, and wakes a halted guest', () => {
    const bench = new Bench();
    bench.write({ GUEST_ACTIVITY_STATE: 1, GUEST_RFLAGS: FLAG.IF | 2 });
    bench.inject(event(EVENT_TYPE.EXTERNAL, 0x31));
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect(bench.cpu.state.get32(OFFSET.ACTIVITY)).toBe(0);
    expect(bench.vmx.takeInjection()).toEqual({ vector: 0x31, type: 0, errorCode: null, instructionLength: 0 });
    expect(bench.vmx.takeInjection()).toBeNull();
    bench.vmx.exit(new VmExit(EXIT_REASON.HLT, 0n, { instructionLength: 1 }));
    expect(bench.read('VM_ENTRY_INTR_INFO_FIELD')).toBe(0x31n);
    bench.vmx.vmresume();
    expect(bench.vmx.entryPending).toBe(false);
  });

  it('injects error codes, software interrupts, pending debug exceptions and monitor traps', () => {
    const bench = new Bench();
    bench.inject(event(EVENT_TYPE.HARDWARE_EXCEPTION, VECTOR.PF) | DF_BIT, 0, 7);
    bench.vmx.vmlaunch();
    expect(bench.vmx.takeInjection()).toMatchObject({ vector: 14, errorCode: 7, type: 3 });
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    bench.inject(event(EVENT_TYPE.SOFTWARE_INTERRUPT, 0x80), 2);
    bench.vmx.vmresume();
    expect(bench.vmx.takeInjection()).toMatchObject({ vector: 0x80, type: 4, instructionLength: 2 });
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    bench.write({ GUEST_PENDING_DBG_EXCEPTIONS: 0x4001 });
    bench.vmx.vmresume();
    expect(bench.vmx.takePendingDebug()).toBe(0x4001);
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    bench.inject(event(EVENT_TYPE.OTHER, 0));
    bench.vmx.vmresume();
    expect(() => bench.vmx.takeInjection()).toThrow(expect.objectContaining({ reason: EXIT_REASON.MONITOR_TRAP_FLAG }));
  });

  it('loads and stores MSR areas, and says which entry is at fault', () => {
    const bench = new Bench();
    const { memory, msrs } = bench.cpu;
    const entry = (n: number, index: number, data: bigint): void =>
      MsrEntry.store(memory.view, memory.offset(MSR_AREA + 16 * n), { index, reserved: 0, data });
    msrs.set(0xc000_0082, 1n);
    msrs.set(0x277, 2n);
    entry(0, 0xc000_0082, 11n);
    entry(1, 0x277, 22n);
    bench.write({ VM_ENTRY_MSR_LOAD_ADDR: MSR_AREA, VM_ENTRY_MSR_LOAD_COUNT: 2, VM_EXIT_MSR_STORE_ADDR: MSR_AREA, VM_EXIT_MSR_STORE_COUNT: 1 });
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect([...msrs.values()]).toEqual([11n, 22n]);
    msrs.set(0xc000_0082, 33n);
    expect(bench.vmx.exit(new VmExit(EXIT_REASON.HLT))).toBe('typescript');
    expect(MsrEntry.load(memory.view, memory.offset(MSR_AREA)).data).toBe(33n);
    entry(1, 0xc000_0100, 0n); // FS base may not be in a list
    expect(bench.vmx.vmresume()).toBe('exited');
    expect(bench.read('VM_EXIT_REASON')).toBe(BigInt(0x8000_0000 + EXIT_REASON.MSR_LOAD_FAIL));
    expect(bench.read('EXIT_QUALIFICATION')).toBe(2n);
  });

  it('aborts when the host cannot be brought back', () => {
    const bench = new Bench();
    bench.write({ VM_EXIT_MSR_LOAD_ADDR: MSR_AREA, VM_EXIT_MSR_LOAD_COUNT: 1 }); // MSR 0 does not exist here
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect(bench.vmx.exit(new VmExit(EXIT_REASON.HLT))).toBe('abort');
    expect(bench.cpu.memory.view.getUint32(bench.cpu.memory.offset(VMCS_REGION) + REGION.ABORT_INDICATOR, true)).toBe(4);
    expect(bench.cpu.state.get32(OFFSET.ACTIVITY)).toBe(2);
  });

  it('offsets the time stamp counter in the guest only, modulo 2^64', () => {
    const bench = new Bench();
    bench.set('CPU_BASED_VM_EXEC_CONTROL', C.USE_TSC_OFFSETTING);
    bench.write({ TSC_OFFSET: ALL_ONES - 9n });
    bench.cpu.state.set64(OFFSET.TSC_OFFSET, 4n);
    bench.vmx.vmlaunch();
    expect(bench.cpu.state.get64(OFFSET.TSC_OFFSET)).toBe(BigInt.asUintN(64, -6n));
    bench.vmx.exit(new VmExit(EXIT_REASON.HLT));
    expect(bench.cpu.state.get64(OFFSET.TSC_OFFSET)).toBe(4n);
  });

  it('follows the guest in and out of IA-32e mode', () => {
    const bench = new Bench();
    bench.vmx.vmlaunch();
    const { state } = bench.cpu;
    state.set64(OFFSET.EFER, 0n);
    bench.vmx.exit(new VmExit(EXIT_REASON.HLT));
    expect(Number(bench.read('VM_ENTRY_CONTROLS')) & ENTRY.mask.IA32E_MODE).toBe(0);
    expect(state.low32(OFFSET.EFER)).toBe(EFER.LME | EFER.LMA);
  });

  it('keeps translations over an exit only with a VPID and an unchanged context', () => {
    const flushesOf = (vpid: boolean, between: (b: Bench) => void): number => {
      const bench = new Bench();
      if (vpid) {
        bench.set('SECONDARY_VM_EXEC_CONTROL', S.ENABLE_VPID);
        bench.write({ VIRTUAL_PROCESSOR_ID: 1 });
      }
      bench.vmx.vmlaunch();
      const before = bench.cpu.flushes;
      bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
      between(bench);
      expect(bench.vmx.vmresume()).toBe('entered');
      return bench.cpu.flushes - before;
    };
    expect(flushesOf(true, (b) => b.write({ GUEST_RIP: 0x10_0002 }))).toBe(0);
    expect(flushesOf(false, () => {})).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.write({ GUEST_CR3: 0xd000 }))).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.write({ EPT_POINTER: 0xe01e }))).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.write({ VIRTUAL_PROCESSOR_ID: 2 }))).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.vmx.invept(2, 0n))).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.vmx.beforeRootCode())).toBeGreaterThan(0);
  });

  it('keeps two VMCSs apart', () => {
    const bench = new Bench();
    bench.write({ GUEST_RIP: 0x1111 });
    expect(bench.vmx.vmlaunch()).toBe('entered');
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    bench.prepare(OTHER_VMCS);
    bench.write({ GUEST_RIP: 0x2222 });
    bench.set('CPU_BASED_VM_EXEC_CONTROL', C.HLT_EXITING);
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect(() => bench.cpu.intercepts?.instruction(EXIT_REASON.HLT, 1)).toThrow(VmExit);
    bench.vmx.exit(new VmExit(EXIT_REASON.HLT));
    bench.vmx.vmptrld(VMCS_REGION);
    expect(bench.vmx.vmresume()).toBe('entered');
    expect(bench.cpu.state.slot(SLOT.RIP)).toBe(0x1111n);
    expect(() => bench.cpu.intercepts?.instruction(EXIT_REASON.HLT, 1)).not.toThrow();
  });
});
