import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DoorName, doorNames, installDoors, planBoot } from './doors.ts';
import { ImageError } from './elf.ts';

const RAM = 4 << 20;
const options = { ramBytes: RAM };

// ## A small ELF writer
//
// The loader's own tables must not write the files that test it, so the bytes are put down here by hand.

interface Load {
  readonly paddr?: bigint;
  readonly vaddr?: bigint;
  readonly data?: Uint8Array;
  readonly offset?: bigint;
  readonly filesz?: bigint;
  readonly memsz?: bigint;
}

interface Elf {
  readonly bits?: 32 | 64;
  readonly entry?: bigint;
  readonly loads?: readonly Load[];
  readonly note?: Uint8Array | null;
  readonly machine?: number;
  readonly phoff?: bigint;
  readonly phentsize?: number;
  readonly phnum?: number;
}

const CODE = Uint8Array.of(0xf4, 0x90, 0x90, 0x90);

function pvhNote(entry: number, bytes = 4): Uint8Array {
  const note = new Uint8Array(16 + bytes);
  const view = new DataView(note.buffer);
  view.setUint32(0, 4, true);
  view.setUint32(4, bytes, true);
  view.setUint32(8, 18, true);
  note.set([0x58, 0x65, 0x6e, 0], 12);
  if (bytes >= 4) view.setUint32(16, entry, true);
  return note;
}

function elf({ bits = 64, entry = 0x100000n, loads = [{}], note = null, machine, phoff, phentsize, phnum }: Elf = {}): Uint8Array {
  const [headerBytes, entryBytes] = bits === 64 ? [64, 56] : [52, 32];
  const count = loads.length + (note ? 1 : 0);
  const bodies = [...loads.map(({ data }) => data ?? CODE), ...(note ? [note] : [])];
  let at = headerBytes + count * entryBytes;
  const starts = bodies.map((body) => {
    const start = at;
    at += Math.ceil(body.length / 4) * 4;
    return start;
  });
  const file = new Uint8Array(at);
  const view = new DataView(file.buffer);
  const word = (offset: number, value: bigint): void =>
    bits === 64 ? view.setBigUint64(offset, value, true) : view.setUint32(offset, Number(value), true);
  file.set([0x7f, 0x45, 0x4c, 0x46, bits === 64 ? 2 : 1, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, machine ?? (bits === 64 ? 62 : 3), true);
  view.setUint32(20, 1, true);
  word(24, entry);
  word(bits === 64 ? 32 : 28, phoff ?? BigInt(headerBytes));
  view.setUint16(bits === 64 ? 54 : 42, phentsize ?? entryBytes, true);
  view.setUint16(bits === 64 ? 56 : 44, phnum ?? count, true);
  bodies.forEach((body, index) => {
    file.set(body, starts[index]);
    const header = headerBytes + index * entryBytes;
    const load = loads[index];
    const paddr = load?.paddr ?? 0x100000n;
    const values = [
      load?.offset ?? BigInt(starts[index] as number),
      load?.vaddr ?? paddr,
      paddr,
      load?.filesz ?? BigInt(body.length),
      load?.memsz ?? load?.filesz ?? BigInt(body.length),
    ];
    view.setUint32(header, load ? 1 : 4, true);
    for (const [n, value] of values.entries()) word(header + (bits === 64 ? 8 + 8 * n : 4 + 4 * n), value);
    word(header + (bits === 64 ? 48 : 28), 4n);
  });
  return file;
}

/** A multiboot header at the start of a file of `bytes` bytes; `addresses` are header, load, load_end, bss_end, entry. */
function multiboot({
  flags = 0,
  addresses = [],
  bytes = 64,
  at = 0,
}: {
  flags?: number;
  addresses?: number[];
  bytes?: number;
  at?: number;
} = {}): Uint8Array {
  const file = new Uint8Array(bytes);
  const view = new DataView(file.buffer);
  const all = addresses.length > 0 ? (flags | 0x10000) >>> 0 : flags;
  for (const [n, value] of [0x1badb002, all, -(0x1badb002 + all) >>> 0, ...addresses].entries()) view.setUint32(at + 4 * n, value, true);
  return file;
}

const bootSector = (bytes = 512): Uint8Array => {
  const sector = new Uint8Array(bytes);
  sector.set([0x55, 0xaa], 510);
  return sector;
};

/** What the plan puts at an address. */
function at(plan: ReturnType<typeof planBoot>, gpa: number, length: number): number[] {
  const ram = new Uint8Array(RAM);
  for (const { gpa: start, bytes } of plan.segments) ram.set(bytes, start);
  return [...ram.subarray(gpa, gpa + length)];
}

const word32 = (plan: ReturnType<typeof planBoot>, gpa: number): number => new DataView(Uint8Array.from(at(plan, gpa, 4)).buffer).getUint32(0, true);
const word64 = (plan: ReturnType<typeof planBoot>, gpa: number): bigint =>
  new DataView(Uint8Array.from(at(plan, gpa, 8)).buffer).getBigUint64(0, true);

describe('a second file', () => {
  const initrd = new Uint8Array(5000).fill(0x77);
  const END = RAM - 8192; // two pages at the end of memory

  it('is a module of PVH', () => {
    const plan = planBoot(elf({ note: pvhNote(0x100001) }), { ...options, initrd });
    const info = Number(plan.regs.rbx);
    expect(word32(plan, info + 12)).toBe(1);
    const entry = Number(word64(plan, info + 16));
    expect([word64(plan, entry), word64(plan, entry + 8), word64(plan, entry + 16)]).toEqual([BigInt(END), 5000n, 0n]);
    expect(at(plan, END + 4998, 3)).toEqual([0x77, 0x77, 0]);
  });
  it('is a module of multiboot', () => {
    const plan = planBoot(multiboot({ addresses: [0x100000, 0x100000, 0x100040, 0x101000, 0x100030] }), { ...options, initrd });
    const info = Number(plan.regs.rbx);
    expect(word32(plan, info) & 8).toBe(8);
    expect(word32(plan, info + 20)).toBe(1);
    const entry = word32(plan, info + 24);
    expect([word32(plan, entry), word32(plan, entry + 4)]).toEqual([END, END + 5000]);
  });
  it('is a ramdisk of the page of parameters', () => {
    const plan = planBoot(elf(), { ...options, initrd });
    expect([word32(plan, Number(plan.regs.rsi) + 0x218), word32(plan, Number(plan.regs.rsi) + 0x21c)]).toEqual([END, 5000]);
  });
  it('makes way for the image, and is refused where there is no room or no way to tell', () => {
    const plan = planBoot(elf({ loads: [{}, { paddr: BigInt(RAM - 4096) }] }), { ...options, initrd });
    expect(word32(plan, Number(plan.regs.rsi) + 0x218)).toBe(RAM - 3 * 4096);
    expect(() => planBoot(elf(), { ...options, initrd: new Uint8Array(3 << 20) })).toThrow(/no room for 3145728 bytes/);
    expect(() => planBoot(bootSector(), { ...options, initrd })).toThrow(/boot-sector door hands over no second file/);
    expect(() => planBoot(CODE, { ...options, door: 'flat', initrd })).toThrow(/flat door hands over no second file/);
  });
});

it('has doors that others install, before its own', () => {
  const plan = { door: 'ours', segments: [], regs: {}, sregs: {} };
  const before = doorNames();
  expect(before.slice(-5)).toEqual(['multiboot', 'pvh', 'long', 'boot-sector', 'flat']);
  installDoors([{ name: 'ours', plan: (image) => (image[0] === 0x11 ? plan : null) }]);
  installDoors([{ name: 'ours', plan: (image) => (image[0] === 0x22 ? plan : null) }]);
  expect(doorNames()).toEqual(['ours', ...before]);
  expect(planBoot(Uint8Array.of(0x22), options).door).toBe('ours');
  expect(() => planBoot(Uint8Array.of(0x11), options)).toThrow(/no way in/);
  expect(planBoot(elf(), options).door).toBe('long');
  installDoors([{ name: 'ours', plan: () => null }]); // closed again: what follows is about the others
});

describe('the doors', () => {
  it('enters a 64-bit ELF file in long mode over identity page tables', () => {
    const plan = planBoot(elf(), options);
    expect(plan.door).toBe('long');
    expect(at(plan, 0x100000, 4)).toEqual([...CODE]);
    expect(plan.regs).toMatchObject({ rip: 0x100000n, rflags: 2n });
    expect(plan.sregs).toMatchObject({ cr4: 0x20n, efer: 0x500n, cs: { l: 1, db: 0, type: 11 } });
    expect((plan.sregs.cr0 as bigint) & 0x8000_0001n).toBe(0x8000_0001n);
    // Walk the tables by hand for the first and the last byte of 4 GiB, and for the byte that a guest's device sits at.
    for (const linear of [0n, 0x123456n, 0xfeb0_0000n, 0xffff_ffffn]) {
      const entry = (table: bigint, shift: bigint): bigint => word64(plan, Number((table & 0xf_ffff_f000n) + ((linear >> shift) & 511n) * 8n));
      const pde = entry(entry(entry(plan.sregs.cr3 as bigint, 39n), 30n), 21n);
      expect(pde & 0x83n).toBe(0x83n); // present, writable, large
      expect((pde & ~0x1f_ffffn) + (linear & 0x1f_ffffn)).toBe(linear);
    }
    // The zero page says how much memory there is.
    const params = Number(plan.regs.rsi);
    expect(at(plan, params + 0x1e8, 1)).toEqual([3]);
    expect(word64(plan, params + 0x2d0 + 40)).toBe(0x100000n);
    expect(word64(plan, params + 0x2d0 + 48)).toBe(BigInt(RAM - 0x100000));
  });

  it.each([32, 64] as const)('finds the PVH note of a %i-bit ELF file', (bits) => {
    const plan = planBoot(elf({ bits, note: pvhNote(0x100001) }), { ...options, commandLine: 'quiet' });
    expect(plan.door).toBe('pvh');
    expect(plan.regs.rip).toBe(0x100001n);
    expect(plan.sregs).toMatchObject({ cr0: 0x11n, cr4: 0n, efer: 0n, cs: { db: 1, l: 0, limit: 0xffff_ffff }, tr: { limit: 0x67, type: 11, s: 0 } });
    const info = Number(plan.regs.rbx);
    expect(word32(plan, info)).toBe(0x336ec578);
    expect(word32(plan, info + 4)).toBe(1);
    expect(new TextDecoder().decode(Uint8Array.from(at(plan, Number(word64(plan, info + 24)), 6)))).toBe('quiet\0');
    expect(word32(plan, info + 48)).toBe(3);
    expect(word64(plan, Number(word64(plan, info + 40)) + 2 * 24)).toBe(0x100000n);
  });

  it('takes the PVH address when the note is aligned as 64-bit notes may be', () => {
    const file = elf({ note: pvhNote(0x100002) });
    new DataView(file.buffer).setBigUint64(64 + 56 + 48, 8n, true); // p_align of the note
    expect(planBoot(file, { ...options, door: 'long' }).door).toBe('long');
  });

  it('enters by multiboot first, with the addresses in the header', () => {
    const file = multiboot({ addresses: [0x100000, 0x100000, 0x100040, 0x101000, 0x100030] });
    const plan = planBoot(file, { ...options, commandLine: 'a b' });
    expect(plan.door).toBe('multiboot');
    expect(plan.regs).toMatchObject({ rip: 0x100030n, rax: 0x2badb002n });
    expect(plan.segments[0]).toMatchObject({ gpa: 0x100000, memoryBytes: 0x1000 });
    const info = Number(plan.regs.rbx);
    expect(word32(plan, info)).toBe(0x45); // memory, command line, map
    expect(word32(plan, info + 8)).toBe((RAM - 0x100000) / 1024);
    expect(word32(plan, info + 44)).toBe(3 * 24);
    expect(word32(plan, word32(plan, info + 48))).toBe(20);
    expect(new TextDecoder().decode(Uint8Array.from(at(plan, word32(plan, info + 16), 4)))).toBe('a b\0');
  });
  it('takes load_end 0 for the end of the file, and bss_end 0 for no bss', () => {
    const plan = planBoot(multiboot({ addresses: [0x100010, 0x100000, 0, 0, 0x100000], at: 16, bytes: 80 }), options);
    expect(plan.segments[0]).toMatchObject({ gpa: 0x100000, memoryBytes: 80 });
    expect(plan.segments[0]?.bytes.length).toBe(80);
  });
  it('falls back to the ELF headers for a multiboot header without addresses', () => {
    const header = multiboot({ flags: 3, bytes: 12 });
    const plan = planBoot(elf({ bits: 32, loads: [{ data: Uint8Array.of(...header, ...CODE) }], entry: 0x10000cn }), options);
    expect(plan).toMatchObject({ door: 'multiboot', regs: { rip: 0x10000cn } });
  });
  it('loads one sector of a disk', () => {
    const plan = planBoot(bootSector(2048), options);
    expect(plan).toMatchObject({ door: 'boot-sector', regs: { rip: 0x7c00n, rdx: 0x80n }, sregs: { cs: { base: 0n, limit: 0xffff, db: 0 } } });
    expect(plan.segments[0]?.bytes.length).toBe(512);
  });
  it('loads a flat binary when asked', () => {
    expect(planBoot(CODE, { ...options, door: 'flat' })).toMatchObject({ door: 'flat', regs: { rip: 0x1000n } });
    expect(planBoot(CODE, { ...options, door: 'flat', flatGpa: 0x7c00 }).segments[0]?.gpa).toBe(0x7c00);
  });
  it('translates a virtual entry point through its segment', () => {
    const plan = planBoot(elf({ entry: 0xffff_ffff_8000_0002n, loads: [{ vaddr: 0xffff_ffff_8000_0000n, paddr: 0x200000n }] }), options);
    expect(plan.regs.rip).toBe(0x200002n);
  });
  it('zeroes what a segment has beyond its file bytes', () => {
    expect(planBoot(elf({ loads: [{ memsz: 0x5000n }] }), options).segments[0]).toMatchObject({ memoryBytes: 0x5000 });
  });
  it('hands over in pages that the image leaves free', () => {
    const plan = planBoot(elf({ loads: [{ paddr: 0x88000n, memsz: 0x9000n }], entry: 0x88000n }), options);
    const own = plan.segments.slice(1);
    expect(own.length).toBe(8);
    for (const { gpa } of own) expect(gpa).toBeGreaterThanOrEqual(0x91000);
    expect(() => planBoot(elf({ loads: [{ paddr: 0x80000n, memsz: 0x20000n }], entry: 0x80000n }), options)).toThrow(/covers the low memory/);
  });
});

describe('hostile images', () => {
  const bad = (image: Uint8Array, message: RegExp, door?: DoorName): void => {
    const call = (): unknown => planBoot(image, door ? { ...options, door } : options);
    expect(call).toThrow(ImageError);
    expect(call).toThrow(message);
  };

  it.each([
    ['an empty file', new Uint8Array(0), /the image is empty/],
    ['noise', new Uint8Array(1000).fill(0x5a), /no way in/],
    ['four bytes of ELF', Uint8Array.of(0x7f, 0x45, 0x4c, 0x46), /reach past the end of the file \(0x4 bytes\)/],
    ['a header cut short', elf().subarray(0, 63), /ELF header: 0x40 bytes at 0x0 reach past the end/],
    ['a segment cut short', elf().subarray(0, 122), /segment at 0x100000: 0x4 bytes at 0x78 reach past the end of the file \(0x7a bytes\)/],
    ['class 3', elf().map((byte, n) => (n === 4 ? 3 : byte)), /ELF class 3/],
    ['big-endian data', elf().map((byte, n) => (n === 5 ? 2 : byte)), /encoding 2/],
    ['an ARM program', elf({ machine: 183 }), /machine 183 is not x86/],
    ['no program headers', elf({ phnum: 0 }), /no program headers/],
    ['program headers past the end', elf({ phoff: 0xffff_ffff_ffff_ffffn }), /program headers: 0x38 bytes at 0xffffffffffffffff/],
    ['65,535 program headers', elf({ phnum: 65535 }), /program headers: 0x37ffc8 bytes/],
    ['program headers of no size', elf({ phentsize: 0 }), /program headers of 0 bytes/],
    ['an entry point outside', elf({ entry: 0x200000n }), /entry point 0x200000 is outside every loaded segment/],
    ["an entry point at a segment's end", elf({ entry: 0x100004n }), /entry point 0x100004/],
    [
      'a segment past memory',
      elf({ loads: [{ paddr: BigInt(RAM) - 2n }], entry: BigInt(RAM) - 2n }),
      /segment at 0x3ffffe of 0x4 bytes does not fit memory of 0x400000/,
    ],
    ['a segment of 2^63 bytes', elf({ loads: [{ memsz: 1n << 63n }] }), /of 0x8000000000000000 bytes does not fit/],
    ['a segment at 2^64 - 1', elf({ loads: [{ paddr: (1n << 64n) - 1n }], entry: (1n << 64n) - 1n }), /segment at 0xffffffffffffffff/],
    ['a file offset that overflows', elf({ loads: [{ offset: (1n << 64n) - 2n }] }), /0x4 bytes at 0xfffffffffffffffe reach past/],
    ['more in the file than in memory', elf({ loads: [{ memsz: 2n }] }), /0x4 bytes in the file, more than its 0x2 in memory/],
    ['segments that overlap', elf({ loads: [{ memsz: 0x2000n }, { paddr: 0x101fffn }] }), /segments overlap: 0x100000\+0x2000 and 0x101fff\+0x4/],
    ['only empty segments', elf({ loads: [{ filesz: 0n, memsz: 0n }] }), /no segment to load/],
    ['a PVH entry outside', elf({ note: pvhNote(0x300000) }), /PVH entry 0x300000 is outside every loaded segment/],
    ['a PVH note without an address', elf({ note: pvhNote(0, 2) }), /holds 2 bytes; an address takes 4/],
    ['multiboot flags nobody knows', multiboot({ flags: 0x8004 }), /flags 0x8004 require 0x8004/],
    ['a multiboot header without ELF or addresses', multiboot(), /not an ELF file/],
    ['multiboot addresses cut short', multiboot({ addresses: [1] }).subarray(0, 24), /cut short/],
    ['load_addr above header_addr', multiboot({ addresses: [0x100000, 0x100004, 0, 0, 0x100004] }), /load_addr 0x100004 is above header_addr/],
    ['load_addr before the file', multiboot({ addresses: [0x100000, 0xfff00, 0, 0, 0x100000] }), /lies 256 bytes before the start/],
    ['load_end_addr below load_addr', multiboot({ addresses: [0x100000, 0x100000, 0xf0000, 0, 0x100000] }), /load_end_addr 0xf0000 is below/],
    [
      'load_end_addr past the file',
      multiboot({ addresses: [0x100000, 0x100000, 0x100041, 0, 0x100000] }),
      /65 bytes at 0x0 reach past the end of the file \(64/,
    ],
    [
      'bss_end_addr below load_end_addr',
      multiboot({ addresses: [0x100000, 0x100000, 0x100040, 0x100010, 0x100000] }),
      /bss_end_addr 0x100010 is below/,
    ],
    ['bss_end_addr past memory', multiboot({ addresses: [0x100000, 0x100000, 0x100040, 0xffff_ffff, 0x100000] }), /does not fit memory/],
    ['a multiboot entry outside', multiboot({ addresses: [0x100000, 0x100000, 0x100040, 0, 0x100040] }), /entry_addr 0x100040 is outside/],
  ])('refuses %s and names the value', (_, image, message) => bad(image as Uint8Array, message as RegExp));

  it.each(['multiboot', 'pvh', 'boot-sector'] as const)('says when an image has no %s door', (door) =>
    bad(elf(), new RegExp(`no ${door} door`), door),
  );
  it('refuses a flat image that is empty, too long or too high', () => {
    bad(new Uint8Array(0), /empty/, 'flat');
    bad(new Uint8Array(RAM), /does not fit/, 'flat');
    expect(() => planBoot(CODE, { ...options, door: 'flat', flatGpa: 0x10000 })).toThrow(/below 64 KiB/);
  });
  it('ignores a multiboot magic whose checksum is wrong, or that lies beyond 8 KiB', () => {
    const wrong = multiboot();
    wrong[8] = (wrong[8] as number) ^ 1;
    bad(wrong, /no way in/);
    bad(multiboot({ bytes: 16384, at: 8192 }), /no way in/);
  });
  it('refuses a command line that is too long', () => {
    expect(() => planBoot(elf(), { ...options, commandLine: 'x'.repeat(2048) })).toThrow(/2048 bytes; 2047/);
    expect(planBoot(elf(), { ...options, commandLine: 'x'.repeat(2047) }).door).toBe('long');
  });
  it('needs a mebibyte', () => expect(() => planBoot(elf(), { ramBytes: 0x80000 })).toThrow(RangeError));
});

// Whatever the bytes are, the loader either refuses with an ImageError or gives a plan all of which lies in memory, without overlaps, with its entry
// point in one of its segments.
describe('any image at all', () => {
  const doors: (DoorName | undefined)[] = [undefined, 'multiboot', 'pvh', 'long', 'boot-sector', 'flat'];

  function holds(image: Uint8Array, door: DoorName | undefined): void {
    let plan: ReturnType<typeof planBoot>;
    try {
      plan = planBoot(image, door ? { ...options, door } : options);
    } catch (error) {
      expect(error).toBeInstanceOf(ImageError);
      expect((error as Error).message.length).toBeLessThan(300);
      return;
    }
    const sorted = [...plan.segments].sort((a, b) => a.gpa - b.gpa);
    let end = 0;
    for (const { gpa, bytes, memoryBytes } of sorted) {
      expect(gpa).toBeGreaterThanOrEqual(end);
      expect(bytes.length).toBeLessThanOrEqual(memoryBytes);
      end = gpa + memoryBytes;
    }
    expect(end).toBeLessThanOrEqual(RAM);
    const rip = Number(plan.regs.rip);
    expect(sorted.some(({ gpa, memoryBytes }) => rip >= gpa && rip < gpa + memoryBytes)).toBe(true);
  }

  const u64 = fc.oneof(fc.bigInt(0n, BigInt(2 * RAM)), fc.bigInt((1n << 64n) - 0x2000n, (1n << 64n) - 1n), fc.bigInt(0n, (1n << 64n) - 1n));
  const small = fc.bigInt(0n, 0x2000n);
  const address = fc.oneof(fc.bigInt(0x80000n, 0x200000n), u64);
  const load = fc.record(
    { paddr: address, vaddr: address, offset: fc.oneof(small, u64), filesz: fc.oneof(small, u64), memsz: fc.oneof(small, u64) },
    { requiredKeys: [] },
  );
  const files = fc
    .record(
      {
        bits: fc.constantFrom(32 as const, 64 as const),
        entry: address,
        loads: fc.array(load, { minLength: 0, maxLength: 4 }),
        note: fc.option(fc.integer({ min: 0, max: 0x7fffffff }).map((entry) => pvhNote(entry))),
        phoff: u64,
        phentsize: fc.nat(65535),
        phnum: fc.nat(65535),
      },
      { requiredKeys: ['bits', 'entry', 'loads'] },
    )
    .map((parts) => elf(parts as Elf));
  const multiboots = fc
    .record({
      flags: fc.nat(0x3ffff),
      addresses: fc.array(fc.oneof(fc.integer({ min: 0xff000, max: 0x101000 }), fc.nat(0xffffffff)), { maxLength: 5 }),
      at: fc.nat(16),
    })
    .map(({ at: n, ...rest }) => multiboot({ ...rest, at: 4 * n, bytes: 256 }));
  const damaged = fc.tuple(files, fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 4 }), fc.nat(300)).map(([file, changes, cut]) => {
    const copy = file.slice(0, file.length - Math.min(cut > 200 ? cut - 200 : 0, file.length));
    for (const [where, value] of changes) if (where < copy.length) copy[where] = value;
    return copy;
  });

  for (const [what, arbitrary] of [
    ['random headers', files],
    ['damaged files', damaged],
    ['multiboot headers', multiboots],
    ['random bytes', fc.uint8Array({ maxLength: 600 })],
  ] as const) {
    it(`is refused or placed: ${what}`, () => {
      fc.assert(
        fc.property(arbitrary, fc.constantFrom(...doors), (image, door) => holds(image, door)),
        { numRuns: 400 },
      );
    });
  }
});
