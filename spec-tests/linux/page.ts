// # A boot in the page
//
// The page of a kernel of one's own is given Debian's kernel, as a visitor would give it, in Chromium. What is looked at is what a visitor sees: the terminal's
// text, and the figures beside it.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { findChromium, NO_CHROMIUM } from '../../site/chromium.ts';
import { buildLinuxPage, LINUX_PAGE } from '../../site/live/linux-alone.ts';
import { serve } from '../../site/serve.ts';
import { debianLinux, type Flavour, imageFor, initramfsFile, type LinuxAtHand } from './debian.ts';

const USAGE = `usage: ringbook boots page [--kernels A,B] [--machines A,B] [--memory ept,shadow] [--cpus 1,2] [--network] [--timeout SECONDS]

Boots Debian's kernels in Chromium, in every combination of what is named, and asks the shell a question. With --network the machine has a card, and is asked for
an address and a ping; the kernel must have a driver, which cloud-amd64 has not.`;

const POLL_MS = 1000;
/** What is typed, and the answer, which does not stand in the question. */
const QUESTION = 'echo page-$((6 * 7)) $(uname -r) $(nproc)';
const ANSWER = /page-42 ([0-9.]+-[^ ]+) (\d+)/;
/** The same of the network. */
const NETWORK_QUESTION = 'udhcpc -n -q; ping -c 2 -w 60 10.0.2.2';
const NETWORK_ANSWER = /lease of 10\.0\.2\.15 obtained[\s\S]*2 packets received/;
const NETWORK_MODULES = ['e1000', 'af_packet'];

interface PageBoot {
  readonly machine: string;
  readonly memory: string;
  readonly cpus: string;
  readonly network: boolean;
  readonly timeoutS: number;
}

/** One line about the boot. @throws Error with the reason when it did not come to its prompt, or did not answer */
export async function bootInPage(linux: LinuxAtHand, { machine, memory, cpus, network, timeoutS }: PageBoot): Promise<string> {
  const executablePath = findChromium();
  if (!executablePath) throw new Error(NO_CHROMIUM);
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-page-boot-'));
  const initramfs = initramfsFile(linux, { modules: network ? NETWORK_MODULES : [] });
  const closing: (() => unknown)[] = [() => rmSync(folder, { recursive: true }), () => initramfs.remove()];
  try {
    await buildLinuxPage(folder);
    const served = await serve(folder);
    closing.push(() => served.close());
    const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
    closing.push(() => browser.close());
    const page = await browser.newPage({ viewport: { width: 1300, height: 900 } });
    const errors: string[] = [];
    page.on('pageerror', ({ message }) => errors.push(message));
    const append = 'console=ttyS0 cryptomgr.notests=1 mitigations=off quiet';
    const options = new URLSearchParams({ machine, paging: memory, cpus, append, ...(network && { network: 'user' }) });
    await page.goto(`${served.url}${LINUX_PAGE}#${options}`);
    await page.setInputFiles('#file-kernel', imageFor(linux, 'linux64'));
    await page.setInputFiles('#file-initrd', initramfs.path);
    await page.waitForSelector('#start:not([disabled])');

    const began = performance.now();
    const screen = (): Promise<string> =>
      page.evaluate(() => [...document.querySelectorAll('.xterm-rows > div')].map((row) => row.textContent?.trimEnd()).join('\n'));
    const until = async (found: (text: string) => boolean): Promise<string> => {
      for (;;) {
        const text = await screen();
        if (found(text)) return text;
        const status = await page.textContent('#status');
        if (performance.now() - began > timeoutS * 1000) throw new Error(`nothing after ${timeoutS} s (${status}); on the screen:\n${text.trim()}`);
        if (/^(Ended|It did not)/.test(status ?? '')) throw new Error(`${status} ${await page.textContent('#trouble')}\n${text.trim()}`);
        await page.waitForTimeout(POLL_MS);
      }
    };
    await page.click('#start');
    await until((text) => /# *$/.test(text.trimEnd()));
    const seconds = (performance.now() - began) / 1000;
    const time = await page.textContent('#time');
    await page.focus('.xterm-helper-textarea');
    await page.keyboard.type(`${QUESTION}\n`);
    const [, release, count] = ANSWER.exec(await until((text) => ANSWER.test(text))) as unknown as [string, string, string];
    if (count !== cpus) throw new Error(`the guest has found ${count} processors of ${cpus}`);
    if (network) {
      await page.keyboard.type(`${NETWORK_QUESTION}\n`);
      await until((text) => NETWORK_ANSWER.test(text));
    }
    if (errors.length > 0) throw new Error(`the page has errors: ${errors.join('; ')}`);
    return `${release} answered${network ? ', got an address and was answered itself' : ''}; its prompt came after ${seconds.toFixed(0)} s, ${time} of its own`;
  } finally {
    for (const close of closing.reverse()) await close();
  }
}

/** `ringbook boots page`: as many boots as are asked for. Returns how many did not end well. */
export async function runPage(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      kernels: { type: 'string', default: 'cloud-amd64' },
      machines: { type: 'string', default: 'q35' },
      memory: { type: 'string', default: 'ept' },
      cpus: { type: 'string', default: '1' },
      network: { type: 'boolean', default: false },
      timeout: { type: 'string', default: '900' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  if (!findChromium()) {
    console.log(`not run: ${NO_CHROMIUM}`);
    return 0;
  }
  let bad = 0;
  for (const flavour of values.kernels.split(',') as Flavour[]) {
    const linux = await debianLinux(flavour);
    if ('reason' in linux) {
      console.log(`${flavour}: not run: ${linux.reason}`);
      continue;
    }
    for (const machine of values.machines.split(','))
      for (const memory of values.memory.split(','))
        for (const cpus of values.cpus.split(',')) {
          const what = `${flavour} ${machine} ${memory} ${cpus} cpu${values.network ? ', a network' : ''}, in the page`;
          try {
            console.log(
              `ok ${what}: ${await bootInPage(linux, { machine, memory, cpus, network: values.network, timeoutS: Number(values.timeout) })}`,
            );
          } catch (error) {
            bad++;
            console.log(`NOT OK ${what}: ${error instanceof Error ? error.message : String(error)}`);
          }
        }
  }
  return bad;
}
