// # Files that may be anything
//
// A name on the command line can lead to a file, a directory, a pipe that nobody writes to, or a device that gives zeros for ever. Opening the third would
// wait, and reading the fourth would fill memory. So a file is opened without waiting, and read only when it is one, and not too long.

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';

/** Opens without waiting for whoever might be at the other end of a pipe. Windows has no such flag, and no such pipes. */
export const openForReading = (path: string): number => openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));

/** All of a regular file. @throws Error when it is something else, or longer than `limitBytes` */
export function readRegularFile(path: string, limitBytes: number): Uint8Array {
  const fd = openForReading(path);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new Error(`${path} is not a regular file`);
    if (stat.size > limitBytes) throw new Error(`${path} has ${stat.size} bytes; at most ${limitBytes} are read`);
    const bytes = new Uint8Array(stat.size);
    let done = 0;
    while (done < bytes.length) {
      const count = readSync(fd, bytes, done, bytes.length - done, done);
      if (count === 0) break; // it has become shorter
      done += count;
    }
    return bytes.subarray(0, done);
  } finally {
    closeSync(fd);
  }
}
