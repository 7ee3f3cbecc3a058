// Test equipment: not a part of the book.

import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { memoryWire } from '../net/link.ts';
import { ContextDescriptor, DataDescriptor, ReceiveDescriptor, TransmitDescriptor, TX_CMD } from './descriptors.ts';
import { Nic } from './nic.ts';
import { onesSum } from './offload.ts';
import { CTRL, E1000, type E1000Register, RCTL, TCTL } from './registers.ts';

export const TX_RING = 0x1000;
export const RX_RING = 0x2000;
const BUFFERS = 0x1_0000;
export const RING = 16;
export const MAC = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);
export const PEER = Uint8Array.of(0x02, 0, 0, 0, 0, 1);

/** A card, memory with two rings in it, and a wire; time passes when it is told to. */
export function rig({ ram = 1 << 20, up = true } = {}) {
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

/** A frame from the neighbour. */
export const frame = (to: Uint8Array, bytes = 100, type = 0x88b5): Uint8Array => {
  const out = Uint8Array.from({ length: bytes }, (_, i) => (i * 5) & 0xff);
  out.set(to);
  out.set(PEER, 6);
  out.set([type >> 8, type & 0xff], 12);
  return out;
};

/** An IPv4 packet in a frame, its checksums right. */
export function ipFrame(to: Uint8Array, protocol: 6 | 17, payload: number): Uint8Array {
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
