// # Speed
//
// Figures from one run on one machine, and ratios between them. The absolute numbers say something about the machine as well; the ratios
// travel. Each figure is the median of several rounds, and rivals are measured in turns, round by round, so that a machine which slows down
// slows all of them.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { EXIT } from '../chapters/02-kvm-objects/abi/exits.ts';
import { HostKernel, hostKernelAvailable } from '../chapters/02-kvm-objects/host/host-kernel.ts';
import type { Kernel } from '../chapters/02-kvm-objects/kernel.ts';
import { Kvm } from '../chapters/02-kvm-objects/kvm.ts';
import { softKernel } from '../chapters/03-vcpu-loop/kernel/index.ts';
import { ROOT } from './checks/tree.ts';

const { values: options } = parseArgs({
  options: { rounds: { type: 'string', default: '5' }, exits: { type: 'string', default: '20000' }, quick: { type: 'boolean' } },
});
const ROUNDS = options.quick ? 1 : Number(options.rounds);
const EXITS = Number(options.exits);
const ENTRY_GPA = 0x1000;
const RAM_BYTES = 0x10000;

// Both guests are loops without an end; the benchmark stops them.
const OUT_LOOP = [0xe6, 0xe9, 0xeb, 0xfc]; // out 0xe9, al; jmp -2
// 16-bit: mov cx, 0xffff; { add ax, cx; xor dx, ax; dec cx; jnz }; jmp to the start -- registers only
const COUNT_LOOP = [0xb9, 0xff, 0xff, 0x01, 0xc8, 0x31, 0xc2, 0x49, 0x75, 0xf9, 0xeb, 0xf4];
// The same with memory: { mov [si], ax; add ax, [di]; inc ax; loop }
const MEMORY_LOOP = [0xb9, 0xff, 0xff, 0xbe, 0x00, 0x20, 0xbf, 0x00, 0x30, 0x89, 0x04, 0x03, 0x05, 0x40, 0xe2, 0xf9, 0xeb, 0xee];

function machine(kernel: Kernel, code: readonly number[]) {
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  const { hva, bytes } = kvm.allocate(RAM_BYTES);
  bytes.set(code, ENTRY_GPA);
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: RAM_BYTES, userspace_addr: hva });
  const vcpu = vm.createVcpu(0);
  const { cs } = vcpu.getSregs();
  vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 } });
  vcpu.setRegs({ rip: BigInt(ENTRY_GPA), rflags: 2n });
  const close = (): void => {
    vcpu.close();
    vm.close();
    kvm.close();
    kernel.free(hva);
  };
  return { vcpu, close };
}

const seconds = (work: () => void): number => {
  const began = performance.now();
  work();
  return (performance.now() - began) / 1000;
};

/** Port exits a second through KVM_RUN, as one VMM in TypeScript sees them. */
function exitsPerSecond(kernel: Kernel): number {
  const { vcpu, close } = machine(kernel, OUT_LOOP);
  const took = seconds(() => {
    for (let exit = 0; exit < EXITS; exit++) {
      let reason = vcpu.run();
      while (reason === EXIT.KVM_EXIT_INTR) reason = vcpu.run(); // a tick of the VMM's own clock, not an exit of the guest
      if (reason !== EXIT.KVM_EXIT_IO) throw new Error(`expected a port exit, not ${vcpu.page.describe()}`);
    }
  });
  close();
  return EXITS / took;
}

/** Guest instructions a second on the software kernel, paging off. The kernel's own bound says how many ran. */
function guestMips(code: readonly number[], runs: number): number {
  const kernel = softKernel();
  const { vcpu, close } = machine(kernel, code);
  const bound = kernel.instructionBound;
  vcpu.run(); // decode and compile once, outside the measurement
  const took = seconds(() => {
    for (let run = 0; run < runs; run++) vcpu.run();
  });
  close();
  return (runs * bound) / took / 1e6;
}

/** The smallest VMM in C on the same device: null with a reason where there is no compiler. */
function cYardstick(): (() => number) | string {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-bench-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const program = join(folder, 'exits');
  const built = spawnSync('gcc', ['-O2', '-o', program, join(ROOT, 'spec-tests', 'bench', 'exits.c')], { encoding: 'utf8' });
  if (built.error || built.status !== 0) return built.error ? 'no gcc' : built.stderr;
  return () => {
    const { stdout, status, stderr } = spawnSync(program, [String(EXITS)], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`the C yardstick failed: ${stderr}`);
    const [exits, took] = stdout.split(' ').map(Number) as [number, number];
    return exits / took;
  };
}

const command = (args: readonly string[]) => (): number =>
  seconds(() => {
    const { status, stderr } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', ...args], { cwd: ROOT, encoding: 'utf8' });
    if (status !== 0) throw new Error(`${args.join(' ')} ended with ${status}: ${stderr}`);
  });

interface Figure {
  readonly name: string;
  readonly unit: string;
  readonly measure: (() => number) | string;
}

const host = hostKernelAvailable();
const yardstick = host.available ? cYardstick() : host.reason;
const figures: Figure[] = [
  { name: 'guest instructions, registers only', unit: 'million/s', measure: () => guestMips(COUNT_LOOP, 20) },
  { name: 'guest instructions, loads and stores', unit: 'million/s', measure: () => guestMips(MEMORY_LOOP, 20) },
  { name: 'port exits, software kernel', unit: '/s', measure: () => exitsPerSecond(softKernel()) },
  { name: 'port exits, host kernel', unit: '/s', measure: host.available ? () => exitsPerSecond(new HostKernel()) : host.reason },
  { name: 'port exits, host kernel, C', unit: '/s', measure: yardstick },
];
const slow: Figure[] = [
  { name: 'suite on the embedded machine', unit: 's', measure: command(['spec-tests/conform.ts', '--target', 'ringbook']) },
  { name: 'site build', unit: 's', measure: command(['site/build.ts']) },
];

const median = (samples: readonly number[]): number => [...samples].sort((a, b) => a - b)[samples.length >> 1] as number;
const results = new Map<string, number[]>();
for (let round = 0; round < ROUNDS; round++) {
  for (const { name, measure } of figures) {
    if (typeof measure === 'function') results.set(name, [...(results.get(name) ?? []), measure()]);
  }
}
for (const { name, measure } of slow) if (typeof measure === 'function' && !options.quick) results.set(name, [measure()]);

const show = (n: number): string => (n >= 1000 ? Math.round(n).toLocaleString('en') : n.toPrecision(3));
for (const { name, unit, measure } of [...figures, ...slow]) {
  const samples = results.get(name);
  const text = samples
    ? `${show(median(samples)).padStart(12)} ${unit}`
    : `not measured: ${typeof measure === 'string' ? measure : 'left out by --quick'}`;
  console.log(`${name.padEnd(40)} ${text}`);
}

// Ratios round by round: what two neighbours in the same round say of each other.
const ratio = (a: string, b: string): void => {
  const [over, under] = [results.get(a), results.get(b)];
  if (over && under) console.log(`${`${a} : ${b}`.padEnd(64)} ${median(over.map((value, round) => value / (under[round] as number))).toFixed(2)}`);
};
console.log();
ratio('port exits, host kernel', 'port exits, host kernel, C');
ratio('port exits, software kernel', 'port exits, host kernel');
