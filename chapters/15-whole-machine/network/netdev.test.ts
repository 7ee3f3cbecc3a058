// What a machine's description may say of the network, and a machine with one.

import { describe, expect, it } from 'vitest';
import { checkedConfig } from '../../05-pio-mmio/host/checked-config.ts';
import '../../05-pio-mmio/machine/devices.ts';
import { deviceTypes } from '../../05-pio-mmio/machine/device-types.ts';
import { readOptions } from '../../05-pio-mmio/machine/options.ts';
import { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import { NETWORK } from './addresses.ts';
import { parseFrame } from './ethernet.ts';
import { fakeHost, hex } from './laboratory.ts';
import { readForward, userNetdev } from './netdev.ts';

const host = fakeHost();
deviceTypes.netdevs.install(userNetdev(() => host.sockets));
const config = (line: string) => checkedConfig(readOptions(`-kernel k -m 2M -serial null ${line}`.split(' ')).document);

describe('-nic user', () => {
  it('is a card and its network, closed unless it is opened', () => {
    const { netdevs, devices } = config('-nic user');
    expect([netdevs, devices]).toEqual([[{ id: 'nic0', type: 'user' }], [{ type: 'e1000', netdev: 'nic0' }]]);
    expect(config('-netdev user,id=n,restrict=off,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-10.0.2.20:53,dns-port=5353').netdevs).toEqual([
      { id: 'n', type: 'user', restrict: false, hostfwd: ['tcp::2222-:22', 'udp:127.0.0.1:53-10.0.2.20:53'], 'dns-port': 5353 },
    ]);
  });
  it.each([
    ['-nic user,restrict=maybe', 'restrict is on or off'],
    ['-nic user,net=10.0.0.0/8', 'user has no property net'],
    ['-nic user,restrict=on,restrict=off', 'says restrict twice'],
    ['-nic user,dns-port=0', 'dns-port is a number from 1 to 65535'],
    ['-netdev user', '-netdev needs an id='],
  ])('refuses %s', (line, message) => expect(() => config(line)).toThrow(message));
});

describe('a forward', () => {
  it('is read as QEMU writes it', () => {
    expect(readForward('tcp:127.0.0.1:2222-:22')).toEqual({ protocol: 'tcp', hostPort: 2222, guest: NETWORK.guest, guestPort: 22 });
    expect(readForward('udp::9-10.0.2.99:8')).toEqual({ protocol: 'udp', hostPort: 9, guest: NETWORK.prefix + 99, guestPort: 8 });
  });
  it.each([
    ['tcp:0.0.0.0:2222-:22', 'at 127.0.0.1 alone, not at 0.0.0.0'],
    ['tcp:192.168.1.5:2222-:22', 'at 127.0.0.1 alone'],
    ['tcp::0-:22', '0 is no port'],
    ['tcp::70000-:22', '70000 is no port'],
    ['tcp::2222-10.0.3.15:22', '10.0.3.15 is no guest’s address'.replace('’', "'")],
    ['tcp::2222-10.0.2.2:22', 'is no guest'],
    ['sctp::1-:1', 'hostfwd is PROTOCOL'],
    ['tcp:2222', 'hostfwd is PROTOCOL'],
  ])('is not %s', (text, message) => expect(() => readForward(text)).toThrow(message));
});

describe('a machine with a network', () => {
  const machine = (line: string) => {
    const complete = config(line);
    return new Pc({ kernel: machineKernel(complete), config: complete });
  };
  it('has its answers at the end of the cable, on the machine’s clock', () => {
    const pc = machine('-netdev user,id=n');
    const link = pc.link('n');
    const frames: Uint8Array[] = [];
    link.onFrame = (frame) => void frames.push(frame);
    link.send(hex('ff ff ff ff ff ff 52 54 00 12 34 56 08 06 00 01 08 00 06 04 00 01 52 54 00 12 34 56 0a 00 02 0f 00 00 00 00 00 00 0a 00 02 03'));
    expect(frames.length).toBe(0);
    for (let turns = 0; turns < 5 && pc.timers.next !== null; turns++) {
      pc.kernel.clock.sleep(pc.timers.next);
      pc.timers.runDue();
    }
    expect(frames.map((frame) => parseFrame(frame)?.source)).toEqual([hex('52 55 0a 00 02 03')]);
    expect(pc.expectsInput).toBe(false);
  });
  it('waits for the outside while a port is open, and closes it with itself', () => {
    const pc = machine('-nic user,hostfwd=tcp::2222-:22');
    expect([pc.expectsInput, pc.expectsOutside, [...host.listening.keys()]]).toEqual([true, true, [2222]]);
    pc.dispose();
    expect(host.listening.size).toBe(0);
  });
});
