// # A connection
//
// The two halves, and what keeps them together: who begins, who ends, and which of all segments that carry this connection's ports belong to it. The states
// and the order in which a segment is looked at are those of RFC 9293, section "Event Processing"; the specification lists them in an order that was
// argued over for forty
// years, and a stack that looks at the acknowledgement before the reset, say, can be knocked over from afar.
//
// A connection knows nothing of what it connects. To whoever owns it, it is a stream each way, with room or without.

import type { Clock, Timer } from '../../../02-kvm-objects/clock.ts';
import { RECEIVE_SCALE, Receiver } from './receiver.ts';
import { FLAG, lengthOf, positionOf, type Segment, sequenceOf } from './segment.ts';
import { MSS, Sender, type Transmission } from './sender.ts';

type TcpState =
  | 'LISTEN'
  | 'SYN-SENT'
  | 'SYN-RECEIVED'
  | 'ESTABLISHED'
  | 'FIN-WAIT-1'
  | 'FIN-WAIT-2'
  | 'CLOSE-WAIT'
  | 'CLOSING'
  | 'LAST-ACK'
  | 'TIME-WAIT'
  | 'CLOSED';

/** How a connection ended: both ways finished; the other end's reset; nobody answers any more; or by us. */
export type Ending = 'finished' | 'reset' | 'timeout' | 'aborted';

/** What a connection says to its owner, and by what it reaches the other end. */
export interface ConnectionPorts {
  readonly clock: Clock;
  readonly localPort: number;
  readonly remotePort: number;
  /** Our first sequence number. */
  readonly initial: number;
  transmit(segment: Segment): void;
  onEstablished(): void;
  /** What has arrived. Whoever has used it says so by {@link Connection.used}; until then the other end's room shrinks. */
  onData(bytes: Uint8Array): void;
  /** The other end will send no more. */
  onEnd(): void;
  /** There is room to {@link Connection.send} again. */
  onRoom(): void;
  onClosed(how: Ending): void;
}

const MS = 1e6;
/** How long an acknowledgement waits for something to travel with. */
const DELAY_NS = 40 * MS;
/** Twice the longest time that a segment may be under way. */
const TIME_WAIT_NS = 60_000 * MS;
/** Every second full segment is acknowledged at once. */
const UNACKNOWLEDGED_BYTES = 2 * MSS;
const NOTHING = new Uint8Array(0);

/** States in which data may still arrive. */
const RECEIVING: ReadonlySet<TcpState> = new Set(['ESTABLISHED', 'FIN-WAIT-1', 'FIN-WAIT-2']);
/** States in which we may still send. */
const SENDING: ReadonlySet<TcpState> = new Set(['SYN-SENT', 'SYN-RECEIVED', 'ESTABLISHED', 'CLOSE-WAIT']);

export class Connection {
  state: TcpState = 'LISTEN';
  readonly #ports: ConnectionPorts;
  readonly #sender: Sender;
  #receiver: Receiver | null = null;
  /** The other end's window field counts in units of two to this power. */
  #peerScale = 0;
  #scaled = false;
  /** Where the last news about the window came from, so that older ones are told apart. */
  #windowFrom = { sequence: 0, acknowledgment: 0 };
  readonly #retransmission: Timer;
  readonly #delay: Timer;
  readonly #linger: Timer;
  #unacknowledged = 0;
  #finishing = false;

  private constructor(ports: ConnectionPorts) {
    this.#ports = ports;
    const { clock } = ports;
    this.#retransmission = clock.timer(() => this.#expired());
    this.#delay = clock.timer(() => this.#acknowledge());
    this.#linger = clock.timer(() => this.#close('finished'));
    this.#sender = new Sender({ now: () => clock.now(), timer: this.#retransmission, transmit: (what) => this.#transmit(what) });
  }

  /** A connection that the other end has asked for. It is not answered before {@link accept}, or {@link abort}. */
  static requested(syn: Segment, ports: ConnectionPorts): Connection {
    const connection = new Connection(ports);
    connection.#begin(syn);
    return connection;
  }

  /** A connection that we ask for. */
  static open(ports: ConnectionPorts): Connection {
    const connection = new Connection(ports);
    connection.state = 'SYN-SENT';
    connection.#sender.output();
    return connection;
  }

  /** Answers a request. */
  accept(): void {
    if (this.state !== 'LISTEN') return;
    this.state = 'SYN-RECEIVED';
    this.#sender.output();
  }

  // ## For the owner

  /** Takes bytes for the other end, and says how many; the rest has to wait for room. */
  send(bytes: Uint8Array): number {
    if (!SENDING.has(this.state) || this.#finishing) return 0;
    const taken = this.#sender.write(bytes);
    if (this.#sender.una > 0) this.#sender.output();
    return taken;
  }

  /** So many of the bytes that arrived have been used. */
  used(count: number): void {
    const receiver = this.#receiver;
    if (!receiver) return;
    receiver.used(count);
    // A window that opens by a few bytes at a time is the silly window syndrome. News are sent when they are worth a segment.
    if (RECEIVING.has(this.state) && receiver.growth >= 2 * MSS && receiver.window < receiver.growth) this.#acknowledge();
  }

  /** We shall send no more; what was taken still goes out. */
  finish(): void {
    if (this.#finishing || this.state === 'CLOSED') return;
    this.#finishing = true;
    this.#sender.finish();
    if (this.state === 'ESTABLISHED') this.state = 'FIN-WAIT-1';
    else if (this.state === 'CLOSE-WAIT') this.state = 'LAST-ACK';
    if (this.#sender.una > 0) this.#sender.output();
  }

  /** Ends it at once; the other end is told. */
  abort(): void {
    if (this.state === 'CLOSED') return;
    if (this.state !== 'SYN-SENT' && this.state !== 'TIME-WAIT') this.#emit(this.#sender.max, FLAG.RST | FLAG.ACK, NOTHING);
    this.#close('aborted');
  }

  // ## Out

  #transmit({ position, data, syn, fin }: Transmission): void {
    const flags = (syn ? FLAG.SYN : 0) | (fin ? FLAG.FIN : 0) | (this.#receiver ? FLAG.ACK : 0) | (data.length > 0 ? FLAG.PSH : 0);
    this.#emit(position, flags, data);
  }

  #emit(position: number, flags: number, data: Uint8Array): void {
    const { localPort: sourcePort, remotePort: destinationPort, initial, transmit } = this.#ports;
    const receiver = this.#receiver;
    const syn = (flags & FLAG.SYN) !== 0;
    this.#unacknowledged = 0;
    this.#delay.cancel();
    transmit({
      sourcePort,
      destinationPort,
      sequence: sequenceOf(position, initial),
      acknowledgment: receiver ? sequenceOf(receiver.next, receiver.start) : 0,
      flags,
      window: receiver ? receiver.promise(syn) : 0xffff,
      data,
      // An answer offers what the request did.
      ...(syn && { mss: MSS, windowScale: this.#receiver && !this.#scaled ? null : RECEIVE_SCALE }),
    });
  }

  #acknowledge(): void {
    if (this.#receiver) this.#emit(this.#sender.next, FLAG.ACK, NOTHING);
  }

  #expired(): void {
    this.#sender.expired();
    if (!this.#sender.dead) return;
    this.#emit(this.#sender.max, FLAG.RST | FLAG.ACK, NOTHING);
    this.#close('timeout');
  }

  #close(how: Ending): void {
    if (this.state === 'CLOSED') return;
    this.state = 'CLOSED';
    for (const timer of [this.#retransmission, this.#delay, this.#linger]) timer.cancel();
    this.#ports.onClosed(how);
  }

  // ## In

  /** A segment with this connection's ports. */
  segment(segment: Segment): void {
    switch (this.state) {
      case 'CLOSED':
        return;
      case 'LISTEN': // asked for, and not decided
        if (segment.flags & FLAG.RST && segment.sequence === sequenceOf(1, this.#receiver?.start ?? 0)) this.#close('reset');
        return;
      case 'SYN-SENT':
        this.#answered(segment);
        return;
      default:
        this.#arrived(segment, this.#receiver as Receiver);
    }
  }

  #begin({ sequence, mss = null, windowScale = null, window }: Segment): void {
    this.#scaled = windowScale !== null;
    this.#peerScale = windowScale ?? 0;
    this.#receiver = new Receiver(sequence, this.#scaled);
    this.#sender.mss = mss;
    this.#sender.window = window; // of a SYN, never scaled
    this.#sender.largestWindow = window;
  }

  #answered(segment: Segment): void {
    const { flags } = segment;
    const answers = this.#ackOf(segment) === 1;
    if (flags & FLAG.ACK && !answers) {
      if (!(flags & FLAG.RST)) this.#refuse(segment);
      return;
    }
    if (flags & FLAG.RST) {
      if (answers) this.#close('reset');
      return;
    }
    if (!(flags & FLAG.SYN)) return;
    this.#begin(segment);
    if (!answers) {
      // Both ends have asked at the same moment.
      this.state = 'SYN-RECEIVED';
      this.#sender.next = 0;
      this.#sender.output();
      return;
    }
    this.#sender.acknowledged(1, segment.window, false);
    this.#establish(segment);
    this.#acknowledge();
  }

  #establish(segment: Segment): void {
    this.state = this.#finishing ? 'FIN-WAIT-1' : 'ESTABLISHED';
    this.#news(segment);
    this.#ports.onEstablished();
  }

  #ackOf({ flags, acknowledgment }: Segment): number | null {
    return flags & FLAG.ACK ? positionOf(acknowledgment, this.#ports.initial, this.#sender.max) : null;
  }

  /** Remembers from where the window was last told. */
  #news({ sequence, acknowledgment }: Segment): void {
    const receiver = this.#receiver as Receiver;
    this.#windowFrom = { sequence: receiver.position(sequence), acknowledgment: positionOf(acknowledgment, this.#ports.initial, this.#sender.una) };
  }

  /** A segment that acknowledges what was never sent, at the beginning. */
  #refuse({ acknowledgment }: Segment): void {
    const { localPort: sourcePort, remotePort: destinationPort, transmit } = this.#ports;
    transmit({ sourcePort, destinationPort, sequence: acknowledgment, acknowledgment: 0, flags: FLAG.RST, window: 0, data: NOTHING });
  }

  // ### Is it ours?
  //
  // The test is whether any of the segment lies in the window. A reset must name exactly the next position (RFC 5961); one that only falls into the window
  // might be a guess, and is answered, so that an honest sender can repeat it with the right number.

  // @clause tcp.acceptable
  #arrived(segment: Segment, receiver: Receiver): void {
    const { flags } = segment;
    const at = receiver.position(segment.sequence);
    const length = lengthOf(segment);
    const { window, next } = receiver;
    const shut = window === 0 && at === next;
    const inside = length === 0 ? at >= next && (at < next + window || shut) : (at < next + window && at + length > next) || shut;
    if (!inside) {
      if (flags & FLAG.RST) return;
      if (this.state === 'SYN-RECEIVED' && flags & FLAG.SYN && at === 0) {
        this.#sender.next = 0; // our answer was lost
        this.#sender.output();
        return;
      }
      if (this.state === 'TIME-WAIT') this.#linger.arm(this.#ports.clock.now() + TIME_WAIT_NS);
      this.#acknowledge();
      return;
    }
    // @clause tcp.reset-exact
    if (flags & FLAG.RST) {
      if (at === next) this.#close('reset');
      else this.#acknowledge();
      return;
    }
    if (flags & FLAG.SYN) {
      this.#acknowledge();
      return;
    }
    const position = this.#ackOf(segment);
    if (position === null || !this.#acknowledged(segment, position, at)) return;
    if (shut && length > 0) {
      this.#acknowledge(); // a probe of a window that is still shut
      return;
    }
    if (length > 0) this.#take(segment, receiver, at);
  }

  // ### What it acknowledges

  /** @returns whether there is more to see in the segment */
  #acknowledged(segment: Segment, position: number, at: number): boolean {
    const sender = this.#sender;
    if (this.state === 'SYN-RECEIVED') {
      if (position < 1 || position > sender.max) {
        this.#refuse(segment);
        return false;
      }
      sender.acknowledged(Math.max(1, position), segment.window * 2 ** this.#peerScale, false);
      this.#establish(segment);
      return this.#alive;
    }
    // What was never sent, or lies so far back that it must be invented (RFC 5961).
    if (position > sender.max || position < sender.una - Math.max(sender.largestWindow, 0xffff)) {
      this.#acknowledge();
      return false;
    }
    if (position < sender.una) return true; // old, but what it carries may be new
    const { sequence, acknowledgment } = this.#windowFrom;
    const newer = at > sequence || (at === sequence && position >= acknowledgment);
    const window = newer ? segment.window * 2 ** this.#peerScale : sender.window;
    if (newer) this.#windowFrom = { sequence: at, acknowledgment: position };
    const { room } = sender;
    sender.acknowledged(position, window, lengthOf(segment) === 0);
    if (sender.finished) this.#finishAcknowledged();
    if (this.#alive && sender.room > room) this.#ports.onRoom();
    return this.#alive;
  }

  // Asked as a question, since the owner may have ended the connection in between.
  get #alive(): boolean {
    return this.state !== 'CLOSED';
  }

  #finishAcknowledged(): void {
    if (this.state === 'FIN-WAIT-1') this.state = 'FIN-WAIT-2';
    else if (this.state === 'CLOSING') this.#waitForStragglers();
    else if (this.state === 'LAST-ACK') this.#close('finished');
  }

  // ### What it carries

  #take({ data, flags }: Segment, receiver: Receiver, at: number): void {
    if (!RECEIVING.has(this.state)) {
      this.#acknowledge(); // it has ended already, and says so again
      return;
    }
    const disorder = receiver.hasGap || at !== receiver.next;
    const ready = receiver.accept(at, data, (flags & FLAG.FIN) !== 0);
    for (const bytes of ready) {
      this.#unacknowledged += bytes.length;
      this.#ports.onData(bytes);
      if (!this.#alive) return;
    }
    // @clause tcp.ack-out-of-order
    if (receiver.finished || disorder || this.#unacknowledged >= UNACKNOWLEDGED_BYTES) this.#acknowledge();
    else if (this.#unacknowledged > 0 && this.#delay.at === null) this.#delay.arm(this.#ports.clock.now() + DELAY_NS);
    if (receiver.finished) this.#ended();
  }

  #ended(): void {
    if (this.state === 'ESTABLISHED') this.state = 'CLOSE-WAIT';
    else if (this.state === 'FIN-WAIT-1') this.state = 'CLOSING';
    else if (this.state === 'FIN-WAIT-2') this.#waitForStragglers();
    this.#ports.onEnd();
  }

  // Whoever ended first keeps the connection for a while: the other end may not have heard that its end was heard, and segments of the past must not
  // fall into a new connection with the same ports.
  #waitForStragglers(): void {
    this.state = 'TIME-WAIT';
    this.#linger.arm(this.#ports.clock.now() + TIME_WAIT_NS);
  }

  /** Whether a new request with the same ports may take this one's place: what is left of it only waits (RFC 1122). */
  yieldsTo({ sequence, flags }: Segment): boolean {
    const receiver = this.#receiver;
    const fresh = (flags & (FLAG.SYN | FLAG.RST | FLAG.ACK)) === FLAG.SYN;
    return this.state === 'TIME-WAIT' && fresh && receiver !== null && receiver.position(sequence) >= receiver.next;
  }

  /** Ends it without a word to anybody. */
  forget(): void {
    this.state = 'CLOSED';
    for (const timer of [this.#retransmission, this.#delay, this.#linger]) timer.cancel();
  }
}
