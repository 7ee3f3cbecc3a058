// # The host's sockets
//
// Node's, behind the interface that the network knows. Whatever address a program binds or connects to is written here and nowhere else.

import { createSocket } from 'node:dgram';
import type { EventEmitter } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import type { HostDatagrams, HostPort, HostSockets, HostStream } from '../host-sockets.ts';

const LOOPBACK = '127.0.0.1';

class NodeStream implements HostStream {
  onConnect: () => void = () => {};
  onData: (bytes: Uint8Array) => void = () => {};
  onEnd: () => void = () => {};
  onClose: (whole: boolean) => void = () => {};
  readonly #socket: Socket;
  readonly #arrived: () => void;

  constructor(socket: Socket, arrived: () => void) {
    this.#socket = socket;
    this.#arrived = arrived;
    let [ended, failed] = [false, false];
    socket.setNoDelay(true);
    socket.on('connect', () => {
      this.onConnect();
      arrived();
    });
    socket.on('data', (bytes) => {
      this.onData(bytes);
      arrived();
    });
    socket.on('end', () => {
      ended = true;
      this.onEnd();
      arrived();
    });
    socket.on('error', () => {
      failed = true;
    });
    socket.on('close', () => {
      this.onClose(ended && !failed);
      arrived();
    });
  }
  write(bytes: Uint8Array, done: () => void): void {
    this.#socket.write(bytes, (error) => {
      if (error) return; // which ends it, and is told there
      done();
      this.#arrived();
    });
  }
  end(): void {
    this.#socket.end();
  }
  pause(): void {
    this.#socket.pause();
  }
  resume(): void {
    this.#socket.resume();
  }
  destroy(): void {
    this.#socket.resetAndDestroy();
  }
}

class NodeDatagrams implements HostDatagrams, HostPort {
  onMessage: (bytes: Uint8Array, port: number) => void = () => {};
  readonly ready: Promise<void>;
  readonly #socket = createSocket('udp4');
  #open = true;

  constructor(port: number, arrived: () => void) {
    const socket = this.#socket;
    socket.on('message', (bytes, { address, port: from }) => {
      if (address !== LOOPBACK) return;
      this.onMessage(bytes, from);
      arrived();
    });
    this.ready = opened(socket, `UDP port ${port}`);
    socket.on('error', () => this.close()); // whoever sends hears nothing, as on any network
    socket.bind(port, LOOPBACK);
    socket.unref();
  }
  send(bytes: Uint8Array, port: number): void {
    if (this.#open) this.#socket.send(bytes, port, LOOPBACK, () => {});
  }
  close(): void {
    if (this.#open) this.#socket.close();
    this.#open = false;
  }
}

/** Settles when a socket has its port, or is refused it. */
function opened(socket: EventEmitter, what: string): Promise<void> {
  const ready = new Promise<void>((resolve, reject) => {
    socket.once('listening', resolve);
    socket.once('error', (error: Error) => reject(new Error(`${what} of ${LOOPBACK}: ${error.message}`)));
  });
  ready.catch(() => {}); // whoever asks is told; nobody need ask
  return ready;
}

/** Sockets of this host. `arrived` is called after everything that came in. */
export function nodeSockets(arrived: () => void): HostSockets {
  return {
    connect: (port) => new NodeStream(connect({ port, host: LOOPBACK, allowHalfOpen: true }), arrived),
    listen(port, onStream) {
      const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
        onStream(new NodeStream(socket, arrived));
        arrived();
      });
      const ready = opened(server, `TCP port ${port}`);
      server.on('error', () => {});
      server.listen(port, LOOPBACK);
      server.unref(); // it keeps no process alive
      return { ready, close: () => void server.close() };
    },
    datagrams: (port = 0) => new NodeDatagrams(port, arrived),
  };
}
