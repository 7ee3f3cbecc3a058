// # A machine that was saved, and one that was restored
//
// The first half asks of programs of the suite, in every arrangement of the kernel: is what a restored machine writes down what it was made of, and do both
// go on alike, to the last event? The second half is about files that are not what they should be. The third is about what is easy to forget.

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

const FUTURES: readonly (readonly [payload: string, config: MachineConfig, after: readonly number[]])[] = [
  ['hello', {}, [3]],
  ['irq-lapic-32', { irqchip: 'off', translate: false }, [25]],
  ['irq-lapic-64', { irqchip: 'split' }, [30]],
  ['irq-lapic-32', { irqchip: 'on', memory: 'shadow' }, [20]],
  ['smp-ipi-32', { cpus: 2, memory: 'shadow' }, [40]],
  ['smp-ipi-32', { cpus: 2, irqchip: 'off' }, [60]],
  ['smp-ipi-32', { cpus: 2, irqchip: 'split', machine: { type: 'pc' } }, [50]],
  ['ide-dma', ideDrive, [40, 140]],
  ['e1000', card, [150]],
  ['ad-bits-32', {}, [10]],
  ['hello', { machine: { type: 'microvm' } }, [3]],
  ['virtio-entropy', { devices: [{ type: 'virtio-rng-pci' }] }, [60]],
  ['virtio-balloon', { devices: [{ type: 'virtio-balloon-device' }] }, [80]],
  ['virtio-block', { drives: [{ id: 'd', file: 'given' }], devices: [{ type: 'virtio-blk-pci-non-transitional', drive: 'd', packed: true }] }, [90]],
  ['virtio-console', { devices: [{ type: 'virtio-serial-pci' }, { type: 'virtconsole' }] }, [90]],
];

describe('two futures', () => {
  for (const [payload, config, moments] of FUTURES)
    for (const after of moments)
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

// A field that no table names is what one forgets. The tables stand in the classes that they describe, so the source says whether each field that changes is
// in one.

const CLASSES: readonly (readonly [file: string, classes: readonly string[], besides?: readonly string[]])[] = [
  ['03-vcpu-loop/devices/serial.ts', ['Serial'], ['lost', '#output']],
  ['03-vcpu-loop/devices/debug-exit.ts', ['DebugExit']],
  ['03-vcpu-loop/attention.ts', ['Attention']],
  ['05-pio-mmio/platform/rtc.ts', ['Rtc']],
  ['05-pio-mmio/platform/i8042.ts', ['I8042']],
  ['05-pio-mmio/platform/ps2.ts', ['Outbox', 'Keyboard', 'Mouse']],
  ['05-pio-mmio/platform/fw-cfg.ts', ['FwCfg']],
  ['05-pio-mmio/platform/pm.ts', ['PowerManagement']],
  ['05-pio-mmio/platform/dma8237.ts', ['Controller', 'Dma8237']],
  ['05-pio-mmio/interrupts/pic.ts', ['Pic']],
  ['05-pio-mmio/interrupts/pit.ts', ['Counter', 'Pit']],
  ['05-pio-mmio/interrupts/ioapic.ts', ['IoApic']],
  ['05-pio-mmio/interrupts/lapic.ts', ['LocalApic'], ['x2apicAllowed']],
  ['05-pio-mmio/interrupts/apic-timer.ts', ['ApicTimer']],
  ['05-pio-mmio/interrupts/user-space.ts', ['ApicAttention']],
  ['05-pio-mmio/pci/config-access.ts', ['ConfigPorts']],
  ['05-pio-mmio/pci/lines.ts', ['MovableWire', 'SharedLines']],
  ['05-pio-mmio/ide/channel.ts', ['AtaChannel'], ['#listener']],
  ['05-pio-mmio/ide/bus-master.ts', ['Engine']],
  ['05-pio-mmio/ide/disk.ts', ['AtaDisk']],
  ['05-pio-mmio/ide/cdrom.ts', ['AtapiCdrom']],
  ['05-pio-mmio/e1000/interrupts.ts', ['Causes', 'DelayedCause']],
  ['05-pio-mmio/e1000/phy.ts', ['Phy']],
  ['05-pio-mmio/e1000/eeprom.ts', ['Eeprom']],
  ['05-pio-mmio/e1000/transmit.ts', ['Transmitter']],
  ['05-pio-mmio/e1000/receive.ts', ['Receiver']],
  ['05-pio-mmio/e1000/nic.ts', ['Nic']],
  ['06-virtio-rings/transport/isr.ts', ['IsrStatus']],
  ['06-virtio-rings/devices/balloon-hints.ts', ['BalloonHints'], ['onHint', 'onEnd']],
  ['15-whole-machine/microvm/event-device.ts', ['EventDevice']],
];

describe('a table names every field that changes', () => {
  for (const [file, classes, besides = []] of CLASSES)
    it.each(classes)(`%s of ${file}`, (name) => {
      const source = readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');
      const start = source.search(new RegExp(`^(export )?(abstract )?class ${name}\\b`, 'm'));
      const body = source.slice(start, source.indexOf('\n}', start));
      const table = body.slice(body.search(/^ {2}static readonly STATE/m));
      const changing = [...body.matchAll(/^ {2}(?:protected )?(#?[a-zA-Z]\w*)(?:: [^=(]+?)?(?: = .*)?;/gm)].map(([, field]) => field as string);
      const forgotten = changing.filter((field) => !besides.includes(field) && !new RegExp(`(?<![\\w#])${field.replace('#', '#')}\\b`).test(table));
      expect(body).toContain('static readonly STATE');
      expect(forgotten).toEqual([]);
    });
});
