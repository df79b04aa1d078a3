/**
 * The smallest datapath around a tunnel machine: node:dgram, one packet at a time, WireGuard's message 4 only. For
 * interoperation of the protocol machine with others, and for swarms of hosts in one process (with `features: 0`, which
 * keeps to message 4); the engine has tests of its own.
 */

import { randomInt } from 'node:crypto'
import dgram from 'node:dgram'
import { equal } from '../../src/core/bytes.ts'
import { nodeCrypto, nodeRandom } from '../../src/crypto/node-crypto.ts'
import { type MachineInit, type TunnelEvent, TunnelMachine } from '../../src/tunnel/protocol/machine.ts'
import { MessageType, messageType, readIndex, TRANSPORT, writeIndex } from '../../src/tunnel/protocol/wire.ts'
import type { Endpoint, MachineSeam, SessionKeys } from '../../src/tunnel/seam.ts'

const NOTHING = new Uint8Array(0)

interface Slot {
  readonly peer: number
  readonly pathId: number
  readonly socket: number
  remote: Endpoint
  closed: boolean
  lastSentAt: number
  lastReceivedAt: number
  sentBytes: number
  sentPackets: number
  receivedBytes: number
  receivedPackets: number
  highestCounter: number
}

export class PlainDriver {
  readonly machine: TunnelMachine
  readonly events: TunnelEvent[] = []
  /** Inner packets received. */
  readonly packets: Uint8Array[] = []
  keepalives = 0
  #sockets: dgram.Socket[] = []
  #slots: Slot[] = []
  #live = new Map<number, SessionKeys & { sent: number; highest: number }>()
  #sending = new Map<number, number>()
  #timer: NodeJS.Timeout | undefined
  #changed: (() => void)[] = []

  constructor(init: MachineInit) {
    this.machine = new TunnelMachine(
      { crypto: nodeCrypto, random: nodeRandom, wall: () => Date.now(), ...this.#seam() },
      init,
    )
  }

  get now(): number {
    return performance.now()
  }

  /** Opens a UDP socket, on loopback unless told otherwise, and returns its index. */
  async open(port = 0, local = '127.0.0.1'): Promise<number> {
    const socket = dgram.createSocket('udp4')
    const index = this.#sockets.push(socket) - 1
    socket.on('message', (message, info) => {
      const address = Uint8Array.from(info.address.split('.').map(Number))
      this.#receive(new Uint8Array(message), { address, port: info.port }, index)
      this.settle()
    })
    await new Promise<void>((resolve) => socket.bind(port, local, resolve))
    return index
  }

  port(socket: number): number {
    return this.#sockets[socket]!.address().port
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const socket of this.#sockets) socket.close()
  }

  /** After every call of the machine: events out, timer set. */
  settle(): void {
    for (let event = this.machine.poll(); event !== undefined; event = this.machine.poll())
      this.events.push(event)
    clearTimeout(this.#timer)
    const at = this.machine.nextTimeout()
    if (at !== undefined) {
      this.#timer = setTimeout(
        () => {
          this.machine.handleTimeout(this.now)
          this.settle()
        },
        Math.max(0, Math.ceil(at - this.now)),
      )
    }
    for (const check of [...this.#changed]) check()
  }

  /** Resolves when the condition holds, checked whenever anything happens. */
  async until(what: string, condition: () => boolean, limit = 10_000): Promise<void> {
    if (condition()) return
    await new Promise<void>((resolve, reject) => {
      const done = (end: () => void) => {
        clearTimeout(timer)
        this.#changed = this.#changed.filter((each) => each !== check)
        end()
      }
      const check = () => condition() && done(resolve)
      const timer = setTimeout(
        () => done(() => reject(new Error(`${what} did not happen; events: ${JSON.stringify(this.events)}`))),
        limit,
      )
      this.#changed.push(check)
    })
  }

  sendPacket(slot: number, packet: Uint8Array): boolean {
    const entry = this.#slots[slot]!
    const ok = this.#seal(entry, packet) >= 0
    if (ok) this.machine.noteTraffic(entry.peer, true, false, false, this.now)
    else this.machine.wantSession(entry.peer, this.now)
    this.settle()
    return ok
  }

  #receive(bytes: Uint8Array, from: Endpoint, socket: number): void {
    const { now } = this
    const type = messageType(bytes)
    if (type !== MessageType.transport) {
      if (type !== 0 && type !== MessageType.multipath) this.machine.handleHandshake(bytes, from, socket, now)
      return
    }
    const session = this.#live.get(readIndex(bytes, TRANSPORT.receiver))
    if (session === undefined) return
    const view = new DataView(bytes.buffer)
    const counter =
      view.getUint32(TRANSPORT.counter, true) + view.getUint32(TRANSPORT.counter + 4, true) * 2 ** 32
    const packet = nodeCrypto.open(session.receiveKey, counter, bytes.subarray(TRANSPORT.payload), NOTHING)
    if (packet === undefined || counter <= session.highest) return // loopback keeps the order
    session.highest = counter
    const { peer, localIndex } = session
    this.machine.handleFirstReceive(peer, localIndex, now)
    let slot = this.#slots.findIndex(
      (each) => !each.closed && each.peer === peer && each.socket === socket && same(each.remote, from),
    )
    const control = packet.length > 1 && packet[0]! >> 4 === 0
    const exact = slot
    const size = bytes.length + 28
    if (slot < 0 && !control) slot = this.machine.handleRoaming(peer, 0, from, socket, size, now)
    const entry = this.#slots[slot]
    if (entry !== undefined) {
      entry.lastReceivedAt = now
      entry.receivedPackets++
    }
    if (control) {
      const body = packet.subarray(2)
      const pathId = packet[1]!
      const { machine } = this
      machine.handleControl(peer, localIndex, exact, pathId, from, socket, counter, true, size, body, now)
    } else if (packet.length === 0) this.keepalives++
    else this.packets.push(packet)
    this.machine.noteTraffic(peer, false, !control && packet.length > 0, true, now)
  }

  #seal(entry: Slot, packet: Uint8Array): number {
    const session = this.#live.get(this.#sending.get(entry.peer) ?? -1)
    if (session === undefined || entry.closed) return -1
    const padded = new Uint8Array(Math.ceil(packet.length / 16) * 16)
    padded.set(packet)
    const counter = session.sent++
    const sealed = nodeCrypto.seal(session.sendKey, counter, padded, NOTHING)
    const out = new Uint8Array(TRANSPORT.payload + sealed.length)
    out[0] = MessageType.transport
    writeIndex(out, TRANSPORT.receiver, session.remoteIndex)
    writeIndex(out, TRANSPORT.counter, counter)
    out.set(sealed, TRANSPORT.payload)
    entry.sentPackets++
    entry.lastSentAt = this.now
    this.#send(out, entry.remote, entry.socket)
    return counter
  }

  #send(bytes: Uint8Array, to: Endpoint, socket: number): void {
    this.#sockets[socket]!.send(bytes, to.port, to.address.join('.'))
  }

  #seam(): MachineSeam {
    return {
      sessions: {
        newIndex: () => randomInt(1, 2 ** 32 - 1),
        install: (keys) => {
          this.#live.set(keys.localIndex, { ...keys, sent: 0, highest: -1 })
        },
        useForSending: (index) => {
          this.#sending.set(this.#live.get(index)!.peer, index)
        },
        setForm: () => {},
        heardIn: () => {},
        unread: () => {},
        remove: (index) => {
          this.#live.delete(index)
        },
        sent: (index) => this.#live.get(index)?.sent ?? 0,
      },
      paths: {
        open: ({ peer, pathId, socket, remote }) =>
          this.#slots.push({
            peer,
            pathId,
            socket,
            remote,
            closed: false,
            lastSentAt: 0,
            lastReceivedAt: 0,
            sentBytes: 0,
            sentPackets: 0,
            receivedBytes: 0,
            receivedPackets: 0,
            highestCounter: -1,
          }) - 1,
        setRemote: (slot, remote) => {
          this.#slots[slot]!.remote = remote
        },
        setMtu: () => {},
        close: (slot) => {
          this.#slots[slot]!.closed = true
        },
        release: () => {},
        counters: (slot) => this.#slots[slot]!,
        resend: () => 0,
      },
      transmit: {
        handshake: (bytes, to, socket) => {
          this.#send(bytes.slice(), to, socket)
          return 0
        },
        controlTo: (peer, pathId, remote, socket, body) => {
          const entry = { ...this.#slots[0]!, peer, pathId, remote, socket, closed: false }
          return this.#seal(entry, Uint8Array.of(1, pathId, ...body)) >= 0
        },
        control: (slot, body) => {
          const entry = this.#slots[slot]!
          if (body.length === 0) return this.#seal(entry, body)
          return this.#seal(entry, Uint8Array.of(1, entry.pathId, ...body))
        },
      },
    }
  }
}

/** An ICMP echo request from 10.99.0.2 to 10.99.0.1, complete with checksums. */
export function echoRequest(sequence: number): Uint8Array {
  const packet = Uint8Array.of(
    ...[0x45, 0, 0, 36, 0, sequence, 0x40, 0, 64, 1, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1],
    ...[8, 0, 0, 0, 0x12, 0x34, 0, sequence, 1, 2, 3, 4, 5, 6, 7, 8],
  )
  const sum = (from: number, to: number) => {
    let total = 0
    for (let i = from; i < to; i += 2) total += (packet[i]! << 8) | packet[i + 1]!
    while (total > 0xffff) total = (total & 0xffff) + (total >>> 16)
    return ~total & 0xffff
  }
  new DataView(packet.buffer).setUint16(10, sum(0, 20))
  new DataView(packet.buffer).setUint16(22, sum(20, 36))
  return packet
}

/** Whether a packet is the echo reply with this sequence number. */
export function isEchoReply(packet: Uint8Array, sequence: number): boolean {
  return packet[9] === 1 && packet[20] === 0 && packet[27] === sequence
}

function same(a: Endpoint, b: Endpoint): boolean {
  return a.port === b.port && equal(a.address, b.address)
}
