import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { Bus, PORT_COUNT } from '../../03-vcpu-loop/devices/bus.ts';
import { MemoryBlock } from '../block/block.ts';
import { E1000Function } from '../e1000/e1000.ts';
import { memoryWire } from '../net/link.ts';
import { PciBus } from '../pci/pci-bus.ts';
import { AtaDisk } from './disk.ts';
import { PiixIde } from './piix.ts';

function machine() {
  let now = 0;
  const queue = new TimerQueue(() => now);
  const io = new Bus('pio', PORT_COUNT);
  const memory = new Bus('mmio');
  const ram = new Uint8Array(1 << 16);
  const pins: string[] = [];
  const irqs: number[] = [];
  const bus = new PciBus('pci.0', {
    io,
    memory,
    upstream: {
      dma: {
        read(gpa, into) {
          if (gpa + into.length > ram.length) return false;
          into.set(ram.subarray(gpa, gpa + into.length));
          return true;
        },
        write(gpa, from) {
          if (gpa + from.length > ram.length) return false;
          ram.set(from, gpa);
          return true;
        },
      },
      msi: { send: () => {} },
      intx: (device, pin, level) => void pins.push(`${device}.${pin} ${level}`),
    },
  });
  const disk = new MemoryBlock(Uint8Array.from({ length: 512 * 16 }, (_, i) => (i * 3 + (i >> 9)) & 0xff));
  const wire = (irq: number) => ({ set: (level: boolean) => void (level && irqs.push(irq)) });
  const ide = bus.add(
    new PiixIde({ primary: [new AtaDisk({ clock: queue, block: disk }), null], secondary: [null, null], irqs: [wire(14), wire(15)] }),
    31,
    1,
  );
  ide.attach(io);
  const [near, far] = memoryWire(queue);
  const nic = bus.add(new E1000Function({ clock: queue, link: near }), 3);
  const settle = (): void => {
    while (queue.next !== null) {
      now = queue.next;
      queue.runDue();
    }
  };
  return { io, memory, ram, pins, irqs, bus, disk, ide, nic, far, settle };
}

describe('the IDE function', () => {
  it('has the identity of a PIIX3 in compatibility mode, one BAR, and both channels enabled', () => {
    const { ide } = machine();
    expect(ide.config.read(0, 4)).toBe(0x7010_8086);
    expect(ide.config.read(8, 4) >>> 8).toBe(0x01_01_80);
    ide.config.write(0x20, 4, 0xffff_ffff);
    expect(ide.config.read(0x20, 4)).toBe(0xffff_fff1);
    for (const bar of [0x10, 0x14, 0x18, 0x1c]) {
      ide.config.write(bar, 4, 0xffff_ffff);
      expect(ide.config.read(bar, 4)).toBe(0);
    }
    expect(ide.config.read(0x40, 4)).toBe(0x8000_8000);
    ide.config.write(0x40, 4, 0xe377_0000);
    expect(ide.config.read(0x40, 4)).toBe(0xe377_0000);
    ide.reset();
    expect(ide.config.read(0x40, 4)).toBe(0x8000_8000);
  });

  it('moves data only while it is allowed to be a master', () => {
    for (const command of [0x1, 0x5]) {
      const { io, ide, ram, settle, irqs, disk } = machine();
      ide.config.write(0x20, 4, 0xc000);
      ide.config.write(4, 2, command);
      new DataView(ram.buffer).setBigUint64(0x100, (0x8000_0200n << 32n) | 0x1000n, true);
      io.write(0xc004, 4, 0x100n);
      for (const [port, value] of [
        [0x1f2, 1],
        [0x1f3, 2],
        [0x1f4, 0],
        [0x1f5, 0],
        [0x1f6, 0xe0],
        [0x1f7, 0xc8],
      ] as const)
        io.write(port, 1, BigInt(value));
      io.write(0xc000, 1, 9n);
      settle();
      const moved = command === 0x5;
      expect(irqs).toEqual(moved ? [14] : []);
      expect(Number(io.read(0xc002, 1)) & 7).toBe(moved ? 4 : 2);
      expect(ram.subarray(0x1000, 0x1200)).toEqual(moved ? disk.bytes.subarray(1024, 1536) : new Uint8Array(512));
    }
  });

  it('answers at the AT’s ports without any decoding enabled', () => {
    const { io } = machine();
    expect(io.read(0x1f7, 1)).toBe(0x50n);
    expect(io.read(0x3f6, 1)).toBe(0x50n);
    expect(io.read(0x177, 1)).toBe(0n);
  });
});

describe('the e1000 function', () => {
  it('answers where its BARs say, through memory and through ports, and pulls INTA#', () => {
    const { nic, memory, io, pins, far, settle } = machine();
    expect(nic.config.read(0, 4)).toBe(0x100e_8086);
    nic.config.write(0x10, 4, 0xffff_ffff);
    nic.config.write(0x14, 4, 0xffff_ffff);
    expect([nic.config.read(0x10, 4), nic.config.read(0x14, 4)]).toEqual([0xfffe_0000, 0xffff_ffc1]);
    nic.config.write(0x10, 4, 0xfeb8_0000);
    nic.config.write(0x14, 4, 0xc040);
    nic.config.write(4, 2, 3);
    memory.write(0xfeb8_0000, 4, 0x40n);
    expect(memory.read(0xfeb8_0008, 4)).toBe(0x783n);
    expect(memory.read(0xfeb8_0009, 1)).toBe(0x07n);
    io.write(0xc040, 4, 8n);
    expect(io.read(0xc044, 4)).toBe(0x783n);
    memory.write(0xfeb8_00d0, 4, 4n); // the link came up: LSC
    expect(pins).toEqual(['3.0 true']);
    memory.read(0xfeb8_00c0, 4);
    expect(pins).toEqual(['3.0 true', '3.0 false']);
    memory.write(0xfeb8_0100, 4, 0x8002n);
    far.send(new Uint8Array(60).fill(0xff));
    settle();
    expect(memory.read(0xfeb8_40d0, 4)).toBe(1n);
  });
});
