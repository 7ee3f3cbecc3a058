// # Drawing the walk
//
// The page of chapter 4's explorable. What is drawn follows from one value, `shown`; each control makes a new one.

import './live.css';
import './walk.css';
import { MODES, type Reference } from '../../chapters/04-memory-virtualization/walks.ts';
import { get, make, plural } from './dom.ts';
import {
  about,
  bitsOf,
  editable,
  ending,
  hex,
  perform,
  readShown,
  type Shown,
  START,
  settled,
  toggled,
  type Walks,
  writeShown,
} from './walk-model.ts';

const selects = {
  guest: get<HTMLSelectElement>('guest'),
  page: get<HTMLSelectElement>('page'),
  nested: get<HTMLSelectElement>('nested'),
  access: get<HTMLSelectElement>('access'),
  privilege: get<HTMLSelectElement>('privilege'),
};
const buttons = {
  first: get<HTMLButtonElement>('first'),
  back: get<HTMLButtonElement>('back'),
  forward: get<HTMLButtonElement>('forward'),
  last: get<HTMLButtonElement>('last'),
  restore: get<HTMLButtonElement>('restore'),
};

let shown: Shown = settled(readShown(location.hash));
let walks: Walks = perform(shown);
/** The reference whose entry is explained; null: the latest. */
let chosen: number | null = null;
let written = '';

// ## The grid
//
// A row for each entry of the guest that has to be found, and one for the byte; a column for each level of the second stage, and one for the guest's entry
// itself. Places that the walk does not reach stay empty.

interface Placed {
  readonly row: number;
  readonly reference: Reference;
}
function placed(references: readonly Reference[]): Placed[] {
  let row = 0;
  return references.map((reference) => {
    const at = { row, reference };
    if (reference.stage === 1) row++;
    return at;
  });
}
const SHORT = ['', 'table', 'directory', 'pointers', 'PML4'];

function drawGrid(): void {
  const { nested, unedited } = walks;
  const now = placed(nested.references);
  const whole = placed(unedited.references);
  const levels = [4, 3, 2, 1].filter((level) => [...now, ...whole].some(({ reference }) => reference.stage === 2 && reference.level === level));
  const rows = Math.max(...[...now, ...whole].map(({ row }) => row)) + 1;
  const grid = get('two');
  grid.style.setProperty('--columns', String(levels.length + 1));
  const cells: HTMLElement[] = [make('span')];
  for (const level of levels) cells.push(make('span', SHORT[level], 'head kernel'));
  cells.push(make('span', 'the guest’s', 'head guest'));
  for (let row = 0; row < rows; row++) {
    const own = whole.find((one) => one.row === row && one.reference.stage === 1)?.reference;
    cells.push(make('span', own ? SHORT[own.level] : 'the byte', own ? 'row guest' : 'row byte'));
    for (const column of [...levels, 0]) {
      const here = (list: readonly Placed[]): Reference | undefined =>
        list.find(
          (one) => one.row === row && (column === 0 ? one.reference.stage === 1 : one.reference.stage === 2 && one.reference.level === column),
        )?.reference;
      const reference = here(now);
      if (reference) cells.push(cell(reference));
      else cells.push(make('span', '', here(whole) ? 'cell unreached' : 'cell none'));
    }
  }
  grid.replaceChildren(...cells);
}

function cell(reference: Reference): HTMLElement {
  const { n, stage, structure, target, leaf, register } = reference;
  const reached = n <= shown.at;
  const button = make(
    'button',
    '',
    `cell ${stage === 1 ? 'guest' : 'kernel'}${leaf ? ' leaf' : ''}${register ? ' register' : ''}`,
  ) as HTMLButtonElement;
  button.type = 'button';
  button.disabled = !reached;
  button.dataset.reference = String(n);
  if (!reached) {
    button.classList.add('ahead');
    button.setAttribute('aria-label', 'not read yet');
    return button;
  }
  const edit = editable(walks, reference);
  const changed = edit !== null && shown.edits.some((one) => one.reference === edit);
  if (changed) button.classList.add('changed');
  const failed = n === walks.nested.references.length && walks.nested.result.kind !== 'translated';
  if (failed) button.classList.add('failed');
  if (n === current()?.n) button.classList.add('chosen');
  button.append(make('b', String(n)), make('small', failed ? '✗' : hex(target)));
  button.setAttribute('aria-label', `Reference ${n}: ${structure} entry${changed ? ', changed' : ''}${failed ? ', the walk ends here' : ''}`);
  if (n === current()?.n) button.setAttribute('aria-current', 'true');
  return button;
}

/** The reference whose entry is explained. */
function current(): Reference | undefined {
  const { references } = walks.nested;
  return references[(chosen !== null && chosen <= shown.at ? chosen : Math.min(shown.at, references.length)) - 1];
}

// ## The entry

function drawEntry(): void {
  const reference = current();
  const box = get('entry');
  if (!reference) {
    box.replaceChildren(make('p', 'Nothing has been read. Step forward.'));
    return;
  }
  const { n, stage, structure, value, translates, bits } = reference;
  const head = make('p', '', 'entry-head');
  head.append(
    make('strong', `${n}. ${structure}`),
    make('span', stage === 1 ? ' the guest’s table' : ' the second stage’s table', `stage ${stage === 1 ? 'guest' : 'kernel'}`),
  );
  const parts: HTMLElement[] = [head, make('p', about(reference, walks)), ruler(translates, bits, reference)];
  const number = editable(walks, reference);
  const row = make('div', '', 'entry-bits');
  row.setAttribute('role', 'group');
  row.setAttribute('aria-label', 'Bits of the entry, before the walk');
  const original = number === null ? 0n : (walks.unedited.references[number - 1]?.value ?? 0n);
  const edit = shown.edits.find((one) => one.reference === number);
  // As the entry was before the walk: by now the processor may have set A or D in it.
  const stored = edit ? (original | edit.set) & ~edit.clear : number === null ? value : original;
  for (const { name, mask, meaning } of bitsOf(reference, shown)) {
    const button = make('button', '', 'bit') as HTMLButtonElement;
    const on = (stored & mask) !== 0n;
    button.type = 'button';
    button.dataset.bit = name;
    button.append(make('span', name), make('b', on ? '1' : '0'));
    button.setAttribute('aria-pressed', String(on));
    button.title = `${meaning}: press to ${on ? 'clear' : 'set'}`;
    button.setAttribute('aria-label', `${name}, ${meaning}`);
    button.disabled = number === null;
    if (((edit?.set ?? 0n) | (edit?.clear ?? 0n)) & mask) button.classList.add('changed');
    button.addEventListener('click', () => {
      if (number === null) return;
      chosen = n;
      change({ edits: toggled(shown.edits, number, original, mask) });
      (get('entry').querySelector(`[data-bit="${name}"]`) as HTMLElement | null)?.focus();
    });
    row.append(button);
  }
  parts.push(row);
  if (number === null) parts.push(make('p', 'The walk came here only because a bit was changed; this entry stays as it is.', 'file'));
  box.replaceChildren(...parts);
}

/** The address that is being translated, cut where the levels cut it. */
function ruler(address: bigint, [high, low]: readonly [number, number], { stage, register }: Reference): HTMLElement {
  const cuts = stage === 2 || shown.guest === '4-level' ? [47, 38, 29, 20, 11] : shown.guest === 'PAE' ? [31, 29, 20, 11] : [31, 21, 11];
  const box = make('div', '', 'walk-ruler');
  box.setAttribute('aria-hidden', 'true');
  cuts.forEach((top, n) => {
    const bottom = n + 1 < cuts.length ? (cuts[n + 1] as number) + 1 : 0;
    const part = make('span', '', top === high && bottom === low ? (stage === 1 ? 'on guest' : 'on kernel') : '');
    part.style.flexGrow = String(top - bottom + 1);
    const field = (address >> BigInt(bottom)) & ((1n << BigInt(top - bottom + 1)) - 1n);
    part.append(make('small', `${top}–${bottom}`), make('b', bottom === 0 ? hex(field) : String(field)));
    box.append(part);
  });
  if (register) box.classList.add('register');
  return box;
}

// ## The other two
//
// They take the same number of steps. So one sees the native walk end while the nested one has just found the guest's first table.

function chip({ n, structure, target, register, leaf, value }: Reference, label: number): HTMLElement {
  const element = make('span', '', `chip guest${leaf ? ' leaf' : ''}${register ? ' register' : ''}`);
  element.append(make('b', register ? 'reg' : String(label)), make('span', structure), make('small', value === 0n ? 'empty' : hex(target)));
  element.title = `reference ${n}`;
  return element;
}
const memoryReferences = (references: readonly Reference[]): number => references.filter(({ register }) => !register).length;
const entriesBefore = (references: readonly Reference[], n: number): number => memoryReferences(references.slice(0, n));

/** Steps taken: when the nested walk is at its end, so are the others. */
const steps = (): number => (shown.at >= walks.nested.references.length ? Number.POSITIVE_INFINITY : shown.at);

function drawNative(): void {
  const { references, result } = walks.native;
  get('native').replaceChildren(...references.slice(0, steps()).map((reference, n) => chip(reference, entriesBefore(references, n + 1))));
  const done = steps() >= references.length;
  get('native-end').textContent = done ? `${plural(memoryReferences(references), 'reference')}. ${ending(result).sentence}` : '';
}

function drawShadow(): void {
  const { attempts, result } = walks.shadow;
  let left = steps();
  const parts: HTMLElement[] = [];
  let exits = 0;
  for (const { references, result: end, answer } of attempts) {
    parts.push(...references.slice(0, left).map((reference, n) => chip(reference, entriesBefore(references, n + 1))));
    left -= references.length;
    if (left < 0) break;
    if (end.kind === 'fault') {
      exits++;
      const said =
        answer === 'guest' ? 'page fault: VM exit. The guest’s own tables forbid it' : 'page fault: VM exit. The kernel builds what is missing';
      parts.push(make('span', said, 'crossing'));
    }
  }
  get('shadow').replaceChildren(...parts);
  const final = attempts.at(-1);
  const cost = final?.answer === null ? `; from then on ${plural(memoryReferences(final.references), 'reference')} for each miss` : '';
  get('shadow-end').textContent = left < 0 ? '' : `${plural(exits, 'exit')} the first time${cost}. ${ending(result).sentence}`;
}

// ## All of it

function draw(): void {
  const { references, result } = walks.nested;
  for (const [name, select] of Object.entries(selects) as [keyof typeof selects, HTMLSelectElement][]) {
    if (name === 'page') select.replaceChildren(...MODES[shown.guest].sizes.map((size) => make('option', size)));
    select.value = shown[name];
  }
  drawGrid();
  drawEntry();
  drawNative();
  drawShadow();
  const at = Math.min(shown.at, references.length);
  const total = memoryReferences(references);
  get('count').textContent = `${entriesBefore(references, at)} of ${plural(total, 'reference')}`;
  const { word, sentence } = ending(result);
  const end = get('two-end');
  const done = shown.at >= references.length;
  end.textContent = done ? `${plural(total, 'reference')}. ${sentence}` : '';
  end.dataset.kind = done ? word : '';
  buttons.first.disabled = shown.at <= 0;
  buttons.back.disabled = shown.at <= 0;
  buttons.forward.disabled = done;
  buttons.last.disabled = done;
  buttons.restore.disabled = shown.edits.length === 0;
  written = writeShown(shown);
  if (location.hash !== written && !(location.hash === '' && written === '#')) history.replaceState(null, '', written);
}

/** Shows something else. A walk is performed again only when it can have changed. */
function change(to: Partial<Shown>): void {
  const finished = shown.at >= walks.nested.references.length;
  shown = { ...shown, ...to };
  if (Object.keys(to).some((name) => name !== 'at')) {
    walks = perform(shown);
    // What was whole stays whole; and a changed bit is worth seeing to the end.
    const { length } = walks.nested.references;
    if (finished || to.edits) shown = { ...shown, at: length };
    if (chosen !== null && chosen > length) chosen = null;
  }
  shown = { ...shown, at: Math.max(0, Math.min(shown.at, walks.nested.references.length)) };
  draw();
}
function step(to: number): void {
  chosen = null;
  change({ at: to });
}

// A change of the guest's format moves every entry, so the changed bits go.
const without = (to: Partial<Shown>): void => {
  chosen = null;
  change({ ...to, edits: [] });
};
selects.guest.addEventListener('change', () => {
  const guest = selects.guest.value as Shown['guest'];
  const { sizes } = MODES[guest];
  without({ guest, page: sizes.includes(shown.page) ? shown.page : START.page });
});
selects.page.addEventListener('change', () => without({ page: selects.page.value as Shown['page'] }));
selects.nested.addEventListener('change', () => without({ nested: selects.nested.value as Shown['nested'] }));
selects.access.addEventListener('change', () => change({ access: selects.access.value as Shown['access'] }));
selects.privilege.addEventListener('change', () => change({ privilege: selects.privilege.value as Shown['privilege'] }));
buttons.first.addEventListener('click', () => step(0));
buttons.back.addEventListener('click', () => step(shown.at - 1));
buttons.forward.addEventListener('click', () => step(shown.at + 1));
buttons.last.addEventListener('click', () => step(walks.nested.references.length));
buttons.restore.addEventListener('click', () => change({ edits: [] }));
get('two').addEventListener('click', (event) => {
  const button = (event.target as Element).closest<HTMLButtonElement>('button[data-reference]');
  if (!button || button.disabled) return;
  chosen = Number(button.dataset.reference);
  draw();
  get('two').querySelector<HTMLElement>(`[data-reference="${chosen}"]`)?.focus();
});
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || (event.target as Element).closest('input, select, textarea')) return;
  const button = { ArrowLeft: buttons.back, ArrowRight: buttons.forward, Home: buttons.first, End: buttons.last }[event.key];
  if (!button) return;
  event.preventDefault();
  if (!button.disabled) button.click();
});
addEventListener('hashchange', () => {
  if (location.hash === written) return;
  chosen = null;
  shown = settled(readShown(location.hash));
  walks = perform(shown);
  change({});
});
change({});
