import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { acpiTables, pciWindow } from './acpi.ts';
import * as aml from './aml.ts';
import { LOADER_ENTRY_BYTES, loaderFiles, placeTables } from './tables.ts';

const OPTIONS = {
  apicIds: [0, 1, 300],
  pci: {
    routes: Array.from({ length: 32 * 4 }, (_, n) => ({ device: n >> 2, pin: n & 3, gsi: 16 + (((n >> 2) + n) % 8) })),
    windows: [pciWindow, { first: 0x8_0000_0000, last: 0xf_ffff_ffff }],
    lastBus: 255,
  },
  ecam: { gpa: 0xb000_0000, buses: 256 },
  serialPorts: [
    { port: 0x3f8, irq: 4 },
    { port: 0x2f8, irq: 3 },
  ],
  fwCfg: true,
};
const PLACE = { rsdpGpa: 0xe_0000, tablesGpa: 0x7fe_0000 };

/** A memory with the tables in it, read by address: what an operating system has. */
function memory(parts: readonly { gpa: number; bytes: Uint8Array }[]) {
  const at = (gpa: number, bytes: number): Uint8Array => {
    const part = parts.find((candidate) => gpa >= candidate.gpa && gpa + bytes <= candidate.gpa + candidate.bytes.length);
    if (!part) throw new Error(`nothing at 0x${gpa.toString(16)}+${bytes}`);
    return part.bytes.subarray(gpa - part.gpa, gpa - part.gpa + bytes);
  };
  const number = (gpa: number, bytes: number) => at(gpa, bytes).reduceRight((value, byte) => value * 256 + byte, 0);
  const table = (gpa: number) => {
    const bytes = at(gpa, number(gpa + 4, 4));
    expect(sum(bytes)).toBe(0);
    return { gpa, signature: String.fromCharCode(...bytes.subarray(0, 4)), bytes };
  };
  return { at, number, table };
}

const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0) & 0xff;

/** A table without its header. */
function body(tables: ReadonlyMap<string, { readonly bytes: Uint8Array }>, signature: string): Uint8Array {
  const table = tables.get(signature);
  if (!table) throw new Error(`no ${signature}`);
  return table.bytes.subarray(36);
}

/** Walks as an operating system does: from the root by both lists. */
function walk(parts: readonly { gpa: number; bytes: Uint8Array }[], rsdpGpa: number) {
  const ram = memory(parts);
  const rsdp = ram.at(rsdpGpa, 36);
  expect(String.fromCharCode(...rsdp.subarray(0, 8))).toBe('RSD PTR ');
  expect([sum(rsdp.subarray(0, 20)), sum(rsdp), rsdp[15], ram.number(rsdpGpa + 20, 4)]).toEqual([0, 0, 2, 36]);
  const list = (gpa: number, bytes: number) => {
    const { bytes: whole } = ram.table(gpa);
    return Array.from({ length: (whole.length - 36) / bytes }, (_, n) => ram.number(gpa + 36 + n * bytes, bytes));
  };
  const narrow = list(ram.number(rsdpGpa + 16, 4), 4);
  const wide = list(ram.number(rsdpGpa + 24, 8), 8);
  expect(narrow).toEqual(wide);
  const tables = new Map(wide.map((gpa) => [ram.table(gpa).signature, ram.table(gpa)]));
  const fadt = tables.get('FACP')?.gpa as number;
  expect(ram.number(fadt + 40, 4)).toBe(ram.number(fadt + 140, 8));
  tables.set('DSDT', ram.table(ram.number(fadt + 40, 4)));
  return { ram, tables, fadt };
}

// ## A reader of AML, written against the specification and not against the encoder
//
// It knows only how long things are. A term list that does not end exactly where its enclosing length says throws.

interface Node {
  op: string;
  name: string;
  children: Node[];
  value?: number;
}

function parseAml(bytes: Uint8Array): Node[] {
  let at = 0;
  const byte = () => {
    if (at >= bytes.length) throw new Error('past the end');
    return bytes[at++] as number;
  };
  const int = (n: number) => {
    let value = 0;
    for (let index = 0; index < n; index++) value += byte() * 2 ** (8 * index);
    return value;
  };
  const end = () => {
    const start = at;
    const lead = byte();
    const more = lead >> 6;
    let length = more === 0 ? lead & 63 : lead & 15;
    for (let index = 0; index < more; index++) length += byte() << (4 + 8 * index);
    if (start + length > bytes.length) throw new Error('a package past the end');
    return start + length;
  };
  const segment = () => String.fromCharCode(byte(), byte(), byte(), byte());
  const nameString = () => {
    let prefix = '';
    while (bytes[at] === 0x5c || bytes[at] === 0x5e) prefix += String.fromCharCode(byte());
    if (bytes[at] === 0) {
      byte();
      return prefix;
    }
    if (bytes[at] === 0x2e) {
      byte();
      return `${prefix}${segment()}.${segment()}`;
    }
    if (bytes[at] === 0x2f) {
      byte();
      return prefix + Array.from({ length: byte() }, segment).join('.');
    }
    return prefix + segment();
  };
  const list = (until: number): Node[] => {
    const nodes: Node[] = [];
    while (at < until) nodes.push(term());
    if (at !== until) throw new Error(`a list ends at ${at}, not at ${until}`);
    return nodes;
  };
  const leaf = (op: string, value?: number): Node => ({ op, name: '', children: [], ...(value === undefined ? {} : { value }) });
  const term = (): Node => {
    const op = byte();
    if (op <= 1) return leaf('int', op);
    if (op === 0x0a) return leaf('int', int(1));
    if (op === 0x0b) return leaf('int', int(2));
    if (op === 0x0c) return leaf('int', int(4));
    if (op === 0x0e) return leaf('int', int(8));
    if (op >= 0x60 && op <= 0x6e) return leaf('argument');
    if (op === 0x0d) {
      let text = '';
      for (let char = byte(); char !== 0; char = byte()) text += String.fromCharCode(char);
      return { op: 'text', name: text, children: [] };
    }
    if (op === 0x08) return { op: 'name', name: nameString(), children: [term()] };
    if (op === 0x10 || op === 0x14) {
      const until = end();
      const name = nameString();
      if (op === 0x14) byte();
      return { op: op === 0x10 ? 'scope' : 'method', name, children: list(until) };
    }
    if (op === 0x11) {
      const until = end();
      const size = term();
      const start = at;
      at = until;
      if (size.value !== until - start) throw new Error('a buffer of another size');
      return { op: 'buffer', name: [...bytes.subarray(start, until)].map((value) => value.toString(16).padStart(2, '0')).join(''), children: [] };
    }
    if (op === 0x12) {
      const until = end();
      const count = byte();
      const children = list(until);
      if (children.length !== count) throw new Error('a package of another length');
      return { op: 'package', name: '', children };
    }
    if (op === 0x5b) {
      if (byte() !== 0x82) throw new Error('an extended operator that this machine does not use');
      const until = end();
      const name = nameString();
      return { op: 'device', name, children: list(until) };
    }
    if (op === 0xa0) {
      const until = end();
      return { op: 'if', name: '', children: list(until) };
    }
    if (op === 0xa1) return { op: 'else', name: '', children: list(end()) };
    const operands: Record<number, number> = { 112: 2, 123: 3, 125: 3, 146: 1, 147: 2, 164: 1 };
    if (operands[op] !== undefined) return { op: op.toString(16), name: '', children: Array.from({ length: operands[op] as number }, term) };
    if (op === 0x8a) return { op: 'field', name: '', children: [term(), term(), term()] };
    at--;
    return { op: 'ref', name: nameString(), children: [] };
  };
  return list(bytes.length);
}

const find = (nodes: readonly Node[], ...names: string[]): Node => {
  const [name, ...rest] = names;
  const found = nodes.find((node) => node.name === name);
  if (!found) throw new Error(`no ${name}`);
  return rest.length === 0 ? found : find(found.children, ...rest);
};

describe('AML', () => {
  it('writes lengths that count themselves, at every boundary', () => {
    for (const [body, bytes] of [
      [0, [1]],
      [62, [63]],
      [63, [0x41, 0x04]],
      [4093, [0x4f, 0xff]],
      [4094, [0x81, 0x00, 0x01]],
      [0xffffc, [0x8f, 0xff, 0xff]],
      [0xffffd, [0xc1, 0x00, 0x00, 0x01]],
    ] as const) {
      const whole = aml.withLength(Array<number>(body).fill(0xa3));
      expect(whole.slice(0, bytes.length)).toEqual(bytes);
      expect(whole.length).toBe(bytes.length + body);
    }
  });
  it('writes names', () => {
    const ascii = (text: string) => [...text].map((char) => char.charCodeAt(0));
    expect(aml.path('\\')).toEqual([0x5c, 0]);
    expect(aml.path('\\_SB')).toEqual(ascii('\\_SB_'));
    expect(aml.path('^^A')).toEqual(ascii('^^A___'));
    expect(aml.path('AB.C')).toEqual([0x2e, ...ascii('AB__C___')]);
    expect(aml.path('\\A.B.C')).toEqual([0x5c, 0x2f, 3, ...ascii('A___B___C___')]);
    for (const bad of ['ABCDE', 'a', '1A', 'A..B', 'A.', '\\^A']) expect(() => aml.path(bad)).toThrow(RangeError);
  });
  it('writes integers in their shortest form', () => {
    expect([0, 1, 2, 255, 256, 65_536, 2 ** 32].map((value) => aml.integer(value)[0])).toEqual([0, 1, 0x0a, 0x0a, 0x0b, 0x0c, 0x0e]);
    expect(aml.integer(0xffff_ffff_ffff_ffffn)).toEqual([0x0e, 255, 255, 255, 255, 255, 255, 255, 255]);
    expect(() => aml.integer(-1)).toThrow(RangeError);
  });
  it('compresses identifiers', () => {
    expect(aml.eisaId('PNP0A03')).toEqual([0x0c, 0x41, 0xd0, 0x0a, 0x03]);
  });
});

describe('ACPI tables placed by the monitor', () => {
  it('hang together, whichever list is read', () => {
    const { tables, ram, fadt } = walk(placeTables(acpiTables(OPTIONS), PLACE), PLACE.rsdpGpa);
    expect([...tables.keys()]).toEqual(['FACP', 'APIC', 'MCFG', 'DSDT']);
    const facs = ram.number(fadt + 36, 4);
    expect([facs % 64, String.fromCharCode(...ram.at(facs, 4)), ram.number(facs + 4, 4)]).toEqual([0, 'FACS', 64]);
  });
  it('say where power management is, the same in both forms', () => {
    const { ram, fadt } = walk(placeTables(acpiTables(OPTIONS), PLACE), PLACE.rsdpGpa);
    const plain = [56, 64, 76, 80].map((at) => ram.number(fadt + at, 4));
    expect(plain).toEqual([0x600, 0x604, 0x608, 0x620]);
    expect([148, 172, 208, 220].map((at) => [ram.number(fadt + at, 1), ram.number(fadt + at + 4, 8)])).toEqual(plain.map((port) => [1, port]));
    expect([46, 88, 89, 91, 92, 128].map((at) => ram.number(fadt + at, 1))).toEqual([9, 4, 2, 4, 16, 6]);
    expect(ram.number(fadt + 120, 8)).toBe(0xcf9);
    expect(ram.number(fadt + 112, 4) & 0x510).toBe(0x400); // reset register; a fixed power button; a timer of 24 bits
  });
  it('say where it is on the older chip', () => {
    const options = { ...OPTIONS, ecam: null, pmChip: 'piix4', pci: { ...OPTIONS.pci, express: false, isaBridge: 1 } } as const;
    const { ram, fadt, tables } = walk(placeTables(acpiTables(options), PLACE), PLACE.rsdpGpa);
    expect([...tables.keys()]).toEqual(['FACP', 'APIC', 'DSDT']);
    expect([56, 64, 76, 80].map((at) => ram.number(fadt + at, 4))).toEqual([0x600, 0x604, 0x608, 0x60c]);
    expect([88, 89, 91, 92].map((at) => ram.number(fadt + at, 1))).toEqual([4, 2, 4, 4]);
    const program = parseAml(body(tables, 'DSDT'));
    expect(find(program, '_SB_', 'MRES', '_CRS').children[0]?.name.slice(0, 16)).toBe('4701000600060140');
    const names = find(program, '_SB_', 'PCI0').children.map(({ name }) => name);
    expect([names.includes('_OSC'), names.includes('_CID'), find(program, '_SB_', 'PCI0', 'ISA_', '_ADR').children[0]?.value]).toEqual([
      false,
      false,
      0x1_0000,
    ]);
  });
  it('list processors and overrides', () => {
    const { tables } = walk(placeTables(acpiTables(OPTIONS), PLACE), PLACE.rsdpGpa);
    const madt = tables.get('APIC')?.bytes as Uint8Array;
    const entries: number[][] = [];
    for (let at = 44; at < madt.length; at += madt[at + 1] as number) entries.push([...madt.subarray(at, at + (madt[at + 1] as number))]);
    expect(entries.flat().length).toBe(madt.length - 44);
    expect(entries).toEqual([
      [0, 8, 0, 0, 1, 0, 0, 0],
      [0, 8, 1, 1, 1, 0, 0, 0],
      [9, 16, 0, 0, 44, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
      [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
      [2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
      [2, 10, 0, 9, 9, 0, 0, 0, 13, 0],
      [2, 10, 0, 5, 5, 0, 0, 0, 13, 0],
      [2, 10, 0, 10, 10, 0, 0, 0, 13, 0],
      [2, 10, 0, 11, 11, 0, 0, 0, 13, 0],
      [4, 6, 255, 0, 0, 1],
    ]);
  });
  it('hold a program whose lengths all fit, with what is asked for', () => {
    const { tables } = walk(placeTables(acpiTables(OPTIONS), PLACE), PLACE.rsdpGpa);
    const program = parseAml(body(tables, 'DSDT'));
    const routes = find(program, '_SB_', 'PCI0', '_PRT').children[0] as Node;
    expect(routes.children.length).toBe(128);
    expect(routes.children[13]?.children.map(({ value }) => value)).toEqual([0x3ffff, 1, 0, 16 + ((3 + 13) % 8)]);
    expect(find(program, '_SB_', 'PCI0', 'ISA_', 'COM2', '_CRS').children[0]?.name).toBe('4701f802f802010822080079' + '00');
    expect(find(program, '_S5_').children[0]?.children.map(({ value }) => value)).toEqual([0, 0, 0, 0]);
    expect(find(program, '_SB_', 'MRES', '_CRS').children[0]?.name).toContain('86090001000000b000000010');
  });
  it('leave out what the machine has not', () => {
    const { tables } = walk(placeTables(acpiTables({ apicIds: [0], i8042: false }), PLACE), PLACE.rsdpGpa);
    expect([...tables.keys()]).toEqual(['FACP', 'APIC', 'DSDT']);
    const program = parseAml(body(tables, 'DSDT'));
    expect(find(program, '_SB_').children.map(({ name }) => name)).toEqual(['C000', 'RTC_', 'MRES']);
  });
  it('refuse a place that is not aligned', () => {
    expect(() => placeTables(acpiTables(OPTIONS), { rsdpGpa: 0xe0008, tablesGpa: 0x10_0000 })).toThrow(RangeError);
  });
});

describe('ACPI tables placed by firmware', () => {
  // The other side: what SeaBIOS and OVMF do with the commands.
  function install(files: readonly { name: string; bytes: Uint8Array }[], places: Readonly<Record<string, number>>) {
    const content = new Map(files.map(({ name, bytes }) => [name, bytes.slice()]));
    const script = content.get('etc/table-loader') as Uint8Array;
    const placed = new Map<string, Uint8Array>();
    for (let at = 0; at < script.length; at += LOADER_ENTRY_BYTES) {
      const entry = script.subarray(at, at + LOADER_ENTRY_BYTES);
      const view = new DataView(script.buffer, at, LOADER_ENTRY_BYTES);
      const name = (from: number) => String.fromCharCode(...entry.subarray(from, entry.indexOf(0, from)));
      const file = (from: number) => placed.get(name(from)) as Uint8Array;
      const command = view.getUint32(0, true);
      if (command === 1) {
        expect((places[name(4)] as number) % view.getUint32(60, true)).toBe(0);
        placed.set(name(4), content.get(name(4)) as Uint8Array);
      } else if (command === 2) {
        const [offset, size] = [view.getUint32(116, true), entry[120] as number];
        const into = file(4);
        let value = places[name(60)] as number;
        for (let n = 0; n < size; n++) value += (into[offset + n] as number) * 2 ** (8 * n);
        for (let n = 0; n < size; n++) into[offset + n] = Math.floor(value / 2 ** (8 * n)) & 0xff;
      } else if (command === 3) {
        const [offset, start, length] = [60, 64, 68].map((from) => view.getUint32(from, true)) as [number, number, number];
        const into = file(4);
        into[offset] = (into[offset] as number) - sum(into.subarray(start, start + length));
      } else throw new Error(`a command ${command}`);
    }
    return [...placed].map(([name, bytes]) => ({ gpa: places[name] as number, bytes }));
  }

  it('come out as those that the monitor places', () => {
    const unplaced = acpiTables(OPTIONS);
    const parts = install(loaderFiles(unplaced), { 'etc/acpi/rsdp': PLACE.rsdpGpa, 'etc/acpi/tables': PLACE.tablesGpa });
    expect(parts).toEqual(placeTables(unplaced, PLACE));
    walk(parts, PLACE.rsdpGpa);
  });
});

const IASL = spawnSync('iasl', ['-v']);

describe.skipIf(IASL.error !== undefined)(`by Intel's own compiler${IASL.error ? ' (skipped: iasl is not installed)' : ''}`, () => {
  it('are disassembled without complaint, and compile again to the same program', () => {
    const directory = mkdtempSync(join(tmpdir(), 'ringbook-acpi-'));
    try {
      const { tables } = walk(placeTables(acpiTables(OPTIONS), PLACE), PLACE.rsdpGpa);
      for (const [signature, { bytes }] of tables) {
        writeFileSync(join(directory, `${signature}.aml`), bytes);
        const told = execFileSync('iasl', ['-d', `${signature}.aml`], { cwd: directory, encoding: 'utf8', stdio: 'pipe' });
        expect(told).not.toMatch(/error|warning|invalid/i);
      }
      const told = execFileSync('iasl', ['-we', '-p', 'again', 'DSDT.dsl'], { cwd: directory, encoding: 'utf8', stdio: 'pipe' });
      expect(told).toMatch(/ 0 Errors/);
      // The compiler writes its own name into the header and orders nothing anew.
      expect(readFileSync(join(directory, 'again.aml')).subarray(36)).toEqual(Buffer.from(body(tables, 'DSDT')));
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

const ACPIEXEC = spawnSync('acpiexec', ['-v']);

describe.skipIf(ACPIEXEC.error !== undefined)(`by the interpreter of Linux${ACPIEXEC.error ? ' (skipped: acpiexec is not installed)' : ''}`, () => {
  const evaluate = (command: string): string => {
    const directory = mkdtempSync(join(tmpdir(), 'ringbook-acpi-'));
    try {
      const { tables } = walk(placeTables(acpiTables(OPTIONS), PLACE), PLACE.rsdpGpa);
      for (const signature of ['DSDT', 'FACP']) writeFileSync(join(directory, signature), tables.get(signature)?.bytes as Uint8Array);
      return execFileSync('acpiexec', ['-b', command, 'DSDT', 'FACP'], { cwd: directory, encoding: 'utf8', stdio: 'pipe' });
    } finally {
      rmSync(directory, { recursive: true });
    }
  };
  it('are loaded', () => {
    const told = evaluate('namespace');
    expect(told).toMatch(/1 ACPI AML tables successfully acquired and loaded/);
    expect(told).not.toMatch(/ACPI (Error|Exception)/);
  });
  it('strike out what the firmware keeps of PCI Express, and know no other question', () => {
    const wants = '1 3 (00 00 00 00 00 00 00 00 1F 00 00 00)';
    expect(evaluate(`evaluate \\_SB.PCI0._OSC (5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66) ${wants}`)).toContain(
      '10 00 00 00 00 00 00 00 1D 00 00 00',
    );
    expect(evaluate(`evaluate \\_SB.PCI0._OSC (00 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66) ${wants}`)).toContain(
      '04 00 00 00 00 00 00 00 1F 00 00 00',
    );
  });
});
