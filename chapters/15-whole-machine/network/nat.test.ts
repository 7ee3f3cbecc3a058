// The guest's connections and datagrams, and programs on a host that does what the test says.

import { describe, expect, it } from 'vitest';
import { NETWORK } from './addresses.ts';
import { bench, FakeStream, fakeHost, tcpGuest } from './laboratory.ts';
import { pattern } from './tcp/laboratory.ts';
import { FLAG } from './tcp/segment.ts';
import { CONNECTIONS } from './tcp-nat.ts';
import { CONVERSATIONS } from './udp-nat.ts';

const S = 1e9;
const open = () => {
  const host = fakeHost();
  const lab = bench({ sockets: host.sockets, open: true });
  return { host, lab };
};
/** A guest that is connected to a program at port 80. */
const connected = () => {
  const { host, lab } = open();
  const guest = tcpGuest(lab, 1000, 80);
  guest.open();
  guest.pass(1e6);
  const stream = host.connected[0]?.stream as FakeStream;
  stream.onConnect();
  guest.pass(1e6);
  return { host, lab, guest, stream, program: guest.program };
};

describe('a connection to the host', () => {
  it('is answered when the program on the host has answered, and not before', () => {
    const { host, lab } = open();
    const guest = tcpGuest(lab, 1000, 80);
    guest.open();
    guest.pass(10 * S); // it asks again, and is not connected again
    expect(host.connected.map(({ port }) => port)).toEqual([80]);
    expect(guest.program.connection?.state).toBe('SYN-SENT');
    host.connected[0]?.stream.onConnect();
    guest.pass(1e6);
    expect(guest.program.events).toEqual(['established']);
    expect(lab.network.expectsInput).toBe(true);
  });
  it('is refused when nobody is there', () => {
    const { host, lab } = open();
    const guest = tcpGuest(lab, 1000, 80);
    guest.open();
    guest.pass(1e6);
    host.connected[0]?.stream.onClose(false);
    guest.pass(1e6);
    expect(guest.program.events).toEqual(['reset']);
    expect(lab.network.expectsInput).toBe(false);
  });
  it('is to the gateway’s address alone', () => {
    const { host, lab } = open();
    lab.sendSegment({ destinationPort: 53 }, NETWORK.dns);
    expect(lab.segments()).toMatchObject([{ flags: FLAG.RST | FLAG.ACK, acknowledgment: 1 }]);
    lab.sendSegment({}, 0x7f00_0001);
    lab.sendSegment({}, 0xc0a8_0001);
    expect(lab.packets().map(({ protocol }) => protocol)).toEqual([1, 1]);
    expect(host.connected).toEqual([]);
  });
  it('is refused in a network that is closed, or has no host', () => {
    const host = fakeHost();
    for (const options of [{ sockets: host.sockets }, { sockets: null, open: true }, {}]) {
      const lab = bench(options);
      lab.sendSegment({});
      expect(lab.segments()).toMatchObject([{ flags: FLAG.RST | FLAG.ACK }]);
    }
    expect(host.connected).toEqual([]);
  });
  it('carries bytes both ways, and each end by itself', () => {
    const { guest, stream, program } = connected();
    const [there, back] = [pattern(400_000), pattern(300_000, 3)];
    program.write(there, true);
    for (let at = 0; at < back.length; at += 64 << 10) stream.onData(back.slice(at, at + (64 << 10)));
    guest.pass(1 * S);
    expect(Buffer.compare(Uint8Array.from(stream.written), there)).toBe(0);
    expect(Buffer.compare(program.bytes, back)).toBe(0);
    expect(stream.events).toEqual(['end']);
    expect(program.connection?.state).toBe('FIN-WAIT-2');
    stream.onData(Uint8Array.of(7));
    stream.onEnd();
    stream.onClose(true);
    guest.pass(1e6);
    expect(program.events).toEqual(['established', 'end']);
    expect(program.bytes.length).toBe(back.length + 1);
  });
  it('makes the guest wait for a slow program, and a program for a slow guest', () => {
    const { guest, stream, program } = connected();
    stream.slow = true;
    program.write(pattern(600_000));
    guest.pass(2 * S);
    expect(stream.written.length).toBeLessThanOrEqual(64 << 10);
    for (let turn = 0; turn < 40 && stream.written.length < 600_000; turn++) {
      stream.take();
      guest.pass(0.3 * S);
    }
    expect(Buffer.compare(Uint8Array.from(stream.written), pattern(600_000))).toBe(0);

    program.slow = true;
    let given = 0;
    while (!stream.paused && given < 5_000_000) {
      stream.onData(pattern(64 << 10, given));
      given += 64 << 10;
      guest.pass(0.01 * S);
    }
    expect(given).toBeLessThan(1_000_000);
    expect(program.unused).toBeLessThan(300_000);
    for (let turn = 0; turn < 200 && program.bytes.length < given; turn++) {
      program.read(100_000);
      guest.pass(0.5 * S);
    }
    expect(program.bytes.length).toBe(given);
    expect(stream.paused).toBe(false);
  });
  it('breaks off when either breaks off', () => {
    const one = connected();
    one.stream.onClose(false);
    one.guest.pass(1e6);
    expect(one.program.events).toEqual(['established', 'reset']);
    const other = connected();
    other.program.connection?.abort();
    other.guest.pass(1e6);
    expect(other.stream.events).toEqual(['destroy']);
  });
  it('does not outlive the guest', () => {
    const { lab, stream, guest } = connected();
    lab.network.reset();
    expect(stream.events).toEqual(['destroy']);
    expect(lab.network.expectsInput).toBe(false);
    stream.onData(Uint8Array.of(1));
    stream.onEnd();
    stream.onClose(false);
    guest.program.connection?.forget();
    lab.time.pass(3600 * S);
    expect(lab.time.queue.armed).toBe(0);
  });
  it('is one of so many', () => {
    const { host, lab } = open();
    for (let port = 1; port <= CONNECTIONS + 5; port++) lab.sendSegment({ sourcePort: port });
    expect(host.connected.length).toBe(CONNECTIONS);
    expect(lab.segments().filter(({ flags }) => flags & FLAG.RST).length).toBe(5);
    host.connected[0]?.stream.onClose(false);
    lab.sendSegment({ sourcePort: 999 });
    expect(host.connected.length).toBe(CONNECTIONS + 1);
  });
});

describe('a port of the host that leads to the guest', () => {
  const forwarded = () => {
    const host = fakeHost();
    const lab = bench({ sockets: host.sockets, forwards: [{ protocol: 'tcp', hostPort: 2222, guest: NETWORK.guest, guestPort: 22 }] });
    const guest = tcpGuest(lab, 22, 0);
    lab.sendDatagram(NETWORK.dns, { sourcePort: 1, destinationPort: 53, data: new Uint8Array(0) }); // now its address is known
    lab.packets();
    const stream = new FakeStream();
    return { host, lab, guest, stream, come: () => host.listening.get(2222)?.(stream) };
  };
  it('connects to it, and passes on what came before the answer', () => {
    const { guest, stream, come } = forwarded();
    come();
    stream.onData(pattern(100));
    stream.onEnd();
    guest.pass(1e7);
    expect(guest.program.events).toEqual(['established', 'end']);
    expect(guest.program.bytes).toEqual(pattern(100));
    guest.program.write(pattern(50), true);
    guest.pass(1e9);
    expect(Uint8Array.from(stream.written)).toEqual(pattern(50));
    expect(stream.events).toEqual(['end']);
  });
  it('is closed to its caller when the guest refuses, or never answers', () => {
    const { lab, stream, come } = forwarded();
    come();
    const [syn] = lab.segments();
    lab.sendSegment({
      sourcePort: 22,
      destinationPort: syn?.sourcePort ?? 0,
      flags: FLAG.RST | FLAG.ACK,
      acknowledgment: ((syn?.sequence ?? 0) + 1) >>> 0,
    });
    expect(stream.events).toEqual(['destroy']);
    const silent = forwarded();
    silent.come();
    silent.lab.time.pass(3600 * S);
    expect(silent.stream.events).toEqual(['destroy']);
  });
  it('is open also in a network that is closed to the guest, and closes with it', () => {
    const { host, lab } = forwarded();
    expect(lab.network.expectsInput).toBe(true);
    lab.sendSegment({});
    expect(lab.segments()).toMatchObject([{ flags: FLAG.RST | FLAG.ACK }]);
    lab.network.close();
    expect(host.listening.size).toBe(0);
  });
});

describe('datagrams to the host', () => {
  it('go to the port, come back from it, and are forgotten after a while', () => {
    const { host, lab } = open();
    lab.sendDatagram(NETWORK.gateway, { sourcePort: 5000, destinationPort: 7, data: pattern(5) });
    lab.sendDatagram(NETWORK.gateway, { sourcePort: 5000, destinationPort: 8, data: pattern(6) });
    expect(host.datagrams.map(({ sent }) => sent)).toEqual([
      [
        { bytes: pattern(5), port: 7 },
        { bytes: pattern(6), port: 8 },
      ],
    ]);
    host.datagrams[0]?.onMessage(pattern(9), 7);
    host.datagrams[0]?.onMessage(pattern(1473), 8);
    expect(lab.answers()).toMatchObject([{ sourcePort: 7, destinationPort: 5000, data: pattern(9) }]);
    expect(lab.network.refused.get('datagram too long')).toBe(1);
    lab.time.pass(119 * S);
    expect(host.datagrams[0]?.closed).toBe(false);
    lab.time.pass(2 * S);
    expect(host.datagrams[0]?.closed).toBe(true);
    expect(lab.network.expectsInput).toBe(false);
  });
  it('are so many conversations, and the one that was silent longest makes room', () => {
    const { host, lab } = open();
    for (let port = 1; port <= CONVERSATIONS + 1; port++)
      lab.sendDatagram(NETWORK.gateway, { sourcePort: port, destinationPort: 7, data: pattern(1) });
    expect(host.datagrams.map(({ closed }, index) => (closed ? index : -1)).filter((index) => index >= 0)).toEqual([0]);
  });
  it('that ask for a name go to the server that was given, and to no other', () => {
    const host = fakeHost();
    const lab = bench({ sockets: host.sockets, dnsPort: 5353 });
    lab.sendDatagram(NETWORK.dns, { sourcePort: 4000, destinationPort: 53, data: pattern(30) });
    expect(host.datagrams[0]?.sent).toEqual([{ bytes: pattern(30), port: 5353 }]);
    host.datagrams[0]?.onMessage(pattern(40), 9999);
    host.datagrams[0]?.onMessage(pattern(41), 5353);
    const [packet, ...more] = lab.packets();
    expect([packet?.source, packet?.payload.length, more.length]).toEqual([NETWORK.dns, 8 + 41, 0]);
  });
});
