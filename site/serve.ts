// # A small server
//
// For reading the site on the machine that built it: files of one folder, on the loopback address, and nothing else. Names are resolved before they
// are compared with the folder, so no spelling of `..` leads out of it.

import { createReadStream, realpathSync, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, sep } from 'node:path';

// biome-ignore format: table
const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.json': 'application/json',
  '.svg': 'image/svg+xml', '.wasm': 'application/wasm', '.elf': 'application/octet-stream', '.txt': 'text/plain; charset=utf-8', '.png': 'image/png',
};

/** What every answer carries: no page of the site may load anything from elsewhere. The live page compiles WebAssembly; API pages set styles inline. */
const HEADERS = {
  'Content-Security-Policy':
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; " +
    "img-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-cache',
} as const;

/** The file that a request path means, or null when there is none inside `root`. */
export function fileFor(root: string, requested: string): string | null {
  let path: string;
  try {
    path = decodeURIComponent(requested);
  } catch {
    return null;
  }
  if (path.includes('\0')) return null;
  try {
    const base = realpathSync(root);
    let file = realpathSync(join(base, path));
    if (statSync(file).isDirectory()) file = realpathSync(join(file, 'index.html'));
    return file.startsWith(base + sep) && statSync(file).isFile() ? file : null;
  } catch {
    return null; // no such file
  }
}

function answer(root: string, request: IncomingMessage, response: ServerResponse): void {
  const say = (status: number, text: string): void => {
    response.writeHead(status, { ...HEADERS, 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
  };
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    say(405, 'only GET');
    return;
  }
  const { pathname, search } = new URL(`http://ringbook${(request.url ?? '/').replace(/^\/+/, '/')}`);
  const file = fileFor(root, pathname);
  if (!file) {
    say(404, 'no such page');
    return;
  }
  // A folder without its slash would break every relative link on its page.
  if (!pathname.endsWith('/') && !extname(pathname) && file.endsWith(`${sep}index.html`)) {
    response.writeHead(301, { ...HEADERS, Location: `${pathname}/${search}` }).end();
    return;
  }
  response.writeHead(200, { ...HEADERS, 'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream', 'Content-Length': statSync(file).size });
  if (request.method === 'HEAD') response.end();
  else
    createReadStream(file)
      .on('error', () => response.destroy())
      .pipe(response);
}

export interface Served {
  readonly url: string;
  readonly server: Server;
  close(): Promise<void>;
}

/** Serves a folder on 127.0.0.1. Port 0 takes any free one. */
export function serve(root: string, port = 0): Promise<Served> {
  return new Promise((done, failed) => {
    const server = createServer((request, response) => {
      try {
        answer(root, request, response);
      } catch {
        response.destroy();
      }
    });
    server.on('error', failed);
    server.listen(port, '127.0.0.1', () => {
      const { port: taken } = server.address() as AddressInfo;
      const close = (): Promise<void> =>
        new Promise((closed) => {
          server.close(() => closed());
          server.closeAllConnections();
        });
      done({ url: `http://127.0.0.1:${taken}/`, server, close });
    });
  });
}
