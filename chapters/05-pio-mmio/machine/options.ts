// # The command line
//
// The options are QEMU's, because those are the ones that people know: a single dash, and lists of `key=value` after a comma. What this program does
// not have it refuses by name. An option that was silently ignored would make a machine that is not the one asked for.

import { type DoorName, doorNames } from '../../03-vcpu-loop/doors.ts';
import type { CharDevice, Drive, MachineConfig, Stream } from './config.ts';
import { ConfigError, type DeviceConfig, type DeviceRegistry, deviceTypes, type NetdevConfig } from './device-types.ts';
import { type MachineChoice, machineTypes } from './machine-types.ts';

/** What a command line asks for. */
interface Asked {
  readonly what: 'run' | 'print-config' | 'help';
  /** The machine's description, not yet checked. */
  readonly document: MachineConfig;
  /** A file to read first; the options change what it says. */
  readonly file: string | null;
  /** Of `help`: the device type to describe, or null for the list of types; undefined for the options. */
  readonly device?: string | null;
}

interface Option {
  /** What follows it, for the help; null: nothing. */
  readonly takes: string | null;
  readonly text: string;
  readonly apply: (machine: Draft, value: string) => void;
}

/** A document under construction. */
interface Draft {
  machine?: MachineChoice;
  accel?: MachineConfig['accel'];
  memory?: MachineConfig['memory'];
  translate?: boolean;
  irqchip?: MachineConfig['irqchip'];
  memoryMiB?: number;
  cpus?: number;
  firmware?: string;
  kernel?: string;
  door?: DoorName;
  append?: string;
  initrd?: string;
  reboot?: boolean;
  nographic?: boolean;
  drives: Drive[];
  netdevs: NetdevConfig[];
  chardevs: CharDevice[];
  devices: DeviceConfig[];
  serial?: Stream[];
  debugcon?: Stream;
  trace?: string;
  traceHash?: MachineConfig['traceHash'];
  timeoutS?: number;
  save?: string;
  saveAfterS?: number;
  restore?: string;
  rtc?: string;
  registry: DeviceRegistry;
  /** Where the next drive without an index goes. */
  nextIndex: number;
}

/** `a=b,c=d`; a doubled comma is a comma of the value. The first part may be a bare word, which is the value of `first`. */
function parts(text: string, first?: string): [name: string, value: string][] {
  return text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part, index) => {
      const equals = part.indexOf('=');
      const bare = equals < 0 && index === 0 && first !== undefined;
      const name = bare ? first : equals < 0 ? part : part.slice(0, equals);
      const value = bare ? part : equals < 0 ? 'on' : part.slice(equals + 1);
      return [name, value.replaceAll('\0', ',')];
    });
}

/** {@link parts}, each said once. */
function pairs(option: string, text: string, known: readonly string[] | null, first?: string): Record<string, string> {
  const found = Object.create(null) as Record<string, string>; // any name is a name, `__proto__` too
  for (const [name, value] of parts(text, first)) {
    if (known && !known.includes(name)) throw new ConfigError(`${option} has no '${name}'; there are ${known.join(', ')}`);
    if (Object.hasOwn(found, name)) throw new ConfigError(`${option} says ${name} twice`);
    found[name] = value;
  }
  return found;
}

function word<const T extends string>(option: string, name: string, value: string, words: readonly T[]): T {
  if (!words.includes(value as T)) throw new ConfigError(`${option}: ${name} is one of ${words.join(', ')}, not ${value}`);
  return value as T;
}

const flag = (option: string, name: string, value: string): boolean => word(option, name, value, ['on', 'off']) === 'on';

function whole(option: string, text: string): number {
  if (!/^[0-9]+$/.test(text)) throw new ConfigError(`${option} takes a number, not ${text}`);
  return Number(text);
}

const MIB_IN = { K: 1 / 1024, M: 1, G: 1024 } as const;

function mebibytes(text: string): number {
  const match = /^([0-9]+)([KMG]?)$/i.exec(text);
  if (!match) throw new ConfigError(`-m takes a size such as 256M or 2G, not ${text}`);
  const amount = Number(match[1]) * MIB_IN[((match[2] as string).toUpperCase() || 'M') as keyof typeof MIB_IN];
  if (!Number.isInteger(amount)) throw new ConfigError(`-m takes whole mebibytes, not ${text}`);
  return amount;
}

function stream(option: string, text: string): Stream {
  if (text === 'stdio' || text === 'null') return text;
  if (text === 'none') return 'null';
  if (text.startsWith('file:') && text.length > 5) return { file: text.slice(5) };
  throw new ConfigError(`${option} goes to stdio, file:PATH or null, not to ${text}`);
}

const IDE_UNITS = 2;

function addDrive(machine: Draft, text: string): void {
  const option = '-drive';
  const known = ['file', 'if', 'index', 'bus', 'unit', 'id', 'format', 'readonly', 'snapshot', 'media'] as const;
  const given = pairs(option, text, known) as Partial<Record<(typeof known)[number], string>>;
  if (!given.file) throw new ConfigError('-drive needs a file=');
  if (given.format !== undefined) word(option, 'format', given.format, ['raw']);
  if (given.media !== undefined) word(option, 'media', given.media, ['disk']);
  const attach = word(option, 'if', given.if ?? 'ide', ['ide', 'none']);
  const id = given.id ?? `drive${machine.drives.length}`;
  machine.drives.push({
    id,
    file: given.file,
    ...(given.readonly !== undefined && { readonly: flag(option, 'readonly', given.readonly) }),
    ...(given.snapshot !== undefined && { snapshot: flag(option, 'snapshot', given.snapshot) }),
  });
  const placed = given.index !== undefined || given.bus !== undefined || given.unit !== undefined;
  if (attach === 'none') {
    if (placed) throw new ConfigError('-drive: index, bus and unit are places at a controller, and if=none has none');
    return;
  }
  if (given.index !== undefined && (given.bus !== undefined || given.unit !== undefined))
    throw new ConfigError('-drive: index says the same as bus and unit; give one or the other');
  const index =
    given.bus !== undefined || given.unit !== undefined
      ? whole('-drive bus', given.bus ?? '0') * IDE_UNITS + whole('-drive unit', given.unit ?? '0')
      : given.index !== undefined
        ? whole('-drive index', given.index)
        : machine.nextIndex;
  machine.nextIndex = index + 1;
  if (index >= 4) throw new ConfigError(`-drive: an IDE controller has places 0 to 3, not ${index}`);
  machine.devices.push({ type: 'ide-hd', drive: id, bus: `ide.${Math.floor(index / IDE_UNITS)}`, unit: index % IDE_UNITS });
}

/** What a network is said to be: {@link parts}, of which those that its type has as lists may be said several times. */
function netdevOf(machine: Draft, option: string, said: readonly (readonly [string, string])[]): { readonly type: string; readonly id?: string } {
  const type = said.find(([name]) => name === 'type')?.[1] ?? '';
  const { properties } = machine.registry.netdevs.get(type);
  const isList = ([name]: readonly [string, string]): boolean => Object.hasOwn(properties, name) && properties[name]?.kind === 'list';
  const texts: Record<string, string | string[]> = Object.create(null);
  for (const [name, value] of said) {
    if (name === 'type') continue;
    if (Object.hasOwn(texts, name) && !isList([name, value])) throw new ConfigError(`${option} says ${name} twice`);
    texts[name] = isList([name, value]) ? [...(texts[name] ?? []), value] : value;
  }
  return machine.registry.netdevs.fromText(type, texts);
}

function addNetdev(machine: Draft, text: string): void {
  const { id, ...netdev } = netdevOf(machine, '-netdev', parts(text, 'type'));
  if (!id) throw new ConfigError('-netdev needs an id=');
  machine.netdevs.push({ ...netdev, id });
}

/** A card and its network in one. Both are as `-netdev` and `-device` would make them. */
function addNic(machine: Draft, text: string): void {
  const option = '-nic';
  if (text === 'none') return; // nothing is there unless it is asked for
  const said = parts(text, 'type');
  const ofCard = (name: string): string | undefined => {
    const found = said.filter(([each]) => each === name);
    if (found.length > 1) throw new ConfigError(`${option} says ${name} twice`);
    return found[0]?.[1];
  };
  const { model = 'e1000', ...card } = Object.fromEntries(['model', 'mac', 'addr'].map((name) => [name, ofCard(name)]));
  const rest = said.filter(([name]) => !['model', 'mac', 'addr'].includes(name));
  const { id = `nic${machine.netdevs.length}`, ...netdev } = netdevOf(machine, option, rest);
  machine.netdevs.push({ ...netdev, id });
  const texts = Object.fromEntries(Object.entries(card).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));
  machine.devices.push(machine.registry.fromText(model, { netdev: id, ...texts }));
}

function addChardev(machine: Draft, text: string): void {
  const option = '-chardev';
  const { backend, id, path } = pairs(option, text, ['backend', 'id', 'path'], 'backend');
  if (!id) throw new ConfigError('-chardev needs an id=');
  const kind = word(option, 'backend', backend ?? '', ['stdio', 'file', 'null']);
  if ((kind === 'file') !== (path !== undefined)) throw new ConfigError('-chardev: a file, and only a file, has a path=');
  machine.chardevs.push({ id, stream: kind === 'file' ? { file: path as string } : kind });
}

function addDevice(machine: Draft, text: string): void {
  const { type, ...properties } = pairs('-device', text, null, 'type');
  machine.devices.push(machine.registry.fromText(type ?? '', properties));
}

/** What of `-machine` is the same for all types. */
const COMMON = ['accel', 'kernel-irqchip', 'memory', 'translate'] as const;

function setMachine(machine: Draft, text: string): void {
  const option = '-machine';
  const { type, ...given } = pairs(option, text, null, 'type');
  const own = Object.fromEntries(Object.entries(given).filter(([name]) => !(COMMON as readonly string[]).includes(name)));
  if (type !== undefined || Object.keys(own).length > 0) {
    const before = machine.machine && (type === undefined || type === machine.machine.type) ? machine.machine : { type: type ?? 'q35' };
    machine.machine = { ...before, ...machineTypes.fromText(before.type, own) } as MachineChoice;
  }
  if (given.accel !== undefined) machine.accel = word(option, 'accel', given.accel, ['soft', 'kvm']);
  if (given['kernel-irqchip'] !== undefined) machine.irqchip = word(option, 'kernel-irqchip', given['kernel-irqchip'], ['on', 'split', 'off']);
  if (given.memory !== undefined) machine.memory = word(option, 'memory', given.memory, ['ept', 'shadow']);
  if (given.translate !== undefined) machine.translate = word(option, 'translate', given.translate, ['on', 'off']) === 'on';
}

const OPTIONS: Readonly<Record<string, Option>> = {
  machine: {
    takes: 'TYPE[,PROPERTY=VALUE…][,accel=soft|kvm][,kernel-irqchip=on|split|off][,memory=ept|shadow][,translate=on|off]',
    text: 'what the machine is built on; q35 by default, `help` lists the types',
    apply: setMachine,
  },
  accel: {
    takes: 'soft|kvm',
    text: 'the kernel of the book, or the host’s /dev/kvm',
    apply: (m, v) => {
      m.accel = word('-accel', 'it', v, ['soft', 'kvm']);
    },
  },
  m: {
    takes: 'SIZE',
    text: 'memory, as in 256M',
    apply: (m, v) => {
      m.memoryMiB = mebibytes(pairs('-m', v, ['size'], 'size').size as string);
    },
  },
  smp: {
    takes: 'N',
    text: 'processors',
    apply: (m, v) => {
      m.cpus = whole('-smp', pairs('-smp', v, ['cpus'], 'cpus').cpus as string);
    },
  },
  bios: {
    takes: 'FILE',
    text: 'firmware that starts from reset',
    apply: (m, v) => {
      m.firmware = v;
    },
  },
  kernel: {
    takes: 'FILE',
    text: 'an image to start without firmware',
    apply: (m, v) => {
      m.kernel = v;
    },
  },
  door: {
    get takes() {
      return doorNames().join('|');
    },
    text: 'how to start it; by default the first way that the image offers',
    apply: (m, v) => {
      m.door = word('-door', 'it', v, doorNames());
    },
  },
  initrd: {
    takes: 'FILE',
    text: 'a second file for it to find in memory: Linux’s initramfs',
    apply: (m, v) => {
      m.initrd = v;
    },
  },
  append: {
    takes: 'TEXT',
    text: 'its command line',
    apply: (m, v) => {
      m.append = v;
    },
  },
  drive: {
    takes: 'file=FILE[,if=ide|none][,index=N | bus=N,unit=N][,id=ID][,format=raw][,readonly=on|off][,snapshot=on|off]',
    text: 'a disk',
    apply: addDrive,
  },
  netdev: { takes: 'TYPE,id=ID[,PROPERTY=VALUE…]', text: 'what a network device is connected to', apply: addNetdev },
  nic: {
    takes: 'TYPE[,model=DEVICE][,mac=MAC][,addr=SLOT][,PROPERTY=VALUE…]|none',
    text: 'a network card, an e1000 by default, and its network',
    apply: addNic,
  },
  chardev: { takes: 'stdio|null|file,id=ID[,path=FILE]', text: 'what a console device leads to', apply: addChardev },
  device: { takes: 'TYPE[,PROPERTY=VALUE…]', text: 'a device; `help` lists them, `TYPE,help` one', apply: addDevice },
  serial: {
    takes: 'stdio|file:FILE|null',
    text: 'where a serial port leads; the first is COM1',
    apply: (m, v) => {
      m.serial = [...(m.serial ?? []), stream('-serial', v)];
    },
  },
  debugcon: {
    takes: 'stdio|file:FILE|null',
    text: 'where the debug console leads',
    apply: (m, v) => {
      m.debugcon = stream('-debugcon', v);
    },
  },
  nographic: {
    takes: null,
    text: 'firmware uses the first serial port as its screen',
    apply: (m) => {
      m.nographic = true;
    },
  },
  rtc: {
    takes: 'base=utc|DATE',
    text: 'the date when it is switched on, such as 2006-06-17T16:01:21; at a terminal the host’s, otherwise the same each time',
    apply: (m, v) => {
      const { base } = pairs('-rtc', v, ['base']);
      if (base === undefined) throw new ConfigError('-rtc needs a base=');
      m.rtc = base;
    },
  },
  'no-reboot': {
    takes: null,
    text: 'a reset ends the machine',
    apply: (m) => {
      m.reboot = false;
    },
  },
  timeout: {
    takes: 'SECONDS',
    text: 'stop it after so long',
    apply: (m, v) => {
      if (!/^[0-9]+(\.[0-9]+)?$/.test(v) || Number(v) <= 0) throw new ConfigError(`-timeout takes seconds, not ${v}`);
      m.timeoutS = Number(v);
    },
  },
  save: {
    takes: 'FILE',
    text: 'where Control-A s, or -save-after, writes the machine',
    apply: (m, v) => {
      m.save = v;
    },
  },
  'save-after': {
    takes: 'SECONDS',
    text: 'save it when so much of its own time is over, and go on',
    apply: (m, v) => {
      if (!/^[0-9]+(\.[0-9]+)?$/.test(v)) throw new ConfigError(`-save-after takes seconds, not ${v}`);
      m.saveAfterS = Number(v);
    },
  },
  restore: {
    takes: 'FILE',
    text: 'go on where a saved machine stood; the other options must be those that it had',
    apply: (m, v) => {
      m.restore = v;
    },
  },
  trace: {
    takes: 'FILE',
    text: 'write what happens, one JSON object a line',
    apply: (m, v) => {
      m.trace = v;
    },
  },
  'trace-hash': {
    takes: 'all|kernel',
    text: 'write none of that, but say at the end what its SHA-256 is; kernel: without what the processor reports',
    apply: (m, v) => {
      if (v !== 'all' && v !== 'kernel') throw new ConfigError(`-trace-hash takes all or kernel, not ${v}`);
      m.traceHash = v;
    },
  },
};

const OTHERS = {
  config: { takes: 'FILE', text: 'read a machine from JSON; the other options change it' },
  'print-config': { takes: null, text: 'write the machine as JSON and end' },
  help: { takes: null, text: 'this' },
} as const;

/** The options, one a line. */
export const optionHelp = (): string =>
  Object.entries({ ...OPTIONS, ...OTHERS })
    .map(([name, { takes, text }]) => `  -${name}${takes ? ` ${takes}` : ''}\n        ${text}`)
    .join('\n');

/**
 * Reads a command line.
 * @throws ConfigError for the first thing that is wrong
 */
export function readOptions(argv: readonly string[], registry: DeviceRegistry = deviceTypes): Asked {
  const machine: Draft = { drives: [], netdevs: [], chardevs: [], devices: [], registry, nextIndex: 0 };
  let file: string | null = null;
  let what: Asked['what'] = 'run';
  for (let at = 0; at < argv.length; at++) {
    const arg = argv[at] as string;
    const name = arg.replace(/^--?/, '');
    if (name === arg || name === '') throw new ConfigError(`'${arg}' is no option; options begin with a dash`);
    if (name === 'help' || name === 'h') return { what: 'help', document: {}, file };
    if (name === 'print-config') {
      what = 'print-config';
      continue;
    }
    const option = Object.hasOwn(OPTIONS, name) ? (OPTIONS[name] as Option) : null;
    if (!option && name !== 'config') throw new ConfigError(`no option ${arg}; \`-help\` lists them`);
    let value = '';
    if (option?.takes !== null) {
      value = argv[++at] ?? '';
      if (value === '') throw new ConfigError(`${arg} takes ${option?.takes ?? OTHERS.config.takes}`);
    }
    if (name === 'device' && /^help$|,help$/.test(value))
      return { what: 'help', document: {}, file, device: value === 'help' ? null : value.slice(0, -5) };
    if (option) option.apply(machine, value);
    else file = value;
  }
  const { registry: _, nextIndex: __, drives, netdevs, chardevs, devices, ...rest } = machine;
  const document = {
    ...rest,
    ...(drives.length > 0 && { drives }),
    ...(netdevs.length > 0 && { netdevs }),
    ...(chardevs.length > 0 && { chardevs }),
    ...(devices.length > 0 && { devices }),
  };
  return { what, document, file };
}

/** A document from a file, changed by one from the command line: single values are replaced, lists grow. */
export function mergeConfigs(base: MachineConfig, change: MachineConfig): MachineConfig {
  const list = <K extends 'drives' | 'netdevs' | 'chardevs' | 'devices'>(key: K): Partial<MachineConfig> => {
    const [ours, theirs] = [base[key] ?? [], change[key] ?? []];
    if (!Array.isArray(ours)) return { [key]: ours }; // to be refused with the rest
    return base[key] || change[key] ? { [key]: [...ours, ...theirs] } : {};
  };
  // How the soft kernel virtualizes memory and runs code is of no interest to the host's.
  const { memory: _memory, translate: _translate, ...others } = base;
  const kept = change.accel === 'kvm' ? others : base;
  return { ...kept, ...change, ...list('drives'), ...list('netdevs'), ...list('chardevs'), ...list('devices') };
}
