// # The x87: functions, and the state as a whole
//
// These are carried out by TypeScript: what each does is in `system/x87-functions.ts`, `system/x87-environment.ts` and `system/extended-state.ts`.

import { systemInstruction } from './encoding.ts';

export const X87_SYSTEM = [
  systemInstruction('F2XM1', 'D9/F0 X87', 'f2xm1'), // 2^x - 1
  systemInstruction('FYL2X', 'D9/F1 X87', 'fyl2x'), // y · log2 x
  systemInstruction('FPTAN', 'D9/F2 X87', 'fptan'), // tangent, and a 1
  systemInstruction('FPATAN', 'D9/F3 X87', 'fpatan'), // angle of a point
  systemInstruction('FXTRACT', 'D9/F4 X87', 'fxtract'), // takes a number apart into exponent and significand
  systemInstruction('FPREM1', 'D9/F5 X87', 'fprem1'), // remainder by the nearest quotient, or a step towards it
  systemInstruction('FPREM', 'D9/F8 X87', 'fprem'), // remainder by the truncated quotient, or a step towards it
  systemInstruction('FYL2XP1', 'D9/F9 X87', 'fyl2xp1'), // y · log2(x + 1)
  systemInstruction('FSINCOS', 'D9/FB X87', 'fsincos'), // sine and cosine
  systemInstruction('FSCALE', 'D9/FD X87', 'fscale'), // multiplies by a power of two
  systemInstruction('FSIN', 'D9/FE X87', 'fsin'), // sine
  systemInstruction('FCOS', 'D9/FF X87', 'fcos'), // cosine
  systemInstruction('FLDENV', 'D9/4 M X87', 'fldenv'), // loads the unit's state without its registers
  systemInstruction('FNSTENV', 'D9/6 M X87', 'fnstenv'), // stores it, and masks all exceptions
  systemInstruction('FRSTOR', 'DD/4 M X87', 'frstor'), // loads the unit's state
  systemInstruction('FNSAVE', 'DD/6 M X87', 'fnsave'), // stores it, and initialises the unit
  systemInstruction('FXSAVE', '0FAE/0 M bare FXSR', 'fxsave'), // stores the state of x87, MMX and SSE
  systemInstruction('FXRSTOR', '0FAE/1 M bare FXSR', 'fxrstor'), // loads the state of x87, MMX and SSE
  systemInstruction('XSAVE', '0FAE/4 M bare XSAVE', 'xsave'), // stores the components that are asked for
  systemInstruction('XRSTOR', '0FAE/5 M bare XSAVE', 'xrstor'), // loads the components that are asked for
  systemInstruction('XSAVEOPT', '0FAE/6 M bare XSAVEOPT', 'xsaveopt'), // stores those that are not in their initial state
];
