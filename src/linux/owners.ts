/**
 * Which application a flow belongs to: sock_diag by 5-tuple gives user, cgroup and inode of its socket, /proc the
 * executable that holds it. About 100 µs a flow, on the main thread; the flow's packets do not wait for it.
 */
import type { FlowFacts } from '../core/selector.ts'
import type { Cgroups } from './cgroup.ts'
import { processInfo, type SocketOwners, userName } from './proc.ts'
import { type SocketTable, TCP, UDP } from './sockdiag.ts'

/** The ends of a flow, as its packets leave this host. */
export interface FlowEnds {
  readonly protocol: number
  readonly local: Uint8Array
  readonly remote: Uint8Array
  readonly localPort: number
  readonly remotePort: number
}

export interface FlowOwner {
  readonly facts: FlowFacts
  readonly cgroupId: number | undefined
  /** Base name of the executable; empty when not known. */
  readonly app: string
  readonly pid: number | undefined
}

export class FlowOwners {
  readonly #sockets: SocketTable
  readonly #owners: SocketOwners
  readonly #cgroups: Cgroups | undefined

  constructor(sockets: SocketTable, owners: SocketOwners, cgroups: Cgroups | undefined) {
    this.#sockets = sockets
    this.#owners = owners
    this.#cgroups = cgroups
  }

  /** Name of the program that holds a socket; empty when it cannot be known. */
  program(inode: number, uid: number | undefined): string {
    const pid = this.#owners.find(inode, uid)
    return pid === undefined ? '' : (processInfo(pid)?.command ?? '')
  }

  /** Facts of a flow now. If its socket is gone already, only those of its packets. */
  find(id: string, flow: FlowEnds): FlowOwner {
    const packet = { id, proto: flow.protocol, dst: flow.remote, dstPort: flow.remotePort }
    if (flow.protocol !== TCP && flow.protocol !== UDP)
      return { facts: packet, cgroupId: undefined, app: '', pid: undefined }
    const socket = this.#sockets.find({
      protocol: flow.protocol,
      localAddress: flow.local,
      localPort: flow.localPort,
      remoteAddress: flow.remote,
      remotePort: flow.remotePort,
    })
    if (socket === undefined) return { facts: packet, cgroupId: undefined, app: '', pid: undefined }
    const pid = this.#owners.find(socket.inode, socket.uid)
    const process = pid === undefined ? undefined : processInfo(pid)
    const executable = process === undefined ? undefined : process.executable || process.command
    const cgroup = socket.cgroupId === undefined ? undefined : this.#cgroups?.pathOf(socket.cgroupId)
    return {
      facts: { ...packet, uid: socket.uid, user: userName(socket.uid), executable, cgroup },
      cgroupId: socket.cgroupId,
      app: executable === undefined ? '' : executable.slice(executable.lastIndexOf('/') + 1),
      pid,
    }
  }
}
