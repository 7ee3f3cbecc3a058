// # A network card
//
// Finds the card, asks its EEPROM and its PHY who they are, and sends an ARP request: "who has 10.0.2.2?" Whoever is at the other end of the wire
// answers, and the answer is awaited once by looking and once by interrupt. Then the card talks to itself, to see what does not depend on a partner.

#include "pc.h"

#define CTRL 0x0000
#define STATUS 0x0008
#define EECD 0x0010
#define EERD 0x0014
#define MDIC 0x0020
#define ICR 0x00c0
#define ICS 0x00c8
#define IMS 0x00d0
#define IMC 0x00d8
#define RCTL 0x0100
#define TCTL 0x0400
#define RDBAL 0x2800
#define RDLEN 0x2808
#define RDH 0x2810
#define RDT 0x2818
#define TDBAL 0x3800
#define TDLEN 0x3808
#define TDH 0x3810
#define TDT 0x3818
#define RAL 0x5400
#define RAH 0x5404
#define GPTC 0x4080
#define TXDW 1
#define RXT0 0x80
#define NET_IRQ 11

#define RING 16
#define BUFFER_BYTES 2048
static struct descriptor {
  u64 address;
  u16 length;
  u8 cso, cmd, status, css;
  u16 special;
} tx[RING] __attribute__((aligned(128))), rx[RING] __attribute__((aligned(128)));
static u8 frames[RING][BUFFER_BYTES] __attribute__((aligned(16)));
static u8 message[256];
static volatile u8 *base;
static u32 tail, next;

static u32 reg(u32 offset) {
  return *(volatile u32 *)(base + offset);
}
static void set(u32 offset, u32 value) {
  *(volatile u32 *)(base + offset) = value;
}

// Reading the causes lets go of the line. It is a level: without that the interrupt would come again at once.
static volatile u32 causes;
static void on_interrupt(u32 vector) {
  (void)vector;
  causes = reg(ICR);
  irq_end();
}
HANDLER(0x2b)

static u16 eeprom(u32 at) {
  set(EERD, at << 8 | 1);
  for (u32 i = 0; i < 100000; i++) {
    u32 value = reg(EERD);
    if (value & 0x10) return value >> 16;
  }
  ABORT("the EEPROM does not answer");
}

/** The same word over the wires: select, start bit, read, six bits of address, sixteen of data. */
static u32 wires(u32 bits, u32 count) {
  u32 out = 0;
  for (u32 i = count; i-- > 0;) {
    u32 lines = 0x42 | (bits >> i & 1) << 2;
    set(EECD, lines);
    set(EECD, lines | 1);
    out = out << 1 | (reg(EECD) >> 3 & 1);
    set(EECD, lines);
  }
  return out;
}

static u32 phy(u32 command) {
  set(MDIC, command | 1 << 21);
  for (u32 i = 0; i < 100000; i++) {
    u32 value = reg(MDIC);
    if (value & 1 << 28) return value & 0xffff;
  }
  ABORT("the PHY does not answer");
}
#define PHY_READ(n) phy(2u << 26 | (n) << 16)
#define PHY_WRITE(n, value) phy(1u << 26 | (n) << 16 | (value))

static void send(u32 bytes) {
  tx[tail].address = (u32)message;
  tx[tail].length = bytes;
  tx[tail].cso = tx[tail].css = tx[tail].status = 0;
  tx[tail].cmd = 0x0b; // the whole frame, with its check sequence, and report
  tx[tail].special = 0;
  tail = (tail + 1) % RING;
  set(TDT, tail);
}

/** Waits for the next frame; its length, or 0. */
static u32 next_frame(void) {
  for (u32 i = 0; i < 3000000; i++) {
    if (*(volatile u8 *)&rx[next].status & 1) return rx[next].length;
    asm volatile("pause");
  }
  return 0;
}
static void give_back(void) {
  rx[next].status = 0;
  set(RDT, next);
  next = (next + 1) % RING;
}

static void ask(const u8 *mac) {
  for (u32 i = 0; i < 60; i++) message[i] = 0;
  for (u32 i = 0; i < 6; i++) {
    message[i] = 0xff;
    message[6 + i] = message[22 + i] = mac[i];
  }
  message[12] = 8, message[13] = 6; // ARP,
  message[15] = 1, message[16] = 8, message[18] = 6, message[19] = 4, message[21] = 1; // Ethernet, IPv4, request
  message[28] = message[38] = 10, message[30] = message[40] = 2;
  message[31] = 15, message[41] = 2;
  send(60);
}

static void report(const u8 *mac, const char *length, const char *type, const char *operation, const char *mine) {
  const u8 *frame = frames[next];
  u32 same = 0;
  for (u32 i = 0; i < 6; i++) same += frame[i] == mac[i];
  obs(length, rx[next].length >= 60);
  obs(type, frame[12] << 8 | frame[13]);
  obs(operation, frame[20] << 8 | frame[21]);
  obs(mine, same == 6);
}

_Noreturn void main(void) {
  stage("find");
  u32 function = pci_find(0, 0xffffffffu, 0x100e8086u);
  if (function == PCI_NONE) ABORT("no 82540EM");
  obs("class", pci_read(function, PCI_CLASS) >> 8);
  obs("memory", pci_size(function, 0));
  obs("ports", pci_size(function, 1));
  obs("pin", pci_read(function, 0x3c) >> 8 & 0xff);
  base = (volatile u8 *)pci_place(function, 0, 0xd0000000u);
  u16 ports = pci_place(function, 1, 0xc041);
  pci_write(function, PCI_COMMAND, (pci_read(function, PCI_COMMAND) & 0xffff) | PCI_IO | PCI_MEMORY | PCI_MASTER);

  stage("reset");
  set(IMC, 0xffffffffu);
  outl(ports, STATUS); // the registers by their other door
  obs("ports.same", inl(ports + 4) == reg(STATUS));
  outl(ports, CTRL); // Linux resets this card there
  outl(ports + 4, 1 << 26);
  for (u32 i = 0; i < 10000 && reg(CTRL) & 1 << 26; i++) continue;
  set(CTRL, 1 << 26); // and again by memory, for a card without that door
  for (u32 i = 0; i < 10000 && reg(CTRL) & 1 << 26; i++) continue;
  set(IMC, 0xffffffffu);
  obs("reset.ims", reg(IMS));
  reg(ICR);
  obs("reset.icr", reg(ICR));

  stage("eeprom");
  u32 sum = 0;
  for (u32 i = 0; i < 64; i++) sum += eeprom(i);
  obs("eeprom.sum", sum & 0xffff);
  set(EECD, 0x40);
  set(EECD, 0x42);
  wires(6, 3);
  wires(1, 6);
  obs("eeprom.wires", wires(0, 16) == eeprom(1));
  set(EECD, 0);
  u8 mac[6];
  for (u32 i = 0; i < 3; i++) {
    u16 value = eeprom(i);
    mac[2 * i] = value, mac[2 * i + 1] = value >> 8;
  }
  obs("eeprom.address", reg(RAL) == (mac[0] | mac[1] << 8 | mac[2] << 16 | (u32)mac[3] << 24));
  obs("eeprom.valid", reg(RAH) == (0x80000000u | mac[4] | mac[5] << 8));

  stage("phy");
  obs("phy.id1", PHY_READ(2));
  obs("phy.id2", PHY_READ(3) & 0xfff0);
  set(CTRL, reg(CTRL) | 1 << 6);
  for (u32 i = 0; i < 3000000 && !(reg(STATUS) & 2); i++) asm volatile("pause");
  obs("link.status", reg(STATUS) & 0xc3);
  PHY_READ(1);
  obs("link.phy", PHY_READ(1) & 4);

  stage("send");
  for (u32 i = 0; i < RING; i++) {
    rx[i].address = (u32)frames[i];
    rx[i].status = 0;
  }
  set(RDBAL, (u32)rx);
  set(RDBAL + 4, 0);
  set(RDLEN, sizeof rx);
  set(RDH, 0);
  set(RDT, RING - 1);
  set(RCTL, 1 << 1 | 1 << 15 | 1 << 26); // on, broadcasts, no check sequence
  set(TDBAL, (u32)tx);
  set(TDBAL + 4, 0);
  set(TDLEN, sizeof tx);
  set(TDH, 0);
  set(TDT, 0);
  set(TCTL, 1 << 1 | 1 << 3);
  ask(mac);
  for (u32 i = 0; i < 3000000 && !(*(volatile u8 *)&tx[0].status & 1); i++) asm volatile("pause");
  obs("send.status", tx[0].status & 1);
  obs("send.head", reg(TDH));
  obs("send.counted", reg(GPTC));
  obs("send.again", reg(GPTC));
  next_frame();
  obs("answer.status", rx[next].status & 3);
  report(mac, "answer.length", "answer.type", "answer.operation", "answer.mine");
  obs("answer.head", reg(RDH));
  give_back();

  stage("interrupt");
  irq_start();
  pci_route(NET_IRQ);
  irq_open(NET_IRQ);
  INSTALL(0x2b);
  reg(ICR);
  set(IMS, RXT0);
  ask(mac);
  obs("irq.count", wait_for(1));
  obs("irq.cause", causes & RXT0);
  obs("irq.cleared", reg(ICR) & RXT0);
  report(mac, "irq.length", "irq.type", "irq.operation", "irq.mine");
  give_back();
  // A cause that software sets, and a mask that holds it back.
  set(IMC, 0xffffffffu);
  set(ICS, RXT0);
  obs("masked", irq_asks(NET_IRQ));
  set(IMS, RXT0);
  u32 asks = 0; // not always at once: the card may keep a distance from the interrupt before
  for (u32 patience = 0; patience < 100000 && !asks; patience++) asks = irq_asks(NET_IRQ);
  obs("unmasked", asks);
  reg(ICR);
  obs("read", irq_asks(NET_IRQ));
  set(IMC, 0xffffffffu);

  // In loopback a frame to our own address comes back; one to a stranger does not, and one over two descriptors is one frame.
  stage("loopback");
  PHY_WRITE(0, 0x4140);
  for (u32 i = 0; i < 3000000 && !(reg(STATUS) & 2); i++) asm volatile("pause");
  for (u32 i = 0; i < 200; i++) message[i] = i * 7;
  for (u32 i = 0; i < 6; i++) message[i] = message[6 + i] = mac[i];
  message[12] = 0x88, message[13] = 0xb5;
  u32 sent = checksum(message, 200);
  send(200);
  obs("loopback.length", next_frame());
  obs("loopback.same", checksum(frames[next], 200) == sent);
  give_back();
  message[5] ^= 1;
  send(200);
  message[5] ^= 1;
  tx[tail].address = (u32)message;
  tx[tail].length = 50;
  tx[tail].cmd = 0x02; // not the last piece
  tail = (tail + 1) % RING;
  tx[tail].address = (u32)message + 50;
  tx[tail].length = 150;
  tx[tail].cmd = 0x0b;
  tail = (tail + 1) % RING;
  set(TDT, tail);
  obs("pieces.length", next_frame());
  obs("pieces.same", checksum(frames[next], 200) == sent);
  give_back();
  obs("loopback.head", reg(RDH));

  // Sixteen frames there and back, each by interrupt, as a driver would that has nothing else to do.
  stage("burst");
  INSTALL(0x2b);
  set(IMS, RXT0);
  u32 complete = 0;
  for (u32 i = 0; i < 16; i++) {
    forget();
    send(200);
    if (wait_for(1) == 1 && *(volatile u8 *)&rx[next].status & 1) complete++;
    give_back();
  }
  set(IMC, 0xffffffffu);
  obs("burst.complete", complete);
  done();
}
