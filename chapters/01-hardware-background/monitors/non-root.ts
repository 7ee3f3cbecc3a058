// # The smallest hypervisor
//
// A processor with VT-x, put into the state in which a 64-bit kernel would have it; a VMCS; and a second stage of paging that gives the guest its own
// megabyte and nothing else. Two of the following sections need it, so it is a class: a *world* is one guest, and a hypervisor may have several.

import { Cpu } from '../cpu.ts';
import { assert, PAGE_BYTES, PhysicalMemory } from '../physical-memory.ts';
import { AR, CR0, CR4, EFER, OFFSET, SEG, SLOT } from '../state.ts';
import type { PortBus } from '../system/ports.ts';
import type { Trace } from '../trace.ts';
import { CAPABILITY, CPU_BASED, ENTRY, EPTP, EXIT, SECONDARY } from '../vmx/controls.ts';
import { exitReasonName } from '../vmx/exit-reasons.ts';
import { FIELD, type FieldName, REVISION_ID } from '../vmx/vmcs.ts';
import { VmxUnit } from '../vmx/vmx.ts';

const HOST_CODE = 0xffff_8000_0000_0000n; // canonical, and never executed: the hypervisor is this program
const PRESENT_WRITABLE = 0x3n;
const LARGE = 0x80n;
const EPT_ALL = 0x7n;
const EPT_WRITE_BACK_PAGE = 0x37n;
const GUEST_BYTES = 1 << 20;
const PAGES = GUEST_BYTES / PAGE_BYTES;

/** Room for the host's tables, and then a mebibyte for each guest. */
const HOST_BYTES = 1 << 20;

/** The machine that a hypervisor owns. Its one device is a console at every port. */
export class RootMachine {
  /** What has been written to the console. */
  console = '';
  readonly memory: PhysicalMemory;
  readonly cpu: Cpu;
  readonly vmx: VmxUnit;
  #nextPage = PAGE_BYTES;
  readonly pml4: number;

  constructor(guests: number, trace?: Trace) {
    this.memory = new PhysicalMemory({ ramBytes: HOST_BYTES + guests * GUEST_BYTES });
    const ports: PortBus = { read: () => 0, write: (_port, _bytes, value) => this.#print(value) };
    this.cpu = new Cpu({ memory: this.memory, ports, ...(trace && { trace }) });
    this.vmx = new VmxUnit(this.cpu);
    this.cpu.vmx = this.vmx;
    this.pml4 = this.page();
    const directory = this.page();
    this.words(this.pml4, [BigInt(directory) | PRESENT_WRITABLE]);
    const pages = this.page();
    this.words(directory, [BigInt(pages) | PRESENT_WRITABLE]);
    this.words(pages, [PRESENT_WRITABLE | LARGE]);
    this.#bootHost();
    const region = this.page();
    this.memory.view.setUint32(this.memory.offset(region, 4), REVISION_ID, true);
    assert(this.vmx.vmxon(region) === 'succeed', 'the processor enters VMX operation');
  }

  #print(value: number): void {
    this.console += String.fromCharCode(value & 0xff);
  }

  /** A zeroed page of the host's. */
  page(): number {
    const hpa = this.#nextPage;
    assert(hpa + PAGE_BYTES <= HOST_BYTES, 'the host has no page left');
    this.#nextPage += PAGE_BYTES;
    return hpa;
  }

  words(hpa: number, values: readonly bigint[]): void {
    for (const [index, value] of values.entries()) this.memory.view.setBigUint64(this.memory.offset(hpa + 8 * index, 8), value, true);
  }

  #bootHost(): void {
    const { state } = this.cpu;
    state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.NE | CR0.ET) | BigInt(CR0.PG));
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.VMXE));
    state.set64(OFFSET.EFER, BigInt(EFER.LME | EFER.LMA));
    state.setNumber(OFFSET.CR3, this.pml4);
    const data = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED | AR.DB | AR.G;
    const load = (seg: number, selector: number, rights: number): void => {
      state.setSegSelector(seg, selector);
      state.setSegBase(seg, 0n);
      state.setSegLimit(seg, 0xffffffff);
      state.setSegRights(seg, rights);
    };
    for (const seg of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS]) load(seg, 0x10, data);
    load(SEG.CS, 0x08, AR.P | AR.S | AR.CODE | AR.READABLE | AR.ACCESSED | AR.L | AR.G);
    load(SEG.TR, 0x40, AR.P | 0xb);
    load(SEG.LDTR, 0, AR.UNUSABLE);
    this.cpu.modeChanged();
  }
}

// The VMCS holds the state that an instruction of the host cannot exchange without ceasing to run: RIP, RSP, segments, control registers. The other general
// registers are left to software, which can move them one by one on either side of the entry. So a world has two parts.

const GENERAL_REGISTERS = 16;

interface WorldOptions {
  readonly entry: number;
  readonly stackTop: number;
  readonly gdtLimit?: number;
  /** The guest's port accesses reach the machine's devices and do not exit. */
  readonly ownsPorts?: boolean;
}

/** One guest: 32-bit, flat, without paging of its own, in ring 0, with a mebibyte of memory at address 0. */
export class World {
  readonly machine: RootMachine;
  /** Host physical address of the guest's memory. */
  readonly ram: number;
  crossings = 0;
  /** Told of each transition when it has been made: true after VM entry, false after VM exit. */
  onCrossing: ((inside: boolean) => void) | null = null;
  /** The general registers while the guest is out; RSP is in the VMCS. */
  readonly registers = new BigUint64Array(GENERAL_REGISTERS);
  readonly #vmcs: number;
  #launched = false;

  constructor(machine: RootMachine, index: number, { entry, stackTop, gdtLimit = 0xffff, ownsPorts = false }: WorldOptions) {
    this.machine = machine;
    this.ram = HOST_BYTES + index * GUEST_BYTES;
    this.#vmcs = machine.page();
    machine.memory.view.setUint32(machine.memory.offset(this.#vmcs, 4), REVISION_ID, true);
    const { vmx } = machine;
    assert(vmx.vmclear(this.#vmcs) === 'succeed' && vmx.vmptrld(this.#vmcs) === 'succeed', 'the VMCS is taken');
    this.#writeControls(ownsPorts);
    this.#writeHost();
    this.write({
      GUEST_CR0: CR0.PE | CR0.NE | CR0.ET,
      GUEST_CR4: CR4.VMXE,
      GUEST_DR7: 0x400,
      GUEST_RFLAGS: 2,
      GUEST_RIP: entry,
      GUEST_RSP: stackTop,
    });
    this.write({
      GUEST_GDTR_LIMIT: gdtLimit,
      GUEST_LDTR_AR_BYTES: AR.UNUSABLE,
      GUEST_TR_SELECTOR: 0x18,
      GUEST_TR_AR_BYTES: 0x8b,
      GUEST_TR_LIMIT: 0x67,
    });
    for (const name of ['CS', 'SS', 'DS', 'ES', 'FS', 'GS']) {
      const rights = name === 'CS' ? 0xc09b : 0xc093;
      this.write({ [`GUEST_${name}_SELECTOR`]: name === 'CS' ? 8 : 0x10, [`GUEST_${name}_AR_BYTES`]: rights, [`GUEST_${name}_LIMIT`]: 0xffffffff });
    }
  }

  #writeControls(ownsPorts: boolean): void {
    const { mask: C } = CPU_BASED;
    const none = this.machine.page(); // a bitmap of zeros: nothing that it covers exits
    const ports = ownsPorts ? C.USE_IO_BITMAPS : C.UNCOND_IO_EXITING;
    this.write({
      PIN_BASED_VM_EXEC_CONTROL: CAPABILITY.pin.trueDefault1,
      CPU_BASED_VM_EXEC_CONTROL: (CAPABILITY.cpuBased.trueDefault1 | C.ACTIVATE_SECONDARY_CONTROLS | C.HLT_EXITING | ports | C.USE_MSR_BITMAPS) >>> 0,
      SECONDARY_VM_EXEC_CONTROL: SECONDARY.mask.ENABLE_EPT | SECONDARY.mask.UNRESTRICTED_GUEST,
      VM_EXIT_CONTROLS: CAPABILITY.exit.trueDefault1 | EXIT.mask.HOST_ADDR_SPACE_SIZE | EXIT.mask.SAVE_IA32_EFER | EXIT.mask.LOAD_IA32_EFER,
      VM_ENTRY_CONTROLS: CAPABILITY.entry.trueDefault1 | ENTRY.mask.LOAD_IA32_EFER,
      EPT_POINTER: this.#ept() | EPTP.WB | (3 << EPTP.WALK_LENGTH_SHIFT),
      MSR_BITMAP: none,
      IO_BITMAP_A: none,
      IO_BITMAP_B: none,
      VMCS_LINK_POINTER: 0xffff_ffff_ffff_ffffn,
    });
  }

  /** Four levels, each with one table: the guest's pages in order, and nothing else. Returns the address of the top one. */
  #ept(): number {
    const { machine } = this;
    const [top, third, second, last] = [machine.page(), machine.page(), machine.page(), machine.page()] as const;
    for (const [table, next] of [
      [top, third],
      [third, second],
      [second, last],
    ] as const)
      machine.words(table, [BigInt(next) | EPT_ALL]);
    machine.words(
      last,
      Array.from({ length: PAGES }, (_, page) => BigInt(this.ram + page * PAGE_BYTES) | EPT_WRITE_BACK_PAGE),
    );
    return top;
  }

  #writeHost(): void {
    this.write({
      HOST_CR0: Number(this.machine.cpu.state.get64(OFFSET.CR0)),
      HOST_CR3: this.machine.pml4,
      HOST_CR4: CR4.PAE | CR4.VMXE,
      HOST_IA32_EFER: EFER.LME | EFER.LMA,
      HOST_CS_SELECTOR: 0x08,
      HOST_SS_SELECTOR: 0x10,
      HOST_DS_SELECTOR: 0x10,
      HOST_ES_SELECTOR: 0x10,
      HOST_TR_SELECTOR: 0x40,
      HOST_RIP: HOST_CODE,
      HOST_RSP: HOST_CODE,
    });
  }

  write(fields: Readonly<Partial<Record<FieldName, number | bigint>> | Record<string, number | bigint>>): void {
    for (const [name, value] of Object.entries(fields)) this.machine.vmx.vmwrite(FIELD[name as FieldName], BigInt(value as number | bigint));
  }

  read(name: FieldName): number {
    return Number(this.machine.vmx.vmread(FIELD[name]));
  }

  /** The byte that the guest has in AL, or is to find there. */
  get al(): number {
    return Number((this.registers[SLOT.RAX] as bigint) & 0xffn);
  }
  set al(byte: number) {
    this.registers[SLOT.RAX] = BigInt(byte);
  }

  load(gpa: number, code: readonly number[]): void {
    this.machine.memory.slice(this.ram + gpa, code.length).set(code);
    this.machine.cpu.engine.memoryChanged();
  }

  /** Enters the guest and runs it to its next exit. Returns the basic exit reason's name. */
  enter(): string {
    const { vmx, cpu } = this.machine;
    assert(vmx.vmptrld(this.#vmcs) === 'succeed', 'the VMCS is made current');
    for (let slot = 0; slot < GENERAL_REGISTERS; slot++) if (slot !== SLOT.RSP) cpu.state.setSlot(slot, this.registers[slot] as bigint);
    const outcome = this.#launched ? vmx.vmresume() : vmx.vmlaunch();
    assert(outcome === 'entered', `VM entry: ${outcome}`);
    this.#launched = true;
    this.onCrossing?.(true);
    const stop = cpu.run();
    assert(stop.kind === 'vmexit', `the guest left by ${stop.kind}`);
    this.onCrossing?.(false);
    for (let slot = 0; slot < GENERAL_REGISTERS; slot++) if (slot !== SLOT.RSP) this.registers[slot] = cpu.state.slot(slot);
    this.crossings++;
    return exitReasonName(this.read('VM_EXIT_REASON'));
  }

  /** Moves past the instruction that exited. */
  skip(): void {
    this.write({ GUEST_RIP: this.read('GUEST_RIP') + this.read('VM_EXIT_INSTRUCTION_LEN') });
  }
}
