import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { expressionsIn, parseLiterate } from './literate.ts';
import { readSource } from './source.ts';

const parse = (text: string) => parseLiterate('chapters/09-x/a.ts', text);
const kinds = (text: string) => parse(text).blocks.map(({ kind, line }) => `${kind}@${line}`);

describe('splitting prose from code', () => {
  it('takes column-0 comments as prose and everything else as code', () => {
    const file = parse('// # Title\n//\n// Opening words.\n\nexport const a = 1; // a phrase\n\n// More.\nconst b = 2;\n');
    expect(file.title).toBe('Title');
    expect(file.opening).toBe('Opening words.');
    expect(file.blocks.map(({ kind, line }) => `${kind}@${line}`)).toEqual(['prose@1', 'code@5', 'prose@7', 'code@8']);
    expect(file.blocks[1]).toMatchObject({ text: 'export const a = 1; // a phrase' });
  });

  it('does not take indented comments, doc comments, or tools’ comments as prose', () => {
    expect(kinds('function f() {\n  // inside\n}\n')).toEqual(['code@1']);
    expect(kinds('/** A doc. */\nexport const a = 1;\n')).toEqual(['code@1']);
    expect(kinds('// biome-ignore format: table\nexport const a = [\n1];\n')).toEqual(['code@1']);
    expect(kinds('// @clause x.y.z\nexport const a = 1;\n')).toEqual(['code@1']);
  });

  it('is not fooled by template strings, block comments or regular expressions', () => {
    expect(kinds('const a = `\n// not prose\n${1}\n// nor this\n`;\n')).toEqual(['code@1']);
    expect(kinds('/*\n// not prose\n*/\nconst a = 1;\n')).toEqual(['code@1']);
    expect(kinds('const a = /[/*]/;\n// prose\nconst b = 1; /* x */\n')).toEqual(['code@1', 'prose@2', 'code@3']);
  });

  it('joins paragraphs separated by a blank line, and trims blank lines off code', () => {
    const file = parse('// one\n\n// two\n\n\nconst a = 1;\n\n\n// three\n');
    expect(file.blocks.map(({ kind, line }) => `${kind}@${line}`)).toEqual(['prose@1', 'code@6', 'prose@9']);
    expect(file.blocks[0]).toMatchObject({ text: 'one\n\ntwo', lines: [1, 2, 3] });
    expect(file.blocks[1]).toMatchObject({ text: 'const a = 1;' });
  });

  it('splits leading imports off', () => {
    const file = parse("// p\n\nimport a from 'a';\nimport {\n  b,\n} from './b.ts';\n\nexport const c = a + b;\n");
    expect(file.blocks).toMatchObject([{ kind: 'prose' }, { kind: 'code', line: 3, imports: true }, { kind: 'code', line: 8, imports: false }]);
    expect(file.imports).toEqual(['a', './b.ts']);
  });

  it('reads assembler and C line by line', () => {
    const file = parseLiterate('a.S', '// # Title\n// words\n#include "x"\n/* block\n// not prose\n*/\nmain:\n  nop // trailing\n// more\n');
    expect(file.blocks.map(({ kind, line }) => `${kind}@${line}`)).toEqual(['prose@1', 'code@3', 'prose@9']);
    expect(file.title).toBe('Title');
  });

  it('loses no line of code, whatever the file', () => {
    const line = fc.constantFrom(
      'const a = 1;',
      '// prose',
      '//',
      '',
      '  // inner',
      '/** d */',
      '// ::figure x -- y',
      '// @clause a.b.c',
      '// biome-ignore x: y',
    );
    fc.assert(
      fc.property(fc.array(line, { maxLength: 30 }), (lines) => {
        const file = parse(lines.join('\n'));
        const shown = new Set<number>();
        for (const block of file.blocks) {
          const count = block.kind === 'code' || block.kind === 'prose' ? block.text.split('\n').length : 1;
          for (let n = 0; n < count; n++) {
            const at = block.kind === 'prose' ? (block.lines[n] as number) : block.line + n;
            expect(shown.has(at)).toBe(false);
            shown.add(at);
          }
        }
        lines.forEach((text, index) => {
          if (text !== '' && text !== '//') expect(shown.has(index + 1)).toBe(true);
        });
      }),
    );
  });
});

describe('directives', () => {
  it('reads name and caption', () => {
    const file = parse('// ::figure used-ring -- swap -- and see {{1 + 1}}\n// ::layout CR0\n// ::include mmu/walk.ts#walk -- the walk\n');
    expect(file.blocks).toMatchObject([
      { kind: 'figure', name: 'used-ring', caption: 'swap -- and see {{1 + 1}}', expressions: [{ text: '1 + 1' }] },
      { kind: 'layout', name: 'CR0', caption: '' },
      { kind: 'include', name: 'mmu/walk.ts#walk', caption: 'the walk', line: 3 },
    ]);
    expect(file.problems).toEqual([]);
  });

  it('reports unknown and malformed directives with their line', () => {
    const file = parse('// words\n//\n// ::figur x -- y\n// ::figure\n// ::layout two names\n');
    expect(file.problems.map(({ line }) => line)).toEqual([3, 4, 5]);
    expect(file.problems[0]?.message).toContain('::figur');
    expect(file.blocks.map(({ kind }) => kind)).toEqual(['prose']);
  });

  it('leaves a directive that stands in a sentence alone', () => {
    expect(kinds('// - `::figure name` draws\n')).toEqual(['prose@1']);
  });
});

describe('expressions and clauses', () => {
  it('finds expressions with the line they stand on', () => {
    const file = parse('// # T\n//\n// one {{A}} and\n// two {{ B + 1 }} and \\{{not}}\nconst x = 1;\n');
    expect(file.blocks[0]).toMatchObject({
      expressions: [
        { text: 'A', line: 3 },
        { text: 'B + 1', line: 4 },
      ],
    });
  });

  it('reports an empty expression', () => {
    expect(parse('// {{ }}\n').problems).toMatchObject([{ line: 1 }]);
  });

  it('takes an expression that spans lines whole', () => {
    expect(expressionsIn('a {{x +\ny}} b', () => 7)).toMatchObject([{ text: 'x +\ny', start: 2, end: 11, line: 7 }]);
  });

  it('finds clause marks in comments only', () => {
    const file = parse(
      "// @clause a.b.c\nfunction f() {\n  // @clause d.e.f\n  const s = '@clause g.h.i';\n}\n/**\n * @clause j.k.l\n */\nconst z = 1;\n",
    );
    expect(file.clauses).toEqual([
      { id: 'a.b.c', line: 1 },
      { id: 'd.e.f', line: 3 },
      { id: 'j.k.l', line: 7 },
    ]);
  });
});

describe('declarations', () => {
  it('finds exported names with their documentation and lines', () => {
    const { declared } = readSource(
      'a.ts',
      '/** First. */\nexport const A = 1, B = 2;\n\nclass C {\n  x = 1;\n}\n/**\n * Second\n * line.\n */\nexport function f(): void {}\n',
    );
    expect(declared).toMatchObject([
      { name: 'A', exported: true, line: 2, doc: 'First.' },
      { name: 'B', exported: true, line: 2 },
      { name: 'C', exported: false, kind: 'class', line: 4, endLine: 6 },
      { name: 'f', exported: true, kind: 'function', line: 11, doc: 'Second\nline.' },
    ]);
  });
});
