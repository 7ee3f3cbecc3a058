// # The arena of the fuzzer
//
// A random page table that maps nothing useful is easy to make, and tests nothing: the program that would use it cannot run. So one top-level entry
// is kept honest. Below it lie the program, its stacks, its descriptor tables, and a *window* onto the rest of memory through which the program,
// like a real kernel, writes the tables that everything else hangs from. All other entries are the fuzzer's.
//
// ```text
//  0x001000  GDT, IDT, TSS      0x004000  kernel code   0x005000  user code   0x008000, 0x00a000  stacks
//  0x010000  honest tables
//  0x200000  tables of the fuzzer: 14 frames     0x220000  data: 12 frames
//  0x400000  4 MiB that large pages may map
// 0x1000000  read-only slot   0x1100000  a slot without memory   0xfeb00000  nothing: a device
// ```

/** Layout of guest memory. */
export const ARENA = {
  RAM_BYTES: 12 << 20,
  GDT: 0x1000,
  IDT: 0x2000,
  TSS: 0x3000,
  CODE: 0x4000,
  USER_CODE: 0x5000,
  STACK: 0x8f00,
  USER_STACK: 0xaf00,
  HONEST: 0x10000,
  TABLES: 0x200000,
  TABLE_FRAMES: 14,
  DATA: 0x220000,
  DATA_FRAMES: 12,
  LARGE: 0x400000,
  LARGE_END: 0xa00000,
  READ_ONLY: 0x1000000,
  READ_ONLY_FRAMES: 4,
  HOLE: 0x1100000,
  DEVICE: 0xfeb00000,
} as const;

export const PAGING_MODES = ['bits32', 'pse', 'pae', 'long'] as const;
export type PagingMode = (typeof PAGING_MODES)[number];

/**
 * Levels, widest first, of the tables that are read from memory: shift and index bits of each. PAE's top level is registers, but its table is in
 * memory as well.
 */
export const LEVELS: Readonly<Record<PagingMode, readonly { readonly level: number; readonly shift: number; readonly bits: number }[]>> = {
  bits32: [
    { level: 2, shift: 22, bits: 10 },
    { level: 1, shift: 12, bits: 10 },
  ],
  pse: [
    { level: 2, shift: 22, bits: 10 },
    { level: 1, shift: 12, bits: 10 },
  ],
  pae: [
    { level: 3, shift: 30, bits: 2 },
    { level: 2, shift: 21, bits: 9 },
    { level: 1, shift: 12, bits: 9 },
  ],
  long: [
    { level: 4, shift: 39, bits: 9 },
    { level: 3, shift: 30, bits: 9 },
    { level: 2, shift: 21, bits: 9 },
    { level: 1, shift: 12, bits: 9 },
  ],
};
export const entryBytes = (mode: PagingMode): 4 | 8 => (mode === 'bits32' || mode === 'pse' ? 4 : 8);
export const indexAt = (linear: bigint, { shift, bits }: { shift: number; bits: number }): number =>
  Number((linear >> BigInt(shift)) & ((1n << BigInt(bits)) - 1n));

// ## The program
//
// A dozen two-instruction routines: do one thing, then tell (`out` to a port, which exits). User-mode routines tell by INT 0x80. An exception tells
// by its handler. All registers come from outside, so one run is one access.

/** Ports that tell how it went. */
export const PORT = { DONE: 0xe0, PAGE_FAULT: 0xe1, FAULT: 0xe3 } as const;

const DONE = [0xe6, PORT.DONE];
const routines = {
  read: [0x8b, 0x03],
  write: [0x89, 0x03],
  add: [0x01, 0x03],
  xchg: [0x87, 0x03],
  movs: [0xa5],
  push: [0xff, 0x33], // PUSH of a memory operand: reads it
  fxsave: [0x0f, 0xae, 0x03],
  invlpg: [0x0f, 0x01, 0x3b],
  setCr0: [0x0f, 0x22, 0xc0],
  setCr3: [0x0f, 0x22, 0xd8],
  setCr4: [0x0f, 0x22, 0xe0],
} as const;
type Routine = keyof typeof routines | 'store' | 'enterUser' | 'handlePageFault' | 'handleFault' | 'handleCall';
const EACH = 16;
const ORDER: readonly Routine[] = [
  ...(Object.keys(routines) as (keyof typeof routines)[]),
  'store',
  'enterUser',
  'handlePageFault',
  'handleFault',
  'handleCall',
];
const at = (name: Routine): number => ORDER.indexOf(name) * EACH;
export const routineAt = (name: Routine, user = false): number => (user ? ARENA.USER_CODE : ARENA.CODE) + at(name);

const SELECTOR = { CODE: 0x08, DATA: 0x10, USER_CODE: 0x1b, USER_DATA: 0x23, TSS: 0x28 } as const;

export { SELECTOR };

const CALL_VECTOR = 0x80;
const PAGE_FAULT = 14;

const P = 1;
const RW = 2;
const US = 4;
const AD = 0x60;
const LARGE = 0x80;

/** Writes everything that the fuzzer will not touch. `roots` are the top-level tables that are to have the honest entry. */
export function buildArena(ram: Uint8Array, mode: PagingMode, roots: readonly number[]): void {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  ram.fill(0, 0, ARENA.LARGE_END);
  const long = mode === 'long';
  const rex = long ? [0x48] : [];
  for (const name of ORDER) {
    const body =
      name === 'store'
        ? long
          ? [0x48, 0x89, 0x03]
          : [0x89, 0x03, 0x89, 0x53, 0x04]
        : name === 'enterUser'
          ? [...rex, 0xcf]
          : name in routines
            ? routines[name as keyof typeof routines]
            : [];
    const port = name === 'handlePageFault' ? PORT.PAGE_FAULT : name === 'handleFault' ? PORT.FAULT : PORT.DONE;
    ram.set([...body, 0xe6, port, 0xf4], ARENA.CODE + at(name));
    ram.set([...body, 0xcd, CALL_VECTOR, 0xf4], ARENA.USER_CODE + at(name));
  }
  ram.set([0x89, 0x03, ...DONE, 0xf4], ARENA.CODE + 0xf00); // a 4-byte store, whatever the mode
  const code = long ? 0x00af_9b00_0000_ffffn : 0x00cf_9b00_0000_ffffn;
  const tss = 0x0000_8b00_0000_0067n | (BigInt(ARENA.TSS) << 16n);
  [0n, code, 0x00cf_9300_0000_ffffn, code | (3n << 45n), 0x00cf_f300_0000_ffffn, tss].forEach((descriptor, n) => {
    view.setBigUint64(ARENA.GDT + 8 * n, descriptor, true);
  });
  for (let vector = 0; vector < 256; vector++) {
    const handler = routineAt(vector === PAGE_FAULT ? 'handlePageFault' : vector === CALL_VECTOR ? 'handleCall' : 'handleFault');
    const gate = ARENA.IDT + vector * (long ? 16 : 8);
    if (vector * 16 >= 0x1000) break;
    view.setUint32(gate, (SELECTOR.CODE << 16) | handler, true);
    view.setUint32(gate + 4, 0xee00, true);
  }
  if (long) view.setUint32(ARENA.TSS + 4, ARENA.STACK, true);
  else {
    view.setUint32(ARENA.TSS + 4, ARENA.STACK, true);
    view.setUint32(ARENA.TSS + 8, SELECTOR.DATA, true);
  }
  buildHonestTables(view, mode, roots);
}

function buildHonestTables(view: DataView, mode: PagingMode, roots: readonly number[]): void {
  const size = entryBytes(mode);
  const set = (table: number, index: number, value: number): void => {
    view.setUint32(table + index * size, value, true);
    if (size === 8) view.setUint32(table + index * size + 4, 0, true);
  };
  const small = ARENA.HONEST; // 4 KiB pages
  const flags = (frame: number): number => P | RW | AD | (frame * 4096 === ARENA.USER_CODE || frame * 4096 === (ARENA.USER_STACK & ~0xfff) ? US : 0);
  const smallEntries = size === 4 ? 1024 : 512;
  for (let n = 0; n < smallEntries; n++) set(small, n, (n * 4096) | flags(n));
  if (size === 4) {
    for (const root of roots) set(root, 0, small | P | RW | US | 0x20);
    for (const n of [1, 2]) {
      const table = ARENA.HONEST + n * 0x1000;
      for (let i = 0; i < 1024; i++) set(table, i, (n << 22) | (i * 4096) | P | RW | AD);
      for (const root of roots) set(root, n, mode === 'pse' ? (n << 22) | P | RW | AD | LARGE : table | P | RW | 0x20);
    }
    return;
  }
  const directory = ARENA.HONEST + 0x1000;
  set(directory, 0, small | P | RW | US | 0x20);
  for (const n of [1, 2, 3, 4]) set(directory, n, (n << 21) | P | RW | AD | LARGE);
  if (mode === 'pae') {
    for (const root of roots) set(root, 0, directory | P);
    return;
  }
  const pointers = ARENA.HONEST + 0x2000;
  set(pointers, 0, directory | P | RW | US | 0x20);
  for (const root of roots) set(root, 0, pointers | P | RW | US | 0x20);
}
