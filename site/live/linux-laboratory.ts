// A guest of twenty bytes that can be talked to, for tests of the page and of its machine.

const SECTOR_BYTES = 512;

// biome-ignore format: one instruction a line
const ECHO = [
  0xba, 0xfd, 0x03, // again: mov dx, 0x3fd
  0xec,             //        in al, dx
  0xa8, 0x01,       //        test al, 1
  0x74, 0xf8,       //        jz again
  0xba, 0xf8, 0x03, //        mov dx, 0x3f8
  0xec,             //        in al, dx
  0xee,             //        out dx, al
  0x3c, 0x71,       //        cmp al, 'q'
  0x75, 0xef,       //        jne again
  0xba, 0xf4, 0x00, //        mov dx, 0xf4
  0xb0, 0x00,       //        mov al, 0
  0xee,             //        out dx, al
];

// biome-ignore format: one instruction a line
const SLEEP = [
  0xfb,             // again: sti
  0xf4,             //        hlt
  0xeb, 0xfc,       //        jmp again
];

function bootSector(code: readonly number[]): Uint8Array {
  const sector = new Uint8Array(SECTOR_BYTES);
  sector.set(code);
  sector.set([0x55, 0xaa], SECTOR_BYTES - 2);
  return sector;
}

/** Echoes what is typed, and leaves at a `q`. A boot sector. */
export const echoGuest = (): Uint8Array => bootSector(ECHO);

/** Waits for an interrupt, and again. */
export const sleepingGuest = (): Uint8Array => bootSector(SLEEP);
