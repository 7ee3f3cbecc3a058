// # The devices of this chapter
//
// What each type of device needs besides its properties: an entropy device a source, a console something that reads and writes, a disk a drive.

import { deviceTypes } from '../../05-pio-mmio/machine/device-types.ts';
import { EntropyModel } from '../devices/entropy.ts';
import { DEVICE_ID } from '../features.ts';
import { installVirtio, type VirtioType } from './virtio-types.ts';

const CLASS = { OTHER: 0x00_ff_00, COMMUNICATION_OTHER: 0x07_80_00, SCSI: 0x01_00_00 } as const;

const rng: VirtioType = {
  name: 'virtio-rng',
  text: 'a source of random bytes',
  deviceId: DEVICE_ID.ENTROPY,
  classCode: CLASS.OTHER,
  properties: {
    'max-bytes': { kind: 'integer', text: 'as many bytes in a period at most' },
    period: { kind: 'integer', text: 'the period, in milliseconds', least: 1 },
    seed: { kind: 'integer', text: 'where the generator begins, so that a run can be repeated' },
  },
  vectors: () => 2,
  model: (pc, config) =>
    new EntropyModel({
      clock: pc.timers,
      ...(config['max-bytes'] !== undefined && { maxBytes: Number(config['max-bytes']) }),
      ...(config.period !== undefined && { periodMs: Number(config.period) }),
      ...(config.seed !== undefined && { seed: Number(config.seed) }),
    }),
};

for (const type of [rng]) installVirtio(deviceTypes, type);
