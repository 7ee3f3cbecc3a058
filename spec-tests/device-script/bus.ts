// # Accesses, a batch at a time
//
// A script is a generator. It yields operations and is given their results, so it knows nothing of promises, pipes or processes: the runner drives it across
// a protocol, a test drives it with a table of registers. An adapter may be a process away, so operations that return nothing are held back and travel
// together with the next one that does. Their order is never changed.

import { hex } from '../values.ts';
import { type AccessBytes, type DeviceOp, OPS_PER_ACCESS, type OpResult } from './wire.ts';

export type Script<T> = Generator<readonly DeviceOp[], T, readonly OpResult[]>;

/** The implementation lacks something that the case needs: the verdict is *unsupported*, and this is why. */
export class Unsupported extends Error {
  override name = 'Unsupported';
}

/** The device did not let the driver go on. What has not been observed by now is missing, for this reason. */
export class Stuck extends Error {
  override name = 'Stuck';
}

/** The adapter's results do not fit what was asked. */
export class BadResult extends Error {
  override name = 'BadResult';
}

/** Handles that an implementation may lack. Nothing else may be refused: an access can always be made. */
const MAY_LACK: ReadonlySet<DeviceOp['do']> = new Set(['host', 'lines', 'advance']);

const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');

export class Bus {
  #held: DeviceOp[] = [];

  /** An operation whose result nobody looks at. */
  *put(op: DeviceOp): Script<void> {
    this.#held.push(op);
    if (this.#held.length >= OPS_PER_ACCESS) yield* this.flush();
  }

  *ask(op: DeviceOp): Script<OpResult> {
    this.#held.push(op);
    return (yield* this.#send()).at(-1) as OpResult;
  }

  *flush(): Script<void> {
    if (this.#held.length > 0) yield* this.#send();
  }

  *#send(): Script<readonly OpResult[]> {
    const ops = this.#held;
    this.#held = [];
    const results = yield ops;
    if (results.length !== ops.length) throw new BadResult(`${results.length} results for ${ops.length} operations`);
    for (const [i, { unsupported }] of results.entries()) {
      if (unsupported === undefined) continue;
      const op = ops[i] as DeviceOp;
      if (!MAY_LACK.has(op.do)) throw new BadResult(`'${op.do}' cannot be unsupported`);
      throw new Unsupported(unsupported);
    }
    return results;
  }

  // ## Registers

  *in(port: number, bytes: 1 | 2 | 4): Script<bigint> {
    return numberIn(yield* this.ask({ do: 'in', port: hex(port), bytes }), bytes);
  }
  *out(port: number, bytes: 1 | 2 | 4, value: bigint): Script<void> {
    yield* this.put({ do: 'out', port: hex(port), bytes, value: hex(BigInt.asUintN(8 * bytes, value)) });
  }
  *load(gpa: number, bytes: AccessBytes): Script<bigint> {
    return numberIn(yield* this.ask({ do: 'load', gpa: hex(gpa), bytes }), bytes);
  }
  *store(gpa: number, bytes: AccessBytes, value: bigint): Script<void> {
    yield* this.put({ do: 'store', gpa: hex(gpa), bytes, value: hex(BigInt.asUintN(8 * bytes, value)) });
  }

  // ## Memory

  *read(gpa: number, count: number): Script<Uint8Array> {
    if (count === 0) return new Uint8Array(0);
    return bytesOf(yield* this.ask({ do: 'read', gpa: hex(gpa), count }), count);
  }
  *write(gpa: number, bytes: Uint8Array): Script<void> {
    if (bytes.length > 0) yield* this.put({ do: 'write', gpa: hex(gpa), data: toBase64(bytes) });
  }
  *fill(gpa: number, count: number, byte: number): Script<void> {
    if (count > 0) yield* this.put({ do: 'fill', gpa: hex(gpa), count, byte });
  }
  *readNumber(gpa: number, bytes: AccessBytes): Script<bigint> {
    return numberAt(yield* this.read(gpa, bytes), 0, bytes);
  }
  *writeNumber(gpa: number, bytes: AccessBytes, value: bigint): Script<void> {
    yield* this.write(gpa, numberBytes(value, bytes));
  }

  *advance(ns: number | bigint): Script<void> {
    yield* this.put({ do: 'advance', ns: hex(ns) });
  }
}

/** The number that an access returned. @throws BadResult when there is none, or it does not fit */
function numberIn({ value }: OpResult, bytes: number): bigint {
  if (value === undefined) throw new BadResult('an access that reads returned no value');
  const number = BigInt(value);
  if (number >> BigInt(8 * bytes)) throw new BadResult(`an access of ${bytes} bytes returned ${value}`);
  return number;
}

/** The bytes that came back; exactly `count` of them, if it is given. @throws BadResult */
export function bytesOf({ data }: OpResult, count?: number): Uint8Array {
  if (data === undefined) throw new BadResult('nothing was read');
  const bytes = new Uint8Array(Buffer.from(data, 'base64'));
  if (count !== undefined && bytes.length !== count) throw new BadResult(`${bytes.length} bytes came back, ${count} were asked for`);
  return bytes;
}

/** A little-endian number. */
export function numberAt(bytes: Uint8Array, at: number, width: number): bigint {
  let value = 0n;
  for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i] as number);
  return value;
}

export function numberBytes(value: bigint, width: number): Uint8Array {
  return Uint8Array.from({ length: width }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}
