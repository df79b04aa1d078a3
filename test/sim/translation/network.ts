/**
 * IHMP machines on a network of addresses, in virtual time: an address delivers to the machine that has it, unless the
 * link is cut. Real signatures.
 */

import { seeded } from '../../../lab/seeded.ts'
import { generateOwnKey, nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import type { OwnKey } from '../../../src/translation/machine/host.ts'
import { IhmpMachine } from '../../../src/translation/machine/machine.ts'
import type { SavedHost } from '../../../src/translation/machine/state.ts'
import type {
  IhmpComponents,
  IhmpOptions,
  Output,
  StreamStart,
} from '../../../src/translation/machine/types.ts'
import type { LocalAddress } from '../../../src/translation/policy.ts'
import { flowId, type Ip, ipOf, type Pair, type SocketRow, Tables } from '../../../src/translation/tables.ts'
import { Control, type IhmpMessage, ihmp, Option } from '../../../src/translation/wire.ts'

export interface Packet {
  readonly at: number
  readonly bytes: Uint8Array
  readonly from: Ip
  readonly to: Ip
  readonly port: number
}

export class SimHost {
  readonly machine: IhmpMachine
  readonly tables = new Tables()
  readonly events: Exclude<Output, { kind: 'send' | 'apply' | 'keep' }>[] = []
  /** What was stored before the messages that came after it. */
  kept: readonly SavedHost[] = []
  readonly network: SimNetwork
  addresses: LocalAddress[] = []
  key: OwnKey | undefined = generateOwnKey()
  /** Keys that are bound to single addresses instead (DI-40). */
  readonly keys = new Map<Ip, OwnKey>()
  known = new Map<Ip, Uint8Array>()
  /** Addresses of which a directory has not said yet whose they are; undefined: there is no directory. */
  awaited: Set<Ip> | undefined
  /** Addresses about which a directory was asked though nothing waits for its answer. */
  readonly looked: Ip[] = []
  preferred: Ip | undefined
  flows: Pair[] = []
  /** What this host knows of its TCP connections instead of the truth. */
  streams: ((flow: SocketRow) => StreamStart) | undefined
  /** The kernel does not tell. */
  untold = false
  /** Signatures checked. */
  checked = 0

  constructor(
    network: SimNetwork,
    options: Partial<IhmpOptions> = {},
    wall = () => 1_700_000_000_000 + network.now,
  ) {
    this.network = network
    const components: IhmpComponents = {
      tables: this.tables,
      random: {
        fill: (out) => {
          for (let i = 0; i < out.length; i++) out[i] = Math.floor(network.random() * 256)
          return out
        },
      },
      crypto: {
        ...nodeIhmpCrypto,
        verify: (key, bytes, signature) => {
          this.checked++
          return nodeIhmpCrypto.verify(key, bytes, signature)
        },
      },
      keys: {
        own: (ip) => this.keys.get(ip) ?? this.key,
        known: (ip) => this.known.get(ip),
        awaits: (ip) => this.awaited?.has(ip) === true,
        look: (ip) => this.looked.push(ip),
      },
      wall,
      hasFlow: (local, foreign) => this.flows.some((f) => f.local === local && f.foreign === foreign),
      lookAtSockets: () => {},
      streams: (flows) =>
        flows.map((flow) => (this.untold ? undefined : (this.streams?.(flow) ?? network.startOf(flow)))),
      preferredLocal: (foreign) =>
        this.preferred ?? this.addresses.find((a) => a.ip.includes(':') === foreign.includes(':'))?.ip,
    }
    this.machine = new IhmpMachine(components, options)
  }

  /** Sets the usable addresses, `10.1.0.2/24` or `10.1.0.2/24@acc2` each. */
  set(...cidrs: string[]): void {
    this.addresses = cidrs.map((cidr) => {
      const [ip = '', length = '24', device = 'acc'] = cidr.split(/[/@]/)
      return { ip, prefixLength: Number(length), device }
    })
    this.machine.handleLocal(this.addresses, this.network.now)
    this.network.drain()
  }

  /** An exchange of datagrams by unconnected sockets, which only the datagrams show. */
  datagrams(local: Ip, localPort: number, foreign: Ip, foreignPort: number): number | undefined {
    this.flows.push({ local, foreign })
    const hid = this.machine.handleFlow({ local, foreign }, this.network.now, true)
    if (hid === undefined) return undefined
    const id = flowId(17, local, localPort, foreign, foreignPort)
    const row: SocketRow = { id, protocol: 17, local, localPort, foreign, foreignPort, hid, inode: 0 }
    this.tables.addSocket(row)
    this.machine.handleSocket(row, this.network.now)
    this.network.drain()
    return hid
  }

  /** A TCP connection as sock_diag would show it. */
  flow(local: Ip, localPort: number, foreign: Ip, foreignPort: number, cookie?: bigint): number {
    this.flows.push({ local, foreign })
    const hid = this.machine.handleFlow({ local, foreign }, this.network.now)!
    const id = flowId(6, local, localPort, foreign, foreignPort)
    const named = cookie === undefined ? {} : { cookie }
    const row: SocketRow = {
      id,
      protocol: 6,
      local,
      localPort,
      foreign,
      foreignPort,
      hid,
      inode: 1,
      ...named,
    }
    this.tables.addSocket(row)
    this.machine.handleSocket(row, this.network.now)
    this.network.drain()
    return hid
  }
}

export class SimNetwork {
  now = 0
  /** One way, milliseconds. */
  delay = 30
  loss = 0
  readonly hosts: SimHost[] = []
  readonly random: () => number
  /** Every datagram sent, for inspection. */
  readonly log: Packet[] = []
  /** Every datagram sent and every event, one line each; a line begins with the time (`sequence`). */
  readonly #lines: { readonly at: number; readonly text: string }[] = []
  readonly queue: Packet[] = []
  /** Pairs of addresses between which nothing passes. */
  readonly cut = new Set<string>()
  /** Rewrites source addresses, as a NAT does: inside → outside. */
  readonly nat = new Map<Ip, Ip>()
  intercept: ((packet: Packet, message: IhmpMessage) => Packet | undefined) | undefined

  constructor(seed = 1) {
    this.random = seeded(seed)
  }

  /** Where the streams of a connection begin, as the end that opened it (with the higher port) and the other have it. */
  startOf({ localPort, foreignPort }: SocketRow): StreamStart {
    const [low, high] = [Math.min(localPort, foreignPort), Math.max(localPort, foreignPort)]
    const [fromHigh, fromLow] = [(high * 2654435761) >>> 0, (low * 40503 + high * 65599) >>> 0]
    if (localPort === high) return { sent: (fromHigh - 1) >>> 0, received: fromLow }
    return { sent: fromLow, received: fromHigh }
  }

  host(options: Partial<IhmpOptions> = {}): SimHost {
    const host = new SimHost(this, options)
    this.hosts.push(host)
    return host
  }

  drain(): void {
    for (const host of this.hosts)
      for (let out = host.machine.poll(); out !== undefined; out = host.machine.poll()) {
        if (out.kind === 'send') this.send(out.bytes, out.pair.local, out.pair.foreign, out.port)
        else if (out.kind === 'keep') host.kept = host.machine.save()
        else if (out.kind !== 'apply') {
          host.events.push(out)
          this.#lines.push({ at: this.now, text: `${host.addresses[0]?.ip ?? 'nowhere'}: ${textOf(out)}` })
        }
      }
  }

  send(bytes: Uint8Array, from: Ip, to: Ip, port = 0): void {
    let packet: Packet | undefined = { at: this.now + this.delay, bytes, from, to, port }
    const decoded = ihmp.decode(bytes)
    if (decoded.ok) this.#lines.push({ at: this.now, text: `${from} > ${to} ${described(decoded.value)}` })
    if (this.intercept !== undefined && decoded.ok) packet = this.intercept(packet, decoded.value)
    if (packet === undefined) return
    this.log.push(packet)
    if (this.random() >= this.loss) this.queue.push(packet)
  }

  /** Runs until `until`, delivering and waking in order of time. */
  run(until: number): void {
    for (;;) {
      this.drain()
      let next = until
      for (const packet of this.queue) next = Math.min(next, packet.at)
      for (const host of this.hosts) next = Math.min(next, host.machine.nextTimeout() ?? until)
      this.now = Math.max(this.now, next)
      const due = this.queue.filter((p) => p.at <= this.now)
      for (const packet of due) this.queue.splice(this.queue.indexOf(packet), 1)
      for (const packet of due) this.#deliver(packet)
      for (const host of this.hosts)
        if ((host.machine.nextTimeout() ?? Number.POSITIVE_INFINITY) <= this.now)
          host.machine.handleTimeout(this.now)
      this.drain()
      if (this.now >= until && !this.queue.some((p) => p.at <= until)) return
    }
  }

  #deliver(packet: Packet): void {
    const from = this.nat.get(packet.from) ?? packet.from
    const to = [...this.nat].find(([, outside]) => outside === packet.to)?.[0] ?? packet.to
    if (this.cut.has(`${from} ${to}`) || this.cut.has(`${to} ${from}`)) return
    const host = this.hosts.find((h) => h.addresses.some((a) => a.ip === to))
    if (host === undefined) return
    host.machine.handleMessage(packet.bytes, { local: to, foreign: from }, packet.port, this.now)
  }

  /**
   * What has happened since `from`, as a sequence diagram in text: milliseconds after `from`, and what. The same again is in one
   * line: `0 250 750 …`, or `0 +2000×5 …` when it comes at a steady pace.
   */
  sequence(from: number): string[] {
    const merged: { text: string; times: number[] }[] = []
    for (const { at, text } of this.#lines) {
      if (at < from) continue
      const last = merged.at(-1)
      if (last?.text === text) last.times.push(Math.round(at - from))
      else merged.push({ text, times: [Math.round(at - from)] })
    }
    return merged.map(({ times, text }) => `${paced(times)} ${text}`)
  }

  /** Types of the messages sent so far, for assertions and diagrams. */
  types(since = 0): string[] {
    return this.log.slice(since).flatMap((p) => {
      const message = ihmp.decode(p.bytes)
      if (!message.ok) return []
      const name = Object.entries(Control).find(([, v]) => v === message.value.control)?.[0] ?? '?'
      return [`${name} ${p.from}>${p.to}`]
    })
  }
}

/** Type and options of a message, and what it says of addresses and flows. */
function described(message: IhmpMessage): string {
  const nameOf = (names: object, value: number) => Object.entries(names).find(([, v]) => v === value)?.[0]
  const { control, options, newAddress, addresses, lostAddresses = [], flowTags, flowEnds } = message
  const said = Object.values(Option).filter((bit) => (options & bit) !== 0)
  return [
    nameOf(Control, control),
    ...said.map((bit) => nameOf(Option, bit)),
    ...(newAddress === undefined ? [] : [`new ${ipOf(newAddress)}`]),
    ...(addresses === undefined ? [] : [`at ${addresses.map(ipOf).join()}`]),
    ...lostAddresses.map((ip) => `lost ${ipOf(ip)}`),
    ...(flowTags === undefined ? [] : [`${flowTags.length} proofs`]),
    ...(flowEnds === undefined ? [] : [`flows ${flowEnds.map((f) => `${f.ownPort}/${f.wirePort}`).join()}`]),
    ...(message.challenge === undefined ? [] : ['?']),
    ...(message.response === undefined ? [] : ['!']),
  ].join(' ')
}

function paced(times: readonly number[]): string {
  const steps: { step: number; count: number }[] = []
  for (const [i, at] of times.entries()) {
    const step = at - (times[i - 1] ?? at)
    if (steps.at(-1)?.step === step && i > 1) steps.at(-1)!.count++
    else steps.push({ step, count: 1 })
  }
  return steps
    .map(({ step, count }, i) => (i === 0 ? times[0] : `+${step}${count > 1 ? `×${count}` : ''}`))
    .join(' ')
}

/** What a host has of its peers: addresses that are there and that are tried, pairs for in and for out, and in use. */
export function rowsOf(host: SimHost): string[] {
  return [...host.machine.hosts()].map(({ row, confirmed, known, nats }) => {
    const pairs = (of: Iterable<Pair>) =>
      [...of].map(({ local, foreign }) => `${local}-${foreign}`).join() || 'none'
    return [
      `${host.addresses[0]?.ip ?? 'nowhere'} has ${[...row.active].join() || 'none'} of ${[...known].join()}`,
      ...(row.unreachable.size === 0 ? [] : [`tries ${[...row.unreachable].join()}`]),
      ...(nats.size === 0 ? [] : [`behind ${[...nats.keys()].join()}`]),
      `in ${pairs(row.accepted.values())}`,
      `out ${pairs([...confirmed.values()].map(({ pair }) => pair))}`,
      `on ${pairs(Object.values(row.current))}`,
    ].join('; ')
  })
}

function textOf(event: SimHost['events'][number]): string {
  const pair = (of: Pair | undefined) => (of === undefined ? 'none' : `${of.local}-${of.foreign}`)
  switch (event.kind) {
    case 'state':
      return `${event.state}, ${event.reason}`
    case 'handover':
      return `IPv${event.family} ${pair(event.from)} to ${pair(event.to)}, ${event.cause}: ${event.reason}`
    case 'diverted':
      return `${event.flows.length} diverted to ${pair(event.pair)}${event.renumbered === true ? ', renumbered' : ''}`
    case 'resumed':
      return `resumed ${pair(event.pair)}`
    case 'silent':
      return `${event.flows.length} silent`
    case 'gone':
      return `${event.sockets.length} gone, ${event.reason}`
  }
}

/** Addresses of the tests: of a host that moves, and of the one that it talks with. */
export const A = '10.1.0.2'
export const B = '10.2.0.2'
export const F = '10.3.0.2'

/** The only host that this one knows, or the first. */
export const peerOf = (host: SimHost) => [...host.machine.hosts()][0]!

/** A connection between the two, greeted; its HID at `mobile`. */
export function connected(net: SimNetwork, mobile: SimHost, local: Ip, other: SimHost, foreign: Ip): number {
  const hid = mobile.flow(local, 40000, foreign, 80)
  other.flow(foreign, 80, local, 40000)
  net.run(net.now + 5_000)
  return hid
}

/** A mobile host at A and a correspondent at F with one connection, greeted. */
export function pairOfHosts(seed = 1, loss = 0): { net: SimNetwork; mh: SimHost; ch: SimHost; hid: number } {
  const net = new SimNetwork(seed)
  net.loss = loss
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  return { net, mh, ch, hid: connected(net, mh, A, ch, F) }
}
