// # errno
//
// A system call has one integer to answer with. Zero and above is a result; below zero is the negated number of one of these names. The raw
// interface (`Kernel`) keeps to that, because the numbers *are* the contract that the two kernels share. Code that is written to be read
// wants to be stopped instead, and gets an `Errno` thrown, which remembers what was asked.

/** Linux's numbers on x86-64. */
// biome-ignore format: table
export const ERRNO = {
  EPERM: 1, ENOENT: 2, EINTR: 4, EIO: 5, ENXIO: 6, E2BIG: 7, ENOEXEC: 8, EBADF: 9, EAGAIN: 11, ENOMEM: 12, EACCES: 13, EFAULT: 14, EBUSY: 16, EEXIST: 17,
  ENODEV: 19, EINVAL: 22, ENFILE: 23, EMFILE: 24, ENOTTY: 25, ENOSPC: 28, ENOSYS: 38, EOVERFLOW: 75, EOPNOTSUPP: 95,
} as const;

type ErrnoName = keyof typeof ERRNO;

const names = new Map(Object.entries(ERRNO).map(([name, number]) => [number as number, name as ErrnoName]));

/** The name of a positive error number, or `errno N` for one that the table lacks. */
export const errnoName = (number: number): string => names.get(number) ?? `errno ${number}`;

/** A system call that failed: `code` is the name, as Node's own system errors have it, `errno` the positive number, `request` what was asked. */
export class Errno extends Error {
  override name = 'Errno';
  readonly code: string;
  readonly errno: number;
  readonly request: string;

  constructor(request: string, errno: number, detail = '') {
    super(`${request}: ${errnoName(errno)}${detail && ` (${detail})`}`);
    this.code = errnoName(errno);
    this.errno = errno;
    this.request = request;
  }
}
