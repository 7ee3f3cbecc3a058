// # Who lives on the wire
//
// The network is the one that QEMU's users know by heart: {{dotted(NETWORK.prefix)}}, with a gateway at {{dotted(NETWORK.gateway)}}, a name server at
// {{dotted(NETWORK.dns)}}, and the guest at {{dotted(NETWORK.guest)}}. Nothing would speak against other numbers, but a thousand scripts and howtos have
// these in them. The stations that we play need hardware addresses, too; they are made of the IP address, so that a dump of the traffic can be read.

/** An IPv4 address as an unsigned number, the first byte highest. */
export type Ipv4 = number;

/** Reads `10.0.2.2`; null when it is no address. */
export function readIpv4(text: string): Ipv4 | null {
  const parts = text.split('.');
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9][0-9]{0,2})$/.test(part) && Number(part) <= 255)) return null;
  return parts.reduce((address, part) => address * 256 + Number(part), 0);
}

export const dotted = (address: Ipv4): string => [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join('.');

const PREFIX: Ipv4 = 0x0a00_0200;

export const NETWORK = {
  prefix: PREFIX,
  mask: 0xffff_ff00,
  gateway: PREFIX + 2,
  dns: PREFIX + 3,
  guest: PREFIX + 15,
  broadcast: PREFIX + 255,
} as const;

export const ANY_IPV4: Ipv4 = 0;
export const LIMITED_BROADCAST: Ipv4 = 0xffff_ffff;

/** Whether an address is one that a guest may have: in the network, no station of ours, nobody's broadcast. */
export function isGuest(address: Ipv4): boolean {
  if ((address & NETWORK.mask) >>> 0 !== NETWORK.prefix) return false;
  return address !== NETWORK.prefix && address !== NETWORK.broadcast && !isOurs(address);
}

/** Whether an address is that of a station which we play. */
export const isOurs = (address: Ipv4): boolean => address === NETWORK.gateway || address === NETWORK.dns;

/** The hardware address of a station that we play: locally administered. */
export const stationMac = (address: Ipv4): Uint8Array => Uint8Array.of(0x52, 0x55, address >>> 24, address >>> 16, address >>> 8, address);

export const BROADCAST_MAC = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);

export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, index) => byte === b[index]);
