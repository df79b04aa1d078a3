/**
 * Anchoring end to end, through the command line alone: a mobile host with two accesses behind NATs, an anchor, a legacy
 * server, real curl; moves, kills, and peers of WireGuard's own make.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import type { FlowStatus, HandoverRecord, PeerStatus } from '../../../src/core/mechanism.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { PROTOCOL } from '../../../src/linux/ledger.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { daemonAt, daemonStatus } from '../../support/daemon.ts'

usesPrograms('curl', 'ip', 'nft', 'ping', 'wg', 'wireguard-go')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
/** Sends to whoever asks for /N until it reads `end N`, then a megabyte more; says when it begins, and how much that was. */
const SERVER = `
  const block = Buffer.alloc(65536, 7)
  const ends = new Map()
  require('http').createServer((q, r) => {
    const name = q.url.slice(1)
    let sent = 0
    let left = Infinity
    const send = () => {
      while (left > 0) {
        sent += block.length
        left -= block.length
        if (!r.write(block)) return r.once('drain', send)
      }
      r.end(() => console.log(name + ' ' + sent))
    }
    ends.set(name, () => { left = 1e6 })
    console.log(name + ' begins')
    send()
  }).listen(80, '::', () => console.log('up'))
  require('readline').createInterface(process.stdin).on('line', (line) => ends.get(line.split(' ')[1])())`

interface Status {
  readonly peers: readonly PeerStatus[]
  readonly flows: readonly FlowStatus[]
  readonly handovers: readonly HandoverRecord[]
}

interface Rates {
  readonly sent_mbps: number | null
  readonly received_mbps: number | null
}

/** A line of `top --json`. */
interface Top {
  readonly accesses: readonly ({ readonly name: string } & Rates)[]
  readonly peers: readonly ({ readonly name: string } & Rates)[]
  readonly applications: readonly ({
    readonly app: string
  } & Rates)[]
  readonly flows: readonly Rates[]
}

let lab: Lab
let folder: string
let anchor: Program
let host: Program
let server: Program

const state = (role: string) => join(folder, role)
const godwit = (role: string, ...args: string[]) =>
  lab.programs.run(role, process.execPath, [GODWIT, ...args, '--state', state(role)])
const status = (role = 'mh') => daemonStatus<Status>(state(role))

async function daemon(role: string, ...args: string[]): Promise<Program> {
  const program = await lab.programs.start(
    role,
    process.execPath,
    [GODWIT, ...args, '--state', state(role)],
    { log: join(folder, `${role}.log`) },
  )
  await program.expect((line) => line.trim() === 'ready', 20_000)
  return program
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 60_000; Date.now() < end; await delay(100)) if (await holds()) return
  assert.fail(`not within a minute: ${what}`)
}

const hasFlow = () =>
  until('curl has a flow', async () => (await status()).flows.some(({ app }) => app === 'curl'))

/** Keeps everything on an access, or (`auto`) nothing by hand any more. */
const place = async (access: string) => {
  const mobile = daemonAt(state('mh'))
  await mobile.post('/v1/move', { what: 'all', access: 'auto' })
  if (access !== 'auto') await mobile.post('/v1/move', { what: 'all', access })
}

const bothPathsUp = async () =>
  (await status()).peers.some(({ paths }) => paths.filter((path) => path.state === 'up').length === 2)

let downloads = 0

/** A download that has begun, and goes on until it is told to end; `whole` is awaited for that, and that every byte arrived. */
async function download(family: 4 | 6 = 4, rate = '6M'): Promise<{ whole(): Promise<void> }> {
  const address = addressOf(lab.spec, 'ch1', 'wan', family)
  const name = `${++downloads}`
  const url = `http://${family === 4 ? address : `[${address}]`}/${name}`
  const said = lab.programs.run('mh', 'curl', [
    ...['-s', '-g', '--limit-rate', rate, '-o', '/dev/null', '-w', '%{http_code} %{size_download}', url],
  ])
  said.catch(() => {}) // until somebody waits for it
  await server.expect((line) => line === `${name} begins`, 30_000)
  return {
    async whole() {
      server.tell(`end ${name}`)
      const sent = await server.expect((line) => line.startsWith(`${name} `), 60_000)
      assert.equal(await said, `200 ${sent.split(' ')[1]}`)
    },
  }
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-anchoring-'))
  lab = await Lab.build(topologyNamed('upmt'))
  server = await lab.programs.start('ch1', process.execPath, ['-e', SERVER], { input: true })
  await server.expect((line) => line === 'up', 10_000)
  await godwit('an', 'anchor', 'init', '--endpoint', `${addressOf(lab.spec, 'an', 'wan')}:51820`)
  anchor = await daemon('an', 'anchor', 'up')
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
  host = await daemon('mh', 'up')
  await until('both paths up', bothPathsUp)
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

describe('a mobile host and its anchor', () => {
  /** Whatever the test before left. */
  beforeEach(() => place('acc1'))

  test('UP-2, UP-29: curl goes on over another access while it is moved, IPv4 and IPv6 inside', async () => {
    for (const family of [4, 6] as const) {
      const done = await download(family)
      await hasFlow()
      const [from, to] = family === 4 ? ['acc1', 'acc2'] : ['acc2', 'acc1']
      await godwit('mh', 'move', 'app:curl', to!)
      const { flows } = await status()
      assert.ok(
        flows.filter(({ app }) => app === 'curl').every(({ access }) => access === to),
        `from ${from}`,
      )
      await done.whole()
    }
  })

  test('`godwit top` at both ends: rates of an access, a program and a host while they flow (issue 14, point 9)', async () => {
    const done = await download()
    await hasFlow()
    await godwit('mh', 'move', 'app:curl', 'acc2')
    // All looks: on a busy machine a download with a limit comes in bursts.
    const top = async (role: string) => {
      const text = await godwit(role, 'top', '--json', '--interval', '0.5', '--count', '6')
      return text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as Top)
    }
    await until('the host shows the rates of curl and of its access', async () => {
      const looks = await top('mh')
      return looks.some(({ applications, accesses }) => {
        const program = applications.find(({ app }) => app === 'curl')
        const access = accesses.find(({ name }) => name === 'acc2')
        const flows = program !== undefined && program.received_mbps! > 5 && program.received_mbps! < 200
        return flows && access!.received_mbps! > 5 && access!.sent_mbps! < access!.received_mbps!
      })
    })
    await until('so does the anchor: it sends what the host receives', async () => {
      const looks = await top('an')
      return looks.some(({ peers, flows }) => {
        const sends = peers.some(({ name, sent_mbps }) => name === 'laptop' && sent_mbps! > 5)
        return sends && flows.some(({ received_mbps }) => (received_mbps ?? 0) > 5)
      })
    })
    await done.whole()
  })

  test('UP-28, UP-31: a flow moved with --static stays where it was put; records tell what was lost', async () => {
    const before = new Set((await status()).flows.map(({ id }) => id))
    const done = await download()
    const curl = async () => (await status()).flows.find(({ app, id }) => app === 'curl' && !before.has(id))
    await until('curl has a flow', async () => (await curl()) !== undefined)
    // Losses are known from the second comparison of both ends on.
    await delay(1500)
    const { id } = (await curl())!
    await godwit('mh', 'move', id, 'acc2', '--static')
    assert.equal((await curl())?.access, 'acc2')
    await done.whole()
    const record = async () => (await status()).handovers.find(({ what, to }) => what === id && to === 'acc2')
    await until('the handover is on record', async () => (await record()) !== undefined)
    // How many is the lab's business: at full speed a busy machine drops some by itself.
    await until('what it lost is known', async () => Number.isInteger((await record())?.lost_packets))
  })

  test('a lost link moves its flows; each handover is on record with its cause', async () => {
    const done = await download()
    await hasFlow()
    lab.setLink('acc1', { state: 'down' })
    await until('flows are on acc2', async () => {
      const { flows } = await status()
      return flows.filter(({ app }) => app === 'curl').every(({ access }) => access === 'acc2')
    })
    await done.whole()
    lab.setLink('acc1', { state: 'up' })
    await until('both paths up', bothPathsUp)
    assert.ok((await status()).handovers.some(({ cause, to }) => to === 'acc2' && cause.includes('acc1')))
  })

  test('kill -9 of the host daemon in mid-transfer: the transfer goes on after its restart', async () => {
    const done = await download()
    await hasFlow()
    host.child.kill('SIGKILL')
    await host.ended
    host = await daemon('mh', 'up')
    await done.whole()
    await until('both paths up', bothPathsUp)
  })

  test('kill -9 of the anchor in mid-transfer: the transfer goes on after its restart', async () => {
    const done = await download()
    await hasFlow()
    anchor.child.kill('SIGKILL')
    await anchor.ended
    anchor = await daemon('an', 'anchor', 'up')
    await done.whole()
    await until('both paths up', bothPathsUp)
  })

  test('`godwit rekey` and `godwit anchor rekey` in mid-transfer, at once: both have other keys at both ends, the transfer goes on (issue 14, point 8)', async () => {
    const key = async () => JSON.parse(await godwit('an', 'anchor', 'hosts', '--json')).hosts[0].public_key
    const before = await key()
    const done = await download(4, '3M')
    await hasFlow()
    const anchors = async () => (await status()).peers.map(({ public_key }) => public_key)
    const [formerly] = await anchors()
    const [rekeyed, anchorRekeyed] = await Promise.all([
      godwit('mh', 'rekey', '--json'),
      godwit('an', 'anchor', 'rekey', '--json'),
    ])
    const { public_key, peers } = JSON.parse(rekeyed)
    const { public_key: anchorKey, finished } = JSON.parse(anchorRekeyed)
    assert.equal(finished, true)
    assert.notEqual(anchorKey, formerly)
    assert.deepEqual(await anchors(), [anchorKey])
    assert.deepEqual(
      peers.map(({ state }: { state: string }) => state),
      ['done'],
    )
    assert.notEqual(public_key, before)
    assert.equal(await key(), public_key)
    await done.whole()
    for (const end of ['mh', 'an'] as const)
      assert.equal(existsSync(join(state(end), 'private.key.next')), false)
    // Both start again with what they have stored.
    for (const program of [host, anchor]) {
      program.child.kill('SIGKILL')
      await program.ended
    }
    anchor = await daemon('an', 'anchor', 'up')
    host = await daemon('mh', 'up')
    await until('both paths up', bothPathsUp)
  })

  test('`godwit reload` and SIGHUP in mid-transfer: a policy moves its flows, an exception leaves what is open; a bad file is refused (issue 14, point 8)', async () => {
    await place('auto')
    const file = join(state('mh'), 'godwit.toml')
    const joined = readFileSync(file, 'utf8')
    const write = (text: string) => writeFileSync(file, `${text}\n${joined}`, { mode: 0o600 })
    const done = await download(4, '3M')
    const ofCurl = async () => (await status()).flows.filter(({ app }) => app === 'curl')
    const accesses = async () => (await ofCurl()).map(({ access }) => access)
    const policies = async () => (await ofCurl()).map(({ policy }) => policy)
    // The access that came up first after the last restart.
    let first = ''
    await until('curl has a path', async () => {
      first = (await accesses()).find((access) => access === 'acc1' || access === 'acc2') ?? ''
      return first !== ''
    })
    const other = first === 'acc1' ? 'acc2' : 'acc1'
    try {
      const policy = `[[policy]]\nname = "fetch"\nmatch = ["app:curl"]\nprefer = ["${other}"]`
      write(`${policy}\n[interface]\nmtu = 1300`)
      const answer = JSON.parse(await godwit('mh', 'reload', '--json'))
      assert.deepEqual(answer, { applied: ['policy'], restart: ['interface.mtu'] })
      await until('curl is on the other', async () => (await accesses()).every((access) => access === other))
      assert.ok((await policies()).includes('fetch'))
      write('[host]\nexept = ["private"]')
      await assert.rejects(godwit('mh', 'reload'), /did you mean `except`/)
      // A path may be suspect for a moment; by the file alone it would stay on the first.
      await until('the old configuration stays', async () => (await accesses()).includes(other))
      // What is open stays in the tunnel; what is opened now leaves without it.
      write(`[host]\nexcept = ["to:${addressOf(lab.spec, 'ch1', 'wan')}/32"]`)
      host.child.kill('SIGHUP')
      // Whether it goes back to the first is up to `auto`.
      await until('the policy is gone', async () => !(await policies()).includes('fetch'))
      const before = new Set((await status()).flows.map(({ id }) => id))
      const short = await download(4, '100M')
      await short.whole()
      const later = (await status()).flows.filter(({ id, app }) => app === 'curl' && !before.has(id))
      assert.deepEqual(later, [], 'past the tunnel')
      await done.whole()
    } finally {
      write('')
    }
    await godwit('mh', 'reload')
  })

  test('UP-22: VIpA_fix is there while no anchor answers, and the same when one does', async () => {
    for (const program of [host, anchor]) {
      program.child.kill('SIGTERM')
      await program.ended
    }
    const fixed = async () =>
      (await lab.programs.run('mh', 'ip', ['-o', 'address', 'show'])).match(
        /godwit0 .*?inet ([\d.]+\/\d+)/,
      )?.[1]
    assert.equal(await fixed(), undefined)
    // A stopped anchor remembers when its hosts were there.
    const { hosts } = JSON.parse(await godwit('an', 'anchor', 'hosts', '--json'))
    assert.ok(Math.abs(Date.now() - hosts[0].last_seen) < 30_000, JSON.stringify(hosts))
    host = await lab.programs.start('mh', process.execPath, [GODWIT, 'up', '--state', state('mh')], {
      log: join(folder, 'mh.log'),
    })
    const ready = host.expect((line) => line.trim() === 'ready', 60_000)
    await until('VIpA_fix is set', async () => (await fixed()) === '198.19.0.1/32')
    assert.ok((await status()).peers.every(({ state }) => state !== 'up'))
    anchor = await daemon('an', 'anchor', 'up')
    await ready
    await until('both paths up', bothPathsUp)
    assert.equal(await fixed(), '198.19.0.1/32')
  })

  test('E-3 (2): what a host sends with an address that is not its VIpA ends at the anchor', async () => {
    // A stock client may send what it likes: here with the address of the first host.
    const config = await godwit('an', 'anchor', 'invite', '--wg', 'thief')
    const client = await wireguard('ch2', `gwt${process.pid}`, config)
    try {
      await lab.programs.run('ch2', 'ping', ['-c', '1', '-W', '3', '-I', client.device, '198.18.0.1'])
      lab.rtnl('ch2').addAddress(client.device, '198.18.0.2/32')
      await assert.rejects(
        lab.programs.run('ch2', 'ping', ['-c', '1', '-W', '1', '-I', '198.18.0.2', '198.18.0.1']),
      )
      await until('the anchor has counted it', async () => {
        const metrics = await lab.programs.run('an', 'curl', [
          ...['-s', '--unix-socket', join(state('an'), 'control.sock'), 'http://godwit/metrics'],
        ])
        return /godwit_anchor_spoofed_total [1-9]/.test(metrics)
      })
    } finally {
      await client.stop()
    }
  })

  test('both stop without a trace: no rule, table, interface or filter is left', async () => {
    for (const program of [host, anchor]) program.child.kill('SIGTERM')
    assert.deepEqual(await Promise.all([host.ended, anchor.ended]), [0, 0])
    const rtnl = lab.rtnl('mh')
    assert.deepEqual(
      rtnl.rules().filter(({ origin }) => origin === PROTOCOL),
      [],
    )
    assert.deepEqual(
      rtnl.routes().filter(({ protocol }) => protocol === PROTOCOL),
      [],
    )
    assert.equal(rtnl.link('godwit0'), undefined)
    assert.equal(lab.rtnl('an').link('gwan0'), undefined)
    assert.equal(await lab.programs.run('an', 'nft', ['list', 'tables']), '')
  })
})

describe('a stock WireGuard server as a plain anchor', () => {
  test('UP-7: curl goes on while everything moves to the other access, and when that is lost', async () => {
    const server = { privateKey: encodeKey(generatePrivateKey()), device: `gwp${process.pid}` }
    const client = generatePrivateKey()
    const publicKey = (key: string) => encodeKey(publicKeyOf(Buffer.from(key, 'base64')))
    const wireguardGo = await wireguard(
      'an2',
      server.device,
      `[Interface]\nPrivateKey = ${server.privateKey}\nListenPort = 51821\nAddress = 10.99.0.1/24\n\n[Peer]\nPublicKey = ${encodeKey(publicKeyOf(client))}\nAllowedIPs = 10.99.0.2/32\n`,
    )
    new KernelSysctls('gw-an2').set('net.ipv4.ip_forward', 1)
    await lab.programs.run('an2', 'nft', [
      'add table ip t; add chain ip t p { type nat hook postrouting priority 100; }; add rule ip t p ip saddr 10.99.0.0/24 masquerade',
    ])
    const file = join(folder, 'plain.conf')
    const endpoint = `${addressOf(lab.spec, 'an2', 'wan')}:51821`
    writeFileSync(
      file,
      `[Interface]\nPrivateKey = ${encodeKey(client)}\nAddress = 10.99.0.2/32\n\n[Peer]\nPublicKey = ${publicKey(server.privateKey)}\nEndpoint = ${endpoint}\nAllowedIPs = 0.0.0.0/0\n`,
      { mode: 0o600 },
    )
    rmSync(state('mh'), { recursive: true })
    await godwit('mh', 'join', '--wg', file)
    const program = await daemon('mh', 'up')
    try {
      const done = await download()
      await hasFlow()
      await godwit('mh', 'move', 'all', 'acc2')
      await until('everything is on acc2', async () =>
        (await status()).flows.every(({ access }) => access === 'acc2'),
      )
      lab.setLink('acc2', { state: 'down' })
      await done.whole()
      assert.ok((await status()).flows.every(({ access }) => access === 'acc1'))
    } finally {
      lab.setLink('acc2', { state: 'up' })
      program.child.kill('SIGTERM')
      await program.ended
      await wireguardGo.stop()
    }
  })
})

/** A stock client or server: wireguard-go on a host, set up as wg-quick would from this text. */
async function wireguard(role: string, device: string, text: string) {
  const program = await lab.programs.start(role, 'wireguard-go', ['-f', device])
  const file = join(folder, `${device}.conf`)
  writeFileSync(file, text.replace(/^(Address|DNS|MTU) *=.*\n/gm, ''), { mode: 0o600 })
  await until('wireguard-go answers', async () => {
    try {
      await lab.programs.run(role, 'wg', ['setconf', device, file])
      return true
    } catch {
      return false
    }
  })
  const rtnl = lab.rtnl(role)
  for (const address of text.match(/^Address *= *(.*)$/m)?.[1]?.split(/, */) ?? [])
    rtnl.addAddress(device, address, { noDad: true })
  rtnl.setLink(device, { up: true, mtu: 1420 })
  if (role !== 'an2') rtnl.addRoute({ to: '198.18.0.0/16', dev: device })
  return { device, stop: () => program.stop() }
}
