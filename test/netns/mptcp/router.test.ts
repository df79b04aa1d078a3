/**
 * The proxy on a router (paper §2.4, global anchor): plain TCP of a host behind it becomes MPTCP beyond, through masquerading and
 * without, and moves between the router's accesses; where both ends speak MPTCP it steps aside.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, until } from './bed.ts'
import { Transfers } from './transfers.ts'

usesPrograms('curl', 'ip', 'mptcpize')

const INSIDE = '[fd00:7::2]'
let bed: Bed
let transfers: Transfers

before(async () => {
  bed = new Bed({ behind: true })
  transfers = new Transfers(bed, 'h')
  await bed.serve('c')
  await bed.serve('h')
  await bed.daemon('m')
})

after(async () => {
  await bed.close()
})

async function ended(): Promise<void> {
  await until('the connection is closed', async () => (await bed.connections()).length === 0)
}

for (const [direction, server] of [
  ['get', '10.3.0.2'],
  ['put', '10.3.0.2'],
  ['get', '[fd00:3::2]'],
] as const)
  test(`MP-9, MP-13: curl ${direction} of a host behind the router, to ${server}, is handed over, there and back, and outlives its access`, async () => {
    const endless = transfers.endless(direction, server)
    const { id, forwarded, role } = await bed.underWay(1_000_000)
    assert.deepEqual([forwarded, role], [true, 'client'])
    await bed.post('/v1/mptcp/handover', { connection: id, access: 'acc2' })
    await transfers.carriesMore(id, 'acc2', 'the other access', true)
    await until('the access that was left has a subflow of the router', async () => {
      const [connection] = await bed.connections()
      return connection!.subflows.some(
        (each) => each.id > 0 && each.access === 'acc1' && each.state === 'active',
      )
    })
    await bed.post('/v1/mptcp/handover', { connection: id, access: 'acc1' })
    await transfers.carriesMore(id, 'acc1', 'the first access', true)
    bed.down(1)
    await transfers.carriesMore(id, 'acc2', 'the access that is left')
    await endless.finish()
    await ended()
    bed.up(1)
    await until('acc1 is back', async () =>
      (await bed.status()).accesses
        .filter(({ name }) => name === 'acc1')
        .every(({ state }) => state === 'up'),
    )
    const loopback = bed.rtnl.m.addresses({ link: 'lo' }).map(({ address }) => address)
    assert.doesNotMatch(loopback.join(), /192\.168\.77|fd00:7/, 'no address of another host is taken')
    bed.noFaults()
  })

for (const server of ['10.3.0.2', '[fd00:3::2]'])
  test(`curl of a host behind the router, to ${server}, goes on when the daemon is killed and started again, also after a handover`, async () => {
    const endless = transfers.endless('get', server)
    const { id } = await bed.underWay(1_000_000)
    for (const access of ['acc1', 'acc2']) {
      await bed.post('/v1/mptcp/handover', { connection: id, access })
      await transfers.carriesMore(id, access, access, true)
      await bed.end('m', 'SIGKILL')
      await bed.daemon('m')
      await transfers.carriesMore(id, access, `${access}, after the kill,`)
    }
    await endless.finish()
    await ended()
    bed.noFaults()
  })

test('MP-9: a plain server behind the router serves a peer that speaks MPTCP, whose subflows join', async () => {
  bed.rtnl.c.addAddress('wan', 'fd00:3::3/64', { noDad: true })
  for (const address of ['fd00:3::2', 'fd00:3::3'])
    bed.run('c', 'ip', 'mptcp', 'endpoint', 'add', address, 'dev', 'wan', 'subflow')
  const mirrored = new Transfers(bed, 'c', 'h')
  for (const direction of ['get', 'put'] as const) {
    const endless = mirrored.endless(direction, `${INSIDE}:81`, ['mptcpize', 'run'])
    const { forwarded, role, subflows } = await bed.underWay(1_000_000)
    assert.deepEqual([forwarded, role], [true, 'server'])
    assert.equal(subflows.length, 2)
    await endless.finish()
    await ended()
  }
  bed.noFaults()
})

test('MP-12: it steps aside where both ends speak MPTCP, whoever opens', async () => {
  const opened = async (name: 'h' | 'c', url: string) => {
    const curl = bed.spawn(name, 'mptcpize', 'run', 'curl', '-sg', url)
    curl.stdout!.resume()
    const [status] = await once(curl, 'close')
    assert.equal(status, 0)
  }
  const { MPCapableSYNACKRX: before = 0 } = established()
  await opened('h', 'http://10.3.0.2/1000000')
  await opened('c', `http://${INSIDE}:80/1000000`)
  assert.equal(established().MPCapableSYNACKRX, before + 1, 'the server behind answered with MPTCP')
  assert.deepEqual(await bed.connections(), [])
  bed.noFaults()
})

test('a server without MPTCP is reached by plain TCP from behind the router', async () => {
  const curl = bed.spawn('h', 'curl', '-s', 'http://10.3.0.2:81/1000000')
  curl.stdout!.resume()
  assert.deepEqual((await once(curl, 'close'))[0], 0)
  assert.deepEqual(await bed.connections(), [])
})

/** What c has counted. */
function established(): Record<string, number> {
  return Object.fromEntries([...bed.counters()].map(([name, value]) => [name.replace('MPTcpExt', ''), value]))
}
