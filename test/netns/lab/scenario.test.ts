import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Meter } from '../../../lab/meter.ts'
import { observeScenario } from '../../../lab/run.ts'
import type { Scenario } from '../../../lab/scenario.ts'
import { namespaceOf } from '../../../lab/topology.ts'
import {
  DatagramFlow,
  EndlessDownload,
  figuresOf,
  longestGap,
  rsyncDownload,
  Session,
} from '../../../lab/traffic.ts'
import { listNamespaces, usePrivateNames } from '../../../src/linux/netns.ts'
import { findProgram } from '../../../src/linux/packages.ts'

usePrivateNames()

const out = mkdtempSync(join(tmpdir(), 'godwit-lab-test-'))
after(() => rmSync(out, { recursive: true, force: true }))

let scratch = ''

/** The lab's own instruments on a host without godwit: a cut of 300 ms, seen by everything that should see it. */
const instruments: Scenario = {
  name: 'instruments',
  summary: 'what scenarios measure with',
  topology: 'upmt',
  links: { acc1: { rateMbps: 50, delayMs: 5 } },
  paper: {},
  async run(context) {
    const meter = new Meter(namespaceOf('mh'), 10)
    const rsync = await rsyncDownload(context, 'ch2', 2_000_000)
    context.start()
    const session = await Session.start(context, 'an')
    const call = await DatagramFlow.start(context, 'an2', 5004)
    const download = await EndlessDownload.start(context, 'ch1')
    const copy = await rsync.start()
    await context.until(1.2)
    while (meter.latest('acc1').rxBytes < 500_000 && context.seconds() < 10) await context.sleep(50)
    context.mark('cut')
    const from = context.startedAt + context.seconds() * 1000
    context.lab.setLink('acc1', { state: 'blackhole' })
    await context.sleep(300)
    context.lab.setLink('acc1', { state: 'up' })
    await context.sleep(700)
    const downloaded = await download.finish()
    const copied = await copy.verify()
    const { up, down } = await call.finish(context)
    const typed = await session.finish()
    meter.stop()
    context.check('curl', downloaded.ok, downloaded.value, 'intact')
    context.check('rsync', copied.ok, copied.value, 'intact')
    context.check('session', !typed.broken && typed.worst_ms >= 150, typed.worst_ms, 'at least 150 ms')
    context.check('seen from outside', typed.seen === '203.0.113.2', typed.seen, 'the NAT')
    for (const way of [up, down]) {
      const { lost, duplicated } = figuresOf(way)
      context.check('lost', lost >= 50, lost, 'about 60')
      context.check('duplicated', duplicated === 0, duplicated, '0')
      const gap = longestGap(way, from, from + 500, 5)
      context.check('gap', gap >= 250, gap, 'at least 250 ms')
    }
    const still = meter.longestStill('acc1', 'rxPackets', from, from + 500)
    context.check('counters stood still', still >= 200, still, 'at least 200 ms')
    const bins = meter.bins('acc1', 'rxBytes', context.startedAt, from, 100)
    const moved = bins.reduce((sum, bytes) => sum + bytes)
    context.check('counters moved', moved > 100_000, moved, '> 100 kB')
    scratch = context.scratch
    context.check('scratch', existsSync(scratch), scratch, 'there')
  },
}

test('a scenario measures, checks, writes its files and leaves nothing', async (t) => {
  for (const program of ['curl', 'rsync'])
    if (findProgram(program) === undefined) return t.skip(`${program} is not installed`)
  const events: string[] = []
  const result = await observeScenario(
    instruments,
    { out, seed: 5 },
    { event: ({ label }) => events.push(label) },
  )
  assert.deepEqual(
    result.checks.filter((check) => !check.ok),
    [],
  )
  assert.equal(result.passed, true)
  assert.equal(result.seed, 5)
  assert.deepEqual(events, ['cut'])
  assert.match(readFileSync(result.plot!, 'utf8'), /^<svg/)
  assert.match(readFileSync(result.timeline, 'utf8'), /^ +\d\.\d{3} s {2}cut\n$/)
  assert.deepEqual(JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')), result)
  assert.deepEqual(listNamespaces(), [])
  assert.equal(existsSync(scratch), false)
})

test('an aborted scenario is removed like one that ended', async () => {
  const controller = new AbortController()
  const waiting: Scenario = { ...instruments, run: (context) => context.sleep(60_000) }
  setTimeout(() => controller.abort(new Error('stopped')), 300)
  await assert.rejects(observeScenario(waiting, { out, signal: controller.signal }, {}), /stopped/)
  assert.deepEqual(listNamespaces(), [])
})
