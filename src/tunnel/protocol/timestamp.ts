/**
 * TAI64N timestamps of handshake initiations (WireGuard paper §5.1): 8 bytes of seconds, 4 of nanoseconds, big-endian, so
 * that they compare as bytes. They only increase, whatever the wall clock does, and have a resolution of 16.8 ms.
 */
const TAI64_EPOCH_HIGH = 0x40000000
/** TAI − UTC when TAI64 was defined; WireGuard leaves later leap seconds out. */
const TAI_OFFSET = 10
/** Nanoseconds below this are dropped: a fine clock is a fingerprint. */
const STEP = 2 ** 24

export class TimestampSource {
  /** Last one given, seconds and nanoseconds. */
  #seconds: number
  #nanos = 0

  /** @param floor wall time in milliseconds that every timestamp exceeds */
  constructor(floor: number) {
    this.#seconds = Math.floor(floor / 1000)
    this.#nanos = floor > 0 ? toStep(floor) : 0
  }

  /** The `floor` to use after a restart so that no timestamp is repeated: wall time in milliseconds. */
  get floor(): number {
    return this.#seconds * 1000 + Math.ceil(this.#nanos / 1e6)
  }

  /** @param wall milliseconds since the Unix epoch, may have jumped */
  next(wall: number): Uint8Array {
    let seconds = Math.floor(wall / 1000)
    let nanos = toStep(wall)
    if (seconds < this.#seconds || (seconds === this.#seconds && nanos <= this.#nanos)) {
      seconds = this.#seconds
      nanos = this.#nanos + STEP
      if (nanos >= 1e9) {
        seconds++
        nanos = 0
      }
    }
    this.#seconds = seconds
    this.#nanos = nanos
    const out = new Uint8Array(12)
    const view = new DataView(out.buffer)
    const tai = seconds + TAI_OFFSET
    view.setUint32(0, TAI64_EPOCH_HIGH + Math.floor(tai / 2 ** 32))
    view.setUint32(4, tai >>> 0)
    view.setUint32(8, nanos)
    return out
  }
}

function toStep(wall: number): number {
  const nanos = (wall - Math.floor(wall / 1000) * 1000) * 1e6
  return Math.floor(nanos / STEP) * STEP
}
