// # Reading what a payload says
//
// A payload has one way to talk: bytes on the first serial port. It sends records, one to a line, each beginning with `RB1 `. The line is
// also where a broken machine shows itself first: a lost byte, a byte sent twice, two processors talking at once. So the reader is strict.
// Before the first record anything may appear, because firmware greets; after it, every line is a record or the console is *corrupt*,
// which is a verdict of its own and never mistaken for a wrong value.

import { hex } from './values.ts';

/** A console longer than this is not a report. */
export const CONSOLE_LIMIT_BYTES = 1 << 20;

/** What a payload reported, in order. */
export interface Report {
  readonly observations: readonly (readonly [key: string, value: string])[];
  /** The last stage reported, or null. */
  readonly stage: string | null;
  readonly done: boolean;
  /** `file:line text` of an abort, or null. */
  readonly aborted: string | null;
  /** Why the console cannot be believed, or null. Records before the damage are still listed. */
  readonly corrupt: string | null;
}

const OBSERVATION = /^obs ([A-Za-z0-9_.-]{1,96}) ([0-9a-f]{1,16})$/;
const STAGE = /^stage ([A-Za-z0-9_.-]{1,96})$/;
const ABORT = /^abort ([\x20-\x7e]{1,200})$/;

const printable = (line: string): string => JSON.stringify(line.length > 80 ? `${line.slice(0, 80)}...` : line);

/** Parses the bytes that a guest sent. Never throws: a console that makes no sense is a finding, not an error of ours. */
export function readConsole(bytes: Uint8Array): Report {
  const observations: [string, string][] = [];
  let stage: string | null = null;
  let done = false;
  let aborted: string | null = null;
  const report = (corrupt: string | null): Report => ({ observations, stage, done, aborted, corrupt });

  if (bytes.length > CONSOLE_LIMIT_BYTES) return report(`the console holds ${bytes.length} bytes, more than the ${CONSOLE_LIMIT_BYTES} allowed`);
  // Latin-1 keeps every byte visible as one character, so that a stray byte can be shown rather than replaced.
  const lines = new TextDecoder('latin1').decode(bytes).split('\n');
  const tail = lines.pop() as string;
  let started = false;

  for (const [index, raw] of lines.entries()) {
    const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw; // a terminal in between may add one
    if (!line.startsWith('RB1 ')) {
      if (!started && !line.includes('RB1 ')) continue;
      return report(`line ${index + 1} is not a record: ${printable(line)}`);
    }
    started = true;
    if (done || aborted !== null) return report(`line ${index + 1} comes after the payload said it had ended: ${printable(line)}`);
    const body = line.slice(4);
    const observation = OBSERVATION.exec(body);
    const staged = STAGE.exec(body);
    const abort = ABORT.exec(body);
    if (observation) observations.push([observation[1] as string, hex(BigInt(`0x${observation[2]}`))]);
    else if (staged) stage = staged[1] as string;
    else if (body === 'done') done = true;
    else if (abort) aborted = abort[1] as string;
    else return report(`line ${index + 1} is a malformed record: ${printable(line)}`);
  }
  if (tail !== '' && (started || tail.startsWith('RB1'))) return report(`the last line is cut off: ${printable(tail)}`);
  return report(null);
}

/** The end of a console as text that is safe to print: what a reader wants to see when a case did not pass. */
export function consoleTail(bytes: Uint8Array, characters = 2000): string {
  const text = new TextDecoder('latin1').decode(bytes.subarray(Math.max(0, bytes.length - characters)));
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being made visible
  return text.replaceAll(/[\x00-\x08\x0b-\x1f\x7f-\xff]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
