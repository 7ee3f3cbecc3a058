// # Which machine?
//
// A state fits the machine that it was saved from and any other that was put together in the same way. The header says how; what decides is what the guest can
// see, not where files lie or how fast the machine is. A difference is named, since whoever reads the message can mend it: by starting the program with other
// options.

import type { Chassis } from '../../03-vcpu-loop/chassis.ts';
import { StateError } from '../../03-vcpu-loop/devices/state.ts';
import type { Machine } from '../../03-vcpu-loop/vmm.ts';
import { Mainboard } from '../../05-pio-mmio/machine/mainboard.ts';

/** A name for each property, and its value as text. */
type Description = Readonly<Record<string, string>>;

const text = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value));

/** What a state has to have been saved from. */
export function describeMachine<C extends Chassis>(machine: Machine<C>): Description {
  const { platform, kernel, vcpus, ram } = machine;
  const base = { kernel: kernel.name, cpus: text(vcpus.length), 'bytes of memory': text(ram.length) };
  if (!(platform instanceof Mainboard)) return { machine: 'small', ...base };
  const { config } = platform;
  return {
    machine: text(config.machine),
    ...base,
    'memory by': config.memory,
    irqchip: config.irqchip,
    firmware: config.firmware === undefined ? 'none' : 'some',
    reboot: text(config.reboot),
    'serial ports': text(platform.serials.length),
    drives: text(config.drives.map(({ id, readonly = false, snapshot = false }) => ({ id, readonly, snapshot }))),
    networks: text(config.netdevs),
    'character devices': text(config.chardevs.map(({ id }) => id)),
    devices: text(config.devices),
  };
}

/** In words, what is different. @throws StateError for a header that is none */
export function differences(header: string, here: Description): string[] {
  const there = parse(header);
  const names = new Set([...Object.keys(here), ...Object.keys(there)]);
  return [...names]
    .filter((name) => here[name] !== there[name])
    .map((name) => `${name}: ${there[name] ?? 'nothing'} there, ${here[name] ?? 'nothing'} here`);
}

function parse(header: string): Description {
  let value: unknown;
  try {
    value = JSON.parse(header);
  } catch {
    throw new StateError('the header is no description of a machine');
  }
  const isDescription = typeof value === 'object' && value !== null && Object.values(value).every((each) => typeof each === 'string');
  if (!isDescription) throw new StateError('the header is no description of a machine');
  return value as Description;
}
