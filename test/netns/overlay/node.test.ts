/** Nodes of the overlay on the real kernel: names, ways, moves, and servers that die. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Program } from '../../../lab/hosts.ts'
import { makeSsh, sshSkip } from '../../../lab/ssh.ts'
import { ROAM_SERVER } from '../../../lab/topologies/ntm-roam.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { type NodeName, OverlayBed } from './bed.ts'

usesPrograms('curl', 'dig', 'ip', 'ping', 'unshare')
usePrivateNames()

describe('two nodes behind two NATs each', () => {
  let bed: OverlayBed
  let web: Program
  before(async () => {
    bed = await OverlayBed.start({}, [
      ['alice', 'acc2'],
      ['bob', 'acc2'],
    ])
    web = await bed.lab.programs.own('bob', 'http-server', { root: bed.folder, port: 8080 })
  })
  after(async () => {
    await bed?.close()
  })

  /** From the name on: what a user types. */
  const curl = (path: string) =>
    bed.lab.programs.start(
      'alice',
      ...bed.withNames('alice', 'sh', '-c', `curl -sS http://bob.test.example:8080/${path} | sha256sum`),
    )

  it('NT-29: a name is resolved to virtual addresses, and packets go from end to end', async () => {
    const text = await bed.godwit('alice', 'overlay', 'resolve', 'bob')
    assert.match(text, /bob\.test\.example {2}fd/)
    const address = /fd\S+/.exec(text)![0]
    await bed.lab.programs.run('alice', 'ping', ['-c', '3', '-i', '0.2', '-W', '2', address])
    const four = (await bed.view('alice')).addresses.find((each) => each.includes('.'))!
    await bed.lab.programs.run('bob', 'ping', ['-c', '1', '-W', '2', four])
  })

  it('NT-47, NT-48: both have the same private address, and leave the relay for the direct way', async () => {
    for (const name of ['alice', 'bob'] as const) await bed.untilWay(name, 'direct acc1')
  })

  it('NT-13: both show the same keys for both, for people to compare', async () => {
    const ends = ['alice', 'bob'] as const
    const shown = await Promise.all(ends.map((name) => bed.godwit(name, 'overlay', 'peers', '--keys')))
    const keysIn = (text: string) =>
      ends.map((name) => new RegExp(`${name}\\.test\\.example.* ([A-Za-z0-9+/]{43}=)`).exec(text)?.[1])
    const [alice, bob] = shown.map(keysIn)
    assert.deepEqual(alice, bob)
    assert.equal(new Set(alice).size, 2)
    assert.equal(alice!.includes(undefined), false)
  })

  it('nobody but this machine reaches its name server: not a peer, nor a neighbour in the local network', async () => {
    const { addresses } = await bed.view('alice')
    const four = addresses.find((each) => each.includes('.'))!
    await bed.lab.programs.run('na1', 'ip', ['route', 'add', four, 'via', '192.168.1.10'])
    const asked = async (host: string, address: string, name: string, ...more: string[]) =>
      await bed.lab.programs.run(host, 'dig', [`@${address}`, name, '+tries=1', '+time=1', ...more])
    for (const name of ['bob.test.example', 'www.example.org']) {
      for (const address of addresses)
        for (const transport of ['+notcp', '+tcp'])
          await assert.rejects(asked('bob', address, name, transport))
      await assert.rejects(asked('na1', four, name))
    }
    const six = addresses.find((each) => each.includes(':'))!
    assert.match(await asked('alice', six, 'bob.test.example', 'AAAA', '+tcp'), /status: NOERROR[\s\S]*\sfd/)
    assert.match(await asked('alice', four, 'bob.test.example', 'AAAA'), /status: NOERROR[\s\S]*\sfd/)
  })

  it('beside Tailscale, whose firewall drops 100.64.0.0/10, names have IPv6 addresses only, until it is gone', async () => {
    const ip = (...args: string[]) => bed.lab.programs.run('alice', 'ip', args)
    const six = (await bed.view('alice')).addresses.find((each) => each.includes(':'))!
    const asked = (type: string) =>
      bed.lab.programs.run('alice', 'dig', [`@${six}`, '+short', 'bob.test.example', type])
    const routes = () => ip('route', 'show', 'table', '6896').catch(() => '')
    assert.match(await routes(), /100\./)
    assert.match(await asked('A'), /^100\./)
    await ip('tuntap', 'add', 'dev', 'tailscale0', 'mode', 'tun')
    await ip('address', 'add', '100.82.80.46/32', 'dev', 'tailscale0')
    await bed.until('there is no IPv4 route', async () => !(await routes()).includes('100.'))
    assert.equal((await asked('A')).trim(), '')
    assert.match(await asked('AAAA'), /^fd/)
    await ip('link', 'delete', 'tailscale0')
    await bed.until('the IPv4 route is there again', async () => (await routes()).includes('100.'))
    assert.match(await asked('A'), /^100\./)
  })

  it('NT-13: a machine that was set up anew under its name is reached by who knew the one before', async () => {
    const of = async (name: NodeName) => (await bed.view(name)).addresses
    const before = await of('bob')
    await bed.down('bob')
    await assert.rejects(bed.login('bob'), /another device of this account is logged in as bob/)
    await bed.login('bob', '--replace')
    await bed.up('bob')
    assert.deepEqual(await of('bob'), before)
    const ping = ['-c', '1', '-W', '2', before[0]!]
    await bed.until('alice reaches the new bob', () =>
      bed.lab.programs.run('alice', 'ping', ping).then(
        () => true,
        () => false,
      ),
    )
    assert.match(bed.log('alice'), /bob.test.example has another key/)
    await bed.untilWay('alice', 'direct acc1')
  })

  it('ssh by name', { skip: sshSkip() }, async () => {
    const { server, client } = makeSsh(bed.lab.createScratch())
    const [command, ...args] = server
    const sshd = await bed.lab.programs.start('bob', command, args)
    await bed.until('sshd listens', () => sshd.errors.includes('Server listening on 0.0.0.0'))
    const words = ['ssh', ...client, 'root@bob.test.example', 'echo $SSH_CONNECTION']
    const said = await bed.lab.programs.run('alice', ...bed.withNames('alice', ...words))
    assert.match(said, /^fd\S+ \d+ fd\S+ 22$/)
    await sshd.stop()
  })

  it('NT-43, NT-44: a transfer goes on when one end moves, when both do, and without any server; it ends intact', async () => {
    const download = await curl('stream')
    const moved = async (name: NodeName, to: string, from: string) => {
      await bed.setLink(name, to, true)
      await bed.setLink(name, from, false)
    }
    const received = async () => {
      const { peers } = await bed.status('alice')
      return peers[0]!.paths.reduce((sum, path) => sum + (path.received_bytes ?? 0), 0)
    }
    const flows = async (what: string) => {
      const before = await received()
      await bed.until(`bytes arrive ${what}`, async () => {
        const now = await received()
        return now > before + 1_000_000 || now < before / 2
      })
    }
    await flows('at first')
    await moved('alice', 'acc2', 'acc1')
    await bed.untilWay('alice', 'direct acc2')
    await flows('after alice moved')
    await Promise.all([moved('alice', 'acc1', 'acc2'), moved('bob', 'acc2', 'acc1')])
    await bed.untilWay('alice', 'direct acc1')
    await bed.untilWay('bob', 'direct acc2')
    await flows('after both moved')
    await bed.server.stop()
    await flows('without servers')
    web.tell('end')
    const { sha256, bytes } = JSON.parse((await web.line()) ?? 'null') as { sha256: string; bytes: number }
    assert.ok(bytes > 4_000_000)
    assert.equal((await download.line())?.split(' ')[0], sha256)
  })

  it('trace shows the conversation, status the way', async () => {
    const trace = await bed.godwit('alice', 'overlay', 'trace')
    for (const word of ['REGISTRATION_REQUEST', 'DIRECTION_REQUEST', 'ROUTE_DIRECTION', 'TUNNEL_RESPONSE'])
      assert.match(trace, new RegExp(word))
    const { peers } = await bed.status('alice')
    assert.equal(peers[0]!.kind, 'node')
    assert.equal(peers[0]!.state, 'up')
  })

  it('leaves nothing behind', async () => {
    await bed.down('alice')
    assert.equal(readFileSync(join(bed.folder, 'alice', 'resolv.conf'), 'utf8'), 'nameserver 192.0.2.53\n')
    assert.doesNotMatch(await bed.lab.programs.run('alice', 'ip', ['-6', 'rule']), /67\d\d:/)
    assert.doesNotMatch(await bed.lab.programs.run('alice', 'ip', ['link']), /gwov0/)
  })
})

describe('a node behind a symmetric NAT and one behind a port-restricted one', () => {
  let bed: OverlayBed
  before(async () => {
    bed = await OverlayBed.start({ nb1: 'symmetric', nb2: 'symmetric' }, [
      ['alice', 'acc2'],
      ['bob', 'acc2'],
    ])
  })
  after(async () => {
    await bed?.close()
  })

  const pinging = (address: string) =>
    bed.until('bob answers', () =>
      bed.lab.programs.run('alice', 'ping', ['-c', '1', '-W', '1', address]).then(
        () => true,
        () => false,
      ),
    )

  it('NT-46: they reach each other by the relay, which stays', async () => {
    await bed.godwit('alice', 'overlay', 'resolve', 'bob')
    await bed.untilWay('alice', 'relay acc1')
    await bed.untilWay('bob', 'relay acc1')
  })

  it('the one behind the symmetric NAT moves: the relay is bound anew', async () => {
    const bob = (await bed.view('alice')).peers[0]!.addresses[0]!
    await bed.setLink('bob', 'acc2', true)
    await bed.setLink('bob', 'acc1', false)
    await bed.untilWay('bob', 'relay acc2')
    await pinging(bob)
  })

  it('NT-25: three channels of one pair stand beside each other, and packets go over whichever works', async () => {
    const bob = (await bed.view('alice')).peers[0]!.addresses[0]!
    const words = ['-n', '-i', '0.02', '-w', '60', bob]
    const pings = await bed.lab.programs.start('alice', 'ping', words)
    let channels = 0
    const count = async () => {
      const { peers } = await bed.status('alice')
      const relayed = peers[0]!.paths.filter(
        ({ remote, state }) => remote.startsWith(ROAM_SERVER) && state === 'up',
      )
      channels = Math.max(channels, new Set(relayed.map(({ remote }) => remote)).size)
      return channels
    }
    await bed.setLink('alice', 'acc2', true)
    await bed.setLink('alice', 'acc1', false)
    await bed.untilWay('alice', 'relay acc2')
    // A better access beside the one that works: another channel, at either end.
    await bed.setLink('bob', 'acc1', true)
    await bed.untilWay('bob', 'relay acc1')
    await bed.setLink('alice', 'acc1', true)
    await bed.untilWay('alice', 'relay acc1')
    await bed.until('three channels', async () => (await count()) === 3)
    await delay(1_000)
    await bed.setLink('bob', 'acc1', false)
    await bed.untilWay('bob', 'relay acc2')
    await bed.setLink('alice', 'acc2', false)
    await delay(1_000)
    pings.signal('SIGINT')
    await pings.ended
    let line = ''
    while (!/packet loss/.test(line)) line = (await pings.line()) ?? assert.fail('no summary')
    const [, sent, received] = /(\d+) packets transmitted, (\d+) received/.exec(line)!.map(Number)
    assert.ok(sent! - received! <= 100, `${line}: more than two seconds of 20 ms`)
  })

  it('a node that is killed and starts again is reached under the same address, also from what ran before', async () => {
    const bob = (await bed.view('alice')).peers[0]!.addresses[0]!
    await bed.down('bob', 'SIGKILL')
    await bed.up('bob')
    await pinging(bob)
    assert.deepEqual((await bed.view('bob')).addresses[0], bob)
  })

  it('both start again: a packet to the address alone finds the peer', async () => {
    const bob = (await bed.view('alice')).peers[0]!.addresses[0]!
    await bed.down('alice')
    await bed.down('bob')
    await bed.up('bob')
    await bed.up('alice')
    await pinging(bob)
  })

  it('the servers start again, and with them the relay: the pair is directed anew, and names are found', async () => {
    const bob = (await bed.view('alice')).peers[0]!.addresses[0]!
    await bed.server.stop()
    await bed.serve()
    await pinging(bob)
    await bed.godwit('alice', 'overlay', 'forget', 'bob')
    await bed.until('bob is found again', () =>
      bed.godwit('alice', 'overlay', 'resolve', 'bob').then(
        () => true,
        () => false,
      ),
    )
    await pinging(bob)
  })
})
