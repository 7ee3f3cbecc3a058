// # The instruction set as data
//
// The reference of the instructions is not written; it is read. The decode table knows every encoding, and the source beside it says in a phrase what the
// instruction does: in the comment at the end of its entry, or in the documentation above, or, where a whole family has one description, in the title of its section.

import { NOTATION } from '../chapters/01-hardware-background/isa/encoding.ts';
import { INSTRUCTION_SET } from '../chapters/01-hardware-background/isa/instruction-set.ts';
import type { Module } from './tree.ts';

/** One instruction of the reference. */
export interface InstructionEntry {
  readonly name: string;
  readonly does: string;
  /** The module that defines it, and where. */
  readonly module: Module;
  readonly line: number;
  readonly forms: readonly Form[];
}

/** One encoding as it is written: an opcode may stand for eight. */
export interface Form {
  readonly opcode: string;
  readonly operands: readonly string[];
  readonly remarks: readonly string[];
  readonly feature: string | null;
}

function formOf(text: string, feature: string | null): Form {
  const [opcode = '', ...words] = text.split(/\s+/).filter((word) => word !== feature);
  return {
    opcode,
    operands: words.filter((word) => !(word in NOTATION.remarks)).flatMap((word) => word.split(',')),
    remarks: words.filter((word) => word in NOTATION.remarks),
    feature,
  };
}

/** The entry of an instruction in a module: first and last line, counted from 0. */
interface Place {
  readonly first: number;
  readonly last: number;
}

const escapeRegExp = (text: string): string => text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&');

/** Where the call that begins at a line ends: where its parentheses are balanced. Strings hold none. */
function lastLineOf(lines: readonly string[], first: number): number {
  let open = 0;
  for (let at = first; at < lines.length; at++) {
    const code = (lines[at] as string).replace(/'[^']*'|\/\/.*$/g, '');
    open += (code.match(/\(/g) ?? []).length - (code.match(/\)/g) ?? []).length;
    if (open <= 0) return at;
  }
  return first;
}

// A family is often made by a function from the part of the name that its members share. So where no entry has the whole name, the one with the longest
// beginning of it is meant: `'SQRT'` makes SQRTPS, and `CMOV${condition}` makes CMOVZ.

const SHORTEST_STEM = 3;

/** The line on which a call is given a name that begins with `stem`: all of it, or what a template continues. -1 when there is none. */
function lineNaming(lines: readonly string[], stem: string, whole: boolean): number {
  const text = escapeRegExp(stem);
  const literal = lines.findIndex((line) => !line.startsWith('//') && new RegExp(`(?:\\(|^\\s*)'${text}',`).test(line));
  if (whole || (literal >= 0 && stem.length >= SHORTEST_STEM)) return literal;
  return lines.findIndex((line) => new RegExp(`\\(\`${text}\\$\\{`).test(line));
}

function placeOf(lines: readonly string[], name: string, length: number): Place | null {
  const stem = name.slice(0, length);
  const at = lineNaming(lines, stem, length === name.length);
  if (at < 0) return null;
  // The name may stand on a line of its own, below the call's.
  const first = /^\s*'/.test(lines[at] as string) ? at - 1 : at;
  return { first, last: lastLineOf(lines, first) };
}

const firstSentence = (text: string): string => (/^.*?[.:](?=\s|$)/s.exec(text)?.[0] ?? text).replace(/[.:]$/, '').trim();

/** What the source says about the entry. */
function phraseOf(lines: readonly string[], { first, last }: Place): string {
  const trailing = /\/\/ (.+)$/.exec(lines[last] as string)?.[1];
  if (trailing) return trailing;
  if (/\*\/\s*$/.test(lines[first - 1] ?? '')) {
    let start = first - 1;
    while (start > 0 && !/^\s*\/\*\*/.test(lines[start] as string)) start--;
    const text = lines.slice(start, first).map((line) => line.replace(/^\s*(?:\/\*\*|\*\/|\*)?\s*|\s*\*\/\s*$/g, ''));
    return firstSentence(text.join(' ').trim());
  }
  const heading = lines.slice(0, first).findLast((line) => /^\/\/ #+ /.test(line));
  return heading ? heading.replace(/^\/\/ #+ /, '') : '';
}

/** Every instruction, in the order of the decode table, with what the source says about it. Definitions of one name are one instruction. */
export function readInstructions(modules: readonly Module[]): InstructionEntry[] {
  const texts = modules
    .filter(({ file }) => /\/isa\/(?!encoding\.ts)[^/]+\.ts$/.test(file))
    .map((module) => ({ module, lines: module.text.split('\n') }));
  const byName = Map.groupBy(INSTRUCTION_SET, ({ name }) => name);
  return [...byName].map(([name, definitions]) => {
    const written = new Map(definitions.flatMap(({ encodings }) => encodings.map(({ text, feature }) => [text, feature] as const)));
    const forms = [...written].map(([text, feature]) => formOf(text, feature));
    for (let length = name.length; length > 0; length--) {
      for (const { module, lines } of texts) {
        const place = placeOf(lines, name, length);
        if (place) return { name, does: phraseOf(lines, place), module, line: place.first + 1, forms };
      }
    }
    throw new Error(`no module of the instruction set defines ${name}`);
  });
}
