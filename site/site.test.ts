import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPayload } from '../guest-payloads/index.ts';
import { ALL } from '../spec-tests/quick.ts';
import { findChromium, NO_CHROMIUM } from './chromium.ts';
import { unescapeHtml } from './html.ts';
import { deadLinks } from './links.ts';
import { BookSession } from './live/book-session.ts';
import { traceHash } from './live/trace-hash.ts';
import { type Served, serve } from './serve.ts';

const folder = mkdtempSync(join(tmpdir(), 'ringbook-built-'));
const out = join(folder, 'site');
let served: Served;

// Built as everybody builds it, by the command, so that what Node has compiled of the tree is used. The quick tests leave out the API's pages, which are TypeDoc's, and
// the colours (`highlight.test.ts` has those). A build that is tolerant writes every page, and says what is wrong with the prose: nothing may be.
interface Built {
  readonly said: string;
  readonly pages: number;
  readonly entries: number;
}
let built: Built;

function build(): Promise<Built> {
  const args = [
    fileURLToPath(new URL('build.ts', import.meta.url)),
    '--out',
    out,
    '--tolerant',
    ...(ALL ? [] : ['--plain', '--only', 'pages,client']),
  ];
  return new Promise((done) => {
    execFile(process.execPath, ['--disable-warning=ExperimentalWarning', '--single-threaded-gc', ...args], (_, stdout, stderr) => {
      const {
        before = '',
        pages,
        entries,
      } = /^(?<before>[\s\S]*)site: (?<pages>\d+) pages, (?<entries>\d+) search entries/m.exec(stdout)?.groups ?? {};
      done({ said: pages === undefined ? `${stdout}${stderr}` : before, pages: Number(pages), entries: Number(entries) });
    });
  });
}

const executablePath = findChromium();
if (!executablePath) console.log(`skipped: ${NO_CHROMIUM}; the pages were not opened in a browser`);

beforeAll(async () => {
  built = await build();
  served = await serve(out);
}, 900_000);
afterAll(async () => {
  await served?.close();
  rmSync(folder, { recursive: true, force: true });
});

describe('the built site', () => {
  // The same as `npm run check literate`, which therefore need not run beside the tests.
  it('has every figure, every include and every number of its prose', () => {
    expect(built.said).toBe('');
  });

  it('has no dead link, no dead anchor, and loads nothing from outside', () => {
    expect(built.pages).toBeGreaterThan(50);
    expect(deadLinks(out)).toEqual([]);
  });

  it('has a page for every module, payload, clause and case it links to, and an index to search', () => {
    for (const page of [
      'index.html',
      'chapters/index.html',
      'chapters/01-hardware-background/layout.html',
      'payloads/index.html',
      'suite/index.html',
      'live/index.html',
      ...(ALL ? ['api/index.html'] : []),
    ])
      expect(existsSync(join(out, page)), page).toBe(true);
    expect(built.entries).toBeGreaterThan(200);
  });

  it('keeps every line of a module on its page, in order, linkable', () => {
    const source = readFileSync(new URL('../chapters/01-hardware-background/layout.ts', import.meta.url), 'utf8').split('\n');
    const page = readFileSync(join(out, 'chapters/01-hardware-background/layout.html'), 'utf8');
    const text = (html: string): string => unescapeHtml(html.replace(/<[^>]+>/g, ''));
    const lines = new Map(
      [...page.matchAll(/<span class="l" id="L(\d+)">(.*)$/gm)].map(([, n, html]) => [Number(n), text((html as string).replace(/<\/code>.*$/, ''))]),
    );
    source.forEach((line, index) => {
      if (line.startsWith('//') || line.trim() === '') return;
      expect(lines.get(index + 1), `line ${index + 1}`).toBe(line);
    });
  });
});

describe.skipIf(!executablePath)('in a browser', () => {
  let browser: Browser;
  let page: Page;
  const outside: string[] = [];
  const errors: string[] = [];

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath as string, args: ['--no-sandbox', '--disable-gpu'] });
    page = await browser.newPage({ viewport: { width: 1300, height: 900 } });
    page.on('request', (request) => {
      const url = request.url();
      if (!url.startsWith(served.url) && !/^(data|blob):/.test(url)) outside.push(url);
    });
    page.on('pageerror', (error) => errors.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') errors.push(message.text());
    });
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
  });
  const open = (path: string): Promise<unknown> => page.goto(new URL(path, served.url).href);

  it('shows the home page and leads to a chapter', async () => {
    await open('');
    expect(await page.textContent('h1')).toContain('Ringbook');
    await page.click('.readers a >> nth=0');
    await page.waitForURL(/chapters\/01-/);
    expect(await page.textContent('h1')).toBeTruthy();
  });

  it('shows prose and code, and marks the lines of a link', async () => {
    await open('chapters/01-hardware-background/layout.html#L20-L22');
    expect(await page.textContent('h1')).toContain('Layouts');
    expect(await page.locator('.l.marked').count()).toBe(3);
    expect(await page.locator('#L20').isVisible()).toBe(true);
    // What a reader copies is the code, without line numbers.
    const copied = await page.evaluate(() => {
      const [from, to] = [document.getElementById('L20'), document.getElementById('L22')];
      const range = document.createRange();
      range.setStartBefore(from as Node);
      range.setEndAfter(to as Node);
      getSelection()?.removeAllRanges();
      getSelection()?.addRange(range);
      return getSelection()?.toString();
    });
    const source = readFileSync(new URL('../chapters/01-hardware-background/layout.ts', import.meta.url), 'utf8').split('\n');
    expect(copied?.trimEnd()).toBe(source.slice(19, 22).join('\n').trimEnd());
  });

  it('has no page wider than a telephone', async () => {
    await page.setViewportSize({ width: 390, height: 800 });
    for (const path of [
      '',
      'chapters/01-hardware-background/layout.html',
      'chapters/03-vcpu-loop/index.html',
      'payloads/index.html',
      'suite/index.html',
      'suite/clauses.html',
      'live/index.html',
      'live/walk.html',
      'live/ring.html',
      'live/ladder.html',
      'live/translator.html',
      'live/linux.html',
      'live/ring.html#with=event.indirect&do=a3.a2.k.p.p&ask=sleep&left=aBc&machine=x86&step=9',
      'search.html',
    ]) {
      await open(path);
      expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), path).toBeLessThanOrEqual(0);
    }
    await page.setViewportSize({ width: 1300, height: 900 });
  });

  it('changes between light and dark and remembers', async () => {
    await open('');
    const paper = (): Promise<string> => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const before = await paper();
    await page.click('button.theme');
    expect(await paper()).not.toBe(before);
    await open('chapters/index.html');
    expect(await paper()).not.toBe(before);
    await page.click('button.theme');
    expect(await paper()).toBe(before);
  });

  it('finds things', async () => {
    await open('chapters/index.html');
    await page.fill('form.search input', 'bitfield');
    await page.waitForSelector('.popup a');
    expect(await page.textContent('.popup')).toContain('bitfield');
    await page.press('form.search input', 'Enter');
    await page.waitForURL(/search\.html\?q=bitfield/);
    await page.waitForSelector('#results a');
    await page.click('#results a >> nth=0');
    await page.waitForURL(/\.html(#.*)?$/);
  });

  const imageOf = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(`../guest-payloads/images/${name}.elf`, import.meta.url)));
  const nodeHash = async (name: string): Promise<string | null> => {
    const session = new BookSession({ image: imageOf(name), vcpus: 1, needs: findPayload(name)?.needs ?? [], input: '' });
    while (session.ending === null) session.advance(1_000_000);
    return traceHash(session.events, session.dropped);
  };
  const ended = (): Promise<unknown> => page.waitForSelector('#status[data-state="ended"]', { timeout: 60_000 });
  const hash = async (): Promise<string | undefined> => {
    await page.waitForSelector('#hash[data-hash]', { timeout: 30_000 });
    return (await page.getAttribute('#hash', 'data-hash')) ?? undefined;
  };
  const consoleText = (): Promise<string> =>
    page.evaluate(() =>
      [...document.querySelectorAll('#console .xterm-rows > div')].map((row) => row.textContent?.replace(/\u00a0/g, ' ').trimEnd()).join('\n'),
    );

  it('runs a payload to its end, with its console and the same trace as in Node', async () => {
    for (const name of ['hello', 'mode-long', 'pic', 'e1000']) {
      await open(`live/index.html#payload=${name}`);
      await page.reload(); // a change of the hash alone does not load a page
      await page.waitForSelector('#run:not([disabled])');
      await page.click('#run');
      await ended();
      expect(await page.textContent('#status')).toMatch(/ended by/);
      await expect.poll(consoleText).toContain(name === 'hello' ? 'hello' : 'RB1 done');
      expect(await hash()).toBe(await nodeHash(name));
    }
  }, 120_000);

  it('steps, stops at exits, and replays from a link', async () => {
    await open('live/index.html#payload=hello');
    await page.reload();
    await page.waitForSelector('#step:not([disabled])');
    for (let n = 1; n <= 3; n++) {
      await page.click('#step');
      await page.waitForFunction((want) => document.getElementById('status')?.textContent?.startsWith(`${want} instruction`), n);
    }
    expect(await page.locator('#registers .changed').count()).toBeGreaterThan(0);
    await page.click('#to-exit');
    await page.waitForFunction(() => /[1-9]\d* VM exit/.test(document.getElementById('status')?.textContent ?? ''));
    await page.click('#events button >> nth=0');
    const link = page.url();
    expect(link).toMatch(/payload=hello&at=\d+&events=\d+&event=\d+/);
    const [status, registers, detail] = [await page.textContent('#status'), await page.textContent('#registers'), await page.textContent('#detail')];

    const other = await browser.newPage();
    await other.goto(link);
    await other.waitForSelector('#step:not([disabled])');
    expect(await other.textContent('#status')).toBe(status);
    expect(await other.textContent('#registers')).toBe(registers);
    expect(await other.textContent('#detail')).toBe(detail);
    expect(other.url()).toBe(link);
    await other.click('#run');
    await other.waitForSelector('#hash[data-hash]', { timeout: 60_000 });
    expect(await other.getAttribute('#hash', 'data-hash')).toBe(await nodeHash('hello'));
    await other.close();
  }, 120_000);

  it('runs a virtio payload on the machine that the link names, and follows a buffer', async () => {
    await open('live/index.html#payload=virtio-console&transport=mmio&ring=packed');
    await page.reload();
    await page.waitForSelector('#run:not([disabled])');
    expect(await page.inputValue('#transport')).toBe('mmio');
    expect(await page.inputValue('#ring')).toBe('packed');
    await page.click('#run');
    await ended();
    await hash();
    await page.selectOption('#only', 'rings');
    await page.click('#ring-rows button >> nth=0');
    const title = (): Promise<string | null> => page.textContent('#detail strong');
    expect(await title()).toMatch(/^buffer \d+ taken$/);
    await page.click('.way button:text-is("given back")');
    expect(await title()).toMatch(/^buffer \d+ given back$/);
    expect(page.url()).toMatch(/transport=mmio&ring=packed&at=\d+&events=\d+&event=\d+/);
    expect(await page.isVisible('#lane-device')).toBe(true);
    // Another transport is another machine; one that knows no packed ring gets the split one.
    await page.selectOption('#transport', 'mmio-legacy');
    await page.waitForSelector('#run:not([disabled])');
    expect(await page.inputValue('#ring')).toBe('split');
    expect(await page.isDisabled('#ring option[value="packed"]')).toBe(true);
    await page.selectOption('#payload', 'hello');
    await page.waitForSelector('#run:not([disabled])');
    expect(await page.isVisible('#transport')).toBe(false);
    expect(await page.isVisible('#rings')).toBe(false);
  }, 120_000);

  it('says what is wrong with a link to no payload', async () => {
    await open('live/index.html#payload=nonesuch');
    await page.reload();
    await page.waitForSelector('#trouble:not([hidden])');
    expect(await page.textContent('#trouble')).toContain('nonesuch');
  });

  it('steps through a page walk by keys, and shows what a cleared bit does', async () => {
    await open('live/walk.html');
    const count = (): Promise<string | null> => page.textContent('#count');
    expect(await count()).toBe('1 of 24 references');
    for (const key of ['ArrowRight', 'ArrowRight', 'ArrowLeft']) await page.keyboard.press(key);
    expect(await count()).toBe('2 of 24 references');
    await page.keyboard.press('End');
    expect(await page.textContent('#two-end')).toContain('24 references. The byte is at host physical address');
    expect(await page.textContent('#native-end')).toContain('4 references.');
    expect(await page.textContent('#shadow-end')).toContain('1 exit the first time; from then on 4 references for each miss.');
    await page.click('#two [data-reference="20"]');
    await page.click('#entry [data-bit="P"]');
    for (const id of ['two', 'native', 'shadow']) expect(await page.textContent(`#${id}-end`), id).toContain('Page fault for the guest');
    const link = page.url();
    await page.keyboard.press('Enter'); // the same bit, which has the focus
    expect(await count()).toBe('24 of 24 references');
    await page.goto(link);
    await page.reload();
    expect(await page.textContent('#two-end')).toContain('20 references. Page fault');
    await page.selectOption('#nested', '2M');
    await page.selectOption('#page', '2M');
    expect(await count()).toBe('15 of 15 references');
    await page.click('#two [data-reference="15"]');
    await page.click('#entry [data-bit="R"]');
    expect(await page.textContent('#two-end')).toContain('EPT misconfiguration');
  });

  it('shows what the translator makes of code, from a link too', async () => {
    await open('live/translator.html');
    expect(await page.textContent('#sum')).toContain('11 instructions in 3 blocks');
    await page.click('.guest-block summary >> nth=2');
    expect(await page.textContent('.micros >> nth=2')).toContain('load.4.4');
    await page.goto(`${page.url().split('#')[0]}#bits=32&code=4075fdebfb`);
    await page.waitForFunction(() => document.querySelector('#guest')?.textContent?.includes('INC EAX'));
    await page.fill('#bytes', 'f4');
    expect(await page.textContent('#trouble')).toContain('not become hot');
  });

  it('climbs the ladder of speeds, and the rungs agree', async () => {
    await open('live/ladder.html');
    await page.waitForSelector('#measure:not([disabled])', { timeout: 60_000 });
    await expect.poll(() => page.textContent('#status'), { timeout: 60_000 }).toBe('All five left the same value.');
    const rates = await page.locator('#ladder tbody .rate').allTextContents();
    expect(rates).toHaveLength(5);
    for (const rate of rates) expect(rate).toMatch(/^\d+(\.\d)?$/); // how many million, is the business of the machine
  }, 90_000);

  it('drives both ends of a ring by keys, and replays it from a link', async () => {
    await open('live/ring.html');
    await page.reload(); // a change of the hash alone does not load a page
    for (const key of ['2', 'k', 'p', 'u', 'n', 't']) await page.keyboard.press(key);
    expect(await page.textContent('#count')).toBe('6 of 6 acts');
    expect(await page.textContent('#said')).toContain('buffer A, 16 bytes written');
    expect(await page.textContent('#tables [data-field="used.idx"]')).toBe('1');
    expect([await page.textContent('#kicks'), await page.textContent('#interrupts')]).toEqual(['1', '1']);
    for (const key of ['ArrowLeft', 'ArrowLeft', 'ArrowLeft']) await page.keyboard.press(key);
    expect(await page.textContent('#tables [data-field="used.idx"]')).toBe('0');
    await page.fill('#length', '5');
    await page.click('#push');
    expect(await page.textContent('#tables [data-field="used.ring[0].len"].changed')).toBe('5');
    const link = page.url();
    expect(link).toContain('do=a2.k.p.u0-5');
    await page.goto(link);
    await page.reload();
    expect(await page.textContent('#said')).toContain('push(A, 5)');
    expect(page.url()).toBe(link);
    await page.click('#again');
    await page.click('#wrap');
    expect(await page.textContent('#said')).toContain('65536 trips');
    await page.selectOption('#format', 'packed');
    await page.click('#wrap');
    expect(await page.textContent('#driver')).toContain('0, wrap counter 0');
  }, 60_000);

  it('exchanges two stores of a ring, and shows an execution that fails', async () => {
    await open('live/ring.html#ask=used&machine=x86');
    await page.reload();
    expect(await page.getAttribute('#verdict', 'data-kind')).toBe('holds');
    expect(await page.isVisible('#failing')).toBe(false);
    await page.click('#program [data-side="0"][data-row="0"][data-move="down"]');
    expect(await page.getAttribute('#verdict', 'data-kind')).toBe('breaks');
    await page.click('#deed-last');
    expect(await page.textContent('#happened')).toContain('is told 16');
    expect(await page.textContent('#broken [data-field="used.ring[0].len"].late')).toContain('64 is not seen yet');
    const link = page.url();
    await page.goto(link);
    await page.reload();
    expect(await page.textContent('#deed-count')).toMatch(/^(\d+) of \1 steps$/);
    await page.click('#mend');
    expect(await page.getAttribute('#verdict', 'data-kind')).toBe('holds');
  });

  it('runs a ring in a page that was opened from disk', async () => {
    const other = await browser.newPage();
    await other.goto(`${pathToFileURL(join(out, 'live/ring.html')).href}#do=a1.k.p`);
    expect(await other.textContent('#said')).toContain('buffer A');
    await other.close();
  });

  it('asked nobody else for anything, and raised no error', () => {
    expect(outside).toEqual([]);
    expect(errors).toEqual([]);
  });
});
