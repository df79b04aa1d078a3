/** Slots of connections in the memory that the programs and user space share (layout.ts), and the tuples that lead to them. */
import type { Connection } from '../machine/connection.ts'
import type { FastLeft, FastNumbers, FastSlot, FastWay } from '../machine/fast-slot.ts'
import { type Tuple, tupleKey } from '../machine/segment.ts'
import { sequenceAt } from '../machine/sequence.ts'
import type { Run } from '../tables.ts'
import {
  Differs,
  FLAGS_AT,
  Flag,
  IN,
  NO_SLOT,
  OUT,
  RING,
  RING_AT,
  SLOT,
  SLOT_AT,
  SLOTS,
  TUPLE,
  TUPLE_VALUE,
  USER,
} from './layout.ts'

/** A slot is not given to another connection for so long (ms): a run of a program that found it before has ended then. */
const REST = 1000
/** More mappings under way than this when it begins leave too little room for those to come. */
export const MAPPINGS = RING / 2

/** A hash map of the programs: TUPLE bytes lead to TUPLE_VALUE. */
export interface TupleMap {
  get(key: Uint8Array): Uint8Array | undefined
  put(key: Uint8Array, value: Uint8Array): void
  remove(key: Uint8Array): void
}

export interface SlotMemory {
  readonly tuples: TupleMap
  readonly view: DataView
  /** Monotonic milliseconds, and how much more they are than the programs' clock. */
  readonly now: () => number
  readonly clock: number
  /** Waits until runs of the programs that began before have ended, as `done` says. */
  readonly settle: (done: () => boolean) => void
}

export class SlotTable {
  readonly #memory: SlotMemory
  /** `tuple`: leads there for packets that are on their way out still. */
  readonly #free: { readonly slot: number; readonly since: number; readonly tuple?: Tuple }[] = []
  readonly #armed = new Set<string>()

  constructor(memory: SlotMemory) {
    this.#memory = memory
    for (let slot = 0; slot < SLOTS; slot++) this.#free.push({ slot, since: Number.NEGATIVE_INFINITY })
  }

  /** What a killed process left of a connection in its maps; the programs take nothing of it any more. */
  left(old: Pick<SlotMemory, 'tuples' | 'view'>, tuple: Tuple): FastLeft | undefined {
    const found = elementAt(old.tuples, tuple)
    if (found === undefined) return undefined
    const { slot } = found
    if (found.armed) this.#armed.add(tupleKey(tuple))
    if (slot >= SLOTS || old.view.getUint32(slot * SLOT + USER.mode, true) !== 1) return undefined
    return new Slot(this.#memory, old.view, slot * SLOT, () => {}).end()
  }

  /** Before the socket is established, so that it asks about its options. */
  watch(tuple: Tuple, on: boolean): void {
    const { tuples } = this.#memory
    const name = tupleKey(tuple)
    if (on) tuples.put(keyOf(tuple), elementOf(NO_SLOT, this.#armed.has(name) ? Flag.ARMED : 0))
    else {
      this.#armed.delete(name)
      tuples.remove(keyOf(tuple))
    }
  }

  /** Whether its socket asks about its options, and a slot is free. */
  hasRoom(tuple: Tuple): boolean {
    const [free] = this.#free
    const { tuples, now } = this.#memory
    return free !== undefined && now() - free.since >= REST && elementAt(tuples, tuple)?.armed === true
  }

  /** Undefined while it has no room. */
  begin(connection: Connection, way: FastWay): FastSlot | undefined {
    const { tuples, view, now } = this.#memory
    const { tuple } = connection
    const key = keyOf(tuple)
    const free = this.hasRoom(tuple) ? this.#free.shift() : undefined
    if (free === undefined) return undefined
    if (free.tuple !== undefined && elementAt(tuples, free.tuple)?.slot === free.slot)
      tuples.put(keyOf(free.tuple), elementOf(NO_SLOT, Flag.ARMED))
    const at = free.slot * SLOT
    const differs = differsOf(connection, way)
    fill(view, at, connection, way, (time) => this.#kernelTime(time))
    view.setUint32(at + USER.differs, differs, true)
    const elsewhere = differs === Differs.ADDRESSES
    const slot = new Slot(this.#memory, view, at, () => {
      // Its packets find nothing any more: the slot will be another connection's.
      if (elsewhere) tuples.remove(keyOf(way.subflow.tuple))
      if (differs === Differs.NOTHING) tuples.put(key, elementOf(NO_SLOT, Flag.ARMED))
      this.#free.push({ slot: free.slot, since: now(), ...(differs !== Differs.NOTHING && { tuple }) })
    })
    slot.advance(connection.sndMax, connection.rcvMax, [])
    view.setUint32(at + USER.mode, 1, true)
    if (elsewhere) tuples.put(keyOf(way.subflow.tuple), elementOf(free.slot, 0))
    tuples.put(key, elementOf(free.slot, elsewhere ? Flag.ARMED | Flag.ELSEWHERE : Flag.ARMED))
    return slot
  }

  #kernelTime(time: number): bigint {
    const { clock } = this.#memory
    return Number.isFinite(time) ? BigInt(Math.max(0, Math.round((time - clock) * 1e6))) : 0n
  }
}

function keyOf({ local, localPort, remote, remotePort }: Tuple): Uint8Array {
  const key = new Uint8Array(TUPLE)
  for (const [at, address] of [
    [0, local],
    [16, remote],
  ] as const) {
    if (address.length === 4) key.set([0xff, 0xff], at + 10)
    key.set(address, at + 16 - address.length)
  }
  const view = new DataView(key.buffer)
  view.setUint16(32, localPort)
  view.setUint16(34, remotePort)
  return key
}

function elementOf(slot: number, flags: number): Uint8Array {
  const value = new Uint8Array(TUPLE_VALUE)
  const view = new DataView(value.buffer)
  view.setUint32(SLOT_AT, slot, true)
  view.setUint32(FLAGS_AT, flags, true)
  return value
}

function elementAt(
  tuples: TupleMap,
  tuple: Tuple,
): { readonly slot: number; readonly armed: boolean } | undefined {
  const value = tuples.get(keyOf(tuple))
  if (value === undefined) return undefined
  const view = new DataView(value.buffer, value.byteOffset)
  return {
    slot: view.getUint32(SLOT_AT, true),
    armed: (view.getUint32(FLAGS_AT, true) & Flag.ARMED) !== 0,
  }
}

/** Of packets on the wire from those of the local TCP. */
export function differsOf(connection: Connection, way: FastWay): number {
  if (way.subflow.id !== 0) return Differs.ADDRESSES
  const { localIsn, remoteIsn } = way.subflow
  const same = localIsn === connection.tcpIsn && remoteIsn === connection.peerIsn
  return same && way.out === 0 && way.in === 0 ? Differs.NOTHING : Differs.NUMBERS
}

/** As struct bpf_sock_tuple names what arrives: source, destination, ports. */
function socketOf({ local, localPort, remote, remotePort }: Tuple): Uint8Array {
  const size = local.length
  const bytes = new Uint8Array(2 * size + 4)
  bytes.set(remote)
  bytes.set(local, size)
  const view = new DataView(bytes.buffer)
  view.setUint16(2 * size, remotePort)
  view.setUint16(2 * size + 2, localPort)
  return bytes
}

function fill(
  view: DataView,
  at: number,
  connection: Connection,
  way: FastWay,
  time: (ms: number) => bigint,
): void {
  const { localKey, remoteKey, localSyn, remoteSyn } = connection
  const { subflow } = way
  const u32 = (field: number, value: number) => view.setUint32(at + field, value, true)
  const u64 = (field: number, value: number | bigint) => view.setBigUint64(at + field, BigInt(value), true)
  const idsn = ({ idsnHigh, idsnLow }: { idsnHigh: number; idsnLow: number }) =>
    (BigInt(idsnHigh) << 32n) | BigInt(idsnLow)
  for (let i = 0; i < RING_AT; i += 4) u32(i, 0)
  // Places that nothing was written to yet are of data that are acknowledged.
  for (let i = 0; i < RING; i++) {
    u32(RING_AT + 8 * i, connection.dataUna >>> 0)
    u32(RING_AT + 8 * i + 4, 0)
  }
  u32(USER.tcpIsn, connection.tcpIsn)
  u32(USER.peerIsn, connection.peerIsn)
  u64(USER.localIdsn, idsn(localKey))
  u64(USER.remoteIdsn, idsn(remoteKey!))
  u32(USER.scale, remoteSyn.scale < 0 ? 0 : Math.max(0, localSyn.scale))
  u64(OUT.tan, connection.tan)
  u32(OUT.window, connection.window)
  u64(OUT.asked, time(subflow.askedAt))
  u64(IN.heard, time(subflow.heardAt))
  u64(IN.dataUna, connection.dataUna)
  u64(IN.una, subflow.una - way.out)
  u32(IN.window, connection.remoteWindow / 2 ** subflow.remoteScale)
  u32(USER.wireIsn, sequenceAt(subflow.localIsn, way.out))
  u32(USER.wirePeerIsn, sequenceAt(subflow.remoteIsn, way.in))
  u32(USER.ssnOut, way.out)
  u32(USER.ssnIn, way.in)
  const bytes = new Uint8Array(view.buffer, view.byteOffset + at, RING_AT)
  bytes.set(keyOf(subflow.tuple), USER.wire)
  const socket = socketOf(connection.tuple)
  bytes.set(socket, USER.socket)
  u32(USER.socketLength, socket.length)
}

class Slot implements FastSlot {
  readonly #view: DataView
  readonly #at: number
  readonly #memory: SlotMemory
  readonly #ended: () => void

  constructor(memory: SlotMemory, view: DataView, at: number, ended: () => void) {
    this.#memory = memory
    this.#view = view
    this.#at = at
    this.#ended = ended
  }

  #u32(field: number): number {
    return this.#view.getUint32(this.#at + field, true)
  }

  #u64(field: number): number {
    return Number(this.#view.getBigUint64(this.#at + field, true))
  }

  #time(field: number): number {
    const nanoseconds = this.#u64(field)
    return nanoseconds === 0 ? Number.NEGATIVE_INFINITY : nanoseconds / 1e6 + this.#memory.clock
  }

  read(): FastNumbers {
    return {
      sends: this.#u32(OUT.on) === 1,
      receives: this.#u32(IN.on) === 1,
      sndMax: this.#u64(OUT.sndMax),
      rcvMax: this.#u64(IN.rcvMax),
      tan: this.#u64(OUT.tan),
      dataUna: this.#u64(IN.dataUna),
      una: this.#u64(IN.una),
      window: this.#u32(OUT.window),
      remoteWindow: this.#u32(IN.window),
      srtt: this.#u32(OUT.srtt) / 8000,
      heardAt: this.#time(IN.heard),
      askedAt: this.#time(OUT.asked),
      expectedAt: this.#time(OUT.expected),
      dataAt: this.#time(IN.dataAt),
      burst: this.#u32(IN.burst),
    }
  }

  /** Each number after what it stands for is there. */
  advance(sndMax: number, rcvMax: number, sent: readonly Run[]): void {
    const view = this.#view
    let tail = this.#u32(USER.ringTail)
    for (const { dsn, length } of sent) {
      const at = this.#at + RING_AT + 8 * (tail & (RING - 1))
      view.setUint32(at, dsn >>> 0, true)
      view.setUint32(at + 4, length, true)
      tail = (tail + 1) >>> 0
    }
    view.setUint32(this.#at + USER.ringTail, tail, true)
    view.setBigUint64(this.#at + USER.rcvMax, BigInt(rcvMax), true)
    view.setBigUint64(this.#at + USER.sndMax, BigInt(sndMax), true)
  }

  end(): FastLeft {
    this.#view.setUint32(this.#at + USER.mode, 0, true)
    this.#memory.settle(() => this.#u64(OUT.busy) === 0 && this.#u64(IN.busy) === 0)
    const numbers = this.read()
    const sent = numbers.sends ? this.#sent(numbers) : []
    const localPort = this.#view.getUint16(this.#at + USER.wire + 32)
    const way = { localPort, out: this.#u32(USER.ssnOut), in: this.#u32(USER.ssnIn) }
    this.#ended()
    return { numbers, sent, way }
  }

  /** From the newest back to what is acknowledged. */
  #sent({ sndMax, dataUna }: FastNumbers): FastLeft['sent'] {
    const sent: { dsn: number; length: number }[] = []
    const tail = this.#u32(OUT.ringTail)
    let end = sndMax
    for (let i = 1; i <= RING && end > dataUna; i++) {
      const at = RING_AT + 8 * ((tail - i) & (RING - 1))
      const length = this.#u32(at + 4)
      const begin = end - length
      if (length === 0 || begin < 1 || begin >>> 0 !== this.#u32(at)) break
      sent.push({ dsn: begin, length })
      end = begin
    }
    return sent.reverse()
  }
}
