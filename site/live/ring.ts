// # Both ends of a ring
//
// The page of chapter 6's explorable, its first half: the reader drives. Every act is done once, and what the ring looked like after it is kept; a step
// back shows an older picture, and only a new act from there has everything done again.

import './live.css';
import './ring.css';
import { get, make, plural } from './dom.ts';
import { Reordering } from './reorder.ts';
import {
  type Act,
  FORMATS,
  LAP_16,
  MOST_ACTS,
  MOST_TRIPS,
  readActs,
  readSetup,
  type Setup,
  SIZES,
  startsOf,
  tripsIn,
  writeActs,
  writeSetup,
} from './ring-acts.ts';
import { type Done, type Picture, type Place, RingBench } from './ring-model.ts';
import { drawnOf, drawRing } from './ring-tables.ts';

const selects = { format: get<HTMLSelectElement>('format'), size: get<HTMLSelectElement>('size'), start: get<HTMLSelectElement>('start') };
const checks = { eventIdx: get<HTMLInputElement>('event'), indirect: get<HTMLInputElement>('indirect'), inOrder: get<HTMLInputElement>('order') };
const buttons = {
  first: get<HTMLButtonElement>('first'),
  back: get<HTMLButtonElement>('back'),
  forward: get<HTMLButtonElement>('forward'),
  last: get<HTMLButtonElement>('last'),
  again: get<HTMLButtonElement>('again'),
  push: get<HTMLButtonElement>('push'),
  run: get<HTMLButtonElement>('run'),
  wrap: get<HTMLButtonElement>('wrap'),
};
const held = get<HTMLSelectElement>('held');
const length = get<HTMLInputElement>('length');
const trips = get<HTMLInputElement>('trips');

let bench: RingBench;
/** How many acts are shown. */
let at = 0;
let written = '';
const reordering = new Reordering(() => save());

function open(setup: Setup, acts: readonly Act[], shown = acts.length): void {
  bench = new RingBench(setup);
  for (const act of acts) bench.perform(act);
  at = Math.max(0, Math.min(shown, acts.length));
}
const actsOf = (done: readonly Done[]): Act[] => done.map(({ act }) => act);

function load(hash: string): void {
  const fields = new URLSearchParams(hash.replace(/^#/, ''));
  const acts = readActs(fields.get('do') ?? '');
  const shown = Number(fields.get('at') ?? acts.length);
  open(readSetup(fields), acts, Number.isSafeInteger(shown) ? shown : acts.length);
  reordering.load(fields);
}

function save(): void {
  const fields = new URLSearchParams();
  writeSetup(bench.setup, fields);
  const acts = actsOf(bench.done);
  if (acts.length > 0) fields.set('do', writeActs(acts));
  if (at !== acts.length) fields.set('at', String(at));
  reordering.save(fields);
  written = `#${fields}`;
  if (location.hash !== written && !(location.hash === '' && written === '#')) history.replaceState(null, '', written);
}

// ## Acts

function perform(act: Act): void {
  if (at < bench.done.length) open(bench.setup, actsOf(bench.done).slice(0, at));
  const acts = actsOf(bench.done);
  if (acts.length >= MOST_ACTS || tripsIn([...acts, act]) > MOST_TRIPS) {
    get('said').textContent = 'That is as much as a link can hold. Begin again.';
    return;
  }
  bench.perform(act);
  at = bench.done.length;
  draw();
}

const now = (): Picture => (at === 0 ? bench.first : (bench.done[at - 1] as Done).after);

// ## Drawing

const PLACES = { adds: 'adds at', looks: 'looks at', takes: 'takes at', gives: 'gives at' } as const;

function placeText({ index, wrap }: Place): string {
  const { format, size } = bench.setup;
  if (format === 'packed') return `${index}, wrap counter ${wrap ? 1 : 0}`;
  return `${index}, which is element ${index % size}`;
}

function list(id: string, entries: readonly (readonly [string, string])[]): void {
  get(id).replaceChildren(
    ...entries.map(([name, value]) => {
      const row = make('div');
      row.append(make('dt', name), make('dd', value));
      return row;
    }),
  );
}

function drawSides({ driver, device }: Picture): void {
  const { size } = bench.setup;
  list('driver', [
    [PLACES.adds, placeText(driver.adds)],
    [PLACES.looks, placeText(driver.looks)],
    ['descriptors', `${driver.free} of ${size} free`],
    ['in flight', driver.inFlight.join(' ') || 'nothing'],
    ['callbacks', driver.listens ? 'on' : 'off'],
  ]);
  list('device', [
    [PLACES.takes, placeText(device.takes)],
    [PLACES.gives, placeText(device.gives)],
    [
      'holds',
      device.holds.map(({ name, id, readable, writable }) => `${name} (id ${id}: ${readable} to read, ${writable} to write)`).join(', ') || 'nothing',
    ],
    ['kicks', device.listens ? 'on' : 'off'],
  ]);
  const chosen = Math.min(Math.max(held.selectedIndex, 0), device.holds.length - 1);
  held.replaceChildren(...device.holds.map(({ name }) => make('option', name)));
  held.selectedIndex = chosen;
  held.disabled = device.holds.length === 0;
  buttons.push.disabled = device.holds.length === 0;
  limitLength(device.holds[chosen]?.writable ?? 0);
}
function limitLength(most: number): void {
  length.max = String(most);
  length.value = String(most);
  length.disabled = most === 0;
}

const WHO = { driver: 'The driver', device: 'The device', both: 'Both' } as const;
const MOST_CHANGES = 12;

function changesText({ changes }: Done): string {
  if (changes.length === 0) return 'Nothing in memory has changed.';
  const shown = changes.slice(0, MOST_CHANGES).map(({ field, value }) => `${field} = ${value < 10 ? value : `0x${value.toString(16)}`}`);
  return `${shown.join(', ')}${changes.length > shown.length ? ` and ${changes.length - shown.length} more` : ''}`;
}

function drawSaid(): void {
  const done = bench.done[at - 1];
  const box = get('said');
  if (!done) {
    const { start } = bench.setup;
    box.replaceChildren(
      start === 0 ? 'A new ring. The driver has everything, the device nothing.' : `${plural(start, 'trip')} have been made. Everything is home.`,
    );
    return;
  }
  const head = make('span', `${WHO[done.who]}: `, `who ${done.who}`);
  const told = done.told === 'device' ? ' The bell rings.' : done.told === 'driver' ? ' The driver is interrupted.' : '';
  box.replaceChildren(head, make('code', done.call), `: ${done.answer}.${told} `, make('small', changesText(done)));
}

function drawHistory(): void {
  get('history').replaceChildren(
    ...bench.done.map((done, index) => {
      const item = make('li');
      const button = make('button', '', `who ${done.who}`) as HTMLButtonElement;
      button.type = 'button';
      button.dataset.step = String(index + 1);
      button.append(make('code', done.call), make('span', done.answer));
      if (index + 1 === at) button.setAttribute('aria-current', 'step');
      item.append(button);
      return item;
    }),
  );
}

function draw(): void {
  const { setup } = bench;
  const picture = now();
  const done = bench.done[at - 1];
  selects.format.value = setup.format;
  selects.size.value = String(setup.size);
  selects.start.replaceChildren(
    ...startsOf(setup).map(({ trips: count, name }) => {
      const option = make('option', name) as HTMLOptionElement;
      option.value = String(count);
      return option;
    }),
  );
  selects.start.value = String(setup.start);
  for (const [name, box] of Object.entries(checks) as [keyof typeof checks, HTMLInputElement][]) box.checked = setup[name];
  drawSides(picture);
  drawSaid();
  drawRing(get('tables'), drawnOf(setup, picture, new Set(done?.changes.map(({ field }) => field))));
  drawHistory();
  get('kicks').textContent = String(picture.kicks);
  get('interrupts').textContent = String(picture.interrupts);
  get('count').textContent = `${at} of ${plural(bench.done.length, 'act')}`;
  buttons.first.disabled = at === 0;
  buttons.back.disabled = at === 0;
  buttons.forward.disabled = at === bench.done.length;
  buttons.last.disabled = at === bench.done.length;
  buttons.again.disabled = bench.done.length === 0;
  save();
}

// ## Controls

function begin(to: Partial<Setup>): void {
  const setup = { ...bench.setup, ...to };
  const start = startsOf(setup).some((each) => each.trips === setup.start) ? setup.start : 0;
  open({ ...setup, start }, []);
  draw();
}
function step(to: number): void {
  at = Math.max(0, Math.min(to, bench.done.length));
  draw();
}

selects.format.addEventListener('change', () => begin({ format: FORMATS.find((each) => each === selects.format.value) ?? 'split', start: 0 }));
selects.size.addEventListener('change', () => begin({ size: SIZES.find((each) => String(each) === selects.size.value) ?? 4, start: 0 }));
selects.start.addEventListener('change', () => begin({ start: Number(selects.start.value) }));
for (const [name, box] of Object.entries(checks) as [keyof typeof checks, HTMLInputElement][])
  box.addEventListener('change', () => begin({ [name]: box.checked }));
for (const button of document.querySelectorAll<HTMLButtonElement>('[data-act]'))
  button.addEventListener('click', () => {
    for (const act of readActs(button.dataset.act ?? '')) perform(act);
  });
buttons.push.addEventListener('click', () =>
  perform({ do: 'push', which: held.selectedIndex, length: Math.max(0, Math.floor(length.valueAsNumber) || 0) }),
);
held.addEventListener('change', () => limitLength(now().device.holds[held.selectedIndex]?.writable ?? 0));
buttons.run.addEventListener('click', () => perform({ do: 'trips', count: Math.max(1, Math.min(Math.floor(trips.valueAsNumber) || 1, LAP_16)) }));
buttons.wrap.addEventListener('click', () => {
  const { format, size } = bench.setup;
  perform({ do: 'trips', count: (format === 'split' ? LAP_16 : size) - now().driver.adds.index });
});
buttons.first.addEventListener('click', () => step(0));
buttons.back.addEventListener('click', () => step(at - 1));
buttons.forward.addEventListener('click', () => step(at + 1));
buttons.last.addEventListener('click', () => step(bench.done.length));
buttons.again.addEventListener('click', () => begin({}));
get('history').addEventListener('click', (event) => {
  const button = (event.target as Element).closest<HTMLButtonElement>('[data-step]');
  if (!button) return;
  step(Number(button.dataset.step));
  get('history').querySelector<HTMLElement>(`[data-step="${at}"]`)?.focus();
});

document.addEventListener('keydown', (event) => {
  const target = event.target as Element;
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest('input, select, textarea')) return;
  const steps = target.closest('#reorder') ? reordering.steps : buttons;
  const arrows: Readonly<Record<string, HTMLButtonElement>> = {
    ArrowLeft: steps.back,
    ArrowRight: steps.forward,
    Home: steps.first,
    End: steps.last,
  };
  const letter = /^[a-z0-9]$/.test(event.key) ? get('ring').querySelector<HTMLButtonElement>(`[data-key="${event.key}"]`) : null;
  const button = arrows[event.key] ?? letter;
  if (!button) return;
  event.preventDefault();
  if (!button.disabled) button.click();
});
addEventListener('hashchange', () => {
  if (location.hash === written) return;
  load(location.hash);
  draw();
});
load(location.hash);
draw();
