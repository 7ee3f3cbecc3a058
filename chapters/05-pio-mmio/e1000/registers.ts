// # The card's registers
//
// Intel's 8254x family is where most people meet a network card's programming model: registers in a memory BAR, two rings of descriptors in main
// memory, a head that the card moves and a tail that the driver moves. The 82540EM is the one that every hypervisor offers, because every
// operating system of the last twenty years has a driver for it.
//
// ::layout E1000 -- The registers of the 82540EM that drivers use. The offsets are those of the manual.
//
// tidy: table

import { registerTable } from '../registers.ts';

const SOURCE = "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, Register Descriptions";

/** The statistics: each counts one thing, sticks at all ones, and is cleared by being read. */
// biome-ignore format: table
export const STATISTICS = {
  CRCERRS:  { offset: 0x4000, bytes: 4, access: 'rc', text: 'received with a wrong check sequence' },
  ALGNERRC: { offset: 0x4004, bytes: 4, access: 'rc', text: 'received out of alignment' },
  SYMERRS:  { offset: 0x4008, bytes: 4, access: 'rc', text: 'symbol errors' },
  RXERRC:   { offset: 0x400c, bytes: 4, access: 'rc', text: 'receive errors' },
  MPC:      { offset: 0x4010, bytes: 4, access: 'rc', text: 'missed: the packet buffer was full' },
  SCC:      { offset: 0x4014, bytes: 4, access: 'rc', text: 'single collisions' },
  ECOL:     { offset: 0x4018, bytes: 4, access: 'rc', text: 'excessive collisions' },
  MCC:      { offset: 0x401c, bytes: 4, access: 'rc', text: 'multiple collisions' },
  LATECOL:  { offset: 0x4020, bytes: 4, access: 'rc', text: 'late collisions' },
  COLC:     { offset: 0x4028, bytes: 4, access: 'rc', text: 'collisions' },
  DC:       { offset: 0x4030, bytes: 4, access: 'rc', text: 'deferrals' },
  TNCRS:    { offset: 0x4034, bytes: 4, access: 'rc', text: 'sent without carrier sense' },
  SEC:      { offset: 0x4038, bytes: 4, access: 'rc', text: 'sequence errors' },
  CEXTERR:  { offset: 0x403c, bytes: 4, access: 'rc', text: 'carrier extension errors' },
  RLEC:     { offset: 0x4040, bytes: 4, access: 'rc', text: 'receive length errors' },
  XONRXC:   { offset: 0x4048, bytes: 4, access: 'rc', text: 'XON received' },
  XONTXC:   { offset: 0x404c, bytes: 4, access: 'rc', text: 'XON sent' },
  XOFFRXC:  { offset: 0x4050, bytes: 4, access: 'rc', text: 'XOFF received' },
  XOFFTXC:  { offset: 0x4054, bytes: 4, access: 'rc', text: 'XOFF sent' },
  FCRUC:    { offset: 0x4058, bytes: 4, access: 'rc', text: 'flow control received, unsupported' },
  PRC64:    { offset: 0x405c, bytes: 4, access: 'rc', text: 'received, 64 bytes' },
  PRC127:   { offset: 0x4060, bytes: 4, access: 'rc', text: 'received, to 127 bytes' },
  PRC255:   { offset: 0x4064, bytes: 4, access: 'rc', text: 'received, to 255 bytes' },
  PRC511:   { offset: 0x4068, bytes: 4, access: 'rc', text: 'received, to 511 bytes' },
  PRC1023:  { offset: 0x406c, bytes: 4, access: 'rc', text: 'received, to 1023 bytes' },
  PRC1522:  { offset: 0x4070, bytes: 4, access: 'rc', text: 'received, larger' },
  GPRC:     { offset: 0x4074, bytes: 4, access: 'rc', text: 'good packets received' },
  BPRC:     { offset: 0x4078, bytes: 4, access: 'rc', text: 'broadcasts received' },
  MPRC:     { offset: 0x407c, bytes: 4, access: 'rc', text: 'multicasts received' },
  GPTC:     { offset: 0x4080, bytes: 4, access: 'rc', text: 'good packets sent' },
  GORCL:    { offset: 0x4088, bytes: 4, access: 'rc', text: 'good octets received, low half' },
  GORCH:    { offset: 0x408c, bytes: 4, access: 'rc', text: 'high half; reading it clears both' },
  GOTCL:    { offset: 0x4090, bytes: 4, access: 'rc', text: 'good octets sent, low half' },
  GOTCH:    { offset: 0x4094, bytes: 4, access: 'rc', text: 'high half' },
  RNBC:     { offset: 0x40a0, bytes: 4, access: 'rc', text: 'received while there was no descriptor' },
  RUC:      { offset: 0x40a4, bytes: 4, access: 'rc', text: 'undersize' },
  RFC:      { offset: 0x40a8, bytes: 4, access: 'rc', text: 'fragments' },
  ROC:      { offset: 0x40ac, bytes: 4, access: 'rc', text: 'oversize' },
  RJC:      { offset: 0x40b0, bytes: 4, access: 'rc', text: 'jabber' },
  MGTPRC:   { offset: 0x40b4, bytes: 4, access: 'rc', text: 'management packets received' },
  MGTPDC:   { offset: 0x40b8, bytes: 4, access: 'rc', text: 'management packets dropped' },
  MGTPTC:   { offset: 0x40bc, bytes: 4, access: 'rc', text: 'management packets sent' },
  TORL:     { offset: 0x40c0, bytes: 4, access: 'rc', text: 'octets received, low half' },
  TORH:     { offset: 0x40c4, bytes: 4, access: 'rc', text: 'high half' },
  TOTL:     { offset: 0x40c8, bytes: 4, access: 'rc', text: 'octets sent, low half' },
  TOTH:     { offset: 0x40cc, bytes: 4, access: 'rc', text: 'high half' },
  TPR:      { offset: 0x40d0, bytes: 4, access: 'rc', text: 'packets received' },
  TPT:      { offset: 0x40d4, bytes: 4, access: 'rc', text: 'packets sent' },
  PTC64:    { offset: 0x40d8, bytes: 4, access: 'rc', text: 'sent, 64 bytes' },
  PTC127:   { offset: 0x40dc, bytes: 4, access: 'rc', text: 'sent, to 127 bytes' },
  PTC255:   { offset: 0x40e0, bytes: 4, access: 'rc', text: 'sent, to 255 bytes' },
  PTC511:   { offset: 0x40e4, bytes: 4, access: 'rc', text: 'sent, to 511 bytes' },
  PTC1023:  { offset: 0x40e8, bytes: 4, access: 'rc', text: 'sent, to 1023 bytes' },
  PTC1522:  { offset: 0x40ec, bytes: 4, access: 'rc', text: 'sent, larger' },
  MPTC:     { offset: 0x40f0, bytes: 4, access: 'rc', text: 'multicasts sent' },
  BPTC:     { offset: 0x40f4, bytes: 4, access: 'rc', text: 'broadcasts sent' },
  TSCTC:    { offset: 0x40f8, bytes: 4, access: 'rc', text: 'packets cut into segments' },
  TSCTFC:   { offset: 0x40fc, bytes: 4, access: 'rc', text: 'packets that could not be cut' },
} as const;

// biome-ignore format: table
export const E1000 = registerTable('e1000', SOURCE, {
  CTRL:     { offset: 0x0000, bytes: 4, access: 'rw', reset: 0x0200, text: 'device control: reset, link up, VLAN mode' },
  STATUS:   { offset: 0x0008, bytes: 4, access: 'ro', text: 'link, speed, duplex' },
  EECD:     { offset: 0x0010, bytes: 4, access: 'rw', text: 'the four wires of the EEPROM' },
  EERD:     { offset: 0x0014, bytes: 4, access: 'rw', text: 'or a word of it, without the wires' },
  CTRL_EXT: { offset: 0x0018, bytes: 4, access: 'rw', text: 'extended control' },
  FLA:      { offset: 0x001c, bytes: 4, access: 'rw', text: 'flash access' },
  MDIC:     { offset: 0x0020, bytes: 4, access: 'rw', reset: 1 << 28, text: 'registers of the PHY' },
  FCAL:     { offset: 0x0028, bytes: 4, access: 'rw', text: 'flow control address, low' },
  FCAH:     { offset: 0x002c, bytes: 4, access: 'rw', text: 'flow control address, high' },
  FCT:      { offset: 0x0030, bytes: 4, access: 'rw', text: 'flow control type' },
  VET:      { offset: 0x0038, bytes: 4, access: 'rw', reset: 0x8100, text: 'VLAN ether type' },
  ICR:      { offset: 0x00c0, bytes: 4, access: 'rw1c', text: 'interrupt causes; reading clears them all' },
  ITR:      { offset: 0x00c4, bytes: 4, access: 'rw', writable: 0xffff, text: 'least time between interrupts, in 256 ns' },
  ICS:      { offset: 0x00c8, bytes: 4, access: 'wo', text: 'sets causes' },
  IMS:      { offset: 0x00d0, bytes: 4, access: 'rw', text: 'mask: writing ones enables' },
  IMC:      { offset: 0x00d8, bytes: 4, access: 'wo', text: 'mask: writing ones disables' },
  RCTL:     { offset: 0x0100, bytes: 4, access: 'rw', text: 'receive control' },
  FCTTV:    { offset: 0x0170, bytes: 4, access: 'rw', text: 'flow control timer' },
  TXCW:     { offset: 0x0178, bytes: 4, access: 'rw', text: 'transmit configuration word (fibre)' },
  RXCW:     { offset: 0x0180, bytes: 4, access: 'ro', text: 'receive configuration word (fibre)' },
  TCTL:     { offset: 0x0400, bytes: 4, access: 'rw', text: 'transmit control' },
  TIPG:     { offset: 0x0410, bytes: 4, access: 'rw', text: 'inter-packet gap' },
  AIFS:     { offset: 0x0458, bytes: 4, access: 'rw', text: 'adaptive inter-frame spacing' },
  LEDCTL:   { offset: 0x0e00, bytes: 4, access: 'rw', reset: 0x0706_8302, text: 'lights' },
  PBA:      { offset: 0x1000, bytes: 4, access: 'rw', reset: 0x0010_0030, text: 'packet buffer: KiB for sending (31:16), receiving (15:0)' },
  FCRTL:    { offset: 0x2160, bytes: 4, access: 'rw', text: 'flow control low threshold' },
  FCRTH:    { offset: 0x2168, bytes: 4, access: 'rw', text: 'flow control high threshold' },
  RDFH:     { offset: 0x2410, bytes: 4, access: 'rw', text: 'receive FIFO head' },
  RDFT:     { offset: 0x2418, bytes: 4, access: 'rw', text: 'receive FIFO tail' },
  RDFHS:    { offset: 0x2420, bytes: 4, access: 'rw', text: 'receive FIFO head, saved' },
  RDFTS:    { offset: 0x2428, bytes: 4, access: 'rw', text: 'receive FIFO tail, saved' },
  RDFPC:    { offset: 0x2430, bytes: 4, access: 'rw', text: 'receive FIFO packets' },
  RDBAL:    { offset: 0x2800, bytes: 4, access: 'rw', writable: 0xffff_fff0, text: 'receive ring address' },
  RDBAH:    { offset: 0x2804, bytes: 4, access: 'rw', text: 'receive ring address, high' },
  RDLEN:    { offset: 0x2808, bytes: 4, access: 'rw', writable: 0x000f_ff80, text: 'receive ring length in bytes' },
  RDH:      { offset: 0x2810, bytes: 4, access: 'rw', writable: 0xffff, text: 'receive head: the next that the card fills' },
  RDT:      { offset: 0x2818, bytes: 4, access: 'rw', writable: 0xffff, text: 'receive tail: the first that it may not' },
  RDTR:     { offset: 0x2820, bytes: 4, access: 'rw', writable: 0xffff, text: 'receive interrupt delay after a packet, in 1.024 µs' },
  RXDCTL:   { offset: 0x2828, bytes: 4, access: 'rw', reset: 0x0101_0000, text: 'receive descriptor thresholds' },
  RADV:     { offset: 0x282c, bytes: 4, access: 'rw', writable: 0xffff, text: 'receive interrupt delay at most' },
  RSRPD:    { offset: 0x2c00, bytes: 4, access: 'rw', text: 'small packet size' },
  TDFH:     { offset: 0x3410, bytes: 4, access: 'rw', text: 'transmit FIFO head' },
  TDFT:     { offset: 0x3418, bytes: 4, access: 'rw', text: 'transmit FIFO tail' },
  TDFHS:    { offset: 0x3420, bytes: 4, access: 'rw', text: 'transmit FIFO head, saved' },
  TDFTS:    { offset: 0x3428, bytes: 4, access: 'rw', text: 'transmit FIFO tail, saved' },
  TDFPC:    { offset: 0x3430, bytes: 4, access: 'rw', text: 'transmit FIFO packets' },
  TDBAL:    { offset: 0x3800, bytes: 4, access: 'rw', writable: 0xffff_fff0, text: 'transmit ring address' },
  TDBAH:    { offset: 0x3804, bytes: 4, access: 'rw', text: 'transmit ring address, high' },
  TDLEN:    { offset: 0x3808, bytes: 4, access: 'rw', writable: 0x000f_ff80, text: 'transmit ring length in bytes' },
  TDH:      { offset: 0x3810, bytes: 4, access: 'rw', writable: 0xffff, text: 'transmit head: the next that the card sends' },
  TDT:      { offset: 0x3818, bytes: 4, access: 'rw', writable: 0xffff, text: 'transmit tail: writing it sends what lies before it' },
  TIDV:     { offset: 0x3820, bytes: 4, access: 'rw', writable: 0xffff, text: 'transmit interrupt delay, in 1.024 µs' },
  TXDCTL:   { offset: 0x3828, bytes: 4, access: 'rw', text: 'transmit descriptor thresholds' },
  TADV:     { offset: 0x382c, bytes: 4, access: 'rw', writable: 0xffff, text: 'transmit interrupt delay at most' },
  TSPMT:    { offset: 0x3830, bytes: 4, access: 'rw', reset: 0x0100_0400, text: 'segmentation padding and threshold' },
  RXCSUM:   { offset: 0x5000, bytes: 4, access: 'rw', writable: 0x03ff, text: 'receive checksum control' },
  MTA:      { offset: 0x5200, bytes: 4, access: 'rw', count: 128, text: 'multicast hash table' },
  RAL:      { offset: 0x5400, bytes: 4, access: 'rw', count: 16, stride: 8, text: 'addresses that are ours, low four bytes' },
  RAH:      { offset: 0x5404, bytes: 4, access: 'rw', count: 16, stride: 8, text: 'high two bytes; bit 31: valid' },
  VFTA:     { offset: 0x5600, bytes: 4, access: 'rw', count: 128, text: 'VLAN filter: a bit for each' },
  WUC:      { offset: 0x5800, bytes: 4, access: 'rw', text: 'wake-up control' },
  WUFC:     { offset: 0x5808, bytes: 4, access: 'rw', text: 'wake-up filter' },
  WUS:      { offset: 0x5810, bytes: 4, access: 'rw', text: 'wake-up status' },
  MANC:     { offset: 0x5820, bytes: 4, access: 'rw', text: 'management control' },
  IPAV:     { offset: 0x5838, bytes: 4, access: 'rw', text: 'wake-up addresses valid' },
  IP4AT:    { offset: 0x5840, bytes: 4, access: 'rw', count: 4, stride: 8, text: 'wake-up IPv4 addresses' },
  IP6AT:    { offset: 0x5880, bytes: 4, access: 'rw', count: 4, text: 'wake-up IPv6 address' },
  WUPL:     { offset: 0x5900, bytes: 4, access: 'rw', text: 'wake-up packet length' },
  FFLT:     { offset: 0x5f00, bytes: 4, access: 'rw', count: 4, stride: 8, text: 'flexible filter lengths' },
  FFMT:     { offset: 0x9000, bytes: 4, access: 'rw', count: 128, stride: 8, text: 'flexible filter masks' },
  FFVT:     { offset: 0x9800, bytes: 4, access: 'rw', count: 128, stride: 8, text: 'flexible filter values' },
  ...STATISTICS,
});
export type E1000Register = keyof typeof E1000.rows & string;

/** The same registers through two ports: an index and a window. Some drivers reset the card this way. */
export const E1000_IO = registerTable(
  'e1000-io',
  "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, I/O-Mapped Internal Register",
  {
    IOADDR: { offset: 0, bytes: 4, access: 'rw', text: 'which register' },
    IODATA: { offset: 4, bytes: 4, access: 'rw', text: 'that register' },
  },
);

// biome-ignore format: table
export const CTRL = { FD: 1 << 0, SLU: 1 << 6, RST: 1 << 26, VME: 1 << 30, PHY_RST: 0x8000_0000 } as const;
/** Full duplex, 1000 Mb/s (also as detected), clock from the PHY. */
export const STATUS_FIXED = 0x0781;
export const STATUS_LU = 1 << 1;
// biome-ignore format: table
export const EECD = { SK: 1, CS: 2, DI: 4, DO: 8, REQ: 0x40, GNT: 0x80, PRES: 0x100, WRITABLE: 0x77 } as const;
export const EERD = { START: 1, DONE: 0x10 } as const;
// biome-ignore format: table
export const MDIC = { WRITE: 1 << 26, READ: 2 << 26, OP: 3 << 26, READY: 1 << 28, INTERRUPT: 1 << 29, ERROR: 1 << 30 } as const;
// biome-ignore format: table
export const CAUSE = {
  TXDW: 1 << 0, TXQE: 1 << 1, LSC: 1 << 2, RXDMT0: 1 << 4, RXO: 1 << 6, RXT0: 1 << 7, MDAC: 1 << 9, WRITABLE: 0x0001_ffff,
} as const;
// biome-ignore format: table
export const RCTL = {
  EN: 1 << 1, UPE: 1 << 3, MPE: 1 << 4, LPE: 1 << 5, LBM: 3 << 6, BAM: 1 << 15, VFE: 1 << 18, CFIEN: 1 << 19, CFI: 1 << 20, BSEX: 1 << 25, SECRC: 1 << 26,
} as const;
export const TCTL = { EN: 1 << 1, PSP: 1 << 3 } as const;
export const RXCSUM = { PCSS: 0xff, IPOFL: 1 << 8, TUOFL: 1 << 9 } as const;
