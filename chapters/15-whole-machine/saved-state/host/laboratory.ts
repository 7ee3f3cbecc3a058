// # Who is in a machine
//
// A field that no table names is what one forgets, and a class that nobody listed is where one forgets it. So nobody lists classes: a machine is
// built, and everything that can be reached from it is visited, private fields included. JavaScript keeps those from everybody, but not from its debugger.

import { Session } from 'node:inspector';

interface RemoteValue {
  readonly type: string;
  readonly subtype?: string;
  readonly className?: string;
  readonly objectId?: string;
}

/** What a field held: a plain value, bytes or numbers, a collection, or another object. */
type Held = 'value' | 'collection' | 'object';

interface Visited {
  /** The class that each is an instance of, and its fields with what they held; in whatever machine. */
  readonly fields: ReadonlyMap<string, ReadonlyMap<string, ReadonlySet<Held>>>;
}

const COLLECTIONS = /^(Map|Set|Array|(Big)?(Int|Uint|Float)\d+(Clamped)?Array)$/;
/** JavaScript's own, whose insides are no business of ours. */
const FOREIGN =
  /^(Object|Function|AsyncFunction|Promise|ArrayBuffer|SharedArrayBuffer|DataView|Memory|Module|Instance|Global|Table|RegExp|Date|WeakMap|WeakSet)$/;

/**
 * Visits everything that can be reached from these objects.
 * @param skip classes that are not entered
 */
export function census(roots: readonly object[], skip: ReadonlySet<string>): Visited {
  const session = new Session();
  session.connect();
  const numbers = new WeakMap<object, number>();
  let count = 0;
  const shared = globalThis as unknown as { census?: { roots: readonly object[]; isNew(object: object): boolean } };
  shared.census = {
    roots,
    isNew(object) {
      if (numbers.has(object)) return false;
      numbers.set(object, count++);
      return true;
    },
  };
  const ask = (method: string, parameters: object): { result: unknown } & Record<string, unknown> => {
    let answer: ({ result: unknown } & Record<string, unknown>) | null = null;
    session.post(method, parameters, (error: Error | null, result?: object) => {
      if (error) throw error;
      answer = result as { result: unknown } & Record<string, unknown>;
    });
    if (!answer) throw new Error(`${method} was not answered at once`);
    return answer;
  };
  const fields = new Map<string, Map<string, Set<Held>>>();
  const queue: RemoteValue[] = [];
  try {
    queue.push(ask('Runtime.evaluate', { expression: 'globalThis.census.roots' }).result as RemoteValue);
    for (let value = queue.pop(); value; value = queue.pop()) {
      const { objectId, className = 'Object' } = value;
      const isNew = ask('Runtime.callFunctionOn', {
        objectId,
        functionDeclaration: 'function () { return globalThis.census.isNew(this); }',
        returnByValue: true,
      }).result as { value: boolean };
      if (!isNew.value) continue;
      const {
        result,
        privateProperties = [],
        internalProperties = [],
      } = ask('Runtime.getProperties', { objectId, ownProperties: true }) as unknown as {
        result: { name: string; value?: RemoteValue }[];
        privateProperties?: { name: string; value?: RemoteValue }[];
        internalProperties?: { name: string; value?: RemoteValue }[];
      };
      const isOurs = !FOREIGN.test(className) && !COLLECTIONS.test(className);
      const known = isOurs ? (fields.get(className) ?? new Map<string, Set<Held>>()) : null;
      if (known) fields.set(className, known);
      const own = [...result, ...privateProperties];
      // What is in a Map or a Set is no property of it.
      const entries = internalProperties.filter(({ name }) => name === '[[Entries]]');
      for (const { name, value: held } of [...own, ...entries]) {
        if (!held || held.type === 'function' || held.type === 'symbol') continue;
        const holds: Held = held.objectId === undefined ? 'value' : COLLECTIONS.test(held.className ?? '') ? 'collection' : 'object';
        if (known) known.set(name, (known.get(name) ?? new Set()).add(holds));
        const enters =
          held.objectId !== undefined && !skip.has(held.className ?? '') && !/Array$/.test((held.className ?? '').replace(/^Array$/, ''));
        if (enters) queue.push(held);
      }
      if (objectId !== undefined) ask('Runtime.releaseObject', { objectId });
    }
  } finally {
    delete shared.census;
    session.disconnect();
  }
  return { fields };
}
