// # System instructions, by their encodings
//
// What they do is TypeScript and comes later in this chapter; here is only how to recognise them.

import { systemInstruction } from './encoding.ts';

// @clause x86.exception.undefined-opcode
/** Every undefined encoding decodes to this one, and so do the three that are undefined for ever, for programs that want the exception. */
export const UNDEFINED = systemInstruction('UD', '0F0B; 0FB9 Gv,Ev; 0FFF Gv,Ev', 'ud');

// biome-ignore format: table
export const SYSTEM = [
  // Interrupts and far transfers
  systemInstruction('INT3', 'CC', 'int3'),
  systemInstruction('INT', 'CD Ib', 'intN'),
  systemInstruction('INTO', 'CE no64', 'into'),
  systemInstruction('INT1', 'F1', 'int1'),
  systemInstruction('IRET', 'CF', 'iret'),
  systemInstruction('JMP FAR', 'EA Ap no64; FF/5 Mp', 'farJmp'),
  systemInstruction('CALL FAR', '9A Ap no64; FF/3 Mp', 'farCall'),
  systemInstruction('RET FAR', 'CB; CA Iw', 'farRet'),

  // Segment registers
  systemInstruction('MOV Sreg', '8E Sw,Ew', 'movToSreg'),
  systemInstruction('MOV from Sreg', '8C Ev,Sw', 'movFromSreg'),
  systemInstruction('POP Sreg', '07 no64; 17 no64; 1F no64; 0FA1 d64; 0FA9 d64', 'popSreg'),
  systemInstruction('LES LDS LSS LFS LGS', 'C4 Gv,M no64; C5 Gv,M no64; 0FB2 Gv,M; 0FB4 Gv,M; 0FB5 Gv,M', 'loadFarPointer'),

  // Control and debug registers
  systemInstruction('MOV CR', '0F22 Cv f64', 'movToCr'),
  systemInstruction('MOV from CR', '0F20 Cv f64', 'movFromCr'),
  systemInstruction('MOV DR', '0F23 Dv f64', 'movToDr'),
  systemInstruction('MOV from DR', '0F21 Dv f64', 'movFromDr'),
  systemInstruction('CLTS', '0F06', 'clts'),
  systemInstruction('LMSW', '0F01/6 Ew', 'lmsw'),
  systemInstruction('SMSW', '0F01/4 Ev', 'smsw'),

  // Descriptor tables and segment checks
  systemInstruction('SGDT', '0F01/0 M', 'sgdt'),
  systemInstruction('SIDT', '0F01/1 M', 'sidt'),
  systemInstruction('LGDT', '0F01/2 M', 'lgdt'),
  systemInstruction('LIDT', '0F01/3 M', 'lidt'),
  systemInstruction('SLDT', '0F00/0 Ev', 'sldt'),
  systemInstruction('STR', '0F00/1 Ev', 'str'),
  systemInstruction('LLDT', '0F00/2 Ew', 'lldt'),
  systemInstruction('LTR', '0F00/3 Ew', 'ltr'),
  systemInstruction('VERR', '0F00/4 Ew', 'verr'),
  systemInstruction('VERW', '0F00/5 Ew', 'verw'),
  systemInstruction('LAR', '0F02 Gv,Ew', 'lar'),
  systemInstruction('LSL', '0F03 Gv,Ew', 'lsl'),
  systemInstruction('ARPL', '63 Ew,Gw no64', 'arpl'),

  // Translation and caches
  systemInstruction('INVLPG', '0F01/7 M', 'invlpg'),
  systemInstruction('INVPCID', '66.0F3882 Gy,M', 'invpcid'),
  systemInstruction('INVD', '0F08', 'invd'),
  systemInstruction('WBINVD', '0F09', 'wbinvd'),

  // Machine state
  systemInstruction('CPUID', '0FA2', 'cpuid'),
  systemInstruction('WRMSR', '0F30', 'wrmsr'),
  systemInstruction('RDTSC', '0F31', 'rdtsc'),
  systemInstruction('RDMSR', '0F32', 'rdmsr'),
  systemInstruction('RDPMC', '0F33', 'rdpmc'),
  systemInstruction('RDTSCP', '0F01/F9', 'rdtscp'),
  systemInstruction('HLT', 'F4', 'hlt'),
  systemInstruction('PAUSE', 'F3.90', 'pause'),
  systemInstruction('MONITOR', '0F01/C8', 'monitor'),
  systemInstruction('MWAIT', '0F01/C9', 'mwait'),
  systemInstruction('RDRAND', '0FC7/6 Rv norep RDRAND', 'rdrand'),
  systemInstruction('RDSEED', '0FC7/7 Rv norep RDSEED', 'rdseed'),
  systemInstruction('RSM', '0FAA', 'rsm'),

  // Ports
  systemInstruction('IN', 'E4 AL,Ib; E5 eAX,Ib; EC AL; ED eAX', 'in'),
  systemInstruction('OUT', 'E6 AL,Ib; E7 eAX,Ib; EE AL; EF eAX', 'out'),
  systemInstruction('INS', '6C Yb; 6D Yz', 'ins'),
  systemInstruction('OUTS', '6E Xb; 6F Xz', 'outs'),

  // Flags
  systemInstruction('CLI', 'FA', 'cli'),
  systemInstruction('STI', 'FB', 'sti'),
  systemInstruction('PUSHF', '9C d64', 'pushf'),
  systemInstruction('POPF', '9D d64', 'popf'),
  systemInstruction('CLAC', '0F01/CA', 'clac'),
  systemInstruction('STAC', '0F01/CB', 'stac'),

  // Fast system calls, segment bases
  systemInstruction('SYSCALL', '0F05', 'syscall'),
  systemInstruction('SYSRET', '0F07', 'sysret'),
  systemInstruction('SYSENTER', '0F34', 'sysenter'),
  systemInstruction('SYSEXIT', '0F35', 'sysexit'),
  systemInstruction('SWAPGS', '0F01/F8 only64', 'swapgs'),
  systemInstruction('RDFSBASE', 'F3.0FAE/0 Ry only64', 'rdfsbase'),
  systemInstruction('RDGSBASE', 'F3.0FAE/1 Ry only64', 'rdgsbase'),
  systemInstruction('WRFSBASE', 'F3.0FAE/2 Ry only64', 'wrfsbase'),
  systemInstruction('WRGSBASE', 'F3.0FAE/3 Ry only64', 'wrgsbase'),

  // Virtualization
  systemInstruction('VMCALL', '0F01/C1', 'vmcall'),
  systemInstruction('VMLAUNCH', '0F01/C2', 'vmlaunch'),
  systemInstruction('VMRESUME', '0F01/C3', 'vmresume'),
  systemInstruction('VMXOFF', '0F01/C4', 'vmxoff'),
  systemInstruction('VMFUNC', '0F01/D4', 'vmfunc'),
  systemInstruction('VMMCALL', '0F01/D9', 'vmmcall'),
  systemInstruction('VMXON', 'F3.0FC7/6 M', 'vmxon'),
  systemInstruction('VMCLEAR', '66.0FC7/6 M', 'vmclear'),
  systemInstruction('VMPTRLD', '0FC7/6 M', 'vmptrld'),
  systemInstruction('VMPTRST', '0FC7/7 M', 'vmptrst'),
  systemInstruction('VMREAD', '0F78 Ev,Gv f64', 'vmread'),
  systemInstruction('VMWRITE', '0F79 Gv,Ev f64', 'vmwrite'),
  systemInstruction('INVEPT', '66.0F3880 Gy,M', 'invept'),
  systemInstruction('INVVPID', '66.0F3881 Gy,M', 'invvpid'),

  // Extended state: as much as a kernel needs to switch it
  systemInstruction('XGETBV', '0F01/D0', 'xgetbv'),
  systemInstruction('XSETBV', '0F01/D1', 'xsetbv'),
  systemInstruction('FXSAVE', '0FAE/0 M', 'fxsave'),
  systemInstruction('FXRSTOR', '0FAE/1 M', 'fxrstor'),
];
