/**
 * Paths of a mobile end: one over each access that is up to each peer, towards an address of the peer that the access's
 * families reach. Addresses may come late and change; a path to one that the peer has no more goes, unless it works. Where
 * an access could take either family, a path that has not come up is tried over the other.
 */
import { equal } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { type PathConfig, usable } from '../protocol/api.ts'
import type { TunnelMachine } from '../protocol/machine.ts'
import type { AccessSockets, OpenAccess } from './access-sockets.ts'
import type { SocketSetup } from './events.ts'

/** A path that has not come up by then is tried over another address of its peer. */
const OTHER_FAMILY_MS = 4000

export interface AccessPathsParts<Setup extends SocketSetup> {
  readonly machine: TunnelMachine
  readonly sockets: AccessSockets<Setup>
  /** Opens a path to a peer. */
  readonly open: (peer: number, access: OpenAccess<Setup>, config: PathConfig, now: number) => void
}

export class AccessPaths<Setup extends SocketSetup> {
  readonly #parts: AccessPathsParts<Setup>
  /** Addresses of each peer, by its index. */
  readonly #remotes = new Map<number, readonly Endpoint[]>()
  /** Of each peer whose path over an access does not work: since when it has been tried with one address. */
  readonly #tryingSince = new WeakMap<OpenAccess<Setup>, Map<number, number>>()

  constructor(parts: AccessPathsParts<Setup>) {
    this.#parts = parts
  }

  /** Where the peer is reached, the preferred address first; all that it has. */
  setRemotes(peer: number, remotes: readonly Endpoint[], now: number): void {
    const { machine, sockets } = this.#parts
    this.#remotes.set(peer, remotes)
    for (const path of machine.peer(peer)?.paths ?? []) {
      const known = remotes.some(({ address }) => equal(address, path.remote.address))
      if (!known && !usable(path.state)) machine.removePath(path.slot, now)
    }
    for (const access of sockets.all()) this.#open(peer, access, now)
  }

  /** The access has a socket. */
  accessOpened(access: OpenAccess<Setup>, now: number): void {
    for (const peer of this.#remotes.keys()) this.#open(peer, access, now)
  }

  /** To be called about once a second. */
  tryOtherFamilies(now: number): void {
    const { machine, sockets } = this.#parts
    for (const [peer, all] of this.#remotes) {
      for (const access of sockets.all()) {
        const remotes = eligible(all, access)
        if (remotes.length < 2) continue
        const path = (machine.peer(peer)?.paths ?? []).find(
          ({ socket, state }) => socket === access.index && state.name !== 'closing',
        )
        const since = this.#tryingSince.get(access) ?? new Map<number, number>()
        this.#tryingSince.set(access, since)
        if (path === undefined || usable(path.state)) since.delete(peer)
        else if (!since.has(peer)) since.set(peer, now)
        else if (now - since.get(peer)! >= OTHER_FAMILY_MS) {
          since.set(peer, now)
          const at = remotes.findIndex(({ address }) => equal(address, path.remote.address))
          machine.removePath(path.slot, now)
          this.#open(peer, access, now, remotes[(at + 1) % remotes.length])
        }
      }
    }
  }

  #open(peer: number, access: OpenAccess<Setup>, now: number, chosen?: Endpoint): void {
    const { machine, sockets, open } = this.#parts
    const remote = chosen ?? eligible(this.#remotes.get(peer) ?? [], access)[0]
    if (remote === undefined) return
    const here = (machine.peer(peer)?.paths ?? []).filter((path) => path.socket === access.index)
    if (here.some(({ state }) => state.name !== 'closing')) return
    const pathId = sockets.freePathId(peer)
    open(peer, access, { pathId, socket: access.index, remote, mtu: access.setup.mtu }, now)
  }
}

/** Of each family that the access has, the peer's first address, in its order. */
function eligible(remotes: readonly Endpoint[], access: OpenAccess<SocketSetup>): Endpoint[] {
  return access.setup.families
    .flatMap((family) => remotes.find(({ address }) => address.length === (family === 4 ? 4 : 16)) ?? [])
    .sort((a, b) => remotes.indexOf(a) - remotes.indexOf(b))
}
