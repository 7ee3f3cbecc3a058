// # The 16-bit door
//
// The first way into the kernel is still there, and still starts where a floppy disk's boot code would have jumped to. The real-mode code is placed
// below 640 KiB with a heap and a stack behind it in the same segment; what the loader has to say goes into the header in memory. There is no page of
// parameters yet: making it is what this code is for. It asks the firmware, puts the answers into a page of its own, switches to protected mode and goes
// to the 32-bit entry.

import { type BootPlan, type DoorOptions, segment } from '../../03-vcpu-loop/doors.ts';
import { ImageError } from '../../03-vcpu-loop/elf.ts';
import { memoryMap } from '../../03-vcpu-loop/handover.ts';
import { encodeCommandLine, loaderFields } from './boot-params.ts';
import { knows, type LinuxImage, LOADFLAGS, SetupHeader } from './header.ts';
import { placeLinux } from './placement.ts';
import { biosServices } from './services.ts';

/** Where the segment is: as low as is polite; and for kernels that move their real-mode code there anyway, where they want it. */
const SEGMENT_GPA = 0x1_0000;
const OLD_SEGMENT_GPA = 0x9_0000;
const [HEAP_END, LINE_END] = [0xe000, 0x1_0000];
const [OLD_HEAP_END, OLD_LINE_END] = [0x9800, 0xa000];
const ENTRY_PARAGRAPHS = 0x20;
/** `heap_end_ptr` is less by this, since the days when it counted from the setup code's first byte. */
const HEAP_OFFSET = 0x200;

const CMD_LINE_MAGIC_OFFSET = 0x20;
const CMD_LINE_MAGIC = 0xa33f;

const RFLAGS_FIXED = 2n;
const REAL_LIMIT = 0xffff;
/** Where a kernel looks for ACPI's first table when nobody tells it. */
const [RSDP_FIRST, RSDP_LAST] = [0xe_0000, 0xf_ffff];

const hex = (value: number): string => `0x${value.toString(16)}`;

/** @throws ImageError */
export function realModePlan(image: LinuxImage, options: DoorOptions): BootPlan {
  const { ramBytes, commandLine = '', memoryMap: map = memoryMap(ramBytes), rsdpGpa = 0, initrd } = options;
  if (rsdpGpa !== 0 && (rsdpGpa < RSDP_FIRST || rsdpGpa > RSDP_LAST))
    throw new ImageError(
      `a kernel in real mode cannot be told that ACPI begins at ${hex(rsdpGpa)}, and looks only from ${hex(RSDP_FIRST)} to ${hex(RSDP_LAST)}`,
    );
  const placement = placeLinux(image, map, initrd);
  const old = !image.loadedHigh || !knows(image.version, 'cmd_line_ptr');
  const [base, heapEnd, lineEnd] = old ? [OLD_SEGMENT_GPA, OLD_HEAP_END, OLD_LINE_END] : [SEGMENT_GPA, HEAP_END, LINE_END];
  const line = encodeCommandLine(commandLine, Math.min(image.commandLineLimit, lineEnd - heapEnd - 1));

  // @clause linux.boot.real-mode-segment
  const code = new Uint8Array(lineEnd);
  code.set(image.setup);
  code.set(line, heapEnd);
  const view = new DataView(code.buffer);
  const { loadflags = 0, ...fields } = loaderFields(image, placement, base + heapEnd) ?? {};
  SetupHeader.store(view, 0, fields);
  if (knows(image.version, 'heap_end_ptr'))
    SetupHeader.store(view, 0, { heap_end_ptr: heapEnd - HEAP_OFFSET, loadflags: loadflags | LOADFLAGS.CAN_USE_HEAP });
  if (!knows(image.version, 'cmd_line_ptr')) {
    view.setUint16(CMD_LINE_MAGIC_OFFSET, CMD_LINE_MAGIC, true);
    view.setUint16(CMD_LINE_MAGIC_OFFSET + 2, heapEnd, true);
    SetupHeader.store(view, 0, { setup_move_size: heapEnd + line.length });
  }

  // @clause linux.boot.entry-16
  const selector = base >> 4;
  const data = segment({ base: BigInt(base), selector, limit: REAL_LIMIT, db: 0, g: 0 });
  const cs = selector + ENTRY_PARAGRAPHS;
  return {
    door: 'linux16',
    segments: [
      placement.kernel,
      ...(placement.initrd ? [placement.initrd] : []),
      { gpa: base, bytes: code, memoryBytes: code.length },
      ...biosServices(map),
    ],
    regs: { rip: 0n, rsp: BigInt(heapEnd), rflags: RFLAGS_FIXED },
    sregs: {
      cs: segment({ base: BigInt(cs << 4), selector: cs, limit: REAL_LIMIT, type: 11, db: 0, g: 0 }),
      ds: data,
      es: data,
      fs: data,
      gs: data,
      ss: data,
    },
  };
}
