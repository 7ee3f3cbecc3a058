// # Reading images from disk
//
// For programs that run on Node. In a browser the page's own files take this place.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Door, diskPath, imagePath } from '../index.ts';

const ROOT = join(import.meta.dirname, '..');

/** One image as the manifest describes it. Addresses are guest-physical. */
export interface ImageRecord {
  readonly sha256: string;
  readonly bytes: number;
  /** From the load address to the end of what the image expects to be zero. */
  readonly memoryBytes: number;
  readonly doors: Readonly<Record<Exclude<Door, 'disk'>, number>>;
  readonly sources: readonly string[];
}

export interface Manifest {
  /** The compiler and linker that made the committed images. */
  readonly toolchain: string;
  readonly images: Readonly<Record<string, ImageRecord>>;
}

/** The committed manifest, or null where nothing has been built yet. */
export function readManifest(): Manifest | null {
  try {
    return JSON.parse(readFileSync(join(ROOT, 'images/manifest.json'), 'utf8')) as Manifest;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** The bytes of a payload: the ELF image, or the bootable disk. Throws ENOENT for a name that has none. */
export function readImage(name: string, form: 'elf' | 'disk' = 'elf'): Uint8Array {
  const bytes = readFileSync(join(ROOT, form === 'disk' ? diskPath(name) : imagePath(name)));
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Where an image lies on disk, for programs that want a path. */
export function imageFile(name: string, form: 'elf' | 'disk' = 'elf'): string {
  return join(ROOT, form === 'disk' ? diskPath(name) : imagePath(name));
}
