// # A network of one
//
// A driver that is to be tested needs somebody to talk to. At the other end of this cable sits a station that answers two things: a question for its
// hardware address, which is how every conversation begins, and anything else by sending it back with the addresses exchanged.

import type { Link } from '../net/link.ts';

/** The station's addresses: those that QEMU's built-in network gives its gateway. */
const ECHO_IP: readonly number[] = [10, 0, 2, 2];
const ECHO_MAC: readonly number[] = [0x52, 0x55, 10, 0, 2, 2];

const HEADER_BYTES = 14;
const TYPE_AT = 12;
const TYPE_ARP = 0x0806;
/** Offsets in an ARP packet for IPv4 over Ethernet (RFC 826). */
const ARP = {
  OPERATION: HEADER_BYTES + 6,
  SENDER_MAC: HEADER_BYTES + 8,
  SENDER_IP: HEADER_BYTES + 14,
  TARGET_IP: HEADER_BYTES + 24,
  BYTES: HEADER_BYTES + 28,
};
const REQUEST = 1;
const REPLY = 2;

/** What the station answers to a frame; null for nothing. */
function answerTo(frame: Uint8Array): Uint8Array | null {
  if (frame.length < HEADER_BYTES) return null;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const answer = frame.slice();
  answer.set(frame.subarray(6, 12), 0);
  answer.set(frame[0] === 0xff ? ECHO_MAC : frame.subarray(0, 6), 6);
  if (view.getUint16(TYPE_AT) !== TYPE_ARP) return answer;
  if (frame.length < ARP.BYTES || view.getUint16(ARP.OPERATION) !== REQUEST) return null;
  if (ECHO_IP.some((byte, index) => frame[ARP.TARGET_IP + index] !== byte)) return null;
  answer.set(ECHO_MAC, 6);
  answer[ARP.OPERATION + 1] = REPLY;
  answer.set(frame.subarray(ARP.SENDER_MAC, ARP.SENDER_MAC + 10), ARP.SENDER_MAC + 10);
  answer.set([...ECHO_MAC, ...ECHO_IP], ARP.SENDER_MAC);
  return answer;
}

/** Puts the station at the end of a cable. */
export function echoStation(link: Link): void {
  link.onFrame = (frame) => {
    const answer = answerTo(frame);
    if (answer) link.send(answer);
  };
}
