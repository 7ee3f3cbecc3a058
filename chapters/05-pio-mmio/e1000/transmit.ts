// # Sending
//
// The driver fills descriptors and moves the tail. Everything from the head up to the tail is the card's: it reads each descriptor, collects the
// pieces of a frame until the one marked as the last, sends it, marks the descriptors done where it was asked to, and moves the head.
//
// A real card works on while the processor does other things. This one does all of it within the write to the tail, and the guest sees
// the difference only in that its frames are always gone already when it looks.

import { describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import type { DmaTarget } from '../wires.ts';
import { ContextDescriptor, DataDescriptor, DESCRIPTOR_BYTES, POPTS, TransmitDescriptor, TUCMD, TX_CMD, TX_STATUS_DD } from './descriptors.ts';
import { insertChecksum, type OffloadContext, PAYLOAD_LIMIT, segment } from './offload.ts';

/** A descriptor ring as the registers say: where, how many, head and tail. */
export interface Ring {
  readonly base: number;
  readonly size: number;
  head: number;
  readonly tail: number;
}

/** What the card around it provides. */
interface TransmitPorts {
  readonly dma: DmaTarget;
  readonly ring: Ring;
  /** VLAN mode is on: its ether type. Null when it is off. */
  vlanType(): number | null;
  send(frame: Uint8Array): void;
  /** A packet was cut into frames, or could not be. */
  segmented(frames: number | null): void;
}

/** What a round of sending asks to be told: descriptors were written back, and whether each of them allowed the interrupt to wait. */
interface Sent {
  readonly reported: boolean;
  readonly mayWait: boolean;
  readonly empty: boolean;
  /** It has done enough for one go; there is more. */
  readonly more: boolean;
}

const NO_CONTEXT: OffloadContext = { ipcss: 0, ipcso: 0, ipcse: 0, tucss: 0, tucso: 0, tucse: 0, tcp: false, ipv4: false, hdrlen: 0, mss: 0 };
const HEADER_LIMIT = 256;
// What comes out can be far more than what goes in: a header of 255 bytes and a segment size of one make a megabyte of frames out of four kilobytes. So
// the descriptors, the bytes read and the bytes sent all count.

/** Bytes after which a round pauses. The largest ring of the largest pieces would be 64 GiB. */
const ROUND_BYTES = 4 << 20;
const PACKET_LIMIT = PAYLOAD_LIMIT + HEADER_LIMIT;

const CONTEXT = kind.record<OffloadContext>({
  ipcss: kind.u32,
  ipcso: kind.u32,
  ipcse: kind.u32,
  tucss: kind.u32,
  tucso: kind.u32,
  tucse: kind.u32,
  tcp: kind.flag,
  ipv4: kind.flag,
  hdrlen: kind.u32,
  mss: kind.u32,
});
/** More than any packet that is collected before it is cut. */
const PACKET_LIMIT_BYTES = 1 << 20;

export class Transmitter {
  readonly #ports: TransmitPorts;
  readonly #bytes = new Uint8Array(DESCRIPTOR_BYTES);
  #packet = new Uint8Array(2048);
  #length = 0;
  /** The packet is too long, or a piece of it could not be read: it is dropped when its end comes. */
  #spoiled = false;
  #moved = 0; // in this round
  #popts = 0;
  #cut = false;
  /** The last context of either kind: a later one for plain checksums does not disturb the one for cutting. */
  #context = NO_CONTEXT;
  #cutContext = NO_CONTEXT;

  constructor(ports: TransmitPorts) {
    this.#ports = ports;
  }

  reset(): void {
    this.#context = this.#cutContext = NO_CONTEXT;
    this.#begin();
  }

  #begin(): void {
    this.#length = this.#popts = 0;
    this.#spoiled = this.#cut = false;
  }

  // A tail that lies outside the ring is never reached, and a real card would go round for ever. Once round is enough for any honest driver.
  // @clause e1000.tx.ring
  // @clause e1000.ring.bounded
  run(): Sent {
    const { ring, dma } = this.#ports;
    let reported = false;
    let mayWait = true;
    let more = false;
    this.#moved = 0;
    for (let done = 0; done < ring.size && ring.head !== ring.tail && ring.head < ring.size; done++) {
      more = this.#moved >= ROUND_BYTES;
      if (more) break;
      const at = ring.base + ring.head * DESCRIPTOR_BYTES;
      if (!dma.read(at, this.#bytes)) break;
      this.#moved += DESCRIPTOR_BYTES;
      const command = this.#bytes[11] as number;
      this.#descriptor(command);
      if (command & TX_CMD.RS) {
        const status = ((this.#bytes[12] as number) & 0xf0) | TX_STATUS_DD;
        dma.write(at + 12, Uint8Array.of(status));
        reported = true;
        if (!(command & TX_CMD.IDE)) mayWait = false;
      }
      ring.head = (ring.head + 1) % ring.size;
    }
    return { reported, mayWait, empty: ring.head === ring.tail, more };
  }

  #descriptor(command: number): void {
    const kind = (this.#bytes[10] as number) >> 4;
    if (!(command & TX_CMD.DEXT)) this.#legacy();
    else if (kind === 0) this.#setContext();
    else if (kind === 1) this.#data();
  }

  #setContext(): void {
    const { command, status: _, ...fields } = ContextDescriptor.decode(this.#bytes);
    const tucmd = command >>> 24;
    this.#context = { ...fields, tcp: (tucmd & TUCMD.TCP) !== 0, ipv4: (tucmd & TUCMD.IPV4) !== 0 };
    if (tucmd & TX_CMD.TSE) this.#cutContext = this.#context;
  }

  #legacy(): void {
    const { address, length, cmd, cso, css, special } = TransmitDescriptor.decode(this.#bytes);
    this.#collect(Number(address), length);
    if (!(cmd & TX_CMD.EOP)) return;
    const frame = this.#finish();
    if (!frame) return;
    if (cmd & TX_CMD.IC) insertChecksum(frame, cso, css, 0);
    this.#send(frame, cmd, special);
  }

  #data(): void {
    const { address, command, popts, special } = DataDescriptor.decode(this.#bytes);
    const cmd = command >>> 24;
    if (this.#length === 0) this.#popts = popts; // only the first descriptor of a packet says
    if (cmd & TX_CMD.TSE) this.#cut = true;
    this.#collect(Number(address), command & 0xf_ffff);
    if (!(cmd & TX_CMD.EOP)) return;
    const options = this.#popts;
    const cut = this.#cut;
    const packet = this.#finish();
    if (!packet) return;
    const context = cut ? this.#cutContext : this.#context;
    const frames = cut ? segment(packet, context) : [packet];
    if (cut) this.#ports.segmented(frames?.length ?? null);
    for (const frame of frames ?? []) {
      if (options & POPTS.TXSM) insertChecksum(frame, context.tucso, context.tucss, context.tucse, { zero: context.tcp });
      if (options & POPTS.IXSM) insertChecksum(frame, context.ipcso, context.ipcss, context.ipcse);
      this.#send(frame, cmd, special);
    }
  }

  // ## Collecting

  #collect(address: number, bytes: number): void {
    if (this.#spoiled || bytes === 0) return;
    const needed = this.#length + bytes;
    if (needed > PACKET_LIMIT) {
      this.#spoiled = true;
      return;
    }
    if (needed > this.#packet.length) {
      const larger = new Uint8Array(Math.max(needed, 2 * this.#packet.length));
      larger.set(this.#packet.subarray(0, this.#length));
      this.#packet = larger;
    }
    this.#moved += bytes;
    this.#spoiled = !this.#ports.dma.read(address, this.#packet.subarray(this.#length, needed));
    this.#length = needed;
  }

  /** The collected packet; null when it is to be dropped. */
  #finish(): Uint8Array | null {
    const packet = this.#spoiled || this.#length === 0 ? null : this.#packet.slice(0, this.#length);
    this.#begin();
    return packet;
  }

  // @clause e1000.vlan.insert
  #send(frame: Uint8Array, command: number, special: number): void {
    this.#moved += frame.length;
    const type = this.#ports.vlanType();
    if (!(command & TX_CMD.VLE) || type === null || frame.length < 12) {
      this.#ports.send(frame);
      return;
    }
    const tagged = new Uint8Array(frame.length + 4);
    tagged.set(frame.subarray(0, 12));
    tagged.set([type >> 8, type, special >> 8, special], 12);
    tagged.set(frame.subarray(12), 16);
    this.#ports.send(tagged);
  }

  static readonly STATE = describe<Transmitter>('transmitter', 1, {
    packet: field(
      kind.bytes(PACKET_LIMIT_BYTES),
      (t) => t.#packet.subarray(0, t.#length),
      (t, packet) => {
        t.#packet = new Uint8Array(Math.max(2048, packet.length));
        t.#packet.set(packet);
        t.#length = packet.length;
      },
    ),
    progress: field(
      kind.record({ spoiled: kind.flag, moved: kind.safe, popts: kind.word, cut: kind.flag }),
      (t) => ({ spoiled: t.#spoiled, moved: t.#moved, popts: t.#popts, cut: t.#cut }),
      (t, v) => {
        ({ spoiled: t.#spoiled, moved: t.#moved, popts: t.#popts, cut: t.#cut } = v);
      },
    ),
    contexts: field(
      kind.record({ context: CONTEXT, cutContext: CONTEXT }),
      (t) => ({ context: t.#context, cutContext: t.#cutContext }),
      (t, v) => {
        ({ context: t.#context, cutContext: t.#cutContext } = v);
      },
    ),
  });
}
