import { describe, expect, it } from 'vitest';
import { Cpu } from '../../01-hardware-background/cpu.ts';
import { EXIT, exitName, RunEmulationFailure, RunFailEntry, RunMemoryFault } from '../../02-kvm-objects/abi/exits.ts';
import { IOCTL } from '../../02-kvm-objects/abi/ioctls.ts';
import { KVM_MEM } from '../../02-kvm-objects/abi/memory.ts';
import { KvmRegs } from '../../02-kvm-objects/abi/registers.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import { Kvm, type Vcpu } from '../../02-kvm-objects/kvm.ts';
import { Hardware } from '../../02-kvm-objects/soft/hardware.ts';
import { Emulator } from './emulator.ts';
import { softKernel } from './index.ts';

const CODE = 0x1000;
const RAM = 0x20000;

interface Options {
  readonly code: readonly number[];
  readonly bound?: number;
  readonly flags?: bigint;
}

/** A guest in real mode, all segment bases 0, at CODE. */
function guest({ code, bound, flags = 2n }: Options) {
  const kernel = softKernel({ ramBytes: 4 << 20, ...(bound && { instructionBound: bound }) });
  const kvm = Kvm.open(kernel);
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
const [IO, MMIO, HLT] = ['KVM_EXIT_IO', 'KVM_EXIT_MMIO', 'KVM_EXIT_HLT'];
const io = ({ page }: Vcpu) => ({ out: page.ioOut, port: page.ioPort, size: page.ioSize, count: page.ioCount });
const value = (bytes: Uint8Array): bigint => bytes.reduceRight((all, byte) => (all << 8n) | BigInt(byte), 0n);
const mmio = ({ page }: Vcpu) => ({
  gpa: page.mmioAddress,
  len: page.mmioLength,
  write: page.mmioWrite,
  value: page.mmioWrite ? value(page.mmioData()) : null,
});
const answer = (vcpu: Vcpu, number: bigint): void => {
  const data = vcpu.page.mmioData();
  for (let n = 0; n < data.length; n++) data[n] = Number((number >> BigInt(8 * n)) & 0xffn);
};

describe('ports', () => {
  it('out of each width, and hlt', () => {
    // mov eax, 0x12345678; out 0x10, al; mov dx, 0x1234; out dx, ax; out dx, eax; hlt
    const { vcpu } = guest({ code: [0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0xe6, 0x10, 0xba, 0x34, 0x12, 0xef, 0x66, 0xef, 0xf4] });
    expect(run(vcpu)).toBe(IO);
    expect(io(vcpu)).toEqual({ out: true, port: 0x10, size: 1, count: 1 });
    expect(value(vcpu.page.ioData())).toBe(0x78n);
    expect(vcpu.getRegs().rip).toBe(0x1006n); // not past the instruction until the next run
    expect(run(vcpu)).toBe(IO);
    expect(io(vcpu)).toEqual({ out: true, port: 0x1234, size: 2, count: 1 });
    expect(value(vcpu.page.ioData())).toBe(0x5678n);
    expect(run(vcpu)).toBe(IO);
    expect(value(vcpu.page.ioData())).toBe(0x12345678n);
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rip).toBe(0x100fn);
  });

  it('in merges narrow values into RAX and zero-extends 32 bits', () => {
    // in al, 0x10; in ax, dx; in eax, dx; hlt
    const { vcpu } = guest({ code: [0xe4, 0x10, 0xed, 0x66, 0xed, 0xf4] });
    vcpu.setRegs({ ...vcpu.getRegs(), rax: 0x1122334455667788n });
    for (const [size, expected] of [
      [1, 0x11223344556677aan],
      [2, 0x112233445566aaaan],
      [4, 0xaaaaaaaan],
    ] as const) {
      expect(run(vcpu)).toBe(IO);
      expect(vcpu.page.ioSize).toBe(size);
      vcpu.page.ioData().fill(0xaa);
      const before = vcpu.getRegs().rax;
      vcpu.page.immediateExit = true;
      expect(run(vcpu)).toBe('KVM_EXIT_INTR');
      vcpu.page.immediateExit = false;
      expect(vcpu.getRegs().rax).toBe(expected);
      expect(before).not.toBe(expected);
    }
    expect(run(vcpu)).toBe(HLT);
  });

  it('does not complete an instruction that the VMM has moved away from', () => {
    const { vcpu } = guest({ code: [0xe6, 0x10, 0xf4, 0x90, 0xf4] });
    expect(run(vcpu)).toBe(IO);
    vcpu.setRegs({ ...vcpu.getRegs(), rip: 0x1003n });
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rip).toBe(0x1005n);
  });

  it('string output, item by item', () => {
    // mov cx, 3; mov si, 0x2000; mov dx, 0x10; rep outsb; hlt
    const { vcpu, ram } = guest({ code: [0xb9, 3, 0, 0xbe, 0, 0x20, 0xba, 0x10, 0, 0xf3, 0x6e, 0xf4] });
    ram.set([1, 2, 3], 0x2000);
    for (const [item, left] of [
      [1n, 2n],
      [2n, 1n],
      [3n, 0n],
    ]) {
      expect(run(vcpu)).toBe(IO);
      expect(io(vcpu)).toEqual({ out: true, port: 0x10, size: 1, count: 1 });
      expect(value(vcpu.page.ioData())).toBe(item);
      expect(vcpu.getRegs().rcx).toBe(left);
    }
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rsi).toBe(0x2003n);
  });

  it('string input, as many items at once as the page has bytes', () => {
    // mov cx, 5; mov di, 0x2ffc; mov dx, 0x10; rep insw; hlt
    const { vcpu, ram } = guest({ code: [0xb9, 5, 0, 0xbf, 0xfc, 0x2f, 0xba, 0x10, 0, 0xf3, 0x6d, 0xf4] });
    expect(run(vcpu)).toBe(IO);
    expect(io(vcpu)).toEqual({ out: false, port: 0x10, size: 2, count: 4 });
    vcpu.page.ioData().set([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(run(vcpu)).toBe(IO);
    expect(io(vcpu)).toEqual({ out: false, port: 0x10, size: 2, count: 1 });
    vcpu.page.ioData().set([9, 10]);
    expect(run(vcpu)).toBe(HLT);
    expect([...ram.subarray(0x2ffc, 0x3008)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0]);
    expect(vcpu.getRegs()).toMatchObject({ rcx: 0n, rdi: 0x3006n });
  });

  it('string input where the offset wraps in the middle of a page, and where memory ends', () => {
    // mov cx, 5; mov di, 0xfffc; mov dx, 0x10; rep insw; hlt
    const wrapping = guest({ code: [0xb9, 5, 0, 0xbf, 0xfc, 0xff, 0xba, 0x10, 0, 0xf3, 0x6d, 0xf4] });
    const { es } = wrapping.vcpu.getSregs();
    wrapping.vcpu.setSregs({ es: { ...es, base: 0x800n } });
    expect(run(wrapping.vcpu)).toBe(IO);
    expect(io(wrapping.vcpu).count).toBe(5);
    wrapping.vcpu.page.ioData().set([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(run(wrapping.vcpu)).toBe(HLT);
    expect([...wrapping.ram.subarray(0x107fa, 0x10804)]).toEqual([0, 0, 1, 2, 3, 4, 0, 0, 0, 0]);
    expect([...wrapping.ram.subarray(0x7fe, 0x808)]).toEqual([0, 0, 5, 6, 7, 8, 9, 10, 0, 0]);
    // mov cx, 3; mov di, 0xfffc; mov dx, 0x10; rep insw; hlt
    const ending = guest({ code: [0xb9, 3, 0, 0xbf, 0xfc, 0xff, 0xba, 0x10, 0, 0xf3, 0x6d, 0xf4] });
    ending.vcpu.setSregs({ es: { ...es, base: 0x10002n } });
    expect(run(ending.vcpu)).toBe(IO);
    expect(io(ending.vcpu).count).toBe(2); // as many items as the page has bytes
    ending.vcpu.page.ioData().set([7, 8, 9, 10]);
    expect(run(ending.vcpu)).toBe(MMIO);
    expect(mmio(ending.vcpu)).toEqual({ gpa: RAM, len: 2, write: true, value: 0xa09n });
    expect(run(ending.vcpu)).toBe(IO);
    expect([...ending.ram.subarray(0x1fffc)]).toEqual([0, 0, 7, 8]);
  });

  it('another string instruction in the place of the one before is seen', () => {
    // mov cx, 9; mov si, 0x2000; mov dx, 0x10; rep outsb; hlt
    const { vcpu, ram } = guest({ code: [0xb9, 9, 0, 0xbe, 0, 0x20, 0xba, 0x10, 0, 0xf3, 0x6e, 0xf4, 0xf4] });
    ram.set([1, 2, 3, 4, 5, 6, 7, 8, 9], 0x2000);
    const seen: unknown[] = [];
    const step = (): void => {
      expect(run(vcpu)).toBe(IO);
      seen.push([io(vcpu).size, value(vcpu.page.ioData()), vcpu.getRegs().rcx]);
    };
    step();
    step();
    ram[CODE + 10] = 0x6f; // rep outsw
    step();
    ram.set([0xf3, 0x26, 0x6e], CODE + 9); // rep outsb es:
    const { es } = vcpu.getSregs();
    vcpu.setSregs({ es: { ...es, base: 2n } });
    step();
    vcpu.setRegs({ ...vcpu.getRegs(), rcx: 1n });
    ram.set([0xf3, 0x6e, 0xf4], CODE + 9);
    step();
    expect(run(vcpu)).toBe(HLT);
    expect(seen.join(' ')).toBe('1,1,8 1,2,7 2,1027,6 1,7,5 1,6,0');
  });

  it('string input downward, and none for a count of 0', () => {
    // std; mov cx, 3; mov di, 0x3002; rep insb; rep insb; hlt
    const { vcpu, ram } = guest({ code: [0xfd, 0xb9, 3, 0, 0xbf, 0x02, 0x30, 0xf3, 0x6c, 0xf3, 0x6c, 0xf4] });
    expect(run(vcpu)).toBe(IO);
    expect(io(vcpu).count).toBe(2); // two bytes of the page lie below
    vcpu.page.ioData().set([1, 2]);
    expect(run(vcpu)).toBe(IO);
    vcpu.page.ioData().set([3]);
    expect(run(vcpu)).toBe(HLT);
    expect([...ram.subarray(0x2fff, 0x3004)]).toEqual([0, 3, 2, 1, 0]);
  });
});

describe('device memory', () => {
  const DS_F000 = [0xb8, 0, 0xf0, 0x8e, 0xd8]; // mov ax, 0xf000; mov ds, ax

  it('is read and written in each width', () => {
    // mov al,[0]; mov [1],al; mov ax,[2]; mov [4],ax; mov eax,[8]; mov [12],eax; hlt
    const { vcpu } = guest({
      code: [...DS_F000, 0xa0, 0, 0, 0xa2, 1, 0, 0xa1, 2, 0, 0xa3, 4, 0, 0x66, 0xa1, 8, 0, 0x66, 0xa3, 12, 0, 0xf4],
    });
    for (const [len, from, to, number] of [
      [1, 0xf0000, 0xf0001, 0x5an],
      [2, 0xf0002, 0xf0004, 0xa55an],
      [4, 0xf0008, 0xf000c, 0xdeadbeefn],
    ] as const) {
      expect(run(vcpu)).toBe(MMIO);
      expect(mmio(vcpu)).toEqual({ gpa: from, len, write: false, value: null });
      answer(vcpu, number);
      expect(run(vcpu)).toBe(MMIO);
      expect(mmio(vcpu)).toEqual({ gpa: to, len, write: true, value: number });
    }
    expect(run(vcpu)).toBe(HLT);
  });

  it('is read once and written once by a read-modify-write', () => {
    // add word [4], 1; xchg [6], bx; hlt
    const { vcpu } = guest({ code: [...DS_F000, 0x83, 0x06, 4, 0, 1, 0x87, 0x1e, 6, 0, 0xf4] });
    vcpu.setRegs({ ...vcpu.getRegs(), rbx: 0x1234n });
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toMatchObject({ gpa: 0xf0004, write: false });
    answer(vcpu, 0xffffn);
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0xf0004, len: 2, write: true, value: 0n });
    expect(vcpu.getRegs().rflags & 0x41n).toBe(0x41n); // carry and zero
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toMatchObject({ gpa: 0xf0006, write: false });
    answer(vcpu, 0x9876n);
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0xf0006, len: 2, write: true, value: 0x1234n });
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rbx).toBe(0x9876n);
  });

  it('is reached in two parts across a page', () => {
    // mov eax, [0xffe]; mov [0xfff], eax; hlt
    const { vcpu } = guest({ code: [...DS_F000, 0x66, 0xa1, 0xfe, 0x0f, 0x66, 0xa3, 0xff, 0x0f, 0xf4] });
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toMatchObject({ gpa: 0xf0ffe, len: 2, write: false });
    answer(vcpu, 0x1122n);
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toMatchObject({ gpa: 0xf1000, len: 2, write: false });
    answer(vcpu, 0x3344n);
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0xf0fff, len: 1, write: true, value: 0x22n });
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0xf1000, len: 3, write: true, value: 0x334411n });
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rax).toBe(0x33441122n);
  });

  it('is the target and the source of repeated moves', () => {
    // mov cx, 2; mov es, ax (f000); mov ds, cx(0 later)
    // xor bx, bx; mov ds, bx; mov es, ax; mov si, 0x2000; xor di, di; rep movsb; mov si, 0; mov ds, ax; mov es, bx; mov di, 0x3000; movsw; hlt
    const code = [0xb8, 0, 0xf0, 0x31, 0xdb, 0x8e, 0xdb, 0x8e, 0xc0, 0xb9, 2, 0, 0xbe, 0, 0x20, 0x31, 0xff, 0xf3, 0xa4];
    const { vcpu, ram } = guest({ code: [...code, 0xbe, 8, 0, 0x8e, 0xd8, 0x8e, 0xc3, 0xbf, 0, 0x30, 0xa5, 0xf4] });
    ram.set([0x11, 0x22], 0x2000);
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0xf0000, len: 1, write: true, value: 0x11n });
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0xf0001, len: 1, write: true, value: 0x22n });
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toMatchObject({ gpa: 0xf0008, len: 2, write: false });
    answer(vcpu, 0xbeefn);
    expect(run(vcpu)).toBe(HLT);
    expect([...ram.subarray(0x3000, 0x3002)]).toEqual([0xef, 0xbe]);
  });

  it('behind a read-only slot is memory for reads only', () => {
    // mov ax, [0x4000 in slot 1]; mov [0x4000], bx; mov cx, [0x4000]; hlt   (ds = 0x3000)
    const { vm, vcpu, kvm } = guest({ code: [0xb8, 0, 0x30, 0x8e, 0xd8, 0xa1, 0, 0x40, 0x89, 0x1e, 0, 0x40, 0x8b, 0x0e, 0, 0x40, 0xf4] });
    const rom = kvm.allocate(0x1000);
    rom.bytes.set([0x34, 0x12]);
    vm.setUserMemoryRegion({ slot: 1, guest_phys_addr: 0x34000, memory_size: 0x1000, userspace_addr: rom.hva, flags: KVM_MEM.KVM_MEM_READONLY });
    vcpu.setRegs({ ...vcpu.getRegs(), rbx: 0x5555n });
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0x34000, len: 2, write: true, value: 0x5555n });
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs()).toMatchObject({ rax: 0x1234n, rcx: 0x1234n });
  });

  it('appears and disappears with slots', () => {
    // mov al, [0x4000] three times, out after each; ds = 0x3000
    const read = [0xa0, 0, 0x40, 0xe6, 0x10];
    const { vm, vcpu, kvm } = guest({ code: [0xb8, 0, 0x30, 0x8e, 0xd8, ...read, ...read, ...read, 0xf4] });
    const late = kvm.allocate(0x1000);
    late.bytes[0] = 0x77;
    const slot = { slot: 1, guest_phys_addr: 0x34000, memory_size: 0x1000, userspace_addr: late.hva };
    expect(run(vcpu)).toBe(MMIO);
    answer(vcpu, 1n);
    expect(run(vcpu)).toBe(IO);
    vm.setUserMemoryRegion(slot);
    expect(run(vcpu)).toBe(IO);
    expect(value(vcpu.page.ioData())).toBe(0x77n);
    vm.setUserMemoryRegion({ ...slot, memory_size: 0 });
    expect(run(vcpu)).toBe(MMIO);
  });

  it('gives up on what it cannot emulate, with the bytes', () => {
    // lidt [0]; hlt
    const { vcpu } = guest({ code: [...DS_F000, 0x0f, 0x01, 0x1e, 0, 0, 0xf4] });
    expect(run(vcpu)).toBe('KVM_EXIT_INTERNAL_ERROR');
    const { suberror, insn_bytes } = RunEmulationFailure.load(vcpu.page.view);
    expect(suberror).toBe(1);
    expect([...insn_bytes.subarray(0, 6)]).toEqual([0x0f, 0x01, 0x1e, 0, 0, 0xf4]);
  });

  it('cannot hold code', () => {
    const { vcpu } = guest({ code: [0xea, 0, 0, 0, 0xf0] }); // jmp f000:0000
    expect(run(vcpu)).toBe('KVM_EXIT_INTERNAL_ERROR');
  });
});

describe('the private area', () => {
  it.each([4 << 20, 2 ** 30, 3.6 * 2 ** 30])('has room for the emulator and another processor, in front of %d bytes of RAM', (ramBytes) => {
    const hardware = new Hardware({ ramBytes: ramBytes - (ramBytes % 65536) });
    expect(() => [new Emulator(hardware), new Cpu({ memory: hardware.memory, arenaBytes: 2 << 20 })]).not.toThrow();
  });
});

describe('a fault of our own under a running guest', () => {
  it('is what the caller sees, and the machine can be taken down after it', () => {
    const { kernel, kvm, vm, vcpu } = guest({ code: [0xf4] });
    kernel.hardware.cpu.run = () => {
      throw new Error('broken below');
    };
    expect(() => vcpu.run()).toThrow('broken below');
    for (const part of [vcpu, vm, kvm]) part.close();
    expect(kernel.hardware.enabled).toBe(false);
  });
});

describe('memory that is a promise', () => {
  it('and is broken: EFAULT with the page', () => {
    const { vm, vcpu, kernel } = guest({ code: [0xb8, 0, 0x30, 0x8e, 0xd8, 0xa0, 0x10, 0x40, 0xf4] });
    vm.setUserMemoryRegion({ slot: 1, guest_phys_addr: 0x34000, memory_size: 0x1000, userspace_addr: 0x1000_0000 });
    expect(kernel.ioctl(vcpu.fd, IOCTL.KVM_RUN)).toBe(-ERRNO.EFAULT);
    expect(vcpu.page.exitReason).toBe(EXIT.KVM_EXIT_MEMORY_FAULT);
    expect(RunMemoryFault.load(vcpu.page.view)).toMatchObject({ gpa: 0x34000n, size: 0x1000n });
  });

  it('and is logged: written pages once each', () => {
    // mov [0x2000], al; mov [0x5000], al; hlt
    const code = [0xa2, 0, 0x20, 0xa2, 0, 0x50, 0xf4];
    const { vm, vcpu, kvm, memory } = guest({ code });
    vm.setUserMemoryRegion({
      slot: 0,
      guest_phys_addr: 0,
      memory_size: RAM,
      userspace_addr: memory.hva,
      flags: KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES,
    });
    const bitmap = kvm.allocate(0x1000);
    const pages = (): number[] => {
      vm.getDirtyLog(0, bitmap);
      return [...Array(RAM / 0x1000).keys()].filter((page) => ((bitmap.bytes[page >> 3] as number) >> (page & 7)) & 1);
    };
    for (let round = 0; round < 2; round++) {
      expect(run(vcpu)).toBe(HLT);
      expect(pages()).toEqual([2, 5]);
      expect(pages()).toEqual([]);
      start(vcpu, CODE);
    }
  });
});

describe('interrupts', () => {
  const HANDLER = [0xe6, 0x20, 0xcf]; // out 0x20, al; iret
  const withHandler = (code: readonly number[], options: Partial<Options> = {}) => {
    const made = guest({ code, ...options });
    made.ram.set(HANDLER, 0x3000);
    for (const vector of [2, 0x30, 0x31]) made.ram.set([0, 0x30, 0, 0], 4 * vector);
    return made;
  };

  it('are delivered when the guest can take them', () => {
    const { vcpu } = withHandler([0x90, 0xf4], { flags: 0x202n });
    vcpu.interrupt(0x30);
    expect(run(vcpu)).toBe(IO);
    expect(vcpu.page.ioPort).toBe(0x20);
    expect(vcpu.page.bytes[13]).toBe(0); // if_flag: the delivery cleared IF
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.page.readyForInterruptInjection).toBe(true);
  });

  it('wait for the window, which opens after the shadow of STI', () => {
    // cli; in al, 0x10; sti; nop; nop; hlt
    const { vcpu } = withHandler([0xfa, 0xe4, 0x10, 0xfb, 0x90, 0x90, 0xf4]);
    expect(run(vcpu)).toBe(IO);
    expect(vcpu.page.readyForInterruptInjection).toBe(false);
    vcpu.page.requestInterruptWindow = true;
    expect(run(vcpu)).toBe('KVM_EXIT_IRQ_WINDOW_OPEN');
    expect(vcpu.getRegs().rip).toBe(0x1005n); // one instruction after STI
    expect(vcpu.page.readyForInterruptInjection).toBe(true);
    vcpu.page.requestInterruptWindow = false;
    vcpu.interrupt(0x31);
    expect(run(vcpu)).toBe(IO);
    expect(vcpu.page.ioPort).toBe(0x20);
    expect(run(vcpu)).toBe(HLT);
  });

  it('injected where the guest cannot take them fail the entry', () => {
    const { vcpu } = withHandler([0x90, 0xf4]);
    vcpu.interrupt(0x30);
    expect(run(vcpu)).toBe('KVM_EXIT_FAIL_ENTRY');
    expect(RunFailEntry.load(vcpu.page.view).hardware_entry_failure_reason).toBe(0x80000021n);
  });

  it('that are not maskable need no window, and do not nest', () => {
    // nop; nop; hlt, IF clear
    const { vcpu } = withHandler([0x90, 0x90, 0xf4]);
    vcpu.nmi();
    vcpu.nmi();
    expect(run(vcpu)).toBe(IO);
    expect(vcpu.getRegs().rsp).toBe(0x8000n - 6n);
    expect(run(vcpu)).toBe(IO); // the second, after the first one's IRET
    expect(vcpu.getRegs().rsp).toBe(0x8000n - 6n);
    expect(run(vcpu)).toBe(HLT);
  });

  it('whose delivery is interrupted by a first touch of the stack arrive once', () => {
    const { vcpu, ram } = withHandler([0xf4], { flags: 0x202n });
    vcpu.setRegs({ ...vcpu.getRegs(), rsp: 0x9000n });
    vcpu.interrupt(0x30);
    expect(run(vcpu)).toBe(IO);
    expect([...ram.subarray(0x8ffa, 0x9000)]).toEqual([0, 0x10, 0, 0, 2, 2]);
    expect(run(vcpu)).toBe(HLT);
  });
});

describe('coming back', () => {
  const LOOP = [0xeb, 0xfe];

  it('at the bound, again and again, exactly', () => {
    // inc ax; jmp -3
    const rounds = (): bigint[] => {
      const { vcpu } = guest({ code: [0x40, 0xeb, 0xfd], bound: 1000 });
      return [0, 1, 2, 3].map(() => {
        expect(run(vcpu)).toBe('KVM_EXIT_INTR');
        expect(vcpu.page.exitReason).toBe(EXIT.KVM_EXIT_INTR);
        return vcpu.getRegs().rax;
      });
    };
    const counts = rounds();
    expect(counts.slice(1).map((count, n) => count - (counts[n] as bigint))).toEqual([500n, 500n, 500n]);
    expect(rounds()).toEqual(counts); // the first run also fetched its page
  });

  it('at a signal, unless it is masked', () => {
    const { vcpu, kernel } = guest({ code: [0xe6, 0x10, 0xeb, 0xfc] });
    expect(run(vcpu)).toBe(IO);
    expect(kernel.loop.signal(vcpu.fd)).toBe(true);
    expect(run(vcpu)).toBe('KVM_EXIT_INTR');
    expect(run(vcpu)).toBe(IO);
    const mask = new Uint8Array(12);
    new DataView(mask.buffer).setUint32(0, 8, true);
    new DataView(mask.buffer).setBigUint64(4, 1n << 9n, true); // SIGUSR1
    expect(kernel.ioctl(vcpu.fd, IOCTL.KVM_SET_SIGNAL_MASK, mask)).toBe(0);
    kernel.loop.signal(vcpu.fd);
    expect(run(vcpu)).toBe(IO);
    kernel.ioctl(vcpu.fd, IOCTL.KVM_SET_SIGNAL_MASK, 0);
    expect(run(vcpu)).toBe('KVM_EXIT_INTR'); // it had stayed pending
    expect(kernel.loop.signal(3)).toBe(false);
  });

  it('at once, when told to', () => {
    const { vcpu } = guest({ code: LOOP });
    vcpu.page.immediateExit = true;
    expect(run(vcpu)).toBe('KVM_EXIT_INTR');
    expect(vcpu.getRegs().rip).toBe(0x1000n);
  });

  it('from a guest that retires nothing', () => {
    // An exception handler that is itself undefined, with a stack that wraps for ever.
    const { vcpu, ram } = guest({ code: [0x0f, 0x0b], bound: 5000 });
    ram.set([0x00, 0x10, 0, 0], 4 * 6);
    expect(run(vcpu)).toBe('KVM_EXIT_INTR');
  });

  it('from a guest that only exits', () => {
    const { vcpu } = guest({ code: [0x0f, 0xa2, 0xeb, 0xfc], bound: 1000 }); // cpuid; jmp
    expect(run(vcpu)).toBe('KVM_EXIT_INTR');
  });

  it('on a triple fault', () => {
    // lidt [0x2000] (limit 0); int3
    const { vcpu, ram } = guest({ code: [0x0f, 0x01, 0x1e, 0, 0x20, 0xcc] });
    ram.fill(0, 0x2000, 0x2006);
    expect(run(vcpu)).toBe('KVM_EXIT_SHUTDOWN');
    expect(run(vcpu)).toBe('KVM_EXIT_SHUTDOWN');
  });

  it('with an entry that the hardware refuses', () => {
    const { vcpu } = guest({ code: LOOP });
    const { ss } = vcpu.getSregs();
    vcpu.setSregs({ cr0: 0x60000011n, ss: { ...ss, type: 1 } }); // a stack that is not writable
    expect(run(vcpu)).toBe('KVM_EXIT_FAIL_ENTRY');
    expect(RunFailEntry.load(vcpu.page.view).hardware_entry_failure_reason).toBe(0x80000021n);
  });

  it('refused: an argument, a task priority above 15, unknown register groups', () => {
    const { vcpu, kernel } = guest({ code: LOOP });
    expect(kernel.ioctl(vcpu.fd, IOCTL.KVM_RUN, 1)).toBe(-ERRNO.EINVAL);
    vcpu.page.view.setBigUint64(16, 16n, true);
    expect(kernel.ioctl(vcpu.fd, IOCTL.KVM_RUN)).toBe(-ERRNO.EINVAL);
    vcpu.page.view.setBigUint64(16, 0n, true);
    vcpu.page.view.setBigUint64(288, 8n, true);
    expect(kernel.ioctl(vcpu.fd, IOCTL.KVM_RUN)).toBe(-ERRNO.EINVAL);
  });

  it('with registers in the page, in both directions', () => {
    const { vcpu } = guest({ code: [0x40, 0xf4] }); // inc ax; hlt
    const { view, bytes } = vcpu.page;
    vcpu.page.view.setBigUint64(288, 1n, true);
    view.setBigUint64(296, 1n, true);
    bytes.set(KvmRegs.encode({ rax: 41n, rip: 0x1000n, rflags: 2n }), 304);
    expect(run(vcpu)).toBe(HLT);
    expect(KvmRegs.load(view, 304)).toMatchObject({ rax: 42n, rip: 0x1002n });
    expect(view.getBigUint64(296, true)).toBe(0n);
  });
});

describe('in the kernel', () => {
  it('CPUID answers from the table', () => {
    // mov eax, 1; cpuid; hlt; then leaf 0x80000099
    const { vcpu } = guest({ code: [0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0xf4, 0x66, 0xb8, 0x99, 0, 0, 0x80, 0x0f, 0xa2, 0xf4] });
    const leaf = (fn: number, eax: number) => ({ function: fn, index: 0, flags: 0, eax, ebx: 2, ecx: 3, edx: 4 });
    vcpu.setCpuid2([leaf(0, 1), leaf(1, 0x606a0), leaf(0x80000000, 0x80000001)]);
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs()).toMatchObject({ rax: 0x606a0n, rbx: 2n, rcx: 3n, rdx: 4n });
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rax).toBe(0x606a0n); // beyond the last leaf: the highest basic one
  });

  it('MSRs are kept, and unknown ones are #GP', () => {
    // mov ecx, 0x277 (PAT); rdmsr; out 0x10, al; mov ecx, 0x12345; rdmsr; hlt
    const code = [0x66, 0xb9, 0x77, 2, 0, 0, 0x0f, 0x32, 0xe6, 0x10, 0x66, 0xb9, 0x45, 0x23, 1, 0, 0x0f, 0x32, 0xf4];
    const { vcpu, ram } = guest({ code });
    ram.set([0, 0x30, 0, 0], 4 * 13);
    ram.set([0xf4], 0x3000);
    expect(run(vcpu)).toBe(IO);
    expect(vcpu.getRegs()).toMatchObject({ rax: 0x00070406n, rdx: 0x00070406n });
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rip).toBe(0x3001n);
  });

  it('protected mode is entered by MOV to CR0', () => {
    // lgdt [0x2000]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:0x1100; at 0x1100 (32-bit): mov eax, 0x12345678; hlt
    const { vcpu, ram } = guest({
      code: [0x0f, 0x01, 0x16, 0, 0x20, 0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, 0xea, 0x00, 0x11, 8, 0],
    });
    ram.set([0xb8, 0x78, 0x56, 0x34, 0x12, 0xf4], 0x1100);
    ram.set([0x0f, 0, 0x10, 0x20, 0, 0], 0x2000);
    ram.set([0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0], 0x2018);
    expect(run(vcpu)).toBe(HLT);
    expect(vcpu.getRegs().rax).toBe(0x12345678n);
    expect(vcpu.getSregs().cr0 & 1n).toBe(1n);
  });

  it('lowering CR8 tells the VMM', () => {
    // mov cr8 needs REX: 64-bit code. mov eax, 5; mov cr8, rax; xor eax, eax; mov cr8, rax; hlt
    const { vcpu, ram } = guest({ code: [0xb8, 5, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0, 0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0, 0xf4] });
    enterLongMode(vcpu, ram);
    expect(run(vcpu)).toBe('KVM_EXIT_SET_TPR');
    expect(vcpu.page.view.getBigUint64(16, true)).toBe(0n);
    expect(run(vcpu)).toBe(HLT);
  });
});

/** 64-bit code with the first 2 MiB mapped. */
function enterLongMode(vcpu: Vcpu, ram: Uint8Array): void {
  const tables = new DataView(ram.buffer, ram.byteOffset, ram.length);
  tables.setBigUint64(0x10000, 0x11003n, true);
  tables.setBigUint64(0x11000, 0x12003n, true);
  tables.setBigUint64(0x12000, 0x83n, true);
  tables.setBigUint64(0x12008, 0x00200000n | 0x83n, true);
  const { cs, ss } = vcpu.getSregs();
  const code = { ...cs, base: 0n, selector: 8, limit: 0xffffffff, g: 1, l: 1, db: 0, type: 11 };
  vcpu.setSregs({ cr0: 0x80000011n, cr3: 0x10000n, cr4: 0x20n, efer: 0x500n, cs: code, ss: { ...ss, limit: 0xffffffff, g: 1, db: 1 } });
}

describe('a 64-bit guest', () => {
  it('reaches devices through its own page tables, eight bytes at a time', () => {
    // mov rax, [0x200008]; mov [0x200010], rax; hlt     (absolute addresses by SIB)
    const { vcpu, ram } = guest({
      code: [0x48, 0x8b, 0x04, 0x25, 8, 0, 0x20, 0, 0x48, 0x89, 0x04, 0x25, 0x10, 0, 0x20, 0, 0xf4],
    });
    enterLongMode(vcpu, ram);
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0x200008, len: 8, write: false, value: null });
    answer(vcpu, 0x0102030405060708n);
    expect(run(vcpu)).toBe(MMIO);
    expect(mmio(vcpu)).toEqual({ gpa: 0x200010, len: 8, write: true, value: 0x0102030405060708n });
    expect(run(vcpu)).toBe(HLT);
    expect(ram[0x12008]).toBe(0xe3); // accessed and dirty
  });
});
