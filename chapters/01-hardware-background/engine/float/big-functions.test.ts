import { expect, it } from 'vitest';
import { angle, type Big } from './big-functions.ts';

const toNumber = ({ n, e }: Big): number => {
  const cut = Math.max(0, n.toString(2).length - 60);
  return Number(n >> BigInt(cut)) * 2 ** (e + cut);
};

it('takes a small ratio for the angle, whatever its size', () => {
  // A ratio with several bits, across the width of the fixed-point numbers that larger angles are computed in.
  for (let e = -200; e > -300; e--) {
    const found = toNumber(angle({ n: 11n, e, exact: true }, { n: 7n, e: 0, exact: true }, false));
    expect(found / ((11 / 7) * 2 ** e), `11/7 · 2^${e}`).toBeCloseTo(1, 12);
  }
});
