import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { BUILT_IN, Evaluator, typeset } from './expressions.ts';
import type { Directive, Prose } from './literate.ts';
import { drawLayout } from './rulers.ts';
import { readingOrder, readRooms } from './tree.ts';

const root = mkdtempSync(join(tmpdir(), 'ringbook-site-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

function tree(files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
}

tree({
  'chapters/01-first/index.ts': '// # First\n//\n// Words.\n//\n// ::include z.ts\n// ::include sub/\n// ::include a.ts\n',
  'chapters/01-first/a.ts': [
    '// {{N}} {{N + 1}} {{missing}} {{text}} {{undefined}} {{recorded}} {{hex(N)}} {{0 / 0}}',
    '//',
    '// ::layout Table -- shown',
    '// ::layout N',
    '// ::figure good',
    '// ::figure bad',
    '// ::figure absent',
    'export const N = 41;',
    'export const text = "x_y";',
    'export const Table = { PE: 1, PG: 0x80000000, WIDE: 0x30 };',
  ].join('\n'),
  'chapters/01-first/b.ts': "// # Loose\nimport './c.ts';\n",
  'chapters/01-first/c.ts': '// # Needed by b\nexport const c = 1;\n',
  'chapters/01-first/z.ts': '// # Last by name\nexport const z = 1;\n',
  'chapters/01-first/sub/one.ts': "// # One\nimport './two.ts';\n",
  'chapters/01-first/sub/two.ts': '// # Two\nexport const two = 2;\n',
  'chapters/01-first/a.test.ts': 'export {};\n',
  'chapters/01-first/figures/index.ts': 'export const recorded = 7;\n',
  'chapters/01-first/figures/good.ts': 'export const render = () => \'<svg viewBox="0 0 1 1" role="img"><title>good</title></svg>\';\n',
  'chapters/01-first/figures/bad.ts': "export const render = () => '<svg><script>1</script></svg>';\n",
});

const rooms = readRooms(root);
const room = rooms[0] as (typeof rooms)[number];
const module = room.modules.find(({ file }) => file.endsWith('/a.ts')) as (typeof room.modules)[number];

describe('reading order', () => {
  it('follows the spine’s includes, folders and then imports', () => {
    expect(room.modules.map(({ file }) => file.replace('chapters/01-first/', ''))).toEqual([
      'index.ts',
      'z.ts',
      'sub/two.ts',
      'sub/one.ts',
      'a.ts',
      'c.ts',
      'b.ts',
    ]);
    expect(room.title).toBe('First');
    expect(room.tests).toHaveLength(1);
    expect([...room.figures.keys()]).toEqual(['bad', 'good', 'index']);
  });

  it('survives modules that import each other', () => {
    const [x, y] = ['x', 'y'].map((name) => ({ ...module, file: `f/${name}.ts`, blocks: [], imports: [name === 'x' ? './y.ts' : './x.ts'] }));
    expect(readingOrder([x as typeof module, y as typeof module], 'f')).toHaveLength(2);
  });
});

describe('evaluating', () => {
  it('prints values and reports what does not evaluate, with its line', async () => {
    const evaluator = new Evaluator(root);
    const { expressions } = module.blocks[0] as Prose;
    const values = await Promise.all(expressions.map((expression) => evaluator.value(room, module, expression)));
    expect(values).toEqual(['41', '42', null, 'x_y', null, '7', '0x29', null]);
    expect(evaluator.problems.map(({ line, message }) => `${line} ${message}`)).toEqual([
      '1 {{missing}}: missing is not defined',
      expect.stringContaining('1 {{undefined}}:'),
      expect.stringContaining('{{0 / 0}}:'),
    ]);
  });

  it('draws layouts and figures, and refuses what is no figure', async () => {
    const evaluator = new Evaluator(root);
    const marks = module.blocks.filter((block): block is Directive => block.kind === 'layout' || block.kind === 'figure');
    const drawn = await Promise.all(marks.map(({ kind, name, line }) => evaluator.draw(room, module, { kind: kind as 'figure', name, line })));
    expect(drawn.map((one) => one !== null)).toEqual([true, false, true, false, false]);
    expect(drawn[0]?.html).toContain('<title>Table');
    expect(drawn[0]?.html).toContain('>PG<');
    expect(evaluator.problems.map(({ line }) => line).sort()).toEqual([4, 6, 7]);
  });

  it('draws a register table with what software may do, as a ruler only where that fits', () => {
    const row = { bytes: 2, access: 'rw1c', reset: 7, text: 'what <it> is' };
    const dense = {
      device: 'chip',
      source: 'its data sheet',
      rows: { STATUS: { ...row, offset: 0 }, RING: { ...row, offset: 4, count: 2, stride: 8 } },
    };
    const html = drawLayout('T', dense as never);
    expect(html).toContain('<svg');
    for (const part of ['rw1c, 16 bits', '0x4 + 8·n', 'RING[2]', '0x7', 'what &lt;it&gt; is']) expect(html).toContain(part);
    const twice = { ...dense, rows: { DATA: { ...row, offset: 0 }, DIVISOR: { ...row, offset: 0 } } };
    const sparse = { ...dense, rows: { A: { ...row, offset: 0x20000 } } };
    for (const table of [twice, sparse]) expect(drawLayout('T', table as never)).toMatch(/^<details class="ruler-table" open>|^<details open/);
  });

  it('sets numbers as a book does', () => {
    expect(typeset(4096)).toBe('4096');
    expect(typeset(1234567)).toBe('1\u202f234\u202f567');
    expect(typeset(0.123456)).toBe('0.123');
    expect(typeset(2n ** 60n)).toBe('0x1000000000000000');
    expect(() => typeset(Number.NaN)).toThrow();
    expect(() => typeset({})).toThrow();
    expect(() => typeset('')).toThrow();
    const { size, words, percent } = BUILT_IN as Record<string, (n: number) => string>;
    expect([size?.(4096), size?.(12), size?.(16 << 20), words?.(3), words?.(40), percent?.(0.256)]).toEqual([
      '4 KiB',
      '12 bytes',
      '16 MiB',
      'three',
      '40',
      '26 %',
    ]);
  });
});
