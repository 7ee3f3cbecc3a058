# Runs cases of system instructions, one after the other, on whatever processor has been reset into this.
#
# What is of 16 bits lies low; the rest beyond the first megabyte, out of the reach of real-mode programs that run wild.
#
# The program does not know where it is: under QEMU, or on the modelled processor. Cases, tables and outcomes lie in memory, at the places that system.ts
# gives as symbols. For each case the program sets the machine up from scratch, goes into the case, and is come back to by an exception: the case ends with
# UD2 if nothing happens before. A case that shuts the processor down leads back to the beginning, which finds that a case was under way.

.set CURRENT, CONTROL        # the number of the case
.set COUNT, CONTROL + 4
.set UNDER_WAY, CONTROL + 8
.set FINISHED, CONTROL + 12

# A case, as it lies at CASE.
.set MODE, 0
.set FLAGS, 4
.set GPR, 8                  # eax ecx edx ebx esp ebp esi edi
.set SEGMENTS, 40            # es cs ss ds fs gs, 16 bits each
.set EIP, 52
.set CONTROL_0, 56
.set CONTROL_4, 60
.set DATA_NUMBER, 64
.set CODE_AT, 68
.set CODE_BYTES, 72
.set CASE_BYTES, 128
# An outcome, as it lies at RESULT.
.set KIND, 0
.set FRAME, 8                # the stack: what a handler has pushed, then what the processor has
.set STACK_SEGMENT, 96
.set SYSTEM, 104             # cr0 cr2 cr3 cr4 dr6 dr7
.set TABLES, 128             # GDTR, IDTR (8 bytes each), LDTR, TR
.set BREAKPOINTS, 152
.set HEAD_BYTES, 192         # and then the data
.set DATA_BYTES, 0x800

.code16
.globl _start
_start:
  cli
  xorw %ax, %ax
  movw %ax, %ds
  movb $0xff, %al            # no interrupts from devices
  outb %al, $0x21
  outb %al, $0xa1
  lgdtl %cs:own_gdt
  movl $0x11, %eax
  movl %eax, %cr0
  ljmpl $0x08, $begin
own_gdt: .word 0x3f
  .long OWN_GDT
own_idt: .word 0x7ff
  .long IDT
case_gdt: .word 0xff
  .long GDT
real_idt: .word 0x3ff
  .long 0

.code32
.section .high, "ax"
begin:
  movl $0x10, %eax
  movw %ax, %ds; movw %ax, %es; movw %ax, %ss
  movl $STACK, %esp
  cmpl $0, UNDER_WAY
  je next
  movl $RESULT, %edi; xorl %eax, %eax; movl $HEAD_BYTES / 4, %ecx; cld; rep stosl
  movl $3, RESULT + KIND
  jmp keep

# Copies the outcome to where outcomes are collected.
collect:
  movl %cr0, %eax; movl %eax, RESULT + SYSTEM
  movl %cr2, %eax; movl %eax, RESULT + SYSTEM + 4
  movl %cr3, %eax; movl %eax, RESULT + SYSTEM + 8
  movl %cr4, %eax; movl %eax, RESULT + SYSTEM + 12
  movl %dr6, %eax; movl %eax, RESULT + SYSTEM + 16
  movl %dr7, %eax; movl %eax, RESULT + SYSTEM + 20
  movl %dr0, %eax; movl %eax, RESULT + BREAKPOINTS
  movl %dr1, %eax; movl %eax, RESULT + BREAKPOINTS + 4
  movl %dr2, %eax; movl %eax, RESULT + BREAKPOINTS + 8
  movl %dr3, %eax; movl %eax, RESULT + BREAKPOINTS + 12
keep:
  movl $0, UNDER_WAY
  movl CURRENT, %eax
  imull $(HEAD_BYTES + DATA_BYTES), %eax, %edi
  addl $OUTCOMES, %edi; movl $RESULT, %esi; movl $HEAD_BYTES / 4, %ecx; cld; rep movsl
  movl $DATA, %esi; movl $DATA_BYTES / 4, %ecx; rep movsl
  incl CURRENT
  outb %al, $0x80            # for whoever counts along
next:
  cld
  movl $0x10, %eax
  movw %ax, %ds; movw %ax, %es; movw %ax, %ss
  movl $STACK, %esp
  pushl $2; popfl
  movl $0x11, %eax; movl %eax, %cr0
  xorl %eax, %eax; movl %eax, %cr4; movl %eax, %cr2
  movl %eax, %dr0; movl %eax, %dr1; movl %eax, %dr2; movl %eax, %dr3
  movl $0xffff0ff0, %eax; movl %eax, %dr6
  movl $0x400, %eax; movl %eax, %dr7
  movl $DIRECTORY, %eax; movl %eax, %cr3
  lgdtl own_gdt; lidtl own_idt
  ljmpl $0x08, $1f
1:
  movl CURRENT, %ebx
  cmpl COUNT, %ebx
  jae finished
  # What 16-bit code may have written over, from a copy that it cannot reach.
  movl $LOW_COPY, %esi; xorl %edi, %edi; movl $0x100, %ecx; repe cmpsl; jne 2f
  movl $BASE, %edi; movl $0x400, %ecx; repe cmpsl; je 3f
2: movl $LOW_COPY, %esi; xorl %edi, %edi; movl $0x100, %ecx; rep movsl
  movl $BASE, %edi; movl $0x400, %ecx; rep movsl
3:
  movl $RESULT, %edi; xorl %eax, %eax; movl $HEAD_BYTES / 4, %ecx; cld; rep stosl
  imull $CASE_BYTES, %ebx, %esi
  addl $CASES, %esi; movl $CASE, %edi; movl $CASE_BYTES / 4, %ecx; rep movsl
  movl CASE + DATA_NUMBER, %esi
  shll $11, %esi
  addl $TEMPLATES, %esi; movl $DATA, %edi; movl $DATA_BYTES / 4, %ecx; rep movsl
  movl $(DATA + DATA_BYTES), %edi; movl $0xcccccccc, %eax; movl $(CODE + 0x1000 - DATA - DATA_BYTES) / 4, %ecx; rep stosl
  movl $CASE + CODE_BYTES, %esi; movl CASE + CODE_AT, %edi; movl $48 / 4, %ecx; rep movsl
  movl $1, UNDER_WAY
  lgdtl case_gdt
  movw $LOCAL_TABLE, %ax; lldt %ax
  movw $TASK, %ax; ltr %ax
  movl CASE + CONTROL_4, %eax; movl %eax, %cr4
  cmpl $0, CASE + MODE
  je enter_real
  movl CASE + CONTROL_0, %eax; movl %eax, %cr0
  testl $0x20000, CASE + FLAGS
  jnz enter_v86
  movw CASE + SEGMENTS, %es; movw CASE + SEGMENTS + 8, %fs; movw CASE + SEGMENTS + 10, %gs
  testw $3, CASE + SEGMENTS + 2
  jnz enter_outer
  # The same level: through the flags, the stack and a jump, since IRET would need a frame on the case's own stack.
  pushl CASE + FLAGS
  movl CASE + EIP, %eax; movl %eax, CASE + CONTROL_0         # a far pointer, where nothing is needed any more
  movzwl CASE + SEGMENTS + 2, %eax; movl %eax, CASE + CONTROL_4
  movl CASE + GPR + 4, %ecx; movl CASE + GPR + 8, %edx; movl CASE + GPR + 12, %ebx
  movl CASE + GPR + 20, %ebp; movl CASE + GPR + 24, %esi; movl CASE + GPR + 28, %edi
  movl CASE + GPR, %eax
  movw CASE + SEGMENTS + 6, %ds
  popfl
  movw %cs:CASE + SEGMENTS + 4, %ss
  movl %cs:CASE + GPR + 16, %esp
  ljmpl *%cs:CASE + CONTROL_0
enter_v86:
  movzwl CASE + SEGMENTS + 10, %eax; pushl %eax
  movzwl CASE + SEGMENTS + 8, %eax; pushl %eax
  movzwl CASE + SEGMENTS + 6, %eax; pushl %eax
  movzwl CASE + SEGMENTS, %eax; pushl %eax
enter_outer:
  movzwl CASE + SEGMENTS + 4, %eax; pushl %eax
  pushl CASE + GPR + 16
  pushl CASE + FLAGS
  movzwl CASE + SEGMENTS + 2, %eax; pushl %eax
  pushl CASE + EIP
  movl CASE + GPR, %eax; movl CASE + GPR + 4, %ecx; movl CASE + GPR + 8, %edx; movl CASE + GPR + 12, %ebx
  movl CASE + GPR + 20, %ebp; movl CASE + GPR + 24, %esi; movl CASE + GPR + 28, %edi
  testl $0x20000, 8(%esp)
  jnz 1f
  movw CASE + SEGMENTS + 6, %ds
1: iretl

finished:
  movl $1, FINISHED
  movw $0xf4, %dx; xorl %eax, %eax; outl %eax, %dx  # QEMU's way out
1: cli; hlt
  jmp 1b

enter_real:
  ljmpl $0x18, $low_enter
.text
.code16
low_enter:
  movw $0x20, %ax
  movw %ax, %ds; movw %ax, %es; movw %ax, %fs; movw %ax, %gs; movw %ax, %ss
  movl %cs:CASE + CONTROL_0, %eax
  movl %eax, %cr0
  ljmpw $0, $1f
1:
  lidtl %cs:real_idt
  xorw %ax, %ax
  movw %ax, %ds; movw %ax, %ss
  movl $STACK, %esp
  pushl CASE + FLAGS
  movl CASE + EIP, %eax; movw %ax, CASE + CONTROL_0
  movw CASE + SEGMENTS + 2, %ax; movw %ax, CASE + CONTROL_0 + 2
  movw CASE + SEGMENTS, %es; movw CASE + SEGMENTS + 8, %fs; movw CASE + SEGMENTS + 10, %gs
  movl CASE + GPR + 4, %ecx; movl CASE + GPR + 8, %edx; movl CASE + GPR + 12, %ebx
  movl CASE + GPR + 20, %ebp; movl CASE + GPR + 24, %esi; movl CASE + GPR + 28, %edi
  movl CASE + GPR, %eax
  popfl
  movw %cs:CASE + SEGMENTS + 4, %ss
  movl %cs:CASE + GPR + 16, %esp
  movw %cs:CASE + SEGMENTS + 6, %ds
  ljmpw *%cs:CASE + CONTROL_0

# Handlers: of real mode first.
handler16:
  pushal
  pushw %ds; pushw %es; pushw %fs; pushw %gs
  xorw %ax, %ax
  movw %ax, %ds; movw %ax, %es
  movw %sp, %si; movw $RESULT + FRAME, %di; movw $44, %cx; cld
  rep movsw %ss:(%si), %es:(%di)
  movw %ss, RESULT + STACK_SEGMENT
  movl $1, RESULT + KIND
  sgdtl RESULT + TABLES
  sidtl RESULT + TABLES + 8
  movl %cr0, %eax; movl %eax, RESULT + SYSTEM
  movl %cr2, %eax; movl %eax, RESULT + SYSTEM + 4
  movl %cr3, %eax; movl %eax, RESULT + SYSTEM + 8
  movl %cr4, %eax; movl %eax, RESULT + SYSTEM + 12
  movl %dr6, %eax; movl %eax, RESULT + SYSTEM + 16
  movl %dr7, %eax; movl %eax, RESULT + SYSTEM + 20
  lgdtl %cs:own_gdt
  movl $0x11, %eax
  movl %eax, %cr0
  ljmpl $0x08, $high_keep
.section .high
.code32
high_keep:
  movl $0x10, %eax
  movw %ax, %ds; movw %ax, %es; movw %ax, %ss
  movl $STACK, %esp
  jmp keep

handler32:
  pushal
  # Pushing a segment register leaves half of the word alone on some processors and not on others.
  movl %ds, %eax; pushl %eax; movl %es, %eax; pushl %eax; movl %fs, %eax; pushl %eax; movl %gs, %eax; pushl %eax
  movl $0x10, %eax
  movw %ax, %ds
  .set at, 0
  .rept 22
  popl RESULT + FRAME + at
  .set at, at + 4
  .endr
  movw %ss, %ax; movl %eax, RESULT + STACK_SEGMENT
  movl $2, RESULT + KIND
  sgdtl RESULT + TABLES
  sidtl RESULT + TABLES + 8
  sldt RESULT + TABLES + 16
  str RESULT + TABLES + 18
  movl $0x10, %eax
  movw %ax, %es; movw %ax, %ss
  movl $STACK, %esp
  jmp collect

# The ways in, one for each vector: in the upper part, and in the lower.
.org STUBS32 - HIGH, 0x90
.set vector, 0
.rept 256
1:
  .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17)
  pushl $0
  .endif
  pushl $vector
  jmp handler32
  .org 1b - begin + 16, 0x90
  .set vector, vector + 1
.endr
.text
.code16
.org STUBS16 - BASE, 0x90
.set vector, 0
.rept 256
1:
  pushw $vector
  jmp handler16
  .org 1b - _start + 8, 0x90
  .set vector, vector + 1
.endr
