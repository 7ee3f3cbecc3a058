import { VmExit } from '../../01-hardware-background/faults.ts';
import { type Message, sequence } from '../../01-hardware-background/figures/drawing.ts';
import { EPT_ACCESS, EPT_QUALIFICATION, EptWalker } from '../../01-hardware-background/mmu/ept.ts';
import { PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import { Recorder } from '../../01-hardware-background/trace.ts';
import { exitReasonName } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { Ept } from '../soft/ept.ts';
import { RamOwners } from '../soft/memory.ts';

const GPA = 0x5123;
const RAM = 1 << 20;
const [WALKER, KERNEL, TABLES] = [0, 1, 2] as const;
const hex = (n: number | bigint): string => `0x${n.toString(16)}`;

/** A write to a page that the second stage does not have yet, until it succeeds. */
export function render(): string {
  const memory = new PhysicalMemory({ ramBytes: RAM });
  const owners = new RamOwners(memory);
  owners.allocateUser(0x3000); // somebody else's
  const page = owners.allocateUser(0x1000);
  if (typeof page === 'number') throw new Error(`no memory for the guest: ${page}`);
  const hpa = owners.hpaOf(page.hva);
  const ept = new Ept(memory, owners);
  const trace = new Recorder();
  const walker = new EptWalker(memory, trace);
  const context = { root: ept.root, accessedDirty: true, executeOnly: true };
  const messages: Message[] = [];
  const attempt = (): boolean => {
    const before = trace.events.length;
    let outcome: Message;
    let done = true;
    try {
      const origin = EPT_QUALIFICATION.mask.LINEAR_VALID | EPT_QUALIFICATION.mask.FINAL;
      outcome = {
        from: WALKER,
        to: WALKER,
        text: `the byte is at ${hex(walker.translate(context, GPA, { kind: EPT_ACCESS.WRITE, origin, linear: BigInt(GPA) }))}`,
      };
    } catch (exit) {
      if (!(exit instanceof VmExit)) throw exit;
      outcome = {
        from: WALKER,
        to: KERNEL,
        text: exitReasonName(exit.reason),
        detail: `qualification ${EPT_QUALIFICATION.describe(Number(exit.qualification))}`,
      };
      done = false;
    }
    for (const event of trace.of('walk').slice(before)) {
      messages.push({
        from: WALKER,
        to: TABLES,
        text: `level ${event.level}: entry at ${hex(event.entry)}`,
        detail: event.value === 0n ? 'empty' : hex(event.value),
      });
    }
    messages.push(outcome);
    return done;
  };
  if (attempt()) throw new Error('an empty tree translates nothing');
  const tables = ept.tables;
  ept.map(GPA - (GPA % 0x1000), hpa, true);
  messages.push({ from: KERNEL, to: TABLES, text: `${ept.tables - tables} tables and an entry`, detail: `the slot says: page ${hex(hpa)}` });
  if (!attempt()) throw new Error('the entry was not found');
  return sequence(
    `A write to guest physical address ${hex(GPA)}, before and after its entry exists`,
    [
      { name: 'page walker', ink: 'guest' },
      { name: 'kernel', ink: 'kernel' },
      { name: 'second-stage tables', ink: 'ink' },
    ],
    messages,
  );
}
