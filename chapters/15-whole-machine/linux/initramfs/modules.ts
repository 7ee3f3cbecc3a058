// # Which modules a module needs
//
// A distribution's kernel has its drivers in modules, some thousands of them. Each says in a section of its own, `.modinfo`, what it is called and which others
// it calls into; a tool called `depmod` makes a list of that when a kernel is installed, and nobody has installed this one. So the sections are read here.

import { layout, u16le, u32le, u64le } from '../../../01-hardware-background/layout.ts';

/** What is wrong with a list of modules. */
export class ModuleError extends Error {
  override name = 'ModuleError';
}

// biome-ignore format: table
const Elf32 = { header: layout('Elf32_Ehdr', { e_shoff: u32le(32), e_shentsize: u16le(46), e_shnum: u16le(48), e_shstrndx: u16le(50) }, 52),
  section: layout('Elf32_Shdr', { sh_name: u32le(0), sh_offset: u32le(16), sh_size: u32le(20) }, 40) };
// biome-ignore format: table
const Elf64 = { header: layout('Elf64_Ehdr', { e_shoff: u64le(40), e_shentsize: u16le(58), e_shnum: u16le(60), e_shstrndx: u16le(62) }, 64),
  section: layout('Elf64_Shdr', { sh_name: u32le(0), sh_offset: u64le(24), sh_size: u64le(32) }, 64) };
const ELF_MAGIC = 0x464c_457f;

/** The bytes of a named section; null when the file has none, or is not what it says. */
function section(file: Uint8Array, name: string): Uint8Array | null {
  if (file.length < Elf64.header.bytes) return null;
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  if (view.getUint32(0, true) !== ELF_MAGIC) return null;
  const format = file[4] === 1 ? Elf32 : Elf64;
  const { e_shoff, e_shentsize, e_shnum, e_shstrndx } = format.header.load(view);
  const at = (index: number): { name: number; bytes: Uint8Array } | null => {
    const start = Number(e_shoff) + index * e_shentsize;
    if (start + format.section.bytes > file.length) return null;
    const { sh_name, sh_offset, sh_size } = format.section.load(view, start);
    return { name: sh_name, bytes: file.subarray(Number(sh_offset), Number(sh_offset) + Number(sh_size)) };
  };
  const names = at(e_shstrndx)?.bytes;
  if (!names) return null;
  const wanted = [...name].map((letter) => letter.charCodeAt(0)).concat(0);
  for (let index = 0; index < e_shnum; index++) {
    const found = at(index);
    if (found && wanted.every((byte, place) => names[found.name + place] === byte)) return found.bytes;
  }
  return null;
}

interface ModuleInfo {
  /** Those it calls into. */
  readonly needs: readonly string[];
  /** Those it wants to be loaded before it, if they exist. */
  readonly prefers: readonly string[];
}

/** `snd-pcm` and `snd_pcm` are one name. */
export const moduleName = (name: string): string =>
  name
    .replace(/^.*\//, '')
    .replace(/\.ko(\.[a-z]+)?$/, '')
    .replaceAll('-', '_');

/** Reads what a module says about itself. @throws ModuleError when it says nothing */
function readModule(file: Uint8Array): ModuleInfo {
  const info = section(file, '.modinfo');
  if (!info) throw new ModuleError('this is no kernel module: it has no .modinfo');
  const needs: string[] = [];
  const prefers: string[] = [];
  for (const line of new TextDecoder('latin1').decode(info).split('\0')) {
    const [, key, value = ''] = /^([a-z_]+)=(.*)$/s.exec(line) ?? [];
    if (key === 'depends') needs.push(...value.split(',').filter((name) => name !== ''));
    const before = key === 'softdep' ? /(?:^|\s)pre:\s*(.*?)(?:\s+post:|$)/.exec(value)?.[1] : undefined;
    if (before) prefers.push(...before.split(/\s+/).filter((name) => name !== ''));
  }
  return { needs: needs.map(moduleName), prefers: prefers.map(moduleName) };
}

/** Where modules come from. */
export interface ModuleSource {
  /** Null when there is no such module. */
  read(name: string): Uint8Array | null;
  isBuiltIn(name: string): boolean;
}

/** The modules asked for and all they need, each after those. @throws ModuleError for one that does not exist */
export function resolveModules(wanted: readonly string[], source: ModuleSource): Map<string, Uint8Array> {
  const ordered = new Map<string, Uint8Array>();
  const entering = new Set<string>();
  const visit = (name: string, neededBy: string | null, optional: boolean): void => {
    if (ordered.has(name) || entering.has(name) || source.isBuiltIn(name)) return;
    const file = source.read(name);
    if (!file) {
      if (optional) return;
      throw new ModuleError(`there is no module ${name}${neededBy ? `, which ${neededBy} needs` : ''}`);
    }
    entering.add(name);
    const { needs, prefers } = readModule(file);
    // What is preferred is often an algorithm and no module; the kernel's portable one is named after it.
    for (const other of prefers.flatMap((each) => [each, `${each}_generic`])) visit(other, name, true);
    for (const other of needs) visit(other, name, false);
    ordered.set(name, file);
  };
  for (const name of wanted) visit(moduleName(name), null, false);
  return ordered;
}
