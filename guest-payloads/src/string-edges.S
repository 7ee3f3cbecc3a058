// # Strings at the end of a register
//
// The search for a substring has to cope with one that is cut off: what lies beyond the register's end may match, so a beginning there counts as found, and
// the caller looks again from that place.

#include "rb.inc"
#include "float.inc"
BEGIN
.globl main

#define ORDERED 0x0c
#define EQUAL_ANY 0x00
#define RANGES 0x04
#define EACH 0x08

// Reports ECX and the five flags of PCMPISTRI.
.macro FIND name, needle, text, how
  movdqu xmm0, [\needle]
  movdqu xmm1, [\text]
  mov ecx, -1
  pcmpistri xmm0, xmm1, \how
  PUSHF
  pop xax
  and eax, 0x8d5
  OBS \name\().flags, xax
  OBS \name, xcx
.endm

// The same with lengths: PCMPESTRI.
.macro FIND_IN name, needle, length, text, text_length, how
  movdqu xmm0, [\needle]
  movdqu xmm1, [\text]
  mov eax, \length
  mov edx, \text_length
  mov ecx, -1
  pcmpestri xmm0, xmm1, \how
  PUSHF
  pop xax
  and eax, 0x8d5
  OBS \name\().flags, xax
  OBS \name, xcx
.endm

main:
  SSE_ON
  STAGE ordered
  FIND cut, ab, ends_in_a, ORDERED
  FIND cut.longer, abc, ends_in_ab, ORDERED
  FIND whole, ab, ends_in_ab, ORDERED
  FIND absent, abc, no_a, ORDERED
  FIND text.ends, ab, short_a, ORDERED // the text ends before the register does: nothing is cut
  FIND empty, nothing, no_a, ORDERED
  FIND last, ab, ends_in_ab, ORDERED | 0x40
  FIND_IN given.cut, ab, 2, ends_in_a, 16, ORDERED
  FIND_IN given.short, ab, 2, ends_in_a, 15, ORDERED
  FIND_IN given.whole, ab, 1, ends_in_a, 16, ORDERED
  FIND_IN given.empty, ab, 0, ends_in_a, 16, ORDERED
  FIND_IN given.negative, abc, -3, ends_in_ab, -16, ORDERED
  FIND words.cut, ab_words, a_word_last, ORDERED | 1

  STAGE others
  FIND any, ab, ends_in_a, EQUAL_ANY
  FIND ranges, ab, ends_in_ab, RANGES
  FIND each, ends_in_a, ends_in_ab, EACH
  FIND each.negated, ends_in_a, ends_in_ab, EACH | 0x10
  FIND each.masked, short_a, ends_in_ab, EACH | 0x30
  DONE

.section .rodata
.balign 16
ab: .ascii "ab"
  .skip 14
abc: .ascii "abc"
  .skip 13
nothing: .skip 16
ends_in_a: .ascii "xxxxxxxxxxxxxxxa"
ends_in_ab: .ascii "xxxxxxxxxxxxxxab"
no_a: .ascii "xxxxxxxxxxxxxxxx"
short_a: .ascii "xxxxxxxa"
  .skip 8
ab_words: .short 'a', 'b', 0, 0, 0, 0, 0, 0
a_word_last: .short 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'a'
