/** Two engines with tunnel machines over two accesses, real packets: small ways, rekeys, restarts. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { missing, TUN, type TunnelNode } from '../../netns/tunnel/bed.ts'
import { Engines } from '../../netns/tunnel/engines.ts'

const skip = missing() ?? false
const engines = new Engines('r', skip)
const sessions = (node: TunnelNode) => node.events.filter((event) => event.type === 'session').length

test('over a way of 1,280 bytes every size of inner packet arrives, IPv6 of 1,280 too', {
  skip,
}, async (t) => {
  const { bed, couple, host } = engines
  const links = [
    [bed.router, 'to-eth0'],
    [bed.anchor, 'eth0'],
    [bed.host, 'acc1'],
    [bed.router, 'to-acc1'],
  ] as const
  for (const [netns, link] of links) bed.ip(netns, 'link', 'set', link, 'mtu', '1280')
  t.after(() => {
    for (const [netns, link] of links) bed.ip(netns, 'link', 'set', link, 'mtu', '1500')
  })
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
    await end.more(20)
    const result = await end()
    // The first of the large ones with DF learn the size, one after the other at both ends.
    assert.ok(
      result.lost <= 5 && result.lost < result.sent / 3,
      `${inner}, ${size}: ${result.lost} of ${result.sent}`,
    )
  }
})

test('rekeys by both ends under 200 Mbit/s of TCP lose nothing', {
  skip: missing('iperf3') ?? false,
}, async () => {
  const { bed, host, anchor } = engines
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
    const by = n % 2 === 0 ? host : anchor
    const before = sessions(by)
    by.do({ do: 'rekey' })
    await by.until('a new session', () => sessions(by) > before)
    await end.more(20)
  }
  await once(client, 'close')
  const result = await end()
  const ups = host.events.filter((event) => event.type === 'session')
  assert.ok(ups.length >= 4, `${ups.length} sessions`)
  assert.ok(ups.every((event) => event.up))
  const { end: totals } = JSON.parse(output) as { end: { sum_received: { bits_per_second: number } } }
  assert.ok(totals.sum_received.bits_per_second > 0)
  assert.equal(result.lost, 0)
  assert.ok(!host.events.some((event) => event.type === 'path' && event.path.state.name === 'down'))
})

test('the anchor is killed and started again in mid-transfer: the host finds it by itself', {
  skip,
}, async () => {
  const { bed, host, anchor } = engines
  const end = await bed.traffic(bed.host, '10.98.0.2', 5)
  await end.more(50)
  await anchor.kill()
  host.events.length = 0
  await engines.startAnchor()
  const hello = await host.until('hello', (event) => event.type === 'hello' && event.restarted, 5000)
  assert.ok(hello)
  await end.more(100)
  const result = await end()
  assert.ok(result.goesOn)
  console.log(`# anchor restart: gap ${result.gapMs.toFixed(0)} ms, lost ${result.lost}`)
})

test('the host is killed and started again: the device kept its addresses, the anchor takes the new paths', {
  skip,
}, async () => {
  const { bed, host, anchor } = engines
  const end = await bed.traffic(bed.host, '10.98.0.2', 5)
  await end.more(50)
  await host.kill()
  await engines.startHost([])
  await engines.bothUp()
  await end.more(100)
  const result = await end()
  assert.ok(result.goesOn)
  const { peers } = await anchor.report()
  assert.equal(peers[0]!.paths.length, 2, 'old paths are gone')
  assert.match(bed.ip(bed.host, 'address', 'show', TUN), /10\.98\.0\.1/)
  console.log(`# host restart: gap ${result.gapMs.toFixed(0)} ms, lost ${result.lost}`)
})
