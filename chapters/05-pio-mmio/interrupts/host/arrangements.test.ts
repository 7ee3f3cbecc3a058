import { afterEach, describe, expect, it } from 'vitest';
import { EXIT, exitName } from '../../../02-kvm-objects/abi/exits.ts';
import { TimerQueue } from '../../../02-kvm-objects/clock.ts';
import { HostKernel, hostKernelAvailable } from '../../../02-kvm-objects/host/host-kernel.ts';
import type { Kernel } from '../../../02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu } from '../../../02-kvm-objects/kvm.ts';
import type { Attention } from '../../../03-vcpu-loop/attention.ts';
import { Chassis } from '../../../03-vcpu-loop/chassis.ts';
import { DEBUG_EXIT_PORT, DebugExit } from '../../../03-vcpu-loop/devices/debug-exit.ts';
import { platformKernel } from '../../kernel/index.ts';
import { interruptController } from '../arrangements.ts';
import type { Arrangement, InterruptController } from '../controller.ts';
import { LAPIC } from '../lapic-registers.ts';
import { UserController } from '../user-space.ts';

// Guests of a few dozen bytes, in real mode, the one mode that every kernel can run. A segment whose base the test sets reaches the APICs' pages.

const LAPIC_PAGE = 0xfee0_0000n;
const IOAPIC_PAGE = 0xfec0_0000n;
const CODE = 0x1000;
const HANDLER = 0x1800;
const AP_PAGE = 0x3;
const RESULT = 0x2000;
const RAM_BYTES = 0x10000;

const word = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff];
const dword = (value: number): number[] => [...word(value & 0xffff), ...word(value >>> 16)];
/** out imm8, imm8 */
const out = (port: number, ...values: number[]): number[] => values.flatMap((value) => [0xb0, value, 0xe6, port]);
/** mov word [address], imm16 */
const store = (address: number, value: number): number[] => [0xc7, 0x06, ...word(address), ...word(value)];
/** mov dword es:[offset], imm32: a register of the local APIC */
const lapic = (offset: number, value: number): number[] => [0x26, 0x66, 0xc7, 0x06, ...word(offset), ...dword(value)];
/** mov dword fs:[offset], imm32: the I/O APIC's */
const ioapic = (index: number, value: number): number[] =>
  [[0, index] as const, [0x10, value] as const].flatMap(([offset, data]) => [0x64, 0x66, 0xc7, 0x06, ...word(offset), ...dword(data)]);
const vector = (number: number, handler: number): number[] => [...store(4 * number, handler), ...store(4 * number + 2, 0)];
const [CLI, STI, HLT, IRET] = [0xfa, 0xfb, 0xf4, 0xcf];
const INIT_PICS = [...out(0x20, 0x11), ...out(0x21, 0x20, 4, 1), ...out(0xa0, 0x11), ...out(0xa1, 0x28, 2, 1)];
/** inc word [RESULT + at] */
const count = (at = 0): number[] => [0xff, 0x06, ...word(RESULT + at)];
/** cli; cmp word [RESULT + at], times; jae past; sti; hlt; jmp back */
const untilCounted = (times: number, at = 0): number[] => [CLI, 0x83, 0x3e, ...word(RESULT + at), times, 0x73, 4, STI, HLT, 0xeb, 0xf4];
// INIT takes the test's segments away. In protected mode a descriptor gives ES its base, which stays when the processor is back in real mode.
const GDTR = 0x2100;
const DESCRIPTORS = { [GDTR]: [0xf, 0, ...dword(GDTR + 8)], [GDTR + 16]: [0xff, 0xff, 0, 0, 0xe0, 0x93, 0, 0xfe] };
// biome-ignore format: table
const REACH_LAPIC = [
  0x0f, 0x01, 0x16, ...word(GDTR), // lgdt [GDTR]
  0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, // CR0.PE = 1
  0xbb, 8, 0, 0x8e, 0xc3, // mov es, 8
  0x24, 0xfe, 0x0f, 0x22, 0xc0, // CR0.PE = 0
];
const LEAVE = out(DEBUG_EXIT_PORT, 0);

class Small extends Chassis {
  readonly exit = new DebugExit();
  readonly interrupts: InterruptController;
  readonly console = new Uint8Array();

  constructor(interrupts: InterruptController) {
    super();
    this.interrupts = interrupts;
    this.ports.attach(DEBUG_EXIT_PORT, 1, this.exit);
    interrupts.attach(this.ports, this.mmio);
  }
}

/** A machine whose time passes only when every processor waits. */
function machine(kernel: Kernel, arrangement: Arrangement, parts: Readonly<Record<number, readonly number[]>>, processors = 1) {
  let now = 0;
  const clock = new TimerQueue(() => now);
  const interrupts = interruptController(arrangement, { clock });
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  const { hva, bytes } = kvm.allocate(RAM_BYTES);
  for (const [at, code] of Object.entries(parts)) bytes.set(code, Number(at));
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: RAM_BYTES, userspace_addr: hva });
  interrupts.prepare(vm);
  const chassis = new Small(interrupts);
  const segments = (vcpu: Vcpu): void => {
    const sregs = vcpu.getSregs();
    const data = { ...sregs.ds, base: 0n, selector: 0 };
    vcpu.setSregs({ ds: data, ss: data, es: { ...data, base: LAPIC_PAGE }, fs: { ...data, base: IOAPIC_PAGE } });
  };
  const vcpus = Array.from({ length: processors }, (_, id) => {
    const vcpu = vm.createVcpu(id);
    vcpu.setCpuid2(interrupts.cpuid(kvm.getSupportedCpuid()));
    return vcpu;
  });
  const attention = vcpus.map((vcpu) => interrupts.attentionFor(vcpu));
  const first = vcpus[0] as Vcpu;
  segments(first);
  first.setSregs({ cs: { ...first.getSregs().cs, base: 0n, selector: 0 } });
  first.setRegs({ rip: BigInt(CODE), rsp: 0x8000n, rflags: 2n });
  const exits: Record<string, number> = {};
  /** Runs until the guest leaves; the names of the exits, counted. */
  const run = (between: () => void = () => {}): Record<string, number> => {
    for (let turn = 0; turn < 2000 && chassis.exit.status === null; turn++) {
      between();
      let ran = false;
      for (const vcpu of vcpus) {
        const waits = attention[vcpu.id] as Attention;
        if (waits.halted) waits.halted = !waits.wakes(vcpu.page);
        if (waits.halted) continue;
        waits.offer(vcpu);
        const reason = vcpu.run();
        exits[exitName(reason)] = (exits[exitName(reason)] ?? 0) + 1;
        interrupts.returned(vcpu);
        if (interrupts.answer(reason, vcpu)) ran = true;
        else {
          const { kind } = chassis.answer(reason, vcpu);
          if (kind === 'end') throw new Error(`${vcpu.page.describe()} at ${vcpu.getRegs().rip.toString(16)}`);
          if (kind === 'halted') waits.halted = !waits.wakes(vcpu.page);
          else if (reason !== EXIT.KVM_EXIT_INTR) ran = true;
          if (chassis.exit.status !== null) break;
        }
      }
      if (!ran && clock.next !== null) {
        now = Math.max(now, clock.next);
        clock.runDue();
      }
    }
    expect(chassis.exit.status).toBe(1);
    return exits;
  };
  return {
    interrupts,
    vcpus,
    ram: bytes,
    run,
    attention,
    result: (at = 0): number => (bytes[RESULT + at] as number) | ((bytes[RESULT + at + 1] as number) << 8),
  };
}

const here = hostKernelAvailable();
const KERNELS: { name: string; make: () => Kernel & { dispose?(): void }; arrangements: readonly Arrangement[]; reason: string | null }[] = [
  { name: 'the soft kernel', make: () => platformKernel(), arrangements: ['on', 'split', 'off'], reason: null },
  { name: "the host's kernel", make: () => new HostKernel(), arrangements: ['on', 'split', 'off'], reason: here.available ? null : here.reason },
];

for (const { name, make, arrangements, reason } of KERNELS) {
  describe.skipIf(reason !== null)(`${name}${reason ? ` (skipped: ${reason})` : ''}`, () => {
    let kernel: ReturnType<typeof make>;
    afterEach(() => kernel?.dispose?.());

    describe.each(arrangements)('interrupt controllers %s', (arrangement) => {
      it('brings the 8254 through the 8259s', () => {
        kernel = make();
        const { run, result } = machine(kernel, arrangement, {
          [CODE]: [
            CLI,
            ...vector(0x20, HANDLER),
            ...INIT_PICS,
            ...out(0x21, 0xfe),
            ...out(0xa1, 0xff),
            ...out(0x43, 0x34),
            ...out(0x40, 0x9c, 0x2e), // 11932: 10 ms
            STI,
            ...untilCounted(3),
            ...LEAVE,
          ],
          [HANDLER]: [...count(), 0x50, ...out(0x20, 0x20), 0x58, IRET],
        });
        const exits = run();
        expect(result()).toBe(3);
        if (arrangement === 'on') expect(exits).not.toHaveProperty('KVM_EXIT_HLT');
      });

      it('asks a level again until the device is silent', () => {
        kernel = make();
        const { run, result, interrupts } = machine(kernel, arrangement, {
          [CODE]: [
            CLI,
            ...vector(0x41, HANDLER),
            ...out(0x21, 0xff),
            ...out(0xa1, 0xff),
            ...lapic(LAPIC.SVR, 0x1ff),
            ...ioapic(0x11 + 2 * 20, 0),
            ...ioapic(0x10 + 2 * 20, 0x8041),
            STI,
            ...out(0x80, 1),
            ...untilCounted(3),
            ...LEAVE,
          ],
          [HANDLER]: [...count(), ...out(0x81, 1), ...lapic(LAPIC.EOI, 0), IRET],
        });
        const line = interrupts.line(20);
        let raised = false;
        run(() => {
          if (!raised) line.set(true);
          raised = true;
          if (result() >= 3) line.set(false);
        });
        expect(result()).toBe(3);
      });

      it('delivers an MSI', () => {
        kernel = make();
        const { run, result, interrupts } = machine(kernel, arrangement, {
          [CODE]: [
            CLI,
            ...vector(0x51, HANDLER),
            ...lapic(LAPIC.LINT0, 0x10000),
            ...lapic(LAPIC.SVR, 0x1ff),
            STI,
            ...out(0x80, 1),
            ...untilCounted(2),
            ...LEAVE,
          ],
          [HANDLER]: [...count(), ...lapic(LAPIC.EOI, 0), IRET],
        });
        let sent = 0;
        run(() => {
          // After the guest has enabled its APIC; each when the one before has been counted.
          if (result() === sent && sent < 2) interrupts.msi.send(0xfee0_0000, 0x51);
          sent = result();
        });
        expect(result()).toBe(2);
      });

      it('holds a vector back while TPR is above it, and is as new after a reset', () => {
        kernel = make();
        const { run, result, interrupts, vcpus } = machine(kernel, arrangement, {
          [CODE]: [
            CLI,
            ...vector(0x51, HANDLER),
            ...lapic(LAPIC.SVR, 0x1ff),
            ...lapic(LAPIC.TPR, 0x55),
            ...lapic(LAPIC.ICR, 0x4_0051),
            STI,
            ...out(0x80, 1, 2, 3),
            ...[0xa1, ...word(RESULT), 0xa3, ...word(RESULT + 2)], // what has been counted so far
            ...lapic(LAPIC.TPR, 0x4f),
            ...untilCounted(1),
            ...LEAVE,
          ],
          [HANDLER]: [...count(), ...lapic(LAPIC.EOI, 0), IRET],
        });
        run();
        expect([result(2), result()]).toEqual([0, 1]);
        if (interrupts instanceof UserController) {
          expect([interrupts.lapic(0)?.tpr, vcpus[0]?.getSregs().cr8]).toEqual([0x4f, 4n]);
        }
        interrupts.reset();
      });

      it('starts a second processor by INIT and SIPI, which answers with an interrupt', () => {
        kernel = make();
        const { run, result } = machine(
          kernel,
          arrangement,
          {
            [CODE]: [
              CLI,
              ...vector(0x61, HANDLER),
              ...lapic(LAPIC.SVR, 0x1ff),
              ...lapic(LAPIC.ICR2, 0x0100_0000),
              ...lapic(LAPIC.ICR, 0xc500),
              ...lapic(LAPIC.ICR, 0x4600 | AP_PAGE),
              STI,
              ...untilCounted(1, 0), // by the handler
              ...LEAVE,
            ],
            [HANDLER]: [...count(), ...lapic(LAPIC.EOI, 0), IRET],
            [AP_PAGE << 12]: [...count(2), ...REACH_LAPIC, ...lapic(LAPIC.SVR, 0x1ff), ...lapic(LAPIC.ICR2, 0), ...lapic(LAPIC.ICR, 0x61), CLI, HLT],
            ...DESCRIPTORS,
          },
          2,
        );
        run();
        expect([result(0), result(2)]).toEqual([1, 1]);
      });
    });
  });
}
