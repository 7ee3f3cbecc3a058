import { type Actor, type Message, sequence } from '../../01-hardware-background/figures/drawing.ts';
import type { Route, Stop, World } from '../route.ts';

const ACTORS: readonly (Actor & { readonly world: World })[] = [
  { world: 'user', name: 'VMM', ink: 'user' },
  { world: 'kernel', name: 'kernel', ink: 'kernel' },
  { world: 'processor', name: 'processor', ink: 'ink-2' },
  { world: 'guest', name: 'guest', ink: 'guest' },
];
const laneOf = (world: World): number => ACTORS.findIndex((actor) => actor.world === world);

/** A route as messages: what arrives in a world is an arrow to it, what happens there is a note. */
export function drawRoute(title: string, { stops }: Route): string {
  const messages: Message[] = [];
  let at: Stop | null = null;
  for (const stop of stops) {
    const to = laneOf(stop.world);
    const from = at ? laneOf(at.world) : to;
    // A message that passes through a world is drawn from its neighbour: every crossing is one step.
    if (from === to) messages.push({ from: to, to, text: stop.title, detail: stop.detail });
    else {
      const step = Math.sign(to - from);
      for (let lane = from; lane !== to; lane += step) messages.push({ from: lane, to: lane + step, text: crossing(lane, step) });
      messages.push({ from: to, to, text: stop.title, detail: stop.detail });
    }
    at = stop;
  }
  return sequence(title, ACTORS, messages);
}

const UP = ['', 'KVM_RUN returns', 'VM exit', 'executes'];
const DOWN = ['KVM_RUN', 'VM entry', 'goes on', ''];
const crossing = (lane: number, step: number): string => (step < 0 ? UP[lane] : DOWN[lane]) as string;
