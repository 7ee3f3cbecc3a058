// # What a loader leaves in memory
//
// Each boot convention hands over a description of the machine: how much memory there is, which command line was given. They say the same things
// in three formats. The 64-bit door also needs page tables, because a processor in 64-bit mode cannot have paging off. All of it goes below
// 640 KiB, into pages that the image itself leaves free.

import { bytes, layout, u8, u16le, u32le, u64le } from '../01-hardware-background/layout.ts';
import { PAGE_BYTES } from '../01-hardware-background/physical-memory.ts';
import { ImageError, type Segment } from './elf.ts';

/** The part of low memory that loaders use: above what real-mode programs like to occupy, below the firmware's data area. */
const LOW_START = 0x88000;
const LOW_END = 0x9f000;
const CONVENTIONAL_END = 0x9fc00;
const HIGH_START = 0x100000;
const COMMAND_LINE_LIMIT = 2047;

const hex = (value: number): string => `0x${value.toString(16)}`;

/** Pages of low memory given out from the bottom, skipping those that the image covers. */
export class LowMemory {
  readonly #taken: readonly Segment[];
  readonly #placed: Segment[] = [];
  #next = LOW_START;

  constructor(image: readonly Segment[], ramBytes: number) {
    this.#taken = image;
    if (LOW_END > ramBytes) throw new RangeError(`memory of ${ramBytes} bytes has no room for what the loader leaves below ${LOW_END}`);
  }

  /** Finds room for `contents`, page-aligned, and returns its address. @throws ImageError when the image leaves none */
  place(contents: Uint8Array): number {
    const length = Math.ceil(contents.length / PAGE_BYTES) * PAGE_BYTES;
    for (let at = this.#next; at + length <= LOW_END; at += PAGE_BYTES) {
      if (this.#taken.some(({ gpa, memoryBytes }) => at < gpa + memoryBytes && gpa < at + length)) continue;
      this.#next = at + length;
      this.#placed.push({ gpa: at, bytes: contents, memoryBytes: length });
      return at;
    }
    throw new ImageError('the image covers the low memory in which a loader describes the machine');
  }

  /** The image's segments and the loader's own. */
  with(image: readonly Segment[]): Segment[] {
    return [...image, ...this.#placed];
  }
}

// ## The memory map
//
// Types as firmware's E820 call gives them: 1 is usable, 2 is reserved. The hole below 1 MiB is where a PC has its display memory and firmware.

export interface MemoryRange {
  readonly start: number;
  readonly bytes: number;
  readonly type: number;
}

const USABLE = 1;
const RESERVED = 2;

export const memoryMap = (ramBytes: number): MemoryRange[] => [
  { start: 0, bytes: CONVENTIONAL_END, type: USABLE },
  { start: CONVENTIONAL_END, bytes: HIGH_START - CONVENTIONAL_END, type: RESERVED },
  { start: HIGH_START, bytes: ramBytes - HIGH_START, type: USABLE },
];

/** What every convention hands over, in whatever format. */
export interface Handover {
  readonly map: readonly MemoryRange[];
  readonly commandLine: string;
  readonly rsdpGpa: number;
  /** The second file, where it lies. */
  readonly module: Segment | null;
}

// A second file goes as high as possible: a kernel that decompresses itself, or lays out its own tables, starts from below. It stays below 4 GiB, because most
// of the formats say its address in 32 bits, and in memory that the map calls usable.

/** Where a file of `length` bytes fits highest, on a page of its own, at or below `last`. @throws ImageError when nowhere */
function highestRoom(taken: readonly Segment[], map: readonly MemoryRange[], length: number, last = 0xffff_ffff): number {
  const room = Math.ceil(length / PAGE_BYTES) * PAGE_BYTES;
  const down = (value: number): number => Math.floor(value / PAGE_BYTES) * PAGE_BYTES;
  const usable = map.filter(({ type, start }) => type === USABLE && start >= HIGH_START).sort((a, b) => b.start - a.start);
  for (const { start, bytes: size } of usable) {
    let at = down(Math.min(start + size, last + 1) - room);
    while (at >= start) {
      const inTheWay = taken.filter(({ gpa, memoryBytes }) => at < gpa + memoryBytes && gpa < at + room);
      if (inTheWay.length === 0) return at;
      at = down(Math.min(...inTheWay.map(({ gpa }) => gpa)) - room);
    }
  }
  throw new ImageError(`no room for ${length} bytes beside the image, in memory below ${hex(last + 1)}`);
}

/** Puts a second file into memory. @throws ImageError when there is no room */
export function placeModule(taken: readonly Segment[], map: readonly MemoryRange[], file: Uint8Array, last?: number): Segment {
  return { gpa: highestRoom(taken, map, file.length, last), bytes: file, memoryBytes: file.length };
}

/** A NUL-terminated command line in low memory, or 0 for none. */
function placeCommandLine(low: LowMemory, text: string): number {
  if (text === '') return 0;
  const line = new TextEncoder().encode(`${text}\0`);
  if (line.length - 1 > COMMAND_LINE_LIMIT) throw new ImageError(`the command line has ${line.length - 1} bytes; ${COMMAND_LINE_LIMIT} are allowed`);
  return low.place(line);
}

/** Records one after another. */
function table(count: number, recordBytes: number, fill: (view: DataView, at: number, index: number) => void): Uint8Array {
  const out = new Uint8Array(count * recordBytes);
  const view = new DataView(out.buffer);
  for (let index = 0; index < count; index++) fill(view, index * recordBytes, index);
  return out;
}

// ## Multiboot information

// biome-ignore format: table
const MultibootInfo = layout('multiboot_info', {
  flags: u32le(0), mem_lower: u32le(4), mem_upper: u32le(8), boot_device: u32le(12), cmdline: u32le(16), mods_count: u32le(20), mods_addr: u32le(24),
  mmap_length: u32le(44), mmap_addr: u32le(48), boot_loader_name: u32le(64),
}, 120);
const MULTIBOOT_INFO = { MEMORY: 1 << 0, CMDLINE: 1 << 2, MODS: 1 << 3, MMAP: 1 << 6 } as const;
/** `size` counts what follows it, so a reader adds 4. */
const MultibootMmap = layout('multiboot_mmap_entry', { size: u32le(0), addr: u64le(4), len: u64le(12), type: u32le(20) });

const MultibootModule = layout('multiboot_module', { mod_start: u32le(0), mod_end: u32le(4), string: u32le(8) }, 16);

/** Writes the structure that EBX points to; returns its address. */
export function multibootInfo(low: LowMemory, { map, commandLine, module }: Handover): number {
  const mmap = table(map.length, MultibootMmap.bytes, (view, at, index) => {
    const { start, bytes, type } = map[index] as MemoryRange;
    MultibootMmap.store(view, at, { size: MultibootMmap.bytes - 4, addr: BigInt(start), len: BigInt(bytes), type });
  });
  const cmdline = placeCommandLine(low, commandLine);
  const high = map.find(({ start }) => start === HIGH_START);
  return low.place(
    MultibootInfo.encode({
      flags: MULTIBOOT_INFO.MEMORY | MULTIBOOT_INFO.MMAP | (cmdline ? MULTIBOOT_INFO.CMDLINE : 0) | (module ? MULTIBOOT_INFO.MODS : 0),
      mem_lower: CONVENTIONAL_END >> 10, // KiB from 0
      mem_upper: (high?.bytes ?? 0) >>> 10, // KiB from 1 MiB
      cmdline,
      ...(module && {
        mods_count: 1,
        mods_addr: low.place(MultibootModule.encode({ mod_start: module.gpa, mod_end: module.gpa + module.bytes.length })),
      }),
      mmap_length: mmap.length,
      mmap_addr: low.place(mmap),
    }),
  );
}

// ## PVH start information

// biome-ignore format: table
const HvmStartInfo = layout('hvm_start_info', {
  magic: u32le(0), version: u32le(4), flags: u32le(8), nr_modules: u32le(12), modlist_paddr: u64le(16), cmdline_paddr: u64le(24), rsdp_paddr: u64le(32),
  memmap_paddr: u64le(40), memmap_entries: u32le(48),
}, 56);
const HVM_START_MAGIC = 0x336ec578;
const HvmModlistEntry = layout('hvm_modlist_entry', { paddr: u64le(0), size: u64le(8), cmdline_paddr: u64le(16) }, 32);
const HvmMemmapEntry = layout('hvm_memmap_table_entry', { addr: u64le(0), size: u64le(8), type: u32le(16) }, 24);

/** Writes the structure that EBX points to; returns its address. */
export function startInfo(low: LowMemory, { map, commandLine, rsdpGpa, module }: Handover): number {
  const memmap = table(map.length, HvmMemmapEntry.bytes, (view, at, index) => {
    const { start, bytes, type } = map[index] as MemoryRange;
    HvmMemmapEntry.store(view, at, { addr: BigInt(start), size: BigInt(bytes), type });
  });
  const cmdline_paddr = BigInt(placeCommandLine(low, commandLine));
  const memmap_paddr = BigInt(low.place(memmap));
  const modules = module && {
    nr_modules: 1,
    modlist_paddr: BigInt(low.place(HvmModlistEntry.encode({ paddr: BigInt(module.gpa), size: BigInt(module.bytes.length) }))),
  };
  return low.place(
    HvmStartInfo.encode({
      magic: HVM_START_MAGIC,
      version: 1,
      cmdline_paddr,
      rsdp_paddr: BigInt(rsdpGpa),
      memmap_paddr,
      memmap_entries: map.length,
      ...modules,
    }),
  );
}

// ## Linux's zero page

// biome-ignore format: table
const BootParams = layout('boot_params', {
  acpi_rsdp_addr: u64le(0x70),
  e820_entries: u8(0x1e8), boot_flag: u16le(0x1fe), header: u32le(0x202), version: u16le(0x206), type_of_loader: u8(0x210), ramdisk_image: u32le(0x218),
  ramdisk_size: u32le(0x21c), cmd_line_ptr: u32le(0x228),
  e820_table: bytes(0x2d0, 20 * 128),
}, PAGE_BYTES);
const E820Entry = layout('boot_e820_entry', { addr: u64le(0), size: u64le(8), type: u32le(16) });
const HDRS = 0x53726448; // "HdrS"
const LOADER_UNDEFINED = 0xff;
const BOOT_FLAG = 0xaa55;
const BOOT_PROTOCOL = 0x020c; // 2.12: the first with a documented 64-bit entry

/** Writes the structure that RSI points to; returns its address. */
export function bootParams(low: LowMemory, { map, commandLine, rsdpGpa, module }: Handover): number {
  const entries = table(map.length, E820Entry.bytes, (view, at, index) => {
    const { start, bytes, type } = map[index] as MemoryRange;
    E820Entry.store(view, at, { addr: BigInt(start), size: BigInt(bytes), type });
  });
  const page = BootParams.encode({
    acpi_rsdp_addr: BigInt(rsdpGpa),
    e820_entries: map.length,
    boot_flag: BOOT_FLAG,
    header: HDRS,
    version: BOOT_PROTOCOL,
    type_of_loader: LOADER_UNDEFINED,
    cmd_line_ptr: placeCommandLine(low, commandLine),
    ...(module && { ramdisk_image: module.gpa, ramdisk_size: module.bytes.length }),
  });
  page.set(entries, BootParams.fields.e820_table.offset);
  return low.place(page);
}

// ## Identity page tables
//
// Linear equals physical for the first 4 GiB, in 2 MiB pages: one top table, one directory of directories, four directories.

const PRESENT_WRITABLE = 0x3n;
const LARGE_PAGE = 0x80n;
const GIBIBYTES = 4;
const ENTRIES = 512;

/** Writes the tables; returns what CR3 takes. */
export function pageTables(low: LowMemory): number {
  const LARGE_PAGE_BYTES = 2 << 20;
  const directories = Array.from({ length: GIBIBYTES }, (_, gibibyte) =>
    low.place(
      table(ENTRIES, 8, (view, at, index) =>
        view.setBigUint64(at, BigInt((gibibyte * ENTRIES + index) * LARGE_PAGE_BYTES) | LARGE_PAGE | PRESENT_WRITABLE, true),
      ),
    ),
  );
  const pointing = (to: readonly number[]): number =>
    low.place(
      table(ENTRIES, 8, (view, at, index) => view.setBigUint64(at, to[index] === undefined ? 0n : BigInt(to[index]) | PRESENT_WRITABLE, true)),
    );
  return pointing([pointing(directories)]);
}
