// # An archive that a kernel can read
//
// The initramfs is a *cpio* archive, in the format called `newc`: before each file a header of hexadecimal digits, then its name, then its bytes, each
// padded to four. The kernel unpacks it into its first file system with a few hundred lines of code, which is why it is this and not something newer.
//
// The same files make the same bytes: names in order, no times, no owners.

const MAGIC = '070701';
const TRAILER = 'TRAILER!!!';
const ALIGN = 4;

const MODE = { DIRECTORY: 0o040000, FILE: 0o100000, LINK: 0o120000, CHARACTER: 0o020000 } as const;

/** What an initramfs has in it, by name, without a slash in front. */
export type Entry =
  | { readonly kind: 'file'; readonly bytes: Uint8Array; readonly executable?: boolean }
  | { readonly kind: 'directory' }
  | { readonly kind: 'link'; readonly to: string }
  | { readonly kind: 'character'; readonly major: number; readonly minor: number };

const text = new TextEncoder();

function header(fields: readonly number[]): Uint8Array {
  return text.encode(MAGIC + fields.map((value) => value.toString(16).padStart(8, '0')).join(''));
}

/** Every folder that a name lies in. */
const foldersOf = (name: string): string[] => {
  const parts = name.split('/').slice(0, -1);
  return parts.map((_, index) => parts.slice(0, index + 1).join('/'));
};

/** Packs files; folders that a name needs are made. */
export function packCpio(files: ReadonlyMap<string, Entry>): Uint8Array {
  const all = new Map<string, Entry>(files);
  for (const name of files.keys()) for (const folder of foldersOf(name)) if (!all.has(folder)) all.set(folder, { kind: 'directory' });
  const pieces: Uint8Array[] = [];
  let length = 0;
  const add = (bytes: Uint8Array): void => {
    pieces.push(bytes);
    length += bytes.length;
  };
  const pad = (to = ALIGN): void => add(new Uint8Array((to - (length % to)) % to));
  let inode = 0;
  const entry = (name: string, mode: number, bytes: Uint8Array, [major, minor] = [0, 0]): void => {
    const encoded = text.encode(`${name}\0`);
    add(header([++inode, mode, 0, 0, 1, 0, bytes.length, 0, 0, major, minor, encoded.length, 0]));
    add(encoded);
    pad();
    add(bytes);
    pad();
  };
  const nothing = new Uint8Array(0);
  for (const name of [...all.keys()].sort()) {
    const what = all.get(name) as Entry;
    if (what.kind === 'directory') entry(name, MODE.DIRECTORY | 0o755, nothing);
    else if (what.kind === 'link') entry(name, MODE.LINK | 0o777, text.encode(what.to));
    else if (what.kind === 'character') entry(name, MODE.CHARACTER | 0o600, nothing, [what.major, what.minor]);
    else entry(name, MODE.FILE | (what.executable ? 0o755 : 0o644), what.bytes);
  }
  entry(TRAILER, 0, nothing);
  pad(512);
  const out = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}
