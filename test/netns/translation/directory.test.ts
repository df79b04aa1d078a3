/** Keys from the DNS: a validating resolver (unbound) on the host, a signed reverse zone (DI-39, issue 11, 6). */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { findProgram, usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, until } from './bed.ts'
import { ECHO_SERVER, echoed, lines, startSession } from './flows.ts'

usesPrograms('unbound', 'ldns-keygen', 'ldns-signzone')

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const ZONE = '0.3.10.in-addr.arpa'

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

const run = (program: string, ...args: string[]): string =>
  execFileSync(findProgram(program) ?? program, args, { cwd: bed.folder, encoding: 'utf8' })

/** Signs the zone with this line in it; the key that signs is made once. */
function sign(line: string): string {
  const key = () => readdirSync(bed.folder).find((name) => /^K.*\.private$/.test(name))
  if (key() === undefined) run('ldns-keygen', '-a', 'ED25519', '-k', ZONE)
  const zone = join(bed.folder, 'zone')
  writeFileSync(
    zone,
    `${ZONE}. 600 IN SOA ns.${ZONE}. admin.${ZONE}. 1 600 600 86400 600\n${ZONE}. 600 IN NS ns.${ZONE}.\n${line.replace(' IN ', ' 600 IN ')}\n`,
  )
  run('ldns-signzone', '-f', `${zone}.signed`, zone, key()!.replace('.private', ''))
  return readFileSync(`${zone}.signed`, 'utf8')
}

/** The resolver of m, with the zone as its own copy, which it validates as any. */
async function resolver(zone: string, anchored = true): Promise<() => void> {
  const file = join(bed.folder, 'zone.signed')
  writeFileSync(file, zone)
  const anchor = readdirSync(bed.folder).find((name) => /^K.*\.key$/.test(name))!
  const config = join(bed.folder, 'unbound.conf')
  writeFileSync(
    config,
    `server:
  interface: 127.0.0.1
  do-daemonize: no
  chroot: ""
  username: ""
  directory: "${bed.folder}"
  pidfile: "${bed.folder}/unbound.pid"
  use-syslog: no
  logfile: ""
  local-zone: "10.in-addr.arpa." nodefault
  local-data: "c.test. 60 IN A 10.3.0.2"
  module-config: "validator iterator"
  ${anchored ? `trust-anchor-file: "${join(bed.folder, anchor)}"` : ''}
${
  zone === ''
    ? ''
    : `auth-zone:
  name: "${ZONE}."
  zonefile: "${file}"
  for-downstream: no
  for-upstream: yes
  fallback-enabled: no`
}
remote-control:
  control-enable: no
`,
  )
  const program = bed.spawn('m', findProgram('unbound')!, ['-d', '-c', config], 'pipe')
  let said = ''
  program.stderr!.on('data', (bytes) => {
    said += bytes
  })
  await until(`unbound runs: ${said}`, () => said.includes('start of service'), 10)
  return () => program.kill('SIGKILL')
}

test('DI-39: the key that a signed zone binds to the address is believed, another or a bogus one is not, and an unsigned one binds nothing', async () => {
  const finish = await startSession(bed, '10.3.0.2')
  await bed.daemon('c')
  const [line = ''] = bed
    .run('c', process.execPath, GODWIT, 'dime', 'key', 'dns', '10.3.0.2', '--state', bed.state('c'))
    .split('\n')
  bed.settings = 'directory = "dns"\nresolver = "127.0.0.1"'
  const state = async (): Promise<string | undefined> => (await bed.hosts('m'))[0]?.state
  const right = sign(line)
  const key = Buffer.from(line.split(' ').at(-1)!, 'hex').subarray(3)
  const another = key.map((byte) => byte ^ 1)
  const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
  const forged = right.replace(text(key), text(another))
  assert.notEqual(forged, right)
  for (const [zone, anchored, refused] of [
    [sign(line.replace(key.toString('hex'), Buffer.from(another).toString('hex'))), true, undefined],
    [forged, true, /bogus.*SERVFAIL.*not greeted/],
  ] as const) {
    const stop = await resolver(zone, anchored)
    await bed.daemon('m')
    await until('m has asked c three times in vain', async () => (await state()) === 'plain', 20)
    if (refused !== undefined) await until(`m says ${refused}`, () => refused.test(bed.log('m')), 20)
    assert.ok(
      (await bed.hosts('c')).every((h) => h.state !== 'peer'),
      'nor did m answer c',
    )
    await bed.end('m')
    stop()
  }
  for (const anchored of [false, true]) {
    const stop = await resolver(right, anchored)
    await bed.daemon('m')
    await until('c is a peer', async () => (await state()) === 'peer', 20)
    assert.equal(/bind nothing/.test(bed.log('m')), !anchored)
    if (anchored) {
      await bed.greeted()
      bed.up(2)
      bed.down(1)
      await until('it moved', async () => (await bed.sockets('c')).some((s) => s.wire === '10.2.0.2'))
      echoed(await finish())
    }
    await bed.end('m')
    stop()
  }
})

/** A program that resolves a name as programs do, and connects. */
const BY_NAME = `
  const resolver = new (require('node:dns').Resolver)()
  resolver.setServers(['127.0.0.1'])
  const lookup = (name, options, done) => resolver.resolve4(name, (error, ips) =>
    options.all ? done(error, (ips ?? []).map((address) => ({ address, family: 4 }))) : done(error, ips?.[0], 4))
  const s = require('node:net').connect({ host: 'c.test', port: 80, lookup }, () => console.log('ready ' + s.remoteAddress))
  s.on('data', (b) => console.log('echo ' + b)).on('error', (e) => console.log('error ' + e.code))
  process.stdin.on('data', (b) => s.write(b))`

test('DI-14: names are resolved by programs as ever; the address is learned from the connection, and asked of no name server', async () => {
  const stop = await resolver('', false)
  await lines(bed.spawn('c', process.execPath, ['-e', ECHO_SERVER], 'pipe')).wait('ready')
  await bed.daemon('c')
  await bed.daemon('m')
  const client = bed.spawn('m', process.execPath, ['-e', BY_NAME], 'pipe')
  const out = lines(client)
  await out.wait('ready 10.3.0.2')
  stop() // from now on no name has an address
  await bed.greeted()
  assert.deepEqual(
    (await bed.sockets('m')).map((s) => s.bound),
    ['10.3.0.2:80'],
  )
  bed.down(1)
  bed.up(2)
  await until('c sends to acc2', async () => (await bed.sockets('c')).some((s) => s.wire === '10.2.0.2'))
  client.stdin!.write('by name')
  await out.wait('echo by name')
})
