// # A segment
//
// What TCP sends is a piece of a stream, with its place in the stream; how far the other direction has been received; and how much more of it there
// is room for. All three travel in every segment, so that a conversation needs no messages of its own to keep going.

import { layout, u8, u16be, u32be } from '../../../01-hardware-background/layout.ts';
import type { Ipv4 } from '../addresses.ts';
import { PROTOCOL, transportSum } from '../ipv4.ts';

export const TcpHeader = layout('tcp', {
  sourcePort: u16be(0),
  destinationPort: u16be(2),
  sequence: u32be(4), // of the first byte
  acknowledgment: u32be(8), // the next byte that is expected, if ACK is set
  dataOffset: u8(12), // length of the header in words, in the high half
  flags: u8(13),
  window: u16be(14),
  checksum: u16be(16),
  urgent: u16be(18),
});

export const FLAG = { FIN: 0x01, SYN: 0x02, RST: 0x04, PSH: 0x08, ACK: 0x10 } as const;

export interface Segment {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly sequence: number;
  readonly acknowledgment: number;
  readonly flags: number;
  /** As the header has it; what it means depends on the scale that was agreed. */
  readonly window: number;
  readonly data: Uint8Array;
  /** Options, which only a SYN carries. */
  readonly mss?: number | null;
  readonly windowScale?: number | null;
}

/** Sequence numbers that a segment takes: its bytes, and one for each of SYN and FIN. */
export const lengthOf = ({ flags, data }: Pick<Segment, 'flags' | 'data'>): number =>
  data.length + (flags & FLAG.SYN ? 1 : 0) + (flags & FLAG.FIN ? 1 : 0);

const OPTION = { END: 0, NOP: 1, MSS: 2, WINDOW_SCALE: 3 } as const;
/** A larger scale would make a window as large as half of all sequence numbers (RFC 7323). */
const SCALE_LIMIT = 14;

function optionsOf(header: Uint8Array): Pick<Segment, 'mss' | 'windowScale'> {
  let mss: number | null = null;
  let windowScale: number | null = null;
  for (let at = TcpHeader.bytes; at < header.length; ) {
    const kind = header[at] as number;
    if (kind === OPTION.END) break;
    if (kind === OPTION.NOP) {
      at++;
      continue;
    }
    const length = header[at + 1] ?? 0;
    if (length < 2 || at + length > header.length) break;
    if (kind === OPTION.MSS && length === 4) mss = ((header[at + 2] as number) << 8) | (header[at + 3] as number);
    if (kind === OPTION.WINDOW_SCALE && length === 3) windowScale = Math.min(SCALE_LIMIT, header[at + 2] as number);
    at += length;
  }
  return { mss, windowScale };
}

/** Takes a segment apart; null when its header or its checksum is wrong. */
export function parseSegment(source: Ipv4, destination: Ipv4, bytes: Uint8Array): Segment | null {
  if (bytes.length < TcpHeader.bytes) return null;
  const { sourcePort, destinationPort, sequence, acknowledgment, dataOffset, flags, window } = TcpHeader.decode(bytes);
  const headerBytes = (dataOffset >> 4) * 4;
  if (headerBytes < TcpHeader.bytes || headerBytes > bytes.length) return null;
  if (transportSum(source, destination, PROTOCOL.TCP, bytes) !== 0xffff) return null;
  const options = flags & FLAG.SYN ? optionsOf(bytes.subarray(0, headerBytes)) : {};
  return { sourcePort, destinationPort, sequence, acknowledgment, flags, window, data: bytes.subarray(headerBytes), ...options };
}

export function buildSegment(source: Ipv4, destination: Ipv4, segment: Segment): Uint8Array {
  const { mss = null, windowScale = null, data, flags } = segment;
  const options = [
    ...(mss === null ? [] : [OPTION.MSS, 4, mss >> 8, mss & 0xff]),
    ...(windowScale === null ? [] : [OPTION.NOP, OPTION.WINDOW_SCALE, 3, windowScale]),
  ];
  const headerBytes = TcpHeader.bytes + options.length;
  const bytes = new Uint8Array(headerBytes + data.length);
  const view = new DataView(bytes.buffer);
  TcpHeader.store(view, 0, {
    sourcePort: segment.sourcePort,
    destinationPort: segment.destinationPort,
    sequence: segment.sequence,
    acknowledgment: segment.acknowledgment,
    dataOffset: (headerBytes / 4) << 4,
    flags,
    window: segment.window,
  });
  bytes.set(options, TcpHeader.bytes);
  bytes.set(data, headerBytes);
  TcpHeader.fields.checksum.set(view, 0, ~transportSum(source, destination, PROTOCOL.TCP, bytes) & 0xffff);
  return bytes;
}

/** The answer to a segment that belongs to no connection (RFC 9293, "Reset Generation"); null to a reset, which is never answered. */
export function resetFor(segment: Segment): Segment | null {
  const { sourcePort, destinationPort, sequence, acknowledgment, flags } = segment;
  if (flags & FLAG.RST) return null;
  const back = { sourcePort: destinationPort, destinationPort: sourcePort, window: 0, data: new Uint8Array(0) };
  return flags & FLAG.ACK
    ? { ...back, sequence: acknowledgment, acknowledgment: 0, flags: FLAG.RST }
    : { ...back, sequence: 0, acknowledgment: (sequence + lengthOf(segment)) >>> 0, flags: FLAG.RST | FLAG.ACK };
}

// ## Places in a stream
//
// A sequence number has 32 bits and begins anywhere, so it wraps, and comparing two of them is a well-known way to be wrong. Inside, nothing here
// compares sequence numbers. A place in the stream is a *position*: an ordinary number, 0 for the SYN and 1 for the first byte, that never wraps. A
// sequence number from outside is turned into the position nearest to where the stream is.

/** The position of a sequence number in a stream that began at `start`, taking the one nearest to `near`. */
export const positionOf = (sequence: number, start: number, near: number): number => near + ((sequence - start - near) | 0);

export const sequenceOf = (position: number, start: number): number => (start + position) >>> 0;
