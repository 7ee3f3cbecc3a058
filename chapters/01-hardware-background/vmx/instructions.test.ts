import { describe, expect, it } from 'vitest';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { Fault, VECTOR, VmExit } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { CR4, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { EXIT_REASON, exitReasonName } from './exit-reasons.ts';
import { ALL_ONES, Bench, HOST_RIP, MSR_AREA, OTHER_VMCS, VMCS_REGION, VMXON_REGION } from './laboratory.ts';
import { FIELD } from './vmcs.ts';

describe('VMX instructions', () => {
  it('refuses regions', () => {
    const bench = new Bench();
    const failsWith = (status: string, error: number): void => {
      expect([status, bench.read('VM_INSTRUCTION_ERROR')]).toEqual(['failValid', BigInt(error)]);
    };
    failsWith(bench.vmx.vmxon(VMXON_REGION), 15);
    failsWith(bench.vmx.vmclear(0x2001), 2);
    failsWith(bench.vmx.vmclear(2 ** 40), 2);
    failsWith(bench.vmx.vmclear(VMXON_REGION), 3);
    failsWith(bench.vmx.vmptrld(0x2001), 9);
    failsWith(bench.vmx.vmptrld(VMXON_REGION), 10);
    failsWith(bench.vmx.vmptrld(MSR_AREA), 11);
    failsWith(bench.vmx.vmptrld(0x10_0000), 11); // the first page after RAM
    failsWith(bench.vmx.invept(0, 0n), 28);
    failsWith(bench.vmx.invept(1, 0x26n), 28);
    failsWith(bench.vmx.invvpid(1, 0, 0n), 28);
    failsWith(bench.vmx.invvpid(0, 1, 1n << 60n), 28);
    expect(bench.vmx.invept(1, 0x901en)).toBe('succeed');
    expect(bench.vmx.invvpid(3, 1, 0n)).toBe('succeed');
    expect(bench.vmx.vmptrst()).toBe(BigInt(VMCS_REGION));
    expect(bench.vmx.vmclear(VMCS_REGION)).toBe('succeed');
    expect(bench.vmx.vmptrst()).toBe(ALL_ONES);
    expect(bench.vmx.vmlaunch()).toBe('failInvalid');
    expect(bench.vmx.vmxoff()).toBe('succeed');
    expect(() => bench.vmx.vmptrst()).toThrow(Fault);
    expect(bench.vmx.vmxon(MSR_AREA)).toBe('failInvalid');
  });

  it('refuses VMXON and the rest where the processor is not ready', () => {
    const bench = new Bench();
    const { state } = bench.cpu;
    bench.vmx.vmxoff();
    const vectorOf = (): number => {
      try {
        bench.vmx.vmxon(VMXON_REGION);
      } catch (fault) {
        return (fault as Fault).vector;
      }
      return -1;
    };
    state.set64(OFFSET.CR4, BigInt(CR4.PAE));
    expect(vectorOf()).toBe(VECTOR.UD);
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.VMXE | CR4.LA57));
    expect(vectorOf()).toBe(VECTOR.GP);
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.VMXE));
    state.set64(OFFSET.CR0, 0x8000_0011n); // NE clear
    expect(vectorOf()).toBe(VECTOR.GP);
    state.set64(OFFSET.CR0, 0x8000_0031n);
    state.set32(OFFSET.CPL, 3);
    expect(vectorOf()).toBe(VECTOR.GP);
    state.set32(OFFSET.CPL, 0);
    state.setSegRights(SEG.CS, 0xc09b); // compatibility mode
    expect(vectorOf()).toBe(VECTOR.UD);
    state.setSegRights(SEG.CS, 0xa09b);
    expect(vectorOf()).toBe(-1);
    expect(() => bench.vmx.checkControlRegister(4, BigInt(CR4.PAE))).toThrow(Fault);
    expect(() => bench.vmx.checkControlRegister(0, 0x8000_0031n)).not.toThrow();
  });

  it('reads and writes fields by encoding', () => {
    const bench = new Bench();
    const { vmx } = bench;
    vmx.vmwrite(FIELD.TSC_OFFSET, 0x1122_3344_5566_7788n);
    expect(vmx.vmread(FIELD.TSC_OFFSET | 1)).toBe(0x1122_3344n);
    vmx.vmwrite(FIELD.TSC_OFFSET | 1, 0xdead_beef_0000_0001n);
    expect(vmx.vmread(FIELD.TSC_OFFSET)).toBe(0x1_5566_7788n);
    vmx.vmwrite(FIELD.GUEST_ES_SELECTOR, 0x12_3456n);
    expect(vmx.vmread(FIELD.GUEST_ES_SELECTOR)).toBe(0x3456n);
    vmx.vmwrite(FIELD.EXCEPTION_BITMAP, 0xffff_ffff_0000_4000n);
    expect(vmx.vmread(FIELD.EXCEPTION_BITMAP)).toBe(0x4000n);
    vmx.vmwrite32(FIELD.GUEST_RSP, 0xffff_fff0);
    expect(vmx.vmread(FIELD.GUEST_RSP)).toBe(0xffff_fff0n);
    expect(vmx.vmread32(FIELD.GUEST_RSP)).toBe(0xffff_fff0);
    expect(() => vmx.vmwrite(FIELD.VM_EXIT_REASON, 1n)).toThrow(expect.objectContaining({ name: 'VmxAccessError', status: 'failValid' }));
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(13n);
    for (const encoding of [FIELD.PML_ADDRESS, 0x4001, 0x2, 0x6fff, 0x8000, 0xffff_ffff, -1]) {
      expect(() => vmx.vmread(encoding), encoding.toString(16)).toThrow(expect.objectContaining({ name: 'VmxAccessError', status: 'failValid' }));
      expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(12n);
    }
    expect(() => vmx.vmwrite(FIELD.PML_ADDRESS, 1n)).toThrow(/PML_ADDRESS|0x200e/);
    vmx.vmclear(VMCS_REGION);
    expect(() => vmx.vmread(FIELD.GUEST_RIP)).toThrow('no current VMCS');
  });

  const insn = (fields: Partial<Instruction>): Instruction => ({
    name: 'VMX',
    length: 4,
    opcode: 0x0fc7,
    codeSize: 8,
    operandSize: 8,
    addressSize: 8,
    bytes: 8,
    lock: false,
    rep: false,
    repne: false,
    rex: 0,
    segmentOverride: -1,
    vvvv: 0,
    mod: 0,
    reg: 0,
    rm: 0,
    base: -1,
    index: -1,
    scale: 0,
    disp: 0n,
    segment: SEG.DS,
    target: 0,
    imm: 0n,
    immediate: false,
    selector: 0,
    ...fields,
  });
  const run = (bench: Bench, op: SystemOp, fields: Partial<Instruction> = {}): number | string => {
    try {
      bench.vmx.execute(op, insn(fields));
    } catch (thrown) {
      return thrown instanceof Fault ? `#${thrown.vector}` : `exit ${exitReasonName((thrown as VmExit).reason)}`;
    }
    return readFlags(bench.cpu.state) & (FLAG.CF | FLAG.ZF | FLAG.SF | FLAG.OF | FLAG.AF | FLAG.PF);
  };

  it('runs as machine code in root operation', () => {
    const bench = new Bench();
    const { state, mem } = bench.cpu;
    writeFlags(state, 0x8d7);
    mem.write64(0x500n, BigInt(OTHER_VMCS));
    expect(run(bench, 'vmptrld', { disp: 0x500n })).toBe(0);
    expect(run(bench, 'vmptrst', { disp: 0x508n })).toBe(0);
    expect(mem.read64(0x508n)).toBe(BigInt(OTHER_VMCS));
    state.setSlot(SLOT.RAX, 0x1234n);
    state.setSlot(SLOT.RDX, BigInt(FIELD.GUEST_RIP));
    expect(run(bench, 'vmwrite', { mod: 3, reg: SLOT.RDX, rm: SLOT.RAX })).toBe(0);
    expect(run(bench, 'vmread', { mod: 3, reg: SLOT.RDX, rm: SLOT.RBX })).toBe(0);
    expect(state.slot(SLOT.RBX)).toBe(0x1234n);
    state.setSlot(SLOT.RDX, BigInt(FIELD.VM_EXIT_REASON));
    expect(run(bench, 'vmwrite', { mod: 3, reg: SLOT.RDX, rm: SLOT.RAX })).toBe(FLAG.ZF);
    state.setSlot(SLOT.RDX, (1n << 32n) | BigInt(FIELD.GUEST_RIP));
    expect(run(bench, 'vmread', { mod: 3, reg: SLOT.RDX, rm: SLOT.RBX })).toBe(FLAG.ZF);
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(12n);
    expect(run(bench, 'vmcall')).toBe(FLAG.ZF);
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(1n);
    expect(run(bench, 'vmlaunch')).toBe(FLAG.ZF);
    mem.write64(0x510n, 0x901en);
    mem.write64(0x518n, 0n);
    state.setSlot(SLOT.RCX, 1n);
    expect(run(bench, 'invept', { reg: SLOT.RCX, disp: 0x510n })).toBe(0);
    mem.write64(0x518n, 1n);
    expect(run(bench, 'invept', { reg: SLOT.RCX, disp: 0x510n })).toBe(FLAG.ZF);
    expect(run(bench, 'vmfunc')).toBe('#6');
    expect(run(bench, 'vmclear', { mod: 3 })).toBe('#6');
    expect(run(bench, 'vmclear', { disp: 0x500n })).toBe(0);
    expect(run(bench, 'vmread', { mod: 3 })).toBe(FLAG.CF);
    state.set32(OFFSET.CPL, 3);
    expect(run(bench, 'vmxoff')).toBe('#13');
    state.set32(OFFSET.CPL, 0);
    expect(run(bench, 'vmxoff')).toBe(0);
    expect(run(bench, 'vmcall')).toBe('#6');
  });

  it('is a VM exit in non-root operation, before any privilege check', () => {
    const bench = new Bench();
    expect(bench.vmx.vmlaunch()).toBe('entered');
    bench.cpu.state.set32(OFFSET.CPL, 3);
    const names: [SystemOp, string][] = [
      ['vmcall', 'VMCALL'],
      ['vmclear', 'VMCLEAR'],
      ['vmlaunch', 'VMLAUNCH'],
      ['vmptrld', 'VMPTRLD'],
      ['vmptrst', 'VMPTRST'],
      ['vmread', 'VMREAD'],
      ['vmresume', 'VMRESUME'],
      ['vmwrite', 'VMWRITE'],
      ['vmxoff', 'VMOFF'],
      ['vmxon', 'VMON'],
      ['invept', 'INVEPT'],
      ['invvpid', 'INVVPID'],
    ];
    for (const [op, reason] of names) expect(run(bench, op)).toBe(`exit ${reason}`);
    expect(run(bench, 'vmfunc')).toBe('#6');
    let exit: VmExit | null = null;
    try {
      bench.vmx.execute('vmread', insn({ reg: 9, base: SLOT.RBX, index: SLOT.RSI, scale: 2, disp: 0x10n, segment: SEG.SS }));
    } catch (thrown) {
      exit = thrown as VmExit;
    }
    expect(exit?.qualification).toBe(0x10n);
    expect(exit?.details.instructionInfo).toBe(((9 << 28) | (SLOT.RBX << 23) | (SLOT.RSI << 18) | (SEG.SS << 15) | (2 << 7) | 2) >>> 0);
    expect(exit?.details.instructionLength).toBe(4);
  });

  it('continues at HOST_RIP when the hypervisor is machine code', () => {
    const bench = new Bench();
    expect(run(bench, 'vmlaunch')).toBe(0);
    expect(bench.cpu.state.slot(SLOT.NEXT_RIP)).toBe(0x10_0000n);
    expect(bench.vmx.exit(new VmExit(EXIT_REASON.CPUID, 0n, { instructionLength: 2 }))).toBe('x86');
    expect(bench.cpu.state.slot(SLOT.NEXT_RIP)).toBe(HOST_RIP);
  });

  it('reports a failed entry at HOST_RIP, too, and leaves the flags to the host', () => {
    const bench = new Bench();
    bench.write({ GUEST_RFLAGS: 0 });
    expect(run(bench, 'vmlaunch')).toBe(0);
    expect(bench.cpu.state.slot(SLOT.NEXT_RIP)).toBe(HOST_RIP);
    expect(bench.read('VM_EXIT_REASON')).toBe(BigInt(0x8000_0000 + EXIT_REASON.INVALID_STATE));
    expect(bench.vmx.nonRoot).toBe(false);
  });

  it('forgets everything at power-up', () => {
    const bench = new Bench();
    bench.vmx.vmlaunch();
    bench.vmx.reset();
    expect([bench.vmx.operating, bench.vmx.nonRoot, bench.vmx.vmcs.current, bench.vmx.entryPending]).toEqual([false, false, false, false]);
    expect(() => bench.vmx.vmptrst()).toThrow(Fault);
  });

  it('refuses to enter in the shadow of MOV SS', () => {
    const bench = new Bench();
    bench.cpu.state.set32(OFFSET.SHADOW, 2);
    expect(bench.vmx.vmlaunch()).toBe('failValid');
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(26n);
  });
});
