// # The small machine
//
// The devices that a test program needs and nothing more: a serial port to speak through, a port to leave by, and registers that remember what was
// done to them.

import type { Trace } from '../01-hardware-background/trace.ts';
import { Chassis, ending, type Outcome } from './chassis.ts';
import { DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit } from './devices/debug-exit.ts';
import { DEBUGCON_PORT, DebugConsole } from './devices/debugcon.ts';
import { INJECT_PORT, INJECT_PORTS, Injector } from './devices/injector.ts';
import { SCRATCH_BYTES, SCRATCH_GPA, SCRATCH_PORT, SCRATCH_PORTS, Scratch } from './devices/scratch.ts';
import { COM1_PORT, SERIAL_PORTS, Serial } from './devices/serial.ts';

export class Platform extends Chassis {
  readonly serial: Serial;
  readonly debugcon: DebugConsole;
  readonly debugExit: DebugExit;
  readonly injector: Injector;
  readonly scratchPio: Scratch;
  readonly scratchMmio: Scratch;

  constructor({ trace = null, onByte = null }: { trace?: Trace | null; onByte?: ((byte: number) => void) | null } = {}) {
    super();
    this.serial = new Serial({ trace, onByte });
    this.debugcon = new DebugConsole({ trace });
    this.debugExit = new DebugExit({ trace });
    this.injector = new Injector({ trace });
    this.injector.onRequest = (what) => this.onInject(what); // to the processor that asked
    this.scratchPio = new Scratch('scratch-pio', SCRATCH_PORTS, { trace });
    this.scratchMmio = new Scratch('scratch-mmio', SCRATCH_BYTES, { trace });
    this.ports.attach(COM1_PORT, SERIAL_PORTS, this.serial);
    this.ports.attach(DEBUGCON_PORT, 1, this.debugcon);
    this.ports.attach(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, this.debugExit);
    this.ports.attach(INJECT_PORT, INJECT_PORTS, this.injector);
    this.ports.attach(SCRATCH_PORT, SCRATCH_PORTS, this.scratchPio);
    this.mmio.attach(SCRATCH_GPA, SCRATCH_BYTES, this.scratchMmio);
    this.keep('serial', this.serial, Serial.STATE);
    this.keep('debug-exit', this.debugExit, DebugExit.STATE);
    this.keep('scratch-pio', this.scratchPio, Scratch.STATE);
    this.keep('scratch-mmio', this.scratchMmio, Scratch.STATE);
  }

  override get console(): Uint8Array {
    return this.serial.output;
  }

  override takeWish(): Outcome | null {
    const { status } = this.debugExit;
    return status === null ? super.takeWish() : ending('debug-exit', `status ${status}`, status);
  }
}
