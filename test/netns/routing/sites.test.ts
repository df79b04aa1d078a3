/**
 * Sites joined by routers, seen from terminals that know nothing of it: every protocol, errors of ICMP, packets that are
 * too large, forged sources, several routers at one gateway, classes, and what the operator is told.
 */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Program } from '../../../lab/hosts.ts'
import { PROTOCOL } from '../../../src/linux/ledger.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { Nft } from '../../../src/linux/nft.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { DEVICE, HOME, PORT, type RouterName, SERVER, Sites, TERMINAL_A, TERMINAL_B } from './bed.ts'

usesPrograms('curl', 'ip', 'nft', 'ping')

usePrivateNames()

/** Answers each datagram with the address it came from. */
const ECHO = `
  const { createSocket } = require('dgram')
  const s = createSocket({ type: 'udp6' })
  s.on('message', (m, from) => s.send(from.address, from.port, from.address))
  s.bind(Number(process.argv[1]), () => console.log('up'))`
/** Sends COUNT numbered datagrams to ADDRESS PORT, one every 5 ms; says how many answers came, the last with what it said. */
const ASK = `
  const [host, port, count] = process.argv.slice(1)
  const s = require('dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4')
  let sent = 0, got = 0, seen = ''
  s.on('message', (m) => { got++; seen = String(m) })
  s.bind(() => {
    const t = setInterval(() => {
      if (sent < Number(count)) { s.send(String(sent++), Number(port), host); return }
      clearInterval(t)
      const end = () => { console.log(JSON.stringify({ sent, got, seen })); process.exit() }
      setInterval(() => got >= sent && end(), 20)
      setTimeout(end, 5000)
    }, 5)
  })`
/** Serves two megabytes over HTTP; the answer's header names who asked. */
const SERVE = `
  require('http').createServer((q, r) => {
    r.setHeader('x-seen', q.socket.remoteAddress.replace('::ffff:', ''))
    r.end(Buffer.alloc(2e6, 'godwit'))
  }).listen(80, '::', () => console.log('up'))`

let sites: Sites
const node = (code: string, ...args: string[]) => ['-e', code, ...args]

async function serve(host: string, code: string, ...args: string[]): Promise<Program> {
  const program = await sites.lab.programs.start(host, process.execPath, node(code, ...args))
  await program.expect((line) => line === 'up', 30_000)
  return program
}

async function ask(
  host: string,
  to: string,
  port: number,
  count: number,
): Promise<{ sent: number; got: number; seen: string }> {
  return JSON.parse(
    await sites.lab.programs.run(host, process.execPath, node(ASK, to, String(port), String(count))),
  )
}

const ping = (host: string, ...args: string[]) => sites.said(host, 'ping', '-n', '-W', '5', ...args)
/** What a host has learnt of paths goes. */
async function forgetMtu(host: string): Promise<void> {
  for (const family of ['-4', '-6'])
    await sites.lab.programs.run(host, 'ip', [family, 'route', 'flush', 'cache'])
}
const deviceMtu = (name: RouterName) => sites.lab.rtnl(name).link(DEVICE)!.mtu

async function counter(name: RouterName, which: string): Promise<number> {
  return (await sites.view(name)).counters[which] ?? 0
}

before(async () => {
  sites = await Sites.start()
  await serve('srv', SERVE)
  for (const port of ['5004', '5005']) await serve('srv', ECHO, port)
})

after(() => sites?.close())

describe('terminals without software', () => {
  for (const family of [4, 6] as const)
    test(`OH-6, OH-7, OH-8, OH-11, OH-35: TCP, UDP and ping over IPv${family}; the server sees the terminal's own address`, async () => {
      const host = family === 4 ? SERVER[4] : `[${SERVER[6]}]`
      const got = await sites.lab.programs.run('ta', 'curl', [
        ...['-s', '-g', '-o', '/dev/null', '--max-time', '60'],
        ...['-w', '%{size_download} %header{x-seen}', `http://${host}/`],
      ])
      assert.equal(got, `2000000 ${TERMINAL_A[family]}`)
      const asked = await ask('ta', SERVER[family], 5005, 20)
      assert.equal(asked.got, asked.sent)
      assert.equal(asked.seen.replace('::ffff:', ''), TERMINAL_A[family])
      assert.match(await ping('ta', '-c', '2', SERVER[family]), / 0% packet loss/)
      assert.match(await ping('srv', '-c', '2', TERMINAL_A[family]), / 0% packet loss/)
    })

  test('issue 10 D9: a full queue on the way marks the outer packet, and the inner one comes out marked (RFC 6040)', async () => {
    const nft = (host: string, text: string) => sites.lab.programs.run(host, 'nft', [text])
    await nft(
      'net',
      'table inet full { chain forward { type filter hook forward priority 0; ip ecn ect0 ip ecn set ce; ip6 ecn ect0 ip6 ecn set ce; }; }',
    )
    await nft(
      'srv',
      'table inet seen { counter four { }; counter six { }; chain marks { ip ecn ce counter name four; ip6 ecn ce counter name six; }; chain input { type filter hook input priority 0; meta l4proto { icmp, ipv6-icmp } jump marks; }; }',
    )
    const seen = async (name: string) =>
      Number(/packets (\d+)/.exec(await nft('srv', `list counter inet seen ${name}`))![1])
    try {
      for (const [family, name] of [
        [4, 'four'],
        [6, 'six'],
      ] as const) {
        const to = SERVER[family]
        assert.match(await ping('ta', '-c', '2', '-i', '0.2', to), / 0% packet loss/)
        assert.equal(await seen(name), 0, 'who knows no marks gets none')
        assert.match(await ping('ta', '-Q', '2', '-c', '3', '-i', '0.2', to), / 0% packet loss/)
        assert.equal(await seen(name), 3, `IPv${family}`)
      }
    } finally {
      await nft('net', 'delete table inet full')
      await nft('srv', 'delete table inet seen')
    }
  })

  test('OH-7: errors of ICMP come through: time exceeded at the far gateway, port and host unreachable', async () => {
    assert.match(
      await ping('ta', '-c', '1', '-t', '1', SERVER[4]),
      /From 10\.1\.0\.1 .*Time to live exceeded/,
    )
    assert.match(
      await ping('ta', '-c', '1', '-t', '2', SERVER[4]),
      /From 10\.2\.0\.1 .*Time to live exceeded/,
    )
    assert.match(await ping('ta', '-6', '-c', '1', '-t', '2', SERVER[6]), /From fd00:2::1 .*Hop limit/)
    assert.match(await ping('ta', '-c', '1', '10.2.0.99'), /From 10\.2\.0\.1 .*Destination Host Unreachable/)
    const refused = `const s=require('dgram').createSocket('udp4');s.connect(9,'${SERVER[4]}',()=>{s.on('error',(e)=>{console.log(e.code);process.exit()});setInterval(()=>s.send('x'),100)})`
    const program = await sites.lab.programs.start('ta', process.execPath, node(refused))
    await program.expect((line) => line === 'ECONNREFUSED', 30_000)
  })
})

describe('moves', () => {
  test('OH-2, OH-3, OH-4: the address of the access in use changes in mid-transfer: every byte arrives, all of it encrypted in UDP', async () => {
    const nft = new Nft('gw-net')
    // While acc1 has no address, the kernel takes that of the LAN for a sealed datagram to home: no packet of a terminal.
    nft.run(`table inet ears {
      chain through {
        type filter hook forward priority 0;
        ip saddr 10.1.0.1 ip daddr ${HOME[4]} udp dport ${PORT} accept
        ip saddr 10.0.0.0/8 counter
        ip6 saddr fd00::/8 counter
        meta l4proto tcp counter
        meta l4proto udp counter
      }
    }`)
    try {
      const args = [
        '-s',
        '-o',
        '/dev/null',
        '--limit-rate',
        '700K',
        '--max-time',
        '60',
        '-w',
        '%{size_download}',
      ]
      const transfer = sites.lab.programs.run('ta', 'curl', [...args, `http://${SERVER[4]}/`])
      const rtnl = sites.lab.rtnl('ma')
      await sites.godwit('ma', 'move', 'all', 'acc1')
      for (const [old, next] of [
        ['192.168.11.2/24', '192.168.11.9/24'],
        ['192.168.11.9/24', '192.168.11.2/24'],
      ] as const) {
        rtnl.deleteAddress('acc1', old)
        rtnl.addAddress('acc1', next)
        rtnl.replaceRoute({ to: 'default', via: '192.168.11.1', dev: 'acc1', metric: 100 })
        await sites.untilPaths('ma', ['acc1', 'acc2'])
      }
      assert.equal(await transfer, '2000000')
      const [four, six, tcp, udp] = countersOf(nft)
      assert.deepEqual([four, six, tcp], [0, 0, 0])
      assert.ok(udp! > 100)
    } finally {
      nft.deleteTable({ family: 'inet', name: 'ears' })
    }
  })
})

describe('packets that are too large', () => {
  for (const [from, router, to] of [
    ['ta', 'ma', SERVER],
    ['srv', 'hg', TERMINAL_A],
  ] as const)
    test(`from ${from}: the gateway says how much fits, IPv4 and IPv6; without DF they arrive in pieces`, async () => {
      // Of 1,500 bytes IPv4, UDP and message 32 take 62. A path that went meanwhile begins with less.
      const mtu = 1438
      await sites.until('every path carries 1,500 bytes', async () => {
        const paths = (await sites.status(router)).peers.flatMap((peer) => peer.paths)
        return deviceMtu(router) === mtu && paths.every((path) => path.state === 'up' && path.mtu === 1500)
      })
      await forgetMtu(from)
      const four = await ping(from, '-c', '1', '-M', 'do', '-s', String(mtu - 28 + 1), to[4])
      assert.match(four, new RegExp(`Frag needed and DF set \\(mtu = ${mtu}\\)|mtu=${mtu}\\b`))
      const six = await ping(from, '-6', '-c', '1', '-M', 'do', '-s', String(mtu - 48 + 1), to[6])
      assert.match(six, new RegExp(`Packet too big: mtu=${mtu}\\b|mtu: ${mtu}\\b|mtu=${mtu}\\b`))
      assert.match(await ping(from, '-c', '1', '-M', 'do', '-s', String(mtu - 28), to[4]), / 0% packet loss/)
      assert.match(
        await ping(from, '-6', '-c', '1', '-M', 'do', '-s', String(mtu - 48), to[6]),
        / 0% packet loss/,
      )
      assert.match(await ping(from, '-c', '1', '-M', 'dont', '-s', '4000', to[4]), / 0% packet loss/)
    })

  test('all links go and come back: terminals are not told that less fits (ADR 0280)', async () => {
    const rtnl = sites.lab.rtnl('ma')
    const mtu = deviceMtu('ma')
    await forgetMtu('ta')
    const args = ['-n', '-i', '0.02', '-M', 'do', '-s', String(mtu - 28), SERVER[4]]
    const pings = await sites.lab.programs.start('ta', 'sh', ['-c', 'exec ping "$@" 2>&1', 'sh', ...args])
    const lines: string[] = []
    const reading = (async () => {
      for (let line = await pings.line(); line !== undefined; line = await pings.line()) lines.push(line)
    })()
    const accesses = [
      ['acc1', '192.168.11', 100],
      ['acc2', '192.168.12', 200],
    ] as const
    for (const [access] of accesses) rtnl.setLink(access, { up: false })
    await sites.untilPaths('ma', [])
    for (const [access, prefix, metric] of accesses) {
      rtnl.setLink(access, { up: true })
      rtnl.replaceRoute({ to: 'default', via: `${prefix}.1`, dev: access, metric })
    }
    await sites.untilPaths('ma', ['acc1', 'acc2'])
    const before = lines.length
    await sites.until('answers', () => lines.slice(before).some((line) => line.includes('bytes from')))
    pings.signal('SIGINT')
    await reading
    assert.doesNotMatch(lines.join('\n'), /mtu/i)
    assert.equal(deviceMtu('ma'), mtu)
  })

  test('TCP does without those errors: the segment size is lowered in passing, both ways', async () => {
    const hosts = ['ta', 'srv'] as const
    const drop = `table inet deaf {
      chain in {
        type filter hook input priority 0;
        icmp type destination-unreachable drop
        icmpv6 type packet-too-big drop
      }
    }`
    for (const host of hosts) {
      await forgetMtu(host)
      new Nft(`gw-${host}`).run(drop)
    }
    try {
      for (const host of [SERVER[4], `[${SERVER[6]}]`]) {
        const args = ['-s', '-g', '-o', '/dev/null', '--max-time', '60', '-w', '%{size_download}']
        assert.equal(await sites.lab.programs.run('ta', 'curl', [...args, `http://${host}/`]), '2000000')
      }
    } finally {
      for (const host of hosts) new Nft(`gw-${host}`).deleteTable({ family: 'inet', name: 'deaf' })
    }
  })
})

describe('sources', () => {
  test('OH-10, OH-40: a source that is not of the site ends at its own gateway when that knows the site, else at the far one', async () => {
    for (const [terminal, router, end, name] of [
      ['ta', 'ma', 'ma', 'foreign'],
      ['tb', 'mb', 'hg', 'spoofed'],
    ] as const) {
      const forged = { 4: '10.2.0.77', 6: 'fd00:99::7' }
      sites.lab.rtnl(terminal).addAddress('lo', `${forged[4]}/32`)
      sites.lab.rtnl(terminal).addAddress('lo', `${forged[6]}/128`)
      const before = await counter(end, name)
      const seen = await heard('srv', async () => {
        await ping(terminal, '-c', '2', '-W', '0.5', '-I', forged[4], SERVER[4])
        await ping(terminal, '-6', '-c', '2', '-W', '0.5', '-I', forged[6], SERVER[6])
        // What is allowed shows that the way is open.
        assert.match(await ping(terminal, '-c', '1', SERVER[4]), / 0% packet loss/)
      })
      assert.deepEqual(seen, { forged: 0, allowed: 1 }, `${router}: pings that arrived`)
      await sites.until('the counter', async () => (await counter(end, name)) >= before + 4)
    }
  })
})

/** What the rules of the table `ears` have counted, in their order. */
function countersOf(nft: Nft): number[] {
  return (nft.listTable({ family: 'inet', name: 'ears' }) ?? []).flatMap(({ rule }) =>
    ((rule?.expr ?? []) as { counter?: { packets: number } }[]).flatMap(
      ({ counter }) => counter?.packets ?? [],
    ),
  )
}

/** Echo requests that a host gets while `work` runs: from forged sources, and others over IPv4. */
async function heard(host: string, work: () => Promise<void>): Promise<{ forged: number; allowed: number }> {
  const nft = new Nft(`gw-${host}`)
  nft.run(`table inet ears {
    chain in {
      type filter hook input priority 0;
      ip saddr 10.2.0.77 icmp type echo-request counter
      ip6 saddr fd00:99::/64 icmpv6 type echo-request counter
      icmp type echo-request counter
    }
  }`)
  try {
    await work()
    const [four, six, all] = countersOf(nft) as [number, number, number]
    return { forged: four + six, allowed: all - four }
  } finally {
    nft.deleteTable({ family: 'inet', name: 'ears' })
  }
}

describe('several mobile routers at one gateway', () => {
  test('OH-9, OH-10: terminals of one site reach those of the other through home', async () => {
    for (const family of [4, 6] as const) {
      const said = await ping('ta', '-c', '2', TERMINAL_B[family])
      assert.match(said, / 0% packet loss/)
      assert.doesNotMatch(said, /Redirect/i)
      assert.match(await ping('tb', '-c', '2', TERMINAL_A[family]), / 0% packet loss/)
    }
    const echo = await serve('tb', ECHO, '5006')
    const { sent, got, seen } = await ask('ta', TERMINAL_B[4], 5006, 20)
    assert.deepEqual([got, seen.replace('::ffff:', '')], [sent, TERMINAL_A[4]])
    await echo.stop()
  })

  test('one router fails and comes back; the other site notices nothing', async () => {
    const flow = ask('ta', SERVER[4], 5005, 600)
    await sites.down('mb', 'SIGKILL')
    await sites.up('mb')
    const { sent, got } = await flow
    assert.equal(got, sent)
    await sites.untilPaths('mb', ['acc1', 'acc2'])
    await sites.until('the other site again', async () =>
      / 0% packet loss/.test(await ping('ta', '-c', '1', '-W', '1', TERMINAL_B[4])),
    )
  })
})

describe('classes and schedulers', () => {
  test('OH-12, OH-16, OH-16b, OH-19: a class that cannot wait is duplicated while the rest is spread, and that is changed while it flows', async () => {
    const copies = async () => [await counter('hg', 'duplicates'), await counter('ma', 'copied')] as const
    const none = await copies()
    await ask('ta', SERVER[4], 5005, 40)
    const bulk = await copies()
    assert.equal(bulk[1], none[1], 'the rest is sent once')
    const voice = await ask('ta', SERVER[4], 5004, 40)
    assert.equal(voice.got, voice.sent)
    await sites.until('both copies of each', async () => {
      const [duplicates, copied] = await copies()
      return copied >= bulk[1] + 40 && duplicates > bulk[0]
    })
    const { classes } = await sites.view('ma')
    const [first, rest] = [
      classes.find(({ name }) => name === 'voice')!,
      classes.find(({ name }) => name === 'rest')!,
    ]
    assert.deepEqual(
      [first.mode, [...first.carriers, ...first.copies].sort()],
      ['duplicate', ['acc1', 'acc2']],
    )
    assert.deepEqual([rest.mode, [...rest.carriers].sort(), rest.copies], ['weighted', ['acc1', 'acc2'], []])

    const flow = ask('ta', SERVER[4], 5004, 500)
    for (const mode of ['failover', 'budget', 'weighted', 'duplicate']) {
      assert.match(await sites.godwit('ma', 'router', 'scheduler', 'voice', mode), new RegExp(mode))
      await sites.until(`voice by ${mode}`, async () =>
        (await sites.view('ma')).classes.some((each) => each.name === 'voice' && each.mode === mode),
      )
    }
    const { sent, got } = await flow
    assert.equal(got, sent, 'nothing was lost by the changes')
    await assert.rejects(
      sites.godwit('ma', 'router', 'scheduler', 'voice', 'fastest'),
      /no scheduler fastest/,
    )
    await assert.rejects(sites.godwit('ma', 'router', 'scheduler', 'video', 'failover'), /no class video/)
  })
})

describe('what the operator sees', () => {
  test('OH-1, OH-39: status, paths, classes, move and why of a router', async () => {
    await sites.godwit('ma', 'router', 'scheduler', 'rest', 'failover')
    const { role, accesses, peers } = await sites.status('ma')
    assert.equal(role, 'router')
    assert.deepEqual(accesses.map(({ name }) => name).sort(), ['acc1', 'acc2'])
    assert.deepEqual(
      peers.map(({ name, kind, state }) => [name, kind, state]),
      [['home', 'router', 'up']],
    )
    assert.match(await sites.godwit('ma', 'status'), /ACCESS[\s\S]*acc1[\s\S]*home/)
    const paths = await sites.godwit('ma', 'paths')
    for (const access of ['acc1', 'acc2']) assert.match(paths, new RegExp(`home .* ${access} .* up `))
    assert.match(await sites.godwit('ma', 'router', 'classes'), /rest +home +failover +acc1/)
    await sites.godwit('ma', 'move', 'all', 'acc2')
    await sites.until('moved', async () =>
      (await sites.view('ma')).classes.some(
        (each) => each.name === 'rest' && each.carriers.join() === 'acc2',
      ),
    )
    assert.match(await ping('ta', '-c', '1', SERVER[4]), / 0% packet loss/)
    const why = await sites.godwit('ma', 'why', 'rest.home')
    assert.match(why, /now:[\s\S]*acc2/)
    assert.match(why, /on record:[\s\S]*moved by hand/)
    await assert.rejects(sites.godwit('ma', 'move', 'all', 'acc9'), /there is no access acc9/)
  })

  test('OH-22: that no link was usable is noticed at once, said, and said again when it is over', async () => {
    const before = await counter('ma', 'without_path')
    // A silent link is found by traffic that is not answered.
    const flow = await sites.lab.programs.start('ta', process.execPath, node(ASK, SERVER[4], '5005', '20000'))
    for (const link of ['ma-acc1', 'ma-acc2']) sites.lab.setLink(link, { state: 'blackhole' })
    // Suspect paths still carry, as long as there is nothing better.
    await sites.untilPaths('ma', [])
    await sites.until('it is counted', async () => (await counter('ma', 'without_path')) > before)
    assert.equal(await counter('ma', 'without_path'), before + 1)
    assert.match(
      await sites.godwit('ma', 'why', 'rest.home'),
      /nothing usable to home: .*acc1 is down.*acc2 is down|nothing usable to home: .*acc2 is down.*acc1 is down/,
    )
    for (const link of ['ma-acc1', 'ma-acc2']) sites.lab.setLink(link, { state: 'up' })
    await sites.untilPaths('ma', ['acc1', 'acc2'])
    await flow.stop()
    assert.match(
      await sites.godwit('ma', 'why', 'rest.home'),
      /home is reached again, after \d+ ms without a usable path/,
    )
    assert.match(await ping('ta', '-c', '1', SERVER[4]), / 0% packet loss/)
  })

  test('`router up` that was killed leaves nothing that `router down` does not remove', async () => {
    await sites.down('mb', 'SIGKILL')
    assert.ok(sites.lab.rtnl('mb').link(DEVICE) !== undefined, 'traffic waits for its restart')
    assert.match(await sites.godwit('mb', 'router', 'down'), /removed everything of godwit router/)
    assert.equal(sites.lab.rtnl('mb').link(DEVICE), undefined)
    assert.deepEqual(
      sites.lab
        .rtnl('mb')
        .rules()
        .filter(({ origin }) => origin === PROTOCOL),
      [],
    )
  })
})
