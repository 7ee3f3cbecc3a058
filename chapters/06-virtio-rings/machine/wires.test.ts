import { afterEach, describe, expect, it } from 'vitest';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { COUNTER, type Code, load, out, place, startState, store, times } from '../../05-pio-mmio/guest-program.ts';
import { completeConfig } from '../../05-pio-mmio/machine/config.ts';
import { type DeviceConfig, DeviceRegistry } from '../../05-pio-mmio/machine/device-types.ts';
import { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import type { DeviceModel, VirtioDevice, VirtQueue } from '../device.ts';
import { DEVICE_ID, F } from '../features.ts';
import { COMMON_CONFIG } from '../transport/common-config.ts';
import { QUEUE as LOW, offerBuffer } from '../transport/laboratory.ts';
import { VIRTIO_MMIO } from '../transport/mmio.ts';
import { PLACE } from '../transport/pci.ts';
import { LEGACY_PCI } from '../transport/pci-legacy.ts';
import { windowGpa } from './mmio-windows.ts';
import { installVirtio, virtioDevices, wiresOf } from './virtio-types.ts';

/** Gives back each buffer with these bytes in it. */
class Writer implements DeviceModel {
  readonly name = 'writer';
  readonly deviceId = DEVICE_ID.ENTROPY;
  readonly features = 0n;
  readonly queueSizes = [8];
  readonly config = { bytes: 0, read: () => 0, write() {} };
  bytes: Uint8Array = Uint8Array.of(1);
  attach(): void {}
  reset(): void {}
  available(queue: VirtQueue): void {
    queue.serve((chain) => {
      chain.writable[0]?.set(this.bytes);
      return this.bytes.length;
    });
  }
}

/** Away from the program. */
const QUEUE = { desc: 0x10_0000, driver: 0x10_1000, device: 0x10_2000, buffer: LOW.buffer } as const;
const BAR = 0xe000_0000;
const PORTS = 0xc000;
const SLOT = 4;
const ROUTINE = 0x3_0000;
const call = (address: number): Code => [0xb8, ...[0, 8, 16, 24].map((shift) => (address >>> shift) & 0xff), 0xff, 0xd0];

let running: Machine<Pc> | null = null;
afterEach(() => {
  running?.dispose();
  running = null;
});

/** A PC with one device, up, by the registers of `how`. */
function machine(how: 'modern' | 'port' | 'legacy' | 'mmio', more: Partial<DeviceConfig> = {}, irqchip: 'on' | 'split' | 'off' = 'on') {
  const registry = new DeviceRegistry();
  const model = new Writer();
  const spec = { name: 'writer', text: 'writes', deviceId: model.deviceId, classCode: 0xff00, properties: {}, vectors: () => 2, model: () => model };
  installVirtio(registry, spec);
  const device: DeviceConfig =
    how === 'mmio' ? { type: 'writer-device', ...more } : { type: 'writer-pci', addr: `${SLOT}`, 'modern-pio-notify': how === 'port', ...more };
  const config = completeConfig({ kernel: 'test', memoryMiB: 4, irqchip, devices: [device] }, registry);
  const pc = new Pc({ kernel: machineKernel(config), config, registry });
  running = new Machine(pc.board);
  const { ram } = running;
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  const virtio = [...virtioDevices(pc).values()][0] as VirtioDevice;
  const { config: pci } = pc.q35;
  if (how !== 'mmio') {
    pci.write(0, SLOT << 3, 0x10, 4, PORTS);
    pci.write(0, SLOT << 3, 0x20, 4, BAR);
    if (how === 'port') pci.write(0, SLOT << 3, 0x18, 4, PORTS + 0x100);
    pci.write(0, SLOT << 3, 4, 2, 7);
  }
  const wantsData = more.notification_data === true ? 1 << (F.NOTIFICATION_DATA - 32) : 0;
  if (how === 'legacy') {
    const set = (name: keyof typeof LEGACY_PCI.rows, value: number): void =>
      pc.ports.write(PORTS + LEGACY_PCI.rows[name].offset, LEGACY_PCI.rows[name].bytes, BigInt(value));
    set('device_status', 3);
    set('queue_address', QUEUE.desc >>> 12);
    set('device_status', 7);
  } else if (how === 'mmio') {
    const set = (name: keyof typeof VIRTIO_MMIO.rows, value: number): void =>
      pc.mmio.write(windowGpa(0) + VIRTIO_MMIO.rows[name].offset, 4, BigInt(value));
    for (const [name, value] of [
      ['Status', 3],
      ['DriverFeaturesSel', 1],
      ['DriverFeatures', 1 | wantsData],
      ['Status', 11],
    ] as const)
      set(name, value);
    for (const [name, value] of [
      ['QueueSize', 8],
      ['QueueDescLow', QUEUE.desc],
      ['QueueDriverLow', QUEUE.driver],
    ] as const)
      set(name, value);
    for (const [name, value] of [
      ['QueueDeviceLow', QUEUE.device],
      ['QueueReady', 1],
      ['Status', 15],
    ] as const)
      set(name, value);
  } else {
    const set = (name: keyof typeof COMMON_CONFIG.rows, value: number): void =>
      pc.mmio.write(BAR + COMMON_CONFIG.rows[name].offset, COMMON_CONFIG.rows[name].bytes, BigInt(value));
    for (const [name, value] of [
      ['device_status', 3],
      ['driver_feature_select', 1],
      ['driver_feature', 1 | wantsData],
      ['device_status', 11],
    ] as const)
      set(name, value);
    for (const [name, value] of [
      ['queue_desc_lo', QUEUE.desc],
      ['queue_driver_lo', QUEUE.driver],
      ['queue_device_lo', QUEUE.device],
    ] as const)
      set(name, value);
    for (const [name, value] of [
      ['queue_enable', 1],
      ['device_status', 15],
    ] as const)
      set(name, value);
  }
  const driver = how === 'legacy' ? QUEUE.desc + 16 * 8 : QUEUE.driver;
  const used = how === 'legacy' ? QUEUE.desc + 4096 : QUEUE.device;
  const kick: Code = {
    modern: store(BAR + PLACE.NOTIFY, 0),
    port: out(PORTS + 0x100, 0, 2),
    legacy: out(PORTS + 16, 0, 2),
    mmio: store(windowGpa(0) + 0x50, 0),
  }[how];
  const run = (...code: Code[]) => {
    place(ram, { code });
    const [vcpu] = (running as Machine<Pc>).vcpus;
    vcpu?.setSregs({ ...vcpu.getSregs(), ...startState.sregs });
    vcpu?.setRegs({ ...vcpu.getRegs(), ...startState.regs });
    return (running as Machine<Pc>).run();
  };
  return {
    pc,
    ram,
    view,
    model,
    virtio,
    wires: wiresOf(virtio),
    kick,
    run,
    offer: (bytes = 64) => offerBuffer(view, 8, { desc: QUEUE.desc, driver }, bytes),
    used: () => view.getUint16(used + 2, true),
  };
}

describe.each(['modern', 'port', 'legacy', 'mmio'] as const)('kicks by %s registers', (how) => {
  const reasons = how === 'modern' || how === 'mmio' ? 'KVM_EXIT_MMIO' : 'KVM_EXIT_IO';
  it('stay in the kernel', () => {
    const made = machine(how);
    expect(made.wires?.wired).toBe(how === 'port' ? 2 : 1);
    made.offer();
    const { exits } = made.run(times(5, made.kick));
    expect(exits[reasons] ?? 0).toBe(0);
    expect([made.used(), made.wires?.kicks, made.virtio.counts.kicks]).toEqual([1, 5, 5]);
  });
  it('leave it when nobody wired them', () => {
    const made = machine(how, { ioeventfd: false });
    made.offer();
    const { exits } = made.run(times(5, made.kick));
    expect([made.wires, exits[reasons], made.used()]).toEqual([null, 5, 1]);
  });
  it('leave it when the interrupt controllers are not there', () => {
    const made = machine(how, {}, 'split');
    made.offer();
    expect(made.run(made.kick).exits[reasons]).toBe(1);
    expect([made.wires, made.used()]).toEqual([null, 1]);
  });
  it('have been served before the next instruction', () => {
    const made = machine(how);
    made.model.bytes = Uint8Array.of(0x78, 0x56, 0x34, 0x12);
    made.offer();
    made.run(made.kick, load(QUEUE.buffer), [0xa3, COUNTER & 0xff, COUNTER >> 8, 0, 0]);
    expect(made.view.getUint32(COUNTER, true)).toBe(0x1234_5678);
  });
});

describe('a wire', () => {
  it('follows the BAR, and is not there while it is nowhere', () => {
    const { pc, wires, virtio, offer, run, used } = machine('modern');
    pc.q35.config.write(0, SLOT << 3, 4, 2, 4);
    expect(wires?.wired).toBe(0);
    pc.q35.config.write(0, SLOT << 3, 0x20, 4, BAR + 0x10_0000);
    pc.q35.config.write(0, SLOT << 3, 4, 2, 7);
    expect(wires?.wired).toBe(1);
    offer();
    expect(run(store(BAR + PLACE.NOTIFY, 0), store(BAR + 0x10_0000 + PLACE.NOTIFY, 0)).exits.KVM_EXIT_MMIO).toBe(1);
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
    made.run(store(BAR + PLACE.NOTIFY, 0x7_0000));
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
    made.run(times(2000, call(ROUTINE)), keep(0x7100), made.kick, call(ROUTINE), keep(0x7104));
    expect([made.view.getUint32(0x7100, true), made.view.getUint32(0x7104, true)]).toEqual([1, 2]);
  });
});
