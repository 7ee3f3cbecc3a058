// One script of port and memory accesses, run against QEMU's Q35 (paused, through its test protocol) and against ours. A step says how much of the
// answer both must share: where a specification leaves room, or QEMU is known to differ, that part is not compared.

import { spawn, spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { Bus, PORT_COUNT, type Registers, type Width } from '../../03-vcpu-loop/devices/bus.ts';
import { BRIDGE_CLASS, PciBridge } from './bridge.ts';
import { PciFunction } from './function.ts';
import { SharedLines } from './lines.ts';
import { Q35 } from './q35.ts';

const QEMU = 'qemu-system-x86_64';
const missing = spawnSync(QEMU, ['--version']).status === 0 ? null : `${QEMU} is not installed`;

/** What is compared of a step: some bits, whether anybody answered, whether the card did (QEMU's empty memory reads as zeros), or nothing. */
type Compare = number | 'answered' | 'device' | null;
interface Step {
  readonly what: string;
  readonly command: string;
  readonly compare: Compare;
}

const [NIC, BRIDGE, LATER, LPC] = [3 << 3, 5 << 3, 6 << 3, 31 << 3];
const ALL = 0xffff_ffff;

function script(): Step[] {
  const steps: Step[] = [];
  let what = '';
  const step = (command: string, compare: Compare = null): void => void steps.push({ what, command, compare });
  const hex = (value: number): string => `0x${(value >>> 0).toString(16)}`;
  const select = (devfn: number, offset: number, bus = 0): void =>
    step(`outl 0xcf8 ${hex(0x8000_0000 | (bus << 16) | (devfn << 8) | (offset & 0xfc))}`);
  const read = (devfn: number, offset: number, compare: Compare = ALL, bus = 0): void => {
    select(devfn, offset, bus);
    step('inl 0xcfc', compare);
  };
  const write = (devfn: number, offset: number, value: number, bus = 0): void => {
    select(devfn, offset, bus);
    step(`outl 0xcfc ${hex(value)}`);
  };
  const about = (text: string): void => {
    what = text;
  };
  const ones = (devfn: number, offset: number, compare: Compare, then = 0): void => {
    write(devfn, offset, ALL);
    read(devfn, offset, compare);
    write(devfn, offset, then);
  };

  about('identity');
  for (const devfn of [0, NIC, BRIDGE, LPC]) for (const offset of [0x00, 0x08]) read(devfn, offset, offset === 8 ? 0xffff_ff00 : ALL);
  for (const devfn of [0, NIC, LPC]) read(devfn, 0x2c);
  for (const devfn of [0, NIC, BRIDGE]) read(devfn, 0x0c, 0xff_0000);
  for (const devfn of [0, NIC, LPC]) read(devfn, 0x3c, 0xff00);
  about('narrow and crooked accesses');
  select(NIC, 0);
  for (const command of ['inw 0xcfe', 'inb 0xcfd', 'inb 0xcff', 'inw 0xcfc']) step(command, ALL);
  step('outb 0xcf8 0x55');
  step('outw 0xcfa 0x1234');
  step('inl 0xcfc', ALL);
  about('absent functions');
  for (const devfn of [1 << 3, NIC + 1, 30 << 3, 0xff]) read(devfn, 0);
  for (const bus of [1, 2, 255]) read(0, 0, ALL, bus);
  step('outl 0xcf8 0x00001800');
  step('inl 0xcfc', ALL);
  about('command register');
  write(NIC, 4, 0xffff);
  read(NIC, 4, 0xffff & ~0x40); // QEMU's devices do not have Parity Error Response
  write(NIC, 4, 0);
  read(NIC, 4, 0xffff);
  about('identity is not to be written');
  for (const offset of [0, 8, 0x2c]) {
    write(NIC, offset, 0x1234_5678);
    read(NIC, offset, offset === 8 ? 0xffff_ff00 : ALL);
  }
  write(NIC, 0x3c, 0xffff_ffff);
  read(NIC, 0x3c, 0xffff);
  about('sizing');
  for (const offset of [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24]) ones(NIC, offset, ALL);
  for (const offset of [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24]) ones(LATER, offset, ALL);
  for (const offset of [0x10, 0x14]) ones(LPC, offset, ALL);

  about('decoding of a memory region');
  const seen = (address: number): void => step(`readl ${hex(address + 8)}`, 'device');
  // biome-ignore format: table
  for (const [command, base] of [[0, 0xfe00_0000], [1, 0xfe00_0000], [2, 0xfe00_0000], [2, 0xfd00_0000], [2, ALL], [2, 0xfe01_ffff]] as const) {
    write(NIC, 4, command);
    write(NIC, 0x10, base);
    for (const address of [0xfe00_0000, 0xfd00_0000]) seen(address);
  }
  about('decoding of ports');
  for (const [command, base] of [
    [0, 0xc000],
    [2, 0xc000],
    [1, 0xc000],
    [1, 0xd03f],
    [1, ALL],
    [1, 0x1_0000],
    [1, 0],
  ] as const) {
    write(NIC, 4, command);
    write(NIC, 0x14, base);
    for (const port of [0xc000, 0xc03c, 0xc040, 0xd000, 0xd03c]) step(`inl ${hex(port)}`, 'answered');
  }
  write(NIC, 4, 0);

  about('a bridge');
  for (const [offset, compare] of [
    [0x18, 0x00ff_ffff],
    [0x20, ALL],
    [0x24, ALL],
    [0x28, ALL],
    [0x2c, ALL],
    [0x1c, 0xf0f0],
  ] as const) {
    ones(BRIDGE, offset, compare);
  }
  write(BRIDGE, 0x18, 0x0001_0100);
  for (const devfn of [0, NIC, 0xf8]) read(devfn, 0, ALL, 1);
  read(NIC, 0, ALL, 2);
  write(BRIDGE, 0x18, 0x0007_0500);
  for (const bus of [1, 5, 6, 7, 8]) read(NIC, 0, ALL, bus);
  write(BRIDGE, 0x18, 0x0004_0500); // behind its own back
  for (const bus of [4, 5]) read(NIC, 0, ALL, bus);
  write(BRIDGE, 0x18, 0x0001_0100);
  write(NIC, 0x10, 0xfe10_0000, 1);
  write(NIC, 4, 7, 1);
  for (const [command, window] of [
    [7, 0x0000_fff0],
    [7, 0xfe10_fe10],
    [5, 0xfe10_fe10],
    [7, 0xfe00_fe10],
    [7, 0xfe20_fe00],
  ] as const) {
    write(BRIDGE, 0x20, window);
    write(BRIDGE, 4, command);
    seen(0xfe10_0000);
  }
  about('reset behind a bridge');
  write(BRIDGE, 0x3c, 0x0040_0000);
  write(BRIDGE, 0x3c, 0);
  read(NIC, 4, 0xffff, 1);
  read(NIC, 0x10, ALL, 1);

  about('interrupt pins');
  const interrupt = (bus: number, base: number): void => {
    write(NIC, 0x10, base, bus);
    write(NIC, 4, 7, bus);
    step(`writel ${hex(base + 0xd0)} 1`);
    step(`writel ${hex(base + 0xc8)} 1`);
    read(NIC, 4, 0x0008_0407, bus);
    write(NIC, 4, 0x407, bus);
    read(NIC, 4, 0x0008_0407, bus);
    write(NIC, 4, 7, bus);
    step(`readl ${hex(base + 0xc0)}`);
    for (const route of [0x0a0a_0a0a, 0x0b0b_0b0b, 0x8080_8080]) {
      write(LPC, 0x60, route); // each PIRQ to an ISA line too, to another, and to none
      write(LPC, 0x68, route);
      step(`writel ${hex(base + 0xc8)} 1`);
      step(`readl ${hex(base + 0xc0)}`);
    }
    read(NIC, 4, 0x0008_0407, bus);
  };
  interrupt(0, 0xfe00_0000);
  write(BRIDGE, 0x20, 0xfe10_fe10);
  write(BRIDGE, 4, 7);
  interrupt(1, 0xfe10_0000);

  about('the memory window'); // QEMU drops two bits of the base of a short window, so all three have bases that a long one could have
  // biome-ignore format: table
  for (const [low, addresses] of [
    [0xb000_0000, [0xb000_0000]],
    [0xb000_0001, [0xb000_0000, 0xb00f_8000, 0xb001_8000, 0xb010_0000, 0xb011_8000, 0xb020_0000, 0xbff0_0000]],
    [0xa000_0003, [0xa00f_8000, 0xa7ff_f000, 0xb000_0000, 0xa800_0000]],
    [0xc000_0005, [0xc00f_8000, 0xc3ff_f000, 0xa000_0000, 0xc400_0000]],
  ] as const) {
    write(0, 0x60, 0);
    write(0, 0x64, 0);
    write(0, 0x60, low);
    addresses.forEach((address, index) => void step(`readl ${hex(address)}`, low & 1 && (low & 6 ? index < 2 : true) ? ALL : 'device'));
  }
  for (const command of ['readb 0xc0018002', 'readw 0xc0018002', 'readw 0xc00f8000']) step(command, ALL);

  about('capabilities with MSI and MSI-X');
  for (const [offset, compare] of [
    [0xd0, 0xffff_00ff],
    [0xa0, 0xffff_00ff],
    [0xa4, ALL],
    [0xa8, ALL],
  ] as const)
    read(LATER, offset, compare);
  for (const [offset, compare] of [
    [0xd0, 0xff81_0000],
    [0xd4, ALL],
    [0xd8, ALL],
    [0xdc, 0xffff],
    [0xa0, 0xffff_0000],
    [0xa4, ALL],
    [0xa8, ALL],
  ] as const) {
    ones(LATER, offset, compare);
  }
  write(LATER, 0x1c, 0xfe04_0000);
  write(LATER, 4, 2);
  for (const offset of [0, 0xc, 0x1c, 0x4c, 0x2000]) step(`readl ${hex(0xfe04_0000 + offset)}`, ALL);
  step('writel 0xfe040004 0x12345678');
  step('writeq 0xfe040008 0x0000000055667788');
  step('readl 0xfe040004', ALL);
  step('readl 0xfe040008', ALL);
  step('readl 0xfe04000c', 1);
  step('writel 0xfe042000 0xffffffff');
  step('readl 0xfe042000', ALL);
  return steps;
}

/** Answers of one machine: for each step its value, and the interrupt lines that moved. */
type Answer = { readonly value: number | null; readonly lines: string };

function ask(steps: readonly Step[]): Promise<Answer[]> {
  const devices = [
    'e1000,addr=3,mitigation=off',
    'pci-bridge,chassis_nr=1,id=br,addr=5',
    'e1000,bus=br,addr=3,mitigation=off',
    'e1000e,addr=6',
  ].flatMap((device) => ['-device', device]);
  const child = spawn(QEMU, ['-M', 'q35', '-nodefaults', ...devices, '-S', '-qtest', 'stdio', '-qtest-log', '/dev/null', '-display', 'none']);
  return new Promise((resolve, reject) => {
    const answers: Answer[] = [];
    let lines: string[] = [];
    let rest = '';
    let first = true;
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`QEMU left with ${code} after ${answers.length} answers`)));
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop() as string;
      for (const part of parts) {
        const irq = /^IRQ (raise|lower) (\d+)/.exec(part);
        if (irq) lines.push(`${irq[1] === 'raise' ? '+' : '-'}${irq[2]}`);
        if (!/^(OK|FAIL|ERR)/.test(part)) continue;
        if (!first)
          answers.push({
            value: part.includes(' ') ? Number(BigInt(part.split(' ')[1] as string) & 0xffff_ffffn) : null,
            lines: lines.toSorted().join(' '),
          });
        first = false;
        lines = [];
      }
      if (answers.length < steps.length) return;
      child.removeAllListeners('exit');
      child.kill('SIGKILL');
      resolve(answers);
    });
    child.stdin.write(`irq_intercept_in ioapic\n${steps.map(({ command }) => command).join('\n')}\n`);
  });
}

/** Just enough of a network card to be seen and to interrupt. */
function nic(name: string): PciFunction {
  let [enabled, cause] = [0, 0];
  const memory: Registers = {
    name,
    read(offset) {
      if (offset === 0x08) return 0x8008_0783n;
      if (offset !== 0xc0) return 0n;
      const value = cause;
      cause = 0;
      fn.intx.set(false);
      return BigInt(value);
    },
    write(offset, _width, value) {
      if (offset === 0xd0) enabled |= Number(value);
      if (offset === 0xc8) cause |= Number(value);
      fn.intx.set((cause & enabled) !== 0);
    },
  };
  const fn = new PciFunction({
    name,
    identity: { vendorId: 0x8086, deviceId: 0x100e, revisionId: 3, classCode: 0x020000, interruptPin: 1 },
    bars: [
      { index: 0, kind: 'mem32', bytes: 0x2_0000, registers: memory },
      { index: 1, kind: 'io', bytes: 0x40, registers: { name, read: () => 0n, write: () => {} } },
    ],
    onReset: () => {
      enabled = cause = 0;
    },
  });
  return fn;
}

function ours(steps: readonly Step[]): Answer[] {
  const ports = new Bus('ports', PORT_COUNT);
  const memory = new Bus('memory');
  let lines: string[] = [];
  const q35 = new Q35({
    ports,
    memory,
    dma: { read: () => false, write: () => false },
    msi: { send: () => {} },
    lines: new SharedLines((gsi) => ({ set: (level) => void lines.push(`${level ? '+' : '-'}${gsi}`) })),
  });
  q35.add(nic('nic'), 3);
  const bridge = q35.add(new PciBridge({ name: 'bridge', identity: { vendorId: 0x1b36, deviceId: 1, classCode: BRIDGE_CLASS } }), 5);
  bridge.secondary.add(nic('behind'), 3);
  const quiet: Registers = { name: 'later', read: () => 0n, write: () => {} };
  const later = new PciFunction({
    name: 'later',
    identity: { vendorId: 0x8086, deviceId: 0x10d3, classCode: 0x020000, interruptPin: 1 },
    bars: [
      { index: 0, kind: 'mem32', bytes: 0x2_0000, registers: quiet },
      { index: 1, kind: 'mem32', bytes: 0x2_0000, registers: quiet },
      { index: 2, kind: 'io', bytes: 0x20, registers: quiet },
      { index: 3, kind: 'mem32', bytes: 0x4000, registers: quiet },
    ],
  });
  later.addMsi({ vectors: 1, wide: true, at: 0xd0 });
  later.addMsix({ bar: 3, vectors: 5, tableOffset: 0, pbaOffset: 0x2000, at: 0xa0 });
  q35.add(later, 6);

  return steps.map(({ command }) => {
    const [verb = '', at = '0', to] = command.split(' ');
    const bus = /^(in|out)/.test(verb) ? ports : memory;
    const width = { b: 1, w: 2, l: 4, q: 8 }[verb.at(-1) as 'b' | 'w' | 'l' | 'q'] as Width;
    lines = [];
    const value = to === undefined ? Number(bus.read(Number(at), width) & 0xffff_ffffn) : null;
    if (to !== undefined) bus.write(Number(at), width, BigInt(to));
    return { value, lines: lines.toSorted().join(' ') };
  });
}

describe.skipIf(missing !== null)(`PCI as in QEMU${missing ? ` (skipped: ${missing})` : ''}`, () => {
  it('answers one script of accesses alike', async () => {
    const steps = script();
    const [theirs, mine] = [await ask(steps), ours(steps)];
    const seen = (compare: Compare, value: number | null): string => {
      if (compare === null || value === null) return '';
      if (compare === 'device') return String(value !== ALL && value !== 0);
      return compare === 'answered' ? String(value !== ALL) : `0x${((value & compare) >>> 0).toString(16)}`;
    };
    const describeStep = ({ what, command, compare }: Step, index: number, { value, lines }: Answer): string =>
      `${index} ${what}: ${index > 0 && command.endsWith('cfc') ? `${steps[index - 1]?.command}; ` : ''}${command} -> ${seen(compare, value)} ${lines}`;
    expect(steps.map((step, index) => describeStep(step, index, mine[index] as Answer))).toEqual(
      steps.map((step, index) => describeStep(step, index, theirs[index] as Answer)),
    );
    expect(steps.filter(({ compare }) => compare !== null).length).toBeGreaterThan(150);
    expect(new Set(theirs.map(({ lines }) => lines)).size).toBeGreaterThan(5);
  });
});
