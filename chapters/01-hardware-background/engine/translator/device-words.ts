// # Which accesses may be a device's
//
// An instruction that translated code cannot complete is left to the interpreter, from its beginning. A device must not be asked a second time then. So translated code
// asks one only where nothing else in the instruction can go wrong afterwards (see `device-access.ts`). Whether it can will be known when the rest of the instruction has
// been written. Until then the word that goes with the access, which says so, can be changed.

import { MAY_BE_DEVICE } from '../interpreter-functions.ts';
import { ACCESS } from '../surroundings.ts';
import { type Code, i32 } from '../wasm-assembler.ts';

/** The words of one instruction's accesses, while it is being written. */
export class DeviceWords {
  #waysOut = 0;
  #accesses: { readonly word: Code[number][]; readonly info: number }[] = [];

  /** Another instruction. */
  begin(): void {
    this.#accesses = [];
  }
  /** The instruction can be left here. */
  wayOut(): void {
    this.#waysOut++;
  }
  /** The word of an access that says `info` besides. The access is a way out by itself. */
  word(info: number, bytes: number, access: number): Code {
    if (bytes > 4 || access === ACCESS.MODIFY) return i32.const(info);
    const word = [...i32.const(info | MAY_BE_DEVICE)];
    this.#accesses.push({ word, info });
    return word;
  }

  /** Writes a micro-operation. If it has a way out, the accesses before it may not be a device's; if it has several, nor may its own, for their order is not known. */
  micro(write: () => Code): Code {
    const before = this.#accesses.length;
    const ways = this.#waysOut;
    const code = write();
    const more = this.#waysOut - ways;
    const single = more === 1 && this.#accesses.length === before + 1;
    if (more > 0) for (const { word, info } of this.#accesses.slice(0, single ? before : undefined)) word.splice(0, word.length, ...i32.const(info));
    return code;
  }
}
