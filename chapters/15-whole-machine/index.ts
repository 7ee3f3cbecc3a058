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
// ::figure boot-devices -- Who was asked, and how often. An access that is answered in the kernel costs one exit; any other is a trip to the machine and back.
//
// Exits tell another story than instructions. Of all accesses to devices on `q35`, {{consoleOf('q35').percent}} % are to the serial port.
// {{thousands(consoleOf('q35').bytes)}} thousand characters are all that the boot has said of itself, and each takes
// {{tenths(consoleOf('q35').each)}} accesses: one for the character, the others to ask whether there is room for it. A real port is slow, and the
// question has to be asked; here there is always room. Whoever wonders why Linux boots faster with `quiet` on its command line finds the reason in
// this row.
//
// The second row is the price of a table. The chipset of `q35` has a window for the configuration space of {{emptyBuses.buses + 1}} buses, and the
// tables say so. Linux finds one bus, the one that is described, and then makes sure that firmware has not forgotten another: it asks every slot of
// the {{emptyBuses.buses}} that are left who is there. That is {{emptyBuses.accesses}} accesses, and the answer is nobody. The chipset of `pc` has no
// window, and no table that speaks of so many buses; `microvm` has no bus at all, and little else to be asked. It was made by people who had looked
// at such a list.
//
// One device seems to have been forgotten. Every interrupt ends with a word to the local APIC, and yet its page was accessed
// {{accesses('q35', 'local APIC')}} times. Linux saw in CPUID that this APIC has its registers among the processor's own as well (x2APIC), and moved
// there: its writes are among the {{bootOf('q35').exits.MSR_WRITE}} exits for writes of model-specific registers. Those exits know the register and
// the value; for the page, the kernel would have had to find and decode an instruction each time.
//
// ## Somebody to talk to
//
// ::include network/index.ts
