// # A first file system
//
// A kernel that has started looks for a program called `/init`, and everything after that is the program's. Ours is a shell script of BusyBox, one binary that
// is two hundred commands under as many names: it mounts the file systems in which the kernel shows itself, loads the modules that were packed, and then
// does what it is told, or asks. The kernel's command line may say `libata.dma=0` to a driver; to one that is a module somebody has to pass it on, and that is
// whoever loads it.

import { type Entry, packCpio } from './cpio.ts';

/** Where things are in it. */
const BUSYBOX = 'bin/busybox';
const MODULES = 'lib/modules';
const MODULE_LIST = 'etc/modules';
const SCRIPT = 'script';

const INIT = `#!/${BUSYBOX} sh
export PATH=/bin HOME=/ TERM=\${TERM:-linux}
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /mnt
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
read -r line </proc/cmdline
while read -r module; do
  options=
  for word in $line; do case "$word" in "$module".*) options="$options \${word#*.}" ;; esac; done
  insmod "/${MODULES}/$module.ko" $options || echo "init: module $module is not loaded" >/dev/console
done </${MODULE_LIST}
if [ -f /${SCRIPT} ]; then
  sh /${SCRIPT} </dev/console >/dev/console 2>&1
  sync
  poweroff -f
fi
echo
echo "This is BusyBox on Linux $(uname -r), $(cut -d' ' -f1 /proc/uptime) s after its start. 'poweroff -f' ends the machine."
while true; do setsid cttyhack sh; done
`;

// `udhcpc` asks the network for an address, and leaves it to a script to use it: the lease comes in variables.
const LEASE = 'etc/udhcpc/default.script';
const LEASE_SCRIPT = `#!/${BUSYBOX} sh
case "$1" in
deconfig) ifconfig "$interface" 0.0.0.0 up ;;
bound | renew)
  ifconfig "$interface" "$ip" netmask "\${subnet:-255.255.255.0}" up
  while route del default dev "$interface" 2>/dev/null; do :; done
  for gateway in $router; do route add default gw "$gateway" dev "$interface"; done
  for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
  ;;
esac
`;

interface Contents {
  /** The BusyBox binary; static, because there is no library. */
  readonly busybox: Uint8Array;
  /** In the order in which they are loaded. */
  readonly modules?: ReadonlyMap<string, Uint8Array>;
  /** A shell script to run in place of the shell; the machine is switched off after it. */
  readonly script?: string;
  /** Anything else, by name. */
  readonly files?: ReadonlyMap<string, Uint8Array>;
}

/** The archive, not yet compressed. */
export function makeInitramfs({ busybox, modules = new Map(), script, files = new Map() }: Contents): Uint8Array {
  const text = new TextEncoder();
  const entries = new Map<string, Entry>([
    ['dev/console', { kind: 'character', major: 5, minor: 1 }], // before there is a /dev, the kernel opens this for init
    ['init', { kind: 'file', bytes: text.encode(INIT), executable: true }],
    [BUSYBOX, { kind: 'file', bytes: busybox, executable: true }],
    [LEASE, { kind: 'file', bytes: text.encode(LEASE_SCRIPT), executable: true }],
    [MODULE_LIST, { kind: 'file', bytes: text.encode([...modules.keys()].map((name) => `${name}\n`).join('')) }],
  ]);
  for (const [name, bytes] of modules) entries.set(`${MODULES}/${name}.ko`, { kind: 'file', bytes });
  for (const [name, bytes] of files) entries.set(name, { kind: 'file', bytes });
  if (script !== undefined) entries.set(SCRIPT, { kind: 'file', bytes: text.encode(script) });
  return packCpio(entries);
}
