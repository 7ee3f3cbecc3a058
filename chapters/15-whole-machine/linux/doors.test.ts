import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type BootPlan, planBoot } from '../../03-vcpu-loop/doors.ts';
import { ImageError } from '../../03-vcpu-loop/elf.ts';
import './doors.ts';
import { madeKernel } from './laboratory.ts';

const MIB = 1 << 20;
const RAM = 64 * MIB;
const options = { ramBytes: RAM };
const INITRD = new Uint8Array(5000).fill(0x77);

/** The memory that a plan leaves, as a guest finds it. */
function memory(plan: BootPlan, ramBytes = RAM): DataView {
  const ram = new Uint8Array(ramBytes);
  for (const { gpa, bytes } of plan.segments) ram.set(bytes, gpa);
  return new DataView(ram.buffer);
}

const text = (view: DataView, at: number, length: number): string => String.fromCharCode(...new Uint8Array(view.buffer, at, length));

describe('a bzImage in memory', () => {
  it('is entered in 64-bit mode, 0x200 behind its start, with a page of parameters', () => {
    const plan = planBoot(madeKernel(), { ...options, commandLine: 'console=ttyS0', initrd: INITRD, rsdpGpa: 0xe_0000 });
    expect(plan.door).toBe('linux64');
    expect(plan.regs).toMatchObject({ rip: 0x100_0200n, rflags: 2n });
    expect(plan.sregs).toMatchObject({ cr4: 0x20n, efer: 0x500n, cs: { l: 1, db: 0, selector: 0x10 }, ds: { selector: 0x18 } });
    const ram = memory(plan);
    expect([ram.getUint8(0x100_0000), ram.getUint8(0x100_2fff), ram.getUint8(0x100_3000)]).toEqual([0xa5, 0xa5, 0]);
    const gdt = plan.sregs.gdt as { base: bigint; limit: number };
    expect(gdt.limit).toBe(31);
    expect(ram.getBigUint64(Number(gdt.base) + 0x10, true)).toBe(0x00af_9b00_0000_ffffn);
    expect(ram.getBigUint64(Number(gdt.base) + 0x18, true)).toBe(0x00cf_9300_0000_ffffn);

    const page = Number(plan.regs.rsi);
    expect(page % 4096).toBe(0);
    expect(ram.getBigUint64(page + 0x70, true)).toBe(0xe_0000n); // acpi_rsdp_addr
    expect(ram.getUint8(page + 0x1ef)).toBe(0); // the sentinel: nothing before the header was copied
    expect(ram.getUint8(page + 0x1f1)).toBe(3);
    expect(ram.getUint32(page + 0x202, true)).toBe(0x53726448);
    expect(ram.getUint16(page + 0x206, true)).toBe(0x20f);
    expect(ram.getUint8(page + 0x210)).toBe(0xff);
    expect(ram.getUint32(page + 0x214, true)).toBe(0x100_0000); // code32_start
    expect(ram.getUint32(page + 0x26c, true)).toBe(0); // behind the header is code in the file, and nothing here
    const [initrd, length] = [ram.getUint32(page + 0x218, true), ram.getUint32(page + 0x21c, true)];
    expect([initrd, length]).toEqual([RAM - 8192, 5000]);
    expect([ram.getUint8(initrd), ram.getUint8(initrd + 4999)]).toEqual([0x77, 0x77]);
    expect(text(ram, ram.getUint32(page + 0x228, true), 14)).toBe('console=ttyS0\0');
    expect(ram.getUint8(page + 0x1e8)).toBe(3);
    expect(ram.getBigUint64(page + 0x2d0 + 40, true)).toBe(0x10_0000n);
    expect(ram.getBigUint64(page + 0x2d0 + 48, true)).toBe(BigInt(RAM - MIB));
    expect(ram.getUint32(page + 0x2d0 + 56, true)).toBe(1);
  });

  it('is entered in protected mode at its first byte', () => {
    const plan = planBoot(madeKernel(), { ...options, door: 'linux32' });
    expect(plan.regs).toEqual({ rip: 0x100_0000n, rsi: plan.regs.rsi, rflags: 2n }); // EBP, EDI and EBX are 0 at power-on
    expect(plan.sregs).toMatchObject({ cr0: 0x11n, cr4: 0n, efer: 0n, cs: { selector: 0x10, db: 1, l: 0 }, ss: { selector: 0x18 } });
    const gdt = plan.sregs.gdt as { base: bigint };
    expect(memory(plan).getBigUint64(Number(gdt.base) + 0x10, true)).toBe(0x00cf_9b00_0000_ffffn);
  });

  it('is entered in real mode, with its own first sectors below 640 KiB', () => {
    const plan = planBoot(madeKernel(), { ...options, door: 'linux16', commandLine: 'quiet', initrd: INITRD });
    expect(plan.regs).toEqual({ rip: 0n, rsp: 0xe000n, rflags: 2n });
    expect(plan.sregs).toMatchObject({ cs: { selector: 0x1020, base: 0x1_0200n, limit: 0xffff, db: 0 }, ss: { selector: 0x1000, base: 0x1_0000n } });
    for (const name of ['ds', 'es', 'fs', 'gs'] as const) expect(plan.sregs[name]).toEqual(plan.sregs.ss);
    const ram = memory(plan);
    expect([ram.getUint8(0x1_0000), ram.getUint8(0x1_07ff), ram.getUint8(0x1_0800)]).toEqual([0x5a, 0x5a, 0]);
    expect(ram.getUint8(0x1_0210)).toBe(0xff);
    expect(ram.getUint8(0x1_0211)).toBe(0x81); // LOADED_HIGH, CAN_USE_HEAP
    expect(ram.getUint16(0x1_0224, true)).toBe(0xde00); // heap_end_ptr
    expect(ram.getUint32(0x1_0214, true)).toBe(0x100_0000);
    expect(ram.getUint32(0x1_0218, true)).toBe(RAM - 8192);
    expect(ram.getUint32(0x1_0228, true)).toBe(0x1_e000);
    expect(text(ram, 0x1_e000, 6)).toBe('quiet\0');
    expect([ram.getUint16(0x15 * 4, true), ram.getUint16(0x15 * 4 + 2, true)]).toEqual([0x3d, 0xf000]);
    expect(ram.getUint16(0x413, true)).toBe(639);
  });

  it('takes old kernels the old way', () => {
    const plan = planBoot(madeKernel({ version: 0x201, initSize: 0, kernelBytes: 0x3000 }), { ...options, commandLine: 'x' });
    expect(plan.door).toBe('linux16'); // nothing else is left
    const ram = memory(plan);
    expect(plan.sregs.cs).toMatchObject({ selector: 0x9020 });
    expect([ram.getUint16(0x9_0020, true), ram.getUint16(0x9_0022, true), ram.getUint16(0x9_0212, true)]).toEqual([0xa33f, 0x9800, 0x9802]);
    expect(ram.getUint32(0x9_0228, true)).toBe(0); // no such field yet
    const low = planBoot(madeKernel({ loadflags: 0 }), options);
    expect(low.door).toBe('linux16');
    expect(memory(low).getUint8(0x1_0000)).toBe(0xa5);
  });

  it('goes where it prefers to, or lower where memory ends', () => {
    const rip = (ramMib: number, made: Parameters<typeof madeKernel>[0] = {}): bigint | undefined =>
      planBoot(madeKernel(made), { ramBytes: ramMib * MIB }).regs.rip;
    expect(rip(64)).toBe(0x100_0200n);
    expect(rip(20)).toBe(0x100_0200n); // ends with the memory
    expect(rip(19)).toBe(0x20_0200n);
    expect(rip(64, { preferred: 0n })).toBe(0x20_0200n);
    expect(rip(64, { relocatable: 0, alignment: 0 })).toBe(0x10_0200n);
    expect(() => rip(5)).toThrow(/4194304 bytes from 0x200000/);
    expect(() => rip(19, { relocatable: 0 })).toThrow(/from 0x100000 to 0x1400000/);
  });

  it('keeps the initramfs away from the kernel, and below what the kernel says', () => {
    const at = (made: Parameters<typeof madeKernel>[0], ramBytes = RAM, bytes = 5000): number => {
      const plan = planBoot(madeKernel(made), { ramBytes, initrd: new Uint8Array(bytes).fill(0x77) });
      return plan.segments.find((segment) => segment.bytes[0] === 0x77)?.gpa as number;
    };
    expect(at({ initrdMax: 0x1ff_ffff })).toBe(0x1ff_e000);
    expect(at({ initrdMax: 0x1ff_fffe })).toBe(0x1ff_d000); // not even the last byte of the page
    expect(at({ version: 0x202 }, 1024 * MIB)).toBe(0x37ff_e000); // before there was the field
    expect(at({ initSize: 0x2ff_f000 })).toBe(0x100_0000 - 8192); // the kernel has the top of memory
    expect(() => at({}, RAM, 60 * MIB)).toThrow(/no room for 62914560 bytes/);
    // A hole in the map is no memory.
    const memoryMap = [
      { start: 0, bytes: 0x9_fc00, type: 1 },
      { start: MIB, bytes: 40 * MIB, type: 1 },
      { start: 41 * MIB, bytes: 23 * MIB, type: 3 },
    ];
    const plan = planBoot(madeKernel(), { ramBytes: RAM, memoryMap, initrd: INITRD });
    expect(plan.segments.find(({ bytes }) => bytes === INITRD)?.gpa).toBe(41 * MIB - 8192);
  });

  it('hands over more ranges than the page has room for', () => {
    const memoryMap = [
      { start: 0, bytes: 0x9_fc00, type: 1 },
      { start: MIB, bytes: 63 * MIB, type: 1 },
      ...Array.from({ length: 130 }, (_, n) => ({ start: 2 ** 32 + n * MIB, bytes: 4096 * (n + 1), type: 2 })),
    ];
    const plan = planBoot(madeKernel(), { ramBytes: RAM, memoryMap });
    const ram = memory(plan);
    const page = Number(plan.regs.rsi);
    expect(ram.getUint8(page + 0x1e8)).toBe(128);
    const record = Number(ram.getBigUint64(page + 0x250, true));
    expect([ram.getBigUint64(record, true), ram.getUint32(record + 8, true), ram.getUint32(record + 12, true)]).toEqual([0n, 1, 80]);
    expect(ram.getBigUint64(record + 16 + 60 + 8, true)).toBe(4096n * 130n);
    expect(() => planBoot(madeKernel({ version: 0x208 }), { ramBytes: RAM, memoryMap })).toThrow(/132 ranges/);
  });
});

describe('a kernel that is refused', () => {
  const bad = (made: Parameters<typeof madeKernel>[0], message: RegExp, more: Partial<Parameters<typeof planBoot>[1]> = {}): void => {
    const call = (): unknown => planBoot(madeKernel(made), { ...options, ...more });
    expect(call).toThrow(ImageError);
    expect(call).toThrow(message);
  };
  it('for what it claims', () => {
    bad({ version: 0x1ff }, /protocol 1\.255/);
    bad({ jump: 0x8f }, /ends at 0x291; it has room up to 0x290/);
    bad({ setupSectors: 64 }, /33280 bytes of real-mode code; there can be 32768/);
    bad({ kernelBytes: 0 }, /no kernel behind it/);
    bad({ syssize: 0x301 }, /says 12304 bytes of kernel, and the file has 12288/);
    bad({ payload: [0x2fff, 2] }, /payload of 2 bytes at 0x2fff/);
    bad({ alignment: 3 }, /kernel_alignment 0x3/);
    bad({ preferred: 2n ** 32n }, /pref_address 0x100000000/);
  });
  it('for what is asked of it', () => {
    bad({ xloadflags: 0 }, /no linux64 door: its xloadflags/, { door: 'linux64' });
    bad({ version: 0x20b }, /no linux64 door: it follows boot protocol 2\.11/, { door: 'linux64' });
    bad({ loadflags: 0 }, /no linux32 door: it is a zImage/, { door: 'linux32' });
    bad({ version: 0x201 }, /no linux32 door: .* 2\.01/, { door: 'linux32' });
    bad({ cmdlineSize: 10 }, /has 11 bytes; this kernel takes 10/, { commandLine: '12345678901' });
    bad({}, /holds a NUL/, { commandLine: 'a\0b' });
    bad({}, /ACPI begins at 0x5000/, { door: 'linux16', rsdpGpa: 0x5000 });
    bad({ loadflags: 0, kernelBytes: 0x8_0010 }, /524288 fit/);
  });
  it('chooses the latest way that the image offers', () => {
    const door = (made: Parameters<typeof madeKernel>[0]): string => planBoot(madeKernel(made), options).door;
    expect(['linux64', 'linux32', 'linux32', 'linux16']).toEqual([
      door({}),
      door({ xloadflags: 0 }),
      door({ version: 0x20b }),
      door({ version: 0x201 }),
    ]);
  });
  it('never reads outside the file or writes outside the memory, whatever the header says', () => {
    const change = fc.tuple(fc.integer({ min: 0x1f1, max: 0x26b }), fc.constantFrom(1, 2, 4, 8), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
    let refused = 0;
    fc.assert(
      fc.property(
        fc.array(change, { minLength: 1, maxLength: 5 }),
        fc.constantFrom(undefined, 'linux64', 'linux32', 'linux16'),
        fc.constantFrom(0, 0, 0, 1, 16, 0x2fff, 0x3000, 0x35ff),
        fc.constantFrom(2, 19, 64, 64),
        (changes, door, cut, ramMib) => {
          const file = madeKernel();
          for (const [at, width, value] of changes)
            for (let byte = 0; byte < width; byte++) file[at + byte] = Number((value >> BigInt(8 * byte)) & 0xffn);
          const image = file.subarray(0, file.length - cut);
          try {
            const plan = planBoot(image, { ramBytes: ramMib * MIB, initrd: INITRD, commandLine: 'x', ...(door && { door }) });
            for (const { gpa, bytes, memoryBytes } of plan.segments) {
              expect(gpa).toBeGreaterThanOrEqual(0);
              expect(memoryBytes).toBeGreaterThanOrEqual(bytes.length);
              expect(gpa + memoryBytes).toBeLessThanOrEqual(ramMib * MIB);
            }
          } catch (error) {
            expect(error).toBeInstanceOf(ImageError);
            refused++;
          }
        },
      ),
      { numRuns: 1500, seed: 6 },
    );
    expect(refused).toBeGreaterThan(150);
    expect(refused).toBeLessThan(1350);
  });
});
