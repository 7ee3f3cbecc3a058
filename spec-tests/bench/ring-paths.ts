// # What growth costs, and the way to the ring
//
// A ring that is longer, a chain that has more pieces, a buffer that has more bytes: none may cost more than it has more of. And what surrounds a request: finding a
// buffer in the machine's memory, telling the kernel what was stored, a register, the doorbell.

import { MemoryBlock, SECTOR_BYTES } from '../../chapters/05-pio-mmio/block/block.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/06-virtio-rings/machine/device-types.ts';
import type { Pc } from '../../chapters/05-pio-mmio/machine/pc.ts';
import { PausedPc } from '../../chapters/06-virtio-rings/qtest/paused-pc.ts';
import { COMMON_CONFIG } from '../../chapters/06-virtio-rings/transport/common-config.ts';
import { PLACE } from '../../chapters/06-virtio-rings/transport/pci.ts';
import { LEGACY_PCI } from '../../chapters/06-virtio-rings/transport/pci-legacy.ts';
import { type Figure, once, processorSeconds, type Ratio } from './figures.ts';
import { OneThread, QUEUE_SIZE, type RingShape } from './ring-loop.ts';

const DESCRIPTORS = 200_000;
const [LONG_QUEUE, LONG_CHAIN] = [32 * QUEUE_SIZE, 32];

/** Nanoseconds for each piece of a buffer. */
function perPiece(shape: RingShape): () => number {
  const { pieces = 1 } = shape;
  const buffers = Math.ceil(DESCRIPTORS / pieces);
  const rings = once(() => new OneThread(shape));
  return () => (rings().run(buffers) * 1e9) / (buffers * pieces);
}

// ## On the machine
//
// The PC with a disk whose registers are at known places, standing still: what is measured is the VMM's half of an access, not the exit before it.

const [PORTS, BAR_GPA, RAM_GPA] = [0xc100, 0xd010_0000, 0x10_0000];
const TIMES = 100_000;

function machine(): Pc {
  const config = completeConfig({
    kernel: 'none: nothing runs',
    memoryMiB: 4,
    serial: ['null'],
    drives: [{ id: 'disk', file: 'in memory' }],
    devices: [{ type: 'virtio-blk-pci-transitional', drive: 'disk', addr: '3.0', ioeventfd: false }],
  });
  const { pc } = new PausedPc({ config, blocks: new Map([['disk', new MemoryBlock(new Uint8Array(8 * SECTOR_BYTES))]]) });
  const place = (register: number, value: number): void => {
    pc.ports.write(0xcf8, 4, BigInt(0x8000_0000 + (3 << 11) + register));
    pc.ports.write(0xcfc, 4, BigInt(value));
  };
  for (const [register, value] of [
    [0x10, PORTS | 1],
    [0x20, BAR_GPA],
    [0x24, 0],
    [4, 7],
  ] as const)
    place(register, value);
  return pc;
}

const at = (register: keyof typeof COMMON_CONFIG.rows): number => BAR_GPA + PLACE.COMMON + COMMON_CONFIG.rows[register].offset;
const port = (register: keyof typeof LEGACY_PCI.rows): number => PORTS + LEGACY_PCI.rows[register].offset;
const LARGE = 1 << 20;

const accesses: Readonly<Record<string, (pc: Pc) => void>> = {
  'finding a buffer of 64 bytes': (pc) => void pc.memory.map(RAM_GPA, 64, 'write'),
  'finding a buffer of a megabyte': (pc) => void pc.memory.map(RAM_GPA, LARGE, 'write'),
  'telling of 8 bytes stored': (pc) => pc.memory.written(RAM_GPA, 8),
  'a register in memory, load': (pc) => void pc.mmio.read(at('queue_size'), 2),
  'a register in memory, store': (pc) => pc.mmio.write(at('queue_select'), 2, 0n),
  'the doorbell in memory': (pc) => pc.mmio.write(BAR_GPA + PLACE.NOTIFY, 2, 0n),
  'a register among ports, load': (pc) => void pc.ports.read(port('queue_size'), 2),
  'a register among ports, store': (pc) => pc.ports.write(port('queue_select'), 2, 0n),
  'the doorbell among ports': (pc) => pc.ports.write(port('queue_notify'), 2, 0n),
};

/** Nanoseconds, all of them. */
export function pathFigures(): { figures: Figure[]; ratios: Ratio[] } {
  const figures: Figure[] = [];
  const ratios: Ratio[] = [];
  for (const packed of [false, true]) {
    const format = packed ? 'packed' : 'split';
    const shapes: readonly [string, RingShape][] = [
      [`${format}, a piece, queue of ${QUEUE_SIZE}`, { packed }],
      [`${format}, a piece, queue of ${LONG_QUEUE}`, { packed, size: LONG_QUEUE }],
      [`${format}, a piece of ${LONG_CHAIN}`, { packed, pieces: LONG_CHAIN }],
      [`${format}, a piece of ${LONG_CHAIN} in a table`, { packed, pieces: LONG_CHAIN, indirect: true }],
    ];
    for (const [name, shape] of shapes) {
      figures.push({ name, unit: 'ns', measure: perPiece(shape) });
      if (name !== shapes[0]?.[0]) ratios.push([name, shapes[0]?.[0] as string]);
    }
  }
  const pc = once(machine);
  for (const [name, access] of Object.entries(accesses)) {
    const measure = (): number => {
      const it = pc();
      const took = processorSeconds(() => {
        for (let n = 0; n < TIMES; n++) access(it);
      });
      return (took * 1e9) / TIMES;
    };
    figures.push({ name, unit: 'ns', measure });
  }
  ratios.push(['finding a buffer of a megabyte', 'finding a buffer of 64 bytes'], ['the doorbell in memory', 'the doorbell among ports']);
  return { figures, ratios };
}
