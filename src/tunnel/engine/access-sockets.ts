/**
 * Sockets of a mobile end: one bound to each access that is up. It is reopened when the access changes identity, and
 * closed after the last path over it. Which paths exist is decided by the mechanism.
 */
import type { Arena } from '../../linux/arena.ts'
import { openUdp } from '../../linux/udp.ts'
import type { TunnelMachine } from '../protocol/machine.ts'
import type { Engine } from './engine.ts'
import type { SocketSetup } from './events.ts'
import { answer, attempt, type Outcome } from './outcome.ts'

/** Path ids are a byte; 0 means several (docs/wire/tunnel.md). */
const ALL_IDS = [1, 255] as const
const LOOPBACK = Uint8Array.of(127, 0, 0, 1)

export interface OpenAccess<Setup extends SocketSetup> {
  setup: Setup
  /** The engine's number of the socket. */
  readonly index: number
  readonly port: number
}

export interface SocketPath {
  readonly slot: number
}

export interface AccessSocketsParts {
  readonly tunnel: { readonly arena: Arena; readonly engine: Engine; readonly machine: TunnelMachine }
  /** Mark of the tunnel's own packets. */
  readonly mark: number
  /** An access that comes back gets the port that it had, where that is free: its NAT may map it as before. */
  readonly keepsPorts?: boolean
  /** Paths over an access. */
  readonly pathsOf: (access: string) => readonly SocketPath[]
}

export class AccessSockets<Setup extends SocketSetup> {
  readonly #parts: AccessSocketsParts
  readonly #open = new Map<string, OpenAccess<Setup>>()
  readonly #ports = new Map<string, number>()
  /** Those whose access went, with the paths that they wait for. */
  readonly #dying: { readonly index: number; readonly paths: Set<number> }[] = []
  #loopback: { readonly index: number; readonly port: number } | undefined
  #lastPathId = 0

  constructor(parts: AccessSocketsParts) {
    this.#parts = parts
  }

  all(): IterableIterator<OpenAccess<Setup>> {
    return this.#open.values()
  }

  /** Closes the socket of an access that is not up any more, or is another one than it was. */
  closeStale(setup: Setup, now: number): void {
    const known = this.#open.get(setup.name)
    if (known !== undefined && (!setup.up || known.setup.generation !== setup.generation))
      this.close(setup.name, now)
  }

  /** The access with a socket that was opened now; undefined when it had one: then its paths learn the MTU. */
  open(setup: Setup, now: number): Outcome<OpenAccess<Setup> | undefined> {
    const { tunnel, mark, pathsOf } = this.#parts
    const known = this.#open.get(setup.name)
    if (known !== undefined) {
      if (known.setup.mtu !== setup.mtu)
        for (const { slot } of pathsOf(setup.name)) tunnel.machine.setInterfaceMtu(slot, setup.mtu, now)
      known.setup = setup
      return answer(undefined)
    }
    const before = this.#parts.keepsPorts ? this.#ports.get(setup.name) : undefined
    const openAt = (port: number | undefined) =>
      attempt(() =>
        openUdp(tunnel.arena, { family: 6, device: setup.name, mark, ...(port !== undefined && { port }) }),
      )
    let socket = openAt(before)
    if (!socket.ok && before !== undefined) socket = openAt(undefined)
    if (!socket.ok) return socket
    this.#ports.set(setup.name, socket.value.port)
    const access = { setup, index: tunnel.engine.addSocket(socket.value), port: socket.value.port }
    this.#open.set(setup.name, access)
    return answer(access)
  }

  /** The socket of paths that something else than UDP carries: it reaches this machine alone. Opened when it is first asked for. */
  loopback(): Outcome<{ readonly index: number; readonly port: number }> {
    if (this.#loopback !== undefined) return answer(this.#loopback)
    const { arena, engine } = this.#parts.tunnel
    const socket = attempt(() => openUdp(arena, { family: 4, address: LOOPBACK }))
    if (!socket.ok) return socket
    this.#loopback = { index: engine.addSocket(socket.value), port: socket.value.port }
    return answer(this.#loopback)
  }

  /** Removes the paths of an access; its socket goes with the last of them. */
  close(name: string, now: number): void {
    const { tunnel, pathsOf } = this.#parts
    const access = this.#open.get(name)
    if (access === undefined) return
    this.#open.delete(name)
    const paths = pathsOf(name)
    if (paths.length === 0) tunnel.engine.closeSocket(access.index)
    else this.#dying.push({ index: access.index, paths: new Set(paths.map(({ slot }) => slot)) })
    for (const { slot } of paths) tunnel.machine.removePath(slot, now)
  }

  /** To be called for each path that has closed. */
  pathClosed(slot: number): void {
    for (const dying of [...this.#dying]) {
      dying.paths.delete(slot)
      if (dying.paths.size > 0) continue
      this.#parts.tunnel.engine.closeSocket(dying.index)
      this.#dying.splice(this.#dying.indexOf(dying), 1)
    }
  }

  /** An id that no path of the peer has, of those that this end may give. */
  freePathId(peer: number, [first, last]: readonly [number, number] = ALL_IDS): number {
    const used = new Set((this.#parts.tunnel.machine.peer(peer)?.paths ?? []).map(({ pathId }) => pathId))
    const next = (id: number) => (id < first || id >= last ? first : id + 1)
    do this.#lastPathId = next(this.#lastPathId)
    while (used.has(this.#lastPathId))
    return this.#lastPathId
  }
}
