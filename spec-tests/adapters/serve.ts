// # A built-in machine as a program
//
// `node serve.ts ringbook` is an adapter like any other: it reads requests, hands them to a machine of this project, and writes replies. It is
// how the runner isolates our own machines, and it doubles as the reference implementation of the protocol's adapter side.

import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { DeviceSession } from '../device-script/wire.ts';
import type { Access, Adapter, Reply, Request, RunDevice, RunRequest } from '../types.ts';
import { InvalidDocument, parseJson, validate } from '../validate.ts';
import { LINE_LIMIT_BYTES } from './exec.ts';
import { lineSplitter } from './lines.ts';
import { type BuiltIn, makeBuiltIn } from './targets.ts';

/** Serves one adapter until `stop`, the end of the input, or a message that is not of the protocol (which throws). */
export async function serve(adapter: Adapter, input: Readable, output: Writable): Promise<void> {
  const lines: string[] = [];
  let overflown = false;
  const feed = lineSplitter(
    LINE_LIMIT_BYTES,
    (line) => lines.push(line),
    () => {
      overflown = true;
    },
  );
  const reply = async (message: Reply): Promise<void> => {
    validate('protocol-reply', message, 'our own reply');
    if (!output.write(`${JSON.stringify(message)}\n`)) await once(output, 'drain');
  };
  let session: DeviceSession | null = null;
  const answerTo = async (request: RunRequest | RunDevice | Access | { readonly type: 'end'; readonly id: string }): Promise<Reply> => {
    const { id } = request;
    if (request.type === 'run' && request.surface !== 'device') return adapter.run(request);
    if (request.type === 'run') {
      await session?.end(); // a runner that gave up in the middle
      session = null;
      const opened = (await adapter.open?.(request)) ?? ({ type: 'error', id, reason: 'it has no device surface' } as const);
      if ('type' in opened) return opened;
      session = opened;
      return { type: 'ready', id, ...(session.windows && { windows: session.windows }) };
    }
    if (!session) return { type: 'error', id, reason: `'${request.type}' without a machine` };
    if (request.type === 'access') return { type: 'accessed', id, results: await session.access(request.ops) };
    const ended = session;
    session = null;
    return { type: 'ran', id, surface: 'device', ...(await ended.end()) };
  };
  for await (const chunk of input) {
    feed(chunk as Uint8Array);
    if (overflown) throw new InvalidDocument('request', [`longer than ${LINE_LIMIT_BYTES} bytes`]);
    for (let line = lines.shift(); line !== undefined; line = lines.shift()) {
      if (line.trim() === '') continue;
      const request = parseJson<Request>('protocol-request', line, 'request');
      if (request.type === 'start') await reply(await adapter.start());
      else if (request.type !== 'stop') {
        let answer: Reply;
        try {
          answer = await answerTo(request);
        } catch (error) {
          // A failing machine of ours must not be mistaken for a failing protocol: the reason goes back, the process stays.
          answer = { type: 'error', id: request.id, reason: String((error as Error).stack ?? error).slice(0, 4000) };
        }
        await reply(answer);
      } else {
        await adapter.stop();
        await reply({ type: 'stopped' });
        return;
      }
    }
  }
  adapter.kill(); // the runner is gone
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const name = process.argv[2] ?? '';
  console.log = console.error; // standard output belongs to the protocol
  const adapter = await makeBuiltIn(name as BuiltIn);
  if (!adapter) {
    console.error(`serve: no built-in machine called '${name}'`);
    process.exit(2);
  }
  try {
    await serve(adapter, process.stdin, process.stdout);
    process.exit(0);
  } catch (error) {
    adapter.kill();
    console.error(String(error));
    process.exit(1);
  }
}
