import { describe, expect, it } from 'vitest';
import { Cpu } from '../cpu.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { AR, CR0, CR4, EFER, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { CAPABILITY, CPU_BASED, ENTRY, EXIT, PIN, SECONDARY } from './controls.ts';
import { EXIT_REASON, exitReasonName } from './exit-reasons.ts';
import { LONG_MODE_SEGMENTS } from './laboratory.ts';
import { EVENT_TYPE } from './processor.ts';
import { FIELD, type FieldName, REVISION_ID } from './vmcs.ts';
import { VmxUnit } from './vmx.ts';

// Real guests on the real engine and MMU. Host memory: tables and regions below 64 KiB, guest RAM from 4 MiB, seen by the guest at 0.
const HOST_PML4 = 0x1000;
const VMXON_REGION = 0x4000;
const VMCS_REGION = 0x5000;
const EPT_PML4 = 0x8000;
const MSR_BITMAP = 0xc000;
const GUEST_RAM = 0x40_0000;
const UNMAPPED_GPA = 0x10_0000;

const CODE = 0x1_0000;
const HANDLER = 0x1_1000;
const STACK = 0x2_0000;
const GUEST_GDT = 0x9000;
const GUEST_IDT = 0xa000;

const { mask: C } = CPU_BASED;
const { mask: S } = SECONDARY;
const required = ({ trueDefault1 }: { trueDefault1: number }): number => trueDefault1;

class Machine {
  readonly memory = new PhysicalMemory({ ramBytes: 8 << 20 });
  readonly cpu = new Cpu({ memory: this.memory });
  readonly vmx = new VmxUnit(this.cpu);

  constructor() {
    this.cpu.vmx = this.vmx;
    const { state } = this.cpu;
    // Identity mapping of the first 8 MiB for the host.
    this.words(HOST_PML4, [0x2003n]);
    this.words(0x2000, [0x3003n]);
    this.words(0x3000, [0x83n, 0x20_0083n, 0x40_0083n, 0x60_0083n]);
    for (const page of [VMXON_REGION, VMCS_REGION]) this.memory.view.setUint32(this.memory.offset(page), REVISION_ID, true);
    state.set64(OFFSET.CR0, 0x8005_0033n);
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.VMXE));
    state.set64(OFFSET.CR3, BigInt(HOST_PML4));
    state.set64(OFFSET.EFER, BigInt(EFER.LME | EFER.LMA));
    for (const seg of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS, SEG.CS, SEG.TR]) {
      state.setSegSelector(seg, seg === SEG.CS ? 8 : seg === SEG.TR ? 0x40 : 0x10);
      state.setSegBase(seg, 0n);
      state.setSegLimit(seg, 0xffff_ffff);
      state.setSegRights(seg, seg === SEG.CS ? 0xa09b : seg === SEG.TR ? 0x8b : 0xc093);
    }
    state.setSegRights(SEG.LDTR, AR.UNUSABLE);
    this.cpu.modeChanged();
  }

  words(hpa: number, values: readonly bigint[]): void {
    values.forEach((value, i) => {
      this.memory.view.setBigUint64(this.memory.offset(hpa + 8 * i, 8), value, true);
    });
  }
  guestBytes(gpa: number, bytes: readonly number[]): void {
    this.memory.slice(GUEST_RAM + gpa, bytes.length).set(bytes);
  }
  guestWord(gpa: number): bigint {
    return this.memory.view.getBigUint64(this.memory.offset(GUEST_RAM + gpa, 8), true);
  }
  write(fields: Readonly<Record<string, number | bigint>>): void {
    for (const [name, value] of Object.entries(fields)) this.vmx.vmwrite(FIELD[name as FieldName], BigInt(value));
  }
  read(name: FieldName): bigint {
    return this.vmx.vmread(FIELD[name]);
  }

  /** EPT: guest-physical 0 to 2 MiB on guest RAM, with one page left out. */
  ept(): void {
    this.words(EPT_PML4, [0x9007n]);
    this.words(0x9000, [0xa007n]);
    this.words(0xa000, [0xb007n]);
    this.words(
      0xb000,
      Array.from({ length: 512 }, (_, i) => (i * 4096 === UNMAPPED_GPA ? 0n : BigInt(GUEST_RAM + i * 4096) | 0x37n)),
    );
  }

  /** VMXON, and a VMCS for a guest under EPT with everything that follows still to be written. */
  launchable({ cpuBased = 0, pin = 0, entry = 0 } = {}): void {
    this.ept();
    expect(this.vmx.vmxon(VMXON_REGION)).toBe('succeed');
    expect(this.vmx.vmclear(VMCS_REGION)).toBe('succeed');
    expect(this.vmx.vmptrld(VMCS_REGION)).toBe('succeed');
    this.memory.slice(MSR_BITMAP, 4096).fill(0);
    this.write({
      PIN_BASED_VM_EXEC_CONTROL: required(CAPABILITY.pin) | pin,
      CPU_BASED_VM_EXEC_CONTROL:
        (required(CAPABILITY.cpuBased) | C.ACTIVATE_SECONDARY_CONTROLS | C.HLT_EXITING | C.UNCOND_IO_EXITING | C.USE_MSR_BITMAPS | cpuBased) >>> 0,
      SECONDARY_VM_EXEC_CONTROL: S.ENABLE_EPT | S.UNRESTRICTED_GUEST | S.ENABLE_VPID,
      VIRTUAL_PROCESSOR_ID: 1,
      VM_EXIT_CONTROLS: required(CAPABILITY.exit) | EXIT.mask.HOST_ADDR_SPACE_SIZE | EXIT.mask.SAVE_IA32_EFER | EXIT.mask.LOAD_IA32_EFER,
      VM_ENTRY_CONTROLS: required(CAPABILITY.entry) | ENTRY.mask.LOAD_IA32_EFER | entry,
      EPT_POINTER: EPT_PML4 | 0x1e,
      MSR_BITMAP,
      VMCS_LINK_POINTER: 0xffff_ffff_ffff_ffffn,
      HOST_CR0: 0x8005_0033,
      HOST_CR3: HOST_PML4,
      HOST_CR4: CR4.PAE | CR4.VMXE,
      HOST_IA32_EFER: EFER.LME | EFER.LMA,
      HOST_CS_SELECTOR: 8,
      HOST_SS_SELECTOR: 0x10,
      HOST_DS_SELECTOR: 0x10,
      HOST_ES_SELECTOR: 0x10,
      HOST_TR_SELECTOR: 0x40,
      HOST_RIP: 0xffff_8000_0000_0000n,
      HOST_RSP: 0xffff_8000_0000_8000n,
      GUEST_CR4: CR4.VMXE,
      GUEST_DR7: 0x400,
      GUEST_RFLAGS: 2,
      GUEST_RSP: STACK,
      GUEST_RIP: CODE,
      GUEST_TR_SELECTOR: 0x18,
      GUEST_TR_AR_BYTES: 0x8b,
      GUEST_TR_LIMIT: 0x67,
      GUEST_LDTR_AR_BYTES: AR.UNUSABLE,
    });
  }

  /** A 64-bit guest with identity paging of its first 2 MiB, a GDT, and an IDT whose vector 0x31 and 14 lead to HANDLER. */
  longGuest(code: readonly number[], options: Parameters<Machine['launchable']>[0] = {}): this {
    this.launchable({ ...options, entry: ENTRY.mask.IA32E_MODE });
    this.words(GUEST_RAM + 0x1000, [0x2003n]);
    this.words(GUEST_RAM + 0x2000, [0x3003n]);
    this.words(GUEST_RAM + 0x3000, [0x83n]);
    this.words(GUEST_RAM + GUEST_GDT, [0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn]);
    for (const vector of [0x0e, 0x31, 0x80]) {
      const gate = BigInt(HANDLER & 0xffff) | (8n << 16n) | (0x8e00n << 32n) | (BigInt(HANDLER >>> 16) << 48n);
      this.words(GUEST_RAM + GUEST_IDT + vector * 16, [gate, 0n]);
    }
    this.write({
      GUEST_CR0: 0x8001_0031,
      GUEST_CR3: 0x1000,
      GUEST_CR4: CR4.PAE | CR4.VMXE,
      GUEST_IA32_EFER: EFER.LME | EFER.LMA,
      GUEST_CS_SELECTOR: 8,
      GUEST_CS_AR_BYTES: 0xa09b,
      GUEST_CS_LIMIT: 0xffff_ffff,
      GUEST_GDTR_BASE: GUEST_GDT,
      GUEST_GDTR_LIMIT: 0x17,
      GUEST_IDTR_BASE: GUEST_IDT,
      GUEST_IDTR_LIMIT: 0xfff,
    });
    for (const name of ['SS', 'DS', 'ES', 'FS', 'GS'])
      this.write({ [`GUEST_${name}_SELECTOR`]: 0x10, [`GUEST_${name}_AR_BYTES`]: 0xc093, [`GUEST_${name}_LIMIT`]: 0xffff_ffff });
    this.guestBytes(CODE, code);
    return this;
  }

  realGuest(code: readonly number[]): this {
    this.launchable();
    this.write({ GUEST_CR0: CR0.ET | CR0.NE, GUEST_IA32_EFER: 0, GUEST_RIP: 0x100, GUEST_RSP: 0x800, GUEST_IDTR_LIMIT: 0x3ff });
    for (const name of ['CS', 'SS', 'DS', 'ES', 'FS', 'GS'])
      this.write({
        [`GUEST_${name}_SELECTOR`]: 0x1000,
        [`GUEST_${name}_BASE`]: CODE,
        [`GUEST_${name}_AR_BYTES`]: name === 'CS' ? 0x9b : 0x93,
        [`GUEST_${name}_LIMIT`]: 0xffff,
      });
    this.guestBytes(CODE + 0x100, code);
    return this;
  }

  /** Enters, runs to the next VM exit, and answers its reason. */
  step(limit = 10_000): string {
    const outcome = this.#launched ? this.vmx.vmresume() : this.vmx.vmlaunch();
    if (outcome !== 'entered') return outcome;
    this.#launched = true;
    const stop = this.cpu.run(limit);
    expect(stop.kind).toBe('vmexit');
    expect(this.vmx.nonRoot).toBe(false);
    return exitReasonName(Number(this.read('VM_EXIT_REASON')));
  }
  #launched = false;

  /** What every hypervisor does after emulating an instruction. */
  skip(): void {
    this.write({ GUEST_RIP: this.read('GUEST_RIP') + this.read('VM_EXIT_INSTRUCTION_LEN') });
  }
}

describe('a 64-bit guest under EPT', () => {
  it('exits for CPUID, port I/O and HLT, with what the hypervisor needs to emulate them', () => {
    const machine = new Machine().longGuest([
      0x0f,
      0xa2, // cpuid
      0x89,
      0xd8, // mov eax, ebx
      0xe6,
      0x80, // out 0x80, al
      0x66,
      0xba,
      0xe0,
      0x05, // mov dx, 0x5e0
      0x66,
      0xed, // in ax, dx
      0x48,
      0x89,
      0x04,
      0x25,
      0x00,
      0x80,
      0x00,
      0x00, // mov [0x8000], rax
      0xf4, // hlt
    ]);
    expect(machine.step()).toBe('CPUID');
    expect(machine.read('VM_EXIT_INSTRUCTION_LEN')).toBe(2n);
    machine.cpu.state.setSlot(SLOT.RBX, 0x77n);
    machine.skip();
    expect(machine.step()).toBe('IO_INSTRUCTION');
    expect(machine.read('EXIT_QUALIFICATION')).toBe(0x80_0040n);
    expect(machine.cpu.state.slot(SLOT.RAX)).toBe(0x77n);
    machine.skip();
    expect(machine.step()).toBe('IO_INSTRUCTION');
    expect(machine.read('EXIT_QUALIFICATION')).toBe(0x5e0_0009n);
    machine.cpu.state.setSlot(SLOT.RAX, 0xbeefn);
    machine.skip();
    expect(machine.step()).toBe('HLT');
    expect(machine.read('GUEST_RIP')).toBe(BigInt(CODE + 20));
    expect(machine.guestWord(0x8000)).toBe(0xbeefn);
  });

  it('exits on an EPT violation with both addresses, and goes on once the page is there', () => {
    const machine = new Machine().longGuest([0x48, 0xc7, 0x04, 0x25, 0x08, 0x00, 0x10, 0x00, 0x2a, 0x00, 0x00, 0x00, 0xf4]); // mov qword [0x100008], 42; hlt
    expect(machine.step()).toBe('EPT_VIOLATION');
    expect(machine.read('GUEST_PHYSICAL_ADDRESS')).toBe(0x10_0008n);
    expect(machine.read('GUEST_LINEAR_ADDRESS')).toBe(0x10_0008n);
    expect(machine.read('EXIT_QUALIFICATION')).toBe(0x182n);
    expect(machine.read('GUEST_RIP')).toBe(BigInt(CODE));
    machine.words(0xb000 + 8 * (UNMAPPED_GPA >> 12), [BigInt(GUEST_RAM + UNMAPPED_GPA) | 0x37n]);
    expect(machine.step()).toBe('HLT');
    expect(machine.guestWord(UNMAPPED_GPA + 8)).toBe(42n);
  });

  it('sees a changed second-stage entry after INVEPT, and keeps its own changes over exits', () => {
    const machine = new Machine().longGuest([
      0x48,
      0x8b,
      0x04,
      0x25,
      0x00,
      0xc0,
      0x00,
      0x00, // mov rax, [0xc000]
      0x0f,
      0x01,
      0xc1, // vmcall
      0x48,
      0x8b,
      0x1c,
      0x25,
      0x00,
      0xc0,
      0x00,
      0x00, // mov rbx, [0xc000]
      0x0f,
      0x01,
      0xc1, // vmcall
      0x0f,
      0x20,
      0xda,
      0x0f,
      0x22,
      0xda, // mov rdx, cr3; mov cr3, rdx
      0x0f,
      0x01,
      0xc1, // vmcall
    ]);
    machine.words(GUEST_RAM + 0xc000, [0x1111n]);
    machine.words(GUEST_RAM + 0xd000, [0x2222n]);
    expect(machine.step()).toBe('VMCALL');
    expect(machine.cpu.state.slot(SLOT.RAX)).toBe(0x1111n);
    machine.words(0xb000 + 8 * 0xc, [BigInt(GUEST_RAM + 0xd000) | 0x37n]);
    expect(machine.vmx.invept(1, BigInt(EPT_PML4 | 0x1e))).toBe('succeed');
    machine.skip();
    expect(machine.step()).toBe('VMCALL');
    expect(machine.cpu.state.slot(SLOT.RBX)).toBe(0x2222n);
    machine.skip();
    expect(machine.step()).toBe('VMCALL');
    expect(machine.cpu.state.slot(SLOT.RDX)).toBe(0x1000n);
    expect(machine.read('GUEST_RIP')).toBe(BigInt(CODE + 28));
  });

  it('takes an injected interrupt through its own IDT', () => {
    const machine = new Machine().longGuest([0x90, 0xf4]);
    machine.guestBytes(HANDLER, [0xe6, 0x81, 0x48, 0xcf]); // out 0x81, al; iretq
    machine.write({ GUEST_RFLAGS: FLAG.IF | 2, VM_ENTRY_INTR_INFO_FIELD: 0x8000_0031n });
    expect(machine.step()).toBe('IO_INSTRUCTION');
    expect(machine.read('GUEST_RIP')).toBe(BigInt(HANDLER));
    expect(machine.read('VM_ENTRY_INTR_INFO_FIELD')).toBe(0x31n);
    expect(Number(machine.read('GUEST_RFLAGS')) & FLAG.IF).toBe(0); // an interrupt gate
    const rsp = Number(machine.read('GUEST_RSP'));
    expect(rsp).toBe(STACK - 40);
    expect([machine.guestWord(rsp), machine.guestWord(rsp + 8), machine.guestWord(rsp + 16)]).toEqual([BigInt(CODE), 8n, BigInt(FLAG.IF | 2)]);
    machine.skip();
    expect(machine.step()).toBe('HLT');
    expect(machine.read('GUEST_RIP')).toBe(BigInt(CODE + 1));
  });

  it('gets an injected exception with its error code, and a software interrupt with the RIP after INT n', () => {
    const fault = new Machine().longGuest([0x90]);
    fault.guestBytes(HANDLER, [0xf4]);
    fault.write({ VM_ENTRY_INTR_INFO_FIELD: 0x8000_0b0en, VM_ENTRY_EXCEPTION_ERROR_CODE: 6 });
    expect(fault.step()).toBe('HLT');
    const rsp = Number(fault.read('GUEST_RSP'));
    expect([fault.guestWord(rsp), fault.guestWord(rsp + 8)]).toEqual([6n, BigInt(CODE)]);

    const software = new Machine().longGuest([0xcd, 0x80]);
    software.guestBytes(HANDLER, [0xf4]);
    software.write({ VM_ENTRY_INTR_INFO_FIELD: 0x8000_0480n, VM_ENTRY_INSTRUCTION_LEN: 2 });
    expect(software.step()).toBe('HLT');
    expect(software.guestWord(Number(software.read('GUEST_RSP')))).toBe(BigInt(CODE + 2));
  });

  it('reports the event when its delivery meets an EPT violation', () => {
    const machine = new Machine().longGuest([0x90]);
    machine.write({ GUEST_RFLAGS: FLAG.IF | 2, GUEST_RSP: UNMAPPED_GPA + 0x800, VM_ENTRY_INTR_INFO_FIELD: 0x8000_0031n });
    expect(machine.step()).toBe('EPT_VIOLATION');
    expect(machine.read('IDT_VECTORING_INFO_FIELD')).toBe(0x8000_0031n);
    expect(machine.read('GUEST_RIP')).toBe(BigInt(CODE));
  });

  it('exits after each instruction under the monitor trap flag', () => {
    const machine = new Machine().longGuest([0x90, 0x48, 0xff, 0xc0, 0x90, 0xf4], { cpuBased: C.MONITOR_TRAP_FLAG }); // nop; inc rax; nop; hlt
    const seen: [string, number][] = [];
    for (let i = 0; i < 4; i++) seen.push([machine.step(), Number(machine.read('GUEST_RIP')) - CODE]);
    expect(seen).toEqual([
      ['MONITOR_TRAP_FLAG', 1],
      ['MONITOR_TRAP_FLAG', 4],
      ['MONITOR_TRAP_FLAG', 5],
      ['HLT', 5],
    ]);
  });

  it('exits when the interrupt window opens: after the instruction that follows STI', () => {
    const machine = new Machine().longGuest([0x90, 0xfb, 0x90, 0x90, 0xf4], { cpuBased: C.INTR_WINDOW_EXITING }); // nop; sti; nop; nop; hlt
    expect(machine.step()).toBe('INTERRUPT_WINDOW');
    expect(machine.read('GUEST_RIP')).toBe(BigInt(CODE + 3));
  });

  it('leaves for an external interrupt even with interrupts off, and acknowledges it when told to', () => {
    const machine = new Machine().longGuest([0xeb, 0xfe], { pin: PIN.mask.EXT_INTR_EXITING }); // jmp .
    let pending = true;
    machine.cpu.setInterruptSource({
      pending: () => pending,
      acknowledge: () => {
        pending = false;
        return 0x55;
      },
    });
    expect(machine.step()).toBe('EXTERNAL_INTERRUPT');
    expect([machine.read('VM_EXIT_INTR_INFO'), pending]).toEqual([0n, true]);
    machine.write({ VM_EXIT_CONTROLS: machine.read('VM_EXIT_CONTROLS') | BigInt(EXIT.mask.ACK_INTR_ON_EXIT) });
    expect(machine.step()).toBe('EXTERNAL_INTERRUPT');
    expect([machine.read('VM_EXIT_INTR_INFO'), pending]).toEqual([0x8000_0055n, false]);
  });

  it('exits on its exceptions by bitmap, otherwise on the triple fault', () => {
    const bitmap = new Machine().longGuest([0x0f, 0x0b]); // ud2
    bitmap.write({ EXCEPTION_BITMAP: 1 << 6 });
    expect(bitmap.step()).toBe('EXCEPTION_NMI');
    expect(bitmap.read('VM_EXIT_INTR_INFO')).toBe(BigInt(0x8000_0006 + (EVENT_TYPE.HARDWARE_EXCEPTION << 8)));
    const triple = new Machine().longGuest([0x0f, 0x0b]);
    triple.write({ GUEST_IDTR_LIMIT: 0 });
    expect(triple.step()).toBe('TRIPLE_FAULT');
    expect(triple.read('GUEST_RIP')).toBe(BigInt(CODE));
  });

  it('exits for every VMX instruction it tries', () => {
    const machine = new Machine().longGuest([0x0f, 0x01, 0xc1, 0x0f, 0x01, 0xc4, 0x0f, 0x79, 0xc8, 0x0f, 0xc7, 0x34, 0x25, 0x00, 0x60, 0x00, 0x00]);
    const seen: string[] = [];
    for (let i = 0; i < 4; i++) {
      seen.push(machine.step());
      machine.skip();
    }
    expect(seen).toEqual(['VMCALL', 'VMOFF', 'VMWRITE', 'VMPTRLD']);
    expect(machine.read('EXIT_QUALIFICATION')).toBe(0x6000n);
  });
});

describe('an unrestricted guest', () => {
  it('runs in real mode, at a segment base of its own', () => {
    const machine = new Machine().realGuest([
      0xb8,
      0x34,
      0x12, // mov ax, 0x1234
      0xa3,
      0x00,
      0x04, // mov [0x400], ax
      0xe6,
      0xe9, // out 0xe9, al
      0xf4, // hlt
    ]);
    expect(machine.step()).toBe('IO_INSTRUCTION');
    expect(machine.read('EXIT_QUALIFICATION')).toBe(0xe9_0040n);
    machine.skip();
    expect(machine.step()).toBe('HLT');
    expect(machine.read('GUEST_RIP')).toBe(0x108n);
    expect(machine.guestWord(CODE + 0x400) & 0xffffn).toBe(0x1234n);
  });

  it('takes an injected interrupt through the interrupt vector table', () => {
    const machine = new Machine().realGuest([0x90]);
    machine.guestBytes(4 * 8, [0x00, 0x02, 0x00, 0x10]); // vector 8: 1000:0200
    machine.guestBytes(CODE + 0x200, [0xf4]);
    machine.write({ GUEST_RFLAGS: FLAG.IF | 2, VM_ENTRY_INTR_INFO_FIELD: 0x8000_0008n });
    expect(machine.step()).toBe('HLT');
    expect(machine.read('GUEST_RIP')).toBe(0x200n);
    expect(machine.guestWord(CODE + 0x7fa) & 0xffff_ffff_ffffn).toBe(0x0202_1000_0100n);
  });
});

describe('a hypervisor in machine code', () => {
  it('enters a guest, emulates its CPUID, and leaves VMX operation when the guest calls', () => {
    // biome-ignore format: listing
    const code = [
      0xf3, 0x0f, 0xc7, 0x34, 0x25, 0x00, 0x60, 0x00, 0x00, // 00 vmxon [0x6000]
      0x76, 0x31, // 09 jbe fail
      0x66, 0x0f, 0xc7, 0x34, 0x25, 0x08, 0x60, 0x00, 0x00, // 0b vmclear [0x6008]
      0x76, 0x26, // 14 jbe fail
      0x0f, 0xc7, 0x34, 0x25, 0x08, 0x60, 0x00, 0x00, // 16 vmptrld [0x6008]
      0x76, 0x1c, // 1e jbe fail
      0xbe, 0x00, 0x61, 0x00, 0x00, // 20 mov esi, 0x6100
      0x48, 0x8b, 0x06, // 25 next: mov rax, [rsi]
      0x83, 0xf8, 0xff, // 28 cmp eax, -1
      0x74, 0x0c, // 2b je enter
      0x0f, 0x79, 0x46, 0x08, // 2d vmwrite rax, [rsi+8]
      0x76, 0x09, // 31 jbe fail
      0x48, 0x83, 0xc6, 0x10, // 33 add rsi, 16
      0xeb, 0xec, // 37 jmp next
      0x0f, 0x01, 0xc2, // 39 enter: vmlaunch
      0xc7, 0x04, 0x25, 0x18, 0x60, 0x00, 0x00, 0xad, 0x0b, 0x00, 0x00, // 3c fail: mov dword [0x6018], 0xbad
      0xf4, // 47 hlt
      0xb9, 0x02, 0x44, 0x00, 0x00, // 48 exit: mov ecx, VM_EXIT_REASON
      0x0f, 0x78, 0x0c, 0x25, 0x20, 0x60, 0x00, 0x00, // 4d vmread [0x6020], rcx
      0xff, 0x04, 0x25, 0x28, 0x60, 0x00, 0x00, // 55 inc dword [0x6028]
      0x83, 0x3c, 0x25, 0x20, 0x60, 0x00, 0x00, 0x0a, // 5c cmp dword [0x6020], CPUID
      0x75, 0x19, // 64 jne stop
      0xbb, 0x67, 0x6e, 0x69, 0x52, // 66 mov ebx, 'Ring' backwards
      0xb9, 0x1e, 0x68, 0x00, 0x00, // 6b mov ecx, GUEST_RIP
      0x0f, 0x78, 0xc8, // 70 vmread rax, rcx
      0x48, 0x83, 0xc0, 0x02, // 73 add rax, 2
      0x0f, 0x79, 0xc8, // 77 vmwrite rcx, rax
      0x0f, 0x01, 0xc3, // 7a vmresume
      0xeb, 0xbd, // 7d jmp fail
      0x0f, 0x01, 0xc4, // 7f stop: vmxoff
      0xc7, 0x04, 0x25, 0x18, 0x60, 0x00, 0x00, 0x0d, 0x60, 0x00, 0x00, // 82 mov dword [0x6018], 0x600d
      0xf4, // 8d hlt
      0x0f, 0xa2, // 8e guest: cpuid
      0x89, 0x1c, 0x25, 0x30, 0x60, 0x00, 0x00, // 90 mov [0x6030], ebx
      0x0f, 0x01, 0xc1, // 97 vmcall
    ];
    const BASE = 0x7000;
    const machine = new Machine();
    const { memory, cpu } = machine;
    memory.slice(BASE, code.length).set(code);
    machine.words(0x6000, [BigInt(VMXON_REGION), BigInt(VMCS_REGION)]);
    const fields: Record<string, number | bigint> = {
      PIN_BASED_VM_EXEC_CONTROL: required(CAPABILITY.pin),
      CPU_BASED_VM_EXEC_CONTROL: required(CAPABILITY.cpuBased),
      VM_EXIT_CONTROLS: required(CAPABILITY.exit) | EXIT.mask.HOST_ADDR_SPACE_SIZE,
      VM_ENTRY_CONTROLS: required(CAPABILITY.entry) | ENTRY.mask.IA32E_MODE,
      VMCS_LINK_POINTER: 0xffff_ffff_ffff_ffffn,
      HOST_CR0: 0x8005_0033,
      HOST_CR3: HOST_PML4,
      HOST_CR4: CR4.PAE | CR4.VMXE,
      HOST_CS_SELECTOR: 8,
      HOST_SS_SELECTOR: 0x10,
      HOST_DS_SELECTOR: 0x10,
      HOST_TR_SELECTOR: 0x40,
      HOST_RIP: BASE + 0x48,
      HOST_RSP: 0xf000,
      GUEST_CR0: 0x8005_0033,
      GUEST_CR3: HOST_PML4,
      GUEST_CR4: CR4.PAE | CR4.VMXE,
      GUEST_DR7: 0x400,
      GUEST_RFLAGS: 2,
      GUEST_RIP: BASE + 0x8e,
      GUEST_RSP: 0xe000,
      ...LONG_MODE_SEGMENTS,
    };
    const list = Object.entries(fields).flatMap(([name, value]) => [BigInt(FIELD[name as FieldName]), BigInt(value) & 0xffff_ffff_ffff_ffffn]);
    machine.words(0x6100, [...list, 0xffff_ffffn]);
    cpu.state.setSlot(SLOT.RIP, BigInt(BASE));
    cpu.state.setSlot(SLOT.NEXT_RIP, BigInt(BASE));
    expect(cpu.run(10_000).kind).toBe('halt');
    const word = (hpa: number): number => memory.view.getUint32(memory.offset(hpa), true);
    expect(word(0x6018).toString(16)).toBe('600d');
    expect([word(0x6028), word(0x6020)]).toEqual([2, EXIT_REASON.VMCALL]);
    expect(word(0x6030)).toBe(0x5269_6e67);
    expect(machine.vmx.operating).toBe(false);
  });
});
