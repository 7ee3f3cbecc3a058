// # Two devices at work
//
// The guests that the chapter counts last: one reads a few sectors, the other sends a few frames and gets them back. Each does no more than a driver has to
// do for one request, and does it in a driver's order.

import { type BenchRun, mark, runOnBench } from './bench.ts';
import { SECTOR_BYTES } from './block/block.ts';
import { ReceiveDescriptor, TransmitDescriptor, TX_CMD } from './e1000/descriptors.ts';
import { CAUSE, CTRL, E1000, type E1000Register, RCTL, TCTL } from './e1000/registers.ts';
import {
  APIC_ON,
  add,
  COUNTER,
  type Code,
  END_OF_INTERRUPT,
  endOfPic,
  handler,
  input,
  inputWords,
  load,
  movePics,
  out,
  redirect,
  sleepUntil,
  store,
  times,
} from './guest-program.ts';
import { PhysicalRegionDescriptor } from './ide/bus-master.ts';
import { PRIMARY_PORTS, TASK_FILE } from './ide/task-file.ts';
import type { Arrangement } from './interrupts/controller.ts';
import { CONFIG_PORT } from './pci/config-access.ts';
import { COMMAND, HEADER_0 } from './pci/header.ts';
import { LPC_DEVICE } from './pci/q35.ts';

// ## Sectors
//
// A request to an ATA disk is a form of six registers, the last of which sends it off. Then the data is fetched through a port, a sector for each interrupt;
// or the bus master has been told where memory is, and there is one interrupt for everything.

const ATA = PRIMARY_PORTS.command;
const ATA_VECTOR = 0x2e;
const [BUFFER, REGIONS] = [0x3_0000, 0x9000];
/** Where the guest puts the bus master. */
export const MASTER = 0xc000;
const FIRST_SECTOR = 1;
export const SECTORS = 4;

const ataRegister = (name: keyof typeof TASK_FILE.rows): number => ATA + TASK_FILE.rows[name].offset;
/** The form: how many, from where, which drive, and the command that sends it off. */
const command = (code: number): Code =>
  [
    out(ataRegister('SECTOR_COUNT'), SECTORS),
    out(ataRegister('LBA_LOW'), FIRST_SECTOR),
    out(ataRegister('LBA_MID'), 0),
    out(ataRegister('LBA_HIGH'), 0),
    out(ataRegister('DEVICE'), 0xe0),
    out(ataRegister('STATUS_COMMAND'), code),
  ].flat();
const acknowledge = input(ataRegister('STATUS_COMMAND'));
const configWrite = (device: number, fn: number, register: number, value: number): Code => [
  ...out(CONFIG_PORT, (0x8000_0000 | (device << 11) | (fn << 8) | register) >>> 0, 4),
  ...out(CONFIG_PORT + 4, value, 4),
];

/** How the data gets from the disk to memory. */
export type Transfer = 'word by word' | 'string' | 'bus master';

/** Reads {@link SECTORS} sectors with an interrupt for each, or one for all. @throws Error when they did not arrive */
export function readDisk(by: Transfer, irqchip: Arrangement = 'on'): BenchRun {
  const disk = Uint8Array.from({ length: 16 * SECTOR_BYTES }, (_, n) => (n * 7 + (n >> 9)) & 0xff);
  const words = SECTOR_BYTES / 2;
  const sector = (n: number): Code =>
    by === 'string' ? inputWords(ATA, BUFFER + n * SECTOR_BYTES, words) : times(words, input(ATA, 2), [0x66, 0xab]); // stosw
  const byPorts = (): Code[] => [command(0x20), ...Array.from({ length: SECTORS }, (_, n) => [...sleepUntil(COUNTER, n + 1), ...sector(n)])];
  const byMaster = [
    out(MASTER, 8),
    out(MASTER + 2, 6),
    out(MASTER + 4, REGIONS, 4),
    command(0xc8),
    out(MASTER, 9),
    sleepUntil(COUNTER, 1),
    out(MASTER, 0),
  ];
  const regions = PhysicalRegionDescriptor.encode({ address: BUFFER, count: SECTORS * SECTOR_BYTES, flags: 0x8000 });
  const placeMaster = [configWrite(LPC_DEVICE, 1, 0x20, MASTER | 1), configWrite(LPC_DEVICE, 1, 4, COMMAND.IO | COMMAND.MASTER)];
  const atEnd: Code = by === 'bus master' ? [...input(MASTER + 2), ...out(MASTER + 2, 4), ...acknowledge] : acknowledge;
  const run = runOnBench(
    {
      code: [
        movePics(14),
        ...placeMaster,
        [0xbf, BUFFER & 0xff, BUFFER >> 8, BUFFER >> 16, 0],
        mark,
        ...(by === 'bus master' ? byMaster : byPorts()),
        mark,
      ],
      handlers: { [ATA_VECTOR]: handler(atEnd, add(COUNTER, 1), endOfPic(14)) },
      data: { [REGIONS]: regions },
    },
    { irqchip, disk, devices: [{ type: 'ide-hd', drive: 'disk' }] },
  );
  const wanted = disk.subarray(FIRST_SECTOR * SECTOR_BYTES, (FIRST_SECTOR + SECTORS) * SECTOR_BYTES);
  if (wanted.some((byte, n) => run.ram[BUFFER + n] !== byte)) throw new Error(`${by}: the sectors did not arrive`);
  return run;
}

// ## Frames
//
// The card finds frames in a ring and puts frames into another. For each there is a tail, which the driver moves, and of the interrupt the driver has to ask
// what it was for.

/** Where the card is, and where the guest puts its registers. */
export const CARD_DEVICE = 1;
export const CARD_BAR = 0xd000_0000;
const RING = 16;
const [RX_RING, TX_RING, FRAME, RX_BUFFERS] = [0xa000, 0xb000, 0x4_0000, 0x5_0000];
const DEVICE_VECTOR = 0x50;
const CARD_PIN = 21; // where INTA# of device 1 ends
const FRAME_BYTES = 60;
export const FRAMES = 8;

const card = (register: E1000Register): number => CARD_BAR + E1000.rows[register].offset;

/** What a driver leaves in memory: two rings, and one frame to send again and again. */
function rings(): Record<number, Uint8Array> {
  const [received, sent] = [new Uint8Array(RING * ReceiveDescriptor.bytes), new Uint8Array(RING * TransmitDescriptor.bytes)];
  for (let n = 0; n < RING; n++) {
    ReceiveDescriptor.store(new DataView(received.buffer), n * ReceiveDescriptor.bytes, { address: BigInt(RX_BUFFERS + 2048 * n) });
    const descriptor = { address: BigInt(FRAME), length: FRAME_BYTES, cmd: TX_CMD.EOP | TX_CMD.RS };
    TransmitDescriptor.store(new DataView(sent.buffer), n * TransmitDescriptor.bytes, descriptor);
  }
  const frame = new Uint8Array(FRAME_BYTES);
  frame.set([0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x88, 0xb5]); // to the station, from the card, of a type for experiments
  return { [RX_RING]: received, [TX_RING]: sent, [FRAME]: frame };
}

/** {@link FRAMES} frames there and back. */
export function framesThereAndBack(irqchip: Arrangement = 'on'): BenchRun {
  const setUp: readonly Code[] = [
    APIC_ON,
    redirect(CARD_PIN, DEVICE_VECTOR),
    configWrite(CARD_DEVICE, 0, HEADER_0.rows.BAR.offset, CARD_BAR),
    configWrite(CARD_DEVICE, 0, HEADER_0.rows.COMMAND.offset, COMMAND.MEMORY | COMMAND.MASTER),
    store(card('CTRL'), CTRL.SLU),
    ...[store(card('RDBAL'), RX_RING), store(card('RDLEN'), RING * ReceiveDescriptor.bytes), store(card('RDT'), RING - 1)],
    ...[store(card('TDBAL'), TX_RING), store(card('TDLEN'), RING * TransmitDescriptor.bytes)],
    ...[store(card('TCTL'), TCTL.EN | TCTL.PSP), store(card('RCTL'), RCTL.EN | RCTL.BAM | RCTL.SECRC)],
    ...[store(card('IMS'), CAUSE.RXT0), load(card('ICR'))],
  ];
  // Ring the doorbell, sleep until the frame is back, give its buffer to the card again.
  const frame = (n: number): Code => [...store(card('TDT'), n + 1), ...sleepUntil(COUNTER, n + 1), ...store(card('RDT'), n)];
  return runOnBench(
    {
      code: [...setUp, mark, ...Array.from({ length: FRAMES }, (_, n) => frame(n)), mark],
      handlers: { [DEVICE_VECTOR]: handler(load(card('ICR')), add(COUNTER, 1), END_OF_INTERRUPT) },
      data: rings(),
    },
    { irqchip, devices: [{ type: 'e1000', netdev: 'wire' }] },
  );
}
