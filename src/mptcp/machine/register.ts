/** Every connection and subflow, by what a packet names them with; and the limits. */
import { equal } from '../../core/bytes.ts'
import { Connection, type Host } from './connection.ts'
import { makeKey } from './keys.ts'
import type { Segment, Tuple } from './segment.ts'
import { Subflow } from './subflow.ts'
import { accessAt, type Passage, type Side } from './types.ts'

export interface FoundSubflow {
  readonly connection: Connection
  readonly subflow: Subflow
}

/**
 * What strangers have not shown to be connections takes one place in so many, what hosts behind this one have not as much again:
 * addresses of SYNs are easily forged.
 */
const OPENING_SHARE = 4
/** What peers open takes at most this share in all, shown or not: the rest is for what opens from this side. */
const SERVED_SHARE = 0.75

/** Bytes of an IPv6 address that name its network: a host has all addresses in there. An IPv4 address is shorter. */
const NETWORK = 8

export class Register {
  readonly #host: Host
  readonly #byLocal = new Map<string, Connection>()
  readonly #byWire = new Map<string, FoundSubflow>()
  readonly #byToken = new Map<number, Connection>()
  readonly #connections: (Connection | undefined)[] = []
  readonly #free: number[] = []
  readonly #perSource = new Map<string, number>()
  /** Connections that others open and whose third packet has not come, by our role. */
  readonly #opening = { client: new Set<Connection>(), server: new Set<Connection>() }
  /** Connections that peers opened. */
  #served = 0
  /** Of the newest connection. */
  #lastRemote: Uint8Array = new Uint8Array(0)

  constructor(host: Host) {
    this.#host = host
  }

  get all(): readonly Connection[] {
    return this.#connections.filter((each) => each !== undefined)
  }

  byId(id: number): Connection | undefined {
    return this.#connections[id]
  }

  byLocal(key: string): Connection | undefined {
    return this.#byLocal.get(key)
  }

  byWire(key: string): FoundSubflow | undefined {
    return this.#byWire.get(key)
  }

  byToken(token: number): Connection | undefined {
    return this.#byToken.get(token)
  }

  taken(key: string): boolean {
    return this.#byWire.has(key) || this.#byLocal.has(key)
  }

  add(connection: Connection, subflow: Subflow): void {
    for (const dead of connection.dropDead()) this.#forgetSubflow(dead)
    this.fit(connection, subflow)
    this.#byWire.set(subflow.key, { connection, subflow })
    const { tuple, key } = subflow
    this.#host.tell({ type: 'watch', on: true, side: sideOf(connection, subflow), tuple, key })
  }

  /** The connection may be older than the MTU of its access. True: packets have to be smaller now. */
  fit(connection: Connection, subflow: Subflow): boolean {
    const access = this.#host.accesses.find(({ name }) => name === subflow.access)
    return access !== undefined && connection.narrow(subflow, access.mtu)
  }

  /**
   * The first subflow stays: it has the addresses of the connection, and what comes late must not reach the local TCP. While both ends are
   * done those with a FIN of ours stay too: one that comes again there is acknowledged, where this host's kernel would reset it.
   */
  remove({ state }: Connection, subflow: Subflow): void {
    if (subflow.id > 0 && (state !== 'closing' || subflow.finSent < 0)) this.#forgetSubflow(subflow)
  }

  #forgetSubflow(subflow: Subflow): void {
    const { tuple, key } = subflow
    const found = this.#byWire.get(key)
    if (found?.subflow !== subflow) return
    this.#byWire.delete(key)
    this.#host.tell({ type: 'watch', on: false, side: sideOf(found.connection, subflow), tuple, key })
  }

  /** A connection that begins with this SYN; undefined when there is no room. `passage`: it is another host's. */
  create(
    role: 'client' | 'server',
    segment: Segment,
    now: number,
    passage: Passage | undefined,
  ): Connection | undefined {
    const { init, counts, sha, random } = this.#host
    const forwarded = passage !== undefined
    const source = sourceOf(role, forwarded, segment.tuple)
    const ofSource = this.#perSource.get(source) ?? 0
    const isStranger = source !== ''
    const waiting = isStranger && this.#opening[role].size >= Math.ceil(init.connections / OPENING_SHARE)
    const full =
      this.#byLocal.size >= init.connections ||
      waiting ||
      (role === 'server' && this.#served >= Math.ceil(init.connections * SERVED_SHARE)) ||
      (isStranger && ofSource >= (role === 'server' ? init.perSource : init.perHost))
    if (full || this.#byLocal.has(segment.key)) {
      counts.refused++
      return undefined
    }
    const id = this.#free.pop() ?? this.#connections.length
    const localKey = makeKey(sha, random, (token) => this.#byToken.has(token))
    const { key } = segment
    const tuple = this.#shared(segment.tuple)
    const tcpIsn = role === 'client' ? segment.seq : 0
    const inside = role === 'client' ? passage?.from : passage?.to
    const host = this.#host
    const connection = new Connection({
      id,
      host,
      tuple,
      key,
      role,
      localKey,
      tcpIsn,
      forwarded,
      inside,
      now,
    })
    this.#insert(connection)
    if (isStranger) this.#opening[role].add(connection)
    this.#addFirst(connection, now, passage)
    return connection
  }

  /** The same, with addresses that others have too: connections are many, and those to one peer often begin together. */
  #shared({ local, localPort, remote, remotePort }: Tuple): Tuple {
    if (!equal(this.#lastRemote, remote)) this.#lastRemote = remote
    for (const { addresses } of this.#host.accesses)
      for (const each of addresses)
        if (equal(each, local)) return { local: each, localPort, remote: this.#lastRemote, remotePort }
    return { local, localPort, remote: this.#lastRemote, remotePort }
  }

  #insert(connection: Connection): void {
    const { id, key, tuple, localKey, role, forwarded } = connection
    this.#connections[id] = connection
    this.#byLocal.set(key, connection)
    this.#byToken.set(localKey.token, connection)
    const source = sourceOf(role, forwarded, tuple)
    if (source !== '') this.#perSource.set(source, (this.#perSource.get(source) ?? 0) + 1)
    if (role === 'server') this.#served++
    this.#host.tell({ type: 'watch', on: true, side: 'local', tuple, key })
  }

  /** Adds one of an earlier process, with its subflows: in the order of ids, before any other. False when it clashes with another. */
  restore(connection: Connection): boolean {
    const { id, key, localKey, subflows } = connection
    const living = subflows.filter((each) => each.id === 0 || each.state !== 'dead')
    const clash =
      id >= this.#host.init.connections ||
      id < this.#connections.length ||
      this.#byLocal.has(key) ||
      this.#byToken.has(localKey.token) ||
      living.some((each) => this.#byWire.has(each.key))
    if (clash) return false
    while (this.#connections.length < id) this.#free.push(this.#connections.push(undefined) - 1)
    this.#insert(connection)
    for (const subflow of living) this.add(connection, subflow)
    return true
  }

  #addFirst(connection: Connection, now: number, passage: Passage | undefined): void {
    const { tuple, key, tcpIsn, role } = connection
    const way = role === 'client' ? passage?.to : passage?.from
    const { accesses } = this.#host
    const access =
      passage === undefined ? accessAt(accesses, tuple.local) : accesses.find(({ name }) => name === way)
    const subflow = new Subflow({
      id: connection.nextSubflowId(),
      tuple,
      key,
      addressId: 0,
      access: access?.name,
      state: 'syn-sent',
      localIsn: tcpIsn,
      backup: false,
      now,
    })
    // Of a host behind this one the address may be translated to that of the access.
    if (passage !== undefined)
      subflow.home =
        role === 'client' ? access?.addresses.find(({ length }) => length === tuple.local.length) : undefined
    connection.subflows = [subflow]
    this.add(connection, subflow)
  }

  /** Its peer has shown that it is there. */
  opened(connection: Connection): void {
    this.#opening[connection.role].delete(connection)
  }

  /** False when it was forgotten before. */
  forget(connection: Connection): boolean {
    const { id, key, tuple, localKey, role, forwarded, subflows } = connection
    if (this.#connections[id] !== connection) return false
    this.opened(connection)
    if (role === 'server') this.#served--
    this.#connections[id] = undefined
    this.#free.push(id)
    this.#byLocal.delete(key)
    this.#byToken.delete(localKey.token)
    const source = sourceOf(role, forwarded, tuple)
    if (source !== '') {
      const left = (this.#perSource.get(source) ?? 1) - 1
      if (left === 0) this.#perSource.delete(source)
      else this.#perSource.set(source, left)
    }
    this.#host.tell({ type: 'watch', on: false, side: 'local', tuple, key })
    for (const subflow of subflows) this.#forgetSubflow(subflow)
    return true
  }
}

/** Until data have gone another way, the first subflow counts as the local TCP does. */
function sideOf({ forwarded }: Connection, { id }: Subflow): Side {
  return id === 0 && !forwarded ? 'same' : 'wire'
}

/** Whom a connection is counted for: the peer or the host behind that opened it, IPv6 hosts by their network; '' for this host. */
function sourceOf(role: 'client' | 'server', forwarded: boolean, { local, remote }: Tuple): string {
  if (role === 'client' && !forwarded) return ''
  const address = role === 'client' ? local : remote
  return address.subarray(0, NETWORK).join('.')
}
