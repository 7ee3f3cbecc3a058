// # The devices of this chapter
//
// What each type of device needs besides its properties: an entropy device a source, a console something that reads and writes, a disk a drive, a
// balloon the memory that it takes from.

import { Errno } from '../../02-kvm-objects/errno.ts';
import { ConfigError, type DeviceConfig, type DeviceType, deviceTypes } from '../../05-pio-mmio/machine/device-types.ts';
import type { Mainboard } from '../../05-pio-mmio/machine/mainboard.ts';
import { BalloonModel } from '../devices/balloon.ts';
import { BLOCK_DEFAULTS, BlockModel } from '../devices/block.ts';
import { CONSOLE_DEFAULTS, CONSOLE_PORTS_LIMIT, ConsoleModel } from '../devices/console.ts';
import { EntropyModel } from '../devices/entropy.ts';
import { DEVICE_ID } from '../features.ts';
import { installVirtio, type VirtioType, virtioDevices } from './virtio-types.ts';

const CLASS = { OTHER: 0x00_ff_00, COMMUNICATION_OTHER: 0x07_80_00, SCSI: 0x01_00_00 } as const;
const MAX_QUEUE_SIZE = 1024;

type Values = Readonly<Record<string, string | number | boolean>>;

/** What is said, by the model's own names; what is not said is left to the model. */
function said(config: DeviceConfig, names: Readonly<Record<string, string>>): Values {
  return Object.fromEntries(
    Object.entries(names).flatMap(([property, option]) => (config[property] === undefined ? [] : [[option, config[property]]])),
  );
}

/** Makes a model. @throws ConfigError for properties that contradict each other */
function made<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw error instanceof Errno || error instanceof RangeError ? new ConfigError(error.message) : error;
  }
}

/** A size of a queue that both ring formats can have. */
const queueSize = (text: string): DeviceType['properties'][string] => ({ kind: 'integer', text, least: 2, most: MAX_QUEUE_SIZE });

function checkedQueueSize(config: DeviceConfig): void {
  const size = Number(config['queue-size'] ?? 2);
  if ((size & (size - 1)) !== 0) throw new ConfigError(`${config.type}: queue-size is a power of two, not ${size}`);
}

const rng: VirtioType = {
  name: 'virtio-rng',
  text: 'a source of random bytes',
  deviceId: DEVICE_ID.ENTROPY,
  classCode: CLASS.OTHER,
  properties: {
    'max-bytes': { kind: 'integer', text: 'as many bytes in a period at most' },
    period: { kind: 'integer', text: 'the period, in milliseconds', least: 1 },
    seed: { kind: 'integer', text: 'where the generator begins, so that a run can be repeated', most: 0xffff_ffff },
    'queue-size': queueSize('length of the queue; 8 by default'),
  },
  vectors: () => 2,
  model(pc, config) {
    checkedQueueSize(config);
    const options = said(config, { 'max-bytes': 'maxBytes', period: 'periodMs', seed: 'seed', 'queue-size': 'queueSize' });
    return made(() => new EntropyModel({ clock: pc.timers, ...options }));
  },
};

// ## A console and its ports
//
// The device is a hub. What leads somewhere are its ports, which are devices of their own in the description, on its bus: `virtconsole` for people,
// `virtserialport` for programs.

const serial: VirtioType = {
  name: 'virtio-serial',
  text: 'a hub for consoles and ports; they are devices of their own',
  deviceId: DEVICE_ID.CONSOLE,
  classCode: CLASS.COMMUNICATION_OTHER,
  properties: {
    max_ports: { kind: 'integer', text: `how many ports there can be; ${CONSOLE_DEFAULTS.maxPorts} by default`, least: 1, most: CONSOLE_PORTS_LIMIT },
    'emergency-write': { kind: 'boolean', text: 'a register that writes to the console at once; on by default' },
    'queue-size': queueSize(`length of a port’s queues; ${CONSOLE_DEFAULTS.queueSize} by default`),
    cols: { kind: 'integer', text: 'width of the console', least: 1, most: 0xffff },
    rows: { kind: 'integer', text: 'its height', least: 1, most: 0xffff },
  },
  vectors: () => 2,
  model(pc, config) {
    checkedQueueSize(config);
    const { cols, rows } = config;
    const options = said(config, { max_ports: 'maxPorts', 'emergency-write': 'emergencyWrite', 'queue-size': 'queueSize' });
    const size = cols === undefined && rows === undefined ? {} : { size: { cols: Number(cols ?? 80), rows: Number(rows ?? 25) } };
    return made(() => new ConsoleModel({ clock: pc.timers, ports: [], ...options, ...size }));
  },
};

/** The hub that a port is plugged into: the one that is named, or the first. @throws ConfigError */
function hubOf(pc: Mainboard, { type, bus }: DeviceConfig): ConsoleModel {
  for (const [config, { model }] of virtioDevices(pc)) {
    if (!(model instanceof ConsoleModel)) continue;
    if (bus === undefined || bus === `${config.id}.0` || bus === config.id) return model;
  }
  throw new ConfigError(bus === undefined ? `${type} needs a virtio-serial device before it` : `${type}: no virtio-serial device is called ${bus}`);
}

const portType = (name: string, text: string, isConsole: boolean): DeviceType => ({
  name,
  text,
  properties: {
    id: { kind: 'string', text: 'how others call it' },
    bus: { kind: 'string', text: 'which hub, as in hub0.0; the first by default' },
    nr: { kind: 'integer', text: 'number of the port; the lowest free one by default', most: CONSOLE_PORTS_LIMIT },
    name: { kind: 'string', text: 'by which programs find it' },
    chardev: { kind: 'chardev', text: 'where it leads; nowhere by default' },
  },
  plug(pc, config) {
    const hub = hubOf(pc, config);
    const chardev = config.chardev === undefined ? null : pc.chardev(String(config.chardev));
    const options = said(config, { nr: 'id', name: 'name' });
    const port = made(() => hub.plug({ console: isConsole, ...options, ...(chardev && { open: true }) }));
    if (!chardev) return;
    port.onOutput = (bytes) => {
      chardev.write(bytes);
      return bytes.length;
    };
    chardev.take = (bytes) => port.send(bytes);
    port.onRoom = () => chardev.ready();
  },
});

// ## A balloon

const balloon: VirtioType = {
  name: 'virtio-balloon',
  text: 'gives memory back to the host',
  deviceId: DEVICE_ID.BALLOON,
  classCode: CLASS.OTHER,
  properties: {
    'deflate-on-oom': { kind: 'boolean', text: 'the guest may take pages back when it has none; off by default' },
    'free-page-reporting': { kind: 'boolean', text: 'the guest says which pages it does not use; off by default' },
    'free-page-hint': { kind: 'boolean', text: 'the guest says which pages need not be copied; off by default' },
    'page-poison': { kind: 'boolean', text: 'the guest says what it fills free pages with; on by default' },
    'guest-stats': { kind: 'boolean', text: 'a queue for statistics; on by default' },
    'must-tell-host': { kind: 'boolean', text: 'the guest asks before it uses a page again; off by default' },
  },
  vectors: () => 0,
  model(pc, config) {
    const options = said(config, {
      'deflate-on-oom': 'deflateOnOom',
      'free-page-reporting': 'reporting',
      'free-page-hint': 'hinting',
      'page-poison': 'poison',
      'guest-stats': 'stats',
      'must-tell-host': 'mustTellHost',
    });
    return made(() => new BalloonModel({ ramBytes: pc.memory.ramBytes, clock: pc.timers, ...options }));
  },
};

// ## A disk

const BLOCK_SIZE = { kind: 'integer', least: 512, most: 2 << 20 } as const;
const IO_SIZE = { kind: 'integer', most: 2 ** 31 } as const;

const blk: VirtioType = {
  name: 'virtio-blk',
  text: 'a disk',
  deviceId: DEVICE_ID.BLOCK,
  classCode: CLASS.SCSI,
  properties: {
    drive: { kind: 'drive', text: 'what is on it', required: true },
    serial: { kind: 'string', text: 'its serial number' },
    'num-queues': { kind: 'integer', text: 'queues; as many as processors by default', least: 1, most: 1024 },
    'queue-size': queueSize(`length of each; ${BLOCK_DEFAULTS.queueSize} by default`),
    'seg-max': { kind: 'integer', text: 'segments of a request; so many that one fills a queue by default', least: 1, most: MAX_QUEUE_SIZE - 2 },
    'config-wce': { kind: 'boolean', text: 'the driver may switch the write cache; on by default' },
    'write-cache': { kind: 'boolean', text: 'whether it is on; on by default' },
    discard: { kind: 'boolean', text: 'sectors can be given up; on by default' },
    'write-zeroes': { kind: 'boolean', text: 'sectors can be zeroed; on by default' },
    'secure-erase': { kind: 'boolean', text: 'sectors can be erased for good; off by default' },
    'max-discard-sectors': { kind: 'integer', text: 'in one range', least: 1, most: 0xffff_ffff },
    'max-write-zeroes-sectors': { kind: 'integer', text: 'in one range', least: 1, most: 0xffff_ffff },
    logical_block_size: { ...BLOCK_SIZE, text: 'smallest unit that is read or written' },
    physical_block_size: { ...BLOCK_SIZE, text: 'unit of the medium' },
    min_io_size: { ...IO_SIZE, text: 'smallest request that is fast' },
    opt_io_size: { ...IO_SIZE, text: 'best size of a request' },
    readonly: { kind: 'boolean', text: 'even when the drive could be written' },
    zoned: { kind: 'string', text: 'writes in order, zone by zone', words: ['none', 'host-aware', 'host-managed'] },
    'zone-sectors': { kind: 'integer', text: 'size of a zone', least: 1, most: 0xffff_ffff },
    'zone-capacity': { kind: 'integer', text: 'sectors of a zone that can be written', least: 1, most: 0xffff_ffff },
    'conventional-zones': { kind: 'integer', text: 'zones that are written in any order', most: 0xffff_ffff },
    'max-open-zones': { kind: 'integer', text: '0: any number', most: 0xffff_ffff },
    'max-active-zones': { kind: 'integer', text: '0: any number', most: 0xffff_ffff },
    'size-max': { kind: 'integer', text: 'largest piece of a request, in bytes', least: 1, most: 0xffff_ffff },
    'max-append-sectors': { kind: 'integer', text: 'largest append; 0: none', most: 0xffff_ffff },
  },
  vectors: ({ queueSizes }) => queueSizes.length + 1,
  model(pc, config) {
    checkedQueueSize(config);
    const options = said(config, {
      serial: 'serial',
      'queue-size': 'queueSize',
      'seg-max': 'segMax',
      'size-max': 'sizeMax',
      'config-wce': 'configWce',
      'write-cache': 'writeCache',
      discard: 'discard',
      'write-zeroes': 'writeZeroes',
      'secure-erase': 'secureErase',
      'max-discard-sectors': 'maxDiscardSectors',
      'max-write-zeroes-sectors': 'maxWriteZeroesSectors',
      logical_block_size: 'logicalBlockSize',
      physical_block_size: 'physicalBlockSize',
      min_io_size: 'minIoSize',
      opt_io_size: 'optIoSize',
      readonly: 'readOnly',
    });
    const zones = said(config, {
      'zone-sectors': 'zoneSectors',
      'zone-capacity': 'zoneCapacity',
      'conventional-zones': 'conventional',
      'max-open-zones': 'maxOpen',
      'max-active-zones': 'maxActive',
      'max-append-sectors': 'maxAppendSectors',
    });
    const zoned = config.zoned === undefined ? {} : { zoned: { model: config.zoned as 'none' | 'host-aware' | 'host-managed', ...zones } };
    const numQueues = Number(config['num-queues'] ?? pc.config.cpus);
    return made(() => new BlockModel({ drive: pc.block(String(config.drive)), clock: pc.timers, numQueues, ...options, ...zoned }));
  },
};

for (const type of [rng, serial, balloon, blk]) installVirtio(deviceTypes, type);
deviceTypes.install(portType('virtconsole', 'a console of a virtio-serial device', true));
deviceTypes.install(portType('virtserialport', 'a port of a virtio-serial device', false));
