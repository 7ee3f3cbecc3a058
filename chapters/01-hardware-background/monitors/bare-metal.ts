// # On the bare machine
//
// The yardstick. The specimen has ring 0, and nobody else is there.

import { lies } from './specimen.ts';
import { Stage } from './stage.ts';
import type { Outcome } from './virtual-processor.ts';

/** Runs the specimen as the owner of its machine. */
export function bareMetal(): Outcome {
  const stage = new Stage(0);
  stage.next();
  const notes = stage.notes();
  return { notes, lies: lies(notes), crossings: stage.crossings, instructions: stage.instructions };
}
