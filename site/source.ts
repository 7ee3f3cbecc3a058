// # Reading a source file
//
// A literate file is split on comments, so it matters what a comment is: a line of a template string that happens to begin with two slashes
// is not prose. The compiler knows; everything here is taken from its syntax tree. Between two tokens there is nothing but white space
// and comments, so those gaps are scanned by hand and nothing else is.

import { extname } from 'node:path';
import ts from 'typescript';

/** A comment and where it stands; `line` counts from 1. */
export interface Comment {
  readonly kind: 'line' | 'block';
  readonly start: number;
  readonly end: number;
  readonly line: number;
  readonly column: number;
}

/** A declaration that a reader can be sent to. Lines count from 1, the doc comment is not included in them. */
export interface Declared {
  readonly name: string;
  readonly kind: 'class' | 'interface' | 'type' | 'const' | 'function';
  readonly exported: boolean;
  readonly line: number;
  readonly endLine: number;
  /** The text of its API comment, without the stars. */
  readonly doc: string;
}

/** What the renderer wants to know about one TypeScript file. */
export interface Source {
  readonly comments: readonly Comment[];
  readonly declared: readonly Declared[];
  /** Last line of the leading import statements; 0 when there are none. */
  readonly importsEnd: number;
  /** First line of the leading import statements; 0 when there are none. */
  readonly importsStart: number;
  /** Module specifiers of every static import and re-export. */
  readonly imports: readonly string[];
}

function commentsIn(text: string, from: number, to: number, lineOf: (position: number) => { line: number; character: number }): Comment[] {
  const found: Comment[] = [];
  let at = from;
  while (at < to - 1) {
    const two = text.slice(at, at + 2);
    if (two !== '//' && two !== '/*') {
      at++;
      continue;
    }
    const close = two === '//' ? text.indexOf('\n', at) : text.indexOf('*/', at + 2) + 2;
    const end = close < at + 2 ? to : Math.min(close, to);
    const { line, character } = lineOf(at);
    found.push({ kind: two === '//' ? 'line' : 'block', start: at, end, line: line + 1, column: character });
    at = end;
  }
  return found;
}

const docText = (comment: string): string =>
  comment
    .replace(/^\/\*\*\s?|\s*\*\/$/g, '')
    .split('\n')
    .map((line) => line.replace(/^\s*\*\s?/, ''))
    .join('\n')
    .trim();

const KINDS = new Map<ts.SyntaxKind, Declared['kind']>([
  [ts.SyntaxKind.ClassDeclaration, 'class'],
  [ts.SyntaxKind.InterfaceDeclaration, 'interface'],
  [ts.SyntaxKind.TypeAliasDeclaration, 'type'],
  [ts.SyntaxKind.FunctionDeclaration, 'function'],
  [ts.SyntaxKind.VariableStatement, 'const'],
]);

/** Reads a TypeScript (or JavaScript) file. */
export function readSource(path: string, text: string): Source {
  const tree = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true, extname(path) === '.ts' ? ts.ScriptKind.TS : ts.ScriptKind.JS);
  const lineOf = (position: number): ts.LineAndCharacter => tree.getLineAndCharacterOfPosition(position);
  const comments: Comment[] = [];
  const shebang = text.startsWith('#!') ? text.indexOf('\n') + 1 : 0;
  const visit = (node: ts.Node): void => {
    if (node.kind >= ts.SyntaxKind.FirstJSDocNode && node.kind <= ts.SyntaxKind.LastJSDocNode) return;
    if (node.getChildCount(tree) === 0) comments.push(...commentsIn(text, Math.max(shebang, node.getFullStart()), node.getStart(tree), lineOf));
    else for (const child of node.getChildren(tree)) visit(child);
  };
  visit(tree);

  const declared: Declared[] = [];
  const imports: string[] = [];
  let importsStart = 0;
  let importsEnd = 0;
  let onlyImports = true;
  for (const statement of tree.statements) {
    if ((ts.isImportDeclaration(statement) || ts.isExportDeclaration(statement)) && statement.moduleSpecifier) {
      if (ts.isStringLiteral(statement.moduleSpecifier)) imports.push(statement.moduleSpecifier.text);
    }
    if (ts.isImportDeclaration(statement) && onlyImports) {
      importsStart ||= lineOf(statement.getStart(tree)).line + 1;
      importsEnd = lineOf(statement.getEnd()).line + 1;
      continue;
    }
    onlyImports = false;
    const kind = KINDS.get(statement.kind);
    if (!kind) continue;
    const exported = ts.canHaveModifiers(statement) && (ts.getModifiers(statement) ?? []).some((m) => m.kind === ts.SyntaxKind.ExportKeyword);
    const docs = ts.getJSDocCommentsAndTags(statement).filter(ts.isJSDoc);
    const last = docs.at(-1);
    const doc = last ? docText(text.slice(last.getStart(tree), last.getEnd())) : '';
    const line = lineOf(statement.getStart(tree, false)).line + 1;
    const endLine = lineOf(statement.getEnd()).line + 1;
    const names = ts.isVariableStatement(statement)
      ? statement.declarationList.declarations.map((d) => d.name).filter(ts.isIdentifier)
      : [(statement as ts.FunctionDeclaration | ts.ClassDeclaration).name].filter((name) => name !== undefined);
    for (const name of names) declared.push({ name: name.text, kind, exported, line, endLine, doc });
  }
  return { comments, declared, imports, importsStart, importsEnd };
}
