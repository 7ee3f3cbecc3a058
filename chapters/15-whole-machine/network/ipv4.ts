// # IPv4
//
// The header that every packet of the Internet has carried since 1981. A receiver can believe little of it: it says how long it is itself, how long the
// packet is, and what the sum of its words is, and each may be wrong by accident or by intent. What is wrong is dropped, and the reason counted.
//
// A packet that was too long for some link on its way arrives in pieces, and a host should put them together. Ours does not. Reassembly keeps memory for
// pieces whose rest may never come; it has been one of the best-known ways to bring a host down. On a wire on which every station agrees about the
// length of a frame only somebody who insists sends pieces, and is told that they are not taken.

import { layout, u8, u16be, u32be } from '../../01-hardware-background/layout.ts';
import { onesSum } from '../../05-pio-mmio/e1000/offload.ts';
import type { Ipv4 } from './addresses.ts';

export const Ipv4Header = layout('ipv4', {
  versionLength: u8(0), // version in the high half, length of the header in words in the low one
  service: u8(1),
  totalLength: u16be(2),
  identification: u16be(4),
  fragment: u16be(6), // flags in the high three bits, offset in units of eight bytes in the others
  ttl: u8(8),
  protocol: u8(9),
  checksum: u16be(10),
  source: u32be(12),
  destination: u32be(16),
});

export const PROTOCOL = { ICMP: 1, TCP: 6, UDP: 17 } as const;

const VERSION = 4;
const MORE_FRAGMENTS = 0x2000;
const FRAGMENT_OFFSET = 0x1fff;
const DONT_FRAGMENT = 0x4000;
const TTL = 64;

export interface Packet {
  readonly source: Ipv4;
  readonly destination: Ipv4;
  readonly protocol: number;
  readonly payload: Uint8Array;
  /** The header with its options: what an ICMP error sends back of it. */
  readonly header: Uint8Array;
  /** Whether it is a piece of a packet, and if so the first. */
  readonly fragment: 'no' | 'first' | 'later';
}

/** Why a packet was dropped. */
type Malformed = 'short' | 'version' | 'header length' | 'total length' | 'header checksum';

/** Takes a packet apart, or says what is wrong with it. Bytes after the packet's own length are the frame's padding. */
export function parsePacket(bytes: Uint8Array): Packet | Malformed {
  if (bytes.length < Ipv4Header.bytes) return 'short';
  const { versionLength, totalLength, fragment, protocol, source, destination } = Ipv4Header.decode(bytes);
  const headerBytes = (versionLength & 0x0f) * 4;
  if (versionLength >> 4 !== VERSION) return 'version';
  if (headerBytes < Ipv4Header.bytes || headerBytes > bytes.length) return 'header length';
  if (totalLength < headerBytes || totalLength > bytes.length) return 'total length';
  // @clause ip.header-checked
  if (onesSum(bytes, 0, headerBytes) !== 0xffff) return 'header checksum';
  const piece = (fragment & FRAGMENT_OFFSET) !== 0 ? 'later' : (fragment & MORE_FRAGMENTS) !== 0 ? 'first' : 'no';
  return {
    source,
    destination,
    protocol,
    payload: bytes.subarray(headerBytes, totalLength),
    header: bytes.subarray(0, headerBytes),
    fragment: piece,
  };
}

/** A packet of ours: never to be cut, and short enough that it need not be. */
export function buildPacket(source: Ipv4, destination: Ipv4, protocol: number, payload: Uint8Array): Uint8Array {
  const packet = new Uint8Array(Ipv4Header.bytes + payload.length);
  const view = new DataView(packet.buffer);
  Ipv4Header.store(view, 0, {
    versionLength: (VERSION << 4) | (Ipv4Header.bytes / 4),
    totalLength: packet.length,
    fragment: DONT_FRAGMENT, // so the identification may be 0 (RFC 6864)
    ttl: TTL,
    protocol,
    source,
    destination,
  });
  Ipv4Header.fields.checksum.set(view, 0, ~onesSum(packet, 0, Ipv4Header.bytes) & 0xffff);
  packet.set(payload, Ipv4Header.bytes);
  return packet;
}

// ## The sum that reaches into the layer below
//
// TCP and UDP add up their own bytes and, with them, the addresses, which are not theirs. When the protocols were still one it was natural; now it
// is what makes a translator of addresses touch every packet's inside.

/** The ones' complement sum of a segment and its pseudo-header: 0xFFFF when its checksum is right. */
export function transportSum(source: Ipv4, destination: Ipv4, protocol: number, segment: Uint8Array): number {
  const pseudo = (source >>> 16) + (source & 0xffff) + (destination >>> 16) + (destination & 0xffff) + protocol + segment.length;
  return onesSum(segment, 0, segment.length, pseudo);
}
