/** Slots of connections in the memory that the programs and user space share (layout.ts), and the tuples that lead to them. */
import type { Connection } from '../machine/connection.ts'
import type { FastNumbers, FastSlot } from '../machine/fast.ts'
import { type Tuple, tupleKey } from '../machine/segment.ts'
import type { Run } from '../tables.ts'
import {
  ARMED_AT,
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
  readonly #free: { readonly slot: number; readonly since: number }[] = []
  readonly #armed = new Set<string>()

  constructor(memory: SlotMemory) {
    this.#memory = memory
    for (let slot = 0; slot < SLOTS; slot++) this.#free.push({ slot, since: Number.NEGATIVE_INFINITY })
  }

  /** What a killed process left of a connection in its maps; the programs take nothing of it any more. */
  left(old: Pick<SlotMemory, 'tuples' | 'view'>, tuple: Tuple): ReturnType<FastSlot['end']> | undefined {
    const value = old.tuples.get(keyOf(tuple))
    if (value === undefined) return undefined
    const view = new DataView(value.buffer, value.byteOffset)
    if (view.getUint32(ARMED_AT, true) === 1) this.#armed.add(tupleKey(tuple))
    const slot = view.getUint32(SLOT_AT, true)
    if (slot >= SLOTS || old.view.getUint32(slot * SLOT + USER.mode, true) !== 1) return undefined
    return new Slot(this.#memory, old.view, slot * SLOT, () => {}).end()
  }

  /** Before the socket is established, so that it asks about its options. */
  watch(tuple: Tuple, on: boolean): void {
    const { tuples } = this.#memory
    const name = tupleKey(tuple)
    if (on) tuples.put(keyOf(tuple), elementOf(NO_SLOT, this.#armed.has(name)))
    else {
      this.#armed.delete(name)
      tuples.remove(keyOf(tuple))
    }
  }

  /** Undefined while its socket does not ask, or every slot is taken. */
  begin(connection: Connection): FastSlot | undefined {
    const { tuples, view, now } = this.#memory
    const key = keyOf(connection.tuple)
    const value = tuples.get(key)
    if (value === undefined || new DataView(value.buffer, value.byteOffset).getUint32(ARMED_AT, true) !== 1)
      return undefined
    const free = this.#free[0]
    if (free === undefined || now() - free.since < REST) return undefined
    this.#free.shift()
    const at = free.slot * SLOT
    fill(view, at, connection, (time) => this.#kernelTime(time))
    const slot = new Slot(this.#memory, view, at, () => {
      // Its packets find nothing any more: the slot will be another connection's.
      tuples.put(key, elementOf(NO_SLOT, true))
      this.#free.push({ slot: free.slot, since: now() })
    })
    slot.advance(connection.sndMax, connection.rcvMax, [])
    view.setUint32(at + USER.mode, 1, true)
    tuples.put(key, elementOf(free.slot, true))
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

function elementOf(slot: number, armed: boolean): Uint8Array {
  const value = new Uint8Array(TUPLE_VALUE)
  const view = new DataView(value.buffer)
  view.setUint32(SLOT_AT, slot, true)
  view.setUint32(ARMED_AT, armed ? 1 : 0, true)
  return value
}

function fill(view: DataView, at: number, connection: Connection, time: (ms: number) => bigint): void {
  const { first, localKey, remoteKey, localSyn, remoteSyn } = connection
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
  u64(OUT.asked, time(first!.askedAt))
  u64(IN.heard, time(first!.heardAt))
  u64(IN.dataUna, connection.dataUna)
  u64(IN.una, first!.una)
  u32(IN.window, connection.remoteWindow / 2 ** first!.remoteScale)
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
    for (const { ssn, length } of sent) {
      const at = this.#at + RING_AT + 8 * (tail & (RING - 1))
      view.setUint32(at, ssn >>> 0, true)
      view.setUint32(at + 4, length, true)
      tail = (tail + 1) >>> 0
    }
    view.setUint32(this.#at + USER.ringTail, tail, true)
    view.setBigUint64(this.#at + USER.rcvMax, BigInt(rcvMax), true)
    view.setBigUint64(this.#at + USER.sndMax, BigInt(sndMax), true)
  }

  end(): ReturnType<FastSlot['end']> {
    this.#view.setUint32(this.#at + USER.mode, 0, true)
    this.#memory.settle(() => this.#u64(OUT.busy) === 0 && this.#u64(IN.busy) === 0)
    const numbers = this.read()
    const sent = numbers.sends ? this.#sent(numbers) : []
    this.#ended()
    return { numbers, sent }
  }

  /** From the newest back to what is acknowledged. */
  #sent({ sndMax, dataUna }: FastNumbers): Run[] {
    const sent: Run[] = []
    const tail = this.#u32(OUT.ringTail)
    let end = sndMax
    for (let i = 1; i <= RING && end > dataUna; i++) {
      const at = RING_AT + 8 * ((tail - i) & (RING - 1))
      const length = this.#u32(at + 4)
      const begin = end - length
      if (length === 0 || begin < 1 || begin >>> 0 !== this.#u32(at)) break
      sent.push({ ssn: begin, dsn: begin, length })
      end = begin
    }
    return sent.reverse()
  }
}
