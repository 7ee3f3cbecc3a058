// # Datagrams through the gateway
//
// A datagram belongs to nothing. To know where an answer goes, the gateway has to remember who asked, and since nobody says when a conversation is over, it forgets
// after a while of silence. Every translator of addresses does it so, and it is why programs that use UDP send something every half minute for no
// other reason than to be remembered. This one remembers {{CONVERSATIONS}}.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import type { Ipv4 } from './addresses.ts';
import type { HostDatagrams, HostPort, HostSockets } from './host-sockets.ts';
import { DATAGRAM_LIMIT, type Datagram } from './udp.ts';

/** Conversations at a time; the one that has been silent longest makes room. */
export const CONVERSATIONS = 64;
/** RFC 4787 asks for two minutes at least. */
const SILENCE_NS = 120e9;

interface UdpNatOptions {
  readonly clock: Clock;
  readonly sockets: HostSockets;
  send(source: Ipv4, destination: Ipv4, datagram: Datagram): void;
  /** An answer was too long for a frame. */
  tooLong(): void;
}

interface Conversation {
  readonly socket: HostDatagrams & HostPort;
  until: number;
}

export class UdpNat {
  readonly #options: UdpNatOptions;
  /** In order of the last word from the guest. */
  readonly #conversations = new Map<string, Conversation>();
  readonly #timer: Timer;

  constructor(options: UdpNatOptions) {
    this.#options = options;
    this.#timer = options.clock.timer(() => this.#expire());
  }

  get size(): number {
    return this.#conversations.size;
  }

  /**
   * Sends a guest's datagram to a port of the host. Answers seem to come from `ours`, and from the port of the host that they came from, or from `asPort`
   * if the guest knows the program under another one.
   */
  send(guest: Ipv4, ours: Ipv4, { sourcePort, destinationPort, data }: Datagram, hostPort = destinationPort): void {
    const asPort = hostPort === destinationPort ? null : destinationPort;
    const key = `${guest}:${sourcePort}-${ours}:${asPort}`;
    let conversation = this.#conversations.get(key);
    if (!conversation) {
      if (this.#conversations.size >= CONVERSATIONS) for (const oldest of [...this.#conversations.keys()].slice(0, 1)) this.#close(oldest);
      const socket = this.#options.sockets.datagrams();
      socket.onMessage = (bytes, port) => {
        if (bytes.length > DATAGRAM_LIMIT) this.#options.tooLong();
        else if (asPort === null || port === hostPort)
          this.#options.send(ours, guest, { sourcePort: asPort ?? port, destinationPort: sourcePort, data: bytes });
      };
      conversation = { socket, until: 0 };
    }
    this.#conversations.delete(key);
    this.#conversations.set(key, conversation);
    conversation.until = this.#options.clock.now() + SILENCE_NS;
    conversation.socket.send(data.slice(), hostPort);
    if (this.#timer.at === null) this.#timer.arm(conversation.until);
  }

  #expire(): void {
    const now = this.#options.clock.now();
    for (const [key, { until }] of [...this.#conversations]) if (until <= now) this.#close(key);
    for (const { until } of this.#conversations.values()) {
      this.#timer.arm(until);
      return;
    }
  }

  #close(key: string): void {
    this.#conversations.get(key)?.socket.close();
    this.#conversations.delete(key);
  }

  reset(): void {
    for (const key of [...this.#conversations.keys()]) this.#close(key);
    this.#timer.cancel();
  }
}

// ## The other way round
//
// A port of the host's leads to a port of the guest's. The guest sees the sender at the gateway's address with the port that it has on the host, so its answer
// says where it goes; that it *is* an answer has to be remembered.

export class UdpForward implements HostPort {
  readonly ready: Promise<void>;
  readonly #socket: HostDatagrams & HostPort;
  readonly #guest: Ipv4;
  readonly #port: number;
  /** Ports of the host from which something came, the latest last. */
  readonly #askers = new Set<number>();

  constructor(socket: HostDatagrams & HostPort, guest: Ipv4, port: number, deliver: (datagram: Datagram) => void) {
    this.#socket = socket;
    this.#guest = guest;
    this.#port = port;
    this.ready = socket.ready;
    socket.onMessage = (data, from) => {
      this.#askers.delete(from);
      if (this.#askers.size >= CONVERSATIONS) for (const oldest of [...this.#askers].slice(0, 1)) this.#askers.delete(oldest);
      this.#askers.add(from);
      deliver({ sourcePort: from, destinationPort: port, data });
    };
  }

  /** Sends what answers an earlier datagram; false for anything else. */
  answer(guest: Ipv4, { sourcePort, destinationPort, data }: Datagram): boolean {
    if (guest !== this.#guest || sourcePort !== this.#port || !this.#askers.has(destinationPort)) return false;
    this.#socket.send(data.slice(), destinationPort);
    return true;
  }

  close(): void {
    this.#socket.close();
  }
}
