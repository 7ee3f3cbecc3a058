// # The handshake
//
// Two threads share three words. The main thread writes RUNNING and wakes the vCPU thread; the vCPU thread calls KVM_RUN, stores the result, writes
// WAITING and wakes the main thread. Each word has one writer at a time, and the state says whose turn it is: while it is WAITING the shared page belongs to
// the main thread, while it is RUNNING to the kernel.
//
// That ownership is what makes a *kick* safe. To stop a guest one sets `immediate_exit` and sends the thread a signal. The flag catches a thread that
// has not entered KVM_RUN yet, the signal one that has. But a flag that is cleared too early is a kick lost, and one that is cleared too late
// stops the next run. So it is cleared only by the main thread, and only after it has seen WAITING: then the kicked run is over, and the next one has not begun.

/** Indices of the shared words. */
export const WORD = { STATE: 0, RESULT: 1, TID: 2 } as const;
export const WORDS = 4;

export const STATE = {
  STARTING: 0, // the thread has not spoken yet
  WAITING: 1, // the last run is over; its result is in RESULT
  RUNNING: 2, // the thread is in KVM_RUN, or on its way in or out
  QUIT: 3,
} as const;

/** What a vCPU thread is given at birth. */
export interface ThreadStart {
  readonly fd: number;
  readonly words: Int32Array;
}

/** A real-time signal that neither glibc, Node nor a debugger uses. */
export const KICK_SIGNAL = 40;

// Waking a sleeping thread costs more than most exits take. So each side looks at the word for some microseconds before it sleeps, as the kernel's own
// `halt_poll_ns` does for halted guests. The bound is small: a guest that computes must not keep the device loop busy looking.

/** How often to look before sleeping. */
export const SPINS = 4000;
