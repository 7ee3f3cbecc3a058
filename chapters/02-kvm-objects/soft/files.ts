// # Descriptors
//
// KVM has no object of its own that a program could hold. It has *files*: a device node, and two kinds of anonymous inode that `ioctl` calls on the
// first one create. That is less odd than it sounds. A descriptor is already a reference with an owner, a life time and a way to pass it on; the
// kernel closes it when its process dies; and "who may use virtual machines" is decided by the permissions of one node in `/dev`.
//
// The table below is the process's: a small array, the lowest free number first, as POSIX promises. `/proc/self/fd` shows where a descriptor leads,
// and the names it shows for KVM's inodes are kept here, because people look for them there.

import { ERRNO } from '../errno.ts';

/** What a descriptor stands for: Linux's `struct file` with its `file_operations`. */
export interface OpenFile {
  /** What `readlink /proc/self/fd/N` shows. */
  readonly name: string;
  /** The kernel object behind it. Linux: `file->private_data`. */
  readonly object: unknown;
  ioctl(request: number, arg: number | Uint8Array): number;
  mmap(length: number, offset: number): Uint8Array | number;
  /** Absent: EINVAL, as for every file that cannot. */
  read?(bytes: Uint8Array): number;
  write?(bytes: Uint8Array): number;
  /** The last reference is gone. */
  release(): void;
}

/** Descriptors 0 to 2 are the process's standard streams. */
const FIRST = 3;
/** RLIMIT_NOFILE, as most systems set it. */
const LIMIT = 1024;

export class FileTable {
  readonly #files: (OpenFile | null)[] = [];

  // @clause kvm.fd.lowest-free
  /** The lowest free descriptor, or -EMFILE. */
  install(file: OpenFile): number {
    let at = this.#files.indexOf(null);
    if (at < 0) at = this.#files.length;
    if (at + FIRST >= LIMIT) return -ERRNO.EMFILE;
    this.#files[at] = file;
    return at + FIRST;
  }

  get(fd: number): OpenFile | null {
    return this.#files[fd - FIRST] ?? null;
  }

  close(fd: number): number {
    const file = this.get(fd);
    if (!file) return -ERRNO.EBADF;
    this.#files[fd - FIRST] = null;
    file.release();
    return 0;
  }
}
