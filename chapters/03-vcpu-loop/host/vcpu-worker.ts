// # A processor's thread
//
// The whole life of a vCPU thread: wait to be told, call KVM_RUN, say that it came back, wait again. It touches no device and no guest memory; it
// holds the one thing that cannot be shared with an event loop, a system call that blocks.

import { workerData } from 'node:worker_threads';
import { IOCTL } from '../../02-kvm-objects/abi/ioctls.ts';
import { libc } from '../../02-kvm-objects/host/libc.ts';
import { SPINS, STATE, type ThreadStart, WORD } from './handshake.ts';

const { fd, words } = workerData as ThreadStart;
const c = libc();
if (typeof c === 'string') throw new Error(c);

const waiting = (): void => {
  Atomics.store(words, WORD.STATE, STATE.WAITING);
  Atomics.notify(words, WORD.STATE);
};

Atomics.store(words, WORD.TID, c.gettid());
waiting();
for (;;) {
  for (let spin = 0; spin < SPINS && Atomics.load(words, WORD.STATE) === STATE.WAITING; spin++);
  Atomics.wait(words, WORD.STATE, STATE.WAITING);
  if (Atomics.load(words, WORD.STATE) === STATE.QUIT) break;
  Atomics.store(words, WORD.RESULT, c.ioctl(fd, IOCTL.KVM_RUN, 0));
  waiting();
}
