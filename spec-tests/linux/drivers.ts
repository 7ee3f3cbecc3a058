// # Drivers, by command
//
// `ringbook boots drivers` runs the cases of Linux's own drivers, all or those that are named, and prints a line for each. Its exit status is the number of cases in
// which something was wrong.

import { parseArgs } from 'node:util';
import { debianLinux } from './debian.ts';
import { DRIVER_CASES } from './driver-cases.ts';

const USAGE = `usage: ringbook boots drivers [--console] [--list | CASE…]

Loads drivers of Debian's kernels against the machine's devices, and compares the data at both ends. All cases, or those that are named.`;

/** The command. */
export async function runDrivers(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { console: { type: 'boolean' }, list: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const unknown = positionals.find((name) => !DRIVER_CASES.some((each) => each.name === name));
  if (unknown !== undefined) throw new Error(`no case is called ${unknown}; there are ${DRIVER_CASES.map(({ name }) => name).join(', ')}`);
  const cases = DRIVER_CASES.filter(({ name }) => positionals.length === 0 || positionals.includes(name));
  if (values.list) {
    for (const { name, about } of cases) console.log(`${name.padEnd(18)}${about}`);
    return 0;
  }
  let bad = 0;
  for (const { name, about, flavour, run } of cases) {
    const linux = await debianLinux(flavour);
    if ('reason' in linux) {
      console.log(`${name}: not run: ${linux.reason}`);
      continue;
    }
    const began = performance.now();
    const { problems, console: log } = await run(linux);
    if (problems.length > 0) bad++;
    console.log(`${problems.length > 0 ? 'NOT OK' : 'ok'} ${name}: ${about}: ${((performance.now() - began) / 1000).toFixed(0)} s`);
    for (const problem of problems) console.log(`  ${problem}`);
    if (values.console) console.log(log);
  }
  return Math.min(bad, 100);
}
