// Command lines, and descriptions that are no machine.

import { Ajv } from 'ajv';
import { describe, expect, it } from 'vitest';
import { checkedConfig } from '../host/checked-config.ts';
import { type MachineConfig, startOf } from './config.ts';
import './devices.ts';
import schema from './machine.schema.json' with { type: 'json' };
import { mergeConfigs, optionHelp, readOptions } from './options.ts';

const config = (line: string): MachineConfig => readOptions(line.split(' ').filter(Boolean)).document;
const complete = (line: string): ReturnType<typeof checkedConfig> => checkedConfig(config(line));

describe('the command line', () => {
  it('reads QEMU’s options', () => {
    expect(config('-m 256M -smp 2 -bios b.bin -accel kvm -no-reboot -serial file:s.txt -debugcon stdio -trace t')).toEqual({
      memoryMiB: 256,
      cpus: 2,
      firmware: 'b.bin',
      accel: 'kvm',
      reboot: false,
      serial: [{ file: 's.txt' }],
      debugcon: 'stdio',
      trace: 't',
    });
    expect(config('--machine q35,kernel-irqchip=split,memory=shadow -kernel k -append x')).toEqual({
      machine: { type: 'q35' },
      irqchip: 'split',
      memory: 'shadow',
      kernel: 'k',
      append: 'x',
    });
    expect(config('-m 1G').memoryMiB).toBe(1024);
    expect(config('-m size=4096K').memoryMiB).toBe(4);
    expect(config('-serial null -serial stdio').serial).toEqual(['null', 'stdio']);
  });
  it('gives drives the places of an IDE controller', () => {
    const { drives, devices } = config('-drive file=a,if=ide -drive file=b -drive file=c,bus=1,unit=1 -drive file=d,,e,index=2,readonly=on');
    expect(drives?.map(({ file }) => file)).toEqual(['a', 'b', 'c', 'd,e']);
    expect(devices).toEqual([
      { type: 'ide-hd', drive: 'drive0', bus: 'ide.0', unit: 0 },
      { type: 'ide-hd', drive: 'drive1', bus: 'ide.0', unit: 1 },
      { type: 'ide-hd', drive: 'drive2', bus: 'ide.1', unit: 1 },
      { type: 'ide-hd', drive: 'drive3', bus: 'ide.1', unit: 0 },
    ]);
    expect(config('-drive file=a,if=none,id=x -device ide-hd,drive=x,unit=1').devices).toEqual([{ type: 'ide-hd', drive: 'x', unit: 1 }]);
  });
  it('makes a card and its network in one', () => {
    const { netdevs, devices } = config('-nic echo -nic none -nic echo,model=e1000,mac=52:54:00:00:00:01,addr=7,id=wire');
    expect(netdevs).toEqual([
      { id: 'nic0', type: 'echo' },
      { id: 'wire', type: 'echo' },
    ]);
    expect(devices).toEqual([
      { type: 'e1000', netdev: 'nic0' },
      { type: 'e1000', netdev: 'wire', mac: '52:54:00:00:00:01', addr: '7' },
    ]);
    expect(complete('-kernel k -nic echo').devices).toEqual([{ type: 'e1000', netdev: 'nic0' }]);
  });
  it('knows disks that forget, and a second file for the kernel', () => {
    expect(config('-drive file=a,snapshot=on,readonly=off').drives).toEqual([{ id: 'drive0', file: 'a', readonly: false, snapshot: true }]);
    expect(complete('-kernel k -initrd i -door pvh')).toMatchObject({ initrd: 'i', door: 'pvh' });
    expect(complete('-kernel k -m 2G').memoryMiB).toBe(2048);
  });
  it.each([
    ['-frobnicate', 'no option -frobnicate'],
    ['-nic echo,model=ne2000', 'no device type ne2000'],
    ['-nic echo,mac=a,mac=b', '-nic says mac twice'],
    ['-nic tap', 'no netdev type tap'],
    ['-drive file=a,snapshot=maybe', 'snapshot is one of on, off, not maybe'],
    ['-door grub', 'multiboot, pvh, long, boot-sector, flat, not grub'],
    ['disk.img', "'disk.img' is no option"],
    ['-m', '-m takes SIZE'],
    ['-m 12Q', '-m takes a size'],
    ['-m 1000K', 'whole mebibytes'],
    ['-smp two', '-smp takes a number, not two'],
    ['-accel tcg', 'it is one of soft, kvm, not tcg'],
    ['-machine isapc', 'no machine type isapc; there are q35, pc'],
    ['-drive file=a,cache=none', "-drive has no 'cache'"],
    ['-drive file=a,format=qcow2', 'format is one of raw, not qcow2'],
    ['-drive file=a,if=virtio', 'if is one of ide, none, not virtio'],
    ['-drive if=ide', '-drive needs a file='],
    ['-drive file=a,index=4', 'places 0 to 3, not 4'],
    ['-drive file=a,index=1,unit=1', 'give one or the other'],
    ['-drive file=a,file=b', '-drive says file twice'],
    ['-netdev vde,id=n', 'no netdev type vde; there are echo, none'],
    ['-device rtl8139', 'no device type rtl8139; there are ide-hd'],
    ['-serial pty', '-serial goes to stdio, file:PATH or null, not to pty'],
    ['-timeout soon', '-timeout takes seconds'],
  ])('refuses %s', (line, message) => expect(() => config(line)).toThrow(message));

  it('lists every option in its help', () => {
    for (const name of [
      'machine',
      'accel',
      'm',
      'smp',
      'bios',
      'kernel',
      'append',
      'drive',
      'device',
      'netdev',
      'serial',
      'debugcon',
      'no-reboot',
      'config',
    ])
      expect(optionHelp()).toContain(`  -${name}`);
    expect(readOptions(['-device', 'help'])).toMatchObject({ what: 'help', device: null });
    expect(readOptions(['-device', 'ide-hd,help'])).toMatchObject({ what: 'help', device: 'ide-hd' });
  });
  it('changes what a file says', () => {
    const base: MachineConfig = { kernel: 'k', cpus: 2, drives: [{ id: 'a', file: 'a' }] };
    const merged = mergeConfigs(base, config('-smp 4 -drive file=b,if=none,id=b'));
    expect(merged).toEqual({
      kernel: 'k',
      cpus: 4,
      drives: [
        { id: 'a', file: 'a' },
        { id: 'b', file: 'b' },
      ],
    });
  });
});

it('moves a machine to the host’s kernel', () => {
  const file = complete('-kernel k -machine memory=shadow');
  expect(checkedConfig(mergeConfigs(file, config('-accel kvm')))).toMatchObject({ accel: 'kvm', kernel: 'k' });
  expect(() => checkedConfig(mergeConfigs(file, config('-machine accel=kvm,memory=shadow')))).toThrow('soft kernel');
});

describe('a description', () => {
  it('is completed', () => {
    expect(complete('-kernel k')).toEqual({
      kernel: 'k',
      machine: { type: 'q35' },
      accel: 'soft',
      memory: 'ept',
      translate: true,
      irqchip: 'on',
      memoryMiB: 128,
      cpus: 1,
      reboot: true,
      nographic: false,
      drives: [],
      chardevs: [],
      netdevs: [],
      devices: [],
      serial: ['stdio'],
      debugcon: 'null',
    });
  });
  it('may say a date', () => {
    expect(startOf(complete('-kernel k -rtc base=2006-06-17T16:01:21').rtc ?? '')).toBe(1_150_560_081);
    expect(startOf(complete('-kernel k -rtc base=1999-12-31').rtc ?? '')).toBe(946_598_400);
    expect(startOf('utc')).toBe(null);
  });
  it('names its board, and the last one counts', () => {
    expect(complete('-machine pc -machine accel=soft -kernel k').machine).toEqual({ type: 'pc' });
    expect(complete('-machine pc -machine q35 -kernel k').machine).toEqual({ type: 'q35' });
  });
  it('comes back from its own JSON', () => {
    const once = complete('-bios b -m 64 -smp 2 -drive file=d -serial null');
    expect(checkedConfig(JSON.parse(JSON.stringify(once)))).toEqual(once);
  });
  it.each([
    ['', 'nothing to start'],
    ['-bios b -kernel k', 'one of them starts the machine, not both'],
    ['-bios b -initrd i', 'initrd i is for a kernel to find, and there is none'],
    ['-bios b -append x', 'append is the command line of a kernel'],
    ['-bios b -m 4', '4 MiB of memory are too few for firmware'],
    ['-kernel k -m 1', 'memoryMiB (-m) must be >= 2'],
    ['-kernel k -m 64G', 'memoryMiB (-m) must be <= 3584'],
    ['-kernel k -smp 0', 'cpus (-smp) must be >= 1'],
    ['-kernel k -rtc base=yesterday', 'rtc is utc, or a date as in 2006-06-17T16:01:21, not yesterday'],
    ['-kernel k -rtc base=2006-13-17', 'rtc is utc, or a date'],
    ['-kernel k -machine pc,usb=on', 'pc has no property usb; there are none'],
    ['-kernel k -accel kvm -machine memory=shadow', 'memory=shadow is the soft kernel’s choice'.replace('’', "'")],
    ['-kernel k -serial stdio -debugcon stdio', 'stdio is taken by two devices'],
    ['-kernel k -serial file:x -trace x', 'two outputs write to x'],
    ['-kernel k -trace-hash some', '-trace-hash takes all or kernel, not some'],
    ['-kernel k -trace-hash all -trace x', 'the trace goes to x'],
    ['-kernel k -trace-hash all -accel kvm', 'no two runs are the same'],
    ['-kernel k -drive file=a,index=0 -drive file=b,index=0', 'device 1 (ide-hd) and device 0 (ide-hd) both want IDE unit ide.0/0'],
    ['-kernel k -drive file=a,if=none,id=x -drive file=b,if=none,id=x', 'two things are called x'],
    ['-kernel k -device ide-hd,drive=nope', 'no drive is called nope; there are none'],
    ['-kernel k -device ide-hd', 'ide-hd needs a drive'],
    ['-kernel k -drive file=a,if=none,id=x -device ide-hd,drive=x,colour=red', 'ide-hd has no property colour; there are drive, bus, unit, serial'],
    ['-kernel k -drive file=a,if=none,id=x -device ide-hd,drive=x,unit=2', 'ide-hd: unit is a number from 0 to 1, not 2'],
    ['-kernel k -drive file=a,if=none,id=x -device ide-hd,drive=x,bus=ide.7', 'bus is one of ide.0, ide.1, not ide.7'],
    ['-kernel k -drive file=a,if=none,id=x -device ide-hd,drive=x -device ide-hd,drive=x', 'both want drive x'],
    ['-kernel k -serial null -serial null -serial null -serial null -serial null', 'serial (-serial) must NOT have more than 4 items'],
  ])('%s is refused', (line, message) => expect(() => complete(line)).toThrow(message));
  it.each([
    [{ kernel: 'k', colour: 'red' }, "the machine has no 'colour'; there are machine, accel, translate"],
    [{ kernel: 'k', irqchip: 'maybe' }, 'irqchip is one of on, split, off'],
    [{ kernel: 'k', drives: [{ file: 'x' }] }, "drives.0 must have required property 'id'"],
    [{ kernel: 3 }, 'kernel must be string'],
    [[], 'the machine must be object'],
  ])('%j is refused', (document, message) => expect(() => checkedConfig(document)).toThrow(message));
});

it('the schema of a description is a schema', () => {
  const ajv = new Ajv({ allowUnionTypes: true });
  expect(ajv.validateSchema(schema), ajv.errorsText()).toBe(true);
});
