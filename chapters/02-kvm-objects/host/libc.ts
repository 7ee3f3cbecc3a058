// # The C library, in fifteen calls
//
// This is the only file in the book that leaves JavaScript. It binds the few functions that reach a Linux kernel, through the optional package
// `koffi`, and gives each the kernel's own manner: a result, or a negative errno. Where the package, the platform or the device is missing, the
// answer is a sentence that says which.
//
// The one idea worth knowing here is `Libc.mapOver`. A JavaScript array cannot be given an address of our choosing, but the system call
// `mmap` can be given one of *its* choosing: with MAP_FIXED it replaces the pages under an existing WebAssembly.Memory by pages of a file. The
// array, the kernel and every worker thread then share them. The buffer is never unmapped behind JavaScript's back, only ever mapped over, so
// a stale reference reads zeros rather than a hole.

import { createRequire } from 'node:module';
import { ERRNO } from '../errno.ts';

interface Koffi {
  load(path: string | null): { func(definition: string): (...args: unknown[]) => number | bigint; symbol(name: string): unknown };
  errno(): number;
  address(value: unknown): bigint;
  readonly node: { poll(fd: number, events: { readable: boolean }, ready: () => void): { close(): void; unref(): void } };
}

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MFD_CLOEXEC = 1;
const SYS_GETTID = 186;
const SYS_TGKILL = 234;
const SYS_TIMER_CREATE = 222;
const SYS_TIMER_SETTIME = 223;
const SYS_TIMER_DELETE = 226;
const CLOCK_MONOTONIC = 1;
const SIGEV_THREAD_ID = 4;

/** The calls. Results of 0 and above are results; below, `-errno`. */
export interface Libc {
  open(path: string, flags: number): number;
  close(fd: number): number;
  ioctl(fd: number, request: number, arg: number | Uint8Array): number;
  /** A file in memory: `bytes` of zeros, shared by everyone who maps the descriptor. */
  memfd(name: string, bytes: number): number;
  /** The address of a buffer's first byte. Steady for WebAssembly memories, whose storage never moves. */
  address(buffer: ArrayBufferLike): number;
  /** Replaces the first `length` bytes of a page-aligned buffer by a shared mapping of `fd` from `offset` on. */
  mapOver(address: number, length: number, fd: number, offset?: number): number;
  /** Replaces them by fresh zeroed memory of nobody's. */
  unmap(address: number, length: number): number;
  gettid(): number;
  /** Sends a signal to one thread of this process. */
  tgkill(tid: number, signal: number): number;
  /** Installs a handler that does nothing, without SA_RESTART: a signal then interrupts a system call and has no other effect. */
  handleNothing(signal: number): number;
  /** A timer that sends this thread `signal` every `intervalMs`, until {@link stopTicking}. Returns its id. */
  startTicking(signal: number, intervalMs: number): number;
  stopTicking(timer: number): number;
  /** Sets such a timer anew: its next signal in `firstNs`, and then every `intervalMs`. */
  setTicking(timer: number, firstNs: number, intervalMs: number): number;
  eventfd(initial: number, flags: number): number;
  read(fd: number, bytes: Uint8Array): number;
  write(fd: number, bytes: Uint8Array): number;
  /** Lets this thread's event loop call `ready` as long as `fd` can be read. Returns what ends it, to be called before the descriptor is closed. */
  poll(fd: number, ready: () => void): (() => void) | number;
}

/** `struct timespec`, twice: interval and first expiration of `struct itimerspec`. */
const timerSpec = (firstNs: number, intervalNs: number): BigInt64Array => {
  const timespec = (ns: number): bigint[] => [BigInt(Math.floor(ns / 1e9)), BigInt(Math.round(ns) % 1e9)];
  return BigInt64Array.from([...timespec(intervalNs), ...timespec(firstNs)]);
};

const load = (): Libc | string => {
  if (process.platform !== 'linux') return `KVM is part of Linux; this is ${process.platform}`;
  if (process.arch !== 'x64') return `the host kernel is driven on x86-64 only; this is ${process.arch}`;
  let koffi: Koffi;
  try {
    koffi = createRequire(import.meta.url)('koffi') as Koffi;
  } catch {
    return "the optional package 'koffi' is not installed";
  }
  const c = koffi.load(null);
  const open = c.func('int open(const char *path, int flags, int mode)');
  const close = c.func('int close(int fd)');
  const ioctlNumber = c.func('int ioctl(int fd, unsigned long request, uint64_t arg)');
  const ioctlBytes = c.func('int ioctl(int fd, unsigned long request, void *arg)');
  const memfdCreate = c.func('int memfd_create(const char *name, unsigned int flags)');
  const ftruncate = c.func('int ftruncate(int fd, int64_t length)');
  const mmap = c.func('int64_t mmap(uint64_t address, uint64_t length, int prot, int flags, int fd, int64_t offset)');
  const syscall = c.func('int64_t syscall(int64_t number, int64_t a, int64_t b, int64_t c)');
  const timerCreate = c.func('int64_t syscall(int64_t number, int64_t clock, void *event, void *id)');
  const timerSettime = c.func('int64_t syscall(int64_t number, int64_t timer, int64_t flags, void *spec, void *old)');
  const eventfd = c.func('int eventfd(unsigned int initial, int flags)');
  const read = c.func('int64_t read(int fd, void *bytes, uint64_t length)');
  const write = c.func('int64_t write(int fd, void *bytes, uint64_t length)');
  const sigaction = c.func('int sigaction(int signal, void *act, void *old)');

  const done = (result: number | bigint): number => (Number(result) === -1 ? -koffi.errno() : Number(result));
  const map = (address: number, length: number, flags: number, fd: number, offset = 0): number => {
    const result = done(mmap(address, length, PROT_READ_WRITE, flags | MAP_FIXED, fd, offset));
    return Math.min(result, 0); // the address is known
  };
  const gettid = (): number => Number(syscall(SYS_GETTID, 0, 0, 0));
  return {
    open: (path, flags) => done(open(path, flags, 0)),
    close: (fd) => done(close(fd)),
    ioctl: (fd, request, arg) => done(typeof arg === 'number' ? ioctlNumber(fd, request, arg) : ioctlBytes(fd, request, arg)),
    memfd(name, bytes) {
      const fd = done(memfdCreate(name, MFD_CLOEXEC));
      if (fd < 0) return fd;
      const sized = done(ftruncate(fd, bytes));
      if (sized === 0) return fd;
      close(fd);
      return sized;
    },
    address: (buffer) => Number(koffi.address(new Uint8Array(buffer))),
    mapOver: (address, length, fd, offset = 0) => map(address, length, MAP_SHARED, fd, offset),
    unmap: (address, length) => map(address, length, MAP_PRIVATE | MAP_ANONYMOUS, -1),
    gettid,
    tgkill: (tid, signal) => done(syscall(SYS_TGKILL, process.pid, tid, signal)),
    handleNothing(signal) {
      // glibc's struct sigaction: handler, then the mask, flags and restorer, all zero. A handler needs to be an address of a function that takes
      // an int and harms nothing: abs.
      const action = new BigUint64Array(19);
      action[0] = koffi.address(c.symbol('abs'));
      return done(sigaction(signal, new Uint8Array(action.buffer), null));
    },
    startTicking(signal, intervalMs) {
      const event = new Int32Array(16); // struct sigevent: value (8 bytes), signal, kind of notification, thread
      event.set([signal, SIGEV_THREAD_ID, gettid()], 2);
      const timer = new Int32Array(2);
      const created = done(timerCreate(SYS_TIMER_CREATE, CLOCK_MONOTONIC, event, timer));
      if (created < 0) return created;
      const set = done(timerSettime(SYS_TIMER_SETTIME, timer[0], 0, timerSpec(intervalMs * 1e6, intervalMs * 1e6), null));
      return set < 0 ? set : (timer[0] as number);
    },
    stopTicking: (timer) => done(syscall(SYS_TIMER_DELETE, timer, 0, 0)),
    setTicking: (timer, firstNs, intervalMs) =>
      done(timerSettime(SYS_TIMER_SETTIME, timer, 0, timerSpec(Math.max(1, firstNs), intervalMs * 1e6), null)), // 0 would disarm it
    eventfd: (initial, flags) => done(eventfd(initial, flags)),
    read: (fd, bytes) => done(read(fd, bytes, bytes.length)),
    write: (fd, bytes) => done(write(fd, bytes, bytes.length)),
    poll(fd, ready) {
      try {
        const handle = koffi.node.poll(fd, { readable: true }, ready);
        handle.unref(); // whoever waits for a guest keeps the process alive; a doorbell alone does not
        return () => handle.close();
      } catch {
        return -ERRNO.EINVAL; // a file that is always ready cannot be waited for
      }
    },
  };
};

let loaded: Libc | string | null = null;

/** The bound library, or why there is none. Bound once for each thread. */
export const libc = (): Libc | string => {
  loaded ??= load();
  return loaded;
};
