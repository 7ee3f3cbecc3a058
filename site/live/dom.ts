// # Finding and making
//
// The few words in which the pages speak to the document.

export const get = <T extends HTMLElement>(id: string): T => {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
};

export const make = (tag: string, text = '', className = ''): HTMLElement => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
};

/** Thousands apart. */
export const spaced = (n: number): string => String(n).replace(/\B(?=(\d{3})+$)/g, '\u202f');
export const plural = (n: number, word: string): string => `${spaced(n)} ${word}${n === 1 ? '' : 's'}`;
