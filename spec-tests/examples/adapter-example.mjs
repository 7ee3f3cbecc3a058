// An adapter for the conformance suite, complete and small: it boots each payload in QEMU. Copy it, replace `boot`, and the suite judges your machine.
//
//   npm run conform -- --target "exec:node spec-tests/examples/adapter-example.mjs"
//
// The protocol is in protocol.md: a JSON object per line, requests on standard input, replies on standard output.

import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const QEMU = process.env.QEMU ?? 'qemu-system-x86_64';
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

/** Who we are and what this machine has. What is left out of `capabilities` is reported as unsupported, not as failed. */
function start() {
  let version;
  try {
    version = /version ([0-9.]+)/.exec(execFileSync(QEMU, ['--version'], { encoding: 'utf8' }))?.[1] ?? 'unknown';
  } catch {
    return { type: 'unavailable', reason: `${QEMU} cannot be started` };
  }
  return {
    type: 'started',
    protocol: 1,
    name: 'example',
    version,
    surfaces: ['guest'],
    capabilities: ['door-multiboot', 'debug-exit', 'reset', 'protected-mode', 'protected-interrupts', 'long-mode', 'long-interrupts', 'user-mode'],
    missing: { 'scratch-pio': 'QEMU has no such device', 'notices-halt': 'this example does not look at the registers' },
  };
}

/** Boots one image and resolves with how it ended and what it said. */
function boot({ image, memoryMiB }, { timeoutMs }) {
  const folder = mkdtempSync(join(tmpdir(), 'adapter-example-'));
  const serial = join(folder, 'serial');
  const machine = ['-M', 'pc', '-accel', 'tcg', '-m', `${memoryMiB}M`, '-nodefaults', '-display', 'none', '-no-reboot', '-d', 'cpu_reset'];
  const devices = ['-serial', `file:${serial}`, '-device', 'isa-debug-exit,iobase=0xf4,iosize=4', '-kernel', image];
  const child = spawn(QEMU, [...machine, ...devices], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  let expired = false;
  child.stderr.on('data', (chunk) => {
    log = (log + chunk).slice(-4000);
  });
  const timer = setTimeout(() => {
    expired = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  return new Promise((resolve) => {
    child.on('close', (code) => {
      clearTimeout(timer);
      const console = readFileSync(serial).toString('base64');
      rmSync(folder, { recursive: true });
      // QEMU leaves with twice the value written to the debug-exit port, plus one.
      if (expired) resolve({ end: 'timeout', console });
      else if (code % 2 === 1) resolve({ end: 'debug-exit', exitValue: `0x${(code >> 1).toString(16)}`, console });
      else resolve({ end: log.includes('Triple fault') ? 'triple-fault' : 'reset', console });
    });
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  if (request.type === 'start') say(start());
  else if (request.type === 'run') {
    try {
      say({ type: 'ran', id: request.id, surface: 'guest', ...(await boot(request.guest, request.limits)) });
    } catch (error) {
      say({ type: 'error', id: request.id, reason: String(error) });
    }
  } else {
    say({ type: 'stopped' });
    process.exit(0);
  }
}
