/** Our engine and wireguard-go, either way round, with real traffic: pre-shared key, speed, roaming of both. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { encodeKey, generatePresharedKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { ANCHOR_PORT, Bed, Couple, missing, TUN, type TunnelNode } from './bed.ts'

const skip = missing('wireguard-go', 'wg', 'iperf3') ?? false
const couple = new Couple()
const presharedKey = generatePresharedKey()
/** UAPI sockets lie in one folder for all namespaces. */
const wg0 = `wge${process.pid}`.slice(0, 15)
const directory = mkdtempSync(join(tmpdir(), 'godwit-wge-'))
let bed: Bed

before(() => {
  if (skip === false) bed = new Bed('w')
})
after(async () => {
  rmSync(directory, { recursive: true })
  if (skip === false) await bed.close()
})

function file(name: string, key: Uint8Array): string {
  const path = join(directory, name)
  writeFileSync(path, encodeKey(key), { mode: 0o600 })
  return path
}

interface WireGuard {
  show(what: string): string
  stop(): Promise<void>
}

async function startWireGuard(
  netns: string,
  key: Uint8Array,
  peerKey: Uint8Array,
  addresses: readonly string[],
  words: readonly string[],
): Promise<WireGuard> {
  const child = bed.start(netns, 'wireguard-go', ['-f', wg0])
  for (let i = 0; i < 1000 && spawnSync('wg', ['show', wg0]).status !== 0; i++) await delay(30)
  const psk = file('psk', presharedKey)
  bed.run(netns, 'wg', [
    ...['set', wg0, 'private-key', file('key', key), 'listen-port', `${ANCHOR_PORT}`],
    ...[
      'peer',
      encodeKey(publicKeyOf(peerKey)),
      'preshared-key',
      psk,
      'allowed-ips',
      '10.98.0.0/24,fd98::/64',
    ],
    ...words,
  ])
  for (const address of addresses)
    bed.ip(netns, 'address', 'add', address, 'dev', wg0, ...(address.includes(':') ? ['nodad'] : []))
  bed.ip(netns, 'link', 'set', wg0, 'mtu', '1420', 'up')
  return {
    show: (what) =>
      execFileSync('wg', ['show', wg0, what], { encoding: 'utf8' }).trim().split('\t').slice(1).join(' '),
    stop: async () => {
      child.kill('SIGTERM')
      await once(child, 'exit')
    },
  }
}

/** Megabits a second of one TCP flow from one end to the other: more than none is asked, how many `bench/` measures. */
async function speed(from: string, to: string, address: string): Promise<number> {
  const server = bed.start(to, 'iperf3', ['-s', '-1', '-p', '5298', '--forceflush'])
  await once(server.stdout!, 'data')
  const client = bed.start(from, 'iperf3', [
    '-c',
    address,
    '-p',
    '5298',
    '-t',
    '2',
    '-J',
    '--connect-timeout',
    '5000',
  ])
  let output = ''
  client.stdout!.on('data', (data) => {
    output += data
  })
  await once(client, 'close')
  const { end } = JSON.parse(output) as { end: { sum_received: { bits_per_second: number } } }
  return end.sum_received.bits_per_second / 1e6
}

async function good(node: TunnelNode): Promise<void> {
  const { counts } = await node.report()
  assert.equal(counts.inbound.forged + counts.inbound.malformed + counts.inbound.refused, 0)
  assert.equal(counts.merger.failed, 0)
}

for (const dialect of ['stock', 'auto'] as const)
  test(`our engine dials wireguard-go, ${dialect}`, { skip }, async () => {
    const theirs = await startWireGuard(
      bed.anchor,
      couple.anchorKey,
      couple.hostKey,
      couple.anchorAddresses,
      [],
    )
    const ours = await bed.node(
      bed.host,
      couple.hostSetup([1], { dialect, presharedKey, persistentKeepalive: 25 }),
      couple.hostAddresses,
    )
    try {
      await ours.until('session', (event) => event.type === 'session' && event.up)
      for (const address of ['10.98.0.2', 'fd98::2']) {
        const up = await speed(bed.host, bed.anchor, address)
        console.log(`# to wireguard-go ${address}: ${up.toFixed(0)} Mbit/s`)
        assert.ok(up > 0, `${up}`)
      }
      const down = await speed(bed.anchor, bed.host, '10.98.0.1')
      console.log(`# from wireguard-go: ${down.toFixed(0)} Mbit/s`)
      assert.ok(down > 0, `${down}`)
      // We move to another access; it follows by our next packet.
      await bed.echo(bed.anchor)
      const end = await bed.traffic(bed.host, '10.98.0.2', 5)
      await delay(200)
      ours.do({ do: 'remove-path', pathId: 1 })
      ours.do({ do: 'add-path', path: couple.path(2) })
      const moved = () => /10\.101\.2\.1:/.test(theirs.show('endpoints'))
      for (let i = 0; i < 100 && !moved(); i++) await delay(100)
      assert.ok(moved(), theirs.show('endpoints'))
      await delay(300)
      const result = await end()
      assert.ok(result.goesOn)
      assert.equal(result.duplicates, 0)
      await good(ours)
    } finally {
      await ours.stop()
      await theirs.stop()
      await bed.stopPrograms()
      bed.ip(bed.host, 'link', 'delete', TUN) // persistent, and in the way of the next
    }
  })

test('wireguard-go dials our engine, roams, and is kept', { skip }, async () => {
  const ours = await bed.node(bed.anchor, couple.anchorSetup({ presharedKey }), couple.anchorAddresses)
  const theirs = await startWireGuard(bed.host, couple.hostKey, couple.anchorKey, couple.hostAddresses, [
    ...['endpoint', `10.101.9.1:${ANCHOR_PORT}`, 'persistent-keepalive', '25'],
  ])
  try {
    await ours.until('session', (event) => event.type === 'session' && event.up)
    const up = await speed(bed.host, bed.anchor, '10.98.0.2')
    const down = await speed(bed.anchor, bed.host, '10.98.0.1')
    console.log(`# wireguard-go dials: ${up.toFixed(0)} Mbit/s up, ${down.toFixed(0)} down`)
    assert.ok(up > 0 && down > 0)
    await bed.echo(bed.anchor)
    const end = await bed.traffic(bed.host, '10.98.0.2', 5)
    await delay(300)
    // It leaves by the other access from now on. wireguard-go drops the source that it keeps when a route changes, and takes
    // it up again with an answer that is still under way: then it has to see another change.
    let mtu = 1400
    const change = () => {
      const route = ['10.101.9.1', 'via', '10.101.2.254', 'src', '10.101.2.1', 'mtu', String(++mtu)]
      bed.ip(bed.host, 'route', 'replace', ...route)
    }
    change()
    const again = setInterval(change, 500)
    const moved = await ours
      .until('endpoint moves', (event) => event.type === 'remote')
      .finally(() => clearInterval(again))
    assert.ok(moved.type === 'remote' && moved.remote.address[2] === 2)
    await delay(300)
    const result = await end()
    assert.equal(result.lost, 0)
    await good(ours)
    const view = (await ours.report()).peers[0]!
    assert.equal(view.paths.length, 1)
    assert.equal(view.godwit, false)
  } finally {
    await ours.stop()
    await theirs.stop()
    bed.ip(bed.host, 'route', 'del', '10.101.9.1')
  }
})
