import { describe, expect, it } from 'vitest';
import { F, STATUS } from '../features.ts';
import type { Chain } from '../queue.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { CFG_TYPE, VIRTIO_PCI_CAP } from './capabilities.ts';
import { COMMON_CONFIG, NO_VECTOR } from './common-config.ts';
import { offerBuffer, pciRig, QUEUE, Recorder } from './laboratory.ts';
import { BAR, PLACE } from './pci.ts';

type PciRig = ReturnType<typeof pciRig>;
const AGREED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK;
const RUNNING = AGREED | STATUS.DRIVER_OK;

function negotiate(rig: PciRig, low = 0, high = 1): void {
  rig.set('device_status', 0);
  rig.set('device_status', STATUS.ACKNOWLEDGE | STATUS.DRIVER);
  rig.set('driver_feature_select', 0);
  rig.set('driver_feature', low);
  rig.set('driver_feature_select', 1);
  rig.set('driver_feature', high);
  rig.set('device_status', AGREED);
}

function placeQueue(rig: PciRig, index = 0): void {
  rig.set('queue_select', index);
  rig.set('queue_desc_lo', QUEUE.desc);
  rig.set('queue_driver_lo', QUEUE.driver);
  rig.set('queue_device_lo', QUEUE.device);
  rig.set('queue_enable', 1);
}

function up(rig: PciRig, low = 0, high = 1): void {
  negotiate(rig, low, high);
  placeQueue(rig);
  rig.set('device_status', RUNNING);
}

const kick = (rig: PciRig, queue = 0, value = queue, bytes: 2 | 4 = 2): void =>
  rig.mmio.write(rig.BASE + PLACE.NOTIFY + 4 * queue, bytes, BigInt(value));
const used = (rig: PciRig): number => rig.view.getUint16(QUEUE.device + 2, true);

/** The capability list, as a driver reads it. */
function capabilities({ config }: PciRig) {
  const { rows } = VIRTIO_PCI_CAP;
  const list = [];
  for (let at = config.read(0x34, 1); at !== 0; at = config.read(at + 1, 1)) {
    if (config.read(at, 1) !== 9) continue;
    const field = (name: keyof typeof rows): number => config.read(at + rows[name].offset, rows[name].bytes as 1 | 4);
    list.push({ at, len: field('cap_len'), type: field('cfg_type'), bar: field('bar'), offset: field('offset'), length: field('length') });
  }
  return list;
}

describe('identity', () => {
  it('says which drivers may try', () => {
    const modern = pciRig();
    expect([modern.config.read(0, 4), modern.config.read(8, 1), modern.config.read(0x2e, 2)]).toEqual([0x1044_1af4, 1, 0x1100]);
    const transitional = pciRig({ legacy: true });
    expect([transitional.config.read(0, 4), transitional.config.read(8, 1), transitional.config.read(0x2e, 2)]).toEqual([0x1005_1af4, 0, 4]);
  });
  it('has the BARs of its kind', () => {
    const sizes = (rig: PciRig): number[] =>
      [0, 1, 2, 4].map((bar) => {
        rig.config.write(0x10 + 4 * bar, 4, 0xffff_ffff);
        return rig.config.read(0x10 + 4 * bar, 4);
      });
    expect(sizes(pciRig())).toEqual([0, 0xffff_f000, 0, 0xffff_c00c]);
    expect(sizes(pciRig({ legacy: true }))).toEqual([0xffff_ffc1, 0xffff_f000, 0, 0xffff_c00c]);
    expect(sizes(pciRig({ legacy: true, modern: false, vectors: 0 }))).toEqual([0xffff_ffc1, 0, 0, 0]);
    expect(sizes(pciRig({ pioNotify: true }))).toEqual([0, 0xffff_f000, 0xffff_fffd, 0xffff_c00c]);
  });
  it('refuses to be nothing, or a legacy device of a type that never was one', () => {
    expect(() => pciRig({ modern: false })).toThrow();
    expect(() => pciRig({ vectors: 2049 })).toThrow();
  });
});

describe('capabilities', () => {
  it('name every structure, aligned and long enough', () => {
    const rig = pciRig({ pioNotify: true });
    const list = capabilities(rig);
    expect(list.map(({ type }) => type)).toEqual([CFG_TYPE.COMMON, CFG_TYPE.ISR, CFG_TYPE.DEVICE, CFG_TYPE.NOTIFY, CFG_TYPE.NOTIFY, CFG_TYPE.PCI]);
    for (const { len, offset, type } of list) {
      expect(len).toBe(type === CFG_TYPE.NOTIFY || type === CFG_TYPE.PCI ? 20 : 16);
      expect(offset % 4).toBe(0);
    }
    expect(list.map(({ bar }) => bar)).toEqual([BAR.MODERN, BAR.MODERN, BAR.MODERN, BAR.PIO_NOTIFY, BAR.MODERN, 0]);
  });
  it('are read-only, but for the one that is a window', () => {
    const rig = pciRig();
    for (const { at, type } of capabilities(rig)) {
      const before = [4, 8, 12].map((offset) => rig.config.read(at + offset, 4));
      for (const offset of [0, 4, 8, 12, 16]) if (type !== CFG_TYPE.PCI || offset < 4) rig.config.write(at + offset, 4, 0xffff_ffff);
      expect([4, 8, 12].map((offset) => rig.config.read(at + offset, 4))).toEqual(before);
    }
  });
  it('keep doorbells a page apart when asked', () => {
    const rig = pciRig({ pagePerVq: true });
    const notify = capabilities(rig).find(({ type }) => type === CFG_TYPE.NOTIFY);
    expect(rig.config.read((notify?.at as number) + 16, 4)).toBe(4096);
    up(rig);
    rig.set('queue_select', 1);
    expect(rig.get('queue_notify_off')).toBe(1);
    rig.model.calls.length = 0;
    rig.mmio.write(rig.BASE + PLACE.NOTIFY, 2, 0n);
    expect(rig.model.calls).toEqual(['available 0']);
  });
  it('leave out a configuration that does not exist', () => {
    const model = new Recorder();
    Object.assign(model.config, { bytes: 0 });
    expect(capabilities(pciRig({ model })).map(({ type }) => type)).not.toContain(CFG_TYPE.DEVICE);
  });
});

describe('the window in configuration space', () => {
  const access = (rig: PciRig) => {
    const at = capabilities(rig).find(({ type }) => type === CFG_TYPE.PCI)?.at as number;
    const aim = (bar: number, offset: number, length: number): void => {
      rig.config.write(at + 4, 1, bar);
      rig.config.write(at + 8, 4, offset);
      rig.config.write(at + 12, 4, length);
    };
    return { at, aim };
  };
  it('reads and writes the registers, decoding or not', () => {
    const rig = pciRig();
    const { at, aim } = access(rig);
    rig.config.write(4, 2, 0);
    aim(BAR.MODERN, COMMON_CONFIG.rows.device_status.offset, 1);
    rig.config.write(at + 16, 4, 0x1234_5601);
    expect(rig.device.status).toBe(1);
    expect(rig.config.read(at + 16, 4) & 0xff).toBe(1);
    aim(BAR.MODERN, COMMON_CONFIG.rows.num_queues.offset, 2);
    expect(rig.config.read(at + 16, 2)).toBe(2);
    aim(BAR.MODERN, PLACE.DEVICE + 4, 4);
    expect(rig.config.read(at + 16, 4)).toBe(0x0807_0605);
  });
  it('reaches nothing else', () => {
    const rig = pciRig();
    const { at, aim } = access(rig);
    rig.config.write(at + 16, 4, 0x5555_5555);
    // biome-ignore format: table
    for (const [bar, offset, length] of [[BAR.MODERN, 20, 0], [BAR.MODERN, 20, 3], [BAR.MODERN, 20, 8], [BAR.MODERN, 21, 2], [BAR.MSIX, 0, 4],
      [5, 0, 4], [200, 0, 4], [BAR.MODERN, 0x800, 4], [BAR.MODERN, 0xffff_fffc, 4], [BAR.MODERN, PLACE.DEVICE + 16, 4]] as const) {
      aim(bar, offset, length);
      rig.config.write(at + 16, 4, 0x0101_0101);
      expect(rig.config.read(at + 16, 4)).toBe(0x0101_0101);
      expect(rig.device.status).toBe(0);
    }
  });
});

describe('the common configuration', () => {
  it('shows features through a window, and zeros beyond', () => {
    const rig = pciRig();
    const windows = [0, 1, 2, 3, 0x8000_0000, 0xffff_ffff].map((select) => {
      rig.set('device_feature_select', select);
      return rig.get('device_feature');
    });
    // Neither legacy bit is for a driver that came this way.
    expect(windows).toEqual([(1 << 28) | (1 << 29), 1 | (1 << 2) | (1 << 3) | (1 << 6) | (1 << 8) | (1 << 11), 0, 0, 0, 0]);
  });
  it('reads back what the driver wrote, until it is agreed', () => {
    const rig = pciRig();
    rig.set('driver_feature_select', 1);
    rig.set('driver_feature', 0x8000_0001);
    expect(rig.get('driver_feature')).toBe(0x8000_0001);
    rig.set('driver_feature_select', 2);
    rig.set('driver_feature', 7);
    expect(rig.get('driver_feature')).toBe(0);
    negotiate(rig);
    rig.set('driver_feature', 0);
    expect(rig.get('driver_feature')).toBe(1);
  });
  it('takes a status bit by bit, and zero as a reset', () => {
    const rig = pciRig();
    negotiate(rig);
    rig.set('device_status', STATUS.DRIVER_OK);
    expect(rig.get('device_status')).toBe(RUNNING);
    rig.set('device_status', 0);
    expect(rig.get('device_status')).toBe(0);
    expect(rig.device.driverFeatures).toBe(0n);
  });
  it.each([
    ['what was not offered', 1 << 5, 1],
    ['no VERSION_1', 0, 0],
    ['a legacy bit', 1 << 24, 1],
  ])('withholds FEATURES_OK for %s', (_what, low, high) => {
    const rig = pciRig();
    negotiate(rig, low, high);
    expect(rig.get('device_status')).toBe(STATUS.ACKNOWLEDGE | STATUS.DRIVER);
    rig.set('device_status', STATUS.DRIVER_OK | 3);
    placeQueue(rig);
    kick(rig);
    expect(rig.model.calls.filter((call) => call !== 'reset')).toEqual([]);
  });
  it('shows each queue through one set of registers', () => {
    const rig = pciRig();
    negotiate(rig);
    const seen = [0, 1, 2, 0xffff].map((queue) => {
      rig.set('queue_select', queue);
      return [rig.get('queue_size'), rig.get('queue_msix_vector'), rig.get('queue_enable'), rig.get('queue_notify_off')];
    });
    expect(seen).toEqual([
      [8, NO_VECTOR, 0, 0],
      [4, NO_VECTOR, 0, 1],
      [0, NO_VECTOR, 0, 0],
      [0, NO_VECTOR, 0, 0],
    ]);
    expect(rig.get('num_queues')).toBe(2);
    rig.set('queue_select', 5);
    for (const name of ['queue_size', 'queue_msix_vector', 'queue_enable', 'queue_desc_lo', 'queue_device_hi', 'queue_reset'] as const)
      rig.set(name, 1);
    expect(rig.device.queues.map(({ enabled, size }) => [enabled, size])).toEqual([
      [false, 8],
      [false, 4],
    ]);
  });
  it('takes a size that a ring can have', () => {
    const rig = pciRig();
    negotiate(rig);
    const sizes = (rigOf: PciRig): number[] =>
      [4, 0, 16, 3, 0xffff, 1].map((size) => {
        rigOf.set('queue_size', size);
        return rigOf.get('queue_size');
      });
    expect(sizes(rig)).toEqual([4, 4, 4, 4, 4, 1]);
    negotiate(rig, 0, 1 | (1 << (F.RING_PACKED - 32)));
    expect(sizes(rig)).toEqual([4, 4, 4, 3, 3, 1]);
  });
  it('takes the halves of an address in any order and any width', () => {
    const rig = pciRig();
    const at = rig.BASE + COMMON_CONFIG.rows.queue_driver_lo.offset;
    rig.set('queue_driver_hi', 0x11);
    expect(rig.mmio.read(at, 8)).toBe(0x11_0000_0000n);
    rig.set('queue_driver_lo', 0x2222_3333);
    expect(rig.mmio.read(at, 8)).toBe(0x11_2222_3333n);
    rig.mmio.write(at, 8, 0xa_bbbb_cccc_ddddn);
    expect(rig.get('queue_driver_hi')).toBe(0xabbbb);
    rig.mmio.write(at + 1, 1, 0xeen);
    expect(rig.get('queue_driver_lo')).toBe(0xcccc_eedd);
    expect(rig.mmio.read(at + 2, 2)).toBe(0xccccn);
  });
  it('counts changes of the configuration, and forgets nothing at a change of width', () => {
    const rig = pciRig();
    up(rig);
    const before = rig.get('config_generation');
    rig.device.configChanged();
    expect(rig.get('config_generation')).not.toBe(before);
    for (let count = 0; count < 255; count++) rig.device.configChanged();
    expect(rig.get('config_generation')).toBe(before);
    expect([rig.device.generation & 0xff, rig.device.generation > 0xff]).toEqual([before, true]);
  });
  it('knows every register of its table, at every width', () => {
    const rig = pciRig();
    const image = (): bigint[] => Array.from({ length: 8 }, (_, word) => rig.mmio.read(rig.BASE + 8 * word, 8));
    const before = image();
    for (const { offset, bytes, access } of Object.values(COMMON_CONFIG.rows)) {
      if (access !== 'ro') continue;
      for (const width of [1, 2, 4] as const) if (width <= bytes) rig.mmio.write(rig.BASE + offset, width, 0xffff_ffffn);
    }
    expect(image()).toEqual(before);
    for (let offset = 0; offset < 64; offset++) {
      for (const width of [1, 2, 4, 8] as const) {
        if (offset + width > 64) continue;
        let bytes = 0n;
        for (let at = width - 1; at >= 0; at--) bytes = (bytes << 8n) | rig.mmio.read(rig.BASE + offset + at, 1);
        expect(rig.mmio.read(rig.BASE + offset, width)).toBe(bytes);
      }
    }
  });
});

describe('queues', () => {
  it('are served after DRIVER_OK, and not before', () => {
    const rig = pciRig();
    negotiate(rig);
    placeQueue(rig);
    offerBuffer(rig.view, 8);
    kick(rig);
    expect(used(rig)).toBe(0);
    rig.set('device_status', RUNNING);
    expect(used(rig)).toBe(1);
    expect(rig.ram[QUEUE.buffer]).toBe(0x5a);
    offerBuffer(rig.view, 8);
    kick(rig);
    expect(used(rig)).toBe(2);
  });
  it('are not enabled before the features are agreed, nor by anything but 1', () => {
    const rig = pciRig();
    rig.set('device_status', 3);
    placeQueue(rig);
    expect(rig.get('queue_enable')).toBe(0);
    negotiate(rig);
    rig.set('queue_enable', 2);
    rig.set('queue_enable', 0);
    expect(rig.get('queue_enable')).toBe(0);
    placeQueue(rig);
    rig.set('queue_enable', 0);
    expect(rig.get('queue_enable')).toBe(1);
    rig.set('queue_size', 4);
    rig.set('queue_desc_lo', 0x9000);
    expect([rig.get('queue_size'), rig.get('queue_desc_lo')]).toEqual([8, QUEUE.desc]);
  });
  it.each([
    ['no memory', 0x1000_0000],
    ['crooked', QUEUE.desc + 1],
    ['at the end of what numbers can say', 0xffff_fff0],
  ])('that are %s end the device', (_what, desc) => {
    const rig = pciRig();
    negotiate(rig);
    rig.set('queue_desc_lo', desc);
    rig.set('queue_desc_hi', desc === 0xffff_fff0 ? 0xffff_ffff : 0);
    rig.set('queue_driver_lo', QUEUE.driver);
    rig.set('queue_device_lo', QUEUE.device);
    rig.set('queue_enable', 1);
    expect(rig.get('device_status') & STATUS.DEVICE_NEEDS_RESET).not.toBe(0);
    expect(rig.isr()).toBe(0);
    rig.set('device_status', RUNNING);
    expect(rig.isr()).toBe(2); // now that there is somebody to tell
    rig.set('device_status', 0);
    up(rig);
    expect(rig.get('device_status')).toBe(RUNNING);
  });
  it('need a bus master', () => {
    const rig = pciRig();
    rig.config.write(4, 2, 3);
    up(rig);
    expect(rig.get('device_status') & STATUS.DEVICE_NEEDS_RESET).not.toBe(0);
  });
  it('wait, with what was taken from them, while the function is no bus master', () => {
    const rig = pciRig();
    up(rig);
    offerBuffer(rig.view, 8);
    const queue = rig.device.queues[0] as VirtQueue;
    const held = queue.pop() as Chain;
    rig.config.write(4, 2, 3);
    offerBuffer(rig.view, 8);
    const before = rig.ram.slice();
    kick(rig);
    queue.push(held, 1);
    expect(queue.pop()).toBe(null);
    expect([rig.ram.every((byte, at) => byte === before[at]), rig.device.failure, used(rig)]).toEqual([true, null, 0]);
    rig.device.configChanged(); // which needs no memory
    expect(rig.isr()).toBe(2);
    rig.config.write(4, 2, 7);
    expect([used(rig), rig.isr()]).toEqual([1, 1]); // without another kick
  });
  it('are taken back one by one', () => {
    const rig = pciRig();
    up(rig, 0, 1 | (1 << (F.RING_RESET - 32)));
    rig.set('queue_size', 4);
    rig.set('queue_msix_vector', 1);
    rig.set('queue_reset', 1);
    expect([rig.get('queue_reset'), rig.get('queue_enable'), rig.get('queue_size'), rig.get('queue_msix_vector')]).toEqual([0, 0, 8, NO_VECTOR]);
    expect(rig.model.calls.at(-1)).toBe('queue reset 0');
    offerBuffer(rig.view, 8);
    kick(rig);
    expect(used(rig)).toBe(0);
    rig.ram.fill(0, QUEUE.desc, QUEUE.buffer);
    rig.set('queue_size', 4);
    placeQueue(rig);
    expect([rig.get('queue_reset'), rig.get('queue_enable'), rig.get('queue_size')]).toEqual([0, 1, 4]);
    for (let count = 0; count < 6; count++) {
      offerBuffer(rig.view, 4);
      kick(rig);
    }
    expect(used(rig)).toBe(6);
  });
  it('are not taken back without RING_RESET', () => {
    const rig = pciRig();
    up(rig);
    rig.set('queue_reset', 1);
    expect([rig.get('queue_reset'), rig.get('queue_enable')]).toEqual([0, 1]);
  });
  it('are kicked by the doorbell’s address or by its value', () => {
    const rig = pciRig({ pioNotify: true });
    up(rig, 0, 1 | (1 << (F.NOTIFICATION_DATA - 32)));
    placeQueue(rig, 1);
    rig.model.calls.length = 0;
    kick(rig, 1, (0x1234 << 16) | 1, 4);
    expect(rig.device.queues[1]?.kickData).toBe(0x1234);
    rig.io.write(rig.PORTS + 0x100, 4, (7n << 16n) | 1n);
    expect(rig.device.queues[1]?.kickData).toBe(7);
    kick(rig, 900);
    kick(rig, 1, 0, 2);
    expect(rig.model.calls).toEqual(['available 1', 'available 1', 'available 1']);
  });
});

describe('interrupts', () => {
  it('are the pin without MSI-X, with a status that clears by being read', () => {
    const rig = pciRig();
    up(rig);
    offerBuffer(rig.view, 8);
    kick(rig);
    expect(rig.config.read(6, 2) & 8).toBe(8);
    rig.device.configChanged();
    expect(rig.line).toEqual([true]);
    expect([rig.isr(), rig.isr()]).toEqual([3, 0]);
    expect(rig.line).toEqual([true, false]);
    expect(rig.config.read(6, 2) & 8).toBe(0);
  });
  it('are messages with MSI-X, each of its vector', () => {
    const rig = pciRig();
    rig.messages();
    up(rig);
    placeQueue(rig, 1);
    rig.set('config_msix_vector', 0);
    for (const queue of [0, 1]) {
      rig.set('queue_select', queue);
      rig.set('queue_msix_vector', 2 - queue);
    }
    offerBuffer(rig.view, 8);
    kick(rig);
    rig.device.configChanged();
    expect(rig.sent.map(({ data }) => data)).toEqual([0x42, 0x40]);
    expect(rig.line).toEqual([]);
    expect(rig.isr() & 2).toBe(2);
  });
  it('are nothing for an event without a vector', () => {
    const rig = pciRig();
    rig.messages();
    up(rig);
    offerBuffer(rig.view, 8);
    kick(rig);
    rig.device.configChanged();
    expect([rig.sent, rig.line]).toEqual([[], []]);
    expect(used(rig)).toBe(1);
  });
  it('have vectors that exist, or none', () => {
    const rig = pciRig({ vectors: 3 });
    const tried = [0, 2, 3, 0x7ff, 0xfffe, 1, 0xffff].map((vector) => {
      rig.set('config_msix_vector', vector);
      rig.set('queue_msix_vector', vector);
      return [rig.get('config_msix_vector'), rig.get('queue_msix_vector')];
    });
    const none = [NO_VECTOR, NO_VECTOR];
    expect(tried).toEqual([[0, 0], [2, 2], none, none, none, [1, 1], none]);
    rig.set('config_msix_vector', 1);
    rig.set('queue_msix_vector', 1);
    rig.set('device_status', 0);
    expect([rig.get('config_msix_vector'), rig.get('queue_msix_vector')]).toEqual(none);
    const without = pciRig({ vectors: 0 });
    without.set('config_msix_vector', 0);
    expect(without.get('config_msix_vector')).toBe(NO_VECTOR);
  });
  it('that were not heard are gone after a reset', () => {
    const rig = pciRig();
    up(rig);
    offerBuffer(rig.view, 8);
    kick(rig);
    rig.set('device_status', 0);
    expect(rig.line).toEqual([true, false]);
    expect(rig.isr()).toBe(0);
  });
});

describe('a reset', () => {
  it('takes back what a mask has held up', () => {
    const rig = pciRig({ vectors: 2 });
    const mask = (to: number): void => rig.mmio.write(rig.BASE + 0x100_0000 + 16 + 12, 4, BigInt(to));
    rig.messages();
    negotiate(rig);
    placeQueue(rig);
    rig.set('queue_msix_vector', 1);
    rig.set('device_status', RUNNING);
    mask(1);
    offerBuffer(rig.view, 8);
    kick(rig);
    expect([used(rig), rig.fn.msix?.isPending(1), rig.sent]).toEqual([1, true, []]);
    rig.set('device_status', 0);
    mask(0);
    expect([rig.fn.msix?.isPending(1), rig.sent]).toEqual([false, []]);
  });
});

describe('the reset line', () => {
  it('leaves nothing of the driver', () => {
    const rig = pciRig({ legacy: true });
    up(rig);
    offerBuffer(rig.view, 8);
    kick(rig);
    rig.fn.reset();
    expect([rig.device.status, rig.device.queues[0]?.enabled, rig.fn.bars[BAR.MODERN]?.placed]).toEqual([0, false, null]);
    rig.place();
    up(rig);
    expect(rig.get('device_status')).toBe(RUNNING);
  });
});

describe('shared memory', () => {
  it('has a capability, and a place in a BAR', () => {
    const model = Object.assign(new Recorder(), { sharedMemory: [{ id: 7, memory: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) }] });
    const rig = pciRig({ model });
    const found = capabilities(rig).find(({ type }) => type === CFG_TYPE.SHARED_MEMORY);
    expect([found?.bar, found?.offset, found?.length, found?.len, rig.config.read((found?.at as number) + 5, 1)]).toEqual([BAR.SHARED, 0, 8, 24, 7]);
    const at = rig.BASE + 0x200_0000;
    expect(rig.mmio.read(at, 8)).toBe(0x0807_0605_0403_0201n);
    rig.mmio.write(at + 1, 2, 0xaabbn);
    expect([...(model.sharedMemory[0]?.memory.subarray(0, 4) ?? [])]).toEqual([1, 0xbb, 0xaa, 4]);
  });
});
