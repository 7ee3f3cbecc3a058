// # Functions that may be called from a region
//
// While a region runs, general registers and flags are in its variables, and what memory holds of them is old. A library function that reads them from
// there, or writes them, would go wrong; and one that changes the mode of the processor or asks for attention would not be noticed. What a function touches is
// found out as for micro-operations: by having it written, for somebody who only listens.

import { OFFSET } from '../../state.ts';
import { LIBRARY, type StateAccess } from '../micro-ops/library.ts';
import { type Code, i32, i64, type Local, type ValueType } from '../wasm-assembler.ts';
import { v128 } from '../wasm-vectors.ts';

const SLOTS_END = 512;
/** Control words that only the interpreter and TypeScript may write. Reading them is harmless, except for the time. */
const CONTROL_END = 0x280;
const mayRead = (offset: number): boolean => offset >= SLOTS_END && offset !== OFFSET.ICOUNT;
const mayWrite = (offset: number): boolean => offset >= CONTROL_END;

const verdicts = new Map<string, boolean>();

/** True when a library function leaves alone what a region keeps to itself. */
export function isDetached(name: string): boolean {
  const known = verdicts.get(name);
  if (known !== undefined) return known;
  let fine = true;
  const reads = (offset: number): void => {
    fine &&= mayRead(offset);
  };
  const writes = (offset: number): void => {
    fine &&= mayWrite(offset);
  };
  let locals = 0;
  const local = (type: ValueType): Local => ({ index: locals++, type });
  const listener: StateAccess = {
    state: (offset) => {
      reads(offset);
      writes(offset);
      return i32.const(0);
    },
    field: (offset) => {
      reads(offset);
      return i64.const(0n);
    },
    field32: (offset) => {
      reads(offset);
      return i32.const(0);
    },
    fieldVector: (offset) => {
      reads(offset);
      return v128.const(0n, 0n);
    },
    setField: (offset): Code => {
      writes(offset);
      return [];
    },
    setField32: (offset): Code => {
      writes(offset);
      return [];
    },
    setFieldVector: (offset): Code => {
      writes(offset);
      return [];
    },
    local,
    call: (other): Code => {
      fine &&= isDetached(other);
      return [];
    },
  };
  const definition = LIBRARY.get(name);
  if (definition) definition.build(listener, ...definition.params.map(local));
  verdicts.set(name, fine);
  return fine;
}
