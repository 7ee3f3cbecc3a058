// # Numbers that cannot go stale
//
// An expression in prose is evaluated when the site is built, with everything the module exports in scope; and with what the chapter's
// `figures/index.ts` exports, which is where a chapter keeps its recorded runs, so that a sentence can quote one. A module is imported only
// when something in it asks for a value: most of the tree's scripts *do* something when they are imported.
//
// What may come out is a number, a bigint, a string or a boolean. Anything else, and above all `undefined`, is an error with the line of the
// sentence: a book that prints "NaN" has lied.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Expression, Problem } from './literate.ts';
import { drawLayout, isDrawable } from './rulers.ts';
import { type Module, ROOT, type Room, resolveFrom } from './tree.ts';

type Scope = Readonly<Record<string, unknown>>;

/** `n` in hexadecimal, as the specifications write addresses and masks. Negative numbers are taken as 32 bits. */
const hex = (n: number | bigint): string => `0x${(typeof n === 'number' && n < 0 ? n >>> 0 : n).toString(16)}`;
/** A byte count in the largest binary unit that divides it. */
const size = (bytes: number): string => {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let n = bytes;
  while (unit < units.length - 1 && n >= 1024 && n % 1024 === 0) {
    n /= 1024;
    unit++;
  }
  return `${n} ${units[unit]}`;
};
const percent = (share: number): string => `${Math.round(share * 100)} %`;

// biome-ignore format: table
const WORDS = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven', 'twelve'];
/** A small count in words, as a sentence wants it. */
const words = (n: number): string => WORDS[n] ?? String(n);

/** What every expression may call. */
export const BUILT_IN: Scope = { hex, size, percent, words };

/** How a value is set in a sentence: whole numbers of five digits and more get thin spaces between thousands. */
export function typeset(value: unknown): string {
  if (typeof value === 'string' && value !== '') return value;
  if (typeof value === 'boolean') return String(value);
  if (typeof value === 'number' && Number.isFinite(value)) {
    if (!Number.isInteger(value)) return String(Number(value.toPrecision(3)));
    return Math.abs(value) < 10_000 ? String(value) : String(value).replace(/\B(?=(\d{3})+$)/g, '\u202f');
  }
  if (typeof value === 'bigint') return typeset(value < 2n ** 53n ? Number(value) : hex(value));
  throw new TypeError(
    `is ${value === '' ? 'an empty string' : value === null ? 'null' : typeof value === 'number' ? value : typeof value}, not something to print`,
  );
}

/** What a directive became: an SVG or HTML fragment. */
export interface Drawn {
  readonly html: string;
}

/** Evaluates what one tree's prose asks for. Imports are cached; problems are collected, never thrown. */
export class Evaluator {
  readonly problems: Problem[] = [];
  expressions = 0;
  figures = 0;
  readonly #root: string;
  readonly #scopes = new Map<string, Promise<Scope>>();

  constructor(root = ROOT) {
    this.#root = root;
  }

  #import(file: string): Promise<Scope> {
    let loaded = this.#scopes.get(file);
    if (!loaded) {
      loaded = import(pathToFileURL(join(this.#root, file)).href) as Promise<Scope>;
      this.#scopes.set(file, loaded);
    }
    return loaded;
  }

  async #scope(room: Room, module: Module): Promise<Scope> {
    const shared = `${room.folder}/figures/index.ts`;
    const recorded = existsSync(join(this.#root, shared)) ? await this.#import(shared) : {};
    return { ...BUILT_IN, ...recorded, ...(await this.#import(module.file)) };
  }

  /** The printed value of an expression, or null after noting the problem. */
  async value(room: Room, module: Module, { text, line }: Expression): Promise<string | null> {
    this.expressions++;
    try {
      const scope = await this.#scope(room, module);
      const names = Object.keys(scope).filter((name) => /^[A-Za-z_$][\w$]*$/.test(name) && name !== 'default');
      const evaluate = new Function(...names, `'use strict'; return (${text}\n);`);
      return typeset(await evaluate(...names.map((name) => scope[name])));
    } catch (error) {
      this.#problem(module.file, line, `{{${text}}}: ${error instanceof Error ? error.message : String(error)}`);
      return null;
    }
  }

  /** Draws what a `::figure` or `::layout` mark asks for. */
  async draw(room: Room, module: Module, mark: { kind: 'figure' | 'layout'; name: string; line: number }): Promise<Drawn | null> {
    this.figures++;
    try {
      if (mark.kind === 'layout') {
        const scope = await this.#scope(room, module);
        const table = mark.name.split('.').reduce<unknown>((at, key) => (at as Scope | undefined)?.[key], scope);
        if (!isDrawable(table)) throw new TypeError('the module exports no layout, register table, bitfield or table of flags under this name');
        return { html: drawLayout(mark.name, table) };
      }
      const file = room.figures.get(mark.name);
      if (!file) throw new RangeError(`there is no ${room.folder}/figures/${mark.name}.ts`);
      const figure = await this.#import(file);
      if (typeof figure.render !== 'function') throw new TypeError(`${file} does not export render()`);
      const svg: unknown = await figure.render();
      return { html: soundSvg(svg, file) };
    } catch (error) {
      this.#problem(module.file, mark.line, `::${mark.kind} ${mark.name}: ${error instanceof Error ? error.message : String(error)}`);
      return null;
    }
  }

  /** The module or file that `::include` names, or null after noting the problem. */
  included(module: Module, { name, line }: { name: string; line: number }): string | null {
    const file = resolveFrom(module.file, name.split('#')[0] as string);
    if (!file.startsWith('..') && existsSync(join(this.#root, file))) return file;
    this.#problem(module.file, line, `::include ${name}: there is no such file`);
    return null;
  }

  #problem(file: string, line: number, message: string): void {
    this.problems.push({ file, line, message });
  }
}

/** A figure goes into the page as it is, so it must be one SVG that says what it shows and carries nothing active. */
function soundSvg(svg: unknown, file: string): string {
  if (typeof svg !== 'string' || !/^\s*<svg[\s>]/.test(svg) || !/<\/svg>\s*$/.test(svg))
    throw new TypeError(`${file}: render() must return one <svg>`);
  if (!/<title>[^<]+<\/title>/.test(svg)) throw new TypeError(`${file}: the figure has no <title>, so it cannot be read aloud`);
  if (/<script|<foreignObject|\son\w+=|https?:\/\/(?!www\.w3\.org\/)/i.test(svg))
    throw new TypeError(`${file}: the figure carries scripts or outside addresses`);
  return svg;
}
