// # What a chipset is
//
// Everything that software finds on the root bus without anyone having plugged it in, and the wires from there to the rest of the machine. Chipsets
// differ in which functions these are and what their registers decide. What they have in common is here: a root bus, the two ports that lead to
// configuration space, interrupt pins that end at interrupt lines, and messages.
//
// Whoever builds a machine gives the chipset the two address spaces, the memory and the interrupt controller. It asks back for a few facts: what
// firmware would program where there is none, and what an operating system has to be told.

import type { Bus, Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { PmChip } from '../platform/pm.ts';
import type { DmaTarget, MsiTarget, Wire } from '../wires.ts';
import { CONFIG_PORT, CONFIG_PORT_COUNT, ConfigPorts, ConfigRoot, type ResetKind } from './config-access.ts';
import type { PciFunction } from './function.ts';
import type { SharedLines } from './lines.ts';
import type { SwitchArea } from './pam.ts';
import { PciBus } from './pci-bus.ts';
import { type BoardWiring, type IntxRoute, PirqRouter, rootRoutes } from './pirq.ts';

export interface ChipsetOptions {
  readonly ports: Bus;
  readonly memory: Bus;
  readonly dma: DmaTarget;
  /** Interrupt messages. */
  readonly msi: MsiTarget;
  /** Inputs of the interrupt controller. */
  readonly lines: SharedLines;
  /** A piece of the stretch below one megabyte is switched between ROM and RAM. */
  readonly onPam?: SwitchArea;
  /** The guest wrote the reset control register. */
  readonly onReset?: (kind: ResetKind) => void;
}

/** A place on the root bus. */
export interface PciPlace {
  readonly device: number;
  readonly number: number;
}

/** A function that places the power management ports, and routes their interrupt. */
interface PmPlace {
  readonly sci: Wire;
  readonly pmBase: number | null;
  connectPm(registers: Registers): void;
}

const MESSAGES = { from: 0xfee0_0000, to: 0xfef0_0000 } as const;

/** Whether a function's write to this address is an interrupt. */
export const isInterrupt = (address: number): boolean => address >= MESSAGES.from && address < MESSAGES.to;

export abstract class Chipset {
  readonly root: PciBus;
  readonly config: ConfigRoot;
  readonly pirqs: PirqRouter;
  /** Interrupt lines with any number of sources: devices outside PCI take theirs here. */
  readonly lines: SharedLines;
  /** Where every pin of the root bus ends after a reset. */
  readonly routes: readonly IntxRoute[];
  abstract readonly pmChip: PmChip;
  /** The function that says where the registers of power management are. */
  protected abstract readonly pmPlace: PmPlace;
  /** The bridge to what used to be the ISA bus. */
  abstract readonly isaBridge: PciPlace;
  /** Where the IDE function goes. */
  abstract readonly idePlace: PciPlace;
  /** Slots for what is plugged in without a place being named: the first, and the first that is none any more. */
  abstract readonly slots: readonly [number, number];
  readonly #ports: ConfigPorts;

  constructor({ ports, memory, dma, msi, lines, onReset = () => {} }: ChipsetOptions, wiring: BoardWiring) {
    this.lines = lines;
    this.pirqs = new PirqRouter(lines, wiring);
    this.routes = rootRoutes(wiring);

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
    this.#ports = new ConfigPorts(this.config, onReset);
    ports.attach(CONFIG_PORT, CONFIG_PORT_COUNT, this.#ports);
  }

  /** Where configuration space is in memory, as firmware or {@link prepare} places it; null when the chipset has no such window. */
  abstract get ecamPlan(): { readonly gpa: number; readonly buses: number } | null;

  /** The system control interrupt of whoever is behind the registers of power management. */
  get sci(): Wire {
    return this.pmPlace.sci;
  }
  /** Where the power management ports are; null while they are switched off. */
  get pmBase(): number | null {
    return this.pmPlace.pmBase;
  }
  /** Connects the power management block: its ports appear where the guest says. */
  connectPm(registers: Registers): void {
    this.pmPlace.connectPm(registers);
  }

  /** In place of firmware: opens the windows with which the chipset comes out of reset closed. */
  abstract prepare(): void;

  /** Plugs a function into the root bus. */
  add<F extends PciFunction>(fn: F, device: number, number = 0): F {
    return this.root.add(fn, device, number);
  }

  /** What a reset of the platform does to all that is PCI. */
  reset(): void {
    this.#ports.reset();
    this.root.reset();
  }

  // ## State
  //
  // Configuration space comes first: what is placed by it moves wires, and what the wires say is put right afterwards.

  /** What is saved of the chipset and of all that is PCI. */
  savedParts(): SavedPart[] {
    return [
      ...this.root.savedParts('pci'),
      savedPart('configuration ports', this.#ports, ConfigPorts.STATE),
      savedPart('PIRQs', this.pirqs, PirqRouter.STATE),
    ];
  }
}
