// # The payloads
//
// A payload is a row of the payload list, a source file, and the image built from it; several payloads may be builds of one source for
// different widths. A page belongs to a source, and says what is built from it. What is shown and what runs are tied by the payload build's
// own check.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { BOOT_SOURCES, imagePath, PAYLOADS, RUNTIME_SOURCES } from '../guest-payloads/index.ts';
import { type Literate, parseLiterate } from './literate.ts';

export interface Payload {
  readonly name: string;
  readonly title: string;
  /** Chapter folder name. */
  readonly chapter: string;
  readonly room: number;
  readonly needs: readonly string[];
  readonly end: string;
  readonly vcpus: number;
  /** Relative to the root. */
  readonly source: string;
  readonly page: string;
  readonly image: string;
  /** Size of the ELF image; null when it is not built. */
  readonly imageBytes: number | null;
}

/** One source file and what is built from it. */
export interface PayloadSource {
  readonly file: string;
  readonly page: string;
  readonly literate: Literate;
  readonly text: string;
  readonly builds: readonly Payload[];
}

/** The payloads, the sources they are built from, and after these the runtime that all are linked with (which builds nothing by itself). */
export function readPayloads(root: string): { payloads: Payload[]; sources: PayloadSource[] } {
  const payloads = PAYLOADS.map((row): Payload => {
    const { name, title, chapter, room, needs, end, vcpus } = row;
    const image = `guest-payloads/${imagePath(name)}`;
    const source = `guest-payloads/${row.source}`;
    const page = `payloads/${basename(source).replace(/\.\w+$/, '')}.html`;
    const imageBytes = existsSync(join(root, image)) ? statSync(join(root, image)).size : null;
    return { name, title, chapter, room, needs, end, vcpus, source, page, image, imageBytes };
  });
  const sources = [...Map.groupBy(payloads, ({ source }) => source)].map(([file, builds]): PayloadSource => {
    const text = readFileSync(join(root, file), 'utf8');
    return { file, page: (builds[0] as Payload).page, literate: parseLiterate(file, text), text, builds };
  });
  const runtime = [...RUNTIME_SOURCES, ...BOOT_SOURCES].map((name): PayloadSource => {
    const file = `guest-payloads/${name}`;
    const text = readFileSync(join(root, file), 'utf8');
    return { file, page: `payloads/runtime/${basename(file)}.html`, literate: parseLiterate(file, text), text, builds: [] };
  });
  return { payloads, sources: [...sources, ...runtime] };
}
