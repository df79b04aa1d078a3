/**
 * The rows of the socket table as the kernel has them: connections by sock_diag, those of before the daemon started
 * included (DI-5), and the peers of unconnected UDP sockets by the datagrams that the watch has seen (DI-9a).
 */
import { kindOf } from '../../core/address.ts'
import { ownSockets, tcpCounts } from '../../linux/proc.ts'
import type { SocketInfo, SocketState, SocketTable } from '../../linux/sockdiag.ts'
import { bytesOf, flowId, type Ip, ipOf } from '../tables.ts'
import type { Seen } from './maps.ts'

/** A flow that was found, before it has a HID. */
export interface FoundFlow {
  readonly id: string
  readonly protocol: 6 | 17
  readonly local: Ip
  readonly localPort: number
  readonly foreign: Ip
  readonly foreignPort: number
  readonly inode: number
  readonly retransmits: number
  /** Not answered yet. */
  readonly opening?: boolean
  /** For `destroy` and for the name of the application. */
  readonly socket: SocketInfo | undefined
}

const MOST_REMEMBERED = 10_000
/** Looks after which connections are listed again although the kernel counted nothing: those that were over are gone. */
const MOST_KEPT = 20
/** What a socket is bound to that is bound to no address. */
const ANY: readonly Ip[] = ['0.0.0.0', '::']
/** What was made of a socket of this process. */
const OURS = 'ours'

const CONNECTED: readonly SocketState[] = [
  'established',
  'syn-sent',
  'fin-wait-1',
  'fin-wait-2',
  'time-wait',
  'close-wait',
  'last-ack',
  'closing',
]

/** The flows with other hosts as they were at the last look. */
export class FlowTable {
  readonly #sockets: SocketTable
  readonly #seen: () => readonly Seen[]
  readonly #port: number
  readonly #held: () => ReadonlySet<number>
  readonly #counts: () => string | undefined
  #counted: string | undefined
  /** Looks at which the counts were the same as before. */
  #unchanged = 0
  #flows = new Map<string, FoundFlow>()
  #pairs: ReadonlySet<string> = new Set()
  /** What was made of a socket; the same object stands for the same socket (`SocketTable.sockets`). */
  readonly #made = new WeakMap<SocketInfo, FoundFlow | typeof OURS>()
  /** Exchanges of datagrams by this process's own sockets, as long as they are seen. */
  #ours: ReadonlySet<string> = new Set()
  readonly #texts = new Map<string, Ip>()
  readonly #foreign = new Map<Ip, boolean>()

  /**
   * `seen`: who has exchanged datagrams with whom. `port`: of IHMP itself, whose flows are none. `held`: inodes of this
   * process's sockets, which are none either: a tunnel whose outer packets were translated would see its paths cross.
   * `counts`: as `tcpCounts`.
   */
  constructor(
    sockets: SocketTable,
    seen: () => readonly Seen[],
    port: number,
    held: () => ReadonlySet<number> = ownSockets,
    counts: () => string | undefined = tcpCounts,
  ) {
    this.#sockets = sockets
    this.#seen = seen
    this.#port = port
    this.#held = held
    this.#counts = counts
  }

  get(id: string): FoundFlow | undefined {
    return this.#flows.get(id)
  }

  all(): IterableIterator<FoundFlow> {
    return this.#flows.values()
  }

  delete(id: string): void {
    this.#flows.delete(id)
  }

  /** Anybody may ask by a HELLO, as often as he likes. */
  has(local: Ip, foreign: Ip): boolean {
    return this.#pairs.has(`${local} ${foreign}`)
  }

  /**
   * Looks again; returns the flows that are gone. `own` are this host's addresses and identifiers. About 2 µs for a socket
   * that was there before. Connections are listed only if the kernel counted some change: it walks through a table of hundreds
   * of thousands of places for that, 2 ms for each family.
   */
  update(own: ReadonlySet<Ip>): FoundFlow[] {
    const found = new Map<string, FoundFlow>()
    const held = once(this.#held)
    const heldEnds = once(() => this.#endsOf(held()))
    const ours = new Set<string>()
    const kept = this.#connectionsStay()
    if (kept)
      for (const flow of this.#flows.values())
        if (flow.protocol === 6 && !own.has(flow.foreign)) found.set(flow.id, flow)
    for (const protocol of kept ? ([17] as const) : ([6, 17] as const))
      for (const socket of this.#sockets.sockets({
        protocols: [protocol],
        states: protocol === 6 ? CONNECTED : ['established'],
      })) {
        const flow = this.#flowOf(socket, protocol, held)
        if (flow !== undefined && !own.has(flow.foreign)) found.set(flow.id, flow)
      }
    for (const each of this.#seen()) {
      if (each.localPort === this.#port || each.foreignPort === this.#port) continue
      if (own.has(each.foreign) || !own.has(each.local) || !this.#canBeForeign(each.foreign)) continue
      const id = flowId(17, each.local, each.localPort, each.foreign, each.foreignPort)
      if (found.has(id)) continue
      const before = this.#flows.get(id)
      if (this.#ours.has(id) || (before === undefined && isOneOf(heldEnds(), each))) {
        ours.add(id)
        continue
      }
      found.set(
        id,
        before?.inode === 0
          ? before
          : { ...each, id, protocol: 17, inode: 0, retransmits: 0, socket: undefined },
      )
    }
    const gone: FoundFlow[] = []
    for (const flow of this.#flows.values()) if (!found.has(flow.id)) gone.push(flow)
    this.#flows = found
    this.#ours = ours
    const pairs = new Set<string>()
    for (const { local, foreign } of found.values()) pairs.add(`${local} ${foreign}`)
    this.#pairs = pairs
    return gone
  }

  /** Whether the connections are those of the last look, and none repeats itself. */
  #connectionsStay(): boolean {
    const counts = this.#counts()
    this.#unchanged = counts !== undefined && counts === this.#counted ? this.#unchanged + 1 : 0
    this.#counted = counts
    // A connection is counted a moment before it is listed.
    if (this.#unchanged < 2 || this.#unchanged % MOST_KEPT === 0) return false
    for (const { retransmits } of this.#flows.values()) if (retransmits > 0) return false
    return true
  }

  /** Where this process's UDP sockets that are not connected are bound: their exchanges show no inode. */
  #endsOf(held: ReadonlySet<number>): Set<string> {
    const sockets = this.#sockets.sockets({ protocols: [17], states: ['close'] })
    const own = sockets.filter(({ inode }) => held.has(inode))
    return new Set(own.map(({ localAddress, localPort }) => endOf(this.#text(localAddress), localPort)))
  }

  /** Undefined for one that is not connected to another host, or is this process's own. */
  #flowOf(socket: SocketInfo, protocol: 6 | 17, held: () => ReadonlySet<number>): FoundFlow | undefined {
    const known = this.#made.get(socket)
    if (known !== undefined) return known === OURS ? undefined : known
    if (socket.remotePort === 0) return undefined
    const local = this.#text(socket.localAddress)
    const foreign = this.#text(socket.remoteAddress)
    if (!this.#canBeForeign(foreign) || !this.#canBeForeign(local)) return undefined
    if (socket.inode !== 0 && held().has(socket.inode)) {
      this.#made.set(socket, OURS)
      return undefined
    }
    const flow: FoundFlow = {
      id: flowId(protocol, local, socket.localPort, foreign, socket.remotePort),
      protocol,
      local,
      localPort: socket.localPort,
      foreign,
      foreignPort: socket.remotePort,
      inode: socket.inode,
      retransmits: socket.retransmits,
      opening: socket.state === 'syn-sent',
      socket,
    }
    this.#made.set(socket, flow)
    return flow
  }

  #text(address: Uint8Array): Ip {
    const key = String.fromCharCode(...address)
    let ip = this.#texts.get(key)
    if (ip === undefined) {
      if (this.#texts.size > MOST_REMEMBERED) this.#texts.clear()
      ip = ipOf(address)
      this.#texts.set(key, ip)
    }
    return ip
  }

  /** Whether it can be another host's address. Worked out once for each: there are far fewer than flows. */
  #canBeForeign(ip: Ip): boolean {
    let answer = this.#foreign.get(ip)
    if (answer === undefined) {
      const kind = kindOf(bytesOf(ip))
      answer = !['unspecified', 'loopback', 'multicast', 'broadcast', 'reserved'].includes(kind)
      if (ip.startsWith('fe80')) answer = false // its zone is not in the tables
      if (this.#foreign.size > MOST_REMEMBERED) this.#foreign.clear()
      this.#foreign.set(ip, answer)
    }
    return answer
  }
}

function endOf(address: Ip, port: number): string {
  return `${address} ${port}`
}

/** Bound to this address, or to all. */
function isOneOf(
  ends: ReadonlySet<string>,
  { local, localPort }: Pick<Seen, 'local' | 'localPort'>,
): boolean {
  return [local, ...ANY].some((address) => ends.has(endOf(address, localPort)))
}

/** Works a value out when it is first asked for. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}
