// # Every prefix builds
//
// Cut the book after chapter N and what remains must still type-check, tests included. Later chapters are made invisible to the compiler, so
// that a hidden dependency cannot pass.
//
// Each file is checked once, in the smallest prefix that has it: a larger program sees the same file and the same imports, and so judges it alike.
// Files are parsed once for all programs.

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

/** Parses every file once, whichever program asks first. */
function sharedHost(options: ts.CompilerOptions): (hidden: (path: string) => boolean) => ts.CompilerHost {
  const parsed = new Map<string, ts.SourceFile | undefined>();
  const base = ts.createCompilerHost(options);
  return (hidden) => ({
    ...base,
    fileExists: (path) => !hidden(path) && base.fileExists(path),
    getSourceFile: (path, ...how) => {
      if (!parsed.has(path)) parsed.set(path, base.getSourceFile(path, ...how));
      return parsed.get(path);
    },
  });
}

const problemOf = (diagnostic: ts.Diagnostic): Problem => ({
  file: diagnostic.file ? diagnostic.file.fileName.slice(ROOT.length + 1) : 'tsconfig.json',
  line: diagnostic.file ? diagnostic.file.getLineAndCharacterOfPosition(diagnostic.start ?? 0).line + 1 : 0,
  message: ts.flattenDiagnosticMessageText(diagnostic.messageText, ' '),
});

export const prefixes: Check = {
  name: 'prefixes',
  what: 'chapters 1…N type-check without what follows, for every N; then the whole tree',
  run(tree) {
    const options = compilerOptions();
    const hostFor = sharedHost(options);
    const checked = new Set<string>();
    const build = (files: readonly string[], hidden: (path: string) => boolean): Problem[] => {
      const program = ts.createProgram({ rootNames: files.map((file) => join(ROOT, file)), options, host: hostFor(hidden) });
      const own = files.flatMap((file) => program.getSourceFile(join(ROOT, file)) ?? []);
      const unchecked = own.filter(({ fileName }) => !checked.has(fileName));
      for (const { fileName } of unchecked) checked.add(fileName);
      const found = [
        ...program.getOptionsDiagnostics(),
        ...program.getGlobalDiagnostics(),
        ...unchecked.flatMap((file) => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)]),
      ];
      return found.map(problemOf);
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
