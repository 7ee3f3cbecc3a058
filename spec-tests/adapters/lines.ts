// Lines from a stream that nobody vouches for. A peer that never ends its line must not fill the memory, and one that ends it in the middle of
// a character must not garble the next, so bytes are collected up to a limit and decoded a line at a time.

/** Splits chunks into lines. `onLine` gets each without its `\n`; `onOverflow` is called once, after which everything is dropped. */
export function lineSplitter(limitBytes: number, onLine: (line: string) => void, onOverflow: () => void): (chunk: Uint8Array) => void {
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  let overflown = false;
  const decoder = new TextDecoder('utf-8');
  return (chunk) => {
    let rest = chunk;
    while (!overflown) {
      const end = rest.indexOf(0x0a);
      const piece = end < 0 ? rest : rest.subarray(0, end);
      heldBytes += piece.length;
      if (heldBytes > limitBytes) {
        overflown = true;
        held = [];
        onOverflow();
        return;
      }
      if (piece.length > 0) held.push(piece);
      if (end < 0) return;
      const line = decoder.decode(held.length === 1 ? held[0] : Buffer.concat(held));
      held = [];
      heldBytes = 0;
      rest = rest.subarray(end + 1);
      onLine(line);
    }
  };
}
