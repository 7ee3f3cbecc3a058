// # Memory virtualization
//
// Every process believes that it owns the memory. A page table makes that true for each of them, and the kernel under them all owns what is real.
// Now a guest kernel believes that it owns what is real; it writes page tables full of physical addresses and loads CR3. The addresses in them are not
// those of any memory chip. What makes *this* true?
//
// The naive way is to make them true: give the guest one piece of physical memory and let it know where that is. It breaks at the first
// address, because a PC's RAM begins at zero and so does everybody's. The next idea is an offset, a base and a limit added to whatever the guest uses, and
// partitioning hypervisors did that on machines that could. But the sum has to be taken *after* the guest's page tables, inside the processor, and the x86
// had nowhere to put it. So the translation must be hidden somewhere, and there are two places: in the page tables that the processor walks, or in a
// second set behind them. The first needs no hardware and all of the hypervisor's attention. The second needs hardware, and a walk of
// {{references({ nested: '4K' })}} references where there were {{words(references())}}. This chapter builds both, completely, and measures one against the other.
//
// ## One address, four names
//
// Before the algorithms, the words. The same byte of a guest has four addresses, and whoever mixes up two of them has written one of the classic bugs of a
// VMM. The program *in the guest* uses a **guest virtual** address (GVA; the manuals say linear). The guest's page tables make a **guest physical**
// address of it (GPA). The slot that holds this GPA says where the VMM, a process of the host, has the byte: a **host virtual** address (HVA). And the
// host's own page tables know the chip: the **host physical** address (HPA). Here is one byte, followed all the way by those who really do each step.

import { TLB } from '../01-hardware-background/mmu/tlb.ts';
import { PAGE_BYTES } from '../01-hardware-background/physical-memory.ts';
import { Recorder } from '../01-hardware-background/trace.ts';
import { EXIT, exitName } from '../02-kvm-objects/abi/exits.ts';
import { KVM_DIRTY_GFN_F, KVM_MEM, KvmDirtyGfn } from '../02-kvm-objects/abi/memory.ts';
import { Errno, errnoName } from '../02-kvm-objects/errno.ts';
import type { Allocation, Kernel } from '../02-kvm-objects/kernel.ts';
import { Kvm } from '../02-kvm-objects/kvm.ts';
import { type MemoryMethod, memoryKernel } from './kernel/index.ts';
import { startLong, TABLES, writeTables } from './long-guest.ts';

const MiB = 1 << 20;
const CODE = 0x1000;
const HLT = 0xf4;

/** The names of one byte, and what was found by each. */
export interface FourAddresses {
  readonly gva: bigint;
  readonly gpa: number;
  readonly hva: number;
  readonly hpa: number;
  /** What the guest loaded from the GVA, the VMM saw at the HVA, and the memory has at the HPA. */
  readonly seen: readonly [guest: number, vmm: number, memory: number];
  /** The page that the processor's TLB had for the GVA after the guest's load. */
  readonly cached: number;
}

const GVA = 0xffff_8880_0012_3456n;
const SLOT_GPA = 0x40_0000;

/** Follows one byte of a guest from its guest virtual address to its host physical one. */
export function fourAddresses(memory: MemoryMethod = 'ept'): FourAddresses {
  const trace = new Recorder({ only: ['tlb_fill'] });
  const kernel = memoryKernel({ ramBytes: 16 * MiB, memory, trace });
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  const low = kvm.allocate(2 * MiB);
  const high = kvm.allocate(2 * MiB);
  const slots = [
    { slot: 0, guest_phys_addr: 0, memory_size: 2 * MiB, userspace_addr: low.hva },
    { slot: 1, guest_phys_addr: SLOT_GPA, memory_size: 2 * MiB, userspace_addr: high.hva },
  ];
  for (const slot of slots) vm.setUserMemoryRegion(slot);
  writeTables(low.bytes, GVA, SLOT_GPA + 0x5000);
  high.bytes[0x5456] = 0x2a;
  low.bytes.set([0x8a, 0x07, HLT], CODE); // mov al, [rdi]; hlt
  const vcpu = vm.createVcpu(0);
  startLong(vcpu);
  vcpu.setRegs({ rip: BigInt(CODE), rflags: 2n, rdi: GVA });

  // The guest's tables, walked for us by the kernel.
  const gpa = Number(vcpu.translate(GVA).physical_address);
  // The slots: the VMM has made them and knows them by heart.
  const slot = slots.find(({ guest_phys_addr: at, memory_size }) => gpa >= at && gpa < at + memory_size);
  if (!slot) throw new Error('the guest has memory there');
  const hva = slot.userspace_addr + (gpa - slot.guest_phys_addr);
  // The host's own tables: nobody above the kernel can ask for this one.
  const hpa = kernel.hardware.ram.hpaOf(hva);

  if (vcpu.run() !== EXIT.KVM_EXIT_HLT) throw new Error('the guest loads a byte and halts');
  const cached = trace.of('tlb_fill').findLast(({ linear }) => linear >> 12n === GVA >> 12n)?.physical ?? -1;
  const guest = Number(vcpu.getRegs().rax & 0xffn);
  const seen = [guest, high.bytes[hva - high.hva] as number, kernel.hardware.memory.slice(hpa, 1)[0] as number] as const;
  return { gva: GVA, gpa, hva, hpa, seen, cached };
}

// ::figure four-addresses -- The run of the program above: each arrow is a step that it asked somebody for; the long one is what the processor keeps.
//
// The guest loaded {{hex(four.seen[0])}} from {{hex(four.gva)}}, the VMM has {{hex(four.seen[1])}} at {{hex(four.hva)}}, and the memory holds
// {{hex(four.seen[2])}} at {{hex(four.hpa)}}. Look at the long arrow of the figure. After the guest's load the TLB has the GVA's page *at its host physical
// address*: {{hex(four.cached)}}. All four names are for software. The processor keeps the first and the last, and what is between them must have
// been multiplied out before. Who does that, and when, is the only difference between the two methods.
//
// ::include long-guest.ts
//
// With EPT the processor itself does it, in each walk. With shadow tables the hypervisor does, once for every page, and stores the product in tables. On shadow
// tables the same program gives {{hex(fourOnShadow.gpa)}}, {{hex(fourOnShadow.hpa)}} and again {{hex(fourOnShadow.cached)}} in the TLB: no guest can tell.
//
// The middle step looks like a detour. Why does a kernel translate to the address space of a *process*, only to look that up again? Because it makes
// guest memory ordinary memory. It can be swapped, shared, backed by a file or by huge pages, migrated between NUMA nodes, accounted to a user, by code
// that never heard of guests. The price is a contract: when the host takes a page away from the process, the guest must lose it too, at once. In
// Linux that contract is the *MMU notifier*, and it is why every translation in this chapter may be dropped at any moment and must come back by itself.
//
// ## One buffer
//
// The VMM writes a byte, the guest reads it; a device model fills a buffer by DMA, the guest sees it; the guest writes, a snapshot thread reads. No
// copy is made in any of these, or a gigabyte guest would cost two. That was the fourth of the decisions on which this book stands: **guest RAM is one
// buffer**, the `WebAssembly.Memory` of chapter 1, and everybody has a view of it. The interpreter is WebAssembly and loads from it; the VMM has typed
// arrays; a worker thread gets the same buffer if it is shared.
//
// On a real kernel the same must hold, and there the naive way fails: a JavaScript buffer has no address that one may tell to anybody, and the engine may move
// it. So `HostKernel` turns it round. It makes a *memfd*, a file that is only memory; maps it over the pages of a shared `WebAssembly.Memory`, whose place
// is fixed for life; and tells KVM that address. QEMU does the same with `memory-backend-memfd` when another process, a vhost-user device for
// instance, is to see guest memory: a descriptor can be sent through a socket, an address cannot.
//
// ## Slots
//
// A slot is one call: *these guest physical addresses are those bytes of mine*. Chapter 2 has the code, which is a sorted list and a row of refusals. What the
// call means is best seen from inside the guest, so here is a machine whose memory changes under a running program.

/** One line of a story: what was done, and what came of it. */
export interface SlotStep {
  readonly did: string;
  readonly came: string;
}

/** Real-mode code that loads or stores one byte at `gpa`, below 1 MiB, and halts. */
const touch = (gpa: number, value: number | null): readonly number[] => {
  const segment = gpa >> 4;
  const access = value === null ? [0xa0, gpa & 0xf, 0] : [0xc6, 0x06, gpa & 0xf, 0, value]; // mov al, [..] or mov byte [..], value
  return [0xb8, segment & 0xff, segment >> 8, 0x8e, 0xd8, ...access, HLT]; // mov ax, segment; mov ds, ax
};

/** A machine that gets memory, loses it, and gets it back read-only. Takes either kernel. */
export function slotStory(kernel: Kernel): SlotStep[] {
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  const low = kvm.allocate(0x10000);
  const extra = kvm.allocate(0x10000);
  const steps: SlotStep[] = [];
  const set = (did: string, slot: number, { hva }: Allocation, gpa: number, bytes: number, flags = 0): void => {
    let came = 'done';
    try {
      vm.setUserMemoryRegion({ slot, guest_phys_addr: gpa, memory_size: bytes, userspace_addr: hva, flags });
    } catch (refused) {
      if (!(refused instanceof Errno)) throw refused;
      came = errnoName(refused.errno);
    }
    steps.push({ did, came });
  };
  set('RAM at 0', 0, low, 0, 0x10000);
  const vcpu = vm.createVcpu(0);
  const run = (did: string, gpa: number, value: number | null): void => {
    low.bytes.set(touch(gpa, value), CODE);
    const { cs } = vcpu.getSregs();
    vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 } });
    vcpu.setRegs({ rip: BigInt(CODE), rflags: 2n });
    const came: string[] = [];
    for (let reason = vcpu.run(); ; reason = vcpu.run()) {
      if (reason === EXIT.KVM_EXIT_INTR) continue;
      came.push(exitName(reason).replace('KVM_EXIT_', ''));
      if (reason !== EXIT.KVM_EXIT_MMIO) break;
      if (!vcpu.page.mmioWrite) vcpu.page.mmioData()[0] = 0xff; // nobody is there
    }
    if (value === null) came[came.length - 1] += `; AL is 0x${(vcpu.getRegs().rax & 0xffn).toString(16)}`;
    steps.push({ did, came: came.join(', ') });
  };

  run('the guest stores to 0x50000', 0x50000, 0x11);
  set('a slot there: hot-added', 1, extra, 0x50000, 0x1000);
  run('the same store', 0x50000, 0x22);
  set('a second slot over half of it', 2, low, 0x50000, 0x2000);
  set('the slot grows to two pages', 1, extra, 0x50000, 0x2000);
  set('the slot moves to 0x60000', 1, extra, 0x60000, 0x1000);
  run('a load from 0x60000', 0x60000, null);
  run('a load from 0x50000', 0x50000, null);
  set('the slot is deleted', 1, extra, 0x60000, 0);
  set('and made again, read-only', 1, extra, 0x60000, 0x1000, KVM_MEM.KVM_MEM_READONLY);
  run('a load from it', 0x60000, null);
  run('a store to it', 0x60000, 0x33);
  vcpu.close();
  vm.close();
  kvm.close();
  for (const { hva } of [low, extra]) kernel.free(hva);
  return steps;
}

// ::figure slots -- The story as it ran: requests and their results, and what `KVM_RUN` came back with when the guest touched memory.
//
// Four things in it are rules. **A hole is a device.** Where no slot is, the access exits as MMIO, and what happens then is for user space to say; a machine
// does not need a list of its devices' addresses, it needs not to have RAM there. **Read-only is half a hole**: loads are memory, stores are MMIO. That is what
// flash memory is, whose stores are commands, and a ROM is flash that ignores them. **Overlap is refused** and nothing changes; a PC with a VGA window in the
// middle of its RAM has three slots and not two layers. **A slot has a size for life**: it may move and it may go, but never grow, because the kernel keeps
// arrays beside it with an entry for each page.
//
// Hot-adding memory is then no feature of KVM at all. It is the same call at a later time. What is hard about it is elsewhere: the guest must be *told*, by
// ACPI or by virtio-mem, and the VMM must have kept the address free. Removing is worse, since the guest has to let go first, page by page.
//
// Between deleting a slot and making it again the guest sees a hole, and a processor that fetches its next instruction there sees it very much. So QEMU
// stops the vCPUs around such a change, and asks the kernel, in vain until now, for a call that swaps two sets of slots at once.
//
// The rest of what the kernel knows about slots is small, and it came late: a longer form of the request, a bound on tables, memory mapped ahead of its use.
//
// ::include kernel/requests.ts
//
// ## The guest has tables: the naive way, and what breaks
//
// The guest maps a page: it stores an entry of eight bytes. No instruction is special about that store, so nobody notices. It loads CR3, and *that* can exit.
// The naive hypervisor therefore translates at the load: it walks the guest's tables from the new root, puts host addresses in place of
// guest addresses into a copy, and loads the copy.
//
// It works, for one load. Then the guest changes an entry of the tables in use. The architecture lets it do so, asks for INVLPG where a translation was there
// before, and asks for nothing when an entry becomes present. Of *that* change the copy never hears, and the guest has a page fault on
// a page that it has mapped. And copying everything at each load costs as much as the tables are large, for two pages that the process is going to touch.
//
// Both faults have one cure, and it is the oldest cure of virtual memory: do it on demand. A TLB does not contain the page tables either. It begins empty, is
// filled by misses, and the architecture says precisely when an entry in it may be out of date. If the hypervisor's tables follow *the rules of a TLB*, no guest
// that obeys the manual can see a difference, and none that disobeys can see more than on a real processor. The Intel manuals call the result a *virtual
// TLB*; everybody else calls it shadow paging.
//
// ## Layout: what a shadow is made of
//
// There is a shadow page for each guest table that was walked, of the processor's format, whatever the guest's. The two formats need not fit. A 64-bit guest's
// tables have one shadow each. A PAE guest's four directory pointers become a root of four entries. A table with 4-byte entries holds twice as many as the
// processor's, so a last-level table has two shadows and the directory four. A guest that has not switched paging on at all, and whose linear addresses *are*
// its physical ones, gets direct pages, which shadow no table. And the same guest table can need several shadows at once, if it is reached by paths of
// different rights or as a table here and a directory there; what tells them apart is the *role*.
//
// ::include shadow/index.ts
// ::include shadow/guest-mode.ts
// ::include shadow/spte.ts
// ::include shadow/pages.ts
//
// ## Algorithm: a fault and its five answers
//
// Everything begins with a page fault, since that is the one event that an incomplete table has. Page faults of the guest therefore exit, *all* of them, and the
// handler first finds out whose it is. It walks the guest's tables, as the processor would have: if they forbid the access, the fault is injected into the
// guest, with the error code that the guest's own registers call for. If they allow it, the fault is the shadow's, and the walk that was just made says what is missing.
//
// The other half is noticing changes, in three places. **A store to a guest table** must not go unseen, or the copy would rot: so a guest page that is
// shadowed is write-protected in every shadow entry that maps it, which the reverse map finds. The store then faults and is emulated, and the entries made from
// those bytes are dropped. For a last-level table that is too dear, so after the first such fault the page is let go, *unsync*, and may differ from then on.
// **INVLPG** exits: it drops the one entry, if its table is unsync. **A load of CR3** exits: it compares all unsync tables with the guest's, write-protects them
// again, and looks for the new root in the cache. These are the moments at which a processor would forget its TLB, and that is no coincidence.
//
// ::include shadow/mmu.ts
// ::include shadow/shadow-memory.ts
// ::include shadow/interpreter.ts
//
// What the leaf of a shadow may grant follows from what the guest must be able to observe. The next figure shows it for one page, at the end of a walk in which the
// guest's last entry, and now and then one above it, has fewer rights:
//
// ::figure shadow-rights -- The shadow's leaf after one access, by what the guest's tables say. Each row is a run; the error code is what the guest gets.
//
// Rights of all levels meet in the leaf. A page that was only read is mapped read-only although the guest's entry says writable: the guest's *dirty* bit is
// clear, and the first write must fault so that somebody sets it. The accessed bit needs no such care, because the walk that built the entry has set it; a guest
// that clears it says INVLPG, if it means it. What cannot be expressed in a page table's bits has to be arranged. With CR0.WP clear the guest's
// kernel may write where its tables say read-only, but the real processor runs with WP set, always, since otherwise its kernel mode could write anywhere in the
// shadow. So the page becomes writable and *supervisor*, and turns back at the next access by user mode: two rights that the guest's entry grants at once, granted
// in turns.
//
// ## Trace: one load on shadow tables
//
// A 32-bit guest with 4 MiB pages is the case where least fits. Its entries have four bytes and the processor's eight; its large page is 4 MiB and the
// processor's 2. This is what the first load from such a page takes:
//
// ::figure shadow-load -- A recorded run: the processor on empty shadow tables, until the byte is found.
//
// The guest's walk would have been {{words(references({ guest: '32-bit', page: '4M' }))}} reference: one entry maps 4 MiB. The shadow's is
// {{words(shadowed.at(-1).references.length)}}, of which the first is a register of the processor and no memory at all; its leaf maps 2 MiB, so that the other
// half of the guest's page will fault once more. A *split* like this is invisible to the guest except in time. What is visible it gets exactly: the
// permissions of all its levels combined into the leaf, its dirty bit set when, and only when, it writes, which is why a page that was only read is mapped
// read-only whatever the guest's entry says.
//
// ## Stale, and rightly so
//
// A guest that forgets INVLPG is a guest with a bug. What should it see? Here is one: it loads a byte through a page, makes the page's entry point to another frame,
// loads again, then says INVLPG and loads for the third time. On request it touches, between the change and the second load, an address that takes the same
// place in this processor's TLB.

/** What {@link forgetful} loaded: before the change, after it, and after INVLPG; and the exits of the run by reason. */
export interface Forgetful {
  readonly loads: readonly [before: number, forgotten: number, flushed: number];
  readonly exits: string;
}

const FRAMES = [0x18_0000, 0x19_0000] as const;
const WINDOW = 0xffff_8880_0000_0000n;
/** As far away as the TLB is wide. */
const SAME_PLACE = WINDOW + BigInt(TLB.ENTRIES * PAGE_BYTES);
const LAST_TABLE_BYTES = PAGE_BYTES * 512; // what one table of the last level maps

/** A guest that changes a translation in use. `evict`: something else pushes it out of the TLB. */
export function forgetful(memory: MemoryMethod, evict: boolean): Forgetful {
  const trace = new Recorder({ only: ['kvm_exit'] });
  const kernel = memoryKernel({ ramBytes: 8 * MiB, memory, trace });
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  const { hva, bytes } = kvm.allocate(2 * MiB);
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 2 * MiB, userspace_addr: hva });
  writeTables(bytes, WINDOW, FRAMES[0]);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  // What lies beside the window has a last table of its own.
  view.setBigUint64(
    TABLES + 2 * PAGE_BYTES + 8 * Math.floor((TLB.ENTRIES * PAGE_BYTES) / LAST_TABLE_BYTES),
    BigInt(TABLES + 6 * PAGE_BYTES + 3),
    true,
  );
  view.setBigUint64(TABLES + 6 * PAGE_BYTES, BigInt(FRAMES[0] + 3), true);
  FRAMES.forEach((frame, n) => {
    bytes[frame] = 0xa + n;
  });
  // biome-ignore format: an instruction or two to a line
  bytes.set([
    0x48, 0x89, 0x13, // mov [rbx], rdx: the entry as it is, so that whatever follows a first write has happened
    0x8a, 0x07, 0x88, 0xc5, // mov al, [rdi]; mov ch, al
    0x48, 0x89, 0x33, // mov [rbx], rsi: the other frame
    ...(evict ? [0x41, 0x8a, 0x10] : []), // mov dl, [r8]
    0x8a, 0x07, 0x88, 0xc1, // mov al, [rdi]; mov cl, al
    0x0f, 0x01, 0x3f, // invlpg [rdi]
    0x8a, 0x07, HLT, // mov al, [rdi]
  ], CODE);
  const vcpu = vm.createVcpu(0);
  startLong(vcpu);
  const [now, then] = FRAMES.map((frame) => BigInt(frame + 0x63)) as [bigint, bigint];
  const entry = BigInt(TABLES + 3 * PAGE_BYTES);
  vcpu.setRegs({ rip: BigInt(CODE), rflags: 2n, rdi: WINDOW, r8: SAME_PLACE, rbx: entry, rdx: now, rsi: then });
  if (vcpu.run() !== EXIT.KVM_EXIT_HLT) throw new Error('the guest loads three times and halts');
  const { rax, rcx } = vcpu.getRegs();
  const counted = new Map<string, number>();
  for (const { reason } of trace.of('kvm_exit')) counted.set(reason, (counted.get(reason) ?? 0) + 1);
  const exits = [...counted].map(([reason, n]) => `${n} ${reason}`).join(', ');
  return { loads: [Number((rcx >> 8n) & 0xffn), Number(rcx & 0xffn), Number(rax & 0xffn)], exits };
}

// ::figure stale -- The four runs. On tables of the second stage the TLB alone remembers; on shadow tables the shadow does, and it forgets nothing by accident.
//
// With INVLPG in its place all agree: {{hex(forgetful('ept', true).loads[2])}}. Without it there are two answers. On shadow tables the guest reads
// {{hex(forgetful('shadow', true).loads[1])}}, the old frame, whatever else it touches; under EPT it depends on the TLB, and
// reads {{hex(forgetful('ept', true).loads[1])}} as soon as the entry was evicted. Both are right, because a processor may keep a translation for as long as it
// likes and lose it as soon as it likes. Shadow tables that wait for the flush, like ours and Linux's, behave like a processor with a TLB of unlimited size:
// legal, and unlike any that was ever built. Operating systems have found bugs of their own that way.
//
// How does one test a thing whose right answer is a set? Not by comparing two runs. The fuzzer of this chapter has an oracle, written from the manual, that
// remembers which values each entry has had since the last flush; a result is wrong if no walk can be put together from them that gives it. With flushes
// after each change the set has one element, and then both methods, a bare processor and the oracle must agree to the last accessed bit, in
// {{words(PAGING_MODES.length)}} paging modes, over tables that nobody in his senses would write.
//
// ::include fuzz.ts
// ::include fuzz/oracle.ts
// ::include fuzz/arena.ts
// ::include fuzz/subjects.ts
// ::include host/fuzz.ts
//
// ## A second set of tables
//
// Shadow paging is correct, and there are guests on which it is fast. But everything in it is exits, and the code is the subtlest in this book. In 2007
// and 2008 the processors made most of it unnecessary, with an idea that fits in a sentence: *translate twice*. The guest's tables stay the guest's, all of
// them, INVLPG and CR3 and accessed bits included; what comes out of them is taken for a guest physical address, and goes through tables of the hypervisor's.
//
// The naive picture is two walks one after the other, {{words(references())}} references and {{words(references())}}. It is wrong by a factor of
// {{words(references({ nested: '4K' }) / (2 * references()))}}. The guest's CR3 is a guest physical address. So is every address in its tables.
// Before the processor can *read* the first entry it must know where that entry is, and that takes a walk of the second stage; the same for the
// second, the third, the fourth, and for the byte.
//
// ::figure two-stages -- All references of one translation, in the processor's order. A row finds one of the guest's entries, and the last the byte.
//
// That is {{references({ nested: '4K' })}} references. With g levels in one dimension and e in the other it is (g + 1)(e + 1) − 1, and the formula says at once what
// helps: making either factor smaller. The table was counted, each number on a walk that was performed:
//
// ::figure references -- Memory references of a walk. Rows: how the guest maps its page. Columns: what the second stage maps.
//
// Large pages in the second stage are the better bargain. They are the host's own decision, no guest needs to know, and each level saved is saved in every row
// of the figure: {{references({ nested: '2M' })}} instead of {{references({ nested: '4K' })}} for a guest that does nothing about it, and
// {{references({ page: '2M', nested: '2M' })}} if it does. [The live page](../../live/walk.html) fills the figure in one reference at a time, for any pair of
// page sizes, with the native walk and the one on shadow tables beside it; clear a bit of any entry and see who is told.
//
// ::include walks.ts
// ::include shadow-walk.ts
//
// ### Who is told
//
// A walk can now fail in two places, and different people hear of it. Clear the present bit in the guest's last entry, and the guest gets its page fault, error
// code {{pageFault.errorCode}}, without anybody else noticing. Clear the rights in the hypervisor's entry for *the same byte*, and it is an exit, EPT violation,
// with guest physical address {{hex(violation.gpa)}} and qualification {{hex(violation.qualification)}}: {{describeViolation(violation.qualification)}}.
// The lowest three bits say what was tried, the next three what the tables would have allowed, and FINAL that it was the byte itself and not one
// of the guest's tables. (The same for an entry that maps a *table* of the guest: {{describeViolation(tableViolation.qualification)}}. The access was a read by
// the processor, and yet WRITE is set. With accessed and dirty bits on, a walk may write, and the hardware does not wait to see whether it will.)
//
// And then there is the entry that makes no sense: writable and not readable. A *misconfiguration* has no qualification, because nothing was denied; it is an exit
// by which a processor tells the hypervisor that it has a bug. KVM turned it into an instrument. What no slot covers gets such an entry on purpose, and from
// then on an access to that device arrives as an exit of a kind that nothing else uses, with no slot to look up.
//
// Three permissions instead of two bits make one thing possible that no x86 page table can say: a page that may be executed and not read. The guest can
// jump to it, and cannot look. On shadow tables this cannot be built at all.
//
// ::include kernel/index.ts
// ::include kernel/ept-tables.ts
// ::include kernel/two-dimensional.ts
// ::include kernel/runs.ts
//
// ### The same at AMD
//
// ::include npt/npt.ts
//
// ::figure ept-npt -- The two second stages, point by point.
//
// The failures show it best, because there the same event has to be told to two different hypervisors. Each row is an access that was made on both:
//
// ::figure failures -- The same failures in both dialects, from the two walkers of this book.
//
// For a hypervisor the table has a short version. NPT is the page table that it knows already, and EPT is a format for the job. Linux writes both with the same
// code, in which the bits are variables (`shadow_present_mask`, `shadow_x_mask`), and the differences come down to masks, a walk that always is a
// write, and two exit handlers.
//
// ## Which is faster?
//
// ::include workloads.ts
//
// ::figure workloads -- The three guests, each on fresh machines: exits of the first run and of the second, and references for each TLB miss.
//
// Read it by rows. The guest that **touches** memory pays once for each of its {{TOUCHED}} pages under shadow paging,
// {{total(shadowTouch.cold.exits)}} exits in all; with a second stage of large pages the whole of it was
// {{words(total(eptTouch.cold.exits) - 1)}}. But on the second run nobody exits, and now shadow tables have the short walk:
// {{perWalk(shadowTouch.warm)}} references for each miss against {{perWalk(eptTouch.warm)}}. A database that fits its tables in memory and misses the
// TLB all day is the guest for which shadow paging never stopped being faster.
//
// The guest that **switches** shows the price of a context switch. A load of CR3 is an exit under shadow paging,
// {{shadowSwitch.warm.exits.CR_ACCESS}} for {{SWITCHES}} switches, and nothing under EPT. After it the TLB is empty either way, and the
// {{WORKING_SET}} pages of the working set come back by walks: {{perSwitch(shadowSwitch.warm)}} references for each switch there,
// {{perSwitch(eptSwitch.warm)}} here. So the exit may cost as much as {{perSwitch(eptSwitch.warm) - perSwitch(shadowSwitch.warm)}} references before
// EPT wins. With references that hit the cache that is some thousand cycles, and an exit with its handler is of the same order. On the first
// processors with VT-x it was several times that, and the second stage was a gain at once. Exits have become faster since; what keeps it ahead is
// large pages, the caches that processors have for the upper levels of both trees, and the third guest.
//
// The guest that **remaps** is the one that decides it. Each page mapped, written, unmapped and flushed takes {{perPage(shadowRemap.warm)}} exits on shadow tables: the
// store into the tracked table, the fault on the new page, the INVLPG. Under EPT it takes {{words(total(eptRemap.warm.exits) - 1)}}. An operating system that starts
// processes does little else.
//
// ## Which pages were written
//
// A second stage is good for more than translation. It stands between the guest and every byte, so it is the place to ask about them, and the first to ask
// was migration.
//
// ::include kernel/dirty-log.ts
//
// How dear the question is depends on how one learns of a write. The next program logs a slot of which its guest writes every page, round after round, and counts
// exits; the two ways are those of `two-dimensional.ts`.

/** Exits of each round: before the log is on, with it on, and again after it was read. */
export interface DirtyRounds {
  readonly pages: number;
  readonly exits: readonly number[];
  /** Bits set in the log at each reading. */
  readonly found: readonly number[];
}

/** Writes to every page of a logged slot, round after round. `dirty`: by which means the kernel notices. */
export function dirtyRounds(dirty: 'protect' | 'bits'): DirtyRounds {
  const trace = new Recorder({ only: ['kvm_exit'] });
  const kernel = memoryKernel({ ramBytes: 8 * MiB, dirty, trace });
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  const { hva, bytes } = kvm.allocate(2 * MiB);
  const bitmap = kvm.allocate(PAGE_BYTES);
  const region = (flags: number): void => vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 2 * MiB, userspace_addr: hva, flags });
  region(0);
  // mov ax, 0x2000; l: mov ds, ax; mov byte [0], 1; add ax, 0x100; cmp ax, 0xa000; jne l; hlt: 128 pages
  bytes.set([0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xc6, 0x06, 0, 0, 1, 0x05, 0x00, 0x01, 0x3d, 0x00, 0xa0, 0x75, 0xf1, HLT], CODE);
  const vcpu = vm.createVcpu(0);
  const exits: number[] = [];
  const found: number[] = [];
  const round = (): void => {
    const { cs } = vcpu.getSregs();
    vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 } });
    vcpu.setRegs({ rip: BigInt(CODE), rflags: 2n });
    trace.events.length = 0;
    if (vcpu.run() !== EXIT.KVM_EXIT_HLT) throw new Error('the guest writes and halts');
    exits.push(trace.events.length - 1); // without the HLT
  };
  round();
  round();
  region(KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES);
  for (let n = 0; n < 3; n++) {
    round();
    vm.getDirtyLog(0, bitmap);
    found.push(bitmap.bytes.reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0));
  }
  return { pages: (0xa000 - 0x2000) / 0x100, exits, found };
}

// ::figure dirty -- Exits for each round of {{protect.pages}} page writes. The log finds the same pages in both rows.
//
// Until the log is on, the guest has run without exits on one large page. Switching it on splits that page, since otherwise one byte would make
// {{size(2 * 1024 * 1024)}} dirty. Protecting then takes {{protect.exits[2]}} exits a round; with dirty bits it is {{words(bits.exits[2])}}, and the work has moved
// to the one who asks, who must scan the entries. Both found {{protect.found[0]}} pages.
//
// ### The ring, and a store that must be seen first
//
// ::include kernel/dirty-ring.ts
//
// The kernel publishes an entry with two stores: the entry, then the flag that says it is there. Nothing but their order makes this right. The VMM is on another
// processor and polls; it may look between any two stores. Here are both orders, and what a VMM has collected that looks after each store.

/** What {@link handover} gives the VMM: the page it collected and when, or null when it never saw the flag. */
export interface Collected {
  readonly afterStore: number;
  readonly page: number;
}

const OLD_PAGE = 7;
const NEW_PAGE = 9;

/** Publishes a ring entry by two stores in this order, with a reader that looks after each of them. */
export function handover(order: readonly ('entry' | 'flags')[]): Collected | null {
  const view = new DataView(new ArrayBuffer(KvmDirtyGfn.bytes));
  // The slot of the ring has been round before, and still holds what it held then.
  KvmDirtyGfn.store(view, 0, { flags: 0, slot: 0, offset: BigInt(OLD_PAGE) });
  for (const [n, what] of order.entries()) {
    if (what === 'entry') KvmDirtyGfn.store(view, 0, { offset: BigInt(NEW_PAGE) });
    else KvmDirtyGfn.store(view, 0, { flags: KVM_DIRTY_GFN_F.KVM_DIRTY_GFN_F_DIRTY });
    const { flags, offset } = KvmDirtyGfn.load(view);
    if (flags === KVM_DIRTY_GFN_F.KVM_DIRTY_GFN_F_DIRTY) return { afterStore: n + 1, page: Number(offset) };
  }
  return null;
}

// In the right order it collects page {{handover(['entry', 'flags']).page}}, after store {{handover(['entry', 'flags']).afterStore}}. In the other it collects page
// {{handover(['flags', 'entry']).page}}, after store {{handover(['flags', 'entry']).afterStore}}: a page of the last round, and it has said "collected" before
// the right number arrives. The page that was really written is in no list any more. Nothing crashes; a week later a migrated machine
// has a stale page somewhere. On x86 the processor keeps the order of stores, and only the compiler must be stopped; on Arm a barrier has to be asked for,
// which is why the ring has two capabilities that differ by nothing but a promise to use one.
//
// ## Asking, and being told
//
// Two small doors remain. `KVM_TRANSLATE` asks the vCPU's own tables for an address; debuggers use it, and the program at the top of this page did. It looks
// at the mode that the vCPU is in, checks no permission, sets no bit, and knows nothing of slots. Its answer has two more fields, `writeable` and `usermode`,
// which Linux fills with constants, whatever the tables say; so does this kernel, and nobody should ask them.
//
// The other is news of the opposite kind. A slot may name memory of the VMM that is not there any more. Guest and kernel are both without fault then, and
// the kernel used to say `EFAULT` and nothing else. Now `KVM_EXIT_MEMORY_FAULT` comes with the error and says which page, so a VMM can bring
// the page from wherever it is (a snapshot, another host, private memory) and run the guest again. It is the only exit that comes together with an error.
//
// ## On a real kernel
//
// The cases of this chapter run on Linux's KVM as well. Where they differ, the difference is nearly always one of these:
//
// - *No second stage underneath.* A KVM that has only shadow tables, on an old processor or because it runs as a guest itself, refuses
//   `KVM_PRE_FAULT_MEMORY` with `EOPNOTSUPP`: there is nothing to fill before the guest's own tables ask for it. It also cannot always say
//   which page a fault was for; then the run fails with `EFAULT` and the exit reason of the run before.
// - *Emulation instead of execution.* Where the guest's real mode is emulated, stores do not go through the tables at all, and the emulator notes each of them
//   in the dirty ring. So a page can be listed more than once, and many instructions run between two looks at whether the ring is full. The rule that a VMM may
//   rely on is the weaker one: every written page is listed at least once.
// - *Configuration.* How many entries a ring may have, whether manual protection exists, how many slots there are: all of these are answers of
//   `KVM_CHECK_EXTENSION`, and none may be assumed.
//
// ## In the real systems
//
// **QEMU** knows nothing of slots in most of its code. A machine is a tree of `MemoryRegion`s with priorities and aliases, in `system/memory.c`; whenever it
// changes, `generate_memory_topology()` renders the tree into a `FlatView`, a list without overlaps, and tells listeners the difference between the old and the new.
// One listener is `kvm_region_add()` in `accel/kvm/kvm-all.c`, which collects the changes and turns them into slots in `kvm_set_phys_mem()`: that is
// where a device's window opening in the middle of RAM becomes three calls. RAM comes from `memory_region_init_ram()` and the backends in `backends/hostmem-*.c`.
// The bitmap is fetched by `kvm_physical_sync_dirty_bitmap()`, the ring by a thread of its own, `kvm_dirty_ring_reaper_thread()`; `migration/ram.c` is
// their customer.
//
// **Linux**, for all architectures: `kvm_set_memory_region()` and the dirty log in `virt/kvm/kvm_main.c`, the ring in `virt/kvm/dirty_ring.c`, and
// `kvm_mmu_notifier_invalidate_range_start()`, by which the host takes a page away. For x86 everything else is in `arch/x86/kvm/mmu/`. `mmu.c` has what the methods
// share: `kvm_mmu_page_fault()`, the cache of shadow pages with its roles (`kvm_mmu_get_shadow_page()`), unsync pages (`mmu_try_to_unsync_pages()`), the
// choice of page size (`kvm_mmu_hugepage_adjust()`). `paging_tmpl.h` is the guest walker and the shadow fault handler, one text compiled for 32-bit, 64-bit
// and EPT-format guests, the last for guests that are hypervisors themselves. `tdp_mmu.c` is the younger half: a tree for two-dimensional paging only, without
// reverse maps, changed by compare-and-exchange under a read lock so that hundreds of vCPUs may fault at once. `spte.c` makes the entries of both.
//
// **VT-x and SVM** meet that code in few places. `handle_ept_violation()` and `handle_ept_misconfig()` in `vmx/vmx.c` turn a qualification into an error code of
// KVM's own; `npf_interception()` in `svm/svm.c` has less to do, because EXITINFO1 is one already. Both call `kvm_mmu_page_fault()`. Page-modification
// logging is `vmx_flush_pml_buffer()`.
//
// **Firecracker** and **Cloud Hypervisor** have one slot for each contiguous piece of RAM and a dirty bitmap for snapshots, by way of the crate `vm-memory`, whose
// `GuestMemory` is this chapter's first section as a trait: from a guest address to a region to a host address. **Xen** calls the second stage *P2M*
// (`xen/arch/x86/mm/p2m-ept.c`) and keeps a complete shadow implementation in `mm/shadow/`, which it uses for migration logs and for guests without hardware help.
//
// ## Exercises
//
// 1. In `fourAddresses`, give the guest a second GVA for the same GPA, and a second slot for the same HVA. How many of each kind of address does the byte have
//    now? Which of the four arrows can fan out, and which can join?
// 2. Predict the references for a guest with PAE on a second stage with 1 GiB pages; then check the table. Why is PAE's first level free, and what
//    does AMD's NPT do about it?
// 3. On [the live page](../../live/walk.html), find an entry of the second stage that is read more than once in a walk. Clear its R bit only. Which of its uses
//    fails first, and with which exit?
// 4. In `handover`, the reader looks after each store. Add a reader that looks *between* the two halves of the 64-bit offset. When does it matter?
// 5. Make `#letGo` in `shadow/mmu.ts` return true for directories also, and run the fuzzer. How many steps does it take to find out, and what is the smallest
//    program that shows it?
// 6. A guest runs with CR0.WP clear and writes to a read-only user page. Follow it through `#map`: which bits does the shadow entry have after it, and what
//    happens when user mode touches the page next?
// 7. Switch dirty logging on for a guest with 1 GiB pages and read `split()`. How many tables does it make, and who gives them back?
