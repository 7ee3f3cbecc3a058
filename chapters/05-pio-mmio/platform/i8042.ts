// # The keyboard controller
//
// A small processor between the keyboard and the bus. The keyboard is at one of its serial ports and, since the PS/2, a mouse at the other; it queues
// their bytes for the host, one at a time. Because it had pins to spare it was given two more jobs that every PC still has: one pin resets the
// processor, another opened address line 20.
//
// About that gate: it made addresses wrap at 1 MiB, as programs for the 8086 expected. Processors have had no such pin since Haswell, and memory here
// is always addressed whole; the gate is remembered and reported, as under KVM.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, part } from '../../03-vcpu-loop/devices/state.ts';
import { registerTable } from '../registers.ts';
import type { Wire } from '../wires.ts';
import { Keyboard, Mouse, type Peripheral, toSet1 } from './ps2.ts';

export const I8042_DATA_PORT = 0x60;
export const I8042_COMMAND_PORT = 0x64;
export const PORT_92 = 0x92;
export const KEYBOARD_IRQ = 1;
export const MOUSE_IRQ = 12;

// ::layout i8042Table -- Two ports with three others between them, which are not its own.

export const i8042Table = registerTable('i8042', 'IBM PS/2 Hardware Interface Technical Reference, Keyboard and Auxiliary Device Controller', {
  DATA: { offset: 0, bytes: 1, access: 'rw', text: 'a byte from a device or the controller; a byte for one' },
  COMMAND: { offset: 4, bytes: 1, access: 'rw', text: 'read: status; write: a command for the controller' },
});

/** Status: a byte is waiting; self-test passed; the last write was a command; not locked; the byte is the mouse's. */
const STATUS = { OBF: 0x01, SYSTEM: 0x04, COMMAND: 0x08, UNLOCKED: 0x10, AUX: 0x20 } as const;
/** The configuration byte: interrupts, system flag, ports disabled, translation to set 1. */
const CONFIG = { IRQ1: 0x01, IRQ12: 0x02, SYSTEM: 0x04, KEYBOARD_OFF: 0x10, MOUSE_OFF: 0x20, TRANSLATE: 0x40 } as const;
const OUTPUT = { RUN: 0x01, A20: 0x02, IRQ1: 0x10, IRQ12: 0x20, ONES: 0xcc } as const;
const PORT_92_RESET = 0x01;
const PORT_92_A20 = 0x02;

// biome-ignore format: table
const COMMAND = {
  READ_CONFIG: 0x20, WRITE_CONFIG: 0x60, VERSION: 0xa1, MOUSE_OFF: 0xa7, MOUSE_ON: 0xa8, TEST_MOUSE: 0xa9, SELF_TEST: 0xaa, TEST_KEYBOARD: 0xab,
  KEYBOARD_OFF: 0xad, KEYBOARD_ON: 0xae, READ_INPUT: 0xc0, READ_OUTPUT: 0xd0, WRITE_OUTPUT: 0xd1, LOOP_KEYBOARD: 0xd2, LOOP_MOUSE: 0xd3,
  TO_MOUSE: 0xd4, A20_OFF: 0xdd, A20_ON: 0xdf, PULSE: 0xf0,
} as const;
const SELF_TEST_PASSED = 0x55;
const INPUT_PORT = 0x80; // the keyboard is not locked
const CONFIG_RESET = CONFIG.IRQ1 | CONFIG.IRQ12 | CONFIG.TRANSLATE;
const LOOP_LIMIT = 16;

interface I8042Options {
  readonly keyboardIrq: Wire;
  readonly mouseIrq: Wire;
  /** The guest pulses the reset line. */
  readonly onReset: () => void;
  /** Whether a mouse is plugged in. */
  readonly mouse?: boolean;
  readonly trace?: Trace | null;
}

const SAID = kind.record<{ byte: number; aux: boolean }>({ byte: kind.u8, aux: kind.flag });

export class I8042 {
  /** One port at {@link I8042_DATA_PORT}. */
  readonly data: Registers;
  /** One port at {@link I8042_COMMAND_PORT}. */
  readonly command: Registers;
  /** One port at {@link PORT_92}: the same two pins, without the detour. */
  readonly port92: Registers;
  readonly #keyboardIrq: Wire;
  readonly #mouseIrq: Wire;
  readonly #onReset: () => void;
  readonly #trace: Trace | null;
  readonly #keyboard = new Keyboard();
  readonly #mouse: Mouse | null;
  #config: number = CONFIG_RESET;
  #output: number = OUTPUT.RUN | OUTPUT.A20 | OUTPUT.ONES;
  #passed = false;
  #lastWasCommand = true;
  #expecting = 0; // the command whose data byte comes next
  /** Bytes of the controller's own, or looped back; ahead of what the devices queue. */
  #own: { byte: number; aux: boolean }[] = [];
  /** The byte on the data port. */
  #buffer: { byte: number; aux: boolean } | null = null;
  #last = 0;

  constructor({ keyboardIrq, mouseIrq, onReset, mouse = true, trace = null }: I8042Options) {
    this.#keyboardIrq = keyboardIrq;
    this.#mouseIrq = mouseIrq;
    this.#onReset = onReset;
    this.#trace = trace;
    this.#mouse = mouse ? new Mouse() : null;
    const port = (name: string, read: () => number, write: (value: number) => void): Registers => ({
      name,
      read: (_offset, width) => 2n ** BigInt(8 * width) - 256n + BigInt(read()),
      write: (_offset, _width, value) => write(Number(value & 0xffn)),
    });
    this.data = port(
      'i8042',
      () => this.#readData(),
      (value) => this.#writeData(value),
    );
    this.command = port(
      'i8042',
      () => this.#status,
      (value) => this.#writeCommand(value),
    );
    this.port92 = port(
      'port92',
      () => (this.a20 ? PORT_92_A20 : 0),
      (value) => {
        this.#gate((value & PORT_92_A20) !== 0);
        // @clause pc.reset.port-92
        if (value & PORT_92_RESET) this.#pulseReset();
      },
    );
  }

  /** What software has set the gate to. */
  get a20(): boolean {
    return (this.#output & OUTPUT.A20) !== 0;
  }

  // ## The buffer
  //
  // There is one byte on the data port, and it belongs to somebody: the status says whether to the mouse. The next one moves up when it has been read. A
  // disabled device keeps its bytes; the controller's own answers always come through.

  get #status(): number {
    return (
      STATUS.UNLOCKED |
      (this.#passed ? STATUS.SYSTEM : 0) |
      (this.#lastWasCommand ? STATUS.COMMAND : 0) |
      (this.#buffer ? STATUS.OBF | (this.#buffer.aux ? STATUS.AUX : 0) : 0)
    );
  }

  // @clause i8042.output-buffer
  #update(): void {
    if (this.#buffer === null) {
      const own = this.#own.shift();
      if (own) this.#buffer = own;
      else if (!(this.#config & CONFIG.KEYBOARD_OFF)) this.#take(this.#keyboard, false);
      if (this.#buffer === null && this.#mouse && !(this.#config & CONFIG.MOUSE_OFF)) this.#take(this.#mouse, true);
    }
    const waiting = this.#buffer as { byte: number; aux: boolean } | null;
    this.#keyboardIrq.set(waiting?.aux === false && (this.#config & CONFIG.IRQ1) !== 0);
    this.#mouseIrq.set(waiting?.aux === true && (this.#config & CONFIG.IRQ12) !== 0);
  }

  #take(device: Peripheral, aux: boolean): void {
    for (;;) {
      const byte = device.next();
      if (byte === null) return;
      const seen = aux || !(this.#config & CONFIG.TRANSLATE) ? byte : this.#translate(byte);
      if (seen === null) continue; // a prefix, that goes into the next byte
      this.#buffer = { byte: seen, aux };
      return;
    }
  }

  // The keyboard of 1984 announces a release with a prefix and the key's number; that of 1981 set the upper bit. Software of 1981 still runs, because the
  // controller translates, and what most systems see to this day is the older set.
  #released = false;
  #translate(byte: number): number | null {
    if (byte === RELEASE) {
      this.#released = true;
      return null;
    }
    const code = toSet1(byte) | (this.#released ? 0x80 : 0);
    this.#released = false;
    return code;
  }

  #answer(byte: number, aux = false): void {
    if (this.#own.length < LOOP_LIMIT) this.#own.push({ byte, aux });
    this.#update();
  }

  #readData(): number {
    if (this.#buffer !== null) {
      this.#last = this.#buffer.byte;
      this.#buffer = null;
      // The line falls before it rises for the next byte: each byte is an edge of its own.
      this.#keyboardIrq.set(false);
      this.#mouseIrq.set(false);
      this.#update();
    }
    return this.#last; // nothing new: the latch still shows the old
  }

  // ## Commands

  #writeCommand(value: number): void {
    this.#lastWasCommand = true;
    this.#expecting = 0;
    this.#trace?.emit({ kind: 'device', device: i8042Table.device, what: 'command', value });
    if (value >= COMMAND.PULSE) {
      // Each zero among the lower four bits pulses a pin of the output port, and pin 0 is the reset.
      // @clause i8042.reset-pulse
      if ((value & OUTPUT.RUN) === 0) this.#pulseReset();
      return;
    }
    switch (value) {
      case COMMAND.READ_CONFIG:
        this.#answer(this.#config);
        break;
      case COMMAND.WRITE_CONFIG:
      case COMMAND.WRITE_OUTPUT:
      case COMMAND.LOOP_KEYBOARD:
      case COMMAND.LOOP_MOUSE:
      case COMMAND.TO_MOUSE:
        this.#expecting = value;
        break;
      case COMMAND.VERSION:
        this.#answer(0);
        break;
      case COMMAND.MOUSE_OFF:
        this.#configure(this.#config | CONFIG.MOUSE_OFF);
        break;
      case COMMAND.MOUSE_ON:
        this.#configure(this.#config & ~CONFIG.MOUSE_OFF);
        break;
      case COMMAND.KEYBOARD_OFF:
        this.#configure(this.#config | CONFIG.KEYBOARD_OFF);
        break;
      case COMMAND.KEYBOARD_ON:
        this.#configure(this.#config & ~CONFIG.KEYBOARD_OFF);
        break;
      case COMMAND.TEST_MOUSE:
      case COMMAND.TEST_KEYBOARD:
        this.#answer(0); // neither line is stuck
        break;
      case COMMAND.SELF_TEST:
        this.#passed = true;
        this.#answer(SELF_TEST_PASSED);
        break;
      case COMMAND.READ_INPUT:
        this.#answer(INPUT_PORT);
        break;
      case COMMAND.READ_OUTPUT:
        this.#answer(this.#output | (this.#buffer ? (this.#buffer.aux ? OUTPUT.IRQ12 : OUTPUT.IRQ1) : 0));
        break;
      case COMMAND.A20_ON:
      case COMMAND.A20_OFF:
        this.#gate(value === COMMAND.A20_ON);
        break;
      default: // the rest are diagnostics of controllers that nobody has
    }
  }

  #writeData(value: number): void {
    this.#lastWasCommand = false;
    const command = this.#expecting;
    this.#expecting = 0;
    switch (command) {
      case COMMAND.WRITE_CONFIG:
        this.#configure(value);
        break;
      case COMMAND.WRITE_OUTPUT:
        this.#gate((value & OUTPUT.A20) !== 0);
        if ((value & OUTPUT.RUN) === 0) this.#pulseReset();
        break;
      case COMMAND.LOOP_KEYBOARD:
        this.#answer(value);
        break;
      case COMMAND.LOOP_MOUSE:
        this.#answer(value, true);
        break;
      case COMMAND.TO_MOUSE:
        this.#mouse?.receive(value);
        // Talking to a device turns its port on.
        this.#configure(this.#config & ~CONFIG.MOUSE_OFF);
        break;
      default:
        this.#keyboard.receive(value);
        this.#configure(this.#config & ~CONFIG.KEYBOARD_OFF);
        break;
    }
  }

  #configure(config: number): void {
    if (config & CONFIG.SYSTEM && !(this.#config & CONFIG.SYSTEM)) this.#passed = true;
    this.#config = config;
    this.#update();
  }

  #gate(open: boolean): void {
    this.#output = open ? this.#output | OUTPUT.A20 : this.#output & ~OUTPUT.A20;
  }

  #pulseReset(): void {
    this.#trace?.emit({ kind: 'device', device: i8042Table.device, what: 'reset' });
    this.#onReset();
  }

  // ## From outside

  /** Presses or releases keys: the bytes that a keyboard sends in its scan code set 2. Bytes that find the keyboard's queue full are lost. */
  key(scancodes: Iterable<number>): void {
    this.#keyboard.press(scancodes);
    this.#update();
  }

  /** Moves the mouse, in its counts; `buttons`: 1 left, 2 right, 4 middle. */
  moveMouse(dx: number, dy: number, buttons: number): void {
    this.#mouse?.move(dx, dy, buttons);
    this.#update();
  }

  /** As after power-on. */
  reset(): void {
    this.#config = CONFIG_RESET;
    this.#output = OUTPUT.RUN | OUTPUT.A20 | OUTPUT.ONES;
    this.#passed = false;
    this.#lastWasCommand = true;
    this.#expecting = 0;
    this.#own = [];
    this.#buffer = null;
    this.#released = false;
    this.#keyboard.reset();
    this.#mouse?.reset();
    this.#update();
  }

  // ## State

  static readonly STATE = describe<I8042>('i8042', 1, {
    registers: field(
      kind.record({
        config: kind.u8,
        output: kind.u8,
        passed: kind.flag,
        lastWasCommand: kind.flag,
        expecting: kind.u8,
        last: kind.u8,
        released: kind.flag,
      }),
      (c) => ({
        config: c.#config,
        output: c.#output,
        passed: c.#passed,
        lastWasCommand: c.#lastWasCommand,
        expecting: c.#expecting,
        last: c.#last,
        released: c.#released,
      }),
      (c, v) => {
        ({ config: c.#config, output: c.#output, passed: c.#passed, lastWasCommand: c.#lastWasCommand } = v);
        ({ expecting: c.#expecting, last: c.#last, released: c.#released } = v);
      },
    ),
    bytes: field(
      kind.record({ own: kind.list(SAID, LOOP_LIMIT), buffer: kind.maybe(SAID) }),
      (c) => ({ own: c.#own, buffer: c.#buffer }),
      (c, v) => {
        ({ own: c.#own, buffer: c.#buffer } = v);
      },
    ),
    keyboard: part((c) => c.#keyboard, Keyboard.STATE),
    mouse: part((c) => c.#mouse, Mouse.STATE),
  });
}

/** In set 2: the next byte is a key let go. */
const RELEASE = 0xf0;
