// # Giving out the one address
//
// A guest that starts knows nothing of its network, not even who it is. It asks everybody, and somebody offers an address; it asks for that
// address, and is told that it has it. The two steps exist because several servers may have offered. Here there is one server with one address to give.
//
// The packet is that of BOOTP, from 1985, with a list of options behind a magic number. Nearly everything that matters is in the options.
//
// ::layout DhcpMessage -- Most of it has been zero for thirty years.

import { bytes, layout, u8, u16be, u32be } from '../../01-hardware-background/layout.ts';
import { ANY_IPV4, BROADCAST_MAC, type Ipv4, LIMITED_BROADCAST, NETWORK } from './addresses.ts';

export const DhcpMessage = layout('dhcp', {
  op: u8(0),
  hardware: u8(1),
  hardwareLength: u8(2),
  hops: u8(3),
  transaction: u32be(4),
  seconds: u16be(8),
  flags: u16be(10),
  client: u32be(12), // ciaddr: the address that the client already has
  your: u32be(16), // yiaddr: the one that it gets
  server: u32be(20), // siaddr: where to boot from
  relay: u32be(24), // giaddr
  clientMac: bytes(28, 16),
  serverName: bytes(44, 64),
  file: bytes(108, 128),
  magic: u32be(236),
});

export const DHCP_PORT = { SERVER: 67, CLIENT: 68 } as const;

const OP = { REQUEST: 1, REPLY: 2 } as const;
const HARDWARE_ETHERNET = 1;
const BROADCAST_FLAG = 0x8000;
const MAGIC = 0x6382_5363;
const LEASE_SECONDS = 86_400;
/** Some clients take nothing shorter than what BOOTP had. */
const SHORTEST_MESSAGE = 300;

const OPTION = { PAD: 0, SUBNET: 1, ROUTER: 3, DNS: 6, REQUESTED: 50, LEASE: 51, TYPE: 53, SERVER: 54, END: 255 } as const;
const TYPE = { DISCOVER: 1, OFFER: 2, REQUEST: 3, ACK: 5, NAK: 6, INFORM: 8 } as const;

/** The options, each as its bytes; the first of a kind counts. Null when one reaches past the end. */
function optionsOf(message: Uint8Array): Map<number, Uint8Array> | null {
  const found = new Map<number, Uint8Array>();
  for (let at = DhcpMessage.bytes; at < message.length; ) {
    const code = message[at++] as number;
    if (code === OPTION.PAD) continue;
    if (code === OPTION.END) break;
    const length = message[at++];
    if (length === undefined || at + length > message.length) return null;
    if (!found.has(code)) found.set(code, message.subarray(at, at + length));
    at += length;
  }
  return found;
}

function addressIn(option: Uint8Array | undefined): Ipv4 | null {
  return option?.length === 4 ? new DataView(option.buffer, option.byteOffset, 4).getUint32(0) : null;
}

const words = (code: number, ...values: number[]): number[] => [
  code,
  values.length * 4,
  ...values.flatMap((value) => [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff]),
];

/** An answer, and to whom it goes. */
interface DhcpAnswer {
  readonly message: Uint8Array;
  readonly mac: Uint8Array;
  readonly ip: Ipv4;
}

// ## The answer
//
// A client that asks for another address than ours is told no, so that it starts over; one that has chosen another server is left alone.

/** What the server says to a message; null when it says nothing. */
export function answerDhcp(message: Uint8Array): DhcpAnswer | null {
  if (message.length < DhcpMessage.bytes) return null;
  const request = DhcpMessage.decode(message);
  const { op, hardware, hardwareLength, magic, relay, client, flags } = request;
  if (op !== OP.REQUEST || hardware !== HARDWARE_ETHERNET || hardwareLength !== 6 || magic !== MAGIC || relay !== ANY_IPV4) return null;
  const options = optionsOf(message);
  const type = options?.get(OPTION.TYPE);
  if (!options || type?.length !== 1) return null;
  const chosen = options.get(OPTION.SERVER);
  if (chosen && addressIn(chosen) !== NETWORK.gateway) return null;
  const wanted = addressIn(options.get(OPTION.REQUESTED)) ?? client;
  // @clause dhcp.nak
  const kind = { [TYPE.DISCOVER]: TYPE.OFFER, [TYPE.REQUEST]: wanted === NETWORK.guest ? TYPE.ACK : TYPE.NAK, [TYPE.INFORM]: TYPE.ACK }[
    type[0] as number
  ];
  if (kind === undefined) return null;

  const informs = type[0] === TYPE.INFORM;
  const said = [OPTION.TYPE, 1, kind, ...words(OPTION.SERVER, NETWORK.gateway)];
  if (kind !== TYPE.NAK) {
    said.push(...words(OPTION.SUBNET, NETWORK.mask), ...words(OPTION.ROUTER, NETWORK.gateway), ...words(OPTION.DNS, NETWORK.dns));
    if (!informs) said.push(...words(OPTION.LEASE, LEASE_SECONDS));
  }
  said.push(OPTION.END);
  const answer = new Uint8Array(Math.max(SHORTEST_MESSAGE, DhcpMessage.bytes + said.length));
  DhcpMessage.store(new DataView(answer.buffer), 0, {
    op: OP.REPLY,
    hardware,
    hardwareLength,
    transaction: request.transaction,
    flags,
    client: kind === TYPE.NAK ? ANY_IPV4 : client,
    your: kind === TYPE.NAK || informs ? ANY_IPV4 : NETWORK.guest,
    relay,
    clientMac: request.clientMac,
    magic: MAGIC,
  });
  answer.set(said, DhcpMessage.bytes);

  // A client without an address can be reached by its hardware address alone, unless it says that it cannot.
  if (kind === TYPE.NAK || (client === ANY_IPV4 && flags & BROADCAST_FLAG)) return { message: answer, mac: BROADCAST_MAC, ip: LIMITED_BROADCAST };
  const mac = request.clientMac.slice(0, 6);
  return { message: answer, mac, ip: client === ANY_IPV4 ? NETWORK.guest : client };
}
