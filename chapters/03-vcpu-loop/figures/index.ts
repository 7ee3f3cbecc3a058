// The chapter's recorded runs, which its sentences and figures quote.

import { Recorder, type Timed } from '../../01-hardware-background/trace.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import { Kvm, type Vcpu } from '../../02-kvm-objects/kvm.ts';
import { smallestVmm } from '../index.ts';
import { type RunnableKernel, softKernel } from '../kernel/index.ts';

const recorder = new Recorder();
const run = smallestVmm(softKernel({ trace: recorder }), recorder);

export const smallestTrace = recorder.events;
export const smallest = { ...run, vmExits: recorder.of('kvm_exit').length };

const GUEST_GPA = 0x1000;
const RAM_BYTES = 0x10000;

/** Runs real-mode code until it halts, on a fresh soft kernel; every other return of KVM_RUN is given to `serve`. */
function runReal(code: readonly number[], si: number, kernel: RunnableKernel, trace: Recorder, serve: (vcpu: Vcpu) => void): void {
  const kvm = Kvm.open(kernel, { trace });
  const vm = kvm.createVm();
  const { hva, bytes } = kvm.allocate(RAM_BYTES);
  bytes.set(code, GUEST_GPA);
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: RAM_BYTES, userspace_addr: hva });
  const vcpu = vm.createVcpu(0);
  const { cs } = vcpu.getSregs();
  vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 } });
  vcpu.setRegs({ rip: BigInt(GUEST_GPA), rflags: 2n, rsi: BigInt(si) });
  while (vcpu.run() !== EXIT.KVM_EXIT_HLT) serve(vcpu);
}

// again: mov cx, 20; dec cx; jnz $-1; xor eax, eax; cpuid; mov al, '!'; out 0xe9, al; dec si; jnz again; hlt
const THREE_MODES = [0xb9, 20, 0, 0x49, 0x75, 0xfd, 0x66, 0x31, 0xc0, 0x0f, 0xa2, 0xb0, 0x21, 0xe6, 0xe9, 0x4e, 0x75, 0xee, 0xf4];
const ROUNDS = 3;

function recordModes(): readonly Timed[] {
  const trace = new Recorder();
  runReal(THREE_MODES, ROUNDS, softKernel({ trace }), trace, () => {});
  return trace.events.slice(trace.events.findIndex(({ kind }) => kind === 'kvm_entry'));
}

/** A guest that computes, asks the kernel for CPUID and the VMM for a port, some rounds long: from its first entry to its halt. */
export const modesTrace = recordModes();
const count = (kind: Timed['kind']): number => modesTrace.filter((event) => event.kind === kind).length;

/** How often that guest crossed the inner door and the outer one, and the instructions it had for itself. */
export const modes = {
  rounds: ROUNDS,
  vmExits: count('kvm_exit'),
  userExits: count('kvm_userspace_exit'),
  instructions: (modesTrace.at(-1) as Timed).t - (modesTrace[0] as Timed).t,
};

/** One step of {@link replay}. */
export interface ReplayStep {
  readonly kind: 'exit' | 'attempt' | 'user' | 'answer';
  readonly text: string;
}

const DEVICE_SEGMENT = 0xc000;
const DEVICE_OFFSET = 0x10;
/** What the device register held before. */
const DEVICE_VALUE = 40;
const ADDEND = 2;
// mov bx, 0xc000; mov ds, bx; mov al, 2; add [0x10], al; hlt
const READ_MODIFY_WRITE = [0xbb, DEVICE_SEGMENT & 0xff, DEVICE_SEGMENT >> 8, 0x8e, 0xdb, 0xb0, ADDEND, 0x00, 0x06, DEVICE_OFFSET, 0x00, 0xf4];

function recordReplay(): { readonly steps: readonly ReplayStep[]; readonly before: number; readonly addend: number; readonly register: number } {
  const trace = new Recorder({ only: ['kvm_exit'] });
  const kernel = softKernel({ trace });
  const { emulator } = kernel.loop;
  const steps: ReplayStep[] = [];
  let exits = 0;
  /** The exit that led to an attempt; those before it were the kernel's own affair. */
  const noteExit = (): void => {
    const seen = trace.of('kvm_exit');
    const last = seen.at(-1);
    if (last && seen.length > exits) steps.push({ kind: 'exit', text: last.reason });
    exits = seen.length;
  };
  const attempt = emulator.attempt.bind(emulator);
  emulator.attempt = (vcpu, answers, items) => {
    noteExit();
    const result = attempt(vcpu, answers, items);
    const known = answers.length === 0 ? 'no answer yet' : `answer ${answers.map(String).join(', ')}`;
    const outcome =
      result.kind === 'read'
        ? `abandoned: must read 0x${result.access.gpa.toString(16)}`
        : result.kind === 'done'
          ? `done, ${result.writes.length} write to deliver`
          : result.kind;
    steps.push({ kind: 'attempt', text: `${known}: ${outcome}` });
    return result;
  };
  let register = DEVICE_VALUE;
  runReal(READ_MODIFY_WRITE, 0, kernel, trace, ({ page }) => {
    const data = page.mmioData();
    steps.push({ kind: 'user', text: page.describe().replace(' of 1 bytes', '') });
    if (page.mmioWrite) {
      register = data[0] as number;
      steps.push({ kind: 'answer', text: `KVM_RUN; the register is ${register} now` });
    } else {
      data[0] = register;
      steps.push({ kind: 'answer', text: `KVM_RUN, with ${register} in the page` });
    }
  });
  return { steps, before: DEVICE_VALUE, addend: ADDEND, register };
}

/** An ADD to a device register, as the kernel and the VMM saw it. */
export const replay = recordReplay();
