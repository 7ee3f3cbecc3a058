import { describe, expect, it } from 'vitest';
import { wiredPc } from './laboratory.ts';

describe('a description', () => {
  it('cannot have the platform’s addresses and registers from before the standard', () => {
    expect(() => wiredPc('modern', { properties: { iommu_platform: true } })).toThrow('iommu_platform');
    expect(wiredPc('modern', { properties: { iommu_platform: true, 'disable-legacy': 'on' } }).virtio.offerTo(false) & (1n << 33n)).not.toBe(0n);
  });
  it('cannot leave a device without registers', () => {
    expect(() => wiredPc('modern', { properties: { 'disable-modern': true, 'disable-legacy': 'on' } })).toThrow('neither');
  });
});
