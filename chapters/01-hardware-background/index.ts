// # Hardware background
//
// An operating system believes that it owns a computer. It sets the interrupt flag, loads page tables, halts the processor when there is
// nothing to do. What would it take to run it as an ordinary program, beside other ordinary programs, without telling it?
//
// This chapter builds the computer that the rest of the book needs in order to answer. It is a processor: registers, an instruction set,
// segmentation, paging, interrupts, and the extension that Intel calls VMX and everybody calls VT-x. It runs real x86 machine code. Nothing
// in it knows about KVM; chapter 2 starts there.
//
// Here is the least that one can do with it: three instructions, and nobody underneath.

import { BareMachine } from './bare-machine.ts';

/** mov al, '!'; out 0xe9, al; hlt */
export const PROGRAM: readonly number[] = [0xb0, 0x21, 0xe6, 0xe9, 0xf4];
const PROGRAM_ADDRESS = 0x1000;

/** What {@link smallestProgram} left behind. */
export interface SmallestProgram {
  readonly console: string;
  readonly instructions: number;
  /** Why the processor stopped. */
  readonly stopped: string;
}

/** Runs {@link PROGRAM} in real mode on a machine that has nothing else. */
export function smallestProgram(): SmallestProgram {
  const machine = new BareMachine({ ramBytes: 1 << 20 });
  machine.load(PROGRAM_ADDRESS, PROGRAM);
  machine.startReal(PROGRAM_ADDRESS);
  const { kind } = machine.run();
  return { console: machine.console, instructions: machine.cpu.instructions, stopped: kind };
}

// It said "{{smallestProgram().console}}", retired {{words(smallestProgram().instructions)}} instructions, and stopped for the reason
// `{{smallestProgram().stopped}}`. The bytes that went in are {{PROGRAM.map((byte) => byte.toString(16).padStart(2, '0')).join(' ')}}. Remember them:
// chapter 3 runs the same {{PROGRAM.length}} bytes as a guest, and the whole stack of this book stands between the two runs.
//
// But first the question itself, because the hardware only makes sense as the answer to it. We take one small guest, a kernel of
// {{specimen.instructions}} instructions, and run it in every way that has been tried since 1974.
//
// ::include monitors/specimen.ts
//
// ## What a virtual machine monitor promises
//
// Popek and Goldberg wrote the promise down in three parts, and nobody has improved on it. *Equivalence*: the guest does what it would do on
// the bare machine, except for timing and for how much memory there is. *Resource control*: it gets at nothing that it was not given.
// *Efficiency*: most of its instructions run on the real processor with nobody in between.
//
// Any two are easy. An interpreter has equivalence and control, and every instruction pays for it. A library that guests call has control and
// efficiency, but the guest must be written for it. The art is in having all three, and their theorem says when the plain way to have them
// works: call an instruction *sensitive* if it reads or changes the state that the monitor must own, and *privileged* if it traps outside
// the most privileged ring. If every sensitive instruction is privileged, put the guest in a lesser ring, let everything run, and emulate
// what traps. That is *trap and emulate*, and a mainframe of 1972 could do it.
//
// The x86 could not. Here is the evidence; it is not a list from a paper but a run: each instruction is executed in ring 3 on this chapter's
// processor, and the table says what happened.
//
// ::figure sensitive -- Sensitive instructions executed in ring 3. The ones that do not trap are the problem: {{silentCount()}} of {{sensitiveCount()}}.
//
// Two kinds of failure are in it. Instructions like `SGDT` and `SMSW` *show* the guest state that belongs to the monitor: a kernel that
// stores the address of its descriptor table and finds another one there has been told. `POPF` is worse. In ring 0 it changes the interrupt
// flag; in a lesser ring it changes everything *but* the interrupt flag, and says nothing. No trap, so nothing to emulate.
//
// ::include monitors/sensitive.ts
//
// ## Four ways to run the same kernel
//
// What the specimen does when nobody is underneath is the standard against which the rest is measured. Two pieces are shared by the monitors that
// follow: the stage on which they play, and the state that a monitor keeps because the processor cannot.
//
// ::include monitors/stage.ts
// ::include monitors/bare-metal.ts
// ::include monitors/virtual-processor.ts
//
// **Trap and emulate.** The monitor gives the guest kernel ring 1 and keeps ring 0. This squeezes two privilege levels of the guest (its
// kernel and its programs) and one of the monitor into a hardware that cares mostly about one boundary, which is called *ring compression*;
// paging makes it worse, because a page is either the user's or the supervisor's, and rings 0 to 2 are all supervisor. Our specimen's `CLI`,
// `OUT` and `HLT` trap and are emulated. `POPF` does not trap.
//
// ::include monitors/trap-and-emulate.ts
//
// **Interpretation.** Fetch, decode, perform, next. Equivalence is a matter of care; control is total, because no guest instruction ever
// touches the machine. The price is paid on every instruction, sensitive or not. Bochs works like this, and so does the processor of this
// chapter, which *is* an interpreter seen from outside: the `engine/` folder decodes each guest instruction once into micro-operations and
// then performs those, {{microOpsPerInstruction()}} of them for an average instruction of the specimen.
//
// **Binary translation.** If an instruction misbehaves when it runs, do not run it. VMware's answer in 1999 was to translate the guest
// kernel's code, a basic block at a time, just before it runs: innocent instructions are copied, sensitive ones are replaced by calls to the
// monitor. User programs still ran directly. QEMU's answer in 2003 was the same with a different aim: translate *everything*, and the guest's
// processor need not be the host's at all. The translator here is VMware's kind, small enough to read in one sitting.
//
// ::include monitors/binary-translation.ts
//
// **Para-virtualization** is the fourth way, and changes the guest instead: its source is edited so that sensitive operations become
// *hypercalls*. Xen began so in 2003. It has control and efficiency in full and gives up equivalence with the unmodified system. Chapter 6
// brings the idea back for devices, where it stayed: nobody minds a driver that knows it talks to a hypervisor.
//
// Then, in 2005, the processors changed. With VT-x a guest runs in all four of its rings, on the real processor, and the list of what leaves
// to the monitor is data.
//
// ::include monitors/non-root.ts
// ::include monitors/hardware-assisted.ts
//
// Run by each of the ways, the specimen leaves this behind:
//
// ::figure four-ways -- The specimen under each monitor: what it noted, how often the monitor was entered, and whether the promise held.
//
// The column of entries deserves a second look, because it is not what sells the hardware. Trap and emulate is entered
// {{words(trapAndEmulate().crossings)}} times and is wrong; binary translation {{binaryTranslation().crossings}} times and is right, and most of
// those entries happen once for a piece of code however often it runs. With VT-x there are {{words(hardwareAssisted().crossings)}}, and nobody had to
// read the guest's code to get there.
//
// ## What the hardware took over
//
// VT-x adds one bit of state that no instruction can read: whether the processor is in *root* or in *non-root operation*. Everything else
// follows from taking that bit seriously.
//
// In root operation the processor is the one we know. In non-root operation it looks the same to the software on it, all rings included, but
// chosen instructions and events do not happen: they cause a *VM exit* instead. A VM exit is a world switch performed by the hardware. The
// guest's state goes to memory, the host's state comes from memory, and the reason is written down. *VM entry* is the way back.
//
// The memory is the *VMCS*, and it is the whole interface: an area for the guest's state, one for the host's, a set of controls that choose
// what exits, and fields that say why the last exit happened. Chapter 3's inner loop is nothing but: load it, enter, read why it came back.
//
// Compare what happened to the table of sensitive instructions. `POPF` is no longer sensitive: the guest has an interrupt flag of its own, in
// its own RFLAGS, and an external interrupt exits whatever that flag says, if the monitor has asked for it. `SGDT` reads the guest's own GDTR.
// The ring problem is gone because the guest has four rings. What is left to the monitor are the operations that touch something shared: ports,
// physical memory, model-specific registers, halting.
//
// Not every exit could be avoided at first. Early VT-x had one stage of paging, so a monitor had to keep shadow page tables, and each of the guest's
// page-table changes came back as an exit. Intel's EPT and AMD's NPT added the second stage: what a page walk of the guest finds is a
// *guest-physical* address, and a second walk, through tables that the guest never sees, makes a host-physical one of it. MMU1 is the guest's, MMU2
// the monitor's. The cost is in the walk: every reference to a guest page table is itself a guest-physical address and needs the second walk, so a
// walk of {{words(walkCost().levels)}} levels in both stages makes {{walkCost().nested}} references instead of {{words(walkCost().native)}}.
//
// ::figure nested-walk -- One translation with both stages on, reference by reference: a 64-bit guest fetches its first instruction.
//
// Read the figure like a page. Each row is one step of the guest's own walk; to read the entry at its right end the processor first has to find out
// where that entry *is*, and that takes the row. The last row is the byte itself. The upper levels of the second stage are read again and again
// from the same address, and this is why processors cache them apart, and why hypervisors like large pages in the second stage: each level saved
// there is saved once for every row.
//
// ## Who sits where
//
// The processor says nothing about what the software in root operation is. Three arrangements exist, and an I/O access of the guest shows the
// difference, because it has to reach a driver.
//
// In the *hypervisor model* the drivers are in the hypervisor, as in VMware ESX: exit, drive the device, enter. In the *host model*, KVM's, root
// operation belongs to an ordinary operating system, and the part that plays the device is a process of it: exit to the kernel, return to user
// space, system call back, enter. In the *hybrid model*, Xen's and ACRN's, the hypervisor is small and owns no drivers; a privileged guest does
// (dom0, the service VM), so the access goes through one guest's exit and another guest's entry, and back.
//
// ::figure models -- One port write in each of the three models: {{models().map(crossingsOf).join(', ')}} crossings, counted on runs of the small monitors below.
//
// Textbooks sort the same systems as *type 1*, with the hypervisor on the bare machine, and *type 2*, as a program under a host system. ESX, Xen
// and ACRN are type 1; QEMU without KVM and early VMware Workstation are type 2. KVM is where the words stop helping: it turns Linux itself
// into the hypervisor, so the host is the hypervisor and still an operating system with programs. What can be counted is the crossings, so
// this book counts crossings.
//
// ::include monitors/models.ts
//
// ## How the processor is built
//
// The rest of the chapter is the machine. It is read in this order, and each part needs only the ones before.
//
// ### Records, memory, trace
//
// Four things come first because everything else is written in terms of them. Records at fixed offsets are declared as tables, so that no layout
// exists twice. RAM is one buffer, shared by everybody who may touch it. The trace is how anything in this book reports what it does, and where the
// numbers in its sentences come from. The register file lies in the same memory as RAM, because two languages work on it.
//
// ::include layout.ts
// ::include physical-memory.ts
// ::include trace.ts
// ::include state.ts
//
// Two small files after that fix how an instruction can end other than well: it faults, which is the guest's affair, or it exits, which is the
// hypervisor's. The second of them is the only thing that the ordinary processor knows about virtualization.
//
// ::include faults.ts
// ::include intercepts.ts
//
// ### Instructions
//
// Bytes become a decoded instruction; a decoded instruction becomes micro-operations; a micro-operation becomes WebAssembly. Each step is written
// once. The interpreter performs the micro-operations; the translator makes programs of the same ones, and so the two cannot disagree about what
// `ADC` does. First what a decoded instruction is, how the manual's opcode maps are written down as tables, and the decoder that both feed.
//
// ::include isa/instruction.ts
// ::include isa/encoding.ts
// ::include isa/system-ops.ts
// ::include isa/decoder.ts
// ::include isa/text.ts
//
// Then the meaning of the parts: the micro-operations, told by the WebAssembly that performs them, and the assembler that this takes.
//
// ::include engine/wasm-assembler.ts
// ::include engine/wasm-vectors.ts
// ::include engine/wasm-text.ts
// ::include engine/micro-ops.ts
// ::include engine/micro-ops/emitter.ts
// ::include engine/micro-ops/library.ts
// ::include engine/micro-ops/vocabulary.ts
// ::include engine/micro-ops/moves.ts
// ::include engine/micro-ops/arithmetic.ts
// ::include engine/micro-ops/shifts.ts
// ::include engine/micro-ops/conditions.ts
// ::include engine/micro-ops/transfers.ts
// ::include engine/micro-ops/strings.ts
// ::include engine/micro-ops/system.ts
// ::include engine/flags.ts
//
// And then the instruction set itself, which is an annex: tables of encodings, each entry with what it does, as the micro-operations that it becomes.
// Nobody reads a dictionary from front to back. Read the builder, which knows where operands are, and then any three entries;
// [the table of all instructions](../instructions.html) leads to each of them.
//
// ::include isa/builder.ts
// ::include isa/arithmetic.ts
// ::include isa/moves.ts
// ::include isa/control-flow.ts
// ::include isa/shifts-and-bits.ts
// ::include isa/bit-manipulation.ts
// ::include isa/strings.ts
// ::include isa/system.ts
// ::include isa/instruction-set.ts
//
// The x86 got more registers three times: a second chip with a stack of eight numbers of ten bytes, integer vectors that borrowed its silicon, and
// vectors of numbers with registers of their own. All three are still there, and a guest kernel saves and restores every one of them. WebAssembly has
// floating point too, but none that tells whether a result was rounded. So arithmetic on numbers of any width is written out in integers, once; and
// where a result is ordinary and the flags it would set are set already, the host's own arithmetic is as good, and is used.
//
// ::include engine/float/words.ts
// ::include engine/float/soft-float.ts
// ::include engine/float/x87-numbers.ts
// ::include engine/float/x87-stack.ts
// ::include isa/x87.ts
// ::include engine/float/ieee.ts
// ::include engine/float/ieee-arithmetic.ts
// ::include engine/float/ieee-lanes.ts
// ::include engine/float/ieee-fast.ts
// ::include engine/float/ieee-convert.ts
// ::include engine/float/ieee-approximate.ts
// ::include isa/simd-common.ts
// ::include isa/sse-float-arithmetic.ts
// ::include isa/sse-float-compare.ts
// ::include isa/sse-float-convert.ts
// ::include isa/sse-float-products.ts
// ::include isa/sse-float-moves.ts
// ::include isa/sse-float-control.ts
// ::include isa/simd-lanes.ts
// ::include isa/simd-integer.ts
// ::include isa/simd-shuffles.ts
// ::include isa/simd-moves.ts
// ::include isa/simd-strings.ts
// ::include isa/simd-ciphers.ts
//
// What is left is to run it. Decoded code has to be kept, found again, and dropped when the guest overwrites the bytes that it was made from: on an
// x86 a store into the very next instruction takes effect. The interpreter is put together from the table when a machine is made; the engine decides
// what it runs and looks at the world whenever it comes back.
//
// ::include engine/code-cache.ts
// ::include engine/code-bytes.ts
// ::include engine/micro-ops/beside-code.ts
// ::include engine/draft.ts
// ::include engine/instruction-shapes.ts
// ::include engine/loose-numbers.ts
// ::include engine/refill.ts
// ::include engine/interpreter-functions.ts
// ::include engine/interpreter.ts
// ::include engine/jump-cache.ts
// ::include engine/device-access.ts
// ::include engine/surroundings.ts
// ::include engine/block-maker.ts
// ::include engine/engine.ts
// ::include engine/flat-machine.ts
//
// ### From interpretation to translation
//
// A decoder and an interpreter are one answer to the question of how a program can be a processor. There are others, and they differ by factors.
//
// ::include ladder/program.ts
// ::include ladder/rungs.ts
//
// What each rung is worth depends on your machine, so [a page](../../live/ladder.html) measures it there, while you watch. Two steps stand out. From
// decoding each time to decoding once is the largest, and all that it took was a cache. From the interpreter to the translator is the next, and the
// machinery for it is the rest of this part. QEMU has been built on that step since 2003; VMware's monitor lived by it before there was VT-x; it is
// how a machine runs software for a processor that it has not got.
//
// The small translator among the monitors above had an easy life. It met {{specimen.instructions}} instructions, knew which of them could fault, and
// nobody asked it what time it was. A translator for a whole processor must be *invisible*: with it or without it, a guest finds the same registers
// after the same instruction, the same memory, the same fault at the same address, and an interrupt arrives between the same two instructions. Nine
// questions have to be answered for that, and the modules below are the answers.
//
// *What is worth it?* To compile a piece of code costs as much as to interpret it some thousands of times, and most code of a boot runs once. So code
// has to become hot first, and the interpreter counts.
//
// *How much at a time?* QEMU translates to the next jump and then joins the pieces. WebAssembly has no jump from one function into another but a
// call, so here the piece is a *region*: everything that can be reached from the hot block within its page, as one function, with loops as loops.
//
// *Where is a register?* In a local variable, as long as control stays in the region. Whoever compiles the function puts it into one of the host's.
//
// *Where are the flags?* Nowhere, if it can be helped. An x86 instruction sets six of them, and the next one usually sets them again. A comparison and
// the jump that looks at it become one operation of the host; the words from which all six could be had are computed only where somebody will look.
//
// *How does it get at memory?* Through the same TLB as the interpreter, whose hit path is a few operations, written out at each access.
//
// *What if an instruction faults?* Then the registers have to be what they were before it, and only the translator knows which local variable is
// which. It leaves behind, for each access, a way out that puts everything back where the architecture wants it; and the *interpreter* executes the
// instruction again, and it faults there. Nothing that is rare has to be translated at all.
//
// *What time is it?* As many instructions as have been retired, exactly. To count each would cost as much as to execute it, so a piece of code counts
// itself as a whole, and asks at the right places whether there is room for all of it. Where there is not, the interpreter takes the last steps, one
// by one.
//
// *What if the code changes?* Then the region is forgotten. It cannot be running at that moment: stores into pages that hold code are made by the
// interpreter. Only a device that it asks may do that behind its back, and then it is left.
//
// *Who waits meanwhile?* Nobody need. The guest can go on interpreted while another thread compiles, and is not told when it changes over.
//
// ::include engine/translator/region.ts
// ::include engine/translator/structure.ts
// ::include engine/translator/flags.ts
// ::include engine/translator/unfinished.ts
// ::include engine/translator/operands.ts
// ::include engine/translator/device-words.ts
// ::include engine/translator/library-use.ts
// ::include engine/translator/compile.ts
// ::include engine/translator/order.ts
// ::include engine/translator/translator.ts
// ::include engine/translator/workshop.ts
// ::include engine/host/workshop-thread.ts
//
// [Another page](../../live/translator.html) shows what becomes of a few pieces of code, and of yours: the guest's instructions, their micro-operations,
// and the function.
//
// VT-x made all of this unnecessary for a guest whose instructions the host has. Its code runs as it is, at its own speed, from the first execution
// on; nothing is counted, compiled, kept or forgotten. What remains of the translator in a machine with hardware assistance is small: `kvm.ko` still
// interprets single instructions, those that touch a device's memory. But the bill has changed, and not only in the guest's favour. In translated code
// a port access is a call. In hardware it is a VM exit, and the guest that does many of them is where devices made for virtual machines come in, in
// chapter 6.
//
// ### Asking a real processor
//
// How does one know that any of this is right? The manual is the law, and not complete; another emulator may share the mistake. But there may be an x86
// processor under this very program, and it can be asked.
//
// ::include engine/host/fuzz.ts
// ::include engine/host/fuzz/run.ts
// ::include engine/host/fuzz/invent.ts
// ::include engine/host/fuzz/values.ts
// ::include engine/host/fuzz/world.ts
// ::include engine/host/fuzz/native.ts
// ::include engine/host/fuzz/records.ts
// ::include engine/host/fuzz/subject.ts
// ::include engine/host/fuzz/compare.ts
// ::include engine/host/fuzz/excluded.ts
// ::include engine/host/fuzz/shrink.ts
// ::include engine/host/fuzz/saved.ts
// ::include engine/host/try.ts
//
// ### Memory management
//
// The engine asks one question, *where is the byte at this linear address?*, and has a cache of answers in front of it. Behind the cache stand four
// modes of paging and a second stage, each a few dozen lines, because the page walk is one loop with a different table of levels.
//
// ::include mmu/paging.ts
// ::include mmu/tlb.ts
// ::include mmu/surroundings.ts
// ::include mmu/mmu.ts
// ::include mmu/rights.ts
// ::include mmu/ept.ts
//
// ### The privileged half
//
// Adding numbers is the smaller half of an x86, in the manuals and here. The larger one is about who may do what: descriptors and what loading one
// means, control registers, model-specific registers, and what the processor says about itself.
//
// ::include system/mode.ts
// ::include system/segmentation.ts
// ::include system/descriptors.ts
// ::include system/segment-ops.ts
// ::include system/control.ts
// ::include system/msrs.ts
// ::include system/cpuid.ts
// ::include system/flag-ops.ts
// ::include system/ports.ts
// ::include system/machine-ops.ts
// ::include system/extended-state.ts
// ::include system/reset.ts
//
// Then the ways from one privilege level to another: calls through gates, the shortcuts that replaced them, whole tasks switched by hardware; and the
// way that nobody chooses, an exception. It is the longest argument of this part, because every check that can fail may fail while the
// processor is already busy with a failure.
//
// ::include system/far.ts
// ::include system/fast-calls.ts
// ::include system/tss.ts
// ::include system/task-switch.ts
// ::include system/delivery.ts
// ::include system/exceptions.ts
// ::include system/iret.ts
// ::include system/debug.ts
//
// All of it is reached through one table, by the names that the decoder uses. Three small modules serve the neighbours: one describes an operand
// to a hypervisor, one lets TypeScript code use the guest's address space, and one is a place to try a single instruction in any ring.
//
// ::include system/table.ts
// ::include system/exit-information.ts
// ::include system/linear-memory.ts
// ::include system/laboratory.ts
//
// ### Non-root operation
//
// Now the layer for whose sake the book needs a processor at all. It is read from the data outwards: the fields of the VMCS, the controls and what a
// processor admits to supporting, the reasons for which a guest stops. Then the way in, with its long list of questions, and the way out.
//
// ::include vmx/processor.ts
// ::include vmx/vmcs.ts
// ::include vmx/controls.ts
// ::include vmx/exit-reasons.ts
// ::include vmx/guest-state.ts
// ::include vmx/kept-translations.ts
// ::include vmx/msr-areas.ts
// ::include vmx/checks.ts
// ::include vmx/vmx-intercepts.ts
// ::include vmx/exit.ts
// ::include vmx/vmx.ts
// ::include vmx/instructions.ts
//
// ### Put together
//
// The processor is the sum, plus an order of events; a bare machine is a processor with RAM, a ROM and two ports. It is what ran the program at the
// top of this page.
//
// ::include system/surroundings.ts
// ::include system/boundary.ts
// ::include cpu.ts
// ::include bare-machine.ts
//
// ## The same idea at AMD
//
// Intel was first by a few months, and neither company wanted the other's interface. A hypervisor for both, as KVM is, therefore has every mechanism
// twice: VMCS and VMCB, exit reason and exit code, EPT and nested page tables, VPID and ASID. This book's processor has VT-x, because one is enough
// to understand the stack; SVM stands beside it as data, from which one can read what a second vendor module would have to do differently.
//
// ::include vmx/svm.ts
//
// ## In the real systems
//
// **QEMU without KVM** is this chapter at full size. `target/i386/tcg/translate.c` turns guest code into TCG operations, the counterpart of our
// micro-operations, and `tcg/` makes host code of those. A *translation block* is our block; `cpu_exec()` in `accel/tcg/cpu-exec.c` looks one up,
// runs it, and chains it to the one before (`tb_add_jump()`), just as the small translator above patches its exits. Flags are lazy there too:
// `CC_OP`, `CC_DST` and `CC_SRC` say how the last result came about, and `cc_helper.c` computes a flag when somebody asks. The TLB with its inlined
// hit path is `accel/tcg/cputlb.c`; page walks are in `excp_helper.c`, gates and task switches in `seg_helper.c`. Under TCG QEMU offers its guests
// SVM (`svm_helper.c`) and not VT-x: publishing the control block, as AMD does, makes an emulator's life easier.
//
// **Bochs** interprets, with a cache of decoded traces, and models both extensions. `cpu/vmx.cc` has the checks of VM entry in the same order as the
// manual (`VMenterLoadCheckVmControls()`, `VMenterLoadCheckHostState()`, `VMenterLoadCheckGuestState()`); `cpu/paging.cc` walks the guest's tables
// and calls `translate_guest_physical()` for each entry, as ours does; `cpu/svm.cc` is the other vendor.
//
// **kvm.ko** contains much of a processor as well, for the cases in which the real one does not help. `arch/x86/kvm/emulate.c` decodes and executes
// instructions; `arch/x86/kvm/mmu/paging_tmpl.h` walks guest page tables in software, compiled three times for three formats of entry; and
// `arch/x86/kvm/vmx/nested.c` repeats the checks of VM entry for a guest that is itself a hypervisor (`nested_vmx_check_controls()`,
// `nested_vmx_check_host_state()`, `nested_vmx_check_guest_state()`), because the VMCS which that guest filled in is never given to the hardware as
// it is.
//
// **VMware** has told how its monitors worked. Adams and Agesen (2006) compare binary translation with the first VT-x and find that translation often
// wins; Bugnion and others (2012) describe the first Workstation, segment tricks included. The instructions that do not trap had been listed for the
// Pentium by Robin and Irvine in 2000: they found seventeen, counting by the manual's entries.
//
// **Xen** before VT-x put its guests' kernels into ring 1, as our trap-and-emulate monitor does, and asked their authors to replace by hypercalls
// what would not trap. On 64-bit processors even that was lost, since paging distinguishes only user from supervisor and segment limits are gone: the
// guest's kernel had to share ring 3 with its programs, and each system call crossed twice.
//
// ## Exercises
//
// 1. Give the specimen an `STI` before its `HLT` and an interrupt source to the machine. Which of the monitors have to be changed so that the guest
//    is woken, and which one gets it wrong even then?
// 2. Add `SMSW` to what the binary translator replaces. Then let the guest jump to a computed address (`jmp eax`), and see which assertion catches
//    you; make the translator look the target up when it is reached.
// 3. Predict the number of references in the nested walk when the second stage maps 2 MiB pages; then change `#ept()` in `monitors/non-root.ts` and
//    let the figure count.
// 4. `boundary` shows four events at one boundary. Add a fifth, the interrupt window of VT-x, by running the same code in non-root operation with
//    interrupt-window exiting. Where does it come, and does an NMI overtake it?
// 5. Write a guest whose double-fault handler cannot be reached. How many exceptions does the trace hold before the shutdown, and what becomes of
//    the last when the same code runs in non-root operation?
// 6. The processor claims {{physicalAddressBits}} physical-address bits. Change that to 36 and run the tests: which rules about reserved bits move
//    with it, and which field of a page-table entry do hypervisors then use to mark a device page?
