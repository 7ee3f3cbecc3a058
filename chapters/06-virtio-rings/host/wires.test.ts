// Doorbells and messages on the host's own kernel, with a thread for the processor: the device works while its driver goes on. Each guest ends by itself;
// the limits of time only end one that does not.

import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { HostKernel, hostKernelAvailable } from '../../02-kvm-objects/host/host-kernel.ts';
import { DEBUG_EXIT_PORT } from '../../03-vcpu-loop/devices/debug-exit.ts';
import { HostMachine } from '../../03-vcpu-loop/host/host-machine.ts';
import { type Code, out, place, startState, times } from '../../05-pio-mmio/guest-program.ts';
import { LAPIC } from '../../05-pio-mmio/interrupts/lapic-registers.ts';
import type { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { type Bell, PORTS, wiredPc } from '../machine/laboratory.ts';

const here = hostKernelAvailable();
const reason = here.available ? null : here.reason;
const TIMEOUT_MS = 20_000;
const descriptors = (): number => readdirSync('/proc/self/fd').length;
const threads = (): number => readdirSync('/proc/self/task').length;
const word = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const dword = (value: number): number[] => [...word(value & 0xffff), ...word(value >>> 16)];

/** Looks at a word of memory until it is `value`: no exit. */
const untilWord = (address: number, value: number): Code => [0x66, 0x81, 0x3d, ...dword(address), ...word(value), 0x75, 0xf5];
const LEAVE: Code = out(DEBUG_EXIT_PORT, 0);

describe.skipIf(reason !== null)(`on the real kernel${reason ? ` (skipped: ${reason})` : ''}`, () => {
  let kernel: HostKernel | null = null;
  let machine: HostMachine<Pc> | null = null;
  afterEach(async () => {
    await machine?.shutdown();
    kernel?.dispose();
    [machine, kernel] = [null, null];
  });

  async function open(how: Bell, properties = {}) {
    kernel = new HostKernel();
    const made = wiredPc(how, { kernel, ioThread: true, properties });
    machine = await HostMachine.create({ ...made.pc.board, kernel });
    made.bringUp();
    const board = machine;
    const { ram } = board;
    return { ...made, board, ram, view: new DataView(ram.buffer, ram.byteOffset, ram.length), offer: () => made.offer(ram) };
  }
  const start = (board: HostMachine<Pc>, code: readonly Code[]): void => {
    place(board.ram, { code: [...code, LEAVE] });
    const [vcpu] = board.vcpus;
    vcpu?.setSregs({ ...vcpu.getSregs(), ...startState.sregs });
    vcpu?.setRegs({ ...vcpu.getRegs(), ...startState.regs });
  };

  it.each(['modern', 'port', 'legacy', 'mmio'] as const)('a kick by %s registers wakes the device without an exit', async (how) => {
    const { board, wires, virtio, kick, offer, usedIdx } = await open(how);
    expect(wires?.wired).toBe(how === 'port' ? 2 : 1);
    offer();
    start(board, [kick, untilWord(usedIdx, 1)]);
    const { end, exits } = await board.run({ timeoutMs: TIMEOUT_MS });
    expect(end).toBe('debug-exit');
    expect({ ...exits, KVM_EXIT_INTR: 0 }).toEqual({ KVM_EXIT_IO: 1, KVM_EXIT_INTR: 0 }); // the one that leaves
    expect([virtio.counts.kicks, wires?.kicks]).toEqual([1, 1]);
  });
  it.each(['modern', 'legacy'] as const)('a kick by %s registers leaves the kernel when nobody wired it', async (how) => {
    const { board, wires, kick, offer, usedIdx } = await open(how, { ioeventfd: false });
    offer();
    start(board, [kick, untilWord(usedIdx, 1)]);
    const { exits } = await board.run({ timeoutMs: TIMEOUT_MS });
    expect([wires, (exits.KVM_EXIT_IO ?? 0) + (exits.KVM_EXIT_MMIO ?? 0)]).toEqual([null, 2]);
  });
  it('kicks that come faster than the device looks are counted together', async () => {
    const { board, wires, virtio, kick, offer, usedIdx } = await open('legacy');
    offer();
    start(board, [times(200, kick), untilWord(usedIdx, 1)]);
    expect((await board.run({ timeoutMs: TIMEOUT_MS })).end).toBe('debug-exit');
    // The last of them may still be in the counter when the guest has gone.
    await new Promise((resolve) => setImmediate(resolve));
    expect(virtio.counts.kicks).toBeGreaterThanOrEqual(1);
    expect(virtio.counts.kicks).toBeLessThanOrEqual(200);
    expect(wires?.kicks).toBe(virtio.counts.kicks);
  });

  // In real mode, the one in which every kernel takes interrupts. ES reaches the local APIC.
  it('a message by irqfd wakes a processor that sleeps', async () => {
    const { board, messages, wires, virtio, offer, ram, view, useVector, entry, msix } = await open('port');
    const VECTOR = 0x41;
    const [CODE, HANDLER, COUNT] = [0x1000, 0x1800, 0x2000];
    useVector(0);
    entry(0, 0, 0xfee0_0000);
    entry(0, 2, VECTOR);
    entry(0, 3, 0);
    msix(true);
    expect(messages.tied).toBe(1);
    const apic = (register: keyof typeof LAPIC, value: number): number[] => [0x26, 0x66, 0xc7, 0x06, ...word(LAPIC[register]), ...dword(value)];
    ram.set([...apic('EOI', 0), 0xff, 0x06, ...word(COUNT), 0xcf], HANDLER); // ...; inc word [COUNT]; iret
    view.setUint16(4 * VECTOR, HANDLER, true);
    ram.set(
      [
        ...apic('SVR', 0x1ff),
        ...[0xba, ...word(PORTS + 0x100), 0x31, 0xc0, 0xef], // mov dx, doorbell; xor ax, ax; out dx, ax
        ...[0x83, 0x3e, ...word(COUNT), 1, 0x73, 5, 0xfb, 0xf4, 0xfa, 0xeb, 0xf4], // cmp word [COUNT], 1; jae +5; sti; hlt; cli; jmp back
        ...[0xba, ...word(DEBUG_EXIT_PORT), 0xb0, 0, 0xee],
      ],
      CODE,
    );
    const [vcpu] = board.vcpus;
    const { cs, es } = vcpu?.getSregs() ?? {};
    if (!vcpu || !cs || !es) throw new Error('no processor');
    vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 }, es: { ...es, base: 0xfee0_0000n } });
    vcpu.setRegs({ rip: BigInt(CODE), rsp: 0xf00n, rflags: 2n });
    offer();
    const { end } = await board.run({ timeoutMs: TIMEOUT_MS });
    expect(end).toBe('debug-exit');
    expect([view.getUint16(COUNT, true), messages.sent, wires?.kicks, virtio.counts.used]).toEqual([1, 1, 1, 1]);
    entry(0, 3, 1);
    expect(messages.tied).toBe(0);
    entry(0, 3, 0);
    entry(0, 2, VECTOR + 1);
    expect(messages.tied).toBe(1);
  });

  it('leaves no descriptor and no thread behind', async () => {
    const round = async (): Promise<void> => {
      const { board, kick, offer, usedIdx, useVector, entry, msix } = await open('modern');
      useVector(0);
      entry(0, 0, 0xfee0_0000);
      entry(0, 3, 0);
      msix(true);
      offer();
      start(board, [kick, untilWord(usedIdx, 1)]);
      await board.run({ timeoutMs: TIMEOUT_MS });
      await board.shutdown();
      kernel?.dispose();
    };
    await round(); // what the first one loads stays
    const before = [descriptors(), threads()];
    for (let n = 0; n < 3; n++) await round();
    expect([descriptors(), threads()]).toEqual(before);
  });
});
