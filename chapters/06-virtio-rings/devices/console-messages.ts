// # What a console's driver and device say to each other
//
// The bytes that people type and read travel in queues of their own. Everything *about* a port (that it exists, what it is called, that somebody is
// at the other end) is a message of eight bytes, sometimes with more behind it, in a pair of control queues that all ports share.
//
// ::layout VirtioConsoleConfig -- the configuration space of a console
//
// ::layout VirtioConsoleControl -- a control message, in either direction

import { layout, u16le, u32le } from '../../01-hardware-background/layout.ts';

/** Features of a console, by the specification's names without VIRTIO_CONSOLE_F_; values are bit numbers. */
export const CONSOLE_F = { SIZE: 0, MULTIPORT: 1, EMERG_WRITE: 2 } as const;

/** struct virtio_console_config (virtio, "Console Device", "Device configuration layout"). */
export const VirtioConsoleConfig = layout('virtio_console_config', {
  cols: u16le(0), // of port 0; valid with SIZE
  rows: u16le(2),
  max_nr_ports: u32le(4), // valid with MULTIPORT
  emerg_wr: u32le(8), // valid with EMERG_WRITE; the lowest byte is a character
});

/** struct virtio_console_control (virtio, "Multiport Device Operation"). */
export const VirtioConsoleControl = layout('virtio_console_control', {
  id: u32le(0), // port number
  event: u16le(4),
  value: u16le(6),
});

/** Values of `event`, by the specification's names without VIRTIO_CONSOLE_. */
// biome-ignore format: table
export const CONSOLE_EVENT = {
  DEVICE_READY: 0,   // driver: it can take messages (value 1), or it has failed (0)
  DEVICE_ADD: 1,     // device: this port exists now
  DEVICE_REMOVE: 2,  // device: and now it does not
  PORT_READY: 3,     // driver: it has made the port's queues (1), or it has failed (0)
  CONSOLE_PORT: 4,   // device: the port is for people
  RESIZE: 5,         // device: the size of their window; two numbers follow
  PORT_OPEN: 6,      // both: somebody is at my end (1), or nobody (0)
  PORT_NAME: 7,      // device: a name follows, to the end of the buffer
} as const;

export type ConsoleEvent = (typeof CONSOLE_EVENT)[keyof typeof CONSOLE_EVENT];

// The two numbers behind RESIZE are a warning to writers of specifications and of drivers. The text has always had the columns first, as the
// configuration space has. Linux' `virtio_console.c` has read the rows first since 2010. For years no device sent the message, so nobody noticed;
// when devices began to, the driver was changed to follow the text (5326ab737a47, in 6.15), then changed back because devices had meanwhile learnt
// its order. A device cannot tell which driver it has. Ours keeps to the text unless it is told otherwise.

/** In which order RESIZE has its two numbers. */
export type ResizeOrder = 'cols, rows' | 'rows, cols';

/** struct virtio_console_resize (virtio, "Multiport Device Operation"). */
export const VirtioConsoleResize = layout('virtio_console_resize', { cols: u16le(0), rows: u16le(2) });

/** What Linux has read, in most of its versions. */
const LinuxConsoleResize = layout('virtio_console_resize as Linux reads it', { rows: u16le(0), cols: u16le(2) });

/** How large a window is, in characters. */
export interface WindowSize {
  readonly cols: number;
  readonly rows: number;
}

/** A control message with what follows it. */
export function encodeControl(id: number, event: ConsoleEvent, value: number, extra: Uint8Array = new Uint8Array(0)): Uint8Array {
  const message = new Uint8Array(VirtioConsoleControl.bytes + extra.length);
  message.set(VirtioConsoleControl.encode({ id, event, value }));
  message.set(extra, VirtioConsoleControl.bytes);
  return message;
}

export const encodeResize = ({ cols, rows }: WindowSize, order: ResizeOrder): Uint8Array =>
  (order === 'cols, rows' ? VirtioConsoleResize : LinuxConsoleResize).encode({ cols, rows });

/** The longest beginning of `name` that fits, cut between characters. */
export function fitName(name: Uint8Array, bytes: number): Uint8Array {
  if (name.length <= bytes) return name;
  let end = bytes;
  while (end > 0 && ((name[end] as number) & 0xc0) === 0x80) end--; // a continuation byte of UTF-8
  return name.subarray(0, end);
}
