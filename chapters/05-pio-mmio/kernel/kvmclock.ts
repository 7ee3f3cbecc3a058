// # kvmclock: telling the guest the time without being asked
//
// A guest that wants the time reads a device, and each reading is an exit. But it has a clock without exits: the time stamp counter. All it lacks is
// what the counter means, and that can be written down once. The guest names a page by an MSR (number {{KVMCLOCK_MSR.SYSTEM_TIME_NEW.toString(16)}}
// in hexadecimal); the kernel writes there a moment of the counter, the time at that moment, and the factor between the two:
//
// ```text
// time = system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32)
// ```
//
// The kernel may have to write again while the guest reads (on real machines another core does the writing), so the structure carries a *version*: odd
// while it is being changed. A reader that sees an odd version, or two different ones before and after, reads again. There is nothing to lock, and a
// writer never waits for a reader.

import { layout, u8, u32le, u64le } from '../../01-hardware-background/layout.ts';
import { assert, type Gpa, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { CLOCK_FLAG, KvmClockData } from '../../02-kvm-objects/abi/eventfd.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { MsrRegister } from '../../02-kvm-objects/soft/msrs.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { TSC_KHZ, type VirtualClock } from '../../02-kvm-objects/soft/virtual-clock.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';

// ::layout PvclockTime -- What the guest reads: the version, a moment of the counter, the time at that moment, and the factor.

/** What a guest reads: `struct pvclock_vcpu_time_info`. */
export const PvclockTime = layout(
  'pvclock_vcpu_time_info',
  {
    version: u32le(0), // odd while the rest changes
    pad0: u32le(4),
    tsc_timestamp: u64le(8),
    system_time: u64le(16),
    tsc_to_system_mul: u32le(24),
    tsc_shift: u8(28), // signed
    flags: u8(29), // PVCLOCK
  },
  32,
);

// ::layout PvclockWall -- A second, smaller page tells the date.

/** The date at the moment when `system_time` was 0: `struct pvclock_wall_clock`. */
export const PvclockWall = layout('pvclock_wall_clock', { version: u32le(0), sec: u32le(4), nsec: u32le(8) });

/** `pvclock_vcpu_time_info.flags`. */
const PVCLOCK = { TSC_STABLE: 1, GUEST_STOPPED: 2 } as const;

export const KVMCLOCK_MSR = { WALL_CLOCK: 0x11, SYSTEM_TIME: 0x12, WALL_CLOCK_NEW: 0x4b564d00, SYSTEM_TIME_NEW: 0x4b564d01 } as const;

const NS_PER_SECOND = 1_000_000_000n;
const ENABLE = 1n;
/** What KVM_GET_CLOCK can say of a clock that is the time stamp counter, on a machine that knows no date. */
export const CLOCK_FLAGS = CLOCK_FLAG.KVM_CLOCK_TSC_STABLE | CLOCK_FLAG.KVM_CLOCK_HOST_TSC;

// ## The factor
//
// The product of a 64-bit difference and a 32-bit multiplier must fit, and the multiplier must have as many significant bits as there are. So the counter's
// frequency is first shifted until it lies between one and two times a thousand million.

/** Multiplier and shift that make nanoseconds of a counter at `khz`. Linux: `kvm_get_time_scale()`. */
function timeScale(khz: number): { readonly mul: number; readonly shift: number } {
  assert(khz > 0, 'a counter that counts');
  let shift = 0;
  let hz = BigInt(khz) * 1000n;
  for (; hz > 2n * NS_PER_SECOND || hz >> 32n; shift--) hz >>= 1n;
  for (; hz <= NS_PER_SECOND; shift++) hz <<= 1n;
  return { mul: Number((NS_PER_SECOND << 32n) / hz), shift };
}

const SCALE = timeScale(TSC_KHZ);

interface Page {
  /** The MSR. */
  value: bigint;
  version: number;
  /** KVM_KVMCLOCK_CTRL: the guest was stopped on purpose; its watchdogs should know. */
  stopped: boolean;
}

/** The clock of one VM. */
export class KvmClock {
  readonly #vm: SoftVm;
  readonly #clock: VirtualClock;
  readonly #epochNs: bigint;
  /** Guest time less the kernel's. */
  #offset: bigint;
  #wall = 0n;
  readonly #pages = new Map<SoftVcpu, Page>();

  /** `epochSeconds`: the date, in seconds since 1970, when the kernel's clock was 0. */
  constructor(vm: SoftVm, clock: VirtualClock, epochSeconds: number) {
    this.#vm = vm;
    this.#clock = clock;
    this.#epochNs = BigInt(epochSeconds) * NS_PER_SECOND;
    this.#offset = -BigInt(clock.now());
  }

  attach(vcpu: SoftVcpu): void {
    vcpu.tscWatchers.push(() => this.#update(vcpu));
  }

  /** Guest time in nanoseconds. Linux: `get_kvmclock_ns()`. */
  get now(): bigint {
    return BigInt(this.#clock.now()) + this.#offset;
  }

  // ## The VMM's side
  //
  // A machine that was saved goes on later, elsewhere, where another clock shows another time. The guest's must go on from where it stood.

  // @clause kvm.clock.get
  get(bytes: Uint8Array, view: DataView): number {
    bytes.fill(0, 0, KvmClockData.bytes);
    KvmClockData.store(view, 0, { clock: this.now, flags: CLOCK_FLAGS, host_tsc: this.#vm.hardware.tsc });
    return 0;
  }

  // @clause kvm.clock.set
  set(view: DataView): number {
    const { clock, flags } = KvmClockData.load(view);
    if (flags & ~CLOCK_FLAGS) return -ERRNO.EINVAL;
    this.#offset = BigInt.asIntN(64, clock) - BigInt(this.#clock.now());
    for (const vcpu of this.#pages.keys()) this.#update(vcpu);
    return 0;
  }

  /** KVM_KVMCLOCK_CTRL. Linux: `kvm_set_guest_paused()`. */
  pause(vcpu: SoftVcpu): number {
    const page = this.#pages.get(vcpu);
    if (!page || this.#gpa(page) === null) return -ERRNO.EINVAL;
    page.stopped = true;
    this.#update(vcpu);
    return 0;
  }

  // ## The guest's side

  /** Where the structure is; null when the guest has not asked for it, or has named what cannot hold it. */
  #gpa({ value }: Page): Gpa | null {
    if (!(value & ENABLE)) return null;
    const gpa = Number(value & ~ENABLE);
    if ((gpa % PAGE_BYTES) + PvclockTime.bytes > PAGE_BYTES) return null;
    return this.#vm.hpaOf(gpa, false) < 0 ? null : gpa;
  }

  #view(gpa: Gpa, bytes: number): DataView | null {
    const hpa = this.#vm.hpaOf(gpa, true);
    if (hpa < 0) return null;
    const slice = this.#vm.hardware.memory.slice(hpa, bytes);
    this.#vm.wroteGuest(gpa, hpa, bytes);
    return new DataView(slice.buffer, slice.byteOffset, slice.length);
  }

  // @clause kvm.pvclock.version
  /** Linux: `kvm_guest_time_update()`, `kvm_setup_guest_pvclock()`. */
  #update(vcpu: SoftVcpu): void {
    const page = this.#pages.get(vcpu);
    const gpa = page ? this.#gpa(page) : null;
    const view = gpa === null ? null : this.#view(gpa, PvclockTime.bytes);
    if (!page || !view) return;
    const before = PvclockTime.load(view);
    const stopped = page.stopped || (before.flags & PVCLOCK.GUEST_STOPPED) !== 0 ? PVCLOCK.GUEST_STOPPED : 0; // the guest takes it back itself
    page.stopped = false;
    page.version = ((before.version + 1) | 1) >>> 0;
    PvclockTime.store(view, 0, { version: page.version });
    PvclockTime.store(view, 0, {
      tsc_timestamp: vcpu.tsc,
      system_time: BigInt.asUintN(64, this.now),
      tsc_to_system_mul: SCALE.mul,
      tsc_shift: SCALE.shift & 0xff,
      flags: PVCLOCK.TSC_STABLE | stopped,
    });
    page.version = (page.version + 1) >>> 0;
    PvclockTime.store(view, 0, { version: page.version });
  }

  // @clause kvm.pvclock.wall
  /** Linux: `kvm_write_wall_clock()`. */
  #writeWall(gpa: Gpa): void {
    if (gpa === 0 || (gpa % PAGE_BYTES) + PvclockWall.bytes > PAGE_BYTES) return;
    const view = this.#view(gpa, PvclockWall.bytes);
    if (!view) return;
    const { version } = PvclockWall.load(view);
    const odd = (version + 1) | 1;
    PvclockWall.store(view, 0, { version: odd >>> 0 });
    const boot = this.#epochNs + BigInt(this.#clock.now()) - this.now;
    PvclockWall.store(view, 0, { sec: Number(BigInt.asUintN(32, boot / NS_PER_SECOND)), nsec: Number(boot % NS_PER_SECOND) });
    PvclockWall.store(view, 0, { version: (odd + 1) >>> 0 });
  }

  systemTime(vcpu: SoftVcpu): bigint {
    return this.#pages.get(vcpu)?.value ?? 0n;
  }
  setSystemTime(vcpu: SoftVcpu, value: bigint): void {
    this.#pages.set(vcpu, { value, version: 0, stopped: false });
    this.#update(vcpu);
  }
  get wallClock(): bigint {
    return this.#wall;
  }
  set wallClock(value: bigint) {
    this.#wall = value;
    this.#writeWall(Number(value));
  }
}

/** The MSRs by which a guest finds it, under their old numbers and their new ones. `of` finds the clock of a vCPU's VM. */
export function kvmclockMsrs(of: (vcpu: SoftVcpu) => KvmClock): Map<number, MsrRegister> {
  const system: MsrRegister = {
    get: (vcpu) => of(vcpu).systemTime(vcpu),
    set(vcpu, value) {
      of(vcpu).setSystemTime(vcpu, value);
      return true;
    },
  };
  const wall: MsrRegister = {
    get: (vcpu) => of(vcpu).wallClock,
    set(vcpu, value) {
      of(vcpu).wallClock = value;
      return true;
    },
  };
  return new Map([
    [KVMCLOCK_MSR.WALL_CLOCK, wall],
    [KVMCLOCK_MSR.SYSTEM_TIME, system],
    [KVMCLOCK_MSR.WALL_CLOCK_NEW, wall],
    [KVMCLOCK_MSR.SYSTEM_TIME_NEW, system],
  ]);
}
