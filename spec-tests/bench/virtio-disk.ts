// # A disk behind a ring
//
// The guest of the IDE figures with a virtio disk in place of the controller: the same sectors into the same buffer, and a driver that polls. A request is three
// descriptors that are written once; what a request takes after that is an index moved on, a kick, and a look at another index until it has followed. So many
// requests can be on their way with one kick, which no controller of chapter 5 offers.

import { SECTOR_BYTES } from '../../chapters/05-pio-mmio/block/block.ts';
import { type Code, type GuestProgram, out, store, times } from '../../chapters/05-pio-mmio/guest-program.ts';
import type { DeviceConfig } from '../../chapters/05-pio-mmio/machine/device-types.ts';
import { BLK_T, BlkOutHdr } from '../../chapters/06-virtio-rings/devices/block-layout.ts';
import { STATUS } from '../../chapters/06-virtio-rings/features.ts';
import { legacyPlace, VIRTQ_DESC_F, virtq_avail, virtq_avail_elem, virtq_desc } from '../../chapters/06-virtio-rings/rings/layout.ts';
import { COMMON_CONFIG } from '../../chapters/06-virtio-rings/transport/common-config.ts';
import { PLACE } from '../../chapters/06-virtio-rings/transport/pci.ts';
import { LEGACY_PAGE_BYTES, LEGACY_PCI } from '../../chapters/06-virtio-rings/transport/pci-legacy.ts';

const dword = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
const storeByte = (at: number, value: number): Code => [0xc6, 0x05, ...dword(at), value];
const storeWord = (at: number, value: number): Code => [0x66, 0xc7, 0x05, ...dword(at), value & 0xff, value >>> 8];
const addToWord = (at: number, value: number): Code => [0x66, 0x83, 0x05, ...dword(at), value];
/** Looks at a word until it is like another one. */
const wordUntilLike = (at: number, other: number): Code => [0x66, 0xa1, ...dword(other), 0x66, 0x3b, 0x05, ...dword(at), 0x75, 0xf7];

const SLOT = 3;
const [PORTS, BAR_GPA] = [0xc100, 0xd010_0000];
const [RING, HEADERS, STATUSES] = [0x8_0000, 0x8_8000, 0x8_9000];
const QUEUE_SIZE = 256;
/** Where everything is: the one block of the legacy interface serves the modern one as well. */
const ring = legacyPlace(QUEUE_SIZE, RING, LEGACY_PAGE_BYTES);
const AVAIL_IDX = ring.driver + virtq_avail.fields.idx.offset;
const USED_IDX = ring.device + virtq_avail.fields.idx.offset;

/** How the guest reaches its disk. */
export interface DiskAccess {
  readonly by: 'ports' | 'memory';
  /** Requests on their way at a time. */
  readonly depth: number;
  /** Nobody answers the kick but the kernel. */
  readonly ioeventfd?: boolean;
}

/** The device, as the machine's description has it. */
export const virtioDisk = ({ by, ioeventfd = false }: DiskAccess): DeviceConfig => ({
  type: by === 'ports' ? 'virtio-blk-pci-transitional' : 'virtio-blk-pci-non-transitional',
  drive: 'disk',
  addr: `${SLOT}.0`,
  ioeventfd,
});

type ConfigWrite = (device: number, fn: number, register: number, value: number) => Code;

/** Brings the device up: nothing negotiated but what there has to be. */
function bringUp(by: DiskAccess['by'], configWrite: ConfigWrite): readonly Code[] {
  const { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK } = STATUS;
  if (by === 'ports') {
    const at = (register: keyof typeof LEGACY_PCI.rows): number => PORTS + LEGACY_PCI.rows[register].offset;
    return [
      ...[configWrite(SLOT, 0, 0x10, PORTS | 1), configWrite(SLOT, 0, 4, 5)],
      ...[out(at('device_status'), ACKNOWLEDGE | DRIVER), out(at('driver_features'), 0, 4)],
      ...[out(at('queue_select'), 0, 2), out(at('queue_address'), RING / LEGACY_PAGE_BYTES, 4)],
      out(at('device_status'), ACKNOWLEDGE | DRIVER | DRIVER_OK),
    ];
  }
  const at = (register: keyof typeof COMMON_CONFIG.rows): number => BAR_GPA + PLACE.COMMON + COMMON_CONFIG.rows[register].offset;
  const agreed = ACKNOWLEDGE | DRIVER | FEATURES_OK;
  return [
    ...[configWrite(SLOT, 0, 0x20, BAR_GPA), configWrite(SLOT, 0, 0x24, 0), configWrite(SLOT, 0, 4, 6)],
    storeByte(at('device_status'), ACKNOWLEDGE | DRIVER),
    ...[store(at('driver_feature_select'), 1), store(at('driver_feature'), 1)], // VERSION_1
    storeByte(at('device_status'), agreed),
    ...[storeWord(at('queue_select'), 0), storeWord(at('queue_size'), QUEUE_SIZE)],
    ...[store(at('queue_desc_lo'), ring.desc), store(at('queue_driver_lo'), ring.driver), store(at('queue_device_lo'), ring.device)],
    ...[storeWord(at('queue_enable'), 1), storeByte(at('device_status'), agreed | DRIVER_OK)],
  ];
}

/** A ring in which the same `depth` requests follow each other for ever. */
function ringImage(depth: number, buffer: number, bytes: number): Uint8Array {
  const image = new Uint8Array(ring.device - ring.desc);
  const view = new DataView(image.buffer);
  const { NEXT, WRITE } = VIRTQ_DESC_F;
  for (let n = 0; n < depth; n++) {
    const pieces = [
      { addr: HEADERS, len: BlkOutHdr.bytes, flags: NEXT },
      { addr: buffer, len: bytes, flags: NEXT | WRITE },
      { addr: STATUSES + n, len: 1, flags: WRITE },
    ];
    for (const [index, { addr, len, flags }] of pieces.entries()) {
      const descriptor = pieces.length * n + index;
      virtq_desc.store(view, descriptor * virtq_desc.bytes, { addr: BigInt(addr), len, flags, next: descriptor + 1 });
    }
  }
  const avail = ring.driver - ring.desc;
  view.setUint16(avail, 1, true); // no interrupts
  for (let n = 0; n < QUEUE_SIZE; n++) view.setUint16(avail + virtq_avail.bytes + n * virtq_avail_elem.bytes, 3 * (n % depth), true);
  return image;
}

interface DiskLoop {
  readonly sectors: number;
  readonly requests: number;
  readonly buffer: number;
  readonly configWrite: ConfigWrite;
}

/** A program that reads the disk's first `sectors` into `buffer`, `requests` times. */
export function diskProgram(
  { by, depth }: DiskAccess,
  { sectors, requests, buffer, configWrite }: DiskLoop,
): GuestProgram & { proof(ram: Uint8Array): boolean } {
  const bell = by === 'ports' ? out(PORTS + LEGACY_PCI.rows.queue_notify.offset, 0, 2) : storeWord(BAR_GPA + PLACE.NOTIFY, 0);
  const kick = [addToWord(AVAIL_IDX, depth), bell, wordUntilLike(USED_IDX, AVAIL_IDX)];
  return {
    code: [...bringUp(by, configWrite), times(requests / depth, ...kick)],
    data: {
      [RING]: ringImage(depth, buffer, sectors * SECTOR_BYTES),
      [HEADERS]: BlkOutHdr.encode({ type: BLK_T.IN, reserved: 0, sector: 0n }),
      [STATUSES]: new Uint8Array(depth).fill(0xff),
    },
    proof: (ram) => ram.subarray(STATUSES, STATUSES + depth).every((status) => status === 0) && (ram[USED_IDX] as number) === (requests & 0xff),
  };
}
