/**
 * The relay's channels in the kernel (NT-24, NT-25), on a host that forwards nothing and whose filters drop all that is
 * forwarded: both families, a node that moves, limits and counts, hostile datagrams, and nothing left after a kill.
 */
import assert from 'node:assert/strict'
import { after, before, it } from 'node:test'
import { ADDRESSES, across, type PlainSide, RelayBed } from '../../../bench/relay-bed.ts'
import type { Program } from '../../../lab/hosts.ts'
import { namespaceOf } from '../../../lab/topology.ts'
import { inNamespace, usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Rtnetlink } from '../../../src/linux/rtnetlink/index.ts'
import { Tcx, tcxObstacle, tcxPrograms } from '../../../src/linux/tcx.ts'

usesPrograms('ip', 'nft')
usePrivateNames()

const skip = tcxObstacle() ?? false
const MBPS = 80

let bed: RelayBed
let a: Program
let b: Program
let sides: readonly [PlainSide, PlainSide]

before(async () => {
  if (skip !== false) return
  bed = await RelayBed.open()
  // As Docker and ufw have it.
  const drop = 'table inet theirs { chain forward { type filter hook forward priority 0; policy drop; }; }'
  await bed.lab.programs.run('relay', 'nft', [drop])
  assert.match(await bed.startRelay({ relay_mbps: MBPS }), /forwarded by the kernel/)
  a = await bed.end('a', ADDRESSES.a[4])
  b = await bed.end('b', ADDRESSES.b[4])
  sides = await bed.channel(4, [a, b])
})

after(() => bed?.close())

/** Datagrams that the kernel, and those that the relay's sockets forwarded meanwhile. */
async function forwarded(work: () => Promise<unknown>): Promise<{ kernel: number; sockets: number }> {
  const before = await bed.report()
  await work()
  const now = await bed.report()
  const kernel = now.byKernel! - before.byKernel!
  return { kernel, sockets: now.forwarded! - before.forwarded! - kernel }
}

function send(from: Program, side: PlainSide, text: string): void {
  from.tell(JSON.stringify({ send: text, to: [ADDRESSES.relay[4], side.endpoint.port] }))
}

it('NT-24: the kernel forwards both ways, from the port that the receiver knows, where all else is dropped', {
  skip,
}, async () => {
  const done = await forwarded(async () => {
    const there = await across(a, sides[0], b, 'there')
    assert.deepEqual(there, [ADDRESSES.relay[4], sides[1].endpoint.port])
    const back = await across(b, sides[1], a, 'back')
    assert.deepEqual(back, [ADDRESSES.relay[4], sides[0].endpoint.port])
  })
  assert.deepEqual(done, { kernel: 2, sockets: 0 })
})

it('NT-24: IPv6 too; between the families the relay’s sockets do', { skip }, async () => {
  const [a6, b6] = [await bed.end('a', ADDRESSES.a[6]), await bed.end('b', ADDRESSES.b[6])]
  const six = await bed.channel(6, [a6, b6], 'six')
  const done = await forwarded(async () => {
    assert.deepEqual(await across(a6, six[0], b6, 'six', 6), [ADDRESSES.relay[6], six[1].endpoint.port])
  })
  assert.deepEqual(done, { kernel: 1, sockets: 0 })
  const mixed = await bed.order('mixed', [1, 2], [ADDRESSES.a[4], ADDRESSES.b[6]])
  await bed.bind(a, mixed[0])
  await bed.bind(b6, mixed[1])
  const crossing = await forwarded(() => across(a, mixed[0], b6, 'crossing'))
  assert.deepEqual(crossing, { kernel: 0, sockets: 1 })
  await Promise.all([a6.stop(), b6.stop()])
})

it('from other ports, to the other side’s port, and signalling: nothing is forwarded', { skip }, async () => {
  const stranger = await bed.end('a', ADDRESSES.a[4], 5001)
  const before = await bed.report()
  const done = await forwarded(async () => {
    send(stranger, sides[0], 'from another port')
    send(a, sides[1], 'to the other side')
    send(a, sides[0], 'N: signalling')
    await bed.lab.programs.run('a', 'sleep', ['0.3'])
  })
  assert.deepEqual(done, { kernel: 0, sockets: 0 })
  assert.equal((await bed.report()).unknown! - before.unknown!, 2)
  await stranger.stop()
})

it('a side’s limit holds in the kernel, and what it has forwarded is counted', { skip }, async () => {
  const before = await bed.report()
  const size = 1200
  const to = [ADDRESSES.relay[4], sides[0].endpoint.port]
  a.tell(JSON.stringify({ blast: 40 * size, segment: size, seconds: 1, to }))
  await a.expect((line) => line.startsWith('{"sent"'), 10_000)
  const now = await bed.report()
  const bytes = now.bytes! - before.bytes!
  const each = (now.byKernel! - before.byKernel!) * size
  assert.equal(bytes, each)
  // A second at the limit and the burst of 0.2 s; a busy machine's second may be longer.
  assert.ok(bytes > (0.9 * MBPS * 1e6) / 8 && bytes < (3 * MBPS * 1e6) / 8, `${bytes} bytes`)
  assert.ok(now.limited! > before.limited!)
  await bed.lab.programs.run('a', 'sleep', ['0.3'])
})

it('NT-25: a node that has moved is reached where it is at once, and nothing from where it was goes through', {
  skip,
}, async () => {
  const moved = await bed.end('a', ADDRESSES.a[4], 5002)
  await bed.bind(moved, sides[0])
  const done = await forwarded(async () => {
    await across(b, sides[1], moved, 'to the new place')
    send(a, sides[0], 'from the old place')
    await across(moved, sides[0], b, 'from the new place')
  })
  assert.deepEqual(done, { kernel: 2, sockets: 0 })
  await bed.bind(a, sides[0])
  await moved.stop()
})

it('another route to a node is taken at once', { skip }, async () => {
  const route = ['route', 'replace', `${ADDRESSES.b[4]}/32`, 'dev', 'wan0']
  await bed.lab.programs.run('relay', 'ip', route)
  await bed.lab.programs.run('relay', 'ip', route.with(1, 'del'))
  const done = await forwarded(async () => {
    await bed.lab.programs.run('a', 'sleep', ['0.3'])
    await across(a, sides[0], b, 'again')
  })
  assert.deepEqual(done, { kernel: 1, sockets: 0 })
})

it('killed, it leaves nothing on the devices', { skip }, async () => {
  const programs = () => {
    const rtnl = new Rtnetlink(namespaceOf('relay'))
    const { index } = rtnl.link('wan0')!
    rtnl.close()
    return inNamespace(namespaceOf('relay'), () => tcxPrograms(index, Tcx.INGRESS)).length
  }
  assert.equal(programs(), 1)
  bed.relay.signal('SIGKILL')
  await bed.relay.ended
  assert.equal(programs(), 0)
})
