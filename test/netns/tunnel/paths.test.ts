/** Two engines with tunnel machines over two accesses, real packets: handover without loss, holes, restarts, rekeys. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, beforeEach, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Bed, Couple, missing, TUN, type TunnelNode } from './bed.ts'

const skip = missing() ?? false
const couple = new Couple()
let bed: Bed
let host: TunnelNode
let anchor: TunnelNode

before(async () => {
  if (skip !== false) return
  bed = new Bed('p')
  anchor = await bed.node(bed.anchor, couple.anchorSetup(), couple.anchorAddresses)
  host = await bed.node(bed.host, couple.hostSetup(), couple.hostAddresses)
  await bed.echo(bed.anchor)
})
after(async () => {
  if (skip === false) await bed.close()
})

const bothUp = () => Promise.all([host.pathState(1, 'up'), host.pathState(2, 'up')])

beforeEach(() => {
  if (skip !== false) return
  bed.mend(1)
  host.events.length = 0
  anchor.events.length = 0
})

test('UP-9: two accesses come up as two paths of one session', { skip }, async () => {
  const { peers } = await host.report()
  if (peers[0]!.paths.filter((path) => path.state.name === 'up').length < 2) await bothUp()
  const report = await anchor.report()
  assert.deepEqual(report.peers[0]!.paths.map((path) => path.pathId).sort(), [1, 2])
  assert.ok(report.peers[0]!.godwit)
  for (const inner of ['10.98.0.2', 'fd98::2']) {
    const end = await bed.traffic(bed.host, inner, 5)
    await delay(200)
    const result = await end()
    assert.equal(result.lost + result.duplicates, 0)
  }
})

test('UP-29: moved to and fro under traffic, nothing is lost, the anchor follows by itself', {
  skip,
}, async () => {
  const end = await bed.traffic(bed.host, '10.98.0.2', 2)
  for (let n = 0; n < 20; n++) {
    host.do({ do: 'prefer', pathId: 1 + (n % 2) })
    await delay(50)
  }
  const result = await end()
  assert.equal(result.lost, 0)
  assert.equal(result.duplicates, 0)
})

test('an access goes with a link event: what was in the air is sent again, 0 lost', { skip }, async () => {
  host.do({ do: 'prefer', pathId: 1 })
  const end = await bed.traffic(bed.host, '10.98.0.2', 2)
  await delay(300)
  // The kernel's word comes 20 ms after the link has died.
  bed.hole(1, 'both')
  await delay(20)
  host.do({ do: 'remove-path', pathId: 1 })
  await anchor.until('path closed', (event) => event.type === 'path-closed')
  await delay(300)
  const result = await end()
  assert.equal(result.lost, 0)
  assert.equal(result.duplicates, 0)
  bed.mend(1)
  host.do({ do: 'add-path', path: couple.path(1) })
  await host.pathState(1, 'up')
})

for (const direction of ['both', 'up', 'down'] as const)
  test(`a silent hole, ${direction}: found by probes, 0 lost`, { skip }, async () => {
    host.do({ do: 'prefer', pathId: 1 })
    const end = await bed.traffic(bed.host, '10.98.0.2', 5)
    await delay(1500)
    bed.hole(1, direction)
    await host.pathState(1, 'down', 5000)
    await delay(500)
    const result = await end()
    bed.mend(1)
    await host.pathState(1, 'up', 10_000)
    assert.equal(result.lost, 0)
    assert.equal(result.duplicates, 0)
    console.log(`# ${direction}: gap ${result.gapMs.toFixed(0)} ms`)
  })

test('over a way of 1,280 bytes every size of inner packet arrives, IPv6 of 1,280 too', {
  skip,
}, async () => {
  const links = [
    [bed.router, 'to-eth0'],
    [bed.anchor, 'eth0'],
    [bed.host, 'acc1'],
    [bed.router, 'to-acc1'],
  ] as const
  for (const [netns, link] of links) bed.ip(netns, 'link', 'set', link, 'mtu', '1280')
  host.do({ do: 'prefer', pathId: 1 })
  host.do({ do: 'remove-path', pathId: 2 })
  host.do({ do: 'remove-path', pathId: 1 })
  host.events.length = 0
  host.do({ do: 'add-path', path: couple.path(1) })
  await host.pathState(1, 'up')
  for (const [inner, size] of [
    ['fd98::2', 1280 - 48],
    ['fd98::2', 1200],
    ['10.98.0.2', 1392],
  ] as const) {
    const end = await bed.traffic(bed.host, inner, 10, size)
    await delay(200)
    const result = await end()
    // The first of the large ones with DF learn the size, one after the other at both ends.
    assert.ok(
      result.lost <= 5 && result.lost < result.sent / 3,
      `${inner}, ${size}: ${result.lost} of ${result.sent}`,
    )
  }
  for (const [netns, link] of links) bed.ip(netns, 'link', 'set', link, 'mtu', '1500')
  host.do({ do: 'add-path', path: couple.path(2) })
  await host.pathState(2, 'up')
})

test('rekeys by both ends under 200 Mbit/s of TCP lose nothing', {
  skip: missing('iperf3') ?? false,
}, async () => {
  const server = bed.start(bed.anchor, 'iperf3', ['-s', '-1', '-p', '5299', '--forceflush'])
  await once(server.stdout!, 'data')
  const end = await bed.traffic(bed.host, '10.98.0.2', 5)
  const client = bed.start(bed.host, 'iperf3', [
    '-c',
    '10.98.0.2',
    '-p',
    '5299',
    '-t',
    '4',
    '-b',
    '200M',
    '-J',
  ])
  let output = ''
  client.stdout!.on('data', (data) => {
    output += data
  })
  for (let n = 0; n < 8; n++) {
    await delay(400)
    if (n % 2 === 0 || n === 5) host.do({ do: 'rekey' })
    if (n % 2 === 1) anchor.do({ do: 'rekey' })
  }
  await once(client, 'close')
  const result = await end()
  const sessions = host.events.filter((event) => event.type === 'session')
  assert.ok(sessions.length >= 4, `${sessions.length} sessions`)
  assert.ok(sessions.every((event) => event.up))
  const { end: totals } = JSON.parse(output) as { end: { sum_received: { bits_per_second: number } } }
  assert.ok(totals.sum_received.bits_per_second > 0)
  assert.equal(result.lost, 0)
  assert.ok(!host.events.some((event) => event.type === 'path' && event.path.state.name === 'down'))
})

test('the anchor is killed and started again in mid-transfer: the host finds it by itself', {
  skip,
}, async () => {
  const end = await bed.traffic(bed.host, '10.98.0.2', 5)
  await delay(300)
  await anchor.kill()
  await delay(500)
  host.events.length = 0
  anchor = await bed.node(bed.anchor, couple.anchorSetup(), couple.anchorAddresses)
  const hello = await host.until('hello', (event) => event.type === 'hello' && event.restarted, 5000)
  assert.ok(hello)
  await delay(1000)
  const result = await end()
  assert.ok(result.goesOn)
  console.log(`# anchor restart: gap ${result.gapMs.toFixed(0)} ms, lost ${result.lost}`)
})

test('the host is killed and started again: the device kept its addresses, the anchor takes the new paths', {
  skip,
}, async () => {
  const end = await bed.traffic(bed.host, '10.98.0.2', 5)
  await delay(300)
  await host.kill()
  await delay(300)
  host = await bed.node(bed.host, couple.hostSetup(), [])
  await bothUp()
  await delay(500)
  const result = await end()
  assert.ok(result.goesOn)
  const { peers } = await anchor.report()
  assert.equal(peers[0]!.paths.length, 2, 'old paths are gone')
  console.log(`# host restart: gap ${result.gapMs.toFixed(0)} ms, lost ${result.lost}`)
})

test('no write to the device failed, nothing was forged', { skip }, async () => {
  for (const node of [host, anchor]) {
    const { counts } = await node.report()
    assert.equal(counts.inbound.forged, 0)
    assert.equal(counts.merger.failed, 0, `errno ${counts.lastWriteError}`)
  }
  assert.match(bed.ip(bed.host, 'address', 'show', TUN), /10\.98\.0\.1/)
})
