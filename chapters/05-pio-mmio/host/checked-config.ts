// # A description from outside
//
// What a file or a command line says may be anything. It is held against the published schema first, and then against itself.

import { Ajv, type ErrorObject } from 'ajv';
import { type CompleteConfig, completeConfig, type MachineConfig } from '../machine/config.ts';
import { ConfigError } from '../machine/device-types.ts';
import schema from '../machine/machine.schema.json' with { type: 'json' };

const validate = new Ajv({ allErrors: false, allowUnionTypes: true }).compile<MachineConfig>(schema);

function wording({ instancePath, keyword, params, message }: ErrorObject): string {
  const where = instancePath.slice(1).replaceAll('/', '.') || 'the machine';
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
