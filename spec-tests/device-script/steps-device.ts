// # Steps: registers, negotiation, interrupts

import { BadResult, type Script, Stuck, Unsupported } from './bus.ts';
import { type Driver, FEATURES_OK, type QueuePlan } from './driver.ts';
import { configField, featureSet, NOTIFICATION_DATA, STATUS, statusBits } from './features.ts';
import type { Play } from './interpret.ts';
import { CAP_FIELDS, type Capability } from './pci.ts';
import { getField, setField, type Window } from './reach.ts';
import { type QueueSetup, ScriptError, type Stage, type StepOf } from './steps.ts';
import type { AccessBytes, LineChange } from './wire.ts';

const STAGES: readonly Stage[] = ['reset', 'acknowledge', 'driver', 'features', 'features_ok', 'queues', 'driver_ok'];
/** Lines of a PC's timers: they belong to no device of a case. */
const TIMER_LINES: ReadonlySet<number> = new Set([0, 2, 8]);

export const queuePlan = (play: Play, setup: QueueSetup): QueuePlan => {
  const { queue, size, vector, areas = {}, enable } = setup;
  const { desc, driver, device } = areas;
  return {
    queue,
    ...(size !== undefined && { size: play.number(size) }),
    ...(vector !== undefined && { vector: play.number(vector) }),
    ...(enable !== undefined && { enable }),
    areas: {
      ...(desc !== undefined && { desc: play.number(desc) }),
      ...(driver !== undefined && { driver: play.number(driver) }),
      ...(device !== undefined && { device: play.number(device) }),
    },
  };
};

// ## Initialization, in the order in which the specification has it

function* init(play: Play, step: StepOf<'init'>): Script<void> {
  const driver = yield* play.driver(step);
  const { features = [], optional = [], without = [], force = [], queues = [], msix = false, until = 'driver_ok', as } = step;
  const last = STAGES.indexOf(until);
  const reaches = (stage: Stage): boolean => STAGES.indexOf(stage) <= last;

  const after = yield* driver.reset();
  if (after !== 0) throw new Stuck(`after a reset the status stays 0x${after.toString(16)}`);
  if (reaches('acknowledge')) yield* driver.setStatus(STATUS.acknowledge as number);
  if (reaches('driver')) yield* driver.addStatus(STATUS.driver as number);
  if (reaches('features')) {
    yield* driver.accept(yield* driver.choice(features, optional, without, force));
    if (reaches('features_ok') && !driver.legacy && ((yield* driver.addStatus(FEATURES_OK)) & FEATURES_OK) === 0)
      throw new Stuck(`the device did not keep FEATURES_OK for 0x${driver.accepted.toString(16)}`);
  }
  if (reaches('queues')) {
    if (msix) yield* enableMessages(driver);
    for (const queue of queues) yield* driver.queue(queuePlan(play, typeof queue === 'number' ? { queue } : queue));
  }
  if (reaches('driver_ok')) yield* driver.addStatus(STATUS.driver_ok as number);
  if (as !== undefined) play.observe(as, yield* driver.status());
}

function* enableMessages(driver: Driver): Script<void> {
  if (!driver.messages) throw new Stuck('the device has no MSI-X capability');
  yield* driver.messages.enable();
  yield* setField(driver.reach, 'config_msix_vector', 0n);
}

// ## Registers

/** Reads or writes a register, as the step says. */
function* access(
  play: Play,
  step: { readonly as?: string; readonly keep?: string; readonly write?: StepOf<'config'>['write'] },
  window: Window,
  offset: number,
  bytes: AccessBytes,
): Script<void> {
  if (step.write !== undefined) yield* window.write(offset, bytes, play.value(step.write));
  if (step.as !== undefined || step.keep !== undefined) play.seen(step, yield* window.read(offset, bytes));
}

/** Whether the place at which each queue is notified lies within the structure whose capability is here, in the width that was agreed on. */
function* notifyCovers(driver: Driver, at: number): Script<boolean> {
  const { reach } = driver;
  const { config } = reach.fn as NonNullable<typeof reach.fn>;
  const length = yield* config.read(at + 12, 4);
  const multiplier = yield* config.read(at + 16, 4);
  const width = driver.has(NOTIFICATION_DATA) ? 4 : 2;
  const queues = Number(yield* getField(reach, 'num_queues'));
  for (let queue = 0; queue < queues; queue++) {
    yield* setField(reach, 'queue_select', BigInt(queue));
    const off = Number(yield* getField(reach, 'queue_notify_off'));
    if (off * multiplier + width > length) return false;
  }
  return true;
}

function* config(play: Play, step: StepOf<'config'>): Script<void> {
  const driver = yield* play.driver(step);
  const place = step.field === undefined ? null : configField(driver.device.type, step.field);
  const bytes = step.bytes ?? place?.[1];
  if (bytes === undefined) throw new ScriptError("'config' says which field, or how many bytes");
  const { window, offset } = driver.reach.config(driver.messages?.enabled ?? false);
  const at = offset + (place?.[0] ?? 0) + play.number(step.offset ?? 0);
  if (bytes !== 8) {
    yield* access(play, step, window, at, bytes);
    return;
  }
  // The specification lets nobody assume that eight bytes are read at once.
  if (step.write !== undefined) {
    const value = play.value(step.write);
    yield* window.write(at, 4, value & 0xffff_ffffn);
    yield* window.write(at + 4, 4, value >> 32n);
  }
  if (step.as !== undefined || step.keep !== undefined) {
    const low = yield* window.read(at, 4);
    play.seen(step, low | ((yield* window.read(at + 4, 4)) << 32n));
  }
}

function capabilityOf(driver: Driver, name: string, nth = 0): Capability {
  const { fn } = driver.reach;
  if (!fn) throw new ScriptError('memory-mapped registers have no capabilities');
  const capability = fn.capabilities.filter((each) => each.name === name)[nth];
  if (!capability) throw new Stuck(`the function has no ${name} capability${nth > 0 ? ` number ${nth}` : ''}`);
  return capability;
}

function* selectQueue(play: Play, driver: Driver, queue: StepOf<'get'>['queue']): Script<void> {
  if (queue !== undefined) yield* setField(driver.reach, 'queue_select', play.value(queue));
}

function* lines(play: Play, step: StepOf<'lines'>): Script<void> {
  const { lines: changes } = yield* play.bus.ask({ do: 'lines' });
  if (!changes) throw new BadResult("'lines' returned no lines");
  let rises = 0;
  for (const { gsi, level } of changes as readonly LineChange[]) {
    if (TIMER_LINES.has(gsi)) continue;
    if (level && !play.lines.get(gsi)) rises++;
    play.lines.set(gsi, level);
  }
  play.observe(step.as, [...play.lines.values()].filter((level) => level).length);
  play.observe(`${step.as}.rises`, rises);
}

export const DEVICE_STEPS = {
  *find(play: Play, step: StepOf<'find'>): Script<void> {
    try {
      yield* play.driver(step);
    } catch (error) {
      if (!(error instanceof Stuck) || step.as === undefined) throw error;
      play.observe(step.as, 0);
      return;
    }
    if (step.as !== undefined) play.observe(step.as, 1);
  },
  init,
  *status(play: Play, step: StepOf<'status'>): Script<void> {
    const driver = yield* play.driver(step);
    const { set, add } = step;
    if (set !== undefined) yield* driver.setStatus(Array.isArray(set) ? statusBits(set) : play.number(set as StepOf<'set'>['value']));
    if (add !== undefined) yield* driver.setStatus((yield* driver.status()) | statusBits(add));
    if (step.as !== undefined || step.keep !== undefined) play.seen(step, yield* driver.status());
  },
  *reset(play: Play, step: StepOf<'reset'>): Script<void> {
    const status = yield* (yield* play.driver(step)).reset();
    if (step.as !== undefined) play.observe(step.as, status);
    else if (status !== 0) throw new Stuck(`after a reset the status stays 0x${status.toString(16)}`);
  },
  *features(play: Play, step: StepOf<'features'>): Script<void> {
    const driver = yield* play.driver(step);
    const { accept, window } = step;
    if (accept !== undefined) {
      const isList = Array.isArray(accept);
      yield* driver.accept(isList ? featureSet(driver.device.type, accept) : play.value(accept as StepOf<'set'>['value']));
    }
    if (step.as === undefined && step.keep === undefined) return;
    play.seen(step, window === undefined ? yield* driver.offers() : yield* driver.window(BigInt(window)));
  },
  *require(play: Play, step: StepOf<'require'>): Script<void> {
    const driver = yield* play.driver(step);
    yield* driver.need(step.features ?? []);
    const { capability } = step;
    if (capability !== undefined && !driver.reach.fn?.capabilities.some(({ name }) => name === capability))
      throw new Unsupported(`the function has no ${capability} capability`);
  },
  *get(play: Play, step: StepOf<'get'>): Script<void> {
    const driver = yield* play.driver(step);
    yield* selectQueue(play, driver, step.queue);
    play.seen(step, yield* getField(driver.reach, step.field, step.bytes));
  },
  *set(play: Play, step: StepOf<'set'>): Script<void> {
    const driver = yield* play.driver(step);
    yield* selectQueue(play, driver, step.queue);
    yield* setField(driver.reach, step.field, play.value(step.value), step.bytes);
  },
  config,
  *pci(play: Play, step: StepOf<'pci'>): Script<void> {
    const driver = yield* play.driver(step);
    const { fn } = driver.reach;
    if (!fn) throw new ScriptError('memory-mapped registers have no PCI configuration space');
    const base = step.cap === undefined ? 0 : capabilityOf(driver, step.cap, step.nth).at;
    const at = base + play.number(step.offset);
    if (step.write !== undefined) yield* fn.config.write(at, step.bytes, play.value(step.write));
    if (step.as !== undefined || step.keep !== undefined) play.seen(step, yield* fn.config.read(at, step.bytes));
  },
  *cap(play: Play, step: StepOf<'cap'>): Script<void> {
    const driver = yield* play.driver(step);
    if (step.field === 'count') {
      play.seen(step, driver.reach.fn?.capabilities.filter(({ name }) => name === step.cap).length ?? 0);
      return;
    }
    const { at } = capabilityOf(driver, step.cap, step.nth);
    if (step.field === 'covers') {
      play.seen(step, (yield* notifyCovers(driver, at)) ? 1 : 0);
      return;
    }
    const place = CAP_FIELDS[step.field];
    if (!place) throw new ScriptError(`a capability has no field '${step.field}'`);
    play.seen(step, yield* (driver.reach.fn as NonNullable<typeof driver.reach.fn>).config.read(at + place[0], place[1]));
  },
  *register(play: Play, step: StepOf<'register'>): Script<void> {
    const driver = yield* play.driver(step);
    yield* access(play, step, driver.reach.window(step.structure), play.number(step.offset), step.bytes);
  },
  *isr(play: Play, step: StepOf<'isr'>): Script<void> {
    const { reach } = yield* play.driver(step);
    const mmio = reach.fn === null;
    play.observe(step.as, mmio ? yield* getField(reach, 'interrupt_status') : BigInt(yield* reach.takeIsr()));
    if (mmio && step.ack !== undefined) yield* setField(reach, 'interrupt_ack', play.value(step.ack));
  },
  *notified(play: Play, step: StepOf<'notified'>): Script<void> {
    const driver = yield* play.driver(step);
    play.seen(step, (yield* driver.notified(step.config ? 'config' : (step.queue ?? 0))) ? 1 : 0);
  },
  *msix(play: Play, step: StepOf<'msix'>): Script<void> {
    const driver = yield* play.driver(step);
    const { messages } = driver;
    if (!messages) throw new Stuck('the device has no MSI-X capability');
    if (step.enable === true) yield* messages.enable();
    if (step.enable === false) yield* messages.disable();
    for (const vector of step.mask ?? []) yield* messages.mask(vector, true);
    for (const vector of step.unmask ?? []) yield* messages.mask(vector, false);
  },
  *message(play: Play, step: StepOf<'message'>): Script<void> {
    const { messages } = yield* play.driver(step);
    if (!messages?.enabled) throw new ScriptError('MSI-X is not on');
    play.observe(step.as, (yield* messages.take(Number(step.vector))) ? 1 : 0);
  },
  lines,
};
