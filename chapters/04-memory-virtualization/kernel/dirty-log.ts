// # Which pages were written
//
// Moving a running machine to another host means copying memory that keeps changing. So: ask which pages were written since the last time, send
// those, ask again, until few enough are left to stop for. The kernel answers with a bitmap for each slot. To find out about a *write* it has to make
// the page read-only, take one fault, note the page and make it writable; then it knows nothing more of that page until it is protected again.
//
// When to protect again is the whole history of the interface. At first asking did both: it returned the bits, cleared them, and protected all the
// pages, in one call that kept the guest's memory lock for seconds on a large machine, and the pages might have been written again long before they
// were sent. With *manual protect* asking only copies; a second request clears and protects chosen pages, in small portions, just before each is
// sent. A last refinement is for the start, when every page has to be sent in any case: with *initially set* all bits are 1 and nothing is
// protected until its bit is cleared.

import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { KvmClearDirtyLog, KvmDirtyLog, MANUAL_PROTECT } from '../../02-kvm-objects/abi/memory.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import { type MemorySlot, USER_SLOTS } from '../../02-kvm-objects/soft/slots.ts';
import type { SoftKernel } from '../../02-kvm-objects/soft/soft-kernel.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';

const { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: ENABLE, KVM_DIRTY_LOG_INITIALLY_SET: INITIALLY_SET } = MANUAL_PROTECT;
const WORD_PAGES = 64; // pages in a word of the bitmap

/** VMs whose log is not cleared by being read. */
const manual = new WeakSet<SoftVm>();

type LoggedSlot = MemorySlot & { readonly dirty: Uint8Array };

/** The slot that a request names, if it has a bitmap; else the errno. */
function loggedSlot(vm: SoftVm, id: number): LoggedSlot | number {
  // @clause kvm.dirty-ring.no-bitmap
  if (vm.slots.dirtyRing) return -ERRNO.ENXIO;
  if (id >>> 16 !== 0 || id >= USER_SLOTS) return -ERRNO.EINVAL;
  const slot = vm.slots.get(id);
  return slot?.dirty ? (slot as LoggedSlot) : -ERRNO.ENOENT;
}

// @clause kvm.dirty-log.manual-protect
// @clause kvm.dirty-log.exact
/** KVM_GET_DIRTY_LOG. Linux: `kvm_get_dirty_log_protect()`. */
function getDirtyLog(vm: SoftVm, _bytes: Uint8Array, view: DataView): number {
  const { slot: id, dirty_bitmap } = KvmDirtyLog.load(view);
  const slot = loggedSlot(vm, id);
  if (typeof slot === 'number') return slot;
  const { ram, memory } = vm.hardware;
  const hpa = ram.hpaOf(Number(dirty_bitmap), slot.dirty.length);
  if (hpa < 0) return -ERRNO.EFAULT;
  vm.mmu.collectDirty?.(slot);
  const taken = slot.dirty.slice();
  memory.slice(hpa, taken.length).set(taken);
  if (manual.has(vm)) return 0;
  slot.dirty.fill(0);
  vm.mmu.writeProtect(slot, 0, slot.bytes / PAGE_BYTES, taken); // only what was written can be writable
  return 0;
}

// @clause kvm.dirty-log.clear-range
/** KVM_CLEAR_DIRTY_LOG. Linux: `kvm_clear_dirty_log_protect()`. */
function clearDirtyLog(vm: SoftVm, _bytes: Uint8Array, view: DataView): number {
  const { slot: id, num_pages, first_page, dirty_bitmap } = KvmClearDirtyLog.load(view);
  if (!vm.slots.dirtyRing && (id >>> 16 !== 0 || id >= USER_SLOTS || first_page % BigInt(WORD_PAGES) !== 0n)) return -ERRNO.EINVAL;
  const slot = loggedSlot(vm, id);
  if (typeof slot === 'number') return slot;
  const pages = slot.bytes / PAGE_BYTES;
  if (first_page > BigInt(pages)) return -ERRNO.EINVAL;
  const first = Number(first_page);
  // A range ends where a word of the bitmap does, or where the slot does.
  if (num_pages > pages - first || (num_pages < pages - first && num_pages % WORD_PAGES !== 0)) return -ERRNO.EINVAL;
  const length = Math.ceil(num_pages / WORD_PAGES) * 8;
  const hpa = length === 0 ? 0 : vm.hardware.ram.hpaOf(Number(dirty_bitmap), length);
  if (hpa < 0) return -ERRNO.EFAULT;
  vm.mmu.collectDirty?.(slot);
  const cleared = vm.hardware.memory.slice(hpa, length).slice();
  for (let n = 0; n < length; n++) {
    const at = first / 8 + n;
    cleared[n] = (cleared[n] as number) & (slot.dirty[at] as number); // a page that is not dirty is protected already
    slot.dirty[at] = (slot.dirty[at] as number) & ~(cleared[n] as number);
  }
  vm.mmu.writeProtect(slot, first, num_pages, cleared);
  return 0;
}

/** Adds the requests, and the capability that changes what the first one means. */
export function installDirtyLog(kernel: SoftKernel): void {
  kernel.vmRequests.onStruct('KVM_GET_DIRTY_LOG', getDirtyLog);
  kernel.vmRequests.onStruct('KVM_CLEAR_DIRTY_LOG', clearDirtyLog);
  kernel.capabilities.set(CAP.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ENABLE | INITIALLY_SET);
  kernel.vmOptions.set(CAP.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, (vm, [wanted], flags) => {
    const allowed = wanted & BigInt(ENABLE) ? BigInt(ENABLE | INITIALLY_SET) : BigInt(ENABLE);
    if (flags !== 0 || wanted & ~allowed) return -ERRNO.EINVAL;
    if (wanted & BigInt(ENABLE)) manual.add(vm);
    else manual.delete(vm);
    vm.slots.initiallyDirty = (wanted & BigInt(INITIALLY_SET)) !== 0n;
    return 0;
  });
}
