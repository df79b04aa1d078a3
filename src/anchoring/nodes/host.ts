/** The engine worker of a mobile host: sockets per access, paths to every anchor, the PAFT. */

import { AccessPaths } from '../../tunnel/access-paths.ts'
import { AccessSockets } from '../../tunnel/access-sockets.ts'
import type { Engine } from '../../tunnel/engine.ts'
import { CloseReason, type TunnelEvent } from '../../tunnel/machine/api.ts'
import { allocate, EngineNode, type NodeParts, secretBytes } from '../../tunnel/node.ts'
import { pathReports } from '../../tunnel/reports.ts'
import type { EngineHost } from '../../tunnel/worker.ts'
import { HostForwarder } from '../forwarders/host.ts'
import { HostMachine } from '../machine/host.ts'
import type { AccessSetup, Command, Event, HostSetup, PeerSetup } from '../protocol.ts'
import { hostRehearsal } from '../rehearsals.ts'
import { IDLE, Paft } from '../tables/paft.ts'
import { TunnelTable } from '../tables/tunnels.ts'
import { listFlows } from './list.ts'

const RING_BYTES = 4 << 20
const SWEEP_MS = 1000
const SWEEP_SLOTS = 4096
const MOST_ROWS = 1 << 17
/** Without data for this long nothing flows. */
const FLOWS_MS = 1000
const NEVER = Number.POSITIVE_INFINITY

export class HostNode implements NodeParts<Command> {
  readonly #tell: (event: Event) => void
  readonly #node: EngineNode<Command>
  readonly #host: HostMachine
  readonly #paft: Paft
  readonly #forwarder: HostForwarder
  readonly #sockets: AccessSockets<AccessSetup>
  readonly #paths: AccessPaths<AccessSetup>
  readonly #peers = new Map<string, { readonly index: number; readonly setup: PeerSetup }>()
  #sweepAt = 0
  /** Until when data counts as flowing; NEVER: it does not. */
  #flowsUntil = NEVER

  constructor(host: EngineHost) {
    const setup = host.data as HostSetup
    const tell = host.post as (event: Event) => void
    this.#tell = tell
    this.#paft = new Paft({ allocate, rows: 1024, limit: MOST_ROWS })
    const tunnels = new TunnelTable()
    this.#forwarder = new HostForwarder({
      paft: this.#paft,
      tunnels,
      fix4: setup.fix4,
      fix6: setup.fix6,
      secret: secretBytes(),
    })
    this.#node = new EngineNode(
      {
        device: setup.device,
        mtu: setup.mtu,
        privateKey: setup.privateKey,
        forwarder: this.#forwarder,
        rehearsal: hostRehearsal(setup.fix4, setup.fix6),
        ringBytes: RING_BYTES,
        persistent: true,
        poller: host.poller,
        ...(setup.timestampFloor !== undefined && { timestampFloor: setup.timestampFloor }),
        tell,
      },
      this,
    )
    this.#sockets = new AccessSockets({
      node: this.#node,
      mark: setup.mark,
      pathsOf: (access) => this.#host.pathsOf(access),
    })
    this.#host = new HostMachine({
      tunnel: this.#node.machine,
      paft: this.#paft,
      tunnels,
      forwarder: this.#forwarder,
      wall: () => this.#node.clock.wall(),
      tally: this.#node.tally,
    })
    const { machine } = this.#node
    this.#paths = new AccessPaths({
      machine,
      sockets: this.#sockets,
      open: (peer, access, config, now) => {
        this.#host.addPath(peer, access.setup.name, config, access.port, now)
        // Godwit anchors are greeted by the announcement of the path.
        if (this.#peerOf(peer)?.setup.kind === 'wireguard') machine.connect(peer, now)
      },
    })
  }

  get engine(): Engine {
    return this.#node.engine
  }

  get onCommand(): (command: unknown) => void {
    return this.#node.onCommand
  }

  handleCommand(command: Command, now: number): void {
    switch (command.type) {
      case 'add-peer':
        this.#addPeer(command.peer, now)
        break
      case 'remotes': {
        const peer = this.#peers.get(command.name)
        if (peer !== undefined) this.#paths.setRemotes(peer.index, command.remotes, now)
        break
      }
      case 'access':
        this.#setAccess(command.access, now)
        break
      case 'access-gone':
        this.#sockets.close(command.name, now)
        this.#host.removeAccess(command.name, now)
        break
      case 'policies':
        this.#host.setPolicies(command.policies, now)
        break
      case 'identify':
        this.#host.identify(command.flows, now)
        break
      case 'move': {
        const moved = this.#host.move(command.subject, command.flows, command.access, command.static, now)
        this.#tell(
          typeof moved === 'number'
            ? { type: 'moved', request: command.request, flows: moved }
            : { type: 'moved', request: command.request, flows: 0, error: moved },
        )
        break
      }
      case 'list': {
        const listed = listFlows(this.#paft, command.limit, (row) => this.#host.whereabouts(row))
        this.#tell({ type: 'listed', request: command.request, ...listed })
        break
      }
      case 'wake':
        this.#node.machine.wake(now)
        break
      default:
        break
    }
  }

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    this.#host.handleTunnelEvent(event, now)
    const nameOf = () => this.#peerOf(event.peer)?.setup.name ?? ''
    if (event.type === 'timestamp-sent') this.#tell({ type: 'timestamp', floor: event.floor })
    else if (event.type === 'key-confirmed')
      this.#tell({ type: 'key-confirmed', name: nameOf(), publicKey: event.publicKey })
    else if (event.type === 'handshake-failed')
      this.#tell({ type: 'log', level: 'warn', message: `no session with ${nameOf()}: ${event.reason}` })
    else if (event.type === 'path-closed') this.#sockets.pathClosed(event.slot)
    else if (event.type === 'path') {
      const { state } = event.path
      if (state.name === 'down' && state.reason === CloseReason.error)
        this.#tell({ type: 'send-failed', access: this.#host.pathAccess(event.path.slot) ?? '' })
    }
    if (event.type !== 'quality' && event.type !== 'frame') this.#node.reportSoon()
  }

  noteData(now: number): void {
    if (this.#flowsUntil === NEVER) this.#setTraffic(true, now)
    this.#flowsUntil = now + FLOWS_MS
  }

  #setTraffic(flows: boolean, now: number): void {
    this.#tell({ type: 'traffic', flows })
    this.#host.setTraffic(flows, now)
  }

  nextTimeout(): number | undefined {
    return Math.min(this.#host.nextTimeout() ?? NEVER, this.#sweepAt, this.#flowsUntil)
  }

  handleTimeout(now: number): void {
    this.#host.handleTimeout(now)
    if (now >= this.#flowsUntil) {
      this.#flowsUntil = NEVER
      this.#setTraffic(false, now)
    }
    if (now < this.#sweepAt) return
    this.#sweepAt = now + SWEEP_MS
    this.#paft.sweep(SWEEP_SLOTS, IDLE, now)
  }

  afterTurn(_now: number): void {
    if (this.#forwarder.hasNewFlows) {
      const flows = this.#forwarder.takeNewFlows().flatMap((id) => {
        const row = this.#paft.findId(id)
        return row < 0 ? [] : [{ id, flow: this.#paft.tupleAt(row) }]
      })
      this.#tell({ type: 'new-flows', flows })
    }
    for (let event = this.#host.poll(); event !== undefined; event = this.#host.poll()) {
      this.#tell(event)
      if (event.type === 'log') this.#node.reportSoon()
    }
  }

  report(now: number): void {
    this.#paths.tryOtherFamilies(now)
    const { machine, engine } = this.#node
    const peers = [...this.#peers].map(([name, { index }]) => [name, index] as const)
    const paths = pathReports({ machine, datapath: engine.datapath, peers }, (slot) => ({
      access: this.#host.pathAccess(slot) ?? '',
    }))
    this.#tell({
      type: 'status',
      peers: this.#host.peerReports(),
      paths,
      counters: {
        flows: this.#paft.size,
        evicted: this.#paft.evicted,
        dropped: this.#forwarder.dropped,
        misaddressed: this.#forwarder.misaddressed,
        ...this.#node.fallbacks.counters(),
      },
    })
  }

  #addPeer(setup: PeerSetup, now: number): void {
    const index = this.#node.machine.addPeer(
      {
        publicKey: setup.publicKey,
        ...(setup.presharedKey && { presharedKey: setup.presharedKey }),
        ...(setup.privateKey && { privateKey: setup.privateKey }),
        ...(setup.nextPrivateKey && { nextPrivateKey: setup.nextPrivateKey }),
        ...(setup.keepalive !== undefined && { persistentKeepalive: setup.keepalive }),
        dialect: setup.kind === 'wireguard' ? 'stock' : 'godwit',
      },
      now,
    )
    this.#peers.set(setup.name, { index, setup })
    this.#host.addAnchor(index, setup)
    if (setup.remotes !== undefined) this.#paths.setRemotes(index, setup.remotes, now)
  }

  /** Sockets and paths exist exactly while the access is not down; make-before-break is the policy's business. */
  #setAccess(setup: AccessSetup, now: number): void {
    const up = setup.health !== 'down'
    this.#sockets.closeStale(setup, up, now)
    this.#host.setAccess(setup, now)
    if (!up) return
    const opened = this.#sockets.open(setup, now)
    if (opened !== undefined) this.#paths.accessOpened(opened, now)
  }

  #peerOf(index: number | undefined) {
    return [...this.#peers.values()].find((peer) => peer.index === index)
  }
}
