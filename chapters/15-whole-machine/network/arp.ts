// # Who has this address?
//
// IP knows stations by numbers that an administrator gave out, Ethernet by numbers that a factory did. ARP connects the two in the simplest way there is: ask
// everybody, and believe the answer. Nothing proves an answer, which has been exploited ever since. On a wire with one guest there is nobody to deceive, but
// the table of answers must not grow with the number of lies.

import { bytes, layout, u8, u16be, u32be } from '../../01-hardware-background/layout.ts';
import { ANY_IPV4, type Ipv4, isGuest, isOurs, stationMac } from './addresses.ts';
import { ETHERTYPE } from './ethernet.ts';

// ::layout ArpPacket -- A question and an answer look alike.

/** ARP for IPv4 over Ethernet (RFC 826). */
export const ArpPacket = layout('arp', {
  hardware: u16be(0),
  protocol: u16be(2),
  hardwareLength: u8(4),
  protocolLength: u8(5),
  operation: u16be(6),
  senderMac: bytes(8, 6),
  senderIp: u32be(14),
  targetMac: bytes(18, 6),
  targetIp: u32be(24),
});

const HARDWARE_ETHERNET = 1;
const OPERATION = { REQUEST: 1, REPLY: 2 } as const;
const NO_MAC = new Uint8Array(6);

const arp = (operation: number, senderIp: Ipv4, targetMac: Uint8Array, targetIp: Ipv4): Uint8Array =>
  ArpPacket.encode({
    hardware: HARDWARE_ETHERNET,
    protocol: ETHERTYPE.IPV4,
    hardwareLength: 6,
    protocolLength: 4,
    operation,
    senderMac: stationMac(senderIp),
    senderIp,
    targetMac,
    targetIp,
  });

/** Asks for a guest's hardware address, in the gateway's name. */
export const arpRequest = (gateway: Ipv4, target: Ipv4): Uint8Array => arp(OPERATION.REQUEST, gateway, NO_MAC, target);

/** What there is to do about an ARP packet: whose address has been learned, and what to answer to it. */
interface ArpOutcome {
  readonly learned: { readonly ip: Ipv4; readonly mac: Uint8Array } | null;
  readonly reply: Uint8Array | null;
  /** Who is asked for, when that is one of ours. */
  readonly station: Ipv4 | null;
}

// A guest that has no address yet asks with the sender 0.0.0.0 whether anybody has the one that it is about to take; nobody learns from that.

/** @returns null for what is no ARP packet of this network */
export function receiveArp(packet: Uint8Array): ArpOutcome | null {
  if (packet.length < ArpPacket.bytes) return null;
  const { hardware, protocol, hardwareLength, protocolLength, operation, senderMac, senderIp, targetIp } = ArpPacket.decode(packet);
  if (hardware !== HARDWARE_ETHERNET || protocol !== ETHERTYPE.IPV4 || hardwareLength !== 6 || protocolLength !== 4) return null;
  if (operation !== OPERATION.REQUEST && operation !== OPERATION.REPLY) return null;
  if (senderIp !== ANY_IPV4 && !isGuest(senderIp)) return null;
  // @clause arp.reply
  const asked = operation === OPERATION.REQUEST && isOurs(targetIp);
  return {
    learned: isGuest(senderIp) && isStation(senderMac) ? { ip: senderIp, mac: senderMac } : null,
    reply: asked ? arp(OPERATION.REPLY, targetIp, senderMac, senderIp) : null,
    station: asked ? targetIp : null,
  };
}

/** Whether a hardware address is that of one station, and not of a group. */
export const isStation = (mac: Uint8Array): boolean => ((mac[0] as number) & 1) === 0;

// ## The table

/** Guests whose addresses are known. */
const NEIGHBOURS = 16;

export class Neighbours {
  readonly #macs = new Map<Ipv4, Uint8Array>();

  get(ip: Ipv4): Uint8Array | null {
    return this.#macs.get(ip) ?? null;
  }

  /** Whoever has been silent longest makes room. */
  learn(ip: Ipv4, mac: Uint8Array): void {
    this.#macs.delete(ip);
    if (this.#macs.size >= NEIGHBOURS) for (const oldest of [...this.#macs.keys()].slice(0, 1)) this.#macs.delete(oldest);
    this.#macs.set(ip, mac.slice());
  }

  clear(): void {
    this.#macs.clear();
  }
}
