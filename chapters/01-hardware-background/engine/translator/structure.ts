// # From jumps to structure
//
// Guest code jumps wherever it likes. WebAssembly cannot: it has blocks that one may leave and loops that one may start again, and nothing else. So a
// region's control flow has to be put into that form before a single instruction is translated.
//
// The method goes by *dominators*. Block d dominates block b if every way to b leads through d. That relation is a tree, and the tree says how to
// nest: the code of b lies inside that of its parent. A block that is reached from several places follows the end of a WebAssembly block, which everyone
// who wants to go there leaves. A block that is reached from behind starts a loop. The rest are written where their only predecessor jumps.
//
// Two things do not fit. A region is entered at several places, and compilers of other people produce loops with two heads. For both there is a way
// around: the whole is enclosed in one loop that begins with a jump table, the *dispatcher*. Whoever cannot jump to a block directly names it and starts
// the outer loop again.

import { block, br, brTable, type Code, get, i32, Label, type Local, loop, set } from '../wasm-assembler.ts';

/** The shape of a control-flow graph whose nodes are numbered from 0. */
export interface Shape {
  /** Nodes that the dispatcher knows, in the order of their numbers there. */
  readonly entries: readonly number[];
  /** Nodes in the order in which they are written: every node after those that dominate it. */
  readonly order: readonly number[];
  /** Place in `order`, by node. */
  readonly position: readonly number[];
  readonly children: readonly (readonly number[])[];
  readonly isMerge: readonly boolean[];
  readonly isLoop: readonly boolean[];
  /** Edges that go through the dispatcher: `from * count + to`. */
  readonly detours: ReadonlySet<number>;
  readonly topLevel: readonly number[];
}

const ROOT = -1;

/** Nodes that can be reached, in reverse postorder. */
function reversePostorder(entries: readonly number[], next: (n: number) => readonly number[], count: number): number[] {
  const seen = new Uint8Array(count);
  const out: number[] = [];
  for (const entry of [...entries].reverse()) {
    if (seen[entry]) continue;
    seen[entry] = 1;
    const stack: { n: number; at: number }[] = [{ n: entry, at: 0 }];
    for (let top = stack.at(-1); top; top = stack.at(-1)) {
      const to = next(top.n)[top.at++];
      if (to === undefined) {
        out.push(top.n);
        stack.pop();
      } else if (!seen[to]) {
        seen[to] = 1;
        stack.push({ n: to, at: 0 });
      }
    }
  }
  return out.reverse();
}

/** Immediate dominators by node; ROOT for those that only the dispatcher dominates. */
function dominators(
  order: readonly number[],
  position: readonly number[],
  predecessors: readonly (readonly number[])[],
  isEntry: Uint8Array,
): number[] {
  const UNKNOWN = -2;
  const idom: number[] = predecessors.map(() => UNKNOWN);
  const meet = (a: number, b: number): number => {
    let [x, y] = [a, b];
    while (x !== y) {
      if (x === ROOT || y === ROOT) return ROOT;
      if ((position[x] as number) > (position[y] as number)) x = idom[x] as number;
      else y = idom[y] as number;
    }
    return x;
  };
  for (let changed = true; changed; ) {
    changed = false;
    for (const n of order) {
      let best = isEntry[n] ? ROOT : UNKNOWN;
      for (const p of predecessors[n] as readonly number[]) {
        if (idom[p] === UNKNOWN) continue;
        best = best === UNKNOWN ? p : meet(best, p);
      }
      if (best !== idom[n]) {
        idom[n] = best;
        changed = true;
      }
    }
  }
  return idom;
}

/** Analyses a graph that is entered at `entries`. A loop with several heads is taken apart: one of them becomes an entry of the dispatcher. */
export function shapeOf(successors: readonly (readonly number[])[], entries: readonly number[]): Shape {
  const count = successors.length;
  const all = [...entries];
  const isEntry = new Uint8Array(count);
  for (const entry of entries) isEntry[entry] = 1;
  const detours = new Set<number>();
  for (;;) {
    const next = successors.map((targets, n) => targets.filter((to) => !detours.has(n * count + to)));
    const order = reversePostorder(all, (n) => next[n] as readonly number[], count);
    const position: number[] = Array(count).fill(-1);
    order.forEach((n, at) => {
      position[n] = at;
    });
    const predecessors: number[][] = Array.from({ length: count }, () => []);
    for (const n of order) for (const to of next[n] as readonly number[]) (predecessors[to] as number[]).push(n);
    const idom = dominators(order, position, predecessors, isEntry);
    const dominates = (a: number, b: number): boolean => {
      let x = b;
      while (x !== ROOT && (position[x] as number) > (position[a] as number)) x = idom[x] as number;
      return x === a;
    };
    let again = false;
    const isLoop: boolean[] = Array(count).fill(false);
    const forward: number[] = Array(count).fill(0);
    for (const n of order) {
      for (const to of next[n] as readonly number[]) {
        if ((position[to] as number) > (position[n] as number)) forward[to] = (forward[to] as number) + 1;
        else if (dominates(to, n)) isLoop[to] = true;
        else {
          detours.add(n * count + to);
          if (!isEntry[to]) {
            isEntry[to] = 1;
            all.push(to);
          }
          again = true;
        }
      }
    }
    if (again) continue;
    const children: number[][] = Array.from({ length: count }, () => []);
    const topLevel: number[] = [];
    for (const n of order) (idom[n] === ROOT ? topLevel : (children[idom[n] as number] as number[])).push(n);
    const isMerge = forward.map((edges, n) => isEntry[n] === 1 || edges > 1);
    return { entries: all, order, position, children, isMerge, isLoop, detours, topLevel };
  }
}

/** How a jump is made. Inline: the target is written right there, and nowhere else leads to it. */
type Way = 'inline' | 'forward' | 'back' | 'dispatch';

/** What {@link assemble} asks of whoever knows what the nodes do. */
interface Writer {
  /**
   * The code of one node. `jump(to)` gives the code for going on to a successor, and is asked for once for each. `inline`: it is written where its
   * only predecessor jumps.
   */
  node(n: number, inline: boolean, jump: (to: number) => Code): Code;
  /** Code that precedes a jump. */
  before(to: number, way: Way): Code;
}

/**
 * Puts a region together. `selector` holds the number of the entry to begin at; a jump to `dispatcher` begins at the one that it then holds. Nodes are asked for in
 * the order of execution along every path, so what a writer knows when it asks for a jump is true at the beginning of a node that is written inline.
 */
export function assemble(shape: Shape, selector: Local, dispatcher: Label, writer: Writer): Code {
  const { children, isMerge, isLoop, position, detours, entries } = shape;
  const count = position.length;
  const ends = position.map(() => new Label());
  const starts = position.map(() => new Label());
  const place = (n: number): number => position[n] as number;
  const numberOf = new Map(entries.map((n, at) => [n, at]));

  const jump = (from: number, to: number): Code => {
    if (detours.has(from * count + to)) {
      return [writer.before(to, 'dispatch'), set(selector, i32.const(numberOf.get(to) as number)), br(dispatcher)];
    }
    if (place(to) <= place(from)) return [writer.before(to, 'back'), br(starts[to] as Label)];
    if (isMerge[to]) return [writer.before(to, 'forward'), br(ends[to] as Label)];
    return [writer.before(to, isLoop[to] ? 'forward' : 'inline'), tree(to, !isLoop[to])];
  };
  /** The nodes `merges`, in order, each behind the end of a block around all that comes before. */
  const following = (merges: readonly number[], inner: () => Code): Code => {
    let code = inner;
    for (const n of merges) {
      const inside = code;
      code = () => [block(ends[n] as Label, inside()), tree(n, false)];
    }
    return code();
  };
  const tree = (n: number, inline: boolean): Code => {
    const merges = (children[n] as readonly number[]).filter((child) => isMerge[child]);
    const body = (): Code => following(merges, () => writer.node(n, inline, (to) => jump(n, to)));
    return isLoop[n] ? loop(starts[n] as Label, body()) : body();
  };
  const all = following(shape.topLevel, () =>
    entries.length === 1
      ? br(ends[entries[0] as number] as Label)
      : brTable(
          get(selector),
          entries.map((n) => ends[n] as Label),
          ends[entries[0] as number] as Label,
        ),
  );
  return loop(dispatcher, all);
}
