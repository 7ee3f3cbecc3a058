// # The reference of the instructions
//
// Every instruction that the processor of chapter 1 has: what it does, its encodings in the notation of the manual's opcode maps, and the line of the book that
// defines it. The page is made from the decode table, so it cannot know more or less than the processor does.

import { NOTATION } from '../../chapters/01-hardware-background/isa/encoding.ts';
import { escapeHtml, relativeTo, slug, table } from '../html.ts';
import { type Form, type InstructionEntry, readInstructions } from '../instructions.ts';
import { plainWords } from '../prose.ts';
import type { Site } from '../site.ts';
import type { Room } from '../tree.ts';

const PAGE = 'chapters/instructions.html';

// biome-ignore format: table
const SIZES: Readonly<Record<string, string>> = {
  b: '1 byte', w: '2 bytes', d: '4 bytes', q: '8 bytes', t: '10 bytes', x: '16 bytes', v: 'the operand size', z: 'the operand size, at most 4 bytes',
  y: '4 bytes, 8 with REX.W', p: 'a far pointer',
};

/** What an operand's letters mean: `Ev` is "register or memory, the operand size". */
function operandWords(operand: string): string | null {
  const kind = (NOTATION.kinds as Readonly<Record<string, string>>)[operand[0] as string];
  if (!kind || operand.length > 2 || operand === '1') return null;
  const size = SIZES[operand[1] ?? ''];
  return size ? `${kind}, ${size}` : kind;
}

function formHtml({ opcode, operands, remarks, feature }: Form): string {
  const titled = (text: string, title: string | null): string =>
    title ? `<abbr title="${escapeHtml(title)}">${escapeHtml(text)}</abbr>` : escapeHtml(text);
  const shown = operands.map((operand) => titled(operand, operandWords(operand))).join(', ');
  const notes = remarks.map((remark) => titled(remark, NOTATION.remarks[remark as keyof typeof NOTATION.remarks]));
  return `<div class="form"><code>${escapeHtml(opcode)}</code> <span>${shown}</span> <small>${[...notes, escapeHtml(feature ?? '')].join(' ')}</small></div>`;
}

const idOf = (name: string): string => `i-${slug(name)}`;

function rowOf({ name, does, module, line, forms }: InstructionEntry): { id: string; cells: string[] } {
  const source = `<a href="${relativeTo(PAGE, `${module.page}#L${line}`)}">${escapeHtml(name)}</a>`;
  return { id: idOf(name), cells: [source, escapeHtml(plainWords(does)), forms.map(formHtml).join('')] };
}

/** The page, and an entry in the search index for each instruction. */
export function addInstructions(site: Site, room: Room): void {
  const entries = readInstructions(room.modules);
  const groups = [...Map.groupBy(entries, ({ module }) => module)];
  const sections = groups.map(([module, members]) => {
    const title = plainWords(module.title);
    const text = `<h2 id="${slug(title)}">${escapeHtml(title)}</h2>`;
    return `<section>${text}${table(['Instruction', 'What it does', 'Encodings'], members.map(rowOf), 'instructions stacks')}</section>`;
  });
  const forms = entries.reduce((sum, entry) => sum + entry.forms.length, 0);
  site.add({
    page: PAGE,
    title: 'Instructions',
    description: 'Every instruction of the modelled processor, with its encodings and its definition.',
    room: 'chapters',
    set: 'full',
    headings: groups.map(([module]) => ({ level: 2, text: plainWords(module.title), id: slug(plainWords(module.title)) })),
    sideTitle: { page: PAGE, title: 'Instructions' },
    side: [
      { page: `${room.folder}/index.html`, title: `${room.number}. ${room.title}` },
      { page: PAGE, title: 'Instructions' },
    ],
    body: `<article><h1>Instructions</h1>
<p>${entries.length} instructions in ${forms} forms: everything that the processor of <a href="${relativeTo(PAGE, `${room.folder}/index.html`)}">chapter
${room.number}</a> decodes. A name leads to its definition. Encodings are written as in the manual’s opcode maps; point at an operand to have its letters explained.
At the end of a form stands the CPUID feature it came with.</p>
<p><input type="search" data-narrows="instructions" placeholder="Name, opcode, feature or word" aria-label="Narrow the list" autocomplete="off" spellcheck="false">
<output for="instructions"></output></p>
<div id="instructions">${sections.join('')}</div></article>`,
  });
  for (const { name, does, forms: all } of entries) {
    const text = `${does} ${all.map(({ opcode, feature }) => `${opcode} ${feature ?? ''}`).join(' ')}`;
    site.search.push({ title: name, where: 'Instruction', href: `${PAGE}#${idOf(name)}`, text: plainWords(text), kind: 'name' });
  }
}
