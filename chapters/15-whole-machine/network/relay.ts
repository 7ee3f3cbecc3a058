// # Joining two streams
//
// A connection of the guest's ends here, and one of the host's begins. Between them are two buffers, and the art is in what happens when one is full: whoever
// fills it must be made to wait, and by nothing else than the means that his own protocol has. The guest waits because its window does not open; the
// program on the host waits because nobody reads its socket.
//
// This is what a *user-mode* network costs. A router looks at a packet and passes it on. Here every byte climbs up one TCP, is copied, and climbs down another, whose
// acknowledgements have nothing to do with those of the first. In exchange nobody needs a privilege: to the host, the guest is an ordinary program with
// ordinary sockets.

import type { HostStream } from './host-sockets.ts';
import { ByteRing } from './tcp/byte-ring.ts';
import type { Connection, Ending } from './tcp/connection.ts';
import { RECEIVE_BYTES } from './tcp/receiver.ts';

/** What goes to the host in one piece. */
const PIECE_BYTES = 64 << 10;

export class Relay {
  readonly #connection: Connection;
  readonly #stream: HostStream;
  /** From the guest, for the host: never more than the window that the guest was given. */
  readonly #outward = new ByteRing(RECEIVE_BYTES);
  #writing = false;
  #guestEnded = false;
  #outwardEnded = false;
  /** From the host, for the guest: what one read brought, and the connection did not take. */
  #inward: Uint8Array[] = [];
  #hostEnded = false;
  #over = false;

  constructor(connection: Connection, stream: HostStream) {
    this.#connection = connection;
    this.#stream = stream;
    stream.onData = (bytes) => this.#fromHost(bytes);
    stream.onEnd = () => {
      this.#hostEnded = true;
      this.#inwardFlow();
    };
    stream.onClose = (whole) => this.#hostClosed(whole);
  }

  // ## From the guest

  fromGuest(bytes: Uint8Array): void {
    this.#outward.push(bytes);
    this.#outwardFlow();
  }

  guestEnded(): void {
    this.#guestEnded = true;
    this.#outwardFlow();
  }

  #outwardFlow(): void {
    if (this.#writing || this.#over || this.#outwardEnded) return;
    if (this.#outward.length === 0) {
      if (!this.#guestEnded) return;
      this.#outwardEnded = true;
      this.#stream.end();
      return;
    }
    const piece = this.#outward.peek(0, PIECE_BYTES);
    this.#writing = true;
    this.#stream.write(piece, () => {
      this.#writing = false;
      if (this.#over) return;
      this.#outward.drop(piece.length);
      this.#connection.used(piece.length);
      this.#outwardFlow();
    });
  }

  // ## From the host

  #fromHost(bytes: Uint8Array): void {
    if (this.#over) return;
    this.#inward.push(bytes);
    this.#inwardFlow();
  }

  /** The connection has room, or there is something new for it. */
  #inwardFlow(): void {
    for (;;) {
      const first = this.#inward[0];
      if (!first || this.#over) break;
      const taken = this.#connection.send(first);
      if (taken < first.length) {
        this.#inward[0] = first.subarray(taken);
        this.#stream.pause();
        return;
      }
      this.#inward.shift();
    }
    if (this.#over) return;
    if (this.#hostEnded) this.#connection.finish();
    else this.#stream.resume();
  }

  roomForGuest(): void {
    this.#inwardFlow();
  }

  // ## The end
  //
  // Each side's end is passed on when everything before it has been. A side that breaks off breaks the other off.

  #hostClosed(whole: boolean): void {
    if (this.#over) return;
    if (whole && this.#guestEnded && this.#hostEnded) {
      return; // what is left is between the connection and the guest
    }
    this.#over = true;
    this.#connection.abort();
  }

  guestClosed(how: Ending): void {
    if (this.#over) return;
    this.#over = true;
    if (how !== 'finished') this.#stream.destroy();
  }
}
