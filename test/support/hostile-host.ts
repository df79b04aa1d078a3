/**
 * A mobile host that was invited and is hostile: it joins an anchor as godwit does, then sends what an anchor must withstand, as
 * fast as it can, from its own address and with that of a victim as source. A program: `hostile-host.js INVITATION OWN VICTIM
 * ANCHOR PORT`; prints `joined`; each line of its input is for how many seconds it shall attack, or `flows N` for nothing but one
 * packet of each of N flows, or `narrow FROM TO`: an error that a packet from FROM to TO did not fit; it is answered with one JSON object (`HostileReport`).
 */
import { createCipheriv, createDecipheriv, randomBytes, randomInt } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { decodeInvitation } from '../../src/anchoring/invitation.ts'
import { checksum } from '../../src/core/checksum.ts'
import { TOO_BIG_MAX, writeTooBig } from '../../src/core/icmp.ts'
import { decodeKey, generatePrivateKey } from '../../src/crypto/keys.ts'
import { nodeCrypto } from '../../src/crypto/node-crypto.ts'
import { controlCodec, encodeFrames, type Frame } from '../../src/tunnel/protocol/control.ts'
import { addMacs } from '../../src/tunnel/protocol/cookies.ts'
import {
  createInitiation,
  type HandshakeState,
  type Identity,
  identity,
  openResponse,
  type RemoteKey,
  remoteKey,
  type TransportKeys,
} from '../../src/tunnel/protocol/noise.ts'
import { TimestampSource } from '../../src/tunnel/protocol/timestamp.ts'
import { MessageType, RESPONSE, readIndex } from '../../src/tunnel/protocol/wire.ts'
import { udpPacket } from './udp-packet.ts'

export interface HostileReport {
  readonly datagrams: number
  readonly bytes: number
  /** Outer IP bytes sent with the victim's address as source, and received there. */
  readonly asVictim: number
  readonly toVictim: number
  /** Messages of each kind of attack. */
  readonly rounds: number
}

const UDP_AND_IP = 28

class HostileHost {
  readonly #own: Socket
  readonly #victim: Socket
  readonly #anchor: { readonly host: string; readonly port: number }
  #identity: Identity
  #remote: RemoteKey
  readonly #publicKey: Uint8Array
  readonly #psk: Uint8Array
  readonly #timestamps = new TimestampSource(0)
  #pending: { state: HandshakeState; done: () => void } | undefined
  #keys: TransportKeys | undefined
  #remoteIndex = 0
  #counter = 0
  #generation = 1
  #vipa = new Uint8Array(4)
  readonly #instance = randomInt(2 ** 31)
  /** Frames that came and nobody has looked at yet. */
  #frames: Frame[] = []
  datagrams = 0
  bytes = 0
  asVictim = 0
  toVictim = 0

  constructor(invitation: string, own: Socket, victim: Socket, anchor: { host: string; port: number }) {
    const decoded = decodeInvitation(invitation)
    if (!decoded.ok) throw new Error(decoded.reason)
    const { private_key, public_key, preshared_key } = decoded.value
    this.#publicKey = keyOf(public_key)
    this.#psk = keyOf(preshared_key)
    this.#identity = identity(nodeCrypto, keyOf(private_key))
    this.#remote = remoteKey(nodeCrypto, this.#identity, this.#publicKey)!
    this.#own = own
    this.#victim = victim
    this.#anchor = anchor
    own.on('message', (message) => this.#receive(message))
    victim.on('message', (message) => {
      this.toVictim += message.length + UDP_AND_IP
    })
  }

  async join(): Promise<void> {
    await this.#handshake()
    await this.#enter()
    const privateKey = generatePrivateKey()
    const fresh = identity(nodeCrypto, privateKey)
    await this.#until('its key is kept', 'key-replaced', () =>
      this.#control([{ type: 'key-replace', publicKey: fresh.publicKey }], 1),
    )
    this.#identity = fresh
    this.#remote = remoteKey(nodeCrypto, fresh, this.#publicKey)!
    await this.#handshake()
    await this.#enter()
    const answer = await this.#until('an address', 'mechanism', () =>
      this.#control([{ type: 'mechanism', code: 64, body: Uint8Array.of(0, 0, 0, 1, 1) }], 1),
    )
    if (answer.type === 'mechanism') this.#vipa = answer.body.slice(5, 9)
  }

  clear(): void {
    this.datagrams = this.bytes = this.asVictim = this.toVictim = 0
  }

  /** One round of everything. */
  async attack(n: number): Promise<void> {
    if (n % 400 === 399) await this.#tryHandshake(100)
    const many = Array.from({ length: 140 }, (_, i) => this.#announce(2 + i))
    this.#control(many, 0, this.#victim)
    this.#control([this.#announce(2 + (n % 200))], 2 + (n % 200), this.#victim)
    this.#control([this.#announce(1)], 1, this.#victim)
    this.#data(1 + (n % 60_000), 1, this.#victim)
    const tallies = (i: number): Frame => ({ type: 'mechanism', code: 70, body: Uint8Array.of(0, 0, 0, i) })
    this.#control(
      Array.from({ length: 190 }, (_, i) => tallies(i)),
      1,
    )
    this.#control(
      Array.from({ length: 39 }, () => ({ type: 'key-replace' as const, publicKey: randomBytes(32) })),
      1,
    )
    const pathId = 2 + (n % 250)
    this.#control([this.#announce(pathId)], pathId)
    for (let i = 0; i < 20; i++) this.#data(1 + ((n * 20 + i) % 60_000), 1)
    const rubbish = randomBytes(randomInt(1, 200))
    this.#send(this.#seal(1, randomInt(256), rubbish), this.#own)
    this.#send(this.#seal(2, 1, randomBytes(randomInt(1, 200))), this.#own)
    this.#send(randomBytes(randomInt(1, 1400)), this.#own)
    const flood = randomBytes(148)
    flood.fill(0, 0, 4)
    flood[0] = MessageType.initiation
    addMacs(nodeCrypto, flood, this.#remote.mac1Key, undefined, 0)
    this.#send(flood, this.#victim)
    this.#answerChallenges()
  }

  async openFlows(n: number): Promise<void> {
    for (let i = 0; i < n; i++) {
      this.#data(1 + (i % 60_000), 1)
      // What the anchor has no room for yet would be lost.
      if (i % 50 === 49) await delay(2)
    }
  }

  /** To `from`: "too big", about an answer to an echo, which a kernel believes without a socket. */
  narrow(from: string, to: string): void {
    const about = new Uint8Array(28)
    about.set([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1])
    about.set(from.split('.').map(Number), 12)
    about.set(to.split('.').map(Number), 16)
    const view = new DataView(about.buffer)
    view.setUint16(10, checksum(view, 0, 20))
    view.setUint16(22, 0xffff)
    const out = new Uint8Array(TOO_BIG_MAX)
    const length = writeTooBig(about, 0, about.length, 600, out, 0, this.#vipa)
    this.#send(this.#seal(0, 1, out.slice(0, length)), this.#own)
  }

  /** As a path over `own` is to be had, and this end known for a godwit. */
  async #enter(): Promise<void> {
    const hello: Frame = { type: 'hello', version: 1, features: 1, mtu: 1420, instance: this.#instance }
    const announce = this.#announce(1)
    // With a challenge, or without one where its handshake has just proven the address.
    await this.#until('a path', 'path-accept', () => this.#control([hello, announce], 1))
    this.#answerChallenges()
    await delay(50)
  }

  #answerChallenges(): void {
    for (const frame of this.#frames)
      if (frame.type === 'path-challenge')
        this.#control([{ type: 'path-response', pathId: frame.pathId, token: frame.token }], frame.pathId)
    this.#frames = []
  }

  async #until(what: string, type: Frame['type'], ask: () => void): Promise<Frame> {
    for (let tries = 0; tries < 100; tries++) {
      if (tries % 10 === 0) ask()
      await delay(20)
      const found = this.#frames.find((frame) => frame.type === type)
      if (found !== undefined) return found
      if (type !== 'path-challenge') this.#answerChallenges()
    }
    throw new Error(`no answer: ${what}`)
  }

  #announce(pathId: number): Frame {
    return { type: 'path-announce', pathId, generation: ++this.#generation, mtu: 9000 }
  }

  async #handshake(): Promise<void> {
    for (let tries = 0; tries < 20; tries++) if (await this.#tryHandshake(1000)) return
    throw new Error('no handshake')
  }

  async #tryHandshake(patience: number): Promise<boolean> {
    const stamp = this.#timestamps.next(Date.now())
    const index = randomInt(2 ** 32)
    const made = createInitiation(nodeCrypto, this.#identity, this.#remote, randomBytes(32), index, stamp)!
    addMacs(nodeCrypto, made.message, this.#remote.mac1Key, undefined, 0)
    const answered = new Promise<boolean>((resolve) => {
      this.#pending = { state: made.state, done: () => resolve(true) }
      setTimeout(() => resolve(false), patience)
    })
    this.#send(made.message, this.#own)
    return answered
  }

  #receive(message: Buffer): void {
    const type = message[0]
    if (type === MessageType.response && this.#pending !== undefined) {
      const { state, done } = this.#pending
      const keys = openResponse(nodeCrypto, state, this.#identity, this.#psk, message)
      if (keys === undefined) return
      this.#keys = keys
      this.#remoteIndex = readIndex(message, RESPONSE.sender)
      this.#counter = 0
      this.#pending = undefined
      done()
    } else if (type === MessageType.multipath || type === MessageType.transport) {
      const opened = this.#open(message)
      if (opened === undefined || (opened[0]! & 1) === 0 || this.#frames.length > 1000) return
      const frames = controlCodec.decode(opened.subarray(2))
      if (frames.ok) this.#frames.push(...frames.value)
    }
  }

  #open(message: Buffer): Uint8Array | undefined {
    if (this.#keys === undefined) return undefined
    const aes = message[0] === MessageType.multipath
    const nonce = Buffer.concat([Buffer.alloc(4), message.subarray(8, 16)])
    const key = aes ? this.#keys.receiveKeyAes : this.#keys.receiveKey
    try {
      const cipher = aes
        ? createDecipheriv('aes-256-gcm', key, nonce)
        : createDecipheriv('chacha20-poly1305', key, nonce, { authTagLength: 16 })
      cipher.setAuthTag(message.subarray(message.length - 16))
      return Buffer.concat([cipher.update(message.subarray(16, message.length - 16)), cipher.final()])
    } catch {
      return undefined
    }
  }

  #seal(flags: number, pathId: number, body: Uint8Array): Uint8Array {
    const header = Buffer.alloc(16)
    header[0] = MessageType.multipath
    header.writeUInt32LE(this.#remoteIndex, 4)
    header.writeBigUInt64LE(BigInt(this.#counter++), 8)
    const nonce = Buffer.concat([Buffer.alloc(4), header.subarray(8, 16)])
    const cipher = createCipheriv('aes-256-gcm', this.#keys!.sendKeyAes, nonce)
    const sealed = Buffer.concat([cipher.update(Buffer.from([flags, pathId, ...body])), cipher.final()])
    return Buffer.concat([header, sealed, cipher.getAuthTag()])
  }

  #control(frames: readonly Frame[], pathId: number, through = this.#own): void {
    this.#send(this.#seal(1, pathId, encodeFrames(frames)), through)
  }

  /** A UDP packet of a flow of its own, as the anchor's kernel takes it. */
  #data(port: number, pathId: number, through = this.#own): void {
    const to = { address: Uint8Array.of(203, 0, 113, 1 + (port % 200)), port: 9 }
    const packet = udpPacket({ address: this.#vipa, port }, to, new Uint8Array(0))
    this.#send(this.#seal(0, pathId, packet), through)
  }

  #send(bytes: Uint8Array, through: Socket): void {
    through.send(bytes, this.#anchor.port, this.#anchor.host)
    this.datagrams++
    this.bytes += bytes.length + UDP_AND_IP
    if (through === this.#victim) this.asVictim += bytes.length + UDP_AND_IP
  }
}

function keyOf(text: string): Uint8Array {
  const key = decodeKey(text)
  if (!key.ok) throw new Error(key.reason)
  return key.value
}

async function bound(address: string): Promise<Socket> {
  const socket = createSocket('udp4')
  socket.on('error', () => {})
  socket.bind({ address })
  await once(socket, 'listening')
  return socket
}

async function main(): Promise<void> {
  const [invitation, own, victim, host, port] = process.argv.slice(2) as string[]
  const sockets = [await bound(own!), await bound(victim!)] as const
  const hostile = new HostileHost(invitation!, ...sockets, { host: host!, port: Number(port) })
  await hostile.join()
  console.log('joined')
  let rounds = 0
  for await (const line of createInterface({ input: process.stdin })) {
    const end = Date.now() + Number(line) * 1000
    hostile.clear()
    const first = rounds
    const [, from, to] = /^narrow (\S+) (\S+)$/.exec(line) ?? []
    if (from !== undefined && to !== undefined) hostile.narrow(from, to)
    if (line.startsWith('flows ')) await hostile.openFlows(Number(line.slice(6)))
    while (Date.now() < end) {
      await hostile.attack(rounds++)
      // Sockets are read, and their buffers leave, between rounds.
      await delay(rounds % 4 === 0 ? 1 : 0)
    }
    await delay(500)
    const { datagrams, bytes, asVictim, toVictim } = hostile
    const report: HostileReport = { datagrams, bytes, asVictim, toVictim, rounds: rounds - first }
    console.log(JSON.stringify(report))
  }
  process.exit(0)
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) await main()
