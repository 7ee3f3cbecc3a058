// # The matrix of boots
//
// `ringbook boots` starts Debian's kernels through every door and on every machine that is asked for, and prints a row for each: how it ended, what it took,
// and under it what the kernel had against the machine. Its exit status is the number of boots that did not end well. `ringbook boots drivers` loads the
// kernels' drivers instead, and compares data; `ringbook boots soak` keeps a guest busy; `ringbook boots page` boots in a browser.

import { parseArgs } from 'node:util';
import { boot, COMMAND_LINE, complaints, MARK, SHOW_MESSAGES } from './boot.ts';
import { debianLinux, type Flavour, imageFor, initramfsFile } from './debian.ts';
import { runDrivers } from './drivers.ts';
import { runSoak } from './soak.ts';
import { HEAD, lines } from './table.ts';

if (process.argv[2] === 'drivers') process.exit(await runDrivers(process.argv.slice(3)));
if (process.argv[2] === 'soak') process.exit(await runSoak(process.argv.slice(3)));
if (process.argv[2] === 'page') process.exit(await (await import('./page.ts')).runPage(process.argv.slice(3)));

const USAGE = `usage: ringbook boots [--kernels A,B] [--doors A,B] [--machines A,B] [--memory ept,shadow] [--cpus 1,2] [--ram SIZE]
                      [--modules A,B] [--append TEXT] [--timeout SECONDS] [--console]
       ringbook boots drivers | soak | page

Boots Debian's kernels, which apt-get downloads and nobody installs, in every combination of what is named.`;

const { values } = parseArgs({
  options: {
    help: { type: 'boolean', short: 'h' },
    kernels: { type: 'string', default: 'cloud-amd64' },
    doors: { type: 'string', default: 'linux64,linux32,linux16,pvh' },
    machines: { type: 'string', default: 'q35' },
    memory: { type: 'string', default: 'ept' },
    cpus: { type: 'string', default: '1' },
    ram: { type: 'string', default: '256M' },
    modules: { type: 'string', default: '' },
    append: { type: 'string', default: 'quiet' },
    timeout: { type: 'string', default: '900' },
    console: { type: 'boolean', default: false },
  },
});
if (values.help) {
  console.log(USAGE);
  process.exit(0);
}
const list = (text: string): string[] => text.split(',').filter((word) => word !== '');

let bad = 0;
console.log(HEAD);
for (const flavour of list(values.kernels) as Flavour[]) {
  const linux = await debianLinux(flavour);
  if ('reason' in linux) {
    console.log(`${flavour}: not run: ${linux.reason}`);
    continue;
  }
  const initramfs = initramfsFile(linux, { script: SHOW_MESSAGES, modules: list(values.modules) });
  try {
    for (const machine of list(values.machines))
      for (const memory of list(values.memory))
        for (const cpus of list(values.cpus))
          for (const door of list(values.doors)) {
            if (flavour === '686-pae' && door === 'linux64') continue; // a 32-bit kernel has none
            const options = ['-machine', `${machine},memory=${memory}`, '-smp', cpus, '-m', values.ram, '-door', door];
            const ended = await boot(
              ['-kernel', imageFor(linux, door), '-initrd', initramfs.path, '-append', `${COMMAND_LINE} ${values.append}`, ...options],
              { timeoutS: Number(values.timeout) },
            );
            const found = complaints(ended.console);
            const reached = ended.console.includes(MARK);
            const well = ended.status === 0 && reached && found.length === 0;
            if (!well) bad++;
            const ending = [...(reached ? [] : ['its first program did not run']), ...(ended.status === 0 ? [] : [`exit status ${ended.status}`])];
            const remarks = [...ending, ...ended.errors.split('\n').filter((text) => text.trim() !== ''), ...found];
            const { seconds, guestSeconds } = ended;
            for (const text of lines({ well, kernel: flavour, machine, memory, cpus, door, seconds, guestSeconds, remarks })) console.log(text);
            if (values.console) console.log(ended.console);
          }
  } finally {
    initramfs.remove();
  }
}
process.exitCode = Math.min(bad, 100);
