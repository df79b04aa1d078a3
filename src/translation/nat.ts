/**
 * A NAT that knows IHMP (paper § III-D, Fig. 6; `godwit dime nat`): translates sources with nf_tables, sets NS in every IHMP
 * message that passes (in the kernel, no program sees them), and tells the host outside what it made of each connection
 * (NAT_ENTRY), so that connections can move behind it. IPv4.
 */

import { createSocket, type Socket } from 'node:dgram'
import { viewOf } from '../core/bytes.ts'
import { encoded } from '../core/codec.ts'
import { ENOBUFS, ENOENT } from '../core/errno.ts'
import { whoForwards } from '../linux/forwarding.ts'
import type { KernelGuard } from '../linux/guard.ts'
import type { Ledger } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import { Attributes, type NetlinkReply } from '../linux/netlink.ts'
import { NETLINK_NETFILTER, NetlinkSocket } from '../linux/netlink-socket.ts'
import {
  CompareOp,
  MetaKey,
  NfBatch,
  type NfExpressions,
  NfFamily,
  NfHook,
  PayloadBase,
  register32,
} from '../linux/nf_tables.ts'
import { NfSocket } from '../linux/nf-socket.ts'
import { watchRemovedTables } from '../linux/nf-watch.ts'
import { onReadable, stopReadable } from '../linux/readable.ts'
import { KernelSysctls } from '../linux/sysctl.ts'
import { nodeIhmpCrypto, ownKeyOf } from './keys.ts'
import { bytesOf, type Ip, ipOf } from './tables.ts'
import {
  Control,
  encodeSigned,
  type IhmpMessage,
  ihmp,
  OPTIONS_AT,
  Option,
  type PortMapping,
} from './wire.ts'

export interface IhmpNatOptions {
  readonly ledger: Ledger
  readonly inside: string
  readonly outside: string
  /** Ports on the outside; undefined: the host's own where it is free. */
  readonly ports: readonly [number, number] | undefined
  /** UDP port of IHMP. */
  readonly port: number
  /** Ed25519 private key that signs NAT_ENTRY. */
  readonly key: Uint8Array | undefined
  readonly guard: Pick<KernelGuard, 'protect'>
  readonly log: (message: string) => void
}

const GROUP_NEW = 1
const UDP_HEADER = 8
const TRIES = 4
const INTERVAL_MS = 250
/** Connections remembered of hosts that have not spoken IHMP yet. */
const MOST_MAPPINGS = 65_536
/** Pairs remembered that speak IHMP. */
const MOST_SPEAKERS = 65_536

/** One connection through the NAT, by conntrack's tuples. */
interface Connection {
  readonly mapping: PortMapping
  readonly remote: Ip
}

export class IhmpNat {
  readonly #options: IhmpNatOptions
  readonly #table: string
  readonly #sysctls = new KernelSysctls(
    undefined,
    [],
    (key, value) => whoForwards(key, value, this.#table) !== undefined,
  )
  readonly #nf = new NfSocket()
  readonly #events = new NetlinkSocket(NETLINK_NETFILTER)
  readonly #sockets = new Map<Ip, { socket: Socket; bound: Promise<boolean> }>()
  /** Pairs `inside remote` that have exchanged IHMP through here. */
  readonly #speakers = new Set<string>()
  readonly #connections = new Map<string, Connection>()
  readonly #waiting = new Map<string, NodeJS.Timeout>()
  #sequence = Math.floor(Math.random() * 65_536)
  #counter = 0
  #alive: NodeJS.Timeout | undefined
  #unprotect: (() => void) | undefined

  constructor(options: IhmpNatOptions) {
    this.#options = options
    this.#table = options.ledger.nftTable('nat')
  }

  start(): void {
    this.#remove()
    this.#sysctls.set('net.ipv4.ip_forward', 1)
    this.#install()
    this.#unprotect = this.#options.guard.protect({
      name: 'IHMP NAT',
      devices: () => [],
      restore: () => this.#restore(),
      watch: (removed) => watchRemovedTables(undefined, removed),
      urgent: true,
    })
    this.#events.setReceiveBuffer(1 << 20)
    this.#events.join(GROUP_NEW)
    onReadable(this.#events.fd, () => this.#drain())
    this.#alive = setInterval(() => {}, 1 << 30) // events alone keep no process running
  }

  #install(): void {
    const batch = new NfBatch().table(NfFamily.IPV4, this.#table)
    this.#rules(batch)
    this.#nf.commit(batch, 'install the NAT')
  }

  /** Without the table nothing is translated, also what connection tracking has an entry for. */
  #restore(): string[] {
    if (this.#nf.hasTable(NfFamily.IPV4, this.#table)) return []
    this.#install()
    return [`table ip ${this.#table}`]
  }

  stop(): void {
    this.#unprotect?.()
    clearInterval(this.#alive)
    stopReadable(this.#events.fd)
    this.#events.close()
    for (const timer of this.#waiting.values()) clearTimeout(timer)
    for (const { socket } of this.#sockets.values()) socket.close()
    this.#sockets.clear()
    this.#remove()
    this.#nf.close()
    this.#sysctls.restore()
  }

  #remove(): void {
    try {
      this.#nf.commit(new NfBatch().deleteTable(NfFamily.IPV4, this.#table), 'remove the NAT')
    } catch (error) {
      if (!(error instanceof KernelError) || error.errno !== ENOENT) throw error
    }
  }

  #rules(batch: NfBatch): void {
    const { inside, outside, ports, port } = this.#options
    const family = NfFamily.IPV4
    const device = (x: NfExpressions, key: number, name: string): void => {
      x.meta(key, register32(0))
      const bytes = new Uint8Array(16)
      for (let i = 0; i < name.length; i++) bytes[i] = name.charCodeAt(i)
      x.compare(register32(0), CompareOp.EQ, bytes)
    }
    batch.chain(family, this.#table, 'masquerade', {
      type: 'nat',
      hook: NfHook.POSTROUTING,
      priority: 100,
    })
    // IHMP keeps a privileged port, where its receivers want one.
    batch.rule(family, this.#table, 'masquerade', (x) => {
      device(x, MetaKey.IIFNAME, inside)
      device(x, MetaKey.OIFNAME, outside)
      x.meta(MetaKey.L4PROTO, register32(0))
      x.compare(register32(0), CompareOp.EQ, Uint8Array.of(17))
      x.loadPayload(PayloadBase.TRANSPORT, 0, 2, register32(0))
      x.compare(register32(0), CompareOp.EQ, Uint8Array.of(port >> 8, port & 0xff))
      x.masquerade()
    })
    for (const protocol of [6, 17])
      batch.rule(family, this.#table, 'masquerade', (x) => {
        device(x, MetaKey.IIFNAME, inside) // in POSTROUTING since Linux 5.7
        device(x, MetaKey.OIFNAME, outside)
        x.meta(MetaKey.L4PROTO, register32(0))
        x.compare(register32(0), CompareOp.EQ, Uint8Array.of(protocol))
        x.masquerade(ports)
      })
    batch.rule(family, this.#table, 'masquerade', (x) => {
      device(x, MetaKey.IIFNAME, inside)
      device(x, MetaKey.OIFNAME, outside)
      x.masquerade()
    })
    batch.chain(family, this.#table, 'mark_ihmp', { type: 'filter', hook: NfHook.FORWARD, priority: -150 })
    for (const name of [inside, outside])
      batch.rule(family, this.#table, 'mark_ihmp', (x) => {
        const { TRANSPORT } = PayloadBase
        device(x, MetaKey.IIFNAME, name)
        x.meta(MetaKey.L4PROTO, register32(0))
        x.compare(register32(0), CompareOp.EQ, Uint8Array.of(17))
        const portAt = name === inside ? 2 : 0
        x.loadPayload(TRANSPORT, portAt, 2, register32(0))
        x.compare(register32(0), CompareOp.EQ, Uint8Array.of(port >> 8, port & 0xff))
        x.loadPayload(TRANSPORT, UDP_HEADER, 2, register32(0))
        x.compare(register32(0), CompareOp.EQ, Uint8Array.of(0x49, 0x48))
        x.loadPayload(TRANSPORT, UDP_HEADER + OPTIONS_AT, 2, register32(0))
        x.bitwise(register32(0), Uint8Array.of(0xff, 0xff & ~Option.NS), Uint8Array.of(0, Option.NS))
        x.writePayload(TRANSPORT, UDP_HEADER + OPTIONS_AT, 2, register32(0), { offset: 6 })
      })
  }

  #drain(): void {
    for (let replies = this.#receive(); replies !== undefined; replies = this.#receive())
      for (const reply of replies) {
        const connection = readConnection(reply)
        if (connection !== undefined) this.#opened(connection)
      }
  }

  /** Connections that came faster than they were read are not told to anybody, and cannot move. */
  #receive(): NetlinkReply[] | undefined {
    try {
      return this.#events.receive()
    } catch (error) {
      if (!(error instanceof KernelError) || error.errno !== ENOBUFS) throw error
      return []
    }
  }

  #opened(connection: Connection): void {
    const { mapping, remote } = connection
    const pair = `${ipOf(mapping.host)} ${remote}`
    if (mapping.protocol === 17 && mapping.remotePort === this.#options.port) {
      if (this.#speakers.has(pair)) return
      if (this.#speakers.size >= MOST_SPEAKERS) this.#speakers.delete(this.#speakers.values().next().value!)
      this.#speakers.add(pair)
      for (const known of this.#connections.values())
        if (`${ipOf(known.mapping.host)} ${known.remote}` === pair) this.#announce(known)
      return
    }
    const key = `${pair} ${mapping.protocol} ${mapping.hostPort} ${mapping.remotePort}`
    if (this.#connections.size >= MOST_MAPPINGS)
      this.#connections.delete(this.#connections.keys().next().value!)
    this.#connections.set(key, connection)
    if (this.#speakers.has(pair)) this.#announce(connection)
  }

  /** NAT_ENTRY to the host outside, repeated until it is acknowledged. */
  #announce({ mapping, remote }: Connection): void {
    this.#sequence = (this.#sequence + 1) & 0xffff
    this.#counter = Math.max(this.#counter + 1, Date.now() * 1000)
    const message: IhmpMessage = {
      control: Control.NAT_ENTRY,
      options: Option.NS,
      sequence: this.#sequence,
      counter: this.#counter,
      hostId: mapping.nat,
      receiver: bytesOf(remote),
      mapping,
    }
    const { key } = this.#options
    const bytes =
      key === undefined
        ? encoded(ihmp, message)
        : encodeSigned(message, (covered) => nodeIhmpCrypto.sign(ownKeyOf(key), covered))
    const waiting = `${remote} ${message.sequence}`
    const send = async (tries: number): Promise<void> => {
      const { socket, bound } = this.#socketAt(ipOf(mapping.nat))
      // False: the address went, or the NAT was stopped.
      if (!(await bound) || this.#sockets.get(ipOf(mapping.nat))?.socket !== socket) return
      socket.send(bytes, this.#options.port, remote, () => {})
      if (tries >= TRIES) this.#waiting.delete(waiting)
      else
        this.#waiting.set(
          waiting,
          setTimeout(() => void send(tries + 1), INTERVAL_MS * 2 ** tries),
        )
    }
    void send(0)
    this.#options.log(
      `${ipOf(mapping.host)}:${mapping.hostPort} is ${ipOf(mapping.nat)}:${mapping.natPort} to ${remote}:${mapping.remotePort}`,
    )
  }

  #socketAt(nat: Ip): { socket: Socket; bound: Promise<boolean> } {
    const known = this.#sockets.get(nat)
    if (known !== undefined) return known
    const socket = createSocket('udp4')
    socket.on('message', (bytes, from) => {
      const decoded = ihmp.decode(bytes)
      if (!decoded.ok || decoded.value.control !== Control.ACK) return
      const waiting = `${from.address} ${decoded.value.sequence}`
      clearTimeout(this.#waiting.get(waiting))
      this.#waiting.delete(waiting)
    })
    // Not the port of IHMP: hosts behind this NAT are known by that one.
    const bound = new Promise<boolean>((resolve) => {
      socket.on('error', () => {
        if (this.#sockets.get(nat)?.socket !== socket) return
        this.#sockets.delete(nat)
        socket.close()
        resolve(false)
      })
      socket.bind({ address: nat, port: 0 }, () => resolve(true))
    })
    const entry = { socket, bound }
    this.#sockets.set(nat, entry)
    return entry
  }
}

const CTA_TUPLE_ORIG = 1
const CTA_TUPLE_REPLY = 2

/**
 * A connection whose source was translated, from a conntrack event (linux/netfilter/nfnetlink_conntrack.h): the original
 * tuple says who opened it, the reply tuple where answers go.
 */
export function readConnection(reply: NetlinkReply): Connection | undefined {
  const attributes = new Attributes(reply.body, 4)
  const original = readTuple(attributes.bytes(CTA_TUPLE_ORIG))
  const answer = readTuple(attributes.bytes(CTA_TUPLE_REPLY))
  if (original === undefined || answer === undefined) return undefined
  if (ipOf(original.source) === ipOf(answer.destination)) return undefined
  return {
    remote: ipOf(original.destination),
    mapping: {
      protocol: original.protocol,
      host: original.source,
      hostPort: original.sourcePort,
      nat: answer.destination,
      natPort: answer.destinationPort,
      remotePort: original.destinationPort,
    },
  }
}

function readTuple(bytes: Uint8Array | undefined) {
  if (bytes === undefined) return undefined
  const tuple = new Attributes(bytes)
  const ip = tuple.bytes(1)
  const proto = tuple.bytes(2)
  if (ip === undefined || proto === undefined) return undefined
  const addresses = new Attributes(ip)
  const ports = new Attributes(proto)
  // Copies: the event lies in the buffer that the next one overwrites, and a mapping is told later.
  const source = copied(addresses.bytes(1))
  const destination = copied(addresses.bytes(2))
  const sourcePort = ports.bytes(2)
  const destinationPort = ports.bytes(3)
  if (source?.length !== 4 || destination?.length !== 4) return undefined
  if (sourcePort?.length !== 2 || destinationPort?.length !== 2) return undefined
  return {
    protocol: ports.u8(1) ?? 0,
    source,
    destination,
    sourcePort: viewOf(sourcePort).getUint16(0),
    destinationPort: viewOf(destinationPort).getUint16(0),
  }
}

function copied(bytes: Uint8Array | undefined): Uint8Array | undefined {
  return bytes && new Uint8Array(bytes)
}
