// # Exits in words
//
// A reader who clicks a crossing wants a sentence first and the fields after. Both are made from the event alone.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import { STATUS } from '../../chapters/06-virtio-rings/features.ts';

export interface Explained {
  readonly title: string;
  readonly sentence: string;
  /** Field and value, as the trace has them; a third column decodes. */
  readonly fields: readonly (readonly [name: string, value: string, meaning?: string])[];
}

const hex = (n: number | bigint): string => `0x${n.toString(16)}`;
const bit = (word: bigint, n: number): boolean => ((word >> BigInt(n)) & 1n) === 1n;
const bits = (word: bigint, lo: number, width: number): number => Number((word >> BigInt(lo)) & ((1n << BigInt(width)) - 1n));

/** What each basic exit reason means, for the ones that the guests of this book cause. Names are those of the trace. */
const REASONS: Readonly<Record<string, string>> = {
  EXCEPTION_NMI: 'The guest raised an exception that the hypervisor wanted to see, or an NMI arrived.',
  EXTERNAL_INTERRUPT: 'An interrupt for the host arrived: the guest did nothing; its time was up.',
  TRIPLE_FAULT: 'A fault while delivering a double fault: the processor has nowhere left to go, and the machine shuts down.',
  INTERRUPT_WINDOW: 'The guest can take an interrupt now; the hypervisor had asked to be told.',
  NMI_WINDOW: 'The guest can take an NMI now; the hypervisor had asked to be told.',
  TASK_SWITCH: 'The guest asked for a hardware task switch, which VMX leaves to software.',
  CPUID: 'CPUID always exits: what the processor claims to be is the hypervisor’s decision.',
  HLT: 'The guest has nothing to do until an interrupt comes.',
  INVLPG: 'The guest dropped one translation; with shadow paging the hypervisor must follow.',
  RDTSC: 'The guest read the time stamp counter.',
  VMCALL: 'The guest called the hypervisor on purpose.',
  CR_ACCESS: 'The guest touched a control register in a way the hypervisor watches.',
  DR_ACCESS: 'The guest touched a debug register.',
  IO_INSTRUCTION: 'The guest used a port. Ports belong to devices: a few of them live in the kernel, the others in the VMM.',
  MSR_READ: 'The guest read a model-specific register.',
  MSR_WRITE: 'The guest wrote a model-specific register.',
  INVALID_STATE: 'The VM entry failed: the guest state breaks a rule of the architecture.',
  MONITOR_TRAP_FLAG: 'One instruction has been executed; a single step was asked for.',
  GDTR_IDTR: 'The guest accessed GDTR or IDTR.',
  LDTR_TR: 'The guest accessed LDTR or TR.',
  EPT_VIOLATION: 'The guest touched memory that the second-stage tables do not map that way: a page to fill in, or a device.',
  EPT_MISCONFIG: 'A second-stage entry holds a combination that means nothing; KVM uses it on purpose to mark devices.',
  PREEMPTION_TIMER: 'The time given to the guest is used up.',
  XSETBV: 'The guest set XCR0, which always exits.',
  WBINVD: 'The guest wrote back and dropped the caches.',
};

/** What a message to a local APIC asks for: the delivery modes of its format. */
// biome-ignore format: table
const DELIVERY = [
  'an interrupt', 'an interrupt for whoever has the lowest priority', 'a system-management interrupt', 'nothing (a reserved mode)',
  'an NMI', 'INIT', 'start-up', 'an interrupt by an 8259',
];
const delivery = (mode: number, vector: number): string => {
  const what = DELIVERY[mode & 7] as string;
  return (mode & 7) < 2 ? `${what}, vector ${vector}` : (mode & 7) === 6 ? `${what} at page ${hex(vector)}` : what;
};
/** To whom, when the command does not name a destination. */
const SHORTHAND = ['', ' to itself', ' to all', ' to all but itself'];

/** What a device did, for the words that models use. */
const DEVICE_WORDS: Readonly<Record<string, (value: number) => string>> = {
  receive: (value) => `a frame of ${value} bytes has arrived and lies in the guest’s memory`,
  transmit: (value) => `a frame of ${value} bytes went out, read from the guest’s memory`,
  region: (value) => `the bus master moves data; ${value} bytes of the region are left`,
  command: (value) => `it was given command ${hex(value)}`,
  packet: (value) => `it was given a packet with command ${hex(value)}`,
  done: (value) => `the command is done, at sector ${value}`,
  code: (value) => `the diagnostic code ${hex(value)}`,
  sleep: (value) => `the guest asked to sleep, type ${value}`,
  exit: (value) => `the guest leaves with status ${value}`,
};

/** An input of a chip has been raised. */
const pinSentence = (chip: string, pin: number, coalesced: boolean): string =>
  coalesced
    ? `Pin ${pin} of ${chip} was raised, and nothing came of it: the request before is still waiting, or the pin is masked.`
    : `Pin ${pin} of ${chip} was raised: a device asks for attention.`;

const CR_ACCESS = ['MOV to CR', 'MOV from CR', 'CLTS', 'LMSW'];

/** The exit qualification, decoded for the reasons whose layout is worth knowing by heart. */
export function decodeQualification(reason: string, q: bigint): string {
  if (reason === 'IO_INSTRUCTION') {
    const size = bits(q, 0, 3) + 1;
    const parts = [`${bit(q, 3) ? 'IN' : 'OUT'}, ${size} ${size === 1 ? 'byte' : 'bytes'}, port ${hex(bits(q, 16, 16))}`];
    if (bit(q, 4)) parts.push('string');
    if (bit(q, 5)) parts.push('repeated');
    parts.push(bit(q, 6) ? 'port in the instruction' : 'port in DX');
    return parts.join(', ');
  }
  if (reason === 'CR_ACCESS') return `${CR_ACCESS[bits(q, 4, 2)]}${bits(q, 4, 2) < 2 ? `${bits(q, 0, 4)}, general register ${bits(q, 8, 4)}` : ''}`;
  if (reason === 'EPT_VIOLATION') {
    const access = [bit(q, 0) && 'read', bit(q, 1) && 'write', bit(q, 2) && 'fetch'].filter(Boolean).join(' and ');
    const allowed = [bit(q, 3) && 'read', bit(q, 4) && 'write', bit(q, 5) && 'fetch'].filter(Boolean).join(', ');
    const walk = bit(q, 7) ? (bit(q, 8) ? 'by the instruction itself' : 'by the walk of the guest’s own page tables') : 'no linear address';
    return `${access || 'access'} (${walk}); the entry allows ${allowed || 'nothing'}`;
  }
  if (reason === 'DR_ACCESS') return `${bit(q, 4) ? 'MOV from' : 'MOV to'} DR${bits(q, 0, 3)}, general register ${bits(q, 8, 4)}`;
  if (reason === 'TASK_SWITCH') return `selector ${hex(bits(q, 0, 16))}, by ${['CALL', 'IRET', 'JMP', 'a gate in the IDT'][bits(q, 30, 2)]}`;
  return '';
}

const list = (event: Timed, skip: readonly string[] = []): [string, string][] =>
  Object.entries(event)
    .filter(([key]) => key !== 'kind' && key !== 't' && !skip.includes(key))
    .map(([key, value]) => [
      key,
      typeof value === 'bigint' || (typeof value === 'number' && /^(port|gpa|address|data|errorCode|cr2|rip|entry|physical|status)$/.test(key))
        ? hex(value as bigint)
        : String(value),
    ]);

type Fields = Explained['fields'];

/** The fields, with words beside one of them. */
const withMeaning = (fields: Fields, field: string, meaning: string): Fields =>
  fields.map(([name, value]) => (name === field && meaning ? ([name, value, meaning] as const) : ([name, value] as const)));

/** Which vector is what, for exceptions. */
// biome-ignore format: table
const VECTORS = ['#DE', '#DB', 'NMI', '#BP', '#OF', '#BR', '#UD', '#NM', '#DF', '', '#TS', '#NP', '#SS', '#GP', '#PF', '', '#MF', '#AC', '#MC', '#XM', '#VE', '#CP'];
const vectorName = (vector: number): string => VECTORS[vector] || `vector ${vector}`;

const EINTR = 'KVM_RUN was interrupted: its time is up, an alarm of the VMM’s rang, or the processor sleeps and another has work.';

function deviceSentence({ device, what, value }: Extract<Timed, { kind: 'device' }>): string {
  const words = value === undefined ? undefined : DEVICE_WORDS[what]?.(value);
  return words ? `${device}: ${words}.` : `The device model: ${what}${value === undefined ? '' : ` ${hex(value)}`}.`;
}

/** What each queue is for, by device; the specification's names. */
const QUEUES: Readonly<Record<string, readonly string[]>> = {
  'virtio-rng': ['requestq'],
  'virtio-serial': ['receiveq', 'transmitq', 'control receiveq', 'control transmitq'],
  'virtio-balloon': ['inflateq', 'deflateq', 'statsq', 'free_page_vq', 'reporting_vq'],
  'virtio-blk': ['requestq'],
};
export const queueName = (device: string, queue: number): string => {
  const name = QUEUES[device]?.[queue];
  return name ? `${name} (queue ${queue})` : `queue ${queue}`;
};

const bytes = (n: number): string => `${n} ${n === 1 ? 'byte' : 'bytes'}`;

/** The bits of a status byte, in the order in which a driver sets them. */
export const statusWords = (status: number): string =>
  Object.entries(STATUS)
    .filter(([, mask]) => status & mask)
    .map(([name]) => name)
    .join(' ');

/** What passes between a driver and a virtio device. */
function virtio(event: Extract<Timed, { kind: `virt${string}` }>): readonly [title: string, sentence: string] {
  const { device } = event;
  if (event.kind === 'virtio_error') return ['broken', `The driver wrote what no driver may (${event.why}); ${device} is silent until it is reset.`];
  if (event.kind === 'virtio_set_status') {
    if (event.status === 0) return ['reset', `The driver resets ${device}: its queues and all that was agreed are gone.`];
    return [`status ${hex(event.status)}`, `The driver sets the status of ${device}: ${statusWords(event.status)}.`];
  }
  const queue = queueName(device, event.queue);
  switch (event.kind) {
    case 'virtio_queue_notify':
      return ['kick', `The driver tells ${device} that there is something new in the ${queue}.`];
    case 'virtqueue_pop':
      return [
        `buffer ${event.id} taken`,
        `${device} takes buffer ${event.id} out of the ${queue}: ${bytes(event.out)} to read, room for ${bytes(event.in)} to write.`,
      ];
    case 'virtqueue_fill':
      return [`buffer ${event.id} given back`, `${device} puts buffer ${event.id} back into the ${queue}, with ${bytes(event.written)} written.`];
    case 'virtio_notify':
      return ['notification', `${device} tells the driver that there is something for it in the ${queue}.`];
  }
}

/** Says what an event was. */
export function explain(event: Timed): Explained {
  const fields: Fields = list(event);
  switch (event.kind) {
    case 'kvm_exit': {
      const decoded = decodeQualification(event.reason, event.qualification);
      const sentence = REASONS[event.reason] ?? 'The guest left for the kernel.';
      return { title: event.reason, sentence, fields: withMeaning(fields, 'qualification', decoded) };
    }
    case 'kvm_entry':
      return { title: 'VM entry', sentence: `The kernel loads the guest’s state and goes on at RIP ${hex(event.rip)}.`, fields };
    case 'kvm_userspace_exit':
      if (event.reason === 'EINTR') return { title: 'EINTR', sentence: EINTR, fields };
      return { title: event.reason, sentence: 'The kernel cannot answer this alone: KVM_RUN returns, and the VMM looks at the shared page.', fields };
    case 'kvm_pio':
      return {
        title: `${event.rw} port ${hex(event.port)}`,
        sentence: `The kernel decoded the access: ${event.count} × ${event.size} byte(s), ${event.rw === 'out' ? 'to' : 'from'} the device.`,
        fields,
      };
    case 'kvm_mmio':
      return {
        title: `MMIO ${event.rw}`,
        sentence: `Memory at ${hex(event.gpa)} is a device: the kernel decoded the guest’s instruction to find out what it wanted.`,
        fields,
      };
    case 'kvm_page_fault':
      return {
        title: 'second-stage fault',
        sentence: `The kernel fills in the second-stage entry for ${hex(event.gpa)} and lets the guest try again.`,
        fields,
      };
    case 'kvm_inj_virq':
      return {
        title: 'interrupt injected',
        sentence: `Vector ${event.vector} goes into the VM-entry interruption field: the next entry delivers it.`,
        fields,
      };
    case 'kvm_set_irq':
      return {
        title: `line ${event.gsi} ${event.level ? 'up' : 'down'}`,
        sentence: `Interrupt line ${event.gsi} goes ${event.level ? 'up' : 'down'}; the kernel looks up which pins of which chips it is wired to.`,
        fields,
      };
    case 'kvm_pic_set_irq': {
      const chip = event.chip === 0 ? 'the first 8259' : 'the second 8259';
      return { title: `8259 pin ${event.chip * 8 + event.pin}`, sentence: pinSentence(chip, event.pin, event.coalesced), fields };
    }
    case 'kvm_ioapic_set_irq':
      return { title: `I/O APIC pin ${event.pin}`, sentence: pinSentence('the I/O APIC', event.pin, event.coalesced), fields };
    case 'kvm_msi_set_irq':
      return {
        title: 'message-signalled interrupt',
        sentence: `A write of ${hex(event.data)} to ${hex(event.address)}: an interrupt that is a memory write, with no line and no chip between.`,
        fields,
      };
    case 'kvm_apic_accept_irq':
      return {
        title: `local APIC ${event.apic} accepts`,
        sentence: `The local APIC of processor ${event.apic} takes ${delivery(event.mode, event.vector)}, ${event.levelTriggered ? 'level' : 'edge'}-triggered.`,
        fields,
      };
    case 'kvm_apic_ipi': {
      const to = event.shorthand === 0 ? ` to ${hex(event.destination)}` : SHORTHAND[event.shorthand & 3];
      return { title: 'interprocessor interrupt', sentence: `A processor sends ${delivery(event.mode, event.vector)}${to}.`, fields };
    }
    case 'kvm_eoi':
      return {
        title: `end of interrupt ${event.vector}`,
        sentence: `The guest is done with vector ${event.vector}: local APIC ${event.apic} may deliver what waited behind it.`,
        fields,
      };
    case 'kvm_ack_irq':
      return {
        title: `pin ${event.pin} acknowledged`,
        sentence: `Whoever drives pin ${event.pin} of the ${event.irqchip} is told that the guest is done.`,
        fields,
      };
    case 'kvm_fast_mmio':
      return {
        title: 'doorbell',
        sentence: `A write to ${hex(event.gpa)} that only rings: the kernel needs neither the value nor the instruction.`,
        fields,
      };
    case 'kvm_vcpu_wakeup':
      return {
        title: 'awake',
        sentence: `The processor had nothing to do for ${event.ns} ns, and the kernel put the clock forward to the next thing that happens.`,
        fields,
      };
    case 'walk':
      return {
        title: `walk, level ${event.level}`,
        sentence: `The processor reads an entry of ${event.stage === 1 ? 'the guest’s own page tables' : 'the second stage'}, at ${hex(event.entry)}.`,
        fields,
      };
    case 'tlb_fill':
      return { title: 'TLB fill', sentence: `The translation of ${hex(event.linear)} is kept: ${hex(event.physical)}.`, fields };
    case 'tlb_flush':
      return { title: 'TLB flush', sentence: `Translations are forgotten: ${event.why}.`, fields };
    case 'exception':
      return {
        title: vectorName(event.vector),
        sentence: 'Delivered inside the guest, through its own descriptor table; nobody outside is asked.',
        fields,
      };
    case 'interrupt':
      return { title: `interrupt ${event.vector}`, sentence: `Delivered inside the guest (${event.source}).`, fields };
    case 'mode':
      return { title: `${event.mode} mode`, sentence: 'The processor’s mode changed.', fields };
    case 'triple_fault':
      return { title: 'triple fault', sentence: REASONS.TRIPLE_FAULT as string, fields };
    case 'ioctl':
      return { title: event.request, sentence: `A system call of the VMM on ${event.fd}; it returned ${event.result}.`, fields };
    case 'virtio_set_status':
    case 'virtio_queue_notify':
    case 'virtqueue_pop':
    case 'virtqueue_fill':
    case 'virtio_notify':
    case 'virtio_error': {
      const [title, sentence] = virtio(event);
      return { title, sentence, fields: event.kind === 'virtio_set_status' ? withMeaning(fields, 'status', statusWords(event.status)) : fields };
    }
    case 'device':
      return { title: event.device, sentence: deviceSentence(event), fields };
    case 'console':
      return { title: 'console', sentence: `One byte on the serial port: ${JSON.stringify(String.fromCharCode(event.byte))}.`, fields };
    default:
      return { title: event.kind.replaceAll('_', ' '), sentence: '', fields };
  }
}

/** One line for the list of events. */
export function oneLine(event: Timed): string {
  const { title } = explain(event);
  const rest = list(event, ['reason', 'request', 'device', 'mode', ...(event.kind.startsWith('virtqueue') ? ['id'] : [])])
    .map(([key, value]) => `${key} ${value}`)
    .join(' ');
  return `${event.kind} ${title !== event.kind.replaceAll('_', ' ') ? title : ''} ${rest}`.replace(/\s+/g, ' ').trim();
}
