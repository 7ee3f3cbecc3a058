// # `user`
//
// What a machine's description says of this network, and how it is plugged in. A network that was merely asked for gives addresses, answers and refuses, and is as
// deterministic as the rest of the machine. Each way to the host has to be asked for by name: `hostfwd=tcp::2222-:22`, say, which makes
// port {{readForward('tcp::2222-:22').hostPort}} of the host the guest's port {{readForward('tcp::2222-:22').guestPort}}.

import { ConfigError, type NetdevConfig, type NetdevType } from '../../05-pio-mmio/machine/device-types.ts';
import { memoryWire } from '../../05-pio-mmio/net/link.ts';
import { dotted, isGuest, NETWORK, readIpv4 } from './addresses.ts';
import type { HostSockets } from './host-sockets.ts';
import { type Forward, UserNetwork } from './user-network.ts';

const FORWARD = /^(tcp|udp):([^:]*):([0-9]{1,5})-([^:]*):([0-9]{1,5})$/;
const LOOPBACK = '127.0.0.1';

function port(text: string, whole: string): number {
  const number = Number(text);
  if (!/^[0-9]{1,5}$/.test(text) || number < 1 || number > 65_535) throw new ConfigError(`hostfwd=${whole}: ${text} is no port`);
  return number;
}

/**
 * Reads `tcp:127.0.0.1:2222-:22`, as QEMU writes it. Both addresses may be left out.
 * @throws ConfigError
 */
export function readForward(text: string): Forward {
  const match = FORWARD.exec(text);
  if (!match) throw new ConfigError(`hostfwd is PROTOCOL:[${LOOPBACK}]:PORT-[GUEST]:PORT, as in tcp::2222-:22; not ${text}`);
  const [, protocol, host, hostPort, guestText, guestPort] = match as unknown as [string, 'tcp' | 'udp', string, string, string, string];
  if (host !== '' && host !== LOOPBACK) throw new ConfigError(`hostfwd=${text}: a port is opened at ${LOOPBACK} alone, not at ${host}`);
  const guest = guestText === '' ? NETWORK.guest : readIpv4(guestText);
  if (guest === null || !isGuest(guest)) throw new ConfigError(`hostfwd=${text}: ${guestText} is no guest's address; ${dotted(NETWORK.guest)} is`);
  return { protocol, hostPort: port(hostPort, text), guest, guestPort: port(guestPort, text) };
}

/** Gives a machine its way to the host; null where there is none. */
type SocketsFor = (arrived: () => void) => HostSockets | null;

/** The type, on whatever sockets there are. */
export function userNetdev(socketsFor: SocketsFor): NetdevType {
  return {
    name: 'user',
    text: 'addresses by DHCP, an answer to ping, and programs on this host as far as is asked for',
    properties: {
      restrict: { kind: 'boolean', text: 'whether the guest may not connect to 127.0.0.1 of this host, as 10.0.2.2; on by default' },
      hostfwd: { kind: 'list', text: 'a port of 127.0.0.1 that leads to the guest, as in tcp::2222-:22; may be said again' },
      'dns-port': { kind: 'integer', text: 'where a name server listens at 127.0.0.1; names are refused without', least: 1, most: 65_535 },
    },
    connect(pc, config) {
      const { restrict = true } = config;
      const dnsPort = (config['dns-port'] ?? null) as number | null;
      const [near, far] = memoryWire(pc.timers);
      const network = new UserNetwork(far, {
        clock: pc.timers,
        sockets: socketsFor(() => pc.onArrival()),
        open: restrict === false,
        forwards: forwardsOf(config),
        dnsPort,
        trace: pc.trace,
      });
      pc.addOutside(network);
      pc.onReset(() => network.reset());
      pc.onDispose(() => network.close());
      return near;
    },
  };
}

const forwardsOf = ({ hostfwd = [] }: NetdevConfig): Forward[] => (hostfwd as readonly string[]).map(readForward);
