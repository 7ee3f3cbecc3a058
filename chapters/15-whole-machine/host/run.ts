// # `ringbook run`, the whole machine
//
// The command line of chapters 5 and 6. What this chapter adds to it is installed here, before they read it.

import '../linux/doors.ts';
import '../network/host/install.ts';
import '../microvm/microvm.ts';
import '../saved-state/host/install.ts';

await import('../../06-virtio-rings/host/run.ts');
