import { describe, expect, it } from 'vitest';
import { VirtioDevice } from './device.ts';
import { bit, F, features, has, STATUS } from './features.ts';
import { FlatMemory } from './memory.ts';
import { makeRing } from './rings/make-ring.ts';
import { EVERYTHING, offerBuffer, QUEUE, Recorder } from './transport/laboratory.ts';

const AGREED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK;
const RUNNING = AGREED | STATUS.DRIVER_OK;

function rig({ model = new Recorder(), offer = EVERYTHING } = {}) {
  const ram = new Uint8Array(1 << 20);
  const device = new VirtioDevice(model, { memory: new FlatMemory(ram), makeRing, offer });
  const said: string[] = [];
  device.notifier = { usedBuffer: (queue) => void said.push(`used ${queue}`), configChange: () => void said.push('config') };
  const view = new DataView(ram.buffer);
  const negotiate = (chosen: bigint): void => {
    device.setStatus(3);
    device.setDriverFeatures(0, Number(chosen & 0xffff_ffffn));
    device.setDriverFeatures(1, Number(chosen >> 32n));
    device.setStatus(AGREED);
  };
  const enable = (): void => {
    const queue = device.queues[0];
    for (const [half, at] of [QUEUE.desc, QUEUE.driver, QUEUE.device].entries()) queue?.setArea(2 * half, at);
    queue?.enable();
  };
  const up = (...chosen: number[]): void => {
    negotiate(features(F.VERSION_1, ...chosen));
    enable();
    device.setStatus(RUNNING);
  };
  return {
    device,
    model,
    ram,
    view,
    said,
    negotiate,
    enable,
    up,
    used: () => view.getUint16(QUEUE.device + 2, true),
    offer: () => offerBuffer(view, 8),
  };
}

describe('features', () => {
  it('are offered only with what they need', () => {
    const dependencies = [
      [1, 0],
      [2, 1],
      [4, 3],
    ] as const;
    const model = new Recorder({ own: features(1, 2, 3, 4), dependencies });
    const { device, negotiate } = rig({ model });
    expect([0, 1, 2, 3, 4].filter((feature) => has(device.offered, feature))).toEqual([3, 4]);
    negotiate(features(F.VERSION_1, 4));
    expect(device.status).toBe(3);
    device.reset();
    negotiate(features(F.VERSION_1, 3, 4));
    expect(device.status).toBe(AGREED);
  });
  it('are those of each generation', () => {
    const { device } = rig({ offer: features(F.EVENT_IDX, F.NOTIFY_ON_EMPTY, F.ANY_LAYOUT) });
    expect(has(device.offerTo(false), F.VERSION_1)).toBe(true);
    expect(has(device.offerTo(false), F.NOTIFY_ON_EMPTY)).toBe(false);
    expect(device.offerTo(true) >> 32n).toBe(0n);
    expect(has(device.offerTo(true), F.NOTIFY_ON_EMPTY)).toBe(true);
  });
  it('never promise what nobody here can do', () => {
    const { device } = rig({ offer: features(F.SR_IOV, F.ADMIN_VQ, F.NOTIF_CONFIG_DATA, F.ORDER_PLATFORM, F.IN_ORDER) });
    expect(device.offered).toBe(features(F.VERSION_1, F.IN_ORDER));
  });
  it('are nothing before FEATURES_OK, and stay afterwards', () => {
    const { device } = rig();
    device.setDriverFeatures(1, 1);
    expect(device.negotiated).toBe(0n);
    device.setStatus(AGREED);
    device.setDriverFeatures(1, 0);
    expect(device.negotiated).toBe(bit(F.VERSION_1));
  });
  it('insist on ACCESS_PLATFORM where it is offered', () => {
    const { device, negotiate } = rig({ offer: features(F.ACCESS_PLATFORM) });
    negotiate(bit(F.VERSION_1));
    expect(device.status).toBe(3);
    negotiate(features(F.VERSION_1, F.ACCESS_PLATFORM));
    expect(device.status).toBe(AGREED);
  });
  it('may be refused by the model, and only then', () => {
    const model = Object.assign(new Recorder({ own: features(5, 6) }), { accepts: (chosen: bigint) => !(has(chosen, 5) && has(chosen, 6)) });
    const { device, negotiate } = rig({ model });
    for (const [own, status] of [
      [[5, 6], 3],
      [[5], AGREED],
      [[6], AGREED],
      [[], AGREED],
    ] as const) {
      device.reset();
      negotiate(features(F.VERSION_1, ...own));
      expect(device.status).toBe(status);
    }
  });
});

describe('status', () => {
  it('is not for the driver to take back, nor the device’s bits to set', () => {
    const { device } = rig();
    device.setStatus(3);
    device.setStatus(1);
    device.setStatus(STATUS.DEVICE_NEEDS_RESET | STATUS.SUSPEND);
    expect(device.status).toBe(3);
    device.setStatus(STATUS.FAILED);
    expect(device.status).toBe(STATUS.FAILED | 3);
  });
  it('does not run without agreement', () => {
    const { device, enable, model } = rig();
    device.setStatus(STATUS.DRIVER_OK | 3);
    enable();
    device.kick(0);
    expect([device.running, model.calls]).toEqual([false, ['reset']]);
  });
  it('says once that only a reset helps', () => {
    const { device, up, said, model, offer, used } = rig();
    up();
    device.fail('one');
    device.fail('two');
    expect([said, device.failure, device.status & STATUS.DEVICE_NEEDS_RESET]).toEqual([['config'], 'one', STATUS.DEVICE_NEEDS_RESET]);
    model.calls.length = 0;
    offer();
    device.kick(0);
    device.configChanged();
    expect([model.calls, used(), said]).toEqual([[], 0, ['config']]);
    device.reset();
    expect([device.status, device.failure]).toEqual([0, null]);
  });
  it('is broken by a ring that says nonsense', () => {
    const { device, up, view } = rig();
    up();
    view.setUint16(QUEUE.driver + 2, 100, true);
    device.kick(0);
    expect(device.failure).toMatch(/queue 0/);
  });
});

describe('a queue', () => {
  it('is not notified of what was pushed into a ring that is gone', () => {
    const { device, up, said, offer, used } = rig();
    up(F.RING_RESET);
    const queue = device.queues[0];
    offer();
    const chain = queue?.pop();
    device.resetQueue(0);
    if (chain) queue?.push(chain, 1);
    queue?.notify();
    expect([used(), said]).toEqual([0, []]);
  });
  it('can have a size that is no power of two only where there are packed rings', () => {
    const model = () => new Recorder({ queues: [6] });
    expect(() => rig({ model: model(), offer: features(F.EVENT_IDX) })).toThrow();
    expect(rig({ model: model() }).device.queues[0]?.maxSize).toBe(6);
  });
  it('that is a gap cannot be enabled', () => {
    const { device, negotiate, enable } = rig({ model: new Recorder({ queues: [0, 8] }) });
    negotiate(bit(F.VERSION_1));
    enable();
    expect([device.queues[0]?.enabled, device.failure]).toEqual([false, null]);
  });
});

describe('a configuration', () => {
  it('is bytes, with ones behind it', () => {
    const { device, model } = rig();
    expect([device.readConfig(14, 4), device.readConfig(16, 1), device.readConfig(0xffff_ffff, 4)]).toEqual([0xffff_100f, 0xff, 0xffff_ffff]);
    device.writeConfig(14, 4, 0);
    device.writeConfig(14, 2, 0x1234);
    expect([...model.bytes.subarray(14)]).toEqual([0x34, 0x12]);
  });
  it('changes in silence before there is a driver', () => {
    const { device, up, said } = rig();
    device.configChanged();
    expect([device.generation, said]).toEqual([1, []]);
    up();
    device.configChanged();
    expect(said).toEqual(['config']);
  });
});

describe('sleep', () => {
  const asleep = STATUS.SUSPEND | AGREED;
  it('is silence until DRIVER_OK', () => {
    const { device, up, said, model, offer, used } = rig();
    up(F.SUSPEND);
    device.setStatus(RUNNING | STATUS.SUSPEND);
    expect(device.status).toBe(asleep);
    model.calls.length = 0;
    offer();
    device.kick(0);
    device.changeConfig(() => model.bytes.fill(99, 0, 1));
    device.configChanged();
    device.writeConfig(1, 1, 77);
    expect([used(), said, model.calls, device.readConfig(0, 2), device.generation]).toEqual([0, [], [], 0x0201, 0]);
    device.setStatus(asleep | STATUS.DRIVER_OK);
    expect([device.status, device.readConfig(0, 1), said.slice(0, 1), used(), model.calls]).toEqual([
      RUNNING,
      99,
      ['config'],
      1,
      ['resume', 'available 0'],
    ]);
  });
  it('does not come to a device that has failed on the way there', () => {
    const { device, up, model } = rig();
    up(F.SUSPEND);
    model.slow = true;
    device.setStatus(RUNNING | STATUS.SUSPEND);
    device.fail('on purpose');
    model.rest?.();
    expect(device.status).toBe(RUNNING | STATUS.DEVICE_NEEDS_RESET);
  });
  it('begins when the model has come to rest', () => {
    const { device, up, model, offer, view, used } = rig();
    up(F.SUSPEND);
    model.slow = true;
    const queue = device.queues[0];
    offer();
    const chain = queue?.pop();
    device.setStatus(RUNNING | STATUS.SUSPEND);
    expect(device.status).toBe(RUNNING);
    offerBuffer(view, 8);
    expect(queue?.pop()).toBe(null);
    if (chain) queue?.push(chain, 0);
    expect(used()).toBe(1);
    model.rest?.();
    expect(device.status).toBe(asleep);
  });
  it('that comes too late is nobody’s', () => {
    const { device, up, model } = rig();
    up(F.SUSPEND);
    model.slow = true;
    device.setStatus(RUNNING | STATUS.SUSPEND);
    device.setStatus(0);
    up(F.SUSPEND);
    model.rest?.();
    expect(device.status).toBe(RUNNING);
  });
  it('is not to be had before the device runs, nor without the feature', () => {
    const { device, up, negotiate } = rig();
    negotiate(features(F.VERSION_1, F.SUSPEND));
    device.setStatus(AGREED | STATUS.SUSPEND);
    expect(device.status).toBe(AGREED);
    device.reset();
    up();
    device.setStatus(RUNNING | STATUS.SUSPEND);
    expect(device.status).toBe(RUNNING);
  });
  it('ends with a reset, and what was put off is done', () => {
    const { device, up, model } = rig();
    up(F.SUSPEND);
    device.setStatus(RUNNING | STATUS.SUSPEND);
    device.changeConfig(() => model.bytes.fill(99, 0, 1));
    device.setStatus(0);
    expect([device.status, device.readConfig(0, 1)]).toEqual([0, 99]);
  });
});
