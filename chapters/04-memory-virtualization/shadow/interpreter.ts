// # What the hardware cannot hold
//
// Shadow paging belongs to processors without a second stage, and those have no *unrestricted guest* either: in VMX non-root operation protection
// and paging are always on. A guest that is in real mode, or between real and protected mode with segment registers that no descriptor ever
// described, cannot be entered at all. On such processors KVM has two ways out. It can disguise real mode as virtual-8086 mode, with a task-state
// segment and an identity map in guest memory (the pages of KVM_SET_TSS_ADDR), and catch what differs; or it can give up on the hardware and
// *emulate*, instruction by instruction, until the state is one that the hardware accepts (`emulate_invalid_guest_state`, the default). The second
// way is exact as far as the emulator goes, and KVM's emulator goes as far as firmware needs.
//
// This kernel takes the second way with an emulator that goes all the way: a whole processor of chapter 1, as a piece of kernel software. It has a
// register file, a TLB and decoded code of its own. The guest's state comes from the vCPU's VMCS and goes back there, the exit information included,
// so that the loop cannot tell who ran the guest. Nested in software there *is* a second stage, whatever the hardware lacks: a plain tree from guest
// physical to host physical addresses, in which shadowed page tables are not present. Touching one gives its shadow up.

import { Cpu } from '../../01-hardware-background/cpu.ts';
import { FORMAT } from '../../01-hardware-background/mmu/paging.ts';
import { CR0, OFFSET } from '../../01-hardware-background/state.ts';
import { CPU_BASED, SECONDARY } from '../../01-hardware-background/vmx/controls.ts';
import { AT, FIELD, REGION } from '../../01-hardware-background/vmx/vmcs.ts';
import { type EntryOutcome, VmxUnit } from '../../01-hardware-background/vmx/vmx.ts';
import { eptPointer, type Hardware } from '../../02-kvm-objects/soft/hardware.ts';
import { LazyEpt } from '../../02-kvm-objects/soft/lazy-ept.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import type { ShadowContext } from './mmu.ts';

/** In protected mode the hardware can probably take over soon: look after so many instructions. */
const BURST = 16;
const HOST_TIMER_VECTOR = 0xec;
/** Memory for decoded code: what runs here is short. */
const ARENA_BYTES = 1 << 20;

/** The software processor: one for a kernel, like the hardware that it stands in for. */
class SoftwareProcessor {
  readonly cpu: Cpu;
  readonly vmx: VmxUnit;
  #timerPending = false;

  constructor({ memory, cpu }: Hardware) {
    this.cpu = new Cpu({ memory, arenaBytes: ARENA_BYTES, ...(cpu.trace && { trace: cpu.trace }) });
    this.vmx = new VmxUnit(this.cpu);
    this.cpu.vmx = this.vmx;
    this.cpu.setInterruptSource({
      pending: () => this.#timerPending,
      acknowledge: () => {
        this.#timerPending = false;
        return HOST_TIMER_VECTOR;
      },
    });
  }

  /**
   * Runs the guest whose VMCS is current on the hardware, for at most `instructions`. `once`: INVLPG and INVPCID are to be executed, not reported.
   */
  run(hardware: Hardware, root: number, instructions: number, once: boolean): EntryOutcome {
    const { cpu, vmx } = this;
    const host = hardware.cpu.state;
    const bank = host.get32(OFFSET.TLB);
    cpu.state.u8.set(host.u8);
    cpu.engine.memoryChanged();
    vmx.vmxonRegion = hardware.vmx.vmxonRegion;
    const { address } = hardware.vmx.vmcs;
    const launched = hardware.vmx.vmcs.read32(REGION.LAUNCH_STATE);
    vmx.vmclear(address); // whatever this unit knows of the VMCS is out of date
    vmx.vmptrld(address);
    const { vmcs } = vmx;
    const controls = vmcs.read32(AT.SECONDARY_VM_EXEC_CONTROL);
    const primary = vmcs.read32(AT.CPU_BASED_VM_EXEC_CONTROL);
    if (once) vmcs.write32(AT.CPU_BASED_VM_EXEC_CONTROL, primary & ~CPU_BASED.mask.INVLPG_EXITING);
    vmcs.write32(AT.SECONDARY_VM_EXEC_CONTROL, controls | SECONDARY.mask.ENABLE_EPT | SECONDARY.mask.UNRESTRICTED_GUEST);
    vmcs.write64(AT.EPT_POINTER, eptPointer(root));
    const outcome = vmx.vmlaunch();
    let alive = outcome === 'entered';
    if (alive) {
      cpu.setTimer(cpu.instructions + instructions, () => {
        this.#timerPending = true;
        cpu.eventsChanged();
      });
      alive = cpu.run().kind === 'vmexit';
    }
    this.#timerPending = false;
    vmcs.write32(AT.SECONDARY_VM_EXEC_CONTROL, controls);
    if (once) vmcs.write32(AT.CPU_BASED_VM_EXEC_CONTROL, primary);
    if (outcome !== 'entered') vmcs.write32(REGION.LAUNCH_STATE, launched);
    host.u8.set(cpu.state.u8);
    host.set32(OFFSET.TLB, bank);
    hardware.cpu.engine.memoryChanged();
    return outcome === 'entered' && !alive ? 'abort' : outcome;
  }
}

const processors = new WeakMap<Hardware, SoftwareProcessor>();

/** Runs one VM's vCPUs in software while the hardware cannot. */
export class Interpreter {
  /** The software processor's second stage. */
  readonly view: LazyEpt;
  readonly #hardware: Hardware;
  /** Instructions that were run here. */
  instructions = 0;

  constructor(vm: SoftVm) {
    this.#hardware = vm.hardware;
    this.view = new LazyEpt(vm);
  }

  /** Runs the vCPU. Its VMCS holds the guest's own control registers; only CR3 and PAE's four registers are put there now. */
  run(vcpu: SoftVcpu, context: ShadowContext, instructions: number, once: boolean): EntryOutcome {
    const hardware = this.#hardware;
    let processor = processors.get(hardware);
    if (!processor) {
      processor = new SoftwareProcessor(hardware);
      processors.set(hardware, processor);
    }
    hardware.write(FIELD.GUEST_CR3, context.cr3);
    if (context.mode.format === FORMAT.pae)
      for (const n of [0, 1, 2, 3] as const) hardware.write(FIELD[`GUEST_PDPTR${n}`], context.pdptrs[n] as bigint);
    const real = (Number(vcpu.cr0 & 0xffn) & CR0.PE) === 0;
    const before = hardware.cpu.instructions;
    const outcome = processor.run(hardware, this.view.ept.root, Math.min(instructions, once ? 1 : real ? instructions : BURST), once);
    this.instructions += hardware.cpu.instructions - before;
    return outcome;
  }
}
