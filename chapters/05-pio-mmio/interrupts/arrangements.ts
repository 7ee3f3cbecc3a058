// # One of three

import type { Arrangement, ControllerOptions, InterruptController } from './controller.ts';
import { KernelController } from './in-kernel.ts';
import { SplitController } from './split.ts';
import { UserController } from './user-space.ts';

/** The interrupt controllers of a machine, where the machine wants them. */
export function interruptController(arrangement: Arrangement, options: ControllerOptions): InterruptController {
  switch (arrangement) {
    case 'on':
      return new KernelController(options);
    case 'split':
      return new SplitController(options);
    default:
      return new UserController(options);
  }
}
