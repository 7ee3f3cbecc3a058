// # Before anything is run
//
// A script with a misspelt name would fail on the machine and look like the machine's failure. So the names in every script are looked up when the suite is
// loaded, once for each variant: fields that this transport has, features that such a device has, memory that an earlier step made.

import { configField, featureBit } from './features.ts';
import { CAP_FIELDS } from './pci.ts';
import { fieldPlace } from './registers.ts';
import type { DeviceStep, Feature } from './steps.ts';
import type { WireDevice } from './wire.ts';

const RING_AREA = /^(d[0-9]+\.)?q[0-9]+\.(desc|driver|device)$/;
/** Made by the script's own switching on of MSI-X. */
const MESSAGES = 'messages';
/** More observations than these are more than anybody reads. */
const STEP_LIMIT = 5_000;

/** What is wrong with a script for these devices: a list of sentences, empty when nothing is. */
export function checkScript(script: readonly DeviceStep[], devices: readonly WireDevice[]): string[] {
  const problems = new Set<string>();
  const memory = new Set<string>([MESSAGES]);
  const kept = new Set<string>();
  let steps = 0;

  function check(step: DeviceStep): void {
    steps++;
    const at = `'${step.do}'`;
    const index = 'device' in step ? (step.device ?? 0) : 0;
    const device = devices[index];
    if (!device) {
      problems.add(`${at}: the machine has no device ${index}`);
      return;
    }
    const attempt = (look: () => void): void => {
      try {
        look();
      } catch (error) {
        problems.add(`${at}: ${(error as Error).message}`);
      }
    };
    const known = (features: readonly Feature[] = []): void => {
      for (const feature of features) attempt(() => featureBit(device.type, feature));
    };
    for (const name of namesIn(step, 'memory')) if (!memory.has(name) && !RING_AREA.test(name)) problems.add(`${at}: no memory is called '${name}'`);
    for (const name of namesIn(step, 'kept')) if (!kept.has(name)) problems.add(`${at}: nothing is kept under '${name}'`);
    if ('keep' in step && step.keep !== undefined) kept.add(step.keep);
    const onPci = !device.transport.startsWith('mmio');
    switch (step.do) {
      case 'memory':
        memory.add(step.memory);
        break;
      case 'init':
        for (const list of [step.features, step.optional, step.without, step.force]) known(list);
        if (step.msix && !onPci) problems.add(`${at}: MSI-X is PCI's`);
        break;
      case 'require':
        if (step.features) known(step.features);
        if (step.capability !== undefined && !onPci) problems.add(`${at}: capabilities are PCI's`);
        break;
      case 'features':
        if (Array.isArray(step.accept)) known(step.accept);
        break;
      case 'get':
        attempt(() => fieldPlace(device.transport, step.field, false));
        break;
      case 'set':
        attempt(() => fieldPlace(device.transport, step.field, true));
        break;
      case 'config':
        if (step.field !== undefined) attempt(() => configField(device.type, step.field as string));
        else if (step.bytes === undefined) problems.add(`${at}: says neither a field nor how many bytes`);
        break;
      case 'cap':
        if (!onPci) problems.add(`${at}: memory-mapped registers have no capabilities`);
        if (!CAP_FIELDS[step.field] && step.field !== 'count' && step.field !== 'covers')
          problems.add(`${at}: a capability has no field '${step.field}'`);
        break;
      case 'pci':
      case 'msix':
      case 'message':
        if (!onPci) problems.add(`${at}: this transport is not PCI`);
        break;
      case 'avail':
        if (device.ring === 'packed') problems.add(`${at}: a packed ring has no available ring`);
        break;
      case 'queue-reset':
        attempt(() => fieldPlace(device.transport, 'queue_reset', true));
        break;
      case 'repeat':
        step.steps.forEach(check);
        break;
      case 'when':
        known([step.negotiated, step.offered].filter((feature) => feature !== undefined));
        branches(step, device).forEach(check);
        break;
    }
  }
  script.forEach(check);
  if (steps > STEP_LIMIT) problems.add(`${steps} steps are more than anybody reads`);
  return [...problems];
}

/** The steps that can be reached on this device: what depends on its answers, both ways. */
function branches(step: Extract<DeviceStep, { do: 'when' }>, { transport, ring }: WireDevice): readonly DeviceStep[] {
  const fits = (step.transport?.includes(transport) ?? true) && (step.ring?.includes(ring) ?? true);
  const dynamic = step.negotiated !== undefined || step.offered !== undefined;
  return [...(fits ? step.steps : []), ...(!fits || dynamic ? (step.else ?? []) : [])];
}

/** Every name that the step itself uses, at whatever depth, but not those of the steps inside it. */
function namesIn(step: DeviceStep, kind: 'memory' | 'kept'): string[] {
  if (step.do === 'memory') return [];
  const names: string[] = [];
  const look = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    for (const [key, inner] of Object.entries(value)) {
      if (key === 'steps' || key === 'else') continue;
      if (typeof inner === 'string' && (key === kind || (kind === 'memory' && (key === 'with' || key === 'table')))) names.push(inner);
      else look(inner);
    }
  };
  look(step);
  return names;
}
