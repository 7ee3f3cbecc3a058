// # Colouring code
//
// Two readers share the work. TypeScript, which is nearly all of the tree, is read by the compiler's own classifier: it is exact, and forty times
// as fast as a grammar of regular expressions, which on this tree decides whether a build takes five seconds or twenty. Everything else is read by
// Shiki. Both give classes, not colours, so that one page serves light, dark and print.
//
// A whole file is coloured at once, because a block cut out of it may begin inside a template string, and then handed out line by line.

import { createCssVariablesTheme, createHighlighterCore } from 'shiki/core';
import { createJavaScriptRegexEngine } from 'shiki/engine/javascript';
import asm from 'shiki/langs/asm.mjs';
import c from 'shiki/langs/c.mjs';
import json from 'shiki/langs/json.mjs';
import shell from 'shiki/langs/shellscript.mjs';
import ts from 'typescript';
import { escapeHtml } from './html.ts';

// biome-ignore format: table
const LANGUAGES: Readonly<Record<string, string>> = {
  ts: 'typescript', mjs: 'typescript', js: 'typescript', typescript: 'typescript',
  c: 'c', h: 'c', S: 'asm', s: 'asm', inc: 'asm', ld: 'c', asm: 'asm', json: 'json', sh: 'shellscript', shell: 'shellscript', bash: 'shellscript',
};

const highlighter = createHighlighterCore({
  themes: [createCssVariablesTheme({ name: 'book', variablePrefix: '--x-' })],
  langs: [c, asm, json, shell],
  engine: createJavaScriptRegexEngine({ forgiving: true }),
});

/** The language of a file, by its name; null for one we do not colour. */
export const languageOf = (file: string): string | null => LANGUAGES[file.split('.').at(-1) ?? ''] ?? null;

/** A file's lines as HTML. An unknown language comes back escaped and uncoloured. */
export async function highlightLines(text: string, language: string | null): Promise<string[]> {
  const lang = language === null ? null : (LANGUAGES[language] ?? null);
  if (lang === null) return text.split('\n').map(escapeHtml);
  if (lang === 'typescript') return colourTypeScript(text);
  if (lang === 'asm') return Promise.all(text.split('\n').map(colourAssembler));
  return (await highlighter).codeToTokensBase(text, { lang, theme: 'book', tokenizeMaxLineLength: 2000 }).map(asHtml);
}

const span = (className: string | undefined, text: string): string =>
  className ? `<span class="${className}">${escapeHtml(text)}</span>` : escapeHtml(text);

// ## TypeScript

const CLASS_OF: Readonly<Partial<Record<ts.TokenClass, string>>> = {
  [ts.TokenClass.Keyword]: 'k',
  [ts.TokenClass.Comment]: 'c',
  [ts.TokenClass.NumberLiteral]: 'm',
  [ts.TokenClass.BigIntLiteral]: 'm',
  [ts.TokenClass.StringLiteral]: 's',
};
const TYPE_WORDS = new Set(['string', 'number', 'boolean', 'bigint', 'unknown', 'never', 'void', 'any', 'object', 'symbol']);
/** Words that are keywords in some places and names in others. */
const CONTEXTUAL = new Set([
  'get',
  'set',
  'type',
  'of',
  'from',
  'is',
  'as',
  'async',
  'declare',
  'module',
  'require',
  'global',
  'string',
  'number',
  'object',
  'symbol',
]);
const VALUES = new Set(['true', 'false', 'null', 'undefined', 'this', 'super']);

function colourTypeScript(text: string): string[] {
  const classifier = ts.createClassifier();
  let state: ts.EndOfLineState = ts.EndOfLineState.None;
  return text.split('\n').map((line) => {
    const { entries, finalLexState } = classifier.getClassificationsForLine(line, state, true);
    state = finalLexState;
    let at = 0;
    return entries
      .map(({ length, classification }) => {
        const token = line.slice(at, at + length);
        at += length;
        if (classification === ts.TokenClass.Identifier) {
          // What is called, and what is named like a type: the classifier knows words, not roles.
          const called = /^\s*(?:<[\w\s,.[\]|'"]*>)?\(/.test(line.slice(at)) || /^[A-Z][a-z]/.test(token);
          return span(called ? 'f' : undefined, token);
        }
        const named = /^\s*[(:?]/.test(line.slice(at)) || line[at - length - 1] === '.';
        if (classification === ts.TokenClass.Keyword && named && CONTEXTUAL.has(token)) return span(line[at] === '(' ? 'f' : undefined, token);
        if (classification === ts.TokenClass.Keyword && (TYPE_WORDS.has(token) || VALUES.has(token))) return span('m', token);
        // A regular expression comes without a class.
        return span(CLASS_OF[classification] ?? (/^\/.+\//.test(token) ? 's' : undefined), token);
      })
      .join('');
  });
}

// ## The rest

/** Which class a theme variable becomes. What is not here keeps the colour of plain text. */
// biome-ignore format: table
const CLASSES: Readonly<Record<string, string>> = {
  'token-comment': 'c', 'token-keyword': 'k', 'token-string': 's', 'token-string-expression': 's', 'token-constant': 'm', 'token-function': 'f',
};

const asHtml = (tokens: readonly { readonly content: string; readonly color?: string | undefined }[]): string =>
  tokens.map(({ content, color }) => span(CLASSES[/--x-([\w-]+)/.exec(color ?? '')?.[1] ?? ''], content)).join('');

// The assembler grammar knows `;` and `#` as comments; in sources that go through the C preprocessor they are written as in C.
async function colourAssembler(line: string): Promise<string> {
  const [, code = '', comment = ''] = /^((?:[^/"]|"[^"]*"|\/(?!\/))*)(\/\/.*)?$/.exec(line) ?? [line, line];
  const [tokens = []] = (await highlighter).codeToTokensBase(code, { lang: 'asm', theme: 'book' });
  return asHtml(tokens) + (comment && span('c', comment));
}
