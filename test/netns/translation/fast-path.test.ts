/** TCP translated on the devices (fast-path.ts): when it is, and when nf_tables does it. */
import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { Bed, NO_PROGRAMS, until } from './bed.ts'
import { echoed, startSession } from './flows.ts'

usesPrograms('nft')

const skip = NO_PROGRAMS === undefined ? false : `no eBPF programs on devices: ${NO_PROGRAMS}`

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

async function moveToSecond(): Promise<void> {
  bed.up(2)
  bed.down(1)
  await until('m has moved', async () => (await bed.sockets('m')).some((s) => s.wire_local === '10.2.0.2'))
  await until('c has followed', async () => (await bed.sockets('c')).some((s) => s.wire === '10.2.0.2'))
}

/** Flows that nf_tables rewrites when they leave. */
const leaving = (): boolean =>
  bed.run('m', 'nft', 'list', 'set', 'ip', 'godwit_main_dime', 'out_flow').includes('tcp')

test('DI-8, DI-12: TCP is translated on the devices while the routes agree, and nothing of it is left', {
  skip,
}, async () => {
  const finish = await startSession(bed, '10.3.0.2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  assert.equal(bed.fastPrograms('m') + bed.fastPrograms('c'), 0, 'nothing has moved')
  await moveToSecond()
  await until('programs on the devices', () => bed.fastPrograms('m') > 0 && bed.fastPrograms('c') > 0)
  await until('nf_tables has nothing to rewrite', () => !leaving())
  // A route that the address of the socket takes and that on the wire does not.
  const { m } = bed.rtnl
  const rule = { family: 4, priority: 77, table: 77, from: '10.1.0.2/32' } as const
  m.addRule(rule)
  m.addRoute({ to: 'default', via: '10.2.0.99', dev: 'acc2', table: 77 })
  await until('nf_tables rewrites what leaves', leaving)
  m.deleteRule(rule)
  m.flushRoutes({ table: 77 })
  await until('the devices do again', () => !leaving())
  echoed(await finish())
  for (const name of ['m', 'c'] as const) {
    await bed.end(name)
    assert.equal(bed.kernelState(name), bed.before[name])
  }
})

test('strict reverse-path filters: nf_tables translates TCP too', async () => {
  for (const [name, device] of [
    ['m', 'acc2'],
    ['c', 'wan'],
  ] as const)
    new KernelSysctls(bed.netns(name)).set(`net.ipv4.conf.${device}.rp_filter`, 1)
  const finish = await startSession(bed, '10.3.0.2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  await moveToSecond()
  await until('no program is left', () => bed.fastPrograms('m') + bed.fastPrograms('c') === 0)
  await until('nf_tables rewrites what leaves', leaving)
  echoed(await finish())
})

test('where connections are tracked nf_tables translates TCP: tracking sees a connection in one form', async () => {
  bed.run(
    'c',
    'nft',
    'add table ip tracking; add chain ip tracking in { type filter hook input priority 0; }',
  )
  bed.run('c', 'nft', 'add rule ip tracking in ct state new counter')
  const finish = await startSession(bed, '10.3.0.2')
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  await moveToSecond()
  await until('programs at m', () => NO_PROGRAMS !== undefined || bed.fastPrograms('m') > 0)
  await until('none is left at c', () => bed.fastPrograms('c') === 0)
  echoed(await finish())
})
