import { describe, expect, it } from 'vitest';
import { BadResult } from './bus.ts';
import { checkScript } from './check.ts';
import { playScript, type ScriptReport } from './interpret.ts';
import { TableMachine, type TableOptions } from './laboratory.ts';
import { type DeviceStep, ScriptError } from './steps.ts';
import { patternBytes } from './steps-data.ts';
import { OPS_PER_ACCESS, type WireDevice } from './wire.ts';

const ENTROPY: WireDevice = { type: 'entropy', transport: 'mmio', ring: 'split' };
const PCI: WireDevice = { type: 'block', transport: 'pci', ring: 'packed' };

function play(
  script: readonly DeviceStep[],
  options: TableOptions = {},
  devices: readonly WireDevice[] = [ENTROPY],
): ScriptReport & { machine: TableMachine } {
  const machine = new TableMachine(options);
  return { ...machine.play(playScript(script, { devices, memoryMiB: 2 })), machine };
}
const seen = (report: ScriptReport): Record<string, string> => Object.fromEntries(report.observations);

const BUFFER: DeviceStep[] = [
  { do: 'init', queues: [{ queue: 0, size: 4 }] },
  { do: 'memory', memory: 'buf', bytes: 32 },
];

describe('a script', () => {
  it('gives a buffer to a device and observes what came back', () => {
    const report = play([
      ...BUFFER,
      {
        do: 'chain',
        queue: 0,
        buffers: [
          { memory: 'buf', bytes: 4 },
          { memory: 'buf', offset: 8, bytes: 8, writable: true },
        ],
      },
      { do: 'kick', queue: 0 },
      { do: 'wait', queue: 0, used: 1 },
      { do: 'used', queue: 0, element: 0, get: ['chain', 'id', 'len', 'count'], as: 'u' },
      { do: 'compare', memory: 'buf', offset: 8, count: 8, byte: 0x5a, as: 'filled' },
      { do: 'compare', memory: 'buf', offset: 0, count: 8, byte: 0x5a, as: 'before' },
      { do: 'notified', queue: 0, as: 'told' },
      { do: 'notified', queue: 0, as: 'again' },
      { do: 'read', memory: 'q0.device', offset: 2, bytes: 2, as: 'idx' },
    ]);
    expect(report).toMatchObject({ stuck: null, unsupported: null });
    const expected = {
      'u.chain': '0x0',
      'u.id': '0x0',
      'u.len': '0x8',
      'u.count': '0x1',
      filled: '0x1',
      before: '0x0',
      told: '0x1',
      again: '0x0',
      idx: '0x1',
    };
    expect(seen(report)).toEqual(expected);
  });

  it('follows indices around a ring, as often as they go', () => {
    const report = play([
      ...BUFFER,
      {
        do: 'repeat',
        times: 700,
        steps: [
          { do: 'chain', queue: 0, buffers: [{ memory: 'buf', bytes: 1, writable: true }] },
          { do: 'kick', queue: 0 },
          { do: 'used', queue: 0, as: 'n' },
        ],
      },
      { do: 'used', queue: 0, element: 699, get: ['chain'], as: 'last' },
    ]);
    expect(report.stuck).toBeNull();
    expect(seen(report)).toEqual({ 'n.count': '0x2bc', 'last.chain': '0x2bb' });
  });

  it('says why it is stuck, and keeps what it has seen', () => {
    const refused = play(
      [
        { do: 'get', field: 'magic_value', as: 'magic' },
        { do: 'init', as: 'status' },
      ],
      { refuses: 8 },
    );
    expect(refused.stuck).toMatch(/did not keep FEATURES_OK/);
    expect(seen(refused)).toEqual({ magic: '0x74726976' });
    expect(play([{ do: 'find' }], { deviceId: 2 }).stuck).toMatch(/no window .* type 4/);
    expect(seen(play([{ do: 'find', as: 'found' }], { deviceId: 2 }))).toEqual({ found: '0x0' });
    const deaf: DeviceStep[] = [
      ...BUFFER,
      { do: 'chain', queue: 0, buffers: [{ memory: 'buf', bytes: 1, writable: true }] },
      { do: 'kick', queue: 0 },
    ];
    const silent = play([...deaf, { do: 'wait', queue: 0, used: 1 }], { deaf: true });
    expect(silent.stuck).toBe('queue 0 gave back 0 buffers, where 1 were waited for');
    expect(silent.machine.nanoseconds).toBeGreaterThan(0n);
    expect(seen(play([...deaf, { do: 'wait', queue: 0, used: 1, as: 'came' }], { deaf: true }))).toEqual({ came: '0x0' });
  });

  it('is unsupported for want of a feature or of a handle, and of nothing else', () => {
    expect(play([{ do: 'require', features: ['in_order', 'event_idx'] }]).unsupported).toBe('the device does not offer EVENT_IDX, IN_ORDER');
    expect(play([{ do: 'init', features: ['event_idx'] }]).unsupported).toMatch(/EVENT_IDX/);
    expect(play([{ do: 'host', action: 'actual', as: 'x' }]).unsupported).toBe('no actual');
    expect(play([{ do: 'init' }], { offered: 0n }).stuck).toMatch(/VERSION_1/);
    expect(() => play([{ do: 'require', features: ['version_1'] }])).toThrow(ScriptError);
    const machine = new TableMachine();
    const script = playScript([{ do: 'status', as: 's' }], { devices: [ENTROPY], memoryMiB: 2 });
    script.next();
    expect(() => script.next([{ unsupported: 'I would rather not' }])).toThrow(BadResult);
    expect(machine.accesses).toBe(0);
  });

  it('negotiates what it is told to, and no more', () => {
    const offered = (1n << 32n) | (1n << 29n) | (1n << 28n);
    const { machine } = play([{ do: 'init', features: ['event_idx'], optional: ['in_order'], force: [50] }], { offered });
    expect([machine.log.filter((op) => op.do === 'store' && Number(op.gpa) % 0x200 === 0x20).map((op) => (op as { value: string }).value)]).toEqual([
      ['0x20000000', '0x40001'],
    ]);
  });

  it('sends what returns nothing together with what follows', () => {
    const writes: DeviceStep[] = [
      { do: 'memory', memory: 'a', bytes: 16 },
      ...Array.from({ length: 50 }, (): DeviceStep => ({ do: 'fill', memory: 'a', byte: 1 })),
    ];
    expect(play([...writes, { do: 'read', memory: 'a', bytes: 4, as: 'a' }]).machine.accesses).toBe(1);
    const many: DeviceStep[] = [
      { do: 'memory', memory: 'a', bytes: 16 },
      { do: 'repeat', times: OPS_PER_ACCESS, steps: [{ do: 'fill', memory: 'a', byte: 1 }] },
    ];
    expect(play(many).machine.accesses).toBe(2);
  });

  it('keeps values, and compares and adds to them', () => {
    const report = play([
      { do: 'memory', memory: 'a', bytes: 16, hex: '01 02 03 04' },
      { do: 'read', memory: 'a', bytes: 2, keep: 'x' },
      { do: 'write', memory: 'a', offset: 8, value: { kept: 'x', times: 2, plus: 1 }, bytes: 4 },
      { do: 'read', memory: 'a', offset: 8, bytes: 4, as: 'sum', keep: 'y' },
      { do: 'same', left: { kept: 'x' }, right: { kept: 'y' }, as: 'same' },
    ]);
    expect(seen(report)).toEqual({ sum: '0x403', same: '0x0' });
  });

  it('counts asserted lines and their rises, without the timers', () => {
    expect(seen(play([{ do: 'lines', as: 'l' }]))).toEqual({ l: '0x1', 'l.rises': '0x2' });
  });

  it('refuses to read or write outside its own memory', () => {
    expect(() =>
      play([
        { do: 'memory', memory: 'a', bytes: 4 },
        { do: 'read', memory: 'a', offset: 2, bytes: 4, as: 'x' },
      ]),
    ).toThrow(ScriptError);
    expect(() => play([{ do: 'memory', memory: 'a', bytes: 4 << 20 }])).toThrow(/no room/);
  });
});

describe('the pattern of a disk', () => {
  it('is the same from whichever byte one begins', () => {
    const whole = patternBytes(0, 64);
    expect([...whole.subarray(4, 8)]).toEqual([0xb1, 0x79, 0x37, 0x9e]);
    for (const [from, count] of [
      [5, 9],
      [4, 4],
      [63, 1],
      [0, 0],
    ] as const)
      expect([...patternBytes(from, count)]).toEqual([...whole.subarray(from, from + count)]);
  });
});

describe('checking a script', () => {
  const problems = (step: DeviceStep, device: WireDevice = ENTROPY): string[] => checkScript([step], [device]);

  it('finds names that mean nothing, on this transport and for this device', () => {
    expect(problems({ do: 'get', field: 'queue_notify_off', as: 'x' })).toEqual(["'get': the transport 'mmio' has no field 'queue_notify_off'"]);
    expect(problems({ do: 'get', field: 'queue_notify_off', as: 'x' }, PCI)).toEqual([]);
    expect(problems({ do: 'config', field: 'capacity', as: 'x' })).toHaveLength(1);
    expect(problems({ do: 'init', features: ['ro'] })).toHaveLength(1);
    expect(problems({ do: 'read', memory: 'nowhere', bytes: 1, as: 'x' })).toHaveLength(1);
    expect(problems({ do: 'read', memory: 'q0.desc', bytes: 1, as: 'x' })).toEqual([]);
    expect(problems({ do: 'set', field: 'queue_select', value: { kept: 'gone' } })).toHaveLength(1);
    expect(problems({ do: 'avail', queue: 0, idx: 1 }, PCI)).toHaveLength(1);
    expect(problems({ do: 'status', device: 1, as: 'x' })).toEqual(["'status': the machine has no device 1"]);
    expect(problems({ do: 'pci', offset: 0, bytes: 4, as: 'x' })).toHaveLength(1);
  });

  it('looks only at steps that can be reached', () => {
    const only: DeviceStep = { do: 'when', transport: ['pci'], steps: [{ do: 'get', field: 'queue_notify_off', as: 'x' }] };
    expect(problems(only)).toEqual([]);
    expect(problems({ ...only, transport: ['mmio'] })).toHaveLength(1);
    expect(problems({ do: 'when', offered: 'event_idx', steps: [], else: [{ do: 'get', field: 'nothing', as: 'x' }] })).toHaveLength(1);
  });
});
