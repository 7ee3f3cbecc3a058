// # The host, as far as it can be reached
//
// Everything up to here was arithmetic on bytes, and gives the same result in every run. Behind this interface begins the world: programs on the host that answer
// when they like. Only their bytes, and when they arrive, are not determined. Where there are no sockets, in a browser or in a network that is closed, there
// is no such input.
//
// All of it is one address, the host's own, 127.0.0.1. A guest is a program that nobody has looked at, and the networks that its host is connected to are
// none of its business.

/** One connection, seen from here. */
export interface HostStream {
  /** Set by whoever uses it. */
  onConnect: () => void;
  onData: (bytes: Uint8Array) => void;
  /** The program at the other end will send no more. */
  onEnd: () => void;
  /** It is gone, both ways; nothing else comes after this. `whole` tells that both ends had finished. */
  onClose: (whole: boolean) => void;
  /** Sends; `done` is called when the host has taken the bytes. One at a time. */
  write(bytes: Uint8Array, done: () => void): void;
  /** We shall send no more. */
  end(): void;
  /** Nothing more is wanted until {@link resume}. */
  pause(): void;
  resume(): void;
  /** Ends it both ways, at once. */
  destroy(): void;
}

/** A socket for datagrams. */
export interface HostDatagrams {
  /** What came, from which port of the host. */
  onMessage: (bytes: Uint8Array, port: number) => void;
  send(bytes: Uint8Array, port: number): void;
}

/** Something at a port of the host that others may use. */
export interface HostPort {
  /** Rejected with one line when the port cannot be had. */
  readonly ready: Promise<void>;
  close(): void;
}

export interface HostSockets {
  /** Connects to a program on the host. */
  connect(port: number): HostStream;
  /** Waits for connections of programs on the host. Nothing is read from one before {@link HostStream.resume}. */
  listen(port: number, onStream: (stream: HostStream) => void): HostPort;
  /** A socket for datagrams at a port, or at any. */
  datagrams(port?: number): HostDatagrams & HostPort;
}
