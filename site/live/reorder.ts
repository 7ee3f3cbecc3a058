// # Drawing an execution that fails
//
// The page of chapter 6's explorable, its second half: two programs whose accesses can be moved, an answer, and the execution that proves it.

import type { Access, Outcome } from '../../chapters/06-virtio-rings/litmus.ts';
import { get, make, plural } from './dom.ts';
import {
  type Answer,
  type Asked,
  accessOf,
  answer,
  askedAsWritten,
  consequence,
  exchanged,
  hasOrder,
  MACHINES,
  type Moment,
  type Placed,
  QUESTION_NAMES,
  QUESTIONS,
  readAsked,
  sentence,
  stripped,
  writeAsked,
} from './reorder-model.ts';
import { drawRing } from './ring-tables.ts';

const shown = (value: number): string => (value >= 0x1000 ? `0x${value.toString(16)}` : String(value));

/** An access as it would be written in the chapter. */
function accessText(access: Access): string {
  if (access.do === 'fence') return 'fence';
  const { place } = access;
  if (access.do === 'store') return `${access.order ? 'release ' : ''}${place} = ${shown(access.value)}`;
  return `${access.into} = ${access.order ? 'acquire ' : ''}${place}`;
}

const ORDER_WORD = { store: 'release', load: 'acquire', fence: 'fence' } as const;

export class Reordering {
  readonly steps = {
    first: get<HTMLButtonElement>('deed-first'),
    back: get<HTMLButtonElement>('deed-back'),
    forward: get<HTMLButtonElement>('deed-forward'),
    last: get<HTMLButtonElement>('deed-last'),
  };
  readonly #question = get<HTMLSelectElement>('question');
  readonly #machine = get<HTMLSelectElement>('machine');
  readonly #mend = get<HTMLButtonElement>('mend');
  readonly #changed: () => void;
  #asked: Asked = askedAsWritten('used');
  #answer: Answer = answer(this.#asked);

  /** @param changed called when the address has to be written anew */
  constructor(changed: () => void) {
    this.#changed = changed;
    this.#question.addEventListener('change', () => {
      const name = QUESTION_NAMES.find((each) => each === this.#question.value) ?? 'used';
      this.#ask(askedAsWritten(name, this.#asked.machine));
    });
    this.#machine.addEventListener('change', () => {
      const machine = MACHINES.find((each) => each === this.#machine.value) ?? 'weak';
      this.#ask({ ...this.#asked, machine, step: 0 });
    });
    this.#mend.addEventListener('click', () => this.#ask(askedAsWritten(this.#asked.name, this.#asked.machine)));
    this.steps.first.addEventListener('click', () => this.#step(0));
    this.steps.back.addEventListener('click', () => this.#step(this.#asked.step - 1));
    this.steps.forward.addEventListener('click', () => this.#step(this.#asked.step + 1));
    this.steps.last.addEventListener('click', () => this.#step(this.#answer.moments.length));
    get('program').addEventListener('click', (event) => this.#press(event.target as Element));
  }

  load(fields: URLSearchParams): void {
    this.#asked = readAsked(fields);
    this.#answer = answer(this.#asked);
    this.#asked = { ...this.#asked, step: Math.min(this.#asked.step, this.#answer.moments.length) };
    this.#draw();
  }
  save(fields: URLSearchParams): void {
    writeAsked(this.#asked, fields);
  }

  #ask(asked: Asked): void {
    this.#asked = asked;
    this.#answer = answer(asked);
    this.#draw();
    this.#changed();
  }
  #step(to: number): void {
    this.#asked = { ...this.#asked, step: Math.max(0, Math.min(to, this.#answer.moments.length)) };
    this.#draw();
    this.#changed();
  }

  /** A button of the programs: which, and on which access, is in its data. */
  #press(target: Element): void {
    const button = target.closest<HTMLButtonElement>('button[data-move]');
    if (!button) return;
    const { side, row, move } = button.dataset;
    const [index, at] = [side === '0' ? 0 : 1, Number(row)] as const;
    this.#ask(move === 'order' ? stripped(this.#asked, index, at) : exchanged(this.#asked, index, move === 'up' ? at - 1 : at));
    // The access keeps the focus: it may be pressed again, and has moved.
    const now = move === 'up' ? at - 1 : move === 'down' ? at + 1 : at;
    const again = [move, 'up', 'down', 'order'].map((each) =>
      get('program').querySelector<HTMLButtonElement>(`[data-side="${index}"][data-row="${now}"][data-move="${each}"]:not(:disabled)`),
    );
    again.find((each) => each !== null)?.focus();
  }

  // ## The two programs

  #draw(): void {
    const { name, machine, sides } = this.#asked;
    const { question, asks } = QUESTIONS[name];
    this.#question.value = name;
    this.#machine.value = machine;
    get('asks').textContent = `${asks} If not: ${question.means}.`;
    get('program').replaceChildren(...sides.map((_, index) => this.#side(index as 0 | 1)));
    this.#mend.disabled = [0, 1].every((index) => {
      const side = sides[index] as Asked['sides'][0];
      return side.every(({ access, bare }, row) => access === row && !bare);
    });
    this.#drawVerdict();
    this.#drawExecution();
  }

  #moment(): Moment | undefined {
    return this.#answer.moments[this.#asked.step - 1];
  }

  #side(index: 0 | 1): HTMLElement {
    const who = QUESTIONS[this.#asked.name].sides[index];
    const box = make('div', '', `program ${who}`);
    const side = this.#asked.sides[index];
    const rows = make('ol');
    const before = this.#answer.moments.slice(0, this.#asked.step);
    const moment = this.#moment();
    rows.append(
      ...side.map((placed, row) => {
        const item = this.#row(index, row, placed, side.length);
        if (before.some((each) => each.processor === index && each.row === row)) item.classList.add('done');
        if (moment?.processor === index && moment.row === row) item.classList.add('current');
        return item;
      }),
    );
    box.append(make('h3', `The ${who}`), rows);
    return box;
  }

  #row(index: 0 | 1, row: number, placed: Placed, length: number): HTMLElement {
    const item = make('li');
    const access = accessOf(this.#asked, index, placed);
    const written = accessOf(this.#asked, index, { ...placed, bare: false }) as Access;
    const text = accessText(access ?? written);
    item.append(make(access ? 'code' : 'del', text));
    const tools = make('span', '', 'tools');
    const button = (move: string, label: string, title: string, disabled = false): void => {
      const element = make('button', label) as HTMLButtonElement;
      element.type = 'button';
      element.title = title;
      element.disabled = disabled;
      Object.assign(element.dataset, { side: String(index), row: String(row), move });
      element.setAttribute('aria-label', `${text}: ${title}`);
      tools.append(element);
    };
    if (hasOrder(written)) {
      const word = ORDER_WORD[written.do];
      button('order', placed.bare ? `+ ${word}` : `− ${word}`, placed.bare ? `give the ${word} back` : `take the ${word} away`);
    }
    button('up', '▲', 'move up', row === 0);
    button('down', '▼', 'move down', row === length - 1);
    item.append(tools);
    return item;
  }

  // ## The answer

  #drawVerdict(): void {
    const { name, machine } = this.#asked;
    const broken = this.#answer.breaks[machine];
    const verdict = get('verdict');
    verdict.dataset.kind = broken ? 'breaks' : 'holds';
    verdict.textContent = broken ? `It breaks: ${QUESTIONS[name].question.means}.` : 'It holds. No execution on this machine ends badly.';
    get('machines').replaceChildren(
      ...MACHINES.map((each) => {
        const chip = make('span', `${each}: ${this.#answer.breaks[each] ? 'breaks' : 'holds'}`, this.#answer.breaks[each] ? 'breaks' : 'holds');
        if (each === machine) chip.classList.add('chosen');
        return chip;
      }),
    );
  }

  #drawExecution(): void {
    const { moments, places } = this.#answer;
    const { step, name } = this.#asked;
    get('failing').hidden = moments.length === 0;
    if (moments.length === 0) return;
    const moment = this.#moment();
    const atEnd = step === moments.length;
    get('deed').textContent = moment ? sentence(this.#asked, moment) : 'Nothing has happened. All memory is 0.';
    get('deed-count').textContent = `${step} of ${plural(moments.length, 'step')}`;
    this.steps.first.disabled = step === 0;
    this.steps.back.disabled = step === 0;
    this.steps.forward.disabled = atEnd;
    this.steps.last.disabled = atEnd;
    get('memory').replaceChildren(...this.#memory(places, moment));
    get('consequence').hidden = !atEnd;
    if (atEnd) this.#drawConsequence(name, (moments.at(-1) as Moment).loaded);
  }

  #memory(places: readonly string[], moment: Moment | undefined): HTMLElement[] {
    const { sides } = QUESTIONS[this.#asked.name];
    const lists: (readonly [string, string, readonly (readonly [string, string, boolean])[]])[] = [
      [
        'memory',
        'both',
        places.map((place) => {
          const arrived = moment?.place === place && (moment.does === 'store' || moment.does === 'arrive');
          return [place, shown(moment?.memory[place] ?? 0), arrived];
        }),
      ],
    ];
    for (const [processor, who] of sides.entries()) {
      const names = this.#asked.sides[processor]?.flatMap((placed) => {
        const access = accessOf(this.#asked, processor as 0 | 1, placed);
        return access?.do === 'load' ? [access] : [];
      });
      const found = (names ?? []).map(({ into, place }) => {
        const value = moment?.loaded[into];
        const just = moment?.does === 'load' && moment.processor === processor && moment.place === place;
        return [into, value === undefined ? 'not loaded' : shown(value), just] as const;
      });
      const queue = (moment?.queues[processor] ?? []).map(({ place, value }) => [`queued: ${place}`, shown(value), true] as const);
      if (found.length + queue.length > 0) lists.push([`the ${who} has`, who, [...found, ...queue]]);
    }
    return lists.map(([title, who, rows]) => {
      const table = make('table', '', `ring-table ${who}`);
      table.append(make('caption', title));
      const body = make('tbody');
      for (const [place, value, fresh] of rows) {
        const line = make('tr');
        const head = make('th', place);
        head.setAttribute('scope', 'row');
        line.append(head, make('td', value, fresh ? 'changed' : ''));
        body.append(line);
      }
      table.append(body);
      return table;
    });
  }

  #drawConsequence(name: Asked['name'], outcome: Outcome): void {
    const { size, fields, late, followed, happened } = consequence(name, outcome);
    get('happened').textContent = happened;
    drawRing(get('broken'), {
      format: 'split',
      size,
      eventIdx: true,
      fields,
      late,
      changed: new Set(followed),
      owners: new Map(),
      tables: [],
      places: null,
    });
  }
}
