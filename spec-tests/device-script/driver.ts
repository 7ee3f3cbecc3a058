// # A device under a driver
//
// What the steps of a script share about one device: how it is reached, what was negotiated, which rings there are. Everything is done as the specification's
// "Device Initialization" says, one step of it at a time, so that a script can stop anywhere or leave something out.

import { type Bus, type Script, Stuck, Unsupported } from './bus.ts';
import {
  EVENT_IDX,
  featureName,
  featureSet,
  IN_ORDER,
  NOTIF_CONFIG_DATA,
  NOTIFICATION_DATA,
  RING_PACKED,
  STATUS,
  VERSION_1,
  visible,
} from './features.ts';
import type { Block, DriverMemory } from './memory.ts';
import { Messages } from './messages.ts';
import { PackedRing } from './packed.ts';
import { getField, type Reach, setField } from './reach.ts';
import { type Areas, DESC_BYTES, type Ring } from './rings.ts';
import { SplitRing } from './split.ts';
import { type Feature, ScriptError } from './steps.ts';
import { isLegacy, type WireDevice } from './wire.ts';

const PAGE = 4096;
const POLLS = 200;
const POLL_NS = 1_000_000;
const ISR = { QUEUE: 1, CONFIG: 2 } as const;

/** A queue's place and size, as numbers. */
export interface QueuePlan {
  readonly queue: number;
  readonly size?: number;
  readonly vector?: number;
  readonly areas?: { readonly desc?: number; readonly driver?: number; readonly device?: number };
  readonly enable?: boolean;
}

export interface Queue {
  readonly index: number;
  readonly ring: Ring;
  readonly notifyOff: number;
  readonly vector: number | null;
}

export class Driver {
  readonly device: WireDevice;
  readonly reach: Reach;
  readonly messages: Messages | null;
  readonly queues = new Map<number, Queue>();
  readonly #bus: Bus;
  readonly #memory: DriverMemory;
  readonly #prefix: string;
  offered: bigint | null = null;
  accepted = 0n;
  /** Reasons that were read from the device and not yet looked at. */
  #isr = 0;

  /** @param prefix  goes before the names of the queues' memory: '' for the first device */
  constructor(bus: Bus, memory: DriverMemory, device: WireDevice, reach: Reach, prefix: string) {
    this.#bus = bus;
    this.#memory = memory;
    this.device = device;
    this.reach = reach;
    this.#prefix = prefix;
    const { fn } = reach;
    const capability = fn?.capabilities.find(({ name }) => name === 'msix');
    this.messages = fn && capability ? new Messages(bus, memory, fn, capability.at) : null;
  }

  get legacy(): boolean {
    return isLegacy(this.device.transport);
  }
  get packed(): boolean {
    return this.has(RING_PACKED);
  }
  has(bit: number): boolean {
    return ((this.accepted >> BigInt(bit)) & 1n) === 1n;
  }

  // ## Status

  *status(): Script<number> {
    return Number(yield* getField(this.reach, 'device_status'));
  }
  *setStatus(value: number): Script<void> {
    yield* setField(this.reach, 'device_status', BigInt(value));
  }
  *addStatus(bits: number): Script<number> {
    yield* this.setStatus((yield* this.status()) | bits);
    return yield* this.status();
  }

  /** Back to the beginning; returns what the status reads at the end of the wait. */
  *reset(): Script<number> {
    yield* this.setStatus(0);
    this.queues.clear();
    this.accepted = 0n;
    this.#isr = 0;
    let status = yield* this.status();
    for (let left = POLLS; status !== 0 && left > 0; left--) {
      yield* this.#bus.advance(POLL_NS);
      status = yield* this.status();
    }
    return status;
  }

  // ## Features

  *window(index: bigint): Script<bigint> {
    if (!this.legacy || !this.reach.fn) yield* setField(this.reach, 'device_feature_select', index);
    return yield* getField(this.reach, 'device_feature');
  }

  *offers(): Script<bigint> {
    const low = yield* this.window(0n);
    this.offered = this.legacy ? low : low | ((yield* this.window(1n)) << 32n);
    return this.offered;
  }

  *accept(features: bigint): Script<void> {
    this.accepted = features;
    if (this.legacy && this.reach.fn) {
      yield* setField(this.reach, 'driver_feature', features & 0xffff_ffffn);
      return;
    }
    for (const [window, value] of [features & 0xffff_ffffn, (features >> 32n) & 0xffff_ffffn].entries()) {
      if (this.legacy && window > 0) break;
      yield* setField(this.reach, 'driver_feature_select', BigInt(window));
      yield* setField(this.reach, 'driver_feature', value);
    }
  }

  /** Ends the case as unsupported if one of these is not offered. @throws ScriptError for what a device may not leave out */
  *need(features: readonly Feature[]): Script<void> {
    const offered = this.offered ?? (yield* this.offers());
    const wanted = featureSet(this.device.type, features) & visible(this.device.transport);
    if ((wanted >> BigInt(VERSION_1)) & 1n) throw new ScriptError('VERSION_1 is not optional, so a case cannot depend on its being offered');
    const lacking = [...Array(128).keys()].filter((bit) => ((wanted & ~offered) >> BigInt(bit)) & 1n);
    if (lacking.length > 0) throw new Unsupported(`the device does not offer ${lacking.map((bit) => featureName(this.device.type, bit)).join(', ')}`);
  }

  /** What a driver that wants these takes: they, and what the transport and the ring format ask for. */
  *choice(wanted: readonly Feature[], optional: readonly Feature[], without: readonly Feature[], force: readonly Feature[]): Script<bigint> {
    const kind = this.device.type;
    const offered = yield* this.offers();
    yield* this.need(wanted);
    let features = featureSet(kind, wanted) | (featureSet(kind, optional) & offered);
    if (!this.legacy) {
      if (this.device.ring === 'packed') {
        yield* this.need(['ring_packed']);
        features |= 1n << BigInt(RING_PACKED);
      }
      if (!((offered >> BigInt(VERSION_1)) & 1n) && !without.includes('version_1')) throw new Stuck('the device does not offer VERSION_1');
      features |= 1n << BigInt(VERSION_1);
    }
    return ((features & ~featureSet(kind, without)) | featureSet(kind, force)) & visible(this.device.transport);
  }

  // ## Queues

  *queue(plan: QueuePlan): Script<Queue> {
    const { queue: index, enable = true } = plan;
    yield* setField(this.reach, 'queue_select', BigInt(index));
    const max = Number(yield* getField(this.reach, 'queue_size'));
    if (max === 0) throw new Stuck(`queue ${index} has size 0: it is not there`);
    const fixed = this.device.transport === 'transitional';
    const size = fixed ? max : (plan.size ?? Math.min(max, 256));
    if (size !== max && !fixed) yield* setField(this.reach, 'queue_size', BigInt(size));
    else if (!this.reach.fn) yield* setField(this.reach, 'queue_size', BigInt(size)); // memory-mapped registers start with none
    const areas = yield* this.#areas(size, plan);
    const vector = yield* this.#vector(plan);
    const notifyOff = this.device.transport === 'pci' ? Number(yield* getField(this.reach, 'queue_notify_off')) : 0;
    if (this.legacy) {
      if (!this.reach.fn) {
        yield* setField(this.reach, 'guest_page_size', BigInt(PAGE));
        yield* setField(this.reach, 'queue_align', BigInt(PAGE));
      }
      if (enable) yield* setField(this.reach, 'queue_pfn', BigInt(Math.floor(areas.desc.gpa / PAGE)));
    } else {
      yield* setField(this.reach, 'queue_desc', BigInt(areas.desc.gpa));
      yield* setField(this.reach, 'queue_driver', BigInt(areas.driver.gpa));
      yield* setField(this.reach, 'queue_device', BigInt(areas.device.gpa));
      if (enable) yield* setField(this.reach, 'queue_enable', 1n);
    }
    const inOrder = this.has(IN_ORDER);
    const ring = this.packed ? new PackedRing(this.#bus, areas, size, inOrder) : new SplitRing(this.#bus, areas, size, inOrder);
    const made = { index, ring, notifyOff, vector };
    this.queues.set(index, made);
    return made;
  }

  *#areas(size: number, { queue, areas: at = {} }: QueuePlan): Script<Areas> {
    const packed = this.packed;
    const name = `${this.#prefix}q${queue}`;
    const bytes = {
      desc: size * DESC_BYTES,
      driver: packed ? 4 : 6 + 2 * size,
      device: packed ? 4 : 6 + 8 * size,
    };
    const areas: Record<keyof Areas, Block> = { desc: { gpa: 0, bytes: 0 }, driver: { gpa: 0, bytes: 0 }, device: { gpa: 0, bytes: 0 } };
    if (this.legacy) {
      // One stretch: the device computes the rest from its start.
      const usedAt = Math.ceil((bytes.desc + bytes.driver) / PAGE) * PAGE;
      const whole = at.desc === undefined ? (yield* this.#memory.take(this.#bus, null, usedAt + bytes.device, PAGE)).gpa : at.desc;
      areas.desc = { gpa: whole, bytes: bytes.desc };
      areas.driver = { gpa: whole + bytes.desc, bytes: bytes.driver };
      areas.device = { gpa: whole + usedAt, bytes: bytes.device };
    } else {
      for (const area of ['desc', 'driver', 'device'] as const) {
        const place = at[area];
        areas[area] = place === undefined ? yield* this.#memory.take(this.#bus, null, bytes[area]) : { gpa: place, bytes: bytes[area] };
      }
    }
    for (const area of ['desc', 'driver', 'device'] as const) this.#memory.name(`${name}.${area}`, areas[area]);
    return areas;
  }

  *#vector({ queue, vector }: QueuePlan): Script<number | null> {
    if (!this.messages?.enabled) return null;
    const chosen = vector ?? Math.min(queue + 1, this.messages.count - 1);
    yield* setField(this.reach, 'queue_msix_vector', BigInt(chosen));
    return chosen;
  }

  /** @throws ScriptError */
  at(index: number): Queue {
    const queue = this.queues.get(index);
    if (!queue) throw new ScriptError(`queue ${index} has not been set up`);
    return queue;
  }

  *kick(index: number, value: bigint | null, bytes: 1 | 2 | 4 | undefined): Script<void> {
    const queue = this.queues.get(index);
    const data = this.has(NOTIFICATION_DATA) && queue;
    let number = BigInt(index);
    if (this.has(NOTIF_CONFIG_DATA)) {
      yield* setField(this.reach, 'queue_select', BigInt(index));
      number = yield* getField(this.reach, 'queue_notif_config_data');
    }
    const usual = data ? number | (BigInt(data.ring.notificationData) << 16n) : number;
    yield* this.reach.kick(value ?? usual, bytes ?? (data ? 4 : undefined), queue?.notifyOff ?? 0);
  }

  /** Lets time pass until so many buffers have come back. Whether they have. */
  *waitUsed(index: number, count: number): Script<boolean> {
    const { ring } = this.at(index);
    for (let left = POLLS; ; left--) {
      yield* ring.poll();
      if (ring.used.length >= count) return true;
      if (left === 0) return false;
      yield* this.#bus.advance(POLL_NS);
    }
  }

  *want(index: number, when: 'always' | 'never' | bigint): Script<void> {
    yield* this.at(index).ring.want(when, this.has(EVENT_IDX));
  }

  // ## Notifications
  //
  // With MSI-X on, each vector is a word of memory, and the device's message is a store to it. Without, the device says why it interrupts in a register that
  // forgets when it is read, so what was read is kept until somebody asks for it.

  *notified(what: number | 'config'): Script<boolean> {
    if (this.messages?.enabled) {
      const vector = what === 'config' ? 0 : this.at(what).vector;
      return vector !== null && (yield* this.messages.take(vector));
    }
    this.#isr |= yield* this.reach.takeIsr();
    const bit = what === 'config' ? ISR.CONFIG : ISR.QUEUE;
    const was = (this.#isr & bit) !== 0;
    this.#isr &= ~bit;
    return was;
  }

  /** The reset of one queue; returns what `queue_reset` reads at the end of the wait. */
  *resetQueue(index: number): Script<bigint> {
    yield* setField(this.reach, 'queue_select', BigInt(index));
    yield* setField(this.reach, 'queue_reset', 1n);
    this.queues.delete(index);
    let value = yield* getField(this.reach, 'queue_reset');
    for (let left = POLLS; value !== 0n && left > 0; left--) {
      yield* this.#bus.advance(POLL_NS);
      value = yield* getField(this.reach, 'queue_reset');
    }
    return value;
  }
}

export const FEATURES_OK = STATUS.features_ok as number;
