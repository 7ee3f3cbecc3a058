import { FLAG, OFFSET, SLOT } from '../state.ts';
import { DR6 } from '../system/debug.ts';
import { Recorder } from '../trace.ts';
import { type Cell, table } from './drawing.ts';
import { CODE64, DATA64, LongMachine } from './machines.ts';

const GDT = 0x800;
const IDT = 0x2000;
const HANDLERS = 0x3000;
const STACK = 0x8000;
const ENTRY = 0x1000;
const NEXT = ENTRY + 2;
const DEVICE = 0x50;
const DEBUG = 1;
const NMI = 2;
const EXTERNAL = 0x40;
const EVENTS = 4;
const IRETQ = [0x48, 0xcf];

/**
 * Everything at once: an OUT runs under TF, and the device behind the port raises an NMI and an interrupt; a breakpoint is armed on the instruction after it.
 * What was taken, and what it interrupted, is read from the trace and from the frames on the stack.
 */
export function render(): string {
  const trace = new Recorder({ only: ['exception', 'interrupt'] });
  const machine = new LongMachine(trace);
  const { cpu } = machine;
  const { state } = cpu;
  machine.put64(GDT + CODE64, 0x00af_9b00_0000_ffffn);
  machine.put64(GDT + DATA64, 0x00cf_9300_0000_ffffn);
  for (const vector of [DEBUG, NMI, EXTERNAL]) {
    const handler = HANDLERS + 16 * vector;
    machine.put64(IDT + 16 * vector, (0x8en << 40n) | (BigInt(CODE64) << 16n) | BigInt(handler));
    machine.load(handler, IRETQ);
  }
  state.set64(OFFSET.GDTR_BASE, BigInt(GDT));
  state.set32(OFFSET.GDTR_LIMIT, 0x17);
  state.set64(OFFSET.IDTR_BASE, BigInt(IDT));
  state.set32(OFFSET.IDTR_LIMIT, 0xfff);
  machine.load(ENTRY, [0xe6, DEVICE, 0x90]); // out DEVICE, al; nop
  let waiting = false;
  cpu.setInterruptSource({
    pending: () => waiting,
    acknowledge: () => {
      waiting = false;
      return EXTERNAL;
    },
  });
  machine.devices.set(DEVICE, {
    write: () => {
      waiting = true;
      cpu.nmi();
      cpu.eventsChanged();
    },
  });
  state.set32(OFFSET.RFLAGS, FLAG.FIXED | FLAG.IF | FLAG.TF);
  state.setSlotNumber(SLOT.RSP, STACK);
  state.set64(OFFSET.DR0, BigInt(NEXT));
  state.set64(OFFSET.DR7, 0x401n); // breakpoint 0: execution
  machine.startAt(ENTRY);
  cpu.modeChanged();
  cpu.debugChanged();

  const seen: { vector: number; conditions: number; returnTo: number }[] = [];
  const deliver = cpu.eventDelivered.bind(cpu);
  cpu.eventDelivered = () => {
    const event = trace.events.at(-1);
    if (event?.kind === 'exception' || event?.kind === 'interrupt') {
      seen.push({ vector: event.vector, conditions: state.low32(OFFSET.DR6), returnTo: Number(machine.get64(state.slot32(SLOT.RSP))) });
    }
    deliver();
  };
  while (seen.length < EVENTS) cpu.run(1);
  const nameOf = ({ vector, conditions }: { vector: number; conditions: number }): string =>
    vector === NMI ? 'NMI' : vector === EXTERNAL ? 'external interrupt' : conditions & DR6.mask.B0 ? 'breakpoint' : 'single-step trap';
  const ABOUT: Readonly<Record<string, string>> = {
    'single-step trap': 'belongs to the instruction before',
    NMI: 'asks no flag',
    'external interrupt': 'needs IF, which the handlers had cleared',
    breakpoint: 'belongs to the instruction after',
  };
  const placeOf = (at: number): string => {
    const handler = seen.find(({ vector }) => HANDLERS + 16 * vector === at);
    return at === NEXT ? 'between the two' : handler ? `before the ${nameOf(handler)}'s handler` : `at 0x${at.toString(16)}`;
  };
  const rows = seen.map((event, n): Cell[] => [
    String(n + 1),
    { text: nameOf(event), ink: 'accent' },
    placeOf(event.returnTo),
    ABOUT[nameOf(event)] as string,
  ]);
  return table(
    'Four events that are due at one instruction boundary, in the order in which the processor took them',
    ['', 'event', 'taken', 'because it'],
    rows,
  );
}
