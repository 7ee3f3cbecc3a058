// # The prose holds
//
// Every figure exists and draws, every include is there, every number in prose evaluates. The site's own build knows all of that, so the check is
// the build: pages only, into a folder that is thrown away.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildSite } from '../../site/build.ts';
import type { Check, Problem } from './tree.ts';

/** `file:line: message`, taken apart. */
function located(text: string): Problem {
  const [, file = '.', line = '0', message = text] = /^([^\s:]+):(\d+): ([\s\S]*)$/.exec(text) ?? [];
  return { file, line: Number(line), message };
}

export const literate: Check = {
  name: 'literate',
  what: 'figures, includes and numbers in prose',
  async run() {
    const folder = mkdtempSync(join(tmpdir(), 'ringbook-literate-'));
    try {
      const { problems } = await buildSite({ out: join(folder, 'site'), parts: ['pages'], tolerant: true });
      return problems.map(located);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
