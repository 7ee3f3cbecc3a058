// # Debian's kernels, for tests
//
// No kernel is a part of this repository. A test asks here for one; where Debian's packages cannot be had, it is told why, and says that it did not run.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { fetchPackage, fileOfPackage, KernelFolder, Unavailable, unpackKernel } from '../../chapters/15-whole-machine/host/debian.ts';
import { makeInitramfs } from '../../chapters/15-whole-machine/linux/initramfs/initramfs.ts';
import { resolveModules } from '../../chapters/15-whole-machine/linux/initramfs/modules.ts';

/** Debian's names for kinds of kernels, as in `linux-image-cloud-amd64`. */
export type Flavour = 'cloud-amd64' | 'amd64' | '686-pae';

export interface LinuxAtHand {
  readonly kernel: KernelFolder;
  readonly busybox: Uint8Array;
}

/** A kernel and a BusyBox, or why there is none. */
export async function debianLinux(flavour: Flavour): Promise<LinuxAtHand | { readonly reason: string }> {
  try {
    const busybox = await fileOfPackage(await fetchPackage(flavour === '686-pae' ? 'busybox-static:i386' : 'busybox-static'), 'bin/busybox');
    const name = flavour === '686-pae' ? 'linux-image-686-pae:i386' : `linux-image-${flavour}`;
    return { kernel: new KernelFolder(await unpackKernel(await fetchPackage(name))), busybox };
  } catch (error) {
    if (error instanceof Unavailable) return { reason: error.message };
    throw error;
  }
}

/** Writes an initramfs that runs a script and switches the machine off, or without one gives a shell. Returns the file, and what removes it. */
export function initramfsFile(
  { kernel, busybox }: LinuxAtHand,
  {
    script,
    modules = [],
    files,
  }: { readonly script?: string; readonly modules?: readonly string[]; readonly files?: ReadonlyMap<string, Uint8Array> },
): { readonly path: string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-initramfs-'));
  const path = join(folder, 'initrd.gz');
  writeFileSync(
    path,
    gzipSync(makeInitramfs({ busybox, modules: resolveModules(modules, kernel), ...(script !== undefined && { script }), ...(files && { files }) }), {
      level: 1,
    }),
  );
  return { path, remove: () => rmSync(folder, { recursive: true }) };
}

/** The image's file for a door. */
export const imageFor = ({ kernel }: LinuxAtHand, door: string): string => (door === 'pvh' ? kernel.vmlinuxFile : kernel.vmlinuz);
