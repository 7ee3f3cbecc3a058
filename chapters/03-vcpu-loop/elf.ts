// # Reading an ELF file that may lie
//
// An image comes from outside, and every number in it was written by someone else. The reader below believes none of them before it has been
// compared with the size of the file and the size of the memory. All arithmetic on the file's 64-bit numbers is done with bigints, so that an
// offset near 2^64 cannot wrap into a small one; a number becomes a JavaScript number only after it is known to be below the memory's end.

import { layout, u8, u16le, u32le, u64le } from '../01-hardware-background/layout.ts';

/** What is wrong with an image, and the value that shows it. */
export class ImageError extends Error {
  override name = 'ImageError';
}

const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

const ElfIdent = layout('e_ident', { EI_CLASS: u8(4), EI_DATA: u8(5), EI_VERSION: u8(6) }, 16);
const ELFDATA2LSB = 1;
const EM_386 = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;

// biome-ignore format: table
const Elf32Header = layout('Elf32_Ehdr', {
  e_type: u16le(16), e_machine: u16le(18), e_version: u32le(20), e_entry: u32le(24), e_phoff: u32le(28), e_shoff: u32le(32), e_flags: u32le(36),
  e_ehsize: u16le(40), e_phentsize: u16le(42), e_phnum: u16le(44),
}, 52);
// biome-ignore format: table
const Elf64Header = layout('Elf64_Ehdr', {
  e_type: u16le(16), e_machine: u16le(18), e_version: u32le(20), e_entry: u64le(24), e_phoff: u64le(32), e_shoff: u64le(40), e_flags: u32le(48),
  e_ehsize: u16le(52), e_phentsize: u16le(54), e_phnum: u16le(56),
}, 64);
// biome-ignore format: table
const Elf32ProgramHeader = layout('Elf32_Phdr', {
  p_type: u32le(0), p_offset: u32le(4), p_vaddr: u32le(8), p_paddr: u32le(12), p_filesz: u32le(16), p_memsz: u32le(20), p_flags: u32le(24), p_align: u32le(28),
});
// biome-ignore format: table
const Elf64ProgramHeader = layout('Elf64_Phdr', {
  p_type: u32le(0), p_flags: u32le(4), p_offset: u64le(8), p_vaddr: u64le(16), p_paddr: u64le(24), p_filesz: u64le(32), p_memsz: u64le(40), p_align: u64le(48),
});

/** A program header with its numbers still untrusted. */
interface ProgramHeader {
  readonly type: number;
  readonly offset: bigint;
  readonly vaddr: bigint;
  readonly paddr: bigint;
  readonly filesz: bigint;
  readonly memsz: bigint;
  readonly align: bigint;
}

/** A piece of the image to be placed in memory: checked, so plain numbers. */
export interface Segment {
  readonly gpa: number;
  /** `bytes.length` from the file, then zeros up to `memoryBytes`. */
  readonly bytes: Uint8Array;
  readonly memoryBytes: number;
}

/** What a loader needs to know of an ELF file. */
export interface ElfImage {
  readonly bits: 32 | 64;
  /** Guest physical address of the entry point. */
  readonly entry: number;
  readonly segments: readonly Segment[];
  readonly notes: readonly ElfNote[];
}

interface ElfNote {
  readonly name: string;
  readonly type: number;
  readonly desc: Uint8Array;
}

export const isElf = (image: Uint8Array): boolean =>
  image.length >= 4 && image[0] === 0x7f && image[1] === 0x45 && image[2] === 0x4c && image[3] === 0x46;

const viewOf = (image: Uint8Array): DataView => new DataView(image.buffer, image.byteOffset, image.length);

/** The piece of the file at an untrusted place. @throws ImageError */
function piece(image: Uint8Array, offset: bigint, length: bigint, what: string): Uint8Array {
  if (offset + length > BigInt(image.length))
    throw new ImageError(`${what}: ${hex(length)} bytes at ${hex(offset)} reach past the end of the file (${hex(image.length)} bytes)`);
  return image.subarray(Number(offset), Number(offset + length));
}

function readHeaders(image: Uint8Array): { bits: 32 | 64; entry: bigint; headers: ProgramHeader[] } {
  if (!isElf(image)) throw new ImageError('not an ELF file');
  piece(image, 0n, BigInt(ElfIdent.bytes), 'ELF identification');
  const { EI_CLASS, EI_DATA } = ElfIdent.decode(image);
  if (EI_CLASS !== 1 && EI_CLASS !== 2) throw new ImageError(`ELF class ${EI_CLASS} is neither 32-bit nor 64-bit`);
  if (EI_DATA !== ELFDATA2LSB) throw new ImageError(`ELF data encoding ${EI_DATA} is not little-endian`);
  const bits = EI_CLASS === 1 ? 32 : 64;
  const header = bits === 32 ? Elf32Header : Elf64Header;
  piece(image, 0n, BigInt(header.bytes), 'ELF header');
  const { e_machine, e_entry, e_phoff, e_phentsize, e_phnum } = header.load(viewOf(image));
  const machine = bits === 32 ? [EM_386] : [EM_X86_64, EM_386];
  if (!machine.includes(e_machine)) throw new ImageError(`ELF machine ${e_machine} is not x86`);
  const programHeader = bits === 32 ? Elf32ProgramHeader : Elf64ProgramHeader;
  if (e_phnum === 0) throw new ImageError('the ELF file has no program headers, so nothing to load');
  if (e_phentsize < programHeader.bytes) throw new ImageError(`program headers of ${e_phentsize} bytes; ${programHeader.bytes} are needed`);
  const table = piece(image, BigInt(e_phoff), BigInt(e_phentsize) * BigInt(e_phnum), 'program headers');
  const headers = Array.from({ length: e_phnum }, (_, index): ProgramHeader => {
    const raw = programHeader.load(viewOf(table), index * e_phentsize);
    return {
      type: raw.p_type,
      offset: BigInt(raw.p_offset),
      vaddr: BigInt(raw.p_vaddr),
      paddr: BigInt(raw.p_paddr),
      filesz: BigInt(raw.p_filesz),
      memsz: BigInt(raw.p_memsz),
      align: BigInt(raw.p_align),
    };
  });
  return { bits, entry: BigInt(e_entry), headers };
}

/**
 * Where an entry point lies in physical memory, and that something is loaded there. The header gives it as the program will see it; Linux, which has no page
 * tables yet at that moment, gives the physical address.
 */
function placeEntry(entry: bigint, loads: readonly ProgramHeader[]): number {
  const linked = loads.find(({ vaddr, memsz }) => entry >= vaddr && entry < vaddr + memsz);
  if (linked) return Number(entry - linked.vaddr + linked.paddr);
  if (loads.some(({ paddr, memsz }) => entry >= paddr && entry < paddr + memsz)) return Number(entry);
  throw new ImageError(`entry point ${hex(entry)} is outside every loaded segment`);
}

function toSegment(image: Uint8Array, { offset, paddr, filesz, memsz }: ProgramHeader, ramBytes: number): Segment {
  if (filesz > memsz) throw new ImageError(`segment at ${hex(paddr)}: ${hex(filesz)} bytes in the file, more than its ${hex(memsz)} in memory`);
  if (paddr + memsz > BigInt(ramBytes))
    throw new ImageError(`segment at ${hex(paddr)} of ${hex(memsz)} bytes does not fit memory of ${hex(ramBytes)} bytes`);
  return { gpa: Number(paddr), bytes: piece(image, offset, filesz, `segment at ${hex(paddr)}`), memoryBytes: Number(memsz) };
}

/** Two segments that claim one address make the result depend on the order of loading: refused. */
function refuseOverlap(segments: readonly Segment[]): void {
  const sorted = [...segments].sort((a, b) => a.gpa - b.gpa);
  for (let index = 1; index < sorted.length; index++) {
    const [below, above] = [sorted[index - 1] as Segment, sorted[index] as Segment];
    if (below.gpa + below.memoryBytes > above.gpa)
      throw new ImageError(`segments overlap: ${hex(below.gpa)}+${hex(below.memoryBytes)} and ${hex(above.gpa)}+${hex(above.memoryBytes)}`);
  }
}

/** The notes of one PT_NOTE segment. A note that its segment cuts short ends the list. */
function readNotes(area: Uint8Array, align: number): ElfNote[] {
  const view = viewOf(area);
  const notes: ElfNote[] = [];
  const up = (value: number): number => Math.ceil(value / align) * align;
  for (let at = 0; at + 12 <= area.length; ) {
    const [namesz, descsz, type] = [view.getUint32(at, true), view.getUint32(at + 4, true), view.getUint32(at + 8, true)];
    const desc = at + up(12 + namesz);
    const next = desc + up(descsz);
    if (desc + descsz > area.length) break;
    const name = new TextDecoder('latin1').decode(area.slice(at + 12, at + 12 + namesz)).replace(/\0.*$/s, '');
    notes.push({ name, type, desc: area.subarray(desc, desc + descsz) });
    at = next;
  }
  return notes;
}

/**
 * Reads what a loader needs.
 * @throws ImageError for anything that does not fit the file or `ramBytes` of memory
 */
export function readElf(image: Uint8Array, ramBytes: number): ElfImage {
  const { bits, entry, headers } = readHeaders(image);
  const loads = headers.filter(({ type, memsz }) => type === PT_LOAD && memsz > 0n);
  if (loads.length === 0) throw new ImageError('the ELF file has no segment to load');
  const segments = loads.map((header) => toSegment(image, header, ramBytes));
  refuseOverlap(segments);
  const notes = headers
    .filter(({ type }) => type === PT_NOTE)
    .flatMap(({ offset, filesz, align }) => readNotes(piece(image, offset, filesz, 'notes'), align === 8n ? 8 : 4));
  return { bits, entry: placeEntry(entry, loads), segments, notes };
}
