// # What a page fault says
//
// The error code: bit 0, the page was there and the access not allowed; bit 1, it was a write; bit 2, in ring 3; bit 3, a reserved bit was set in an
// entry; bit 4, it was the fetch of an instruction. The address is in CR2.

#include "paging.h"

#if MODE == 64
typedef u64 entry;
extern entry rb_pml4[512];
static PAGE entry pdpt[512], pd[512];
#define AT 0x8000000000ul
#else
typedef u32 entry;
static PAGE entry directory[1024], identity[1024];
#define AT 0x40000000ul
#endif
static PAGE entry pt[4096 / sizeof(entry)];
static PAGE volatile u8 frame[4096];

static void set(u32 index, entry flags) {
  pt[index] = address_of(frame) | flags;
  invlpg((void *)(AT + index * 4096));
}

_Noreturn void main(void) {
#if MODE == 64
  rb_pml4[1] = address_of(pdpt) | PRESENT | WRITABLE | USER;
  pdpt[0] = address_of(pd) | PRESENT | WRITABLE | USER;
  pd[0] = address_of(pt) | PRESENT | WRITABLE | USER;
#else
  for (u32 i = 0; i < 1024; i++) identity[i] = i << 12 | PRESENT | WRITABLE | USER;
  directory[0] = address_of(identity) | PRESENT | WRITABLE | USER;
  directory[AT >> 22] = address_of(pt) | PRESENT | WRITABLE | USER;
  write_cr3(address_of(directory));
  write_cr0(read_cr0() | CR0_PG);
#endif
  write_cr0(read_cr0() | CR0_WP);
  frame[0] = 0xc3; // RET, for the fetches
  frame[0x80] = 0xc3;

  stage("absent");
  obs("absent.read", touch(READ, AT, 0));
  obs("absent.write", touch(WRITE, AT + 0x123, 0));
  obs("absent.write.cr2", trap_cr2);
  obs("absent.execute", touch(EXECUTE, AT, 0)); // bit 4 only if no-execute is on: here it is not
  obs("absent.user.read", user_touch(READ, AT, 0));
  obs("absent.user.write", user_touch(WRITE, AT, 0));
  obs("absent.user.execute", user_touch(EXECUTE, AT, 0));

  stage("supervisor");
  set(1, PRESENT | WRITABLE);
  obs("supervisor.read", touch(READ, AT + 0x1000, 0));
  obs("supervisor.user.read", user_touch(READ, AT + 0x1000, 0));
  obs("supervisor.user.write", user_touch(WRITE, AT + 0x1000 + 7, 0));
  obs("supervisor.user.cr2", trap_cr2);
  obs("supervisor.user.execute", user_touch(EXECUTE, AT + 0x1000, 0));

  stage("read-only");
  set(2, PRESENT | USER);
  obs("readonly.read", touch(READ, AT + 0x2000, 0));
  obs("readonly.write", touch(WRITE, AT + 0x2000, 0));
  obs("readonly.user.read", user_touch(READ, AT + 0x2000, 0));
  obs("readonly.user.write", user_touch(WRITE, AT + 0x2000, 0));
  obs("readonly.user.execute", user_touch(EXECUTE, AT + 0x2000, 0));

  // An instruction that reads, modifies and writes is a write from the start, even one that finds nothing to change. The code lies on the read-only
  // page itself, for a probe of a call has the code's own address in the register that it uses.
  static const u8 modify[] = {0x80, 0x0b, 0x00, 0xc3}; // OR byte [EBX or RBX], 0; RET
  for (u32 i = 0; i < sizeof modify; i++) frame[0x300 + i] = modify[i];
  set(3, PRESENT);
  word result = probe(EXECUTE, (void *)(AT + 0x3300), 0);
  obs("modify", outcome(EXECUTE, result));
  obs("modify.cr2", trap_cr2);

  // Over a page boundary with the second page missing: CR2 is the first address *not* accessible, not that of the operand.
  stage("straddle");
  set(4, PRESENT | WRITABLE | USER);
  static const u8 wide[] = {0x8b, 0x83, 0xff, 0x0f, 0, 0, 0xc3}; // MOV EAX, [EBX+0xFFF]; RET
  for (u32 i = 0; i < sizeof wide; i++) frame[0x200 + i] = wide[i];
  result = probe(EXECUTE, (void *)(AT + 0x4000 + 0x200), 0); // reads 0x200 + 0xFFF beyond: inside page 5
  obs("straddle", outcome(EXECUTE, result));
  obs("straddle.cr2", trap_cr2);
  for (u32 i = 0; i < sizeof wide; i++) frame[i] = wide[i];
  result = probe(EXECUTE, (void *)(AT + 0x4000), 0); // at 0xFFF: one byte here, three there
  obs("straddle.half", outcome(EXECUTE, result));
  obs("straddle.half.cr2", trap_cr2);
  frame[0] = 0xc3;

  // An instruction that runs over the end of its page into a missing one: CR2 is the second page, the saved address that of the instruction.
  frame[0xffe] = 0x90;
  frame[0xfff] = 0xb8; // MOV EAX, imm32, of which nothing follows
  result = probe(EXECUTE, (void *)(AT + 0x4ffe), 0);
  obs("fetch", outcome(EXECUTE, result));
  obs("fetch.cr2", trap_cr2);
  obs("fetch.ip", trap_ip);

#if MODE == 64
  // Reserved bits. Bit 51 of an entry is an address bit that few machines have; bit 7 of a top-level entry is reserved on all.
  stage("reserved");
  rb_pml4[2] = address_of(pdpt) | PRESENT | WRITABLE | USER | LARGE;
  obs("reserved.read", touch(READ, AT * 2, 0));
  obs("reserved.write", touch(WRITE, AT * 2, 0));
  obs("reserved.user.read", user_touch(READ, AT * 2, 0));
  obs("reserved.user.write", user_touch(WRITE, AT * 2 + 9, 0));
  obs("reserved.cr2", trap_cr2);

  // Fetches, with no-execute on. Now bit 4 is reported for pages that are absent, too.
  stage("no-execute");
  write_msr(EFER, read_msr(EFER) | EFER_NXE);
  obs("nx.absent.execute", touch(EXECUTE, AT, 0));
  set(6, PRESENT | WRITABLE | USER | NX);
  obs("nx.read", touch(READ, AT + 0x6000 + 0x80, 0));
  obs("nx.execute", touch(EXECUTE, AT + 0x6000 + 0x80, 0));
  obs("nx.user.execute", user_touch(EXECUTE, AT + 0x6000 + 0x80, 0));
  obs("nx.cr2", trap_cr2);
  set(6, PRESENT | WRITABLE | NX);
  obs("nx.supervisor.user.execute", user_touch(EXECUTE, AT + 0x6000 + 0x80, 0));
#endif
  done();
}
