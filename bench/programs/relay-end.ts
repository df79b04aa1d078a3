/**
 * A node's UDP socket at a relay: `relay-end ADDRESS PORT`. Each line of standard input is one command as JSON:
 *   {"bind": {side}, "counter"}     RELAY_BIND until bound; says {"bound": true}
 *   {"send": text, "to": [address, port]}
 *   {"blast": bytes, "segment", "seconds", "to", "prefix"?: [bytes]}   as fast as it can; says {"sent": bytes}
 *   {"turn": [address, port], "peer": [address, port]}   allocates at a TURN server (RFC 8656); says {"channel": number}
 *   {"quiet": true}                 reads no more
 * What arrives is said as {"got": text, "from": [address, port]}.
 */
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { formatAddress, parseAddress } from '../../src/core/address.ts'
import type { Endpoint } from '../../src/core/endpoint.ts'
import { Arena } from '../../src/linux/arena.ts'
import { NAME_SIZE, readName, writeName } from '../../src/linux/sockaddr.ts'
import { openUdp, RECEIVE_BYTES, ReceiveBatch } from '../../src/linux/udp.ts'
import { must } from '../../src/mechanism/schema.ts'
import { encoded } from '../../src/overlay/machine/asker.ts'
import { overlayCrypto } from '../../src/overlay/node/crypto.ts'
import { datagramCodec, Kind, MAC } from '../../src/overlay/wire/datagram.ts'

const BATCH = 8
const POLL_MS = 2
const say = (what: object) => console.log(JSON.stringify(what))

type Place = readonly [address: string, port: number]
interface Command {
  readonly bind?: {
    readonly channel: number
    readonly side: number
    readonly key: number[]
    readonly endpoint: { readonly address: number[]; readonly port: number }
  }
  readonly counter?: number
  readonly send?: string
  readonly blast?: number
  readonly segment?: number
  readonly seconds?: number
  readonly prefix?: readonly number[]
  readonly turn?: Place
  readonly peer?: Place
  readonly to?: Place
  readonly quiet?: true
}

const local = must(parseAddress(process.argv[2]!))
const arena = new Arena(BATCH * (RECEIVE_BYTES + 1024) + (1 << 18))
const family = local.length === 4 ? 4 : 6
const socket = openUdp(arena, { family, address: local, port: Number(process.argv[3]) })
const batch = new ReceiveBatch(arena, BATCH)
const name = arena.reserve(NAME_SIZE)
const out = arena.reserve(1 << 16)
let quiet = false
let onSignal: (bytes: Uint8Array) => void = () => {}

const endpoint = ([address, port]: Place): Endpoint => ({ address: must(parseAddress(address)), port })

function send(to: Endpoint, bytes: Uint8Array): void {
  writeName(arena.u8, arena.view, name, to, family)
  arena.u8.set(bytes, out)
  socket.send(name, 0, out, bytes.length, 0)
}

const timer = setInterval(() => {
  if (quiet) return
  const got = socket.receive(batch)
  for (let i = 0; i < got; i++) {
    const from = readName(arena.u8, arena.view, batch.name[i]!)
    for (let at = 0; at < batch.length[i]!; at += batch.segment[i]!) {
      const end = Math.min(batch.length[i]!, at + batch.segment[i]!)
      const bytes = arena.u8.slice(batch.at[i]! + at, batch.at[i]! + end)
      if (bytes[0] === 0x4e || (bytes[0]! & 0xfe) === 0x00 || bytes[0] === 1) onSignal(bytes)
      else say({ got: new TextDecoder().decode(bytes), from: [formatAddress(from.address), from.port] })
    }
  }
}, POLL_MS)

async function bind(
  { channel, side, key: bytes, endpoint: to }: NonNullable<Command['bind']>,
  counter: number,
): Promise<void> {
  const key = Uint8Array.from(bytes)
  const relay = { address: Uint8Array.from(to.address), port: to.port }
  let token = new Uint8Array(16)
  let state = 0
  onSignal = (answer) => {
    const datagram = datagramCodec.decode(answer)
    if (!datagram.ok || datagram.value.kind !== Kind.RELAY_BOUND) return
    state = datagram.value.side
    token = datagram.value.token.slice()
  }
  for (let tries = 0; state !== 1 && tries < 50; tries++) {
    const head = { kind: Kind.RELAY_BIND, channel, side, counter, token }
    const blank = encoded({ ...head, mac: new Uint8Array(MAC) })
    send(relay, encoded({ ...head, mac: overlayCrypto.mac(key, blank.subarray(0, blank.length - MAC)) }))
    for (let i = 0; i < 10 && state !== 1; i++) {
      await delay(POLL_MS)
      if (state === 2) {
        state = 0
        break
      }
    }
  }
  say({ bound: state === 1 })
}

function blast(bytes: number, segment: number, seconds: number, to: Place, prefix: readonly number[]): void {
  writeName(arena.u8, arena.view, name, endpoint(to), family)
  arena.u8.fill(0x61, out, out + bytes)
  for (let at = 0; at < bytes; at += segment) arena.u8.set(prefix, out + at)
  const end = performance.now() + 1000 * seconds
  let sent = 0
  while (performance.now() < end)
    for (let i = 0; i < 64; i++) if (socket.send(name, 0, out, bytes, segment) === 0) sent += bytes
  say({ sent })
}

// ---- TURN (RFC 8656), no authentication

const COOKIE = 0x2112_a442
const CHANNEL = 0x4000

function stun(method: number, ...attributes: readonly (readonly [number, Uint8Array])[]): Uint8Array {
  const body = attributes.reduce((sum, [, value]) => sum + 4 + ((value.length + 3) & ~3), 0)
  const bytes = new Uint8Array(20 + body)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, method)
  view.setUint16(2, body)
  view.setUint32(4, COOKIE)
  bytes.set(crypto.getRandomValues(new Uint8Array(12)), 8)
  let at = 20
  for (const [type, value] of attributes) {
    view.setUint16(at, type)
    view.setUint16(at + 2, value.length)
    bytes.set(value, at + 4)
    at += 4 + ((value.length + 3) & ~3)
  }
  return bytes
}

/** XOR-PEER-ADDRESS of an IPv4 endpoint. */
function xored([address, port]: Place): Uint8Array {
  const bytes = new Uint8Array(8)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, 1)
  view.setUint16(2, port ^ (COOKIE >>> 16))
  bytes.set(must(parseAddress(address)), 4)
  view.setUint32(4, view.getUint32(4) ^ COOKIE)
  return bytes
}

async function turn(server: Place, peer: Place): Promise<void> {
  let answered = 0
  onSignal = (bytes) => {
    answered = (bytes[0]! << 8) | bytes[1]!
  }
  const ask = async (request: Uint8Array) => {
    answered = 0
    for (let i = 0; i < 20 && answered === 0; i++) {
      send(endpoint(server), request)
      await delay(20)
    }
    // 01xx: success.
    if ((answered & 0x110) !== 0x100) throw new Error(`TURN server: ${answered.toString(16)}`)
  }
  await ask(stun(0x003, [0x0019, Uint8Array.of(17, 0, 0, 0)]))
  await ask(stun(0x009, [0x000c, Uint8Array.of(CHANNEL >> 8, 0, 0, 0)], [0x0012, xored(peer)]))
  say({ channel: CHANNEL })
}

say({ ready: true })
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as Command
  if (command.quiet) quiet = true
  if (command.bind !== undefined) await bind(command.bind, command.counter ?? Date.now())
  if (command.turn !== undefined) await turn(command.turn, command.peer!)
  if (command.send !== undefined) send(endpoint(command.to!), new TextEncoder().encode(command.send))
  if (command.blast !== undefined)
    blast(
      command.blast,
      command.segment ?? command.blast,
      command.seconds ?? 1,
      command.to!,
      command.prefix ?? [],
    )
}
clearInterval(timer)
process.exit(0)
