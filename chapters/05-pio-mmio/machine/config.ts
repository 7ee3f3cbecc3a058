// # A machine as data
//
// QEMU's command line grew for twenty years, and everybody who runs virtual machines knows some of it by heart. Underneath, a machine is a small
// tree of facts: how much memory, which devices, what each is connected to. Here the tree is the thing itself, a JSON document with a
// published schema; the command line is one way to write it.
//
// A description that contradicts itself is refused, and the message names what is wrong and what there is instead. The schema finds the wrong
// words; what it cannot say is checked here.

import { type DoorName, doorNames } from '../../03-vcpu-loop/doors.ts';
import './machines.ts';
import { ConfigError, type DeviceConfig, type DeviceRegistry, deviceTypes, type NetdevConfig } from './device-types.ts';
import { type MachineChoice, machineTypes } from './machine-types.ts';

/** Where a character device's other end is. */
export type Stream = 'stdio' | 'null' | { readonly file: string };

export interface Drive {
  readonly id: string;
  readonly file: string;
  readonly format?: 'raw';
  readonly readonly?: boolean;
  /** What is written is forgotten at the end. */
  readonly snapshot?: boolean;
}

export interface CharDevice {
  readonly id: string;
  readonly stream: Stream;
}

/** The document. */
export interface MachineConfig {
  readonly machine?: MachineChoice;
  readonly accel?: 'soft' | 'kvm';
  readonly memory?: 'ept' | 'shadow';
  readonly translate?: boolean;
  readonly irqchip?: 'on' | 'split' | 'off';
  readonly memoryMiB?: number;
  readonly cpus?: number;
  readonly firmware?: string;
  readonly kernel?: string;
  readonly door?: DoorName;
  readonly append?: string;
  readonly initrd?: string;
  readonly reboot?: boolean;
  readonly nographic?: boolean;
  readonly drives?: readonly Drive[];
  readonly netdevs?: readonly NetdevConfig[];
  readonly chardevs?: readonly CharDevice[];
  readonly devices?: readonly DeviceConfig[];
  readonly serial?: readonly Stream[];
  readonly debugcon?: Stream;
  readonly trace?: string;
  /** What is reported of the trace is its SHA-256. `kernel`: the processor is not listened to, and runs as fast as without a trace. */
  readonly traceHash?: 'all' | 'kernel';
  readonly timeoutS?: number;
  /** Where the machine is saved, after how many seconds of its own time, and what it is restored from. */
  readonly save?: string;
  readonly saveAfterS?: number;
  readonly restore?: string;
  /** The date when the machine is switched on: the host's, or a given one, in UTC. */
  readonly rtc?: string;
}

/** The document with nothing left open. */
export type CompleteConfig = MachineConfig &
  Required<
    Pick<
      MachineConfig,
      | 'machine'
      | 'accel'
      | 'memory'
      | 'translate'
      | 'irqchip'
      | 'memoryMiB'
      | 'cpus'
      | 'reboot'
      | 'nographic'
      | 'drives'
      | 'netdevs'
      | 'chardevs'
      | 'devices'
      | 'serial'
      | 'debugcon'
    >
  >;

const DEFAULTS = {
  machine: { type: 'q35' },
  accel: 'soft',
  memory: 'ept',
  translate: true,
  irqchip: 'on',
  memoryMiB: 128,
  cpus: 1,
  reboot: true,
  nographic: false,
  drives: [],
  netdevs: [],
  chardevs: [],
  devices: [],
  serial: ['stdio'],
  debugcon: 'null',
} as const satisfies MachineConfig;
/** Where seconds since 1970 leave 32 bits. */
const LAST_SECOND = 2 ** 32;
/** Firmware needs room for itself and for what it leaves behind. */
const FIRMWARE_LEAST_MIB = 8;

/**
 * Checks a description that follows the schema, and fills in what it leaves open.
 * @throws ConfigError for the first thing that is wrong
 */
export function completeConfig(document: MachineConfig, registry: DeviceRegistry = deviceTypes): CompleteConfig {
  if (document.accel === 'kvm' && document.memory !== undefined)
    throw new ConfigError(`memory=${document.memory} is the soft kernel's choice; the host's KVM makes its own`);
  if (document.accel === 'kvm' && document.translate !== undefined)
    throw new ConfigError(
      `translate=${document.translate ? 'on' : 'off'} is for the soft kernel; under the host's KVM guests run on the real processor`,
    );
  const said = Object.fromEntries(Object.entries(document).filter(([, value]) => value !== undefined)) as MachineConfig;
  const config: CompleteConfig = { ...DEFAULTS, ...said };
  checkStart(config);
  if (config.rtc !== undefined) startOf(config.rtc);
  checkNames(config);
  checkStreams(config);
  checkTrace(config);
  checkDevices(config, registry);
  return config;
}

function checkStart({ machine, firmware, kernel, append, initrd, door, memoryMiB }: CompleteConfig): void {
  const { takesFirmware } = machineTypes.check(machine);
  if (firmware && !takesFirmware) throw new ConfigError(`${machine.type} has no firmware: a kernel (-kernel) starts it, not ${firmware}`);
  if (firmware && kernel) throw new ConfigError(`firmware ${firmware} and kernel ${kernel}: one of them starts the machine, not both`);
  if (!firmware && !kernel) throw new ConfigError('nothing to start: neither firmware (-bios) nor kernel (-kernel)');
  if (append !== undefined && !kernel) throw new ConfigError('append is the command line of a kernel, and there is none');
  if (initrd !== undefined && !kernel) throw new ConfigError(`initrd ${initrd} is for a kernel to find, and there is none`);
  if (door !== undefined && !doorNames().includes(door)) throw new ConfigError(`door is one of ${doorNames().join(', ')}, not ${door}`);
  if (door !== undefined && !kernel) throw new ConfigError('door says how a kernel is started, and there is none');
  if (firmware && memoryMiB < FIRMWARE_LEAST_MIB)
    throw new ConfigError(`${memoryMiB} MiB of memory are too few for firmware; it needs ${FIRMWARE_LEAST_MIB}`);
}

/** What `rtc` says, in seconds since 1970: null is the host's date. @throws ConfigError */
export function startOf(rtc: string): number | null {
  if (rtc === 'utc') return null;
  const ms = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2})?$/.test(rtc) ? Date.parse(rtc.includes('T') ? `${rtc}Z` : rtc) : Number.NaN;
  const seconds = ms / 1000;
  if (!(seconds >= 0 && seconds < LAST_SECOND)) throw new ConfigError(`rtc is utc, or a date as in 2006-06-17T16:01:21, not ${rtc}`);
  return seconds;
}

function checkNames({ drives, netdevs, chardevs }: CompleteConfig): void {
  const seen = new Set<string>();
  for (const { id } of [...drives, ...netdevs, ...chardevs]) {
    if (seen.has(id)) throw new ConfigError(`two things are called ${id}`);
    seen.add(id);
  }
}

function checkStreams({ serial, debugcon, chardevs, trace }: CompleteConfig): void {
  const streams = [...serial, debugcon, ...chardevs.map(({ stream }) => stream)];
  if (streams.filter((stream) => stream === 'stdio').length > 1) throw new ConfigError('stdio is taken by two devices');
  const files = streams.flatMap((stream) => (typeof stream === 'object' ? [stream.file] : [])).concat(trace ?? []);
  const twice = files.find((file, index) => files.indexOf(file) !== index);
  if (twice !== undefined) throw new ConfigError(`two outputs write to ${twice}`);
}

function checkTrace({ accel, trace, traceHash }: CompleteConfig): void {
  if (traceHash === undefined) return;
  if (trace !== undefined) throw new ConfigError(`the trace goes to ${trace}, or its hash is reported (-trace-hash), not both`);
  if (accel === 'kvm') throw new ConfigError("-trace-hash needs the soft kernel: under the host's KVM no two runs are the same");
}

// ## Devices and what they refer to

function checkDevices({ devices, drives, netdevs, chardevs }: CompleteConfig, registry: DeviceRegistry): void {
  for (const netdev of netdevs) registry.netdevs.check(netdev, ['id']);
  const users = new Map<string, string>(); // a place, a drive or a cable: taken by
  for (const [index, device] of devices.entries()) {
    const type = registry.check(device);
    const label = `device ${index} (${device.type})`;
    for (const [name, property] of Object.entries(type.properties)) {
      const value = device[name];
      if (value === undefined) continue;
      const pool = { drive: drives, netdev: netdevs, chardev: chardevs }[property.kind as string] ?? null;
      if (!pool) continue;
      if (!pool.some(({ id }) => id === value))
        throw new ConfigError(`${label}: no ${property.kind} is called ${value}; there are ${pool.map(({ id }) => id).join(', ') || 'none'}`);
      take(`${property.kind} ${value}`, label);
    }
    for (const place of type.places?.(device) ?? []) take(place, label);
  }
  function take(place: string, label: string): void {
    const other = users.get(place);
    if (other) throw new ConfigError(`${label} and ${other} both want ${place}`);
    users.set(place, label);
  }
}
