// # Instructions that the interpreter hands on
//
// Most instructions move and combine numbers; those are micro-operations. The rest reach into the machine itself: descriptor tables, control
// registers, interrupts, other privilege levels, the hypervisor. They are rare, they are long, and half of what they do is to decide whether they
// may. So the decoder only recognises them, and a TypeScript function carries them out. This is the list of their
// names, {{SYSTEM_OPS.length}} of them.
//
// One name may stand for several encodings with one meaning (`movToSreg` is opcode 8E; `popSreg` covers POP DS and POP FS). What an operation needs
// to know it finds in the decoded `Instruction`: the operand size, the ModRM fields, the immediate.

/** Names of the system instructions, as `EngineHost.system` receives them. */
// biome-ignore format: table
export const SYSTEM_OPS = [
  // Interrupts. int3 CC, intN CD (imm), into CE, int1 F1.
  'int3', 'intN', 'into', 'int1', 'iret',
  // Far transfers. Direct forms (EA, 9A): imm = offset, selector = selector. Indirect (FF /5, FF /3): the operand is in memory (mod != 3).
  // farRet: imm = bytes to release (0 for CB).
  'farJmp', 'farCall', 'farRet',
  // Segment registers: number in `reg` (ModRM forms) or `target` (popSreg, loadFarPointer; the latter's general register is `reg`).
  'movToSreg', 'movFromSreg', 'popSreg', 'loadFarPointer',
  // Control and debug registers: number in `reg` (REX.R included, so CR8 is 8), general register in `rm`.
  'movToCr', 'movFromCr', 'movToDr', 'movFromDr', 'clts', 'lmsw', 'smsw',
  'lgdt', 'lidt', 'sgdt', 'sidt', 'lldt', 'ltr', 'sldt', 'str', 'lar', 'lsl', 'verr', 'verw', 'arpl',
  'invlpg', 'invpcid', 'wbinvd', 'invd', 'cpuid', 'rdmsr', 'wrmsr', 'rdtsc', 'rdtscp', 'rdpmc', 'hlt',
  // Ports. `bytes` is the width of the access; imm the port when `immediate` is true, otherwise it is DX.
  'in', 'out', 'ins', 'outs',
  'syscall', 'sysret', 'sysenter', 'sysexit', 'cli', 'sti', 'pushf', 'popf', 'clac', 'stac',
  'swapgs', 'rdfsbase', 'rdgsbase', 'wrfsbase', 'wrgsbase', 'monitor', 'mwait', 'pause',
  // Random numbers, into the register in `rm`.
  'rdrand', 'rdseed',
  // VMX (and AMD's VMMCALL).
  'vmcall', 'vmmcall', 'vmxon', 'vmxoff', 'vmptrld', 'vmptrst', 'vmclear', 'vmread', 'vmwrite', 'vmlaunch', 'vmresume', 'invept', 'invvpid', 'vmfunc',
  // Extended state.
  'xgetbv', 'xsetbv', 'xsave', 'xsaveopt', 'xrstor', 'fxsave', 'fxrstor', 'fnsave', 'frstor', 'fnstenv', 'fldenv',
  // Functions of the x87.
  'f2xm1', 'fyl2x', 'fptan', 'fpatan', 'fxtract', 'fprem1', 'fprem', 'fyl2xp1', 'fsincos', 'fscale', 'fsin', 'fcos',
  'rsm',
  // Every undefined encoding, UD2 included: raise #UD.
  'ud',
] as const;

export type SystemOp = (typeof SYSTEM_OPS)[number];
