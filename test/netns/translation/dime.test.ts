/** DIME between real hosts: kernel TCP and UDP, unmodified programs, addresses that come and go. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, NO_PROGRAMS, pause, until } from './bed.ts'
import { echoed, lines, startSession } from './flows.ts'

usesPrograms('curl', 'nft')

const PROGRAMS = new URL('../../../lab/programs/', import.meta.url)
const program = (name: string): string => fileURLToPath(new URL(name, PROGRAMS))
const ECHO = fileURLToPath(new URL('./udp-echo.js', import.meta.url))

const LIBC = new URL('../../../src/linux/libc.js', import.meta.url).href
const ASKS_FOR_ERRORS = `
  import(process.argv[1]).then(({ declare }) => {
    const option = declare('int setsockopt(int fd, int level, int name, void *value, unsigned int size)')
    const u = require('node:dgram').createSocket('udp4')
    u.on('error', (e) => console.log(e.code))
    u.bind(0, () => {
      option(u._handle.fd, 0, 11, Buffer.from([1, 0, 0, 0]), 4)
      setInterval(() => u.send('x', 5009, '10.3.0.2', () => {}), 50)
      console.log('ready')
    })
  })`

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

const session = (to: string) => startSession(bed, to)

test('DI-1, DI-2, DI-5, DI-28, DI-33: a connection older than the daemons survives a soft handoff', async () => {
  const finish = await session('10.3.0.2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  assert.equal(bed.run('m', 'nft', 'list', 'tables').includes('translat'), false)
  const chains = bed.run('m', 'nft', 'list', 'chains')
  assert.ok(!/chain (out|in) /.test(chains), 'nothing has moved: no rule rewrites')
  bed.up(2, false)
  await until('c has both addresses', async () =>
    (await bed.hosts('c')).some((h) => h.active.includes('10.2.0.2') && h.active.includes('10.1.0.2')),
  )
  await until('m has a way over acc2', async () => (await bed.ways('m')).includes('10.2.0.2 10.3.0.2'))
  bed.down(1)
  await until('c sends to acc2', async () =>
    (await bed.sockets('c')).some((s) => s.bound.startsWith('10.1.0.2:') && s.wire === '10.2.0.2'),
  )
  echoed(await finish())
  await bed.end('m')
  await bed.end('c')
  assert.equal(bed.kernelState('c'), bed.before.c, 'nothing is left')
})

test('DI-35, DI-36, E-4: hard handoff under a download: every byte arrives, and the kernel is as before', async () => {
  const bytes = Buffer.alloc(64 << 20, 'godwit ')
  const file = join(bed.folder, 'file')
  writeFileSync(file, bytes)
  const server = bed.spawn(
    'c',
    process.execPath,
    [program('http-server.js'), JSON.stringify({ root: bed.folder, port: 80 })],
    'pipe',
  )
  await lines(server).wait('ready')
  await bed.daemon('c')
  await bed.daemon('m')
  const target = join(bed.folder, 'copy')
  const curl = bed.spawn('m', 'curl', ['-s', '--limit-rate', '16M', '-o', target, 'http://10.3.0.2/file'])
  const done = new Promise<number | null>((resolve) => curl.on('exit', resolve))
  await bed.greeted()
  bed.down(1)
  await until('m is detached', async () => (await bed.hosts('m')).some((h) => h.detached))
  bed.up(2)
  assert.equal(await done, 0)
  const sum = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')
  assert.equal(sum(target), sum(file))
  const status = await bed.status('m')
  assert.equal(status.handovers.length, 1)
  assert.equal(status.handovers[0]?.to, 'acc2')
  bed.down(2)
  bed.up(1)
  await bed.end('m')
  await bed.end('c')
  assert.equal(bed.kernelState('m'), bed.before.m)
  assert.equal(bed.kernelState('c'), bed.before.c)
})

test('DI-6: IPv6 as well', async () => {
  const finish = await session('fd00:3::2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  bed.down(1)
  await until('m is detached', async () => (await bed.hosts('m')).some((h) => h.detached))
  bed.up(2)
  await until('it moved', async () => (await bed.sockets('c')).some((s) => s.wire === 'fd00:2::2'))
  echoed(await finish())
})

test('DI-6, DI-9a: UDP on unconnected sockets: the server sees one address throughout', async () => {
  const server = bed.spawn('c', process.execPath, [ECHO, 'server', '5005'], 'pipe')
  const serverOut = lines(server)
  await serverOut.wait('ready')
  await bed.daemon('c')
  await bed.daemon('m')
  const client = bed.spawn('m', process.execPath, [ECHO, 'client', '5005', '10.3.0.2'], 'pipe')
  const clientOut = lines(client)
  await bed.greeted()
  bed.up(2, false)
  await until('m has a way over acc2', async () => (await bed.ways('m')).includes('10.2.0.2 10.3.0.2'))
  bed.down(1)
  for (const name of ['m', 'c'] as const)
    await until(`${name} sends over acc2`, async () =>
      (await bed.sockets(name)).some((s) => `${s.wire} ${s.wire_local}`.includes('10.2.0.2')),
    )
  client.stdin!.write('mark\n') // reported when something sent from now on has come back
  const atClient = JSON.parse(await clientOut.wait('sources')) as { sources: string[] }
  server.stdin!.write('report\n')
  const atServer = JSON.parse(await serverOut.wait('sources')) as { sources: string[] }
  assert.equal(atServer.sources.length, 1, atServer.sources.join())
  assert.deepEqual(atClient.sources, ['10.3.0.2:5005'])
  // A firewall that is started again. What arrives in the milliseconds until then is not translated.
  for (const name of ['m', 'c'] as const) {
    bed.run(name, 'nft', 'flush', 'ruleset')
    await until(`${name} has its table again`, () =>
      bed.run(name, 'nft', 'list', 'tables').includes('godwit_main_dime'),
    )
  }
  const marked = clientOut.text.length
  client.stdin!.write('mark\n')
  await until('datagrams come back', () => clientOut.text.slice(marked).includes('sources'))
})

for (const settings of ['fast_path = true', 'fast_path = false'])
  test(`a daemon that is killed and started again adopts the maps: no packet is lost by it (${settings})`, async () => {
    bed.settings = settings
    const finish = await session('10.3.0.2')
    await bed.daemon('c')
    await bed.daemon('m')
    await bed.greeted()
    bed.up(2)
    bed.down(1)
    await until('it moved', async () => (await bed.sockets('m')).some((s) => s.wire_local === '10.2.0.2'))
    await until('c has followed', async () => (await bed.sockets('c')).some((s) => s.wire === '10.2.0.2'))
    const fast = settings.endsWith('true') && NO_PROGRAMS === undefined
    if (fast) await until('programs on the devices', () => bed.fastPrograms('m') > 0)
    await pause(500) // both have written down what they know
    const programs = bed.fastPrograms('m')
    await bed.end('m', 'SIGKILL')
    await bed.end('c', 'SIGKILL')
    // Not `in_pair`: what the lost address had there ends within seconds.
    const maps = (): string =>
      ['out_pair', 'in_flow']
        .map((name) => bed.run('m', 'nft', 'list', 'map', 'ip', 'godwit_main_dime', name))
        .join()
    const before = maps()
    await pause(500)
    assert.ok(fast || before.includes('10.2.0.2'))
    assert.equal(maps(), before, 'they translate without a daemon')
    assert.equal(bed.fastPrograms('m'), programs)
    await bed.daemon('c')
    await bed.daemon('m')
    await until('the same maps', () => maps() === before && bed.fastPrograms('m') === programs)
    // It still is a peer: back to the first access.
    bed.up(1)
    bed.down(2)
    await until('it moved back', async () =>
      (await bed.sockets('m')).some((s) => s.wire_local === '10.1.0.2'),
    )
    echoed(await finish())
    await bed.end('m')
    assert.equal(bed.kernelState('m'), bed.before.m)
  })

test('DI-32: held, then an error to the applications when there is no way back, to unconnected UDP too', async () => {
  const finish = await session('10.3.0.2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  await bed.end('m')
  writeFileSync(join(bed.state('m'), 'short.toml'), '[dime]\nhold_s = 1\n')
  await bed.daemon('m', 'dime', 'up', '--config', join(bed.state('m'), 'short.toml'))
  await bed.greeted()
  // One that is connected to nobody, and has asked for errors (IP_RECVERR).
  const datagrams = lines(bed.spawn('m', process.execPath, ['-e', ASKS_FOR_ERRORS, LIBC], 'pipe'))
  await datagrams.wait('ready')
  await until('its exchange is seen', async () =>
    (await bed.sockets('m')).some((s) => s.bound === '10.3.0.2:5009'),
  )
  bed.down(1)
  await until('m has given up', async () => (await bed.hosts('m')).every((h) => h.flows === 0))
  const { broken } = await finish()
  assert.ok(broken, 'the socket was aborted')
  await datagrams.wait('EHOSTUNREACH')
})

test('`move`, `flows` and `why` speak of translated flows; one that is moved alone goes over its pair both ways (issue 11, 4)', async () => {
  const finish = await session('10.3.0.2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  bed.up(2, false)
  await until('a way over acc2', async () =>
    (await bed.status('m')).peers.some((p) =>
      p.paths.some((path) => path.access === 'acc2' && path.remote.startsWith('10.3.0.2')),
    ),
  )
  await bed.move('m', 'all', 'acc2')
  const [flow] = (await bed.status('m')).flows
  assert.equal(flow?.access, 'acc2')
  assert.equal(flow?.mechanism, 'translation')
  await bed.move('m', flow!.id, 'acc1')
  assert.equal((await bed.status('m')).flows[0]?.access, 'acc1')
  await bed.move('m', 'all', 'acc1')
  // One flow alone, both ways: what leaves c for it goes to acc2 too, and is counted there.
  await bed.move('m', flow!.id, 'acc2')
  await until('c sends it to acc2', async () => (await bed.sockets('c')).every((s) => s.wire === '10.2.0.2'))
  const arrived = (): number => Number(bed.run('m', 'cat', '/sys/class/net/acc2/statistics/rx_packets'))
  const before = arrived()
  await until('its answers arrive on acc2', () => arrived() > before + 20)
  assert.equal((await bed.status('m')).flows[0]?.pinned, 'acc2')
  const [current] = (await bed.hosts('c')).flatMap((h) => h.current)
  assert.equal(current?.foreign, '10.1.0.2', 'all else goes over acc1')
  await bed.move('m', flow!.id, 'auto')
  await until('c sends it with all else', async () =>
    (await bed.sockets('c')).every((s) => s.wire === '10.1.0.2'),
  )
  echoed(await finish())
})

test('ICMP errors that quote translated packets find their socket: path MTU, port unreachable', async () => {
  const bulk = `
    const net = require('node:net'), dgram = require('node:dgram')
    if (process.argv[1] === 'server') {
      net.createServer((s) => { s.on('error', () => {}); s.resume(); let n = 0; s.on('data', (b) => { n += b.length; if (n >= 1e6) { n -= 1e6; s.write('x') } }) }).listen(80, () => console.log('ready'))
      const u = dgram.createSocket('udp4'); u.bind(5005)
      process.stdin.on('data', () => u.close(() => console.log('closed')))
    } else {
      const s = net.connect(80, '10.3.0.2', () => console.log('ready'))
      s.on('data', () => console.log('delivered'))
      const u = dgram.createSocket('udp4'); u.connect(5005, '10.3.0.2'); u.on('error', (e) => console.log(e.code)); u.on('connect', () => setInterval(() => u.send('x'), 50))
      process.stdin.on('data', () => s.write(Buffer.alloc(1e6)))
    }`
  const server = bed.spawn('c', process.execPath, ['-e', bulk, 'server'], 'pipe')
  const serverOut = lines(server)
  await serverOut.wait('ready')
  const client = bed.spawn('m', process.execPath, ['-e', bulk, 'client'], 'pipe')
  const clientOut = lines(client)
  await clientOut.wait('ready')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  bed.up(2)
  bed.down(1)
  await until('moved', async () => (await bed.sockets('c')).some((s) => s.wire === '10.2.0.2'))
  bed.rtnl.r.setLink('lan3', { mtu: 1300 })
  client.stdin!.write('go\n')
  await clientOut.wait('delivered')
  server.stdin!.write('close\n')
  await serverOut.wait('closed')
  await clientOut.wait('ECONNREFUSED')
})

test('DI-42, Fig. 6: a connection moves behind a NAT that knows IHMP and renumbers its port', async () => {
  const finish = await session('10.3.0.2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  await bed.daemon('r', 'dime', 'nat', 'lan2', 'lan3', '--ports', '20000-20100')
  bed.down(1)
  await until('m is detached', async () => (await bed.hosts('m')).some((h) => h.detached))
  bed.up(2)
  await until('c sends to the NAT', async () => (await bed.sockets('c')).some((s) => s.wire === '10.3.0.1'))
  await until('c knows the port', () =>
    bed.run('c', 'nft', 'list', 'map', 'ip', 'godwit_main_dime', 'in_port').includes('elements'),
  )
  echoed(await finish())
  bed.run('r', 'nft', 'flush', 'ruleset')
  await until('the NAT is there again', () =>
    bed.run('r', 'nft', 'list', 'tables').includes('godwit_main_nat'),
  )
})

test('datagrams in fragments are translated whole', async () => {
  const echo = `
    const dgram = require('node:dgram'); const u = dgram.createSocket('udp4')
    if (process.argv[1] === 'server') { u.on('message', (b, f) => u.send(b, f.port, f.address)); u.bind(5005, () => console.log('ready')) }
    else { u.connect(5005, '10.3.0.2'); u.on('error', () => {}); let n = 0; u.on('message', (b) => { n++; if (process.moved && b.length === 5000) { console.log('whole'); } }); u.on('connect', () => { console.log('ready'); setInterval(() => u.send(Buffer.alloc(5000)), 50) }); process.stdin.on('data', () => { process.moved = true }) }`
  const server = bed.spawn('c', process.execPath, ['-e', echo, 'server'], 'pipe')
  await lines(server).wait('ready')
  const client = bed.spawn('m', process.execPath, ['-e', echo, 'client'], 'pipe')
  const out = lines(client)
  await out.wait('ready')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  bed.up(2)
  bed.down(1)
  await until('moved', async () => (await bed.sockets('c')).some((s) => s.wire === '10.2.0.2'))
  client.stdin!.write('moved\n')
  await out.wait('whole')
})
