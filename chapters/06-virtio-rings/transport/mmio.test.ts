import { describe, expect, it } from 'vitest';
import { F, STATUS } from '../features.ts';
import { EVERYTHING, mmioRig, offerBuffer, QUEUE, Recorder } from './laboratory.ts';
import { MAGIC, MMIO_BYTES, VIRTIO_MMIO } from './mmio.ts';

type MmioRig = ReturnType<typeof mmioRig>;
const AGREED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK;
const RUNNING = AGREED | STATUS.DRIVER_OK;

function negotiate(rig: MmioRig, low = 0, high = 1): void {
  rig.set('Status', 0);
  rig.set('Status', STATUS.ACKNOWLEDGE | STATUS.DRIVER);
  rig.set('DriverFeaturesSel', 0);
  rig.set('DriverFeatures', low);
  rig.set('DriverFeaturesSel', 1);
  rig.set('DriverFeatures', high);
  rig.set('Status', AGREED);
}

function placeQueue(rig: MmioRig, index = 0): void {
  rig.set('QueueSel', index);
  rig.set('QueueDescLow', QUEUE.desc);
  rig.set('QueueDriverLow', QUEUE.driver);
  rig.set('QueueDeviceLow', QUEUE.device);
  rig.set('QueueReady', 1);
}

function up(rig: MmioRig, high = 1): void {
  negotiate(rig, 0, high);
  placeQueue(rig);
  rig.set('Status', RUNNING);
}

const used = (rig: MmioRig): number => rig.view.getUint16(QUEUE.device + 2, true);

describe('a window', () => {
  it('says who is there', () => {
    const rig = mmioRig();
    expect([rig.get('MagicValue'), rig.get('Version'), rig.get('DeviceID')]).toEqual([MAGIC, 2, 4]);
    expect(mmioRig({ legacy: true }).get('Version')).toBe(1);
  });
  it('says that nobody is there, and nothing else', () => {
    const rig = mmioRig({ empty: true });
    for (let offset = 0; offset < MMIO_BYTES; offset += 4) rig.mmio.write(rig.WINDOW + offset, 4, 0xffff_ffffn);
    const image = Array.from({ length: MMIO_BYTES / 4 }, (_, word) => Number(rig.mmio.read(rig.WINDOW + 4 * word, 4)));
    expect(image.flatMap((value, word) => (value === 0 ? [] : [word]))).toEqual([0, 1, 3]);
  });
  it('reads as zero where there is no register, and where a register is only written', () => {
    const rig = mmioRig();
    up(rig);
    for (let offset = 0; offset < 0x100; offset += 4) {
      const found = VIRTIO_MMIO.at(offset);
      if (!found || found.row.access === 'wo') expect([offset, rig.mmio.read(rig.WINDOW + offset, 4)]).toEqual([offset, 0n]);
    }
  });
  it('answers at every width with the bytes of its registers', () => {
    const rig = mmioRig();
    up(rig);
    for (let offset = 0; offset < MMIO_BYTES; offset++)
      for (const width of [1, 2, 4, 8] as const) {
        if (offset + width > MMIO_BYTES) continue;
        let bytes = 0n;
        for (let at = width - 1; at >= 0; at--) bytes = (bytes << 8n) | rig.mmio.read(rig.WINDOW + offset + at, 1);
        expect([offset, width, rig.mmio.read(rig.WINDOW + offset, width)]).toEqual([offset, width, bytes]);
      }
  });
});

describe('version 2', () => {
  it('shows features by windows', () => {
    const rig = mmioRig();
    const windows = [0, 1, 2, 0xffff_ffff].map((select) => {
      rig.set('DeviceFeaturesSel', select);
      return rig.get('DeviceFeatures');
    });
    expect(windows.slice(2)).toEqual([0, 0]);
    expect(BigInt(windows[0] as number) | (BigInt(windows[1] as number) << 32n)).toBe(rig.device.offerTo(false));
  });
  it('serves a queue, and pulls the line until it is acknowledged', () => {
    const rig = mmioRig();
    up(rig);
    offerBuffer(rig.view, 8);
    rig.set('QueueNotify', 0);
    expect([used(rig), rig.get('InterruptStatus'), rig.line]).toEqual([1, 1, [true]]);
    rig.device.configChanged();
    expect(rig.get('InterruptStatus')).toBe(3);
    rig.set('InterruptACK', 1);
    expect([rig.get('InterruptStatus'), rig.line]).toEqual([2, [true]]);
    rig.set('InterruptACK', 0xffff_fffd);
    expect(rig.get('InterruptStatus')).toBe(2);
    rig.set('InterruptACK', 2);
    expect([rig.get('InterruptStatus'), rig.line]).toEqual([0, [true, false]]);
  });
  it('stops a queue that is not ready, and begins anew', () => {
    const rig = mmioRig();
    up(rig);
    rig.set('QueueReady', 0);
    expect(rig.get('QueueReady')).toBe(0);
    offerBuffer(rig.view, 8);
    rig.set('QueueNotify', 0);
    expect(used(rig)).toBe(0);
    expect(rig.model.calls.at(-1)).toBe('queue reset 0');
    rig.set('QueueReady', 1);
    rig.set('QueueNotify', 0);
    expect(used(rig)).toBe(1);
  });
  it('takes a queue back', () => {
    const rig = mmioRig();
    up(rig, 1 | (1 << (F.RING_RESET - 32)));
    rig.set('QueueReset', 1);
    expect([rig.get('QueueReset'), rig.get('QueueReady')]).toEqual([0, 0]);
    placeQueue(rig);
    expect([rig.get('QueueReset'), rig.get('QueueReady')]).toEqual([0, 1]);
    const without = mmioRig();
    up(without);
    without.set('QueueReset', 1);
    expect(without.get('QueueReady')).toBe(1);
  });
  it('shows queues that exist', () => {
    const rig = mmioRig();
    const sizes = [0, 1, 2, 0xffff_ffff].map((queue) => {
      rig.set('QueueSel', queue);
      return rig.get('QueueSizeMax');
    });
    expect(sizes).toEqual([8, 4, 0, 0]);
  });
  it('has a configuration of bytes, with a generation', () => {
    const rig = mmioRig();
    expect([rig.readConfig(0, 1), rig.readConfig(2, 2), rig.readConfig(4, 4)]).toEqual([1, 0x0403, 0x0807_0605]);
    rig.writeConfig(2, 2, 0xaabb);
    rig.writeConfig(15, 2, 0xffff);
    rig.writeConfig(16, 4, 0xffff);
    expect([...rig.model.bytes].slice(0, 4)).toEqual([1, 2, 0xbb, 0xaa]);
    expect([rig.readConfig(15, 2), rig.readConfig(0x80, 4)]).toEqual([0xff10, 0xffff_ffff]);
    const before = rig.get('ConfigGeneration');
    rig.device.configChanged();
    expect(rig.get('ConfigGeneration')).not.toBe(before);
  });
  it('knows shared memory, or says that there is none', () => {
    const rig = mmioRig({ model: Object.assign(new Recorder(), { sharedMemory: [{ id: 1, memory: new Uint8Array(64) }] }) });
    for (const id of [0, 1]) {
      rig.set('SHMSel', id);
      expect([rig.get('SHMLenLow'), rig.get('SHMLenHigh'), rig.get('SHMBaseLow'), rig.get('SHMBaseHigh')]).toEqual(new Array(4).fill(0xffff_ffff));
    }
  });
  it('is as new after a reset', () => {
    const rig = mmioRig();
    up(rig);
    offerBuffer(rig.view, 8);
    rig.set('QueueNotify', 0);
    rig.set('Status', 0);
    expect([rig.get('Status'), rig.get('InterruptStatus'), rig.get('QueueReady'), rig.line]).toEqual([0, 0, 0, [true, false]]);
  });
  it('takes what a kick says', () => {
    const rig = mmioRig();
    up(rig, 1 | (1 << (F.NOTIFICATION_DATA - 32)));
    rig.set('QueueNotify', (0x4321 << 16) | 0);
    expect(rig.device.queues[0]?.kickData).toBe(0x4321);
    for (const queue of [1, 2, 0xffff]) rig.set('QueueNotify', queue);
    expect(rig.device.status).toBe(RUNNING);
  });
});

describe('version 1', () => {
  const legacy = (offer = EVERYTHING): MmioRig => mmioRig({ legacy: true, offer });
  it('has 32 features, with those that only it has', () => {
    const rig = legacy();
    const windows = [0, 1].map((select) => {
      rig.set('DeviceFeaturesSel', select);
      return rig.get('DeviceFeatures');
    });
    expect(windows).toEqual([((1 << 24) | (1 << 27) | (1 << 28) | (1 << 29)) >>> 0, 0]);
  });
  it.each([
    [4096, 4096],
    [4096, 64],
    [1024, 4096],
  ])('places a queue by page number, pages of %i bytes, aligned to %i', (page, align) => {
    const rig = legacy();
    rig.set('Status', 3);
    rig.set('GuestPageSize', page);
    rig.set('QueueSize', 8);
    rig.set('QueueAlign', align);
    rig.set('QueuePFN', QUEUE.desc / page);
    expect(rig.get('QueuePFN')).toBe(QUEUE.desc / page);
    rig.set('Status', 7);
    const driver = QUEUE.desc + 16 * 8;
    offerBuffer(rig.view, 8, { desc: QUEUE.desc, driver });
    rig.set('QueueNotify', 0);
    const device = Math.ceil((driver + 6 + 16) / align) * align;
    expect([rig.view.getUint16(device + 2, true), rig.device.failure]).toEqual([1, null]);
    rig.set('QueuePFN', 0);
    expect(rig.get('QueuePFN')).toBe(0);
  });
  it('ignores a page or an alignment that is no power of two', () => {
    const rig = legacy();
    for (const value of [0, 3, 0xffff_ffff]) {
      rig.set('GuestPageSize', value);
      rig.set('QueueAlign', value);
    }
    rig.set('QueuePFN', QUEUE.desc / 4096);
    expect(rig.device.queues[0]?.areas[0]).toBe(QUEUE.desc);
  });
  it('is used by a driver that has not said that it is ready', () => {
    const rig = legacy();
    rig.set('Status', 3);
    rig.set('QueuePFN', QUEUE.desc / 4096);
    offerBuffer(rig.view, 8, { desc: QUEUE.desc, driver: QUEUE.desc + 128 });
    rig.set('QueueNotify', 0);
    expect([rig.view.getUint16(QUEUE.desc + 4096 + 2, true), rig.model.calls.filter((call) => call === 'start')]).toEqual([1, ['start']]);
    rig.set('Status', 7);
    expect(rig.model.calls.filter((call) => call === 'start')).toEqual(['start']);
  });
});
