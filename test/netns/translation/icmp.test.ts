/** ICMP errors about packets that were rewritten find their socket (DI-6, issue 11, 5): path MTU, and ports that nobody listens on. */
import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, until } from './bed.ts'
import { lines } from './flows.ts'

usesPrograms('nft')

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

/** Takes bulk data, and gives it; listens for datagrams until told not to. */
const SERVER = `
  require('node:net').createServer((s) => {
    let n = 0
    s.on('error', () => {})
    s.on('data', (b) => {
      if (b.length === 1) { s.write(Buffer.alloc(1e6)); return }
      n += b.length
      if (n >= 1e6) { n -= 1e6; s.write('x') }
    })
  }).listen(80, '::', () => console.log('ready'))
  const u = { 4: require('node:dgram').createSocket('udp4'), 6: require('node:dgram').createSocket({ type: 'udp6', ipv6Only: true }) }
  for (const family of [4, 6]) u[family].bind(5005)
  process.stdin.on('data', (b) => { const f = String(b).trim(); u[f].close(() => console.log('closed ' + f)) })`
/** Sends bulk data (\`up\`) or asks for it (\`down\`) by TCP, and datagrams all the time by a connected socket. */
const CLIENT = `
  const [host] = process.argv.slice(1)
  const s = require('node:net').connect(80, host, () => console.log('ready'))
  let got = 0
  s.on('data', (b) => { got += b.length; console.log(got >= 1e6 ? 'down done' : 'up done') })
  const u = require('node:dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4')
  u.connect(5005, host); u.on('error', (e) => console.log(e.code))
  u.on('connect', () => setInterval(() => u.send('x'), 50))
  process.stdin.on('data', (b) => s.write(String(b).trim() === 'up' ? Buffer.alloc(1e6) : 'd'))`

async function start(...hosts: string[]) {
  const server = bed.spawn('c', process.execPath, ['-e', SERVER], 'pipe')
  const atServer = lines(server)
  await atServer.wait('ready')
  const clients = []
  for (const host of hosts) {
    const program = bed.spawn('m', process.execPath, ['-e', CLIENT, host], 'pipe')
    const out = lines(program)
    await out.wait('ready')
    clients.push({ program, out })
  }
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  const close = async (family: 4 | 6): Promise<void> => {
    server.stdin!.write(`${family}\n`)
    await atServer.wait(`closed ${family}`)
  }
  return { clients, close }
}

test('issue 11, 5: errors about flows on a pair of their own, and about IPv6, reach both kinds of socket', async () => {
  const { clients, close } = await start('10.3.0.2', 'fd00:3::2')
  const [four, six] = clients
  bed.up(2, false)
  await until('m has a way over acc2', async () => (await bed.ways('m')).includes('10.2.0.2 10.3.0.2'))
  await until('all flows are known', async () => (await bed.sockets('c')).filter((s) => s.proven).length >= 4)
  for (const { id, src } of (await bed.status('m')).flows)
    if (src.startsWith('10.1.0.2')) await bed.move('m', id, 'acc2')
  await until('c sends them there', async () =>
    (await bed.sockets('c')).every((s) => !s.bound.startsWith('10.1.0.2') || s.wire === '10.2.0.2'),
  )
  bed.rtnl.r.setLink('lan3', { mtu: 1300 })
  four!.program.stdin!.write('up\n')
  await four!.out.wait('up done')
  await close(4)
  await four!.out.wait('ECONNREFUSED')
  assert.ok(!six!.out.text.includes('ECONNREFUSED'))
  bed.down(1)
  await until('IPv6 has moved', async () =>
    (await bed.sockets('c')).every((s) => !s.bound.includes('fd00:1::2') || s.wire === 'fd00:2::2'),
  )
  six!.program.stdin!.write('up\n')
  await six!.out.wait('up done')
  await close(6)
  await six!.out.wait('ECONNREFUSED')
})

test('issue 11, 5, DI-42: errors about flows whose ports a NAT has renumbered', async () => {
  const { clients, close } = await start('10.3.0.2')
  const [client] = clients
  await bed.daemon('r', 'dime', 'nat', 'lan2', 'lan3', '--ports', '20000-20100')
  bed.down(1)
  await until('m is detached', async () => (await bed.hosts('m')).some((h) => h.detached))
  bed.up(2)
  await until('c knows both ports', () => {
    // There is no such map before there is something to translate.
    const [map = ''] = /map in_port \{[\s\S]*?\n\t\}/.exec(bed.run('c', 'nft', 'list', 'ruleset')) ?? []
    return /tcp/.test(map) && /udp/.test(map)
  })
  // Too big for the way behind the NAT: its error names the port that it gave.
  bed.rtnl.r.setLink('lan2', { mtu: 1300 })
  client!.program.stdin!.write('down\n')
  await client!.out.wait('down done')
  await close(4)
  await client!.out.wait('ECONNREFUSED')
})
