// # A machine without a past
//
// What does a guest need of a machine, if the guest is Linux and the devices are virtio? Memory, processors, their local APICs and an I/O APIC, a few pages
// of memory for devices. Everything else of a PC is there for software older than the guest, and each part has a price: registers that somebody has to
// write, probes that have to time out, code in the monitor that an attacker can talk to. QEMU has a machine without all that, *microvm*, after Firecracker,
// which has nothing else.
//
// What is left over from 1981 is a choice. The serial port is there, since a kernel can talk to it from its first instruction on; the rest is off unless
// the description asks.

import { COM_PORTS } from '../../03-vcpu-loop/devices/serial.ts';
import { type MachineType, machineTypes } from '../../05-pio-mmio/machine/machine-types.ts';
import { Mainboard, type MainboardOptions } from '../../05-pio-mmio/machine/mainboard.ts';
import type { UnplacedTables } from '../../05-pio-mmio/platform/acpi/tables.ts';
import { RTC_IRQ, RTC_PORT, RTC_PORTS, Rtc } from '../../05-pio-mmio/platform/rtc.ts';
import { EVENT_BYTES, EVENT_GPA, EVENT_GSI, EventDevice } from './event-device.ts';
import { microVmTables } from './tables.ts';

/** Where RAM below 4 GiB ends at the latest: QEMU's place. */
const LOW_LIMIT = 0xc000_0000;

class MicroVm extends Mainboard {
  readonly events: EventDevice;
  readonly rtc: Rtc | null;
  readonly #apicsOnly: boolean;

  /** @throws ConfigError, RangeError for a machine that cannot be */
  constructor(options: MainboardOptions) {
    const { machine } = options.config;
    const apicsOnly = machine.pit !== true;
    super(options, { lowLimit: LOW_LIMIT, apicsOnly, serialPorts: machine['isa-serial'] !== false });
    this.#apicsOnly = apicsOnly;
    const { timers: clock, lines, mmio, ports, trace } = this;
    this.events = new EventDevice({
      line: lines.source(EVENT_GSI),
      onPowerOff: () => this.ask('shutdown', 'the guest switched itself off'),
      onReset: () => this.ask('reset', 'reset by the reset register'),
      trace,
    });
    mmio.attach(EVENT_GPA, EVENT_BYTES, this.events.registers);
    const { startTime } = options;
    this.rtc = machine.rtc === true ? new Rtc({ clock, irq: lines.source(RTC_IRQ), ...(startTime !== undefined && { start: startTime }) }) : null;
    if (this.rtc) ports.attach(RTC_PORT, RTC_PORTS, this.rtc);
    this.keep('events', this.events, EventDevice.STATE);
    if (this.rtc) this.keep('rtc', this.rtc, Rtc.STATE);
    this.plugDevices();
  }

  override pressPowerButton(): void {
    this.events.pressPowerButton();
  }

  protected override tables(): UnplacedTables {
    return microVmTables({
      apicIds: this.apicIds,
      apicsOnly: this.#apicsOnly,
      levelIrqs: [],
      serialPorts: COM_PORTS.slice(0, this.serials.length),
      rtc: this.rtc !== null,
      devices: this.descriptions,
    });
  }

  protected override resetPlatform(): void {
    this.events.reset();
    this.rtc?.reset();
  }
}

const microVm: MachineType = {
  name: 'microvm',
  text: 'no PCI and no past: APICs, virtio in windows of memory, everything described by ACPI',
  properties: {
    'isa-serial': { kind: 'boolean', text: 'serial ports; on by default' },
    pit: { kind: 'boolean', text: 'the 8254 and the 8259s, for kernels that look for them; off by default' },
    rtc: { kind: 'boolean', text: 'the clock chip; off by default' },
  },
  takesFirmware: false,
  build: (options) => new MicroVm(options),
};

machineTypes.install(microVm);
