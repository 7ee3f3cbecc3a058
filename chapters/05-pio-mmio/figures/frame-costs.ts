import { table } from '../../01-hardware-background/figures/drawing.ts';
import { FRAMES } from '../operations.ts';
import { frameExits, frameRest, frameTraffic } from './index.ts';

/** A frame there and back, register by register. */
export function render(): string {
  const { exits } = frameTraffic;
  const each = (count: number): string => String(Math.round((10 * count) / FRAMES) / 10);
  const rows = [
    ['TDT', 'look, there is a frame', each(exits.doorbell), { text: 'user space', ink: 'user' as const }],
    ['ICR', 'what was it?', each(exits.causes), { text: 'user space', ink: 'user' as const }],
    ['RDT', 'the buffer is yours again', each(exits.buffers), { text: 'user space', ink: 'user' as const }],
    ['EOI', 'the interrupt is done', each(frameRest.apic), { text: 'kernel', ink: 'kernel' as const }],
    ['HLT', 'nothing to do', each(frameRest.sleep), { text: 'kernel', ink: 'kernel' as const }],
    ['all', '', each(frameExits.exits), `${each(frameExits.user)} of them to user space`],
  ];
  return table('Exits for each frame there and back', ['register', 'what it says', 'a frame', 'settled by'], rows);
}
