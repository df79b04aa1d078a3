/**
 * The engine of a node: a socket per access, the node machine's signalling and the tunnel's packets through the same sockets
 * (what a NAT maps is the socket), a path for each way that works, and the choice among them. The tunnel proves and watches
 * paths; here they are opened, compared and closed.
 */
import { formatAddress } from '../../core/address.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { formatEndpoint } from '../../core/flow.ts'
import { publicKeyOf } from '../../crypto/keys.ts'
import { realRandom } from '../../linux/clock.ts'
import { NAT64_PREFIX } from '../../linux/sockaddr.ts'
import { AccessSockets, type OpenAccess } from '../../tunnel/engine/access-sockets.ts'
import { done, type Outcome } from '../../tunnel/engine/outcome.ts'
import { RenewedSockets } from '../../tunnel/engine/renewed-sockets.ts'
import type { EngineHost } from '../../tunnel/engine/thread.ts'
import { type EngineParts, TunnelEngine, tunDevice } from '../../tunnel/engine/tunnel-engine.ts'
import { type PathView, type TunnelEvent, usable } from '../../tunnel/protocol/api.ts'
import { Verdict } from '../../tunnel/seam.ts'
import type { NodeOutput, NodeSocket, Step } from '../machine/api.ts'
import { NodeMachine } from '../machine/node.ts'
import { isLocal } from '../machine/pair.ts'
import { endpointKey, type RouteKind, sameEndpoint } from '../tables.ts'
import { overlayCrypto } from './crypto.ts'
import { OverlayForwarder } from './forwarder.ts'
import type {
  NodeAccess,
  NodeCommand,
  NodeEvent,
  NodePeer,
  NodeSetup,
  NodeStatus,
  OverlayPath,
} from './protocol.ts'

const RING_BYTES = 8 << 20
const REPORT_MS = 500
/** Path ids of the leader of a pair and of the other (docs/wire/overlay.md). */
const LEADER_IDS = [1, 127] as const
const FOLLOWER_IDS = [128, 254] as const
/** Paths this end keeps to one peer. */
const MAX_PATHS = 8
/** A path that has been dead for so long while another works is closed (ms). */
const DEAD_MS = 30_000
/** Interval between probes of a standby path (ms), shorter than the lifetime of NAT mappings. */
const STANDBY_MS = 10_000
/** When packets for a peer have had no path for this long (ms), a new direction is requested. */
const NO_PATH_MS = 400
/** The same when the best path has been silent under packets for this long since it became suspect (ms): the peer may sleep behind a NAT that has forgotten. */
const DOUBTED_MS = 150
/** What left on it no longer ago may still be lost, and is sent again where it works again (ms). */
const SENT_MS = 3_000
/** Packets count as wanting a path for so long (ms). */
const WANTED_MS = 60_000
/** Without packets for so long (ms), ways over other accesses than the one in use are not kept. */
const REST_MS = 120_000
/** Packets for a peer that was refused are dropped for so long (ms). */
const REFUSED_MS = 5_000
/** A socket that was replaced ranks behind the one that has replaced it, before the next access. */
const BEHIND = 0.5
const NEVER = Number.POSITIVE_INFINITY
const RANKS: Readonly<Record<RouteKind, number>> = { lan: 0, direct: 1, relay: 2 }

interface Known extends NodePeer {
  readonly publicKey: Uint8Array
  readonly leads: boolean
  readonly pairKey: Uint8Array
  /** Ports of relays that it is reached through. */
  readonly relays: Set<string>
  /** Where it says that it is reached, the place that it prefers first, by endpoint. */
  places: readonly string[]
  /** Packets exchanged with it, and when there was the last one. */
  readonly traffic: { packets: number; at: number }
  /** Its ways over other accesses were given up. */
  rests: boolean
  /** Paths to where it should be, until it has answered somewhere. */
  readonly hoped: Set<number>
  slot: number
  reason: string
  /** Without a path since. */
  since: number
  /** When a program or a user asked for it, or its last path ended. */
  wantedAt: number
  /** The peer has asked for a direction: where no way was found then, this end asks for one too, once. */
  helps: boolean
}

export class NodeEngine implements EngineParts<NodeCommand, NodeStatus> {
  readonly tunnel: TunnelEngine<NodeCommand, NodeEvent, Known, NodeStatus>
  readonly #forwarder = new OverlayForwarder()
  readonly #sockets: AccessSockets<NodeAccess>
  readonly #renewed: RenewedSockets
  readonly #node: NodeMachine
  #steps: Step[] = []
  /** As the daemon found its addresses. */
  #coordinator: readonly Endpoint[] = []
  #preferred: string | undefined
  /** Peers whose paths have changed in this turn. */
  readonly #changed = new Set<number>()
  #lookAt = NEVER

  constructor(host: EngineHost) {
    const setup = host.data as NodeSetup
    this.tunnel = new TunnelEngine(
      host,
      {
        setup,
        source: tunDevice(setup),
        forwarder: this.#forwarder,
        ringBytes: RING_BYTES,
        reportMs: REPORT_MS,
      },
      this,
    )
    this.#sockets = new AccessSockets({
      tunnel: this.tunnel,
      mark: setup.mark,
      keepsPorts: true,
      pathsOf: (access) => this.#pathsOver((socket) => this.#accessOf(socket) === access),
    })
    const { clock, machine } = this.tunnel
    this.#node = new NodeMachine(
      {
        crypto: overlayCrypto,
        random: host.surroundings?.random ?? realRandom,
        wall: () => clock.wall(),
      },
      {
        credentials: setup.credentials,
        publicKey: publicKeyOf(setup.privateKey),
        ...(setup.lease !== undefined && { lease: setup.lease }),
        ...(setup.kept !== undefined && { kept: setup.kept }),
        ...(setup.notifications !== undefined && { notifications: setup.notifications }),
        prekey: () => machine.newPrekey(),
      },
    )
    this.#renewed = new RenewedSockets({
      pathsOver: (socket) => this.#pathsOver((each) => each === socket),
      isUsed: (peer, socket) =>
        machine.path(this.tunnel.peers.at(peer)?.slot ?? Verdict.PARK)?.socket === socket,
      hasOther: (peer, socket) =>
        this.#pathsOf(peer).some((path) => usable(path.state) && path.socket !== socket),
      isWatched: (socket, now) => this.#node.isWatched(socket, now),
      removePath: (slot, now) => machine.removePath(slot, now),
      close: (socket, now) => {
        this.#sockets.closeReplaced(socket, now)
        this.#tellSockets(now)
      },
    })
  }

  handleCommand(command: NodeCommand, now: number): Outcome {
    this.tunnel.reportSoon()
    switch (command.type) {
      case 'access':
        return this.#setAccess(command.access, now)
      case 'access-gone':
        this.#sockets.close(command.name, now)
        this.#renewed.gone(command.name)
        this.#tellSockets(now)
        return done
      case 'wake':
        this.tunnel.machine.wake(now)
        this.#node.wake(now)
        return done
      case 'coordinator':
        this.#coordinator = command.endpoints
        this.#setCoordinator(now)
        return done
      case 'known':
        for (const peer of command.peers)
          if (this.tunnel.peers.get(peer.name) === undefined) this.#forwarder.addDormant(peer)
        return done
      case 'resolve':
        this.#forwarder.refuse(command.name, 0)
        this.#node.resolve(command.name, now)
        return done
      case 'routed':
        this.#release(this.tunnel.peers.get(command.name))
        return done
      case 'forget':
        this.#forget(command.name, now)
        return done
      case 'prefer':
        this.#preferred = command.access
        this.#node.prefer(command.access, now)
        for (const [, index] of this.tunnel.peers.indices()) this.#changed.add(index)
        return done
      case 'notified':
        this.#node.setNotified(command.connected, now)
        return done
      case 'notification':
        this.#node.handleNotification(command.bytes, now)
        return done
      case 'register':
        this.#node.register(now)
        return done
    }
  }

  handleOther(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    this.#node.handleDatagram(bytes, from, socket, now)
  }

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    switch (event.type) {
      case 'path':
      case 'remote':
      case 'quality':
        this.#changed.add(event.peer)
        break
      case 'path-closed':
        this.#sockets.pathClosed(event.slot)
        this.#endHope(event.peer, event.slot)
        this.#changed.add(event.peer)
        break
      case 'session':
        this.tunnel.reportSoon()
        break
      case 'hello':
        if (event.restarted) this.#node.noteRestart(this.tunnel.peers.nameOf(event.peer))
        break
      case 'ended':
        this.#node.noteEnded(this.tunnel.peers.nameOf(event.peer))
        break
      case 'greeted':
        this.#node.noteGreeted(this.tunnel.peers.nameOf(event.peer), event.remote, event.socket)
        break
      case 'handshake-failed':
        this.#log('debug', `no session with ${this.tunnel.peers.nameOf(event.peer)}: ${event.reason}`)
        break
      default:
    }
    if (event.type !== 'path') return
    const { state, socket } = event.path
    if (state.name === 'suspect' || state.name === 'down') this.#node.noteSilence(socket, now)
    this.#settle(event.peer, now)
  }

  noteData(now: number): void {
    this.#node.noteFlow(now)
  }

  nextTimeout(): number | undefined {
    const at = Math.min(this.#node.nextTimeout() ?? NEVER, this.#lookAt, this.#renewed.nextTimeout())
    return at === NEVER ? undefined : at
  }

  handleTimeout(now: number): void {
    this.#node.handleTimeout(now)
    this.#renewed.handleTimeout(now)
  }

  afterTurn(now: number): void {
    for (const name of this.#forwarder.wanted) this.#node.resolve(name, now)
    this.#forwarder.wanted.clear()
    for (let output = this.#node.poll(); output !== undefined; output = this.#node.poll())
      this.#carryOut(output, now)
    for (const peer of this.#changed) this.#choose(peer, now)
    this.#changed.clear()
    if (this.#lookAt <= now) this.#look(now)
    if (this.#steps.length > 0) {
      this.tunnel.emit({ type: 'steps', steps: this.#steps })
      this.#steps = []
    }
  }

  end(now: number): void {
    this.#node.end(now)
    for (let output = this.#node.poll(); output !== undefined; output = this.#node.poll())
      if (output.type === 'send') this.#carryOut(output, now)
  }

  status(now: number): NodeStatus {
    this.#look(now)
    const { machine, peers } = this.tunnel
    return {
      type: 'status',
      paths: this.tunnel.paths((slot) => this.#describe(slot)),
      peers: [...peers.indices()].map(([, index]) => {
        const { name, v6, v4, publicKey, slot, reason } = peers.at(index)!
        const path = machine.path(slot)
        return {
          ...{ name, v6, publicKey, reason },
          ...(v4 !== undefined && { v4 }),
          established: machine.peer(index)?.established === true,
          ...(path !== undefined && { access: this.#accessOf(path.socket), kind: this.#kindOf(index, path) }),
        }
      }),
      counters: { ...this.#forwarder.counts },
    }
  }

  // ---- accesses

  #setAccess(access: NodeAccess, now: number): Outcome {
    this.#sockets.closeStale(access, now)
    if (![...this.#everySocket()].some(({ setup }) => setup.name === access.name))
      this.#renewed.gone(access.name)
    const opened = access.up ? this.#sockets.open(access, now) : done
    this.#tellSockets(now)
    return opened
  }

  #tellSockets(now: number): void {
    const replaced = this.#sockets.replaced()
    const sockets: NodeSocket[] = this.#everySocket().map((open) => ({
      socket: open.index,
      port: open.port,
      access: open.setup.name,
      addresses: open.setup.addresses,
      ...(open.setup.nat64 !== undefined && { translates: true }),
      priority: open.setup.priority + (replaced.includes(open) ? BEHIND : 0),
      ...(replaced.includes(open) && { replaced: true }),
    }))
    this.#node.setSockets(sockets, now)
    this.#setCoordinator(now)
  }

  /** What a translating network has made of an IPv4 address is that address here. */
  #setCoordinator(now: number): void {
    const prefixes = this.#everySocket().flatMap(({ setup }) => setup.nat64 ?? [])
    const plain = this.#coordinator.map((endpoint) => {
      const { address, port } = endpoint
      const isMade = prefixes.some((prefix) => prefix.every((byte, i) => address[i] === byte))
      return isMade && address.length === 16 ? { address: address.slice(NAT64_PREFIX), port } : endpoint
    })
    this.#node.setCoordinator(plain, now)
  }

  /** Those of the accesses, then those that they have replaced. */
  #everySocket(): OpenAccess<NodeAccess>[] {
    return [...this.#sockets.all(), ...this.#sockets.replaced()]
  }

  /** Its mapping ends soon, or has: another socket takes over, as in a handover. */
  #renew(access: string, until: number, now: number): void {
    const before = [...this.#sockets.all()].find(({ setup }) => setup.name === access)
    const opened = this.#sockets.renew(access)
    if (!opened.ok) this.#log('warn', `no other socket for ${access}: ${opened.failure.message}`)
    if (!opened.ok || before === undefined) return
    this.#tellSockets(now)
    this.#renewed.add(before.index, access, until, now)
  }

  #accessOf(socket: number): string {
    return this.#everySocket().find(({ index }) => index === socket)?.setup.name ?? ''
  }

  #priorityOf(socket: number): number {
    const open = this.#everySocket().find(({ index }) => index === socket)
    if (open === undefined) return Number.MAX_SAFE_INTEGER
    const behind = this.#sockets.replaced().includes(open) ? BEHIND : 0
    return (open.setup.name === this.#preferred ? -1 : open.setup.priority) + behind
  }

  #pathsOver(isIt: (socket: number) => boolean): PathView[] {
    return [...this.tunnel.peers.indices()].flatMap(([, index]) =>
      (this.tunnel.machine.peer(index)?.paths ?? []).filter(({ socket }) => isIt(socket)),
    )
  }

  // ---- what the node machine wants done

  #carryOut(output: NodeOutput, now: number): void {
    switch (output.type) {
      case 'send':
        this.tunnel.engine.datapath.handshake(output.bytes, output.to, output.socket)
        break
      case 'step':
        this.#steps.push(output)
        break
      case 'registered': {
        const { lease, encoded, observed, notification } = output
        const { v6, v4 } = lease
        this.#forwarder.setOwn(v4 === undefined ? [v6] : [v6, v4])
        this.tunnel.emit({
          ...{ type: 'registered', v6, encoded, until: 1000 * lease.notAfter },
          ...(v4 !== undefined && { v4 }),
          observed: formatEndpoint(observed.address, observed.port),
          ...(notification !== undefined && { notification }),
        })
        break
      }
      case 'unregistered':
      case 'keep':
        this.tunnel.emit(output)
        break
      case 'alone': {
        const { v6, v4, notAfter } = output.lease
        this.#forwarder.setOwn(v4 === undefined ? [v6] : [v6, v4])
        this.tunnel.emit({ type: 'alone', v6, until: 1000 * notAfter, ...(v4 !== undefined && { v4 }) })
        break
      }
      case 'refused':
        this.#forwarder.refuse(output.peer, now + REFUSED_MS)
        this.tunnel.emit({
          type: 'refused',
          name: output.peer,
          reason: output.reason,
          status: output.status,
        })
        break
      case 'direction':
        this.#direct(output, now)
        break
      case 'way':
        this.#way(output, now)
        break
      case 'introduce': {
        const index = this.tunnel.peers.get(output.peer)
        if (index !== undefined) this.tunnel.machine.introduce(index, output.remote, output.socket, now)
        break
      }
      case 'places': {
        const peer = this.tunnel.peers.get(output.peer)
        const known = this.tunnel.peers.at(peer ?? -1)
        if (peer === undefined || known === undefined) break
        known.places = output.remotes.map(endpointKey)
        this.#changed.add(peer)
        break
      }
      case 'way-gone':
        for (const { slot, socket, remote } of this.#pathsOf(this.tunnel.peers.get(output.peer)))
          if (socket === output.socket && sameEndpoint(remote, output.remote))
            this.tunnel.machine.removePath(slot, now)
        break
      case 'renew':
        this.#renew(output.access, output.until, now)
        break
      case 'forgotten':
        this.#setAside(output.peer, now)
        break
      case 'log':
        this.#log(output.level, output.message)
    }
  }

  /** Its tunnel ends; a packet for it asks for a direction again. */
  #setAside(name: string, now: number): void {
    const known = this.tunnel.peers.at(this.tunnel.peers.get(name) ?? -1)
    if (known === undefined) return
    this.#removePeer(name, now)
    this.#forwarder.addDormant(known)
  }

  #direct(output: Extract<NodeOutput, { type: 'direction' }>, now: number): void {
    const { machine, peers } = this.tunnel
    const { peer: name, lease, pairKey, leads, asked } = output
    const { publicKey, v6, v4 } = lease
    const known = peers.at(peers.get(name) ?? -1)
    const same = known !== undefined && endsMeet(known, { publicKey, v6, pairKey })
    if (known !== undefined && !same) this.#removePeer(name, now)
    if (!same) {
      const peer: Known = {
        ...{ name, publicKey, v6, leads, pairKey, relays: new Set<string>() },
        hoped: new Set(),
        ...{ places: [], traffic: { packets: 0, at: now }, rests: false },
        ...(v4 !== undefined && { v4 }),
        ...{ slot: Verdict.PARK, reason: 'no path has answered yet', since: now },
        ...{ wantedAt: Number.NEGATIVE_INFINITY, helps: false },
      }
      const added = this.tunnel.addPeer(
        peer,
        {
          publicKey,
          presharedKey: pairKey,
          dialect: 'godwit',
          reportsGreetings: true,
          sleeps: true,
          allowedIps: [
            { address: v6, prefixLength: 128 },
            ...(v4 === undefined ? [] : [{ address: v4, prefixLength: 32 }]),
          ],
        },
        now,
      )
      if (!added.ok) {
        if (output.given !== undefined) machine.dropPrekey(output.given)
        this.#log('warn', `${name} cannot be a peer: ${added.failure.message}`)
        return
      }
      this.#forwarder.addPeer(added.value, peer)
    }
    const index = peers.get(name)!
    peers.at(index)!.since = now
    if (output.wanted === true) peers.at(index)!.wantedAt = now
    peers.at(index)!.helps = !asked
    if (output.prekey !== undefined) machine.useEarly(index, output.prekey)
    if (output.given !== undefined) machine.expectEarly(index, output.given, now)
    this.#lookAt = Math.min(this.#lookAt, now + NO_PATH_MS)
    for (const { slot, state } of machine.peer(index)?.paths ?? [])
      if (!usable(state)) machine.setStandby(slot, undefined)
    // The peer looks for a way to here. What seems to work may be dead over there, and only what this end sends opens its own NAT.
    if (!asked) machine.doubt(index, now)
    this.tunnel.emit({ type: 'directed', peer: { name, v6, ...(v4 !== undefined && { v4 }) }, asked })
  }

  #way(way: Extract<NodeOutput, { type: 'way' }>, now: number): void {
    const { peer: name, kind, socket, remote, open, known, bytes } = way
    const index = this.tunnel.peers.get(name)
    const peer = this.tunnel.peers.at(index ?? -1)
    if (index === undefined || peer === undefined) return
    if (kind === 'relay') peer.relays.add(endpointKey(remote))
    this.#changed.add(index)
    if (known === 'proven') this.tunnel.machine.noteProven(index, remote, socket, now)
    // What was to open the NAT for the peer left before the relay took it.
    const isThere = (path: PathView) => path.socket === socket && sameEndpoint(path.remote, remote)
    if (kind === 'relay' && this.#pathsOf(index).some((path) => usable(path.state) && isThere(path)))
      this.tunnel.machine.doubt(index, now)
    if (!open) return
    // It works now: dead paths are removed and opened again with new path ids.
    for (const path of this.#pathsOf(index))
      if (isThere(path) && !this.#keeps(path, peer.leads)) this.tunnel.machine.removePath(path.slot, now)
    const paths = this.#pathsOf(index)
    const there = paths.some(isThere)
    if (there && known === 'hoped') {
      this.#forwarder.allowMore(index, bytes ?? 0)
      this.tunnel.engine.retryParked()
    }
    if (there || (paths.length >= MAX_PATHS && !this.#makeRoom(paths, peer.leads, now))) return
    const access = this.#everySocket().find((each) => each.index === socket)
    if (access === undefined) return
    const ids = peer.leads ? LEADER_IDS : FOLLOWER_IDS
    const pathId = this.#sockets.freePathId(index, ids)
    // The relay has bound this end, perhaps not the other yet: where another path works, packets wait for the peer's answer.
    const works = ({ slot, state }: PathView) => usable(state) && !peer.hoped.has(slot)
    const waits = kind === 'relay' && paths.some(works)
    const early = waits ? undefined : known
    const path = {
      ...{ pathId, socket, remote, mtu: access.setup.mtu },
      ...(early !== undefined && { known: early }),
      ...(kind === 'relay' && { relayed: true }),
    }
    const slot = this.tunnel.machine.addPath(index, path, now)
    if (early !== 'hoped') return
    this.#forwarder.allow(index, bytes ?? 0)
    peer.hoped.add(slot)
  }

  /** Of this end's paths, the one that has not worked for longest gives way; false if all work. */
  #makeRoom(paths: readonly PathView[], leads: boolean, now: number): boolean {
    let oldest: PathView | undefined
    let since = now
    for (const path of paths) {
      const { state } = path
      if (
        !isOwn(path, leads) ||
        (state.name !== 'down' && state.name !== 'validating') ||
        state.since >= since
      )
        continue
      oldest = path
      since = state.since
    }
    if (oldest !== undefined) this.tunnel.machine.removePath(oldest.slot, now)
    return oldest !== undefined
  }

  /** The kernel gets what has come from the peer. */
  #release(index: number | undefined): void {
    if (index === undefined || !this.#forwarder.heldPeers.delete(index)) return
    this.tunnel.engine.datapath.admit(index)
  }

  #forget(name: string, now: number): void {
    this.#node.forget(name, now)
    this.#removePeer(name, now)
  }

  #removePeer(name: string, now: number): void {
    const known = this.tunnel.peers.at(this.tunnel.peers.get(name) ?? -1)
    if (known === undefined) return
    this.#release(this.tunnel.peers.get(name))
    this.#forwarder.removePeer(known)
    this.tunnel.removePeer(name, now)
  }

  // ---- paths

  #pathsOf(index: number | undefined): PathView[] {
    const view = index === undefined ? undefined : this.tunnel.machine.peer(index)
    return (view?.paths ?? []).filter(({ state }) => state.name !== 'closing')
  }

  #kindOf(index: number, { remote }: PathView): RouteKind {
    if (this.tunnel.peers.at(index)?.relays.has(endpointKey(remote)) === true) return 'relay'
    return isLocal(remote) ? 'lan' : 'direct'
  }

  /** Whether a path is good enough not to be opened again: it works, or this end is about to find out. */
  #keeps(path: PathView, leads: boolean): boolean {
    return usable(path.state) || (isOwn(path, leads) && path.state.name !== 'down')
  }

  /**
   * Of two paths between the same two sockets one is enough: the leader's. The other end removes its own once that one
   * works there. The leader removes none: else both could go at once.
   */
  #settle(index: number, now: number): void {
    const peer = this.tunnel.peers.at(index)
    if (peer === undefined || peer.leads) return
    const paths = this.#pathsOf(index)
    for (const own of paths) {
      if (!isOwn(own, peer.leads)) continue
      const twin = paths.find(
        (other) =>
          !isOwn(other, peer.leads) && other.socket === own.socket && sameEndpoint(other.remote, own.remote),
      )
      if (twin !== undefined && usable(twin.state)) this.tunnel.machine.removePath(own.slot, now)
    }
  }

  /** Chooses the path for the peer's packets. */
  #choose(index: number, now: number): void {
    const peer = this.tunnel.peers.at(index)
    if (peer === undefined) return
    const { machine } = this.tunnel
    const working = this.#pathsOf(index).filter(({ state }) => usable(state))
    const order = this.#everySocket()
      .map(({ index: socket }) => socket)
      .sort((a, b) => this.#priorityOf(a) - this.#priorityOf(b))
    // Both ends know the order of both, and come to the same path.
    const rank = (path: PathView) => {
      const own = order.indexOf(path.socket)
      const theirs = Math.max(0, peer.places.indexOf(endpointKey(path.remote)))
      return [
        path.state.name === 'suspect' ? 1 : 0,
        RANKS[this.#kindOf(index, path)],
        own + theirs,
        peer.leads ? own : theirs,
      ]
    }
    let best: PathView | undefined
    for (const path of working) {
      const order = best === undefined ? -1 : compareRanks(rank(path), rank(best))
      if (order < 0 || (order === 0 && path.slot === peer.slot)) best = path
    }
    for (const path of working) machine.setStandby(path.slot, path === best ? undefined : STANDBY_MS)
    if (isHoped(peer, best)) this.#lookAt = Math.min(this.#lookAt, peer.since + NO_PATH_MS)
    else if (best !== undefined) {
      if (best.state.name === 'suspect') this.#lookAt = Math.min(this.#lookAt, best.state.since + DOUBTED_MS)
      else this.#node.notePath(peer.name, this.#kindOf(index, best) === 'relay')
      this.#unbind(index, peer)
    } else if (peer.slot >= 0) {
      peer.since = now
      // Without packets it is not looked for again and again: a NAT that forgets soon would end each way that is found.
      if (now - Math.max(peer.traffic.at, this.#forwarder.usedAt(index)) < WANTED_MS) peer.wantedAt = now
    }
    const slot = best?.slot ?? Verdict.PARK
    if (slot === peer.slot) return
    const from = machine.path(peer.slot)
    const to = best === undefined ? 'none' : this.#wayText(index, best)
    peer.reason = best === undefined ? 'no way works' : reasonFor(this.#kindOf(index, best), working.length)
    const before = peer.slot >= 0 && from !== undefined ? this.#wayText(index, from) : 'none'
    peer.slot = slot
    this.#forwarder.setSlot(index, slot)
    if (slot >= 0) this.tunnel.engine.retryParked()
    else this.#lookAt = Math.min(this.#lookAt, now + NO_PATH_MS)
    this.tunnel.reportSoon()
    if (before !== to)
      this.tunnel.emit({ type: 'handover', peer: peer.name, from: before, to, cause: peer.reason })
  }

  /** What goes to places that the peer has not answered from is bounded; it has answered. */
  #unbind(index: number, peer: Known): void {
    if (!this.#forwarder.isBound(index)) return
    peer.hoped.clear()
    this.#forwarder.unbind(index)
    this.tunnel.engine.retryParked()
  }

  /** The peer is without a path for as long as before. */
  #endHope(index: number, slot: number): void {
    const peer = this.tunnel.peers.at(index)
    if (peer?.hoped.delete(slot) !== true || peer.slot !== slot) return
    peer.slot = Verdict.PARK
    this.#forwarder.setSlot(index, Verdict.PARK)
    this.#lookAt = Math.min(this.#lookAt, peer.since + NO_PATH_MS)
  }

  #wayText(index: number, path: PathView): string {
    return `${this.#accessOf(path.socket) || 'gone'} (${this.#kindOf(index, path)})`
  }

  /** Handles peers with packets but no path, and paths that have long been dead beside one that works. */
  #look(now: number): void {
    this.#lookAt = NEVER
    const { machine, peers } = this.tunnel
    for (const [name, index] of peers.indices()) {
      const peer = peers.at(index)!
      if (peer.slot >= 0 && !peer.hoped.has(peer.slot)) {
        for (const path of this.#pathsOf(index)) {
          const { state } = path
          const since = 'since' in state ? state.since : Number.NaN
          if (isOwn(path, peer.leads) && !usable(state) && now - since > DEAD_MS)
            machine.removePath(path.slot, now)
        }
        this.#rest(index, peer, now)
        const used = machine.path(peer.slot)
        const relayed = used !== undefined && this.#kindOf(index, used) === 'relay'
        if (relayed && peer.leads && now - this.#forwarder.usedAt(index) < WANTED_MS)
          this.#node.noteRelayed(name, now)
        if (used?.state.name === 'suspect') this.#lookFromSuspect(name, index, used, used.state.since, now)
      } else if (now - Math.max(peer.since, 0) >= NO_PATH_MS) {
        // What a peer asks for is left to it after one try: it may have named places that are not its own.
        const wantedAt = Math.max(this.#forwarder.usedAt(index), peer.wantedAt)
        const isWanted = now - wantedAt < WANTED_MS
        const { helps } = peer
        peer.helps = false
        if (isWanted || helps) this.#node.noteNoPath(name, now, isWanted)
      } else this.#lookAt = Math.min(this.#lookAt, peer.since + NO_PATH_MS)
    }
    for (let output = this.#node.poll(); output !== undefined; output = this.#node.poll())
      this.#carryOut(output, now)
  }

  /** The best path is silent. Whether it is dead shows later, and at the end that has not opened it a second later: a direction is asked for meanwhile. */
  #lookFromSuspect(name: string, index: number, used: PathView, since: number, now: number): void {
    if (now - since < DOUBTED_MS) {
      this.#lookAt = Math.min(this.#lookAt, since + DOUBTED_MS)
      return
    }
    if (now - this.#forwarder.usedAt(index) >= SENT_MS) return
    // Its process may be another one by now, which can read nothing of this session.
    if (isOwn(used, this.tunnel.peers.at(index)!.leads)) this.tunnel.machine.connect(index, now)
    this.#node.noteNoPath(name, now)
  }

  /** Ways over other accesses are kept while packets flow, and looked for again when they do again. */
  #rest(index: number, peer: Known, now: number): void {
    const { sent, received } = this.tunnel.tally(index)
    if (sent + received !== peer.traffic.packets) {
      peer.traffic.packets = sent + received
      peer.traffic.at = now
    }
    if (now - peer.traffic.at <= REST_MS) {
      if (peer.rests) this.#node.noteUsed(peer.name, now)
      peer.rests = false
      return
    }
    peer.rests = true
    for (const path of this.#pathsOf(index))
      if (path.slot !== peer.slot && isOwn(path, peer.leads) && this.#kindOf(index, path) !== 'relay')
        this.tunnel.machine.removePath(path.slot, now)
  }

  #describe(slot: number): Pick<OverlayPath, 'access' | 'kind' | 'used'> {
    const path = this.tunnel.machine.path(slot)
    if (path === undefined) return { access: '', kind: 'direct', used: false }
    return {
      access: this.#accessOf(path.socket),
      kind: this.#kindOf(path.peer, path),
      used: this.#forwarder.slot(path.peer) === slot,
    }
  }

  #log(level: 'warn' | 'debug', message: string): void {
    this.tunnel.emit({ type: 'log', level, message })
  }
}

/** Whether packets go there before the peer has answered. */
function isHoped({ hoped }: Known, path: PathView | undefined): boolean {
  return path !== undefined && hoped.has(path.slot) && path.state.name === 'suspect'
}

/** Whether this end opened it. */
function isOwn({ pathId }: PathView, leads: boolean): boolean {
  return leads === pathId <= LEADER_IDS[1]
}

function endsMeet(
  known: Pick<Known, 'publicKey' | 'v6' | 'pairKey'>,
  now: Pick<Known, 'publicKey' | 'v6' | 'pairKey'>,
): boolean {
  return (
    overlayCrypto.equal(known.publicKey, now.publicKey) &&
    overlayCrypto.equal(known.pairKey, now.pairKey) &&
    formatAddress(known.v6) === formatAddress(now.v6)
  )
}

function compareRanks(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i]! - b[i]!
  return 0
}

function reasonFor(kind: RouteKind, working: number): string {
  if (kind === 'relay') return working === 1 ? 'only the relay can be reached' : 'no direct path works'
  return kind === 'lan' ? 'the peer is in the same local network' : 'a direct way works'
}
