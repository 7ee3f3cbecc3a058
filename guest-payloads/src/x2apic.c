// # The local APIC as MSRs
//
// In x2APIC mode the registers are model-specific registers, the identifier is 32 bits wide, and the command register is one write. The way there is one-way: out
// of it only through "off".

#include "apic.h"

static void on_interrupt(u32 vector) {
  (void)vector;
  write_msr(0x80b, 0);
}
HANDLER(0x31)

extern u8 msr_write_probe[], msr_read_probe[];
static volatile u32 msr_index, msr_low, msr_high;
asm(".section .text.msr, \"ax\"\n"
    "msr_write_probe: movl msr_index, %ecx\n movl msr_low, %eax\n movl msr_high, %edx\n wrmsr\n ret\n"
    "msr_read_probe: movl msr_index, %ecx\n rdmsr\n movl %eax, msr_low\n movl %edx, msr_high\n ret\n"
    ".text\n");

static word try_write(u32 index, u64 value) {
  msr_index = index;
  msr_low = (u32)value;
  msr_high = (u32)(value >> 32);
  return probe(EXECUTE, msr_write_probe, 0);
}
static word try_read(u32 index) {
  msr_index = index;
  return probe(EXECUTE, msr_read_probe, 0);
}

_Noreturn void main(void) {
  INSTALL(0x31);
  apic_on();
  u32 leaf[4];
  cpuid(1, 0, leaf);
  obs("supported", leaf[2] >> 21 & 1);
  if (!(leaf[2] >> 21 & 1)) done();
  u32 xapic_id = APIC(APIC_ID) >> 24;
  APIC(APIC_LDR) = 0x01000000;

  stage("before");
  obs("msr.before", try_read(0x802)); // the registers are not MSRs yet

  stage("on");
  u64 base = read_msr(APIC_BASE);
  obs("off.to.x2", try_write(APIC_BASE, (base & ~(u64)APIC_ENABLE) | APIC_X2)); // from "on" to "x2 without on": not a state
  obs("on.to.x2", try_write(APIC_BASE, base | APIC_X2));
  obs("id", (u32)read_msr(0x802) == xapic_id);
  obs("ldr", (u32)read_msr(0x80d) == ((xapic_id >> 4 << 16) | 1u << (xapic_id & 15)));
  obs("back", try_write(APIC_BASE, base));

  stage("self");
  write_msr(0x80f, 0x100 | SPURIOUS);
  forget();
  write_msr(0x83f, 0x31); // self-IPI is a register of its own
  obs("self.count", wait_for(1));
  forget();
  write_msr(0x830, (u64)(u32)read_msr(0x802) << 32 | 0x31); // the whole command in one write
  obs("icr.count", wait_for(1));
  obs("icr.reads", (u32)read_msr(0x830) & 0xfff);

  stage("refused");
  obs("id.write", try_write(0x802, 0));
  obs("ldr.write", try_write(0x80d, 0));
  obs("eoi.nonzero", try_write(0x80b, 1));
  obs("eoi.read", try_read(0x80b));
  obs("self.read", try_read(0x83f));
  obs("dfr", try_read(0x80e)); // there is no such register here
  obs("icr2", try_read(0x831));
  obs("reserved.svr", try_write(0x80f, 0x80000000u));
  obs("tpr.reserved", try_write(0x808, 0x100));

  stage("off");
  obs("x2.to.off", try_write(APIC_BASE, base & ~(u64)APIC_ENABLE));
  obs("off.msr", try_read(0x802));
  cpuid(1, 0, leaf);
  obs("off.cpuid", leaf[3] >> 9 & 1);
  obs("off.to.on", try_write(APIC_BASE, base));
  done();
}
