// # A region as a WebAssembly function
//
// The function takes the number of the entry to begin at, and returns why it came back, or rather: it does not return, but passes control on by a tail call
// to whatever runs the code that follows.
//
// ## Time
//
// A deadline is an exact number of instructions, and nothing is more expensive than to compare a counter after each of them. It is not necessary either.
// The region is entered only while more instructions remain than it contains. So a way through it that passes no instruction twice
// needs no look at the clock. Only where a loop closes the time is compared; when there is less left than that, the interpreter executes the rest, and it stops to the
// instruction.

import { MARGIN, TAIL_CALLS } from '../jump-cache.ts';
import { checkTarget } from '../micro-ops/transfers.ts';
import { condition } from '../micro-ops/vocabulary.ts';
import { type Emitter, MICRO_OPS, ONCE, OUTLINED, WORD } from '../micro-ops.ts';
import {
  block,
  br,
  type Code,
  call,
  either,
  type Func,
  type FunctionBody,
  get,
  i32,
  i64,
  Label,
  type Local,
  ret,
  returnCall,
  set,
  unreachable,
  type ValueType,
  WasmModule,
  when,
} from '../wasm-assembler.ts';
import { TranslatedOperands, Untranslatable } from './operands.ts';
import { nameOf, type Region, type RegionBlock, type Step } from './region.ts';
import { assemble, type Shape, shapeOf } from './structure.ts';

/** The machine that a module is made for. */
export interface Machine {
  readonly pages: number;
  readonly shared: boolean;
  readonly state: number;
  readonly words: number;
}

const meaningOf = (name: string): ((e: Emitter) => Code) => MICRO_OPS.get(name) as (e: Emitter) => Code;
const widthIn = (name: string): number => Number(/\.(\d)/.exec(name)?.[1]);

/** Micro-operations that a block's end replaces: they assign NEXT_RIP, which is a constant here, or go to code that is here. */
const TRANSFER = /^(jump|jumpTo|goTo|dispatch|takeIf|aim)(\.|$)|^j[a-z]+\.\d$/;
/** Micro-operations that have no place in a region. */
const INTERPRETED = /^(rep|bulk|insn|stale|sequel|system|raise|crossing)/;
/** May this micro-operation be translated, as far as its name says? */
export const isTranslatable = (op: number): boolean => !INTERPRETED.test(nameOf(op));

/** Says which micro-operation could not be translated. */
export class Refusal extends Error {
  readonly op: number;
  constructor(op: number, why: string) {
    super(`${nameOf(op)}: ${why}`);
    this.op = op;
  }
}

class RegionWriter {
  readonly #region: Region;
  readonly #e: TranslatedOperands;
  readonly #shape: Shape;
  readonly #selector: Local;
  readonly #dispatcher = new Label();
  readonly #stop: Local;

  constructor(region: Region, e: TranslatedOperands, shape: Shape, selector: Local, stop: Local) {
    this.#region = region;
    this.#e = e;
    this.#shape = shape;
    this.#selector = selector;
    this.#stop = stop;
  }

  write(): Code {
    return assemble(this.#shape, this.#selector, this.#dispatcher, {
      node: (n, inline, jump) => {
        const e = this.#e;
        if (!inline) e.flags = null;
        return this.#block(this.#region.blocks[n] as RegionBlock, jump);
      },
      before: (to, way) => {
        const e = this.#e;
        if (way === 'inline') return [];
        const kind = e.settleKind();
        return way === 'forward' ? kind : [kind, this.#onTime(to)];
      },
    });
  }

  /** Leaves for the interpreter when the deadline is near. */
  #onTime(to: number): Code {
    const target = this.#ripOf(to);
    const { flags } = this.#e;
    this.#e.flags = null; // the variable has been set
    const code = when(i64.gt_s(get(this.#e.count), get(this.#stop)), this.#e.leaveTo(target, target));
    this.#e.flags = flags;
    return code;
  }
  #ripOf(n: number): bigint {
    return (this.#region.blocks[n] as RegionBlock).steps[0]?.rip as bigint;
  }
  #blockAt(rip: bigint): number | undefined {
    const distance = BigInt.asUintN(64, rip - this.#region.rip);
    return distance < 4096n ? this.#region.blockAt.get(Number(distance)) : undefined;
  }

  #block({ steps, successors }: RegionBlock, jump: (to: number) => Code): Code {
    const e = this.#e;
    const code: Code[] = [];
    const held = new Set<number>();
    steps.forEach((step, done) => {
      const inMemory = step.micros.some(({ op }) => OUTLINED.has(nameOf(op)));
      e.begin(step, done, inMemory);
      for (const micro of step.micros) {
        if (held.has(micro.op)) continue;
        if (ONCE.has(nameOf(micro.op))) held.add(micro.op);
        try {
          code.push(this.#micro(step, micro));
        } catch (thrown) {
          if (thrown instanceof Untranslatable) throw new Refusal(micro.op, thrown.message);
          throw thrown;
        }
      }
    });
    const last = steps[steps.length - 1] as Step;
    const { transfer } = last;
    const name = last.micros.length > 0 ? nameOf((last.micros[last.micros.length - 1] as { op: number }).op) : '';
    // Indirect targets are read, and conditions computed, before the time of the block is added: both may still give up.
    const goTo = (target: bigint): Code => {
      const to = this.#blockAt(target);
      const { flags } = e;
      const way = to !== undefined && successors.includes(to) ? jump(to) : e.leaveTo(transfer.kind === 'next' ? target : last.rip, target);
      e.flags = flags;
      return way;
    };
    const advance = e.advance(steps.length);
    if (transfer.kind === 'next') return [code, advance, goTo(last.next)];
    if (transfer.kind === 'jump' || transfer.kind === 'call') return [code, advance, goTo(transfer.target)];
    if (transfer.kind === 'branch') {
      if (transfer.target === last.next) return [code, advance, goTo(last.next)];
      let truth: Code = get(e.taken);
      const named = transfer.condition;
      if (named !== null) {
        const micro = last.micros[last.micros.length - 1] as (typeof last.micros)[number];
        truth = [];
        code.push(
          e.micro(micro, () => {
            truth = condition(named, e);
            return [];
          }),
        );
      }
      return [code, advance, either(truth, goTo(transfer.target), goTo(last.next))];
    }
    // An indirect jump: compare with where such jumps have led.
    const isReturn = transfer.form === 'return';
    const candidates = (isReturn ? this.#region.returns : this.#region.targets).filter((n) => this.#shape.entries.includes(n));
    const micro = last.micros[last.micros.length - 1] as (typeof last.micros)[number];
    const width = name === 'goTo' ? 8 : widthIn(name);
    code.push(e.micro(micro, () => [set(e.next, e.getUnsigned('a', width)), name === 'goTo' ? [] : checkTarget(e, width, get(e.next))]));
    const tries = candidates.map((n) => {
      const target = this.#ripOf(n);
      return when(i64.eq(get(e.next), i64.const(BigInt.asIntN(64, target))), [
        e.settleKind(),
        this.#onTime(n),
        set(this.#selector, i32.const(this.#shape.entries.indexOf(n))),
        br(this.#dispatcher),
      ]);
    });
    return [code, advance, tries, e.leaveTo(last.rip, null)];
  }

  #micro(step: Step, micro: Step['micros'][number]): Code {
    const e = this.#e;
    const name = nameOf(micro.op);
    if (!TRANSFER.test(name)) return e.micro(micro, meaningOf(name));
    if (name.startsWith('aim')) {
      const { transfer } = step;
      if (transfer.kind !== 'call') throw new Untranslatable('a target of nothing');
      const { target } = transfer;
      // Beyond what is certainly canonical, the check that belongs to the call is made.
      if (widthIn(name) === 8 && BigInt.asUintN(64, BigInt.asIntN(48, target)) !== target) return e.micro(micro, meaningOf(name));
      return e.micro(micro, () => e.set('d', 8, i64.const(BigInt.asIntN(64, target))));
    }
    if (name.startsWith('takeIf')) return e.micro(micro, () => set(e.taken, i32.wrap_i64(e.getUnsigned('a', 1))));
    return [];
  }
}

/** Translates a region to a module with one export, `region`. */
export function compileRegion(region: Region, bank: number, machine: Machine): { bytes: Uint8Array<ArrayBuffer>; entries: readonly number[] } {
  const module = new WasmModule(machine.pages, machine.shared);
  const imported = new Map<string, Func>();
  const shape = shapeOf(
    region.blocks.map(({ successors }) => successors),
    region.entries,
  );
  const entry = module.function(['i32'], ['i32'], (body: FunctionBody, parameter) => {
    const importFunction = (name: string, params: readonly ValueType[], results: readonly ValueType[]): Func => {
      let func = imported.get(name);
      if (!func) {
        func = module.import(name, params, results);
        imported.set(name, func);
      }
      return func;
    };
    const e = new TranslatedOperands({
      state: machine.state,
      words: machine.words,
      mode: region.mode,
      rip: region.rip,
      bank,
      body,
      import: importFunction,
    });
    const selector = parameter as Local;
    const stop = body.local('i64');
    const code = new RegionWriter(region, e, shape, selector, stop).write();
    const go = importFunction('go', [], ['i32']);
    const interpret = importFunction('interpret', [], ['i32']);
    const pass = (func: Func): Code => (TAIL_CALLS ? returnCall(func) : ret(call(func)));
    const epilogue = e.epilogue();
    return [
      e.prologue(),
      set(stop, i64.sub(e.word(WORD.LIMIT), i64.const(BigInt(MARGIN)))),
      block(e.exit, [code, unreachable]),
      either(epilogue, pass(interpret), pass(go)),
      unreachable,
    ];
  });
  module.export('region', entry);
  return { bytes: module.encode(), entries: shape.entries };
}
