// # A PC
//
// Everything so far, connected. The class below has no behaviour of its own: it makes the parts, puts each where a PC has it, and runs wires. What
// part sits where was decided between 1981 and 2007, and is listed in one place here, because software expects it.
//
// A machine with firmware is a PC as it comes from the factory: the processor starts at the top of the ROM, and everything else is the firmware's
// work. A machine without starts in a program, and what firmware would have done before has to be done by the loader: the chipset's windows are
// placed, the ACPI tables are in memory. It also has plain RAM where the ROM would be, and three devices for tests that no PC has.

import { COM_PORTS } from '../../03-vcpu-loop/devices/serial.ts';
import { PiixIde } from '../ide/piix.ts';
import type { Chipset, ChipsetOptions } from '../pci/chipset.ts';
import type { PciFunction } from '../pci/function.ts';
import { Q35 } from '../pci/q35.ts';
import { acpiTables, pciWindow } from '../platform/acpi/acpi.ts';
import { loaderFiles, type UnplacedTables } from '../platform/acpi/tables.ts';
import { DMA_HIGH_PORT, DMA_HIGH_PORTS, DMA_LOW_PORT, DMA_LOW_PORTS, DMA_PAGE_PORT, Dma8237 } from '../platform/dma8237.ts';
import { E820, e820File, FW_CFG, FW_CFG_PORT, FW_CFG_PORTS, FwCfg } from '../platform/fw-cfg.ts';
import { I8042, I8042_COMMAND_PORT, I8042_DATA_PORT, KEYBOARD_IRQ, MOUSE_IRQ, PORT_92 } from '../platform/i8042.ts';
import { APM_PORT, PowerManagement } from '../platform/pm.ts';
import { BOOT_DEVICE, RTC_IRQ, RTC_PORT, RTC_PORTS, Rtc } from '../platform/rtc.ts';
import { ConfigError } from './device-types.ts';
import { type IdeDrives, Mainboard, type MainboardOptions } from './mainboard.ts';
import { FOUR_GIB, SHADOW_WINDOW } from './memory.ts';

/** Where SeaBIOS writes its log. */
const FIRMWARE_LOG_PORT = 0x402;
const LAST_BUS = 255;
const BUS_BYTES = 1 << 20; // of configuration space in memory
const IDE_IRQS = [14, 15] as const;

/** A PC's chipset: what a machine type chooses. */
export interface PcChipset {
  /** Where RAM below 4 GiB ends at the latest. */
  readonly lowLimit: number;
  make(options: ChipsetOptions): Chipset;
}

/** RAM ends where configuration space in memory begins. */
export const Q35_CHIPSET: PcChipset = { lowLimit: 0xb000_0000, make: (options) => new Q35(options) };

interface PcOptions extends MainboardOptions {
  /** The younger one when absent. */
  readonly chipset?: PcChipset;
}

export class Pc extends Mainboard {
  readonly chipset: Chipset;
  readonly rtc: Rtc;
  readonly i8042: I8042;
  readonly pm: PowerManagement;
  readonly dma: Dma8237;
  readonly fwCfg: FwCfg;
  readonly ide: PiixIde;
  readonly #ideDrives: IdeDrives = [
    [null, null],
    [null, null],
  ];

  /** @throws ConfigError, RangeError for a machine that cannot be */
  constructor(options: PcOptions) {
    const { chipset = Q35_CHIPSET, firmware, startTime } = options;
    super(options, chipset);
    const { timers: clock, ports, mmio, memory, interrupts, lines, trace } = this;

    // Put in the chipset.
    this.chipset = chipset.make({
      ports,
      memory: mmio,
      dma: memory,
      msi: interrupts.msi,
      lines,
      onPam: (area, mode) => memory.shadow(area, mode),
      onReset: (kind) => this.ask('reset', `${kind} reset by the chipset`),
    });
    if (firmware) mmio.attach(SHADOW_WINDOW.gpa, SHADOW_WINDOW.bytes, memory.shadowWindow);

    // Put in what every PC has.
    const { sci, pmChip } = this.chipset;
    this.pm = new PowerManagement({ clock, sci, chip: pmChip, onPowerOff: () => this.ask('shutdown', 'the guest switched itself off'), trace });
    this.chipset.connectPm(this.pm.registers);
    ports.attach(APM_PORT, 2, this.pm.apm);
    this.rtc = new Rtc({ clock, irq: lines.source(RTC_IRQ), ...(startTime !== undefined && { start: startTime }) });
    ports.attach(RTC_PORT, RTC_PORTS, this.rtc);
    this.i8042 = new I8042({
      keyboardIrq: lines.source(KEYBOARD_IRQ),
      mouseIrq: lines.source(MOUSE_IRQ),
      onReset: () => this.ask('reset', 'reset by the keyboard controller'),
      trace,
    });
    ports.attach(I8042_DATA_PORT, 1, this.i8042.data);
    ports.attach(I8042_COMMAND_PORT, 1, this.i8042.command);
    ports.attach(PORT_92, 1, this.i8042.port92);
    this.dma = new Dma8237({ trace });
    ports.attach(DMA_LOW_PORT, DMA_LOW_PORTS, this.dma.low);
    ports.attach(DMA_HIGH_PORT, DMA_HIGH_PORTS, this.dma.high);
    ports.attach(DMA_PAGE_PORT, 16, this.dma.pages);

    // Put in what firmware asks a virtual machine.
    ports.attach(FIRMWARE_LOG_PORT, 1, this.debugcon);
    this.fwCfg = new FwCfg({ memory, trace });
    ports.attach(FW_CFG_PORT, FW_CFG_PORTS, this.fwCfg);

    this.plugDevices();
    const [primary, secondary] = this.#ideDrives;
    const { device, number } = this.chipset.idePlace;
    const irqs = [lines.source(IDE_IRQS[0]), lines.source(IDE_IRQS[1])] as const;
    this.ide = this.chipset.add(new PiixIde({ primary, secondary, irqs, trace }), device, number);
    this.ide.attach(ports);
    this.keepAll(() => this.chipset.savedParts());
    this.mayBeBusy(() => this.chipset.root.busyNow);
    this.keep('power management', this.pm, PowerManagement.STATE);
    this.keep('rtc', this.rtc, Rtc.STATE);
    this.keep('i8042', this.i8042, I8042.STATE);
    this.keep('dma', this.dma, Dma8237.STATE);
    this.keep('fw_cfg', this.fwCfg, FwCfg.STATE);
    this.#describe();
    if (!firmware) this.prepareChipset();
  }

  override get ideDrives(): IdeDrives {
    return this.#ideDrives;
  }

  override plug(fn: PciFunction, device: number, number: number): void {
    try {
      this.chipset.add(fn, device, number);
    } catch (error) {
      throw error instanceof RangeError ? new ConfigError(error.message) : error;
    }
  }

  override freeSlot(): number {
    const [first, end] = this.chipset.slots;
    for (let device = first; device < end; device++) if (!this.chipset.root.functionAt(device, 0)) return device;
    throw new ConfigError('no PCI slot is free');
  }

  // ## What the machine says about itself
  //
  // Firmware reads it from fw_cfg, and from the battery-backed memory where some of it has been since the AT. The ACPI tables are built here;
  // firmware only decides where they go.

  override pressPowerButton(): void {
    this.pm.pressPowerButton();
  }

  protected override tables(): UnplacedTables {
    const { routes, ecamPlan, isaBridge, pmChip } = this.chipset;
    return acpiTables({
      apicIds: this.apicIds,
      pci: { routes, windows: [pciWindow], lastBus: LAST_BUS, express: ecamPlan !== null, isaBridge: isaBridge.device },
      ecam: ecamPlan,
      pmChip,
      serialPorts: COM_PORTS.slice(0, this.serials.length),
      fwCfg: true,
      devices: this.descriptions,
    });
  }

  #describe(): void {
    const { memory, rtc, fwCfg, config } = this;
    rtc.setMemory(memory.lowBytes, memory.highBytes);
    rtc.setProcessors(config.cpus);
    rtc.setBootOrder([BOOT_DEVICE.DISK]);
    fwCfg.addU64(FW_CFG.RAM_SIZE, memory.ramBytes);
    fwCfg.addU16(FW_CFG.NB_CPUS, config.cpus);
    fwCfg.addU16(FW_CFG.MAX_CPUS, config.cpus);
    fwCfg.addU16(FW_CFG.NOGRAPHIC, config.nographic ? 1 : 0);
    fwCfg.addFile(
      'etc/e820',
      e820File([
        { gpa: 0, bytes: memory.lowBytes, type: E820.RAM },
        ...(memory.highBytes > 0 ? [{ gpa: FOUR_GIB, bytes: memory.highBytes, type: E820.RAM }] : []),
      ]),
    );
    for (const { name, bytes } of loaderFiles(this.tables())) fwCfg.addFile(name, bytes);
  }

  // Linux believes the table that says where configuration space is only if the map of memory, too, says that nothing else is there.
  protected override get reserved(): readonly { readonly start: number; readonly bytes: number }[] {
    const { ecamPlan } = this.chipset;
    return ecamPlan ? [{ start: ecamPlan.gpa, bytes: ecamPlan.buses * BUS_BYTES }] : [];
  }

  protected override prepareChipset(): void {
    this.chipset.prepare();
  }

  protected override resetPlatform(): void {
    this.chipset.reset();
    this.pm.reset();
    this.rtc.reset();
    this.i8042.reset();
    this.dma.reset();
    this.fwCfg.reset();
  }
}
