/**
 * Paths of a mobile end: one from each access that is up to each peer, towards an address of the peer in a family that
 * the access has. Addresses may become known later, change, and differ between accesses. A path to an address that the
 * peer no longer has is removed unless it works. If there are several addresses, a path that does not come up is tried
 * towards the next one.
 */
import type { Endpoint } from '../../core/endpoint.ts'
import { type PathConfig, usable } from '../protocol/api.ts'
import type { TunnelMachine } from '../protocol/machine.ts'
import { sameEndpoint } from '../protocol/path.ts'
import type { AccessSockets, OpenAccess } from './access-sockets.ts'
import type { SocketSetup } from './events.ts'

/** A path that has not come up by then is tried towards the next endpoint of its peer. */
const NEXT_ENDPOINT_MS = 3000
/** The same while something else than UDP carries the access's traffic. */
const NEXT_WHEN_CARRIED_MS = 10_000
/** Loopback carries the largest datagram that the tunnel sends. */
const CARRIED_MTU = 1500
const LOOPBACK = Uint8Array.of(127, 0, 0, 1)

export interface AccessPathsParts<Setup extends SocketSetup> {
  readonly machine: TunnelMachine
  readonly sockets: AccessSockets<Setup>
  /** Opens a path to a peer. */
  readonly open: (peer: number, access: OpenAccess<Setup>, config: PathConfig, now: number) => void
}

interface Remotes {
  all: readonly Endpoint[]
  /** By access. */
  readonly over: Map<string, readonly Endpoint[]>
}

export class AccessPaths<Setup extends SocketSetup> {
  readonly #parts: AccessPathsParts<Setup>
  /** Endpoints of each peer, by its index. */
  readonly #remotes = new Map<number, Remotes>()
  /** By peer and access: the port on loopback. */
  readonly #carriers = new Map<string, number>()
  /** For each peer whose path over an access does not work: since when its current address has been tried. */
  readonly #tryingSince = new WeakMap<OpenAccess<Setup>, Map<number, number>>()

  constructor(parts: AccessPathsParts<Setup>) {
    this.#parts = parts
  }

  /**
   * Where the peer is reached over an access, or over all that nothing is known for; the preferred endpoint first, all that
   * it has.
   */
  setRemotes(peer: number, remotes: readonly Endpoint[], over: string | undefined, now: number): void {
    const { machine, sockets } = this.#parts
    const known = this.#remotes.get(peer) ?? { all: [], over: new Map() }
    this.#remotes.set(peer, known)
    if (over === undefined) known.all = remotes
    else known.over.set(over, remotes)
    let moved = false
    for (const access of sockets.all()) {
      const wanted = eligible(known, access)
      for (const path of machine.peer(peer)?.paths ?? []) {
        if (path.socket !== access.index) continue
        if (wanted.some((remote) => sameEndpoint(remote, path.remote))) continue
        if (usable(path.state)) moved ||= wanted.length > 0
        else machine.removePath(path.slot, now)
      }
      this.#open(peer, access, now)
    }
    // A peer at an address that is no longer listed may be gone: probe at once, because an idle path would detect it much
    // later.
    if (moved) machine.wake(now)
  }

  /** Forgets what was stored only for this access. */
  accessGone(name: string): void {
    for (const { over } of this.#remotes.values()) over.delete(name)
    for (const key of this.#carriers.keys()) if (key.endsWith(` ${name}`)) this.#carriers.delete(key)
  }

  /** The access has a socket. */
  accessOpened(access: OpenAccess<Setup>, now: number): void {
    for (const peer of this.#remotes.keys()) this.#open(peer, access, now)
  }

  /** To be called about once a second. */
  tryOtherEndpoints(now: number): void {
    const { machine, sockets } = this.#parts
    for (const [peer, all] of this.#remotes) {
      for (const access of sockets.all()) {
        const remotes = eligible(all, access)
        if (remotes.length === 0) continue
        const path = (machine.peer(peer)?.paths ?? []).find(
          ({ socket, state }) => socket === access.index && state.name !== 'closing',
        )
        const since = this.#tryingSince.get(access) ?? new Map<number, number>()
        this.#tryingSince.set(access, since)
        if (path === undefined || usable(path.state)) {
          since.delete(peer)
          continue
        }
        const at = remotes.findIndex((remote) => sameEndpoint(remote, path.remote))
        if (!since.has(peer)) since.set(peer, now)
        // One that worked when its address was no longer named is replaced at once.
        if (at >= 0 && (remotes.length < 2 || now - since.get(peer)! < this.#patience(peer, access))) continue
        since.set(peer, now)
        machine.removePath(path.slot, now)
        this.#open(peer, access, now, remotes[(at + 1) % remotes.length])
      }
    }
  }

  /** A path over the access goes by this port of 127.0.0.1 from now on, beside what goes by UDP; undefined: none does. */
  setCarrier(peer: number, name: string, port: number | undefined, now: number): void {
    const { machine, sockets, open } = this.#parts
    const key = `${peer} ${name}`
    const known = this.#carriers.get(key)
    this.#carriers.delete(key)
    for (const path of machine.peer(peer)?.paths ?? [])
      if (known !== undefined && isCarried(path.remote) && path.remote.port === known)
        machine.removePath(path.slot, now)
    const access = [...sockets.all()].find(({ setup }) => setup.name === name)
    const socket = sockets.loopback()
    if (port === undefined || access === undefined || !socket.ok) return
    this.#carriers.set(key, port)
    const remote = { address: LOOPBACK, port }
    const config = { pathId: sockets.freePathId(peer), socket: socket.value.index, remote, mtu: CARRIED_MTU }
    open(peer, access, config, now)
  }

  #patience(peer: number, { setup }: OpenAccess<Setup>): number {
    return this.#carriers.has(`${peer} ${setup.name}`) ? NEXT_WHEN_CARRIED_MS : NEXT_ENDPOINT_MS
  }

  #open(peer: number, access: OpenAccess<Setup>, now: number, chosen?: Endpoint): void {
    const { machine, sockets, open } = this.#parts
    const remotes = this.#remotes.get(peer)
    const remote = chosen ?? (remotes && eligible(remotes, access)[0])
    if (remote === undefined) return
    const here = (machine.peer(peer)?.paths ?? []).filter((path) => path.socket === access.index)
    if (here.some(({ state }) => state.name !== 'closing')) return
    const pathId = sockets.freePathId(peer)
    open(peer, access, { pathId, socket: access.index, remote, mtu: access.setup.mtu }, now)
  }
}

/** Whether a path goes by something else than UDP, which is on this machine. */
export function isCarried({ address }: Endpoint): boolean {
  return address.length === 4 && address[0] === 127
}

/** The peer's endpoints that the access can reach by its families, in their order. */
function eligible(remotes: Remotes, { setup }: OpenAccess<SocketSetup>): readonly Endpoint[] {
  return (remotes.over.get(setup.name) ?? remotes.all).filter(({ address }) =>
    setup.families.includes(address.length === 4 ? 4 : 6),
  )
}
