// # The I/O APIC
//
// A device's wire ends here. For each of its {{IOAPIC_PINS}} inputs the chip has a *redirection entry*: which vector, to whom, edge or level, masked or
// not. When an input asks, the entry becomes a message to the local APICs.
//
// Edges are simple: one edge, one message. A level is a question that must be asked again. The chip sends one message, remembers in *remote IRR* that
// a processor has it, and is silent until that processor's EOI comes back; if the wire is still up then, it sends another. That return path is why a
// local APIC must remember of every vector whether it was level-triggered, and why an EOI is sometimes an exit to user space.

import { bit, bitfield, bits } from '../../01-hardware-background/layout.ts';
import { KvmIoapicState } from '../../02-kvm-objects/abi/irqchip.ts';
import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { array, describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import { RegisterFile, registerTable } from '../registers.ts';
import type { ApicMessage } from './apic-message.ts';

export const IOAPIC_REGISTERS = registerTable('82093AA', 'Intel 82093AA data sheet, "Memory Mapped Registers"', {
  IOREGSEL: { offset: 0x00, bytes: 4, access: 'rw', text: 'which register the window shows, bits 7–0' },
  IOWIN: { offset: 0x10, bytes: 4, access: 'rw', text: 'the window' },
  EOI: { offset: 0x40, bytes: 4, access: 'wo', text: 'version 0x20 and later: ends the level-triggered interrupts of a vector' },
});

/** Behind the window. */
const IOAPIC_INDEX = { ID: 0, VERSION: 1, ARBITRATION: 2, REDIRECTION: 0x10 } as const;

/** The low half of a redirection entry; the destination is bits 31–24 of the high half. */
const REDIRECTION = bitfield('redirection entry', {
  VECTOR: bits(0, 7),
  MODE: bits(8, 10, 'a DELIVERY'),
  LOGICAL: bit(11, 'the destination is a set of logical IDs'),
  STATUS: bit(12, 'read-only; a message waits to be sent: never, here'),
  POLARITY: bit(13, 'active low; wires here carry the meaning, not the voltage'),
  REMOTE_IRR: bit(14, 'read-only; a processor has it and has not said EOI'),
  LEVEL: bit(15, 'level-triggered'),
  MASK: bit(16),
});
const { STATUS, REMOTE_IRR, LEVEL, MASK } = REDIRECTION.mask;
const WRITABLE = 0x1ffff & ~(STATUS | REMOTE_IRR);

export const IOAPIC_BASE = 0xfec0_0000;
export const IOAPIC_PINS = 24;
export const IOAPIC_BYTES = 0x100;

interface IoApicOptions {
  /** Sends a message to the local APICs: how many took it. */
  readonly send: (message: ApicMessage) => number;
  /** A level-triggered pin's interrupt has been ended: resample irqfds, KVM's acknowledge notifiers. */
  readonly onEoi?: (pin: number) => void;
  /** Entries, masks or destinations have changed. */
  readonly onRoutes?: () => void;
  /** 0x11 as KVM's and the original's; 0x20 adds the EOI register. */
  readonly version?: 0x11 | 0x20;
}

export class IoApic {
  readonly #send: (message: ApicMessage) => number;
  readonly #onEoi: (pin: number) => void;
  readonly #onRoutes: () => void;
  readonly #version: number;
  #select = 0;
  #id = 0;
  #levels = 0; // the inputs
  #told = 0; // edges that have become messages: a saved state has only those that have not
  readonly #low = new Uint32Array(IOAPIC_PINS).fill(MASK);
  readonly #high = new Uint32Array(IOAPIC_PINS);
  readonly registers: Registers;

  constructor({ send, onEoi = () => {}, onRoutes = () => {}, version = 0x11 }: IoApicOptions) {
    this.#send = send;
    this.#onEoi = onEoi;
    this.#onRoutes = onRoutes;
    this.#version = version;
    this.registers = new RegisterFile(IOAPIC_REGISTERS, {
      IOREGSEL: { read: () => this.#select, write: (value) => (this.#select = value & 0xff) },
      IOWIN: { read: () => this.#read(), write: (value) => this.#write(value) },
      EOI: { write: (value) => version >= 0x20 && this.eoi(value & 0xff) },
    });
  }

  // ## A pin moves
  //
  // A masked *level* is not lost: the wire is still up when the mask goes. A masked *edge* is lost, by the data sheet. KVM remembers it in the same
  // `irr` as the wire, and so an edge whose wire stays up is coalesced with the next.

  // @clause ioapic.edge
  /** Drives an input. As KVM_IRQ_LINE_STATUS: negative when masked or not wanted, 0 coalesced, else the number of processors that took it. */
  setIrq(pin: number, level: boolean): number {
    if (!(pin >= 0 && pin < IOAPIC_PINS)) return -1;
    const mask = 1 << pin;
    const was = (this.#levels & mask) !== 0;
    this.#levels = level ? this.#levels | mask : this.#levels & ~mask;
    if (!level) return 1;
    if (((this.#low[pin] as number) & LEVEL) === 0) {
      this.#told &= ~mask;
      if (was) return 0;
    }
    return this.#service(pin);
  }

  // @clause ioapic.level
  #service(pin: number): number {
    const entry = this.#low[pin] as number;
    if (entry & MASK || (entry & LEVEL && entry & REMOTE_IRR)) return -1;
    if ((entry & LEVEL) === 0) this.#told |= 1 << pin;
    const taken = this.#send(this.message(pin));
    if (taken !== 0 && entry & LEVEL) this.#low[pin] = (this.#low[pin] as number) | REMOTE_IRR;
    return taken;
  }

  // @clause ioapic.destination
  /** What an entry sends. */
  message(pin: number): ApicMessage {
    const entry = this.#low[pin] as number;
    return {
      vector: REDIRECTION.get(entry, 'VECTOR'),
      mode: REDIRECTION.get(entry, 'MODE'),
      destination: (this.#high[pin] as number) >>> 24,
      logical: REDIRECTION.get(entry, 'LOGICAL') !== 0,
      level: true,
      levelTriggered: (entry & LEVEL) !== 0,
    };
  }

  /** Whether the pin's entry is masked. */
  masked(pin: number): boolean {
    return ((this.#low[pin] as number) & MASK) !== 0;
  }

  // ## The answer
  //
  // An EOI carries a vector, not a pin: two pins with one vector are both ended by it.

  // @clause ioapic.level
  /** A processor has said EOI for a level-triggered vector. */
  eoi(vector: number): void {
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      const entry = this.#low[pin] as number;
      if (REDIRECTION.get(entry, 'VECTOR') !== vector || (entry & LEVEL) === 0) continue;
      this.#onEoi(pin); // may lower the wire, so that what follows finds it down
      this.#low[pin] = (this.#low[pin] as number) & ~REMOTE_IRR;
      if (this.#levels & (1 << pin)) this.#service(pin);
    }
  }

  // ## The window

  // @clause ioapic.registers
  #read(): number {
    switch (this.#select) {
      case IOAPIC_INDEX.ID:
      case IOAPIC_INDEX.ARBITRATION:
        return this.#id << 24;
      case IOAPIC_INDEX.VERSION:
        return ((IOAPIC_PINS - 1) << 16) | this.#version;
      default: {
        const pin = (this.#select - IOAPIC_INDEX.REDIRECTION) >> 1;
        if (this.#select < IOAPIC_INDEX.REDIRECTION || pin >= IOAPIC_PINS) return 0xffff_ffff;
        return ((this.#select & 1 ? this.#high[pin] : this.#low[pin]) as number) >>> 0;
      }
    }
  }

  #write(value: number): void {
    if (this.#select === IOAPIC_INDEX.ID) this.#id = (value >>> 24) & 0xf;
    const pin = (this.#select - IOAPIC_INDEX.REDIRECTION) >> 1;
    if (this.#select < IOAPIC_INDEX.REDIRECTION || pin >= IOAPIC_PINS) return;
    if (this.#select & 1) {
      this.#high[pin] = value;
    } else {
      const kept = (this.#low[pin] as number) & (STATUS | REMOTE_IRR);
      // Software without an EOI register ends an interrupt by making the entry edge-triggered for a moment: that clears remote IRR.
      // @clause ioapic.remote-irr.edge-clears
      this.#low[pin] = (value & WRITABLE) | (value & LEVEL ? kept : kept & ~REMOTE_IRR);
    }
    this.#onRoutes();
    if ((this.#low[pin] as number) & LEVEL && this.#levels & (1 << pin)) this.#service(pin);
  }

  // ## State

  /** `struct kvm_ioapic_state`. */
  save(): Uint8Array {
    const state = KvmIoapicState.encode({
      base_address: BigInt(IOAPIC_BASE),
      ioregsel: this.#select,
      id: this.#id,
      irr: (this.#levels & ~this.#told) >>> 0,
    });
    const view = new DataView(state.buffer);
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      view.setUint32(KvmIoapicState.fields.redirtbl.at(pin), this.#low[pin] as number, true);
      view.setUint32(KvmIoapicState.fields.redirtbl.at(pin) + 4, this.#high[pin] as number, true);
    }
    return state;
  }

  /** Takes such a structure; wires that are up in it ask again, as after KVM_SET_IRQCHIP. */
  load(bytes: Uint8Array): void {
    const { ioregsel, id, irr } = KvmIoapicState.decode(bytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#select = ioregsel & 0xff;
    this.#id = id & 0xf;
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      this.#low[pin] = view.getUint32(KvmIoapicState.fields.redirtbl.at(pin), true) & (WRITABLE | STATUS | REMOTE_IRR);
      this.#high[pin] = view.getUint32(KvmIoapicState.fields.redirtbl.at(pin) + 4, true);
    }
    this.#levels = 0;
    this.#told = 0;
    this.#onRoutes();
    for (let pin = 0; pin < IOAPIC_PINS; pin++) if (irr & (1 << pin)) this.setIrq(pin, true);
  }

  /** Power-up: every pin masked. The wires stay as they are. */
  reset(): void {
    this.#select = 0;
    this.#id = 0;
    this.#low.fill(MASK);
    this.#high.fill(0);
    this.#onRoutes();
  }

  static readonly STATE = describe<IoApic>(
    'I/O APIC',
    1,
    {
      window: field(
        kind.record({ select: kind.u8, id: kind.upTo(15), levels: kind.word, told: kind.word }),
        (a) => ({ select: a.#select, id: a.#id, levels: a.#levels, told: a.#told }),
        (a, v) => {
          ({ select: a.#select, id: a.#id, levels: a.#levels, told: a.#told } = v);
        },
      ),
      low: array((ioapic) => ioapic.#low),
      high: array((ioapic) => ioapic.#high),
    },
    (ioapic) => ioapic.#onRoutes(),
  );
}
