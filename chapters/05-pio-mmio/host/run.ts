// # `ringbook run`
//
// The command line of the machine. Its exit status says how the guest ended, so that a test can be a shell script.

import { Errno } from '../../02-kvm-objects/errno.ts';
import type { RunResult } from '../../03-vcpu-loop/board.ts';
import type { End } from '../../03-vcpu-loop/chassis.ts';
import type { MachineConfig } from '../machine/config.ts';
import { ConfigError, type DeviceType, deviceTypes } from '../machine/device-types.ts';
import '../machine/devices.ts';
import { mergeConfigs, optionHelp, readOptions } from '../machine/options.ts';
import { checkedConfig } from './checked-config.ts';
import { OpenMachine } from './open-machine.ts';
import { readRegularFile } from './read-file.ts';

// A guest's own status is odd, as QEMU makes it. Ours are even, so the two cannot be taken for each other.

/** A description is a page or two. */
const DOCUMENT_LIMIT_BYTES = 1 << 20;
const USAGE_STATUS = 2;
/** Exit statuses of ends that carry none of their own. */
const STATUS: Readonly<Partial<Record<End, number>>> = { shutdown: 0, halt: 0, reset: 0, stopped: 0, 'triple-fault': 4, timeout: 6, crash: 8 };
const INTERNAL_STATUS = 10;
const SIGNALS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;

const USAGE = `usage: ringbook run [options]

Runs a virtual machine: a PC (-machine q35 or pc) with SeaBIOS or another firmware (-bios), or a program without one (-kernel).
Options are QEMU's where they mean the same.

${optionHelp()}

A device's properties come after its name: -device e1000,mac=52:54:00:12:34:56.
On a terminal, Control-A x ends the machine; Control-A s writes it to the file that -save names; Control-A Control-A is a Control-A.

Exit status:
  (v<<1)|1  the guest wrote v to the debug-exit port (0xf4)
  0         the guest switched itself off, halted for good, or was reset with -no-reboot
  2         the command line, or a file that it names, is wrong
  4         triple fault, with -no-reboot
  6         the time given by -timeout is over
  8         the guest reported a crash
  10        the kernel refused something or gave up: the message says on what
  128+n     stopped by signal n`;

const describeDevice = ({ name, text, properties }: DeviceType): string =>
  [
    `${name}: ${text}`,
    ...Object.entries(properties).map(
      ([property, { kind, text: meaning, required }]) => `  ${property}=${kind}${required ? ' (needed)' : ''}: ${meaning}`,
    ),
  ].join('\n');

function readDocument(file: string): MachineConfig {
  try {
    const document: unknown = JSON.parse(new TextDecoder().decode(readRegularFile(file, DOCUMENT_LIMIT_BYTES)));
    if (document === null || typeof document !== 'object' || Array.isArray(document))
      throw new ConfigError(`${file} is not a machine: not an object`);
    return document as MachineConfig;
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    throw new ConfigError(error instanceof SyntaxError ? `${file} is not JSON: ${error.message}` : (error as Error).message);
  }
}

function statusOf({ end, exitCode }: RunResult): number {
  return exitCode ?? STATUS[end] ?? INTERNAL_STATUS;
}

async function main(argv: readonly string[]): Promise<number> {
  const asked = readOptions(argv);
  if (asked.what === 'help') {
    if (asked.device === undefined) console.log(USAGE);
    else if (asked.device === null) console.log(deviceTypes.all.map(({ name, text }) => `${name}: ${text}`).join('\n'));
    else console.log(describeDevice(deviceTypes.get(asked.device)));
    return 0;
  }
  const base = asked.file === null ? {} : readDocument(asked.file);
  const config = checkedConfig(mergeConfigs(base, asked.document));
  if (asked.what === 'print-config') {
    // What is for the kernel of the book is no choice where the kernel is the host's, and a description that makes it is refused.
    const { memory: _memory, translate: _translate, ...others } = config;
    console.log(JSON.stringify(config.accel === 'kvm' ? others : config, null, 2));
    return 0;
  }
  const machine = await OpenMachine.open(config);
  let signal: keyof typeof SIGNALS | null = null;
  for (const name of Object.keys(SIGNALS) as (keyof typeof SIGNALS)[])
    process.on(name, () => {
      signal ??= name;
      machine.stop();
    });
  process.stdout.on('error', () => machine.stop()); // whoever read it has gone
  try {
    const result = await machine.run();
    if (signal) return 128 + SIGNALS[signal];
    const status = statusOf(result);
    if (result.exitCode === null && status !== 0) console.error(`ringbook run: ${result.end}: ${result.detail}`);
    return status;
  } finally {
    await machine.close();
  }
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const ours = error instanceof ConfigError || error instanceof RangeError;
  if (!ours && !(error instanceof Errno)) throw error;
  console.error(`ringbook run: ${ours ? '' : 'the kernel refused '}${error.message}`);
  process.exitCode = ours ? USAGE_STATUS : INTERNAL_STATUS;
}
