/**
 * A coordinator and a relay for tests of the node, as small as they can be: one zone, accounts from a list, everything in
 * memory. They speak docs/wire/overlay.md to the letter, and check what a node has to prove.
 */
import { generateKeyPairSync, sign as signBytes } from 'node:crypto'
import { concat, toHex } from '../../src/core/bytes.ts'
import type { Endpoint } from '../../src/core/endpoint.ts'
import { nodeCrypto, nodeRandom } from '../../src/crypto/node-crypto.ts'
import { kdf } from '../../src/crypto/tunnel-crypto.ts'
import type { Credentials } from '../../src/overlay/machine/api.ts'
import { encoded, encodedMessage } from '../../src/overlay/machine/asker.ts'
import { macKey, sessionKeys } from '../../src/overlay/machine/secrets.ts'
import { endpointKey, sameEndpoint } from '../../src/overlay/tables.ts'
import { datagramCodec, Kind, MAC, type RelayBind, SHOWS } from '../../src/overlay/wire/datagram.ts'
import { type Lease, leaseCodec, leaseTranscript } from '../../src/overlay/wire/lease.ts'
import {
  type Candidate,
  type Message,
  messageCodec,
  type RelaySide,
  Route,
  Status,
  Type,
  Want,
} from '../../src/overlay/wire/message.ts'

export interface StubNode {
  readonly credentials: Credentials
  readonly publicKey: Uint8Array
  readonly v6: Uint8Array
  readonly v4: Uint8Array
}

interface Session {
  readonly node: StubNode
  readonly asker: number
  readonly index: number
  readonly receiveKey: Uint8Array
  readonly sendKey: Uint8Array
  counter: number
}

interface Located {
  session: Session
  observed: Endpoint
  proven: boolean
  hosts: readonly Candidate[]
}

/** `port`: which of the server's sockets it came to or leaves from; 0 is the coordinator's, others the relay's. */
export type StubSend = (port: number, to: Endpoint, bytes: Uint8Array) => void

interface Channel {
  readonly id: number
  readonly pair: string
  readonly sides: readonly {
    readonly node: StubNode
    readonly port: number
    readonly key: Uint8Array
    bound?: Endpoint
    counter: number
  }[]
}

export class StubCoordinator {
  readonly nodes = new Map<string, StubNode>()
  readonly located = new Map<string, Located>()
  /** Types of messages that came, in order, with the name of their node. */
  readonly heard: string[] = []
  readonly channels: Channel[] = []
  /** Relay endpoints by side's port index, and whether directions name a relay. */
  readonly relayPorts: readonly Endpoint[]
  useRelay = true
  /** Says SESSION_UNKNOWN. */
  hints = true
  /** ROUTE_DIRECTION_ACKs, with the name of their node. */
  readonly acknowledged: (Message & { readonly by: string })[] = []
  /** What DIRECTION_REQUESTs are answered with instead. */
  refuseWith: Status | undefined
  readonly #secret = nodeRandom.fill(new Uint8Array(32))
  readonly #zone = generateKeyPairSync('ed25519')
  readonly #sessions = new Map<number, Session>()
  readonly #opened = new Map<string, Session>()
  readonly #send: StubSend
  readonly #wall: () => number
  #next = 1
  /** Answers from the relay's own messages. */
  readonly #relaySecret = nodeRandom.fill(new Uint8Array(32))

  constructor(parts: { send: StubSend; wall: () => number; relayPorts: readonly Endpoint[] }) {
    this.#send = parts.send
    this.#wall = parts.wall
    this.relayPorts = parts.relayPorts
  }

  get zoneKey(): Uint8Array {
    return new Uint8Array(this.#zone.publicKey.export({ format: 'der', type: 'spki' }).subarray(-32))
  }

  add(name: string, publicKey: Uint8Array): StubNode {
    const number = this.#next++
    const v6 = Uint8Array.of(0xfd, 0x67, 1, 2, 3, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, number)
    const node = {
      credentials: {
        name,
        keyId: nodeRandom.fill(new Uint8Array(16)),
        key: nodeRandom.fill(new Uint8Array(32)),
        coordinator: 'dc.test.example',
        zoneKey: this.zoneKey,
      },
      publicKey,
      v6,
      v4: Uint8Array.of(100, 100, 0, number),
    }
    this.nodes.set(name, node)
    return node
  }

  lease(node: StubNode): Uint8Array {
    const now = Math.floor(this.#wall() / 1000)
    const lease: Lease = {
      serial: 1,
      notBefore: now - 10,
      notAfter: now + 86_400,
      publicKey: node.publicKey,
      v6: node.v6,
      v4: node.v4,
      name: node.credentials.name,
      signature: new Uint8Array(64),
    }
    const bytes = new Uint8Array(leaseCodec.byteLength(lease))
    leaseCodec.encode(lease, bytes)
    const signature = signBytes(null, leaseTranscript(bytes), this.#zone.privateKey)
    leaseCodec.encode({ ...lease, signature: new Uint8Array(signature) }, bytes)
    return bytes
  }

  /** Forgets everything but the accounts: a restart. */
  restart(): void {
    this.#sessions.clear()
    this.#opened.clear()
    this.located.clear()
  }

  receive(port: number, bytes: Uint8Array, from: Endpoint): void {
    if (port !== 0) {
      this.#relay(port, bytes, from)
      return
    }
    const datagram = datagramCodec.decode(bytes)
    if (!datagram.ok) return
    const { value } = datagram
    if (value.kind === Kind.SESSION_REQUEST && value.identity.type === 'key') {
      const node = this.#byKeyId(value.identity.id)
      if (node === undefined) return
      const plain = bytes.subarray(0, bytes.length - MAC)
      const expected = nodeCrypto.mac(macKey(nodeCrypto, node.credentials.key, 'request'), plain)
      if (!nodeCrypto.equal(expected, value.mac)) return
      const salt = this.#salt(value.identity.id, value.salt, from)
      const head = { kind: Kind.SESSION_RESPONSE, index: value.index, salt, mac: new Uint8Array(MAC) }
      const blank = encoded(head)
      const mac = nodeCrypto.mac(
        macKey(nodeCrypto, node.credentials.key, 'response'),
        concat(blank.subarray(0, blank.length - MAC), value.salt),
      )
      this.#send(0, from, encoded({ ...head, mac }))
    } else if (value.kind === Kind.OPEN && value.identity.type === 'key') {
      const node = this.#byKeyId(value.identity.id)
      const salt = this.#salt(value.identity.id, value.saltA, from)
      if (node === undefined || toHex(salt) !== toHex(value.saltB)) return
      const keys = sessionKeys(nodeCrypto, node.credentials.key, value.saltA, value.saltB)
      const ad = encoded({ ...value, sealed: new Uint8Array(0) })
      const plain = nodeCrypto.open(keys.asker, value.counter, value.sealed, ad)
      if (plain === undefined) return
      const name = toHex(value.saltA)
      const index = this.#next++
      const session = this.#opened.get(name) ?? {
        ...{ node, asker: value.index, index, receiveKey: keys.asker, sendKey: keys.answerer, counter: 0 },
      }
      this.#opened.set(name, session)
      this.#sessions.set(session.index, session)
      this.#message(session, plain, from, true)
    } else if (value.kind === Kind.SEALED) {
      const session = this.#sessions.get(value.index)
      if (session === undefined) {
        if (this.hints) this.#send(0, from, encoded({ kind: Kind.SESSION_UNKNOWN, index: value.index }))
        return
      }
      const ad = encoded({ ...value, sealed: new Uint8Array(0) })
      const plain = nodeCrypto.open(session.receiveKey, value.counter, value.sealed, ad)
      if (plain !== undefined) this.#message(session, plain, from, false)
    }
  }

  #byKeyId(id: Uint8Array): StubNode | undefined {
    return [...this.nodes.values()].find(({ credentials }) => toHex(credentials.keyId) === toHex(id))
  }

  #salt(id: Uint8Array, salt: Uint8Array, { address, port }: Endpoint): Uint8Array {
    return nodeCrypto.mac(this.#secret, concat(id, salt, address, Uint8Array.of(port >> 8, port & 255)))
  }

  #message(session: Session, plain: Uint8Array, from: Endpoint, proven: boolean): void {
    const decoded = messageCodec.decode(plain)
    if (!decoded.ok) throw new Error(decoded.reason)
    const message = decoded.value
    const { name } = session.node.credentials
    this.heard.push(`${name} ${message.type}`)
    const located = this.located.get(name)
    switch (message.type) {
      case Type.REGISTRATION_REQUEST: {
        const known = located !== undefined && sameEndpoint(located.observed, from) && located.proven
        const now = { session, observed: from, proven: proven || known, hosts: message.candidates ?? [] }
        this.located.set(name, now)
        this.#answer(session, from, proven, {
          type: Type.REGISTRATION_RESPONSE,
          transaction: message.transaction,
          status: Status.DONE,
          lease: this.lease(session.node),
          observed: from,
          lifetime: 600,
          keepAlive: 20,
          ...(!now.proven && {
            challenge: this.#salt(session.node.credentials.keyId, new Uint8Array(16), from).slice(0, 8),
          }),
        })
        break
      }
      case Type.KEEP_ALIVE: {
        const due = toHex(this.#salt(session.node.credentials.keyId, new Uint8Array(16), from).slice(0, 8))
        if (located !== undefined && message.echo !== undefined && toHex(message.echo) === due) {
          located.observed = from
          located.proven = true
        }
        const { transaction } = message
        this.#answer(session, from, proven, { type: Type.KEEP_ALIVE_ACK, transaction, observed: from })
        break
      }
      case Type.DIRECTION_REQUEST:
        this.#direct(session, message, from)
        break
      case Type.ROUTE_DIRECTION_ACK:
        this.acknowledged.push({ ...message, by: name })
        break
      default:
    }
  }

  #direct(session: Session, { name, transaction, want }: Message, from: Endpoint): void {
    const target = name === undefined ? undefined : this.nodes.get(name)
    const there = name === undefined ? undefined : this.located.get(name)
    const status =
      this.refuseWith ??
      (target === undefined ? Status.UNKNOWN_NAME : there === undefined ? Status.NOT_REGISTERED : undefined)
    if (status !== undefined || target === undefined) {
      const type = Type.DIRECTION_RESPONSE
      this.#answer(session, from, false, { type, transaction, status: status ?? Status.UNKNOWN_NAME })
      return
    }
    const channel = this.useRelay
      ? this.#channel(session.node, target, want === Want.ANOTHER_CHANNEL)
      : undefined
    this.directTo(target, session.node, channel)
    this.directTo(session.node, target, channel)
  }

  /** ROUTE_DIRECTION to `to`, about `peer`, with `fields` of its own. */
  directTo(to: StubNode, peer: StubNode, channel?: Channel, fields: Partial<Message> = {}): void {
    const at = this.located.get(to.credentials.name)
    const about = this.located.get(peer.credentials.name)
    if (at === undefined || about === undefined) return
    const relays: RelaySide[] = []
    for (const [side, each] of channel?.sides.entries() ?? [])
      if (each.node === to)
        relays.push({
          channel: channel!.id,
          side: side as 0 | 1,
          endpoint: this.relayPorts[each.port]!,
          key: each.key,
        })
    this.#answer(at.session, at.observed, false, {
      type: Type.ROUTE_DIRECTION,
      transaction: this.#next++,
      route: channel === undefined ? Route.CHECK : Route.RELAY,
      name: peer.credentials.name,
      lease: this.lease(peer),
      candidates: [
        ...about.hosts,
        ...(about.proven ? [{ kind: 'reflexive' as const, endpoint: about.observed }] : []),
      ],
      pairKey: pairKeyOf(to, peer),
      relays,
      ...fields,
    })
  }

  #answer(session: Session, to: Endpoint, opened: boolean, message: Message): void {
    const counter = session.counter++
    const head = opened
      ? { kind: Kind.OPENED, index: session.asker, counter, answerer: session.index }
      : { kind: Kind.SEALED, index: session.asker, counter }
    const ad = encoded({ ...head, sealed: new Uint8Array(0) })
    const sealed = nodeCrypto.seal(session.sendKey, counter, encodedMessage(message), ad)
    this.#send(0, to, encoded({ ...head, sealed }))
  }

  // ---- relay

  #channel(a: StubNode, b: StubNode, another: boolean): Channel {
    const pair = [a.credentials.name, b.credentials.name].sort().join()
    const known = this.channels.filter((each) => each.pair === pair).at(-1)
    if (known !== undefined && !another) return known
    const side = (node: StubNode, port: number) => ({
      ...{ node, port, key: nodeRandom.fill(new Uint8Array(32)), counter: 0 },
    })
    // Two ports for each channel, so that (port, source) names the side.
    const first = (1 + 2 * this.channels.length) % (this.relayPorts.length - 1)
    const channel = { id: 100 + this.channels.length, pair, sides: [side(a, first), side(b, first + 1)] }
    this.channels.push(channel)
    return channel
  }

  #relay(port: number, bytes: Uint8Array, from: Endpoint): void {
    const datagram = bytes[0] === 0x4e ? datagramCodec.decode(bytes) : undefined
    if (datagram?.ok === true && datagram.value.kind === Kind.RELAY_BIND) {
      this.#bind(port, bytes, datagram.value, from)
      return
    }
    for (const channel of this.channels)
      for (const [i, side] of channel.sides.entries()) {
        if (side.port !== port || side.bound === undefined || !sameEndpoint(side.bound, from)) continue
        const other = channel.sides[1 - i]!
        if (other.bound !== undefined) this.#send(other.port, other.bound, bytes)
        return
      }
  }

  #bind(port: number, bytes: Uint8Array, bind: RelayBind, from: Endpoint): void {
    const side = this.channels.find(({ id }) => id === bind.channel)?.sides[bind.side & ~SHOWS]
    if (side === undefined || side.port !== port || bind.counter <= side.counter) return
    const mac = nodeCrypto.mac(side.key, bytes.subarray(0, bytes.length - MAC))
    if (!nodeCrypto.equal(mac, bind.mac)) return
    const token = nodeCrypto.mac(
      this.#relaySecret,
      Uint8Array.from(endpointKey(from), (c) => c.charCodeAt(0)),
    )
    const proven = this.located.get(side.node.credentials.name)?.observed
    const known = proven !== undefined && sameEndpoint(proven, from)
    const bound = known || toHex(token) === toHex(bind.token)
    if (bound) {
      side.bound = from
      side.counter = bind.counter
    }
    const head = {
      ...{ kind: Kind.RELAY_BOUND, channel: bind.channel, side: bound ? 1 : 2, counter: bind.counter },
      token: bound ? new Uint8Array(16) : token,
    }
    const blank = encoded({ ...head, mac: new Uint8Array(MAC) })
    const signed = nodeCrypto.mac(side.key, concat(blank.subarray(0, blank.length - MAC), bind.token))
    this.#send(port, from, encoded({ ...head, mac: signed }))
  }
}

function pairKeyOf(a: StubNode, b: StubNode): Uint8Array {
  const keys = [a.publicKey, b.publicKey].sort((x, y) => (toHex(x) < toHex(y) ? -1 : 1))
  return kdf(nodeCrypto, new Uint8Array(32).fill(7), concat(...keys), 1)[0]
}
