// The suite writes reports where there is no site, so the few shapes of HTML that both need are its own.

export { escapeHtml, type Row, relativeTo, slug, table, unescapeHtml } from '../spec-tests/html.ts';
