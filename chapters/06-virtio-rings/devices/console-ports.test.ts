import { describe, expect, it } from 'vitest';
import { ConsoleModel } from './console.ts';
import { Rig } from './laboratory.ts';

const make = (options: NonNullable<ConstructorParameters<typeof ConsoleModel>[0]> = {}) =>
  new Rig((clock) => new ConsoleModel({ maxPorts: 4, ...options, clock }));

describe('ports', () => {
  it('get the lowest number that fits; 0 is for people', () => {
    const { model } = make({ ports: [] });
    expect([model.plug().id, model.plug({ console: true }).id, model.plug({ console: true }).id, model.plug().id]).toEqual([1, 0, 2, 3]);
    expect(() => model.plug()).toThrow('ENOSPC');
  });

  it('that cannot be are refused', () => {
    const { model } = make();
    expect(() => model.plug({ id: 0, console: true })).toThrow('EEXIST');
    expect(() => model.plug({ id: 4 })).toThrow('EINVAL');
    expect(() => model.plug({ id: -1 })).toThrow('EINVAL');
    expect(() => model.plug({ id: 1.5 })).toThrow('EINVAL');
    expect(() => make({ ports: [] }).model.plug({ id: 0 })).toThrow('EINVAL');
    expect(() => model.plug({ name: 'x'.repeat(256) })).toThrow('EINVAL');
    expect(() => model.unplug(3)).toThrow('ENOENT');
    expect(() => new ConsoleModel({ maxPorts: 0 })).toThrow('EINVAL');
    expect(() => new ConsoleModel({ maxPorts: 512 })).toThrow('EINVAL');
  });
});
