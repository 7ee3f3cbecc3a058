// # Measuring the ladder
//
// Every rung gets the same treatment: rounds are doubled until one run takes long enough to be measured, then the median of three is shown. Between runs the
// page gets a turn, so that it stays alive.

import './live.css';
import './ladder.css';
import { instructionsFor } from '../../chapters/01-hardware-background/ladder/program.ts';
import { RUNGS, type Rung } from '../../chapters/01-hardware-background/ladder/rungs.ts';
import { get } from './dom.ts';

const LONG_ENOUGH_MS = 60;
const RUNS = 3;
/** What the whole width of a bar stands for, in million instructions a second; its left end stands for a tenth of a million. */
const WIDEST = 10_000;
const NARROWEST = 0.1;

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));

function time(rung: Rung, rounds: number): number {
  const start = performance.now();
  rung.run(rounds);
  return performance.now() - start;
}

/** Million instructions a second. */
async function measure(rung: Rung): Promise<number> {
  let rounds = 1;
  while (time(rung, rounds) < LONG_ENOUGH_MS) {
    rounds *= 2;
    await pause();
  }
  const rates: number[] = [];
  for (let n = 0; n < RUNS; n++) {
    rates.push(instructionsFor(rounds) / time(rung, rounds) / 1000);
    await pause();
  }
  return rates.sort((a, b) => a - b)[Math.floor(RUNS / 2)] as number;
}

const shown = (rate: number): string => (rate < 10 ? rate.toFixed(1) : rate.toFixed(0));

async function measureAll(): Promise<void> {
  const button = get<HTMLButtonElement>('measure');
  const status = get('status');
  const rows = [...document.querySelectorAll<HTMLElement>('#ladder tbody tr')];
  button.disabled = true;
  const agreed = new Set(RUNGS.map((rung) => rung.run(2)));
  let below = 0;
  for (const [n, rung] of RUNGS.entries()) {
    status.textContent = rung.name;
    await pause();
    const rate = await measure(rung);
    const row = rows[n] as HTMLElement;
    const bar = row.querySelector('.bar') as HTMLElement;
    bar.hidden = false;
    bar.style.width = `${Math.max(1, Math.min(100, (100 * Math.log(rate / NARROWEST)) / Math.log(WIDEST / NARROWEST)))}%`;
    (row.querySelector('.rate') as HTMLElement).textContent = shown(rate);
    (row.querySelector('.ratio') as HTMLElement).textContent = below === 0 ? '–' : (rate / below).toFixed(1);
    below = rate;
  }
  status.textContent = agreed.size === 1 ? 'All five left the same value.' : 'The five disagree!';
  button.disabled = false;
}

const start = (): void => {
  measureAll().catch((error: unknown) => {
    const trouble = get('trouble');
    trouble.hidden = false;
    trouble.textContent = String(error);
  });
};
get('measure').addEventListener('click', start);
start();
