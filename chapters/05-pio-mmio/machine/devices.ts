// # The devices of this chapter, by name
//
// A type is a list of properties and a function that plugs one in. The disk is not a PCI device of its own: it goes to one of the four places of the
// chipset's IDE function.

import { AtaDisk } from '../ide/disk.ts';
import { ConfigError, type DeviceType, deviceTypes } from './device-types.ts';

const CHANNELS = ['ide.0', 'ide.1'] as const;

const ideDisk: DeviceType = {
  name: 'ide-hd',
  text: 'an ATA disk at the chipset’s IDE controller',
  properties: {
    drive: { kind: 'drive', text: 'what is on it', required: true },
    bus: { kind: 'string', text: 'which cable', words: CHANNELS },
    unit: { kind: 'integer', text: 'which of the two drives on it', least: 0, most: 1 },
    serial: { kind: 'string', text: 'its serial number' },
  },
  places: ({ bus, unit }) => (bus !== undefined && unit !== undefined ? [`IDE unit ${bus}/${unit}`] : []),
  plug(pc, { drive, bus, unit, serial }) {
    for (const [channel, name] of CHANNELS.entries()) {
      for (const place of [0, 1] as const) {
        const drives = pc.ideDrives[channel as 0 | 1];
        if (drives[place] || (bus !== undefined && bus !== name) || (unit !== undefined && unit !== place)) continue;
        drives[place] = new AtaDisk({
          clock: pc.timers,
          block: pc.block(String(drive)),
          isDevice1: place === 1,
          name: String(drive),
          trace: pc.trace,
          ...(serial !== undefined && { serial: String(serial) }),
        });
        return;
      }
    }
    throw new ConfigError(`drive ${drive}: no place for a disk is free at the IDE controller`);
  },
};

deviceTypes.install(ideDisk);
