// # A machine that was saved, and one that was restored
//
// The first half asks of programs of the suite, in every arrangement of the kernel: is what a restored machine writes down what it was made of, and do both
// go on alike, to the last event? The second half is about files that are not what they should be. What is easy to forget has a file of its own:
// `every-field.test.ts`.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { StateError } from '../../03-vcpu-loop/devices/state.ts';
import type { MachineConfig } from '../../05-pio-mmio/machine/config.ts';
import { crc32 } from './checksum.ts';
import { decodeFile, encodeFile } from './file.ts';
import { type Specimen, Subject, twoFutures } from './laboratory.ts';
import { restoreMachine, saveMachine } from './machine-state.ts';
import { decodePages, encodePages } from './memory.ts';

const image = (name: string): Uint8Array => readFileSync(new URL(`../../../guest-payloads/images/${name}.elf`, import.meta.url));
const ideDrive: MachineConfig = { drives: [{ id: 'd', file: 'given' }], devices: [{ type: 'ide-hd', drive: 'd' }] };
const card: MachineConfig = { netdevs: [{ id: 'n', type: 'echo' }], devices: [{ type: 'e1000', netdev: 'n' }] };

/** The quick tests take one machine of each kind, those marked so, and of it one moment; `npm run test:all` takes all. */
const ALL = process.env.RINGBOOK_TESTS === 'all';

const FUTURES: readonly (readonly [payload: string, config: MachineConfig, after: readonly number[], quick?: 'quick'])[] = [
  ['hello', {}, [3]],
  ['irq-lapic-32', { irqchip: 'off', translate: false }, [25]],
  ['irq-lapic-64', { irqchip: 'split' }, [30], 'quick'],
  ['irq-lapic-32', { irqchip: 'on', memory: 'shadow' }, [20]],
  ['smp-ipi-32', { cpus: 2, memory: 'shadow' }, [40], 'quick'],
  ['smp-ipi-32', { cpus: 2, irqchip: 'off' }, [60]],
  ['smp-ipi-32', { cpus: 2, irqchip: 'split', machine: { type: 'pc' } }, [50], 'quick'],
  ['ide-dma', ideDrive, [40, 140], 'quick'],
  ['e1000', card, [150], 'quick'],
  ['ad-bits-32', {}, [10]],
  ['hello', { machine: { type: 'microvm' } }, [3], 'quick'],
  ['virtio-entropy', { devices: [{ type: 'virtio-rng-pci' }] }, [60, 200]],
  ['virtio-balloon', { devices: [{ type: 'virtio-balloon-device' }] }, [80, 220]],
  [
    'virtio-block',
    { drives: [{ id: 'd', file: 'given' }], devices: [{ type: 'virtio-blk-pci-non-transitional', drive: 'd', packed: true }] },
    [90, 260],
    'quick',
  ],
  ['virtio-console', { devices: [{ type: 'virtio-serial-pci' }, { type: 'virtconsole' }] }, [90, 200]],
];

describe('two futures', () => {
  for (const [payload, config, moments] of FUTURES.filter(([, , , quick]) => ALL || quick))
    for (const after of ALL ? moments : moments.slice(-1))
      it(`${payload}, ${JSON.stringify(config)}, saved after ${after} turns`, async () => {
        const futures = await twoFutures({ config: { memoryMiB: 16, ...config }, image: image(payload), turns: 120 }, after);
        expect(futures.ended).toBe(false);
        expect(futures.difference).toBeNull();
        expect(futures.sameState).toBe(true);
        expect(futures.events).toBeGreaterThan(0);
        expect(futures.ends[0]).toBe(futures.ends[1]);
      }, 60_000);
});

const specimen: Specimen = { config: { memoryMiB: 4 }, image: image('hello') };

/** A file of a small machine. */
async function savedFile(): Promise<Uint8Array> {
  const subject = new Subject(specimen);
  try {
    subject.run(3);
    return await saveMachine(subject.machine);
  } finally {
    subject.dispose();
  }
}

async function refusal(file: Uint8Array, other: Specimen = specimen): Promise<string | null> {
  const subject = new Subject(other);
  try {
    await restoreMachine(subject.machine, file);
    return null;
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    return error.message;
  } finally {
    subject.dispose();
  }
}

describe('files that are not what they should be', () => {
  it('are refused, each with its reason', async () => {
    const file = await savedFile();
    expect(await refusal(file)).toBeNull();
    expect(await refusal(new Uint8Array(0))).toBe('this is no saved machine');
    expect(await refusal(new TextEncoder().encode('RINGBOOK-STATE\n'))).toBe('this is no saved machine');
    expect(await refusal(file.subarray(0, file.length - 1))).toMatch(/cut short/);
    const newer = file.slice();
    newer[18] = (newer[18] as number) + 1;
    expect(await refusal(newer)).toMatch(/format/);
    expect(await refusal(file, { ...specimen, config: { memoryMiB: 8 } })).toMatch(/another machine's: .*memory/);
    expect(await refusal(file, { ...specimen, config: { memoryMiB: 4, irqchip: 'off' } })).toMatch(/irqchip: on there, off here/);
    expect(await refusal(file, { ...specimen, config: { memoryMiB: 4, cpus: 2 } })).toMatch(/cpus: 1 there, 2 here/);
  });

  it('are refused when a section is missing, unknown, twice there, of another version, too short or too long', async () => {
    const { header, sections } = decodeFile(await savedFile());
    const made = (change: (all: typeof sections) => typeof sections): Promise<string | null> =>
      refusal(encodeFile({ header, sections: change(sections) }));
    const replaced = (name: string, payload: Uint8Array) => (all: typeof sections) =>
      all.map((one) => (one.name === name ? { ...one, payload } : one));
    const rtc = sections.find(({ name }) => name === 'rtc')?.payload as Uint8Array;
    expect(await made((all) => all.filter(({ name }) => name !== 'rtc'))).toBe('the state of rtc is missing');
    expect(await made((all) => all.filter(({ name }) => name !== 'ram'))).toMatch(/memory is missing/);
    expect(await made((all) => [...all, { name: 'sound card', version: 1, payload: rtc }])).toBe('this machine has no sound card');
    expect(await made((all) => [...all, ...all.slice(0, 1)])).toMatch(/twice/);
    expect(await made((all) => all.map((one) => (one.name === 'rtc' ? { ...one, version: 99 } : one)))).toMatch(/rtc: version 99/);
    expect(await made(replaced('rtc', rtc.subarray(0, 9)))).toMatch(/^rtc: .*are left/);
    expect(await made(replaced('rtc', Uint8Array.from([...rtc, 0])))).toBe('rtc: 1 bytes too many');
  });

  it('do no harm, whichever byte is wrong', async () => {
    const file = await savedFile();
    for (let at = 0; at < file.length; at += Math.ceil(file.length / 60)) {
      const damaged = file.slice();
      damaged[at] = (damaged[at] as number) ^ 0x41;
      expect(() => decodeFile(damaged)).toThrow(StateError);
      expect(() => decodeFile(file.subarray(0, at))).toThrow(StateError);
    }
  });

  it('do no harm when their checksums are right, either', async () => {
    const { header, sections } = decodeFile(await savedFile());
    let refused = 0;
    for (let round = 0; round < 40; round++) {
      const which = (round * 7) % (sections.length - 1);
      const changed = sections.map((section, index) => {
        if (index !== which) return section;
        const payload = section.payload.slice();
        if (payload.length > 0) payload[(round * 13) % payload.length] = 0xff - (round % 3);
        return { ...section, payload };
      });
      if ((await refusal(encodeFile({ header, sections: changed }))) !== null) refused++;
    }
    expect(refused).toBeGreaterThan(0);
  }, 60_000);
});

describe('memory', () => {
  const memory = (): Uint8Array => {
    const bytes = new Uint8Array(64 << 12);
    for (const page of [0, 7, 63]) bytes.fill(page + 1, page << 12, (page + 1) << 12);
    return bytes;
  };
  it('comes back, with zeros where there were zeros, compressed or not', async () => {
    for (const compress of [true, false]) {
      const payload = await encodePages(memory(), { compress });
      expect(payload.length).toBeLessThan(compress ? 1000 : 4 * 4096);
      const back = new Uint8Array(64 << 12).fill(0xaa);
      await decodePages(payload, back);
      expect(crc32(back)).toBe(crc32(memory()));
    }
  });
  it('is refused when it unpacks to more than it says, is of another size, or has a page out of order', async () => {
    const payload = await encodePages(memory(), { compress: false });
    const into = new Uint8Array(64 << 12);
    await expect(decodePages(payload, new Uint8Array(32 << 12))).rejects.toThrow(/this machine has/);
    const wrongPage = payload.slice();
    new DataView(wrongPage.buffer).setUint32(8 + 4 + 4 + 4, 9999, true);
    await expect(decodePages(wrongPage, into)).rejects.toThrow(/where it could be/);
    const bomb = await encodePages(new Uint8Array(64 << 12).fill(1));
    const view = new DataView(bomb.buffer);
    view.setUint32(8, 1, true); // one page, says the file, and the block holds sixty-four
    view.setUint32(12, 1, true);
    await expect(decodePages(bomb, into)).rejects.toThrow(StateError);
  });
});
