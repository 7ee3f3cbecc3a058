import { describe, expect, it } from 'vitest';
import { STATUS } from '../features.ts';
import { COMMON_CONFIG } from './common-config.ts';
import { offerBuffer, pciRig, QUEUE } from './laboratory.ts';
import { LEGACY_PCI } from './pci-legacy.ts';

const transitional = () => pciRig({ legacy: true });
type Rig = ReturnType<typeof transitional>;
const AREA = { desc: QUEUE.desc, driver: QUEUE.desc + 16 * 8 } as const;
const used = (rig: Rig): number => rig.view.getUint16(QUEUE.desc + 4096 + 2, true);

function up(rig: Rig, features = 0): void {
  rig.out('device_status', 0);
  rig.out('device_status', 3);
  rig.out('driver_features', features);
  rig.out('queue_select', 0);
  rig.out('queue_address', QUEUE.desc >>> 12);
  rig.out('device_status', 7);
}

describe('the legacy ports', () => {
  it('serve a queue of the length that the device has', () => {
    const rig = transitional();
    up(rig);
    expect([rig.in('queue_size'), rig.in('queue_address'), rig.in('device_status')]).toEqual([8, QUEUE.desc >>> 12, 7]);
    offerBuffer(rig.view, 8, AREA);
    rig.out('queue_notify', 0);
    expect([used(rig), rig.line, rig.in('isr_status'), rig.in('isr_status'), rig.line]).toEqual([1, [true, false], 1, 0, [true, false]]);
  });
  it('offer what a legacy driver may see', () => {
    const rig = transitional();
    expect(rig.in('device_features')).toBe(Number(rig.device.offerTo(true)));
    up(rig, 1 << 29);
    expect([rig.device.negotiated, rig.in('driver_features')]).toEqual([1n << 29n, 1 << 29]);
  });
  it('freeze the features at DRIVER_OK, and not before', () => {
    const rig = transitional();
    rig.out('device_status', 3);
    rig.out('driver_features', 1 << 28);
    rig.out('driver_features', 1 << 29);
    rig.out('device_status', 7);
    rig.out('driver_features', 1 << 28);
    expect(rig.device.negotiated).toBe(1n << 29n);
  });
  it('keep FEATURES_OK for a driver that asks for it even here', () => {
    const rig = transitional();
    rig.out('device_status', 11);
    expect(rig.in('device_status')).toBe(11);
  });
  it('have two registers more while MSI-X is on, and the configuration behind them', () => {
    const rig = transitional();
    const config = (): number => Number(rig.io.read(rig.PORTS + 20, 4));
    expect(config()).toBe(0x0403_0201);
    rig.messages();
    expect(config()).toBe(0xffff_ffff);
    expect(Number(rig.io.read(rig.PORTS + 24, 4))).toBe(0x0403_0201);
    up(rig);
    rig.io.write(rig.PORTS + 20, 2, 0n);
    rig.io.write(rig.PORTS + 22, 2, 1n);
    expect(config()).toBe(0x0001_0000);
    rig.io.write(rig.PORTS + 22, 2, 9n);
    expect(config()).toBe(0xffff_0000);
    rig.io.write(rig.PORTS + 22, 2, 1n);
    offerBuffer(rig.view, 8, AREA);
    rig.out('queue_notify', 0);
    rig.device.configChanged();
    expect([rig.sent.map(({ data }) => data), rig.line]).toEqual([[0x41, 0x40], []]);
  });
  it('read and write the configuration byte by byte, and no further than it is', () => {
    const rig = transitional();
    rig.io.write(rig.PORTS + 21, 1, 0xabn);
    expect(Number(rig.io.read(rig.PORTS + 20, 2))).toBe(0xab01);
    expect(Number(rig.io.read(rig.PORTS + 18, 4))).toBe(0xab01_0000); // over the edge: status, ISR, configuration
    expect(Number(rig.io.read(rig.PORTS + 36, 1))).toBe(0xff);
    rig.io.write(rig.PORTS + 36, 4, 0n);
  });
  it('do nothing for a queue that is not there', () => {
    const rig = transitional();
    up(rig);
    rig.out('queue_select', 9);
    expect([rig.in('queue_size'), rig.in('queue_address')]).toEqual([0, 0]);
    rig.out('queue_address', 5);
    rig.out('queue_notify', 9);
    rig.out('queue_notify', 0xffff);
    expect(rig.device.failure).toBe(null);
  });
  it('end the device for a queue outside memory', () => {
    const rig = transitional();
    rig.out('device_status', 3);
    rig.out('queue_address', 0xffff_ffff);
    rig.out('device_status', 7);
    expect(rig.in('device_status') & STATUS.DEVICE_NEEDS_RESET).not.toBe(0);
  });
  it('move a queue that is in use, and what was taken from the old place is forgotten', () => {
    const rig = transitional();
    up(rig);
    rig.out('queue_address', (QUEUE.desc >>> 12) + 4);
    expect([rig.model.calls.at(-1), rig.in('queue_address')]).toEqual(['queue reset 0', (QUEUE.desc >>> 12) + 4]);
  });
  it('need no bus master', () => {
    const rig = transitional();
    rig.config.write(4, 2, 3);
    up(rig);
    offerBuffer(rig.view, 8, AREA);
    rig.out('queue_notify', 0);
    expect(used(rig)).toBe(1);
  });
});

describe('a transitional device', () => {
  it('is whichever the driver begins with', () => {
    const rig = transitional();
    up(rig);
    expect(rig.device.legacy).toBe(true);
    rig.set('device_status', 1); // in the middle: no change
    expect(rig.device.legacy).toBe(true);
    rig.set('device_status', 0);
    rig.set('device_status', 3);
    rig.set('driver_feature_select', 1);
    rig.set('driver_feature', 1);
    rig.set('device_status', 11);
    expect([rig.device.legacy, rig.get('device_status')]).toEqual([false, 11]);
    rig.out('device_status', 0);
    up(rig);
    expect([rig.device.legacy, rig.in('device_status')]).toEqual([true, 7]);
  });
  it('has one status, one ISR and one set of queues, seen from both sides', () => {
    const rig = transitional();
    up(rig);
    expect([rig.get('device_status'), rig.get('queue_enable'), rig.get('queue_desc_lo')]).toEqual([7, 1, QUEUE.desc]);
    rig.device.configChanged();
    expect([rig.isr(), rig.in('isr_status')]).toEqual([2, 0]);
    for (const table of [LEGACY_PCI, COMMON_CONFIG]) expect(Object.keys(table.rows).length).toBeGreaterThan(7);
  });
});
