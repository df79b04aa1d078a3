/** Two datapaths with two paths between them and fixed keys; datagrams wait until they are let through. */

import { FixedMachine, OpenForwarder } from '../../bench/fixed-machine.ts'
import { Arena } from '../../src/linux/arena.ts'
import { FakeTun } from '../../src/linux/fake-tun.ts'
import { FakeUdpNetwork } from '../../src/linux/fake-udp.ts'
import { Datapath } from '../../src/tunnel/datapath/datapath.ts'
import { Spread } from '../../src/tunnel/seam.ts'
import { udp } from './packets.ts'

const RING = 1 << 20
export const HELD = 256

class SpreadForwarder extends OpenForwarder {
  readonly spread = new Spread()
}

/** Two ends with two paths between them; datagrams wait in `lines` until let through. */
export class TwoPaths {
  readonly network = new FakeUdpNetwork()
  readonly lines: { to: number; bytes: Uint8Array; path: number }[] = []
  readonly a = this.#end(1)
  readonly b = this.#end(2)
  now = 1000
  #through = false

  constructor() {
    for (const [end, self, other] of [
      [0, this.a, this.b],
      [1, this.b, this.a],
    ] as const) {
      self.machine.begin({ end, form: 'godwit', remote: other.at[0]!, mtu: 1500, socket: 0 })
      self.slots.push(self.machine.slot)
      self.slots.push(
        self.machine.seam.paths.open({ peer: 0, pathId: 2, socket: 1, remote: other.at[1]!, mtu: 1500 }),
      )
    }
    this.network.filter = (from, to, bytes) => {
      if (this.#through || to.address[3] !== 2) return true
      this.lines.push({ to: 2, bytes: bytes.slice(), path: from.address[1]! })
      return false
    }
  }

  #end(host: number) {
    const arena = new Arena(Datapath.arenaBytes(RING, HELD))
    const tun = new FakeTun(arena)
    const forwarder = new SpreadForwarder()
    const datapath = new Datapath({
      arena,
      tun,
      forwarder,
      machine: (seam) => new FixedMachine(seam),
      random: () => 0,
      ringBytes: RING,
      reorderPackets: HELD,
    })
    const at = [0, 1].map((n) => ({ address: Uint8Array.of(10, n, 0, host), port: 7000 + host }))
    const sockets = at.map((endpoint) => this.network.open(arena, endpoint))
    datapath.sockets.push(...sockets)
    return {
      datapath,
      tun,
      forwarder,
      at,
      sockets,
      machine: datapath.machine as FixedMachine,
      slots: [] as number[],
    }
  }

  /** Sends packet `n` on a path (0 or 1) and on others as copies; `departAt` as in `Spread`. */
  send(n: number, path: number, copies: readonly number[] = [], ordered = true, departAt = 0): void {
    const { spread } = this.a.forwarder
    this.a.forwarder.slot = this.a.slots[path]!
    spread.copies = copies.length
    copies.forEach((copy, i) => {
      spread.copyTo[i] = this.a.slots[copy]!
    })
    spread.ordered = ordered
    spread.departAt = departAt
    this.a.datapath.now = this.now
    this.a.tun.inject(withNumber(n))
    while (this.a.datapath.outbound.read(1, this.now) > 0);
    this.a.datapath.finishBatch(this.now)
  }

  /** Lets a waiting datagram through. */
  arrive(line: { bytes: Uint8Array; path: number }): void {
    this.#through = true
    this.network.deliver(this.a.at[line.path]!, this.b.at[line.path]!, [line.bytes])
    this.#through = false
    this.b.datapath.now = this.now
    this.b.sockets.forEach((socket, index) => {
      while (this.b.datapath.inbound.receive(socket, index, this.now) > 0);
    })
    this.b.datapath.finishBatch(this.now)
  }

  wait(ms: number): void {
    this.now += ms
    this.a.datapath.now = this.now
    this.a.datapath.sendDue(this.now)
    this.b.datapath.releaseHeld(this.now)
  }

  /** Numbers of the packets that came out, super-packets of datagrams taken apart. */
  out(): number[] {
    return this.b.tun.written.flatMap((one) => {
      const numbers: number[] = []
      for (let at = 10 + 28; at + 1 < one.length; at += 2) numbers.push((one[at]! << 8) | one[at + 1]!)
      return numbers
    })
  }
}

/** A vnet header and a datagram that carries a number. */
function withNumber(n: number): Uint8Array {
  return udp({ version: 4, payload: Uint8Array.of(n >> 8, n & 255) })
}

/** The IP packet that `send(n, …)` sends. */
export function numbered(n: number): Uint8Array {
  return withNumber(n).subarray(10)
}
