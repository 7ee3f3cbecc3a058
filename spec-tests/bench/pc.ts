// # Devices at work
//
// A whole PC on the kernel of this book, and a guest that keeps one of its devices busy. Drivers poll here and no interrupt is taken: what is
// measured is the device, the buses and the exits, and not how interrupts are delivered, which has a line of its own.

import { existsSync, readFileSync } from 'node:fs';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { MemoryBlock, SECTOR_BYTES } from '../../chapters/05-pio-mmio/block/block.ts';
import { ReceiveDescriptor, TransmitDescriptor, TX_CMD } from '../../chapters/05-pio-mmio/e1000/descriptors.ts';
import { CTRL, E1000, type E1000Register, RCTL, TCTL } from '../../chapters/05-pio-mmio/e1000/registers.ts';
import { type Code, type GuestProgram, inputWords, out, place, startState, store, times } from '../../chapters/05-pio-mmio/guest-program.ts';
import { PhysicalRegionDescriptor } from '../../chapters/05-pio-mmio/ide/bus-master.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import type { DeviceConfig } from '../../chapters/05-pio-mmio/machine/device-types.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { Pc } from '../../chapters/05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import '../../chapters/06-virtio-rings/machine/device-types.ts';
import { seconds } from './figures.ts';
import { type DiskAccess, diskProgram, virtioDisk } from './virtio-disk.ts';

const MEMORY_MIB = 2;

const CARDS: readonly DeviceConfig[] = [
  { type: 'ide-hd', drive: 'disk' },
  { type: 'e1000', netdev: 'wire' },
];

/** Runs a program to its HLT; seconds. @throws Error when it ends in another way, or `proof` fails */
function runProgram(program: GuestProgram, proof: (ram: Uint8Array) => boolean, disk: Uint8Array, devices: readonly DeviceConfig[] = CARDS): number {
  const kernel = machineKernel({ memoryMiB: MEMORY_MIB, cpus: 1, memory: 'ept' });
  const config = completeConfig({
    kernel: 'a guest made of accesses',
    memoryMiB: MEMORY_MIB,
    reboot: false,
    serial: ['null'],
    drives: [{ id: 'disk', file: 'in memory' }],
    netdevs: [{ id: 'wire', type: 'echo' }],
    devices: [...devices],
  });
  const machine = new Machine(new Pc({ kernel, config, blocks: new Map([['disk', new MemoryBlock(disk)]]) }).board);
  try {
    place(machine.ram, program);
    machine.current.setSregs(startState.sregs);
    machine.current.setRegs(startState.regs);
    let end = '';
    const took = seconds(() => {
      const result = machine.run();
      end = result.end === 'halt' ? '' : `${result.end}: ${result.detail}`;
    });
    if (end !== '') throw new Error(`the guest ended by ${end}`);
    if (!proof(machine.ram)) throw new Error('the data did not arrive');
    return took;
  } finally {
    machine.dispose();
  }
}

const configWrite = (device: number, fn: number, register: number, value: number): Code => [
  ...out(0xcf8, (0x8000_0000 | (device << 11) | (fn << 8) | register) >>> 0, 4),
  ...out(0xcfc, value, 4),
];
const dword = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
/** Reads a port until the bits under `mask` are `value`. */
const portUntil = (port: number, mask: number, value: number): Code => [
  ...[0x66, 0xba, port & 0xff, port >> 8],
  ...[0xec, 0x24, mask, 0x3c, value, 0x75, 0xf9], // l: in al, dx; and al, mask; cmp al, value; jne l
];
/** Reads memory until bit 0 of a byte is set. */
const byteUntilSet = (at: number): Code => [0xf6, 0x05, ...dword(at), 1, 0x74, 0xf7]; // l: test byte [at], 1; jz l

// ## Sectors

const REQUEST_SECTORS = 16;
const REQUESTS = 100;
const [BUFFER, REGIONS, MASTER] = [0x3_0000, 0x9000, 0xc000];
const [READ_SECTORS, READ_DMA] = [0x20, 0xc8];
const READY = 0x08; // BSY clear, DRQ set
const form = (command: number): Code =>
  [out(0x1f2, REQUEST_SECTORS), out(0x1f3, 0), out(0x1f4, 0), out(0x1f5, 0), out(0x1f6, 0xe0), out(0x1f7, command)].flat();

const disk = Uint8Array.from({ length: 64 * SECTOR_BYTES }, (_, n) => (n * 7 + (n >> 9)) & 0xff);
const arrived = (ram: Uint8Array): boolean => disk.subarray(0, REQUEST_SECTORS * SECTOR_BYTES).every((byte, n) => ram[BUFFER + n] === byte);

/** Sectors a second that a guest reads through an IDE controller. */
export function sectorsPerSecond(by: 'ports' | 'bus master'): number {
  const sector = (n: number): Code => [...portUntil(0x1f7, 0x88, READY), ...inputWords(0x1f0, BUFFER + n * SECTOR_BYTES, SECTOR_BYTES / 2)];
  const request =
    by === 'ports'
      ? [form(READ_SECTORS), ...Array.from({ length: REQUEST_SECTORS }, (_, n) => sector(n))]
      : [
          ...[out(MASTER, 8), out(MASTER + 2, 6), out(MASTER + 4, REGIONS, 4), form(READ_DMA), out(MASTER, 9)],
          ...[portUntil(MASTER + 2, 4, 4), portUntil(0x1f7, 0x88, 0), out(MASTER, 0)],
        ];
  const regions = PhysicalRegionDescriptor.encode({ address: BUFFER, count: REQUEST_SECTORS * SECTOR_BYTES, flags: 0x8000 });
  const program = {
    code: [configWrite(31, 1, 0x20, MASTER | 1), configWrite(31, 1, 4, 5), times(REQUESTS, ...request)],
    data: { [REGIONS]: regions },
  };
  return (REQUESTS * REQUEST_SECTORS) / runProgram(program, arrived, disk);
}

/** The same through a virtio disk. */
export function virtioSectorsPerSecond(access: DiskAccess): number {
  const requests = 40 * REQUESTS;
  const program = diskProgram(access, { sectors: REQUEST_SECTORS, requests, buffer: BUFFER, configWrite });
  return (requests * REQUEST_SECTORS) / runProgram(program, (ram) => arrived(ram) && program.proof(ram), disk, [virtioDisk(access)]);
}

// ## Frames

const FRAMES = 1600;
const RING = 16;
const FRAME_BYTES = 60;
const CARD_BAR = 0xd000_0000;
const [RX_RING, TX_RING, FRAME, RX_BUFFERS] = [0xa000, 0xb000, 0x4_0000, 0x5_0000];
const card = (register: E1000Register): number => CARD_BAR + E1000.rows[register].offset;

/** Frames a second that a guest sends and gets back, one at a time. */
export function framesPerSecond(): number {
  const [received, sent] = [new Uint8Array(RING * ReceiveDescriptor.bytes), new Uint8Array(RING * TransmitDescriptor.bytes)];
  for (let n = 0; n < RING; n++) {
    ReceiveDescriptor.store(new DataView(received.buffer), n * ReceiveDescriptor.bytes, { address: BigInt(RX_BUFFERS + 2048 * n) });
    const descriptor = { address: BigInt(FRAME), length: FRAME_BYTES, cmd: TX_CMD.EOP | TX_CMD.RS };
    TransmitDescriptor.store(new DataView(sent.buffer), n * TransmitDescriptor.bytes, descriptor);
  }
  const frame = new Uint8Array(FRAME_BYTES);
  frame.set([0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x88, 0xb5]);
  const status = (n: number): number => RX_RING + n * ReceiveDescriptor.bytes + ReceiveDescriptor.fields.status.offset;
  const clear = (at: number): Code => [0xc6, 0x05, ...dword(at), 0];
  const there = (n: number): Code => [
    ...store(card('TDT'), (n + 1) % RING),
    ...byteUntilSet(status(n)),
    ...clear(status(n)),
    ...store(card('RDT'), n),
  ];
  const code = [
    configWrite(1, 0, 0x10, CARD_BAR),
    configWrite(1, 0, 4, 6),
    store(card('CTRL'), CTRL.SLU),
    ...[store(card('RDBAL'), RX_RING), store(card('RDLEN'), RING * ReceiveDescriptor.bytes), store(card('RDT'), RING - 1)],
    ...[store(card('TDBAL'), TX_RING), store(card('TDLEN'), RING * TransmitDescriptor.bytes)],
    ...[store(card('TCTL'), TCTL.EN | TCTL.PSP), store(card('RCTL'), RCTL.EN | RCTL.BAM | RCTL.SECRC)],
    times(FRAMES / RING, ...Array.from({ length: RING }, (_, n) => there(n))),
  ];
  const program = { code, data: { [RX_RING]: received, [TX_RING]: sent, [FRAME]: frame } };
  return FRAMES / runProgram(program, (ram) => ram[RX_BUFFERS + 2048 * (RING - 1) + 12] === 0x88, new Uint8Array(SECTOR_BYTES));
}

// ## Firmware

const FIRMWARE = '/usr/share/seabios/bios-256k.bin';
/** Why SeaBIOS cannot be measured here; empty if it can. */
export const firmwareMissing = existsSync(FIRMWARE) ? '' : `there is no ${FIRMWARE} (Debian's package seabios)`;
const BOOT_SECTOR = [0xb0, 21, 0xe6, 0xf4, 0xf4]; // mov al, 21; out 0xf4, al; hlt

/** SeaBIOS from reset to the first instruction of a disk: seconds, and instructions. */
export function bootFirmware(): { took: number; instructions: number } {
  const kernel = machineKernel({ memoryMiB: 64, cpus: 1, memory: 'ept' });
  const config = completeConfig({
    firmware: FIRMWARE,
    memoryMiB: 64,
    serial: ['null'],
    reboot: false,
    drives: [{ id: 'disk', file: 'in memory' }],
    devices: [{ type: 'ide-hd', drive: 'disk', bus: 'ide.0', unit: 0 }],
  });
  const disk = new Uint8Array(64 * SECTOR_BYTES);
  disk.set(BOOT_SECTOR);
  disk.set([0x55, 0xaa], SECTOR_BYTES - 2);
  const pc = new Pc({ kernel, config, firmware: new Uint8Array(readFileSync(FIRMWARE)), blocks: new Map([['disk', new MemoryBlock(disk)]]) });
  const machine = new Machine(pc.board);
  try {
    let end = '';
    const took = seconds(() => {
      end = machine.run({ exits: Number.POSITIVE_INFINITY, bounds: 2000 }).end;
    });
    if (end !== 'debug-exit') throw new Error(`SeaBIOS ended by ${end}`);
    return { took, instructions: kernel.hardware.instructions };
  } finally {
    machine.dispose();
  }
}
