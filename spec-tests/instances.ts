// # One file, several cases
//
// What the specification says of a status byte it says once, for every transport. So a case about it is written once, and says on which transports and with
// which rings it is to be played. Each combination is a case of its own from then on, with its own verdict, its own known failure and its own page: a device may
// be right on one transport and wrong on another.

import { isLegacy, RINGS, TRANSPORTS, type WireDevice } from './device-script/wire.ts';
import type { AllowedSet, Case } from './types.ts';
import { clauseOf } from './values.ts';

export interface Instance extends Case {
  readonly devices?: readonly WireDevice[];
}

type Variant = Pick<WireDevice, 'transport' | 'ring'>;

const isObject = (set: AllowedSet): set is Exclude<AllowedSet, string> => typeof set === 'object';

/** Whether a set is about this variant. */
const applies = (set: AllowedSet, { transport, ring }: Variant): boolean =>
  !isObject(set) || !set.only || ((set.only.transport?.includes(transport) ?? true) && (set.only.ring?.includes(ring) ?? true));

/** The combinations that exist: an interface from before the standard knows one ring format. */
function combinations({ variants = {} }: Case): Variant[] {
  const { transport = ['pci'], ring = ['split'] } = variants;
  return TRANSPORTS.filter((one) => transport.includes(one)).flatMap((one) =>
    RINGS.filter((format) => ring.includes(format) && !(isLegacy(one) && format === 'packed')).map((format) => ({ transport: one, ring: format })),
  );
}

/** The clauses that observations are charged to: one that names none is charged to the case's first. */
const charged = (sets: readonly AllowedSet[], [first]: readonly string[]): Set<string | undefined> =>
  new Set(sets.map((set) => clauseOf(set) ?? first));

function instance(testCase: Case, variant: Variant, suffix: readonly string[]): Instance {
  const { variants: _, devices, ...rest } = testCase;
  if (!devices) return rest;
  const observations = Object.fromEntries(Object.entries(testCase.allowed.observations).filter(([, set]) => applies(set, variant)));
  const named = suffix.length > 0;
  // A clause about packed rings is not shown on a split one.
  const elsewhere = charged(Object.values(testCase.allowed.observations), rest.clauses);
  const here = charged(Object.values(observations), rest.clauses);
  return {
    ...rest,
    clauses: rest.clauses.filter((id) => here.has(id) || !elsewhere.has(id)),
    id: named ? `${testCase.id}@${suffix.join('.')}` : testCase.id,
    title: named ? `${testCase.title} (${suffix.join(', ')})` : testCase.title,
    devices: devices.map((device) => ({ ...variant, ...device })),
    allowed: { ...testCase.allowed, observations },
  };
}

/** The cases that a file stands for: itself, unless it has variants. */
export const instancesOf = (testCase: Case): Instance[] =>
  combinations(testCase).map((variant) => {
    const { transport, ring } = testCase.variants ?? {};
    return instance(testCase, variant, [...(transport ? [variant.transport] : []), ...(ring ? [variant.ring] : [])]);
  });

/** The file's name for an instance's. */
export const fileOf = (id: string): string => id.split('@')[0] as string;

/** What an instance needs because of its devices. */
export const deviceNeeds = ({ devices = [] }: Instance): string[] => [
  ...new Set(
    devices.flatMap(({ type, transport, ring }) => [`virtio-${type}`, `virtio-${transport}`, ...(ring === 'packed' ? ['ring-packed'] : [])]),
  ),
];
