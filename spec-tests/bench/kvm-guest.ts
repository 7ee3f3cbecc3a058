// # A guest on either kernel
//
// The smallest VMM that can run the loops of `guests.ts`: one slot, one processor, and whatever is added before the first entry.

import { IOEVENTFD_FLAG, KvmIoeventfd, KvmIrqfd } from '../../chapters/02-kvm-objects/abi/eventfd.ts';
import { EXIT } from '../../chapters/02-kvm-objects/abi/exits.ts';
import { EFD, type Kernel } from '../../chapters/02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu, type Vm } from '../../chapters/02-kvm-objects/kvm.ts';
import { BELL_GPA, BELL_PORT, CODE, type Guest, IRQFD_GSI, LAP_PORT, STACK } from './guests.ts';

/** A kernel that does not come to the end of a lap within this has lost its way. */
const LIMIT_MS = 5000;
/** How long one sample takes, about, and the part before it that does not count. */
const SAMPLE_MS = 120;
const WARM_MS = 60;
/** What {@link LIMIT_MS} allows is looked at every so many exits: looking costs, too. */
const LOOK_EVERY = 1024;

/** What is in the kernel besides processor and memory. */
export interface Extras {
  readonly irqchip?: boolean;
  readonly doorbell?: 'port' | 'memory';
  /** Each lap is begun by a signal from here. */
  readonly irqfd?: boolean;
}

function enter(vcpu: Vcpu, { start }: Guest): void {
  const sregs = vcpu.getSregs();
  if (start.mode === 'real') {
    vcpu.setSregs({ cs: { ...sregs.cs, base: 0n, selector: 0 }, ds: { ...sregs.ds, base: BigInt(start.dsBase) } });
    vcpu.setRegs({ rip: BigInt(CODE), rsp: BigInt(STACK), rflags: 2n });
    return;
  }
  const dpl = start.user ? 3 : 0;
  const flat = { ...sregs.ds, base: 0n, limit: 0xffff_ffff, g: 1, db: 1, l: 0, selector: 16 | dpl, dpl, type: 3, s: 1, present: 1, unusable: 0 };
  const cs = { ...flat, type: 0xb, selector: 8 | dpl, db: 0, l: 1 };
  vcpu.setSregs({ cr0: 0x80010031n, cr3: BigInt(start.cr3), cr4: 0x20n, efer: 0x500n, cs, ds: flat, es: flat, ss: flat });
  vcpu.setRegs({ rip: BigInt(CODE), rflags: start.user ? 0x3002n : 2n }); // a user's OUT needs IOPL 3
}

function ring(kernel: Kernel, vm: Vm, where: 'port' | 'memory'): void {
  const fd = kernel.eventfd(0, EFD.EFD_NONBLOCK);
  const place =
    where === 'port' ? { addr: BigInt(BELL_PORT), len: 1, flags: IOEVENTFD_FLAG.KVM_IOEVENTFD_FLAG_PIO } : { addr: BigInt(BELL_GPA), len: 1 };
  vm.ioctl('KVM_IOEVENTFD', KvmIoeventfd.encode({ ...place, fd }));
}

/** Operations a second of one guest on one kernel. @throws Error when the guest does not do what it should */
export function perSecond(kernel: Kernel, guest: Guest, { irqchip = false, doorbell, irqfd = false }: Extras = {}): number {
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  const { hva, bytes } = kvm.allocate(guest.ramBytes);
  for (const [gpa, part] of guest.contents) bytes.set(part, gpa);
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: guest.ramBytes, userspace_addr: hva });
  if (irqchip) vm.ioctl('KVM_CREATE_IRQCHIP');
  if (doorbell) ring(kernel, vm, doorbell);
  const fd = irqfd ? kernel.eventfd(0, EFD.EFD_NONBLOCK) : -1;
  if (irqfd) vm.ioctl('KVM_IRQFD', KvmIrqfd.encode({ fd, gsi: IRQFD_GSI }));
  const vcpu = vm.createVcpu(0);
  const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);
  try {
    enter(vcpu, guest);
    const lap = (): void => {
      if (irqfd) kernel.write(fd, one);
      const began = performance.now();
      for (let exits = 1; ; exits++) {
        const reason = vcpu.run();
        if (reason === EXIT.KVM_EXIT_IO && vcpu.page.ioPort === LAP_PORT) return;
        if (reason !== EXIT.KVM_EXIT_IO && reason !== EXIT.KVM_EXIT_MMIO && reason !== EXIT.KVM_EXIT_INTR) throw new Error(vcpu.page.describe());
        if (exits % LOOK_EVERY === 0 && performance.now() - began > LIMIT_MS) throw new Error('the guest does not get to the end of its loop');
      }
    };
    if (irqfd) vcpu.run(); // to its HLT; comes back because nothing is left to wait for, or because somebody's clock ticked
    const lapsFor = (ms: number): number => {
      const began = performance.now();
      for (let laps = 1; ; laps++) {
        lap();
        const took = performance.now() - began;
        if (took >= ms) return laps / took;
      }
    };
    lapsFor(WARM_MS);
    return lapsFor(SAMPLE_MS) * guest.lap * 1000;
  } finally {
    vcpu.close();
    vm.close();
    kvm.close();
    kernel.free(hva);
    if (fd >= 0) kernel.close(fd);
  }
}
