/**
 * The datapath's tables: peers, paths, sessions. Parallel typed arrays indexed by slot, grown by doubling, so that a
 * lookup is a number and a busy anchor allocates nothing. Per path 128 bytes (1 KB more where copies come late), per peer 27, per session 81 and a replay
 * window that grows with what the session receives (32 bytes to 16 KB); cipher contexts are made when first used.
 */
import type { SessionKeys, TransportForm } from '../seam.ts'

const NONE = -1

/** Grows a typed array to `length`, filling the new part with `fill`. */
function grown<T extends Float64Array | Int32Array | Uint32Array | Uint8Array | Uint16Array>(
  old: T,
  length: number,
  fill = 0,
): T {
  const next = new (old.constructor as new (length: number) => T)(length)
  next.set(old as never)
  if (fill !== 0) next.fill(fill, old.length)
  return next
}

/** What orders packets of a peer over all its sessions is `epoch · EPOCH + counter`; epochs wrap (seam.ts, `inbound`). */
export const EPOCH = 2 ** 40
export const EPOCHS = 4096

/** Bits of `PeerTable.traffic`: what to tell the machine at the end of a batch. */
export const SENT_DATA = 1
export const RECEIVED_DATA = 2
export const RECEIVED_ANY = 4

export class PeerTable {
  /** 1: message 32 and partial checksums; 0: stock WireGuard. */
  godwit = new Uint8Array(16)
  /** 1: folds marks of outer packets into inner ones, so outer packets carry the inner ECN field (RFC 6040, normal mode). */
  ecn = new Uint8Array(16)
  /** Slot of the session that seals, or -1. */
  sending = new Int32Array(16).fill(NONE)
  /** Slot of the session that its HELLO came in last, or -1; when something last arrived in such a session. */
  greeted = new Int32Array(16).fill(NONE)
  heardAt = new Float64Array(16)
  /** When a copy was last kept of what leaves for it (ms). */
  keptAt = new Float64Array(16)
  /** Install order of the newest session that received something; with its window, what "newest datagram" means. */
  newest = new Uint32Array(16)
  traffic = new Uint8Array(16)
  /** Sessions installed so far, modulo EPOCHS. */
  epoch = new Uint16Array(16)
  /** Datagrams with data, over all sessions, modulo 2^32: sealed for the peer, and received from it, each once. */
  sentData = new Uint32Array(16)
  receivedData = new Uint32Array(16)
  /** Peers whose `traffic` is not 0, `touchedCount` of them. */
  touched = new Int32Array(16)
  touchedCount = 0

  /** Adds bits to a peer's traffic of this batch. */
  mark(peer: number, bits: number): void {
    const before = this.traffic[peer]!
    if (before === 0) this.touched[this.touchedCount++] = peer
    this.traffic[peer] = before | bits
  }

  /** Makes room for a peer index. */
  ensure(peer: number): void {
    if (peer < this.godwit.length) return
    let size = this.godwit.length
    while (size <= peer) size *= 2
    this.godwit = grown(this.godwit, size)
    this.ecn = grown(this.ecn, size)
    this.sending = grown(this.sending, size, NONE)
    this.greeted = grown(this.greeted, size, NONE)
    this.heardAt = grown(this.heardAt, size)
    this.keptAt = grown(this.keptAt, size)
    this.newest = grown(this.newest, size)
    this.traffic = grown(this.traffic, size)
    this.epoch = grown(this.epoch, size)
    this.sentData = grown(this.sentData, size)
    this.receivedData = grown(this.receivedData, size)
    this.touched = grown(this.touched, size)
  }

  setForm(peer: number, form: TransportForm, ecn: boolean): void {
    this.ensure(peer)
    this.godwit[peer] = form === 'godwit' ? 1 : 0
    this.ecn[peer] = ecn ? 1 : 0
  }
}

/** Words of a socket name (linux/sockaddr.ts) that a path keeps. */
const NAME_WORDS = 8
/** Counters of copies are remembered this far behind the newest of their path: 100 ms of 900 Mbit/s. */
const COPY_BITS = 8192
const COPY_MASK = COPY_BITS / 32 - 1
const COPY_WINDOW = COPY_BITS - 32

export class PathTable {
  peer = new Int32Array(16).fill(NONE)
  pathId = new Uint8Array(16)
  socket = new Uint8Array(16)
  /** Largest outer IP packet. */
  mtu = new Uint16Array(16)
  /** Largest inner IP packet, kept with `mtu`. */
  innerMtu = new Uint16Array(16)
  /** 1: larger ones may pass (`Paths.setMtu`). */
  mtuSearching = new Uint8Array(16)
  next = new Int32Array(16).fill(NONE)
  /** Remote name, NAME_WORDS words a slot; and our own address there, 4 words, all zero when it does not matter. */
  remote = new Uint32Array(16 * NAME_WORDS)
  local = new Uint32Array(16 * 4)
  hasLocal = new Uint8Array(16)
  lastSentAt = new Float64Array(16)
  lastReceivedAt = new Float64Array(16)
  sentBytes = new Float64Array(16)
  sentPackets = new Float64Array(16)
  receivedBytes = new Float64Array(16)
  receivedPackets = new Float64Array(16)
  /** Install order of the newest session that a datagram came in by this path, 0 for none; its highest counter here. */
  session = new Uint32Array(16)
  highestCounter = new Float64Array(16)
  /** By slot, of paths that bring copies late: which counters it has counted, a circle of bits. */
  readonly #counted: (Uint32Array | undefined)[] = []
  readonly #free: number[] = []
  #used = 0
  /** Open-addressing hash of (peer, socket, remote) to slot + 1; 0 empty, -1 deleted. Size a power of two. */
  #hash = new Int32Array(64)
  #filled = 0
  /** First path of each peer, a list through `next`. */
  #first = new Int32Array(16).fill(NONE)

  /** A cleared slot. */
  allocate(): number {
    const slot = this.#free.pop() ?? this.#used++
    if (slot >= this.peer.length) this.#grow()
    this.lastSentAt[slot] = 0
    this.lastReceivedAt[slot] = 0
    this.sentBytes[slot] = 0
    this.sentPackets[slot] = 0
    this.receivedBytes[slot] = 0
    this.receivedPackets[slot] = 0
    this.session[slot] = 0
    this.highestCounter[slot] = 0
    this.#counted[slot] = undefined
    this.hasLocal[slot] = 0
    this.next[slot] = NONE
    return slot
  }

  /** The slot belongs to nobody, and is not given away before `release`. */
  vacate(slot: number): void {
    this.peer[slot] = NONE
  }

  release(slot: number): void {
    this.#free.push(slot)
  }

  isOpen(slot: number): boolean {
    return slot >= 0 && slot < this.#used && this.peer[slot] !== NONE
  }

  #grow(): void {
    const size = this.peer.length * 2
    this.peer = grown(this.peer, size, NONE)
    this.pathId = grown(this.pathId, size)
    this.socket = grown(this.socket, size)
    this.mtu = grown(this.mtu, size)
    this.innerMtu = grown(this.innerMtu, size)
    this.mtuSearching = grown(this.mtuSearching, size)
    this.next = grown(this.next, size, NONE)
    this.remote = grown(this.remote, size * NAME_WORDS)
    this.local = grown(this.local, size * 4)
    this.hasLocal = grown(this.hasLocal, size)
    this.lastSentAt = grown(this.lastSentAt, size)
    this.lastReceivedAt = grown(this.lastReceivedAt, size)
    this.sentBytes = grown(this.sentBytes, size)
    this.sentPackets = grown(this.sentPackets, size)
    this.receivedBytes = grown(this.receivedBytes, size)
    this.receivedPackets = grown(this.receivedPackets, size)
    this.session = grown(this.session, size)
    this.highestCounter = grown(this.highestCounter, size)
  }

  /** Whether something newer than this counter of this session (by install order) has arrived on the path. */
  hasNewer(slot: number, session: number, counter: number): boolean {
    const newest = this.session[slot]!
    return newest > session || (newest === session && this.highestCounter[slot]! > counter)
  }

  /**
   * Whether the path may count a datagram that has arrived before on another: each once, and none that lies more than
   * COPY_WINDOW behind the newest. From the first that is not the newest on, the path remembers which it has counted.
   */
  mayCount(slot: number, session: number, counter: number): boolean {
    if (!this.hasNewer(slot, session, counter - 1)) return true
    if (this.session[slot] !== session || this.highestCounter[slot]! - counter >= COPY_WINDOW) return false
    if (this.#counted[slot] === undefined) {
      // All up to the newest are taken to be counted.
      const counted = new Uint32Array(COPY_BITS / 32).fill(0xffffffff)
      const highest = this.highestCounter[slot]!
      counted[(highest / 32) & COPY_MASK] = 0xffffffff >>> (31 - (highest & 31))
      this.#counted[slot] = counted
    }
    return (this.#counted[slot]![(counter / 32) & COPY_MASK]! & (1 << (counter & 31))) === 0
  }

  /** An authenticated datagram with this counter of this session has come by the path. */
  brought(slot: number, session: number, counter: number): void {
    const newer = !this.hasNewer(slot, session, counter)
    const counted = this.#counted[slot]
    if (counted !== undefined && (newer || this.session[slot] === session)) {
      if (newer) {
        const last = Math.floor(counter / 32)
        const from =
          this.session[slot] === session
            ? Math.max(Math.floor(this.highestCounter[slot]! / 32), last - COPY_MASK - 1)
            : last - COPY_MASK - 1
        for (let word = from + 1; word <= last; word++) counted[word & COPY_MASK] = 0
      }
      const word = (counter / 32) & COPY_MASK
      counted[word] = counted[word]! | (1 << (counter & 31))
    }
    if (!newer) return
    this.session[slot] = session
    this.highestCounter[slot] = counter
  }

  /** The path of `peer` on `socket` whose remote is the name at word `at` of `words`; -1 when there is none. */
  find(peer: number, socket: number, words: Uint32Array, at: number): number {
    const mask = this.#hash.length - 1
    for (let i = hashName(peer, socket, words, at) & mask; ; i = (i + 1) & mask) {
      const entry = this.#hash[i]!
      if (entry === 0) return NONE
      if (entry > 0 && this.matches(entry - 1, peer, socket, words, at)) return entry - 1
    }
  }

  matches(slot: number, peer: number, socket: number, words: Uint32Array, at: number): boolean {
    if (this.peer[slot] !== peer || this.socket[slot] !== socket) return false
    const own = slot * NAME_WORDS
    for (let i = 0; i < NAME_WORDS; i++) if (this.remote[own + i] !== words[at + i]) return false
    return true
  }

  /** The first path of a peer, the others follow in `next`; -1 when it has none. */
  firstOf(peer: number): number {
    return peer < this.#first.length ? this.#first[peer]! : NONE
  }

  /** The path that a peer calls `pathId`, or -1. */
  named(peer: number, pathId: number): number {
    let slot = this.firstOf(peer)
    while (slot !== NONE && this.pathId[slot] !== pathId) slot = this.next[slot]!
    return slot
  }

  /** Puts a slot on its peer's list. */
  attach(slot: number): void {
    const peer = this.peer[slot]!
    if (peer >= this.#first.length) {
      let size = this.#first.length
      while (size <= peer) size *= 2
      this.#first = grown(this.#first, size, NONE)
    }
    this.next[slot] = this.#first[peer]!
    this.#first[peer] = slot
  }

  /** Takes a slot off its peer's list. */
  detach(slot: number): void {
    const peer = this.peer[slot]!
    if (this.#first[peer] === slot) {
      this.#first[peer] = this.next[slot]!
      return
    }
    let before = this.#first[peer]!
    while (before !== NONE && this.next[before] !== slot) before = this.next[before]!
    if (before !== NONE) this.next[before] = this.next[slot]!
  }

  /** Enters a slot whose peer, socket and remote are set. */
  link(slot: number): void {
    if ((this.#filled + 1) * 2 > this.#hash.length) this.#rehash()
    const mask = this.#hash.length - 1
    let i = hashName(this.peer[slot]!, this.socket[slot]!, this.remote, slot * NAME_WORDS) & mask
    while (this.#hash[i]! > 0) i = (i + 1) & mask
    if (this.#hash[i] === 0) this.#filled++
    this.#hash[i] = slot + 1
  }

  /** Takes a slot out, before its peer, socket or remote changes. */
  unlink(slot: number): void {
    const mask = this.#hash.length - 1
    let i = hashName(this.peer[slot]!, this.socket[slot]!, this.remote, slot * NAME_WORDS) & mask
    while (this.#hash[i] !== 0) {
      if (this.#hash[i] === slot + 1) {
        this.#hash[i] = NONE
        return
      }
      i = (i + 1) & mask
    }
  }

  #rehash(): void {
    const old = this.#hash
    let live = 0
    for (const entry of old) if (entry > 0) live++
    let size = 64
    while (size < (live + 1) * 4) size *= 2
    this.#hash = new Int32Array(size)
    this.#filled = 0
    for (const entry of old) if (entry > 0) this.link(entry - 1)
  }
}

function hashName(peer: number, socket: number, words: Uint32Array, at: number): number {
  let h = (peer * 31 + socket) | 0
  for (let i = 0; i < NAME_WORDS; i++) {
    h = Math.imul(h ^ words[at + i]!, 0x9e3779b1)
    h ^= h >>> 15
  }
  return h >>> 0
}

/** Low bits of an index are its slot, the rest a random generation: a lookup is one comparison. */
const SLOT_BITS = 17
const SLOT_MASK = (1 << SLOT_BITS) - 1

/** Replay window, RFC 6479: a ring of 32-bit words. It starts small and doubles while it still holds every counter. */
const WINDOW_WORDS_LEAST = 8
const WINDOW_WORDS_MOST = 4096

const FREE = 0
const RESERVED = 1
const LIVE = 2

export class SessionTable {
  state = new Uint8Array(16)
  localIndex = new Uint32Array(16)
  remoteIndex = new Uint32Array(16)
  peer = new Int32Array(16).fill(NONE)
  /** Next counter to send with. */
  sendCounter = new Float64Array(16)
  /** Highest counter received, -1 before the first. */
  highest = new Float64Array(16).fill(NONE)
  /** Order of installation over all sessions. */
  order = new Uint32Array(16)
  /** Which session of its peer it is, modulo EPOCHS, times EPOCH: added to a counter it orders packets over sessions. */
  epoch = new Float64Array(16)
  /** Cipher contexts by use (see the datapath); 0 when not made yet. */
  contexts = new Float64Array(16 * 4)
  /** The keys, kept for contexts to be made. */
  readonly keys: (SessionKeys | undefined)[] = []
  readonly #windows: (Uint32Array | undefined)[] = []
  readonly #free: number[] = []
  #used = 0
  #installed = 0
  readonly #random: () => number

  /** `random` gives 32 random bits. */
  constructor(random: () => number) {
    this.#random = random
  }

  /** Reserves a slot and returns the index that names it. */
  newIndex(): number {
    // Oldest freed first, so that a stale index stays stale for long.
    const slot = this.#free.length > 64 ? this.#free.shift()! : this.#used++
    if (slot > SLOT_MASK) throw new RangeError('too many sessions')
    if (slot >= this.state.length) this.#grow()
    const index = ((this.#random() << SLOT_BITS) | slot) >>> 0
    this.state[slot] = RESERVED
    this.localIndex[slot] = index
    return index
  }

  /** The slot of a reserved or live index, or -1. */
  slotOf(index: number): number {
    const slot = index & SLOT_MASK
    return slot < this.#used && this.state[slot] !== FREE && this.localIndex[slot] === index >>> 0
      ? slot
      : NONE
  }

  /** The slot of a live session, or -1. */
  find(index: number): number {
    const slot = index & SLOT_MASK
    return slot < this.#used && this.state[slot] === LIVE && this.localIndex[slot] === index ? slot : NONE
  }

  install(keys: SessionKeys): number {
    const slot = this.slotOf(keys.localIndex)
    if (slot < 0) throw new RangeError('install of an index that newIndex did not give')
    this.state[slot] = LIVE
    this.remoteIndex[slot] = keys.remoteIndex
    this.peer[slot] = keys.peer
    this.sendCounter[slot] = 0
    this.highest[slot] = NONE
    this.order[slot] = ++this.#installed
    this.contexts.fill(0, slot * 4, slot * 4 + 4)
    this.keys[slot] = keys
    this.#windows[slot] = undefined
    return slot
  }

  /** Frees the slot; the caller has freed its contexts. */
  remove(slot: number): void {
    this.state[slot] = FREE
    this.peer[slot] = NONE
    this.contexts.fill(0, slot * 4, slot * 4 + 4)
    this.keys[slot] = undefined
    this.#windows[slot] = undefined
    this.#free.push(slot)
  }

  /** Whether a counter may still be accepted: neither seen nor older than the window. */
  mayReceive(slot: number, low: number, counter: number): boolean {
    const highest = this.highest[slot]!
    if (counter > highest) return true
    const window = this.#windows[slot]!
    if (highest - counter >= (window.length - 1) * 32) return false
    return (window[(low >>> 5) & (window.length - 1)]! & (1 << (low & 31))) === 0
  }

  /** Marks an authenticated counter as received; advances the window. */
  received(slot: number, low: number, counter: number): void {
    let window = this.#windows[slot]
    if (window === undefined) this.#windows[slot] = window = new Uint32Array(WINDOW_WORDS_LEAST)
    const highest = this.highest[slot]!
    if (counter > highest) {
      const size = window.length
      if (size < WINDOW_WORDS_MOST && counter >= size * 32) window = this.#growWindow(slot, counter)
      const mask = window.length - 1
      const before = highest < 0 ? -1 : Math.floor(highest / 32)
      const steps = Math.floor(counter / 32) - before
      if (steps > mask) window.fill(0)
      else for (let i = 1; i <= steps; i++) window[(before + i) & mask] = 0
      this.highest[slot] = counter
    }
    const word = (low >>> 5) & (window.length - 1)
    window[word] = window[word]! | (1 << (low & 31))
  }

  /** While every counter so far fits the old window, word i holds counters 32 i…: growing is a copy. */
  #growWindow(slot: number, counter: number): Uint32Array {
    const old = this.#windows[slot]!
    if (this.highest[slot]! >= old.length * 32) return old
    let size = old.length
    while (size < WINDOW_WORDS_MOST && counter >= size * 32) size *= 2
    const next = new Uint32Array(size)
    next.set(old)
    this.#windows[slot] = next
    return next
  }

  #grow(): void {
    const size = this.state.length * 2
    this.state = grown(this.state, size)
    this.localIndex = grown(this.localIndex, size)
    this.remoteIndex = grown(this.remoteIndex, size)
    this.peer = grown(this.peer, size, NONE)
    this.sendCounter = grown(this.sendCounter, size)
    this.highest = grown(this.highest, size, NONE)
    this.order = grown(this.order, size)
    this.epoch = grown(this.epoch, size)
    this.contexts = grown(this.contexts, size * 4)
  }
}
