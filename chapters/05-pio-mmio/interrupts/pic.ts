// # Two 8259s
//
// The oldest interrupt controller of the PC is a chip with eight inputs, and the PC has two: the second one's output is input 2 of the first. Every
// guest meets them, if only to switch them off, and firmware and boot loaders use nothing else.
//
// The chip is three bytes and a rule. IRR holds what has been requested, ISR what a processor is busy with, IMR what is not wanted. The output is
// raised when the highest request that is not masked outranks everything in ISR. A processor that sees the output asks *which?* by an acknowledge
// cycle; the chip moves the bit from IRR to ISR and answers with a vector. Until software says end of interrupt, ISR keeps lower ones away.

import { KvmPicState } from '../../02-kvm-objects/abi/irqchip.ts';
import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, parts } from '../../03-vcpu-loop/devices/state.ts';
import { RegisterFile, registerTable } from '../registers.ts';

export const PIC_REGISTERS = registerTable('8259A', 'Intel 8259A data sheet, "Programming the 8259A"', {
  COMMAND: { offset: 0, bytes: 1, access: 'rw', text: 'write: ICW1 (bit 4), OCW3 (bit 3) or OCW2; read: IRR or ISR, or the poll byte' },
  DATA: { offset: 1, bytes: 1, access: 'rw', text: 'ICW2, ICW3 and ICW4 after an ICW1; otherwise OCW1, the mask' },
});

export const ELCR_REGISTERS = registerTable('ELCR', 'Intel 82801 (ICH9) data sheet, "Edge/Level Control Registers"', {
  ELCR1: { offset: 0, bytes: 1, access: 'rw', text: 'inputs 7–3: a set bit makes the input level-triggered' },
  ELCR2: { offset: 1, bytes: 1, access: 'rw', text: 'inputs 15, 14, 12–9: a set bit makes the input level-triggered' },
});

/** Where the PC has them. */
export const PIC_PORTS = { MASTER: 0x20, SLAVE: 0xa0, ELCR: 0x4d0 } as const;
export const PIC_INPUTS = 16;
const CASCADE = 2; // the input of the first chip on which the second one sits
/** The timer, the keyboard, the cascade, the clock and the coprocessor cannot be made level-triggered. */
const ELCR_MASK = [0xf8, 0xde] as const;

const ICW1 = { IC4: 0x01, ICW1: 0x10 } as const;
const ICW4 = { AEOI: 0x02, SFNM: 0x10 } as const;
const OCW3 = { RIS: 0x01, RR: 0x02, POLL: 0x04, OCW3: 0x08, SMM: 0x20, ESMM: 0x40 } as const;
/** OCW2, bits 7–5: rotate, specific, end of interrupt. */
const OCW2 = { CLEAR_ROTATE_AEOI: 0, EOI: 1, SPECIFIC_EOI: 3, SET_ROTATE_AEOI: 4, ROTATE_EOI: 5, SET_PRIORITY: 6, ROTATE_SPECIFIC_EOI: 7 } as const;
const POLL_INTERRUPT = 0x80;

/** The values of one chip, by the names of `struct kvm_pic_state`. */
type State = ReturnType<typeof KvmPicState.decode>;
const BLANK = KvmPicState.decode(KvmPicState.encode());

/** What KVM_IRQ_LINE_STATUS says of a request. */
const LINE = { MASKED: -1, COALESCED: 0, DELIVERED: 1 } as const;

class Chip {
  state: State;

  constructor(elcrMask: number) {
    this.state = { ...BLANK, elcr_mask: elcrMask };
  }

  /** Takes a `struct kvm_pic_state`. Its bytes come from outside, so each field is cut to what the chip can hold. */
  take(bytes: Uint8Array): void {
    const { elcr_mask } = this.state;
    const given = KvmPicState.decode(bytes);
    this.state = {
      ...given,
      priority_add: given.priority_add & 7,
      init_state: given.init_state & 3,
      poll: given.poll ? 1 : 0,
      elcr: given.elcr & elcr_mask,
      elcr_mask,
    };
  }

  // ## A request
  //
  // An edge-triggered input requests when it *rises*; lowering it afterwards takes nothing back, which differs from the chip's own data sheet (there
  // the input must stay up until the acknowledge) and is what every emulation does, because a device that pulses its line would otherwise lose
  // interrupts. A level-triggered input requests for as long as it is up.

  // @clause pic.request
  // @clause pic.level
  set(input: number, level: boolean): number {
    const { state } = this;
    const mask = 1 << input;
    const before = state.irr;
    if (state.elcr & mask) state.irr = level ? state.irr | mask : state.irr & ~mask;
    else if (level && (state.last_irr & mask) === 0) state.irr |= mask;
    const changed = !level || (state.irr & ~before & mask) !== 0;
    const coalesced = level && !changed && (before & mask) !== 0 && ((state.elcr & mask) !== 0 || (state.last_irr & mask) === 0);
    state.last_irr = level ? state.last_irr | mask : state.last_irr & ~mask;
    if (state.imr & mask) return LINE.MASKED;
    return coalesced ? LINE.COALESCED : LINE.DELIVERED;
  }

  // ## Priorities
  //
  // Normally input 0 wins. Rotation moves the beginning: after it input `priority_add` wins, and the one before it is last.

  // @clause pic.rotate
  // @clause pic.priority
  /** How far from the beginning the first set bit of `bits` is; 8 when there is none. */
  rank(bits: number): number {
    for (let rank = 0; rank < 8; rank++) if (bits & (1 << ((rank + this.state.priority_add) & 7))) return rank;
    return 8;
  }

  // In *special mask mode* a busy input that is masked no longer keeps lower ones away: a handler masks itself and lets everybody else in. In *special
  // fully nested mode* the first chip ignores that its cascade input is busy, so that a second, higher request of the second chip gets through.

  // @clause pic.special-mask
  // @clause pic.special-fully-nested
  /** The input that asks for the processor, or -1. */
  request(master: boolean): number {
    const { irr, imr, isr, special_mask, special_fully_nested_mode, priority_add } = this.state;
    const wanted = this.rank(irr & ~imr);
    if (wanted === 8) return -1;
    let busy = isr;
    if (special_mask) busy &= ~imr;
    if (special_fully_nested_mode && master) busy &= ~(1 << CASCADE);
    return wanted < this.rank(busy) ? (wanted + priority_add) & 7 : -1;
  }

  static readonly STATE = describe<Chip>('8259 chip', 1, {
    state: field(
      kind.bytes(KvmPicState.bytes),
      (chip) => KvmPicState.encode(chip.state),
      (chip, bytes) => {
        chip.take(bytes);
      },
    ),
  });
}

interface PicOptions {
  /** The output of the first chip: the processor's INTR, or LINT0 of its local APIC. Told of changes. */
  readonly onOutput: (level: boolean) => void;
  /** An input has left service: what KVM's acknowledge notifiers hear. */
  readonly onEoi?: (irq: number) => void;
}

export class Pic {
  readonly #chips = [new Chip(ELCR_MASK[0]), new Chip(ELCR_MASK[1])] as const;
  readonly #onOutput: (level: boolean) => void;
  readonly #onEoi: (irq: number) => void;
  #output = false;

  /** The three windows on the port bus. */
  readonly ports: readonly { readonly port: number; readonly bytes: number; readonly registers: Registers }[];

  constructor({ onOutput, onEoi = () => {} }: PicOptions) {
    this.#onOutput = onOutput;
    this.#onEoi = onEoi;
    const chip = (index: 0 | 1): Registers =>
      new RegisterFile(PIC_REGISTERS, {
        COMMAND: { read: () => this.#read(index, 0), write: (value) => this.#command(index, value) },
        DATA: { read: () => this.#read(index, 1), write: (value) => this.#data(index, value) },
      });
    const elcr = (index: 0 | 1) => ({
      read: () => this.#chips[index].state.elcr,
      write: (value: number) => {
        const { state } = this.#chips[index];
        state.elcr = value & state.elcr_mask;
      },
    });
    this.ports = [
      { port: PIC_PORTS.MASTER, bytes: 2, registers: chip(0) },
      { port: PIC_PORTS.SLAVE, bytes: 2, registers: chip(1) },
      { port: PIC_PORTS.ELCR, bytes: 2, registers: new RegisterFile(ELCR_REGISTERS, { ELCR1: elcr(0), ELCR2: elcr(1) }) },
    ];
  }

  /** Whether the processor is being asked. */
  get output(): boolean {
    return this.#output;
  }

  /** Whether an input's mask bit is set. */
  masked(irq: number): boolean {
    const chip = this.#chips[irq >> 3];
    return chip !== undefined && (chip.state.imr & (1 << (irq & 7))) !== 0;
  }

  /** Drives input `irq` (0–15). Returns a LINE, or -1 for an input that does not exist. */
  setIrq(irq: number, level: boolean): number {
    if (!(irq >= 0 && irq < PIC_INPUTS)) return LINE.MASKED;
    const status = this.#chips[irq >> 3]!.set(irq & 7, level);
    this.#update();
    return status;
  }

  // @clause pic.cascade
  // The second chip does not hold the cascade input up: it pulses it each time that its own state is looked at, so an edge is made anew after every
  // acknowledge and every end of interrupt.
  #update(): void {
    const [master, slave] = this.#chips;
    if (slave.request(false) >= 0) {
      master.set(CASCADE, true);
      master.set(CASCADE, false);
    }
    this.#drive();
  }

  #drive(): void {
    const output = this.#chips[0].request(true) >= 0;
    if (output === this.#output) return;
    this.#output = output;
    this.#onOutput(output);
  }

  // ## The acknowledge cycle
  //
  // A request may be gone by the time the processor asks: a level-triggered line was lowered, or software masked it in between. The chip must answer
  // all the same, and answers with its input 7 without setting any bit in ISR. A driver for input 7 or 15 has to read ISR to know a real one, and must
  // not send an end of interrupt for the other: it would end somebody else's.

  // @clause pic.service
  // @clause pic.spurious
  /** INTA: the vector. */
  acknowledge(): number {
    const [master, slave] = this.#chips;
    const irq = master.request(true);
    let vector = master.state.irq_base + 7;
    if (irq >= 0) {
      this.#serve(0, irq);
      vector = master.state.irq_base + irq;
      if (irq === CASCADE) {
        const inner = slave.request(false);
        if (inner >= 0) this.#serve(1, inner);
        vector = slave.state.irq_base + (inner >= 0 ? inner : 7);
      }
    }
    this.#update();
    return vector;
  }

  // @clause pic.auto-eoi
  #serve(index: 0 | 1, input: number): void {
    const { state } = this.#chips[index];
    state.isr |= 1 << input;
    if ((state.elcr & (1 << input)) === 0) state.irr &= ~(1 << input); // a level stays requested for as long as it is up
    if (!state.auto_eoi) return;
    if (state.rotate_on_auto_eoi) state.priority_add = (input + 1) & 7;
    this.#end(index, input);
  }

  #end(index: 0 | 1, input: number): void {
    this.#chips[index].state.isr &= ~(1 << input);
    this.#onEoi(index * 8 + input);
  }

  // ## Programming
  //
  // Two ports, seven words. Which word a byte is depends on its bits, and after an ICW1 on what came before: ICW1 starts a sequence in which the
  // data port takes ICW2 (the vectors), ICW3 (the cascade, which a PC cannot change and the model ignores) and, when announced, ICW4.

  // @clause pic.mask
  #command(index: 0 | 1, value: number): void {
    const { state } = this.#chips[index];
    if (value & ICW1.ICW1) {
      Object.assign(state, { last_irr: 0, imr: 0, priority_add: 0, special_mask: 0, read_reg_select: 0, init_state: 1, init4: value & ICW1.IC4 });
      // Requests of edge-triggered inputs are forgotten, and nothing is in service; a level that is still up asks again at once.
      state.irr &= state.elcr;
      state.isr = 0;
      if (!state.init4) Object.assign(state, { special_fully_nested_mode: 0, auto_eoi: 0 });
      this.#drive(); // the cascade's edge is forgotten with the others
      return;
    } else if (value & OCW3.OCW3) {
      if (value & OCW3.POLL) state.poll = 1;
      if (value & OCW3.RR) state.read_reg_select = value & OCW3.RIS;
      if (value & OCW3.ESMM) {
        state.special_mask = value & OCW3.SMM ? 1 : 0;
        this.#update();
      }
    } else {
      this.#operate(index, value >> 5, value & 7);
    }
  }

  // @clause pic.eoi
  #operate(index: 0 | 1, operation: number, input: number): void {
    const chip = this.#chips[index];
    const { state } = chip;
    switch (operation) {
      case OCW2.CLEAR_ROTATE_AEOI:
      case OCW2.SET_ROTATE_AEOI:
        state.rotate_on_auto_eoi = operation === OCW2.SET_ROTATE_AEOI ? 1 : 0;
        return;
      case OCW2.EOI:
      case OCW2.ROTATE_EOI: {
        // Without a number: the highest that is in service. In special mask mode one that is masked does not count.
        const rank = chip.rank(state.special_mask ? state.isr & ~state.imr : state.isr);
        if (rank === 8) return;
        const highest = (rank + state.priority_add) & 7;
        if (operation === OCW2.ROTATE_EOI) state.priority_add = (highest + 1) & 7;
        this.#end(index, highest);
        break;
      }
      case OCW2.SET_PRIORITY:
        state.priority_add = (input + 1) & 7;
        break;
      case OCW2.SPECIFIC_EOI:
      case OCW2.ROTATE_SPECIFIC_EOI:
        if (operation === OCW2.ROTATE_SPECIFIC_EOI) state.priority_add = (input + 1) & 7;
        this.#end(index, input);
        break;
      default:
        return; // 2: no operation
    }
    this.#update();
  }

  #data(index: 0 | 1, value: number): void {
    const { state } = this.#chips[index];
    switch (state.init_state) {
      case 0:
        state.imr = value;
        this.#update();
        return;
      case 1:
        state.irq_base = value & 0xf8;
        state.init_state = 2;
        break;
      case 2:
        state.init_state = state.init4 ? 3 : 0;
        break;
      default:
        state.special_fully_nested_mode = value & ICW4.SFNM ? 1 : 0;
        state.auto_eoi = value & ICW4.AEOI ? 1 : 0;
        state.init_state = 0;
    }
    this.#drive();
  }

  // ## Reading, and the poll
  //
  // After a poll command the next read *is* the acknowledge cycle, and its answer is a byte: bit 7 says that there was a request, the low three say
  // which. It serves a machine that does not want interrupts.

  // @clause pic.poll
  #read(index: 0 | 1, port: 0 | 1): number {
    const chip = this.#chips[index];
    const { state } = chip;
    if (!state.poll) return port === 1 ? state.imr : state.read_reg_select ? state.isr : state.irr;
    state.poll = 0;
    const input = chip.request(index === 0);
    if (input >= 0) this.#serve(index, input);
    // The first chip latched the cascade's edge; the request behind it has just been taken another way.
    if (index === 1) this.#chips[0].state.irr &= ~(1 << CASCADE);
    this.#update();
    return input >= 0 ? POLL_INTERRUPT | input : 0;
  }

  // ## State

  /** `struct kvm_pic_state` of the first (0) or second (1) chip. */
  save(index: 0 | 1): Uint8Array {
    return KvmPicState.encode(this.#chips[index].state);
  }

  /** Takes such a structure. */
  load(index: 0 | 1, bytes: Uint8Array): void {
    this.#chips[index].take(bytes);
    this.#update();
  }

  /** Power-up. */
  reset(): void {
    for (const [index, chip] of this.#chips.entries()) chip.state = { ...BLANK, elcr_mask: ELCR_MASK[index] as number };
    this.#update();
  }

  static readonly STATE = describe<Pic>('8259', 1, {
    chips: parts((pic) => pic.#chips, Chip.STATE),
    output: field(
      kind.flag,
      (pic) => pic.#output,
      (pic, output) => {
        pic.#output = output;
      },
    ),
  });
}
