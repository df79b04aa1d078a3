/** Both ends move at the same time, to addresses that neither has told the other. */
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { Bed, until } from './bed.ts'
import { ECHO_CLIENT, ECHO_SERVER, lines } from './flows.ts'

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

test('D3, Table III: both lose their only address at once; one knows a name of the other: the connection goes on', async () => {
  const server = bed.spawn('c', process.execPath, ['-e', ECHO_SERVER], 'pipe')
  await lines(server).wait('ready')
  await bed.daemon('c')
  mkdirSync(bed.state('m'), { recursive: true, mode: 0o700 })
  const config = join(bed.state('m'), 'names.toml')
  writeFileSync(config, '[log]\nlevel = "debug"\n\n[dime]\nnames = ["10.3.0.7"]\n')
  await bed.daemon('m', 'dime', 'up', '--config', config)
  const client = bed.spawn('m', process.execPath, ['-e', ECHO_CLIENT, '{}'], 'pipe')
  const out = lines(client)
  await out.wait('ready')
  await bed.greeted()
  const { c } = bed.rtnl
  bed.down(1)
  c.deleteAddress('wan', 'fd00:3::2/64')
  c.deleteAddress('wan', '10.3.0.2/24')
  for (const name of ['m', 'c'] as const)
    await until(`${name} has no way`, async () => (await bed.hosts(name)).every((h) => h.detached), 60)
  bed.up(2)
  c.addAddress('wan', '10.3.0.7/24')
  c.replaceRoute({ to: 'default', via: '10.3.0.1', dev: 'wan' })
  await until(
    'they have found each other',
    async () =>
      (await bed.sockets('m')).some((s) => s.wire === '10.3.0.7' && s.wire_local === '10.2.0.2') &&
      (await bed.sockets('c')).some((s) => s.wire === '10.2.0.2' && s.wire_local === '10.3.0.7'),
    60,
  )
  client.stdin!.write('found you')
  await out.wait('echo found you')
  assert.ok((await bed.hosts('m')).every((h) => !h.detached))
})
