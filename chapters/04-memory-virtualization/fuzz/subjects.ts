// # Who is tested
//
// The same program in the same arena on three machines: a guest of the soft kernel under either method of memory virtualization, and a bare processor
// without a hypervisor. Each is driven by its registers alone. (Setting control registers from outside would flush what we want to see go stale.)

import { Cpu } from '../../01-hardware-background/cpu.ts';
import { PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import { AR, CR0, CR4, EFER, OFFSET, SEG, SLOT } from '../../01-hardware-background/state.ts';
import { EXIT, exitName, KvmRun } from '../../02-kvm-objects/abi/exits.ts';
import { IOCTL } from '../../02-kvm-objects/abi/ioctls.ts';
import { KVM_MEM } from '../../02-kvm-objects/abi/memory.ts';
import { KvmRegs, KvmSregs } from '../../02-kvm-objects/abi/registers.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { Allocation } from '../../02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu, type Vm } from '../../02-kvm-objects/kvm.ts';
import type { MemoryVirtualization } from '../../02-kvm-objects/soft/second-stage.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { softKernel } from '../../03-vcpu-loop/kernel/index.ts';
import { ARENA, type PagingMode, PORT, SELECTOR } from './arena.ts';

/** Registers of one run. */
export interface Program {
  readonly rip: number | bigint;
  readonly rsp: number;
  readonly rax?: bigint;
  readonly rbx?: bigint;
  readonly rdx?: bigint;
  readonly rsi?: bigint;
  readonly rdi?: bigint;
  readonly rflags: number;
}

/** How a run ended. `log`: device accesses on the way. */
export interface Ended {
  readonly end: 'done' | 'page-fault' | 'fault' | 'memory-fault' | 'shutdown' | 'other';
  readonly rax: bigint;
  readonly rip: bigint;
  /** Of a page fault. */
  readonly code: number;
  readonly cr2: bigint;
  readonly log: string;
  readonly gpas: readonly number[];
}

/** Control registers at the start of an episode. */
export interface Control {
  readonly paging: PagingMode;
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly nx: boolean;
}

/** What a device answers, so that every machine reads the same. */
const DEVICE_VALUE = 0x5a;

export interface Subject {
  readonly name: string;
  readonly ram: Uint8Array;
  readonly readOnly: Uint8Array | null;
  begin(control: Control): void;
  run(program: Program): Ended;
  free(): void;
}

const efer = ({ paging, nx }: Control): number => (nx ? EFER.NXE : 0) | (paging === 'long' ? EFER.LME | EFER.LMA : 0);
/** Control registers of a mode, with the choices that are free. */
export const control = (
  paging: PagingMode,
  cr3: number,
  { wp, nx, smep, smap, pge }: { wp: boolean; nx: boolean; smep: boolean; smap: boolean; pge: boolean },
): Control => ({
  paging,
  cr0: (CR0.PE | CR0.ET | CR0.NE | (wp ? CR0.WP : 0) | CR0.PG) >>> 0,
  cr3,
  cr4: (paging === 'bits32' ? 0 : paging === 'pse' ? CR4.PSE : CR4.PAE) | (smep ? CR4.SMEP : 0) | (smap ? CR4.SMAP : 0) | (pge ? CR4.PGE : 0),
  nx: nx && (paging === 'pae' || paging === 'long'),
});

// ## A guest

const U64_MAX = 0xffff_ffff_ffff_ffffn;
const MOST_EXITS = 400;

export class Guest implements Subject {
  readonly name: string;
  readonly ram: Uint8Array;
  readonly readOnly: Uint8Array;
  readonly memory: MemoryVirtualization;
  readonly #vm: Vm;
  readonly #vcpu: Vcpu;
  readonly #kvm: Kvm;
  readonly #main: Allocation;
  readonly #kernel: ReturnType<typeof softKernel>;
  readonly #bitmap: Allocation;
  readonly #regs = new Uint8Array(KvmRegs.bytes);
  readonly #regsView = new DataView(this.#regs.buffer);

  /** `make`: the method of memory virtualization; null for the kernel's own. */
  constructor(name: string, make: ((vm: SoftVm) => MemoryVirtualization) | null) {
    this.name = name;
    const kernel = softKernel({ ramBytes: 32 << 20, instructionBound: 10_000 });
    this.#kernel = kernel;
    let memory: MemoryVirtualization | null = null;
    const makeMemory = make ?? kernel.makeMemoryVirtualization;
    kernel.makeMemoryVirtualization = (vm) => {
      memory = makeMemory(vm);
      return memory;
    };
    this.#kvm = Kvm.open(kernel);
    this.#vm = this.#kvm.createVm();
    this.memory = memory as unknown as MemoryVirtualization;
    // Aligned as large pages need it: the kernel aligns large allocations.
    this.#main = this.#kvm.allocate(ARENA.RAM_BYTES);
    const readOnly = this.#kvm.allocate(ARENA.READ_ONLY_FRAMES * 4096);
    const gone = this.#kvm.allocate(4096);
    this.#bitmap = this.#kvm.allocate(4096);
    this.ram = this.#main.bytes;
    this.readOnly = readOnly.bytes;
    this.#slot(0);
    this.#vm.setUserMemoryRegion({
      slot: 1,
      guest_phys_addr: ARENA.READ_ONLY,
      memory_size: ARENA.READ_ONLY_FRAMES * 4096,
      userspace_addr: readOnly.hva,
      flags: KVM_MEM.KVM_MEM_READONLY,
    });
    this.#vm.setUserMemoryRegion({ slot: 2, guest_phys_addr: ARENA.HOLE, memory_size: 4096, userspace_addr: gone.hva });
    kernel.free(gone.hva);
    this.#vcpu = this.#vm.createVcpu(0);
    this.#vcpu.setCpuid2(this.#kvm.getSupportedCpuid());
  }

  #slot(flags: number): void {
    this.#vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: ARENA.RAM_BYTES, userspace_addr: this.#main.hva, flags });
  }

  /** Makes the slot anew, so that nothing from the last episode survives, and sets every register. */
  begin(c: Control): void {
    this.#vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 0, userspace_addr: this.#main.hva });
    this.#slot(0);
    const long = c.paging === 'long';
    const flat = {
      base: 0n,
      limit: 0xffffffff,
      present: 1,
      s: 1,
      g: 1,
      db: 1,
      l: 0,
      dpl: 0,
      type: 3,
      avl: 0,
      unusable: 0,
      selector: SELECTOR.DATA,
    } as const;
    const sregs = this.#vcpu.getSregs();
    const segment = (base: object): (typeof sregs)['cs'] => ({ ...sregs.cs, ...base });
    this.#vcpu.setSregs({
      cs: segment({ ...flat, type: 11, selector: SELECTOR.CODE, l: long ? 1 : 0, db: long ? 0 : 1 }),
      // A return to user mode would empty data segments that are the kernel's alone.
      ...Object.fromEntries(['ds', 'es', 'fs', 'gs'].map((name) => [name, segment({ ...flat, dpl: 3, selector: SELECTOR.USER_DATA })])),
      ss: segment(flat),
      tr: segment({
        base: BigInt(ARENA.TSS),
        limit: 0x67,
        present: 1,
        s: 0,
        g: 0,
        db: 0,
        l: 0,
        dpl: 0,
        type: 11,
        avl: 0,
        unusable: 0,
        selector: SELECTOR.TSS,
      }),
      ldt: segment({ base: 0n, limit: 0, present: 0, s: 0, g: 0, db: 0, l: 0, dpl: 0, type: 0, avl: 0, unusable: 1, selector: 0 }),
      gdt: { ...sregs.gdt, base: BigInt(ARENA.GDT), limit: 0x2f },
      idt: { ...sregs.idt, base: BigInt(ARENA.IDT), limit: 0xfff },
      cr0: BigInt(c.cr0),
      cr3: BigInt(c.cr3),
      cr4: BigInt(c.cr4),
      efer: BigInt(efer(c)),
    });
    this.#vcpu.setVcpuEvents({
      exception_injected: 0,
      exception_pending: 0,
      interrupt_injected: 0,
      nmi_injected: 0,
      nmi_pending: 0,
      interrupt_shadow: 0,
      nmi_masked: 0,
    });
  }

  run(program: Program): Ended {
    const { fields } = KvmRegs;
    const view = this.#regsView;
    this.#regs.fill(0);
    fields.rip.set(view, 0, BigInt(program.rip));
    fields.rsp.set(view, 0, BigInt(program.rsp));
    fields.rflags.set(view, 0, BigInt(program.rflags));
    for (const name of ['rax', 'rbx', 'rdx', 'rsi', 'rdi'] as const) fields[name].set(view, 0, program[name] ?? 0n);
    this.#ioctl(IOCTL.KVM_SET_REGS, this.#regs);
    let log = '';
    const gpas: number[] = [];
    for (let exits = 0; exits < MOST_EXITS; exits++) {
      const result = this.#kernel.ioctl(this.#vcpu.fd, IOCTL.KVM_RUN, 0);
      if (result === -ERRNO.EINTR) break; // as many instructions and exits as a hundred runs should need
      const { page } = this.#vcpu;
      const reason = KvmRun.fields.exit_reason.get(page.view, 0);
      if (result === -ERRNO.EFAULT) return this.#ended('memory-fault', `${log}|${exitName(reason)}`, gpas);
      if (result < 0) return this.#ended('other', `${log}|errno ${-result}`, gpas);
      if (reason === EXIT.KVM_EXIT_MMIO) {
        const data = page.mmioData();
        if (!page.mmioWrite) data.fill(DEVICE_VALUE);
        gpas.push(page.mmioAddress);
        log += `${page.mmioWrite ? 'W' : 'R'}${page.mmioAddress.toString(16)}+${page.mmioLength}${page.mmioWrite ? `=${[...data].join(',')}` : ''} `;
        continue;
      }
      if (reason === EXIT.KVM_EXIT_IO) {
        const end =
          page.ioPort === PORT.DONE ? 'done' : page.ioPort === PORT.PAGE_FAULT ? 'page-fault' : page.ioPort === PORT.FAULT ? 'fault' : 'other';
        return this.#ended(end, log, gpas);
      }
      if (reason === EXIT.KVM_EXIT_SHUTDOWN) return this.#ended('shutdown', log, gpas);
      return this.#ended('other', `${log}|${page.describe()}`, gpas);
    }
    return this.#ended('other', `${log}|no end`, gpas);
  }

  #ioctl(request: number, bytes: Uint8Array): void {
    const result = this.#kernel.ioctl(this.#vcpu.fd, request, bytes);
    if (result < 0) throw new Error(`request 0x${request.toString(16)}: errno ${-result}`);
  }

  #ended(end: Ended['end'], log: string, gpas: readonly number[]): Ended {
    this.#ioctl(IOCTL.KVM_GET_REGS, this.#regs);
    const { rax, rip, rsp } = KvmRegs.load(this.#regsView);
    let code = 0;
    let cr2 = 0n;
    if (end === 'page-fault') {
      code = new DataView(this.ram.buffer, this.ram.byteOffset).getUint32(Number(rsp & 0xfffffn), true);
      const sregs = new Uint8Array(KvmSregs.bytes);
      this.#ioctl(IOCTL.KVM_GET_SREGS, sregs);
      cr2 = KvmSregs.decode(sregs).cr2;
    }
    return { end, rax, rip, code, cr2, log, gpas };
  }

  // ## The dirty log

  setLogging(on: boolean): void {
    this.#slot(on ? KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES : 0);
  }
  /** Pages written since the last question: one bit each. */
  dirtyLog(): Uint8Array {
    this.#vm.getDirtyLog(0, this.#bitmap);
    return this.#bitmap.bytes.slice(0, ARENA.RAM_BYTES / 4096 / 8);
  }

  free(): void {
    this.#vcpu.close();
    this.#vm.close();
    this.#kvm.close();
  }
}

// ## A bare processor

export class Bare implements Subject {
  readonly name = 'bare';
  readonly ram: Uint8Array;
  readonly readOnly = null;
  readonly #cpu: Cpu;
  #told = -1;

  constructor() {
    const memory = new PhysicalMemory({ ramBytes: ARENA.RAM_BYTES });
    this.#cpu = new Cpu({
      memory,
      ports: {
        read: () => 0xff,
        write: (port) => {
          this.#told = port;
          this.#cpu.requestStop();
        },
      },
    });
    this.ram = memory.slice(0, ARENA.RAM_BYTES);
  }

  begin(c: Control): void {
    const cpu = this.#cpu;
    const { state } = cpu;
    cpu.reset();
    const long = c.paging === 'long';
    const set = (seg: number, selector: number, base: number, limit: number, rights: number): void => {
      state.setSegSelector(seg, selector);
      state.setSegBase(seg, BigInt(base));
      state.setSegLimit(seg, limit);
      state.setSegRights(seg, rights);
    };
    const data = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED | AR.DB | AR.G;
    for (const seg of [SEG.ES, SEG.DS, SEG.FS, SEG.GS]) set(seg, SELECTOR.USER_DATA, 0, 0xffffffff, data | AR.DPL);
    set(SEG.SS, SELECTOR.DATA, 0, 0xffffffff, data);
    set(SEG.CS, SELECTOR.CODE, 0, 0xffffffff, AR.P | AR.S | AR.CODE | AR.READABLE | AR.ACCESSED | AR.G | (long ? AR.L : AR.DB));
    set(SEG.TR, SELECTOR.TSS, ARENA.TSS, 0x67, AR.P | 0xb);
    set(SEG.LDTR, 0, 0, 0, AR.UNUSABLE);
    state.set64(OFFSET.GDTR_BASE, BigInt(ARENA.GDT));
    state.set32(OFFSET.GDTR_LIMIT, 0x2f);
    state.set64(OFFSET.IDTR_BASE, BigInt(ARENA.IDT));
    state.set32(OFFSET.IDTR_LIMIT, 0xfff);
    state.set64(OFFSET.CR0, BigInt(c.cr0));
    state.set64(OFFSET.CR3, BigInt(c.cr3));
    state.set64(OFFSET.CR4, BigInt(c.cr4));
    state.set64(OFFSET.EFER, BigInt(efer(c)));
    state.fpu.fill(0);
    state.view.setUint16(OFFSET.FPU, 0x37f, true); // as a vCPU begins
    state.view.setUint32(OFFSET.FPU + 24, 0x1f80, true);
    if (c.paging === 'pae') cpu.mmu.loadPdptes(BigInt(c.cr3));
    cpu.mmu.flush('episode');
    cpu.engine.memoryChanged();
    cpu.modeChanged();
  }

  run(program: Program): Ended {
    const cpu = this.#cpu;
    const { state } = cpu;
    this.#told = -1;
    for (const [slot, value] of [
      [SLOT.RAX, program.rax],
      [SLOT.RBX, program.rbx],
      [SLOT.RCX, 0n],
      [SLOT.RDX, program.rdx],
      [SLOT.RSI, program.rsi],
      [SLOT.RDI, program.rdi],
      [SLOT.RSP, BigInt(program.rsp)],
      [SLOT.RIP, BigInt(program.rip)],
      [SLOT.NEXT_RIP, BigInt(program.rip)],
    ] as const)
      state.setSlot(slot, (value ?? 0n) & U64_MAX);
    state.set32(OFFSET.RFLAGS, program.rflags);
    cpu.modeChanged();
    const stop = cpu.run(MOST_EXITS);
    const rax = state.slot(SLOT.RAX);
    const rip = state.slot(SLOT.RIP);
    const answer = { rax, rip, code: 0, cr2: 0n, log: '', gpas: [] };
    if (stop.kind === 'shutdown') return { ...answer, end: 'shutdown' };
    if (stop.kind !== 'stop') return { ...answer, end: 'other', log: `|${stop.kind}` };
    if (this.#told === PORT.DONE) return { ...answer, end: 'done' };
    if (this.#told === PORT.FAULT) return { ...answer, end: 'fault' };
    if (this.#told !== PORT.PAGE_FAULT) return { ...answer, end: 'other', log: `|port ${this.#told}` };
    const code = new DataView(this.ram.buffer, this.ram.byteOffset).getUint32(Number(state.slot(SLOT.RSP) & 0xfffffn), true);
    return { ...answer, end: 'page-fault', code, cr2: state.get64(OFFSET.CR2) };
  }

  free(): void {}
}
