// # Physical memory
//
// The modelled machine's RAM is a `WebAssembly.Memory`. That is not a detail of speed alone: the same bytes are seen by the software CPU
// (whose interpreter is WebAssembly), by typed arrays in TypeScript, by a worker thread, and -- where a real kernel is present -- by a KVM
// memory slot mapped over them. There is exactly one copy of guest memory in this book.
//
// The memory starts with a private area for the machine's own machinery (register files, TLBs, decoded code). RAM follows it. A *host
// physical address* counts from the start of RAM; an *offset* counts from the start of the buffer. No guest access is ever made with an
// offset that was not first checked against RAM's bounds here.

declare const tag: unique symbol;
/** Guest virtual (linear) address: 64 bits, so a bigint. */
export type Gva = bigint & { readonly [tag]?: 'gva' };
/** Guest physical address. At most 52 bits, so exact as a number. */
export type Gpa = number & { readonly [tag]?: 'gpa' };
/** Host virtual address: where the VMM sees a byte. User addresses stay below 2^47, so exact as a number. */
export type Hva = number & { readonly [tag]?: 'hva' };
/** Host physical address. At most 52 bits, so exact as a number. */
export type Hpa = number & { readonly [tag]?: 'hpa' };

// Every operator on a bigint allocates its result, and V8 takes a tenth of a microsecond to cut an address in two that way. A store into a typed array
// allocates nothing: the halves are read back as numbers, {{highHalf(0x123_4567_89abn).toString(16)}} and {{lowHalf(0x123_4567_89abn).toString(16)}}
// for 0x123456789ab. Every machine that has WebAssembly engines of note is little-endian, as is the guest.

const whole = new BigUint64Array(1);
const halves = new Uint32Array(whole.buffer);

/** Bits 31:0 of a 64-bit value, unsigned. */
export const lowHalf = (value: bigint): number => {
  whole[0] = value;
  return halves[0] as number;
};
/** Bits 63:32 of a 64-bit value, unsigned. */
export const highHalf = (value: bigint): number => {
  whole[0] = value;
  return halves[1] as number;
};

export const PAGE_BYTES = 4096;
const WASM_PAGE_BYTES = 65536;

/** A broken invariant of our own: never the guest's fault, never the caller's. */
class Broken extends Error {
  override name = 'Broken';
}

/** Throws {@link Broken} when an invariant does not hold. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Broken(message);
}

/** Options of {@link PhysicalMemory}. `privateBytes` is the machinery's area in front of RAM; `shared` makes the buffer a SharedArrayBuffer. */
interface PhysicalMemoryOptions {
  readonly ramBytes: number;
  readonly privateBytes?: number;
  readonly shared?: boolean;
}

/** The machine's RAM and the private area before it, in one `WebAssembly.Memory` that never grows (so views stay valid). */
export class PhysicalMemory {
  readonly wasm: WebAssembly.Memory;
  readonly buffer: ArrayBufferLike;
  readonly view: DataView;
  readonly u8: Uint8Array;
  readonly i32: Int32Array;
  /** Offset of host physical address 0 in the buffer; page-aligned. */
  readonly ramOffset: number;
  readonly ramBytes: number;
  #nextPrivate = PAGE_BYTES; // offset 0 stays unused: a zero offset can mean "none"

  /** @throws RangeError when the sizes are not page multiples or exceed what a 32-bit WebAssembly memory holds. */
  constructor({ ramBytes, privateBytes = 16 << 20, shared = false }: PhysicalMemoryOptions) {
    for (const [what, size] of Object.entries({ ramBytes, privateBytes })) {
      if (!Number.isSafeInteger(size) || size <= 0 || size % WASM_PAGE_BYTES !== 0)
        throw new RangeError(`${what} must be a positive multiple of 64 KiB, not ${size}`);
    }
    const pages = (ramBytes + privateBytes) / WASM_PAGE_BYTES;
    if (pages > 65536) throw new RangeError(`RAM of ${ramBytes} bytes does not fit a 4 GiB WebAssembly memory`);
    this.wasm = new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
    this.buffer = this.wasm.buffer;
    this.view = new DataView(this.buffer);
    this.u8 = new Uint8Array(this.buffer);
    this.i32 = new Int32Array(this.buffer);
    this.ramOffset = privateBytes;
    this.ramBytes = ramBytes;
  }

  /** Takes `bytes` of the private area, aligned to `align`; never given back. Returns the offset. */
  reserve(bytes: number, align = 64): number {
    const at = Math.ceil(this.#nextPrivate / align) * align;
    if (at + bytes > this.ramOffset) throw new RangeError(`the private area (${this.ramOffset} bytes) has no room for ${bytes} more`);
    this.#nextPrivate = at + bytes;
    return at;
  }

  /** True when all of `[hpa, hpa + bytes)` is RAM. */
  holds(hpa: Hpa, bytes = 1): boolean {
    return hpa >= 0 && bytes >= 0 && hpa + bytes <= this.ramBytes;
  }

  /** The buffer offset of a host physical address. A caller that has not checked {@link holds} finds out here. */
  offset(hpa: Hpa, bytes = 1): number {
    if (!this.holds(hpa, bytes)) assert(false, `host physical ${hpa.toString(16)}+${bytes} is outside RAM of ${this.ramBytes} bytes`);
    return this.ramOffset + hpa;
  }

  /** A live view of `[hpa, hpa + bytes)`. */
  slice(hpa: Hpa, bytes: number): Uint8Array {
    return this.u8.subarray(this.offset(hpa, bytes), this.ramOffset + hpa + bytes);
  }
}
