// # The route of one access
//
// A guest executes one instruction; the instruction reaches a register of some device; the next instruction finds everything as it would be on a real
// machine. What lies between is in the trace, as a handful of events among thousands. This module picks out the events of one access and says for
// each where it happened: in the guest, in the processor, in the kernel, or in user space. The figures of this chapter and the panel of the live page
// are both drawn from what it returns.

import type { Timed } from '../01-hardware-background/trace.ts';

/** Where a step of the route takes place. */
export type World = 'guest' | 'processor' | 'kernel' | 'user';

/** One step. `event` is its index in the trace; null for a step that the trace does not report, because it is only a lookup. */
export interface Stop {
  readonly world: World;
  readonly title: string;
  readonly detail: string;
  readonly event: number | null;
}

/** What the guest wanted. */
interface Access {
  readonly space: 'port' | 'memory';
  readonly write: boolean;
  readonly address: number;
  readonly bytes: number;
  /** How many: a string instruction with a repeat count is many accesses to one port. */
  readonly count: number;
  readonly value: bigint;
}

export interface Route {
  /** Null when the guest left for something that is no access: CPUID, HLT, an interrupt of the host's. */
  readonly access: Access | null;
  readonly reason: string;
  readonly qualification: bigint;
  readonly stops: readonly Stop[];
  /** Who finished the instruction. */
  readonly settledBy: 'kernel' | 'user';
  /** Indices of the exit and of the entry that ended it. */
  readonly from: number;
  readonly to: number;
}

/** What is at an address: the name of the device, and of the register where its table has one. */
export interface Answerer {
  readonly device: string;
  readonly register: string | null;
  readonly text: string;
  readonly offset: number;
}

/** Asks a machine's buses, or what the kernel has. Null: nobody answers there. */
export type Lookup = (space: 'port' | 'memory', address: number, inKernel?: boolean) => Answerer | null;

const hex = (n: number | bigint): string => `0x${n.toString(16)}`;
/** What a device model says of itself. */
const reported = (event: Timed): string =>
  event.kind === 'device'
    ? `${event.device}: ${event.what}`
    : event.kind === 'console'
      ? `sends ${JSON.stringify(String.fromCharCode(event.byte))}`
      : '';

/** Follows the processor from one exit to the entry that ends it. `last` is the index of the last event that belongs to the exit. */
function span(events: readonly Timed[], from: number): number {
  const { vcpu } = events[from] as Extract<Timed, { kind: 'kvm_exit' }>;
  for (let at = from + 1; at < events.length; at++) {
    const event = events[at] as Timed;
    if ((event.kind === 'kvm_entry' || event.kind === 'kvm_exit') && event.vcpu === vcpu) return event.kind === 'kvm_entry' ? at : at - 1;
  }
  return events.length - 1;
}

/** The exit to which an event belongs: its own index, or that of the last exit before it that has not been ended by an entry. */
export function exitOf(events: readonly Timed[], index: number): number | null {
  for (let at = Math.min(index, events.length - 1); at >= 0; at--) {
    const event = events[at] as Timed;
    if (event.kind === 'kvm_exit') return at;
    if (event.kind === 'kvm_entry' && at !== index) return null;
  }
  return null;
}

// A read reports its value only when the instruction is completed, after the device was asked; a write reports it on the way out. Both are one event of
// the kernel, and it does not matter here on which side of the crossing it was written down.

function accessOf(part: readonly Timed[]): Access | null {
  for (const event of part) {
    if (event.kind === 'kvm_pio') {
      const { rw, port, size, count, value } = event;
      return { space: 'port', write: rw === 'out', address: port, bytes: size, count, value: BigInt(value >>> 0) };
    }
    if (event.kind === 'kvm_mmio') {
      const { rw, gpa, len, value } = event;
      return { space: 'memory', write: rw === 'write', address: gpa, bytes: len, count: 1, value };
    }
    if (event.kind === 'kvm_fast_mmio') return { space: 'memory', write: true, address: event.gpa, bytes: 0, count: 1, value: 0n };
  }
  return null;
}

const inWords = ({ space, write, address, bytes, count }: Access): string => {
  const many = count > 1 ? `${count} × ` : '';
  const width = bytes === 0 ? 'any width' : `${bytes} ${bytes === 1 ? 'byte' : 'bytes'}`;
  return `${write ? 'write' : 'read'} of ${many}${width}, ${space === 'port' ? 'port' : 'address'} ${hex(address)}`;
};

/** The route of the access that left the guest by the exit at `from`. */
export function routeAt(events: readonly Timed[], from: number, lookup: Lookup = () => null): Route | null {
  const exit = events[from];
  if (exit?.kind !== 'kvm_exit') return null;
  const to = span(events, from);
  const part = events.slice(from, to + 1);
  const access = accessOf(part);
  const up = part.findIndex((event) => event.kind === 'kvm_userspace_exit' && event.reason !== 'EINTR');
  const settledBy = up >= 0 ? 'user' : 'kernel';
  const stops: Stop[] = [
    { world: 'guest', title: access ? inWords(access) : 'an instruction that exits', detail: `RIP ${hex(exit.rip)}`, event: null },
    { world: 'processor', title: exit.reason, detail: `VM exit; qualification ${hex(exit.qualification)}`, event: from },
  ];
  let asked = false;
  const ask = (): void => {
    if (asked || !access) return;
    asked = true;
    const found = lookup(access.space, access.address);
    const bus = access.space === 'port' ? 'the port bus' : 'the memory bus';
    if (!found) stops.push({ world: 'user', title: `${bus}: nobody`, detail: 'a read returns ones, a write is lost', event: null });
    else {
      const { device, offset, register, text } = found;
      stops.push({ world: 'user', title: `${bus}: ${device}`, detail: `at its offset ${hex(offset)}`, event: null });
      if (register) stops.push({ world: 'user', title: `register ${register}`, detail: text, event: null });
    }
  };
  for (const [n, event] of part.entries()) {
    const index = from + n;
    const step = (world: World, title: string, detail = ''): void => void stops.push({ world, title, detail, event: index });
    switch (event.kind) {
      case 'kvm_pio':
      case 'kvm_mmio': {
        const value = `value ${hex(event.value)}`;
        if (access?.write)
          step('kernel', settledBy === 'kernel' ? 'a device in the kernel takes it' : 'no device of the kernel’s own is there', value);
        else step('kernel', settledBy === 'kernel' ? 'a device in the kernel answers' : 'the kernel puts the answer into the register', value);
        if (settledBy === 'kernel' && access) {
          const chip = lookup(access.space, access.address, true);
          if (chip)
            stops.push({
              world: 'kernel',
              title: `${chip.device}: ${chip.register ?? `offset ${hex(chip.offset)}`}`,
              detail: chip.text,
              event: null,
            });
        }
        break;
      }
      case 'kvm_fast_mmio':
        step('kernel', 'an eventfd is signalled', 'by the address alone: nobody looks at the value');
        break;
      case 'kvm_page_fault':
        if (access) step('kernel', 'no memory slot has the address', 'the entry is marked: a device’s');
        else step('kernel', 'a page of the second stage', `the entry for ${hex(event.gpa)} is filled in`);
        break;
      case 'kvm_set_irq':
      case 'kvm_ioapic_set_irq':
      case 'kvm_pic_set_irq':
      case 'kvm_msi_set_irq':
      case 'kvm_apic_accept_irq':
      case 'kvm_apic_ipi':
      case 'kvm_eoi':
      case 'kvm_ack_irq':
      case 'kvm_inj_virq':
        step('kernel', event.kind, 'an interrupt on its way');
        break;
      case 'kvm_userspace_exit':
        if (n === up) {
          step('kernel', event.reason, 'KVM_RUN returns; what happened is in struct kvm_run');
          ask();
        }
        break;
      case 'kvm_entry':
        step('guest', 'the next instruction', `VM entry at RIP ${hex(event.rip)}`);
        break;
      default:
        if (event.kind.startsWith('virt')) step('user', event.kind, 'queue' in event ? `queue ${event.queue}` : '');
        else if (event.kind === 'device' || event.kind === 'console')
          step('user', reported(event), 'value' in event && event.value !== undefined ? `value ${hex(event.value)}` : '');
    }
  }
  return { access, reason: exit.reason, qualification: exit.qualification, stops, settledBy, from, to };
}

// ## Counting
//
// The same walk over a whole trace gives the table that every later optimization starts from: how many exits there were, for what, and how many of them
// had to go all the way up.

/** Exits of one reason, by who settled them. */
interface Settled {
  readonly reason: string;
  readonly kernel: number;
  readonly user: number;
}

/** The exits of a trace by reason, the commonest first. */
export function settled(events: readonly Timed[]): Settled[] {
  const counts = new Map<string, { kernel: number; user: number }>();
  let open: { kernel: number; user: number } | null = null;
  for (const event of events) {
    if (event.kind === 'kvm_exit') {
      open = counts.get(event.reason) ?? { kernel: 0, user: 0 };
      counts.set(event.reason, open);
      open.kernel++;
    } else if (event.kind === 'kvm_userspace_exit' && event.reason !== 'EINTR' && open) {
      open.kernel--;
      open.user++;
      open = null;
    }
  }
  return [...counts].map(([reason, count]) => ({ reason, ...count })).sort((a, b) => b.kernel + b.user - (a.kernel + a.user));
}

/** All of them together. */
export function crossings(events: readonly Timed[]): { readonly exits: number; readonly kernel: number; readonly user: number } {
  const rows = settled(events);
  const [kernel, user] = [rows.reduce((sum, row) => sum + row.kernel, 0), rows.reduce((sum, row) => sum + row.user, 0)];
  return { exits: kernel + user, kernel, user };
}

/** How often a trace has an access to the same address, and who settled them. */
export function accessesTo(
  events: readonly Timed[],
  { space, address }: Pick<Access, 'space' | 'address'>,
): { readonly kernel: number; readonly user: number } {
  const count = { kernel: 0, user: 0 };
  let up = false;
  let hit = false;
  const close = (): void => {
    if (hit) count[up ? 'user' : 'kernel']++;
    hit = up = false;
  };
  for (const event of events) {
    if (event.kind === 'kvm_exit') close();
    else if (event.kind === 'kvm_userspace_exit') up ||= event.reason !== 'EINTR';
    else if (
      space === 'port'
        ? event.kind === 'kvm_pio' && event.port === address
        : 'gpa' in event && event.kind !== 'kvm_page_fault' && event.gpa === address
    )
      hit = true;
  }
  close();
  return count;
}

/** The next exit with an access after `index`, or the last one before it. Null when there is none. */
export function nextAccess(events: readonly Timed[], index: number, step: 1 | -1): number | null {
  for (let at = index + step; at >= 0 && at < events.length; at += step) {
    if (events[at]?.kind === 'kvm_exit' && accessOf(events.slice(at, span(events, at) + 1))) return at;
  }
  return null;
}
