// # Virtio devices by QEMU's names
//
// A case says what it wants of a device in the specification's words. This is where they become `-device` and its properties: the part of QEMU's
// command line that Ringbook understands too. A property that this version of QEMU does not have is left out, so the device does not offer the
// feature, which is what a case without it is prepared for.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type DeviceKind, isLegacy, type WireDevice } from '../device-script/wire.ts';

const SECTOR_BYTES = 512;
export const DEFAULT_SECTORS = 2048;
/** Word i of a patterned disk is i times this, modulo 2^32. */
const PATTERN = 2_654_435_761;

/** What a machine is built on: the bus is part of that. */
export type QemuMachine = 'pc' | 'q35' | 'microvm';

const NAMES: Readonly<Record<DeviceKind, string>> = {
  entropy: 'virtio-rng',
  console: 'virtio-serial',
  balloon: 'virtio-balloon',
  block: 'virtio-blk',
};

/** The specification's names of features where QEMU's properties are called something else than the same with dashes. */
const PROPERTIES: Readonly<Record<string, string>> = { access_platform: 'iommu_platform', ring_packed: 'packed', ring_reset: 'queue_reset' };

/** PCI slots from here on, in the order of the case. */
const FIRST_SLOT = 2;

export const isMmio = ({ transport }: WireDevice): boolean => transport === 'mmio' || transport === 'mmio-legacy';

/** QEMU's type of a device. */
export const typeName = (device: WireDevice): string => `${NAMES[device.type]}-${isMmio(device) ? 'device' : 'pci'}`;

/** A path inside an option of QEMU's, where a comma separates. */
export const quote = (path: string): string => path.replaceAll(',', ',,');

/** The machine that has a place for all of the devices; a sentence when there is none. */
export function machineFor(devices: readonly WireDevice[]): QemuMachine | { readonly none: string } {
  const transports = new Set(devices.map(({ transport }) => transport));
  if (!devices.some(isMmio)) return 'q35';
  if (!devices.every(isMmio)) return { none: 'QEMU has no PC with virtio devices on PCI and in windows of memory' };
  if (transports.size > 1) return { none: 'QEMU switches between versions 1 and 2 of the MMIO transport for all devices at once' };
  return 'microvm';
}

/** Where a device's host end is. */
export interface HostEnds {
  /** Of a block device: the file of the disk, and the drive's name. */
  readonly disk?: { readonly file: string; readonly drive: string; readonly sectors: number };
  /** Of a console: a socket for each port. */
  readonly ports?: readonly { readonly socket: string; readonly chardev: string }[];
}

export interface QemuDevices {
  readonly options: readonly string[];
  /** In the order of the case. */
  readonly ends: readonly HostEnds[];
}

/** A disk's file, with the content that the case asks for. */
function writeDisk(file: string, { sectors = DEFAULT_SECTORS, content = 'zero' }: WireDevice): number {
  const bytes = new Uint8Array(sectors * SECTOR_BYTES);
  if (content === 'pattern') {
    const view = new DataView(bytes.buffer);
    for (let word = 0; word < bytes.length / 4; word++) view.setUint32(4 * word, Math.imul(word, PATTERN) >>> 0, true);
  }
  writeFileSync(file, bytes);
  return sectors;
}

export interface Place {
  /** Where files and sockets go. */
  readonly folder: string;
  /** The properties that QEMU's devices have, by the device's name; null: all that are asked for. */
  readonly properties: ((type: string) => ReadonlySet<string>) | null;
}

/** The options for a case's devices, and the files that they name. */
export function qemuDevices(devices: readonly WireDevice[], { folder, properties }: Place): QemuDevices {
  const options: string[] = [];
  if (devices.some(isMmio))
    options.push('-global', `virtio-mmio.force-legacy=${devices.some(({ transport }) => isLegacy(transport)) ? 'on' : 'off'}`);
  const ends = devices.map((device, index): HostEnds => {
    const type = typeName(device);
    const known = properties?.(type) ?? null;
    const id = `dev${index}`;
    const text: string[] = [type, `id=${id}`];
    /** A property, if QEMU has it. */
    const set = (name: string, value: boolean | number | string | undefined): void => {
      if (value === undefined || (known && !known.has(name))) return;
      text.push(`${name}=${typeof value === 'boolean' ? (value ? 'on' : 'off') : value}`);
    };
    if (isMmio(device)) {
      text.push(`bus=virtio-mmio-bus.${index}`);
    } else {
      text.push(`addr=${(FIRST_SLOT + index).toString(16)}`);
      set('disable-legacy', device.transport === 'pci');
      set('disable-modern', false);
      set('ioeventfd', false); // a kick is then done when its store is
      set('vectors', device.vectors);
    }
    set('packed', device.ring === 'packed' || undefined);
    for (const [feature, wanted] of Object.entries(device.features ?? {})) {
      const name = PROPERTIES[feature] ?? feature;
      set(known?.has(name) === false ? name.replaceAll('_', '-') : name, wanted);
    }
    switch (device.type) {
      case 'entropy':
        break;
      case 'console': {
        if (device.multiport === false) text.push('max_ports=1');
        const ports = Array.from({ length: device.ports ?? 1 }, (_, port) => ({ socket: join(folder, `${id}p${port}`), chardev: `${id}p${port}` }));
        for (const { socket, chardev } of ports) options.push('-chardev', `socket,id=${chardev},path=${quote(socket)},server=on,wait=off`);
        options.push('-device', text.join(','));
        for (const [port, { chardev }] of ports.entries())
          options.push('-device', `${port === 0 ? 'virtconsole' : 'virtserialport'},bus=${id}.0,nr=${port},chardev=${chardev},id=${chardev}port`);
        return { ports };
      }
      case 'balloon':
        set('deflate-on-oom', device.deflateOnOom);
        set('free-page-reporting', device.reporting);
        set('page-poison', device.poison);
        if (device.hinting) {
          options.push('-object', `iothread,id=${id}thread`);
          set('free-page-hint', true);
          set('iothread', `${id}thread`);
        }
        break;
      case 'block': {
        const file = join(folder, `${id}disk`);
        const sectors = writeDisk(file, device);
        options.push('-drive', `file=${quote(file)},format=raw,if=none,id=${id}disk,readonly=${device.readonly ? 'on' : 'off'}`);
        text.push(`drive=${id}disk`);
        set('serial', device.serial);
        set('queue-size', device.queueSize);
        set('num-queues', device.queues);
        options.push('-device', text.join(','));
        return { disk: { file, drive: `${id}disk`, sectors } };
      }
    }
    options.push('-device', text.join(','));
    return {};
  });
  return { options, ends };
}
