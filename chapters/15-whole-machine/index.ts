// # The whole machine
//
// Every device so far was shown with a program that we wrote for it. That proves less than it seems: who wrote the device and who wrote the program
// had read the same page of the specification, and misread it in the same way. An operating system is another matter. Linux was written for hardware, by people
// who never saw this book; it looks at everything a machine has, in an order that nobody here chose, and it complains.
//
// So this chapter builds nothing new below the machine. It puts the parts of the earlier chapters together, and starts a kernel that was made for none
// of them.
//
// ## From `run` to the kernel's first instruction
//
// A machine without firmware has a loader in its place. Somebody has to know what a Linux kernel is as a file, where in memory its parts want to be, and
// what it expects to be told about the machine; chapter 3's doors are the place where such knowledge is installed.
//
// ::include linux/header.ts
// ::include linux/placement.ts
// ::include linux/boot-params.ts
// ::include linux/doors.ts
// ::include linux/real-mode.ts
// ::include linux/services.ts
// ::include linux/lz4.ts
//
// ## The first program
//
// A kernel alone does nothing that anybody could see. It needs a program to start, and without a disk the program comes with the kernel, in a second file that the
// loader puts into memory.
//
// ::include linux/initramfs/initramfs.ts
// ::include linux/initramfs/cpio.ts
// ::include linux/initramfs/modules.ts
// ::include linux/initramfs/packages.ts
// ::include host/initramfs.ts
// ::include host/debian.ts
// ::include host/run.ts
//
// ## Three boards
//
// The same processor, the same memory, the same kernel: what differs is what the kernel finds around them. On `pc` and on `q35` it looks in the places where
// things have been since 1984 and asks the bus for the rest. The third board has no such places.
//
// ::include microvm/microvm.ts
// ::include microvm/event-device.ts
// ::include microvm/tables.ts
//
// ## Between `run` and the prompt
//
// When the loader is done, {{tenths(bootOf('q35').loader.kernelBytes / 2 ** 20)}} MiB of compressed kernel lie at
// {{bootOf('q35').loader.kernelGpa >> 20}} MiB, the first file system lies at the end of memory, and the machine's own time begins. On `q35` the
// first program says its first word {{millions(instructionsOf('q35'))}} million instructions later, after {{tenths(secondsOf('q35'))}} seconds of
// that time. The numbers here are of one boot of Linux {{boots.kernel}} on each board, which was recorded: time is counted in instructions, so the
// next one comes to the same.
//
// ::figure boot-phases -- What the instructions of a boot are spent on. The boards hardly differ; what differs is under the bars, in grey.
//
// {{share('q35', 'unpacking')}} % of the instructions are not the kernel's yet. The small program in front of it unpacks it, with interrupts off, and
// asks the machine for next to nothing: {{bootOf('q35').phases.unpacking.exits}} exits. Then the kernel finds out where it is. It reads the map of
// memory and the tables, measures its clocks against each other, and brings up what everything else in it needs. Most of the time goes to the last
// part before the first program, in which every driver that was linked into the kernel is asked once whether its device is here. For nearly all of
// them the answer is no. What is done for the user comes last, and is {{share('q35', 'user space')}} %.
//
// ::figure boot-devices -- Who was asked, how often, and for how long. What the kernel answers costs one exit; all else is a trip to the machine and back.
//
// Exits tell another story than instructions. Of all accesses to devices on `q35`, {{consoleOf('q35').percent}} % are to the serial port.
// {{thousands(consoleOf('q35').bytes)}} thousand characters are all that the boot has said of itself, and each takes
// {{tenths(consoleOf('q35').each)}} accesses: one for the character, and the rest to ask whether there is room for it. A real port is slow, and the
// question has to be asked; here there is always room. Whoever wonders why Linux boots faster with `quiet` on its command line finds the reason in
// this row.
//
// The second row is the price of a table. The chipset of `q35` has a window for the configuration space of {{emptyBuses.buses + 1}} buses, and the
// tables say so. Linux finds one bus, the one that is described, and then makes sure that firmware has not forgotten another: it asks every slot of
// the {{emptyBuses.buses}} that are left who is there. That is {{emptyBuses.accesses}} accesses, and the answer is nobody. The chipset of `pc` has no
// window, and no table that speaks of so many buses; `microvm` has no bus at all, and little else to be asked. It was made by people who had looked
// at such a list.
//
// How much time is that? The right half of the table says it in the machine's own: a trip is counted as {{boots.machines.q35.nanosecondsPerTrip / 1000}}
// microsecond, which is what a good system needs, and what the guest does with the answer is counted as well, until it turns to something else. On `q35` all
// devices together come to {{tenths(occupied('q35'))}} % of the boot, {{Math.round(millisecondsWith('q35', 'serial port'))}} of their milliseconds at the serial
// port. A guest on hardware like this has no reason to complain. Whoever *makes* the trips has. Where the processor is a program, a trip costs that program as much
// as hundreds of the guest's instructions, and what is a hundredth of the guest's time is a good part of the time that you wait.
//
// One device seems to have been forgotten. Every interrupt ends with a word to the local APIC, and yet its page was accessed
// {{accesses('q35', 'local APIC')}} times. Linux saw in CPUID that this APIC has its registers among the processor's own as well (x2APIC), and moved
// there: its writes are among the {{bootOf('q35').exits.MSR_WRITE}} exits for writes of model-specific registers. Those exits know the register and
// the value; for the page, the kernel would have had to find and decode an instruction each time.
//
// ## More than one processor
//
// Little in the machine knows of a second processor. The tables name one more local APIC, the VMM opens one more `fd_vcpu`, and its loop calls `KVM_RUN` for
// the one whose turn it is. The turn passes on when that one halts, or has executed {{several.bound.toLocaleString('en')}} instructions without a trip to the
// VMM. Who executes which instruction when is decided by counting alone, so a guest with {{several.cpus}} processors can be run again to the last interrupt,
// races and all. No hardware can do that.
//
// The tables only say that there are others; somebody has to start them, and it is the kernel on the first one. It copies a few instructions for real mode
// into the first megabyte, sends INIT to a processor that the tables name, and then a *start-up message* (SIPI), whose vector is the number of the page with
// those instructions. However new the processor is, it begins there as an 8086 would, goes through protected mode into long mode, and says that it is there.
//
// ::figure boot-processors -- The same boot with {{several.cpus}} processors: what each did, and what messages its APIC got.
//
// The second start-up message is for a processor that has missed the first. Ours are running by then, and ignore it. From then on every
// processor has a clock of its own, the timer of its APIC, and the column says that they use it: {{several.timer.toLocaleString('en')}} times in
// {{tenths(several.seconds)}} seconds. What devices want comes to whichever processor the kernel has chosen for it.
//
// The two columns between are what processors say to each other, by *interprocessor interrupts*. *Look for work* is a scheduler that has put a task into
// another processor's queue. *Call this* is a function that has to be executed elsewhere, and the most important of those is empty but for one instruction. A
// processor that has changed a page table must make sure that no other uses the old entry from its TLB, and x86 has no instruction that reaches another's. So it
// sends an interrupt, and waits until every receiver has dropped the entry and said so: a *TLB shootdown*. Nothing may be done with the page before.
//
// Waiting is what costs. On hardware the receivers are at work meanwhile, and the answer is there after a microsecond. Here they stand still while the sender has
// its turn, and it asks a word in memory until that turn is used up, {{several.bound.toLocaleString('en')}} instructions for nothing. That, and locks whose owner
// stands still, are why {{several.cpus}} processors execute {{moreInstructions}} % more instructions than one to come to the same prompt. It is no
// peculiarity of this book: a host that has fewer processors than its guests meets the same. KVM takes the processor from a guest that executes PAUSE too
// often in a row (*pause-loop exiting*), and offers it to leave the flush to the host if the receiver does not run at that moment
// (`KVM_FEATURE_PV_TLB_FLUSH`): who does not run can be flushed before its next turn, without having been woken.
//
// On this machine the flush could even be left out. There is one modelled processor under all of them, and its TLB has no tags: a turn that is another's begins with an
// empty one. A kernel that forgot a shootdown would get away with it here more often than it deserves.
//
// ## Somebody to talk to
//
// ::include network/index.ts
//
// ## Written down, and taken up again
//
// Every one of these boots has spent {{millions(instructionsOf('q35'))}} million instructions to come to a point at which it had been before. One could keep the
// machine instead, as it stands there, and begin there tomorrow, in another program, or ten times at once. A guest is a good subject for that. A
// process holds on to files, sockets, and other processes, of which its host knows more than it does; a machine ends at its devices, and we have made them all.
//
// ::figure saved-parts -- What a `q35` is besides its memory. In colour: what lives in the kernel. The scratch registers and `debug-exit` are the suite's.
//
// It is surprisingly little. Chipset and devices are {{(partBytes.machine / 1024).toFixed(1)}} KiB, a processor is {{(partBytes.processor / 1024).toFixed(1)}}, most
// of them the image of a floating-point unit and what CPUID says. All else is memory, of which one does not have to understand anything.
//
// The difficulty is in the words *all* and *when*. All: what is missing is not noticed when it is restored but later, by a guest that waits for an interrupt that
// somebody owed it. Hence the tables of chapter 3 in which a class names its fields, and tests that look for the field that none names. When: a machine that
// is looked at while it works has half an access here, a request in flight there. It has to come to a rest that it can be restored to.
//
// ::include saved-state/machine-state.ts
// ::include saved-state/kernel-state.ts
// ::include saved-state/memory.ts
//
// Three things stay behind, whatever one does.
//
// *The other end.* A connection that the guest has through the user-mode network has one half in guest memory, and one in a socket of a program that knows nothing of
// all this. The restored network begins without connections. It answers the guest's next segment with a reset, as a peer does that has been switched
// off and on; the guest's program gets an error and not a silence. Where both ends are guests, both can be saved; where one is the world, nobody can.
//
// *Uniqueness.* Ten machines from one file have the same random numbers in memory, the same keys, the same idea of which sequence number comes next. What was meant
// to be used once is used ten times. A guest cannot know that it has been copied, unless the machine has a device that says so.
//
// *Time.* The restored machine's clock goes on where the saved one's stood: timers fire when they would have, and no guest sees a jump. But the date is
// wrong by as long as the file lay on the disk. This machine keeps it so, because a run is to be repeatable; others put the clock forward, and let the guest see.
//
// What else cannot be written down says so. A disk with zones, and a virtio device that sleeps (`VIRTIO_F_SUSPEND`) and has something to tell when it wakes,
// hold what to do next as functions; a machine with one is refused with that reason. A refusal is worth more than a file that is nearly right.
//
// ### A file for strangers
//
// Whoever restores a file trusts it with a machine, and files come from elsewhere. It may be cut short, another program's, another machine's, or made by somebody
// with a purpose. Nothing in it is believed because it was written by us.
//
// ::include saved-state/description.ts
// ::include saved-state/file.ts
// ::include saved-state/checksum.ts
// ::include saved-state/sections.ts
// ::include saved-state/host/install.ts
//
// How does one know that it is all there? Not by looking at a restored machine: it looks well. The laboratory of this part saves a machine, restores it into a
// second, lets *both* go on, and compares their traces event by event, for programs of the suite and moments drawn by lot. A field that is missing
// makes two futures out of one, and the first event that differs says where to look.
//
// ## In the real systems
//
// QEMU's `-kernel` is `x86_load_linux()` in `hw/i386/x86-common.c`: it puts the parts of the kernel into fw_cfg, and a small option ROM, `linuxboot_dma.bin`,
// fetches them and jumps in real mode. For an ELF kernel with the PVH note there is `pvh.bin`. So even `-kernel` starts with firmware, SeaBIOS or, where the start
// has to be quick, *qboot*, which does what a kernel cannot do without and nothing else. Firecracker, crosvm and Cloud Hypervisor have no firmware on this path, as
// here: `configure_system()` writes the zero page or the PVH structures, and the first instruction is the kernel's. PVH itself is Xen's: a guest that
// uses the hardware's virtualization but none of a PC's past, and so needs to be handed its memory map by somebody. The door outlived its reason, because it is so
// much simpler than the others.
//
// In QEMU `pc` and `q35` exist in a version for each release (`pc-q35-9.0`), because a guest that was saved on one must find the
// same one again; the differences are lists of properties, `hw_compat_9_0` and its like. `microvm`, in `hw/i386/microvm.c`, is modelled on
// Firecracker. It has up to eight virtio devices in windows of memory, and at first it told the kernel of them on its command line; with ACPI, which came a year later,
// it describes them as this chapter's does.
//
// The others have chosen the small board from the beginning. Firecracker's whole machine is the processors with their in-kernel controllers, one serial port, a
// keyboard controller that can only reset, and virtio. It promises to bring a guest to its first program in 125 milliseconds, and the boot above shows what that
// promise forbids: a console that says {{thousands(consoleOf('q35').bytes)}} thousand characters, and a bus that has to be searched.
//
// What a class says of itself is a `VMStateDescription` in QEMU: name, version, the oldest version that it can still read, and an array of fields made with
// macros such as `VMSTATE_UINT32`. *Subsections* are parts that are written only if they are needed, so that a newer QEMU can still be understood by an older
// one. `migration/savevm.c` writes the sections, `migration/vmstate.c` the fields. `savevm` puts the result into the disk image beside the disk's own snapshot, so that
// the two cannot be mixed up; live migration sends the same bytes over a socket.
//
// Firecracker writes two files, memory as it is and everything else. It restores by mapping the first one privately: the guest starts at once, and each page is read
// when it is first touched. So a restored machine runs after milliseconds, which is what services that start a machine for each request build on. Its documentation
// is frank about the rest: network connections may be lost, vsock's are closed, and against doubled random numbers there is a device, *VMGenID*, whose change
// makes Linux mix its pool anew. Cloud Hypervisor has a directory with `config.json`, `state.json` and the memory ranges; the machine is built from the
// first. crosvm stops the processors first and then the devices, and drains every interrupt on its way into the interrupt controllers, so that
// there is no in-between to be saved.
//
// For `-nic user`, QEMU has libslirp; passt is the younger answer, and the only one here that can take connections along. It asks the host's kernel for the
// state of its sockets (`TCP_REPAIR`), which takes a privilege, for which it has a helper of its own.
//
// ## Exercises
//
// 1. Boot with `quiet`, and predict from the table what the boot gets shorter by, in exits and in milliseconds of the machine's time. Then run `npm run bench -- boot
//    --append quiet`. What did you leave out?
// 2. Make the window of `q35` smaller: one bus instead of {{emptyBuses.buses + 1}}. Which row changes, and which file says how large it is? What does a guest lose
//    that has a bridge?
// 3. Start the kernel by each of the doors, `-door linux16`, `linux32`, `linux64` and `pvh`, with `-trace-hash kernel`. From which event on are two of them alike, if
//    ever? What would have to be the same for that?
// 4. Change the bound of a turn, for several processors, to 20,000, and boot SeaBIOS with two. Read the comment at `boundFor` only if it hangs.
// 5. Two processors, one page. Write a payload in which the first changes a page-table entry and tells the second by a flag in memory, without an interrupt. How
//    often does the second still use the old entry, with turns of 100 instructions and with turns of 20,000? Explain by what the TLB keeps.
// 6. Take one field out of a `STATE` table, say the RTC's index, and run the tests of `saved-state`. Which of them notices, and after how many events? Find a field
//    that only one of them can notice.
// 7. Save a machine with an open connection through `-nic user`, restore it, and watch the guest's side. Then make the network keep its connections: what
//    would you have to know of the host's socket, and what can you not know?
// 8. Give the machine a VMGenID. It is a page of memory, an ACPI device that names it, and an event when it changes. Where is it changed, and which trace does
//    a restored machine have then?
