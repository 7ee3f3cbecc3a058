// The stations of the network against packets written out in full. Their checksums were computed elsewhere.

import { describe, expect, it } from 'vitest';
import { dotted, NETWORK, readIpv4 } from './addresses.ts';
import { DHCP_PORT, DhcpMessage } from './dhcp.ts';
import { parsePacket } from './ipv4.ts';
import { bench, dullChecksum, fakeHost, GUEST_MAC, hex } from './laboratory.ts';

const CONVERSATIONS: readonly (readonly [what: string, frame: string, answer: string])[] = [
  [
    'who has the gateway’s address',
    'ff ff ff ff ff ff 52 54 00 12 34 56 08 06 00 01 08 00 06 04 00 01 52 54 00 12 34 56 0a 00 02 0f 00 00 00 00 00 00 0a 00 02 02',
    '52 54 00 12 34 56 52 55 0a 00 02 02 08 06 00 01 08 00 06 04 00 02 52 55 0a 00 02 02 0a 00 02 02 52 54 00 12 34 56 0a 00 02 0f',
  ],
  [
    'an echo request to the gateway',
    '52 55 0a 00 02 02 52 54 00 12 34 56 08 00 45 00 00 23 00 00 40 00 40 01 22 ca 0a 00 02 0f 0a 00 02 02 08 00 54 9d 12 34 00 01 61 62 63 64 65 66 67',
    '52 54 00 12 34 56 52 55 0a 00 02 02 08 00 45 00 00 23 00 00 40 00 40 01 22 ca 0a 00 02 02 0a 00 02 0f 00 00 5c 9d 12 34 00 01 61 62 63 64 65 66 67',
  ],
  [
    'a name',
    `52 55 0a 00 02 03 52 54 00 12 34 56 08 00 45 00 00 39 00 00 40 00 40 11 22 a3 0a 00 02 0f 0a 00 02 03 9c 40 00 35 00 25 b9 b9 be ef 01 00 00 01
     00 00 00 00 00 00 07 65 78 61 6d 70 6c 65 03 6f 72 67 00 00 01 00 01`,
    `52 54 00 12 34 56 52 55 0a 00 02 03 08 00 45 00 00 39 00 00 40 00 40 11 22 a3 0a 00 02 03 0a 00 02 0f 00 35 9c 40 00 25 39 b4 be ef 81 05 00 01
     00 00 00 00 00 00 07 65 78 61 6d 70 6c 65 03 6f 72 67 00 00 01 00 01`,
  ],
  [
    'a connection to the host',
    `52 55 0a 00 02 02 52 54 00 12 34 56 08 00 45 00 00 3c 00 00 40 00 40 06 22 ac 0a 00 02 0f 0a 00 02 02 80 e8 00 50 11 22 33 44 00 00 00 00 a0 02
     fa f0 6f 5f 00 00 02 04 05 b4 04 02 08 0a 00 00 00 01 00 00 00 00 01 03 03 07`,
    '52 54 00 12 34 56 52 55 0a 00 02 02 08 00 45 00 00 28 00 00 40 00 40 06 22 c0 0a 00 02 02 0a 00 02 0f 00 50 80 e8 00 00 00 00 11 22 33 45 50 14 00 00 d2 20 00 00',
  ],
  [
    'a datagram to the host',
    '52 55 0a 00 02 02 52 54 00 12 34 56 08 00 45 00 00 21 00 00 40 00 40 11 22 bc 0a 00 02 0f 0a 00 02 02 13 88 00 07 00 0d 90 62 68 65 6c 6c 6f',
    `52 54 00 12 34 56 52 55 0a 00 02 02 08 00 45 00 00 38 00 00 40 00 40 01 22 b5 0a 00 02 02 0a 00 02 0f 03 03 58 fe 00 00 00 00 45 00 00 21 00 00
     40 00 40 11 22 bc 0a 00 02 0f 0a 00 02 02 13 88 00 07 00 0d 90 62`,
  ],
  [
    'an echo request to the world',
    '52 55 0a 00 02 02 52 54 00 12 34 56 08 00 45 00 00 23 00 00 40 00 40 01 1e bc 0a 00 02 0f 08 08 08 08 08 00 54 9d 12 34 00 01 61 62 63 64 65 66 67',
    `52 54 00 12 34 56 52 55 0a 00 02 02 08 00 45 00 00 38 00 00 40 00 40 01 22 b5 0a 00 02 02 0a 00 02 0f 03 0d 8e 20 00 00 00 00 45 00 00 23 00 00
     40 00 40 01 1e bc 0a 00 02 0f 08 08 08 08 08 00 54 9d 12 34 00 01`,
  ],
  [
    'the first piece of a packet',
    `52 55 0a 00 02 02 52 54 00 12 34 56 08 00 45 00 00 30 00 07 20 00 40 01 42 b6 0a 00 02 0f 0a 00 02 02 08 00 81 52 12 34 00 01 61 62 63 64 65 66
     67 78 78 78 78 78 78 78 78 78 78 78 78 78`,
    `52 54 00 12 34 56 52 55 0a 00 02 02 08 00 45 00 00 38 00 00 40 00 40 01 22 b5 0a 00 02 02 0a 00 02 0f 0b 01 59 77 00 00 00 00 45 00 00 30 00 07
     20 00 40 01 42 b6 0a 00 02 0f 0a 00 02 02 08 00 81 52 12 34 00 01`,
  ],
];

describe('a closed network', () => {
  for (const [what, frame, answer] of CONVERSATIONS) {
    it(`answers ${what}, and not if a byte is wrong`, () => {
      const { send, received, network } = bench();
      send(hex(frame));
      expect(received).toEqual([hex(answer)]);
      expect(network.expectsInput).toBe(false);
      const ethernet = 14;
      for (let at = ethernet; at < hex(frame).length; at++) {
        received.length = 0;
        const damaged = hex(frame);
        damaged[at] = (damaged[at] as number) ^ 0x10;
        if (frame.includes('08 06 00 01') || at >= ethernet + 20) continue; // ARP has no checksum; that of a datagram is not looked at when nobody wants it
        send(damaged);
        expect(received.length, `byte ${at}`).toBe(0);
      }
    });
  }

  it('answers through a priority tag, and past a frame’s padding', () => {
    const [, frame, answer] = CONVERSATIONS[1] as (typeof CONVERSATIONS)[number];
    const plain = hex(frame);
    const { send, received } = bench();
    const tagged = (tag: number): Uint8Array =>
      Uint8Array.from([...plain.subarray(0, 12), 0x81, 0, tag >> 8, tag & 0xff, ...plain.subarray(12), 0, 0, 9, 9, 9]);
    send(tagged(0xe000));
    expect(received).toEqual([hex(answer)]);
    send(tagged(0xe001));
    expect(received.length).toBe(1);
  });

  it('is silent to what it must not answer', () => {
    const echo = (CONVERSATIONS[1] as (typeof CONVERSATIONS)[number])[1];
    const cases: readonly [why: string, change: (frame: string) => string][] = [
      ['sender', (f) => f.replace('22 ca 0a 00 02 0f', '22 d7 0a 00 02 02')], // in the gateway’s own name
      ['sender is a group', (f) => f.replace('52 54 00 12', '53 54 00 12')],
      ['header checksum', (f) => f.replace('22 ca', '22 cb')],
      ['icmp', (f) => f.replace('54 9d', '54 9e')],
      ['version', (f) => f.replace('45 00', '65 00')],
      ['header length', (f) => f.replace('45 00', '4f 00').slice(0, 150)],
      ['total length', (f) => f.replace('00 23', '00 99')],
      ['protocol of the frame', (f) => f.replace('08 00 45', '86 dd 45')],
    ];
    for (const [why, change] of cases) {
      const { send, received, network } = bench();
      send(hex(change(echo)));
      expect([received.length, [...network.refused]]).toEqual([0, [[why, 1]]]);
    }
  });
});

describe('addresses', () => {
  const message = (type: number, options: readonly number[] = [], over: Parameters<typeof DhcpMessage.encode>[0] = {}): Uint8Array => {
    const clientMac = new Uint8Array(16);
    clientMac.set(GUEST_MAC);
    const fixed = DhcpMessage.encode({ op: 1, hardware: 1, hardwareLength: 6, transaction: 0xdead_beef, clientMac, magic: 0x6382_5363, ...over });
    return Uint8Array.from([...fixed, 53, 1, type, ...options, 255]);
  };
  const ask = (data: Uint8Array, lab = bench(), source = 0) => {
    lab.sendDatagram(source === 0 ? 0xffff_ffff : NETWORK.gateway, { sourcePort: DHCP_PORT.CLIENT, destinationPort: DHCP_PORT.SERVER, data }, source);
    const frame = lab.received[0];
    const [packet] = lab.packets();
    if (!frame || !packet) return null;
    const body = packet.payload.subarray(8);
    return { frame, packet, fields: DhcpMessage.decode(body), options: body.subarray(DhcpMessage.bytes) };
  };

  it('are offered, with all that a guest needs to know', () => {
    const offer = ask(message(1));
    expect(offer?.fields).toMatchObject({ op: 2, transaction: 0xdead_beef, your: NETWORK.guest, client: 0 });
    expect([...(offer?.options ?? [])].slice(0, 39)).toEqual([
      ...[53, 1, 2, 54, 4, 10, 0, 2, 2],
      ...[1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 6, 4, 10, 0, 2, 3],
      ...[51, 4, 0, 1, 0x51, 0x80, 255, 0, 0, 0, 0, 0],
    ]);
    expect(offer?.frame.subarray(0, 6)).toEqual(GUEST_MAC); // to the hardware address, since it said that it can
    expect(dotted(offer?.packet.destination ?? 0)).toBe('10.0.2.15');
  });
  it('are broadcast to a guest that cannot hear otherwise', () => {
    const offer = ask(message(1, [], { flags: 0x8000 }));
    expect(dotted(offer?.packet.destination ?? 0)).toBe('255.255.255.255');
    expect(offer?.frame.subarray(0, 6)).toEqual(hex('ff ff ff ff ff ff'));
  });
  it('are confirmed; another is denied; another server’s choice is not ours to answer', () => {
    expect(ask(message(3, [50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2]))?.options.slice(0, 3)).toEqual(hex('35 01 05'));
    const denied = ask(message(3, [50, 4, 10, 0, 2, 16]));
    expect(denied?.options.slice(0, 3)).toEqual(hex('35 01 06'));
    expect(denied?.fields.your).toBe(0);
    expect(dotted(denied?.packet.destination ?? 0)).toBe('255.255.255.255');
    expect(ask(message(3, [50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 9]))).toBe(null);
  });
  it('are renewed by the guest that has one, and not given to one that only asks for the rest', () => {
    expect(ask(message(3, [], { client: NETWORK.guest }), bench(), NETWORK.guest)?.options.slice(0, 3)).toEqual(hex('35 01 05'));
    const informed = ask(message(8, [], { client: NETWORK.guest }), bench(), NETWORK.guest);
    expect(informed?.fields.your).toBe(0);
    expect([...(informed?.options ?? [])].slice(0, 27)).not.toContain(51);
  });
  it('are not given to what is no request', () => {
    expect(ask(message(7))).toBe(null); // release
    expect(ask(message(1, [], { op: 2 }))).toBe(null);
    expect(ask(message(1, [], { relay: 5 }))).toBe(null);
    expect(ask(message(1, [50, 200]))).toBe(null); // an option past the end
    expect(ask(message(1, [], { magic: 1 }))).toBe(null);
  });
  it('are read as people write them', () => {
    expect(readIpv4('10.0.2.15')).toBe(NETWORK.guest);
    for (const text of ['', '10.0.2', '10.0.2.256', '10.0.2.015', '10.0.2.-1', '10.0.2.3.4', 'a.b.c.d']) expect(readIpv4(text)).toBe(null);
  });
});

describe('a guest that has not been heard of', () => {
  it('is asked for, and gets the last packet that was for it', () => {
    const host = fakeHost();
    const lab = bench({ sockets: host.sockets, forwards: [{ protocol: 'udp', hostPort: 99, guest: NETWORK.guest, guestPort: 7 }] });
    for (const byte of [1, 2]) host.datagrams[0]?.onMessage(Uint8Array.of(byte), 4000);
    expect(lab.received.map((frame) => frame.subarray(12, 22))).toEqual(Array(2).fill(hex('08 06 00 01 08 00 06 04 00 01')));
    lab.received.length = 0;
    lab.send(hex('52 55 0a 00 02 02 52 54 00 12 34 56 08 06 00 01 08 00 06 04 00 02 52 54 00 12 34 56 0a 00 02 0f 52 55 0a 00 02 02 0a 00 02 02'));
    expect(lab.answers()).toMatchObject([{ sourcePort: 4000, destinationPort: 7, data: Uint8Array.of(2) }]);
    lab.sendDatagram(NETWORK.gateway, { sourcePort: 7, destinationPort: 4000, data: Uint8Array.of(3) });
    expect(host.datagrams[0]?.sent).toEqual([{ bytes: Uint8Array.of(3), port: 4000 }]);
  });
});

describe('checksums', () => {
  it('are right by another way of computing them', () => {
    for (const [, , answer] of CONVERSATIONS) {
      const frame = hex(answer);
      if (frame[13] === 6) continue;
      expect(dullChecksum(frame.subarray(14, 34))).toBe(0);
      const packet = parsePacket(frame.subarray(14));
      if (typeof packet === 'string') throw new Error(packet);
      const { payload, protocol } = packet;
      const pseudo = protocol === 1 ? [] : [...frame.subarray(26, 34), 0, protocol, payload.length >> 8, payload.length & 0xff];
      expect(dullChecksum(Uint8Array.from([...pseudo, ...payload]))).toBe(0);
    }
  });
});
