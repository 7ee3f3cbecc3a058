// # Power management
//
// ACPI moved power off, sleep and the power button from the firmware into the operating system, and for that gave them registers with fixed
// meanings at an address that a table tells. In Intel's ICH9 they are 128 ports, wherever PMBASE points; in the PIIX4 before it, 64 in nearly the
// same order. A guest uses four things of it: the
// *PM timer*, a counter that runs at {{PM_TIMER_HZ}} Hz whatever the processor does; the power button's status bit; the control
// register's sleep type, which is how a machine switches itself off; and the line SCI, by which all of that interrupts.
//
// There is no system management mode here. Firmware that finds APMC_EN set in SMI_EN concludes that somebody has set up SMM already, and leaves it.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { array, describe, field, kind, timer } from '../../03-vcpu-loop/devices/state.ts';
import { type RegisterActions, RegisterFile, type RegisterTable, registerTable } from '../registers.ts';
import type { Wire } from '../wires.ts';
import { nsAtTick, ticksAt } from './ticks.ts';

/** Where the firmware and the tables expect it. The LPC bridge's PMBASE moves it. */
export const PM_BASE = 0x600;
/** The global system interrupt of SCI. */
export const SCI_GSI = 9;
export const PM_TIMER_HZ = 3_579_545;
export const APM_PORT = 0xb2;

// ::layout pmTable -- The block at PMBASE, as ACPI and the chip set define it together.

export const pmTable = registerTable('ich9-pm', 'Intel ICH9 data sheet, Power Management I/O Registers', {
  PM1_STS: { offset: 0x00, bytes: 2, access: 'rw1c', text: 'what has happened: timer carry, power button, wake' },
  PM1_EN: { offset: 0x02, bytes: 2, access: 'rw', text: 'which of it raises SCI' },
  PM1_CNT: { offset: 0x04, bytes: 4, access: 'rw', text: 'SCI_EN; sleep type, and the bit that starts it' },
  PM1_TMR: { offset: 0x08, bytes: 4, access: 'ro', text: 'the PM timer' },
  GPE0_STS: { offset: 0x20, bytes: 4, access: 'rw1c', text: 'general-purpose events that have happened', count: 2 },
  GPE0_EN: { offset: 0x28, bytes: 4, access: 'rw', text: 'which of them raise SCI', count: 2 },
  SMI_EN: { offset: 0x30, bytes: 4, access: 'ro', reset: 0x20, text: 'APMC_EN is set, and locked: there is no SMM' },
  SMI_STS: { offset: 0x34, bytes: 4, access: 'rw1c', text: 'never anything' },
  TCO_RLD: { offset: 0x60, bytes: 2, access: 'rw', text: 'watchdog: reload' },
  TCO_DAT_IN: { offset: 0x62, bytes: 1, access: 'rw', text: 'a byte for the SMI handler' },
  TCO_DAT_OUT: { offset: 0x63, bytes: 1, access: 'rw', text: 'a byte from it' },
  TCO1_STS: { offset: 0x64, bytes: 2, access: 'rw1c', text: 'watchdog: has it expired once' },
  TCO2_STS: { offset: 0x66, bytes: 2, access: 'rw1c', text: 'watchdog: has it expired twice' },
  TCO1_CNT: { offset: 0x68, bytes: 2, access: 'rw', text: 'watchdog: halted, always' },
  TCO2_CNT: { offset: 0x6a, bytes: 2, access: 'rw', reset: 0x08, text: 'what an intruder does' },
  TCO_MESSAGE: { offset: 0x6c, bytes: 1, access: 'rw', text: 'two bytes for software', count: 2 },
  TCO_WDCNT: { offset: 0x6e, bytes: 1, access: 'rw', text: 'a byte for software' },
  SW_IRQ_GEN: { offset: 0x70, bytes: 1, access: 'rw', reset: 0x03, text: 'IRQ 1 and 12 by software' },
  TCO_TMR: { offset: 0x72, bytes: 2, access: 'rw', reset: 0x04, text: 'watchdog: from where it counts down' },
});

// ::layout piix4PmTable -- The older chip's block. Its general-purpose events have sixteen bits, and another place.

export const piix4PmTable = registerTable('piix4-pm-io', 'Intel 82371AB (PIIX4) data sheet, Power Management I/O Registers', {
  PM1_STS: { offset: 0x00, bytes: 2, access: 'rw1c', text: 'what has happened: timer carry, power button, wake' },
  PM1_EN: { offset: 0x02, bytes: 2, access: 'rw', text: 'which of it raises SCI' },
  PM1_CNT: { offset: 0x04, bytes: 2, access: 'rw', text: 'SCI_EN; sleep type, and the bit that starts it' },
  PM1_TMR: { offset: 0x08, bytes: 4, access: 'ro', text: 'the PM timer' },
  GPE0_STS: { offset: 0x0c, bytes: 2, access: 'rw1c', text: 'general-purpose events that have happened' },
  GPE0_EN: { offset: 0x0e, bytes: 2, access: 'rw', text: 'which of them raise SCI' },
  PCNTRL: { offset: 0x10, bytes: 4, access: 'rw', text: 'how to slow the processor down' },
  PLVL2: { offset: 0x14, bytes: 1, access: 'ro', text: 'reading it would put the processor to sleep' },
  PLVL3: { offset: 0x15, bytes: 1, access: 'ro', text: 'and deeper' },
  GLBSTS: { offset: 0x18, bytes: 2, access: 'rw1c', text: 'causes of system management interrupts: never any' },
  DEVSTS: { offset: 0x1c, bytes: 4, access: 'rw1c', text: 'devices that are idle: none is watched' },
  GLBEN: { offset: 0x20, bytes: 2, access: 'rw', text: 'which causes count' },
  GLBCTL: { offset: 0x28, bytes: 4, access: 'rw', text: 'system management interrupts' },
  DEVCTL: { offset: 0x2c, bytes: 4, access: 'rw', text: 'which devices are watched' },
  GPIREG: { offset: 0x30, bytes: 1, access: 'ro', count: 3, text: 'general-purpose pins: inputs' },
  GPOREG: { offset: 0x34, bytes: 1, access: 'rw', count: 4, text: 'outputs' },
});

/** Which chip has the registers. */
export type PmChip = 'ich9' | 'piix4';

/** How many ports each has. */
export const PM_PORTS: Readonly<Record<PmChip, number>> = { ich9: 128, piix4: 64 };

/** What both chips have, by whatever offset. */
export const pmTables = { ich9: pmTable, piix4: piix4PmTable } as const satisfies Record<PmChip, RegisterTable>;

const PM1 = { TMR: 0x0001, BM: 0x0010, GBL: 0x0020, PWRBTN: 0x0100, SLPBTN: 0x0200, RTC: 0x0400, WAK: 0x8000 } as const;
const PM1_STATUS_BITS = PM1.TMR | PM1.BM | PM1.GBL | PM1.PWRBTN | PM1.SLPBTN | PM1.RTC | PM1.WAK;
const PM1_ENABLE_BITS = PM1.TMR | PM1.GBL | PM1.PWRBTN | PM1.SLPBTN | PM1.RTC;
const CNT = { SCI_EN: 0x0001, SLP_TYP: 0x1c00, SLP_EN: 0x2000 } as const;
const CNT_KEPT = CNT.SCI_EN | 0x0002 | CNT.SLP_TYP;

// The number that a chip set wants in SLP_TYP for each state is its own business; the tables tell it. The ICH9 data sheet has 7 for "off", QEMU's machines
// and SeaBIOS have 0, as the older PIIX4 did. Both are off here. Sleeping states are refused: nothing happens, and the tables do not offer them.
/** SLP_TYP of soft-off in the tables. */
export const SLEEP_TYPE_OFF = 0;
const SLEEP_TYPES_OFF: readonly number[] = [SLEEP_TYPE_OFF, 7];

// After a reset these registers belong to the firmware. An operating system that wants them writes a value, which a table tells, to the APM port;
// on a board that is a system management interrupt, whose handler sets SCI_EN. Here the port does it by itself.
/** Written to the APM port: hand the registers over; take them back. */
export const ACPI_ENABLE = 0x02;
export const ACPI_DISABLE = 0x03;

interface PowerOptions {
  readonly clock: Clock;
  /** The line SCI. A level. */
  readonly sci: Wire;
  /** The guest has switched itself off. */
  readonly onPowerOff: () => void;
  readonly chip?: PmChip;
  readonly timerBits?: 24 | 32;
  readonly trace?: Trace | null;
}

/** Registers without a consequence, and items of one of them, at most. */
const KEPT_LIMIT = 64;

export class PowerManagement {
  /** The ports at PMBASE. */
  readonly registers: Registers;
  /** Two ports at {@link APM_PORT}. */
  readonly apm: Registers;
  readonly #clock: Clock;
  readonly #sci: Wire;
  readonly #onPowerOff: () => void;
  readonly #trace: Trace | null;
  readonly #timerBits: 24 | 32;
  readonly #carry: Timer;
  #status = 0;
  #enable = 0;
  #control = 0;
  #carries = 0; // of the timer, that have been turned into the status bit
  #gpeStatus = [0, 0];
  #gpeEnable = [0, 0];
  #apm = [0, 0];
  /** Registers that only remember. */
  readonly #kept = new Map<string, { readonly values: number[]; readonly reset: number }>();
  #level = false;

  constructor({ clock, sci, onPowerOff, chip = 'ich9', timerBits = 24, trace = null }: PowerOptions) {
    this.#clock = clock;
    this.#sci = sci;
    this.#onPowerOff = onPowerOff;
    this.#timerBits = timerBits;
    this.#trace = trace;
    this.#carry = clock.timer(() => this.#update());
    this.#carries = this.#carriesNow;
    const actions: Record<string, RegisterActions> = {
      PM1_STS: { read: () => this.#readStatus(), write: (value) => this.#clearStatus(value) },
      PM1_EN: { read: () => this.#enable, write: (value) => this.#setEnable(value) },
      PM1_CNT: { read: () => this.#control, write: (value) => this.#setControl(value) },
      PM1_TMR: { read: () => this.timer },
      GPE0_STS: { read: (index) => this.#gpeStatus[index] as number, write: (value, index) => this.#clearGpe(value, index) },
      GPE0_EN: { read: (index) => this.#gpeEnable[index] as number, write: (value, index) => this.#enableGpe(value, index) },
    };
    // Registers without a consequence remember what was written.
    const table: RegisterTable = pmTables[chip];
    for (const [name, { access, count = 1, reset = 0 }] of Object.entries(table.rows)) {
      if (access !== 'rw' || actions[name]) continue;
      const values = Array.from({ length: count }, () => reset);
      this.#kept.set(name, { values, reset });
      actions[name] = {
        read: (index) => values[index] as number,
        write: (value, index) => {
          values[index] = value;
        },
      };
    }
    this.registers = new RegisterFile(table, actions);
    this.apm = {
      name: 'apm',
      read: (offset, width) =>
        width === 1 ? BigInt(this.#apm[offset] as number) : BigInt((this.#apm[0] as number) | ((this.#apm[1] as number) << 8)),
      write: (offset, width, value) => {
        for (let index = width - 1; index >= 0; index--) this.#writeApm(offset + index, Number((value >> BigInt(8 * index)) & 0xffn));
      },
    };
  }

  // ## The timer
  //
  // Its carry is the highest bit changing, either way. Nobody counts ticks: what the counter shows follows from the clock, and the next carry is a
  // timer, which is only armed while somebody wants the interrupt.

  /** What the counter shows. */
  get timer(): number {
    const ticks = ticksAt(this.#clock.now(), PM_TIMER_HZ);
    return this.#timerBits === 32 ? ticks % 2 ** 32 : ticks % 2 ** 24;
  }

  get #carryTicks(): number {
    return 2 ** (this.#timerBits - 1);
  }

  get #carriesNow(): number {
    return Math.floor(ticksAt(this.#clock.now(), PM_TIMER_HZ) / this.#carryTicks);
  }

  // @clause acpi.pm-timer.carry
  #readStatus(): number {
    if (this.#carriesNow > this.#carries) this.#status |= PM1.TMR;
    this.#carries = this.#carriesNow;
    return this.#status;
  }

  #update(): void {
    const status = this.#readStatus();
    const events = (status & this.#enable) !== 0 || this.#gpeStatus.some((bits, index) => (bits & (this.#gpeEnable[index] as number)) !== 0);
    const level = events && (this.#control & CNT.SCI_EN) !== 0;
    if (level !== this.#level) {
      this.#level = level;
      this.#sci.set(level);
    }
    if (this.#enable & PM1.TMR && !(status & PM1.TMR)) this.#carry.arm(nsAtTick((this.#carries + 1) * this.#carryTicks, PM_TIMER_HZ));
    else this.#carry.cancel();
  }

  #clearStatus(ones: number): void {
    this.#readStatus();
    this.#status &= ~ones & PM1_STATUS_BITS;
    this.#update();
  }

  #setEnable(value: number): void {
    this.#enable = value & PM1_ENABLE_BITS;
    this.#update();
  }

  // @clause acpi.sleep.soft-off
  #setControl(value: number): void {
    this.#control = value & CNT_KEPT;
    const type = (value & CNT.SLP_TYP) >> 10;
    if (value & CNT.SLP_EN) {
      this.#trace?.emit({ kind: 'device', device: this.registers.name, what: 'sleep', value: type });
      if (SLEEP_TYPES_OFF.includes(type)) this.#onPowerOff();
    }
    this.#update();
  }

  #clearGpe(ones: number, index: number): void {
    this.#gpeStatus[index] = ((this.#gpeStatus[index] as number) & ~ones) >>> 0;
    this.#update();
  }

  #enableGpe(value: number, index: number): void {
    this.#gpeEnable[index] = value;
    this.#update();
  }

  #writeApm(index: number, value: number): void {
    if (index > 1) return;
    this.#apm[index] = value;
    if (index !== 0) return;
    if (value === ACPI_ENABLE) this.#control |= CNT.SCI_EN;
    if (value === ACPI_DISABLE) this.#control &= ~CNT.SCI_EN;
    this.#update();
  }

  // ## What happens outside

  /** Somebody presses the button. What comes of it is the guest's decision. */
  pressPowerButton(): void {
    this.#status |= PM1.PWRBTN;
    this.#update();
  }

  /** A general-purpose event, 0 to 63. */
  raiseGpe(event: number): void {
    const index = event >> 5;
    this.#gpeStatus[index] = ((this.#gpeStatus[index] as number) | (1 << (event & 31))) >>> 0;
    this.#update();
  }

  /** As after power-on. The timer does not stop. */
  reset(): void {
    this.#status = 0;
    this.#enable = 0;
    this.#control = 0;
    this.#carries = this.#carriesNow;
    this.#gpeStatus = [0, 0];
    this.#gpeEnable = [0, 0];
    this.#apm = [0, 0];
    for (const { values, reset } of this.#kept.values()) values.fill(reset);
    this.#update();
  }

  // ## State
  //
  // The counter is the clock's, and needs no saving.

  static readonly STATE = describe<PowerManagement>('power management', 1, {
    pm1: field(
      kind.record({ status: kind.u16, enable: kind.u16, control: kind.u16, carries: kind.safe, level: kind.flag }),
      (p) => ({ status: p.#status, enable: p.#enable, control: p.#control, carries: p.#carries, level: p.#level }),
      (p, v) => {
        ({ status: p.#status, enable: p.#enable, control: p.#control, carries: p.#carries, level: p.#level } = v);
      },
    ),
    gpeStatus: array((p) => p.#gpeStatus, kind.u32),
    gpeEnable: array((p) => p.#gpeEnable, kind.u32),
    apm: array((p) => p.#apm, kind.u8),
    kept: field(
      kind.list(kind.list(kind.u32, KEPT_LIMIT), KEPT_LIMIT),
      (p) => [...p.#kept.values()].map(({ values }) => values),
      (p, kept) => {
        for (const [index, { values }] of [...p.#kept.values()].entries())
          values.splice(0, values.length, ...values.map((_, n) => kept[index]?.[n] ?? 0));
      },
    ),
    carry: timer((p) => p.#carry),
  });
}
