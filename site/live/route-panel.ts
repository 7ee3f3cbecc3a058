// # The route of one access, on the page
//
// Four columns, one for each world that an access passes through, and one row for each stop. The reader goes from stop to stop; what lies ahead is pale. The
// stops are made where the trace is, by chapter 5's own module; here they are only set out.

import type { Route, Stop, World } from '../../chapters/05-pio-mmio/route.ts';
import './route.css';
import type { Report } from './protocol.ts';
import { decodeQualification } from './words.ts';

type RouteReport = Extract<Report, { say: 'route' }>;

const WORLDS: readonly World[] = ['guest', 'processor', 'kernel', 'user'];
const NAMES: Readonly<Record<World, string>> = { guest: 'guest', processor: 'processor', kernel: 'kernel', user: 'user space' };
const get = <T extends HTMLElement>(id: string): T => {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
};
const hex = (n: number | bigint): string => `0x${n.toString(16)}`;
const times = (n: number): string => `${n} ${n === 1 ? 'time' : 'times'}`;

/** One sentence about a route: what was wanted, who settled it, and how it compares. */
function about({ route, same, all }: RouteReport): string {
  const total = all.kernel + all.user;
  const share = `Of ${total} exits, ${all.kernel} were settled in the kernel and ${all.user} in user space.`;
  if (!route) return `This event belongs to no exit: it happened inside the guest, or before it ran. ${share}`;
  const who = route.settledBy === 'user' ? 'User space settled it' : 'The kernel settled it';
  if (!route.access) return `${route.reason}: no access to a device. ${who}. ${share}`;
  const { write, space, address, bytes, value } = route.access;
  const what = `${write ? 'Write' : 'Read'} of ${bytes === 0 ? 'any width' : `${bytes} ${bytes === 1 ? 'byte' : 'bytes'}`}`;
  const where = `${space === 'port' ? 'port' : 'address'} ${hex(address)}, value ${hex(value)}`;
  const often = same.kernel + same.user;
  const far = same.user === often ? 'always' : same.user === 0 ? 'never' : `${times(same.user)}`;
  return `${what}, ${where}. ${who}. The guest has been there ${times(often)} so far, ${far} as far as user space. ${share}`;
}

export class RoutePanel {
  /** The reader wants a route: of the event's exit, or of a neighbouring access. */
  onAsk: (event: number, step: -1 | 0 | 1) => void = () => {};
  /** The reader has come to a stop that is an event of the trace. */
  onStop: (event: number) => void = () => {};
  /** The event chosen on the page. */
  chosen: number | null = null;
  readonly #stops = get<HTMLOListElement>('route-stops');
  readonly #about = get('route-about');
  readonly #idle = this.#about.textContent ?? '';
  readonly #buttons = {
    before: get<HTMLButtonElement>('route-before'),
    after: get<HTMLButtonElement>('route-after'),
    back: get<HTMLButtonElement>('route-back'),
    on: get<HTMLButtonElement>('route-on'),
  };
  #route: Route | null = null;
  #at = 0;

  constructor() {
    this.#buttons.before.addEventListener('click', () => this.onAsk(this.#from, -1));
    this.#buttons.after.addEventListener('click', () => this.onAsk(this.#from, 1));
    this.#buttons.back.addEventListener('click', () => this.#go(this.#at - 1));
    this.#buttons.on.addEventListener('click', () => this.#go(this.#at + 1));
    this.#stops.addEventListener('click', (event) => {
      const button = (event.target as Element).closest<HTMLElement>('button[data-stop]');
      if (button) this.#go(Number(button.dataset.stop), true);
    });
    this.#stops.addEventListener('keydown', (event) => {
      const last = (this.#route?.stops.length ?? 1) - 1;
      const to = { ArrowDown: this.#at + 1, ArrowRight: this.#at + 1, ArrowUp: this.#at - 1, ArrowLeft: this.#at - 1, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.#go(to, true);
    });
    this.clear();
  }

  /** Single letters that press this panel's buttons. */
  get keys(): Readonly<Record<string, HTMLButtonElement>> {
    return { b: this.#buttons.before, n: this.#buttons.after };
  }

  get #from(): number {
    return this.#route?.from ?? this.chosen ?? -1;
  }

  clear(): void {
    this.#route = null;
    this.chosen = null;
    this.#stops.replaceChildren();
    this.#about.textContent = this.#idle;
    this.enable(false);
  }

  /** Whether there is anything to follow. */
  enable(any: boolean): void {
    this.#buttons.before.disabled = !any;
    this.#buttons.after.disabled = !any;
    this.#showStep();
  }

  show(report: RouteReport): void {
    const { route, step } = report;
    if (!route && step !== 0) {
      this.#about.textContent = step > 0 ? 'The guest has made no access after this one yet.' : 'There is no access before this one.';
      return;
    }
    this.#route = route;
    this.#about.textContent = about(report);
    this.#stops.replaceChildren(...(route?.stops ?? []).map((stop, n) => this.#row(stop, n, route?.stops[n - 1])));
    const first = route && step === 0 ? route.stops.findIndex(({ event }) => event !== null && event === this.chosen) : 0;
    this.#at = -1;
    this.#go(Math.max(0, first), false, step !== 0);
  }

  #row({ world, title, detail }: Stop, n: number, before: Stop | undefined): HTMLElement {
    const [lane, from] = [WORLDS.indexOf(world), WORLDS.indexOf(before?.world ?? world)];
    const row = document.createElement('li');
    row.className = `stop-${world}`;
    row.style.setProperty('--lane', String(lane));
    row.style.setProperty('--left', String(Math.min(lane, from)));
    row.style.setProperty('--span', String(Math.abs(lane - from)));
    row.dataset.turn = lane === from ? 'stay' : lane > from ? 'out' : 'home';
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.stop = String(n);
    const where = document.createElement('span');
    where.className = 'where';
    where.textContent = NAMES[world];
    const head = document.createElement('strong');
    head.textContent = title;
    button.append(where, head);
    const decoded = world === 'processor' && this.#route ? decodeQualification(this.#route.reason, this.#route.qualification) : '';
    for (const line of [detail, decoded]) {
      if (!line) continue;
      const small = document.createElement('small');
      small.textContent = line;
      button.append(small);
    }
    row.append(button);
    return row;
  }

  #go(to: number, focus = false, tell = true): void {
    const stops = this.#route?.stops ?? [];
    const at = Math.max(0, Math.min(stops.length - 1, to));
    const moved = at !== this.#at;
    this.#at = at;
    [...this.#stops.children].forEach((row, n) => {
      row.classList.toggle('ahead', n > at);
      const button = row.querySelector('button') as HTMLButtonElement;
      button.tabIndex = n === at ? 0 : -1;
      if (n === at) button.setAttribute('aria-current', 'step');
      else button.removeAttribute('aria-current');
      if (n === at && focus) button.focus();
    });
    this.#showStep();
    const event = stops[at]?.event ?? null;
    if (moved && tell && event !== null) this.onStop(event);
  }

  #showStep(): void {
    const count = this.#route?.stops.length ?? 0;
    this.#buttons.back.disabled = count === 0 || this.#at <= 0;
    this.#buttons.on.disabled = count === 0 || this.#at >= count - 1;
  }
}
