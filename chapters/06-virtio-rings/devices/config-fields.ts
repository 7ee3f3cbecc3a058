// # A configuration space from a table
//
// A few bytes that both sides may read and the driver may sometimes write: that is all the register space a virtio device has of its own. Each type
// of device declares it as a layout, from which the site draws it, and names the fields that a driver may write.
//
// What is written is not always written at once. A legacy driver goes through port I/O one byte at a time, so a field of four bytes has three moments
// at which it is half old and half new. Each writable field therefore says which of its bytes *completes* it: the highest for a number, which drivers
// write last, the lowest for a register of which only the lowest byte counts.

import type { Fields, Layout } from '../../01-hardware-background/layout.ts';
import type { ConfigFields } from '../device.ts';

/** What happens when a driver has written a field. */
interface WritableField {
  /** The byte whose arrival completes the field. */
  readonly completedBy: 'lowest byte' | 'highest byte';
  /** Called with the field's value as it then is. */
  readonly written: () => void;
  /** Whether it may be written at this moment; always, when absent. */
  readonly allowed?: () => boolean;
}

/** Which fields of a layout a driver may write. */
type WritableFields<F extends Fields> = Readonly<Partial<Record<keyof F, WritableField>>>;

/** The bytes of a {@link Layout} as a configuration space. Whatever lies outside reads as zero and swallows writes. */
export class ConfigSpace<F extends Fields> implements ConfigFields {
  /** How much of the layout this device has: a device that lacks a feature may end before the fields that belong to it. */
  readonly bytes: number;
  readonly layout: Layout<F>;
  readonly view: DataView;
  readonly #writable: WritableFields<F>;

  constructor(layout: Layout<F>, writable: WritableFields<F>, bytes = layout.bytes) {
    this.layout = layout;
    this.bytes = bytes;
    this.view = new DataView(new ArrayBuffer(layout.bytes));
    this.#writable = writable;
  }

  read(offset: number, width: 1 | 2 | 4): number {
    let value = 0;
    for (let byte = width - 1; byte >= 0; byte--) value = value * 256 + (this.#inside(offset + byte) ? this.view.getUint8(offset + byte) : 0);
    return value;
  }

  // Each byte goes where it belongs, and only then are the fields told: a write of four bytes is one event, even when it covers two fields.

  write(offset: number, width: 1 | 2 | 4, value: number): void {
    const completed: WritableField[] = [];
    for (const [name, rule] of Object.entries(this.#writable) as [keyof F, WritableField][]) {
      const field = this.layout.fields[name];
      if (field === undefined || rule.allowed?.() === false) continue;
      const from = Math.max(offset, field.offset);
      const to = Math.min(offset + width, field.offset + field.bytes, this.bytes);
      if (from >= to) continue;
      for (let at = from; at < to; at++) this.view.setUint8(at, Math.floor(value / 2 ** (8 * (at - offset))) & 0xff);
      const completing = rule.completedBy === 'lowest byte' ? field.offset : field.offset + field.bytes - 1;
      if (from <= completing && completing < to) completed.push(rule);
    }
    for (const { written } of completed) written();
  }

  #inside(offset: number): boolean {
    return offset >= 0 && offset < this.bytes;
  }
}

/** Of a type of device that has nothing to configure. */
export const NO_CONFIG: ConfigFields = { bytes: 0, read: () => 0, write() {} };
