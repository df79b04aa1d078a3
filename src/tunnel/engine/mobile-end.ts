/**
 * The part of an engine that reaches its peers over the accesses of this machine: a socket for each access that is up, a
 * path over each to each peer, and other addresses when a path does not come up. The mechanism decides which packets use
 * which access; it is told of every change after the old socket has closed and before the new one opens.
 *
 * Where a NAT ends mappings at an age (mappings.ts), another socket takes over before that, as in a handover, if the mechanism can have two
 * paths to a peer over an access for a time (`Rotation`). Where this end is seen the peers say.
 */

import { type PathView, type TunnelEvent, usable } from '../protocol/api.ts'
import { type MappedSocket, Mappings, type MappingsOutput, mappingsEnd } from '../protocol/mappings.ts'
import { sameEndpoint } from '../protocol/path.ts'
import { AccessPaths, type AccessPathsParts } from './access-paths.ts'
import { AccessSockets, type AccessSocketsParts, type OpenAccess } from './access-sockets.ts'
import type { MobileCommand, SocketSetup } from './events.ts'
import { answer, done, type Outcome } from './outcome.ts'
import { RenewedSockets } from './renewed-sockets.ts'

const NEVER = Number.POSITIVE_INFINITY

export interface MobileEndParts<Access extends SocketSetup> {
  readonly tunnel: AccessSocketsParts['tunnel'] & {
    readonly peers: {
      get(name: string): number | undefined
      indices(): Iterable<readonly [string, number]>
    }
  }
  /** Mark of the tunnel's own packets. */
  readonly mark: number
  readonly pathsOf: AccessSocketsParts['pathsOf']
  /** Opens a path to a peer. */
  readonly open: AccessPathsParts<Access>['open']
  readonly onAccess: (access: Access, now: number) => void
  readonly onAccessGone: (name: string, now: number) => void
  /** Absent: sockets stay as long as their access. */
  readonly rotation?: Rotation
}

/** What a mechanism does so that sockets may be replaced under its flows. */
export interface Rotation {
  /** Packets to this peer use a path over the socket. */
  readonly isUsed: (peer: number, socket: number) => boolean
  /** Packets are to go over the other paths of their access from now on, as soon as those work. */
  readonly onReplaced: (socket: number, now: number) => void
  readonly log: (level: 'warn' | 'debug', message: string) => void
}

export class MobileEnd<Access extends SocketSetup> {
  readonly #parts: MobileEndParts<Access>
  readonly #sockets: AccessSockets<Access>
  readonly #paths: AccessPaths<Access>
  readonly #mappings = new Mappings()
  readonly #renewed: RenewedSockets

  constructor(parts: MobileEndParts<Access>) {
    this.#parts = parts
    const { tunnel, mark, pathsOf, open } = parts
    this.#sockets = new AccessSockets({ tunnel, mark, pathsOf })
    this.#paths = new AccessPaths({ machine: tunnel.machine, sockets: this.#sockets, open })
    this.#renewed = new RenewedSockets({
      pathsOver: (socket) => this.#pathsOver(socket),
      isUsed: (peer, socket) => parts.rotation?.isUsed(peer, socket) === true,
      hasOther: (peer, socket) =>
        (tunnel.machine.peer(peer)?.paths ?? []).some((path) => usable(path.state) && path.socket !== socket),
      isWatched: (socket, now) => {
        const mapped = this.#mapped().find((each) => each.socket === socket)
        return mapped !== undefined && this.#mappings.isWatched(mapped, now)
      },
      removePath: (slot, now) => tunnel.machine.removePath(slot, now),
      close: (socket, now) => {
        this.#sockets.closeReplaced(socket, now)
        this.#mapSockets(now)
      },
    })
  }

  handleCommand(command: MobileCommand<Access>, now: number): Outcome {
    switch (command.type) {
      case 'remotes': {
        const peer = this.#parts.tunnel.peers.get(command.name)
        if (peer !== undefined) this.#paths.setRemotes(peer, command.remotes, command.access, now)
        return done
      }
      case 'access':
        return this.#setAccess(command.access, now)
      case 'access-gone':
        this.#sockets.close(command.name, now)
        this.#renewed.gone(command.name)
        this.#paths.accessGone(command.name)
        this.#parts.onAccessGone(command.name, now)
        this.#mapSockets(now)
        return done
      case 'carrier': {
        const peer = this.#parts.tunnel.peers.get(command.name)
        if (peer !== undefined) this.#paths.setCarrier(peer, command.access, command.port, now)
        return done
      }
      case 'carrier-port': {
        const opened = this.#sockets.loopback()
        return opened.ok ? answer(opened.value.port) : opened
      }
      case 'wake':
        this.#parts.tunnel.machine.wake(now)
        return done
    }
  }

  /** To be called for each event of the tunnel, after the mechanism has dealt with it. */
  handleTunnelEvent(event: TunnelEvent, now: number): void {
    if (event.type === 'path-closed') this.#sockets.pathClosed(event.slot)
    if (this.#parts.rotation === undefined) return
    const path = event.type === 'observed' ? this.#parts.tunnel.machine.path(event.slot) : undefined
    if (event.type === 'observed' && path !== undefined) {
      this.#mapSockets(now)
      const output = this.#mappings.observed(path.socket, path.remote, event.address, now)
      if (output !== undefined) this.#carryOut(output, now)
    } else if (
      event.type === 'path' &&
      (event.path.state.name === 'suspect' || event.path.state.name === 'down')
    )
      this.#mappings.doubt(event.path.socket, now)
  }

  /** Packets flow. */
  noteFlow(now: number): void {
    if (this.#parts.rotation !== undefined) this.#mappings.noteFlow(now)
  }

  nextTimeout(): number {
    if (this.#parts.rotation === undefined) return NEVER
    return Math.min(this.#mappings.nextTimeout(), this.#renewed.nextTimeout())
  }

  handleTimeout(now: number): void {
    if (this.#parts.rotation === undefined) return
    for (const output of this.#mappings.handleTimeout(now)) this.#carryOut(output, now)
    this.#renewed.handleTimeout(now)
  }

  /** To be called about once a second. */
  tryOtherEndpoints(now: number): void {
    this.#paths.tryOtherEndpoints(now)
  }

  /** Every access reaches every peer by UDP: there is nothing to try. */
  get isSettled(): boolean {
    const { machine, peers } = this.#parts.tunnel
    const sockets = [...this.#sockets.all()].map(({ index }) => index)
    for (const [, peer] of peers.indices()) {
      const working = (machine.peer(peer)?.paths ?? []).filter(({ state }) => state.name === 'up')
      if (sockets.some((socket) => working.every((path) => path.socket !== socket))) return false
    }
    return sockets.length > 0
  }

  /** Sockets and paths exist exactly while the access is up. */
  #setAccess(access: Access, now: number): Outcome {
    this.#sockets.closeStale(access, now)
    if (![...this.#everySocket()].some(({ setup }) => setup.name === access.name))
      this.#renewed.gone(access.name)
    this.#parts.onAccess(access, now)
    if (!access.up) return done
    const opened = this.#sockets.open(access, now)
    if (opened.ok && opened.value !== undefined) this.#paths.accessOpened(opened.value, now)
    this.#mapSockets(now)
    return opened
  }

  // ---- NATs that end mappings at an age

  *#everySocket(): Iterable<OpenAccess<Access>> {
    yield* this.#sockets.all()
    yield* this.#sockets.replaced()
  }

  #pathsOver(socket: number): PathView[] {
    const { tunnel, pathsOf } = this.#parts
    const access = [...this.#everySocket()].find(({ index }) => index === socket)?.setup.name
    const paths = access === undefined ? [] : pathsOf(access)
    return paths
      .flatMap(({ slot }) => tunnel.machine.path(slot) ?? [])
      .filter((path) => path.socket === socket)
  }

  /** Each socket, with the peers that say where they see it. */
  #mapped(): MappedSocket[] {
    const replaced = this.#sockets.replaced()
    return [...this.#everySocket()].map((open) => ({
      ...{
        socket: open.index,
        access: open.setup.name,
        port: open.port,
        addresses: open.setup.addresses ?? [],
      },
      ...(replaced.includes(open) && { replaced: true }),
      witnesses: this.#pathsOver(open.index)
        .filter(({ state }) => state.name !== 'closing')
        .map(({ remote }) => remote),
    }))
  }

  #mapSockets(now: number): void {
    if (this.#parts.rotation !== undefined) this.#mappings.setSockets(this.#mapped(), now)
  }

  #carryOut(output: MappingsOutput, now: number): void {
    const { machine } = this.#parts.tunnel
    if (output.type === 'renew') this.#renew(output.access, output.until, now)
    else
      for (const { slot, remote } of this.#pathsOver(output.way.socket))
        if (sameEndpoint(remote, output.way.to)) machine.look(slot, now)
  }

  /** A mapping ends soon, or has: another socket takes over, as in a handover. */
  #renew(name: string, until: number, now: number): void {
    const { rotation } = this.#parts
    const before = [...this.#sockets.all()].find(({ setup }) => setup.name === name)
    const opened = this.#sockets.renew(name)
    if (!opened.ok) rotation?.log('warn', `no other socket for ${name}: ${opened.failure.message}`)
    if (!opened.ok || opened.value === undefined || before === undefined) return
    rotation?.log(
      'debug',
      `${name}: ${mappingsEnd(this.#mappings.lifetime(name))}; another socket takes over`,
    )
    rotation?.onReplaced(before.index, now)
    this.#renewed.add(before.index, name, until, now)
    this.#paths.accessOpened(opened.value, now)
    this.#mapSockets(now)
  }
}
