// # How fast is it?
//
// `node try.ts` measures a few short loops.

import { OFFSET, SLOT } from '../../state.ts';
import { FlatMachine } from '../flat-machine.ts';

const hex = (text: string): number[] => text.split(' ').map((byte) => Number.parseInt(byte, 16));

// The inner loops of programs that are often used to compare interpreters, by hand. Each counts RCX down.
const LOOPS: Readonly<Record<string, string>> = {
  'arithmetic on registers': '83 c0 03 01 c3 31 da ff c9 75 f5 f4',
  'sum of an array': '89 c8 25 ff 0f 00 00 03 9c 87 00 00 00 00 ff c9 75 ee f4',
  'clearing bits of a sieve': 'c6 04 07 00 48 01 f0 25 ff ff 00 00 ff c9 75 f0 f4',
  'call and return': 'e8 05 00 00 00 ff c9 75 f7 f4 55 48 89 e5 ff c0 5d c3',
};

function speed(): void {
  for (const [name, code] of Object.entries(LOOPS)) {
    const machine = new FlatMachine(64);
    const { state } = machine;
    const rates = Array.from({ length: 5 }, () => {
      state.setSlotNumber(SLOT.RCX, 0x7fffffff);
      state.setSlotNumber(SLOT.RAX, 0);
      state.setSlotNumber(SLOT.RSP, 0x80000);
      state.setSlotNumber(SLOT.RDI, 0x40000);
      state.setSlotNumber(SLOT.RSI, 17);
      const [start, before] = [process.cpuUsage(), state.getNumber(OFFSET.ICOUNT)];
      machine.run(hex(code), { instructions: 20e6 });
      return (state.getNumber(OFFSET.ICOUNT) - before) / process.cpuUsage(start).user;
    });
    console.log(`${name}: ${Math.max(...rates).toFixed(0)} million instructions a second`);
  }
}

speed();
