// # The last word
//
// For a payload whose end is not the debug-exit port: `say_done` says that every observation has been made, waits until that is on the wire, and returns.

#pragma once

void say_done(void);
asm(".section .text.say_done, \"ax\"\n"
    "say_done: pushl %esi\n movl $said, %esi\n call rb_last32\n popl %esi\n ret\n"
    ".section .rodata.say_done, \"a\"\n"
    "said: .asciz \"RB1 done\\n\"\n"
    ".text\n");
