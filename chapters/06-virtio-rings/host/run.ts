// # `ringbook run`, with virtio
//
// The command line of chapter 5. What this chapter adds to it are names in its list of devices, and a way to drive the machine without a guest.

import { ConfigError } from '../../05-pio-mmio/machine/device-types.ts';
import '../../05-pio-mmio/machine/devices.ts';
import '../machine/device-types.ts';
import { readQtestOptions, runQtest } from './qtest.ts';

const USAGE_STATUS = 2;

try {
  const asked = process.argv.some((arg) => /^--?qtest$/.test(arg)) ? readQtestOptions(process.argv.slice(2)) : null;
  if (asked) {
    await runQtest(asked);
    process.exit(0);
  }
  await import('../../05-pio-mmio/host/run.ts');
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(`ringbook run: ${error.message}`);
  process.exitCode = USAGE_STATUS;
}
