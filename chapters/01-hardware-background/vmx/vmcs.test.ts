import { describe, expect, it } from 'vitest';
import { EXIT_REASON, exitReasonName, instructionErrorName } from './exit-reasons.ts';
import {
  ABSENT,
  AT,
  cellOf,
  FIELD,
  type FieldName,
  fieldBytes,
  fieldIndex,
  fieldName,
  fieldType,
  fieldWidth,
  HIGH_HALF,
  REGION_BYTES,
  SUPPORTED_FIELDS,
} from './vmcs.ts';

const names = Object.keys(FIELD) as FieldName[];

describe('the field table', () => {
  it('has one encoding for each field, with the reserved bits clear', () => {
    expect(new Set(Object.values(FIELD)).size).toBe(names.length);
    for (const name of names) expect([name, FIELD[name] & ~0x6ffe]).toEqual([name, 0]);
  });

  it('agrees with the names about the type', () => {
    const readOnly =
      /^(GUEST_PHYSICAL_ADDRESS|GUEST_LINEAR_ADDRESS|EXIT_QUALIFICATION|VM_INSTRUCTION_ERROR|VM_EXIT_(REASON|INTR_|INSTRUCTION_LEN)|IDT_|VMX_INSTR|IO_R)/;
    const guest = /^(GUEST_|VMCS_LINK_POINTER|VMX_PREEMPTION_TIMER_VALUE)/;
    for (const name of names) {
      const expected = readOnly.test(name) ? 'read-only' : guest.test(name) ? 'guest' : name.startsWith('HOST_') ? 'host' : 'control';
      expect([name, fieldType(FIELD[name])]).toEqual([name, expected]);
    }
  });

  it('agrees with the names about the width', () => {
    for (const name of names) {
      const width = fieldWidth(FIELD[name]);
      if (/SELECTOR$|PROCESSOR_ID$/.test(name)) expect([name, width]).toEqual([name, 16]);
      if (/_(BASE|CR0|CR3|CR4|DR7|RIP|RSP|RFLAGS|ESP|EIP|SSP)$/.test(name)) expect([name, width]).toEqual([name, 'natural']);
      if (/(LIMIT|AR_BYTES|CONTROLS|COUNT)$|_VM_EXEC_CONTROL$/.test(name) && !name.startsWith('TERTIARY')) expect([name, width]).toEqual([name, 32]);
      if (/(_PAT|_EFER|DEBUGCTL|_ADDR|BITMAP_A|PDPTR\d|_POINTER)$/.test(name)) expect([name, width]).toEqual([name, 64]);
    }
  });

  it('spells the encodings of the manual', () => {
    // Intel SDM vol. 3, appendix "Field Encoding in VMCS": one of each width and type.
    // biome-ignore format: table
    const known: Partial<Record<FieldName, number>> = {
      VIRTUAL_PROCESSOR_ID: 0x0000, GUEST_TR_SELECTOR: 0x080e, HOST_TR_SELECTOR: 0x0c0c, EPT_POINTER: 0x201a, GUEST_PHYSICAL_ADDRESS: 0x2400,
      GUEST_PDPTR0: 0x280a, HOST_IA32_EFER: 0x2c02, EXCEPTION_BITMAP: 0x4004, VM_EXIT_REASON: 0x4402, GUEST_ACTIVITY_STATE: 0x4826,
      HOST_IA32_SYSENTER_CS: 0x4c00, CR0_GUEST_HOST_MASK: 0x6000, EXIT_QUALIFICATION: 0x6400, GUEST_RIP: 0x681e, HOST_RIP: 0x6c16,
    };
    for (const [name, encoding] of Object.entries(known)) expect([name, FIELD[name as FieldName]]).toEqual([name, encoding]);
    expect(fieldIndex(FIELD.HOST_RIP)).toBe(11);
  });

  it('gives each field a cell of its own inside the region', () => {
    const cells = Object.values(AT);
    expect(new Set(cells).size).toBe(names.length);
    for (const at of cells) expect(at % 8 === 0 && at >= 64 && at + 8 <= REGION_BYTES).toBe(true);
  });

  it('finds exactly the supported fields by encoding', () => {
    const found = new Set<string>();
    for (let encoding = 0; encoding < 0x1_0000; encoding++) {
      const at = cellOf(encoding);
      if (at < 0) continue;
      found.add(fieldName(encoding & ~HIGH_HALF));
      if (encoding & HIGH_HALF) expect([fieldWidth(encoding), at % 8, fieldBytes(encoding)]).toEqual([64, 4, 4]);
      else expect(at % 8).toBe(0);
    }
    expect([...found].sort()).toEqual([...SUPPORTED_FIELDS].sort());
    for (const name of Object.keys(ABSENT) as FieldName[]) expect(cellOf(FIELD[name])).toBe(-1);
  });

  it('moves the right number of bytes', () => {
    expect(fieldBytes(FIELD.GUEST_CS_SELECTOR)).toBe(2);
    expect(fieldBytes(FIELD.EXCEPTION_BITMAP)).toBe(4);
    expect(fieldBytes(FIELD.TSC_OFFSET)).toBe(8);
    expect(fieldBytes(FIELD.GUEST_RIP)).toBe(8);
    expect(fieldName(FIELD.TSC_OFFSET | HIGH_HALF)).toBe('TSC_OFFSET_HIGH');
    expect(fieldName(0x7ffe)).toBe('0x7ffe');
  });
});

describe('names of numbers', () => {
  it('prints reasons and errors', () => {
    expect(exitReasonName(0x8000_0021)).toBe('INVALID_STATE');
    expect(exitReasonName(35)).toBe('UNKNOWN_35');
    expect(instructionErrorName(12)).toBe('UNSUPPORTED_VMCS_COMPONENT');
    expect(new Set(Object.values(EXIT_REASON)).size).toBe(Object.keys(EXIT_REASON).length);
  });
});
