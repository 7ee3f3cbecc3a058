// # A processor and two ports
//
// The processor of chapter 1 with nothing around it but memory, a serial port that takes bytes, and the port of the marks. What is measured here is the processor
// alone: no kernel, no exits, one stage of paging.

import { Cpu } from '../../chapters/01-hardware-background/cpu.ts';
import { PhysicalMemory } from '../../chapters/01-hardware-background/physical-memory.ts';
import { type Marked, markNow, type Ran } from './cpu-marks.ts';
import { MARK, MEMORY_MIB } from './cpu-workloads.ts';

const LOAD_ADDRESS = 0x100000;
const SERIAL = 0x3f8;
const LINE_STATUS = 0x3fd;
const TRANSMITTER_EMPTY = 0x60;
const DEBUG_EXIT = 0xf4;
const ROM_START = 2 ** 32 - 256;

/** A read that nobody answers, by its bytes. */
const UNANSWERED = [0, 0xff, 0xffff, 0, 0xffffffff];

const word = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const dword = (value: number): number[] => [...word(value), ...word(value >>> 16)];

// The last 256 bytes of the address space. The reset vector jumps back to code that switches to protected mode with flat segments and enters the image as a
// multiboot loader would.

function rom(entry: number): Uint8Array {
  const bytes = new Uint8Array(256).fill(0xf4);
  bytes.set([0xeb, 0x8e], 0xf0); // jmp 80h
  bytes.set(
    [
      ...[0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0xc0, 0xff], // cli; lgdt cs:[0ffc0h]
      ...[0x0f, 0x20, 0xc0, 0x66, 0x83, 0xc8, 0x01, 0x0f, 0x22, 0xc0], // cr0 |= 1
      ...[0x66, 0xea, ...dword(ROM_START + 0xa0), 8, 0],
    ],
    0x80,
  );
  bytes.set(
    [
      ...[0xb8, ...dword(16), 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x31, 0xd2], // ds, es, ss; xor edx, edx
      ...[0xb8, ...dword(0x2badb002), 0xbd, ...dword(entry), 0xff, 0xe5], // jmp ebp
    ],
    0xa0,
  );
  bytes.set([...word(23), ...dword(ROM_START + 0xc8)], 0xc0);
  bytes.set([0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0, 0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0], 0xd0);
  return bytes;
}

/** Runs an image to its end. @throws Error when it ends in another way than by its exit port, or makes no marks */
export function runBare(image: Uint8Array, entry: number, { translate }: { readonly translate: boolean }): Ran {
  const memory = new PhysicalMemory({ ramBytes: MEMORY_MIB << 20 });
  const program = rom(entry);
  const marks = new Map<number, Marked>();
  let output = '';
  let left = false;
  const romRead = (address: number, bytes: number): bigint => {
    let value = 0n;
    for (let i = 0; i < bytes; i++) value |= BigInt(program[address + i - ROM_START] ?? 0xff) << BigInt(8 * i);
    return value;
  };
  const cpu = new Cpu({
    memory,
    translate,
    ports: {
      read: (port, bytes) => (port === LINE_STATUS ? TRANSMITTER_EMPTY : 2 ** (8 * bytes) - 1),
      write: (port, _bytes, value) => {
        if (port === MARK.port) marks.set(value, markNow(cpu.instructions));
        else if (port === SERIAL) output += String.fromCharCode(value & 0xff);
        else if (port === DEBUG_EXIT) {
          left = true;
          cpu.requestStop();
        }
      },
    },
    devices: {
      read: (address, bytes) => romRead(address, bytes),
      read32: (address, bytes) => (address < ROM_START ? (UNANSWERED[bytes] as number) : Number(romRead(address, bytes))),
      write() {},
      write32() {},
    },
  });
  memory.slice(LOAD_ADDRESS, image.length).set(image);
  cpu.engine.memoryChanged();
  const stop = cpu.run();
  const [begin, end] = [marks.get(MARK.begin), marks.get(MARK.end)];
  if (!left || !begin || !end) throw new Error(`ended by ${stop.kind}: ${output.trim().split('\n').at(-1) ?? '(silence)'}`);
  return { begin, end, output };
}
