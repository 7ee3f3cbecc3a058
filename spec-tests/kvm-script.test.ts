import { describe, expect, it } from 'vitest';
import { ERRNO } from '../chapters/02-kvm-objects/errno.ts';
import type { Kernel } from '../chapters/02-kvm-objects/kernel.ts';
import { executeScript } from './adapters/kvm-execute.ts';
import { compileScript, constant, RUN_BYTES, readSteps } from './kvm-script.ts';
import type { Case, RunKvm, ScriptStep, WireStep } from './types.ts';
import { validate } from './validate.ts';

const scriptCase = (script: readonly ScriptStep[]): Case => ({
  id: '02-test/script',
  title: 'A script for the tests',
  chapter: '02-test',
  clauses: ['kvm.test.script'],
  strictness: 'must',
  legalDriver: true,
  surface: 'kvm',
  needs: [],
  kvm: { script },
  limits: { timeoutMs: 1000 },
  allowed: { observations: {} },
});

const compile = (...script: ScriptStep[]) => compileScript(scriptCase(script));
const OPEN: ScriptStep = { do: 'open', fd: 'kvm' };
const VM: ScriptStep = { do: 'ioctl', fd: 'kvm', request: 'KVM_CREATE_VM', arg: 0, result: 'vm' };
const VCPU: ScriptStep = { do: 'ioctl', fd: 'vm', request: 'KVM_CREATE_VCPU', arg: 0, result: 'vcpu' };
const RAM: ScriptStep = { do: 'allocate', memory: 'ram', bytes: 8192 };
const bytesOf = (op: object): Uint8Array => new Uint8Array(Buffer.from((op as { bytes: string }).bytes, 'base64'));

describe('compiling a script', () => {
  it('turns names into numbers, offsets and bytes', () => {
    const { ops } = compile(OPEN, VM, RAM, {
      do: 'ioctl',
      fd: 'vm',
      request: 'KVM_SET_USER_MEMORY_REGION',
      arg: {
        slot: 3,
        flags: 'KVM_MEM_READONLY',
        guest_phys_addr: '0x1122334455667788',
        memory_size: '0x2000',
        userspace_addr: { memory: 'ram', offset: 16 },
      },
    });
    const region = ops[3] as { request: string; pointers: unknown };
    expect(region.request).toBe('0x4020ae46');
    expect(region.pointers).toEqual([{ at: 24, memory: 'ram', offset: 16 }]);
    expect([...bytesOf(ops[3] as object)]).toEqual([
      3,
      0,
      0,
      0,
      2,
      0,
      0,
      0,
      0x88,
      0x77,
      0x66,
      0x55,
      0x44,
      0x33,
      0x22,
      0x11,
      0,
      0x20,
      0,
      0,
      0,
      0,
      0,
      0,
      ...Array(8).fill(0),
    ]);
  });

  it('reaches nested fields, array elements and tails', () => {
    const { ops } = compile(OPEN, VM, VCPU, {
      do: 'ioctl',
      fd: 'vcpu',
      request: 'KVM_SET_MSRS',
      arg: { nmsrs: 2, 'entries[1].index': '0xc0000082', 'entries[1].data': '0x55' },
    });
    const bytes = bytesOf(ops[3] as object);
    expect(bytes.length).toBe(8 + 2 * 16);
    expect(new DataView(bytes.buffer).getUint32(24, true)).toBe(0xc0000082);
    expect(new DataView(bytes.buffer).getUint32(32, true)).toBe(0x55);
    const sregs = compile(OPEN, VM, VCPU, { do: 'ioctl', fd: 'vcpu', request: 'KVM_SET_SREGS', arg: { 'cs.selector': '0x8' } }).ops[3] as object;
    expect(bytesOf(sregs)[12]).toBe(8);
  });

  it('makes messages that follow the published schema', () => {
    const { ops } = compile(
      OPEN,
      VM,
      VCPU,
      { do: 'mmap', fd: 'vcpu', map: 'run', bytes: 4096 },
      { do: 'poke', target: 'run', fields: { immediate_exit: 1 } },
      { do: 'run', fd: 'vcpu', map: 'run' },
      { do: 'close', fd: 'vcpu' },
    );
    const request = { type: 'run', id: '1', case: 'x', surface: 'kvm', kvm: { ops }, limits: { timeoutMs: 1 } };
    expect(validate('protocol-request', request, 'test')).toBe(request);
  });

  it.each<[string, ScriptStep[], RegExp]>([
    ['an unknown request', [OPEN, { do: 'ioctl', fd: 'kvm', request: 'KVM_MAKE_TEA' }], /KVM_MAKE_TEA is not a request/],
    [
      'an unknown field',
      [OPEN, VM, VCPU, { do: 'ioctl', fd: 'vcpu', request: 'KVM_SET_REGS', arg: { rxx: 1 } }],
      /'rxx' is not a field of kvm_regs; it has rax/,
    ],
    [
      'a value that does not fit',
      [OPEN, VM, VCPU, { do: 'ioctl', fd: 'vcpu', request: 'KVM_SET_SREGS', arg: { 'cs.selector': '0x10000' } }],
      /2 bytes wide; 0x10000 does not fit/,
    ],
    [
      'an address in a narrow field',
      [RAM, OPEN, VM, { do: 'ioctl', fd: 'vm', request: 'KVM_SET_USER_MEMORY_REGION', arg: { slot: { memory: 'ram' } } }],
      /cannot hold an address/,
    ],
    ['a descriptor that is not there', [{ do: 'ioctl', fd: 'vm', request: 'KVM_CREATE_VCPU', arg: 0 }], /no descriptor called 'vm'/],
    ['a name twice', [OPEN, OPEN], /'kvm' is already taken/],
    [
      'an unknown constant',
      [OPEN, { do: 'ioctl', fd: 'kvm', request: 'KVM_CHECK_EXTENSION', arg: 'KVM_CAP_TEA' }],
      /neither a number nor a constant/,
    ],
    ['a read without a name', [OPEN, VM, VCPU, { do: 'ioctl', fd: 'vcpu', request: 'KVM_GET_REGS', get: ['rip'] }], /give the step an 'as'/],
    [
      'fields of a request that has none',
      [OPEN, { do: 'ioctl', fd: 'kvm', request: 'KVM_GET_API_VERSION', as: 'v', get: ['rip'] }],
      /returns no structure/,
    ],
    [
      'a record in place of a field',
      [OPEN, VM, VCPU, { do: 'ioctl', fd: 'vcpu', request: 'KVM_GET_SREGS', as: 's', get: ['cs'] }],
      /name one of base/,
    ],
  ])('refuses %s', (_what, script, reason) => {
    expect(() => compileScript(scriptCase(script))).toThrow(reason);
  });

  it('knows the constants of the ABI', () => {
    expect(constant('KVM_EXIT_IO')).toBe(2n);
    expect(constant('EINVAL')).toBeNull();
  });
});

describe('reading the replies', () => {
  const script = compile(OPEN, { ...VM, as: 'vm' } as ScriptStep, VCPU, {
    do: 'ioctl',
    fd: 'vcpu',
    request: 'KVM_GET_REGS',
    as: 'regs',
    get: ['rip', 'rax'],
  });
  const regs = (bytes: number): WireStep => {
    const image = Buffer.alloc(bytes);
    if (bytes >= 144) image.writeBigUInt64LE(0xfedcba9876543210n, 128);
    return { ret: '0', bytes: image.toString('base64') };
  };

  it('gives results, descriptors and errors their names', () => {
    expect(readSteps(script, [{ ret: '3' }, { ret: '4' }, { ret: '5' }, regs(144)]).observations).toEqual([
      ['vm.ret', 'fd'],
      ['regs.ret', '0x0'],
      ['regs.rip', '0xfedcba9876543210'],
      ['regs.rax', '0x0'],
    ]);
    expect(readSteps(script, [{ ret: '3' }, { ret: '-22' }]).observations).toEqual([['vm.ret', 'EINVAL']]);
  });

  it('says why something was not observed', () => {
    const report = readSteps(script, [{ ret: '3' }, { ret: '-22' }, { skipped: "'vm' does not exist" }, { skipped: "'vcpu' does not exist" }]);
    expect(report.whyMissing('regs.rip')).toBe("'vcpu' does not exist");
    expect(report.whyMissing('vm.ret')).toBeNull();
  });

  it('does not accept replies that do not fit the script', () => {
    expect(readSteps(script, [{ ret: '3' }, { ret: '4' }, { ret: '5' }, regs(100)]).malformed).toMatch(/too few to hold regs.rip/);
    expect(readSteps(script, Array<WireStep>(5).fill({ ret: '0' })).malformed).toMatch(/answered 5 steps of 4/);
  });
});

// A kernel of ten lines: enough to see that the player names, patches, points and skips as the protocol says.

describe('playing a script', () => {
  const run = new Uint8Array(RUN_BYTES);
  const closed: number[] = [];
  let runs = 0;
  const kernel: Kernel = {
    name: 'toy',
    open: (path) => (path === '/dev/kvm' ? 3 : -ERRNO.ENOENT),
    close: (fd) => closed.push(fd) && 0,
    ioctl(fd, request, arg) {
      if (request === 0xae80) return ++runs < 3 ? -ERRNO.EINTR : 0;
      if (arg instanceof Uint8Array) arg[0] = (arg[0] as number) + 1;
      return fd === 3 ? 4 : -ERRNO.EINVAL;
    },
    mmap: () => run,
    allocate: (bytes) => ({ hva: 0x7000, bytes: new Uint8Array(bytes) }),
    free: () => 0,
    clock: { now: () => 0, alarm() {}, sleep() {} },
    eventfd: () => -ERRNO.EINVAL,
    read: () => -ERRNO.EINVAL,
    write: () => -ERRNO.EINVAL,
  };
  const play = (ops: RunKvm['kvm']['ops'], now?: () => number) =>
    executeScript(kernel, { type: 'run', id: '1', case: 'x', surface: 'kvm', kvm: { ops }, limits: { timeoutMs: 1000 } }, now);
  const b64 = (...bytes: number[]): string => Buffer.from(bytes).toString('base64');

  it('returns what the kernel left in the buffer, and builds on it', () => {
    const { steps } = play([
      { do: 'open', path: '/dev/kvm', fd: 'kvm' },
      { do: 'allocate', memory: 'ram', bytes: 16 },
      { do: 'ioctl', fd: 'kvm', request: '0x1', bytes: b64(1, 2, 3, 4, 5, 6, 7, 8, 9) },
      {
        do: 'ioctl',
        fd: 'kvm',
        request: '0x1',
        base: 2,
        patches: [{ at: 8, bytes: b64(0xaa) }],
        pointers: [{ at: 0, memory: 'ram', offset: 2 }],
        result: 'vm',
      },
      { do: 'ioctl', fd: 'vm', request: '0x2', number: '0x0', result: 'gone' },
      { do: 'ioctl', fd: 'gone', request: '0x3' },
    ]);
    expect(steps[2]).toEqual({ ret: '4', bytes: b64(2, 2, 3, 4, 5, 6, 7, 8, 9) });
    expect(steps[3]).toEqual({ ret: '4', bytes: b64(3, 0x70, 0, 0, 0, 0, 0, 0, 0xaa) });
    expect(steps[4]).toEqual({ ret: '-22' });
    expect(steps[5]).toEqual({ skipped: "'gone' does not exist: ioctl 0x2 failed with EINVAL" });
    expect(closed).toEqual([4, 3]);
  });

  it('pokes and peeks through an offset that is stored in the target, and stays inside it', () => {
    run.fill(0);
    run[40] = 0x20;
    const map = [
      { do: 'open', path: '/dev/kvm', fd: 'kvm' },
      { do: 'mmap', fd: 'kvm', map: 'run', bytes: 4096 },
    ] as const;
    const { steps } = play([
      ...map,
      { do: 'poke', target: 'run', at: { in: 40 }, bytes: b64(7, 8) },
      { do: 'peek', target: 'run', at: 0x20, count: 2 },
    ]);
    expect(steps[3]).toEqual({ ret: '0', bytes: b64(7, 8) });
    run.fill(0xff, 40, 48);
    const outside = play([
      ...map,
      { do: 'peek', target: 'run', at: { in: 40 }, count: 1 },
      { do: 'poke', target: 'run', at: RUN_BYTES - 1, bytes: b64(1, 2) },
    ]).steps;
    expect(outside[2]).toMatchObject({ skipped: expect.stringMatching(/is outside the 8192 bytes/) });
    expect(outside[3]).toMatchObject({ skipped: expect.stringMatching(/is outside/) });
  });

  it('takes an interrupted run up again, unless told otherwise, and not for ever', () => {
    const prefix = [
      { do: 'open', path: '/dev/kvm', fd: 'kvm' },
      { do: 'mmap', fd: 'kvm', map: 'run', bytes: 4096 },
    ] as const;
    runs = 0;
    expect(play([...prefix, { do: 'run', fd: 'kvm', map: 'run', resume: true }]).steps[2]).toMatchObject({ ret: '0' });
    runs = 0;
    expect(play([...prefix, { do: 'run', fd: 'kvm', map: 'run', resume: false }]).steps[2]).toMatchObject({ ret: '-4' });
    runs = -1e9;
    let clock = 0;
    const late = play([...prefix, { do: 'run', fd: 'kvm', map: 'run', resume: true }, { do: 'close', fd: 'kvm' }], () => (clock += 100));
    expect(late.timedOut).toBe(true);
    expect(late.steps).toHaveLength(3);
  });
});
