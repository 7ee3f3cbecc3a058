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
  0xc, // nothing: f iret
  0x8, // int10: 0 fc 0e cmp ah, 0xe
  0x7, // 4 16 je 1c <putc>
  0x8, // 0 fc 0f cmp ah, 0xf
  0x7, // 4 06 je 11 <mode>
  0x8, // 0 fc 03 cmp ah, 0x3
  0x7, // 4 07 je 17 <cursor>
  0xc, // f iret
  0xb, // mode: 8 03 50 mov ax, 0x5003
  0xb, // 7 00 mov bh, 0x0
  0xc, // f iret
  0x3, // cursor: 1 c9 xor cx, cx
  0x3, // 1 d2 xor dx, dx
  0xc, // f iret
  0x5, // putc: 2 push dx
  0x5, // 0 push ax
  0xb, // a fd 03 mov dx, 0x3fd
  0xe, // wait: c in al, dx
  0xa, // 8 20 test al, 0x20
  0x7, // 4 fb je 21 <wait>
  0x5, // 8 pop ax
  0xb, // a f8 03 mov dx, 0x3f8
  0xe, // e out dx, al
  0x5, // a pop dx
  0xc, // f iret
  0x2, // int12: e a1 00 01 mov ax, cs:[BASE_KIB]
  0xc, // f iret
  0xb, // int13: 4 01 mov ah, 0x1
  0x5, // fail: 5 push bp
  0x8, // 9 e5 mov bp, sp
  0x8, // 0 4e 06 01 or byte [bp+0x6], 0x1
  0x5, // d pop bp
  0xc, // f iret
  0x3, // int15: d 20 e8 cmp ax, 0xe820
  0x7, // 4 2f je 71 <e820>
  0x3, // d 01 e8 cmp ax, 0xe801
  0x7, // 4 1b je 62 <e801>
  0x8, // 0 fc 88 cmp ah, 0x88
  0x7, // 4 09 je 55 <ext>
  0x3, // d 01 24 cmp ax, 0x2401
  0x7, // 4 08 je 59 <ok>
  0xb, // unsupported: 4 86 mov ah, 0x86
  0xe, // b df jmp 34 <fail>
  0x2, // ext: e a1 02 01 mov ax, cs:[EXTENDED_KIB]
  0x5, // ok: 5 push bp
  0x8, // 9 e5 mov bp, sp
  0x8, // 0 66 06 fe and byte [bp+0x6], 0xfe
  0x5, // d pop bp
  0xc, // f iret
  0x2, // e801: e a1 04 01 mov ax, cs:[BELOW_16M_KIB]
  0x2, // e 8b 1e 06 01 mov bx, cs:[ABOVE_16M_BLOCKS]
  0x8, // 9 c1 mov cx, ax
  0x8, // 9 da mov dx, bx
  0xe, // b e8 jmp 59 <ok>
  0x6, // e820: 6 81 fa 50 41 4d 53 cmp edx, 0x534d4150
  0x7, // 5 d7 jne 51 <unsupported>
  0x6, // 6 83 f9 14 cmp ecx, 0x14
  0x7, // 2 d1 jb 51 <unsupported>
  0x2, // e 66 3b 1e 08 01 cmp ebx, cs:[COUNT]
  0x7, // 3 c9 jae 51 <unsupported>
  0x5, // 6 push si
  0x5, // 7 push di
  0x6, // b f3 14 imul si, bx, 0x14
  0x8, // 1 c6 10 01 add si, MAP
  0x6, // 6 b9 0a 00 00 00 mov ecx, 0xa
  0xf, // c cld
  0x2, // e f3 a5 rep movs es:[di], cs:[si]
  0x5, // f pop di
  0x5, // e pop si
  0x6, // 6 b9 14 00 00 00 mov ecx, 0x14
  0x6, // 6 89 d0 mov eax, edx
  0x6, // 6 43 inc ebx
  0x2, // e 66 3b 1e 08 01 cmp ebx, cs:[COUNT]
  0x7, // 2 a9 jb 59 <ok>
  0x6, // 6 31 db xor ebx, ebx
  0xe, // b a4 jmp 59 <ok>
  0x3, // int16: 1 c0 xor ax, ax
  0x5, // 5 push bp
  0x8, // 9 e5 mov bp, sp
  0x8, // 0 4e 06 40 or byte [bp+0x6], 0x40
  0x5, // d pop bp
  0xc, // f iret
  0x3, // int1a: 1 c0 xor ax, ax
  0x3, // 1 c9 xor cx, cx
  0x3, // 1 d2 xor dx, dx
  0xe, // b 91 jmp 59 <ok>
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
