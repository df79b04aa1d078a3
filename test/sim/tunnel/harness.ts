/**
 * Tunnel machines on a virtual network with a virtual clock (after quinn's `Pair`): links with delay, rate, queue, loss
 * and MTU, one seeded source of randomness, no real time. The datapath is a double that keeps the seam's promises with
 * datagrams as objects: who does not hold the key cannot open them.
 */
import { equal, toHex } from '../../../src/core/bytes.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import {
  type MachineInit,
  type PathConfig,
  type PeerConfig,
  type TunnelEvent,
  TunnelMachine,
} from '../../../src/tunnel/protocol/machine.ts'
import type { Endpoint, MachineSeam, SessionKeys, TransportForm } from '../../../src/tunnel/seam.ts'

export interface Sealed {
  readonly receiver: number
  readonly key: string
  readonly counter: number
  readonly pathId: number
  readonly kind: 'control' | 'data' | 'keepalive'
  readonly body: Uint8Array
  readonly size: number
}
export type Datagram = Uint8Array | Sealed

/** One direction of a link. Times in milliseconds, rate in bytes per millisecond. */
export interface Way {
  delay: number
  jitter: number
  loss: number
  down: boolean
  rate: number
  /** Bytes that wait at most when a rate is set. */
  queue: number
  mtu: number
  /** When the queue will be empty. */
  freeAt: number
}

export class Link {
  readonly up: Way
  readonly downlink: Way
  constructor(settings: Partial<Way> = {}) {
    const make = (): Way => ({
      delay: 10,
      jitter: 0,
      loss: 0,
      down: false,
      rate: Number.POSITIVE_INFINITY,
      queue: 1e6,
      mtu: 1500,
      freeAt: 0,
      ...settings,
    })
    this.up = make()
    this.downlink = make()
  }
  cut(): void {
    this.up.down = true
    this.downlink.down = true
  }
  mend(): void {
    this.up.down = false
    this.downlink.down = false
  }
}

export class World {
  now = 1000
  wall = Date.UTC(2026, 0, 1)
  #seed: number
  #order = 0
  #queue: { at: number; order: number; run: () => void }[] = []
  readonly nodes: Node[] = []
  /** Sees every datagram as it is sent; returns false to drop it. */
  filter: (datagram: Datagram, from: Endpoint, to: Endpoint) => boolean = () => true

  constructor(seed = 1) {
    this.#seed = seed
  }

  random(): number {
    this.#seed = (Math.imul(this.#seed, 1664525) + 1013904223) >>> 0
    return this.#seed / 2 ** 32
  }

  fill(out: Uint8Array): Uint8Array {
    for (let i = 0; i < out.length; i++) out[i] = Math.floor(this.random() * 256)
    return out
  }

  at(at: number, run: () => void): void {
    this.#queue.push({ at: Math.max(at, this.now), order: this.#order++, run })
  }

  every(interval: number, until: number, run: () => void): void {
    const step = () => {
      run()
      if (this.now + interval <= until) this.at(this.now + interval, step)
    }
    this.at(this.now, step)
  }

  /** Runs everything that is due up to this many milliseconds from now. */
  run(ms: number): void {
    const end = this.now + ms
    for (let steps = 0; ; steps++) {
      if (steps > 2_000_000) throw new Error('the simulation does not come to rest')
      let next: { at: number; order: number; run: () => void } | undefined
      for (const item of this.#queue)
        if (next === undefined || item.at < next.at || (item.at === next.at && item.order < next.order))
          next = item
      let node: Node | undefined
      let timeout = next?.at ?? Number.POSITIVE_INFINITY
      for (const each of this.nodes) {
        const at = each.stopped ? undefined : each.machine.nextTimeout()
        if (at !== undefined && Math.max(at, each.heldUntil) < timeout) {
          timeout = Math.max(at, each.heldUntil)
          node = each
        }
      }
      if (timeout > end) break
      this.#advance(Math.max(timeout, this.now))
      if (node !== undefined) node.handleTimeout()
      else if (next !== undefined) {
        this.#queue.splice(this.#queue.indexOf(next), 1)
        next.run()
      }
    }
    this.#advance(end)
  }

  runUntil(condition: () => boolean, limit: number): void {
    const end = this.now + limit
    while (!condition() && this.now < end) this.run(1)
  }

  #advance(to: number): void {
    this.wall += to - this.now
    this.now = to
  }

  deliver(from: Node, source: Endpoint, to: Endpoint, way: Way, datagram: Datagram): number {
    const size = datagram instanceof Uint8Array ? datagram.length + 28 : datagram.size
    if (!this.filter(datagram, source, to) || way.down || size > way.mtu) return 0
    if (this.random() < way.loss) return 0
    let leaves = this.now
    if (way.rate < Number.POSITIVE_INFINITY) {
      const start = Math.max(this.now, way.freeAt)
      if ((start - this.now) * way.rate + size > way.queue) return 0
      way.freeAt = start + size / way.rate
      leaves = way.freeAt
    }
    const copy = datagram instanceof Uint8Array ? datagram.slice() : datagram
    this.at(leaves + way.delay + this.random() * way.jitter, () => {
      for (const node of this.nodes)
        if (node !== from && !node.stopped && node.owns(to)) node.receive(copy, source, to)
    })
    return 0
  }
}

interface Slot {
  readonly peer: number
  readonly pathId: number
  readonly socket: number
  remote: Endpoint
  mtu: number
  closed: boolean
  lastSentAt: number
  lastReceivedAt: number
  sentBytes: number
  sentPackets: number
  receivedBytes: number
  receivedPackets: number
  highestCounter: number
}

interface Live extends SessionKeys {
  sent: number
  readonly seen: Set<number>
  /** Of installation. */
  readonly order: number
}

export interface Socket {
  endpoint: Endpoint
  /** The link below; `outward` is the way that leaves this node. Undefined: the other end's link decides. */
  link?: Link
  /** errno with which the kernel refuses to send on it; 0: it does not. */
  refuses?: () => number
}

export class Node {
  readonly name: string
  readonly world: World
  machine!: TunnelMachine
  readonly sockets: Socket[]
  readonly privateKey: Uint8Array
  events: TunnelEvent[] = []
  /** Data received: sequence number, time, path id, counter in its session. */
  received: { sequence: number; at: number; pathId: number; counter: number }[] = []
  duplicates = 0
  resent = 0
  stopped = false
  slots: Slot[] = []
  #free: number[] = []
  #live = new Map<number, Live>()
  #sending = new Map<number, Live>()
  forms = new Map<number, TransportForm>()
  /** Peers whose process has ended, and the time (ms) that it may have missed what was sent. */
  readonly unread: (readonly [number, number])[] = []
  #installed = 0
  /** Of each peer: order of the session and counter of the newest datagram that came. */
  readonly #newest = new Map<number, readonly [number, number]>()
  #ring: { slot: number; at: number; datagram: Sealed }[] = []
  #init: Partial<MachineInit>
  /** Datagrams read only later: this node's thread is held up. */
  heldUntil = 0

  constructor(world: World, name: string, sockets: Socket[], init: Partial<MachineInit> = {}) {
    this.world = world
    this.name = name
    this.sockets = sockets
    this.privateKey = world.fill(new Uint8Array(32))
    this.#init = init
    world.nodes.push(this)
    this.restart()
  }

  /** A new process: nothing but the key is left. */
  restart(init: Partial<MachineInit> = {}): void {
    this.slots = []
    this.#free = []
    this.#live.clear()
    this.#sending.clear()
    this.#newest.clear()
    this.#ring = []
    this.forms.clear()
    this.stopped = false
    const { world } = this
    this.machine = new TunnelMachine(
      {
        crypto: nodeCrypto,
        random: { fill: (out) => world.fill(out) },
        wall: () => world.wall,
        ...this.seam(),
      },
      { privateKey: this.privateKey, ...this.#init, ...init },
    )
  }

  get publicKey(): Uint8Array {
    return this.machine.publicKey
  }

  /** Sessions whose keys the datapath has. */
  get sessions(): number {
    return this.#live.size
  }

  addPeer(other: Node, config: Partial<PeerConfig> = {}): number {
    return this.machine.addPeer({ publicKey: other.publicKey, ...config }, this.world.now)
  }

  addPath(peer: number, config: PathConfig): number {
    const slot = this.machine.addPath(peer, config, this.world.now)
    this.#drain()
    return slot
  }

  do(command: (machine: TunnelMachine, now: number) => void): void {
    command(this.machine, this.world.now)
    this.#drain()
  }

  handleTimeout(): void {
    this.machine.handleTimeout(this.world.now)
    this.#drain()
  }

  owns(endpoint: Endpoint): boolean {
    return this.sockets.some((socket) => same(socket.endpoint, endpoint))
  }

  /** Sends data; false when the peer has no session. */
  sendData(slot: number, sequence: number, size = 100): boolean {
    const { world } = this
    const entry = this.slots[slot]
    if (entry === undefined || entry.closed || world.now < this.heldUntil) return false
    const session = this.#sending.get(entry.peer)
    if (session === undefined) {
      this.machine.wantSession(entry.peer, world.now)
      return false
    }
    const body = new Uint8Array(4)
    new DataView(body.buffer).setUint32(0, sequence)
    const sealed = this.#seal(session, entry, 'data', body, size + 62)
    this.#ring.push({ slot, at: world.now, datagram: sealed })
    if (this.#ring.length > 4096) this.#ring.shift()
    this.#emit(entry, sealed)
    this.machine.noteTraffic(entry.peer, true, false, false, world.now)
    return true
  }

  /** As if so many datagrams had left in each session. */
  haveSent(count: number): void {
    for (const session of this.#live.values()) session.sent = count
  }

  /** Seals a payload of one's own making and sends it from `source`, whoever that is; undefined without a session. */
  forge(
    peer: number,
    pathId: number,
    kind: Sealed['kind'],
    body: Uint8Array,
    source: Endpoint,
    to: Endpoint,
  ): Sealed | undefined {
    const session = this.#sending.get(peer)
    if (session === undefined) return undefined
    const sealed = this.#seal(session, { peer, pathId }, kind, body, body.length + 62)
    this.world.deliver(this, source, to, new Link({ delay: 1 }).up, sealed)
    return sealed
  }

  last<T extends TunnelEvent['type']>(type: T): Extract<TunnelEvent, { type: T }> | undefined {
    return this.all(type).at(-1)
  }

  all<T extends TunnelEvent['type']>(type: T): Extract<TunnelEvent, { type: T }>[] {
    return this.events.filter((event) => event.type === type) as Extract<TunnelEvent, { type: T }>[]
  }

  /** Names of the states a path id went through, in order. */
  states(pathId: number): string[] {
    return this.all('path')
      .filter((event) => event.path.pathId === pathId)
      .map((event) => event.path.state.name)
  }

  usable(peer: number): number[] {
    const usable = ['up', 'degrading', 'suspect']
    return (this.machine.peer(peer)?.paths ?? [])
      .filter((path) => usable.includes(path.state.name))
      .map((path) => path.slot)
  }

  receive(datagram: Datagram, from: Endpoint, to: Endpoint): void {
    const { world } = this
    if (world.now < this.heldUntil) {
      world.at(this.heldUntil, () => this.receive(datagram, from, to))
      return
    }
    const socket = this.sockets.findIndex((each) => same(each.endpoint, to))
    if (datagram instanceof Uint8Array) this.machine.handleHandshake(datagram, from, socket, world.now)
    else this.#receiveSealed(datagram, from, socket)
    this.#drain()
  }

  #receiveSealed(sealed: Sealed, from: Endpoint, socket: number): void {
    const { now } = this.world
    const session = this.#live.get(sealed.receiver)
    if (session === undefined || toHex(session.receiveKey) !== sealed.key) return
    if (session.seen.has(sealed.counter)) {
      this.duplicates++
      return
    }
    const first = session.seen.size === 0
    session.seen.add(sealed.counter)
    const { peer } = session
    const [order, highest] = this.#newest.get(peer) ?? [0, -1]
    const newest = session.order > order || (session.order === order && sealed.counter > highest)
    if (newest) this.#newest.set(peer, [session.order, sealed.counter])
    if (first) this.machine.handleFirstReceive(peer, session.localIndex, now)
    let slot = this.slots.findIndex(
      (each) =>
        !each.closed &&
        each.peer === peer &&
        each.socket === socket &&
        same(each.remote, from) &&
        (sealed.pathId === 0 || sealed.pathId === each.pathId),
    )
    const exact = slot
    if (slot < 0 && newest && sealed.kind !== 'control')
      slot = this.machine.handleRoaming(peer, sealed.pathId, from, socket, sealed.size, now)
    if (slot < 0 && sealed.pathId !== 0)
      slot = this.slots.findIndex(
        (each) => !each.closed && each.peer === peer && each.pathId === sealed.pathId,
      )
    const entry = this.slots[slot]
    if (entry !== undefined) {
      entry.lastReceivedAt = now
      if (exact >= 0) entry.receivedBytes += sealed.size
      entry.receivedPackets++
      if (this.#sending.get(peer) === session)
        entry.highestCounter = Math.max(entry.highestCounter, sealed.counter)
    }
    if (sealed.kind === 'control')
      this.machine.handleControl(
        peer,
        session.localIndex,
        exact,
        sealed.pathId,
        from,
        socket,
        sealed.counter,
        newest,
        sealed.size,
        sealed.body,
        now,
      )
    if (sealed.kind === 'data') {
      const sequence = new DataView(sealed.body.buffer, sealed.body.byteOffset).getUint32(0)
      this.received.push({ sequence, at: now, pathId: sealed.pathId, counter: sealed.counter })
    }
    this.machine.noteTraffic(peer, false, sealed.kind === 'data', true, now)
  }

  #drain(): void {
    for (let event = this.machine.poll(); event !== undefined; event = this.machine.poll())
      this.events.push(event)
  }

  #seal(
    session: Live,
    entry: Pick<Slot, 'peer' | 'pathId'>,
    kind: Sealed['kind'],
    body: Uint8Array,
    size: number,
  ): Sealed {
    const godwit = this.forms.get(entry.peer) === 'godwit'
    return {
      receiver: session.remoteIndex,
      key: toHex(session.sendKey),
      counter: session.sent++,
      pathId: godwit || kind === 'control' ? entry.pathId : 0,
      kind,
      body,
      size,
    }
  }

  /** False where the kernel refuses. */
  #emit(entry: Slot, sealed: Sealed): boolean {
    const errno = this.sockets[entry.socket]!.refuses?.() ?? 0
    if (errno > 0) {
      this.machine.pathError(this.slots.indexOf(entry), errno, this.world.now)
      return false
    }
    entry.lastSentAt = this.world.now
    entry.sentPackets++
    entry.sentBytes += sealed.size
    this.#transmit(entry.socket, entry.remote, sealed)
    return true
  }

  #transmit(socket: number, to: Endpoint, datagram: Datagram): number {
    const { world } = this
    const own = this.sockets[socket]!
    const source = own.endpoint
    if (own.link !== undefined) return world.deliver(this, source, to, own.link.up, datagram)
    // Whatever port a NAT has given it.
    const link = world.nodes
      .flatMap((node) => node.sockets)
      .find((each) => equal(each.endpoint.address, to.address))?.link
    if (link !== undefined) return world.deliver(this, source, to, link.downlink, datagram)
    world.filter(datagram, source, to)
    return 0
  }

  /** The double of the datapath, as the machine sees it. */
  seam(): MachineSeam {
    const { world } = this
    return {
      sessions: {
        newIndex: () => Math.floor(world.random() * 2 ** 32),
        install: (keys) => {
          this.#live.set(keys.localIndex, {
            ...keys,
            sendKey: keys.sendKey.slice(),
            receiveKey: keys.receiveKey.slice(),
            sent: 0,
            seen: new Set(),
            order: ++this.#installed,
          })
        },
        useForSending: (index) => {
          const session = this.#live.get(index)!
          this.#sending.set(session.peer, session)
          for (const slot of this.slots) if (slot.peer === session.peer) slot.highestCounter = -1
        },
        heardIn: () => {},
        unread: (peer, ms = 0) => {
          this.unread.push([peer, ms])
        },
        setForm: (peer, form) => {
          this.forms.set(peer, form)
        },
        remove: (index) => {
          const session = this.#live.get(index)
          if (session === undefined) return
          this.#live.delete(index)
          if (this.#sending.get(session.peer) === session) this.#sending.delete(session.peer)
        },
        sent: (index) => this.#live.get(index)?.sent ?? 0,
      },
      paths: {
        open: ({ peer, pathId, socket, remote, mtu }) => {
          const slot = this.#free.pop() ?? this.slots.length
          this.slots[slot] = {
            peer,
            pathId,
            socket,
            remote,
            mtu,
            closed: false,
            lastSentAt: 0,
            lastReceivedAt: 0,
            sentBytes: 0,
            sentPackets: 0,
            receivedBytes: 0,
            receivedPackets: 0,
            highestCounter: -1,
          }
          this.#ring = this.#ring.filter((sent) => sent.slot !== slot)
          return slot
        },
        setRemote: (slot, remote) => {
          this.slots[slot]!.remote = remote
        },
        setMtu: (slot, mtu) => {
          this.slots[slot]!.mtu = mtu
        },
        close: (slot) => {
          this.slots[slot]!.closed = true
        },
        release: (slot) => {
          this.#free.push(slot)
        },
        counters: (slot) => this.slots[slot]!,
        resend: (from, to, after, within) => {
          const target = this.slots[to]!
          let count = 0
          for (const item of this.#ring) {
            if (item.slot !== from || item.datagram.counter <= after) continue
            if (world.now - item.at > within) continue
            if (this.#emit(target, item.datagram)) target.sentPackets--
            item.slot = to
            item.at = world.now
            count++
          }
          this.resent += count
          return count
        },
      },
      transmit: {
        handshake: (bytes, to, socket) => this.#transmit(socket, to, bytes),
        controlTo: (peer, pathId, to, socket, body) => {
          const session = this.#sending.get(peer)
          if (session === undefined) return false
          const entry = { peer, pathId }
          this.#transmit(socket, to, this.#seal(session, entry, 'control', body.slice(), body.length + 62))
          return true
        },
        control: (slot, body) => {
          const entry = this.slots[slot]!
          const session = this.#sending.get(entry.peer)
          if (session === undefined || entry.closed) return -1
          const kind = body.length === 0 ? 'keepalive' : 'control'
          const sealed = this.#seal(session, entry, kind, body.slice(), body.length + 62)
          return this.#emit(entry, sealed) ? sealed.counter : -1
        },
      },
    }
  }
}

export function endpoint(last: number, port = 51820): Endpoint {
  return { address: Uint8Array.of(10, 0, 0, last), port }
}

function same(a: Endpoint, b: Endpoint): boolean {
  return a.port === b.port && equal(a.address, b.address)
}

/** A mobile host with two accesses and an anchor with one socket. */
export class Pair {
  readonly world: World
  readonly links: [Link, Link]
  readonly host: Node
  readonly anchor: Node
  anchorPeer: number
  hostPeer: number
  slots: number[] = []

  constructor(
    options: {
      seed?: number
      links?: [Partial<Way>, Partial<Way>]
      config?: Partial<PeerConfig>
      anchorConfig?: Partial<PeerConfig>
    } = {},
  ) {
    this.world = new World(options.seed)
    const [first, second] = options.links ?? [{}, {}]
    this.links = [new Link(first), new Link(second)]
    this.host = new Node(this.world, 'host', [
      { endpoint: endpoint(1), link: this.links[0] },
      { endpoint: endpoint(2), link: this.links[1] },
    ])
    this.anchor = new Node(this.world, 'anchor', [{ endpoint: endpoint(100) }])
    this.anchorPeer = this.host.addPeer(this.anchor, { dialect: 'godwit', ...options.config })
    this.hostPeer = this.anchor.addPeer(this.host, options.anchorConfig)
  }

  /** Opens both paths and waits until they are up at both ends. */
  connect(which: readonly number[] = [0, 1]): this {
    for (const n of which) this.slots[n] = this.open(n)
    this.world.run(500)
    return this
  }

  /** The host's first message 1, which does not arrive, nor anything else. */
  lostInitiation(): Uint8Array {
    let first: Uint8Array | undefined
    this.world.filter = (datagram) => {
      if (datagram instanceof Uint8Array) first ??= datagram.slice()
      return false
    }
    this.open(0)
    return first!
  }

  open(n: number): number {
    const slot = this.host.addPath(this.anchorPeer, {
      pathId: n + 1,
      socket: n,
      remote: endpoint(100),
      mtu: 1500,
    })
    this.slots[n] = slot
    return slot
  }

  /** The anchor's slot of a path id, -1 when it has none open. */
  anchorSlot(pathId: number): number {
    return this.anchor.slots.findIndex((slot) => slot.pathId === pathId && !slot.closed)
  }
}
