// # A network card
//
// What has been described in parts is put together here: a PCI function with its registers in memory, the same registers through two ports, and
// between them and the cable the EEPROM, the PHY, the two rings, the counters and the interrupt causes.
//
// To send one frame, a driver writes a descriptor and moves the tail: one exit. To learn that it is gone, it takes an interrupt and reads the
// causes: an exit more, and what the interrupt controller costs. That is already much better than the disk's port, and it is what the virtio
// devices of the next chapter have to beat.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Clock } from '../../02-kvm-objects/clock.ts';
import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, part, type SavedPart, savedPart, timer } from '../../03-vcpu-loop/devices/state.ts';
import type { Link } from '../net/link.ts';
import type { PciFunction } from '../pci/function.ts';
import { type RegisterActions, RegisterFile } from '../registers.ts';
import { Eeprom } from './eeprom.ts';
import { Causes, DelayedCause } from './interrupts.ts';
import { PHY_ADDRESS, Phy } from './phy.ts';
import { Receiver } from './receive.ts';
import { CAUSE, CTRL, E1000, E1000_IO, type E1000Register, EECD, EERD, MDIC, RCTL, STATISTICS, STATUS_FIXED, STATUS_LU, TCTL } from './registers.ts';
import { type Statistic, Statistics } from './statistics.ts';
import { type Ring, Transmitter } from './transmit.ts';

export const MEMORY_BYTES = 128 * 1024;
const IO_ADDRESS_MASK = 0x000f_ffff;
/** The card is built of 32-bit registers. */
export const DWORDS = { min: 4, max: 4 } as const;
/** Between two rounds of a very long send. */
const PAUSE_NS = 10_000;

/** The address of the first card, when nobody says another; the first three bytes are those that QEMU's users know. */
const DEFAULT_MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);

export interface E1000Options {
  readonly clock: Clock;
  readonly link: Link;
  readonly mac?: Uint8Array;
  readonly trace?: Trace | null;
}

export class Nic {
  readonly registers: Registers;
  readonly io: Registers;
  readonly #values = new Map<string, Uint32Array>();
  readonly #file: RegisterFile<E1000Register>;
  readonly #clock: Clock;
  readonly #link: Link;
  readonly #trace: Trace | null;
  readonly #eeprom: Eeprom;
  readonly #phy: Phy;
  readonly #causes: Causes;
  readonly #statistics = new Statistics();
  readonly #transmitter: Transmitter;
  readonly #receiver: Receiver;
  readonly #sent: DelayedCause;
  readonly #arrived: DelayedCause;
  readonly #more: ReturnType<Clock['timer']>;
  #linkUp = false;
  #ioAddress = 0;

  constructor({ clock, link, mac = DEFAULT_MAC, trace = null }: E1000Options, { dma, intx }: Pick<PciFunction, 'dma' | 'intx'>) {
    this.#clock = clock;
    this.#link = link;
    this.#trace = trace;
    this.#eeprom = new Eeprom(mac);
    this.#causes = new Causes(clock, intx, trace);
    this.#phy = new Phy(clock, () => this.#updateLink());
    this.#sent = new DelayedCause(clock, () => this.#causes.raise(CAUSE.TXDW));
    this.#arrived = new DelayedCause(clock, () => this.#causes.raise(CAUSE.RXT0));
    this.#more = clock.timer(() => this.#transmit());
    this.#transmitter = new Transmitter({
      dma,
      ring: this.#ring('TDBAL', 'TDBAH', 'TDLEN', 'TDH', 'TDT'),
      vlanType: () => (this.#get('CTRL') & CTRL.VME ? this.#get('VET') & 0xffff : null),
      send: (frame) => this.#send(frame),
      segmented: (frames) => this.#statistics.add(frames === null ? 'TSCTFC' : 'TSCTC'),
    });
    this.#receiver = new Receiver({
      dma,
      ring: this.#ring('RDBAL', 'RDBAH', 'RDLEN', 'RDH', 'RDT'),
      statistics: this.#statistics,
      rctl: () => this.#get('RCTL'),
      rxcsum: () => this.#get('RXCSUM'),
      stripping: () => (this.#get('CTRL') & CTRL.VME) !== 0,
      vlanType: () => this.#get('VET') & 0xffff,
      buffer: () => (this.#get('PBA') & 0x3f) * 1024,
      ral: (index) => this.#get('RAL', index),
      rah: (index) => this.#get('RAH', index),
      mta: (index) => this.#get('MTA', index),
      vfta: (index) => this.#get('VFTA', index),
      received: (bytes) => {
        trace?.emit({ kind: 'device', device: E1000.device, what: 'receive', value: bytes });
        this.#arrived.event(this.#get('RDTR'), this.#get('RADV'));
      },
      low: () => this.#causes.raise(CAUSE.RXDMT0),
      overrun: () => this.#causes.raise(CAUSE.RXO),
    });
    this.#file = new RegisterFile(E1000, this.#actions());
    // The card answers in all of its region, in the gaps with zeros.
    this.registers = {
      name: E1000.device,
      impl: DWORDS,
      read: (offset, width) => (E1000.at(offset) ? this.#file.read(offset, width) : 0n),
      write: (offset, width, value) => this.#file.write(offset, width, value),
    };
    // @clause e1000.io-access
    const io = new RegisterFile(E1000_IO, {
      IOADDR: {
        read: () => this.#ioAddress,
        write: (value) => {
          this.#ioAddress = value & IO_ADDRESS_MASK;
        },
      },
      IODATA: {
        read: () => (this.#ioAddress < MEMORY_BYTES ? Number(this.registers.read(this.#ioAddress & ~3, 4)) : 0),
        write: (value) => {
          if (this.#ioAddress < MEMORY_BYTES) this.registers.write(this.#ioAddress & ~3, 4, BigInt(value));
        },
      },
    });
    this.io = {
      name: E1000_IO.device,
      impl: DWORDS,
      read: (o, w) => (E1000_IO.at(o) ? io.read(o, w) : 0n),
      write: (o, w, v) => io.write(o, w, v),
    };
    link.onFrame = (frame) => {
      if (this.#linkUp && !this.#loopback) this.#receiver.frame(frame);
    };
    this.reset();
  }

  // ## Values
  //
  // A register without an action of its own keeps what is written to it. Most do: they are read by the parts above at the moment of use.

  #get(name: E1000Register, index = 0): number {
    return this.#values.get(name)?.[index] ?? 0;
  }

  #set(name: E1000Register, value: number, index = 0): void {
    const values = this.#values.get(name);
    if (values) values[index] = value;
  }

  #ring(base: E1000Register, high: E1000Register, length: E1000Register, head: E1000Register, tail: E1000Register): Ring {
    const get = (name: E1000Register): number => this.#get(name);
    const set = (name: E1000Register, value: number): void => this.#set(name, value);
    return {
      get base() {
        return get(high) * 2 ** 32 + get(base);
      },
      get size() {
        return get(length) / 16;
      },
      get head() {
        return get(head);
      },
      set head(value) {
        set(head, value);
      },
      get tail() {
        return get(tail);
      },
    };
  }

  #actions(): Record<E1000Register, RegisterActions> {
    const keep = (name: E1000Register): RegisterActions => {
      const writable = (E1000.rows[name] as { writable?: number }).writable ?? 0xffff_ffff;
      return {
        read: (index) => this.#get(name, index),
        write: (value, index) => this.#set(name, (value & writable) >>> 0, index),
      };
    };
    /** Keeps the value, and does something about it. */
    const then = (name: E1000Register, act: () => void): RegisterActions => {
      const { read, write } = keep(name);
      return {
        ...(read ? { read } : {}),
        write: (value, index) => {
          write?.(value, index);
          act();
        },
      };
    };
    const all = Object.fromEntries(Object.keys(E1000.rows).map((name) => [name, keep(name as E1000Register)])) as Record<
      E1000Register,
      RegisterActions
    >;
    for (const name of Object.keys(STATISTICS) as Statistic[]) all[name] = { read: () => this.#statistics.read(name) };
    const receive = (): void => this.#receiver.drain();
    return {
      ...all,
      CTRL: { read: () => this.#get('CTRL'), write: (value) => this.#control(value) },
      STATUS: { read: () => STATUS_FIXED | (this.#linkUp ? STATUS_LU : 0) },
      EECD: { read: () => this.#readEecd(), write: (value) => this.#writeEecd(value) },
      EERD: { read: () => this.#get('EERD'), write: (value) => this.#eerd(value) },
      MDIC: { read: () => this.#get('MDIC'), write: (value) => this.#mdic(value) },
      ICR: {
        read: () => this.#causes.take(),
        write: (value) => {
          this.#causes.icr &= ~value;
          this.#causes.update();
        },
      },
      ICS: { write: (value) => this.#causes.raise(value & CAUSE.WRITABLE) },
      ITR: then('ITR', () => {
        this.#causes.itr = this.#get('ITR');
      }),
      IMS: { read: () => this.#causes.ims, write: (value) => this.#mask(this.#causes.ims | (value & CAUSE.WRITABLE)) },
      IMC: { write: (value) => this.#mask(this.#causes.ims & ~value) },
      RCTL: then('RCTL', receive),
      RDT: then('RDT', receive),
      TCTL: then('TCTL', () => this.#transmit()),
      TDT: then('TDT', () => this.#transmit()),
    };
  }

  #mask(value: number): void {
    this.#causes.ims = value;
    this.#causes.update();
  }

  // ## Control and reset
  //
  // A reset of the card puts every register back, takes the address from the EEPROM again, and forgets both rings. The PHY is another chip, and
  // keeps its link.

  // @clause e1000.reset
  reset(): void {
    for (const [name, { reset = 0, count = 1 }] of Object.entries(E1000.rows) as [E1000Register, { reset?: number; count?: number }][]) {
      const values = this.#values.get(name) ?? new Uint32Array(count);
      values.fill(reset);
      this.#values.set(name, values);
    }
    const { mac } = this.#eeprom;
    const view = new DataView(mac.buffer);
    this.#set('RAL', view.getUint32(0, true));
    this.#set('RAH', (0x8000_0000 | view.getUint16(4, true)) >>> 0);
    this.#transmitter.reset();
    this.#receiver.reset();
    this.#statistics.reset();
    for (const timer of [this.#sent, this.#arrived, this.#more]) timer.cancel();
    this.#causes.reset();
    this.#ioAddress = 0;
    this.#linkUp = false;
  }

  #control(value: number): void {
    if (value & CTRL.RST) {
      this.reset();
      return;
    }
    this.#set('CTRL', (value & ~CTRL.PHY_RST) >>> 0);
    if (value & CTRL.PHY_RST) this.#phy.reset();
    this.#updateLink();
  }

  // The link is up when the PHY has one and the driver has asked for it.
  // @clause e1000.link
  #updateLink(): void {
    const up = this.#phy.link && (this.#get('CTRL') & CTRL.SLU) !== 0;
    if (up === this.#linkUp) return;
    this.#linkUp = up;
    this.#causes.raise(CAUSE.LSC);
  }

  // ## EEPROM and PHY

  #readEecd(): number {
    const wires = this.#get('EECD') & EECD.WRITABLE;
    return wires | EECD.PRES | (wires & EECD.REQ ? EECD.GNT : 0) | (this.#eeprom.out ? EECD.DO : 0);
  }

  #writeEecd(value: number): void {
    this.#set('EECD', value & EECD.WRITABLE);
    this.#eeprom.drive(value);
  }

  #eerd(value: number): void {
    if (!(value & EERD.START)) {
      this.#set('EERD', 0);
      return;
    }
    const address = (value >> 8) & 0xff;
    this.#set('EERD', ((this.#eeprom.read(address) << 16) | (address << 8) | EERD.DONE) >>> 0);
  }

  // @clause e1000.mdic
  #mdic(value: number): void {
    const register = (value >> 16) & 31;
    const here = ((value >> 21) & 31) === PHY_ADDRESS;
    const operation = value & MDIC.OP;
    let result = value & ~(MDIC.ERROR | MDIC.READY);
    let failed = !here || (operation !== MDIC.READ && operation !== MDIC.WRITE);
    if (!failed && operation === MDIC.READ) {
      const data = this.#phy.read(register);
      failed = data === null;
      result = (result & ~0xffff) | (data ?? 0);
    } else if (!failed) {
      failed = !this.#phy.write(register, value & 0xffff);
    }
    this.#set('MDIC', (result | MDIC.READY | (failed ? MDIC.ERROR : 0)) >>> 0);
    if (value & MDIC.INTERRUPT) this.#causes.raise(CAUSE.MDAC);
  }

  // ## Frames

  get #loopback(): boolean {
    return this.#phy.loopback || (this.#get('RCTL') & RCTL.LBM) !== 0;
  }

  #transmit(): void {
    if (!(this.#get('TCTL') & TCTL.EN)) return;
    const { reported, mayWait, empty, more } = this.#transmitter.run();
    if (more) this.#more.arm(this.#clock.now() + PAUSE_NS);
    if (empty) this.#causes.raise(CAUSE.TXQE);
    if (reported && mayWait) this.#sent.event(this.#get('TIDV'), this.#get('TADV'));
    else if (reported) this.#sent.now();
  }

  #send(frame: Uint8Array): void {
    const short = frame.length < 60 && (this.#get('TCTL') & TCTL.PSP) !== 0;
    let padded = frame;
    if (short) {
      padded = new Uint8Array(60);
      padded.set(frame);
    }
    this.#statistics.frame('sent', padded);
    this.#trace?.emit({ kind: 'device', device: E1000.device, what: 'transmit', value: padded.length });
    if (this.#loopback) this.#receiver.frame(padded);
    else if (this.#linkUp) this.#link.send(padded);
  }

  // ## State

  static readonly STATE = describe<Nic>('e1000', 1, {
    values: {
      text: 'every register',
      save(nic, out) {
        for (const words of nic.#values.values()) for (const word of words) out.u32(word);
      },
      load(nic, from) {
        const read = [...nic.#values.values()].map((words) => words.map(() => from.u32()));
        return () => {
          for (const [n, words] of [...nic.#values.values()].entries()) words.set(read[n] as Uint32Array);
        };
      },
    },
    eeprom: part((nic) => nic.#eeprom, Eeprom.STATE),
    phy: part((nic) => nic.#phy, Phy.STATE),
    causes: part((nic) => nic.#causes, Causes.STATE),
    statistics: part((nic) => nic.#statistics, Statistics.STATE),
    transmitter: part((nic) => nic.#transmitter, Transmitter.STATE),
    receiver: part((nic) => nic.#receiver, Receiver.STATE),
    sent: part((nic) => nic.#sent, DelayedCause.STATE),
    arrived: part((nic) => nic.#arrived, DelayedCause.STATE),
    more: timer((nic) => nic.#more),
    link: field(
      kind.record({ up: kind.flag, ioAddress: kind.u32 }),
      (nic) => ({ up: nic.#linkUp, ioAddress: nic.#ioAddress }),
      (nic, v) => {
        ({ up: nic.#linkUp, ioAddress: nic.#ioAddress } = v);
      },
    ),
  });

  /** What is saved of the card, and of the cable as far as it is inside the machine. */
  savedParts(name: string): SavedPart[] {
    return [savedPart<Nic>(name, this, Nic.STATE), ...(this.#link.savedParts?.(`${name} cable`) ?? [])];
  }
}
