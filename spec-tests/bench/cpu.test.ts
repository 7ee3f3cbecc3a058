import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { readImage } from '../../guest-payloads/host/images.ts';
import { PAYLOADS } from '../../guest-payloads/index.ts';
import { runBare } from './cpu-machine.ts';
import { geometricMean, meanRatio, type Report, ratio, type TaskReport } from './cpu-report.ts';
import { imageName, multibootDoor, reported, resultOf, TASKS, type Task, taskName, WORKLOADS, withParameters } from './cpu-workloads.ts';

const ALL = 0xffff_ffff;

/** Each image once, with its tasks. */
const images = [...new Set(TASKS.map(imageName))].map((name) => ({ name, tasks: TASKS.filter((task) => imageName(task) === name) }));
const resultFor = (name: string): number => resultOf({ workload: WORKLOADS.find((workload) => workload.name === name)!, width: 32 });

describe('the results that a run is held against', () => {
  // What the payloads fill their buffers with.
  let seed = 12345;
  const message = Uint8Array.from({ length: 65536 }, () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed >>> 24;
  });

  it('are those of other programs', () => {
    expect(resultFor('crc32')).toBe(crc32(message));
    const hash = createHash('sha256').update(message.subarray(0, 16384)).digest();
    expect(resultFor('sha256')).toBe([0, 4, 8, 12, 16, 20, 24, 28].reduce((sum, at) => (sum ^ hash.readUInt32BE(at)) >>> 0, 0));
    const steps = (n: number): number => (n < 2 ? 0 : 1 + steps(n % 2 === 1 ? 3 * n + 1 : n / 2));
    expect(resultFor('bytecode')).toBe(Array.from({ length: 299 }, (_, n) => steps(n + 1)).reduce((sum, n) => sum + n));
    const prime = (n: number): boolean => !Array.from({ length: Math.floor(Math.sqrt(n)) - 1 }, (_, d) => d + 2).some((d) => n % d === 0);
    expect(resultFor('sieve')).toBe(Array.from({ length: 65534 }, (_, n) => n + 2).filter(prime).length);
  });
});

describe.each(images)('$name', ({ name, tasks }) => {
  it('is a payload, and comes to its results, interpreted and translated, in as many instructions', { timeout: 60_000 }, () => {
    expect(PAYLOADS.map((payload) => payload.name)).toContain(name);
    const image = withParameters(readImage(name), ALL, 2);
    const [interpreted, translated] = [false, true].map((translate) => runBare(image, multibootDoor(name), { translate })) as [
      ReturnType<typeof runBare>,
      ReturnType<typeof runBare>,
    ];
    for (const task of tasks.filter(({ workload }) => workload.name !== 'chains'))
      expect(reported(interpreted.output, task), taskName(task)).toBe(resultOf(task));
    expect(translated.output).toBe(interpreted.output);
    expect(translated.end.instructions).toBe(interpreted.end.instructions);
  });
});

describe('parameters', () => {
  const task = TASKS.find(({ workload }) => workload.name === 'recursion') as Task;
  const image = readImage(imageName(task));

  it('choose one workload, and as many rounds take as many times the instructions', () => {
    const counts = [1, 2, 3].map((rounds) => {
      const { begin, end, output } = runBare(withParameters(image, task.workload.index, rounds), multibootDoor(imageName(task)), {
        translate: false,
      });
      expect([...output.matchAll(/^RB1 obs (\S+)/gm)].map(([, key]) => key)).toEqual(['recursion']);
      return end.instructions - begin.instructions;
    }) as [number, number, number];
    expect(counts[2] - counts[1]).toBe(counts[1] - counts[0]);
    expect(counts[1] - counts[0]).toBeGreaterThan(100_000);
  });

  it('are refused by an image that has none', () => {
    expect(() => withParameters(readImage('halt'), 0, 1)).toThrow('no parameters');
  });
});

describe('ratios', () => {
  const figure = (...roundsPerSecond: number[]) => ({
    ...{ rounds: 1, startMs: 1, runMs: 1, mips: null },
    ...{ roundsPerSecond, wholeRoundsPerSecond: roundsPerSecond.map((value) => value / 2) },
  });
  const task = (name: string, peers: TaskReport['peers']): TaskReport => ({
    ...{ name, width: 32, kind: 'integer', about: '', instructionsPerRound: null, peers },
  });
  const one = task('one', { ours: figure(4, 10, 6), theirs: figure(1, 5, 1) });
  const two = task('two', { ours: figure(1), theirs: figure(4) });
  const three = task('three', { ours: figure(1), theirs: { failed: 'it fell over' } });

  it('are medians of the paired rounds', () => {
    expect(ratio(one, 'ours', 'theirs')).toBe(4);
    expect(ratio(three, 'ours', 'theirs')).toBe(null);
    expect(ratio(one, 'ours', 'nobody')).toBe(null);
  });

  it('are averaged geometrically, over what both have a figure for', () => {
    const report = { tasks: [one, two, three] } as unknown as Report;
    expect(meanRatio(report, 32, 'ours', 'theirs')).toEqual({ mean: 1, of: 2 });
    expect(meanRatio(report, 64, 'ours', 'theirs')).toBe(null);
    expect(geometricMean([])).toBe(null);
  });
});
