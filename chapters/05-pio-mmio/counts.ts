// # What an operation costs
//
// The price of emulating a device is paid in exits, and a trace has them all. What it does not say is what each was *for*. This module puts the two
// together: an exit belongs to the device at its address, and a device's exits belong to the request during which they happened.
//
// A request begins with the first register that the driver writes for it, and it ends where the next begins, since a driver usually has something
// left to read after the device has said that it is done.

import type { Timed } from '../01-hardware-background/trace.ts';
import { E1000 } from './e1000/registers.ts';
import { BUS_MASTER } from './ide/bus-master.ts';
import { PRIMARY_PORTS, TASK_FILE } from './ide/task-file.ts';

/** How many exits stayed in the kernel, and how many went on to user space. */
interface Handled {
  readonly kernel: number;
  readonly user: number;
}

/** One exit, with where it was going. */
interface Exit {
  readonly at: number; // index of its event
  readonly reason: string;
  readonly write: boolean;
  readonly port: number | null;
  gpa: number | null;
  user: boolean;
}

const IO_READ = 0x8n;

// The port and the direction of an I/O exit are in its qualification. The address of a memory access is told by the event that follows it; of a read that
// is after the next entry, when the value has come. With one processor, that is always the last exit.

function exitsOf(events: readonly Timed[]): Exit[] {
  const exits: Exit[] = [];
  events.forEach((event, at) => {
    if (event.kind === 'kvm_exit') {
      const io = event.reason === 'IO_INSTRUCTION';
      const port = io ? Number((event.qualification >> 16n) & 0xffffn) : null;
      exits.push({ at, reason: event.reason, write: io && !(event.qualification & IO_READ), port, gpa: null, user: false });
      return;
    }
    const last = exits.at(-1);
    if (!last) return;
    if (event.kind === 'kvm_userspace_exit') last.user = true;
    else if (event.kind === 'kvm_mmio') last.gpa ??= event.gpa;
  });
  return exits;
}

/** Exits of each kind, by a name that `nameOf` gives; null is none of them. */
type Tally<Name extends string> = Record<Name, number>;

function tally<Name extends string>(names: readonly Name[]): Tally<Name> {
  return Object.fromEntries(names.map((name) => [name, 0])) as Tally<Name>;
}

const PIC_PORTS: readonly number[] = [0x20, 0x21, 0xa0, 0xa1];

// ## The disk

/** What the driver was at: filling in the form, asking whether it is done, moving data, programming the bus master, ending the interrupt. */
const DISK_PARTS = ['task', 'status', 'data', 'master', 'interrupt'] as const;
type DiskPart = (typeof DISK_PARTS)[number];

const COMMAND_PORT = PRIMARY_PORTS.command + TASK_FILE.rows.STATUS_COMMAND.offset;
const PRDT_OFFSET = BUS_MASTER.rows.PRDT.offset;

interface DiskRequest {
  /** The command's name in the standard. */
  readonly command: string;
  readonly sectors: number;
  readonly exits: Readonly<Tally<DiskPart>>;
  readonly handled: Handled;
}

function diskPart({ port, write }: Exit, master: number): DiskPart | null {
  if (port === null) return null;
  if (PIC_PORTS.includes(port)) return 'interrupt';
  if (port >= master && port < master + 8) return 'master';
  if (port === PRIMARY_PORTS.control) return write ? 'task' : 'status';
  const register = port - PRIMARY_PORTS.command;
  if (register < 0 || register > 7) return null;
  if (register === 0) return 'data';
  return register === 7 && !write ? 'status' : 'task';
}

/** The requests that moved sectors on the primary channel, in order. `master` is the first port of its bus master, where it has one. */
export function diskRequests(events: readonly Timed[], device: string, master = Number.POSITIVE_INFINITY): DiskRequest[] {
  const requests: DiskRequest[] = [];
  let open: { command: string; first: number; sectors: number; commanded: boolean; exits: Tally<DiskPart>; kernel: number; user: number } | null =
    null;
  const close = (): void => {
    if (open && open.sectors > 0) {
      const { command, sectors, exits, kernel, user } = open;
      requests.push({ command, sectors, exits, handled: { kernel, user } });
    }
    open = null;
  };
  const byEvent = new Map(exitsOf(events).map((exit) => [exit.at, exit]));
  events.forEach((event, at) => {
    if (event.kind === 'device' && event.device === device && open) {
      if (event.what === 'done') open.sectors = (event.value ?? 0) - open.first + 1;
      else if (event.what !== 'command') Object.assign(open, { command: event.what, first: event.value ?? 0 });
      return;
    }
    const exit = byEvent.get(at);
    const part = exit ? diskPart(exit, master) : null;
    if (!exit || part === null) return;
    // The form and the pointer to the table are written before a command; what else is written may be its end.
    const prepares = exit.write && (part === 'task' || exit.port === master + PRDT_OFFSET);
    if (prepares && open?.commanded) close();
    if (prepares) open ??= { command: '', first: 0, sectors: 0, commanded: false, exits: tally(DISK_PARTS), kernel: 0, user: 0 };
    if (open && exit.write && exit.port === COMMAND_PORT) open.commanded = true;
    if (!open) return;
    open.exits[part]++;
    if (exit.user) open.user++;
    else open.kernel++;
  });
  close();
  return requests;
}

// ## The network card

const CARD_PARTS = ['doorbell', 'buffers', 'causes', 'other', 'interrupt'] as const;
type CardPart = (typeof CARD_PARTS)[number];

interface CardTraffic {
  readonly sent: number;
  readonly received: number;
  readonly interrupts: number;
  readonly exits: Readonly<Tally<CardPart>>;
  readonly handled: Handled;
}

function cardPart({ port, gpa }: Exit, base: number): CardPart | null {
  if (port !== null) return PIC_PORTS.includes(port) ? 'interrupt' : null;
  const register = gpa === null ? null : E1000.at(gpa - base);
  if (!register) return null;
  switch (register.name) {
    case 'TDT':
      return 'doorbell';
    case 'RDT':
      return 'buffers';
    case 'ICR':
      return 'causes';
    default:
      return 'other';
  }
}

/** The card's traffic between two moments. `base` is where its registers are in memory. */
export function cardTraffic(
  events: readonly Timed[],
  base: number,
  { from = 0, to = events.length }: { from?: number; to?: number } = {},
): CardTraffic {
  const part = events.slice(from, to);
  const exits = tally(CARD_PARTS);
  const handled = { kernel: 0, user: 0 };
  for (const exit of exitsOf(part)) {
    const name = cardPart(exit, base);
    if (name === null) continue;
    exits[name]++;
    handled[exit.user ? 'user' : 'kernel']++;
  }
  const count = (what: string): number =>
    part.filter((event) => event.kind === 'device' && event.device === E1000.device && event.what === what).length;
  return { sent: count('transmit'), received: count('receive'), interrupts: count('interrupt'), exits, handled };
}
