import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { CR4, OFFSET } from '../../01-hardware-background/state.ts';
import { Recorder } from '../../01-hardware-background/trace.ts';
import { IOCTL } from '../abi/ioctls.ts';
import { KVM_MEM, KvmTranslation, KvmUserspaceMemoryRegion } from '../abi/memory.ts';
import { KvmRegs, KvmSregs, KvmXsave, U64 } from '../abi/registers.ts';
import { ERRNO } from '../errno.ts';
import { O_RDWR } from '../kernel.ts';
import { Ept } from './ept.ts';
import { LazyEpt } from './lazy-ept.ts';
import type { RamOwners } from './memory.ts';
import { SoftKernel } from './soft-kernel.ts';
import type { SoftVm } from './vm.ts';

/** Bits of an EPT entry: read, write, execute, write-back. */
const EPT_ENTRY = { READ: 1, WRITE: 2, EXECUTE: 4, MEMORY_TYPE_WB: 6 << 3 } as const;
/** Where user memory begins. */
const USER_BASE = 0x7f00_0000_0000;

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

function setUp(options = {}) {
  const kernel = new SoftKernel({ ramBytes: 4 << 20, ...options });
  const system = kernel.open('/dev/kvm', O_RDWR);
  const vm = kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0);
  const vcpu = kernel.ioctl(vm, IOCTL.KVM_CREATE_VCPU, 0);
  return { kernel, system, vm, vcpu };
}

const vmxe = (kernel: SoftKernel): boolean => (kernel.hardware.cpu.state.low32(OFFSET.CR4) & CR4.VMXE) !== 0;

function region(kernel: SoftKernel, vm: number, gpa: number, bytes: number, hva: number, { slot = 0, flags = 0 } = {}): number {
  return kernel.ioctl(
    vm,
    IOCTL.KVM_SET_USER_MEMORY_REGION,
    KvmUserspaceMemoryRegion.encode({
      slot,
      flags,
      guest_phys_addr: BigInt(gpa),
      memory_size: BigInt(bytes),
      userspace_addr: BigInt(hva),
    }),
  );
}

/** The default method's own half. */
const eptOf = (vm: SoftVm): LazyEpt => {
  if (!(vm.mmu instanceof LazyEpt)) throw new Error('another method');
  return vm.mmu;
};

const vmBehind = (kernel: SoftKernel, vcpu: number): SoftVm => {
  const behind = kernel.vcpuBehind(vcpu);
  if (!behind) throw new Error('no vCPU');
  return behind.vm;
};

describe('descriptors', () => {
  it('are the lowest free numbers and lead where Linux says', () => {
    const { kernel, system, vm, vcpu } = setUp();
    expect([system, vm, vcpu]).toEqual([3, 4, 5]);
    expect([system, vm, vcpu].map((fd) => kernel.describe(fd))).toEqual(['/dev/kvm', 'anon_inode:kvm-vm', 'anon_inode:kvm-vcpu:0']);
    kernel.close(system);
    expect(kernel.describe(system)).toBeNull();
    expect(kernel.open('/dev/kvm', O_RDWR)).toBe(3);
    expect(kernel.close(99)).toBe(-ERRNO.EBADF);
  });

  it('run out with EMFILE, and a VM that got none is gone', () => {
    const kernel = new SoftKernel({ ramBytes: 4 << 20 });
    let last = 0;
    for (let n = 0; n < 2000 && last >= 0; n++) last = kernel.open('/dev/kvm', O_RDWR);
    expect(last).toBe(-ERRNO.EMFILE);
    expect(kernel.ioctl(3, IOCTL.KVM_CREATE_VM, 0)).toBe(-ERRNO.EMFILE);
    expect(kernel.hardware.enabled).toBe(false);
  });
});

describe('VMX operation', () => {
  it('begins with the first VM and ends with the last reference', () => {
    const trace = new Recorder();
    const kernel = new SoftKernel({ ramBytes: 4 << 20, trace });
    const system = kernel.open('/dev/kvm', O_RDWR);
    expect(vmxe(kernel)).toBe(false);
    const first = kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0);
    expect(vmxe(kernel)).toBe(true);
    const second = kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0);
    const vcpu = kernel.ioctl(second, IOCTL.KVM_CREATE_VCPU, 0);
    kernel.close(first);
    kernel.close(second); // its vCPU still refers to it
    expect(vmxe(kernel)).toBe(true);
    expect(kernel.ioctl(vcpu, IOCTL.KVM_GET_REGS, new Uint8Array(KvmRegs.bytes))).toBe(0);
    kernel.close(vcpu);
    expect(vmxe(kernel)).toBe(false);
    expect(trace.of('vmx').filter(({ what }) => what === 'vmxon' || what === 'vmxoff')).toHaveLength(2);
  });

  it('gives every page back', () => {
    const kernel = new SoftKernel({ ramBytes: 1 << 20 });
    const system = kernel.open('/dev/kvm', O_RDWR);
    for (let n = 0; n < 500; n++) {
      const vm = kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0);
      const vcpu = kernel.ioctl(vm, IOCTL.KVM_CREATE_VCPU, n % 7);
      expect(vm).toBeGreaterThan(0);
      expect(vcpu).toBeGreaterThan(0);
      kernel.close(vm);
      kernel.close(vcpu);
    }
  });

  it('answers ENOMEM when RAM is exhausted, and recovers', () => {
    const kernel = new SoftKernel({ ramBytes: 1 << 20 });
    const system = kernel.open('/dev/kvm', O_RDWR);
    const vm = kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0);
    const fds: number[] = [];
    let result = 0;
    for (let id = 0; id < 1024 && result >= 0; id++) {
      result = kernel.ioctl(vm, IOCTL.KVM_CREATE_VCPU, id);
      if (result >= 0) fds.push(result);
    }
    expect(result).toBe(-ERRNO.ENOMEM);
    for (const fd of [...fds, vm]) kernel.close(fd);
    expect(kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0)).toBeGreaterThan(0);
  });
});

describe('user memory', () => {
  it("is zeroed, page-aligned, found again by address, and never the kernel's", () => {
    const { kernel } = setUp();
    const a = kernel.allocate(PAGE_BYTES);
    const b = kernel.allocate(100);
    if (typeof a === 'number' || typeof b === 'number') throw new Error('no memory');
    expect(a.hva % PAGE_BYTES).toBe(0);
    expect(b.hva).toBe(a.hva + PAGE_BYTES);
    expect(b.bytes).toHaveLength(100);
    a.bytes.fill(7);
    expect(kernel.free(a.hva)).toBe(0);
    expect(kernel.free(a.hva)).toBe(-ERRNO.EINVAL);
    const again = kernel.allocate(10);
    if (typeof again === 'number') throw new Error('no memory');
    expect(again.hva).toBe(a.hva);
    expect([...again.bytes]).toEqual(new Array(10).fill(0));
    expect(kernel.allocate(1 << 30)).toBe(-ERRNO.ENOMEM);
    for (const bad of [0, -1, 1.5, Number.NaN]) expect(kernel.allocate(bad)).toBe(-ERRNO.EINVAL);
  });

  it('has an hpa only inside one allocation', () => {
    const { kernel } = setUp();
    const { ram } = kernel.hardware;
    const a = kernel.allocate(2 * PAGE_BYTES);
    if (typeof a === 'number') throw new Error('no memory');
    expect(ram.hpaOf(a.hva + 5)).toBe(5);
    expect(ram.hpaOf(a.hva + 2 * PAGE_BYTES - 1, 2)).toBe(-1);
    expect(ram.hpaOf(USER_BASE + kernel.hardware.memory.ramBytes - PAGE_BYTES)).toBe(-1); // a kernel page
    expect(ram.hpaOf(0)).toBe(-1);
  });
});

describe('second-stage tables', () => {
  const make = (): { ept: Ept; ram: RamOwners; kernel: SoftKernel } => {
    const kernel = new SoftKernel({ ramBytes: 1 << 20 });
    const { memory, ram } = kernel.hardware;
    return { kernel, ram, ept: new Ept(memory, ram) };
  };
  const walk = ({ kernel, ept }: ReturnType<typeof make>, gpa: number): bigint => {
    const { memory } = kernel.hardware;
    let table = ept.root;
    for (const shift of [39, 30, 21]) {
      const entry = memory.view.getBigUint64(memory.offset(table + (Math.floor(gpa / 2 ** shift) % 512) * 8, 8), true);
      if (!(entry & 7n)) return 0n;
      table = Number(entry & 0xffff_ffff_f000n);
    }
    return memory.view.getBigUint64(memory.offset(table + (Math.floor(gpa / 4096) % 512) * 8, 8), true);
  };

  it('map pages, mark devices, and forget', () => {
    const made = make();
    const { ept } = made;
    expect(ept.map(0x1000, 0x5000, true)).toBe(true);
    expect(ept.map(0xff_ffff_f000, 0x6000, false)).toBe(true);
    expect(ept.markMmio(0xfee0_0000)).toBe(true);
    expect(walk(made, 0x1000)).toBe(0x5000n | BigInt(EPT_ENTRY.READ | EPT_ENTRY.WRITE | EPT_ENTRY.EXECUTE | EPT_ENTRY.MEMORY_TYPE_WB));
    expect(walk(made, 0xff_ffff_f000)).toBe(0x6000n | BigInt(EPT_ENTRY.READ | EPT_ENTRY.EXECUTE | EPT_ENTRY.MEMORY_TYPE_WB));
    expect(walk(made, 0xfee0_0000) & 7n).toBe(6n);
    expect(walk(made, 0x2000)).toBe(0n);
    expect(ept.tables).toBeGreaterThan(3);
    ept.clear();
    expect(ept.tables).toBe(0);
    expect(walk(made, 0x1000)).toBe(0n);
  });

  it('lose write permission once', () => {
    const made = make();
    made.ept.map(0x3000, 0x3000, true);
    expect(made.ept.writeProtect(0, 0x10000)).toBe(1);
    expect(made.ept.writeProtect(0, 0x10000)).toBe(0);
    expect(walk(made, 0x3000) & 2n).toBe(0n);
  });

  it('are bounded, wherever the guest reaches', () => {
    const { kernel, vcpu } = setUp({ ramBytes: 2 << 20 });
    const vm = vmBehind(kernel, vcpu);
    for (let n = 0; n < 5000; n++) expect(eptOf(vm).fault((n * 2 ** 31) % 2 ** 40, false)).toEqual({ kind: 'device' });
    expect(vm.mmu.tables).toBeLessThan(200);
  });
});

describe('a memory slot', () => {
  it('leads to the very bytes of the VMM, and nowhere else', () => {
    const { kernel, vm, vcpu } = setUp();
    const memory = kernel.allocate(4 * PAGE_BYTES);
    if (typeof memory === 'number') throw new Error('no memory');
    expect(region(kernel, vm, 0x10000, 2 * PAGE_BYTES, memory.hva + PAGE_BYTES)).toBe(0);
    const guest = vmBehind(kernel, vcpu);
    expect(guest.hpaOf(0x10000, false)).toBe(PAGE_BYTES);
    expect(guest.hpaOf(0x10000 + 2 * PAGE_BYTES, false)).toBe(-1);
    expect(guest.hpaOf(0xffff, false)).toBe(-1);
    memory.bytes[PAGE_BYTES] = 0x5a;
    expect(guest.readEntry(0x10000, 4)).toBe(0x5an);
    expect(eptOf(guest).fault(0x10008, true)).toEqual({ kind: 'ram', hpa: PAGE_BYTES + 8, writable: true });
    expect(eptOf(guest).fault(0x20000, true)).toEqual({ kind: 'device' });
  });

  it('whose memory is not there is a hole, not a device', () => {
    const { kernel, vm, vcpu } = setUp();
    expect(region(kernel, vm, 0, PAGE_BYTES, USER_BASE + 0x10000)).toBe(0);
    expect(eptOf(vmBehind(kernel, vcpu)).fault(0, false)).toEqual({ kind: 'hole' });
  });

  it('that is read-only is memory for reads and a device for writes', () => {
    const { kernel, vm, vcpu } = setUp();
    const memory = kernel.allocate(PAGE_BYTES);
    if (typeof memory === 'number') throw new Error('no memory');
    region(kernel, vm, 0, PAGE_BYTES, memory.hva, { flags: KVM_MEM.KVM_MEM_READONLY });
    const guest = vmBehind(kernel, vcpu);
    expect(eptOf(guest).fault(0, false)).toMatchObject({ kind: 'ram', writable: false });
    expect(eptOf(guest).fault(0, true)).toEqual({ kind: 'device' });
  });

  it('takes its translations with it when its memory is freed', () => {
    const { kernel, vm, vcpu } = setUp();
    const memory = kernel.allocate(PAGE_BYTES);
    if (typeof memory === 'number') throw new Error('no memory');
    region(kernel, vm, 0, PAGE_BYTES, memory.hva);
    const guest = vmBehind(kernel, vcpu);
    eptOf(guest).fault(0, true);
    expect(guest.mmu.tables).toBe(3);
    kernel.free(memory.hva);
    expect(guest.mmu.tables).toBe(0);
  });
});

describe('KVM_TRANSLATE', () => {
  const PRESENT_WRITABLE = 3n;
  const translate = (kernel: SoftKernel, vcpu: number, linear: bigint) => {
    const arg = KvmTranslation.encode({ linear_address: linear });
    expect(kernel.ioctl(vcpu, IOCTL.KVM_TRANSLATE, arg)).toBe(0);
    const { physical_address, valid } = KvmTranslation.decode(arg);
    return valid ? physical_address : null;
  };
  const paged = (controls: { cr0: bigint; cr3: bigint; cr4: bigint; efer: bigint }) => {
    const made = setUp();
    const memory = made.kernel.allocate(64 * PAGE_BYTES);
    if (typeof memory === 'number') throw new Error('no memory');
    region(made.kernel, made.vm, 0, 64 * PAGE_BYTES, memory.hva);
    return {
      ...made,
      table: view(memory.bytes),
      enter() {
        const sregs = new Uint8Array(KvmSregs.bytes);
        made.kernel.ioctl(made.vcpu, IOCTL.KVM_GET_SREGS, sregs);
        KvmSregs.store(view(sregs), 0, controls);
        expect(made.kernel.ioctl(made.vcpu, IOCTL.KVM_SET_SREGS, sregs)).toBe(0);
      },
    };
  };

  it('walks four levels, with 4 KiB, 2 MiB and 1 GiB pages', () => {
    const m = paged({ cr0: 0x80000011n, cr3: 0x1000n, cr4: 0x20n, efer: 0x500n });
    m.table.setBigUint64(0x1000, 0x2000n | PRESENT_WRITABLE, true);
    m.table.setBigUint64(0x2000, 0x3000n | PRESENT_WRITABLE, true);
    m.table.setBigUint64(0x2008, 0x40000000n | 0x83n, true); // 1 GiB
    m.table.setBigUint64(0x3000, 0x4000n | PRESENT_WRITABLE, true);
    m.table.setBigUint64(0x3008, 0x00600000n | 0x83n, true); // 2 MiB
    m.table.setBigUint64(0x4008, 0x9000n | PRESENT_WRITABLE, true);
    m.enter();
    expect(translate(m.kernel, m.vcpu, 0x1abcn)).toBe(0x9abcn);
    expect(translate(m.kernel, m.vcpu, 0x21_2345n)).toBe(0x61_2345n);
    expect(translate(m.kernel, m.vcpu, 0x4123_4567n)).toBe(0x4123_4567n);
    expect(translate(m.kernel, m.vcpu, 0x2000n)).toBeNull();
    expect(translate(m.kernel, m.vcpu, 0xffff_8000_0000_0000n)).toBeNull();
  });

  it('walks PAE by its four registers', () => {
    const m = paged({ cr0: 0x80000011n, cr3: 0x1020n, cr4: 0x20n, efer: 0n });
    m.table.setBigUint64(0x1028, 0x2001n, true);
    m.table.setBigUint64(0x2000, 0x3000n | PRESENT_WRITABLE, true);
    m.table.setBigUint64(0x3000, 0x5000n | PRESENT_WRITABLE, true);
    m.enter();
    expect(translate(m.kernel, m.vcpu, 0x4000_0123n)).toBe(0x5123n);
    expect(translate(m.kernel, m.vcpu, 0x123n)).toBeNull();
  });

  it('walks two levels, with 4 MiB pages', () => {
    const m = paged({ cr0: 0x80000011n, cr3: 0x1000n, cr4: 0x10n, efer: 0n });
    m.table.setUint32(0x1000, 0x2003, true);
    m.table.setUint32(0x1004, 0x00c00083, true);
    m.table.setUint32(0x2000 + 4 * 3, 0x7003, true);
    m.enter();
    expect(translate(m.kernel, m.vcpu, 0x3456n)).toBe(0x7456n);
    expect(translate(m.kernel, m.vcpu, 0x41_2345n)).toBe(0xc1_2345n);
  });

  it('ends, whatever the tables hold', () => {
    const m = paged({ cr0: 0x80000011n, cr3: 0x1000n, cr4: 0x20n, efer: 0x500n });
    m.table.setBigUint64(0x1000, 0x1003n, true); // the root is its own child
    m.enter();
    expect(translate(m.kernel, m.vcpu, 0x123n)).toBe(0x1123n);
  });
});

describe('special registers', () => {
  it('show and take a queued interrupt in the bitmap', () => {
    const { kernel, vcpu } = setUp();
    const sregs = new Uint8Array(KvmSregs.bytes);
    kernel.ioctl(vcpu, IOCTL.KVM_GET_SREGS, sregs);
    U64.store(view(sregs), KvmSregs.fields.interrupt_bitmap.at(2), { value: 1n << 5n });
    expect(kernel.ioctl(vcpu, IOCTL.KVM_SET_SREGS, sregs)).toBe(0);
    const back = new Uint8Array(KvmSregs.bytes);
    kernel.ioctl(vcpu, IOCTL.KVM_GET_SREGS, back);
    expect(U64.load(view(back), KvmSregs.fields.interrupt_bitmap.at(2)).value).toBe(1n << 5n);
  });

  it('belong to one vCPU each, although the processor is one', () => {
    const { kernel, vm, vcpu } = setUp();
    const other = kernel.ioctl(vm, IOCTL.KVM_CREATE_VCPU, 1);
    const regs = (fd: number): ReturnType<typeof KvmRegs.decode> => {
      const bytes = new Uint8Array(KvmRegs.bytes);
      kernel.ioctl(fd, IOCTL.KVM_GET_REGS, bytes);
      return KvmRegs.decode(bytes);
    };
    kernel.ioctl(vcpu, IOCTL.KVM_SET_REGS, KvmRegs.encode({ rax: 1n, rsp: 11n, rip: 0x100n }));
    kernel.ioctl(other, IOCTL.KVM_SET_REGS, KvmRegs.encode({ rax: 2n, rsp: 22n, rip: 0x200n }));
    expect(regs(vcpu)).toMatchObject({ rax: 1n, rsp: 11n, rip: 0x100n });
    expect(regs(other)).toMatchObject({ rax: 2n, rsp: 22n, rip: 0x200n });
    const area = KvmXsave.encode();
    view(area).setBigUint64(512, 3n, true);
    view(area).setUint32(24, 0x1f80, true);
    area[160] = 0x77;
    expect(kernel.ioctl(vcpu, IOCTL.KVM_SET_XSAVE, area)).toBe(0);
    const back = new Uint8Array(KvmXsave.bytes);
    kernel.ioctl(other, IOCTL.KVM_GET_XSAVE, back);
    expect(back[160]).toBe(0);
    kernel.ioctl(vcpu, IOCTL.KVM_GET_XSAVE, back);
    expect(back[160]).toBe(0x77);
  });
});
