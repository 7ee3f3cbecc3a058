import { describe, expect, it } from 'vitest';
import { Fault, VmExit } from '../faults.ts';
import type { EptContext } from '../intercepts.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { CpuState, CR0, CR4, EFER, FLAG, OFFSET } from '../state.ts';
import { Recorder } from '../trace.ts';
import { ACCESS, Mmu, PRIVILEGE } from './mmu.ts';
import { TLB } from './tlb.ts';

// A memory, a register file and an MMU, without a processor around them.
const RAM = 4 << 20;

interface Machine {
  memory: PhysicalMemory;
  state: CpuState;
  mmu: Mmu;
  trace: Recorder;
  host: { ept: EptContext | null; code: Set<number>; written: number[]; devices: number[] };
  poke(address: number, value: bigint, bytes?: 4 | 8): void;
  peek(address: number, bytes?: 4 | 8): bigint;
}

function machine(): Machine {
  const memory = new PhysicalMemory({ ramBytes: RAM, privateBytes: 4 << 20 });
  const state = new CpuState(memory);
  const trace = new Recorder();
  const host = { ept: null as EptContext | null, code: new Set<number>(), written: [] as number[], devices: [] as number[] };
  const mmu = new Mmu({
    memory,
    state,
    trace,
    bus: {
      read: (address, bytes) => {
        host.devices.push(address);
        return (1n << BigInt(8 * bytes)) - 1n;
      },
      write: (address) => void host.devices.push(address),
    },
    ept: () => host.ept,
    holdsCode: (hpa) => host.code.has(hpa - (hpa % 4096)),
    codeWritten: (hpa) => void host.written.push(hpa),
    mappingsChanged: () => {},
  });
  const at = (address: number): number => memory.offset(address, 8);
  return {
    memory,
    state,
    mmu,
    trace,
    host,
    poke: (address, value, bytes = 8) =>
      bytes === 8 ? memory.view.setBigUint64(at(address), value, true) : memory.view.setUint32(at(address), Number(value), true),
    peek: (address, bytes = 8) => (bytes === 8 ? memory.view.getBigUint64(at(address), true) : BigInt(memory.view.getUint32(at(address), true))),
  };
}

const P = 1n;
const W = 2n;
const U = 4n;
const A = 0x20n;
const D = 0x40n;
const PS = 0x80n;
const G = 0x100n;
const NX = 1n << 63n;
const ROOT = 0x1000;
const TARGET = 0x200000; // 2 MiB: aligned for every large page that fits RAM, but for 4 MiB and 1 GiB, which map from 0

/** The formats under test: how to build the one path to `linear`, and where its entries are. */
interface Shape {
  name: string;
  linear: bigint;
  target: number;
  cr4: number;
  efer: number;
  bytes: 4 | 8;
  /** Entry addresses from the root down, and the fixed bits of each. */
  entries: { at: number; base: bigint }[];
  pdpte?: boolean;
}

const index = (linear: bigint, shift: bigint, mask: bigint): number => Number((linear >> shift) & mask);
const LINEAR = 0x12345678n;
const SMALL = 0xffff_ffff_8123_4567n & 0xffffffffffffffffn;

function shape4(name: string, linear: bigint, leafLevel: 1 | 2 | 3): Shape {
  const entries: Shape['entries'] = [];
  for (let level = 4; level >= leafLevel; level--) {
    const table = ROOT + (4 - level) * 0x1000;
    const at = table + 8 * index(linear, BigInt(12 + 9 * (level - 1)), 0x1ffn);
    const next = level === leafLevel ? BigInt(leafLevel === 3 ? 0 : TARGET) | (leafLevel > 1 ? PS : 0n) : BigInt(table + 0x1000);
    entries.push({ at, base: next });
  }
  const size = 2 ** (12 + 9 * (leafLevel - 1));
  const inside = Number(linear % BigInt(size));
  return { name, linear, target: (leafLevel === 3 ? 0 : TARGET) + inside, cr4: CR4.PAE, efer: EFER.LME | EFER.LMA, bytes: 8, entries };
}

const SHAPES: Shape[] = [
  {
    name: '32-bit, 4 KiB',
    linear: LINEAR,
    target: TARGET + 0x678,
    cr4: 0,
    efer: 0,
    bytes: 4,
    entries: [
      { at: ROOT + 4 * index(LINEAR, 22n, 0x3ffn), base: 0x2000n },
      { at: 0x2000 + 4 * index(LINEAR, 12n, 0x3ffn), base: BigInt(TARGET) },
    ],
  },
  {
    name: '32-bit, 4 MiB',
    linear: LINEAR,
    target: Number(LINEAR % 0x400000n),
    cr4: CR4.PSE,
    efer: 0,
    bytes: 4,
    entries: [{ at: ROOT + 4 * index(LINEAR, 22n, 0x3ffn), base: PS }],
  },
  {
    name: 'PAE, 4 KiB',
    linear: LINEAR,
    target: TARGET + 0x678,
    cr4: CR4.PAE,
    efer: 0,
    bytes: 8,
    pdpte: true,
    entries: [
      { at: 0x2000 + 8 * index(LINEAR, 21n, 0x1ffn), base: 0x3000n },
      { at: 0x3000 + 8 * index(LINEAR, 12n, 0x1ffn), base: BigInt(TARGET) },
    ],
  },
  {
    name: 'PAE, 2 MiB',
    linear: LINEAR,
    target: TARGET + Number(LINEAR % 0x200000n),
    cr4: CR4.PAE,
    efer: 0,
    bytes: 8,
    pdpte: true,
    entries: [{ at: 0x2000 + 8 * index(LINEAR, 21n, 0x1ffn), base: BigInt(TARGET) | PS }],
  },
  shape4('4-level, 4 KiB', SMALL, 1),
  shape4('4-level, 2 MiB', SMALL, 2),
  shape4('4-level, 1 GiB', 0x7f80_0010_1234n, 3),
];

function install(m: Machine, shape: Shape, rights: bigint[], { nxe = true, cr0 = 0, cr4 = 0, ac = false } = {}): void {
  for (const [i, { at, base }] of shape.entries.entries()) m.poke(at, base | (rights[i] as bigint), shape.bytes);
  m.state.set64(OFFSET.CR0, BigInt((CR0.PE | CR0.PG | cr0) >>> 0));
  m.state.set64(OFFSET.CR4, BigInt(shape.cr4 | cr4));
  m.state.set64(OFFSET.EFER, BigInt(shape.efer | (nxe ? EFER.NXE : 0)));
  m.state.set64(OFFSET.CR3, BigInt(ROOT));
  m.state.set32(OFFSET.RFLAGS, ac ? FLAG.AC : 0);
  if (shape.pdpte) {
    m.poke(ROOT + 8 * index(shape.linear, 30n, 3n), 0x2000n | P);
    expect(m.mmu.loadPdptes(BigInt(ROOT))).toBe(true);
  }
  m.mmu.flush();
}

const outcome = (run: () => number): string => {
  try {
    return `at ${run().toString(16)}`;
  } catch (thrown) {
    if (thrown instanceof Fault) return `#${thrown.vector}(${thrown.errorCode}) cr2 ${thrown.cr2?.toString(16)}`;
    if (thrown instanceof VmExit) return `exit ${thrown.reason} ${thrown.qualification.toString(16)}`;
    throw thrown;
  }
};

// The rules once more, written from the manual's section "Determination of Access Rights" and not from the code: a decision per kind of access.
function expected(
  s: Shape,
  rights: bigint[],
  access: number,
  privilege: number,
  o: { nxe: boolean; wp: boolean; smep: boolean; smap: boolean; ac: boolean },
): string {
  const write = access === ACCESS.WRITE || access === ACCESS.MODIFY;
  const fetch = access === ACCESS.FETCH;
  const reports = o.smep || (o.nxe && s.bytes === 8);
  let code = (write ? 2 : 0) | (privilege === PRIVILEGE.USER ? 4 : 0) | (fetch && reports ? 16 : 0);
  const fault = (): string => `#14(${code}) cr2 ${s.linear.toString(16)}`;
  for (const r of rights) {
    if ((r & P) === 0n) return fault();
    if (s.bytes === 8 && (r & NX) !== 0n && !o.nxe) {
      code |= 9;
      return fault();
    }
  }
  const all = rights.reduce((x, y) => x & y, P | W | U);
  const user = (all & U) !== 0n;
  const writable = (all & W) !== 0n;
  const nx = s.bytes === 8 && rights.some((r) => (r & NX) !== 0n);
  let allowed: boolean;
  if (privilege === PRIVILEGE.USER) {
    allowed = user && (!write || writable) && (!fetch || !nx);
  } else if (fetch) allowed = !nx && !(user && o.smep);
  else {
    const smapBars = user && o.smap && !(o.ac && privilege === PRIVILEGE.SUPERVISOR);
    allowed = !smapBars && (!write || writable || !o.wp);
  }
  code |= 1;
  return allowed ? `at ${s.target.toString(16)}` : fault();
}

const bool = [false, true];

describe('page walk', () => {
  for (const s of SHAPES) {
    it(`${s.name}: every combination of rights, access and control bits`, () => {
      const m = machine();
      const choices = [0n, P, P | W, P | U, P | W | U, ...(s.bytes === 8 ? [P | W | U | NX] : [])];
      // Rights vary in the first and the last entry; those between allow everything.
      let cases = 0;
      for (const first of choices)
        for (const last of s.entries.length > 1 ? choices : [first]) {
          const rights = s.entries.map((_, i) => (i === s.entries.length - 1 ? last : i === 0 ? first : P | W | U));
          for (const nxe of bool)
            for (const wp of bool)
              for (const smep of bool)
                for (const smap of bool)
                  for (const ac of bool)
                    for (const access of [ACCESS.READ, ACCESS.WRITE, ACCESS.MODIFY, ACCESS.FETCH])
                      for (const privilege of [PRIVILEGE.SUPERVISOR, PRIVILEGE.USER, PRIVILEGE.SYSTEM]) {
                        if (privilege === PRIVILEGE.SYSTEM && access === ACCESS.FETCH) continue;
                        install(m, s, rights, { nxe, cr0: wp ? CR0.WP : 0, cr4: (smep ? CR4.SMEP : 0) | (smap ? CR4.SMAP : 0), ac });
                        m.trace.events.length = 0;
                        const got = outcome(() => m.mmu.physical(s.linear, access, privilege));
                        const want = expected(s, rights, access, privilege, { nxe, wp, smep, smap, ac });
                        if (got !== want)
                          expect({ rights, nxe, wp, smep, smap, ac, access, privilege, got }).toEqual({
                            rights,
                            nxe,
                            wp,
                            smep,
                            smap,
                            ac,
                            access,
                            privilege,
                            got: want,
                          });
                        cases++;
                      }
        }
      expect(cases).toBeGreaterThan(1000);
    });

    it(`${s.name}: accessed and dirty bits`, () => {
      const m = machine();
      const all = s.entries.map(() => P | W | U);
      install(m, s, all);
      m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER);
      for (const { at, base } of s.entries) expect(m.peek(at, s.bytes)).toBe(base | P | W | U | A);
      m.mmu.physical(s.linear, ACCESS.WRITE, PRIVILEGE.USER);
      for (const [i, { at, base }] of s.entries.entries())
        expect(m.peek(at, s.bytes)).toBe(base | P | W | U | A | (i === s.entries.length - 1 ? D : 0n));
    });

    it(`${s.name}: a fault leaves the tables as they were`, () => {
      const m = machine();
      const rights = s.entries.map(() => P);
      install(m, s, rights, { cr0: CR0.WP });
      expect(outcome(() => m.mmu.physical(s.linear, ACCESS.WRITE, PRIVILEGE.SUPERVISOR))).toMatch(/^#14\(3\)/);
      for (const { at, base } of s.entries) expect(m.peek(at, s.bytes)).toBe(base | P);
    });
  }

  it('reserved bits fault with RSVD in every entry', () => {
    const m = machine();
    const reservedOf: Record<string, bigint[]> = {
      '32-bit, 4 MiB': [1n << 21n],
      'PAE, 4 KiB': [1n << 40n, 1n << 51n, 1n << 52n, 1n << 62n],
      'PAE, 2 MiB': [1n << 13n, 1n << 20n, 1n << 40n, 1n << 62n],
      '4-level, 4 KiB': [1n << 40n, 1n << 51n],
      '4-level, 2 MiB': [1n << 13n, 1n << 20n],
      '4-level, 1 GiB': [1n << 13n, 1n << 29n],
    };
    for (const s of SHAPES)
      for (const bit of reservedOf[s.name] ?? []) {
        const last = s.entries.length - 1;
        const rights = s.entries.map((_, i) => P | W | U | (i === last ? bit : 0n));
        install(m, s, rights);
        expect(
          outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER)),
          `${s.name} bit ${bit}`,
        ).toMatch(/^#14\(13\)/);
      }
    const s = SHAPES[4] as Shape;
    install(m, s, [P | W | U | PS, P | W | U, P | W | U, P | W | U]); // PS in a PML4 entry
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.WRITE, PRIVILEGE.SUPERVISOR))).toMatch(/^#14\(11\)/);
    // Bits 62:52 are free in 4-level paging.
    install(
      m,
      s,
      s.entries.map(() => P | W | U | (0x7ffn << 52n)),
    );
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER))).toMatch(/^at/);
  });

  it('PS in a 32-bit directory entry means nothing without CR4.PSE', () => {
    const m = machine();
    const s = SHAPES[0] as Shape;
    install(m, s, [P | W | U | PS, P | W | U]);
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER))).toBe(`at ${s.target.toString(16)}`);
  });

  it('PSE-36 finds address bits 39:32 in bits 20:13', () => {
    const m = machine();
    const s = SHAPES[1] as Shape;
    install(m, s, [P | W | U | (0x81n << 13n)]);
    expect(m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER)).toBe(0x81 * 2 ** 32 + Number(LINEAR % 0x400000n));
  });

  it('refuses malformed PAE directory pointers, and keeps the old ones', () => {
    const m = machine();
    install(m, SHAPES[2] as Shape, [P | W | U, P | W | U]);
    const before = [...m.mmu.pdptes];
    for (const bad of [2n, 4n, 0x20n, 0x100n, 1n << 40n, 1n << 63n]) {
      m.poke(ROOT + 16, P | bad);
      expect(m.mmu.loadPdptes(BigInt(ROOT)), bad.toString(16)).toBe(false);
      m.poke(ROOT + 16, bad); // not present: nothing is reserved
      expect(m.mmu.loadPdptes(BigInt(ROOT))).toBe(true);
      m.poke(ROOT + 16, 0n);
      m.mmu.loadPdptes(BigInt(ROOT));
    }
    expect([...m.mmu.pdptes]).toEqual(before);
    m.poke(ROOT, 0n); // the register holds what was loaded, whatever memory says now
    expect(outcome(() => m.mmu.physical(LINEAR, ACCESS.READ, PRIVILEGE.USER))).toMatch(/^at/);
  });

  it('records each reference', () => {
    const m = machine();
    const s = SHAPES[4] as Shape;
    install(
      m,
      s,
      s.entries.map(() => P | W | U),
    );
    m.trace.events.length = 0;
    m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER);
    expect(m.trace.of('walk').map(({ level, entry }) => [level, entry])).toEqual(s.entries.map(({ at }, i) => [4 - i, at]));
    m.trace.events.length = 0;
    m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER); // now it is in the TLB
    expect(m.trace.of('walk')).toEqual([]);
  });
});

describe('accesses across a page boundary', () => {
  it('writes nothing when the second page faults', () => {
    const m = machine();
    const s = SHAPES[4] as Shape;
    const first = s.linear & ~0xfffn;
    install(
      m,
      s,
      s.entries.map(() => P | W | U),
    );
    const end = first + 0xffcn;
    m.poke(TARGET + 0xff8, 0x1111111111111111n);
    expect(outcome(() => Number(m.mmu.write(end, 8, 0x2222222222222222n, PRIVILEGE.USER)))).toBe(`#14(6) cr2 ${(first + 0x1000n).toString(16)}`);
    expect(m.peek(TARGET + 0xff8)).toBe(0x1111111111111111n);
    m.poke((s.entries[3] as { at: number }).at + 8, BigInt(TARGET + 0x5000) | P | W | U);
    m.mmu.write(end, 8, 0x8877665544332211n, PRIVILEGE.USER);
    expect(m.peek(TARGET + 0xff8) >> 32n).toBe(0x44332211n);
    expect(m.peek(TARGET + 0x5000) & 0xffffffffn).toBe(0x88776655n);
    expect(m.mmu.read(end, 8, PRIVILEGE.USER)).toBe(0x8877665544332211n);
  });

  it('wraps at 4 GiB without paging', () => {
    const m = machine();
    m.poke(0, 0xddccn, 4);
    expect(m.mmu.read(0xfffffffen, 4, PRIVILEGE.SUPERVISOR)).toBe(0xddccffffn); // the end of the address space is not RAM here
  });
});

describe('TLB', () => {
  const s = SHAPES[4] as Shape;
  const lo = Number(s.linear & 0xffffffffn);
  const hi = Number(s.linear >> 32n);
  const rights = (last: bigint): bigint[] => s.entries.map((_, i) => (i === 3 ? last : P | W | U));
  const tags = (m: Machine): string =>
    [TLB.READ_TAG, TLB.WRITE_TAG, TLB.EXEC_TAG].map((tag) => (m.mmu.tlb.lookup(1, lo, hi, tag) >= 0 ? 'rwx'[tag / 8] : '-')).join('');

  it('has a write tag only once the dirty bit is set', () => {
    const m = machine();
    install(m, s, rights(P | W | U));
    m.mmu.translate(s.linear, 1, ACCESS.READ, true);
    expect(tags(m)).toBe('r-x');
    m.mmu.translate(s.linear, 1, ACCESS.WRITE, true);
    expect(tags(m)).toBe('rwx');
    install(m, s, rights(P | W | U | D));
    m.mmu.translate(s.linear, 1, ACCESS.READ, true);
    expect(tags(m)).toBe('rwx');
  });

  it('has no write tag on a page that holds code, and reports writes to it', () => {
    const m = machine();
    install(m, s, rights(P | W | U | D));
    m.host.code.add(TARGET);
    m.mmu.translate(s.linear, 1, ACCESS.WRITE, true);
    expect(tags(m)).toBe('r-x');
    m.mmu.write(s.linear, 4, 0n, PRIVILEGE.USER);
    expect(m.host.written).toEqual([TARGET + Number(s.linear & 0xfffn)]);
    m.host.code.clear();
    m.mmu.flush();
    m.mmu.translate(s.linear, 1, ACCESS.WRITE, true);
    expect(tags(m)).toBe('rwx');
    m.mmu.tlb.protect(TARGET);
    expect(tags(m)).toBe('r-x');
  });

  it('keeps global pages over a change of address space, and drops them on INVLPG', () => {
    const m = machine();
    install(m, s, rights(P | W | U | G), { cr4: CR4.PGE });
    m.mmu.translate(s.linear, 1, ACCESS.READ, true);
    m.mmu.flushNonGlobal('cr3');
    expect(tags(m)).toBe('r-x');
    m.mmu.invalidate(s.linear);
    expect(tags(m)).toBe('---');
    install(m, s, rights(P | W | U | G)); // G means nothing without CR4.PGE
    m.mmu.translate(s.linear, 1, ACCESS.READ, true);
    m.mmu.flushNonGlobal('cr3');
    expect(tags(m)).toBe('---');
  });

  it('drops all parts of a large page on INVLPG of one address in it', () => {
    const m = machine();
    const big = SHAPES[5] as Shape;
    install(
      m,
      big,
      big.entries.map(() => P | W | U),
    );
    const base = big.linear & ~0x1fffffn;
    m.mmu.translate(base, 1, ACCESS.READ, true);
    m.mmu.translate(base + 0x5000n, 1, ACCESS.READ, true);
    const there = (offset: bigint): boolean => m.mmu.tlb.lookup(1, Number((base + offset) & 0xffffffffn), Number(base >> 32n), TLB.READ_TAG) >= 0;
    expect([there(0n), there(0x5000n)]).toEqual([true, true]);
    m.mmu.invalidate(base + 0x7123n);
    expect([there(0n), there(0x5000n)]).toEqual([false, false]);
  });

  it('takes back what EFLAGS.AC made accessible', () => {
    const m = machine();
    install(m, s, rights(P | W | U), { cr4: CR4.SMAP, ac: true });
    m.mmu.translate(s.linear, 1, ACCESS.READ, false);
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.SYSTEM))).toMatch(/^#14\(1\)/);
    m.state.set32(OFFSET.RFLAGS, 0);
    m.mmu.selectBank(false, false, false);
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.SUPERVISOR))).toMatch(/^#14\(1\)/);
  });

  it('survives many more pages than it has entries', () => {
    const m = machine();
    m.state.set64(OFFSET.CR0, BigInt(CR0.PE)); // no paging
    for (let page = 0; page < 1000; page++)
      expect(m.mmu.translate(BigInt(page * 4096 + 5), 1, ACCESS.WRITE, false)).toBe(m.memory.offset(page * 4096 + 5));
    m.mmu.flush();
    for (let page = 0; page < 1000; page++) expect(m.mmu.tlb.lookup(0, page * 4096, 0, TLB.READ_TAG)).toBe(-1);
  });
});

describe('EPT', () => {
  const EPT_ROOT = 0x100000;
  const R = 1n;
  const X = 4n;
  const WB = 6n << 3n;
  const RWX = R | W | X;
  const EPT_A = 0x100n;
  const EPT_D = 0x200n;

  /** Identity-maps guest memory page by page (4 KiB entries for the first 2 MiB, one 2 MiB page after). */
  function stage2(m: Machine, accessedDirty = false): { leaf(gpa: number): number } {
    m.poke(EPT_ROOT, BigInt(EPT_ROOT + 0x1000) | RWX);
    m.poke(EPT_ROOT + 0x1000, BigInt(EPT_ROOT + 0x2000) | RWX);
    m.poke(EPT_ROOT + 0x2000, BigInt(EPT_ROOT + 0x3000) | RWX);
    m.poke(EPT_ROOT + 0x2008, BigInt(TARGET) | RWX | WB | PS);
    for (let i = 0; i < 512; i++) m.poke(EPT_ROOT + 0x3000 + 8 * i, BigInt(i * 4096) | RWX | WB);
    m.host.ept = { root: EPT_ROOT, accessedDirty, executeOnly: true };
    return { leaf: (gpa) => EPT_ROOT + 0x3000 + 8 * (gpa >> 12) };
  }

  function guest(accessedDirty = false): { m: Machine; s: Shape; leaf(gpa: number): number } {
    const m = machine();
    const s = SHAPES[4] as Shape;
    const { leaf } = stage2(m, accessedDirty);
    install(
      m,
      s,
      s.entries.map(() => P | W | U),
    );
    return { m, s, leaf };
  }

  it('sends every reference of the first stage through the second', () => {
    const { m, s } = guest();
    m.trace.events.length = 0;
    expect(m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER)).toBe(s.target);
    const walks = m.trace.of('walk');
    expect(walks.filter(({ stage }) => stage === 1)).toHaveLength(4);
    expect(walks.filter(({ stage }) => stage === 2)).toHaveLength(4 * 4 + 3); // the target lies in a 2 MiB page
    expect(walks.slice(0, 5).map(({ stage, level }) => [stage, level])).toEqual([
      [2, 4],
      [2, 3],
      [2, 2],
      [2, 1],
      [1, 4],
    ]);
  });

  it('reports violations with exact qualifications', () => {
    const { m, s, leaf } = guest();
    const page2 = EPT_ROOT + 0x2008;
    // The final translation: bits 7 and 8.
    for (const [entry, access, want] of [
      [0n, ACCESS.READ, 0x181n],
      [R | WB | PS, ACCESS.WRITE, 0x18an],
      [R | WB | PS, ACCESS.MODIFY, 0x18an],
      [R | W | WB | PS, ACCESS.FETCH, 0x19cn],
      [X | WB | PS, ACCESS.READ, 0x1a1n],
    ] as const) {
      m.poke(page2, BigInt(TARGET) | entry);
      m.mmu.flush();
      expect(outcome(() => m.mmu.physical(s.linear, access, PRIVILEGE.SUPERVISOR))).toBe(`exit 48 ${want.toString(16)}`);
    }
    m.poke(page2, BigInt(TARGET) | RWX | WB | PS);
    // A reference to a guest table: bit 7 alone. With A/D bits it counts as a write too.
    const table = (s.entries[2] as { at: number }).at;
    m.poke(leaf(table), 0n);
    m.mmu.flush();
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER))).toBe('exit 48 81');
    m.host.ept = { root: EPT_ROOT, accessedDirty: true, executeOnly: true };
    m.mmu.flush();
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER))).toBe('exit 48 83');
    // Loading the directory pointers of PAE paging: no linear address is involved.
    expect(outcome(() => Number(m.mmu.loadPdptes(BigInt(table & ~0x1f))))).toBe('exit 48 3');
  });

  it('gives the guest-physical and the linear address', () => {
    const { m, s } = guest();
    m.poke(EPT_ROOT + 0x2008, 0n);
    try {
      m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER);
      expect.unreachable();
    } catch (exit) {
      expect(exit).toBeInstanceOf(VmExit);
      expect((exit as VmExit).details).toEqual({ guestPhysicalAddress: s.target, guestLinearAddress: s.linear });
    }
  });

  it('needs write permission to set a guest accessed bit', () => {
    const { m, s, leaf } = guest();
    const table = (s.entries[1] as { at: number }).at;
    m.poke(leaf(table), BigInt(table - (table % 4096)) | R | WB);
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER))).toBe('exit 48 8b');
    for (const { at } of s.entries) m.poke(at, m.peek(at) | A);
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER))).toMatch(/^at/);
  });

  it('sets its own accessed and dirty bits', () => {
    const { m, s, leaf } = guest(true);
    m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER);
    expect(m.peek(EPT_ROOT) & (EPT_A | EPT_D)).toBe(EPT_A);
    expect(m.peek(EPT_ROOT + 0x2008) & (EPT_A | EPT_D)).toBe(EPT_A);
    expect(m.peek(leaf(ROOT)) & (EPT_A | EPT_D)).toBe(EPT_A | EPT_D); // guest tables count as written
    m.mmu.physical(s.linear, ACCESS.WRITE, PRIVILEGE.USER);
    expect(m.peek(EPT_ROOT + 0x2008) & (EPT_A | EPT_D)).toBe(EPT_A | EPT_D);
  });

  it('knows a misconfiguration', () => {
    const { m, s } = guest();
    const page2 = EPT_ROOT + 0x2008;
    for (const bad of [W, W | X, R | (2n << 3n), R | (3n << 3n), R | (7n << 3n), R | WB | (1n << 12n), R | WB | (1n << 40n)]) {
      m.poke(page2, BigInt(TARGET) | PS | bad);
      m.mmu.flush();
      expect(
        outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER)),
        bad.toString(16),
      ).toBe('exit 49 0');
    }
    m.host.ept = { root: EPT_ROOT, accessedDirty: false, executeOnly: false };
    m.poke(page2, BigInt(TARGET) | PS | X | WB);
    m.mmu.flush();
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.FETCH, PRIVILEGE.USER))).toBe('exit 49 0');
    m.poke(page2, BigInt(TARGET) | PS | RWX | WB);
    m.poke(EPT_ROOT, BigInt(EPT_ROOT + 0x1000) | RWX | 8n); // reserved in an entry that refers to a table
    m.mmu.flush();
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER))).toBe('exit 49 0');
  });

  it('lets execute-only pages be fetched', () => {
    const { m, s } = guest();
    m.poke(EPT_ROOT + 0x2008, BigInt(TARGET) | PS | X | WB);
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.FETCH, PRIVILEGE.USER))).toBe(`at ${s.target.toString(16)}`);
    expect(outcome(() => m.mmu.physical(s.linear, ACCESS.READ, PRIVILEGE.USER))).toBe('exit 48 1a1');
  });
});
