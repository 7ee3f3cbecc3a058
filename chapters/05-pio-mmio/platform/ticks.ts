// Old chips count the beats of a crystal, this machine counts nanoseconds. Both directions go by way of whole seconds, so that no product leaves the
// integers that a number holds exactly.

const NS_PER_SECOND = 1e9;

/** Whole beats of `hz` in `ns` nanoseconds. */
export function ticksAt(ns: number, hz: number): number {
  const seconds = Math.floor(ns / NS_PER_SECOND);
  return seconds * hz + Math.floor(((ns - seconds * NS_PER_SECOND) * hz) / NS_PER_SECOND);
}

/** The first nanosecond at which {@link ticksAt} gives `tick`. */
export function nsAtTick(tick: number, hz: number): number {
  const seconds = Math.floor(tick / hz);
  return seconds * NS_PER_SECOND + Math.ceil(((tick - seconds * hz) * NS_PER_SECOND) / hz);
}
