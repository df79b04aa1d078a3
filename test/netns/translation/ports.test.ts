/** Ports of moved connections (P1), and hosts without godwit. */
import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, until } from './bed.ts'
import { ECHO_CLIENT, ECHO_SERVER, lines } from './flows.ts'

usesPrograms('nft')

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

test('P1: a connection that asks for the port of a moved one is refused at once, and that one goes on', async () => {
  const server = bed.spawn('c', process.execPath, ['-e', ECHO_SERVER], 'pipe')
  await lines(server).wait('ready')
  await bed.daemon('c')
  await bed.daemon('m')
  const first = bed.spawn('m', process.execPath, ['-e', ECHO_CLIENT, '{"localPort":45678}'], 'pipe')
  const out = lines(first)
  await out.wait('ready 45678')
  await bed.greeted()
  bed.up(2)
  bed.down(1)
  for (const name of ['m', 'c'] as const)
    await until(`${name} has moved`, async () =>
      (await bed.sockets(name)).some((s) => (name === 'm' ? s.wire_local : s.wire) === '10.2.0.2'),
    )
  const twin = bed.spawn(
    'm',
    process.execPath,
    ['-e', ECHO_CLIENT, '{"localPort":45678,"localAddress":"10.2.0.2"}'],
    'pipe',
  )
  assert.match(await lines(twin).wait('error'), /ECONNREFUSED|ECONNABORTED/)
  assert.match(bed.run('m', 'nft', 'list', 'ruleset'), /reject with tcp reset/)
  const other = bed.spawn('m', process.execPath, ['-e', ECHO_CLIENT, '{"localAddress":"10.2.0.2"}'], 'pipe')
  const otherOut = lines(other)
  await otherOut.wait('ready')
  for (const [program, answers] of [
    [first, out],
    [other, otherOut],
  ] as const) {
    program.stdin!.write('still here')
    await answers.wait('echo still here')
  }
})

test('DI-7: a host without godwit is spoken to as ever, and nothing is rewritten', async () => {
  const server = bed.spawn('c', process.execPath, ['-e', ECHO_SERVER], 'pipe')
  await lines(server).wait('ready')
  await bed.daemon('m')
  const client = bed.spawn('m', process.execPath, ['-e', ECHO_CLIENT, '{}'], 'pipe')
  const out = lines(client)
  await out.wait('ready')
  await until(
    'it is known to be a plain host',
    async () => (await bed.hosts('m')).some((h) => h.state === 'plain'),
    60,
  )
  bed.up(2, false)
  client.stdin!.write('as ever')
  await out.wait('echo as ever')
  assert.ok(!/chain (out|in) /.test(bed.run('m', 'nft', 'list', 'chains')))
  const lo = bed.rtnl.m.addresses({ link: 'lo' }).map((a) => a.address)
  assert.ok(!lo.includes('10.1.0.2'), 'no identifier')
})
