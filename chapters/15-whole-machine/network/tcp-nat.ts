// # Connections through the gateway
//
// A guest that connects to the gateway's address means a program on the host, if it may reach the host at all. Its first segment is not answered until that program
// has answered: a guest that is told "connected" by a gateway, and only then finds nobody there, would be told something that no network says.
//
// The other direction has to be asked for, port by port: a program on the host connects to a port of the host's, and the gateway connects to the guest.
//
// There are {{CONNECTIONS}} connections at most, of either kind.

import type { Clock } from '../../02-kvm-objects/clock.ts';
import { type Ipv4, NETWORK } from './addresses.ts';
import type { HostSockets, HostStream } from './host-sockets.ts';
import { Relay } from './relay.ts';
import { Connection, type Ending } from './tcp/connection.ts';
import { FLAG, resetFor, type Segment } from './tcp/segment.ts';

/** Connections at a time. One more is refused; one that only waits for stragglers makes room. */
export const CONNECTIONS = 64;
const FIRST_EPHEMERAL = 49_152;
const EPHEMERAL_PORTS = 65_536 - FIRST_EPHEMERAL;
const NS_PER_COUNT = 4000;

interface TcpNatOptions {
  readonly clock: Clock;
  /** Null: nobody on the host can be reached. */
  readonly sockets: HostSockets | null;
  /** Whether the guest may connect to the host. */
  readonly open: boolean;
  send(source: Ipv4, destination: Ipv4, segment: Segment): void;
  /** For the trace. */
  report(what: 'tcp-connect' | 'tcp-accept' | 'tcp-refuse' | 'tcp-close', port: number): void;
}

interface Entry {
  readonly connection: Connection;
  readonly stream: HostStream;
  readonly relay: Relay;
}

const keyOf = (guest: Ipv4, guestPort: number, ours: Ipv4, ourPort: number): string => `${guest}:${guestPort}-${ours}:${ourPort}`;

export class TcpNat {
  readonly #options: TcpNatOptions;
  readonly #entries = new Map<string, Entry>();
  #nextPort = 0;

  constructor(options: TcpNatOptions) {
    this.#options = options;
  }

  /** Connections that there are. */
  get size(): number {
    return this.#entries.size;
  }

  // ## From the guest

  segment(guest: Ipv4, ours: Ipv4, segment: Segment): void {
    const key = keyOf(guest, segment.sourcePort, ours, segment.destinationPort);
    const entry = this.#entries.get(key);
    if (entry && !entry.connection.yieldsTo(segment)) {
      entry.connection.segment(segment);
      return;
    }
    if (entry) this.#drop(key, entry);
    const request = (segment.flags & (FLAG.SYN | FLAG.ACK | FLAG.RST | FLAG.FIN)) === FLAG.SYN;
    const { sockets, open } = this.#options;
    if (!request || ours !== NETWORK.gateway || segment.destinationPort === 0 || !open || !sockets || !this.#makeRoom()) {
      this.#refuse(guest, ours, segment);
      return;
    }
    const stream = sockets.connect(segment.destinationPort);
    const { connection } = this.#add(guest, segment.sourcePort, ours, segment.destinationPort, stream, segment);
    stream.onConnect = () => connection.accept();
    this.#options.report('tcp-connect', segment.destinationPort);
  }

  #refuse(guest: Ipv4, ours: Ipv4, segment: Segment): void {
    const reset = resetFor(segment);
    if (segment.flags & FLAG.SYN) this.#options.report('tcp-refuse', segment.destinationPort);
    if (reset) this.#options.send(ours, guest, reset);
  }

  // ## To the guest

  /** A program on the host has connected to a port that leads to the guest's `port`. */
  forward(stream: HostStream, guest: Ipv4, port: number): void {
    const ours = NETWORK.gateway;
    const ourPort = this.#freePort(guest, port);
    if (ourPort === null || !this.#makeRoom()) {
      stream.destroy();
      return;
    }
    this.#options.report('tcp-accept', port);
    this.#add(guest, port, ours, ourPort, stream, null);
  }

  #freePort(guest: Ipv4, port: number): number | null {
    for (let tries = 0; tries <= CONNECTIONS; tries++) {
      const ours = FIRST_EPHEMERAL + (this.#nextPort++ % EPHEMERAL_PORTS);
      if (!this.#entries.has(keyOf(guest, port, NETWORK.gateway, ours))) return ours;
    }
    return null;
  }

  // ## The table

  #add(guest: Ipv4, guestPort: number, ours: Ipv4, ourPort: number, stream: HostStream, request: Segment | null): Entry {
    const key = keyOf(guest, guestPort, ours, ourPort);
    const { clock, send } = this.#options;
    const lazily: { relay: Relay | null } = { relay: null };
    const ports = {
      clock,
      localPort: ourPort,
      remotePort: guestPort,
      initial: this.#initial(guestPort, ourPort),
      transmit: (segment: Segment) => send(ours, guest, segment),
      onEstablished: () => lazily.relay?.roomForGuest(),
      onData: (bytes: Uint8Array) => lazily.relay?.fromGuest(bytes),
      onEnd: () => lazily.relay?.guestEnded(),
      onRoom: () => lazily.relay?.roomForGuest(),
      onClosed: (how: Ending) => {
        this.#entries.delete(key);
        this.#options.report('tcp-close', ourPort);
        lazily.relay?.guestClosed(how);
      },
    };
    const connection = request ? Connection.requested(request, ports) : Connection.open(ports);
    const relay = new Relay(connection, stream);
    lazily.relay = relay;
    const entry = { connection, stream, relay };
    this.#entries.set(key, entry);
    return entry;
  }

  // A first sequence number grows with time, so that a connection does not meet segments of one before it with the same ports (RFC 9293). It need not be
  // secret: nobody else is on this wire.
  #initial(guestPort: number, ourPort: number): number {
    return (Math.floor(this.#options.clock.now() / NS_PER_COUNT) + Math.imul(guestPort * 65_536 + ourPort, 0x9e37_79b1)) >>> 0;
  }

  #makeRoom(): boolean {
    if (this.#entries.size < CONNECTIONS) return true;
    for (const [key, entry] of this.#entries) {
      if (entry.connection.state !== 'TIME-WAIT') continue;
      this.#drop(key, entry);
      return true;
    }
    return false;
  }

  #drop(key: string, { connection, relay }: Entry): void {
    this.#entries.delete(key);
    connection.forget();
    relay.guestClosed('finished');
  }

  /** The guest is not there any more. */
  reset(): void {
    for (const [key, { connection, relay }] of [...this.#entries]) {
      this.#entries.delete(key);
      connection.forget();
      relay.guestClosed('reset');
    }
  }
}
