import { afterEach, describe, expect, it } from 'vitest';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { COUNTER, type Code, type GuestProgram, load, place, startState, store, times } from '../../05-pio-mmio/guest-program.ts';
import type { DeviceConfig } from '../../05-pio-mmio/machine/device-types.ts';
import type { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { PLACE } from '../transport/pci.ts';
import { BAR, type Bell, QUEUE, SLOT, wiredPc } from './laboratory.ts';

const ROUTINE = 0x3_0000;
const call = (address: number): Code => [0xb8, ...[0, 8, 16, 24].map((shift) => (address >>> shift) & 0xff), 0xff, 0xd0];

let running: Machine<Pc> | null = null;
afterEach(() => {
  running?.dispose();
  running = null;
});

function machine(how: Bell, properties: Partial<DeviceConfig> = {}, irqchip: 'on' | 'split' | 'off' = 'on') {
  const made = wiredPc(how, { properties, irqchip });
  const board = new Machine(made.pc.board);
  running = board;
  made.bringUp();
  const { ram } = board;
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  return {
    ...made,
    ram,
    view,
    offer: (bytes?: number) => made.offer(ram, bytes),
    used: () => view.getUint16(made.usedIdx, true),
    run: (code: Code[], handlers: GuestProgram['handlers'] = {}) => {
      place(ram, { code, handlers });
      const [vcpu] = board.vcpus;
      vcpu?.setSregs({ ...vcpu.getSregs(), ...startState.sregs });
      vcpu?.setRegs({ ...vcpu.getRegs(), ...startState.regs });
      return board.run();
    },
  };
}

describe.each(['modern', 'port', 'legacy', 'mmio'] as const)('kicks by %s registers', (how) => {
  const reasons = how === 'modern' || how === 'mmio' ? 'KVM_EXIT_MMIO' : 'KVM_EXIT_IO';
  it('stay in the kernel', () => {
    const made = machine(how);
    expect(made.wires?.wired).toBe(how === 'port' ? 2 : 1);
    made.offer();
    const { exits } = made.run([times(5, made.kick)]);
    expect(exits[reasons] ?? 0).toBe(0);
    expect([made.used(), made.wires?.kicks, made.virtio.counts.kicks]).toEqual([1, 5, 5]);
  });
  it('leave it when nobody wired them', () => {
    const made = machine(how, { ioeventfd: false });
    made.offer();
    const { exits } = made.run([times(5, made.kick)]);
    expect([made.wires, exits[reasons], made.used()]).toEqual([null, 5, 1]);
  });
  it('leave it when the interrupt controllers are not there', () => {
    const made = machine(how, {}, 'split');
    made.offer();
    expect(made.run([made.kick]).exits[reasons]).toBe(1);
    expect([made.wires, made.used()]).toEqual([null, 1]);
  });
  it('have been served before the next instruction', () => {
    const made = machine(how);
    made.model.bytes = Uint8Array.of(0x78, 0x56, 0x34, 0x12);
    made.offer();
    made.run([made.kick, load(QUEUE.buffer), [0xa3, COUNTER & 0xff, COUNTER >> 8, 0, 0]]);
    expect(made.view.getUint32(COUNTER, true)).toBe(0x1234_5678);
  });
});

describe('a wire', () => {
  it('follows the BAR, and is not there while it is nowhere', () => {
    const { pc, wires, virtio, offer, run, used } = machine('modern');
    pc.chipset.config.write(0, SLOT << 3, 4, 2, 4);
    expect(wires?.wired).toBe(0);
    pc.chipset.config.write(0, SLOT << 3, 0x20, 4, BAR + 0x10_0000);
    pc.chipset.config.write(0, SLOT << 3, 4, 2, 7);
    expect(wires?.wired).toBe(1);
    offer();
    expect(run([store(BAR + PLACE.NOTIFY, 0), store(BAR + 0x10_0000 + PLACE.NOTIFY, 0)]).exits.KVM_EXIT_MMIO).toBe(1);
    expect([used(), virtio.counts.kicks]).toEqual([1, 1]);
  });
  it('ends with the queue', () => {
    const { wires, virtio } = machine('modern');
    virtio.setStatus(0);
    expect(wires?.wired).toBe(0);
  });
  it('has no room for data', () => {
    const made = machine('modern', { notification_data: true });
    expect(made.wires?.wired).toBe(0);
    made.run([store(BAR + PLACE.NOTIFY, 0x7_0000)]);
    expect(made.virtio.queues[0]?.kickData).toBe(7);
  });
});

describe('code that a device overwrites', () => {
  const routine = (value: number): Uint8Array => Uint8Array.of(...store(COUNTER, value), 0xc3);
  it.each([true, false])('is forgotten, whoever noticed the kick (eventfd: %s)', (ioeventfd) => {
    const made = machine('modern', { ioeventfd });
    made.ram.set(routine(1), ROUTINE);
    made.model.bytes = routine(2);
    made.offer();
    made.view.setBigUint64(QUEUE.desc, BigInt(ROUTINE), true);
    const keep = (at: number): Code => [...load(COUNTER), 0xa3, at & 0xff, at >> 8, 0, 0];
    made.run([times(2000, call(ROUTINE)), keep(0x7100), made.kick, call(ROUTINE), keep(0x7104)]);
    expect([made.view.getUint32(0x7100, true), made.view.getUint32(0x7104, true)]).toEqual([1, 2]);
  });
});
