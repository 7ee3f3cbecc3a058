// # A paused machine of ours
//
// Chapter 5's PC with the devices of a case, and nobody to run it: the processor is never entered, and time passes when the script says so. What remains is two
// buses, a memory and a set of wires, which is what a device knows of the world anyway.

import type { Trace } from '../../chapters/01-hardware-background/trace.ts';
import type { Kernel, KernelClock } from '../../chapters/02-kvm-objects/kernel.ts';
import { Board } from '../../chapters/03-vcpu-loop/board.ts';
import { SECTOR_BYTES } from '../../chapters/05-pio-mmio/block/block.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import { Pc } from '../../chapters/05-pio-mmio/machine/pc.ts';
import { BalloonModel } from '../../chapters/06-virtio-rings/devices/balloon.ts';
import { BALLOON_S } from '../../chapters/06-virtio-rings/devices/balloon-layout.ts';
import { BlockModel } from '../../chapters/06-virtio-rings/devices/block.ts';
import { ConsoleModel } from '../../chapters/06-virtio-rings/devices/console.ts';
import { observeRings, virtioOf } from '../../chapters/06-virtio-rings/machine/virtio-types.ts';
import type { DmaAccess } from '../../chapters/06-virtio-rings/memory.ts';
import type { Area, AreaSource } from '../../chapters/06-virtio-rings/rings/area.ts';
import type { DeviceOp, DeviceSession, HostOp, LineChange, OpResult, WireDevice } from '../device-script/wire.ts';
import type { RunDevice } from '../types.ts';
import { hex } from '../values.ts';
import { type CaseDevices, caseDevices, diskName, streamName } from './case-devices.ts';
import { TraceDigest } from './trace-digest.ts';

/** A timer that arms itself again for now is given up on after so many times. */
const TIMERS_PER_ADVANCE = 100_000;
/** What a guest sends and nobody collects is kept up to here. */
const OUTPUT_BYTES = 1 << 20;
const LINES_KEPT = 65_536;

class ManualClock implements KernelClock {
  #now = 0;
  now(): number {
    return this.#now;
  }
  /** Time never goes back. */
  set(at: number): void {
    this.#now = Math.max(this.#now, at);
  }
  alarm(): void {}
  sleep(): void {}
}

/** The kernel, with another clock: nothing here runs in it. */
const onClock = (kernel: Kernel, clock: KernelClock): Kernel => ({
  name: kernel.name,
  open: (path, flags) => kernel.open(path, flags),
  close: (fd) => kernel.close(fd),
  ioctl: (fd, request, arg) => kernel.ioctl(fd, request, arg),
  mmap: (fd, length, offset) => kernel.mmap(fd, length, offset),
  allocate: (bytes) => kernel.allocate(bytes),
  free: (hva) => kernel.free(hva),
  stored: (hva, bytes) => kernel.stored?.(hva, bytes),
  eventfd: (initial, flags) => kernel.eventfd(initial, flags),
  read: (fd, bytes) => kernel.read(fd, bytes),
  write: (fd, bytes) => kernel.write(fd, bytes),
  clock,
});

/** A place in memory; and what is to be copied when a device's ring first stores there. */
interface Watch {
  readonly gpa: number;
  readonly bytes: number;
  readonly ranges: readonly { readonly gpa: string; readonly count: number }[];
  seen: Buffer | null;
}

/** The areas of rings, with an ear for every store. */
class WatchedAreas implements AreaSource {
  readonly #areas: AreaSource;
  readonly #stored: (gpa: number, bytes: number) => void;

  constructor(areas: AreaSource, stored: (gpa: number, bytes: number) => void) {
    this.#areas = areas;
    this.#stored = stored;
  }

  open(address: number, bytes: number, access: DmaAccess): Area | null {
    const area = this.#areas.open(address, bytes, access);
    if (!area || access !== 'write') return area;
    const heard = (at: number, width: number): void => this.#stored(address + at, width);
    return {
      load16: (at) => area.load16(at),
      load32: (at) => area.load32(at),
      acquire16: (at) => area.acquire16(at),
      store16(at, value) {
        area.store16(at, value);
        heard(at, 2);
      },
      store32(at, value) {
        area.store32(at, value);
        heard(at, 4);
      },
      publish16(at, value) {
        area.publish16(at, value);
        heard(at, 2);
      },
    };
  }
}

export class PausedMachine implements DeviceSession {
  readonly #pc: Pc;
  readonly #board: Board<Pc>;
  readonly #clock = new ManualClock();
  readonly #devices: readonly WireDevice[];
  readonly #made: CaseDevices;
  readonly #trace: TraceDigest | null;
  readonly #outputs = new Map<string, number[]>();
  #lines: LineChange[] = [];
  #watch: Watch | null = null;
  /** Bytes that balloons have hinted at. */
  #hinted = 0;

  /** @param makeKernel  a kernel that can hold the machine */
  constructor({ machine }: RunDevice, makeKernel: (trace: Trace | null) => Kernel, traced: boolean) {
    this.#devices = machine.devices;
    this.#made = caseDevices(machine.devices);
    this.#trace = traced ? new TraceDigest() : null;
    const { config, blocks, chardevs } = this.#made;
    this.#pc = new Pc({
      kernel: onClock(makeKernel(this.#trace), this.#clock),
      // The interrupt controllers are outside the kernel, so no doorbell and no interrupt goes past us.
      config: completeConfig({ ...config, kernel: 'none', serial: ['null'], memoryMiB: machine.memoryMiB, irqchip: 'off', reboot: false }),
      blocks,
      chardevs,
      trace: this.#trace,
    });
    this.#listen();
    observeRings(this.#pc, (areas) => new WatchedAreas(areas, (gpa, bytes) => this.#stored(gpa, bytes)));
    for (const [name, chardev] of chardevs) {
      const output: number[] = [];
      this.#outputs.set(name, output);
      chardev.onOutput = (bytes) => {
        for (const byte of bytes) if (output.length < OUTPUT_BYTES) output.push(byte);
      };
    }
    this.#board = new Board(this.#pc.board);
  }

  /** Hears every change of an interrupt line on its way to the controllers. */
  #listen(): void {
    const { interrupts } = this.#pc;
    const inputOf = interrupts.line.bind(interrupts);
    interrupts.line = (gsi) => ({
      set: (level) => {
        if (this.#lines.length < LINES_KEPT) this.#lines.push({ gsi, level });
        inputOf(gsi).set(level);
      },
    });
  }

  // The first store that announces something is where the copies are taken: whatever the device does afterwards comes too late for a driver that polls.

  #stored(gpa: number, bytes: number): void {
    const watch = this.#watch;
    if (!watch || watch.seen || gpa >= watch.gpa + watch.bytes || gpa + bytes <= watch.gpa) return;
    watch.seen = Buffer.concat(watch.ranges.map((range) => this.#ram(range.gpa, range.count)));
  }

  #ram(gpa: string, count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    if (!this.#pc.memory.read(Number(gpa), bytes)) throw new RangeError(`there is no memory at ${gpa}`);
    return bytes;
  }

  async access(ops: readonly DeviceOp[]): Promise<readonly OpResult[]> {
    return ops.map((op) => this.#do(op));
  }

  async end(): Promise<{ traceHash?: string }> {
    this.#board.dispose();
    return this.#trace ? { traceHash: this.#trace.finish() } : {};
  }

  #do(op: DeviceOp): OpResult {
    const { ports, mmio, memory } = this.#pc;
    switch (op.do) {
      case 'in':
        return { value: hex(ports.read(Number(op.port), op.bytes)) };
      case 'out':
        ports.write(Number(op.port), op.bytes, BigInt(op.value));
        return {};
      case 'load': {
        const bytes = new Uint8Array(op.bytes);
        if (memory.read(Number(op.gpa), bytes)) return { value: hex(numberFrom(bytes)) };
        return { value: hex(mmio.read(Number(op.gpa), op.bytes)) };
      }
      case 'store': {
        const value = BigInt.asUintN(8 * op.bytes, BigInt(op.value));
        const bytes = Uint8Array.from({ length: op.bytes }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
        if (!memory.write(Number(op.gpa), bytes)) mmio.write(Number(op.gpa), op.bytes, value);
        return {};
      }
      case 'read':
        return { data: Buffer.from(this.#ram(op.gpa, op.count)).toString('base64') };
      case 'write':
        if (!memory.write(Number(op.gpa), new Uint8Array(Buffer.from(op.data, 'base64')))) throw new RangeError(`there is no memory at ${op.gpa}`);
        return {};
      case 'fill':
        if (op.count > memory.ramBytes || !memory.write(Number(op.gpa), new Uint8Array(op.count).fill(op.byte)))
          throw new RangeError(`there is no memory at ${op.gpa}`);
        return {};
      case 'lines': {
        const lines = this.#lines;
        this.#lines = [];
        return { lines };
      }
      case 'advance':
        this.#advance(Number(op.ns));
        return {};
      default:
        return this.#host(op);
    }
  }

  #advance(ns: number): void {
    const { timers } = this.#pc;
    const until = this.#clock.now() + ns;
    for (let left = TIMERS_PER_ADVANCE; left > 0; left--) {
      const { next } = timers;
      if (next === null || next > until) break;
      this.#clock.set(next);
      timers.runDue();
    }
    this.#clock.set(until);
  }

  // ## The host's side

  #host(op: HostOp): OpResult {
    if (op.action === 'watch') {
      this.#watch = { gpa: Number(op.gpa), bytes: op.bytes, ranges: op.ranges, seen: null };
      return {};
    }
    if (op.action === 'watched') return this.#watch?.seen ? { data: this.#watch.seen.toString('base64') } : {};
    const entry = this.#made.entries[op.device];
    const model = entry && virtioOf(this.#pc, entry)?.model;
    const kind = this.#devices[op.device]?.type;
    if (model instanceof ConsoleModel) return this.#console(model, op);
    if (model instanceof BalloonModel) return this.#balloon(model, op);
    if (model instanceof BlockModel) return this.#block(model, op);
    throw new RangeError(`the host has no '${op.action}' for a ${kind ?? 'device that is not there'}`);
  }

  #console(model: ConsoleModel, op: HostOp): OpResult {
    const stream = 'port' in op ? streamName(op.device, op.port) : '';
    const port = 'port' in op ? model.port(op.port) : null;
    const chardev = this.#made.chardevs.get(stream);
    const output = this.#outputs.get(stream);
    if (!port || !chardev || !output) throw new RangeError('the console has no such port');
    switch (op.action) {
      case 'input':
        chardev.send(new Uint8Array(Buffer.from(op.data, 'base64')));
        return {};
      case 'output':
        return { data: Buffer.from(output.splice(0)).toString('base64') };
      case 'connect':
        port.open();
        return {};
      case 'disconnect':
        port.close();
        return {};
      case 'unplug':
        model.unplug(op.port);
        return {};
      case 'resize-console':
        port.resize({ cols: op.cols, rows: op.rows });
        return {};
      default:
        throw new RangeError(`the host has no '${op.action}' for a console`);
    }
  }

  #balloon(model: BalloonModel, op: HostOp): OpResult {
    switch (op.action) {
      case 'target':
        model.target(Number(op.bytes));
        return {};
      case 'actual':
        return { value: hex(model.actual) };
      case 'stats':
        model.requestStats();
        return {
          stats: Object.fromEntries(Object.entries(model.stats()).map(([name, value]) => [BALLOON_S[name as keyof typeof BALLOON_S], hex(value)])),
        };
      case 'hint':
        model.hints.onHint = (_address, bytes) => {
          this.#hinted += bytes;
        };
        if (op.round === 'start') model.startHinting();
        else if (op.round === 'stop') model.stopHinting();
        else model.hints.finish();
        return {};
      case 'hinted':
        return { value: hex(this.#hinted) };
      default:
        throw new RangeError(`the host has no '${op.action}' for a balloon`);
    }
  }

  #block(model: BlockModel, op: HostOp): OpResult {
    const disk = this.#made.blocks.get(diskName(op.device));
    if (op.action === 'resize') {
      model.resize(Number(op.sectors));
      return {};
    }
    if (op.action === 'fail-zone') {
      if (!model.zones) throw new RangeError('the disk has no zones');
      model.zones.fail(op.zone, op.state);
      return {};
    }
    if (op.action !== 'content' || !disk) throw new RangeError(`the host has no '${op.action}' for a disk`);
    const bytes = new Uint8Array(op.count * SECTOR_BYTES);
    if (!disk.read(Number(op.sector), bytes)) throw new RangeError('the disk has no such sectors');
    return { data: Buffer.from(bytes).toString('base64') };
  }
}

const numberFrom = (bytes: Uint8Array): bigint => bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
