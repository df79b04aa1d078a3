/** Which name servers are led where, and who is told of those of the configuration. */
import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import type { AskServer, SystemServers } from '../../../src/access/names/index.ts'
import { NameServers, type NameServersInit } from '../../../src/anchoring/name-servers.ts'
import { MAIN_TABLE } from '../../../src/linux/ledger.ts'
import type { SystemDns } from '../../../src/linux/system-dns.ts'

const TUNNEL = 6700

/** `own`: name servers by access. `answers`: whether a server answers over an access (`tunnel`: through the tunnel). */
function bench(
  own: Record<string, string[]>,
  host: string[],
  answers: (server: string, over: string) => boolean,
  init: Partial<NameServersInit> = {},
) {
  mock.timers.enable({ apis: ['setTimeout'] })
  const led: string[] = []
  const dns: string[] = []
  const asked: string[] = []
  const names = Object.keys(own)
  let changed = () => {}
  const ask: AskServer = async (server, _name, _type, over = 'tunnel') => {
    asked.push(`${server} ${over}`)
    if (!answers(server, over)) throw new Error('no answer')
    return { kind: 'addresses', addresses: [], ttl: 60 }
  }
  const made = new NameServers(
    {
      servers: {
        of: ({ name }: { name: string }) => own[name] ?? [],
        host: () => ({ servers: host, stub: false }),
      } as unknown as SystemServers,
      ask,
      monitor: {
        accesses: () => names.map((name, i) => ({ name, ifindex: i + 2, state: 'up' })) as never,
        table: (name) => 6701 + names.indexOf(name),
        watch: (listener) => {
          changed = listener
          return () => {}
        },
      },
      dns: {
        set: (keeper: string, servers: readonly string[]) => dns.push(`${keeper} ${servers.join()}`),
        giveBack: () => dns.push('given back'),
      } as unknown as SystemDns,
      report: () => {},
      lead: (ways) => led.push(ways.map(({ to, table }) => `${to} ${table}`).join()),
    },
    { dns: [], keeper: 'auto', table: TUNNEL, all: true, ...init },
  )
  const settled = async () => {
    for (let i = 0; i < 10; i++) await new Promise(setImmediate)
  }
  const end = () => {
    made.stop()
    mock.timers.reset()
  }
  return { made, led, dns, asked, settled, end, change: () => changed() }
}

test('issue 10, A2: what an access named goes over it, private servers by main, public ones through the tunnel if that reaches them', async () => {
  const { made, led, asked, settled, end } = bench(
    { wlan0: ['203.0.113.1', '2001:db8::1'], wwan0: ['203.0.113.1', '100.64.0.1'] },
    ['203.0.113.1', '10.9.9.9', '9.9.9.9'],
    () => true,
  )
  made.start()
  const ways = [
    '203.0.113.1/32 6701,2001:db8::1/128 6701,100.64.0.1/32 6702',
    `10.9.9.9/32 ${MAIN_TABLE}`,
  ].join()
  assert.deepEqual(led, [ways])
  assert.deepEqual(asked, [], 'nothing is tried before the tunnel works')
  made.tunnelReady()
  await settled()
  assert.deepEqual([asked, led], [['9.9.9.9 tunnel'], [ways]])
  end()
})

test('issue 10, A2: one that answers over one access alone is led past the tunnel, over that, until networks change', async () => {
  const { made, led, asked, settled, end, change } = bench(
    { wlan0: [], wwan0: [] },
    ['9.9.9.9'],
    (_server, over) => over === 'wwan0',
  )
  made.start()
  made.tunnelReady()
  await settled()
  assert.deepEqual(asked, ['9.9.9.9 tunnel', '9.9.9.9 wlan0', '9.9.9.9 wwan0'])
  assert.equal(led.at(-1), '9.9.9.9/32 6702')
  change()
  mock.timers.tick(500)
  await settled()
  assert.equal(asked.length, 6)
  end()
})

test('issue 10, A2: [host] dns goes into the tunnel, and is set and given back', () => {
  const { made, led, dns, end } = bench({ wlan0: ['10.0.0.1'] }, ['10.0.0.1'], () => true, {
    dns: ['9.9.9.9', '2620:fe::fe'],
    keeper: 'resolvconf',
  })
  made.start()
  assert.deepEqual(led, [`9.9.9.9/32 ${TUNNEL},2620:fe::fe/128 ${TUNNEL}`])
  made.cleanUp()
  assert.deepEqual(dns, ['resolvconf 9.9.9.9,2620:fe::fe', 'given back'])
  end()
})
