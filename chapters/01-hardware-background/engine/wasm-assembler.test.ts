import { describe, expect, it } from 'vitest';
import { block, br, brIf, brTable, call, either, get, i32, i64, Label, loop, ret, set, tee, WasmModule, when } from './wasm-assembler.ts';

const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
const instantiate = (module: WasmModule, functions: WebAssembly.ModuleImports = {}) =>
  new WebAssembly.Instance(new WebAssembly.Module(module.encode()), { env: { memory, ...functions } }).exports as Record<
    string,
    (...a: never[]) => unknown
  >;

describe('constants', () => {
  it('are as long as they must be', () => {
    expect([...i64.const(63n)]).toEqual([0x42, 63]);
    expect([...i64.const(64n)]).toEqual([0x42, 0xc0, 0]);
    expect([...i64.const(-64n)]).toEqual([0x42, 0x40]);
    expect([...i64.const(-65n)]).toEqual([0x42, 0xbf, 0x7f]);
    expect(i64.const(-(1n << 63n))).toHaveLength(11);
    expect([...i32.const(0xffffffff)]).toEqual([0x41, 0x7f]);
  });
});

describe('modules', () => {
  it('run loops, branches and tables', () => {
    const module = new WasmModule(1, false);
    const factorial = module.function(['i64'], ['i64'], (body, n) => {
      const product = body.local('i64');
      const again = new Label();
      return [
        set(product, i64.const(1n)),
        loop(again, [set(product, i64.mul(get(product), get(n!))), brIf(again, i32.eqz(i64.eqz(tee(n!, i64.sub(get(n!), i64.const(1n))))))]),
        get(product),
      ];
    });
    module.export('factorial', factorial);
    const pick = module.function(['i32'], ['i32'], (_body, n) => {
      const [zero, one, other] = [new Label(), new Label(), new Label()];
      return [
        block(other, [
          block(one, [block(zero, brTable(get(n!), [zero, one], other)), ret(i32.const(100))]),
          either(get(n!), ret(i32.const(101)), br(other)),
        ]),
        i32.const(-1),
      ];
    });
    module.export('pick', pick);
    const { factorial: f, pick: p } = instantiate(module) as { factorial(n: bigint): bigint; pick(n: number): number };
    expect(f(20n)).toBe(2432902008176640000n);
    expect([0, 1, 2, 77].map(p)).toEqual([100, 101, -1, -1]);
  });

  it('call imports and share memory', () => {
    const module = new WasmModule(1, false);
    const twice = module.import('twice', ['i64'], ['i64']);
    module.export(
      'store',
      module.function(['i32', 'i64'], [], (_body, at, value) => when(i32.const(1), i64.store(get(at!), call(twice, get(value!)), 8))),
    );
    const { store } = instantiate(module, { twice: (x: bigint) => 2n * x }) as { store(at: number, value: bigint): void };
    store(16, 21n);
    expect(new DataView(memory.buffer).getBigInt64(24, true)).toBe(42n);
  });

  it('refuse a branch to a label that does not enclose it', () => {
    const module = new WasmModule(1, false);
    expect(() => module.function([], [], () => br(new Label()))).toThrow(RangeError);
  });
});
