/** Issue 10, D1, D4 to D7, and issue 11: a gateway at home that restarts or filters, links that cost, classes with links. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { DEVICE, SERVER, Sites, TERMINAL_A } from '../../netns/routing/bed.ts'

usesPrograms('ip', 'iptables', 'nft', 'ping', 'socat', 'tcpdump')
usePrivateNames()

const CAP = 3_000_000
const BULK = `
[[router.class]]
name = "bulk"
match = ["port:7000"]
scheduler = "failover"
links = ["acc1"]
`

let sites: Sites

const pings = async (from: 'ta' | 'srv', to: string) =>
  / 0% packet loss/.test(await sites.said(from, 'ping', '-c', '2', '-i', '0.2', '-W', '1', to))
const run = (host: string, command: string, ...args: string[]) => sites.lab.programs.run(host, command, args)

/** Bytes that an interface of the first mobile router has carried, both ways. */
async function carried(name: string): Promise<number> {
  const [link] = JSON.parse(await run('ma', 'ip', '-s', '-j', 'link', 'show', name)) as {
    stats64: { rx: { bytes: number }; tx: { bytes: number } }
  }[]
  return link!.stats64.rx.bytes + link!.stats64.tx.bytes
}

const carriersAt = async (name: 'ma' | 'hg', of: string, peer: string) =>
  (await sites.view(name)).classes.find((each) => each.name === of && each.peer === peer)?.carriers ?? []

before(async () => {
  sites = await Sites.start({
    ma: `${BULK}\n[access.acc2]\ncap = "${CAP / 1e6}MB"\nprobe_s = 10\n`,
    hg: BULK,
  })
})
after(() => sites.close())

describe('home, and links that cost', () => {
  test('issue 10 D5: a policy of FORWARD that drops at home: both families pass, and nothing of ours is left', async () => {
    for (const program of ['iptables', 'ip6tables']) await run('hg', program, '-P', 'FORWARD', 'DROP')
    for (const family of [4, 6] as const) {
      await sites.until(`IPv${family} passes`, () => pings('ta', SERVER[family]))
      assert.ok(await pings('srv', TERMINAL_A[family]), `IPv${family} from home`)
    }
    assert.match(sites.log('hg'), /iptables-nft FORWARD \(policy drop\) would drop forwarded packets/)
    assert.match(await run('hg', 'nft', 'list', 'ruleset'), new RegExp(`iifname "${DEVICE}"`))
    for (const program of ['iptables', 'ip6tables']) await run('hg', program, '-P', 'FORWARD', 'ACCEPT')
  })

  test('issue 11 OH-16b: a class keeps to its link at both ends; `move` takes a class', async () => {
    await sites.until(
      'bulk is on acc1',
      async () => (await carriersAt('ma', 'bulk', 'home')).join() === 'acc1',
    )
    const ids = new Map((await sites.status('ma')).peers[0]!.paths.map(({ access, id }) => [access, id]))
    await sites.until(
      'home follows',
      async () => (await carriersAt('hg', 'bulk', 'bus')).join() === `path ${ids.get('acc1')}`,
    )
    const moved = await sites.json<{ flows: number }>('ma', 'move', 'voice', 'acc2')
    assert.equal(moved.flows, 1)
    await assert.rejects(sites.godwit('ma', 'move', 'nothing', 'acc2'), /no flow nothing/)
  })

  test('issue 10 D4: home is killed and restarts while nobody says anything: it reaches the vehicle at once', async () => {
    await sites.untilPaths(
      'hg',
      (await sites.status('hg')).peers[0]!.paths.map(({ access }) => access),
    )
    await delay(1_000)
    await sites.down('hg', 'SIGKILL')
    await sites.up('hg')
    const ready = performance.now()
    let answered = false
    while (!answered && performance.now() - ready < 10_000)
      answered = / 1 received/.test(await sites.said('srv', 'ping', '-c', '1', '-W', '1', TERMINAL_A[4]))
    const ms = Math.round(performance.now() - ready)
    console.log(`reached after ${ms} ms`)
    assert.ok(answered && ms < 5_000, `${ms} ms`)
  })

  test('issue 10 D1, D7: beyond its cap a link is a backup that costs next to nothing, also after a kill', async () => {
    const sink = await sites.lab.programs.start('srv', 'socat', [
      '-u',
      'TCP-LISTEN:7001,fork,reuseaddr',
      'OPEN:/dev/null',
    ])
    await sites.until(
      'both links are used',
      async () => (await carriersAt('ma', 'rest', 'home')).join() === 'acc1,acc2',
    )
    await sites.until('the cap is reached', async () => {
      await run('ta', 'socat', '-u', 'OPEN:/dev/zero,readbytes=3000000', `TCP:${SERVER[4]}:7001`)
      return (await carriersAt('ma', 'rest', 'home')).join() === 'acc1'
    })
    assert.match(sites.log('ma'), /acc2 has carried its cap of 3000000 bytes/)
    const access = (await sites.status('ma')).accesses.find(({ name }) => name === 'acc2') as unknown as {
      used_bytes: number
      cap_bytes: number
    }
    assert.equal(access.cap_bytes, CAP)
    assert.ok(access.used_bytes >= CAP)
    await sites.until('home leaves it too', async () => (await carriersAt('hg', 'rest', 'bus')).length === 1)

    // With traffic on the other link: probes every ten seconds, and nothing else.
    const pinging = sites.said('ta', 'ping', '-c', '110', '-i', '0.2', SERVER[4])
    await delay(1_500)
    const before = await carried('acc2')
    await delay(20_000)
    const perMonth = ((await carried('acc2')) - before) * ((30 * 86_400) / 20)
    assert.match(await pinging, / 0% packet loss/)
    console.log(`standby: ${Math.round(perMonth / 1e6)} MB a month`)
    assert.ok(perMonth < 250e6, `${perMonth}`)

    await sites.down('ma', 'SIGKILL')
    await sites.up('ma')
    await sites.until(
      'still a backup',
      async () => (await carriersAt('ma', 'rest', 'home')).join() === 'acc1',
    )
    await sink.stop()
  })

  test('issue 10 D9: on the way packets have the service class of what they hold, IPv4 and IPv6, without its ECN bits', async () => {
    // The first mobile router goes to home over IPv4, the second over IPv6; EF with ECT(1) inside, 0xb9.
    for (const [terminal, router, filter] of [
      ['ta', 'ma', 'udp dst port 51820 and ip[1] = 0xb8'],
      ['tb', 'mb', 'ip6 and ip6[6] = 17 and ip6[0:2] & 0x0ff0 = 0x0b80'],
    ] as const) {
      const capture = await sites.lab.programs.start(router, 'tcpdump', [
        '-n',
        '-l',
        '-i',
        'any',
        '-c',
        '5',
        filter,
      ])
      let seen = ''
      await sites.until(`${router} marks`, async () => {
        await sites.said(terminal, 'ping', '-c', '5', '-i', '0.1', '-Q', '0xb9', SERVER[4])
        seen = (await Promise.race([capture.ended.then(() => 'all five'), delay(200, '')])) || seen
        return seen !== ''
      })
    }
  })

  test('issue 10 D6: a network with the prefix of home: its route stays, home is reached, and the log says so', async () => {
    await run('ma', 'ip', 'address', 'add', '10.2.0.77/24', 'dev', 'acc1')
    const route = async () => run('ma', 'ip', 'route', 'show', '10.2.0.0/24', 'table', 'main')
    assert.match(await route(), /dev acc1/)
    await sites.until('it is said', () =>
      /acc1 is in 10\.2\.0\.0\/24, and 10\.2\.0\.0\/24 is behind home/.test(sites.log('ma')),
    )
    assert.ok(await pings('ta', SERVER[4]))
    assert.match(await route(), /dev acc1/)
  })
})
