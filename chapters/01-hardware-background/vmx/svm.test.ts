import { describe, expect, it } from 'vitest';
import { EXIT_REASON, type ExitReasonName } from './exit-reasons.ts';
import { CONCEPTS, COUNTERPARTS, differences, SVM_EXIT, VMCB_SAVE_OFFSET, VmcbControl, VmcbSave, VmcbSegment } from './svm.ts';

describe('the table of differences', () => {
  it('has a row for every VMX exit reason', () => {
    expect(Object.keys(COUNTERPARTS)).toEqual(Object.keys(EXIT_REASON));
    expect(differences('same') + differences('nearest') + differences('none')).toBe(Object.keys(EXIT_REASON).length);
  });

  it('maps to codes, or says why it does not', () => {
    for (const [reason, { kind, codes, note }] of Object.entries(COUNTERPARTS)) {
      if (kind === 'none') expect([reason, codes.length, Boolean(note)]).toEqual([reason, 0, true]);
      else expect(codes.length, reason).toBeGreaterThan(0);
      if (kind === 'nearest') expect(note, reason).toBeTruthy();
      for (const code of codes) expect(SVM_EXIT[code], code).toBeTypeOf('bigint');
    }
  });

  it('gives each exit code one number', () => {
    expect(new Set(Object.values(SVM_EXIT)).size).toBe(Object.keys(SVM_EXIT).length);
  });

  it('claims the same event for one reason only, but for pairs that SVM folds', () => {
    const owners = new Map<string, ExitReasonName[]>();
    for (const [reason, { kind, codes }] of Object.entries(COUNTERPARTS)) {
      if (kind === 'same') for (const code of codes) owners.set(code, [...(owners.get(code) ?? []), reason as ExitReasonName]);
    }
    const shared = [...owners].filter(([, reasons]) => reasons.length > 1);
    expect(shared).toEqual([['MSR', ['MSR_READ', 'MSR_WRITE']]]);
  });

  it('compares each concept once', () => {
    expect(new Set(CONCEPTS.map((row) => row.concept)).size).toBe(CONCEPTS.length);
    for (const row of CONCEPTS) expect(row.vmx && row.svm, row.concept).toBeTruthy();
  });
});

describe('the VMCB', () => {
  it('is one page with the save area in its second kilobyte', () => {
    expect(VMCB_SAVE_OFFSET).toBe(0x400);
    expect(VMCB_SAVE_OFFSET + VmcbSave.bytes).toBeLessThanOrEqual(4096);
    expect(VmcbSave.bytes).toBe(744);
    expect(VmcbSegment.bytes).toBe(16);
  });

  it('has fields that do not overlap', () => {
    for (const area of [VmcbControl, VmcbSave, VmcbSegment]) {
      let end = 0;
      for (const [name, field] of Object.entries(area.fields)) {
        expect(field.offset, `${area.name}.${name}`).toBeGreaterThanOrEqual(end);
        end = field.offset + field.bytes;
      }
    }
  });

  it('reads back what was stored', () => {
    const page = VmcbControl.encode({ asid: 1, exit_code: SVM_EXIT.NPF, nested_cr3: 0x1000n });
    expect(VmcbControl.decode(page)).toMatchObject({ asid: 1, exit_code: 0x400n, nested_cr3: 0x1000n, tlb_ctl: 0 });
    expect(page[0x71]).toBe(4);
  });
});
