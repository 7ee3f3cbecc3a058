// The chapter's recorded runs, which its sentences and figures quote.

import { Builder } from '../isa/builder.ts';
import { decode } from '../isa/decoder.ts';
import { FORMAT, PHYSICAL_ADDRESS_BITS } from '../mmu/paging.ts';
import { RootMachine, World } from '../monitors/non-root.ts';
import { specimen } from '../monitors/specimen.ts';
import { CR0, CR4, EFER, MODE } from '../state.ts';
import { Recorder } from '../trace.ts';
import { CAPABILITY, ENTRY } from '../vmx/controls.ts';

export { bareMetal } from '../monitors/bare-metal.ts';
export { binaryTranslation } from '../monitors/binary-translation.ts';
export { hardwareAssisted } from '../monitors/hardware-assisted.ts';
export { crossingsOf, models } from '../monitors/models.ts';
export { sensitiveCount, silentCount } from '../monitors/sensitive.ts';
export { trapAndEmulate } from '../monitors/trap-and-emulate.ts';
export { specimen };
export const physicalAddressBits = PHYSICAL_ADDRESS_BITS;

const CODE_LINEAR = 0x7f80_4020_1000n;
const CODE_GPA = 0x1000;
const GUEST_TABLES = 0x8000;
const HLT = 0xf4;

/** One reference of a walk. */
interface Reference {
  readonly stage: 1 | 2;
  readonly level: number;
  readonly entry: number;
}

/** A guest in 64-bit mode with page tables of its own fetches its first instruction, with nothing in the TLB: every reference that the processor made. */
export function nestedWalk(): readonly Reference[] {
  const trace = new Recorder({ only: ['walk'] });
  const machine = new RootMachine(1, trace);
  const world = new World(machine, 0, { entry: 0, stackTop: 0 });
  let table = GUEST_TABLES;
  for (const { level, shift } of FORMAT.level4.levels) {
    const entry = table + 8 * Number((CODE_LINEAR >> BigInt(shift)) & 0x1ffn);
    const next = level === 1 ? CODE_GPA : table + 0x1000;
    machine.words(world.ram + entry, [BigInt(next) | 3n]);
    table = next;
  }
  world.load(CODE_GPA, [HLT]);
  world.write({
    VM_ENTRY_CONTROLS: (CAPABILITY.entry.trueDefault1 | ENTRY.mask.LOAD_IA32_EFER | ENTRY.mask.IA32E_MODE) >>> 0,
    GUEST_CR0: BigInt(CR0.PE | CR0.NE | CR0.ET) | BigInt(CR0.PG),
    GUEST_CR3: GUEST_TABLES,
    GUEST_CR4: CR4.VMXE | CR4.PAE,
    GUEST_IA32_EFER: EFER.LME | EFER.LMA,
    GUEST_CS_AR_BYTES: 0xa09b,
    GUEST_RIP: CODE_LINEAR,
  });
  const before = trace.events.length;
  const reason = world.enter();
  if (reason !== 'HLT') throw new Error(`the guest of the nested walk left by ${reason}`);
  return trace.of('walk').slice(before);
}

/** What the walk costs, counted from its trace: levels of the guest's tables, references with the second stage, and without. */
export function walkCost(): { readonly levels: number; readonly nested: number; readonly native: number } {
  const walk = nestedWalk();
  const native = walk.filter(({ stage }) => stage === 1).length;
  return { levels: native, nested: walk.length, native };
}

/** Micro-operations of the specimen's listing, for one instruction on average. The first of each instruction's keeps the time and the address. */
export function microOpsPerInstruction(): number {
  const mode = MODE.CODE32 | MODE.STACK32 | MODE.FLAT | MODE.PROTECTED;
  const counts = specimen.listing.map(({ bytes }) => {
    const decoded = decode(Uint8Array.from(bytes), 0, bytes.length, mode);
    if (typeof decoded === 'string') throw new Error(`the specimen has an instruction that does not decode: ${decoded}`);
    const { build, system } = decoded.encoding.definition;
    const builder = new Builder(decoded.insn, decoded.encoding, mode);
    if (!system) build?.(builder);
    return 1 + (system ? 1 : builder.micros.length);
  });
  return counts.reduce((sum, count) => sum + count, 0) / counts.length;
}
