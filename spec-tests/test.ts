// # The test command
//
// The drift checks first, because they are quick and say most; then every test of the tree with vitest. Arguments are handed to vitest, so
// `npm test -- mmu` runs the tests whose path contains "mmu" and leaves the checks out. With `--all` the tests run that take longer, too (`quick.ts` says which). The
// last line says how it went, in the plainest words.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { ROOT } from './checks/tree.ts';

const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
const folder = mkdtempSync(join(tmpdir(), 'ringbook-test-'));
// A test that starts Node must start this one. Many do, and most of the time of such a process goes into reading the same few hundred modules; what one
// has compiled, the next need not.
const all = process.argv.includes('--all');
const env = {
  ...process.env,
  ...(all && { RINGBOOK_TESTS: 'all' }),
  PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH ?? ''}`,
  NODE_COMPILE_CACHE: join(folder, 'compiled'),
};
const run = (script: string, args: readonly string[]): number =>
  spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', script, ...args], { cwd: ROOT, stdio: 'inherit', env }).status ?? 1;

interface Counts {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numFailedTestSuites: number;
}

const filters = process.argv.slice(2).filter((argument) => argument !== '--all');
// The prose is examined by the test that builds the site of it.
const checks = filters.length > 0 ? 0 : run(join(ROOT, 'spec-tests', 'check.ts'), ['--except', 'literate']);

const report = join(folder, 'report.json');
const config = join(ROOT, 'spec-tests', 'vitest.config.ts');
const tests = run(vitest, ['run', '--config', config, '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...filters]);
try {
  const { numPassedTests, numFailedTests, numPendingTests, numFailedTestSuites } = JSON.parse(readFileSync(report, 'utf8')) as Counts;
  if (checks !== 0) console.log('the drift checks failed: see above');
  // A file that cannot be loaded has no test to count, and is a failure all the same.
  console.log(
    `tests: ${numPassedTests} passed, ${numFailedTests || (tests === 0 ? 0 : Math.max(1, numFailedTestSuites))} failed, ${numPendingTests} skipped`,
  );
} catch {
  console.log('tests: 0 passed, 1 failed');
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = checks || tests;
