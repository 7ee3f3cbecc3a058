// # Drawing what the translator made
//
// The page of chapter 1's explorable about translation. A link holds the code.

import './live.css';
import './translator.css';
import { get, make, plural } from './dom.ts';
import { bytesFrom, type ShownInstruction, type ShownRegion, SPECIMENS, type Specimen, translated } from './translator-model.ts';

const specimen = get<HTMLSelectElement>('specimen');
const bits = get<HTMLSelectElement>('bits');
const bytes = get<HTMLTextAreaElement>('bytes');

function chosen(): Specimen {
  const known = SPECIMENS[specimen.selectedIndex];
  return known ?? { name: 'your own', bits: bits.value === '32' ? 32 : 64, code: bytesFrom(bytes.value) };
}

function instruction({ address, bytes: code, text, micros }: ShownInstruction): HTMLElement {
  const item = document.createElement('details');
  const line = make('summary');
  line.append(make('span', address, 'at'), make('span', text, 'text'), make('span', code, 'bytes'));
  const list = make('ol', '', 'micros');
  list.append(...micros.map((name) => make('li', name)));
  item.append(line, list);
  return item;
}

function draw(region: ShownRegion): void {
  get('guest').replaceChildren(
    ...region.blocks.map(({ instructions, leads }) => {
      const block = make('div', '', 'guest-block');
      block.append(...instructions.map(instruction), make('p', `→ ${leads}`, 'then'));
      return block;
    }),
  );
  get('wasm').textContent = region.wasm.join('\n');
  const micros = region.blocks.flatMap(({ instructions }) => instructions).reduce((sum, one) => sum + one.micros.length, 0);
  get('sum').textContent =
    `${plural(region.instructions, 'instruction')} in ${plural(region.blocks.length, 'block')}, ${plural(micros, 'micro-operation')}: ` +
    `${plural(region.wasm.length, 'line')} of WebAssembly in a module of ${plural(region.bytes, 'byte')}.`;
}

function update(): void {
  const own = specimen.selectedIndex === SPECIMENS.length;
  for (const id of ['own', 'own-bits']) get(id).hidden = !own;
  const trouble = get('trouble');
  trouble.hidden = true;
  try {
    const region = translated(chosen());
    if (!region)
      throw new Error('This code has not become hot, or nothing of it can be translated: it ended, faulted, or is all system instructions.');
    draw(region);
  } catch (error) {
    trouble.hidden = false;
    trouble.textContent = error instanceof Error ? error.message : String(error);
    get('guest').replaceChildren();
    get('wasm').textContent = '';
    get('sum').textContent = '';
  }
  history.replaceState(null, '', own ? `#bits=${bits.value}&code=${bytes.value.trim().replace(/\s+/g, '')}` : `#${specimen.selectedIndex}`);
}

function readLink(): void {
  const hash = location.hash.slice(1);
  const own = /^bits=(32|64)&code=((?:[0-9a-fA-F]{2})+)$/.exec(hash);
  if (own) {
    specimen.selectedIndex = SPECIMENS.length;
    bits.value = own[1] as string;
    bytes.value = (own[2] as string).replace(/../g, '$& ').trim();
  } else if (/^\d$/.test(hash) && Number(hash) < SPECIMENS.length) specimen.selectedIndex = Number(hash);
}

for (const control of [specimen, bits, bytes]) control.addEventListener('input', update);
addEventListener('hashchange', () => {
  readLink();
  update();
});
readLink();
update();
