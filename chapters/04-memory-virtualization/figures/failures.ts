import { table } from '../../01-hardware-background/figures/drawing.ts';
import { EPT_ACCESS, EPT_QUALIFICATION, EptWalker } from '../../01-hardware-background/mmu/ept.ts';
import { PF } from '../../01-hardware-background/mmu/paging.ts';
import { PAGE_BYTES, PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import { EXIT_REASON } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { RamOwners } from '../../02-kvm-objects/soft/memory.ts';
import { EptTables, LEVEL, RIGHTS } from '../kernel/ept-tables.ts';
import { EXIT_NPF, NestedTables, NPF, NptWalker } from '../npt/npt.ts';

const RAM = 1 << 20;
const HPA = 0x8000;
const { READ, WRITE, FETCH } = EPT_ACCESS;
const { LINEAR_VALID, FINAL } = EPT_QUALIFICATION.mask;
const PRESENT_USER = 5;
const RESERVED_HIGH = 1 << 19; // bit 51 of the entry

interface Case {
  readonly what: string;
  readonly rights: number | 'none' | 'device';
  readonly kind: number;
  readonly table?: boolean;
}
const CASES: readonly Case[] = [
  { what: 'read, nothing there', rights: 'none', kind: READ },
  { what: 'write, read-only', rights: RIGHTS.READ | RIGHTS.EXECUTE, kind: WRITE },
  { what: 'fetch, not executable', rights: RIGHTS.READ | RIGHTS.WRITE, kind: FETCH },
  { what: 'a table, read-only', rights: RIGHTS.READ | RIGHTS.EXECUTE, kind: READ | WRITE, table: true },
  { what: 'read, a device’s mark', rights: 'device', kind: READ },
];

/** Each failure as Intel's and as AMD's processor reports it. */
export function render(): string {
  const memory = new PhysicalMemory({ ramBytes: RAM, privateBytes: RAM });
  const owners = new RamOwners(memory);
  const ept = new EptTables(memory, owners);
  const npt = new NestedTables(memory, () => owners.kernelPages());
  const rows = CASES.map(({ what, rights, kind, table: isTable }, n) => {
    const gpa = (n + 1) * PAGE_BYTES;
    if (rights === 'device') {
      ept.markMmio(gpa);
      npt.poke(gpa, LEVEL.PAGE_4K, PRESENT_USER, RESERVED_HIGH);
    } else if (rights !== 'none') {
      ept.map(gpa, LEVEL.PAGE_4K, HPA, rights);
      npt.map(gpa, HPA, { write: (rights & RIGHTS.WRITE) !== 0, execute: (rights & RIGHTS.EXECUTE) !== 0 });
    }
    const access = { kind, origin: isTable ? LINEAR_VALID : LINEAR_VALID | FINAL, linear: 0n };
    const [intel, amd] = [new EptWalker(memory, null), new NptWalker(memory)];
    for (const [walker, { root }] of [[intel, ept] as const, [amd, npt] as const])
      if (walker.find({ root, accessedDirty: true, executeOnly: true }, gpa, access) >= 0) throw new Error(`${what}: did not fail`);
    const { reason = 0, qualification = 0n } = intel.refusal ?? {};
    const { reason: code = 0, qualification: info = 0n } = amd.refusal ?? {};
    if (code !== EXIT_NPF) throw new Error('AMD has one exit for all of them');
    const part = info & NPF.FINAL ? 'page' : 'table';
    return [
      what,
      reason === EXIT_REASON.EPT_MISCONFIG
        ? 'misconfiguration'
        : `violation: ${EPT_QUALIFICATION.describe(Number(qualification)).replace(' LINEAR_VALID', '')}`,
      `${PF.describe(Number(info & 0xffff_ffffn))}, ${part}`,
    ];
  });
  return table('Failures of the second stage, as each vendor reports them', ['access', 'VT-x: exit and qualification', 'SVM: EXITINFO1'], rows);
}
