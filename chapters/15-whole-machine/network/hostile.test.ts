// A guest that sends anything at all. Nothing throws, nothing grows, and every answer is a whole frame.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NETWORK, stationMac } from './addresses.ts';
import { buildFrame, ETHERTYPE } from './ethernet.ts';
import { buildPacket, PROTOCOL } from './ipv4.ts';
import { bench, fakeHost, GUEST_MAC } from './laboratory.ts';
import { dice } from './tcp/laboratory.ts';
import { buildSegment } from './tcp/segment.ts';
import { CONNECTIONS } from './tcp-nat.ts';
import { buildDatagram } from './udp.ts';
import { CONVERSATIONS } from './udp-nat.ts';

const bytes = (max: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength: max });
const address = fc.constantFrom(
  NETWORK.gateway,
  NETWORK.dns,
  NETWORK.guest,
  0,
  0xffff_ffff,
  NETWORK.broadcast,
  0x7f00_0001,
  0xe000_0001,
  NETWORK.guest + 1,
);
const port = fc.constantFrom(0, 22, 53, 67, 68, 80, 1000, 65_535);
const wild32 = fc.oneof(fc.nat(20), fc.constantFrom(0xffff_ffff, 0x8000_0000, 0x7fff_ffff), fc.integer({ min: 0, max: 0xffff_ffff }));
const segment = fc.record({
  sourcePort: port,
  destinationPort: port,
  sequence: wild32,
  acknowledgment: wild32,
  flags: fc.nat(63),
  window: fc.constantFrom(0, 1, 1000, 0xffff),
  data: bytes(40),
  mss: fc.option(fc.nat(0xffff)),
  windowScale: fc.option(fc.nat(255)),
});
const payload = (source: number, destination: number): fc.Arbitrary<readonly [number, Uint8Array]> =>
  fc.oneof(
    fc.tuple(fc.nat(255), bytes(80)),
    segment.map((each) => [PROTOCOL.TCP, buildSegment(source, destination, each)] as const),
    fc
      .record({ sourcePort: port, destinationPort: port, data: bytes(400) })
      .map((each) => [PROTOCOL.UDP, buildDatagram(source, destination, each)] as const),
  );
const frame = fc.oneof(
  bytes(100),
  fc
    .tuple(bytes(64), fc.constantFrom<number>(ETHERTYPE.ARP, ETHERTYPE.IPV4, ETHERTYPE.VLAN))
    .map(([inside, type]) => buildFrame({ destination: stationMac(NETWORK.gateway), source: GUEST_MAC, type, payload: inside })),
  fc
    .tuple(address, address)
    .chain(([source, destination]) => fc.tuple(fc.constant(source), fc.constant(destination), payload(source, destination)))
    .map(([source, destination, [protocol, inside]]) =>
      buildFrame({
        destination: stationMac(NETWORK.gateway),
        source: GUEST_MAC,
        type: ETHERTYPE.IPV4,
        payload: buildPacket(source, destination, protocol, inside),
      }),
    ),
);

describe('whatever a guest sends', () => {
  it('is answered or dropped', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(frame, fc.nat(5), fc.nat(3)), { maxLength: 60 }), (steps) => {
        const host = fakeHost();
        const forwards = [{ protocol: 'udp', hostPort: 5, guest: NETWORK.guest, guestPort: 53 } as const];
        const lab = bench({ sockets: host.sockets, open: true, forwards });
        for (const [each, what, later] of steps) {
          const before = lab.received.length;
          lab.send(each);
          expect(lab.received.length - before).toBeLessThan(50);
          const stream = host.connected.at(-1)?.stream;
          if (what === 0) stream?.onConnect();
          if (what === 1) stream?.onData(new Uint8Array(3000));
          if (what === 2) stream?.onEnd();
          if (what === 3) stream?.onClose(false);
          lab.time.pass(later * 1e9, 10_000);
        }
        for (const sent of lab.received) expect(sent.length >= 34 && sent.length <= 1514).toBe(true);
        lab.network.close();
        lab.time.pass(3600e9, 10_000);
        expect(lab.time.queue.armed).toBe(0);
      }),
      { numRuns: 250 },
    );
  });

  it('keeps nothing that grows', () => {
    const host = fakeHost();
    const lab = bench({ sockets: host.sockets, open: true });
    const random = dice(99);
    const some = (limit: number): number => Math.floor(random() * limit);
    for (let count = 0; count < 20_000; count++) {
      const source = NETWORK.prefix + some(256);
      if (some(2)) {
        lab.sendPacket(
          NETWORK.gateway,
          PROTOCOL.TCP,
          buildSegment(source, NETWORK.gateway, {
            sourcePort: some(3000),
            destinationPort: 80,
            sequence: some(2 ** 32),
            acknowledgment: 0,
            flags: 2,
            window: 0,
            data: new Uint8Array(0),
          }),
          source,
        );
      } else lab.sendDatagram(NETWORK.gateway, { sourcePort: some(3000), destinationPort: 9, data: new Uint8Array(3) }, source);
      lab.received.length = 0;
    }
    expect(host.connected.length).toBe(CONNECTIONS);
    expect(host.datagrams.filter(({ closed }) => !closed).length).toBe(CONVERSATIONS);
    expect(lab.time.queue.armed).toBeLessThan(3 * CONNECTIONS);
  });
});
