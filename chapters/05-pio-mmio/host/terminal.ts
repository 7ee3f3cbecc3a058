// # The terminal
//
// While a guest has the terminal, keys must reach it as they are: no line editing, no echo, and Control-C is the guest's. So there has to be a key that
// is not, to get out with; it is QEMU's, Control-A and then `x`. Whatever happens, the terminal is given back as it was found.

import { Escape } from './escape.ts';

interface TerminalEvents {
  readonly onBytes: (bytes: Uint8Array) => void;
  /** Nothing more will come. */
  readonly onEnd: () => void;
  /** The way out was typed. */
  readonly onQuit: () => void;
  /** The machine is to be saved. */
  readonly onSave: () => void;
}

/** Said before the keys are the guest's. */
const WAY_OUT = 'ringbook run: Control-A x ends the machine; Control-A s saves it, with -save; Control-A Control-A is a Control-A';

/** Says something of ours among what the guest says. The terminal is the guest's, and has to be told of line ends as the guest tells it. */
export const tellTerminal = (text: string): void => void process.stderr.write(`\r\nringbook run: ${text}\r\n`);

/** Takes standard input for the guest. Returns what gives it back. */
export function takeTerminal({ onBytes, onEnd, onQuit, onSave }: TerminalEvents): () => void {
  const { stdin } = process;
  const isTerminal = stdin.isTTY === true;
  const keys = new Escape();
  const data = (chunk: Uint8Array): void => {
    const { bytes, quit, save } = isTerminal ? keys.take(chunk) : { bytes: chunk, quit: false, save: false };
    if (bytes.length > 0) onBytes(bytes);
    if (save) onSave();
    if (quit) onQuit();
  };
  const raw = (on: boolean): void => {
    if (isTerminal) stdin.setRawMode(on);
  };
  const giveBack = (): void => {
    process.removeListener('exit', giveBack);
    stdin.removeListener('data', data);
    stdin.removeListener('end', onEnd);
    stdin.removeListener('error', onEnd);
    raw(false);
    stdin.pause();
    stdin.unref?.();
  };
  if (isTerminal && process.stderr.isTTY === true) process.stderr.write(`${WAY_OUT}\n`);
  raw(true);
  process.once('exit', giveBack);
  stdin.on('data', data);
  stdin.once('end', onEnd);
  stdin.once('error', onEnd);
  return giveBack;
}
