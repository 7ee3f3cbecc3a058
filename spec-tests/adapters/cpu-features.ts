// # Parts of the instruction set, as capabilities
//
// Whether a processor has a part of the instruction set it says itself, so a capability of that kind is a set of CPUID bits. All of them have to be there: a case
// that needs `sse4` uses whatever that name covers.

type Register = 'eax' | 'ebx' | 'ecx' | 'edx';
/** A bit of the answer to a leaf of CPUID (subleaf 0). */
type Bit = readonly [leaf: number, register: Register, bit: number];

// biome-ignore format: table
const FEATURES: Readonly<Record<string, readonly Bit[]>> = {
  x87: [[1, 'edx', 0]],
  mmx: [[1, 'edx', 23]],
  sse: [[1, 'edx', 24], [1, 'edx', 25], [1, 'edx', 26]], // FXSR, SSE, SSE2
  sse4: [[1, 'ecx', 0], [1, 'ecx', 9], [1, 'ecx', 19], [1, 'ecx', 20], [1, 'ecx', 23]], // SSE3, SSSE3, SSE4.1, SSE4.2, POPCNT
  bmi: [[1, 'ecx', 22], [7, 'ebx', 3], [7, 'ebx', 8], [0x80000001, 'ecx', 5]], // MOVBE, BMI1, BMI2, LZCNT
  cx16: [[1, 'ecx', 13]],
  xsave: [[1, 'ecx', 26]],
  vme: [[1, 'edx', 1]],
  pcid: [[1, 'ecx', 17], [7, 'ebx', 10]], // PCID, INVPCID
  la57: [[7, 'ecx', 16]],
  mtrr: [[1, 'edx', 12]],
  rdrand: [[1, 'ecx', 30], [7, 'ebx', 18]], // RDRAND, RDSEED
};

/** Looks a bit up; undefined where the processor has no such leaf. */
export type CpuidLookup = (leaf: number, register: Register) => number | undefined;

/** Which of these capabilities a processor has, and why it has not the others. */
export function cpuFeatures(lookup: CpuidLookup): { readonly capabilities: readonly string[]; readonly missing: Readonly<Record<string, string>> } {
  const capabilities: string[] = [];
  const missing: Record<string, string> = {};
  for (const [name, bits] of Object.entries(FEATURES)) {
    const absent = bits.find(([leaf, register, bit]) => (((lookup(leaf, register) ?? 0) >>> bit) & 1) === 0);
    if (absent === undefined) capabilities.push(name);
    else missing[name] = `its CPUID ${absent[0].toString(16)}h has bit ${absent[2]} of ${absent[1].toUpperCase()} clear`;
  }
  return { capabilities, missing };
}
