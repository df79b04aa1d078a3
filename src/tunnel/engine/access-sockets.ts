/**
 * Sockets of a mobile end: one bound to each access that is up. It is reopened when the access changes identity, and
 * closed after the last path over it. A second one on another port may replace it while the access stays. Which paths exist
 * is decided by the mechanism.
 */
import type { Arena } from '../../linux/arena.ts'
import type { UdpSocket } from '../../linux/udp.ts'
import type { TunnelMachine } from '../protocol/machine.ts'
import type { Engine } from './engine.ts'
import type { SocketSetup } from './events.ts'
import { answer, attempt, type Outcome } from './outcome.ts'
import type { Surroundings } from './thread.ts'

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
  readonly tunnel: {
    readonly arena: Arena
    readonly engine: Engine
    readonly machine: TunnelMachine
    readonly openUdp: Surroundings['openUdp']
  }
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
  /** By the engine's number. */
  readonly #udp = new Map<number, UdpSocket>()
  /** Those that another socket of their access has replaced. */
  #replaced: readonly OpenAccess<Setup>[] = []
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

  /** Sockets that others have replaced, until they are closed. */
  replaced(): readonly OpenAccess<Setup>[] {
    return this.#replaced
  }

  /** Closes the socket of an access that is not up any more, or is another one than it was. */
  closeStale(setup: Setup, now: number): void {
    const known = this.#open.get(setup.name)
    if (known !== undefined && (!setup.up || known.setup.generation !== setup.generation))
      this.close(setup.name, now)
  }

  /** The access with a socket that was opened now; undefined when it had one: then its paths learn the MTU. */
  open(setup: Setup, now: number): Outcome<OpenAccess<Setup> | undefined> {
    const { tunnel, pathsOf } = this.#parts
    const known = this.#open.get(setup.name)
    if (known !== undefined) {
      if (known.setup.mtu !== setup.mtu)
        for (const { slot } of pathsOf(setup.name)) tunnel.machine.setInterfaceMtu(slot, setup.mtu, now)
      known.setup = setup
      const socket = this.#udp.get(known.index)
      if (socket !== undefined) socket.nat64 = setup.nat64
      return answer(undefined)
    }
    const before = this.#parts.keepsPorts ? this.#ports.get(setup.name) : undefined
    let socket = this.#openAt(setup, before)
    if (!socket.ok && before !== undefined) socket = this.#openAt(setup, undefined)
    return socket.ok ? answer(this.#take(setup, socket.value)) : socket
  }

  /**
   * Opens another socket for an access, on another port. The one before stays open for its paths until `closeReplaced`.
   * Answers with undefined where the access has no socket.
   */
  renew(name: string): Outcome<OpenAccess<Setup> | undefined> {
    const known = this.#open.get(name)
    if (known === undefined) return answer(undefined)
    const socket = this.#openAt(known.setup, undefined)
    if (!socket.ok) return socket
    this.#replaced = [...this.#replaced, known]
    return answer(this.#take(known.setup, socket.value))
  }

  #openAt({ name }: Setup, port: number | undefined): Outcome<UdpSocket> {
    const { tunnel, mark } = this.#parts
    return attempt(() =>
      tunnel.openUdp(tunnel.arena, { family: 6, device: name, mark, ...(port !== undefined && { port }) }),
    )
  }

  #take(setup: Setup, socket: UdpSocket): OpenAccess<Setup> {
    this.#ports.set(setup.name, socket.port)
    socket.nat64 = setup.nat64
    const index = this.#parts.tunnel.engine.addSocket(socket)
    this.#udp.set(index, socket)
    const access = { setup, index, port: socket.port }
    this.#open.set(setup.name, access)
    return access
  }

  /** The socket of paths that something else than UDP carries: it reaches this machine alone. Opened when it is first asked for. */
  loopback(): Outcome<{ readonly index: number; readonly port: number }> {
    if (this.#loopback !== undefined) return answer(this.#loopback)
    const { arena, engine, openUdp } = this.#parts.tunnel
    const socket = attempt(() => openUdp(arena, { family: 4, address: LOOPBACK }))
    if (!socket.ok) return socket
    this.#loopback = { index: engine.addSocket(socket.value), port: socket.value.port }
    return answer(this.#loopback)
  }

  /** Removes the paths of an access; its socket goes with the last of them. */
  close(name: string, now: number): void {
    for (const { index, setup } of this.#replaced) if (setup.name === name) this.closeReplaced(index, now)
    const access = this.#open.get(name)
    if (access === undefined) return
    this.#open.delete(name)
    this.#close(access, this.#parts.pathsOf(name), now)
  }

  /** Removes the paths of a socket that another has replaced, and closes it with the last of them. */
  closeReplaced(index: number, now: number): void {
    const access = this.#replaced.find((each) => each.index === index)
    if (access === undefined) return
    this.#replaced = this.#replaced.filter((each) => each !== access)
    const { machine } = this.#parts.tunnel
    const paths = this.#parts.pathsOf(access.setup.name)
    this.#close(
      access,
      paths.filter(({ slot }) => machine.path(slot)?.socket === index),
      now,
    )
  }

  #close({ index }: OpenAccess<Setup>, paths: readonly SocketPath[], now: number): void {
    const { engine, machine } = this.#parts.tunnel
    this.#udp.delete(index)
    if (paths.length === 0) engine.closeSocket(index)
    else this.#dying.push({ index, paths: new Set(paths.map(({ slot }) => slot)) })
    for (const { slot } of paths) machine.removePath(slot, now)
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
