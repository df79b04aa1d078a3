/**
 * The rows of the socket table as the kernel has them: connections by sock_diag, those of before the daemon started
 * included (DI-5), and the peers of unconnected UDP sockets by the datagrams that the watch has seen (DI-9a).
 */
import { kindOf } from '../core/address.ts'
import type { SocketInfo, SocketState, SocketTable } from '../linux/sockdiag.ts'
import type { Seen } from './kernel.ts'
import { bytesOf, flowId, type Ip, ipOf } from './tables.ts'

/** A flow that was found, before it has a HID. */
export interface FoundFlow {
  readonly id: string
  readonly protocol: 6 | 17
  readonly local: Ip
  readonly localPort: number
  readonly foreign: Ip
  readonly foreignPort: number
  readonly inode: number
  readonly retransmits: number
  /** Not answered yet. */
  readonly opening?: boolean
  /** For `destroy` and for the name of the application. */
  readonly socket: SocketInfo | undefined
}

const CONNECTED: readonly SocketState[] = [
  'established',
  'syn-sent',
  'fin-wait-1',
  'fin-wait-2',
  'time-wait',
  'close-wait',
  'last-ack',
  'closing',
]

/** Addresses that can be another host's. Asked once per address: there are far fewer than flows. */
class Foreign {
  readonly #known = new Map<Ip, boolean>()

  is(ip: Ip): boolean {
    let answer = this.#known.get(ip)
    if (answer === undefined) {
      const kind = kindOf(bytesOf(ip))
      answer = !['unspecified', 'loopback', 'multicast', 'broadcast', 'reserved'].includes(kind)
      if (ip.startsWith('fe80')) answer = false // its zone is not in the tables
      if (this.#known.size > 10_000) this.#known.clear()
      this.#known.set(ip, answer)
    }
    return answer
  }
}

const foreign = new Foreign()

/**
 * All flows with another host. `own` are this host's addresses and identifiers, `ports` those of IHMP itself.
 * About 5 µs for each socket.
 */
export function findFlows(
  table: SocketTable,
  seen: readonly Seen[],
  own: ReadonlySet<Ip>,
  port: number,
): Map<string, FoundFlow> {
  const found = new Map<string, FoundFlow>()
  const texts = new Map<string, Ip>()
  const text = (address: Uint8Array): Ip => {
    const key = String.fromCharCode(...address)
    let ip = texts.get(key)
    if (ip === undefined) {
      ip = ipOf(address)
      texts.set(key, ip)
    }
    return ip
  }
  for (const protocol of [6, 17] as const)
    for (const socket of table.sockets({
      protocols: [protocol],
      states: protocol === 6 ? CONNECTED : ['established'],
    })) {
      if (socket.remotePort === 0) continue
      const local = text(socket.localAddress)
      const remote = text(socket.remoteAddress)
      if (own.has(remote) || !foreign.is(remote) || !foreign.is(local)) continue
      const id = flowId(protocol, local, socket.localPort, remote, socket.remotePort)
      found.set(id, {
        id,
        protocol,
        local,
        localPort: socket.localPort,
        foreign: remote,
        foreignPort: socket.remotePort,
        inode: socket.inode,
        retransmits: socket.retransmits,
        opening: socket.state === 'syn-sent',
        socket,
      })
    }
  for (const each of seen) {
    if (each.localPort === port || each.foreignPort === port) continue
    if (own.has(each.foreign) || !own.has(each.local) || !foreign.is(each.foreign)) continue
    const id = flowId(17, each.local, each.localPort, each.foreign, each.foreignPort)
    if (!found.has(id))
      found.set(id, { ...each, id, protocol: 17, inode: 0, retransmits: 0, socket: undefined })
  }
  return found
}
