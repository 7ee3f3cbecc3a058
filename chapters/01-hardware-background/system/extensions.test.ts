import { describe, expect, it } from 'vitest';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { CR0, CR4, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { modelCpuid } from './cpuid.ts';
import { loadRealSegment } from './descriptors.ts';
import { Lab, PLACE } from './laboratory.ts';

const HLT = 0xf4;
const { VIF, VIP, IF, IOPL, TF, VM, FIXED } = FLAG;

// ## A second interrupt flag

const IO_MAP = 0xa0;
const REDIRECTION = IO_MAP - 32;

/** A virtual-8086 task at 1000:0, its stack at 900:100. */
function v86(flags: number, cr4: number = CR4.VME): Lab {
  const lab = new Lab('protected', 0);
  const { state, cpu } = lab;
  const { view } = lab.machine.memory;
  const tss = lab.machine.memory.offset(PLACE.TSS, 0x200);
  view.setUint16(tss + 102, IO_MAP, true);
  state.setSegLimit(SEG.TR, 0x1ff);
  state.set64(OFFSET.CR4, BigInt(cr4));
  writeFlags(state, FIXED | VM | flags);
  state.set32(OFFSET.CPL, 3);
  for (const seg of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS]) loadRealSegment(cpu, seg, 0x900);
  loadRealSegment(cpu, SEG.CS, PLACE.CODE >> 4);
  state.setSlotNumber(SLOT.RSP, 0x100);
  for (const slot of [SLOT.RIP, SLOT.NEXT_RIP]) state.setSlotNumber(slot, 0);
  cpu.modeChanged();
  return lab;
}
/** Runs one instruction. Returns what exception it raised, and the flags then. */
function step(lab: Lab, code: readonly number[]): { exception: string; flags: number } {
  lab.machine.load(PLACE.CODE, code);
  lab.trace.events.length = 0;
  lab.machine.run(1);
  const first = lab.trace.of('exception')[0];
  return { exception: first ? `${first.vector}(${first.errorCode})` : 'none', flags: readFlags(lab.state) };
}
const pushed = (lab: Lab, at: number): number => lab.machine.memory.view.getUint16(lab.machine.memory.offset(0x9000 + at, 2), true);
const put = (lab: Lab, at: number, value: number): void => lab.machine.memory.view.setUint16(lab.machine.memory.offset(0x9000 + at, 2), value, true);

describe('VME', () => {
  it('CLI and STI change VIF and leave IF alone', () => {
    const cli = step(v86(IF | VIF), [0xfa]);
    expect([cli.exception, cli.flags & (IF | VIF)]).toEqual(['none', IF]);
    const sti = step(v86(0), [0xfb]);
    expect([sti.exception, sti.flags & (IF | VIF)]).toEqual(['none', VIF]);
  });
  it('STI with an interrupt waiting, or without VME, is #GP', () => {
    expect(step(v86(VIP), [0xfb]).exception).toBe('13(0)');
    expect(step(v86(0, 0), [0xfb]).exception).toBe('13(0)');
    expect(step(v86(VIP | IOPL, 0), [0xfb]).exception).toBe('none'); // with IOPL 3 it is IF after all
  });
  it('PUSHF shows VIF in the place of IF, and IOPL 3', () => {
    const lab = v86(IF);
    expect(step(lab, [0x9c]).exception).toBe('none');
    expect(pushed(lab, 0xfe) & (IF | IOPL)).toBe(IOPL);
    const other = v86(VIF);
    step(other, [0x9c]);
    expect(pushed(other, 0xfe) & (IF | IOPL)).toBe(IF | IOPL);
    expect(step(v86(0), [0x66, 0x9c]).exception).toBe('13(0)');
  });
  it.each([
    ['sets VIF', 0, IF, 'none', VIF],
    ['clears VIF', VIF, 0, 'none', 0],
    ['does not set TF', 0, TF, '13(0)', 0],
    ['does not let a waiting interrupt in', VIP, IF, '13(0)', 0],
    ['keeps it out', VIP | VIF, 0, 'none', 0],
  ])('POPF and IRET: %s', (_what, before, image, exception, vif) => {
    for (const code of [0x9d, 0xcf]) {
      const lab = v86(before);
      if (code === 0xcf) [0x20, PLACE.CODE >> 4].forEach((word, n) => void put(lab, 0x100 + 2 * n, word));
      put(lab, code === 0xcf ? 0x104 : 0x100, image);
      const outcome = step(lab, [code]);
      expect([code, outcome.exception]).toEqual([code, exception]);
      if (exception === 'none') expect([code, outcome.flags & (VIF | IF | IOPL)]).toEqual([code, vif]);
    }
  });
  it('INT n goes through the table of the program where the bitmap lets it', () => {
    const lab = v86(VIF | IF);
    lab.machine.memory.view.setUint32(lab.machine.memory.offset(4 * 0x21, 4), 0x12340040, true);
    const { exception, flags } = step(lab, [0xcd, 0x21]);
    expect(exception).toBe('none');
    expect(flags & (VM | VIF | IF)).toBe(VM | IF);
    expect([lab.state.segSelector(SEG.CS), lab.state.slot(SLOT.NEXT_RIP)]).toEqual([0x1234, 0x40n]);
    expect([pushed(lab, 0xfa), pushed(lab, 0xfc), pushed(lab, 0xfe) & (IF | IOPL)]).toEqual([2, PLACE.CODE >> 4, IF | IOPL]);
  });
  it('INT n is the monitor’s where the bitmap says so', () => {
    const lab = v86(0);
    lab.machine.memory.u8[lab.machine.memory.offset(PLACE.TSS + REDIRECTION + 4, 1)] = 2; // vector 21
    expect(step(lab, [0xcd, 0x21]).exception).toBe('13(0)');
    expect(step(v86(0, 0), [0xcd, 0x21]).exception).toBe('13(0)');
  });
});

describe('PVI', () => {
  const ring3 = (flags: number, cr4: number): Lab => {
    const lab = new Lab('protected', 3);
    lab.state.set64(OFFSET.CR4, BigInt(cr4));
    writeFlags(lab.state, FIXED | flags);
    lab.cpu.modeChanged();
    return lab;
  };
  it('CLI and STI of ring 3 change VIF', () => {
    expect(step(ring3(VIF | IF, CR4.PVI), [0xfa]).flags & (VIF | IF)).toBe(IF);
    expect(step(ring3(0, CR4.PVI), [0xfb]).flags & (VIF | IF)).toBe(VIF);
  });
  it('is #GP without the bit, and with an interrupt waiting', () => {
    expect(step(ring3(0, 0), [0xfb]).exception).toBe('13(0)');
    expect(step(ring3(VIP, CR4.PVI), [0xfb]).exception).toBe('13(0)');
  });
});

// ## Contexts and levels

const MOV_CR0 = [0x0f, 0x22, 0xc0];
const MOV_CR3 = [0x0f, 0x22, 0xd8];
const MOV_CR4 = [0x0f, 0x22, 0xe0];

describe('PCID', () => {
  const enabled = (): Lab => {
    const lab = new Lab('long', 0);
    lab.state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.PCIDE));
    return lab;
  };
  it('is switched on in long mode only, and from context 0', () => {
    const lab = new Lab('long', 0);
    lab.state.setSlotNumber(SLOT.RAX, CR4.PAE | CR4.PCIDE);
    expect(lab.firstException(MOV_CR4)).toBe('none');
    const other = new Lab('long', 0);
    other.state.setSlotNumber(SLOT.RAX, CR4.PAE | CR4.PCIDE);
    other.state.set64(OFFSET.CR3, BigInt(PLACE.TABLES + 0x18));
    expect(other.firstException(MOV_CR4)).toBe('#GP(0)');
    const short = new Lab('protected', 0);
    short.state.setSlotNumber(SLOT.RAX, CR4.PCIDE);
    expect(short.firstException(MOV_CR4)).toBe('#GP(0)');
  });
  it('keeps paging on', () => {
    const lab = new Lab('long', 0);
    lab.fill(SEG.CS, 8); // compatibility mode, where paging could be switched off otherwise
    lab.state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.PCIDE));
    lab.cpu.modeChanged();
    lab.state.setSlotNumber(SLOT.RAX, CR0.PE | CR0.ET);
    expect(lab.firstException(MOV_CR0)).toBe('#GP(0)');
  });
  it('bit 63 of CR3 is an order, and not stored; without PCIDE it is reserved', () => {
    const lab = enabled();
    lab.state.setSlot(SLOT.RAX, (1n << 63n) | BigInt(PLACE.TABLES));
    expect(lab.firstException(MOV_CR3)).toBe('none');
    expect(lab.state.get64(OFFSET.CR3)).toBe(BigInt(PLACE.TABLES));
    expect(lab.trace.of('tlb_flush')).toEqual([]);
    const other = new Lab('long', 0);
    other.state.setSlot(SLOT.RAX, (1n << 63n) | BigInt(PLACE.TABLES));
    expect(other.firstException(MOV_CR3)).toBe('#GP(0)');
  });
  it('another context finds nothing of the last', () => {
    const lab = enabled();
    lab.state.setSlot(SLOT.RAX, (1n << 63n) | BigInt(PLACE.TABLES + 1));
    lab.firstException(MOV_CR3);
    expect(lab.trace.of('tlb_flush').map(({ why }) => why)).toEqual(['cr3']);
  });
});

describe('5-level paging', () => {
  const UPPER = 0x00ff_0000_0000_0000n; // canonical with 57 bits, not with 48
  const five = (): Lab => {
    const lab = new Lab('long', 0, 57);
    const { view } = lab.machine.memory;
    for (const entry of [0, 0xff]) {
      view.setBigUint64(lab.machine.memory.offset(PLACE.TABLES + 0x2000 + 8 * entry, 8), BigInt(PLACE.TABLES) | 7n, true);
    }
    lab.state.set64(OFFSET.CR3, BigInt(PLACE.TABLES + 0x2000));
    lab.state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.LA57));
    lab.cpu.mmu.flush('test');
    lab.cpu.modeChanged();
    return lab;
  };
  const load = [0x48, 0x8b, 0x03]; // mov rax, [rbx]

  it('translates 57 bits', () => {
    const lab = five();
    lab.machine.memory.view.setBigUint64(lab.machine.memory.offset(PLACE.DATA, 8), 0x1122n, true);
    lab.state.setSlot(SLOT.RBX, UPPER + BigInt(PLACE.DATA));
    expect([lab.firstException(load), lab.slot(SLOT.RAX)]).toEqual(['none', 0x1122n]);
    expect(lab.trace.of('walk').some(({ level }) => level === 5)).toBe(true);
  });
  it('faults for an address that no table maps, and refuses one that is not canonical', () => {
    const lab = five();
    lab.state.setSlot(SLOT.RBX, 1n << 48n);
    expect(lab.firstException(load)).toBe('#PF(0)');
    const other = five();
    other.state.setSlot(SLOT.RBX, 1n << 56n);
    expect(other.firstException(load)).toBe('#GP(0)');
    const jump = five();
    jump.state.setSlot(SLOT.RBX, 1n << 56n);
    expect(jump.firstException([0xff, 0xe3])).toBe('#GP(0)');
  });
  it('does not come and go in long mode, and is offered only where it is', () => {
    const lab = five();
    lab.state.setSlotNumber(SLOT.RAX, CR4.PAE);
    expect(lab.firstException(MOV_CR4)).toBe('#GP(0)');
    expect([57, 48].map((bits) => (modelCpuid(new Lab('long', 0, bits as 48 | 57).cpu, 7, 0)[2] >> 16) & 1)).toEqual([1, 0]);
    const narrow = new Lab('protected', 0);
    narrow.state.setSlotNumber(SLOT.RAX, CR4.LA57);
    expect(narrow.firstException(MOV_CR4)).toBe('#GP(0)');
  });
  it('bases take what the processor could translate', () => {
    const write = (bits: 48 | 57, value: bigint): string => {
      const lab = new Lab('long', 0, bits);
      lab.state.setSlotNumber(SLOT.RCX, 0xc0000100);
      lab.state.setSlot(SLOT.RAX, value & 0xffffffffn);
      lab.state.setSlot(SLOT.RDX, value >> 32n);
      return lab.firstException([0x0f, 0x30]);
    };
    expect([write(48, UPPER), write(57, UPPER), write(57, 1n << 56n)]).toEqual(['#GP(0)', 'none', '#GP(0)']);
  });
});

// ## Registers and numbers

describe('MTRRs', () => {
  const write = (index: number, value: bigint): string => {
    const lab = new Lab('long', 0);
    lab.state.setSlotNumber(SLOT.RCX, index);
    lab.state.setSlot(SLOT.RAX, value & 0xffffffffn);
    lab.state.setSlot(SLOT.RDX, value >> 32n);
    const exception = lab.firstException([0x0f, 0x30]);
    if (exception === 'none') expect(lab.cpu.readMsr(index)).toBe(value);
    return exception;
  };
  it.each([
    ['capabilities', 0xfe, 0x508n, '#GP(0)'],
    ['fixed range, write-back', 0x250, 0x0606060606060606n, 'none'],
    ['fixed range, type 2', 0x26f, 0x0602060606060606n, '#GP(0)'],
    ['base', 0x200, 0x80000006n, 'none'],
    ['base, type 3', 0x200, 0x80000003n, '#GP(0)'],
    ['base beyond memory', 0x20e, (1n << 40n) | 6n, '#GP(0)'],
    ['mask', 0x20f, 0xff80000800n, 'none'],
    ['mask, reserved bit', 0x201, 0x80000400n, '#GP(0)'],
    ['default', 0x2ff, 0xc06n, 'none'],
    ['default, reserved bit', 0x2ff, 0x1006n, '#GP(0)'],
    ['no ninth range', 0x210, 0n, '#GP(0)'],
  ])('%s', (_name, index, value, exception) => expect(write(index, value)).toBe(exception));
});

it('says that it does not speculate, and nobody can write that', () => {
  const lab = new Lab('long', 0);
  expect((modelCpuid(lab.cpu, 7, 0)[3] >>> 29) & 1).toBe(1);
  // RDCL_NO, MDS_NO, and not what was never asked for: IBRS_ALL, which speaks of a register that is not here.
  expect([0, 5, 1].map((bit) => (lab.cpu.readMsr(0x10a) >> BigInt(bit)) & 1n)).toEqual([1n, 1n, 0n]);
  lab.state.setSlotNumber(SLOT.RCX, 0x10a);
  expect(lab.firstException([0x0f, 0x30])).toBe('#GP(0)');
});

describe('RDRAND and RDSEED', () => {
  const draw = (code: readonly number[]): { values: bigint[]; flags: number } => {
    const lab = new Lab('long', 0);
    writeFlags(lab.state, FIXED | FLAG.ZF | FLAG.OF | FLAG.SF);
    lab.run([...code, 0x48, 0x0f, 0xc7, 0xf3, HLT]); // rdrand rbx
    return { values: [lab.slot(SLOT.RAX), lab.slot(SLOT.RBX)], flags: readFlags(lab.state) };
  };
  it('give different numbers one after the other, and the same in the next run', () => {
    const once = draw([0x48, 0x0f, 0xc7, 0xf0]);
    expect(once.values[0]).not.toBe(once.values[1]);
    expect(draw([0x48, 0x0f, 0xc7, 0xf0])).toEqual(once);
    expect(draw([0x48, 0x0f, 0xc7, 0xf8]).values).toEqual(once.values);
    expect(once.flags & (FLAG.CF | FLAG.ZF | FLAG.OF | FLAG.SF)).toBe(FLAG.CF);
  });
  it('leave the rest of a 16-bit register alone', () => {
    const lab = new Lab('long', 0);
    lab.state.setSlot(SLOT.RAX, 0x1234_5678_9abc_def0n);
    lab.run([0x66, 0x0f, 0xc7, 0xf0, HLT]);
    expect(lab.slot(SLOT.RAX) >> 16n).toBe(0x1234_5678_9abcn);
  });
});
