// Loads one mutant: when Node reads the named module, it gets the changed text, and `loaded` is made. No file of the tree is touched, so a run that is
// killed leaves nothing behind. What to change stands in this module's own URL.
import { readFileSync, writeFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { fileURLToPath } from 'node:url';

const { file, find, replace, loaded } = Object.fromEntries(new URL(import.meta.url).searchParams);

registerHooks({
  load(url, context, nextLoad) {
    if (!url.startsWith('file:') || !fileURLToPath(url).replaceAll('\\', '/').endsWith(`/${file}`)) return nextLoad(url, context);
    const source = readFileSync(fileURLToPath(url), 'utf8');
    if (source.split(find).length !== 2) throw new Error(`the mutant's text occurs ${source.split(find).length - 1} times in ${file}, not once`);
    writeFileSync(loaded, '');
    return { format: 'module-typescript', source: source.replace(find, () => replace), shortCircuit: true };
  },
});
