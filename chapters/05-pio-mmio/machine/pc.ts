// # A PC
//
// Everything so far, connected. The class below has no behaviour of its own: it makes the parts, puts each where a PC has it, and runs wires. What
// part sits where was decided between 1981 and 2007, and is listed in one place here, because software expects it.
//
// A machine with firmware is a PC as it comes from the factory: the processor starts at the top of the ROM, and everything else is the firmware's
// work. A machine without starts in a program, and what firmware would have done before has to be done by the loader: the chipset's windows are
// placed, the ACPI tables are in memory. It also has plain RAM where the ROM would be, and three devices for tests that no PC has.

import type { Trace } from '../../01-hardware-background/trace.ts';
import { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } from '../../02-kvm-objects/abi/registers.ts';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import type { Kernel } from '../../02-kvm-objects/kernel.ts';
import type { Vcpu } from '../../02-kvm-objects/kvm.ts';
import type { CpuidEntry } from '../../02-kvm-objects/vcpu-state.ts';
import type { Attention } from '../../03-vcpu-loop/attention.ts';
import type { BareBoard, BoardOptions } from '../../03-vcpu-loop/board.ts';
import { Chassis, CONTINUE, ending, type Outcome } from '../../03-vcpu-loop/chassis.ts';
import { DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit } from '../../03-vcpu-loop/devices/debug-exit.ts';
import { DEBUGCON_PORT, DebugConsole } from '../../03-vcpu-loop/devices/debugcon.ts';
import { INJECT_PORT, INJECT_PORTS, Injector } from '../../03-vcpu-loop/devices/injector.ts';
import { SCRATCH_BYTES, SCRATCH_GPA, SCRATCH_PORT, SCRATCH_PORTS, Scratch } from '../../03-vcpu-loop/devices/scratch.ts';
import { COM_PORTS, SERIAL_PORTS, Serial } from '../../03-vcpu-loop/devices/serial.ts';
import type { Firmware } from '../../03-vcpu-loop/doors.ts';
import type { BlockBackend } from '../block/block.ts';
import type { AtaDevice } from '../ide/device.ts';
import { PiixIde } from '../ide/piix.ts';
import { interruptController } from '../interrupts/arrangements.ts';
import type { InterruptController } from '../interrupts/controller.ts';
import { LAPIC_BASE } from '../interrupts/lapic-registers.ts';
import { type Link, memoryWire } from '../net/link.ts';
import type { PciFunction } from '../pci/function.ts';
import { rootRoutes } from '../pci/pirq.ts';
import { LPC_DEVICE, Q35 } from '../pci/q35.ts';
import { acpiTables, pciWindow } from '../platform/acpi/acpi.ts';
import type { Aml } from '../platform/acpi/aml.ts';
import { loaderFiles, placeTables } from '../platform/acpi/tables.ts';
import { DMA_HIGH_PORT, DMA_HIGH_PORTS, DMA_LOW_PORT, DMA_LOW_PORTS, DMA_PAGE_PORT, Dma8237 } from '../platform/dma8237.ts';
import { E820, e820File, FW_CFG, FW_CFG_PORT, FW_CFG_PORTS, FwCfg } from '../platform/fw-cfg.ts';
import { I8042, I8042_COMMAND_PORT, I8042_DATA_PORT, KEYBOARD_IRQ, MOUSE_IRQ, PORT_92 } from '../platform/i8042.ts';
import { APM_PORT, PM_BASE, PowerManagement } from '../platform/pm.ts';
import { BOOT_DEVICE, RTC_IRQ, RTC_PORT, RTC_PORTS, Rtc } from '../platform/rtc.ts';
import type { Chardev } from './chardev.ts';
import type { CompleteConfig } from './config.ts';
import { ConfigError, type DeviceConfig, type DeviceRegistry, deviceTypes } from './device-types.ts';
import { ECAM_BUSES, ECAM_GPA, FOUR_GIB, PcMemory, SHADOW_WINDOW } from './memory.ts';

/** Where SeaBIOS writes its log. */
const FIRMWARE_LOG_PORT = 0x402;
const IDE_FUNCTION = 1;
const IDE_IRQS = [14, 15] as const;
const RCBA_GPA = 0xfed1_c000;
const ACPI_ENABLE = 0x80;
/** Where a loader leaves the ACPI tables: above conventional memory, where firmware would be. */
const RSDP_GPA = 0xe_0000;
const TABLES_GPA = 0xe_0040;
const FIRST_SLOT = 1;

/** A machine's description, with what it names opened. */
interface PcOptions {
  readonly kernel: Kernel;
  readonly config: CompleteConfig;
  readonly firmware?: Uint8Array | null;
  /** By the drives' identifiers. */
  readonly blocks?: ReadonlyMap<string, BlockBackend>;
  /** By their identifiers. */
  readonly chardevs?: ReadonlyMap<string, Chardev>;
  /** Called for each byte that comes out of a serial port. */
  readonly onSerial?: (port: number, byte: number) => void;
  /** Called for each byte of the debug console, and of the firmware's log. */
  readonly onDebug?: (byte: number) => void;
  readonly trace?: Trace | null;
  readonly registry?: DeviceRegistry;
  /**
   * Whether a device may work while a processor is in the guest: on the kernel of the book always, on a real one if the processors have threads of their own and this
   * one serves its event loop.
   */
  readonly ioThread?: boolean;
  /** The date when the machine is switched on, in seconds since 1970. */
  readonly startTime?: number;
}

export class Pc extends Chassis {
  readonly config: CompleteConfig;
  readonly kernel: Kernel;
  readonly trace: Trace | null;
  readonly memory: PcMemory;
  readonly timers: TimerQueue;
  readonly interrupts: InterruptController;
  readonly q35: Q35;
  readonly rtc: Rtc;
  readonly i8042: I8042;
  readonly pm: PowerManagement;
  readonly dma: Dma8237;
  readonly fwCfg: FwCfg;
  readonly serials: readonly Serial[];
  readonly debugcon: DebugConsole;
  readonly debugExit: DebugExit;
  readonly ide: PiixIde;
  /** Drives of the two IDE channels, while devices are being plugged in. */
  readonly ideDrives: [[AtaDevice | null, AtaDevice | null], [AtaDevice | null, AtaDevice | null]] = [
    [null, null],
    [null, null],
  ];
  readonly scratchPio: Scratch | null = null;
  readonly scratchMmio: Scratch | null = null;
  readonly injector: Injector | null = null;
  /** Whether {@link Kernel.watch} is of use here. */
  readonly hasIoThread: boolean;
  /** Set by whoever can still send something: a terminal, a socket. */
  inputOpen = false;
  readonly #blocks: ReadonlyMap<string, BlockBackend>;
  readonly #chardevs: ReadonlyMap<string, Chardev>;
  readonly #registry: DeviceRegistry;
  readonly #hasFirmware: boolean;
  readonly #resets: (() => void)[] = [];
  readonly #descriptions: Aml[] = [];
  readonly #preparations: ((board: BareBoard) => void)[] = [];
  readonly #disposals: (() => void)[] = [];
  #board: BareBoard | null = null;
  #macs = 0;
  #answering = 0;

  /** @throws ConfigError, RangeError for a machine that cannot be */
  constructor(options: PcOptions) {
    super();
    const { config, kernel, trace = null, firmware = null, registry = deviceTypes, onSerial, onDebug = () => {}, startTime } = options;
    this.config = config;
    this.kernel = kernel;
    this.trace = trace;
    this.#hasFirmware = firmware !== null;
    this.hasIoThread = kernel.watch !== undefined && (options.ioThread ?? kernel.name === 'soft');
    this.#blocks = options.blocks ?? new Map();
    this.#chardevs = options.chardevs ?? new Map();
    this.#registry = registry;
    this.memory = new PcMemory({ ramBytes: config.memoryMiB * 2 ** 20, rom: firmware });
    this.timers = new TimerQueue(
      () => kernel.clock.now(),
      () => this.onTimers(),
    );
    const { timers: clock, ports, mmio, memory } = this;

    // Put in the interrupt controllers and the chipset.
    this.interrupts = interruptController(config.irqchip, { clock, onWake: (vcpu) => this.onWake(vcpu) });
    const { interrupts } = this;
    interrupts.attach(ports, mmio);
    this.q35 = new Q35({
      ports,
      memory: mmio,
      dma: memory,
      msi: interrupts.msi,
      line: (gsi) => interrupts.line(gsi),
      onPam: (area, mode) => memory.shadow(area, mode),
      onReset: (kind) => this.ask('reset', `${kind} reset by the chipset`),
    });
    const { lines } = this.q35;
    if (firmware) mmio.attach(SHADOW_WINDOW.gpa, SHADOW_WINDOW.bytes, memory.shadowWindow);

    // Put in what every PC has.
    this.pm = new PowerManagement({ clock, sci: this.q35.lpc.sci, onPowerOff: () => this.ask('shutdown', 'the guest switched itself off'), trace });
    this.q35.connectPm(this.pm.registers);
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
    this.serials = config.serial.map((_, index) => {
      const { port, irq } = COM_PORTS[index] as (typeof COM_PORTS)[number];
      const wire = lines.source(irq);
      const serial = new Serial({ trace, clock, onByte: (byte) => onSerial?.(index, byte), onInterrupt: (level) => wire.set(level) });
      ports.attach(port, SERIAL_PORTS, serial);
      return serial;
    });

    // Put in what only virtual machines have.
    this.debugcon = new DebugConsole({ trace, onByte: onDebug });
    ports.attach(DEBUGCON_PORT, 1, this.debugcon);
    ports.attach(FIRMWARE_LOG_PORT, 1, this.debugcon);
    this.debugExit = new DebugExit({ trace });
    ports.attach(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, this.debugExit);
    this.fwCfg = new FwCfg({ memory, trace });
    ports.attach(FW_CFG_PORT, FW_CFG_PORTS, this.fwCfg);
    if (!firmware) {
      this.scratchPio = new Scratch('scratch-pio', SCRATCH_PORTS, { trace });
      this.scratchMmio = new Scratch('scratch-mmio', SCRATCH_BYTES, { trace });
      this.injector = new Injector({ trace });
      this.injector.onRequest = (what) => this.#inject(what);
      ports.attach(SCRATCH_PORT, SCRATCH_PORTS, this.scratchPio);
      mmio.attach(SCRATCH_GPA, SCRATCH_BYTES, this.scratchMmio);
      ports.attach(INJECT_PORT, INJECT_PORTS, this.injector);
    }

    // Plug in what the description asks for, those with a place of their own first.
    const hasPlace = (device: DeviceConfig): boolean => (registry.get(device.type).places?.(device).length ?? 0) > 0;
    const inOrder = [...config.devices.filter(hasPlace), ...config.devices.filter((device) => !hasPlace(device))];
    for (const device of inOrder) registry.get(device.type).plug(this, device);
    this.ide = this.q35.add(
      new PiixIde({ primary: this.ideDrives[0], secondary: this.ideDrives[1], irqs: [lines.source(IDE_IRQS[0]), lines.source(IDE_IRQS[1])], trace }),
      LPC_DEVICE,
      IDE_FUNCTION,
    );
    this.ide.attach(ports);
    this.#describe();
    this.#prepareChipset();
  }

  // ## What a device that is plugged in may ask for

  /** @throws ConfigError */
  block(id: string): BlockBackend {
    const block = this.#blocks.get(id);
    if (!block) throw new ConfigError(`drive ${id} is not open`);
    return block;
  }

  /** @throws ConfigError */
  chardev(id: string): Chardev {
    const chardev = this.#chardevs.get(id);
    if (!chardev) throw new ConfigError(`chardev ${id} is not open`);
    return chardev;
  }

  /** What a network device is plugged into; null is nothing. @throws ConfigError */
  link(id: string | null): Link {
    if (id === null) return memoryWire(this.timers)[0];
    const netdev = this.config.netdevs.find((each) => each.id === id);
    if (!netdev) throw new ConfigError(`no netdev is called ${id}`);
    return this.#registry.netdevs.get(netdev.type).connect(this, netdev);
  }

  /** The address of a network device that was given none: locally administered, and no two alike. */
  nextMac(): Uint8Array {
    return Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56 + this.#macs++);
  }

  /** Puts a function on the root bus. @throws ConfigError when the place is taken */
  plug(fn: PciFunction, device: number, number: number): void {
    try {
      this.q35.add(fn, device, number);
    } catch (error) {
      throw error instanceof RangeError ? new ConfigError(error.message) : error;
    }
  }

  /** A place on the root bus that nobody has. @throws ConfigError when all are taken */
  freeSlot(): number {
    for (let device = FIRST_SLOT; device < LPC_DEVICE; device++) if (!this.q35.root.functionAt(device, 0)) return device;
    throw new ConfigError('no PCI slot is free');
  }

  /** Called at every reset, after the platform's own devices. */
  onReset(reset: () => void): void {
    this.#resets.push(reset);
  }

  /** Called when there is a VM, and no processor yet: for a device that wants something of the kernel. */
  onPrepare(prepare: (board: BareBoard) => void): void {
    this.#preparations.push(prepare);
  }

  /** Called when the machine goes away, while its VM still exists: for a device that has got something of the kernel. */
  onDispose(dispose: () => void): void {
    this.#disposals.push(dispose);
  }

  /** Tells the operating system of a device that it cannot find: terms for the DSDT, under `\\_SB`. While devices are being plugged in. */
  describeDevice(term: Aml): void {
    this.#descriptions.push(term);
  }

  // ## What the machine says about itself
  //
  // Firmware reads it from fw_cfg, and from the battery-backed memory where some of it has been since the AT. The ACPI tables are built here;
  // firmware only decides where they go.

  get #apicIds(): number[] {
    return Array.from({ length: this.config.cpus }, (_, id) => id);
  }

  #tables(): ReturnType<typeof acpiTables> {
    return acpiTables({
      apicIds: this.#apicIds,
      pci: { routes: rootRoutes(), windows: [pciWindow], lastBus: ECAM_BUSES - 1 },
      ecam: { gpa: ECAM_GPA, buses: ECAM_BUSES },
      serialPorts: COM_PORTS.slice(0, this.serials.length),
      fwCfg: true,
      devices: this.#descriptions,
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
    for (const { name, bytes } of loaderFiles(this.#tables())) fwCfg.addFile(name, bytes);
  }

  /** What a loader tells the program it starts. */
  get handover(): Firmware {
    return { memoryMap: this.memory.ranges, rsdpGpa: RSDP_GPA };
  }

  // ## In place of firmware
  //
  // The chipset comes out of reset with its windows closed. Firmware would place them.

  #prepareChipset(): void {
    if (this.#hasFirmware) return;
    const { config } = this.q35;
    const lpc = LPC_DEVICE << 3;
    config.write(0, 0, 0x64, 4, 0);
    config.write(0, 0, 0x60, 4, ECAM_GPA + 1);
    config.write(0, lpc, 0x40, 4, PM_BASE);
    config.write(0, lpc, 0x44, 1, ACPI_ENABLE);
    config.write(0, lpc, 0xf0, 4, RCBA_GPA + 1);
  }

  #placeTables(board: BareBoard): void {
    for (const { gpa, bytes } of placeTables(this.#tables(), { rsdpGpa: RSDP_GPA, tablesGpa: TABLES_GPA })) board.ram.set(bytes, gpa);
  }

  // ## As a chassis

  /** What {@link Board} needs to know of this machine. */
  get board(): BoardOptions<Pc> {
    return {
      kernel: this.kernel,
      layout: this.memory.layout,
      chassis: this,
      vcpus: this.config.cpus,
      timers: this.timers,
      trace: this.trace,
      resettable: this.config.reboot,
      prepare: (board) => this.#prepare(board),
      cpuid: (entries, id, count) => withTopology(this.interrupts.cpuid(entries), id, count),
    };
  }

  #prepare(board: BareBoard): void {
    this.#board = board;
    this.memory.install(board);
    if (!this.#hasFirmware) this.#placeTables(board);
    this.interrupts.prepare(board.vm);
    for (const prepare of this.#preparations) prepare(board);
  }

  override get console(): Uint8Array {
    return this.serials[0]?.output ?? new Uint8Array(0);
  }

  override get expectsInput(): boolean {
    return this.inputOpen;
  }

  override get sleepsInKernel(): boolean {
    return this.interrupts.sleepsInKernel;
  }

  override attentionFor(vcpu: Vcpu): Attention {
    return this.interrupts.attentionFor(vcpu);
  }

  override takeWish(): Outcome | null {
    const { status } = this.debugExit;
    return status === null ? super.takeWish() : ending('debug-exit', `status ${status}`, status);
  }

  // With every controller in the kernel the only way to a processor is by its local APIC, which the guest must have switched on.
  #inject(what: number | 'nmi'): void {
    if (what === 'nmi' || this.interrupts.arrangement !== 'on') this.onInject(what);
    else this.interrupts.msi.send(LAPIC_BASE + (this.#answering << 12), what);
  }

  override returned(vcpu: Vcpu): void {
    this.#answering = vcpu.id;
    this.interrupts.returned(vcpu);
  }

  protected override answerOther(reason: number, vcpu: Vcpu): Outcome | null {
    return this.interrupts.answer(reason, vcpu) ? CONTINUE : null;
  }

  override reset(): void {
    this.interrupts.reset();
    this.q35.reset();
    this.pm.reset();
    this.rtc.reset();
    this.i8042.reset();
    this.dma.reset();
    this.fwCfg.reset();
    for (const reset of this.#resets) reset();
    this.#prepareChipset();
    if (!this.#hasFirmware && this.#board) this.#placeTables(this.#board);
  }

  override dispose(): void {
    for (const dispose of this.#disposals.splice(0).reverse()) dispose();
  }
}

// ## Who is who
//
// Each processor asks CPUID who it is and who else there is. The kernel's answer describes the host's package; this machine is one package of cores
// with one thread each.

const CPUID_HTT = 1 << 28; // leaf 1, EDX: EBX counts the logical processors
const LEVEL = { THREAD: 1, CORE: 2 } as const;

/** CPUID of processor `id` of `count`. */
function withTopology(entries: readonly CpuidEntry[], id: number, count: number): CpuidEntry[] {
  const bits = 32 - Math.clz32(count - 1);
  const own = entries.filter(({ function: leaf }) => leaf !== 0xb && leaf !== 0x1f);
  const several = own.map((entry) => (entry.function === 1 && count > 1 ? { ...entry, edx: (entry.edx | CPUID_HTT) >>> 0 } : entry));
  if (own.length === entries.length) return several;
  const level = (index: number, type: number, shift: number, processors: number): CpuidEntry => ({
    function: 0xb,
    index,
    flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    eax: shift,
    ebx: processors,
    ecx: (type << 8) | index,
    edx: id,
  });
  return [...several, level(0, LEVEL.THREAD, 0, 1), level(1, LEVEL.CORE, bits, count), { ...level(2, 0, 0, 0), ecx: 2 }];
}
