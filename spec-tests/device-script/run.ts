// # A script on a machine
//
// The script is synchronous and asks; the machine may be in another process and answers when it can. This is the loop between them.

import { ProtocolViolation } from '../adapters/exec.ts';
import { BadResult } from './bus.ts';
import { playScript, type ScriptReport } from './interpret.ts';
import type { DeviceStep } from './steps.ts';
import type { DeviceSession, WireDevice } from './wire.ts';

export const DEVICE_MEMORY_MIB = 32;

/**
 * Plays a script. The machine is not ended.
 * @throws ProtocolViolation for results that do not fit what was asked; ScriptError
 */
export async function runScript(
  session: DeviceSession,
  script: readonly DeviceStep[],
  machine: { readonly devices: readonly WireDevice[]; readonly memoryMiB: number },
): Promise<ScriptReport> {
  const { windows } = session;
  const play = playScript(script, { ...machine, ...(windows && { windows }) });
  try {
    let step = play.next();
    while (!step.done) step = play.next(await session.access(step.value));
    return step.value;
  } catch (error) {
    throw error instanceof BadResult ? new ProtocolViolation(`the adapter's results do not fit the script: ${error.message}`) : error;
  }
}
