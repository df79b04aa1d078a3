/** Every route of every kind of daemon answers every JSON value: 400 and what was wrong, never 500, never a stack. */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import fc from 'fast-check'
import type { ControlRoute, Mechanism } from '../../../src/core/mechanism.ts'
import { loadConfig, parseConfig } from '../../../src/host/configuration/config.ts'
import type { MechanismList } from '../../../src/host/configuration/plan.ts'
import { Daemon } from '../../../src/host/daemon/daemon.ts'
import { Log } from '../../../src/host/daemon/log.ts'
import { DaemonServices } from '../../../src/host/daemon/services.ts'
import { MECHANISMS } from '../../../src/host/mechanisms.ts'
import { initAnchor } from '../../../src/host/provisioning/anchoring.ts'
import { initRouter } from '../../../src/host/provisioning/routing.ts'
import { HostRecorder } from '../../../src/host/stores/recorder.ts'
import { State } from '../../../src/host/stores/state.ts'
import { extent, some } from '../../support/extent.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-routes-'))
const lines: string[] = []
const recorder = new HostRecorder(new Log('info', { write: (line) => lines.push(line), stamp: false }))
const state = new State({ state: join(folder, 'all') })
let daemon: Daemon
let routes: readonly ControlRoute[]

const open: DaemonServices[] = []

/** The mechanisms of the list, composed and not started: their handlers are the real ones. */
function everyMechanism(): readonly Mechanism[] {
  const list: MechanismList = MECHANISMS
  return list.map((descriptor) => {
    const own = new State({ state: join(folder, descriptor.role) })
    if (descriptor.role === 'anchor') initAnchor(own, 'anchor.example.org:51820')
    else if (descriptor.role === 'router')
      initRouter(own, { subnets: ['10.2.0.0/24'], endpoint: 'home.example.org:51820', accesses: [] })
    const parsed = existsSync(own.configFile) ? { config: loadConfig(own.configFile) } : parseConfig('')
    assert.ok('config' in parsed)
    const services = new DaemonServices(parsed.config, own, recorder, [descriptor])
    open.push(services)
    return descriptor.compose(parsed.config, services)
  })
}

before(async () => {
  const mechanisms = everyMechanism()
  const idle: Mechanism = {
    name: 'idle',
    start: async () => {},
    stop: async () => {},
    cleanUp: async () => {},
    peers: () => [],
    flows: () => [],
    move: async () => undefined,
    why: () => undefined,
    offer: () => ({
      mechanism: 'memory',
      carries: false,
      reason: '',
      cost: { bytes: 0, rtt_ms: null },
      survives: [],
      needs: [],
    }),
  }
  routes = mechanisms.flatMap((mechanism) => mechanism.routes ?? [])
  state.prepare()
  const instance = `routes-${process.pid}`
  const accesses = () => [{ name: 'acc1', state: 'up', addresses: [], rtt_ms: null, loss: null }] as const
  const reload = async () => ({ applied: [], restart: [] })
  const mechanism = { mechanisms: [idle], recorder, instance, routes, accesses, reload }
  daemon = new Daemon({ role: 'host', version: '1', state, ...mechanism })
  await daemon.start()
})
after(async () => {
  await daemon.stop()
  for (const services of open) services.close()
  rmSync(folder, { recursive: true })
})

const OWN = [
  ['GET', '/v1/status'],
  ['GET', '/v1/why'],
  ['GET', '/v1/run'],
  ['POST', '/v1/reload'],
  ['POST', '/v1/move'],
  ['POST', '/v1/run'],
  ['POST', '/v1/run/end'],
] as const
/** Needs no body: nothing to be wrong. */
const BARE = ['/v1/dime/rekey', '/v1/reload']

/** Values of every JSON type, and objects that are nearly right. */
const VALUES: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  1e308,
  '',
  'all',
  '\u0000\uffff',
  [],
  [null],
  [{}],
  { what: null },
  { __proto__: null, toString: 1 },
]
const FIELDS = ['what', 'access', 'static', 'pid', 'command', 'policy', 'id', 'name', 'wg', 'scheduler']

interface Answer {
  readonly status: number
  readonly text: string
}

function ask(method: string, path: string, body?: string): Promise<Answer> {
  return new Promise((done, fail) => {
    const outgoing = request({ socketPath: state.socket, method, path, agent: false }, (response) => {
      let text = ''
      response.on('data', (chunk) => {
        text += chunk
      })
      response.on('end', () => done({ status: response.statusCode ?? 0, text }))
    })
    outgoing.on('error', fail)
    outgoing.end(body)
  })
}

test('docs/security.md says of every route what members of the group can do with it', () => {
  const text = readFileSync(new URL('../../../../docs/security.md', import.meta.url), 'utf8')
  const listed = [...text.matchAll(/^\| `(GET|POST) (\/\S+)` \|/gm)].map(
    ([, method, path]) => `${method} ${path}`,
  )
  const known = [
    ...OWN.map((each) => each.join(' ')),
    ...routes.map(({ method, path }) => `${method} ${path}`),
    'GET /metrics',
  ]
  assert.deepEqual(listed.sort(), known.sort())
})

/** Never our fault, never a stack: neither to the caller nor in the log. */
function checkAnswer({ status, text }: Answer, about: string): void {
  assert.ok([200, 400, 404, 409].includes(status), `${about}: ${status} ${text}`)
  if (!text.startsWith('#')) JSON.parse(text)
  assert.doesNotMatch(text, /\bat .*:\d+:\d+/, about)
  assert.doesNotMatch(lines.join(''), /error while answering/, about)
}

function every(method: string): string[] {
  const added = routes.filter((route) => route.method === method).map(({ path }) => path)
  return [...OWN.filter(([each]) => each === method).map(([, path]) => path), ...added]
}

test('every route: a body of another JSON type, or with wrong fields, is 400 and says what was wrong', async () => {
  assert.ok(every('POST').length >= 7)
  for (const path of every('POST')) {
    for (const value of VALUES) {
      const about = `${path} ${JSON.stringify(value)}`
      const answer = await ask('POST', path, JSON.stringify(value))
      checkAnswer(answer, about)
      assert.equal(answer.status, 400, about)
      const { message } = JSON.parse(answer.text).error
      assert.match(message, /^the request's body: (Invalid input: expected|Unrecognized key|`)/, about)
    }
    for (const field of some(FIELDS)) {
      for (const value of VALUES)
        checkAnswer(await ask('POST', path, JSON.stringify({ [field]: value })), path)
    }
    for (const text of ['{', 'nonsense', '{"what":', '\xff']) {
      const answer = await ask('POST', path, text)
      checkAnswer(answer, path)
      assert.equal(answer.status, 400)
    }
    const empty = await ask('POST', path)
    assert.equal(empty.status, BARE.includes(path) ? 200 : 400)
  }
  const wrong = await ask('POST', '/v1/move', '{"what":"all","access":7}')
  assert.equal(
    JSON.parse(wrong.text).error.message,
    "the request's body: `access`: Invalid input: expected string, received number",
  )
  assert.equal(
    JSON.parse((await ask('POST', '/v1/move', 'null')).text).error.message,
    "the request's body: Invalid input: expected object, received null",
  )
})

test('every route: any JSON, any query and any path are answered, and the daemon goes on', async () => {
  const fields = fc.dictionary(fc.constantFrom(...FIELDS, '__proto__', 'constructor'), fc.jsonValue())
  const body = fc.oneof(fc.jsonValue(), fields).map((value) => JSON.stringify(value))
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...every('POST')), body, async (path, text) => {
      checkAnswer(await ask('POST', path, text), `${path} ${text}`)
    }),
    { numRuns: extent(200) },
  )
  const query = fc.webQueryParameters().map((text) => `?${text}`)
  const odd = fc.constantFrom('//', '//[', '/..', '*', '/%', '/v1/%zz', '/v1/move', '/metrics', '/?flow')
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS'),
      fc.oneof(fc.constantFrom(...every('GET')), odd),
      fc.oneof(query, fc.constant(''), fc.constant('?flow=__proto__')),
      async (method, path, search) => {
        const answer = await ask(method, path + search)
        checkAnswer(method === 'HEAD' ? { ...answer, text: '{}' } : answer, `${method} ${path}${search}`)
      },
    ),
    { numRuns: extent(100) },
  )
  assert.equal((await ask('GET', '/v1/status')).status, 200)
})
