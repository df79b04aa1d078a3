/** The configuration read again: what takes effect, what needs a restart, what is refused (issue 14, point 8). */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { Mechanism } from '../../../src/core/mechanism.ts'
import { changedKeys, takeKeys } from '../../../src/host/configuration/changes.ts'
import { parseConfig } from '../../../src/host/configuration/config.ts'
import type { Config } from '../../../src/host/configuration/schema.ts'
import { Reloader, summary } from '../../../src/host/daemon/reload.ts'
import { MECHANISMS } from '../../../src/host/mechanisms.ts'
import { State } from '../../../src/host/stores/state.ts'
import type { MechanismDescriptor } from '../../../src/mechanism/descriptor.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-reload-'))
after(() => rmSync(folder, { recursive: true }))

const PEER =
  '[[peer]]\nname = "a"\nendpoint = "192.0.2.1:1"\npublic_key = "PAPVcolvJL4t0HtwstlzrlwQ5YRkNg9eMx8UsSF3H0c="\n'

function parsed(text: string): Config {
  const result = parseConfig(text)
  assert.ok('config' in result, JSON.stringify(result))
  return result.config
}

test('keys with other values are named, lists and accesses as a whole; some of them can be taken', () => {
  const before = parsed(PEER)
  const after = parsed(
    `[log]\nlevel = "debug"\n[host]\nprefer = ["wlan0"]\n[access.wwan0]\nuse = "backup"\n[[policy]]\nname = "p"\nprefer = ["eth0"]\n[interface]\nmtu = 1300\n${PEER}`,
  )
  assert.deepEqual(changedKeys(before, before), [])
  const keys = changedKeys(before, after)
  assert.deepEqual([...keys].sort(), ['access', 'host.prefer', 'interface.mtu', 'log.level', 'policy'])
  const taken = takeKeys(before, after, ['access', 'log.level'])
  assert.deepEqual(changedKeys(before, taken).sort(), ['access', 'log.level'])
  assert.deepEqual(changedKeys(taken, after).sort(), ['host.prefer', 'interface.mtu', 'policy'])
})

/** A reloader of a host whose mechanism only writes down what it is told. */
function reloader(
  name: string,
  beside: readonly string[] = [],
  apply: (config: Config) => void | Promise<void> = () => {},
) {
  const state = new State({ state: join(folder, name) })
  state.prepare()
  const write = (text: string) => writeFileSync(state.configFile, `${text}\n${PEER}`, { mode: 0o600 })
  write('')
  const told: unknown[] = []
  const lines: string[] = []
  const running = MECHANISMS.filter(({ role }) => role === 'host' || beside.includes(role)).map(
    (each: MechanismDescriptor) => ({
      descriptor: {
        ...each,
        ...(each.live && {
          live: {
            ...each.live,
            apply: (_: Mechanism, config: unknown) => {
              told.push(config)
              return apply(config as Config)
            },
          },
        }),
      } as MechanismDescriptor,
      mechanism: {} as Mechanism,
    }),
  )
  const made = new Reloader({
    state,
    running,
    list: MECHANISMS,
    config: parsed(PEER),
    setLogLevel: (level) => lines.push(level),
    setServices: () => lines.push('services'),
    log: (_, message) => lines.push(message),
  })
  return { write, told, lines, reload: () => made.reload() }
}

test('what a host can take takes effect, the rest waits for a restart and is named again the next time', async () => {
  const { write, told, lines, reload } = reloader('a')
  assert.deepEqual(await reload(), { applied: [], restart: [] })
  assert.equal(told.length, 0)
  write('[host]\nexcept = ["private"]\ncontrol = "selected"\n[log]\nlevel = "debug"')
  assert.deepEqual(await reload(), { applied: ['log.level', 'host.except'], restart: ['host.control'] })
  const { host } = told[0] as Config
  assert.deepEqual([host.except, host.control], [['private'], 'all'])
  assert.deepEqual(await reload(), { applied: [], restart: ['host.control'] })
  write('[access."wwan*"]\nuse = "backup"\n[log]\nlevel = "debug"')
  assert.deepEqual((await reload()).applied, ['access', 'host.except'])
  assert.ok(lines.includes('services') && lines.includes('debug'))
})

test('a file with a fault is refused and changes nothing; so is one of another role', async () => {
  const { write, told, reload } = reloader('b')
  write('[host]\nexept = ["private"]')
  await assert.rejects(reload, /godwit\.toml:2: host\.exept: unknown key `exept`; did you mean `except`\?/)
  write('[anchor]\nendpoint = "192.0.2.1:1"')
  await assert.rejects(reload, /this is an anchor, not a host/)
  assert.equal(told.length, 0)
  write('')
  assert.deepEqual(await reload(), { applied: [], restart: [] })
})

test('accesses take effect only where all that runs takes them; a mechanism that is wanted now needs a restart', async () => {
  const { write, reload } = reloader('c', ['dime'])
  write('[access.wwan0]\nuse = "backup"\n[dime]\nenabled = true')
  assert.deepEqual(await reload(), { applied: [], restart: ['access', 'dime.enabled'] })
  assert.equal(summary({ applied: ['a'], restart: ['b.c'] }), 'in effect: a; after a restart: b.c')
})

test('what a mechanism could not take is tried again with the next reload, and no service takes it alone', async () => {
  let isBroken = true
  const { write, told, lines, reload } = reloader('d', [], () => {
    if (isBroken) throw new Error('no buffer space')
  })
  write('[access.wwan0]\nuse = "backup"\n[log]\nlevel = "debug"')
  await assert.rejects(reload, /no buffer space/)
  assert.deepEqual(lines, ['host: only part of the new configuration is in effect; reload again'])
  isBroken = false
  assert.deepEqual((await reload()).applied, ['log.level', 'access'])
  assert.equal(told.length, 2)
  assert.deepEqual((await reload()).applied, [])
})

test('reloads at the same time come one after the other: the file as it is last is what is in effect', async () => {
  const waiting: (() => void)[] = []
  const { write, told, reload } = reloader('e', [], () => new Promise((done) => waiting.push(done)))
  const turn = () => new Promise((done) => setImmediate(done))
  write('[host]\nexcept = ["private"]')
  const first = reload()
  await turn()
  write('[host]\nprefer = ["wlan0"]')
  const second = reload()
  await turn()
  assert.equal(told.length, 1)
  waiting.shift()!()
  await first
  await turn()
  waiting.shift()!()
  assert.deepEqual((await second).applied, ['host.except', 'host.prefer'])
  assert.deepEqual((told[1] as Config).host.except, [])
  assert.deepEqual(await reload(), { applied: [], restart: [] })
})
