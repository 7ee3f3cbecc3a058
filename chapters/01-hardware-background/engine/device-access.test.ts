import { describe, expect, it } from 'vitest';
import { Cpu } from '../cpu.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { CR0, FLAG, OFFSET, SLOT } from '../state.ts';

// A loop that writes to a device and reads from it, hot. The device asks for attention at some accesses; whoever runs the code must stop behind that instruction,
// neither before nor later, and ask the device once.

const RAM = 4 << 20;
const CODE = 0x1000;
const DIRECTORY = 0x3000;
const ROUNDS = 400;

// biome-ignore format: table
const LOOP = [
  0x89, 0x0d, 0x10, 0x00, 0x80, 0x00, // mov [800010h], ecx
  0xff, 0x35, 0x60, 0x00, 0x80, 0x00, // push dword [800060h]: the stack may fault after the device has been read
  0x5b, // pop ebx
  0x03, 0x05, 0x20, 0x00, 0x80, 0x00, // add eax, [800020h]
  0x40, // inc eax
  0x0f, 0xb6, 0x15, 0x31, 0x00, 0x80, 0x00, // movzx edx, byte [800031h]
  0x88, 0x15, 0x42, 0x00, 0x80, 0x00, // mov [800042h], dl
  0xff, 0x05, 0x50, 0x00, 0x80, 0x00, // inc dword [800050h]: both a read and a write
  0x49, 0x75, 0xd6, // dec ecx; jnz
  0xf4,
];

function run(translate: boolean, urgent: (access: number) => boolean, paging: boolean): { log: string[]; end: string; regions: number } {
  const memory = new PhysicalMemory({ ramBytes: RAM });
  const log: string[] = [];
  let accesses = 0;
  let cpu: Cpu | null = null;
  const said = (what: string): void => {
    const { state } = cpu as Cpu;
    log.push(`${state.getNumber(OFFSET.ICOUNT)} ${what}`);
    if (urgent(accesses++)) (cpu as Cpu).requestStop();
  };
  const devices = {
    read: () => 0n,
    read32: (address: number, bytes: number) => {
      said(`read ${address.toString(16)} ${bytes}`);
      return (address * 77 + accesses) % 256;
    },
    write: () => {},
    write32: (address: number, bytes: number, value: number) => said(`write ${address.toString(16)} ${bytes} ${value}`),
  };
  cpu = new Cpu({ memory, devices, translate, heat: 1 });
  const { state } = cpu;
  memory.slice(CODE, LOOP.length).set(LOOP);
  for (let n = 0; n < 4; n++) memory.view.setUint32(memory.offset(DIRECTORY + 4 * n), (n << 22) | 0x83, true); // 4 MiB pages
  state.set64(OFFSET.CR4, 0x10n);
  state.setNumber(OFFSET.CR3, DIRECTORY);
  state.set64(OFFSET.CR0, BigInt((CR0.PE | (paging ? CR0.PG : 0)) >>> 0));
  for (let seg = 0; seg < 6; seg++) {
    state.setSegSelector(seg, 8);
    state.setSegBase(seg, 0n);
    state.setSegLimit(seg, 0xffffffff);
    state.setSegRights(seg, seg === 1 ? 0xc09b : 0xc093);
  }
  state.set32(OFFSET.RFLAGS, FLAG.FIXED);
  state.setSlotNumber(SLOT.RSP, 0x8002); // what is pushed crosses a page
  state.setSlotNumber(SLOT.RCX, ROUNDS);
  state.setSlotNumber(SLOT.RIP, CODE);
  cpu.modeChanged();
  for (;;) {
    const { kind } = cpu.run();
    const registers = [SLOT.RAX, SLOT.RBX, SLOT.RCX, SLOT.RDX, SLOT.RSP, SLOT.RIP].map((slot) => state.slot32(slot).toString(16));
    log.push(`${kind} ${state.getNumber(OFFSET.ICOUNT)} ${registers}`);
    if (kind !== 'stop') break;
  }
  return { log, end: log.at(-1) as string, regions: cpu.engine.sizes.compiled };
}

describe('a device that translated code accesses', () => {
  it.each([true, false])('is asked the same, at the same time; paging: %s', (paging) => {
    for (const [name, urgent] of [
      ['never', () => false],
      ['each time', () => true],
      ['sometimes', (n: number) => n % 7 === 3 || n % 11 === 0],
    ] as const) {
      const plain = run(false, urgent, paging);
      const translated = run(true, urgent, paging);
      expect(
        plain.log.filter((line) => /read|write/.test(line)),
        name,
      ).toHaveLength(7 * ROUNDS);
      expect(translated.regions, name).toBeGreaterThan(0);
      expect(translated.log, name).toEqual(plain.log);
      expect(plain.end, name).toMatch(/^halt/);
    }
  });
});
