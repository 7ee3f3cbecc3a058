// # Colouring code
//
// Shiki reads the grammars; the colours are ours, as CSS classes, so that one page serves light, dark and print. A whole file is coloured at
// once, because a block cut out of it may begin inside a template string, and then handed out line by line.

import asm from 'shiki/langs/asm.mjs';
import c from 'shiki/langs/c.mjs';
import json from 'shiki/langs/json.mjs';
import shell from 'shiki/langs/shellscript.mjs';
import typescript from 'shiki/langs/typescript.mjs';
import { createCssVariablesTheme, createHighlighterCore } from 'shiki/core';
import { createJavaScriptRegexEngine } from 'shiki/engine/javascript';
import { escapeHtml } from './html.ts';

// biome-ignore format: table
const LANGUAGES: Readonly<Record<string, string>> = {
  ts: 'typescript', mjs: 'typescript', js: 'typescript', typescript: 'typescript',
  c: 'c', h: 'c', S: 'asm', s: 'asm', ld: 'c', asm: 'asm', json: 'json', sh: 'shellscript', shell: 'shellscript', bash: 'shellscript',
};

/** Which class a theme variable becomes. What is not here keeps the colour of plain text. */
// biome-ignore format: table
const CLASSES: Readonly<Record<string, string>> = {
  'token-comment': 'c', 'token-keyword': 'k', 'token-string': 's', 'token-string-expression': 's', 'token-constant': 'm', 'token-function': 'f',
  'token-parameter': 'p',
};

const highlighter = createHighlighterCore({
  themes: [createCssVariablesTheme({ name: 'book', variablePrefix: '--x-' })],
  langs: [typescript, c, asm, json, shell],
  engine: createJavaScriptRegexEngine({ forgiving: true }),
});

/** The language of a file, by its name; null for one we do not colour. */
export const languageOf = (file: string): string | null => LANGUAGES[file.split('.').at(-1) ?? ''] ?? null;

/** A file's lines as HTML. An unknown language comes back escaped and uncoloured. */
export async function highlightLines(text: string, language: string | null): Promise<string[]> {
  const lang = language === null ? null : (LANGUAGES[language] ?? null);
  if (lang === null) return text.split('\n').map(escapeHtml);
  if (lang === 'asm') return Promise.all(text.split('\n').map(colourAssembler));
  const lines = (await highlighter).codeToTokensBase(text, { lang, theme: 'book', tokenizeMaxLineLength: 2000 });
  return lines.map(asHtml);
}

const asHtml = (tokens: readonly { readonly content: string; readonly color?: string | undefined }[]): string =>
  tokens
    .map(({ content, color }) => {
      const name = CLASSES[/--x-([\w-]+)/.exec(color ?? '')?.[1] ?? ''];
      return name ? `<span class="${name}">${escapeHtml(content)}</span>` : escapeHtml(content);
    })
    .join('');

// The assembler grammar knows `;` and `#` as comments; in sources that go through the C preprocessor they are written as in C.
async function colourAssembler(line: string): Promise<string> {
  const [, code = '', comment = ''] = /^((?:[^/"]|"[^"]*"|\/(?!\/))*)(\/\/.*)?$/.exec(line) ?? [line, line];
  const [tokens = []] = (await highlighter).codeToTokensBase(code, { lang: 'asm', theme: 'book' });
  return asHtml(tokens) + (comment && `<span class="c">${escapeHtml(comment)}</span>`);
}
