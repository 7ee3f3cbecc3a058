// # The devices of this chapter, by name
//
// A type is a list of properties and a function that plugs one in. The disk is not a PCI device of its own: it goes to one of the four places of the
// chipset's IDE function.

import { E1000Function } from '../e1000/e1000.ts';
import { AtapiCdrom } from '../ide/cdrom.ts';
import type { AtaDevice } from '../ide/device.ts';
import { AtaDisk } from '../ide/disk.ts';
import { memoryWire } from '../net/link.ts';
import { ConfigError, type DeviceConfig, type DeviceType, deviceTypes, macOf, type NetdevType, slotOf, slotPlaces } from './device-types.ts';
import { echoStation } from './echo-network.ts';
import type { Mainboard } from './mainboard.ts';

const CHANNELS = ['ide.0', 'ide.1'] as const;

const idePlace = {
  drive: { kind: 'drive', text: 'what is on it', required: true },
  bus: { kind: 'string', text: 'which cable', words: CHANNELS },
  unit: { kind: 'integer', text: 'which of the two drives on it', least: 0, most: 1 },
} as const;

const idePlaces = ({ bus, unit }: DeviceConfig): readonly string[] => (bus !== undefined && unit !== undefined ? [`IDE unit ${bus}/${unit}`] : []);

/** Puts a drive at the place that was named, or at the first that is free. */
function plugDrive(pc: Mainboard, { drive, bus, unit }: DeviceConfig, make: (isDevice1: boolean) => AtaDevice): void {
  for (const [channel, name] of CHANNELS.entries()) {
    for (const place of [0, 1] as const) {
      const drives = pc.ideDrives[channel as 0 | 1];
      if (drives[place] || (bus !== undefined && bus !== name) || (unit !== undefined && unit !== place)) continue;
      drives[place] = make(place === 1);
      return;
    }
  }
  throw new ConfigError(`drive ${drive}: no place for a disk is free at the IDE controller`);
}

const ideDisk: DeviceType = {
  name: 'ide-hd',
  text: 'an ATA disk at the chipset’s IDE controller',
  properties: { ...idePlace, serial: { kind: 'string', text: 'its serial number' } },
  places: idePlaces,
  plug(pc, config) {
    const { drive, serial } = config;
    const block = pc.block(String(drive));
    plugDrive(
      pc,
      config,
      (isDevice1) =>
        new AtaDisk({
          clock: pc.timers,
          block,
          isDevice1,
          name: String(drive),
          trace: pc.trace,
          ...(serial !== undefined && { serial: String(serial) }),
        }),
    );
  },
};

const ideCdrom: DeviceType = {
  name: 'ide-cd',
  text: 'a CD-ROM drive with a disc in it, at the chipset’s IDE controller',
  properties: idePlace,
  places: idePlaces,
  plug(pc, config) {
    const { drive } = config;
    const block = pc.block(String(drive));
    plugDrive(pc, config, () => new AtapiCdrom({ clock: pc.timers, block, name: String(drive), trace: pc.trace }));
  },
};

// ## A network card
//
// What a card is plugged into is a thing of its own, since several kinds of card can be plugged into several kinds of network.

const e1000: DeviceType = {
  name: 'e1000',
  text: 'an Intel 82540EM network card',
  properties: {
    netdev: { kind: 'netdev', text: 'what it is plugged into; nothing by default' },
    mac: { kind: 'mac', text: 'its address' },
    addr: { kind: 'slot', text: 'its place on the PCI bus; the first free one by default' },
  },
  places: slotPlaces,
  plug(pc, { netdev, mac, addr }) {
    const link = pc.link(netdev === undefined ? null : String(netdev));
    const { device, fn } = addr === undefined ? { device: pc.freeSlot(), fn: 0 } : slotOf(String(addr));
    const card = new E1000Function({
      clock: pc.timers,
      link,
      mac: mac === undefined ? pc.nextMac() : macOf(String(mac)),
      trace: pc.trace,
    });
    pc.plug(card, device, fn);
  },
};

const echo: NetdevType = {
  name: 'echo',
  text: 'a station that answers and echoes',
  properties: {},
  connect({ timers }) {
    const [near, far] = memoryWire(timers);
    echoStation(far);
    return near;
  },
};

const none: NetdevType = { name: 'none', text: 'nobody', properties: {}, connect: ({ timers }) => memoryWire(timers)[0] };

for (const type of [ideDisk, ideCdrom, e1000]) deviceTypes.install(type);
for (const type of [echo, none]) deviceTypes.netdevs.install(type);
