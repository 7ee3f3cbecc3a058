// # Library functions
//
// Some meanings are too long to be written out at each place that needs them: the addition of two 80-bit numbers is a hundred operations. They
// are functions. Each is written once, in the same words as micro-operations are, and becomes a WebAssembly function in the module of the interpreter. That
// module exports it, so whatever else runs guest code can import it from there.

import type { Code, Local, ValueType } from '../wasm-assembler.ts';

/** What library functions, and micro-operations, can say about the register file. Offsets are those of `state.ts`. */
export interface StateAccess {
  /** The i32 buffer address of the field at `offset`. */
  state(offset: number): Code;
  field(offset: number): Code;
  field32(offset: number): Code;
  fieldVector(offset: number): Code;
  setField(offset: number, value: Code): Code;
  setField32(offset: number, value: Code): Code;
  setFieldVector(offset: number, value: Code): Code;
  /** A fresh local variable. In a micro-operation it lives as long as that does. */
  local(type: ValueType): Local;
  /** Calls a library function. @throws RangeError when there is none of that name. */
  call(name: string, ...args: Code[]): Code;
}

/** A function of the library: its signature, and its body in terms of its parameters. A body leaves its results on the stack. */
export interface LibraryFunction {
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
  readonly build: (s: StateAccess, ...params: Local[]) => Code;
}

/** All library functions by name. Each may call those defined before it. */
export const LIBRARY = new Map<string, LibraryFunction>();

/** Adds a function to the library. @throws RangeError when the name is taken. */
export function defineFunction(name: string, params: readonly ValueType[], results: readonly ValueType[], build: LibraryFunction['build']): void {
  if (LIBRARY.has(name)) throw new RangeError(`library function ${name} is defined twice`);
  LIBRARY.set(name, { params, results, build });
}
