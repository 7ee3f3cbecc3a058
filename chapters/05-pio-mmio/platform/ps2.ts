// # Keyboard and mouse
//
// Two devices with a serial line each, and almost the same protocol: the host sends a byte, the device acknowledges it, and some commands have an
// answer or a parameter. A driver's probe is a conversation of a dozen such bytes, and a device that answers one of them wrongly is not there.

import { describe, field, kind, part } from '../../03-vcpu-loop/devices/state.ts';

/** What sits at one of the controller's ports. */
export interface Peripheral {
  /** A byte from the host. */
  receive(byte: number): void;
  /** The next byte for the host; null when there is none. */
  next(): number | null;
  /** As after power-on. */
  reset(): void;
}

const ACK = 0xfa;
const RESEND = 0xfe;
const SELF_TEST_PASSED = 0xaa;
const COMMAND_RESET = 0xff;
const COMMAND_RESEND = 0xfe;
const COMMAND_DEFAULTS = 0xf6;
const COMMAND_DISABLE = 0xf5;
const COMMAND_ENABLE = 0xf4;
const COMMAND_RATE = 0xf3;
const COMMAND_IDENTIFY = 0xf2;
/** A keyboard has room for a few keys, a mouse for a few movements. What finds the queue full is lost. */
const QUEUE_LIMIT = 64;

/** What a device still has to say, and what the host took last: it may ask for that again. */
class Outbox {
  #bytes: number[] = [];
  #last = 0;

  say(...bytes: number[]): void {
    this.#bytes.push(...bytes);
  }
  /** Whether so many more would still be kept. */
  hasRoom(count: number): boolean {
    return this.#bytes.length + count <= QUEUE_LIMIT;
  }
  take(): number | null {
    const byte = this.#bytes.shift();
    if (byte === undefined) return null;
    this.#last = byte;
    return byte;
  }
  sayAgain(): void {
    this.say(this.#last);
  }
  clear(): void {
    this.#bytes = [];
  }

  static readonly STATE = describe<Outbox>('ps2 outbox', 1, {
    bytes: field(
      kind.record({ bytes: kind.list(kind.u8, 2 * QUEUE_LIMIT), last: kind.u8 }),
      (outbox) => ({ bytes: outbox.#bytes, last: outbox.#last }),
      (outbox, v) => {
        ({ bytes: outbox.#bytes, last: outbox.#last } = v);
      },
    ),
  });
}

// ## The keyboard

const KEYBOARD = { LEDS: 0xed, ECHO: 0xee, SCAN_SET: 0xf0, FIRST_MODE: 0xf7, LAST_KEY_MODE: 0xfd } as const;
const KEYBOARD_ID = [0xab, 0x83] as const;
const SCAN_SET_2 = 2;

export class Keyboard implements Peripheral {
  readonly #outbox = new Outbox();
  #expecting = 0;
  #scanning = true;
  #set = SCAN_SET_2;

  /** Lock lights: 1 scroll, 2 num, 4 caps. */
  leds = 0;

  press(scancodes: Iterable<number>): void {
    if (!this.#scanning) return;
    const bytes = [...scancodes];
    if (this.#outbox.hasRoom(bytes.length)) this.#outbox.say(...bytes); // half a key would be worse than none
  }

  next(): number | null {
    return this.#outbox.take();
  }

  // A new command throws away what the old one still wanted to say, and the answers to it.
  // @clause ps2.acknowledge
  receive(byte: number): void {
    const command = this.#expecting;
    this.#expecting = 0;
    if (command !== 0 && byte < KEYBOARD.LEDS) {
      this.#parameter(command, byte);
      return;
    }
    this.#outbox.clear();
    switch (byte) {
      case KEYBOARD.LEDS:
      case KEYBOARD.SCAN_SET:
      case COMMAND_RATE:
        this.#expecting = byte;
        this.#outbox.say(ACK);
        break;
      case KEYBOARD.ECHO:
        this.#outbox.say(KEYBOARD.ECHO);
        break;
      case COMMAND_IDENTIFY:
        this.#outbox.say(ACK, ...KEYBOARD_ID);
        break;
      case COMMAND_ENABLE:
        this.#scanning = true;
        this.#outbox.say(ACK);
        break;
      case COMMAND_DISABLE:
      case COMMAND_DEFAULTS:
        this.#defaults();
        this.#scanning = byte === COMMAND_DEFAULTS;
        this.#outbox.say(ACK);
        break;
      case COMMAND_RESEND:
        this.#outbox.sayAgain();
        break;
      case COMMAND_RESET:
        this.reset();
        this.#outbox.say(ACK, SELF_TEST_PASSED);
        break;
      default:
        // Which keys repeat and which report their release is a matter for set 3.
        this.#outbox.say(byte >= KEYBOARD.FIRST_MODE && byte <= KEYBOARD.LAST_KEY_MODE ? ACK : RESEND);
        break;
    }
  }

  #parameter(command: number, byte: number): void {
    if (command === KEYBOARD.SCAN_SET && byte > 3) {
      this.#outbox.say(RESEND);
      return;
    }
    this.#outbox.say(ACK);
    if (command === KEYBOARD.LEDS) this.leds = byte & 7;
    if (command === KEYBOARD.SCAN_SET && byte === 0)
      this.#outbox.say(this.#set); // a question
    else if (command === KEYBOARD.SCAN_SET) this.#set = byte;
  }

  #defaults(): void {
    this.#set = SCAN_SET_2;
    this.leds = 0;
  }

  reset(): void {
    this.#defaults();
    this.#outbox.clear();
    this.#expecting = 0;
    this.#scanning = true;
  }

  static readonly STATE = describe<Keyboard>('keyboard', 1, {
    outbox: part((keyboard) => keyboard.#outbox, Outbox.STATE),
    settings: field(
      kind.record({ expecting: kind.u8, scanning: kind.flag, set: kind.u8, leds: kind.upTo(7) }),
      (k) => ({ expecting: k.#expecting, scanning: k.#scanning, set: k.#set, leds: k.leds }),
      (k, v) => {
        ({ expecting: k.#expecting, scanning: k.#scanning, set: k.#set, leds: k.leds } = v);
      },
    ),
  });
}

// biome-ignore format: table
const SET_2_TO_SET_1: readonly number[] = [
  0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
  0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
  0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
  0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
  0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
  0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
  0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
  0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];
/** The two codes of set 2 beyond the table: F7 and the system request key. */
const SET_2_HIGH: Readonly<Record<number, number>> = { 131: 0x41, 132: 0x54 };

/** A byte of set 2 as the controller shows it when it translates. Answers are bytes like any other, and pass because the table leaves them. */
export function toSet1(byte: number): number {
  return SET_2_HIGH[byte] ?? SET_2_TO_SET_1[byte] ?? byte;
}

// ## The mouse

// biome-ignore format: table
const MOUSE = {
  SCALE_1: 0xe6, SCALE_2: 0xe7, RESOLUTION: 0xe8, STATUS: 0xe9, STREAM: 0xea, READ: 0xeb, UNWRAP: 0xec, WRAP: 0xee, REMOTE: 0xf0,
} as const;
const STATUS = { REMOTE: 0x40, ENABLED: 0x20, SCALED: 0x10 } as const;
const PACKET = { ALWAYS: 0x08, X_SIGN: 0x10, Y_SIGN: 0x20 } as const;
const PLAIN_MOUSE = 0x00;
const WHEEL_MOUSE = 0x03;
/** Setting these three rates one after the other is how a driver asks for a wheel. */
const WHEEL_KNOCK = [200, 100, 80] as const;

export class Mouse implements Peripheral {
  readonly #outbox = new Outbox();
  #expecting = 0;
  #enabled = false;
  #remote = false;
  #wrap = false;
  #scaled = false;
  #resolution = 2;
  #rate = 100;
  #id: number = PLAIN_MOUSE;
  #rates: number[] = [];
  #buttons = 0;
  #dx = 0;
  #dy = 0;

  move(dx: number, dy: number, buttons: number): void {
    this.#dx = clamp(this.#dx + dx);
    this.#dy = clamp(this.#dy + dy);
    this.#buttons = buttons & 7;
    if (this.#enabled && !this.#remote && this.#outbox.hasRoom(4)) this.#report();
  }

  #report(): void {
    const [dx, dy] = [this.#dx, this.#dy];
    this.#dx = this.#dy = 0;
    this.#outbox.say(PACKET.ALWAYS | this.#buttons | (dx < 0 ? PACKET.X_SIGN : 0) | (dy < 0 ? PACKET.Y_SIGN : 0), dx & 0xff, dy & 0xff);
    if (this.#id === WHEEL_MOUSE) this.#outbox.say(0);
  }

  next(): number | null {
    return this.#outbox.take();
  }

  receive(byte: number): void {
    const command = this.#expecting;
    this.#expecting = 0;
    this.#outbox.clear();
    if (command !== 0) {
      this.#parameter(command, byte);
      return;
    }
    if (this.#wrap && byte !== COMMAND_RESET && byte !== MOUSE.UNWRAP) {
      this.#outbox.say(byte);
      return;
    }
    switch (byte) {
      case MOUSE.SCALE_1:
      case MOUSE.SCALE_2:
        this.#scaled = byte === MOUSE.SCALE_2;
        this.#outbox.say(ACK);
        break;
      case MOUSE.RESOLUTION:
      case COMMAND_RATE:
        this.#expecting = byte;
        this.#outbox.say(ACK);
        break;
      case MOUSE.STATUS:
        this.#outbox.say(ACK, this.#status, this.#resolution, this.#rate);
        break;
      case MOUSE.STREAM:
      case MOUSE.REMOTE:
        this.#remote = byte === MOUSE.REMOTE;
        this.#outbox.say(ACK);
        break;
      case MOUSE.READ:
        this.#outbox.say(ACK);
        this.#report();
        break;
      case MOUSE.WRAP:
      case MOUSE.UNWRAP:
        this.#wrap = byte === MOUSE.WRAP;
        this.#outbox.say(ACK);
        break;
      case COMMAND_IDENTIFY:
        this.#outbox.say(ACK, this.#id);
        break;
      case COMMAND_ENABLE:
      case COMMAND_DISABLE:
        this.#enabled = byte === COMMAND_ENABLE;
        this.#outbox.say(ACK);
        break;
      case COMMAND_DEFAULTS:
        this.#defaults();
        this.#outbox.say(ACK);
        break;
      case COMMAND_RESEND:
        this.#outbox.sayAgain();
        break;
      case COMMAND_RESET:
        this.reset();
        this.#outbox.say(ACK, SELF_TEST_PASSED, PLAIN_MOUSE);
        break;
      default:
        this.#outbox.say(RESEND);
        break;
    }
  }

  get #status(): number {
    return (this.#remote ? STATUS.REMOTE : 0) | (this.#enabled ? STATUS.ENABLED : 0) | (this.#scaled ? STATUS.SCALED : 0) | this.#buttons;
  }

  #parameter(command: number, byte: number): void {
    if (command === MOUSE.RESOLUTION) this.#resolution = byte & 3;
    else {
      this.#rate = byte;
      this.#rates = [...this.#rates, byte].slice(-WHEEL_KNOCK.length);
      if (WHEEL_KNOCK.every((rate, index) => this.#rates[index] === rate)) this.#id = WHEEL_MOUSE;
    }
    this.#outbox.say(ACK);
  }

  #defaults(): void {
    this.#enabled = this.#remote = this.#scaled = false;
    this.#resolution = 2;
    this.#rate = 100;
    this.#dx = this.#dy = 0;
  }

  reset(): void {
    this.#defaults();
    this.#wrap = false;
    this.#id = PLAIN_MOUSE;
    this.#rates = [];
    this.#outbox.clear();
    this.#expecting = 0;
  }

  static readonly STATE = describe<Mouse>('mouse', 1, {
    outbox: part((mouse) => mouse.#outbox, Outbox.STATE),
    settings: field(
      kind.record({
        expecting: kind.u8,
        enabled: kind.flag,
        remote: kind.flag,
        wrap: kind.flag,
        scaled: kind.flag,
        resolution: kind.upTo(3),
        rate: kind.u8,
        id: kind.u8,
        rates: kind.list(kind.u8, WHEEL_KNOCK.length),
      }),
      (m) => ({
        expecting: m.#expecting,
        enabled: m.#enabled,
        remote: m.#remote,
        wrap: m.#wrap,
        scaled: m.#scaled,
        resolution: m.#resolution,
        rate: m.#rate,
        id: m.#id,
        rates: m.#rates,
      }),
      (m, v) => {
        ({ expecting: m.#expecting, enabled: m.#enabled, remote: m.#remote, wrap: m.#wrap, scaled: m.#scaled } = v);
        ({ resolution: m.#resolution, rate: m.#rate, id: m.#id, rates: m.#rates } = v);
      },
    ),
    movement: field(
      kind.record({ buttons: kind.upTo(7), dx: kind.between(-256, 255), dy: kind.between(-256, 255) }),
      (m) => ({ buttons: m.#buttons, dx: m.#dx, dy: m.#dy }),
      (m, v) => {
        ({ buttons: m.#buttons, dx: m.#dx, dy: m.#dy } = v);
      },
    ),
  });
}

/** As far as a packet can tell. */
function clamp(counts: number): number {
  return Math.max(-256, Math.min(255, Math.trunc(counts) || 0));
}
