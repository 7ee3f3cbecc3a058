// # A serial port
//
// The first device of every small VMM, because the guest's side is three instructions long: wait until the transmitter is empty, write a byte.
// This is a 16550: data, line and modem status, the registers that a driver programs before it starts. Its interrupt line leads nowhere, since this
// machine has no interrupt controller yet; but the identification register says what the line would, and a driver may poll that.
//
// Nothing here is slow, so the transmitter is empty whenever it is asked. The receiver is a queue that the host fills.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Registers, Width } from './bus.ts';

export const COM1_PORT = 0x3f8;
export const SERIAL_PORTS = 8;

/** Line status: a byte waits; a byte was lost; the transmitter can take another; the line is idle. */
const LSR = { DR: 0x01, OE: 0x02, THRE: 0x20, TEMT: 0x40 } as const;
const LCR_DLAB = 0x80; // ports 0 and 1 are the divisor
const MCR_LOOP = 0x10; // the transmitter feeds the receiver
const FCR = { ENABLE: 0x01, CLEAR_RECEIVER: 0x02 } as const;
/** Sources of an interrupt, as bits of IER and as they are reported by IIR, highest priority first. */
const IER = { RDA: 0x01, THRE: 0x02, LINE_STATUS: 0x04 } as const;
const IIR = { LINE_STATUS: 0x06, RDA: 0x04, THRE: 0x02, NONE: 0x01, FIFO: 0xc0 } as const;
/** Carrier, data set ready, clear to send: somebody is at the other end. */
const MSR_CONNECTED = 0xb0;
const FIFO_BYTES = 16;

/** How much console output is kept for the caller; a guest that prints for ever costs no more than this. */
const OUTPUT_LIMIT_BYTES = 1 << 20;

export class Serial implements Registers {
  readonly name = 'serial';
  readonly #trace: Trace | null;
  readonly #onByte: ((byte: number) => void) | null;
  readonly #output: number[] = [];
  /** Bytes that came after the output was full. */
  lost = 0;
  #fromHost: number[] = []; // waits outside; moves in as the guest reads
  #received: number[] = []; // what the chip holds
  #ier = 0;
  #lcr = 0;
  #mcr = 0;
  #scratch = 0;
  #divisor = 12; // 9,600 baud
  #fifo = false;
  #overrun = false;
  #emptied = false; // the transmitter has become empty, and nobody has been told yet

  constructor({ trace = null, onByte = null }: { trace?: Trace | null; onByte?: ((byte: number) => void) | null } = {}) {
    this.#trace = trace;
    this.#onByte = onByte;
  }

  /** Everything the guest has sent, up to the limit. */
  get output(): Uint8Array {
    return Uint8Array.from(this.#output);
  }

  /** Queues bytes for the guest. The host never overruns the chip: bytes enter as there is room. */
  send(bytes: Iterable<number>): void {
    this.#fromHost.push(...bytes);
    this.#refill();
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
    const divisor = (this.#lcr & LCR_DLAB) !== 0;
    switch (port) {
      case 0: {
        if (divisor) return this.#divisor & 0xff;
        const byte = this.#received.shift() ?? 0;
        this.#refill();
        return byte;
      }
      case 1:
        return divisor ? this.#divisor >> 8 : this.#ier;
      case 2: {
        const source = this.#source;
        if (source === IIR.THRE) this.#emptied = false; // being told is the acknowledgement
        return source | (this.#fifo ? IIR.FIFO : 0);
      }
      case 3:
        return this.#lcr;
      case 4:
        return this.#mcr;
      case 5: {
        // @clause uart.status
        const status = LSR.THRE | LSR.TEMT | (this.#received.length > 0 ? LSR.DR : 0) | (this.#overrun ? LSR.OE : 0);
        this.#overrun = false; // reading the status clears the error
        return status;
      }
      case 6:
        // In loop-back the modem control outputs come back as modem status inputs: DTR as DSR, RTS as CTS, OUT1 as RI, OUT2 as CD.
        return this.#mcr & MCR_LOOP
          ? ((this.#mcr & 0x01) << 5) | ((this.#mcr & 0x02) << 3) | ((this.#mcr & 0x04) << 4) | ((this.#mcr & 0x08) << 4)
          : MSR_CONNECTED;
      default:
        return this.#scratch;
    }
  }

  #writeByte(port: number, value: number): void {
    const divisor = (this.#lcr & LCR_DLAB) !== 0;
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
        this.#fifo = (value & FCR.ENABLE) !== 0;
        if (value & FCR.CLEAR_RECEIVER) this.#received = [];
        this.#refill();
        break;
      case 3:
        this.#lcr = value;
        break;
      case 4:
        this.#mcr = value & 0x1f;
        break;
      case 7:
        this.#scratch = value;
        break;
      default: // line and modem status are read-only
    }
  }

  // Enabling the source asserts it at once when its condition holds already. A driver that sends by interrupt starts that way: the
  // transmitter is empty, so it enables the interrupt and waits to be asked for the first byte.
  #enable(ier: number): void {
    if (ier & ~this.#ier & IER.THRE) this.#emptied = true;
    this.#ier = ier;
  }

  get #source(): number {
    if (this.#ier & IER.LINE_STATUS && this.#overrun) return IIR.LINE_STATUS;
    if (this.#ier & IER.RDA && this.#received.length > 0) return IIR.RDA;
    return this.#ier & IER.THRE && this.#emptied ? IIR.THRE : IIR.NONE;
  }

  #transmit(byte: number): void {
    this.#emptied = true; // sent as soon as it is written
    // @clause uart.loopback
    if (this.#mcr & MCR_LOOP) {
      if (this.#received.length < this.#capacity) this.#received.push(byte);
      else this.#overrun = true;
      return;
    }
    if (this.#output.length < OUTPUT_LIMIT_BYTES) this.#output.push(byte);
    else this.lost++;
    this.#trace?.emit({ kind: 'console', byte });
    this.#onByte?.(byte);
  }

  get #capacity(): number {
    return this.#fifo ? FIFO_BYTES : 1;
  }

  #refill(): void {
    if (this.#mcr & MCR_LOOP) return;
    while (this.#fromHost.length > 0 && this.#received.length < this.#capacity) this.#received.push(this.#fromHost.shift() as number);
  }
}
