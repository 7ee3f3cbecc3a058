// # The exit timeline
//
// A column for each step of virtual time, its height the number of exits, its colours their reasons. The busiest reasons have a colour of their own, the
// others share one. Only the last steps are kept.

import { make, spaced } from './dom.ts';
import { STEP_MS, STEPS, type Step } from './linux-counts.ts';

/** Steps that a short run is drawn on. */
const LEAST_STEPS = 100;
/** Colours of the book, for the busiest reasons. */
const COLOURS = ['--guest', '--kernel', '--user', '--pass', '--fail'] as const;
const OTHERS = '--ink-3';
const HEIGHT = 120;
const SCALE_HEIGHT = 16;
const LEGEND_ROWS = 12;

export class ExitChart {
  readonly #canvas: HTMLCanvasElement;
  readonly #legend: HTMLElement;
  readonly #steps = new Map<number, readonly number[]>();
  #totals: readonly (readonly [string, number])[] = [];
  #last = 0;

  constructor(canvas: HTMLCanvasElement, legend: HTMLElement) {
    this.#canvas = canvas;
    this.#legend = legend;
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement as HTMLElement);
    document.documentElement.addEventListener('themechange', () => this.draw());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
  }

  clear(): void {
    this.#steps.clear();
    this.#totals = [];
    this.#last = 0;
    this.draw();
  }

  add(steps: readonly Step[], totals: readonly (readonly [string, number])[], ns: number): void {
    for (const { step, counts } of steps) this.#steps.set(step, counts);
    this.#last = Math.max(this.#last, Math.floor(ns / 1e6 / STEP_MS));
    for (const step of this.#steps.keys()) if (step <= this.#last - STEPS) this.#steps.delete(step);
    this.#totals = totals;
    this.draw();
  }

  /** Indices of reasons, the busiest first. */
  get #ranked(): number[] {
    return this.#totals.map((_, index) => index).sort((a, b) => (this.#totals[b]?.[1] ?? 0) - (this.#totals[a]?.[1] ?? 0));
  }

  /** The steps that are drawn. */
  get #window(): { readonly first: number; readonly steps: number } {
    const steps = Math.min(STEPS, Math.max(LEAST_STEPS, this.#last + 1));
    return { first: Math.max(0, this.#last - steps + 1), steps };
  }

  draw(): void {
    const canvas = this.#canvas;
    const width = canvas.parentElement?.clientWidth ?? 0;
    const context = canvas.getContext('2d');
    if (!context || width === 0) return;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round((HEIGHT + SCALE_HEIGHT) * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${HEIGHT + SCALE_HEIGHT}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const ranked = this.#ranked;
    const colourOf = new Map(ranked.map((reason, rank) => [reason, colour(COLOURS[rank] ?? OTHERS)]));
    context.fillStyle = colour('--paper-2');
    context.fillRect(0, 0, width, HEIGHT);
    this.#columns(context, width, ranked, colourOf);
    this.#scale(context, width, colour('--ink-3'), colour('--sans'));
    this.#list(ranked, colourOf);
  }

  #columns(context: CanvasRenderingContext2D, width: number, ranked: readonly number[], colourOf: ReadonlyMap<number, string>): void {
    const most = Math.max(1, ...[...this.#steps.values()].map((counts) => counts.reduce((sum, n) => sum + n, 0)));
    const { first, steps } = this.#window;
    const column = width / steps;
    for (const [step, counts] of this.#steps) {
      let top = HEIGHT;
      for (const reason of ranked) {
        const height = ((counts[reason] ?? 0) / most) * (HEIGHT - 14);
        if (height === 0) continue;
        context.fillStyle = colourOf.get(reason) ?? '';
        top -= height;
        context.fillRect((step - first) * column, top, Math.max(column - 0.4, 0.8), height);
      }
    }
    this.#canvas.setAttribute('aria-label', `Exits over time, at most ${spaced(most)} in ${STEP_MS} ms`);
  }

  #scale(context: CanvasRenderingContext2D, width: number, ink: string, font: string): void {
    const { first, steps } = this.#window;
    const most = Math.max(0, ...[...this.#steps.values()].map((counts) => counts.reduce((sum, n) => sum + n, 0)));
    context.fillStyle = ink;
    context.font = `11px ${font}`;
    context.textBaseline = 'top';
    if (most > 0) context.fillText(`${spaced(most)}`, 4, 2);
    const perSecond = 1000 / STEP_MS;
    const every = 5 * perSecond;
    for (let step = Math.ceil(first / every) * every; step <= first + steps; step += every) {
      const x = ((step - first) / steps) * width;
      const text = `${step / perSecond} s`;
      const wide = context.measureText(text).width;
      context.fillRect(x, HEIGHT, 1, 3);
      if (x + 3 + wide < width) context.fillText(text, x + 3, HEIGHT + 3);
    }
  }

  #list(ranked: readonly number[], colourOf: ReadonlyMap<number, string>): void {
    const rows = ranked.slice(0, LEGEND_ROWS).map((reason) => {
      const [name, total] = this.#totals[reason] as readonly [string, number];
      const row = make('tr');
      const key = make('td');
      const patch = make('i');
      patch.style.background = colourOf.get(reason) ?? '';
      key.append(patch, name);
      row.append(key, make('td', spaced(total)));
      return row;
    });
    const rest = ranked.slice(LEGEND_ROWS).reduce((sum, reason) => sum + (this.#totals[reason]?.[1] ?? 0), 0);
    if (rest > 0) {
      const row = make('tr');
      row.append(make('td', `${ranked.length - LEGEND_ROWS} others`), make('td', spaced(rest)));
      rows.push(row);
    }
    this.#legend.replaceChildren(...rows);
  }
}
