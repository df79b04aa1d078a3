/** Keys of real hosts: `godwit dime key set` while connections live (DI-40), and keys bound to addresses (DI-39). */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Bed, pause, until } from './bed.ts'
import { echoed, startSession } from './flows.ts'

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

/** `godwit dime key set --new` at m; the new public key. */
function keySet(): { public_key: string; announced: boolean } {
  const args = [GODWIT, 'dime', 'key', 'set', '--new', '--json', '--state', bed.state('m')]
  return JSON.parse(bed.run('m', process.execPath, ...args))
}

const knownAtC = async (key: string): Promise<boolean> => (await bed.hosts('c')).some((h) => h.key === key)

const cSendsTo = (wire: string) =>
  until(`c sends to ${wire}`, async () =>
    (await bed.sockets('c')).some((s) => s.bound.startsWith('10.1.0.2:') && s.wire === wire),
  )

test('DI-40: keys change before and after moves, and while the daemon is down; the connection follows each time', async () => {
  const finish = await startSession(bed, '10.3.0.2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  const first = keySet()
  assert.equal(first.announced, true)
  await until('c has the first new key', () => knownAtC(first.public_key))
  bed.down(1)
  bed.up(2)
  await cSendsTo('10.2.0.2')
  const second = keySet()
  await until('c has the second new key, announced after a move', () => knownAtC(second.public_key))
  await bed.end('m', 'SIGKILL')
  const third = keySet()
  assert.equal(third.announced, false)
  await bed.daemon('m')
  await until('c has the third new key, set while no daemon ran', () => knownAtC(third.public_key))
  bed.down(2)
  bed.up(1)
  await until('c sends to where the socket is', async () =>
    (await bed.sockets('c')).every((s) => s.wire === '10.1.0.2'),
  )
  echoed(await finish())
})

test('DI-39: a host whose address is bound to another key is not believed', async () => {
  const list = join(bed.folder, 'keys')
  writeFileSync(list, `10.1.0.2/32 ${Buffer.alloc(32, 7).toString('base64')}\n`)
  bed.settings = `known_keys = ["${list}"]`
  const finish = await startSession(bed, '10.3.0.2')
  await bed.daemon('c')
  bed.settings = ''
  await bed.daemon('m')
  await pause(3_000)
  assert.ok((await bed.hosts('c')).every((h) => h.state !== 'peer'))
  assert.ok((await bed.hosts('m')).every((h) => h.state !== 'peer'))
  echoed(await finish())
})
