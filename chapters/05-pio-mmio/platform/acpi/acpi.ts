// # The tables of this machine
//
// FADT says where the registers of power management are; MADT lists processors and interrupt controllers; MCFG says where configuration space
// is in memory; DSDT is the program; FACS is a place for firmware and system to leave each other notes; RSDT and XSDT list the others, with
// narrow and with wide pointers.

import { ACPI_DISABLE, ACPI_ENABLE, APM_PORT, PM_BASE, PM_PORTS, type PmChip, pmTables, SCI_GSI, SLEEP_TYPE_OFF } from '../pm.ts';
import { CMOS } from '../rtc.ts';
import { type Aml, littleEndian } from './aml.ts';
import { type DsdtOptions, dsdtBody } from './dsdt.ts';
import { TABLES_ALIGNMENT, TableSet, type UnplacedTables } from './tables.ts';

/** What there is to take interrupts, and to send them. */
export interface MadtOptions {
  readonly apicIds: readonly number[];
  readonly ioApic?: { readonly id: number; readonly gpa: number };
  /** ISA interrupts that PCI devices may share: level, high. */
  readonly levelIrqs?: readonly number[];
  /** Without 8259s: a line is an input of the I/O APIC, and nothing has to be said of any. */
  readonly apicsOnly?: boolean;
}

interface AcpiOptions extends Partial<DsdtOptions>, MadtOptions {
  readonly apicIds: readonly number[];
  /** Whose registers of power management there are. */
  readonly pmChip?: PmChip;
  /** Whether the PM timer has 32 bits. */
  readonly timer32?: boolean;
}

const LOCAL_APIC_GPA = 0xfee0_0000;
const IO_APIC_GPA = 0xfec0_0000;
const RESET_PORT = 0xcf9;
const RESET_VALUE = 6;
/** What a 32-bit machine has between the configuration space in memory and the I/O APIC. */
const PCI_WINDOW = { first: 0xc000_0000, last: 0xfebf_ffff } as const;

/** All tables, unplaced. */
export function acpiTables(options: AcpiOptions): UnplacedTables {
  const dsdtOptions: DsdtOptions = {
    pci: null,
    ecam: null,
    serialPorts: [],
    pmBase: PM_BASE,
    pmPorts: PM_PORTS[options.pmChip ?? 'ich9'],
    sleepTypeOff: SLEEP_TYPE_OFF,
    rtc: true,
    i8042: true,
    fwCfg: false,
    devices: [],
    ...options,
  };
  const set = new TableSet();
  const facs = set.raw(facsBytes(), TABLES_ALIGNMENT);
  const dsdt = set.table('DSDT', 2, dsdtBody(dsdtOptions));
  const listed = [
    set.table('FACP', 5, fadtBody(dsdtOptions, options), [
      { at: 0, bytes: 4, target: facs },
      { at: 4, bytes: 4, target: dsdt },
      { at: 104, bytes: 8, target: dsdt },
    ]),
    set.table('APIC', 4, madtBody(options)),
  ];
  if (dsdtOptions.ecam) listed.push(set.table('MCFG', 1, mcfgBody(dsdtOptions.ecam)));
  return listedTables(set, listed);
}

/** Makes the tables at these offsets findable. */
export function listedTables(set: TableSet, listed: readonly number[]): UnplacedTables {
  const list = (bytes: 4 | 8) =>
    [listed.flatMap((target) => littleEndian(target, bytes)), listed.map((target, index) => ({ at: index * bytes, bytes, target }))] as const;
  const rsdt = set.table('RSDT', 1, ...list(4));
  const xsdt = set.table('XSDT', 1, ...list(8));
  const rsdp = set.rsdp(rsdt, xsdt);
  return { rsdp, tables: set.tables, pointers: set.pointers, checksums: set.checksums };
}

/** The usual window for PCI memory, when nobody has another. */
export const pciWindow = PCI_WINDOW;

// ## FADT
//
// Every register block twice, as a plain port and as a *generic address*, because the second was added when the first turned out to be too narrow.

const SYSTEM_IO = 1;
const WIDTH = { 8: 1, 16: 2, 32: 3 } as const;
const FADT_BODY_BYTES = 268 - 36;
const FLAGS = { WBINVD: 1, PROC_C1: 4, SLEEP_BUTTON_NOT_FIXED: 0x20, RTC_NOT_FIXED: 0x40, TIMER_32: 0x100, RESET_REGISTER: 0x400 } as const;
const BOOT = { LEGACY_DEVICES: 1, KEYBOARD_CONTROLLER: 2, NO_VGA: 4 } as const;

function address(port: number, bits: number, access: 8 | 16 | 32): number[] {
  return [SYSTEM_IO, bits, 0, WIDTH[access], ...littleEndian(port, 8)];
}

// The power button is "fixed": a status bit and no device in the DSDT. A flag says so by being clear.
// @clause acpi.fadt
function fadtBody({ pmBase, i8042 }: DsdtOptions, { pmChip = 'ich9', timer32 = false }: AcpiOptions): Aml {
  const body = new Uint8Array(FADT_BODY_BYTES);
  // Offsets as the specification counts them, from the start of the header.
  const set = (at: number, bytes: readonly number[]) => body.set(bytes, at - 36);
  const u32 = (at: number, value: number) => set(at, littleEndian(value, 4));
  const { rows } = pmTables[pmChip];
  const [event, control, timer, gpe] = [rows.PM1_STS, rows.PM1_CNT, rows.PM1_TMR, rows.GPE0_STS].map((row) => pmBase + row.offset) as [
    number,
    number,
    number,
    number,
  ];
  const gpeBytes = 2 * (rows.GPE0_EN.offset - rows.GPE0_STS.offset);
  set(45, [1]); // a desktop
  set(46, littleEndian(SCI_GSI, 2));
  u32(48, APM_PORT);
  set(52, [ACPI_ENABLE, ACPI_DISABLE]);
  u32(56, event);
  u32(64, control);
  u32(76, timer);
  u32(80, gpe);
  set(88, [4, 2, 0, 4, gpeBytes, 0, 0, 0]); // lengths of the blocks
  set(96, [...littleEndian(0xfff, 2), ...littleEndian(0xfff, 2)]); // no sleep of the processor deeper than HLT
  set(108, [CMOS.CENTURY]);
  set(109, littleEndian(BOOT.LEGACY_DEVICES | (i8042 ? BOOT.KEYBOARD_CONTROLLER : 0) | BOOT.NO_VGA, 2));
  u32(112, FLAGS.WBINVD | FLAGS.PROC_C1 | FLAGS.SLEEP_BUTTON_NOT_FIXED | FLAGS.RTC_NOT_FIXED | FLAGS.RESET_REGISTER | (timer32 ? FLAGS.TIMER_32 : 0));
  set(116, address(RESET_PORT, 8, 8));
  set(128, [RESET_VALUE]);
  set(148, address(event, 32, 16));
  set(172, address(control, 16, 16));
  set(208, address(timer, 32, 32));
  set(220, address(gpe, 8 * gpeBytes, 8));
  return [...body];
}

// ## MADT

const MADT = { LOCAL_APIC: 0, IO_APIC: 1, OVERRIDE: 2, LOCAL_APIC_NMI: 4, LOCAL_X2APIC: 9 } as const;
const ALL_PROCESSORS = 0xff;
const ENABLED = 1;
const HAS_8259 = 1;
const LEVEL_HIGH = 0x000d;
const BUS_DEFAULT = 0;
const TIMER_GSI = 2; // the PIT's line goes to input 2, because input 0 is for the 8259s
const LAST_XAPIC_ID = 254;

// @clause acpi.madt
export function madtBody({ apicIds, ioApic = { id: 0, gpa: IO_APIC_GPA }, levelIrqs = [5, 10, 11], apicsOnly = false }: MadtOptions): Aml {
  const override = (source: number, gsi: number, flags: number) => [MADT.OVERRIDE, 10, 0, source, ...littleEndian(gsi, 4), ...littleEndian(flags, 2)];
  return [
    ...littleEndian(LOCAL_APIC_GPA, 4),
    ...littleEndian(apicsOnly ? 0 : HAS_8259, 4),
    ...apicIds.flatMap((id, uid) =>
      id <= LAST_XAPIC_ID && uid < ALL_PROCESSORS
        ? [MADT.LOCAL_APIC, 8, uid, id, ...littleEndian(ENABLED, 4)]
        : [MADT.LOCAL_X2APIC, 16, 0, 0, ...littleEndian(id, 4), ...littleEndian(ENABLED, 4), ...littleEndian(uid, 4)],
    ),
    ...[MADT.IO_APIC, 12, ioApic.id, 0, ...littleEndian(ioApic.gpa, 4), ...littleEndian(0, 4)],
    ...(apicsOnly
      ? []
      : [
          override(0, TIMER_GSI, BUS_DEFAULT),
          override(SCI_GSI, SCI_GSI, LEVEL_HIGH),
          ...levelIrqs.map((irq) => override(irq, irq, LEVEL_HIGH)),
        ].flat()),
    ...[MADT.LOCAL_APIC_NMI, 6, ALL_PROCESSORS, 0, 0, 1], // NMI arrives at LINT1 of each
  ];
}

// ## MCFG and FACS

function mcfgBody({ gpa, buses }: { gpa: number; buses: number }): Aml {
  return [...littleEndian(0, 8), ...littleEndian(gpa, 8), ...littleEndian(0, 2), 0, buses - 1, ...littleEndian(0, 4)];
}

const FACS_BYTES = 64;

function facsBytes(): Aml {
  const bytes = new Uint8Array(FACS_BYTES);
  bytes.set([...'FACS'].map((char) => char.charCodeAt(0)));
  bytes.set(littleEndian(FACS_BYTES, 4), 4);
  bytes[32] = 1; // its version
  return [...bytes];
}
