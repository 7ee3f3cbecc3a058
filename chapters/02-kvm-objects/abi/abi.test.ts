// # The tables against the compiler
//
// The ABI's facts are typed into tables. Who checks the typing? The C compiler, where there is one with the kernel's headers: it is asked for every
// request code, offset and size. A few codes are also written out here, so that something is checked everywhere.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Field, Fields, Layout } from '../../01-hardware-background/layout.ts';
import { CAP, KVM_API_VERSION } from './capabilities.ts';
import * as eventfds from './eventfd.ts';
import * as events from './events.ts';
import * as exits from './exits.ts';
import { IOCTL, type RequestName, requestOf } from './ioctls.ts';
import * as irqchip from './irqchip.ts';
import * as memory from './memory.ts';
import * as registers from './registers.ts';

const isLayout = (value: unknown): value is Layout<Fields> => typeof value === 'object' && value !== null && 'encode' in value;
const layouts = [eventfds, events, exits, irqchip, memory, registers].flatMap((module) => Object.values(module)).filter(isLayout);

/** Structures that headers of older kernels lack. */
const NEWER = new Set([
  'kvm_run.memory_fault',
  'kvm_userspace_memory_region2',
  'kvm_run.hypercall.flags',
  'kvm_pre_fault_memory',
  'kvm_clock_data.realtime',
  'kvm_clock_data.host_tsc',
]);

/** A layout's field as a C member: some of our names flatten an inner structure. */
function member(layout: string, field: string): { struct: string; path: string } {
  const [struct, union] = layout.split('.') as [string, string | undefined];
  let path = field;
  if (layout === 'kvm_vcpu_events' && !/payload/.test(field)) path = field.replace(/^(exception|interrupt|nmi|smi|triple_fault)_/, '$1.');
  if (layout === 'kvm_guest_debug' && field === 'debugreg') path = 'arch.debugreg';
  if (layout === 'kvm_enable_cap') path = field.replace(/^arg(\d)$/, 'args[$1]');
  if (layout === 'kvm_irq_routing_entry')
    path = field.replace(/^(irqchip|pin)$/, 'u.irqchip.$1').replace(/^(address_lo|address_hi|data|devid)$/, 'u.msi.$1');
  if (layout === 'kvm_irqchip' && field === 'chip') path = 'chip.dummy';
  if (layout === 'kvm_coalesced_mmio' && field === 'pio') path = 'pio';
  if (layout === 'kvm_run.debug') path = `arch.${field}`;
  return { struct, path: union ? `${union}.${path}` : path };
}

/** `name value` lines that the compiler is asked for, and what our tables say. */
function questions(): { c: string; expected: Map<string, number> } {
  const expected = new Map<string, number>();
  const lines: string[] = [];
  const ask = (label: string, expression: string, value: number): void => {
    expected.set(label, value);
    lines.push(`printf("%s %llu\\n", "${label}", (unsigned long long)(${expression}));`);
  };
  // Requests that the installed header may not have yet are asked for only when it has them.
  for (const [name, code] of Object.entries(IOCTL)) {
    lines.push(`#ifdef ${name}`);
    ask(name, `(unsigned)${name}`, code);
    lines.push('#endif');
  }
  const constants = { ...CAP, ...exits.EXIT, ...exits.IO_DIRECTION, ...exits.INTERNAL_ERROR, ...exits.SYSTEM_EVENT, ...exits.RUN_FLAG };
  for (const [name, value] of Object.entries({
    ...constants,
    ...events.VCPUEVENT,
    ...events.INTERRUPT_SHADOW,
    ...events.MP_STATE,
    ...events.GUESTDBG,
    ...memory.KVM_MEM,
    ...memory.MANUAL_PROTECT,
    ...eventfds.IRQFD_FLAG,
    ...eventfds.IOEVENTFD_FLAG,
    ...eventfds.CLOCK_FLAG,
    ...irqchip.IRQCHIP,
    ...irqchip.IRQ_ROUTING,
    ...irqchip.PIT_FLAGS,
  })) {
    lines.push(`#ifdef ${name}`);
    ask(name, name, value);
    lines.push('#endif');
  }
  ask('KVM_API_VERSION', 'KVM_API_VERSION', KVM_API_VERSION);
  for (const layout of layouts) {
    if (layout.name.startsWith('__') || NEWER.has(layout.name)) continue;
    if (!layout.name.includes('.') && layout.name !== 'kvm_run') ask(`sizeof ${layout.name}`, `sizeof(struct ${layout.name})`, layout.bytes);
    for (const [field, { offset, bytes }] of Object.entries(layout.fields as Record<string, Field>)) {
      if (NEWER.has(`${layout.name}.${field}`)) continue;
      const { struct, path } = member(layout.name, field);
      ask(`${layout.name}.${field} offset`, `offsetof(struct ${struct}, ${path})`, offset);
      ask(`${layout.name}.${field} bytes`, `sizeof(((struct ${struct} *)0)->${path})`, bytes);
    }
  }
  const c = `#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {\n${lines.join('\n')}\nreturn 0; }\n`;
  return { c, expected };
}

function compile(source: string): Map<string, number> {
  const directory = mkdtempSync(join(tmpdir(), 'ringbook-abi-'));
  try {
    writeFileSync(join(directory, 'abi.c'), source);
    const built = spawnSync('gcc', ['-o', join(directory, 'abi'), join(directory, 'abi.c')], { encoding: 'utf8' });
    expect(built.stderr).toBe('');
    const { stdout } = spawnSync(join(directory, 'abi'), { encoding: 'utf8' });
    return new Map(
      stdout
        .trim()
        .split('\n')
        .map((line) => {
          const at = line.lastIndexOf(' ');
          return [line.slice(0, at), Number(line.slice(at + 1))];
        }),
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const compiler = spawnSync('gcc', ['--version']).status === 0;
const header = existsSync('/usr/include/linux/kvm.h');
const reason = !compiler ? 'no gcc' : !header ? 'no linux/kvm.h' : process.arch !== 'x64' ? `headers of ${process.arch}` : null;

describe('the ABI tables', () => {
  it.skipIf(reason !== null)(`agree with the kernel's header, says gcc${reason ? ` (skipped: ${reason})` : ''}`, () => {
    const { c, expected } = questions();
    const answers = compile(c);
    expect(answers.size).toBeGreaterThan(350);
    const wrong = [...answers]
      .filter(([label, value]) => expected.get(label) !== value)
      .map(([label, value]) => `${label}: ${value}, ours ${expected.get(label)}`);
    expect(wrong).toEqual([]);
  });

  it.each([
    ['KVM_GET_API_VERSION', 0xae00],
    ['KVM_CREATE_VM', 0xae01],
    ['KVM_GET_SUPPORTED_CPUID', 0xc008ae05],
    ['KVM_SET_USER_MEMORY_REGION', 0x4020ae46],
    ['KVM_SET_USER_MEMORY_REGION2', 0x40a0ae49],
    ['KVM_RUN', 0xae80],
    ['KVM_GET_REGS', 0x8090ae81],
    ['KVM_SET_REGS', 0x4090ae82],
    ['KVM_GET_SREGS', 0x8138ae83],
    ['KVM_SET_IRQCHIP', 0x8208ae63], // says that it reads
    ['KVM_GET_VCPU_EVENTS', 0x8040ae9f],
    ['KVM_GET_PIT2', 0x8070ae9f], // the same nr, told apart by the size
    ['KVM_GET_XSAVE', 0x9000aea4],
    ['KVM_GET_SREGS2', 0x8140aecc],
  ] as [RequestName, number][])('%s is %i', (name, code) => expect(IOCTL[name]).toBe(code));

  it('gives every code once, and finds it again', () => {
    const codes = Object.values(IOCTL);
    expect(new Set(codes).size).toBe(codes.length);
    for (const [name, code] of Object.entries(IOCTL)) {
      expect(requestOf(code)?.name).toBe(name);
      expect(requestOf(code | 0)?.name).toBe(name); // as a signed number
    }
    expect(requestOf(0xae7f)).toBeUndefined();
  });

  // The size in a request code is the size of the argument's structure. So the two tables can be checked against each other anywhere.
  it('agrees with itself: a request code holds the size of its structure', () => {
    const sizes: Partial<Record<RequestName, Layout<Fields>>> = {
      KVM_GET_REGS: registers.KvmRegs as unknown as Layout<Fields>,
      KVM_GET_SREGS: registers.KvmSregs as unknown as Layout<Fields>,
      KVM_GET_SREGS2: registers.KvmSregs2 as unknown as Layout<Fields>,
      KVM_GET_FPU: registers.KvmFpu as unknown as Layout<Fields>,
      KVM_GET_XSAVE: registers.KvmXsave as unknown as Layout<Fields>,
      KVM_GET_XCRS: registers.KvmXcrs as unknown as Layout<Fields>,
      KVM_GET_DEBUGREGS: registers.KvmDebugregs as unknown as Layout<Fields>,
      KVM_GET_MSRS: registers.KvmMsrs as unknown as Layout<Fields>,
      KVM_GET_MSR_INDEX_LIST: registers.KvmMsrList as unknown as Layout<Fields>,
      KVM_SET_CPUID2: registers.KvmCpuid2 as unknown as Layout<Fields>,
      KVM_GET_VCPU_EVENTS: events.KvmVcpuEvents as unknown as Layout<Fields>,
      KVM_INTERRUPT: events.KvmInterrupt as unknown as Layout<Fields>,
      KVM_GET_MP_STATE: events.KvmMpState as unknown as Layout<Fields>,
      KVM_SET_GUEST_DEBUG: events.KvmGuestDebug as unknown as Layout<Fields>,
      KVM_SET_SIGNAL_MASK: events.KvmSignalMask as unknown as Layout<Fields>,
      KVM_SET_USER_MEMORY_REGION: memory.KvmUserspaceMemoryRegion as unknown as Layout<Fields>,
      KVM_SET_USER_MEMORY_REGION2: memory.KvmUserspaceMemoryRegion2 as unknown as Layout<Fields>,
      KVM_GET_DIRTY_LOG: memory.KvmDirtyLog as unknown as Layout<Fields>,
      KVM_TRANSLATE: memory.KvmTranslation as unknown as Layout<Fields>,
      KVM_ENABLE_CAP: memory.KvmEnableCap as unknown as Layout<Fields>,
    };
    for (const [name, layout] of Object.entries(sizes)) expect([name, requestOf(IOCTL[name as RequestName])?.bytes]).toEqual([name, layout.bytes]);
  });

  it('names exits, known and unknown', () => {
    expect(exits.exitName(2)).toBe('KVM_EXIT_IO');
    expect(exits.exitName(13)).toBe('KVM_EXIT_13');
  });
});
