// # A local APIC in the kernel
//
// A vCPU by itself takes what it is given: the VMM queues an interrupt, and the next entry injects it. A later chapter can put a local APIC in front of
// it, inside the kernel. Then interrupts are no longer handed over but *looked for*, before each entry; HLT waits in the kernel, because
// something in the kernel can end the wait; and INIT and SIPI are messages that the kernel understands. The interface below is all that the rest of the
// kernel knows of that APIC. Linux asks the same questions by `lapic_in_kernel()` and the functions named here.

import type { KernelDevice } from './io-bus.ts';

export interface VcpuInterruptController {
  /** There is an interrupt that the guest would take if its flags let it. Linux: `kvm_cpu_has_injectable_intr()`. */
  hasInterrupt(): boolean;
  /** Takes it. Linux: `kvm_cpu_get_interrupt()`. */
  takeInterrupt(): number;
  /** KVM_INTERRUPT: a vector of 8259s that are not in the kernel. 0, or -errno. */
  queueExternal(vector: number): number;
  /** Such a vector that no entry has taken yet; -1: none. */
  queuedExternal: number;
  /** There is room for such a vector, and the processor listens. Linux: `kvm_cpu_accept_dm_intr()`. */
  readonly acceptsExternal: boolean;
  /** The 8259s are in the kernel, too. */
  readonly picInKernel: boolean;

  /** The task priority as CR8 has it. */
  cr8: bigint;
  readonly apicBase: bigint;
  /** False: not a value that the register can take. */
  setApicBase(value: bigint, host: boolean): boolean;
  /** The registers, where the guest has them in memory. */
  readonly page: KernelDevice;

  /** INIT or SIPI has arrived. */
  readonly startupPending: boolean;
  /** Does what they ask; the vCPU is loaded. Linux: `kvm_apic_accept_events()`. */
  acceptStartup(): void;
  /** As if SIPI had arrived (KVM_SET_MP_STATE). */
  startUp(): void;
  sipiVector: number;
}
