// # Loading the suite
//
// The cases are files. Before any machine is started they are read, checked against the schema, and checked against each other and against what
// they name: clauses that exist, payloads that exist, capabilities that have a meaning, scripts that compile. A suite with a mistake in it does not
// run at all, because a verdict from it could not be trusted.

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { diskPath, findPayload, imagePath } from '../guest-payloads/index.ts';
import { checkScript } from './device-script/check.ts';
import { deviceNeeds, type Instance, instancesOf } from './instances.ts';
import { type CompiledScript, compileScript } from './kvm-script.ts';
import type { Case, Clause, Door } from './types.ts';
import { InvalidDocument, readJson } from './validate.ts';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const PAYLOADS = fileURLToPath(new URL('../guest-payloads/', import.meta.url));

/** One way to start a payload. */
export interface BootImage {
  readonly door: Door;
  readonly path: string;
  readonly sha256: string;
}

/** Every image has every door; the order says which one a machine with several is given. */
const DOORS: readonly Door[] = ['multiboot', 'pvh', 'disk', 'long'];

/** Everything a case needs in order to be run, worked out once. */
export interface LoadedCase extends Instance {
  /** What the case needs, its payload's needs and its door's, if it names one, included. */
  readonly requires: readonly string[];
  /** Guest surface: the image file for each door that will do, best first. A case that names no door is not about doors: any will do. */
  readonly images?: readonly BootImage[];
  /** kvm surface. */
  readonly compiled?: CompiledScript;
}

export interface Suite {
  readonly cases: readonly LoadedCase[];
  readonly clauses: ReadonlyMap<string, Clause>;
  readonly capabilities: ReadonlyMap<string, { readonly surface: string; readonly meaning: string }>;
  /** SHA-256 over every case and every image it runs. Results compare only at one revision. */
  readonly revision: string;
}

export interface SuiteFolders {
  readonly cases?: string;
  readonly clauses?: string;
  readonly payloads?: string;
}

const jsonFiles = (folder: string): string[] =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.json'))
        .sort()
        .map((name) => join(folder, name))
    : [];

/** The clause catalogue. @throws InvalidDocument for a file off its schema or an id given twice. */
export function loadClauses(folder = join(HERE, 'clauses')): Map<string, Clause> {
  const clauses = new Map<string, Clause>();
  for (const file of jsonFiles(folder)) {
    for (const clause of readJson<Clause[]>('clauses', file)) {
      if (clauses.has(clause.id)) throw new InvalidDocument(file, [`clause '${clause.id}' is already in the catalogue`]);
      clauses.set(clause.id, clause);
    }
  }
  return clauses;
}

/** Reads and checks the whole suite. @throws InvalidDocument listing every problem of the first bad file, or the first thing that does not exist. */
export function loadSuite(folders: SuiteFolders = {}): Suite {
  const caseFolder = folders.cases ?? join(HERE, 'cases');
  const payloadFolder = folders.payloads ?? PAYLOADS;
  const clauses = loadClauses(folders.clauses);
  const capabilities = new Map(
    Object.entries(readJson<Record<string, { surface: string; meaning: string }>>('capabilities', join(HERE, 'capabilities.json'))),
  );
  const revision = createHash('sha256');
  const cases: LoadedCase[] = [];

  for (const file of jsonFiles(caseFolder)) {
    const testCase = readJson<Case>('case', file);
    const problems: string[] = [];
    const expected = relative(caseFolder, file)
      .split(sep)
      .join('/')
      .replace(/\.json$/, '');
    if (testCase.id !== expected) problems.push(`id: is '${testCase.id}', but the file's place says '${expected}'`);
    if (!testCase.id.startsWith(`${testCase.chapter}/`)) problems.push(`chapter: '${testCase.chapter}' does not agree with the id`);
    for (const id of testCase.clauses) if (!clauses.has(id)) problems.push(`clauses: '${id}' is not in the catalogue`);
    for (const [key, set] of Object.entries(testCase.allowed.observations)) {
      const id = typeof set === 'object' ? set.clause : undefined;
      if (id !== undefined && !testCase.clauses.includes(id))
        problems.push(`allowed.observations.${key}: clause '${id}' is not among the case's clauses`);
    }
    revision.update(`${testCase.id}\n${readFileSync(file, 'utf8')}\n`);
    for (const instance of instancesOf(testCase)) {
      const extra = EXTRAS[instance.surface](instance, payloadFolder, problems);
      const requires = [...new Set([...instance.needs, ...extra.requires, ...deviceNeeds(instance)])];
      for (const need of requires) if (!capabilities.has(need)) problems.push(`needs: '${need}' is not in capabilities.json`);
      if (problems.length > 0) throw new InvalidDocument(file, problems);
      revision.update(`${instance.id}\n${[...new Set(extra.images?.map(({ sha256 }) => sha256))].join(' ')}\n`);
      cases.push({ ...instance, ...extra, requires });
    }
  }
  return { cases, clauses, capabilities, revision: revision.digest('hex') };
}

type Extra = Pick<LoadedCase, 'images' | 'compiled' | 'requires'>;

function guestCase(testCase: Instance, payloadFolder: string, problems: string[]): Extra {
  const { payload: name, door, input } = testCase.guest as NonNullable<Case['guest']>;
  const payload = findPayload(name);
  if (!payload) {
    problems.push(`guest.payload: there is no payload '${name}'`);
    return { requires: [] };
  }
  const images: BootImage[] = [];
  for (const one of door === undefined ? DOORS : [door]) {
    const path = join(payloadFolder, one === 'disk' ? diskPath(name) : imagePath(name));
    if (!existsSync(path)) {
      problems.push(`guest.payload: its image ${path} is missing (npm run payloads builds it)`);
      return { requires: [] };
    }
    images.push({ door: one, path, sha256: createHash('sha256').update(readFileSync(path)).digest('hex') });
  }
  const byHalt = testCase.allowed.end?.includes('halt') ? ['notices-halt'] : [];
  const ends = testCase.allowed.end?.includes('debug-exit') ? ['debug-exit'] : byHalt;
  const requires = [...payload.needs, ...(door === undefined ? [] : [`door-${door}`]), ...ends, ...(input === undefined ? [] : ['serial-input'])];
  return { images, requires };
}

function kvmCase(testCase: Instance, _payloads: string, problems: string[]): Extra {
  try {
    return { compiled: compileScript(testCase), requires: [] };
  } catch (error) {
    problems.push(`kvm.script: ${(error as Error).message}`);
    return { requires: [] };
  }
}

function deviceCase({ device, devices }: Instance, _payloads: string, problems: string[]): Extra {
  for (const problem of checkScript(device?.script ?? [], devices ?? [])) problems.push(`device.script: ${problem}`);
  return { requires: [] };
}

const EXTRAS = { guest: guestCase, kvm: kvmCase, device: deviceCase } as const;
