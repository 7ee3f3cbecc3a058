// # The vector instructions, beside a real processor
//
// `simd-observed.json` was made by a processor (a Xeon of the Cascade Lake generation): for each encoding, a checksum over everything that can be seen after it
// has been executed on a number of different inputs. A wrong bit anywhere changes it.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { FlatMachine } from '../engine/flat-machine.ts';
import { VECTOR } from '../faults.ts';
import { CR0, CR4, FLAG, OFFSET, SLOT } from '../state.ts';
import { xmm } from './builder.ts';

const OBSERVED = JSON.parse(readFileSync(new URL('simd-observed.json', import.meta.url), 'utf8')) as Record<string, string>;
const INPUTS = 24;
const DATA = 0x20000;
const CODE = 0x30000;

const mmx = (n: number): number => OFFSET.FPU + 32 + 16 * n;

/** XMM0..7, MMX0..7, RAX RCX RDX RBX, and the 64 bytes that RDI points to: pseudo-random, extreme, or small numbers. */
function input(n: number): Uint8Array {
  let seed = (n + 1) * 0x9e3779b1;
  const next = (): number => {
    seed = (Math.imul(seed ^ (seed >>> 15), 0x2c1b3c6d) + 0x3c6ef372) >>> 0;
    return (seed ^ (seed >>> 13)) >>> 8;
  };
  const special = [0, 1, 0x7f, 0x80, 0xff, 0x81];
  const out = new Uint8Array(368);
  for (let i = 0; i < out.length; i++) out[i] = n % 3 === 0 ? next() : n % 3 === 1 ? (special[next() % 6] as number) : next() % 5;
  if (n % 4 === 3) for (const at of [0, 16, 128, 136, 304]) out.fill(0, at + 1, at + 8);
  return out;
}
const inputs = Array.from({ length: INPUTS }, (_, n) => input(n));
const bytes = (hex: string): number[] => [...hex.matchAll(/../g)].map(([byte]) => Number.parseInt(byte, 16));

function machine(bits: 32 | 64 = 64): FlatMachine {
  const m = new FlatMachine(bits);
  m.state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.NE));
  m.state.set64(OFFSET.CR4, BigInt(CR4.OSFXSR));
  return m;
}
const fill = ({ state, memory }: FlatMachine, from: Uint8Array): void => {
  state.fpu.fill(0, 0, 416);
  state.fpu[4] = 0xff;
  state.fpu.set(from.subarray(0, 128), 160);
  for (let i = 0; i < 8; i++) state.u8.set(from.subarray(128 + 8 * i, 136 + 8 * i), mmx(i));
  state.u8.set(from.subarray(192, 224));
  state.setSlotNumber(SLOT.RDI, DATA);
  writeFlags(state, FLAG.FIXED | FLAG.IF);
  memory.slice(DATA, 64).set(from.subarray(304, 368));
};
/** The checksum over what is there now, continued. */
function checksum({ state, memory }: FlatMachine, sum: number): number {
  const flags = readFlags(state);
  const seen = [
    state.fpu.subarray(160, 288),
    ...Array.from({ length: 8 }, (_, i) => state.u8.subarray(mmx(i), mmx(i) + 10)),
    state.fpu.subarray(2, 5),
    state.u8.subarray(0, 32),
    [flags & 0xd5, (flags >> 8) & 8],
    memory.slice(DATA, 64),
  ];
  let out = sum;
  for (const part of seen) for (const byte of part) out = Math.imul(out ^ byte, 0x01000193) >>> 0;
  return out;
}

describe.each([64, 32] as const)('%i-bit code', (bits) => {
  it('every encoding does what a real processor does', () => {
    const m = machine(bits);
    const wrong: string[] = [];
    let judged = 0;
    for (const [form, expected] of Object.entries(OBSERVED)) {
      const code = bytes(form.split(' ')[1] as string);
      // REX is 64-bit code's.
      if (bits === 32 && (code[0] === 0x48 || code[1] === 0x48)) continue;
      m.memory.slice(CODE, 16).set(code);
      m.engine.memoryChanged();
      let sum = 0x811c9dc5;
      for (const from of inputs) {
        fill(m, from);
        m.state.setSlotNumber(SLOT.RIP, CODE);
        m.resume(1);
        sum = checksum(m, sum);
      }
      judged++;
      if (sum.toString(16).padStart(8, '0') !== expected) wrong.push(form);
    }
    expect(wrong).toEqual([]);
    expect(judged).toBeGreaterThan(700);
  });
});

const PADDB_MMX = '0ffcc1';
const PADDB_MMX_MEMORY = '0ffc07';
const PADDB_XMM = '660ffcc1';
const faultOf = (m: FlatMachine, hex: string): number | null => {
  const stop = m.run([...bytes(hex), 0xf4], { at: CODE });
  return 'fault' in stop && stop.fault ? stop.fault.vector : null;
};

describe('conditions', () => {
  it('an encoding with a prefix that it does not know is undefined', () => {
    for (const hex of [
      'f30ffcc1', // PADDB
      'f20ffcc1',
      '66f30ffcc1', // F3 has precedence over 66
      'f30f77', // EMMS
      '660f77',
      'f00ffc07', // LOCK
      '0fe7c7', // MOVNTQ to a register
      '0fd6c1', // there is no MMX form
      'f20f6fc1',
      '0f71c701',
    ]) {
      expect([hex, faultOf(machine(), hex)]).toEqual([hex, VECTOR.UD]);
    }
  });
  it('CR4.OSFXSR concerns the XMM forms, CR0.EM and CR0.TS both', () => {
    const m = machine();
    m.state.set64(OFFSET.CR4, 0n);
    expect(faultOf(m, PADDB_XMM)).toBe(VECTOR.UD);
    expect(faultOf(m, PADDB_MMX)).toBe(null);
    for (const [bit, vector] of [
      [CR0.EM, VECTOR.UD],
      [CR0.TS, VECTOR.NM],
    ] as const) {
      const other = machine();
      other.state.set64(OFFSET.CR0, BigInt(CR0.PE | bit));
      expect(faultOf(other, PADDB_MMX)).toBe(vector);
      expect(faultOf(other, PADDB_XMM)).toBe(vector);
      expect(faultOf(other, '0f77')).toBe(vector);
      expect(faultOf(other, 'f20f38f0c1')).toBe(null); // CRC32 has no vector operand
    }
  });
  it('an MMX instruction waits for a pending floating-point exception', () => {
    const m = machine();
    m.state.fpu[2] = 0x80; // FSW.ES
    expect(faultOf(m, PADDB_MMX)).toBe(VECTOR.MF);
    expect(faultOf(m, PADDB_XMM)).toBe(null);
  });
  it('sixteen bytes are aligned, except for the few that need not be', () => {
    const at = (hex: string, address: number): number | null => {
      const m = machine();
      m.state.setSlotNumber(SLOT.RDI, address);
      return faultOf(m, hex);
    };
    const aligned = ['660ffc07', '660f6f07', '660f7f07', '660fe707', '660f382a07', '660fd107', '660f380007', '660f3a0f0701'];
    const any = ['f30f6f07', 'f30f7f07', 'f20ff007', '660f3a630700', '660f3a610700', '660fd607', '660f382007', '660ff7c1'];
    for (const hex of aligned) expect([hex, at(hex, DATA), at(hex, DATA + 8)]).toEqual([hex, null, VECTOR.GP]);
    for (const hex of any) expect([hex, at(hex, DATA), at(hex, DATA + 1)]).toEqual([hex, null, null]);
  });
});

describe('memory', () => {
  /** Runs with RDI `bytes` before the end of what exists. */
  const beforeEnd = (hex: string, count: number): number | null => {
    const m = machine();
    m.limit = DATA;
    m.memory.slice(0x1000, 16).set(bytes(hex));
    m.engine.memoryChanged();
    m.state.setSlotNumber(SLOT.RIP, 0x1000);
    m.state.setSlotNumber(SLOT.RDI, DATA - count);
    const stop = m.resume(1);
    return 'fault' in stop && stop.fault ? stop.fault.vector : null;
  };
  it('no more is touched than is needed', () => {
    for (const [hex, count] of [
      ['660f382007', 8], // PMOVSXBW
      ['660f382107', 4], // PMOVSXBD
      ['660f382207', 2], // PMOVSXBQ
      ['0f6007', 4], // PUNPCKLBW MMX
      ['0f6807', 8], // PUNPCKHBW MMX
      ['660f3a140700', 1], // PEXTRB
      ['660fc40700', 2], // PINSRW
      ['660f3a220700', 4], // PINSRD
      ['66480f3a220700', 8],
      ['660fd607', 8], // MOVQ
    ] as const) {
      expect([hex, beforeEnd(hex, count), beforeEnd(hex, count - 1)]).toEqual([hex, null, VECTOR.PF]);
    }
  });
  it('a masked store changes only the bytes of the mask, and needs permission for all', () => {
    for (const [limit, fault] of [
      [DATA + 12, null],
      [DATA + 11, VECTOR.PF],
    ] as const) {
      const m = machine();
      m.limit = limit;
      m.state.u8.set([0, 0, 0, 0x80], xmm(1));
      m.state.u8.fill(0x55, xmm(0), xmm(0) + 16);
      m.memory.slice(0x1000, 4).set(bytes('660ff7c1'));
      m.engine.memoryChanged();
      m.state.setSlotNumber(SLOT.RIP, 0x1000);
      m.state.setSlotNumber(SLOT.RDI, DATA - 4);
      const stop = m.resume(1);
      expect('fault' in stop && stop.fault ? stop.fault.vector : null).toBe(fault);
      expect([...m.memory.slice(DATA - 4, 5)]).toEqual(fault === null ? [0, 0, 0, 0x55, 0] : [0, 0, 0, 0, 0]);
    }
  });
  it('a fault leaves the floating-point unit as it was', () => {
    const m = machine();
    m.limit = DATA;
    m.state.fpu.set([0x7f, 0x03, 0x00, 0x18, 0x21]); // TOP 3, two registers in use
    m.memory.slice(0x1000, 8).set(bytes(PADDB_MMX_MEMORY));
    m.engine.memoryChanged();
    m.state.setSlotNumber(SLOT.RIP, 0x1000);
    m.state.setSlotNumber(SLOT.RDI, DATA);
    expect(m.resume(1)).toMatchObject({ fault: { vector: VECTOR.PF } });
    expect([...m.state.fpu.subarray(0, 5)]).toEqual([0x7f, 0x03, 0x00, 0x18, 0x21]);
  });
  it('but a store has changed TOP by then', () => {
    const m = machine();
    m.limit = DATA;
    m.state.fpu.set([0x7f, 0x03, 0x00, 0x18, 0x21]);
    m.memory.slice(0x1000, 8).set(bytes('0f7f07')); // MOVQ [RDI], MM0
    m.engine.memoryChanged();
    m.state.setSlotNumber(SLOT.RIP, 0x1000);
    m.state.setSlotNumber(SLOT.RDI, DATA);
    expect(m.resume(1)).toMatchObject({ fault: { vector: VECTOR.PF } });
    expect([...m.state.fpu.subarray(0, 5)]).toEqual([0x7f, 0x03, 0x00, 0x00, 0x21]);
  });
  it('an operand of MMX size in memory is no MMX register', () => {
    const m = machine();
    m.state.fpu.set([0x7f, 0x03, 0x00, 0x18, 0x21]);
    m.state.setSlotNumber(SLOT.RDI, DATA);
    expect(faultOf(m, '660f2a07')).toBe(null); // CVTPI2PD
    expect([...m.state.fpu.subarray(2, 5)]).toEqual([0x00, 0x18, 0x21]);
    expect(faultOf(m, '660f2ac0')).toBe(null);
    expect([...m.state.fpu.subarray(2, 5)]).toEqual([0x00, 0x00, 0xff]);
  });
});
