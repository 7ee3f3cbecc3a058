// # Which devices there are
//
// A list of names, and for each what may be said about it. Later chapters install their own types here; whoever reads a machine's description asks
// this list, so an unknown device or property is refused with the names that would have been understood.

import type { Link } from '../net/link.ts';
import type { Mainboard } from './mainboard.ts';

/** A description that is no machine. The message is one line. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}

/** A device and its properties, as its type declares them. */
export interface DeviceConfig {
  readonly type: string;
  readonly [property: string]: string | number | boolean;
}

type PropertyValue = string | number | boolean | readonly string[];
type PropertyKind = 'string' | 'integer' | 'boolean' | 'mac' | 'drive' | 'netdev' | 'chardev' | 'slot' | 'list';

interface Property {
  readonly kind: PropertyKind;
  readonly text: string;
  readonly required?: boolean;
  /** Of an integer. */
  readonly least?: number;
  readonly most?: number;
  /** Of a string: the words that it may be. */
  readonly words?: readonly string[];
}

/** What devices and networks have in common: a name, and properties. */
export interface Described {
  readonly name: string;
  /** A phrase for the list. */
  readonly text: string;
  readonly properties: Readonly<Record<string, Property>>;
}

export interface DeviceType extends Described {
  /** Places of which each takes one device. */
  places?(config: DeviceConfig): readonly string[];
  /** Builds the device and connects it. @throws ConfigError when the machine has no room for it */
  plug(pc: Mainboard, config: DeviceConfig): void;
}

/** A device's place on the PCI bus, `3` or `3.1`. */
const SLOT = /^([0-9a-f]{1,2})(?:\.([0-7]))?$/i;
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const SLOTS = 32;

/** Reads a `slot` property. */
export function slotOf(value: string): { readonly device: number; readonly fn: number } {
  const match = SLOT.exec(value);
  const device = Number.parseInt(match?.[1] ?? '', 16);
  if (!match || device >= SLOTS)
    throw new ConfigError(`a PCI slot is a hexadecimal number below 20, and perhaps a function, as in 1c.3; not ${value}`);
  return { device, fn: Number(match[2] ?? 0) };
}

/** The places of a device with an `addr`: for {@link DeviceType.places}. */
export function slotPlaces({ addr }: DeviceConfig): readonly string[] {
  if (addr === undefined) return [];
  const { device, fn } = slotOf(String(addr));
  return [`PCI slot ${device.toString(16)}.${fn}`];
}

/** Reads a `mac` property. */
export const macOf = (value: string): Uint8Array => Uint8Array.from(value.split(':'), (byte) => Number.parseInt(byte, 16));

export class TypeRegistry<T extends Described> {
  readonly #types = new Map<string, T>();
  readonly #what: string;

  constructor(what: string) {
    this.#what = what;
  }

  install(type: T): void {
    this.#types.set(type.name, type);
  }

  get all(): readonly T[] {
    return [...this.#types.values()];
  }

  /** @throws ConfigError naming the types that there are */
  get(name: string): T {
    const type = this.#types.get(name);
    if (!type) throw new ConfigError(`no ${this.#what} type ${name}; there are ${[...this.#types.keys()].join(', ')}`);
    return type;
  }

  /** Checks one by itself, but for the members that `beside` names. Returns its type. @throws ConfigError */
  check(config: { readonly type: string; readonly [property: string]: PropertyValue }, beside: readonly string[] = []): T {
    const type = this.get(config.type);
    for (const [name, value] of Object.entries(config)) {
      if (name === 'type' || beside.includes(name)) continue;
      const property = Object.hasOwn(type.properties, name) ? type.properties[name] : undefined;
      if (!property) throw new ConfigError(`${type.name} has no property ${name}; there are ${Object.keys(type.properties).join(', ') || 'none'}`);
      const wrong = complaint(property, value);
      if (wrong) throw new ConfigError(`${type.name}: ${name} is ${wrong}, not ${value}`);
    }
    for (const [name, { required }] of Object.entries(type.properties))
      if (required && config[name] === undefined) throw new ConfigError(`${type.name} needs a ${name}`);
    return type;
  }

  /** What `TYPE,property=value` means, where everything comes as text, and a list as several texts. @throws ConfigError */
  fromText(
    typeName: string,
    texts: Readonly<Record<string, string | readonly string[]>>,
  ): { readonly type: string; readonly [property: string]: PropertyValue } {
    const type = this.get(typeName);
    const entries = Object.entries(texts).map(([name, text]): [string, PropertyValue] => {
      const kind = Object.hasOwn(type.properties, name) ? type.properties[name]?.kind : undefined;
      if (kind === 'list') return [name, typeof text === 'string' ? [text] : text];
      if (typeof text !== 'string') throw new ConfigError(`${typeName}: ${name} is said twice`);
      if (kind === 'integer' && /^(0x[0-9a-f]+|[0-9]+)$/i.test(text)) return [name, Number(text)];
      if (kind === 'boolean' && (text === 'on' || text === 'off')) return [name, text === 'on'];
      return [name, text];
    });
    return Object.fromEntries([['type', typeName], ...entries]) as { readonly type: string };
  }
}

// ## Which networks there are
//
// A card's cable leads to a *netdev*, as QEMU calls it. Of these there is a list, too: this chapter has a station that echoes, and nothing at all; one that
// reaches further comes with a later chapter.

export interface NetdevConfig {
  readonly id: string;
  readonly type: string;
  readonly [property: string]: PropertyValue;
}

export interface NetdevType extends Described {
  /** Makes the network, and returns the end of the cable that goes into the card. @throws ConfigError */
  connect(pc: Mainboard, config: NetdevConfig): Link;
}

export class DeviceRegistry extends TypeRegistry<DeviceType> {
  readonly netdevs = new TypeRegistry<NetdevType>('netdev');

  constructor() {
    super('device');
  }

  override fromText(typeName: string, texts: Readonly<Record<string, string>>): DeviceConfig {
    return super.fromText(typeName, texts) as DeviceConfig; // no device has a list
  }
}

function complaint({ kind, least = 0, most = Number.MAX_SAFE_INTEGER, words }: Property, value: PropertyValue): string | null {
  switch (kind) {
    case 'integer':
      return typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most ? null : `a number from ${least} to ${most}`;
    case 'boolean':
      return typeof value === 'boolean' ? null : 'on or off';
    case 'mac':
      return typeof value === 'string' && MAC.test(value) && (Number.parseInt(value.slice(0, 2), 16) & 1) === 0
        ? null
        : 'the MAC address of one station';
    case 'slot':
      return typeof value === 'string' && SLOT.test(value) ? null : 'a PCI slot such as 3 or 1c.3';
    case 'list':
      return Array.isArray(value) && value.every((each) => typeof each === 'string') ? null : 'a list of texts';
    default:
      if (typeof value !== 'string') return 'text';
      return !words || words.includes(value) ? null : `one of ${words.join(', ')}`;
  }
}

/** The types of this program. */
export const deviceTypes = new DeviceRegistry();
