// # The test command
//
// The drift checks first, because they are quick and say most; then every test of the tree with vitest. Arguments are handed to vitest, so
// `npm test -- mmu` runs the tests whose path contains "mmu" and leaves the checks out.

import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { ROOT } from './checks/tree.ts';

const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
// A test that starts Node must start this one.
const env = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env.PATH ?? ''}` };
const run = (script: string, args: readonly string[]): number =>
  spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', script, ...args], { cwd: ROOT, stdio: 'inherit', env }).status ?? 1;

const filters = process.argv.slice(2);
const checks = filters.length > 0 ? 0 : run(join(ROOT, 'spec-tests', 'check.ts'), []);
const tests = run(vitest, ['run', '--config', join(ROOT, 'spec-tests', 'vitest.config.ts'), ...filters]);
process.exitCode = checks || tests;
