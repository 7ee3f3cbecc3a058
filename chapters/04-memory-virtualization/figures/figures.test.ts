// # The runs that the text quotes

import { describe, expect, it } from 'vitest';
import { HostKernel, hostKernelAvailable } from '../../02-kvm-objects/host/host-kernel.ts';
import { forgetful, handover, slotStory } from '../index.ts';
import { memoryKernel } from '../kernel/index.ts';
import { recordShadowWalk } from '../shadow-walk.ts';
import { GUESTS, recordWalk } from '../walks.ts';
import { bits, four, fourOnShadow, protect, shadowed, slots } from './index.ts';

const host = hostKernelAvailable();

describe('four addresses', () => {
  it('are of one byte, and the processor keeps the first and the last', () => {
    for (const { seen, cached, hpa } of [four, fourOnShadow]) {
      expect(new Set(seen)).toEqual(new Set([0x2a]));
      expect(cached).toBe(hpa - (hpa % 4096));
    }
    expect(new Set([Number(BigInt.asUintN(48, four.gva)), four.gpa, four.hva, four.hpa]).size).toBe(4);
  });
});

describe('the story of the slots', () => {
  it('has its four rules', () => {
    expect(slots.map(({ came }) => came)).toEqual([
      'done',
      'MMIO, HLT',
      'done',
      'HLT',
      'EEXIST',
      'EINVAL',
      'done',
      'HLT; AL is 0x22',
      'MMIO, HLT; AL is 0xff',
      'done',
      'done',
      'HLT; AL is 0x22',
      'MMIO, HLT',
    ]);
  });
  it('is the same on shadow tables', () => {
    expect(slotStory(memoryKernel({ ramBytes: 8 << 20, memory: 'shadow' }))).toEqual(slots);
  });
  it.skipIf(!host.available)(`is the same on the host's kernel${host.available ? '' : ` (skipped: ${host.reason})`}`, () => {
    expect(slotStory(new HostKernel())).toEqual(slots);
  });
});

describe('a guest that forgets INVLPG', () => {
  it('may see either frame before, and only the new one after', () => {
    expect(forgetful('ept', false).loads).toEqual([0xa, 0xa, 0xb]);
    expect(forgetful('ept', true).loads).toEqual([0xa, 0xb, 0xb]);
    expect(forgetful('shadow', false).loads).toEqual([0xa, 0xa, 0xb]);
    expect(forgetful('shadow', true).loads).toEqual([0xa, 0xa, 0xb]);
  });
});

describe('walks on shadow tables', () => {
  it('fault once and are then as long as the shadow is deep', () => {
    expect(shadowed.map(({ answer }) => answer)).toEqual(['mapped', null]);
    const last = shadowed.at(-1)?.references.at(-1);
    expect(last).toMatchObject({ leaf: true, level: 2 });
  });
  it('find the byte where a second stage would', () => {
    for (const [guest, page] of GUESTS) {
      const { result } = recordShadowWalk({ guest, page, access: 'write' });
      expect(result).toEqual(recordWalk({ guest, page, nested: '4K', access: 'write' }).result);
    }
  });
  it('give the guest the fault that its own tables mean', () => {
    for (const [guest, page] of GUESTS)
      for (const access of ['read', 'write', 'fetch'] as const)
        for (const privilege of ['supervisor', 'user'] as const) {
          const { references } = recordWalk({ guest, page });
          for (const { n, register } of references)
            for (const clear of register ? [1n] : [1n, 2n, 4n]) {
              const config = { guest, page, access, privilege, edits: [{ reference: n, clear }] };
              const [native, { result }] = [recordWalk(config).result, recordShadowWalk(config)];
              const what = `${guest} ${page} ${access} ${privilege} entry ${n} without ${clear}`;
              expect(result.kind, what).toBe(native.kind);
              if (native.kind === 'fault') expect(result, what).toEqual(native);
            }
        }
  });
});

describe('the log', () => {
  it('finds every page either way, and only one way has exits', () => {
    expect(protect.found).toEqual([protect.pages, protect.pages, protect.pages]);
    expect(bits.found).toEqual(protect.found);
    expect(protect.exits.slice(1)).toEqual([0, protect.pages, protect.pages, protect.pages]);
    expect(bits.exits.slice(1)).toEqual([0, 0, 0, 0]);
  });
});

describe('the order of two stores', () => {
  it('decides whether the reader gets the old entry', () => {
    expect(handover(['entry', 'flags'])).toEqual({ afterStore: 2, page: 9 });
    expect(handover(['flags', 'entry'])).toEqual({ afterStore: 1, page: 7 });
    expect(handover(['entry'])).toBeNull();
  });
});
