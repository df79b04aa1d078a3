/** The hostile host of hostile-hosts.ts, in its own process: prints `peer`, waits for a line, attacks, prints `done`. */
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { tcpStreams } from '../../../src/linux/tcp-stream.ts'
import { generateOwnKey, nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import { IhmpMachine } from '../../../src/translation/machine/machine.ts'
import { bytesOf, flowId, Tables } from '../../../src/translation/tables.ts'
import { Control, encodeSigned, type IhmpMessage, Option } from '../../../src/translation/wire.ts'

const PORT = 1021
const { seconds, rate, key, v, m, p, b } = JSON.parse(process.argv[2]!) as {
  seconds: number
  rate: number
  /** The public key of p. */
  key: string
  v: string
  m: string
  p: string
  b: string
}
const own = generateOwnKey()
const stranger = generateOwnKey()
const pKey = Uint8Array.from(Buffer.from(key, 'base64'))
const random = (n: number): number => Math.floor(Math.random() * n)

async function socketAt(address: string, port: number): Promise<Socket> {
  const socket = createSocket({ type: 'udp4', reuseAddr: true })
  socket.on('error', () => {})
  socket.bind(port, address)
  await once(socket, 'listening')
  return socket
}

// An ordinary peer first, with a connection of its own.
const tcp = connect({ host: v, port: 80, localAddress: m })
tcp.resume()
await once(tcp, 'connect')
const tables = new Tables()
const streams = tcpStreams()
const machine = new IhmpMachine({
  tables,
  random: nodeRandom,
  crypto: nodeIhmpCrypto,
  keys: { own: () => own, known: () => undefined },
  wall: () => Date.now(),
  hasFlow: () => true,
  lookAtSockets: () => {},
  streams: (flows) =>
    streams?.find(
      flows.map((f) => ({
        protocol: 6 as const,
        localAddress: bytesOf(f.local),
        localPort: f.localPort,
        remoteAddress: bytesOf(f.foreign),
        remotePort: f.foreignPort,
      })),
    ) ?? [],
  preferredLocal: () => m,
})
const main = await socketAt(m, PORT)
const now = (): number => performance.now()
function pump(): void {
  for (let out = machine.poll(); out !== undefined; out = machine.poll())
    if (out.kind === 'send') main.send(out.bytes, out.port || PORT, out.pair.foreign)
    else if (out.kind === 'state' && out.state === 'peer') console.log('peer')
}
const seen: Uint8Array[] = []
main.on('message', (bytes, from) => {
  if (seen.length < 200) seen.push(Uint8Array.from(bytes))
  machine.handleMessage(Uint8Array.from(bytes), { local: m, foreign: from.address }, from.port, now())
  pump()
})
const ticking = setInterval(() => {
  machine.handleTimeout(now())
  pump()
}, 50)
machine.handleLocal([{ ip: m, prefixLength: 16, device: 'eth0' }], now())
const hid = machine.handleFlow({ local: m, foreign: v }, now())!
const row = {
  id: flowId(6, m, tcp.localPort!, v, 80),
  protocol: 6,
  local: m,
  localPort: tcp.localPort!,
  foreign: v,
  foreignPort: 80,
  hid,
  inode: 1,
}
tables.addSocket(row)
machine.handleSocket(row, now())
pump()
await once(process.stdin, 'data')
clearInterval(ticking)
main.removeAllListeners('message')
main.on('message', (bytes) => {
  if (seen.length < 200) seen.push(Uint8Array.from(bytes))
})

const forgedB = [await socketAt(b, PORT), await socketAt(b, 40404)]
const forgedP = [await socketAt(p, PORT), await socketAt(p, 40404)]
const strangers = await Promise.all(
  [1, 2, 3, 4, 5, 6, 7, 8].map((i) => socketAt(`10.98.1.${i}`, i % 2 === 0 ? PORT : 40404)),
)

let counter = (Date.now() + 1_000) * 1_000
function message(more: Partial<IhmpMessage>): IhmpMessage {
  return {
    control: Control.PATH_PROBE,
    options: 0,
    sequence: random(65_536),
    counter: counter++,
    hostId: bytesOf(m),
    receiver: bytesOf(v),
    challenge: new Uint8Array(16).fill(random(256)),
    ...more,
  }
}
const by = (signer: typeof own, more: Partial<IhmpMessage>): Uint8Array =>
  encodeSigned(message(more), (bytes) => nodeIhmpCrypto.sign(signer, bytes))
const anywhere = (): Uint8Array => Uint8Array.of(10, 98, 2 + random(200), 1 + random(250))
const someone = (): Uint8Array => bytesOf([b, p, v][random(3)]!)
const tags = (): IhmpMessage['flowTags'] =>
  Array.from({ length: 80 }, (_, i) => ({
    ownPort: 32_768 + random(28_000),
    otherPort: 80,
    tag: new Uint8Array(8).fill(i),
  }))

function mutated(bytes: Uint8Array): Uint8Array {
  const out = bytes.slice(0, random(8) === 0 ? random(bytes.length) : bytes.length)
  for (let i = random(4); i >= 0 && out.length > 0; i--) out[random(out.length)] = random(256)
  return out
}

/** As the peer that it is. */
const PEER: (() => [Uint8Array, Socket])[] = [
  () => [by(own, { control: Control.ADDR_UP_UNREACHABLE, newAddress: anywhere() }), main],
  () => [by(own, { control: Control.ADDR_UP_UNREACHABLE, newAddress: someone() }), main],
  () => [
    by(own, {
      control: Control.HANDOFF,
      options: Option.PF,
      newAddress: bytesOf(b),
      lostAddresses: [anywhere()],
    }),
    forgedB[0]!,
  ],
  () => [by(own, { control: Control.ADDR_UP, options: Option.PF, newAddress: bytesOf(p) }), forgedP[0]!],
  () => [
    by(own, { control: Control.ADDR_UP, options: Option.NS, newAddress: anywhere() }),
    strangers[random(8)]!,
  ],
  () => [by(own, { control: Control.ADDR_DOWN, lostAddresses: [someone()] }), main],
  () => [by(own, { control: Control.KEY_CHANGE, newKey: pKey }), main],
  () => [
    by(own, {
      control: Control.KEY_CHANGE,
      newKey: pKey,
      keyProof: new Uint8Array(64),
      response: new Uint8Array(16),
    }),
    main,
  ],
  () => [
    by(own, { control: Control.FLOWS, flowPair: { own: bytesOf(p), other: bytesOf(v) }, flowTags: tags()! }),
    main,
  ],
  () => [
    by(own, { control: Control.FLOWS, flowPair: { own: bytesOf(b), other: bytesOf(v) }, flowTags: tags()! }),
    main,
  ],
  () => [by(own, { control: Control.PATH_PROBE, options: Option.CF | Option.PF }), main],
  () => [by(own, { control: Control.ACK, response: new Uint8Array(16) }), main],
]
/** As a stranger, or in the name of another. */
const HELLO = (signer: typeof own, hostId: string): Partial<IhmpMessage> => ({
  control: Control.HELLO,
  hostId: bytesOf(hostId),
  addresses: [bytesOf(hostId), anywhere(), anywhere()],
  publicKey: signer.publicKey,
  cookie: new Uint8Array(16),
})
const EMPTY = Uint8Array.of(0x49, 0x48, 1, 1, ...Array<number>(12).fill(0), 4, ...Array<number>(19).fill(0))
const STRANGER: (() => [Uint8Array, Socket])[] = [
  () => [by(stranger, HELLO(stranger, b)), forgedB[random(2)]!],
  () => [by(stranger, HELLO(stranger, p)), forgedP[random(2)]!],
  () => [by(stranger, HELLO(stranger, '10.98.1.2')), strangers[1]!],
  () => [
    by(stranger, {
      hostId: bytesOf(p),
      control: Control.HANDOFF,
      newAddress: bytesOf('10.98.1.2'),
      lostAddresses: [bytesOf(p)],
    }),
    strangers[random(8)]!,
  ],
  () => [
    by(stranger, { hostId: bytesOf(p), control: Control.ADDR_DOWN, lostAddresses: [bytesOf(p)] }),
    forgedP[0]!,
  ],
  () => [
    by(stranger, { hostId: bytesOf(p), control: Control.ACK, response: new Uint8Array(16) }),
    forgedP[0]!,
  ],
  () => [
    by(stranger, {
      control: Control.NAT_ENTRY,
      hostId: bytesOf(b),
      mapping: { protocol: 6, host: bytesOf(p), hostPort: 1, nat: bytesOf(b), natPort: 2, remotePort: 80 },
    }),
    forgedB[0]!,
  ],
  () => [EMPTY, strangers[random(8)]!],
  () => [EMPTY, forgedB[random(2)]!],
  () => [mutated(seen[random(seen.length)] ?? EMPTY), strangers[random(8)]!],
  () => [mutated(seen[random(seen.length)] ?? EMPTY), forgedB[0]!],
  () => [seen[random(seen.length)] ?? EMPTY, main],
]

// Signatures are made ahead of time in part: one core would not reach the rate else.
const shelf: [Uint8Array, Socket][] = []
for (let i = 0; i < 4_000; i++) shelf.push(STRANGER[random(STRANGER.length)]!())
const end = now() + seconds * 1_000
const startedAt = now()
let sent = 0
let fresh = 0
while (now() < end) {
  const due = Math.floor(((now() - startedAt) * rate) / 1_000)
  for (; sent < due; sent++) {
    const [bytes, from] = sent % 4 === 0 ? PEER[fresh++ % PEER.length]!() : shelf[random(shelf.length)]!
    from.send(bytes, PORT, v)
  }
  await new Promise((done) => setTimeout(done, 4))
}
console.log('done')
setTimeout(() => process.exit(0), 500)
