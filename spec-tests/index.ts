// # The suite
//
// Somebody writes a virtual machine monitor, or a kernel module beneath one, and wants to know where it deviates. Reading a manual of five
// thousand pages beside the code does not tell; booting Linux on it tells little, since a system that boots has used the common tenth of each
// feature, and nothing it should have been refused. The naive remedy is a second implementation to compare with. But then every accident of the
// second becomes a demand on the first, and when the two differ nobody knows which is wrong.
//
// So this suite compares with neither a machine nor this book's own code. It compares with *clauses*: sentences of the specifications, each with
// its source, its strength and whom it binds. A case provokes one situation and says which observations the clauses allow. When an
// implementation fails, the report names the clause, what was seen, and what would have been right.
//
// ::include types.ts
//
// ## How a case is written
//
// A case is a file. The one below starts a payload, which executes HLT with interrupts off, and allows one end and one observation:
//
// ::include cases/01-hardware-background/halt.json
//
// The payload *observes* and knows nothing of right and wrong. That separation is what lets one image run on a simulator, in QEMU and on
// a processor. The allowed values stay here, where they can be more than a number: a range, a mask, one of several, anything at all. A case
// that allows more than one value has a reason, namely that the specification does; its `note` says so where it is not plain. `legalDriver` is
// true when a guest that keeps the rules could find itself in this situation, which says who would be hurt by a failure.
//
// Not every case boots a guest. On the surface `kvm` a case is a list of system calls, and what is observed are results and bytes.
//
// A new case needs a clause in the catalogue, a file in `cases/`, and most often a payload. Then break something: a case that has never failed has
// proven nothing. That is why there are mutants, at the end of this chapter.
//
// ::include suite.ts
// ::include validate.ts
// ::include select.ts
// ::include values.ts
// ::include kvm-script.ts
//
// ## What a verdict means
//
// Two steps lead from bytes on a serial port to a verdict. The console is read first, strictly, since a broken machine shows itself there before
// anywhere else. Only what was read without damage is judged. Here are both, as a function:

import { readConsole } from './console.ts';
import { judgeObservations } from './judge.ts';
import type { Case } from './types.ts';

const example: Case = {
  id: '01-hardware-background/example',
  title: 'A divide error saves the address of the instruction',
  chapter: '01-hardware-background',
  clauses: ['x86.exception.fault-rip'],
  strictness: 'must',
  legalDriver: true,
  surface: 'guest',
  needs: [],
  guest: { payload: 'example' },
  limits: { timeoutMs: 1000 },
  allowed: { end: ['debug-exit'], observations: { 'de.vector': '0x0', 'de.ip': '0x0' } },
};

/** What the suite says of a console, in its own words. */
export function said(text: string): string {
  const report = readConsole(new TextEncoder().encode(text));
  if (report.corrupt !== null) return `corrupt: ${report.corrupt}`;
  const [failure] = judgeObservations(example, report.observations);
  return failure ? `fail: ${failure.text}` : 'pass';
}

// A machine that saves the address of the *next* instruction, as if a fault were a trap, gets:
// "{{said('RB1 obs de.vector 0\nRB1 obs de.ip 2\nRB1 done\n')}}". One that stops before it has said where is told what
// is missing: "{{said('RB1 obs de.vector 0\nRB1 done\n')}}". And one whose serial port loses a byte is not told that its divider is broken:
// "{{said('RB1 obs de.vector 0\nRB1 os de.ip 0\nRB1 done\n')}}".
//
// The other verdicts are for runs that yield nothing to judge. *Timeout*, *crash* and *error* separate a guest that does not end from an
// adapter that dies and from one that breaks the protocol: three repairs in three places. *Unsupported* and *not observable* are no failures, but they
// are not passes either. A run in which nothing was judged is not ok, however green its lines.
//
// ::include console.ts
// ::include judge.ts
// ::include runner.ts
//
// ## How an adapter is written
//
// The suite knows nothing of your implementation, and does not link with it. It starts a program of yours and exchanges lines of JSON with it: it
// asks what the implementation is and can do, then hands over one case after the other, and gets back how each ended and what was on the
// console. The program never learns what is right. `protocol.md` has every message; this is a whole adapter, which boots cases in QEMU:
//
// ::include examples/adapter-example.mjs
//
// Begin with the smallest claim, a door and the debug-exit port, and run the case `hello`. Every capability you then add to the list turns cases
// from unsupported into judged ones. Do not list a capability because such a machine should have it: a case that needs it would fail for
// want of a device, and say something false about the processor. The project's own machines are reached the same way.
//
// ::include adapters/
//
// ## How known failures work
//
// No implementation passes everything, and a list that is always red is not read. A deviation that has been understood becomes a row in
// `known-failures/`: version, case, the exact values observed, who is right, by which section. The row does not excuse the case; it is a claim,
// checked at every run. If the case passes, the row must go. If the value changed, it is a different bug. If nothing matches the row, it is left
// over. Each of these fails the run, so the file cannot rot. With `--expect` you keep such a file for your own implementation, and the
// command's exit status is then the answer to one question: is anything *unexplained*?
//
// ::include expect.ts
// ::include report.ts
// ::include progress.ts
// ::include conform.ts
//
// ## Who watches the suite
//
// A wrong suite is worse than none, because it is believed. Three things keep this one honest. It runs on machines that share no code, so a
// wrong expectation shows as a disagreement that somebody has to settle from the specification. Mutants break the reference on purpose and must
// be noticed. And the drift checks compare the tree with itself: every clause that the code claims to obey exists and is shown by a case,
// every image is what its source builds.
//
// ::include mutants.ts
// ::include mutants/fate.ts
// ::include check.ts
// ::include checks/
// ::include bench.ts
// ::include test.ts
//
// ## Exercises
//
// 1. Write an adapter for a machine that halts at once, whatever it is given. Predict the verdict of `hello` before you run it.
// 2. Take a row out of the known failures of QEMU, and find the section it cites. Would you have decided the same?
// 3. Add a mutant that survives. Which clause has it shown to be without a witness?
