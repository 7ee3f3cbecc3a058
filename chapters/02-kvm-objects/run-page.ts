// # Reading the shared page
//
// After KVM_RUN the VMM looks at the page; before the next one it may leave answers there. The accessors below are those looks. They allocate
// nothing on the way of a port access, because that way is taken at every exit.

import {
  EXIT,
  exitName,
  INTERNAL_ERROR,
  KvmRun,
  RunDebug,
  RunEmulationFailure,
  RunFailEntry,
  RunHw,
  RunInternal,
  RunIo,
  RunMmio,
  RunSystemEvent,
} from './abi/exits.ts';

const head = KvmRun.fields;
const io = RunIo.fields;
const mmio = RunMmio.fields;

/** The widest item and the longest run that one port exit can carry: one page of data. */
const PIO_DATA_BYTES = 4096;

/** `struct kvm_run` and the pages behind it, live. */
export class RunPage {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  get exitReason(): number {
    return head.exit_reason.get(this.view, 0);
  }
  /** Asks the next KVM_RUN to return at once. May be set by another thread while the guest runs. */
  set immediateExit(on: boolean) {
    head.immediate_exit.set(this.view, 0, on ? 1 : 0);
  }
  /** Asks for KVM_EXIT_IRQ_WINDOW_OPEN as soon as an interrupt could be taken. */
  set requestInterruptWindow(on: boolean) {
    head.request_interrupt_window.set(this.view, 0, on ? 1 : 0);
  }
  /** Whether KVM_INTERRUPT would be delivered by the next entry. */
  get readyForInterruptInjection(): boolean {
    return head.ready_for_interrupt_injection.get(this.view, 0) !== 0;
  }
  /** RFLAGS.IF at the last exit. */
  get ifFlag(): boolean {
    return head.if_flag.get(this.view, 0) !== 0;
  }

  // ## A port access

  get ioPort(): number {
    return io.port.get(this.view, 0);
  }
  get ioOut(): boolean {
    return io.direction.get(this.view, 0) !== 0;
  }
  get ioSize(): number {
    return io.size.get(this.view, 0);
  }
  get ioCount(): number {
    return io.count.get(this.view, 0);
  }
  /**
   * The items' bytes: what the guest wrote, or where to put what it reads. Their place comes from the page, and so from the kernel: a kernel that
   * points outside its own mapping is broken.
   * @throws RangeError then
   */
  ioData(): Uint8Array {
    const at = Number(io.data_offset.get(this.view, 0));
    const length = this.ioSize * this.ioCount;
    if (length > PIO_DATA_BYTES || at + length > this.bytes.length)
      throw new RangeError(`port data of ${length} bytes at ${at} is outside the mapping of ${this.bytes.length}`);
    return this.bytes.subarray(at, at + length);
  }

  // ## A memory access that no slot backs

  get mmioAddress(): number {
    return Number(mmio.phys_addr.get(this.view, 0));
  }
  get mmioWrite(): boolean {
    return mmio.is_write.get(this.view, 0) !== 0;
  }
  get mmioLength(): number {
    return mmio.len.get(this.view, 0);
  }
  /** Up to 8 bytes, live: filled by the VMM when the guest reads. */
  mmioData(): Uint8Array {
    return this.bytes.subarray(mmio.data.offset, mmio.data.offset + Math.min(this.mmioLength, mmio.data.bytes));
  }

  // ## The rare exits

  /** The exit in words and numbers: its name, and what matters of the union, for a message. */
  describe(): string {
    const name = exitName(this.exitReason);
    const hex = (value: bigint | number): string => `0x${value.toString(16)}`;
    switch (this.exitReason) {
      case EXIT.KVM_EXIT_IO:
        return `${name}: ${this.ioOut ? 'out' : 'in'} port ${hex(this.ioPort)}, ${this.ioCount} of ${this.ioSize} bytes`;
      case EXIT.KVM_EXIT_MMIO:
        return `${name}: ${this.mmioWrite ? 'write' : 'read'} of ${this.mmioLength} bytes at ${hex(this.mmioAddress)}`;
      case EXIT.KVM_EXIT_UNKNOWN:
        return `${name}: hardware reason ${hex(RunHw.load(this.view).hardware_exit_reason)}`;
      case EXIT.KVM_EXIT_FAIL_ENTRY:
        return `${name}: hardware reason ${hex(RunFailEntry.load(this.view).hardware_entry_failure_reason)}`;
      case EXIT.KVM_EXIT_DEBUG: {
        const { exception, pc, dr6 } = RunDebug.load(this.view);
        return `${name}: exception ${exception} at ${hex(pc)}, DR6 ${hex(dr6)}`;
      }
      case EXIT.KVM_EXIT_INTERNAL_ERROR:
        return `${name}: ${this.#describeInternal()}`;
      case EXIT.KVM_EXIT_SYSTEM_EVENT:
        return `${name}: type ${RunSystemEvent.load(this.view).type}`;
      default:
        return name;
    }
  }

  #describeInternal(): string {
    const { suberror, ndata } = RunInternal.load(this.view);
    if (suberror === INTERNAL_ERROR.KVM_INTERNAL_ERROR_EMULATION && ndata >= 3) {
      const { flags, insn_size, insn_bytes } = RunEmulationFailure.load(this.view);
      if (flags & 1n) {
        const bytes = [...insn_bytes.subarray(0, Math.min(insn_size, insn_bytes.length))].map((byte) => byte.toString(16).padStart(2, '0'));
        return `suberror ${suberror}, instruction bytes ${bytes.join(' ')}`;
      }
    }
    return `suberror ${suberror}`;
  }
}
