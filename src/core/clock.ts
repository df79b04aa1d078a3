/**
 * Time and randomness are arguments. Protocol cores take `now` (milliseconds, monotonic, fractional allowed) with
 * every call and draw random bytes from an injected `Random`; only the services at the edge own real ones.
 */
export interface Clock {
  /** Monotonic milliseconds since an arbitrary start. */
  now(): number
  /** Milliseconds since the Unix epoch, for timestamps that leave the host. May jump. */
  wall(): number
}

export interface Random {
  /** Fills `out` with unpredictable bytes and returns it. */
  fill(out: Uint8Array): Uint8Array
}
