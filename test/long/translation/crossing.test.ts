/** A handover between IPv4 and IPv6: connections of one family over an access that has only the other (Table III). */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, NO_PROGRAMS, until } from '../../netns/translation/bed.ts'
import { lines } from '../../netns/translation/flows.ts'

usesPrograms('curl')

const ECHO = fileURLToPath(new URL('../../netns/translation/udp-echo.js', import.meta.url))
const skip = NO_PROGRAMS === undefined ? false : `no eBPF programs on devices: ${NO_PROGRAMS}`

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

/** Takes one family's address and default route from an access of m, or gives them back. */
function family(n: 1 | 2, which: 4 | 6, up: boolean): void {
  const { m } = bed.rtnl
  const address = which === 4 ? `10.${n}.0.2/24` : `fd00:${n}::2/64`
  const route = {
    to: which === 4 ? 'default' : 'default6',
    via: which === 4 ? `10.${n}.0.1` : `fd00:${n}::1`,
    dev: `acc${n}`,
    metric: 50 + n,
  }
  if (up) {
    m.addAddress(`acc${n}`, address, which === 6 ? { noDad: true } : {})
    m.replaceRoute(route)
  } else {
    m.deleteAddress(`acc${n}`, address)
    m.deleteRoute(route)
  }
}

const on = (wire: string, local: string): Promise<void> =>
  until(
    `both ends use ${local} and ${wire}`,
    async () => {
      const m = await bed.sockets('m')
      const c = await bed.sockets('c')
      return (
        m.length > 0 &&
        c.length > 0 &&
        m.every((s) => s.wire_local === local && s.wire === wire) &&
        c.every((s) => s.wire_local === wire && s.wire === local)
      )
    },
    60,
  )

const active = (name: 'm' | 'c', address: string): Promise<void> =>
  until(
    `${name} knows a way to ${address}`,
    async () => (await bed.hosts(name)).some((h) => h.active.includes(address)),
    60,
  )

const V4 = { which: 4, first: '10.1.0.2', second: '10.2.0.2', server: '10.3.0.2' } as const
const V6 = { which: 6, first: 'fd00:1::2', second: 'fd00:2::2', server: 'fd00:3::2' } as const

/** Sends its file slowly, until it is told to hurry. */
const SLOW_SERVER = `
  const http = require('node:http'), content = Buffer.alloc(64 << 20, 'godwit ')
  let hurry = false
  process.stdin.on('data', () => { hurry = true })
  http.createServer((_, out) => {
    out.on('error', () => {})
    let at = 0
    const next = () => {
      if (at >= content.length) return out.end()
      const piece = content.subarray(at, (at += 1 << 16))
      const full = !out.write(piece)
      if (!hurry) setTimeout(next, 100)
      else if (full) out.once('drain', next)
      else setImmediate(next)
    }
    next()
  }).listen(80, '::', () => console.log('ready'))`

for (const [from, to] of [
  [V4, V6],
  [V6, V4],
] as const)
  test(`DI-6, D10: a download over IPv${from.which} goes on over accesses with IPv${to.which} alone, and comes back`, {
    skip,
  }, async () => {
    const http = bed.spawn('c', process.execPath, ['-e', SLOW_SERVER], 'pipe')
    await lines(http).wait('ready')
    await bed.daemon('c')
    await bed.daemon('m')
    const target = join(bed.folder, 'copy')
    const host = from.which === 6 ? `[${from.server}]` : from.server
    const curl = bed.spawn('m', 'curl', ['-s', '-g', '-N', '-o', target, `http://${host}/`])
    const done = once(curl, 'exit')
    const size = (): number => (existsSync(target) ? statSync(target).size : 0)
    const goesOn = async (): Promise<void> => {
      const before = size()
      await until('the download goes on', () => size() > before + (1 << 18), 60)
    }
    await bed.greeted()
    await active('c', to.first)
    await active('m', to.server)
    assert.equal(bed.programs('m') + bed.programs('c'), 0, 'nothing has moved')

    family(1, from.which, false)
    await on(to.server, to.first)
    await goesOn()
    assert.ok(bed.programs('m') > 0 && bed.programs('c') > 0)
    family(2, to.which, true)
    await active('c', to.second)
    family(1, to.which, false)
    await on(to.server, to.second)
    await goesOn()
    family(1, from.which, true)
    await on(from.server, from.first)
    await goesOn()
    assert.equal(curl.exitCode, null, 'it was not over by then')
    http.stdin!.write('hurry\n')
    assert.deepEqual((await done)[0], 0)
    assert.ok(readFileSync(target).equals(Buffer.alloc(64 << 20, 'godwit ')))

    family(2, to.which, false)
    family(1, to.which, true)
    await bed.end('m')
    await bed.end('c')
    assert.equal(bed.kernelState('m'), bed.before.m)
    assert.equal(bed.kernelState('c'), bed.before.c)
    assert.equal(bed.programs('m') + bed.programs('c'), 0)
  })

test('a daemon that is killed while flows are on the other family takes them up again', {
  skip,
}, async () => {
  const http = bed.spawn('c', process.execPath, ['-e', SLOW_SERVER], 'pipe')
  await lines(http).wait('ready')
  await bed.daemon('c')
  await bed.daemon('m')
  const target = join(bed.folder, 'copy')
  const curl = bed.spawn('m', 'curl', ['-s', '-N', '-o', target, `http://${V4.server}/`])
  const done = once(curl, 'exit')
  await bed.greeted()
  await active('c', V6.first)
  await active('m', V6.server)
  family(1, 4, false)
  await on(V6.server, V6.first)
  await bed.end('m', 'SIGKILL')
  await bed.daemon('m')
  await on(V6.server, V6.first)
  http.stdin!.write('hurry\n')
  assert.deepEqual((await done)[0], 0)
  assert.ok(readFileSync(target).equals(Buffer.alloc(64 << 20, 'godwit ')))
})

test('DI-6, D10: UDP on unconnected sockets goes on over the other family; both ends see the address of before', {
  skip,
}, async () => {
  const server = bed.spawn('c', process.execPath, [ECHO, 'server', '5005'], 'pipe')
  const serverOut = lines(server)
  await serverOut.wait('ready')
  await bed.daemon('c')
  await bed.daemon('m')
  const client = bed.spawn('m', process.execPath, [ECHO, 'client', '5005', '10.3.0.2'], 'pipe')
  const clientOut = lines(client)
  await bed.greeted()
  await active('c', V6.first)
  await active('m', V6.server)
  family(1, 4, false)
  await on(V6.server, V6.first)
  const received = (): number =>
    Number(/^Udp: (\d+)/m.exec(bed.run('c', 'cat', '/proc/net/snmp').replace(/^Udp: \D.*$/m, ''))?.[1])
  const before = received()
  await until('datagrams arrive', () => received() > before + 100, 60)
  client.stdin!.write('report\n')
  server.stdin!.write('report\n')
  const atClient = JSON.parse(await clientOut.wait('sources')) as { sources: string[] }
  const atServer = JSON.parse(await serverOut.wait('sources')) as { sources: string[] }
  assert.equal(atServer.sources.length, 1, atServer.sources.join())
  assert.ok(atServer.sources[0]!.startsWith(V4.first))
  assert.deepEqual(atClient.sources, ['10.3.0.2:5005'])
})

test('DI-25, Table III: link-local addresses: flows of both families go on between hosts of one link that have nothing else', {
  skip,
}, async () => {
  linkBoth()
  const local = async (name: 'm' | 'c', link: string): Promise<string> => {
    let found: string | undefined
    await until(`${name} has an address of the link`, () => {
      const all = bed.rtnl[name].addresses({ link })
      found = all.find((a) => a.family === 6 && !a.tentative)?.address
      return found !== undefined
    })
    return found!
  }
  const [here, there] = [await local('m', 'here'), await local('c', 'there')]
  const http = bed.spawn('c', process.execPath, ['-e', SLOW_SERVER], 'pipe')
  await lines(http).wait('ready')
  for (const name of ['m', 'c'] as const) await bed.daemon(name, 'dime', 'up', '--config', everything(name))
  const downloads = [V4.server, `[${V6.server}]`].map((host, i) => {
    const target = join(bed.folder, `copy${i}`)
    const curl = bed.spawn('m', 'curl', ['-s', '-g', '-N', '-o', target, `http://${host}/`])
    return { target, done: once(curl, 'exit') }
  })
  await bed.greeted()
  for (const name of ['m', 'c'] as const)
    await until(
      `${name} knows that both connections are with one host`,
      async () => {
        const hosts = await bed.hosts(name)
        return hosts.length === 1 && hosts[0]!.flows === 2 && hosts[0]!.state === 'peer'
      },
      60,
    )
  await active('c', here)
  await active('m', there)
  bed.down(1)
  await on(there, here)
  http.stdin!.write('hurry\n')
  for (const { target, done } of downloads) {
    assert.deepEqual((await done)[0], 0)
    assert.ok(readFileSync(target).equals(Buffer.alloc(64 << 20, 'godwit ')))
  }
})

test('DI-25, Table III: link-local addresses of IPv4', async () => {
  linkBoth()
  bed.rtnl.m.addAddress('here', '169.254.7.2/16')
  bed.rtnl.c.addAddress('there', '169.254.9.3/16')
  const http = bed.spawn('c', process.execPath, ['-e', SLOW_SERVER], 'pipe')
  await lines(http).wait('ready')
  for (const name of ['m', 'c'] as const) await bed.daemon(name)
  const target = join(bed.folder, 'copy')
  const curl = bed.spawn('m', 'curl', ['-s', '-N', '-o', target, `http://${V4.server}/`])
  const done = once(curl, 'exit')
  await bed.greeted()
  await active('c', '169.254.7.2')
  await active('m', '169.254.9.3')
  bed.down(1)
  await on('169.254.9.3', '169.254.7.2')
  http.stdin!.write('hurry\n')
  assert.deepEqual((await done)[0], 0)
  assert.ok(readFileSync(target).equals(Buffer.alloc(64 << 20, 'godwit ')))
})

/** A link between the two hosts without anything in between: `here` and `there`. */
function linkBoth(): void {
  bed.rtnl.m.createLink({
    kind: 'veth',
    name: 'here',
    index: 120,
    peer: { name: 'there', index: 220, netns: bed.netns('c') },
  })
  bed.rtnl.m.setLink('here', { up: true })
  bed.rtnl.c.setLink('there', { up: true })
}

/** A configuration that tells others all addresses. */
function everything(name: 'm' | 'c'): string {
  const path = join(bed.folder, `${name}.toml`)
  writeFileSync(path, '[log]\nlevel = "debug"\n\n[dime]\nadvertise = "all"\n')
  return path
}
