// # HTML, by hand
//
// The pages are small and their shapes few, so they are template strings. What comes from a file is escaped here on its way in.

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => ENTITIES[character] as string);

const CHARACTERS = new Map(Object.entries(ENTITIES).map(([character, entity]) => [entity, character]));
/** What {@link escapeHtml} was given. */
export const unescapeHtml = (html: string): string => html.replace(/&#?\w+;/g, (entity) => CHARACTERS.get(entity) ?? entity);

/** The relative link from one page of the site to another: nothing on the site knows at which address it is served. */
export function relativeTo(page: string, target: string): string {
  const [path, hash] = target.split('#') as [string, string?];
  const from = page.split('/').slice(0, -1);
  const to = path.split('/');
  let common = 0;
  while (common < from.length && common < to.length - 1 && from[common] === to[common]) common++;
  const link = [...from.slice(common).map(() => '..'), ...to.slice(common)].join('/');
  return `${path === page && hash !== undefined ? '' : link}${hash === undefined ? '' : `#${hash}`}`;
}

/** An id for a heading: its words, joined by hyphens. */
export const slug = (text: string): string =>
  text
    .toLowerCase()
    .replace(/<[^>]*>|&\w+;/g, '')
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-+|-+$/g, '');

/** One row of a table: its cells as HTML, and an id to link to. */
export type Row = readonly string[] | { readonly id: string; readonly cells: readonly string[] };

/**
 * A table that scrolls when it is too wide. Titles are HTML; one that begins with `#` heads a column of numbers. One of the class `stacks` can also become
 * a list of blocks, where the page is narrow: its cells know the titles of their columns.
 */
export function table(titles: readonly string[], rows: readonly Row[], className = ''): string {
  const numeric = titles.map((title) => title.startsWith('#'));
  const names = titles.map((title) => title.replace(/^#/, ''));
  const stacks = className.split(' ').includes('stacks');
  const cell = (tag: 'th' | 'td', html: string, column: number): string => {
    const titled = tag === 'td' && stacks && names[column] ? ` data-title="${names[column]}"` : '';
    return `<${tag}${numeric[column] ? ' class="number"' : ''}${titled}>${html}</${tag}>`;
  };
  const head = names.map((name, column) => cell('th', name, column)).join('');
  const body = rows.map((row) => {
    const [cells, id] = 'cells' in row ? [row.cells, ` id="${escapeHtml(row.id)}"`] : [row, ''];
    return `<tr${id}>${cells.map((html, column) => cell('td', html, column)).join('')}</tr>`;
  });
  const named = className ? ` class="${className}"` : '';
  return `<div class="scroll"><table${named}><thead><tr>${head}</tr></thead><tbody>${body.join('')}</tbody></table></div>`;
}
