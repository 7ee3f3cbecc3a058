// # What is in a Debian package
//
// A `.deb` is an `ar` archive, the format of static libraries, with three members: a version, the package's description, and a `tar` of the files, compressed by
// whatever was the best of its day. Both formats are rows of headers with their numbers in text. They are read here as they come, because a kernel's
// package unpacks to half a gigabyte, of which somebody wants one file.

/** What is wrong with an archive. */
export class ArchiveError extends Error {
  override name = 'ArchiveError';
}

const ascii = (bytes: Uint8Array): string => new TextDecoder('latin1').decode(bytes).replace(/\0.*$/s, '');

const AR_MAGIC = '!<arch>\n';
const AR_HEADER_BYTES = 60;

interface Member {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** The members of an `ar` archive. @throws ArchiveError */
export function readAr(file: Uint8Array): Member[] {
  if (ascii(file.subarray(0, AR_MAGIC.length)) !== AR_MAGIC) throw new ArchiveError('this is no package: it does not begin as an ar archive does');
  const members: Member[] = [];
  for (let at = AR_MAGIC.length; at + AR_HEADER_BYTES <= file.length; ) {
    const head = ascii(file.subarray(at, at + AR_HEADER_BYTES));
    const size = head.slice(48, 58).trim();
    if (!/^[0-9]+$/.test(size) || !head.endsWith('`\n')) throw new ArchiveError(`the ar header at ${at} is broken`);
    const start = at + AR_HEADER_BYTES;
    if (start + Number(size) > file.length)
      throw new ArchiveError(`an ar member of ${size} bytes at ${start} reaches past the end of the file (${file.length} bytes)`);
    members.push({ name: head.slice(0, 16).trim().replace(/\/$/, ''), bytes: file.subarray(start, start + Number(size)) });
    at = start + Number(size) + (Number(size) % 2);
  }
  return members;
}

const BLOCK_BYTES = 512;
/** A name can be a file of its own; no real one is longer. */
const NAME_LIMIT_BYTES = 65_536;
const TYPE = { FILE: '0', OLD_FILE: '', LONG_NAME: 'L', PAX: 'x', PAX_GLOBAL: 'g' } as const;

/** Takes a tar archive in pieces of any size, and keeps the regular files that somebody wants. */
export class TarReader {
  readonly #wanted: (name: string) => boolean;
  readonly #take: (name: string, bytes: Uint8Array) => void;
  /** The header being put together. */
  #head = new Uint8Array(BLOCK_BYTES);
  #headBytes = 0;
  #type: string = TYPE.FILE;
  #name = '';
  /** From a header that only gives the next one its name. */
  #nextName: string | null = null;
  #body: Uint8Array | null = null;
  #bodyBytes = 0;
  #left = 0;
  #padding = 0;

  constructor(wanted: (name: string) => boolean, take: (name: string, bytes: Uint8Array) => void) {
    this.#wanted = wanted;
    this.#take = take;
  }

  /** @throws ArchiveError */
  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#left > 0 || this.#padding > 0) {
        const part = Math.min(this.#left, chunk.length - at);
        if (part > 0) {
          this.#body?.set(chunk.subarray(at, at + part), this.#bodyBytes);
          this.#bodyBytes += part;
          this.#left -= part;
          at += part;
          if (this.#left === 0) this.#end();
          continue;
        }
        const skipped = Math.min(this.#padding, chunk.length - at);
        this.#padding -= skipped;
        at += skipped;
        continue;
      }
      const part = Math.min(BLOCK_BYTES - this.#headBytes, chunk.length - at);
      this.#head.set(chunk.subarray(at, at + part), this.#headBytes);
      this.#headBytes += part;
      at += part;
      if (this.#headBytes === BLOCK_BYTES) {
        this.#headBytes = 0;
        this.#begin(this.#head);
      }
    }
  }

  /** Says that there is no more. @throws ArchiveError when there should have been */
  finish(): void {
    if (this.#left > 0) throw new ArchiveError(`the tar archive ends ${this.#left} bytes before ${this.#name} does`);
  }

  #begin(head: Uint8Array): void {
    if (head.every((byte) => byte === 0)) return; // the end, or what fills it up
    const digits = ascii(head.subarray(124, 136)).trim();
    const sum = head.reduce((all, byte, index) => all + (index >= 148 && index < 156 ? 0x20 : byte), 0);
    if (sum !== Number.parseInt(ascii(head.subarray(148, 156)).trim(), 8)) throw new ArchiveError('a tar header has a wrong checksum');
    if (!/^[0-7]+$/.test(digits)) throw new ArchiveError(`a tar header says its file has '${digits}' bytes`);
    const size = Number.parseInt(digits, 8);
    const prefix = ascii(head.subarray(257, 262)) === 'ustar' ? ascii(head.subarray(345, 500)) : '';
    this.#type = ascii(head.subarray(156, 157));
    this.#name = this.#nextName ?? (prefix ? `${prefix}/` : '') + ascii(head.subarray(0, 100));
    const names = this.#type === TYPE.LONG_NAME || this.#type === TYPE.PAX;
    if (names && size > NAME_LIMIT_BYTES) throw new ArchiveError(`a name of ${size} bytes`);
    if (!names && this.#type !== TYPE.PAX_GLOBAL) this.#nextName = null;
    const isFile = this.#type === TYPE.FILE || this.#type === TYPE.OLD_FILE;
    this.#body = names || (isFile && this.#wanted(plainName(this.#name))) ? new Uint8Array(size) : null;
    this.#bodyBytes = 0;
    this.#left = size;
    this.#padding = (BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES;
    if (size === 0) this.#end();
  }

  #end(): void {
    const body = this.#body;
    this.#body = null;
    if (!body) return;
    if (this.#type === TYPE.LONG_NAME) this.#nextName = ascii(body);
    else if (this.#type === TYPE.PAX) this.#nextName = /(?:^|\n)[0-9]+ path=([^\n]*)\n/.exec(new TextDecoder().decode(body))?.[1] ?? null;
    else this.#take(plainName(this.#name), body);
  }
}

/** A name without what leads out of the archive or says nothing. */
const plainName = (name: string): string =>
  name
    .split('/')
    .filter((part) => part !== '' && part !== '.' && part !== '..')
    .join('/');
