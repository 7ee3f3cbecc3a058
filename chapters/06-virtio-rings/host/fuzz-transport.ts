// Test equipment: a long attack on the registers of every transport, by the driver of `transport/hostile.ts`. `node fuzz-transport.ts [operations]
// [seed]`. Ends with 1 when memory has grown, or with the device's own exception.

import { attack, HOSTILE_MODELS, HOSTILE_TRANSPORTS } from '../transport/hostile.ts';

const ROUND = 10_000;
/** What the heap may gain beyond what it was after the first rounds. */
const GROWTH_LIMIT_BYTES = 64 << 20;

const [operations = 1_000_000, first = 1] = process.argv.slice(2).map(Number);
const pairs = HOSTILE_TRANSPORTS.flatMap((transport) => HOSTILE_MODELS.map((model) => [transport, model] as const));
let [done, kicks, failures, settled] = [0, 0, 0, 0];
for (let seed = first; done < operations; seed++)
  for (const [transport, model] of pairs) {
    try {
      const damage = attack(transport, model, seed, ROUND);
      done += damage.operations;
      kicks += damage.kicks;
      failures += damage.failures;
    } catch (error) {
      console.error(`${transport} ${model}, seed ${seed}`);
      throw error;
    }
    globalThis.gc?.();
    if (seed === first) settled = Math.max(settled, process.memoryUsage().heapUsed);
  }
const grown = process.memoryUsage().heapUsed - settled;
console.log(`${done} operations, ${kicks} kicks, the device gave up ${failures} times; the heap has grown by ${(grown / 2 ** 20).toFixed(1)} MiB`);
process.exitCode = grown > GROWTH_LIMIT_BYTES ? 1 : 0;
