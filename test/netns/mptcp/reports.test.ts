/**
 * What users of MPTCP and of VPNs report most: a firewall that is loaded anew removes all rules, privacy addresses that become
 * deprecated, a firewall that drops what conntrack does not know, hundreds of short connections, networks that carry smaller packets.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, until } from './bed.ts'
import { Transfers } from './transfers.ts'

usesPrograms('curl', 'ip', 'mptcpize', 'nft')

const FIREWALL = `table inet fw {
  chain in {
    type filter hook input priority filter; policy drop;
    iif "lo" accept
    ct state invalid counter drop
    ct state established,related accept
    meta l4proto { icmp, icmpv6 } accept
  }
  chain out {
    type filter hook output priority filter; policy drop;
    oif "lo" accept
    ct state invalid counter drop
    ct state new,established,related accept
    meta l4proto { icmp, icmpv6 } accept
  }
}`
const SILENT_MS = 3000
let bed: Bed
let transfers: Transfers

before(async () => {
  bed = new Bed()
  transfers = new Transfers(bed, 'm')
  await bed.serve()
  await bed.daemon('m')
})

after(async () => {
  await bed.close()
})

async function ended(): Promise<void> {
  await until('the connection is closed', async () => (await bed.connections()).length === 0)
}

test('MP-52: `nft flush ruleset` ends no connection, in the kernel or in user space, and the rules stay, or are put back', async () => {
  const inKernel = transfers.endless('paced')
  const first = await bed.underWay(1_000_000)
  const inUserSpace = transfers.endless('put')
  await until('both are under way', async () => (await bed.connections()).length === 2)
  const second = (await bed.connections()).find(({ id }) => id !== first.id)!
  await until('the second has another way', async () =>
    (await bed.connections()).some(
      ({ id, subflows }) => id === second.id && subflows.filter(({ state }) => state === 'active').length > 1,
    ),
  )
  await bed.post('/v1/mptcp/handover', { connection: second.id, access: 'acc2' })
  await transfers.carriesMore(second.id, 'acc2', 'the other access', true)
  // Linux 6.9 and newer pass them by.
  const isOwned = /table ip godwit.*\n\s*flags owner/.test(bed.run('m', 'nft', 'list', 'ruleset'))
  for (let i = 0; i < 3; i++) {
    bed.run('m', 'nft', 'flush', 'ruleset')
    if (isOwned) assert.match(bed.run('m', 'nft', 'list', 'tables'), /table ip godwit/)
    // Until the rules are back this host's own TCP answers for the subflow, and may end it: the connection has another.
    await transfers.goesOn(second.id)
    await transfers.goesOn(first.id)
  }
  await until('the rules are back', () =>
    ['ip', 'ip6'].every((family) => bed.run('m', 'nft', 'list', 'tables').includes(`table ${family} godwit`)),
  )
  assert.equal(/another program removed the packet rules of MPTCP/.test(bed.log('m')), !isOwned)
  await inUserSpace.finish()
  await inKernel.finish()
  await ended()
  const after = transfers.endless('get')
  assert.equal((await bed.underWay(500_000)).state, 'established')
  await after.finish()
  await ended()
  bed.noFaults()
})

test('MP-52: a connection keeps its privacy address when that is deprecated, and new ones do not take it', async () => {
  bed.run('m', 'ip', 'addr', 'add', 'fd00:1::77/64', 'dev', 'acc1', 'nodad')
  const endless = transfers.endless('get', '[fd00:3::2]')
  const { id, local } = await bed.underWay(1_000_000)
  const address = /\[(.*)\]/.exec(local)![1]!
  const lifetime = (preferred: string) =>
    bed.run(
      'm',
      ...[
        'ip',
        'addr',
        'change',
        `${address}/64`,
        'dev',
        'acc1',
        'preferred_lft',
        preferred,
        'valid_lft',
        'forever',
      ],
    )
  lifetime('0')
  await until('the daemon knows', async () =>
    (await bed.status()).accesses.some(({ name, addresses }) => name === 'acc1' && addresses.length > 1),
  )
  await transfers.carriesMore(id, 'acc1', 'the address', true)
  const now = (await bed.connections()).find((each) => each.id === id)!
  const active = now.subflows.find((each) => each.id === now.active)!
  assert.deepEqual([active.access, active.local, active.id], ['acc1', local, 0])
  await endless.finish()
  await ended()
  lifetime('forever')
  bed.run('m', 'ip', 'addr', 'del', 'fd00:1::77/64', 'dev', 'acc1')
  bed.noFaults()
})

test('MP-52: behind a firewall on this host that drops what conntrack calls invalid, transfers change their access', async () => {
  bed.rules('m', FIREWALL)
  for (const direction of ['get', 'put'] as const) {
    const endless = transfers.endless(direction)
    const { id } = await bed.underWay(1_000_000)
    await bed.post('/v1/mptcp/handover', { connection: id, access: 'acc2' })
    await transfers.carriesMore(id, 'acc2', 'the other access', true)
    await endless.finish()
    await ended()
  }
  bed.run('m', 'nft', 'delete', 'table', 'inet', 'fw')
  bed.noFaults()
})

test('MP-16: of four ports that a program takes again within milliseconds, 200 times, each connection is one of its own and ends', async () => {
  const program = `
    const net = require('node:net')
    const LAST_ACK = '09'
    let running = 4, whole = 0
    const left = () => require('node:fs').readFileSync('/proc/self/net/tcp', 'utf8').split('\\n')
      .filter((line) => line.trim().split(/ +/)[3] === LAST_ACK).length
    const run = (port, more) => {
      if (more === 0) {
        if (--running === 0) setTimeout(() => console.log(whole, left()), 1000)
        return
      }
      let bytes = 0, taken = false
      const at = { port: 80, host: '10.3.0.2', localPort: port }
      const socket = net.connect(at, () => socket.write('GET /16000 HTTP/1.0\\r\\n\\r\\n'))
      socket.on('data', (data) => { bytes += data.length })
      // The kernel still has the one before.
      socket.on('error', ({ code }) => { taken = code === 'EADDRNOTAVAIL' || code === 'EADDRINUSE' })
      socket.on('close', () => {
        if (taken) return setTimeout(run, 1, port, more)
        if (bytes > 16000) whole++
        run(port, more - 1)
      })
    }
    for (let i = 0; i < 4; i++) run(45000 + i, 50)`
  const client = bed.spawn('m', process.execPath, '-e', program)
  let text = ''
  client.stdout!.on('data', (bytes) => {
    text += bytes
  })
  await once(client, 'close')
  assert.equal(text.trim(), '200 0')
  await ended()
  bed.noFaults()
})

test('MP-52: a network that carries 1,400 bytes and says so: uploads that begin there, or are moved there, go on', async () => {
  for (const [family, server, net] of [
    ['-4', '10.3.0.2', '10.3.0.0/24'],
    ['-6', '[fd00:3::2]', 'fd00:3::/64'],
  ] as const) {
    const narrow = (access: 1 | 2, on: boolean) =>
      bed.run('r', 'ip', family, 'rule', on ? 'add' : 'del', 'iif', `lan${access}`, 'lookup', '100')
    bed.run('r', 'ip', family, 'route', 'add', net, 'dev', 'lan3', 'mtu', 'lock', '1400', 'table', '100')
    narrow(2, true)
    const moved = transfers.endless('put', server)
    const { id } = await bed.underWay(1_000_000)
    await bed.post('/v1/mptcp/handover', { connection: id, access: 'acc2' })
    // There is no way back: what goes on goes there.
    bed.silence(1, true)
    await transfers.goesOn(id)
    bed.silence(1, false)
    await moved.finish()
    await ended()
    // What the host knows of the way to this server.
    bed.run('m', 'ip', family, 'route', 'flush', 'cache')
    narrow(1, true)
    const begun = transfers.endless('put', server)
    await transfers.goesOn((await bed.underWay(500_000)).id)
    await begun.finish()
    await ended()
    for (const access of [1, 2] as const) narrow(access, false)
    bed.run('r', 'ip', family, 'route', 'flush', 'table', '100')
    bed.run('m', 'ip', family, 'route', 'flush', 'cache')
  }
  bed.noFaults()
})

// What a native peer sent in the silence waits for the timer of its TCP, which may have doubled to as long as that.
for (const [direction, what, most] of [
  ['put', 'an upload goes on in less than half of that', SILENT_MS / 2],
  ['paced', 'a download goes on in less than that', SILENT_MS],
] as const)
  test(`MP-56: all accesses are silent for three seconds, and one answers again: ${what}`, async () => {
    const transfer = transfers.endless(direction)
    const { id } = await bed.underWay(1_000_000)
    const carried = async () => {
      const now = (await bed.connections()).find((each) => each.id === id)!
      return now.acknowledged_bytes + now.received_bytes
    }
    for (const n of [1, 2] as const) bed.silence(n, true)
    await new Promise((done) => setTimeout(done, SILENT_MS))
    const before = await carried()
    bed.silence(2, false)
    const from = performance.now()
    await until('it goes on', async () => (await carried()) > before)
    const after = performance.now() - from
    bed.silence(1, false)
    assert.ok(after < most, `after ${after.toFixed(0)} ms`)
    await transfer.finish()
    await ended()
    bed.noFaults()
  })

test('MP-52: a benchmark of short connections gets every answer, and the daemon answers meanwhile', async () => {
  const program = `
    const net = require('node:net')
    let begun = 0, open = 0, whole = 0
    const begin = () => {
      while (open < 50 && begun < 600) {
        begun++
        open++
        let bytes = 0
        const socket = net.connect(80, '10.3.0.2', () => socket.write('GET /1000 HTTP/1.0\\r\\n\\r\\n'))
        socket.on('data', (data) => { bytes += data.length })
        socket.on('error', () => {})
        socket.on('close', () => {
          open--
          if (bytes > 1000) whole++
          if (begun === 600 && open === 0) console.log(whole)
          else begin()
        })
      }
    }
    begin()`
  const client = bed.spawn('m', process.execPath, '-e', program)
  let text = ''
  client.stdout!.on('data', (bytes) => {
    text += bytes
  })
  const closed = once(client, 'close')
  await bed.connections()
  await closed
  assert.equal(text.trim(), '600')
  await ended()
  bed.noFaults()
})
