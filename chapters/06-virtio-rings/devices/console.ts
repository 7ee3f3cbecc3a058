// # The console device
//
// A serial port is the first device that anybody writes a driver for, and the slowest that anybody uses: one exit for each byte, and another one or
// two to ask whether the last byte has left. A virtio console moves the bytes a buffer at a time. And once there is a device that moves bytes between
// a guest and its host, other things than terminals want to use it: an agent that freezes file systems for a backup, a clipboard, a debugger. So it
// has *ports*, many of them, which come and go while the machine runs.
//
// The oldest drivers know one port and two queues. Whoever takes the feature MULTIPORT gets the others, and a pair of control queues to learn about
// them. Port 0 keeps its two queues at the front, the control queues come next, and so the formula for the rest starts with an exception.
//
// In QEMU the device is `hw/char/virtio-serial-bus.c`, its ports (`virtconsole`, `virtserialport`) are devices on a bus of its own, in
// `hw/char/virtio-console.c`. In Linux both sides of it are `drivers/char/virtio_console.c`.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';
import { array, describe, field, kind, part, parts, type SavedPart, StateError, savedPart, timer } from '../../03-vcpu-loop/devices/state.ts';
import type { DeviceModel, VirtioDevice } from '../device.ts';
import { bit, DEVICE_ID } from '../features.ts';
import type { Chain } from '../queue.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { ConfigSpace } from './config-fields.ts';
import {
  CONSOLE_EVENT,
  CONSOLE_F,
  type ConsoleEvent,
  encodeControl,
  encodeResize,
  fitName,
  type ResizeOrder,
  VirtioConsoleConfig,
  VirtioConsoleControl,
  type WindowSize,
} from './console-messages.ts';
import { ConsolePort, type PortOptions, type PortOwner } from './console-port.ts';
import { PieceReader, scatter } from './pieces.ts';
import { type Steps, Turns } from './turns.ts';

interface ConsoleOptions {
  /** How it is called in traces. */
  readonly name?: string;
  /** How many ports there can be. With one, MULTIPORT is not offered. */
  readonly maxPorts?: number;
  /** Ports that exist from the beginning; a single one for people, when absent. */
  readonly ports?: readonly PortOptions[];
  /** The size of port 0's window; the feature SIZE is offered only with one. */
  readonly size?: WindowSize;
  /** Whether EMERG_WRITE is offered. */
  readonly emergencyWrite?: boolean;
  readonly resizeOrder?: ResizeOrder;
  readonly queueSize?: number;
  /** Lets a guest that writes without end take turns with the rest of the machine. */
  readonly clock?: Clock;
}

/** QEMU's defaults. */
export const CONSOLE_DEFAULTS = { maxPorts: 31, queueSize: 128, controlQueueSize: 32 } as const;

/** More ports than this need more queues than a device can have. */
export const CONSOLE_PORTS_LIMIT = 511;

/** A name is given to the driver in one buffer, and a file is called by it. */
const PORT_NAME_BYTES = 255;

/** Numbers of the control queues. */
export const CONTROL_RECEIVEQ = 2;
export const CONTROL_TRANSMITQ = 3;

/** The numbers of a port's two queues. */
export const portQueues = (id: number): { readonly receive: number; readonly transmit: number } =>
  id === 0 ? { receive: 0, transmit: 1 } : { receive: 2 * id + 2, transmit: 2 * id + 3 };

/** The port that a queue belongs to; null for a control queue. */
const portOfQueue = (queue: number): number | null => (queue < 2 ? 0 : queue < 4 ? null : (queue >> 1) - 1);

/** What the driver has been told about a port, and what it has said. */
interface Acquaintance {
  readonly port: ConsolePort;
  /** DEVICE_ADD has been sent. */
  added: boolean;
  /** PORT_READY has come. */
  ready: boolean;
}

export class ConsoleModel implements DeviceModel, PortOwner {
  readonly name: string;
  readonly deviceId = DEVICE_ID.CONSOLE;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: ConfigSpace<typeof VirtioConsoleConfig.fields>;
  readonly maxPorts: number;
  readonly #clock: Clock | null;
  readonly #resizeOrder: ResizeOrder;
  readonly #ports = new Map<number, Acquaintance>();
  /** What the driver has yet to be told, in order. */
  readonly #owed = new Map<string, { readonly id: number; readonly event: ConsoleEvent }>();
  readonly #control: Turns;
  readonly #later: Timer | null;
  /** Queues of ports that do not exist, with more in them than one round. */
  readonly #unread = new Set<VirtQueue>();
  #device: VirtioDevice | null = null;
  #driverReady = false;

  /** @throws Errno for ports that cannot be */
  constructor(options: ConsoleOptions = {}) {
    const { maxPorts = CONSOLE_DEFAULTS.maxPorts, queueSize = CONSOLE_DEFAULTS.queueSize, size, emergencyWrite = true } = options;
    if (!(Number.isInteger(maxPorts) && maxPorts >= 1 && maxPorts <= CONSOLE_PORTS_LIMIT))
      throw new Errno('console', ERRNO.EINVAL, `${maxPorts} ports; there can be 1 to ${CONSOLE_PORTS_LIMIT}`);
    this.name = options.name ?? 'virtio-serial';
    this.maxPorts = maxPorts;
    this.#clock = options.clock ?? null;
    this.#control = new Turns((chain) => this.#controlMessage(chain), CONSOLE_DEFAULTS.controlQueueSize, this.#clock);
    this.#later = this.#clock?.timer(() => this.#goOn()) ?? null;
    this.#resizeOrder = options.resizeOrder ?? 'cols, rows';
    const multiport = maxPorts > 1;
    this.features =
      (size ? bit(CONSOLE_F.SIZE) : 0n) | (multiport ? bit(CONSOLE_F.MULTIPORT) : 0n) | (emergencyWrite ? bit(CONSOLE_F.EMERG_WRITE) : 0n);
    const control = Math.min(queueSize, CONSOLE_DEFAULTS.controlQueueSize);
    this.queueSizes = multiport
      ? Array.from({ length: 2 * (maxPorts + 1) }, (_, queue) => (portOfQueue(queue) === null ? control : queueSize))
      : [queueSize, queueSize];
    this.config = new ConfigSpace(
      VirtioConsoleConfig,
      { emerg_wr: { completedBy: 'lowest byte', written: () => this.#emergency() } },
      emergencyWrite ? VirtioConsoleConfig.bytes : VirtioConsoleConfig.fields.emerg_wr.offset,
    );
    VirtioConsoleConfig.store(this.config.view, 0, { max_nr_ports: maxPorts, ...size });
    for (const port of options.ports ?? [{ console: true }]) this.plug(port);
  }

  attach(device: VirtioDevice): void {
    this.#device = device;
    this.#control.device = device;
  }

  // ## Ports that come and go
  //
  // Number 0 is kept for a port for people, since that is the one that a driver without MULTIPORT will find there.

  /** All ports that exist. */
  get ports(): readonly ConsolePort[] {
    return [...this.#ports.values()].map(({ port }) => port);
  }

  port(id: number): ConsolePort | null {
    return this.#ports.get(id)?.port ?? null;
  }

  /**
   * Adds a port; a driver that is there is told.
   * @throws Errno EEXIST for a number that is taken, EINVAL for one that cannot be, or for a name that is too long, ENOSPC when there is no more room
   */
  plug(options: PortOptions = {}): ConsolePort {
    const id = options.id ?? this.#freeId(options.console ?? false);
    if (id === null) throw new Errno('console', ERRNO.ENOSPC, `there are ${this.#ports.size} ports of ${this.maxPorts}`);
    // @clause virtio.console.dev.device-add-names-only-new
    if (!(Number.isInteger(id) && id >= 0 && id < this.maxPorts)) throw new Errno('console', ERRNO.EINVAL, `port ${id} of ${this.maxPorts}`);
    if (this.#ports.has(id)) throw new Errno('console', ERRNO.EEXIST, `port ${id}`);
    if (id === 0 && !options.console) throw new Errno('console', ERRNO.EINVAL, 'port 0 is for a console');
    if (new TextEncoder().encode(options.name ?? '').length > PORT_NAME_BYTES) throw new Errno('console', ERRNO.EINVAL, 'the name is too long');
    const port = new ConsolePort(this, id, options, this.#clock);
    this.#ports.set(id, { port, added: false, ready: false });
    this.#connect(port);
    if (this.#driverReady) this.#announce(id);
    return port;
  }

  /**
   * Takes a port away.
   * @throws Errno ENOENT when it does not exist
   */
  unplug(id: number): void {
    const known = this.#ports.get(id);
    if (!known) throw new Errno('console', ERRNO.ENOENT, `port ${id}`);
    known.port.discard();
    known.port.disconnect();
    this.#ports.delete(id);
    for (const event of Object.values(CONSOLE_EVENT)) if (event !== CONSOLE_EVENT.DEVICE_REMOVE) this.#owed.delete(`${id} ${event}`);
    // @clause virtio.console.dev.device-remove-names-only-previously
    if (known.added) this.#tell(id, CONSOLE_EVENT.DEVICE_REMOVE);
  }

  #freeId(isConsole: boolean): number | null {
    for (let id = isConsole ? 0 : 1; id < this.maxPorts; id++) if (!this.#ports.has(id)) return id;
    return null;
  }

  // ## The driver comes, and goes

  get #multiport(): boolean {
    return this.#device?.has(CONSOLE_F.MULTIPORT) ?? false;
  }

  // Without MULTIPORT nobody could say that the guest's end is open, so it is, as soon as there is a driver.

  start(): void {
    for (const { port } of this.#ports.values()) this.#connect(port);
    if (!this.#multiport) this.port(0)?.setGuestOpen(true);
  }

  #connect(port: ConsolePort): void {
    if (!this.#device?.live || (port.id > 0 && !this.#multiport)) return;
    const { receive, transmit } = portQueues(port.id);
    port.connect(this.#device.queues[receive] ?? null, this.#device.queues[transmit] ?? null);
  }

  reconnect(port: ConsolePort): void {
    const { receive, transmit } = portQueues(port.id);
    port.connect(this.#device?.queues[receive] ?? null, this.#device?.queues[transmit] ?? null);
  }

  get busyNow(): string | null {
    return this.#control.busyNow || this.ports.some(({ busyNow }) => busyNow) ? `${this.name} has a buffer half done` : null;
  }

  static readonly STATE = describe<ConsoleModel>('virtio-serial', 1, {
    config: array(({ config: { view } }) => new Uint8Array(view.buffer)),
    driverReady: field(
      kind.flag,
      (model) => model.#driverReady,
      (model, ready) => {
        model.#driverReady = ready;
      },
    ),
    ports: parts((model) => model.ports, ConsolePort.STATE),
    known: field(
      kind.list(kind.record({ added: kind.flag, ready: kind.flag }), CONSOLE_PORTS_LIMIT),
      (model) => [...model.#ports.values()].map(({ added, ready }) => ({ added, ready })),
      (model, known) => {
        if (known.length !== model.#ports.size) throw new StateError(`${known.length} ports, and this machine has ${model.#ports.size}`);
        for (const [n, each] of [...model.#ports.values()].entries()) Object.assign(each, known[n]);
      },
    ),
    owed: field(
      kind.list(kind.record<{ id: number; event: number }>({ id: kind.u16, event: kind.u16 }), CONSOLE_PORTS_LIMIT * 16),
      (model) => [...model.#owed.values()],
      (model, owed) => {
        model.#owed.clear();
        for (const { id, event } of owed) model.#owed.set(`${id} ${event}`, { id, event: event as ConsoleEvent });
      },
    ),
    unread: field(
      kind.list(kind.u16, 2 * (CONSOLE_PORTS_LIMIT + 1)),
      (model) => [...model.#unread].map(({ index }) => index),
      (model, unread) => {
        model.#unread.clear();
        for (const index of unread) for (const queue of model.#device?.queues.slice(index, index + 1) ?? []) model.#unread.add(queue);
      },
    ),
    control: part((model) => model.#control, Turns.STATE),
    later: timer((model) => model.#later),
  });

  savedParts(name: string): SavedPart[] {
    return [savedPart<ConsoleModel>(name, this, ConsoleModel.STATE)];
  }

  reset(): void {
    this.#driverReady = false;
    this.#unread.clear();
    this.#owed.clear();
    this.#control.forget();
    for (const known of this.#ports.values()) {
      known.added = known.ready = false;
      known.port.disconnect();
    }
  }

  available(queue: VirtQueue): void {
    const id = portOfQueue(queue.index);
    if (id !== 0 && !this.#multiport) return; // a queue that does not exist for this driver
    if (id === null) {
      if (queue.index === CONTROL_TRANSMITQ) this.#control.available(queue);
      else this.#payOwed();
      return;
    }
    const port = this.port(id);
    if (port) port.available(queue);
    else if (queue.index === portQueues(id).transmit) this.#discard(queue);
  }

  /** Gives everything back unread: nobody is there who could read it. */
  #discard(queue: VirtQueue): void {
    if (!queue.serve(() => 0)) return;
    this.#unread.add(queue);
    this.#later?.arm(0);
  }

  /** A turn that was put off. */
  #goOn(): void {
    this.#payOwed();
    const unread = [...this.#unread];
    this.#unread.clear();
    for (const queue of unread) this.available(queue);
  }

  queueReset(queue: VirtQueue): void {
    this.#unread.delete(queue);
    const id = portOfQueue(queue.index);
    if (queue.index === CONTROL_TRANSMITQ) this.#control.forget();
    if (id !== null) this.port(id)?.queueReset(queue);
  }

  // Before the device falls silent it gives back what it is in the middle of. What a port has to wait for is not waited for: the host may be away for
  // a day.

  suspend(done: () => void): void {
    this.#control.rest(this.ports.reduce((next, port) => () => port.rest(next), done));
  }

  // ## What the driver says
  //
  // Three messages are the driver's to send. Anything else is not answered: one that is too short, one about a port that does not exist, an event that
  // only a device sends or that nobody knows. What follows the eight bytes is not looked at.

  *#controlMessage({ readable }: Chain): Steps {
    const message = new PieceReader(readable).take(VirtioConsoleControl.bytes);
    if (message.length === VirtioConsoleControl.bytes) this.#heard(message);
    yield 1;
    return 0;
  }

  #heard(message: Uint8Array): void {
    const { id, event, value } = VirtioConsoleControl.decode(message);
    if (event === CONSOLE_EVENT.DEVICE_READY) {
      this.#driverReady = value !== 0;
      if (this.#driverReady) for (const known of this.#ports.keys()) this.#announce(known);
      return;
    }
    const known = this.#ports.get(id);
    if (event === CONSOLE_EVENT.PORT_READY && known && value !== 0) this.#remembered(known);
    if (!known?.added) return;
    if (event === CONSOLE_EVENT.PORT_READY) {
      known.ready = value !== 0;
      if (known.ready) this.#introduce(known.port);
    } else if (event === CONSOLE_EVENT.PORT_OPEN) known.port.setGuestOpen(value !== 0);
  }

  // A driver that was put to sleep and has reset the device when it woke still has its ports. Linux then says PORT_READY for each of them, and never
  // DEVICE_READY (`virtcons_restore` in `virtio_console.c`). It need not be told of a port that it names itself, unless that one is new: what it means
  // then is a port of the same number that is gone.

  #remembered(known: Acquaintance): void {
    if (!this.#owed.has(`${known.port.id} ${CONSOLE_EVENT.DEVICE_ADD}`)) known.added = this.#driverReady = true;
  }

  /** Tells of a port; once, however often the driver says that it is ready. */
  #announce(id: number): void {
    const known = this.#ports.get(id);
    if (known && !known.added) this.#tell(id, CONSOLE_EVENT.DEVICE_ADD);
  }

  /** Tells all that there is to know of a port, now that the driver has made a place for it. */
  #introduce(port: ConsolePort): void {
    if (port.isConsole) this.#tell(port.id, CONSOLE_EVENT.CONSOLE_PORT);
    if (port.name !== '') this.#tell(port.id, CONSOLE_EVENT.PORT_NAME);
    if (port.size) this.#tell(port.id, CONSOLE_EVENT.RESIZE);
    if (port.hostOpen) this.#tell(port.id, CONSOLE_EVENT.PORT_OPEN);
  }

  // ## What the device says
  //
  // A message needs a buffer of the driver's, and there may be none. QEMU loses the message then; its source has said so for years. Keeping a list of
  // messages is no better: a driver that asks and asks, and never gives a buffer, makes it grow. What is kept here is a *set*: for each port, which
  // kinds of message are owed. What a message says is looked up when it goes out. So there are at most as many as there are ports and kinds, and a
  // driver that was away learns how things are, not all that has happened meanwhile.

  hostChanged(port: ConsolePort): void {
    if (this.#ports.get(port.id)?.ready) this.#tell(port.id, CONSOLE_EVENT.PORT_OPEN);
  }

  // The size of a window can be told in two ways. The configuration space has that of port 0, for drivers that took SIZE. The message RESIZE names a
  // port, so it is the only way for the others.

  resized(port: ConsolePort, size: WindowSize): void {
    if (port.id === 0 && this.features & bit(CONSOLE_F.SIZE)) {
      const change = (): void => VirtioConsoleConfig.store(this.config.view, 0, { cols: size.cols, rows: size.rows });
      if (this.#device && !(this.#device.live && !this.#device.has(CONSOLE_F.SIZE))) this.#device.changeConfig(change);
      else change();
    }
    if (port.isConsole && this.#ports.get(port.id)?.ready) this.#tell(port.id, CONSOLE_EVENT.RESIZE);
  }

  #tell(id: number, event: ConsoleEvent): void {
    const key = `${id} ${event}`;
    this.#owed.delete(key); // and then last in line
    this.#owed.set(key, { id, event });
    this.#payOwed();
  }

  #payOwed(): void {
    const queue = this.#device?.queues[CONTROL_RECEIVEQ];
    if (!queue?.ring || !this.#multiport) return;
    let pushed = false;
    let left = queue.size;
    for (; left > 0 && this.#owed.size > 0; left--) {
      const chain = queue.pop();
      if (!chain) break;
      const [key, { id, event }] = this.#owed.entries().next().value as [string, { id: number; event: ConsoleEvent }];
      const message = this.#message(id, event, chain.writableBytes);
      const fits = message.length <= chain.writableBytes;
      if (fits) {
        this.#owed.delete(key);
        if (event === CONSOLE_EVENT.DEVICE_ADD) (this.#ports.get(id) as Acquaintance).added = true;
      }
      queue.push(chain, fits ? scatter(chain.writable, message) : 0);
      pushed = true;
    }
    if (pushed) queue.notify();
    if (left === 0 && queue.ring?.enableKicks()) this.#later?.arm(0);
  }

  // A buffer that cannot hold the message goes back empty, and the message waits for the next. A name is cut to fit: a driver with small buffers
  // learns of the ports all the same. QEMU ends the name with a zero byte, which the specification excludes; Linux copes with either.

  #message(id: number, event: ConsoleEvent, room: number): Uint8Array {
    const port = this.port(id);
    switch (event) {
      case CONSOLE_EVENT.PORT_NAME:
        return encodeControl(id, event, 1, fitName(new TextEncoder().encode(port?.name), Math.max(0, room - VirtioConsoleControl.bytes)));
      case CONSOLE_EVENT.RESIZE:
        return encodeControl(id, event, 0, encodeResize(port?.size as WindowSize, this.#resizeOrder));
      case CONSOLE_EVENT.PORT_OPEN:
        return encodeControl(id, event, port?.hostOpen ? 1 : 0);
      default:
        return encodeControl(id, event, 1);
    }
  }

  // ## A last word
  //
  // A driver that cannot set up queues can still speak: each character that it writes to `emerg_wr` goes out at once, before there are features,
  // queues or a status, and after all of them have broken. It is how a kernel prints its first line and how it reports that the console driver has
  // crashed.

  #emergency(): void {
    const character = this.config.view.getUint8(VirtioConsoleConfig.fields.emerg_wr.offset);
    VirtioConsoleConfig.store(this.config.view, 0, { emerg_wr: 0 });
    // @clause virtio.console.dev.emerg-wr-write-works-before
    // @clause virtio.console.dev.emerg-wr-low-byte-goes
    this.ports.find((port) => port.isConsole && port.hostOpen)?.onOutput(Uint8Array.of(character));
  }
}
