import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ALL } from './quick.ts';
import type { Results } from './types.ts';

// What `npm pack` makes, installed in an empty folder and used there. Nothing is fetched: the few packages that it depends on are those of this checkout.

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
const LIMIT_BYTES = 12 << 20;

const noNpm = (): boolean => spawnSync(npm, ['--version'], { shell: process.platform === 'win32' }).status !== 0;
const absent = !ALL ? ' (skipped: left to npm run test:all)' : noNpm() ? ' (skipped: there is no npm)' : '';

describe.skipIf(absent !== '')(`the npm package${absent}`, () => {
  const place = mkdtempSync(join(tmpdir(), 'ringbook-package-'));
  const installed = join(place, 'node_modules', 'ringbook');
  const ringbook = (...args: string[]) =>
    spawnSync(process.execPath, [join(installed, 'chapters/ringbook.mjs'), ...args], {
      cwd: place,
      encoding: 'utf8',
      env: { ...process.env, NODE_OPTIONS: '' },
    });
  let files: readonly string[] = [];

  beforeAll(() => {
    const packed = spawnSync(npm, ['pack', '--json', '--pack-destination', place], {
      cwd: ROOT,
      encoding: 'utf8',
      shell: process.platform === 'win32',
    });
    expect(packed.status, packed.stderr).toBe(0);
    const [{ filename }] = JSON.parse(packed.stdout) as [{ filename: string }];
    const unpacked = spawnSync('tar', ['-xzf', filename], { cwd: place, encoding: 'utf8' });
    expect(unpacked.status, unpacked.stderr).toBe(0);
    cpSync(join(place, 'package'), installed, { recursive: true });
    const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as Record<string, object>;
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      const from = join(ROOT, 'node_modules', name);
      if (existsSync(from)) symlinkSync(from, join(place, 'node_modules', name), 'junction');
    }
    mkdirSync(join(place, 'node_modules/.bin'), { recursive: true });
    files = readdirSync(installed, { recursive: true, encoding: 'utf8' });
  }, 120_000);

  afterAll(() => rmSync(place, { recursive: true, force: true }));

  it('holds what running and judging takes, and none of the tests', () => {
    for (const name of [
      'spec-tests/protocol.md',
      'spec-tests/conform.ts',
      'guest-payloads/images/mode-real.img',
      'spec-tests/schemas/case.schema.json',
    ])
      expect(files.map((file) => file.replaceAll('\\', '/'))).toContain(name);
    expect(files.filter((file) => /\.test\.ts$|(^|\/)out\//.test(file))).toEqual([]);
    const bytes = files.reduce((sum, file) => sum + statSync(join(installed, file)).size, 0);
    expect(bytes).toBeLessThan(LIMIT_BYTES);
  });

  it('judges the embedded machine, and leaves its results where it was called', () => {
    const { status, stdout, stderr } = ringbook(
      'conform',
      '--target',
      'ringbook',
      '--filter',
      '=01-hardware-background/mode-real',
      '--format',
      'json',
    );
    expect(stderr).not.toMatch(/Error|Warning/);
    expect(status).toBe(0);
    const results = JSON.parse(stdout) as Results;
    expect(results.summary).toMatchObject({ pass: 1, ok: true });
    expect(results.cases[0]?.replay).toBe("npx ringbook conform --target ringbook --filter '=01-hardware-background/mode-real'");
    expect(readdirSync(join(place, 'ringbook-results'))).toEqual(['partial-ringbook.json']);
    expect(existsSync(join(installed, 'spec-tests/out'))).toBe(false);
  }, 120_000);

  it('names a line of the source as it is read in a stack trace', () => {
    const { status, stderr } = ringbook('conform', '--target', 'nobody');
    expect(status).toBe(2);
    expect(stderr).toContain("no target 'nobody'");
    const code = `import(${JSON.stringify(pathToFileURL(join(installed, 'spec-tests/select.ts')).href)}).then(({ parseShard }) => parseShard('9/2'))`;
    const hook = pathToFileURL(join(installed, 'chapters/strip-types.mjs')).href;
    const thrown = spawnSync(process.execPath, ['--import', hook, '--input-type=module', '-e', code], { encoding: 'utf8' });
    const line = Number(/at parseShard .*select\.ts:(\d+):/.exec(thrown.stderr)?.[1]);
    expect(readFileSync(join(ROOT, 'spec-tests/select.ts'), 'utf8').split('\n')[line - 1]).toContain('throw new RangeError');
  }, 60_000);

  it('says what only the repository has', () => {
    const { status, stderr } = ringbook('site');
    expect(status).toBe(2);
    expect(stderr).toContain('needs the whole repository');
  });
});
