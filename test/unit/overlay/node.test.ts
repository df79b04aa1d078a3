/** Parts of a node: its window of counters, its forwarder, what it makes in the kernel, and how names reach programs. */
import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { decode, encode } from 'dns-packet'
import { parseAddress } from '../../../src/core/address.ts'
import { conversation } from '../../../src/host/provisioning/overlay.ts'
import { FakeSysctls } from '../../../src/linux/fakes.ts'
import { Ledger } from '../../../src/linux/ledger.ts'
import { FakeNetwork, FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'
import { CounterWindow } from '../../../src/overlay/machine/counters.ts'
import { OverlayForwarder } from '../../../src/overlay/node/forwarder.ts'
import { LocalDns } from '../../../src/overlay/node/local-dns.ts'
import { NodePlumbing } from '../../../src/overlay/node/plumbing.ts'
import { ResolvConf } from '../../../src/overlay/node/resolv-conf.ts'
import { Verdict } from '../../../src/tunnel/seam.ts'
import { errorAbout } from '../../support/icmp-errors.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-node-'))
after(() => rmSync(folder, { recursive: true, force: true }))

function address(text: string): Uint8Array {
  const parsed = parseAddress(text)
  assert.ok(parsed.ok)
  return parsed.value
}

test('a counter is taken once, in any order, within a window of 64', () => {
  const window = new CounterWindow()
  assert.deepEqual(
    [5, 5, 3, 3, 68, 5, 4, 70, 6, 7, 69].map((n) => window.take(n)),
    [...[true, false, true, false, true, false, false, true, false, true, true]],
  )
})

/** An IPv4 packet without a payload. */
function packet(from: string, to: string): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(28)
  bytes.set([0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17])
  bytes.set(address(from), 12)
  bytes.set(address(to), 16)
  return { bytes, view: new DataView(bytes.buffer) }
}

test('the forwarder sends own packets to the peer with the address, and takes from a peer only what is its own and for us', () => {
  const forwarder = new OverlayForwarder()
  const v6 = address('fd00::2')
  forwarder.setOwn([address('100.64.0.1')])
  forwarder.addPeer(7, { name: 'b.test.example', v6, v4: address('100.64.0.2') })
  const out = (from: string, to: string) => {
    const { bytes, view } = packet(from, to)
    return forwarder.outbound(bytes, view, 0, 28, false, 1)
  }
  assert.equal(out('100.64.0.1', '100.64.0.2'), Verdict.PARK)
  forwarder.setSlot(7, 3)
  assert.equal(out('100.64.0.1', '100.64.0.2'), 3)
  assert.equal(out('192.168.1.1', '100.64.0.2'), Verdict.DROP)
  assert.equal(out('100.64.0.1', '100.64.0.9'), Verdict.DROP)
  const into = (from: string, to: string, peer: number) => {
    const { bytes, view } = packet(from, to)
    return forwarder.inbound(bytes, view, 0, 28, false, peer)
  }
  assert.equal(into('100.64.0.2', '100.64.0.1', 7), true)
  assert.equal(into('100.64.0.2', '100.64.0.1', 8), false, 'of another peer')
  assert.equal(into('100.64.0.3', '100.64.0.1', 7), false, 'not its address')
  assert.equal(into('100.64.0.2', '192.168.1.1', 7), false, 'not for us')
  const told = (to: string) => {
    const error = errorAbout(packet('100.64.0.1', to).bytes, address('100.64.0.2'))
    return forwarder.inbound(error, new DataView(error.buffer), 0, error.length, false, 7)
  }
  assert.equal(told('100.64.0.2'), true)
  for (const to of ['100.64.0.3', '192.0.2.1'])
    assert.equal(told(to), false, 'an error about packets to others')
})

test('a packet for a peer of an earlier run waits and asks for it; refused, it is dropped for a while', () => {
  const forwarder = new OverlayForwarder()
  forwarder.setOwn([address('100.64.0.1')])
  forwarder.addDormant({ name: 'b.test.example', v6: address('fd00::2'), v4: address('100.64.0.2') })
  const { bytes, view } = packet('100.64.0.1', '100.64.0.2')
  const out = (now: number) => forwarder.outbound(bytes, view, 0, 28, false, now)
  assert.equal(out(1), Verdict.PARK)
  assert.deepEqual([...forwarder.wanted], ['b.test.example'])
  forwarder.refuse('b.test.example', 100)
  assert.equal(out(99), Verdict.DROP)
  assert.equal(out(100), Verdict.PARK)
})

test('routes to peers are whole addresses in a table of their own; what was there before stays, and nothing is left', () => {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'node')
  for (const name of ['gwov0', 'wlan0']) rtnl.createLink({ kind: 'dummy', name, up: name !== 'gwov0' })
  rtnl.addAddress('wlan0', '100.64.7.7/10')
  rtnl.addRoute({ to: 'default', via: '100.64.0.254', dev: 'wlan0' })
  // The kernel's own route of an address is not ours.
  const others = () => rtnl.routes({ table: 254 }).filter(({ dev }) => dev !== 'gwov0')
  const main = others()
  const rules = rtnl.rules()
  const plumbing = new NodePlumbing(rtnl, new FakeSysctls(), { device: 'gwov0', ledger: new Ledger() })
  plumbing.apply(1400)
  plumbing.setOwn([address('fd00::1'), address('100.64.0.1')])
  plumbing.setPeers([address('fd00::2'), address('100.64.0.2')])
  assert.deepEqual(rtnl.lookup({ to: '100.64.0.2' })?.dev, 'gwov0')
  assert.deepEqual(rtnl.lookup({ to: '100.64.0.2' })?.source, '100.64.0.1')
  assert.deepEqual(rtnl.lookup({ to: '100.64.0.3' })?.dev, 'wlan0')
  assert.deepEqual(others(), main)
  const [route] = rtnl.routes({ table: new Ledger().overlay.table })
  rtnl.deleteRoute(route!)
  assert.equal(plumbing.restore().length, 1)
  plumbing.cleanUp()
  assert.deepEqual(rtnl.rules(), rules)
  assert.deepEqual(others(), main)
  assert.equal(rtnl.routes({ table: new Ledger().overlay.table }).length, 0)
})

test('beside a VPN whose firewall drops 100.64.0.0/10, and a router that has a peer’s address, IPv4 is not used', () => {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'node')
  for (const name of ['gwov0', 'wlan0']) rtnl.createLink({ kind: 'dummy', name, up: name !== 'gwov0' })
  rtnl.addAddress('wlan0', '100.64.7.7/10')
  rtnl.addRoute({ to: 'default', via: '100.64.0.2', dev: 'wlan0' })
  const plumbing = new NodePlumbing(rtnl, new FakeSysctls(), { device: 'gwov0', ledger: new Ledger() })
  plumbing.apply(1400)
  plumbing.setOwn([address('fd00::1'), address('100.64.0.1')])
  plumbing.setPeers(['fd00::2', '100.64.0.2', '100.64.0.3'].map(address))
  const routes = () => rtnl.routes({ table: new Ledger().overlay.table }).map(({ to }) => to)
  assert.deepEqual(
    routes().sort(),
    ['100.64.0.3', 'fd00::2'].map((to) => `${to}/${to.includes(':') ? 128 : 32}`),
  )
  assert.match(plumbing.conflict(address('100.64.0.2'))!, /the router of this network/)
  rtnl.createLink({ kind: 'tun' as never, name: 'tailscale0', up: true })
  rtnl.addAddress('tailscale0', '100.82.80.46/32')
  plumbing.restore()
  assert.deepEqual(routes(), ['fd00::2/128'])
  assert.match(plumbing.conflict(address('100.64.0.1'))!, /tailscale0/)
  assert.deepEqual(
    rtnl.addresses({ link: 'gwov0' }).map((each) => each.address),
    ['fd00::1'],
  )
  rtnl.deleteLink('tailscale0')
  plumbing.restore()
  assert.equal(routes().length, 2)
})

test('where IPv6 is turned off, peers are reached at their IPv4 addresses', () => {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'node')
  rtnl.createLink({ kind: 'dummy', name: 'gwov0' })
  const sysctls = new FakeSysctls([['net/ipv6/conf/gwov0/disable_ipv6', '1']])
  const plumbing = new NodePlumbing(rtnl, sysctls, { device: 'gwov0', ledger: new Ledger() })
  const addresses = () => rtnl.addresses({ link: 'gwov0' }).map((each) => each.address)
  plumbing.apply(1400)
  plumbing.setOwn([address('fd00::1'), address('100.64.0.1')])
  plumbing.setPeers(['fd00::2', '100.64.0.2'].map(address))
  assert.deepEqual(addresses(), ['100.64.0.1'])
  assert.deepEqual(
    rtnl.routes({ table: new Ledger().overlay.table }).map(({ to }) => to),
    ['100.64.0.2/32'],
  )
  assert.match(plumbing.conflict(address('fd00::1'))!, /IPv6 is turned off/)
  sysctls.set('net/ipv6/conf/gwov0/disable_ipv6', '0')
  plumbing.restore()
  assert.deepEqual(addresses().sort(), ['100.64.0.1', 'fd00::1'])
})

test('resolv.conf: our line comes first and goes again; others keep theirs, whoever wrote the file meanwhile', () => {
  const path = join(folder, 'resolv.conf')
  const before = '# by hand\nsearch lan\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n'
  writeFileSync(path, before)
  const file = new ResolvConf('godwit main', path)
  assert.equal(file.set('fd00::1'), true)
  assert.equal(file.set('fd00::1'), false)
  assert.match(readFileSync(path, 'utf8'), /^# godwit main.*\nnameserver fd00::1\n# by hand\n/)
  assert.deepEqual(file.others(), ['192.0.2.1', '192.0.2.2'])
  writeFileSync(path, 'nameserver 192.0.2.3\n')
  assert.equal(file.set('fd00::1'), true)
  new ResolvConf('godwit main', path).giveBack()
  assert.equal(readFileSync(path, 'utf8'), 'nameserver 192.0.2.3\n')
  file.giveBack()
  assert.equal(readFileSync(path, 'utf8'), 'nameserver 192.0.2.3\n')
})

test('resolv.conf: daemons on one machine stand one below the other, also with one name, and ask only those below them', () => {
  const path = join(folder, 'resolv.conf')
  writeFileSync(path, 'nameserver 192.0.2.1\n')
  const first = new ResolvConf('godwit main', path)
  const second = new ResolvConf('godwit main', path)
  assert.equal(first.set('fd00::1'), true)
  assert.equal(second.set('fd00::2'), true)
  for (const [file, server] of [
    [first, 'fd00::1'],
    [second, 'fd00::2'],
  ] as const) {
    assert.equal(file.lacks(server), false)
    assert.equal(file.set(server), false)
  }
  assert.deepEqual(second.others(), ['fd00::1', '192.0.2.1'])
  assert.deepEqual(first.others(), ['192.0.2.1'])
  // Another server of its own takes the place of the one before.
  assert.equal(second.set('fd00::3'), true)
  assert.doesNotMatch(readFileSync(path, 'utf8'), /fd00::2/)
  // What it was goes with the one that stops; the other adds its line again.
  second.giveBack()
  assert.equal(readFileSync(path, 'utf8'), 'nameserver 192.0.2.1\n')
  assert.equal(first.lacks('fd00::1'), true)
})

test('resolv.conf: no reader finds it empty while godwit writes it', async () => {
  const path = join(folder, 'read.conf')
  writeFileSync(path, 'nameserver 192.0.2.1\n')
  /** Whether to stop, how often it was read, how often it was empty. */
  const state = new Int32Array(new SharedArrayBuffer(12))
  const program = `const { readFileSync } = require('node:fs')
    const { path, state } = require('node:worker_threads').workerData
    while (Atomics.load(state, 0) === 0) {
      if (readFileSync(path).length === 0) Atomics.add(state, 2, 1)
      Atomics.add(state, 1, 1)
    }`
  const reader = new Worker(program, { eval: true, workerData: { path, state } })
  const file = new ResolvConf('godwit main', path)
  while (Atomics.load(state, 1) === 0) await delay(5)
  for (const end = Atomics.load(state, 1) + 3_000; Atomics.load(state, 1) < end; ) {
    file.set('fd00::1')
    file.giveBack()
  }
  Atomics.store(state, 0, 1)
  await reader.terminate()
  assert.equal(Atomics.load(state, 2), 0, `of ${Atomics.load(state, 1)}`)
})

const PORT = 45_353

async function ask(name: string, type: 'A' | 'AAAA' | 'MX', over: 'udp' | 'tcp' = 'udp') {
  const bytes = encode({ type: 'query', id: 77, flags: 256, questions: [{ type: type as 'A', name }] })
  if (over === 'tcp') {
    const stream = createConnection(PORT, '127.0.0.2')
    stream.write(Buffer.concat([Buffer.from([0, bytes.length]), bytes]))
    const parts: Buffer[] = []
    for await (const part of stream) {
      parts.push(part as Buffer)
      const all = Buffer.concat(parts)
      if (all.length >= 2 && all.length >= 2 + all.readUInt16BE(0)) {
        stream.destroy()
        return decode(all.subarray(2))
      }
    }
    assert.fail('no answer')
  }
  const socket = createSocket('udp4')
  const answer = new Promise<Buffer>((resolve) => socket.once('message', resolve))
  socket.send(bytes, PORT, '127.0.0.2')
  const got = decode(await answer)
  socket.close()
  return got
}

test('names of the overlay are answered here, all others as the servers of before answer them', async () => {
  const upstream = createSocket('udp4')
  await new Promise<void>((resolve) => upstream.bind(PORT, '127.0.0.3', resolve))
  const forwarded: string[] = []
  upstream.on('message', (bytes, from) => {
    const { id, questions } = decode(bytes)
    forwarded.push(questions![0]!.name)
    const answers = [{ type: 'A' as const, name: questions![0]!.name, data: '192.0.2.80' }]
    upstream.send(
      encode({ type: 'response', id: id!, questions: questions!, answers }),
      from.port,
      from.address,
    )
  })
  const reports: string[] = []
  const dns = new LocalDns({
    port: PORT,
    covers: (name) => name.endsWith('.test.example'),
    lookup: async (name) => {
      if (name === 'broken.test.example') throw new Error('not registered')
      return name === 'bob.test.example'
        ? { name, v6: address('fd00::2'), v4: address('100.64.0.2') }
        : undefined
    },
    upstream: () => ['127.0.0.3'],
    report: (message) => reports.push(message),
  })
  await dns.listen(['127.0.0.2'])
  try {
    const data = async (...question: Parameters<typeof ask>) => {
      const { answers, flags } = await ask(...question)
      return [(flags ?? 0) & 15, ...(answers ?? []).map((each) => ('data' in each ? each.data : ''))]
    }
    assert.deepEqual(await data('BOB.test.example', 'AAAA'), [0, 'fd00::2'])
    assert.deepEqual(await data('bob.test.example', 'A', 'tcp'), [0, '100.64.0.2'])
    assert.deepEqual(await data('bob.test.example', 'MX'), [0])
    assert.deepEqual(await data('nobody.test.example', 'A'), [3])
    assert.deepEqual(await data('broken.test.example', 'A'), [2])
    assert.deepEqual(await data('www.example.org', 'A'), [0, '192.0.2.80'])
    assert.deepEqual(forwarded, ['www.example.org'])
    const socket = createSocket('udp4')
    for (const bytes of [new Uint8Array(0), new Uint8Array(12), new Uint8Array(600).fill(255)])
      socket.send(bytes, PORT, '127.0.0.2')
    assert.deepEqual(await data('bob.test.example', 'A'), [0, '100.64.0.2'])
    // Thousands of questions, which reading would find damaged at the end, or one and more bytes than a query has.
    const one = encode({ type: 'query', id: 7, questions: [{ type: 'A', name: 'bob.test.example' }] })
    const many = Buffer.concat([
      one,
      ...Array<Buffer>(5000).fill(Buffer.from([0xc0, 12, 0, 1, 0, 1])),
      Buffer.of(0xc0),
    ])
    many.writeUInt16BE(5002, 4)
    for (const bytes of [many, Buffer.concat([one, Buffer.alloc(5000)])]) {
      socket.send(bytes, PORT, '127.0.0.2')
      const [answer] = (await once(socket, 'message')) as [Buffer]
      assert.deepEqual([answer.length, answer.readUInt16BE(0), answer[3]! & 15], [12, 7, 1])
    }
    socket.close()
    assert.deepEqual(reports, [])
  } finally {
    dns.stop()
    upstream.close()
  }
})

test('a name server that refuses is not the last word, the same question does not go round, and two answers are one', async () => {
  const servers = ['127.0.0.3', '127.0.0.4'].map(() => createSocket('udp4'))
  await Promise.all(
    servers.map((socket, i) => new Promise<void>((done) => socket.bind(PORT, `127.0.0.${3 + i}`, done))),
  )
  const dns = new LocalDns({
    port: PORT,
    covers: () => false,
    lookup: async () => undefined,
    upstream: () => ['127.0.0.3', '127.0.0.4'],
    report: (message) => assert.fail(message),
  })
  await dns.listen(['127.0.0.2'])
  let circles = 0
  servers[0]!.on('message', (bytes, from) => {
    const { id, questions } = decode(bytes)
    const [question] = questions!
    if (question!.name === 'circle.example') {
      // A forwarder whose only server is the one that asked.
      circles++
      const again = createSocket('udp4')
      again.on('message', (answer) => {
        servers[0]!.send(answer, from.port, from.address)
        again.close()
      })
      again.send(bytes, PORT, '127.0.0.2')
      return
    }
    servers[0]!.send(
      encode({ type: 'response', id: id!, flags: 5, questions: questions! }),
      from.port,
      from.address,
    )
  })
  servers[1]!.on('message', (bytes, from) => {
    const { id, questions } = decode(bytes)
    const answers = [{ type: 'A' as const, name: questions![0]!.name, data: '192.0.2.81' }]
    const answer = encode({ type: 'response', id: id!, questions: questions!, answers })
    for (let i = 0; i < 3; i++) servers[1]!.send(answer, from.port, from.address)
  })
  try {
    const data = async (name: string) =>
      (await ask(name, 'A')).answers?.map((each) => ('data' in each ? each.data : ''))
    assert.deepEqual(await data('www.example.org'), ['192.0.2.81'])
    assert.deepEqual(await data('circle.example'), ['192.0.2.81'])
    assert.ok(circles <= 64, `${circles}`)
  } finally {
    dns.stop()
    for (const socket of servers) socket.close()
  }
})

test('trace is a sequence diagram: a column for each, an arrow for each step', () => {
  const step = (at: number, from: string, to: string, what: string) => ({ at, wall: 0, from, to, what })
  const lines = conversation([
    step(10, 'a', 'dc', 'REGISTRATION_REQUEST'),
    step(21.5, 'dc', 'a', 'REGISTRATION_RESPONSE'),
    step(30, 'a', 'b', 'TUNNEL_REQUEST'),
  ])
  assert.match(lines[0]!, /^ {14}a {29}dc {28}b$/)
  assert.match(lines[1]!, /^\+0\.0 ms {7}├─ REGISTRATION_REQUEST ─+>│ +│$/)
  assert.match(lines[2]!, /^\+11\.5 ms {6}│<─ REGISTRATION_RESPONSE ─+┤ +│$/)
  assert.match(lines[3]!, /^\+20\.0 ms {6}├─ TUNNEL_REQUEST ─+>│$/)
  assert.equal(new Set(lines.slice(1).map(({ length }) => length)).size, 1)
})

test('resolv.conf: what a link to a missing file leads to is not made; a file that was not there is not left', () => {
  const path = join(folder, 'linked.conf')
  symlinkSync('run/stub.conf', path)
  const file = new ResolvConf('godwit main', path)
  assert.throws(
    () => file.set('fd00::1'),
    /linked\.conf is a link to run\/stub\.conf, which does not exist: start .*, or remove/,
  )
  assert.deepEqual(file.others(), [])
  file.giveBack()
  assert.equal(existsSync(join(folder, 'run')), false)
  mkdirSync(join(folder, 'run'))
  writeFileSync(join(folder, 'run', 'stub.conf'), '')
  file.set('fd00::1')
  file.giveBack()
  assert.equal(readFileSync(path, 'utf8'), '', 'it belongs to the program that has made the link')
  const none = new ResolvConf('godwit main', join(folder, 'none.conf'))
  none.set('fd00::1')
  none.giveBack()
  assert.equal(existsSync(none.path), false)
})
