import { describe, expect, it } from 'vitest';
import { KvmIoapicState } from '../../02-kvm-objects/abi/irqchip.ts';
import type { ApicMessage } from './apic-message.ts';
import { IoApic } from './ioapic.ts';

const MASKED = 1 << 16;
const LEVEL = 1 << 15;
const REMOTE_IRR = 1 << 14;

function bench(options: Partial<ConstructorParameters<typeof IoApic>[0]> = {}) {
  const sent: ApicMessage[] = [];
  const ended: number[] = [];
  let taken = 1;
  const chip = new IoApic({
    send: (message) => {
      sent.push(message);
      return taken;
    },
    onEoi: (pin) => ended.push(pin),
    ...options,
  });
  const select = (index: number): void => chip.registers.write(0, 4, BigInt(index));
  const read = (index: number): number => {
    select(index);
    return Number(chip.registers.read(0x10, 4));
  };
  const write = (index: number, value: number): void => {
    select(index);
    chip.registers.write(0x10, 4, BigInt(value >>> 0));
  };
  /** Vectors sent since the last call. */
  const vectors = (): number[] => sent.splice(0).map(({ vector }) => vector);
  return {
    chip,
    sent,
    ended,
    read,
    write,
    vectors,
    entry: (pin: number, low: number, high = 0) => {
      write(0x11 + 2 * pin, high);
      write(0x10 + 2 * pin, low);
    },
    low: (pin: number) => read(0x10 + 2 * pin),
    answer: (count: number) => {
      taken = count;
    },
  };
}

describe('the I/O APIC', () => {
  it('has its registers as the data sheet says', () => {
    const { read, write, chip } = bench();
    expect(read(1)).toBe(0x0017_0011);
    write(0, 0xffff_ffff);
    expect([read(0), read(2)]).toEqual([0x0f00_0000, 0x0f00_0000]);
    write(1, 0);
    write(2, 0);
    expect([read(1), read(2)]).toEqual([0x0017_0011, 0x0f00_0000]);
    for (let pin = 0; pin < 24; pin++) expect(read(0x10 + 2 * pin)).toBe(MASKED);
    for (const index of [3, 0xf, 0x40, 0xff]) expect(read(index)).toBe(0xffff_ffff);
    chip.registers.write(0, 1, 0x3fn);
    expect(chip.registers.read(0, 4)).toBe(0x3fn);
    write(0x10, 0xffff_ffff);
    expect(read(0x10)).toBe(0x0001_afff); // delivery status and remote IRR are not software's
    write(0x11, 0xffff_ffff);
    expect(read(0x11)).toBe(0xffff_ffff);
  });

  it.each([
    ['fixed, physical', 0x0000_0031, 0x0500_0000, { vector: 0x31, mode: 0, destination: 5, logical: false, levelTriggered: false, level: true }],
    ['lowest priority, logical', 0x0000_0931, 0xff00_0000, { vector: 0x31, mode: 1, destination: 0xff, logical: true, levelTriggered: false }],
    ['NMI', 0x0000_0400, 0, { vector: 0, mode: 4 }],
    ['ExtINT', 0x0000_0700, 0, { mode: 7 }],
    ['level, active low', 0x0000_a042, 0x0100_0000, { vector: 0x42, levelTriggered: true, destination: 1 }],
  ])('turns an entry into a message: %s', (_, low, high, message) => {
    const { chip, sent, entry } = bench();
    entry(7, low, high);
    chip.setIrq(7, true);
    expect(sent).toHaveLength(1);
    expect(sent[0]).toMatchObject(message);
  });

  it('sends one message for one edge', () => {
    const { chip, entry, vectors } = bench();
    entry(4, 0x34);
    expect([chip.setIrq(4, true), chip.setIrq(4, true), chip.setIrq(4, false), chip.setIrq(4, true)]).toEqual([1, 0, 1, 1]);
    expect(vectors()).toEqual([0x34, 0x34]);
  });

  it('loses an edge behind a mask', () => {
    const { chip, entry, vectors } = bench();
    entry(4, MASKED | 0x34);
    expect(chip.setIrq(4, true)).toBe(-1);
    entry(4, 0x34);
    expect(vectors()).toEqual([]);
  });

  it('finds a level behind a mask', () => {
    const { chip, entry, vectors, low } = bench();
    entry(4, MASKED | LEVEL | 0x34);
    expect(chip.setIrq(4, true)).toBe(-1);
    entry(4, LEVEL | 0x34);
    expect(vectors()).toEqual([0x34]);
    expect(low(4)).toBe(LEVEL | REMOTE_IRR | 0x34);
  });

  it('asks again after an EOI while the wire is up, and waits for it until then', () => {
    const { chip, entry, vectors, low, ended } = bench();
    entry(4, LEVEL | 0x34);
    expect([chip.setIrq(4, true), chip.setIrq(4, true)]).toEqual([1, -1]);
    chip.setIrq(4, false);
    chip.setIrq(4, true);
    expect(vectors()).toEqual([0x34]);
    chip.eoi(0x34);
    expect([vectors(), low(4) & REMOTE_IRR]).toEqual([[0x34], REMOTE_IRR]);
    chip.setIrq(4, false);
    chip.eoi(0x34);
    expect([vectors(), low(4) & REMOTE_IRR, ended]).toEqual([[], 0, [4, 4]]);
  });

  it('ends every level pin of the vector, and no edge pin', () => {
    const { chip, entry, vectors, ended } = bench();
    entry(4, LEVEL | 0x34);
    entry(5, LEVEL | 0x34);
    entry(6, 0x34);
    entry(7, LEVEL | 0x35);
    for (const pin of [4, 5, 6, 7]) chip.setIrq(pin, true);
    vectors();
    chip.eoi(0x34);
    expect([vectors(), ended]).toEqual([
      [0x34, 0x34],
      [4, 5],
    ]);
  });

  it('does not ask again when the listener lowers the wire', () => {
    const { chip, entry, vectors } = bench({ onEoi: (pin) => chip.setIrq(pin, false) });
    entry(4, LEVEL | 0x34);
    chip.setIrq(4, true);
    chip.eoi(0x34);
    expect(vectors()).toEqual([0x34]);
  });

  it('forgets remote IRR when an entry is made edge-triggered', () => {
    const { chip, entry, vectors, low } = bench();
    entry(4, LEVEL | 0x34);
    chip.setIrq(4, true);
    entry(4, MASKED | 0x34);
    expect(low(4)).toBe(MASKED | 0x34);
    entry(4, LEVEL | 0x34);
    expect(vectors()).toEqual([0x34, 0x34]);
  });

  it('keeps remote IRR through a mask', () => {
    const { chip, entry, vectors, low } = bench();
    entry(4, LEVEL | 0x34);
    chip.setIrq(4, true);
    entry(4, MASKED | LEVEL | 0x34);
    entry(4, LEVEL | 0x34);
    expect([vectors(), low(4) & REMOTE_IRR]).toEqual([[0x34], REMOTE_IRR]);
  });

  it('does not wait for an EOI of a level that nobody took, and says so', () => {
    const { chip, entry, low, answer } = bench();
    answer(0);
    entry(4, LEVEL | 0x34);
    expect(chip.setIrq(4, true)).toBe(0);
    expect(low(4) & REMOTE_IRR).toBe(0);
  });

  it('has an EOI register from version 0x20 on', () => {
    for (const version of [0x11, 0x20] as const) {
      const { chip, entry, vectors, read } = bench({ version });
      expect(read(1) & 0xff).toBe(version);
      entry(4, LEVEL | 0x34);
      chip.setIrq(4, true);
      chip.registers.write(0x40, 4, 0x34n);
      expect(vectors()).toHaveLength(version === 0x20 ? 2 : 1);
    }
  });

  it('saves and loads as struct kvm_ioapic_state', () => {
    const { chip, entry, write, vectors } = bench();
    write(0, 3 << 24);
    entry(4, LEVEL | 0x34, 0x0200_0000);
    chip.setIrq(4, true);
    entry(9, 0x41);
    chip.setIrq(9, true);
    entry(11, MASKED | 0x42);
    chip.setIrq(11, true);
    const state = chip.save();
    expect(KvmIoapicState.decode(state)).toMatchObject({ base_address: 0xfec0_0000n, id: 3, irr: 0x810, ioregsel: 0x26 });
    expect(new DataView(state.buffer).getBigUint64(24 + 8 * 4, true)).toBe(0x0200_0000_0000_c034n);
    vectors();
    const other = bench();
    other.chip.load(state);
    expect(other.vectors()).toEqual([]); // pin 4 waits for its EOI, the edge on 9 has been told, and that on 11 is masked
    expect(other.chip.save()).toEqual(state);
    other.chip.eoi(0x34);
    expect(other.vectors()).toEqual([0x34]);
    other.chip.reset();
    expect(other.low(4)).toBe(MASKED);
  });

  it('cannot be hurt by a foreign state or a wrong pin', () => {
    const { chip, low, vectors } = bench();
    chip.load(new Uint8Array(216).fill(0xff));
    expect(low(0)).toBe(0x1ffff);
    expect(vectors()).toEqual([]);
    expect([chip.setIrq(24, true), chip.setIrq(-1, true)]).toEqual([-1, -1]);
    chip.eoi(0x1ff);
    expect(() => chip.load(new Uint8Array(10))).toThrow(RangeError);
  });
});
