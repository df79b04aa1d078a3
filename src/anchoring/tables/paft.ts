/**
 * The Per-Application Forwarding Table (UP-10, UP-23): flow → local_tid, on the mobile host and mirrored on the anchor. A row
 * names a group of flows, and the group its tunnel: a handover of any number of flows is one write (groups.ts; on the
 * mobile host a group is a policy).
 *
 * Open addressing, three arrays with one index. A lookup reads the first only: eight slots to a cache line and up to
 * 90 % full, so a million rows are 9 MB and a lookup among them costs little more than among a thousand (bench `paft`).
 *
 *   index   word 0  fingerprint, upper half
 *           word 1  group (20 bits), has an owner (1 bit), time of last use in units of 8.192 s (11 bits); 0: empty
 *   check   word 0  fingerprint, lower half: where the row belongs, and the proof that a match is one
 *           word 1  learn order: peer-wide order of the packet that last moved the row
 *   cold    the tuple, the application, whether packets may move it and which ends have closed it
 *
 * Growth is incremental: a larger table is made, each later insertion moves a few slots, look-ups that hit the old one
 * move what they find. Rows idle for long are removed by `sweep`, a few slots at a time; at the limit, the least
 * recently used of sixteen neighbours makes room.
 */
import { type FlowKey, type FlowTuple, tupleOf } from './flow-key.ts'

const COLD_WORDS = 12
/** Bits of cold word 0 beside version and protocol. */
const STATIC = 1 << 16
const CLOSED_LOCALLY = 1 << 17
const CLOSED_REMOTELY = 1 << 18
const ENDED = CLOSED_LOCALLY | CLOSED_REMOTELY
/** TCP's flags as they stand in its header. */
const FIN = 1
const SYN = 2
const RST = 4
const GROUP_SHIFT = 12
const OWNED = 0x800
const AGE_MASK = 0x7ff
const AGE_UNIT_MS = 8192
/** Marks a slot of the old table that has moved; no row has this group. */
const MOVED = 0xfffff
/** Slots moved by each insertion while growing: the table doubles, so growth ends long before the next begins. */
const MOVE_PER_INSERT = 16
const EVICTION_SAMPLE = 16

/** Groups are below. */
export const MOST_GROUP_IDS = MOVED

/** Why a row is where it is: what `why` prints first. */
export interface PaftRow {
  /** Stable as long as the table lives: 10 hex digits of the fingerprint. */
  readonly id: string
  readonly flow: FlowTuple
  readonly group: number
  readonly static: boolean
  readonly app: number
  /** Seconds since the table's clock began. */
  readonly createdAt: number
}

export interface PaftInit {
  /** Zeroed memory, at least 16-byte aligned; huge pages where possible. */
  readonly allocate: (bytes: number) => ArrayBuffer
  /** Rows to hold before the first growth. */
  readonly rows?: number
  /** Max rows. */
  readonly limit?: number
}

/** Idle times after which `sweep` removes a row, in milliseconds. */
export interface IdleTimes {
  readonly tcp: number
  readonly udp: number
  readonly other: number
}

/** A TCP connection that both ends have closed, or one has reset, stays so long: for what comes late. */
const ENDED_MS = 10_000
/** Max slots searched for a row of the host that has to make room. */
const OWN_SCAN = 2048

/** As of a NAT: for TCP the least that RFC 5382 (REQ-5) asks, for UDP more than the two minutes of RFC 4787 (REQ-5). */
export const IDLE: IdleTimes = { tcp: 7_440_000, udp: 180_000, other: 60_000 }

/** The arrays of one table size. */
class Store {
  /** A multiple of eight. */
  readonly slots: number
  readonly index: Int32Array
  readonly check: Int32Array
  readonly cold: Int32Array
  /** Bytes sent and received of each row, while they are counted. */
  bytes: Float64Array | undefined

  constructor(slots: number, allocate: (bytes: number) => ArrayBuffer) {
    this.slots = slots
    this.index = new Int32Array(allocate(slots * 8), 0, slots * 2)
    this.check = new Int32Array(allocate(slots * 8), 0, slots * 2)
    this.cold = new Int32Array(allocate(slots * COLD_WORDS * 4), 0, slots * COLD_WORDS)
  }

  /** The first slot of the cache line where a row belongs. */
  home(low: number): number {
    return Math.floor(((low >>> 0) * (this.slots >>> 3)) / 4294967296) << 3
  }

  /** The slot whose upper half matches, or -1; `verify`: and whose lower half does. */
  probe(low: number, high: number, verify: boolean): number {
    const index = this.index
    const end = this.slots
    let at = this.home(low)
    for (;;) {
      const meta = index[2 * at + 1]!
      if (meta === 0) return -1
      if (index[2 * at] === high && meta >>> GROUP_SHIFT !== MOVED && (!verify || this.check[2 * at] === low))
        return at
      if (++at === end) at = 0
    }
  }

  free(low: number): number {
    let at = this.home(low)
    while (this.index[2 * at + 1] !== 0) if (++at === this.slots) at = 0
    return at
  }

  copyFrom(other: Store, from: number, to: number): void {
    this.index[2 * to] = other.index[2 * from]!
    this.index[2 * to + 1] = other.index[2 * from + 1]!
    this.check[2 * to] = other.check[2 * from]!
    this.check[2 * to + 1] = other.check[2 * from + 1]!
    for (let i = 0; i < COLD_WORDS; i++) this.cold[to * COLD_WORDS + i] = other.cold[from * COLD_WORDS + i]!
    if (this.bytes === undefined) return
    this.bytes[2 * to] = other.bytes?.[2 * from] ?? 0
    this.bytes[2 * to + 1] = other.bytes?.[2 * from + 1] ?? 0
  }
}

export class Paft {
  readonly #allocate: (bytes: number) => ArrayBuffer
  readonly #limit: number
  #now: Store
  #old: Store | undefined
  #oldCursor = 0
  #count = 0
  #sweepCursor = 0
  #evictCursor = 0
  /** Group → its rows. */
  #rows = new Int32Array(64)
  /** Rows that made room for new ones at the limit. */
  evicted = 0
  #counting = false

  constructor(init: PaftInit) {
    this.#allocate = init.allocate
    this.#limit = init.limit ?? 1 << 20
    this.#now = new Store(slotsFor(Math.min(init.rows ?? 1024, this.#limit)), init.allocate)
  }

  get size(): number {
    return this.#count
  }

  /** Slots in the table; a row's index is below it. Indices hold until the next insertion or removal. */
  get slots(): number {
    return this.#now.slots
  }

  /** The row of a hashed key, or -1. */
  find(key: FlowKey): number {
    return this.#find(key, true)
  }

  /**
   * As `find`, but reads the index only: one cache line, about 10 ns when it is cached. Once in 2^30 or so it returns
   * the row of another flow; callers for whom that matters in their case ask `matches`.
   */
  findLikely(key: FlowKey): number {
    return this.#find(key, false)
  }

  matches(at: number, key: FlowKey): boolean {
    return this.#now.check[2 * at] === key.low
  }

  #find(key: FlowKey, verify: boolean): number {
    const at = this.#now.probe(key.low, key.high, verify)
    if (at >= 0 || this.#old === undefined) return at
    const old = this.#old.probe(key.low, key.high, verify)
    return old < 0 ? -1 : this.#moveOne(this.#old, old)
  }

  /** Rows of a group. */
  rowsOf(group: number): number {
    return this.#rows[group] ?? 0
  }

  get full(): boolean {
    return this.#count >= this.#limit
  }

  /** Makes a row; the key must not be in the table. Returns its index. */
  insert(key: FlowKey, group: number, order: number, now: number): number {
    if (this.#count >= this.#limit) this.evict(now)
    if (this.#old !== undefined) this.#move(this.#old, MOVE_PER_INSERT)
    else if (this.#count >= mostRows(this.slots)) this.#grow()
    this.#countIn(group)
    const store = this.#now
    const at = store.free(key.low)
    store.index[2 * at] = key.high
    store.index[2 * at + 1] = (group << GROUP_SHIFT) | age(now)
    store.check[2 * at] = key.low
    store.check[2 * at + 1] = order
    const cold = store.cold
    const c = at * COLD_WORDS
    cold[c] = (key.version << 8) | key.protocol
    cold[c + 1] = key.ports
    cold[c + 2] = key.l0
    cold[c + 3] = key.l1
    cold[c + 4] = key.l2
    cold[c + 5] = key.l3
    cold[c + 6] = key.r0
    cold[c + 7] = key.r1
    cold[c + 8] = key.r2
    cold[c + 9] = key.r3
    cold[c + 10] = 0
    cold[c + 11] = now / 1000
    store.bytes?.fill(0, 2 * at, 2 * at + 2)
    this.#count++
    return at
  }

  /**
   * Whether bytes are counted: only while somebody watches. Otherwise nothing is allocated and counting costs nothing.
   */
  get counting(): boolean {
    return this.#counting
  }

  set counting(on: boolean) {
    if (on === this.#counting) return
    this.#counting = on
    for (const store of [this.#now, this.#old])
      if (store !== undefined) store.bytes = on ? new Float64Array(2 * store.slots) : undefined
  }

  /** Adds to what a row has sent (`way` 0) or received (1); only while `counting`. */
  count(at: number, way: 0 | 1, bytes: number): void {
    this.#now.bytes![2 * at + way]! += bytes
  }

  /** Bytes that a row has sent and received since counting began; undefined while nothing is counted. */
  bytesAt(at: number): { readonly sent: number; readonly received: number } | undefined {
    const { bytes } = this.#now
    return bytes && { sent: bytes[2 * at]!, received: bytes[2 * at + 1]! }
  }

  groupAt(at: number): number {
    return this.#now.index[2 * at + 1]! >>> GROUP_SHIFT
  }

  /** Notes use of the row at `now` (milliseconds). */
  touch(at: number, now: number): void {
    const index = this.#now.index
    index[2 * at + 1] = (index[2 * at + 1]! & ~AGE_MASK) | age(now)
  }

  setGroup(at: number, group: number): void {
    const { index } = this.#now
    const meta = index[2 * at + 1]!
    if (meta >>> GROUP_SHIFT === group) return
    this.#rows[meta >>> GROUP_SHIFT]!--
    this.#countIn(group)
    index[2 * at + 1] = (group << GROUP_SHIFT) | (meta & (OWNED | AGE_MASK))
  }

  orderAt(at: number): number {
    return this.#now.check[2 * at + 1]!
  }

  setOrder(at: number, order: number): void {
    this.#now.check[2 * at + 1] = order
  }

  isStatic(at: number): boolean {
    return (this.#now.cold[at * COLD_WORDS]! & STATIC) !== 0
  }

  /** A static row is not changed by learning (UP-30). */
  setStatic(at: number, value: boolean): void {
    const cold = this.#now.cold
    const c = at * COLD_WORDS
    cold[c] = value ? cold[c]! | STATIC : cold[c]! & ~STATIC
  }

  /**
   * Notes that a packet of the row's connection has FIN, SYN or RST among its `flags`, from the local end or the remote one.
   * A connection that is over leaves the table soon, one that begins anew with the same ports stays.
   */
  noteFlags(at: number, flags: number, local: boolean): void {
    const cold = this.#now.cold
    const c = at * COLD_WORDS
    if ((flags & SYN) !== 0) cold[c] = cold[c]! & ~ENDED
    if ((flags & RST) !== 0) cold[c] = cold[c]! | ENDED
    else if ((flags & FIN) !== 0) cold[c] = cold[c]! | (local ? CLOSED_LOCALLY : CLOSED_REMOTELY)
  }

  /** `app` below 1,048,576: an index that the caller gives meaning to. */
  setOwner(at: number, group: number, app: number): void {
    this.setGroup(at, group)
    this.#now.cold[at * COLD_WORDS + 10] = app
    this.#now.index[2 * at + 1]! |= OWNED
  }

  /** Whether the row was given an owner since it was made; reads the index only. */
  isOwned(at: number): boolean {
    return (this.#now.index[2 * at + 1]! & OWNED) !== 0
  }

  appAt(at: number): number {
    return this.#now.cold[at * COLD_WORDS + 10]!
  }

  /** The row's flow; allocates. */
  tupleAt(at: number): FlowTuple {
    const cold = this.#now.cold
    const c = at * COLD_WORDS
    const kind = cold[c]! & 0xffff
    return tupleOf(kind >>> 8, kind & 0xff, cold[c + 1]!, cold.subarray(c + 2, c + 10))
  }

  /** The row for display; allocates. */
  rowAt(at: number): PaftRow {
    return {
      id: this.idAt(at),
      flow: this.tupleAt(at),
      group: this.groupAt(at),
      static: this.isStatic(at),
      app: this.appAt(at),
      createdAt: this.#now.cold[at * COLD_WORDS + 11]!,
    }
  }

  idAt(at: number): string {
    return flowId(this.#now.check[2 * at]!, this.#now.index[2 * at]!)
  }

  /** The row with this id (or a prefix of it of at least eight digits), or -1. */
  findId(id: string): number {
    if (!/^[0-9a-f]{8,10}$/.test(id)) return -1
    this.settle()
    const low = Number.parseInt(id.slice(0, 8), 16) | 0
    let at = this.#now.home(low)
    while (this.occupied(at)) {
      if (this.#now.check[2 * at] === low && this.idAt(at).startsWith(id)) return at
      if (++at === this.slots) at = 0
    }
    return -1
  }

  /** Whether slot `at` holds a row; for walks over all slots after `settle`. */
  occupied(at: number): boolean {
    return this.#now.index[2 * at + 1] !== 0
  }

  /** Ends a growth under way, so that a walk over `slots` sees every row. Linear in the rows not moved yet. */
  settle(): void {
    while (this.#old !== undefined) this.#move(this.#old, 1 << 16)
  }

  remove(at: number): void {
    const store = this.#now
    this.#rows[this.groupAt(at)]!--
    const slots = store.slots
    let hole = at
    let next = at
    for (;;) {
      if (++next === slots) next = 0
      if (store.index[2 * next + 1] === 0) break
      const wants = store.home(store.check[2 * next]!)
      // The row at `next` may fill the hole unless its home lies cyclically in (hole, next].
      if ((next - wants + slots) % slots < (next - hole + slots) % slots) continue
      store.copyFrom(store, next, hole)
      hole = next
    }
    store.index[2 * hole + 1] = 0
    this.#count--
  }

  /**
   * Looks at up to `slots` slots, from where the last call ended, and removes rows that are idle for longer than
   * `idle` or of which `drop(index)` is true. Returns true when it has come to the end of the table.
   */
  sweep(slots: number, idle: IdleTimes, now: number, drop?: (at: number) => boolean): boolean {
    if (this.#old !== undefined) this.#move(this.#old, slots)
    for (let i = 0; i < slots; i++) {
      const at = this.#sweepCursor
      if (at >= this.slots) {
        this.#sweepCursor = 0
        return true
      }
      const meta = this.#now.index[2 * at + 1]!
      if (meta !== 0) {
        const kind = this.#now.cold[at * COLD_WORDS]!
        const protocol = kind & 0xff
        const live = protocol === 6 ? idle.tcp : protocol === 17 ? idle.udp : idle.other
        const most = (kind & ENDED) === ENDED ? ENDED_MS : live
        if (((age(now) - meta) & AGE_MASK) * AGE_UNIT_MS > most || drop?.(at) === true) {
          this.remove(at)
          continue // the slot may hold another row now
        }
      }
      this.#sweepCursor = at + 1
    }
    return false
  }

  #grow(): void {
    this.#old = this.#now
    this.#oldCursor = 0
    this.#now = new Store(this.slots * 2, this.#allocate)
    if (this.#counting) this.#now.bytes = new Float64Array(2 * this.#now.slots)
    this.#sweepCursor = 0
  }

  #moveOne(old: Store, from: number): number {
    const at = this.#now.free(old.check[2 * from]!)
    this.#now.copyFrom(old, from, at)
    old.index[2 * from + 1] = MOVED << GROUP_SHIFT
    return at
  }

  #move(old: Store, slots: number): void {
    const end = Math.min(this.#oldCursor + slots, old.slots)
    for (; this.#oldCursor < end; this.#oldCursor++) {
      const meta = old.index[2 * this.#oldCursor + 1]!
      if (meta !== 0 && meta >>> GROUP_SHIFT !== MOVED) this.#moveOne(old, this.#oldCursor)
    }
    if (end === old.slots) this.#old = undefined
  }

  /**
   * Makes room: of up to sixteen rows, the next ones of those whose group is `among`, the one with the greatest `weight` goes,
   * of several the one used longest ago. False when no such row was found.
   */
  evict(now: number, among?: (group: number) => boolean, weight?: (group: number) => number): boolean {
    this.settle()
    let victim = -1
    let oldest = -1
    let heaviest = -1
    const scan = among === undefined ? this.slots : Math.min(OWN_SCAN, this.slots)
    for (let seen = 0, i = 0; seen < EVICTION_SAMPLE && i < scan; i++) {
      const at = this.#evictCursor
      this.#evictCursor = at + 1 === this.slots ? 0 : at + 1
      const meta = this.#now.index[2 * at + 1]!
      if (meta === 0 || among?.(meta >>> GROUP_SHIFT) === false) continue
      seen++
      const own = weight?.(meta >>> GROUP_SHIFT) ?? 0
      const idle = (age(now) - meta) & AGE_MASK
      if (own < heaviest || (own === heaviest && idle <= oldest)) continue
      heaviest = own
      oldest = idle
      victim = at
    }
    if (victim < 0) return false
    this.remove(victim)
    this.evicted++
    return true
  }

  #countIn(group: number): void {
    if (group >= this.#rows.length) {
      const rows = new Int32Array(Math.max(group + 1, this.#rows.length * 2))
      rows.set(this.#rows)
      this.#rows = rows
    }
    this.#rows[group]!++
  }
}

/** A flow's id from its fingerprint. */
export function flowId(low: number, high: number): string {
  return (low >>> 0).toString(16).padStart(8, '0') + (high >>> 24).toString(16).padStart(2, '0')
}

function age(now: number): number {
  return (now / AGE_UNIT_MS) & AGE_MASK
}

/** Max 90 % full. */
function mostRows(slots: number): number {
  return Math.floor(slots * 0.9)
}

/** Table sizes are 9·2^k: the default limit of 2^20 rows fits the one of 9.4 MB. */
function slotsFor(rows: number): number {
  let slots = 72
  while (mostRows(slots) < rows) slots *= 2
  return slots
}
