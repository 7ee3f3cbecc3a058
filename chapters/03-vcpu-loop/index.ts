// # The vCPU loop
//
// A machine with memory and a processor is standing still. This chapter makes it run, and the whole of it is about one call: `ioctl(vcpu,
// KVM_RUN)`. The call enters the guest, and comes back when the guest did something that its processor cannot finish alone.
//
// That sounds like a function call into the guest, and the naive VMM treats it like one: call, look at the reason, do what was asked, call
// again. The naive VMM is right. Everything below is about the three words in that sentence that hide something: *comes back* (to whom?), *finish*
// (who completes a half-done instruction?), and *again* (what if something else has to happen first?).
//
// ## The smallest VMM
//
// A guest of three instructions: load a byte, write it to a port, halt. And a program that makes a machine for it, runs it, and believes what it
// is told.

import type { Trace } from '../01-hardware-background/trace.ts';
import { EXIT } from '../02-kvm-objects/abi/exits.ts';
import type { Kernel } from '../02-kvm-objects/kernel.ts';
import { Kvm } from '../02-kvm-objects/kvm.ts';

/** mov al, '!'; out 0xe9, al; hlt */
export const GUEST: readonly number[] = [0xb0, 0x21, 0xe6, 0xe9, 0xf4];
const GUEST_GPA = 0x1000;
const RAM_BYTES = 0x10000;

/** What {@link smallestVmm} saw: the bytes that the guest wrote to ports, and how often KVM_RUN came back. */
export interface SmallestRun {
  readonly output: string;
  readonly returns: number;
}

/** Runs {@link GUEST} in real mode until it halts. @throws Errno when the kernel refuses; Error for an exit that such a guest cannot cause. */
export function smallestVmm(kernel: Kernel, trace: Trace | null = null): SmallestRun {
  const kvm = Kvm.open(kernel, { trace });
  const vm = kvm.createVm();
  const { hva, bytes } = kvm.allocate(RAM_BYTES);
  bytes.set(GUEST, GUEST_GPA);
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: RAM_BYTES, userspace_addr: hva });

  const vcpu = vm.createVcpu(0);
  const { cs } = vcpu.getSregs();
  vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 } }); // away from the reset vector: there is no ROM there
  vcpu.setRegs({ rip: BigInt(GUEST_GPA), rflags: 2n });

  let output = '';
  for (let returns = 1; ; returns++) {
    switch (vcpu.run()) {
      case EXIT.KVM_EXIT_IO:
        if (vcpu.page.ioOut) output += String.fromCharCode(...vcpu.page.ioData());
        break;
      case EXIT.KVM_EXIT_HLT:
        vcpu.close();
        vm.close();
        kvm.close();
        kernel.free(hva);
        return { output, returns };
      default:
        throw new Error(`this guest cannot cause ${vcpu.page.describe()}`);
    }
  }
}

// Run when this page was built, the guest said "{{smallest.output}}" and `KVM_RUN` came back {{words(smallest.returns)}} times: once with the byte,
// once because it halted. Behind those were {{smallest.vmExits}} VM exits; the difference is what the kernel settled by itself, and the next
// section's subject.

// ## Two loops, one inside the other
//
// The loop above is the *outer* one. It is in user space, in QEMU, in crosvm, in this chapter's `vmm.ts`, and it goes round once for every
// *user-space exit*. Inside `KVM_RUN` is the *inner* loop, in the kernel, and it goes round once for every VM exit of the hardware. Most VM
// exits never reach the outer loop: the kernel answers a `CPUID`, maps a page, takes a host interrupt, and enters again.
//
// ```text
//   user     ┌───────────────────────────────────────────────┐
//            │ outer loop: KVM_RUN ─ what was it? ─ device ─ │
//            └───────┬───────────────────────▲───────────────┘
//   kernel   ┌───────▼───────────────────────┴───────────────┐
//            │ inner loop: inject ─ enter ─ exit ─ settle? ─ │
//            └───────┬───────────────────────▲───────────────┘
//   guest            └─ runs on the hardware ─┘
// ```
//
// So a guest's processor is always in one of three places: in *guest mode*, in the *kernel*, or in *user mode*, and each crossing costs more than the
// one inside it. Where a workload spends its time is the first question anybody asks about its performance; where an *exit* is handled is the first
// design decision of every device in this book.
//
// ::figure double-loop -- The double loop, drawn from a recorded run of the smallest VMM: time goes down, each crossing is an event of the trace.
//
// What the difference is, the figure shows: the guest touched a page that the second-stage tables did not have yet. The program never heard of it.
//
// A guest that does more gives a better picture of the proportions. The next one goes {{words(modes.rounds)}} times through the same few lines: it
// counts down, asks for CPUID, writes to a port. CPUID is the kernel's to answer; the port is the VMM's.
//
// ::figure three-modes -- Who runs when. The guest's bars are as long as the instructions that it retired; the others have one width.
//
// In {{modes.instructions}} instructions there were {{modes.vmExits}} VM exits, and {{words(modes.userExits)}} of them went all the way up. On a real
// processor the bars of the guest would be almost invisible: those instructions take a fraction of a microsecond, and each of the visits more.
//
// Now the inner loop itself: how it is installed in the kernel of the last chapter, the loop, the table of those who answer an exit, and the small
// duty of moving past an instruction that somebody else has carried out.
//
// ::include kernel/index.ts
// ::include kernel/run.ts
// ::include kernel/exits.ts
// ::include kernel/task-switch.ts
// ::include kernel/skip.ts
//
// ## Half-done instructions
//
// An `IN` has no result until the device has been asked, and the device is two crossings away. So the exit happens *before* the instruction is
// complete, and the reply is given on the way back: the VMM writes the value into the shared page, calls `KVM_RUN`, and the kernel finishes
// the instruction -- puts the value in AL, moves RIP -- before it enters the guest.
//
// There is a consequence that has bitten every VMM once. Between the exit and the next `KVM_RUN` the guest's registers are those of *no* moment: the
// instruction has neither happened nor not happened. A VMM that saves the state there saves nonsense. The ABI's answer is `immediate_exit`: set it,
// call `KVM_RUN`, and the kernel completes what is pending and comes straight back with `EINTR`.
//
// An access to memory that no slot backs is the harder case, because the hardware says only *that* address `X` was touched, not by what. For a port,
// the exit qualification carries size, direction and number; for memory the kernel has to fetch the guest's instruction, decode it and perform
// it on the guest's behalf. That is the emulator, and KVM's is one of the largest files in it. Ours is small, because chapter 1's instruction set is
// already written once and runs here a second time, with a different idea of what memory is.
//
// ::include kernel/pio.ts
// ::include kernel/emulator.ts
// ::include kernel/emulate.ts
// ::include kernel/mode.ts
//
// ::figure mmio-replay -- `ADD [device], AL`, with {{replay.before}} in the register and {{replay.addend}} in AL, which makes {{replay.register}}.
//
// The attempt that is thrown away is the price of having only one description of each instruction. Linux's emulator pays in another coin: it
// keeps the half-decoded instruction, with the operand that it waits for, in the vCPU, and goes on from there.
//
// ## Interrupting
//
// Whoever wants to give the guest an interrupt meets a guest that may not be able to take it: RFLAGS.IF is clear, or the last instruction was an
// `STI`, or another event is on its way. The hardware cannot hold the request; it has one slot, the VM-entry interruption field, and it must be
// filled with something deliverable. So the injector asks to be called back: it sets `request_interrupt_window`, the kernel turns on
// *interrupt-window exiting*, and the moment the guest can take an interrupt the processor exits. `KVM_EXIT_IRQ_WINDOW_OPEN` is that moment in the
// outer loop. With an interrupt controller in the kernel, which chapter 5 adds, all this happens one loop further in.
//
// ::include kernel/events.ts
// ::include attention.ts
//
// A debugger wants the processor's attention too, and has a request of its own for it. What it borrows belongs to the guest.
//
// ::include kernel/debug.ts
//
// ## Threads and kicks
//
// `KVM_RUN` does not return while the guest computes. A machine with two processors therefore needs two threads, and a VMM with devices needs one
// more, for input and timers; and a thread that is inside a guest cannot be told anything. It can only be *kicked*: a signal makes the kernel leave
// the guest, and `KVM_RUN` returns `EINTR`. The race in it is famous. Between the VMM's last look at its queue and the entry into the guest a signal
// may arrive and be handled, and then the guest runs for ever with the message unread. Two cures exist. `KVM_SET_SIGNAL_MASK` has the signal blocked
// outside `KVM_RUN` and unblocked, atomically, inside. `immediate_exit`, younger and cheaper, is a flag in the shared page that the signal handler
// sets: if the handler runs too early, the flag makes the entry that follows fail.
//
// On the software kernel there are no threads. Its vCPUs take turns, each until it halts or has used up a bound on instructions, the way QEMU's
// emulator ran its processors before 2017: what is lost is parallelism, what is gained is that two runs are the same to the byte.
//
// ::include vmm.ts
//
// ## What a machine is made of
//
// The outer loop needs something to hand exits to. It is deliberately little here: two buses, a serial port, two debug ports, and for the conformance
// suite some registers without behaviour and a device that interrupts when it is told to. Chapter 5 builds a real PC around the same loop.
//
// ::include board.ts
// ::include platform.ts
// ::include devices/bus.ts
// ::include devices/serial.ts
// ::include devices/debugcon.ts
// ::include devices/debug-exit.ts
// ::include devices/scratch.ts
// ::include devices/injector.ts
//
// And the guest has to get into memory. A bare-metal program can be started in several ways, each with its own idea of what the processor looks
// like at the first instruction; a boot protocol is nothing but that idea written down.
//
// ::include doors.ts
// ::include elf.ts
// ::include handover.ts
//
// ## On a real kernel
//
// There `KVM_RUN` blocks, so each processor gets a thread of its own, and everything said above about kicks becomes code. The protocol comes first,
// because it is three words long and everything depends on who may write them; then its two ends, and the machine that has them.
//
// ::include host/handshake.ts
// ::include host/vcpu-worker.ts
// ::include host/vcpu-thread.ts
// ::include host/host-machine.ts
//
// ## In the real systems
//
// The inner loop is `vcpu_run()` in Linux's `arch/x86/kvm/x86.c`, around `vcpu_enter_guest()`, which is several hundred lines of *what has to happen
// before entry*: requests from other threads, pending timers, an event to inject, the FPU to load, interrupts off, one last look at the signal flag,
// and only then `vmx_vcpu_run()`. Exits go through a table of functions indexed by basic exit reason, `kvm_vmx_exit_handlers` in `vmx/vmx.c`; a
// function that returns 1 has settled the matter, one that returns 0 has filled in `kvm_run` and wants user space. This book's `kernel/` keeps both
// the table and the meaning of the result.
//
// The half-done instruction lives in `vcpu->arch.complete_userspace_io`, a pointer to the function that will finish it. The emulator is
// `emulate.c`, some five and a half thousand lines, with its own decoder, because a hypervisor that runs on the bare processor cannot ask that
// processor what an instruction would have done.
//
// In QEMU the outer loop is `kvm_cpu_exec()` in `accel/kvm/kvm-all.c`: a `do … while (ret == 0)` around the ioctl with a `switch` over the exit
// reason. The kick is `qemu_cpu_kick()`: it sends the thread `SIG_IPI`, whose handler sets `immediate_exit`. Firecracker's is
// `Vcpu::run_emulation()`, and it kicks with a real-time signal whose handler writes the same flag.
//
// How often a guest leaves, for which reason, and how long it stays away is what `perf kvm stat` prints on a Linux host, from the tracepoints
// `kvm_entry` and `kvm_exit`: the events of this book's trace have their names.
//
// ## Exercises
//
// 1. The smallest VMM moves CS away from the reset vector. Remove that line and run it on both kernels. Which exit do you get, at which address, and
//    why is it not a triple fault at once?
// 2. Write a guest that reads a port with `REP INSB` into a buffer that crosses a page boundary. How many returns from `KVM_RUN`, and with which
//    counts? Now `REP INSW`. The second answer contains an oddity of Linux that its guests can see; find the comment in `kernel/emulator.ts`.
// 3. Replace the exit-before-completion of `IN` by completion in the VMM: let the outer loop write RAX and move RIP itself. What is the first thing
//    that goes wrong? (Think of `IN` with a 16-bit operand, then of a single-stepping debugger.)
// 4. Turn off the interrupt window: inject whenever something is pending. Which check of VM entry stops you, and what does the program see?
// 5. In the live page, run `exit-storm` and read the share of the three modes from the timeline. Then predict what it would be if the device were in
//    the kernel, and measure it when chapter 5 has made that possible.
