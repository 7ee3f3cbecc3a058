// # A serial port
//
// The first device of every small VMM, because the guest's side is three instructions long: wait until the transmitter is empty, write a byte.
// This is a 16550A, whole: with its FIFOs, its five reasons to interrupt, the modem lines and the loop-back by which a driver tests it. Where the
// interrupt line leads is not known here; the machine of this chapter has no interrupt controller yet, and a driver may poll the identification
// register, which says what the line would.
//
// Nothing here is slow, so the transmitter is empty whenever it is asked. The receiver is a queue that the host fills as there is room.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import type { Registers, Width } from './bus.ts';
import { describe, field, kind, timer } from './state.ts';

export const SERIAL_PORTS = 8;

/** Where a PC has its four serial ports. They share two interrupt lines, because the first PC had no more to spare. */
export const COM_PORTS = [
  { port: 0x3f8, irq: 4 },
  { port: 0x2f8, irq: 3 },
  { port: 0x3e8, irq: 4 },
  { port: 0x2e8, irq: 3 },
] as const;
export const COM1_PORT = COM_PORTS[0].port;

/** Line status: a byte waits; a byte was lost; the line was broken; the transmitter can take another; it is idle; the FIFO holds an error. */
const LSR = { DR: 0x01, OE: 0x02, BI: 0x10, THRE: 0x20, TEMT: 0x40, FIFO_ERROR: 0x80 } as const;
const LCR = { DLAB: 0x80, BREAK: 0x40, PARITY: 0x08, STOP: 0x04, LENGTH: 0x03 } as const; // with DLAB, ports 0 and 1 are the divisor
/** Modem control: two lines to the modem, two outputs for anything; the transmitter feeds the receiver. */
const MCR = { DTR: 0x01, RTS: 0x02, OUT1: 0x04, OUT2: 0x08, LOOP: 0x10 } as const;
/** Modem status: four lines, and below each whether it has changed since the last reading. */
const MSR = { CTS: 0x10, DSR: 0x20, RI: 0x40, DCD: 0x80, DELTA_SHIFT: 4, DELTAS: 0x0f } as const;
const FCR = { ENABLE: 0x01, CLEAR_RECEIVER: 0x02, CLEAR_TRANSMITTER: 0x04, TRIGGER_SHIFT: 6 } as const;
/** Sources of an interrupt, as bits of IER and as they are reported by IIR, highest priority first. */
const IER = { RDA: 0x01, THRE: 0x02, LINE_STATUS: 0x04, MODEM_STATUS: 0x08 } as const;
const IIR = { LINE_STATUS: 0x06, RDA: 0x04, TIMEOUT: 0x0c, THRE: 0x02, MODEM_STATUS: 0x00, NONE: 0x01, FIFO: 0xc0 } as const;
/** Somebody is at the other end. */
const MSR_CONNECTED = MSR.CTS | MSR.DSR | MSR.DCD;
const FIFO_BYTES = 16;
/** How full the receiver must be before it asks, for each setting of the trigger. */
const TRIGGER_BYTES = [1, 4, 8, 14] as const;
const CLOCK_HZ = 1_843_200;
const CLOCKS_PER_BIT = 16; // for a divisor of 1
const TIMEOUT_CHARACTERS = 4;
const DIVISOR_9600 = 12;

/** How much console output is kept for the caller; a guest that prints for ever costs no more than this. */
const OUTPUT_LIMIT_BYTES = 1 << 20;
/** How many bytes of the input are remembered after they were taken. */
const KEPT_BYTES = 4096;

interface SerialOptions {
  readonly trace?: Trace | null;
  readonly onByte?: ((byte: number) => void) | null;
  /** The interrupt line, as the board sees it. Called when the level changes. */
  readonly onInterrupt?: ((level: boolean) => void) | null;
  /** For the receiver's time-out. Without a clock it is over at once. */
  readonly clock?: Clock | null;
}

/** A byte in the receiver, with what was wrong when it came. */
interface Received {
  readonly byte: number;
  readonly error: number;
}

const RECEIVED = kind.record<Received>({ byte: kind.u8, error: kind.u8 });
/** What may wait outside when the machine is saved. */
const FROM_HOST_LIMIT = 1 << 24;

export class Serial implements Registers {
  readonly name = 'serial';
  readonly #trace: Trace | null;
  readonly #onByte: ((byte: number) => void) | null;
  readonly #onInterrupt: ((level: boolean) => void) | null;
  readonly #clock: Clock | null;
  readonly #silence: Timer | null;
  readonly #output: number[] = [];
  /** Bytes that came after the output was full. */
  lost = 0;
  #fromHost: Received[] = []; // waits outside; moves in as the guest reads
  #taken = 0; // of those
  #received: Received[] = []; // what the chip holds
  #ier = 0;
  #lcr = 0;
  #mcr = 0;
  #scratch = 0;
  #divisor = DIVISOR_9600;
  #fifo = false;
  #trigger = 1;
  #errors = 0; // of line status, until it is read
  #lines: number = MSR_CONNECTED; // what the modem says
  #deltas = 0;
  #emptied = false; // the transmitter has become empty, and nobody has been told yet
  #timedOut = false;
  #level = false;

  constructor({ trace = null, onByte = null, onInterrupt = null, clock = null }: SerialOptions = {}) {
    this.#trace = trace;
    this.#onByte = onByte;
    this.#onInterrupt = onInterrupt;
    this.#clock = clock;
    this.#silence =
      clock?.timer(() => {
        this.#timedOut = true;
        this.#update();
      }) ?? null;
  }

  /** Everything the guest has sent, up to the limit. */
  get output(): Uint8Array {
    return Uint8Array.from(this.#output);
  }

  /** Queues bytes for the guest. The host never overruns the chip: bytes enter as there is room. */
  send(bytes: Iterable<number>): void {
    for (const byte of bytes) this.#fromHost.push({ byte, error: 0 });
    this.#refill();
    this.#update();
  }

  /** How many of those wait outside: whoever sends can wait until the guest has read some. */
  get waiting(): number {
    return this.#fromHost.length - this.#taken;
  }

  /** The other end holds the line low: arrives as a zero byte that is marked. */
  sendBreak(): void {
    this.#fromHost.push({ byte: 0, error: LSR.BI });
    this.#refill();
    this.#update();
  }

  /** Sets the modem's lines: clear to send, data set ready, ring, carrier, as bits of the modem status register. */
  setModemLines(lines: number): void {
    const before = this.#inputs;
    this.#lines = lines & ~MSR.DELTAS;
    this.#noteModem(before);
    this.#update();
  }

  // @clause uart.registers
  read(offset: number, width: Width): bigint {
    let value = 0;
    for (let index = 0; index < width; index++) value += this.#readByte((offset + index) & 7) * 2 ** (8 * index);
    return BigInt(value);
  }

  write(offset: number, width: Width, value: bigint): void {
    for (let index = 0; index < width; index++) this.#writeByte((offset + index) & 7, Number((value >> BigInt(8 * index)) & 0xffn));
  }

  #readByte(port: number): number {
    const divisor = (this.#lcr & LCR.DLAB) !== 0;
    switch (port) {
      case 0:
        return divisor ? this.#divisor & 0xff : this.#receive();
      case 1:
        return divisor ? this.#divisor >> 8 : this.#ier;
      case 2: {
        const source = this.#source;
        // @clause uart.interrupt-transmitter
        if (source === IIR.THRE) this.#emptied = false; // being told is the acknowledgement
        this.#update();
        return source | (this.#fifo ? IIR.FIFO : 0);
      }
      case 3:
        return this.#lcr;
      case 4:
        return this.#mcr;
      case 5: {
        const status = this.#lineStatus;
        this.#errors = 0; // reading the status clears the errors
        this.#update();
        return status;
      }
      case 6: {
        const status = this.#inputs | this.#deltas;
        this.#deltas = 0;
        this.#update();
        return status;
      }
      default:
        return this.#scratch;
    }
  }

  #writeByte(port: number, value: number): void {
    const divisor = (this.#lcr & LCR.DLAB) !== 0;
    switch (port) {
      case 0:
        if (divisor) this.#divisor = (this.#divisor & 0xff00) | value;
        else this.#transmit(value);
        break;
      case 1:
        if (divisor) this.#divisor = (this.#divisor & 0x00ff) | (value << 8);
        else this.#enable(value & 0x0f);
        break;
      case 2:
        this.#setFifo(value);
        break;
      case 3:
        // A break on a line that is looped back arrives.
        if (value & ~this.#lcr & LCR.BREAK && this.#mcr & MCR.LOOP) this.#arrive({ byte: 0, error: LSR.BI });
        this.#lcr = value;
        break;
      case 4:
        this.#setModemControl(value & 0x1f);
        break;
      case 7:
        this.#scratch = value;
        break;
      default: // line and modem status are read-only
    }
    this.#update();
  }

  // ## Why it interrupts
  //
  // One line, five reasons. The identification register names the most urgent one, and each has its own way to be acknowledged: read the status,
  // read the byte, be told, read the modem. Enabling a reason asserts it at once when its condition holds already. A driver that sends by interrupt starts
  // that way: the transmitter is empty, so it enables the interrupt and waits to be asked for the first byte.

  // @clause uart.interrupt-enable
  #enable(ier: number): void {
    if (ier & ~this.#ier & IER.THRE) this.#emptied = true;
    this.#ier = ier;
  }

  // @clause uart.interrupt-priority
  get #source(): number {
    if (this.#ier & IER.LINE_STATUS && this.#errors !== 0) return IIR.LINE_STATUS;
    // @clause uart.interrupt-receiver
    if (this.#ier & IER.RDA && this.#received.length > 0) {
      if (this.#received.length >= this.#trigger) return IIR.RDA;
      if (this.#clock === null || this.#timedOut) return IIR.TIMEOUT;
    }
    if (this.#ier & IER.THRE && this.#emptied) return IIR.THRE;
    return this.#ier & IER.MODEM_STATUS && this.#deltas !== 0 ? IIR.MODEM_STATUS : IIR.NONE;
  }

  // On a PC the chip's spare output OUT2 opens a gate between its interrupt and the bus. That is how two ports can share a line: whoever is
  // not in use keeps the gate shut.
  // @clause uart.interrupt-out2
  #update(): void {
    const level = this.#source !== IIR.NONE && (this.#mcr & MCR.OUT2) !== 0;
    if (level === this.#level) return;
    this.#level = level;
    this.#onInterrupt?.(level);
  }

  // ## Sending

  #transmit(byte: number): void {
    // Full for a moment, and empty again: an interrupt controller that waits for an edge sees one.
    this.#emptied = false;
    this.#update();
    this.#emptied = true;
    // @clause uart.loopback
    if (this.#mcr & MCR.LOOP) {
      this.#arrive({ byte, error: 0 });
      return;
    }
    if (this.#output.length < OUTPUT_LIMIT_BYTES) this.#output.push(byte);
    else this.lost++;
    this.#trace?.emit({ kind: 'console', byte });
    this.#onByte?.(byte);
  }

  // ## Receiving
  //
  // With FIFOs the receiver holds {{16}} bytes and asks when a few have come, which spares the processor interrupts; and, so that the last few are not kept
  // for ever, also when nothing has happened for the time of four characters.

  get #capacity(): number {
    return this.#fifo ? FIFO_BYTES : 1;
  }

  /** A byte from the line, whether or not there is room. */
  #arrive(received: Received): void {
    if (this.#received.length >= this.#capacity) {
      this.#errors |= LSR.OE;
      if (this.#fifo) return; // what is queued stays, the new byte is lost
      this.#received = []; // without a queue the new byte takes the place of the old
    }
    this.#received.push(received);
    if (this.#received.length === 1) this.#errors |= received.error; // an error is reported when its byte is the next to be read
    this.#restartSilence();
  }

  #receive(): number {
    const { byte } = this.#received.shift() ?? { byte: 0 };
    this.#errors |= this.#received[0]?.error ?? 0;
    this.#refill();
    this.#restartSilence();
    this.#update();
    return byte;
  }

  #refill(): void {
    if (this.#mcr & MCR.LOOP) return; // the plug is out
    while (this.#taken < this.#fromHost.length && this.#received.length < this.#capacity) this.#arrive(this.#fromHost[this.#taken++] as Received);
    // What was taken is let go of now and then; a stream that never quite dries up would otherwise be kept whole.
    if (this.#taken === this.#fromHost.length || this.#taken >= KEPT_BYTES) {
      this.#fromHost = this.#fromHost.slice(this.#taken);
      this.#taken = 0;
    }
  }

  #restartSilence(): void {
    this.#timedOut = false;
    if (this.#clock === null) return;
    if (this.#fifo && this.#received.length > 0) this.#silence?.arm(this.#clock.now() + TIMEOUT_CHARACTERS * this.#characterNs);
    else this.#silence?.cancel();
  }

  /** How long a character is on the line: a start bit, data, perhaps parity, and one or two stop bits. */
  get #characterNs(): number {
    const bits = 1 + 5 + (this.#lcr & LCR.LENGTH) + (this.#lcr & LCR.PARITY ? 1 : 0) + (this.#lcr & LCR.STOP ? 2 : 1);
    return Math.ceil((bits * CLOCKS_PER_BIT * Math.max(1, this.#divisor) * 1e9) / CLOCK_HZ);
  }

  // @clause uart.fifo
  #setFifo(value: number): void {
    const enable = (value & FCR.ENABLE) !== 0;
    // Turning the FIFOs on or off empties them too. The other bits only count while they are on.
    if (enable !== this.#fifo || (enable && value & FCR.CLEAR_RECEIVER)) {
      this.#received = [];
      this.#errors &= ~LSR.BI;
      this.#restartSilence();
    }
    this.#fifo = enable;
    this.#trigger = enable ? (TRIGGER_BYTES[value >> FCR.TRIGGER_SHIFT] as number) : 1;
    this.#refill();
  }

  // @clause uart.status
  get #lineStatus(): number {
    const marked = this.#fifo && this.#received.some(({ error }) => error !== 0);
    return LSR.THRE | LSR.TEMT | (this.#received.length > 0 ? LSR.DR : 0) | this.#errors | (marked ? LSR.FIFO_ERROR : 0);
  }

  // ## The modem
  //
  // In loop-back the modem control outputs come back as modem status inputs: DTR as DSR, RTS as CTS, OUT1 as RI, OUT2 as DCD. A
  // change of an input leaves a mark until the status is read; of the ring indicator only its end counts.

  get #inputs(): number {
    const { DTR, RTS, OUT1, OUT2, LOOP } = MCR;
    const mcr = this.#mcr;
    if ((mcr & LOOP) === 0) return this.#lines;
    return (mcr & DTR ? MSR.DSR : 0) | (mcr & RTS ? MSR.CTS : 0) | (mcr & OUT1 ? MSR.RI : 0) | (mcr & OUT2 ? MSR.DCD : 0);
  }

  #noteModem(before: number): void {
    const changed = before ^ this.#inputs;
    const ended = changed & before;
    this.#deltas |= ((changed & ~MSR.RI) | (ended & MSR.RI)) >> MSR.DELTA_SHIFT;
  }

  // Changing over between modem and loop-back is not an event on the line, and leaves no mark.
  // @clause uart.interrupt-modem
  #setModemControl(value: number): void {
    const before = this.#inputs;
    const changedOver = ((value ^ this.#mcr) & MCR.LOOP) !== 0;
    this.#mcr = value;
    if (!changedOver) this.#noteModem(before);
    this.#refill();
  }

  /** The reset line. What the host has queued stays queued. */
  reset(): void {
    this.#ier = this.#lcr = this.#mcr = 0;
    this.#fifo = false;
    this.#trigger = 1;
    this.#received = [];
    this.#errors = this.#deltas = 0;
    this.#emptied = false;
    this.#restartSilence();
    this.#refill();
    this.#update();
  }

  // ## State
  //
  // What the guest has sent has left the machine; what it has not read yet is kept, in the chip and outside.

  static readonly STATE = describe<Serial>('serial', 1, {
    fromHost: field(
      kind.list(RECEIVED, FROM_HOST_LIMIT),
      (serial) => serial.#fromHost.slice(serial.#taken),
      (serial, waiting) => {
        serial.#fromHost = waiting;
        serial.#taken = 0;
      },
    ),
    received: field(
      kind.list(RECEIVED, FIFO_BYTES),
      (serial) => serial.#received,
      (serial, received) => {
        serial.#received = received;
      },
    ),
    registers: field(
      kind.record({ ier: kind.upTo(0x0f), lcr: kind.u8, mcr: kind.upTo(0x1f), scratch: kind.u8, divisor: kind.u16 }),
      (s) => ({ ier: s.#ier, lcr: s.#lcr, mcr: s.#mcr, scratch: s.#scratch, divisor: s.#divisor }),
      (s, v) => {
        ({ ier: s.#ier, lcr: s.#lcr, mcr: s.#mcr, scratch: s.#scratch, divisor: s.#divisor } = v);
      },
    ),
    receiver: field(
      kind.record({ fifo: kind.flag, trigger: kind.between(1, FIFO_BYTES), timedOut: kind.flag, errors: kind.u8 }),
      (s) => ({ fifo: s.#fifo, trigger: s.#trigger, timedOut: s.#timedOut, errors: s.#errors }),
      (s, v) => {
        ({ fifo: s.#fifo, trigger: s.#trigger, timedOut: s.#timedOut, errors: s.#errors } = v);
      },
    ),
    outputs: field(
      kind.record({ lines: kind.u8, deltas: kind.u8, emptied: kind.flag, level: kind.flag }),
      (s) => ({ lines: s.#lines, deltas: s.#deltas, emptied: s.#emptied, level: s.#level }),
      (s, v) => {
        ({ lines: s.#lines, deltas: s.#deltas, emptied: s.#emptied, level: s.#level } = v);
      },
    ),
    silence: timer((serial) => serial.#silence),
  });
}
