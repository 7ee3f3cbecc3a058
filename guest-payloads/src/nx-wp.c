// # Permissions over the levels
//
// An access has to be allowed by every entry on its way: writable and user count as the *and* of all levels, no-execute as the *or*. CR0.WP decides
// whether ring 0 is bound by read-only pages.

#include "paging.h"

extern u64 rb_pml4[512];
static PAGE u64 pdpt[512], pd[512], pt[512];
static PAGE volatile u8 frame[4096];

#define AT 0x8000000000ul

static void flush(void) {
  write_cr3(read_cr3());
}

_Noreturn void main(void) {
  frame[0] = 0xc3;
  write_msr(EFER, read_msr(EFER) | EFER_NXE);

  // Each level in turn lacks one permission; everything else is granted.
  u64 *levels[4] = {&rb_pml4[1], &pdpt[0], &pd[0], &pt[0]};
  u64 targets[4] = {address_of(pdpt), address_of(pd), address_of(pt), address_of(frame)};
  static const char *const names[4][4] = {
      {"pml4.readonly.write", "pml4.readonly.user.write", "pml4.supervisor.user.read", "pml4.nx.execute"},
      {"pdpt.readonly.write", "pdpt.readonly.user.write", "pdpt.supervisor.user.read", "pdpt.nx.execute"},
      {"pd.readonly.write", "pd.readonly.user.write", "pd.supervisor.user.read", "pd.nx.execute"},
      {"pt.readonly.write", "pt.readonly.user.write", "pt.supervisor.user.read", "pt.nx.execute"},
  };
  stage("levels");
  write_cr0(read_cr0() | CR0_WP);
  for (u32 weak = 0; weak < 4; weak++) {
    for (u32 lacking = 0; lacking < 3; lacking++) {
      for (u32 i = 0; i < 4; i++) {
        u64 flags = PRESENT | WRITABLE | USER;
        if (i == weak) flags ^= lacking == 0 ? WRITABLE : lacking == 1 ? USER : NX;
        *levels[i] = targets[i] | flags;
      }
      flush();
      if (lacking == 0) {
        obs(names[weak][0], touch(WRITE, AT, 0xc3));
        obs(names[weak][1], user_touch(WRITE, AT, 0xc3));
      } else if (lacking == 1) {
        obs(names[weak][2], user_touch(READ, AT, 0));
      } else {
        obs(names[weak][3], touch(EXECUTE, AT, 0));
      }
    }
  }

  stage("write-protect");
  for (u32 i = 0; i < 4; i++) *levels[i] = targets[i] | PRESENT | WRITABLE | USER;
  pt[0] &= ~WRITABLE;
  flush();
  obs("wp1.write", touch(WRITE, AT, 0xc3));
  write_cr0(read_cr0() & ~CR0_WP);
  obs("wp0.write", touch(WRITE, AT, 0xc3));
  obs("wp0.user.write", user_touch(WRITE, AT, 0xc3)); // ring 3 is bound in any case
  write_cr0(read_cr0() | CR0_WP);
  obs("wp1.again", touch(WRITE, AT, 0xc3)); // and the cached translation does not keep the permission

  // Execution from a page that is for ring 3, in ring 0: allowed, unless SMEP forbids. Reading it: allowed, unless SMAP does.
  stage("supervisor");
  pt[0] = targets[3] | PRESENT | WRITABLE | USER;
  flush();
  obs("smep0.execute", touch(EXECUTE, AT, 0));
  u32 leaf[4];
  cpuid(7, 0, leaf);
  obs("supports", (leaf[1] >> 7 & 1) | (leaf[1] >> 20 & 1) << 1); // SMEP, SMAP
  done();
}
