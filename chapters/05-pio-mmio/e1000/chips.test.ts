import { describe, expect, it } from 'vitest';
import { CHECKSUM, Eeprom } from './eeprom.ts';
import { MAC, rig } from './laboratory.ts';
import { CAUSE, CTRL, EECD } from './registers.ts';

describe('EEPROM', () => {
  it('adds up, and holds the address', () => {
    const eeprom = new Eeprom(MAC);
    expect(eeprom.words.reduce((sum, word) => (sum + word) & 0xffff, 0)).toBe(CHECKSUM);
    expect(eeprom.mac).toEqual(MAC);
  });

  it('is read a word at a time', () => {
    const { read, write } = rig();
    const words = [0, 1, 2].map((word) => {
      write('EERD', (word << 8) | 1);
      expect(read('EERD') & 0x10).toBe(0x10);
      return read('EERD') >>> 16;
    });
    expect(words).toEqual([0x5452, 0x1200, 0x5634]);
  });

  const wires = ({ read, write }: ReturnType<typeof rig>) => {
    const shift = (value: number, bits: number): number => {
      let out = 0;
      for (let bit = bits - 1; bit >= 0; bit--) {
        const base = EECD.REQ | EECD.CS | ((value >> bit) & 1 ? EECD.DI : 0);
        write('EECD', base);
        write('EECD', base | EECD.SK);
        out = (out << 1) | (read('EECD') & EECD.DO ? 1 : 0);
        write('EECD', base);
      }
      return out;
    };
    const command = (operation: number, address: number): void => {
      write('EECD', EECD.REQ | EECD.CS);
      shift(operation, 3);
      shift(address, 6);
    };
    const end = (): void => write('EECD', EECD.REQ);
    return { shift, command, end };
  };

  it('is read by its wires, all of it', () => {
    const r = rig();
    r.write('EECD', EECD.REQ);
    expect(r.read('EECD') & EECD.GNT).toBe(EECD.GNT);
    const { shift, command, end } = wires(r);
    const words = Array.from({ length: 64 }, (_, address) => {
      command(0b110, address);
      const word = shift(0, 16);
      end();
      return word;
    });
    expect(words).toEqual([...new Eeprom(MAC).words]);
    command(0b110, 0);
    expect([shift(0, 16), shift(0, 16)]).toEqual([0x5452, 0x1200]); // one command, word after word
    end();
  });

  it('is written only after writing was enabled', () => {
    const r = rig();
    const { shift, command, end } = wires(r);
    const store = (value: number): void => {
      command(0b101, 5);
      shift(value, 16);
      end();
    };
    const load = (): number => {
      r.write('EERD', (5 << 8) | 1);
      return r.read('EERD') >>> 16;
    };
    store(0x1234);
    expect(load()).toBe(0);
    command(0b100, 0b110000);
    end();
    store(0x1234);
    expect(load()).toBe(0x1234);
    command(0b100, 0b000000);
    end();
    store(0x5678);
    expect(load()).toBe(0x1234);
  });
});

describe('PHY and link', () => {
  const mdic = ({ read, write }: ReturnType<typeof rig>, operation: number, register: number, data = 0, phy = 1): number => {
    write('MDIC', (operation << 26) | (phy << 21) | (register << 16) | data);
    return read('MDIC');
  };

  it('identifies itself, and only at its own address', () => {
    const r = rig();
    expect(mdic(r, 2, 2)).toBe((0x1000_0000 | (2 << 26) | (1 << 21) | (2 << 16) | 0x0141) >>> 0);
    expect(mdic(r, 2, 3) & 0xfff0).toBe(0x0c20);
    expect(mdic(r, 2, 2, 0, 2) & 0x5000_0000).toBe(0x5000_0000);
    expect(mdic(r, 2, 25) & 0x4000_0000).toBe(0x4000_0000);
  });

  it('negotiates again when told, and says that the link was lost', () => {
    const r = rig();
    r.write('IMS', CAUSE.LSC);
    expect(mdic(r, 2, 1) & 0x24).toBe(0x24);
    mdic(r, 1, 0, 0x1340);
    expect(r.read('STATUS') & 2).toBe(0);
    expect(r.read('ICR')).toBe(CAUSE.LSC);
    expect(mdic(r, 2, 1) & 0x24).toBe(0);
    r.settle();
    expect(r.line).toEqual([true, false, true]);
    expect(mdic(r, 2, 0) & 0x8200).toBe(0);
    expect(mdic(r, 2, 1) & 0x24).toBe(0x20); // latched low until read
    expect(mdic(r, 2, 1) & 0x24).toBe(0x24);
    expect(r.read('STATUS') & 0x83).toBe(0x83);
    expect(mdic(r, 2, 17) & 0xec00).toBe(0xac00);
  });

  it('is up only when the driver has set SLU', () => {
    const r = rig({ up: false });
    expect(r.read('STATUS') & 2).toBe(0);
    r.write('CTRL', CTRL.SLU);
    expect(r.read('STATUS') & 2).toBe(2);
    expect(r.read('ICR')).toBe(CAUSE.LSC);
  });
});
