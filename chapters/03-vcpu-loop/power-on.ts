// # The state after power-on
//
// When a machine is reset, its processors go back to where they were when the power came on. There is no request for that: to KVM, a reset is a
// VMM's own affair, and it writes every register. What should be written is what a new processor has, and the kernel knows: so each processor is
// asked once, right after it was made, and the answer is kept.

import { ERRNO, Errno } from '../02-kvm-objects/errno.ts';
import type { Vcpu } from '../02-kvm-objects/kvm.ts';

/** Time does not start again because a processor does. */
const IA32_TIME_STAMP_COUNTER = 0x10;
const IA32_TSC_ADJUST = 0x3b;
const TIME: ReadonlySet<number> = new Set([IA32_TIME_STAMP_COUNTER, IA32_TSC_ADJUST]);

/** Keeps the state of a processor that has not run yet. Returns what puts it back. */
export function powerOnState(vcpu: Vcpu, msrIndices: readonly number[]): () => void {
  const regs = vcpu.getRegs();
  const sregs = { ...vcpu.getSregs(), interrupt_bitmap: [0n, 0n, 0n, 0n] };
  const fpu = vcpu.getFpu();
  const debugregs = vcpu.getDebugregs();
  const events = vcpu.getVcpuEvents();
  const mpState = vcpu.getMpState();
  const msrs = msrIndices.filter((index) => !TIME.has(index)).flatMap((index) => readable(vcpu, index));
  return () => {
    finishAccess(vcpu);
    vcpu.setRegs(regs);
    vcpu.setFpu(fpu);
    vcpu.setSregs(sregs);
    for (const msr of msrs) tolerate(() => vcpu.setMsrs([msr])); // a list may hold registers that can only be read
    vcpu.setMpState(mpState);
    vcpu.setDebugregs(debugregs);
    vcpu.setVcpuEvents(events);
  };
}

// The instruction that asked for the reset may be half done: the kernel finishes it at the next KVM_RUN, and would do so to the new state.
function finishAccess(vcpu: Vcpu): void {
  vcpu.page.immediateExit = true;
  try {
    vcpu.run();
  } finally {
    vcpu.page.immediateExit = false;
  }
}

function readable(vcpu: Vcpu, index: number): { index: number; data: bigint }[] {
  return tolerate(() => vcpu.getMsrs([index]).map((data) => ({ index, data }))) ?? [];
}

function tolerate<T>(request: () => T): T | null {
  try {
    return request();
  } catch (error) {
    if (error instanceof Errno && error.errno === ERRNO.EINVAL) return null;
    throw error;
  }
}
