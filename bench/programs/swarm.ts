/**
 * Many hosts in one process, each a real tunnel machine with two paths to one anchor: `swarm SPEC.json`. Prints `up` when
 * all have both paths; on a line `flows N` on standard input sends one packet of each of N flows, shared out evenly, then
 * prints `sent`. Message 4 only, one packet at a time: what is measured is the anchor.
 */
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setImmediate as breathe, setTimeout as delay } from 'node:timers/promises'
import { PlainDriver } from './plain-driver.ts'

export interface SwarmSpec {
  /** Anchor's IPv4 address and port; this end's own. */
  readonly anchor: readonly [string, number]
  readonly local: string
  /** Base64. */
  readonly anchorKey: string
  readonly hosts: readonly {
    readonly privateKey: string
    readonly presharedKey: string
    readonly address: string
  }[]
  /** Inner destination of the flows. */
  readonly target: string
}

const AT_ONCE = 25
const bytes = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'))
const ip = (text: string) => Uint8Array.from(text.split('.').map(Number))

const spec = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as SwarmSpec
const remote = { address: ip(spec.anchor[0]), port: spec.anchor[1] }
const hosts: { driver: PlainDriver; peer: number; slots: number[]; source: Uint8Array }[] = []

for (const each of spec.hosts) {
  const driver = new PlainDriver({ privateKey: bytes(each.privateKey), features: 0 })
  const peer = driver.machine.addPeer(
    { publicKey: bytes(spec.anchorKey), presharedKey: bytes(each.presharedKey), dialect: 'godwit' },
    driver.now,
  )
  hosts.push({ driver, peer, slots: [], source: ip(each.address) })
}
// One path first: message 1 goes out on all there are. Less than a hundred a second: no cookies are asked for.
for (const pathId of [1, 2]) {
  for (const [n, { driver, peer, slots }] of hosts.entries()) {
    const socket = await driver.open(0, spec.local)
    slots.push(driver.machine.addPath(peer, { pathId, socket, remote, mtu: 1500 }, driver.now))
    driver.settle()
    if ((n + 1) % AT_ONCE === 0) await delay(pathId === 1 ? 300 : 50)
  }
  for (let n = 0; n < 100 && missing() > 0; n++) await delay(100)
}
console.log(missing() === 0 ? 'up' : `not all are up: ${missing()} missing`)

function missing(): number {
  return hosts.filter(({ driver, slots }) =>
    slots.some((slot) => driver.machine.path(slot)?.state.name !== 'up'),
  ).length
}

/** A UDP packet with an empty body; flows differ in their ports. */
function packet(source: Uint8Array, flow: number): Uint8Array {
  const out = Uint8Array.of(
    0x45,
    0,
    0,
    28,
    0,
    0,
    0x40,
    0,
    64,
    17,
    0,
    0,
    ...source,
    ...ip(spec.target),
    ...Array(8).fill(0),
  )
  const view = new DataView(out.buffer)
  let sum = 0
  for (let at = 0; at < 20; at += 2) sum += view.getUint16(at)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  view.setUint16(10, ~sum)
  view.setUint16(20, 1024 + (flow % 60_000))
  view.setUint16(22, 7 + Math.floor(flow / 60_000))
  view.setUint16(24, 8)
  return out
}

let flow = 0
for await (const line of createInterface({ input: process.stdin })) {
  const most = flow + Math.floor(Number(line.split(' ')[1]) / hosts.length)
  for (; flow < most; flow++) {
    let n = 0
    for (const { driver, slots, source } of hosts) {
      driver.sendPacket(slots[flow % 2]!, packet(source, flow))
      if (++n % 50 === 0) await breathe()
    }
  }
  console.log('sent')
}
process.exit(0)
