import { ACCESS, PRIVILEGE } from '../mmu/mmu.ts';
import { ENTRY, FORMAT } from '../mmu/paging.ts';
import { Recorder } from '../trace.ts';
import { type Cell, table } from './drawing.ts';
import { LongMachine } from './machines.ts';

const LINEAR = 0xffff_8123_4567_89abn;
const PAGE = 0x9000;
const NAMES = ['', 'table', 'directory', 'directory pointers', 'PML4'];
const hex = (n: number | bigint): string => `0x${n.toString(16)}`;

/** One translation on a machine in 64-bit mode, from its trace. */
export function render(): string {
  const trace = new Recorder();
  const machine = new LongMachine(trace);
  machine.map(LINEAR, PAGE);
  const physical = machine.cpu.mmu.physical(LINEAR, ACCESS.READ, PRIVILEGE.SUPERVISOR);
  const rows = trace.of('walk').map(({ level, entry, value }, n): Cell[] => {
    const { shift, indexBits } = FORMAT.level4.levels[n] as { shift: number; indexBits: number };
    const index = Number((LINEAR >> BigInt(shift)) & ((1n << BigInt(indexBits)) - 1n));
    return [
      `${n + 1}`,
      NAMES[level] as string,
      `${shift + indexBits - 1}:${shift}`,
      String(index),
      hex(entry),
      hex(value),
      ENTRY.describe(Number(value & 0xfffn)),
    ];
  });
  rows.push(['', 'the byte itself', '11:0', hex(LINEAR & 0xfffn), { text: hex(physical), ink: 'accent' }, '', '']);
  return table(
    `The walk for linear address ${hex(LINEAR)}`,
    ['#', 'structure', 'address bits', 'index', 'read at', 'value read', 'bits set in it'],
    rows,
  );
}
