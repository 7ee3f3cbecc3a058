// # What can be negotiated
//
// A virtio device and its driver were written years apart. They agree through a list of bits: the device offers, the driver takes what it knows, and neither uses
// what was not taken. Bits 0 to 23 and from 50 up belong to the type of device. The ones here are common to all.

/** Features of every device, by the specification's names without VIRTIO_F_; values are bit numbers. */
// biome-ignore format: table
export const F = {
  NOTIFY_ON_EMPTY: 24,   // legacy
  ANY_LAYOUT: 27,        // legacy
  INDIRECT_DESC: 28,     // VIRTIO_RING_F_INDIRECT_DESC
  EVENT_IDX: 29,         // VIRTIO_RING_F_EVENT_IDX
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  ORDER_PLATFORM: 36,
  SR_IOV: 37,
  NOTIFICATION_DATA: 38,
  NOTIF_CONFIG_DATA: 39,
  RING_RESET: 40,
  ADMIN_VQ: 41,
  SUSPEND: 43,
} as const;

/** Bits of the device status field. */
// biome-ignore format: table
export const STATUS = {
  ACKNOWLEDGE: 1, DRIVER: 2, DRIVER_OK: 4, FEATURES_OK: 8, SUSPEND: 16, DEVICE_NEEDS_RESET: 64, FAILED: 128,
} as const;

/** Device types, by the specification's numbers. */
export const DEVICE_ID = { NET: 1, BLOCK: 2, CONSOLE: 3, ENTROPY: 4, BALLOON: 5, SCSI: 8 } as const;

export const bit = (number: number): bigint => 1n << BigInt(number);
export const has = (features: bigint, number: number): boolean => (features & bit(number)) !== 0n;
/** The set of these bits. */
export const features = (...numbers: readonly number[]): bigint => numbers.reduce((set, number) => set | bit(number), 0n);

/** What is offered when nobody says otherwise: QEMU's choice, which drivers have met everywhere. */
export const DEFAULT_OFFER = features(F.INDIRECT_DESC, F.EVENT_IDX, F.RING_RESET, F.NOTIFY_ON_EMPTY, F.ANY_LAYOUT);

/** Bits that had a meaning before the standard, and have none since. */
export const LEGACY_ONLY = features(F.NOTIFY_ON_EMPTY, F.ANY_LAYOUT);
// What no device here can do is not offered whatever a model or a description says: virtual functions, administration queues, a value of its own for
// a kick, an order of memory that needs barriers of the platform.
// @clause virtio.reserved.dev.sr-iov-not-offered-otherwise
export const NEVER = features(F.SR_IOV, F.ADMIN_VQ, F.NOTIF_CONFIG_DATA, F.ORDER_PLATFORM);

// @clause virtio.features.dev.offer-closed-under-dependencies-prerequisites
/** An offer without the features that need one which is not in it. */
export function closed(offer: bigint, dependencies: readonly (readonly [number, number])[]): bigint {
  for (;;) {
    const lonely = dependencies.find(([feature, needed]) => has(offer, feature) && !has(offer, needed));
    if (!lonely) return offer;
    offer &= ~bit(lonely[0]);
  }
}
