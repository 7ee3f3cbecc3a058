// # Virtio rings
//
// Chapter 5 ended with a bill. A disk request by its bus master was {{emulated.disk}} exits, and a frame there and back {{emulated.frame}}. None of them moved data. They were
// conversation: *is the drive ready, here is the sector number, now start, yes I have seen the interrupt*. A driver of 1990 had to hold it, because the
// other end was a chip that could not look into memory and decide for itself. The other end of ours is a program that sees all of the guest's memory. Why should it be asked
// anything?
//
// So: what does a device look like that was never a chip? The guest knows that it is in a machine made of software, which is what *para-virtualization* means, and
// both sides agree on the cheapest way for two programs to hand each other buffers through memory that both can see. In 2008 Rusty Russell wrote such a thing for his toy hypervisor and
// asked whether the half-dozen hypervisors of the day, each with drivers of its own in Linux, could not share it. It is called *virtio*, it has been a standard
// since 2016, and there are network cards today that implement it in silicon, because that is what all guests have a driver for.
//
// ## Four layers
//
// A disk driver in a guest, at the top, knows what a sector is. A disk in the VMM, at the bottom, knows what a file is. Between them are two layers that know neither.
//
// ::figure layers -- The four layers, and what each one calls the thing that it passes on.
//
// The *front-end driver* is one for each type of device. Below it is *virtio* itself: how a driver and a device find each other, agree on what both can do, and start and stop. Below
// that are *transport and ring*: where the registers are, on PCI or on a page of memory, and how buffers cross. The *back-end* is the device. What makes the
// design last is that the middle does not change when an end does. A new type of device needs no new ring, and when the ring was replaced, ten years later, no device had to be touched.
//
// This chapter builds all four, and both sides of the two in the middle: the driver's, which lives in a guest but is written so that it runs on any memory, and the device's. Here is
// the memory, and what a device is to the rest of the machine.
//
// ::include memory.ts
// ::include queue.ts
//
// ## The naive way: a letter box
//
// Two programs, one piece of memory. The obvious protocol has a buffer and a flag. The driver fills the buffer, sets the flag and rings; the device empties it, clears the flag and
// interrupts.

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

// It works, and {{LETTERS}} messages cost {{letters.notifications}} notifications, two for each, as with the registers of a chip. Five things are wrong with it:
//
// - **One at a time.** {{letters.refused}} times the driver had a message and nowhere to put it. A disk that has thirty requests to choose from is several times as fast as one that has one.
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
// ::figure ring-handover -- The three questions of a ring. For each: is the bad result possible when the sides are written as they must be, when two accesses are exchanged, and when nobody asks
// for any order? *On the ring's live page you can exchange them yourself and step through the execution that fails.*
//
// Read the rows. Exchange two stores, and no machine is safe: it is not a matter of processors, the program is wrong. Write them in the right order but ask for nothing, and the first two
// questions come out right on x86, whose stores stay in order, and wrong on a weak machine. That is why a missing barrier survives for years in a code base whose
// tests run on x86. The third question is the treacherous one. Both sides *say* something and then *look*, and a processor that lets a load pass an older store, as x86
// does, breaks it. Its symptom is not a wrong byte. It is a guest that hangs once a week, with a request in the ring and both sides asleep.
//
// Everything below keeps to one rule for each question. *The index last*: what it counts is complete in memory before it moves. *The index first*: whoever looks at it looks at nothing it counts
// before. *A fence between saying and looking.* In TypeScript the three are `Atomics.store`, `Atomics.load`, and that the two are never exchanged with one another; on x86 the first becomes a locked
// instruction, which is the fence.
//
// ## The split ring
//
// Now the structure. Give each word one writer. Then there must be two rings of indices, one in each direction, and since the driver and the device would otherwise have
// to copy descriptors between them, the descriptors lie in a table of their own and the rings contain their numbers.
//
// ::include rings/layout.ts
//
// Follow one request through it. It has two pieces, one that the device reads and one that it writes; another request is on its way already.
//
// ::figure round-trip-split -- Every store to the ring that the other side can see.
//
// Nobody was asked anything. The driver's notes about which descriptors are free do not appear, because they are the driver's own: a device that can write the table could lead it
// anywhere. Of all these stores only one on each side is a *message*, the index; the others are its contents.
//
// A ring of {{RING_EXAMPLE}} descriptors holds {{RING_EXAMPLE}} requests at once, so the first complaint about the letter box is answered. So is the third: what crosses are addresses. And since each
// area has one writer, the fourth. A chain of descriptors is a list through the table, which is how Linux would keep it anyway; the device just follows it.
//
// It must do so with care.
//
// ::include rings/chain.ts
// ::include rings/area.ts
// ::include rings/split.ts
// ::include rings/order.ts
//
// ### Longer than the ring
//
// A ring of 128 entries and requests of 130 pieces do not fit. *Indirect* descriptors are the way out: one entry of the ring refers to a table elsewhere in memory that has as many as
// it needs. It costs an allocation and one more place to look. It gains that every request takes one entry, so that the ring holds as many *requests* as it has entries. Linux
// uses it for every request of more than one piece.
//
// ## Not being told
//
// The second complaint was notifications, and it is the one with the money in it. A kick is an exit, an interrupt is an injection and often another exit. The data structure
// needs neither: it is complete without, and a side that happens to look finds everything. So each side may say that it does not want to be told.
//
// First there was a flag: *I am looking anyway*. It is a hint with a delay, good for a side that polls for a while. Then came the *event index*: *wake me when you reach this one*. The driver writes
// how far it has read into the word after its own ring, the device compares it with what it has just written, and notifies only if it passed the mark. One more store and one more load, and the
// exits go away by themselves when there is much to do, because then both sides are always behind.
//
// ::include rings/event.ts
//
// ::figure notifications -- {{burst.requests}} requests, handed over in bursts of {{burst.size}}: notifications in either direction.
//
// ## The packed ring
//
// Look at the first round trip again, as the memory system sees it. The driver wrote to {{lines.split.driver}} lines of the cache and the device to {{lines.split.device}}, and each has to travel from one processor
// to the other. A device on PCI, which reads memory across a bus, fares worse: index, ring entry, descriptor are three reads, each of which has to be answered before the next can be
// asked. When virtio went into hardware, this was what it cost.
//
// So the structure was turned around. *One* circle of descriptors, in the order of use. Driver and device both write into it, each behind the other, and two bits of a descriptor tell whose it is.
//
// ::figure round-trip-packed -- The same request in a packed ring.
//
// The handing over is in `flags`, the last word to be written, in the line that the receiver needs in any case. {{lines.packed.driver}} and {{lines.packed.device}} lines now. Notice *where* the device wrote: not over the
// descriptor that it answers, but over the oldest. A used descriptor only has to say which buffer it means, by the id, and how long it was; so they can be written
// in the order in which requests finish, into the space in the order in which it became free. What makes the two bits enough is that they change their meaning with each lap.
//
// ::include rings/packed.ts
// ::include rings/make-ring.ts
//
// ## The other side
//
// A driver is not the device's mirror image. The device serves whoever comes; the driver has things to do, and wants its buffers back. It has been unkind to think of the *driver* as the attacker
// only. In a confidential virtual machine the guest's memory is encrypted against the host and the host is the suspect, and of all the guest's software the first that meets it are these drivers.
// Linux's were rewritten for that: nothing that the device can write is believed.
//
// ::include driver/virtqueue.ts
// ::include driver/split-virtqueue.ts
// ::include driver/packed-virtqueue.ts
// ::include driver/bus.ts
//
// ## Agreeing
//
// ::include features.ts
// ::include device.ts
// ::include driver/virtio-device.ts
// ::include driver/virtio-driver.ts
//
// ## Where the registers are
//
// All that is left of the chip is a handful of registers: status, features, where the queues are, a doorbell, why it interrupted. There are four ways to reach them, and each has its decade.
//
// The first, of 2008, is a PCI device with one I/O BAR and twenty bytes in it. Everybody who asks why a device of that year used *ports*, a relic even then, gets the same answer: a port
// exits faster. Chapter 5 drew the two routes. An `OUT` tells the hypervisor everything, port and width and value, in registers and exit qualification; a store to memory tells it an
// address, and then the instruction has to be fetched and decoded to find out what was stored. Nor can the processor remember that a page is a device's: for each store it walked {{kicks.memory}} entries of
// the second stage before it gave up, for each `OUT` {{kicks.port}}.
//
// ::figure kicks -- {{kicks.rings}} rings of a doorbell, by port and by memory. `npm run bench` has the times, on this kernel and on the host's.
//
// The second, of 2016, is the PCI device of the standard. Its structures are found by *capabilities*, each of which says *in BAR so-and-so, at this offset, this long, is a structure of that kind*. They can be anywhere; a driver that
// assumes a place works with one implementation. Kicks are by memory now, one address for each queue, since KVM learnt in the meantime to answer them without a decoder: an ioeventfd of length 0.
//
// ::include transport/
//
// ## Devices
//
// Four devices on top, from the smallest to the most useful. None knows which ring or which transport it is on.
//
// ::include devices/
//
// Their drivers are a page each.
//
// ::include driver/drivers/
// ::include driver/transports/
//
// ## In the machine
//
// ::include machine/
// ::include host/run.ts
//
// ::include counts.ts
//
// ## Somebody else's driver, somebody else's device
//
// A device that works with its own author's driver proves little. There are three kinds of proof here. SeaBIOS has a virtio driver that nobody here has touched, and boots from the disk above: `host/seabios.test.ts`. The
// suite's payloads drive QEMU's devices and ours in the same way, and compare. And the other way round, a test that was written for QEMU can be pointed at this machine, because it speaks
// the same protocol for tests, *qtest*: no guest at all, somebody outside reads and writes the registers of a machine whose processor stands still.
//
// ::include qtest/
//
// ## In the real systems
//
// In Linux the driver's side is `drivers/virtio`: `virtio.c` is the bus, `virtio_ring.c` both formats of the ring with the operations that have the same names here, `virtio_pci_modern.c`,
// `virtio_pci_legacy.c` and `virtio_mmio.c` the transports. `virtqueue_add_split()` publishes with `virtio_wmb()`, and `virtqueue_kick_prepare_split()` has the full barrier of the third question, with a comment
// that says what it is for. The front ends live with their kind: `drivers/block/virtio_blk.c`, `drivers/char/virtio_console.c`, `drivers/virtio/virtio_balloon.c`.
//
// In QEMU `hw/virtio/virtio.c` is the basic facilities and the device's end of both rings: `virtqueue_pop()`, `virtqueue_fill()`, `virtqueue_flush()`, `virtio_should_notify()`. A chain that is wrong ends in `virtio_error()`, which
// sets DEVICE_NEEDS_RESET, as `fail` does here. `virtio-pci.c` and `virtio-mmio.c` are the transports; `virtio-rng.c`, `virtio-serial-bus.c`, `virtio-balloon.c` and `hw/block/virtio-blk.c` the devices.
//
// rust-vmm's `virtio-queue` has split rings only, and the walk with a bound that it calls `ttl`. Firecracker and Cloud Hypervisor took it into their own trees and made it faster; most of the
// incidents that the suite of this chapter looks for happened to one of the three: chains of which only the first descriptor was served, a buffer that ended at the last byte of memory, an event index that was armed
// after the look instead of before.
//
// ## Exercises
//
// 1. In `litmus.ts` take the fence from one side of `fallAsleep` only. On which machine does it still hold, and which side of a real system could therefore save its fence?
// 2. The used ring's element is eight bytes where six would do. Say why `id` has 32 bits although no ring is longer than 32768, and what a driver must do with the upper half.
// 3. A packed ring of one descriptor works. Draw its flags over three round trips, and say why a split ring of one entry needs no wrap counter.
// 4. Write a driver that offers the same chain twice. Which line of the device notices, and what would the driver see if it did not?
// 5. `avail_event` is written by the device after each look. Count the stores of `roundTrip('split', { eventIdx: true })`, and find the burst size at which they cost less than the kicks they save, at the prices that `npm run bench`
//    prints for your machine.
// 6. Give the entropy device a second queue with bytes of another source. Which files have to change? If it is more than one, something above was wrong about the layers.

export { STATUS } from './features.ts';
