import { describe, expect, it } from 'vitest';
import { Dma8237 } from './dma8237.ts';

describe('the old DMA controllers', () => {
  it('hold two bytes a register, one after the other', () => {
    const { low } = new Dma8237();
    low.write(0x0c, 1, 0n);
    low.write(0x04, 1, 0x34n);
    low.write(0x04, 1, 0x12n);
    low.write(0x05, 1, 0x78n);
    low.write(0x05, 1, 0x56n);
    expect([0x04, 0x04, 0x05, 0x05, 0x06].map((port) => low.read(port, 1))).toEqual([0x34n, 0x12n, 0x78n, 0x56n, 0n]);
    low.write(0x0c, 1, 0n); // after one byte of the third channel: begin anew
    expect(low.read(0x04, 1)).toBe(0x34n);
  });
  it('mask channels one by one and together', () => {
    const { low } = new Dma8237();
    expect(low.read(0x0f, 1)).toBe(0x0fn);
    low.write(0x0a, 1, 0x02n);
    expect(low.read(0x0f, 1)).toBe(0x0bn);
    low.write(0x0e, 1, 0n);
    low.write(0x0a, 1, 0x05n);
    expect(low.read(0x0f, 1)).toBe(0x02n);
    low.write(0x0d, 1, 0n);
    expect(low.read(0x0f, 1)).toBe(0x0fn);
  });
  it('have the second chip two ports apart', () => {
    const { high } = new Dma8237();
    high.write(0x1e, 1, 0x05n);
    expect([high.read(0x1e, 1), high.read(0x1f, 1)]).toEqual([0x05n, 0xffn]);
  });
  it('have page registers, of which one shows how far the firmware is', () => {
    const dma = new Dma8237();
    dma.pages.write(7, 1, 0x5an);
    for (let n = 0; n < 5000; n++) dma.pages.write(0, 1, BigInt(n & 0xff));
    expect([dma.pages.read(7, 1), dma.pages.read(0, 1)]).toEqual([0x5an, BigInt(4999 & 0xff)]);
    expect([dma.postCodes.length, dma.postCodes.at(-1)]).toEqual([4096, 4999 & 0xff]);
  });
});
