import { routeAt } from '../route.ts';
import { first } from './index.ts';
import { drawRoute } from './routes.ts';

/** The store of the first guest to a device's page. */
export function render(): string {
  const from = first.marked.findIndex((event) => event.kind === 'kvm_exit' && event.reason.startsWith('EPT'));
  const route = routeAt(first.marked, from, first.lookup);
  if (!route?.access) throw new Error('the first guest made no access to memory');
  return drawRoute('The route of one store to a device, from the instruction to the device and back', route);
}
