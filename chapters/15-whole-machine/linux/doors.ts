// # Three doors
//
// The file has three ways in, one for each generation of loaders. In 1991 there was one: real mode, where the BIOS left the machine. When other firmware came,
// which has no BIOS to ask, the loader was allowed to go past the real-mode code, to the first byte of the rest, in protected mode; and when the processors got 64 bits,
// to a second entry {{ENTRY_64_OFFSET}} bytes behind it. Each way skips some of the kernel's own preparations and asks for the same result: in protected mode
// flat segments, in 64-bit mode page tables as well.
//
// All three lead to the program that unpacks the kernel. A fourth way does not: an unpacked `vmlinux` is an ELF file, and has chapter 3's PVH door.

import { BOOT_GDT, type BootPlan, type Door, type DoorOptions, installDoors, longState, protectedState } from '../../03-vcpu-loop/doors.ts';
import { ImageError } from '../../03-vcpu-loop/elf.ts';
import { LowMemory, memoryMap, pageTables } from '../../03-vcpu-loop/handover.ts';
import { bootParameters } from './boot-params.ts';
import { knows, type LinuxImage, readLinux, versionName } from './header.ts';
import { placeLinux } from './placement.ts';
import { realModePlan } from './real-mode.ts';

/** Where the 64-bit entry is, from the start of the kernel's code. */
export const ENTRY_64_OFFSET = 0x200;
const RFLAGS_FIXED = 2n;

/** The kernel, its initramfs and its parameters in memory; `started` adds what one door needs. */
function planned(
  image: LinuxImage,
  options: DoorOptions,
  started: (low: LowMemory, kernelGpa: number, paramsGpa: number) => Pick<BootPlan, 'door' | 'regs' | 'sregs'>,
): BootPlan {
  const { ramBytes, commandLine = '', memoryMap: map = memoryMap(ramBytes), rsdpGpa = 0, initrd } = options;
  const placement = placeLinux(image, map, initrd);
  const files = [placement.kernel, ...(placement.initrd ? [placement.initrd] : [])];
  const low = new LowMemory(files, ramBytes);
  const params = bootParameters(low, image, placement, { map, rsdpGpa, commandLine });
  return { ...started(low, placement.kernel.gpa, params), segments: low.with(files) };
}

// ## The 64-bit door
//
// Paging is on in 64-bit mode, so the loader has to bring page tables: chapter 3's, which map the first four gigabytes to themselves.

function linux64(image: LinuxImage, options: DoorOptions): BootPlan {
  return planned(image, options, (low, kernel, params) => {
    // @clause linux.boot.entry-64
    const gdt = { base: BigInt(low.place(new Uint8Array(BOOT_GDT.buffer))), limit: BOOT_GDT.byteLength - 1 };
    return {
      door: 'linux64',
      regs: { rip: BigInt(kernel + ENTRY_64_OFFSET), rsi: BigInt(params), rflags: RFLAGS_FIXED },
      sregs: longState(pageTables(low), gdt),
    };
  });
}

// ## The 32-bit door

/** As {@link BOOT_GDT}, with 32-bit code. */
const GDT_32 = new BigUint64Array([0n, 0n, 0x00cf_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn]);

function linux32(image: LinuxImage, options: DoorOptions): BootPlan {
  return planned(image, options, (low, kernel, params) => {
    // @clause linux.boot.entry-32
    const gdt = { base: BigInt(low.place(new Uint8Array(GDT_32.buffer))), limit: GDT_32.byteLength - 1 };
    return {
      door: 'linux32',
      regs: { rip: BigInt(kernel), rsi: BigInt(params), rflags: RFLAGS_FIXED },
      sregs: { ...protectedState(), gdt },
    };
  });
}

// ## Which one
//
// The latest that the image offers, because it does the least: no BIOS is needed, and nothing is switched twice. Whoever asks for one by name and cannot have it is
// told why.

/** Why a kernel has no such door; null when it has. */
type Missing = (image: LinuxImage) => string | null;

const ZIMAGE = 'it is a zImage, which only its own real-mode code can start';

const no64: Missing = ({ has64BitEntry, version, loadedHigh }) =>
  has64BitEntry
    ? loadedHigh
      ? null
      : ZIMAGE
    : knows(version, 'xloadflags')
      ? 'its xloadflags have no XLF_KERNEL_64: it is a 32-bit kernel'
      : `it follows boot protocol ${versionName(version)}, and the 64-bit entry came with 2.12`;

const no32: Missing = ({ version, loadedHigh }) =>
  !knows(version, 'cmd_line_ptr')
    ? `it follows boot protocol ${versionName(version)}, and a page of parameters came with 2.02`
    : loadedHigh
      ? null
      : ZIMAGE;

const door = (name: string, missing: Missing, plan: (image: LinuxImage, options: DoorOptions) => BootPlan): Door => ({
  name,
  plan(file, options) {
    const image = readLinux(file);
    if (!image) return null;
    const reason = missing(image);
    if (reason === null) return plan(image, options);
    if (options.door === name) throw new ImageError(`the kernel has no ${name} door: ${reason}`);
    return null;
  },
});

installDoors([door('linux64', no64, linux64), door('linux32', no32, linux32), door('linux16', () => null, realModePlan)]);
