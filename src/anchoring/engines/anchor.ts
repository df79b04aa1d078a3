/** The engine of an anchor: one dual-stack socket, every host a peer, the mirrored PAFT. */

import { answer, attempt, done, type Outcome } from '../../tunnel/engine/outcome.ts'
import type { EngineHost } from '../../tunnel/engine/thread.ts'
import {
  allocate,
  type EngineParts,
  secretBytes,
  TunnelEngine,
  tunDevice,
} from '../../tunnel/engine/tunnel-engine.ts'
import type { TunnelEvent } from '../../tunnel/protocol/api.ts'
import { AnchorForwarder } from '../forwarders/anchor.ts'
import { AnchorMachine } from '../machine/anchor.ts'
import type {
  AnchorAnswers,
  AnchorCommand,
  AnchorEvent,
  AnchorSetup,
  EngineStatus,
  RemoteHost,
} from '../protocol.ts'
import { anchorRehearsal } from '../rehearsals.ts'
import { Groups } from '../tables/groups.ts'
import { IDLE, Paft } from '../tables/paft.ts'
import { VipaPool } from '../tables/pool.ts'
import { TunnelTable } from '../tables/tunnels.ts'
import { changeKey, keyEvent } from './keys.ts'
import { FlowLister } from './list.ts'
import { Sweeps } from './sweeps.ts'

const RING_BYTES = 16 << 20
/** Most paths in one report to the main thread. */
const MOST_REPORTED = 2000

export class AnchorEngine implements EngineParts<AnchorCommand, EngineStatus> {
  readonly tunnel: TunnelEngine<AnchorCommand, AnchorEvent, RemoteHost, EngineStatus>
  readonly #anchor: AnchorMachine
  readonly #paft: Paft
  readonly #tunnels: TunnelTable
  readonly #groups: Groups
  readonly #forwarder: AnchorForwarder
  readonly #lister: FlowLister
  readonly #sweeps = new Sweeps(16_384, 500)

  constructor(host: EngineHost) {
    const setup = host.data as AnchorSetup
    const pool = new VipaPool({
      v4: { address: setup.pool4.address, prefix: setup.pool4.length },
      v6: { address: setup.pool6.address, prefix: setup.pool6.length },
    })
    this.#paft = new Paft({ allocate, rows: 1024, limit: 1 << 20 })
    this.#tunnels = new TunnelTable()
    this.#groups = new Groups(this.#paft)
    this.#forwarder = new AnchorForwarder({
      paft: this.#paft,
      tunnels: this.#tunnels,
      groups: this.#groups,
      v4Base: pool.v4Base,
      numbers: pool.last + 1,
      v6Prefix: setup.pool6.address,
      secret: secretBytes(),
    })
    const source = tunDevice(setup)
    this.tunnel = new TunnelEngine(
      host,
      { setup, source, forwarder: this.#forwarder, rehearsal: anchorRehearsal, ringBytes: RING_BYTES },
      this,
    )
    this.#lister = new FlowLister(this.#paft, () => this.tunnel.clock.wall())
    this.#anchor = new AnchorMachine({
      tunnel: this.tunnel.machine,
      tunnels: this.#tunnels,
      groups: this.#groups,
      forwarder: this.#forwarder,
      pool,
      tally: this.tunnel.tally,
    })
    const [first, ...others] = setup.listenPorts
    this.tunnel.listen(first!)
    for (const port of others) this.#listenAlso(port)
  }

  #listenAlso(port: number): void {
    const opened = attempt(() => this.tunnel.listen(port))
    if (!opened.ok) this.tunnel.emit({ type: 'log', level: 'warn', message: opened.failure.message })
  }

  handleCommand(command: AnchorCommand, now: number): Outcome {
    switch (command.type) {
      case 'add-peer':
        return this.#addHost(command.peer, now)
      case 'remove-peer': {
        const index = this.tunnel.removePeer(command.name, now)
        if (index !== undefined) this.#anchor.removeHost(index)
        return done
      }
      case 'replace-key':
      case 'accept-key':
        return changeKey(this.tunnel.machine, this.tunnel.peers.get(command.name), command, now)
      case 'renew-identity':
        return attempt(() => this.tunnel.machine.renewIdentity(command.privateKey))
      case 'list':
        return answer<AnchorAnswers['list']>(this.#lister.list(command, now, (row) => this.#whereabouts(row)))
    }
  }

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    this.#anchor.handleTunnelEvent(event, now)
    const ofKey = keyEvent(event, (peer) => this.tunnel.peers.nameOf(peer))
    if (ofKey !== undefined) this.tunnel.emit(ofKey)
    if (event.type === 'session') this.tunnel.reportSoon()
  }

  noteData(now: number): void {
    this.#sweeps.noteData(now)
  }

  nextTimeout(): number {
    return this.#sweeps.at
  }

  handleTimeout(now: number): void {
    const slots = this.#sweeps.due(now)
    if (slots === 0) return
    this.#forwarder.sweep(slots, IDLE, now)
    this.#lister.rest(now)
  }

  afterTurn(): void {
    for (let event = this.#anchor.poll(); event !== undefined; event = this.#anchor.poll())
      this.tunnel.emit(event)
  }

  status(): EngineStatus {
    return {
      type: 'status',
      peers: [...this.#anchor.peerReports()],
      paths: this.tunnel.paths(() => ({ access: '' }), MOST_REPORTED),
      counters: {
        flows: this.#paft.size,
        evicted: this.#paft.evicted,
        spoofed: this.#forwarder.spoofed,
        unroutable: this.#forwarder.unroutable,
        held: this.#forwarder.held,
        learned: this.#forwarder.learned,
      },
    }
  }

  #addHost(setup: RemoteHost, now: number): Outcome {
    const added = this.tunnel.addPeer(
      setup,
      {
        publicKey: setup.publicKey,
        ...(setup.presharedKey && { presharedKey: setup.presharedKey }),
        ...(setup.nextPublicKey && { nextPublicKey: setup.nextPublicKey }),
        ...(setup.nextPrivateKey && { nextPrivateKey: setup.nextPrivateKey }),
        ...(setup.invited && { invited: true }),
        ...(setup.refused !== undefined && { spent: true }),
        dialect: setup.kind === 'wireguard' ? 'stock' : 'auto',
      },
      now,
    )
    if (added.ok) this.#anchor.addHost(added.value, setup)
    return added
  }

  /** The host of a row, and which of its paths. */
  #whereabouts(row: number): { policy: string; peer: string; access: string } {
    const group = this.#paft.groupAt(row)
    const tunnel = this.#tunnels.get(this.#groups.tunnelOf[group]!)
    const peer = this.#anchor.nameOf(this.#groups.peerOf[group]!) ?? ''
    return { policy: '', peer, access: tunnel === undefined ? '' : `path ${tunnel.unTid}` }
  }
}
