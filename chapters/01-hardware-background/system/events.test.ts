import { describe, expect, it } from 'vitest';
import { writeFlags } from '../engine/flags.ts';
import { CR0, CR4, EFER, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { EVENT_TYPE } from '../vmx/processor.ts';
import { classOf, combine } from './exceptions.ts';
import { Lab, PLACE, SELECTOR } from './laboratory.ts';

const le32 = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, (n >>> 24) & 0xff];
const UD2 = [0x0f, 0x0b];
const exceptions = (lab: Lab): [number, number | null][] => lab.trace.of('exception').map(({ vector, errorCode }) => [vector, errorCode]);

describe('double-fault classification', () => {
  // The table of the manual, row by row: first exception, then what each class of second makes of it.
  const E = EVENT_TYPE.HARDWARE_EXCEPTION;
  it('classes', () => {
    const of = (wanted: string): number[] => Array.from({ length: 32 }, (_, v) => v).filter((v) => classOf(v, E) === wanted);
    expect(of('contributory')).toEqual([0, 10, 11, 12, 13, 21]);
    expect(of('page-fault')).toEqual([14, 20]);
    expect(of('double-fault')).toEqual([8]);
    expect(classOf(13, EVENT_TYPE.SOFTWARE_INTERRUPT)).toBe('benign'); // INT 13 is not a #GP
    expect(classOf(14, EVENT_TYPE.EXTERNAL)).toBe('benign');
  });
  for (const [first, benign, contributory, pageFault] of [
    ['benign', 'serial', 'serial', 'serial'],
    ['contributory', 'serial', 'double', 'serial'],
    ['page-fault', 'serial', 'double', 'double'],
    ['double-fault', 'serial', 'triple', 'triple'],
  ] as const)
    it(first, () =>
      expect([combine(first, 'benign'), combine(first, 'contributory'), combine(first, 'page-fault')]).toEqual([benign, contributory, pageFault]),
    );
});

describe('gates', () => {
  const int = (n: number): number[] => [0xcd, n];
  const cases: [string, (lab: Lab) => void, number[], string][] = [
    ['beyond the IDT', (lab) => lab.state.set32(OFFSET.IDTR_LIMIT, 8 * 0x40 - 1), int(0x40), '#GP(202)'],
    ['not present', (lab) => lab.setGate(0x40, { type: 0x0e }), int(0x40), '#NP(202)'],
    ['not a gate', (lab) => lab.setGate(0x40, { type: 0x8c }), int(0x40), '#GP(202)'],
    ['null code segment', (lab) => lab.setGate(0x40, { selector: 0 }), int(0x40), '#GP(0)'],
    ['data segment', (lab) => lab.setGate(0x40, { selector: SELECTOR.DATA }), int(0x40), '#GP(10)'],
    ['absent code segment', (lab) => lab.setGate(0x40, { selector: SELECTOR.ABSENT_CODE }), int(0x40), '#NP(98)'],
    ['outer code segment', (lab) => lab.setGate(0x40, { selector: SELECTOR.USER_CODE }), int(0x40), '#GP(18)'],
  ];
  for (const [name, prepare, code, want] of cases)
    it(`${name}: ${want}`, () => {
      const lab = new Lab('protected');
      prepare(lab);
      expect(lab.firstException(code)).toBe(want);
    });
  it('INT n at CPL 3 needs a gate with DPL 3; a fault does not', () => {
    expect(new Lab('protected', 3).firstException(int(0x40))).toBe('#GP(202)');
    expect(new Lab('protected', 3).firstException(UD2)).toBe('#UD');
    const lab = new Lab('protected', 3);
    lab.setGate(0x40, { type: 0xee });
    lab.run(int(0x40), 10);
    expect(exceptions(lab)).toEqual([]);
    expect(lab.cpu.cpl).toBe(0);
  });
  it('EXT is set when the event did not come from the program', () => {
    const lab = new Lab('protected');
    lab.setGate(6, { type: 0x0e });
    lab.run(UD2, 10);
    expect(exceptions(lab)).toEqual([
      [6, null],
      [11, 6 * 8 + 2 + 1],
    ]);
  });
});

describe('double and triple faults', () => {
  it('#GP whose gate is absent becomes a double fault with error code 0', () => {
    const lab = new Lab('protected');
    lab.setGate(13, { type: 0x0e });
    lab.run([0x66, 0xb8, 0xff, 0x0f, 0x8e, 0xd8], 10); // a selector beyond the table
    expect(exceptions(lab)).toEqual([
      [13, 0xffc],
      [8, 0],
    ]);
    expect(lab.stackWord(0)).toBe(0n);
  });
  it('a page fault while delivering a page fault', () => {
    const lab = new Lab('long');
    lab.state.set64(OFFSET.IDTR_BASE, 0x40000000n); // not mapped
    expect(lab.run([0x48, 0x8b, 0x04, 0x25, ...le32(0x50000000)], 10).kind).toBe('shutdown');
    expect(exceptions(lab)).toEqual([
      [14, 0],
      [8, 0],
    ]);
    expect(lab.trace.of('triple_fault')).toHaveLength(1);
    expect(lab.state.get64(OFFSET.CR2)).toBe(0x40000000n + 16n * 8n - 16n * 8n + 14n * 16n);
    expect(lab.machine.run(10).kind).toBe('shutdown');
  });
  it('in real mode an IDT without room for the vector ends the same way', () => {
    const lab = new Lab('real');
    lab.state.set32(OFFSET.IDTR_LIMIT, 0x13);
    expect(lab.run(UD2, 10).kind).toBe('shutdown');
  });
});

describe('frames', () => {
  it('32-bit, from ring 3: SS ESP EFLAGS CS EIP and the error code', () => {
    const lab = new Lab('protected', 3);
    lab.run([0xcd, 0x40], 10); // #GP by the gate's DPL
    const flags = lab.stackWord(3);
    expect([0, 1, 2, 4, 5].map((n) => lab.stackWord(n))).toEqual([
      0x202n,
      BigInt(PLACE.CODE),
      BigInt(SELECTOR.USER_CODE),
      BigInt(PLACE.STACK_RING3),
      BigInt(SELECTOR.USER_DATA),
    ]);
    expect(flags & 0x10002n).toBe(0x10002n);
    expect(lab.slot(SLOT.RSP)).toBe(BigInt(PLACE.STACK_RING0 - 24));
  });
  it('64-bit: always SS and RSP, aligned, IST when the gate says so', () => {
    const lab = new Lab('long');
    lab.state.setSlotNumber(SLOT.RSP, PLACE.STACK - 3);
    lab.run(UD2, 10);
    expect(lab.slot(SLOT.RSP)).toBe(BigInt(PLACE.STACK - 16 - 40));
    expect([lab.stackWord(0), lab.stackWord(3), lab.stackWord(4)]).toEqual([BigInt(PLACE.CODE), BigInt(PLACE.STACK - 3), BigInt(SELECTOR.DATA)]);
    const ist = new Lab('long');
    ist.setGate(6, { ist: 1 });
    ist.run(UD2, 10);
    expect(ist.slot(SLOT.RSP)).toBe(BigInt(PLACE.STACK_IST1 - 40));
    expect(ist.state.segSelector(SEG.SS)).toBe(SELECTOR.DATA); // no change of privilege: SS stays
    const user = new Lab('long', 3);
    user.run(UD2, 10);
    expect([user.slot(SLOT.RSP), user.state.segSelector(SEG.SS), user.cpu.cpl]).toEqual([BigInt(PLACE.STACK_RING0 - 40), 0, 0]);
  });
  it('an interrupt gate clears IF, a trap gate leaves it; both clear TF and NT', () => {
    for (const [type, left] of [
      [0x8e, 0],
      [0x8f, FLAG.IF],
    ] as const) {
      const lab = new Lab('protected');
      lab.setGate(0x40, { type });
      writeFlags(lab.state, FLAG.IF | FLAG.NT | FLAG.FIXED);
      lab.run([0xcd, 0x40], 10);
      expect(lab.cpu.rflags & (FLAG.IF | FLAG.NT)).toBe(left);
    }
  });
  it('real mode: three words, no error code', () => {
    const lab = new Lab('real');
    writeFlags(lab.state, FLAG.IF | FLAG.FIXED);
    lab.run([0xcd, 0x21], 10);
    expect([0, 1, 2].map((n) => lab.stackWord(n))).toEqual([2n, BigInt(PLACE.CODE >> 4), 0x202n]);
    expect(lab.cpu.rflags & FLAG.IF).toBe(0);
    const gp = new Lab('real');
    gp.run([0xa1, 0xff, 0xff], 10); // a word at 0xffff
    expect(exceptions(gp)).toEqual([[13, 0]]);
    expect(gp.slot(SLOT.RSP)).toBe(BigInt(PLACE.STACK - 6));
  });
  it('IRETQ returns to ring 3 and takes privileged data segments away', () => {
    const lab = new Lab('long');
    const push = [SELECTOR.USER_DATA, PLACE.STACK_RING3, 0x202, SELECTOR.USER_CODE64, PLACE.DATA].flatMap((n) => [0x68, ...le32(n)]);
    lab.machine.load(PLACE.DATA, [0xeb, 0xfe]);
    lab.run([...push, 0x48, 0xcf], 7);
    expect([lab.cpu.cpl, lab.slot(SLOT.RIP), lab.slot(SLOT.RSP), lab.cpu.rflags]).toEqual([3, BigInt(PLACE.DATA), BigInt(PLACE.STACK_RING3), 0x202]);
    expect([lab.state.segRights(SEG.DS) & 0x10000, lab.state.segSelector(SEG.SS)]).toEqual([0x10000, SELECTOR.USER_DATA]);
  });
  it('IRET with a bad selector faults in the handler, with everything in place', () => {
    const lab = new Lab('protected');
    expect(lab.firstException([0x6a, 2, 0x6a, SELECTOR.DATA, 0x6a, 0, 0xcf])).toBe('#GP(10)');
    expect(lab.stackWord(1)).toBe(BigInt(PLACE.CODE + 6));
  });
});

describe('between two instructions', () => {
  function interrupting(lab: Lab, vector = 0x50): { pending: boolean } {
    const line = { pending: true };
    lab.cpu.setInterruptSource({
      pending: () => line.pending,
      acknowledge: () => {
        line.pending = false;
        return vector;
      },
    });
    return line;
  }

  it('STI lets one more instruction run', () => {
    const lab = new Lab('protected');
    interrupting(lab);
    lab.run([0xfb, 0x90, 0x90, 0xf4], 10); // STI; NOP; NOP
    expect(lab.trace.of('interrupt')).toMatchObject([{ vector: 0x50, source: 'external' }]);
    expect(lab.stackWord(0)).toBe(BigInt(PLACE.CODE + 2));
  });
  it('STI with IF set already does not', () => {
    const lab = new Lab('protected');
    writeFlags(lab.state, FLAG.IF | FLAG.FIXED);
    const line = interrupting(lab);
    line.pending = false;
    lab.run([0xfb, 0x90, 0x90, 0xf4], 1);
    line.pending = true;
    lab.cpu.eventsChanged();
    lab.machine.run(10);
    expect(lab.stackWord(0)).toBe(BigInt(PLACE.CODE + 1));
  });
  it('MOV SS inhibits for one instruction, even NMI', () => {
    const lab = new Lab('protected');
    lab.run([0x8c, 0xd0, 0x8e, 0xd0, 0x90, 0x90, 0xf4], 1);
    lab.run([0x8c, 0xd0, 0x8e, 0xd0, 0x90, 0x90, 0xf4], 1);
    lab.cpu.nmi();
    lab.machine.run(10);
    expect(lab.trace.of('interrupt')).toMatchObject([{ vector: 2, source: 'nmi' }]);
    expect(lab.stackWord(0)).toBe(BigInt(PLACE.CODE + 5));
  });
  it('an NMI blocks the next until IRET', () => {
    const lab = new Lab('protected');
    lab.machine.load(PLACE.HANDLERS + 32, [0x43, 0x90, 0xcf]); // INC EBX; NOP; IRET
    lab.cpu.nmi();
    lab.run([0x90, 0x90, 0xf4], 1);
    lab.cpu.nmi();
    lab.machine.run(1);
    expect(lab.slot(SLOT.RBX)).toBe(1n);
    expect(lab.trace.of('interrupt')).toHaveLength(1);
    lab.machine.run(20);
    expect(lab.slot(SLOT.RBX)).toBe(2n);
    expect(lab.slot(SLOT.RSP)).toBe(BigInt(PLACE.STACK));
  });
  it('HLT waits, and an interrupt goes to the instruction after it', () => {
    const lab = new Lab('protected');
    const line = interrupting(lab);
    line.pending = false;
    writeFlags(lab.state, FLAG.IF | FLAG.FIXED);
    expect(lab.run([0xf4, 0xf4], 10).kind).toBe('halt');
    expect(lab.machine.run(10).kind).toBe('halt');
    expect(lab.cpu.instructions).toBe(1);
    line.pending = true;
    lab.cpu.eventsChanged();
    lab.machine.run(10);
    expect(lab.stackWord(0)).toBe(BigInt(PLACE.CODE + 1));
  });
  it('the deadline is exact', () => {
    const lab = new Lab('protected');
    for (const n of [1, 2, 7, 100]) {
      const before = lab.cpu.instructions;
      expect(lab.run([0x90, 0xeb, 0xfd], n).kind).toBe('deadline');
      expect(lab.cpu.instructions - before).toBe(n);
    }
  });
  it('a timer fires at its instruction', () => {
    const lab = new Lab('protected');
    let at = -1;
    lab.cpu.setTimer(37, () => {
      at = lab.cpu.instructions;
    });
    lab.run([0x90, 0xeb, 0xfd], 100);
    expect(at).toBe(37);
  });
});

describe('single step and breakpoints', () => {
  const step = (lab: Lab): void => {
    writeFlags(lab.state, FLAG.TF | FLAG.FIXED);
    lab.cpu.eventsChanged();
  };
  it('TF traps after one instruction, with BS in DR6', () => {
    const lab = new Lab('protected');
    step(lab);
    lab.run([0x90, 0x90, 0xf4], 10);
    expect(lab.stackWord(0)).toBe(BigInt(PLACE.CODE + 1));
    expect(lab.state.low32(OFFSET.DR6)).toBe(0xffff4ff0);
    expect(lab.cpu.rflags & FLAG.TF).toBe(0);
  });
  it('not after INT n, which clears TF itself', () => {
    const lab = new Lab('protected');
    step(lab);
    lab.run([0xcd, 0x40], 10);
    expect(exceptions(lab)).toEqual([]);
    expect(lab.stackWord(2) & BigInt(FLAG.TF)).toBe(BigInt(FLAG.TF));
  });
  it('POPF that sets TF: the trap comes after the next instruction', () => {
    const lab = new Lab('protected');
    lab.run([0x68, ...le32(FLAG.TF | 2), 0x9d, 0x90, 0x90, 0xf4], 10);
    expect(lab.stackWord(0)).toBe(BigInt(PLACE.CODE + 7));
  });
  it('a trap and an interrupt at once: the trap first', () => {
    const lab = new Lab('protected');
    writeFlags(lab.state, FLAG.TF | FLAG.IF | FLAG.FIXED);
    let pending = false;
    lab.cpu.setInterruptSource({ pending: () => pending, acknowledge: () => 0x50 });
    lab.machine.devices.set(0x10, {
      write: () => {
        pending = true;
        lab.cpu.eventsChanged();
      },
    });
    lab.run([0xe6, 0x10, 0x90, 0xf4], 10); // OUT 0x10, AL
    expect(lab.trace.events.filter(({ kind }) => kind === 'exception' || kind === 'interrupt').map(({ kind }) => kind)).toEqual(['exception']);
  });
  it('an instruction breakpoint is a fault, and RF lets the instruction pass', () => {
    const lab = new Lab('protected');
    lab.machine.load(PLACE.HANDLERS + 16, [0x43, 0x81, 0x4c, 0x24, 0x08, 0, 0, 1, 0, 0xcf]); // INC EBX; OR DWORD [ESP+8], RF; IRET
    lab.state.setSlotNumber(SLOT.RAX, PLACE.CODE + 8);
    // MOV DR0, EAX; MOV EAX, 1; (L0) ; MOV DR7, EAX is put before so that the address falls on the NOP
    const code = [0x0f, 0x23, 0xc0, 0x6a, 1, 0x58, 0x0f, 0x23, 0xf8, 0x90, 0xf4];
    lab.state.setSlotNumber(SLOT.RAX, PLACE.CODE + 9);
    expect(lab.run(code, 50).kind).toBe('halt');
    expect(lab.slot(SLOT.RBX)).toBe(1n);
    expect(lab.state.low32(OFFSET.DR6) & 0xf).toBe(1);
    expect(lab.slot(SLOT.RIP)).toBe(BigInt(PLACE.CODE + 11));
  });
  it('a data breakpoint is a trap after the access', () => {
    const lab = new Lab('protected');
    lab.state.set64(OFFSET.DR0, BigInt(PLACE.DATA + 4));
    lab.state.set64(OFFSET.DR7, 0x400n | 1n | (0xdn << 16n)); // 4 bytes, writes
    lab.cpu.debugChanged();
    lab.run([0xa1, ...le32(PLACE.DATA + 4), 0xa3, ...le32(PLACE.DATA), 0xa2, ...le32(PLACE.DATA + 7), 0x90, 0xf4], 10);
    expect(exceptions(lab)).toEqual([[1, null]]);
    expect(lab.stackWord(0)).toBe(BigInt(PLACE.CODE + 15));
  });
  it('DR7.GD guards the debug registers', () => {
    const lab = new Lab('protected');
    lab.state.set64(OFFSET.DR7, 0x2400n);
    expect(lab.firstException([0x0f, 0x21, 0xf0])).toBe('#DB');
    expect([lab.state.low32(OFFSET.DR6) & 0x2000, lab.state.low32(OFFSET.DR7)]).toEqual([0x2000, 0x400]);
    expect(lab.stackWord(0)).toBe(BigInt(PLACE.CODE));
  });
  it('an unaligned access with AM and AC at CPL 3 is #AC', () => {
    const lab = new Lab('protected', 3);
    lab.state.set64(OFFSET.CR0, lab.state.get64(OFFSET.CR0) | BigInt(CR0.AM));
    writeFlags(lab.state, FLAG.AC | FLAG.FIXED);
    lab.cpu.modeChanged();
    expect(lab.firstException([0xa1, ...le32(PLACE.DATA), 0xa1, ...le32(PLACE.DATA + 1)])).toBe('#AC(0)');
    expect(lab.stackWord(1)).toBe(BigInt(PLACE.CODE + 5));
  });
});

describe('fast system calls', () => {
  it('SYSCALL and SYSRET', () => {
    const lab = new Lab('long', 3);
    lab.state.set64(OFFSET.EFER, lab.state.get64(OFFSET.EFER) | BigInt(EFER.SCE));
    lab.state.set64(OFFSET.STAR, (0x1bn << 48n) | (8n << 32n)); // user 0x1b+16, kernel 8
    lab.state.set64(OFFSET.LSTAR, BigInt(PLACE.DATA));
    lab.state.set64(OFFSET.SFMASK, BigInt(FLAG.IF | FLAG.DF));
    writeFlags(lab.state, FLAG.IF | FLAG.DF | FLAG.FIXED);
    lab.machine.load(PLACE.DATA, [0x48, 0x0f, 0x07]);
    lab.run([0x0f, 0x05, 0xeb, 0xfe], 1);
    expect([lab.cpu.cpl, lab.slot(SLOT.RIP), lab.slot(SLOT.RCX), lab.slot(SLOT.R11), lab.cpu.rflags & (FLAG.IF | FLAG.DF)]).toEqual([
      0,
      BigInt(PLACE.DATA),
      BigInt(PLACE.CODE + 2),
      BigInt(FLAG.IF | FLAG.DF | FLAG.FIXED),
      0,
    ]);
    expect([lab.state.segSelector(SEG.CS), lab.state.segSelector(SEG.SS)]).toEqual([8, 16]);
    lab.machine.run(1);
    expect([lab.cpu.cpl, lab.slot(SLOT.RIP), lab.cpu.rflags & (FLAG.IF | FLAG.DF)]).toEqual([3, BigInt(PLACE.CODE + 2), FLAG.IF | FLAG.DF]);
    expect([lab.state.segSelector(SEG.CS), lab.state.segSelector(SEG.SS)]).toEqual([0x2b, 0x23]);
  });
  it('SYSCALL without EFER.SCE, or outside 64-bit code, is undefined; SYSRET to a non-canonical address is #GP', () => {
    expect(new Lab('long').firstException([0x0f, 0x05])).toBe('#UD');
    const lab = new Lab('long');
    lab.state.set64(OFFSET.EFER, lab.state.get64(OFFSET.EFER) | BigInt(EFER.SCE));
    lab.state.setSlot(SLOT.RCX, 1n << 47n);
    expect(lab.firstException([0x48, 0x0f, 0x07])).toBe('#GP(0)');
    expect(lab.cpu.cpl).toBe(0);
  });
  it('SYSENTER and SYSEXIT', () => {
    expect(new Lab('protected', 3).firstException([0x0f, 0x34])).toBe('#GP(0)'); // no CS in the MSR
    const lab = new Lab('protected', 3);
    lab.state.set64(OFFSET.SYSENTER_CS, 8n);
    lab.state.set64(OFFSET.SYSENTER_ESP, 0x7000n);
    lab.state.set64(OFFSET.SYSENTER_EIP, BigInt(PLACE.DATA));
    lab.machine.load(PLACE.DATA, [0x0f, 0x35]);
    lab.run([0x0f, 0x34], 1);
    expect([lab.cpu.cpl, lab.slot(SLOT.RSP), lab.slot(SLOT.RIP), lab.state.segSelector(SEG.SS)]).toEqual([0, 0x7000n, BigInt(PLACE.DATA), 16]);
    lab.state.setSlotNumber(SLOT.RCX, 0x8000);
    lab.state.setSlotNumber(SLOT.RDX, 0x1234);
    lab.machine.run(1);
    expect([lab.cpu.cpl, lab.slot(SLOT.RSP), lab.slot(SLOT.RIP), lab.state.segSelector(SEG.CS)]).toEqual([3, 0x8000n, 0x1234n, 0x1b]);
  });
  it('SWAPGS', () => {
    const lab = new Lab('long');
    lab.state.set64(OFFSET.KERNEL_GS_BASE, 0x1234n);
    lab.state.setSegBase(SEG.GS, 0x5678n);
    expect(lab.firstException([0x0f, 0x01, 0xf8])).toBe('none');
    expect([lab.state.segBase(SEG.GS), lab.state.get64(OFFSET.KERNEL_GS_BASE)]).toEqual([0x1234n, 0x5678n]);
    expect(new Lab('protected').firstException([0x0f, 0x01, 0xf8])).toBe('#UD');
  });
});

describe('privilege', () => {
  const privileged: [string, number[]][] = [
    ['HLT', [0xf4]],
    ['CLTS', [0x0f, 0x06]],
    ['LGDT', [0x0f, 0x01, 0x10]],
    ['LMSW', [0x0f, 0x01, 0xf0]],
    ['MOV CR0', [0x0f, 0x20, 0xc0]],
    ['MOV DR7', [0x0f, 0x21, 0xf8]],
    ['RDMSR', [0x0f, 0x32]],
    ['WRMSR', [0x0f, 0x30]],
    ['INVLPG', [0x0f, 0x01, 0x38]],
    ['WBINVD', [0x0f, 0x09]],
    ['CLI', [0xfa]],
    ['STI', [0xfb]],
    ['IN', [0xec]],
    ['OUT', [0xee]],
  ];
  for (const [name, code] of privileged) it(`${name} at CPL 3: #GP(0)`, () => expect(new Lab('protected', 3).firstException(code)).toBe('#GP(0)'));
  it('POPF at CPL 3 leaves IF and IOPL alone, in silence', () => {
    const lab = new Lab('protected', 3);
    lab.run([0x68, ...le32(0x3ed7), 0x9d, 0xeb, 0xfe], 2);
    expect(lab.cpu.rflags & (FLAG.IF | FLAG.IOPL | FLAG.CF | FLAG.DF)).toBe(FLAG.CF | FLAG.DF);
    expect(exceptions(lab)).toEqual([]);
  });
  it('the I/O bitmap opens single ports', () => {
    const at = (port: number, bytes = 1): string => {
      const lab = new Lab('protected', 3);
      const { view } = lab.machine.memory;
      lab.state.setSegLimit(SEG.TR, 0x68 + 0x20);
      view.setUint32(lab.machine.memory.offset(PLACE.TSS + 0x68, 4), 0xffffff7f, true); // port 7 alone
      lab.state.setSlotNumber(SLOT.RDX, port);
      const got = lab.firstException(bytes === 1 ? [0xec, 0xcc] : [0x66, 0xed, 0xcc]);
      return got === '#GP(1a)' ? 'none' : got;
    };
    expect([at(6), at(7), at(8), at(7, 2), at(0x200)]).toEqual(['#GP(0)', 'none', '#GP(0)', '#GP(0)', '#GP(0)']);
  });
  it('UMIP hides the tables', () => {
    expect(new Lab('protected', 3).firstException([0x0f, 0x01, 0x05, ...le32(PLACE.DATA), 0xcc])).toBe('#GP(1a)');
    const lab = new Lab('protected', 3);
    lab.state.set64(OFFSET.CR4, BigInt(CR4.UMIP));
    expect(lab.firstException([0x0f, 0x01, 0x05, ...le32(PLACE.DATA), 0xcc])).toBe('#GP(0)');
  });
});

describe('control registers and MSRs', () => {
  const movCr = (n: number, value: number): number[] => [0xb8, ...le32(value), 0x0f, 0x22, 0xc0 | (n << 3)];
  const wrmsr = (index: number, low: number, high = 0): number[] => [0xb9, ...le32(index), 0xb8, ...le32(low), 0xba, ...le32(high), 0x0f, 0x30];
  for (const [name, mode, code, want] of [
    ['CR0: PG without PE', 'protected', movCr(0, 0x80000000), '#GP(0)'],
    ['CR0: NW without CD', 'protected', movCr(0, 0x20000001), '#GP(0)'],
    ['CR0: PG off in 64-bit code', 'long', movCr(0, 1), '#GP(0)'],
    ['CR4: reserved bit', 'protected', movCr(4, 1 << 15), '#GP(0)'],
    ['CR4: LA57', 'protected', movCr(4, CR4.LA57), '#GP(0)'],
    ['CR4: PAE off in long mode', 'long', movCr(4, 0), '#GP(0)'],
    ['CR1', 'protected', movCr(1, 0), '#UD'],
    ['EFER: LME while paging', 'long', wrmsr(0xc0000080, 0x400), '#GP(0)'],
    ['EFER: reserved bit', 'protected', wrmsr(0xc0000080, 2), '#GP(0)'],
    ['unknown MSR', 'protected', wrmsr(0x12345, 0), '#GP(0)'],
    ['LSTAR not canonical', 'long', wrmsr(0xc0000082, 0, 0x8000), '#GP(0)'],
    ['PAT with type 2', 'protected', wrmsr(0x277, 2), '#GP(0)'],
    ['PAT', 'protected', wrmsr(0x277, 6), 'none'],
  ] as const)
    it(`${name}: ${want}`, () => expect(new Lab(mode).firstException([...code])).toBe(want));
  it('LMSW can set PE and not clear it', () => {
    const lab = new Lab('protected');
    expect(lab.firstException([0x31, 0xc0, 0x0f, 0x01, 0xf0])).toBe('none');
    expect(lab.state.low32(OFFSET.CR0) & CR0.PE).toBe(1);
  });
  it('CR8 takes four bits', () => {
    expect(new Lab('long').firstException([0xb8, 16, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0])).toBe('#GP(0)');
    const lab = new Lab('long');
    expect(lab.firstException([0xb8, 9, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0])).toBe('none');
    expect(lab.state.get64(OFFSET.CR8)).toBe(9n);
  });
  it('the time stamp counter can be written, and TSC_ADJUST follows', () => {
    const lab = new Lab('protected');
    expect(lab.firstException(wrmsr(0x10, 1000))).toBe('none');
    expect(lab.cpu.readMsr(0x10)).toBe(1001n); // the HLT has been counted since
    expect(lab.cpu.readMsr(0x3b)).toBe(1000n - 4n);
  });
  it('CPUID names a vendor, and answers beyond its end like its last leaf', () => {
    const lab = new Lab('protected');
    lab.run([0x31, 0xc0, 0x0f, 0xa2, 0xf4]);
    const text = [SLOT.RBX, SLOT.RDX, SLOT.RCX]
      .flatMap((slot) => le32(Number(lab.slot(slot))))
      .map((c) => String.fromCharCode(c))
      .join('');
    expect(text).toBe('GenuineIntel');
    expect(lab.cpu.cpuid(lab.cpu, 0x1000, 0)).toEqual(lab.cpu.cpuid(lab.cpu, 0xd, 0));
  });
});
