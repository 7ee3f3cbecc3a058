// # A machine that only its tables know
//
// On a PC the tables correct and complete what an operating system finds by looking in the usual places. Here there are no usual places. The tables say
// so, in one bit, and Linux then does not look: it does not ask for the 8259s, the 8254, the keyboard controller, the clock chip, and saves the time that it
// would have spent on finding out that nobody answers. Every device is in the definition block.

import { listedTables, type MadtOptions, madtBody } from '../../05-pio-mmio/platform/acpi/acpi.ts';
import type { Aml } from '../../05-pio-mmio/platform/acpi/aml.ts';
import * as aml from '../../05-pio-mmio/platform/acpi/aml.ts';
import { legacyDevices, processors } from '../../05-pio-mmio/platform/acpi/dsdt.ts';
import { TableSet, type UnplacedTables } from '../../05-pio-mmio/platform/acpi/tables.ts';
import { EVENT, EVENT_GPA, EVENT_GSI, EVENT_REGISTERS, RESET_VALUE, SLEEP_TYPE_OFF } from './event-device.ts';

interface MicroVmTables extends MadtOptions {
  readonly serialPorts: readonly { readonly port: number; readonly irq: number }[];
  readonly rtc: boolean;
  /** What was plugged in: finished terms. */
  readonly devices: readonly Aml[];
}

/** All tables, unplaced. */
export function microVmTables(options: MicroVmTables): UnplacedTables {
  const set = new TableSet();
  const dsdt = set.table('DSDT', 2, dsdtBody(options));
  return listedTables(set, [
    set.table('FACP', 5, fadtBody(options), [
      { at: 4, bytes: 4, target: dsdt },
      { at: 104, bytes: 8, target: dsdt },
    ]),
    set.table('APIC', 4, madtBody(options)),
  ]);
}

// ## FADT
//
// Most of the table describes registers that this machine does not have, and is zero.

const FADT_BODY_BYTES = 268 - 36;
const FLAGS = {
  WBINVD: 1,
  PROC_C1: 4,
  POWER_BUTTON_NOT_FIXED: 0x10,
  SLEEP_BUTTON_NOT_FIXED: 0x20,
  RTC_NOT_FIXED: 0x40,
  RESET_REGISTER: 0x400,
} as const;
const HARDWARE_REDUCED = 1 << 20;
const BOOT = { NO_VGA: 4, NO_RTC: 0x20 } as const;
const DESKTOP = 1;

/** A byte in memory, as a *generic address*. */
const byteAt = (register: { readonly offset: number }): Aml => [0, 8, 0, 1, ...aml.littleEndian(EVENT_GPA + register.offset, 8)];

// @clause acpi.reduced.fadt
function fadtBody({ rtc }: MicroVmTables): Aml {
  const body = new Uint8Array(FADT_BODY_BYTES);
  // Offsets as the specification counts them, from the start of the header.
  const set = (at: number, bytes: readonly number[]) => body.set(bytes, at - 36);
  const rows = EVENT_REGISTERS.rows;
  set(45, [DESKTOP]);
  set(109, aml.littleEndian(BOOT.NO_VGA | (rtc ? 0 : BOOT.NO_RTC), 2));
  const flags =
    FLAGS.WBINVD | FLAGS.PROC_C1 | FLAGS.POWER_BUTTON_NOT_FIXED | FLAGS.SLEEP_BUTTON_NOT_FIXED | FLAGS.RTC_NOT_FIXED | FLAGS.RESET_REGISTER;
  set(112, aml.littleEndian(flags | HARDWARE_REDUCED, 4));
  set(116, byteAt(rows.RESET));
  set(128, [RESET_VALUE]);
  set(244, byteAt(rows.SLEEP_CONTROL));
  set(256, byteAt(rows.SLEEP_STATUS));
  return [...body];
}

// ## What there is

const PRESSED = 0x80; // what a power button is told

function dsdtBody({ apicIds, serialPorts, rtc, devices }: MicroVmTables): Aml {
  return [
    ...aml.scope(
      '_SB',
      ...processors(apicIds.length),
      ...legacyDevices({ serialPorts, rtc, i8042: false }),
      aml.device('PWRB', aml.name('_HID', aml.eisaId('PNP0C0C')), aml.name('_UID', aml.integer(0))),
      eventDevice(),
      ...devices,
    ),
    ...aml.name('_S5', aml.pack(aml.integer(SLEEP_TYPE_OFF), aml.integer(0), aml.integer(0), aml.integer(0))),
  ];
}

// The method is called with the number of the interrupt. There is one.
function eventDevice(): Aml {
  return aml.device(
    'GED',
    aml.name('_HID', aml.text('ACPI0013')),
    aml.name('_UID', aml.integer(0)),
    aml.name('_CRS', aml.resources(aml.interrupt(EVENT_GSI))),
    aml.dwordRegisters('EREG', EVENT_GPA, ['ESEL']),
    aml.method(
      '_EVT',
      1,
      true,
      aml.store(aml.ref('ESEL'), aml.local(0)),
      aml.when(aml.and(aml.local(0), aml.integer(EVENT.POWER_BUTTON), aml.nowhere), aml.notify('PWRB', PRESSED)),
    ),
  );
}
