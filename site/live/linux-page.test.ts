import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FLAT_MODE } from '../../chapters/01-hardware-background/engine/flat-machine.ts';
import { findChromium, NO_CHROMIUM } from '../chromium.ts';
import { type Served, serve } from '../serve.ts';
import { buildLinuxPage, LINUX_PAGE } from './linux-alone.ts';
import { echoGuest } from './linux-laboratory.ts';

const executablePath = findChromium();
if (!executablePath) console.log(`skipped: ${NO_CHROMIUM}; the page of a kernel of one's own was not opened`);

const hello = fileURLToPath(new URL('../../guest-payloads/images/hello.elf', import.meta.url));
const PATIENT = { timeout: 60_000 };

describe.skipIf(!executablePath)('the page of a kernel of one’s own', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-linux-page-'));
  const fileOf = (name: string, content: string | Uint8Array): string => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };
  let served: Served;
  let browser: Browser;
  let page: Page;
  const outside: string[] = [];
  const errors: string[] = [];

  beforeAll(async () => {
    await buildLinuxPage(join(folder, 'site'));
    served = await serve(join(folder, 'site'));
    browser = await chromium.launch({ executablePath: executablePath as string, args: ['--no-sandbox', '--disable-gpu'] });
    page = await browser.newPage({ viewport: { width: 1300, height: 900 } });
    page.on('request', (request) => {
      if (!request.url().startsWith(served.url) && !/^(data|blob):/.test(request.url())) outside.push(request.url());
    });
    page.on('pageerror', (error) => errors.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') errors.push(message.text());
    });
  }, 120_000);
  afterAll(async () => {
    await browser?.close();
    await served?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const open = async (hash = ''): Promise<void> => {
    await page.goto('about:blank'); // a change of the hash alone does not load a page
    await page.goto(`${served.url}${LINUX_PAGE}${hash}`);
  };
  const give = (slot: string, path: string): Promise<void> => page.setInputFiles(`#file-${slot}`, path);
  const start = async (): Promise<void> => {
    await page.waitForSelector('#start:not([disabled])', PATIENT);
    await page.click('#start');
  };
  const status = (words: RegExp): Promise<unknown> =>
    page.waitForFunction((source) => new RegExp(source).test(document.querySelector('#status')?.textContent ?? ''), words.source, PATIENT);
  const shown = (words: string): Promise<unknown> =>
    page.waitForFunction((text) => document.querySelector('.xterm-rows')?.textContent?.includes(text), words, PATIENT);
  const type = async (words: string): Promise<void> => {
    await page.focus('.xterm-helper-textarea');
    await page.keyboard.type(words);
  };

  it('has a worker that translates what it is sent', async () => {
    await open();
    const made = await page.evaluate(
      ({ url, mode }) =>
        new Promise<string[]>((resolve, reject) => {
          const worker = new Worker(url, { type: 'module' });
          const code = new Uint8Array(4096);
          code.set([0x83, 0xc0, 0x01, 0xeb, 0xfb]); // add eax, 1; jmp
          const machine = { pages: 16, shared: false, state: 4096, words: 8192 };
          const order = { place: 65536, code, rip: 4096n, mode, bank: 16384, known: [0], patches: null, machine };
          worker.onerror = ({ message }) => reject(new Error(message));
          worker.onmessage = ({ data: { ticket, made } }) => {
            if (ticket === 0) worker.postMessage({ ticket: 7, order });
            else resolve([`${ticket}`, ...WebAssembly.Module.exports(made.module).map(({ name }) => name), JSON.stringify(made.ranges)]);
          };
        }),
      { url: `${served.url}assets/workshop-worker.js`, mode: FLAT_MODE[64] },
    );
    expect(made).toEqual(['7', 'region', '[[0,5]]']);
  });

  it('refuses what is no kernel, no saved machine, with the reason', async () => {
    await open();
    await give('kernel', fileOf('letter.txt', 'This is a letter.\n'));
    await page.waitForSelector('#trouble:not([hidden])', PATIENT);
    expect(await page.textContent('#trouble')).toBe('letter.txt: no way in: 18 bytes with no multiboot header, no ELF entry and no boot signature');
    expect(await page.isDisabled('#start')).toBe(true);
    await give('state', fileOf('letter.state', 'This is no machine.\n'));
    await page.waitForFunction(() => document.querySelector('#trouble')?.textContent?.startsWith('letter.state'), undefined, PATIENT);
    expect(await page.textContent('#trouble')).toBe('letter.state: this is no saved machine');
    expect(await page.isDisabled('#start')).toBe(true);
  });

  it('starts a kernel, shows its console, and counts what it did', async () => {
    await open('#memory=16');
    await give('kernel', hello);
    await start();
    await shown('hello');
    await status(/^Ended by debug-exit \(status 1\)\.$/);
    expect(await page.textContent('[data-slot=kernel] .slot-what')).toContain('multiboot door');
    expect(await page.textContent('#legend')).toContain('IO_INSTRUCTION');
    expect(await page.textContent('#traffic')).toContain('serial');
    expect(await page.textContent('#instructions')).toMatch(/^\d/);
    // A machine that has ended can be started again.
    await start();
    await shown('hello');
    await status(/^Ended/);
  });

  it('passes on what is typed; saves a machine, and goes on from the file', async () => {
    await open('#memory=16&append=');
    await page.click('#happened summary');
    await give('kernel', fileOf('echo.img', echoGuest()));
    await start();
    await status(/^Running/);
    await type('ab');
    await shown('ab');
    await page.waitForFunction(() => document.querySelectorAll('#events li').length > 10, undefined, PATIENT);
    expect(await page.textContent('#events')).toContain('The guest used a port');
    await page.click('#hold');
    await page.click('#pause');
    await status(/^Paused/);
    const [download] = await Promise.all([page.waitForEvent('download', PATIENT), page.click('#save')]);
    expect(download.suggestedFilename()).toBe('ringbook-q35-16M.state');
    const state = join(folder, 'echo.state');
    await download.saveAs(state);
    await status(/^Paused/);
    await page.click('#stop');
    await status(/^Stopped/);

    await open();
    await give('state', state);
    await page.waitForFunction(() => (document.querySelector('#memory') as HTMLInputElement).value === '16', undefined, PATIENT);
    await start();
    await status(/goes on where it was saved/);
    await type('cq');
    await shown('cq');
    await status(/^Ended by debug-exit/);
  }, 180_000);

  it('has its options in the link, and takes them from there', async () => {
    await open('#machine=microvm&memory=512&cpus=2&paging=shadow&append=quiet');
    const values = (): Promise<string[]> =>
      page.evaluate(() => ['machine', 'memory', 'cpus', 'paging', 'append'].map((id) => (document.getElementById(id) as HTMLInputElement).value));
    expect(await values()).toEqual(['microvm', '512', '2', 'shadow', 'quiet']);
    await page.selectOption('#machine', 'pc');
    await page.fill('#append', 'console=ttyS0 debug');
    const link = await page.evaluate(() => location.href);
    expect(link).toContain('#machine=pc&memory=512&cpus=2&paging=shadow&append=console%3DttyS0+debug');
    await open(new URL(link).hash);
    expect(await values()).toEqual(['pc', '512', '2', 'shadow', 'console=ttyS0 debug']);
  });

  it('fits a telephone, and asked nobody else for anything', async () => {
    await page.setViewportSize({ width: 390, height: 800 });
    await open();
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);
    expect(outside).toEqual([]);
    expect(errors).toEqual([]);
  });
});
