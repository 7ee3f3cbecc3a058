import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fileFor, type Served, serve } from './serve.ts';

const folder = mkdtempSync(join(tmpdir(), 'ringbook-serve-'));
const root = join(folder, 'site');
let served: Served;

beforeAll(async () => {
  mkdirSync(join(root, 'sub'), { recursive: true });
  writeFileSync(join(root, 'index.html'), '<p>home');
  writeFileSync(join(root, 'sub', 'index.html'), '<p>sub');
  writeFileSync(join(root, 'a.wasm'), 'x');
  writeFileSync(join(folder, 'secret.txt'), 'secret');
  symlinkSync(join(folder, 'secret.txt'), join(root, 'link.txt'));
  served = await serve(root);
});
afterAll(async () => {
  await served.close();
  rmSync(folder, { recursive: true, force: true });
});

const get = (path: string) => fetch(new URL(path, served.url), { redirect: 'manual' });

/** A request line as it is, which fetch would tidy up first. */
const raw = (target: string): Promise<string> =>
  new Promise((done, failed) => {
    const { port, hostname } = new URL(served.url);
    let text = '';
    const socket = connect(Number(port), hostname, () => socket.write(`GET ${target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`));
    socket.setEncoding('utf8').on('data', (part) => {
      text += part;
    });
    socket.on('end', () => done(text)).on('error', failed);
  });

describe('the server', () => {
  it('serves files with their types, and folders by their index', async () => {
    const home = await get('');
    expect(home.headers.get('content-type')).toContain('text/html');
    expect(home.headers.get('content-security-policy')).toContain("default-src 'self'");
    expect(await home.text()).toBe('<p>home');
    expect((await get('a.wasm')).headers.get('content-type')).toBe('application/wasm');
    expect(await (await get('sub/')).text()).toBe('<p>sub');
    expect((await get('sub')).headers.get('location')).toBe('/sub/');
  });

  it('listens on the loopback address only', () => {
    expect(served.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
  });

  it('gives nothing from outside its folder', async () => {
    for (const target of [
      '/../secret.txt',
      '/%2e%2e/secret.txt',
      '/..%2fsecret.txt',
      '/sub/../../secret.txt',
      '/sub/%2e%2e/%2e%2e/secret.txt',
      '//../secret.txt',
      '/link.txt',
      '/%00',
      '/%',
    ]) {
      const answer = await raw(target);
      expect(answer, target).toMatch(/^HTTP\/1\.1 404/);
      expect(answer, target).not.toContain('secret\n');
    }
    expect(fileFor(root, '/../site/index.html')).not.toBeNull(); // inside after all
    expect(fileFor(root, '/../secret.txt')).toBeNull();
  });

  it('refuses other methods and survives nonsense', async () => {
    expect((await fetch(served.url, { method: 'POST' })).status).toBe(405);
    expect(await raw('http://[')).toMatch(/^HTTP\/1\.1 4/);
    expect((await get('')).status).toBe(200);
  });
});
