// # Guests that do one thing
//
// Each is a loop: the same operation so many times, then one OUT to a port by which whoever measures counts the laps. The same bytes run on the kernel of this
// book, on the host's, and in QEMU, which differ only in how the processor gets into the state below.

const MiB = 1 << 20;

/** Where the loop's code is in all guests. */
export const CODE = 0x1000;
export const STACK = 0x8000;
const HANDLER = 0x2000;
/** The port that ends a lap: to user space on both kernels, and standard output in QEMU. */
export const LAP_PORT = 0xe9;
/** Operations in one lap. */
export const LAP = 2000;

const dword = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
const lapAndJump = (loopBytes: number): number[] => [0xe6, LAP_PORT, 0xe9, ...dword(-(loopBytes + 7))]; // out; jmp rel32

/** Memory as the guest finds it, and how its processor starts. */
export interface Guest {
  readonly ramBytes: number;
  /** By guest physical address. */
  readonly contents: ReadonlyMap<number, Uint8Array>;
  readonly start: { readonly mode: 'real'; readonly dsBase: number } | { readonly mode: 'long'; readonly user: boolean; readonly cr3: number };
  /** How many operations a lap has. */
  readonly lap: number;
}

// ## In real mode
//
// Sixteen bits are enough for a loop, and every kernel can run them. DS is given a base, so that the loop reaches what it measures.

interface RealLoop {
  readonly body: readonly number[];
  /** Executed once. */
  readonly setUp?: readonly number[];
  /** Linear address that offset 0 of DS means. */
  readonly dsBase?: number;
  /** Interrupt handlers by vector. */
  readonly handlers?: Readonly<Record<number, readonly number[]>>;
  readonly lap?: number;
}

/** ESI counts, so the body must leave it alone. */
function realGuest({ body, setUp = [], dsBase = 0, handlers = {}, lap = LAP }: RealLoop): Guest {
  const back = body.length + 6;
  const loop = [0x66, 0xbe, ...dword(lap), ...body, 0x66, 0x4e, 0x0f, 0x85, ...dword(-back).slice(0, 2)]; // mov esi, lap; body; dec esi; jnz body
  const far = -(loop.length + 5);
  const code = [...setUp, ...loop, 0xe6, LAP_PORT, 0xe9, far & 0xff, (far >> 8) & 0xff];
  const contents = new Map<number, Uint8Array>([[CODE, Uint8Array.from(code)]]);
  const vectors = new Uint8Array(0x400);
  Object.entries(handlers).forEach(([vector, bytes], index) => {
    const at = HANDLER + 0x100 * index;
    contents.set(at, Uint8Array.from(bytes));
    new DataView(vectors.buffer).setUint32(4 * Number(vector), at, true); // segment 0
  });
  contents.set(0, vectors);
  return { ramBytes: MiB, contents, start: { mode: 'real', dsBase }, lap };
}

const NOTHING_THERE = 0xd000_0000;
const LOCAL_APIC = 0xfee0_0000;
/** A port that no chip of a PC cares about, and the address of an MMIO doorbell. */
export const BELL_PORT = 0x80;
export const BELL_GPA = NOTHING_THERE;
export const IRQFD_GSI = 5;
const TIMER_VECTOR = 0x40;
const PIC_VECTOR = 0x20;

const out8 = (port: number, value: number): number[] => [0xb0, value, 0xe6, port];
const apicWrite = (offset: number, value: number): number[] => [0x66, 0xc7, 0x06, offset & 0xff, offset >> 8, ...dword(value)];
const IRET = 0xcf;

/** One exit, or what would be one, in each turn. */
export const REAL = {
  portWrite: () => realGuest({ body: [0xe6, BELL_PORT] }),
  picRead: () => realGuest({ body: [0xe4, 0x21] }),
  mmioWrite: () => realGuest({ body: [0xa2, 0, 0], dsBase: NOTHING_THERE }), // mov [0], al
  mmioRead: () => realGuest({ body: [0xa0, 0, 0], dsBase: NOTHING_THERE }),
  apicRead: () => realGuest({ body: [0x66, 0xa1, 0x20, 0], dsBase: LOCAL_APIC }), // mov eax, [0x20]
  cpuid: () => realGuest({ body: [0x66, 0x31, 0xc0, 0x0f, 0xa2] }),
  softwareInterrupt: () => realGuest({ body: [0xcd, 0x21], handlers: { 33: [IRET] } }),
  // A one-shot timer, and HLT until it comes: 1000 counts of the bus clock.
  timerWake: () =>
    realGuest({
      dsBase: LOCAL_APIC,
      setUp: [...apicWrite(0xf0, 0x1ff), ...apicWrite(0x3e0, 0xb), ...apicWrite(0x320, TIMER_VECTOR)],
      body: [0xfa, ...apicWrite(0x380, 1000), 0xfb, 0xf4],
      handlers: { [TIMER_VECTOR]: [...apicWrite(0xb0, 0), IRET] },
      lap: 200,
    }),
  // Sleeps; the handler ends the lap.
  irqfd: () =>
    realGuest({
      setUp: [...out8(0x20, 0x11), ...out8(0x21, PIC_VECTOR), ...out8(0x21, 4), ...out8(0x21, 1), ...out8(0x21, 0xff & ~(1 << IRQFD_GSI)), 0xfb],
      body: [0xf4, 0xeb, 0xfd], // l: hlt; jmp l
      handlers: { [PIC_VECTOR + IRQFD_GSI]: [0xe6, LAP_PORT, ...out8(0x20, 0x20), IRET] },
      lap: 1,
    }),
} as const satisfies Record<string, () => Guest>;

// ## In long mode
//
// Loads far apart, so that each needs a translation of its own, against as many loads close together. Both touch the same number of cache lines in a pattern
// that no cache set is too small for; what is left of the difference is the price of a translation.

const [ROOT_A, ROOT_B] = [1 * MiB, 2 * MiB];
const DATA = 4 * MiB;
const RAM = 24 * MiB;
/** More pages than any TLB here holds. */
export const FAR_PAGES = 4096;
const LINE = 64;
/** Pages of the working set of the guest that switches, and entries that the one that remaps changes in a lap. */
export const WORKING_SET = 16;
const REMAPPED = 256;
const WINDOW = 23 * MiB;

const USER_RW = 7;
const LARGE = 0x80;

/** Identity tables for all of RAM. */
function tables(root: number, large: boolean): [number, Uint8Array] {
  const count = 3 + (large ? 0 : RAM / (2 * MiB));
  const bytes = new Uint8Array(count * 4096);
  const view = new DataView(bytes.buffer);
  const entry = (table: number, index: number, value: number): void => view.setBigUint64(table * 4096 + index * 8, BigInt(value | USER_RW), true);
  entry(0, 0, root + 4096);
  entry(1, 0, root + 8192);
  for (let n = 0; n < RAM / (2 * MiB); n++) entry(2, n, large ? (n * 2 * MiB) | LARGE : root + (3 + n) * 4096);
  if (!large) for (let n = 0; n < RAM / 4096; n++) entry(3 + (n >> 9), n & 511, n * 4096);
  return [root, bytes];
}

const longGuest = (code: readonly number[], lap: number, { large = false, user = false } = {}): Guest => ({
  ramBytes: RAM,
  contents: new Map([[CODE, Uint8Array.from(code)], tables(ROOT_A, large), tables(ROOT_B, large)]),
  start: { mode: 'long', user, cr3: ROOT_A },
  lap,
});

// l: mov al, [rdi]; add rdi, stride; dec ecx; jnz l
const loads = (count: number, stride: number): number[] => [
  ...[0xbf, ...dword(DATA), 0xb9, ...dword(count)],
  ...[0x8a, 0x07, 0x48, 0x81, 0xc7, ...dword(stride), 0xff, 0xc9, 0x75, 0xf3],
];
const forEver = (body: readonly number[]): number[] => [...body, ...lapAndJump(body.length)];

/** The guests for memory, with the size of their own pages. */
export const LONG = {
  far: (large: boolean, user: boolean) => longGuest(forEver(loads(FAR_PAGES, 4096 + LINE)), FAR_PAGES, { large, user }),
  near: (large: boolean, user: boolean) => longGuest(forEver(loads(FAR_PAGES, LINE)), FAR_PAGES, { large, user }),
  /** A context switch, and a load from each page of a working set. */
  switch: () => {
    const to = (root: number): number[] => [0xb8, ...dword(root), 0x0f, 0x22, 0xd8, ...loads(WORKING_SET, 4096)]; // mov eax, root; mov cr3, rax
    return longGuest(forEver([...to(ROOT_A), ...to(ROOT_B)]), 2);
  },
  /** Maps a page, writes to it, unmaps it. */
  remap: () => {
    const body = [
      ...[0xbb, ...dword(ROOT_A + 3 * 4096 + (WINDOW / 4096) * 8), 0xbf, ...dword(WINDOW), 0xba, ...dword(DATA | 3), 0xbd, ...dword(REMAPPED)],
      ...[0x48, 0x89, 0x13, 0xc6, 0x07, 0x01], // l: mov [rbx], rdx; mov byte [rdi], 1
      ...[0x48, 0xc7, 0x03, 0, 0, 0, 0, 0x0f, 0x01, 0x3f], // mov qword [rbx], 0; invlpg [rdi]
      ...[0x48, 0x83, 0xc3, 0x08, 0x48, 0x81, 0xc7, ...dword(4096), 0x48, 0x81, 0xc2, ...dword(4096)], // the next entry, page and value
      ...[0xff, 0xcd, 0x75, 0xda], // dec ebp; jnz l
    ];
    return longGuest(forEver(body), REMAPPED);
  },
} as const;
