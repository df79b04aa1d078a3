/**
 * StackTrans in the kernel (paper § III-A): the two tables compiled to nf_tables maps, a pair of look-ups per packet in
 * either direction whatever the number of sockets (DI-8, DI-12).
 *
 *   out   a packet leaves a socket. Its 5-tuple as the socket knows it is a member of `out_flow`; then its pair of
 *         addresses gives the pair on the wire (`out_pair`). `out_one` overrules that for single flows.
 *   in    a packet arrives. Its pair of addresses on the wire gives the HID (`in_pair`); HID, protocol and ports give the
 *         pair of addresses that the socket knows (`in_flow`).
 *
 * The elements of flows do not change when a host moves; only the elements of that host in `out_pair` and `in_pair` do,
 * so one element redirects all its connections (DI-4). Rewriting happens on OUTPUT before connection tracking and before
 * the final route look-up (DI-13), and on INPUT after tracking and after reassembly: a tracker sees the same wire
 * addresses in both directions, reverse-path filters see true addresses, and fragments are whole.
 * The error messages of ICMP quote a packet in wire form; the quoted header is rewritten too, so that path MTU discovery
 * and port unreachable find the right socket.
 */
import { Protocol } from '../../core/ip.ts'
import { TcpFlag } from '../../core/tcp.ts'
import { TRANSLATED } from '../../linux/ledger.ts'
import {
  CompareOp,
  concatType,
  MetaKey,
  type NfBatch,
  type NfExpressions,
  NfFamily,
  NfHook,
  NfType,
  PayloadBase,
  register32,
} from '../../linux/nf_tables.ts'

const { NETWORK, TRANSPORT } = PayloadBase

/** Before connection tracking (-200) and its raw hook (-300). */
const PRIORITY = -310

const TRANSLATED_BYTES = new Uint8Array(Uint32Array.of(TRANSLATED).buffer)

/** How long a datagram of an unconnected socket is remembered, and how many (DI-9a for `sendto`). */
const SEEN_TIMEOUT_MS = 180_000
const SEEN_SIZE = 65_536

/** What differs between IPv4 and IPv6. */
export interface FamilyLayout {
  readonly family: NfFamily
  readonly addressType: number
  /** Bytes of an address. */
  readonly width: number
  /** Offset of the source address; the destination follows. */
  readonly source: number
  /** Checksum of the network header that covers addresses; IPv6 has none. */
  readonly checksum: number | undefined
  readonly icmp: number
  /** Offset of the protocol field in the network header, and that header's length without options. */
  readonly protocolAt: number
  readonly headerLength: number
  /** First byte of a quoted header without options: value and mask. */
  readonly quoted: readonly [value: number, mask: number]
  /** Lowest and highest type of error messages. */
  readonly errors: readonly number[]
}

export const LAYOUT: Readonly<Record<4 | 6, FamilyLayout>> = {
  4: {
    family: NfFamily.IPV4,
    addressType: NfType.ipv4_addr,
    width: 4,
    source: 12,
    checksum: 10,
    icmp: Protocol.ICMP,
    protocolAt: 9,
    headerLength: 20,
    quoted: [0x45, 0xff],
    errors: [3, 4, 11, 12],
  },
  6: {
    family: NfFamily.IPV6,
    addressType: NfType.ipv6_addr,
    width: 16,
    source: 8,
    checksum: undefined,
    icmp: Protocol.ICMPV6,
    protocolAt: 6,
    headerLength: 40,
    quoted: [0x60, 0xf0],
    errors: [1, 2, 3, 4],
  },
}

/** The maps of one family's table. */
export const MAPS = [
  'out_flow',
  'out_pair',
  'out_one',
  'out_port',
  'in_pair',
  'in_flow',
  'in_port',
  'in_wait',
] as const
export type MapName = (typeof MAPS)[number]

/** Bytes of key and data of a map. */
export function mapShape(layout: FamilyLayout, name: MapName): { key: number; data: number } {
  const pair = 2 * layout.width
  switch (name) {
    case 'out_flow':
      return { key: pair + 12, data: 0 }
    case 'out_pair':
      return { key: pair, data: pair }
    case 'out_one':
      return { key: pair + 12, data: pair }
    case 'out_port':
      return { key: pair + 12, data: 8 }
    case 'in_pair':
      return { key: pair, data: 4 }
    case 'in_flow':
      return { key: 16, data: pair }
    case 'in_port':
      return { key: 16, data: 8 }
    case 'in_wait':
      return { key: pair, data: 0 }
  }
}

/** Tables, maps and hooks, as needed. `watch` adds the set of datagrams seen, which changes no packet. */
export function installTables(
  batch: NfBatch,
  layout: FamilyLayout,
  table: string,
  parts: { readonly translate: boolean; readonly watch: boolean; readonly renumber?: boolean },
): void {
  const { family, addressType: address, width } = layout
  batch.table(family, table)
  if (parts.watch) installWatch(batch, layout, table)
  if (!parts.translate) return
  const flow = concatType(address, address, NfType.inet_proto, NfType.inet_service, NfType.inet_service)
  const host = concatType(NfType.mark, NfType.inet_proto, NfType.inet_service, NfType.inet_service)
  const pair = concatType(address, address)
  const ports = concatType(NfType.inet_service, NfType.inet_service)
  const types: Record<MapName, readonly [number, number | undefined]> = {
    out_flow: [flow, undefined],
    out_pair: [pair, pair],
    out_one: [flow, pair],
    out_port: [flow, ports],
    in_pair: [pair, NfType.mark],
    in_flow: [host, pair],
    in_port: [host, ports],
    in_wait: [pair, undefined],
  }
  for (const name of MAPS) {
    const shape = mapShape(layout, name)
    const [keyType, dataType] = types[name]
    const data = dataType === undefined ? {} : { dataType, dataLength: shape.data }
    batch.map(family, table, { name, keyType, keyLength: shape.key, ...data })
  }
  batch.chain(family, table, 'out', { type: 'route', hook: NfHook.OUTPUT, priority: PRIORITY })
  batch.chain(family, table, 'in', { type: 'filter', hook: NfHook.INPUT, priority: PRIORITY })
  batch.flushChain(family, table, 'out').flushChain(family, table, 'in')

  const words = width / 4
  const write = (x: NfExpressions): void =>
    x.writePayload(NETWORK, layout.source, 2 * width, register32(0), {
      ...(layout.checksum === undefined ? {} : { offset: layout.checksum }),
      pseudoHeader: true,
    })
  /** Addresses, protocol and ports into consecutive registers: the key of `out_flow`. */
  const tuple = (x: NfExpressions): void => {
    loadPair(x, layout)
    x.meta(MetaKey.L4PROTO, register32(2 * words))
    x.loadPayload(TRANSPORT, 0, 2, register32(2 * words + 1))
    x.loadPayload(TRANSPORT, 2, 2, register32(2 * words + 2))
  }
  const free = 2 * words + 3

  batch.rule(family, table, 'out', (x) => {
    tuple(x)
    x.lookup('out_flow', register32(0))
    loadPair(x, layout)
    x.lookup('out_pair', register32(0), register32(0))
    write(x)
    x.accept()
  })
  batch.rule(family, table, 'out', (x) => {
    tuple(x)
    x.lookup('out_one', register32(0), register32(0))
    write(x)
    x.accept()
  })
  // A new connection with the ports of one that is on this pair now (P1): on the wire it would be that one.
  batch.rule(family, table, 'out', (x) => {
    isProtocol(x, Protocol.TCP)
    x.loadPayload(TRANSPORT, 13, 1, register32(0))
    x.bitwise(register32(0), Uint8Array.of(TcpFlag.SYN | TcpFlag.ACK), Uint8Array.of(0))
    x.compare(register32(0), CompareOp.EQ, Uint8Array.of(TcpFlag.SYN))
    // What would answer it.
    x.loadPayload(NETWORK, layout.source + width, width, register32(0))
    x.loadPayload(NETWORK, layout.source, width, register32(words))
    hostOf(x)
    x.meta(MetaKey.L4PROTO, register32(1))
    x.loadPayload(TRANSPORT, 2, 2, register32(2))
    x.loadPayload(TRANSPORT, 0, 2, register32(3))
    x.lookup('in_flow', register32(0), register32(0))
    x.resetTcp()
  })
  batch.rule(family, table, 'in', (x) => {
    x.meta(MetaKey.PRIORITY, register32(0))
    x.compare(register32(0), CompareOp.EQ, TRANSLATED_BYTES)
    x.accept()
  })
  batch.rule(family, table, 'in', (x) => {
    hostKey(x)
    x.lookup('in_flow', register32(0), register32(0))
    write(x)
    x.accept()
  })
  quotedIn(batch, layout, table)
  for (const what of ['out_flow', 'out_one'] as const) quotedOut(batch, layout, table, 'out', what)
  if (!parts.renumber) return
  // Only when ports are renumbered, by NATs (DI-42) or by an end: a look-up more for every packet.
  batch.chain(family, table, 'out_ports', { type: 'route', hook: NfHook.OUTPUT, priority: PRIORITY - 1 })
  batch.chain(family, table, 'in_ports', { type: 'filter', hook: NfHook.INPUT, priority: PRIORITY - 1 })
  batch.chain(family, table, 'in_wait', { type: 'filter', hook: NfHook.INPUT, priority: PRIORITY + 2 })
  for (const chain of ['out_ports', 'in_ports', 'in_wait']) batch.flushChain(family, table, chain)
  // A segment whose renumbered port is not known yet would be answered with a reset: TCP sends it again.
  batch.rule(family, table, 'in_wait', (x) => {
    isProtocol(x, Protocol.TCP)
    x.loadPayload(TRANSPORT, 13, 1, register32(0))
    x.bitwise(register32(0), Uint8Array.of(TcpFlag.SYN), Uint8Array.of(0))
    x.compare(register32(0), CompareOp.EQ, Uint8Array.of(0))
    loadPair(x, layout)
    x.lookup('in_wait', register32(0))
    x.drop()
  })
  quotedOut(batch, layout, table, 'out_ports', 'out_one')
  batch.rule(family, table, 'in_ports', (x) => {
    quotedHostKey(x, layout)
    x.lookup('in_port', register32(0), register32(0))
    writeQuotedPorts(x, layout, 0)
  })
  for (const [protocol, checksum] of PORT_CHECKSUM) {
    batch.rule(family, table, 'out_ports', (x) => {
      isProtocol(x, protocol)
      tuple(x)
      x.lookup('out_port', register32(0), register32(free))
      x.lookup('out_one', register32(0), register32(0))
      writePorts(x, 0, free, { offset: checksum })
      write(x)
      x.accept()
    })
    batch.rule(family, table, 'in_ports', (x) => {
      isProtocol(x, protocol)
      hostKey(x)
      x.lookup('in_port', register32(0), register32(0))
      writePorts(x, 0, 0, { offset: checksum })
    })
  }

  /** HID of the wire pair, protocol and ports: the key of `in_flow`. */
  function hostKey(x: NfExpressions): void {
    loadPair(x, layout)
    hostOf(x)
    x.meta(MetaKey.L4PROTO, register32(1))
    x.loadPayload(TRANSPORT, 0, 2, register32(2))
    x.loadPayload(TRANSPORT, 2, 2, register32(3))
  }
}

/**
 * The wire pair in the first registers becomes its HID. It passes through the packet's priority, which nothing reads
 * once a packet has arrived: `nft list` cannot print a looked-up value as part of a longer key, and some versions of it
 * abort on one.
 */
function hostOf(x: NfExpressions): void {
  x.lookup('in_pair', register32(0), register32(0))
  x.setMeta(MetaKey.PRIORITY, register32(0))
  x.meta(MetaKey.PRIORITY, register32(0))
}

/** Source and destination into the first registers, as two fields: `nft list` wants a concatenation in its parts. */
function loadPair(x: NfExpressions, layout: FamilyLayout): void {
  x.loadPayload(NETWORK, layout.source, layout.width, register32(0))
  x.loadPayload(NETWORK, layout.source + layout.width, layout.width, register32(layout.width / 4))
}

const PORT_CHECKSUM = [
  [Protocol.TCP, 16],
  [Protocol.UDP, 6],
] as const

function isProtocol(x: NfExpressions, protocol: number): void {
  x.meta(MetaKey.L4PROTO, register32(0))
  x.compare(register32(0), CompareOp.EQ, Uint8Array.of(protocol))
}

/** Only error messages that quote a header without options. */
function isError(x: NfExpressions, layout: FamilyLayout): void {
  isProtocol(x, layout.icmp)
  x.loadPayload(TRANSPORT, 0, 1, register32(0))
  x.compare(register32(0), CompareOp.GTE, Uint8Array.of(layout.errors[0]!))
  x.compare(register32(0), CompareOp.LTE, Uint8Array.of(layout.errors.at(-1)!))
  x.loadPayload(TRANSPORT, 8, 1, register32(0))
  x.bitwise(register32(0), Uint8Array.of(layout.quoted[1]), Uint8Array.of(0))
  x.compare(register32(0), CompareOp.EQ, Uint8Array.of(layout.quoted[0]))
}

/** The key of `in_flow` for what would have come back: its source and destination are the quoted destination and source. */
function quotedHostKey(x: NfExpressions, layout: FamilyLayout): void {
  const { width } = layout
  const source = 8 + layout.source
  const ports = 8 + layout.headerLength
  isError(x, layout)
  x.loadPayload(TRANSPORT, source + width, width, register32(0))
  x.loadPayload(TRANSPORT, source, width, register32(width / 4))
  hostOf(x)
  x.loadPayload(TRANSPORT, 8 + layout.protocolAt, 1, register32(1))
  x.loadPayload(TRANSPORT, ports + 2, 2, register32(2))
  x.loadPayload(TRANSPORT, ports, 2, register32(3))
}

// `nft list` knows only the register in which a look-up begins, and reports an error for a write from another one. So the
// second half of what was looked up passes through the packet.

/** Source and destination port, looked up into register `from`, 4 bytes each; the 2 bytes behind the ports are kept. Uses the next 4 registers. */
function writePorts(x: NfExpressions, at: number, from: number, checksum: { readonly offset: number }): void {
  const [kept, second] = [register32(from + 2), register32(from + 3)]
  x.loadPayload(TRANSPORT, at + 4, 2, kept)
  x.writePayload(TRANSPORT, at, 6, register32(from), checksum)
  x.loadPayload(TRANSPORT, at + 4, 2, second)
  x.writePayload(TRANSPORT, at + 2, 2, second, checksum)
  x.writePayload(TRANSPORT, at + 4, 2, kept, checksum)
}

/** Ports of the quoted packet, which went the other way. */
function writeQuotedPorts(x: NfExpressions, layout: FamilyLayout, from: number): void {
  const ports = 8 + layout.headerLength
  writePorts(x, ports, from, { offset: 2 })
  swap(x, ports, 2, from)
}

/** Addresses of the quoted packet, which went the other way, from the pair in the first registers. */
function writeQuotedPair(x: NfExpressions, layout: FamilyLayout): void {
  const source = 8 + layout.source
  x.writePayload(TRANSPORT, source, 2 * layout.width, register32(0), { offset: 2 })
  swap(x, source, layout.width, 0)
}

/** Two neighbouring fields of an error message change places. */
function swap(x: NfExpressions, at: number, width: number, register: number): void {
  const [first, second] = [register32(register), register32(register + Math.max(1, width / 4))]
  x.loadPayload(TRANSPORT, at, width, first)
  x.loadPayload(TRANSPORT, at + width, width, second)
  x.writePayload(TRANSPORT, at, width, second, { offset: 2 })
  x.writePayload(TRANSPORT, at + width, width, first, { offset: 2 })
}

/** An arriving error quotes what this host sent, in wire form: back to the form of the socket. */
function quotedIn(batch: NfBatch, layout: FamilyLayout, table: string): void {
  batch.rule(layout.family, table, 'in', (x) => {
    quotedHostKey(x, layout)
    x.lookup('in_flow', register32(0), register32(0))
    writeQuotedPair(x, layout)
  })
}

/**
 * A departing error quotes what a socket here would have received: into wire form, and itself to where that came from. Of flows
 * in `what`; in `out_ports` of those whose ports are renumbered.
 */
function quotedOut(
  batch: NfBatch,
  layout: FamilyLayout,
  table: string,
  chain: 'out' | 'out_ports',
  what: 'out_flow' | 'out_one',
): void {
  const { width } = layout
  const words = width / 4
  const source = 8 + layout.source
  const ports = 8 + layout.headerLength
  const free = 2 * words + 3
  batch.rule(layout.family, table, chain, (x) => {
    isError(x, layout)
    x.loadPayload(TRANSPORT, source + width, width, register32(0))
    x.loadPayload(TRANSPORT, source, width, register32(words))
    x.loadPayload(TRANSPORT, 8 + layout.protocolAt, 1, register32(2 * words))
    x.loadPayload(TRANSPORT, ports + 2, 2, register32(2 * words + 1))
    x.loadPayload(TRANSPORT, ports, 2, register32(2 * words + 2))
    if (chain === 'out_ports') {
      x.lookup('out_port', register32(0), register32(free))
      writeQuotedPorts(x, layout, free)
    }
    if (what === 'out_one') x.lookup('out_one', register32(0), register32(0))
    else {
      x.lookup('out_flow', register32(0))
      x.loadPayload(TRANSPORT, source + width, width, register32(0))
      x.loadPayload(TRANSPORT, source, width, register32(words))
      x.lookup('out_pair', register32(0), register32(0))
    }
    x.writePayload(NETWORK, layout.source, 2 * width, register32(0), {
      ...(layout.checksum === undefined ? {} : { offset: layout.checksum }),
      pseudoHeader: true,
    })
    writeQuotedPair(x, layout)
  })
}

/** Remembers who exchanges UDP datagrams with whom: the only trace that an unconnected socket's peers leave (DI-9a). */
function installWatch(batch: NfBatch, layout: FamilyLayout, table: string): void {
  const { family, addressType: address, width } = layout
  const words = width / 4
  batch.map(family, table, {
    name: 'udp_seen',
    keyType: concatType(address, address, NfType.inet_service, NfType.inet_service),
    keyLength: 2 * width + 8,
    timeoutMs: SEEN_TIMEOUT_MS,
    size: SEEN_SIZE,
  })
  batch.chain(family, table, 'watch_out', { type: 'filter', hook: NfHook.OUTPUT, priority: PRIORITY - 2 })
  batch.chain(family, table, 'watch_in', { type: 'filter', hook: NfHook.INPUT, priority: PRIORITY + 1 })
  batch.flushChain(family, table, 'watch_out').flushChain(family, table, 'watch_in')
  for (const [chain, local, foreign, localPort, foreignPort] of [
    ['watch_out', 0, width, 0, 2],
    ['watch_in', width, 0, 2, 0],
  ] as const) {
    batch.rule(family, table, chain, (x) => {
      isProtocol(x, Protocol.UDP)
      x.loadPayload(NETWORK, layout.source + local, width, register32(0))
      x.loadPayload(NETWORK, layout.source + foreign, width, register32(words))
      x.loadPayload(TRANSPORT, localPort, 2, register32(2 * words))
      x.loadPayload(TRANSPORT, foreignPort, 2, register32(2 * words + 1))
      x.update('udp_seen', register32(0))
    })
  }
}
