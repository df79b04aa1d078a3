/**
 * Ports of an anchor that lead to its hosts (`godwit anchor forward 8080 laptop:80`): the list in STATE/forwards.json and a
 * table of nftables of its own. Destinations are rewritten to the host's VIpA, so what arrives goes down whatever tunnel the
 * host has now, and moves with it. The source stays, except for what comes from a host of the anchor itself: the way back
 * has to be the way there.
 */
import { existsSync } from 'node:fs'
import * as z from 'zod'
import { usageError } from '../core/errors.ts'
import type { Nftables, NftTableName } from '../linux/nft.ts'
import { type SocketTable, TCP, UDP } from '../linux/sockdiag.ts'
import { writeAtomic } from '../mechanism/files.ts'
import { readStore } from '../mechanism/store-file.ts'

const PROTOCOLS = ['tcp', 'udp'] as const
export type ForwardProtocol = (typeof PROTOCOLS)[number]

const port = z.int().min(1).max(65535)
const record = z.object({
  protocol: z.enum(PROTOCOLS),
  /** Of the anchor. */
  port,
  host: z.string(),
  host_port: port,
})
const file = z.object({ version: z.literal(1), forwards: z.array(record) })

export type Forward = z.output<typeof record>

/** Ports that an anchor may lead to its hosts. */
const MAX_FORWARDS = 1024

export interface ForwardRequest {
  readonly port: number
  readonly host: string
  readonly hostPort: number
  /** Absent: both. */
  readonly protocol?: ForwardProtocol | undefined
}

export class ForwardStore {
  readonly #file: string

  constructor(path: string) {
    this.#file = path
  }

  list(): readonly Forward[] {
    if (!existsSync(this.#file)) return []
    return readStore(this.#file, file, 'delete it, and forward the ports again').forwards
  }

  /** Adds or changes; returns what leads to the host now. `own`: the UDP ports that the anchor itself listens on. */
  add({ port, host, hostPort, protocol }: ForwardRequest, own: readonly number[]): readonly Forward[] {
    const protocols = protocol === undefined ? PROTOCOLS : [protocol]
    if (own.includes(port) && protocols.includes('udp'))
      throw usageError(`UDP port ${port} is used by the anchor itself`, {
        hint: 'add --tcp, or choose another port',
      })
    const added = protocols.map((each) => ({ protocol: each, port, host, host_port: hostPort }))
    const kept = this.list().filter((each) => !added.some((one) => samePort(one, each)))
    if (kept.length + added.length > MAX_FORWARDS)
      throw usageError(`an anchor forwards at most ${MAX_FORWARDS} ports`)
    this.#save([...kept, ...added])
    return added
  }

  /** Returns what was removed; throws when there was nothing. */
  remove(port: number, protocol?: ForwardProtocol): readonly Forward[] {
    const gone = this.list().filter(
      (each) => each.port === port && (protocol === undefined || each.protocol === protocol),
    )
    if (gone.length === 0)
      throw usageError(`no port ${port} is forwarded`, { hint: '`godwit anchor forwards` lists them' })
    this.#save(this.list().filter((each) => !gone.some((one) => samePort(one, each))))
    return gone
  }

  /** Removing a host removes its forwards: another host may get its name later. */
  removeHost(host: string): void {
    const kept = this.list().filter((each) => each.host !== host)
    if (kept.length < this.list().length) this.#save(kept)
  }

  #save(forwards: readonly Forward[]): void {
    const order = (a: Forward, b: Forward) => a.port - b.port || (a.protocol < b.protocol ? -1 : 1)
    const text = JSON.stringify({ version: 1, forwards: [...forwards].sort(order) }, null, 2)
    writeAtomic(this.#file, `${text}\n`)
  }
}

function samePort(a: Forward, b: Forward): boolean {
  return a.port === b.port && a.protocol === b.protocol
}

/** Throws when a program of the anchor's machine listens on the port, because it would become unreachable. */
export function refuseTaken(sockets: Pick<SocketTable, 'sockets'>, request: ForwardRequest): void {
  const protocols = request.protocol === undefined ? PROTOCOLS : [request.protocol]
  for (const protocol of protocols) {
    const listening = sockets.sockets({
      protocols: [protocol === 'tcp' ? TCP : UDP],
      states: [protocol === 'tcp' ? 'listen' : 'close'],
    })
    const taken = listening.some(
      ({ localPort, localAddress }) => localPort === request.port && !isLoopback(localAddress),
    )
    if (taken)
      throw usageError(
        `a program of this machine listens on ${protocol.toUpperCase()} port ${request.port}`,
        {
          hint: 'choose another port, or add --replace: that program is then unreachable from outside',
        },
      )
  }
}

function isLoopback(address: Uint8Array): boolean {
  return address.length === 4 ? address[0] === 127 : address.every((byte, i) => byte === (i === 15 ? 1 : 0))
}

/** `laptop:80`, or `laptop` for the same port. */
export function parseTarget(
  text: string,
  port: number,
): { readonly host: string; readonly hostPort: number } {
  const [, host, given] = /^([A-Za-z0-9][A-Za-z0-9._-]{0,62})(?::(\d{1,5}))?$/.exec(text) ?? []
  const hostPort = given === undefined ? port : Number(given)
  if (host === undefined || hostPort < 1 || hostPort > 65535)
    throw usageError(`"${text}" is not HOST:PORT with the name of a host, e.g. laptop:80`)
  return { host, hostPort }
}

/** Addresses that a host has, as text. */
export interface HostAddresses {
  readonly v4: string
  readonly v6: string
}

export interface PortForwardsParts {
  readonly nft: Nftables
  readonly table: NftTableName
  readonly device: string
  readonly store: Pick<ForwardStore, 'list'>
  /** Undefined: there is no such host. */
  readonly addressesOf: (host: string) => HostAddresses | undefined
}

/** The rules of all forwards in the kernel. */
export class PortForwards {
  readonly #parts: PortForwardsParts
  #applied = ''

  constructor(parts: PortForwardsParts) {
    this.#parts = parts
  }

  /** Applies the store to the kernel; repeatable. */
  apply(): void {
    const { nft, table } = this.#parts
    const body = this.#rules()
    if (body === this.#applied) return
    if (body === '') nft.deleteTable(table)
    else nft.replaceTable(table, body)
    this.#applied = body
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    const { nft, table } = this.#parts
    if (
      this.#applied === '' ||
      nft.tables().some(({ family, name }) => family === table.family && name === table.name)
    )
      return []
    nft.replaceTable(table, this.#applied)
    return ['forwarded ports']
  }

  cleanUp(): void {
    this.#parts.nft.deleteTable(this.#parts.table)
    this.#applied = ''
  }

  #rules(): string {
    const { device, store, addressesOf } = this.#parts
    const lines = store.list().flatMap(({ protocol, port, host, host_port }) => {
      const to = addressesOf(host)
      if (to === undefined) return []
      return [
        `  fib daddr type local ${protocol} dport ${port} meta nfproto ipv4 dnat ip to ${to.v4}:${host_port}`,
        `  fib daddr type local ${protocol} dport ${port} meta nfproto ipv6 dnat ip6 to [${to.v6}]:${host_port}`,
      ]
    })
    if (lines.length === 0) return ''
    return [
      'chain prerouting {',
      '  type nat hook prerouting priority dstnat; policy accept;',
      ...lines,
      '}',
      // The anchor's own programs. What listens on loopback alone (a database, a resolver) keeps its ports there.
      'chain output {',
      '  type nat hook output priority -100; policy accept;',
      '  ip daddr 127.0.0.0/8 accept',
      '  ip6 daddr ::1 accept',
      ...lines,
      '}',
      'chain postrouting {',
      '  type nat hook postrouting priority srcnat; policy accept;',
      `  ct status dnat iifname "${device}" oifname "${device}" masquerade`,
      '}',
    ].join('\n')
  }
}
