import { describe, expect, it } from 'vitest';
import { brIf, either, get, i32, i64, Label, type Local, loop, set, WasmModule } from './wasm-assembler.ts';
import { disassemble } from './wasm-text.ts';
import { f64, i8x16, v128 } from './wasm-vectors.ts';

describe('a disassembler', () => {
  const moduleOf = (build: Parameters<WasmModule['function']>[2], results: Parameters<WasmModule['function']>[1] = ['i64']): string[] => {
    const module = new WasmModule(1, false);
    module.function(['i64', 'i32'], results, build);
    const bytes = module.encode();
    expect(WebAssembly.validate(bytes)).toBe(true);
    return disassemble(bytes)[0] as string[];
  };

  it('reads what the assembler writes', () => {
    const text = moduleOf((body, n) => {
      const again = new Label();
      const x = body.local('i64');
      return [
        loop(again, [set(x, i64.add(get(n as Local), i64.const(-5n))), brIf(again, i64.eqz(get(x)))]),
        either(i32.const(70000), i64.load(i32.const(0), 24), get(x), 'i64'),
      ];
    });
    expect(text).toEqual([
      'loop',
      '  local.get 0',
      '  i64.const -5',
      '  i64.add',
      '  local.set 2',
      '  local.get 2',
      '  i64.eqz',
      '  br_if 0',
      'end',
      'i32.const 0x11170',
      'if i64',
      '  i32.const 0',
      '  i64.load offset=24',
      'else',
      '  local.get 2',
      'end',
    ]);
  });

  it('knows vectors and floating point', () => {
    const shuffled = i8x16.shuffle(
      v128.load(i32.const(0), 16),
      v128.const(1n, 2n),
      Array.from({ length: 16 }, (_, i) => 31 - i),
    );
    expect(moduleOf(() => [v128.store(i32.const(64), shuffled), f64.store(i32.const(8), f64.sqrt(f64.const(2)))], [])).toEqual([
      'i32.const 64',
      'i32.const 0',
      'v128.load offset=16',
      'v128.const 0x00000000000000020000000000000001',
      'i8x16.shuffle 31 30 29 28 27 26 25 24 23 22 21 20 19 18 17 16',
      'v128.store',
      'i32.const 8',
      'f64.const 2',
      'f64.sqrt',
      'f64.store',
    ]);
  });
});
