import { describe, expect, it } from 'vitest';
import { VECTOR } from '../faults.ts';
import { bareMetal } from './bare-metal.ts';
import { binaryTranslation } from './binary-translation.ts';
import { hardwareAssisted } from './hardware-assisted.ts';
import { crossingsOf, models } from './models.ts';
import { sensitiveInstructions } from './sensitive.ts';
import { specimen } from './specimen.ts';
import { trapAndEmulate } from './trap-and-emulate.ts';

const TRUTH = { interruptsAfterCli: false, interruptsAfterPopf: true, gdtLimit: specimen.gdtLimit, output: '!' };

describe('the specimen', () => {
  it('on the bare machine notes the truth and retires what its listing says', () => {
    const { notes, lies, crossings, instructions } = bareMetal();
    expect(notes).toEqual(TRUTH);
    expect(lies).toEqual([]);
    expect(crossings).toBe(0);
    expect(instructions).toBe(specimen.retired);
  });

  it('under trap and emulate is lied to by POPF and SGDT, and by nothing else', () => {
    const { lies, crossings, notes } = trapAndEmulate();
    expect(lies).toEqual(['interruptsAfterPopf', 'gdtLimit']);
    expect(notes.output).toBe('!');
    expect(crossings).toBe(3); // cli, out, hlt
  });

  it('translated notes the truth, and its loop runs without the monitor', () => {
    const { notes, callouts, chained, crossings } = binaryTranslation();
    expect(notes).toEqual(TRUTH);
    expect(callouts).toBe(specimen.sensitive);
    expect(chained).toBeLessThanOrEqual(3);
    expect(crossings).toBe(callouts + chained);
  });

  it('in non-root operation notes the truth and exits for the port and the halt alone', () => {
    const { notes, crossings, instructions } = hardwareAssisted();
    expect(notes).toEqual(TRUTH);
    expect(crossings).toBe(2);
    expect(instructions).toBeGreaterThanOrEqual(specimen.retired - 2);
  });
});

describe('sensitive instructions in ring 3', () => {
  const verdicts = new Map(sensitiveInstructions().map(({ text, vector }) => [text, vector]));

  it.each(['cli', 'hlt', 'lgdt [0x2000]', 'mov eax, cr0', 'rdmsr', 'out 0xe9, al'])('%s traps', (text) => {
    expect(verdicts.get(text)).toBe(VECTOR.GP);
  });

  it.each(['sgdt [0x2000]', 'smsw ax', 'pushf', 'popf', 'lar eax, ecx', 'mov ax, cs'])('%s says nothing', (text) => {
    expect(verdicts.get(text)).toBeNull();
  });
});

describe('the three models', () => {
  it('bring the byte to the device, by routes of two, four and four crossings', () => {
    const journeys = models();
    expect(journeys.map(({ output }) => output)).toEqual(['!', '!', '!']);
    expect(journeys.map(crossingsOf)).toEqual([2, 4, 4]);
  });
});
