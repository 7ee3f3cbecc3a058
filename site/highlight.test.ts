import { readdirSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { highlightLines, languageOf } from './highlight.ts';
import { unescapeHtml } from './html.ts';

const ROOT = new URL('..', import.meta.url);
const source = (file: string): string => readFileSync(new URL(file, ROOT), 'utf8');
const plain = (html: string): string => unescapeHtml(html.replace(/<[^>]+>/g, ''));

const FILES = [
  'chapters/01-hardware-background/layout.ts',
  'chapters/01-hardware-background/engine/interpreter.ts',
  'chapters/ringbook.mjs',
  'spec-tests/bench/exits.c',
  'spec-tests/cases/01-hardware-background/hello.json',
  ...readdirSync(new URL('guest-payloads/src/', ROOT))
    .filter((name) => /\.(S|inc|ld|h)$/.test(name))
    .slice(0, 6)
    .map((name) => `guest-payloads/src/${name}`),
];

it.each(FILES)('colours every line of %s, and loses no character', async (file) => {
  const lines = await highlightLines(source(file), languageOf(file));
  expect(lines.map(plain)).toEqual(source(file).split('\n'));
  expect(lines.some((line) => line.includes('<span class="'))).toBe(true);
});

it('knows what a word is by where it stands', async () => {
  const coloured = async (line: string): Promise<string | undefined> => (await highlightLines(line, 'ts'))[0];
  expect(await coloured('const type = of(0x10n);')).toBe(
    '<span class="k">const</span> <span class="k">type</span> = <span class="f">of</span>(<span class="m">0x10n</span>);',
  );
});
