// How far along, on standard error, so that standard output holds nothing but the report. A terminal gets one line that is redrawn; anything else
// gets a line for each case, because a log is read afterwards.

import { caseLine } from './report.ts';
import type { CaseResult, Started } from './types.ts';

export interface Progress {
  started(started: Started): void;
  result(result: CaseResult, done: number): void;
  log(text: string): void;
  end(): void;
}

const SILENT: Progress = { started() {}, result() {}, log() {}, end() {} };

/** Begins reporting on `total` cases of a target. */
export function startProgress(target: string, total: number, quiet: boolean, stream: NodeJS.WriteStream = process.stderr): Progress {
  if (quiet) return SILENT;
  const live = stream.isTTY === true;
  const digits = String(total).length;
  let name = target;
  let bad = 0;
  const draw = (text: string): void => {
    const width = (stream.columns ?? 80) - 1;
    stream.write(`\r\x1b[2K${text.slice(0, width)}`);
  };
  if (live) draw(`${name}: starting`);
  return {
    started(started) {
      name = `${started.name} ${started.version}`;
      if (!live) stream.write(`${name}: ${total} cases\n`);
    },
    result(result, done) {
      const explained = result.verdict === 'pass' || result.verdict === 'unsupported' || result.verdict === 'not-observable';
      if (!explained) bad++;
      const count = `[${String(done).padStart(digits)}/${total}]`;
      if (live) draw(`${name} ${count}${bad > 0 ? ` ${bad} not passing` : ''} ${result.id}`);
      else stream.write(`${count} ${caseLine(result)}\n`);
    },
    log(text) {
      if (live) stream.write('\r\x1b[2K');
      stream.write(`  ${name}: ${text}\n`);
    },
    end() {
      if (live) stream.write('\r\x1b[2K');
    },
  };
}
