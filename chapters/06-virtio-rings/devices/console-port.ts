// # A port
//
// A port is a pipe with two ends, each of which can be open or shut. The guest's end is a pair of queues: in one the driver puts empty buffers for
// what comes in, in the other full ones with what goes out. The host's end is whatever holds this object: a terminal, a socket, a test.
//
// What makes a pipe more than a pair of copies is that either end may be slow. Coming in, the driver may have given no buffers. The naive device
// drops the bytes then, and a pasted paragraph loses its middle. This one keeps a bounded number of them and then takes no more: `send` says how many
// it took, and `onRoom` when to try again, so that the one who waits is the one who sends. Going out, the host may be slow. Then the port keeps the
// driver's buffer and gives it back later, which is all it takes to make a program in the guest wait.
//
// With one exception. Linux' console driver does not sleep until its buffer comes back, it spins (`__send_to_port` in `virtio_console.c`): a terminal
// that somebody has stopped with Ctrl-S would take a virtual processor with it. Therefore a port *for people* loses what its host does not take, and
// a port for programs waits. QEMU's `flush_buf` in `hw/char/virtio-console.c` makes the same difference.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { describe, field, kind, StateError, timer } from '../../03-vcpu-loop/devices/state.ts';
import type { Chain } from '../queue.ts';
import type { VirtQueue } from '../virt-queue.ts';
import type { WindowSize } from './console-messages.ts';
import { PieceReader, scatter } from './pieces.ts';

/** How many bytes a port keeps for a guest that is not reading. */
const INPUT_BYTES = 4096;

/** How many bytes go out in one piece: more than that is not copied at once. */
const OUTPUT_PIECE_BYTES = 4096;

/** How many bytes a port lets out before it lets the rest of the machine go on. */
const OUTPUT_TURN_BYTES = 1 << 20;

/** What a port asks of the device that it belongs to. */
export interface PortOwner {
  /** Gives a port its queues again. */
  reconnect(port: ConsolePort): void;
  /** The host's end has been opened or shut. */
  hostChanged(port: ConsolePort): void;
  /** The window of whoever looks at the port has another size. */
  resized(port: ConsolePort, size: WindowSize): void;
}

export interface PortOptions {
  /** The port's number; the lowest that is free and fitting, when absent. */
  readonly id?: number;
  /** For people (QEMU's `virtconsole`); otherwise for programs (`virtserialport`). */
  readonly console?: boolean;
  /** By which programs in the guest find it: `/dev/virtio-ports/<name>` in Linux. */
  readonly name?: string;
  /** Whether somebody is at the host's end from the beginning: by default, of a console. */
  readonly open?: boolean;
}

export class ConsolePort {
  readonly id: number;
  readonly name: string;
  readonly isConsole: boolean;
  /** What the guest has sent. Returns how many bytes were taken; nothing returned means all. After fewer, the port waits for {@link resume}. */
  onOutput: (bytes: Uint8Array) => number | undefined = () => undefined;
  /** The guest's end was opened or shut. */
  onGuestOpen: (open: boolean) => void = () => {};
  /** After {@link send} took less than it was given: there is room again. */
  onRoom: () => void = () => {};
  /** Bytes of a console that its host would not take. */
  lost = 0;
  size: WindowSize | null = null;

  readonly #owner: PortOwner;
  #hostOpen: boolean;
  #guestOpen = false;
  #receive: VirtQueue | null = null;
  #transmit: VirtQueue | null = null;
  readonly #input = new Uint8Array(INPUT_BYTES);
  #inputBytes = 0;
  #refused = false;
  /** A buffer of which the host has taken only a part. */
  #halfway: { readonly chain: Chain; readonly reader: PieceReader } | null = null;
  #blocked = false;
  #draining = false;
  #rested: (() => void) | null = null;
  readonly #later: Timer | null;

  constructor(owner: PortOwner, id: number, options: PortOptions, clock: Clock | null) {
    this.#owner = owner;
    this.id = id;
    this.name = options.name ?? '';
    this.isConsole = options.console ?? false;
    this.#hostOpen = options.open ?? this.isConsole;
    this.#later =
      clock?.timer(() => {
        this.#deliver();
        this.#drain();
      }) ?? null;
  }

  // ## The host's end

  get hostOpen(): boolean {
    return this.#hostOpen;
  }

  get guestOpen(): boolean {
    return this.#guestOpen;
  }

  /** How many more bytes {@link send} would take. */
  get room(): number {
    return this.#hostOpen ? INPUT_BYTES - this.#inputBytes : 0;
  }

  open(): void {
    if (this.#hostOpen) return;
    this.#hostOpen = true;
    this.#owner.hostChanged(this);
  }

  /** Nobody is here any more. What was sent and has not arrived is gone, and so is what the guest still sends. */
  close(): void {
    if (!this.#hostOpen) return;
    this.#hostOpen = false;
    this.#inputBytes = 0;
    this.#refused = false;
    this.#blocked = false;
    this.#owner.hostChanged(this);
    this.#drain();
  }

  /** For the guest. Returns how many bytes were taken; with the rest the caller waits for {@link onRoom}. */
  send(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.room);
    this.#input.set(bytes.subarray(0, taken), this.#inputBytes);
    this.#inputBytes += taken;
    if (taken < bytes.length && this.#hostOpen) this.#refused = true;
    this.#deliver();
    return taken;
  }

  /** The host can take output again. */
  resume(): void {
    this.#blocked = false;
    this.#drain();
  }

  resize(size: WindowSize): void {
    this.size = size;
    this.#owner.resized(this, size);
  }

  // ## The guest's end

  /** The driver has set the device up: these are the port's queues. */
  connect(receive: VirtQueue | null, transmit: VirtQueue | null): void {
    this.#receive = receive;
    this.#transmit = transmit;
  }

  setGuestOpen(open: boolean): void {
    if (this.#guestOpen === open) return;
    this.#guestOpen = open;
    this.onGuestOpen(open);
    this.#deliver();
  }

  /** The driver's buffers are gone. What the host has sent is still here. */
  disconnect(): void {
    this.connect(null, null);
    this.#forgetHalfway();
    this.setGuestOpen(false);
  }

  /** The driver has kicked one of the port's queues. */
  available(queue: VirtQueue): void {
    if (queue === this.#receive) this.#deliver();
    else if (queue === this.#transmit) this.#drain();
  }

  queueReset(queue: VirtQueue): void {
    if (queue === this.#transmit) this.#forgetHalfway();
  }

  /** Calls `done` when no output is half finished, other than by the host's leave. */
  rest(done: () => void): void {
    if (this.#halfway && !this.#blocked) this.#rested = done;
    else done();
  }

  /** Gives everything back that the driver wants to send, unread. */
  discard(): void {
    this.#hostOpen = false;
    this.#blocked = false;
    this.#drain();
  }

  #forgetHalfway(): void {
    this.#halfway = null;
    this.#rested = null;
    this.#blocked = false;
    this.#later?.cancel();
  }

  /** A buffer is half given to the host. */
  get busyNow(): boolean {
    return this.#halfway !== null;
  }

  static readonly STATE = describe<ConsolePort>('console port', 1, {
    id: field(
      kind.u16,
      ({ id }) => id,
      (port, id) => {
        if (id !== port.id) throw new StateError(`port ${id} is port ${port.id} here`);
      },
    ),
    size: field(
      kind.maybe(kind.record<WindowSize>({ cols: kind.u16, rows: kind.u16 })),
      ({ size }) => size,
      (port, size) => {
        port.size = size;
      },
    ),
    ends: field(
      kind.record({ hostOpen: kind.flag, guestOpen: kind.flag, refused: kind.flag, blocked: kind.flag }),
      (p) => ({ hostOpen: p.#hostOpen, guestOpen: p.#guestOpen, refused: p.#refused, blocked: p.#blocked }),
      (p, v) => {
        ({ hostOpen: p.#hostOpen, guestOpen: p.#guestOpen, refused: p.#refused, blocked: p.#blocked } = v);
      },
    ),
    input: field(
      kind.bytes(INPUT_BYTES),
      (port) => port.#input.slice(0, port.#inputBytes),
      (port, bytes) => {
        port.#input.set(bytes);
        port.#inputBytes = bytes.length;
      },
    ),
    connected: field(
      kind.flag,
      (port) => port.#receive !== null,
      (port, connected) => {
        if (connected) port.#owner.reconnect(port);
        else port.connect(null, null);
      },
    ),
    later: timer((port) => port.#later),
  });

  // ## Bytes coming in
  //
  // Each buffer gets what there is, and goes back even if it is not full: somebody is typing. A buffer that holds nothing because the driver has
  // offered only bytes to *read* goes back empty, and the next one is tried.

  #deliver(): void {
    const queue = this.#receive;
    if (!queue?.ring || !this.#guestOpen) return;
    let pushed = false;
    let left = queue.size;
    for (; left > 0 && this.#inputBytes > 0; left--) {
      const chain = queue.pop();
      if (!chain) break;
      const written = scatter(chain.writable, this.#input.subarray(0, this.#inputBytes));
      this.#input.copyWithin(0, written, this.#inputBytes);
      this.#inputBytes -= written;
      queue.push(chain, written);
      pushed = true;
    }
    if (pushed) queue.notify();
    if (left === 0) this.#lookAgain(queue);
    if (this.#refused && this.room > 0) {
      this.#refused = false;
      this.onRoom();
    }
  }

  // ## Bytes going out
  //
  // The host is given copies: the buffer is the driver's again a moment later. They are small, because a descriptor can name a gigabyte; and after
  // so many bytes it is somebody else's turn, because one ring can name all of memory a hundred times over.

  #drain(): void {
    if (this.#draining) return; // the host, in the middle of taking something, has shut its end or resumed
    this.#draining = true;
    try {
      this.#drainNow();
    } finally {
      this.#draining = false;
    }
    if (!this.#rested || (this.#halfway && !this.#blocked)) return;
    const done = this.#rested;
    this.#rested = null;
    done();
  }

  #drainNow(): void {
    const queue = this.#transmit;
    const ring = queue?.ring;
    if (!queue || !ring) return;
    let turn = OUTPUT_TURN_BYTES;
    let pushed = false;
    let left = queue.size;
    for (; left > 0 && !this.#blocked; left--) {
      if (!this.#halfway) {
        const chain = queue.pop();
        if (!chain) break;
        this.#halfway = { chain, reader: new PieceReader(chain.readable) };
      }
      const { chain, reader } = this.#halfway;
      turn -= this.#output(reader, turn);
      if (queue.ring !== ring) return; // reset by the host, while it was taking something
      if (this.#blocked) break;
      if (this.#hostOpen && reader.peek(1).length > 0) {
        this.#later?.arm(0);
        break;
      }
      this.#halfway = null;
      queue.push(chain, 0);
      pushed = true;
    }
    if (pushed) queue.notify();
    if (left === 0) this.#lookAgain(queue);
  }

  /** After a whole round: the driver may have put more there meanwhile, without a kick. */
  #lookAgain(queue: VirtQueue): void {
    if (queue.ring?.enableKicks()) this.#later?.arm(0);
  }

  /** Gives the host what is left of a buffer. Returns how many bytes that were. Without a clock there are no turns. */
  #output(reader: PieceReader, turn: number): number {
    let given = 0;
    while (this.#hostOpen && this.#halfway?.reader === reader && (given < turn || !this.#later)) {
      const bytes = reader.peek(OUTPUT_PIECE_BYTES).slice();
      if (bytes.length === 0) break;
      const taken = Math.max(0, Math.min(this.onOutput(bytes) ?? bytes.length, bytes.length));
      given += bytes.length;
      if (taken < bytes.length && !this.isConsole) {
        reader.skip(taken);
        this.#blocked = this.#hostOpen;
        break;
      }
      reader.skip(bytes.length);
      this.lost += bytes.length - taken;
    }
    return given;
  }
}
