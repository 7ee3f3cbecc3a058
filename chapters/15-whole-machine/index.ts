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
// ## Somebody to talk to
//
// ::include network/index.ts
