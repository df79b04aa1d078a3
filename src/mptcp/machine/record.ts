/**
 * What a daemon that was killed leaves of its connections, for the next one: one record a connection, in memory that outlives the
 * process. A record is written after each packet and before what the packet causes is sent, so that nothing is on the wire that
 * it does not know.
 *
 *   memory    0 records that were ever used · 64 records · the second subflow of each, the third, …
 *   record    0 which half is valid: 0 none, 1, 2 · 16 half · 216 half · 416 first subflow · (2048)
 *   subflow   0 half · 224 half · 448 ring of mappings (1600)
 *   mapping   0 its subflow offset, lower 32 bits · 4 its data offset, lower 32 bits · 8 length
 *
 * Halves take turns: a kill in the middle of writing leaves the other one. Payload is in none: of a segment that would have to be sent
 * again (`kicked`) it is only kept which bytes it has.
 */
import type { Block, Run } from '../tables.ts'
import { KEY_LENGTH } from '../wire.ts'
import type { Connection, ConnectionState } from './connection.ts'
import { Cursor } from './cursor.ts'
import type { SynOptions, Tuple } from './segment.ts'
import type { Subflow, SubflowState } from './subflow.ts'

/** Records, and subflows in each; further ones are not kept. */
const SLOTS = 16_384
const PLACES = 10
const RECORDS_AT = 64
const RECORD = 2048
const HEAD_AT = 16
const HEAD = 200
const FIRST_AT = HEAD_AT + 2 * HEAD
const SUBFLOW = 224
const RING_AT = 2 * SUBFLOW
const MAPPING = 12
/** Newest mappings of a subflow that are kept. */
const RING = 96
const PLACE = RING_AT + RING * MAPPING
/** Announced mappings that are kept. They continue one another, but for some while data go over two subflows. */
const RECEIVED = 3
const ADDRESS = 16
const NONE = 0xffff_ffff
const WORD = 4294967296
/** No honest offset is larger. */
const LARGEST = 2 ** 50
const REMOVED = 4

/** Before, a connection is still plain TCP to both ends, and needs nobody; after, it is over. */
const CONNECTION_STATES: readonly ConnectionState[] = ['pre-established', 'established', 'closing']

const SUBFLOW_STATES: readonly SubflowState[] = [
  'syn-sent',
  'syn-received',
  'joined',
  'active',
  'closing',
  'dead',
]
const ACTIVE = 3

/** A connection as it was left. */
export interface KeptConnection {
  readonly id: number
  readonly role: 'client' | 'server'
  readonly state: ConnectionState
  readonly forwarded: boolean
  readonly inside: string | undefined
  readonly confirmed: boolean
  readonly answered: boolean
  readonly noJoin: boolean
  readonly tuple: Tuple
  readonly localKey: Uint8Array
  readonly remoteKey: Uint8Array
  readonly tcpIsn: number
  readonly peerIsn: number
  readonly localSyn: SynOptions
  readonly remoteSyn: SynOptions
  readonly segmentSize: number
  readonly sndMax: number
  readonly dataUna: number
  readonly tan: number
  readonly rcvMax: number
  readonly window: number
  readonly remoteWindow: number
  readonly finLocal: number
  readonly finRemote: number
  /** What the local TCP was told has arrived, and its process would have sent again. */
  readonly forgotten: Block | undefined
  readonly nextSubflow: number
  readonly nextAddress: number
  readonly active: number | undefined
  /** Address ids that the peer has to hear are gone. */
  readonly removed: readonly number[]
  readonly subflows: readonly KeptSubflow[]
}

export interface KeptSubflow {
  readonly id: number
  readonly state: SubflowState
  readonly tuple: Tuple
  readonly addressId: number
  readonly remoteAddressId: number
  readonly access: string | undefined
  readonly home: Uint8Array | undefined
  readonly localIsn: number
  readonly remoteIsn: number
  readonly remoteScale: number
  readonly sackPermitted: boolean
  readonly backup: boolean
  readonly remoteBackup: boolean
  readonly localNonce: number
  readonly remoteNonce: number
  readonly next: number
  readonly una: number
  readonly high: number
  readonly acked: number
  readonly finSent: number
  readonly finReceived: number
  readonly send: readonly Run[]
  /** Mappings since the subflow began. */
  readonly appended: number
  /** `send` has every mapping that the peer has not acknowledged. */
  readonly whole: boolean
  readonly recv: readonly Run[]
}

export interface RecordMemory {
  readonly view: DataView
  readonly bytes: Uint8Array
  /** Makes sure of memory for these bytes, which may not be touched before; false when there is none. */
  readonly room: (at: number, length: number) => boolean
}

/** Where connections are written so that they outlive the process: before anything that they sent last is sent. */
export interface Keeper {
  save(connection: Connection): void
  forget(connection: number): void
}

export class Records implements Keeper {
  static readonly RECORDS_AT = RECORDS_AT
  readonly #slots: number
  readonly #io: Cursor
  readonly #room: RecordMemory['room']
  /** Places of each record that are sure to have memory. */
  readonly #places: Uint8Array

  /** Memory of `byteLength(slots)`, the part before the records already there. Only what is used is touched. */
  constructor({ view, bytes, room }: RecordMemory, slots = SLOTS) {
    this.#slots = slots
    this.#places = new Uint8Array(slots)
    this.#io = new Cursor(view, bytes)
    this.#room = room
  }

  static byteLength(slots = SLOTS): number {
    return RECORDS_AT + slots * (RECORD + (PLACES - 1) * PLACE)
  }

  #placeAt(id: number, place: number): number {
    if (place === 0) return recordAt(id) + FIRST_AT
    // Those of neighbours side by side: memory comes in pages, and most connections have two subflows.
    return RECORDS_AT + this.#slots * RECORD + ((place - 1) * this.#slots + id) * PLACE
  }

  /** Costs a few hundred nanoseconds for a connection with two subflows. */
  save(connection: Connection): void {
    const { id, subflows, state } = connection
    const count = Math.min(subflows.length, PLACES)
    if (id >= this.#slots || !CONNECTION_STATES.includes(state)) return
    if (!this.#hasRoom(id, count)) {
      // What was written before is not so any more.
      this.forget(id)
      connection.recorded.fill(-1)
      return
    }
    const io = this.#io
    const at = recordAt(id)
    const half = io.view.getUint32(at, true) === 1 ? 1 : 0
    for (let i = 0; i < count; i++) writeSubflow(io, this.#placeAt(id, i), half, subflows[i]!)
    writeConnection(io, at, half, connection, count)
    io.view.setUint32(at, half + 1, true)
  }

  #hasRoom(id: number, count: number): boolean {
    const have = this.#places[id]!
    if (have >= count) return true
    for (let i = have; i < count; i++)
      if (!(i === 0 ? this.#room(recordAt(id), RECORD) : this.#room(this.#placeAt(id, i), PLACE)))
        return false
    if (have === 0) this.#io.view.setUint32(0, Math.max(this.#used, id + 1), true)
    this.#places[id] = count
    return true
  }

  get #used(): number {
    return Math.min(this.#slots, this.#io.view.getUint32(0, true))
  }

  forget(id: number): void {
    if (!this.#places[id]) return
    const at = recordAt(id)
    this.#io.view.setUint32(at, 0, true)
    // The keys go too.
    this.#io.clear(at + HEAD_AT, 2 * HEAD)
  }

  /** Everything that an earlier process left, in the order of ids. What makes no sense is left out; `refused` counts it. */
  load(): { readonly kept: readonly KeptConnection[]; readonly refused: number } {
    const io = this.#io
    const kept: KeptConnection[] = []
    let refused = 0
    for (let id = 0; id < this.#used; id++) {
      if (!this.#hasRoom(id, 1)) continue
      const half = io.view.getUint32(recordAt(id), true)
      if (half === 0) continue
      const found = half > 2 ? undefined : this.#read(id, half - 1)
      if (found === undefined) {
        refused++
        this.forget(id)
      } else kept.push(found)
    }
    return { kept, refused }
  }

  #read(id: number, half: number): KeptConnection | undefined {
    const head = readConnection(this.#io, recordAt(id) + HEAD_AT + half * HEAD, id)
    if (head === undefined || head.count < 1 || head.count > PLACES) return undefined
    const { connection, count } = head
    if (!this.#hasRoom(id, count)) return undefined
    const subflows: KeptSubflow[] = []
    for (let i = 0; i < count; i++) {
      const subflow = readSubflow(this.#io, this.#placeAt(id, i), half, connection)
      if (subflow === undefined || subflows.some((each) => each.id === subflow.id)) return undefined
      subflows.push(subflow)
    }
    if (subflows[0]!.id !== 0 || subflows.some((each) => each.id >= connection.nextSubflow)) return undefined
    return { ...connection, subflows }
  }
}

function recordAt(id: number): number {
  return RECORDS_AT + id * RECORD
}

// One half of a connection. What does not change any more in a state is written once.

function writeConnection(io: Cursor, at: number, half: number, connection: Connection, count: number): void {
  const { tuple, localSyn, remoteSyn, localKey, remoteKey, active, repeat } = connection
  const state = CONNECTION_STATES.indexOf(connection.state)
  const settled = connection.recorded[half] === state
  connection.recorded[half] = state
  io.at = at + HEAD_AT + half * HEAD
  io.u8(state + 1)
  io.u8(count)
  io.u8(
    (connection.role === 'server' ? 1 : 0) |
      (connection.forwarded ? 2 : 0) |
      (connection.confirmed ? 4 : 0) |
      (connection.answered ? 8 : 0) |
      (connection.noJoin ? 16 : 0) |
      (tuple.local.length === 4 ? 0 : 32),
  )
  io.u8(connection.nextAddress)
  io.u32(connection.nextSubflow)
  io.u32(active === undefined ? NONE : active.id)
  io.u16(connection.window)
  io.number(connection.remoteWindow)
  io.number(connection.sndMax)
  io.number(connection.dataUna)
  io.number(connection.tan)
  io.number(connection.rcvMax)
  io.number(connection.finLocal)
  io.number(connection.finRemote)
  const { kicked, forgotten } = connection
  io.number(kicked?.dsn ?? forgotten?.left ?? -1)
  io.u16(kicked?.length ?? (forgotten === undefined ? 0 : forgotten.right - forgotten.left))
  const removed = repeat.find((each) => each.type === 'remove-addr')
  const ids = removed?.type === 'remove-addr' ? removed.ids : []
  io.u8(Math.min(REMOVED, ids.length))
  for (let i = 0; i < REMOVED; i++) io.u8(ids[i] ?? 0)
  if (settled) return
  io.bytes(localKey.bytes, KEY_LENGTH)
  io.bytes(remoteKey?.bytes, KEY_LENGTH)
  io.text(connection.inside)
  writeTuple(io, tuple)
  io.u32(connection.tcpIsn)
  io.u32(connection.peerIsn)
  for (const { mss, scale, sackPermitted } of [localSyn, remoteSyn]) {
    io.u16(mss)
    io.u8(scale + 1)
    io.u8(sackPermitted ? 1 : 0)
  }
  io.u16(connection.segmentSize)
}

function readConnection(
  io: Cursor,
  at: number,
  id: number,
): { readonly connection: Omit<KeptConnection, 'subflows'>; readonly count: number } | undefined {
  io.at = at
  const state = CONNECTION_STATES[io.getU8() - 1]
  const count = io.getU8()
  const flags = io.getU8()
  const nextAddress = io.getU8()
  const nextSubflow = io.getU32()
  const active = io.getU32()
  const window = io.getU16()
  const [remoteWindow, sndMax, dataUna, tan, rcvMax] = [
    io.getNumber(),
    io.getNumber(),
    io.getNumber(),
    io.getNumber(),
    io.getNumber(),
  ]
  const finLocal = io.getNumber()
  const finRemote = io.getNumber()
  const left = io.getNumber()
  const right = left + io.getU16()
  const removedCount = io.getU8()
  const removed = [io.getU8(), io.getU8(), io.getU8(), io.getU8()].slice(0, removedCount)
  const localKey = io.getBytes(KEY_LENGTH, KEY_LENGTH)
  const remoteKey = io.getBytes(KEY_LENGTH, KEY_LENGTH)
  const inside = io.getText()
  const tuple = readTuple(io, (flags & 32) === 0 ? 4 : ADDRESS)
  const tcpIsn = io.getU32()
  const peerIsn = io.getU32()
  const syns = [0, 1].map(() => ({
    mss: io.getU16(),
    scale: io.getU8() - 1,
    sackPermitted: io.getU8() === 1,
  }))
  const segmentSize = io.getU16()
  const sane =
    state !== undefined &&
    flags < 64 &&
    [sndMax, dataUna, tan, rcvMax].every((each) => isOffset(each) && each >= 1) &&
    isOffset(remoteWindow) &&
    isMark(finLocal) &&
    isMark(finRemote) &&
    isMark(left) &&
    dataUna <= Math.max(sndMax, finLocal + 1) &&
    tan <= rcvMax + 1 &&
    inside !== null &&
    tuple.localPort > 0 &&
    tuple.remotePort > 0 &&
    syns.every(({ scale }) => scale <= 14) &&
    segmentSize > 0 &&
    removedCount <= REMOVED &&
    nextAddress > 0
  if (!sane) return undefined
  return {
    count,
    connection: {
      ...{ id, state, inside, tuple, tcpIsn, peerIsn, segmentSize, nextSubflow, nextAddress, removed },
      ...{ localKey, remoteKey, window, remoteWindow, sndMax, dataUna, tan, rcvMax, finLocal, finRemote },
      forgotten: left < 0 ? undefined : { left, right },
      role: (flags & 1) === 0 ? 'client' : 'server',
      forwarded: (flags & 2) !== 0,
      confirmed: (flags & 4) !== 0,
      answered: (flags & 8) !== 0,
      noJoin: (flags & 16) !== 0,
      localSyn: syns[0]!,
      remoteSyn: syns[1]!,
      active: active === NONE ? undefined : active,
    },
  }
}

// One half of a subflow; its number plus one comes first, 0 is nobody's.

function writeSubflow(io: Cursor, place: number, half: number, subflow: Subflow): void {
  const state = SUBFLOW_STATES.indexOf(subflow.state)
  writeMappings(io, place, subflow)
  const at = place + half * SUBFLOW
  const settled = subflow.recorded.halves[half] === at
  if (state >= ACTIVE) subflow.recorded.halves[half] = at
  const { tuple, home, recv } = subflow
  io.at = at
  io.u32(subflow.id + 1)
  io.u8(state)
  io.u8(
    (subflow.sackPermitted ? 1 : 0) |
      (subflow.backup ? 2 : 0) |
      (subflow.remoteBackup ? 4 : 0) |
      (home === undefined ? 0 : 8),
  )
  io.u8(subflow.addressId)
  io.u8(subflow.remoteAddressId)
  io.number(subflow.send.appended)
  io.number(subflow.next)
  io.number(subflow.una)
  io.number(subflow.high)
  io.number(subflow.acked)
  io.number(subflow.finSent)
  io.number(subflow.finReceived)
  const { runs } = recv
  const count = Math.min(RECEIVED, runs.length)
  io.u8(count)
  for (let i = 0; i < RECEIVED; i++) {
    const run = runs[runs.length - count + i]
    if (run === undefined || i >= count) {
      io.at += 24
      continue
    }
    io.number(run.ssn)
    io.number(run.dsn)
    io.number(run.length)
  }
  if (settled) return
  writeTuple(io, tuple)
  io.text(subflow.access)
  io.bytes(home, ADDRESS)
  io.u32(subflow.localIsn)
  io.u32(subflow.remoteIsn)
  io.u32(subflow.localNonce)
  io.u32(subflow.remoteNonce)
  io.u8(subflow.remoteScale)
}

function readSubflow(
  io: Cursor,
  place: number,
  half: number,
  { sndMax, tuple: { local } }: Pick<KeptConnection, 'sndMax' | 'tuple'>,
): KeptSubflow | undefined {
  const size = local.length
  io.at = place + half * SUBFLOW
  const id = io.getU32() - 1
  const state = SUBFLOW_STATES[io.getU8()]
  const flags = io.getU8()
  const addressId = io.getU8()
  const remoteAddressId = io.getU8()
  const appended = io.getNumber()
  const [next, una, high, acked] = [io.getNumber(), io.getNumber(), io.getNumber(), io.getNumber()]
  const finSent = io.getNumber()
  const finReceived = io.getNumber()
  const count = io.getU8()
  const recv = [0, 1, 2].map(() => ({ ssn: io.getNumber(), dsn: io.getNumber(), length: io.getNumber() }))
  const tuple = readTuple(io, size)
  const access = io.getText()
  const home = io.getBytes(ADDRESS, size)
  const [localIsn, remoteIsn, localNonce, remoteNonce] = [io.getU32(), io.getU32(), io.getU32(), io.getU32()]
  const remoteScale = io.getU8()
  const known = recv.slice(0, count)
  const sane =
    id >= 0 &&
    state !== undefined &&
    flags < 16 &&
    [appended, next, una, high, acked].every(isOffset) &&
    isMark(finSent) &&
    isMark(finReceived) &&
    una <= next &&
    acked <= high + 1 &&
    count <= RECEIVED &&
    known.every(
      (run) => isOffset(run.dsn) && [run.ssn, run.length].every((each) => isOffset(each) && each >= 1),
    ) &&
    access !== null &&
    tuple.localPort > 0 &&
    tuple.remotePort > 0 &&
    remoteScale <= 14
  if (!sane) return undefined
  const send = readMappings(io, place + RING_AT, {
    appended,
    una,
    end: finSent >= 0 ? finSent : next,
    sndMax,
  })
  return {
    ...{ id, state, tuple, addressId, remoteAddressId, access, localIsn, remoteIsn, remoteScale },
    ...{ localNonce, remoteNonce, next, una, high, acked, finSent, finReceived, recv: known },
    home: (flags & 8) === 0 ? undefined : home,
    sackPermitted: (flags & 1) !== 0,
    backup: (flags & 2) !== 0,
    remoteBackup: (flags & 4) !== 0,
    appended,
    ...send,
  }
}

// The ring of a subflow's newest mappings.

function writeMappings({ view }: Cursor, place: number, { send, recorded }: Subflow): void {
  const { runs, appended } = send
  const ring = place + RING_AT
  if (recorded.ring !== ring) recorded.mappings = 0
  const oldest = appended - Math.min(RING, runs.length)
  for (let i = Math.max(recorded.mappings, oldest); i < appended; i++) {
    const run = runs[runs.length - (appended - i)]!
    const at = ring + (i % RING) * MAPPING
    view.setUint32(at, run.ssn % WORD, true)
    view.setUint32(at + 4, run.dsn % WORD, true)
    view.setUint32(at + 8, run.length, true)
  }
  recorded.ring = ring
  recorded.mappings = appended
}

/** From the newest back, as far as each begins where the next one says: others have been written over. */
function readMappings(
  { view }: Cursor,
  ring: number,
  {
    appended,
    una,
    end,
    sndMax,
  }: { readonly appended: number; readonly una: number; readonly end: number; readonly sndMax: number },
): { readonly send: readonly Run[]; readonly whole: boolean } {
  const send: Run[] = []
  let ssn = end
  for (let i = appended - 1; i >= Math.max(0, appended - RING) && ssn > una; i--) {
    const at = ring + (i % RING) * MAPPING
    const length = view.getUint32(at + 8, true)
    const begin = ssn - length
    if (length === 0 || length > 0xffff || begin < 1 || view.getUint32(at, true) !== begin % WORD) break
    const dsn = sndMax - (((sndMax % WORD) - view.getUint32(at + 4, true)) >>> 0)
    if (dsn < 1 || dsn + length > sndMax) break
    send.unshift({ ssn: begin, dsn, length })
    ssn = begin
  }
  return { send, whole: ssn <= una }
}

function writeTuple(io: Cursor, { local, remote, localPort, remotePort }: Tuple): void {
  io.bytes(local, ADDRESS)
  io.bytes(remote, ADDRESS)
  io.u16(localPort)
  io.u16(remotePort)
}

function readTuple(io: Cursor, size: number): Tuple {
  const local = io.getBytes(ADDRESS, size)
  const remote = io.getBytes(ADDRESS, size)
  return { local, remote, localPort: io.getU16(), remotePort: io.getU16() }
}

function isOffset(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= LARGEST
}

/** An offset, or -1 for none. */
function isMark(value: number): boolean {
  return value === -1 || (isOffset(value) && value >= 1)
}
