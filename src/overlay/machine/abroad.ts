/**
 * Directions between nodes of two coordinators (NT-19, NT-40: Fig. 5 steps 3–8, 12–14; NT-43: Fig. 7 steps 13–16, 19, 25), of two zones
 * or of one (partners.ts). The coordinator of the node that asks (DC_MN) learns where the other is from that one's coordinator
 * (DC_CN), chooses the route, orders the relay, and directs its own node; DC_CN directs the other. Sans-I/O.
 *
 * What another coordinator says is not proven. It speaks for names of its zone alone, with leases that its zone has signed; what it
 * names is paid for as a node pays (LEAST_DIRECTION); its share of directions is bounded; and a node is reached from another
 * zone only where its access list says so.
 */
import { equal } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { hasEnded, type Location, type NodeRecord } from '../tables.ts'
import { checkLease, type Lease } from '../wire/lease.ts'
import {
  type Candidate,
  fitting,
  LEAST_DIRECTION,
  type Message,
  messageCodec,
  type Prekey,
  type RelaySide,
  Route,
  Status,
  Type,
  Want,
} from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import type { Directory } from './directory.ts'
import type { Leases, ZoneInit } from './leases.ts'
import { dc } from './names.ts'
import type { PartnerKeys, Partners } from './partners.ts'
import type { Sides } from './relays.ts'
import { chooseRoute } from './route.ts'

/** A peer as a direction names it. */
export interface Peer {
  readonly name: string
  readonly lease: Uint8Array
  readonly candidates: readonly Candidate[]
  /** Of its zone, if that is another. */
  readonly zoneKey?: Uint8Array
}

/** A node of another coordinator, as that one describes it. */
export interface Foreign {
  readonly name: string
  /** The coordinator, as its `Partners` name it, and which those are. */
  readonly partner: string
  readonly of: Partners
  readonly lease: Uint8Array
  readonly publicKey: Uint8Array
  readonly hosts: readonly Candidate[]
  readonly observed: Endpoint
  /** At most one, for packets behind message 1; it goes with the first direction. */
  readonly prekeys: Prekey[]
}

export interface AbroadParts extends MachineComponents {
  readonly init: ZoneInit
  readonly hasRelays: () => boolean
  readonly partners: Partners
  readonly directory: Directory
  readonly leases: Leases
  /** The node, if datagrams to its location still reach it. */
  readonly reachable: (name: string, now: number) => Location | undefined
  /** As `reachable`, of a node that may have to be woken first; says why not where that cannot be. */
  readonly reach: (
    name: string,
    by: string,
    then: (node: Location | undefined, now: number) => void,
    now: number,
  ) => Status
  /** DIRECTION_RESPONSE to MN, and the end of its request. */
  readonly refuse: (mn: string, cn: string, transaction: number, status: Status, now: number) => void
  /** MN's request has come to nothing that could be said. */
  readonly end: (mn: string, cn: string) => void
  readonly order: (mn: string, cn: Foreign, another: boolean, now: number) => void
  /** ROUTE_DIRECTION to a node of ours, repeated until acknowledged; `by` asked for it. */
  readonly tell: (
    to: string,
    peer: Peer,
    direction: {
      readonly route: Route
      readonly pairKey: Uint8Array
      readonly relays: readonly RelaySide[]
      readonly prekeys?: readonly Prekey[]
      readonly prekeyIndex?: number
    },
    by: string,
    done: ((status: Status, now: number) => void) | undefined,
    now: number,
  ) => void
  readonly pairKey: (secret: Uint8Array, a: KeyAndName, b: KeyAndName) => Uint8Array
  /** A key of our node's for packets behind message 1, which is now given out, once for each question. Absent: none is. */
  readonly lendPrekey?: (name: string, question: string, now: number) => Prekey | undefined
  /** The direction that names it is there. */
  readonly usePrekey?: (name: string, index: number) => void
  readonly step: (from: string, to: string, type: Type, now: number) => void
}

export type KeyAndName = Pick<NodeRecord, 'publicKey' | 'name'>

/** How long another coordinator has for an answer (ms); MN waits 10 s for all. */
const INFORMATION_MS = 4_000
const DIRECTION_MS = 6_000
/** Coordinators whose shares are remembered. */
const MAX_PARTNERS = 1024
/** Directions of other coordinators that are remembered, to answer a repetition as before. */
const MAX_REMEMBERED = 4096
/** Candidates told beside where a node was seen. */
const MAX_HOSTS = 14

interface Share {
  readonly bucket: TokenBucket
  underWay: number
}

type Reply = (message: Message) => void

export class Abroad {
  readonly #parts: AbroadParts
  readonly #shares = new Map<string, Share>()
  /** `PARTNER transaction MN CN`: undefined while under way, then what was answered. */
  readonly #asked = new Map<string, Status | undefined>()

  constructor(parts: AbroadParts) {
    this.#parts = parts
  }

  get partners(): Partners {
    return this.#parts.partners
  }

  // ---- as DC_MN

  /** MN asks for a node of this coordinator. `otherwise`: where that one does not have it, or does not answer. */
  seek(
    mn: string,
    partner: string,
    { name: cn, transaction, want }: Pick<Message, 'transaction' | 'want'> & { readonly name: string },
    now: number,
    otherwise?: (now: number) => void,
  ): void {
    const { partners, refuse } = this.#parts
    const other = partners.stepName(partner)
    const ask = padded({ type: Type.NTM_INFORMATION_REQUEST, name: cn, nodeName: mn })
    this.#step(this.#own, other, Type.NTM_INFORMATION_REQUEST, now)
    partners.request(
      partner,
      ask,
      { by: this.#accountOf(mn), ms: INFORMATION_MS },
      (answer, at) => {
        if (answer !== undefined) this.#step(other, this.#own, answer.type, at)
        const status = answer === undefined ? Status.UNREACHED : ((answer.status ?? Status.DONE) as Status)
        const foreign = answer && status === Status.DONE ? this.#foreignOf(partner, cn, answer) : undefined
        const isElsewhere = status === Status.NOT_REGISTERED || status === Status.UNREACHED
        if (foreign !== undefined) this.#choose(mn, foreign, want, at)
        else if (isElsewhere && otherwise !== undefined) otherwise(at)
        else refuse(mn, cn, transaction, status === Status.DONE ? Status.LEASE_REFUSED : status, at)
      },
      now,
    )
  }

  /** The relays are there, the preferred one last, or there is none: both nodes are told. */
  direct(
    mn: string,
    foreign: Foreign,
    routes: { readonly mn: Route; readonly cn: Route },
    all: readonly Sides[],
    now: number,
  ): void {
    const { directory, leases, partners, reachable, tell, end, pairKey } = this.#parts
    const { partner } = foreign
    const other = partners.stepName(partner)
    const location = reachable(mn, now)
    const record = directory.nodeByName(mn)
    const keys = partners.keysOf(partner)
    if (location === undefined || record === undefined || keys === undefined) {
      end(mn, foreign.name)
      return
    }
    partners.pin(partner)
    const prekey = foreign.prekeys.shift()
    const message = padded({
      type: Type.ROUTE_DIRECTION,
      ...(prekey !== undefined && { prekeyIndex: prekey.index }),
      ...{ name: mn, nodeName: foreign.name, route: routes.cn },
      lease: leases.leaseOf(record, undefined),
      candidates: candidatesOf(location),
      // Coordinators of before take the first only.
      relays: all.map((sides) => sides[1]).reverse(),
    })
    this.#step(this.#own, other, Type.ROUTE_DIRECTION, now)
    partners.request(
      partner,
      message,
      { by: record.account, ms: DIRECTION_MS },
      (answer, at) => {
        if (answer !== undefined) this.#step(other, this.#own, answer.type, at)
      },
      now,
    )
    const { name, lease } = foreign
    const peer = { name, lease, candidates: candidatesOf(foreign), ...tellsKey(keys) }
    const relays = all.map((sides) => sides[0])
    tell(
      mn,
      peer,
      {
        ...{ route: routes.mn, pairKey: pairKey(keys.secret, record, foreign), relays },
        ...(prekey !== undefined && { prekeys: [prekey] }),
      },
      mn,
      undefined,
      now,
    )
  }

  #accountOf(node: string): string {
    return this.#parts.directory.nodeByName(node)?.account ?? node
  }

  #choose(mn: string, foreign: Foreign, want: number | undefined, now: number): void {
    const { reachable, end, hasRelays, order } = this.#parts
    const location = reachable(mn, now)
    if (location === undefined) {
      end(mn, foreign.name)
      return
    }
    const another = want === Want.ANOTHER_CHANNEL
    const choice = chooseRoute(location, foreign, another || want === Want.RELAY)
    if (choice.relay && hasRelays()) order(mn, foreign, another, now)
    else {
      const routes = choice.relay ? { mn: Route.CHECK, cn: Route.CHECK } : choice
      this.direct(mn, foreign, routes, [], now)
    }
  }

  #foreignOf(
    partner: string,
    name: string,
    { lease: bytes, candidates = [], observed, prekeys = [] }: Message,
  ): Foreign | undefined {
    const lease = bytes && this.#leaseOf(partner, name, bytes)
    if (bytes === undefined || lease === undefined || observed === undefined) return undefined
    const hosts = candidates.filter(({ kind }) => kind === 'host')
    const { partners: of, lendPrekey } = this.#parts
    // Coordinators that lend keys take them.
    const taken = lendPrekey === undefined ? [] : prekeys.slice(0, 1)
    return { name, partner, of, lease: bytes, publicKey: lease.publicKey, hosts, observed, prekeys: taken }
  }

  /** The lease, if the zone of this name has signed it for it, with an address that is of this zone or, another's, is not of ours. */
  #leaseOf(partner: string, name: string, bytes: Uint8Array): Lease | undefined {
    const { partners, crypto, wall, init } = this.#parts
    const keys = partners.keysOf(partner)
    if (keys === undefined) return undefined
    const lease = checkLease(bytes, keys.zone, wall(), (publicKey, text, signature) =>
      crypto.verify(publicKey, text, signature),
    )
    if (!lease.ok || lease.value.name !== name) return undefined
    return equal(lease.value.v6.slice(0, 8), init.prefix6) === keys.isOwn ? lease.value : undefined
  }

  // ---- as DC_CN

  /** What another coordinator asks. */
  handle(partner: string, message: Message, reply: Reply, now: number): void {
    if (message.type === Type.NTM_INFORMATION_REQUEST) this.#inform(partner, message, reply, now)
    else if (message.type === Type.ROUTE_DIRECTION) this.#directOwn(partner, message, reply, now)
  }

  #inform(partner: string, { name, nodeName, transaction }: Message, reply: Reply, now: number): void {
    const type = Type.NTM_INFORMATION_RESPONSE
    const status = this.#mayAsk(partner, nodeName, name)
    if (status === undefined) return
    const record = name === undefined ? undefined : this.#parts.directory.nodeByName(name)
    if (status !== Status.DONE || record === undefined) {
      reply({ type, transaction, status: status === Status.DONE ? Status.NOT_REGISTERED : status })
      return
    }
    const then = (location: Location | undefined, at: number) => {
      if (location === undefined) {
        reply({ type, transaction, status: Status.NOT_REGISTERED })
        return
      }
      const prekey = this.#parts.lendPrekey?.(record.name, `${partner} ${transaction}`, at)
      reply({
        ...{ type, transaction, status, observed: location.observed },
        lease: this.#parts.leases.leaseOf(record, undefined),
        candidates: location.hosts.slice(0, MAX_HOSTS),
        ...(prekey !== undefined && { prekeys: [prekey] }),
      })
    }
    const reached = this.#parts.reach(record.name, this.#parts.partners.askerOf(partner, nodeName), then, now)
    if (reached !== Status.DONE) reply({ type, transaction, status: reached })
  }

  #directOwn(partner: string, message: Message, reply: Reply, now: number): void {
    const { partners, directory, reachable, tell, pairKey } = this.#parts
    const { name: mn, nodeName: cn, transaction } = message
    const key = `${partner} ${transaction} ${mn} ${cn}`
    const answer = (status: Status) => reply({ type: Type.ROUTE_DIRECTION_ACK, transaction, status })
    if (this.#asked.has(key)) {
      const before = this.#asked.get(key)
      if (before !== undefined) answer(before)
      return
    }
    const route = Object.values(Route).find((each) => each === message.route)
    const status = this.#mayAsk(partner, mn, cn)
    if (status === undefined) return
    if (status !== Status.DONE || mn === undefined || cn === undefined || route === undefined) {
      answer(status === Status.DONE ? Status.NOT_ALLOWED : status)
      return
    }
    const lease = message.lease && this.#leaseOf(partner, mn, message.lease)
    const record = directory.nodeByName(cn)
    const keys = partners.keysOf(partner)
    if (message.lease === undefined || lease === undefined || keys === undefined) {
      answer(Status.LEASE_REFUSED)
      return
    }
    if (record === undefined || reachable(cn, now) === undefined) {
      answer(Status.NOT_REGISTERED)
      return
    }
    const share = this.#shareOf(partner)
    if (share.underWay >= partners.most.underWay || !share.bucket.take(now)) {
      answer(Status.TOO_MANY)
      return
    }
    partners.pin(partner)
    share.underWay++
    this.#remember(key, undefined)
    const peer = { name: mn, lease: message.lease, candidates: message.candidates ?? [], ...tellsKey(keys) }
    const direction = {
      route,
      pairKey: pairKey(keys.secret, record, { name: mn, publicKey: lease.publicKey }),
      relays: [...(message.relays ?? [])].reverse(),
      ...this.#lent(cn, message.prekeyIndex),
    }
    const done = (status: Status) => {
      share.underWay--
      this.#remember(key, status)
      answer(status)
    }
    tell(cn, peer, direction, partners.askerOf(partner, mn), done, now)
  }

  #lent(cn: string, index: number | undefined): { readonly prekeyIndex?: number } {
    const { usePrekey } = this.#parts
    if (index === undefined || usePrekey === undefined) return {}
    usePrekey(cn, index)
    return { prekeyIndex: index }
  }

  /** Undefined: it is not answered, and asked again. */
  #mayAsk(partner: string, mn: string | undefined, cn: string | undefined): Status | undefined {
    if (mn === undefined || cn === undefined) return Status.NOT_ALLOWED
    const { directory, partners, wall } = this.#parts
    const status = partners.mayAsk(partner, mn, cn)
    if (status !== Status.DONE) return status
    const record = directory.nodeByName(cn)
    return record === undefined || hasEnded(record, wall()) ? Status.NOT_REGISTERED : Status.DONE
  }

  #shareOf(partner: string): Share {
    const known = this.#shares.get(partner)
    if (known !== undefined) return known
    for (const [name, { underWay }] of this.#shares) {
      if (this.#shares.size < MAX_PARTNERS) break
      if (underWay === 0) this.#shares.delete(name)
    }
    const { rate, burst } = this.#parts.partners.most
    const share = { bucket: new TokenBucket(rate, burst), underWay: 0 }
    this.#shares.set(partner, share)
    return share
  }

  #remember(key: string, status: Status | undefined): void {
    this.#asked.delete(key)
    this.#asked.set(key, status)
    if (this.#asked.size > MAX_REMEMBERED) this.#asked.delete(this.#asked.keys().next().value!)
  }

  get #own(): string {
    return dc(this.#parts.init.zone)
  }

  #step(from: string, to: string, type: Type, now: number): void {
    this.#parts.step(from, to, type, now)
  }
}

/** Nodes know the key of their own zone. */
function tellsKey({ isOwn, zone }: PartnerKeys): { readonly zoneKey?: Uint8Array } {
  return isOwn ? {} : { zoneKey: zone }
}

/** Addresses of its interfaces, and where it was seen. */
export function candidatesOf({ hosts, observed }: Pick<Location, 'hosts' | 'observed'>): Candidate[] {
  return [...hosts.slice(0, MAX_HOSTS), { kind: 'reflexive', endpoint: observed }]
}

/** As long as what names addresses has to be at least. */
function padded(whole: Omit<Message, 'transaction'>): Omit<Message, 'transaction'> {
  const message = fitting({ ...whole, transaction: 0 }, 'first')
  const length = messageCodec.byteLength(message)
  return length >= LEAST_DIRECTION ? message : { ...message, padding: LEAST_DIRECTION - length }
}
