import { describe, expect, it } from 'vitest';
import type { SoftVm } from '../02-kvm-objects/soft/vm.ts';
import { fuzz } from './fuzz.ts';
import { ShadowMemory } from './shadow/index.ts';

/** The quick tests take a sample; `npm run test:all` takes all. */
const ALL = process.env.RINGBOOK_TESTS === 'all';

/** Faults that could be made in shadow paging, each by one line. */
const BREAKS: Readonly<Record<string, (memory: ShadowMemory) => void>> = {
  'page tables stay writable': ({ mmu }) => {
    mmu.pages.writeProtect = () => 0;
  },
  'a table let go of is not compared at a flush': ({ mmu }) => {
    mmu.sync = (page) => {
      page.unsync = false;
      mmu.pages.unsync.delete(page);
    };
  },
  'INVLPG drops nothing': ({ mmu }) => {
    mmu.invalidate = () => {};
  },
  'an emulated write to a table is not noticed': ({ mmu }) => {
    mmu.wrote = () => {};
  },
  'pieces of a large page are shared, whatever its rights': ({ mmu: { pages } }) => {
    const RIGHTS = 7 << 5;
    const DIRECT = 1 << 8;
    const find = pages.find.bind(pages);
    pages.find = (gfn, role) => {
      if (role & DIRECT) for (const page of pages.all) if (page.gfn === gfn && (page.role & ~RIGHTS) === (role & ~RIGHTS)) return page;
      return find(gfn, role);
    };
  },
  'the dirty bit does not matter': ({ mmu: { walker } }) => {
    const walk = walker.walk.bind(walker);
    walker.walk = (mode, cr3, pdptrs, linear, access) => {
      const found = walk(mode, cr3, pdptrs, linear, access);
      if (found.errorCode < 0 && !access.write) found.access |= 2;
      return found;
    };
  },
};

const broken =
  (change: (memory: ShadowMemory) => void) =>
  (vm: SoftVm): ShadowMemory => {
    const memory = new ShadowMemory(vm);
    change(memory);
    return memory;
  };

describe('random page tables', () => {
  it('find no difference between shadow paging, EPT, a bare processor and the oracle', { timeout: 120_000 }, () => {
    const asked = ALL ? 4000 : 1000;
    const { failure, ends, steps } = fuzz({ seed: 20, steps: asked });
    expect(failure).toBeNull();
    expect(steps).toBeGreaterThanOrEqual(asked);
    // A run in which everything faults, or nothing does, would prove little.
    expect(ends.done).toBeGreaterThan(steps / 4);
    expect(ends['page-fault']).toBeGreaterThan(steps / 10);
  });

  it('give the same run for the same seed', { timeout: 60_000 }, () => {
    const run = (): unknown => fuzz({ seed: 3, steps: 400 });
    expect(run()).toEqual(run());
  });

  // The quick tests break two of the six.
  for (const [name, change] of Object.entries(BREAKS).slice(0, ALL ? undefined : 2))
    it(`find it when ${name}`, { timeout: 120_000 }, () => {
      expect(fuzz({ seed: 1, steps: 30_000, shadow: broken(change) }).failure).toMatch(/^seed 1, episode /);
    });
});
