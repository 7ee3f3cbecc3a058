// # v86, paused
//
// The device surface needs nothing of v86 but that it is there: an emulator that is complete and never told to run. Ports and memory are reached as
// its processor reaches them, interrupt lines are heard on their way to the controllers, and its virtio devices work when they are notified, not
// later.

import type { AccessBytes, DeviceOp, DeviceSession, HostOp, LineChange, OpResult, WireDevice } from '../device-script/wire.ts';
import type { RunDevice } from '../types.ts';
import { hex } from '../values.ts';
import { discard, makeEmulator, type Paused, type V86Cpu } from './v86-machine.ts';

const OUTPUT_BYTES = 1 << 20;
const LINES_KEPT = 65_536;
const PAGE_BYTES = 4096;
/** Where firmware would have sent the four PCI interrupt pins. */
const PIRQ = [10, 10, 11, 11];

/** What a machine with these devices asks of v86. It has one of each at most, and in an order of its own. */
export const virtioOptions = (devices: readonly WireDevice[] = []): Record<string, boolean> => ({
  virtio_console: devices.some(({ type }) => type === 'console'),
  virtio_balloon: devices.some(({ type }) => type === 'balloon'),
});

interface Balloon {
  readonly actual: number;
  readonly num_pages: number;
  Inflate(pages: number): void;
  Deflate(pages: number): void;
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
const addressOf = (text: string): number => Number(BigInt(text));

export class V86Session implements DeviceSession {
  readonly #machine: Paused;
  readonly #devices: readonly WireDevice[];
  #output: number[] = [];
  #lines: LineChange[] = [];

  private constructor(machine: Paused, devices: readonly WireDevice[]) {
    this.#machine = machine;
    this.#devices = devices;
    const { cpu, emulator } = machine;
    for (const [name, level] of [
      ['device_raise_irq', true],
      ['device_lower_irq', false],
    ] as const) {
      const inner = cpu[name].bind(cpu);
      cpu[name] = (gsi) => {
        if (this.#lines.length < LINES_KEPT) this.#lines.push({ gsi, level });
        inner(gsi);
      };
    }
    emulator.add_listener('virtio-console0-output-bytes', ((bytes: Uint8Array) => {
      for (const byte of bytes) if (this.#output.length < OUTPUT_BYTES) this.#output.push(byte);
    }) as never);
  }

  static async open({ machine }: RunDevice): Promise<V86Session> {
    const paused = await makeEmulator({ memory_size: Math.max(machine.memoryMiB, 4) << 20, ...virtioOptions(machine.devices) });
    const { isa_bridge_space8: bridge } = (paused.cpu.devices.pci ?? {}) as { isa_bridge_space8?: Uint8Array };
    bridge?.set(PIRQ, 0x60);
    return new V86Session(paused, machine.devices);
  }

  async access(ops: readonly DeviceOp[]): Promise<readonly OpResult[]> {
    const results: OpResult[] = [];
    for (const op of ops) results.push(await this.#do(op));
    return results;
  }

  async end(): Promise<Record<string, never>> {
    await discard(this.#machine.emulator);
    return {};
  }

  async #do(op: DeviceOp): Promise<OpResult> {
    const { cpu } = this.#machine;
    switch (op.do) {
      case 'in': {
        const port = addressOf(op.port);
        const value = op.bytes === 1 ? cpu.io.port_read8(port) : op.bytes === 2 ? cpu.io.port_read16(port) : cpu.io.port_read32(port);
        return { value: hex(value >>> 0) };
      }
      case 'out': {
        const [port, value] = [addressOf(op.port), Number(BigInt(op.value)) | 0];
        if (op.bytes === 1) cpu.io.port_write8(port, value & 0xff);
        else if (op.bytes === 2) cpu.io.port_write16(port, value & 0xffff);
        else cpu.io.port_write32(port, value);
        return {};
      }
      case 'load':
        return { value: hex(load(cpu, addressOf(op.gpa), op.bytes)) };
      case 'store':
        store(cpu, addressOf(op.gpa), op.bytes, BigInt(op.value));
        return {};
      case 'read':
        return { data: base64(cpu.mem8.subarray(addressOf(op.gpa), addressOf(op.gpa) + op.count)) };
      case 'write':
        return this.#fill(addressOf(op.gpa), Buffer.from(op.data, 'base64'));
      case 'fill':
        return this.#fill(addressOf(op.gpa), new Uint8Array(op.count).fill(op.byte));
      case 'lines':
        return { lines: this.#lines.splice(0) };
      case 'advance':
        await new Promise((resolve) => setImmediate(resolve)); // what a device has put off until this callback is over
        return {};
      case 'host':
        return this.#host(op);
    }
  }

  #fill(gpa: number, bytes: Uint8Array): OpResult {
    const { mem8 } = this.#machine.cpu;
    if (gpa + bytes.length <= mem8.length) mem8.set(bytes, gpa);
    return {};
  }

  /** What v86's page would do to its devices. */
  #host(op: HostOp): OpResult {
    const { emulator, cpu } = this.#machine;
    const type = this.#devices[op.device]?.type;
    if (type === 'console' && op.action === 'input' && op.port === 0) {
      emulator.bus.send('virtio-console0-input-bytes', new Uint8Array(Buffer.from(op.data, 'base64')));
      return {};
    }
    if (type === 'console' && op.action === 'output' && op.port === 0) return { data: base64(Uint8Array.from(this.#output.splice(0))) };
    if (type === 'console' && op.action === 'resize-console' && op.port === 0) {
      emulator.bus.send('virtio-console0-resize', [op.cols, op.rows]);
      return {};
    }
    const balloon = cpu.devices.virtio_balloon as Balloon | undefined;
    if (type === 'balloon' && balloon && op.action === 'target') {
      // The target is the memory that the guest shall be left with.
      const pages = Math.max(0, Math.floor((cpu.mem8.length - addressOf(op.bytes)) / PAGE_BYTES)) - balloon.num_pages;
      if (pages > 0) balloon.Inflate(pages);
      else if (pages < 0) balloon.Deflate(-pages);
      return {};
    }
    if (type === 'balloon' && balloon && op.action === 'actual') return { value: hex(cpu.mem8.length - balloon.actual * PAGE_BYTES) };
    return { unsupported: `v86 has no such handle: ${op.action}` };
  }
}

function load(cpu: V86Cpu, gpa: number, bytes: AccessBytes): bigint {
  if (bytes === 1) return BigInt(cpu.read8(gpa) & 0xff);
  if (bytes === 2) return BigInt(cpu.read16(gpa) & 0xffff);
  const low = BigInt(cpu.read32s(gpa) >>> 0);
  return bytes === 4 ? low : low | (BigInt(cpu.read32s(gpa + 4) >>> 0) << 32n); // its processor has no wider access
}

function store(cpu: V86Cpu, gpa: number, bytes: AccessBytes, value: bigint): void {
  const low = Number(BigInt.asIntN(32, value));
  if (bytes === 1) cpu.write8(gpa, low & 0xff);
  else if (bytes === 2) cpu.write16(gpa, low & 0xffff);
  else cpu.write32(gpa, low);
  if (bytes === 8) cpu.write32(gpa + 4, Number(BigInt.asIntN(32, value >> 32n)));
}
