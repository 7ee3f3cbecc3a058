import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { memoryWire } from '../net/link.ts';
import {
  DataDescriptor,
  ContextDescriptor,
  ReceiveDescriptor,
  RX_ERRORS,
  RX_STATUS,
  TransmitDescriptor,
  TX_CMD,
  TUCMD,
  POPTS,
} from './descriptors.ts';
import { Nic } from './e1000.ts';
import { CHECKSUM, Eeprom } from './eeprom.ts';
import { frameCheckSequence, onesSum, segment } from './offload.ts';
import { CAUSE, CTRL, E1000, type E1000Register, EECD, RCTL, TCTL } from './registers.ts';

const TX_RING = 0x1000;
const RX_RING = 0x2000;
const BUFFERS = 0x1_0000;
const RING = 16;
const MAC = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);
const PEER = Uint8Array.of(0x02, 0, 0, 0, 0, 1);

function rig({ ram = 1 << 20, up = true } = {}) {
  let now = 0;
  const queue = new TimerQueue(() => now);
  const [near, far] = memoryWire(queue);
  const memory = new Uint8Array(ram);
  const view = new DataView(memory.buffer);
  const order: string[] = [];
  const inside = (gpa: number, bytes: number): boolean => gpa + bytes <= memory.length;
  const dma = {
    read(gpa: number, into: Uint8Array): boolean {
      if (!inside(gpa, into.length)) return false;
      into.set(memory.subarray(gpa, gpa + into.length));
      return true;
    },
    write(gpa: number, from: Uint8Array): boolean {
      if (!inside(gpa, from.length)) return false;
      order.push(`${gpa.toString(16)}+${from.length}`);
      memory.set(from, gpa);
      return true;
    },
  };
  const line: boolean[] = [];
  const nic = new Nic({ clock: queue, link: near }, { dma, intx: { set: (level: boolean) => void line.push(level) } });
  const sent: Uint8Array[] = [];
  far.onFrame = (frame) => void sent.push(frame);
  const read = (name: E1000Register, index = 0): number =>
    Number(nic.registers.read(E1000.rows[name].offset + index * ((E1000.rows[name] as { stride?: number }).stride ?? 4), 4));
  const write = (name: E1000Register, value: number, index = 0): void =>
    nic.registers.write(E1000.rows[name].offset + index * ((E1000.rows[name] as { stride?: number }).stride ?? 4), 4, BigInt(value >>> 0));
  const settle = (): void => {
    while (queue.next !== null) {
      now = queue.next;
      queue.runDue();
    }
  };
  /** Lets time pass up to `at`. */
  const until = (at: number): void => {
    while (queue.next !== null && queue.next <= at) {
      now = queue.next;
      queue.runDue();
    }
    now = at;
  };
  const init = (): void => {
    write('CTRL', CTRL.SLU);
    write('RDBAL', RX_RING);
    write('RDLEN', RING * 16);
    write('RDH', 0);
    for (let n = 0; n < RING; n++) ReceiveDescriptor.store(view, RX_RING + 16 * n, { address: BigInt(BUFFERS + 2048 * n) });
    write('RDT', RING - 1);
    write('TDBAL', TX_RING);
    write('TDLEN', RING * 16);
    write('TCTL', TCTL.EN | TCTL.PSP);
    write('RCTL', RCTL.EN | RCTL.BAM | RCTL.SECRC);
    read('ICR');
    line.length = 0;
  };
  if (up) init();
  let tail = 0;
  const legacy = (bytes: Uint8Array, more: Partial<{ cmd: number; cso: number; css: number; special: number; at: number }> = {}): void => {
    const at = more.at ?? 0x8000 + tail * 0x800;
    memory.set(bytes, at);
    const { cmd = TX_CMD.EOP | TX_CMD.RS, cso = 0, css = 0, special = 0 } = more;
    TransmitDescriptor.store(view, TX_RING + 16 * tail, { address: BigInt(at), length: bytes.length, cso, cmd, status: 0, css, special });
    tail = (tail + 1) % RING;
  };
  const context = (fields: Parameters<typeof ContextDescriptor.store>[2]): void => {
    ContextDescriptor.store(view, TX_RING + 16 * tail, {
      ipcss: 0,
      ipcso: 0,
      ipcse: 0,
      tucss: 0,
      tucso: 0,
      tucse: 0,
      status: 0,
      hdrlen: 0,
      mss: 0,
      ...fields,
    });
    tail = (tail + 1) % RING;
  };
  const data = (bytes: Uint8Array, cmd: number, popts: number, at = 0x8_0000): void => {
    memory.set(bytes, at);
    DataDescriptor.store(view, TX_RING + 16 * tail, {
      address: BigInt(at),
      command: ((cmd << 24) | (1 << 20) | bytes.length) >>> 0,
      status: 0,
      popts,
      special: 0,
    });
    tail = (tail + 1) % RING;
  };
  const go = (): void => {
    write('TDT', tail);
    settle();
  };
  const arrive = (frame: Uint8Array): void => {
    far.send(frame);
    settle();
  };
  const received = (index: number) => {
    const descriptor = ReceiveDescriptor.load(view, RX_RING + 16 * index);
    return { ...descriptor, bytes: memory.slice(Number(descriptor.address), Number(descriptor.address) + descriptor.length) };
  };
  return {
    nic,
    queue,
    near,
    far,
    memory,
    view,
    order,
    line,
    sent,
    read,
    write,
    settle,
    init,
    legacy,
    context,
    data,
    go,
    arrive,
    received,
    time: () => now,
    until,
  };
}

const frame = (to: Uint8Array, bytes = 100, type = 0x88b5): Uint8Array => {
  const out = Uint8Array.from({ length: bytes }, (_, i) => (i * 5) & 0xff);
  out.set(to);
  out.set(PEER, 6);
  out.set([type >> 8, type & 0xff], 12);
  return out;
};

/** An IPv4 packet in a frame, its checksums right. */
function ipFrame(to: Uint8Array, protocol: 6 | 17, payload: number): Uint8Array {
  const transport = protocol === 6 ? 20 : 8;
  const out = frame(to, 14 + 20 + transport + payload, 0x0800);
  const view = new DataView(out.buffer);
  out.fill(0, 14, 34 + transport);
  view.setUint8(14, 0x45);
  view.setUint16(16, 20 + transport + payload);
  view.setUint8(22, 64);
  view.setUint8(23, protocol);
  view.setUint32(26, 0x0a000001);
  view.setUint32(30, 0x0a000002);
  view.setUint16(24, ~onesSum(out, 14, 34) & 0xffff);
  if (protocol === 6) view.setUint8(46, 0x50);
  else view.setUint16(38, 8 + payload);
  const at = protocol === 6 ? 50 : 40;
  view.setUint16(at, ~onesSum(out, 34, out.length, onesSum(out, 26, 34, protocol + transport + payload)) & 0xffff);
  return out;
}

describe('EEPROM', () => {
  it('adds up, and holds the address', () => {
    const eeprom = new Eeprom(MAC);
    expect(eeprom.words.reduce((sum, word) => (sum + word) & 0xffff, 0)).toBe(CHECKSUM);
    expect(eeprom.mac).toEqual(MAC);
  });

  it('is read a word at a time', () => {
    const { read, write } = rig();
    const words = [0, 1, 2].map((word) => {
      write('EERD', (word << 8) | 1);
      expect(read('EERD') & 0x10).toBe(0x10);
      return read('EERD') >>> 16;
    });
    expect(words).toEqual([0x5452, 0x1200, 0x5634]);
  });

  const wires = ({ read, write }: ReturnType<typeof rig>) => {
    const shift = (value: number, bits: number): number => {
      let out = 0;
      for (let bit = bits - 1; bit >= 0; bit--) {
        const base = EECD.REQ | EECD.CS | ((value >> bit) & 1 ? EECD.DI : 0);
        write('EECD', base);
        write('EECD', base | EECD.SK);
        out = (out << 1) | (read('EECD') & EECD.DO ? 1 : 0);
        write('EECD', base);
      }
      return out;
    };
    const command = (operation: number, address: number): void => {
      write('EECD', EECD.REQ | EECD.CS);
      shift(operation, 3);
      shift(address, 6);
    };
    const end = (): void => write('EECD', EECD.REQ);
    return { shift, command, end };
  };

  it('is read by its wires, all of it', () => {
    const r = rig();
    r.write('EECD', EECD.REQ);
    expect(r.read('EECD') & EECD.GNT).toBe(EECD.GNT);
    const { shift, command, end } = wires(r);
    const words = Array.from({ length: 64 }, (_, address) => {
      command(0b110, address);
      const word = shift(0, 16);
      end();
      return word;
    });
    expect(words).toEqual([...new Eeprom(MAC).words]);
    command(0b110, 0);
    expect([shift(0, 16), shift(0, 16)]).toEqual([0x5452, 0x1200]); // one command, word after word
    end();
  });

  it('is written only after writing was enabled', () => {
    const r = rig();
    const { shift, command, end } = wires(r);
    const store = (value: number): void => {
      command(0b101, 5);
      shift(value, 16);
      end();
    };
    const load = (): number => {
      r.write('EERD', (5 << 8) | 1);
      return r.read('EERD') >>> 16;
    };
    store(0x1234);
    expect(load()).toBe(0);
    command(0b100, 0b110000);
    end();
    store(0x1234);
    expect(load()).toBe(0x1234);
    command(0b100, 0b000000);
    end();
    store(0x5678);
    expect(load()).toBe(0x1234);
  });
});

describe('PHY and link', () => {
  const mdic = ({ read, write }: ReturnType<typeof rig>, operation: number, register: number, data = 0, phy = 1): number => {
    write('MDIC', (operation << 26) | (phy << 21) | (register << 16) | data);
    return read('MDIC');
  };

  it('identifies itself, and only at its own address', () => {
    const r = rig();
    expect(mdic(r, 2, 2)).toBe((0x1000_0000 | (2 << 26) | (1 << 21) | (2 << 16) | 0x0141) >>> 0);
    expect(mdic(r, 2, 3) & 0xfff0).toBe(0x0c20);
    expect(mdic(r, 2, 2, 0, 2) & 0x5000_0000).toBe(0x5000_0000);
    expect(mdic(r, 2, 25) & 0x4000_0000).toBe(0x4000_0000);
  });

  it('negotiates again when told, and says that the link was lost', () => {
    const r = rig();
    r.write('IMS', CAUSE.LSC);
    expect(mdic(r, 2, 1) & 0x24).toBe(0x24);
    mdic(r, 1, 0, 0x1340);
    expect(r.read('STATUS') & 2).toBe(0);
    expect(r.read('ICR')).toBe(CAUSE.LSC);
    expect(mdic(r, 2, 1) & 0x24).toBe(0);
    r.settle();
    expect(r.line).toEqual([true, false, true]);
    expect(mdic(r, 2, 0) & 0x8200).toBe(0);
    expect(mdic(r, 2, 1) & 0x24).toBe(0x20); // latched low until read
    expect(mdic(r, 2, 1) & 0x24).toBe(0x24);
    expect(r.read('STATUS') & 0x83).toBe(0x83);
    expect(mdic(r, 2, 17) & 0xec00).toBe(0xac00);
  });

  it('is up only when the driver has set SLU', () => {
    const r = rig({ up: false });
    expect(r.read('STATUS') & 2).toBe(0);
    r.write('CTRL', CTRL.SLU);
    expect(r.read('STATUS') & 2).toBe(2);
    expect(r.read('ICR')).toBe(CAUSE.LSC);
  });
});

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
});

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
    for (let n = 0; n < RING; n++) ReceiveDescriptor.store(r.view, RX_RING + 16 * n, { address: BigInt(BUFFERS + 16384 * n) });
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

describe('interrupts', () => {
  it('are masked, set and cleared', () => {
    const r = rig();
    r.write('ICS', CAUSE.RXT0 | CAUSE.TXDW);
    expect(r.line).toEqual([]);
    r.write('IMS', CAUSE.RXT0);
    expect(r.line).toEqual([true]);
    r.write('IMC', CAUSE.RXT0);
    expect(r.line).toEqual([true, false]);
    r.write('IMS', CAUSE.TXDW);
    expect(r.read('IMS')).toBe(CAUSE.TXDW);
    r.write('ICR', CAUSE.TXDW);
    expect(r.line).toEqual([true, false, true, false]);
    expect(r.read('ICR')).toBe(CAUSE.RXT0);
    expect(r.read('ICR')).toBe(0);
  });

  it('are throttled', () => {
    const r = rig();
    r.write('ITR', 1000);
    r.write('IMS', CAUSE.RXT0);
    r.write('ICS', CAUSE.RXT0);
    r.read('ICR');
    const before = r.time();
    r.write('ICS', CAUSE.RXT0);
    expect(r.line).toEqual([true, false]);
    r.settle();
    expect(r.line).toEqual([true, false, true]);
    expect(r.time() - before).toBe(256_000);
  });

  it('a throttled interrupt whose cause has gone does not come', () => {
    const r = rig();
    r.write('ITR', 1000);
    r.write('IMS', CAUSE.RXT0);
    r.write('ICS', CAUSE.RXT0);
    r.read('ICR');
    r.write('ICS', CAUSE.RXT0);
    r.read('ICR');
    r.settle();
    expect(r.line).toEqual([true, false]);
  });

  it('for received frames wait for a pause, but not for ever', () => {
    const r = rig();
    r.write('RDTR', 100); // 102.4 µs after the last frame
    r.write('RADV', 150); // 153.6 µs after the first
    r.write('IMS', CAUSE.RXT0);
    for (const at of [0, 80_000, 160_000]) {
      r.until(at);
      r.far.send(frame(MAC)); // arrives 10 µs later
    }
    r.until(163_599);
    expect(r.line).toEqual([]);
    r.until(163_600);
    expect(r.line).toEqual([true]);
    r.read('ICR');
    r.until(170_000 + 102_399);
    expect(r.line).toEqual([true, false]);
    r.until(170_000 + 102_400);
    expect(r.line).toEqual([true, false, true]);
  });

  it('for sent frames wait only where the descriptor allows it', () => {
    const r = rig();
    r.write('TIDV', 100);
    r.write('IMS', CAUSE.TXDW);
    r.legacy(frame(PEER), { cmd: TX_CMD.EOP | TX_CMD.RS | TX_CMD.IDE });
    r.write('TDT', 1);
    expect(r.line).toEqual([]);
    r.settle();
    expect(r.line).toEqual([true]);
    r.read('ICR');
    r.legacy(frame(PEER));
    r.write('TDT', 2);
    expect(r.line).toEqual([true, false, true]);
  });
});

describe('registers', () => {
  it('statistics clear when read; octets are 64 bits', () => {
    const r = rig();
    r.legacy(frame(PEER, 96));
    r.legacy(frame(new Uint8Array(6).fill(255), 60));
    r.go();
    expect([r.read('GPTC'), r.read('GPTC')]).toEqual([2, 0]);
    expect([r.read('BPTC'), r.read('PTC64'), r.read('PTC127')]).toEqual([1, 1, 1]);
    expect([r.read('GOTCL'), r.read('GOTCH'), r.read('GOTCL')]).toEqual([164, 0, 0]);
  });

  it('a reset puts everything back and forgets what was waiting', () => {
    const r = rig();
    r.write('TIDV', 100);
    r.write('IMS', 0xffff);
    r.write('RAL', 1, 0);
    r.legacy(frame(PEER), { cmd: TX_CMD.EOP | TX_CMD.RS | TX_CMD.IDE });
    r.write('TDT', 1);
    r.write('CTRL', CTRL.RST);
    r.settle();
    expect(r.line.at(-1) ?? false).toBe(false);
    expect([r.read('IMS'), r.read('ICR'), r.read('TDT'), r.read('RCTL')]).toEqual([0, 0, 0, 0]);
    expect(r.read('RAL')).toBe(0x1200_5452);
    expect(r.read('RAH')).toBe(0x8000_5634);
    expect(r.read('CTRL') & CTRL.RST).toBe(0);
    r.init();
    r.arrive(frame(MAC));
    expect(r.read('RDH')).toBe(1);
  });

  it('are reached through two ports as well, which is how Linux resets this card', () => {
    const r = rig();
    r.nic.io.write(0, 4, BigInt(E1000.rows.RCTL.offset));
    expect(Number(r.nic.io.read(4, 4))).toBe(r.read('RCTL'));
    r.nic.io.write(0, 4, 0n);
    r.nic.io.write(4, 4, BigInt(CTRL.RST));
    expect(r.read('RCTL')).toBe(0);
    r.nic.io.write(0, 4, 0x000f_ffffn);
    expect(r.nic.io.read(4, 4)).toBe(0n);
  });

  it('gaps read as zero', () => {
    expect(rig().nic.registers.read(0x1_0000, 4)).toBe(0n);
  });
});

describe('hostile drivers', () => {
  it('rings outside memory, tails outside rings, endless packets: nothing moves, nothing hangs', () => {
    const r = rig();
    r.write('TDBAL', 0xffff_fff0);
    r.write('TDBAH', 0xffff_ffff);
    r.write('TDT', 5);
    expect(r.read('TDH')).toBe(0);
    r.write('TDBAL', TX_RING);
    r.write('TDBAH', 0);
    r.write('TDT', 0xffff);
    r.settle();
    r.write('RDBAL', 0xfff0_0000);
    r.arrive(frame(MAC));
    r.write('RDLEN', 0);
    r.arrive(frame(MAC));
    r.write('RDLEN', 128);
    r.write('RDH', 0xffff);
    r.arrive(frame(MAC));
    expect(r.memory.length).toBe(1 << 20);
  });

  it('random registers, rings and frames', () => {
    const r = rig({ ram: 1 << 18 });
    let seed = 99;
    const random = (limit: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % limit;
    };
    const names = Object.keys(E1000.rows) as E1000Register[];
    const interesting: E1000Register[] = ['TDT', 'RDT', 'TCTL', 'RCTL', 'CTRL', 'TDH', 'RDH', 'TDLEN', 'RDLEN', 'IMS', 'ICR'];
    for (let step = 0; step < 20_000; step++) {
      const name = random(2) ? interesting[random(interesting.length)]! : names[random(names.length)]!;
      const value = random(3) === 0 ? random(1 << 24) * 256 : random(256);
      if (random(4) === 0) r.read(name);
      else if (name !== 'CTRL' || random(20) === 0) r.write(name, value);
      if (random(50) === 0) r.far.send(frame(random(2) ? MAC : PEER, 14 + random(1500)));
      if (random(50) === 0) r.memory[random(1 << 14)] = random(256);
      if (random(100) === 0) r.settle();
    }
    r.write('CTRL', CTRL.RST);
    r.settle();
    r.memory.fill(0);
    r.init();
    r.arrive(frame(MAC));
    expect(r.received(0).status & 3).toBe(3);
  });
});
