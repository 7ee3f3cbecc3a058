// # Who was asked
//
// A row for each device, with a bar as long as its share of all accesses.

import { make, spaced } from './dom.ts';
import type { Traffic } from './linux-counts.ts';

const MOST_ROWS = 14;

export class TrafficTable {
  readonly #body: HTMLElement;

  constructor(body: HTMLElement) {
    this.#body = body;
  }

  clear(): void {
    this.#body.replaceChildren();
  }

  show(all: readonly Traffic[]): void {
    const most = Math.max(1, ...all.map(({ reads, writes }) => reads + writes));
    this.#body.replaceChildren(
      ...all.slice(0, MOST_ROWS).map(({ device, reads, writes }) => {
        const row = make('tr');
        const name = make('td');
        const bar = make('i');
        bar.style.width = `${(100 * (reads + writes)) / most}%`;
        name.append(make('span', device), bar);
        row.append(name, make('td', spaced(reads)), make('td', spaced(writes)));
        return row;
      }),
    );
  }
}
