// # A PC's memory map
//
// A PC's memory has holes in it, for reasons forty years old. The first megabyte ends in 384 KiB that belong to the display and the firmware; below
// 4 GiB there is a window for devices; the firmware sits at the very top of it, because that is where the processor fetches its first
// instruction. Memory that would lie under the device window continues above 4 GiB.
//
// ```text
//  0        640K  768K       1M             2.75G        4G - ROM   4G
//  +---------+-----+---------+---------------+-- devices --+-------+--------------
//  |   RAM   | VGA | RAM/ROM |      RAM      |             |  ROM  | rest of RAM
//  +---------+-----+---------+---------------+-------------+-------+--------------
// ```
//
// To KVM each stretch is a slot, and all slots are parts of one allocation. What is no slot exits as MMIO. What is a slot never does, so a device
// that a guest moves over RAM is not seen: RAM wins.

import { type Gpa, type Hva, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { KVM_MEM } from '../../02-kvm-objects/abi/memory.ts';
import type { BareBoard, MemoryLayout } from '../../03-vcpu-loop/board.ts';
import { type Registers, storeValue } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, StateError } from '../../03-vcpu-loop/devices/state.ts';
import type { MemoryRange } from '../../03-vcpu-loop/handover.ts';
import { PAM_AREAS, PAM_START, type PamArea, type PamMode } from '../pci/pam.ts';
import type { DmaTarget } from '../wires.ts';

/** Where the device window begins unless the machine's type says otherwise. */
const LOW_RAM_LIMIT = 0xb000_0000;
export const FOUR_GIB = 2 ** 32;
const VGA_START = 0xa_0000;
const MIB = 1 << 20;
/** At the end of the first megabyte at most so much of the ROM shows. */
const ALIAS_LIMIT = 128 << 10;
/** Below the interrupt controllers and the TSS that some processors need. */
const ROM_LIMIT = 16 << 20;

// biome-ignore format: table
const SLOT = { LOW: 0, SHADOW: 1, HIGH_OF_LOW: 14, ROM: 15, ABOVE: 16, ADDED: 17 } as const;

// ## Thirteen switches
//
// Reading a ROM chip was slow, so firmware copies itself into the RAM beneath and switches the chipset over: *shadowing*. The host bridge has two
// bits for each of {{SHADOW_AREAS}} areas: whether reads go to RAM, and whether writes do. Three of the four settings can be slots. The fourth, read
// the ROM and write the RAM, is how firmware copies itself in place: there the ROM is a read-only slot, a write to it exits, and the write is done
// here.

const READ = 1;
const WRITE = 2;

/** Areas with switches of their own. */
export const SHADOW_AREAS = PAM_AREAS.length;

interface Mapped {
  readonly gpa: Gpa;
  readonly hva: Hva;
  readonly data: Uint8Array;
  readonly writable: boolean;
}

interface Where {
  readonly gpa: Gpa;
  /** Within the allocation. */
  readonly offset: number;
  readonly bytes: number;
  readonly readOnly?: boolean;
}

interface MemorySize {
  readonly ramBytes: number;
  /** Firmware that ends at 4 GiB and shows at the end of the first megabyte; without one, RAM has no hole. */
  readonly rom?: Uint8Array | null;
  /** Where RAM below 4 GiB ends at the latest. */
  readonly lowLimit?: number;
}

/** All of a PC's memory: its slots, and the access that its devices have. */
export class PcMemory implements DmaTarget {
  readonly ramBytes: number;
  /** RAM below the device window. */
  readonly lowBytes: number;
  readonly layout: MemoryLayout;
  readonly #rom: Uint8Array | null;
  readonly #mapped = new Map<number, Mapped>();
  readonly #modes = PAM_AREAS.map(() => 0);
  #board: BareBoard | null = null;
  #last: Mapped | null = null;
  #added = 0;
  #addedBytes = 0;

  /** @throws RangeError for a size that a PC cannot have */
  constructor({ ramBytes, rom = null, lowLimit = LOW_RAM_LIMIT }: MemorySize) {
    if (!Number.isSafeInteger(ramBytes) || ramBytes < 2 * MIB || ramBytes % MIB !== 0)
      throw new RangeError(`memory is a whole number of MiB, at least 2, not ${ramBytes / MIB}`);
    if (rom && (rom.length === 0 || rom.length > ROM_LIMIT || rom.length % PAGE_BYTES !== 0))
      throw new RangeError(`firmware is a whole number of ${PAGE_BYTES}-byte pages, at most ${ROM_LIMIT / MIB} MiB, not ${rom.length} bytes`);
    this.ramBytes = ramBytes;
    this.lowBytes = Math.min(ramBytes, lowLimit);
    this.#rom = rom;
    this.layout = { bytes: ramBytes + (rom?.length ?? 0), lowBytes: this.lowBytes, slots: [] };
  }

  /** RAM above 4 GiB, without what was added to the running machine. */
  get highBytes(): number {
    return this.ramBytes - this.lowBytes;
  }

  /** Names the slots to the kernel. */
  install(board: BareBoard): void {
    this.#board = board;
    const rom = this.#rom;
    if (rom) {
      board.ram.set(rom, this.ramBytes);
      this.#map(SLOT.LOW, { gpa: 0, offset: 0, bytes: VGA_START });
      this.#map(SLOT.HIGH_OF_LOW, { gpa: MIB, offset: MIB, bytes: this.lowBytes - MIB });
      this.#map(SLOT.ROM, { gpa: FOUR_GIB - rom.length, offset: this.ramBytes, bytes: rom.length, readOnly: true });
      for (const area of PAM_AREAS.keys()) this.#shadow(area);
    } else {
      this.#map(SLOT.LOW, { gpa: 0, offset: 0, bytes: this.lowBytes });
    }
    if (this.highBytes > 0) this.#map(SLOT.ABOVE, { gpa: FOUR_GIB, offset: this.lowBytes, bytes: this.highBytes });
  }

  /** The host bridge switches an area. Without firmware there is only RAM, and nothing to switch. */
  shadow(area: PamArea, { read, write }: PamMode): void {
    const index = PAM_AREAS.indexOf(area);
    const mode = (read ? READ : 0) | (write ? WRITE : 0);
    if (this.#modes[index] === mode || !this.#rom) return;
    this.#modes[index] = mode;
    this.#shadow(index);
  }

  #shadow(area: number): void {
    const { start: gpa, bytes } = PAM_AREAS[area] as PamArea;
    const slot = SLOT.SHADOW + area;
    const rom = this.#rom as Uint8Array;
    const alias = MIB - Math.min(rom.length, ALIAS_LIMIT);
    const mode = this.#modes[area] as number;
    if (mode & READ) this.#map(slot, { gpa, offset: gpa, bytes, readOnly: (mode & WRITE) === 0 });
    else this.#map(slot, gpa >= alias ? { gpa, offset: this.ramBytes + rom.length - (MIB - gpa), bytes, readOnly: true } : null);
  }

  // KVM refuses to change what is behind a slot in place, so the old one is deleted first. In between the guest would see a hole; its processors are
  // not running: the access that switches is being answered.

  #map(slot: number, where: Where | null): void {
    const board = this.#board;
    if (!board) return;
    this.#last = null;
    if (this.#mapped.delete(slot)) board.vm.setUserMemoryRegion({ slot, guest_phys_addr: 0, memory_size: 0, userspace_addr: 0 });
    if (!where) return;
    const { gpa, offset, bytes, readOnly = false } = where;
    const flags = readOnly ? KVM_MEM.KVM_MEM_READONLY : 0;
    board.vm.setUserMemoryRegion({ slot, guest_phys_addr: gpa, memory_size: bytes, userspace_addr: board.hva + offset, flags });
    this.#remember(slot, { gpa, hva: board.hva + offset, data: board.ram.subarray(offset, offset + bytes), writable: !readOnly });
  }

  // ## Adding memory to a running machine
  //
  // A new allocation, a new slot, and from that moment the addresses are RAM. The guest has to be told, which is the affair of ACPI; to the kernel
  // it is one request.

  /** Adds RAM behind the highest. Returns its address. @throws Errno from the kernel, RangeError for a size that is no number of MiB */
  hotAdd(bytes: number): Gpa {
    const board = this.#board;
    if (!board) throw new RangeError('memory is added to a machine that exists');
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % MIB !== 0) throw new RangeError(`memory is added in MiB, not in ${bytes} bytes`);
    const { hva, bytes: data } = board.kvm.allocate(bytes);
    const gpa = FOUR_GIB + this.highBytes + this.#addedBytes;
    const slot = SLOT.ADDED + this.#added;
    board.vm.setUserMemoryRegion({ slot, guest_phys_addr: gpa, memory_size: bytes, userspace_addr: hva });
    this.#added++;
    this.#addedBytes += bytes;
    this.#remember(slot, { gpa, hva, data, writable: true });
    return gpa;
  }

  #remember(slot: number, mapped: Mapped): void {
    this.#mapped.set(slot, mapped);
    this.#last = null;
  }

  // ## What devices reach
  //
  // A device's own accesses go through the same map as the processors'. They are the VMM's writes, not the guest's: the kernel, which logs what the
  // guest dirties, knows nothing of them, so a VMM that copies a running machine has to keep a log of its own devices' writes. And a kernel that has
  // decoded instructions from there has to be told, which a real one need not be: there the processor sees it.

  read(gpa: Gpa, into: Uint8Array): boolean {
    return this.#walk(gpa, into.length, false, ({ data }, at, from, length) => into.set(data.subarray(at, at + length), from));
  }

  write(gpa: Gpa, from: Uint8Array): boolean {
    return this.#walk(gpa, from.length, true, ({ data, hva }, at, start, length) => {
      data.set(from.subarray(start, start + length), at);
      this.#board?.kernel.stored?.(hva + at, length);
    });
  }

  /**
   * The bytes themselves, in pieces where neighbours for the guest are not neighbours here; null unless all of it is memory (that may be written).
   */
  map(gpa: Gpa, bytes: number, access: 'read' | 'write'): readonly Uint8Array[] | null {
    const found = this.#at(gpa);
    if (found && gpa + bytes <= found.gpa + found.data.length) {
      if (access === 'write' && !found.writable) return null;
      return bytes === 0 ? [] : [found.data.subarray(gpa - found.gpa, gpa - found.gpa + bytes)];
    }
    if (bytes === 0) return [];
    const pieces: Uint8Array[] = [];
    return this.#inOrder(gpa, bytes, access === 'write', ({ data }, at, length) => pieces.push(data.subarray(at, at + length))) ? pieces : null;
  }

  /** Somebody who was given the bytes has stored there. */
  written(gpa: Gpa, bytes: number): void {
    const found = this.#at(gpa);
    if (found && gpa + bytes <= found.gpa + found.data.length) {
      if (found.writable && bytes > 0) this.#board?.kernel.stored?.(found.hva + gpa - found.gpa, bytes);
      return;
    }
    this.#inOrder(gpa, bytes, true, ({ hva }, at, length) => this.#board?.kernel.stored?.(hva + at, length));
  }

  /** The slot that has an address: nearly always the one that had the last. */
  #at(gpa: Gpa): Mapped | null {
    const last = this.#last;
    if (last && gpa >= last.gpa && gpa < last.gpa + last.data.length) return last;
    for (const mapped of this.#mapped.values()) {
      if (gpa < mapped.gpa || gpa >= mapped.gpa + mapped.data.length) continue;
      this.#last = mapped;
      return mapped;
    }
    return null;
  }

  /** Calls `use` for each part, in the order of addresses, as far as there is memory without a gap; true when all of it was. */
  #inOrder(gpa: Gpa, bytes: number, write: boolean, use: (mapped: Mapped, at: number, length: number) => void): boolean {
    for (let done = 0; done < bytes; ) {
      const found = this.#at(gpa + done);
      if (!found || (write && !found.writable)) return false;
      const at = gpa + done - found.gpa;
      const length = Math.min(bytes - done, found.data.length - at);
      use(found, at, length);
      done += length;
    }
    return bytes >= 0;
  }

  /** Does the parts that are memory; true when all of it was. */
  #walk(gpa: Gpa, length: number, write: boolean, copy: (mapped: Mapped, at: number, from: number, length: number) => void): boolean {
    if (!(gpa >= 0)) return false;
    const whole = this.#at(gpa);
    if (whole && gpa + length <= whole.gpa + whole.data.length) {
      if (write && !whole.writable) return false;
      copy(whole, gpa - whole.gpa, 0, length);
      return true;
    }
    let left = length;
    for (const mapped of this.#mapped.values()) {
      const { gpa: start, data, writable } = mapped;
      const from = Math.max(gpa, start);
      const to = Math.min(gpa + length, start + data.length);
      if (from >= to || (write && !writable)) continue;
      copy(mapped, from - start, from - gpa, to - from);
      left -= to - from;
    }
    return left === 0;
  }

  /** What answers between 768 KiB and 1 MiB where no slot does: nobody to a read, and the RAM beneath to a write that is led there. */
  readonly shadowWindow: Registers = {
    name: 'shadow-ram',
    read: (_offset, width) => (1n << BigInt(8 * width)) - 1n,
    write: (offset, width, value) => {
      const bytes = new Uint8Array(width);
      storeValue(bytes, 0, width, value);
      for (const [at, byte] of bytes.entries()) this.#writeBeneath(PAM_START + offset + at, byte);
    },
  };

  #writeBeneath(gpa: Gpa, byte: number): void {
    const area = PAM_AREAS.findIndex(({ start, bytes }) => gpa >= start && gpa < start + bytes);
    const board = this.#board;
    if (!board || this.#modes[area] !== WRITE) return;
    board.ram[gpa] = byte;
    board.kernel.stored?.(board.hva + gpa, 1);
  }

  // ## Telling the guest

  /** The map that a loader or firmware hands on. */
  get ranges(): readonly MemoryRange[] {
    const [USABLE, RESERVED] = [1, 2];
    const map = [
      { start: 0, bytes: 0x9_fc00, type: USABLE },
      { start: 0x9_fc00, bytes: VGA_START - 0x9_fc00, type: RESERVED },
      { start: PAM_START, bytes: MIB - PAM_START, type: RESERVED }, // the display's window before it is PCI's to give away
      { start: MIB, bytes: this.lowBytes - MIB, type: USABLE },
    ];
    if (this.highBytes > 0) map.push({ start: FOUR_GIB, bytes: this.highBytes, type: USABLE });
    return map;
  }

  // What RAM holds is saved apart. Memory that was added to the running machine is not: a machine without it cannot take the state, and one with it does not
  // know where it would be.

  static readonly STATE = describe<PcMemory>('memory', 1, {
    added: {
      text: 'nothing',
      save(memory) {
        if (memory.#added > 0) throw new StateError('memory was added to the running machine; that is not saved');
      },
      load: () => () => {},
    },
  });
}

/** Where {@link PcMemory.shadowWindow} is attached to the memory bus. */
export const SHADOW_WINDOW = { gpa: PAM_START, bytes: MIB - PAM_START } as const;
