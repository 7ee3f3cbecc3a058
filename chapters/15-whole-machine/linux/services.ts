// # Just enough of a BIOS
//
// The kernel's oldest part runs in real mode and asks by software interrupts, as DOS did. Firmware would answer. This machine has none when it starts a kernel
// itself, and a whole BIOS (SeaBIOS, with a small program of its own that fetches the kernel from the machine) would be somebody else's binary, and most of the time
// of the start. But the kernel asks little, and takes *I do not know* for an answer from anybody but the one that knows how much memory there is:
//
// | interrupt | what the kernel wants | answer |
// |---|---|---|
// | 10h | a character on the screen, the video mode, the cursor | the first serial port, as a server without a screen has it; 80 columns of text |
// | 12h | memory below 640 KiB | so many KiB |
// | 13h | the disks | none: its drivers will find them |
// | 15h | the memory map, by three generations of calls; the A20 gate | the map; on |
// | 16h | which shift keys are down; a faster keyboard | none |
//
// Everything else is an IRET. The code is position-independent within its segment, and the numbers that differ from machine to machine stand behind it.

import { layout, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';
import type { Segment } from '../../03-vcpu-loop/elf.ts';
import type { MemoryRange } from '../../03-vcpu-loop/handover.ts';

// biome-ignore format: table
const CODE: readonly number[] = [
  0xcf, // nothing: iret
  0x80, 0xfc, 0x0e, // int10: cmp ah, 0xe
  0x74, 0x16, // je putc
  0x80, 0xfc, 0x0f, // cmp ah, 0xf
  0x74, 0x06, // je mode
  0x80, 0xfc, 0x03, // cmp ah, 0x3
  0x74, 0x07, // je cursor
  0xcf, // iret
  0xb8, 0x03, 0x50, // mode: mov ax, 0x5003
  0xb7, 0x00, // mov bh, 0x0
  0xcf, // iret
  0x31, 0xc9, // cursor: xor cx, cx
  0x31, 0xd2, // xor dx, dx
  0xcf, // iret
  0x52, // putc: push dx
  0x50, // push ax
  0xba, 0xfd, 0x03, // mov dx, 0x3fd
  0xec, // wait: in al, dx
  0xa8, 0x20, // test al, 0x20
  0x74, 0xfb, // je wait
  0x58, // pop ax
  0xba, 0xf8, 0x03, // mov dx, 0x3f8
  0xee, // out dx, al
  0x5a, // pop dx
  0xcf, // iret
  0x2e, 0xa1, 0x00, 0x01, // int12: mov ax, cs:[BASE_KIB]
  0xcf, // iret
  0xb4, 0x01, // int13: mov ah, 0x1
  0x55, // fail: push bp
  0x89, 0xe5, // mov bp, sp
  0x80, 0x4e, 0x06, 0x01, // or byte [bp+0x6], 0x1
  0x5d, // pop bp
  0xcf, // iret
  0x3d, 0x20, 0xe8, // int15: cmp ax, 0xe820
  0x74, 0x2f, // je e820
  0x3d, 0x01, 0xe8, // cmp ax, 0xe801
  0x74, 0x1b, // je e801
  0x80, 0xfc, 0x88, // cmp ah, 0x88
  0x74, 0x09, // je ext
  0x3d, 0x01, 0x24, // cmp ax, 0x2401
  0x74, 0x08, // je ok
  0xb4, 0x86, // unsupported: mov ah, 0x86
  0xeb, 0xdf, // jmp fail
  0x2e, 0xa1, 0x02, 0x01, // ext: mov ax, cs:[EXTENDED_KIB]
  0x55, // ok: push bp
  0x89, 0xe5, // mov bp, sp
  0x80, 0x66, 0x06, 0xfe, // and byte [bp+0x6], 0xfe
  0x5d, // pop bp
  0xcf, // iret
  0x2e, 0xa1, 0x04, 0x01, // e801: mov ax, cs:[BELOW_16M_KIB]
  0x2e, 0x8b, 0x1e, 0x06, 0x01, // mov bx, cs:[ABOVE_16M_BLOCKS]
  0x89, 0xc1, // mov cx, ax
  0x89, 0xda, // mov dx, bx
  0xeb, 0xe8, // jmp ok
  0x66, 0x81, 0xfa, 0x50, 0x41, 0x4d, 0x53, // e820: cmp edx, 0x534d4150
  0x75, 0xd7, // jne unsupported
  0x66, 0x83, 0xf9, 0x14, // cmp ecx, 0x14
  0x72, 0xd1, // jb unsupported
  0x2e, 0x66, 0x3b, 0x1e, 0x08, 0x01, // cmp ebx, cs:[COUNT]
  0x73, 0xc9, // jae unsupported
  0x56, // push si
  0x57, // push di
  0x6b, 0xf3, 0x14, // imul si, bx, 0x14
  0x81, 0xc6, 0x10, 0x01, // add si, MAP
  0x66, 0xb9, 0x0a, 0x00, 0x00, 0x00, // mov ecx, 0xa
  0xfc, // cld
  0x2e, 0xf3, 0xa5, // rep movs es:[di], cs:[si]
  0x5f, // pop di
  0x5e, // pop si
  0x66, 0xb9, 0x14, 0x00, 0x00, 0x00, // mov ecx, 0x14
  0x66, 0x89, 0xd0, // mov eax, edx
  0x66, 0x43, // inc ebx
  0x2e, 0x66, 0x3b, 0x1e, 0x08, 0x01, // cmp ebx, cs:[COUNT]
  0x72, 0xa9, // jb ok
  0x66, 0x31, 0xdb, // xor ebx, ebx
  0xeb, 0xa4, // jmp ok
  0x31, 0xc0, // int16: xor ax, ax
  0x55, // push bp
  0x89, 0xe5, // mov bp, sp
  0x80, 0x4e, 0x06, 0x40, // or byte [bp+0x6], 0x40
  0x5d, // pop bp
  0xcf, // iret
  0x31, 0xc0, // int1a: xor ax, ax
  0x31, 0xc9, // xor cx, cx
  0x31, 0xd2, // xor dx, dx
  0xeb, 0x91, // jmp ok
]; // end of the code

// Offsets in the code above.
// biome-ignore format: table
const ENTRIES: Readonly<Record<number, number>> = { 16: 0x01, 18: 0x2d, 19: 0x32, 21: 0x3d, 22: 0xb5, 26: 0xc0 };
const NOTHING = 0x00;

const ROM_SEGMENT = 0xf000;
const VECTORS = 256;
const MIB = 1 << 20;
const USABLE = 1;

/** Behind the code, where it looks for them. */
const Answers = layout(
  'services',
  { base_kib: u16le(0x100), extended_kib: u16le(0x102), below_16m_kib: u16le(0x104), above_16m_blocks: u16le(0x106), count: u32le(0x108) },
  0x110,
);
const MapEntry = layout('e820_entry', { addr: u64le(0), size: u64le(8), type: u32le(16) });
/** What a BIOS keeps for programs to look at without asking. */
const BiosData = layout('bios_data_area', { com1: u16le(0x400), base_kib: u16le(0x413), columns: u16le(0x44a), last_row: u16le(0x484) }, 0x500);
const COM1 = 0x3f8;
const [COLUMNS, ROWS] = [80, 25];
/** The older calls count in KiB, and stop where 16 bits or the ISA bus did. */
const [EXTENDED_KIB_LIMIT, BELOW_16M_KIB_LIMIT, BLOCKS_LIMIT] = [0xfc00, 0x3c00, 0xffff];

/** The interrupt vectors, the BIOS's data and the code that answers. */
export function biosServices(map: readonly MemoryRange[]): Segment[] {
  const endOf = (start: number): number => map.find((range) => range.type === USABLE && range.start === start)?.bytes ?? 0;
  const baseKib = endOf(0) >> 10;
  const extended = endOf(MIB);
  const rom = new Uint8Array(Answers.bytes + map.length * MapEntry.bytes);
  rom.set(CODE);
  const view = new DataView(rom.buffer);
  Answers.store(view, 0, {
    base_kib: baseKib,
    extended_kib: Math.min(extended / 1024, EXTENDED_KIB_LIMIT),
    below_16m_kib: Math.min(extended / 1024, BELOW_16M_KIB_LIMIT),
    above_16m_blocks: Math.min(Math.max(0, extended - 15 * MIB) >>> 16, BLOCKS_LIMIT),
    count: map.length,
  });
  // @clause linux.boot.e820-call
  for (const [index, { start, bytes, type }] of map.entries())
    MapEntry.store(view, Answers.bytes + index * MapEntry.bytes, { addr: BigInt(start), size: BigInt(bytes), type });

  const low = BiosData.encode({ com1: COM1, base_kib: baseKib, columns: COLUMNS, last_row: ROWS - 1 });
  const vectors = new DataView(low.buffer);
  for (let vector = 0; vector < VECTORS; vector++) {
    vectors.setUint16(vector * 4, ENTRIES[vector] ?? NOTHING, true);
    vectors.setUint16(vector * 4 + 2, ROM_SEGMENT, true);
  }
  return [
    { gpa: 0, bytes: low, memoryBytes: low.length },
    { gpa: ROM_SEGMENT << 4, bytes: rom, memoryBytes: rom.length },
  ];
}
