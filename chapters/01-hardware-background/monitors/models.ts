// # Where the driver lives
//
// One guest writes one byte to one port, and somebody's driver has to hear of it. Below are the three places where that driver can be, each with the
// smallest system that puts it there. What is counted are *crossings*: changes between non-root and root operation, and between the host's kernel and
// its user programs. They are what an I/O costs before anybody has done any work.
//
// The process of the host model is a real one: code in ring 3, which its kernel enters by IRET and leaves by a software interrupt. The driver domain of the
// hybrid model is a second guest with a VMCS of its own. Each arrow of a route below is a transition that a processor of this chapter has made.

import { assert } from '../physical-memory.ts';
import { SLOT } from '../state.ts';
import { RootMachine, World } from './non-root.ts';
import { Stage } from './stage.ts';

const ENTRY = 0x1000;
const STACK_TOP = 0x1ff0;
const PORT = 0xe9;
const MESSAGE = 0x21;

const GUEST = [0xb0, MESSAGE, 0xe6, PORT, 0xf4]; // mov al, '!'; out 0xe9, al; hlt
// The driver, wherever it runs: takes the byte that it finds in AL, and asks for the next piece of work.
const DRIVER_DOMAIN = [0x0f, 0x01, 0xc1, 0xe6, PORT, 0xeb, 0xf9]; // again: vmcall (give me work); out 0xe9, al (its own device); jmp again
const DEVICE_GPA = 0x3000;
const PROCESS = [0xcd, 0x20, 0xa2, 0x00, 0x30, 0x00, 0x00, 0xeb, 0xf7]; // again: int 0x20 (give me work); mov [0x3000], al; jmp again
const SYSTEM_CALL = 0x20;

/** One model's journey of one byte. */
interface Journey {
  readonly model: 'hypervisor' | 'host' | 'hybrid';
  /** The systems that are built so. */
  readonly systems: string;
  /** Who has the driver. */
  readonly driver: string;
  /** The stations in order, from the guest's instruction to the guest's next one. */
  readonly route: readonly string[];
  /** What the device received: the proof that the byte arrived. */
  readonly output: string;
}

/** Changes of station on a journey. */
export const crossingsOf = ({ route }: Journey): number => route.length - 1;

/** Writes down where control is, as the machines report each transition they make. */
class Route {
  readonly #stations: string[] = [];

  watch(place: World | Stage, inside: string, outside: string): void {
    place.onCrossing = (entered) => {
      const station = entered ? inside : outside;
      if (this.#stations.at(-1) !== station) this.#stations.push(station);
    };
  }

  /** From the guest's first instruction to its first one after the access. */
  get journey(): readonly string[] {
    const from = this.#stations.indexOf('guest');
    return this.#stations.slice(from, this.#stations.indexOf('guest', from + 1) + 1);
  }
}

const guestOf = (machine: RootMachine, route: Route, monitor: string): World => {
  const world = new World(machine, 0, { entry: ENTRY, stackTop: STACK_TOP });
  world.load(ENTRY, GUEST);
  route.watch(world, 'guest', monitor);
  return world;
};

/** Runs the guest up to its port access. */
function access(guest: World): void {
  const reason = guest.enter();
  assert(reason === 'IO_INSTRUCTION', `not a port access but ${reason}`);
  guest.skip();
}

/** The guest goes on, and the journey is over when it can: its next instruction is HLT. */
function resume(guest: World): void {
  const reason = guest.enter();
  assert(reason === 'HLT', `the guest went on to ${reason}`);
}

// **The hypervisor model.** The code that took the exit has the driver.

function hypervisorModel(): Journey {
  const machine = new RootMachine(1);
  const route = new Route();
  const guest = guestOf(machine, route, 'hypervisor');
  access(guest);
  machine.cpu.ports.write(PORT, 1, guest.al);
  resume(guest);
  return {
    model: 'hypervisor',
    systems: 'VMware ESX',
    driver: 'in the hypervisor',
    route: route.journey,
    output: machine.console,
  };
}

// **The host model.** The kernel takes the exit, and returns from a system call of the process that plays the device. The process does its part, here
// a store into its own memory, and asks for the next piece of work by another system call.

function hostModel(): Journey {
  const machine = new RootMachine(1);
  const route = new Route();
  const guest = guestOf(machine, route, 'host kernel');
  const host = new Stage(3); // the host's kernel and one process of it
  route.watch(host, 'process', 'host kernel');
  host.machine.load(ENTRY, PROCESS);
  host.startAt(ENTRY);
  assert(host.next()?.vector === SYSTEM_CALL, 'the process asks for work');
  access(guest);
  host.machine.cpu.state.setSlotNumber(SLOT.RAX, guest.al); // what the system call returns
  assert(host.next()?.vector === SYSTEM_CALL, 'the process has come back for more');
  const output = String.fromCharCode(host.byte(DEVICE_GPA));
  resume(guest);
  return { model: 'host', systems: 'KVM with QEMU', driver: 'in the kernel; the device in a process', route: route.journey, output };
}

// **The hybrid model.** The hypervisor owns processors and memory, and no device. A port access of the guest becomes work for a privileged guest, whose own
// driver does it on a device that the hypervisor has given it, without exit, and which reports back by a hypercall.

function hybridModel(): Journey {
  const machine = new RootMachine(2);
  const route = new Route();
  const guest = guestOf(machine, route, 'hypervisor');
  const domain = new World(machine, 1, { entry: ENTRY, stackTop: STACK_TOP, ownsPorts: true });
  route.watch(domain, 'driver domain', 'hypervisor');
  domain.load(ENTRY, DRIVER_DOMAIN);
  assert(domain.enter() === 'VMCALL', 'the driver domain asks for work');
  domain.skip();
  access(guest);
  domain.al = guest.al;
  assert(domain.enter() === 'VMCALL', 'the driver domain reports back');
  resume(guest);
  return { model: 'hybrid', systems: 'Xen, ACRN', driver: 'in a privileged guest', route: route.journey, output: machine.console };
}

/** The same byte, three ways. */
export const models = (): readonly Journey[] => [hypervisorModel(), hostModel(), hybridModel()];
