// # Finding out what a kernel can run
//
// A case that a kernel cannot run is *unsupported* there, not failed, and the difference has to be established by something other than the case
// itself. So before the first case, a handful of programs of a few bytes are run, one for each capability. Each ends by writing to a port when all
// went well. Whatever else happens (an emulation failure, a shutdown, no interrupt taken) is the measured reason that the report then gives.

import { CAP } from '../../chapters/02-kvm-objects/abi/capabilities.ts';
import { EXIT } from '../../chapters/02-kvm-objects/abi/exits.ts';
import { Errno } from '../../chapters/02-kvm-objects/errno.ts';
import type { Kernel } from '../../chapters/02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu } from '../../chapters/02-kvm-objects/kvm.ts';
import { cpuFeatures } from './cpu-features.ts';

const RAM_BYTES = 0x20000;
const CODE = 0x1000;
const HANDLER = 0x2000;
const IDT = 0x3000;
const GDT = 0x4000;
const TSS = 0x4800;
const STACK = 0x7000;
const USER_CODE = 0x9000;
const TABLES = 0x10000;
const OK_PORT = 0xf4;

type Mode = 'real' | 'protected' | 'paged' | 'pae' | 'long';

interface Program {
  readonly capability: string;
  readonly mode: Mode;
  /** Machine code at CODE; it has to reach OK_PORT, by itself or through the handler. */
  readonly code: string;
  /** Machine code at USER_CODE, which CODE enters by IRET. */
  readonly user?: string;
  /** The one vector that has a handler. Any other event ends in a shutdown, so that an unexpected exception is not taken for the expected one. */
  readonly vector?: number;
}

const OUT = 'e6 f4 f4'; // out 0xf4, al; hlt
/** Pushes the five words that IRETQ takes to privilege level 3, and goes there. */
const ENTER_USER = '6a 23 68 00 80 00 00 6a 02 6a 2b 68 00 90 00 00 48 cf';
/** Pushes what IRET takes to virtual-8086 mode (GS, FS, DS, ES, SS, ESP, EFLAGS with VM, CS, EIP) and goes to 0900:0000, where CLI is refused. */
const V86 = '6a 00 6a 00 6a 00 6a 00 6a 00 68 00 80 00 00 68 02 00 02 00 68 00 09 00 00 6a 00 cf';

/** Makes a task of its own (a descriptor in slot 18h, a segment at 5000h that starts at USER_CODE on flat segments) and jumps to it. */
const TASK = [
  'c7 05 18 40 00 00 67 00 00 50',
  'c7 05 1c 40 00 00 00 89 00 00',
  'c7 05 20 50 00 00 00 90 00 00',
  'c7 05 24 50 00 00 02 00 00 00',
  'c7 05 38 50 00 00 00 70 00 00',
  'c7 05 4c 50 00 00 08 00 00 00',
  'c7 05 50 50 00 00 10 00 00 00',
  'c7 05 54 50 00 00 10 00 00 00',
  'ea 00 00 00 00 18 00',
].join(' ');

// biome-ignore format: table
const PROGRAMS: readonly Program[] = [
  { capability: 'kvm-real-mode', mode: 'real', code: OUT },
  { capability: 'protected-mode', mode: 'protected', code: OUT },
  { capability: 'protected-paging', mode: 'paged', code: OUT },
  { capability: 'pae', mode: 'pae', code: OUT },
  { capability: 'protected-interrupts', mode: 'protected', vector: 3, code: 'cc' }, // int3
  { capability: 'protected-v86', mode: 'protected', vector: 13, code: V86, user: 'fa' },
  { capability: 'protected-tasks', mode: 'protected', code: TASK, user: OUT },
  { capability: 'kvm-long-mode', mode: 'long', code: OUT },
  { capability: 'long-mode', mode: 'long', code: OUT },
  { capability: 'long-interrupts', mode: 'long', vector: 0x30, code: 'cd 30' }, // int 0x30
  { capability: 'user-mode', mode: 'long', vector: 0x30, code: ENTER_USER, user: 'cd 30' },
  { capability: 'syscall', mode: 'long', code: ENTER_USER, user: '0f 05' },
  { capability: 'sysenter', mode: 'long', code: ENTER_USER, user: '0f 34' },
  { capability: 'single-step', mode: 'long', vector: 1, code: '68 02 01 00 00 9d 90 90' }, // push 0x102; popf; nop; nop: with TF set, the handler is entered
  { capability: 'x87', mode: 'long', code: `9b db e3 d9 e8 d8 c0 ${OUT}` }, // finit; fld1; fadd st0, st0
  { capability: 'sse', mode: 'long', code: `0f 58 c1 ${OUT}` }, // addps xmm0, xmm1
  { capability: 'mmx', mode: 'long', code: `0f fc c1 ${OUT}` }, // paddb mm0, mm1
  { capability: 'sse4', mode: 'long', code: `66 0f 38 40 c1 f3 0f b8 c1 ${OUT}` }, // pmulld xmm0, xmm1; popcnt eax, ecx
  { capability: 'bmi', mode: 'long', code: `c4 e2 78 f2 c1 f3 0f bd c1 ${OUT}` }, // andn eax, eax, ecx; lzcnt eax, ecx
  { capability: 'cx16', mode: 'long', code: `48 0f c7 0c 25 00 60 00 00 ${OUT}` }, // cmpxchg16b [6000h]
  { capability: 'nx', mode: 'long', code: `b9 80 00 00 c0 0f 32 0f ba e8 0b 0f 30 ${OUT}` }, // EFER.NXE := 1
];

const bytesOf = (text: string): Uint8Array => Uint8Array.from(text.split(' ').filter(Boolean), (pair) => Number.parseInt(pair, 16));

// ## A processor in each mode

const FLAT_CODE32 = { base: 0n, limit: 0xffffffff, selector: 0x08, type: 11, present: 1, dpl: 0, db: 1, s: 1, l: 0, g: 1, avl: 0, unusable: 0 };
const FLAT_DATA = { ...FLAT_CODE32, selector: 0x10, type: 3 };

function fillTables(ram: Uint8Array, mode: Mode, vector: number | undefined): void {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  if (mode === 'paged') view.setUint32(TABLES, 0x87, true); // one 4 MiB page: needs CR4.PSE
  if (mode === 'pae') {
    view.setBigUint64(TABLES, BigInt(TABLES + 0x1000) | 1n, true);
    view.setBigUint64(TABLES + 0x1000, 0x87n, true);
  }
  if (mode === 'long') {
    view.setBigUint64(TABLES, BigInt(TABLES + 0x1000) | 7n, true);
    view.setBigUint64(TABLES + 0x1000, BigInt(TABLES + 0x2000) | 7n, true);
    view.setBigUint64(TABLES + 0x2000, 0x87n, true);
  }
  const gdt = [0n, 0x00cf9b000000ffffn, 0x00cf93000000ffffn, 0n, 0x00cff3000000ffffn, 0x00affb000000ffffn, 0x00af9b000000ffffn, 0x00cf93000000ffffn];
  for (const [index, descriptor] of gdt.entries()) view.setBigUint64(GDT + 8 * index, descriptor, true);
  view.setBigUint64(GDT + 0x40, (0x8900n << 32n) | (BigInt(TSS & 0xffff) << 16n) | 0x67n, true);
  view.setBigUint64(TSS + 4, BigInt(STACK), true); // RSP0 of a 64-bit TSS; ESP0 at the same place in a 32-bit one
  if (vector === undefined) return;
  const [bytes, selector] = mode === 'long' ? [16, 0x30] : [8, 0x08];
  view.setUint32(IDT + bytes * vector, (selector << 16) | HANDLER, true);
  view.setUint32(IDT + bytes * vector + 4, 0xee00, true); // present, level 3 may call it, interrupt gate
}

function setUp(vcpu: Vcpu, mode: Mode): void {
  const sregs = vcpu.getSregs();
  if (mode === 'real') {
    sregs.cs = { ...sregs.cs, base: 0n, selector: 0 };
    vcpu.setSregs(sregs);
    vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE), rsp: BigInt(STACK), rflags: 2n });
    return;
  }
  const long = mode === 'long';
  const code = long ? { ...FLAT_CODE32, selector: 0x30, db: 0, l: 1 } : FLAT_CODE32;
  const data = long ? { ...FLAT_DATA, selector: 0x38 } : FLAT_DATA;
  vcpu.setSregs({
    ...sregs,
    cs: code,
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    tr: { ...FLAT_DATA, base: BigInt(TSS), limit: 0x67, selector: 0x40, type: 11, s: 0, g: 0, db: 0 },
    gdt: { base: BigInt(GDT), limit: 0x4f },
    idt: { base: BigInt(IDT), limit: 0x3ff },
    cr0: mode === 'protected' ? 0x11n : 0x80000011n,
    cr3: BigInt(TABLES),
    cr4: { protected: 0n, paged: 0x10n, pae: 0x20n, long: 0x220n }[mode], // PSE; PAE; PAE and OSFXSR
    efer: long ? 0x501n : 0n, // LMA, LME, SCE
  });
  vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE), rsp: BigInt(STACK), rflags: 2n });
}

/** Runs one program; null when it worked, else what happened instead. */
function attempt(kernel: Kernel, program: Program): string | null {
  const kvm = Kvm.open(kernel);
  try {
    const vm = kvm.createVm();
    const { hva, bytes: ram } = kvm.allocate(RAM_BYTES);
    try {
      vm.tryIoctl('KVM_SET_TSS_ADDR', 0xfffbd000);
      vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: RAM_BYTES, userspace_addr: hva });
      const vcpu = vm.createVcpu(0);
      try {
        vcpu.setCpuid2(kvm.getSupportedCpuid());
        fillTables(ram, program.mode, program.vector);
        ram.set(bytesOf(program.code), CODE);
        ram.set(bytesOf(program.user ?? ''), USER_CODE);
        ram.set(bytesOf(OUT), HANDLER);
        setUp(vcpu, program.mode);
        if (program.user !== undefined && program.mode === 'long') setCallMsrs(vcpu);
        return outcome(vcpu);
      } finally {
        vcpu.close();
      }
    } finally {
      vm.close();
      kernel.free(hva);
    }
  } catch (error) {
    if (error instanceof Errno) return error.message;
    throw error;
  } finally {
    kvm.close();
  }
}

function setCallMsrs(vcpu: Vcpu): void {
  vcpu.setMsrs([
    { index: 0xc0000081, data: (0x18n << 48n) | (0x30n << 32n) }, // STAR: user selectors from 0x18, kernel code 0x30
    { index: 0xc0000082, data: BigInt(HANDLER) }, // LSTAR
    { index: 0x174, data: 0x30n }, // SYSENTER_CS, _ESP, _EIP
    { index: 0x175, data: BigInt(STACK) },
    { index: 0x176, data: BigInt(HANDLER) },
  ]);
}

function outcome(vcpu: Vcpu): string | null {
  for (let tries = 0; tries < 100; tries++) {
    const reason = vcpu.run();
    if (reason === EXIT.KVM_EXIT_INTR) continue;
    if (reason === EXIT.KVM_EXIT_IO && vcpu.page.view.getUint16(34, true) === OK_PORT) return null;
    return `a probe ended in ${vcpu.page.describe()}`;
  }
  return 'a probe did not come to an end';
}

// biome-ignore format: table
const BY_CAPABILITY: readonly (readonly [string, keyof typeof CAP])[] = [
  ['kvm-irqchip', 'KVM_CAP_IRQCHIP'], ['kvm-readonly-memory', 'KVM_CAP_READONLY_MEM'], ['kvm-nmi', 'KVM_CAP_USER_NMI'],
  ['kvm-dirty-log', 'KVM_CAP_USER_MEMORY'], ['kvm-guest-debug', 'KVM_CAP_SET_GUEST_DEBUG'],
  ['kvm-interrupt-shadow', 'KVM_CAP_INTR_SHADOW'], ['kvm-user-memory2', 'KVM_CAP_USER_MEMORY2'],
  ['kvm-manual-protect', 'KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2'], ['kvm-dirty-ring', 'KVM_CAP_DIRTY_LOG_RING_ACQ_REL'],
  ['kvm-split-irqchip', 'KVM_CAP_SPLIT_IRQCHIP'], ['kvm-irq-routing', 'KVM_CAP_IRQ_ROUTING'], ['kvm-signal-msi', 'KVM_CAP_SIGNAL_MSI'],
  ['kvm-irqfd', 'KVM_CAP_IRQFD'], ['kvm-irqfd-resample', 'KVM_CAP_IRQFD_RESAMPLE'], ['kvm-ioeventfd', 'KVM_CAP_IOEVENTFD'],
  ['kvm-pit', 'KVM_CAP_PIT2'], ['kvm-clock', 'KVM_CAP_ADJUST_CLOCK'],
];

export interface Probed {
  readonly capabilities: readonly string[];
  readonly missing: Readonly<Record<string, string>>;
}

/** Tries everything. Takes a few milliseconds on a real kernel. */
export function probeKernel(kernel: Kernel): Probed {
  const capabilities: string[] = [];
  const missing: Record<string, string> = {};
  const note = (capability: string, problem: string | null): void => {
    if (problem === null) capabilities.push(capability);
    else missing[capability] = problem;
  };
  for (const program of PROGRAMS) note(program.capability, attempt(kernel, program));
  const kvm = Kvm.open(kernel);
  for (const [capability, cap] of BY_CAPABILITY) note(capability, kvm.checkExtension(CAP[cap]) > 0 ? null : `KVM_CHECK_EXTENSION ${cap} is 0`);
  const leaves = kvm.getSupportedCpuid();
  kvm.close();
  // A kernel that emulates its guests offers instructions that only the processor behind it has: both have to agree.
  const offered = cpuFeatures((leaf, register) => leaves.find((l) => l.function === leaf)?.[register]);
  for (const name of offered.capabilities) if (!(name in missing) && !capabilities.includes(name)) capabilities.push(name);
  for (const [name, why] of Object.entries(offered.missing)) missing[name] ??= why;
  const has = (leaf: number, register: 'ebx' | 'ecx' | 'edx', bit: number): boolean =>
    leaves.some((l) => l.function === leaf && ((l[register] >>> bit) & 1) === 1);
  note('huge-pages', has(0x80000001, 'edx', 26) ? null : 'KVM_GET_SUPPORTED_CPUID offers no 1 GiB pages');
  return { capabilities: capabilities.filter((name) => !(name in missing)), missing };
}
