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
class Scope {
  readonly label: Label | null;
  readonly opcode: number;
  readonly type: number;
  readonly body: Code;
  constructor(label: Label | null, opcode: number, type: number, body: Code) {
    this.label = label;
    this.opcode = opcode;
    this.type = type;
    this.body = body;
  }
}
/** A branch depth, filled in when the tree is flattened. */
class Depth {
  readonly to: Label;
  constructor(to: Label) {
    this.to = to;
  }
}
/** A piece of WebAssembly: bytes, pieces, blocks and branches, in order. `node` says what an expression is, where somebody may want to know. */
export interface Code extends ReadonlyArray<number | Code | Scope | Depth> {
  readonly node?: Node;
}

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

/** Signed LEB128, to 64 bits. Most numbers are small, and arithmetic on BigInts is slow. */
function signed(value: bigint): number[] {
  const number = Number(value);
  if (number === (number | 0)) return signed32(number);
  const out: number[] = [];
  let rest = BigInt.asIntN(64, value);
  for (;;) {
    const byte = Number(rest & 0x7fn);
    rest >>= 7n;
    if ((rest === 0n && !(byte & 0x40)) || (rest === -1n && byte & 0x40)) return [...out, byte];
    out.push(byte | 0x80);
  }
}
/** The same for 32 bits. */
function signed32(value: number): number[] {
  if (value >= -64 && value < 64) return [value & 0x7f];
  const out: number[] = [];
  let rest = value | 0;
  for (;;) {
    const byte = rest & 0x7f;
    rest >>= 7;
    if ((rest === 0 && !(byte & 0x40)) || (rest === -1 && byte & 0x40)) {
      out.push(byte);
      return out;
    }
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

// Meanings are written for 64 bits, and most guests compute with 32. Where the upper half of a result is thrown away it need not be computed, and where
// it is known to be a copy of the sign, comparing the lower halves is enough. So the functions below look at what they are given and may return
// something simpler than what they were asked for: `wrap(add(extend(x), extend(y)))` is `add(x, y)`. A translated loop of 32-bit code comes out as if it
// had been written for 32 bits.

/** What an expression is: an operator with operands, or a constant. */
interface Node {
  readonly op: string;
  readonly x?: Code;
  readonly y?: Code;
  readonly value?: bigint;
  readonly offset?: number;
}
const noted = (code: Code, node: Node): Code => {
  (code as { node?: Node }).node = node;
  return code;
};
/** The value of a constant expression of either type, signed; null for anything else. */
export const constantOf = (code: Code): bigint | null => code.node?.value ?? null;
const isOp = (code: Code, op: string): boolean => code.node?.op === op;

const plain1 =
  (op: string, opcode: number) =>
  (x: Code): Code =>
    noted([x, opcode], { op, x });
const plain2 =
  (op: string, opcode: number) =>
  (x: Code, y: Code): Code =>
    noted([x, y, opcode], { op, x, y });
/** An operator that can be computed at once when both operands are constants. `identity`: the right operand that changes nothing. */
function folding(
  type: 'i32' | 'i64',
  op: string,
  opcode: number,
  compute: (x: bigint, y: bigint) => bigint,
  identity: bigint | null,
): (x: Code, y: Code) => Code {
  const bits = type === 'i32' ? 32 : 64;
  const plain = plain2(`${type}.${op}`, opcode);
  return (x, y) => {
    const right = constantOf(y);
    if (right === null) return plain(x, y);
    if (right === identity) return x;
    const left = constantOf(x);
    if (left === null) return plain(x, y);
    const value = BigInt.asIntN(bits, compute(left, right));
    return type === 'i32' ? i32.const(Number(value)) : i64.const(value);
  };
}
const bitsOf = (type: 'i32' | 'i64', x: bigint): bigint => BigInt.asUintN(type === 'i32' ? 32 : 64, x);
const countIn = (type: 'i32' | 'i64', x: bigint): bigint => x & (type === 'i32' ? 31n : 63n);
// biome-ignore format: table
const arithmetic = (type: 'i32' | 'i64', first: number) => ({
  add: folding(type, 'add', first, (x, y) => x + y, 0n), sub: folding(type, 'sub', first + 1, (x, y) => x - y, 0n),
  mul: folding(type, 'mul', first + 2, (x, y) => x * y, 1n),
  and: folding(type, 'and', first + 7, (x, y) => x & y, -1n), or: folding(type, 'or', first + 8, (x, y) => x | y, 0n),
  xor: folding(type, 'xor', first + 9, (x, y) => x ^ y, 0n),
  shl: folding(type, 'shl', first + 10, (x, y) => x << countIn(type, y), 0n), shr_s: folding(type, 'shr_s', first + 11, (x, y) => x >> countIn(type, y), 0n),
  shr_u: folding(type, 'shr_u', first + 12, (x, y) => bitsOf(type, x) >> countIn(type, y), 0n),
});
const notedLoad =
  (op: string, opcode: number) =>
  (x: Code, offset = 0): Code =>
    noted([x, opcode, 0, ...unsigned(offset)], { op, x, offset });

/** Operations on 32-bit integers; results of comparisons are of this type too. */
// biome-ignore format: table
export const i32 = {
  const: (value: number): Code => noted([0x41, ...signed32(value | 0)], { op: 'const', value: BigInt(value | 0) }),
  load: load(0x28), load8_s: load(0x2c), load8_u: load(0x2d), load16_s: load(0x2e), load16_u: load(0x2f), store: store(0x36), store8: store(0x3a), store16: store(0x3b),
  eqz: (x: Code): Code => (constantOf(x) === null ? plain1('i32.eqz', 0x45)(x) : i32.const(Number(constantOf(x) === 0n))),
  eq: binary(0x46), ne: binary(0x47), lt_s: binary(0x48), lt_u: binary(0x49), gt_s: binary(0x4a), gt_u: binary(0x4b),
  le_s: binary(0x4c), le_u: binary(0x4d), ge_s: binary(0x4e), ge_u: binary(0x4f),
  clz: unary(0x67), ctz: unary(0x68), popcnt: unary(0x69), div_u: binary(0x6e), rem_u: binary(0x70), rotl: binary(0x77), rotr: binary(0x78),
  extend8_s: unary(0xc0), extend16_s: unary(0xc1), ...arithmetic('i32', 0x6a),
  wrap_i64: narrowed,
};

/** Operations on 64-bit integers. */
// biome-ignore format: table
export const i64 = {
  const: (value: bigint): Code => noted([0x42, ...signed(value)], { op: 'const', value: BigInt.asIntN(64, value) }),
  load: notedLoad('i64.load', 0x29), load8_s: load(0x30), load8_u: notedLoad('i64.load8_u', 0x31), load16_s: load(0x32), load16_u: notedLoad('i64.load16_u', 0x33),
  load32_s: notedLoad('i64.load32_s', 0x34), load32_u: notedLoad('i64.load32_u', 0x35),
  store: store(0x37), store8: store(0x3c), store16: store(0x3d), store32: store(0x3e),
  eqz: (x: Code): Code => (constantOf(x) === 0n ? i32.const(1) : isOp(x, 'i64.extend_i32_s') || isOp(x, 'i64.extend_i32_u') ? i32.eqz(x.node?.x as Code) : [x, 0x50]),
  eq: comparison(0x51, i32.eq, i32.eq), ne: comparison(0x52, i32.ne, i32.ne),
  lt_s: comparison(0x53, i32.lt_s, i32.lt_u), lt_u: comparison(0x54, i32.lt_u, i32.lt_u), gt_s: comparison(0x55, i32.gt_s, i32.gt_u),
  gt_u: comparison(0x56, i32.gt_u, i32.gt_u),
  le_s: comparison(0x57, i32.le_s, i32.le_u), le_u: comparison(0x58, i32.le_u, i32.le_u), ge_s: comparison(0x59, i32.ge_s, i32.ge_u),
  ge_u: comparison(0x5a, i32.ge_u, i32.ge_u),
  clz: unary(0x79), ctz: unary(0x7a), popcnt: unary(0x7b), ...arithmetic('i64', 0x7c),
  div_s: binary(0x7f), div_u: binary(0x80), rem_s: binary(0x81), rem_u: binary(0x82), rotl: binary(0x89), rotr: binary(0x8a),
  extend_i32_s: (x: Code): Code => (constantOf(x) === null ? plain1('i64.extend_i32_s', 0xac)(x) : i64.const(constantOf(x) as bigint)),
  extend_i32_u: (x: Code): Code => (constantOf(x) === null ? plain1('i64.extend_i32_u', 0xad)(x) : i64.const(BigInt.asUintN(32, constantOf(x) as bigint))),
  extend8_s: plain1('i64.extend8_s', 0xc2), extend16_s: plain1('i64.extend16_s', 0xc3), extend32_s: (x: Code): Code => i64.extend_i32_s(narrowed(x)),
};

/** The low 32 bits of a 64-bit expression, computed in 32 bits if possible. */
function narrowed(code: Code): Code {
  const { node } = code;
  const plain: Code = [code, 0xa7];
  if (!node) return plain;
  if (node.value !== undefined) return i32.const(Number(BigInt.asIntN(32, node.value)));
  const x = node.x as Code;
  const y = node.y as Code;
  const { op, offset } = node;
  if (op === 'i64.extend_i32_s' || op === 'i64.extend_i32_u') return x;
  if (op === 'i64.add') return i32.add(narrowed(x), narrowed(y));
  if (op === 'i64.sub') return i32.sub(narrowed(x), narrowed(y));
  if (op === 'i64.mul') return i32.mul(narrowed(x), narrowed(y));
  if (op === 'i64.and') return i32.and(narrowed(x), narrowed(y));
  if (op === 'i64.or') return i32.or(narrowed(x), narrowed(y));
  if (op === 'i64.xor') return i32.xor(narrowed(x), narrowed(y));
  if (op === 'i64.extend8_s') return i32.extend8_s(narrowed(x));
  if (op === 'i64.extend16_s') return i32.extend16_s(narrowed(x));
  if (op === 'i64.load' || op === 'i64.load32_u' || op === 'i64.load32_s') return i32.load(x, offset);
  if (op === 'i64.load16_u') return i32.load16_u(x, offset);
  if (op === 'i64.load8_u') return i32.load8_u(x, offset);
  const count = y ? constantOf(y) : null;
  if (count !== null && count >= 0n && count < 32n) {
    if (op === 'i64.shl') return i32.shl(narrowed(x), i32.const(Number(count)));
    if (op === 'i64.shr_u' && isOp(x, 'i64.extend_i32_u')) return i32.shr_u(x.node?.x as Code, i32.const(Number(count)));
    if (op === 'i64.shr_s' && isOp(x, 'i64.extend_i32_s')) return i32.shr_s(x.node?.x as Code, i32.const(Number(count)));
  }
  return plain;
}

/** A comparison: of 32 bits, when both sides are extended from 32 in the same way, or one is and the other is a constant in its range. */
function comparison(opcode: number, ofSigned: (x: Code, y: Code) => Code, ofUnsigned: (x: Code, y: Code) => Code): (x: Code, y: Code) => Code {
  const fits = (code: Code, kind: string): boolean => {
    if (isOp(code, kind)) return true;
    const value = constantOf(code);
    if (value === null) return false;
    return kind === 'i64.extend_i32_s' ? value === BigInt.asIntN(32, value) : value === BigInt.asUintN(32, value);
  };
  return (x, y) => {
    if (constantOf(x) === null || constantOf(y) === null) {
      if (fits(x, 'i64.extend_i32_s') && fits(y, 'i64.extend_i32_s')) return ofSigned(narrowed(x), narrowed(y));
      if (fits(x, 'i64.extend_i32_u') && fits(y, 'i64.extend_i32_u')) return ofUnsigned(narrowed(x), narrowed(y));
    }
    return [x, y, opcode];
  };
}

/** `condition ? x : y`, both computed. */
export const select = (x: Code, y: Code, condition: Code): Code => [x, y, condition, 0x1b];

export interface Local {
  readonly index: number;
  readonly type: ValueType;
}
const localCode = (opcode: number, index: number): number[] => (index < 0x80 ? [opcode, index] : [opcode, ...unsigned(index)]);
export const get = (local: Local): Code => localCode(0x20, local.index);
export const set = (local: Local, value: Code): Code => [value, localCode(0x21, local.index)];
export const tee = (local: Local, value: Code): Code => [value, localCode(0x22, local.index)];

// ## Control

const resultByte = (result?: ValueType): number => (result ? TYPE_BYTE[result] : NO_RESULT);

/** A branch to `label` leaves the block. */
export const block = (label: Label, body: Code): Code => [new Scope(label, 0x02, NO_RESULT, body)];
/** A branch to `label` starts over. */
export const loop = (label: Label, body: Code): Code => [new Scope(label, 0x03, NO_RESULT, body)];
export const when = (condition: Code, body: Code): Code => (constantOf(condition) === 0n ? [] : conditional(condition, body));
const conditional = (condition: Code, body: Code): Code => [condition, new Scope(null, 0x04, NO_RESULT, body)];
/** `if … else …`; with `result`, both arms leave a value of that type. */
export const either = (condition: Code, yes: Code, no: Code, result?: ValueType): Code => [
  condition,
  new Scope(null, 0x04, resultByte(result), [yes, 0x05, no]),
];
export const br = (to: Label): Code => [0x0c, new Depth(to)];
export const brIf = (to: Label, condition: Code): Code => [condition, 0x0d, new Depth(to)];
/** Goes to `targets[index]`, or to `otherwise`. */
export const brTable = (index: Code, targets: readonly Label[], otherwise: Label): Code => [
  index,
  0x0e,
  ...unsigned(targets.length),
  targets.map((to) => new Depth(to)),
  new Depth(otherwise),
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
/** A call in place of a return: the caller's frame is gone before the callee's is made. */
export const returnCall = (func: Func, ...args: Code[]): Code => [...args, 0x12, ...unsigned(func.index)];
/** The same through the table of functions, for the function type that `module.type` has numbered. */
export const returnCallIndirect = (type: number, slot: Code, ...args: Code[]): Code => [...args, slot, 0x13, ...unsigned(type), 0];

/** Bytes under construction. */
class Bytes {
  bytes = new Uint8Array(4096);
  length = 0;

  room(more: number): void {
    if (this.length + more <= this.bytes.length) return;
    const larger = new Uint8Array(Math.max(2 * this.bytes.length, this.length + more));
    larger.set(this.bytes.subarray(0, this.length));
    this.bytes = larger;
  }
  push(byte: number): void {
    if (this.length === this.bytes.length) this.room(1);
    this.bytes[this.length++] = byte;
  }
  append(bytes: ArrayLike<number>): void {
    this.room(bytes.length);
    this.bytes.set(bytes, this.length);
    this.length += bytes.length;
  }
  get done(): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(0, this.length);
  }
}

/** Turns the tree into bytes. `open` holds the labels of the enclosing scopes, innermost last. */
function flatten(code: Code, open: (Label | null)[], out: Bytes): void {
  const parts = code.length;
  for (let n = 0; n < parts; n++) {
    const part = code[n] as Code[number];
    if (typeof part === 'number') {
      if (out.length === out.bytes.length) out.room(1);
      out.bytes[out.length++] = part;
    } else if (Array.isArray(part)) flatten(part as Code, open, out);
    else if (part instanceof Scope) {
      out.push(part.opcode);
      out.push(part.type);
      open.push(part.label);
      flatten(part.body, open, out);
      open.pop();
      out.push(0x0b);
    } else {
      const at = open.lastIndexOf((part as Depth).to);
      if (at < 0) throw new RangeError('branch to a label that does not enclose it');
      out.append(unsigned(open.length - 1 - at));
    }
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
  encode(code: Code): Uint8Array {
    const out = new Bytes();
    out.append(unsigned(this.#locals.length));
    for (const type of this.#locals) out.append([1, TYPE_BYTE[type]]);
    flatten(code, [null], out);
    out.push(0x0b);
    return out.done;
  }
}

const encoder = new TextEncoder();
const names = new Map<string, readonly number[]>();
/** Names are few, and modules are many. */
function name(text: string): readonly number[] {
  let known = names.get(text);
  if (!known) {
    const bytes = encoder.encode(text);
    known = [...unsigned(bytes.length), ...bytes];
    names.set(text, known);
  }
  return known;
}
const section = (id: number, content: readonly number[]): number[] => [id, ...unsigned(content.length), ...content];
const list = (items: readonly (readonly number[])[]): number[] => [...unsigned(items.length), ...items.flat()];

/** A module with one imported memory `env.memory`, imported functions `env.*`, and exported functions. */
export class WasmModule {
  readonly #signatures: string[] = [];
  readonly #types: number[][] = [];
  readonly #imports: number[][] = [];
  readonly #functions: { type: number; code: Uint8Array }[] = [];
  readonly #exports: number[][] = [];
  #importedFunctions = 0;

  /** @param pages size of the imported memory in 64 KiB pages, which is also its maximum. */
  constructor(pages: number, shared: boolean) {
    this.#imports.push([...name('env'), ...name('memory'), 2, shared ? 3 : 1, ...unsigned(pages), ...unsigned(pages)]);
  }

  /** Declares the imported table `env.code`. */
  importTable(): void {
    this.#imports.push([...name('env'), ...name('code'), 1, 0x70, 0, 0]);
  }

  /** The number of a function type. */
  type(params: readonly ValueType[], results: readonly ValueType[]): number {
    return this.#type({ params, results });
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
    // What is imported while the body is being made comes before it in the numbering.
    const body = new FunctionBody(params);
    const code = body.encode(build(body, ...body.params));
    this.#functions.push({ type: this.#type({ params, results }), code });
    return { index: this.#importedFunctions + this.#functions.length - 1 };
  }

  export(exportName: string, func: Func): void {
    this.#exports.push([...name(exportName), 0, ...unsigned(func.index)]);
  }

  encode(): Uint8Array<ArrayBuffer> {
    const functions = this.#functions.map(({ type }) => unsigned(type));
    const codes = new Bytes();
    codes.append(unsigned(this.#functions.length));
    for (const { code } of this.#functions) {
      codes.append(unsigned(code.length));
      codes.append(code);
    }
    const out = new Bytes();
    out.append([0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    out.append(section(1, list(this.#types)));
    out.append(section(2, list(this.#imports)));
    out.append(section(3, list(functions)));
    out.append(section(7, list(this.#exports)));
    out.push(10);
    out.append(unsigned(codes.length));
    out.append(codes.done);
    return out.done;
  }
}
