/** The relay's channels (NT-24, NT-25): ports, families, bindings and their proofs, limits, expiry. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { concat } from '../../../src/core/bytes.ts'
import type { Endpoint } from '../../../src/core/endpoint.ts'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { encoded } from '../../../src/overlay/machine/asker.ts'
import { Relay } from '../../../src/overlay/machine/relay.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import {
  datagramCodec,
  decodeSeen,
  Kind,
  MAC,
  type RelayBind,
  SHOWS,
  WHERE,
} from '../../../src/overlay/wire/datagram.ts'
import type { RelaySide, SideOrder } from '../../../src/overlay/wire/message.ts'

const V4 = Uint8Array.of(192, 0, 2, 2)
const V6 = Uint8Array.of(0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2)
const PORTS = [7000, 7001, 7002, 7003]
const v4 = (last: number, port = 5000): Endpoint => ({ address: Uint8Array.of(198, 51, 100, last), port })
const v6 = (last: number): Endpoint => ({
  address: V6.map((byte, i) => (i === 15 ? last : byte)),
  port: 5000,
})

function relay(more: { maxChannels?: number } = {}) {
  return new Relay(
    { crypto: overlayCrypto, random: nodeRandom, wall: () => 0 },
    { addresses: [V4, V6], ports: PORTS, ...more },
  )
}

function bind(side: RelaySide, counter: number, token: Uint8Array = new Uint8Array(16)): Uint8Array {
  const head = { kind: Kind.RELAY_BIND, channel: side.channel, side: side.side, counter, token }
  const blank = encoded({ ...head, mac: new Uint8Array(MAC) })
  return encoded({ ...head, mac: overlayCrypto.mac(side.key, blank.subarray(0, blank.length - MAC)) })
}

/** What the relay says to a binding: 1 bound, 2 prove; undefined: nothing. */
function answer(bytes: Uint8Array | undefined): RelayBind | undefined {
  if (bytes === undefined) return undefined
  const decoded = datagramCodec.decode(bytes)
  assert.ok(decoded.ok && decoded.value.kind === Kind.RELAY_BOUND)
  return decoded.value
}

function order(
  machine: Relay,
  pair: string,
  another: boolean,
  sides: readonly [SideOrder, SideOrder],
  now: number,
  account = 'carol',
) {
  return machine.order({ pair, another, account, sides }, now)
}

const indexOf = (side: RelaySide) => PORTS.indexOf(side.endpoint.port)

describe('channels', () => {
  it('each side sends to a port of its own, in its own family; proven addresses are bound at once', () => {
    const machine = relay()
    const sides = order(
      machine,
      'ab',
      false,
      [
        { node: 1n, proven: v4(1) },
        { node: 2n, proven: v6(9) },
      ],
      0,
    )!
    assert.deepEqual(sides[0].endpoint.address, V4)
    assert.deepEqual(sides[1].endpoint.address, V6)
    assert.notEqual(sides[0].endpoint.port, sides[1].endpoint.port)
    const there = machine.find(indexOf(sides[0]), v4(1))!
    assert.deepEqual([there.to.bound, there.to.port], [v6(9), indexOf(sides[1])])
    assert.deepEqual(machine.find(indexOf(sides[1]), v6(9))!.to.bound, v4(1))
    assert.equal(machine.find(indexOf(sides[1]), v4(1)), undefined, 'at the other side’s port')
    assert.equal(machine.find(indexOf(sides[0]), v4(1, 5001)), undefined, 'from another port')
  })

  it('a pair asked for again has the same channel, whoever asks; another is given twice more, one for each end', () => {
    const machine = relay()
    const first = order(machine, 'ab', false, [{ node: 1n }, { node: 2n }], 0)!
    const turned = order(machine, 'ab', false, [{ node: 2n }, { node: 1n }], 0)!
    assert.deepEqual([turned[1].key, turned[1].side], [first[0].key, first[0].side])
    const second = order(machine, 'ab', true, [{ node: 1n }, { node: 2n }], 0)!
    assert.notEqual(second[0].channel, first[0].channel)
    assert.notEqual(second[0].endpoint.port, first[0].endpoint.port)
    const third = order(machine, 'ab', true, [{ node: 1n }, { node: 2n }], 0)!
    assert.notEqual(third[0].channel, second[0].channel)
    const fourth = order(machine, 'ab', true, [{ node: 1n }, { node: 2n }], 0)!
    assert.equal(fourth[0].channel, third[0].channel)
  })

  it('NT-50: a pair that wants another beside three loses the one that has carried nothing for ten seconds', () => {
    const machine = relay()
    const sides = [{ node: 1n }, { node: 2n }] as const
    const ids = [0, 1, 2].map((n) => order(machine, 'ab', n > 0, sides, 0)![0].channel)
    assert.equal(order(machine, 'ab', true, sides, 9_000)![0].channel, ids[2], 'all were used lately')
    const count = () => [...machine.channels].map(({ id }) => id)
    for (const channel of machine.channels) if (channel.id !== ids[0]) channel.sides[0].packets++
    machine.handleTimeout(10_000)
    const third = order(machine, 'ab', true, sides, 11_000)![0].channel
    assert.deepEqual(count(), [ids[1], ids[2], third])
    for (const channel of machine.channels) channel.sides[0].packets++
    assert.equal(order(machine, 'ab', true, sides, 60_000)![0].channel, third, 'all are in use')
  })

  it('a node has a channel for each port; all have a limit', () => {
    const machine = relay()
    for (let i = 0; i < PORTS.length; i++)
      assert.ok(order(machine, `p${i}`, false, [{ node: 1n }, { node: BigInt(10 + i) }], 0))
    assert.equal(order(machine, 'one more', false, [{ node: 1n }, { node: 99n }], 0), undefined)
    assert.ok(order(machine, 'others', false, [{ node: 98n }, { node: 99n }], 0))
    const small = relay({ maxChannels: 1 })
    assert.ok(order(small, 'ab', false, [{ node: 1n }, { node: 2n }], 0))
    assert.equal(order(small, 'cd', false, [{ node: 3n }, { node: 4n }], 0), undefined)
  })

  it('where there are no more, the account that has most loses the channel unused for longest; who has most gets none', () => {
    const machine = relay({ maxChannels: 4 })
    const node = (n: number) => ({ node: BigInt(n) })
    for (let i = 0; i < 3; i++) order(machine, `g${i}`, false, [node(10 + i), node(20 + i)], i, 'greedy')
    order(machine, 'h', false, [node(1), node(2)], 9, 'honest')
    assert.equal(order(machine, 'g3', false, [node(13), node(23)], 10, 'greedy'), undefined)
    assert.ok(order(machine, 'i', false, [node(3), node(4)], 11, 'other'))
    const left = [...machine.channels].map(({ pair }) => pair)
    assert.deepEqual(left, ['g1', 'g2', 'h', 'i'])
  })

  it('who fills the ports of another’s node pays for it, and the node has one for others', () => {
    const machine = relay()
    const node = (n: number) => ({ node: BigInt(n) })
    for (let i = 0; i < PORTS.length; i++)
      order(machine, `g${i}`, false, [node(10 + i), node(1)], i, 'greedy')
    assert.equal(order(machine, 'g9', false, [node(19), node(1)], 8, 'greedy'), undefined)
    assert.ok(order(machine, 'h', false, [node(2), node(1)], 9, 'honest'))
    assert.equal([...machine.channels].length, PORTS.length)
  })

  it('ends after three minutes without a packet, and its ports are free again', () => {
    const machine = relay()
    const ended: number[] = []
    machine.onEnd = ({ port }) => ended.push(port)
    const sides = order(
      machine,
      'ab',
      false,
      [
        { node: 1n, proven: v4(1) },
        { node: 2n, proven: v4(2) },
      ],
      0,
    )!
    machine.find(indexOf(sides[0]), v4(1))!.from.packets++
    machine.handleTimeout(170_000)
    machine.handleTimeout(340_000)
    assert.ok(machine.find(indexOf(sides[0]), v4(1)))
    machine.handleTimeout(360_000)
    assert.equal(machine.find(indexOf(sides[0]), v4(1)), undefined)
    assert.equal(ended.length, 2)
    assert.equal(machine.nextTimeout(), undefined)
  })
})

describe('RELAY_BIND', () => {
  it('the answer shows the request, proven or not; a node of before does not ask for that', () => {
    const machine = relay()
    const [side] = order(machine, 'ab', false, [{ node: 1n, proven: v4(1) }, { node: 2n }], 0)!
    const shows = { ...side, side: (side.side | SHOWS) as 0 }
    const made = Uint8Array.from({ length: 16 }, (_, i) => i)
    const macOf = (reply: RelayBind, more: Uint8Array) => {
      const bytes = encoded(reply)
      return overlayCrypto.mac(side.key, concat(bytes.subarray(0, bytes.length - MAC), more))
    }
    const says = (of: RelaySide, counter: number, token: Uint8Array, from: Endpoint) =>
      answer(machine.handleBind(bind(of, counter, token), indexOf(side), from, 0))!
    const bound = says(shows, 1, made, v4(1))
    assert.equal(bound.side, 1)
    assert.deepEqual(bound.mac, macOf(bound, made))
    const prove = says(shows, 2, made, v4(7))
    assert.equal(prove.side, 2)
    assert.deepEqual(prove.mac, macOf(prove, made))
    const proven = says(shows, 2, prove.token, v4(7))
    assert.equal(proven.side, 1)
    assert.deepEqual(proven.mac, macOf(proven, prove.token))
    const old = says(side, 3, new Uint8Array(16), v4(1))
    assert.deepEqual(old.mac, macOf(old, new Uint8Array(0)))
  })

  it('from an address that is not proven: a token of the same size, and with it the binding', () => {
    const machine = relay()
    const [side] = order(
      machine,
      'ab',
      false,
      [
        { node: 1n, proven: v4(1) },
        { node: 2n, proven: v4(2) },
      ],
      0,
    )!
    const port = indexOf(side)
    const asked = bind(side, 1)
    const reply = machine.handleBind(asked, port, v4(7), 0)
    assert.ok(reply!.length <= asked.length)
    const prove = answer(reply)!
    assert.equal(prove.side, 2)
    assert.equal(machine.find(port, v4(7)), undefined)
    assert.equal(
      answer(machine.handleBind(bind(side, 1, prove.token), port, v4(8), 0))!.side,
      2,
      'of another address',
    )
    assert.equal(answer(machine.handleBind(bind(side, 1, prove.token), port, v4(7), 0))!.side, 1)
    assert.ok(machine.find(port, v4(7)))
    assert.equal(machine.find(port, v4(1)), undefined, 'the old address')
    assert.equal(answer(machine.handleBind(bind(side, 1, prove.token), port, v4(7), 0))!.side, 1, 'repeated')
  })

  it('issue 13: says where it sees a node, bound or asked at any of its ports, with as many bytes; asking binds nothing', () => {
    const machine = relay()
    const [side] = order(machine, 'ab', false, [{ node: 1n, proven: v4(1) }, { node: 2n }], 0)!
    const port = indexOf(side)
    const seen = (reply: RelayBind) => decodeSeen(reply.token)
    const bound = answer(machine.handleBind(bind(side, 1), port, v4(1), 0))!
    assert.equal(bound.side, 1)
    assert.deepEqual(seen(bound), { port: 5000, first: PORTS[0], last: PORTS.at(-1) })
    const question = bind({ ...side, side: (side.side | WHERE) as 0 }, 7)
    const other = (port + 1) % PORTS.length
    const reply = machine.handleBind(question, other, v4(1, 5001), 0)!
    assert.equal(reply.length, question.length)
    assert.equal(answer(reply)!.side, 3)
    assert.equal(answer(reply)!.counter, 7)
    assert.equal(seen(answer(reply)!).port, 5001)
    assert.equal(machine.find(other, v4(1, 5001)), undefined)
    assert.ok(machine.find(port, v4(1)))
    const forged = question.slice()
    forged[forged.length - 1]! ^= 1
    assert.equal(machine.handleBind(forged, other, v4(1, 5001), 0), undefined)
  })

  it('NT-24: a token is good for the request that it answers; a side reports one round trip a minute, none above two seconds', () => {
    const machine = relay()
    const [side] = order(machine, 'ab', false, [{ node: 1n }, { node: 2n }], 0)!
    const port = indexOf(side)
    const prove = (counter: number, now: number) =>
      answer(machine.handleBind(bind(side, counter), port, v4(7), now))!.token
    const token = prove(1, 1000)
    assert.equal(answer(machine.handleBind(bind(side, 1, token), port, v4(7), 1040))!.side, 1)
    for (let n = 2; n < 100; n++)
      assert.equal(answer(machine.handleBind(bind(side, n, token), port, v4(7), 9000))!.side, 2, 'of another')
    const rtts = () => machine.takeMeasured(1000).map(({ rtt }) => rtt)
    assert.deepEqual(rtts(), [40_000])
    const returned = (counter: number, at: number, back: number) =>
      machine.handleBind(bind(side, counter, prove(counter, at)), port, v4(7), back)
    returned(100, 9000, 9030)
    assert.deepEqual(rtts(), [], 'within the minute')
    returned(101, 70_000, 72_500)
    assert.deepEqual(rtts(), [], 'longer than two seconds')
    returned(102, 73_000, 73_030)
    assert.deepEqual(rtts(), [30_000])
  })

  it('older counters, other keys, other ports and unknown channels get nothing', () => {
    const machine = relay()
    const [side, other] = order(machine, 'ab', false, [{ node: 1n, proven: v4(1) }, { node: 2n }], 0)!
    const port = indexOf(side)
    assert.equal(answer(machine.handleBind(bind(side, 5), port, v4(1), 0))!.side, 1)
    assert.equal(machine.handleBind(bind(side, 4), port, v4(1), 0), undefined)
    assert.equal(machine.handleBind(bind(side, 5), port, v4(9), 0), undefined)
    assert.equal(machine.handleBind(bind({ ...side, key: other.key }, 6), port, v4(1), 0), undefined)
    assert.equal(machine.handleBind(bind(side, 6), indexOf(other), v4(1), 0), undefined)
    assert.equal(
      machine.handleBind(bind({ ...side, channel: side.channel ^ 1 }, 6), port, v4(1), 0),
      undefined,
    )
  })

  it('what the node has bound stays when the coordinator says an older address again', () => {
    const machine = relay()
    const orders = [
      { node: 1n, proven: v4(1) },
      { node: 2n, proven: v4(2) },
    ] as const
    const [side] = order(machine, 'ab', false, orders, 0)!
    const port = indexOf(side)
    const { token } = answer(machine.handleBind(bind(side, 1), port, v4(7), 0))!
    machine.handleBind(bind(side, 1, token), port, v4(7), 0)
    order(machine, 'ab', false, orders, 0)
    assert.ok(machine.find(port, v4(7)))
  })

  it('says at which of our addresses the node is answered, also where the coordinator had bound it; a repeated one moves nothing', () => {
    const machine = relay()
    const [side] = order(machine, 'ab', false, [{ node: 1n, proven: v4(1) }, { node: 2n }], 0)!
    const port = indexOf(side)
    const local = Uint8Array.of(192, 0, 2, 9)
    const bytes = bind(side, 1)
    machine.handleBind(bytes, port, { ...v4(1), local }, 0)
    assert.deepEqual(machine.find(port, v4(1))!.from.bound!.local, local)
    machine.handleBind(bytes, port, { ...v4(1), local: V4 }, 0)
    assert.deepEqual(machine.find(port, v4(1))!.from.bound!.local, local)
  })
})
