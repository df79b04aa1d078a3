/**
 * The engine worker of a router, mobile or at home: a socket per access (mobile) or one that listens (home), a path over
 * each access to each peer that has an address, and the forwarder that spreads classes over them.
 */

import { openUdp } from '../linux/udp.ts'
import { AccessPaths } from '../tunnel/access-paths.ts'
import { AccessSockets } from '../tunnel/access-sockets.ts'
import type { Engine } from '../tunnel/engine.ts'
import type { TunnelEvent } from '../tunnel/machine/api.ts'
import { EngineNode, type NodeParts } from '../tunnel/node.ts'
import { pathReports } from '../tunnel/reports.ts'
import type { EngineHost } from '../tunnel/worker.ts'
import { RoutingForwarder } from './forwarder.ts'
import { RouterMachine } from './machine.ts'
import type { AccessSetup, Command, Event, RouterPeer, RouterSetup } from './protocol.ts'
import { routerRehearsal } from './rehearsal.ts'

const RING_BYTES = 8 << 20
/** Packets held while order is restored: 150 ms of 250 Mbit/s. */
const REORDER_PACKETS = 3500
/** Milliseconds between measurements of a path in use. */
const MEASURE_MS = 25
const REPORT_MS = 250

export class RouterNode implements NodeParts<Command> {
  readonly #tell: (event: Event) => void
  readonly #node: EngineNode<Command>
  readonly #router: RouterMachine
  readonly #forwarder: RoutingForwarder
  readonly #sockets: AccessSockets<AccessSetup>
  readonly #paths: AccessPaths<AccessSetup>
  /** Indices of peers by name. */
  readonly #peers = new Map<string, number>()
  #reportAt = 0

  constructor(host: EngineHost) {
    const setup = host.data as RouterSetup
    this.#forwarder = new RoutingForwarder(setup.own)
    this.#tell = host.post as (event: Event) => void
    this.#node = new EngineNode(
      {
        device: setup.device,
        mtu: setup.mtu,
        privateKey: setup.privateKey,
        forwarder: this.#forwarder,
        rehearsal: routerRehearsal(),
        ringBytes: RING_BYTES,
        persistent: true,
        poller: host.poller,
        tell: this.#tell,
        reorderPackets: REORDER_PACKETS,
        measureInterval: MEASURE_MS,
        ...(setup.timestampFloor !== undefined && { timestampFloor: setup.timestampFloor }),
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
    const { machine } = this.#node
    this.#paths = new AccessPaths({
      machine,
      sockets: this.#sockets,
      open: (peer, access, config, now) => {
        const view = machine.path(machine.addPath(peer, config, now))
        if (view !== undefined) this.#router.addPath(view, access.setup.name, now)
      },
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
      case 'remotes': {
        const peer = this.#peers.get(command.name)
        if (peer !== undefined) this.#paths.setRemotes(peer, command.remotes, now)
        break
      }
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
    if (event.type === 'path-closed') this.#sockets.pathClosed(event.slot)
    if (event.type === 'timestamp-sent') this.#tell({ type: 'timestamp', floor: event.floor })
    if (event.type === 'handshake-failed') {
      const name = [...this.#peers].find(([, index]) => index === event.peer)?.[0] ?? ''
      this.#tell({ type: 'log', level: 'warn', message: `no session with ${name}: ${event.reason}` })
    }
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

  report(now: number): void {
    this.#paths.tryOtherFamilies(now)
    const { machine, engine } = this.#node
    const { datapath } = engine
    const paths = pathReports({ machine, datapath, peers: this.#peers }, (slot) => ({
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
        ...this.#node.fallbacks.counters(),
      },
    })
  }

  #addPeer(setup: RouterPeer, now: number): void {
    const index = this.#node.machine.addPeer(
      {
        publicKey: setup.publicKey,
        ...(setup.presharedKey && { presharedKey: setup.presharedKey }),
        ...(setup.keepalive > 0 && setup.leads && { persistentKeepalive: setup.keepalive }),
        dialect: setup.leads ? 'godwit' : 'auto',
        allowedIps: setup.subnets.map(({ address, length }) => ({ address, prefixLength: length })),
      },
      now,
    )
    this.#peers.set(setup.name, index)
    this.#forwarder.addPeer(index, setup.subnets)
    this.#router.addPeer(index, setup.name, setup.leads)
  }

  /** Sockets and paths exist exactly while the access is up. */
  #setAccess(setup: AccessSetup, now: number): void {
    this.#sockets.closeStale(setup, setup.up, now)
    this.#router.setAccess(setup.name, setup.priority, now)
    if (!setup.up) return
    const opened = this.#sockets.open(setup, now)
    if (opened !== undefined) this.#paths.accessOpened(opened, now)
  }
}
