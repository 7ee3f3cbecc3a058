// # Descriptors
//
// A ring is an array of sixteen-byte descriptors. For receiving, each is an empty buffer that the card fills; for sending, each is a piece of a
// frame, or in the extended format an instruction about the frames that follow.
//
// ::layout ReceiveDescriptor -- A buffer for receiving. The card writes the second half; the status byte with its DD bit goes last.
// ::layout TransmitDescriptor -- A piece to send, in the old format.
// ::layout ContextDescriptor -- No data: where the checksums of the following frames are, and how they are cut.
// ::layout DataDescriptor -- A piece to send, by the rules of the last context.

import { layout, u8, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';

export const DESCRIPTOR_BYTES = 16;

export const ReceiveDescriptor = layout('e1000 receive descriptor', {
  address: u64le(0),
  length: u16le(8),
  checksum: u16le(10), // over the packet from RXCSUM.PCSS on
  status: u8(12),
  errors: u8(13),
  special: u16le(14), // the VLAN tag that was taken out
});

export const TransmitDescriptor = layout('e1000 transmit descriptor', {
  address: u64le(0),
  length: u16le(8),
  cso: u8(10), // where a checksum goes
  cmd: u8(11),
  status: u8(12),
  css: u8(13), // where it starts
  special: u16le(14), // the VLAN tag to put in
});

export const ContextDescriptor = layout('e1000 context descriptor', {
  ipcss: u8(0), // IP checksum: start,
  ipcso: u8(1), // place,
  ipcse: u16le(2), // and last byte; 0 for the end of the frame
  tucss: u8(4), // TCP or UDP checksum: the same
  tucso: u8(5),
  tucse: u16le(6),
  command: u32le(8), // PAYLEN 19:0, DTYP 23:20, TUCMD 31:24
  status: u8(12),
  hdrlen: u8(13),
  mss: u16le(14),
});

export const DataDescriptor = layout('e1000 data descriptor', {
  address: u64le(0),
  command: u32le(8), // DTALEN 19:0, DTYP 23:20, DCMD 31:24
  status: u8(12),
  popts: u8(13), // which checksums to insert
  special: u16le(14),
});

/** Commands, in every transmit format. Bit 2 asks for the one checksum of the old format, or for segmentation. */
export const TX_CMD = { EOP: 0x01, IC: 0x04, TSE: 0x04, RS: 0x08, DEXT: 0x20, VLE: 0x40, IDE: 0x80 } as const;
/** What bits 0 and 1 mean in a context. */
export const TUCMD = { TCP: 0x01, IPV4: 0x02 } as const;
export const POPTS = { IXSM: 0x01, TXSM: 0x02 } as const;
export const TX_STATUS_DD = 0x01;
export const RX_STATUS = { DD: 0x01, EOP: 0x02, IXSM: 0x04, VP: 0x08, TCPCS: 0x20, IPCS: 0x40, PIF: 0x80 } as const;
export const RX_ERRORS = { TCPE: 0x20, IPE: 0x40 } as const;
