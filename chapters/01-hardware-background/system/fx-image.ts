// # The image of the floating-point unit
//
// Whoever saves the state of a program -- FXSAVE, a hypervisor, a debugger -- sees the registers as the stack has them: ST(0) first. The processor at work
// keeps them where they are, R0 to R7, and moves TOP; so an image is the state page's 512 bytes with eight registers turned by TOP. The rest of the layout
// is the same.

import { bytes, layout, u8, u16le, u32le, u64le } from '../layout.ts';
import { type CpuState, OFFSET } from '../state.ts';

/** The FXSAVE image. */
export const FxsaveImage = layout(
  'fxsave',
  {
    fcw: u16le(0),
    fsw: u16le(2),
    ftw: u8(4), // abridged: one bit for each register that is not empty, R0 in bit 0
    fop: u16le(6),
    fip: u64le(8),
    fdp: u64le(16),
    mxcsr: u32le(24),
    mxcsr_mask: u32le(28),
    st: bytes(32, 128),
    xmm: bytes(160, 256),
  },
  512,
);

const ST = FxsaveImage.fields.st.offset;
const REGISTER_BYTES = 16;
const SIGNIFICANT_BYTES = 10;
const EXCEPTIONS = 0x3f;
const SUMMARY = 0x8080; // ES and B
const FCW_FIXED = 0x40;
const FCW_MASK = 0x1f3f;
const FSW_HIGH = 1; // the byte with TOP in bits 3 to 5

/** TOP, from the high byte of a status word. */
const topOf = (byte: number): number => (byte >> 3) & 7;

/** A status word whose summary bits say whether a flag is there that the control word does not mask. */
export const withSummary = (fsw: number, fcw: number): number => (fsw & ~SUMMARY) | (fsw & ~fcw & EXCEPTIONS ? SUMMARY : 0);

/** A control word as the processor keeps it. */
export const controlWord = (value: number): number => (value & FCW_MASK) | FCW_FIXED;

/** Copies the unit's state out of the state page. */
export function readFxImage(state: CpuState): Uint8Array<ArrayBuffer> {
  const image = new Uint8Array(state.fpu);
  const top = topOf(image[FxsaveImage.fields.fsw.offset + FSW_HIGH] as number);
  for (let n = 0; n < 8; n++) {
    const from = OFFSET.FPU + ST + REGISTER_BYTES * ((top + n) & 7);
    image.set(state.u8.subarray(from, from + REGISTER_BYTES), ST + REGISTER_BYTES * n);
  }
  return image;
}

/** Puts an image, or its first bytes, into the state page. Whatever of it no register could hold is made into what one could. */
export function writeFxImage(state: CpuState, image: Uint8Array): void {
  const { fcw, fsw } = FxsaveImage.fields;
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  state.u8.set(image, OFFSET.FPU);
  const control = controlWord(fcw.get(view, 0));
  const status = withSummary(fsw.get(view, 0), control);
  FxsaveImage.store(state.view, OFFSET.FPU, { fcw: control, fsw: status });
  const top = topOf(status >> 8);
  for (let n = 0; n < 8; n++) {
    const to = OFFSET.FPU + ST + REGISTER_BYTES * ((top + n) & 7);
    const from = ST + REGISTER_BYTES * n;
    state.u8.set(image.subarray(from, from + SIGNIFICANT_BYTES), to);
    state.u8.fill(0, to + SIGNIFICANT_BYTES, to + REGISTER_BYTES);
  }
}
