// TCP between two of our own ends, over a link in any weather; and against segments written by hand.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FAIR, pair, pattern, type Weather } from './laboratory.ts';
import { RECEIVE_BYTES } from './receiver.ts';
import { FLAG, type Segment } from './segment.ts';
import { MSS, RETRIES, SEND_BYTES } from './sender.ts';

const S = 1e9;
/** Quicker than the runner's own comparison of long arrays. */
const same = (got: Uint8Array, wanted: Uint8Array): void => expect([got.length, Buffer.compare(got, wanted)]).toEqual([wanted.length, 0]);

describe('a connection in fair weather', () => {
  it('is made by three segments, and carries bytes both ways in order', () => {
    const { time, client, server, connect, log } = pair();
    connect();
    time.pass(1e6);
    expect(client.connection?.state).toBe('ESTABLISHED');
    expect(server.connection?.state).toBe('ESTABLISHED');
    expect(log.map(({ segment }) => segment.flags)).toEqual([FLAG.SYN, FLAG.SYN | FLAG.ACK, FLAG.ACK]);
    const [there, back] = [pattern(600_000), pattern(500_000, 5)];
    client.write(there);
    server.write(back);
    time.pass(10 * S);
    same(server.bytes, there);
    same(client.bytes, back);
    expect(Math.max(...log.map(({ segment }) => segment.data.length))).toBe(MSS);
  });

  it('ends one way first, then the other', () => {
    const { time, client, server, connect } = pair();
    connect();
    time.pass(1e6);
    client.write(pattern(10), true);
    time.pass(1e6);
    expect([client.connection?.state, server.connection?.state]).toEqual(['FIN-WAIT-2', 'CLOSE-WAIT']);
    expect(server.events).toEqual(['established', 'end']);
    server.write(pattern(100_000), true); // half open: the other way still works
    time.pass(1 * S);
    same(client.bytes, pattern(100_000));
    expect([client.connection?.state, server.connection?.state]).toEqual(['TIME-WAIT', 'CLOSED']);
    expect(server.events.at(-1)).toBe('finished');
    time.pass(60 * S);
    expect(client.events).toEqual(['established', 'end', 'finished']);
    expect(time.queue.armed).toBe(0);
  });

  it('ends both ways at once', () => {
    const { time, client, server, connect } = pair();
    connect();
    time.pass(1e6);
    client.write(pattern(5), true);
    server.write(pattern(6), true);
    time.pass(1e6);
    expect([client.connection?.state, server.connection?.state]).toEqual(['TIME-WAIT', 'TIME-WAIT']);
    time.pass(61 * S);
    expect([client.bytes.length, server.bytes.length]).toEqual([6, 5]);
    expect(client.events.at(-1)).toBe('finished');
  });

  it('acknowledges at least every second full segment, and a single one after a while', () => {
    const { time, client, server, connect, log } = pair();
    connect();
    time.pass(1e6);
    log.length = 0;
    client.write(pattern(10 * MSS));
    time.pass(1e6);
    const acks = log.filter(({ from }) => from === 'server').length;
    expect(acks).toBe(5);
    client.write(pattern(1));
    time.pass(39e6);
    expect(log.filter(({ from }) => from === 'server').length).toBe(acks);
    time.pass(2e6);
    expect(log.filter(({ from }) => from === 'server').length).toBe(acks + 1);
    expect(server.bytes.length).toBe(10 * MSS + 1);
  });
});

describe('a reader that does not read', () => {
  it('stops the writer, within bounds, and lets it go on', () => {
    const { time, client, server, connect, log } = pair();
    server.slow = true;
    connect();
    time.pass(1e6);
    const all = pattern(1_000_000);
    client.write(all);
    time.pass(5 * S);
    expect(server.unused).toBeLessThanOrEqual(RECEIVE_BYTES);
    expect(server.unused).toBeGreaterThan(200_000);
    const before = log.length;
    time.pass(60 * S); // the window is probed, less and less often
    expect(log.length - before).toBeGreaterThan(2);
    expect(log.length - before).toBeLessThan(60);
    time.pass(3600 * S); // and the connection stays, as long as the probes are answered
    expect(client.connection?.state).toBe('ESTABLISHED');
    while (server.bytes.length < all.length) {
      expect(server.unused).toBeGreaterThan(0);
      server.read(50_000);
      time.pass(61 * S);
    }
    same(server.bytes, all);
  });

  it('is sent not a byte more than it has room for, however small the pieces', () => {
    const { time, client, server, connect } = pair();
    server.slow = true;
    connect();
    time.pass(1e6);
    for (let sent = 0; sent < 300_000; sent += 37) {
      client.connection?.send(pattern(37));
      if (sent % 100 === 0) time.pass(1e5);
    }
    time.pass(100 * S);
    expect(server.unused).toBeLessThanOrEqual(RECEIVE_BYTES);
    expect(server.unused).toBeGreaterThan(RECEIVE_BYTES - 100);
  });

  it('costs the writer no more than its buffer', () => {
    const { time, client, server, connect } = pair();
    server.slow = true;
    connect();
    time.pass(1e6);
    let taken = 0;
    for (let tries = 0; tries < 10; tries++) {
      taken += client.connection?.send(pattern(100_000)) ?? 0;
      time.pass(1e6);
    }
    expect(taken).toBeLessThanOrEqual(SEND_BYTES + RECEIVE_BYTES);
  });
});

describe('nobody at the other end', () => {
  it('is noticed in the end, when asking', () => {
    const { time, client, connect, log } = pair({ ...FAIR, lose: 1 });
    connect();
    time.pass(3600 * S);
    expect(client.events).toEqual(['timeout']);
    expect(log.filter(({ segment }) => segment.flags === FLAG.SYN).length).toBe(RETRIES + 1);
    expect(time.queue.armed).toBe(0);
  });
  it('is noticed in the end, in the middle', () => {
    const { time, client, connect, state } = pair();
    connect();
    time.pass(1e6);
    state.lose = 1;
    client.write(pattern(100));
    time.pass(3600 * S);
    expect(client.events).toEqual(['established', 'timeout']);
  });
});

describe('a connection in any weather', () => {
  const weather: fc.Arbitrary<Weather> = fc.record({
    lose: fc.double({ min: 0, max: 0.25, noNaN: true }),
    double: fc.double({ min: 0, max: 0.3, noNaN: true }),
    delay: fc.double({ min: 0, max: 0.5, noNaN: true }),
    seed: fc.integer({ min: 1, max: 2 ** 31 - 1 }),
  });
  it('delivers what was sent, once, in order, and ends', () => {
    fc.assert(
      fc.property(
        weather,
        fc.nat(120_000),
        fc.nat(120_000),
        fc.tuple(fc.nat(2 ** 32 - 1), fc.nat(2 ** 32 - 1)),
        fc.boolean(),
        (kind, there, back, initials, slow) => {
          const { time, client, server, connect } = pair(kind, initials);
          server.slow = slow;
          connect();
          client.write(pattern(there), true);
          const deaf: () => boolean = () => client.events.includes('timeout') || server.events.includes('timeout');
          time.pass(1 * S);
          server.write(pattern(back, 9), true);
          for (let turn = 0; turn < 400 && !deaf() && !(server.events.includes('finished') && client.events.includes('finished')); turn++) {
            server.push();
            server.read(10_000);
            time.pass(10 * S);
          }
          if (deaf()) return; // so much was lost that it was given up
          same(server.bytes, pattern(there));
          same(client.bytes, pattern(back, 9));
          expect([...client.events].sort()).toEqual(['end', 'established', 'finished']);
          expect([...server.events].sort()).toEqual(['end', 'established', 'finished']);
          expect(time.queue.armed).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('a segment by hand', () => {
  const established = () => {
    const lab = pair();
    lab.connect();
    lab.time.pass(1e6);
    lab.log.length = 0;
    return lab;
  };
  /** To the server, from the client's place. */
  const segment = (over: Partial<Segment>): Segment => ({
    sourcePort: 1000,
    destinationPort: 80,
    sequence: 0xffff_ff01,
    acknowledgment: 8,
    flags: FLAG.ACK,
    window: 1000,
    data: new Uint8Array(0),
    ...over,
  });
  it('resets only with the exact number; another in the window is answered', () => {
    const { server, deliver, log } = established();
    deliver(server, segment({ flags: FLAG.RST, sequence: 0xffff_ff02 }));
    expect(server.connection?.state).toBe('ESTABLISHED');
    expect(log.at(-1)?.segment).toMatchObject({ flags: FLAG.ACK, acknowledgment: 0xffff_ff01 });
    deliver(server, segment({ flags: FLAG.RST, sequence: 0xffff_ff00 }));
    expect(log.length).toBe(1); // outside the window: nothing
    deliver(server, segment({ flags: FLAG.RST }));
    expect(server.events).toEqual(['established', 'reset']);
  });
  it('that begins again in the middle is answered, and changes nothing', () => {
    const { server, deliver, log } = established();
    deliver(server, segment({ flags: FLAG.SYN, sequence: 0xffff_ff05 }));
    expect(server.connection?.state).toBe('ESTABLISHED');
    expect(log.at(-1)?.segment.flags).toBe(FLAG.ACK);
  });
  it('that acknowledges what was never sent is answered, and not taken', () => {
    const { server, deliver, log } = established();
    deliver(server, segment({ acknowledgment: 9, data: pattern(3) }));
    expect(server.bytes.length).toBe(0);
    expect(log.length).toBe(1);
  });
  it('without ACK is not looked at', () => {
    const { server, deliver, log } = established();
    deliver(server, segment({ flags: 0, data: pattern(3) }));
    expect([server.bytes.length, log.length]).toEqual([0, 0]);
  });
  it('out of order waits, is acknowledged at once, and is joined, whatever overlaps', () => {
    const { server, deliver, log } = established();
    const bytes = pattern(100);
    const at = (from: number, to: number): Segment => segment({ sequence: (0xffff_ff01 + from) >>> 0, data: bytes.slice(from, to) });
    for (const piece of [at(50, 60), at(90, 100), at(40, 55), at(58, 80), at(55, 57)]) deliver(server, piece);
    expect(server.bytes.length).toBe(0);
    expect(log.map(({ segment: { acknowledgment } }) => acknowledgment)).toEqual(Array(5).fill(0xffff_ff01));
    deliver(server, at(0, 45));
    same(server.bytes, bytes.slice(0, 80));
    deliver(server, at(70, 95));
    same(server.bytes, bytes);
    expect(log.at(-1)?.segment.acknowledgment).toBe((0xffff_ff01 + 100) >>> 0);
  });
  it('three repeated acknowledgements send the oldest again, without waiting', () => {
    const { server, deliver, log, state, time } = established();
    state.lose = 1;
    server.write(pattern(5 * MSS));
    const first = log[0]?.segment.sequence;
    deliver(server, segment({ window: 0xffff }));
    log.length = 0;
    for (let count = 0; count < 2; count++) deliver(server, segment({ window: 0xffff }));
    expect(log.length).toBe(0);
    deliver(server, segment({ window: 0xffff }));
    expect(log.map(({ segment: { sequence } }) => sequence)).toEqual([first]);
    expect(time.now).toBe(1e6);
  });
  it('is cut to what the other end takes at a time, which cannot be nothing', () => {
    for (const [mss, most] of [
      [600, 600],
      [9000, MSS],
      [1, 88],
      [null, 536],
    ] as const) {
      const lab = pair();
      const syn = { ...segment({ flags: FLAG.SYN, sequence: 0, acknowledgment: 0, window: 60_000 }), mss, windowScale: null };
      lab.deliver(lab.server, syn);
      lab.deliver(lab.server, segment({ sequence: 1, window: 60_000 }));
      lab.server.write(pattern(20_000));
      expect(Math.max(...lab.log.map(({ segment: { data } }) => data.length))).toBe(most);
      expect(lab.log[0]?.segment).toMatchObject({ flags: FLAG.SYN | FLAG.ACK, mss: MSS, windowScale: null });
    }
  });
});
