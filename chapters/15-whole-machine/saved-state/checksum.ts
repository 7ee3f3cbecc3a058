// # Has it changed on the way?
//
// A file is copied, cut short, and lies on a disk for a year. A CRC over each part and over the whole finds what accidents do to it: any one byte, and any
// run of up to four. It is not meant against people; whoever makes a file on purpose can compute a CRC too, and so nothing that is read is believed because
// its checksum is right.

const POLYNOMIAL = 0xedb8_8320; // of Ethernet, reflected
const SLICES = 4;

const TABLES: readonly Uint32Array[] = (() => {
  const first = Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    return crc;
  });
  const tables = [first];
  for (let slice = 1; slice < SLICES; slice++) {
    const before = tables[slice - 1] as Uint32Array;
    tables.push(before.map((crc) => (crc >>> 8) ^ (first[crc & 0xff] as number)));
  }
  return tables;
})();

/** CRC-32 of the bytes; `crc` is that of what came before them. */
export function crc32(bytes: Uint8Array, crc = 0): number {
  const [t0, t1, t2, t3] = TABLES as [Uint32Array, Uint32Array, Uint32Array, Uint32Array];
  let c = ~crc;
  let at = 0;
  const whole = bytes.length - (bytes.length % SLICES);
  // Four bytes at a time: memory is most of a saved machine.
  for (; at < whole; at += SLICES) {
    c ^= (bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24);
    c = (t3[c & 0xff] as number) ^ (t2[(c >>> 8) & 0xff] as number) ^ (t1[(c >>> 16) & 0xff] as number) ^ (t0[c >>> 24] as number);
  }
  for (; at < bytes.length; at++) c = (c >>> 8) ^ (t0[(c ^ (bytes[at] as number)) & 0xff] as number);
  return ~c >>> 0;
}
