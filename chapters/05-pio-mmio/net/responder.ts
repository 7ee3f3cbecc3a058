// # Somebody to talk to
//
// A driver that only sends is half a driver. A responder is the smallest neighbour: it answers the question "who has this address?", and sends back
// whatever is of the type that the standard keeps for experiments.

import type { Link } from './link.ts';

const BROADCAST = 0xff;
const ETHERTYPE = { ARP: 0x0806, EXPERIMENT: 0x88b5 } as const;
const ARP_REQUEST = 1;
const ARP_REPLY = 2;
/** Ethernet, IPv4, and their address lengths: what an ARP packet between these two begins with. */
const ARP_ETHERNET_IPV4 = [0, 1, 8, 0, 6, 4] as const;
const ARP_FRAME_BYTES = 60;

export interface Neighbour {
  readonly mac: Uint8Array;
  readonly ip: Uint8Array;
}

/** The address of the gateway that guests of user-mode networks know, and the hardware address that goes with it. */
export const GATEWAY: Neighbour = { mac: Uint8Array.of(0x52, 0x55, 10, 0, 2, 2), ip: Uint8Array.of(10, 0, 2, 2) };

const equal = (a: Uint8Array, b: Uint8Array): boolean => a.every((byte, index) => byte === b[index]);

/** What the neighbour says to a frame; null for nothing. */
export function answer(frame: Uint8Array, { mac, ip }: Neighbour): Uint8Array | null {
  if (frame.length < 42) return null;
  const to = frame.subarray(0, 6);
  if (!equal(to, mac) && !to.every((byte) => byte === BROADCAST)) return null;
  const type = ((frame[12] as number) << 8) | (frame[13] as number);
  if (type === ETHERTYPE.EXPERIMENT) {
    const back = frame.slice();
    back.set(frame.subarray(6, 12), 0);
    back.set(mac, 6);
    return back;
  }
  const isRequest = type === ETHERTYPE.ARP && ARP_ETHERNET_IPV4.every((byte, index) => frame[14 + index] === byte) && frame[21] === ARP_REQUEST;
  if (!isRequest || !equal(frame.subarray(38, 42), ip)) return null;
  const reply = new Uint8Array(ARP_FRAME_BYTES);
  reply.set(frame.subarray(6, 12), 0);
  reply.set(mac, 6);
  reply.set(frame.subarray(12, 20), 12);
  reply[21] = ARP_REPLY;
  reply.set(mac, 22);
  reply.set(ip, 28);
  reply.set(frame.subarray(22, 32), 32);
  return reply;
}

/** Puts a neighbour at the end of a link. */
export function respond(link: Link, neighbour: Neighbour = GATEWAY): void {
  link.onFrame = (frame) => {
    const said = answer(frame, neighbour);
    if (said) link.send(said);
  };
}
