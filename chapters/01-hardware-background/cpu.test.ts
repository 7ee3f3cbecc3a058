import { describe, expect, it } from 'vitest';
import { BareMachine } from './bare-machine.ts';
import { Cpu } from './cpu.ts';
import { PhysicalMemory } from './physical-memory.ts';
import { AR, CR0, OFFSET, SEG, SLOT } from './state.ts';
import { Recorder, traceLine } from './trace.ts';

// A ROM of 512 bytes that climbs from the reset vector to 64-bit code, runs a loop of 180,000 instructions with a load and a store in it, prints `L` and
// leaves. In assembler, from the ROM's start at 0xfffffe00:
//
//   real mode        page tables at 0x1000 and 0x2000 (1 GiB identity, and the last GiB); LGDT; CR0.PE; JMP FAR
//   protected mode   segments, CR4.PAE, CR3, EFER.LME and NXE; REP MOVSD copies the ROM to 0x10000; JMP there
//   0x10000          CR0.PG and WP: compatibility mode; JMP FAR to the 64-bit segment
//   64-bit           1: ADD RBX, RCX; MOV [RIP+x], RBX; ADD RCX, [RIP+x]; INC RCX; DEC R8D; CMP; INC R9D; CMP R9D, 20000; JB 1b
const CODE =
  'fa31c08ed88ec066c70600100320000066c70600208300000066c70604100000000066c7061820830000c02e660f011600ff0f20c06683c8010f22c066ea44feffff08006' +
  '6b810008ed88ec08ed0bc00900000b8200000000f22e0b8001000000f22d8b9800000c00f320d000900000f300f20c00d00000180be00feffffbf00000100b980000000f3' +
  'a5ea9100010008000f22c0ea9b000100180031c931db4801cb48891d0000020048030d0000020048ffc141ffc881f9204e000041ffc14181f9204e000072d7b04ce6e9b00' +
  'ae6e9b800000000e7f4f48db400008db400000000000000000000ffff0000009acf00ffff00000092cf00ffff0000009aaf001f00e0feffff';

function rom(): Uint8Array {
  const bytes = new Uint8Array(512);
  bytes.set(Uint8Array.from(CODE.match(/../g) as string[], (pair) => Number.parseInt(pair, 16)));
  bytes.set([0xe9, 0x0d, 0xfe], 0x1f0);
  return bytes;
}

describe('from the reset vector to 64-bit code', () => {
  it('gets there, through every mode on the way', () => {
    const trace = new Recorder({ only: ['mode'] });
    const machine = new BareMachine({ rom: rom(), trace });
    expect(machine.run().kind).toBe('stop');
    expect([machine.console, machine.exitValue, machine.inLongMode]).toEqual(['L\n', 0, true]);
    expect(trace.of('mode').map(({ mode }) => mode)).toEqual(['protected16', 'protected32', 'compat', 'long']);
    expect(machine.cpu.state.slot(SLOT.R9)).toBe(20000n);
    // The load is seven bytes beyond the store, so it sees the sum's top byte alone.
    expect([machine.cpu.state.slot(SLOT.RBX), machine.cpu.state.slot(SLOT.RCX)]).toEqual([(20000n * 19999n) / 2n, 20000n]);
  });

  it('leaves WebAssembly only for misses: the loop costs one fill', () => {
    const machine = new BareMachine({ rom: rom() });
    let calls = 0;
    const translate = machine.cpu.translate.bind(machine.cpu);
    machine.cpu.translate = (linear, bytes, access) => {
      calls++;
      return translate(linear, bytes, access);
    };
    machine.run();
    expect(machine.cpu.instructions).toBeGreaterThan(180_000);
    expect(calls).toBeLessThan(200); // 128 of them read the ROM, which is a device
  });

  it('gives the same trace twice', () => {
    const lines = (): string[] => {
      const trace = new Recorder();
      new BareMachine({ rom: rom(), trace }).run();
      return trace.events.map(traceLine);
    };
    const first = lines();
    expect(first.length).toBeGreaterThan(20);
    expect(lines()).toEqual(first);
  });

  it('does not depend on how the run is cut into pieces', () => {
    const machine = new BareMachine({ rom: rom() });
    let stop = machine.run(1);
    for (let n = 1; stop.kind === 'deadline'; n = (n * 7) % 1009) stop = machine.run(n);
    const whole = new BareMachine({ rom: rom() });
    whole.run();
    expect(machine.cpu.instructions).toBe(whole.cpu.instructions);
    expect(machine.cpu.state.u8.subarray(0, 16 * 8)).toEqual(whole.cpu.state.u8.subarray(0, 16 * 8));
  });
});

describe('power-up', () => {
  it('is the state that the manual tabulates', () => {
    const { state } = new BareMachine().cpu;
    expect([state.segSelector(SEG.CS), state.segBase(SEG.CS), state.segLimit(SEG.CS)]).toEqual([0xf000, 0xffff0000n, 0xffff]);
    expect([state.slot(SLOT.RIP), state.low32(OFFSET.CR0), state.low32(OFFSET.CR4), state.low32(OFFSET.EFER)]).toEqual([0xfff0n, 0x60000010, 0, 0]);
    expect([state.low32(OFFSET.DR6), state.low32(OFFSET.DR7)]).toEqual([0xffff0ff0, 0x400]);
    expect([state.get32(OFFSET.GDTR_LIMIT), state.get32(OFFSET.IDTR_LIMIT)]).toEqual([0xffff, 0xffff]);
    for (const seg of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS])
      expect([state.segBase(seg), state.segLimit(seg), state.segRights(seg)]).toEqual([0n, 0xffff, 0x93]);
    expect(state.segRights(SEG.TR) & AR.TYPE).toBe(11);
  });

  it('fetches from the open bus when there is no ROM, and faults until it gives up', () => {
    const trace = new Recorder();
    const machine = new BareMachine({ trace });
    expect(machine.run(1000).kind).toMatch(/deadline|shutdown/);
    expect(trace.of('exception')[0]).toMatchObject({ vector: 6 }); // FF FF is not an instruction
  });
});

describe('INIT and start-up', () => {
  it('an application processor waits, and begins at the page it is told', () => {
    const memory = new PhysicalMemory({ ramBytes: 1 << 20 });
    const cpu = new Cpu({ memory, apicId: 1 });
    cpu.init();
    expect(cpu.run(10).kind).toBe('wait-for-sipi');
    expect(cpu.run(10).kind).toBe('wait-for-sipi');
    memory.u8.set([0x40, 0xeb, 0xfd], memory.offset(0x7000)); // INC AX; JMP
    cpu.sipi(7);
    expect(cpu.run(1).kind).not.toBe('wait-for-sipi');
    expect([cpu.state.segSelector(SEG.CS), cpu.state.segBase(SEG.CS)]).toEqual([0x700, 0x7000n]);
    cpu.sipi(9); // too late
    cpu.run(1);
    expect(cpu.state.segSelector(SEG.CS)).toBe(0x700);
  });

  it('INIT keeps the time stamp counter and the cache bits of CR0', () => {
    const machine = new BareMachine({ rom: rom() });
    machine.run();
    machine.cpu.state.set64(OFFSET.CR0, machine.cpu.state.get64(OFFSET.CR0) & ~BigInt(CR0.NW));
    machine.cpu.init();
    machine.run(1);
    expect(machine.cpu.state.low32(OFFSET.CR0)).toBe(0x40000010);
    expect(machine.cpu.tsc).toBeGreaterThan(180_000n);
    expect(machine.inLongMode).toBe(false);
  });
});

describe('devices', () => {
  it('a port write ends the run at the next boundary', () => {
    const machine = new BareMachine();
    machine.load(0x1000, [0xb0, 0x41, 0xe6, 0xe9, 0xb8, 5, 0, 0xe7, 0xf4, 0x90, 0xeb, 0xfe]);
    machine.startReal(0x1000);
    expect(machine.run().kind).toBe('stop');
    expect([machine.console, machine.exitValue, machine.cpu.state.slot(SLOT.RIP)]).toEqual(['A', 5, 0x1009n]);
  });

  it('REP OUTSB and REP INSW move one element at a time', () => {
    const machine = new BareMachine();
    const input = [0x1111, 0x2222, 0x3333];
    machine.devices.set(0x10, { read: () => input.shift() ?? 0xffff });
    machine.load(
      0x2000,
      [...'book'].map((c) => c.charCodeAt(0)),
    );
    // MOV SI,2000; MOV CX,4; MOV DX,e9; REP OUTSB; MOV DI,3000; MOV CX,3; MOV DX,10; REP INSW; OUT f4
    machine.load(0x1000, [0xbe, 0, 0x20, 0xb9, 4, 0, 0xba, 0xe9, 0, 0xf3, 0x6e, 0xbf, 0, 0x30, 0xb9, 3, 0, 0xba, 0x10, 0, 0xf3, 0x6d, 0xe7, 0xf4]);
    machine.startReal(0x1000);
    machine.run();
    expect(machine.console).toBe('book');
    expect([0, 2, 4].map((n) => machine.cpu.mem.read16(BigInt(0x3000 + n)))).toEqual([0x1111, 0x2222, 0x3333]);
    expect([machine.cpu.state.slot32(SLOT.RCX), machine.cpu.state.slot32(SLOT.RDI), machine.cpu.state.slot32(SLOT.RSI)]).toEqual([0, 0x3006, 0x2004]);
  });
});
