// # What other programs check
//
// Format and lint are a standard tool's business; whether the committed payload images are what their sources give, the payload build's.

import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { type Check, type Problem, ROOT } from './tree.ts';

function runNode(script: string, args: readonly string[]): { status: number; output: string } {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', script, ...args], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  if (error) throw error;
  return { status: status ?? 1, output: `${stdout}${stderr}`.trim() };
}

const whole = (file: string, output: string): Problem[] => [{ file, line: 0, message: output }];

export const format: Check = {
  name: 'format',
  what: 'lint and format (Biome)',
  run() {
    let biome: string;
    try {
      biome = createRequire(import.meta.url).resolve('@biomejs/biome/bin/biome');
    } catch {
      return { skipped: 'Biome is not installed (development dependency)' };
    }
    const { status, output } = runNode(biome, ['check', '--colors=off', '--max-diagnostics=30', '.']);
    return status === 0 ? [] : whole('.', output);
  },
};

export const payloadImages: Check = {
  name: 'payloads',
  what: 'the committed images are what their sources give',
  run() {
    const { status, output } = runNode(join(ROOT, 'guest-payloads', 'build.ts'), ['--check']);
    if (status !== 0) return whole('guest-payloads', output);
    const skipped = /\bskipped: (.*)$/m.exec(output);
    return skipped ? { skipped: skipped[1] ?? output } : [];
  },
};
