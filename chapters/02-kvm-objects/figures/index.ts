// The chapter's recorded runs, which its sentences and figures quote.

import { Recorder } from '../../01-hardware-background/trace.ts';
import { threeObjects } from '../index.ts';
import { SoftKernel } from '../soft/soft-kernel.ts';

const recorder = new Recorder({ only: ['ioctl'] });
export const firstContact = threeObjects(new SoftKernel(), recorder);
export const firstContactTrace = recorder.of('ioctl');
