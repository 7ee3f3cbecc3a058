// # The live page
//
// Wires the page's parts to the worker. What is shown is always what the worker last reported; nothing is computed about the guest here.

import { Terminal } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import './live.css';
import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import { journeyOf, STOPS, whyMissing } from './buffers.ts';
import { DeviceChoice } from './device-choice.ts';
import { get, make, plural, spaced } from './dom.ts';
import { EventList } from './event-list.ts';
import type { Devices } from './machines.ts';
import { type Place, readPlace, writePlace } from './place.ts';
import type { Command, Report, Snapshot } from './protocol.ts';
import { RingsPanel } from './rings-panel.ts';
import { RoutePanel } from './route-panel.ts';
import { wearTheme } from './terminal.ts';
import { type Axis, Timeline } from './timeline.ts';
import { explain } from './words.ts';

const choice = get<HTMLSelectElement>('payload');
const speed = get<HTMLSelectElement>('speed');
const buttons = {
  run: get<HTMLButtonElement>('run'),
  pause: get<HTMLButtonElement>('pause'),
  step: get<HTMLButtonElement>('step'),
  exit: get<HTMLButtonElement>('to-exit'),
  reset: get<HTMLButtonElement>('reset'),
};
const status = get('status');
const trouble = get('trouble');
const timeline = new Timeline(get('track'), get('lane-device'));
const eventList = new EventList(get('events'), get<HTMLSelectElement>('only'));
const ringsPanel = new RingsPanel(get('rings'), get('ring-rows'));
const deviceChoice = new DeviceChoice();
const routePanel = new RoutePanel();

/** The events that the list and the timeline's details can show. */
const events: Timed[] = [];
let place: Place = readPlace(location.hash);
let latest: Snapshot | null = null;
let shownRegisters = new Map<string, string>();
let running = false;
let loading = true;
let lastMove: 'run' | 'step' | 'exit' = 'run';
let written = ''; // the hash we last wrote, so that our own change is not taken for the reader's

// ## The console

const terminal = new Terminal({
  convertEol: true,
  disableStdin: true,
  rows: 14,
  cols: 80,
  fontSize: 13,
  scrollback: 5000,
  cursorBlink: false,
  screenReaderMode: true,
});
wearTheme(terminal, '--ink-3');
terminal.open(get('console'));
function fitTerminal(): void {
  // The terminal says how wide it is only after it has drawn; its font says so at once.
  const context = document.createElement('canvas').getContext('2d');
  if (!context) return;
  context.font = `${terminal.options.fontSize}px ${terminal.options.fontFamily}`;
  const columns = Math.floor((get('console').clientWidth - 32) / context.measureText('W').width);
  terminal.resize(Math.max(20, Math.min(120, columns)), 14);
}
addEventListener('resize', fitTerminal);

// ## Registers

function showRegisters({ groups }: Snapshot): void {
  const now = new Map<string, string>();
  const small = lastMove !== 'run'; // after a run nearly everything is different
  const parts = groups.map(({ title, registers }) => {
    const list = make('dl');
    for (const [name, value, meaning] of registers) {
      const key = `${title}/${name}`;
      now.set(key, value);
      const changed = small && shownRegisters.has(key) && shownRegisters.get(key) !== value;
      const pair = make('div', '', changed ? 'changed' : '');
      pair.append(make('dt', name), make('dd', value));
      if (meaning) pair.append(make('dd', meaning, 'meaning'));
      list.append(pair);
    }
    const group = make('section', '', `group-${title.toLowerCase().replace(/\W+/g, '-')}`);
    group.append(make('h3', title), list);
    return group;
  });
  get('registers').replaceChildren(...parts);
  shownRegisters = now;
}

function showCode({ code: { rip, linear, bytes } }: Snapshot): void {
  const where = make('p', `RIP ${rip}${linear === rip ? '' : `, linear ${linear}`}`, 'file');
  if (!bytes) {
    get('code').replaceChildren(where, make('p', 'No memory is mapped there.'));
    return;
  }
  const row = make('p', '', 'bytes');
  bytes.forEach((byte, n) => {
    row.append(make('code', byte.toString(16).padStart(2, '0'), n === 0 ? 'first' : ''));
  });
  get('code').replaceChildren(where, row);
}

// ## Events

/** The way of the buffer to which the event belongs, one button for each stop. */
function wayOf(index: number): { readonly together: readonly number[]; readonly row: HTMLElement | null } {
  const journey = journeyOf(events, index);
  if (!journey) return { together: [], row: null };
  const row = make('ol', '', 'way');
  for (const stop of STOPS) {
    const item = make('li');
    const at = journey[stop];
    if (at === null) item.append(make('span', `${stop}: ${whyMissing(journey, stop)}`, 'missing'));
    else {
      const button = make('button', stop) as HTMLButtonElement;
      button.type = 'button';
      button.dataset.event = String(at);
      if (at === index) button.setAttribute('aria-current', 'step');
      item.append(button);
    }
    row.append(item);
  }
  return { together: Object.values(journey).filter((at) => at !== null), row };
}

/** Shows an event: in the timeline, in words, in the list and in the address bar. */
function display(index: number | null): void {
  place = { ...place, event: index };
  const event = index === null ? undefined : events[index];
  const { together, row: way } = event ? wayOf(index as number) : { together: [], row: null };
  timeline.select(index, together);
  const detail = get('detail');
  if (event) {
    const { title, sentence, fields } = explain(event);
    const head = make('p');
    head.append(make('strong', title), make('span', ` event ${spaced(index as number)}, at tick ${spaced(event.t)}`, 'when'));
    const table = make('table');
    for (const [name, value, meaning] of fields) {
      const row = make('tr');
      row.append(make('th', name), make('td', value), make('td', meaning ?? ''));
      table.append(row);
    }
    detail.replaceChildren(head, make('p', sentence), ...(way ? [way] : []), table);
  }
  eventList.show(events, index);
  writeHash();
}

function choose(index: number | null): void {
  display(index);
  routePanel.chosen = index;
  if (index !== null) send({ do: 'route', event: index, step: 0 });
}
timeline.onSelect = choose;
routePanel.onAsk = (event, step) => send({ do: 'route', event, step });
routePanel.onStop = display;
eventList.onChoose = choose;
ringsPanel.onChoose = choose;
get('detail').addEventListener('click', (event) => {
  const button = (event.target as Element).closest<HTMLElement>('button[data-event]');
  if (button) choose(Number(button.dataset.event));
});

// ## State

function writeHash(): void {
  if (running || loading) return;
  place = {
    ...place,
    payload: choice.value,
    ...deviceChoice.place,
    at: latest?.instructions ?? 0,
    events: latest?.events ?? 0,
    perSecond: Number(speed.value),
  };
  written = writePlace(place);
  if (location.hash !== written) history.replaceState(null, '', written);
}

function showStatus(): void {
  const ended = latest?.ending ?? null;
  const can = !loading && latest !== null;
  buttons.run.disabled = !can || running || ended !== null;
  buttons.step.disabled = buttons.run.disabled;
  buttons.exit.disabled = buttons.run.disabled;
  buttons.pause.disabled = !running;
  buttons.reset.disabled = !can || running;
  if (!latest) return;
  const where = latest.vcpus > 1 ? ` · vCPU ${latest.vcpu} of ${latest.vcpus}` : '';
  const what = ended ? `ended by ${ended.end}${ended.detail ? ` (${ended.detail})` : ''}` : running ? 'running' : 'paused';
  const exits = `${plural(latest.exits, 'VM exit')}, ${spaced(latest.userExits)} of them to user space`;
  const slept = latest.idle > 0 ? ` · ${spaced(latest.idle)} ticks without one` : '';
  status.textContent = `${plural(latest.instructions - latest.idle, 'instruction')}${slept} · ${exits} · ${what}${where}`;
  status.dataset.state = ended ? 'ended' : running ? 'running' : 'paused';
}

function fail(message: string): void {
  trouble.textContent = message;
  trouble.hidden = false;
}

function receive(report: Report): void {
  if (report.say === 'ready') load(place);
  else if (report.say === 'failed') {
    running = false;
    loading = false;
    fail(report.message);
    showStatus();
    buttons.reset.disabled = false;
  } else if (report.say === 'route') {
    routePanel.show(report);
  } else if (report.say === 'hash') {
    get('hash').textContent = report.hash === null ? 'The hash needs a page served from this computer or over https.' : `trace sha256 ${report.hash}`;
    get('hash').dataset.hash = report.hash ?? '';
  } else {
    running = report.running;
    latest = report.snapshot;
    for (const event of report.events) events.push(event);
    timeline.add(report.events, report.from, report.snapshot.instructions);
    ringsPanel.add(report.events, report.from);
    if (report.console.length > 0) terminal.write(report.console);
    if (events.length < report.snapshot.events) return; // more of the same report is on its way
    const firstReport = loading;
    loading = false;
    showStatus();
    routePanel.enable(events.length > 0);
    showRegisters(report.snapshot);
    showCode(report.snapshot);
    ringsPanel.show(report.snapshot.queues);
    if (report.snapshot.ending && events.length > 0 && axisByOrder()) timeline.fit(14);
    if (firstReport) {
      if (place.event !== null && place.event < events.length) choose(place.event);
    }
    if (!running) {
      eventList.show(events, place.event);
      writeHash();
    }
  }
}

// ## Commands

const worker = location.protocol === 'file:' ? null : new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
const send = (command: Command): void => worker?.postMessage(command);

async function load(to: Place): Promise<void> {
  loading = true;
  running = false;
  latest = null;
  place = to;
  const options = [...choice.options];
  if (options.length === 0) {
    fail('No payload image was built into this site.');
    return;
  }
  if (to.payload !== null && !options.some(({ value }) => value === to.payload)) fail(`There is no payload '${to.payload}'; showing the first.`);
  else trouble.hidden = true;
  choice.value = options.some(({ value }) => value === to.payload) ? (to.payload as string) : (options[0] as HTMLOptionElement).value;
  speed.value = [...speed.options].some(({ value }) => value === String(to.perSecond)) ? String(to.perSecond) : '0';
  const option = choice.selectedOptions[0] as HTMLOptionElement;
  get<HTMLAnchorElement>('source').href = option.dataset.page ?? '';
  events.length = 0;
  shownRegisters = new Map();
  deviceChoice.show(JSON.parse(option.dataset.machines ?? '[]') as Devices[], to.transport, to.ring);
  timeline.clear();
  ringsPanel.clear();
  routePanel.clear();
  terminal.reset();
  fitTerminal();
  get('hash').textContent = 'The hash appears when the run has ended.';
  delete get('hash').dataset.hash;
  get('detail').replaceChildren(make('p', 'Run or step the guest; then choose a crossing to see why it left.'));
  showStatus();
  status.textContent = 'Loading …';
  const response = await fetch(new URL(`../images/${encodeURIComponent(choice.value)}.elf`, location.href));
  if (!response.ok) {
    fail(`The image of ${choice.value} could not be fetched (${response.status}).`);
    return;
  }
  const image = new Uint8Array(await response.arrayBuffer());
  send({
    do: 'load',
    image,
    vcpus: Number(option.dataset.vcpus ?? 1),
    needs: option.dataset.needs?.split(' ') ?? [],
    devices: deviceChoice.devices,
    input: to.input,
    at: to.at,
    events: to.events,
  });
}

const beginning = (payload: string): Place => ({ ...place, payload, at: 0, events: 0, event: null, perSecond: Number(speed.value) });
buttons.run.addEventListener('click', () => {
  running = true;
  lastMove = 'run';
  showStatus();
  send({ do: 'run', perSecond: Number(speed.value) });
});
buttons.pause.addEventListener('click', () => send({ do: 'pause' }));
buttons.step.addEventListener('click', () => {
  lastMove = 'step';
  send({ do: 'step' });
});
buttons.exit.addEventListener('click', () => {
  lastMove = 'exit';
  send({ do: 'exit' });
});
buttons.reset.addEventListener('click', () => void load(beginning(choice.value)));
choice.addEventListener('change', () => void load({ ...beginning(choice.value), input: '' }));
deviceChoice.onChange = () => void load({ ...beginning(choice.value), ...deviceChoice.place });
speed.addEventListener('change', () => {
  if (running) send({ do: 'run', perSecond: Number(speed.value) });
  else writeHash();
});
addEventListener('hashchange', () => {
  if (location.hash !== written) void load(readPlace(location.hash));
});
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || (event.target as Element).closest('input, select, textarea, .xterm')) return;
  const key = { r: buttons.run, p: buttons.pause, s: buttons.step, e: buttons.exit, ...routePanel.keys }[event.key];
  if (key && !key.disabled) key.click();
});
const axisByOrder = (): boolean => document.querySelector<HTMLInputElement>('input[name=axis]:checked')?.value === 'order';
for (const radio of document.querySelectorAll<HTMLInputElement>('input[name=axis]')) {
  radio.addEventListener('change', () => {
    timeline.axis = radio.value as Axis;
  });
}
get('zoom-in').addEventListener('click', () => timeline.zoom(1.6));
get('zoom-out').addEventListener('click', () => timeline.zoom(1 / 1.6));
get('zoom-fit').addEventListener('click', () => timeline.fit());

if (worker) {
  worker.addEventListener('message', ({ data }: MessageEvent<Report>) => receive(data));
  worker.addEventListener('error', (event) => fail(`The machine could not start: ${event.message || 'the worker did not load'}`));
} else {
  fail('Opened from disk, a page may not start a worker. Serve the site (npm start does) and open it by its address.');
  status.textContent = '';
}
