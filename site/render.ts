// # Every page
//
// Makes all pages in memory. What is done with them is the caller's business: the build writes them, the check throws them away.

import { addChapterList, addRoom } from './pages/chapters.ts';
import { addHome, addSearchPage } from './pages/home.ts';
import { addInstructions } from './pages/instructions.ts';
import { addLadder } from './pages/ladder.ts';
import { addLinux } from './pages/linux.ts';
import { addLive } from './pages/live.ts';
import { addPayloads } from './pages/payloads.ts';
import { addRing } from './pages/ring.ts';
import { addSpeed } from './pages/speed.ts';
import { addSuite } from './pages/suite.ts';
import { addTranslator } from './pages/translator.ts';
import { addWalk } from './pages/walk.ts';
import { readPayloads } from './payloads.ts';
import { Site } from './site.ts';
import { readSuite } from './suite.ts';
import { type Room, readRooms } from './tree.ts';

export interface RenderOptions {
  /** Whether code is coloured; without, a build takes a fifth of the time. */
  readonly colour: boolean;
  readonly apiPages: boolean;
  /** Results files besides those in spec-tests/out. */
  readonly results?: readonly string[];
}

/** Reads the tree and makes its pages. Problems in the prose are collected in the result, not thrown. */
export async function renderTree(root: string, { colour, apiPages, results = [] }: RenderOptions): Promise<Site> {
  const rooms = readRooms(root);
  const site = new Site(root, rooms, readPayloads(root), readSuite(root, rooms, results), { apiPages, colour });
  for (const { modules, tests } of rooms) for (const { problems } of [...modules, ...tests]) site.problems.push(...problems);
  const chapters = rooms.filter(({ number }) => number !== null);
  for (const [index, room] of chapters.entries()) await addRoom(site, room, chapters[index - 1], chapters[index + 1]);
  for (const room of rooms) if (room.number === null && room.modules.length > 0) await addRoom(site, room, undefined, undefined);
  addChapterList(site);
  addInstructions(site, chapters[0] as Room);
  await addPayloads(site);
  addSuite(site);
  addLive(site);
  addLinux(site);
  addWalk(site);
  addLadder(site);
  addTranslator(site);
  addRing(site);
  addSpeed(site);
  addHome(site);
  addSearchPage(site);
  return site;
}
