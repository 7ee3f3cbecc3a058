import { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ExecAdapter } from './adapters/exec.ts';
import { RingbookAdapter } from './adapters/ringbook.ts';
import { serve } from './adapters/serve.ts';
import type { DeviceStep } from './device-script/steps.ts';
import type { WireDevice } from './device-script/wire.ts';
import { runCases } from './runner.ts';
import type { LoadedCase, Suite } from './suite.ts';
import type { CaseResult, Reply, Request } from './types.ts';
import { validate } from './validate.ts';

const FIXTURE = fileURLToPath(new URL('fixtures/device-adapter.mjs', import.meta.url));
const MAGIC: readonly DeviceStep[] = [{ do: 'get', field: 'magic_value', as: 'magic' }];
const MMIO: WireDevice = { type: 'entropy', transport: 'mmio', ring: 'split' };

const makeCase = (script: readonly DeviceStep[], changes: Partial<LoadedCase> = {}): LoadedCase => ({
  ...{ id: '06-test/one@mmio', title: 'A case of this test', chapter: '06-test', clauses: ['test.one'], strictness: 'must', legalDriver: true },
  ...{ surface: 'device', needs: [], requires: ['virtio-mmio'], devices: [MMIO], device: { script }, limits: { timeoutMs: 30_000 } },
  allowed: { observations: { magic: '0x74726976' } },
  ...changes,
});

const suite: Suite = { cases: [], clauses: new Map(), capabilities: new Map(), revision: '0'.repeat(64) };

async function result(manner: string, script: readonly DeviceStep[] = MAGIC, changes: Partial<LoadedCase> = {}): Promise<CaseResult> {
  const limits = manner === 'hangs' ? { limits: { timeoutMs: 300 } } : {};
  const cases = [makeCase(script, { ...changes, ...limits })];
  const makeAdapter = () => new ExecAdapter({ command: [process.execPath, FIXTURE, manner] });
  const outcome = await runCases({ suite, cases, target: 't', makeAdapter, graceMs: 300 });
  return outcome.results[0] as CaseResult;
}

describe('a device case in another process', () => {
  it('is judged by what its script saw', async () => {
    expect(await result('good')).toMatchObject({ verdict: 'pass', observed: [['magic', '0x74726976']] });
    const wrong = await result('good', [{ do: 'get', field: 'version', as: 'magic' }]);
    expect(wrong).toMatchObject({ verdict: 'fail', failures: [{ kind: 'wrong', key: 'magic', observed: '0x2', allowed: '0x74726976' }] });
  });

  it('fails where the device lets the driver go no further, and says where that was', async () => {
    const changes = { allowed: { observations: {} } };
    const stuck = await result('good', [{ do: 'init' }, ...MAGIC], changes);
    expect(stuck).toMatchObject({ verdict: 'fail', failures: [{ kind: 'unfinished', key: 'script' }] });
    expect(stuck.reason).toMatch(/^stuck: after a reset the status stays 0xffffffff/);
    expect((await result('good', [{ do: 'init' }, ...MAGIC])).reason).toMatch(/missing magic: nothing was observed \(after a reset/);
  });

  it('is unsupported for a handle that the host lacks, if nothing before was wrong', async () => {
    const host: DeviceStep = { do: 'host', action: 'actual', as: 'actual' };
    expect(await result('good', [...MAGIC, host])).toMatchObject({ verdict: 'unsupported', reason: 'nobody is at the other end' });
    expect(await result('good', [{ do: 'get', field: 'version', as: 'magic' }, host])).toMatchObject({ verdict: 'fail' });
    expect(await result('good', MAGIC, { requires: ['virtio-pci'] })).toMatchObject({ verdict: 'unsupported', reason: 'virtio-pci: it has no bus' });
  });

  it('keeps apart the ways in which an adapter can go wrong', async () => {
    expect(await result('dies')).toMatchObject({ verdict: 'crash' });
    expect(await result('hangs')).toMatchObject({ verdict: 'timeout' });
    expect(await result('gives-up')).toMatchObject({ verdict: 'error', reason: 'the adapter reports: the machine burns' });
    expect(await result('no-machine')).toMatchObject({ verdict: 'error', reason: 'the adapter reports: no room' });
    expect((await result('short')).reason).toMatch(/answered [0-9]+ results to [0-9]+ operations/);
    expect((await result('dodges')).reason).toMatch(/'load' cannot be unsupported/);
    expect((await result('too-wide')).reason).toMatch(/access of 4 bytes returned 0x1ffffffff/);
    expect((await result('wrong-end')).reason).toMatch(/answered request x when 1 was asked/);
    for (const manner of ['short', 'dodges', 'too-wide', 'wrong-end']) expect((await result(manner)).verdict).toBe('error');
  });

  it('reports a script that makes no sense as an error of the suite', async () => {
    const script: DeviceStep[] = [...MAGIC, { do: 'read', memory: 'nothing', bytes: 1, as: 'x' }];
    expect(await result('good', script)).toMatchObject({ verdict: 'error', reason: expect.stringContaining("no memory is called 'nothing'") });
  });
});

describe('serving a device surface', () => {
  async function exchange(requests: readonly unknown[]): Promise<Reply[]> {
    const replies: Reply[] = [];
    const output = new Writable({
      write(chunk: Buffer, _encoding, done) {
        replies.push(validate<Reply>('protocol-reply', JSON.parse(chunk.toString()), 'reply'));
        done();
      },
    });
    const lines = requests.map((request) => `${JSON.stringify(validate<Request>('protocol-request', request, 'request'))}\n`);
    await serve(new RingbookAdapter('ept'), Readable.from(lines.map((line) => Buffer.from(line))), output);
    return replies;
  }
  const run = {
    type: 'run',
    id: '1',
    case: 'x',
    surface: 'device',
    machine: { memoryMiB: 8, devices: [MMIO], needs: [] },
    limits: { timeoutMs: 1000 },
  };

  it('opens a machine, makes accesses, and ends it', async () => {
    const ops = [
      { do: 'load', gpa: '0xfeb03000', bytes: 4 },
      { do: 'fill', gpa: '0x100000', count: 4, byte: 7 },
      { do: 'read', gpa: '0x100000', count: 4 },
      { do: 'store', gpa: '0x100002', bytes: 1, value: '0xff' },
      { do: 'load', gpa: '0x100000', bytes: 4 },
      { do: 'out', port: '0xcf8', bytes: 4, value: '0x80000000' },
      { do: 'in', port: '0xcfc', bytes: 4 },
      { do: 'lines' },
    ];
    const replies = await exchange([run, { type: 'access', id: '1', ops }, { type: 'end', id: '1' }, { type: 'stop' }]);
    expect(replies[0]).toEqual({ type: 'ready', id: '1' });
    expect(replies[1]).toMatchObject({
      results: [{ value: '0x74726976' }, {}, { data: 'BwcHBw==' }, {}, { value: '0x7ff0707' }, {}, { value: '0x29c08086' }, { lines: [] }],
    });
    expect(replies[2]).toMatchObject({ type: 'ran', surface: 'device', traceHash: expect.stringMatching(/^[0-9a-f]{64}$/) });
  });

  it('answers what cannot be done with an error, and goes on', async () => {
    const outside = { type: 'access', id: '1', ops: [{ do: 'read', gpa: '0xffffffff0', count: 4 }] };
    const replies = await exchange([{ type: 'end', id: '0' }, run, outside, run, { type: 'end', id: '1' }, { type: 'stop' }]);
    expect(replies.map(({ type }) => type)).toEqual(['error', 'ready', 'error', 'ready', 'ran', 'stopped']);
  });
});
