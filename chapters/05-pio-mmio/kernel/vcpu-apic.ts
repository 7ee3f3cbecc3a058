// # The local APIC of a vCPU
//
// The model decides what the processor should see. What is left here is KVM's: where the guest finds the registers, what the chips outside have to add,
// and the two messages that are not interrupts.
//
// This APIC is emulated in full: each access to its page is an exit, an instruction decoded, a model called. Current processors can do most of it
// themselves (*APIC virtualization*). The guest then reads a page that the processor keeps; writes of TPR, EOI and self-IPI are carried out without an
// exit (*virtual-interrupt delivery*); and another core can put an interrupt into a running guest by setting a bit in memory and sending one special
// interrupt (*posted interrupts*). The trace shows what that would be worth: each `kvm_eoi` here is an exit that such a processor does not have.

import type { Trace } from '../../01-hardware-background/trace.ts';
import { MP_STATE } from '../../02-kvm-objects/abi/events.ts';
import type { Clock } from '../../02-kvm-objects/clock.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { VcpuInterruptController } from '../../02-kvm-objects/soft/interrupt-controller.ts';
import type { KernelDevice } from '../../02-kvm-objects/soft/io-bus.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { TSC_KHZ } from '../../02-kvm-objects/soft/virtual-clock.ts';
import type { Width } from '../../03-vcpu-loop/devices/bus.ts';
import { LocalApic, type LocalApicOptions } from '../interrupts/lapic.ts';
import { LAPIC_BYTES } from '../interrupts/lapic-registers.ts';
import type { KernelIrqchip } from './irqchip.ts';

const CPUID_X2APIC = 1 << 21; // leaf 1, ECX
const NONE = -1;
const MAX_NMIS = 2;

class TracedApic extends LocalApic {
  readonly #trace: Trace | null;

  constructor(options: LocalApicOptions, trace: Trace | null) {
    super(options);
    this.#trace = trace;
  }

  override deliver(mode: number, vector: number, level: boolean, levelTriggered: boolean): number {
    const taken = super.deliver(mode, vector, level, levelTriggered);
    if (taken > 0) this.#trace?.emit({ kind: 'kvm_apic_accept_irq', apic: this.id, mode, vector, levelTriggered });
    return taken;
  }
}

export class VcpuApic implements VcpuInterruptController {
  readonly vcpu: SoftVcpu;
  readonly apic: LocalApic;
  readonly page: KernelDevice;
  readonly #irqchip: KernelIrqchip;
  /** KVM_INTERRUPT's vector, from 8259s in user space. */
  queuedExternal: number = NONE;
  #init = false;
  #sipi = false;
  sipiVector = 0;
  /** A vector whose end the VMM's I/O APIC waits for; -1: none. */
  pendingEoi: number = NONE;

  constructor(vcpu: SoftVcpu, irqchip: KernelIrqchip, clock: Clock) {
    this.vcpu = vcpu;
    this.#irqchip = irqchip;
    const { hardware } = vcpu.vm;
    const options: LocalApicOptions = {
      id: vcpu.id,
      clock,
      bus: irqchip.bus,
      bootstrap: vcpu.id === vcpu.vm.bootVcpuId,
      physicalAddressBits: hardware.cpu.physicalAddressBits,
      suppressEoi: irqchip.mode.kind === 'split',
      tsc: { now: () => vcpu.tsc, khz: TSC_KHZ },
      onWake: () => {}, // there is one thread: whoever sleeps looks when it is called again
      onNmi: () => {
        vcpu.events.nmi.pending = Math.min(vcpu.events.nmi.pending + 1, MAX_NMIS);
      },
      onInit: () => {
        this.#init = true;
        this.#sipi = false;
      },
      onSipi: (vector) => {
        this.sipiVector = vector;
        this.#sipi = true;
      },
      onEoi: (vector, levelTriggered) => irqchip.eoi(this, vector, levelTriggered),
    };
    this.apic = new TracedApic(options, hardware.trace);
    this.page = {
      read: (address, bytes) => (this.#isMine(address) ? this.apic.registers.read(address - this.apic.baseAddress, bytes as Width) : null),
      write: (address, bytes, value) => {
        if (!this.#isMine(address)) return false;
        this.apic.registers.write(address - this.apic.baseAddress, bytes as Width, value);
        return true;
      },
    };
    vcpu.tscWatchers.push(() => this.apic.tscChanged());
  }

  #isMine(address: number): boolean {
    const { baseAddress } = this.apic;
    return address >= baseAddress && address < baseAddress + LAPIC_BYTES;
  }

  // ## Interrupts
  //
  // The 8259s come first, as long as this processor listens to them.

  get picInKernel(): boolean {
    return this.#irqchip.chips !== null;
  }

  /** Linux: `kvm_cpu_has_extint()`. */
  get #hasExternal(): boolean {
    const raised = this.#irqchip.chips ? this.#irqchip.chips.pic.output : this.queuedExternal !== NONE;
    return raised && this.apic.acceptsExtInt();
  }

  hasInterrupt(): boolean {
    return this.#hasExternal || this.apic.pending() >= 0;
  }

  // @clause kvm.irqchip.extint
  takeInterrupt(): number {
    if (!this.#hasExternal) return this.apic.acknowledge();
    if (this.#irqchip.chips) return this.#irqchip.chips.pic.acknowledge();
    const vector = this.queuedExternal;
    this.queuedExternal = NONE;
    return vector;
  }

  // @clause kvm.interrupt.with-irqchip
  queueExternal(vector: number): number {
    if (this.picInKernel) return -ERRNO.ENXIO;
    if (this.queuedExternal !== NONE) return -ERRNO.EEXIST;
    this.queuedExternal = vector;
    return 0;
  }

  get acceptsExternal(): boolean {
    return this.queuedExternal === NONE && this.apic.acceptsExtInt();
  }

  get cr8(): bigint {
    return BigInt(this.apic.cr8);
  }
  set cr8(value: bigint) {
    this.apic.cr8 = Number(value & 0xfn);
  }

  get apicBase(): bigint {
    return this.apic.apicBase;
  }
  setApicBase(value: bigint, host: boolean): boolean {
    this.apic.x2apicAllowed = ((this.vcpu.cpuid.find(1, 0)?.ecx ?? 0) & CPUID_X2APIC) !== 0;
    return this.apic.setApicBase(value, host);
  }

  // ## INIT and SIPI
  //
  // Between the two a processor executes nothing. INIT that arrives again makes it forget a SIPI; SIPI without INIT is nothing. The bootstrap processor
  // does not wait: it begins at the reset vector, which is how a reset from within works.

  get startupPending(): boolean {
    return this.#init || this.#sipi;
  }

  // @clause lapic.init-sipi
  acceptStartup(): void {
    const { vcpu } = this;
    if (this.#init) {
      this.#init = false;
      this.apic.init();
      vcpu.init();
      const bootstrap = vcpu.id === vcpu.vm.bootVcpuId;
      vcpu.mpState = bootstrap ? MP_STATE.KVM_MP_STATE_RUNNABLE : MP_STATE.KVM_MP_STATE_INIT_RECEIVED;
    }
    if (!this.#sipi) return;
    this.#sipi = false;
    if (vcpu.mpState !== MP_STATE.KVM_MP_STATE_INIT_RECEIVED) return;
    vcpu.startAt(this.sipiVector);
    vcpu.mpState = MP_STATE.KVM_MP_STATE_RUNNABLE;
  }

  startUp(): void {
    this.#sipi = true;
  }
}
