// # Power without a chipset
//
// Two things that a machine must be able to do are the chipset's on a PC: to be switched off by its software, and to tell its software that somebody
// wants it switched off. ACPI has a second way for machines without those registers, *hardware-reduced*: three bytes anywhere in memory for sleep and reset,
// and one device that stands for all events. Its interrupt says that something happened; a method in the tables looks what, and tells the device
// that it happened to.
//
// ::layout EVENT_REGISTERS -- All the registers that the platform itself has.

import type { Trace } from '../../01-hardware-background/trace.ts';
import { describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import { RegisterFile, registerTable } from '../../05-pio-mmio/registers.ts';
import type { Wire } from '../../05-pio-mmio/wires.ts';

/** Where QEMU's microvm has them. */
export const EVENT_GPA = 0xfea0_0000;
export const EVENT_BYTES = 0x1000;
export const EVENT_GSI = 9;

// biome-ignore format: table
export const EVENT_REGISTERS = registerTable('generic-event', 'ACPI 6.4, Hardware-Reduced ACPI, Sleep Control and Status Registers; Generic Event Device', {
  EVENTS:        { offset: 0x000, bytes: 4, access: 'rc', text: 'what has happened since this was last read' },
  SLEEP_CONTROL: { offset: 0x200, bytes: 1, access: 'rw', text: 'bits 4:2: which sleep; bit 5: now' },
  SLEEP_STATUS:  { offset: 0x201, bytes: 1, access: 'rw1c', text: 'bit 7: woken, which never happens' },
  RESET:         { offset: 0x202, bytes: 1, access: 'wo', text: 'one value resets the machine' },
});

/** Bits of EVENTS. */
export const EVENT = { POWER_BUTTON: 1 << 1 } as const;
/** The number for "off" that the tables tell. */
export const SLEEP_TYPE_OFF = 5;
/** The value that resets. */
export const RESET_VALUE = 0x42;

const SLEEP = { TYPE_SHIFT: 2, TYPE_MASK: 7, ENABLE: 1 << 5, WAKE: 1 << 7 } as const;

interface EventDeviceOptions {
  readonly line: Wire;
  readonly onPowerOff: () => void;
  readonly onReset: () => void;
  readonly trace?: Trace | null;
}

export class EventDevice {
  readonly registers: RegisterFile<keyof typeof EVENT_REGISTERS.rows>;
  readonly #line: Wire;
  #events = 0;
  #control = 0;

  constructor({ line, onPowerOff, onReset, trace = null }: EventDeviceOptions) {
    this.#line = line;
    this.registers = new RegisterFile(EVENT_REGISTERS, {
      EVENTS: { read: () => this.#take() },
      SLEEP_CONTROL: {
        read: () => this.#control,
        // The bit that starts it reads as zero. A sleep that the tables do not offer is none.
        // @clause acpi.reduced.sleep-control
        write: (value) => {
          this.#control = value & ~SLEEP.ENABLE;
          if ((value & SLEEP.ENABLE) === 0) return;
          const type = (value >> SLEEP.TYPE_SHIFT) & SLEEP.TYPE_MASK;
          trace?.emit({ kind: 'device', device: EVENT_REGISTERS.device, what: 'sleep', value: type });
          if (type === SLEEP_TYPE_OFF) onPowerOff();
        },
      },
      RESET: {
        write: (value) => {
          if (value === RESET_VALUE) onReset();
        },
      },
    });
  }

  // The line is a level: whoever has read what happened has let go of it, and what happens meanwhile takes it again.
  // @clause acpi.reduced.events-read-clears
  #take(): number {
    const events = this.#events;
    this.#events = 0;
    this.#line.set(false);
    return events;
  }

  pressPowerButton(): void {
    this.#events |= EVENT.POWER_BUTTON;
    this.#line.set(true);
  }

  reset(): void {
    this.#control = 0;
    this.#take();
  }

  static readonly STATE = describe<EventDevice>('event device', 1, {
    registers: field(
      kind.record({ events: kind.u8, control: kind.u8 }),
      (device) => ({ events: device.#events, control: device.#control }),
      (device, v) => {
        ({ events: device.#events, control: device.#control } = v);
      },
    ),
  });
}
