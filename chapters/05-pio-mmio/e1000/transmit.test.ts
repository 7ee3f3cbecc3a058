import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { ContextDescriptor, DataDescriptor, POPTS, TUCMD, TX_CMD } from './descriptors.ts';
import { frame, ipFrame, PEER, rig, TX_RING } from './laboratory.ts';
import { Nic } from './nic.ts';
import { onesSum, segment } from './offload.ts';
import { CAUSE, CTRL, E1000, TCTL } from './registers.ts';

describe('sending', () => {
  it('sends what lies between head and tail, reports, and interrupts', () => {
    const r = rig();
    r.write('IMS', CAUSE.TXDW);
    const message = frame(PEER, 80);
    r.legacy(message);
    r.legacy(message, { cmd: TX_CMD.EOP });
    r.go();
    expect(r.sent).toEqual([message, message]);
    expect(r.read('TDH')).toBe(2);
    expect([0, 1].map((n) => r.memory[TX_RING + 16 * n + 12])).toEqual([1, 0]);
    expect(r.line).toEqual([true]);
    expect(r.read('ICR') & (CAUSE.TXDW | CAUSE.TXQE)).toBe(CAUSE.TXDW | CAUSE.TXQE);
    expect(r.line).toEqual([true, false]);
    expect(r.read('ICR')).toBe(0);
  });

  it('joins descriptors into a frame, pads short ones, wraps around the ring', () => {
    const r = rig();
    for (let n = 0; n < 11; n++) r.legacy(frame(PEER, 64));
    r.go();
    r.sent.length = 0;
    const message = frame(PEER, 700);
    for (let n = 0; n < 7; n++) r.legacy(message.subarray(n * 100, n * 100 + 100), { cmd: n === 6 ? TX_CMD.EOP : 0 });
    r.legacy(frame(PEER, 20));
    r.go();
    expect(r.sent[0]).toEqual(message);
    expect(r.sent[1]!.length).toBe(60);
    expect(r.read('TDH')).toBe(3);
  });

  it('sends nothing while disabled or without a link', () => {
    const r = rig();
    r.write('TCTL', 0);
    r.legacy(frame(PEER));
    r.go();
    expect([r.sent.length, r.read('TDH')]).toEqual([0, 0]);
    r.write('TCTL', TCTL.EN);
    r.settle();
    expect(r.sent.length).toBe(1);
    r.write('CTRL', 0);
    r.legacy(frame(PEER));
    r.go();
    expect([r.sent.length, r.read('TDH')]).toEqual([1, 2]);
  });

  it('inserts the one checksum of the old format', () => {
    const r = rig();
    const message = ipFrame(PEER, 17, 33);
    const bare = message.slice();
    bare.set([0, 0], 24);
    r.legacy(bare.subarray(0, 34), { cmd: 0 });
    r.legacy(bare.subarray(34), { cmd: TX_CMD.EOP });
    r.go();
    expect(r.sent[0]).toEqual(bare);
    r.legacy(bare, { cmd: TX_CMD.EOP | TX_CMD.IC, cso: 24, css: 14 });
    r.go();
    expect(onesSum(r.sent[1]!, 14, r.sent[1]!.length)).toBe(0xffff);
  });

  it('inserts IP and TCP checksums by the context', () => {
    for (const protocol of [6, 17] as const) {
      const r = rig();
      const message = ipFrame(PEER, protocol, 61);
      const bare = message.slice();
      const place = protocol === 6 ? 50 : 40;
      const length = bare.length - 34;
      bare.set([0, 0], 24);
      const pseudo = onesSum(bare, 26, 34, protocol + length);
      bare.set([pseudo >> 8, pseudo & 0xff], place);
      r.context({
        ipcss: 14,
        ipcso: 24,
        ipcse: 33,
        tucss: 34,
        tucso: place,
        tucse: 0,
        command: ((TX_CMD.DEXT | TUCMD.IPV4 | (protocol === 6 ? TUCMD.TCP : 0)) << 24) >>> 0,
      });
      r.data(bare, TX_CMD.DEXT | TX_CMD.EOP | TX_CMD.RS, POPTS.IXSM | POPTS.TXSM);
      r.go();
      expect(r.sent[0]).toEqual(message);
    }
  });

  it('cuts a large send into frames that are each right', () => {
    const r = rig();
    const whole = ipFrame(PEER, 6, 3500);
    const view = new DataView(whole.buffer);
    view.setUint16(18, 0xfffe); // identification, about to wrap
    view.setUint32(38, 0xffff_ff00); // sequence, about to wrap
    view.setUint8(47, 0x19); // FIN PSH ACK
    view.setUint16(24, 0);
    view.setUint16(16, 0);
    view.setUint16(50, onesSum(whole, 26, 34, 6));
    r.context({
      ipcss: 14,
      ipcso: 24,
      ipcse: 33,
      tucss: 34,
      tucso: 50,
      tucse: 0,
      hdrlen: 54,
      mss: 1460,
      command: (((TX_CMD.DEXT | TX_CMD.TSE | TUCMD.IPV4 | TUCMD.TCP) << 24) | 3500) >>> 0,
    });
    const cmd = TX_CMD.DEXT | TX_CMD.TSE;
    r.data(whole.subarray(0, 54), cmd, 3, 0x8_0000);
    r.data(whole.subarray(54, 2000), cmd, 0, 0x9_0000);
    r.data(whole.subarray(2000), cmd | TX_CMD.EOP | TX_CMD.RS, 0, 0xa_0000);
    r.go();
    expect(r.sent.map(({ length }) => length)).toEqual([1514, 1514, 634]);
    const joined: number[] = [];
    r.sent.forEach((one, index) => {
      const v = new DataView(one.buffer);
      expect(onesSum(one, 14, 34)).toBe(0xffff);
      expect(onesSum(one, 34, one.length, onesSum(one, 26, 34, 6 + one.length - 34))).toBe(0xffff);
      expect(v.getUint16(16)).toBe(one.length - 14);
      expect(v.getUint16(18)).toBe((0xfffe + index) & 0xffff);
      expect(v.getUint32(38)).toBe((0xffff_ff00 + 1460 * index) >>> 0);
      expect(v.getUint8(47)).toBe(index === 2 ? 0x19 : 0x10);
      joined.push(...one.subarray(54));
    });
    expect(Uint8Array.from(joined)).toEqual(whole.slice(54));
    expect(r.read('TSCTC')).toBe(1);
  });

  it('cannot cut without a header or a size, nor into a million', () => {
    const base = { ipcss: 14, ipcso: 24, ipcse: 33, tucss: 34, tucso: 50, tucse: 0, tcp: true, ipv4: true, hdrlen: 54, mss: 1460 };
    const packet = new Uint8Array(60_000);
    expect(segment(packet, { ...base, mss: 0 })).toBeNull();
    expect(segment(packet, { ...base, hdrlen: 0 })).toBeNull();
    expect(segment(packet, { ...base, mss: 1 })).toBeNull();
    expect(segment(new Uint8Array(40), base)).toBeNull();
    expect(segment(packet, { ...base, ipcss: 255, tucss: 255, tucso: 255 })?.length).toBe(42);
  });

  it('puts a VLAN tag in when asked to, and only in VLAN mode', () => {
    const r = rig();
    const message = frame(PEER, 80);
    r.legacy(message, { cmd: TX_CMD.EOP | TX_CMD.VLE, special: 0x2064 });
    r.go();
    expect(r.sent[0]).toEqual(message);
    r.write('CTRL', CTRL.SLU | CTRL.VME);
    r.legacy(message, { cmd: TX_CMD.EOP | TX_CMD.VLE, special: 0x2064 });
    r.go();
    expect([...r.sent[1]!.subarray(12, 18)]).toEqual([0x81, 0x00, 0x20, 0x64, 0x88, 0xb5]);
    expect(r.sent[1]!.length).toBe(84);
  });

  // @clause e1000.ring.bounded
  it('pauses when small packets are cut into far more than they were', () => {
    const memory = new Uint8Array(1 << 20);
    const view = new DataView(memory.buffer);
    let frames = 0;
    const link = { send: () => void frames++, onFrame: null };
    const dma = {
      read: (gpa: number, into: Uint8Array) => {
        into.set(memory.subarray(gpa, gpa + into.length));
        return true;
      },
      write: () => true,
    };
    let now = 0;
    const clock = new TimerQueue(() => now);
    const nic = new Nic({ clock, link }, { dma, intx: { set: () => {} } });
    const write = (name: 'CTRL' | 'TDBAL' | 'TDLEN' | 'TDT' | 'TCTL', value: number): void =>
      nic.registers.write(E1000.rows[name].offset, 4, BigInt(value));
    const [ring, descriptors] = [0x8_0000, 1024];
    ContextDescriptor.store(view, ring, {
      ...{ ipcss: 14, ipcso: 24, ipcse: 33, tucss: 34, tucso: 50, tucse: 0, status: 0, hdrlen: 255, mss: 1 },
      command: (((TX_CMD.DEXT | TX_CMD.TSE | TUCMD.IPV4 | TUCMD.TCP) << 24) | 4000) >>> 0,
    });
    const command = (((TX_CMD.DEXT | TX_CMD.TSE | TX_CMD.EOP) << 24) | (1 << 20) | 4255) >>> 0;
    for (let n = 1; n < descriptors; n++) DataDescriptor.store(view, ring + 16 * n, { address: 0n, command, status: 0, popts: 3, special: 0 });
    write('CTRL', CTRL.SLU);
    write('TDBAL', ring);
    write('TDLEN', descriptors * 16);
    write('TCTL', TCTL.EN);
    write('TDT', descriptors - 1);
    expect(frames).toBeGreaterThan(4000); // it did start
    expect(frames).toBeLessThan(30_000); // all of them would be four million
    const before = frames;
    now = clock.next as number;
    clock.runDue();
    expect(frames - before).toBeGreaterThan(4000); // and goes on by itself
    expect(frames - before).toBeLessThan(30_000);
  });
});
