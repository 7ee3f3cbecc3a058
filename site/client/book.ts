// # What a page does by itself
//
// Very little: the light-and-dark button, search, the list at the left, and marking a range of lines. Every page reads well without it.

import { type Hit, loadIndex } from './search.ts';

const root = document.documentElement;
const base = root.dataset.root ?? '';

// ## Light and dark

document.querySelector('button.theme')?.addEventListener('click', () => {
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  try {
    localStorage.setItem('ringbook-theme', root.dataset.theme);
    localStorage.setItem('tsd-theme', root.dataset.theme); // the API pages keep their own setting
  } catch {
    // No storage: the choice holds for this page.
  }
  root.dispatchEvent(new CustomEvent('themechange'));
});

// ## The list at the left
//
// On a narrow screen it is closed until asked for. On a wide one the current page is brought into view.

const side = document.querySelector<HTMLDetailsElement>('details.side');
const narrow = matchMedia('(max-width: 62rem)');
if (side) {
  const fit = (): void => {
    side.open = !narrow.matches;
  };
  fit();
  narrow.addEventListener('change', fit);
  const here = side.querySelector<HTMLElement>('[aria-current]');
  if (here && !narrow.matches) side.scrollTop = Math.max(0, here.offsetTop - side.clientHeight / 3);
}

const tocLinks = new Map([...document.querySelectorAll<HTMLAnchorElement>('.toc a')].map((link) => [link.hash.slice(1), link]));
const headings = [...tocLinks.keys()].map((id) => document.getElementById(decodeURIComponent(id))).filter((heading) => heading !== null);
if (headings.length > 0) {
  const light = (): void => {
    const passed = headings.filter((heading) => heading.getBoundingClientRect().top < 120).at(-1);
    for (const [id, link] of tocLinks) link.classList.toggle('here', id === passed?.id);
  };
  addEventListener('scroll', light, { passive: true });
  light();
}

// ## Lines
//
// `#L12` is an anchor that needs no script. `#L12-L20` marks a range; shift-click on a second line number makes one.

function markLines(): void {
  for (const line of document.querySelectorAll('.l.marked')) line.classList.remove('marked');
  const range = /^#L(\d+)(?:-L(\d+))?$/.exec(location.hash);
  if (!range) return;
  const [from, to] = [Number(range[1]), Number(range[2] ?? range[1])];
  for (let n = from; n <= Math.min(to, from + 2000); n++) document.querySelector(`.l#L${n}`)?.classList.add('marked');
  // A clause or a symbol may be on a line of prose, or in folded imports: the nearest earlier anchor will do.
  let target: Element | null = null;
  for (let n = from; n > 0 && !target; n--) target = document.getElementById(`L${n}`);
  target?.closest('details')?.setAttribute('open', '');
  target?.scrollIntoView({ block: 'center' });
}
addEventListener('hashchange', markLines);
markLines();
let lastLine = 0;
document.addEventListener('click', (event) => {
  const number = (event.target as Element).closest<HTMLAnchorElement>('a.n');
  if (!number) return;
  const n = Number(number.dataset.n);
  if (event.shiftKey && lastLine > 0) {
    event.preventDefault();
    location.hash = `L${Math.min(lastLine, n)}-L${Math.max(lastLine, n)}`;
  }
  lastLine = n;
});

// ## Search
//
// The index is a script, not a JSON file, so that it also loads from a page opened from disk. It is fetched when the field is first touched.

declare global {
  interface Window {
    ringbookIndex?: string;
  }
}

let loading: Promise<(query: string, limit?: number) => Hit[]> | null = null;
function searcher(): Promise<(query: string, limit?: number) => Hit[]> {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = `${base}assets/search-index.js`;
    script.onload = () => resolve(loadIndex(window.ringbookIndex ?? ''));
    script.onerror = () => reject(new Error('the search index did not load'));
    document.head.append(script);
  });
  return loading;
}

function item({ title, where, href, excerpt, kind }: Hit): HTMLLIElement {
  const li = document.createElement('li');
  const link = document.createElement('a');
  link.href = base + href;
  const name = document.createElement(kind === 'name' || kind === 'clause' ? 'code' : 'strong');
  name.textContent = title;
  const place = document.createElement('small');
  place.textContent = where;
  const text = document.createElement('span');
  text.textContent = excerpt;
  link.append(name, place, text);
  li.append(link);
  return li;
}

const form = document.querySelector<HTMLFormElement>('form.search');
const field = form?.querySelector('input');
if (form && field) {
  const box = document.createElement('ol');
  box.className = 'results popup';
  box.hidden = true;
  form.append(box);
  const show = async (): Promise<void> => {
    const query = field.value.trim();
    const hits = query === '' ? [] : (await searcher())(query, 8);
    if (field.value.trim() !== query) return; // typed on meanwhile
    box.replaceChildren(...hits.map(item));
    box.hidden = hits.length === 0;
  };
  field.addEventListener('focus', () => void searcher().catch(() => {}));
  field.addEventListener('input', () => void show());
  form.addEventListener('keydown', (event) => {
    const links = [...box.querySelectorAll('a')];
    const at = links.indexOf(document.activeElement as HTMLAnchorElement);
    if (event.key === 'Escape') {
      box.hidden = true;
      field.blur();
    } else if (event.key === 'ArrowDown' && links.length > 0) {
      event.preventDefault();
      links[Math.min(at + 1, links.length - 1)]?.focus();
    } else if (event.key === 'ArrowUp' && at >= 0) {
      event.preventDefault();
      (at === 0 ? field : links[at - 1])?.focus();
    }
  });
  document.addEventListener('click', (event) => {
    if (!form.contains(event.target as Node)) box.hidden = true;
  });
  document.addEventListener('keydown', (event) => {
    const typing = (event.target as Element).closest('input, textarea, [contenteditable]');
    if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      field.focus();
    }
  });
}

// A long list can be narrowed: the field names the element whose rows are hidden unless they hold every word. Names and opcodes are matched from their beginnings.
for (const words of document.querySelectorAll<HTMLInputElement>('input[data-narrows]')) {
  const list = document.getElementById(words.dataset.narrows ?? '');
  const count = words.parentElement?.querySelector('output');
  const rows = [...(list?.querySelectorAll<HTMLTableRowElement>('tbody tr') ?? [])].map((row) => ({ row, text: ` ${row.innerText.toLowerCase()}` }));
  words.addEventListener('input', () => {
    const wanted = words.value
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== '');
    const begins = wanted.map((word) => new RegExp(`[\\s.,/]${word.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')}`));
    for (const { row, text } of rows) row.hidden = !begins.every((begin) => begin.test(text));
    for (const section of list?.querySelectorAll('section') ?? []) section.hidden = !section.querySelector('tbody tr:not([hidden])');
    const shown = rows.filter(({ row }) => !row.hidden).length;
    if (count) count.textContent = wanted.length === 0 ? '' : `${shown} of ${rows.length}`;
  });
}

const results = document.getElementById('results');
const found = document.getElementById('found');
const query = new URLSearchParams(location.search).get('q')?.trim();
if (results && found && query) {
  if (field) field.value = query;
  searcher().then(
    (search) => {
      const hits = search(query, 100);
      found.textContent =
        hits.length === 0 ? `Nothing found for “${query}”.` : `${hits.length === 100 ? 'The first 100' : hits.length} found for “${query}”`;
      results.replaceChildren(...hits.map(item));
    },
    (error: Error) => {
      found.textContent = error.message;
    },
  );
}
