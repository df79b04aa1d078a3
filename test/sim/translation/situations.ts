/** Situations of IHMP, and what happens in them as text, with the time of every message; see sequences.test.ts. */
import assert from 'node:assert/strict'
import { nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import type { IhmpOptions } from '../../../src/translation/machine/types.ts'
import { bytesOf, type Pair, type SocketRow } from '../../../src/translation/tables.ts'
import { type Control, encodeSigned, type IhmpMessage } from '../../../src/translation/wire.ts'
import { A, B, F, pairOfHosts, rowsOf, type SimHost, SimNetwork } from './network.ts'

export const [A6, F6] = ['fd00:1::2', 'fd00:3::2']
export const NAT = '10.5.0.5'
const NAMES: readonly [string, string][] = [
  [A, 'A'],
  [B, 'B'],
  [F, 'F'],
  [NAT, 'NAT'],
  [A6, 'A6'],
  [F6, 'F6'],
]

/** Does it, lets so long pass, and compares all that has happened. */
export function happens(net: SimNetwork, ms: number, what: () => unknown, expected: string): void {
  const from = net.now
  what()
  net.run(from + ms)
  const all = [...net.sequence(from), ...net.hosts.flatMap(rowsOf)].join('\n')
  const named = NAMES.reduce((text, [ip, name]) => text.replaceAll(ip, name), all)
  assert.equal(named, expected.trim().replace(/\n +/g, '\n'))
}

export function strangers(options: Partial<IhmpOptions> = {}) {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(options), net.host(options)]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  return { net, mh, ch }
}

/** Peers; A and B both work. */
export function twoWays() {
  const hosts = pairOfHosts()
  hosts.mh.preferred = A
  hosts.mh.set(`${A}/24`, `${B}/24`)
  hosts.net.run(hosts.net.now + 2_000)
  return hosts
}

export const flowsOf = (host: SimHost): SocketRow[] => [...host.tables.sockets.values()]

/** The receiver gets a message from this end of a pair, signed by the sender. */
export function says(
  net: SimNetwork,
  sender: SimHost,
  receiver: SimHost,
  pair: Pair,
  message: Partial<IhmpMessage> & { readonly control: Control },
): void {
  const whole = {
    options: 0,
    sequence: 1,
    counter: (1_700_000_000_000 + net.now) * 1_000 + 500 + Math.floor(net.random() * 500),
    hostId: bytesOf(pair.foreign),
    receiver: bytesOf(pair.local),
    ...message,
  }
  const bytes = encodeSigned(whole, (covered) => nodeIhmpCrypto.sign(sender.key!, covered))
  receiver.machine.handleMessage(bytes, pair, 0, net.now)
  net.drain()
}

/** Both ends see a connection; the mobile host greets. */
export function connect(mh: SimHost, ch: SimHost): void {
  ch.flows.push({ local: F, foreign: A })
  mh.flow(A, 40000, F, 80)
}

/** What is of this type is lost for so long. */
export function lose(net: SimNetwork, which: Control, ms: number): void {
  const until = net.now + ms
  net.intercept = (packet, { control }) => (control === which && net.now < until ? undefined : packet)
}
