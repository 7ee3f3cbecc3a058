// # Work that the card takes over
//
// A checksum is a pass over all the data; cutting a large send into frames is a pass over the stack for each. Cards have done both since this one. The
// driver says *where* the fields are, in bytes from the start of the frame, and the card neither knows nor checks what they mean: the offsets
// come from the guest, and may point anywhere.

/** Where the checksums are and how to cut: a context descriptor, taken apart. */
export interface OffloadContext {
  readonly ipcss: number;
  readonly ipcso: number;
  readonly ipcse: number;
  readonly tucss: number;
  readonly tucso: number;
  readonly tucse: number;
  readonly tcp: boolean;
  readonly ipv4: boolean;
  readonly hdrlen: number;
  readonly mss: number;
}

/** The 16-bit ones' complement sum of big-endian words, folded; an odd last byte is the high half of a word. */
export function onesSum(bytes: Uint8Array, start: number, end: number, sum = 0): number {
  let total = sum;
  const limit = Math.min(end, bytes.length);
  for (let at = start; at < limit; at += 2) total += ((bytes[at] as number) << 8) | (at + 1 < limit ? (bytes[at + 1] as number) : 0);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 65536);
  return total;
}

const load16 = (frame: Uint8Array, at: number): number => ((frame[at] ?? 0) << 8) | (frame[at + 1] ?? 0);
function store16(frame: Uint8Array, at: number, value: number): void {
  if (at + 2 > frame.length) return;
  frame[at] = value >> 8;
  frame[at + 1] = value;
}

// @clause e1000.tx.checksum
/** Puts the checksum of `[start, last]` at `place`; `last` 0 means the end of the frame. What the field held before counts. */
export function insertChecksum(
  frame: Uint8Array,
  place: number,
  start: number,
  last: number,
  { zero = true }: { readonly zero?: boolean } = {},
): void {
  if (place + 2 > frame.length || start >= frame.length) return;
  const sum = ~onesSum(frame, start, last === 0 ? frame.length : last + 1) & 0xffff;
  store16(frame, place, sum === 0 && !zero ? 0xffff : sum); // of UDP, zero means "no checksum"
}

// ## Segmentation
//
// The driver gives one header and up to {{PAYLOAD_LIMIT / 1024}} KiB of payload. Each frame gets a copy of the header in which the lengths, the
// sequence number and the IP identification are right, and the flags that end a stream only in the last. The TCP checksum field comes with the sum
// of the pseudo-header *without its length*, since the driver cannot know the lengths of frames it does not cut.

export const PAYLOAD_LIMIT = 0x10_0000;
/** The most frames that one packet is cut into; a hostile MSS of one would give a million. */
const SEGMENT_LIMIT = 4096;

const TCP_FIN_PSH = 0x09;

// @clause e1000.tx.segmentation
/** Cuts a packet. Null when it cannot be: no header, no segment size, or too many segments. */
export function segment(packet: Uint8Array, context: OffloadContext): Uint8Array[] | null {
  const { hdrlen, mss, ipcss, tucss, tucso, tcp, ipv4 } = context;
  const payload = packet.length - hdrlen;
  if (hdrlen === 0 || mss === 0 || payload < 0) return null;
  const count = Math.max(1, Math.ceil(payload / mss));
  if (count > SEGMENT_LIMIT) return null;
  const sequence = (load16(packet, tucss + 4) * 65536 + load16(packet, tucss + 6)) >>> 0;
  return Array.from({ length: count }, (_, index) => {
    const from = hdrlen + index * mss;
    const piece = packet.subarray(from, Math.min(from + mss, packet.length));
    const frame = new Uint8Array(hdrlen + piece.length);
    frame.set(packet.subarray(0, hdrlen));
    frame.set(piece, hdrlen);
    if (ipv4) {
      store16(frame, ipcss + 2, frame.length - ipcss);
      store16(frame, ipcss + 4, load16(packet, ipcss + 4) + index);
    } else {
      store16(frame, ipcss + 4, frame.length - ipcss - 40);
    }
    if (tcp) {
      const own = (sequence + index * mss) >>> 0;
      store16(frame, tucss + 4, own >>> 16);
      store16(frame, tucss + 6, own & 0xffff);
      if (index < count - 1 && tucss + 13 < hdrlen) frame[tucss + 13] = (frame[tucss + 13] as number) & ~TCP_FIN_PSH;
    } else {
      store16(frame, tucss + 4, frame.length - tucss);
    }
    let pseudo = load16(frame, tucso) + frame.length - tucss;
    while (pseudo > 0xffff) pseudo = (pseudo & 0xffff) + (pseudo >>> 16);
    store16(frame, tucso, pseudo);
    return frame;
  });
}

// ## Checking what arrives

/** What a card can tell of the checksums of a received frame. */
interface Checked {
  readonly ip: 'good' | 'bad' | 'unknown';
  readonly transport: 'good' | 'bad' | 'unknown';
}

const ETHERTYPE_IPV4 = 0x0800;
const PROTOCOL = { TCP: 6, UDP: 17 } as const;

// @clause e1000.rx.checksum
/** Looks at an untagged Ethernet frame. Anything that is not plain IPv4 with TCP or UDP is unknown. */
export function checkReceived(frame: Uint8Array): Checked {
  const ip = 14;
  const header = ((frame[ip] ?? 0) & 0x0f) * 4;
  const length = load16(frame, ip + 2);
  if (load16(frame, 12) !== ETHERTYPE_IPV4 || (frame[ip] ?? 0) >> 4 !== 4 || header < 20 || length < header || ip + length > frame.length)
    return { ip: 'unknown', transport: 'unknown' };
  const result = onesSum(frame, ip, ip + header) === 0xffff ? 'good' : 'bad';
  const protocol = frame[ip + 9] as number;
  const transport = ip + header;
  const fragment = (load16(frame, ip + 6) & 0x3fff) !== 0;
  if (fragment || (protocol !== PROTOCOL.TCP && protocol !== PROTOCOL.UDP)) return { ip: result, transport: 'unknown' };
  if (protocol === PROTOCOL.UDP && load16(frame, transport + 6) === 0) return { ip: result, transport: 'unknown' };
  const pseudo = onesSum(frame, ip + 12, ip + 20, protocol + length - header);
  return { ip: result, transport: onesSum(frame, transport, ip + length, pseudo) === 0xffff ? 'good' : 'bad' };
}

// ## The check sequence

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb8_8320 : crc >>> 1;
  return crc;
});

/** The Ethernet frame check sequence: four bytes, in the order in which they follow the frame. */
export function frameCheckSequence(frame: Uint8Array): Uint8Array {
  let crc = 0xffff_ffff;
  for (const byte of frame) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ byte) & 0xff] as number);
  const out = new Uint8Array(4);
  new DataView(out.buffer).setUint32(0, ~crc >>> 0, true);
  return out;
}
