// # Receiving
//
// A frame arrives when it likes. The card decides whether it is for this machine, keeps it in its own packet buffer, and puts it into main memory as
// soon as the driver has left enough descriptors; if the buffer fills up first, frames are lost, and counted.

import { describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import { SHORTEST_FRAME } from '../net/link.ts';
import type { DmaTarget } from '../wires.ts';
import { DESCRIPTOR_BYTES, ReceiveDescriptor, RX_ERRORS, RX_STATUS } from './descriptors.ts';
import { checkReceived, frameCheckSequence, onesSum } from './offload.ts';
import { RCTL, RXCSUM } from './registers.ts';
import type { Statistics } from './statistics.ts';
import type { Ring } from './transmit.ts';

/** What the card around it provides; the values are registers as they are now. */
interface ReceivePorts {
  readonly dma: DmaTarget;
  readonly ring: Ring;
  readonly statistics: Statistics;
  rctl(): number;
  rxcsum(): number;
  /** VLAN mode is on: tags are taken out. */
  stripping(): boolean;
  vlanType(): number;
  /** Bytes of packet buffer. */
  buffer(): number;
  ral(index: number): number;
  rah(index: number): number;
  mta(index: number): number;
  vfta(index: number): number;
  /** A frame is in memory. */
  received(bytes: number): void;
  /** The ring has become low, or the buffer has run over. */
  low(): void;
  overrun(): void;
}

/** Standard frames, with a VLAN tag; a longer one needs RCTL.LPE. Without the check sequence. */
const LONG_FRAME = 1518;
const JUMBO_FRAME = 16384 - 4;
const ADDRESS_VALID = 0x8000_0000;
const RECEIVE_ADDRESSES = 16;
const VLAN_CFI = 0x1000;

/** RCTL.MO: which twelve of the address's last sixteen bits are the hash. */
const HASH_SHIFT = [4, 3, 2, 0] as const;

const BUFFER_BYTES = [2048, 1024, 512, 256] as const;

/** Size of each receive buffer: BSIZE, times sixteen with BSEX, where the first value is reserved. */
const bufferBytes = (rctl: number): number => {
  const size = (rctl >> 16) & 3;
  return (BUFFER_BYTES[size] as number) * (rctl & RCTL.BSEX && size > 0 ? 16 : 1);
};

interface Waiting {
  readonly bytes: Uint8Array;
  readonly checksum: number;
  readonly status: number;
  readonly errors: number;
  readonly special: number;
}

export class Receiver {
  readonly #ports: ReceivePorts;
  readonly #waiting: Waiting[] = [];
  #waitingBytes = 0;

  constructor(ports: ReceivePorts) {
    this.#ports = ports;
  }

  reset(): void {
    this.#waiting.length = 0;
    this.#waitingBytes = 0;
  }

  // ## Is it ours?
  //
  // The addresses of our own; everything (promiscuous); a multicast whose twelve-bit hash is in the table, which lets some strangers through and never
  // a member out; or a broadcast. Then, of tagged frames, whether we are in that VLAN.

  // @clause e1000.rx.filter
  #accepts(frame: Uint8Array): boolean {
    const { ral, rah, rctl } = this.#ports;
    if (rctl() & RCTL.VFE && this.#tagged(frame) && !this.#inVlan(frame)) return false;
    const multicast = ((frame[0] as number) & 1) !== 0;
    if (rctl() & (multicast ? RCTL.MPE : RCTL.UPE)) return true;
    if (rctl() & RCTL.BAM && frame.subarray(0, 6).every((byte) => byte === 0xff)) return true;
    const view = new DataView(frame.buffer, frame.byteOffset);
    const low = view.getUint32(0, true);
    const high = view.getUint16(4, true);
    for (let index = 0; index < RECEIVE_ADDRESSES; index++) {
      if (rah(index) & ADDRESS_VALID && ral(index) === low && (rah(index) & 0xffff) === high) return true;
    }
    if (!multicast) return false;
    const hash = (high >> (HASH_SHIFT[(rctl() >> 12) & 3] as number)) & 0xfff;
    return ((this.#ports.mta(hash >> 5) >>> (hash & 31)) & 1) === 1;
  }

  #tagged(frame: Uint8Array): boolean {
    return frame.length >= 18 && (((frame[12] as number) << 8) | (frame[13] as number)) === this.#ports.vlanType();
  }

  #inVlan(frame: Uint8Array): boolean {
    const tag = ((frame[14] as number) << 8) | (frame[15] as number);
    const rctl = this.#ports.rctl();
    if (rctl & RCTL.CFIEN && ((tag & VLAN_CFI) !== 0) !== ((rctl & RCTL.CFI) !== 0)) return false;
    const id = tag & 0xfff;
    return ((this.#ports.vfta(id >> 5) >>> (id & 31)) & 1) === 1;
  }

  // ## Arrival

  frame(arrived: Uint8Array): void {
    const { statistics, rctl } = this.#ports;
    if (!(rctl() & RCTL.EN) || arrived.length < 14) return;
    const frame = new Uint8Array(Math.max(arrived.length, SHORTEST_FRAME));
    frame.set(arrived);
    if (frame.length > (rctl() & RCTL.LPE ? JUMBO_FRAME : LONG_FRAME)) {
      statistics.frame('received', frame, false);
      statistics.add('ROC');
      return;
    }
    const ours = this.#accepts(frame);
    statistics.frame('received', frame, ours);
    if (!ours) return;
    if (this.#waitingBytes + frame.length > this.#ports.buffer()) {
      statistics.add('MPC');
      this.#ports.overrun();
      return;
    }
    const waiting = this.#describe(frame);
    this.#waiting.push(waiting);
    this.#waitingBytes += waiting.bytes.length;
    if (this.#free() < this.#descriptorsFor(waiting)) statistics.add('RNBC');
    this.drain();
  }

  #describe(whole: Uint8Array): Waiting {
    const ports = this.#ports;
    let frame = whole;
    let status = 0;
    let special = 0;
    // @clause e1000.vlan.strip
    if (ports.stripping() && this.#tagged(frame)) {
      special = ((frame[14] as number) << 8) | (frame[15] as number);
      status |= RX_STATUS.VP;
      const bare = new Uint8Array(frame.length - 4);
      bare.set(frame.subarray(0, 12));
      bare.set(frame.subarray(16), 12);
      frame = bare;
    }
    const rxcsum = ports.rxcsum();
    let errors = 0;
    const { ip, transport } = checkReceived(frame);
    const checkIp = (rxcsum & RXCSUM.IPOFL) !== 0 && ip !== 'unknown';
    const checkTransport = (rxcsum & RXCSUM.TUOFL) !== 0 && transport !== 'unknown';
    if (checkIp) status |= RX_STATUS.IPCS;
    if (checkIp && ip === 'bad') errors |= RX_ERRORS.IPE;
    if (checkTransport) status |= RX_STATUS.TCPCS;
    if (checkTransport && transport === 'bad') errors |= RX_ERRORS.TCPE;
    if (!checkIp && !checkTransport) status |= RX_STATUS.IXSM;
    const checksum = onesSum(frame, rxcsum & RXCSUM.PCSS, frame.length);
    // The driver sees the check sequence unless it asked not to.
    let bytes = frame;
    if (!(ports.rctl() & RCTL.SECRC)) {
      bytes = new Uint8Array(frame.length + 4);
      bytes.set(frame);
      bytes.set(frameCheckSequence(frame), frame.length);
    }
    return { bytes, checksum, status, errors, special };
  }

  // ## Into memory

  /** Descriptors between head and tail. A head or tail outside the ring gives none. */
  #free(): number {
    const { size, head, tail } = this.#ports.ring;
    if (head >= size || tail >= size) return 0;
    return (tail - head + size) % size;
  }

  #descriptorsFor({ bytes }: Waiting): number {
    return Math.ceil(bytes.length / bufferBytes(this.#ports.rctl()));
  }

  // @clause e1000.rx.ring
  /** Moves what waits into memory, as far as there are descriptors. */
  drain(): void {
    if (!(this.#ports.rctl() & RCTL.EN)) return;
    const { ring } = this.#ports;
    for (;;) {
      const waiting = this.#waiting[0];
      if (!waiting) return;
      const needed = this.#descriptorsFor(waiting);
      if (needed > this.#free()) {
        // No ring of this size will ever hold it.
        if (ring.size > 0 && needed >= ring.size) this.#drop();
        return;
      }
      this.#drop();
      if (this.#store(waiting, needed)) this.#ports.received(waiting.bytes.length);
      // RDMTS: a half, a quarter, an eighth of the ring.
      if (this.#free() <= ring.size >> (((this.#ports.rctl() >> 8) & 3) + 1)) this.#ports.low();
    }
  }

  #drop(): void {
    const gone = this.#waiting.shift();
    this.#waitingBytes -= gone?.bytes.length ?? 0;
  }

  // The driver may be polling the status byte on another processor. So the frame comes first, then length and tag, and DD after everything else.
  // @clause e1000.rx.status-last
  #store(waiting: Waiting, count: number): boolean {
    const { dma, ring } = this.#ports;
    const size = bufferBytes(this.#ports.rctl());
    const descriptor = new Uint8Array(DESCRIPTOR_BYTES);
    const view = new DataView(descriptor.buffer);
    let whole = true;
    for (let index = 0; index < count; index++) {
      const at = ring.base + ring.head * DESCRIPTOR_BYTES;
      if (!dma.read(at, descriptor)) return false;
      const { address } = ReceiveDescriptor.decode(descriptor);
      const piece = waiting.bytes.subarray(index * size, (index + 1) * size);
      if (address !== 0n && !dma.write(Number(address), piece)) whole = false; // a descriptor without a buffer is passed over
      const last = index === count - 1;
      ReceiveDescriptor.store(view, 0, {
        length: piece.length,
        checksum: waiting.checksum,
        status: 0,
        errors: waiting.errors,
        special: waiting.special,
      });
      dma.write(at + 8, descriptor.subarray(8));
      dma.write(at + 12, Uint8Array.of(RX_STATUS.DD | (last ? RX_STATUS.EOP | waiting.status : waiting.status & RX_STATUS.VP)));
      ring.head = (ring.head + 1) % ring.size;
    }
    return whole;
  }

  static readonly STATE = describe<Receiver>('receiver', 1, {
    waiting: field(
      kind.list(
        kind.record<Waiting>({ bytes: kind.bytes(1 << 16), checksum: kind.u16, status: kind.u32, errors: kind.u32, special: kind.u16 }),
        1 << 16,
      ),
      (receiver) => receiver.#waiting,
      (receiver, waiting) => {
        receiver.#waiting.splice(0, receiver.#waiting.length, ...waiting);
        receiver.#waitingBytes = waiting.reduce((sum, { bytes }) => sum + bytes.length, 0);
      },
    ),
  });
}
