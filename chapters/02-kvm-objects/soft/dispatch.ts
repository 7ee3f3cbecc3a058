// # Dispatch
//
// In kvm.ko an `ioctl` travels through three big switch statements, one for each kind of file: `kvm_dev_ioctl`, `kvm_vm_ioctl`, `kvm_vcpu_ioctl`,
// each with a second one for the architecture behind its `default:` label. A book that grows by chapters cannot have its first chapters edited by
// its later ones, so the switch is a table here, and a chapter *installs* what it adds.
//
// What a switch falls through to is part of the ABI too, and it is not the same everywhere. A request that the VM file does not know is ENOTTY; the
// system file and the vCPU file answer EINVAL. Programs that probe by trying depend on it.

import { IOCTL, type RequestName, requestOf } from '../abi/ioctls.ts';
import { ERRNO } from '../errno.ts';

type Argument = number | Uint8Array;
type Handler<T> = (target: T, arg: Argument) => number;

/** The requests that one kind of descriptor accepts. */
export class IoctlTable<T> {
  readonly #handlers = new Map<number, Handler<T>>();
  readonly #unknown: number;

  /** `unknown` is the errno for a request that nobody installed. */
  constructor(unknown: number) {
    this.#unknown = unknown;
  }

  /** A request whose argument is a number, or that has none (then it is 0). */
  onNumber(name: RequestName, handler: (target: T, value: number) => number): void {
    this.#handlers.set(IOCTL[name], (target, arg) => handler(target, typeof arg === 'number' ? arg : Number.NaN));
  }

  /**
   * A request whose argument points at a structure: `bytes` is at least as long as the request code says, or the caller gets EFAULT, as it would for
   * a pointer to nowhere.
   */
  onStruct(name: RequestName, handler: (target: T, bytes: Uint8Array, view: DataView) => number): void {
    const code = IOCTL[name];
    const least = requestOf(code)?.bytes ?? 0;
    this.#handlers.set(code, (target, arg) => {
      // @clause kvm.ioctl.bad-pointer
      if (typeof arg === 'number' || arg.length < least) return -ERRNO.EFAULT;
      return handler(target, arg, new DataView(arg.buffer, arg.byteOffset, arg.length));
    });
  }

  /** For the few requests whose pointer may be null. */
  onAny(name: RequestName, handler: Handler<T>): void {
    this.#handlers.set(IOCTL[name], handler);
  }

  /** The names of what is installed, in the ABI's order. */
  get requests(): readonly string[] {
    return (Object.keys(IOCTL) as RequestName[]).filter((name) => this.#handlers.has(IOCTL[name]));
  }

  call(target: T, request: number, arg: Argument): number {
    const handler = this.#handlers.get(request);
    // @clause kvm.ioctl.unknown
    return handler ? handler(target, arg) : -this.#unknown;
  }
}
