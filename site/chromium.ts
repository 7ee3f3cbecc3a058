// # A browser to test in

import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'] as const;

/** Chromium on PATH, or null. */
export function findChromium(): string | null {
  const folders = (process.env.PATH ?? '').split(delimiter);
  for (const name of NAMES) for (const at of folders) if (existsSync(join(at, name))) return join(at, name);
  return null;
}

/** What to say where there is none. */
export const NO_CHROMIUM = `no Chromium on PATH (${NAMES.join(', ')})`;
