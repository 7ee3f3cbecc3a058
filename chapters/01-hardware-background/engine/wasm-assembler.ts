// # Writing WebAssembly
//
// The interpreter is not compiled ahead of time; it is put together, when a machine is made, from the table of micro-operations. So a chapter on
// processors needs an assembler. WebAssembly makes that easy: it has no registers to allocate and no jumps to patch, only expressions and nested
// blocks.
//
// Code is kept as a tree whose leaves are bytes. A function such as `i64.add(x, y)` concatenates: the code of `x`, the code of `y`, the opcode. The only thing
// that cannot be known while a piece is being built is how many blocks will surround it, and a branch counts blocks. So branches and blocks stay symbolic
// until the tree is flattened.

export type ValueType = 'i32' | 'i64' | 'f32' | 'f64' | 'v128';
const TYPE_BYTE = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b } as const;
const NO_RESULT = 0x40;

/** The target of a branch: the end of a block, or the start of a loop. */
export class Label {}

/** A block, loop or `if` that encloses code. */
interface Scope {
  readonly label: Label | null;
  readonly opcode: number;
  readonly type: number;
  readonly body: Code;
}
/** A branch depth, filled in when the tree is flattened. */
interface Depth {
  readonly to: Label;
}
/** A piece of WebAssembly: bytes, pieces, blocks and branches, in order. */
export type Code = readonly (number | Code | Scope | Depth)[];

/** Unsigned LEB128. */
export function unsigned(value: number): number[] {
  const out: number[] = [];
  let rest = value >>> 0;
  while (rest >= 0x80) {
    out.push((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  out.push(rest);
  return out;
}

/** Signed LEB128, to 64 bits. */
function signed(value: bigint): number[] {
  const out: number[] = [];
  let rest = BigInt.asIntN(64, value);
  for (;;) {
    const byte = Number(rest & 0x7fn);
    rest >>= 7n;
    if ((rest === 0n && !(byte & 0x40)) || (rest === -1n && byte & 0x40)) return [...out, byte];
    out.push(byte | 0x80);
  }
}

// ## Expressions

/** An instruction with one operand. */
export const unary =
  (...opcode: number[]) =>
  (x: Code): Code => [x, ...opcode];
/** An instruction with two operands. */
export const binary =
  (...opcode: number[]) =>
  (x: Code, y: Code): Code => [x, y, ...opcode];
/** A load. The alignment hint is 0, because guest addresses may be anything. */
export const load =
  (...opcode: number[]) =>
  (address: Code, offset = 0): Code => [address, ...opcode, 0, ...unsigned(offset)];
export const store =
  (...opcode: number[]) =>
  (address: Code, value: Code, offset = 0): Code => [address, value, ...opcode, 0, ...unsigned(offset)];

/** Operations on 32-bit integers; results of comparisons are of this type too. */
// biome-ignore format: table
export const i32 = {
  const: (value: number): Code => [0x41, ...signed(BigInt(value | 0))],
  load: load(0x28), load8_s: load(0x2c), load8_u: load(0x2d), load16_s: load(0x2e), load16_u: load(0x2f), store: store(0x36), store8: store(0x3a), store16: store(0x3b),
  eqz: unary(0x45), eq: binary(0x46), ne: binary(0x47), lt_s: binary(0x48), lt_u: binary(0x49), gt_s: binary(0x4a), gt_u: binary(0x4b),
  le_s: binary(0x4c), le_u: binary(0x4d), ge_s: binary(0x4e), ge_u: binary(0x4f),
  clz: unary(0x67), ctz: unary(0x68), popcnt: unary(0x69), div_u: binary(0x6e), rem_u: binary(0x70), rotl: binary(0x77), rotr: binary(0x78),
  extend8_s: unary(0xc0), extend16_s: unary(0xc1), add: binary(0x6a), sub: binary(0x6b), mul: binary(0x6c),
  and: binary(0x71), or: binary(0x72), xor: binary(0x73), shl: binary(0x74), shr_s: binary(0x75), shr_u: binary(0x76),
  wrap_i64: unary(0xa7),
};

/** Operations on 64-bit integers. */
// biome-ignore format: table
export const i64 = {
  const: (value: bigint): Code => [0x42, ...signed(value)],
  load: load(0x29), load8_s: load(0x30), load8_u: load(0x31), load16_s: load(0x32), load16_u: load(0x33), load32_s: load(0x34), load32_u: load(0x35),
  store: store(0x37), store8: store(0x3c), store16: store(0x3d), store32: store(0x3e),
  eqz: unary(0x50), eq: binary(0x51), ne: binary(0x52), lt_s: binary(0x53), lt_u: binary(0x54), gt_s: binary(0x55), gt_u: binary(0x56),
  le_s: binary(0x57), le_u: binary(0x58), ge_s: binary(0x59), ge_u: binary(0x5a),
  clz: unary(0x79), ctz: unary(0x7a), popcnt: unary(0x7b), add: binary(0x7c), sub: binary(0x7d), mul: binary(0x7e),
  div_s: binary(0x7f), div_u: binary(0x80), rem_s: binary(0x81), rem_u: binary(0x82),
  and: binary(0x83), or: binary(0x84), xor: binary(0x85), shl: binary(0x86), shr_s: binary(0x87), shr_u: binary(0x88), rotl: binary(0x89), rotr: binary(0x8a),
  extend_i32_s: unary(0xac), extend_i32_u: unary(0xad), extend8_s: unary(0xc2), extend16_s: unary(0xc3), extend32_s: unary(0xc4),
};

/** `condition ? x : y`, both computed. */
export const select = (x: Code, y: Code, condition: Code): Code => [x, y, condition, 0x1b];

export interface Local {
  readonly index: number;
  readonly type: ValueType;
}
export const get = (local: Local): Code => [0x20, ...unsigned(local.index)];
export const set = (local: Local, value: Code): Code => [value, 0x21, ...unsigned(local.index)];
export const tee = (local: Local, value: Code): Code => [value, 0x22, ...unsigned(local.index)];

// ## Control

const resultByte = (result?: ValueType): number => (result ? TYPE_BYTE[result] : NO_RESULT);

/** A branch to `label` leaves the block. */
export const block = (label: Label, body: Code): Code => [{ label, opcode: 0x02, type: NO_RESULT, body }];
/** A branch to `label` starts over. */
export const loop = (label: Label, body: Code): Code => [{ label, opcode: 0x03, type: NO_RESULT, body }];
export const when = (condition: Code, body: Code): Code => [condition, { label: null, opcode: 0x04, type: NO_RESULT, body }];
/** `if … else …`; with `result`, both arms leave a value of that type. */
export const either = (condition: Code, yes: Code, no: Code, result?: ValueType): Code => [
  condition,
  { label: null, opcode: 0x04, type: resultByte(result), body: [yes, 0x05, no] },
];
export const br = (to: Label): Code => [0x0c, { to }];
export const brIf = (to: Label, condition: Code): Code => [condition, 0x0d, { to }];
/** Goes to `targets[index]`, or to `otherwise`. */
export const brTable = (index: Code, targets: readonly Label[], otherwise: Label): Code => [
  index,
  0x0e,
  ...unsigned(targets.length),
  targets.map((to) => ({ to })),
  { to: otherwise },
];
export const ret = (value: Code = []): Code => [value, 0x0f];
export const unreachable: Code = [0x00];
/** `memory.copy(to, from, bytes)`: as if through a buffer. */
export const memoryCopy = (to: Code, from: Code, bytes: Code): Code => [to, from, bytes, 0xfc, 0x0a, 0, 0];
/** `memory.fill(to, byte, bytes)`. */
export const memoryFill = (to: Code, byte: Code, bytes: Code): Code => [to, byte, bytes, 0xfc, 0x0b, 0];

export interface Func {
  readonly index: number;
}
export const call = (func: Func, ...args: Code[]): Code => [...args, 0x10, ...unsigned(func.index)];

/** Turns the tree into bytes. `open` holds the labels of the enclosing scopes, innermost last. */
function flatten(code: Code, open: (Label | null)[], out: number[]): void {
  for (const part of code) {
    if (typeof part === 'number') out.push(part);
    else if ('to' in part) {
      const at = open.lastIndexOf(part.to);
      if (at < 0) throw new RangeError('branch to a label that does not enclose it');
      out.push(...unsigned(open.length - 1 - at));
    } else if ('body' in part) {
      out.push(part.opcode, part.type);
      open.push(part.label);
      flatten(part.body, open, out);
      open.pop();
      out.push(0x0b);
    } else flatten(part, open, out);
  }
}

// ## Functions and modules

interface Signature {
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
}

/** A function under construction: hands out its parameters and locals. */
export class FunctionBody {
  readonly params: readonly Local[];
  readonly #locals: ValueType[] = [];

  constructor(params: readonly ValueType[]) {
    this.params = params.map((type, index) => ({ index, type }));
  }

  local(type: ValueType): Local {
    this.#locals.push(type);
    return { index: this.params.length + this.#locals.length - 1, type };
  }

  /** The code entry: local declarations, then the instructions. */
  encode(code: Code): number[] {
    const out = [...unsigned(this.#locals.length), ...this.#locals.flatMap((type) => [1, TYPE_BYTE[type]])];
    flatten(code, [null], out);
    out.push(0x0b);
    return out;
  }
}

const name = (text: string): number[] => {
  const bytes = [...new TextEncoder().encode(text)];
  return [...unsigned(bytes.length), ...bytes];
};
const section = (id: number, content: readonly number[]): number[] => [id, ...unsigned(content.length), ...content];
const list = (items: readonly (readonly number[])[]): number[] => [...unsigned(items.length), ...items.flat()];

/** A module with one imported memory `env.memory`, imported functions `env.*`, and exported functions. */
export class WasmModule {
  readonly #signatures: string[] = [];
  readonly #types: number[][] = [];
  readonly #imports: number[][] = [];
  readonly #functions: { type: number; code: number[] | null }[] = [];
  readonly #exports: number[][] = [];
  #importedFunctions = 0;

  /** @param pages size of the imported memory in 64 KiB pages, which is also its maximum. */
  constructor(pages: number, shared: boolean) {
    this.#imports.push([...name('env'), ...name('memory'), 2, shared ? 3 : 1, ...unsigned(pages), ...unsigned(pages)]);
  }

  #type({ params, results }: Signature): number {
    const key = `${params.join()}>${results.join()}`;
    const known = this.#signatures.indexOf(key);
    if (known >= 0) return known;
    this.#signatures.push(key);
    this.#types.push([0x60, ...list(params.map((type) => [TYPE_BYTE[type]])), ...list(results.map((type) => [TYPE_BYTE[type]]))]);
    return this.#types.length - 1;
  }

  /** Declares an imported function. All imports come before the first own function: they share one numbering. */
  import(importName: string, params: readonly ValueType[], results: readonly ValueType[]): Func {
    if (this.#functions.length > 0) throw new RangeError('imports come first');
    this.#imports.push([...name('env'), ...name(importName), 0, ...unsigned(this.#type({ params, results }))]);
    return { index: this.#importedFunctions++ };
  }

  /** Adds a function; `build` receives its parameters and makes its code. */
  function(params: readonly ValueType[], results: readonly ValueType[], build: (body: FunctionBody, ...params: Local[]) => Code): Func {
    const entry: { type: number; code: number[] | null } = { type: this.#type({ params, results }), code: null };
    this.#functions.push(entry);
    const index = this.#importedFunctions + this.#functions.length - 1;
    const body = new FunctionBody(params);
    entry.code = body.encode(build(body, ...body.params));
    return { index };
  }

  export(exportName: string, func: Func): void {
    this.#exports.push([...name(exportName), 0, ...unsigned(func.index)]);
  }

  encode(): Uint8Array<ArrayBuffer> {
    const functions = this.#functions.map(({ type }) => unsigned(type));
    const codes = this.#functions.map(({ code }) => [...unsigned((code ?? []).length), ...(code ?? [])]);
    const parts = [
      [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
      section(1, list(this.#types)),
      section(2, list(this.#imports)),
      section(3, list(functions)),
      section(7, list(this.#exports)),
      section(10, list(codes)),
    ];
    return Uint8Array.from(parts.flat());
  }
}
