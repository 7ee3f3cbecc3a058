// # Shifts, rotations and single bits

import { SLOT } from '../state.ts';
import { type Builder, slot } from './builder.ts';
import { instruction } from './encoding.ts';

// ## Shifts and rotations
//
// Six forms each: by an immediate, by one, by CL; bytes and words. /6 is an undocumented twin of SHL that every processor has.
const forms = (digit: number): string =>
  `C0/${digit} Eb,Ib; C1/${digit} Ev,Ib; D0/${digit} Eb,1; D1/${digit} Ev,1; D2/${digit} Eb,CL; D3/${digit} Ev,CL`;
// @clause x86.shift.counts
const shift = (name: string) => (b: Builder) => {
  const count = b.read(1);
  b.modify(0, (d) => b.combine(name, b.bytes(0), d, d, count));
};

const ROL = instruction('ROL', forms(0), shift('rol')); // rotates left
const ROR = instruction('ROR', forms(1), shift('ror')); // rotates right
const RCL = instruction('RCL', forms(2), shift('rcl')); // rotates left through CF
const RCR = instruction('RCR', forms(3), shift('rcr')); // rotates right through CF
const SHL = instruction('SHL', `${forms(4)};${forms(6)}`, shift('shl')); // shifts left
const SHR = instruction('SHR', forms(5), shift('shr')); // shifts right
const SAR = instruction('SAR', forms(7), shift('sar')); // shifts right, copying the sign

const doubleShift = (name: string) => (b: Builder) => {
  const count = b.read(2);
  const filler = b.value(1);
  b.modify(0, (d) => b.combine(name, b.bytes(0), d, filler, count));
};
const SHLD = instruction('SHLD', '0FA4 Ev,Gv,Ib; 0FA5 Ev,Gv,CL', doubleShift('shld')); // shifts left, bits of another register follow
const SHRD = instruction('SHRD', '0FAC Ev,Gv,Ib; 0FAD Ev,Gv,CL', doubleShift('shrd')); // shifts right, bits of another register follow

// ## Bit tests
//
// With an immediate, or a register destination, the bit number counts within the operand. With a register bit number and a memory operand, memory is one
// long string of bits and the number may reach far to either side of the address.

// @clause x86.bit-string.offsets
const bitTest = (name: string) => (b: Builder) => {
  const bytes = b.bytes(0);
  const number = b.read(1);
  if ('imm' in number || b.registerOf(0) >= 0) {
    if (name === 'bt') b.combine(name, bytes, 0, b.value(0), number);
    else b.modify(0, (d) => b.combine(name, bytes, d, d, number));
    return;
  }
  const unit = b.temporary();
  b.emit(`bitUnit.${bytes}`, { d: unit, a: b.offset(), b: number.at });
  const { addressSize, segment } = b.insn;
  if (addressSize < 8) b.emit(`lea.${addressSize}.base`, { d: unit, a: unit });
  const access = name === 'bt' ? 0 : 2;
  const address = { at: b.linear(unit, segment, bytes, access), disp: 0n, stack: segment === 2 };
  const value = b.load(address, bytes, b.temporary(), name === 'bt' ? 'load' : 'modify');
  b.combine(name, bytes, value, value, number);
  if (name !== 'bt') b.store(address, bytes, value);
};

const BT = instruction('BT', '0FA3 Ev,Gv; 0FBA/4 Ev,Ib', bitTest('bt')); // copies a bit to CF
const BTS = instruction('BTS', '0FAB Ev,Gv lock; 0FBA/5 Ev,Ib lock', bitTest('bts')); // copies a bit to CF, sets it
const BTR = instruction('BTR', '0FB3 Ev,Gv lock; 0FBA/6 Ev,Ib lock', bitTest('btr')); // copies a bit to CF, clears it
const BTC = instruction('BTC', '0FBB Ev,Gv lock; 0FBA/7 Ev,Ib lock', bitTest('btc')); // copies a bit to CF, inverts it

// ## Searching and counting

const unary = (name: string) => (b: Builder) => b.emit(`${name}.${b.bytes(0)}`, { d: b.value(0), a: b.value(1) });

const BSF = instruction('BSF', '0FBC Gv,Ev', unary('bsf')); // number of the lowest one
const BSR = instruction('BSR', '0FBD Gv,Ev', unary('bsr')); // number of the highest one
// @clause x86.popcnt.results
const POPCNT = instruction('POPCNT', 'F3.0FB8 Gv,Ev POPCNT', unary('popcnt')); // counts ones
const BSWAP = instruction('BSWAP', '0FC8+ Zv', (b) => b.emit(`bswap.${b.bytes(0)}`, { d: b.registerOf(0) })); // reverses the bytes

// ## Flags by name

const CLC = instruction('CLC', 'F8', (b) => b.emit('clc')); // clears CF
const STC = instruction('STC', 'F9', (b) => b.emit('stc')); // sets CF
const CMC = instruction('CMC', 'F5', (b) => b.emit('cmc')); // inverts CF
const CLD = instruction('CLD', 'FC', (b) => b.emit('cld')); // clears DF: strings go up
const STD = instruction('STD', 'FD', (b) => b.emit('std')); // sets DF: strings go down
const AH = slot(SLOT.RAX) + 1;
const LAHF = instruction('LAHF', '9F', (b) => b.emit('lahf', { d: AH })); // copies the flags to AH
const SAHF = instruction('SAHF', '9E', (b) => b.emit('sahf', { a: AH })); // copies AH to the flags

// biome-ignore format: table
export const SHIFTS_AND_BITS = [
  ROL, ROR, RCL, RCR, SHL, SHR, SAR, SHLD, SHRD, BT, BTS, BTR, BTC, BSF, BSR, POPCNT, BSWAP, CLC, STC, CMC, CLD, STD, LAHF, SAHF,
];
