/** NT-13: a node prolongs its login by itself, and says when it has ended. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeEach, describe, it, mock } from 'node:test'
import { GodwitError } from '../../../src/core/errors.ts'
import { encodeKey } from '../../../src/crypto/keys.ts'
import { keepLogin, type Login, readLogin, writeLogin } from '../../../src/overlay/node/login.ts'
import { cachesOf } from '../../../src/overlay/node/login-client.ts'
import { Renewal } from '../../../src/overlay/node/renewal.ts'

const DAY = 86_400
const key = encodeKey(new Uint8Array(32).fill(1))
const LOGIN: Login = {
  ...{ version: 1, name: 'a.home.example', key_id: Buffer.alloc(16).toString('base64'), key, zone_key: key },
  ...{ coordinator: 'dc:1', private_key: key, server: 'https://dc', account: 'carol' },
  ...{ expires: 90 * DAY, renewed: 0 },
}

describe('NT-13: a login is prolonged', () => {
  let now = 0
  let asked = 0
  let answer: () => Promise<number | null>
  const saved: Login[] = []
  const said: string[] = []
  const renewal = (login = LOGIN) =>
    new Renewal({
      ...{
        login,
        wall: () => now,
        save: (each) => saved.push(each),
        report: (_level, text) => said.push(text),
      },
      renew: () => {
        asked++
        return answer()
      },
    })
  beforeEach((context) => {
    now = 0
    asked = 0
    saved.length = 0
    said.length = 0
    answer = () => Promise.resolve(now / 1000 + 90 * DAY)
    mock.timers.enable({ apis: ['setTimeout'] })
    void context
  })

  /** The clock goes on, and with it the timers. */
  const pass = async (ms: number) => {
    for (let left = ms; left > 0; left -= 3_600_000) {
      now += 3_600_000
      mock.timers.tick(3_600_000)
      for (let i = 0; i < 5; i++) await Promise.resolve()
    }
  }

  it('at half of its time, and again at half of the next', async () => {
    const it = renewal()
    it.start()
    await pass(1000 * 44 * DAY)
    assert.equal(asked, 0)
    await pass(1000 * 2 * DAY)
    assert.equal(asked, 1)
    assert.ok(saved[0]!.expires! > 134 * DAY && saved[0]!.renewed > 44 * DAY)
    await pass(1000 * 46 * DAY)
    assert.equal(asked, 2)
    it.stop()
    mock.timers.reset()
  })

  it('issue 13: on a full disk it is prolonged all the same, says so once, and is stored when there is room', async () => {
    let isFull = true
    const it = new Renewal({
      ...{ login: LOGIN, wall: () => now, report: (_level, text) => said.push(text) },
      renew: () => Promise.resolve(now / 1000 + 90 * DAY),
      save: (each) => {
        if (isFull) throw new Error('no space left')
        saved.push(each)
      },
    })
    now = 1000 * 46 * DAY
    it.start()
    mock.timers.tick(1)
    await pass(3 * 3_600_000)
    assert.ok(it.expires! > 134 * DAY)
    assert.equal(said.length, 1)
    assert.match(said[0]!, /was prolonged, and is stored as soon as that works: no space left/)
    isFull = false
    await pass(3_600_000)
    assert.equal(saved.length, 1)
    assert.ok(saved[0]!.expires! > 134 * DAY)
    await pass(3_600_000)
    assert.equal(saved.length, 1)
    it.stop()
    mock.timers.reset()
  })

  it('a server that does not answer is asked again every hour; one that has ended it is asked when the coordinator is silent', async () => {
    answer = () => Promise.reject(new Error('no answer'))
    now = 1000 * 60 * DAY
    const it = renewal()
    it.start()
    mock.timers.tick(1)
    await pass(5 * 3_600_000)
    assert.ok(asked >= 5 && asked <= 6, String(asked))
    assert.match(said[0]!, /could not be prolonged: no answer/)
    answer = () =>
      Promise.reject(new GodwitError('LOGIN_ENDED', 'it was revoked', { hint: 'godwit overlay login carol' }))
    await pass(3_600_000)
    assert.equal(it.ended, 'it was revoked; godwit overlay login carol')
    const before = asked
    await pass(5 * 3_600_000)
    assert.equal(asked, before)
    for (let i = 0; i < 10; i++) it.look()
    for (let i = 0; i < 5; i++) await Promise.resolve()
    assert.equal(asked, before + 1)
    answer = () => Promise.resolve(null)
    now += 600_001
    it.look()
    for (let i = 0; i < 5; i++) await Promise.resolve()
    assert.equal(it.ended, undefined)
    assert.equal(it.expires, null)
    it.stop()
    mock.timers.reset()
  })

  it('what was prolonged does not take the place of a login that came meanwhile', () => {
    mock.timers.reset()
    const folder = mkdtempSync(join(tmpdir(), 'godwit-renewal-'))
    try {
      const file = join(folder, 'login')
      writeLogin(file, LOGIN)
      keepLogin(file, { ...LOGIN, expires: 5 })
      assert.equal(readLogin(file)!.expires, 5)
      writeLogin(file, { ...LOGIN, key_id: Buffer.alloc(16, 1).toString('base64') })
      keepLogin(file, { ...LOGIN, expires: 6 })
      assert.equal(readLogin(file)!.expires, 90 * DAY)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

it('a server that is not there: the error says what to do', async () => {
  await assert.rejects(cachesOf({ server: 'https://127.0.0.1:1' }), (error: GodwitError) => {
    assert.equal(error.code, 'LOGIN_FAILED')
    assert.match(error.hint ?? '', /godwit overlay serve/)
    return true
  })
})
