// # One measurement in a process of its own
//
// `node cpu-peer.ts PEER TASK ROUNDS` runs one workload and prints one line of JSON. A process of its own, because what a JavaScript engine has learned of a program
// outlives the program: a second run would start with the first one's compiled code, and no first impression can be had twice. Only what the peer needs is loaded.

import { readImage } from '../../guest-payloads/host/images.ts';
import { type Marked, markNow, type Ran } from './cpu-marks.ts';
import { imageName, MARK, MEMORY_MIB, multibootDoor, TASKS, type Task, taskName, withParameters } from './cpu-workloads.ts';

const EXIT_PORT = 0xf4;

// ## The whole PC
//
// The same image under KVM_RUN, on the machine of the suite.

async function runPc(image: Uint8Array, translate: boolean): Promise<Ran> {
  const { machineKernel } = await import('../../chapters/05-pio-mmio/machine/soft-machine.ts');
  const { Machine } = await import('../../chapters/03-vcpu-loop/vmm.ts');
  const { caseBoard } = await import('../adapters/case-machine.ts');
  const kernel = machineKernel({ memoryMiB: MEMORY_MIB, cpus: 1, memory: 'ept', translate });
  const { pc, board } = caseBoard(kernel, { vcpus: 1, memoryMiB: MEMORY_MIB, needs: [], input: new Uint8Array(0) }, null);
  const marks = new Map<number, Marked>();
  const marker = {
    name: 'marks',
    read: () => 0xffn,
    write: (_offset: number, _width: number, value: bigint) =>
      void marks.set(Number(value), markNow(kernel.hardware.cpu.instructions - kernel.hardware.idleTicks)),
  };
  pc?.ports.region(marker, { priority: 1 }).place(MARK.port, 1); // over the debug console
  const machine = new Machine(board);
  machine.load(image, { door: 'multiboot', ...pc?.handover });
  const result = await machine.run({ exits: Number.POSITIVE_INFINITY, bounds: Number.POSITIVE_INFINITY, expired: () => false });
  const output = Buffer.from(result.console).toString('latin1');
  const [begin, end] = [marks.get(MARK.begin), marks.get(MARK.end)];
  if (!begin || !end) throw new Error(`ended by ${result.end}: ${output.trim().split('\n').at(-1)} ${result.detail}`);
  return { begin, end, output };
}

// ## v86

async function runV86(image: Uint8Array, translate: boolean): Promise<Ran> {
  const { imageOf, makeEmulator, whenBroken } = await import('../adapters/v86-machine.ts');
  const { emulator, cpu } = await makeEmulator({
    memory_size: MEMORY_MIB << 20,
    hda: imageOf(new Uint8Array(1 << 20)),
    multiboot: imageOf(image),
    disable_jit: !translate,
  });
  let output = '';
  const marks = new Map<number, Marked>();
  const said = await new Promise<string>((resolve) => {
    const mark = (value: number): void => void marks.set(value & 0xff, markNow(-1));
    cpu.io.register_write(MARK.port, {}, mark, mark, mark);
    const exit = (): void => resolve('');
    cpu.io.register_write(EXIT_PORT, {}, exit, exit, exit);
    emulator.add_listener('serial0-output-byte', ((byte: number) => {
      output += String.fromCharCode(byte & 0xff);
    }) as never);
    void whenBroken(() => emulator.run()).then(resolve);
  });
  const [begin, end] = [marks.get(MARK.begin), marks.get(MARK.end)];
  if (!begin || !end) throw new Error(`v86: ${said || output.trim().split('\n').at(-1)}`);
  return { begin, end, output };
}

// ## The processor alone

async function runProcessor(image: Uint8Array, task: Task, translate: boolean): Promise<Ran> {
  const { runBare } = await import('./cpu-machine.ts');
  return runBare(image, multibootDoor(imageName(task)), { translate });
}

/** The peers that are in this process, by name. */
const RUN: Readonly<Record<string, (image: Uint8Array, task: Task) => Ran | Promise<Ran>>> = {
  ringbook: (image, task) => runProcessor(image, task, true),
  'ringbook-interpreted': (image, task) => runProcessor(image, task, false),
  'ringbook-pc': (image) => runPc(image, true),
  v86: (image) => runV86(image, true),
  'v86-interpreted': (image) => runV86(image, false),
};

async function main(): Promise<void> {
  const [peer = '', name, rounds] = process.argv.slice(2);
  const task = TASKS.find((candidate) => taskName(candidate) === name);
  const run = RUN[peer];
  if (!task || !run) throw new Error(`no peer '${peer}' or no task '${name}'`);
  const ran = await run(withParameters(readImage(imageName(task)), task.workload.index, Number(rounds)), task);
  process.stdout.write(`${JSON.stringify(ran)}\n`, () => process.exit(0));
}

main().catch((error: unknown) => {
  process.stdout.write(`${JSON.stringify({ error: String((error as Error)?.message ?? error) })}\n`, () => process.exit(1));
});
