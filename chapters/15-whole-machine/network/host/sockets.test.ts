// Real sockets, on 127.0.0.1, with the guest's TCP in our hands.

import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { NETWORK } from '../addresses.ts';
import { bench, tcpGuest } from '../laboratory.ts';
import { pattern } from '../tcp/laboratory.ts';
import { nodeSockets } from './sockets.ts';

const MIB = 1 << 20;
const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0).reverse()) close();
});

/** Lets the event loop and the guest take turns until something is so. */
async function until(guest: { pass(ns: number): void }, done: () => boolean): Promise<void> {
  for (let turn = 0; turn < 20_000 && !done(); turn++) {
    guest.pass(1e6);
    await new Promise((resolve) => setTimeout(resolve, turn < 100 ? 0 : 1));
  }
  expect(done()).toBe(true);
}

async function serve(onSocket: (socket: Socket) => void): Promise<number> {
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {}); // a guest may go away
    onSocket(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closing.push(() => server.close());
  return (server.address() as AddressInfo).port;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

const openBench = (options: Parameters<typeof bench>[0] = {}) => {
  const lab = bench({ sockets: nodeSockets(() => {}), open: true, ...options });
  closing.push(() => lab.network.close());
  return lab;
};

describe('a guest and a program on the host', () => {
  it('exchange megabytes through an echo, with their ends', async () => {
    const port = await serve((socket) => void socket.pipe(socket));
    const guest = tcpGuest(openBench(), 1000, port);
    guest.open();
    const sent = pattern(2 * MIB);
    guest.program.write(sent, true);
    await until(guest, () => guest.program.events.includes('end'));
    expect(Buffer.compare(guest.program.bytes, sent)).toBe(0);
    expect(guest.program.connection?.state).toBe('TIME-WAIT');
  });

  it('make each other wait', async () => {
    let got = 0;
    let held: Socket | null = null;
    const port = await serve((socket) => {
      held = socket;
      socket.pause();
      socket.on('data', (bytes) => {
        got += bytes.length;
      });
      socket.pause();
    });
    const guest = tcpGuest(openBench(), 1000, port);
    guest.open();
    guest.program.write(pattern(8 * MIB));
    await until(guest, () => held !== null);
    for (let turn = 0; turn < 200; turn++) {
      guest.pass(1e7);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(got).toBe(0);
    (held as unknown as Socket).resume();
    await until(guest, () => got === 8 * MIB);
  });

  it('learn of a refusal and of a break', async () => {
    const nobody = tcpGuest(openBench(), 1000, await freePort());
    nobody.open();
    await until(nobody, () => nobody.program.events.includes('reset'));
    const port = await serve((socket) => void socket.resetAndDestroy());
    const broken = tcpGuest(openBench(), 1000, port);
    broken.open();
    await until(broken, () => broken.program.events.includes('reset'));
    let failed = '';
    const other = await serve((socket) => {
      socket.on('error', (error: NodeJS.ErrnoException) => {
        failed = error.code ?? '';
      });
      socket.resume();
    });
    const guest = tcpGuest(openBench(), 1000, other);
    guest.open();
    await until(guest, () => guest.program.events.includes('established'));
    guest.program.connection?.abort();
    await until(guest, () => failed === 'ECONNRESET');
  });
});

describe('a port that leads to the guest', () => {
  it('carries a connection of the host’s', async () => {
    const hostPort = await freePort();
    const lab = openBench({ open: false, forwards: [{ protocol: 'tcp', hostPort, guest: NETWORK.guest, guestPort: 22 }] });
    await lab.network.opened();
    const guest = tcpGuest(lab, 22, 0);
    lab.sendDatagram(NETWORK.dns, { sourcePort: 1, destinationPort: 53, data: new Uint8Array(0) });
    const client = connect({ port: hostPort, host: '127.0.0.1', allowHalfOpen: true });
    const got: Buffer[] = [];
    client.on('data', (bytes) => got.push(bytes));
    client.end(pattern(MIB));
    await until(guest, () => guest.program.events.includes('end'));
    expect(Buffer.compare(guest.program.bytes, pattern(MIB))).toBe(0);
    guest.program.write(pattern(MIB, 4), true);
    await until(guest, () => client.readableEnded);
    expect(Buffer.compare(Buffer.concat(got), pattern(MIB, 4))).toBe(0);
  });
  it('that is taken is said in one line', async () => {
    const hostPort = await serve(() => {});
    const lab = openBench({ forwards: [{ protocol: 'tcp', hostPort, guest: NETWORK.guest, guestPort: 22 }] });
    await expect(lab.network.opened()).rejects.toThrow(/^TCP port [0-9]+ of 127\.0\.0\.1: .*EADDRINUSE/);
  });
});

describe('datagrams', () => {
  it('reach a program and come back', async () => {
    const echo = createSocket('udp4').bind(0, '127.0.0.1');
    await once(echo, 'listening');
    closing.push(() => echo.close());
    echo.on('message', (bytes, { port, address }) => echo.send(bytes, port, address));
    const lab = openBench();
    const { port } = echo.address();
    lab.sendDatagram(NETWORK.gateway, { sourcePort: 4000, destinationPort: port, data: pattern(1000) });
    const answers: unknown[] = [];
    await until({ pass: () => void answers.push(...lab.answers()) }, () => answers.length > 0);
    expect(answers).toMatchObject([{ sourcePort: port, destinationPort: 4000, data: pattern(1000) }]);
  });
});
