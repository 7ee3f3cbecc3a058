// # Every prefix builds
//
// Cut the book after chapter N and what remains must still type-check, tests included. Later chapters are made invisible to the compiler, so
// that a hidden dependency cannot pass. Each prefix reuses the previous one's parsed files.

import { join } from 'node:path';
import ts from 'typescript';
import { type Check, type Problem, ROOT } from './tree.ts';

/** The project's compiler options, as the checks that build programs of their own use them. */
export function compilerOptions(): ts.CompilerOptions {
  const path = join(ROOT, 'tsconfig.json');
  const { config, error } = ts.readConfigFile(path, ts.sys.readFile);
  if (error) throw new Error(ts.flattenDiagnosticMessageText(error.messageText, '\n'));
  return ts.parseJsonConfigFileContent({ ...config, include: [], files: [] }, ts.sys, ROOT).options;
}

function problemsOf(program: ts.Program): Problem[] {
  return ts.getPreEmitDiagnostics(program).map((diagnostic) => ({
    file: diagnostic.file ? diagnostic.file.fileName.slice(ROOT.length + 1) : 'tsconfig.json',
    line: diagnostic.file ? diagnostic.file.getLineAndCharacterOfPosition(diagnostic.start ?? 0).line + 1 : 0,
    message: ts.flattenDiagnosticMessageText(diagnostic.messageText, ' '),
  }));
}

export const prefixes: Check = {
  name: 'prefixes',
  what: 'chapters 1…N type-check without what follows, for every N; then the whole tree',
  run(tree) {
    const options = compilerOptions();
    let previous: ts.Program | undefined;
    const build = (files: readonly string[], hidden: (path: string) => boolean): Problem[] => {
      const host = ts.createCompilerHost(options);
      const { fileExists } = host;
      host.fileExists = (path) => !hidden(path) && fileExists(path);
      previous = ts.createProgram({ rootNames: files.map((file) => join(ROOT, file)), options, host, ...(previous && { oldProgram: previous }) });
      return problemsOf(previous);
    };
    const sources = tree.files.filter((file) => file.endsWith('.ts'));
    for (let last = 0; last < tree.chapters.length; last++) {
      const later = tree.chapters.slice(last + 1);
      const visible = tree.chapters.slice(0, last + 1);
      const files = sources.filter((file) => visible.some((chapter) => file.startsWith(`chapters/${chapter}/`)));
      const problems = build(files, (path) => later.some((chapter) => path.includes(`/chapters/${chapter}/`)));
      if (problems.length > 0) return problems.map((problem) => ({ ...problem, message: `(chapters 1–${last + 1} alone) ${problem.message}` }));
    }
    return build(sources, () => false);
  },
};
