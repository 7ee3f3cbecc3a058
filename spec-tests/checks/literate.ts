// # The prose holds
//
// Every figure exists and draws, every include is there, every number in prose evaluates. The site's own renderer knows all of that, so the check is
// to render every page and to keep none.

import { examineTree } from '../../site/examine.ts';
import type { Check } from './tree.ts';

export const literate: Check = {
  name: 'literate',
  what: 'figures, includes and numbers in prose',
  async run() {
    return [...(await examineTree()).problems];
  },
};
