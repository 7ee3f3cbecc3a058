// # What a process cannot be asked
//
// The fuzzer's first oracle is the processor at hand, in user mode. Real mode, descriptor tables, control registers, gates and tasks are for a kernel to try, and
// no processor lends itself to that for a moment. So the second oracle is QEMU's TCG: a processor written by other people from the same manuals. It is the weaker
// one, and where the two differ the manual decides; what TCG is known to do differently is a table further down.
//
// A batch of cases is one image of a small machine's memory: `system.S`, the tables, the cases. It is started from its beginning under QEMU, whose RAM is a file that
// can be read afterwards, and on the modelled processor.

import { spawn, spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Cpu } from '../../../cpu.ts';
import { PhysicalMemory } from '../../../physical-memory.ts';
import { FLAG, SEG, SLOT } from '../../../state.ts';
import { gate } from '../../../system/laboratory.ts';
import type { PortBus } from '../../../system/ports.ts';
import { NO_PORTS } from '../../../system/surroundings.ts';
import {
  AT,
  BATCH,
  CASE,
  CODE_BYTES,
  CODE_PAGE,
  DATA_BYTES,
  DESCRIPTORS,
  ENDLESS,
  hasParagraphs,
  IVT_BYTES,
  LOW_BYTES,
  OUTCOME,
  RAM_BYTES,
  SEL,
  SHUT_DOWN,
  type SystemCase,
  SystemInventor,
  TEMPLATES,
} from './system-cases.ts';
import { Random } from './values.ts';

// ## Images

const PROGRAM = new URL('system.S', import.meta.url).pathname;
/** Null when the tools are here. */
export function systemOracleMissing(): string | null {
  if (spawnSync('as', ['--version']).status !== 0) return 'needs the GNU assembler';
  return spawnSync('qemu-system-i386', ['--version']).status === 0 ? null : 'needs qemu-system-i386';
}

function assemble(directory: string): Uint8Array {
  const [object, flat] = [join(directory, 'system.o'), join(directory, 'system.bin')];
  const symbols = Object.entries(AT).flatMap(([name, value]) => ['--defsym', `${name}=${value}`]);
  const at = (section: string, address: number): string => `--section-start=${section}=0x${address.toString(16)}`;
  for (const [tool, ...words] of [
    ['as', '--32', ...symbols, '-o', object, PROGRAM],
    ['ld', '-m', 'elf_i386', at('.text', AT.BASE), at('.high', AT.HIGH), '-e', '_start', '--oformat', 'binary', '-o', flat, object],
  ] as [string, ...string[]][]) {
    const built = spawnSync(tool, words, { encoding: 'utf8' });
    if (built.status !== 0) throw new Error(`${tool}: ${built.stderr}`);
  }
  return readFileSync(flat);
}

/** Memory with everything in it but cases. */
function emptyImage(program: Uint8Array): Uint8Array {
  const image = new Uint8Array(RAM_BYTES);
  const view = new DataView(image.buffer);
  image.set(program, AT.BASE);
  image.fill(0xcc, AT.CODE, AT.CODE + CODE_PAGE);
  const pair = (at: number, [lo, hi]: readonly [number, number]): void => {
    view.setUint32(at, lo, true);
    view.setUint32(at + 4, hi, true);
  };
  for (let vector = 0; vector < 256; vector++) {
    view.setUint16(4 * vector, AT.STUBS16 + 8 * vector, true);
    // Programs may use some gates; and there are trap gates, and some of 16 bits.
    const open = vector === 3 || vector === 4 || (vector >= 0x80 && vector < 0xc0);
    const type = vector >= 0xb0 && vector < 0xb8 ? 0x86 : vector & 1 && vector > 31 ? 0x8f : 0x8e;
    pair(AT.IDT + 8 * vector, gate(SEL.CODE, AT.STUBS32 + 16 * vector, type | (open ? 0x60 : 0)));
  }
  for (const [n, [lo, hi]] of DESCRIPTORS.slice(0, 5).entries()) pair(AT.OWN_GDT + 8 * n, [lo, n === 0 ? 0 : hi | 0x100]); // accessed
  for (let n = 0; n < 1024; n++) view.setUint32(AT.DIRECTORY + 4 * n, ((n << 22) | 0xe7) >>> 0, true);
  image.copyWithin(AT.LOW_COPY, 0, IVT_BYTES);
  image.copyWithin(AT.LOW_COPY + IVT_BYTES, AT.BASE, AT.BASE + LOW_BYTES);
  return image;
}

/** Writes a case down as `system.S` reads it. */
function writeCase(view: DataView, index: number, { mode, pieces, flags, gpr, segments, codeAt, cr0, cr4, data }: SystemCase): void {
  const at = AT.CASES + index * CASE.BYTES;
  view.setUint32(at + CASE.MODE, mode === 'real' ? 0 : 1, true);
  view.setUint32(at + CASE.FLAGS, flags >>> 0, true);
  for (const [n, value] of gpr.entries()) view.setUint32(at + CASE.GPR + 4 * n, value >>> 0, true);
  for (const [n, value] of segments.entries()) view.setUint16(at + CASE.SEGMENTS + 2 * n, value, true);
  view.setUint32(at + CASE.EIP, hasParagraphs(mode) ? codeAt : AT.CODE + codeAt, true);
  view.setUint32(at + CASE.CR0, cr0 >>> 0, true);
  // With paging, pages are of 4 MiB.
  view.setUint32(at + CASE.CR4, cr4 | (cr0 < 0 ? 0x10 : 0), true);
  view.setUint32(at + CASE.DATA, data, true);
  view.setUint32(at + CASE.CODE_AT, AT.CODE + codeAt, true);
  const bytes = new Uint8Array(CODE_BYTES).fill(0xcc);
  bytes.set([...pieces.flatMap((piece) => piece.bytes), 0x0f, 0x0b]);
  new Uint8Array(view.buffer).set(bytes, at + CASE.CODE);
}

// ## Two processors

/** What no case may change. */
const FIXED = [
  [AT.HIGH, AT.CONTROL],
  [AT.LOW_COPY, AT.LOW_COPY + IVT_BYTES + LOW_BYTES],
] as const;
/** What is written over by hand when a case has not come to an end: that, and what is low. */
const OWN = [...FIXED, [0, IVT_BYTES], [AT.BASE, AT.BASE + LOW_BYTES]] as const;
const isIntact = (memory: Uint8Array, image: Uint8Array): boolean =>
  FIXED.every(([from, to]) => Buffer.compare(memory.subarray(from, to), image.subarray(from, to)) === 0);

/** All that TCG has, but for bits of CR4 that are not modelled. */
const PROCESSOR = 'max,la57=off,pku=off,pks=off';

/** The oracle: QEMU, its memory a file. */
class Qemu implements Disposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'ringbook-system-'));
  readonly #ram: number;
  readonly program: Uint8Array;
  constructor() {
    this.program = assemble(this.#directory);
    const rom = new Uint8Array(0x10000).fill(0xf4);
    rom.set([0xea, AT.BASE & 0xff, AT.BASE >> 8, 0, 0], 0xfff0);
    writeFileSync(join(this.#directory, 'rom'), rom);
    this.#ram = openSync(join(this.#directory, 'ram'), 'w+');
    ftruncateSync(this.#ram, RAM_BYTES);
  }
  #word(at: number): number {
    const word = new Uint8Array(4);
    readSync(this.#ram, word, 0, 4, at);
    return new DataView(word.buffer).getUint32(0, true);
  }
  #setWord(at: number, value: number): void {
    const word = new Uint8Array(4);
    new DataView(word.buffer).setUint32(0, value, true);
    writeSync(this.#ram, word, 0, 4, at);
  }

  /** Runs an image to its end, and leaves what memory holds then in it. */
  async run(image: Uint8Array): Promise<void> {
    writeSync(this.#ram, image, 0, RAM_BYTES, 0);
    const file = (name: string): string => join(this.#directory, name);
    const machine = [
      '-machine',
      'pc,memory-backend=ram,hpet=off',
      '-m',
      '16',
      '-object',
      `memory-backend-file,id=ram,size=16M,mem-path=${file('ram')},share=on`,
    ];
    const quiet = ['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'none', '-monitor', 'none', '-bios', file('rom')];
    for (;;) {
      const words = ['-accel', 'tcg', '-cpu', PROCESSOR, ...machine, ...quiet, '-device', 'isa-debug-exit,iobase=0xf4,iosize=4'];
      const child = spawn('qemu-system-i386', words, { stdio: ['ignore', 'ignore', 'pipe'] });
      let complaint = '';
      child.stderr?.on('data', (data) => (complaint += data));
      let last = -1;
      const watch = setInterval(() => {
        const now = this.#word(AT.CONTROL);
        if (now === last) child.kill('SIGKILL');
        last = now;
      }, 8000);
      await new Promise((resolve) => child.on('exit', resolve));
      clearInterval(watch);
      if (this.#word(AT.CONTROL + 12) === 1) break;
      if (last < 0) throw new Error(`QEMU ended early: ${complaint}`);
      // A case without end, there: the first one without an outcome. It may have done anything.
      const count = new DataView(image.buffer).getUint32(AT.CONTROL + 4, true);
      let current = 0;
      while (current < count - 1 && this.#word(AT.OUTCOMES + current * OUTCOME.BYTES) !== 0) current++;
      for (const [from, to] of OWN) writeSync(this.#ram, image, from, to - from, from);
      this.#setWord(AT.OUTCOMES + current * OUTCOME.BYTES, ENDLESS);
      for (const [n, value] of [current + 1, count, 0, 0].entries()) this.#setWord(AT.CONTROL + 4 * n, value);
    }
    readSync(this.#ram, image, 0, RAM_BYTES, 0);
  }
  [Symbol.dispose](): void {
    closeSync(this.#ram);
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

const PATIENCE = 50_000;
const TICK = 0x80;
const CODE_END = AT.CODE + CODE_PAGE;

/**
 * The same on the modelled processor. Returns the cases that the other one is not to be asked about: without end, or run wild: executing what is no code, or
 * writing over the program that runs them.
 */
function runModelled(image: Uint8Array, cases: readonly SystemCase[], translated: boolean): Set<number> {
  const memory = new PhysicalMemory({ ramBytes: RAM_BYTES });
  const ram = memory.slice(0, RAM_BYTES);
  ram.set(image);
  const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  const ports: PortBus = { read: NO_PORTS.read, write: (port) => void (port === TICK && cpu.requestStop()) };
  const cpu = new Cpu({ memory, ports, translate: translated, heat: 0 });
  const start = (): void => {
    cpu.reset();
    cpu.state.setSegSelector(SEG.CS, 0);
    cpu.state.setSegBase(SEG.CS, 0n);
    cpu.state.setSlotNumber(SLOT.RIP, AT.BASE);
    cpu.state.setSlotNumber(SLOT.NEXT_RIP, AT.BASE);
    cpu.modeChanged();
  };
  const wild = new Set<number>();
  const restore = (): void => {
    for (const [from, to] of OWN) {
      cpu.engine.codeWritten(from, to - from);
      ram.set(image.subarray(from, to), from);
    }
  };
  start();
  let down = -1; // the case that has shut the processor down
  for (let now = 0; now < cases.length; ) {
    const stop = cpu.run(PATIENCE);
    if (stop.kind === 'shutdown' && down !== now) {
      down = now;
      start();
      continue;
    }
    const ended = stop.kind === 'stop' && view.getUint32(AT.CONTROL, true) === now + 1;
    const clean = isIntact(ram, image);
    if (!ended || !clean || !endedInCode(view, now)) wild.add(now);
    now++;
    if (clean && ended) continue;
    restore();
    view.setUint32(AT.CONTROL, now, true);
    view.setUint32(AT.CONTROL + 4, cases.length, true);
    view.setUint32(AT.CONTROL + 8, 0, true);
    start();
  }
  image.set(ram);
  return wild;
}

/** True when the exception that ended case number `index` came from the code, and found the stack in a place that is known. */
function endedInCode(view: DataView, index: number): boolean {
  const at = AT.OUTCOMES + index * OUTCOME.BYTES;
  const kind = view.getUint32(at + OUTCOME.KIND, true);
  if (kind === SHUT_DOWN) return true;
  const wide = kind === 2 && (view.getUint32(at + OUTCOME.FRAME + 4 * FRAME32.indexOf('eflags'), true) & FLAG.VM) === 0;
  const field = (name: string): number =>
    kind === 2
      ? view.getUint32(at + OUTCOME.FRAME + 4 * FRAME32.indexOf(name), true)
      : view.getUint16(at + OUTCOME.FRAME + 2 * WORDS16.indexOf(name === 'eip' ? 'ip' : name), true);
  const linear = field('eip') + (wide ? 0 : 16 * (field('cs') & 0xffff));
  if (linear < AT.CODE || linear >= CODE_END) return false;
  const stack = (field('esp') & 0xffff) + (kind === 2 ? 0 : 16 * view.getUint16(at + OUTCOME.SS, true));
  return (stack >= AT.DATA && stack < AT.DATA + DATA_BYTES) || (stack >= AT.STACK - 0x800 && stack < AT.STACK);
}

// ## Comparing

const KINDS = ['nothing', 'real-mode handler', 'handler', 'shutdown', 'endless'];
const FRAME32 = [
  'gs',
  'fs',
  'es',
  'ds',
  'edi',
  'esi',
  'ebp',
  'esp',
  'ebx',
  'edx',
  'ecx',
  'eax',
  'vector',
  'error',
  'eip',
  'cs',
  'eflags',
  'old esp',
  'old ss',
];
const SYSTEM_FIELDS = ['cr0', 'cr2', 'cr3', 'cr4', 'dr6', 'dr7', 'gdt limit', 'gdt base', 'idt limit', 'idt base', 'ldtr, tr'];
const WORDS16 = [
  'gs',
  'fs',
  'es',
  'ds',
  'edi',
  '',
  'esi',
  '',
  'ebp',
  '',
  'esp',
  '',
  'ebx',
  '',
  'edx',
  '',
  'ecx',
  '',
  'eax',
  '',
  'vector',
  'ip',
  'cs',
  'flags',
];

/** What is where in an outcome. */
function nameOf(kind: number, at: number): string {
  if (at >= OUTCOME.BREAKPOINTS) return 'dr0-3';
  if (at >= OUTCOME.SYSTEM) return SYSTEM_FIELDS[(at - OUTCOME.SYSTEM) >> 2] ?? 'system';
  if (at >= OUTCOME.SS) return 'ss';
  const n = at - OUTCOME.FRAME;
  if (kind === 2) return FRAME32[n >> 2] ?? 'frame';
  return [WORDS16[n >> 1] || WORDS16[(n >> 1) - 1], WORDS16[(n >> 1) + 1]].filter(Boolean).join('/') || 'frame';
}

// TCG deviates from the manual in these ways; each was looked up there when it was found.

interface Deviation {
  readonly names: RegExp;
  /** One of the differences. */
  readonly difference: RegExp;
  readonly reason: string;
}
// biome-ignore format: table
const DEVIATIONS: readonly Deviation[] = [
  // SDM vol. 2, MOV to and from control registers: #UD for CR1 and CR5 to CR7, which no privilege changes; the processor at hand says so, too.
  { names: /MOV (from )?CR/, difference: /^vector d, ours 6/, reason: 'a register that does not exist is forbidden before it is undefined' },
  // SDM vol. 2, LTR: "#GP(0) if the source operand contains a NULL segment selector".
  { names: /LTR/, difference: /^ldtr, tr ([0-3]00)?68,/, reason: 'LTR takes a null selector' },
  // SDM vol. 2, IRET: the return to virtual-8086 mode is for CPL 0. Elsewhere VM in the image does nothing.
  // SDM vol. 2, LAR: "the bits in the position of the limit are undefined".
  { names: /LAR/, difference: /^e?.. [0-9a-f]?0[0-9a-f]{4}, ours [0-9a-f]?f[0-9a-f]{4}/, reason: 'what is undefined in the result of LAR' },
  // SDM vol. 2, CALL and JMP: "#GP(0) if the offset is beyond the code segment limit".
  { names: /FAR/, difference: /^error [0-9a-f]*[048c], ours 0$/, reason: 'the error code of a far target beyond the limit' },
  // SDM vol. 3, "16-Bit Task-State Segment (TSS)", has room for the lower halves of eight registers and four segments, and says nothing of the rest.
  { names: /FAR|IRET/, difference: /^esp [0-9a-f]*, ours ffff/, reason: 'what a 16-bit task does not have' },
  { names: /IRET/, difference: /^eflags [0-9a-f]*[2367abef][0-9a-f]{4}, ours/, reason: 'IRET enters virtual-8086 mode at any privilege' },
];
/** Bits that are reserved, and zero by the manual: TCG lets these registers hold what has been written. */
const MASKS: Readonly<Record<string, number>> = { cr0: 0xe005003f, dr6: ~0x1000, dr7: ~0xd000 };
const USUAL_SEGMENTS = new Set([0x10, 0x33, 0xb8, 0xbb]);
const CS_OVERRIDE = 0x2e;
const GENERAL_PROTECTION = 13;
const STACK_FAULT = 12;

/** TCG checks no limits when memory is accessed, nor rights and null selectors. Why a case may differ for that, or null. */
function unchecked({ mode, pieces }: SystemCase, theirs: DataView, ours: DataView): string | null {
  const word = (view: DataView, name: string): number => view.getUint32(OUTCOME.FRAME + 4 * FRAME32.indexOf(name), true);
  const kind = ours.getUint32(OUTCOME.KIND, true);
  if (kind === SHUT_DOWN) return theirs.getUint32(OUTCOME.KIND, true) === SHUT_DOWN ? null : 'an offset beyond the limit';
  const real = kind === 1;
  const vector = real ? ours.getUint16(OUTCOME.FRAME + 2 * WORDS16.indexOf('vector'), true) : word(ours, 'vector');
  if (vector !== GENERAL_PROTECTION && vector !== STACK_FAULT) return null;
  if (real || mode === 'V86') return theirs.getUint32(OUTCOME.KIND, true) === ENDLESS ? 'an offset beyond the limit' : null;
  if (word(ours, 'error') !== 0) return null;
  const unusual = ['gs', 'fs', 'es', 'ds'].some((name) => !USUAL_SEGMENTS.has(word(ours, name) & 0xffff));
  const stack = ![...USUAL_SEGMENTS, SEL.DATA16].includes(ours.getUint16(OUTCOME.SS, true));
  return unusual || stack || pieces.some(({ bytes }) => bytes.includes(CS_OVERRIDE)) ? 'no rights, limits and null selectors of data segments' : null;
}

/** What differs: TCG's value first. */
function differences(image: Uint8Array, mine: Uint8Array, index: number): string[] {
  const at = AT.OUTCOMES + index * OUTCOME.BYTES;
  const [theirs, ours] = [image, mine].map((bytes) => new DataView(bytes.buffer, at, OUTCOME.BYTES)) as [DataView, DataView];
  const [kind, myKind] = [theirs.getUint32(0, true), ours.getUint32(0, true)];
  if (kind !== myKind) return [`${KINDS[kind]}, ours ${KINDS[myKind]}`];
  if (kind === SHUT_DOWN) return [];
  const found: string[] = [];
  for (let n = 4; n < OUTCOME.BYTES; n += 4) {
    const [a, b] = [theirs.getUint32(n, true), ours.getUint32(n, true)];
    if (a === b || (a ^ b) === FLAG.RF) continue;
    const registers = n >= OUTCOME.FRAME && n < OUTCOME.SS;
    // Beyond the frame is what the stack has held before, which nobody knows.
    if (registers && (kind === 1 ? n >= OUTCOME.FRAME + 2 * WORDS16.length : n >= OUTCOME.FRAME + 4 * FRAME32.length)) continue;
    if (n < OUTCOME.DATA && ((a ^ b) & (MASKS[nameOf(kind, n)] ?? -1)) === 0) continue;
    if (kind === 2 && n >= OUTCOME.DATA && isFlagsImage(ours, AT.DATA + n - OUTCOME.DATA, a ^ b)) continue;
    const name = n < OUTCOME.DATA ? nameOf(kind, n) : `memory at ${(AT.DATA + n - OUTCOME.DATA).toString(16)}`;
    found.push(`${name} ${a.toString(16)}, ours ${b.toString(16)}`);
  }
  return found;
}

/** TCG does not set RF in the image that a fault leaves on the stack: true when that is all that differs in the word at `address`. */
function isFlagsImage(ours: DataView, address: number, difference: number): boolean {
  const top = ours.getUint32(OUTCOME.FRAME + 4 * FRAME32.indexOf('esp'), true);
  const image = 4 * (FRAME32.indexOf('eflags') - FRAME32.indexOf('vector'));
  const byte = ((top & 0xffff) + image + 2 - address) | 0;
  return byte >= 0 && byte < 4 && difference >>> 0 === (1 << (8 * byte)) >>> 0;
}

const describe = ({ mode, pieces, flags, gpr, segments, codeAt, cr0, cr4, data }: SystemCase): string => {
  const hex = (value: number): string => (value >>> 0).toString(16);
  const code = pieces.map(({ bytes }) => bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(' ')).join(' | ');
  const state = `flags=${hex(flags)} gpr=${gpr.map(hex)} es,cs,ss,ds,fs,gs=${segments.map(hex)} cr0=${hex(cr0)} cr4=${hex(cr4)} at=${hex(codeAt)} data=${data}`;
  return `${mode}: ${pieces.map(({ name }) => name).join('; ')} [${code}]\n  from ${state}`;
};

interface SystemOptions {
  readonly seed: number;
  readonly cases: number;
  readonly only?: string;
  readonly translated: boolean;
  readonly say: (text: string) => void;
}
interface SystemReport {
  readonly cases: number;
  readonly mismatches: number;
  readonly kinds: ReadonlyMap<string, number>;
  /** Cases that TCG answers otherwise, by the reason that is known. */
  readonly known: ReadonlyMap<string, number>;
  /** How cases ended. */
  readonly ends: ReadonlyMap<string, number>;
}

const count = (map: Map<string, number>, key: string): void => void map.set(key, (map.get(key) ?? 0) + 1);

/** Invents cases of system instructions and compares. */
export async function fuzzSystem({ seed, cases, only, translated, say }: SystemOptions): Promise<SystemReport> {
  using qemu = new Qemu();
  const empty = emptyImage(qemu.program);
  const random = new Random(seed);
  const inventor = new SystemInventor(random, only);
  const [kinds, known, ends] = [new Map<string, number>(), new Map<string, number>(), new Map<string, number>()];
  let [done, mismatches] = [0, 0];
  const both = async (list: readonly SystemCase[]): Promise<[Uint8Array, Uint8Array, Set<number>]> => {
    const theirs = empty.slice();
    const view = new DataView(theirs.buffer);
    for (const [n, one] of list.entries()) writeCase(view, n, one);
    view.setUint32(AT.CONTROL + 4, list.length, true);
    const ours = theirs.slice();
    const wild = runModelled(ours, list, translated);
    for (const n of wild) writeCase(view, n, { ...(list[n] as SystemCase), pieces: [] });
    await qemu.run(theirs);
    return [theirs, ours, wild];
  };
  while (done < cases) {
    const view = new DataView(empty.buffer);
    for (let n = 0; n < TEMPLATES; n++) inventor.template(view, AT.TEMPLATES + n * DATA_BYTES);
    const list = Array.from({ length: Math.min(BATCH, cases - done) }, () => inventor.case());
    const [theirs, ours, wild] = await both(list);
    for (const [index, one] of list.entries()) {
      if (wild.has(index)) {
        count(ends, 'not asked');
        continue;
      }
      const kind = new DataView(theirs.buffer).getUint32(AT.OUTCOMES + index * OUTCOME.BYTES, true);
      count(ends, KINDS[kind] as string);
      let [smallest, found] = [one, differences(theirs, ours, index)];
      if (found.length === 0) continue;
      // Fewer instructions may show the same.
      const about = (text: string | undefined): string => (text ?? '').replace(/( at [0-9a-f]+)? [0-9a-f]+, ours .*/, '');
      const fewer = one.pieces
        .map((_, n) => ({ ...one, pieces: one.pieces.filter((_piece, other) => other !== n) }))
        .filter(({ pieces }) => pieces.length > 0);
      const names = one.pieces.map(({ name }) => name).join('; ');
      const [a, b] = [theirs, ours].map((image) => new DataView(image.buffer, AT.OUTCOMES + index * OUTCOME.BYTES, OUTCOME.BYTES)) as [
        DataView,
        DataView,
      ];
      const reason =
        DEVIATIONS.find((row) => row.names.test(names) && found.some((text) => row.difference.test(text)))?.reason ?? unchecked(one, a, b);
      if (reason) {
        count(known, reason);
        continue;
      }
      mismatches++;
      const first = `${names}: ${about(found[0])}`;
      if (!kinds.has(first) && fewer.length > 0) {
        const [a, b, wilder] = await both(fewer);
        for (const [n, candidate] of fewer.entries()) {
          const now = wilder.has(n) ? [] : differences(a, b, n);
          if (now.length > 0 && about(now[0]) === about(found[0])) [smallest, found] = [candidate, now];
        }
      }
      const small = `${smallest.pieces.map(({ name }) => name).join('; ')}: ${about(found[0])}`;
      if (!kinds.has(small)) say(`${describe(smallest)}\n  ${found.join('\n  ')}`);
      count(kinds, small);
    }
    done += list.length;
  }
  return { cases: done, mismatches, kinds, known, ends };
}
