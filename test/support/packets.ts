/** Inner packets for datapath tests: built byte by byte, so that they are a second opinion on the code under test. */

export interface TcpSpec {
  readonly version: 4 | 6
  readonly payload: Uint8Array
  readonly seq?: number
  readonly ack?: number
  readonly flags?: number
  readonly ports?: readonly [number, number]
  readonly timestamps?: boolean
  readonly id?: number
  /** gso size of the super-packet; 0 or absent: a single segment. */
  readonly gso?: number
  /** The checksum is left partial, as the kernel leaves it. */
  readonly partial?: boolean
  readonly mss?: number
  readonly dontFragment?: boolean
}

/** Sum of the transport with its pseudo-header, folded; 0xffff when the checksum in it is right. */
export function transportSum(packet: Uint8Array): number {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  const v4 = packet[0]! >> 4 === 4
  const ip = v4 ? (packet[0]! & 15) * 4 : 40
  let sum = packet[v4 ? 9 : 6]! + packet.length - ip
  for (let i = v4 ? 12 : 8; i < (v4 ? 20 : 40); i += 2) sum += view.getUint16(i)
  for (let i = ip; i < packet.length; i++) sum += i % 2 === ip % 2 ? packet[i]! << 8 : packet[i]!
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return sum
}

export function ipv4HeaderSum(packet: Uint8Array): number {
  let sum = 0
  for (let i = 0; i < (packet[0]! & 15) * 4; i += 2) sum += (packet[i]! << 8) | packet[i + 1]!
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return sum
}

function ipHeader(
  version: 4 | 6,
  protocol: number,
  transportLength: number,
  id: number,
  dontFragment: boolean,
): Uint8Array {
  const header = new Uint8Array(version === 4 ? 20 : 40)
  const view = new DataView(header.buffer)
  if (version === 4) {
    header[0] = 0x45
    view.setUint16(2, 20 + transportLength)
    view.setUint16(4, id)
    view.setUint16(6, dontFragment ? 0x4000 : 0)
    header[8] = 64
    header[9] = protocol
    header.set([10, 7, 0, 1, 10, 7, 0, 2], 12)
    view.setUint16(10, ~ipv4HeaderSum(header) & 0xffff)
  } else {
    header[0] = 0x60
    view.setUint16(4, transportLength)
    header[6] = protocol
    header[7] = 64
    header.set([0xfd, 0, 0, 7], 8)
    header[23] = 1
    header.set([0xfd, 0, 0, 7], 24)
    header[39] = 2
  }
  return header
}

function finish(
  ip: Uint8Array,
  transport: Uint8Array,
  field: number,
  vnet: { partial: boolean; type: number; gso: number; header: number },
): Uint8Array {
  const packet = new Uint8Array([...ip, ...transport])
  const view = new DataView(packet.buffer)
  if (vnet.partial) {
    const bare = new Uint8Array([...ip, ...new Uint8Array(transport.length)])
    view.setUint16(ip.length + field, transportSum(bare))
  } else {
    const sum = ~transportSum(packet) & 0xffff
    view.setUint16(ip.length + field, sum)
  }
  const header = new Uint8Array(10)
  const headerView = new DataView(header.buffer)
  header[0] = vnet.partial ? 1 : 0
  header[1] = vnet.type
  headerView.setUint16(2, vnet.header, true)
  headerView.setUint16(4, vnet.gso, true)
  headerView.setUint16(6, vnet.partial ? ip.length : 0, true)
  headerView.setUint16(8, vnet.partial ? field : 0, true)
  return new Uint8Array([...header, ...packet])
}

/** A vnet header and a TCP packet. */
export function tcp(spec: TcpSpec): Uint8Array {
  const options = [
    ...(spec.mss === undefined ? [] : [2, 4, spec.mss >> 8, spec.mss & 255]),
    ...(spec.timestamps ? [1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4] : []),
  ]
  const header = new Uint8Array(20 + options.length)
  const view = new DataView(header.buffer)
  const [source, target] = spec.ports ?? [40000, 80]
  view.setUint16(0, source)
  view.setUint16(2, target)
  view.setUint32(4, spec.seq ?? 1)
  view.setUint32(8, spec.ack ?? 77)
  header[12] = (header.length / 4) << 4
  header[13] = spec.flags ?? 0x10
  view.setUint16(14, 500)
  header.set(options, 20)
  const transport = new Uint8Array([...header, ...spec.payload])
  const ip = ipHeader(spec.version, 6, transport.length, spec.id ?? 1, spec.dontFragment ?? true)
  const gso = spec.gso ?? 0
  const type = gso === 0 ? 0 : spec.version === 4 ? 1 : 4
  return finish(ip, transport, 16, {
    partial: spec.partial ?? gso !== 0,
    type,
    gso,
    header: gso === 0 ? 0 : ip.length + header.length,
  })
}

/** A vnet header and a UDP packet. */
export function udp(spec: {
  version: 4 | 6
  payload: Uint8Array
  gso?: number
  partial?: boolean
  dontFragment?: boolean
  sourcePort?: number
}): Uint8Array {
  const transport = new Uint8Array(8 + spec.payload.length)
  const view = new DataView(transport.buffer)
  view.setUint16(0, spec.sourcePort ?? 5000)
  view.setUint16(2, 5001)
  view.setUint16(4, transport.length)
  transport.set(spec.payload, 8)
  const ip = ipHeader(spec.version, 17, transport.length, 9, spec.dontFragment ?? true)
  const gso = spec.gso ?? 0
  return finish(ip, transport, 6, {
    partial: spec.partial ?? gso !== 0,
    type: gso === 0 ? 0 : 5,
    gso,
    header: gso === 0 ? 0 : ip.length + 8,
  })
}

/** What a TUN was given, as the kernel would take it: segments of whole packets with complete checksums. */
export interface Written {
  readonly packet: Uint8Array
  readonly gso: number
  /** The checksum is right, or partial and the pseudo-header's. */
  readonly checksumHolds: boolean
}

export function readWritten(bytes: Uint8Array): Written {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const packet = bytes.slice(10)
  const partial = (bytes[0]! & 1) !== 0
  const gso = view.getUint16(4, true)
  let holds: boolean
  if (partial) {
    const start = view.getUint16(6, true)
    const field = start + view.getUint16(8, true)
    const bare = packet.slice()
    bare.fill(0, start)
    holds = transportSum(bare) === new DataView(packet.buffer).getUint16(field)
  } else holds = transportSum(packet) === 0xffff
  if (packet[0]! >> 4 === 4) holds &&= ipv4HeaderSum(packet) === 0xffff
  return { packet, gso, checksumHolds: holds }
}
