// # `ringbook run -qtest`
//
// The machine of the command line, but no processor runs: its devices are driven by commands from a stream. The options are QEMU's, as test
// harnesses give them:
//
// ```text
//   ringbook run -machine q35,accel=qtest -nodefaults -display none -S -qtest stdio -device virtio-rng-pci
//   ringbook run -accel qtest -qtest unix:/tmp/test.sock …
// ```
//
// QEMU *connects* to the path of a Unix socket unless it is told to be the server; so does this. What is not there is refused by name, as
// everywhere: there is no QMP.

import { rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { checkedConfig } from '../../05-pio-mmio/host/checked-config.ts';
import { FileBlock } from '../../05-pio-mmio/host/file-block.ts';
import { readRegularFile } from '../../05-pio-mmio/host/read-file.ts';
import { openSink } from '../../05-pio-mmio/host/streams.ts';
import { Chardev } from '../../05-pio-mmio/machine/chardev.ts';
import type { MachineConfig } from '../../05-pio-mmio/machine/config.ts';
import { ConfigError } from '../../05-pio-mmio/machine/device-types.ts';
import { readOptions } from '../../05-pio-mmio/machine/options.ts';
import { PausedPc } from '../qtest/paused-pc.ts';
import { serveQtest } from './qtest-stream.ts';

const FIRMWARE_LIMIT_BYTES = 16 << 20;

type Place = { readonly kind: 'stdio' } | { readonly kind: 'unix'; readonly path: string; readonly server: boolean };

interface QtestRun {
  readonly place: Place;
  readonly document: MachineConfig;
}

// ## The command line
//
// Harnesses give options that say what a paused machine is anyway. They are understood here, and everything else is what `ringbook run` understands.

/** Options that ask for nothing that is not so: with their only value, or none. */
const ALREADY: Readonly<Record<string, readonly string[] | null>> = {
  S: null,
  nodefaults: null,
  'no-user-config': null,
  nographic: null,
  display: ['none'],
  vga: ['none'],
  monitor: ['none'],
  net: ['none'],
  nic: ['none'],
  serial: ['none', 'null'],
  audio: ['none'],
  'qtest-log': ['none', '/dev/null'],
};

function placeOf(text: string): Place {
  if (text === 'stdio') return { kind: 'stdio' };
  const match = /^unix:([^,]+)((?:,(?:server(?:=on|=off)?|nowait|wait=off|wait=on))*)$/.exec(text);
  if (!match) throw new ConfigError(`-qtest goes to stdio or unix:PATH[,server=on,wait=off], not to ${text}`);
  return { kind: 'unix', path: match[1] as string, server: /,server(?:=on)?(?:,|$)/.test(match[2] as string) };
}

/** Takes the accelerators out of `-machine`: whichever are named, no processor runs. Null when nothing is left. */
function machineOption(text: string): string | null {
  const left = text.split(',').filter((part) => !/^accel=(qtest|tcg)(:(qtest|tcg))*$/.test(part));
  return left.length === 0 ? null : left.join(',');
}

/**
 * What a command line with `-qtest` asks for; null for one without.
 * @throws ConfigError for the first thing that is wrong
 */
export function readQtestOptions(argv: readonly string[]): QtestRun | null {
  let place: Place | null = null;
  const rest: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const arg = argv[at] as string;
    const name = arg.replace(/^--?/, '');
    const value = argv[at + 1];
    const only = Object.hasOwn(ALREADY, name) ? ALREADY[name] : undefined;
    if (name === 'qtest') {
      if (place) throw new ConfigError('-qtest is given twice');
      place = placeOf(value ?? '');
      at++;
    } else if (only === null) {
    } else if (only) {
      if (!only.includes(value ?? '')) throw new ConfigError(`${arg} with -qtest is ${only.join(' or ')}, not ${value}`);
      at++;
    } else if (name === 'accel' && (value === 'qtest' || value === 'tcg')) {
      at++;
    } else if ((name === 'machine' || name === 'M') && value !== undefined) {
      const left = machineOption(value);
      if (left !== null) rest.push('-machine', left);
      at++;
    } else if (['qmp', 'mon', 'qmp-pretty'].includes(name)) {
      throw new ConfigError(`${arg}: this machine has no QMP`);
    } else {
      rest.push(arg);
    }
  }
  if (!place) return null;
  const { what, document, file } = readOptions(rest);
  if (what !== 'run' || file !== null) throw new ConfigError('-qtest is for a machine from the command line');
  if (document.kernel !== undefined) throw new ConfigError('-kernel: with -qtest no processor runs, and nothing is loaded');
  if (document.accel === 'kvm') throw new ConfigError('-accel kvm: with -qtest no processor runs; it is `qtest`');
  return { place, document };
}

// ## The machine

/** Opens what a description names. Returns how to close it again, too. @throws ConfigError */
function openPaused(document: MachineConfig): { readonly machine: PausedPc; readonly close: () => void } {
  const closing: (() => void)[] = [];
  const close = (): void => {
    for (const step of closing.splice(0).reverse()) step();
  };
  try {
    // A description that starts nothing is refused elsewhere, and rightly; nothing reads the name.
    const starts = document.firmware === undefined ? { kernel: 'nothing' } : {};
    const config = checkedConfig({ ...document, ...starts, serial: [] });
    const blocks = new Map<string, FileBlock>();
    for (const { id, file, readonly } of config.drives) {
      const block = opened(() => new FileBlock(file, { readOnly: readonly ?? false }));
      blocks.set(id, block);
      closing.push(() => {
        block.flush();
        block.close();
      });
    }
    const chardevs = new Map<string, Chardev>();
    for (const { id, stream } of config.chardevs) {
      if (stream === 'stdio') throw new ConfigError(`chardev ${id}: with -qtest, standard input and output are the protocol's`);
      const sink = opened(() => openSink(stream));
      closing.push(() => sink.close());
      const chardev = new Chardev({ hasInput: false });
      chardev.onOutput = (bytes) => {
        for (const byte of bytes) sink.byte(byte);
      };
      chardevs.set(id, chardev);
    }
    const firmware = config.firmware === undefined ? null : opened(() => readRegularFile(config.firmware as string, FIRMWARE_LIMIT_BYTES));
    const machine = opened(() => new PausedPc({ config, firmware, blocks, chardevs }));
    closing.push(() => machine.dispose());
    return { machine, close };
  } catch (error) {
    close();
    throw error;
  }
}

function opened<T>(open: () => T): T {
  try {
    return open();
  } catch (error) {
    throw error instanceof ConfigError ? error : new ConfigError((error as Error).message.split('\n')[0] as string);
  }
}

// ## The other end

/** Waits for the client, or goes to it. */
function meet({
  path,
  server: listen,
}: Extract<Place, { kind: 'unix' }>): Promise<{ readonly socket: Readable & Writable; readonly server: Server | null }> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => reject(new ConfigError(`-qtest: ${error.message}`));
    if (!listen) {
      const socket = connect(path, () => resolve({ socket, server: null }));
      socket.on('error', fail);
      return;
    }
    const server = createServer((socket) => {
      server.close(); // there is one client
      resolve({ socket, server });
    });
    server.on('error', fail);
    server.listen(path);
  });
}

/** The whole run. @throws ConfigError */
export async function runQtest({ place, document }: QtestRun): Promise<void> {
  const { machine, close } = openPaused(document);
  try {
    if (place.kind === 'stdio') {
      await serveQtest(machine, process.stdin, process.stdout);
      return;
    }
    const { socket, server } = await meet(place);
    await serveQtest(machine, socket, socket);
    socket.destroy();
    if (server) rmSync(place.path, { force: true });
  } finally {
    close();
  }
}
