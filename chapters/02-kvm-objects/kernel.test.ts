// # One ABI, two kernels
//
// What a system call answers is the contract that the soft kernel and Linux share, so the same cases run on both. A case holds what Linux *measurably*
// answers; where the answer depends on the processor rather than on KVM, no case asks.

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CAP, KVM_API_VERSION } from './abi/capabilities.ts';
import { KvmMpState, KvmVcpuEvents, MP_STATE, VCPUEVENT } from './abi/events.ts';
import { KvmRun } from './abi/exits.ts';
import { IOCTL, type RequestName } from './abi/ioctls.ts';
import { KVM_MEM, KvmDirtyLog, KvmEnableCap, KvmTranslation, KvmUserspaceMemoryRegion } from './abi/memory.ts';
import {
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmDebugregs,
  KvmMsrEntry,
  KvmMsrList,
  KvmMsrs,
  KvmRegs,
  KvmSegment,
  KvmSregs,
  KvmXcrs,
} from './abi/registers.ts';
import { ERRNO, Errno, errnoName } from './errno.ts';
import { HostKernel, hostKernelAvailable } from './host/host-kernel.ts';
import { type Allocation, EFD, type Kernel, O_CLOEXEC, O_RDWR } from './kernel.ts';
import { Kvm } from './kvm.ts';
import { SoftKernel } from './soft/soft-kernel.ts';

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
/** Results as words, so that a failure reads `expected EINVAL, got EEXIST`. */
const named = (result: number): string | number => (result < 0 ? errnoName(-result) : result);

const host = hostKernelAvailable();
const kernels: { name: string; make: () => Kernel; reason: string | null }[] = [
  { name: 'soft', make: () => new SoftKernel(), reason: null },
  { name: 'host', make: () => new HostKernel(), reason: host.available ? null : host.reason },
];

for (const { name, make, reason } of kernels) {
  describe.skipIf(reason !== null)(`the ${name} kernel${reason ? ` (skipped: ${reason})` : ''}`, () => {
    let kernel: Kernel;
    let system: number;
    const ioctl = (fd: number, request: RequestName, arg: number | Uint8Array = 0): string | number => named(kernel.ioctl(fd, IOCTL[request], arg));
    const open: number[] = [];
    const keep = (fd: number): number => {
      expect(named(fd)).toBeTypeOf('number');
      open.push(fd);
      return fd;
    };
    const createVm = (): number => keep(kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0));
    const createVcpu = (vm: number, id = 0): number => keep(kernel.ioctl(vm, IOCTL.KVM_CREATE_VCPU, id));
    const allocate = (bytes: number): Allocation => {
      const result = kernel.allocate(bytes);
      if (typeof result === 'number') throw new Errno('mmap', -result);
      return result;
    };

    beforeAll(() => {
      kernel = make();
      system = kernel.open('/dev/kvm', O_RDWR | O_CLOEXEC);
    });
    afterAll(() => {
      for (const fd of open.reverse()) kernel.close(fd);
      kernel.close(system);
    });

    describe('an eventfd', () => {
      const word = (value: bigint): Uint8Array => new Uint8Array(BigUint64Array.of(value).buffer);
      const write = (fd: number, value: bigint): string | number => named(kernel.write(fd, word(value)));
      const read = (fd: number): string | bigint => {
        const bytes = new Uint8Array(8);
        const result = kernel.read(fd, bytes);
        return result < 0 ? errnoName(-result) : view(bytes).getBigUint64(0, true);
      };
      const create = (initial: number, flags = 0): number => keep(kernel.eventfd(initial, flags | EFD.EFD_NONBLOCK | EFD.EFD_CLOEXEC));

      it('adds what is written, and gives all of it at once', () => {
        const fd = create(3);
        expect(write(fd, 4n)).toBe(8);
        expect(read(fd)).toBe(7n);
        expect(read(fd)).toBe('EAGAIN');
      });
      it('gives one at a time when it is a semaphore', () => {
        const fd = create(2, EFD.EFD_SEMAPHORE);
        expect([read(fd), read(fd), read(fd)]).toEqual([1n, 1n, 'EAGAIN']);
      });
      it('does not overflow', () => {
        const fd = create(1);
        expect(write(fd, 0xffff_ffff_ffff_ffffn)).toBe('EINVAL');
        expect(write(fd, 0xffff_ffff_ffff_fffen)).toBe('EAGAIN');
        expect(write(fd, 0xffff_ffff_ffff_fffdn)).toBe(8);
        expect(write(fd, 1n)).toBe('EAGAIN');
        expect(write(fd, 0n)).toBe(8);
        expect(read(fd)).toBe(0xffff_ffff_ffff_fffen);
      });
      it('wants eight bytes', () => {
        const fd = create(1);
        expect(named(kernel.read(fd, new Uint8Array(7)))).toBe('EINVAL');
        expect(named(kernel.write(fd, new Uint8Array(7)))).toBe('EINVAL');
        const wide = new Uint8Array(16).fill(0xee);
        expect(kernel.read(fd, wide)).toBe(8);
        expect([...wide]).toEqual([1, 0, 0, 0, 0, 0, 0, 0, ...Array(8).fill(0xee)]);
      });
      it('knows its flags', () => expect(named(kernel.eventfd(0, 2))).toBe('EINVAL'));
      it('is a descriptor like another, and other descriptors are not it', () => {
        const fd = create(0);
        expect(ioctl(fd, 'KVM_RUN')).toBe('ENOTTY');
        expect(named(kernel.mmap(fd, 4096) as number)).toBe('ENODEV');
        expect(named(kernel.read(system, new Uint8Array(8)))).toBe('EINVAL');
        expect(named(kernel.write(system, new Uint8Array(8)))).toBe('EINVAL');
        expect(named(kernel.read(9999, new Uint8Array(8)))).toBe('EBADF');
        expect(named(kernel.write(9999, new Uint8Array(8)))).toBe('EBADF');
      });
    });

    describe('the clock', () => {
      it('goes forward, and sleeps until the moment has come', () => {
        const until = kernel.clock.now() + 3e6;
        kernel.clock.sleep(until);
        expect(kernel.clock.now()).toBeGreaterThanOrEqual(until - 1e5); // a host may wake a little early
        const now = kernel.clock.now();
        kernel.clock.sleep(now - 1e6);
        expect(kernel.clock.now()).toBeGreaterThanOrEqual(now);
      });
    });

    describe('the system descriptor', () => {
      it('is opened by name', () => {
        expect(named(system)).toBeTypeOf('number');
        expect(named(kernel.open('/dev/kvm-of-nobody', O_RDWR))).toBe('ENOENT');
      });
      it('has one API version, and takes no argument for it', () => {
        expect(ioctl(system, 'KVM_GET_API_VERSION')).toBe(KVM_API_VERSION);
        expect(ioctl(system, 'KVM_GET_API_VERSION', 1)).toBe('EINVAL');
      });
      it('says how much to map, and takes no argument for it', () => {
        const bytes = ioctl(system, 'KVM_GET_VCPU_MMAP_SIZE') as number;
        expect(bytes % 4096).toBe(0);
        expect(bytes).toBeGreaterThanOrEqual(2 * 4096); // the structure and its page of port data
        expect(ioctl(system, 'KVM_GET_VCPU_MMAP_SIZE', 1)).toBe('EINVAL');
      });
      it.each([1, 2, 5, 6, 99])('has no machine type %i', (type) => expect(ioctl(system, 'KVM_CREATE_VM', type)).toBe('EINVAL'));
      it('answers 0 for a capability that nobody has heard of', () => expect(ioctl(system, 'KVM_CHECK_EXTENSION', 99999)).toBe(0));
      it.each([
        'KVM_CAP_USER_MEMORY',
        'KVM_CAP_SET_TSS_ADDR',
        'KVM_CAP_EXT_CPUID',
        'KVM_CAP_MP_STATE',
        'KVM_CAP_VCPU_EVENTS',
        'KVM_CAP_DEBUGREGS',
        'KVM_CAP_CHECK_EXTENSION_VM',
      ] as const)('has %s', (cap) => {
        expect(ioctl(system, 'KVM_CHECK_EXTENSION', CAP[cap])).toBeGreaterThan(0);
      });
      it.each(['KVM_RUN', 'KVM_GET_REGS', 'KVM_CREATE_VCPU', 'KVM_SET_USER_MEMORY_REGION'] as const)('refuses %s with EINVAL', (request) => {
        expect(ioctl(system, request, new Uint8Array(4096))).toBe('EINVAL');
      });
      it("refuses requests that are nobody's", () => {
        expect(named(kernel.ioctl(system, 0xae7f))).toBe('EINVAL');
        expect(named(kernel.ioctl(system, 0x5401, new Uint8Array(64)))).toBe('EINVAL');
      });
      it('cannot be mapped', () => expect(named(kernel.mmap(system, 4096) as number)).toBe('ENODEV'));
      it('refuses a descriptor that is not open', () => {
        expect(ioctl(9999, 'KVM_GET_API_VERSION')).toBe('EBADF');
        expect(named(kernel.close(9999))).toBe('EBADF');
      });
      it('says how many MSRs there are before it lists them', () => {
        const head = KvmMsrList.encode({ nmsrs: 0 });
        expect(ioctl(system, 'KVM_GET_MSR_INDEX_LIST', head)).toBe('E2BIG');
        const { nmsrs } = KvmMsrList.decode(head);
        expect(nmsrs).toBeGreaterThan(5);
        const list = new Uint8Array(KvmMsrList.bytes + 4 * nmsrs);
        list.set(head);
        expect(ioctl(system, 'KVM_GET_MSR_INDEX_LIST', list)).toBe(0);
        expect([...new Uint32Array(list.buffer, 4, nmsrs)]).toEqual(expect.arrayContaining([0xc0000081, 0xc0000082, 0x174, 0x10]));
      });
      it('wants room for all CPUID leaves, and leaves the count alone when there is too little', () => {
        const arg = new Uint8Array(KvmCpuid2.bytes + KvmCpuidEntry2.bytes * 256);
        for (const nent of [0, 1]) {
          KvmCpuid2.store(view(arg), 0, { nent });
          expect(ioctl(system, 'KVM_GET_SUPPORTED_CPUID', arg)).toBe('E2BIG');
          expect(KvmCpuid2.decode(arg).nent).toBe(nent);
        }
        KvmCpuid2.store(view(arg), 0, { nent: 256 });
        expect(ioctl(system, 'KVM_GET_SUPPORTED_CPUID', arg)).toBe(0);
        expect(KvmCpuid2.decode(arg).nent).toBeGreaterThan(3);
        expect(KvmCpuidEntry2.load(view(arg), KvmCpuid2.bytes).function).toBe(0);
      });
    });

    describe('a VM descriptor', () => {
      it.each(['KVM_GET_API_VERSION', 'KVM_CREATE_VM', 'KVM_RUN', 'KVM_GET_REGS'] as const)('refuses %s with ENOTTY', (request) => {
        expect(ioctl(createVm(), request, 0)).toBe('ENOTTY');
      });
      it('cannot be mapped', () => expect(named(kernel.mmap(createVm(), 4096) as number)).toBe('ENODEV'));
      it('answers for capabilities', () => expect(ioctl(createVm(), 'KVM_CHECK_EXTENSION', CAP.KVM_CAP_USER_MEMORY)).toBe(1));
      it('has one vCPU for each id, below the limit', () => {
        const vm = createVm();
        const limit = ioctl(system, 'KVM_CHECK_EXTENSION', CAP.KVM_CAP_MAX_VCPU_ID) as number;
        createVcpu(vm, 0);
        expect(ioctl(vm, 'KVM_CREATE_VCPU', 0)).toBe('EEXIST');
        createVcpu(vm, 5); // ids may be sparse
        createVcpu(vm, limit - 1);
        expect(ioctl(vm, 'KVM_CREATE_VCPU', limit)).toBe('EINVAL');
        expect(ioctl(vm, 'KVM_CREATE_VCPU', 0xffffffff)).toBe('EINVAL');
      });
      it('takes the TSS address below 4 GiB', () => {
        const vm = createVm();
        expect(ioctl(vm, 'KVM_SET_TSS_ADDR', 0xfffbd000)).toBe(0);
        expect(ioctl(vm, 'KVM_SET_TSS_ADDR', 0x1_0000_0000)).toBe('EINVAL');
        expect(ioctl(vm, 'KVM_SET_TSS_ADDR', 0xfffff000)).toBe('EINVAL');
      });
      it('refuses to enable a capability that nobody has heard of', () => {
        expect(ioctl(createVm(), 'KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: 9999 }))).toBe('EINVAL');
      });
      it('has no interrupt line without an interrupt controller', () => {
        expect(ioctl(createVm(), 'KVM_IRQ_LINE', new Uint8Array(8))).toBe('ENXIO');
      });
    });

    describe('a memory slot', () => {
      let ram: Allocation;
      let vm: number;
      const SIZE = 0x10000n;
      interface Region {
        slot: number;
        flags: number;
        guest_phys_addr: bigint;
        memory_size: bigint;
        userspace_addr: bigint;
      }
      const set = (region: Partial<Region> = {}): string | number =>
        ioctl(
          vm,
          'KVM_SET_USER_MEMORY_REGION',
          KvmUserspaceMemoryRegion.encode({ slot: 0, flags: 0, guest_phys_addr: 0n, memory_size: SIZE, userspace_addr: BigInt(ram.hva), ...region }),
        );
      const remove = (slot = 0): string | number => set({ slot, memory_size: 0n });
      beforeAll(() => {
        ram = allocate(1 << 20);
        vm = createVm();
      });

      it.each([
        ['a size that is no multiple of a page', { memory_size: 0x1001n }],
        ['a guest address inside a page', { guest_phys_addr: 0x800n }],
        ['a guest range that wraps', { guest_phys_addr: 0xffff_ffff_ffff_f000n }],
        ['a size of 2^62', { memory_size: 1n << 62n }],
        ['a size of 2^31 pages', { memory_size: 1n << 43n }],
        ['a guest address beyond 2^52', { guest_phys_addr: 1n << 53n }],
        ['an unknown flag', { flags: 0x80 }],
        ['private memory by the old request', { flags: KVM_MEM.KVM_MEM_GUEST_MEMFD }],
        ['slot 65535', { slot: 0xffff }],
        ['an address space that does not exist', { slot: 0x20000 }],
      ] as [string, Partial<Region>][])('refuses %s with EINVAL', (_, region) => expect(set(region)).toBe('EINVAL'));
      it("refuses user addresses that are not the caller's", () => {
        expect(set({ userspace_addr: BigInt(ram.hva) + 1n })).toBe('EINVAL');
        expect(set({ userspace_addr: 0xffff_8000_0000_0000n })).toBe('EINVAL');
        expect(set({ userspace_addr: 0xffff_ffff_ffff_f000n })).toBe('EINVAL');
      });
      it('has numbers below KVM_CAP_NR_MEMSLOTS', () => {
        const slots = ioctl(system, 'KVM_CHECK_EXTENSION', CAP.KVM_CAP_NR_MEMSLOTS) as number;
        expect(slots).toBeGreaterThan(8);
        expect(set({ slot: slots })).toBe('EINVAL');
        expect(set({ slot: slots - 1 })).toBe(0);
        expect(remove(slots - 1)).toBe(0);
      });
      it('may log writes', () => {
        expect(set({ flags: KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES })).toBe(0);
        expect(remove()).toBe(0);
      });
      it('cannot be deleted before it exists, nor twice', () => {
        expect(remove(3)).toBe('EINVAL');
        expect(set({ slot: 3 })).toBe(0);
        expect(remove(3)).toBe(0);
        expect(remove(3)).toBe('EINVAL');
      });
      it('may touch another but not overlap it', () => {
        expect(set()).toBe(0);
        expect(set({ slot: 1, guest_phys_addr: 0xf000n })).toBe('EEXIST');
        expect(set({ slot: 1, guest_phys_addr: 0x1000n, memory_size: 0x1000n })).toBe('EEXIST');
        expect(set({ slot: 1, guest_phys_addr: SIZE })).toBe(0); // and share its memory
        expect(remove(1)).toBe(0);
        expect(remove()).toBe(0);
      });
      it('can be moved and logged, but not resized, re-backed or made read-only', () => {
        expect(set()).toBe(0);
        expect(set()).toBe(0); // the same again changes nothing
        expect(set({ memory_size: 0x8000n })).toBe('EINVAL');
        expect(set({ userspace_addr: BigInt(ram.hva) + SIZE })).toBe('EINVAL');
        expect(set({ flags: KVM_MEM.KVM_MEM_READONLY })).toBe('EINVAL');
        expect(set({ flags: KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES })).toBe(0);
        expect(set({ slot: 1, guest_phys_addr: SIZE })).toBe(0);
        expect(set({ guest_phys_addr: SIZE })).toBe('EEXIST');
        expect(set({ guest_phys_addr: 0x10_0000n })).toBe(0);
        expect(remove(1)).toBe(0);
        expect(remove()).toBe(0);
      });
      it('has a dirty log only while it logs', () => {
        const bitmap = allocate(4096);
        const log = (slot: number): string | number => ioctl(vm, 'KVM_GET_DIRTY_LOG', KvmDirtyLog.encode({ slot, dirty_bitmap: BigInt(bitmap.hva) }));
        expect(set()).toBe(0);
        expect(log(0)).toBe('ENOENT');
        expect(log(9)).toBe('ENOENT');
        expect(remove()).toBe(0);
        kernel.free(bitmap.hva);
      });
      it('is described by an argument, not by a null pointer', () => expect(ioctl(vm, 'KVM_SET_USER_MEMORY_REGION', 0)).toBe('EFAULT'));
      afterAll(() => void kernel.free(ram.hva));
    });

    describe('a vCPU descriptor', () => {
      let vcpu: number;
      beforeAll(() => {
        vcpu = createVcpu(createVm());
      });
      it.each(['KVM_GET_API_VERSION', 'KVM_CREATE_VCPU'] as const)('refuses %s with EINVAL', (request) =>
        expect(ioctl(vcpu, request)).toBe('EINVAL'),
      );
      it.each(['KVM_GET_REGS', 'KVM_SET_REGS', 'KVM_GET_SREGS', 'KVM_SET_SREGS', 'KVM_GET_FPU', 'KVM_SET_MSRS'] as const)(
        'answers EFAULT to %s of a null pointer',
        (request) => expect(ioctl(vcpu, request, 0)).toBe('EFAULT'),
      );

      it('starts as the manual says a processor starts', () => {
        const regs = new Uint8Array(KvmRegs.bytes);
        expect(ioctl(vcpu, 'KVM_GET_REGS', regs)).toBe(0);
        const { rip, rflags, rdx, ...others } = KvmRegs.decode(regs);
        expect([rip, rflags]).toEqual([0xfff0n, 2n]);
        expect(rdx).not.toBe(0n); // family, model and stepping
        expect(Object.values(others).every((value) => value === 0n)).toBe(true);
        const sregs = new Uint8Array(KvmSregs.bytes);
        expect(ioctl(vcpu, 'KVM_GET_SREGS', sregs)).toBe(0);
        expect(KvmSregs.decode(sregs)).toMatchObject({ cr0: 0x6000_0010n, cr2: 0n, cr3: 0n, cr4: 0n, cr8: 0n, efer: 0n, apic_base: 0xfee0_0900n });
        const segment = (field: 'cs' | 'ds' | 'tr' | 'ldt') => KvmSegment.load(view(sregs), KvmSregs.fields[field].offset);
        expect(segment('cs')).toMatchObject({ base: 0xffff_0000n, limit: 0xffff, selector: 0xf000, type: 11, present: 1, s: 1, db: 0 });
        expect(segment('ds')).toMatchObject({ base: 0n, limit: 0xffff, selector: 0, type: 3, present: 1, s: 1 });
        expect(segment('tr')).toMatchObject({ limit: 0xffff, type: 11, present: 1, s: 0 });
        expect(segment('ldt')).toMatchObject({ limit: 0xffff, type: 2, present: 1, s: 0 });
        const debug = new Uint8Array(KvmDebugregs.bytes);
        expect(ioctl(vcpu, 'KVM_GET_DEBUGREGS', debug)).toBe(0);
        expect(KvmDebugregs.decode(debug)).toMatchObject({ dr6: 0xffff_0ff0n, dr7: 0x400n });
      });

      it('keeps general registers, with bit 1 of RFLAGS always set', () => {
        expect(ioctl(vcpu, 'KVM_SET_REGS', KvmRegs.encode({ r15: 0x0123_4567_89ab_cdefn, rip: 0xffff_ffff_ffff_ffffn, rflags: 0n }))).toBe(0);
        const regs = new Uint8Array(KvmRegs.bytes);
        ioctl(vcpu, 'KVM_GET_REGS', regs);
        expect(KvmRegs.decode(regs)).toMatchObject({ r15: 0x0123_4567_89ab_cdefn, rip: 0xffff_ffff_ffff_ffffn, rflags: 2n, rax: 0n });
      });

      const PG_PE = 0x8000_0011n;
      const LMA_LME = 0x500n;
      const PAE = 0x20n;
      it.each([
        ['CR0.PG without CR0.PE', { cr0: 0x8000_0010n }],
        ['CR0.NW without CR0.CD', { cr0: 0x2000_0010n }],
        ['CR0 above bit 31', { cr0: 0x1_0000_0010n }],
        ['a reserved bit of CR4', { cr4: 0x8000_0000n }],
        ['CR4 bit 63', { cr4: 1n << 63n }],
        ['EFER.LMA without paging', { efer: LMA_LME, cr0: 0x11n }],
        ['EFER.LMA without EFER.LME', { efer: 0x400n }],
        ['long mode without CR4.PAE', { cr0: PG_PE, efer: LMA_LME }],
        ['EFER.LME and paging with EFER.LMA clear', { cr0: PG_PE, cr4: PAE, efer: 0x100n }],
        ['CR3 beyond the physical address width', { cr0: PG_PE, cr4: PAE, efer: LMA_LME, cr3: 1n << 63n }],
        ['a reserved bit of the APIC base', { apic_base: (1n << 52n) | 0xfee0_0900n }],
        ['x2APIC mode of a disabled APIC', { apic_base: 0xfee0_0400n }],
      ] as [string, Record<string, bigint>][])('refuses special registers with %s, and changes nothing', (_, values) => {
        const before = new Uint8Array(KvmSregs.bytes);
        ioctl(vcpu, 'KVM_GET_SREGS', before);
        const wrong = before.slice();
        KvmSregs.store(view(wrong), 0, { ...values, cr2: 0x1234n });
        expect(ioctl(vcpu, 'KVM_SET_SREGS', wrong)).toBe('EINVAL');
        const after = new Uint8Array(KvmSregs.bytes);
        ioctl(vcpu, 'KVM_GET_SREGS', after);
        expect(after).toEqual(before);
      });
      it('gives special registers back as they were set', () => {
        const sregs = new Uint8Array(KvmSregs.bytes);
        ioctl(vcpu, 'KVM_GET_SREGS', sregs);
        expect(ioctl(vcpu, 'KVM_SET_SREGS', sregs)).toBe(0);
        const changed = sregs.slice();
        KvmSregs.store(view(changed), 0, { cr0: PG_PE, cr2: 0x1234n, cr3: 0x5000n, cr4: PAE, efer: LMA_LME });
        expect(ioctl(vcpu, 'KVM_SET_SREGS', changed)).toBe(0);
        const after = new Uint8Array(KvmSregs.bytes);
        ioctl(vcpu, 'KVM_GET_SREGS', after);
        expect(KvmSregs.decode(after)).toEqual(KvmSregs.decode(changed));
        expect(ioctl(vcpu, 'KVM_SET_SREGS', sregs)).toBe(0);
      });

      it('takes up to 256 CPUID leaves', () => {
        const arg = new Uint8Array(KvmCpuid2.bytes + 300 * KvmCpuidEntry2.bytes);
        const set = (nent: number): string | number => {
          KvmCpuid2.store(view(arg), 0, { nent });
          return ioctl(vcpu, 'KVM_SET_CPUID2', arg);
        };
        expect(set(257)).toBe('E2BIG');
        KvmCpuidEntry2.store(view(arg), KvmCpuid2.bytes, { function: 0, eax: 7, ebx: 0xabc });
        expect(set(1)).toBe(0);
        KvmCpuid2.store(view(arg), 0, { nent: 0 });
        expect(ioctl(vcpu, 'KVM_GET_CPUID2', arg)).toBe('E2BIG');
        arg.fill(0);
        KvmCpuid2.store(view(arg), 0, { nent: 10 });
        expect(ioctl(vcpu, 'KVM_GET_CPUID2', arg)).toBe(0);
        expect(KvmCpuid2.decode(arg).nent).toBe(1);
        expect(KvmCpuidEntry2.load(view(arg), KvmCpuid2.bytes)).toMatchObject({ function: 0, eax: 7, ebx: 0xabc });
      });

      it('stops at the first MSR that it does not know, and says how far it came', () => {
        const EFER = 0xc0000080;
        const LSTAR = 0xc0000082;
        const UNKNOWN = 0x12345;
        const call = (request: 'KVM_GET_MSRS' | 'KVM_SET_MSRS', entries: readonly [number, bigint][]): [string | number, bigint[]] => {
          const arg = new Uint8Array(KvmMsrs.bytes + entries.length * KvmMsrEntry.bytes);
          KvmMsrs.store(view(arg), 0, { nmsrs: entries.length });
          const at = (n: number): number => KvmMsrs.bytes + n * KvmMsrEntry.bytes;
          entries.forEach(([index, data], n) => void KvmMsrEntry.store(view(arg), at(n), { index, data }));
          const result = ioctl(vcpu, request, arg);
          return [result, entries.map((_, n) => KvmMsrEntry.load(view(arg), at(n)).data)];
        };
        expect(
          call('KVM_SET_MSRS', [
            [LSTAR, 0x1234n],
            [UNKNOWN, 7n],
            [LSTAR, 0x9999n],
          ])[0],
        ).toBe(1);
        expect(
          call('KVM_GET_MSRS', [
            [LSTAR, 0n],
            [EFER, 9n],
          ]),
        ).toEqual([2, [0x1234n, 0n]]);
        expect(
          call('KVM_GET_MSRS', [
            [EFER, 9n],
            [UNKNOWN, 7n],
            [LSTAR, 5n],
          ]),
        ).toEqual([1, [0n, 7n, 5n].map((v, n) => (n === 0 ? v : expect.any(BigInt)))]);
        expect(call('KVM_GET_MSRS', [[UNKNOWN, 7n]])[0]).toBe(0);
        expect(call('KVM_GET_MSRS', [])[0]).toBe(0);
        expect(call('KVM_SET_MSRS', [[LSTAR, 0x8000_0000_0000n]])[0]).toBe(0); // not canonical
        const many = new Uint8Array(KvmMsrs.bytes + 256 * KvmMsrEntry.bytes);
        KvmMsrs.store(view(many), 0, { nmsrs: 256 });
        expect(ioctl(vcpu, 'KVM_GET_MSRS', many)).toBe('E2BIG');
      });

      it.each([
        ['an unknown flag', { flags: 0x8000_0000 }],
        ['exception 32', { exception_injected: 1, exception_nr: 32 }],
        ['an exception that is the NMI', { exception_injected: 1, exception_nr: 2 }],
        ['a payload that was not enabled', { flags: VCPUEVENT.KVM_VCPUEVENT_VALID_PAYLOAD }],
        ['a triple fault that was not enabled', { flags: VCPUEVENT.KVM_VCPUEVENT_VALID_TRIPLE_FAULT }],
      ] as [string, object][])('refuses events with %s', (_, events) => {
        expect(ioctl(vcpu, 'KVM_SET_VCPU_EVENTS', KvmVcpuEvents.encode(events))).toBe('EINVAL');
      });
      it('keeps an injected exception', () => {
        const set = KvmVcpuEvents.encode({ exception_injected: 1, exception_nr: 13, exception_has_error_code: 1, exception_error_code: 0x18 });
        expect(ioctl(vcpu, 'KVM_SET_VCPU_EVENTS', set)).toBe(0);
        const events = new Uint8Array(KvmVcpuEvents.bytes);
        ioctl(vcpu, 'KVM_GET_VCPU_EVENTS', events);
        expect(KvmVcpuEvents.decode(events)).toMatchObject({
          exception_injected: 1,
          exception_nr: 13,
          exception_has_error_code: 1,
          exception_error_code: 0x18,
        });
        expect(ioctl(vcpu, 'KVM_SET_VCPU_EVENTS', new Uint8Array(KvmVcpuEvents.bytes))).toBe(0);
      });

      it('is runnable, and without an interrupt controller can be nothing else', () => {
        const state = new Uint8Array(KvmMpState.bytes);
        expect(ioctl(vcpu, 'KVM_GET_MP_STATE', state)).toBe(0);
        expect(KvmMpState.decode(state).mp_state).toBe(MP_STATE.KVM_MP_STATE_RUNNABLE);
        expect(ioctl(vcpu, 'KVM_SET_MP_STATE', KvmMpState.encode({ mp_state: MP_STATE.KVM_MP_STATE_RUNNABLE }))).toBe(0);
        for (const mp_state of [1, 2, 3, 4, 5, 9, 99]) expect(ioctl(vcpu, 'KVM_SET_MP_STATE', KvmMpState.encode({ mp_state }))).toBe('EINVAL');
      });
      it('has no local APIC either', () => expect(ioctl(vcpu, 'KVM_GET_LAPIC', new Uint8Array(1024))).toBe('EINVAL'));

      it.each([
        ['flags', { flags: 1n }],
        ['the upper half of DR6', { dr6: 1n << 32n }],
        ['the upper half of DR7', { dr7: 1n << 32n }],
      ] as [string, object][])('refuses debug registers with %s', (_, values) => {
        expect(ioctl(vcpu, 'KVM_SET_DEBUGREGS', KvmDebugregs.encode(values))).toBe('EINVAL');
      });
      it('translates addresses as its own paging does', () => {
        const arg = KvmTranslation.encode({ linear_address: 0x12345n });
        expect(ioctl(vcpu, 'KVM_TRANSLATE', arg)).toBe(0);
        expect(KvmTranslation.decode(arg)).toMatchObject({ physical_address: 0x12345n, valid: 1 });
      });
      it('refuses more XCRs than there are, and flags', () => {
        expect(ioctl(vcpu, 'KVM_SET_XCRS', KvmXcrs.encode({ nr_xcrs: 17 }))).toBe('EINVAL');
        expect(ioctl(vcpu, 'KVM_SET_XCRS', KvmXcrs.encode({ nr_xcrs: 1, flags: 1 }))).toBe('EINVAL');
      });
      it('shares a page that is zero before the first run', () => {
        const fresh = createVcpu(createVm());
        const bytes = kernel.ioctl(system, IOCTL.KVM_GET_VCPU_MMAP_SIZE, 0);
        const page = kernel.mmap(fresh, bytes) as Uint8Array;
        expect(page.length).toBe(bytes);
        expect(page.subarray(0, KvmRun.bytes).every((byte) => byte === 0)).toBe(true);
      });
      it("outlives its VM's descriptor, but not its own", () => {
        const vm = kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0);
        const last = kernel.ioctl(vm, IOCTL.KVM_CREATE_VCPU, 0);
        expect(kernel.close(vm)).toBe(0);
        expect(ioctl(last, 'KVM_GET_REGS', new Uint8Array(KvmRegs.bytes))).toBe(0);
        expect(kernel.close(last)).toBe(0);
        expect(ioctl(last, 'KVM_GET_REGS', new Uint8Array(KvmRegs.bytes))).toBe('EBADF');
        expect(named(kernel.close(last))).toBe('EBADF');
      });
    });

    describe('memory of the program', () => {
      it('is zeroed, page-aligned, and taken back', () => {
        const { hva, bytes } = allocate(5000);
        expect(hva % 4096).toBe(0);
        expect(bytes.length).toBeGreaterThanOrEqual(5000);
        expect(bytes.every((byte) => byte === 0)).toBe(true);
        bytes[0] = 1;
        expect(kernel.free(hva)).toBe(0);
        expect(named(kernel.free(hva))).toBe('EINVAL');
      });
      it('comes in positive sizes that exist', () => {
        for (const bytes of [0, -4096, Number.NaN, 1.5]) expect(named(kernel.allocate(bytes) as number)).toBe('EINVAL');
        expect(named(kernel.allocate(2 ** 50) as number)).toBe('ENOMEM');
      });
    });

    describe('through the classes', () => {
      it("throws what the kernel answered, with the request's name", () => {
        const kvm = Kvm.open(kernel);
        const vm = kvm.createVm();
        vm.createVcpu(0).close();
        const error = (() => {
          try {
            return vm.createVcpu(9999);
          } catch (thrown) {
            return thrown;
          }
        })();
        expect(error).toBeInstanceOf(Errno);
        expect(error).toMatchObject({ code: 'EINVAL', errno: ERRNO.EINVAL, request: 'KVM_CREATE_VCPU' });
        expect(() => Kvm.open(kernel, { path: '/dev/nothing' })).toThrow('open: ENOENT (/dev/nothing)');
        vm.close();
        kvm.close();
      });
      it('round-trips every group of state', () => {
        const kvm = Kvm.open(kernel);
        const vm = kvm.createVm();
        const vcpu = vm.createVcpu(0);
        vcpu.setCpuid2(kvm.getSupportedCpuid());
        expect(vcpu.getCpuid2().length).toBe(kvm.getSupportedCpuid().length);
        vcpu.setRegs({ rax: 1n, rip: 0x1000n });
        expect(vcpu.getRegs()).toMatchObject({ rax: 1n, rip: 0x1000n, rflags: 2n });
        const { cs } = vcpu.getSregs();
        vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 }, gdt: { base: 0x500n, limit: 0x1f } });
        expect(vcpu.getSregs()).toMatchObject({
          cs: { base: 0n, selector: 0, limit: 0xffff },
          gdt: { base: 0x500n, limit: 0x1f },
          cr0: 0x6000_0010n,
        });
        vcpu.setDebugregs({ db: [1n, 2n, 3n, 4n], dr6: 0xffff_0ff0n, dr7: 0x400n });
        expect(vcpu.getDebugregs()).toEqual({ db: [1n, 2n, 3n, 4n], dr6: 0xffff_0ff0n, dr7: 0x400n });
        vcpu.setMsrs([{ index: 0xc0000082, data: 0xffff_8000_0000_0000n }]);
        expect(vcpu.getMsrs([0xc0000082])).toEqual([0xffff_8000_0000_0000n]);
        expect(() => vcpu.getMsrs([0xc0000082, 0x12345])).toThrow('MSR 0x12345');
        expect(() => vcpu.setMsrs([{ index: 0x12345, data: 1n }])).toThrow('MSR 0x12345');
        vcpu.setFpu({ fcw: 0x27f, xmm: new Uint8Array(256).fill(7) });
        expect(vcpu.getFpu()).toMatchObject({ fcw: 0x27f, xmm: new Uint8Array(256).fill(7) });
        expect(vcpu.getMpState()).toBe(0);
        expect(vcpu.getXcrs().get(0)).toBe(1n);
        expect(vcpu.translate(0x4321n)).toMatchObject({ physical_address: 0x4321n, valid: 1 });
        expect(kvm.getMsrIndexList()).toContain(0xc0000082);
        vcpu.close();
        vm.close();
        kvm.close();
      });
    });
  });
}
