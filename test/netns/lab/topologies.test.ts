import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { after, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Lab } from '../../../lab/build.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import {
  createNamespace,
  deleteNamespace,
  listNamespaces,
  usePrivateNames,
} from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('ping', 'unshare')

// The lab's names are fixed: the tests use them where nobody else sees them.
usePrivateNames()

async function withLab(topology: string, work: (lab: Lab) => Promise<void>): Promise<void> {
  const lab = await Lab.build(topologyNamed(topology))
  try {
    await work(lab)
  } finally {
    await lab.close()
  }
  assert.deepEqual(listNamespaces(), [])
}

function ping(lab: Lab, role: string, ...args: string[]): Promise<string> {
  return lab.programs.run(role, 'ping', ['-n', '-c', '1', '-W', '2', ...args])
}

/** Whether a process is there and no zombie. */
function runs(pid: number): boolean {
  try {
    return !/\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

function script(lab: Lab, role: string, text: string, ...args: string[]) {
  return lab.programs.start(role, process.execPath, ['-e', text, ...args], { input: true })
}

/** A UDP server that answers with the address it was reached from, and one that asks from one socket. */
const ECHO = `const s=require('dgram').createSocket('udp4');s.on('message',(m,f)=>s.send(f.address+':'+f.port,f.port,f.address));s.bind(3478,()=>console.log('{"ready":true}'));process.stdin.on('end',()=>process.exit()).resume()`
const ASK = `const s=require('dgram').createSocket('udp4');s.on('message',m=>console.log(String(m)));s.bind(4000,()=>{for(const a of process.argv.slice(1))s.send('?',3478,a)});process.stdin.on('end',()=>process.exit()).resume()`

describe('topology upmt', () => {
  test('both accesses reach the anchor and the correspondents, IPv4 and IPv6, and it goes without a trace', async () => {
    await withLab('upmt', async (lab) => {
      for (const access of ['acc1', 'acc2'])
        for (const [role, family] of [
          ['an', 4],
          ['ch1', 4],
          ['ch2', 6],
        ] as const)
          await ping(lab, 'mh', '-I', access, addressOf(lab.spec, role, 'wan', family))
      assert.equal(lab.description.hosts.mh?.netns, 'gw-mh')
      assert.deepEqual(lab.description.hosts.an?.addresses.wan, ['192.0.2.2/28', '2001:db8:a:1::2/64'])
      await assert.rejects(
        ping(lab, 'an', '192.168.1.100'),
        'no one outside reaches a host behind a NAT by its private address',
      )
    })
  })

  test('E-5: both access networks may use the same addresses', async () => {
    await withLab('upmt-overlap', async (lab) => {
      const { acc1, acc2 } = lab.description.hosts.mh!.addresses
      assert.equal(acc1?.[0], acc2?.[0])
      for (const access of ['acc1', 'acc2']) await ping(lab, 'mh', '-I', access, '192.0.2.2')
    })
  })

  for (const [topology, mapping] of [
    ['upmt', 'same'],
    ['upmt-open', 'same'],
    ['upmt-symmetric', 'different'],
    ['upmt-carrier', 'different'],
  ] as const) {
    test(`NATs of ${topology} give one socket ${mapping} outside ports`, async () => {
      await withLab(topology, async (lab) => {
        const servers = ['ch1', 'ch2'].map((role) => addressOf(lab.spec, role, 'wan'))
        for (const role of ['ch1', 'ch2']) await (await script(lab, role, ECHO)).expect(() => true, 10_000)
        const asker = await script(lab, 'mh', ASK, ...servers)
        const seen = [await asker.expect(() => true, 10_000), await asker.expect(() => true, 10_000)]
        const ports = new Set(seen.map((address) => address.split(':')[1]))
        for (const address of seen) assert.match(address, /^203\.0\.113\.2:/)
        assert.equal(ports.size, mapping === 'same' ? 1 : 2)
        // A third party tries the mapping that ch1 saw.
        const probe = `const s=require('dgram').createSocket('udp4');s.send('!',${seen[0]!.split(':')[1]},'203.0.113.2',()=>s.close())`
        await lab.programs.run('an2', process.execPath, ['-e', probe])
        const reached = asker
          .expect((line) => line === '!', 700)
          .then(
            () => true,
            () => false,
          )
        assert.equal(await reached, topology === 'upmt-open')
      })
    })
  }
})

test('topology dime: 60 ms across the switch, from either router', async () => {
  await withLab('dime', async (lab) => {
    for (const access of ['acc1', 'acc2']) {
      await ping(lab, 'mh', '-I', access, '192.0.2.10')
      const said = await ping(lab, 'mh', '-I', access, '192.0.2.10')
      assert.ok(Number(/time=([\d.]+)/.exec(said)?.[1]) >= 60, said)
    }
  })
})

test('OH-15: topology router: mobile router and home gateway reach one another over both radios', async () => {
  await withLab('router', async (lab) => {
    for (const radio of ['acc1', 'acc2']) await ping(lab, 'mr', '-I', radio, '192.0.2.2')
    await ping(lab, 'term', '10.1.0.1')
    await ping(lab, 'srv', '10.2.0.1')
  })
})

test('links change while they run: a link event, a silent black hole, a loss of everything one way', async () => {
  await withLab('upmt', async (lab) => {
    const acc1 = () => lab.rtnl('mh').link('acc1')!
    const reaches = () =>
      ping(lab, 'mh', '-I', 'acc1', '192.0.2.2').then(
        () => true,
        () => false,
      )
    assert.equal(await reaches(), true)
    lab.setLink('acc1', { state: 'blackhole' })
    assert.equal(await reaches(), false)
    assert.equal(acc1().carrier, true)
    lab.setLink('acc1', { state: 'down' })
    assert.equal(await reaches(), false)
    assert.equal(acc1().carrier, false)
    lab.setLink('acc1', { state: 'up' })
    // The kernel drops what leaves before it has taken note, which it does apart.
    while (acc1().operState !== 'up') await delay(10)
    assert.equal(await reaches(), true)
    lab.setLink('acc1', { loss: 1 }, 'first')
    assert.equal(await reaches(), false)
    const counters = (await lab.links.counters()).get('acc1')!
    assert.ok(counters[0].lost > 0 && counters[1].lost === 0)
    assert.throws(() => lab.setLink('wan1', { loss: 1 }), /no emulated link wan1/)
  })
})

describe('one lab at a time, and what a killed one left is removed', () => {
  const foreign = 'not-a-lab'
  after(() => deleteNamespace(foreign))

  test('a second lab is refused while the first lives, and heals what it left when killed', async () => {
    createNamespace(foreign)
    const script = `import { Lab } from ${JSON.stringify(new URL('../../../lab/build.js', import.meta.url).href)}
      import { pair } from ${JSON.stringify(new URL('../../../lab/topologies/pair.js', import.meta.url).href)}
      const lab = await Lab.build(pair)
      const program = await lab.programs.start('mh', 'sleep', ['600'])
      console.log(program.pid)
      setInterval(() => {}, 1000)`
    const first = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [line] = await once(first.stdout!, 'data')
    const left = Number(line)
    await assert.rejects(Lab.build(topologyNamed('upmt')), { code: 'LAB_BUSY' })
    first.kill('SIGKILL')
    await once(first, 'exit')
    assert.deepEqual(listNamespaces(), ['gw-an', 'gw-mh', foreign])
    const second = await Lab.build(topologyNamed('upmt'))
    await second.close()
    while (runs(left)) await new Promise((resolve) => setTimeout(resolve, 10))
    assert.deepEqual(listNamespaces(), [foreign])
  })

  test('a namespace of its names that is not its own is left alone', async () => {
    createNamespace('gw-net')
    try {
      await assert.rejects(Lab.build(topologyNamed('upmt')), { code: 'NETNS_EXISTS' })
      assert.ok(listNamespaces().includes('gw-net'))
    } finally {
      deleteNamespace('gw-net')
    }
  })
})

test('without /dev/net/tun the lab says so, and how to get it', () => {
  const command = 'mount -t tmpfs none /dev/net && exec "$@"'
  const main = new URL('../../../src/cli/main.js', import.meta.url).pathname
  const args = ['-mn', 'sh', '-c', command, 'sh', process.execPath, main, 'lab', 'up', 'upmt']
  const { status, stderr } = spawnSync('unshare', args, { encoding: 'utf8' })
  assert.match(stderr, /^godwit: \/dev\/net\/tun: missing; sudo modprobe tun/)
  assert.equal(status, 3)
})
