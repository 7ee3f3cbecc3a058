// # A description from outside
//
// What a file or a command line says may be anything. It is held against the published schema first, and then against itself.

import { Ajv, type ErrorObject } from 'ajv';
import { type CompleteConfig, completeConfig, type MachineConfig } from '../machine/config.ts';
import { ConfigError } from '../machine/device-types.ts';
import schema from '../machine/machine.schema.json' with { type: 'json' };

// Every start of a machine waits for this. That the schema itself is well-formed is for a test to say, and code that runs once need not be good.
const QUICK = { meta: false, validateSchema: false, code: { optimize: false } } as const;
const validate = new Ajv({ allErrors: false, allowUnionTypes: true, ...QUICK }).compile<MachineConfig>(schema);

/** Options whose values nobody has checked before the schema does: whoever typed one does not know the field's name. */
const TYPED_AS: Readonly<Record<string, string>> = { memoryMiB: '-m', cpus: '-smp', serial: '-serial', timeoutS: '-timeout' };

function wording({ instancePath, keyword, params, message }: ErrorObject): string {
  const path = instancePath.slice(1).replaceAll('/', '.');
  const where = path in TYPED_AS ? `${path} (${TYPED_AS[path]})` : path || 'the machine';
  if (keyword === 'additionalProperties') {
    const known = instancePath === '' ? Object.keys(schema.properties) : [];
    return `${where} has no '${params.additionalProperty}'${known.length > 0 ? `; there are ${known.join(', ')}` : ''}`;
  }
  if (keyword === 'enum') return `${where} is one of ${(params.allowedValues as unknown[]).join(', ')}`;
  return `${where} ${message}`;
}

/**
 * A description, checked and completed.
 * @throws ConfigError for the first thing that is wrong
 */
export function checkedConfig(document: unknown): CompleteConfig {
  if (!validate(document)) throw new ConfigError(wording((validate.errors as ErrorObject[])[0] as ErrorObject));
  return completeConfig(document);
}
