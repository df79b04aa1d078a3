/** Malformed configurations: file, line, reason, and how to mend it (issue: bad input). */
import assert from 'node:assert/strict'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { GodwitError } from '../../../src/core/errors.ts'
import { loadConfig, parseConfig } from '../../../src/host/configuration/config.ts'

const KEY = 'xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg='
const folder = mkdtempSync(join(tmpdir(), 'godwit-config-'))
after(() => rmSync(folder, { recursive: true }))

function faults(...lines: string[]): string[] {
  const result = parseConfig(lines.join('\n'))
  return 'faults' in result ? result.faults.map(({ line, path, reason }) => `${line} ${path}: ${reason}`) : []
}

test('an empty configuration is right, with every default', () => {
  const result = parseConfig('')
  assert.ok('config' in result)
  assert.equal(result.config.kernel.base, 6700)
  assert.equal(result.config.host.control, 'all')
})

test('UP-2: accesses, policies and peers as the reference shows them', () => {
  const text = readFileSync(join(import.meta.dirname, '../../../../docs/configuration.md'), 'utf8')
  const example = /```toml\n([\s\S]*?)```/.exec(text)?.[1]
  assert.ok(example)
  const result = parseConfig(example)
  assert.ok('config' in result, JSON.stringify(result))
  assert.equal(result.config.access['wwan*']?.use, 'backup')
  assert.equal(result.config.policy[0]?.match.length, 2)
})

test('OH-40: a router: peer key, subnets, accesses, classes, radios', () => {
  const lines = [
    '[router]',
    'accesses = ["wlan*", "wwan0"]',
    'subnets = ["10.1.0.0/24"]',
    'roaming = "eager"',
  ]
  const site = ['[[router.site]]', 'name = "home"', `public_key = "${KEY}"`, 'endpoint = "192.0.2.2:51820"']
  const rest = ['[[router.class]]', 'name = "voice"', 'match = ["port:5004"]', 'scheduler = "duplicate"']
  const result = parseConfig([...lines, ...site, 'subnets = ["10.2.0.0/24"]', ...rest].join('\n'))
  assert.ok('config' in result, JSON.stringify(result))
  const { router } = result.config
  assert.deepEqual([router?.site[0]?.keepalive_s, router?.class[0]?.unordered], [25, false])
  assert.deepEqual(faults(...lines, ...site, 'subnets = ["10.2.0.0/33"]').length, 1)
})

test('OH-40: what of a router cannot work together is told', () => {
  const site = (name: string, ...more: string[]) => [
    '[[router.site]]',
    `name = "${name}"`,
    `public_key = "${KEY}"`,
    ...more,
  ]
  const class_ = (name: string, match: string) => [
    ...['[[router.class]]', `name = "${name}"`],
    ...[`match = ["${match}"]`, 'scheduler = "duplicate"'],
  ]
  assert.deepEqual(
    faults(
      '[router]',
      'subnets = ["10.1.0.0/24"]',
      ...site('home', 'subnets = ["10.1.0.0/24"]', 'endpoint = "home.example:51820"'),
      ...site('home', 'subnets = ["10.2.0.0/24"]'),
      ...site('far', 'subnets = ["10.2.0.0/24", "0.0.0.0/0"]'),
    ),
    [
      '6 router.site[0].subnets[0]: 10.1.0.0/24 is behind this gateway already',
      '7 router.site[0].endpoint: this gateway has no `accesses` to reach it over; without them it waits',
      '9 router.site[1].name: a second site is called "home"',
      '15 router.site[2].subnets[0]: 10.2.0.0/24 is behind home already',
    ],
  )
  assert.deepEqual(
    faults(
      '[router]',
      'accesses = ["wlan*"]',
      ...class_('calls', 'app:linphone'),
      ...class_('rest', 'proto:udp+port:5004'),
      ...class_('bulk', 'all'),
      ...['[[router.radio]]', 'interface = "wwan0"'],
      ...['[[router.radio]]', 'interface = "wlan0"'],
      ...['[[router.radio]]', 'interface = "wlan0"'],
      '[anchor]',
      'endpoint = "home.example:51820"',
    ),
    [
      '1 router: this file already configures an anchor; give the router its own state folder (--state DIR)',
      '5 router.class[0].match[0]: "app:linphone": a gateway can tell only port:, to:, proto: and dscp:',
      '8 router.class[1].name: `rest` is what no class matches; `scheduler` is for it',
      '16 router.radio[0].interface: wwan0 is none of `accesses`: nothing would go over it',
      '20 router.radio[2].interface: a second radio is called "wlan0"',
    ],
  )
})

test('every fault is told with its line, where it is and what was meant', () => {
  assert.deepEqual(
    faults(
      '[log]',
      'level = "loud"',
      '[hots]',
      '[[peer]]',
      'name = "a"',
      'endpoint = "anchor"',
      `public_key = "${KEY}"`,
      '[[peer]]',
      'name = "b"',
      'endpoint = "anchor:51820"',
      'public_key = "short"',
      'alowed_ips = [',
      '  "10.0.0.0/8",',
      ']',
      '[access.wlan0]',
      'cost = "low"',
    ),
    [
      '2 log.level: must be one of "error", "warn", "info", "debug"',
      '3 hots: unknown key `hots`; did you mean `host`?',
      '6 peer[0].endpoint: "anchor" is not HOST:PORT, e.g. anchor.example.org:51820 or [2001:db8::1]:51820',
      '11 peer[1].public_key: a key is 44 characters of base64 that end in =',
      '12 peer[1].alowed_ips: unknown key `alowed_ips`; did you mean `allowed_ips`?',
      '16 access.wlan0.cost: must be a number, not a string in quotes',
    ],
  )
})

test('what is missing is told at its table, what is wrong between tables at its key', () => {
  const peer = ['[[peer]]', 'name = "a"', 'endpoint = "a:1"', `public_key = "${KEY}"`]
  assert.deepEqual(faults('', '[[policy]]', 'name = "calls"'), ['2 policy[0].prefer: `prefer` is missing'])
  assert.deepEqual(faults(...peer, ...peer), ['6 peer[1].name: a second peer is called "a"'])
  assert.deepEqual(faults('[[policy]]', 'name = "x"', 'prefer = ["*"]', 'peer = "nobody"'), [
    '4 policy[0].peer: there is no peer "nobody"',
  ])
  assert.deepEqual(faults('[host]', 'except = [', '  "port:22",', '  "app:ssh",', ']'), [
    '4 host.except[1]: "app:ssh": routes cannot see programs; start it with `godwit run --direct`, or name its control group (cgroup:PATH)',
  ])
})

test('what is not TOML at all is told with the line of the parser', () => {
  assert.match(faults('[log]', 'level =')[0]!, /^2 : /)
  assert.match(faults('a = 1', 'a = 2')[0]!, /^2 : /)
})

test('no text makes the parser throw, and every fault names a line of the text', () => {
  const words = fc.constantFrom(
    '[',
    ']',
    '=',
    '"',
    '\n',
    'peer',
    'log',
    'level',
    '.',
    '1',
    '#',
    "'''",
    '{',
    '}',
    ' ',
  )
  fc.assert(
    fc.property(fc.array(words, { maxLength: 40 }), (parts) => {
      const text = parts.join('')
      const result = parseConfig(text)
      if ('config' in result) return
      const lines = text.split('\n').length
      for (const { line } of result.faults) assert.ok(line >= 1 && line <= lines + 1, `${line} of ${lines}`)
    }),
    { numRuns: 500 },
  )
})

test('a file with a secret that others can read is refused; the error names file, line and mend', () => {
  const file = join(folder, 'godwit.toml')
  const peer = `[[peer]]\nname = "a"\nendpoint = "a:1"\npublic_key = "${KEY}"\npreshared_key = "${KEY}"\n`
  writeFileSync(file, peer)
  chmodSync(file, 0o644)
  assert.throws(() => loadConfig(file), { code: 'SECRET_EXPOSED', kind: 'usage', hint: `chmod 600 ${file}` })
  chmodSync(file, 0o600)
  assert.equal(loadConfig(file).peer[0]?.preshared_key, KEY)
  writeFileSync(file, '[log]\nlevel = 3\n')
  assert.throws(
    () => loadConfig(file),
    (error) => error instanceof GodwitError && error.message.startsWith(`${file}:2: log.level: `),
  )
  assert.throws(() => loadConfig(join(folder, 'none.toml')), { code: 'CONFIG_MISSING', kind: 'usage' })
})
