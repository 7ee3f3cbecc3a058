// # An adapter in another process
//
// The suite does not link with the machines it judges. It starts a program and exchanges lines of JSON with it, so the machine can be written
// in any language, can crash, hang or babble, and the worst it does to the suite is to earn a verdict. The project's own machines are run this way
// too: what is good enough for others keeps our own kernel's endless loop from being the runner's.

import type { ChildProcess } from 'node:child_process';
import type { DeviceSession } from '../device-script/wire.ts';
import type { Adapter, Reply, Request, RunDevice, RunError, RunReply, RunRequest, Started, Unavailable } from '../types.ts';
import { InvalidDocument, parseJson } from '../validate.ts';
import { howItEnded, killGroup, spawnGroup } from './children.ts';
import { lineSplitter } from './lines.ts';

/** The longest line an adapter may send: room for the largest console and its JSON around it. */
export const LINE_LIMIT_BYTES = 4 << 20;
const STDERR_KEPT = 2000;

/** The adapter's process ended when it should not have. */
export class AdapterDied extends Error {
  override name = 'AdapterDied';
}
/** The adapter sent something that the protocol does not allow. */
export class ProtocolViolation extends Error {
  override name = 'ProtocolViolation';
}
/** The adapter says that it could not do what it was asked. It is still there. */
export class AdapterFailed extends Error {
  override name = 'AdapterFailed';
}
/** The adapter did not answer in time. */
export class AdapterHung extends Error {
  override name = 'AdapterHung';
}

export interface ExecOptions {
  /** A shell command line, or a program and its arguments. */
  readonly command: string | readonly [string, ...string[]];
  readonly startTimeoutMs?: number;
  readonly onLog?: (text: string) => void;
}

/** Replies that say which request they are for. */
type Answer = Extract<Reply, { readonly id: string }>;

interface Waiter {
  resolve(reply: Reply): void;
  reject(error: Error): void;
}

/** Speaks the protocol with a program. One request is outstanding at a time; whatever goes wrong rejects it with one of the errors above. */
export class ExecAdapter implements Adapter {
  readonly #options: ExecOptions;
  #child: ChildProcess | null = null;
  #waiter: Waiter | null = null;
  #fatal: Error | null = null;
  #stderr = '';

  constructor(options: ExecOptions) {
    this.#options = options;
  }

  async start(): Promise<Started | Unavailable> {
    const { command } = this.#options;
    const child = typeof command === 'string' ? spawnGroup(command, [], { shell: true }) : spawnGroup(command[0], command.slice(1));
    this.#child = child;
    const feed = lineSplitter(
      LINE_LIMIT_BYTES,
      (line) => this.#line(line),
      () => this.#fail(new ProtocolViolation(`the adapter sent a line of more than ${LINE_LIMIT_BYTES} bytes`)),
    );
    child.stdout?.on('data', feed);
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString('latin1')).slice(-STDERR_KEPT);
    });
    child.stdin?.on('error', () => {}); // a closed pipe shows itself as the child's end
    child.on('error', (error) => this.#fail(new AdapterDied(`the adapter could not be started: ${error.message}`)));
    child.on('close', (code, signal) => this.#fail(new AdapterDied(`the adapter ${howItEnded(code, signal)}${this.#lastWords()}`)));

    const reply = await this.#ask({ type: 'start', protocol: 1 }, this.#options.startTimeoutMs ?? 30_000);
    if (reply.type !== 'started' && reply.type !== 'unavailable')
      throw this.#fail(new ProtocolViolation(`the adapter answered 'start' with '${reply.type}'`));
    return reply;
  }

  /** The runner's own margin over the case's limit is the caller's to add: this waits as long as it takes. */
  async run(request: RunRequest): Promise<RunReply> {
    const reply = this.#expect(await this.#ask(request, null), request, ['ran', 'error']);
    if (reply.type === 'ran' && reply.surface !== request.surface)
      throw this.#fail(new ProtocolViolation(`the adapter answered for the surface '${reply.surface}' when '${request.surface}' was asked`));
    return reply as RunReply;
  }

  async open(request: RunDevice): Promise<DeviceSession | RunError> {
    const { id } = request;
    const ready = this.#expect(await this.#ask(request, null), request, ['ready', 'error']);
    if (ready.type === 'error') return ready;
    return {
      ...(ready.windows && { windows: ready.windows }),
      access: async (ops) => {
        const reply = this.#expect(await this.#ask({ type: 'access', id, ops }, null), { type: 'access', id }, ['accessed', 'error']);
        if (reply.type === 'error') throw new AdapterFailed(reply.reason);
        if (reply.results.length !== ops.length)
          throw this.#fail(new ProtocolViolation(`the adapter answered ${reply.results.length} results to ${ops.length} operations`));
        return reply.results;
      },
      end: async () => {
        const reply = this.#expect(await this.#ask({ type: 'end', id }, null), { type: 'end', id }, ['ran', 'error']);
        if (reply.type === 'error') throw new AdapterFailed(reply.reason);
        const { traceHash, detail } = reply;
        return { ...(traceHash !== undefined && { traceHash }), ...(detail !== undefined && { detail }) };
      },
    };
  }

  /** The reply, if it is one of those that may come now, to the request that was made. */
  #expect<T extends Answer['type']>(
    reply: Reply,
    asked: { readonly type: string; readonly id: string },
    types: readonly T[],
  ): Extract<Answer, { type: T }> {
    const expected: readonly string[] = types;
    if (!expected.includes(reply.type)) throw this.#fail(new ProtocolViolation(`the adapter answered '${asked.type}' with '${reply.type}'`));
    const { id } = reply as Answer;
    if (id !== asked.id) throw this.#fail(new ProtocolViolation(`the adapter answered request ${id} when ${asked.id} was asked`));
    return reply as Extract<Answer, { type: T }>;
  }

  async stop(): Promise<void> {
    if (!this.#child || this.#fatal) return this.kill();
    try {
      await this.#ask({ type: 'stop' }, 5_000);
    } catch {
      // It is told to go either way.
    }
    this.kill();
  }

  kill(): void {
    if (this.#child) killGroup(this.#child);
    this.#fatal ??= new AdapterDied('the adapter was ended by the runner');
  }

  #lastWords(): string {
    const words = this.#stderr.trim();
    if (words === '') return '';
    const cause = words.split('\n').find((line) => /error|panic|fault|abort/i.test(line)); // a stack trace puts it first, not last
    return `; its last words: ${JSON.stringify((cause ?? words).slice(-400))}`;
  }

  #ask(request: Request, timeoutMs: number | null): Promise<Reply> {
    if (this.#fatal) return Promise.reject(this.#fatal);
    return new Promise((resolve, reject) => {
      const timer =
        timeoutMs === null
          ? null
          : setTimeout(() => this.#fail(new AdapterHung(`the adapter did not answer '${request.type}' in ${timeoutMs} ms`)), timeoutMs);
      const settled = (): void => {
        if (timer) clearTimeout(timer);
        this.#waiter = null;
      };
      this.#waiter = {
        resolve: (reply) => {
          settled();
          resolve(reply);
        },
        reject: (error) => {
          settled();
          reject(error);
        },
      };
      this.#child?.stdin?.write(`${JSON.stringify(request)}\n`);
    });
  }

  #line(line: string): void {
    if (line.trim() === '' || this.#fatal) return;
    let reply: Reply;
    try {
      reply = parseJson<Reply>('protocol-reply', line, 'adapter');
    } catch (error) {
      const why = error instanceof InvalidDocument ? error.problems.join('; ') : String(error);
      this.#fail(
        new ProtocolViolation(
          `the adapter sent ${JSON.stringify(line.slice(0, 120))}, which is not a message of the protocol: ${why}${this.#lastWords()}`,
        ),
      );
      return;
    }
    if (reply.type === 'log') this.#options.onLog?.(reply.text);
    else if (this.#waiter) this.#waiter.resolve(reply);
    else this.#fail(new ProtocolViolation(`the adapter sent '${reply.type}' when nothing was asked`));
  }

  #fail(error: Error): Error {
    if (!this.#fatal) {
      this.#fatal = error;
      if (this.#child) killGroup(this.#child);
    }
    this.#waiter?.reject(this.#fatal);
    return this.#fatal;
  }
}
