/**
 * The engine of a router, mobile or at home: a socket per access (mobile) or one that listens (home), a path over each
 * access to each peer that has an address, and the forwarder that spreads classes over them.
 */

import { MobileEnd } from '../tunnel/engine/mobile-end.ts'
import { done, type Outcome } from '../tunnel/engine/outcome.ts'
import type { EngineHost } from '../tunnel/engine/thread.ts'
import { type EngineParts, TunnelEngine, tunDevice } from '../tunnel/engine/tunnel-engine.ts'
import type { TunnelEvent } from '../tunnel/protocol/api.ts'
import { RoutingForwarder } from './forwarder.ts'
import { RouterMachine } from './machine.ts'
import type {
  AccessSetup,
  RouterCommand,
  RouterEvent,
  RouterPeer,
  RouterSetup,
  RouterStatus,
} from './protocol.ts'
import { routerRehearsal } from './rehearsal.ts'

const RING_BYTES = 8 << 20
/** Packets held while order is restored: 150 ms of 250 Mbit/s. */
const REORDER_PACKETS = 3500
/** Milliseconds between measurements of a path in use. */
const MEASURE_MS = 25
const REPORT_MS = 250

export class RouterEngine implements EngineParts<RouterCommand, RouterStatus> {
  readonly tunnel: TunnelEngine<RouterCommand, RouterEvent, RouterPeer, RouterStatus>
  readonly #mobile: MobileEnd<AccessSetup>
  readonly #router: RouterMachine
  readonly #forwarder: RoutingForwarder

  constructor(host: EngineHost) {
    const setup = host.data as RouterSetup
    this.#forwarder = new RoutingForwarder(setup.own, setup.carryDscp)
    this.tunnel = new TunnelEngine(
      host,
      {
        setup,
        source: tunDevice(setup),
        forwarder: this.#forwarder,
        rehearsal: routerRehearsal,
        ringBytes: RING_BYTES,
        reorderPackets: REORDER_PACKETS,
        measureInterval: MEASURE_MS,
        reportMs: REPORT_MS,
      },
      this,
    )
    const { machine, engine } = this.tunnel
    this.#router = new RouterMachine({
      tunnel: machine,
      forwarder: this.#forwarder,
      redirect: (from, to) => engine.datapath.redirect(from, to),
      retryParked: () => engine.retryParked(),
      setStandby: (slot, ms) => machine.setStandby(slot, ms),
    })
    this.#mobile = new MobileEnd({
      tunnel: this.tunnel,
      mark: setup.mark,
      pathsOf: (access) => this.#router.pathsOf(access),
      open: (peer, access, config, now) => {
        const view = machine.path(machine.addPath(peer, config, now))
        if (view !== undefined) this.#router.addPath(view, access.setup.name, now)
      },
      onAccess: ({ name, priority }, now) => this.#router.setAccess(name, priority, now),
      onAccessGone: () => {},
    })
    if (setup.listenPort !== undefined) this.tunnel.listen(setup.listenPort)
  }

  handleCommand(command: RouterCommand, now: number): Outcome {
    this.tunnel.reportSoon()
    switch (command.type) {
      case 'add-peer':
        return this.#addPeer(command.peer, now)
      case 'use':
        this.#router.setUse(command.access, command.use, now)
        return done
      case 'terms':
        this.#router.setTerms(command.access, command.terms, now)
        return done
      case 'classes':
        this.#router.setClasses(command.classes, now)
        return done
      case 'mode':
        this.#router.setMode(command.name, command.mode, now)
        return done
      case 'prefer':
        this.#router.prefer(command.access, now, command.classes)
        return done
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
    this.#router.handleTunnelEvent(event, now)
    this.#mobile.handleTunnelEvent(event, now)
    if (event.type === 'handshake-failed') {
      const name = this.tunnel.peers.nameOf(event.peer)
      this.tunnel.emit({ type: 'log', level: 'warn', message: `no session with ${name}: ${event.reason}` })
    }
    if (event.type === 'path' || event.type === 'path-closed' || event.type === 'session')
      this.tunnel.reportSoon()
  }

  nextTimeout(): number | undefined {
    return this.#router.nextTimeout()
  }

  handleTimeout(now: number): void {
    this.#router.handleTimeout(now)
  }

  afterTurn(): void {
    for (let event = this.#router.poll(); event !== undefined; event = this.#router.poll())
      this.tunnel.emit(event)
  }

  /** Nothing waits for data here. */
  noteData(): void {}

  status(now: number): RouterStatus {
    this.#mobile.tryOtherEndpoints(now)
    const { reorder, inbound, sender } = this.tunnel.engine.datapath
    return {
      type: 'status',
      peers: this.#router.peerReports(),
      paths: this.tunnel.paths((slot) => ({
        access: this.#router.accessOf(slot),
        ...this.#router.useOf(slot),
      })),
      classes: this.#router.classReports(),
      counters: {
        ...this.#forwarder.counts,
        without_path: this.#router.counts.bare,
        without_path_ms: this.#router.counts.bareMs,
        copied: sender.copied,
        duplicates: inbound.counts.replayed,
        congested: inbound.counts.congested,
        ordered: reorder?.counts.ordered ?? 0,
        held: reorder?.counts.held ?? 0,
        late: reorder?.counts.late ?? 0,
        gaps_lost: reorder?.counts.lost ?? 0,
        gaps_timed_out: reorder?.counts.timedOut ?? 0,
        reorder_overflowed: reorder?.counts.overflowed ?? 0,
      },
    }
  }

  #addPeer(setup: RouterPeer, now: number): Outcome {
    const added = this.tunnel.addPeer(
      setup,
      {
        publicKey: setup.publicKey,
        ...(setup.presharedKey && { presharedKey: setup.presharedKey }),
        ...(setup.keepalive > 0 && setup.leads && { persistentKeepalive: setup.keepalive }),
        dialect: setup.leads ? 'godwit' : 'auto',
        allowedIps: setup.subnets.map(({ address, length }) => ({ address, prefixLength: length })),
      },
      now,
    )
    if (!added.ok) return added
    this.#forwarder.addPeer(added.value, setup.subnets)
    this.#router.addPeer(added.value, setup.name, setup.leads)
    return done
  }
}
