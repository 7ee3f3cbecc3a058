// # The same guest in QEMU
//
// Under its translator, with no firmware but thirty instructions that bring the processor where a KVM guest begins. The laps come out of
// QEMU's debug console, a port that is its standard output, and are counted as they arrive.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CODE, type Guest, LAP_PORT, STACK } from './guests.ts';

const PROGRAM = 'qemu-system-x86_64';
const ROM_BYTES = 0x1_0000;
const START = 0xe000;
const TABLE = 0xf000; // GDT in the ROM
const SAMPLE_MS = 250;
const LIMIT_MS = 20_000;

/** The environment of a peer: without what the front door (`ringbook.mjs`) sets for a process of ours. */
export function peersEnvironment(): NodeJS.ProcessEnv {
  const { MALLOC_ARENA_MAX: _arenas, MALLOC_MMAP_THRESHOLD_: _threshold, ...others } = process.env;
  return others;
}

const word = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const dword = (value: number): number[] => [...word(value), ...word(value >>> 16)];

/** Why QEMU cannot be measured here; empty if it can. */
export function qemuMissing(): string {
  const { error, status } = spawnSync(PROGRAM, ['--version'], { encoding: 'utf8', timeout: 20_000 });
  return error ? `no ${PROGRAM}` : status === 0 ? '' : `${PROGRAM} ended with ${status}`;
}

/** A ROM that ends at 4 GiB, and once more at 1 MiB. */
function rom({ start }: Guest): Uint8Array {
  const bytes = new Uint8Array(ROM_BYTES);
  const descriptors = new DataView(bytes.buffer, TABLE);
  const dsBase = start.mode === 'real' ? BigInt(start.dsBase) : 0n;
  const baseBits = ((dsBase & 0xff_ffffn) << 16n) | ((dsBase >> 24n) << 56n);
  descriptors.setBigUint64(8, 0x00af_9b00_0000_ffffn, true); // 64-bit code
  descriptors.setBigUint64(16, 0x0000_9300_0000_ffffn | baseBits, true); // data
  bytes.set([...word(23), ...dword(0xf_0000 + TABLE)], TABLE + 32);
  const lgdt = [0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, ...word(TABLE + 32)];
  const cr0 = (bits: number): number[] => [0x0f, 0x20, 0xc0, 0x66, 0x0d, ...dword(bits), 0x0f, 0x22, 0xc0];
  const real = [
    ...cr0(1),
    ...[0xbb, ...word(16), 0x8e, 0xdb], // mov bx, 16; mov ds, bx: the base stays when protected mode is left again
    ...[0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0],
    ...[0x31, 0xdb, 0x8e, 0xd3, 0xbc, ...word(STACK)], // ss:sp
    ...[0xea, ...word(CODE), 0, 0],
  ];
  const long = (cr3: number): number[] => [
    ...[0x66, 0xb8, ...dword(0x20), 0x0f, 0x22, 0xe0], // CR4.PAE
    ...[0x66, 0xb8, ...dword(cr3), 0x0f, 0x22, 0xd8],
    ...[0x66, 0xb9, ...dword(0xc000_0080), 0x66, 0xb8, ...dword(0x100), 0x66, 0x31, 0xd2, 0x0f, 0x30], // EFER.LME
    ...cr0(0x8001_0001),
    ...[0x66, 0xea, ...dword(CODE), ...word(8)],
  ];
  bytes.set([...lgdt, ...(start.mode === 'real' ? real : long(start.cr3))], START);
  bytes.set([0xea, ...word(START), 0x00, 0xf0], 0xfff0);
  return bytes;
}

/** Operations a second. @throws Error when QEMU says anything else than laps */
export async function perSecondInQemu(guest: Guest): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-bench-'));
  const file = (name: string, bytes: Uint8Array): string => {
    const path = join(folder, name);
    writeFileSync(path, bytes);
    return path;
  };
  const loaders = [...guest.contents].flatMap(([gpa, bytes], n) => ['-device', `loader,file=${file(`part${n}`, bytes)},addr=${gpa},force-raw=on`]);
  const machine = ['-accel', 'tcg', '-m', String(Math.max(8, guest.ramBytes >> 20)), '-display', 'none', '-nodefaults', '-no-reboot'];
  const laps = ['-chardev', 'stdio,id=laps,signal=off', '-device', `isa-debugcon,iobase=${LAP_PORT},chardev=laps`];
  const child = spawn(PROGRAM, [...machine, ...laps, '-bios', file('rom', rom(guest)), ...loaders], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: peersEnvironment(),
  });
  try {
    return await new Promise<number>((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error('QEMU does not get to the end of a lap')), LIMIT_MS);
      let began = 0;
      let count = 0;
      let complaint = '';
      child.stdout.on('data', (bytes: Uint8Array) => {
        const now = performance.now();
        if (began === 0) began = now;
        else count += bytes.length;
        if (now - began < SAMPLE_MS || count < 2) return;
        clearTimeout(limit);
        resolve((count * guest.lap * 1000) / (now - began));
      });
      child.stderr.on('data', (bytes: Uint8Array) => {
        complaint = (complaint + String(bytes)).slice(0, 500);
      });
      child.on('error', reject);
      child.on('exit', (status) => reject(new Error(`QEMU ended with ${status}: ${complaint}`)));
    });
  } finally {
    child.removeAllListeners('exit');
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  }
}
