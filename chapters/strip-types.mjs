// Node runs TypeScript as it is, except below `node_modules`, where it refuses. An installed ringbook lies there. So its front door preloads this: the types of our
// own files, and of nobody else's, are blanked out as they are loaded. Blanked, not removed: a line and a column in a stack trace are those of the file that is
// read. By way of NODE_OPTIONS every process and every thread that is started from here has it too; another Node in between (an adapter's) passes by.

import { readFileSync } from 'node:fs';
import * as module from 'node:module';
import { fileURLToPath } from 'node:url';

const ours = new URL('../', import.meta.url).href;

if (module.registerHooks && module.stripTypeScriptTypes) {
  module.registerHooks({
    load(url, context, nextLoad) {
      const path = url.split('?')[0];
      if (!path.startsWith(ours) || !path.endsWith('.ts') || path.slice(ours.length).includes('node_modules/')) return nextLoad(url, context);
      return { format: 'module', source: module.stripTypeScriptTypes(readFileSync(fileURLToPath(path), 'utf8')), shortCircuit: true };
    },
  });
}
