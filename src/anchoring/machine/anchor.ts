/**
 * The anchor's protocol core: which host is which, their tunnels, and what they ask for in frames. Pure, like the host's.
 *
 * A host known to this anchor has its number in the pool before it first connects (it is given with the invitation), so
 * association is an answer, not an allocation, and holds over restarts of either end.
 */
import { formatAddress } from '../../core/address.ts'
import type { PathState, PathView, TunnelCommands, TunnelEvent } from '../../tunnel/protocol/api.ts'
import { usable } from '../../tunnel/protocol/api.ts'
import type { AnchorForwarder } from '../forwarders/anchor.ts'
import type { AnchorEvent, PeerReport, RemoteHost } from '../protocol.ts'
import type { AnchorRequests, Tally } from '../signalling/api.ts'
import { FrameAnswers } from '../signalling/frames-anchor.ts'
import type { FlowTuple } from '../tables/flow-key.ts'
import type { Groups } from '../tables/groups.ts'
import type { VipaPool } from '../tables/pool.ts'
import type { TunnelTable } from '../tables/tunnels.ts'
import { FrameType, Status, statusText } from '../wire.ts'

interface Host {
  readonly index: number
  readonly setup: RemoteHost
  established: boolean
  /** It still has an invitation's key, which others may have seen. */
  invited: boolean
  /** The log has its refusal, once a run. */
  toldRefusal?: boolean
}

export interface AnchorMachineParts {
  readonly tunnel: TunnelCommands
  readonly tunnels: TunnelTable
  readonly groups: Groups
  readonly forwarder: AnchorForwarder
  readonly pool: VipaPool
  /** Data exchanged with a host so far. */
  readonly tally: (index: number) => Tally
}

export class AnchorMachine implements AnchorRequests {
  readonly #parts: AnchorMachineParts
  readonly #hosts = new Map<number, Host>()
  readonly #events: AnchorEvent[] = []
  readonly #answers: FrameAnswers

  constructor(parts: AnchorMachineParts) {
    this.#parts = parts
    this.#answers = new FrameAnswers(parts.tunnel, this)
  }

  poll(): AnchorEvent | undefined {
    return this.#events.shift()
  }

  /** The host is known to the tunnel machine under `index`. */
  addHost(index: number, setup: RemoteHost): void {
    const invited = setup.invited === true || setup.refused !== undefined
    this.#hosts.set(index, { index, setup, established: false, invited })
    this.#parts.forwarder.assign(index, setup.number, setup.allowed)
    this.#parts.forwarder.hold(index, invited)
  }

  removeHost(index: number): void {
    this.#hosts.delete(index)
    this.#parts.forwarder.revoke(index)
    this.#parts.groups.forget(index)
    for (const row of [...this.#parts.tunnels.rows()])
      if (row.peer === index) this.#parts.tunnels.close(row.localTid)
  }

  nameOf(index: number): string | undefined {
    return this.#hosts.get(index)?.setup.name
  }

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    const host = this.#hosts.get(event.peer as number)
    if (host === undefined) return
    switch (event.type) {
      case 'session':
        host.established = event.up
        break
      case 'path':
        this.#pathChanged(event.path, event.path.state)
        break
      case 'remote': {
        const row = this.#parts.tunnels.atSlot(event.slot)
        if (row !== undefined)
          this.#parts.tunnels.update(row.localTid, {
            remoteTun: { endPoint: formatAddress(event.remote.address), index: event.remote.port },
          })
        break
      }
      case 'path-closed':
        this.#closed(host, event.slot)
        break
      case 'frame':
        if (host.invited && event.code !== FrameType.ASSOCIATION_REQUEST) break
        this.#answers.handleFrame(host.index, event.code, event.body, event.slot, event.counter, now)
        break
      case 'key-confirmed':
        if (event.whose === 'own') break
        host.invited = false
        this.#parts.forwarder.hold(host.index, false)
        break
      default:
        break
    }
  }

  /** A tunnel never seen before is learned from its first packet (UP-30), one announced has its path id as un_tid. */
  #pathChanged(view: PathView, state: PathState): void {
    const { tunnels, forwarder } = this.#parts
    let row = tunnels.atSlot(view.slot)
    if (row === undefined) {
      row = tunnels.open({
        slot: view.slot,
        peer: view.peer,
        localTun: { interface: '', index: view.socket },
        remoteTun: { endPoint: formatAddress(view.remote.address), index: view.remote.port },
        vipNat: this.#addresses(this.#hosts.get(view.peer)),
        unTid: view.pathId,
      })
      if (forwarder.defaultTid(view.peer) === 0) forwarder.setDefaultTid(view.peer, row.localTid)
    }
    tunnels.setUsable(row.localTid, usable(state))
    if (!tunnels.isUsable(forwarder.defaultTid(view.peer))) this.#chooseDefault(view.peer)
  }

  #closed(host: Host, slot: number): void {
    const { tunnels } = this.#parts
    const row = tunnels.atSlot(slot)
    if (row === undefined) return
    tunnels.close(row.localTid)
    this.#parts.groups.leave(host.index, row.localTid)
    if (this.#parts.forwarder.defaultTid(host.index) === row.localTid) this.#chooseDefault(host.index)
  }

  /** The default tunnel is unusable: another tunnel of this host replaces it. */
  #chooseDefault(peer: number): void {
    const { tunnels, forwarder } = this.#parts
    for (const row of tunnels.rows()) {
      if (row.peer !== peer || !tunnels.isUsable(row.localTid)) continue
      forwarder.setDefaultTid(peer, row.localTid)
      return
    }
  }

  #addresses(host: Host | undefined): { v4?: Uint8Array; v6?: Uint8Array } {
    const number = host?.setup.number
    return number === undefined || host?.setup.refused !== undefined
      ? {}
      : { v4: this.#parts.pool.v4(number), v6: this.#parts.pool.v6(number) }
  }

  // ---- what hosts ask (signalling/api.ts)

  associate(index: number): { v4: Uint8Array; v6: Uint8Array } | number {
    const host = this.#hosts.get(index)
    const refused = host?.setup.refused
    if (host !== undefined && refused !== undefined) {
      if (!host.toldRefusal)
        this.#events.push({
          type: 'log',
          level: 'warn',
          message: `refused a host that was invited as ${host.setup.calls ?? host.setup.name}: ${statusText(refused)}`,
        })
      host.toldRefusal = true
      return refused
    }
    const { v4, v6 } = this.#addresses(host)
    return v4 === undefined || v6 === undefined ? Status.OVERLOAD : { v4, v6 }
  }

  handOver(
    index: number,
    unTid: number,
    group: number | 'all',
    flows: readonly FlowTuple[],
    counter: number,
    now: number,
  ): number | undefined {
    const { tunnels, forwarder } = this.#parts
    const row = tunnels.atUnTid(index, unTid)
    if (row === undefined || !tunnels.isUsable(row.localTid)) return undefined
    return forwarder.bind(index, row.localTid, group, flows, counter, now)
  }

  setMode(index: number, isStatic: boolean, flows: readonly FlowTuple[]): number {
    return this.#parts.forwarder.setStatic(index, isStatic, flows)
  }

  tally(index: number): Tally {
    return this.#parts.tally(index)
  }

  *peerReports(): Generator<PeerReport> {
    for (const host of this.#hosts.values()) {
      if (host.setup.refused !== undefined) continue
      const { v4, v6 } = this.#addresses(host)
      yield {
        name: host.setup.name,
        established: host.established,
        ...(v4 && { v4 }),
        ...(v6 && { v6 }),
      }
    }
  }
}
