/**
 * The overlay's signalling, Table 4 of the paper: authentication, registration, and the construction of a tunnel between a node
 * with a global address and one behind a NAT (Fig. 5), each span by itself, from the node's own trace.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { nodeCrypto } from '../../src/crypto/node-crypto.ts'
import { usesPrograms } from '../../src/linux/packages.ts'
import { renewalProof } from '../../src/overlay/machine/secrets.ts'
import { Godwit } from '../product.ts'
import { percentile, type Scenario, type ScenarioContext } from '../scenario.ts'
import { handoverCount } from './handovers.ts'

const SERVER = '203.0.113.2'
const ZONE = 'lab.example'
/** More logins a minute from one address are refused. */
const LOGINS = 8
/** Connections that one address may make at once. */
const RENEWALS = 25

interface Step {
  readonly at: number
  readonly from: string
  readonly to: string
  readonly what: string
}

usesPrograms('curl', 'ip')

export const ntmSignalling: Scenario = {
  name: 'ntm-signalling',
  summary: 'overlay: how long login, registration and the construction of a tunnel take (Table 4)',
  topology: 'ntm',
  paper: {
    authentication_ms: '152.0 / 179.1 / 226.6 (least, mean, most of 100)',
    registration_ms: '57.4 / 64.7 / 71.3',
    construction_ms: '137 / 169 / 191',
    'direction request → route direction': '112.0 / 134.6 / 151.8',
    'tunnel request → tunnel response': '13.8 / 29.3 / 45.5',
  },
  async run(context) {
    const trials = handoverCount(context, 100)
    const server = new Godwit(context, 'srv')
    await server.run('overlay', 'init', '--zone', ZONE, '--endpoint', SERVER, '--dns-port', '0')
    await server.daemon('overlay', 'serve')
    const {
      password,
      pin,
      server: url,
    } = await server.json<Record<string, string>>(...['overlay', 'account', 'add', 'carol'])
    const nodes = ['mh', 'cn'].map((role) => new Godwit(context, role))
    const [mh] = nodes
    for (const node of nodes) {
      // The machine's own /etc/resolv.conf is not theirs.
      node.configure('[overlay]\ndns = "none"\n')
      const words = ['overlay', 'login', 'carol', '--server', url!, '--pin', pin!, '--name', node.role]
      await node.runWith(password!, ...words)
      await node.daemon('overlay', 'up')
    }
    context.start()
    const spans = new Spans(context)
    for (let n = 0; n < LOGINS; n++) spans.add('authentication_ms', await loginTook(context, url!, password!))
    for (let n = 0; n < RENEWALS; n++) spans.add('renewal_ms', await renewalTook(context, url!, mh!))
    const control = new Control(context, mh!)
    for (let n = 0; n < trials; n++) {
      const since = await control.lastStep()
      // Another address on the access: the node registers anew (Fig. 7 step 3).
      const word = n % 2 === 0 ? 'add' : 'del'
      await context.lab.programs.run('mh', 'ip', ['address', word, '203.0.113.11/24', 'dev', 'acc1'])
      const steps = await control.untilStep(since, 'REGISTRATION_RESPONSE')
      spans.between('registration_ms', steps, 'REGISTRATION_REQUEST', 'REGISTRATION_RESPONSE')
      if ((n + 1) % 20 === 0) context.note(`${n + 1} of ${trials} registrations`)
    }
    for (let n = 0; n < trials; n++) {
      const since = await control.lastStep()
      await control.post('resolve', 'cn')
      const steps = await control.untilStep(since, 'TUNNEL_RESPONSE')
      spans.between('direction_ms', steps, 'DIRECTION_REQUEST', 'ROUTE_DIRECTION')
      spans.between('tunnel_request_ms', steps, 'TUNNEL_REQUEST', 'TUNNEL_RESPONSE')
      spans.between('construction_ms', steps, 'DIRECTION_REQUEST', 'TUNNEL_RESPONSE')
      await control.post('forget', 'cn')
      if ((n + 1) % 20 === 0) context.note(`${n + 1} of ${trials} constructions`)
    }
    for (const [name, most] of [
      ['authentication_ms', 20],
      ['renewal_ms', 20],
      ['registration_ms', 5],
      ['construction_ms', 10],
    ] as const)
      spans.check(name, most)
    spans.report()
  },
}

class Spans {
  readonly #context: ScenarioContext
  readonly #spans = new Map<string, number[]>()

  constructor(context: ScenarioContext) {
    this.#context = context
  }

  add(name: string, ms: number): void {
    this.#spans.set(name, [...(this.#spans.get(name) ?? []), ms])
  }

  /** From the first `begin` to the first `end` after it. */
  between(name: string, steps: readonly Step[], begin: string, end: string): void {
    const from = steps.find(({ what }) => what === begin)
    const to = steps.find(({ what, at }) => what === end && from !== undefined && at >= from.at)
    if (from !== undefined && to !== undefined) this.add(name, to.at - from.at)
  }

  check(name: string, most: number): void {
    const values = this.#spans.get(name) ?? []
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length
    const value = `${mean.toFixed(2)} ms, mean of ${values.length}`
    this.#context.check(name.replace('_ms', ''), mean <= most, value, `at most ${most} ms`)
  }

  report(): void {
    for (const [name, values] of this.#spans) {
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length
      const all = [Math.min(...values), mean, percentile(values, 0.95), Math.max(...values)]
      this.#context.metric(`${name}_least_mean_p95_most`, all)
      this.#context.metric(`${name}_trials`, values.length)
    }
  }
}

/** The node's control socket, without a program of godwit's own each time. */
class Control {
  readonly #context: ScenarioContext
  readonly #socket: string

  constructor(context: ScenarioContext, node: Godwit) {
    this.#context = context
    this.#socket = join(node.state, 'control.sock')
  }

  async post(what: string, name: string): Promise<void> {
    await this.#curl(`http://godwit/v1/overlay/${what}`, '-d', JSON.stringify({ name }))
  }

  async lastStep(): Promise<number> {
    return (await this.#steps()).at(-1)?.at ?? 0
  }

  /** What was said after `since`, once this was among it. */
  async untilStep(since: number, what: string): Promise<Step[]> {
    for (let i = 0; i < 400; i++) {
      const steps = (await this.#steps()).filter(({ at }) => at > since)
      if (steps.some((step) => step.what === what)) return steps
      await this.#context.sleep(25)
    }
    throw new Error(`no ${what} within ten seconds`)
  }

  async #steps(): Promise<Step[]> {
    const text = await this.#curl('http://godwit/v1/overlay/trace')
    return (JSON.parse(text) as { steps: Step[] }).steps
  }

  #curl(url: string, ...more: string[]): Promise<string> {
    return this.#context.lab.programs.run('mh', 'curl', ['-s', '--unix-socket', this.#socket, ...more, url])
  }
}

/** `POST /v1/login`: TLS, scrypt, a commit. */
function loginTook(context: ScenarioContext, url: string, password: string): Promise<number> {
  const key = Buffer.alloc(32, 7).toString('base64')
  return postTook(context, `${url}/v1/login`, { account: 'carol', password, node: 'probe', public_key: key })
}

/** `POST /v1/renew`: TLS, the proof of the key that the login gave, a commit. */
function renewalTook(context: ScenarioContext, url: string, node: Godwit): Promise<number> {
  const login = JSON.parse(readFileSync(join(node.state, 'overlay-login.json'), 'utf8')) as Record<
    string,
    string
  >
  const [key, keyId] = [login.key!, login.key_id!].map((text) => Buffer.from(text, 'base64'))
  const proof = Buffer.from(renewalProof(nodeCrypto, key!, keyId!)).toString('base64')
  return postTook(context, `${url}/v1/renew`, { key_id: login.key_id, proof })
}

/** On a connection of its own. */
async function postTook(context: ScenarioContext, url: string, body: object): Promise<number> {
  const file = join(context.scratch, 'request.json')
  writeFileSync(file, JSON.stringify(body))
  const taken = await context.lab.programs.run('mh', 'curl', [
    ...['-sk', '-o', '/dev/null', '-w', '%{time_total} %{http_code}', '-d', `@${file}`, url],
  ])
  const [seconds, status] = taken.split(' ')
  if (status?.trim() !== '200') throw new Error(`${url}: ${taken}`)
  return 1000 * Number(seconds)
}
