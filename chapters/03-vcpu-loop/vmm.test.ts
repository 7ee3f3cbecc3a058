// # The outer loop on both kernels
//
// Programs of a few bytes, each for one thing that the loop has to get right. They run on the soft kernel and on the host's, so a difference is a
// difference between kernels. Every one of them ends by itself: the loop tested here has no watchdog.

import { afterEach, describe, expect, it } from 'vitest';
import { Recorder } from '../01-hardware-background/trace.ts';
import { HostKernel, hostKernelAvailable } from '../02-kvm-objects/host/host-kernel.ts';
import type { Kernel } from '../02-kvm-objects/kernel.ts';
import type { BoardOptions } from './board.ts';
import type { Outcome } from './chassis.ts';
import { softKernel } from './kernel/index.ts';
import { Machine } from './vmm.ts';

const host = hostKernelAvailable();
const kernels: { name: string; make: () => Kernel; reason: string | null }[] = [
  { name: 'soft', make: () => softKernel(), reason: null },
  { name: 'host', make: () => new HostKernel(), reason: host.available ? null : host.reason },
];

const code = (text: string): Uint8Array => Uint8Array.from(text.split(/\s+/).filter(Boolean), (pair) => Number.parseInt(pair, 16));
const LEAVE = 'e6 f4 f4'; // out 0xf4, al; hlt
const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

/** A multiboot image at 1 MiB around 32-bit code. */
function protectedImage(program: Uint8Array): Uint8Array {
  const image = new Uint8Array(32 + program.length);
  const view = new DataView(image.buffer);
  const fields = [0x1badb002, 0x10000, -(0x1badb002 + 0x10000) >>> 0, 0x100000, 0x100000, 0, 0, 0x100020];
  for (const [n, field] of fields.entries()) view.setUint32(4 * n, field, true);
  image.set(program, 32);
  return image;
}

/** The next return that the guest brought about: on the host, a clock may have interrupted some before it. */
function returned(machine: Machine): Outcome {
  for (;;) {
    const outcome = machine.advance();
    if (outcome.kind !== 'interrupted') return outcome;
  }
}

for (const { name, make, reason } of kernels) {
  describe.skipIf(reason !== null)(`the loop on the ${name} kernel${reason ? ` (skipped: ${reason})` : ''}`, () => {
    let machine: Machine | null = null;
    const boot = (program: string, options: Partial<BoardOptions> = {}): Machine => {
      machine = new Machine({ kernel: make(), ramBytes: 2 << 20, ...options });
      machine.load(code(program), { door: 'flat' });
      return machine;
    };
    afterEach(() => {
      machine?.dispose();
      machine = null;
    });

    it('carries port accesses of each width', () => {
      const result = boot(
        `ba e0 05 b0 12 ee 83 c2 02 b8 56 34 ef 83 c2 02 66 b8 de bc 9a 78 66 ef 66 31 c0
        ba e0 05 66 ed 66 a3 00 20 00 00 83 c2 04 ed a3 04 20 42 ec b0 05 ${LEAVE}`.replace('66 a3 00 20 00 00', '66 a3 00 20'),
      ).run();
      expect(result).toMatchObject({ end: 'debug-exit', exitCode: 11 });
      expect(machine?.platform.scratchPio.accesses.map(({ rw, offset, width, value }) => [rw, offset, width, value])).toEqual([
        ['write', 0, 1, 0x12n],
        ['write', 2, 2, 0x3456n],
        ['write', 4, 4, 0x789a_bcden],
        ['read', 0, 4, 0x3456_0012n],
        ['read', 4, 2, 0xbcden],
        ['read', 5, 1, 0xbcn],
      ]);
      expect([...(machine?.ram.subarray(0x2000, 0x2006) ?? [])]).toEqual([0x12, 0, 0x56, 0x34, 0xde, 0xbc]);
      expect(result.exits.KVM_EXIT_IO).toBe(7);
    });

    it('carries repeated string output, item by item', () => {
      // mov si, 0x1100; mov cx, 5; mov dx, 0x3f8; cld; rep outsb
      const m = boot(`be 00 11 b9 05 00 ba f8 03 fc f3 6e b0 00 ${LEAVE}`);
      m.ram.set(new TextEncoder().encode('hello'), 0x1100);
      expect(text(m.run().console)).toBe('hello');
    });
    it('carries repeated string input of words', () => {
      const m = boot(`bf 00 20 b9 03 00 ba e0 05 fc f3 6d b0 00 ${LEAVE}`); // rep insw
      m.platform.scratchPio.bytes.set([0xcd, 0xab]);
      expect(m.run().end).toBe('debug-exit');
      expect([...m.ram.subarray(0x2000, 0x2008)]).toEqual([0xcd, 0xab, 0xcd, 0xab, 0xcd, 0xab, 0, 0]);
      expect(m.platform.scratchPio.accesses.map(({ width }) => width)).toEqual([2, 2, 2]);
    });
    it('reads ones where there is no device', () => {
      const m = boot(`b8 00 00 ba 80 00 ed a3 00 20 b0 00 ${LEAVE}`);
      m.run();
      expect([...m.ram.subarray(0x2000, 0x2002)]).toEqual([0xff, 0xff]);
    });
    it('gives the guest its input', () => {
      // poll LSR, read a byte, add one, send it, twice
      const loop = 'ba fd 03 ec a8 01 74 f8 ba f8 03 ec 40 ee'.replace('40', 'fe c0');
      expect(text(boot(`${loop} ${loop} b0 00 ${LEAVE}`, { input: [0x41, 0x57] }).run().console)).toBe('BX');
    });

    it('carries memory accesses of each width', () => {
      machine = new Machine({ kernel: make(), ramBytes: 2 << 20 });
      // mov byte [feb00000], 0x12; mov word [feb00002], 0x3456; mov dword [feb00004], 0x789abcde; mov eax, [feb00002]; mov [0x110000], eax
      machine.load(
        protectedImage(
          code(`c6 05 00 00 b0 fe 12 66 c7 05 02 00 b0 fe 56 34 c7 05 04 00 b0 fe de bc 9a 78 a1 02 00 b0 fe a3 00 00 11 00 30 c0 ${LEAVE}`),
        ),
      );
      const result = machine.run();
      expect(result).toMatchObject({ end: 'debug-exit', exitCode: 1, exits: { KVM_EXIT_MMIO: 4, KVM_EXIT_IO: 1 } });
      expect(machine.platform.scratchMmio.accesses).toEqual([
        { rw: 'write', offset: 0, width: 1, value: 0x12n },
        { rw: 'write', offset: 2, width: 2, value: 0x3456n },
        { rw: 'write', offset: 4, width: 4, value: 0x789a_bcden },
        { rw: 'read', offset: 2, width: 4, value: 0xbcde_3456n },
      ]);
      expect(new DataView(machine.ram.buffer, machine.ram.byteOffset).getUint32(0x110000, true)).toBe(0xbcde_3456);
    });

    it('ends when the guest halts with nothing to wake it', () =>
      expect(boot('fa f4').run()).toMatchObject({ end: 'halt', exits: { KVM_EXIT_HLT: 1 } }));
    it('ends when the guest has no handler left', () => {
      machine = new Machine({ kernel: make(), ramBytes: 2 << 20 });
      machine.load(protectedImage(code('66 b8 34 12 8e d8 f4'))); // mov ax, 0x1234; mov ds, ax: past the descriptor table, and no handler for #GP
      expect(machine.run()).toMatchObject({ end: 'triple-fault', exitCode: null, exits: { KVM_EXIT_SHUTDOWN: 1 } });
    });
    /** Returns of KVM_RUN from a loop of OUTs. The host's kernel may be interrupted between them; ours has no reason to be. */
    const returns = ({ KVM_EXIT_IO = 0, KVM_EXIT_INTR = 0 }: Readonly<Record<string, number>>): number =>
      KVM_EXIT_IO + (name === 'host' ? KVM_EXIT_INTR : 0);
    it('ends at the limit of exits', () => {
      const { end, exits } = boot('e6 80 eb fc').run({ exits: 50 });
      expect({ end, returns: returns(exits) }).toEqual({ end: 'timeout', returns: 50 });
    });
    it('ends when the caller has had enough', () => {
      let asked = 0;
      const { end, exits } = boot('e6 80 eb fc').run({ expired: () => ++asked === 7 });
      expect({ end, returns: returns(exits) }).toEqual({ end: 'timeout', returns: 7 });
    });

    const HANDLER_AT = (vector: number, m: Machine): void => {
      new DataView(m.ram.buffer, m.ram.byteOffset).setUint32(4 * vector, 0x1100, true);
      m.ram.set(code(`b0 07 ${LEAVE}`), 0x1100);
    };
    it('delivers an interrupt when the guest opens the window, not before', () => {
      const m = boot(`fa ba f0 05 b0 30 ee b0 41 ba f8 03 ee fb 90 eb fd`); // cli; inject 0x30; send 'A'; sti; nop; jmp to the nop
      HANDLER_AT(0x30, m);
      const result = m.run();
      expect(result).toMatchObject({ end: 'debug-exit', exitCode: 15 });
      expect(text(result.console)).toBe('A');
      expect(result.exits.KVM_EXIT_IRQ_WINDOW_OPEN).toBe(1);
    });
    it('wakes a halted guest', () => {
      const m = boot(`fb f4 b0 01 ${LEAVE}`);
      HANDLER_AT(0x31, m);
      expect(returned(m)).toMatchObject({ kind: 'end', end: 'halt' });
      m.interrupt(0x31);
      expect(m.run()).toMatchObject({ end: 'debug-exit', exitCode: 15 });
    });
    it('does not wake a guest that halted with interrupts off', () => {
      const m = boot(`fa ba f0 05 b0 30 ee f4 b0 01 ${LEAVE}`);
      HANDLER_AT(0x30, m);
      expect(m.run().end).toBe('halt');
    });
    it('delivers an NMI even then', () => {
      const m = boot(`fa ba f1 05 ee f4 b0 01 ${LEAVE}`);
      HANDLER_AT(2, m);
      expect(m.run()).toMatchObject({ end: 'debug-exit', exitCode: 15 });
    });

    it('runs each processor, and tells the second that it is one', () => {
      // shr edx, 16; cmp dx, 0x5242; mov al, 'A'; jne +2; mov al, 'B'; out 0x3f8; cli; hlt
      const m = boot('66 c1 ea 10 81 fa 42 52 b0 41 75 02 b0 42 ba f8 03 ee fa f4', { vcpus: 2 });
      const result = m.run();
      expect(result.end).toBe('halt');
      expect([...text(result.console)].sort().join('')).toBe('AB');
      expect(result.exits.KVM_EXIT_HLT).toBe(2);
    });

    it('reports its system calls and its console to the trace', () => {
      const trace = new Recorder();
      boot(`b0 41 ba f8 03 ee ${LEAVE}`, { trace }).run();
      const answered = trace.of('ioctl').filter(({ result }) => result >= 0); // on the host a clock may have interrupted one
      const requests = answered.map(({ fd, request }) => `${fd} ${request}`);
      expect(requests.slice(0, 2)).toEqual(['kvm KVM_GET_API_VERSION', 'kvm KVM_CREATE_VM']);
      expect(requests.filter((request) => request === 'vcpu0 KVM_RUN').length).toBe(2);
      expect(trace.of('console').map(({ byte }) => byte)).toEqual([0x41]);
      expect(trace.of('device').at(-1)).toMatchObject({ device: 'debug-exit', what: 'exit' });
    });
    it('refuses sizes that it cannot have', () => {
      const kernel = make();
      for (const ramBytes of [0, 4095, 0xc000_1000, Number.NaN]) expect(() => new Machine({ kernel, ramBytes })).toThrow(RangeError);
      expect(() => new Machine({ kernel, vcpus: 0 })).toThrow(RangeError);
    });
  });
}
