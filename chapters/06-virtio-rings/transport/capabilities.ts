// # Where things are
//
// A modern device does not fix where its registers are. It has a list of vendor-specific capabilities, and each says: this structure is in that BAR,
// at this offset, so long. A driver walks the list and takes the first of each kind that it can use.
//
// ::layout VIRTIO_PCI_CAP -- A capability of virtio, with what two kinds of it have besides.

import { registerTable } from '../../05-pio-mmio/registers.ts';

/** Capability id: vendor-specific. */
export const CAP_VENDOR = 0x09;

/** Kinds of structure. */
export const CFG_TYPE = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5, SHARED_MEMORY: 8, VENDOR: 9 } as const;

/** `struct virtio_pci_cap`, and the fields that longer ones have at its end. */
// biome-ignore format: table
export const VIRTIO_PCI_CAP = registerTable('virtio-pci-cap', 'virtio 1.4, Virtio Structure PCI Capabilities', {
  cap_vndr:              { offset: 0,  bytes: 1, access: 'ro', text: 'vendor-specific' },
  cap_next:              { offset: 1,  bytes: 1, access: 'ro', text: 'the next capability' },
  cap_len:               { offset: 2,  bytes: 1, access: 'ro', text: 'its length, with what follows' },
  cfg_type:              { offset: 3,  bytes: 1, access: 'ro', text: 'which structure' },
  bar:                   { offset: 4,  bytes: 1, access: 'rw', text: 'in which BAR; software’s to write only for configuration access' },
  id:                    { offset: 5,  bytes: 1, access: 'ro', text: 'which of several of one kind' },
  offset:                { offset: 8,  bytes: 4, access: 'rw', text: 'where in it' },
  length:                { offset: 12, bytes: 4, access: 'rw', text: 'how long' },
  notify_off_multiplier: { offset: 16, bytes: 4, access: 'ro', text: 'of notifications: distance of the doorbells' },
});

/** A capability without fields of its own. */
export const CAP_BYTES = 16;

/** A structure and its place. */
export interface Structure {
  readonly type: number;
  readonly bar: number;
  readonly id?: number;
  readonly offset: number;
  readonly length: number;
  /** What follows the common fields. */
  readonly extra?: readonly number[];
}

// @clause virtio.pci.dev.cap-len-spans-cap-vndr
/** What follows the two bytes that every capability begins with. `extra` is in words of 32 bits. */
export function capabilityBytes({ type, bar, id = 0, offset, length, extra = [] }: Structure): Uint8Array {
  const bytes = new Uint8Array(CAP_BYTES + 4 * extra.length);
  const view = new DataView(bytes.buffer);
  const { rows } = VIRTIO_PCI_CAP;
  bytes[rows.cap_len.offset] = bytes.length;
  bytes[rows.cfg_type.offset] = type;
  bytes[rows.bar.offset] = bar;
  bytes[rows.id.offset] = id;
  view.setUint32(rows.offset.offset, offset, true);
  view.setUint32(rows.length.offset, length, true);
  for (const [at, word] of extra.entries()) view.setUint32(CAP_BYTES + 4 * at, word, true);
  return bytes.subarray(2);
}
