// # A kernel that is none
//
// For tests: a file with a setup header in which each byte is put down by hand, at the offset that the kernel's documentation gives, so that what reads
// it does not also write it.

interface Made {
  readonly version?: number;
  readonly setupSectors?: number;
  /** Bytes behind the real-mode code. */
  readonly kernelBytes?: number;
  readonly syssize?: number;
  readonly loadflags?: number;
  readonly xloadflags?: number;
  readonly relocatable?: number;
  readonly alignment?: number;
  readonly preferred?: bigint;
  readonly initSize?: number;
  readonly cmdlineSize?: number;
  readonly initrdMax?: number;
  readonly jump?: number;
  readonly payload?: readonly [offset: number, length: number];
}

/** The real-mode code is bytes of 0x5a, the kernel of 0xa5. */
export function madeKernel({
  version = 0x20f,
  setupSectors = 3,
  kernelBytes = 0x3000,
  syssize = Math.ceil(kernelBytes / 16),
  loadflags = 1,
  xloadflags = 1,
  relocatable = 1,
  alignment = 0x20_0000,
  preferred = 0x100_0000n,
  initSize = 0x40_0000,
  cmdlineSize = 2047,
  initrdMax = 0x7fff_ffff,
  jump = 0x6a,
  payload = [0, 0],
}: Made = {}): Uint8Array {
  const setup = ((setupSectors || 4) + 1) * 512;
  const file = new Uint8Array(setup + kernelBytes);
  file.fill(0x5a, 0, setup).fill(0xa5, setup);
  const view = new DataView(file.buffer);
  file.fill(0, 0x1f1, 0x26c);
  view.setUint8(0x1f1, setupSectors);
  view.setUint32(0x1f4, syssize, true);
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint8(0x200, 0xeb);
  view.setUint8(0x201, jump);
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, version, true);
  view.setUint8(0x211, loadflags);
  view.setUint32(0x214, 0x10_0000, true);
  view.setUint32(0x22c, initrdMax, true);
  view.setUint32(0x230, alignment, true);
  view.setUint8(0x234, relocatable);
  view.setUint16(0x236, xloadflags, true);
  view.setUint32(0x238, cmdlineSize, true);
  view.setUint32(0x248, payload[0], true);
  view.setUint32(0x24c, payload[1], true);
  view.setBigUint64(0x258, preferred, true);
  view.setUint32(0x260, initSize, true);
  return file;
}
