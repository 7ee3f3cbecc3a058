// # What is not taken along, and what is not taken

import { describe, expect, it } from 'vitest';
import { StateError, StateReader, StateWriter } from '../../03-vcpu-loop/devices/state.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { MemoryBlock } from '../../05-pio-mmio/block/block.ts';
import { place, startState } from '../../05-pio-mmio/guest-program.ts';
import { completeConfig, type MachineConfig } from '../../05-pio-mmio/machine/config.ts';
import { deviceTypes } from '../../05-pio-mmio/machine/device-types.ts';
import '../../05-pio-mmio/machine/devices.ts';
import { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import { F, features, STATUS } from '../../06-virtio-rings/features.ts';
import '../../06-virtio-rings/machine/device-types.ts';
import { VirtioPci } from '../../06-virtio-rings/transport/pci.ts';
import { NETWORK, stationMac } from '../network/addresses.ts';
import { buildFrame, ETHERTYPE, parseFrame } from '../network/ethernet.ts';
import { buildPacket, PROTOCOL, parsePacket } from '../network/ipv4.ts';
import { fakeHost, GUEST_MAC } from '../network/laboratory.ts';
import { userNetdev } from '../network/netdev.ts';
import { buildSegment, FLAG, parseSegment, type Segment } from '../network/tcp/segment.ts';
import { decodeFile, encodeFile } from './file.ts';
import { restoreMachine, saveMachine } from './machine-state.ts';

const host = fakeHost();
deviceTypes.netdevs.install(userNetdev(() => host.sockets));

const machineOf = (description: MachineConfig): Machine<Pc> => {
  const config = completeConfig({ kernel: 'none', memoryMiB: 2, serial: ['null'], reboot: false, ...description });
  const blocks = new Map(config.drives.map(({ id }) => [id, new MemoryBlock(new Uint8Array(1 << 16))]));
  return new Machine<Pc>(new Pc({ kernel: machineKernel(config), config, blocks }).board);
};

/** Has something done with machines, and disposes of them. */
async function withMachines<T>(descriptions: readonly MachineConfig[], act: (...machines: Machine<Pc>[]) => Promise<T>): Promise<T> {
  const machines = descriptions.map(machineOf);
  try {
    return await act(...machines);
  } finally {
    for (const machine of machines) machine.dispose();
  }
}

// ## Connections

const network: MachineConfig = { netdevs: [{ id: 'n', type: 'user', restrict: false }], devices: [] };

/** A guest's end of a machine's cable, without a card. */
function guestAt({ platform: pc }: Machine<Pc>) {
  const link = pc.link('n');
  const received: Segment[] = [];
  link.onFrame = (bytes) => {
    const frame = parseFrame(bytes);
    const packet = frame?.type === ETHERTYPE.IPV4 ? parsePacket(frame.payload) : null;
    if (packet && typeof packet !== 'string' && packet.protocol === PROTOCOL.TCP)
      received.push(parseSegment(packet.source, packet.destination, packet.payload) as Segment);
  };
  /** Long enough for the cable, and too short for a repetition. */
  const pass = (): void => {
    for (const end = pc.kernel.clock.now() + 1e6; pc.timers.next !== null && pc.timers.next < end; ) {
      pc.kernel.clock.sleep(pc.timers.next);
      pc.timers.runDue();
    }
  };
  const send = (segment: Partial<Segment>): Segment[] => {
    const whole = {
      sourcePort: 1000,
      destinationPort: 80,
      sequence: 0,
      acknowledgment: 0,
      flags: 0,
      window: 0xffff,
      data: new Uint8Array(0),
      ...segment,
    };
    const payload = buildPacket(NETWORK.guest, NETWORK.gateway, PROTOCOL.TCP, buildSegment(NETWORK.guest, NETWORK.gateway, whole));
    link.send(buildFrame({ destination: stationMac(NETWORK.gateway), source: GUEST_MAC, type: ETHERTYPE.IPV4, payload }));
    pass();
    return received.splice(0);
  };
  return { send, pass, received };
}

describe('a connection through the user-mode network', () => {
  it('is answered with a reset in a restored machine, and goes on in the one that was saved', async () => {
    await withMachines([network, network], async (saved, restored) => {
      const guest = guestAt(saved);
      guest.send({ flags: FLAG.SYN, sequence: 100 });
      const stream = host.connected.at(-1)?.stream;
      stream?.onConnect();
      guest.pass();
      const [welcome] = guest.received.splice(0);
      expect(welcome?.flags).toBe(FLAG.SYN | FLAG.ACK);
      const next = { flags: FLAG.ACK, sequence: 101, acknowledgment: ((welcome?.sequence ?? 0) + 1) >>> 0 };
      guest.send(next);
      const file = await saveMachine(saved);
      await restoreMachine(restored, file);
      // What the guest's kernel would send next.
      const data = { ...next, data: Uint8Array.of(1, 2, 3) };
      expect(guestAt(restored).send(data)).toMatchObject([{ flags: FLAG.RST, sequence: next.acknowledgment }]);
      expect(guest.send(data).map(({ flags }) => flags & FLAG.RST)).not.toContain(FLAG.RST);
      expect(stream?.written).toEqual([1, 2, 3]);
    });
  });
});

// ## What says that it cannot

const FOR_EVER = [0xeb, 0xfe]; // jmp to itself

const reason = async (machine: Machine<Pc>): Promise<string> => {
  const refused = await saveMachine(machine).then(
    () => 'it was saved',
    (error: unknown) => error,
  );
  return refused instanceof StateError ? refused.message : String(refused);
};

describe('a machine that cannot be written down', () => {
  it('has a disk with zones', async () => {
    const zoned = (model: string): MachineConfig => ({
      drives: [{ id: 'd', file: 'given' }],
      devices: [{ type: 'virtio-blk-pci-non-transitional', drive: 'd', zoned: model, 'zone-sectors': 16 }],
    });
    await withMachines([zoned('none'), zoned('host-managed')], async (plain, machine) => {
      expect(await reason(plain)).toBe('it was saved');
      expect(await reason(machine)).toMatch(/with its zones, cannot be saved/);
    });
  });

  it('has a virtio device that sleeps and has something to tell, and not one that merely sleeps', async () => {
    await withMachines([{ devices: [{ type: 'virtio-rng-pci', suspend: true }] }], async (machine) => {
      // A guest that is busy, and will not wake the device.
      place(machine.ram, { code: [FOR_EVER], data: {} });
      machine.current.setSregs(startState.sregs);
      machine.current.setRegs(startState.regs);
      const device = virtioOf(machine);
      const agreed = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK;
      const chosen = features(F.VERSION_1, F.SUSPEND) & device.offered;
      device.setStatus(STATUS.ACKNOWLEDGE | STATUS.DRIVER);
      device.setDriverFeatures(0, Number(chosen & 0xffff_ffffn));
      device.setDriverFeatures(1, Number(chosen >> 32n));
      device.setStatus(agreed);
      device.setStatus(agreed | STATUS.DRIVER_OK);
      device.setStatus(agreed | STATUS.DRIVER_OK | STATUS.SUSPEND);
      expect(device.suspended).toBe(true);
      expect(await reason(machine)).toBe('it was saved');
      device.configChanged();
      expect(await reason(machine)).toMatch(/sleeps, and has something to tell when it wakes/);
      device.setStatus(agreed | STATUS.DRIVER_OK);
      expect(await reason(machine)).toBe('it was saved');
    });
  }, 60_000);
});

function virtioOf({ platform }: Machine<Pc>): VirtioPci['virtio'] {
  const found = platform.chipset.root.functions.find((fn) => fn instanceof VirtioPci);
  if (!found) throw new Error('no virtio device');
  return found.virtio;
}

// ## Files made on purpose
//
// Checksums are right here: whoever means harm computes them. Every part is damaged in every way that a reader has to think of, at places and with values that
// a seed decides, and the only answers are a restored part and a refusal.

const EVERYTHING: MachineConfig = {
  irqchip: 'off',
  cpus: 2,
  drives: [
    { id: 'd', file: 'given', snapshot: true },
    { id: 'v', file: 'given' },
  ],
  netdevs: [{ id: 'n', type: 'echo' }],
  devices: [
    { type: 'ide-hd', drive: 'd' },
    { type: 'e1000', netdev: 'n' },
    { type: 'virtio-blk-pci', drive: 'v' },
    { type: 'virtio-rng-pci' },
    { type: 'virtio-balloon-pci' },
    { type: 'virtio-serial-pci' },
    { type: 'virtconsole' },
  ],
};

const SEED = 0x5eed_0085;
/** Marsaglia's xorshift. */
const lots = (seed: number) => {
  let x = seed >>> 0 || 1;
  return (below: number): number => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % below;
  };
};
type Lots = ReturnType<typeof lots>;

/** Ways to damage bytes; `other`: somebody else's. */
const DAMAGES: Readonly<Record<string, (bytes: Uint8Array, draw: Lots, other: Uint8Array) => Uint8Array>> = {
  bit(bytes, draw) {
    const at = draw(8 * bytes.length);
    return bytes.map((byte, n) => (n === at >> 3 ? byte ^ (1 << (at & 7)) : byte));
  },
  word(bytes, draw) {
    const damaged = bytes.slice();
    const values = [0xffff_ffff, 0x7fff_ffff, 0x8000_0000, 0x0100_0000, 0xffff, 0];
    if (bytes.length >= 4) new DataView(damaged.buffer).setUint32(draw(bytes.length - 3), values[draw(values.length)] as number, true);
    return damaged;
  },
  double(bytes, draw) {
    const damaged = bytes.slice();
    const values = [Number.NaN, Number.POSITIVE_INFINITY, -0.5, 2 ** 53, -(2 ** 53), 1e300];
    if (bytes.length >= 8) new DataView(damaged.buffer).setFloat64(draw(bytes.length - 7), values[draw(values.length)] as number, true);
    return damaged;
  },
  short: (bytes, draw) => bytes.slice(0, draw(bytes.length + 1)),
  long: (bytes, draw) => Uint8Array.from([...bytes, ...Array.from({ length: 1 + draw(9) }, () => draw(256))]),
  foreign: (_, __, other) => other.slice(),
  noise: (bytes, draw) => bytes.map(() => draw(256)),
};
const KINDS = Object.keys(DAMAGES);

const LARGEST_GROWTH = 8 << 20;
const allocated = (): number => process.memoryUsage().arrayBuffers;

describe('a file made on purpose', () => {
  it('is read part by part, and each is good or refused, without a large allocation', async () => {
    await withMachines([EVERYTHING], async (machine) => {
      const draw = lots(SEED);
      const parts = machine.savedParts.map((part) => {
        const out = new StateWriter();
        part.save(out);
        return { part, bytes: out.written };
      });
      const counts = { good: 0, refused: 0 };
      for (let round = 0; round < 40; round++)
        for (const { part, bytes } of parts) {
          const kind = KINDS[draw(KINDS.length)] as string;
          const damaged = DAMAGES[kind]?.(bytes, draw, parts[draw(parts.length)]?.bytes as Uint8Array) as Uint8Array;
          const before = allocated();
          try {
            const from = new StateReader(damaged);
            part.load(from);
            from.end();
            counts.good++;
          } catch (error) {
            if (!(error instanceof StateError)) throw new Error(`${part.name}, ${kind}, round ${round} of seed ${SEED}`, { cause: error });
            expect(error.message).not.toBe('');
            counts.refused++;
          }
          expect(allocated() - before).toBeLessThan(LARGEST_GROWTH);
        }
      expect(Math.min(counts.good, counts.refused)).toBeGreaterThan(parts.length);
    });
  }, 60_000);

  it('is refused, or makes a machine that runs', async () => {
    const draw = lots(SEED + 1);
    const file = await withMachines([EVERYTHING], (machine) => saveMachine(machine));
    const { header, sections } = decodeFile(file);
    const results = { refused: 0, ran: 0 };
    for (let round = 0; round < 14; round++) {
      const which = draw(sections.length);
      const kind = KINDS[draw(KINDS.length)] as string;
      const other = sections[draw(sections.length)]?.payload as Uint8Array;
      const changed = sections.map((section, n) =>
        n === which ? { ...section, payload: DAMAGES[kind]?.(section.payload, draw, other) as Uint8Array } : section,
      );
      await withMachines([EVERYTHING], async (machine) => {
        try {
          await restoreMachine(machine, encodeFile({ header, sections: changed }));
        } catch (error) {
          if (!(error instanceof StateError))
            throw new Error(`${sections[which]?.name}, ${kind}, round ${round} of seed ${SEED + 1}`, { cause: error });
          results.refused++;
          return;
        }
        expect(['halt', 'timeout', 'shutdown', 'reset', 'triple-fault', 'internal-error', 'fail-entry']).toContain(
          machine.run({ exits: 50, bounds: 2 }).end,
        );
        results.ran++;
      });
    }
    expect(results.refused).toBeGreaterThan(0);
  }, 120_000);

  it('is refused as a whole when a byte of it is another, or it is cut', async () => {
    const draw = lots(SEED + 2);
    const file = await withMachines([{}], (machine) => saveMachine(machine));
    for (let round = 0; round < 150; round++) {
      const kind = ['bit', 'word', 'short', 'long'][draw(4)] as string;
      const damaged = DAMAGES[kind]?.(file, draw, file) as Uint8Array;
      if (damaged.length === file.length && damaged.every((byte, at) => byte === file[at])) continue;
      expect(() => decodeFile(damaged)).toThrow(StateError);
    }
  });
});
