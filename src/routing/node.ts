/**
 * The engine worker of a router, mobile or at home: a socket per access (mobile) or one that listens (home), a path over
 * each access to each peer that has an address, and the forwarder that spreads classes over them.
 */
import { openUdp } from '../linux/udp.ts'
import { AccessSockets, type OpenAccess } from '../tunnel/access-sockets.ts'
import type { Engine } from '../tunnel/engine.ts'
import type { TunnelEvent } from '../tunnel/machine/api.ts'
import { EngineNode, type NodeParts } from '../tunnel/node.ts'
import { pathReports } from '../tunnel/reports.ts'
import type { EngineHost } from '../tunnel/worker.ts'
import { RoutingForwarder } from './forwarder.ts'
import { RouterMachine } from './machine.ts'
import type { AccessSetup, Command, Event, RouterPeer, RouterSetup } from './protocol.ts'

const RING_BYTES = 8 << 20
/** Packets held while order is restored: 150 ms of 250 Mbit/s. */
const REORDER_PACKETS = 3500
/** Milliseconds between measurements of a path in use. */
const MEASURE_MS = 25
const REPORT_MS = 250

export class RouterNode implements NodeParts<Command> {
  readonly #setup: RouterSetup
  readonly #tell: (event: Event) => void
  readonly #node: EngineNode<Command>
  readonly #router: RouterMachine
  readonly #forwarder: RoutingForwarder
  readonly #sockets: AccessSockets<AccessSetup>
  readonly #peers = new Map<string, { readonly index: number; readonly setup: RouterPeer }>()
  #reportAt = 0

  constructor(host: EngineHost) {
    const setup = host.data as RouterSetup
    this.#setup = setup
    this.#forwarder = new RoutingForwarder(setup.own)
    this.#tell = host.post as (event: Event) => void
    this.#node = new EngineNode(
      {
        device: setup.device,
        mtu: setup.mtu,
        privateKey: setup.privateKey,
        forwarder: this.#forwarder,
        ringBytes: RING_BYTES,
        persistent: true,
        poller: host.poller,
        tell: this.#tell,
        reorderPackets: REORDER_PACKETS,
        measureInterval: MEASURE_MS,
      },
      this,
    )
    const { datapath } = this.#node.engine
    this.#router = new RouterMachine({
      tunnel: this.#node.machine,
      forwarder: this.#forwarder,
      redirect: (from, to) => datapath.redirect(from, to),
      retryParked: () => this.#node.engine.retryParked(),
    })
    this.#sockets = new AccessSockets({
      node: this.#node,
      mark: setup.mark,
      pathsOf: (access) => this.#router.pathsOf(access),
    })
    if (setup.listenPort !== undefined)
      this.#node.engine.addSocket(
        openUdp(this.#node.arena, { family: 6, port: setup.listenPort, multihomed: true }),
      )
  }

  get engine(): Engine {
    return this.#node.engine
  }

  get onCommand(): (command: unknown) => void {
    return this.#node.onCommand
  }

  handleCommand(command: Command, now: number): void {
    this.#node.reportSoon()
    switch (command.type) {
      case 'add-peer':
        this.#addPeer(command.peer, now)
        break
      case 'access':
        this.#setAccess(command.access, now)
        break
      case 'access-gone':
        this.#sockets.close(command.name, now)
        break
      case 'use':
        this.#router.setUse(command.access, command.use, now)
        break
      case 'classes':
        this.#router.setClasses(command.classes, now)
        break
      case 'mode':
        this.#router.setMode(command.name, command.mode, now)
        break
      case 'prefer':
        this.#router.prefer(command.access, now)
        break
      case 'wake':
        this.#node.machine.wake(now)
        break
    }
  }

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    this.#router.handleTunnelEvent(event, now)
    if (event.type === 'path-closed') this.#sockets.pathClosed(event.slot, event.pathId)
    if (event.type === 'handshake-failed')
      this.#tell({ type: 'log', level: 'warn', message: `no session: ${event.reason}` })
    if (event.type === 'path' || event.type === 'path-closed' || event.type === 'session')
      this.#node.reportSoon()
  }

  nextTimeout(): number | undefined {
    return this.#router.nextTimeout()
  }

  handleTimeout(now: number): void {
    this.#router.handleTimeout(now)
  }

  afterTurn(now: number): void {
    for (let event = this.#router.poll(); event !== undefined; event = this.#router.poll()) this.#tell(event)
    if (now < this.#reportAt) return
    this.#reportAt = now + REPORT_MS
    this.#node.reportSoon()
  }

  /** Nothing waits for data here. */
  noteData(): void {}

  report(_now: number): void {
    const { machine, engine } = this.#node
    const { datapath } = engine
    const peers = [...this.#peers].map(([name, { index }]) => [name, index] as const)
    const paths = pathReports({ machine, datapath, peers }, (slot) => ({
      access: this.#router.accessOf(slot),
      ...this.#router.useOf(slot),
    }))
    const { reorder, inbound, sender } = datapath
    this.#tell({
      type: 'status',
      peers: this.#router.peerReports(),
      paths,
      classes: this.#router.classReports(),
      counters: {
        ...this.#forwarder.counts,
        without_path: this.#router.counts.bare,
        without_path_ms: this.#router.counts.bareMs,
        copied: sender.copied,
        duplicates: inbound.counts.replayed,
        ordered: reorder?.counts.ordered ?? 0,
        held: reorder?.counts.held ?? 0,
        late: reorder?.counts.late ?? 0,
        gaps_lost: reorder?.counts.lost ?? 0,
        gaps_timed_out: reorder?.counts.timedOut ?? 0,
        reorder_overflowed: reorder?.counts.overflowed ?? 0,
      },
    })
  }

  #addPeer(setup: RouterPeer, now: number): void {
    const index = this.#node.machine.addPeer(
      {
        publicKey: setup.publicKey,
        ...(setup.presharedKey && { presharedKey: setup.presharedKey }),
        ...(setup.keepalive > 0 && setup.remotes.length > 0 && { persistentKeepalive: setup.keepalive }),
        dialect: setup.remotes.length > 0 ? 'godwit' : 'auto',
        allowedIps: setup.subnets.map(({ address, length }) => ({ address, prefixLength: length })),
      },
      now,
    )
    this.#peers.set(setup.name, { index, setup })
    this.#forwarder.addPeer(index, setup.subnets)
    this.#router.addPeer(index, setup.name, setup.remotes.length > 0)
    for (const access of this.#sockets.all()) this.#openPath(access, setup.name, now)
  }

  /** Sockets and paths exist exactly while the access is up. */
  #setAccess(setup: AccessSetup, now: number): void {
    this.#sockets.closeStale(setup, setup.up, now)
    this.#router.setAccess(setup.name, setup.priority, now)
    if (!setup.up) return
    const opened = this.#sockets.open(setup, now)
    if (opened !== undefined) for (const name of this.#peers.keys()) this.#openPath(opened, name, now)
  }

  #openPath(access: OpenAccess<AccessSetup>, name: string, now: number): void {
    const peer = this.#peers.get(name)
    const remote = peer?.setup.remotes.find(({ address }) =>
      access.setup.families.includes(address.length === 4 ? 4 : 6),
    )
    if (peer === undefined || remote === undefined) return
    const { machine } = this.#node
    const pathId = this.#sockets.freePathId(peer.index)
    const { mtu } = access.setup
    const slot = machine.addPath(peer.index, { pathId, socket: access.index, remote, mtu }, now)
    const view = machine.path(slot)
    if (view !== undefined) this.#router.addPath(view, access.setup.name, now)
  }
}
