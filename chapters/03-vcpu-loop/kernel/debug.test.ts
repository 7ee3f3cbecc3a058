import { describe, expect, it } from 'vitest';
import { Recorder, traceLine } from '../../01-hardware-background/trace.ts';
import { GUESTDBG } from '../../02-kvm-objects/abi/events.ts';
import { exitName, RunDebug } from '../../02-kvm-objects/abi/exits.ts';
import { Kvm, type Vcpu } from '../../02-kvm-objects/kvm.ts';
import { softKernel } from './index.ts';

const CODE = 0x1000;
const RAM = 0x20000;

interface Options {
  readonly code: readonly number[];
  readonly bound?: number;
  readonly trace?: Recorder;
  readonly flags?: bigint;
}

/** A guest in real mode, all segment bases 0, at CODE. */
function guest({ code, bound, trace, flags = 2n }: Options) {
  const kernel = softKernel({ ramBytes: 4 << 20, ...(bound && { instructionBound: bound }), ...(trace && { trace }) });
  const kvm = Kvm.open(kernel, { trace: trace ?? null });
  const vm = kvm.createVm();
  const memory = kvm.allocate(RAM);
  memory.bytes.set(code, CODE);
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: RAM, userspace_addr: memory.hva });
  const vcpu = vm.createVcpu(0);
  start(vcpu, CODE, flags);
  return { kernel, kvm, vm, vcpu, memory, ram: memory.bytes };
}

function start(vcpu: Vcpu, rip: number, flags = 2n): void {
  const { cs } = vcpu.getSregs();
  vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 } });
  vcpu.setRegs({ rip: BigInt(rip), rsp: 0x8000n, rflags: flags });
}

const run = (vcpu: Vcpu): string => exitName(vcpu.run());
const [IO, HLT] = ['KVM_EXIT_IO', 'KVM_EXIT_HLT'];

describe('a debugger', () => {
  const { KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP } = GUESTDBG;
  const pc = (vcpu: Vcpu): bigint => RunDebug.load(vcpu.page.view).pc;

  it('steps over every kind of instruction, one at a time', () => {
    // nop; sti; nop; cpuid; mov ss, ax; nop; out 0x10, al; hlt
    const { vcpu } = guest({ code: [0x90, 0xfb, 0x90, 0x0f, 0xa2, 0x8e, 0xd0, 0x90, 0xe6, 0x10, 0xf4] });
    vcpu.setGuestDebug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
    const stops: string[] = [];
    for (let n = 0; n < 20; n++) {
      const reason = run(vcpu);
      stops.push(reason === 'KVM_EXIT_DEBUG' ? pc(vcpu).toString(16) : reason);
      vcpu.setGuestDebug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
      if (reason === HLT) break;
    }
    // Nothing between MOV SS and its successor: the hardware holds the trap back. HLT wins over the step that completes it, as on Linux.
    expect(stops).toEqual(['1001', '1002', '1003', '1005', '1008', IO, '100a', HLT]);
    expect(vcpu.getRegs().rflags & 0x100n).toBe(0n);
    expect(RunDebug.load(vcpu.page.view)).toMatchObject({ exception: 1, dr6: 0xffff4ff0n });
  });

  it('stops at an address, before the instruction', () => {
    const { vcpu } = guest({ code: [0x90, 0x90, 0x90, 0xf4] });
    vcpu.setGuestDebug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, [0x1002n, 0n, 0n, 0n, 0n, 0n, 0n, 0x402n]);
    expect(run(vcpu)).toBe('KVM_EXIT_DEBUG');
    expect(pc(vcpu)).toBe(0x1002n);
    vcpu.setGuestDebug(0);
    expect(run(vcpu)).toBe(HLT);
  });

  it('stops at INT3 when it asked for software breakpoints', () => {
    const { vcpu } = guest({ code: [0x90, 0xcc, 0xf4] });
    vcpu.setGuestDebug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP);
    expect(run(vcpu)).toBe('KVM_EXIT_DEBUG');
    expect(pc(vcpu)).toBe(0x1001n);
    expect(RunDebug.load(vcpu.page.view).exception).toBe(3);
  });

  it('leaves the guest its own trap flag', () => {
    // pushf; pop ax; or ax, 0x100; push ax; popf; nop; hlt -- with a #DB handler that counts in bx and clears TF in the frame
    const { vcpu, ram } = guest({ code: [0x9c, 0x58, 0x0d, 0, 1, 0x50, 0x9d, 0x90, 0xf4] });
    ram.set([0, 0x30, 0, 0], 4);
    ram.set([0x43, 0x55, 0x89, 0xe5, 0x81, 0x66, 6, 0xff, 0xfe, 0x5d, 0xcf], 0x3000); // inc bx; push bp; mov bp, sp; and word [bp+6], ~TF; pop bp; iret
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rbx).toBe(1n);
  });

  it('shares the debug registers with a guest that uses them', () => {
    // mov eax, 0x100a (linear of the hlt); mov dr0, eax; mov eax, 0x402; mov dr7, eax; nop; hlt; #DB handler: mov ebx, dr6; out 0x11, al
    const code = [0x66, 0xb8, 0x13, 0x10, 0, 0, 0x0f, 0x23, 0xc0, 0x66, 0xb8, 2, 4, 0, 0, 0x0f, 0x23, 0xf8, 0x90, 0xf4];
    const { vcpu, ram } = guest({ code });
    ram.set([0, 0x30, 0, 0], 4);
    ram.set([0x0f, 0x21, 0xf3, 0xe6, 0x11], 0x3000);
    expect(run(vcpu)).toBe(IO);
    expect(vcpu.getRegs().rbx & 0xfn).toBe(1n);
    expect(vcpu.getDebugregs().db[0]).toBe(0x1013n);
  });
});

describe('two processors', () => {
  it('have registers of their own and one memory', () => {
    // inc word [0x2000]; jmp -- on both
    const { vm, vcpu, ram } = guest({ code: [0xff, 0x06, 0, 0x20, 0xeb, 0xfa], bound: 100 });
    const other = vm.createVcpu(1);
    start(other, CODE);
    other.setRegs({ ...other.getRegs(), rbx: 7n });
    const count = (): number => (ram[0x2000] as number) + 256 * (ram[0x2001] as number);
    const counts = [0];
    for (let turn = 1; turn <= 10; turn++) {
      expect(run(turn % 2 ? vcpu : other)).toBe('KVM_EXIT_INTR');
      counts.push(count());
    }
    expect(counts.slice(3).map((sum, n) => sum - (counts[n + 2] as number))).toEqual(new Array(8).fill(50));
    expect([vcpu, other].map((each) => each.getRegs().rbx)).toEqual([0n, 7n]);
  });
});

describe('the trace', () => {
  const record = (): string => {
    const trace = new Recorder();
    // mov cx, 3; loop: out 0x10, al; cpuid; in al, 0x11; loop; mov ax, 0xf000; mov ds, ax; mov [0], al; hlt
    const { vcpu } = guest({
      trace,
      code: [0xbf, 3, 0, 0xe6, 0x10, 0x0f, 0xa2, 0xe4, 0x11, 0x4f, 0x75, 0xf7, 0xb8, 0, 0xf0, 0x8e, 0xd8, 0xa2, 0, 0, 0xf4],
    });
    for (let n = 0; n < 20 && run(vcpu) !== HLT; n++);
    return trace.events.map(traceLine).join('\n');
  };

  it('is the same to the byte in two runs, and names what happened', () => {
    const first = record();
    expect(record()).toBe(first);
    for (const name of ['kvm_entry', 'kvm_exit', 'kvm_pio', 'kvm_mmio', 'kvm_userspace_exit', 'kvm_page_fault', 'ioctl'])
      expect(first).toContain(`"kind":"${name}"`);
    expect(first).toContain('"reason":"IO_INSTRUCTION"');
    expect(first).toContain('"reason":"CPUID"');
    expect(first).toContain('"reason":"EPT_VIOLATION"');
  });
});
