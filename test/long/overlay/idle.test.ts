/** NT-21, NT-50: what an idle node costs on the real kernel: bytes at its interface, and how often its threads are woken, in a day. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { OverlayBed } from '../../netns/overlay/bed.ts'

usesPrograms('ip', 'unshare')
usePrivateNames()

const SECONDS = Number(process.env.IDLE_SECONDS ?? 300)
const DAY = 86_400
/** Short, so that some fall into the time: a day has as many fewer at the default. */
const KEEP_ALIVE = 30
const DEFAULT_KEEP_ALIVE = 240

describe('an idle node behind a NAT', () => {
  let bed: OverlayBed
  before(async () => {
    bed = await OverlayBed.start({}, [
      ['alice', 'acc2'],
      ['bob', 'acc2'],
    ])
  })
  after(async () => {
    await bed?.close()
  })

  const configured = async (lines: string) => {
    await bed.down('bob')
    const file = join(bed.folder, 'bob', 'godwit.toml')
    const text = readFileSync(file, 'utf8').replace(/^notif.*\n/gm, '')
    writeFileSync(file, text.replace('[log]', `${lines}\n[log]`))
    await bed.up('bob')
  }
  const bytes = async () => {
    const text = await bed.lab.programs.run('nb1', 'ip', ['-s', '-j', 'link', 'show', 'in'])
    const [{ stats64 }] = JSON.parse(text) as [{ stats64: { rx: { bytes: number }; tx: { bytes: number } } }]
    return stats64.rx.bytes + stats64.tx.bytes
  }
  const wakeUps = () => {
    const { pid } = bed.daemon('bob')
    return readdirSync(`/proc/${pid}/task`).reduce((sum, task) => {
      const text = readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8')
      return sum + Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(text)![1])
    }, 0)
  }
  const measured = async (what: string) => {
    await delay(10_000)
    const [b, w] = [await bytes(), wakeUps()]
    await delay(1000 * SECONDS)
    const day = { bytes: (((await bytes()) - b) * DAY) / SECONDS, wakes: ((wakeUps() - w) * DAY) / SECONDS }
    process.stderr.write(
      `${what}: ${Math.round(day.bytes / 1000)} kB and ${Math.round(day.wakes)} wake-ups a day\n`,
    )
    return day
  }

  it('without a notification server', async () => {
    await configured('notifications = false')
    await measured('keep-alives by UDP')
  })

  it('NT-21: with one, at most a megabyte a day', async () => {
    await configured(`notification_keep_alive = ${KEEP_ALIVE}`)
    await bed.until('bob is notified', async () => (await bed.view('bob')).notified)
    const day = await measured(
      `notified, TCP keep-alive every ${KEEP_ALIVE} s instead of ${DEFAULT_KEEP_ALIVE}`,
    )
    assert.ok(day.bytes <= 1e6, `${day.bytes} bytes`)
  })
})
