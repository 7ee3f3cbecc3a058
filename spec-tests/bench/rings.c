// The yardstick for rings: a driver and a device over one piece of memory, in C. A driver fills the ring with one-descriptor chains, the device takes each out, checks that
// it lies within the memory, writes a serial number into it, gives it back, and the driver takes them home and adds the numbers up: none may be lost, none
// may come twice, none may be read before it is there. In one thread they take turns. In two they spin, and who has looked in vain for long sleeps a little: on a
// machine with other work a side that spins may be keeping the other from its processor. Prints buffers and seconds.
//
//   rings split|packed one|two BUFFERS
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SIZE 256
#define MEMORY (1 << 20)
#define WRITE 2
#define AVAIL 0x80
#define USED 0x8000
#define VAIN 1000 // looks before a sleep

struct descriptor {
  uint64_t addr;
  uint32_t len;
  uint16_t flags, next;
};
struct packed {
  uint64_t addr;
  uint32_t len;
  uint16_t id, flags;
};
struct element {
  uint32_t id, len;
};

static unsigned char memory[MEMORY] __attribute__((aligned(4096)));
static struct descriptor *const table = (struct descriptor *)memory;
static uint16_t *const avail = (uint16_t *)(memory + SIZE * 16);
static uint16_t *const used = (uint16_t *)(memory + 8192);
static struct packed *const ring = (struct packed *)memory;
static long wanted;
static uint32_t serial, sum; // the device's, the driver's

#define ACQUIRE(place) __atomic_load_n(&(place), __ATOMIC_ACQUIRE)
#define RELEASE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELEASE)

static void escaped(void) {
  fprintf(stderr, "a buffer outside of memory\n");
  exit(1);
}
static int within(uint64_t addr, uint32_t len) {
  return addr <= MEMORY && len <= MEMORY - addr;
}
static void serve_buffer(uint64_t addr, uint32_t len) {
  if (!within(addr, len)) escaped();
  *(uint32_t *)(memory + addr) = serial++;
}
static void take_buffer(uint32_t id) {
  sum += *(uint32_t *)(memory + 0x10000 + id * 64);
}
// Who has looked in vain so often sleeps for as short a time as the system can.
static void idle(int *vain) {
  static const struct timespec nap = {0, 1000};
  if (++*vain < VAIN) return;
  *vain = 0;
  nanosleep(&nap, NULL);
}

// ## Split

static uint16_t free_head, free_count = SIZE, put, seen; // the driver's
static uint16_t taken, given;                            // the device's

static long split_give(long most) {
  long count = 0;
  uint16_t next = put;
  while (free_count && count < most) {
    uint16_t head = free_head;
    free_head = table[head].next;
    free_count--;
    table[head].addr = 0x10000 + head * 64;
    table[head].len = 64;
    table[head].flags = WRITE;
    avail[2 + next++ % SIZE] = head;
    count++;
  }
  RELEASE(avail[1], next);
  put = next;
  return count;
}
static long split_serve(void) {
  long count = 0;
  uint16_t until = ACQUIRE(avail[1]);
  while (taken != until) {
    uint16_t head = avail[2 + taken++ % SIZE] % SIZE;
    struct descriptor d = table[head];
    serve_buffer(d.addr, d.len);
    struct element *e = (struct element *)(used + 2) + given++ % SIZE;
    e->id = head;
    e->len = d.len;
    count++;
  }
  if (count) RELEASE(used[1], given);
  return count;
}
static long split_take(void) {
  long count = 0;
  uint16_t until = ACQUIRE(used[1]);
  while (seen != until) {
    struct element *e = (struct element *)(used + 2) + seen++ % SIZE;
    take_buffer(e->id);
    table[e->id].next = free_head;
    free_head = e->id;
    free_count++;
    count++;
  }
  return count;
}

// ## Packed

static uint16_t place_put, place_seen, place_taken, place_given;
static int wrap_put = 1, wrap_seen = 1, wrap_taken = 1, wrap_given = 1;
static uint16_t ids[SIZE], ids_left;

static void step(uint16_t *place, int *wrap) {
  if (++*place == SIZE) *place = 0, *wrap ^= 1;
}
static long packed_give(long most) {
  long count = 0;
  while (ids_left && count < most) {
    struct packed *d = &ring[place_put];
    uint16_t id = ids[--ids_left];
    d->addr = 0x10000 + id * 64;
    d->len = 64;
    d->id = id;
    RELEASE(d->flags, WRITE | (wrap_put ? AVAIL : USED));
    step(&place_put, &wrap_put);
    count++;
  }
  return count;
}
static long packed_serve(void) {
  long count = 0;
  for (;;) {
    struct packed *d = &ring[place_taken];
    uint16_t flags = ACQUIRE(d->flags);
    if (((flags & AVAIL) != 0) != wrap_taken || ((flags & USED) != 0) == wrap_taken) return count;
    serve_buffer(d->addr, d->len);
    uint16_t id = d->id;
    uint32_t len = d->len;
    step(&place_taken, &wrap_taken);
    struct packed *back = &ring[place_given];
    back->id = id;
    back->len = len;
    RELEASE(back->flags, wrap_given ? AVAIL | USED : 0);
    step(&place_given, &wrap_given);
    count++;
  }
}
static long packed_take(void) {
  long count = 0;
  for (;;) {
    struct packed *d = &ring[place_seen];
    uint16_t flags = ACQUIRE(d->flags);
    if (((flags & AVAIL) != 0) != wrap_seen || ((flags & USED) != 0) != wrap_seen) return count;
    take_buffer(d->id);
    ids[ids_left++] = d->id;
    step(&place_seen, &wrap_seen);
    count++;
  }
}

// ## Both

static long (*give)(long), (*serve)(void), (*take)(void);

static void *device(void *unused) {
  (void)unused;
  int vain = 0;
  for (long done = 0, count; done < wanted; done += count)
    if ((count = serve())) vain = 0;
    else idle(&vain);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: rings split|packed one|two BUFFERS\n"), 2;
  int is_packed = !strcmp(argv[1], "packed"), two = !strcmp(argv[2], "two");
  wanted = atol(argv[3]);
  for (int i = 0; i < SIZE && !is_packed; i++) table[i].next = i + 1;
  for (ids_left = 0; ids_left < SIZE; ids_left++) ids[ids_left] = ids_left;
  give = is_packed ? packed_give : split_give;
  serve = is_packed ? packed_serve : split_serve;
  take = is_packed ? packed_take : split_take;
  struct timespec began, ended;
  clockid_t clock = two ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID; // one thread: what runs beside it does not count
  clock_gettime(clock, &began);
  pthread_t thread;
  if (two && pthread_create(&thread, NULL, device, NULL)) return perror("pthread_create"), 1;
  int vain = 0;
  for (long given_out = 0, home = 0; home < wanted;) {
    long out = give(wanted - given_out), back;
    given_out += out;
    if (!two) serve();
    home += back = take();
    if (out || back) vain = 0;
    else idle(&vain);
  }
  if (two) pthread_join(thread, NULL);
  clock_gettime(clock, &ended);
  if (sum != (uint32_t)((uint64_t)wanted * (wanted - 1) / 2)) return fprintf(stderr, "the numbers do not add up\n"), 1;
  printf("%ld %.6f\n", wanted, (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9);
  return 0;
}
