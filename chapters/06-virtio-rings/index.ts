// # Virtio rings
//
// A driver and a device that share memory need no exits to hand each other data, only to wake each other up.

export { STATUS } from './features.ts';
