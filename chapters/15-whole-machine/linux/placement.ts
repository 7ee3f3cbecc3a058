// # Where everything goes
//
// A loader has three things to put into memory: the kernel, the initramfs, and its own notes. The kernel has a wish. It is linked to run at one address, and can
// run at others if it says that it is *relocatable*; and before it has read the memory map it will use so much memory from its start on as it says, for
// the unpacked kernel and for what unpacks it. Nothing else may be there.

import { ImageError, type Segment } from '../../03-vcpu-loop/elf.ts';
import { type MemoryRange, placeModule } from '../../03-vcpu-loop/handover.ts';
import type { LinuxImage } from './header.ts';

const USABLE = 1;
const HIGH_GPA = 0x10_0000;
/** A kernel of the days before `bzImage`, that fits below 640 KiB. */
const LOW_GPA = 0x1_0000;
const LOW_LIMIT_BYTES = 0x8_0000;

const hex = (value: number): string => `0x${value.toString(16)}`;

export interface Placement {
  /** The kernel's code. */
  readonly kernel: Segment;
  /** The initramfs. */
  readonly initrd: Segment | null;
}

const fits = (map: readonly MemoryRange[], start: number, bytes: number): boolean =>
  map.some((range) => range.type === USABLE && start >= range.start && start + bytes <= range.start + range.bytes);

const alignUp = (value: number, to: number): number => Math.ceil(value / to) * to;

/** Where the kernel is loaded, and the memory that it takes. @throws ImageError */
function placeKernel(image: LinuxImage, map: readonly MemoryRange[]): { gpa: number; taken: Segment } {
  const { kernel, initBytes, alignment, preferred, relocatable } = image;
  const none = new Uint8Array(0);
  if (!image.loadedHigh) {
    if (kernel.length > LOW_LIMIT_BYTES)
      throw new ImageError(`a kernel of ${kernel.length} bytes wants to be loaded at ${hex(LOW_GPA)}, where ${LOW_LIMIT_BYTES} fit`);
    return { gpa: LOW_GPA, taken: { gpa: LOW_GPA, bytes: none, memoryBytes: kernel.length } };
  }
  // @clause linux.boot.load-address
  if (relocatable) {
    const wanted = Math.max(preferred, HIGH_GPA);
    for (const gpa of [alignUp(wanted, alignment), alignUp(HIGH_GPA, alignment)])
      if (fits(map, gpa, initBytes)) return { gpa, taken: { gpa, bytes: none, memoryBytes: initBytes } };
    throw new ImageError(
      `the kernel needs ${initBytes} bytes from ${hex(alignUp(HIGH_GPA, alignment))} on before it can look at its memory, and the machine has not got them`,
    );
  }
  const end = Math.max(HIGH_GPA + kernel.length, preferred === 0 ? 0 : preferred + initBytes);
  if (!fits(map, HIGH_GPA, end - HIGH_GPA))
    throw new ImageError(`the kernel needs memory from ${hex(HIGH_GPA)} to ${hex(end)}, and cannot be placed elsewhere; the machine has not got it`);
  return { gpa: HIGH_GPA, taken: { gpa: HIGH_GPA, bytes: none, memoryBytes: end - HIGH_GPA } };
}

/** @throws ImageError when there is no room */
export function placeLinux(image: LinuxImage, map: readonly MemoryRange[], file: Uint8Array | undefined): Placement {
  const { gpa, taken } = placeKernel(image, map);
  return {
    kernel: { gpa, bytes: image.kernel, memoryBytes: image.kernel.length },
    // @clause linux.boot.initrd-addr-max
    initrd: file ? placeModule([taken], map, file, image.initrdLast) : null,
  };
}
