// # `ringbook run`, with virtio
//
// The command line of chapter 5. What this chapter adds to it are names in its list of devices.

import '../machine/device-types.ts';
import '../../05-pio-mmio/host/run.ts';
