// # The local APIC
//
// Every processor has one. It collects what is meant for that processor (messages from the bus, its own timer, two pins, its own errors), and decides
// which of it the processor should see, and when. The decision is a comparison of numbers: a vector's *priority class* is its upper four bits, and a
// vector is delivered if its class is above that of everything in service and above the task priority that software has set.
//
// The state is the register page itself, in the layout of `struct kvm_lapic_state`; only the timer and the mode live beside it.

import type { Clock } from '../../02-kvm-objects/clock.ts';
import type { Registers, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { array, describe, field, kind, part } from '../../03-vcpu-loop/devices/state.ts';
import type { ApicBus, ApicReceiver } from './apic-bus.ts';
import { isMeant } from './apic-destination.ts';
import { DELIVERY, SHORTHAND } from './apic-message.ts';
import { ApicTimer, MIN_PERIOD_NS, type TimeStamp } from './apic-timer.ts';
import {
  APIC_BASE,
  ESR,
  ICR,
  LAPIC,
  LAPIC_BASE,
  LAPIC_REGISTERS,
  LAPIC_VERSION,
  type LapicRegister,
  LVT,
  LVT_WRITABLE,
  SVR,
  VERSION_SUPPRESS_EOI,
  X2APIC_MSR,
} from './lapic-registers.ts';

const STATE_BYTES = 1024;
const FIRST_LEGAL_VECTOR = 16;

/** Not in x2APIC mode: the IDs have 32 bits, and ICR has 64. */
const XAPIC_ONLY: ReadonlySet<LapicRegister> = new Set(['APR', 'DFR', 'ICR2']);

export interface LocalApicOptions {
  /** The processor's number, and its APIC ID after reset. */
  readonly id: number;
  readonly clock: Clock;
  readonly bus: ApicBus;
  /** Something may be deliverable: a halted processor should look. */
  readonly onWake: () => void;
  readonly onNmi: () => void;
  readonly onInit: () => void;
  readonly onSipi: (vector: number) => void;
  readonly onSmi?: () => void;
  /** Every EOI, edge-triggered vectors' too: KVM's acknowledge notifiers want to hear of those. Before the bus is told. */
  readonly onEoi?: (vector: number, levelTriggered: boolean) => void;
  /** For TSC-deadline mode; without it LVT timer mode 2 cannot be chosen. */
  readonly tsc?: TimeStamp;
  /** The processor that starts first. Default: that with number 0. */
  readonly bootstrap?: boolean;
  /** CPUID has x2APIC. */
  readonly x2apic?: boolean;
  /** Software may suppress the EOI broadcast: for I/O APICs with an EOI register. */
  readonly suppressEoi?: boolean;
  /** Limits reserved bits of IA32_APIC_BASE. */
  readonly physicalAddressBits?: number;
  readonly minPeriodNs?: number;
}

export class LocalApic implements ApicReceiver {
  readonly id: number;
  readonly #options: LocalApicOptions;
  readonly #bus: ApicBus;
  readonly #regs = new Uint8Array(STATE_BYTES);
  readonly #view = new DataView(this.#regs.buffer);
  readonly #timer: ApicTimer;
  #base = 0n;
  #errors = 0; // collected until ESR is written
  #lint = [false, false];
  /** CPUID may change after the APIC was made. */
  x2apicAllowed: boolean;
  /** The page at 0xfee00000, in xAPIC mode. */
  readonly registers: Registers;

  constructor(options: LocalApicOptions) {
    this.#options = options;
    this.id = options.id;
    this.#bus = options.bus;
    this.x2apicAllowed = options.x2apic ?? true;
    this.#timer = new ApicTimer({
      clock: options.clock,
      tsc: options.tsc ?? null,
      minPeriodNs: options.minPeriodNs ?? MIN_PERIOD_NS,
      onExpire: () => this.#local('TIMER'),
    });
    this.registers = {
      name: LAPIC_REGISTERS.device,
      read: (offset, width) => this.#mmioRead(offset, width),
      write: (offset, width, value) => this.#mmioWrite(offset, width, value),
    };
    this.reset();
    options.bus.add(this);
  }

  #get(register: LapicRegister, index = 0): number {
    return this.#view.getUint32(LAPIC[register] + 16 * index, true);
  }

  #set(register: LapicRegister, value: number, index = 0): void {
    this.#view.setUint32(LAPIC[register] + 16 * index, value, true);
  }

  // ## Three sets of 256 bits

  #bit(register: 'IRR' | 'ISR' | 'TMR', vector: number): boolean {
    return (this.#get(register, vector >> 5) & (1 << (vector & 31))) !== 0;
  }

  #setBit(register: 'IRR' | 'ISR' | 'TMR', vector: number, on: boolean): void {
    const word = this.#get(register, vector >> 5);
    const mask = 1 << (vector & 31);
    this.#set(register, on ? word | mask : word & ~mask, vector >> 5);
  }

  #highest(register: 'IRR' | 'ISR'): number {
    for (let index = 7; index >= 0; index--) {
      const word = this.#get(register, index);
      if (word !== 0) return 32 * index + 31 - Math.clz32(word);
    }
    return -1;
  }

  // ## What the processor should see

  // @clause lapic.priority
  /** Processor priority. */
  get ppr(): number {
    const tpr = this.#get('TPR');
    const inService = Math.max(0, this.#highest('ISR'));
    return (tpr & 0xf0) >= (inService & 0xf0) ? tpr & 0xff : inService & 0xf0;
  }

  // @clause lapic.tpr
  /** The vector that the processor should take now, or -1. */
  pending(): number {
    if (!this.enabled) return -1;
    const vector = this.#highest('IRR');
    return vector >= 0 && (vector & 0xf0) > (this.ppr & 0xf0) ? vector : -1;
  }

  // @clause lapic.self
  // @clause lapic.spurious
  /** The processor takes it. When it is gone by then, the spurious vector, which is never in service and needs no EOI. */
  acknowledge(): number {
    const vector = this.pending();
    if (vector < 0) return this.#get('SVR') & SVR.VECTOR;
    this.#setBit('IRR', vector, false);
    this.#setBit('ISR', vector, true);
    return vector;
  }

  // The 8259s of a PC sit on LINT0 of the first processor. Firmware leaves that pin open and in ExtINT mode, and so do APICs that are switched off.
  // @clause kvm.irqchip.extint
  /** Whether the processor listens to the 8259s. */
  acceptsExtInt(): boolean {
    const lvt = this.#get('LINT0');
    return !this.enabled || ((lvt & LVT.MASK) === 0 && (lvt & LVT.MODE) >> 8 === DELIVERY.EXTINT);
  }

  get tpr(): number {
    return this.#get('TPR');
  }
  set tpr(value: number) {
    this.#set('TPR', value & 0xff);
  }

  // @clause lapic.cr8
  get cr8(): number {
    return this.#get('TPR') >> 4;
  }
  set cr8(value: number) {
    this.#set('TPR', (value & 0xf) << 4);
  }

  // ## Receiving
  //
  // One bit for each vector: a second request before the first is in service is the same request. The trigger mode is noted beside it, for the EOI.

  // @clause lapic.irr
  /** Takes what a message or a local source asks for: 1, or 0 when it is not taken. */
  deliver(mode: number, vector: number, level: boolean, levelTriggered: boolean): number {
    switch (mode) {
      case DELIVERY.FIXED:
      case DELIVERY.LOWEST_PRIORITY:
        if ((levelTriggered && !level) || !this.softwareEnabled) return 0;
        if (vector < FIRST_LEGAL_VECTOR) {
          this.#error(ESR.RECEIVE_ILLEGAL);
          return 1;
        }
        this.#setBit('TMR', vector, levelTriggered);
        this.#setBit('IRR', vector, true);
        this.#options.onWake();
        return 1;
      case DELIVERY.NMI:
        this.#options.onNmi();
        return 1;
      case DELIVERY.SMI:
        this.#options.onSmi?.();
        return 1;
      case DELIVERY.INIT:
        if (levelTriggered && !level) return 0; // de-assert: meant for processors before the Pentium 4
        this.#options.onInit();
        return 1;
      case DELIVERY.STARTUP:
        this.#options.onSipi(vector);
        return 1;
      default:
        return 0; // ExtINT and remote read do not travel on this bus
    }
  }

  /** Switched on in IA32_APIC_BASE. */
  get enabled(): boolean {
    return (this.#base & APIC_BASE.ENABLE) !== 0n;
  }
  get x2apicMode(): boolean {
    return (this.#base & APIC_BASE.X2APIC) !== 0n;
  }
  /** Also switched on in SVR. Off, it takes NMI, SMI, INIT and startup messages only. */
  get softwareEnabled(): boolean {
    return this.enabled && (this.#get('SVR') & SVR.ENABLE) !== 0;
  }

  /** Is a message to `destination` for this processor? */
  matches(destination: number, logical: boolean, ipi: boolean): boolean {
    const { x2apicMode, id } = this;
    const names = { x2apicMode, id, idRegister: this.#get('ID'), ldr: this.#get('LDR'), dfr: this.#get('DFR') };
    return isMeant(names, destination, logical, ipi);
  }

  // ## Sources of its own

  #local(entry: 'TIMER' | 'LINT0' | 'LINT1' | 'ERROR' | 'THERMAL' | 'COUNTER'): number {
    const lvt = this.#get(entry);
    if (!this.enabled || lvt & LVT.MASK) return 0;
    return this.deliver((lvt & LVT.MODE) >> 8, lvt & LVT.VECTOR, true, (lvt & LVT.LEVEL) !== 0);
  }

  /** Drives LINT0 or LINT1. In ExtINT mode nothing happens here: the processor asks {@link acceptsExtInt}. */
  lint(pin: 0 | 1, level: boolean): void {
    const rises = level && !this.#lint[pin];
    this.#lint[pin] = level;
    if (!rises) return;
    // A processor whose APIC is switched off has two plain pins instead: INTR, and NMI.
    if (!this.enabled && pin === 1) this.#options.onNmi();
    else this.#local(pin === 0 ? 'LINT0' : 'LINT1');
  }

  /** KVM's virtual wire for a watchdog: each tick of the 8254 is an NMI wherever LINT0 is in NMI mode. */
  pitTick(): void {
    if ((this.#get('LINT0') & LVT.MODE) >> 8 === DELIVERY.NMI) this.#local('LINT0');
  }

  // The error that an error interrupt's own vector is illegal is noted, but does not ask again.
  // @clause lapic.illegal-vector
  #error(bits: number): void {
    const known = (this.#errors & bits) === bits;
    this.#errors |= bits;
    if (known || (this.#get('ERROR') & LVT.VECTOR) < FIRST_LEGAL_VECTOR) return;
    this.#local('ERROR');
  }

  // ## Finishing

  // @clause lapic.eoi
  // @clause ioapic.level
  #eoi(): void {
    const vector = this.#highest('ISR');
    if (vector < 0) return;
    this.#setBit('ISR', vector, false);
    this.#options.onEoi?.(vector, this.#bit('TMR', vector));
    if (this.#bit('TMR', vector) && (this.#get('SVR') & SVR.SUPPRESS_EOI) === 0) this.#bus.eoi(vector);
  }

  // ## Sending

  // @clause lapic.nmi
  #sendIpi(command: number, destination: number): void {
    const mode = (command >> 8) & 7;
    const vector = command & 0xff;
    if (vector < FIRST_LEGAL_VECTOR && (mode === DELIVERY.FIXED || mode === DELIVERY.LOWEST_PRIORITY)) {
      this.#error(ESR.SEND_ILLEGAL); // and nothing is sent
      return;
    }
    const message = {
      vector,
      mode,
      destination,
      logical: (command & (1 << 11)) !== 0,
      level: (command & (1 << 14)) !== 0,
      levelTriggered: (command & (1 << 15)) !== 0,
      shorthand: (command >> 18) & 3,
    };
    // Only INIT knows a trigger mode here; the bit of a fixed interrupt is ignored by processors since the Pentium 4, and so is its level.
    const plain = mode !== DELIVERY.INIT;
    this.#bus.deliver(plain ? { ...message, level: true, levelTriggered: false } : message, this);
  }

  // ## Registers, in either mode

  #read(register: LapicRegister, index: number): number {
    switch (register) {
      case 'PPR':
        return this.ppr;
      case 'APR':
        return this.ppr;
      case 'CURRENT':
        return this.#timer.currentCount;
      case 'ID':
        return this.x2apicMode ? this.id : this.#get('ID');
      default:
        return this.#get(register, index);
    }
  }

  #write(register: LapicRegister, value: number): void {
    switch (register) {
      case 'ID':
        this.#set('ID', value & 0xff00_0000);
        break;
      case 'TPR':
        this.tpr = value;
        break;
      case 'EOI':
        this.#eoi();
        break;
      case 'LDR':
        this.#set('LDR', value & 0xff00_0000);
        break;
      case 'DFR':
        this.#set('DFR', value | 0x0fff_ffff);
        break;
      case 'SVR':
        this.#writeSvr(value);
        break;
      case 'ESR':
        this.#set('ESR', this.#errors);
        this.#errors = 0;
        break;
      case 'ICR':
        this.#set('ICR', value & ~ICR.BUSY); // a message is gone as soon as it is sent
        this.#sendIpi(value, this.x2apicMode ? this.#get('ICR2') : this.#get('ICR2') >>> 24);
        break;
      case 'ICR2':
        this.#set('ICR2', value & 0xff00_0000);
        break;
      case 'SELF_IPI':
        this.#sendIpi((SHORTHAND.SELF << 18) | (value & 0xff), 0);
        break;
      case 'INITIAL':
        this.#timer.start(value);
        this.#set('INITIAL', this.#timer.initialCount);
        break;
      case 'DIVIDE':
        this.#set('DIVIDE', value & 0xb);
        this.#timer.divide = this.#divider;
        break;
      default:
        if (register in LVT_WRITABLE) this.#writeLvt(register, value);
    }
  }

  get #svrWritable(): number {
    const suppress = this.#get('VERSION') & VERSION_SUPPRESS_EOI ? SVR.SUPPRESS_EOI : 0;
    return SVR.VECTOR | SVR.ENABLE | SVR.FOCUS | suppress;
  }

  #writeSvr(value: number): void {
    this.#set('SVR', value & this.#svrWritable);
    if (value & SVR.ENABLE) return;
    // Switching off masks every local source; switching on again leaves them masked.
    for (const entry of Object.keys(LVT_WRITABLE) as LapicRegister[]) this.#set(entry, this.#get(entry) | LVT.MASK);
  }

  // @clause lapic.software-disable
  #writeLvt(register: LapicRegister, value: number): void {
    const mask = this.#get('SVR') & SVR.ENABLE ? 0 : LVT.MASK;
    let writable = LVT_WRITABLE[register] as number;
    // Without a TSC to compare with there is no deadline mode: its bit cannot be set.
    if (register === 'TIMER' && !this.#options.tsc) writable &= ~(1 << 18);
    this.#set(register, (value | mask) & writable);
    if (register === 'TIMER') this.#timer.mode = this.#timerMode;
  }

  get #timerMode(): number {
    return (this.#get('TIMER') & LVT.TIMER_MODE) >> 17;
  }

  /** 0 divides by 2, 6 by 128, 7 by 1. */
  get #divider(): number {
    const value = this.#get('DIVIDE');
    return 2 ** ((((value & 3) | ((value & 8) >> 1)) + 1) & 7);
  }

  // ## xAPIC: a page
  //
  // Only aligned words can be written; narrower reads work within a register. In x2APIC mode, and when switched off, the page is not there.

  // @clause lapic.registers
  #mmioRead(offset: number, width: Width): bigint {
    if (!this.enabled || this.x2apicMode) return (1n << BigInt(8 * width)) - 1n;
    const byte = offset & 0xf;
    if (byte + width > 4) return 0n;
    const found = LAPIC_REGISTERS.at(offset - byte);
    if (!found || found.row.access === 'wo') {
      this.#error(ESR.ILLEGAL_REGISTER);
      return 0n;
    }
    const value = BigInt(this.#read(found.name, found.index) >>> 0) >> BigInt(8 * byte);
    return value & ((1n << BigInt(8 * width)) - 1n);
  }

  #mmioWrite(offset: number, width: Width, value: bigint): void {
    if (!this.enabled || this.x2apicMode || width !== 4 || (offset & 0xf) !== 0) return;
    const found = LAPIC_REGISTERS.at(offset);
    if (!found || found.row.access === 'ro' || found.name === 'SELF_IPI') this.#error(ESR.ILLEGAL_REGISTER);
    else this.#write(found.name, Number(value));
  }

  // ## x2APIC: MSRs
  //
  // The answer to a wrong access is a fault instead of silence.

  // @clause lapic.x2apic-registers
  /** RDMSR of 0x800–0x83f. Null: #GP. */
  readMsr(msr: number): bigint | null {
    const found = this.#msr(msr);
    if (!found || found.row.access === 'wo') return null;
    const low = BigInt(this.#read(found.name, found.index) >>> 0);
    return found.name === 'ICR' ? low | (BigInt(this.#get('ICR2')) << 32n) : low;
  }

  /** WRMSR. False: #GP. */
  writeMsr(msr: number, value: bigint): boolean {
    const found = this.#msr(msr);
    if (!found || found.row.access === 'ro' || found.name === 'ID' || found.name === 'LDR') return false;
    if (found.name === 'ICR') this.#set('ICR2', Number(value >> 32n));
    else if (value >> 32n !== 0n) return false;
    // @clause lapic.x2apic-commands
    if ((found.name === 'EOI' || found.name === 'ESR') && value !== 0n) return false;
    if ((found.name === 'SELF_IPI' || found.name === 'TPR') && value > 0xffn) return false;
    if (found.name === 'SVR' && Number(value) & ~this.#svrWritable) return false;
    if (found.name === 'ICR' && value & ICR.X2APIC_RESERVED) return false;
    this.#write(found.name, Number(value & 0xffff_ffffn));
    return true;
  }

  #msr(msr: number) {
    const found = this.enabled && this.x2apicMode ? LAPIC_REGISTERS.at((msr - X2APIC_MSR) << 4) : null;
    return found && !XAPIC_ONLY.has(found.name) ? found : null;
  }

  // ## Switching modes
  //
  // Off, xAPIC, x2APIC: the way up is one step at a time, the way down from x2APIC leads only through off. A fourth combination of the two bits means
  // nothing.

  get apicBase(): bigint {
    return this.#base;
  }

  get baseAddress(): number {
    return Number(this.#base & APIC_BASE.ADDRESS);
  }

  // @clause lapic.x2apic-states
  /** WRMSR of IA32_APIC_BASE. False: #GP. `host`: KVM_SET_MSRS and KVM_SET_SREGS may make any valid state. */
  setApicBase(value: bigint, host = false): boolean {
    const writable = (1n << BigInt(this.#options.physicalAddressBits ?? 52)) - 1n;
    const reserved = ~(writable & (APIC_BASE.ADDRESS | APIC_BASE.BSP | APIC_BASE.ENABLE | (this.x2apicAllowed ? APIC_BASE.X2APIC : 0n)));
    const mode = value & (APIC_BASE.ENABLE | APIC_BASE.X2APIC);
    if (value & reserved || mode === APIC_BASE.X2APIC) return false;
    const to2 = (value & APIC_BASE.X2APIC) !== 0n;
    if (!host && this.x2apicMode && !to2 && mode !== 0n) return false;
    if (!host && !this.enabled && to2) return false;
    const before = this.#base;
    this.#base = value;
    if ((before ^ value) & (APIC_BASE.ENABLE | APIC_BASE.X2APIC)) {
      if (to2) this.#set('LDR', this.#x2apicLdr);
      else if ((before & APIC_BASE.ENABLE) === 0n || before & APIC_BASE.X2APIC) this.#set('ID', this.id << 24);
    }
    this.#options.onWake();
    return true;
  }

  get #x2apicLdr(): number {
    return ((this.id >>> 4) << 16) | (1 << (this.id & 0xf));
  }

  // ## The timer's MSR

  /** IA32_TSC_DEADLINE. */
  get tscDeadline(): bigint {
    return this.#timer.deadline;
  }
  set tscDeadline(value: bigint) {
    this.#timer.deadline = value;
  }

  /** The guest's time-stamp counter was written. */
  tscChanged(): void {
    this.#timer.tscChanged();
  }

  // ## Reset

  /** Power-up. */
  reset(): void {
    const bootstrap = this.#options.bootstrap ?? this.id === 0;
    this.#base = BigInt(LAPIC_BASE) | APIC_BASE.ENABLE | (bootstrap ? APIC_BASE.BSP : 0n);
    this.#clear();
    this.#set('ID', this.id << 24);
    this.#set('LDR', 0);
    // A PC's firmware opens LINT0 to the 8259s. There may be no firmware: KVM opens it at reset.
    // @clause kvm.irqchip.extint
    if (bootstrap) this.#set('LINT0', DELIVERY.EXTINT << 8);
  }

  // @clause lapic.init-sipi
  /** INIT: as power-up, but the ID and IA32_APIC_BASE stay. */
  init(): void {
    const [id, ldr] = [this.#get('ID'), this.#get('LDR')];
    this.#clear();
    this.#set('ID', id);
    this.#set('LDR', this.x2apicMode ? ldr : 0);
  }

  #clear(): void {
    this.#regs.fill(0);
    for (const [name, { reset = 0 }] of Object.entries(LAPIC_REGISTERS.rows) as [LapicRegister, { reset?: number }][]) {
      if (reset !== 0) this.#set(name, reset);
    }
    if (this.#options.suppressEoi) this.#set('VERSION', this.#get('VERSION') | VERSION_SUPPRESS_EOI);
    this.#errors = 0;
    this.#timer.stop();
    this.#timer.mode = this.#timerMode;
    this.#timer.divide = this.#divider;
  }

  // ## State
  //
  // KVM_GET_LAPIC is the page as it is, with one thing repaired: a program from before x2APIC expects the ID in the upper eight bits, and gets it there
  // unless it has asked for 32-bit IDs.

  // @clause kvm.irqchip.state
  /** `struct kvm_lapic_state`. */
  save(x2apicFormat = false): Uint8Array {
    const out = this.#regs.slice();
    const view = new DataView(out.buffer);
    view.setUint32(LAPIC.CURRENT, this.#timer.currentCount, true);
    view.setUint32(LAPIC.PPR, this.ppr, true);
    if (this.x2apicMode) view.setUint32(LAPIC.ID, x2apicFormat ? this.id : this.id << 24, true);
    return out;
  }

  /** Takes such a structure. False (EINVAL): in x2APIC mode the ID cannot be another one. */
  load(bytes: Uint8Array, x2apicFormat = false): boolean {
    if (bytes.length < STATE_BYTES) return false;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (this.x2apicMode && x2apicFormat && view.getUint32(LAPIC.ID, true) !== this.id) return false;
    this.#regs.set(bytes.subarray(0, STATE_BYTES));
    this.#set('VERSION', LAPIC_VERSION | (this.#options.suppressEoi ? VERSION_SUPPRESS_EOI : 0));
    if (this.x2apicMode) this.#set('LDR', this.#x2apicLdr);
    this.#timer.stop();
    this.#timer.mode = this.#timerMode;
    this.#timer.divide = this.#divider;
    this.#timer.start(this.#get('INITIAL'), this.#get('CURRENT'));
    this.#options.onWake();
    return true;
  }

  // A kernel's own APIC is saved by the request above, for whoever uses it may know no other way. One in user space is saved whole: with the
  // nanosecond of its timer.

  static readonly STATE = describe<LocalApic>('local APIC', 1, {
    regs: array((apic) => apic.#regs),
    base: field(
      kind.u64,
      (apic) => apic.#base,
      (apic, base) => {
        apic.#base = base;
      },
    ),
    inputs: field(
      kind.record({ errors: kind.u8, lint0: kind.flag, lint1: kind.flag }),
      (apic) => ({ errors: apic.#errors, lint0: apic.#lint[0] === true, lint1: apic.#lint[1] === true }),
      (apic, { errors, lint0, lint1 }) => {
        apic.#errors = errors;
        apic.#lint = [lint0, lint1];
      },
    ),
    timer: part((apic) => apic.#timer, ApicTimer.STATE),
  });
}
