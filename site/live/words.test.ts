import { describe, expect, it } from 'vitest';
import { readPlace, writePlace } from './place.ts';
import { Lanes } from './timeline.ts';
import { decodeQualification, explain, oneLine } from './words.ts';

describe('exits in words', () => {
  it('decodes I/O qualifications', () => {
    // OUT DX, AL to 0x3f8: size 0 (1 byte), direction 0, DX.
    expect(decodeQualification('IO_INSTRUCTION', 0x03f8_0000n)).toBe('OUT, 1 byte, port 0x3f8, port in DX');
    // REP INSD from 0x1f0: size 3 (4 bytes), in, string, rep.
    expect(decodeQualification('IO_INSTRUCTION', 0x01f0_003bn)).toBe('IN, 4 bytes, port 0x1f0, string, repeated, port in DX');
    expect(decodeQualification('IO_INSTRUCTION', 0x00f4_0040n)).toContain('port in the instruction');
  });

  it('decodes control-register and EPT qualifications', () => {
    expect(decodeQualification('CR_ACCESS', 0x300n)).toBe('MOV to CR0, general register 3');
    expect(decodeQualification('CR_ACCESS', 0x14n)).toBe('MOV from CR4, general register 0');
    expect(decodeQualification('EPT_VIOLATION', 0x182n)).toBe('write (by the instruction itself); the entry allows nothing');
    expect(decodeQualification('HLT', 0n)).toBe('');
  });

  it('explains every event without failing', () => {
    const exit = { t: 5, kind: 'kvm_exit', vcpu: 0, reason: 'IO_INSTRUCTION', rip: 0x100010n, qualification: 0x3f80000n } as const;
    expect(explain(exit)).toMatchObject({
      title: 'IO_INSTRUCTION',
      fields: [
        ['vcpu', '0'],
        ['reason', 'IO_INSTRUCTION'],
        ['rip', '0x100010'],
        ['qualification', '0x3f80000', expect.stringContaining('0x3f8')],
      ],
    });
    expect(explain({ t: 1, kind: 'exception', vector: 14, errorCode: 2, cr2: 0x1000n, rip: 1n }).title).toBe('#PF');
    expect(oneLine({ t: 1, kind: 'console', byte: 65 })).toContain('65');
    expect(explain({ t: 1, kind: 'kvm_exit', vcpu: 0, reason: 'UNKNOWN_99', rip: 0n, qualification: 0n }).sentence).not.toBe('');
  });
});

describe('what happens around a PC, in words', () => {
  it('names pins, messages and devices', () => {
    const sentence = (event: Parameters<typeof explain>[0]): string => explain(event).sentence;
    expect(sentence({ t: 1, kind: 'kvm_pic_set_irq', chip: 1, pin: 0, coalesced: false })).toBe(
      'Pin 0 of the second 8259 was raised: a device asks for attention.',
    );
    expect(explain({ t: 1, kind: 'kvm_pic_set_irq', chip: 1, pin: 6, coalesced: false }).title).toBe('8259 pin 14');
    expect(sentence({ t: 1, kind: 'kvm_apic_accept_irq', apic: 1, mode: 6, vector: 8, levelTriggered: false })).toContain(
      'takes start-up at page 0x8, edge-triggered',
    );
    expect(sentence({ t: 1, kind: 'kvm_apic_ipi', destination: 1, vector: 0x41, mode: 0, shorthand: 0 })).toBe(
      'A processor sends an interrupt, vector 65 to 0x1.',
    );
    expect(sentence({ t: 1, kind: 'kvm_apic_ipi', destination: 0, vector: 0, mode: 5, shorthand: 3 })).toBe(
      'A processor sends INIT to all but itself.',
    );
    expect(sentence({ t: 1, kind: 'device', device: 'e1000', what: 'transmit', value: 60 })).toBe(
      'e1000: a frame of 60 bytes went out, read from the guest’s memory.',
    );
    expect(sentence({ t: 1, kind: 'device', device: 'i8042', what: 'reset' })).toBe('The device model: reset.');
    expect(oneLine({ t: 1, kind: 'kvm_eoi', apic: 0, vector: 48 })).toContain('end of interrupt 48');
    expect(sentence({ t: 1, kind: 'kvm_vcpu_wakeup', ns: 500, waited: true })).toContain('500 ns');
  });
});

describe('rings, in words', () => {
  it('names what passes between driver and device', () => {
    const said = (event: Parameters<typeof explain>[0]): string => `${explain(event).title}: ${explain(event).sentence}`;
    expect(said({ t: 1, kind: 'virtio_set_status', device: 'virtio-blk', status: 0x0f })).toBe(
      'status 0xf: The driver sets the status of virtio-blk: ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK.',
    );
    expect(explain({ t: 1, kind: 'virtio_set_status', device: 'virtio-blk', status: 0x43 }).fields).toContainEqual([
      'status',
      '0x43',
      'ACKNOWLEDGE DRIVER DEVICE_NEEDS_RESET',
    ]);
    expect(said({ t: 1, kind: 'virtio_set_status', device: 'virtio-blk', status: 0 })).toContain('reset: The driver resets');
    expect(said({ t: 1, kind: 'virtio_queue_notify', device: 'virtio-serial', queue: 1 })).toContain('new in the transmitq (queue 1)');
    expect(said({ t: 1, kind: 'virtqueue_pop', device: 'virtio-blk', queue: 0, id: 3, out: 16, in: 1 })).toBe(
      'buffer 3 taken: virtio-blk takes buffer 3 out of the requestq (queue 0): 16 bytes to read, room for 1 byte to write.',
    );
    expect(said({ t: 1, kind: 'virtqueue_fill', device: 'virtio-blk', queue: 0, id: 3, written: 1 })).toContain('with 1 byte written');
    expect(said({ t: 1, kind: 'virtio_notify', device: 'unheard-of', queue: 7 })).toContain('in the queue 7');
    expect(said({ t: 1, kind: 'virtio_error', device: 'virtio-blk', why: 'queue 0: a loop' })).toContain('a loop');
    expect(oneLine({ t: 1, kind: 'virtqueue_fill', device: 'virtio-blk', queue: 0, id: 3, written: 1 })).toBe(
      'virtqueue_fill buffer 3 given back queue 0 written 1',
    );
  });
});

describe('lanes', () => {
  it('turns entries and exits into crossings and the rest into marks', () => {
    const lanes = new Lanes();
    const events = [
      { t: 0, kind: 'ioctl', fd: 'kvm', request: 'KVM_CREATE_VM', result: 3 },
      { t: 0, kind: 'kvm_entry', vcpu: 0, rip: 0n },
      { t: 3, kind: 'exception', vector: 6, errorCode: null, cr2: null, rip: 0n },
      { t: 9, kind: 'kvm_exit', vcpu: 0, reason: 'HLT', rip: 0n, qualification: 0n },
      { t: 9, kind: 'kvm_userspace_exit', vcpu: 0, reason: 'KVM_EXIT_HLT' },
    ] as const;
    events.forEach((event, index) => {
      lanes.add(event, index);
    });
    expect(lanes.crossings.map(({ index, from, to }) => [index, from, to])).toEqual([
      [1, 2, 0],
      [3, 0, 1],
      [4, 1, 2],
    ]);
    expect(lanes.marks.map(({ index, lane, after }) => [index, lane, after])).toEqual([[2, 0, 1]]);
  });
});

describe('the address bar', () => {
  it('comes back as it went', () => {
    const place = { payload: 'exceptions-64', transport: 'mmio', ring: 'packed', at: 120, events: 40, event: 38, perSecond: 10, input: 'a b&c' };
    expect(readPlace(writePlace(place))).toEqual(place);
    expect(writePlace({ payload: 'hello', transport: null, ring: null, at: 0, events: 0, event: null, perSecond: 0, input: '' })).toBe(
      '#payload=hello',
    );
  });

  it('takes nonsense as nothing', () => {
    expect(readPlace('#payload=x&at=-3&event=1e99&speed=fast&events=2.5')).toEqual({
      payload: 'x',
      transport: null,
      ring: null,
      at: 0,
      events: 0,
      event: 0,
      perSecond: 0,
      input: '',
    });
    expect(readPlace('')).toEqual({ payload: null, transport: null, ring: null, at: 0, events: 0, event: null, perSecond: 0, input: '' });
  });
});
