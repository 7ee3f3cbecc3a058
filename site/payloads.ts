// # The payloads
//
// A payload is a source file and the image built from it. The site shows the source and offers the image to the live page; what is shown and
// what runs are tied by the payload build's own check.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Literate, parseLiterate } from './literate.ts';
import { filesUnder } from './tree.ts';

export interface Payload {
  readonly name: string;
  /** Source file, relative to the root. */
  readonly source: string;
  readonly page: string;
  readonly literate: Literate;
  readonly text: string;
  /** Size of the ELF image in bytes; null when it is not built. */
  readonly imageBytes: number | null;
  readonly image: string;
}

/** Every source in guest-payloads/src. */
export function readPayloads(root: string): Payload[] {
  return filesUnder(root, 'guest-payloads/src')
    .filter((file) => /\.(c|S)$/.test(file))
    .map((source): Payload => {
      const name = (source.split('/').at(-1) as string).replace(/\.(c|S)$/, '');
      const image = `guest-payloads/images/${name}.elf`;
      const text = readFileSync(join(root, source), 'utf8');
      const imageBytes = existsSync(join(root, image)) ? readFileSync(join(root, image)).length : null;
      return { name, source, page: `payloads/${name}.html`, literate: parseLiterate(source, text), text, imageBytes, image };
    });
}
