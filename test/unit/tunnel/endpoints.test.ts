/** When the name of a peer is asked for over which access, and what is made of the answers. */
import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import { formatAddress } from '../../../src/core/address.ts'
import { Endpoints } from '../../../src/tunnel/engine/endpoints.ts'
import type { PathReport } from '../../../src/tunnel/engine/events.ts'

const peer = { name: 'anchor', endpoints: [{ host: 'anchor.example', port: 51820 }] }
const wlan = { name: 'wlan0', up: true, families: [4, 6], generation: 1 } as const
const wwan = { name: 'wwan0', up: true, families: [6], generation: 1 } as const

function path(state: PathReport['state'], access = 'wlan0'): PathReport {
  return {
    peer: peer.name,
    id: 1,
    access,
    remote: '192.0.2.7:51820',
    state,
    rttMs: 20,
    loss: 0,
    mtu: 1500,
    sentBytes: 0,
    receivedBytes: 0,
    lastReceivedAt: 0,
  }
}

interface Answer {
  addresses?: string[]
  synthesised?: string[]
  validMs?: number
}

/** `answer` is asked for every question; undefined: it fails. Time goes by `after`. */
function bench(answer: (host: string, access: string) => Answer | undefined, remembered: string[] = []) {
  mock.timers.enable({ apis: ['setTimeout'] })
  let now = 0
  const asked: string[] = []
  const told: string[] = []
  const saved: string[] = []
  const reports: string[] = []
  const made = new Endpoints({
    cache: { get: () => remembered, set: (name, addresses) => saved.push(`${name} ${addresses.join()}`) },
    resolver: {
      resolve: async (host, access) => {
        asked.push(`${now / 1000} ${access}`)
        const found = answer(host, access)
        if (found === undefined) throw new Error('no answer')
        return { addresses: [], synthesised: [], validMs: Number.POSITIVE_INFINITY, ...found }
      },
    },
    onRemotes: (_name, remotes, access = '*') =>
      told.push(
        `${access} ${remotes.map(({ address, port }) => `${formatAddress(address)}${port === 51820 ? '' : ` ${port}`}`).join()}`,
      ),
    report: (message) => reports.push(message),
    now: () => now,
  })
  const settled = () => new Promise(setImmediate)
  const after = async (seconds: number, paths?: PathReport[]) => {
    await settled()
    for (let i = 0; i < seconds; i++) {
      now += 1000
      mock.timers.tick(1000)
      if (paths) made.follow(paths, now)
      await settled()
    }
  }
  const end = () => {
    made.stop()
    mock.timers.reset()
  }
  return { made, asked, told, saved, reports, settled, after, end }
}

test('issue 10, A2: the addresses of the last run are used at once; the name is asked for when an access comes', async () => {
  const { made, asked, told, saved, settled, after, end } = bench(
    () => ({ addresses: ['192.0.2.8'], validMs: 60_000 }),
    ['192.0.2.7'],
  )
  made.start(peer)
  assert.deepEqual(told, ['* 192.0.2.7'])
  await after(100)
  assert.deepEqual(asked, [], 'without a network nobody can be asked')
  made.setAccess(wlan)
  await settled()
  assert.deepEqual(asked, ['100 wlan0'])
  assert.deepEqual(told.slice(1), ['wlan0 192.0.2.8', '* 192.0.2.8'])
  assert.deepEqual(saved, ['anchor.example 192.0.2.8'])
  end()
})

test('issue 10, A2: a name is asked for again when its time ends, while the path works; the same answer is not told twice', async () => {
  let addresses = ['192.0.2.7']
  const { made, asked, told, after, end } = bench(() => ({ addresses, validMs: 60_000 }))
  made.start(peer)
  made.setAccess(wlan)
  await after(59, [path('up')])
  assert.deepEqual(asked, ['0 wlan0'])
  await after(61, [path('up')])
  assert.deepEqual(asked, ['0 wlan0', '60 wlan0', '120 wlan0'])
  assert.equal(told.length, 2)
  addresses = ['192.0.2.9']
  await after(60, [path('up')])
  assert.deepEqual(told.slice(2), ['wlan0 192.0.2.9', '* 192.0.2.9'])
  end()
})

test('issue 10, A2: where nothing answers the name is asked for again, with growing pauses, and at once on another network', async () => {
  const { made, asked, after, end } = bench(() => ({ addresses: ['192.0.2.7'], validMs: 3_600_000 }))
  made.start(peer)
  made.setAccess(wlan)
  await after(100, [path('down')])
  const seconds = asked.map((each) => Number(each.split(' ')[0]))
  assert.deepEqual(seconds, [0, 3, 5, 9, 17, 33, 63, 93])
  made.setAccess({ ...wlan, generation: 2 })
  await after(1, [path('down')])
  assert.equal(asked.at(-1), '100 wlan0')
  await after(1, [path('up')])
  const before = asked.length
  await after(30, [path('up')])
  assert.equal(asked.length, before)
  end()
})

test('issue 10, A2: each access has its own answers; what NAT64 made up is told for its access alone and not remembered', async () => {
  const { made, told, saved, settled, end } = bench((_host, access) =>
    access === 'wlan0'
      ? { addresses: ['192.0.2.7'] }
      : { addresses: ['198.51.100.7'], synthesised: ['64:ff9b::c633:6407'] },
  )
  made.start(peer)
  made.setAccess(wlan)
  await settled()
  made.setAccess(wwan)
  await settled()
  assert.deepEqual(told, ['wlan0 192.0.2.7', '* 192.0.2.7', 'wwan0 198.51.100.7,64:ff9b::c633:6407'])
  assert.deepEqual(saved, ['anchor.example 192.0.2.7'])
  end()
})

test('an IPv4 address is asked of the resolver only where the access has IPv6 alone', async () => {
  const { made, asked, told, settled, end } = bench(() => ({
    addresses: ['192.0.2.1'],
    synthesised: ['64:ff9b::c000:201'],
  }))
  made.setAccess(wlan)
  made.setAccess(wwan)
  made.start({ ...peer, endpoints: [{ host: '192.0.2.1', port: 51820 }] })
  await settled()
  assert.deepEqual(asked, ['0 wwan0'])
  assert.deepEqual(told, ['* 192.0.2.1', 'wwan0 192.0.2.1,64:ff9b::c000:201'])
  end()
})

test('a name that has no address is reported once, and asked for until it has one; an answer of the network before is dropped', async () => {
  let known = false
  const { made, asked, told, reports, settled, after, end } = bench(() =>
    known ? { addresses: ['192.0.2.7'] } : undefined,
  )
  made.start(peer)
  made.setAccess(wlan)
  await after(13)
  assert.equal(reports.length, 1)
  assert.match(reports[0]!, /^anchor\.example has no address over wlan0 yet: no answer$/)
  assert.deepEqual(asked, ['0 wlan0', '2 wlan0', '6 wlan0'])
  known = true
  await after(2)
  assert.deepEqual(told, ['wlan0 192.0.2.7', '* 192.0.2.7'])
  made.wake()
  made.removeAccess('wlan0')
  made.forget(peer.name)
  await settled()
  assert.equal(told.length, 2)
  end()
})

test('issue 10, B3: several endpoints: each name is asked for once, its addresses are tried with each of its ports, in order', async () => {
  const { made, asked, told, settled, end } = bench((host) =>
    host === 'anchor.example' ? { addresses: ['2001:db8::7', '192.0.2.7'] } : { addresses: ['198.51.100.9'] },
  )
  made.setAccess(wlan)
  made.start({
    name: 'anchor',
    endpoints: [
      { host: 'anchor.example', port: 51820 },
      { host: 'anchor.example', port: 443 },
      { host: 'other.example', port: 53 },
      { host: '203.0.113.5', port: 53 },
    ],
  })
  await settled()
  assert.deepEqual(asked, ['0 wlan0', '0 wlan0'])
  assert.equal(
    told.filter((each) => each.startsWith('wlan0')).at(-1),
    'wlan0 2001:db8::7,192.0.2.7,2001:db8::7 443,192.0.2.7 443,198.51.100.9 53,203.0.113.5 53',
  )
  assert.ok(told.includes('* 203.0.113.5 53'), 'an address is there at once')
  end()
})
