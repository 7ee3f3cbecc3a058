import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bit, F, STATUS } from '../features.ts';
import { CONTROL_RECEIVEQ, CONTROL_TRANSMITQ, ConsoleModel, portQueues } from './console.ts';
import { CONSOLE_EVENT, CONSOLE_F, encodeControl, fitName, VirtioConsoleControl } from './console-messages.ts';
import type { ConsolePort } from './console-port.ts';
import { cut, cutSizes, join, type Request, Rig } from './laboratory.ts';

type ConsoleOptions = NonNullable<ConstructorParameters<typeof ConsoleModel>[0]>;
/** How much a port keeps when nobody reads. */
const INPUT_BYTES = new ConsoleModel({ maxPorts: 1 }).port(0)?.room ?? 0;

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const bytes = (string: string): Uint8Array => new TextEncoder().encode(string);

const make = (options: ConsoleOptions = {}) => new Rig((clock) => new ConsoleModel({ maxPorts: 4, ...options, clock }));
type Machine = ReturnType<typeof make>;

/** Collects what a port gives its host. */
const listen = (port: ConsolePort | null) => {
  const got: Uint8Array[] = [];
  if (port)
    port.onOutput = (part) => {
      got.push(part);
      return undefined;
    };
  return { text: () => text(join(got)), bytes: () => join(got) };
};

/** The driver's control messages. */
const say = (machine: Machine, id: number, event: number, value: number): Request =>
  machine.ask(CONTROL_TRANSMITQ, [VirtioConsoleControl.encode({ id, event, value })]);

const name = (event: number): string => Object.entries(CONSOLE_EVENT).find(([, value]) => value === event)?.[0] ?? `event ${event}`;

/** Gives the device `count` buffers for messages; `heard` decodes those that came back since the last call. */
const ears = (machine: Machine, count = 16, size = 64) => {
  const requests = Array.from({ length: count }, () => machine.add(CONTROL_RECEIVEQ, [], [size]));
  machine.kick(CONTROL_RECEIVEQ);
  let seen = 0;
  return {
    requests,
    heard: (): string[] => {
      const fresh = requests.slice(seen).filter(({ used }) => used !== null);
      seen += fresh.length;
      return fresh.map((request) => {
        const answer = request.answer();
        if (answer.length < 8) return `${answer.length} bytes`;
        const { id, event, value } = VirtioConsoleControl.decode(answer);
        const extra = answer.subarray(8);
        const tail = event === CONSOLE_EVENT.PORT_NAME ? ` ${text(extra)}` : extra.length > 0 ? ` ${[...extra].join(',')}` : '';
        return `${name(event)} ${id} ${value}${tail}`;
      });
    },
  };
};

const greet = (machine: Machine, count?: number, size?: number) => {
  machine.start();
  const control = ears(machine, count, size);
  say(machine, 0xffff_ffff, CONSOLE_EVENT.DEVICE_READY, 1);
  return control;
};

describe('the numbers of queues', () => {
  it('put port 0 first, then control, then the others', () => {
    expect([0, 1, 2, 30].map(portQueues)).toEqual([
      { receive: 0, transmit: 1 },
      { receive: 4, transmit: 5 },
      { receive: 6, transmit: 7 },
      { receive: 62, transmit: 63 },
    ]);
  });

  it('are as many as ports need', () => {
    expect(new ConsoleModel().queueSizes).toHaveLength(64);
    expect(new ConsoleModel().queueSizes.slice(0, 5)).toEqual([128, 128, 32, 32, 128]);
    expect(new ConsoleModel({ maxPorts: 1 }).queueSizes).toEqual([128, 128]);
    expect(new ConsoleModel({ maxPorts: 1 }).features).toBe(bit(CONSOLE_F.EMERG_WRITE));
  });
});

describe('its configuration', () => {
  it('has columns, rows, ports, and the emergency register if that is offered', () => {
    const { model } = make({ size: { cols: 132, rows: 43 } });
    expect([model.config.bytes, model.config.read(0, 2), model.config.read(2, 2), model.config.read(4, 4), model.config.read(0, 4)]).toEqual([
      12,
      132,
      43,
      4,
      132 + 43 * 65_536,
    ]);
    expect(make({ emergencyWrite: false }).model.config.bytes).toBe(8);
    expect(make().model.config.read(0, 4)).toBe(0);
    expect(make().model.config.read(10, 4)).toBe(0);
  });

  it('cannot be written, but for the emergency register', () => {
    const { model } = make({ size: { cols: 80, rows: 25 } });
    for (const width of [1, 2, 4] as const) for (let offset = 0; offset < 8; offset += width) model.config.write(offset, width, 0xffff_ffff);
    expect([model.config.read(0, 4), model.config.read(4, 4)]).toEqual([80 + 25 * 65_536, 4]);
  });

  it('writes a character before there is a driver, by its lowest byte, at any width', () => {
    const machine = make();
    const out = listen(machine.model.port(0));
    machine.model.config.write(8, 4, 0xdead_be41);
    machine.model.config.write(8, 2, 0x42);
    machine.model.config.write(8, 1, 0x43);
    machine.model.config.write(9, 1, 0x44); // not the lowest byte
    machine.model.config.write(8, 1, 0);
    expect(out.text()).toBe('ABC\0');
    expect(machine.model.config.read(8, 4)).toBe(0);
    machine.start({ features: bit(F.VERSION_1) });
    machine.device.fail('test');
    machine.model.config.write(8, 4, 0x45);
    expect(out.text()).toBe('ABC\0E');
  });

  it('without the feature writes nothing', () => {
    const machine = make({ emergencyWrite: false });
    const out = listen(machine.model.port(0));
    machine.model.config.write(8, 4, 0x41);
    expect(out.text()).toBe('');
  });
});

describe('a driver without MULTIPORT', () => {
  const plain = (legacy: boolean, options: ConsoleOptions = {}) => {
    const machine = make(options);
    return machine.start({ features: legacy ? 0n : bit(F.VERSION_1), queues: [0, 1], legacy });
  };

  for (const legacy of [false, true]) {
    it(`reads and writes port 0${legacy ? ', through the legacy interface' : ''}`, () => {
      const machine = plain(legacy);
      const port = machine.model.port(0) as ConsolePort;
      const out = listen(port);
      expect(port.guestOpen).toBe(true);
      expect(machine.ask(1, [bytes('hel'), bytes('lo')]).used).toBe(0);
      expect(out.text()).toBe('hello');
      const input = machine.ask(0, [], [3, 10]);
      expect(port.send(bytes('typed'))).toBe(5);
      expect(text(input.answer())).toBe('typed');
      expect(machine.notified).toEqual([1, 0]);
    });
  }

  it('never reaches the other queues', () => {
    const machine = make().start({ features: bit(F.VERSION_1) });
    machine.model.plug({ name: 'x' });
    const message = say(machine, 0, CONSOLE_EVENT.DEVICE_READY, 1);
    const control = ears(machine, 2);
    expect([message.used, control.heard(), machine.ask(5, [bytes('x')]).used]).toEqual([null, [], null]);
  });

  it('that took SIZE hears of another size by a configuration change', () => {
    const machine = make({ size: { cols: 80, rows: 25 } });
    const port = machine.model.port(0) as ConsolePort;
    machine.start({ features: bit(F.VERSION_1) | bit(CONSOLE_F.SIZE) });
    const generation = machine.device.generation;
    port.resize({ cols: 100, rows: 40 });
    expect([machine.model.config.read(0, 4), machine.configChanges]).toEqual([100 + 40 * 65_536, 1]);
    expect(machine.device.generation).not.toBe(generation);
    machine.start({ features: bit(F.VERSION_1) });
    port.resize({ cols: 1, rows: 1 });
    expect(machine.configChanges).toBe(1);
  });
});

describe('bytes', () => {
  it('are the same whatever the framing, in both directions', () => {
    const framing = fc.array(fc.nat(), { maxLength: 5 });
    const run = fc.uint8Array({ maxLength: 400 });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(run, framing), { maxLength: 6 }),
        fc.array(fc.tuple(fc.integer({ min: 1, max: 80 }), framing), { minLength: 1, maxLength: 20 }),
        (outs, ins) => {
          const machine = make({ maxPorts: 1 }).start();
          const port = machine.model.port(0) as ConsolePort;
          const out = listen(port);
          for (const [data, places] of outs) machine.add(1, cut(data, places));
          machine.kick(1);
          expect(out.bytes()).toEqual(join(outs.map(([data]) => data)));

          const sent = join(outs.map(([data]) => data));
          const requests = ins.map(([size, places]) => machine.add(0, [], cutSizes(size, places)));
          for (const [data] of outs) expect(port.send(data)).toBe(data.length);
          const got = join(requests.filter(({ used }) => used !== null).map((request) => request.answer()));
          expect(got).toEqual(sent.subarray(0, got.length));
          if (requests.some(({ used }) => used === null)) expect(got.length).toBe(sent.length);
        },
      ),
    );
  });

  it('coming in are kept, up to a bound, and the sender is told when there is room', () => {
    const machine = make({ maxPorts: 1 });
    const port = machine.model.port(0) as ConsolePort;
    let rooms = 0;
    port.onRoom = () => void rooms++;
    const all = Uint8Array.from({ length: INPUT_BYTES + 100 }, (_, index) => index * 7);
    expect(port.send(all)).toBe(INPUT_BYTES); // before there is a driver
    expect([port.send(all.subarray(INPUT_BYTES)), port.room, rooms]).toEqual([0, 0, 0]);
    machine.start();
    const first = machine.ask(0, [], [50]);
    expect([first.used, rooms, port.room]).toEqual([50, 1, 50]);
    expect(port.send(all.subarray(INPUT_BYTES))).toBe(50);
    const rest = machine.ask(0, [], [8192]);
    expect([rest.used, rooms]).toEqual([INPUT_BYTES, 2]);
    expect(join([first.answer(), rest.answer()])).toEqual(all.subarray(0, INPUT_BYTES + 50));
    machine.ask(0, [], [1]);
    expect(rooms).toBe(2);
  });

  it('coming in survive a reset of the device, and not the end of the session', () => {
    const machine = make({ maxPorts: 1 });
    const port = machine.model.port(0) as ConsolePort;
    port.send(bytes('before'));
    machine.start().start();
    expect(text(machine.ask(0, [], [32]).answer())).toBe('before');
    port.send(bytes('lost'));
    port.close();
    expect(port.send(bytes('shut'))).toBe(0);
    port.open();
    port.send(bytes('new'));
    expect(text(machine.ask(0, [], [32]).answer())).toBe('new');
  });

  it('coming in skip buffers that cannot be written', () => {
    const machine = make({ maxPorts: 1 }).start();
    const wrong = machine.add(0, [bytes('read me')]);
    const right = machine.add(0, [], [8]);
    machine.model.port(0)?.send(bytes('in'));
    expect([wrong.used, text(right.answer())]).toEqual([0, 'in']);
  });

  it('going out wait for a program, in order, and end with the session', () => {
    const machine = make();
    greet(machine);
    const port = machine.model.plug({ open: true });
    const got: number[] = [];
    let accept = 3;
    port.onOutput = (part) => {
      const taken = Math.min(accept, part.length);
      got.push(...part.subarray(0, taken));
      accept -= taken;
      return taken;
    };
    const { transmit } = portQueues(port.id);
    const first = machine.ask(transmit, [Uint8Array.of(1, 2), Uint8Array.of(3, 4, 5)]);
    const second = machine.ask(transmit, [Uint8Array.of(6)]);
    expect([got, first.used, second.used]).toEqual([[1, 2, 3], null, null]);
    machine.kick(transmit);
    expect(got).toEqual([1, 2, 3]);
    accept = 1;
    port.resume();
    expect([got, first.used]).toEqual([[1, 2, 3, 4], null]);
    accept = 100;
    port.resume();
    expect([got, first.used, second.used]).toEqual([[1, 2, 3, 4, 5, 6], 0, 0]);
    accept = 0;
    const third = machine.ask(transmit, [Uint8Array.of(7)]);
    const fourth = machine.ask(transmit, [Uint8Array.of(8)]);
    expect(third.used).toBeNull();
    port.close();
    expect([third.used, fourth.used, got.length]).toEqual([0, 0, 6]);
  });

  it('going out do not wait for people: what they do not take is lost, and counted', () => {
    const machine = make({ maxPorts: 1 }).start();
    const port = machine.model.port(0) as ConsolePort;
    port.onOutput = () => 2;
    expect([machine.ask(1, [bytes('hello')]).used, port.lost]).toEqual([0, 3]);
  });

  it('going out of a port that is shut are thrown away', () => {
    const machine = make();
    greet(machine);
    const port = machine.model.plug();
    const out = listen(port);
    expect([machine.ask(portQueues(port.id).transmit, [bytes('x')]).used, out.text()]).toEqual([0, '']);
    expect(machine.ask(portQueues(3).transmit, [bytes('nobody')]).used).toBe(0); // a port that does not exist
  });

  it('going out without end take turns', () => {
    const machine = make({ maxPorts: 1 }).start();
    let total = 0;
    (machine.model.port(0) as ConsolePort).onOutput = (part) => {
      total += part.length;
      return undefined;
    };
    const page = machine.memory.bytes.subarray(0, 1 << 20);
    const big = machine.addPlaced(1, [page, page, page], []);
    machine.kick(1);
    expect(big.used).toBeNull();
    expect(total).toBeGreaterThan(0);
    expect(total).toBeLessThan(3 << 20);
    for (let turn = 0; turn < 4; turn++) machine.pass(0);
    expect([total, big.used]).toEqual([3 << 20, 0]);
  });

  it('going out end where the host, in the middle of taking them, resets the machine', () => {
    const machine = make().start();
    const taken: number[] = [];
    const port = machine.model.port(0) as ConsolePort;
    port.onOutput = (part) => {
      taken.push(part.length);
      if (taken.length === 2) machine.device.setStatus(0);
      return undefined;
    };
    const request = machine.ask(1, [new Uint8Array(64 << 10)]);
    expect([taken.length, request.used]).toEqual([2, null]);
    machine.start();
    machine.ask(1, [bytes('again')]);
    expect(taken.at(-1)).toBe(5);
  });

  it('going out are finished before the device is suspended, unless the host is not reading', () => {
    const machine = new Rig((clock) => new ConsoleModel({ maxPorts: 4, clock }), bit(F.SUSPEND));
    greet(machine);
    const suspend = (): number => {
      machine.device.setStatus(machine.device.status | STATUS.SUSPEND);
      return machine.device.status & STATUS.SUSPEND;
    };
    const resume = (): void => machine.device.setStatus(machine.device.status | STATUS.DRIVER_OK);
    const page = machine.memory.bytes.subarray(0, 1 << 20);
    const big = machine.addPlaced(1, [page, page], []);
    machine.kick(1);
    expect([suspend(), big.used]).toEqual([0, null]);
    for (let turn = 0; turn < 3; turn++) machine.pass(0);
    expect([machine.device.status & STATUS.SUSPEND, big.used]).toEqual([STATUS.SUSPEND, 0]);
    resume();
    const port = machine.model.plug({ open: true });
    port.onOutput = () => 0;
    const waiting = machine.ask(portQueues(port.id).transmit, [bytes('later')]);
    expect(suspend()).toBe(STATUS.SUSPEND);
    const out = listen(port);
    port.resume();
    expect([out.text(), waiting.used]).toEqual(['', null]);
    port.send(bytes('x'));
    resume();
    expect([out.text(), waiting.used]).toEqual(['later', 0]);
  });

  it('in the middle of a buffer are forgotten by a reset, also one from inside', () => {
    const machine = make();
    greet(machine);
    const port = machine.model.plug({ open: true });
    const { transmit } = portQueues(port.id);
    port.onOutput = () => 0;
    machine.ask(transmit, [bytes('half')]);
    greet(machine);
    port.onOutput = () => {
      greet(machine);
      return undefined;
    };
    const again = machine.ask(transmit, [bytes('again')]);
    expect(again.used).toBeNull(); // its ring is gone
    const out = listen(port);
    expect([machine.ask(transmit, [bytes('good')]).used, out.text()]).toEqual([0, 'good']);
  });
});

describe('control messages', () => {
  it('introduce each port: add, then console, name, size and whether it is open', () => {
    const machine = make({ ports: [{ console: true }, { name: 'org.example.agent.0' }, { console: true, name: 'zwei' }] });
    const control = greet(machine);
    expect(control.heard()).toEqual(['DEVICE_ADD 0 1', 'DEVICE_ADD 1 1', 'DEVICE_ADD 2 1']);
    machine.model.port(2)?.resize({ cols: 0x0102, rows: 0x0304 });
    expect(control.heard()).toEqual([]); // it is not ready
    for (const id of [0, 1, 2]) say(machine, id, CONSOLE_EVENT.PORT_READY, 1);
    expect(control.heard()).toEqual([
      'CONSOLE_PORT 0 1',
      'PORT_OPEN 0 1',
      'PORT_NAME 1 1 org.example.agent.0',
      'CONSOLE_PORT 2 1',
      'PORT_NAME 2 1 zwei',
      'RESIZE 2 0 2,1,4,3',
      'PORT_OPEN 2 1',
    ]);
    machine.model.port(1)?.open();
    machine.model.port(1)?.close();
    machine.model.port(2)?.resize({ cols: 80, rows: 25 });
    expect(control.heard()).toEqual(['PORT_OPEN 1 1', 'PORT_OPEN 1 0', 'RESIZE 2 0 80,0,25,0']);
  });

  it('have the size in the order of Linux, if asked for', () => {
    const machine = make({ resizeOrder: 'rows, cols' });
    const control = greet(machine);
    say(machine, 0, CONSOLE_EVENT.PORT_READY, 1);
    control.heard();
    machine.model.port(0)?.resize({ cols: 80, rows: 25 });
    expect(control.heard()).toEqual(['RESIZE 0 0 25,0,80,0']);
  });

  it('open and shut the guest’s end, which holds back what comes in', () => {
    const machine = make({ ports: [{ id: 2, open: true }] });
    greet(machine);
    const port = machine.model.port(2) as ConsolePort;
    const heard: boolean[] = [];
    port.onGuestOpen = (open) => void heard.push(open);
    const input = machine.ask(portQueues(2).receive, [], [8]);
    port.send(bytes('a'));
    expect(input.used).toBeNull();
    say(machine, 2, CONSOLE_EVENT.PORT_OPEN, 1);
    expect([text(input.answer()), port.guestOpen]).toEqual(['a', true]);
    say(machine, 2, CONSOLE_EVENT.PORT_OPEN, 0);
    machine.device.setStatus(0);
    expect(heard).toEqual([true, false]);
  });

  it('about ports that come and go name each once', () => {
    const machine = make();
    const control = greet(machine);
    expect(control.heard()).toEqual(['DEVICE_ADD 0 1']);
    say(machine, 0, CONSOLE_EVENT.DEVICE_READY, 1);
    expect(control.heard()).toEqual([]); // known already
    const port = machine.model.plug({ name: 'hot' });
    expect([port.id, control.heard()]).toEqual([1, ['DEVICE_ADD 1 1']]);
    machine.model.unplug(1);
    machine.model.plug({ name: 'hotter' });
    expect(control.heard()).toEqual(['DEVICE_REMOVE 1 1', 'DEVICE_ADD 1 1']);
    machine.model.unplug(1);
    expect(control.heard()).toEqual(['DEVICE_REMOVE 1 1']);
  });

  it('with a driver that woke up and still has its ports go on where they were', () => {
    const machine = make({ ports: [{ console: true }, { name: 'a', open: true }] });
    greet(machine);
    machine.start();
    const control = ears(machine);
    for (const id of [0, 1]) {
      say(machine, id, CONSOLE_EVENT.PORT_READY, 1);
      say(machine, id, CONSOLE_EVENT.PORT_OPEN, 1);
    }
    expect(control.heard()).toEqual(['CONSOLE_PORT 0 1', 'PORT_OPEN 0 1', 'PORT_NAME 1 1 a', 'PORT_OPEN 1 1']);
    expect(machine.model.ports.map((port) => port.guestOpen)).toEqual([true, true]);
    machine.model.unplug(1);
    machine.model.plug({});
    say(machine, 1, CONSOLE_EVENT.PORT_READY, 1);
    expect(control.heard()).toEqual(['DEVICE_REMOVE 1 1', 'DEVICE_ADD 1 1']);
  });

  it('tell of a port that has the number of one which the driver still believes in', () => {
    const machine = make();
    greet(machine, 2);
    machine.model.plug({});
    machine.model.unplug(1);
    machine.model.plug({});
    say(machine, 1, CONSOLE_EVENT.PORT_READY, 1);
    expect(ears(machine).heard()).toEqual(['DEVICE_REMOVE 1 1', 'DEVICE_ADD 1 1']);
  });

  it('about a port that came while the driver slept are the same as ever', () => {
    const machine = new Rig((clock) => new ConsoleModel({ maxPorts: 4, clock }), bit(F.SUSPEND));
    const control = greet(machine);
    control.heard();
    machine.device.setStatus(machine.device.status | STATUS.SUSPEND);
    const port = machine.model.plug({ open: true });
    const out = listen(port);
    expect(control.heard()).toEqual([]);
    machine.device.setStatus(machine.device.status | STATUS.DRIVER_OK);
    expect(control.heard()).toEqual(['DEVICE_ADD 1 1']);
    machine.ask(portQueues(1).transmit, [bytes('here')]);
    expect(out.text()).toBe('here');
  });

  it('that the driver gives no buffers for are owed, not lost, and never more than there is to say', () => {
    const machine = make({ ports: [{ console: true }, { name: 'a' }] }).start();
    for (let round = 0; round < 50; round++) {
      say(machine, 0, CONSOLE_EVENT.DEVICE_READY, 1);
      machine.model.port(1)?.open();
      machine.model.port(1)?.close();
    }
    machine.model.plug({ name: 'short-lived' });
    machine.model.unplug(2); // the driver has never heard of it
    const control = ears(machine, 8);
    expect(control.heard()).toEqual(['DEVICE_ADD 0 1', 'DEVICE_ADD 1 1']);
    for (let round = 0; round < 50; round++) say(machine, 1, CONSOLE_EVENT.PORT_READY, 1);
    expect(control.heard()).toEqual(Array.from({ length: 6 }, () => 'PORT_NAME 1 1 a'));
    for (let round = 0; round < 20; round++) {
      machine.model.port(1)?.open();
      if (round < 19) machine.model.port(1)?.close();
    }
    const more = ears(machine, 8);
    expect(more.heard()).toEqual(['PORT_NAME 1 1 a', 'PORT_OPEN 1 1']);
    machine.model.unplug(1);
    machine.model.plug({ id: 1, name: 'b' });
    expect(more.heard()).toEqual(['DEVICE_REMOVE 1 1', 'DEVICE_ADD 1 1']);
  });

  it('skip buffers that are too small, and cut a name to what fits', () => {
    const machine = make({ ports: [{ id: 1, name: 'añb' }] }).start();
    const control = ears(machine, 2, 7);
    say(machine, 0, CONSOLE_EVENT.DEVICE_READY, 1);
    expect(control.heard()).toEqual(['0 bytes', '0 bytes']);
    const larger = ears(machine, 2, 10);
    say(machine, 1, CONSOLE_EVENT.PORT_READY, 1);
    expect(larger.heard()).toEqual(['DEVICE_ADD 1 1', 'PORT_NAME 1 1 a']);
    expect([0, 1, 2, 3, 4].map((room) => text(fitName(bytes('añb'), room)))).toEqual(['', 'a', 'a', 'añ', 'añb']);
  });

  it('come in any framing, with anything behind them', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(), { maxLength: 6 }), fc.uint8Array({ maxLength: 20 }), (places, tail) => {
        const machine = make().start();
        const control = ears(machine, 2);
        machine.ask(CONTROL_TRANSMITQ, cut(encodeControl(7, CONSOLE_EVENT.DEVICE_READY, 1, tail), places));
        expect(control.heard()).toEqual(['DEVICE_ADD 0 1']);
      }),
    );
  });

  it('of a hostile driver do nothing', () => {
    const machine = make({ ports: [{ console: true }, { id: 2 }] });
    const control = greet(machine);
    control.heard();
    for (const length of [0, 1, 4, 7]) expect(machine.ask(CONTROL_TRANSMITQ, [new Uint8Array(length)]).used).toBe(0);
    for (const id of [1, 3, 4, 31, 0x7fff_ffff, 0xffff_ffff]) for (const event of [3, 6]) say(machine, id, event, 1);
    for (const event of [1, 2, 4, 5, 7, 8, 255, 0xffff]) say(machine, 2, event, 1);
    say(machine, 2, CONSOLE_EVENT.PORT_READY, 0);
    machine.ask(CONTROL_TRANSMITQ, [], [8]); // nothing to read at all
    expect([control.heard(), machine.device.failure]).toEqual([[], null]);
    expect(machine.model.ports.map((port) => port.guestOpen)).toEqual([false, false]);
  });

  it('of any kind, in any order, keep the driver’s view equal to the device’s', () => {
    const step = fc.oneof(
      fc.record({
        do: fc.constant('say' as const),
        id: fc.integer({ min: 0, max: 5 }),
        event: fc.integer({ min: 0, max: 9 }),
        value: fc.integer({ min: 0, max: 1 }),
      }),
      fc.record({ do: fc.constantFrom('plug' as const, 'unplug' as const, 'open' as const, 'close' as const), id: fc.integer({ min: 0, max: 3 }) }),
      fc.record({ do: fc.constant('ears' as const), count: fc.integer({ min: 1, max: 3 }) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const machine = make({ ports: [] }).start();
        const listeners: ReturnType<typeof ears>[] = [];
        const known = new Set<string>();
        const hear = (): void => {
          for (const { heard } of listeners)
            for (const line of heard()) {
              const [event, id] = line.split(' ') as [string, string];
              if (event === 'DEVICE_ADD') {
                expect(known.has(id)).toBe(false);
                known.add(id);
              } else {
                expect(known.has(id)).toBe(true);
                if (event === 'DEVICE_REMOVE') known.delete(id);
              }
            }
        };
        let waiting = 0;
        let greeted = false;
        for (const action of steps) {
          if (action.do === 'say') {
            if (action.event === CONSOLE_EVENT.PORT_READY && !greeted) continue; // a driver that woke up: elsewhere
            if (action.event === CONSOLE_EVENT.DEVICE_READY) greeted = action.value === 1;
            say(machine, action.id, action.event, action.value);
          } else if (action.do === 'ears') {
            listeners.push(ears(machine, action.count));
            waiting += action.count;
          } else if (action.do === 'plug') {
            if (!machine.model.port(action.id)) machine.model.plug({ id: action.id, console: action.id === 0, name: 'n' });
          } else if (action.do === 'unplug') {
            if (machine.model.port(action.id)) machine.model.unplug(action.id);
          } else machine.model.port(action.id)?.[action.do]();
          hear();
        }
        say(machine, 0, CONSOLE_EVENT.DEVICE_READY, 1);
        listeners.push(ears(machine, 64 + waiting));
        hear();
        expect([...known].sort()).toEqual(machine.model.ports.map(({ id }) => `${id}`).sort());
      }),
    );
  });
});
