import { availableParallelism } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { SLOT } from '../../state.ts';
import { FlatMachine } from '../flat-machine.ts';
import { threadWorkshop } from './workshop-thread.ts';

const alone = availableParallelism() < 2;

it.skipIf(alone)(`a thread translates while the guest goes on${alone ? ' (skipped: one processor)' : ''}`, async () => {
  const m = new FlatMachine(64, 1 << 20, { heat: 2, workshop: threadWorkshop() });
  const plain = new FlatMachine(64, 1 << 20, { translate: false });
  const { translator } = m.engine;
  if (!translator) throw new Error('no translator');
  let here = 0;
  translator.onCompiled = () => here++;
  // A loop on one page after the other, until some were translated elsewhere.
  for (let page = 1; translator.compiled - here < 3; page = (page % 200) + 1) {
    const code = [0x48, 0x83, 0xc0, page % 100, 0xff, 0xc9, 0x75, 0xf8]; // add rax, n; dec ecx; jnz
    for (const machine of [m, plain]) {
      machine.state.setSlotNumber(SLOT.RCX, 1_000_000);
      machine.run(code, { at: 4096 * page, instructions: 20_000 });
      machine.resume(20_000);
    }
    expect(m.state.slot(SLOT.RAX), `page ${page}`).toBe(plain.state.slot(SLOT.RAX));
    await setImmediate();
  }
  expect(here).toBeGreaterThan(0);
});

it.skipIf(alone)('there is one for the whole process', () => {
  expect(threadWorkshop()).toBe(threadWorkshop());
});
