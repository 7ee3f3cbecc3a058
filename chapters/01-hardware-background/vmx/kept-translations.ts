// # Translations that outlive an exit
//
// The TLB of this processor has no tags, so it can hold one context's translations. When the next entry is into the very context that the last exit
// left, they are still good: same VMCS and VPID, same EPT, and nothing changed in between that paging depends on.
//
// The comparison is made at every exit and every entry. So what is compared lies in arrays that are made once.

import { CR0, CR4, EFER, FLAG, OFFSET } from '../state.ts';
import type { VmxUnit } from './vmx.ts';

const [VMCS, VPID, EPT, CR0_AT, CR3_AT, CR4_AT, EFER_AT, AC, PAE] = [0, 1, 2, 3, 4, 5, 6, 7, 8] as const;
const NUMBERS = 9;

export class KeptTranslations {
  readonly #then = new Float64Array(NUMBERS);
  readonly #now = new Float64Array(NUMBERS);
  /** The page-directory pointers, with PAE paging: registers that the guest sees only through its translations. */
  readonly #pdptes = new BigUint64Array(4);
  /** There are some, of the context noted last. */
  valid = false;

  /** Those of this VMCS are kept. */
  isOf(vmcs: number): boolean {
    return this.valid && this.#then[VMCS] === vmcs;
  }

  /** Notes what the translations in the TLB depend on now, in the guest. False when they cannot be kept: no VPID, or no EPT. */
  note(unit: VmxUnit): boolean {
    if (!read(unit, this.#then)) return false;
    if (this.#then[PAE]) this.#pdptes.set(unit.cpu.pdptes);
    return true;
  }

  /** Is all of that as it was? */
  matches(unit: VmxUnit): boolean {
    if (!this.valid || !read(unit, this.#now)) return false;
    for (let n = 0; n < NUMBERS; n++) if (this.#now[n] !== this.#then[n]) return false;
    if (this.#then[PAE]) for (let n = 0; n < 4; n++) if (this.#pdptes[n] !== unit.cpu.pdptes[n]) return false;
    return true;
  }
}

function read({ cpu: { state }, vmcs, intercepts: { vpid, ept } }: VmxUnit, into: Float64Array): boolean {
  if (vpid === 0 || ept === null) return false;
  const cr0 = state.low32(OFFSET.CR0);
  const cr4 = state.low32(OFFSET.CR4);
  const efer = state.low32(OFFSET.EFER);
  into[VMCS] = vmcs.address;
  into[VPID] = vpid;
  into[EPT] = ept.root;
  into[CR0_AT] = cr0;
  into[CR3_AT] = state.getNumber(OFFSET.CR3);
  into[CR4_AT] = cr4;
  into[EFER_AT] = efer;
  into[AC] = state.get32(OFFSET.RFLAGS) & FLAG.AC;
  into[PAE] = Number((cr0 & CR0.PG) !== 0 && (cr4 & CR4.PAE) !== 0 && (efer & EFER.LMA) === 0);
  return true;
}
