// # Speed
//
// Figures from one run on one machine, and ratios between them. The absolute numbers say something about the machine as well; the ratios
// travel. Each figure is the median of several rounds, and rivals are measured in turns, round by round, so that a machine which slows down
// slows all of them.

import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { EXIT } from '../chapters/02-kvm-objects/abi/exits.ts';
import { HostKernel, hostKernelAvailable } from '../chapters/02-kvm-objects/host/host-kernel.ts';
import type { Kernel } from '../chapters/02-kvm-objects/kernel.ts';
import { Kvm } from '../chapters/02-kvm-objects/kvm.ts';
import { softKernel } from '../chapters/03-vcpu-loop/kernel/index.ts';
import { benchBoot } from './bench/boot.ts';
import { benchCode } from './bench/changing-code.ts';
import { benchCpu } from './bench/cpu.ts';
import { type Figure, Samples, type Section, seconds } from './bench/figures.ts';
import { ringSections } from './bench/rings.ts';
import { deviceSections } from './bench/sections.ts';
import { cProgram } from './bench/yardstick.ts';
import { ROOT } from './checks/tree.ts';

// The processor by itself has so many figures, and so many rivals, that it is a command of its own.

if (process.argv[2] === 'cpu') {
  try {
    await benchCpu(process.argv.slice(3));
    process.exit(0);
  } catch (error) {
    console.error(`ringbook bench cpu: ${(error as Error).message}`);
    process.exit(2);
  }
}

if (process.argv[2] === 'code') {
  try {
    process.exit(benchCode(process.argv.slice(3)));
  } catch (error) {
    console.error(`ringbook bench code: ${(error as Error).message}`);
    process.exit(2);
  }
}

if (process.argv[2] === 'boot') {
  try {
    process.exit(await benchBoot(process.argv.slice(3)));
  } catch (error) {
    console.error(`ringbook bench boot: ${(error as Error).message}`);
    process.exit(2);
  }
}

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    exits: { type: 'string', default: '20000' },
    only: { type: 'string', default: '' },
    quick: { type: 'boolean' },
    help: { type: 'boolean', short: 'h' },
  },
});
if (options.help) {
  console.log(
    'usage: ringbook bench [--rounds N] [--exits N] [--only TEXT] [--quick]\n' +
      ['cpu', 'code', 'boot'].map((part) => `       ringbook bench ${part} [--help]\n`).join('') +
      '\n' +
      'Speed, as medians and ratios of interleaved rounds; --quick is one cold round.',
  );
  process.exit(0);
}
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

const command = (args: readonly string[]) => (): number =>
  seconds(() => {
    const { status, stderr } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', ...args], { cwd: ROOT, encoding: 'utf8' });
    if (status !== 0) throw new Error(`${args.join(' ')} ended with ${status}: ${stderr}`);
  });

const host = hostKernelAvailable();
const compiled = host.available ? cProgram('exits.c') : host.reason;
const yardstick = typeof compiled === 'string' ? compiled : () => compiled([String(EXITS)]);
const processor: Section = {
  title: 'processor and KVM_RUN',
  figures: [
    { name: 'guest instructions, registers only', unit: 'million/s', measure: () => guestMips(COUNT_LOOP, 20) },
    { name: 'guest instructions, loads and stores', unit: 'million/s', measure: () => guestMips(MEMORY_LOOP, 20) },
    { name: 'port exits, software kernel', unit: '/s', measure: () => exitsPerSecond(softKernel()) },
    { name: 'port exits, host kernel', unit: '/s', measure: host.available ? () => exitsPerSecond(new HostKernel()) : host.reason },
    { name: 'port exits, host kernel, C', unit: '/s', measure: yardstick },
  ],
  ratios: [
    ['port exits, host kernel', 'port exits, host kernel, C'],
    ['port exits, software kernel', 'port exits, host kernel'],
  ],
};
const whole: Section = {
  title: 'whole commands',
  figures: [
    { name: 'suite on the embedded machine', unit: 's', measure: command(['spec-tests/conform.ts', '--target', 'ringbook']), once: true },
    { name: 'site build', unit: 's', measure: command(['site/build.ts']), once: true },
  ],
};

const sections = [processor, ...deviceSections(host.available ? '' : host.reason), ...ringSections(), whole].map(
  ({ title, figures, ratios = [] }) => ({
    title,
    figures: figures.filter(({ name }) => `${title}: ${name}`.includes(options.only)),
    ratios,
  }),
);
const samples = new Samples();
const each = async (which: (figure: Figure) => boolean): Promise<void> => {
  for (const { figures } of sections) for (const figure of figures.filter(which)) await samples.take(figure);
};
// The first round of all is not counted: in it the engines under this program find out what is hot.
if (!options.quick) {
  await each(({ once }) => !once);
  samples.forget();
}
for (let round = 0; round < ROUNDS; round++) await each(({ once }) => !once);
if (!options.quick) await each(({ once }) => once === true);

for (const { title, figures, ratios } of sections) {
  if (figures.length === 0) continue;
  console.log(`\n${title}`);
  for (const figure of figures) console.log(`  ${figure.name.padEnd(58)} ${samples.text(figure)}`);
  for (const pair of ratios) {
    const ratio = samples.ratio(pair);
    if (ratio !== null) console.log(`  ${pair.join(' : ').padEnd(100)} ${ratio.toPrecision(3)}`);
  }
}
