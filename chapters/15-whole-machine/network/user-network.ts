// # The network as a whole
//
// One station at the other end of the guest's cable, which plays several: a gateway, a name server, and everybody else by saying that they cannot be
// reached. It looks at a frame from the outside in, and at each layer either knows what to do or drops it and counts why.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Clock } from '../../02-kvm-objects/clock.ts';
import type { Link } from '../../05-pio-mmio/net/link.ts';
import { ANY_IPV4, BROADCAST_MAC, type Ipv4, isGuest, isOurs, LIMITED_BROADCAST, NETWORK, sameBytes, stationMac } from './addresses.ts';
import { arpRequest, isStation, Neighbours, receiveArp } from './arp.ts';
import { answerDhcp, DHCP_PORT } from './dhcp.ts';
import { DNS_PORT, refuseQuery } from './dns.ts';
import { buildFrame, ETHERTYPE, type Frame, parseFrame } from './ethernet.ts';
import type { HostPort, HostSockets } from './host-sockets.ts';
import { echoReply, ICMP_ERROR, icmpError } from './icmp.ts';
import { buildPacket, type Packet, PROTOCOL, parsePacket } from './ipv4.ts';
import { buildSegment, parseSegment } from './tcp/segment.ts';
import { TcpNat } from './tcp-nat.ts';
import { buildDatagram, DATAGRAM_LIMIT, type Datagram, parseDatagram } from './udp.ts';
import { UdpForward, UdpNat } from './udp-nat.ts';

/** A port of the host's that leads to one of the guest's. */
export interface Forward {
  readonly protocol: 'tcp' | 'udp';
  readonly hostPort: number;
  readonly guest: Ipv4;
  readonly guestPort: number;
}

interface UserNetworkOptions {
  readonly clock: Clock;
  /** Null: the host cannot be reached, whatever was asked for. */
  readonly sockets?: HostSockets | null;
  /** Whether the guest may reach programs on the host. */
  readonly open?: boolean;
  readonly forwards?: readonly Forward[];
  /** The port of the host's at which a name server answers; null: queries are refused. */
  readonly dnsPort?: number | null;
  readonly trace?: Trace | null;
}

/** Guests that are asked for at a time. */
const ASKED = 16;
const FIRST_GROUP: Ipv4 = 0xe000_0000; // 224.0.0.0: what lies above is no single station

export class UserNetwork {
  /** What was dropped or refused, by reason: for whoever wonders why nothing arrives. */
  readonly refused = new Map<string, number>();
  readonly #link: Link;
  readonly #trace: Trace | null;
  readonly #neighbours = new Neighbours();
  /** Guests that are being asked for, with the last packet for each (RFC 1122). */
  readonly #asked = new Map<Ipv4, Uint8Array>();
  readonly #tcp: TcpNat;
  readonly #udp: UdpNat | null;
  readonly #open: boolean;
  readonly #dnsPort: number | null;
  readonly #ports: readonly HostPort[];
  readonly #udpForwards: UdpForward[] = [];

  constructor(link: Link, { clock, sockets = null, open = false, forwards = [], dnsPort = null, trace = null }: UserNetworkOptions) {
    this.#link = link;
    this.#trace = trace;
    this.#open = open && sockets !== null;
    this.#dnsPort = sockets ? dnsPort : null;
    this.#tcp = new TcpNat({
      clock,
      sockets,
      open,
      send: (source, destination, segment) => this.#send(source, destination, PROTOCOL.TCP, buildSegment(source, destination, segment)),
      report: (what, port) => this.#report(what, port),
    });
    this.#udp =
      sockets &&
      new UdpNat({
        clock,
        sockets,
        send: (source, destination, datagram) => this.#sendDatagram(source, destination, datagram),
        tooLong: () => this.#refuse('datagram too long'),
      });
    this.#ports = sockets ? forwards.map((forward) => this.#forward(sockets, forward)) : [];
    link.onFrame = (frame) => this.#frame(frame);
  }

  // ## What may come from outside

  /** Whether something may come in at any time that nothing in here causes. */
  get expectsInput(): boolean {
    return this.#ports.length > 0 || this.#tcp.size > 0 || (this.#udp?.size ?? 0) > 0;
  }

  /** Settles when the host's ports are open. */
  async opened(): Promise<void> {
    await Promise.all(this.#ports.map(({ ready }) => ready));
  }

  #forward(sockets: HostSockets, { protocol, hostPort, guest, guestPort }: Forward): HostPort {
    if (protocol === 'tcp') return sockets.listen(hostPort, (stream) => this.#tcp.forward(stream, guest, guestPort));
    const made = new UdpForward(sockets.datagrams(hostPort), guest, guestPort, (datagram) => {
      if (datagram.data.length > DATAGRAM_LIMIT) this.#refuse('datagram too long');
      else this.#sendDatagram(NETWORK.gateway, guest, datagram);
    });
    this.#udpForwards.push(made);
    return made;
  }

  // ## From the guest

  #frame(bytes: Uint8Array): void {
    const frame = parseFrame(bytes);
    if (!frame) this.#refuse('no frame');
    else if (!isStation(frame.source)) this.#refuse('sender is a group');
    else if (frame.type === ETHERTYPE.ARP) this.#arp(frame);
    else if (frame.type === ETHERTYPE.IPV4) this.#packet(frame);
    else this.#refuse('protocol of the frame');
  }

  #arp({ payload }: Frame): void {
    const outcome = receiveArp(payload);
    if (!outcome) {
      this.#refuse('arp');
      return;
    }
    if (outcome.learned) this.#learn(outcome.learned.ip, outcome.learned.mac);
    if (outcome.reply && outcome.station !== null)
      this.#link.send(
        buildFrame({
          destination: payload.slice(8, 14),
          source: stationMac(outcome.station),
          type: ETHERTYPE.ARP,
          payload: outcome.reply,
        }),
      );
  }

  // A frame to a station's address for which the station is not the packet's destination wants to be routed. We are the gateway to nowhere.
  #packet(frame: Frame): void {
    const packet = parsePacket(frame.payload);
    if (typeof packet === 'string') {
      this.#refuse(packet);
      return;
    }
    const { source, destination, protocol, fragment } = packet;
    if (source === ANY_IPV4 && protocol === PROTOCOL.UDP && fragment === 'no') {
      this.#datagram(packet); // a guest that asks for an address
      return;
    }
    if (!isGuest(source)) {
      this.#refuse('sender');
      return;
    }
    this.#learn(source, frame.source);
    const group = destination >= FIRST_GROUP || destination === NETWORK.broadcast || sameBytes(frame.destination, BROADCAST_MAC);
    if (fragment !== 'no') {
      // @clause ip.fragments-refused
      this.#refuse('fragment');
      if (!group) this.#error(ICMP_ERROR.REASSEMBLY_TIME, packet);
    } else if (group) {
      if (protocol === PROTOCOL.UDP) this.#datagram(packet);
      else this.#refuse('for a group');
    } else if (!isOurs(destination)) {
      this.#refuse('destination');
      this.#error(ICMP_ERROR.PROHIBITED, packet);
    } else if (protocol === PROTOCOL.ICMP) {
      const reply = echoReply(packet.payload);
      if (reply) this.#send(destination, source, PROTOCOL.ICMP, reply);
      else this.#refuse('icmp');
    } else if (protocol === PROTOCOL.UDP) {
      this.#datagram(packet);
    } else if (protocol === PROTOCOL.TCP) {
      const segment = parseSegment(source, destination, packet.payload);
      if (segment) this.#tcp.segment(source, destination, segment);
      else this.#refuse('tcp');
    } else {
      this.#refuse('protocol of the packet');
      this.#error(ICMP_ERROR.PROTOCOL_UNREACHABLE, packet);
    }
  }

  #datagram(packet: Packet): void {
    const { source, destination } = packet;
    const datagram = parseDatagram(packet);
    if (!datagram) {
      this.#refuse('udp');
      return;
    }
    const { destinationPort, data } = datagram;
    const ours = isOurs(destination);
    if (destinationPort === DHCP_PORT.SERVER && (destination === NETWORK.gateway || destination === LIMITED_BROADCAST)) {
      this.#dhcp(data);
    } else if (!ours || source === ANY_IPV4) {
      this.#refuse('for a group');
    } else if (destination === NETWORK.dns && destinationPort === DNS_PORT) {
      this.#dns(source, datagram);
    } else if (destination === NETWORK.gateway && this.#udpForwards.some((forward) => forward.answer(source, datagram))) {
      return;
    } else if (destination === NETWORK.gateway && this.#open && this.#udp && destinationPort !== 0) {
      this.#udp.send(source, destination, datagram);
    } else {
      this.#refuse('udp port');
      this.#error(ICMP_ERROR.PORT_UNREACHABLE, packet);
    }
  }

  #dhcp(message: Uint8Array): void {
    const answer = answerDhcp(message);
    if (!answer) {
      this.#refuse('dhcp');
      return;
    }
    const datagram = { sourcePort: DHCP_PORT.SERVER, destinationPort: DHCP_PORT.CLIENT, data: answer.message };
    const packet = buildPacket(NETWORK.gateway, answer.ip, PROTOCOL.UDP, buildDatagram(NETWORK.gateway, answer.ip, datagram));
    this.#link.send(buildFrame({ destination: answer.mac, source: stationMac(NETWORK.gateway), type: ETHERTYPE.IPV4, payload: packet }));
  }

  #dns(guest: Ipv4, datagram: Datagram): void {
    if (this.#udp && this.#dnsPort !== null) {
      this.#udp.send(guest, NETWORK.dns, datagram, this.#dnsPort);
      return;
    }
    this.#refuse('name');
    const data = refuseQuery(datagram.data);
    if (data) this.#sendDatagram(NETWORK.dns, guest, { sourcePort: DNS_PORT, destinationPort: datagram.sourcePort, data });
  }

  #learn(ip: Ipv4, mac: Uint8Array): void {
    this.#neighbours.learn(ip, mac);
    const waiting = this.#asked.get(ip);
    if (!waiting) return;
    this.#asked.delete(ip);
    this.#sendPacket(ip, waiting);
  }

  // ## To the guest

  #error(error: (typeof ICMP_ERROR)[keyof typeof ICMP_ERROR], about: Packet): void {
    const message = icmpError(error, about);
    // What is for another station did not reach it; it is the gateway that says so.
    if (message) this.#send(isOurs(about.destination) ? about.destination : NETWORK.gateway, about.source, PROTOCOL.ICMP, message);
  }

  #sendDatagram(source: Ipv4, destination: Ipv4, datagram: Datagram): void {
    this.#send(source, destination, PROTOCOL.UDP, buildDatagram(source, destination, datagram));
  }

  #send(source: Ipv4, destination: Ipv4, protocol: number, payload: Uint8Array): void {
    this.#sendPacket(destination, buildPacket(source, destination, protocol, payload), source);
  }

  // A guest that has said nothing yet has to be asked where it is. The last packet for it waits; whoever sent the others sends them again.
  #sendPacket(guest: Ipv4, packet: Uint8Array, source: Ipv4 = NETWORK.gateway): void {
    const mac = this.#neighbours.get(guest);
    if (mac) {
      this.#link.send(buildFrame({ destination: mac, source: stationMac(source), type: ETHERTYPE.IPV4, payload: packet }));
      return;
    }
    if (this.#asked.size >= ASKED && !this.#asked.has(guest)) for (const oldest of [...this.#asked.keys()].slice(0, 1)) this.#asked.delete(oldest);
    this.#asked.set(guest, packet);
    const payload = arpRequest(NETWORK.gateway, guest);
    this.#link.send(buildFrame({ destination: BROADCAST_MAC, source: stationMac(NETWORK.gateway), type: ETHERTYPE.ARP, payload }));
  }

  #refuse(why: string): void {
    this.refused.set(why, (this.refused.get(why) ?? 0) + 1);
  }

  #report(what: string, value: number): void {
    this.#trace?.emit({ kind: 'device', device: 'user-network', what, value });
  }

  /** The guest has begun again, and knows of nothing. */
  reset(): void {
    this.#tcp.reset();
    this.#udp?.reset();
    this.#neighbours.clear();
    this.#asked.clear();
  }

  close(): void {
    this.reset();
    for (const port of this.#ports) port.close();
  }
}
