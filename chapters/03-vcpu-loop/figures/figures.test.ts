// # The runs that the text quotes

import { describe, expect, it } from 'vitest';
import { PROGRAM } from '../../01-hardware-background/index.ts';
import { GUEST } from '../index.ts';
import { modes, replay, smallest } from './index.ts';

describe('recorded runs', () => {
  it('run the program of chapter 1, byte for byte', () => {
    expect(GUEST).toEqual(PROGRAM);
    expect(smallest).toEqual({ output: '!', returns: 2, vmExits: 3 });
  });

  it('leave CPUID to the kernel', () => {
    expect(modes.userExits).toBe(modes.rounds + 1); // one port write a round, and the halt
    expect(modes.vmExits).toBe(2 * modes.rounds + 2); // CPUID and the port, the first touch of the page, the halt
  });

  it('attempt an ADD to a device twice: once in vain', () => {
    expect(replay.steps.map(({ kind }) => kind)).toEqual(['exit', 'attempt', 'user', 'answer', 'attempt', 'user', 'answer']);
    expect(replay.register).toBe(replay.before + replay.addend);
  });
});
