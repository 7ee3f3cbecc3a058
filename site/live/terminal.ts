// # The terminal's colours
//
// Those of the page, light or dark, and always those of now.

import type { Terminal } from '@xterm/xterm';

/** Gives a terminal the page's letters and colours, and again whenever they change. `cursor` is the variable with the cursor's. */
export function wearTheme(terminal: Terminal, cursor: string): void {
  const wear = (): void => {
    const style = getComputedStyle(document.documentElement);
    const value = (name: string): string => style.getPropertyValue(name).trim();
    terminal.options.fontFamily = value('--mono');
    terminal.options.theme = {
      background: value('--paper-2'),
      foreground: value('--ink'),
      cursor: value(cursor),
      selectionBackground: value('--accent-2'),
    };
  };
  wear();
  document.documentElement.addEventListener('themechange', wear);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', wear);
}
