// # Time
//
// Everything that happens by itself in a machine happens at a time: a timer fires, a disk answers, a byte leaves a serial port. In a real VMM that
// time is the host's, and no two runs are alike. Here whoever needs it asks a `Clock`, and there are two: the host's, and a *virtual* one that
// counts what the modelled processor has done. On the second a run repeats to the last interrupt.
//
// Times are nanoseconds since the clock began, as numbers: exact for a hundred days.

/** One alarm of one device. */
export interface Timer {
  /** Fires once, at `at` or as soon after as anyone looks. Arming again moves it. A device that wants a period arms again when it fires. */
  arm(at: number): void;
  cancel(): void;
  /** When it will fire; null when it is not armed. */
  readonly at: number | null;
  /** How many armed timers of its clock fire before it. */
  readonly rank: number;
}

export interface Clock {
  /** Nanoseconds. */
  now(): number;
  timer(fire: () => void): Timer;
}

class QueuedTimer implements Timer {
  at: number | null = null;
  /** Timers of one moment fire in the order in which they were armed. */
  order = 0;
  readonly fire: () => void;
  readonly #queue: TimerQueue;

  constructor(queue: TimerQueue, fire: () => void) {
    this.#queue = queue;
    this.fire = fire;
  }
  arm(at: number): void {
    this.#queue.insert(this, at);
  }
  cancel(): void {
    this.#queue.remove(this);
  }
  get rank(): number {
    return this.at === null ? 0 : this.#queue.rankOf(this);
  }
}

/** Timers over any source of time. Whoever owns the source calls {@link runDue} when {@link next} has come. */
export class TimerQueue implements Clock {
  readonly now: () => number;
  /** Told when the earliest moment changes. */
  readonly #changed: (next: number | null) => void;
  readonly #armed: QueuedTimer[] = []; // sorted; a machine has a dozen
  #order = 0;

  constructor(now: () => number, changed: (next: number | null) => void = () => {}) {
    this.now = now;
    this.#changed = changed;
  }

  timer(fire: () => void): Timer {
    return new QueuedTimer(this, fire);
  }

  /** The earliest armed moment, or null. */
  get next(): number | null {
    return this.#armed[0]?.at ?? null;
  }

  /** How many armed timers fire before this one. */
  rankOf(timer: QueuedTimer): number {
    return this.#armed.indexOf(timer);
  }

  /** How many timers are armed. */
  get armed(): number {
    return this.#armed.length;
  }

  // A timer that arms itself again for a moment already past would keep this loop for ever, so each call takes only those that were due when it began.
  /** Fires what is due. Returns how many timers that were. */
  runDue(): number {
    const now = this.now();
    let due = 0;
    while (due < this.#armed.length && ((this.#armed[due] as QueuedTimer).at as number) <= now) due++;
    if (due === 0) return 0;
    const firing = this.#armed.splice(0, due);
    for (const timer of firing) timer.at = null;
    let fired = 0;
    for (const timer of firing) {
      if (timer.at !== null) continue; // armed again by one that fired before it
      timer.fire();
      fired++;
    }
    this.#changed(this.next);
    return fired;
  }

  insert(timer: QueuedTimer, at: number): void {
    const before = this.next;
    this.#take(timer);
    timer.at = at;
    timer.order = this.#order++;
    let index = this.#armed.length;
    while (index > 0 && ((this.#armed[index - 1] as QueuedTimer).at as number) > at) index--;
    this.#armed.splice(index, 0, timer);
    if (this.next !== before) this.#changed(this.next);
  }

  remove(timer: QueuedTimer): void {
    const before = this.next;
    this.#take(timer);
    if (this.next !== before) this.#changed(this.next);
  }

  #take(timer: QueuedTimer): void {
    if (timer.at === null) return;
    this.#armed.splice(this.#armed.indexOf(timer), 1);
    timer.at = null;
  }
}
