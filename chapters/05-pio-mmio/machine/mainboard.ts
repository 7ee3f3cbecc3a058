// # What every machine has
//
// Machine types differ in their chipset and in the devices that come with it. The rest is the same whatever the board: memory, interrupt
// controllers, serial ports, what a device may ask for that is plugged in, and how all of this is handed to the board of chapter 3. That is this class; a
// machine type derives from it.

import type { Trace } from '../../01-hardware-background/trace.ts';
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
import { type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { Firmware } from '../../03-vcpu-loop/doors.ts';
import type { BlockBackend } from '../block/block.ts';
import type { AtaDevice } from '../ide/device.ts';
import { interruptController } from '../interrupts/arrangements.ts';
import type { InterruptController } from '../interrupts/controller.ts';
import { LAPIC_BASE } from '../interrupts/lapic-registers.ts';
import { type Link, memoryWire } from '../net/link.ts';
import type { PciFunction } from '../pci/function.ts';
import { SharedLines } from '../pci/lines.ts';
import type { Aml } from '../platform/acpi/aml.ts';
import { placeTables, type UnplacedTables } from '../platform/acpi/tables.ts';
import type { Chardev } from './chardev.ts';
import type { CompleteConfig } from './config.ts';
import { ConfigError, type DeviceConfig, type DeviceRegistry, deviceTypes } from './device-types.ts';
import { PcMemory } from './memory.ts';
import { setMemoryTypes } from './memory-types.ts';
import { withTopology } from './topology.ts';

/** Where a loader leaves the ACPI tables: above conventional memory, where firmware would be. */
const RSDP_GPA = 0xe_0000;
const TABLES_GPA = 0xe_0040;
const RESERVED = 2; // in the map of memory
const CPUID_WIDTHS = 0x8000_0008;
const LEAST_PHYSICAL_BITS = 36; // of a processor that does not say

/** A machine's description, with what it names opened. */
export interface MainboardOptions {
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

/** What the board's type says of it. */
interface BoardPlan {
  /** Where RAM below 4 GiB ends at the latest. */
  readonly lowLimit: number;
  /** Without the interrupt controller and the timer of the first PC. */
  readonly apicsOnly?: boolean;
  /** Whether there are serial ports. */
  readonly serialPorts?: boolean;
}

/** Drives of the two channels of an IDE function. */
export type IdeDrives = [[AtaDevice | null, AtaDevice | null], [AtaDevice | null, AtaDevice | null]];

/** A way out of the machine, to something that keeps its own time. */
interface Outside {
  readonly expectsInput: boolean;
  /** Settles when it is open. @throws Error in one line */
  opened(): Promise<void>;
}

export abstract class Mainboard extends Chassis {
  readonly config: CompleteConfig;
  readonly kernel: Kernel;
  readonly trace: Trace | null;
  readonly memory: PcMemory;
  readonly timers: TimerQueue;
  readonly interrupts: InterruptController;
  /** Interrupt lines with any number of sources. */
  readonly lines: SharedLines;
  readonly serials: readonly Serial[];
  readonly debugcon: DebugConsole;
  readonly debugExit: DebugExit;
  readonly scratchPio: Scratch | null = null;
  readonly scratchMmio: Scratch | null = null;
  readonly injector: Injector | null = null;
  /** Whether {@link Kernel.watch} is of use here. */
  readonly hasIoThread: boolean;
  /** Set while whoever is at the terminal can still send something. */
  inputOpen = false;
  /** Called by an {@link Outside} when something has come. Set by whoever runs the machine. */
  onArrival: () => void = () => {};
  protected readonly hasFirmware: boolean;
  /** What devices say of themselves to an operating system: terms for the DSDT. */
  protected readonly descriptions: Aml[] = [];
  readonly #blocks: ReadonlyMap<string, BlockBackend>;
  readonly #chardevs: ReadonlyMap<string, Chardev>;
  readonly #registry: DeviceRegistry;
  readonly #resets: (() => void)[] = [];
  readonly #preparations: ((board: BareBoard) => void)[] = [];
  readonly #disposals: (() => void)[] = [];
  readonly #outsides: Outside[] = [];
  readonly #windowStart: number;
  #physicalBits = LEAST_PHYSICAL_BITS;
  #macs = 0;
  #answering = 0;

  /** @throws RangeError for a machine that cannot be */
  constructor(options: MainboardOptions, plan: BoardPlan) {
    super();
    const { config, kernel, trace = null, firmware = null, registry = deviceTypes, onSerial, onDebug = () => {} } = options;
    this.config = config;
    this.kernel = kernel;
    kernel.tellsStores = true; // a loader, and devices through `memory`
    this.trace = trace;
    this.hasFirmware = firmware !== null;
    this.hasIoThread = kernel.watch !== undefined && (options.ioThread ?? kernel.name === 'soft');
    this.#blocks = options.blocks ?? new Map();
    this.#chardevs = options.chardevs ?? new Map();
    this.#registry = registry;
    this.memory = new PcMemory({ ramBytes: config.memoryMiB * 2 ** 20, rom: firmware, lowLimit: plan.lowLimit });
    this.timers = new TimerQueue(
      () => kernel.clock.now(),
      () => this.onTimers(),
    );
    this.#windowStart = plan.lowLimit;
    const { timers: clock, ports, mmio } = this;
    const { apicsOnly = false, serialPorts = true } = plan;
    this.interrupts = interruptController(config.irqchip, { clock, onWake: (vcpu) => this.onWake(vcpu), apicsOnly });
    this.interrupts.attach(ports, mmio);
    this.lines = new SharedLines((gsi) => this.interrupts.line(gsi));

    this.serials = (serialPorts ? config.serial : []).map((_, index) => {
      const { port, irq } = COM_PORTS[index] as (typeof COM_PORTS)[number];
      const wire = this.lines.source(irq);
      const serial = new Serial({ trace, clock, onByte: (byte) => onSerial?.(index, byte), onInterrupt: (level) => wire.set(level) });
      ports.attach(port, SERIAL_PORTS, serial);
      this.keep(`serial ${index}`, serial, Serial.STATE);
      return serial;
    });

    // Put in what only virtual machines have.
    this.debugcon = new DebugConsole({ trace, onByte: onDebug });
    ports.attach(DEBUGCON_PORT, 1, this.debugcon);
    this.debugExit = new DebugExit({ trace });
    ports.attach(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, this.debugExit);
    this.keep('debug-exit', this.debugExit, DebugExit.STATE);
    if (firmware) return;
    this.scratchPio = new Scratch('scratch-pio', SCRATCH_PORTS, { trace });
    this.scratchMmio = new Scratch('scratch-mmio', SCRATCH_BYTES, { trace });
    this.injector = new Injector({ trace });
    this.injector.onRequest = (what) => this.#inject(what);
    ports.attach(SCRATCH_PORT, SCRATCH_PORTS, this.scratchPio);
    mmio.attach(SCRATCH_GPA, SCRATCH_BYTES, this.scratchMmio);
    ports.attach(INJECT_PORT, INJECT_PORTS, this.injector);
    this.keep('scratch-pio', this.scratchPio, Scratch.STATE);
    this.keep('scratch-mmio', this.scratchMmio, Scratch.STATE);
  }

  /** Plugs in what the description asks for, those with a place of their own first: when the board is ready for it. @throws ConfigError */
  protected plugDevices(): void {
    const registry = this.#registry;
    const { devices } = this.config;
    const hasPlace = (device: DeviceConfig): boolean => (registry.get(device.type).places?.(device).length ?? 0) > 0;
    const inOrder = [...devices.filter(hasPlace), ...devices.filter((device) => !hasPlace(device))];
    for (const device of inOrder) registry.get(device.type).plug(this, device);
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

  /** Puts a function on the root bus. @throws ConfigError when the place is taken, or there is no such bus */
  plug(fn: PciFunction, _device: number, _number: number): void {
    throw new ConfigError(`${fn.name} is a PCI device, and this machine has no PCI`);
  }

  /** A place on the root bus that nobody has. @throws ConfigError when all are taken, or there is no such bus */
  freeSlot(): number {
    throw new ConfigError('a PCI device has no place in this machine: it has no PCI');
  }

  /** Drives of the two IDE channels, while devices are being plugged in. @throws ConfigError when there is no IDE function */
  get ideDrives(): IdeDrives {
    throw new ConfigError('this machine has no IDE controller');
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

  /** For a device, or what one is plugged into, that leads out of the machine. */
  addOutside(outside: Outside): void {
    this.#outsides.push(outside);
  }

  /** Tells the operating system of a device that it cannot find: terms for the DSDT, under `\\_SB`. While devices are being plugged in. */
  describeDevice(term: Aml): void {
    this.descriptions.push(term);
  }

  // ## Standing in for firmware
  //
  // A program that is started without any has to find what firmware would have left: the tables that describe the machine, and the windows of the chipset.

  /** The tables that describe the machine. */
  protected abstract tables(): UnplacedTables;

  /** What a reset does to the devices of the board. */
  protected abstract resetPlatform(): void;

  /** Somebody presses the button. What comes of it is the guest's decision. */
  abstract pressPowerButton(): void;

  /** In place of firmware, at every start. */
  protected prepareChipset(): void {}

  /** Addresses that are neither memory nor free for devices to be placed. */
  protected get reserved(): readonly { readonly start: number; readonly bytes: number }[] {
    return [];
  }

  protected get apicIds(): number[] {
    return Array.from({ length: this.config.cpus }, (_, id) => id);
  }

  /** What a loader tells the program it starts. */
  get handover(): Firmware {
    const map = [...this.memory.ranges, ...this.reserved.map((range) => ({ ...range, type: RESERVED }))];
    return { memoryMap: map.toSorted((a, b) => a.start - b.start), rsdpGpa: RSDP_GPA };
  }

  #standIn(): void {
    if (this.hasFirmware) return;
    this.prepareChipset();
    for (const { gpa, bytes } of placeTables(this.tables(), { rsdpGpa: RSDP_GPA, tablesGpa: TABLES_GPA })) this.memory.write(gpa, bytes);
  }

  // ## As a chassis

  /** What {@link Board} needs to know of this machine. */
  get board(): BoardOptions<this> {
    return {
      kernel: this.kernel,
      layout: this.memory.layout,
      chassis: this,
      vcpus: this.config.cpus,
      timers: this.timers,
      trace: this.trace,
      resettable: this.config.reboot,
      prepare: (board) => this.#prepare(board),
      start: (vcpu) => {
        if (!this.hasFirmware) setMemoryTypes(vcpu, this.#windowStart, this.#physicalBits);
      },
      cpuid: (entries: readonly CpuidEntry[], id: number, count: number) => withTopology(this.interrupts.cpuid(entries), id, count),
    };
  }

  #prepare(board: BareBoard): void {
    this.memory.install(board);
    const widths = board.kvm.getSupportedCpuid().find(({ function: leaf }) => leaf === CPUID_WIDTHS);
    if (widths) this.#physicalBits = widths.eax & 0xff;
    this.#standIn();
    this.interrupts.prepare(board.vm);
    for (const prepare of this.#preparations) prepare(board);
  }

  override get console(): Uint8Array {
    return this.serials[0]?.output ?? new Uint8Array(0);
  }

  override get expectsInput(): boolean {
    return this.inputOpen || this.expectsOutside;
  }

  /** Whether a network, say, may bring something at any moment that nothing in the machine causes. */
  get expectsOutside(): boolean {
    return this.#outsides.some(({ expectsInput }) => expectsInput);
  }

  /** Settles when everything is open that leads outside. */
  async outsidesOpened(): Promise<void> {
    await Promise.all(this.#outsides.map((outside) => outside.opened()));
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
    this.resetPlatform();
    for (const reset of this.#resets) reset();
    this.#standIn();
  }

  override dispose(): void {
    for (const dispose of this.#disposals.splice(0).reverse()) dispose();
  }

  // Lines and interrupt controllers come last: nobody may move them after they are in place.

  override get savedParts(): readonly SavedPart[] {
    return [
      ...super.savedParts,
      savedPart('lines', this.lines, SharedLines.STATE),
      ...this.interrupts.savedParts(),
      savedPart('memory', this.memory, PcMemory.STATE),
      ...[...this.#blocks].flatMap(([id, block]) => block.savedPart?.(`drive ${id}`) ?? []),
    ];
  }
}
