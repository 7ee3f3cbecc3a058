// # Two processors
//
// They share memory and nothing else. The first tells the second to go; then they pass a token to and fro, add to one counter with and without LOCK,
// and see each other's stores in the promised order.
//
// How the second one starts is the machine's business. In the simplest machine it starts through the same door at the same time, and the start-up
// holds it until the first has made the tables. Built with `WITH_LAPIC`, the first processor wakes it the way of the PC: INIT and start-up messages,
// and the real-mode trampoline of the runtime.

#include "rb.inc"
#include "inject.inc"
#define ROUNDS 200
#define ADDS 2000
.globl main, secondary_main

BEGIN
main:
  STAGE start
  mov dword ptr [rb_release], 1
#ifdef WITH_LAPIC
  INTERRUPTS_ON
  mov ebx, LAPIC
  mov dword ptr [xbx + LAPIC_ICR_LOW], 0xc4500 // INIT to all but itself
  mov ecx, 100000
1:
  pause
  dec ecx
  jnz 1b
  mov eax, offset trampoline
  shr eax, 12
  or eax, 0xc4600 // start-up, with the page
  mov [xbx + LAPIC_ICR_LOW], eax
#endif
  mov ecx, 20000000
1:
  pause
  cmp dword ptr [alive], 0
  jne 2f
  dec ecx
  jnz 1b
  ABORT(no second processor)
2:
  mov eax, [alive]
  OBS alive, xax

// ## A token
//
// Odd belongs to one, even to the other. Whatever the machine does about turns, each waits for the other in every round.

  STAGE token
  xor esi, esi
3:
  cmp [token], esi
  je 4f
  pause
  jmp 3b
4:
  mov [slot], esi // written before the token moves: the other must see it
  inc esi
  mov [token], esi
  inc esi
  cmp esi, ROUNDS * 2
  jb 3b
5:
  pause
  cmp dword ptr [token], ROUNDS * 2
  jne 5b
  mov eax, [token]
  OBS token, xax
  mov eax, [stale]
  OBS stale, xax

// ## A counter
//
// With LOCK no addition is lost.

  STAGE counter
  mov dword ptr [go], 1
  mov ecx, ADDS
6:
  lock inc dword ptr [locked]
  dec ecx
  jnz 6b
7:
  pause
  cmp dword ptr [finished], 1
  jne 7b
  mov eax, [locked]
  OBS locked, xax

// ## A spin lock
//
// XCHG with memory is locked by itself. Inside, an ordinary addition is enough.

  STAGE lock
  mov dword ptr [go], 2
  call critical
8:
  pause
  cmp dword ptr [finished], 2
  jne 8b
  mov eax, [guarded]
  OBS guarded, xax
  DONE

critical: // clobbers xax, xcx
  mov ecx, ADDS / 4
1:
  mov eax, 1
2:
  xchg [lock], eax
  test eax, eax
  jz 3f
  pause
  jmp 2b
3:
  mov eax, [guarded]
  inc eax
  mov [guarded], eax
  mov dword ptr [lock], 0
  dec ecx
  jnz 1b
  ret

// ## The second processor

secondary_main: // ebp: its number
  mov [alive], ebp
  mov esi, 1
1:
  cmp [token], esi
  je 2f
  pause
  jmp 1b
2:
  mov eax, [slot]
  inc eax
  cmp eax, esi
  je 3f
  inc dword ptr [stale]
3:
  inc esi
  mov [token], esi
  inc esi
  cmp esi, ROUNDS * 2
  jb 1b
4:
  pause
  cmp dword ptr [go], 1
  jb 4b
  mov ecx, ADDS
5:
  lock inc dword ptr [locked]
  dec ecx
  jnz 5b
  mov dword ptr [finished], 1
6:
  pause
  cmp dword ptr [go], 2
  jb 6b
  call critical
  mov dword ptr [finished], 2
7:
  cli
  hlt
  jmp 7b

.bss
.balign 64
alive: .skip 64
token: .skip 64
slot: .skip 64
stale: .skip 64
go: .skip 64
finished: .skip 64
locked: .skip 64
guarded: .skip 64
lock: .skip 64
