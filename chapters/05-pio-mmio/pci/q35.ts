// # The board
//
// Everything that software finds on the root bus of a Q35 without anyone having plugged it in: the memory controller, the LPC bridge, the two doors
// to configuration space, and the wires from interrupt pins to interrupt lines. Whoever builds a machine gives it the two address spaces, the
// memory and the interrupt controller, and plugs devices into `root`.

import type { Bus, Registers } from '../../03-vcpu-loop/devices/bus.ts';
import type { DmaTarget, MsiTarget, Wire } from '../wires.ts';
import { CONFIG_PORT, CONFIG_PORT_COUNT, ConfigPorts, ConfigRoot, Ecam, type ResetKind } from './config-access.ts';
import type { PciFunction } from './function.ts';
import { SharedLines } from './lines.ts';
import { LpcBridge } from './lpc.ts';
import { MemoryController, type PamArea, type PamMode } from './mch.ts';
import { PciBus } from './pci-bus.ts';
import { PirqRouter } from './pirq.ts';

/** Slot of the LPC bridge. */
export const LPC_DEVICE = 31;

interface Q35Options {
  readonly ports: Bus;
  readonly memory: Bus;
  readonly dma: DmaTarget;
  /** Interrupt messages. */
  readonly msi: MsiTarget;
  /** Input of the interrupt controller. */
  readonly line: (gsi: number) => Wire;
  /** A piece of the stretch below one megabyte is switched between ROM and RAM. */
  readonly onPam?: (area: PamArea, mode: PamMode) => void;
  /** The guest wrote the reset control register. */
  readonly onReset?: (kind: ResetKind) => void;
}

const MESSAGES = { from: 0xfee0_0000, to: 0xfef0_0000 } as const;

/** Whether a function's write to this address is an interrupt. */
export const isInterrupt = (address: number): boolean => address >= MESSAGES.from && address < MESSAGES.to;

export class Q35 {
  readonly root: PciBus;
  readonly config: ConfigRoot;
  readonly ecam: Ecam;
  readonly mch: MemoryController;
  readonly lpc: LpcBridge;
  readonly pirqs: PirqRouter;
  /** Interrupt lines with any number of sources: devices outside PCI take theirs here. */
  readonly lines: SharedLines;
  readonly #ports: ConfigPorts;

  constructor({ ports, memory, dma, msi, line, onPam = () => {}, onReset = () => {} }: Q35Options) {
    this.lines = new SharedLines(line);
    this.pirqs = new PirqRouter(this.lines);

    // What makes a write an interrupt is only its address. A driver may put any other into the capability, and the function will write there.
    // @clause pci.msi.is-a-write
    const send = (address: number, data: number): void => {
      if (isInterrupt(address)) msi.send(address, data);
      else if (Number.isSafeInteger(address)) dma.write(address, Uint8Array.of(data, data >>> 8, data >>> 16, data >>> 24));
    };
    this.root = new PciBus('pci', {
      io: ports,
      memory,
      upstream: { dma, msi: { send }, intx: (device, pin, level) => this.pirqs.intx(device, pin, level) },
    });
    this.config = new ConfigRoot(this.root);
    this.ecam = new Ecam(this.config, memory);
    this.#ports = new ConfigPorts(this.config, onReset);
    ports.attach(CONFIG_PORT, CONFIG_PORT_COUNT, this.#ports);
    this.mch = this.root.add(new MemoryController({ ecam: this.ecam, onPam }), 0);
    this.lpc = this.root.add(new LpcBridge({ lines: this.lines, pirqs: this.pirqs, io: ports, memory }), LPC_DEVICE);
  }

  /** Plugs a function into the root bus. */
  add<F extends PciFunction>(fn: F, device: number, number = 0): F {
    return this.root.add(fn, device, number);
  }

  /** Places the power management block where the LPC bridge's registers say. */
  connectPm(registers: Registers): void {
    this.lpc.connectPm(registers);
  }

  /** What a reset of the platform does to all that is PCI. */
  reset(): void {
    this.#ports.reset();
    this.root.reset();
  }
}
