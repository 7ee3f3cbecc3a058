// # Memory
//
// Nearly all of a saved machine is its memory, and most of memory is zero: a guest of a quarter of a gigabyte that has just booted has touched a third of it.
// So pages of zeros are left out, and what is left goes through the platform's own compressor a mebibyte at a time. Whoever reads it takes no more out of a
// block than the block says it has pages; a file of a few bytes that unpacks to a gigabyte is a well-known joke.

import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { StateError, StateReader, StateWriter } from '../../03-vcpu-loop/devices/state.ts';

/** How a block is stored. */
const METHOD = { PLAIN: 0, DEFLATE: 1 } as const;
/** A mebibyte. */
const BLOCK_PAGES = 256;
const FORMAT = 'deflate-raw';

export interface PagesOptions {
  /** Off: larger and at once. */
  readonly compress?: boolean;
}

/** Numbers of the pages that hold anything. */
function usedPages(memory: Uint8Array): number[] {
  const words = new BigUint64Array(memory.buffer, memory.byteOffset, memory.length / 8);
  const perPage = PAGE_BYTES / 8;
  const used: number[] = [];
  for (let page = 0; page < memory.length / PAGE_BYTES; page++) {
    const end = (page + 1) * perPage;
    for (let at = page * perPage; at < end; at++) {
      if (words[at] === 0n) continue;
      used.push(page);
      break;
    }
  }
  return used;
}

async function collect(stream: ReadableStream<Uint8Array>, most: number): Promise<Uint8Array> {
  const reader = stream.getReader();
  const pieces: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > most) {
      await reader.cancel();
      throw new StateError('a block of memory holds more than it says');
    }
    pieces.push(value);
  }
  const out = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

const through = (bytes: Uint8Array, by: CompressionStream | DecompressionStream): ReadableStream<Uint8Array> =>
  new Blob([bytes as Uint8Array<ArrayBuffer>]).stream().pipeThrough(by as ReadableWritablePair<Uint8Array, Uint8Array<ArrayBuffer>>);

/** Writes down whole pages of memory. The memory may not change meanwhile. */
export async function encodePages(memory: Uint8Array, { compress = true }: PagesOptions = {}): Promise<Uint8Array> {
  const out = new StateWriter();
  const used = usedPages(memory);
  out.f64(memory.length);
  out.u32(used.length);
  for (let first = 0; first < used.length; first += BLOCK_PAGES) {
    const pages = used.slice(first, first + BLOCK_PAGES);
    const block = new Uint8Array(pages.length * PAGE_BYTES);
    for (const [n, page] of pages.entries()) block.set(memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES), n * PAGE_BYTES);
    const packed = compress ? await collect(through(block, new CompressionStream(FORMAT)), Number.POSITIVE_INFINITY) : block;
    const smaller = packed.length < block.length;
    out.u32(pages.length);
    for (const page of pages) out.u32(page);
    out.u8(smaller ? METHOD.DEFLATE : METHOD.PLAIN);
    out.blob(smaller ? packed : block);
  }
  return out.written;
}

/**
 * Puts pages back into memory, and zeros where none were written down.
 * @throws StateError; the memory is then neither as it was nor as it should be
 */
export async function decodePages(payload: Uint8Array, memory: Uint8Array): Promise<void> {
  const from = new StateReader(payload);
  const bytes = from.f64();
  if (bytes !== memory.length) throw new StateError(`memory of ${bytes} bytes; this machine has ${memory.length}`);
  const count = from.u32();
  let next = 0;
  const clear = (end: number): void => void memory.fill(0, next * PAGE_BYTES, end * PAGE_BYTES);
  for (let done = 0; done < count; ) {
    const pages = from.u32();
    if (pages === 0 || pages > BLOCK_PAGES || pages > count - done) throw new StateError(`a block of ${pages} pages`);
    const numbers = Array.from({ length: pages }, () => from.u32());
    const block = await unpack(from, pages * PAGE_BYTES);
    for (const [n, page] of numbers.entries()) {
      if (page < next || page >= memory.length / PAGE_BYTES) throw new StateError(`page ${page} is not where it could be`);
      clear(page);
      memory.set(block.subarray(n * PAGE_BYTES, (n + 1) * PAGE_BYTES), page * PAGE_BYTES);
      next = page + 1;
    }
    done += pages;
  }
  clear(memory.length / PAGE_BYTES);
  from.end();
}

async function unpack(from: StateReader, bytes: number): Promise<Uint8Array> {
  const method = from.u8();
  const packed = from.view(from.u32());
  if (method !== METHOD.PLAIN && method !== METHOD.DEFLATE) throw new StateError(`method ${method} of storing memory`);
  let block = packed;
  if (method === METHOD.DEFLATE) {
    try {
      block = await collect(through(packed, new DecompressionStream(FORMAT)), bytes);
    } catch (error) {
      throw error instanceof StateError ? error : new StateError('a block of memory cannot be unpacked');
    }
  }
  if (block.length !== bytes) throw new StateError(`a block of ${block.length} bytes where ${bytes} were said`);
  return block;
}
