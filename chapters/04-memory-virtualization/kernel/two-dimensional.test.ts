import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { AR } from '../../01-hardware-background/state.ts';
import { Recorder } from '../../01-hardware-background/trace.ts';
import { exitName } from '../../02-kvm-objects/abi/exits.ts';
import { IOCTL } from '../../02-kvm-objects/abi/ioctls.ts';
import { KVM_MEM } from '../../02-kvm-objects/abi/memory.ts';
import { Kvm, type Vcpu } from '../../02-kvm-objects/kvm.ts';
import { LEVEL } from './ept-tables.ts';
import { type MemoryKernelOptions, memoryKernel } from './index.ts';
import { runs } from './runs.ts';
import { TwoDimensional } from './two-dimensional.ts';

const MiB = 1 << 20;
const CODE = 0x1000;
const { KVM_MEM_LOG_DIRTY_PAGES: LOG, KVM_MEM_READONLY: READONLY } = KVM_MEM;

/** A guest in flat 32-bit protected mode without paging; slot 0 has `ram` bytes from 0. */
function guest({ ram = 16 * MiB, before = 0, ...options }: MemoryKernelOptions & { ram?: number; before?: number } = {}) {
  const trace = new Recorder({ only: ['kvm_exit', 'kvm_page_fault'] });
  const kernel = memoryKernel({ ramBytes: 32 * MiB, trace, ...options });
  const kvm = Kvm.open(kernel);
  if (before > 0) kvm.allocate(before);
  const vm = kvm.createVm();
  const memory = kvm.allocate(ram);
  const slot = (fields: { slot?: number; gpa?: number; bytes?: number; hva?: number; flags?: number }): void => {
    const { slot: id = 0, gpa = 0, bytes = ram, hva = memory.hva, flags = 0 } = fields;
    vm.setUserMemoryRegion({ slot: id, guest_phys_addr: gpa, memory_size: bytes, userspace_addr: hva, flags });
  };
  slot({});
  const vcpu = vm.createVcpu(0);
  const behind = kernel.vcpuBehind(vcpu.fd);
  const mmu = behind?.vm.mmu;
  if (!(mmu instanceof TwoDimensional)) throw new Error('another method');
  const sregs = vcpu.getSregs();
  const flat = { ...sregs.ds, base: 0n, limit: 0xffffffff, g: 1, db: 1, selector: 16, type: 3, s: 1, present: 1, unusable: 0 };
  vcpu.setSregs({ ...sregs, cr0: sregs.cr0 | 1n, cs: { ...flat, type: 0xb, selector: 8 }, ds: flat, es: flat, ss: flat });
  return { kernel, kvm, vm, vcpu, memory, mmu, trace, slot };
}

type Guest = ReturnType<typeof guest>;

function run({ vcpu, memory }: { vcpu: Vcpu; memory: { bytes: Uint8Array } }, code: readonly number[]): string {
  memory.bytes.set(code, CODE);
  vcpu.setRegs({ rip: BigInt(CODE), rsp: 0x800n, rflags: 2n });
  for (;;) {
    const reason = exitName(vcpu.run());
    if (reason !== 'KVM_EXIT_INTR') return reason;
  }
}

const word = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, (n >>> 24) & 0xff];
/** Writes one byte to each page of a range: mov edi, from; l: mov byte [edi], 1; add edi, 4096; cmp edi, to; jb l; hlt. */
const touch = (from: number, to: number): number[] => [
  0xbf,
  ...word(from),
  0xc6,
  0x07,
  1,
  0x81,
  0xc7,
  0,
  0x10,
  0,
  0,
  0x81,
  0xff,
  ...word(to),
  0x72,
  0xef,
  0xf4,
];
const store = (at: number): number[] => [0xc6, 0x05, ...word(at), 1];
const HLT = 0xf4;

const violations = ({ trace }: Guest): number => trace.of('kvm_exit').filter(({ reason }) => reason === 'EPT_VIOLATION').length;

describe('the size of a page', () => {
  it('is as large as slot and memory allow: 8 MiB are touched with few exits', () => {
    const counts = [LEVEL.PAGE_4K, LEVEL.PAGE_2M].map((largest) => {
      const machine = guest({ largest });
      expect(run(machine, touch(4 * MiB, 12 * MiB))).toBe('KVM_EXIT_HLT');
      return violations(machine);
    });
    expect(counts).toEqual([1 + 8 * 256, 1 + 4]); // the one is the code's own page
  });

  it('is small where guest and host disagree about the alignment', () => {
    const machine = guest({ ram: MiB });
    const memory = machine.kvm.allocate(6 * MiB);
    machine.slot({ slot: 1, gpa: 4 * MiB, bytes: 4 * MiB, hva: memory.hva + PAGE_BYTES });
    expect(run(machine, [...store(4 * MiB), ...store(6 * MiB), HLT])).toBe('KVM_EXIT_HLT');
    expect(machine.mmu.tree.census()).toEqual([0, 3, 0, 0]);
  });

  it('is small at the ends of a slot that is not made of large pages', () => {
    const machine = guest({ ram: MiB });
    const memory = machine.kvm.allocate(8 * MiB);
    machine.slot({ slot: 1, gpa: 4 * MiB + PAGE_BYTES, bytes: 4 * MiB, hva: memory.hva + PAGE_BYTES });
    expect(run(machine, [...store(5 * MiB), ...store(7 * MiB), ...store(8 * MiB), HLT])).toBe('KVM_EXIT_HLT');
    expect(machine.mmu.tree.find(5 * MiB)?.level).toBe(LEVEL.PAGE_4K); // the first 2 MiB lack a page
    expect(machine.mmu.tree.find(7 * MiB)?.level).toBe(LEVEL.PAGE_2M);
    expect(machine.mmu.tree.find(8 * MiB)?.level).toBe(LEVEL.PAGE_4K);
  });

  it('can be 1 GiB', () => {
    const machine = guest({ ram: 1024 * MiB, ramBytes: 1040 * MiB });
    expect(run(machine, [...store(900 * MiB), HLT])).toBe('KVM_EXIT_HLT');
    expect(machine.mmu.tree.census()).toEqual([0, 0, 0, 1]);
    expect(machine.memory.bytes[900 * MiB]).toBe(1);
  });
});

describe('dirty logging', () => {
  it('splits what was large, and its end makes it large again', () => {
    const machine = guest();
    run(machine, touch(4 * MiB, 8 * MiB));
    expect(machine.mmu.tree.census()).toEqual([0, 0, 3, 0]);
    machine.slot({ flags: LOG });
    expect(machine.mmu.tree.census()).toEqual([0, 3 * 512, 0, 0]);
    const bitmap = machine.kvm.allocate(PAGE_BYTES);
    const before = violations(machine);
    run(machine, [...store(5 * MiB), ...store(5 * MiB + 1), ...store(6 * MiB), HLT]);
    expect(violations(machine) - before).toBe(2);
    machine.vm.getDirtyLog(0, bitmap);
    const bits = [...bitmap.bytes.keys()].filter((n) => bitmap.bytes[n] !== 0);
    expect(bits).toEqual([(5 * MiB) / PAGE_BYTES / 8, (6 * MiB) / PAGE_BYTES / 8]);
    machine.slot({});
    run(machine, touch(4 * MiB, 8 * MiB));
    expect(machine.mmu.tree.census()).toEqual([0, 0, 3, 0]);
  });

  it('protects again only what was written', () => {
    const machine = guest();
    machine.slot({ flags: LOG });
    const bitmap = machine.kvm.allocate(PAGE_BYTES);
    run(machine, touch(4 * MiB, 5 * MiB));
    machine.vm.getDirtyLog(0, bitmap);
    const before = violations(machine);
    run(machine, touch(4 * MiB, 5 * MiB));
    expect(violations(machine) - before).toBe(256); // each once more, and the code's page was only read
  });
});

describe('dirty bits instead of protection', () => {
  it('cost no exit, and miss nothing', () => {
    const machine = guest({ dirty: 'bits' });
    machine.slot({ flags: LOG });
    const bitmap = machine.kvm.allocate(PAGE_BYTES);
    const pages = (): number[] => {
      machine.vm.getDirtyLog(0, bitmap);
      return Array.from({ length: 4096 }, (_, n) => n).filter((n) => ((bitmap.bytes[n >> 3] as number) >> (n & 7)) & 1);
    };
    run(machine, touch(4 * MiB, 5 * MiB)); // every page is mapped now
    expect(pages()).toEqual(Array.from({ length: 256 }, (_, n) => 1024 + n));
    const before = violations(machine);
    for (let round = 0; round < 3; round++) {
      run(machine, touch(4 * MiB, 5 * MiB));
      expect(pages()).toHaveLength(256);
      expect(pages()).toEqual([]);
    }
    expect(violations(machine)).toBe(before);
  });

  it('are read before their entries go', () => {
    const machine = guest({ dirty: 'bits' });
    const extra = machine.kvm.allocate(4 * MiB);
    const bitmap = machine.kvm.allocate(PAGE_BYTES);
    machine.slot({ slot: 1, gpa: 64 * MiB, bytes: 4 * MiB, hva: extra.hva, flags: LOG });
    for (const disturb of [
      () => machine.mmu.zapAll(),
      () => {
        machine.mmu.tableLimit = 1; // all too many
        machine.mmu.tableLimit = 64;
      },
      () => machine.slot({ slot: 1, gpa: 96 * MiB, bytes: 4 * MiB, hva: extra.hva, flags: LOG }),
    ]) {
      run(machine, [...store(64 * MiB + 0x3000), HLT]);
      disturb();
      machine.vm.getDirtyLog(1, bitmap);
      expect(bitmap.bytes[0]).toBe(1 << 3);
    }
  });
});

describe('a slot that goes', () => {
  it('takes its own translations and leaves the others', () => {
    const machine = guest();
    const extra = machine.kvm.allocate(4 * MiB);
    machine.slot({ slot: 1, gpa: 64 * MiB, bytes: 4 * MiB, hva: extra.hva });
    run(machine, [...touch(4 * MiB, 8 * MiB).slice(0, -1), ...store(64 * MiB), HLT]);
    expect(machine.mmu.tree.census()).toEqual([0, 0, 4, 0]);
    machine.slot({ slot: 1, bytes: 0 });
    expect(machine.mmu.tree.census()).toEqual([0, 0, 3, 0]);
    const before = violations(machine);
    expect(run(machine, [...touch(4 * MiB, 8 * MiB)])).toBe('KVM_EXIT_HLT');
    expect(violations(machine)).toBe(before);
  });

  it('is forgotten by the processor too', () => {
    const machine = guest();
    const extra = machine.kvm.allocate(4 * MiB);
    machine.slot({ slot: 1, gpa: 64 * MiB, bytes: 4 * MiB, hva: extra.hva });
    expect(run(machine, [...store(64 * MiB), HLT])).toBe('KVM_EXIT_HLT');
    machine.slot({ slot: 1, bytes: 0 });
    expect(run(machine, [...store(64 * MiB), HLT])).toBe('KVM_EXIT_MMIO');
  });

  it('takes its translations when its memory does', () => {
    const machine = guest();
    const extra = machine.kvm.allocate(4 * MiB);
    machine.slot({ slot: 1, gpa: 64 * MiB, bytes: 4 * MiB, hva: extra.hva });
    run(machine, [...store(64 * MiB), HLT]);
    machine.kernel.free(extra.hva);
    expect(machine.mmu.tree.find(64 * MiB)).toBeNull();
    expect(machine.mmu.tree.find(CODE)).not.toBeNull();
    expect(run(machine, [...store(64 * MiB), HLT])).toBe('KVM_EXIT_MEMORY_FAULT');
  });

  it('takes the marks of devices with it when it comes', () => {
    const machine = guest();
    expect(run(machine, [...store(64 * MiB), HLT])).toBe('KVM_EXIT_MMIO');
    expect(machine.mmu.tree.census()[0]).toBe(1);
    const extra = machine.kvm.allocate(4 * MiB);
    machine.slot({ slot: 1, gpa: 64 * MiB, bytes: 4 * MiB, hva: extra.hva, flags: READONLY });
    expect(machine.mmu.tree.census()[0]).toBe(0);
  });
});

describe('the limit of tables', () => {
  it('holds whatever the guest touches', () => {
    const machine = guest();
    machine.kernel.ioctl(machine.vm.fd, IOCTL.KVM_SET_NR_MMU_PAGES, 64);
    const { cs } = machine.vcpu.getSregs();
    expect(cs.type & AR.TYPE).toBe(0xb);
    for (let n = 1; n < 400; n++) machine.mmu.fault((n * 2 ** 31) % 2 ** 40, false);
    expect(machine.mmu.tables).toBeLessThanOrEqual(64 + 3);
    expect(run(machine, [...store(4 * MiB), HLT])).toBe('KVM_EXIT_HLT');
  });

  it('lets what the guest uses stay', () => {
    const machine = guest();
    run(machine, [HLT]);
    for (let n = 1; n < 400; n++) machine.mmu.fault((n * 2 ** 31) % 2 ** 40, false);
    run(machine, [HLT]);
    expect(machine.mmu.tree.find(CODE)).not.toBeNull();
  });
});

describe('the runs of a mask', () => {
  it.each([
    [[0x00, 0x00], 16, []],
    [[0xff, 0xff], 16, [[0, 16]]],
    [[0xff, 0xff], 11, [[0, 11]]],
    [
      [0b1000_0001, 0b0000_0001],
      16,
      [
        [0, 1],
        [7, 2],
      ],
    ],
    [[0, 0b0100_0000, 0], 24, [[14, 1]]],
  ] as [number[], number, number[][]][])('%j of %i bits', (mask, count, expected) => {
    expect([...runs(Uint8Array.from(mask), count)]).toEqual(expected);
  });
});
