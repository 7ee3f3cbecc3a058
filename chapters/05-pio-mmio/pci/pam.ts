// # ROM or RAM, in thirteen pieces
//
// After a reset, reads from the stretch between {{hex(PAM_START)}} and one megabyte come from the firmware's ROM. A BIOS that wants to be fast, or to have
// variables, copies itself into the RAM that lies underneath, and has the memory controller switch the stretch over, reads and writes apart, in
// {{PAM_AREAS.length}} pieces. Intel's memory controllers have had the same seven registers for it since 1993, only ever in another place.

import type { ConfigSpace } from './config-space.ts';

/** Registers of two pieces each; before them is one of the last piece alone. */
export const PAM_REGISTERS = 6;

/** First address of the stretch that the PAM registers switch. */
export const PAM_START = 0xc_0000;

/** One piece of the stretch. */
export interface PamArea {
  readonly start: number;
  readonly bytes: number;
}

/** Where a piece's reads come from and its writes go: RAM, or (false) the ROM, which ignores writes. */
export interface PamMode {
  readonly read: boolean;
  readonly write: boolean;
}

/** A piece has been switched. Called once for each at reset as far as it changes. */
export type SwitchArea = (area: PamArea, mode: PamMode) => void;

const HALF_BYTES = 0x4000;

/** The pieces, by address: two for each of six registers, and then the last. */
export const PAM_AREAS: readonly PamArea[] = [
  ...Array.from({ length: 2 * PAM_REGISTERS }, (_, half) => ({ start: PAM_START + half * HALF_BYTES, bytes: HALF_BYTES })),
  { start: 0xf_0000, bytes: 0x1_0000 },
];

// @clause q35.pam.modes
function switchBits(config: ConfigSpace, offset: number, index: number): number {
  const isLast = index === PAM_AREAS.length - 1;
  const byte = config.load(offset + (isLast ? 0 : 1 + (index >> 1)), 1);
  return (isLast || index & 1 ? byte >> 4 : byte) & 3;
}

/** Makes the seven registers at `offset` of a memory controller's configuration space switch the pieces. */
export function followPam(config: ConfigSpace, offset: number, onSwitch: SwitchArea): void {
  const told = new Uint8Array(PAM_AREAS.length);
  config.on(offset, 1 + PAM_REGISTERS, () => {
    for (const [index, area] of PAM_AREAS.entries()) {
      const bits = switchBits(config, offset, index);
      if (bits === told[index]) continue;
      told[index] = bits;
      onSwitch(area, { read: (bits & 1) !== 0, write: (bits & 2) !== 0 });
    }
  });
}
