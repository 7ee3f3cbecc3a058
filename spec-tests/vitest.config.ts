// # How the tests are run
//
// Unit tests live beside the code they test, in every room of the house. No test measures wall-clock time; the limit here only ends a test
// that hangs. The number of workers is small on purpose: the suite starts emulators of its own, and a laptop has other things to do.

import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)),
  test: {
    include: ['chapters/**/*.test.ts', 'spec-tests/**/*.test.ts', 'guest-payloads/**/*.test.ts', 'site/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/out/**'],
    environment: 'node',
    pool: 'forks', // real processes: native modules and WebAssembly memories of one test file die with it
    maxWorkers: Math.max(1, Math.min(2, availableParallelism())),
    execArgv: ['--disable-warning=ExperimentalWarning'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
  },
});
