import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import type { GodwitError } from '../../../src/core/errors.ts'
import { createNamespace, deleteNamespace, spawnIn } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Rtnetlink } from '../../../src/linux/rtnetlink/index.ts'
import { EngineWorker } from '../../../src/tunnel/engine/thread.ts'
import type { EngineEntryData } from '../../support/engine-entry.ts'

usesPrograms('ip')

const names = [`eng-a-${process.pid}`, `eng-b-${process.pid}`] as const
const entry = new URL('../../support/engine-entry.js', import.meta.url)
let rtnl: readonly [Rtnetlink, Rtnetlink]

before(() => {
  for (const name of names) createNamespace(name)
  rtnl = [new Rtnetlink(names[0]), new Rtnetlink(names[1])]
  rtnl[0].createLink({ kind: 'veth', name: 'v0', peer: { name: 'v0', netns: names[1] } })
  rtnl.forEach((each, i) => {
    each.addAddress('v0', `10.99.0.${i + 1}/24`)
    each.setLink('v0', { up: true })
    each.setLink('lo', { up: true })
  })
})
after(() => {
  for (const each of rtnl) each.close()
  for (const name of names) deleteNamespace(name)
})

interface Running {
  readonly worker: EngineWorker
  readonly events: unknown[]
  readonly end: Promise<GodwitError | undefined>
  readonly next: () => Promise<unknown>
}

async function startEngine(i: 0 | 1, form: EngineEntryData['form'], mtu: number): Promise<Running> {
  const events: unknown[] = []
  let wakeUp = () => {}
  let ended: (error: GodwitError | undefined) => void
  const end = new Promise<GodwitError | undefined>((resolve) => {
    ended = resolve
  })
  const data: EngineEntryData = {
    netns: names[i],
    tun: 'gwt0',
    end: i,
    form,
    remote: Uint8Array.of(10, 99, 0, 2 - i),
    mtu,
  }
  const worker = await EngineWorker.start(entry, data, {
    onEvent: (event) => {
      events.push(event)
      wakeUp()
    },
    onEnd: (error) => ended(error),
  })
  rtnl[i].addAddress('gwt0', `10.98.0.${i + 1}/24`)
  rtnl[i].addAddress('gwt0', `fd98::${i + 1}/64`, { noDad: true })
  rtnl[i].setLink('gwt0', { mtu: 1400, up: true })
  const next = async () => {
    if (events.length === 0)
      await new Promise<void>((resolve) => {
        wakeUp = resolve
      })
    return events.shift()
  }
  return { worker, events, end, next }
}

const SERVER = `
  const { createHash } = require('node:crypto')
  require('node:net').createServer((s) => {
    const h = createHash('sha256')
    s.on('data', (d) => h.update(d)).on('end', () => s.end(h.digest('hex')))
  }).listen(9000, '::', () => console.log('ready'))`
const CLIENT = `
  const { createHash, randomBytes } = require('node:crypto')
  const data = randomBytes(20e6)
  const s = require('node:net').connect(9000, process.argv[1], () => s.end(data))
  let got = ''
  s.on('data', (d) => (got += d)).on('end', () =>
    process.exit(got === createHash('sha256').update(data).digest('hex') ? 0 : 1))`

for (const [form, mtu] of [
  ['godwit', 1500],
  ['stock', 1500],
  // Smaller than the devices' MTU needs: every segment is cut again.
  ['godwit', 1300],
] as const)
  test(`engines in two namespaces carry TCP unchanged, ${form}, path MTU ${mtu}`, async () => {
    const a = await startEngine(0, form, mtu)
    const b = await startEngine(1, form, mtu)
    const server = spawnIn(names[1], process.execPath, ['-e', SERVER])
    try {
      await once(server.stdout!, 'data')
      for (const target of ['10.98.0.2', 'fd98::2']) {
        const client = spawnIn(names[0], process.execPath, ['-e', CLIENT, target], {
          stdio: 'inherit',
        })
        const [status] = await once(client, 'exit')
        assert.equal(status, 0, target)
      }
      a.worker.post('how are you')
      const answer = (await a.next()) as { echo: string; counts: { forged: number } }
      assert.equal(answer.echo, 'how are you')
      assert.equal(answer.counts.forged, 0)
    } finally {
      server.kill()
      await a.worker.stop()
      await b.worker.stop()
    }
    assert.equal(await a.end, undefined)
  })

test('UP-36: packets are carried while control stands still', async () => {
  const a = await startEngine(0, 'godwit', 1500)
  const b = await startEngine(1, 'godwit', 1500)
  const server = spawnIn(names[1], process.execPath, ['-e', SERVER])
  try {
    await once(server.stdout!, 'data')
    // This thread, which has both workers, waits in a system call until the 20 MB have arrived whole.
    const args = ['netns', 'exec', names[0], process.execPath, '-e', CLIENT, '10.98.0.2']
    assert.equal(spawnSync('ip', args, { stdio: 'inherit', timeout: 60_000 }).status, 0)
  } finally {
    server.kill()
    await a.worker.stop()
    await b.worker.stop()
  }
})

test('a second engine on the device, and the device taken away, are said', async () => {
  const a = await startEngine(0, 'godwit', 1500)
  await assert.rejects(startEngine(0, 'godwit', 1500), { code: 'TUN_BUSY' })
  rtnl[0].deleteLink('gwt0')
  const error = await a.end
  assert.match(String(error?.message), /gwt0 is gone/)
})
