// The machine as a whole, with its interrupt controllers in each of the three places: time, sleep, input, reset, the end.

import { afterEach, describe, expect, it } from 'vitest';
import { ARCH_CAPABILITIES } from '../../01-hardware-background/system/msrs.ts';
import type { Board } from '../../03-vcpu-loop/board.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { completeConfig, type MachineConfig } from './config.ts';
import './devices.ts';
import { Pc } from './pc.ts';
import { machineKernel } from './soft-machine.ts';

const code = (text: string): Uint8Array => Uint8Array.from(text.split(/\s+/).filter(Boolean), (pair) => Number.parseInt(pair, 16));
const HANDLER = 0x1200;

/** Real mode at 0x1000. The 8259s at 0x20 and 0x28, all masked but `lines`; an IVT entry that leads to {@link HANDLER}. */
const setUp = (line: number): string => {
  const master = (line < 8 ? ~(1 << line) : 0xfb) & 0xff;
  const slave = (line < 8 ? 0xff : ~(1 << (line - 8))) & 0xff;
  const vector = line < 8 ? 0x20 + line : 0x28 + line - 8;
  const out = (port: number, value: number): string => `b0 ${value.toString(16)} e6 ${port.toString(16)} `;
  return `${out(0x20, 0x11)}${out(0x21, 0x20)}${out(0x21, 4)}${out(0x21, 1)}${out(0xa0, 0x11)}${out(0xa1, 0x28)}${out(0xa1, 2)}${out(0xa1, 1)}
    ${out(0x21, master)}${out(0xa1, slave)}
    c7 06 ${((vector * 4) & 0xff).toString(16)} 00 00 12 c7 06 ${((vector * 4 + 2) & 0xff).toString(16)} 00 00 00`;
};
const PIT = 'b0 34 e6 43 b0 00 e6 40 b0 10 e6 40'; // channel 0, mode 2, every 4096 ticks
const SLEEP = 'fb f4 eb fd';
const EOI_RETURN = 'b0 20 e6 20 cf';

for (const irqchip of ['on', 'split', 'off'] as const) {
  describe(`a PC with its interrupt controllers in the kernel: ${irqchip}`, () => {
    let machine: Board<Pc> | null = null;
    const boot = (program: string, handler = '', config: MachineConfig = {}): { pc: Pc; machine: Machine<Pc> } => {
      const complete = completeConfig({ kernel: 'test', memoryMiB: 2, serial: ['null'], reboot: false, irqchip, ...config });
      const kernel = machineKernel({ ...complete });
      const pc = new Pc({ kernel, config: complete });
      const made = new Machine(pc.board);
      machine = made;
      const image = new Uint8Array(0x400);
      image.set(code(program));
      image.set(code(handler), HANDLER - 0x1000);
      made.load(image, { door: 'flat', ...pc.handover });
      return { pc, machine: made };
    };
    afterEach(() => {
      machine?.dispose();
      machine = null;
    });

    it('wakes from HLT by its timer, and time flies meanwhile', () => {
      // Three ticks of 4096 / 1.193182 MHz, then leave.
      const { pc, machine } = boot(
        `${setUp(0)} ${PIT} ${SLEEP}`,
        `fe 06 00 06 80 3e 00 06 03 75 06 b0 07 e6 f4 f4 90 ${EOI_RETURN}`.replace('75 06', '75 06'),
      );
      const result = machine.run();
      expect(result).toMatchObject({ end: 'debug-exit', exitCode: 15 });
      expect(pc.kernel.clock.now()).toBeGreaterThan((3 * 4096 * 1e9) / 1_193_182);
      expect(pc.kernel.clock.now()).toBeLessThan((4 * 4096 * 1e9) / 1_193_182);
    });
    it('ends when everything sleeps and nothing will happen, interrupts on or off', () => {
      expect(boot('fb f4 eb fd').machine.run()).toMatchObject({ end: 'halt' });
      machine?.dispose();
      expect(boot('fa f4 eb fd').machine.run()).toMatchObject({ end: 'halt' });
    });
    it('ends on two processors of which the second was never started', () => {
      expect(boot('fa f4 eb fd', '', { cpus: 2 }).machine.run()).toMatchObject({ end: 'halt' });
    });
    it('sleeps with interrupts off while a timer runs, and ends', () => {
      expect(boot(`${setUp(0)} ${PIT} fa f4 eb fd`).machine.run({ exits: 1000 })).toMatchObject({ end: 'halt' });
    });

    // The receiver's interrupt, OUT2 set: mov dx,0x3f9; mov al,1; out; mov dx,0x3fc; mov al,8; out.
    const LISTEN = `${setUp(4)} ba f9 03 b0 01 ee ba fc 03 b0 08 ee ${SLEEP}`;
    const HEAR = 'ba f8 03 ec e6 f4 f4';
    it('wakes by what comes in at the serial port', () => {
      const { pc, machine } = boot(LISTEN, HEAR);
      pc.serials[0]?.send([0x21]);
      expect(machine.run()).toMatchObject({ end: 'debug-exit', exitCode: (0x21 << 1) | 1 });
    });
    it('waits for input while it is open, and ends when it closes', async () => {
      const { pc, machine } = boot(LISTEN, HEAR);
      pc.inputOpen = true;
      let waits = 0;
      const result = await machine.runAsync((idle) => {
        if (!idle) return undefined;
        if (++waits === 3) pc.serials[0]?.send([0x22]);
        return Promise.resolve();
      });
      expect(result).toMatchObject({ end: 'debug-exit', exitCode: (0x22 << 1) | 1 });
      machine.dispose();
      const second = boot(LISTEN, HEAR);
      second.pc.inputOpen = true;
      const ended = await second.machine.runAsync((idle) => {
        if (idle) second.pc.inputOpen = false;
        return idle ? Promise.resolve() : undefined;
      });
      expect(ended).toMatchObject({ end: 'halt' });
    });

    it('stops when asked, and goes on', () => {
      const { machine } = boot('66 40 e6 80 eb fa');
      machine.stop();
      expect(machine.run()).toMatchObject({ end: 'stopped' });
      expect(machine.run({ exits: 5 })).toMatchObject({ end: 'timeout' });
    });
    it('switches itself off', () => {
      expect(boot('ba 04 06 b8 00 20 ef f4').machine.run()).toMatchObject({ end: 'shutdown' });
    });
    it.each([
      ['the reset control register', 'ba f9 0c b0 06 ee f4'],
      ['the keyboard controller', 'b0 fe e6 64 f4'],
      ['port 0x92', 'e4 92 0c 01 e6 92 f4'],
      ['a triple fault', '0f 01 1e f0 13 cc'],
    ])('is reset by %s: processors and devices forget, memory does not', (_, how) => {
      // inc byte [0x600]; cmp byte [0x600],3; jb again; mov dx,0x3ff; in al,dx; add al,[0x600]; out 0xf4,al; again: mov dx,0x3ff; mov al,5; out
      // dx,al; ...
      const program = `fe 06 00 06 80 3e 00 06 03 72 0b ba ff 03 ec 02 06 00 06 e6 f4 f4 ba ff 03 b0 05 ee 66 0f 20 c0 ${how}`;
      const { machine } = boot(program, '', { reboot: true });
      const result = machine.run({ reboot: true });
      // The serial port's scratch register keeps its value: a 16550 has no reset for it.
      expect(result.end).toBe('debug-exit');
      expect([3, 8]).toContain((result.exitCode as number) >> 1);
      machine.dispose();
      expect(boot(program).machine.run().end).toMatch(/reset|triple-fault/);
    });
    it('comes out of a reset with its timer stopped and its second processor waiting', () => {
      // First time: start the timer and reset. Second time: sleep for ever.
      const program = `${setUp(0)} fe 06 00 06 80 3e 00 06 01 75 15 ${PIT} ba f9 0c b0 06 ee f4 90 90 90 ${SLEEP}`;
      const { machine } = boot(program, 'b0 01 e6 f4', { reboot: true, cpus: 2 });
      expect(machine.run({ reboot: true })).toMatchObject({ end: 'halt' });
    });

    it('finds memory types and what the processor is spared, as firmware would leave them, after a reset too', () => {
      const { machine } = boot('fa f4 eb fd', '', { reboot: true, cpus: 2 });
      const types = (): bigint[][] => machine.vcpus.map((vcpu) => vcpu.getMsrs([0x2ff, 0x200, 0x201, 0x202, 0x203, 0x204, 0x250, 0x259]));
      const expected = [0xc06n, 0xc000_0000n, 0xff_c000_0800n, 0xb000_0000n, 0xff_f000_0800n, 0n, 0x0606_0606_0606_0606n, 0n];
      expect(types()).toEqual([expected, expected]);
      machine.vcpus[1]?.setMsrs([{ index: 0x2ff, data: 0n }]);
      machine.reset();
      expect(types()).toEqual([expected, expected]);
      expect(machine.vcpus[0]?.getMsrs([0x10a])).toEqual([ARCH_CAPABILITIES]);
    });
    it('runs the same twice', () => {
      const once = (): number => {
        const { pc, machine } = boot(`${setUp(0)} ${PIT} ${SLEEP}`, `fe 06 00 06 80 3e 00 06 03 75 06 b0 07 e6 f4 f4 90 ${EOI_RETURN}`);
        machine.run();
        machine.dispose();
        return pc.kernel.clock.now();
      };
      expect(once()).toBe(once());
    });
  });
}
