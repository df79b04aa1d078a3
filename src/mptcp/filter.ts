/**
 * The rules that hand packets to the proxy (nf_tables, one table a family, named by the ledger).
 *
 *   output, before connection tracking: what the proxy sends itself passes · packets of translated connections are queued and
 *       wait for a daemon that restarts · SYNs without MPTCP and answers to SYNs are queued, and pass when there is no daemon
 *       of those that have a DSS already, and pass, some get a mark, which routes them by an access
 *   input: the same, by the addresses of subflows; SYNs with MPTCP are queued
 *   forward, on a router: both, and every SYN
 *
 * SYNs that come from elsewhere are queued up to a rate; those beyond pass (ADR 0452).
 * Only SYNs of plain connections are ever seen, so that these run at the kernel's speed and outlive the daemon.
 *
 * `nft flush ruleset` of a firewall that starts anew passes by a table with an owner (ADR 0381). Where the kernel has none it removes all, and `restore` puts
 * it back with every connection.
 */
import { EBUSY, EINVAL, ENOENT, EOPNOTSUPP } from '../core/errno.ts'
import { Protocol } from '../core/ip.ts'
import { TCP, TcpFlag } from '../core/tcp.ts'
import type { Ledger } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import {
  CompareOp,
  concatType,
  encodeElement,
  MetaKey,
  NfBatch,
  type NfExpressions,
  NfFamily,
  NfHook,
  NfType,
  OWNED_TABLE,
  PayloadBase,
  register32,
} from '../linux/nf_tables.ts'
import type { NfSocket } from '../linux/nf-socket.ts'
import { SEEN } from './kernel/layout.ts'
import { type Tuple, tupleKey } from './machine/segment.ts'
import type { Side } from './machine/types.ts'
import { MPTCP_KIND } from './wire.ts'

/** Before connection tracking (-200): it sees what is on the wire. */
const BEFORE_TRACKING = -310
const FAMILIES = [
  { family: NfFamily.IPV4, size: 4, source: 12, type: NfType.ipv4_addr },
  { family: NfFamily.IPV6, size: 16, source: 8, type: NfType.ipv6_addr },
] as const
const SIDES = ['local', 'wire', 'same'] as const
/** Its elements are those of `local` whose packets leave by an access of their own, with its mark. */
const SENT = 'sent'
/** What a kernel may not have: tables with an owner (Linux 6.9), limits, and the expression that queues; all have the target of iptables. */
interface Way {
  readonly owned: boolean
  readonly limited: boolean
  readonly target: boolean
}
const WAYS: readonly Way[] = [true, false].flatMap((owned) =>
  [true, false].flatMap((limited) => [false, true].map((target) => ({ owned, limited, target }))),
)
/**
 * SYNs of others a second that are queued, after as many at once: each costs the packet thread 20 to 100 µs, and transfers wait for that.
 * Connections beyond stay plain.
 */
export const SYNS_PER_SECOND = 1000
const UNKNOWN: readonly number[] = [EINVAL, ENOENT, EOPNOTSUPP]
type Family = (typeof FAMILIES)[number]
const { SYN, ACK, RST, FIN } = TcpFlag

/** Packets that are handed over; `key`: of the tuple. */
export interface Watched {
  readonly side: Side
  readonly tuple: Tuple
  readonly key: string
}

export class Filter {
  readonly #sockets: Pick<NfSocket, 'commit' | 'hasTable'>
  readonly #table: string
  readonly #queue: number
  readonly #headers: number
  readonly #mark: number
  /** What the sets hold, tuples and keys being those that connections have; while `#forward` is undefined there are no tables. */
  readonly #watched: Readonly<Record<Side, Map<string, Tuple>>> = {
    local: new Map(),
    wire: new Map(),
    same: new Map(),
  }
  readonly #sent = new Map<string, { readonly tuple: Tuple; readonly mark: number }>()
  #forward: boolean | undefined

  constructor(sockets: Pick<NfSocket, 'commit' | 'hasTable'>, ledger: Ledger) {
    this.#sockets = sockets
    this.#table = ledger.mptcp.table
    this.#queue = ledger.mptcp.queue
    this.#headers = ledger.mptcp.headers
    this.#mark = ledger.mptcp.mark
  }

  /**
   * Makes the tables, with connections that were taken over. They replace those of a killed daemon at once: a packet in between
   * would reach the peer untranslated. `forward`: for hosts behind this one too.
   */
  install(forward: boolean, watched: readonly Watched[] = []): void {
    this.#forward = forward
    this.#clear()
    for (const { side, key, tuple } of watched) this.#watched[side].set(key, tuple)
    for (const family of FAMILIES) this.#install(family, forward)
  }

  /** Puts back the tables that another program removed; false: none was missing. */
  restore(): boolean {
    const forward = this.#forward
    if (forward === undefined) return false
    const missing = FAMILIES.filter(({ family }) => !this.#sockets.hasTable(family, this.#table))
    for (const family of missing) this.#install(family, forward)
    return missing.length > 0
  }

  #install(family: Family, forward: boolean): void {
    for (let i = 0; ; i++)
      try {
        this.#replace(family, WAYS[i]!, forward)
        return
      } catch (error) {
        const isUnknown = error instanceof KernelError && UNKNOWN.includes(error.errno)
        if (!isUnknown || i === WAYS.length - 1) throw error
      }
  }

  #clear(): void {
    for (const side of SIDES) this.#watched[side].clear()
    this.#sent.clear()
  }

  #replace(family: Family, way: Way, forward: boolean): void {
    const { family: number, size } = family
    const { owned } = way
    const batch = new NfBatch()
    if (owned) batch.destroyTable(number, this.#table).table(number, this.#table, OWNED_TABLE)
    // Made first: deleting what is not there would fail.
    else batch.table(number, this.#table).deleteTable(number, this.#table).table(number, this.#table)
    this.#rules(batch, family, way, forward)
    for (const set of SIDES) {
      const mine = [...this.#watched[set].values()].filter(({ local }) => local.length === size)
      const elements = mine.map((tuple) => encodeElement(keyOf(set, tuple)))
      if (elements.length > 0) batch.elements(number, this.#table, set, elements, 2 * size + 8)
    }
    const sent = [...this.#sent.values()].filter(({ tuple }) => tuple.local.length === size)
    const elements = sent.map(({ tuple, mark }) => encodeElement(keyOf('local', tuple), hostWord(mark)))
    if (elements.length > 0) batch.elements(number, this.#table, SENT, elements, 2 * size + 8)
    this.#sockets.commit(batch, 'set up the rules of MPTCP')
  }

  remove(): void {
    this.#forward = undefined
    this.#clear()
    for (const family of FAMILIES) this.#remove(family)
  }

  #remove({ family }: Family): void {
    try {
      this.#sockets.commit(new NfBatch().deleteTable(family, this.#table), 'remove the rules of MPTCP')
    } catch (error) {
      if (!(error instanceof KernelError) || error.errno !== ENOENT) throw error
    }
  }

  /** A subflow that was `same` is so no longer: its packets are handed over whole. */
  differs(tuple: Tuple): void {
    const key = tupleKey(tuple)
    this.#element({ side: 'wire', tuple, key }, true)
    this.#element({ side: 'same', tuple, key }, false)
  }

  /** Hands packets of a tuple over, or no longer. */
  watch(watched: Watched, on: boolean): void {
    // It may differ meanwhile.
    if (watched.side === 'same' && !on) this.#element({ ...watched, side: 'wire' }, false)
    if (watched.side === 'local' && !on) this.send(watched.tuple, undefined)
    this.#element(watched, on)
  }

  /** What the local TCP sends of a tuple and has a DSS gets a mark, which routes it; or no longer. */
  send(tuple: Tuple, mark: number | undefined): void {
    const key = keyOf('local', tuple)
    const name = String.fromCharCode(...key)
    const known = this.#sent.get(name)?.mark
    if (known === mark) return
    const { family } = FAMILIES[tuple.local.length === 4 ? 0 : 1]
    const batch = new NfBatch()
    if (known !== undefined) batch.elements(family, this.#table, SENT, [encodeElement(key)], key.length, true)
    if (mark === undefined) this.#sent.delete(name)
    else {
      this.#sent.set(name, { tuple, mark })
      batch.elements(family, this.#table, SENT, [encodeElement(key, hostWord(mark))], key.length)
    }
    this.#commit(
      batch,
      `${mark === undefined ? 'forget' : 'set'} the access of a connection`,
      mark !== undefined,
    )
  }

  #element({ side, tuple, key: name }: Watched, on: boolean): void {
    // The kernel refuses to delete what is not there only after all its readers have passed (synchronize_rcu): tens of milliseconds.
    if (on) this.#watched[side].set(name, tuple)
    else if (!this.#watched[side].delete(name)) return
    const family = FAMILIES[tuple.local.length === 4 ? 0 : 1]
    const key = keyOf(side, tuple)
    const batch = new NfBatch()
    batch.elements(family.family, this.#table, side, [encodeElement(key)], key.length, !on)
    this.#commit(batch, `${on ? 'watch' : 'forget'} a connection`, on)
  }

  #commit(batch: NfBatch, what: string, on: boolean): void {
    try {
      this.#sockets.commit(batch, what)
    } catch (error) {
      if (!(error instanceof KernelError) || (error.errno !== ENOENT && (on || error.errno !== EBUSY)))
        throw error
      // The table is gone with its sets: they come back with this element.
      if (on && !this.restore()) throw error
    }
  }

  #rules(batch: NfBatch, family: Family, { target, limited }: Way, forward: boolean): void {
    const { family: number, size, type } = family
    const table = this.#table
    for (const name of SIDES)
      batch.map(number, table, {
        name,
        keyType: concatType(type, type, NfType.inet_service, NfType.inet_service),
        keyLength: 2 * size + 8,
      })
    batch.map(number, table, {
      name: SENT,
      keyType: concatType(type, type, NfType.inet_service, NfType.inet_service),
      keyLength: 2 * size + 8,
      dataType: NfType.mark,
      dataLength: 4,
    })
    const queue =
      (bypass: boolean, to = this.#queue) =>
      (e: NfExpressions) =>
        e.queue(to, { bypass, target })
    for (const [name, hook, device, set] of [
      ['output', NfHook.OUTPUT, MetaKey.OIFNAME, 'local'],
      ['input', NfHook.INPUT, MetaKey.IIFNAME, 'wire'],
    ] as const) {
      // A chain of type `route` looks for the route again when it has changed the mark.
      const chain = name === 'output' ? 'route' : 'filter'
      batch.chain(number, table, name, { type: chain, hook, priority: BEFORE_TRACKING })
      const rule = (build: (e: NfExpressions) => void) => batch.rule(number, table, name, build)
      rule((e) => {
        e.meta(device, register32(0))
        e.compare(register32(0), CompareOp.EQ, interfaceName('lo'))
        e.accept()
      })
      // What the proxy sends to a host behind this one: tracked it would be a connection of its own, whose ports are another's.
      if (forward && name === 'output')
        rule((e) => {
          ofProxy(e, this.#mark)
          tupleIn(e, family, 'wire')
          e.notrack()
          e.accept()
        })
      rule((e) => {
        ofProxy(e, this.#mark)
        e.accept()
      })
      // What the programs in the kernel have done is done.
      if (name === 'output')
        rule((e) => {
          flags(e, 0, SYN | RST | FIN)
          option(e, true)
          tupleIn(e, family, SENT, register32(0))
          e.setMeta(MetaKey.MARK, register32(0))
          e.accept()
        })
      rule((e) => {
        if (name === 'input') {
          e.meta(MetaKey.PRIORITY, register32(0))
          e.compare(register32(0), CompareOp.EQ, hostWord(SEEN))
        } else {
          flags(e, 0, SYN | RST | FIN)
          option(e, true)
          tupleIn(e, family, 'local')
        }
        e.accept()
      })
      if (name === 'input')
        rule((e) => {
          tupleIn(e, family, 'same')
          queue(false, this.#headers)(e)
        })
      rule((e) => {
        tupleIn(e, family, set)
        queue(false)(e)
      })
      if (name === 'input' && limited)
        rule((e) => {
          flags(e, SYN)
          option(e, true)
          e.over(SYNS_PER_SECOND, SYNS_PER_SECOND)
          e.accept()
        })
      rule((e) => {
        flags(e, SYN)
        option(e, name === 'input')
        queue(true)(e)
      })
    }
    if (!forward) return
    batch.chain(number, table, 'forward', {
      type: 'filter',
      hook: NfHook.FORWARD,
      priority: BEFORE_TRACKING,
    })
    for (const set of ['local', 'wire'])
      batch.rule(number, table, 'forward', (e) => {
        tupleIn(e, family, set)
        queue(false)(e)
      })
    if (limited)
      batch.rule(number, table, 'forward', (e) => {
        flags(e, SYN)
        e.over(SYNS_PER_SECOND, SYNS_PER_SECOND)
        e.accept()
      })
    batch.rule(number, table, 'forward', (e) => {
      flags(e, SYN)
      queue(true)(e)
    })
  }
}

/** What a set has of a tuple: as packets name it. */
function keyOf(side: Side, { local, localPort, remote, remotePort }: Tuple): Uint8Array {
  const size = local.length
  const key = new Uint8Array(2 * size + 8)
  const view = new DataView(key.buffer)
  key.set(side === 'local' ? local : remote)
  key.set(side === 'local' ? remote : local, size)
  view.setUint16(2 * size, side === 'local' ? localPort : remotePort)
  view.setUint16(2 * size + 4, side === 'local' ? remotePort : localPort)
  return key
}

function ofProxy(e: NfExpressions, mark: number): void {
  e.meta(MetaKey.MARK, register32(0))
  e.compare(register32(0), CompareOp.EQ, hostWord(mark))
}

/** Its addresses and ports are in a set, or a map, whose data a register gets. */
function tupleIn(e: NfExpressions, { source, size }: Family, set: string, data?: number): void {
  tcpOnly(e)
  e.loadPayload(PayloadBase.NETWORK, source, 2 * size, register32(0))
  const ports = (2 * size) / 4
  e.loadPayload(PayloadBase.TRANSPORT, TCP.SRC_PORT, 2, register32(ports))
  e.loadPayload(PayloadBase.TRANSPORT, TCP.DST_PORT, 2, register32(ports + 1))
  e.lookup(set, register32(0), data)
}

function tcpOnly(e: NfExpressions): void {
  e.meta(MetaKey.L4PROTO, register32(0))
  e.compare(register32(0), CompareOp.EQ, Uint8Array.of(Protocol.TCP))
}

/** Of SYN, ACK, RST and FIN, or of others, exactly these are set. */
function flags(e: NfExpressions, wanted: number, of = SYN | ACK | RST | FIN): void {
  tcpOnly(e)
  e.loadPayload(PayloadBase.TRANSPORT, TCP.FLAGS, 1, register32(0))
  e.bitwise(register32(0), Uint8Array.of(of), Uint8Array.of(0))
  e.compare(register32(0), CompareOp.EQ, Uint8Array.of(wanted))
}

function option(e: NfExpressions, present: boolean): void {
  e.tcpOption(MPTCP_KIND, register32(0))
  e.compare(register32(0), CompareOp.EQ, Uint8Array.of(present ? 1 : 0))
}

function interfaceName(name: string): Uint8Array {
  const bytes = new Uint8Array(16)
  for (let i = 0; i < name.length; i++) bytes[i] = name.charCodeAt(i)
  return bytes
}

function hostWord(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, true)
  return bytes
}
