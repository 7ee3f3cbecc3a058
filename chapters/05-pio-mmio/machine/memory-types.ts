// # What may be cached
//
// A processor comes out of reset with every address uncached, and firmware tells it which are memory, by the *memory type range registers*. Nothing is
// cached in a model, and on a real processor KVM has its own opinion. But operating systems look: Linux, for one, takes switched-off registers as a sign that it
// must not use the page attribute table either. So where there is no firmware, the registers are set as it would set them: everything is memory, and the window
// for devices is not.

import type { Vcpu } from '../../02-kvm-objects/kvm.ts';

const MSR = { DEF_TYPE: 0x2ff, FIRST_BASE: 0x200, FIRST_MASK: 0x201, DISPLAY: 0x259 } as const;
const ENABLED = 0x800n;
const FIXED_ENABLED = 0x400n;
const [UNCACHED, WRITE_BACK] = [0n, 6n];
/** The fixed-range registers, 64 KiB, 16 KiB and 4 KiB a byte; one is the display's, which stays uncached. */
const FIXED = [0x250, 0x258, MSR.DISPLAY, ...Array.from({ length: 8 }, (_, n) => 0x268 + n)];
const ALL_WRITE_BACK = 0x0606_0606_0606_0606n;
const FOUR_GIB = 2 ** 32;

/** What the registers hold when the addresses from `windowStart` to 4 GiB are for devices. */
function memoryTypes(windowStart: number, physicalBits: number): { index: number; data: bigint }[] {
  const ranges: { index: number; data: bigint }[] = [];
  const all = (1n << BigInt(physicalBits)) - 1n;
  // A range is a power of two and aligned to itself: from the end downwards the pieces are as large as they can be.
  for (let end = FOUR_GIB, n = 0; end > windowStart; n++) {
    let bytes = 2 ** 30;
    while (end - bytes < windowStart || end % bytes !== 0) bytes /= 2;
    end -= bytes;
    ranges.push({ index: MSR.FIRST_BASE + 2 * n, data: BigInt(end) | UNCACHED });
    ranges.push({ index: MSR.FIRST_MASK + 2 * n, data: (all & ~BigInt(bytes - 1)) | ENABLED });
  }
  return [
    ...FIXED.map((index) => ({ index, data: index === MSR.DISPLAY ? UNCACHED : ALL_WRITE_BACK })),
    ...ranges,
    { index: MSR.DEF_TYPE, data: ENABLED | FIXED_ENABLED | WRITE_BACK },
  ];
}

/** Sets a processor's registers as firmware would. */
export function setMemoryTypes(vcpu: Vcpu, windowStart: number, physicalBits: number): void {
  vcpu.setMsrs(memoryTypes(windowStart, physicalBits));
}
