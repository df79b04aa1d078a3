/** The engine worker of an anchor: one dual-stack socket, every host a peer, the mirrored PAFT. */

import { openUdp } from '../../linux/udp.ts'
import type { Engine } from '../../tunnel/engine.ts'
import type { TunnelEvent } from '../../tunnel/machine/api.ts'
import { allocate, EngineNode, type NodeParts, secretBytes } from '../../tunnel/node.ts'
import { pathReports } from '../../tunnel/reports.ts'
import type { EngineHost } from '../../tunnel/worker.ts'
import { AnchorForwarder } from '../forwarders/anchor.ts'
import { AnchorMachine } from '../machine/anchor.ts'
import type { AnchorSetup, Command, Event, PeerSetup } from '../protocol.ts'
import { anchorRehearsal } from '../rehearsals.ts'
import { Groups } from '../tables/groups.ts'
import { IDLE, Paft } from '../tables/paft.ts'
import { VipaPool } from '../tables/pool.ts'
import { TunnelTable } from '../tables/tunnels.ts'
import { listFlows } from './list.ts'

const RING_BYTES = 16 << 20
const SWEEP_MS = 500
const SWEEP_SLOTS = 16_384
/** Paths told to the main thread in one report. */
const MOST_REPORTED = 2000

export class AnchorNode implements NodeParts<Command> {
  readonly #tell: (event: Event) => void
  readonly #node: EngineNode<Command>
  readonly #anchor: AnchorMachine
  readonly #paft: Paft
  readonly #tunnels: TunnelTable
  readonly #groups: Groups
  readonly #forwarder: AnchorForwarder
  readonly #hosts = new Map<string, number>()
  #sweepAt = 0

  constructor(host: EngineHost) {
    const setup = host.data as AnchorSetup
    const tell = host.post as (event: Event) => void
    this.#tell = tell
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
    this.#node = new EngineNode(
      {
        device: setup.device,
        mtu: setup.mtu,
        privateKey: setup.privateKey,
        forwarder: this.#forwarder,
        rehearsal: anchorRehearsal(),
        ringBytes: RING_BYTES,
        persistent: true,
        poller: host.poller,
        tell,
      },
      this,
    )
    this.#anchor = new AnchorMachine({
      tunnel: this.#node.machine,
      tunnels: this.#tunnels,
      groups: this.#groups,
      forwarder: this.#forwarder,
      pool,
      tally: this.#node.tally,
    })
    const socket = openUdp(this.#node.arena, { family: 6, port: setup.listenPort, multihomed: true })
    this.#node.engine.addSocket(socket)
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
        this.#addHost(command.peer, now)
        break
      case 'remove-peer': {
        const index = this.#hosts.get(command.name)
        if (index === undefined) break
        this.#hosts.delete(command.name)
        this.#anchor.removeHost(index)
        this.#node.machine.removePeer(index, now)
        break
      }
      case 'accept-key': {
        const index = this.#hosts.get(command.name)
        if (index !== undefined) this.#node.machine.acceptKey(index, command.publicKey, now)
        break
      }
      case 'list': {
        const listed = listFlows(this.#paft, command.limit, (row) => this.#whereabouts(row))
        this.#tell({ type: 'listed', request: command.request, ...listed })
        break
      }
      default:
        break
    }
  }

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    this.#anchor.handleTunnelEvent(event, now)
    if (event.type === 'session') this.#node.reportSoon()
  }

  noteData(): void {}

  nextTimeout(): number {
    return this.#sweepAt
  }

  handleTimeout(now: number): void {
    if (now < this.#sweepAt) return
    this.#sweepAt = now + SWEEP_MS
    this.#forwarder.sweep(SWEEP_SLOTS, IDLE, now)
  }

  afterTurn(_now: number): void {
    for (let event = this.#anchor.poll(); event !== undefined; event = this.#anchor.poll()) this.#tell(event)
  }

  report(_now: number): void {
    const { machine, engine } = this.#node
    const paths = pathReports(
      { machine, datapath: engine.datapath, peers: this.#hosts },
      () => ({ access: '' }),
      MOST_REPORTED,
    )
    this.#tell({
      type: 'status',
      peers: [...this.#anchor.peerReports()],
      paths,
      counters: {
        flows: this.#paft.size,
        evicted: this.#paft.evicted,
        spoofed: this.#forwarder.spoofed,
        unroutable: this.#forwarder.unroutable,
        held: this.#forwarder.held,
        learned: this.#forwarder.learned,
        faults: this.#node.faults,
        ...this.#node.fallbacks.counters(),
      },
    })
  }

  #addHost(setup: PeerSetup, now: number): void {
    const index = this.#node.machine.addPeer(
      {
        publicKey: setup.publicKey,
        ...(setup.presharedKey && { presharedKey: setup.presharedKey }),
        ...(setup.nextPublicKey && { nextPublicKey: setup.nextPublicKey }),
        ...(setup.invited && { invited: true }),
        dialect: setup.kind === 'wireguard' ? 'stock' : 'auto',
      },
      now,
    )
    this.#hosts.set(setup.name, index)
    this.#anchor.addHost(index, setup)
  }

  /** The host of a row, and which of its paths. */
  #whereabouts(row: number): { policy: string; peer: string; access: string } {
    const group = this.#paft.groupAt(row)
    const tunnel = this.#tunnels.get(this.#groups.tunnelOf[group]!)
    const peer = this.#anchor.nameOf(this.#groups.peerOf[group]!) ?? ''
    return { policy: '', peer, access: tunnel === undefined ? '' : `path ${tunnel.unTid}` }
  }
}
