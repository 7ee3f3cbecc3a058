// # Making the calls
//
// Plays a `kvm` script on a kernel: chapter 2's `Kernel` interface, hence the soft kernel and Linux's alike. This is the whole of what an adapter
// for the system-call surface has to do. It interprets nothing: descriptors and memory get names, results and bytes go back as they are, and a call
// whose descriptor could not be made is *skipped* with the reason, so that one refusal is not reported as twenty.

import { ERRNO, errnoName } from '../../chapters/02-kvm-objects/errno.ts';
import type { Allocation, Kernel } from '../../chapters/02-kvm-objects/kernel.ts';
import { O_CLOEXEC, O_RDWR } from '../../chapters/02-kvm-objects/kernel.ts';
import type { RanKvm, RunKvm, WireOffset, WireOp, WireStep } from '../types.ts';

const KVM_RUN = 0xae80;
const RUN_BYTES = 8192;
/** How often an interrupted KVM_RUN is taken up again: with the soft kernel's bound of a million instructions each, far past any case's limit. */
const RESUMES = 100_000;

class Skip extends Error {}

/** Plays the script and closes whatever it opened. `now` is the clock for the time limit. */
export function executeScript(kernel: Kernel, request: RunKvm, now: () => number = () => performance.now()): RanKvm {
  const fds = new Map<string, number>();
  const maps = new Map<string, Uint8Array>();
  const memory = new Map<string, Allocation>();
  const failed = new Map<string, string>();
  const steps: WireStep[] = [];
  const results: number[] = [];
  const returned: Uint8Array[] = [];
  const deadline = now() + request.limits.timeoutMs;
  let timedOut = false;

  const named = <T>(table: ReadonlyMap<string, T>, name: string): T => {
    const found = table.get(name);
    if (found === undefined) throw new Skip(failed.get(name) ?? `there is no '${name}'`);
    return found;
  };
  const remember = (name: string, ret: number, what: string): void => {
    if (ret < 0) failed.set(name, `'${name}' does not exist: ${what} failed with ${errnoName(-ret)}`);
    else fds.set(name, ret);
  };
  const bytesOf = (target: string): Uint8Array => maps.get(target) ?? named(memory, target).bytes;
  const resolve = (target: Uint8Array, at: WireOffset, count: number): number => {
    const view = new DataView(target.buffer, target.byteOffset, target.length);
    const start = typeof at === 'number' ? at : at.in + 8 <= target.length ? Number(view.getBigUint64(at.in, true)) : target.length;
    if (start + count > target.length) throw new Skip(`offset ${start} + ${count} is outside the ${target.length} bytes of the target`);
    return start;
  };

  function perform(op: WireOp, index: number): WireStep {
    switch (op.do) {
      case 'open': {
        const ret = kernel.open(op.path, O_RDWR | O_CLOEXEC);
        remember(op.fd, ret, `open ${op.path}`);
        return answer(index, ret);
      }
      case 'close': {
        const fd = named(fds, op.fd);
        fds.delete(op.fd);
        failed.set(op.fd, `'${op.fd}' is closed`);
        return answer(index, kernel.close(fd));
      }
      case 'allocate': {
        const block = kernel.allocate(op.bytes);
        if (typeof block === 'number') failed.set(op.memory, `allocating ${op.bytes} bytes failed with ${errnoName(-block)}`);
        else memory.set(op.memory, block);
        return answer(index, typeof block === 'number' ? block : 0);
      }
      case 'ioctl': {
        const fd = named(fds, op.fd);
        const ret = ioctl(op, fd, index);
        if (op.result !== undefined) remember(op.result, ret, `ioctl ${op.request}`);
        return answer(index, ret, returned[index]);
      }
      case 'mmap': {
        const fd = named(fds, op.fd);
        const length = typeof op.bytes === 'number' ? op.bytes : (results[op.bytes.resultOf] ?? 0);
        const map = kernel.mmap(fd, length, op.offset ?? 0);
        if (typeof map === 'number') failed.set(op.map, `'${op.map}' does not exist: mmap failed with ${errnoName(-map)}`);
        else maps.set(op.map, map);
        return answer(index, typeof map === 'number' ? map : 0);
      }
      case 'eventfd': {
        const ret = kernel.eventfd(op.initial, op.flags);
        remember(op.fd, ret, 'eventfd');
        return answer(index, ret);
      }
      case 'read': {
        const bytes = new Uint8Array(op.count);
        return answer(index, kernel.read(named(fds, op.fd), bytes), bytes);
      }
      case 'write':
        return answer(index, kernel.write(named(fds, op.fd), new Uint8Array(Buffer.from(op.bytes, 'base64'))));
      case 'poke': {
        const target = bytesOf(op.target);
        const bytes = Buffer.from(op.bytes, 'base64');
        target.set(bytes, resolve(target, op.at, bytes.length));
        return answer(index, 0);
      }
      case 'peek': {
        const target = bytesOf(op.target);
        const count = Math.min(op.count, target.length);
        const at = resolve(target, op.at, count);
        return answer(index, 0, target.slice(at, at + count));
      }
      case 'run': {
        const fd = named(fds, op.fd);
        const map = named(maps, op.map);
        let ret = kernel.ioctl(fd, KVM_RUN, 0);
        for (let again = 0; ret === -ERRNO.EINTR && op.resume; again++) {
          if (again >= RESUMES || now() > deadline) {
            timedOut = true;
            break;
          }
          ret = kernel.ioctl(fd, KVM_RUN, 0);
        }
        return answer(index, ret, map.slice(0, RUN_BYTES));
      }
    }
  }

  function ioctl(op: Extract<WireOp, { do: 'ioctl' }>, fd: number, index: number): number {
    const request = Number(op.request);
    if (op.number !== undefined) return kernel.ioctl(fd, request, Number(op.number));
    let argument: Uint8Array | undefined;
    if (op.bytes !== undefined) argument = new Uint8Array(Buffer.from(op.bytes, 'base64'));
    else if (op.base !== undefined) {
      const base = returned[op.base];
      if (!base) throw new Skip(`step ${op.base} returned no bytes to start from`);
      argument = base.slice();
    }
    if (argument === undefined) return kernel.ioctl(fd, request, 0);
    const view = new DataView(argument.buffer);
    for (const { at, bytes } of op.patches ?? []) {
      const patch = Buffer.from(bytes, 'base64');
      if (at + patch.length > argument.length) throw new Skip(`a patch at ${at} is outside the argument's ${argument.length} bytes`);
      argument.set(patch, at);
    }
    for (const { at, memory: name, offset } of op.pointers ?? []) {
      if (at + 8 > argument.length) throw new Skip(`a pointer at ${at} is outside the argument's ${argument.length} bytes`);
      view.setBigUint64(at, BigInt(named(memory, name).hva + offset), true);
    }
    for (const { at, bytes, fd: name } of op.descriptors ?? []) {
      if (at + bytes > argument.length) throw new Skip(`a descriptor at ${at} is outside the argument's ${argument.length} bytes`);
      view.setUint32(at, named(fds, name), true);
    }
    const ret = kernel.ioctl(fd, request, argument);
    returned[index] = argument;
    return ret;
  }

  function answer(index: number, ret: number, bytes?: Uint8Array): WireStep {
    results[index] = ret;
    if (bytes !== undefined) returned[index] = bytes;
    return { ret: String(ret), ...(bytes !== undefined && { bytes: Buffer.from(bytes).toString('base64') }) };
  }

  for (const [index, op] of request.kvm.ops.entries()) {
    if (timedOut) break;
    try {
      steps.push(perform(op, index));
    } catch (error) {
      if (!(error instanceof Skip)) throw error;
      const made = op.do === 'open' || op.do === 'eventfd' ? op.fd : op.do === 'ioctl' ? op.result : op.do === 'mmap' ? op.map : undefined;
      if (made !== undefined) failed.set(made, error.message);
      steps.push({ skipped: error.message });
    }
  }
  for (const fd of [...fds.values()].reverse()) kernel.close(fd); // vCPUs before their VM, the VM before /dev/kvm
  for (const { hva } of memory.values()) kernel.free(hva);
  return { type: 'ran', id: request.id, surface: 'kvm', steps, ...(timedOut ? { timedOut } : {}) };
}
