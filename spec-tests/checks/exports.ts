// # No dead exports
//
// A name that a chapter exports and nothing imports is either unfinished or left over. Use by a test alone does not count: a reader who
// follows the name would find nobody who needs it. Expressions in prose and `::layout` figures count as use.

import { posix } from 'node:path';
import ts from 'typescript';
import { type Check, isTest, type Problem } from './tree.ts';

interface Exported {
  readonly file: string;
  readonly name: string;
  readonly line: number;
}

const exported = (node: ts.Node): boolean =>
  ts.canHaveModifiers(node) && (ts.getModifiers(node) ?? []).some((modifier) => modifier.kind === ts.SyntaxKind.ExportKeyword);

function exportsOf(file: string, source: ts.SourceFile): Exported[] {
  const at = (node: ts.Node): number => source.getLineAndCharacterOfPosition(node.getStart()).line + 1;
  return source.statements.flatMap((statement): Exported[] => {
    if (!exported(statement)) return [];
    if (ts.isVariableStatement(statement)) {
      return statement.declarationList.declarations
        .filter((d) => ts.isIdentifier(d.name))
        .map((d) => ({ file, name: d.name.getText(source), line: at(d) }));
    }
    const named = statement as ts.FunctionDeclaration | ts.ClassDeclaration | ts.InterfaceDeclaration | ts.TypeAliasDeclaration;
    return named.name ? [{ file, name: named.name.text, line: at(statement) }] : [];
  });
}

/** `module#name` for everything that `file` imports or re-exports by name; `module#*` for a namespace. */
function usesOf(file: string, source: ts.SourceFile): string[] {
  const resolve = (specifier: string): string => posix.normalize(posix.join(posix.dirname(file), specifier));
  const uses: string[] = [];
  const visit = (node: ts.Node): void => {
    if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier && ts.isStringLiteral(node.moduleSpecifier)) {
      const target = resolve(node.moduleSpecifier.text);
      const bindings = ts.isImportDeclaration(node) ? node.importClause?.namedBindings : node.exportClause;
      if (bindings && (ts.isNamedImports(bindings) || ts.isNamedExports(bindings))) {
        for (const element of bindings.elements) uses.push(`${target}#${(element.propertyName ?? element.name).text}`);
      } else if (bindings || ts.isExportDeclaration(node)) {
        uses.push(`${target}#*`);
      }
    } else if (
      ts.isCallExpression(node) &&
      node.expression.kind === ts.SyntaxKind.ImportKeyword &&
      node.arguments[0] &&
      ts.isStringLiteral(node.arguments[0])
    ) {
      uses.push(`${resolve(node.arguments[0].text)}#*`);
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument) && ts.isStringLiteral(node.argument.literal)) {
      uses.push(`${resolve(node.argument.literal.text)}#${node.qualifier?.getText(source) ?? '*'}`);
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return uses;
}

/** Names that prose uses: in `{{expression}}` and after `::layout`. They belong to the file they stand in. */
function proseUses(file: string, text: string): string[] {
  const expressions = [...text.matchAll(/^\/\/.*$/gm)].flatMap(([line]) =>
    [...line.matchAll(/\{\{(.+?)\}\}|::layout\s+(\S+)/g)].map((m) => m[1] ?? m[2] ?? ''),
  );
  return expressions.flatMap((expression) => [...expression.matchAll(/[A-Za-z_$][\w$]*/g)].map(([name]) => `${file}#${name}`));
}

export const exports: Check = {
  name: 'exports',
  what: 'everything a chapter exports is used by something other than a test',
  run(tree) {
    const declared: Exported[] = [];
    const used = new Set<string>();
    for (const file of tree.files.filter((name) => /\.(ts|mjs)$/.test(name))) {
      const text = tree.text(file);
      const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
      if (/^chapters\/\d\d-/.test(file) && !isTest(file)) declared.push(...exportsOf(file, source));
      if (isTest(file)) continue;
      for (const use of [...usesOf(file, source), ...proseUses(file, text)]) used.add(use);
    }
    // What `index.ts` of a chapter, or a figure, exports is for the site, which imports whole modules by path.
    const problems: Problem[] = [];
    for (const { file, name, line } of declared) {
      if (used.has(`${file}#${name}`) || used.has(`${file}#*`)) continue;
      if (/\/figures\/|\/index\.ts$/.test(file)) continue;
      const usedAtHome = new RegExp(`\\b${name}\\b`, 'g');
      const times = [...tree.text(file).matchAll(usedAtHome)].length;
      problems.push({
        file,
        line,
        message: times > 1 ? `'${name}' is used only here: it need not be exported` : `'${name}' is exported and used by nothing`,
      });
    }
    return problems;
  },
};
