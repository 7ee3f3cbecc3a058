// # Which method is faster?
//
// It depends on what the guest does, and that can be said exactly. Two-dimensional paging pays in *walks*: each TLB miss costs several times the references.
// Shadow paging pays in *exits*: whatever the guest does to its page tables or to CR3 concerns the hypervisor. So a program that runs over much memory
// and leaves its tables alone is better off with shadow tables, and one that creates processes all day is not. The guests below are the extremes, each
// a loop of a few instructions in 64-bit mode.
//
// A run is counted twice. *Cold* is its first time on a fresh machine, with every page new to the hypervisor; *warm* is the same again.

import type { Trace, TraceEvent } from '../01-hardware-background/trace.ts';
import { EXIT } from '../02-kvm-objects/abi/exits.ts';
import { Kvm, type Vcpu } from '../02-kvm-objects/kvm.ts';
import { type MemoryKernelOptions, memoryKernel } from './kernel/index.ts';
import { WalkCounter, type WalkTotals } from './walks.ts';

const MiB = 1 << 20;
const PAGE = 4096;
const RAM = 48 * MiB;
const CODE = 0x1000;
const ROOTS = [1 * MiB, 2 * MiB] as const; // two processes: the same mapping in tables of their own
const DATA = 4 * MiB;
const WINDOW = 44 * MiB; // where the third guest maps its pages
/** Pages that the first guest touches: more than its processor's TLB holds. */
export const TOUCHED = 9216;
/** How often the second one switches, and the pages it uses in between. */
export const SWITCHES = 64;
export const WORKING_SET = 16;
/** Pages that the third one maps, writes and unmaps. */
export const REMAPPED = 256;

const LOAD_LOOP = [0x8a, 0x07, 0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x48, 0x39, 0xef, 0x72, 0xf2]; // l: mov al, [rdi]; add rdi, 4096; cmp rdi, rbp; jb l
const RESTART = [0x48, 0x89, 0xdf]; // mov rdi, rbx
const HLT = 0xf4;

type Registers = Parameters<Vcpu['setRegs']>[0];
interface Workload {
  readonly code: readonly number[];
  readonly registers: Registers;
}

// biome-ignore format: machine code, an instruction or two to a line
const WORKLOADS = {
  touch: {
    code: [...LOAD_LOOP, HLT],
    registers: { rdi: BigInt(DATA), rbp: BigInt(DATA + TOUCHED * PAGE) },
  },
  switch: {
    code: [
      0x41, 0x0f, 0x22, 0xdc, // l: mov cr3, r12
      ...RESTART, ...LOAD_LOOP,
      0x41, 0x0f, 0x22, 0xdd, // mov cr3, r13
      ...RESTART, ...LOAD_LOOP,
      0xff, 0xc9, 0x75, 0xd2, // dec ecx; jnz l
      HLT,
    ],
    registers: {
      r12: BigInt(ROOTS[0]), r13: BigInt(ROOTS[1]), rcx: BigInt(SWITCHES / 2), rbx: BigInt(DATA), rbp: BigInt(DATA + WORKING_SET * PAGE),
    },
  },
  remap: {
    code: [
      0x48, 0x89, 0x13, // l: mov [rbx], rdx: the entry
      0xc6, 0x07, 0x01, // mov byte [rdi], 1: the page
      0x48, 0xc7, 0x03, 0, 0, 0, 0, // mov qword [rbx], 0
      0x0f, 0x01, 0x3f, // invlpg [rdi]
      0x48, 0x83, 0xc3, 0x08, // add rbx, 8
      0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 4096
      0x48, 0x81, 0xc2, 0x00, 0x10, 0x00, 0x00, // add rdx, 4096
      0x48, 0xff, 0xcd, 0x75, 0xd9, // dec rbp; jnz l
      HLT,
    ],
    registers: { rbx: BigInt(tableOf(ROOTS[0], WINDOW)), rdi: BigInt(WINDOW), rdx: BigInt(DATA) | 3n, rbp: BigInt(REMAPPED) },
  },
} as const satisfies Record<string, Workload>;

type WorkloadName = keyof typeof WORKLOADS;

/** Where the last-level table for `linear` is, in the tables that begin at `root`: PML4, pointers, directory, then the tables in order. */
function tableOf(root: number, linear: number): number {
  return root + (3 + Math.floor(linear / (2 * MiB))) * PAGE;
}

/** Identity tables for all of RAM, in pages of 4 KiB; the first process finds nothing in the window. */
function writeTables(view: DataView, root: number): void {
  const entry = (at: number, value: number): void => view.setBigUint64(at, BigInt(value) | 3n, true);
  entry(root, root + PAGE);
  entry(root + PAGE, root + 2 * PAGE);
  for (let at = 0; at < RAM; at += 2 * MiB) entry(root + 2 * PAGE + (at / (2 * MiB)) * 8, tableOf(root, at));
  for (let at = 0; at < RAM; at += PAGE) {
    if (root === ROOTS[0] && at >= WINDOW && at < WINDOW + REMAPPED * PAGE) continue;
    entry(tableOf(root, at) + (Math.floor(at / PAGE) % 512) * 8, at);
  }
}

/** What one run of a workload took. */
export interface Cost {
  /** VM exits by reason. */
  readonly exits: Readonly<Record<string, number>>;
  readonly walks: WalkTotals;
  readonly instructions: number;
}

class Counter implements Trace {
  now = 0;
  #walks = new WalkCounter();
  #exits: Record<string, number> = {};

  emit(event: TraceEvent): void {
    this.#walks.see(event);
    if (event.kind === 'kvm_exit') this.#exits[event.reason] = (this.#exits[event.reason] ?? 0) + 1;
  }

  take(): Omit<Cost, 'instructions'> {
    const taken = { exits: this.#exits, walks: this.#walks.totals };
    this.#walks = new WalkCounter();
    this.#exits = {};
    return taken;
  }
}

/** Runs a workload twice on a machine of its own. */
export function measure(name: WorkloadName, options: Pick<MemoryKernelOptions, 'memory' | 'largest'> = {}): { cold: Cost; warm: Cost } {
  const { code, registers } = WORKLOADS[name];
  const trace = new Counter();
  const kernel = memoryKernel({ ramBytes: 2 * RAM, trace, ...options });
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  const { bytes, hva } = kvm.allocate(RAM);
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: RAM, userspace_addr: hva });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (const root of ROOTS) writeTables(view, root);
  bytes.set(code, CODE);
  const vcpu = vm.createVcpu(0);
  const { ds } = vcpu.getSregs();
  const flat = { ...ds, base: 0n, limit: 0xffffffff, g: 1, db: 1, l: 0, selector: 16, type: 3, s: 1, present: 1, unusable: 0 };
  const cs = { ...flat, type: 0xb, selector: 8, db: 0, l: 1 };
  vcpu.setSregs({ cr0: 0x80010031n, cr3: BigInt(ROOTS[0]), cr4: 0x20n, efer: 0x500n, cs, ds: flat, es: flat, ss: flat });
  const once = (): Cost => {
    vcpu.setRegs({ rip: BigInt(CODE), rflags: 2n, ...registers });
    trace.take();
    const before = kernel.hardware.cpu.instructions;
    while (vcpu.run() !== EXIT.KVM_EXIT_HLT);
    return { ...trace.take(), instructions: kernel.hardware.cpu.instructions - before };
  };
  const cold = once();
  const warm = once();
  vcpu.close();
  vm.close();
  kvm.close();
  return { cold, warm };
}
