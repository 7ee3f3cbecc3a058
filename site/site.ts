// # What a build holds
//
// One object goes through all page makers: the rooms, the payloads, the suite's data, the evaluator, and the pages and search entries made
// so far. Nothing is written until every page is made, so a build that fails leaves the previous site in place.

import { Evaluator } from './expressions.ts';
import { relativeTo } from './html.ts';
import type { Problem } from './literate.ts';
import { type Page, renderPage } from './page.ts';
import type { Payload, PayloadSource } from './payloads.ts';
import type { Links } from './prose.ts';
import type { Suite } from './suite.ts';
import { type Module, type Room, resolveFrom } from './tree.ts';

/** One thing that search can find. */
export interface SearchEntry {
  readonly title: string;
  /** Where it stands, in words: "Chapter 1 · The register file". */
  readonly where: string;
  readonly href: string;
  readonly text: string;
  readonly kind: 'text' | 'name' | 'clause' | 'case' | 'payload';
}

export class Site {
  readonly root: string;
  readonly rooms: readonly Room[];
  readonly payloads: readonly Payload[];
  readonly payloadSources: readonly PayloadSource[];
  readonly suite: Suite;
  readonly evaluator: Evaluator;
  readonly apiPages: boolean;
  readonly colour: boolean;
  readonly files = new Map<string, string | Uint8Array>();
  readonly search: SearchEntry[] = [];
  readonly problems: Problem[] = [];
  /** Page of every source file that has one. */
  readonly #pages = new Map<string, string>();
  readonly #modules = new Map<string, Module>();

  constructor(
    root: string,
    rooms: readonly Room[],
    { payloads, sources }: { readonly payloads: readonly Payload[]; readonly sources: readonly PayloadSource[] },
    suite: Suite,
    { apiPages, colour }: { readonly apiPages: boolean; readonly colour: boolean },
  ) {
    this.root = root;
    this.rooms = rooms;
    this.payloads = payloads;
    this.payloadSources = sources;
    this.suite = suite;
    this.apiPages = apiPages;
    this.colour = colour;
    this.evaluator = new Evaluator(root);
    for (const room of rooms) {
      for (const module of [...room.modules, ...room.tests]) {
        this.#pages.set(module.file, module.page);
        this.#modules.set(module.file, module);
      }
      if (room.number !== null) this.#pages.set(room.folder, `${room.folder}/index.html`);
    }
    for (const { file, page } of sources) this.#pages.set(file, page);
    this.#pages.set('guest-payloads', 'payloads/index.html').set('spec-tests', 'suite/index.html').set('chapters', 'chapters/index.html');
    this.#pages.set('chapters/instructions.html', 'chapters/instructions.html');
    this.#pages.set('spec-tests/cases', 'suite/cases.html').set('spec-tests/clauses', 'suite/clauses.html');
    this.#pages
      .set('live', 'live/index.html')
      .set('live/walk.html', 'live/walk.html')
      .set('live/ring.html', 'live/ring.html')
      .set('live/ladder.html', 'live/ladder.html')
      .set('live/translator.html', 'live/translator.html')
      .set('live/linux.html', 'live/linux.html');
  }

  /** The page of a file of the tree, or undefined. */
  pageOf(file: string): string | undefined {
    return this.#pages.get(file.replace(/\/$/, ''));
  }
  module(file: string): Module | undefined {
    return this.#modules.get(file);
  }

  /** How prose that stands in a source file and is shown on `page` finds its links. */
  linksOn(page: string): Links {
    return {
      page: (from, href) => {
        const [path = '', hash] = href.split('#');
        const file = path === '' ? from : resolveFrom(from, path);
        const target = this.pageOf(file);
        if (target === undefined) return null;
        if (hash === undefined || hash === '') return relativeTo(page, target);
        const named = this.module(file)?.declared.find(({ name }) => name === hash);
        return relativeTo(page, `${target}#${named ? `L${named.line}` : hash}`);
      },
      clause: (_from, id) => (this.suite.clauses.has(id) ? relativeTo(page, clausePage(id)) : null),
    };
  }

  /** What is wrong with the text: found while parsing, while rendering, while evaluating. */
  allProblems(): Problem[] {
    const key = ({ file, line, message }: Problem): string => `${file}:${String(line).padStart(6, '0')}:${message}`;
    return [...this.problems, ...this.evaluator.problems].sort((a, b) => (key(a) < key(b) ? -1 : 1));
  }

  add(page: Page): void {
    this.write(page.page, renderPage(page, this));
  }
  write(path: string, content: string | Uint8Array): void {
    if (this.files.has(path)) throw new Error(`two pages want to be ${path}`);
    this.files.set(path, content);
  }
}

export const clausePage = (id: string): string => `suite/clauses/${id}.html`;
export const casePage = (id: string): string => `suite/cases/${id}.html`;
