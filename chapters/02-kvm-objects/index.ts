// # KVM objects
//
// The processor of chapter 1 can run a guest. But an instruction that enters a guest is for root operation in ring 0, and a program that wants a
// virtual machine is an ordinary process in ring 3. Something in between has to hold the machine, decide who may have one, and survive
// the program's mistakes. On Linux that something is a kernel module, kvm.ko, and this chapter is its outside: what a program sees of it,
// and the objects behind what it sees.
//
// The naive way is a new system call: `run_guest(registers, memory)`. Try to write down its arguments and it falls apart. A machine has several
// processors, each with its own thread; so a processor must be a thing that outlives one call. They share memory; so a machine must be a thing
// that several processors belong to. The program may die at any moment with a guest half way through an instruction; so somebody must know
// what to take down, in which order. What is wanted is *objects in the kernel with owners in user space*, and Unix has had exactly one way
// to spell that since the beginning: the file descriptor.
//
// ## Three objects, three descriptors
//
// `/dev/kvm` is a character device. Opening it gives the first descriptor, and it stands for the module itself: one can ask it what it can do, and
// have it make a machine. The machine is a second descriptor: memory is given to it, and it makes processors. Each processor is a third:
// registers are read and written through it, and it runs.
//
// ```text
//   open("/dev/kvm")                      system:  what can this kernel do?
//        │ ioctl KVM_CREATE_VM
//        ▼
//   anon_inode:kvm-vm                     VM:      memory slots, interrupt routing, one per machine
//        │ ioctl KVM_CREATE_VCPU
//        ▼
//   anon_inode:kvm-vcpu:0                 vCPU:    registers, KVM_RUN, and an mmap-able page: struct kvm_run
// ```
//
// The hierarchy is one of ownership, and it keeps itself right without the program's help: a vCPU holds a reference to its machine, so the
// machine lives until the last processor's descriptor is closed, in whatever order the process dies. Nothing has to be destroyed by name.
// There is no `KVM_DESTROY_VM`.
//
// ::figure three-descriptors -- Each descriptor is made by a request on the one before it; below each, the requests that it answers in this chapter.
//
// Here is the smallest program that holds all three. It is written against `Kernel`, which is the system-call layer and nothing more, so it
// runs on the kernel of this book and on Linux's alike.

import type { Trace } from '../01-hardware-background/trace.ts';
import type { Kernel } from './kernel.ts';
import { Kvm } from './kvm.ts';

/** What {@link threeObjects} found out. */
export interface FirstContact {
  readonly descriptors: readonly [system: number, vm: number, vcpu: number];
  /** Bytes that have to be mapped for `struct kvm_run` and the pages behind it. */
  readonly runBytes: number;
  /** CS base plus RIP of a processor that nobody has touched: where x86 starts. */
  readonly resetVector: bigint;
}

/** Makes one of each object, looks at them, and lets go from the top down. @throws Errno when the kernel refuses. */
export function threeObjects(kernel: Kernel, trace: Trace | null = null): FirstContact {
  const kvm = Kvm.open(kernel, { trace });
  const vm = kvm.createVm();
  const vcpu = vm.createVcpu(0);
  const descriptors = [kvm.fd, vm.fd, vcpu.fd] as const;
  const runBytes = kvm.vcpuMmapBytes();
  kvm.close();
  vm.close();
  const resetVector = vcpu.getSregs().cs.base + vcpu.getRegs().rip;
  vcpu.close();
  return { descriptors, runBytes, resetVector };
}

// Run on our kernel when this page was built, it was given descriptors {{firstContact.descriptors.join(', ')}}, a run area of
// {{size(firstContact.runBytes)}}, and a processor that would fetch its first instruction at {{hex(firstContact.resetVector)}}: sixteen bytes below 4
// GiB, where every x86 has started since the 80386. The program closed the system's descriptor and the machine's *before* it read that address from
// the processor, and nothing went wrong.
//
// ::figure ioctls -- What crossed the line, in order: every request of the program above and its result, from the trace of that run.

// ## The ABI is the specification
//
// What passes between program and kernel is bytes at offsets and request numbers. There is no other definition of KVM: no vendor's manual, no
// standard. Linux promises that it will not change under a program that works, so the ABI can be written down once. The tables below are that:
// the numbers, then the structures, then what may come out of a run.
//
// ::include abi/ioctls.ts
// ::include abi/capabilities.ts
// ::include abi/registers.ts
// ::include abi/memory.ts
// ::include abi/events.ts
// ::include abi/exits.ts
// ::include errno.ts
//
// ## One ABI, two kernels
//
// If the ABI is the specification, then two kernels that keep it are interchangeable, and each can be used to find the mistakes of the other. This
// book has two. `SoftKernel` is written here, on the processor of chapter 1; it needs no privileges, works on any host and in a browser, and
// shows what it does. `HostKernel` is a thin door to the real one. Every program from here on takes either, and so does the conformance
// suite: a case about `KVM_CREATE_VCPU` is run on both, and where they differ one of them is wrong.
//
// ::include kernel.ts
// ::include kvm.ts
// ::include vcpu-state.ts
// ::include run-page.ts
// ::include host/libc.ts
// ::include host/host-kernel.ts
//
// ## Inside: what the kernel keeps
//
// Now the other side of the line. A request arrives at a descriptor; the descriptor says which kind of object; the kind has a table of handlers.
// Linux does the same with three `file_operations`, and three functions with one large `switch` each: `kvm_dev_ioctl`, `kvm_vm_ioctl`,
// `kvm_vcpu_ioctl`, each falling through to a `kvm_arch_` twin for what only x86 has. In this book the tables are open: chapter 3 installs
// `KVM_RUN` in the vCPU's, and this chapter's kernel does not know that it will.
//
// ::include soft/soft-kernel.ts
// ::include soft/files.ts
// ::include soft/dispatch.ts
//
// The module itself has one piece of state that matters: whether the processor has been put into VMX operation, and for how many machines.
//
// ::include soft/hardware.ts
// ::include soft/memory.ts
//
// A *machine* is an address space. It owns no memory: a slot lends it some of the program's own, and the kernel's part is to make the second-stage
// tables say the same as the slots do. They are filled when the guest first touches a page, because a guest of 64 GiB that boots in 100 MiB should
// not cost more than that.
//
// ::include soft/vm.ts
// ::include soft/slots.ts
// ::include soft/ept.ts
// ::include soft/second-stage.ts
// ::include soft/lazy-ept.ts
//
// ::figure ept-fill -- A write, a violation, an entry, and the same write again: a run of the tables above under the page walker of chapter 1.
//
// A *virtual processor* is a VMCS and what the VMCS does not hold. The split is the hardware's: segment registers, control registers and RIP are in
// the guest-state area; the general registers are not, because VT-x leaves them to software; and some of what a program may ask for (the
// multiprocessing state, a half-delivered exception) exists only in the kernel's bookkeeping.
//
// ::include soft/vcpu.ts
// ::include soft/vcpu-requests.ts
// ::include soft/sregs.ts
// ::include soft/control-registers.ts
// ::include soft/msrs.ts
// ::include soft/cpuid.ts
// ::include soft/guest-walk.ts
//
// ## What can go wrong, and who says so
//
// An ABI is also its refusals. A program that creates vCPU 0 twice is told `EEXIST`; one that maps a slot half a page off, `EINVAL`; one that
// sends a vCPU's request to the machine, `ENOTTY`. VMMs depend on them more than one would think: QEMU probes by trying, and takes the error
// for an answer. So the errors are cases of the suite like everything else, measured on Linux first.
//
// Two habits of the real kernel are worth copying in one's own programs. It checks *before* it changes: a slot that overlaps another leaves both as
// they were. And it never trusts a length: a request whose argument ends in an array says how many elements the program has room for, and gets
// `E2BIG` when that is too few. The lists of MSRs then also hold the right number, so that the program can ask again at once; for CPUID it has to
// guess.
//
// ## In the real systems
//
// In Linux, `virt/kvm/kvm_main.c` holds what all architectures share: `kvm_init()` registers the device, `kvm_dev_ioctl_create_vm()` makes a machine
// and its anonymous inode, `kvm_vm_ioctl_create_vcpu()` a processor, `kvm_set_memory_region()` changes slots. `arch/x86/kvm/x86.c` has what is x86's,
// and below it `vmx/vmx.c` and `svm/svm.c` fill in one table of functions, `kvm_x86_ops`: that is where VT-x and SVM differ and nowhere else.
//
// Slots are looked up on every fault and changed almost never, so Linux keeps two copies of the set and swaps a pointer under SRCU: readers take no
// lock. Deleting a slot therefore waits for every processor to have left the old set. This book's kernel has one processor and can simply change it.
//
// In QEMU, `accel/kvm/kvm-all.c` is the other end: `kvm_init()` opens the device and asks for a long list of capabilities, `kvm_set_phys_mem()` turns
// the emulated machine's memory map into slots, `kvm_init_vcpu()` creates a processor and maps its run page. Firecracker and crosvm do the same
// through the rust-vmm crates `kvm-ioctls` and `kvm-bindings`, which are this chapter's `abi/` and `kvm.ts` in Rust, generated from the kernel's
// headers instead of written as tables.
//
// ## Exercises
//
// 1. The program above closes the descriptors from the top down. Write the one that leaks: which of the three, kept open, keeps the guest's memory
//    slots alive? Predict it from the arrows in the diagram, then count the pages that `soft/memory.ts` has given away.
// 2. `KVM_CHECK_EXTENSION` on the VM's descriptor may answer differently than on the system's. Which capabilities of this kernel could, and why did
//    Linux add the possibility only years later?
// 3. Two slots may name the same bytes of the program. What does a guest see that writes through one and reads through the other? Try it on both
//    kernels. Then say what `KVM_GET_DIRTY_LOG` must report.
// 4. Remove the check that a new slot does not overlap an old one, and run `npm run mutants -- --list` to find the case that would catch you.
// 5. `KVM_GET_SUPPORTED_CPUID` is asked again with more room while the kernel answers `E2BIG`. Show that the loop in `kvm.ts` ends, whatever the
//    kernel says.
