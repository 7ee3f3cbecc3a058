import { describe, expect, it } from 'vitest';
import { ReceiveDescriptor, RX_ERRORS, RX_STATUS } from './descriptors.ts';
import { frame, ipFrame, MAC, PEER, RING, RX_RING, rig } from './laboratory.ts';
import { frameCheckSequence } from './offload.ts';
import { CAUSE, CTRL, RCTL } from './registers.ts';

describe('receiving', () => {
  it('fills the next buffer; the status is the last thing written', () => {
    const r = rig();
    r.write('IMS', CAUSE.RXT0);
    const message = frame(MAC, 200);
    r.order.length = 0;
    r.arrive(message);
    const { status, length, bytes } = r.received(0);
    expect(length).toBe(200);
    expect(bytes).toEqual(message);
    expect(status & (RX_STATUS.DD | RX_STATUS.EOP)).toBe(3);
    expect(r.order.at(-1)).toBe(`${(RX_RING + 12).toString(16)}+1`);
    expect(r.read('RDH')).toBe(1);
    expect(r.line).toEqual([true]);
    expect(r.read('ICR')).toBe(CAUSE.RXT0);
  });

  it('appends a right check sequence unless told to strip it', () => {
    const r = rig();
    r.write('RCTL', RCTL.EN);
    const message = frame(MAC, 200);
    r.arrive(message);
    const { bytes } = r.received(0);
    expect(bytes.length).toBe(204);
    expect(bytes.subarray(200)).toEqual(frameCheckSequence(message));
    expect(frameCheckSequence(new TextEncoder().encode('123456789'))).toEqual(Uint8Array.of(0x26, 0x39, 0xf4, 0xcb));
  });

  it.each([
    ['its own address', MAC, {}, true],
    ['another address', PEER, {}, false],
    ['another address, promiscuous', PEER, { rctl: RCTL.UPE }, true],
    ['a broadcast', new Uint8Array(6).fill(255), {}, true],
    ['a broadcast, not accepted', new Uint8Array(6).fill(255), { without: RCTL.BAM }, false],
    ['a multicast', Uint8Array.of(1, 0, 0x5e, 0, 0, 0xfb), {}, false],
    ['a multicast in the table', Uint8Array.of(1, 0, 0x5e, 0, 0, 0xfb), { hash: 0xfb0 }, true],
    ['a multicast in the table, other offset', Uint8Array.of(1, 0, 0x5e, 0, 0x10, 0xfb), { hash: 0xb10, rctl: 3 << 12 }, true],
    ['all multicasts', Uint8Array.of(1, 0, 0x5e, 0, 0, 0xfb), { rctl: RCTL.MPE }, true],
    ['a multicast by exact match', Uint8Array.of(1, 0, 0x5e, 0, 0, 0xfb), { exact: true }, true],
  ])('accepts or not: %s', (_, to, how: { rctl?: number; without?: number; hash?: number; exact?: boolean }, expected) => {
    const r = rig();
    r.write('RCTL', (RCTL.EN | RCTL.BAM | (how.rctl ?? 0)) & ~(how.without ?? 0));
    if (how.hash) r.write('MTA', 2 ** (how.hash & 31), how.hash >> 5);
    if (how.exact) {
      r.write('RAL', 0x005e_0001, 7);
      r.write('RAH', 0x8000_fb00, 7);
    }
    r.arrive(frame(to));
    expect(r.read('GPRC')).toBe(expected ? 1 : 0);
    expect(r.read('TPR')).toBe(1);
    expect(r.read('RDH')).toBe(expected ? 1 : 0);
  });

  it.each([
    [256, 3 << 16],
    [512, 2 << 16],
    [4096, (3 << 16) | RCTL.BSEX],
    [16384, (1 << 16) | RCTL.BSEX],
  ])('spreads a frame over buffers of %i bytes', (size, bits) => {
    const r = rig();
    for (let n = 0; n < RING; n++) ReceiveDescriptor.store(r.view, RX_RING + 16 * n, { address: BigInt(0x1_0000 + 16384 * n) });
    r.write('RCTL', RCTL.EN | RCTL.SECRC | RCTL.LPE | bits);
    const message = frame(MAC, 2100);
    r.arrive(message);
    const count = Math.ceil(2100 / size);
    expect(r.read('RDH')).toBe(count);
    const parts = Array.from({ length: count }, (_, n) => r.received(n));
    expect(parts.map(({ status }) => status & 3)).toEqual([...new Array<number>(count - 1).fill(1), 3]);
    expect(Uint8Array.from(parts.flatMap(({ bytes }) => [...bytes]))).toEqual(message);
  });

  it('keeps frames until there are descriptors; then loses and counts them', () => {
    const r = rig();
    r.write('PBA', 4);
    r.write('RDT', 1);
    r.write('IMS', CAUSE.RXO);
    for (let n = 0; n < 10; n++) r.arrive(frame(MAC, 1000 + n));
    expect(r.read('RDH')).toBe(1);
    expect(r.read('RNBC')).toBe(4);
    expect(r.read('MPC')).toBe(5);
    expect(r.line).toEqual([true]);
    r.write('RDT', RING - 1);
    expect(r.read('RDH')).toBe(5);
    expect(r.received(4).length).toBe(1004);
  });

  it('warns when the ring is low', () => {
    const r = rig();
    for (let n = 0; n < 6; n++) r.arrive(frame(MAC));
    expect(r.read('ICR') & CAUSE.RXDMT0).toBe(0);
    r.arrive(frame(MAC));
    expect(r.read('ICR') & CAUSE.RXDMT0).toBe(CAUSE.RXDMT0);
  });

  it('refuses long frames unless told otherwise', () => {
    const r = rig();
    r.arrive(frame(MAC, 1519));
    expect([r.read('ROC'), r.read('GPRC')]).toEqual([1, 0]);
    r.write('RCTL', RCTL.EN | RCTL.LPE);
    r.arrive(frame(MAC, 1519));
    expect([r.read('ROC'), r.read('GPRC')]).toEqual([0, 1]);
  });

  it('takes VLAN tags out and filters by them', () => {
    const r = rig();
    r.write('CTRL', CTRL.SLU | CTRL.VME);
    const plain = frame(MAC, 100);
    const tagged = new Uint8Array(104);
    tagged.set(plain.subarray(0, 12));
    tagged.set([0x81, 0x00, 0x20, 0x64], 12);
    tagged.set(plain.subarray(12), 16);
    r.arrive(tagged);
    const { status, special, bytes } = r.received(0);
    expect(status & RX_STATUS.VP).toBe(RX_STATUS.VP);
    expect(special).toBe(0x2064);
    expect(bytes).toEqual(plain);
    r.write('RCTL', RCTL.EN | RCTL.VFE);
    r.arrive(tagged);
    expect(r.read('RDH')).toBe(1);
    r.write('VFTA', 1 << 4, 3);
    r.arrive(tagged);
    r.arrive(plain);
    expect(r.read('RDH')).toBe(3);
  });

  it('checks checksums when asked to', () => {
    const r = rig();
    r.write('RXCSUM', 0x300);
    const good = ipFrame(MAC, 6, 100);
    const badData = good.slice();
    badData[80]! ^= 1;
    const badHeader = good.slice();
    badHeader[22] = 63;
    for (const one of [good, badData, badHeader, frame(MAC)]) r.arrive(one);
    const both = RX_STATUS.IPCS | RX_STATUS.TCPCS;
    expect([0, 1, 2, 3].map((n) => r.received(n).status & (both | RX_STATUS.IXSM))).toEqual([both, both, both, RX_STATUS.IXSM]);
    expect([0, 1, 2, 3].map((n) => r.received(n).errors)).toEqual([0, RX_ERRORS.TCPE, RX_ERRORS.IPE, 0]);
  });

  it('whoever answers at once is heard after the frame is gone', () => {
    const r = rig();
    r.far.onFrame = (sent) => r.far.send(Uint8Array.of(...MAC, ...sent.subarray(6)));
    const message = frame(PEER, 300);
    r.legacy(message);
    r.write('TDT', 1);
    expect(r.read('RDH')).toBe(0);
    r.settle();
    expect(r.received(0).bytes).toEqual(Uint8Array.of(...MAC, ...message.subarray(6)));
  });

  it('in loopback its own frames arrive, and nothing leaves', () => {
    const r = rig();
    r.write('RCTL', RCTL.EN | RCTL.SECRC | RCTL.LBM);
    r.legacy(frame(MAC, 90));
    r.go();
    expect(r.sent).toEqual([]);
    expect(r.received(0).length).toBe(90);
  });
});
