// # How the tests are run
//
// Unit tests live beside the code they test, in every room of the house. No test measures wall-clock time; the limit here only ends a test
// that hangs. The number of workers is small on purpose: the suite starts emulators of its own, and a laptop has other things to do.
//
// One worker runs many files, one after the other. Half of what a file would cost in a process of its own is the beginning: modules to load, the interpreter to
// put together and V8 to compile it, and to compile it again, better, once it is hot. So a test leaves its process as it was: no handler of signals, no variable
// of the environment, no timer stays behind.
//
// Two workers are done at the same time only if neither begins something long at the end. So the files that start other programs, and then wait for whole guests, go
// first, in this order; the others follow as vitest would have them.

import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

const LONGEST = [
  'spec-tests/suite.test.ts',
  'spec-tests/translation.test.ts',
  'site/site.test.ts',
  'site/live/book-session.test.ts',
  'chapters/05-pio-mmio/host/run.test.ts',
  'chapters/04-memory-virtualization/fuzz.test.ts',
  'spec-tests/linux/boot.test.ts',
  'spec-tests/package.test.ts',
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const at = LONGEST.findIndex((name) => moduleId.endsWith(`/${name}`));
      return at < 0 ? LONGEST.length : at;
    };
    return (await super.sort(files)).sort((a, b) => place(a) - place(b));
  }
}

export default defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)),
  test: {
    include: ['chapters/**/*.test.ts', 'spec-tests/**/*.test.ts', 'guest-payloads/**/*.test.ts', 'site/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/out/**'],
    environment: 'node',
    pool: 'forks', // a process has signals and a working directory, a thread has not
    isolate: false,
    maxWorkers: Math.max(1, Math.min(2, availableParallelism())),
    sequence: { sequencer: LongestFirst },
    // Most files make machines and throw them away; helpers of the garbage collector would be busy for longer than the tests.
    execArgv: ['--disable-warning=ExperimentalWarning', '--single-threaded-gc'],
    testTimeout: 600_000,
    hookTimeout: 600_000,
    teardownTimeout: 10_000,
  },
});
