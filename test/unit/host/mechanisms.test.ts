/** House point 1: a configuration is the sum of its sections; everything walks one list of mechanisms. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { FlowFacts } from '../../../src/core/selector.ts'
import { loadConfig, parseConfig } from '../../../src/host/configuration/config.ts'
import {
  claimantOf,
  descriptorOf,
  loadConfigOf,
  type MechanismList,
  mechanismsFor,
  mechanismsToClean,
} from '../../../src/host/configuration/plan.ts'
import { configurationReference } from '../../../src/host/configuration/reference.ts'
import { jsonSchema } from '../../../src/host/configuration/schema.ts'
import { ControlClient } from '../../../src/host/control/client.ts'
import type { Status } from '../../../src/host/daemon/daemon.ts'
import { examine } from '../../../src/host/daemon/doctor.ts'
import { Log } from '../../../src/host/daemon/log.ts'
import { composeDaemon } from '../../../src/host/daemon/serve.ts'
import { DaemonServices } from '../../../src/host/daemon/services.ts'
import { MECHANISMS } from '../../../src/host/mechanisms.ts'
import { HostRecorder } from '../../../src/host/stores/recorder.ts'
import { State } from '../../../src/host/stores/state.ts'
import { toyCalls, toyDescriptor } from '../../support/toy-mechanism.ts'

/** The sixth mechanism by its one line. */
const SIX: MechanismList = [...MECHANISMS, toyDescriptor]

const folder = mkdtempSync(join(tmpdir(), 'godwit-mechanisms-'))
after(() => rmSync(folder, { recursive: true }))
const recorder = new HostRecorder(new Log('error', { write: () => {} }))

function stateWith(name: string, text: string): State {
  const state = new State({ state: join(folder, name) })
  state.prepare()
  writeFileSync(state.configFile, text, { mode: 0o600 })
  return state
}

test('a toy sixth mechanism is in the schema, the documentation and the checks of a configuration', () => {
  const { properties } = jsonSchema(SIX) as { properties: Record<string, object> }
  assert.ok('toy' in properties)
  assert.equal('toy' in (jsonSchema() as { properties: object }).properties, false)
  const reference = configurationReference(SIX)
  assert.match(reference, /^## \[toy\]$/m)
  assert.match(reference, /^\| `marbles` \| whole number.*How many it has\.* \|$/m)
  assert.match(reference, /^\| toy \| `toy` \| Carries nothing\. \|/m)
  assert.deepEqual(parseConfig('[toy]\nmarbels = 1', SIX), {
    faults: [{ line: 2, path: 'toy.marbels', reason: 'unknown key `marbels`; did you mean `marbles`?' }],
  })
  assert.ok('faults' in parseConfig('[toy]\nmarbles = 1'), 'without its line nobody knows it')
})

test('a toy sixth mechanism is in `doctor`', () => {
  const found = examine(SIX).find(({ name }) => name === 'a box of marbles')
  const value = { name: 'a box of marbles', ok: true, value: 'full', parts: ['toy'], required: false }
  assert.deepEqual(found, { ...value, mend: 'buy one' })
  assert.ok(
    examine(SIX)
      .find(({ name }) => name.startsWith('Node.js'))
      ?.parts.includes('toy'),
  )
  assert.equal(
    examine().some(({ name }) => name === 'a box of marbles'),
    false,
  )
})

test('`doctor` looks for openssl, which makes the certificates of servers, once for all who need it', () => {
  const found = examine().filter(({ name }) => name === 'openssl')
  assert.deepEqual(
    found.map(({ parts, required }) => ({ parts: [...parts].sort(), required })),
    [{ parts: ['anchor', 'overlay'], required: false }],
  )
})

test('a toy sixth mechanism runs, alone and beside others, and is in status, routes, metrics and `down`', async () => {
  const state = stateWith('toy', '[kernel]\ninstance = "toys"\n\n[toy]\nenabled = true\nmarbles = 7\n')
  const descriptor = descriptorOf('toy', SIX)
  const config = loadConfigOf(descriptor, state, { whole: true, list: SIX })
  const { daemon, services } = composeDaemon(config, state, recorder, mechanismsFor(descriptor, config, SIX))
  await daemon.start()
  const client = new ControlClient(state.socket)
  const status = await client.get<Status>('/v1/status')
  assert.equal(status.role, 'toy')
  assert.deepEqual(
    status.peers.map(({ name }) => name),
    ['nobody'],
  )
  assert.deepEqual(await client.get('/v1/toy'), { marbles: 7 })
  await daemon.stop()
  services.close()
  assert.deepEqual(toyCalls.splice(0), ['start toys 7', 'stop toys 7'])
  // `godwit up`, `anchor up` and `router up` of such a file run it too, and `down` cleans up after it.
  for (const role of ['host', 'anchor', 'router'])
    assert.deepEqual(
      mechanismsFor(descriptorOf(role, SIX), config, SIX).map((each) => each.role),
      [role, 'toy'],
    )
  const clean = mechanismsToClean(claimantOf(config, SIX), config, SIX)
  assert.deepEqual(
    clean.map((each) => each.role),
    ['host', 'dime', 'mptcp', 'toy'],
  )
  await clean.at(-1)!.compose(config, services).cleanUp()
  assert.deepEqual(toyCalls.splice(0), ['cleanUp toys 7'])
})

test('what a command runs is the sum of the sections', () => {
  const roles = (role: string, text: string) => {
    const parsed = parseConfig(text)
    assert.ok('config' in parsed, JSON.stringify(parsed))
    return mechanismsFor(descriptorOf(role), parsed.config).map((each) => each.role)
  }
  const dime = '\n[dime]\nenabled = true\n'
  const anchor = '[anchor]\nendpoint = "a.example:51820"\n'
  const router = '[router]\nendpoint = "h.example:51820"\n'
  assert.deepEqual(roles('anchor', anchor), ['anchor'])
  assert.deepEqual(roles('anchor', anchor + dime), ['anchor', 'dime'])
  assert.deepEqual(roles('router', router + dime), ['router', 'dime'])
  assert.deepEqual(roles('host', dime), ['host', 'dime'])
  assert.deepEqual(roles('dime', anchor + dime), ['dime'], '`dime up` runs nothing else')
  const both = parseConfig(anchor + router)
  assert.ok('faults' in both && /this file already configures an anchor/.test(both.faults[0]!.reason))
})

test('the commands refuse files of others in the words that they always had', () => {
  const refused = (role: string, text: string, whole = true) => {
    const state = stateWith('refused', text)
    try {
      loadConfigOf(descriptorOf(role), state, { whole })
      return undefined
    } catch (error) {
      return (error as { code: string }).code
    }
  }
  const anchor = '[anchor]\nendpoint = "a.example:51820"\n'
  const router = '[router]\nendpoint = "h.example:51820"\n'
  assert.equal(refused('host', anchor), 'NOT_A_HOST')
  assert.equal(refused('host', ''), 'NO_PEER')
  assert.equal(refused('host', '', false), undefined, '`down` needs no peer')
  assert.equal(refused('anchor', router), 'NOT_AN_ANCHOR')
  assert.equal(refused('router', anchor), 'NOT_A_ROUTER')
  assert.equal(refused('router', router), 'NO_SITE')
  assert.equal(refused('router', router, false), undefined)
  const none = new State({ state: join(folder, 'none') })
  assert.equal(loadConfigOf(descriptorOf('dime'), none).dime.port, 1021, '`dime up` needs no file')
  assert.throws(() => loadConfig(none.configFile), { code: 'CONFIG_MISSING' })
})

test('house point 4: every mechanism says what it can do for a flow, and why not', () => {
  const text = ['[host]', 'except = ["port:22"]', '[anchor]', 'endpoint = "a.example:51820"'].join('\n')
  const state = stateWith('offers', text)
  const config = loadConfig(state.configFile)
  const offers = (role: string, flow: FlowFacts, of = config) => {
    const services = new DaemonServices(of, state, recorder, [descriptorOf(role)])
    try {
      return descriptorOf(role).compose(of, services).offer(flow)
    } finally {
      services.close()
    }
  }
  const flow = { proto: 6, dst: Uint8Array.of(203, 0, 113, 9), dstPort: 443 }
  assert.deepEqual(offers('host', flow), {
    mechanism: 'anchoring',
    carries: false,
    reason: 'no anchor answers',
    cost: { bytes: 82, rtt_ms: null },
    survives: ['access', 'address', 'outage', 'restart'],
    needs: [],
  })
  assert.equal(offers('host', { ...flow, dstPort: 22 }).reason, 'port:22 bypasses godwit ([host] except)')
  assert.equal(offers('anchor', flow).carries, false)
  assert.deepEqual(offers('anchor', flow).survives, [])
  assert.equal(offers('dime', flow).reason, 'it has not started')
  assert.deepEqual(offers('dime', flow).cost, { bytes: 0, rtt_ms: null })
  const key = Buffer.alloc(32, 1).toString('base64')
  const site = `[router]\nsubnets = ["10.1.0.0/24"]\nendpoint = "h.example:51820"\n[[router.site]]\nname = "bus"\npublic_key = "${key}"\nsubnets = ["10.2.0.0/24"]\n`
  const router = parseConfig(site)
  assert.ok('config' in router, JSON.stringify(router))
  assert.match(offers('router', flow, router.config).reason, /no site has the destination/)
  const home = { ...flow, dst: Uint8Array.of(10, 2, 0, 9) }
  assert.equal(offers('router', home, router.config).reason, 'nothing answers at bus')
})
