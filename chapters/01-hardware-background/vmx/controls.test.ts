import { describe, expect, it } from 'vitest';
import { CR4 } from '../state.ts';
import { CR4_BITS } from '../system/control.ts';
import { adjust, CAPABILITY, cr4Fixed1, readVmxMsr, VMX_MSR } from './controls.ts';
import { FIELD, REVISION_ID } from './vmcs.ts';

describe('capability MSRs', () => {
  it('agree with what VM entry accepts', () => {
    const words = [
      [VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS, CAPABILITY.pin],
      [VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, CAPABILITY.cpuBased],
      [VMX_MSR.IA32_VMX_PROCBASED_CTLS2, CAPABILITY.secondary],
      [VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS, CAPABILITY.exit],
      [VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, CAPABILITY.entry],
    ] as const;
    for (const [index, capability] of words) {
      const value = readVmxMsr(index) as bigint;
      const mustBe1 = Number(value & 0xffff_ffffn);
      const mayBe1 = Number(value >> 32n);
      expect(mustBe1 & ~mayBe1).toBe(0);
      expect(adjust(0, capability)).toBe(mustBe1);
      expect(adjust(0xffff_ffff, capability)).toBe(mayBe1);
    }
  });

  it('describe the VMCS region', () => {
    const basic = readVmxMsr(VMX_MSR.IA32_VMX_BASIC) as bigint;
    expect(Number(basic & 0x7fff_ffffn)).toBe(REVISION_ID);
    expect((basic >> 32n) & 0x1fffn).toBe(4096n);
    expect((basic >> 50n) & 0xfn).toBe(6n);
    expect(readVmxMsr(VMX_MSR.IA32_VMX_VMCS_ENUM)).toBe(BigInt(FIELD.GUEST_SYSENTER_CS & 0x3ff)); // the highest index in use
    expect(readVmxMsr(VMX_MSR.IA32_VMX_CR4_FIXED1)).toBe(BigInt(cr4Fixed1(48)));
    expect(cr4Fixed1(48)).toBe(CR4_BITS);
    expect(readVmxMsr(VMX_MSR.IA32_VMX_CR4_FIXED1, 57)).toBe(BigInt(CR4_BITS | CR4.LA57));
    expect(readVmxMsr(0x491)).toBeNull();
    expect(readVmxMsr(0x3a)).toBe(5n);
  });
});
