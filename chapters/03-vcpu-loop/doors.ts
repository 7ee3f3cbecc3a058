// # Doors into a program
//
// There is no one way to start a bare-metal program. Several conventions are in use, and they differ in two questions only: *where is the code* (who
// parses the file), and *what state is the processor in* when it gets there. A door below answers both: it turns an image into segments to place in
// memory and a processor state to start with. It makes no system call, so it works the same on every kernel, and can be tested without one. A
// convention that is an operating system's own is no concern of this chapter: whoever knows one installs it.

import { layout, u32le } from '../01-hardware-background/layout.ts';
import type { Dtable, Regs, Segment as SegmentRegister, Sregs } from '../02-kvm-objects/vcpu-state.ts';
import { type ElfImage, ImageError, isElf, readElf, type Segment } from './elf.ts';
import { bootParams, type Handover, LowMemory, type MemoryRange, memoryMap, multibootInfo, pageTables, placeModule, startInfo } from './handover.ts';

export type DoorName = string;

/** What firmware would know and a loader has to say in its place. */
export interface Firmware {
  /** All of the guest's memory; by default what lies below `ramBytes`. */
  readonly memoryMap?: readonly MemoryRange[];
  /** Where the ACPI tables begin, for conventions that can say it. */
  readonly rsdpGpa?: number;
}

export interface DoorOptions extends Firmware {
  readonly ramBytes: number;
  /** Which convention to use; by default the first that the image offers, in QEMU's order. */
  readonly door?: DoorName;
  /** Passed on where the convention can. ASCII. */
  readonly commandLine?: string;
  /** A second file for the program to find in memory, such as Linux's initramfs. */
  readonly initrd?: Uint8Array;
  /** Where a flat binary goes. */
  readonly flatGpa?: number;
}

/** An image made ready: what to put where, and how the first processor starts. */
export interface BootPlan {
  readonly door: DoorName;
  readonly segments: readonly Segment[];
  readonly regs: Partial<Regs>;
  readonly sregs: Partial<Sregs>;
}

const BOOT_SECTOR_GPA = 0x7c00;
const SECTOR_BYTES = 512;
const FLAT_GPA = 0x1000;
/** A loader needs room for what it hands over; every PC has had this much. */
const LEAST_RAM_BYTES = 1 << 20;
const RFLAGS_FIXED = 2n;

const hex = (value: number): string => `0x${value.toString(16)}`;

// ## Processor states
//
// Whoever starts a processor in protected mode has to write the *hidden* parts of its segment registers, since there is no descriptor table yet from
// which they were loaded.

export const segment = (values: Partial<SegmentRegister>): SegmentRegister => ({
  base: 0n,
  limit: 0xffff_ffff,
  selector: 0,
  type: 3,
  present: 1,
  dpl: 0,
  db: 1,
  s: 1,
  l: 0,
  g: 1,
  avl: 0,
  unusable: 0,
  ...values,
});
const CODE = 11; // execute, read, accessed
const DATA = 3; // read, write, accessed
const TSS_BUSY = 11;

const BOOT_CS = 0x10;
const BOOT_DS = 0x18;

const CR0_PE_ET = 0x11n;
const CR0_PG = 0x8000_0000n;
const CR4_PAE = 0x20n;
const EFER_LME_LMA = 0x500n;

function flatSegments(code: Partial<SegmentRegister>): Partial<Sregs> {
  const data = segment({ selector: BOOT_DS, type: DATA });
  return {
    cs: segment({ selector: BOOT_CS, type: CODE, ...code }),
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    tr: segment({ limit: 0x67, type: TSS_BUSY, s: 0, db: 0, g: 0 }),
  };
}

/** Protected mode, flat 4 GiB segments, no paging: multiboot and PVH alike. */
export const protectedState = (): Partial<Sregs> => ({ ...flatSegments({}), cr0: CR0_PE_ET, cr4: 0n, efer: 0n });

/** 64-bit mode over identity-mapped page tables. */
export const longState = (cr3: number, gdt: Dtable): Partial<Sregs> => ({
  ...flatSegments({ l: 1, db: 0 }),
  cr0: CR0_PE_ET | CR0_PG,
  cr3: BigInt(cr3),
  cr4: CR4_PAE,
  efer: EFER_LME_LMA,
  gdt,
});

/** Real mode at `0000:ip`. */
const realState = (): Partial<Sregs> => {
  const data = segment({ limit: 0xffff, type: DATA, db: 0, g: 0 });
  return { cs: segment({ limit: 0xffff, type: CODE, db: 0, g: 0 }), ds: data, es: data, fs: data, gs: data, ss: data };
};

// ## Multiboot
//
// A magic number somewhere in the first 8 KiB. The flags' low half lists what the image *requires*; a loader that does not know a bit there has to
// refuse. Bit 16 says that load addresses follow, for files that are not ELF or not ELF that the loader reads.

// biome-ignore format: table
const MultibootHeader = layout('multiboot_header', { magic: u32le(0), flags: u32le(4), checksum: u32le(8) });
// biome-ignore format: table
const MultibootAddresses = layout('multiboot_header.address', {
  header_addr: u32le(12), load_addr: u32le(16), load_end_addr: u32le(20), bss_end_addr: u32le(24), entry_addr: u32le(28),
});
const MULTIBOOT_MAGIC = 0x1badb002;
const MULTIBOOT_LOADER_MAGIC = 0x2badb002n;
const MULTIBOOT_SEARCH_BYTES = 8192;
const MULTIBOOT_KNOWN = 0x3; // align modules on pages; tell me about memory
const MULTIBOOT_HAS_ADDRESSES = 1 << 16;

/** What all conventions say about the machine, the second file put in its place. */
function handoverFor(segments: readonly Segment[], options: DoorOptions): Handover & { readonly low: LowMemory } {
  const { ramBytes, commandLine = '', memoryMap: map = memoryMap(ramBytes), rsdpGpa = 0, initrd } = options;
  const module = initrd ? placeModule(segments, map, initrd) : null;
  return { low: new LowMemory(module ? [...segments, module] : segments, ramBytes), map, commandLine, rsdpGpa, module };
}

/** All that a convention places in memory. */
const allOf = (segments: readonly Segment[], { low, module }: Handover & { readonly low: LowMemory }): Segment[] =>
  low.with(module ? [...segments, module] : segments);

const viewOf = (image: Uint8Array): DataView => new DataView(image.buffer, image.byteOffset, image.length);

function findMultiboot(image: Uint8Array): number | null {
  const view = viewOf(image);
  const end = Math.min(image.length, MULTIBOOT_SEARCH_BYTES) - MultibootHeader.bytes;
  for (let at = 0; at <= end; at += 4) {
    const { magic, flags, checksum } = MultibootHeader.load(view, at);
    if (magic === MULTIBOOT_MAGIC && (magic + flags + checksum) % 2 ** 32 === 0) return at;
  }
  return null;
}

/** The one segment that a header's address fields describe. */
function multibootSegment(image: Uint8Array, at: number, ramBytes: number): { segment: Segment; entry: number } {
  if (at + MultibootAddresses.bytes > image.length) throw new ImageError('the multiboot header is cut short before its addresses');
  const { header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr } = MultibootAddresses.load(viewOf(image), at);
  if (load_addr > header_addr) throw new ImageError(`multiboot load_addr ${hex(load_addr)} is above header_addr ${hex(header_addr)}`);
  const offset = at - (header_addr - load_addr);
  if (offset < 0) throw new ImageError(`multiboot load_addr ${hex(load_addr)} lies ${-offset} bytes before the start of the file`);
  const loadEnd = load_end_addr === 0 ? load_addr + image.length - offset : load_end_addr;
  if (loadEnd < load_addr) throw new ImageError(`multiboot load_end_addr ${hex(loadEnd)} is below load_addr ${hex(load_addr)}`);
  const length = loadEnd - load_addr;
  if (offset + length > image.length)
    throw new ImageError(`multiboot: ${length} bytes at ${hex(offset)} reach past the end of the file (${image.length} bytes)`);
  const bssEnd = bss_end_addr === 0 ? loadEnd : bss_end_addr;
  if (bssEnd < loadEnd) throw new ImageError(`multiboot bss_end_addr ${hex(bssEnd)} is below load_end_addr ${hex(loadEnd)}`);
  if (bssEnd > ramBytes) throw new ImageError(`multiboot segment ${hex(load_addr)}–${hex(bssEnd)} does not fit memory of ${hex(ramBytes)} bytes`);
  if (entry_addr < load_addr || entry_addr >= loadEnd)
    throw new ImageError(`multiboot entry_addr ${hex(entry_addr)} is outside ${hex(load_addr)}–${hex(loadEnd)}`);
  const segment = { gpa: load_addr, bytes: image.subarray(offset, offset + length), memoryBytes: bssEnd - load_addr };
  return { segment, entry: entry_addr };
}

function multiboot(image: Uint8Array, options: DoorOptions): BootPlan | null {
  const at = findMultiboot(image);
  if (at === null) return null;
  const { ramBytes } = options;
  const { flags } = MultibootHeader.load(viewOf(image), at);
  const unknown = flags & 0xffff & ~MULTIBOOT_KNOWN;
  if (unknown !== 0) throw new ImageError(`multiboot flags ${hex(flags)} require ${hex(unknown)}, which this loader does not offer`);
  let segments: readonly Segment[];
  let entry: number;
  if (flags & MULTIBOOT_HAS_ADDRESSES) {
    const described = multibootSegment(image, at, ramBytes);
    [segments, entry] = [[described.segment], described.entry];
  } else {
    ({ segments, entry } = readElf(image, ramBytes));
  }
  const handover = handoverFor(segments, options);
  const info = multibootInfo(handover.low, handover);
  const regs = { rip: BigInt(entry), rax: MULTIBOOT_LOADER_MAGIC, rbx: BigInt(info), rflags: RFLAGS_FIXED };
  return { door: 'multiboot', segments: allOf(segments, handover), regs, sregs: protectedState() };
}

// ## PVH
//
// Xen's entry for virtual machines that need no firmware: an ELF note holds the address of a 32-bit entry point, and EBX points to a start-info
// structure.

const XEN_ELFNOTE_PHYS32_ENTRY = 18;

function pvhEntry(elf: ElfImage): number | null {
  const note = elf.notes.find(({ name, type }) => name === 'Xen' && type === XEN_ELFNOTE_PHYS32_ENTRY);
  if (!note) return null;
  if (note.desc.length < 4) throw new ImageError(`the PVH note holds ${note.desc.length} bytes; an address takes 4`);
  const entry = viewOf(note.desc).getUint32(0, true);
  if (!elf.segments.some(({ gpa, memoryBytes }) => entry >= gpa && entry < gpa + memoryBytes))
    throw new ImageError(`PVH entry ${hex(entry)} is outside every loaded segment`);
  return entry;
}

// @clause payload.door-pvh
function pvh(image: Uint8Array, options: DoorOptions): BootPlan | null {
  if (!isElf(image)) return null;
  const elf = readElf(image, options.ramBytes);
  const entry = pvhEntry(elf);
  if (entry === null) return null;
  const handover = handoverFor(elf.segments, options);
  const info = startInfo(handover.low, handover);
  return {
    door: 'pvh',
    segments: allOf(elf.segments, handover),
    regs: { rip: BigInt(entry), rbx: BigInt(info), rflags: RFLAGS_FIXED },
    sregs: protectedState(),
  };
}

// ## Straight into 64-bit mode
//
// The convention of Linux's 64-bit boot protocol, as Firecracker uses it: the loader builds identity-mapped page tables and a descriptor table, and
// RSI points to the zero page.

/** Null, unused, then the two that Linux's boot protocol names: code at selector 0x10 and data at 0x18. */
export const BOOT_GDT = new BigUint64Array([0n, 0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn]);

// @clause payload.door-long
function elf64(image: Uint8Array, options: DoorOptions): BootPlan | null {
  if (!isElf(image)) return null;
  const { bits, segments, entry } = readElf(image, options.ramBytes);
  if (bits !== 64) return null;
  const handover = handoverFor(segments, options);
  const { low } = handover;
  const cr3 = pageTables(low);
  const gdt = low.place(new Uint8Array(BOOT_GDT.buffer));
  const params = bootParams(low, handover);
  return {
    door: 'long',
    segments: allOf(segments, handover),
    regs: { rip: BigInt(entry), rsi: BigInt(params), rflags: RFLAGS_FIXED },
    sregs: longState(cr3, { base: BigInt(gdt), limit: BOOT_GDT.byteLength - 1 }),
  };
}

// ## Raw code
//
// A boot sector is what firmware would have loaded: one sector, real mode, the drive's number in DL. There is no firmware here to read the second
// one. A flat binary is the same without the ceremony.

const isBootSector = (image: Uint8Array): boolean => image.length >= SECTOR_BYTES && image[510] === 0x55 && image[511] === 0xaa;

// @clause payload.door-disk
function bootSector(image: Uint8Array, options: DoorOptions): BootPlan | null {
  if (isElf(image) || !isBootSector(image)) return null;
  refuseModule('boot-sector', options);
  return {
    door: 'boot-sector',
    segments: [{ gpa: BOOT_SECTOR_GPA, bytes: image.subarray(0, SECTOR_BYTES), memoryBytes: SECTOR_BYTES }],
    regs: { rip: BigInt(BOOT_SECTOR_GPA), rsp: 0x7000n, rdx: 0x80n, rflags: RFLAGS_FIXED },
    sregs: realState(),
  };
}

function refuseModule(door: DoorName, { initrd }: DoorOptions): void {
  if (initrd) throw new ImageError(`the ${door} door hands over no second file, and there is an initrd of ${initrd.length} bytes`);
}

function flat(image: Uint8Array, options: DoorOptions): BootPlan {
  const { ramBytes, flatGpa = FLAT_GPA } = options;
  refuseModule('flat', options);
  if (!Number.isSafeInteger(flatGpa) || flatGpa < 0 || flatGpa > 0xffff)
    throw new ImageError(`a flat image starts in real mode, so below 64 KiB, not at ${flatGpa}`);
  if (flatGpa + image.length > ramBytes)
    throw new ImageError(`a flat image of ${image.length} bytes at ${hex(flatGpa)} does not fit memory of ${ramBytes} bytes`);
  return {
    door: 'flat',
    segments: [{ gpa: flatGpa, bytes: image, memoryBytes: image.length }],
    regs: { rip: BigInt(flatGpa), rsp: BigInt(flatGpa), rflags: RFLAGS_FIXED },
    sregs: realState(),
  };
}

// ## Choosing
//
// QEMU looks for multiboot first, then for a PVH note. An ELF file that offers neither is entered in 64-bit mode if it is a 64-bit file. What was installed
// by somebody is looked for before all of these, since it knows its own files best: a Linux kernel, too, carries the two bytes of a boot sector.

export interface Door {
  readonly name: DoorName;
  /** Any file can be taken for it, so it has to be asked for. */
  readonly onlyByName?: boolean;
  /** Null when the image does not offer it. @throws ImageError when it does, and is broken */
  plan(image: Uint8Array, options: DoorOptions): BootPlan | null;
}

const doors: Door[] = [
  { name: 'multiboot', plan: multiboot },
  { name: 'pvh', plan: pvh },
  { name: 'long', plan: elf64 },
  { name: 'boot-sector', plan: bootSector },
  { name: 'flat', onlyByName: true, plan: flat },
];

/** The conventions that there are, in the order in which they are looked for. */
export const doorNames = (): readonly DoorName[] => doors.map(({ name }) => name);

/** Adds conventions before those that there are. One that is there already by its name is replaced. */
export function installDoors(added: readonly Door[]): void {
  const others = doors.filter(({ name }) => !added.some((each) => each.name === name));
  doors.splice(0, doors.length, ...added, ...others);
}

/**
 * Turns an image into a plan.
 * @throws ImageError for an image that is broken, or that has no door of the kind asked for
 * @throws RangeError when the machine has too little memory for any loader
 */
export function planBoot(image: Uint8Array, options: DoorOptions): BootPlan {
  const { ramBytes, door: wanted } = options;
  if (!(ramBytes >= LEAST_RAM_BYTES)) throw new RangeError(`a loader needs ${LEAST_RAM_BYTES} bytes of memory; this machine has ${ramBytes}`);
  if (image.length === 0) throw new ImageError('the image is empty');
  for (const { name, onlyByName, plan } of doors) {
    if (wanted === undefined ? onlyByName : name !== wanted) continue;
    const made = plan(image, options);
    if (made) return made;
  }
  if (wanted === undefined) throw new ImageError(`no way in: ${image.length} bytes with no multiboot header, no ELF entry and no boot signature`);
  throw new ImageError(`the image has no ${wanted} door`);
}
