// # `ringbook initramfs`
//
// Makes an initramfs from Debian's BusyBox and, if wanted, modules of a kernel:
//
// ```text
// ringbook initramfs --kernel linux-image-cloud-amd64 --modules e1000,virtio_pci --vmlinuz vmlinuz --out initrd.gz
// ringbook run -kernel vmlinuz -initrd initrd.gz -m 256M -append console=ttyS0
// ```

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { ImageError } from '../../03-vcpu-loop/elf.ts';
import { makeInitramfs } from '../linux/initramfs/initramfs.ts';
import { ModuleError, resolveModules } from '../linux/initramfs/modules.ts';
import { ArchiveError } from '../linux/initramfs/packages.ts';
import { fetchPackage, fileOfPackage, KernelFolder, Unavailable, unpackKernel } from './debian.ts';

const USAGE = `usage: ringbook initramfs --out FILE [options]

Makes an initramfs for \`ringbook run -initrd\`: BusyBox, modules, and a script or a shell.

  --out FILE          where to write it
  --busybox WHAT      a static busybox, or Debian's package of one; by default the package busybox-static is fetched
  --kernel WHAT       a kernel's package, its name to be fetched, or a folder with boot/ and lib/modules/
  --modules A,B       modules to pack and load, with all that they need; NAME.OPTION=VALUE on the kernel's
                      command line is for one of them
  --script FILE       run this in place of a shell, then switch the machine off
  --add NAME=FILE     put another file in; may be said again
  --vmlinuz FILE      write the kernel out, too
  --vmlinux FILE      write it out unpacked, for -door pvh

A package is a .deb file, or a name, which apt-get downloads and nobody installs. A kernel's name may be one of Debian's meta-packages:
linux-image-cloud-amd64, linux-image-amd64.`;

const USAGE_STATUS = 2;
const GZIP_OS_OFFSET = 9;
const GZIP_UNIX = 3;

const isFile = (path: string): boolean => existsSync(path) && statSync(path).isFile();

/** A `.deb` from a path or a name. */
const packageOf = async (what: string): Promise<string> => (isFile(what) ? what : await fetchPackage(what));

async function busyboxOf(what: string): Promise<Uint8Array> {
  if (isFile(what) && !what.endsWith('.deb')) return readFileSync(what);
  return fileOfPackage(await packageOf(what), 'bin/busybox');
}

const kernelOf = async (what: string): Promise<KernelFolder> =>
  new KernelFolder(existsSync(what) && statSync(what).isDirectory() ? what : await unpackKernel(await packageOf(what)));

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      out: { type: 'string' },
      busybox: { type: 'string', default: 'busybox-static' },
      kernel: { type: 'string' },
      modules: { type: 'string', multiple: true, default: [] },
      script: { type: 'string' },
      add: { type: 'string', multiple: true, default: [] },
      vmlinuz: { type: 'string' },
      vmlinux: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help || (!values.out && !values.vmlinuz && !values.vmlinux)) {
    console.log(USAGE);
    return values.help ? 0 : USAGE_STATUS;
  }
  const names = values.modules.flatMap((list) => list.split(',')).filter((name) => name !== '');
  const needsKernel = names.length > 0 || values.vmlinuz !== undefined || values.vmlinux !== undefined;
  if (needsKernel && values.kernel === undefined) throw new ModuleError('modules and images come from a kernel: say which with --kernel');
  const kernel = values.kernel === undefined ? null : await kernelOf(values.kernel);
  if (kernel && values.vmlinuz) writeFileSync(values.vmlinuz, readFileSync(kernel.vmlinuz));
  if (kernel && values.vmlinux) writeFileSync(values.vmlinux, kernel.vmlinux());
  if (!values.out) return 0;
  const modules = kernel ? resolveModules(names, kernel) : new Map<string, Uint8Array>();
  const files = values.add.map((pair): [string, Uint8Array] => {
    const equals = pair.indexOf('=');
    if (equals < 1) throw new ModuleError(`--add takes NAME=FILE, not ${pair}`);
    return [pair.slice(0, equals).replace(/^\/+/, ''), readFileSync(pair.slice(equals + 1))];
  });
  const archive = makeInitramfs({
    busybox: await busyboxOf(values.busybox),
    modules,
    files: new Map(files),
    ...(values.script !== undefined && { script: readFileSync(values.script, 'utf8') }),
  });
  const packed = gzipSync(archive, { level: 9 });
  packed[GZIP_OS_OFFSET] = GZIP_UNIX; // zlib names the system it was built for
  writeFileSync(values.out, packed);
  const loaded = modules.size > 0 ? `, modules ${[...modules.keys()].join(' ')}` : '';
  console.error(`${values.out}: ${packed.length} bytes, ${archive.length} unpacked${loaded}`);
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  const said = [ArchiveError, ModuleError, Unavailable, ImageError].some((kind) => error instanceof kind);
  const fromSystem = error instanceof Error && 'code' in error;
  if (!said && !fromSystem && !(error instanceof Error && /no unpacked kernel|no Linux kernel/.test(error.message))) throw error;
  console.error(`ringbook initramfs: ${(error as Error).message}`);
  process.exitCode = USAGE_STATUS;
}
