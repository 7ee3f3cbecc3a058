// # The virtio devices of a case, on our own machine
//
// A case says what the specification says; chapter 6's devices have QEMU's names and properties. Between the two is one table.

import { MemoryBlock, SECTOR_BYTES } from '../../chapters/05-pio-mmio/block/block.ts';
import { Chardev } from '../../chapters/05-pio-mmio/machine/chardev.ts';
import type { Drive, MachineConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import type { DeviceConfig } from '../../chapters/05-pio-mmio/machine/device-types.ts';
import '../../chapters/06-virtio-rings/machine/device-types.ts';
import { patternBytes } from '../device-script/steps-data.ts';
import type { DeviceKind, Transport, WireDevice } from '../device-script/wire.ts';

const NAME: Readonly<Record<DeviceKind, string>> = {
  entropy: 'virtio-rng',
  console: 'virtio-serial',
  balloon: 'virtio-balloon',
  block: 'virtio-blk',
};
const SUFFIX: Readonly<Record<Transport, string>> = {
  pci: '-pci-non-transitional',
  transitional: '-pci-transitional',
  mmio: '-device',
  'mmio-legacy': '-device',
};

/** Properties whose names are not the feature's. A feature with no property is not the description's to choose. */
const PROPERTY: Readonly<Record<string, string | null>> = {
  ring_reset: 'queue_reset',
  access_platform: 'iommu_platform',
  write_zeroes: 'write-zeroes',
  secure_erase: 'secure-erase',
  config_wce: 'config-wce',
  emerg_write: 'emergency-write',
  must_tell_host: 'must-tell-host',
  ...Object.fromEntries(
    ['indirect_desc', 'event_idx', 'in_order', 'notification_data', 'suspend', 'notify_on_empty', 'any_layout', 'discard'].map((name) => [
      name,
      name,
    ]),
  ),
};

/** The window size that a console with the feature SIZE begins with. */
const WINDOW = { cols: 80, rows: 25 } as const;
const DEFAULT_SECTORS = 128;
/** The generator behind the entropy device starts where it always does, so that runs repeat. */
const SEED = 1;

/** What a case's devices are here: a part of a machine's description, and what it names. */
export interface CaseDevices {
  readonly config: Required<Pick<MachineConfig, 'devices' | 'drives'>> & Pick<MachineConfig, 'chardevs'>;
  /** Of each device of the case, its entry in `config.devices`. */
  readonly entries: readonly DeviceConfig[];
  readonly blocks: ReadonlyMap<string, MemoryBlock>;
  readonly chardevs: ReadonlyMap<string, Chardev>;
}

export const diskName = (index: number): string => `disk${index}`;
export const streamName = (index: number, port: number): string => `port${index}.${port}`;

/** Turns the devices of a case into devices of ours. */
export function caseDevices(devices: readonly WireDevice[]): CaseDevices {
  const blocks = new Map<string, MemoryBlock>();
  const chardevs = new Map<string, Chardev>();
  const drives: Drive[] = [];
  const entries: DeviceConfig[] = [];
  const all: DeviceConfig[] = [];
  for (const [index, device] of devices.entries()) {
    const entry = deviceConfig(device, index);
    entries.push(entry);
    all.push(entry);
    if (device.type === 'block') {
      const id = diskName(index);
      const bytes = (device.sectors ?? DEFAULT_SECTORS) * SECTOR_BYTES;
      const content = device.content === 'zero' ? new Uint8Array(bytes) : patternBytes(0, bytes);
      const { lifetime } = device;
      const block = new MemoryBlock(content.slice(), { readOnly: device.readonly ?? false });
      blocks.set(id, lifetime ? Object.assign(block, { lifetime: () => lifetime }) : block);
      drives.push({ id, file: 'in memory', ...(device.readonly && { readonly: true }) });
    }
    if (device.type === 'console') {
      for (let port = 0; port < (device.ports ?? 1); port++) {
        const chardev = streamName(index, port);
        chardevs.set(chardev, new Chardev({ hasInput: true }));
        all.push({ type: port === 0 ? 'virtconsole' : 'virtserialport', bus: `case${index}.0`, nr: port, name: `port${port}`, chardev });
      }
    }
  }
  return {
    config: { devices: all, drives, chardevs: [...chardevs.keys()].map((id) => ({ id, stream: 'null' as const })) },
    entries,
    blocks,
    chardevs,
  };
}

function deviceConfig(device: WireDevice, index: number): DeviceConfig {
  const { type, transport, ring, features = {}, vectors, queueSize } = device;
  const pci = transport === 'pci' || transport === 'transitional';
  const asked = Object.entries(features).flatMap(([name, on]) => {
    const property = PROPERTY[name];
    return property ? [[property, on] as const] : [];
  });
  return {
    type: NAME[type] + SUFFIX[transport],
    id: `case${index}`,
    packed: ring === 'packed',
    ...Object.fromEntries(asked),
    ...(transport === 'mmio-legacy' && { 'force-legacy': true }),
    ...(pci && vectors !== undefined && { vectors }),
    ...(queueSize !== undefined && type !== 'balloon' && { 'queue-size': queueSize }),
    ...OF_KIND[type](device, index),
  };
}

type Properties = Readonly<Record<string, string | number | boolean>>;

/** Only what is said: the rest is the model's default. */
const said = (values: Readonly<Record<string, string | number | boolean | undefined>>): Properties =>
  Object.fromEntries(Object.entries(values).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));

const OF_KIND: Readonly<Record<DeviceKind, (device: WireDevice, index: number) => Properties>> = {
  entropy: () => ({ seed: SEED }),
  console: ({ multiport = true, features = {} }) => ({ ...(!multiport && { max_ports: 1 }), ...(features.size !== false && WINDOW) }),
  balloon: ({ stats, reporting, hinting, poison, deflateOnOom }) =>
    said({
      'guest-stats': stats,
      'free-page-reporting': reporting,
      'free-page-hint': hinting,
      'page-poison': poison,
      'deflate-on-oom': deflateOnOom,
    }),
  block: (
    { readonly, serial, queues, zoned, zoneSectors, maxOpenZones, maxActiveZones, conventionalZones, zoneCapacity, maxAppendSectors, sizeMax },
    index,
  ) => ({
    drive: diskName(index),
    ...said({
      readonly,
      serial,
      'num-queues': queues,
      zoned,
      'zone-sectors': zoneSectors,
      'max-open-zones': maxOpenZones,
      'max-active-zones': maxActiveZones,
      'conventional-zones': conventionalZones,
      'zone-capacity': zoneCapacity,
      'max-append-sectors': maxAppendSectors,
      'size-max': sizeMax,
    }),
  }),
};
