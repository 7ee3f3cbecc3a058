import { describe, expect, it } from 'vitest';
import { I8042 } from './i8042.ts';

function controller({ mouse = true } = {}) {
  const lines = { keyboard: [] as boolean[], mouse: [] as boolean[] };
  let resets = 0;
  const wire = (levels: boolean[]) => ({
    set: (level: boolean) => {
      if (level !== (levels.at(-1) ?? false)) levels.push(level);
    },
  });
  const i8042 = new I8042({ keyboardIrq: wire(lines.keyboard), mouseIrq: wire(lines.mouse), onReset: () => void resets++, mouse });
  const status = () => Number(i8042.command.read(0, 1));
  const command = (byte: number) => i8042.command.write(0, 1, BigInt(byte));
  const data = (byte: number) => i8042.data.write(0, 1, BigInt(byte));
  const read = () => Number(i8042.data.read(0, 1));
  /** Everything that waits, the mouse's bytes with 0x100 added. */
  const drain = () => {
    const bytes: number[] = [];
    for (let s = status(); s & 1; s = status()) {
      if (bytes.length > 100) throw new Error('it never ends');
      bytes.push(read() + (s & 0x20 ? 0x100 : 0));
    }
    return bytes;
  };
  const ask = (byte: number, ...bytes: number[]) => {
    command(byte);
    for (const value of bytes) data(value);
    return drain();
  };
  const mouseSays = (byte: number) => ask(0xd4, byte).map((value) => value - 0x100);
  return {
    i8042,
    lines,
    status,
    command,
    data,
    read,
    drain,
    ask,
    mouseSays,
    get resets() {
      return resets;
    },
  };
}

describe('the keyboard controller', () => {
  it("satisfies SeaBIOS's setup", () => {
    const { ask, data, drain, i8042, status } = controller();
    expect([ask(0xaa), ask(0xab), status() & 4]).toEqual([[0x55], [0x00], 4]);
    ask(0x60, 0x30); // both off
    ask(0x60, 0x20); // keyboard on, no translation
    const say = (byte: number) => {
      data(byte);
      return drain();
    };
    expect([say(0xff), say(0xf5), say(0xf0), say(0x02), say(0xf4)]).toEqual([[0xfa, 0xaa], [0xfa], [0xfa], [0xfa], [0xfa]]);
    ask(0x60, 0x61); // translation and IRQ 1
    i8042.key([0x1c, 0xf0, 0x1c]);
    expect(drain()).toEqual([0x1e, 0x9e]); // the key A, down and up
  });
  it("satisfies Linux's probe of the mouse port, with its interrupt", () => {
    const { ask, lines, command, data, status, drain } = controller();
    const config = ask(0x20)[0] as number;
    ask(0x60, (config | 0x10) & ~1);
    expect(ask(0xd3, 0x5a)).toEqual([0x15a]);
    command(0xa7);
    expect((ask(0x20)[0] as number) & 0x20).toBe(0x20);
    command(0xa8);
    expect((ask(0x20)[0] as number) & 0x20).toBe(0);
    ask(0x60, ((config | 0x10) & ~0x21) | 0x02);
    expect(lines.mouse.at(-1) ?? false).toBe(false);
    command(0xd3);
    data(0xa5);
    expect([lines.mouse.at(-1), status() & 0x21, drain()]).toEqual([true, 0x21, [0x1a5]]);
    expect(lines.mouse.at(-1)).toBe(false);
    // A controller with a multiplexer would answer the last of these with its version.
    expect([ask(0xd3, 0xf0), ask(0xd3, 0x56), ask(0xd3, 0xa4)]).toEqual([[0x1f0], [0x156], [0x1a4]]);
  });
  it("satisfies Linux's keyboard driver", () => {
    const { ask, data, drain } = controller();
    ask(0x60, 0x01); // no translation
    const say = (byte: number) => {
      data(byte);
      return drain();
    };
    expect(say(0xf2)).toEqual([0xfa, 0xab, 0x83]);
    expect([say(0xed), say(0x00), say(0xf3), say(0x00), say(0xf0), say(0x00)]).toEqual([[0xfa], [0xfa], [0xfa], [0xfa], [0xfa], [0xfa, 0x02]]);
    expect([say(0xee), say(0xf6), say(0xf4), say(0x12)]).toEqual([[0xee], [0xfa], [0xfa], [0xfe]]);
  });
  it('translates answers as well, as it always has', () => {
    const { data, drain, ask } = controller();
    ask(0x60, 0x41);
    data(0xf2);
    expect(drain()).toEqual([0xfa, 0xab, 0x41]);
  });
  it('gives each byte an edge of its own', () => {
    const { i8042, lines, read, ask } = controller();
    ask(0x60, 0x41);
    lines.keyboard.length = 0;
    i8042.key([0x1c, 0xf0, 0x1c]);
    expect(lines.keyboard).toEqual([true]);
    read();
    expect(lines.keyboard).toEqual([true, false, true]);
    read();
    expect(lines.keyboard).toEqual([true, false, true, false]);
    expect(read()).toBe(0x9e); // nothing new: still the old
  });
  it('keeps the bytes of a device that is switched off', () => {
    const { i8042, command, drain, ask } = controller();
    command(0xad);
    i8042.key([0x1c]);
    expect(drain()).toEqual([]);
    expect(ask(0x20)).toEqual([0x53]); // but its own answers come
    command(0xae);
    expect(drain()).toEqual([0x1e]);
  });
  it('puts the keyboard before the mouse', () => {
    const { i8042, mouseSays, drain } = controller();
    mouseSays(0xf4);
    i8042.moveMouse(1, 2, 1);
    i8042.key([0x1c]);
    expect(drain()).toEqual([0x109, 0x1e, 0x101, 0x102]);
  });
  it('resets by a pulse, by the output port and by port 92, and opens the gate by all of its doors', () => {
    const machine = controller();
    const { command, data, i8042, ask } = machine;
    command(0xff); // pulses nothing
    expect(machine.resets).toBe(0);
    for (const pulse of [0xfe, 0xf0, 0xfc]) command(pulse);
    expect(machine.resets).toBe(3);
    command(0xd1);
    data(0xde);
    expect(machine.resets).toBe(4);
    i8042.port92.write(0, 1, 1n);
    expect([machine.resets, i8042.a20]).toEqual([5, false]);
    i8042.port92.write(0, 1, 2n);
    expect([i8042.a20, i8042.port92.read(0, 1)]).toEqual([true, 2n]);
    command(0xd1);
    data(0xdd);
    expect([i8042.a20, ask(0xd0)]).toEqual([false, [0xcd]]);
    command(0xdf);
    expect(i8042.a20).toBe(true);
    expect(machine.resets).toBe(5);
  });
  it('bounds what is queued', () => {
    const { i8042, command, drain } = controller();
    for (let n = 0; n < 1000; n++) i8042.key([0x1c, 0xf0, 0x1c]);
    for (let n = 0; n < 1000; n++) command(0x20);
    expect(drain().length).toBeLessThan(100);
  });
  it('comes back from a reset', () => {
    const { i8042, ask, status, drain } = controller();
    i8042.key([0x1c]);
    ask(0x60, 0x30);
    i8042.reset();
    expect([status(), drain(), ask(0x20)]).toEqual([0x18, [], [0x43]]);
  });
});

describe('the mouse', () => {
  it('introduces itself, and shows a wheel to those who knock', () => {
    const { mouseSays, i8042, drain } = controller();
    expect([mouseSays(0xff), mouseSays(0xf2)]).toEqual([
      [0xfa, 0xaa, 0x00],
      [0xfa, 0x00],
    ]);
    for (const rate of [200, 100, 80]) expect([mouseSays(0xf3), mouseSays(rate)]).toEqual([[0xfa], [0xfa]]);
    expect(mouseSays(0xf2)).toEqual([0xfa, 0x03]);
    expect(mouseSays(0xe9)).toEqual([0xfa, 0x00, 0x02, 80]);
    mouseSays(0xf4);
    i8042.moveMouse(-3, 5, 4);
    expect(drain()).toEqual([0x11c, 0x1fd, 0x105, 0x100]);
  });
  it('is silent until it is enabled, and in remote mode until it is asked', () => {
    const { mouseSays, i8042, drain } = controller();
    i8042.moveMouse(1, 1, 0);
    expect(drain()).toEqual([]);
    mouseSays(0xf0);
    mouseSays(0xf4);
    i8042.moveMouse(300, -300, 0);
    expect(drain()).toEqual([]);
    expect(mouseSays(0xeb)).toEqual([0xfa, 0x28, 0xff, 0x00]);
  });
  it('repeats in wrap mode, and nothing answers where none is', () => {
    const { mouseSays } = controller();
    mouseSays(0xee);
    expect([mouseSays(0xf4), mouseSays(0x12), mouseSays(0xec), mouseSays(0x12)]).toEqual([[0xf4], [0x12], [0xfa], [0xfe]]);
    expect(controller({ mouse: false }).mouseSays(0xff)).toEqual([]);
  });
});
