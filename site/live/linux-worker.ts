// # The worker of a machine of one's own
//
// One worker runs one machine. To stop it the page ends the worker, and all its memory goes with it.

import { decodeFile } from '../../chapters/15-whole-machine/saved-state/file.ts';
import type { LinuxCommand, LinuxReport } from './linux-protocol.ts';
import { describeKernel, LinuxSession, optionsOfState } from './linux-session.ts';
import { workerWorkshop } from './workshop.ts';

const REPORT_MS = 100;

const post = (report: LinuxReport, transfer: readonly Transferable[] = []): void => postMessage(report, { transfer: [...transfer] });
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

let session: LinuxSession | null = null;
let reported = 0;

function report(): void {
  if (!session) return;
  reported = performance.now();
  post({ say: 'figures', figures: session.figures });
}

function examine({ slot, bytes, ticket }: Extract<LinuxCommand, { do: 'examine' }>): void {
  try {
    if (slot === 'kernel') post({ say: 'examined', ticket, what: describeKernel(bytes), refused: null, options: null });
    else if (slot === 'state') {
      const { sections } = decodeFile(bytes);
      post({ say: 'examined', ticket, what: `a saved machine, ${sections.length} sections`, refused: null, options: optionsOfState(bytes) });
    } else post({ say: 'examined', ticket, what: '', refused: null, options: null });
  } catch (error) {
    post({ say: 'examined', ticket, what: '', refused: messageOf(error), options: null });
  }
}

async function start({ options, files, startTime, listening }: Extract<LinuxCommand, { do: 'start' }>): Promise<void> {
  session = await LinuxSession.open({
    options,
    files,
    startTime,
    workshop: workerWorkshop(),
    hooks: {
      onConsole: (bytes) => post({ say: 'console', bytes }, [bytes.buffer as ArrayBuffer]),
      onBreath: () => {
        if (performance.now() - reported >= REPORT_MS) report();
      },
    },
  });
  session.counts.listening = listening;
  const { machine, memoryMiB, cpus, memory, append = '' } = session.config;
  post({
    say: 'started',
    door: session.door,
    options: { ...options, machine: machine.type as typeof options.machine, memoryMiB, cpus, paging: memory, append },
  });
  const ended = await session.run();
  report();
  session.dispose();
  session = null;
  post({ say: 'ended', ...ended });
}

async function save(of: LinuxSession): Promise<void> {
  try {
    const file = await of.save();
    const { machine, memoryMiB } = of.config;
    post({ say: 'saved', file, name: `ringbook-${machine.type}-${memoryMiB}M.state` }, [file.buffer as ArrayBuffer]);
  } catch (error) {
    post({ say: 'failed', message: messageOf(error), fatal: false });
  }
}

addEventListener('message', ({ data }: MessageEvent<LinuxCommand>) => {
  if (data.do === 'examine') examine(data);
  else if (data.do === 'start') {
    start(data).catch((error: unknown) => {
      session = null;
      post({ say: 'failed', message: messageOf(error), fatal: true });
    });
  } else if (!session) return;
  else if (data.do === 'type') {
    const lost = session.type(data.bytes);
    if (lost > 0) post({ say: 'deaf', bytes: lost });
  } else if (data.do === 'shown') session.shown(data.bytes);
  else if (data.do === 'pause') {
    session.pause(data.paused);
    report();
  } else if (data.do === 'listen') {
    session.counts.listening = data.on;
    report();
  } else void save(session);
});
post({ say: 'ready' });
