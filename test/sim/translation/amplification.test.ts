/**
 * Bytes to addresses that have proven nothing, for each byte that made them leave: at most three, whatever message in whatever
 * state (docs/adr/0048). Each case is compared with the same world in which nothing was sent.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateOwnKey, nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import type { OwnKey } from '../../../src/translation/machine/host.ts'
import { bytesOf, type Ip } from '../../../src/translation/tables.ts'
import {
  Control,
  encodeSigned,
  type IhmpMessage,
  MOST_FLOW_TAGS,
  Option,
} from '../../../src/translation/wire.ts'
import { stride } from '../../support/extent.ts'
import { A, B, F, type SimHost, SimNetwork } from './network.ts'

const OVERHEAD = 28
const MOST_RATIO = 3
/** To one host: every address of OTHERS once. */
const MESSAGES = 12
/** Whose addresses the attacker names, or forges. */
const VICTIM = '10.1.0.66'
const OTHERS = Array.from({ length: 12 }, (_, i) => `10.1.${i + 1}.66`)

interface World {
  readonly net: SimNetwork
  readonly v: SimHost
  readonly m: SimHost
}

/** V in every state that a row can be in; M then says nothing any more but what the test sends. */
const STATES: Record<string, (w: World) => void> = {
  'a stranger without flows': () => {},
  'a flow that is being greeted': ({ net, v }) => {
    v.flow(F, 80, A, 40001)
    v.flow(F, 80, VICTIM, 40002)
    net.run(net.now + 100)
  },
  'a host that does not speak IHMP': ({ net, v }) => {
    v.flow(F, 80, A, 40001)
    v.flow(F, 80, VICTIM, 40002)
    net.run(net.now + 10_000)
  },
  'a peer': ({ net, v, m }) => greet(net, v, m),
  'a peer that has moved': ({ net, v, m }) => {
    greet(net, v, m)
    m.preferred = B
    m.set(`${B}/24`)
    net.run(net.now + 5_000)
  },
  'a peer with flows at the victim’s address too': ({ net, v, m }) => {
    greet(net, v, m)
    v.flow(F, 80, VICTIM, 40002)
    net.run(net.now + 10_000)
  },
  'a peer without any way': ({ net, v, m }) => {
    greet(net, v, m)
    v.set('10.3.7.2/24')
    net.run(net.now + 100)
  },
  'a host behind an unaware NAT': ({ net, v, m }) => {
    net.nat.set(A, '10.1.0.7')
    v.flow(F, 80, '10.1.0.7', 40001)
    m.flow(A, 40001, F, 80)
    net.run(net.now + 5_000)
  },
}

function greet(net: SimNetwork, v: SimHost, m: SimHost): void {
  m.flow(A, 40001, F, 80)
  v.flow(F, 80, A, 40001)
  net.run(net.now + 5_000)
}

function world(state: string): World & { local: Ip } {
  const net = new SimNetwork(7)
  const [v, m] = [net.host({ nats: 'any', advertise: 'all' }), net.host()]
  v.key = KEYS[0]!
  m.key = KEYS[1]!
  v.set(`${F}/24`)
  m.set(`${A}/24`)
  STATES[state]!({ net, v, m })
  net.hosts.splice(net.hosts.indexOf(m), 1)
  return { net, v, m, local: v.addresses[0]!.ip }
}

const KEYS: readonly OwnKey[] = [generateOwnKey(), generateOwnKey(), generateOwnKey()]

/** Everything at once: whatever a procedure looks for is there. */
function everything(control: Control, hostId: Ip, receiver: Ip, counter: number, i: number): IhmpMessage {
  return {
    control,
    options: i % 3 === 1 ? Option.PF : i % 3 === 2 ? Option.NS | Option.CF : 0,
    sequence: i & 0xffff,
    counter,
    hostId: bytesOf(hostId),
    receiver: bytesOf(receiver),
    addresses: (i % 2 === 0 ? [hostId, ...OTHERS.slice(1)] : [hostId]).map(bytesOf),
    newAddress: bytesOf(OTHERS[i % OTHERS.length]!),
    ...(i % 4 === 3 ? { lostAddresses: [bytesOf(OTHERS[(i + 5) % OTHERS.length]!)] } : {}),
    publicKey: KEYS[2]!.publicKey,
    newKey: KEYS[2]!.publicKey,
    challenge: new Uint8Array(16).fill(i),
    response: new Uint8Array(16).fill(1),
    cookie: new Uint8Array(16).fill(2),
    ...(control === Control.FLOWS
      ? {
          flowPair: { own: bytesOf(hostId), other: bytesOf(receiver) },
          flowTags: Array.from({ length: i % MOST_FLOW_TAGS }, (_, n) => ({
            ownPort: n,
            otherPort: 80,
            tag: new Uint8Array(8),
          })),
        }
      : {}),
  }
}

/** Bytes from V to addresses at which nobody has answered, within a minute and a half. */
function toUnproven({ net, v }: World, since: number): number {
  const proven = new Set([...v.machine.hosts()].flatMap((h) => [...h.answered]))
  return net.log
    .slice(since)
    .filter((p) => v.addresses.some((a) => a.ip === p.from) && !proven.has(p.to))
    .reduce((sum, p) => sum + p.bytes.length + OVERHEAD, 0)
}

const MANNERS = ['the same again and again', 'new each time', 'cut down to its header'] as const
const CONTROLS = Object.entries(Control)
const CASES = MANNERS.flatMap((manner) =>
  [A, VICTIM].flatMap((source) => [KEYS[1]!, KEYS[2]!].map((key) => [manner, source, key] as const)),
).flatMap(([manner, source, key], first) =>
  CONTROLS.filter((_, i) => (i + first) % stride(1) === 0).map(
    ([name, control]) => [name, control, manner, source, key] as const,
  ),
)

for (const state of Object.keys(STATES))
  test(`${state}: no message makes more than three bytes leave for one that came`, () => {
    const quiet = world(state)
    const mark = quiet.net.log.length
    quiet.net.run(quiet.net.now + 90_000)
    const without = toUnproven(quiet, mark)
    let answered = 0
    for (const [name, control, manner, source, key] of CASES) {
      const w = world(state)
      const since = w.net.log.length
      // What came before, too, was worth three times its bytes.
      const saved = [...w.v.machine.hosts()].reduce((sum, { credit }) => sum + credit, 0)
      let came = 0
      for (let i = 0; i < MESSAGES; i++) {
        const counter = (1_700_000_000_000 + w.net.now) * 1_000 + (manner === MANNERS[1] ? i : 0)
        const hostId = key === KEYS[1] ? A : source
        const round = manner === MANNERS[1] ? i : 0
        const message = everything(control, hostId, w.local, counter, round)
        let bytes = encodeSigned(message, (covered) => nodeIhmpCrypto.sign(key, covered))
        if (manner === MANNERS[2] && i > 0) {
          bytes = bytes.slice(0, 36)
          bytes[18] = bytes[19] = 0
        }
        came += bytes.length + OVERHEAD
        w.v.machine.handleMessage(
          bytes,
          { local: w.local, foreign: source },
          i % 2 === 0 ? 0 : 999,
          w.net.now,
        )
        w.net.run(w.net.now + 20)
      }
      w.net.run(w.net.now + 90_000)
      const made = toUnproven(w, since) - without
      answered += w.net.log.slice(since).length
      assert.ok(
        made <= saved + MOST_RATIO * came,
        `${name} from ${source}, ${manner}: ${made} bytes for ${came}`,
      )
    }
    assert.ok(!state.startsWith('a peer') || answered > 0, 'the messages reach what they are for')
  })
