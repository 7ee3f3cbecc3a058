// # Memory-mapped I/O of each width
//
// A device's registers at memory addresses are reached by *any* instruction that touches memory. The hypervisor gets an address and has to find out
// the rest, which is why kvm.ko contains an instruction emulator. The test device stores bytes and gives them back.

#include "rb.inc"
BEGIN
.globl main
main:
  mov ebx, SCRATCH_MMIO

  STAGE widths
  mov dword ptr [xbx], 0x44332211
  mov dword ptr [xbx + 4], 0x88776655
  xor eax, eax
  mov al, [xbx]
  OBS read8, xax
  xor eax, eax
  mov ax, [xbx]
  OBS read16, xax
  mov eax, [xbx]
  OBS read32, xax
#if MODE == 64
  mov rax, [rbx]
  OBS read64, rax
  mov rax, 0x1122334455667788
  mov [rbx], rax
  mov eax, [rbx + 4]
  OBS write64.high, rax
  mov dword ptr [rbx], 0x44332211
  mov dword ptr [rbx + 4], 0x88776655
#endif
  mov byte ptr [xbx + 1], 0xaa
  mov word ptr [xbx + 2], 0xccbb
  mov eax, [xbx]
  OBS mixed, xax
  mov eax, [xbx + 1] // unaligned
  OBS unaligned, xax

// ## Extending

  STAGE extend
  mov dword ptr [xbx], 0x80f0ff7f
  movzx eax, byte ptr [xbx + 1]
  OBS movzx8, xax
  mov xax, 0
  movsx eax, byte ptr [xbx + 1]
  OBS movsx8, xax
  movsx eax, word ptr [xbx + 2]
  OBS movsx16, xax
#if MODE == 64
  movsxd rax, dword ptr [rbx]
  OBS movsxd, rax
#endif

// ## Read, modify, write
//
// Two accesses, and flags from the middle.

  STAGE modify
  mov dword ptr [xbx], 0x7fffffff
  add dword ptr [xbx], 1
  pushf
  pop xcx
  and ecx, 0x8d5
  mov eax, [xbx]
  OBS add.value, xax
  OBS add.flags, xcx
  or byte ptr [xbx], 0x0f
  and dword ptr [xbx], 0x80000007
  xor word ptr [xbx + 2], 0xffff
  mov eax, [xbx]
  OBS logic, xax
  inc byte ptr [xbx]
  neg dword ptr [xbx]
  not word ptr [xbx]
  mov eax, [xbx]
  OBS unary, xax
  mov dword ptr [xbx], 0x10
  shl dword ptr [xbx], 3
  mov eax, [xbx]
  OBS shift, xax
  bts dword ptr [xbx], 0
  setc cl
  mov eax, [xbx]
  OBS bts, xax
  mov eax, 0x55
  xchg [xbx], eax
  OBS xchg.old, xax
  mov eax, [xbx]
  OBS xchg.new, xax
  mov eax, 0x55
  mov ecx, 0x66
  lock cmpxchg [xbx], ecx
  setz al
  movzx eax, al
  OBS cmpxchg.zf, xax
  mov eax, [xbx]
  OBS cmpxchg.new, xax
  mov eax, 2
  lock xadd [xbx], eax
  OBS xadd.old, xax
  mov eax, [xbx]
  OBS xadd.new, xax

// ## Comparing does not write

  STAGE compare
  mov dword ptr [xbx], 0x1234
  cmp dword ptr [xbx], 0x1234
  setz al
  movzx eax, al
  OBS cmp.zf, xax
  test byte ptr [xbx + 1], 0x10
  setnz al
  movzx eax, al
  OBS test.nz, xax

// ## The stack and an indirect jump can reach a device too

  STAGE unusual
  mov dword ptr [xbx], 0x600d
  mov dword ptr [xbx + 4], 0
  push xword ptr [xbx]
  pop xax
  OBS push, xax
  push 0x77
  pop xword ptr [xbx]
  mov eax, [xbx]
  OBS pop, xax
  mov dword ptr [xbx], offset target
  jmp xword ptr [xbx]
  ABORT(the jump fell through)
target:
  OBS jump, 1

// ## Strings
//
// Memory to device, device to memory, device to device, and a fill.

  STAGE strings
  mov esi, offset source
  mov xdi, xbx
  mov ecx, 4
  rep movsd
  mov xax, xdi
  sub xax, xbx
  OBS movsd.index, xax
  mov eax, [xbx + 12]
  OBS movsd.last, xax
  mov xsi, xbx
  mov edi, offset copy
  mov ecx, 16
  rep movsb
  mov eax, [copy + 12]
  OBS movsb.last, xax
  mov xsi, xbx
  lea xdi, [xbx + 0x20]
  mov ecx, 8
  rep movsw
  mov eax, [xbx + 0x2c]
  OBS movsw.device, xax
  lea xdi, [xbx + 0x40]
  mov al, 0xe7
  mov ecx, 5
  rep stosb
  mov eax, [xbx + 0x40]
  OBS stosb.first, xax
  mov eax, [xbx + 0x44]
  OBS stosb.end, xax
  mov xsi, xbx
  lodsd
  OBS lodsd, xax
  lea xdi, [xbx + 0x20]
  mov xsi, xbx
  mov ecx, 4
  repe cmpsd
  setz al
  movzx eax, al
  OBS cmpsd.zf, xax
  OBS cmpsd.count, xcx
  lea xdi, [xbx + 0x40]
  mov al, 0
  mov ecx, 16
  repne scasb
  mov xax, xdi
  sub xax, xbx
  OBS scasb.index, xax
  DONE

.data
.balign 8
source: .long 0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c
copy: .long 0, 0, 0, 0
