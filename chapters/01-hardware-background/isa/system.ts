// # System instructions, by their encodings
//
// What they do is TypeScript and comes later in this chapter; here is only how to recognise them.

import { OFFSET, SEG } from '../state.ts';
import { type Builder, selectorOf } from './builder.ts';
import { systemInstruction } from './encoding.ts';
import { NONE } from './instruction.ts';

// Some come by the million, and nearly always find things as usual. For these there are micro-operations that know the usual case; see
// `engine/micro-ops/system.ts` and the file after it.

/** Makes the skip in record `at` lead to the record after the last: TypeScript's. */
function declineAt(b: Builder, at: number): void {
  (b.micros[at] as { imm: bigint }).imm = BigInt(b.micros.length - (at + 1));
}
function pushFlags(b: Builder): void {
  const flags = b.temporary();
  b.emit('system.unlessV86');
  b.emit('system.flags', { d: flags });
  b.push(flags, b.insn.operandSize);
  b.emit('system.done');
  declineAt(b, 0);
}
function popFlags(b: Builder): void {
  const { operandSize } = b.insn;
  b.emit('system.unlessV86');
  const image = b.peek(operandSize);
  const change = b.micros.length;
  b.emit(`system.setFlags.${operandSize}`, { a: image });
  b.release(operandSize);
  b.emit('system.done');
  declineAt(b, 0);
  declineAt(b, change);
}
const port = (name: string) => (b: Builder) => b.emit(`${name}.${b.insn.bytes}`, { imm: b.insn.immediate ? b.insn.imm & 0xffn : -1n });
const controlRegister: Readonly<Record<number, number>> = { 0: OFFSET.CR0, 2: OFFSET.CR2, 3: OFFSET.CR3, 4: OFFSET.CR4 };
function loadCr(b: Builder): void {
  if (b.insn.reg === 3) b.emit(`system.setCr3.${b.code64 ? 8 : 4}`, { a: 8 * b.insn.rm });
}
function readCr(b: Builder): void {
  const at = controlRegister[b.insn.reg];
  if (at !== undefined) b.emit(`system.getCr.${b.code64 ? 8 : 4}`, { d: 8 * b.insn.rm, imm: BigInt(at) });
}
function readSelector(b: Builder): void {
  const to = b.registerOf(0);
  if (to === NONE || b.insn.reg > SEG.GS) return;
  b.emit(b.bytes(0) === 2 ? 'mov.2' : `movzx.2.${b.bytes(0)}`, { d: to, a: selectorOf(b.insn.reg) });
  b.emit('system.done');
}
function invlpg(b: Builder): void {
  const { segment, addressSize } = b.insn;
  if (b.isDirect(segment, addressSize, 0)) b.emit('system.invlpg', { a: b.offset() });
}
const returnToLong = (b: Builder): void => {
  if (b.insn.operandSize === 8) b.emit('system.sysret');
};

// @clause x86.exception.undefined-opcode
/** Every undefined encoding decodes to this one, and so do the three that are undefined for ever, for programs that want the exception. */
export const UNDEFINED = systemInstruction('UD', '0F0B; 0FB9 Gv,Ev; 0FFF Gv,Ev', 'ud');

// biome-ignore format: table
export const SYSTEM = [
  // Interrupts and far transfers
  systemInstruction('INT3', 'CC', 'int3'), // breakpoint
  systemInstruction('INT', 'CD Ib', 'intN', (b) => b.emit('system.interrupt', { imm: b.insn.imm & 0xffn })), // calls an interrupt handler
  systemInstruction('INTO', 'CE no64', 'into'), // calls the overflow handler if OF is set
  systemInstruction('INT1', 'F1', 'int1'), // debug trap
  systemInstruction('IRET', 'CF', 'iret', (b) => b.emit('system.return', { imm: BigInt(b.insn.operandSize) })), // returns from an interrupt handler
  systemInstruction('JMP FAR', 'EA Ap no64; FF/5 Mp', 'farJmp'), // jumps to another segment, gate or task
  systemInstruction('CALL FAR', '9A Ap no64; FF/3 Mp', 'farCall'), // calls another segment, gate or task
  systemInstruction('RET FAR', 'CB; CA Iw', 'farRet'), // returns to another segment

  // Segment registers
  systemInstruction('MOV Sreg', '8E Sw,Ew', 'movToSreg'), // loads a segment register
  systemInstruction('MOV from Sreg', '8C Ev,Sw', 'movFromSreg', readSelector), // stores a segment register
  systemInstruction('POP Sreg', '07 no64; 17 no64; 1F no64; 0FA1 d64; 0FA9 d64', 'popSreg'), // pops a segment register
  systemInstruction('LES LDS LSS LFS LGS', 'C4 Gv,M no64; C5 Gv,M no64; 0FB2 Gv,M; 0FB4 Gv,M; 0FB5 Gv,M', 'loadFarPointer'),

  // Control and debug registers
  systemInstruction('MOV CR', '0F22 Cv f64', 'movToCr', loadCr), // loads a control register
  systemInstruction('MOV from CR', '0F20 Cv f64', 'movFromCr', readCr), // stores a control register
  systemInstruction('MOV DR', '0F23 Dv f64', 'movToDr'), // loads a debug register
  systemInstruction('MOV from DR', '0F21 Dv f64', 'movFromDr'), // stores a debug register
  systemInstruction('CLTS', '0F06', 'clts'), // clears CR0.TS
  systemInstruction('LMSW', '0F01/6 Ew', 'lmsw'), // loads the low bits of CR0
  systemInstruction('SMSW', '0F01/4 Ev', 'smsw'), // stores CR0

  // Descriptor tables and segment checks
  systemInstruction('SGDT', '0F01/0 M', 'sgdt'), // stores GDTR
  systemInstruction('SIDT', '0F01/1 M', 'sidt'), // stores IDTR
  systemInstruction('LGDT', '0F01/2 M', 'lgdt'), // loads GDTR
  systemInstruction('LIDT', '0F01/3 M', 'lidt'), // loads IDTR
  systemInstruction('SLDT', '0F00/0 Ev', 'sldt'), // stores the LDT's selector
  systemInstruction('STR', '0F00/1 Ev', 'str'), // stores the task's selector
  systemInstruction('LLDT', '0F00/2 Ew', 'lldt'), // loads LDTR
  systemInstruction('LTR', '0F00/3 Ew', 'ltr'), // loads the task register
  systemInstruction('VERR', '0F00/4 Ew', 'verr'), // may the segment be read?
  systemInstruction('VERW', '0F00/5 Ew', 'verw'), // may the segment be written?
  systemInstruction('LAR', '0F02 Gv,Ew', 'lar'), // a segment's access rights
  systemInstruction('LSL', '0F03 Gv,Ew', 'lsl'), // a segment's limit
  systemInstruction('ARPL', '63 Ew,Gw no64', 'arpl'), // raises a selector's RPL to another's

  // Translation and caches
  systemInstruction('INVLPG', '0F01/7 M', 'invlpg', invlpg), // forgets a page's translations
  systemInstruction('INVPCID', '66.0F3882 Gy,M INVPCID', 'invpcid'), // forgets translations by address space
  systemInstruction('INVD', '0F08', 'invd'), // empties the caches
  systemInstruction('WBINVD', '0F09', 'wbinvd'), // writes the caches back and empties them

  // Machine state
  systemInstruction('CPUID', '0FA2', 'cpuid'), // what the processor is and has
  systemInstruction('WRMSR', '0F30 MSR', 'wrmsr'), // writes a model-specific register
  systemInstruction('RDTSC', '0F31 TSC', 'rdtsc', (b) => b.emit('system.rdtsc')), // reads the time stamp counter
  systemInstruction('RDMSR', '0F32 MSR', 'rdmsr'), // reads a model-specific register
  systemInstruction('RDPMC', '0F33', 'rdpmc'), // reads a performance counter
  systemInstruction('RDTSCP', '0F01/F9 RDTSCP', 'rdtscp', (b) => b.emit('system.rdtscp')), // reads the time stamp counter and the processor's number
  systemInstruction('HLT', 'F4', 'hlt'), // waits for an interrupt
  systemInstruction('PAUSE', 'F3.90', 'pause', (b) => b.emit('system.pause')), // tells that this is a loop that waits
  systemInstruction('MONITOR', '0F01/C8 MONITOR', 'monitor'), // names the line for MWAIT
  systemInstruction('MWAIT', '0F01/C9 MONITOR', 'mwait'), // waits for a store or an interrupt
  systemInstruction('RDRAND', '0FC7/6 Rv norep RDRAND', 'rdrand'), // a random number
  systemInstruction('RDSEED', '0FC7/7 Rv norep RDSEED', 'rdseed'), // a random number, for seeds
  systemInstruction('RSM', '0FAA', 'rsm'), // returns from system management mode

  // Ports
  systemInstruction('IN', 'E4 AL,Ib; E5 eAX,Ib; EC AL; ED eAX', 'in', port('system.in')), // reads a port
  systemInstruction('OUT', 'E6 AL,Ib; E7 eAX,Ib; EE AL; EF eAX', 'out', port('system.out')), // writes a port
  systemInstruction('INS', '6C Yb; 6D Yz', 'ins'), // reads a port into a string
  systemInstruction('OUTS', '6E Xb; 6F Xz', 'outs'), // writes a string to a port

  // Flags
  systemInstruction('CLI', 'FA', 'cli', (b) => b.emit('system.cli')), // clears IF: no interrupts
  systemInstruction('STI', 'FB', 'sti', (b) => b.emit('system.sti')), // sets IF: interrupts, after the next instruction
  systemInstruction('PUSHF', '9C d64', 'pushf', pushFlags), // pushes the flags
  systemInstruction('POPF', '9D d64', 'popf', popFlags), // pops the flags
  systemInstruction('CLAC', '0F01/CA SMAP', 'clac'), // clears AC: no access to user pages
  systemInstruction('STAC', '0F01/CB SMAP', 'stac'), // sets AC: access to user pages

  // Fast system calls, segment bases
  systemInstruction('SYSCALL', '0F05 SYSCALL', 'syscall', (b) => b.emit('system.syscall')), // calls the system, 64-bit
  systemInstruction('SYSRET', '0F07 SYSCALL', 'sysret', returnToLong), // returns from a SYSCALL
  systemInstruction('SYSENTER', '0F34 SEP', 'sysenter', (b) => b.emit('system.sysenter')), // calls the system
  systemInstruction('SYSEXIT', '0F35 SEP', 'sysexit', (b) => b.emit(`system.sysexit.${b.insn.operandSize === 8 ? 8 : 4}`)), // returns from a SYSENTER
  systemInstruction('SWAPGS', '0F01/F8 only64', 'swapgs', (b) => b.emit('system.swapgs')), // exchanges the base of GS with the kernel's
  systemInstruction('RDFSBASE', 'F3.0FAE/0 Ry only64 FSGSBASE', 'rdfsbase'), // reads the base of FS
  systemInstruction('RDGSBASE', 'F3.0FAE/1 Ry only64 FSGSBASE', 'rdgsbase'), // reads the base of GS
  systemInstruction('WRFSBASE', 'F3.0FAE/2 Ry only64 FSGSBASE', 'wrfsbase'), // writes the base of FS
  systemInstruction('WRGSBASE', 'F3.0FAE/3 Ry only64 FSGSBASE', 'wrgsbase'), // writes the base of GS

  // Virtualization
  systemInstruction('VMCALL', '0F01/C1 VMX', 'vmcall'), // calls the hypervisor
  systemInstruction('VMLAUNCH', '0F01/C2 VMX', 'vmlaunch'), // enters a guest for the first time
  systemInstruction('VMRESUME', '0F01/C3 VMX', 'vmresume'), // enters a guest again
  systemInstruction('VMXOFF', '0F01/C4 VMX', 'vmxoff'), // leaves VMX operation
  systemInstruction('VMFUNC', '0F01/D4 VMX', 'vmfunc'), // a function of the hypervisor without an exit
  systemInstruction('VMMCALL', '0F01/D9', 'vmmcall'), // calls the hypervisor, on AMD's processors
  systemInstruction('VMXON', 'F3.0FC7/6 M VMX', 'vmxon'), // begins VMX operation
  systemInstruction('VMCLEAR', '66.0FC7/6 M VMX', 'vmclear'), // writes a VMCS back, unlaunched
  systemInstruction('VMPTRLD', '0FC7/6 M VMX', 'vmptrld'), // makes a VMCS the current one
  systemInstruction('VMPTRST', '0FC7/7 M VMX', 'vmptrst'), // stores the address of the current VMCS
  systemInstruction('VMREAD', '0F78 Ev,Gv f64 VMX', 'vmread'), // reads a field of the VMCS
  systemInstruction('VMWRITE', '0F79 Gv,Ev f64 VMX', 'vmwrite'), // writes a field of the VMCS
  systemInstruction('INVEPT', '66.0F3880 Gy,M VMX', 'invept'), // forgets translations by EPT
  systemInstruction('INVVPID', '66.0F3881 Gy,M VMX', 'invvpid'), // forgets translations by virtual processor

  // Extended state: as much as a kernel needs to switch it
  systemInstruction('XGETBV', '0F01/D0 XSAVE', 'xgetbv'), // reads an extended control register
  systemInstruction('XSETBV', '0F01/D1 bare XSAVE', 'xsetbv'), // writes an extended control register
];
