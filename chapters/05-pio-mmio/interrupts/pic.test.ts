import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KvmPicState } from '../../02-kvm-objects/abi/irqchip.ts';
import { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { Pic } from './pic.ts';

/** One thing done to the chips, or one thing that must be so. */
type Step =
  | readonly ['out', port: number, ...values: number[]]
  | readonly ['in', port: number, expected: number]
  | readonly ['irq', irq: number, level: 0 | 1, status?: number]
  | readonly ['pulse', ...irqs: number[]]
  | readonly ['ack', vector: number]
  | readonly ['output', level: boolean]
  | readonly ['ended', ...irqs: number[]];

/** As Linux and SeaBIOS initialize them: vectors 0x20 and 0x28, cascade on 2, nothing masked. */
// biome-ignore format: table
const INIT: Step[] = [
  ['out', 0x20, 0x11], ['out', 0x21, 0x20, 0x04, 0x01], ['out', 0xa0, 0x11], ['out', 0xa1, 0x28, 0x02, 0x01], ['out', 0x21, 0], ['out', 0xa1, 0],
];
const MASTER = 0x20;
const SLAVE = 0xa0;
const EOI = 0x20;
const READ_IRR = 0x0a;
const READ_ISR = 0x0b;
const POLL = 0x0c;

// biome-ignore format: table
const SCENARIOS: Record<string, Step[]> = {
  'an edge requests once, and not again while the line stays up': [
    ['irq', 3, 1, 1], ['output', true], ['ack', 0x23], ['output', false], ['irq', 3, 1, 1], ['output', false], ['out', MASTER, EOI], ['output', false],
    ['irq', 3, 0, 1], ['irq', 3, 1, 1], ['output', true]],
  'a second edge before the acknowledge is coalesced': [
    ['irq', 3, 1, 1], ['irq', 3, 0, 1], ['irq', 3, 1, 0], ['ack', 0x23], ['out', MASTER, EOI], ['output', false]],
  'a masked input latches its edge and says that it is masked': [
    ['out', 0x21, 0x08], ['irq', 3, 1, -1], ['output', false], ['out', MASTER, READ_IRR], ['in', MASTER, 0x08], ['out', 0x21, 0], ['output', true], ['ack', 0x23]],
  'a level asks again after the end of interrupt for as long as it is up': [
    ['out', 0x4d0, 0x20], ['irq', 5, 1, 1], ['ack', 0x25], ['output', false], ['irq', 5, 1, 0], ['out', MASTER, EOI], ['output', true], ['ack', 0x25],
    ['irq', 5, 0, 1], ['out', MASTER, EOI], ['output', false]],
  'a level that goes away before the acknowledge is spurious, with nothing in service': [
    ['out', 0x4d0, 0x20], ['irq', 5, 1], ['output', true], ['irq', 5, 0], ['output', false], ['ack', 0x27], ['out', MASTER, READ_ISR], ['in', MASTER, 0]],
  'a spurious interrupt of the second chip puts the cascade in service': [
    ['out', 0x4d1, 0x02], ['irq', 9, 1], ['irq', 9, 0], ['output', true], ['ack', 0x2f], ['out', MASTER, READ_ISR, ], ['in', MASTER, 0x04],
    ['out', SLAVE, READ_ISR], ['in', SLAVE, 0], ['ended'], ['out', MASTER, EOI], ['ended', 2]],
  'the timer, keyboard, cascade, clock and coprocessor stay edge-triggered': [
    ['out', 0x4d0, 0xff, ], ['in', 0x4d0, 0xf8], ['out', 0x4d1, 0xff], ['in', 0x4d1, 0xde]],
  'input 0 outranks the others, and the second chip comes in at 2': [
    ['pulse', 7, 1, 12, 0], ['ack', 0x20], ['out', MASTER, EOI], ['ack', 0x21], ['out', MASTER, EOI], ['ack', 0x2c], ['out', SLAVE, EOI], ['out', MASTER, EOI],
    ['ack', 0x27], ['ended', 0, 1, 12, 2]],
  'a busy input keeps lower ones away, and lets higher ones through': [
    ['pulse', 4], ['ack', 0x24], ['pulse', 6], ['output', false], ['pulse', 1], ['output', true], ['ack', 0x21], ['out', MASTER, READ_ISR], ['in', MASTER, 0x12],
    ['out', MASTER, EOI], ['in', MASTER, 0x10], ['output', false], ['out', MASTER, EOI], ['output', true], ['ack', 0x26]],
  'a specific end of interrupt ends what it names': [
    ['pulse', 4], ['ack', 0x24], ['pulse', 1], ['ack', 0x21], ['out', MASTER, 0x64], ['out', MASTER, READ_ISR], ['in', MASTER, 0x02]],
  'an end of interrupt with nothing in service does nothing': [['out', MASTER, EOI], ['ended']],
  'a rotating end of interrupt makes the ended one last': [
    ['pulse', 4], ['ack', 0x24], ['out', MASTER, 0xa0], ['pulse', 4, 5], ['ack', 0x25], ['out', MASTER, EOI], ['ack', 0x24]],
  'a rotating specific end of interrupt': [['pulse', 4], ['ack', 0x24], ['out', MASTER, 0xe4], ['pulse', 4, 5], ['ack', 0x25]],
  'set priority': [['out', MASTER, 0xc2], ['pulse', 1, 3, 7], ['ack', 0x23], ['out', MASTER, EOI], ['ack', 0x27], ['out', MASTER, EOI], ['ack', 0x21]],
  'automatic end of interrupt': [
    ['out', MASTER, 0x11], ['out', 0x21, 0x20, 4, 3], ['out', 0x21, 0], ['pulse', 3], ['ack', 0x23], ['ended', 3], ['out', MASTER, READ_ISR], ['in', MASTER, 0],
    ['pulse', 4], ['output', true]],
  'automatic end of interrupt with rotation': [
    ['out', MASTER, 0x11], ['out', 0x21, 0x20, 4, 3], ['out', 0x21, 0], ['out', MASTER, 0x80], ['pulse', 3], ['ack', 0x23], ['pulse', 3, 4],
    ['ack', 0x24], ['ack', 0x23],
    ['out', MASTER, 0x00], ['pulse', 0, 5], ['ack', 0x25], ['pulse', 5], ['ack', 0x25], ['ack', 0x20]],
  'special mask mode: a masked handler lets lower ones through': [
    ['pulse', 2 + 1], ['ack', 0x23], ['pulse', 5], ['out', 0x21, 0x08], ['output', false], ['out', MASTER, 0x68], ['output', true], ['ack', 0x25],
    ['out', MASTER, EOI], ['out', MASTER, READ_ISR], ['in', MASTER, 0x08], ['out', MASTER, EOI], ['in', MASTER, 0x08], ['out', MASTER, 0x63], ['in', MASTER, 0],
    ['out', MASTER, 0x48]],
  'special fully nested mode: the second chip may interrupt itself': [
    ['out', MASTER, 0x11], ['out', 0x21, 0x20, 4, 0x11], ['out', 0x21, 0], ['pulse', 12], ['ack', 0x2c], ['pulse', 9], ['output', true], ['ack', 0x29]],
  'without it, it may not': [['pulse', 12], ['ack', 0x2c], ['pulse', 9], ['output', false], ['out', SLAVE, EOI], ['out', MASTER, EOI], ['output', true]],
  'a poll acknowledges': [
    ['pulse', 5], ['out', MASTER, POLL], ['in', MASTER, 0x85], ['output', false], ['out', MASTER, READ_ISR], ['in', MASTER, 0x20], ['out', MASTER, EOI],
    ['out', MASTER, POLL], ['in', MASTER, 0x00]],
  'a poll is answered on the data port as well, once': [['out', 0x21, 0x40], ['pulse', 5], ['out', MASTER, POLL], ['in', 0x21, 0x85], ['in', 0x21, 0x40]],
  'a poll of the second chip leaves nothing behind in the first': [['pulse', 12], ['output', true], ['out', SLAVE, POLL], ['in', SLAVE, 0x84], ['output', false]],
  'ICW1 clears the mask, edges and rotation, and the read pointer': [
    ['out', 0x21, 0xff], ['out', MASTER, 0xc2], ['out', MASTER, READ_ISR], ['pulse', 6], ['out', MASTER, 0x11], ['in', MASTER, 0],
    ['out', 0x21, 0x40, 4, 1], ['in', 0x21, 0],
    ['output', false], ['pulse', 1, 3], ['ack', 0x41]],
  'ICW1 needs the edge again: a line that is up counts as one': [
    ['irq', 6, 1], ['ack', 0x26], ['out', MASTER, 0x11], ['out', 0x21, 0x40, 4, 1], ['irq', 6, 1], ['ack', 0x46]],
  'without ICW4 the sequence is three words, and its functions are off': [
    ['out', MASTER, 0x11], ['out', 0x21, 0x20, 4, 3], ['out', MASTER, 0x10], ['out', 0x21, 0x30, 4], ['out', 0x21, 0xfe], ['in', 0x21, 0xfe],
    ['pulse', 0], ['ack', 0x30],
    ['out', MASTER, READ_ISR], ['in', MASTER, 0x01]],
  'the low three bits of a vector base are the input': [['out', MASTER, 0x11], ['out', 0x21, 0x2f, 4, 1], ['pulse', 1], ['ack', 0x29]],
  'OCW2 2 is no operation': [['pulse', 4], ['ack', 0x24], ['out', MASTER, 0x40], ['out', MASTER, READ_ISR], ['in', MASTER, 0x10]],
  'OCW3 without its enable bits changes nothing': [['out', MASTER, READ_ISR], ['out', MASTER, 0x08], ['pulse', 4], ['ack', 0x24], ['in', MASTER, 0x10]],
  'inputs that do not exist': [['irq', 16, 1, -1], ['irq', -1, 1, -1], ['output', false]],
};

function bench() {
  const ended: number[] = [];
  const seen: boolean[] = [];
  const pic = new Pic({ onOutput: (level) => seen.push(level), onEoi: (irq) => ended.push(irq) });
  const ports = new Bus('ports');
  for (const { port, bytes, registers } of pic.ports) ports.attach(port, bytes, registers);
  const read = (port: number): number => Number(ports.read(port, 1));
  const write = (port: number, value: number): void => ports.write(port, 1, BigInt(value));
  const run = (steps: readonly Step[]): void => {
    steps.forEach((step, index) => {
      const at = `step ${index}: ${JSON.stringify(step)}`;
      switch (step[0]) {
        case 'out':
          for (const value of step.slice(2) as number[]) write(step[1], value);
          break;
        case 'in':
          expect(read(step[1]), at).toBe(step[2]);
          break;
        case 'irq': {
          const status = pic.setIrq(step[1], step[2] === 1);
          if (step[3] !== undefined) expect(status, at).toBe(step[3]);
          break;
        }
        case 'pulse':
          for (const irq of step.slice(1) as number[]) {
            pic.setIrq(irq, true);
            pic.setIrq(irq, false);
          }
          break;
        case 'ack':
          expect(pic.acknowledge(), at).toBe(step[1]);
          break;
        case 'output':
          expect(pic.output, at).toBe(step[1]);
          break;
        default:
          expect(ended, at).toEqual(step.slice(1));
          ended.length = 0;
      }
    });
  };
  return { pic, ports, read, write, run, seen, ended };
}

describe('the 8259s', () => {
  it.each(Object.entries(SCENARIOS))('%s', (_, steps) => {
    const { run } = bench();
    run(INIT);
    run(steps);
  });

  it('tells of changes of its output, and only of changes', () => {
    const { run, seen } = bench();
    run([...INIT, ['pulse', 3, 4], ['ack', 0x23], ['pulse', 5], ['out', MASTER, EOI]]);
    expect(seen).toEqual([true, false, true]);
  });

  it('takes wide accesses apart', () => {
    const { ports, run } = bench();
    run(INIT);
    ports.write(0x20, 2, 0x5a_0bn);
    expect(ports.read(0x20, 2)).toBe(0x5a_00n);
  });

  it('saves and loads what it is', () => {
    const { pic, run } = bench();
    run([...INIT, ['out', 0x4d1, 0x08], ['out', 0x21, 0xb8], ['pulse', 1, 0], ['irq', 11, 1], ['ack', 0x20], ['out', MASTER, 0xc5]]);
    expect(KvmPicState.decode(pic.save(0))).toMatchObject({
      irr: 0x06,
      imr: 0xb8,
      isr: 0x01,
      priority_add: 6,
      irq_base: 0x20,
      elcr_mask: 0xf8,
      init4: 1,
    });
    expect(KvmPicState.decode(pic.save(1))).toMatchObject({ irr: 0x08, last_irr: 0x08, elcr: 0x08, irq_base: 0x28, elcr_mask: 0xde });
    const other = bench();
    other.pic.load(0, pic.save(0));
    other.pic.load(1, pic.save(1));
    expect([other.pic.save(0), other.pic.save(1), other.pic.output]).toEqual([pic.save(0), pic.save(1), pic.output]);
    pic.reset();
    expect(pic.save(0)).toEqual(KvmPicState.encode({ elcr_mask: 0xf8 }));
  });

  it('cuts a foreign state to what the chip can hold', () => {
    const { pic, write, read } = bench();
    pic.load(0, new Uint8Array(16).fill(0xff));
    expect(KvmPicState.decode(pic.save(0))).toMatchObject({ priority_add: 7, init_state: 3, poll: 1, elcr: 0xf8, elcr_mask: 0xf8 });
    expect(pic.acknowledge()).toBeLessThan(0x107);
    write(0x21, 0);
    read(0x20);
    expect(() => pic.load(0, new Uint8Array(15))).toThrow(RangeError);
  });

  // Whatever is written: a vector is a byte, the output is what the registers say, and nothing in service outranks what is offered.
  it('keeps its promises under random programs', () => {
    const step = fc.tuple(fc.constantFrom(0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, -1, -2, -3), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const { pic, read, write } = bench();
        for (const [what, value] of steps) {
          if (what >= 0) value & 1 ? write(what, value) : read(what);
          else if (what === -1) pic.setIrq(value & 15, value > 127);
          else if (pic.output || what === -3) {
            const vector = pic.acknowledge();
            expect(vector >= 0 && vector <= 0xff).toBe(true);
          }
          const { irr, imr } = KvmPicState.decode(pic.save(0));
          if (pic.output) expect(irr & ~imr).not.toBe(0);
        }
      }),
      { numRuns: 300, seed: 8259 },
    );
  });
});
