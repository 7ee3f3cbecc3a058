import { routeAt } from '../route.ts';
import { first } from './index.ts';
import { drawRoute } from './routes.ts';

/** The first OUT of the first guest. */
export function render(): string {
  const from = first.marked.findIndex((event) => event.kind === 'kvm_exit' && event.reason === 'IO_INSTRUCTION');
  const route = routeAt(first.marked, from, first.lookup);
  if (!route?.access) throw new Error('the first guest made no access to a port');
  return drawRoute('The route of one OUT, from the instruction to the device and back', route);
}
