// # Linux's own drivers
//
// Each case loads drivers of a distribution's kernel against the devices of this machine, moves data both ways, and compares what came out at either end. Checksums are
// computed by BusyBox inside and by Node outside; neither was written for the other.

import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttp } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MemoryBlock } from '../../chapters/05-pio-mmio/block/block.ts';
import { Chardev } from '../../chapters/05-pio-mmio/machine/chardev.ts';
import type { DeviceConfig } from '../../chapters/05-pio-mmio/machine/device-types.ts';
import { BalloonModel } from '../../chapters/06-virtio-rings/devices/balloon.ts';
import { virtioDevices } from '../../chapters/06-virtio-rings/machine/virtio-types.ts';
import { boot, COMMAND_LINE, complaints } from './boot.ts';
import { type Flavour, imageFor, initramfsFile, type LinuxAtHand } from './debian.ts';
import { type Seen, watchedBoot } from './watched.ts';

export interface DriverCase {
  readonly name: string;
  readonly about: string;
  readonly flavour: Flavour;
  /** What is wrong; nothing, if all is well. */
  run(linux: LinuxAtHand): Promise<{ readonly problems: readonly string[]; readonly console: string }>;
}

const MIB = 1 << 20;
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Notes what is not as it should be. */
class Problems {
  readonly found: string[] = [];
  same(what: string, actual: unknown, expected: unknown): void {
    if (actual !== expected) this.found.push(`${what}: ${String(actual)}, expected ${String(expected)}`);
  }
  that(holds: boolean, what: string): void {
    if (!holds) this.found.push(what);
  }
  booted({ end, console }: Pick<Seen, 'end' | 'console'>): void {
    if (end !== '') this.found.push(`the machine ended by ${end}`);
    for (const line of complaints(console)) this.found.push(line);
  }
}

// ## Disks
//
// A disk of random bytes is read as a whole; one half is copied onto the other. On a second disk a file system is made inside, filled, taken apart and mounted again.

const DISK_BYTES = 4 * MIB;
const FILES_BYTES = 8 * MIB;
const SUM = "sha256sum | cut -d' ' -f1";
const drop = 'sync; echo 3 >/proc/sys/vm/drop_caches';

const diskScript = (first: string, second: string): string => `
for n in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/${second} ] && break; sleep 1; done
echo "check read $(cat /dev/${first} | ${SUM})"
dd if=/dev/${first} of=/dev/${first} bs=64k count=32 seek=32 conv=notrunc,fsync 2>/dev/null
${drop}
echo "check copied $(cat /dev/${first} | ${SUM})"
mke2fs -q /dev/${second} >/dev/null 2>&1 || echo "check mke2fs failed"
mount -t ext4 /dev/${second} /mnt || echo "check mount failed"
dd if=/dev/${first} of=/mnt/half bs=64k count=32 2>/dev/null
cp /bin/busybox /mnt/busybox
for n in $(seq 1 100); do echo "file $n" >/mnt/file-$n; done
for n in $(seq 2 2 100); do rm /mnt/file-$n; done
umount /mnt
${drop}
mount -t ext4 /dev/${second} /mnt
echo "check half $(cat /mnt/half | ${SUM})"
echo "check busybox $(cmp /mnt/busybox /bin/busybox && echo same)"
echo "check files $(ls /mnt | grep -c file-)"
umount /mnt
`;

/** What `e2fsck` says of a file system, where there is one; and a file out of it. */
function inspect(problems: Problems, disk: MemoryBlock, half: string): void {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-disk-'));
  try {
    const [file, dumped] = [join(folder, 'disk'), join(folder, 'half')];
    writeFileSync(file, disk.bytes);
    const checked = spawnSync('e2fsck', ['-fn', file], { encoding: 'utf8' });
    if (checked.error) return; // what the guest read back is all there is
    problems.that(checked.status === 0, `e2fsck on the host: ${checked.stdout.trim().split('\n').at(-1)}`);
    const copied = spawnSync('debugfs', ['-R', `dump /half ${dumped}`, file], { encoding: 'utf8' });
    if (!copied.error) problems.same('a file, read on the host', sha256(readFileSync(dumped)), half);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

interface DiskCase {
  readonly name: string;
  readonly about: string;
  readonly machine: string;
  readonly modules: readonly string[];
  readonly device: (drive: string) => DeviceConfig;
  readonly names: readonly [string, string];
  readonly append?: string;
  /** On the kernel's console, if it went as meant. */
  readonly said: RegExp;
  readonly more: string;
}

const diskCase = ({ name, about, machine, modules, device, names, append, said, more }: DiskCase): DriverCase => ({
  name,
  about,
  flavour: 'cloud-amd64',
  async run(linux) {
    const problems = new Problems();
    const before = new Uint8Array(randomBytes(DISK_BYTES));
    const after = before.slice();
    after.copyWithin(DISK_BYTES / 2, 0, DISK_BYTES / 2);
    const half = sha256(after.subarray(0, DISK_BYTES / 2));
    const disks = { raw: new MemoryBlock(before.slice()), files: new MemoryBlock(new Uint8Array(FILES_BYTES)) };
    const seen = watchedBoot(linux, {
      machine,
      devices: [device('raw'), device('files')],
      disks,
      modules,
      script: `${diskScript(...names)}${more}\ncat /proc/interrupts\n`,
      ...(append !== undefined && { append }),
    });
    problems.booted(seen);
    const expected = { read: sha256(before), copied: sha256(after), half, busybox: 'same', files: '50' };
    for (const [check, value] of Object.entries(expected)) problems.same(check, seen.checks[check], value);
    problems.that(seen.checks.mke2fs === undefined && seen.checks.mount === undefined, 'no file system');
    problems.that(said.test(seen.console), `the kernel did not say ${said}`);
    problems.same('the disk afterwards', sha256(disks.raw.bytes), sha256(after));
    problems.that(disks.files.flushes > 0, 'no flush has reached the disk');
    inspect(problems, disks.files, half);
    return { problems: problems.found, console: seen.console };
  },
});

// Which way the data went is asked twice: of the driver, and of the register in which a driver that moves data by bus master has to leave the address of its list.
const ide = (name: string, machine: string, append: string, said: RegExp): DriverCase =>
  diskCase({
    name,
    about: `ata_piix on ${machine}${append ? `, ${append}` : ''}`,
    machine,
    modules: ['ata_piix', 'sd_mod'],
    device: (drive) => ({ type: 'ide-hd', drive }),
    names: ['sda', 'sdb'],
    append,
    said,
    more: `
list=$(dd if=$(echo /sys/bus/pci/drivers/ata_piix/0000:*/resource4) bs=4 skip=1 count=1 | hexdump -e '1/4 "%08x"')
for d in /sys/class/ata_device/dev1.*; do echo "mode $(cat $d/xfer_mode), list at $list"; done
`,
  });

// ## Virtio
//
// One boot has all five devices on one transport.

const PORT_BYTES = 256 << 10;
const BALLOON_LEAVES = 192 * MIB;

const virtioScript = `
echo "check rng $(cat /sys/class/misc/hw_random/rng_current)"
echo "check random $(dd if=/dev/hwrng bs=1024 count=16 iflag=fullblock 2>/dev/null | wc -c)"
echo "check different $([ "$(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | ${SUM})" != "$(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | ${SUM})" ] && echo yes)"
stty raw -echo </dev/hvc0
exec 3<>/dev/hvc0
echo "a line to the console" >&3
read -r answer <&3
echo "check console $answer"
exec 3>&-
for port in /sys/class/virtio-ports/*; do
  [ "$(cat $port/name)" = org.ringbook.port ] && dd if=/dev/vda of=/dev/\${port##*/} bs=4096 count=64 2>/dev/null && echo "check port \${port##*/}"
done
total() { awk '/MemTotal/ { print $2 }' /proc/meminfo; }
start=$(total)
echo "balloon inflate"
for n in $(seq 1 100); do [ $(total) -le $((start - 60000)) ] && break; sleep 1; done
echo "check inflated $((start - $(total)))"
echo "balloon deflate"
for n in $(seq 1 100); do [ $(total) -ge $start ] && break; sleep 1; done
echo "check deflated $((start - $(total)))"
`;

interface Transport {
  readonly name: string;
  readonly about: string;
  readonly machine: string;
  /** Of a device's type: `pci`, `device` and their like. */
  readonly suffix: string;
  readonly properties?: Readonly<Record<string, string | number | boolean>>;
  readonly modules: readonly string[];
  readonly append?: string;
  readonly said: RegExp;
}

const virtio = ({ name, about, machine, suffix, properties = {}, modules, append, said }: Transport): DriverCase => ({
  name,
  about,
  flavour: 'cloud-amd64',
  async run(linux) {
    const problems = new Problems();
    const before = new Uint8Array(randomBytes(DISK_BYTES));
    const after = before.slice();
    after.copyWithin(DISK_BYTES / 2, 0, DISK_BYTES / 2);
    const disks = { raw: new MemoryBlock(before.slice()), files: new MemoryBlock(new Uint8Array(FILES_BYTES)) };
    const [hvc, port] = [new Chardev({ hasInput: true }), new Chardev()];
    let [typed, ported] = ['', Buffer.alloc(0)];
    hvc.onOutput = (bytes) => {
      typed += Buffer.from(bytes).toString('latin1');
      const line = /^(.*?)\r?\n/.exec(typed)?.[1];
      if (line === undefined) return;
      typed = '';
      hvc.send(new TextEncoder().encode(`${[...line].reverse().join('')}\n`));
    };
    port.onOutput = (bytes) => {
      ported = Buffer.concat([ported, bytes]);
    };
    const balloonBytes: number[] = [];
    const device = (type: string, more: Readonly<Record<string, string | number | boolean>> = {}): DeviceConfig => ({
      type: `virtio-${type}-${suffix}`,
      ...properties,
      ...more,
    });
    const seen = watchedBoot(linux, {
      machine,
      devices: [
        device('blk', { drive: 'raw' }),
        device('blk', { drive: 'files' }),
        device('rng'),
        device('balloon'),
        device('serial'),
        { type: 'virtconsole', chardev: 'hvc' },
        { type: 'virtserialport', chardev: 'port', name: 'org.ringbook.port' },
      ],
      disks,
      chardevs: { hvc, port },
      modules: [...modules, 'virtio_blk', 'virtio_rng', 'virtio_balloon', 'virtio_console'],
      script: `${diskScript('vda', 'vdb')}${virtioScript}\ncat /proc/interrupts\nfor d in /sys/bus/virtio/devices/*; do echo "features $(cat $d/features)"; done\n`,
      ...(append !== undefined && { append }),
      onLine(line, board) {
        const model = [...virtioDevices(board).values()].map((each) => each.model).find((each) => each instanceof BalloonModel);
        if (!model) return;
        if (line === 'balloon inflate') model.target(BALLOON_LEAVES);
        else if (line.startsWith('check inflated')) balloonBytes.push(model.balloonBytes);
        else if (line === 'balloon deflate') model.target(model.ramBytes);
        else if (line.startsWith('check deflated')) balloonBytes.push(model.balloonBytes);
      },
    });
    problems.booted(seen);
    const expected = {
      read: sha256(before),
      copied: sha256(after),
      half: sha256(after.subarray(0, DISK_BYTES / 2)),
      busybox: 'same',
      files: '50',
      rng: 'virtio_rng.0',
      random: String(16 << 10),
      different: 'yes',
      console: [...'a line to the console'].reverse().join(''),
      inflated: String((256 * MIB - BALLOON_LEAVES) >> 10),
      deflated: '0',
    };
    for (const [check, value] of Object.entries(expected)) problems.same(check, seen.checks[check], value);
    problems.that(said.test(seen.console), `the kernel did not say ${said}`);
    problems.same('the disk afterwards', sha256(disks.raw.bytes), sha256(after));
    problems.that(disks.files.flushes > 0, 'no flush has reached the disk');
    inspect(problems, disks.files, expected.half);
    problems.same('what came out of the port', sha256(ported), sha256(after.subarray(0, PORT_BYTES)));
    problems.same('memory in the balloon', balloonBytes.join(', '), `${256 * MIB - BALLOON_LEAVES}, 0`);
    return { problems: problems.found, console: seen.console };
  },
});

// ## The network
//
// The other end of the wire is a server on the host's loopback, reached as the gateway.

const NET_BYTES = 2 * MIB;

const netScript = (http: number, sink: number): string => `
ip link set lo up
udhcpc -n -q -f -t 10
address=$(ip -4 addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p')
gateway=$(route -n | sed -n 's/^0\\.0\\.0\\.0 *\\([0-9.]*\\) .*/\\1/p')
echo "check lease $address $gateway $(sed -n 's/nameserver //p' /etc/resolv.conf)"
echo "check ping $(ping -c 3 -W 10 10.0.2.2 | grep -c 'bytes from')"
wget -q -O /tmp/data http://10.0.2.2:${http}/data
echo "check fetched $(cat /tmp/data | ${SUM})"
nc 10.0.2.2 ${sink} </tmp/data
echo "check sent $?"
ip -s link show eth0
cat /proc/interrupts
`;

const network = (name: string, machine: string, append: string): DriverCase => ({
  name,
  about: `e1000 on ${machine}: a lease, a ping, ${NET_BYTES / MIB} MiB both ways${append ? `, ${append}` : ''}`,
  flavour: 'amd64',
  async run(linux) {
    const problems = new Problems();
    const data = new Uint8Array(randomBytes(NET_BYTES));
    let arrived = Buffer.alloc(0);
    const http = createHttp((_, response) => response.end(data));
    const sink = createServer((socket) => {
      socket.on('data', (bytes) => {
        arrived = Buffer.concat([arrived, bytes]);
      });
      socket.on('end', () => socket.end());
      socket.on('error', () => {});
    });
    for (const server of [http, sink]) await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const [httpPort, sinkPort] = [http, sink].map((server) => (server.address() as AddressInfo).port) as [number, number];
    const initramfs = initramfsFile(linux, { script: netScript(httpPort, sinkPort), modules: ['e1000', 'af_packet'] });
    try {
      const { status, console, errors } = await boot(
        [
          ...['-machine', machine, '-m', '256M', '-kernel', imageFor(linux, 'linux64'), '-initrd', initramfs.path],
          ...['-nic', 'user,model=e1000,restrict=off', '-append', `${COMMAND_LINE} ${append}`],
        ],
        { timeoutS: 1800 },
      );
      problems.same('exit status', `${status}${errors}`, '0');
      for (const line of complaints(console)) problems.that(false, line);
      const checks = Object.fromEntries([...console.matchAll(/^check ([a-z0-9-]+) (.*?)\s*$/gm)].map(([, check, value]) => [check, value]));
      const expected = { lease: '10.0.2.15 10.0.2.2 10.0.2.3', ping: '3', fetched: sha256(data), sent: '0' };
      for (const [check, value] of Object.entries(expected)) problems.same(check, checks[check], value);
      problems.same('what arrived at the host', sha256(arrived), sha256(data));
      return { problems: problems.found, console };
    } finally {
      initramfs.remove();
      for (const server of [http, sink]) server.close();
    }
  },
});

const MSIX = /PCI-MSI.*virtio/;
const INTX = /IO-APIC.*virtio/;
const pci = ['virtio_pci'];

/** All of them, by name. */
export const DRIVER_CASES: readonly DriverCase[] = [
  ide('ide-dma', 'pc', '', /^(mode XFER_MW_DMA_2, list at (?!00000000)[0-9a-f]{8}\s+){2}/m),
  ide('ide-pio', 'q35', 'libata.dma=0', /^(mode XFER_PIO_4, list at 00000000\s+){2}/m),
  network('e1000', 'q35', ''),
  virtio({ name: 'pci-modern', about: 'virtio 1, split, MSI-X', machine: 'q35', suffix: 'pci-non-transitional', modules: pci, said: MSIX }),
  virtio({
    ...{ name: 'pci-packed', about: 'virtio 1, packed, MSI-X', machine: 'pc', suffix: 'pci-non-transitional', modules: pci, said: MSIX },
    properties: { packed: true },
  }),
  virtio({
    ...{ name: 'pci-intx', about: 'virtio 1, packed, INTx', machine: 'q35', suffix: 'pci-non-transitional', modules: pci, said: INTX },
    properties: { packed: true },
    append: 'pci=nomsi',
  }),
  virtio({
    name: 'pci-transitional',
    about: 'transitional, INTx',
    machine: 'q35',
    suffix: 'pci-transitional',
    modules: pci,
    append: 'pci=nomsi',
    said: INTX,
  }),
  virtio({
    ...{ name: 'pci-legacy', about: 'the registers from before the standard, MSI-X', machine: 'pc', suffix: 'pci', modules: pci, said: MSIX },
    properties: { 'disable-modern': true },
  }),
  virtio({
    name: 'mmio-split',
    about: 'a window of memory, split',
    machine: 'microvm',
    suffix: 'device',
    modules: ['virtio_mmio'],
    said: /virtio[0-9]/,
  }),
  virtio({
    ...{
      name: 'mmio-packed',
      about: 'a window of memory, packed',
      machine: 'microvm',
      suffix: 'device',
      modules: ['virtio_mmio'],
      said: /virtio[0-9]/,
    },
    properties: { packed: true },
  }),
];
