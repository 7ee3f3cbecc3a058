import { specimen } from '../monitors/specimen.ts';
import { Stage } from '../monitors/stage.ts';
import { OFFSET, SEG, WATCH } from '../state.ts';
import { Tss32 } from '../system/tss.ts';
import { type Message, sequence } from './drawing.ts';

const VECTOR = 0x20;
const [PROCESSOR, IDT, GDT, TSS, STACK] = [0, 1, 2, 3, 4] as const;
const hex = (n: number | bigint): string => `0x${n.toString(16)}`;

/** An INT in ring 3 with its gate to ring 0: every memory access of the delivery, as the processor made it. */
export function render(): string {
  const stage = new Stage(3);
  const { cpu } = stage.machine;
  const { state, mmu } = cpu;
  stage.machine.load(specimen.entry, [0xcd, VECTOR]);
  const from = {
    EFLAGS: state.get32(OFFSET.RFLAGS),
    CS: state.segSelector(SEG.CS),
    EIP: specimen.entry + 2,
    SS: state.segSelector(SEG.SS),
    ESP: specimen.stackTop,
  };
  const [idt, gdt, tss] = [state.getNumber(OFFSET.IDTR_BASE), state.getNumber(OFFSET.GDTR_BASE), Number(state.segBase(SEG.TR))] as const;
  const inside = (at: number, base: number, limit: number): boolean => at >= base && at <= base + limit;
  const messages: Message[] = [];
  const note = (at: number, bytes: number, value: bigint, write: boolean): void => {
    const detail = `${write ? 'write' : 'read'} ${bytes} bytes at ${hex(at)}`;
    const to = (actor: number, text: string): void => void messages.push({ from: PROCESSOR, to: actor, text, detail });
    if (inside(at, idt, state.get32(OFFSET.IDTR_LIMIT))) to(IDT, `gate ${hex((at - idt) / 8)}`);
    else if (inside(at, gdt, state.get32(OFFSET.GDTR_LIMIT))) to(GDT, `descriptor ${hex((at - gdt) & ~7)}`);
    else if (inside(at, tss, Tss32.bytes - 1)) {
      const field = Object.entries(Tss32.fields).find(([, { offset }]) => offset === at - tss);
      if (messages.at(-1)?.detail !== detail) to(TSS, field?.[0] ?? 'limit');
    } else to(STACK, `${Object.entries(from).find(([, was]) => BigInt(was) === value)?.[0] ?? 'word'} = ${hex(value)}`);
  };
  // Whoever watches gets the long way: the processor then does everything by four functions, of which one may call another.
  state.set32(OFFSET.WATCH, WATCH.TRACE);
  let depth = 0;
  const watched = <T>(access: () => T, say: (result: T) => void): T => {
    depth++;
    const result = access();
    if (--depth === 0) say(result);
    return result;
  };
  const { read, write, load, store } = { read: mmu.read.bind(mmu), write: mmu.write.bind(mmu), load: mmu.load.bind(mmu), store: mmu.store.bind(mmu) };
  mmu.read = (linear, bytes, privilege) =>
    watched(
      () => read(linear, bytes, privilege),
      (value) => note(Number(linear), bytes, value, false),
    );
  mmu.load = (lo, hi, bytes, privilege) =>
    watched(
      () => load(lo, hi, bytes, privilege),
      (value) => note(lo, bytes, BigInt(value), false),
    );
  mmu.write = (linear, bytes, value, privilege) =>
    watched(
      () => write(linear, bytes, value, privilege),
      () => note(Number(linear), bytes, value, true),
    );
  mmu.store = (lo, hi, bytes, valueLo, valueHi, privilege) =>
    watched(
      () => store(lo, hi, bytes, valueLo, valueHi, privilege),
      () => note(lo, bytes, BigInt(valueLo >>> 0), true),
    );
  stage.next();
  return sequence(
    'What is read and written when INT takes the processor from ring 3 to ring 0',
    [
      { name: 'processor', ink: 'accent' },
      { name: 'IDT', ink: 'ink' },
      { name: 'GDT', ink: 'ink' },
      { name: 'TSS', ink: 'ink' },
      { name: 'ring-0 stack', ink: 'kernel' },
    ],
    messages,
  );
}
