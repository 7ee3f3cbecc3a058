// # A qtest client on a stream
//
// A client that sends and never reads must not fill the memory: while its answers wait, its commands do too.

import type { Readable, Writable } from 'node:stream';
import type { PausedPc } from '../qtest/paused-pc.ts';
import { LINE_LIMIT, QtestServer } from '../qtest/server.ts';

const LINE_END = 0x0a;

/** Answers one client until it has gone, or the machine was ended. */
export async function serveQtest(machine: PausedPc, input: Readable, output: Writable): Promise<void> {
  let room = true;
  const server = new QtestServer(machine, (line) => {
    room = output.write(`${line}\n`);
  });
  let held: Buffer[] = [];
  let heldBytes = 0;
  output.on('error', () => input.destroy()); // whoever read it has gone
  try {
    for await (const chunk of input) {
      let rest = chunk as Buffer;
      for (let end = rest.indexOf(LINE_END); end >= 0; end = rest.indexOf(LINE_END)) {
        const last = rest.subarray(0, end);
        rest = rest.subarray(end + 1);
        if (heldBytes + last.length > LINE_LIMIT) output.write('ERR line is too long\n');
        else server.line(Buffer.concat([...held, last]).toString('latin1'));
        held = [];
        heldBytes = 0;
        if (machine.settle() !== null) return;
        if (!room && !output.destroyed)
          await new Promise<void>((resolve) => {
            output.once('drain', resolve);
            output.once('close', resolve);
          });
        room = true;
      }
      heldBytes += rest.length;
      if (heldBytes > LINE_LIMIT) held = [];
      else if (rest.length > 0) held.push(rest);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === undefined) throw error; // a stream that broke off is a client that has gone
  } finally {
    server.close();
  }
}
