import { describe, expect, it } from 'vitest';
import { E820, e820File, FW_CFG, FwCfg } from './fw-cfg.ts';

const RAM_BYTES = 1 << 16;
const bytes = (text: string) => Uint8Array.from(text, (char) => char.charCodeAt(0));

function box({ dma = true } = {}) {
  const ram = new Uint8Array(RAM_BYTES);
  const writes: number[] = [];
  const memory = {
    read: (gpa: number, into: Uint8Array) => {
      if (gpa + into.length > RAM_BYTES) return false;
      into.set(ram.subarray(gpa, gpa + into.length));
      return true;
    },
    write: (gpa: number, from: Uint8Array) => {
      if (gpa + from.length > RAM_BYTES) return false;
      writes.push(gpa);
      ram.set(from, gpa);
      return true;
    },
  };
  const fwCfg = new FwCfg({ memory: dma ? memory : null });
  const select = (selector: number) => fwCfg.write(0, 2, BigInt(selector));
  const take = (count: number) => Array.from({ length: count }, () => Number(fwCfg.read(1, 1)));
  const text = (bytes: readonly number[]) => String.fromCharCode(...bytes);
  /** Runs one transfer; returns the control word afterwards. */
  const transfer = (control: number, length: number, gpa: number, at = 0x100) => {
    const view = new DataView(ram.buffer);
    view.setUint32(at, control);
    view.setUint32(at + 4, length);
    view.setBigUint64(at + 8, BigInt(gpa));
    writes.length = 0;
    const swapped = new DataView(new ArrayBuffer(4));
    swapped.setUint32(0, at);
    fwCfg.write(8, 4, BigInt(swapped.getUint32(0, true)));
    return view.getUint32(at);
  };
  return { fwCfg, ram, writes, select, take, text, transfer };
}

const [ERROR, READ, SKIP, SELECT, WRITE] = [1, 2, 4, 8, 16];
const choose = (selector: number) => selector * 65_536 + SELECT;

describe('fw_cfg by ports', () => {
  it('says who it is', () => {
    const { select, take, text, fwCfg } = box();
    expect(text(take(4))).toBe('QEMU'); // selected from the start
    select(FW_CFG.ID);
    expect(take(4)).toEqual([3, 0, 0, 0]);
    expect([fwCfg.read(4, 4), fwCfg.read(8, 4)]).toEqual([0x554d4551n, 0x47464320n]); // "QEMU CFG"
  });
  it('has no DMA without memory', () => {
    const { select, take, fwCfg } = box({ dma: false });
    select(FW_CFG.ID);
    expect(take(4)).toEqual([1, 0, 0, 0]);
    expect(fwCfg.read(4, 4)).toBe(0xffff_ffffn);
    fwCfg.write(8, 4, 0n);
  });
  it('gives bytes in order, then zeros; an item that nobody made is empty', () => {
    const { fwCfg, select, take } = box();
    fwCfg.addU16(FW_CFG.NB_CPUS, 0x1234);
    select(FW_CFG.NB_CPUS);
    expect(take(4)).toEqual([0x34, 0x12, 0, 0]);
    select(FW_CFG.NB_CPUS | 0x4000); // the bit that once meant writing
    expect(take(2)).toEqual([0x34, 0x12]);
    select(0x3fff);
    expect(take(2)).toEqual([0, 0]);
  });
  it('ignores writes to the data port, and to the selector in another width', () => {
    const { fwCfg, take, text } = box();
    fwCfg.write(1, 1, 0x55n);
    fwCfg.write(0, 1, 1n);
    fwCfg.write(0, 4, 1n);
    expect(text(take(4))).toBe('QEMU');
  });
  it('lists its files by name, big-endian', () => {
    const { fwCfg, select, take, text } = box();
    fwCfg.addFile('etc/b', new Uint8Array(300));
    fwCfg.addFile('etc/a', bytes('x\0'));
    select(FW_CFG.FILE_DIR);
    expect(take(4)).toEqual([0, 0, 0, 2]);
    for (const [name, size, selector] of [
      ['etc/a', [0, 0, 0, 2], 0x21],
      ['etc/b', [0, 0, 1, 44], 0x20],
    ] as const) {
      expect([take(4), take(4), text(take(56)).replace(/\0+$/, '')]).toEqual([size, [0, selector, 0, 0], name]);
    }
    fwCfg.addFile('etc/a', bytes('again\0'));
    select(0x21);
    expect(text(take(6))).toBe('again\0');
    expect(fwCfg.fileNames.length).toBe(2);
  });
  it('refuses names and numbers that no directory can hold', () => {
    const { fwCfg } = box();
    for (const name of ['', 'x'.repeat(56), 'ä', 'a\n']) expect(() => fwCfg.addFile(name, new Uint8Array(1))).toThrow(RangeError);
    fwCfg.addFile('x'.repeat(55), new Uint8Array(1));
    for (const selector of [-1, 0x20, 0x4001, 0xc000, 0x10000]) expect(() => fwCfg.add(selector, new Uint8Array(1))).toThrow(RangeError);
    for (let n = 1; n < 256; n++) fwCfg.addFile(`f${n}`, new Uint8Array(1));
    expect(() => fwCfg.addFile('one too many', new Uint8Array(1))).toThrow(RangeError);
  });
});

describe('fw_cfg by DMA', () => {
  it('selects and reads in one go, and says that it is done last', () => {
    const { ram, transfer, text, writes } = box();
    expect(transfer(choose(FW_CFG.SIGNATURE) | READ, 4, 0x200)).toBe(0);
    expect(text([...ram.subarray(0x200, 0x204)])).toBe('QEMU');
    expect(writes).toEqual([0x200, 0x100]);
  });
  it('goes on where it was, skips, and pads with zeros', () => {
    const { fwCfg, ram, transfer } = box();
    fwCfg.addFile('f', Uint8Array.from([1, 2, 3, 4, 5, 6]));
    ram.fill(0xee, 0x200, 0x210);
    expect(transfer(choose(0x20), 0, 0)).toBe(0);
    expect(transfer(READ, 2, 0x200)).toBe(0);
    expect(transfer(SKIP, 2, 0)).toBe(0);
    expect(transfer(READ, 4, 0x202)).toBe(0);
    expect([...ram.subarray(0x200, 0x207)]).toEqual([1, 2, 5, 6, 0, 0, 0xee]);
    expect(transfer(SKIP, 0xffff_ffff, 0)).toBe(0);
    expect(transfer(READ, 1, 0x200)).toBe(0);
    expect(ram[0x200]).toBe(0);
  });
  it('writes only what may be written, whole or not at all', () => {
    const { fwCfg, ram, transfer } = box();
    let told = 0;
    const file = new Uint8Array(4);
    fwCfg.addFile('rw', file, { writable: true, written: () => void told++ });
    fwCfg.addFile('ro', new Uint8Array(4));
    ram.set([9, 8, 7, 6, 5], 0x200);
    expect(transfer(choose(0x20) | WRITE, 5, 0x200)).toBe(ERROR);
    expect([[...file], told]).toEqual([[0, 0, 0, 0], 0]);
    expect(transfer(choose(0x20) | WRITE, 3, 0x200)).toBe(0);
    expect([[...file], told]).toEqual([[9, 8, 7, 0], 1]);
    expect(transfer(WRITE, 2, 0x200)).toBe(ERROR); // one byte is left
    expect(transfer(WRITE, 1, 0x203)).toBe(0);
    expect([...file]).toEqual([9, 8, 7, 6]);
    expect(transfer(choose(0x21) | WRITE, 1, 0x200)).toBe(ERROR);
    expect(transfer(choose(FW_CFG.FILE_DIR) | WRITE, 1, 0x200)).toBe(ERROR);
  });
  it('reports memory that is not there', () => {
    const { transfer, fwCfg, ram } = box();
    expect(transfer(choose(FW_CFG.SIGNATURE) | READ, 4, RAM_BYTES - 2)).toBe(ERROR);
    expect(transfer(choose(FW_CFG.SIGNATURE) | READ, 4, 2 ** 63)).toBe(ERROR);
    const before = ram.slice();
    fwCfg.write(8, 4, 0xffff_ffffn); // the request itself is nowhere
    fwCfg.write(4, 4, 0xffff_ffffn);
    fwCfg.write(8, 4, 0n);
    fwCfg.write(4, 8, 0xffff_ffff_ffff_ffffn);
    expect(ram).toEqual(before);
  });
  it('does not fill memory for a guest that asks for too much', () => {
    const { transfer, writes } = box();
    expect(transfer(choose(FW_CFG.SIGNATURE) | READ, 0xffff_ffff, 0)).toBe(ERROR);
    expect(writes).toEqual([0x100]);
  });
  it('takes an address of 64 bits in halves or whole', () => {
    const { fwCfg, ram, transfer } = box();
    transfer(choose(FW_CFG.ID) | READ, 4, 0x300); // leaves a request at 0x100 that has been obeyed
    const view = new DataView(ram.buffer);
    const again = (start: () => void) => {
      ram.fill(0, 0x300, 0x304);
      view.setUint32(0x100, choose(FW_CFG.ID) | READ);
      start();
      return ram[0x300];
    };
    expect(again(() => fwCfg.write(4, 8, 0x0001_0000_0000_0000n))).toBe(3);
    expect(
      again(() => {
        fwCfg.write(4, 4, 0x0100_0000n); // bit 32
        fwCfg.write(8, 4, 0x0001_0000n);
      }),
    ).toBe(0);
    expect(again(() => fwCfg.write(8, 4, 0x0001_0000n))).toBe(3); // the upper half counts for one transfer
  });
});

describe('what firmware reads', () => {
  it('has the forms it expects', () => {
    expect([...e820File([{ gpa: 0x1_0000_0000, bytes: 0x1000, type: E820.RESERVED }])]).toEqual([
      ...[0, 0, 0, 0, 1, 0, 0, 0],
      ...[0, 0x10, 0, 0, 0, 0, 0, 0],
      ...[2, 0, 0, 0],
    ]);
  });
});
