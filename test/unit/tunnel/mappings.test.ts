/** What a node learns about the lifetimes of mappings, from what the coordinator says of its sockets. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type MappedSocket, Mappings, type MappingsOutput } from '../../../src/tunnel/protocol/mappings.ts'

const TO = { address: Uint8Array.of(192, 0, 2, 1), port: 6741 }
const OUTSIDE = Uint8Array.of(203, 0, 113, 1)

/** A node with one access; its NAT maps a socket to `portAt(age)`. */
class Bed {
  readonly mappings = new Mappings()
  readonly looks: number[] = []
  readonly renewals: { readonly at: number; readonly until: number }[] = []
  now = 0
  flows = true
  portAt: (age: number, socket: MappedSocket, now: number) => number
  #sockets: readonly MappedSocket[]
  readonly #openedAt = new Map<number, number>()
  /** Replaced ones stay for so long (ms), and while they are watched. */
  readonly keeps = 2_000

  constructor(portAt: Bed['portAt'], address = Uint8Array.of(10, 0, 0, 2)) {
    this.portAt = portAt
    this.mappings.setWitnesses([TO], 0)
    this.#sockets = [{ socket: 0, access: 'acc1', addresses: [address], port: 1000 }]
    this.#openedAt.set(0, 0)
    this.mappings.setSockets(this.#sockets, 0)
    this.#observe(0)
  }

  get sockets(): readonly MappedSocket[] {
    return this.#sockets
  }

  set(sockets: readonly MappedSocket[]): void {
    for (const { socket } of sockets)
      if (!this.#sockets.some((each) => each.socket === socket)) this.#openedAt.set(socket, this.now)
    this.#sockets = sockets
    this.mappings.setSockets(sockets, this.now)
  }

  run(ms: number): void {
    for (const end = this.now + ms; this.now < end; this.now += 50) {
      if (this.flows) this.mappings.noteFlow(this.now)
      if (this.mappings.nextTimeout() <= this.now)
        for (const output of this.mappings.handleTimeout(this.now)) this.#carryOut(output)
      const kept = this.#sockets.filter(
        (socket) =>
          !socket.replaced ||
          this.mappings.isWatched(socket, this.now) ||
          this.#age(socket.socket) < 5_000 + this.keeps,
      )
      if (kept.length < this.#sockets.length) this.set(kept)
    }
  }

  #age(socket: number): number {
    return this.now - this.#openedAt.get(socket)!
  }

  #carryOut(output: MappingsOutput): void {
    if (output.type === 'renew') {
      this.renewals.push({ at: this.now, until: output.until })
      const next = Math.max(...this.#sockets.map(({ socket }) => socket)) + 1
      const before = this.#sockets.map((each) => ({ ...each, replaced: true }))
      this.set([{ ...before[0]!, socket: next, port: 1000 + next, replaced: false }, ...before])
      this.#observe(next)
    } else {
      this.looks.push(this.now)
      this.#observe(output.way.socket)
    }
  }

  #observe(socket: number): void {
    const known = this.#sockets.find((each) => each.socket === socket)!
    const [address, port] =
      this.portAt(0, known, this.now) < 0
        ? [known.addresses[0]!, known.port]
        : [OUTSIDE, this.portAt(this.#age(socket), known, this.now)]
    const output = this.mappings.observed(socket, TO, { address, port }, this.now)
    if (output !== undefined) this.#carryOut(output)
  }
}

/** A port for each socket and each `lifetime` of it. */
const ends = (lifetime: number) => (age: number, socket: MappedSocket) =>
  20_000 + 100 * socket.socket + Math.floor(age / lifetime)

describe('NT-50: lifetimes of mappings', () => {
  it('one that ends at 60 s is known to reach an eighth less at least; every socket is replaced ahead of it', () => {
    const bed = new Bed(ends(60_000))
    bed.run(600_000)
    const known = bed.mappings.lifetime('acc1')!
    assert.ok(known >= 52_000 && known <= 60_000, `${known}`)
    const [first, ...others] = bed.renewals
    assert.ok(first!.at >= 60_000 && first!.at < 68_000, `${first!.at}`)
    let opened = first!.at
    for (const { at, until } of others) {
      assert.ok(at - opened < 60_000 - 1_500 && at - opened > 45_000, `${at - opened}`)
      assert.ok(until <= opened + 60_000)
      opened = at
    }
    assert.ok(others.length >= 9)
    // Once two have ended at that age, replaced sockets are not kept.
    assert.ok(bed.sockets.length <= 2)
  })

  it('questions become rarer as a mapping grows old, and end', () => {
    const bed = new Bed(ends(Number.POSITIVE_INFINITY))
    bed.run(60_000)
    assert.ok(bed.looks.length <= 30, `${bed.looks.length}`)
    bed.run(940_000)
    const before = bed.looks.length
    assert.ok(before <= 110, `${before}`)
    bed.run(3_600_000)
    assert.equal(bed.looks.length, before)
    assert.equal(bed.renewals.length, 0)
  })

  it('nothing is asked without packets, nor where nothing is translated', () => {
    const idle = new Bed(ends(60_000))
    idle.flows = false
    idle.run(600_000)
    assert.equal(idle.looks.length, 0)
    const open = new Bed(() => -1)
    open.run(600_000)
    assert.equal(open.looks.length, 0)
  })

  it('a NAT that was restarted once costs some fresh sockets, not one after the other for ever', () => {
    const bed = new Bed((_age, { socket }, now) => 20_000 + 100 * socket + (now > 9_000 ? 1 : 0))
    bed.run(1_800_000)
    assert.ok(bed.renewals.length >= 1 && bed.renewals.length <= 10, `${bed.renewals.length}`)
    assert.equal(bed.mappings.lifetime('acc1'), undefined)
    const before = bed.renewals.length
    bed.run(3_600_000)
    assert.equal(bed.renewals.length, before)
  })

  it('a NAT that changes the port with every datagram teaches nothing', () => {
    let port = 20_000
    const bed = new Bed(() => port++)
    bed.run(600_000)
    assert.equal(bed.renewals.length, 0)
    assert.equal(bed.mappings.lifetime('acc1'), undefined)
  })

  it('one that ended while no packets flowed teaches nothing', () => {
    const bed = new Bed((age) => (age < 100_000 ? 20_000 : 20_001))
    bed.run(30_000)
    bed.flows = false
    bed.run(100_000)
    bed.flows = true
    bed.run(300_000)
    assert.equal(bed.renewals.length, 0)
  })

  it('what was learned goes with the access, and with a socket that replaces none', () => {
    const bed = new Bed(ends(20_000))
    bed.run(30_000)
    assert.ok(bed.mappings.lifetime('acc1') !== undefined)
    bed.set([{ socket: 50, access: 'acc1', addresses: [Uint8Array.of(10, 9, 9, 9)], port: 1 }])
    assert.equal(bed.mappings.lifetime('acc1'), undefined)
  })
})
