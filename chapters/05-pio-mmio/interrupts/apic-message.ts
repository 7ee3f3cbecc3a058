// # An interrupt as a message
//
// Between the APICs an interrupt is not a wire but a message: for whom, which vector, and how it wants to be treated. The I/O APIC makes one from
// a redirection entry, a device with MSI makes one by a store to memory, a processor by a write to its ICR. The three encode the same fields in
// three ways; below this line there is one.

/** Delivery modes, as all three encodings number them. */
// biome-ignore format: table
export const DELIVERY = { FIXED: 0, LOWEST_PRIORITY: 1, SMI: 2, REMOTE_READ: 3, NMI: 4, INIT: 5, STARTUP: 6, EXTINT: 7 } as const;

/** ICR destination shorthands. */
export const SHORTHAND = { NONE: 0, SELF: 1, ALL: 2, OTHERS: 3 } as const;

/** Every APIC, in the 8 bits of an xAPIC destination and in the 32 bits of an x2APIC one. */
export const BROADCAST = { XAPIC: 0xff, X2APIC: 0xffff_ffff } as const;

export interface ApicMessage {
  readonly vector: number;
  /** A DELIVERY. */
  readonly mode: number;
  /** An APIC ID, or a set of logical IDs when `logical`. */
  readonly destination: number;
  readonly logical: boolean;
  /** Asserted; false only for the INIT de-assert message. */
  readonly level: boolean;
  /** Level-triggered: the receiver's EOI is told to the I/O APICs. */
  readonly levelTriggered: boolean;
  /** A SHORTHAND; only interprocessor interrupts have one. */
  readonly shorthand?: number;
  /** MSI: choose one of a logical destination's members, as if by lowest priority. */
  readonly redirectionHint?: boolean;
}

/** Where messages go: {@link ApicBus}. The number of processors that took it. */
export interface ApicMessageTarget {
  deliver(message: ApicMessage): number;
}

// ## The message of an MSI
//
// ```text
//  address  31      20 19          12 11    4  3  2  1 0        data  15  14 13  11 10  8 7       0
//          +----------+--------------+-------+--+--+----+            +--+---+------+-----+---------+
//          |   0xfee  | destination  |       |RH|DM| 00 |            |TM| L |      | mode| vector  |
//          +----------+--------------+-------+--+--+----+            +--+---+------+-----+---------+
// ```
//
// The upper half of the address is zero on a machine without interrupt remapping. KVM lets it carry bits 31–8 of an x2APIC destination.

// @clause kvm.msi.signal
/** Decodes a device's store. Intel SDM vol. 3, "Message Signalled Interrupts". */
export function msiMessage(address: number, data: number): ApicMessage {
  const low = address >>> 0;
  const high = Math.floor(address / 2 ** 32);
  return {
    vector: data & 0xff,
    mode: (data >> 8) & 7,
    destination: (((low >>> 12) & 0xff) | (high & 0xffff_ff00)) >>> 0,
    logical: (low & 4) !== 0,
    level: true, // the bit in the data is for INIT de-assert, which no device sends
    levelTriggered: (data & 0x8000) !== 0,
    redirectionHint: (low & 8) !== 0,
  };
}

/** The same the other way: the store that would have sent a message of 8-bit destination. */
export function messageAsMsi({ vector, mode, destination, logical, levelTriggered }: ApicMessage): { address: number; data: number } {
  return {
    address: (0xfee0_0000 | ((destination & 0xff) << 12) | (logical ? 4 : 0)) >>> 0,
    data: vector | (mode << 8) | (levelTriggered ? 0xc000 : 0), // the level bit goes with it: asserted
  };
}
