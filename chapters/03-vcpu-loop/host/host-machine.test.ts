// # Real threads, really stopped
//
// What can go wrong with a thread that sits in a system call: it is kicked too early, too late, twice, or not at all. The limits of time below only end
// a test that hangs; no test measures.

import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { HostKernel, hostKernelAvailable } from '../../02-kvm-objects/host/host-kernel.ts';
import { HostMachine } from './host-machine.ts';

const here = hostKernelAvailable();
const reason = here.available ? null : here.reason;
const code = (text: string): Uint8Array => Uint8Array.from(text.split(/\s+/).filter(Boolean), (pair) => Number.parseInt(pair, 16));
const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const names = (path: string): number => readdirSync(path).length;

const LEAVE = 'e6 f4 f4'; // out 0xf4, al; hlt
const SPIN = 'eb fe';
const VMCALL = '0f 01 c1 eb fb';
const STORM = 'e6 80 eb fc'; // out 0x80, al; jmp back

describe.skipIf(reason !== null)(`a machine with threads${reason ? ` (skipped: ${reason})` : ''}`, () => {
  let kernel: HostKernel | null = null;
  let machine: HostMachine | null = null;
  const boot = async (program: string, options: { vcpus?: number } = {}): Promise<HostMachine> => {
    kernel ??= new HostKernel();
    machine = await HostMachine.create({ kernel, ramBytes: 2 << 20, ...options });
    machine.load(code(program), { door: 'flat' });
    return machine;
  };
  afterEach(async () => {
    await machine?.shutdown();
    kernel?.dispose();
    [machine, kernel] = [null, null];
  });

  it('runs a guest to its end, like the machine without threads', async () => {
    const result = await (await boot(`be 00 11 b9 05 00 ba f8 03 fc f3 6e b0 04 ${LEAVE} 90`)).run();
    expect(result).toMatchObject({ end: 'debug-exit', exitCode: 9 });
    expect(result.console.length).toBe(5); // in how many exits is the kernel's choice: Linux emulates OUTS item by item, and gathers INS
    expect(Object.keys(result.exits)).toEqual(['KVM_EXIT_IO']);
  });

  it.each([
    ['spins', SPIN],
    ['loops at VMCALL', VMCALL],
    ['does nothing but exit', STORM],
  ])('stops a guest that %s', async (_, program) => {
    expect(await (await boot(program)).run({ timeoutMs: 60 })).toMatchObject({ end: 'timeout', detail: '60 ms' });
  });
  it('stops it at a number of exits', async () => {
    expect(await (await boot(STORM)).run({ exits: 500 })).toMatchObject({ end: 'timeout', exits: { KVM_EXIT_IO: 500 } });
  });
  it('stops it when asked, and goes on where it was', async () => {
    const m = await boot(`66 40 ${'eb fc'}`); // inc eax; jmp back
    const run = m.run();
    setTimeout(() => m.stop(), 20);
    expect((await run).end).toBe('stopped');
    const first = m.vcpus[0]?.getRegs().rax as bigint;
    expect(first).toBeGreaterThan(0n);
    await m.run({ timeoutMs: 20 });
    expect(m.vcpus[0]?.getRegs().rax).toBeGreaterThan(first);
  });

  // A kick that comes before, at and after every moment of a run. None may be lost, and none may leak into the next run.
  it('survives kicks at any moment', async () => {
    const m = await boot(STORM);
    for (let round = 0; round < 60; round++) {
      const run = m.run({ timeoutMs: 5000 });
      if (round % 3 === 0) m.stop();
      else if (round % 3 === 1) queueMicrotask(() => m.stop());
      else setTimeout(() => m.stop(), round % 7);
      expect((await run).end).toBe('stopped');
    }
    expect(await m.run({ exits: 100 })).toMatchObject({ end: 'timeout', detail: 'the exit limit' });
  });

  it('runs processors at the same time', async () => {
    // The first waits for a byte that the second writes: on one thread, neither would finish without the other's turn.
    // mov ax, [0x2000] ... second: shr edx, 16; cmp dx, 0x5242; je second; first: cmp byte [0x2000], 1; jne .-5; mov al, 3; out; second: mov byte [0x2000], 1; cli; hlt
    const m = await boot(`66 c1 ea 10 81 fa 42 52 74 0c 80 3e 00 20 01 75 f9 b0 03 ${LEAVE} c6 06 00 20 01 fa f4`, { vcpus: 2 });
    expect(await m.run()).toMatchObject({ end: 'debug-exit', exitCode: 7 });
  });
  it('ends when the last processor halts', async () => {
    expect(await (await boot('fa f4', { vcpus: 3 })).run()).toMatchObject({ end: 'halt', exits: { KVM_EXIT_HLT: 3 } });
  });

  const handler = (m: HostMachine, vector: number): void => {
    new DataView(m.ram.buffer, m.ram.byteOffset).setUint32(4 * vector, 0x1100, true);
    m.ram.set(code(`b0 07 ${LEAVE}`), 0x1100);
  };
  it('interrupts a guest that runs', async () => {
    const m = await boot(`fb ${SPIN}`);
    handler(m, 0x31);
    setTimeout(() => m.interrupt(0x31), 10);
    expect(await m.run()).toMatchObject({ end: 'debug-exit', exitCode: 15 });
  });
  it('wakes a processor that halted while another runs', async () => {
    // Both enable interrupts; the first halts, the second spins.
    const m = await boot('fb 66 c1 ea 10 81 fa 42 52 75 02 eb fe f4 eb fd', { vcpus: 2 });
    handler(m, 0x31);
    setTimeout(() => m.interrupt(0x31, 0), 20);
    expect(await m.run()).toMatchObject({ end: 'debug-exit', exitCode: 15 });
  });
  it('delivers an NMI from outside', async () => {
    const m = await boot(`fa ${SPIN}`);
    handler(m, 2);
    setTimeout(() => m.interrupt('nmi'), 10);
    expect(await m.run()).toMatchObject({ end: 'debug-exit', exitCode: 15 });
  });

  it('leaves no thread and no descriptor behind', async () => {
    await (await boot(SPIN)).shutdown(); // what the first one loads stays
    const [threads, files] = [names('/proc/self/task'), names('/proc/self/fd')];
    for (let round = 0; round < 5; round++) {
      const m = await boot(round % 2 ? SPIN : VMCALL, { vcpus: 2 });
      await m.run({ timeoutMs: 10 });
      await m.shutdown();
    }
    expect(names('/proc/self/task')).toBe(threads);
    expect(names('/proc/self/fd')).toBe(files);
  });

  it('lets a process end while its guest spins', () => {
    const script = `
      import { HostKernel } from ${JSON.stringify(new URL('../../02-kvm-objects/host/host-kernel.ts', import.meta.url).href)};
      import { HostMachine } from ${JSON.stringify(new URL('./host-machine.ts', import.meta.url).href)};
      const machine = await HostMachine.create({ kernel: new HostKernel(), vcpus: 2 });
      machine.load(Uint8Array.of(0xeb, 0xfe), { door: 'flat' });
      void machine.run();
      setTimeout(() => { console.log('leaving'); process.exit(7); }, 50);`;
    const { status, stdout, signal } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script], {
      encoding: 'utf8',
      timeout: 20_000,
      killSignal: 'SIGKILL',
    });
    expect([stdout.trim(), status, signal]).toEqual(['leaving', 7, null]);
  });
  it('has the text', async () => expect(text((await (await boot(`b0 41 ba f8 03 ee ${LEAVE}`)).run()).console)).toBe('A'));
});
