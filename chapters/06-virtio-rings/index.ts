// # Virtio rings
//
// Chapter 5 ended with a bill. A disk request by its bus master was {{emulated.disk}} exits, and a frame there and back {{emulated.frame}}. None of
// them moved data. They were conversation: *is the drive ready, here is the sector number, now start, yes I have seen the interrupt*. A driver of
// 1990 had to hold it, because the other end was a chip that could not look into memory and decide for itself. The other end of ours is a program
// that sees all of the guest's memory. Why should it be asked anything?
//
// So: what does a device look like that was never a chip? The guest knows that it is in a machine made of software, which is what
// *para-virtualization* means, and both sides agree on the cheapest way for two programs to hand each other buffers through memory that both can see.
// In 2008 Rusty Russell wrote such a thing for his toy hypervisor and asked whether the half-dozen hypervisors of the day, each with drivers of its
// own in Linux, could not share it. It is called *virtio*, it has been a standard since 2016, and there are network cards today that implement it in
// silicon, because that is what all guests have a driver for.
//
// ## Four layers
//
// A disk driver in a guest, at the top, knows what a sector is. A disk in the VMM, at the bottom, knows what a file is. Between them are two layers
// that know neither.
//
// ::figure layers -- The four layers, and what each one calls the thing that it passes on.
//
// The *front-end driver* is one for each type of device. Below it is *virtio* itself: how a driver and a device find each other, agree on what both
// can do, and start and stop. Below that are *transport and ring*: where the registers are, on PCI or on a page of memory, and how buffers cross. The
// *back-end* is the device. What makes the design last is that the middle does not change when an end does. A new type of device needs no new ring,
// and when the ring was replaced, ten years later, no device had to be touched.
//
// This chapter builds all four, and both sides of the two in the middle: the driver's, which lives in a guest but is written so that it runs on any
// memory, and the device's. Here is the memory, and what a device is to the rest of the machine.
//
// ::include memory.ts
// ::include queue.ts
//
// ## The naive way: a letter box
//
// Two programs, one piece of memory. The obvious protocol has a buffer and a flag. The driver fills the buffer, sets the flag and rings; the device
// empties it, clears the flag and interrupts.

/** One buffer, one flag. */
export class LetterBox {
  full = false;
  text = '';
  /** How often either side had to be told. */
  notifications = 0;

  put(text: string): boolean {
    if (this.full) return false;
    this.text = text;
    this.full = true;
    this.notifications++;
    return true;
  }

  take(): string | null {
    if (!this.full) return null;
    this.full = false;
    this.notifications++;
    return this.text;
  }
}

/** Sends so many messages by a letter box, as fast as it goes. */
export function lettersSent(count: number): { readonly notifications: number; readonly refused: number } {
  const box = new LetterBox();
  let refused = 0;
  for (let sent = 0; sent < count; ) {
    if (box.put(`letter ${sent}`)) sent++;
    else {
      refused++;
      box.take();
    }
  }
  box.take();
  return { notifications: box.notifications, refused };
}

// It works, and {{LETTERS}} messages cost {{letters.notifications}} notifications, two for each, as with the registers of a chip. Five things are
// wrong with it:
//
// - **One at a time.** {{letters.refused}} times the driver had a message and nowhere to put it. A disk that has thirty requests to choose from is
//   several times as fast as one that has one.
// - **Everything is told.** Each side wakes the other for each message, even when the other is awake and looking.
// - **Data is copied** into the box and out of it, though both could see where it lay before.
// - **The flag has two writers.** Two processors that write one word need locked instructions, or care of a kind that nobody takes twice.
// - **And it is wrong.** `text` and `full` are two stores. Who says that the other side sees them in that order?
//
// The first four ask for a better data structure. The last one is true of any structure, so it comes first.
//
// ## Which store is seen first
//
// ::include litmus.ts
//
// ::figure ring-handover -- The three questions of a ring, as its sides must be written, with one side turned around, and when nobody asks for any order.
//
// On [the ring’s page](../../live/ring.html) you can exchange any two accesses, or take one fence away, and step through the execution that fails.
//
// Read the rows. Let the index move first, and no machine is safe: it is not a matter of processors, the program is wrong. (Two stores that nothing
// counts yet may change places; try it.) Write them in the right order but ask for nothing, and the first two questions come out right on x86, whose
// stores stay in order, and wrong on a weak machine. That is why a missing barrier survives for years in a code base whose tests run on x86. The
// third question is the treacherous one. Both sides *say* something and then *look*, and a processor that lets a load pass an older store, as x86
// does, breaks it. Its symptom is not a wrong byte. It is a guest that hangs once a week, with a request in the ring and both sides asleep.
//
// Everything below keeps to one rule for each question. *The index last*: what it counts is complete in memory before it moves. *The index first*:
// whoever looks at it looks at nothing it counts before. *A fence between saying and looking.* In TypeScript the three are `Atomics.store`,
// `Atomics.load`, and that the two are never exchanged with one another; on x86 the first becomes a locked instruction, which is the fence.
//
// ## The split ring
//
// Now the structure. Give each word one writer. Then there must be two rings of indices, one in each direction, and since the driver and the device
// would otherwise have to copy descriptors between them, the descriptors lie in a table of their own and the rings contain their numbers.
//
// ::include rings/layout.ts
//
// Follow one request through it. It has two pieces, one that the device reads and one that it writes; another request is on its way already.
//
// ::include round-trip.ts
//
// ::figure round-trip-split -- Every store to the ring that the other side can see.
//
// Nobody was asked anything. The driver's notes about which descriptors are free do not appear, because they are the driver's own: a device that can
// write the table could lead it anywhere. Of all these stores only one on each side is a *message*, the index; the others are its contents. (On [the
// same page](../../live/ring.html#do=a2.k.p.u0-16.n.t) you are both sides, one act at a time; this link has made the trip already, and steps back.)
//
// A ring of {{RING_EXAMPLE}} descriptors holds {{RING_EXAMPLE}} requests at once, so the first complaint about the letter box is answered. So is the
// third: what crosses are addresses. And since each area has one writer, the fourth. A chain of descriptors is a list through the table, which is how
// Linux would keep it anyway; the device just follows it.
//
// It must do so with care.
//
// ::include rings/chain.ts
// ::include rings/area.ts
// ::include rings/split.ts
// ::include rings/order.ts
//
// ### More requests than pieces
//
// A request for a disk that reads a file is a header, a status byte, and a page of memory here and there. In descriptors that is dozens, and a ring
// that a few requests fill is a letter box again. *Indirect* descriptors are the way out: one entry of the ring refers to a table elsewhere in
// memory, and the pieces are there. It costs an allocation and one more place to look. It gains that every request takes one entry, so that the ring
// holds as many *requests* as it has entries. Linux uses it for every request of more than one piece, and then takes no notice of a rule that nobody
// enforces: a chain may have no more pieces than the queue has entries, wherever they stand.
//
// ## Not being told
//
// The second complaint was notifications, and it is the one with the money in it. A kick is an exit, an interrupt is an injection and often another
// exit. The data structure needs neither: it is complete without, and a side that happens to look finds everything. So each side may say that it does
// not want to be told.
//
// First there was a flag: *I am looking anyway*. It is a hint with a delay, good for a side that polls for a while. Then came the *event index*:
// *wake me when you reach this one*. The driver writes how far it has read into the word after its own ring, the device compares it with what it has
// just written, and notifies only if it passed the mark. One more store and one more load, and the exits go away by themselves when there is much to
// do, because then both sides are always behind.
//
// ::include rings/event.ts
//
// ::include notifications.ts
//
// ::figure notifications -- {{burst.requests}} requests, handed over in bursts of {{burst.size}}: notifications in either direction.
//
// With a flag the driver need not kick a device that is busy, and {{told.none.split.kicks}} kicks become {{told.flags.split.kicks}}; but a device
// that answers a driver which has gone back to sleep interrupts it each time. A mark stays behind by itself. {{told['event index'].split.kicks}}
// kicks are one for each burst, and no format of ring could have fewer. How much of this a real guest sees depends on who is late, as the count at
// the end of the chapter shows.
//
// ## The packed ring
//
// Look at the first round trip again, as the memory system sees it. The driver wrote to {{words(lines.split.driver)}} lines of the cache and the
// device to {{words(lines.split.device)}}, and each has to travel from one processor to the other. A device on PCI, which reads memory across a bus,
// fares worse: index, ring entry, descriptor are three reads, each of which has to be answered before the next can be asked. When virtio went into
// hardware, this was what it cost.
//
// So the structure was turned around. *One* circle of descriptors, in the order of use. Driver and device both write into it, each behind the other,
// and two bits of a descriptor tell whose it is.
//
// ::figure round-trip-packed -- The same request in a packed ring.
//
// The handing over is in `flags`, the last word to be written, in the line that the receiver needs in any case. It is {{words(lines.packed.driver)}}
// line from the driver and {{words(lines.packed.device)}} from the device now. Notice *where* the device wrote: not over the descriptor that it
// answers, but over the oldest. A used descriptor only has to say which buffer it means, by the id, and how long it was; so they can be written in
// the order in which requests finish, into the space in the order in which it became free. What makes the two bits enough is that they change their
// meaning with each lap.
//
// ::include rings/packed.ts
// ::include rings/make-ring.ts
//
// ## The other side
//
// A driver is not the device's mirror image. The device serves whoever comes; the driver has things to do, and wants its buffers back. So far the
// *driver* was the one to be afraid of. It can be the other way round. In a confidential virtual machine the guest's memory is encrypted against the
// host and the host is the suspect, and of all the guest's software the first that meets it are these drivers. Linux's were rewritten for that:
// nothing that the device can write is believed.
//
// ::include driver/index.ts
// ::include driver/make-virtqueue.ts
//
// ## Agreeing
//
// Most of what was said so far is optional: the event index, indirect tables, the packed ring itself. A driver of one decade meets a device of
// another, so they have to find out what both know. The device offers bits, the driver accepts those it understands, and no bit that was not accepted
// may change anything. One refinement is younger than the rest. A device may be unable to do with *this* set of bits what it can do with each of
// them, so the driver writes FEATURES_OK and reads back whether it still stands there. Then come the queues, and last DRIVER_OK, before which neither
// side may touch a buffer.
//
// ::include features.ts
// ::include device.ts
// ::include virt-queue.ts
// ::include driver/virtio-device.ts
// ::include driver/virtio-driver.ts
// ::include driver/transport.ts
//
// ## Where the registers are
//
// All that is left of the chip is a handful of registers: status, features, where the queues are, a doorbell, why it interrupted. There are four ways
// to reach them, and each has its decade.
//
// The first, of 2008, is a PCI device with one I/O BAR: twenty bytes of registers, then the device's own. Everybody who asks why a device of that
// year used *ports*, a relic even then, gets the same answer: a port exits faster. Chapter 5 drew the two routes. An `OUT` tells the hypervisor
// everything, port and width and value, in registers and exit qualification; a store to memory tells it an address, and then the instruction has to
// be fetched and decoded to find out what was stored. Nor can the processor remember that a page is a device's: for each store it walked
// {{kicks.memory}} entries of the second stage before it gave up, for each `OUT` {{kicks.port}}.
//
// ::figure kicks -- {{kicks.rings}} rings of a doorbell, by port and by memory. `npm run bench` has the times, on this kernel and on the host's.
//
// The second, of 2016, is the PCI device of the standard. Its structures are found by *capabilities*, each of which says *in BAR so-and-so, at this
// offset, this long, is a structure of that kind*. They can be anywhere; a driver that assumes a place works with one implementation. Kicks are by
// memory now, one address for each queue, since KVM learnt in the meantime to answer them without a decoder: an ioeventfd of length 0. A device that
// has both, the old BAR and the capabilities, is called *transitional*, and is whichever its driver takes it for.
//
// The other two do without a bus. A window of registers lies somewhere in memory, and somebody says where: a device tree, a kernel's command line,
// here the ACPI tables. It is what a machine has that has no PCI, a phone of 2012 or a microVM of today. There is one doorbell for all queues and one
// line, which has to be asked why it is up. The old version of it tells where a queue is by a page number, as the old PCI device does; the new one
// has three addresses.
//
// ::include transport/ -- The device’s side of each
// ::include driver/transports/ -- The driver’s side
//
// ## Devices
//
// Four devices on top, from the smallest to the most useful. None knows which ring or which transport it is on.
//
// ::include devices/entropy.ts
// ::include devices/console.ts
// ::include devices/balloon.ts
// ::include devices/block.ts
// ::include devices/ -- Their parts
//
// And a driver for each.
//
// ::include driver/drivers/entropy.ts
// ::include driver/drivers/ -- The other drivers
//
// ## In the machine
//
// Chapter 5's PC knows devices by name and gives them a bus and memory; what is installed here are more names, QEMU's, with QEMU's properties. For
// devices without a bus the machine has windows, which its ACPI tables tell of.
//
// ::include machine/ -- Names, properties and windows
// ::include host/run.ts
//
// ## What a request costs now
//
// Back to the bill. It said {{emulated.disk}} exits for a request of the disk. This is what a block of four kilobytes takes now, and what the other
// devices take.
//
// ::figure request-costs -- Exits and interrupts of one request, by device, on PCI and in a window.
//
// For the disk it is {{words(request.pci.kicks + request.pci.others)}} exit, the kick. With a line instead of messages it is
// {{words(request.mmio.kicks + request.mmio.others)}}: the handler has to read why the line is up and write that it has seen it. Nothing else is left
// of the conversation. The balloon is the exception: what the host wants of it stands in a register, and so does what has become of that.
//
// One request at a time is not what rings are for, though, so here is the other end: a driver that hands over {{BURST}} buffers, one by one, and asks
// after each whether to kick.
//
// ::figure burst-costs -- {{BURST}} buffers, one after the other, by what is behind the doorbell.
//
// Look at the first two rows. The event index, with all its care about what is seen first, saves nothing. A device that is reached by an exit has
// served the buffer before the driver goes on, so it is never behind, and each kick is wanted. Put an eventfd behind the doorbell: the device is
// late, the interrupts become one, and the kicks no longer reach user space, though each is still an exit. Only both together leave
// {{words(bell.kicks)}} kick and {{words(bell.interrupts)}} interrupt for {{BURST}} buffers. With an irqfd besides, the VMM does not even ask for that
// interrupt: the device adds to a counter, as the driver did, and the kernel knows the rest.
//
// These are counts: the requests' on a machine that stands still, the burst's in a guest that runs. `npm run bench` has times.
//
// ::include counts.ts
// ::include burst.ts
//
// ## Somebody else's driver, somebody else's device
//
// A device that works with its own author's driver proves little. There are four kinds of proof here. SeaBIOS has a virtio driver that nobody here
// has touched, and boots from the disk above: `host/seabios.test.ts`. The suite's payloads drive QEMU's devices and ours in the same way, and
// compare. And the other way round, a test that was written for QEMU can be pointed at this machine, because it speaks the same protocol for tests,
// *qtest*: no guest at all, somebody outside reads and writes the registers of a machine whose processor stands still.
//
// ::include qtest/ -- qtest, and the machine behind it
// ::include host/qtest.ts
//
// The fourth is somebody who means harm. A driver that writes whatever comes to its mind into rings and registers must get nothing but a broken
// queue, and a device that does so must not get the driver to read or write where it should not, wait for ever, or take memory without end.
//
// ::include fuzz.ts
// ::include driver/fuzz-device.ts
// ::include driver/fuzz-machine.ts
//
// ## In the real systems
//
// In Linux the driver's side is `drivers/virtio`: `virtio.c` is the bus, `virtio_ring.c` both formats of the ring with the operations that have the
// same names here, `virtio_pci_modern.c`, `virtio_pci_legacy.c` and `virtio_mmio.c` the transports. `virtqueue_add_split()` publishes with
// `virtio_wmb()`, and `virtqueue_kick_prepare_split()` has the full barrier of the third question, with a comment that says what it is for. The front
// ends live with their kind: `drivers/block/virtio_blk.c`, `drivers/char/virtio_console.c`, `drivers/virtio/virtio_balloon.c`.
//
// In QEMU `hw/virtio/virtio.c` is the basic facilities and the device's end of both rings: `virtqueue_pop()`, `virtqueue_fill()`,
// `virtqueue_flush()`, `virtio_should_notify()`. A chain that is wrong ends in `virtio_error()`, which sets DEVICE_NEEDS_RESET, as `fail` does here.
// `virtio-pci.c` and `virtio-mmio.c` are the transports; `virtio-rng.c`, `virtio-serial-bus.c`, `virtio-balloon.c` and `hw/block/virtio-blk.c` the
// devices.
//
// rust-vmm's `virtio-queue` has split rings only, and the walk with a bound that it calls `ttl`. Cloud Hypervisor uses it; Firecracker has a queue of
// its own. The suite of this chapter looks for what has gone wrong in monitors like these, by their own reports: a device that served only the first
// descriptor of a chain, a buffer refused because it ended at the last byte of memory, an index that was believed though it was further ahead than
// the ring is long, a barrier missing between the index and the event index.
//
// ## Exercises
//
// 1. On [the ring’s page](../../live/ring.html#ask=sleep&machine=x86), take the fence from one side of the third question only. On which machine does
//    it still hold? Suppose that a driver adds a thousand buffers for each time that its device goes to sleep, and that, as with Linux's
//    `membarrier()`, one thread can make all others pass a fence. Who should pay, and what would the other side be allowed to save?
// 2. The used ring's element is eight bytes where six would do. Say why `id` has 32 bits although no ring is longer than 32768, and what a driver
//    must do with the upper half.
// 3. A packed ring of one descriptor works. Draw its flags over three round trips, and say why a split ring of one entry needs no wrap counter.
// 4. Write a driver that offers the same chain twice. Which line of the device notices, and what would the driver see if it did not?
// 5. `avail_event` is written by the device after each look. Count the stores of `roundTrip('split', { eventIdx: true })`, and find the burst size at
//    which they cost less than the kicks they save, at the prices that `npm run bench` prints for your machine.
// 6. Give the entropy device a second queue with bytes of another source. Which files have to change? If it is more than one, something above was
//    wrong about the layers.
