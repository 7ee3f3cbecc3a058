// # Off
//
// A machine that can switch itself off says in its tables how: the port is in the fixed table, and the number to write there is an object of the name `_S5_` in
// the program that the firmware supplies. Small systems do without an interpreter for that program and look for the name.

#include "acpi.h"
#include "last.h"

static u32 value_of(const volatile u8 *code, u32 *length) {
  if (code[0] == 0x0a) {
    *length = 2;
    return code[1];
  }
  *length = 1;
  return code[0]; // zero and one are opcodes of their own
}

_Noreturn void main(void) {
  stage("find");
  const volatile struct rsdp *root = find_root();
  obs("root", root != 0);
  if (!root) done();
  const volatile struct header *fadt = find_table(NAME('F', 'A', 'C', 'P'), root);
  const volatile struct header *dsdt = (const volatile struct header *)(word)u32_at(fadt, 40);
  u16 control = (u16)u32_at(fadt, 64);
  u32 at = 0;
  for (u32 i = 36; i + 8 < dsdt->length && !at; i++)
    if (u32_at(dsdt, i) == NAME('_', 'S', '5', '_') && ((const volatile u8 *)dsdt)[i + 4] == 0x12) at = i;
  obs("object", at != 0);
  if (!at) done();
  const volatile u8 *package = (const volatile u8 *)dsdt + at + 5;
  package += 1 + (package[0] >> 6); // its length
  package++; // how many
  u32 length;
  u32 type = value_of(package, &length);
  obs("type.small", type < 8);

  // In ACPI mode, or by way of the port that leads there.
  if (!(inw(control) & 1) && u32_at(fadt, 48) != 0) {
    outb((u16)u32_at(fadt, 48), ((const volatile u8 *)fadt)[52]);
    for (u32 patience = 0; patience < 1000000 && !(inw(control) & 1); patience++) asm volatile("pause");
  }
  obs("enabled", inw(control) & 1);

  stage("type");
  outw(control, (u16)((inw(control) & ~0x3c00) | type << 10)); // the type alone does nothing
  obs("stays", 1);
  say_done();
  outw(control, (u16)((inw(control) & ~0x3c00) | type << 10 | 1 << 13));
  for (u32 patience = 0; patience < 1000000; patience++) asm volatile("pause");
  ABORT("the machine stays on");
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
