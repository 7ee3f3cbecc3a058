// # Two owners of RAM
//
// The modelled machine's RAM is shared between a program and its kernel, as on any machine. The VMM's memory grows from the bottom; it will become
// guest RAM. The kernel's pages (VMCSs, bitmaps, second-stage page tables, the `kvm_run` pages) grow from the top. A guest reaches neither by
// address: it reaches what its second-stage tables name, and only the kernel writes those.
//
// ```text
//  0                                                              ramBytes
//  +-------------------+-----------------------------+-------------+
//  | VMM: hva = USER_BASE + hpa  ->     free     <-  kernel's pages |
//  +-------------------+-----------------------------+-------------+
// ```

import { assert, type Hpa, type Hva, PAGE_BYTES, type PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import { ERRNO } from '../errno.ts';
import type { Allocation } from '../kernel.ts';

/** Where the program's memory appears in its address space: where Linux puts anonymous mappings, so that nothing mistakes an hva for an hpa. */
const USER_BASE = 0x7f00_0000_0000;
const LARGE_PAGE_BYTES = 2 << 20;
/** End of user space on x86-64 with four-level paging (TASK_SIZE_MAX). */
export const USER_END = 0x7fff_ffff_f000;

interface Range {
  readonly start: number;
  readonly bytes: number;
}

/** All of RAM, by owner. */
export class RamOwners {
  readonly memory: PhysicalMemory;
  readonly #user: Range[] = []; // sorted by start
  readonly #free = new Set<Hpa>(); // kernel pages given back
  #kernelStart: Hpa;
  // RAM between these two has never belonged to anyone, and is still as the machine came: zero.
  #userHigh = 0;
  #kernelLow: number;

  constructor(memory: PhysicalMemory) {
    this.memory = memory;
    this.#kernelStart = memory.ramBytes - (memory.ramBytes % PAGE_BYTES);
    this.#kernelLow = this.#kernelStart;
  }

  get #userEnd(): number {
    const last = this.#user.at(-1);
    return last ? last.start + last.bytes : 0;
  }

  // A mapping that is large enough for a large page begins at an address where one can: Linux does so for anonymous memory, and a guest gains by it.

  /** Zeroed, page-aligned memory for the program: the lowest gap that holds it. -EINVAL, -ENOMEM. */
  allocateUser(bytes: number): Allocation | number {
    if (!Number.isSafeInteger(bytes) || bytes <= 0) return -ERRNO.EINVAL;
    const size = Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    const aligned = size >= LARGE_PAGE_BYTES ? this.#gap(size, LARGE_PAGE_BYTES) : -1;
    const at = aligned < 0 ? this.#gap(size, PAGE_BYTES) : aligned;
    if (at < 0) return -ERRNO.ENOMEM;
    this.#user.push({ start: at, bytes: size });
    this.#user.sort((a, b) => a.start - b.start);
    this.#clear(at, size);
    this.#userHigh = Math.max(this.#userHigh, at + size);
    return { hva: USER_BASE + at, bytes: this.memory.slice(at, bytes) };
  }

  /** The lowest aligned place for `size` bytes between the allocations, or -1. */
  #gap(size: number, align: number): number {
    let at = 0;
    for (const range of [...this.#user, { start: this.#kernelStart, bytes: 0 }]) {
      if (range.start - at >= size) return at;
      at = Math.ceil((range.start + range.bytes) / align) * align;
    }
    return -1;
  }

  /** Zeroes what somebody may have used before. */
  #clear(at: Hpa, bytes: number): void {
    const low = Math.max(0, Math.min(bytes, this.#userHigh - at));
    if (low > 0) this.memory.slice(at, low).fill(0);
    const from = Math.max(at + low, this.#kernelLow);
    if (from < at + bytes) this.memory.slice(from, at + bytes - from).fill(0);
  }

  /** Takes an allocation back; its bytes, or -EINVAL when `hva` is not the start of one. */
  freeUser(hva: Hva): number {
    const index = this.#user.findIndex(({ start }) => start === hva - USER_BASE);
    if (index < 0) return -ERRNO.EINVAL;
    const [freed] = this.#user.splice(index, 1) as [Range];
    return freed.bytes;
  }

  /** The host physical address behind a user address, when all of `[hva, hva + bytes)` is in one allocation; else -1. Linux: `get_user_pages()`. */
  hpaOf(hva: Hva, bytes = 1): Hpa {
    const at = hva - USER_BASE;
    for (const { start, bytes: size } of this.#user) if (at >= start && at + bytes <= start + size) return at;
    return -1;
  }

  /** Zeroed kernel pages, contiguous; -1 when RAM is exhausted. */
  kernelPages(count = 1): Hpa {
    let hpa = this.#reuse(count);
    if (hpa < 0) {
      if (this.#kernelStart - count * PAGE_BYTES < this.#userEnd) return -1;
      this.#kernelStart -= count * PAGE_BYTES;
      hpa = this.#kernelStart;
    }
    this.#clear(hpa, count * PAGE_BYTES);
    this.#kernelLow = Math.min(this.#kernelLow, hpa);
    return hpa;
  }

  /** The first `count` neighbours among the free pages, or -1. */
  #reuse(count: number): Hpa {
    for (const first of this.#free) {
      let n = 1;
      while (n < count && this.#free.has(first + n * PAGE_BYTES)) n++;
      if (n < count) continue;
      for (let i = 0; i < count; i++) this.#free.delete(first + i * PAGE_BYTES);
      return first;
    }
    return -1;
  }

  freeKernelPages(hpa: Hpa, count = 1): void {
    assert(hpa >= this.#kernelStart && hpa % PAGE_BYTES === 0, 'not a kernel page');
    for (let n = 0; n < count; n++) this.#free.add(hpa + n * PAGE_BYTES);
    for (; this.#free.delete(this.#kernelStart); ) this.#kernelStart += PAGE_BYTES; // what lies at the border is anyone's again
  }
}
