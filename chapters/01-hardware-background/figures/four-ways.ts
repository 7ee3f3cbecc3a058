import { bareMetal } from '../monitors/bare-metal.ts';
import { binaryTranslation } from '../monitors/binary-translation.ts';
import { hardwareAssisted } from '../monitors/hardware-assisted.ts';
import { trapAndEmulate } from '../monitors/trap-and-emulate.ts';
import { type Cell, table } from './drawing.ts';

const RUNS = [
  ['the bare machine', bareMetal],
  ['trap and emulate', trapAndEmulate],
  ['binary translation', binaryTranslation],
  ['VT-x', hardwareAssisted],
] as const;

/** What the specimen noted under each monitor, and what the monitor cost. */
export function render(): string {
  const rows = RUNS.map(([name, run]): Cell[] => {
    const { notes, lies, crossings, instructions } = run();
    const note = (key: keyof typeof notes, shown: string): Cell => ({ text: shown, ink: lies.includes(key) ? 'fail' : 'pass' });
    const flag = (on: boolean): string => (on ? 'on' : 'off');
    return [
      name,
      note('interruptsAfterCli', flag(notes.interruptsAfterCli)),
      note('interruptsAfterPopf', flag(notes.interruptsAfterPopf)),
      note('gdtLimit', `0x${notes.gdtLimit.toString(16)}`),
      note('output', `"${notes.output}"`),
      String(crossings),
      String(instructions),
      lies.length === 0 ? { text: 'kept', ink: 'pass' } : { text: 'broken', ink: 'fail' },
    ];
  });
  return table('The specimen under four monitors', ['', 'IF after CLI', 'after POPF', 'SGDT limit', 'said', 'entries', 'retired', 'promise'], rows);
}
