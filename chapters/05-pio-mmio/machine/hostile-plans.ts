// # What a hostile guest knows
//
// Sixteen random bytes are nearly never a descriptor that leads anywhere, and random writes hardly ever start an engine. So the guest has plans, each
// what a driver would do on purpose with one field or another gone wrong, and leaves in memory what devices would want to see there.

import type { Bus, Width } from '../../03-vcpu-loop/devices/bus.ts';
import type { Random } from '../../04-memory-virtualization/random.ts';
import { E1000Function } from '../e1000/e1000.ts';
import type { PciFunction } from '../pci/function.ts';
import type { Pc } from './pc.ts';

export const MEMORY_MIB = 8;
export const RAM_BYTES = MEMORY_MIB << 20;

/** Addresses that mean something to somebody. */
// biome-ignore format: table
export const PLACES: readonly number[] = [
  0, 0x1000, 0x7c00, 0xa_0000, 0xc_0000, 0xf_0000, 0x10_0000, RAM_BYTES - 16, RAM_BYTES - 1, RAM_BYTES, 0xb000_0000, 0xe000_0000, 0xfebf_0000, 0xfec0_0000,
  0xfed1_c000, 0xfee0_0000, 0xfff0_0000, 0xffff_fff0, 0xffff_ffff, 0x8000_0000, 0x600, 0x1f0, 0x3f8, 0xcf8, 0xfff0, 0xfff8,
];
/** Where the guest leaves what devices shall read. */
const ARENA = { from: 0x4_0000, bytes: 0x2_0000 } as const;

/** Fields of the 82540EM, by what they do: rings, then what starts them. */
const NIC = { CTRL: 0, RCTL: 0x100, TCTL: 0x400, RDBAL: 0x2800, TDBAL: 0x3800 } as const;
const RING = { HIGH: 4, LENGTH: 8, HEAD: 0x10, TAIL: 0x18 } as const;

/** What the guest can do to the machine. */
export interface Hands {
  readonly pc: Pc;
  readonly random: Random;
  /** The guest's memory. */
  readonly ram: Uint8Array;
  access(bus: Bus, write: boolean, at: number, width: Width, value: bigint): number;
  /** Lets time pass. */
  advance(ns: number): void;
  /** All functions that are plugged in, whoever may reach them at the moment. */
  readonly functions: readonly PciFunction[];
}

/** A number that means something, as often as not. */
export function hostileValue(random: Random): number {
  switch (random.below(6)) {
    case 0:
      return random.pick(PLACES) + random.below(4) * 0x10;
    case 1:
      return random.below(256);
    case 2:
      return ARENA.from + random.below(ARENA.bytes);
    case 3:
      return 2 ** random.below(32);
    default:
      return random.next();
  }
}

export class Mischief {
  readonly #hands: Hands;

  constructor(hands: Hands) {
    this.#hands = hands;
  }

  #out(port: number, width: 1 | 2 | 4, value: number): void {
    this.#hands.access(this.#hands.pc.ports, true, port, width, BigInt(value >>> 0));
  }
  #store(gpa: number, value: number): void {
    this.#hands.access(this.#hands.pc.mmio, true, gpa, 4, BigInt(value >>> 0));
  }

  /** Leaves something in memory that a device may be sent to. */
  scribble(): void {
    const random = this.#hands.random;
    const { ram } = this.#hands;
    const view = new DataView(ram.buffer, ram.byteOffset, RAM_BYTES);
    const at = ARENA.from + (random.below(ARENA.bytes - 0x400) & ~15);
    for (let entry = 0; entry < 1 + random.below(32); entry++) {
      const here = at + 16 * entry;
      switch (random.below(5)) {
        case 0: // a card's descriptor, plain or extended
          view.setUint32(here, hostileValue(random), true);
          view.setUint32(here + 4, random.chance(0.9) ? 0 : random.next(), true);
          view.setUint32(
            here + 8,
            (random.pick([0, 0x0100_0000, 0x0b00_0000, 0x2b10_0000, 0x2d10_0000, 0x2f00_0000]) | random.below(0x1_0000)) >>> 0,
            true,
          );
          view.setUint32(here + 12, random.pick([0, 0x0300, random.next()]), true);
          break;
        case 1: // a context: where the checksums are, and into how small pieces to cut
          view.setUint32(here, random.next() & 0x3f3f_3f3f, true);
          view.setUint32(here + 4, random.next() & 0x3f3f_3f3f, true);
          view.setUint32(here + 8, 0x2500_0000 | random.below(0x1_0000), true);
          view.setUint32(here + 12, (random.below(4) << 16) | (random.below(256) << 8), true);
          break;
        case 2: // two entries of the bus master's table
          for (const half of [0, 8]) {
            view.setUint32(here + half, hostileValue(random) & (random.chance(0.5) ? 0xf_fffe : 0xffff_fffe), true);
            view.setUint32(here + half + 4, random.below(0x1_0000) | (random.chance(0.1) ? 0x8000_0000 : 0), true);
          }
          break;
        case 3: // a transfer of fw_cfg
          view.setUint32(here, ((random.below(48) << 16) | random.below(32)) >>> 0);
          view.setUint32(here + 4, random.chance(0.5) ? random.below(4096) : random.next());
          view.setUint32(here + 8, random.chance(0.9) ? 0 : random.next());
          view.setUint32(here + 12, hostileValue(random));
          break;
        default:
          for (let word = 0; word < 16; word += 4) view.setUint32(here + word, random.next(), true);
      }
    }
  }

  /** Carries out one of its plans. */
  act(): void {
    this.#hands.random.pick(this.#plans)();
  }

  readonly #plans: readonly (() => void)[] = [
    () => this.#enable(),
    () => this.#enable(),
    () => this.#startRings(),
    () => this.#startRings(),
    () => this.#diskCommand(),
    () => this.#diskCommand(),
    () => this.#transfer(),
    () => this.#longTable(),
    () => this.#amplify(),
    () => this.#timersOn(),
    () => this.#route(),
    () => this.#interprocessor(),
  ];

  #arena(): number {
    return ARENA.from + (this.#hands.random.below(ARENA.bytes) & ~15);
  }

  /** Gives a function its regions back, and the right to use memory. */
  #enable(): void {
    const random = this.#hands.random;
    const fn = random.pick([0x08, 0x10, 0xf0, 0xf9]);
    const behind = random.chance(0.5);
    if (behind) {
      for (const [offset, value] of [
        [0x18, 0x0002_0100],
        [0x1c, 0xf0c0],
        [0x20, 0xfe70_fe00],
        [0x04, 7],
      ] as const)
        this.#config(0xf0, 0, offset, value);
    }
    const [devfn, bus] = behind ? [random.pick([0x08, 0x10]), 1] : [fn, 0];
    if (devfn !== 0xf0) {
      this.#config(devfn, bus, 0x10, 0xfe00_0000 + random.below(8) * 0x2_0000);
      this.#config(devfn, bus, 0x14, 0xc000 + random.below(64) * 0x40);
      if (devfn === 0xf9) this.#config(devfn, bus, 0x20, 0xc001 + random.below(8) * 0x10);
    }
    this.#config(devfn, bus, 0x04, random.pick([7, 7, 0x407]));
  }

  #config(devfn: number, bus: number, offset: number, value: number): void {
    this.#out(0xcf8, 4, (0x8000_0000 | (bus << 16) | (devfn << 8) | offset) >>> 0);
    this.#out(0xcfc, 4, value);
  }

  #startRings(): void {
    const random = this.#hands.random;
    const cards = this.#hands.functions.filter((fn) => fn instanceof E1000Function && fn.bars[0]?.placed);
    if (cards.length === 0) return;
    const base = random.pick(cards).bars[0]?.placed as number;
    for (const ring of [NIC.RDBAL, NIC.TDBAL]) {
      if (random.chance(0.3)) continue;
      const size = random.chance(0.02) ? 0xf_ff80 : random.pick([0x80, 0x400, 0x1000]);
      this.#store(base + ring, this.#arena());
      this.#store(base + ring + RING.HIGH, random.chance(0.95) ? 0 : random.next());
      this.#store(base + ring + RING.LENGTH, size);
      this.#store(base + ring + RING.HEAD, random.chance(0.8) ? 0 : random.below(0x1_0000));
      if (ring === NIC.RDBAL) this.#store(base + NIC.RCTL, random.pick([0x0400_801e, 0x0400_805e, random.next()]));
      else this.#store(base + NIC.TCTL, random.pick([0x10a, 0x0004_010a, random.next()]));
      if (random.chance(0.5)) this.#store(base + NIC.CTRL, 0x40);
      this.#store(base + ring + RING.TAIL, random.chance(0.7) ? random.below(size / 16) : random.below(0x1_0000));
    }
  }

  // Of a few kilobytes a card makes megabytes when it is told to cut them into frames of one byte each, with a long header.
  #amplify(): void {
    const { random, ram, functions } = this.#hands;
    const base = functions.find((fn) => fn instanceof E1000Function && fn.bars[0]?.placed)?.bars[0]?.placed;
    if (!base || random.chance(0.99)) return;
    const view = new DataView(ram.buffer, ram.byteOffset, RAM_BYTES);
    const packets = 40;
    view.setUint32(ARENA.from, 0, true);
    view.setUint32(ARENA.from + 4, 0, true);
    view.setUint32(ARENA.from + 8, 0x2700_1000, true); // a context for cutting 4096 bytes
    view.setUint32(ARENA.from + 12, 0x0001_ff00, true); // segments of 1 byte after 255 of header
    for (let at = ARENA.from + 16; at <= ARENA.from + 16 * packets; at += 16) {
      view.setUint32(at, 0, true);
      view.setUint32(at + 4, 0, true);
      view.setUint32(at + 8, 0x2510_10ff, true); // a whole packet of data, to be cut
      view.setUint32(at + 12, 0, true);
    }
    this.#store(base + NIC.TDBAL, ARENA.from);
    this.#store(base + NIC.TDBAL + RING.HIGH, 0);
    this.#store(base + NIC.TDBAL + RING.LENGTH, 0x1000);
    this.#store(base + NIC.TDBAL + RING.HEAD, 0);
    this.#store(base + NIC.CTRL, 0x40);
    this.#store(base + NIC.TCTL, 2);
    this.#store(base + NIC.TDBAL + RING.TAIL, packets + 1);
  }

  #diskCommand(): void {
    const random = this.#hands.random;
    const base = random.chance(0.8) ? 0x1f0 : 0x170;
    const big = random.chance(0.3);
    for (const [register, value] of [
      [6, random.pick([0xe0, 0xa0, 0xf0])],
      [2, random.pick([0, 1, 8, random.below(256)])],
      [3, random.below(256)],
      [4, big ? random.below(256) : 0],
      [5, big ? random.below(256) : 0],
    ] as const)
      this.#out(base + register, 1, value);
    const master = this.#hands.pc.ide.bars[4]?.placed;
    if (master && random.chance(0.7)) {
      const engine = master + (base === 0x1f0 ? 0 : 8);
      this.#out(engine, 1, 0);
      this.#out(engine + 2, 1, 6);
      this.#out(engine + 4, 4, random.chance(0.9) ? this.#arena() : hostileValue(random));
      const write = random.chance(0.5);
      this.#out(base + 7, 1, random.pick(write ? [0xca, 0x35] : [0xc8, 0x25]));
      this.#out(engine, 1, (write ? 0 : 8) | 1);
    } else {
      this.#out(base + 7, 1, random.pick([0x20, 0x30, 0x24, 0x34, 0x29, 0x39, 0xc4, 0xc5, 0xc6, 0xec, 0x42, 0xe7, 0xef, 0x91, random.below(256)]));
      this.#hands.advance(random.below(1_000_000));
      for (let word = 0; word < 16; word++)
        this.#hands.access(this.#hands.pc.ports, random.chance(0.5), base, random.pick([2, 4] as const), BigInt(random.next()));
    }
  }

  // The bus master's table is a block of 64 KiB, and wraps. Without a last entry, and with two bytes in each, only a count of entries ends it.
  #longTable(): void {
    const { random, ram, pc } = this.#hands;
    const master = pc.ide.bars[4]?.placed;
    if (!master || random.chance(0.99)) return;
    const block = ARENA.from;
    this.#config(0xf9, 0, 0x04, 7);
    const view = new DataView(ram.buffer, ram.byteOffset, RAM_BYTES);
    for (let at = block; at < block + 0x1_0000; at += 8) {
      view.setUint32(at, block + 0x1_8000, true);
      view.setUint32(at + 4, 2, true);
    }
    this.#out(master, 1, 0);
    this.#out(master + 4, 4, block);
    this.#out(0x3f6, 1, 4);
    this.#out(0x3f6, 1, 0);
    this.#hands.advance(1e7);
    const count = 512 + random.below(512);
    for (const [register, value] of [
      [6, 0xe0],
      [2, count >> 8],
      [2, count & 0xff],
      [3, 0],
      [3, 0],
      [4, 0],
      [4, 0],
      [5, 0],
      [5, 0],
      [7, 0x25],
    ] as const)
      this.#out(0x1f0 + register, 1, value);
    this.#out(master, 1, 9);
    this.#hands.advance(1e9);
  }

  #transfer(): void {
    const at = this.#arena();
    this.#out(0x514, 4, this.#hands.random.chance(0.95) ? 0 : this.#hands.random.next());
    this.#out(0x518, 4, ((at & 0xff) << 24) | ((at & 0xff00) << 8) | ((at >>> 8) & 0xff00) | (at >>> 24));
  }

  #timersOn(): void {
    const random = this.#hands.random;
    switch (random.below(4)) {
      case 0:
        this.#out(0x43, 1, (random.below(3) << 6) | 0x30 | (random.below(8) << 1));
        for (let half = 0; half < 2; half++) this.#out(0x40 + random.below(3), 1, random.pick([0, 1, 2, random.below(256)]));
        break;
      case 1:
        this.#out(0x70, 1, 0x0a);
        this.#out(0x71, 1, 0x20 | random.below(16));
        this.#out(0x70, 1, 0x0b);
        this.#out(0x71, 1, random.below(256));
        break;
      case 2:
        this.#store(0xfee0_00f0, 0x1ff);
        this.#store(0xfee0_0320, random.pick([0x2_0031, 0x31, 0x4_0031, random.next()]));
        this.#store(0xfee0_03e0, random.below(16));
        this.#store(0xfee0_0380, random.pick([1, 1000, random.next()]));
        break;
      default: {
        const { pmBase } = this.#hands.pc.chipset;
        this.#config(0xf8, 0, 0x40, 0x600);
        this.#config(0xf8, 0, 0x44, 0x80);
        if (pmBase !== null) this.#out(pmBase + 2, 2, random.below(0x1_0000));
      }
    }
  }

  #route(): void {
    const random = this.#hands.random;
    const pin = random.below(26);
    this.#store(0xfec0_0000, 0x11 + 2 * pin);
    this.#store(0xfec0_0010, random.pick([0, 0xff00_0000, random.next()]));
    this.#store(0xfec0_0000, 0x10 + 2 * pin);
    this.#store(0xfec0_0010, random.pick([0x8020, 0x8000, 0x20, random.next()]) + random.below(256));
    if (random.chance(0.2))
      for (const chip of [0x20, 0xa0]) for (const word of [0x11, 0x20, 4, 1, 0]) this.#out(chip + (word === 0x11 ? 0 : 1), 1, word);
  }

  #interprocessor(): void {
    const random = this.#hands.random;
    this.#store(0xfee0_00f0, 0x1ff);
    this.#store(0xfee0_0310, random.pick([0, 0x0100_0000, 0xff00_0000]));
    this.#store(0xfee0_0300, random.pick([0x4500, 0x4608, 0x4400, 0xc_4031, 0x8_4032, random.next()]));
  }
}
