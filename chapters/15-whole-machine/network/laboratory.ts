// Test equipment: not a part of the book.

import type { Link } from '../../05-pio-mmio/net/link.ts';
import { NETWORK, stationMac } from './addresses.ts';
import { buildFrame, ETHERTYPE, parseFrame } from './ethernet.ts';
import type { HostDatagrams, HostPort, HostSockets, HostStream } from './host-sockets.ts';
import { buildPacket, type Packet, PROTOCOL, parsePacket } from './ipv4.ts';
import { Connection } from './tcp/connection.ts';
import { Program, Time } from './tcp/laboratory.ts';
import { buildSegment, FLAG, parseSegment, type Segment } from './tcp/segment.ts';
import { buildDatagram, type Datagram, parseDatagram } from './udp.ts';
import { UserNetwork } from './user-network.ts';

export const GUEST_MAC = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);

export const hex = (text: string): Uint8Array => Uint8Array.from(text.split(/\s+/).filter(Boolean), (pair) => Number.parseInt(pair, 16));

/** The Internet checksum of RFC 1071 in the dullest way, to hold ours against: 0 over data that contains its own. */
export function dullChecksum(bytes: Uint8Array): number {
  let sum = 0n;
  for (let at = 0; at < bytes.length; at++) sum += BigInt(bytes[at] as number) << (at % 2 === 0 ? 8n : 0n);
  return Number(0xffffn - (sum === 0n ? 0n : ((sum - 1n) % 0xffffn) + 1n));
}

/** A program on the host, with the guest's side of it in our hands. */
export class FakeStream implements HostStream {
  onConnect: () => void = () => {};
  onData: (bytes: Uint8Array) => void = () => {};
  onEnd: () => void = () => {};
  onClose: (whole: boolean) => void = () => {};
  readonly written: number[] = [];
  readonly events: string[] = [];
  paused = false;
  /** What was written and not taken. */
  #done: (() => void) | null = null;
  slow = false;

  write(bytes: Uint8Array, done: () => void): void {
    if (this.#done) throw new Error('two writes at a time');
    for (const byte of bytes) this.written.push(byte);
    if (this.slow) this.#done = done;
    else done();
  }
  take(): void {
    const done = this.#done;
    this.#done = null;
    done?.();
  }
  end(): void {
    this.events.push('end');
  }
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
  destroy(): void {
    this.events.push('destroy');
  }
}

class FakeDatagrams implements HostDatagrams, HostPort {
  onMessage: (bytes: Uint8Array, port: number) => void = () => {};
  readonly ready = Promise.resolve();
  readonly sent: { readonly bytes: Uint8Array; readonly port: number }[] = [];
  closed = false;
  send(bytes: Uint8Array, port: number): void {
    this.sent.push({ bytes, port });
  }
  close(): void {
    this.closed = true;
  }
}

/** A host on which everything is recorded and nothing happens by itself. */
export function fakeHost() {
  const connected: { readonly port: number; readonly stream: FakeStream }[] = [];
  const listening = new Map<number, (stream: HostStream) => void>();
  const datagrams: FakeDatagrams[] = [];
  const sockets: HostSockets = {
    connect(port) {
      const stream = new FakeStream();
      connected.push({ port, stream });
      return stream;
    },
    listen(port, onStream) {
      listening.set(port, onStream);
      return { ready: Promise.resolve(), close: () => void listening.delete(port) };
    },
    datagrams() {
      const socket = new FakeDatagrams();
      datagrams.push(socket);
      return socket;
    },
  };
  return { sockets, connected, listening, datagrams };
}

/** The network, and the guest's end of the cable. */
export function bench(options: Partial<ConstructorParameters<typeof UserNetwork>[1]> = {}) {
  const time = new Time();
  const received: Uint8Array[] = [];
  const far: Link = { send: (frame) => void received.push(frame.slice()), onFrame: null };
  const network = new UserNetwork(far, { clock: time.queue, ...options });
  const send = (frame: Uint8Array): void => far.onFrame?.(frame);
  const sendPacket = (destination: number, protocol: number, payload: Uint8Array, source: number = NETWORK.guest): void =>
    send(
      buildFrame({
        destination: stationMac(NETWORK.gateway),
        source: GUEST_MAC,
        type: ETHERTYPE.IPV4,
        payload: buildPacket(source, destination, protocol, payload),
      }),
    );
  const sendDatagram = (destination: number, datagram: Datagram, source: number = NETWORK.guest): void =>
    sendPacket(destination, PROTOCOL.UDP, buildDatagram(source, destination, datagram), source);
  const sendSegment = (segment: Partial<Segment>, destination: number = NETWORK.gateway): void => {
    const whole = {
      sourcePort: 1000,
      destinationPort: 80,
      sequence: 0,
      acknowledgment: 0,
      flags: FLAG.SYN,
      window: 0xffff,
      data: new Uint8Array(0),
      ...segment,
    };
    sendPacket(destination, PROTOCOL.TCP, buildSegment(NETWORK.guest, destination, whole));
  };
  /** Packets that the guest was sent since it was last asked. */
  const packets = (): Packet[] =>
    received.splice(0).flatMap((frame) => {
      const parsed = parseFrame(frame);
      const packet = parsed?.type === ETHERTYPE.IPV4 ? parsePacket(parsed.payload) : null;
      if (typeof packet === 'string') throw new Error(`sent a packet with a wrong ${packet}`);
      return packet ? [packet] : [];
    });
  const segments = (): Segment[] =>
    packets().flatMap(({ source, destination, protocol, payload }) =>
      protocol === PROTOCOL.TCP ? [parseSegment(source, destination, payload) as Segment] : [],
    );
  const answers = (): Datagram[] => packets().flatMap((packet) => (packet.protocol === PROTOCOL.UDP ? [parseDatagram(packet) as Datagram] : []));
  return { time, network, received, send, sendPacket, sendDatagram, sendSegment, packets, segments, answers };
}

/** A guest that speaks TCP: by our own connection, at the other end. */
export function tcpGuest(lab: ReturnType<typeof bench>, localPort: number, remotePort: number) {
  const program = new Program();
  const { time } = lab;
  const ports = {
    clock: time.queue,
    localPort,
    remotePort,
    initial: 5,
    transmit: (segment: Segment): void => time.queue.timer(() => lab.sendSegment(segment)).arm(time.now + 1000),
    ...program.ports,
  };
  const open = (): void => {
    program.connection = Connection.open(ports);
  };
  /** Lets time pass, and gives the guest what is sent to it. */
  const pass = (ns: number): void => {
    for (const end = time.now + ns; time.now < end; ) {
      time.pass(Math.min(1e5, end - time.now));
      for (const segment of lab.segments()) {
        if (program.connection) program.connection.segment(segment);
        else if (segment.flags === FLAG.SYN) {
          program.connection = Connection.requested(segment, { ...ports, remotePort: segment.sourcePort });
          program.connection.accept();
        }
      }
    }
  };
  return { program, open, pass };
}
