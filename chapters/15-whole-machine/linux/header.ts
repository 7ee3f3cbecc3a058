// # A kernel as a file
//
// `vmlinuz` is two programs in one file. The first, some tens of sectors, runs in real mode and asks the firmware about the machine. The second is the
// kernel, compressed, behind a small program that unpacks it: who loads the file need not know how. Between the two lies the *setup header*, in the
// middle of the first sector, where a floppy disk's boot code left room in 1995. Some of it the kernel says to the loader, some the loader to the kernel, and it has
// grown by whatever one of the two had to know next, so each field belongs to a version of the protocol.
//
// ::layout SetupHeader -- The setup header, at its place in the file: the fields in the order in which they were thought of.

import { layout, u8, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';
import { ImageError } from '../../03-vcpu-loop/elf.ts';

// biome-ignore format: table
export const SetupHeader = layout('setup_header', {
  setup_sects: u8(0x1f1), root_flags: u16le(0x1f2), syssize: u32le(0x1f4), ram_size: u16le(0x1f8), vid_mode: u16le(0x1fa), root_dev: u16le(0x1fc),
  boot_flag: u16le(0x1fe), jump: u16le(0x200), header: u32le(0x202), version: u16le(0x206), realmode_swtch: u32le(0x208), start_sys_seg: u16le(0x20c),
  kernel_version: u16le(0x20e), type_of_loader: u8(0x210), loadflags: u8(0x211), setup_move_size: u16le(0x212), code32_start: u32le(0x214),
  ramdisk_image: u32le(0x218), ramdisk_size: u32le(0x21c), bootsect_kludge: u32le(0x220), heap_end_ptr: u16le(0x224), ext_loader_ver: u8(0x226),
  ext_loader_type: u8(0x227), cmd_line_ptr: u32le(0x228), initrd_addr_max: u32le(0x22c), kernel_alignment: u32le(0x230), relocatable_kernel: u8(0x234),
  min_alignment: u8(0x235), xloadflags: u16le(0x236), cmdline_size: u32le(0x238), hardware_subarch: u32le(0x23c), hardware_subarch_data: u64le(0x240),
  payload_offset: u32le(0x248), payload_length: u32le(0x24c), setup_data: u64le(0x250), pref_address: u64le(0x258), init_size: u32le(0x260),
  handover_offset: u32le(0x264), kernel_info_offset: u32le(0x268),
});

/** The first version of the protocol that has a field; those that are not here are as old as the header. */
const SINCE = {
  syssize: 0x204, // all four bytes of it
  heap_end_ptr: 0x201,
  cmd_line_ptr: 0x202,
  initrd_addr_max: 0x203,
  relocatable_kernel: 0x205,
  cmdline_size: 0x206,
  payload_offset: 0x208,
  setup_data: 0x209,
  init_size: 0x20a,
  xloadflags: 0x20c,
} as const;

export const LOADFLAGS = { LOADED_HIGH: 1 << 0, QUIET_FLAG: 1 << 5, CAN_USE_HEAP: 1 << 7 } as const;
const XLF_KERNEL_64 = 1 << 0;

const HDRS = 0x5372_6448; // "HdrS"
const BOOT_FLAG = 0xaa55;
const JUMP_SHORT = 0xeb;
/** The header's end is where its own jump leads, counted from here. */
const JUMP_BASE = 0x202;
/** What the kernel keeps behind the header, in a boot_params, begins here. */
const HEADER_LIMIT = 0x290;
export const HEADER_START = SetupHeader.fields.setup_sects.offset;

const SECTOR_BYTES = 512;
const DEFAULT_SETUP_SECTORS = 4;
const SETUP_LIMIT_BYTES = 0x8000;
const PARAGRAPH_BYTES = 16;
const OLD_COMMAND_LINE_LIMIT = 255;
const OLD_INITRD_LIMIT = 0x37ff_ffff;

const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/** What a loader needs to know of a kernel, all of it compared with the file's size. */
export interface LinuxImage {
  /** Major in the upper byte. */
  readonly version: number;
  /** The boot sector and the code for real mode. */
  readonly setup: Uint8Array;
  /** The rest: the program that unpacks the kernel, and the kernel in it. */
  readonly kernel: Uint8Array;
  /** The header's own bytes, from {@link HEADER_START}: what a loader copies. */
  readonly header: Uint8Array;
  readonly loadedHigh: boolean;
  readonly has64BitEntry: boolean;
  readonly relocatable: boolean;
  readonly alignment: number;
  /** Where it wants to run; 0 when it does not say. */
  readonly preferred: number;
  /** How much memory it needs from there on before it can look at the map. */
  readonly initBytes: number;
  /** Of the command line, without its NUL. */
  readonly commandLineLimit: number;
  /** The last address that a second file may have. */
  readonly initrdLast: number;
}

/** Whether a field exists in a version of the protocol. */
export const knows = (version: number, field: keyof typeof SINCE): boolean => version >= SINCE[field];

export const versionName = (version: number): string => `${version >> 8}.${String(version & 0xff).padStart(2, '0')}`;

// A file can claim anything. Where it claims something about its own size the file is asked; what it claims about memory is compared with memory by whoever places
// it. There is a checksum over the whole file, which would be one more way to find a damaged one; but a distribution signs its kernels after that was computed,
// and the signature changes bytes that it covers.

/**
 * Reads the header; null for a file that is no Linux kernel.
 * @throws ImageError for a kernel that contradicts itself or its file
 */
export function readLinux(image: Uint8Array): LinuxImage | null {
  if (image.length < JUMP_BASE + 6) return null;
  const first = new Uint8Array(HEADER_LIMIT);
  first.set(image.subarray(0, HEADER_LIMIT));
  const { header, boot_flag, version, jump } = SetupHeader.decode(first);
  if (header !== HDRS || boot_flag !== BOOT_FLAG) return null;
  if (version < 0x200) throw new ImageError(`boot protocol ${versionName(version)}; the first with this header is 2.00`);
  // @clause linux.boot.header-end
  const end = JUMP_BASE + (jump >> 8);
  if ((jump & 0xff) !== JUMP_SHORT) throw new ImageError(`the setup header begins with ${hex(jump & 0xff)}, and not with a short jump over itself`);
  if (end > HEADER_LIMIT || end > image.length)
    throw new ImageError(`the setup header ends at ${hex(end)}; it has room up to ${hex(Math.min(HEADER_LIMIT, image.length))}`);
  // Bytes behind the end are code, not fields.
  first.fill(0, end);
  const fields = SetupHeader.decode(first);

  // @clause linux.boot.setup-sects
  const setupBytes = ((fields.setup_sects || DEFAULT_SETUP_SECTORS) + 1) * SECTOR_BYTES;
  if (setupBytes > SETUP_LIMIT_BYTES) throw new ImageError(`${setupBytes} bytes of real-mode code; there can be ${SETUP_LIMIT_BYTES}`);
  if (setupBytes >= image.length)
    throw new ImageError(`${setupBytes} bytes of real-mode code in a file of ${image.length}: there is no kernel behind it`);
  const rest = image.subarray(setupBytes);
  const said = fields.syssize * PARAGRAPH_BYTES;
  const sized = knows(version, 'syssize');
  if (sized && said - rest.length >= PARAGRAPH_BYTES)
    throw new ImageError(`syssize says ${said} bytes of kernel, and the file has ${rest.length} of them: it is cut short`);
  const kernel = sized && said > 0 ? rest.subarray(0, said) : rest;
  if (knows(version, 'payload_offset') && fields.payload_offset + fields.payload_length > kernel.length)
    throw new ImageError(
      `the payload of ${fields.payload_length} bytes at ${hex(fields.payload_offset)} reaches past the kernel's ${kernel.length} bytes`,
    );

  const relocatable = knows(version, 'relocatable_kernel') && fields.relocatable_kernel !== 0;
  const alignment = relocatable ? fields.kernel_alignment : 1;
  if (alignment === 0 || (alignment & (alignment - 1)) !== 0 || alignment > 1 << 30)
    throw new ImageError(`kernel_alignment ${hex(alignment)} is no power of two up to ${hex(1 << 30)}`);
  const preferred = knows(version, 'init_size') ? fields.pref_address : 0n;
  if (preferred >= 2n ** 32n) throw new ImageError(`pref_address ${hex(preferred)} is above 4 GiB, where this loader places nothing`);
  return {
    version,
    setup: image.subarray(0, setupBytes),
    kernel,
    header: first.slice(HEADER_START, end),
    loadedHigh: (fields.loadflags & LOADFLAGS.LOADED_HIGH) !== 0,
    has64BitEntry: knows(version, 'xloadflags') && (fields.xloadflags & XLF_KERNEL_64) !== 0,
    relocatable,
    alignment,
    preferred: Number(preferred),
    initBytes: Math.max(kernel.length, knows(version, 'init_size') ? fields.init_size : 0),
    commandLineLimit: knows(version, 'cmdline_size') ? fields.cmdline_size : OLD_COMMAND_LINE_LIMIT,
    initrdLast: knows(version, 'initrd_addr_max') ? fields.initrd_addr_max : OLD_INITRD_LIMIT,
  };
}
