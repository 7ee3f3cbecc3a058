// # The exit timeline
//
// Three lanes, one per mode: guest, kernel, user; and one more for what virtio devices do, in a guest that has any. A line runs in the lane of
// whoever has the processor and crosses where it changes hands: that is all virtualization is, seen from the side. Positions are either the
// crossings' order (each takes the same room) or virtual time. Time in this book is guest instructions, so by time mostly the guest's lane has any
// length; the others have where time passes without any: a machine that sleeps, a device of the VMM's that takes its microsecond.
//
// Only what is in view is drawn, on a canvas that stays put while a spacer scrolls beneath it; so a million crossings cost no more than a screenful.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import { DeviceLane, drawMark, firstWhere, isRingEvent, offsetOf, type RingMark } from './device-lane.ts';

export type Lane = 0 | 1 | 2; // guest, kernel, user
export type Axis = 'order' | 'time';

/** A change of lane. `index` is the event's place in the trace. */
export interface Crossing {
  readonly index: number;
  readonly from: Lane;
  readonly to: Lane;
  readonly event: Timed;
}

/** Something that happened in a lane without leaving it. `after` is how many crossings came before. */
export interface Mark {
  readonly index: number;
  readonly lane: Lane;
  readonly after: number;
  readonly event: Timed;
}

const MARKED = new Set([
  'exception',
  'interrupt',
  'mode',
  'triple_fault',
  'kvm_pio',
  'kvm_mmio',
  'kvm_page_fault',
  'kvm_inj_virq',
  'kvm_pic_set_irq',
  'kvm_ioapic_set_irq',
  'kvm_msi_set_irq',
  'kvm_apic_accept_irq',
  'kvm_apic_ipi',
  'kvm_eoi',
  'kvm_fast_mmio',
  'kvm_vcpu_wakeup',
  'console',
  'device',
]);

/** Crossings and marks of a growing trace. */
export class Lanes {
  readonly crossings: Crossing[] = [];
  readonly marks: Mark[] = [];
  readonly device = new DeviceLane();
  lane: Lane = 2;

  add(event: Timed, index: number): void {
    const to: Lane | null = event.kind === 'kvm_entry' ? 0 : event.kind === 'kvm_exit' ? 1 : event.kind === 'kvm_userspace_exit' ? 2 : null;
    if (to !== null && to !== this.lane) {
      this.crossings.push({ index, from: this.lane, to, event });
      this.lane = to;
    } else if (isRingEvent(event)) {
      this.device.add(event, index, this.crossings.length);
    } else if (MARKED.has(event.kind)) {
      this.marks.push({ index, lane: this.lane, after: this.crossings.length, event });
    }
  }
}

const TOP = 26;
const LANE_HEIGHT = 46;
const PAD = 24;
const DEVICE_LANE = 3;
const laneY = (lane: number): number => TOP + lane * LANE_HEIGHT + LANE_HEIGHT / 2;

// By time, what a device does in one turn takes none: its marks stand side by side.
const TURN = 7;
const MOST_TURNS = 8;

const LEAST_STEP = 1.5;
const USUAL_STEP = 40;
const MOST_STEP = 160;
const MOST_WIDTH = 8_000_000; // browsers lose precision beyond

export class Timeline {
  readonly #track: HTMLElement;
  readonly #wide: HTMLElement;
  readonly #canvas: HTMLCanvasElement;
  readonly #deviceName: HTMLElement;
  #lanes = new Lanes();
  #axis: Axis = 'order';
  #step = USUAL_STEP; // pixels per crossing, or per instruction
  #now = 0; // instructions retired
  #selected: number | null = null; // index of an event
  #together: ReadonlySet<number> = new Set(); // events that belong to one buffer
  #drawing = false;
  #follow = true;
  onSelect: (index: number) => void = () => {};

  /** @param deviceName  the name of the lane that not every guest has */
  constructor(track: HTMLElement, deviceName: HTMLElement) {
    this.#track = track;
    this.#deviceName = deviceName;
    this.#wide = track.querySelector('.wide') as HTMLElement;
    this.#canvas = track.querySelector('canvas') as HTMLCanvasElement;
    track.addEventListener('scroll', () => {
      this.#follow = track.scrollLeft + track.clientWidth >= track.scrollWidth - 4;
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(track);
    document.documentElement.addEventListener('themechange', () => this.draw());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
    this.#canvas.addEventListener('click', (event) => this.#pick(event.offsetX, event.offsetY));
    track.addEventListener('keydown', (event) => this.#key(event));
    track.addEventListener(
      'wheel',
      (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        this.zoom(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - track.getBoundingClientRect().left);
      },
      { passive: false },
    );
  }

  clear(): void {
    this.#lanes = new Lanes();
    this.#selected = null;
    this.#together = new Set();
    this.#now = 0;
    this.#follow = true;
    this.draw();
  }

  add(events: readonly Timed[], from: number, now: number): void {
    events.forEach((event, n) => {
      this.#lanes.add(event, from + n);
    });
    this.#now = now;
    this.draw();
  }

  get selected(): number | null {
    return this.#selected;
  }

  /** Marks the event, and those that belong to the same buffer, and brings it into view. */
  select(index: number | null, together: Iterable<number> = []): void {
    this.#selected = index;
    this.#together = new Set(together);
    const x = index === null ? null : this.#xOf(index);
    if (x !== null) {
      this.#follow = false; // the chosen event stays in view, not the end
      const { scrollLeft, clientWidth } = this.#track;
      if (x < scrollLeft + 40 || x > scrollLeft + clientWidth - 40) this.#track.scrollLeft = x - clientWidth / 2;
    }
    this.draw();
  }

  set axis(axis: Axis) {
    this.#axis = axis;
    this.fit();
  }

  zoom(factor: number, around = this.#track.clientWidth / 2): void {
    const place = (this.#track.scrollLeft + around - PAD) / this.#step;
    this.#step = this.#clamp(this.#step * factor);
    this.#follow = false;
    this.#stretch(); // now, since a browser scrolls no further than there is to see
    this.#track.scrollLeft = place * this.#step + PAD - around;
    this.draw();
  }

  /** Shows everything, as far as crossings stay at least `least` pixels apart. */
  fit(least = 0): void {
    this.#step = this.#clamp(Math.max(least, Math.min(USUAL_STEP, (this.#track.clientWidth - 2 * PAD) / Math.max(1, this.#length()))));
    this.#follow = true;
    this.draw();
  }

  #clamp(step: number): number {
    const least = this.#axis === 'order' ? LEAST_STEP : 1e-6;
    return Math.max(least, Math.min(MOST_STEP, step, MOST_WIDTH / Math.max(1, this.#length())));
  }

  /** Extent in units of the axis. */
  #length(): number {
    return this.#axis === 'order' ? this.#lanes.crossings.length + 1 : this.#now;
  }

  /** Left edge of crossing number `n` in scrolled space. */
  #x(n: number): number {
    const crossing = this.#lanes.crossings[n];
    const unit = this.#axis === 'order' ? n + 0.5 : (crossing?.event.t ?? this.#now);
    return PAD + unit * this.#step;
  }

  /** Where an event stands that is a crossing or a device's; null for any other. */
  #xOf(index: number): number | null {
    const { crossings, device } = this.#lanes;
    const at = firstWhere(crossings.length, (n) => (crossings[n] as Crossing).index >= index);
    if (crossings[at]?.index === index) return this.#x(at);
    const mark = device.marks[device.from(index)];
    return mark?.index === index ? this.#ringX(mark) : null;
  }

  #ringX(mark: RingMark): number {
    if (this.#axis === 'time') return PAD + mark.event.t * this.#step + Math.min(mark.turn, MOST_TURNS) * TURN;
    return PAD + this.#lanes.device.order(mark) * this.#step;
  }

  get #height(): number {
    return TOP + (this.#lanes.device.marks.length > 0 ? 4 : 3) * LANE_HEIGHT;
  }

  #markX(mark: Mark): number {
    if (this.#axis === 'time') return PAD + mark.event.t * this.#step;
    return PAD + mark.after * this.#step; // half-way between two crossings
  }

  /** First crossing at or right of `x`. */
  #firstFrom(x: number): number {
    return firstWhere(this.#lanes.crossings.length, (n) => this.#x(n) >= x);
  }

  #pick(x: number, y: number): void {
    const at = this.#track.scrollLeft + x;
    const { marks } = this.#lanes.device;
    if (y > laneY(DEVICE_LANE) - LANE_HEIGHT / 2 && marks.length > 0) {
      const right = firstWhere(marks.length, (n) => this.#ringX(marks[n] as RingMark) >= at);
      const near = [marks[right - 1], marks[right]].filter((mark) => mark !== undefined);
      near.sort((a, b) => Math.abs(this.#ringX(a) - at) - Math.abs(this.#ringX(b) - at));
      if (near[0]) this.onSelect(near[0].index);
      return;
    }
    const next = this.#firstFrom(at);
    const candidates = [next - 1, next].filter((n) => n >= 0 && n < this.#lanes.crossings.length);
    candidates.sort((a, b) => Math.abs(this.#x(a) - at) - Math.abs(this.#x(b) - at));
    const chosen = this.#lanes.crossings[candidates[0] ?? -1];
    if (chosen) this.onSelect(chosen.index);
  }

  #key(event: KeyboardEvent): void {
    const { crossings, device } = this.#lanes;
    const selected = this.#selected ?? -1;
    const inDevice = device.marks[device.from(selected)]?.index === selected;
    const row: readonly { readonly index: number }[] = inDevice ? device.marks : crossings;
    const at = firstWhere(row.length, (n) => (row[n] as Crossing).index >= selected);
    const on = row[at]?.index === selected;
    // Up and down change between the processors' lanes and the devices'.
    const across = inDevice
      ? crossings[Math.max(0, firstWhere(crossings.length, (n) => (crossings[n] as Crossing).index > selected) - 1)]
      : undefined;
    const chosen = {
      ArrowLeft: row[selected < 0 ? row.length - 1 : at - 1],
      ArrowRight: row[on ? at + 1 : at],
      Home: row[0],
      End: row.at(-1),
      ArrowUp: across,
      ArrowDown: inDevice ? undefined : (device.marks[device.from(selected)] ?? device.marks.at(-1)),
    }[event.key];
    if (!chosen) return;
    event.preventDefault();
    this.onSelect(chosen.index);
  }

  /** Draws at the next frame, once. */
  draw(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#paint();
    });
  }

  /** Makes the scrolled space as wide as what is in it. */
  #stretch(): void {
    this.#wide.style.width = `${Math.max(this.#track.clientWidth, 2 * PAD + this.#length() * this.#step)}px`;
  }

  #paint(): void {
    const track = this.#track;
    const width = track.clientWidth;
    this.#stretch();
    if (this.#follow) track.scrollLeft = track.scrollWidth;
    const height = this.#height;
    this.#deviceName.hidden = this.#lanes.device.marks.length === 0;
    track.style.minHeight = `${height + 17}px`; // and a scroll bar
    const scale = devicePixelRatio || 1;
    const canvas = this.#canvas;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext('2d');
    if (!context) return;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const colours = [colour('--guest'), colour('--kernel'), colour('--user')] as const;
    const left = track.scrollLeft;

    context.font = `11px ${colour('--sans')}`;
    context.textBaseline = 'middle';
    for (let lane = 0; laneY(lane) < height; lane++) {
      context.fillStyle = colour('--paper-2');
      context.fillRect(0, laneY(lane) - LANE_HEIGHT / 2 + 3, width, LANE_HEIGHT - 6);
    }
    this.#paintLine(context, left, width, colours);
    this.#paintMarks(context, left, width, colours, colour('--paper'));
    this.#paintDevice(context, left, width, colour('--device'), colour('--paper'));
    this.#paintLabels(context, left, width, colour('--ink-2'), colour('--ink'));
    this.#paintScale(context, left, width, height, colour('--ink-3'));
  }

  #paintLine(context: CanvasRenderingContext2D, left: number, width: number, colours: readonly [string, string, string]): void {
    const { crossings } = this.#lanes;
    const end = PAD + (this.#axis === 'order' ? crossings.length : this.#now) * this.#step;
    const first = Math.max(0, this.#firstFrom(left) - 1);
    let lane: Lane = crossings[first]?.from ?? this.#lanes.lane;
    let x = first === 0 ? PAD : this.#x(first - 1);
    context.lineWidth = 3;
    const along = (to: number): void => {
      context.strokeStyle = colours[lane];
      context.beginPath();
      context.moveTo(x - left, laneY(lane));
      context.lineTo(Math.max(to, x + 0.5) - left, laneY(lane));
      context.stroke();
    };
    for (let n = first; n < crossings.length; n++) {
      const crossing = crossings[n] as Crossing;
      const to = this.#x(n);
      along(to);
      context.lineWidth = crossing.index === this.#selected ? 3 : 1.25;
      context.strokeStyle = colours[crossing.to > crossing.from ? crossing.to : crossing.from];
      context.beginPath();
      context.moveTo(to - left, laneY(crossing.from));
      context.lineTo(to - left, laneY(crossing.to));
      context.stroke();
      context.lineWidth = 3;
      lane = crossing.to;
      x = to;
      if (to > left + width) return;
    }
    along(end);
  }

  #paintMarks(context: CanvasRenderingContext2D, left: number, width: number, colours: readonly [string, string, string], paper: string): void {
    const { marks } = this.#lanes;
    const low = firstWhere(marks.length, (n) => this.#markX(marks[n] as Mark) >= left - 8); // marks are in order of position too
    let [lastX, row] = [-1e9, 0];
    for (let n = low; n < marks.length; n++) {
      const mark = marks[n] as Mark;
      const x = this.#markX(mark);
      if (x > left + width + 8) break;
      row = Math.abs(x - lastX) < 5 ? (row + 1) % 4 : 0; // several in one place stand side by side
      lastX = x;
      context.beginPath();
      context.arc(x - left + row * 6 - 3, laneY(mark.lane), mark.index === this.#selected ? 4.5 : 3, 0, 2 * Math.PI);
      context.fillStyle = mark.event.kind === 'exception' || mark.event.kind === 'triple_fault' ? colours[2] : paper;
      context.fill();
      context.lineWidth = 1.25;
      context.strokeStyle = colours[mark.lane];
      context.stroke();
    }
  }

  #paintDevice(context: CanvasRenderingContext2D, left: number, width: number, ink: string, paper: string): void {
    const { device } = this.#lanes;
    const { marks } = device;
    const y = laneY(DEVICE_LANE);
    // The way of the chosen buffer.
    const way = [...this.#together].flatMap((index) => marks[device.from(index)] ?? []).filter(({ index }) => this.#together.has(index));
    context.lineWidth = 3;
    context.strokeStyle = ink;
    context.globalAlpha = 0.35;
    context.beginPath();
    for (const mark of way) context.lineTo(this.#ringX(mark) - left, y + offsetOf(mark.event));
    context.stroke();
    context.globalAlpha = 1;
    for (let n = firstWhere(marks.length, (at) => this.#ringX(marks[at] as RingMark) >= left - 8 - MOST_TURNS * TURN); n < marks.length; n++) {
      const mark = marks[n] as RingMark;
      const x = this.#ringX(mark) - left;
      if (x > width + 8) return;
      drawMark(context, x, y, mark.event, ink, paper, mark.index === this.#selected || this.#together.has(mark.index));
    }
  }

  #paintLabels(context: CanvasRenderingContext2D, left: number, width: number, ink: string, strong: string): void {
    const { crossings } = this.#lanes;
    let free = -1e9;
    for (let n = this.#firstFrom(left - 160); n < crossings.length; n++) {
      const crossing = crossings[n] as Crossing;
      const x = this.#x(n) - left;
      if (x > width) return;
      const chosen = crossing.index === this.#selected;
      if (crossing.event.kind !== 'kvm_exit' && !chosen) continue;
      const text = crossing.event.kind === 'kvm_exit' || crossing.event.kind === 'kvm_userspace_exit' ? crossing.event.reason : 'VM entry';
      if (x < free && !chosen) continue;
      context.fillStyle = chosen ? strong : ink;
      context.fillText(text, x + 2, 10);
      free = x + context.measureText(text).width + 12;
    }
  }

  #paintScale(context: CanvasRenderingContext2D, left: number, width: number, height: number, ink: string): void {
    if (this.#axis !== 'time' || this.#now === 0) return;
    const rough = 90 / this.#step;
    const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
    const tick = Math.max(1, [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? 10 * power);
    context.fillStyle = ink;
    for (let n = Math.ceil(Math.max(0, (left - PAD) / this.#step) / tick) * tick; n <= this.#now; n += tick) {
      const x = PAD + n * this.#step - left;
      if (x > width) return;
      context.fillRect(x, height - 7, 1, 6);
      context.fillText(n.toLocaleString('en').replace(/,/g, '\u202f'), x + 3, height - 5);
    }
  }
}
