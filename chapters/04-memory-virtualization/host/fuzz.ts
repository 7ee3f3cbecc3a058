// # The fuzzer on the command line
//
// ```sh
// node chapters/04-memory-virtualization/host/fuzz.ts --steps 1000000 --seed 1
// ```

import { parseArgs } from 'node:util';
import { fuzz } from '../fuzz.ts';

const { values } = parseArgs({
  options: {
    steps: { type: 'string', default: '100000' },
    seed: { type: 'string', default: '1' },
    episode: { type: 'string' },
    only: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});
const started = performance.now();
let told = 0;
const result = fuzz({
  steps: Number(values.steps),
  seed: Number(values.seed),
  ...(values.episode && { episode: Number(values.episode) }),
  ...(values.only && { only: Number(values.only) }),
  ...(values.verbose && { verbose: (line: string) => console.log(line) }),
  onProgress(steps) {
    if (steps - told < 50_000) return;
    told = steps;
    console.log(`${steps} steps, ${Math.round((performance.now() - started) / 1000)} s`);
  },
});
console.log(
  `${result.steps} steps in ${result.episodes} episodes, ${Math.round((performance.now() - started) / 1000)} s: ${JSON.stringify(result.ends)}`,
);
console.log(result.failure ?? 'no difference that the architecture does not allow');
process.exitCode = result.failure === null ? 0 : 1;
