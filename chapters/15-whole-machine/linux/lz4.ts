// # Unpacking what a kernel is packed with
//
// Debian packs its kernels with LZ4, because it unpacks faster than a disk reads. The format has one idea: a stretch of bytes as they are, then a stretch that
// has been there before, so many bytes back. Two nibbles of a *token* say how long both are; fifteen means that more follows. A stretch may overlap what it
// copies from, and then repeats it.
//
// The kernel uses the older of the two frames around it: a magic number, and blocks of eight megabytes, each behind its size.

import { ImageError } from '../../03-vcpu-loop/elf.ts';

const MAGIC = 0x184c_2102;
const BLOCK_BYTES = 8 << 20;
const MINIMUM_MATCH = 4;
const MORE = 15;

export const isLz4 = (bytes: Uint8Array): boolean => bytes.length >= 4 && new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) === MAGIC;

const broken = (at: number): never => {
  throw new ImageError(`the LZ4 stream is broken at ${at}`);
};

/** Unpacks one block behind what is there already; returns how much there is then. */
function unpackBlock(from: Uint8Array, start: number, end: number, out: Uint8Array): number {
  let at = start;
  let to = 0;
  const lengthFrom = (nibble: number): number => {
    let length = nibble;
    if (nibble === MORE)
      for (let byte = 255; byte === 255; ) {
        byte = at < end ? (from[at++] as number) : broken(at);
        length += byte;
      }
    return length;
  };
  while (at < end) {
    const token = from[at++] as number;
    const literals = lengthFrom(token >> 4);
    if (at + literals > end || to + literals > out.length) broken(at);
    out.set(from.subarray(at, at + literals), to);
    at += literals;
    to += literals;
    if (at === end) return to; // the last stretch has nothing to repeat
    if (at + 2 > end) broken(at);
    const back = (from[at] as number) | ((from[at + 1] as number) << 8);
    at += 2;
    const length = lengthFrom(token & MORE) + MINIMUM_MATCH;
    if (back === 0 || back > to || to + length > out.length) broken(at);
    if (back >= length) out.copyWithin(to, to - back, to - back + length);
    else for (let n = 0; n < length; n++) out[to + n] = out[to - back + n] as number;
    to += length;
  }
  return to;
}

/** Unpacks as far as there are blocks; what stands behind them, as in a kernel the size, is not looked at. @throws ImageError */
export function unpackLz4(stream: Uint8Array, limitBytes = 2 ** 30): Uint8Array {
  const view = new DataView(stream.buffer, stream.byteOffset, stream.length);
  const pieces: Uint8Array[] = [];
  let length = 0;
  const out = new Uint8Array(BLOCK_BYTES);
  for (let at = 4; at + 4 <= stream.length; ) {
    const size = view.getUint32(at, true);
    if (at + 4 + size > stream.length || size === 0) break;
    const bytes = unpackBlock(stream, at + 4, at + 4 + size, out);
    pieces.push(out.slice(0, bytes));
    length += bytes;
    if (length > limitBytes) throw new ImageError(`the LZ4 stream unpacks to more than ${limitBytes} bytes`);
    at += 4 + size;
  }
  const whole = new Uint8Array(length);
  let to = 0;
  for (const piece of pieces) {
    whole.set(piece, to);
    to += piece.length;
  }
  return whole;
}
