// # A program that never stops writing programs
//
// What is kept of decoded and translated code is bounded, and a test of a second does not show it: garbage takes its time to become a problem.
// `ringbook bench code` runs a program that writes code for as long as one likes -- a billion instructions, unless told otherwise. It writes
// functions over functions and calls each a few times, as a just-in-time compiler does; it rewrites a number in an instruction each time round; and
// now and then it writes a loop that becomes hot, on a page where hot loops have been before, so that there is something to translate, and to throw
// away. At intervals the sizes of everything that is kept are printed. When one of them still grows after the first third of the run, the run has
// failed. So it has if the program comes to another result than the same sums in TypeScript.

import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { FlatMachine } from '../../chapters/01-hardware-background/engine/flat-machine.ts';
import { SLOT } from '../../chapters/01-hardware-background/state.ts';

const USAGE = `usage: ringbook bench code [--instructions N] [--intervals N]

  --instructions  how many the program executes (1e9)
  --intervals     how often the sizes are looked at (20)`;

const RAM_BYTES = 48 << 20;
const ENTRY = 0x1000;
const PATCHED = 0x3000;
const STACK = 0x80000;
const FRESH = { at: 0x10_0000, bytes: 1 << 20, step: 64 };
const HOT = { at: 0x100_0000, bytes: 16 << 20, step: 4096 + 64 };
/** Turns of a hot loop; calls of a fresh function; fresh functions for each hot loop. */
const TURNS = 12_000;
const CALLS = 8;
const PERIOD = 128;
/** Every such loop is to be translated, however patient the engine is by itself. */
const HEAT = TURNS / 4;
/** After a third of these, as many regions as may be kept have been compiled. */
const LEAST = 2e8;

const word = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >>> 24) & 0xff];
/** Moves a pointer on, round its buffer: `add r, step; and r, bytes - 1; or r, at`. */
const advance = (register: number, { at, bytes, step }: typeof FRESH): number[] =>
  [0xc0, 0xe0, 0xc8].flatMap((modrm, n) => [0x81, modrm | register, ...word([step, bytes - 1, at][n] as number)]);
const [EBP, EDI] = [5, 7];

// EBX counts; EDI and EBP say where to write next; ESI adds up what the functions return in EAX.

// biome-ignore format: a program
const EACH = [
  // A function: mov ecx, EBX; mov eax, ecx; add eax, ecx; rol eax, 5; xor eax, ecx; ret.
  0xc6, 0x07, 0xb9, 0x89, 0x5f, 0x01, // mov byte [edi], ..; mov [edi+1], ebx
  0xc7, 0x47, 0x05, 0x89, 0xc8, 0x01, 0xc8, 0xc7, 0x47, 0x09, 0xc1, 0xc0, 0x05, 0x31, 0x66, 0xc7, 0x47, 0x0d, 0xc8, 0xc3,
  0xba, ...word(CALLS), 0xff, 0xd7, 0x01, 0xc6, 0x4a, 0x75, 0xf9, // mov edx, CALLS; { call edi; add esi, eax; dec edx; jnz }
  ...advance(EDI, FRESH),
  0x89, 0x1d, ...word(PATCHED + 1), // mov [PATCHED+1], ebx
  0xb9, ...word(PATCHED), 0xff, 0xd1, 0x01, 0xc6, // mov ecx, PATCHED; call ecx; add esi, eax
  0x43, 0xf6, 0xc3, PERIOD - 1, // inc ebx; test bl, PERIOD-1
];
// biome-ignore format: a program
const SOMETIMES = [
  // A loop: mov ecx, TURNS; { add eax, EBX; xor eax, ecx; dec ecx; jnz }; ret.
  0xc6, 0x45, 0x00, 0xb9, 0xc7, 0x45, 0x01, ...word(TURNS), 0xc6, 0x45, 0x05, 0x05, 0x89, 0x5d, 0x06,
  0xc7, 0x45, 0x0a, 0x31, 0xc8, 0x49, 0x75, 0x66, 0xc7, 0x45, 0x0e, 0xf6, 0xc3,
  0xff, 0xd5, 0x01, 0xc6, // call ebp; add esi, eax
  ...advance(EBP, HOT),
];
const JNZ_BYTES = 6;
const JMP_BYTES = 5;
const PROGRAM = [
  ...EACH,
  ...[0x0f, 0x85, ...word(-(EACH.length + JNZ_BYTES))],
  ...SOMETIMES,
  ...[0xe9, ...word(-(EACH.length + JNZ_BYTES + SOMETIMES.length + JMP_BYTES))],
];
const ADDER = [0x05, ...word(0), 0xc3]; // add eax, imm; ret

/** ESI when EBX has got to `count`, at the same point of the program: right behind INC EBX. */
function sumAt(count: number): number {
  let [sum, a] = [0, 0];
  for (let n = 0; n < count; n++) {
    if (n > 0 && n % PERIOD === 0) {
      for (let c = TURNS; c > 0; c--) a = ((a + n) | 0) ^ c;
      sum = (sum + a) | 0;
    }
    const twice = 2 * n;
    a = ((twice << 5) | (twice >>> 27)) ^ n;
    sum = (sum + Math.imul(a, CALLS)) | 0;
    a = (a + n) | 0;
    sum = (sum + a) | 0;
  }
  return sum >>> 0;
}

/** What is kept at one moment. Bytes, but for the counts. */
export interface Sizes {
  readonly instructions: number;
  readonly blocks: number;
  readonly codePages: number;
  readonly records: number;
  readonly shapes: number;
  readonly regions: number;
  readonly modules: number;
  readonly compiled: number;
  readonly slots: number;
  readonly heap: number;
  readonly resident: number;
}
/** Figures that must not grow, and by how much they may vary all the same. */
const BOUNDED = [
  ['blocks', 2000],
  ['codePages', 64],
  ['records', 0],
  ['shapes', 64],
  ['regions', 16],
  ['modules', 1 << 20],
  ['slots', 16],
  ['heap', 32 << 20],
  ['resident', 96 << 20],
] as const;

/** Which figures were larger in the last third of the run than ever in the second, and by more than they may vary. */
export function growing(sizes: readonly Sizes[]): string[] {
  const third = Math.floor(sizes.length / 3);
  return BOUNDED.filter(([name, slack]) => {
    const most = (part: readonly Sizes[]): number => Math.max(...part.map((each) => each[name]));
    return most(sizes.slice(2 * third)) > 1.1 * most(sizes.slice(third, 2 * third)) + slack;
  }).map(([name]) => name);
}

/** The garbage collector, so that the heap is what is alive and not what happens to lie about. */
function collector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}

/** Runs the program for so many instructions. @throws Error when it comes to a wrong result */
export function changeCode(instructions: number, intervals: number, seen: (sizes: Sizes) => void): void {
  const m = new FlatMachine(32, RAM_BYTES, { heat: HEAT });
  const { state, engine } = m;
  const collect = collector();
  m.memory.slice(PATCHED, ADDER.length).set(ADDER);
  state.setSlotNumber(SLOT.RSP, STACK);
  state.setSlotNumber(SLOT.RDI, FRESH.at);
  state.setSlotNumber(SLOT.RBP, HOT.at);
  m.run(PROGRAM, { at: ENTRY, instructions: 0 });
  const incremented = ENTRY + EACH.length - 3;
  for (let n = 1; n <= intervals; n++) {
    const stop = m.resume(Math.ceil(instructions / intervals));
    if (stop.kind !== 'deadline') throw new Error(`the program has stopped: ${JSON.stringify(stop)}`);
    collect();
    const { heapUsed, rss } = process.memoryUsage();
    seen({ instructions: Math.ceil(instructions / intervals) * n, ...engine.sizes, heap: heapUsed, resident: rss });
  }
  while (state.slot32(SLOT.RIP) !== incremented) m.resume(1);
  const [count, sum] = [state.slot32(SLOT.RBX), state.slot32(SLOT.RSI)];
  if (sum !== sumAt(count)) throw new Error(`after ${count} functions the sum is ${sum.toString(16)} and not ${sumAt(count).toString(16)}`);
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const line = (s: Sizes): string =>
  `${(s.instructions / 1e6).toFixed(0).padStart(6)} M  code cache ${mib(s.records)}: ${s.blocks} blocks on ${s.codePages} pages, ${s.shapes} shapes; ` +
  `${s.regions} regions of ${s.compiled} compiled, modules ${mib(s.modules)}, ${s.slots} slots; heap ${mib(s.heap)}, resident ${mib(s.resident)}`;

/** The command. Returns the exit status. */
export function benchCode(args: string[]): number {
  const { values } = parseArgs({
    args,
    options: {
      instructions: { type: 'string', default: '1e9' },
      intervals: { type: 'string', default: '20' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const [instructions, intervals] = [Number(values.instructions), Number(values.intervals)];
  if (!(instructions >= LEAST) || !(intervals >= 6)) throw new RangeError(`at least ${LEAST / 1e6} million instructions, and six intervals`);
  const sizes: Sizes[] = [];
  const before = process.cpuUsage();
  changeCode(instructions, intervals, (now) => {
    sizes.push(now);
    console.log(line(now));
  });
  const { user, system } = process.cpuUsage(before);
  const grown = growing(sizes);
  console.log(
    `code: ${instructions} instructions that change code in ${((user + system) / 1e6).toFixed(1)} s of processor time, ` +
      (grown.length === 0 ? 'nothing has grown' : `still growing: ${grown.join(', ')}`),
  );
  return grown.length === 0 ? 0 : 1;
}
