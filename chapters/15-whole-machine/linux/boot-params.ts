// # The page of parameters
//
// A kernel that is not started in real mode cannot ask the firmware, and its loader does so instead. The answers go into `struct boot_params`, a page that was
// once the first sector of the kernel itself, which is why the setup header sits in the middle of it. Most of it stays zero, and zero means *not there*: no
// display, no disks known to a BIOS, no EFI.
//
// ::layout BootParams -- What of the page this loader writes.

import { bytes, layout, u8, u32le, u64le } from '../../01-hardware-background/layout.ts';
import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { ImageError } from '../../03-vcpu-loop/elf.ts';
import type { LowMemory, MemoryRange } from '../../03-vcpu-loop/handover.ts';
import { HEADER_START, knows, type LinuxImage, SetupHeader } from './header.ts';
import type { Placement } from './placement.ts';

const E820_ENTRIES = 128;
// biome-ignore format: table
export const BootParams = layout('boot_params', {
  acpi_rsdp_addr: u64le(0x70), e820_entries: u8(0x1e8), sentinel: u8(0x1ef), hdr: bytes(HEADER_START, 0x290 - HEADER_START),
  e820_table: bytes(0x2d0, 20 * E820_ENTRIES),
}, PAGE_BYTES);
const E820Entry = layout('boot_e820_entry', { addr: u64le(0), size: u64le(8), type: u32le(16) });
const SetupData = layout('setup_data', { next: u64le(0), type: u32le(8), len: u32le(12) });
const SETUP_E820_EXT = 1;

/** A loader without a number of its own. */
const LOADER_UNDEFINED = 0xff;

const encodeMap = (map: readonly MemoryRange[]): Uint8Array => {
  const out = new Uint8Array(map.length * E820Entry.bytes);
  const view = new DataView(out.buffer);
  for (const [index, { start, bytes: size, type }] of map.entries())
    E820Entry.store(view, index * E820Entry.bytes, { addr: BigInt(start), size: BigInt(size), type });
  return out;
};

/** The command line as it is in memory. @throws ImageError when the kernel has no room for it */
export function encodeCommandLine(text: string, limit: number): Uint8Array {
  if (text.includes('\0')) throw new ImageError('the command line holds a NUL, and everything behind it would be lost');
  const line = new TextEncoder().encode(`${text}\0`);
  // @clause linux.boot.cmdline-size
  if (line.length - 1 > limit) throw new ImageError(`the command line has ${line.length - 1} bytes; this kernel takes ${limit}`);
  return line;
}

interface Told {
  readonly map: readonly MemoryRange[];
  readonly rsdpGpa: number;
  readonly commandLine: string;
}

/** What a loader writes into the header, whichever door it uses. A field that the kernel's version does not have is left alone. */
export function loaderFields(
  { version, header }: LinuxImage,
  { kernel, initrd }: Placement,
  commandLineGpa: number,
): Parameters<typeof SetupHeader.encode>[0] {
  return {
    // @clause linux.boot.type-of-loader
    type_of_loader: LOADER_UNDEFINED,
    code32_start: kernel.gpa,
    loadflags: header[SetupHeader.fields.loadflags.offset - HEADER_START] as number,
    ...(initrd && { ramdisk_image: initrd.gpa, ramdisk_size: initrd.bytes.length }),
    ...(knows(version, 'cmd_line_ptr') && { cmd_line_ptr: commandLineGpa }),
  };
}

// The map has room for {{BootParams.fields.e820_table.bytes / 20}} ranges. What does not fit goes into the kernel's own list
// for whatever was forgotten, *setup data*: records anywhere in memory, each with the address of the next.

/** Writes the page; returns its address. @throws ImageError */
export function bootParameters(low: LowMemory, image: LinuxImage, placement: Placement, { map, rsdpGpa, commandLine }: Told): number {
  const [first, others] = [map.slice(0, E820_ENTRIES), map.slice(E820_ENTRIES)];
  if (others.length > 0 && !knows(image.version, 'setup_data'))
    throw new ImageError(`the memory map has ${map.length} ranges; a kernel of this age takes ${E820_ENTRIES}`);
  const page = new Uint8Array(PAGE_BYTES);
  const view = new DataView(page.buffer);
  // @clause linux.boot.zero-page
  page.set(image.header, HEADER_START);
  SetupHeader.store(view, 0, loaderFields(image, placement, low.place(encodeCommandLine(commandLine, image.commandLineLimit))) ?? {});
  BootParams.store(view, 0, { acpi_rsdp_addr: BigInt(rsdpGpa), e820_entries: first.length });
  // @clause linux.boot.e820
  page.set(encodeMap(first), BootParams.fields.e820_table.offset);
  if (others.length > 0) {
    const rest = encodeMap(others);
    const record = new Uint8Array(SetupData.bytes + rest.length);
    SetupData.store(new DataView(record.buffer), 0, { type: SETUP_E820_EXT, len: rest.length });
    record.set(rest, SetupData.bytes);
    SetupHeader.store(view, 0, { setup_data: BigInt(low.place(record)) });
  }
  return low.place(page);
}
