// # irqfd: a counter that interrupts
//
// The other direction. Somebody adds to a counter, and the kernel raises an interrupt: an edge of a line, or the message that the routing table has for
// the number. No thread of the VMM wakes for it.
//
// A *level* does not fit a counter, which can only say "again". So a level-triggered irqfd comes in two parts. The first counter raises the line and leaves it
// up. When the guest says end of interrupt, the kernel lowers the line and adds to a second counter, the *resample* one; a device that still has
// something to say then says it again. Devices that share a line each have a pair, and an end of interrupt asks all of them.

import { IRQFD_FLAG, KvmIrqfd } from '../../02-kvm-objects/abi/eventfd.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { EventFd } from '../../02-kvm-objects/soft/eventfd.ts';
import { type KernelIrqchip, SOURCE } from './irqchip.ts';

const { KVM_IRQFD_FLAG_DEASSIGN: DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE: RESAMPLE } = IRQFD_FLAG;

interface IrqFd {
  readonly gsi: number;
  readonly event: EventFd;
  readonly resample: EventFd | null;
  readonly onEvent: () => void;
  readonly onHangup: () => void;
}

/** The irqfds of one VM. */
export class IrqFds {
  readonly #irqfds = new Set<IrqFd>();
  /** One notifier for all the resampling irqfds of a GSI. */
  readonly #resamplers = new Map<number, { readonly gsi: number; readonly fire: () => void }>();

  /** KVM_IRQFD. Linux: `kvm_irqfd()`. */
  request(view: DataView, irqchip: KernelIrqchip | null, eventBehind: (fd: number) => EventFd | number): number {
    const { fd, gsi, flags, resamplefd } = KvmIrqfd.load(view);
    // @clause kvm.irqfd.arguments
    if (flags & ~(DEASSIGN | RESAMPLE)) return -ERRNO.EINVAL;
    if (flags & DEASSIGN) return this.#deassign(fd | 0, gsi, irqchip, eventBehind);
    if (!irqchip || (flags & RESAMPLE && !irqchip.chips)) return -ERRNO.EINVAL;
    const event = eventBehind(fd | 0);
    if (typeof event === 'number') return event;
    const resample = flags & RESAMPLE ? eventBehind(resamplefd | 0) : null;
    if (typeof resample === 'number') return resample;
    // @clause kvm.irqfd.signal
    for (const other of this.#irqfds) if (other.event === event) return -ERRNO.EBUSY;
    const irqfd: IrqFd = {
      gsi,
      event,
      resample,
      onEvent: () => {
        event.take();
        this.#raise(irqfd, irqchip);
      },
      onHangup: () => this.#remove(irqfd, irqchip),
    };
    this.#irqfds.add(irqfd);
    if (resample) this.#resampler(gsi, irqchip);
    event.readers.add(irqfd.onEvent);
    event.hangups.add(irqfd.onHangup);
    // @clause kvm.irqfd.pending-at-assign
    if (event.count > 0n) this.#raise(irqfd, irqchip); // and the count stays, as on Linux: nobody has read it
    return 0;
  }

  // @clause kvm.irqfd.signal
  #raise({ gsi, resample }: IrqFd, irqchip: KernelIrqchip): void {
    if (resample) {
      irqchip.setIrq(SOURCE.RESAMPLE, gsi, true);
      return;
    }
    irqchip.setIrq(SOURCE.USER, gsi, true);
    // A message has no other edge.
    if (irqchip.routes.of(gsi).some(({ kind }) => kind !== 'msi')) irqchip.setIrq(SOURCE.USER, gsi, false);
  }

  // @clause kvm.irqfd.resample
  #resampler(gsi: number, irqchip: KernelIrqchip): void {
    if (this.#resamplers.has(gsi)) return;
    const notifier = {
      gsi,
      fire: () => {
        irqchip.setIrq(SOURCE.RESAMPLE, gsi, false);
        for (const irqfd of [...this.#irqfds]) if (irqfd.gsi === gsi) irqfd.resample?.signal();
      },
    };
    this.#resamplers.set(gsi, notifier);
    irqchip.acknowledged.add(notifier);
  }

  // @clause kvm.irqfd.deassign
  #deassign(fd: number, gsi: number, irqchip: KernelIrqchip | null, eventBehind: (fd: number) => EventFd | number): number {
    const event = eventBehind(fd);
    if (typeof event === 'number') return event;
    for (const irqfd of [...this.#irqfds]) if (irqfd.event === event && irqfd.gsi === gsi && irqchip) this.#remove(irqfd, irqchip);
    return 0;
  }

  #remove(irqfd: IrqFd, irqchip: KernelIrqchip): void {
    this.#irqfds.delete(irqfd);
    irqfd.event.readers.delete(irqfd.onEvent);
    irqfd.event.hangups.delete(irqfd.onHangup);
    const notifier = this.#resamplers.get(irqfd.gsi);
    if (!irqfd.resample || !notifier) return;
    if ([...this.#irqfds].some(({ gsi, resample }) => gsi === irqfd.gsi && resample)) return;
    this.#resamplers.delete(irqfd.gsi);
    irqchip.acknowledged.delete(notifier);
    irqchip.setIrq(SOURCE.RESAMPLE, irqfd.gsi, false);
  }

  /** The VM goes. */
  free(irqchip: KernelIrqchip | null): void {
    if (irqchip) for (const irqfd of [...this.#irqfds]) this.#remove(irqfd, irqchip);
  }
}
