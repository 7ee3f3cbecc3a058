// # The drift checks
//
// A book about code goes stale in a hundred small ways: an id that no longer exists, a number that was true last month, a chapter that leans
// on a later one. Each way is a check here, and a failing check is a failing build.

import { clauses } from './checks/clauses.ts';
import { exports } from './checks/exports.ts';
import { imports } from './checks/imports.ts';
import { literate } from './checks/literate.ts';
import { prefixes } from './checks/prefixes.ts';
import { tidy } from './checks/tidy.ts';
import { format, payloadImages } from './checks/tools.ts';
import { type Check, readTree } from './checks/tree.ts';

const CHECKS: readonly Check[] = [imports, clauses, literate, exports, tidy, format, payloadImages, prefixes];

const names = process.argv.slice(2);
const except = names[0] === '--except';
const wanted = except ? names.slice(1) : names;
const unknown = wanted.filter((name) => !CHECKS.some((check) => check.name === name));
if (unknown.length > 0 || wanted.includes('--help')) {
  console.log(`usage: ringbook check [[--except] name …]\n\n${CHECKS.map(({ name, what }) => `  ${name.padEnd(10)}${what}`).join('\n')}`);
  process.exit(wanted.includes('--help') ? 0 : 2);
}

const tree = readTree();
let passed = 0;
let failed = 0;
for (const check of CHECKS.filter(({ name }) => wanted.length === 0 || wanted.includes(name) !== except)) {
  const began = performance.now();
  const result = await check.run(tree);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  if ('skipped' in result) {
    console.log(`- ${check.name}: skipped: ${result.skipped}`);
  } else if (result.length === 0) {
    passed++;
    console.log(`✓ ${check.name}: ${check.what} (${seconds} s)`);
  } else {
    failed++;
    console.log(`✗ ${check.name}: ${check.what} (${seconds} s)`);
    for (const { file, line, message } of result) console.log(`    ${file}${line ? `:${line}` : ''}: ${message}`);
  }
}
console.log(`checks: ${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
