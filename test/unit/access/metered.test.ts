/** NetworkManager's mark "metered" while it is slow, silent or ends: a link that costs is not taken for one that does not. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { MeteredLinks } from '../../../src/access/metered.ts'
import { BusError, type Follower, type Properties } from '../../../src/linux/dbus/index.ts'

const TIMEOUT = new BusError('BUS_FAILED', 'NetworkManager does not answer', 'timeout')
const UNKNOWN = new BusError('BUS_FAILED', 'no such object', 'org.freedesktop.DBus.Error.UnknownObject')

const device = (name: string, metered: number): Properties =>
  new Map([
    ['Interface', { signature: 's', value: name }],
    ['Metered', { signature: 'u', value: metered }],
  ]) as never

/** A bus on which NetworkManager has the devices `/1`, `/2`, …; `answers` are what it says of them, in that order. */
async function bed(t: TestContext, answers: (() => Promise<Properties>)[]) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const told: string[][] = []
  let follower: Follower | undefined
  const bus = {
    call: async () => [answers.map((_, i) => `/${i + 1}`)],
    properties: ({ path }: { path: string }) => answers[Number(path.slice(1)) - 1]!(),
    follow: async (_: unknown, by: Follower) => {
      follower = by
    },
    close: () => {},
  }
  const links = new MeteredLinks({
    changed: (names) => told.push([...names].sort()),
    open: async () => bus as never,
  })
  links.start()
  const settle = async () => {
    for (let i = 0; i < 20; i++) await Promise.resolve()
  }
  await settle()
  const after = async (ms: number) => {
    t.mock.timers.tick(ms)
    await settle()
  }
  const signal = (member: string, body: readonly unknown[] = [], of = 'org.freedesktop.DBus.Properties') =>
    follower!.signal({ path: '/1', interface: of, member, body } as never)
  return { told, links, settle, after, signal, owned: (present: boolean) => follower!.owned(present) }
}

test('issue 14, point 10: of a link that NetworkManager is silent about holds what was known, until it answers', async (t) => {
  const answers = [async () => device('wwan0', 1), async () => device('wlan0', 4)]
  const { told, links, after, owned } = await bed(t, answers)
  owned(true)
  await after(50)
  assert.deepEqual(told, [['wwan0']])
  answers[0] = () => Promise.reject(TIMEOUT)
  owned(true)
  await after(50)
  assert.equal(links.has('wwan0'), true)
  answers[0] = async () => device('wwan0', 2)
  await after(30_000)
  assert.deepEqual(told.at(-1), [])
  answers[1] = async () => device('wlan0', 1)
  answers[0] = () => Promise.reject(UNKNOWN)
  owned(true)
  await after(50)
  assert.deepEqual(told.at(-1), ['wlan0'], 'a device that has gone keeps nothing from the others')
  links.stop()
})

test('issue 14, point 10: what NetworkManager still said as it ended counts no more, and no old answer replaces a new one', async (t) => {
  const slow: ((answer: Properties) => void)[] = []
  const { told, links, settle, after, owned } = await bed(t, [() => new Promise((done) => slow.push(done))])
  owned(true)
  await after(50)
  owned(false)
  slow.shift()!(device('wwan0', 1))
  await settle()
  assert.deepEqual(told, [])
  owned(true)
  await after(50)
  owned(true)
  await after(50)
  assert.equal(slow.length, 1, 'one reading at a time')
  slow.shift()!(device('wwan0', 1))
  await settle()
  slow.shift()!(device('wwan0', 2))
  await settle()
  assert.deepEqual(told, [['wwan0'], []])
  links.stop()
})

test('issue 14, point 10: devices are read again when one comes, goes, or says that it is metered, a burst once; not for anything else', async (t) => {
  let read = 0
  const answers = [
    async () => {
      read++
      return device('wwan0', read % 2 === 1 ? 3 : 2)
    },
  ]
  const { told, links, after, owned, signal } = await bed(t, answers)
  const DEVICE = 'org.freedesktop.NetworkManager.Device'
  const changed = (of: string, ...keys: string[]) =>
    signal('PropertiesChanged', [of, new Map(keys.map((key) => [key, { signature: 'u', value: 1 }]))])
  owned(true)
  await after(50)
  assert.deepEqual([read, told], [1, [['wwan0']]], 'guessed is metered too')
  const each: [() => void, boolean][] = [
    [() => signal('DeviceAdded'), true],
    [() => signal('DeviceRemoved'), true],
    [() => changed(DEVICE, 'Metered'), true],
    [() => changed(DEVICE, 'State', 'IpInterface'), true],
    [() => changed(DEVICE, 'State'), false],
    [() => changed('org.freedesktop.NetworkManager', 'Metered'), false],
    [() => signal('StateChanged'), false],
  ]
  for (const [act, reads] of each) {
    const before = read
    for (let i = 0; i < 5; i++) act()
    await after(49)
    assert.equal(read, before)
    await after(1)
    assert.equal(read, reads ? before + 1 : before)
  }
  // NetworkManager ends: nothing is metered.
  signal('DeviceAdded')
  if (!links.has('wwan0')) await after(50)
  assert.equal(links.has('wwan0'), true)
  owned(false)
  assert.deepEqual([links.has('wwan0'), told.at(-1)], [false, []])
  links.stop()
  const before = told.length
  owned(true)
  await after(1000)
  assert.equal(told.length, before, 'nothing after the end')
})
