// # The file
//
// A header, sections, an end. The header says what this is and of which machine; each section has a name, a version and a checksum; the end has the checksum
// of everything before it. A reader that meets a section that it does not know, or misses one that it does, refuses: a machine without one of its devices' state
// would run on, and go wrong later, where nobody looks for the reason.
//
// ```
// RINGBOOK-STATE\r\n␚\n  format  header-bytes  header  crc
// name-bytes name  version  payload-bytes  payload  crc     … one for each section
// 0                                                crc of all before
// ```
//
// The first line is made like PNG's: a transfer that changes line ends, or stops at a control-Z, damages it at once.

import { StateError, StateReader, StateWriter } from '../../03-vcpu-loop/devices/state.ts';
import { crc32 } from './checksum.ts';

const MAGIC = new TextEncoder().encode('RINGBOOK-STATE\r\n\u001a\n');
/** One more whenever the layout below changes. */
const FORMAT = 1;
const HEADER_LIMIT_BYTES = 1 << 20;
const NAME_LIMIT_BYTES = 256;
const SECTION_LIMIT = 4096;

/** A part of the file. */
export interface Section {
  readonly name: string;
  readonly version: number;
  readonly payload: Uint8Array;
}

/** What a file says. */
interface SavedFile {
  /** The machine, as JSON. */
  readonly header: string;
  readonly sections: readonly Section[];
}

/** Puts a file together. */
export function encodeFile({ header, sections }: SavedFile): Uint8Array {
  const pieces: Uint8Array[] = [];
  const add = (write: (out: StateWriter) => void): void => {
    const out = new StateWriter();
    write(out);
    pieces.push(out.written);
  };
  const text = new TextEncoder().encode(header);
  add((out) => {
    out.bytes(MAGIC);
    out.u32(FORMAT);
    out.blob(text);
    out.u32(crc32(text));
  });
  for (const { name, version, payload } of sections) {
    add((out) => {
      out.text(name);
      out.u32(version);
      out.u32(payload.length);
    });
    pieces.push(payload);
    add((out) => out.u32(crc32(payload)));
  }
  add((out) => out.u32(0));
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const file = new Uint8Array(length + 4);
  let at = 0;
  for (const piece of pieces) {
    file.set(piece, at);
    at += piece.length;
  }
  new DataView(file.buffer).setUint32(length, crc32(file.subarray(0, length)), true);
  return file;
}

/** Takes a file apart. Nothing in it has been believed yet but its checksums. @throws StateError with the reason */
export function decodeFile(file: Uint8Array): SavedFile {
  if (file.length < MAGIC.length || MAGIC.some((byte, at) => file[at] !== byte)) throw new StateError('this is no saved machine');
  const from = new StateReader(file);
  from.bytes(MAGIC.length);
  const format = from.u32();
  if (format !== FORMAT) throw new StateError(`format ${format} of a saved machine; this program knows format ${FORMAT}`);
  if (from.left < 4 || crc32(file.subarray(0, file.length - 4)) !== new DataView(file.buffer, file.byteOffset + file.length - 4).getUint32(0, true))
    throw new StateError('the file is damaged, or was cut short: its checksum is wrong');
  const header = from.text(HEADER_LIMIT_BYTES);
  if (from.u32() !== crc32(new TextEncoder().encode(header))) throw new StateError('the header is damaged');
  const sections: Section[] = [];
  const names = new Set<string>();
  for (;;) {
    const name = from.text(NAME_LIMIT_BYTES);
    if (name === '') break;
    if (names.has(name) || sections.length >= SECTION_LIMIT) throw new StateError(`section ${name} is there twice, or one too many`);
    names.add(name);
    const version = from.u32();
    const payload = from.view(from.u32());
    if (from.u32() !== crc32(payload)) throw new StateError(`section ${name} is damaged`);
    sections.push({ name, version, payload });
  }
  from.u32();
  from.end();
  return { header, sections };
}
