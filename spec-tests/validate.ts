// # At the edges
//
// Cases, catalogues, messages and results are written by many hands and many programs. Each is checked against its published schema the
// moment it comes in, and the error names the file, the place in it, and what was expected there. Behind this line, types can be believed.

import { readFileSync } from 'node:fs';
import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js';

const SCHEMAS = [
  ...(['devices', 'device-script', 'case', 'clauses', 'capabilities', 'protocol-request', 'protocol-reply'] as const),
  ...(['results', 'known-failures', 'mutants'] as const),
] as const;
export type SchemaName = (typeof SCHEMAS)[number];

/** A document that does not follow its schema. `where` is the file or the sender; each problem has a path inside the document. */
export class InvalidDocument extends Error {
  readonly where: string;
  readonly problems: readonly string[];

  constructor(where: string, problems: readonly string[]) {
    super(`${where}: ${problems.join('; ')}`);
    this.name = 'InvalidDocument';
    this.where = where;
    this.problems = problems;
  }
}

// `strictRequired` is off because a conditional `required` in a schema's branch may name a property that its parent defines; every other
// strict rule stays, so a misspelt keyword in a schema of ours is an error here and not a check that never happens. A schema is compiled when a document of
// its kind first comes, and as it is: a process that judges one case would wait longer for all of them, and for better code, than it ever uses them.

let known: { readonly ajv: Ajv2020; readonly ids: ReadonlyMap<SchemaName, string> } | null = null;

function schema(name: SchemaName): ValidateFunction {
  if (!known) {
    const ajv = new Ajv2020({
      allErrors: true,
      strict: true,
      strictRequired: false,
      strictTypes: false,
      allowUnionTypes: true,
      discriminator: true,
      verbose: true,
      code: { optimize: false },
    });
    const ids = new Map<SchemaName, string>();
    for (const each of SCHEMAS) {
      const document = JSON.parse(readFileSync(new URL(`schemas/${each}.schema.json`, import.meta.url), 'utf8')) as { $id: string };
      ajv.addSchema(document);
      ids.set(each, document.$id);
    }
    known = { ajv, ids };
  }
  return known.ajv.getSchema(known.ids.get(name) as string) as ValidateFunction;
}

const shown = (value: unknown): string => {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
};

// A document that fits none of the branches of a `oneOf` collects the errors of every branch. What helps is the branch that came closest,
// and a branch is close when its errors lie deep. So the discriminating error ("no branch fits") is dropped when something deeper is known.

function explain(errors: readonly ErrorObject[]): string[] {
  const noise = new Set(['oneOf', 'anyOf', 'allOf', 'if', 'not', 'const']);
  const specific = errors.filter((error) => !noise.has(error.keyword));
  const deepest = Math.max(0, ...specific.map((error) => error.instancePath.split('/').length));
  const kept = specific.filter((error) => error.instancePath.split('/').length === deepest || !errors.some((other) => noise.has(other.keyword)));
  const chosen = kept.length > 0 ? kept : errors;
  const lines = chosen.map((error) => {
    const path = error.instancePath === '' ? '(top)' : error.instancePath.slice(1).replaceAll('/', '.').replaceAll('~1', '/').replaceAll('~0', '~');
    const params = error.params as Record<string, unknown>;
    if (error.keyword === 'additionalProperties') return `${path}: unknown property '${String(params.additionalProperty)}'`;
    if (error.keyword === 'required') return `${path}: property '${String(params.missingProperty)}' is missing`;
    if (error.keyword === 'enum') return `${path}: is ${shown(error.data)}, must be one of ${(params.allowedValues as unknown[]).join(', ')}`;
    if (error.keyword === 'false schema') return `${path}: does not belong here`;
    return `${path}: ${error.message ?? error.keyword} (found ${shown(error.data)})`;
  });
  return [...new Set(lines)].slice(0, 8);
}

/**
 * Checks `document` and returns it with its type.
 * @throws InvalidDocument naming `where` and every place that is wrong.
 */
export function validate<T>(name: SchemaName, document: unknown, where: string): T {
  const check = schema(name);
  if (!check(document)) throw new InvalidDocument(where, explain(check.errors ?? []));
  return document as T;
}

/**
 * Reads a JSON file and checks it.
 * @throws InvalidDocument when it cannot be read, is not JSON, or does not follow the schema.
 */
export function readJson<T>(name: SchemaName, path: string): T {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new InvalidDocument(path, [`cannot be read: ${(error as Error).message}`]);
  }
  return parseJson<T>(name, text, path);
}

/** As `readJson`, from text already at hand. */
export function parseJson<T>(name: SchemaName, text: string, where: string): T {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw new InvalidDocument(where, [`is not JSON: ${(error as Error).message}`]);
  }
  return validate<T>(name, document, where);
}
