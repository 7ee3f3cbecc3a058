// # Devices of a case, and what is done to them
//
// A machine of the suite has virtio devices if a case says so. How a machine gets them, by which option or property, is its adapter's affair; here they are
// described by what the specification says of them. On the `device` surface no guest runs: the runner plays the driver itself, access by access, and the
// adapter's only work is to make each access. So a device is judged without a processor, a boot loader or a line of guest code in between.

export type DeviceKind = 'entropy' | 'console' | 'balloon' | 'block';
/** How a driver reaches a device: PCI without and with the legacy interface (which is then the one used), memory-mapped registers version 2 and 1. */
export type Transport = 'pci' | 'transitional' | 'mmio' | 'mmio-legacy';
export type RingFormat = 'split' | 'packed';

export const TRANSPORTS: readonly Transport[] = ['pci', 'transitional', 'mmio', 'mmio-legacy'];
export const RINGS: readonly RingFormat[] = ['split', 'packed'];

/** The interface from before the standard knows no packed ring. */
export const isLegacy = (transport: Transport): boolean => transport === 'transitional' || transport === 'mmio-legacy';

/** A device as a case asks for it. A feature that the implementation does not have is simply not offered. */
export interface CaseDevice {
  readonly type: DeviceKind;
  readonly transport?: Transport;
  readonly ring?: RingFormat;
  /** To be offered or not, by the specification's names in lower case; what is not named is the implementation's choice. */
  readonly features?: Readonly<Record<string, boolean>>;
  /** MSI-X vectors. */
  readonly vectors?: number;
  readonly queueSize?: number;
  /** Block: request queues. */
  readonly queues?: number;
  readonly sectors?: number;
  /** Block: word i of the disk is i * 2654435761 modulo 2^32, little-endian; or zeros. */
  readonly content?: 'pattern' | 'zero';
  readonly readonly?: boolean;
  readonly serial?: string;
  readonly zoned?: 'host-managed' | 'host-aware';
  readonly zoneSectors?: number;
  readonly maxOpenZones?: number;
  readonly maxActiveZones?: number;
  /** Zones that are written in any order: so many, from the first on. */
  readonly conventionalZones?: number;
  /** Sectors of a sequential zone that can be written. */
  readonly zoneCapacity?: number;
  /** Largest ZONE_APPEND; 0: there is none. */
  readonly maxAppendSectors?: number;
  readonly sizeMax?: number;
  /** Block: the medium knows how worn it is. */
  readonly lifetime?: { readonly preEol: number; readonly estimateA: number; readonly estimateB: number };
  /** Console: how many ports are there, the first of them a console. */
  readonly ports?: number;
  readonly multiport?: boolean;
  readonly stats?: boolean;
  readonly reporting?: boolean;
  readonly hinting?: boolean;
  readonly poison?: boolean;
  readonly deflateOnOom?: boolean;
}

/** A device as an adapter is asked for it: nothing is left to a default that another place knows. */
export type WireDevice = CaseDevice & { readonly transport: Transport; readonly ring: RingFormat };

export type AccessBytes = 1 | 2 | 4 | 8;

/** What somebody outside the machine does to a device, or asks it. Numbers of 64 bits are hexadecimal strings, bytes are base64. */
export type HostOp =
  | { readonly do: 'host'; readonly device: number; readonly action: 'input'; readonly port: number; readonly data: string }
  | { readonly do: 'host'; readonly device: number; readonly action: 'output' | 'connect' | 'disconnect' | 'unplug'; readonly port: number }
  | {
      readonly do: 'host';
      readonly device: number;
      readonly action: 'resize-console';
      readonly port: number;
      readonly cols: number;
      readonly rows: number;
    }
  | { readonly do: 'host'; readonly device: number; readonly action: 'target'; readonly bytes: string }
  | { readonly do: 'host'; readonly device: number; readonly action: 'actual' | 'stats' }
  | { readonly do: 'host'; readonly device: number; readonly action: 'resize'; readonly sectors: string }
  | { readonly do: 'host'; readonly device: number; readonly action: 'content'; readonly sector: string; readonly count: number }
  | { readonly do: 'host'; readonly device: number; readonly action: 'fail-zone'; readonly zone: number; readonly state: 'read-only' | 'offline' }
  | { readonly do: 'host'; readonly device: number; readonly action: 'hint'; readonly round: 'start' | 'stop' | 'finish' }
  | { readonly do: 'host'; readonly device: number; readonly action: 'hinted' }
  | {
      readonly do: 'host';
      readonly device: number;
      readonly action: 'watch';
      readonly gpa: string;
      readonly bytes: number;
      readonly ranges: readonly { readonly gpa: string; readonly count: number }[];
    }
  | { readonly do: 'host'; readonly device: number; readonly action: 'watched' };

/** One operation on a paused machine. */
export type DeviceOp =
  | { readonly do: 'in'; readonly port: string; readonly bytes: 1 | 2 | 4 }
  | { readonly do: 'out'; readonly port: string; readonly bytes: 1 | 2 | 4; readonly value: string }
  | { readonly do: 'load'; readonly gpa: string; readonly bytes: AccessBytes }
  | { readonly do: 'store'; readonly gpa: string; readonly bytes: AccessBytes; readonly value: string }
  | { readonly do: 'read'; readonly gpa: string; readonly count: number }
  | { readonly do: 'write'; readonly gpa: string; readonly data: string }
  | { readonly do: 'fill'; readonly gpa: string; readonly count: number; readonly byte: number }
  | { readonly do: 'lines' }
  | { readonly do: 'advance'; readonly ns: string }
  | HostOp;

/** An interrupt line that changed. */
export interface LineChange {
  readonly gsi: number;
  readonly level: boolean;
}

/** What came of one operation: `value` of in, load and the host's `actual` and `hinted` (bytes so far); `data` of read, `output`, `content` and `watched`. */
export interface OpResult {
  readonly value?: string;
  readonly data?: string;
  readonly lines?: readonly LineChange[];
  /** By the tags of the balloon's statistics, decimal. */
  readonly stats?: Readonly<Record<string, string>>;
  /** The implementation has no such handle for its host: for `host`, `lines` and `advance` only. */
  readonly unsupported?: string;
}

/** At most so many operations travel at once, */
export const OPS_PER_ACCESS = 1024;
/** and one of them moves at most so many bytes. */
export const OP_BYTES_LIMIT = 1 << 20;

/** A paused machine. Its only clock is `advance`. */
export interface DeviceSession {
  /** Where the windows of the MMIO transport are, if not where this suite looks by itself. */
  readonly windows?: readonly string[];
  /** Makes the accesses, in order. One result each. */
  access(ops: readonly DeviceOp[]): Promise<readonly OpResult[]>;
  /** The machine is no longer needed. */
  end(): Promise<{ readonly traceHash?: string; readonly detail?: string }>;
}
