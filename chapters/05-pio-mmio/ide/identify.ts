// # What a disk says of itself
//
// IDENTIFY DEVICE returns 256 words. A driver believes them: which commands it may use, how large the disk is, which transfer modes there are.
// So this is the real interface of the disk model, and every word here is a promise that `disk.ts` keeps.

/** Cylinders, heads, sectors: how disks were addressed when they had them. */
export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectorsPerTrack: number;
}

/** What varies in the answer. */
interface IdentityState {
  readonly sectors: number;
  readonly serial: string;
  readonly firmware: string;
  readonly model: string;
  readonly geometry: Geometry;
  readonly current: Geometry;
  readonly multiple: number;
  readonly transferMode: number;
  readonly writeCache: boolean;
  readonly isDevice1: boolean;
}

/** The most sectors that READ MULTIPLE moves between two interrupts. */
export const MULTIPLE_LIMIT = 16;
export const LBA28_LIMIT = 0x0fff_ffff;
/** Where the old geometry ends: a larger disk reports this and expects block addresses. */
export const CHS_LIMIT = { cylinders: 16383, heads: 16, sectorsPerTrack: 63 } as const;

/** SET FEATURES' transfer modes: the upper five bits are the kind, the lower three the number. */
const TRANSFER = { PIO: 0x08, MWDMA: 0x20, UDMA: 0x40 } as const;
export const TRANSFER_LIMIT = { [TRANSFER.PIO]: 4, [TRANSFER.MWDMA]: 2, [TRANSFER.UDMA]: 5 } as const;

export const defaultGeometry = (sectors: number): Geometry => {
  const { heads, sectorsPerTrack } = CHS_LIMIT;
  return { cylinders: Math.max(1, Math.min(CHS_LIMIT.cylinders, Math.floor(sectors / (heads * sectorsPerTrack)))), heads, sectorsPerTrack };
};

// Strings are stored two characters a word with the first in the high byte: they were once printed by a big-endian program.
export function storeString(words: Uint16Array, at: number, length: number, text: string): void {
  const padded = text.slice(0, length * 2).padEnd(length * 2);
  for (let index = 0; index < length; index++) words[at + index] = (padded.charCodeAt(2 * index) << 8) | padded.charCodeAt(2 * index + 1);
}

const chsSectors = ({ cylinders, heads, sectorsPerTrack }: Geometry): number => cylinders * heads * sectorsPerTrack;

const COMMANDS_82 = (1 << 14) | (1 << 5) | (1 << 3); // NOP, write cache, power management
const COMMANDS_83 = (1 << 14) | (1 << 13) | (1 << 12) | (1 << 10); // FLUSH CACHE EXT, FLUSH CACHE, 48-bit addresses; bit 14 is always one
const ALWAYS_ONE = 1 << 14;
const WRITE_CACHE = 1 << 5;

/** The two words that tell a mode's kind: which exist (low byte), which one is on (high byte). */
const modes = (kind: number, limit: number, current: number): number =>
  (2 ** (limit + 1) - 1) | ((current & 0xf8) === kind ? 1 << (8 + (current & 7)) : 0);

// @clause ata.identify.words
/** The 512 bytes of IDENTIFY DEVICE (ATA/ATAPI-6, "IDENTIFY DEVICE"). */
export function identifyDisk(state: IdentityState): Uint8Array {
  const words = new Uint16Array(256);
  const lba28 = Math.min(state.sectors, LBA28_LIMIT);
  words[0] = 0x0040; // a fixed disk
  words[1] = state.geometry.cylinders;
  words[3] = state.geometry.heads;
  words[6] = state.geometry.sectorsPerTrack;
  storeString(words, 10, 10, state.serial);
  storeString(words, 23, 4, state.firmware);
  storeString(words, 27, 20, state.model);
  words[47] = 0x8000 | MULTIPLE_LIMIT;
  words[48] = 1; // 32-bit accesses to the data register: once reserved, and SeaBIOS and old drivers look
  words[49] = 0x0f00; // DMA, block addresses, IORDY and that it can be turned off
  words[50] = ALWAYS_ONE;
  words[51] = 0x0200; // PIO timing mode 2, for drivers that read no further
  words[53] = 0x0007; // words 54-58, 64-70 and 88 mean something
  words[54] = state.current.cylinders;
  words[55] = state.current.heads;
  words[56] = state.current.sectorsPerTrack;
  words[57] = chsSectors(state.current) & 0xffff;
  words[58] = chsSectors(state.current) >>> 16;
  words[59] = state.multiple === 0 ? 0 : 0x0100 | state.multiple;
  words[60] = lba28 & 0xffff;
  words[61] = lba28 >>> 16;
  words[63] = modes(TRANSFER.MWDMA, TRANSFER_LIMIT[TRANSFER.MWDMA], state.transferMode);
  words[64] = 0x0003; // PIO modes 3 and 4
  words[65] = words[66] = words[67] = words[68] = 120; // cycle times, nanoseconds
  words[80] = 0x0070; // ATA/ATAPI-4, -5, -6
  words[82] = COMMANDS_82;
  words[83] = COMMANDS_83;
  words[84] = ALWAYS_ONE;
  words[85] = COMMANDS_82 & (state.writeCache ? ~0 : ~WRITE_CACHE);
  words[86] = COMMANDS_83 & ~ALWAYS_ONE;
  words[87] = ALWAYS_ONE;
  words[88] = modes(TRANSFER.UDMA, TRANSFER_LIMIT[TRANSFER.UDMA], state.transferMode);
  words[93] = 0x6001 | (state.isDevice1 ? 0x0200 : 0x000a); // an 80-wire cable; the device number set by jumper; self-test passed
  // Two 32-bit halves of a count that needs 48 bits.
  words[100] = state.sectors & 0xffff;
  words[101] = Math.floor(state.sectors / 2 ** 16) & 0xffff;
  words[102] = Math.floor(state.sectors / 2 ** 32) & 0xffff;
  const bytes = new Uint8Array(512);
  const view = new DataView(bytes.buffer);
  words.forEach((word, index) => {
    view.setUint16(2 * index, word, true);
  });
  // Word 255: a signature, and a byte that makes all 512 add up to zero.
  bytes[510] = 0xa5;
  bytes[511] = -bytes.reduce((sum, byte) => sum + byte, 0);
  return bytes;
}
