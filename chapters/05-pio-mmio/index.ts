// # PIO and MMIO emulation
//
// A driver writes a byte to port 0x3f8 and believes that a chip has taken it. There is no chip. There is a program that was told, some thousands of
// cycles later, that a guest had wanted to write a byte to port 0x3f8. How does such a program become a whole computer, with buses, disks, a network
// card and interrupts that arrive in the right order, for an operating system that was never told? And what does each of its accesses cost?
//
// Chapter 3's smallest VMM has the naive answer. It knows one port, and asks `if`. Every first VMM is written like that, with one `case` for each
// address, and for a serial port it works. Then somebody adds a disk, and six things break one after the other:
//
// - There are too many addresses. The PC at the end of this chapter claims {{ports.claimed}} ports for {{ports.regions}} regions before anything is
//   plugged in.
// - They move. The guest decides where a PCI device is, and changes its mind while it runs.
// - Accesses have widths, and drivers do not keep to the one that the device was built for.
// - One access may meet two devices, or the end of one, or nobody at all.
// - A device does not only answer. It has timers, it reads and writes memory by itself, it interrupts.
// - And each exit costs what chapter 3 has counted: two crossings to the kernel, two more to user space.
//
// The first four are the business of a bus, which is a data structure. The fifth makes a device an object. The last one has driven the design
// of KVM for fifteen years, and is the thread of this chapter: *how many exits, and who handles them.*
//
// ## A bench
//
// To count exits we need guests that cause chosen ones. Here is the instrument: a guest that is nothing but a list of accesses, and a PC around it.
//
// ::include guest-program.ts
// ::include bench.ts
//
// The first guest says hello to the serial port, asks CPUID who it runs on, stores to one address where a device is and to another where none is.

import { KvmIoeventfd } from '../02-kvm-objects/abi/eventfd.ts';
import { Bus, type Registers, type Width } from '../03-vcpu-loop/devices/bus.ts';
import { type BenchRun, mark, runOnBench } from './bench.ts';
import { E1000 } from './e1000/registers.ts';
import {
  APIC_ON,
  add,
  apic,
  COUNTER,
  type Code,
  cpuid,
  END_OF_INTERRUPT,
  handler,
  input,
  letIn,
  load,
  movePics,
  out,
  redirect,
  sleepUntil,
  store,
  times,
} from './guest-program.ts';
import type { Arrangement } from './interrupts/controller.ts';
import { CARD_BAR, CARD_DEVICE } from './operations.ts';
import { ConfigDriver } from './pci/config-driver.ts';
import { COMMAND, HEADER_0 } from './pci/header.ts';
import { RegisterFile, registerTable } from './registers.ts';

const COM1 = 0x3f8;
const SCRATCH = 0xfeb0_0000;
const NOWHERE = 0xf000_0000;

/** A little of everything. */
export const firstGuest = (): BenchRun =>
  runOnBench({ code: [mark, out(COM1, 0x41), input(COM1 + 5), cpuid(0), store(SCRATCH, 5), load(NOWHERE), mark] });

// ## From an instruction to a device and back
//
// What happened is in the trace, and what belongs to one access can be picked out of it. This is the route of the first OUT:
//
// ::figure route-port -- The route of one `OUT`, from the trace of the first guest.
//
// The processor does the first third of the work. It finds in the VMCS that this port exits, and it leaves behind everything that there is to know:
// width, direction and port number are bits of the *exit qualification*. The kernel looks whether one of its own devices is at that port. None is,
// so it copies AL into the page that it shares with the VMM, and `KVM_RUN` returns. The VMM asks the bus; the bus finds the device and the offset; the
// device does what a write to that register does. Then everybody goes back to sleep in reverse order.
//
// A store to memory takes the same way with one difference, and it is an expensive one.
//
// ::figure route-memory -- The route of one store to a device's page.
//
// The exit says which *address* was touched, not what was to be written there, nor from which register. The hardware gave up in the middle of an address
// translation, and at that point it no longer thinks in instructions. So the kernel fetches the guest's instruction from memory and decodes
// it, as chapter 3 described. KVM helps itself with a trick: the first such exit leaves a second-stage entry behind that is deliberately
// *misconfigured*, a combination of bits that can mean nothing. From then on the processor exits for that page with a reason of its own, and the kernel
// knows without a search that the page is a device's.
//
// Who does all this without thinking is the guest. Its next instruction finds AL, or memory, as if a chip had been there.
//
// ::include route.ts
// ::include register-names.ts
//
// On the live page, "the route of one access" shows the same for any access of any guest.
//
// Not all of these exits reach user space, and the table is the first of many like it:
//
// ::figure first-guest -- The exits of the first guest, by reason, and who settled them.
//
// ## The map
//
// A bus answers one question: who is at this address? It is chapter 3's `devices/bus.ts`, and there are two of it in a machine, one for ports and one
// for memory. A device is put there as a *region*: a place, a length and an object with `read` and `write`. What is behind the lookup is a sorted list of
// stretches, each with one answer, made anew whenever a region moves; an access is a binary search.
//
// ::figure port-map -- The ports of the running machine, asked one by one who answers.
//
// That figure is a history of the PC. What lies below port 0x100 was soldered to the board of the AT in 1984 and has not moved since. The serial and IDE
// ports were cards in slots. What lies at 0x510 never existed outside of virtual machines. PCI, which came with the promise that no address
// would ever be fixed again, has two ports of its own that are.
//
// Widths and borders are the part that a VMM gets wrong. The next function puts two devices beside each other, one that was built for accesses of
// four bytes and a neighbour of one byte, and makes every awkward access to them that a guest can make.

/** One access to the two neighbours: what the guest did, what the devices saw, what came back. */
export interface AwkwardAccess {
  readonly access: string;
  readonly seen: string;
  readonly value: bigint;
}

export function awkwardAccesses(): AwkwardAccess[] {
  const seen: string[] = [];
  const device = (name: string, bytes: bigint, impl: Registers['impl']): Registers => ({
    name,
    ...(impl && { impl }),
    read: (offset, width) => {
      seen.push(`${name}: ${width} at ${offset}`);
      return bytes >> BigInt(8 * offset);
    },
    write: (offset, width, value) => void seen.push(`${name}: ${width} at ${offset}, 0x${value.toString(16)}`),
  });
  const bus = new Bus('example', 0x100);
  bus.attach(0x10, 8, device('wide', 0x8877_6655_4433_2211n, { min: 4, max: 4 }));
  bus.attach(0x18, 1, device('byte', 0x99n, { min: 1, max: 1 }));
  const read = (address: number, width: Width): AwkwardAccess => {
    seen.length = 0;
    const value = bus.read(address, width);
    return { access: `read of ${width} at 0x${address.toString(16)}`, seen: seen.join('; ') || 'nobody', value };
  };
  return [read(0x10, 4), read(0x11, 1), read(0x12, 4), read(0x10, 8), read(0x16, 4), read(0x18, 2), read(0x40, 4)];
}

// ::figure widths -- The same two devices under seven reads.
//
// The device of four bytes never sees anything but an aligned access of four bytes; what the guest asked for is cut out of the answers. Where an access runs
// from one device into the next, or over the edge into nothing, it is cut at the edge, and the bytes that nobody has are ones. The last line is not an
// error. A PC is full of software that finds out what is there by reading where nothing is, and an exception would be the end of it.
//
// Two devices at *one* address are a mistake of whoever built the board, and `attach` refuses it. But a guest that moves a PCI device over another is in
// its rights, so for regions that move there is an order: higher priority first, then the older. That the answer depends on where things *are* and not on
// the order in which they got there matters more than which answer it is; a machine that is saved and restored elsewhere must not change its mind.
//
// ## A device is a table
//
// Data sheets describe a chip by a table of registers. So does this chapter: one table for each device gives the offsets to the model, the words to the
// documentation and the names to the trace. What is left to write are the verbs.
//
// ::include registers.ts
//
// Here is a device that nobody ever built, whole: it counts how often it was asked, up to a limit, and remembers that the limit was passed.
//
// ::layout TALLY -- All that a driver has to know.

// biome-ignore format: table
export const TALLY = registerTable('tally', 'this page', {
  LIMIT:  { offset: 0, bytes: 1, access: 'rw', reset: 3, text: 'how often it may be asked' },
  COUNT:  { offset: 1, bytes: 1, access: 'rc', text: 'how often it was; reading it is asking' },
  PASSED: { offset: 2, bytes: 1, access: 'rw1c', text: 'bit 0: more often than the limit' },
});

/** The verbs of {@link TALLY}. */
export function tally(): RegisterFile<keyof typeof TALLY.rows & string> {
  let [limit, count, passed] = [3, 0, 0];
  return new RegisterFile(TALLY, {
    LIMIT: {
      read: () => limit,
      write: (value) => {
        limit = value;
      },
    },
    COUNT: {
      read: () => {
        if (++count > limit) passed = 1;
        return count & 0xff;
      },
    },
    PASSED: {
      read: () => passed,
      write: (ones) => {
        passed &= ~ones;
      },
    },
  });
}

const TALLY_PORT = 0x620;

/** A guest that asks `times` times; what the device says of it afterwards. */
export function askTally(asked: number): { readonly count: number; readonly passed: boolean } {
  const device = tally();
  runOnBench(
    { code: [out(TALLY_PORT, 5), times(asked, input(TALLY_PORT + TALLY.rows.COUNT.offset))] },
    { prepare: ({ platform }) => void platform.ports.attach(TALLY_PORT, 3, device) },
  );
  return { passed: device.read(TALLY.rows.PASSED.offset, 1) === 1n, count: Number(device.read(TALLY.rows.COUNT.offset, 1)) - 1 };
}

// A guest sets the limit to five and asks {{words(asked.count)}} times. Was the limit passed? The device says {{asked.passed}}. Reading that register
// *changes* it, which is common in hardware and rare in software, and the reason why a debugger that displays a device's registers must not use the bus. It is also why
// the table has a column for access: `rc` is cleared by reading, `rw1c` is cleared by writing ones, so that a driver can acknowledge
// what it has seen without losing what has come since.
//
// What a device is connected to besides its bus fits on one page: a wire to pull, memory to reach, messages to send.
//
// ::include wires.ts
//
// ## PCI: addresses that are asked for
//
// Before 1992 a card's addresses were set by jumpers, and two cards with the same were a lost afternoon. PCI turned it round. Each function has
// {{HEADER_0_BYTES}} bytes of *configuration space* with a header of known form; there it says what it is and how much room it needs, and software tells it
// where to be. Configuration space has addresses of its own and no instruction to reach it, so there is a pair of ports for that.
//
// ::include pci/config-access.ts
// ::include pci/header.ts
//
// A driver for that, in the guest's place: the same port accesses, made on the running machine's bus.
//
// ::include pci/config-driver.ts
//
// With it, the function below sizes the network card's BAR and then moves the card about.

const PLACES = [CARD_BAR, 0xe000_0000, 0x10_0000] as const;

/** Sizes the network card's BAR and moves it about. For each place: who answers there afterwards, to a device's access and to the guest's. */
export function moveCard() {
  const { pc } = runOnBench({ code: [] }, { devices: [{ type: 'e1000', netdev: 'wire' }] });
  const driver = new ConfigDriver(pc.ports);
  const bytes = driver.sizeBar(CARD_DEVICE, 0, 0);
  driver.write(CARD_DEVICE, 0, HEADER_0.rows.COMMAND.offset, COMMAND.MEMORY);
  const moves = PLACES.map((to) => {
    driver.write(CARD_DEVICE, 0, HEADER_0.rows.BAR.offset, to);
    const onBus = PLACES.filter((place) => pc.mmio.whoAnswers(place)?.device.name === E1000.device);
    return { to, onBus, exits: to >= pc.memory.lowBytes };
  });
  return { bytes, log: driver.log, moves };
}

// ::figure bar-sizing -- Sizing a BAR: what the driver wrote and read.
//
// The register has as many writable bits as the region has multiples, so what comes back after writing ones is minus the size: {{size(card.bytes)}} for the
// network card. It is a beautiful protocol for hardware, since the answer needs no logic, only missing flip-flops. For a VMM it is a hazard. In the
// middle of the dance the BAR holds an address that is none, and an operating system that skips the decode bits (some do) has for an instant put its
// card over whatever lies at the top of the address space.
//
// After the size, the place. The function moved the card to {{words(card.moves.length)}} addresses, and after each move it answered at
// {{card.moves.every(({ onBus }) => onBus.length === 1) ? 'exactly one of them' : 'several of them'}}. The last of them is in the middle of RAM. The
// bus would not mind; but an access there never becomes an exit, because a memory slot has the address and the processor goes through the second-stage
// tables straight to the page. RAM wins, without anybody having decided it.
//
// ::include pci/config-space.ts
// ::include pci/bars.ts
// ::include pci/function.ts
// ::include pci/pci-bus.ts
// ::include pci/bridge.ts
//
// Configuration space has a second door. PCI Express gave each function {{ECAM_FUNCTION_BYTES}} bytes, more than the pair of ports can name, and laid all of
// it out in physical memory: *ECAM*, bus, device and function in bits of the address. The window is {{size(ecam.bytes)}} large and sits at {{hex(ecam.base)}}
// here. Where it is stands in a register of the host bridge, which firmware has to program through the ports, since the window cannot be used to open itself;
// and it stands in the ACPI table MCFG for everybody after that.
//
// ### Four pins, eight lines, twenty-four inputs
//
// A PCI device has up to four interrupt pins, all devices share a handful of lines, and the pins are *levels*: the line is active as long as anyone pulls it.
// The wiring between the two is the least loved part of a PC.
//
// ::figure intx-routes -- Where the first pin of some devices ends: in the chipset, at the I/O APIC, and at the 8259s if the routing register says so.
//
// ::include pci/pirq.ts
// ::include pci/lines.ts
//
// Sharing has a price that is paid at each interrupt: all drivers of a line are asked, and each asks its device, and for an emulated device each
// question is an exit. A *message-signalled* interrupt is better in every respect. It is a memory write that the device makes, to an address that the
// driver has chosen and with a value that the driver has chosen; the address names a processor and the value a vector. Nothing is shared, nothing has
// to be asked. It cannot overtake the data that the device has written before it. For a VMM it is also the simpler thing: no level to keep, no EOI to wait
// for.
//
// ::include pci/msi.ts
// ::include pci/msix.ts
//
// What holds all this together is the chipset. A machine gets a Q35, the youngest that QEMU has, of 2007, or one that is eleven years older.
//
// ::include pci/chipset.ts
// ::include pci/pam.ts
// ::include pci/mch.ts
// ::include pci/lpc.ts
// ::include pci/q35.ts
// ::include pci/i440fx.ts
// ::include pci/piix3.ts
//
// ## Interrupt controllers, in three places
//
// A PC has four kinds of interrupt hardware, because none was ever removed. The two 8259s of 1984; the 8254 timer beside them; and, since processors
// come in numbers, a local APIC in each processor and an I/O APIC for the wires. An operating system uses the second pair and masks the first; firmware
// does it the other way round.
//
// ::include interrupts/pic.ts
// ::include interrupts/pit.ts
// ::include interrupts/apic-message.ts
// ::include interrupts/apic-bus.ts
// ::include interrupts/ioapic.ts
// ::include interrupts/lapic-registers.ts
// ::include interrupts/apic-destination.ts
// ::include interrupts/lapic.ts
// ::include interrupts/apic-timer.ts
// ::include interrupts/startup.ts
//
// These are ordinary devices: registers, timers, wires. They could be in user space with all the others, and in KVM's first year they were. What speaks
// against it is how often they are used. A busy guest touches its local APIC several times for *each* interrupt, and every touch is an exit, decoded
// and sent up. So the chips moved into the kernel. Then, eight years later, most of them moved out again: a PIT and two 8259s are thousands of lines of
// kernel code that hostile guests can poke at and few guests use. What stayed is what is hot. QEMU calls the three arrangements
// `kernel-irqchip=on`, `off` and `split`.
//
// ::include interrupts/controller.ts
// ::include interrupts/in-kernel.ts
// ::include interrupts/split.ts
// ::include interrupts/user-space.ts
//
// The next guest is for measuring them. It takes {{TICKS}} interrupts of its local APIC's timer; then as many from the serial port by way of the I/O
// APIC, level-triggered as PCI lines are; and then it sends itself as many interprocessor interrupts. For the first two it sleeps; the third it takes
// when it next opens its interrupt flag. Each handler ends as a driver's would.

const [TIMER_VECTOR, DEVICE_VECTOR, IPI_VECTOR] = [0x40, 0x50, 0x60];
const TO_SELF = 0x4_0000; // ICR: destination shorthand
const COM1_LINE = 4;

export const TICKS = 10;

/** The same guest under any of the three arrangements. */
export function interruptsUnder(irqchip: Arrangement): BenchRun {
  const [IER, IIR] = [COM1 + 1, COM1 + 2];
  const each = (body: (n: number) => Code): Code[] => Array.from({ length: TICKS }, (_, n) => body(n));
  const ticks = each((n) => [...store(apic('INITIAL'), 1000), ...sleepUntil(COUNTER, n + 1)]);
  // The transmitter of the serial port is empty, so enabling its interrupt raises it; reading IIR takes it back.
  const sent = each((n) => [...out(IER, 0), ...out(IER, 2), ...sleepUntil(COUNTER, TICKS + n + 1)]);
  const called = each(() => [...store(apic('ICR'), TO_SELF | IPI_VECTOR), ...letIn]);
  const setUp = [
    movePics(),
    APIC_ON,
    redirect(COM1_LINE, DEVICE_VECTOR),
    out(COM1 + 4, 8),
    store(apic('TIMER'), TIMER_VECTOR),
    store(apic('DIVIDE'), 0xb),
  ];
  return runOnBench(
    {
      code: [...setUp, mark, ...ticks, ...sent, ...called, mark],
      handlers: {
        [TIMER_VECTOR]: handler(add(COUNTER, 1), END_OF_INTERRUPT),
        [DEVICE_VECTOR]: handler(input(IIR), add(COUNTER, 1), END_OF_INTERRUPT),
        [IPI_VECTOR]: handler(END_OF_INTERRUPT),
      },
    },
    { irqchip },
  );
}

// ::figure arrangements -- One guest, three arrangements: exits by reason, and how many of them went to user space.
//
// The guest did the same thing three times. With everything in user space {{arranged.off.user}} of {{arranged.off.exits}} exits left the kernel; with
// everything inside, {{arranged.on.user}} of {{arranged.on.exits}}, and those are the serial port's own registers, which nobody would put into a kernel.
// `split` has {{arranged.split.user}}: the local APIC is inside, and what is added are the end of each *level* interrupt, for which the I/O APIC outside has
// to be told. An edge needs no such news, nor does an MSI. That is the whole idea of the split: what modern guests do often is in the kernel, and
// what is outside they do not do.
//
// Look at `HLT` as well. Without a local APIC in the kernel a sleeping processor is user space's problem, and a wake-up is a return to `KVM_RUN`. With
// one, the thread sleeps inside the call: the VMM does not even learn that its guest was idle.
//
// ### In the kernel
//
// Inside, the chips are the same classes as outside; what is new is how they are reached. Four things, each a table or a list.
//
// The *routing table* says what a line number (GSI) means: an input of the 8259s, one of the I/O APIC, or a message with address and data. `KVM_IRQ_LINE`
// sets the level of a number. `KVM_SIGNAL_MSI` needs no number, because the message says everything. And the kernel's own *I/O bus* is asked before an
// exit goes up, as the figure of the route has shown: if one of these chips answers, `KVM_RUN` does not return.
//
// ::include kernel/
//
// ### Without exits
//
// Even in the kernel each EOI was an exit: {{saved.eoi}} of them here, and {{saved.page}} accesses to the local APIC's page in all. The guest's
// processor has a local APIC of its own, of course, but it is the host's, and the guest must not have it. What Intel has built into its server
// processors since 2013 is a second one, in memory. *APIC virtualization* lets the guest read and write a page, the virtual-APIC page, without
// leaving. *Virtual-interrupt delivery* goes further: the hypervisor sets a bit in that page's request register and a byte in the VMCS, *RVI*, the
// highest vector that waits; and the processor evaluates priorities, delivers at the next boundary where the guest allows it, and carries out the
// EOI, by the rules of the local APIC, in microcode. For level-triggered vectors a bitmap asks for an exit at the EOI, which is how the I/O APIC
// learns of it. Interrupt windows are not needed any more.
//
// One exit remained. If the target is *running*, on another core, somebody has to make it look: an interrupt to that core, which is an exit. *Posted
// interrupts* remove it. The sender sets a bit in a descriptor in memory and sends a special vector; a core that receives this vector in guest mode takes
// the bits over into the virtual-APIC page without leaving the guest. Since the descriptor is only memory, hardware can be the sender: the IOMMU
// posts a real device's MSI straight into a running guest.
//
// What would these have saved? In the run above, with everything in the kernel: the EOIs of all interrupts that were not level-triggered, the
// {{saved.self}} writes to ICR by which the guest called itself, and the {{saved.windows}} interrupt windows. The {{saved.timer}} writes that set the timer
// would still have exited, because somebody has to set a real one, and so would HLT and the serial port. Of {{arranged.on.exits}} exits {{saved.left}} would
// be left. (Our processor has none of the three; the soft kernel does what KVM does on an older machine.)
//
// ## Doorbells
//
// Some writes carry no information. A driver that has put a request into memory writes to a register of the device only to say *look*. The VMM
// does not need the processor for that; another thread could look, if only somebody told it. *ioeventfd* is that telling. The VMM registers an address with
// an eventfd, and the kernel answers a matching write by adding one to the eventfd's counter. There is no return from `KVM_RUN`, and the device's thread,
// which has been asleep in `read`, wakes up on another core.
//
// The rule for *matching* is where the interface has its details. Port or memory; a length, or none, which means any width (and then, for memory,
// the instruction is not even decoded: a *fast MMIO*); and optionally a value, *datamatch*, so that many queues can share one register and still have an
// eventfd each. `irqfd` is the way back: an eventfd tied to a GSI, so that a device's thread raises an interrupt by a `write`, in any process. For
// level-triggered lines it takes a second eventfd, *resample*, which the kernel signals at the guest's EOI to ask whether the device still wants it.

const BELL = 0xf000_1000;
const RINGS = 100;

/** A guest that rings a doorbell {@link RINGS} times; with an eventfd behind it, or without. */
export function doorbell(kind: 'exit' | 'eventfd'): { readonly run: BenchRun; readonly counted: number } {
  let read = (): number => 0;
  const run = runOnBench(
    { code: [store(BELL, 0), mark, times(RINGS, store(BELL, 1)), mark] },
    {
      irqchip: 'on',
      prepare: ({ kernel, vm }) => {
        if (kind === 'exit') return;
        const fd = kernel.eventfd(0, 0);
        vm.ioctl('KVM_IOEVENTFD', KvmIoeventfd.encode({ addr: BigInt(BELL), len: 4, fd }));
        read = () => {
          const counter = new Uint8Array(8);
          kernel.read(fd, counter);
          return Number(new DataView(counter.buffer).getBigUint64(0, true));
        };
      },
    },
  );
  return { run, counted: read() };
}

// ::figure doorbells -- {{bells.rings}} rings of the same bell.
//
// The counter stood at {{bells.counted}} afterwards: the guest's {{bells.rings}} rings and the one before the first mark. Nobody was called for any
// of them, and if the device's thread was slow it found one number where there would have been {{bells.rings}} interruptions. That an eventfd *adds up*
// and does not queue is right for a doorbell, where the request is in memory and the ring is only a hint; it is wrong for a register whose value matters.
//
// For such a register there is a cheaper exit at least: *coalesced* MMIO, where the kernel writes accesses down in a ring shared with the VMM, to be read
// when it happens to come by.
//
// ## The time
//
// Guests ask for the time more often than for anything else, and every one of the clocks above is a device: reading it is an exit. The processor's own time
// stamp counter costs none. What the guest lacks is the counter's frequency and its zero, and both may change when the machine is moved to another host.
// So the hypervisor writes them down in a page of the guest's memory, with a version number that is odd while it writes. The guest reads version,
// numbers, version, and multiplies. This is *kvmclock*, and it was the first para-virtual device that nobody wanted to be without.
//
// ## The rest of the board
//
// ::include platform/rtc.ts
// ::include platform/i8042.ts
// ::include platform/ps2.ts
// ::include platform/pm.ts
// ::include platform/dma8237.ts
//
// A board is more than its chips. Somebody has to tell the operating system what there is. For what PCI does not find by itself, that is *ACPI*: tables
// found by a signature, and one of them a program, because in 1996 it was thought that the difference between boards is best expressed in byte
// code.
//
// ::include platform/acpi/tables.ts
// ::include platform/acpi/aml.ts
// ::include platform/acpi/dsdt.ts
// ::include platform/acpi/acpi.ts
//
// And somebody has to tell the *firmware*, which on a real board was compiled for it and here runs on a machine that was put together a second ago.
//
// ::include platform/fw-cfg.ts
//
// ## The machine
//
// ::include machine/config.ts
// ::include machine/device-types.ts
// ::include machine/devices.ts
// ::include machine/options.ts
// ::include machine/memory.ts
// ::include machine/memory-types.ts
// ::include machine/topology.ts
// ::include machine/mainboard.ts
// ::include machine/pc.ts
// ::include machine/machine-types.ts
// ::include machine/machines.ts
// ::include machine/soft-machine.ts
// ::include host/run.ts
// ::include host/open-machine.ts
//
// Whether it is a PC is not for us to say. SeaBIOS is firmware that nobody here wrote and that was never told of this book. Unmodified, as Debian packages it,
// it starts at the processor's reset vector in a ROM at the top of 4 GiB, finds the chipset, opens the shadow RAM under itself, sets up the
// 8259s and the timer, sizes and places every BAR, starts the other processors by INIT and SIPI, takes the ACPI tables out of fw_cfg,
// finds the disk on its cable by IDENTIFY DEVICE, reads the first sector and jumps into it. A mistake in almost any register of this chapter shows in that
// run, as a complaint on port 0x402 or as silence. `host/seabios.test.ts` is the proof, for one processor and for two; it runs wherever the package is
// installed. To watch it: `npx ringbook run -bios /usr/share/seabios/bios-256k.bin -drive file=disk.img -serial null -debugcon stdio`.
//
// ## What a sector costs
//
// Now the two devices for which all this was made. They are *fully emulated*: real hardware, modelled well enough for the drivers that were written
// for it. The disk first, read in three ways; then a card that sends frames to a station which sends them back.
//
// ::include operations.ts
//
// ::figure disk-costs -- {{words(SECTORS)}} sectors in three ways. An exit belongs to what the driver was doing.
//
// Word by word, a sector is {{diskCosts.words.data / SECTORS}} exits for its data alone. The string instruction makes one of them: KVM's emulator collects the
// words in the shared page, and the device is asked for all in one go. It is a courtesy of the hypervisor that real hardware does not have, and a driver
// that happens to use `REP INSW` has won a factor of {{diskCosts.perSector.words / diskCosts.perSector.string}} without knowing. The bus master wins for another
// reason: the data does not pass through the processor at all. What is left, {{diskCosts.master.exits}} exits for the whole request, is
// conversation: six registers for the form, {{words(diskCosts.master.master)}} for the engine, the interrupt's acknowledgement and its end.
//
// ::include block/block.ts
// ::include ide/task-file.ts
// ::include ide/device.ts
// ::include ide/identify.ts
// ::include ide/disk.ts
// ::include ide/channel.ts
// ::include ide/bus-master.ts
// ::include ide/piix.ts
//
// ## What a packet costs
//
// A network card has done its homework already. Frames are described in rings in memory, and the driver moves an index.
//
// ::figure frame-costs -- {{FRAMES}} frames there and back: exits by register, and by who settled them.
//
// For each frame there and back that makes {{frameCosts.perFrame}} exits, of which {{frameCosts.userPerFrame}} go to user space, with all interrupt
// controllers in the kernel. Three of them are the card's own, and each for another reason. The doorbell says *look*, which an eventfd could have
// said. The read of ICR asks *what was it?*, and throws the answer away on the way, since reading clears; no eventfd can answer a read. The
// new tail of the receive ring says *you may have this buffer back*, which the card would see by itself if the index were in memory.
//
// A driver of the real card has no reason to mind. A register access takes it a fraction of a microsecond, against a frame's twelve. In a guest the same
// access costs several microseconds, and the card was designed, register by register, by people who could not know that.
//
// ::include net/link.ts
// ::include e1000/registers.ts
// ::include e1000/descriptors.ts
// ::include e1000/eeprom.ts
// ::include e1000/phy.ts
// ::include e1000/transmit.ts
// ::include e1000/receive.ts
// ::include e1000/offload.ts
// ::include e1000/interrupts.ts
// ::include e1000/nic.ts
// ::include e1000/e1000.ts
// ::include machine/echo-network.ts
// ::include counts.ts
//
// ## Where this leads
//
// Put the numbers side by side. A request to the disk is {{diskCosts.master.exits}} exits at best, a frame {{frameCosts.perFrame}}. None of them moves
// data. They are all conversation about memory that both sides could see.
//
// What would a device look like that was designed to be emulated? Requests in memory, where both sides read them. One doorbell, a pure hint, that an
// eventfd can take. One interrupt, edge-like, whose cause need not be asked for because it is in memory too. Indices in memory in both directions, and a way
// to say *do not ring, I am looking anyway*. That is not an optimization of a network card. It is another device, one that has never been a chip; the
// guest must know about it, and that is what *para-virtualization* came to mean. Chapter 6 builds it, and the bench of this chapter will count it.
//
// ## In the real systems
//
// In Linux an `OUT` comes by `handle_io()` in `arch/x86/kvm/vmx/vmx.c`; `kvm_fast_pio()` in `x86.c` asks `kernel_pio()`, and only when that finds nobody
// fills in `kvm_run`. A store to a device comes by `handle_ept_misconfig()`, which first offers the address to `KVM_FAST_MMIO_BUS`, and then, by
// `kvm_mmu_page_fault()`, to the emulator; there `vcpu_mmio_write()` asks the local APIC and then the bus. The bus itself is
// `kvm_io_bus_write()` in `virt/kvm/kvm_main.c`, a sorted array and a binary search. ioeventfd and irqfd are `virt/kvm/eventfd.c`; the routing table is
// `virt/kvm/irqchip.c`; the chips are `lapic.c`, `ioapic.c`, `i8259.c` and `i8254.c` in `arch/x86/kvm`. Posted interrupts are `vmx/posted_intr.c`, and the
// kvmclock's page is written by `kvm_guest_time_update()`.
//
// QEMU's bus is `system/memory.c`: a *tree* of regions with containers, aliases and priorities, flattened into a sorted list, the FlatView, whenever it changes.
// Our regions are that list without the tree. The widths are `access_with_adjusted_size()` there, and `valid` and `impl` have QEMU's meaning.
// `hw/pci/pci.c` has the configuration space and the BARs, `hw/pci/msix.c` the tables, `hw/pci-host/q35.c` and `hw/isa/lpc_ich9.c` the chipset,
// `hw/ide/core.c` the disk, `hw/net/e1000.c` the card. For exits it has two entrances, `kvm_handle_io()` and `address_space_rw()`, both called
// from `kvm_cpu_exec()`.
//
// Firecracker shows how much of it one can leave out. Its bus (`vm-device`'s `IoManager`) is a `BTreeMap` from address ranges to devices; besides virtio
// over MMIO or PCI it has a serial port, an i8042 that knows one command, *reset*, and an RTC on Arm. There is no PIT of its own and no 8259 in user
// space: it asks KVM for the irqchip. It boots Linux, which is all it promises.
//
// ## Exercises
//
// 1. In the bus, let a write that runs over the border between two devices arrive whole at the first. Which device of the PC is the first to misbehave
//    under SeaBIOS, and where would you have seen it in the trace?
// 2. Size a BAR without clearing the decode bits, on this machine and on QEMU, and find out from each what is at the top of the address space meanwhile.
//    Why can the guest still fetch its instructions?
// 3. In `interruptsUnder` make the serial line edge-triggered. How do the three columns change, and what might a real device lose by it?
// 4. Run `readDisk` with `irqchip` *off* and *split*. The interrupt comes by the 8259s. Explain each difference by naming the chip and where it is.
// 5. Give the network card's transmit doorbell an ioeventfd. It counts, but no frame leaves. Who has to read it, on which thread? What must not overtake what?
// 6. The read of ICR clears it. Sketch a register that tells the cause by MSI-X vector instead, and say which exits of `framesThereAndBack` are left. You have
//    just designed the interrupt side of virtio.
// 7. On the live page, run the `e1000` payload, choose an access to ICR and follow its route. At which stop would a kernel device have ended it, and
//    why is there none?
