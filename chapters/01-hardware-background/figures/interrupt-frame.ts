import { BareMachine } from '../bare-machine.ts';
import type { Cpu } from '../cpu.ts';
import { VECTOR } from '../faults.ts';
import { specimen } from '../monitors/specimen.ts';
import { Stage } from '../monitors/stage.ts';
import { AR, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { Tss32 } from '../system/tss.ts';
import { arrow, figure, rect, text } from './drawing.ts';
import { CODE64, DATA64, LongMachine } from './machines.ts';

const ENTRY = 0x1000;
const CALL = 0x20;
const STUB = 0x3000;
const STOP = [0xe6, 0xf4]; // out 0xf4, al
const INT = [0xcd, CALL];
const LOAD_BAD_SELECTOR = [0xb8, 0x44, 0, 0, 0, 0x8e, 0xd8]; // mov eax, 0x44; mov ds, ax
const ODD_STACK = 0x7ff4;

/** A stack as a handler finds it: words from the highest address down, and their width. */
interface Pile {
  readonly mode: string;
  readonly event: string;
  readonly bytes: number;
  readonly words: readonly string[];
  /** Bytes left out above the frame to align it. */
  readonly gap: number;
}

/** What the interrupted program had in the registers that a frame may hold. The values are all different, so a word on the stack names itself. */
function registers(
  { state }: Cpu,
  returnTo: number,
  errorCode: number | null,
  names: readonly [flags: string, ip: string, sp: string],
): Map<number, string> {
  const [flags, ip, sp] = names;
  const held = new Map<number, string>([
    [state.get32(OFFSET.RFLAGS), flags],
    [state.get32(OFFSET.RFLAGS) | FLAG.RF, flags],
    [state.segSelector(SEG.CS), 'CS'],
    [returnTo, ip],
    [state.segSelector(SEG.SS), 'SS'],
    [state.slot32(SLOT.RSP), sp],
  ]);
  if (errorCode !== null) held.set(errorCode, 'error code');
  return held;
}

/** Names the words between the stack pointer and `top`. */
function pile(
  { memory, cpu }: BareMachine,
  held: ReadonlyMap<number, string>,
  top: number,
  bytes: 2 | 4 | 8,
  labels: { mode: string; event: string },
  aligned = top,
): Pile {
  const words: string[] = [];
  const bottom = cpu.state.slot32(SLOT.RSP);
  for (let at = aligned - bytes; at >= bottom; at -= bytes) {
    const where = memory.offset(at, bytes);
    const value = bytes === 2 ? memory.view.getUint16(where, true) : memory.view.getUint32(where, true);
    words.push(held.get(value) ?? `0x${value.toString(16)}`);
  }
  return { ...labels, bytes, words, gap: top - aligned };
}

function realMode(): Pile {
  const machine = new BareMachine();
  const { state } = machine.cpu;
  machine.load(4 * CALL, [STUB & 0xff, STUB >> 8, 0, 0]);
  machine.load(STUB, STOP);
  machine.load(0x10000 + ENTRY, INT);
  machine.startReal(0x10000 + ENTRY);
  state.setSlotNumber(SLOT.RSP, specimen.stackTop);
  const held = registers(machine.cpu, ENTRY + INT.length, null, ['FLAGS', 'IP', 'SP']);
  machine.run(10);
  return pile(machine, held, specimen.stackTop, 2, { mode: 'real mode', event: 'INT' });
}

function protectedMode(ring: number, code: readonly number[], event: string, { faults = false, v86 = false } = {}): Pile {
  const stage = new Stage(ring);
  const { machine } = stage;
  const { state } = machine.cpu;
  machine.load(specimen.entry, code);
  if (v86) enterV86(machine.cpu);
  const returnTo = specimen.entry + (faults ? code.length - 2 : code.length);
  const held = registers(machine.cpu, returnTo, faults ? 0x44 : null, ['EFLAGS', 'EIP', 'ESP']);
  if (v86)
    for (const [name, seg] of [
      ['GS', SEG.GS],
      ['FS', SEG.FS],
      ['DS', SEG.DS],
      ['ES', SEG.ES],
    ] as const)
      held.set(state.segSelector(seg), name);
  const inner = machine.memory.view.getUint32(machine.memory.offset(Number(state.segBase(SEG.TR)) + Tss32.fields.esp0.offset, 4), true);
  stage.next();
  return pile(machine, held, ring === 0 ? specimen.stackTop : inner, 4, {
    mode: v86 ? 'virtual-8086' : ring === 0 ? '32-bit, ring 0' : `32-bit, ring ${ring}`,
    event,
  });
}

/** Virtual-8086 mode with IOPL 3, so that INT goes through its gate. The selectors are all different. */
function enterV86(cpu: Cpu): void {
  const { state } = cpu;
  state.set32(OFFSET.RFLAGS, FLAG.FIXED | FLAG.VM | FLAG.IOPL);
  for (const [n, seg] of [SEG.ES, SEG.CS, SEG.SS, SEG.DS, SEG.FS, SEG.GS].entries()) {
    const selector = seg === SEG.CS ? 0 : 0x900 + n;
    state.setSegSelector(seg, selector);
    state.setSegBase(seg, BigInt(selector << 4));
    state.setSegLimit(seg, 0xffff);
    state.setSegRights(seg, AR.P | AR.S | AR.DPL | AR.WRITABLE | AR.ACCESSED);
  }
  cpu.modeChanged();
}

function longMode(code: readonly number[], event: string, errorCode: number | null): Pile {
  const machine = new LongMachine();
  const { cpu } = machine;
  const { state } = cpu;
  const [gdt, idt] = [0x800, 0x2000];
  machine.put64(gdt + CODE64, 0x00af_9b00_0000_ffffn);
  machine.put64(gdt + DATA64, 0x00cf_9300_0000_ffffn);
  for (const vector of [CALL, VECTOR.GP]) machine.put64(idt + 16 * vector, (0x8en << 40n) | (BigInt(CODE64) << 16n) | BigInt(STUB));
  machine.load(STUB, STOP);
  machine.load(ENTRY, code);
  state.set64(OFFSET.GDTR_BASE, BigInt(gdt));
  state.set32(OFFSET.GDTR_LIMIT, 0x17);
  state.set64(OFFSET.IDTR_BASE, BigInt(idt));
  state.set32(OFFSET.IDTR_LIMIT, 0xfff);
  state.setSlotNumber(SLOT.RSP, ODD_STACK);
  machine.startAt(ENTRY);
  const held = registers(cpu, ENTRY + code.length - (errorCode === null ? 0 : 2), errorCode, ['RFLAGS', 'RIP', 'RSP']);
  machine.run(10);
  return pile(machine, held, ODD_STACK, 8, { mode: '64-bit, ring 0', event }, ODD_STACK & -16);
}

const COLUMN = 126;
const CELL = 24;
const TOP = 62;

/** Six deliveries, and the words that each left on the stack. */
export function render(): string {
  const piles = [
    realMode(),
    protectedMode(0, INT, 'INT'),
    protectedMode(3, INT, 'INT'),
    protectedMode(3, LOAD_BAD_SELECTOR, '#GP', { faults: true }),
    protectedMode(3, INT, 'INT', { v86: true }),
    longMode(LOAD_BAD_SELECTOR, '#GP', 0x44),
  ];
  const body: string[] = [];
  let deepest = 0;
  piles.forEach(({ mode, event, bytes, words, gap }, n) => {
    const x = n * COLUMN + 4;
    const width = COLUMN - 14;
    body.push(
      text(x, 14, mode, { size: 12, bold: true }),
      text(x, 30, event, { size: 12, ink: 'ink-2' }),
      text(x, 46, `${bytes}-byte words`, { size: 11, ink: 'ink-3' }),
    );
    let y = TOP;
    if (gap > 0) {
      body.push(
        rect(x, y, width, CELL / 2, { fill: 'paper-2' }),
        text(x + width / 2, y + 9.5, `${gap} bytes to align`, { size: 9, anchor: 'middle', ink: 'ink-3' }),
      );
      y += CELL / 2;
    }
    for (const word of words) {
      body.push(
        rect(x, y, width, CELL),
        text(x + width / 2, y + 16, word, { size: 12, anchor: 'middle', mono: true, ink: word === 'error code' ? 'fail' : 'ink' }),
      );
      y += CELL;
    }
    body.push(arrow(x + 8, y + 18, x + 8, y + 2, 'accent'), text(x + 16, y + 16, 'stack pointer', { size: 10, ink: 'accent' }));
    deepest = Math.max(deepest, y + 24);
  });
  return figure(
    'The frame that a handler finds on its stack, for six deliveries; the highest address is on top',
    piles.length * COLUMN,
    deepest,
    body,
  );
}
