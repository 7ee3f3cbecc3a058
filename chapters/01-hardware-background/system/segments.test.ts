import { describe, expect, it } from 'vitest';
import { AR, OFFSET, SEG, SLOT } from '../state.ts';
import { descriptor, Lab, type LabMode, PLACE, SELECTOR } from './laboratory.ts';

const le16 = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff];
const le32 = (n: number): number[] => [...le16(n), ...le16(n >>> 16)];
/** MOV AX, imm16; MOV sreg, AX. */
const load = (seg: number, selector: number): number[] => [0x66, 0xb8, ...le16(selector), 0x8e, 0xc0 | (seg << 3)];

describe('loading a data segment register', () => {
  // selector, CPL, what DS answers in protected mode, what SS answers
  const rows: [keyof typeof SELECTOR, number, 0 | 3, string, string][] = [
    ['NULL', 0, 0, 'none', '#GP(0)'],
    ['NULL', 3, 3, 'none', '#GP(0)'],
    ['DATA', 0, 0, 'none', 'none'],
    ['DATA', 3, 0, '#GP(10)', '#GP(10)'], // RPL above DPL
    ['DATA', 0, 3, '#GP(10)', '#GP(10)'],
    ['USER_DATA', 0, 0, 'none', '#GP(20)'], // SS wants DPL = CPL
    ['USER_DATA', 0, 3, 'none', 'none'],
    ['CODE', 0, 0, 'none', '#GP(8)'], // readable code
    ['EXECUTE_ONLY', 0, 0, '#GP(60)', '#GP(60)'],
    ['CONFORMING', 3, 3, 'none', '#GP(48)'], // conforming and readable: whatever the privilege
    ['READ_ONLY', 0, 0, 'none', '#GP(58)'],
    ['ABSENT_DATA', 0, 0, '#NP(50)', '#SS(50)'],
    ['TSS', 0, 0, '#GP(38)', '#GP(38)'],
    ['BEYOND', 0, 0, '#GP(100)', '#GP(100)'],
    ['BEYOND', 3, 0, '#GP(100)', '#GP(100)'], // the RPL is not part of the error code
  ];
  for (const [name, rpl, cpl, ds, ss] of rows) {
    it(`${name} with RPL ${rpl} at CPL ${cpl}: DS ${ds}, SS ${ss}`, () => {
      const selector = (SELECTOR[name] & 0xfff8) | (SELECTOR[name] & 3) | rpl;
      const end = cpl === 3 ? [0xcc] : []; // HLT is privileged; INT3 is not allowed by its gate either, and says #GP(1a)
      for (const [seg, want] of [
        [SEG.DS, ds],
        [SEG.ES, ds],
        [SEG.FS, ds],
        [SEG.GS, ds],
        [SEG.SS, ss],
      ] as const) {
        const got = new Lab('protected', cpl).firstException([...load(seg, selector), ...end]);
        expect(got === '#GP(1a)' ? 'none' : got, `segment ${seg}`).toBe(want);
      }
    });
  }

  it('local selectors need an LDT', () => {
    expect(new Lab('protected').firstException(load(SEG.DS, 0x0c))).toBe('#GP(c)');
  });

  it('a null SS is fine in 64-bit code below CPL 3, with RPL = CPL', () => {
    expect(new Lab('long').firstException(load(SEG.SS, 0))).toBe('none');
    expect(new Lab('long').firstException(load(SEG.SS, 3))).toBe('#GP(0)');
    expect(new Lab('long', 3).firstException(load(SEG.SS, 3))).toBe('#GP(0)');
  });

  it('CS and the numbers above GS are undefined', () => {
    expect(new Lab('protected').firstException(load(SEG.CS, SELECTOR.CODE))).toBe('#UD');
    expect(new Lab('protected').firstException(load(6, SELECTOR.DATA))).toBe('#UD');
  });

  it('sets the accessed bit in the table, and fills the hidden half', () => {
    const lab = new Lab('protected');
    lab.describe(SELECTOR.DATA, descriptor(0x123400, 0xabc, 0x92, 0x4));
    expect(lab.firstException(load(SEG.DS, SELECTOR.DATA))).toBe('none');
    expect(lab.machine.memory.u8[lab.machine.memory.offset(PLACE.GDT + 0x15)]).toBe(0x93);
    expect([lab.state.segBase(SEG.DS), lab.state.segLimit(SEG.DS), lab.state.segRights(SEG.DS)]).toEqual([0x123400n, 0xabc, 0x4093]);
    const big = new Lab('protected');
    big.describe(SELECTOR.DATA, descriptor(0, 0x12345, 0x93, 0x8));
    big.firstException(load(SEG.DS, SELECTOR.DATA));
    expect(big.state.segLimit(SEG.DS)).toBe(0x12345fff);
  });

  it('a null register faults when it is used', () => {
    expect(new Lab('protected').firstException([...load(SEG.DS, 0), 0xa1, ...le32(0x50000)])).toBe('#GP(0)');
  });

  it('an expand-down segment is valid above its limit', () => {
    const at = (address: number): string => new Lab('protected').firstException([...load(SEG.DS, SELECTOR.DOWN), 0xa1, ...le32(address)]);
    expect([at(0xffff), at(0x10000), at(0x50000), at(0xfffc)]).toEqual(['#GP(0)', 'none', 'none', '#GP(0)']);
  });

  it('in real mode only the base changes; after protected mode, that is "unreal" mode', () => {
    const lab = new Lab('real');
    lab.state.setSegLimit(SEG.DS, 0xffffffff);
    expect(lab.firstException([0xb8, 0x34, 0x12, 0x8e, 0xd8])).toBe('none');
    expect([lab.state.segBase(SEG.DS), lab.state.segLimit(SEG.DS)]).toEqual([0x12340n, 0xffffffff]);
  });
});

describe('far transfers', () => {
  const jmp = (selector: number, offset: number): number[] => [0xea, ...le32(offset), ...le16(selector)];
  const rows: [string, number, 0 | 3, number, string][] = [
    ['null', 0, 0, 0, '#GP(0)'],
    ['data', SELECTOR.DATA, 0, 0, '#GP(10)'],
    ['absent code', SELECTOR.ABSENT_CODE, 0, 0, '#NP(98)'],
    ['outer code', SELECTOR.USER_CODE, 0, 0, '#GP(18)'],
    ['inner code', SELECTOR.CODE, 3, 0, '#GP(8)'],
    ['RPL above CPL', SELECTOR.CODE | 3, 0, 0, '#GP(8)'],
    ['beyond the limit', SELECTOR.CODE16, 0, 0x10000, '#GP(0)'],
    ['busy TSS', SELECTOR.TSS, 0, 0, '#GP(38)'],
  ];
  for (const [name, selector, cpl, offset, want] of rows)
    it(`JMP to ${name}: ${want}`, () => expect(new Lab('protected', cpl).firstException(jmp(selector, offset))).toBe(want));

  it('JMP into conforming code keeps the privilege level', () => {
    const lab = new Lab('protected', 3);
    lab.run(jmp(SELECTOR.CONFORMING, PLACE.DATA), 1);
    expect([lab.state.segSelector(SEG.CS), lab.cpu.cpl, lab.slot(SLOT.RIP)]).toEqual([SELECTOR.CONFORMING | 3, 3, BigInt(PLACE.DATA)]);
  });

  it('a 32-bit call gate switches stacks and copies arguments; RETF n undoes it', () => {
    const lab = new Lab('protected', 3);
    const target = PLACE.DATA;
    lab.describe(SELECTOR.GATE, [(SELECTOR.CODE << 16) | (target & 0xffff), (target & 0xffff0000) | 0xec02]); // DPL 3, two arguments
    lab.machine.load(target, [0xca, 8, 0]); // RETF 8
    // PUSH 0x11; PUSH 0x22; CALL FAR gate
    lab.run([0x6a, 0x11, 0x6a, 0x22, 0x9a, ...le32(0xdeadbeef), ...le16(SELECTOR.GATE)], 3);
    expect(lab.cpu.cpl).toBe(0);
    expect(lab.slot(SLOT.RSP)).toBe(BigInt(PLACE.STACK_RING0 - 24));
    expect([0, 1, 2, 3, 4, 5].map((n) => lab.stackWord(n))).toEqual([
      BigInt(PLACE.CODE + 11),
      BigInt(SELECTOR.USER_CODE),
      0x22n,
      0x11n,
      BigInt(PLACE.STACK_RING3 - 8),
      BigInt(SELECTOR.USER_DATA),
    ]);
    lab.fill(SEG.ES, SELECTOR.DATA); // ring 0's: to be taken away
    lab.cpu.modeChanged();
    lab.machine.run(1);
    expect([lab.cpu.cpl, lab.slot(SLOT.RSP), lab.slot(SLOT.RIP)]).toEqual([3, BigInt(PLACE.STACK_RING3), BigInt(PLACE.CODE + 11)]);
    expect(lab.state.segRights(SEG.ES) & AR.UNUSABLE).not.toBe(0);
    expect(lab.state.segRights(SEG.DS) & AR.UNUSABLE).toBe(0);
  });

  it("a gate is refused by its DPL, and by its caller's RPL", () => {
    const lab = (): Lab => {
      const made = new Lab('protected', 3);
      made.describe(SELECTOR.GATE, [SELECTOR.CODE << 16, 0x8c00]);
      return made;
    };
    expect(lab().firstException([0x9a, 0, 0, 0, 0, ...le16(SELECTOR.GATE)])).toBe('#GP(78)');
  });

  it('RETF to an inner level is refused', () => {
    expect(new Lab('protected', 3).firstException([0x6a, SELECTOR.CODE, 0x68, ...le32(PLACE.CODE), 0xcb])).toBe('#GP(8)');
  });

  it('L and D together are refused in long mode', () => {
    const lab = new Lab('long');
    lab.describe(SELECTOR.CODE16, descriptor(0, 0xfffff, 0x9b, 0xe));
    // PUSH sel; PUSH offset; RETFQ
    expect(lab.firstException([0x68, ...le32(SELECTOR.CODE16), 0x68, ...le32(PLACE.CODE), 0x48, 0xcb])).toBe('#GP(88)');
  });
});

describe('LTR, LLDT and the questions', () => {
  const regOp = (reg: number, selector: number): number[] => [0x66, 0xb8, ...le16(selector), 0x0f, 0x00, 0xc0 | (reg << 3)];
  it('LTR marks the TSS busy and refuses a busy one', () => {
    const lab = new Lab('protected');
    expect(lab.firstException(regOp(3, SELECTOR.OTHER_TSS))).toBe('none');
    expect(lab.machine.memory.u8[lab.machine.memory.offset(PLACE.GDT + SELECTOR.OTHER_TSS + 5)]).toBe(0x8b);
    expect(new Lab('protected').firstException(regOp(3, SELECTOR.TSS))).toBe('#GP(38)');
    expect(new Lab('protected').firstException(regOp(3, 0))).toBe('#GP(0)');
    expect(new Lab('protected').firstException(regOp(3, SELECTOR.DATA))).toBe('#GP(10)');
    expect(new Lab('long').firstException(regOp(3, SELECTOR.TSS16_OTHER))).toBe('#GP(a0)');
  });
  it('LLDT takes null, and nothing but an LDT', () => {
    expect(new Lab('protected').firstException(regOp(2, 0))).toBe('none');
    expect(new Lab('protected').firstException(regOp(2, SELECTOR.DATA))).toBe('#GP(10)');
    const lab = new Lab('protected');
    lab.describe(SELECTOR.LDT, descriptor(0x7000, 0x7f, 0x82, 0));
    expect(lab.firstException(regOp(2, SELECTOR.LDT))).toBe('none');
    expect(lab.state.segBase(SEG.LDTR)).toBe(0x7000n);
  });
  it('VERR, VERW, LAR and LSL answer in ZF and never fault on a selector', () => {
    const zf = (code: number[]): boolean => {
      const lab = new Lab('protected');
      expect(lab.firstException(code)).toBe('none');
      return (lab.cpu.rflags & 0x40) !== 0;
    };
    expect([SELECTOR.DATA, SELECTOR.CODE, SELECTOR.EXECUTE_ONLY, SELECTOR.BEYOND, SELECTOR.TSS, 0].map((s) => zf(regOp(4, s)))).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
    ]);
    expect([SELECTOR.DATA, SELECTOR.READ_ONLY, SELECTOR.CODE].map((s) => zf(regOp(5, s)))).toEqual([true, false, false]);
    const lab = new Lab('protected');
    lab.run([0xb8, ...le32(SELECTOR.CODE), 0x0f, 0x03, 0xd8, 0x0f, 0x02, 0xc8, 0xf4]); // LSL EBX, EAX; LAR ECX, EAX
    expect([lab.slot(SLOT.RBX), lab.slot(SLOT.RCX) & 0xf0ff00n]).toEqual([0xffffffffn, 0xc09b00n]);
  });
});

describe('virtual-8086 mode', () => {
  /** Enters v86 by IRETD from ring 0. */
  function v86(code: number[], iopl = 0): Lab {
    const lab = new Lab('protected');
    lab.machine.load(PLACE.DATA, [...code]);
    const pushes = [0x5000, 0x5000, 0x5000, 0x5000, 0x5000, 0xfff0, 0x20000 | (iopl << 12) | 2, 0x5000, 0].flatMap((n) => [0x68, ...le32(n)]);
    lab.machine.load(PLACE.CODE, [...pushes, 0xcf]);
    lab.machine.run(10);
    expect([lab.cpu.cpl, lab.state.segBase(SEG.CS), lab.slot(SLOT.RIP)]).toEqual([3, 0x50000n, 0n]);
    return lab;
  }
  it('a fault goes to ring 0 with the segments on its stack', () => {
    const lab = v86([0xf4]); // HLT is privileged
    lab.machine.run(10);
    expect(lab.trace.of('exception').map(({ vector, errorCode }) => [vector, errorCode])).toEqual([[13, 0]]);
    expect(lab.slot(SLOT.RSP)).toBe(BigInt(PLACE.STACK_RING0 - 40));
    expect([0, 1, 2, 4, 5, 6, 9].map((n) => lab.stackWord(n))).toEqual([0n, 0n, 0x5000n, 0xfff0n, 0x5000n, 0x5000n, 0x5000n]);
    expect(Number(lab.stackWord(3)) & 0x30002).toBe(0x30002); // VM, and RF because it was a fault
    expect(lab.state.segRights(SEG.DS) & AR.UNUSABLE).not.toBe(0);
  });
  for (const [name, code] of [
    ['CLI', [0xfa]],
    ['PUSHF', [0x9c]],
    ['POPF', [0x9d]],
    ['IRET', [0xcf]],
    ['INT', [0xcd, 0x20]],
  ] as const)
    it(`${name} is sensitive to IOPL`, () => {
      const lab = v86([...code]);
      lab.machine.run(1);
      expect(lab.trace.of('exception')[0]).toMatchObject({ vector: 13, errorCode: 0 });
    });
  it('with IOPL 3, INT goes through the IDT', () => {
    const lab = v86([0xcd, 0x20], 3);
    lab.setGate(0x20, { type: 0xee });
    lab.machine.run(10);
    expect(lab.trace.of('interrupt')).toMatchObject([{ vector: 0x20, source: 'software' }]);
    expect(lab.stackWord(0)).toBe(2n);
  });
});

describe('hardware task switch', () => {
  it('JMP to a TSS saves one task and loads another, IRET with NT comes back', () => {
    const lab = new Lab('protected');
    const { view } = lab.machine.memory;
    const at = lab.machine.memory.offset(0x5000, 0x68);
    const put = (offset: number, value: number): void => view.setUint32(at + offset, value, true);
    put(32, PLACE.DATA); // EIP
    put(36, 2);
    put(40, 0x1234); // EAX
    put(56, 0x8000); // ESP
    for (const [offset, selector] of [
      [72, SELECTOR.DATA],
      [76, SELECTOR.CODE],
      [80, SELECTOR.DATA],
      [84, SELECTOR.DATA],
    ] as const)
      put(offset, selector);
    lab.machine.load(PLACE.DATA, [0xcf]); // IRET
    lab.state.setSlotNumber(SLOT.RBX, 0x77);
    lab.run([0x9a, 0, 0, 0, 0, ...le16(SELECTOR.OTHER_TSS), 0xf4], 1); // CALL FAR tss
    expect([lab.slot(SLOT.RAX), lab.slot(SLOT.RSP), lab.slot(SLOT.RIP)]).toEqual([0x1234n, 0x8000n, BigInt(PLACE.DATA)]);
    expect(lab.state.segSelector(SEG.TR)).toBe(SELECTOR.OTHER_TSS);
    expect(lab.cpu.rflags & 0x4000).toBe(0x4000);
    expect(view.getUint16(at, true)).toBe(SELECTOR.TSS); // the way back
    expect(lab.state.low32(OFFSET.CR0) & 8).toBe(8); // TS
    expect(lab.machine.run(10).kind).toBe('halt');
    expect([lab.slot(SLOT.RBX), lab.state.segSelector(SEG.TR), lab.cpu.rflags & 0x4000]).toEqual([0x77n, SELECTOR.TSS, 0]);
    expect(lab.machine.memory.u8[lab.machine.memory.offset(PLACE.GDT + SELECTOR.OTHER_TSS + 5)]).toBe(0x89);
  });
});

describe('every mode can be tried', () => {
  for (const mode of ['real', 'protected', 'long'] as LabMode[]) it(mode, () => expect(new Lab(mode).firstException([0x90])).toBe('none'));
});
