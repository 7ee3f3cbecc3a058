// # Ethernet
//
// A frame is two addresses, a number that says what is inside, and the inside. There is a minimum length for electrical reasons of 1980, so what is inside
// may be followed by bytes that mean nothing; every protocol below says its own length and has to be asked for it.

import { bytes, layout, u16be } from '../../01-hardware-background/layout.ts';

export const EthernetHeader = layout('ethernet', {
  destination: bytes(0, 6),
  source: bytes(6, 6),
  type: u16be(12), // what is inside
});

export const ETHERTYPE = { IPV4: 0x0800, ARP: 0x0806, VLAN: 0x8100 } as const;

/** What one frame carries beside its header. */
export const MTU = 1500;

export interface Frame {
  readonly destination: Uint8Array;
  readonly source: Uint8Array;
  readonly type: number;
  readonly payload: Uint8Array;
}

// ## A tag in the way
//
// Between the addresses and the type there may be four bytes more, the tag of a virtual LAN. Our wire has none. But a tag with the network number 0 says
// "no network, only a priority", and means the frame that it would be without; drivers send such frames.

const TAG_BYTES = 4;
const VLAN_ID = 0x0fff;

/** Takes a frame apart; null for what is too short to be one, or is for another virtual LAN. */
export function parseFrame(frame: Uint8Array): Frame | null {
  if (frame.length < EthernetHeader.bytes) return null;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const { destination, source, type } = EthernetHeader.load(view);
  if (type !== ETHERTYPE.VLAN) return { destination, source, type, payload: frame.subarray(EthernetHeader.bytes) };
  if (frame.length < EthernetHeader.bytes + TAG_BYTES || (view.getUint16(EthernetHeader.bytes) & VLAN_ID) !== 0) return null;
  return { destination, source, type: view.getUint16(EthernetHeader.bytes + 2), payload: frame.subarray(EthernetHeader.bytes + TAG_BYTES) };
}

export function buildFrame({ destination, source, type, payload }: Frame): Uint8Array {
  const frame = new Uint8Array(EthernetHeader.bytes + payload.length);
  EthernetHeader.store(new DataView(frame.buffer), 0, { destination, source, type });
  frame.set(payload, EthernetHeader.bytes);
  return frame;
}
