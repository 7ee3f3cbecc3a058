import { describe, expect, it } from 'vitest';
import { deviceNeeds, fileOf, instancesOf } from './instances.ts';
import type { Case } from './types.ts';

const CASE: Case = {
  id: '06-test/one',
  title: 'A case for several transports',
  chapter: '06-test',
  clauses: ['test.one'],
  strictness: 'must',
  legalDriver: true,
  surface: 'device',
  needs: [],
  devices: [{ type: 'entropy' }, { type: 'block', transport: 'pci', ring: 'split' }],
  device: { script: [{ do: 'status', as: 's' }] },
  limits: { timeoutMs: 1000 },
  allowed: {
    observations: { s: '0x0', p: { value: '0x1', only: { ring: ['packed'] } }, m: { value: '0x1', only: { transport: ['mmio', 'mmio-legacy'] } } },
  },
};
const ALL = ['pci', 'transitional', 'mmio', 'mmio-legacy'] as const;

describe('instances', () => {
  it('are all combinations that exist, in an order that does not depend on the file', () => {
    const ids = instancesOf({ ...CASE, variants: { transport: [...ALL].reverse(), ring: ['packed', 'split'] } }).map(({ id }) =>
      id.slice(CASE.id.length),
    );
    expect(ids).toEqual(['@pci.split', '@pci.packed', '@transitional.split', '@mmio.split', '@mmio.packed', '@mmio-legacy.split']);
    expect(instancesOf({ ...CASE, variants: { ring: ['packed'] } }).map(({ id }) => id)).toEqual(['06-test/one@packed']);
    expect(instancesOf(CASE).map(({ id }) => id)).toEqual(['06-test/one']);
    expect(fileOf('06-test/one@pci.split')).toBe('06-test/one');
  });

  it('complete the devices, and leave alone what a device says for itself', () => {
    const [one] = instancesOf({ ...CASE, variants: { transport: ['mmio'], ring: ['packed'] } });
    expect(one?.devices?.map(({ transport, ring }) => `${transport}.${ring}`)).toEqual(['mmio.packed', 'pci.split']);
    expect(deviceNeeds(one as NonNullable<typeof one>)).toEqual(['virtio-entropy', 'virtio-mmio', 'ring-packed', 'virtio-block', 'virtio-pci']);
    expect(one?.title).toBe('A case for several transports (mmio, packed)');
  });

  it('keep only the observations that are about them', () => {
    const keys = instancesOf({ ...CASE, variants: { transport: ['pci', 'mmio'], ring: ['split', 'packed'] } }).map(({ allowed }) =>
      Object.keys(allowed.observations).join(),
    );
    expect(keys).toEqual(['s', 's,p', 's,m', 's,p,m']);
  });
});
