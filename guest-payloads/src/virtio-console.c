// # A console through two rings
//
// What is sent comes back, because whoever is at the other end of this machine's consoles repeats what it hears. So the payload can compare: every byte, in order, whatever
// pieces it was cut into on the way out, and into buffers that were given before there was anything to put in them.

#include "virtqueue.h"

#define RX 0
#define TX 1
#define TEXT_BYTES 1500

static struct queue_memory rx_memory, tx_memory;
static struct queue rx, tx;
static u8 text[TEXT_BYTES];
static u8 heard[TEXT_BYTES + 256];
static u32 heard_bytes;
static u8 buffers[4][200];
static u32 owner[QUEUE_LIMIT]; // which buffer a chain is

static void offer(u32 buffer) {
  struct piece piece = {buffers[buffer], sizeof buffers[0], 1};
  u16 from = rx.next;
  owner[give(&rx, &piece, 1, 0)] = buffer;
  kick_since(&rx, from);
}

/** Listens until so many bytes have come, not for ever. */
static u32 listen(u32 bytes) {
  heard_bytes = 0;
  u32 longest = 0;
  for (u32 patience = 0; patience < 2000000 && heard_bytes < bytes; patience++) {
    u32 id = take(&rx);
    if (id == NO_CHAIN) {
      asm volatile("pause");
      continue;
    }
    if (rx.taken > longest) longest = rx.taken;
    for (u32 i = 0; i < rx.taken && i < sizeof buffers[0] && heard_bytes < sizeof heard; i++) heard[heard_bytes++] = buffers[owner[id]][i];
    offer(owner[id]);
    patience = 0;
  }
  return longest;
}

_Noreturn void main(void) {
  stage("find");
  if (!find_device(ID_CONSOLE)) ABORT("no console");
  begin(F_PACKED | F_INDIRECT | F_EVENT_IDX);
  report_transport();
  queue_init(&rx, &rx_memory, RX, 16);
  queue_init(&tx, &tx_memory, TX, 16);
  ready();
  obs("status", status());
  for (u32 i = 0; i < 4; i++) offer(i);

  stage("hello");
  static const char hello[] = "hello, ring";
  for (u32 i = 0; i < sizeof hello - 1; i++) text[i] = hello[i];
  struct piece one[] = {{text, sizeof hello - 1, 0}};
  obs("hello.length", exchange(&tx, one, 1));
  listen(sizeof hello - 1);
  obs("hello.heard", heard_bytes);
  obs("hello.same", checksum(heard, heard_bytes) == checksum(text, sizeof hello - 1));

  stage("pieces");
  for (u32 i = 0; i < TEXT_BYTES; i++) text[i] = 'a' + i % 26 + (i / 26 & 1 ? 0 : 'A' - 'a');
  struct piece four[] = {{text, 1, 0}, {text + 1, 99, 0}, {text + 100, 1000, 0}, {text + 1100, TEXT_BYTES - 1100, 0}};
  obs("pieces.length", exchange(&tx, four, 4));
  u32 longest = listen(TEXT_BYTES);
  obs("pieces.heard", heard_bytes);
  obs("pieces.same", checksum(heard, heard_bytes) == checksum(text, TEXT_BYTES));
  obs("pieces.longest", longest <= sizeof buffers[0]);

  stage("lines");
  u32 same = 0;
  for (u32 i = 0; i < 20; i++) {
    for (u32 k = 0; k < 7; k++) text[k] = '0' + (i + k) % 10;
    struct piece line[] = {{text, 7, 0}};
    exchange(&tx, line, 1);
    listen(7);
    same += heard_bytes == 7 && checksum(heard, 7) == checksum(text, 7);
  }
  obs("lines.same", same);
  done();
}
