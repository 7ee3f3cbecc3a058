// # A network for one
//
// A guest with a network card wants a network behind it. On a host there is one, and the honest way to connect the two is to give the guest a place on it: a
// *tap* device in the host's kernel, a bridge, an address from whoever gives them out. Each of these needs an administrator. Somebody who merely wants to try
// an image wants the guest to get an address, to be able to fetch a file, and to be reachable at one port.
//
// In 1995 there was the same wish in another place. A student's shell account was reached by telephone, and what came over the line was a terminal; a
// real Internet connection, by SLIP, was for those who had paid for one. Danny Gasparovski's *Slirp* was a program that anybody could start in the shell. It
// spoke SLIP on the terminal line, took the packets apart, and did by ordinary sockets, as an ordinary program, what the packets asked for. To the
// computer at home it looked like the Internet. To the university's it looked like a user who opened connections.
//
// A guest and its VMM are in exactly that relation: packets on one side, a program with sockets and without privileges on the other. QEMU took
// the code, and it is still what `-nic user` starts. The addresses of its network, the guest's among them, were Slirp's.
//
// ::include addresses.ts
//
// ## Taking packets apart
//
// A network that forwards packets needs to know little of them. One that turns them into socket calls has to be the other end of everything: it answers for
// addresses that do not exist, and plays every host that the guest talks to. So here is a whole protocol suite, from the frame upward, each layer no
// larger than a guest needs it. Everything is computed from frames and virtual time alone.
//
// ::include ethernet.ts
// ::include arp.ts
// ::include ipv4.ts
// ::include icmp.ts
// ::include udp.ts
// ::include dhcp.ts
// ::include dns.ts
//
// ## A stream out of packets
//
// Of these layers one is different in kind. Up to UDP a packet is answered and forgotten; TCP remembers. It makes a stream of what may be lost, doubled and
// reordered, and the guest's end of it is the real thing, Linux's with its thirty years of refinements, which will use whatever the specification allows.
//
// ::include tcp/segment.ts
// ::include tcp/receiver.ts
// ::include tcp/byte-ring.ts
// ::include tcp/round-trip.ts
// ::include tcp/sender.ts
// ::include tcp/connection.ts

import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { EthernetHeader } from './ethernet.ts';
import { Ipv4Header } from './ipv4.ts';
import { Connection, type ConnectionPorts } from './tcp/connection.ts';
import { type Segment, TcpHeader } from './tcp/segment.ts';

// ## What a transfer is made of
//
// Two of these ends, in one program, with nothing between them but {{WIRE_NS / 1000}} microseconds. One sends {{BYTES / 1024}} KiB, and ends.

export const BYTES = 256 << 10;
export const WIRE_NS = 10_000;

interface Transfer {
  /** Segments with data, and without. */
  readonly data: number;
  readonly bare: number;
  readonly bytesOnWire: number;
  readonly ns: number;
}

function transfer(bytes: Uint8Array): Transfer {
  let now = 0;
  const clock = new TimerQueue(() => now);
  const counts = { data: 0, bare: 0, bytesOnWire: 0, ns: 0 };
  const ends: { client: Connection | null; server: Connection | null } = { client: null, server: null };
  let got = 0;
  let left = bytes;
  const send = (): void => {
    left = left.subarray(ends.client?.send(left) ?? 0);
    if (left.length === 0) ends.client?.finish();
  };
  const ports = (own: 'client' | 'server', other: 'client' | 'server'): ConnectionPorts => ({
    clock,
    localPort: own === 'client' ? 1 : 2,
    remotePort: own === 'client' ? 2 : 1,
    initial: 0,
    transmit(segment: Segment) {
      counts[segment.data.length > 0 ? 'data' : 'bare']++;
      counts.bytesOnWire += EthernetHeader.bytes + Ipv4Header.bytes + TcpHeader.bytes + segment.data.length;
      clock.timer(() => arrive(other, segment)).arm(now + WIRE_NS);
    },
    onEstablished: own === 'client' ? send : () => {},
    onRoom: own === 'client' ? send : () => {},
    onData(piece) {
      got += piece.length;
      ends[own]?.used(piece.length);
    },
    onEnd() {
      if (own === 'server') ends.server?.finish();
      counts.ns = now;
    },
    onClosed() {},
  });
  const arrive = (to: 'client' | 'server', segment: Segment): void => {
    if (to === 'server' && ends.server === null) {
      ends.server = Connection.requested(segment, ports('server', 'client'));
      ends.server.accept();
    } else ends[to]?.segment(segment);
  };
  ends.client = Connection.open(ports('client', 'server'));
  while (clock.next !== null && got < bytes.length) {
    now = clock.next;
    clock.runDue();
  }
  return { ...counts, ns: now };
}

export const measured: Transfer = transfer(new Uint8Array(BYTES));

// It took {{measured.data}} segments with data, and {{measured.bare}} without: the handshake and the acknowledgements, about one for every two. Headers were
// {{((measured.bytesOnWire / BYTES - 1) * 100).toFixed(1)}} percent on top. The time was {{(measured.ns / 1e6).toFixed(2)}} ms, on a wire that loses
// nothing and is infinitely fast;
// all of it is waiting for permission to send more.
//
// ## To the host, and no further
//
// What is left is the step from a connection of the guest's to a socket of the host's.
//
// ::include host-sockets.ts
// ::include relay.ts
// ::include tcp-nat.ts
// ::include udp-nat.ts
// ::include user-network.ts
// ::include netdev.ts
//
// ## How the real ones do it
//
// libslirp is the code that QEMU took, in a library of its own; its TCP descends from 4.4BSD's, `tcp_input.c` and all. passt, of 2020, does the same for QEMU
// and for containers by another principle: it keeps as little TCP state as it can, lets the host's kernel acknowledge, and passes the guest's window on
// as the socket's
// buffer. gVisor's netstack is a whole suite in Go and serves as the user-mode network of several virtual machines for developers. All of
// them can reach the Internet. Ours cannot, on purpose: it stops at the host's own address.
//
// ## Exercises
//
// 1. A guest pings 8.8.8.8 and hears nothing, though the gateway answers with *prohibited*. Find out who swallows the answer.
// 2. Selective acknowledgements (RFC 2018) tell the sender what came behind a gap. Add the option, and measure in the laboratory's bad weather what it is worth.
// 3. A connection that is never used costs a table entry for ever. Add keep-alive probes, and find the smallest interval that never ends a healthy one.
