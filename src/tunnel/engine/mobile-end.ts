/**
 * The part of an engine that reaches its peers over the accesses of this machine: a socket for each access that is up, a
 * path over each to each peer, and other addresses when a path does not come up. The mechanism decides which packets use
 * which access; it is told of every change after the old socket has closed and before the new one opens.
 */

import { AccessPaths, type AccessPathsParts } from './access-paths.ts'
import { AccessSockets, type AccessSocketsParts } from './access-sockets.ts'
import type { MobileCommand, SocketSetup } from './events.ts'
import { answer, done, type Outcome } from './outcome.ts'

export interface MobileEndParts<Access extends SocketSetup> {
  readonly tunnel: AccessSocketsParts['tunnel'] & {
    readonly peers: { get(name: string): number | undefined }
  }
  /** Mark of the tunnel's own packets. */
  readonly mark: number
  readonly pathsOf: AccessSocketsParts['pathsOf']
  /** Opens a path to a peer. */
  readonly open: AccessPathsParts<Access>['open']
  readonly onAccess: (access: Access, now: number) => void
  readonly onAccessGone: (name: string, now: number) => void
}

export class MobileEnd<Access extends SocketSetup> {
  readonly #parts: MobileEndParts<Access>
  readonly #sockets: AccessSockets<Access>
  readonly #paths: AccessPaths<Access>

  constructor(parts: MobileEndParts<Access>) {
    this.#parts = parts
    const { tunnel, mark, pathsOf, open } = parts
    this.#sockets = new AccessSockets({ tunnel, mark, pathsOf })
    this.#paths = new AccessPaths({ machine: tunnel.machine, sockets: this.#sockets, open })
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
        this.#paths.accessGone(command.name)
        this.#parts.onAccessGone(command.name, now)
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

  /** To be called for each path that has closed: its socket may go. */
  pathClosed(slot: number): void {
    this.#sockets.pathClosed(slot)
  }

  /** To be called about once a second. */
  tryOtherEndpoints(now: number): void {
    this.#paths.tryOtherEndpoints(now)
  }

  /** Sockets and paths exist exactly while the access is up. */
  #setAccess(access: Access, now: number): Outcome {
    this.#sockets.closeStale(access, now)
    this.#parts.onAccess(access, now)
    if (!access.up) return done
    const opened = this.#sockets.open(access, now)
    if (opened.ok && opened.value !== undefined) this.#paths.accessOpened(opened.value, now)
    return opened
  }
}
