/**
 * The daemon is killed in the middle of transfers and sessions and started again: unmodified curl and ssh against the kernel's MPTCP go
 * on, and not a byte is different.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { keptPath } from '../../../src/mptcp/kept.ts'
import { Bed, until } from './bed.ts'
import { login, sshSkip } from './ssh.ts'
import { Transfers } from './transfers.ts'

usesPrograms('curl', 'mptcpize', 'ss')

let bed: Bed
let transfers: Transfers
let untouched: string

before(async () => {
  bed = new Bed()
  transfers = new Transfers(bed, 'm')
  untouched = bed.kernelState()
  await bed.serve()
  await bed.daemon('m')
})

after(async () => {
  await bed.close()
})

/** The daemon is killed and another started; the connection is there, and carries more over `access`. */
async function again(id: string, access: string): Promise<void> {
  await bed.end('m', 'SIGKILL')
  await bed.daemon('m')
  assert.deepEqual(
    (await bed.connections()).map((each) => each.id),
    [id],
  )
  await transfers.carriesMore(id, access, `${access}, after the kill,`)
}

async function ended(): Promise<void> {
  await until('the connection is closed', async () => (await bed.connections()).length === 0)
}

for (const [direction, host] of [
  ['get', '10.3.0.2'],
  ['put', '[fd00:3::2]'],
] as const)
  test(`issue 12, part 3: curl ${direction} over ${host} goes on when the daemon is killed and started again, twice, the second time after a handover and without its first access`, async () => {
    const endless = transfers.endless(direction, host)
    const { id } = await bed.underWay(2_000_000)
    await again(id, 'acc1')
    await bed.post('/v1/mptcp/handover', { connection: id, access: 'acc2' })
    await transfers.carriesMore(id, 'acc2', 'the other access', true)
    await bed.end('m', 'SIGKILL')
    bed.down(1)
    await bed.daemon('m')
    await transfers.carriesMore(id, 'acc2', 'the access that is left')
    await endless.finish()
    await ended()
    bed.up(1)
    bed.noFaults()
  })

test('it goes on when its only access was lost while no daemon ran, over the other', async () => {
  const endless = transfers.endless('get')
  const { id } = await bed.underWay(2_000_000)
  await bed.end('m', 'SIGKILL')
  bed.down(1)
  await bed.daemon('m')
  await transfers.carriesMore(id, 'acc2', 'the other access')
  await endless.finish()
  await ended()
  bed.up(1)
  bed.noFaults()
})

test('a program that reads again while no daemon runs goes on: that its window is open was lost, and its peer asks', async () => {
  await bed.end('m')
  await bed.daemon('m', 'standby = false')
  const endless = transfers.endless('get')
  await until('it is under way', async () => ((await bed.connections())[0]?.received_bytes ?? 0) > 2_000_000)
  endless.stall(true)
  let before = -1
  await until('the window is closed', async () => {
    const { received_bytes } = (await bed.connections())[0]!
    const same = received_bytes === before
    before = received_bytes
    return same
  })
  await bed.end('m', 'SIGKILL')
  endless.stall(false)
  await until('curl has read it all', () =>
    /^ESTAB 0 /.test(bed.run('m', 'ss', '-tnHO', 'dport', '=', ':80').replace(/ +/g, ' ')),
  )
  await bed.daemon('m', 'standby = false')
  await transfers.carriesMore('m0', 'acc1', 'its access')
  await endless.finish()
  await ended()
  bed.noFaults()
  await bed.end('m')
  await bed.daemon('m')
})

test('a session of ssh goes on after a kill', { skip: sshSkip() }, async () => {
  const { ssh, say, hear } = await login(bed)
  say('echo begun as $$')
  const shell = (await hear(/begun as \d+\n/)).match(/\d+/)![0]
  await bed.underWay(100)
  await bed.end('m', 'SIGKILL')
  say('echo still in $$')
  await bed.daemon('m')
  await hear(new RegExp(`still in ${shell}\n`))
  const end = once(ssh, 'exit')
  say('exit 7')
  assert.deepEqual((await end)[0], 7)
  await ended()
  bed.noFaults()
})

test('only its owner can read what is kept, and nothing is left of it, or in the kernel, when the daemon stops', async () => {
  const path = keptPath(`${bed.folder}/m`)
  assert.equal(statSync(path).mode & 0o777, 0o600)
  await bed.end('m')
  assert.equal(existsSync(path), false)
  assert.equal(bed.kernelState(), untouched)
  assert.ok(!readdirSync(`${bed.folder}/m`).some((name) => name.includes('mptcp')))
})
