// # What the machine tells its firmware
//
// Two ports, a number that says which item, and then its bytes, one at a time; or an address, and the machine copies. Firmware finds the size of memory there, the
// boot order, and the ACPI tables that it is to lay out.

#include "irq.h"

static u8 bytes[64];
static volatile struct {
  u32 control, length;
  u64 address;
} request __attribute__((aligned(16)));

static u32 swapped(u32 value) {
  return value << 24 | (value & 0xff00) << 8 | (value >> 8 & 0xff00) | value >> 24;
}
static u32 word_here(void) {
  u32 value = 0;
  for (u32 i = 0; i < 4; i++) value = value << 8 | inb(0x511);
  return value;
}
/** One transfer; the control word as it is afterwards. */
static u32 transfer(u32 control, u32 length) {
  request.control = swapped(control);
  request.length = swapped(length);
  request.address = (u64)swapped((u32)bytes) << 32;
  outl(0x514, 0);
  outl(0x518, swapped((u32)&request)); // this one begins
  for (u32 patience = 0; patience < 100000 && swapped(request.control) & ~1u; patience++) continue;
  return swapped(request.control);
}

_Noreturn void main(void) {
  stage("signature");
  outw(0x510, 0);
  obs("signature", word_here());
  obs("past", word_here());
  outw(0x510, 0);
  obs("anew", inb(0x511));
  outw(0x510, 1);
  u32 features = swapped(word_here());
  obs("features", features & 3);

  stage("directory");
  outw(0x510, 0x19);
  u32 count = word_here();
  u32 malformed = 0;
  for (u32 n = 0; n < count && n < 256; n++) {
    word_here(); // its size
    u32 key = inb(0x511) << 8;
    key |= inb(0x511);
    inb(0x511);
    inb(0x511);
    u32 length = 0, ended = 0;
    for (u32 i = 0; i < 56; i++) {
      if (inb(0x511) == 0) ended = 1;
      else if (ended) malformed++; // zeros to the end
      else length++;
    }
    if (key < 0x20 || length == 0 || !ended) malformed++;
  }
  obs("directory.some", count > 0 && count < 256);
  obs("directory.malformed", malformed);

  stage("dma");
  if (!(features & 2)) done();
  for (u32 i = 0; i < 64; i++) bytes[i] = 0xaa;
  obs("dma.control", transfer(0x0a, 6)); // select item 0 and read
  obs("dma.signature", (u32)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3]);
  obs("dma.past", bytes[4] | bytes[5]);
  obs("dma.no.more", bytes[6]);
  obs("dma.skip", transfer(0x0c, 2)); // select, and pass over two
  transfer(0x02, 2);
  obs("dma.rest", bytes[0] << 8 | bytes[1]);
  obs("dma.refused", transfer(0x18, 4)); // the signature cannot be written
  done();
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
