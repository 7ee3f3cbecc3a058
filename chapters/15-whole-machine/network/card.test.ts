// The network at the end of an e1000's cable, with the work that Linux leaves to the card.

import { describe, expect, it } from 'vitest';
import { POPTS, RX_STATUS, TUCMD, TX_CMD } from '../../05-pio-mmio/e1000/descriptors.ts';
import { rig } from '../../05-pio-mmio/e1000/laboratory.ts';
import { CTRL, RXCSUM } from '../../05-pio-mmio/e1000/registers.ts';
import { NETWORK, stationMac } from './addresses.ts';
import { buildFrame, ETHERTYPE } from './ethernet.ts';
import { buildPacket, Ipv4Header, type Packet, PROTOCOL, parsePacket } from './ipv4.ts';
import { type FakeStream, fakeHost, GUEST_MAC } from './laboratory.ts';
import { pattern } from './tcp/laboratory.ts';
import { buildSegment, FLAG, parseSegment, type Segment, TcpHeader } from './tcp/segment.ts';
import { UserNetwork } from './user-network.ts';

const IP = 14;
const TCP = IP + Ipv4Header.bytes;
const DATA = TCP + TcpHeader.bytes;

const frame = (segment: Partial<Segment>): Uint8Array => {
  const whole = {
    sourcePort: 1000,
    destinationPort: 80,
    sequence: 1,
    acknowledgment: 0,
    flags: FLAG.ACK,
    window: 0xffff,
    data: new Uint8Array(0),
    ...segment,
  };
  const payload = buildPacket(NETWORK.guest, NETWORK.gateway, PROTOCOL.TCP, buildSegment(NETWORK.guest, NETWORK.gateway, whole));
  return buildFrame({ destination: stationMac(NETWORK.gateway), source: GUEST_MAC, type: ETHERTYPE.IPV4, payload });
};

/** A card whose guest is connected to a program on the host. */
function connected() {
  const r = rig();
  const host = fakeHost();
  const network = new UserNetwork(r.far, { clock: r.queue, sockets: host.sockets, open: true });
  /** Rings the card, and lets a moment pass. */
  const go = (tail: number): void => {
    r.write('TDT', tail);
    r.until(r.queue.now() + 1e6);
  };
  r.legacy(frame({ flags: FLAG.SYN, sequence: 0, mss: 1460 }));
  go(1);
  const stream = host.connected[0]?.stream as FakeStream;
  stream.onConnect();
  r.until(r.queue.now() + 1e6);
  const received = (index: number): Segment => {
    const packet = parsePacket(r.received(index).bytes.slice(IP)) as Packet;
    return parseSegment(NETWORK.gateway, NETWORK.guest, packet.payload) as Segment;
  };
  const answer = received(0);
  expect(answer).toMatchObject({ flags: FLAG.SYN | FLAG.ACK, acknowledgment: 1 });
  const acknowledgment = (answer.sequence + 1) >>> 0;
  r.legacy(frame({ acknowledgment }));
  go(2);
  return { r, network, stream, go, received, acknowledgment };
}

/** What a driver leaves out when the card is to fill it in: the sum of the pseudo-header is there, of TCP's length only where it is known. */
function unsummed(whole: Uint8Array, withLength: boolean): Uint8Array {
  const view = new DataView(whole.buffer);
  view.setUint16(IP + 10, 0);
  let sum = PROTOCOL.TCP + (withLength ? whole.length - TCP : 0);
  for (let at = IP + 12; at < TCP; at += 2) sum += view.getUint16(at);
  view.setUint16(TCP + 16, (sum & 0xffff) + (sum >>> 16));
  return whole;
}

const OFFSETS = { ipcss: IP, ipcso: IP + 10, ipcse: TCP - 1, tucss: TCP, tucso: TCP + 16, tucse: 0 };

describe('a card that computes and cuts', () => {
  it('brings a send of many segments to the program, whole', () => {
    const { r, network, stream, go, acknowledgment } = connected();
    const bytes = pattern(40_000);
    const whole = unsummed(frame({ acknowledgment, flags: FLAG.ACK | FLAG.PSH }), false);
    new DataView(whole.buffer).setUint16(IP + 2, 0); // of a packet that is to be cut, no length either
    const packet = Uint8Array.from([...whole, ...bytes]);
    const command = (((TX_CMD.DEXT | TX_CMD.TSE | TUCMD.IPV4 | TUCMD.TCP) << 24) | bytes.length) >>> 0;
    r.context({ ...OFFSETS, hdrlen: DATA, mss: 1460, command });
    r.data(packet, TX_CMD.DEXT | TX_CMD.TSE | TX_CMD.EOP | TX_CMD.RS, POPTS.IXSM | POPTS.TXSM);
    go(4);
    expect(Buffer.compare(Uint8Array.from(stream.written), bytes)).toBe(0);
    expect([...network.refused]).toEqual([]);
  });
  it('brings one whose checksums it has computed, also under a priority tag', () => {
    for (const tagged of [false, true]) {
      const { r, network, stream, go, acknowledgment } = connected();
      const bytes = pattern(333);
      if (tagged) r.write('CTRL', CTRL.SLU | CTRL.VME);
      r.context({ ...OFFSETS, command: (((TX_CMD.DEXT | TUCMD.IPV4 | TUCMD.TCP) << 24) >>> 0) | 0 });
      r.data(
        unsummed(frame({ acknowledgment, data: bytes }), true),
        TX_CMD.DEXT | TX_CMD.EOP | TX_CMD.RS | (tagged ? TX_CMD.VLE : 0),
        POPTS.IXSM | POPTS.TXSM,
      );
      go(4);
      expect([Uint8Array.from(stream.written), [...network.refused]]).toEqual([bytes, []]);
    }
  });
  it('finds the checksums of what it receives right', () => {
    const { r, stream, received } = connected();
    r.write('RXCSUM', RXCSUM.IPOFL | RXCSUM.TUOFL);
    stream.onData(pattern(3000));
    r.until(r.queue.now() + 1e6);
    expect([1, 2, 3].map((index) => received(index).data.length)).toEqual([1460, 1460, 80]);
    for (const index of [1, 2, 3]) {
      const { status, errors } = r.received(index);
      expect([status & (RX_STATUS.IPCS | RX_STATUS.TCPCS), errors]).toEqual([RX_STATUS.IPCS | RX_STATUS.TCPCS, 0]);
    }
  });
});
