/** The engine of a mobile host: sockets per access, paths to every anchor, the PAFT. */

import { MobileEnd } from '../../tunnel/engine/mobile-end.ts'
import { answer, done, failed, type Outcome } from '../../tunnel/engine/outcome.ts'
import type { EngineHost } from '../../tunnel/engine/thread.ts'
import {
  allocate,
  type EngineParts,
  secretBytes,
  TunnelEngine,
  tunDevice,
} from '../../tunnel/engine/tunnel-engine.ts'
import { CloseReason, type TunnelEvent } from '../../tunnel/protocol/api.ts'
import { HostForwarder } from '../forwarders/host.ts'
import { HostMachine } from '../machine/host.ts'
import type {
  AccessSetup,
  EngineStatus,
  HostAnswers,
  HostCommand,
  HostEvent,
  HostSetup,
  RemoteAnchor,
} from '../protocol.ts'
import { hostRehearsal } from '../rehearsals.ts'
import { IDLE, Paft } from '../tables/paft.ts'
import { TunnelTable } from '../tables/tunnels.ts'
import { changeKey, keyEvent } from './keys.ts'
import { FlowLister } from './list.ts'
import { Sweeps } from './sweeps.ts'

const RING_BYTES = 4 << 20
const MOST_ROWS = 1 << 17
/** Without data for this long nothing flows. */
const FLOWS_MS = 1000
const NEVER = Number.POSITIVE_INFINITY
/** Events that change nothing in a report. */
const QUIET: ReadonlySet<TunnelEvent['type']> = new Set(['quality', 'frame', 'observed'])

export class HostEngine implements EngineParts<HostCommand, EngineStatus> {
  readonly tunnel: TunnelEngine<HostCommand, HostEvent, RemoteAnchor, EngineStatus>
  readonly #mobile: MobileEnd<AccessSetup>
  readonly #host: HostMachine
  readonly #paft: Paft
  readonly #forwarder: HostForwarder
  readonly #lister: FlowLister
  readonly #sweeps = new Sweeps(4096, 1000)
  /** Until when data counts as flowing; NEVER: it does not. */
  #flowsUntil = NEVER

  constructor(host: EngineHost) {
    const setup = host.data as HostSetup
    this.#paft = new Paft({ allocate, rows: 1024, limit: MOST_ROWS })
    const tunnels = new TunnelTable()
    this.#forwarder = new HostForwarder({
      paft: this.#paft,
      tunnels,
      fix4: setup.fix4,
      fix6: setup.fix6,
      secret: secretBytes(),
    })
    const source = tunDevice(setup)
    const rehearsal = () => hostRehearsal(setup.fix4, setup.fix6)
    this.tunnel = new TunnelEngine(
      host,
      { setup, source, forwarder: this.#forwarder, rehearsal, ringBytes: RING_BYTES },
      this,
    )
    this.#lister = new FlowLister(this.#paft, () => this.tunnel.clock.wall())
    const { machine, peers } = this.tunnel
    this.#host = new HostMachine({
      tunnel: machine,
      paft: this.#paft,
      tunnels,
      forwarder: this.#forwarder,
      wall: () => this.tunnel.clock.wall(),
      tally: this.tunnel.tally,
    })
    this.#mobile = new MobileEnd({
      tunnel: this.tunnel,
      mark: setup.mark,
      pathsOf: (access) => this.#host.pathsOf(access),
      open: (peer, access, config, now) => {
        this.#host.addPath(peer, access.setup.name, config, access.port, now)
        // Godwit anchors are greeted by the announcement of the path.
        if (peers.at(peer)?.kind === 'wireguard') machine.connect(peer, now)
      },
      // Make-before-break is the policy's business.
      onAccess: (access, now) => this.#host.setAccess(access, now),
      onAccessGone: (name, now) => this.#host.removeAccess(name, now),
      rotation: {
        isUsed: (peer, socket) => this.#host.isUsed(peer, socket),
        onReplaced: (socket) => this.#host.noteReplaced(socket),
        log: (level, message) => this.tunnel.emit({ type: 'log', level, message }),
      },
    })
  }

  handleCommand(command: HostCommand, now: number): Outcome {
    switch (command.type) {
      case 'add-peer':
        return this.#addPeer(command.peer, now)
      case 'policies':
        this.#host.setPolicies(command.policies, now)
        return done
      case 'identify':
        this.#host.identify(command.flows, now)
        return done
      case 'replace-key':
      case 'accept-key':
        return changeKey(this.tunnel.machine, this.tunnel.peers.get(command.name), command, now)
      case 'move': {
        const moved = this.#host.move(command.subject, command.flows, command.access, command.static, now)
        return typeof moved === 'number'
          ? answer<HostAnswers['move']>({ flows: moved })
          : failed('ACCESS_DOWN', moved, '`godwit paths` shows what works')
      }
      case 'list':
        return answer<HostAnswers['list']>(
          this.#lister.list(command, now, (row) => this.#host.whereabouts(row)),
        )
      case 'remotes':
      case 'access':
      case 'access-gone':
      case 'wake':
      case 'carrier':
      case 'carrier-port':
        return this.#mobile.handleCommand(command, now)
    }
  }

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    this.#host.handleTunnelEvent(event, now)
    const { emit, peers } = this.tunnel
    const ofKey = keyEvent(event, (peer) => peers.nameOf(peer))
    if (ofKey !== undefined) emit(ofKey)
    else if (event.type === 'handshake-failed')
      emit({
        type: 'log',
        level: 'warn',
        message: `no session with ${peers.nameOf(event.peer)}: ${event.reason}`,
      })
    else if (event.type === 'path') {
      const { state } = event.path
      if (state.name === 'down' && state.reason === CloseReason.error)
        emit({ type: 'send-failed', access: this.#host.pathAccess(event.path.slot) ?? '' })
    }
    this.#mobile.handleTunnelEvent(event, now)
    if (!QUIET.has(event.type)) this.tunnel.reportSoon()
  }

  noteData(now: number): void {
    if (this.#flowsUntil === NEVER) this.#setTraffic(true, now)
    this.#flowsUntil = now + FLOWS_MS
    this.#mobile.noteFlow(now)
    this.#sweeps.noteData(now)
  }

  #setTraffic(flows: boolean, now: number): void {
    this.tunnel.emit({ type: 'traffic', flows })
    this.#host.setTraffic(flows, now)
  }

  nextTimeout(): number | undefined {
    const next = Math.min(this.#host.nextTimeout() ?? NEVER, this.#mobile.nextTimeout())
    return Math.min(next, this.#sweeps.at, this.#flowsUntil)
  }

  handleTimeout(now: number): void {
    this.#host.handleTimeout(now)
    this.#mobile.handleTimeout(now)
    if (now >= this.#flowsUntil) {
      this.#flowsUntil = NEVER
      this.#setTraffic(false, now)
    }
    const slots = this.#sweeps.due(now, this.#mobile.isSettled)
    if (slots === 0) return
    this.#paft.sweep(slots, IDLE, now)
    this.#lister.rest(now)
  }

  afterTurn(_now: number): void {
    if (this.#forwarder.hasNewFlows) {
      const flows = this.#forwarder.takeNewFlows().flatMap((id) => {
        const row = this.#paft.findId(id)
        return row < 0 ? [] : [{ id, flow: this.#paft.tupleAt(row) }]
      })
      this.tunnel.emit({ type: 'new-flows', flows })
    }
    for (let event = this.#host.poll(); event !== undefined; event = this.#host.poll()) {
      this.tunnel.emit(event)
      if (event.type === 'log') this.tunnel.reportSoon()
    }
  }

  status(now: number): EngineStatus {
    this.#mobile.tryOtherEndpoints(now)
    return {
      type: 'status',
      peers: this.#host.peerReports(),
      paths: this.tunnel.paths((slot) => ({
        access: this.#host.pathAccess(slot) ?? '',
        ...(this.#host.pathIsCarried(slot) && { carrier: 'websocket' as const }),
      })),
      counters: {
        flows: this.#paft.size,
        evicted: this.#paft.evicted,
        dropped: this.#forwarder.dropped,
        misaddressed: this.#forwarder.misaddressed,
      },
    }
  }

  #addPeer(setup: RemoteAnchor, now: number): Outcome {
    const added = this.tunnel.addPeer(
      setup,
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
    if (added.ok) this.#host.addAnchor(added.value, setup)
    return added
  }
}
