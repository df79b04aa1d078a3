/** NT-21 on the real kernel: a node whose NAT has forgotten it is woken through the notification server. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { PUSH_KEYS_FILE, pushKeys } from '../../../src/overlay/node/push.ts'
import { encryptPush, publicPoint } from '../../../src/overlay/push/encryption.ts'
import { NODES, OverlayBed } from './bed.ts'

usesPrograms('ip', 'ping', 'unshare')
usePrivateNames()

describe('NT-21, NT-40: a node that is asleep behind a NAT', () => {
  let bed: OverlayBed
  const untilNotified = () =>
    bed.until('both nodes are connected to the notification server', async () => {
      for (const name of NODES) if (!(await bed.view(name)).notified) return false
      return true
    })
  before(async () => {
    bed = await OverlayBed.start({}, [
      ['alice', 'acc2'],
      ['bob', 'acc2'],
    ])
    // From now on bob's NAT forgets a mapping after a second.
    const files = ['', '_stream'].map((end) => `/proc/sys/net/netfilter/nf_conntrack_udp_timeout${end}`)
    await bed.lab.programs.run('nb1', 'sh', ['-c', files.map((file) => `echo 1 > ${file}`).join('; ')])
    await bed.down('bob')
    const configuration = join(bed.folder, 'bob', 'godwit.toml')
    const text = readFileSync(configuration, 'utf8')
    writeFileSync(configuration, text.replace('[log]', 'push = "https://push.example/up"\n[log]'))
    await bed.up('bob')
    await untilNotified()
  })
  after(async () => {
    await bed?.close()
  })

  it('NT-39: steps 14 and 15: it connects and shows the token', async () => {
    const trace = await bed.godwit('bob', 'overlay', 'trace')
    assert.match(trace, /NOTIFICATION_REGISTRATION [\s\S]*NOTIFICATION_REGISTRATION_ACK/)
  })

  it('NT-40: steps 10 and 11: datagrams do not reach it any more; its peer asks by name, and is connected', async () => {
    // What bob sent when it connected has kept its NAT open for a second.
    await sleep(2_000)
    const text = await bed.godwit('alice', 'overlay', 'resolve', 'bob')
    const address = /fd\S+/.exec(text)![0]
    // Then again, when nothing has flowed for longer than the NAT remembers.
    for (const pause of [0, 3_000]) {
      await sleep(pause)
      await bed.lab.programs
        .run('alice', 'ping', ['-c', '3', '-i', '0.2', '-W', '3', address])
        .catch(async (error: Error) => assert.fail(`${error.message}\n${await bed.state()}`))
    }
    const trace = await bed.godwit('bob', 'overlay', 'trace')
    assert.match(trace, / NOTIFICATION [\s\S]* NOTIFICATION_ACK [\s\S]* ROUTE_DIRECTION /)
    assert.doesNotMatch(trace, /\+-/, 'every step is on one clock')
  })

  it('NT-22: what its push service received wakes it, if it was encrypted for it', async () => {
    const keys = pushKeys(join(bed.folder, 'bob', PUSH_KEYS_FILE))
    const message = join(bed.folder, 'message')
    const receiver = { publicKey: publicPoint(keys.privateKey), secret: keys.secret }
    const registrations = async () =>
      (await bed.godwit('bob', 'overlay', 'trace')).match(/REGISTRATION_REQUEST/g)!.length
    const before = await registrations()
    writeFileSync(message, encryptPush(new Uint8Array(0), { ...receiver, secret: new Uint8Array(16) }))
    await assert.rejects(bed.godwitWith('bob', message, 'overlay', 'notify'), /not encrypted for this node/)
    writeFileSync(message, encryptPush(new Uint8Array(0), receiver))
    await bed.godwitWith('bob', message, 'overlay', 'notify')
    await bed.until('bob registers again', async () => (await registrations()) > before)
  })

  it('the servers are killed and start again: the nodes connect again by themselves', async () => {
    bed.server.signal('SIGKILL')
    await bed.server.ended
    await bed.until('the nodes have noticed', async () => {
      for (const name of NODES) if ((await bed.view(name)).notified) return false
      return true
    })
    await bed.serve()
    await untilNotified()
  })

  it('NT-26: a large file for a node that is not there: the server is killed in the middle, it goes on, and all arrives', async () => {
    await bed.down('bob')
    const file = join(bed.folder, 'large.bin')
    writeFileSync(file, randomBytes(40_000_000))
    const sum = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex')
    const cache = join(bed.folder, 'srv', 'overlay-cache')
    const arrived = () =>
      readdirSync(cache)
        .filter((name) => name.endsWith('.data'))
        .reduce((bytes, name) => bytes + statSync(join(cache, name)).size, 0)
    const sending = await bed.begin('alice', 'overlay', 'send', file, 'bob')
    await bed.until('a part of it is there', () => arrived() > 4_000_000, 20)
    bed.server.signal('SIGKILL')
    await Promise.all([bed.server.ended, sending.ended])
    const there = arrived()
    assert.ok(there < 40_000_000, 'it was killed in the middle')
    await bed.serve()
    const text = await bed.godwit('alice', 'overlay', 'send', file, 'bob', '--json')
    const { resumed, bytes } = JSON.parse(text) as { resumed: number; bytes: number }
    assert.ok(resumed > 4_000_000 && resumed <= there && bytes > 40_000_000)
    assert.match(await bed.godwit('bob', 'overlay', 'inbox'), /alice\.test\.example +\d+/)
    const into = join(bed.folder, 'inbox')
    mkdirSync(into)
    assert.match(
      await bed.godwit('bob', 'overlay', 'inbox', '--out', into),
      /large\.bin {2}from alice\.test\.example/,
    )
    assert.equal(sum(join(into, 'large.bin')), sum(file))
    assert.deepEqual(readdirSync(cache), [])
  })
})
