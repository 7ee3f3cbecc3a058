// The chapter's recorded runs, which its sentences and figures quote.

import { Recorder } from '../../01-hardware-background/trace.ts';
import { smallestVmm } from '../index.ts';
import { softKernel } from '../kernel/index.ts';

const recorder = new Recorder();
const run = smallestVmm(softKernel({ trace: recorder }), recorder);

export const smallestTrace = recorder.events;
export const smallest = { ...run, vmExits: recorder.of('kvm_exit').length };
