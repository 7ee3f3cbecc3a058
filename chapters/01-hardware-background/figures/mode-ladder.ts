import { BareMachine } from '../bare-machine.ts';
import { CR0, CR4, EFER, OFFSET, SLOT } from '../state.ts';
import { Recorder } from '../trace.ts';
import { type Cell, table } from './drawing.ts';

const ENTRY = 0x1000;
const GDT = 0x800;
const TABLES = 0x10000;
const PAGE_HERE = 0x83n; // present, writable, large: the page that the code itself lies in

/** The climb, as a boot loader does it. Each line: its address, its bytes, and how a person writes it. */
// biome-ignore format: table
const CLIMB: readonly { readonly at: number; readonly bytes: readonly number[]; readonly text: string }[] = [
  { at: 0x1000, bytes: [0x2e, 0x66, 0x0f, 0x01, 0x16, 0x00, 0x09], text: 'lgdt cs:[0x900]' },
  { at: 0x1007, bytes: [0x0f, 0x20, 0xc0],                         text: 'mov eax, cr0' },
  { at: 0x100a, bytes: [0x0c, 0x01],                               text: 'or al, 1' },
  { at: 0x100c, bytes: [0x0f, 0x22, 0xc0],                         text: 'mov cr0, eax' },
  { at: 0x100f, bytes: [0xea, 0x40, 0x10, 0x18, 0x00],             text: 'jmp 0x18:0x1040' },
  { at: 0x1040, bytes: [0xb8, 0x20, 0x00, 0x00, 0x00],             text: 'mov eax, 0x20' },
  { at: 0x1045, bytes: [0x0f, 0x22, 0xe0],                         text: 'mov cr4, eax' },
  { at: 0x1048, bytes: [0xb8, 0x00, 0x00, 0x01, 0x00],             text: 'mov eax, 0x10000' },
  { at: 0x104d, bytes: [0x0f, 0x22, 0xd8],                         text: 'mov cr3, eax' },
  { at: 0x1050, bytes: [0xb9, 0x80, 0x00, 0x00, 0xc0],             text: 'mov ecx, 0xc0000080' },
  { at: 0x1055, bytes: [0x0f, 0x32],                               text: 'rdmsr' },
  { at: 0x1057, bytes: [0x0d, 0x00, 0x01, 0x00, 0x00],             text: 'or eax, 0x100' },
  { at: 0x105c, bytes: [0x0f, 0x30],                               text: 'wrmsr' },
  { at: 0x105e, bytes: [0x0f, 0x20, 0xc0],                         text: 'mov eax, cr0' },
  { at: 0x1061, bytes: [0x0d, 0x00, 0x00, 0x00, 0x80],             text: 'or eax, 0x80000000' },
  { at: 0x1066, bytes: [0x0f, 0x22, 0xc0],                         text: 'mov cr0, eax' },
  { at: 0x1069, bytes: [0xea, 0x80, 0x10, 0, 0, 0x08, 0],          text: 'jmp 0x08:0x1080' },
  { at: 0x1080, bytes: [0xf4],                                     text: 'hlt' },
];

/** What the step makes possible, by what it changed. */
const MEANING: Readonly<Record<string, string>> = {
  'CR0.PE': 'CS is still the old one; the next load will be a descriptor',
  'CR4.PAE': 'page-table entries of 8 bytes',
  CR3: 'where the tables are; nobody looks yet',
  'EFER.LME': '64-bit mode is wanted; nothing happens yet',
  'CR0.PG': 'translation is on; the processor sets LMA by itself',
};
const MODE_MEANING: Readonly<Record<string, string>> = {
  protected16: 'protected mode, with 16-bit code',
  protected32: 'the far jump brings a 32-bit code segment',
  long: 'the far jump brings a segment with L set: 64-bit code',
};

/** Runs the climb one instruction at a time, and keeps the steps that changed something. */
export function render(): string {
  const trace = new Recorder({ only: ['mode'] });
  const machine = new BareMachine({ trace });
  const put = (at: number, value: bigint): void => machine.memory.view.setBigUint64(machine.memory.offset(at, 8), value, true);
  put(GDT + 0x08, 0x00af_9b00_0000_ffffn);
  put(GDT + 0x18, 0x00cf_9b00_0000_ffffn);
  put(0x900, (BigInt(GDT) << 16n) | 0x1fn);
  put(TABLES, BigInt(TABLES + 0x1000) | 3n);
  put(TABLES + 0x1000, BigInt(TABLES + 0x2000) | 3n);
  put(TABLES + 0x2000, PAGE_HERE);
  for (const { at, bytes } of CLIMB) machine.load(at, bytes);
  machine.startReal(ENTRY);
  const { state } = machine.cpu;
  const words = () => ({ CR0: state.low32(OFFSET.CR0), CR4: state.low32(OFFSET.CR4), EFER: state.low32(OFFSET.EFER) });
  const rows: Cell[][] = [];
  for (const step of CLIMB) {
    const before = words();
    const [cr3, modes] = [state.low32(OFFSET.CR3), trace.events.length];
    if (state.slot32(SLOT.NEXT_RIP) !== step.at) throw new Error(`the climb left its path at 0x${step.at.toString(16)}`);
    machine.run(1);
    const after = words();
    const changed: string[] = [];
    for (const [register, bits] of [
      ['CR0', CR0],
      ['CR4', CR4],
      ['EFER', EFER],
    ] as const)
      for (const [name, mask] of Object.entries(bits)) if ((before[register] ^ after[register]) & mask) changed.push(`${register}.${name}`);
    if (state.low32(OFFSET.CR3) !== cr3) changed.push('CR3');
    const mode = trace.of('mode')[modes]?.mode;
    if (changed.length === 0 && !mode) continue;
    const meaning = changed.map((change) => MEANING[change]).find(Boolean) ?? MODE_MEANING[mode ?? ''] ?? '';
    rows.push([step.text, changed.join(', '), mode ? { text: mode, ink: 'accent' } : '', meaning]);
  }
  return table('From real mode to 64-bit code, step by step', ['instruction', 'sets', 'mode', 'and so'], rows);
}
