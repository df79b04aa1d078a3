/**
 * What users of overlays report most often, as their machines and networks are: no IPv6 by decision of who runs the machine, a full disk, a
 * process that is stopped, a NAT whose table is full, a device with another name, a relay that carries less than the direct way.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { OverlayBed } from './bed.ts'

usesPrograms('ip', 'nft', 'ping', 'unshare')
usePrivateNames()

describe('machines as they are', () => {
  let bed: OverlayBed
  before(async () => {
    bed = await OverlayBed.start({}, [
      ['alice', 'acc2'],
      ['bob', 'acc2'],
    ])
  })
  after(async () => {
    await bed?.close()
  })

  const onAlice = (script: string) =>
    bed.lab.programs.run('alice', ...bed.withNames('alice', 'sh', '-ec', script))

  it('NT-29: IPv6 is turned off: names are found, and peers reached, by IPv4', async () => {
    await bed.down('alice')
    const set = (off: 0 | 1) =>
      onAlice(`for each in all default; do echo ${off} > /proc/sys/net/ipv6/conf/$each/disable_ipv6; done`)
    await set(1)
    await bed.up('alice')
    assert.match(bed.log('alice'), /is not used: IPv6 is turned off on this machine/)
    assert.match(
      await onAlice('ping -n -i 0.2 -c 1 -w 5 bob.test.example'),
      /\(100\.96\.\d+\.\d+\).*\n.* bytes from 100\.96/,
    )
    await bed.down('alice')
    await set(0)
    await bed.up('alice')
    assert.match(await onAlice('ping -6 -n -i 0.2 -c 1 -w 5 bob.test.example'), /bytes from fd/)
  })

  const ping = (count = 1, seconds = 5) =>
    onAlice(`ping -n -i 0.2 -c ${count} -w ${seconds} bob.test.example`)
  const run = (host: string, script: string) => bed.lab.programs.run(host, 'sh', ['-ec', script])

  it('issue 13: the process of a device is stopped for six seconds, and goes on', async () => {
    await ping()
    bed.daemon('bob').signal('SIGSTOP')
    await delay(6_000)
    bed.daemon('bob').signal('SIGCONT')
    assert.match(await ping(5, 4), / bytes from /)
  })

  it('issue 13: the table of a NAT is full: what stands goes on, a device that starts says what fails, and is back by itself', async () => {
    await ping()
    await run(
      'na1',
      'nft "table ip full { chain forward { type filter hook forward priority -5; ct state new drop; }; }"',
    )
    assert.match(await ping(5), / 0% packet loss/)
    await bed.down('alice', 'SIGKILL')
    await bed.up('alice')
    assert.match(bed.log('alice'), /the coordinator does not answer; going on as fd/)
    await bed.until('it says so', async () => {
      const { registered, trouble } = await bed.view('alice')
      return !registered && /does not answer/.test(trouble ?? '')
    })
    await run('na1', 'nft delete table ip full')
    await bed.until('alice is back', async () => (await bed.view('alice')).registered)
    assert.match(await ping(2), / bytes from /)
  })

  it('issue 13: the disk is full: the device goes on, says so, keeps what it had, and writes the rest when there is room', async () => {
    await bed.down('alice')
    const state = join(bed.folder, 'alice')
    const copy = join(bed.folder, 'alice.copy')
    const kept = (file: string) => readFileSync(join(state, file), 'utf8')
    cpSync(state, copy, { recursive: true })
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k,mode=750', 'none', state])
    assert.equal(mounted.status, 0, String(mounted.stderr))
    try {
      cpSync(copy, state, { recursive: true })
      await bed.up('alice')
      await ping()
      const before = kept('overlay-lease')
      const filler = join(state, 'filler')
      assert.throws(() => writeFileSync(filler, Buffer.alloc(1 << 20)), /ENOSPC/)
      await bed.godwit('alice', 'overlay', 'forget', 'bob')
      const isSaid = () =>
        /the list of peers could not be kept, and is written as soon as/.test(bed.log('alice'))
      await bed.until('it is said', isSaid)
      assert.match(kept('overlay-peers.json'), /bob\.test\.example/)
      assert.equal(kept('overlay-lease'), before)
      assert.deepEqual(
        readdirSync(state).filter((name) => name.endsWith('.new')),
        [],
      )
      rmSync(filler)
      await bed.down('alice')
      assert.doesNotMatch(kept('overlay-peers.json'), /bob/)
      await bed.up('alice')
      assert.match(await ping(2), / bytes from /)
      await bed.down('alice')
      rmSync(copy, { recursive: true })
      cpSync(state, copy, { recursive: true })
    } finally {
      spawnSync('umount', [state])
    }
    cpSync(copy, state, { recursive: true })
    await bed.up('alice')
  })

  it('issue 13: a device logs in again under another name: found by that one, and no more by the old one', async () => {
    await bed.down('bob')
    await bed.loginAgain('bob', 'robert')
    await bed.up('bob')
    const answered = onAlice('ping -n -c 1 -w 5 robert.test.example').catch(async (error: Error) =>
      assert.fail(`${error.message}\n${await bed.state()}`),
    )
    assert.match(await answered, / bytes from /)
    await assert.rejects(
      bed.godwit('alice', 'overlay', 'resolve', 'bob'),
      /there is no node bob\.test\.example/,
    )
    await bed.down('bob')
    await bed.loginAgain('bob', 'bob')
    await bed.up('bob')
    assert.match(await ping(), / bytes from /)
  })

  it('issue 13: the way by the relay carries less than the direct one: a transfer goes on when it has to take it, and back', async () => {
    await bed.untilWay('alice', 'direct acc1')
    await run('srv', 'ip link set wan mtu 1280')
    await run('net', 'ip link set srv mtu 1280')
    const [address] = (await bed.view('bob')).addresses
    const receiver = `const { createHash } = require('node:crypto'); require('node:net').createServer((socket) => {
      const hash = createHash('sha256'); let bytes = 0
      socket.on('data', (part) => { hash.update(part); bytes += part.length }).on('end', () => { console.log(bytes, hash.digest('hex')); process.exit(0) })
    }).listen(7000, '::', () => console.log('up'))`
    const sender = `const { createHash, randomBytes } = require('node:crypto'); const hash = createHash('sha256')
      const socket = require('node:net').connect(7000, process.argv[1], async () => {
        for (let n = 0; n < 400; n++) { const part = randomBytes(32768); hash.update(part)
          if (!socket.write(part)) await new Promise((done) => socket.once('drain', done))
          await new Promise((done) => setTimeout(done, 15)) }
        socket.end(() => console.log(400 * 32768, hash.digest('hex'))) })`
    const server = await bed.lab.programs.start('bob', process.execPath, ['-e', receiver])
    await server.expect((line) => line === 'up', 10_000)
    const client = await bed.lab.programs.start('alice', process.execPath, ['-e', sender, address!])
    await delay(1_500)
    await run(
      'net',
      'nft "table ip apart { chain forward { type filter hook forward priority 0; iifname na1 oifname nb1 drop; iifname nb1 oifname na1 drop; }; }"',
    )
    await bed.untilWay('alice', 'relay acc1')
    await delay(2_000)
    await run('net', 'nft delete table ip apart')
    const [sent, received] = await Promise.all(
      [client, server].map((each) => each.expect((line) => /^\d/.test(line), 40_000)),
    )
    assert.equal(received, sent)
    await run('srv', 'ip link set wan mtu 1500')
    await run('net', 'ip link set srv mtu 1500')
  })
})
