// # Guest payloads
//
// A payload is the smallest guest that can show one thing. It starts on a bare processor, observes, reports on the serial port, and leaves. The
// book runs payloads in its figures, the suite runs them against other machines, and the bench counts them; they all read this list.
//
// A payload never judges. Which observations are right is written in the case that runs it, because for some the architecture allows several
// answers, and because a payload that decides for itself can be wrong in silence.

/** How a machine may start an image. Every image has all four doors; `long` needs a processor with 64-bit mode. */
export type Door = 'multiboot' | 'pvh' | 'long' | 'disk';

/**
 * What a payload needs from the machine beyond RAM, a serial port at 0x3f8 and the instruction set of its `room`.
 *
 * - `long-mode`, `pae`, `nx`, `syscall`, `sysenter`: processor features.
 * - `scratch-pio`: 16 bytes of registers at ports 0x5e0–0x5ef that give back what was written, each byte by itself, at any width.
 * - `scratch-mmio`: the same as a page of memory at 0xfeb00000.
 * - `uart`: a whole 16550 at 0x3f8, not just a port that takes bytes.
 * - `inject`: a byte written to port 0x5f0 asks the machine to deliver that vector as an external interrupt as soon as the guest can take it.
 * - `inject-nmi`: any byte written to port 0x5f1 makes an NMI pending.
 * - `lapic`: a local APIC at 0xfee00000 that takes inter-processor interrupts to itself; with two processors, INIT and SIPI.
 * - `smp2-shared`: the machine starts a second virtual processor through the same door, at once, with 0x52420001 in EDX.
 * - `pic`, `pit`, `rtc`: the two 8259s, the 8254 on IRQ 0, the MC146818 on IRQ 8, where a PC has them.
 * - `ioapic`: an I/O APIC at 0xfec00000, the 8254 on its pin 2. `x2apic`, `tsc-deadline`: these modes of the local APIC.
 * - `pci`: configuration mechanism 1, and something on bus 0. `acpi`: tables below 1 MiB, as PC firmware leaves them.
 * - `ide`: an ATA disk as the first on the primary channel, of at least 64 sectors; it is written to. `ide-dma`: that, with a bus master on PCI.
 * - `e1000`: an 82540EM on bus 0, and somebody who answers ARP for 10.0.2.2 at the other end of its wire.
 * - `q35`: the memory controller of the Q35 at 00:00.0 and the ICH9 at 00:1f.0. `i8042`: the keyboard controller, and port 0x92 beside it.
 * - `fw-cfg`: QEMU's firmware configuration device at port 0x510.
 * - `virtio-entropy`, `virtio-console`, `virtio-balloon`, `virtio-block`: such a device, on PCI or in a window of memory; the console's other end repeats what it
 *   hears, the disk holds 32-bit words that are their index times 2654435761.
 * - `soft-off`: a machine that is switched off by ACPI ends, visibly.
 * - `reset`: a triple fault ends or resets the machine, visibly.
 */
export type Capability =
  | 'long-mode'
  | 'pae'
  | 'nx'
  | 'syscall'
  | 'sysenter'
  | 'scratch-pio'
  | 'scratch-mmio'
  | 'inject'
  | 'inject-nmi'
  | 'lapic'
  | 'uart'
  | 'smp2-shared'
  | 'pic'
  | 'pit'
  | 'rtc'
  | 'ioapic'
  | 'x2apic'
  | 'tsc-deadline'
  | 'pci'
  | 'acpi'
  | 'ide'
  | 'ide-dma'
  | 'e1000'
  | 'q35'
  | 'i8042'
  | 'soft-off'
  | 'fw-cfg'
  | 'virtio-entropy'
  | 'virtio-console'
  | 'virtio-balloon'
  | 'virtio-block'
  | 'reset';

/**
 * How the payload leaves after `RB1 done`: the debug-exit port (and a halt where there is none), a halt with interrupts off, a triple fault, another reset, or
 * by switching the machine off.
 */
export type PayloadEnd = 'debug-exit' | 'halt' | 'triple-fault' | 'reset' | 'soft-off';

export interface Payload {
  readonly name: string;
  readonly title: string;
  readonly chapter: '01-hardware-background' | '02-kvm-objects' | '03-vcpu-loop' | '04-memory-virtualization' | '05-pio-mmio' | '06-virtio-rings';
  /** The width of code in which it lives; the start-up goes there from any door. */
  readonly room: 16 | 32 | 64;
  /** Its own source, relative to this folder. */
  readonly source: string;
  readonly defines: Readonly<Record<string, number>>;
  readonly needs: readonly Capability[];
  readonly end: PayloadEnd;
  readonly vcpus: number;
  /** False for the demonstration that prints plain text. */
  readonly records: boolean;
}

export const DOORS: readonly Door[] = ['multiboot', 'pvh', 'long', 'disk'];

/** The runtime every image is linked with; parts that a payload does not use are dropped. */
export const RUNTIME_SOURCES = [
  'rt/rb.inc',
  'rt/start.S',
  'rt/once.S',
  'rt/records.S',
  'rt/traps.S',
  'rt/c.S',
  'rt/state.S',
  'rt/trampoline.S',
  'rt/payload.ld',
] as const;
export const BOOT_SOURCES = ['rt/boot.S', 'rt/boot.ld'] as const;

const CHAPTER_1 = '01-hardware-background';
const CHAPTER_3 = '03-vcpu-loop';
const CHAPTER_4 = '04-memory-virtualization';
const CHAPTER_5 = '05-pio-mmio';
const CHAPTER_6 = '06-virtio-rings';

type Row = Pick<Payload, 'name' | 'title' | 'chapter' | 'room' | 'source'> & Partial<Payload>;

function payload(row: Row): Payload {
  const needs = row.needs ?? [];
  return {
    defines: {},
    end: 'debug-exit',
    vcpus: 1,
    records: true,
    ...row,
    needs: row.room === 64 && !needs.includes('long-mode') ? ['long-mode', ...needs] : needs,
  };
}

/** The same source built for several widths: `name-16`, `name-32`, `name-64`. */
function widths(rooms: readonly (16 | 32 | 64)[], row: Omit<Row, 'room'>): Payload[] {
  return rooms.map((room) => payload({ ...row, room, name: `${row.name}-${room}`, title: `${row.title}, ${room}-bit` }));
}

// biome-ignore format: table
export const PAYLOADS: readonly Payload[] = [
  payload({ name: 'hello', title: 'The smallest guest that says something', chapter: CHAPTER_1, room: 32, source: 'src/hello.S', records: false }),
  payload({ name: 'mode-real', title: 'Real mode: segments times sixteen', chapter: CHAPTER_1, room: 16, source: 'src/mode-real.S' }),
  payload({ name: 'mode-protected', title: 'Protected mode without paging', chapter: CHAPTER_1, room: 32, source: 'src/mode-protected.S' }),
  payload({ name: 'mode-long', title: '64-bit mode', chapter: CHAPTER_1, room: 64, source: 'src/mode-long.S' }),
  payload({ name: 'mode-v86', title: 'Virtual-8086 mode: the first virtual machine on x86', chapter: CHAPTER_1, room: 32, source: 'src/mode-v86.S' }),
  payload({ name: 'mode-compat', title: 'Compatibility mode', chapter: CHAPTER_1, room: 64, source: 'src/mode-compat.S' }),
  payload({ name: 'interrupts-16', title: 'Software interrupts in real mode', chapter: CHAPTER_1, room: 16, source: 'src/interrupts-real.S' }),
  ...widths([32, 64], { name: 'interrupts', title: 'Interrupts through gates', chapter: CHAPTER_1, source: 'src/interrupts.S' }),
  ...widths([32, 64], { name: 'exceptions', title: 'Exceptions: vector, error code, saved address', chapter: CHAPTER_1, source: 'src/exceptions.S' }),
  ...widths([32, 64], { name: 'control-registers', title: 'Control registers that refuse values', chapter: CHAPTER_1, source: 'src/control-registers.S' }),
  ...widths([32, 64], { name: 'double-fault', title: 'A fault while delivering a fault', chapter: CHAPTER_1, source: 'src/double-fault.S' }),
  payload({ name: 'triple-fault', title: 'The triple fault', chapter: CHAPTER_1, room: 32, source: 'src/triple-fault.S', needs: ['reset'], end: 'triple-fault' }),
  payload({ name: 'halt', title: 'Halt with interrupts off', chapter: CHAPTER_1, room: 32, source: 'src/halt.S', end: 'halt' }),
  payload({ name: 'segment-limits', title: 'Segment limits and types', chapter: CHAPTER_1, room: 32, source: 'src/segment-limits.S' }),
  payload({ name: 'paging-32', title: '32-bit paging, 4 KiB and 4 MiB', chapter: CHAPTER_1, room: 32, source: 'src/paging-32.c' }),
  payload({ name: 'paging-pae', title: 'Paging with physical address extension', chapter: CHAPTER_1, room: 32, source: 'src/paging-pae.c', needs: ['pae', 'nx'] }),
  payload({ name: 'paging-long', title: 'Four levels: 4 KiB, 2 MiB, 1 GiB', chapter: CHAPTER_1, room: 64, source: 'src/paging-long.c' }),
  ...widths([32, 64], { name: 'page-fault-codes', title: 'What a page fault says', chapter: CHAPTER_1, source: 'src/page-fault-codes.c', needs: [] }),
  ...widths([32, 64], { name: 'ad-bits', title: 'Accessed and dirty', chapter: CHAPTER_1, source: 'src/ad-bits.c' }),
  payload({ name: 'nx-wp', title: 'Permissions over the levels', chapter: CHAPTER_1, room: 64, source: 'src/nx-wp.c', needs: ['nx'] }),
  ...widths([32, 64], { name: 'tlb', title: 'Stale translations', chapter: CHAPTER_1, source: 'src/tlb.c' }),
  ...widths([16, 32, 64], { name: 'compute', title: 'A sieve, a checksum, a hash', chapter: CHAPTER_1, source: 'src/compute.c' }),
  ...widths([32, 64], { name: 'compute-long', title: 'The same, four hundred times', chapter: CHAPTER_1, source: 'src/compute.c', defines: { ROUNDS: 400 } }),
  ...widths([32, 64], { name: 'bench-integer', title: 'Workloads: integers', chapter: CHAPTER_1, source: 'src/bench-integer.c' }),
  ...widths([32, 64], { name: 'bench-memory', title: 'Workloads: memory', chapter: CHAPTER_1, source: 'src/bench-memory.c' }),
  ...widths([32, 64], { name: 'bench-float', title: 'Workloads: floating point and vectors', chapter: CHAPTER_1, source: 'src/bench-float.c' }),
  ...widths([32, 64], { name: 'bench-paging', title: 'Workloads: page tables', chapter: CHAPTER_1, source: 'src/bench-paging.c', needs: [] }),
  ...widths([32, 64], { name: 'bench-system', title: 'Workloads: the ways in', chapter: CHAPTER_1, source: 'src/bench-system.c' }),
  ...widths([32, 64], { name: 'bench-code', title: 'Workloads: code that is written while it runs', chapter: CHAPTER_1, source: 'src/bench-code.c' }),
  payload({ name: 'syscall', title: 'SYSCALL, SYSRET, SWAPGS', chapter: CHAPTER_1, room: 64, source: 'src/syscall.S', needs: ['syscall'] }),
  ...widths([32, 64], { name: 'sysenter', title: 'SYSENTER and SYSEXIT', chapter: CHAPTER_1, source: 'src/sysenter.S', needs: ['sysenter'] }),
  ...widths([32, 64], { name: 'sensitive', title: 'Sensitive, and not privileged: why x86 was hard', chapter: CHAPTER_1, source: 'src/sensitive.S' }),
  ...widths([32, 64], { name: 'cpuid-basic', title: 'CPUID and the time-stamp counter', chapter: CHAPTER_1, source: 'src/cpuid-basic.S' }),
  ...widths([32, 64], { name: 'single-step', title: 'Single step and breakpoints', chapter: CHAPTER_1, source: 'src/single-step.S' }),
  ...widths([32, 64], { name: 'self-modifying', title: 'Code that changes itself', chapter: CHAPTER_1, source: 'src/self-modifying.S' }),
  ...widths([16, 32, 64], { name: 'alu-flags', title: 'Results and flags', chapter: CHAPTER_1, source: 'src/alu-flags.S' }),
  ...widths([16, 32, 64], { name: 'string-ops', title: 'String instructions', chapter: CHAPTER_1, source: 'src/string-ops.S' }),
  payload({ name: 'x87-arithmetic', title: 'Results of the x87 unit', chapter: CHAPTER_1, room: 32, source: 'src/x87-arithmetic.S' }),
  ...widths([32, 64], { name: 'x87-control', title: 'Stack, stores and exceptions of the x87 unit', chapter: CHAPTER_1, source: 'src/x87-control.S' }),
  payload({ name: 'x87-stores', title: 'To memory and back', chapter: CHAPTER_1, room: 32, source: 'src/x87-control.S', defines: { STORES: 1 } }),
  payload({ name: 'sse-scalar', title: 'Floating point in SSE and SSE2, one at a time', chapter: CHAPTER_1, room: 32, source: 'src/sse-float.S', defines: { PART: 1 } }),
  ...widths([32, 64], { name: 'sse-packed', title: 'Floating point in SSE and SSE2, in vectors', chapter: CHAPTER_1, source: 'src/sse-float.S', defines: { PART: 2 } }),
  ...widths([32, 64], { name: 'sse-state', title: 'SSE: exceptions and state', chapter: CHAPTER_1, source: 'src/sse-float.S', defines: { PART: 3 } }),
  ...widths([32, 64], { name: 'simd-sse2', title: 'Integers in SSE2', chapter: CHAPTER_1, source: 'src/simd-integer.S', defines: { PART: 1 } }),
  ...widths([32, 64], { name: 'simd-mmx', title: 'Integers in MMX', chapter: CHAPTER_1, source: 'src/simd-integer.S', defines: { PART: 2 } }),
  ...widths([32, 64], { name: 'simd-v2', title: 'SSE3 to SSE4.2', chapter: CHAPTER_1, source: 'src/simd-integer.S', defines: { PART: 3 } }),
  ...widths([32, 64], { name: 'integer-edges', title: 'Integer instructions at their edges', chapter: CHAPTER_1, source: 'src/integer-edges.S' }),
  ...widths([32, 64], { name: 'bmi', title: 'Bit manipulation', chapter: CHAPTER_1, source: 'src/bmi.S' }),
  ...widths([32, 64], { name: 'xsave', title: 'Extended state', chapter: CHAPTER_1, source: 'src/xsave.S' }),
  payload({ name: 'cmpxchg16b', title: 'Sixteen bytes at once', chapter: CHAPTER_1, room: 64, source: 'src/cmpxchg16b.S' }),
  ...widths([32, 64], { name: 'prefixes', title: 'Prefixes, and what they do together', chapter: CHAPTER_1, source: 'src/prefixes.S' }),
  ...widths([32, 64], { name: 'code-changes', title: 'Hot code that changes', chapter: CHAPTER_1, source: 'src/code-changes.S' }),
  ...widths([32, 64], { name: 'hot-corners', title: 'Corners of hot code', chapter: CHAPTER_1, source: 'src/hot-corners.S' }),
  ...widths([32, 64], { name: 'float-corners', title: 'Corners of floating point', chapter: CHAPTER_1, source: 'src/float-corners.S' }),
  ...widths([32, 64], { name: 'string-edges', title: 'Strings at the end of a register', chapter: CHAPTER_1, source: 'src/string-edges.S' }),
  ...widths([32, 64], { name: 'rdrand', title: 'Numbers that nobody chose', chapter: CHAPTER_1, source: 'src/rdrand.S' }),
  payload({ name: 'vex-real', title: 'No vectors for the 8086', chapter: CHAPTER_1, room: 16, source: 'src/vex-real.S' }),
  payload({ name: 'vex-v86', title: 'VEX by mode', chapter: CHAPTER_1, room: 32, source: 'src/vex-v86.S' }),
  payload({ name: 'mtrr', title: 'Memory types by range', chapter: CHAPTER_1, room: 32, source: 'src/mtrr.S' }),
  payload({ name: 'pcid', title: 'Process-context identifiers', chapter: CHAPTER_1, room: 64, source: 'src/pcid.S' }),
  payload({ name: 'la57', title: 'Five levels of tables', chapter: CHAPTER_1, room: 64, source: 'src/la57.S' }),
  payload({ name: 'task-switch', title: 'Tasks in hardware', chapter: CHAPTER_1, room: 32, source: 'src/task-switch.S' }),
  ...widths([32, 64], { name: 'call-gates', title: 'Calls to more privilege', chapter: CHAPTER_1, source: 'src/call-gates.S' }),
  payload({ name: 'v86-monitor', title: 'Virtual-8086 mode, in detail', chapter: CHAPTER_1, room: 32, source: 'src/v86-monitor.S' }),
  payload({ name: 'v86-extensions', title: 'Virtual interrupts', chapter: CHAPTER_1, room: 32, source: 'src/v86-monitor.S', defines: { EXTENSIONS: 1 } }),
  payload({ name: 'fault-order', title: 'Which fault comes first', chapter: CHAPTER_1, room: 64, source: 'src/fault-order.S' }),
  ...widths([32, 64], { name: 'irq-window', title: 'The interrupt window', chapter: CHAPTER_3, source: 'src/irq-window.S', needs: ['inject'] }),
  ...widths([32, 64], { name: 'irq-lapic', title: 'The interrupt window, by the local APIC', chapter: CHAPTER_3,
    source: 'src/irq-window.S', defines: { WITH_LAPIC: 1 }, needs: ['lapic'] }),
  ...widths([32, 64], { name: 'nmi', title: 'The interrupt that cannot be masked', chapter: CHAPTER_3, source: 'src/nmi.S', needs: ['inject-nmi'] }),
  ...widths([32, 64], { name: 'nmi-lapic', title: 'NMI, by the local APIC', chapter: CHAPTER_3, source: 'src/nmi.S', defines: { WITH_LAPIC: 1 }, needs: ['lapic'] }),
  ...widths([32, 64], { name: 'vcpu-pair', title: 'Two processors', chapter: CHAPTER_3, source: 'src/vcpu-pair.S', needs: ['smp2-shared'], vcpus: 2 }),
  ...widths([32, 64], { name: 'vcpu-sipi', title: 'Two processors, the second woken by INIT and SIPI', chapter: CHAPTER_3,
    source: 'src/vcpu-pair.S', defines: { WITH_LAPIC: 1 }, needs: ['lapic'], vcpus: 2 }),
  payload({ name: 'serial-polled', title: 'The serial port, by asking', chapter: CHAPTER_3, room: 32, source: 'src/serial-polled.S', needs: ['uart'] }),
  ...widths([32, 64], { name: 'exit-storm', title: 'A storm of exits: port writes', chapter: CHAPTER_3, source: 'src/exit-storm.S' }),
  ...widths([32, 64], { name: 'mmio-storm', title: 'A storm of exits: device writes', chapter: CHAPTER_3,
    source: 'src/exit-storm.S', defines: { MMIO: 1 }, needs: ['scratch-mmio'] }),
  ...widths([16, 32, 64], { name: 'pio-widths', title: 'Port I/O of each width, and strings', chapter: CHAPTER_3, source: 'src/pio-widths.S', needs: ['scratch-pio'] }),
  ...widths([32, 64], { name: 'mmio-widths', title: 'Memory-mapped I/O by any instruction', chapter: CHAPTER_3, source: 'src/mmio-widths.S', needs: ['scratch-mmio'] }),
  ...widths([32, 64], { name: 'paging-matrix', title: 'Every permission, every access', chapter: CHAPTER_4, source: 'src/paging-matrix.c' }),
  payload({ name: 'paging-matrix-pae', title: 'Every permission, every access, PAE', chapter: CHAPTER_4, room: 32,
    source: 'src/paging-matrix.c', defines: { PAE: 1 }, needs: ['pae', 'nx'] }),
  payload({ name: 'supervisor-guard', title: "Guarding ring 0 from ring 3's pages", chapter: CHAPTER_4, room: 64, source: 'src/supervisor-guard.c', needs: ['nx'] }),
  ...widths([32, 64], { name: 'page-alias', title: 'One frame, many names', chapter: CHAPTER_4, source: 'src/page-alias.c' }),
  payload({ name: 'page-alias-pae', title: 'One frame, many names, PAE', chapter: CHAPTER_4, room: 32,
    source: 'src/page-alias.c', defines: { PAE: 1 }, needs: ['pae', 'nx'] }),
  payload({ name: 'paging-switch', title: 'Between paging modes', chapter: CHAPTER_4, room: 32, source: 'src/paging-switch.c', needs: ['pae'] }),
  ...widths([32, 64], { name: 'straddle', title: 'Across the edge of a page', chapter: CHAPTER_4, source: 'src/straddle.c' }),
  payload({ name: 'hostile-page-tables', title: 'Tables that nobody would write', chapter: CHAPTER_4, room: 64,
    source: 'src/hostile-page-tables.c', needs: ['nx'] }),
  payload({ name: 'pic', title: 'Two 8259s', chapter: CHAPTER_5, room: 32, source: 'src/pic.c', needs: ['pic', 'pit', 'rtc', 'uart'] }),
  payload({ name: 'pit', title: 'The 8254', chapter: CHAPTER_5, room: 32, source: 'src/pit.c', needs: ['pic', 'pit'] }),
  payload({ name: 'rtc', title: 'The clock chip', chapter: CHAPTER_5, room: 32, source: 'src/rtc.c', needs: ['pic', 'rtc'] }),
  payload({ name: 'serial-irq', title: 'The serial port, by interrupt', chapter: CHAPTER_5, room: 32, source: 'src/serial-irq.c', needs: ['pic', 'uart'] }),
  ...widths([32, 64], { name: 'lapic', title: 'The local APIC', chapter: CHAPTER_5, source: 'src/lapic.c', needs: ['lapic'] }),
  payload({ name: 'x2apic', title: 'The local APIC as MSRs', chapter: CHAPTER_5, room: 64, source: 'src/x2apic.c', needs: ['lapic', 'x2apic'] }),
  ...widths([32, 64], { name: 'smp-ipi', title: 'Messages between processors', chapter: CHAPTER_5, source: 'src/smp-ipi.c', needs: ['lapic'], vcpus: 2 }),
  payload({ name: 'acpi-tables', title: 'What the firmware says the machine is', chapter: CHAPTER_5, room: 32, source: 'src/acpi-tables.c', needs: ['acpi', 'pci'] }),
  payload({ name: 'pci-config', title: 'PCI, by its configuration space', chapter: CHAPTER_5, room: 32, source: 'src/pci-config.c', needs: ['pci'] }),
  payload({ name: 'pci-decode', title: 'Who answers at an address', chapter: CHAPTER_5, room: 32, source: 'src/pci-decode.c', needs: ['e1000', 'pci', 'pic'] }),
  payload({ name: 'q35', title: 'What the chipset lets software move', chapter: CHAPTER_5, room: 32, source: 'src/q35.c', needs: ['q35', 'e1000', 'pci', 'pic'] }),
  payload({ name: 'pam', title: 'RAM beneath the ROM', chapter: CHAPTER_5, room: 32, source: 'src/pam.c', needs: ['q35', 'pci'] }),
  payload({ name: 'reset-control', title: 'Reset, by the chipset', chapter: CHAPTER_5, room: 32,
    source: 'src/reset.c', defines: { WAY: 1 }, needs: ['pci', 'reset'], end: 'reset' }),
  payload({ name: 'reset-keyboard', title: 'Reset, by the keyboard controller', chapter: CHAPTER_5, room: 32,
    source: 'src/reset.c', defines: { WAY: 2 }, needs: ['i8042', 'reset'], end: 'reset' }),
  payload({ name: 'reset-fast', title: 'Reset, by port 92h', chapter: CHAPTER_5, room: 32,
    source: 'src/reset.c', defines: { WAY: 3 }, needs: ['i8042', 'reset'], end: 'reset' }),
  payload({ name: 'keyboard', title: 'The keyboard controller', chapter: CHAPTER_5, room: 32, source: 'src/keyboard.c', needs: ['i8042', 'pic'] }),
  payload({ name: 'fw-cfg', title: 'What the machine tells its firmware', chapter: CHAPTER_5, room: 32, source: 'src/fw-cfg.c', needs: ['fw-cfg'] }),
  payload({ name: 'power-off', title: 'Off', chapter: CHAPTER_5, room: 32, source: 'src/power-off.c', needs: ['acpi', 'soft-off'], end: 'soft-off' }),
  payload({ name: 'ioapic', title: 'The I/O APIC', chapter: CHAPTER_5, room: 32, source: 'src/ioapic.c', needs: ['lapic', 'ioapic', 'pic', 'pit', 'uart'] }),
  payload({ name: 'ide-pio', title: 'The disk, by its ports', chapter: CHAPTER_5, room: 32, source: 'src/ide-pio.c', needs: ['ide', 'pic'] }),
  payload({ name: 'ide-dma', title: 'The disk, by its bus master', chapter: CHAPTER_5, room: 32, source: 'src/ide-dma.c', needs: ['ide-dma', 'pci', 'pic'] }),
  payload({ name: 'e1000', title: 'A network card', chapter: CHAPTER_5, room: 32, source: 'src/e1000.c', needs: ['e1000', 'pci', 'pic'] }),
  payload({ name: 'hostile-io', title: 'A guest that means harm', chapter: CHAPTER_5, room: 32, source: 'src/hostile-io.c', needs: ['pci'] }),
  payload({ name: 'virtio-entropy', title: 'Random bytes through a ring', chapter: CHAPTER_6, room: 32, source: 'src/virtio-entropy.c', needs: ['virtio-entropy'] }),
  payload({ name: 'virtio-interrupts', title: 'How a ring calls back', chapter: CHAPTER_6, room: 32,
    source: 'src/virtio-interrupts.c', needs: ['virtio-entropy', 'pci', 'pic', 'lapic'] }),
  payload({ name: 'virtio-console', title: 'A console through two rings', chapter: CHAPTER_6, room: 32, source: 'src/virtio-console.c', needs: ['virtio-console'] }),
  payload({ name: 'virtio-balloon', title: 'Giving memory away', chapter: CHAPTER_6, room: 32, source: 'src/virtio-balloon.c', needs: ['virtio-balloon'] }),
  payload({ name: 'virtio-block', title: 'A disk through a ring', chapter: CHAPTER_6, room: 32, source: 'src/virtio-block.c', needs: ['virtio-block'] }),
];

/** The entry of that name, or undefined. */
export function findPayload(name: string): Payload | undefined {
  return PAYLOADS.find((entry) => entry.name === name);
}

export const imagePath = (name: string): string => `images/${name}.elf`;
export const diskPath = (name: string): string => `images/${name}.img`;
