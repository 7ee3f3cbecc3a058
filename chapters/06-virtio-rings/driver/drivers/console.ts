// # A driver of a console
//
// Bytes in two directions: a queue of empty buffers for what comes, a queue of full ones for what goes. With MULTIPORT there are many such pairs, and
// a pair of control queues in which driver and device tell each other which ports exist, what they are called, and whether anyone listens.

import { CONTROL_RECEIVEQ, CONTROL_TRANSMITQ, portQueues } from '../../devices/console.ts';
import {
  CONSOLE_EVENT,
  CONSOLE_F,
  encodeControl,
  VirtioConsoleConfig,
  VirtioConsoleControl,
  VirtioConsoleResize,
} from '../../devices/console-messages.ts';
import { DEVICE_ID } from '../../features.ts';
import type { DmaBuffer } from '../bus.ts';
import type { DeviceHandle, QueueWish } from '../virtio-device.ts';
import type { VirtioDriver } from '../virtio-driver.ts';
import type { Virtqueue } from '../virtqueue.ts';

/** Ports that this driver has room for. A device may have more; those are declined. */
const MAX_PORTS = 32;
const QUEUE_SIZE = 16;
/** Buffers for what comes, of a port; and how large each is, of data and of control messages. */
const RECEIVE_BUFFERS = 4;
const RECEIVE_BYTES = 512;
const CONTROL_BYTES = 256 + VirtioConsoleControl.bytes;
const CONTROL_BUFFERS = 8;

type Buffers = Virtqueue<DmaBuffer>;

/** One port, while it exists. */
export class ConsolePort {
  readonly id: number;
  /** For people, rather than for programs. */
  isConsole = false;
  /** Somebody is at the other end. */
  hostConnected = false;
  name = '';
  /** Of the window, where there is one. */
  size: { readonly cols: number; readonly rows: number } | null = null;
  exists = true;
  /** Called when something has come. */
  onData: () => void = () => {};
  readonly #device: DeviceHandle;
  readonly #receive: Buffers;
  readonly #transmit: Buffers;
  readonly #spare: DmaBuffer[] = [];
  /** What has come and was not read, in the order in which it came. */
  readonly #arrived: { readonly buffer: DmaBuffer; readonly len: number; read: number }[] = [];

  constructor(device: DeviceHandle, id: number, receive: Buffers, transmit: Buffers) {
    this.#device = device;
    this.id = id;
    this.#receive = receive;
    this.#transmit = transmit;
    const { dma } = device;
    for (let n = 0; n < RECEIVE_BUFFERS; n++) {
      const buffer = dma.allocate(RECEIVE_BYTES);
      // @clause virtio.console.dri.receive-queue-holds-only-device
      if (receive.addInbuf([buffer], buffer) !== 0) dma.free(buffer);
      this.#spare.push(dma.allocate(RECEIVE_BYTES));
    }
    receive.kick();
  }

  /** Looks what has come. */
  arrived(): void {
    this.#receive.reap((buffer, len) => {
      if (len > 0) this.#arrived.push({ buffer, len, read: 0 });
      else this.#receive.addInbuf([buffer], buffer);
    });
    if (this.#arrived.length > 0) this.onData();
  }

  /** What has come, at most so much. Buffers go back to the device when they have been read, and not before: a device that sends faster than anyone reads has to wait. */
  read(most = Number.POSITIVE_INFINITY): Uint8Array {
    this.arrived();
    const parts: number[] = [];
    let returned = false;
    for (let first = this.#arrived[0]; first && parts.length < most; first = this.#arrived[0]) {
      const take = Math.min(first.len - first.read, most - parts.length);
      for (let at = 0; at < take; at++) parts.push(first.buffer.bytes[first.read + at] as number);
      first.read += take;
      if (first.read < first.len) break;
      this.#arrived.shift();
      if (this.#receive.addInbuf([first.buffer], first.buffer) === 0) returned = true;
    }
    if (returned) this.#receive.kick();
    return Uint8Array.from(parts);
  }

  #reclaim(): void {
    this.#transmit.reap((buffer) => void this.#spare.push(buffer));
  }

  /** Sends, and returns how much of it was taken: less when the device does not take more in time. */
  write(bytes: Uint8Array): number {
    let done = 0;
    while (done < bytes.length && this.exists) {
      this.#reclaim();
      if (this.#spare.length === 0 && this.#device.waitUsed(this.#transmit)) this.#reclaim();
      const buffer = this.#spare.pop();
      if (!buffer) break;
      const part = { address: buffer.address, bytes: buffer.bytes.subarray(0, Math.min(RECEIVE_BYTES, bytes.length - done)) };
      part.bytes.set(bytes.subarray(done, done + part.bytes.length));
      // @clause virtio.console.dri.transmit-queue-holds-only-device
      if (this.#transmit.addOutbuf([part], buffer) !== 0) {
        this.#spare.push(buffer);
        break;
      }
      this.#transmit.kick();
      done += part.bytes.length;
    }
    return done;
  }
}

export class Console {
  readonly ports = new Map<number, ConsolePort>();
  onPort: (port: ConsolePort) => void = () => {};
  readonly #device: DeviceHandle;
  readonly #queues: (Buffers | null)[];
  readonly #multiport: boolean;
  /** Ports that have been there: their queues and buffers are theirs when they come again. */
  readonly #known = new Map<number, ConsolePort>();
  readonly #most: number;
  readonly #control: DmaBuffer[] = [];

  /** @throws Errno */
  constructor(device: DeviceHandle) {
    this.#device = device;
    this.#multiport = device.has(CONSOLE_F.MULTIPORT);
    const told = this.#multiport ? device.readConfig(VirtioConsoleConfig, 'max_nr_ports').max_nr_ports : 1;
    this.#most = Math.min(Math.max(told, 1), MAX_PORTS);
    const last = this.#multiport ? Math.max(portQueues(this.#most - 1).transmit, CONTROL_TRANSMITQ) : 1;
    const wishes = Array.from({ length: last + 1 }, (_, index): QueueWish<DmaBuffer> => {
      const control = this.#multiport && (index === CONTROL_RECEIVEQ || index === CONTROL_TRANSMITQ);
      const receives = index % 2 === 0;
      const callback = control ? (receives ? () => this.#heard() : null) : receives ? () => this.#portOf(index)?.arrived() : null;
      return { name: `${control ? 'control ' : ''}${receives ? 'input' : 'output'} ${index}`, size: QUEUE_SIZE, callback };
    });
    this.#queues = device.findVqs(wishes);
  }

  #portOf(receiveQueue: number): ConsolePort | undefined {
    return [...this.ports.values()].find(({ id }) => portQueues(id).receive === receiveQueue);
  }

  /** The device runs. Without MULTIPORT there is one port and nothing to be said about it. */
  start(): void {
    if (!this.#multiport) {
      const port = this.#add(0);
      port.isConsole = true;
      port.hostConnected = true;
      this.resized();
      return;
    }
    const { dma } = this.#device;
    const input = this.#queues[CONTROL_RECEIVEQ] as Buffers;
    for (let n = 0; n < CONTROL_BUFFERS; n++) {
      const buffer = dma.allocate(CONTROL_BYTES);
      input.addInbuf([buffer], buffer);
      this.#control.push(dma.allocate(VirtioConsoleControl.bytes));
    }
    input.kick();
    // @clause virtio.console.dri.multiport-device-ready-sent
    this.#say(0, CONSOLE_EVENT.DEVICE_READY, 1);
  }

  /** Looks whether the device has said something. */
  poll(): void {
    if (this.#multiport) this.#heard();
    for (const port of this.ports.values()) port.arrived();
  }

  // ## Control messages

  #heard(): void {
    const input = this.#queues[CONTROL_RECEIVEQ] as Buffers;
    input.reap((buffer, len) => {
      // The device may go on writing while the driver reads; what was looked at must be what is used.
      if (len >= VirtioConsoleControl.bytes) this.#answer(buffer.bytes.slice(0, len));
      input.addInbuf([buffer], buffer);
    });
    input.kick();
  }

  #answer(message: Uint8Array): void {
    const { id, event, value } = VirtioConsoleControl.decode(message);
    const rest = message.subarray(VirtioConsoleControl.bytes);
    if (event === CONSOLE_EVENT.DEVICE_ADD) {
      const known = this.ports.has(id);
      const fits = id < this.#most;
      const port = fits && !known ? this.#add(id) : null;
      if (!known) this.#say(id, CONSOLE_EVENT.PORT_READY, fits ? 1 : 0);
      if (port) this.onPort(port);
      return;
    }
    const port = this.ports.get(id);
    if (!port) return;
    if (event === CONSOLE_EVENT.DEVICE_REMOVE) {
      port.exists = false;
      this.ports.delete(id);
    } else if (event === CONSOLE_EVENT.CONSOLE_PORT) {
      // @clause virtio.console.dri.console-port-marks-port-text
      port.isConsole = value === 1;
      // @clause virtio.console.dri.console-port-answered-port-open
      // @clause virtio.console.dri.port-open-carries-value-1
      this.#say(id, CONSOLE_EVENT.PORT_OPEN, 1);
    } else if (event === CONSOLE_EVENT.PORT_OPEN) port.hostConnected = value === 1;
    else if (event === CONSOLE_EVENT.PORT_NAME) port.name = new TextDecoder().decode(rest);
    else if (event === CONSOLE_EVENT.RESIZE && rest.length >= VirtioConsoleResize.bytes) port.size = VirtioConsoleResize.decode(rest);
  }

  #add(id: number): ConsolePort {
    const { receive, transmit } = portQueues(id);
    const port = this.#known.get(id) ?? new ConsolePort(this.#device, id, this.#queues[receive] as Buffers, this.#queues[transmit] as Buffers);
    port.exists = true;
    port.hostConnected = false;
    this.#known.set(id, port);
    this.ports.set(id, port);
    return port;
  }

  /** Opens or closes the guest's end of a port. */
  open(port: ConsolePort, open: boolean): void {
    if (this.#multiport) this.#say(port.id, CONSOLE_EVENT.PORT_OPEN, open ? 1 : 0);
  }

  #say(id: number, event: (typeof CONSOLE_EVENT)[keyof typeof CONSOLE_EVENT], value: number): void {
    const output = this.#queues[CONTROL_TRANSMITQ] as Buffers;
    const reclaim = (): void => output.reap((buffer) => void this.#control.push(buffer));
    reclaim();
    if (this.#control.length === 0 && this.#device.waitUsed(output)) reclaim();
    const buffer = this.#control.pop();
    if (!buffer) {
      this.#device.breakDevice('the device does not read what it is told');
      return;
    }
    buffer.bytes.set(encodeControl(id, event, value));
    if (output.addOutbuf([buffer], buffer) !== 0) this.#control.push(buffer);
    output.kick();
  }

  // ## Without queues

  /** The window of the first port has another size. */
  resized(): void {
    const port = this.ports.get(0);
    if (port && this.#device.has(CONSOLE_F.SIZE)) port.size = this.#device.readConfig(VirtioConsoleConfig, 'cols', 'rows');
  }

  /** One character for somebody who looks at the ruins: it takes no queue, so it works when nothing else does. */
  emergency(character: number): void {
    if (this.#device.has(CONSOLE_F.EMERG_WRITE)) this.#device.writeConfig(VirtioConsoleConfig, 'emerg_wr', character);
  }
}

/** The driver; `found` gets each console that works. */
export const consoleDriver = (found: (console: Console) => void): VirtioDriver => ({
  name: 'virtio_console',
  idTable: [{ device: DEVICE_ID.CONSOLE }],
  featureTable: [CONSOLE_F.SIZE, CONSOLE_F.MULTIPORT, CONSOLE_F.EMERG_WRITE],
  featureTableLegacy: [CONSOLE_F.SIZE, CONSOLE_F.MULTIPORT],
  probe(device) {
    device.private = new Console(device);
  },
  scan(device) {
    const made = device.private as Console;
    found(made);
    made.start();
  },
  configChanged: (device) => (device.private as Console).resized(),
});
