// # Changing worlds
//
// Between the register file and the guest-state area there is a table of pairs. VM entry copies it one way, VM exit the other, and because both sides
// keep the hidden parts of segment registers in the same form, most of a world switch is a loop over words. It matters that this loop is short: a
// hypervisor passes through it at every exit, and a guest that does nothing but I/O exits for every instruction.

import { writeFlags } from '../engine/flags.ts';
import { AR, CR0, CR4, EFER, OFFSET, SEG, SEGMENT_BYTES, SLOT } from '../state.ts';
import { secondary } from './checks.ts';
import { CPU_BASED, ENTRY, EXIT, SECONDARY } from './controls.ts';
import { INTERRUPTIBILITY } from './exit-reasons.ts';
import type { VmxProcessor } from './processor.ts';
import { AT, type FieldName, type Vmcs } from './vmcs.ts';

const SLOT_BYTES = 8;

/** Register-file byte offset, VMCS cell, and how many 32-bit words the register has. Fields narrower than their cell leave its upper half 0. */
type Pair = readonly [offset: number, cell: number, words: 1 | 2];

const SEGMENT_NAMES = Object.keys(SEG) as (keyof typeof SEG)[];
const segmentPairs = (name: keyof typeof SEG): Pair[] => {
  const at = OFFSET.SEGMENTS + SEG[name] * SEGMENT_BYTES;
  const cell = (part: string): number => AT[`GUEST_${name}_${part}` as FieldName];
  return [
    [at, cell('BASE'), 2],
    [at + 8, cell('LIMIT'), 1],
    [at + 12, cell('AR_BYTES'), 1],
    [at + 16, cell('SELECTOR'), 1],
  ];
};

/** Registers that are copied both ways at every switch. CR0, RIP, RFLAGS and what a control makes optional are handled apart. */
const PAIRS: readonly Pair[] = [
  [SLOT.RSP * SLOT_BYTES, AT.GUEST_RSP, 2],
  [OFFSET.CR3, AT.GUEST_CR3, 2],
  [OFFSET.CR4, AT.GUEST_CR4, 2],
  [OFFSET.GDTR_BASE, AT.GUEST_GDTR_BASE, 2],
  [OFFSET.GDTR_LIMIT, AT.GUEST_GDTR_LIMIT, 1],
  [OFFSET.IDTR_BASE, AT.GUEST_IDTR_BASE, 2],
  [OFFSET.IDTR_LIMIT, AT.GUEST_IDTR_LIMIT, 1],
  [OFFSET.SYSENTER_CS, AT.GUEST_SYSENTER_CS, 2],
  [OFFSET.SYSENTER_ESP, AT.GUEST_SYSENTER_ESP, 2],
  [OFFSET.SYSENTER_EIP, AT.GUEST_SYSENTER_EIP, 2],
  [OFFSET.SHADOW, AT.GUEST_INTERRUPTIBILITY_INFO, 1],
  [OFFSET.ACTIVITY, AT.GUEST_ACTIVITY_STATE, 1],
  ...SEGMENT_NAMES.flatMap(segmentPairs),
];

// The loop runs over words, as two parallel lists of word offsets.
const words = PAIRS.flatMap(([offset, cell, count]) => Array.from({ length: count }, (_, i) => [(offset >> 2) + i, (cell >> 2) + i] as const));
const STATE_WORD = Int32Array.from(words, ([state]) => state);
const CELL_WORD = Int32Array.from(words, ([, cell]) => cell);

const PDPTR_CELLS = [AT.GUEST_PDPTR0, AT.GUEST_PDPTR1, AT.GUEST_PDPTR2, AT.GUEST_PDPTR3];

const usesEpt = (v: Vmcs): boolean => (secondary(v) & SECONDARY.mask.ENABLE_EPT) !== 0;
const CR0_KEPT = CR0.CD | CR0.NW;

/** True when the words in the register file select PAE paging, whose four top entries are registers. */
const inPaePaging = ({ state }: VmxProcessor): boolean =>
  (state.low32(OFFSET.CR0) & CR0.PG) !== 0 && (state.low32(OFFSET.CR4) & CR4.PAE) !== 0 && (state.low32(OFFSET.EFER) & EFER.LMA) === 0;

/** PAE paging without EPT: the four registers come from where CR3 points. */
function loadPdptes(cpu: VmxProcessor): void {
  const { memory, state } = cpu;
  const table = (state.low32(OFFSET.CR3) & ~0x1f) >>> 0;
  for (let i = 0; i < 4; i++) cpu.pdptes[i] = memory.holds(table + 8 * i, 8) ? memory.view.getBigUint64(memory.offset(table + 8 * i, 8), true) : 0n;
}

const copy64 = (cpu: VmxProcessor, offset: number, v: Vmcs, cell: number): void => {
  cpu.state.u32[offset >> 2] = v.read32(cell);
  cpu.state.u32[(offset >> 2) + 1] = v.high32(cell);
};
const store64 = (cpu: VmxProcessor, offset: number, v: Vmcs, cell: number): void => {
  v.write32(cell, cpu.state.u32[offset >> 2] as number);
  v.write32(cell + 4, cpu.state.u32[(offset >> 2) + 1] as number);
};

/** Adds the VMCS' TSC offset to the counter's, or takes it away: modulo 2^64, as the counter is. */
function offsetTsc(cpu: VmxProcessor, v: Vmcs, direction: 1 | -1): void {
  if ((v.read32(AT.CPU_BASED_VM_EXEC_CONTROL) & CPU_BASED.mask.USE_TSC_OFFSETTING) === 0) return;
  const { u32 } = cpu.state;
  const at = OFFSET.TSC_OFFSET >> 2;
  const low = (u32[at] as number) + direction * v.read32(AT.TSC_OFFSET);
  const carry = low > 0xffff_ffff ? 1 : low < 0 ? -1 : 0;
  u32[at] = low;
  u32[at + 1] = (u32[at + 1] as number) + direction * v.high32(AT.TSC_OFFSET) + carry;
}

/** Loads the guest-state area into the register file. All checks have passed. The caller announces the change of mode. */
export function loadGuestState(cpu: VmxProcessor, v: Vmcs): void {
  const { state } = cpu;
  const all = v.words;
  const cell = v.word;
  const base = state.base >>> 2;
  for (let i = 0; i < STATE_WORD.length; i++) all[base + (STATE_WORD[i] as number)] = all[cell + (CELL_WORD[i] as number)] as number;
  const { u32 } = state;
  for (let half = 0; half < 2; half++) {
    const now = u32[(OFFSET.ICOUNT >> 2) + half] as number;
    u32[(OFFSET.SHADOW_AT >> 2) + half] = now; // blocking by STI or MOV SS is for the first instruction
    u32[(OFFSET.RESUME_AT >> 2) + half] = now;
  }

  // CR0.ET is always 1, and the caching bits are the core's, not the guest's.
  // @clause vmx.entry.load-cr0
  state.u32[OFFSET.CR0 >> 2] = (v.read32(AT.GUEST_CR0) & ~CR0_KEPT) | CR0.ET | (state.low32(OFFSET.CR0) & CR0_KEPT);
  state.u32[(OFFSET.CR0 >> 2) + 1] = 0;

  const controls = v.read32(AT.VM_ENTRY_CONTROLS);
  const long = (controls & ENTRY.mask.IA32E_MODE) !== 0;
  if (controls & ENTRY.mask.LOAD_DEBUG_CONTROLS) {
    copy64(cpu, OFFSET.DR7, v, AT.GUEST_DR7);
    copy64(cpu, OFFSET.DEBUGCTL, v, AT.GUEST_IA32_DEBUGCTL);
  }
  if (controls & ENTRY.mask.LOAD_IA32_PAT) copy64(cpu, OFFSET.PAT, v, AT.GUEST_IA32_PAT);
  if (controls & ENTRY.mask.LOAD_IA32_EFER) copy64(cpu, OFFSET.EFER, v, AT.GUEST_IA32_EFER);
  else {
    // @clause vmx.entry.load-efer-lma
    const paging = (v.read32(AT.GUEST_CR0) & CR0.PG) !== 0;
    const changed = EFER.LMA | (paging ? EFER.LME : 0);
    state.u32[OFFSET.EFER >> 2] = (state.low32(OFFSET.EFER) & ~changed) | (long ? changed : 0);
  }

  state.set32(OFFSET.CPL, (state.segRights(SEG.SS) & AR.DPL) >> AR.DPL_SHIFT);
  copy64(cpu, SLOT.RIP * SLOT_BYTES, v, AT.GUEST_RIP);
  copy64(cpu, SLOT.NEXT_RIP * SLOT_BYTES, v, AT.GUEST_RIP);
  writeFlags(state, v.read32(AT.GUEST_RFLAGS));
  offsetTsc(cpu, v, 1);

  if (inPaePaging(cpu)) {
    if (usesEpt(v)) for (let i = 0; i < 4; i++) cpu.pdptes[i] = v.read64(PDPTR_CELLS[i] as number);
    else loadPdptes(cpu);
  }
}

/** Saves the register file into the guest-state area. `rip` says which instruction pointer counts; `rflags`, what the RFLAGS field becomes. */
export function saveGuestState(cpu: VmxProcessor, v: Vmcs, rip: typeof SLOT.RIP | typeof SLOT.NEXT_RIP, rflags: number): void {
  const { state } = cpu;
  const all = v.words;
  const cell = v.word;
  const base = state.base >>> 2;
  for (let i = 0; i < STATE_WORD.length; i++) all[cell + (CELL_WORD[i] as number)] = all[base + (STATE_WORD[i] as number)] as number;

  store64(cpu, OFFSET.CR0, v, AT.GUEST_CR0);
  const controls = v.read32(AT.VM_EXIT_CONTROLS);
  if (controls & EXIT.mask.SAVE_DEBUG_CONTROLS) {
    store64(cpu, OFFSET.DR7, v, AT.GUEST_DR7);
    store64(cpu, OFFSET.DEBUGCTL, v, AT.GUEST_IA32_DEBUGCTL);
  }
  if (controls & EXIT.mask.SAVE_IA32_PAT) store64(cpu, OFFSET.PAT, v, AT.GUEST_IA32_PAT);
  if (controls & EXIT.mask.SAVE_IA32_EFER) store64(cpu, OFFSET.EFER, v, AT.GUEST_IA32_EFER);
  store64(cpu, rip * SLOT_BYTES, v, AT.GUEST_RIP);
  v.write32(AT.GUEST_RFLAGS, rflags);
  v.write32(AT.GUEST_RFLAGS + 4, 0);
  offsetTsc(cpu, v, -1);

  // An unrestricted guest switches IA-32e mode on and off by itself; the entry control follows it, so that the next entry returns to where it was.
  // @clause vmx.exit.save-lma
  const lma = state.low32(OFFSET.EFER) & EFER.LMA ? ENTRY.mask.IA32E_MODE : 0;
  v.write32(AT.VM_ENTRY_CONTROLS, (v.read32(AT.VM_ENTRY_CONTROLS) & ~ENTRY.mask.IA32E_MODE) | lma);
  if (usesEpt(v) && inPaePaging(cpu)) for (let i = 0; i < 4; i++) v.write64(PDPTR_CELLS[i] as number, cpu.pdptes[i] as bigint);
}

// ## Back to the host
//
// The host half of the VMCS is not symmetrical. It holds no limits, no access rights and no RFLAGS, because a VM exit does not *restore* the host, it
// *establishes* one: flat segments, interrupts off, debug registers quiet, execution at one fixed RIP. Fewer fields to write, fewer checks, a faster
// exit -- and a hypervisor that wants its old TR limit or its debug registers back reloads them itself, as KVM does.

const HOST_SEGMENTS = SEGMENT_NAMES.filter((name) => name !== 'LDTR').map((name) => SEG[name]);
const HOST_SELECTORS = SEGMENT_NAMES.filter((name) => name !== 'LDTR').map((name) => AT[`HOST_${name}_SELECTOR` as FieldName]);
const CODE = AR.P | AR.S | AR.CODE | AR.READABLE | AR.ACCESSED | AR.G;
const DATA = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED | AR.DB | AR.G;
const BUSY_TSS = AR.P | 0xb;
const HOST_TSS_LIMIT = 0x67;
const DR7_RESET = 0x400n;

/** Loads the host-state area. `nmiBlocked`: the exit was caused by an NMI, or came while NMIs were really blocked. */
export function loadHostState(cpu: VmxProcessor, v: Vmcs, nmiBlocked: boolean): void {
  const { state } = cpu;
  const controls = v.read32(AT.VM_EXIT_CONTROLS);
  const long = (controls & EXIT.mask.HOST_ADDR_SPACE_SIZE) !== 0;

  // @clause vmx.exit.load-host-control
  state.u32[OFFSET.CR0 >> 2] = (v.read32(AT.HOST_CR0) & ~CR0_KEPT) | CR0.ET | (state.low32(OFFSET.CR0) & CR0_KEPT);
  state.u32[(OFFSET.CR0 >> 2) + 1] = 0;
  copy64(cpu, OFFSET.CR3, v, AT.HOST_CR3);
  copy64(cpu, OFFSET.CR4, v, AT.HOST_CR4);
  state.set64(OFFSET.DR7, DR7_RESET);
  state.set64(OFFSET.DEBUGCTL, 0n);
  copy64(cpu, OFFSET.SYSENTER_CS, v, AT.HOST_IA32_SYSENTER_CS);
  copy64(cpu, OFFSET.SYSENTER_ESP, v, AT.HOST_IA32_SYSENTER_ESP);
  copy64(cpu, OFFSET.SYSENTER_EIP, v, AT.HOST_IA32_SYSENTER_EIP);
  if (controls & EXIT.mask.LOAD_IA32_PAT) copy64(cpu, OFFSET.PAT, v, AT.HOST_IA32_PAT);
  if (controls & EXIT.mask.LOAD_IA32_EFER) copy64(cpu, OFFSET.EFER, v, AT.HOST_IA32_EFER);
  else state.u32[OFFSET.EFER >> 2] = (state.low32(OFFSET.EFER) & ~(EFER.LMA | EFER.LME)) | (long ? EFER.LMA | EFER.LME : 0);

  // @clause vmx.exit.load-host-segments
  const { u32 } = state;
  for (let n = 0; n < HOST_SEGMENTS.length; n++) {
    const seg = HOST_SEGMENTS[n] as number;
    const selector = v.read32(HOST_SELECTORS[n] as number) & 0xffff;
    const at32 = (OFFSET.SEGMENTS + seg * SEGMENT_BYTES) >> 2;
    u32[at32] = 0;
    u32[at32 + 1] = 0;
    u32[at32 + 2] = seg === SEG.TR ? HOST_TSS_LIMIT : 0xffff_ffff;
    u32[at32 + 3] = seg === SEG.CS ? CODE | (long ? AR.L : AR.DB) : seg === SEG.TR ? BUSY_TSS : selector === 0 ? AR.UNUSABLE : DATA;
    u32[at32 + 4] = selector;
  }
  const base = (seg: number): number => OFFSET.SEGMENTS + seg * SEGMENT_BYTES;
  copy64(cpu, base(SEG.FS), v, AT.HOST_FS_BASE);
  copy64(cpu, base(SEG.GS), v, AT.HOST_GS_BASE);
  copy64(cpu, base(SEG.TR), v, AT.HOST_TR_BASE);
  state.setSegSelector(SEG.LDTR, 0);
  state.setSegRights(SEG.LDTR, AR.UNUSABLE);
  copy64(cpu, OFFSET.GDTR_BASE, v, AT.HOST_GDTR_BASE);
  copy64(cpu, OFFSET.IDTR_BASE, v, AT.HOST_IDTR_BASE);
  state.set32(OFFSET.GDTR_LIMIT, 0xffff);
  state.set32(OFFSET.IDTR_LIMIT, 0xffff);

  copy64(cpu, SLOT.RSP * SLOT_BYTES, v, AT.HOST_RSP);
  copy64(cpu, SLOT.RIP * SLOT_BYTES, v, AT.HOST_RIP);
  copy64(cpu, SLOT.NEXT_RIP * SLOT_BYTES, v, AT.HOST_RIP);
  writeFlags(state, 2);
  state.set32(OFFSET.CPL, 0);
  state.set32(OFFSET.ACTIVITY, 0);
  state.set32(OFFSET.SHADOW, nmiBlocked ? INTERRUPTIBILITY.mask.NMI : 0);
  if (inPaePaging(cpu)) loadPdptes(cpu);
}
