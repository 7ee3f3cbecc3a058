// # The page of a machine of one's own
//
// Holds the visitor's files, the terminal and the figures; the machine is in a worker. A worker that runs a machine runs no other: to stop one, the page ends
// its worker and has the next one ready.

import { Terminal } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import './live.css';
import './linux.css';
import { get, plural, spaced } from './dom.ts';
import { ExitChart } from './linux-chart.ts';
import { asciiOf, bounded, HEAD_BYTES, MEMORY, type Options, readOptions, type Slot, slotOf, writeOptions } from './linux-options.ts';
import { HappenedPanel } from './linux-panel.ts';
import type { Figures, LinuxCommand, LinuxReport } from './linux-protocol.ts';
import { TrafficTable } from './linux-traffic.ts';
import { wearTheme } from './terminal.ts';

/** More than any kernel, initramfs or saved machine that would fit. */
const FILE_LIMIT_BYTES = 2 ** 31 - 1;
/** Of what is pasted; what the serial port cannot take is lost in any case. */
const PASTE_LIMIT_BYTES = 64 << 10;
const COLUMNS = 80;
const ROWS = 25;
/** Of letters; on a screen that is narrower still, the console can be moved sideways. */
const SMALLEST_PX = 8;
const NS_PER_S = 1e9;

const SLOTS = ['kernel', 'initrd', 'state'] as const;
const FIRST_WORDS: Record<Slot, string> = { kernel: '', initrd: '', state: '' };

const controls = {
  machine: get<HTMLSelectElement>('machine'),
  memory: get<HTMLInputElement>('memory'),
  cpus: get<HTMLSelectElement>('cpus'),
  paging: get<HTMLSelectElement>('paging'),
  network: get<HTMLInputElement>('network'),
  append: get<HTMLInputElement>('append'),
};
const buttons = {
  start: get<HTMLButtonElement>('start'),
  pause: get<HTMLButtonElement>('pause'),
  stop: get<HTMLButtonElement>('stop'),
  save: get<HTMLButtonElement>('save'),
  link: get<HTMLButtonElement>('link'),
};
const status = get('status');
const trouble = get('trouble');
const chart = new ExitChart(get<HTMLCanvasElement>('chart'), get('legend').querySelector('tbody') as HTMLElement);
const traffic = new TrafficTable(get('traffic').querySelector('tbody') as HTMLElement);
const panel = new HappenedPanel();

type Phase = 'off' | 'starting' | 'running' | 'paused' | 'saving';
let phase: Phase = 'off';
/** How the machine got where it is, for the status line. */
let about = '';
const files = new Map<Slot, File>();

function fail(message: string): void {
  trouble.textContent = message;
  trouble.hidden = message === '';
}

// ## The terminal

const terminal = new Terminal({ cols: COLUMNS, rows: ROWS, fontSize: 13, scrollback: 5000, cursorBlink: false, screenReaderMode: true });
wearTheme(terminal, '--ink-2');
terminal.open(get('console'));

// A guest takes its terminal for as wide as a VT100, since a serial line says nothing about it. On a screen with less room the letters are smaller.

function fitTerminal(): void {
  const context = document.createElement('canvas').getContext('2d');
  if (!context) return;
  context.font = `100px ${terminal.options.fontFamily}`;
  const perPixel = context.measureText('W').width / 100;
  const room = (get('console').clientWidth - 32) / COLUMNS;
  terminal.options.fontSize = Math.max(SMALLEST_PX, Math.min(14, Math.floor((room / perPixel) * 2) / 2));
  terminal.resize(COLUMNS, ROWS);
}
fitTerminal();
addEventListener('resize', fitTerminal);

const encoder = new TextEncoder();
terminal.onData((text) => {
  if (phase !== 'running' && phase !== 'paused') return;
  const bytes = encoder.encode(text);
  get('typed').textContent = bytes.length > PASTE_LIMIT_BYTES ? `Only the first ${plural(PASTE_LIMIT_BYTES, 'byte')} were pasted.` : '';
  send({ do: 'type', bytes: bytes.subarray(0, PASTE_LIMIT_BYTES) });
});

// ## The options
//
// They are in the address bar, so that a link says which machine it was.

const options = (): Options => ({
  ...readOptions(''),
  machine: controls.machine.value as Options['machine'],
  memoryMiB: bounded(controls.memory.value, MEMORY),
  cpus: Number(controls.cpus.value),
  paging: controls.paging.value as Options['paging'],
  network: controls.network.checked,
  append: asciiOf(controls.append.value),
});

function showOptions({ machine, memoryMiB, cpus, paging, network, append }: Options): void {
  controls.machine.value = machine;
  controls.memory.value = String(memoryMiB);
  controls.cpus.value = String(cpus);
  controls.paging.value = paging;
  controls.network.checked = network;
  controls.append.value = append;
}

function writeLink(): void {
  const hash = writeOptions(options());
  if (location.hash !== hash) history.replaceState(null, '', hash === '' ? location.pathname + location.search : hash);
}
for (const control of Object.values(controls)) control.addEventListener('input', writeLink);
controls.memory.addEventListener('change', () => showOptions(options()));
addEventListener('hashchange', () => showOptions(readOptions(location.hash)));
showOptions(readOptions(location.hash));

buttons.link.addEventListener('click', async () => {
  writeLink();
  try {
    await navigator.clipboard.writeText(location.href);
    buttons.link.textContent = 'Copied';
  } catch {
    buttons.link.textContent = 'It is in the address bar';
  }
  setTimeout(() => {
    buttons.link.textContent = 'Copy link';
  }, 2000);
});

// ## The files
//
// Only their handles are kept; the bytes are read when they are needed and go to the worker. A file is looked at when it is chosen, by the loader that would
// have to load it, so that a wrong one is refused at once and in its words.

const slotElement = (slot: Slot): HTMLElement => document.querySelector(`[data-slot="${slot}"]`) as HTMLElement;
for (const slot of SLOTS) FIRST_WORDS[slot] = (slotElement(slot).querySelector('.slot-what') as HTMLElement).innerHTML;

function showSlot(slot: Slot, words: string | null): void {
  const element = slotElement(slot);
  const what = element.querySelector('.slot-what') as HTMLElement;
  element.classList.toggle('filled', words !== null);
  if (words === null) what.innerHTML = FIRST_WORDS[slot];
  else what.textContent = words;
  (element.querySelector('.drop-it') as HTMLElement).hidden = words === null;
}

function forget(slot: Slot): void {
  files.delete(slot);
  get<HTMLInputElement>(`file-${slot}`).value = '';
  showSlot(slot, null);
  showPhase();
}

let tickets = 0;
const examined = new Map<number, { readonly slot: Slot; readonly file: File }>();

async function take(slot: Slot, file: File): Promise<void> {
  fail('');
  if (file.size > FILE_LIMIT_BYTES) {
    fail(`${file.name} has ${spaced(file.size)} bytes; no machine here is so large.`);
    return;
  }
  showSlot(slot, `${file.name}: reading …`);
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const ticket = tickets++;
    examined.set(ticket, { slot, file });
    examiner.postMessage({ do: 'examine', slot, bytes, ticket } satisfies LinuxCommand, [bytes.buffer]);
  } catch (error) {
    forget(slot);
    fail(`${file.name} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function taken({ ticket, what, refused, options: described }: Extract<LinuxReport, { say: 'examined' }>): void {
  const asked = examined.get(ticket);
  examined.delete(ticket);
  if (!asked) return;
  const { slot, file } = asked;
  if (refused !== null) {
    forget(slot);
    fail(`${file.name}: ${refused}`);
    return;
  }
  // A saved machine has its own kernel in memory.
  for (const other of slot === 'state' ? (['kernel', 'initrd'] as const) : (['state'] as const)) forget(other);
  files.set(slot, file);
  showSlot(slot, `${file.name}, ${sizeOf(file.size)}${what ? `: ${what}` : ''}`);
  if (described) {
    showOptions({ ...options(), ...described });
    writeLink();
  }
  showPhase();
}

const sizeOf = (bytes: number): string => (bytes < 1 << 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`);

async function takeDropped(dropped: readonly File[]): Promise<void> {
  for (const file of dropped) {
    try {
      await take(slotOf(new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer())), file);
    } catch {
      fail(`${file.name} cannot be read; is it a folder?`);
    }
  }
}

for (const slot of SLOTS) {
  const input = get<HTMLInputElement>(`file-${slot}`);
  input.addEventListener('change', () => {
    const [file] = input.files ?? [];
    if (file) void take(slot, file);
  });
  slotElement(slot)
    .querySelector('.drop-it')
    ?.addEventListener('click', () => forget(slot));
}
const linux = get('linux');
document.addEventListener('dragover', (event) => {
  if (!event.dataTransfer?.types.includes('Files')) return;
  event.preventDefault();
  linux.classList.add('dropping');
});
document.addEventListener('dragleave', (event) => {
  if (event.relatedTarget === null) linux.classList.remove('dropping');
});
document.addEventListener('drop', (event) => {
  linux.classList.remove('dropping');
  if (!event.dataTransfer || event.dataTransfer.files.length === 0) return;
  event.preventDefault();
  void takeDropped([...event.dataTransfer.files]);
});

// ## The worker

const makeWorker = (): Worker => {
  const made = new Worker(new URL('./linux-worker.ts', import.meta.url), { type: 'module' });
  made.addEventListener('message', ({ data }: MessageEvent<LinuxReport>) => {
    if (made === worker || made === examiner) receive(data);
  });
  made.addEventListener('error', (event) => {
    if (made === worker || made === examiner) broken(`The machine could not start: ${event.message || 'the worker did not load'}`);
  });
  return made;
};
/** One looks at files; the other runs a machine. */
let worker: Worker;
let examiner: Worker;
const send = (command: LinuxCommand, transfer: Transferable[] = []): void => worker.postMessage(command, transfer);

function broken(message: string): void {
  phase = 'off';
  about = 'It did not start.';
  fail(message);
  renew();
  showPhase();
}

/** Ends the machine, whatever it is doing. */
function renew(): void {
  worker.terminate();
  worker = makeWorker();
}

function receive(report: LinuxReport): void {
  switch (report.say) {
    case 'ready':
      break;
    case 'examined':
      taken(report);
      break;
    case 'started':
      phase = 'running';
      about = report.door === null ? 'It goes on where it was saved.' : `Started by the ${report.door} door.`;
      if (report.options) showOptions(report.options);
      terminal.focus();
      break;
    case 'console':
      terminal.write(report.bytes, () => send({ do: 'shown', bytes: report.bytes.length }));
      break;
    case 'figures':
      showFigures(report.figures);
      break;
    case 'deaf':
      get('typed').textContent = `The guest is not reading; ${plural(report.bytes, 'byte')} of what was typed had no room.`;
      break;
    case 'saved':
      download(report.file, report.name);
      phase = wasPaused ? 'paused' : 'running';
      break;
    case 'ended':
      phase = 'off';
      about = `Ended by ${report.end}${report.detail ? ` (${report.detail})` : ''}.`;
      renew();
      break;
    case 'failed':
      if (report.fatal) broken(report.message);
      else {
        phase = wasPaused ? 'paused' : 'running';
        fail(report.message);
      }
      break;
  }
  if (report.say !== 'console' && report.say !== 'figures') showPhase();
}

// ## The figures

let before: { readonly ms: number; readonly instructions: number } | null = null;

function showFigures({ instructions, ns, bytes, totals, steps, traffic: rows, events, seen }: Figures): void {
  get('time').textContent = `${(ns / NS_PER_S).toFixed(1)} s`;
  get('instructions').textContent = spaced(instructions);
  get('bytes').textContent = sizeOf(bytes);
  const now = performance.now();
  if (before && now - before.ms >= 900) {
    const rate = ((instructions - before.instructions) / (now - before.ms)) * 1000;
    get('rate').textContent = rate < 1e6 ? spaced(Math.round(rate)) : `${(rate / 1e6).toFixed(1)} million`;
    before = null;
  }
  before ??= { ms: now, instructions };
  chart.add(steps, totals, ns);
  traffic.show(rows);
  if (events) panel.show(events, seen);
}

// ## Commands

let wasPaused = false;

function showPhase(): void {
  const on = phase !== 'off' && phase !== 'starting';
  buttons.start.disabled = phase !== 'off' || !(files.has('kernel') || files.has('state'));
  buttons.pause.disabled = phase !== 'running' && phase !== 'paused';
  buttons.pause.textContent = phase === 'paused' ? 'Go on' : 'Pause';
  buttons.stop.disabled = phase === 'off';
  buttons.save.disabled = phase !== 'running' && phase !== 'paused';
  for (const control of Object.values(controls)) control.disabled = phase !== 'off' || files.has('state');
  const words: Record<Phase, string> = {
    off: about || (buttons.start.disabled ? 'Choose a kernel, or a saved machine.' : 'Ready to start.'),
    starting: 'Starting …',
    running: `Running. ${about}`,
    paused: 'Paused.',
    saving: 'Saving …',
  };
  status.textContent = words[phase];
  status.dataset.state = phase;
  terminal.options.disableStdin = !on;
}

buttons.start.addEventListener('click', async () => {
  phase = 'starting';
  about = '';
  fail('');
  showPhase();
  terminal.reset();
  chart.clear();
  traffic.clear();
  panel.clear();
  before = null;
  const read = async (slot: Slot): Promise<Uint8Array | null> => {
    const file = files.get(slot);
    return file ? new Uint8Array(await file.arrayBuffer()) : null;
  };
  try {
    const [kernel, initrd, state] = [await read('kernel'), await read('initrd'), await read('state')];
    const given = state ? { state } : { kernel: kernel as Uint8Array, initrd };
    const transfer = [kernel, initrd, state].flatMap((bytes) => (bytes ? [bytes.buffer as ArrayBuffer] : []));
    send({ do: 'start', options: options(), files: given, startTime: Math.floor(Date.now() / 1000), listening: panel.listening }, transfer);
  } catch (error) {
    broken(`A file cannot be read any more: ${error instanceof Error ? error.message : String(error)}`);
  }
});
buttons.pause.addEventListener('click', () => {
  const paused = phase === 'running';
  phase = paused ? 'paused' : 'running';
  send({ do: 'pause', paused });
  before = null;
  showPhase();
});
buttons.stop.addEventListener('click', () => {
  renew();
  phase = 'off';
  about = 'Stopped.';
  showPhase();
});
buttons.save.addEventListener('click', () => {
  wasPaused = phase === 'paused';
  phase = 'saving';
  fail('');
  send({ do: 'save' });
  showPhase();
});
panel.onListen = (on) => send({ do: 'listen', on });

function download(bytes: Uint8Array, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

if (location.protocol === 'file:') {
  fail('Opened from disk, a page may not start a worker. Serve the site (npm start does) and open it by its address.');
  status.textContent = '';
} else {
  worker = makeWorker();
  examiner = makeWorker();
  showPhase();
}
