#!/usr/bin/env node
// The front door. It finds the Node that the project brings with it (an optional dependency per platform; Node 24 compiles WebAssembly
// several times faster than Node 20 and runs TypeScript as it is), and hands the command to the room that owns it.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const NEEDED_MAJOR = 24;

const rooms = {
  start: ['site/start.ts', 'run the suite on the embedded machine, build the site with the results, serve it'],
  run: ['chapters/15-whole-machine/host/run.ts', 'run a virtual machine; options as QEMU has them'],
  initramfs: ['chapters/15-whole-machine/host/initramfs.ts', 'make an initramfs from Debian’s busybox; fetch kernels'],
  boots: ['spec-tests/linux/boots.ts', 'boot Debian’s kernels through every door'],
  test: ['spec-tests/test.ts', 'the checks, then the tests; --all: the long ones, too'],
  check: ['spec-tests/check.ts', 'the drift checks: clauses, figures, numbers in prose, prefixes, types, lint'],
  conform: ['spec-tests/conform.ts', 'run the conformance suite against an implementation'],
  mutants: ['spec-tests/mutants.ts', 'break the reference on purpose; every break must be caught'],
  fuzz: ['chapters/01-hardware-background/engine/host/fuzz.ts', 'random programs on the modelled processor and on the one at hand; every difference'],
  bench: ['spec-tests/bench.ts', 'speed, as ratios within one run'],
  site: ['site/build.ts', 'render the whole tree into site/out'],
  payloads: ['guest-payloads/build.ts', 'rebuild the guest payloads with gcc, or check the committed images'],
};

/** The project's own Node where it is installed; else the one we run on, if it is new enough. */
function findNode() {
  const require = createRequire(import.meta.url);
  const name = { linux: 'node-linux', darwin: 'node-darwin', win32: 'node-win' }[process.platform];
  for (const candidate of [`${name}-${process.arch}`, `node-bin-${process.platform}-${process.arch}`]) {
    try {
      return require.resolve(`${candidate}/bin/node${process.platform === 'win32' ? '.exe' : ''}`);
    } catch {
      // Not this package: another platform's name, or installed without optional dependencies.
    }
  }
  if (Number(process.versions.node.split('.')[0]) >= NEEDED_MAJOR) return process.execPath;
  console.error(
    `ringbook: needs Node ${NEEDED_MAJOR} or newer; this is ${process.version}, and no bundled one is installed for ${process.platform}-${process.arch}.`,
  );
  process.exit(2);
}

const [command, ...rest] = process.argv.slice(2);
const room = rooms[command];
if (!room) {
  const asked = command === undefined || command === '--help' || command === '-h' || command === 'help';
  if (!asked) console.error(`ringbook: no command '${command}'\n`);
  console.log(
    `usage: ringbook <command> [options]\n\n${Object.entries(rooms)
      .map(([name, [, what]]) => `  ${name.padEnd(10)}${what}`)
      .join('\n')}`,
  );
  process.exit(asked ? 0 : 2);
}

const main = fileURLToPath(new URL(`../${room[0]}`, import.meta.url));
if (!existsSync(main)) {
  console.error(`ringbook: '${command}' needs the whole repository; what is installed here runs machines and judges them: run, conform`);
  process.exit(2);
}
// Node keeps what it made of a module, types stripped and code compiled, for the next start: half of the time until the first guest instruction.
// WebAssembly's compilers work in threads of their own, on memory in pieces of 32 KiB. The C library of most Linuxes would keep, for each thread, all that it ever
// needed. So there is one pool, and pieces of that size come from the system and go back to it. The interpreter is one large function, for which the compiler that
// optimizes takes as much as a small guest: it does one thing at a time. And JavaScript's young objects do not need 128 MiB.
const env = {
  NODE_COMPILE_CACHE: join(tmpdir(), 'node-compile-cache'),
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: '32768',
  ...process.env,
};
const flags = ['--disable-warning=ExperimentalWarning', '--max-semi-space-size=16', '--wasm-num-compilation-tasks=1'];
if (main.includes('node_modules')) {
  // Node does not strip types there by itself.
  const preload = `--disable-warning=ExperimentalWarning --import=${new URL('strip-types.mjs', import.meta.url)}`;
  env.NODE_OPTIONS = env.NODE_OPTIONS ? `${env.NODE_OPTIONS} ${preload}` : preload;
}
const child = spawn(findNode(), [...flags, main, ...rest], { stdio: 'inherit', env });
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.on('error', (error) => {
  console.error(`ringbook: cannot start Node: ${error.message}`);
  process.exit(2);
});
child.on('exit', (code, signal) => {
  if (signal) {
    process.removeAllListeners(signal); // ours would only pass it on to a child that is gone
    process.kill(process.pid, signal);
  }
  process.exitCode = code ?? 1;
});
