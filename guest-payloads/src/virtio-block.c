// # A disk through a ring
//
// Reads sectors whose contents are known, writes others and reads them back, cuts its requests into whatever pieces it likes, asks for what is beyond the end, and asks
// who the disk is.

#include "virtqueue.h"

#define T_IN 0
#define T_OUT 1
#define T_FLUSH 4
#define T_GET_ID 8
#define T_UNKNOWN 0x7f
#define S_OK 0
#define S_IOERR 1
#define S_UNSUPP 2
#define F_FLUSH (1ull << 9)
#define SECTOR 512

static struct queue_memory memory;
static struct queue q;
static struct {
  u32 type, reserved;
  u64 sector;
} header;
static volatile u8 result;
static u8 data[16 * SECTOR] __attribute__((aligned(16)));

/** The word that a fresh disk has at each place. */
static u32 pattern(u32 word_index) {
  return word_index * 2654435761u;
}

static u32 request(u32 type, u64 sector, const struct piece *middle, u32 count) {
  struct piece pieces[8];
  header.type = type;
  header.reserved = 0;
  header.sector = sector;
  pieces[0] = (struct piece){&header, sizeof header, 0};
  for (u32 i = 0; i < count; i++) pieces[1 + i] = middle[i];
  pieces[1 + count] = (struct piece){&result, 1, 1};
  result = 0xee;
  return exchange(&q, pieces, count + 2);
}

_Noreturn void main(void) {
  stage("find");
  if (!find_device(ID_BLOCK)) ABORT("no block device");
  begin(F_PACKED | F_INDIRECT | F_EVENT_IDX | F_FLUSH);
  report_transport();
  queue_init(&q, &memory, 0, 16);
  ready();
  obs("status", status());
  u32 sectors = config32(0);
  obs("capacity", sectors);

  stage("read");
  struct piece eight[] = {{data, 8 * SECTOR, 1}};
  obs("read.length", request(T_IN, 3, eight, 1));
  obs("read.status", result);
  u32 wrong = 0;
  for (u32 i = 0; i < 8 * SECTOR / 4; i++) wrong += ((u32 *)data)[i] != pattern(3 * SECTOR / 4 + i);
  obs("read.wrong", wrong);
  struct piece odd[] = {{data, 1, 1}, {data + 1, 510, 1}, {data + 511, 513, 1}};
  for (u32 i = 0; i < 2 * SECTOR; i++) data[i] = 0;
  obs("odd.length", request(T_IN, sectors - 2, odd, 3));
  wrong = 0;
  for (u32 i = 0; i < 2 * SECTOR / 4; i++) wrong += ((u32 *)data)[i] != pattern((sectors - 2) * (SECTOR / 4) + i);
  obs("odd.wrong", wrong);

  stage("write");
  for (u32 i = 0; i < sizeof data; i++) data[i] = (u8)(i * 13 + (i >> 8));
  u32 sum = checksum(data, 4 * SECTOR);
  struct piece three[] = {{data, 700, 0}, {data + 700, 4, 0}, {data + 704, 4 * SECTOR - 704, 0}};
  obs("write.length", request(T_OUT, 20, three, 3));
  obs("write.status", result);
  if (vd.features & F_FLUSH) {
    request(T_FLUSH, 0, 0, 0);
    obs("flush.status", result);
  }
  for (u32 i = 0; i < sizeof data; i++) data[i] = 0;
  struct piece four[] = {{data, 4 * SECTOR, 1}};
  request(T_IN, 20, four, 1);
  obs("again.status", result);
  obs("again.same", checksum(data, 4 * SECTOR) == sum);
  struct piece neighbour[] = {{data, SECTOR, 1}};
  request(T_IN, 24, neighbour, 1);
  obs("neighbour", ((u32 *)data)[0] == pattern(24 * SECTOR / 4));

  stage("edge");
  obs("end.length", request(T_IN, sectors, neighbour, 1) != NO_CHAIN);
  obs("end.status", result);
  struct piece over[] = {{data, 2 * SECTOR, 1}};
  request(T_IN, sectors - 1, over, 1);
  obs("over.status", result);
  request(T_IN, 0xffffffffffffffffull, neighbour, 1);
  obs("wrap.status", result);
  request(T_UNKNOWN, 0, neighbour, 1);
  obs("unknown.status", result);
  struct piece name[] = {{data, 20, 1}};
  request(T_GET_ID, 0, name, 1);
  obs("id.status", result);

  // Code that was executed, and is then replaced by what the device reads from the disk: MOV EAX, n; RET.
  stage("code");
  static const u8 body[] = {0xb8, 0, 0, 0, 0, 0xc3};
  u32 (*answer)(void) = (u32(*)(void))(word)(data + SECTOR);
  for (u32 n = 1; n <= 2; n++) {
    for (u32 i = 0; i < sizeof body; i++) data[SECTOR + i] = body[i];
    data[SECTOR + 1] = n;
    struct piece program[] = {{data + SECTOR, SECTOR, 0}};
    request(T_OUT, 40 + n, program, 1);
  }
  struct piece program[] = {{data + SECTOR, SECTOR, 1}};
  request(T_IN, 41, program, 1);
  obs("code.first", answer());
  request(T_IN, 42, program, 1);
  obs("code.second", answer());

  // The ring, many times around.
  stage("around");
  u32 good = 0;
  for (u32 i = 0; i < 40; i++) {
    request(T_IN, i % 16, neighbour, 1);
    u32 first = i % 16 * (SECTOR / 4);
    good += result == S_OK && ((u32 *)data)[5] == pattern(first + 5);
  }
  obs("around", good);
  done();
}
