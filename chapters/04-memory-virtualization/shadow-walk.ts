// # The walk that shadow tables leave
//
// With shadow tables the processor's walk is one-dimensional again, and short; what it cost to get there does not show in it. This bench has both: the
// processor is let loose on empty shadow tables, and each time it faults the kernel's own fault handler is asked, until the byte is found or the
// fault turns out to be the guest's.

import { Mmu } from '../01-hardware-background/mmu/mmu.ts';
import { FORMAT, PF } from '../01-hardware-background/mmu/paging.ts';
import { assert } from '../01-hardware-background/physical-memory.ts';
import { CpuState, CR0, CR4, EFER, OFFSET } from '../01-hardware-background/state.ts';
import { Recorder } from '../01-hardware-background/trace.ts';
import { Kvm } from '../02-kvm-objects/kvm.ts';
import type { SoftVm } from '../02-kvm-objects/soft/vm.ts';
import { memoryKernel } from './kernel/index.ts';
import { guestMode } from './shadow/guest-mode.ts';
import { type Faulted, ShadowContext } from './shadow/mmu.ts';
import { ShadowMemory } from './shadow/shadow-memory.ts';
import { attempt, describe, GUEST_TABLES, guestTables, MODES, type Reference, recordWalk, type WalkConfig, type WalkResult } from './walks.ts';

/** One try of the processor, and what the fault handler made of its end. */
interface ShadowAttempt {
  readonly references: readonly Reference[];
  /** `fault`: a VM exit, because page faults go to the hypervisor. */
  readonly result: WalkResult;
  /** Null: there was no fault. */
  readonly answer: Faulted['kind'] | null;
}

export interface ShadowWalk {
  readonly attempts: readonly ShadowAttempt[];
  /** What the guest sees at the end. */
  readonly result: WalkResult;
}

const MiB = 1 << 20;
const RAM = 16 * MiB;
const GUEST_RAM = 4 * MiB;
const MOST_ATTEMPTS = 8;

/** A kernel with shadow paging, and beside its processor an MMU that does nothing but walk. */
class Machine {
  readonly trace = new Recorder({ only: ['walk'] });
  readonly kernel = memoryKernel({ ramBytes: RAM, memory: 'shadow' });
  readonly kvm: Kvm;
  readonly state: CpuState;
  readonly mmu: Mmu;
  #made: { vm: SoftVm; shadow: ShadowMemory } | null = null;

  constructor() {
    this.kernel.makeMemoryVirtualization = (vm) => {
      const shadow = new ShadowMemory(vm);
      this.#made = { vm, shadow };
      return shadow;
    };
    this.kvm = Kvm.open(this.kernel);
    // Somebody else's: so that guest physical and host physical addresses differ.
    this.kvm.allocate(2 * MiB);
    const { memory } = this.kernel.hardware;
    this.state = new CpuState(memory);
    this.mmu = new Mmu({
      memory,
      state: this.state,
      trace: this.trace,
      bus: { read: (_address, bytes) => (1n << BigInt(8 * bytes)) - 1n, write() {} },
      ept: () => null,
      holdsCode: () => false,
      codeWritten() {},
      mappingsChanged() {},
    });
  }

  walk(config: WalkConfig): ShadowWalk {
    const { guest = '4-level', page = '4K', access = 'read', privilege = 'supervisor', edits = [] } = config;
    const mode = MODES[guest];
    const vm = this.kvm.createVm();
    const made = this.#made;
    assert(made, 'the kernel has made memory for its VM');
    const { hva, bytes } = this.kvm.allocate(GUEST_RAM);
    vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: GUEST_RAM, userspace_addr: hva });
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const wide = mode.format.entryBytes === 8;
    const change = (gpa: number, by: (old: bigint) => bigint): void => {
      if (wide) view.setBigUint64(gpa, by(view.getBigUint64(gpa, true)), true);
      else view.setUint32(gpa, Number(BigInt.asUintN(32, by(BigInt(view.getUint32(gpa, true))))), true);
    };
    for (const { gpa, value } of guestTables(mode, page)) change(gpa, () => value);
    if (edits.length > 0) {
      const { references } = recordWalk({ guest, page });
      for (const { reference, set = 0n, clear = 0n } of edits) {
        const found = references[reference - 1];
        if (!found) throw new RangeError(`the guest's tables have ${references.length} entries on the way, and no number ${reference}`);
        change(found.entry, (old) => (old | set) & ~clear);
      }
    }

    const { ram } = this.kernel.hardware;
    const paeRoot = ram.kernelPages();
    const context = new ShadowContext(guestMode(BigInt((CR0.PE | CR0.PG | CR0.WP) >>> 0), BigInt(mode.cr4), BigInt(mode.efer)), paeRoot);
    context.cr3 = BigInt(GUEST_TABLES);
    if (mode.format === FORMAT.pae) context.pdptrs = [0, 1, 2, 3].map((n) => view.getBigUint64(GUEST_TABLES + 8 * n, true));
    const { mmu } = made.shadow;
    mmu.contexts.add(context);
    try {
      return this.#run(context, made.shadow, { guest, access, privilege });
    } finally {
      mmu.unload(context);
      mmu.contexts.delete(context);
      ram.freeKernelPages(paeRoot);
      vm.close();
      this.kernel.free(hva);
    }
  }

  /** Puts the shadow's root into CR3, as a VM entry does. The format is the shadow's own, whatever the guest's. */
  #load(context: ShadowContext, { mmu }: ShadowMemory): void {
    const root = mmu.load(context);
    assert(root >= 0, 'there is room for one root');
    this.state.set64(OFFSET.CR0, BigInt((CR0.PE | CR0.PG | CR0.WP) >>> 0));
    this.state.set64(OFFSET.CR4, BigInt(CR4.PAE));
    this.state.set64(OFFSET.EFER, BigInt(EFER.NXE | (context.long ? EFER.LME | EFER.LMA : 0)));
    this.state.set64(OFFSET.CR3, BigInt(root));
    if (!context.long) assert(this.mmu.loadPdptes(BigInt(root)), 'the four entries of the root are well formed');
  }

  #run(context: ShadowContext, shadow: ShadowMemory, config: WalkConfig): ShadowWalk {
    const shape = MODES[context.long ? '4-level' : 'PAE'];
    const { linear } = MODES[config.guest ?? '4-level'];
    const attempts: ShadowAttempt[] = [];
    while (attempts.length < MOST_ATTEMPTS) {
      if (!context.roots) this.#load(context, shadow);
      this.mmu.flush();
      this.trace.events.length = 0;
      const result = attempt(this.mmu, linear, config);
      const references = describe({ ...shape, linear }, this.trace.of('walk'), 0);
      if (result.kind !== 'fault') {
        attempts.push({ references, result, answer: null });
        return { attempts, result };
      }
      const { mask } = PF;
      const { errorCode } = result;
      const answer = shadow.mmu.fault(context, linear, {
        write: (errorCode & mask.W) !== 0,
        fetch: config.access === 'fetch',
        user: (errorCode & mask.U) !== 0,
        acSet: false,
      });
      attempts.push({ references, result, answer: answer.kind });
      if (answer.kind === 'guest') return { attempts, result: { kind: 'fault', errorCode: answer.errorCode } };
      if (answer.kind !== 'mapped' && answer.kind !== 'unchanged') break;
    }
    const last = attempts.at(-1);
    assert(last, 'there was an attempt');
    return { attempts, result: last.result };
  }
}

let machine: Machine | null = null;

/**
 * The same access as {@link recordWalk}, of a guest on shadow tables that are empty at first. Edits count the entries of the guest's own tables, as in a
 * walk without a second stage, which there is none of here.
 */
export function recordShadowWalk(config: WalkConfig = {}): ShadowWalk {
  machine ??= new Machine();
  return machine.walk(config);
}
