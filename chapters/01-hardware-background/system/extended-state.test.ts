import { describe, expect, it } from 'vitest';
import { CR0, CR4, OFFSET, SLOT } from '../state.ts';
import { FCW_INIT, XCR0_SUPPORTED, XSAVE_BYTES } from './extended-state.ts';
import { Lab, type LabMode, PLACE } from './laboratory.ts';

const le32 = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, (n >>> 24) & 0xff];
const XGETBV = [0x0f, 0x01, 0xd0];
const XSETBV = [0x0f, 0x01, 0xd1];
const AREA = PLACE.DATA & ~63;
const HEADER = 512;
/** Bits of the header and of XCR0. */
const COMPONENT = { X87: 1, SSE: 2 } as const;
const registers = (eax: number, edx = 0, ecx = 0): number[] => [0xb8, ...le32(eax), 0xba, ...le32(edx), 0xb9, ...le32(ecx)];
/** [ebx], for the three instructions on a block. */
const onBlock = (digit: 4 | 5 | 6, mask: number, at = AREA): number[] => [...registers(mask), 0xbb, ...le32(at), 0x0f, 0xae, (digit << 3) | 3];
const [XSAVE, XRSTOR, XSAVEOPT] = [4, 5, 6] as const;

function lab({ mode = 'protected', cpl = 0, enabled = true }: { mode?: LabMode; cpl?: 0 | 3; enabled?: boolean } = {}): Lab {
  const made = new Lab(mode, cpl);
  const { state } = made;
  state.set64(OFFSET.CR4, state.get64(OFFSET.CR4) | BigInt(CR4.OSFXSR | (enabled ? CR4.OSXSAVE : 0)));
  state.set64(OFFSET.XCR0, 3n);
  state.fpu.set([FCW_INIT & 0xff, FCW_INIT >> 8, 0, 0, 0]); // as after FNINIT
  made.machine.memory.slice(AREA, XSAVE_BYTES).fill(0xa5, 0, HEADER);
  made.machine.memory.slice(AREA, XSAVE_BYTES).fill(0, HEADER);
  return made;
}
const block = (made: Lab): DataView => {
  const { buffer, byteOffset, length } = made.machine.memory.slice(AREA, XSAVE_BYTES);
  return new DataView(buffer, byteOffset, length);
};
const useXmm = (made: Lab): void => made.state.view.setBigUint64(OFFSET.FPU + 160, 0x1234n, true);

describe('CPUID', () => {
  it('offers XSAVE, and says whether the system has switched it on', () => {
    for (const enabled of [false, true]) {
      const { cpu } = lab({ enabled });
      const ecx = cpu.cpuid(cpu, 1, 0)[2];
      expect([(ecx >>> 26) & 1, (ecx >>> 27) & 1]).toEqual([1, enabled ? 1 : 0]);
    }
  });
  it('leaf 0xd', () => {
    const { cpu } = lab();
    expect([0, 1, 2, 3].map((n) => cpu.cpuid(cpu, 0xd, n))).toEqual([
      [XCR0_SUPPORTED, XSAVE_BYTES, XSAVE_BYTES, 0],
      [1, 0, 0, 0],
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ]);
  });
});

describe('XCR0', () => {
  for (const [name, code, want] of [
    ['x87 alone', [...registers(1), ...XSETBV], 'none'],
    ['x87 and SSE', [...registers(3), ...XSETBV], 'none'],
    ['nothing', [...registers(0), ...XSETBV], '#GP(0)'],
    ['without x87', [...registers(2), ...XSETBV], '#GP(0)'],
    ['AVX, which is not there', [...registers(7), ...XSETBV], '#GP(0)'],
    ['upper half', [...registers(3, 1), ...XSETBV], '#GP(0)'],
    ['another register', [...registers(3, 0, 1), ...XSETBV], '#GP(0)'],
    ['reading another register', [...registers(3, 0, 1), ...XGETBV], '#GP(0)'],
  ] as const)
    it(`${name}: ${want}`, () => expect(lab().firstException([...code])).toBe(want));
  it('is for ring 0 to write, and for all to read', () => {
    expect(lab({ cpl: 3 }).firstException([...registers(3), ...XSETBV])).toBe('#GP(0)');
    const made = lab({ cpl: 3 });
    made.run([...registers(-1, -1), ...XGETBV, 0xcc]);
    expect([made.slot(SLOT.RAX), made.slot(SLOT.RDX)]).toEqual([3n, 0n]);
  });
  it('XGETBV clears the upper halves', () => {
    const made = lab({ mode: 'long' });
    made.run([0x48, 0x83, 0xc8, 0xff, 0x48, 0x83, 0xca, 0xff, 0x31, 0xc9, ...XGETBV, 0xf4]); // rax and rdx: -1
    expect([made.slot(SLOT.RAX), made.slot(SLOT.RDX)]).toEqual([3n, 0n]);
  });
  for (const [name, code] of [
    ['XGETBV', [...registers(0), ...XGETBV]],
    ['XSETBV', [...registers(3), ...XSETBV]],
    ['XSAVE', onBlock(XSAVE, 3)],
    ['XSAVEOPT', onBlock(XSAVEOPT, 3)],
    ['XRSTOR', onBlock(XRSTOR, 3)],
  ] as const)
    it(`${name} is undefined without CR4.OSXSAVE`, () => expect(lab({ enabled: false }).firstException([...code])).toBe('#UD'));
  it('CR4.OSXSAVE can be set, and cleared again', () => {
    const made = lab({ enabled: false });
    expect(made.firstException([0x0f, 0x20, 0xe0, 0x0d, ...le32(CR4.OSXSAVE), 0x0f, 0x22, 0xe0])).toBe('none');
    expect(made.state.low32(OFFSET.CR4) & CR4.OSXSAVE).toBe(CR4.OSXSAVE);
  });
});

describe('a block', () => {
  it('XSAVE stores what is in its initial state, and does not mark it', () => {
    const made = lab();
    made.run([...onBlock(XSAVE, 3), 0xf4]);
    expect(block(made).getUint16(0, true)).toBe(FCW_INIT);
    expect(block(made).getBigUint64(160, true)).toBe(0n);
    expect(block(made).getBigUint64(HEADER, true)).toBe(0n);
  });
  it('XSAVEOPT leaves it out', () => {
    const made = lab();
    useXmm(made);
    block(made).setUint32(HEADER, COMPONENT.X87, true);
    made.run([...onBlock(XSAVEOPT, 3), 0xf4]);
    expect(block(made).getUint16(0, true)).toBe(0xa5a5);
    expect(block(made).getBigUint64(160, true)).toBe(0x1234n);
    expect(block(made).getBigUint64(HEADER, true)).toBe(BigInt(COMPONENT.SSE));
  });
  it('what XCR0 has not is neither stored nor marked, whatever the mask', () => {
    const made = lab();
    made.state.set64(OFFSET.XCR0, 1n);
    useXmm(made);
    made.run([...onBlock(XSAVE, -1), 0xf4]);
    expect(block(made).getUint16(0, true)).toBe(FCW_INIT);
    expect(block(made).getBigUint64(160, true)).toBe(0xa5a5a5a5a5a5a5a5n);
    expect(block(made).getUint32(24, true)).toBe(0xa5a5a5a5);
  });
  it('a mark that XCR0 has not is refused, whatever the mask', () => {
    const made = lab();
    made.state.set64(OFFSET.XCR0, 1n);
    block(made).setUint32(HEADER, COMPONENT.SSE, true);
    expect(made.firstException(onBlock(XRSTOR, 1))).toBe('#GP(0)');
  });
  it('XRSTOR makes initial what is not marked', () => {
    const made = lab();
    useXmm(made);
    made.state.view.setUint16(OFFSET.FPU, 0x27f, true);
    block(made).setUint32(24, 0x1fa0, true);
    expect(made.firstException(onBlock(XRSTOR, 3))).toBe('none');
    expect(made.state.view.getUint16(OFFSET.FPU, true)).toBe(FCW_INIT);
    expect(made.state.view.getUint32(OFFSET.FPU + 24, true)).toBe(0x1fa0);
    expect(made.state.view.getBigUint64(OFFSET.FPU + 160, true)).toBe(0n);
  });
  for (const [name, prepare, code, want] of [
    ['XSAVE, not aligned', () => {}, onBlock(XSAVE, 3, AREA + 16), '#GP(0)'],
    ['XRSTOR, not aligned', () => {}, onBlock(XRSTOR, 3, AREA + 32), '#GP(0)'],
    ['a mark beyond XCR0', (view) => view.setUint32(HEADER, 4, true), onBlock(XRSTOR, 3), '#GP(0)'],
    ['a compacted block', (view) => view.setUint32(HEADER + 12, 1 << 31, true), onBlock(XRSTOR, 3), '#GP(0)'],
    ['a header that is not zero', (view) => view.setUint8(HEADER + 23, 1), onBlock(XRSTOR, 3), '#GP(0)'],
    ['a header that is not zero further on', (view) => view.setUint8(HEADER + 24, 1), onBlock(XRSTOR, 1), 'none'],
    ['reserved bits of MXCSR', () => {}, onBlock(XRSTOR, 2), '#GP(0)'],
    ['reserved bits of MXCSR that nobody asks for', () => {}, onBlock(XRSTOR, 1), 'none'],
  ] as readonly (readonly [string, (view: DataView) => void, number[], string])[])
    it(`${name}: ${want}`, () => {
      const made = lab();
      prepare(block(made));
      expect(made.firstException(code)).toBe(want);
    });
  for (const [name, digit] of [
    ['XSAVE', XSAVE],
    ['XSAVEOPT', XSAVEOPT],
    ['XRSTOR', XRSTOR],
  ] as const)
    it(`${name} with CR0.TS: #NM`, () => {
      const made = lab();
      made.state.set64(OFFSET.CR0, made.state.get64(OFFSET.CR0) | BigInt(CR0.TS));
      made.cpu.modeChanged();
      expect(made.firstException(onBlock(digit, 1))).toBe('#NM');
    });
});
