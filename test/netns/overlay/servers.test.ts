/** The overlay's servers as programs: set up, logins, the zone for dig and for a resolver that finds it by delegation. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { renewalProof } from '../../../src/overlay/machine/secrets.ts'
import { unboundConfiguration } from '../../support/unbound.ts'

usesPrograms('curl', 'dig', 'ip', 'openssl', 'unbound')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const SRV = '192.0.2.2'
const RESOLVER = '192.0.2.3'

describe('servers of a zone', () => {
  let lab: Lab
  let folder: string
  let server: Program
  let password: string
  const state = () => join(folder, 'state')
  const godwit = (...args: string[]) =>
    lab.programs.run('srv', process.execPath, [GODWIT, 'overlay', ...args, '--state', state()])
  const dig = (...args: string[]) => lab.programs.run('client', 'dig', ['+tries=1', '+time=3', ...args])
  const login = (body: object) =>
    lab.programs.run('client', 'curl', [
      ...['-sk', '--max-time', '10', '-w', ' %{http_code}', '-d', JSON.stringify(body)],
      `https://${SRV}:6741/v1/login`,
    ])
  const serve = async () => {
    const args = [GODWIT, 'overlay', 'serve', '--state', state()]
    server = await lab.programs.start('srv', process.execPath, args, { log: join(folder, 'server.log') })
    await server.expect((line) => line.trim() === 'ready', 30_000)
  }

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-overlay-'))
    lab = await Lab.build({
      name: 'overlay-servers',
      summary: 'servers of a zone, a resolver, and a host',
      hosts: { srv: {}, res: {}, client: {}, net: { bridge: true } },
      links: (
        [
          ['srv', SRV],
          ['res', RESOLVER],
          ['client', '192.0.2.4'],
        ] as const
      ).map(([host, address]) => ({
        name: host,
        ends: [
          { host, iface: 'wan', addresses: [`${address}/24`] },
          { host: 'net', iface: host },
        ],
      })),
    })
    const said = await godwit('init', '--zone', 'home.example', '--endpoint', SRV)
    assert.match(said, /home\.example\. NS dc\.home\.example\./)
    password = /password: (\S+)/.exec(await godwit('account', 'add', 'carol'))![1]!
    await serve()
  })
  after(async () => {
    await lab?.close()
    rmSync(folder, { recursive: true, force: true })
  })

  it('NT-10, NT-12, NT-13: a login gives the key and names the coordinator; wrong passwords and names of others do not', async () => {
    const publicKey = encodeKey(publicKeyOf(generatePrivateKey()))
    const request = { account: 'carol', password, node: 'nas', public_key: publicKey }
    const answer = await login(request)
    assert.match(answer, / 200$/)
    const { name, coordinator, key } = JSON.parse(answer.slice(0, -4)) as Record<string, string>
    assert.deepEqual([name, coordinator], ['nas.home.example', `${SRV}:6741`])
    assert.equal(Buffer.from(key!, 'base64').length, 32)
    assert.match(await login({ ...request, password: `${password}x` }), / 401$/)
    assert.match(await login({ ...request, account: 'dave' }), / 401$/)
    const other = /password: (\S+)/.exec(await godwit('account', 'add', 'erin'))![1]!
    assert.match(await login({ ...request, account: 'erin', password: other }), / 403$/)
    assert.match(await login({ ...request, node: 'dc' }), / 403$/)
    assert.match(await login({ nonsense: 1 }), / 400$/)
    assert.match(await godwit('account', 'list'), /carol +\S+ +nas\.home\.example/)
  })

  it('NT-13: who has the login key prolongs the login until it is revoked; nobody else does', async () => {
    const publicKey = encodeKey(publicKeyOf(generatePrivateKey()))
    const said = await login({ account: 'carol', password, node: 'tablet', public_key: publicKey })
    const { key_id, key, expires } = JSON.parse(said.slice(0, -4)) as {
      key_id: string
      key: string
      expires: number
    }
    assert.ok(Math.abs(expires - Date.now() / 1000 - 90 * 86_400) < 600)
    const proofWith = (secret: Uint8Array) =>
      Buffer.from(renewalProof(nodeCrypto, secret, Buffer.from(key_id, 'base64'))).toString('base64')
    const renew = (proof: string) =>
      lab.programs.run('client', 'curl', [
        ...['-sk', '--max-time', '10', '-w', ' %{http_code}', '-d', JSON.stringify({ key_id, proof })],
        `https://${SRV}:6741/v1/renew`,
      ])
    const right = proofWith(Buffer.from(key, 'base64'))
    assert.match(await renew(right), /"expires":\d+} 200$/)
    assert.match(await renew(proofWith(new Uint8Array(32))), / 401$/)
    assert.match(await godwit('account', 'nodes', 'carol'), /tablet\.home\.example +carol +20\d\d-/)
    assert.match(await godwit('account', 'revoke', 'tablet'), /tablet\.home\.example/)
    assert.match(await renew(right), /LOGIN_ENDED.* 401$/)
    assert.match(await godwit('account', 'nodes'), /tablet\.home\.example +carol +revoked/)
  })

  it('guesses of one account are limited', async () => {
    const body = { account: 'mallory', password: 'x', node: 'm', public_key: encodeKey(new Uint8Array(32)) }
    const answers = await Promise.all(Array.from({ length: 14 }, () => login(body)))
    assert.ok(answers.some((answer) => answer.endsWith(' 429')))
  })

  it('one source keeps nobody out: neither by connections that it leaves open, nor by guessing the password of an account', async () => {
    const publicKey = encodeKey(publicKeyOf(generatePrivateKey()))
    const request = { account: 'carol', password, node: 'phone', public_key: publicKey }
    const program = `
      const net = require('node:net')
      let open = 0
      for (let i = 0; i < 700; i++) for (const port of [6741, 53])
        net.connect(port, '${SRV}', () => { if (++open === 300) console.log('open') }).on('error', () => {})
      setTimeout(() => console.log('open'), 3000)
      setInterval(() => {}, 1000)`
    const greedy = await lab.programs.start('client', process.execPath, ['-e', program])
    await greedy.expect((line) => line === 'open', 20_000)
    const body = JSON.stringify(request)
    const loginFromElsewhere = () =>
      lab.programs.run('res', 'curl', [
        ...['-sk', '--max-time', '10', '-w', ' %{http_code}', '-d', body],
        `https://${SRV}:6741/v1/login`,
      ])
    assert.match(await loginFromElsewhere(), / 200$/)
    const query = ['+tcp', '+tries=1', '+time=3', '+short', `@${SRV}`, 'home.example', 'NS']
    assert.match(await lab.programs.run('res', 'dig', query), /dc\.home/)
    await greedy.stop()
    const guesses = `
      const https = require('node:https')
      let left = 30
      const guess = () => {
        const call = https.request('https://${SRV}:6741/v1/login', { method: 'POST', rejectUnauthorized: false, agent: false }, (r) => {
          r.resume().on('end', () => (--left > 0 ? guess() : console.log('done')))
        })
        call.on('error', () => (--left > 0 ? guess() : console.log('done')))
        call.end(JSON.stringify({ account: 'carol', password: 'x', node: 'm', public_key: '${publicKey}' }))
      }
      guess()`
    const guesser = await lab.programs.start('client', process.execPath, ['-e', guesses])
    await guesser.expect((line) => line === 'done', 30_000)
    assert.match(await loginFromElsewhere(), / 200$/)
  })

  it('NT-17: dig gets SOA, NS, SRV, TXT over UDP and TCP, with and without EDNS; transfers are refused', async () => {
    const short = (...args: string[]) => dig(`@${SRV}`, '+short', ...args)
    for (const way of ['+tcp', '+notcp', '+noedns', '+bufsize=512']) {
      assert.match(
        await short('home.example', 'SOA', way),
        /^dc\.home\.example\. hostmaster\.home\.example\./,
      )
      assert.equal((await short('home.example', 'NS', way)).trim(), 'dc.home.example.')
      assert.equal((await short('dc.home.example', 'A', way)).trim(), SRV)
      assert.equal((await short('_ntm._udp.home.example', 'SRV', way)).trim(), '0 0 6741 dc.home.example.')
    }
    assert.match(await short('_ntm.home.example', 'TXT'), /v=1 k=\S{44} s=\S{44}/)
    assert.match(await dig(`@${SRV}`, 'home.example', 'AXFR'), /Transfer failed/)
    assert.match(await dig(`@${SRV}`, 'nobody.home.example', 'AAAA'), /status: NXDOMAIN[\s\S]*SOA/)
    assert.match(await dig(`@${SRV}`, 'nas.home.example', 'AAAA'), /status: NOERROR[\s\S]*ANSWER: 0/)
  })

  it('RFC 8906: unknown types, options, versions and flags of EDNS, and operations', async () => {
    const asked = (...args: string[]) => dig(`@${SRV}`, '+norec', 'home.example', ...args)
    assert.match(await asked('TYPE1000'), /status: NOERROR[\s\S]*flags: qr aa/)
    assert.match(await asked('SOA', '+edns=1', '+noednsneg'), /status: BADVERS[\s\S]*version: 0/)
    assert.match(await asked('SOA', '+ednsopt=100'), /status: NOERROR/)
    assert.match(await asked('SOA', '+ednsflags=0x80'), /status: NOERROR[\s\S]*EDNS: version: 0, flags:;/)
    assert.match(await asked('SOA', '+dnssec'), /flags: do;/)
    assert.match(await asked('SOA', '+opcode=15', '+noedns', '+header-only'), /status: NOTIMP/)
    assert.match(await asked('SOA', '+zflag'), /status: NOERROR/)
  })

  it('a resolver follows the delegation of the zone above', async () => {
    const zone = join(folder, 'example.zone')
    writeFileSync(
      zone,
      [
        '$ORIGIN example.',
        '@ 300 IN SOA ns.example. root.example. 1 3600 600 86400 300',
        '@ 300 IN NS ns.example.',
        `ns 300 IN A ${RESOLVER}`,
        'home 300 IN NS dc.home.example.',
        `dc.home 300 IN A ${SRV}\n`,
      ].join('\n'),
    )
    const configuration = join(folder, 'unbound.conf')
    const parts = { folder, address: RESOLVER, zone: 'example.', zoneFile: zone }
    writeFileSync(configuration, unboundConfiguration(parts))
    const resolver = await lab.programs.start('res', 'unbound', ['-d', '-c', configuration])
    const asked = async (...args: string[]) => (await dig(`@${RESOLVER}`, '+short', ...args)).trim()
    // It refuses questions until it has read its zone.
    const answers = () => asked('ns.example', 'A').then(Boolean, () => false)
    for (const end = Date.now() + 30_000; !(await answers()); await delay(100))
      assert.ok(Date.now() < end, 'unbound does not answer')
    assert.equal(await asked('_ntm._udp.home.example', 'SRV'), '0 0 6741 dc.home.example.')
    assert.match(await asked('_ntm.home.example', 'TXT'), /v=1/)
    assert.match(await dig(`@${RESOLVER}`, 'x.y.home.example', 'A'), /status: NXDOMAIN/)
    await resolver.stop()
  })

  it('hostile bytes on all ports end nothing; killed, it comes back with everything', async () => {
    const program = `
      const dgram = require('node:dgram'), net = require('node:net'), { randomBytes } = require('node:crypto')
      const s = dgram.createSocket('udp4')
      let n = 0
      for (let i = 0; i < 3000; i++) {
        const b = randomBytes(i % 300)
        if (i % 3 === 0) b.set([0x4e, 1, i % 10, 0].slice(0, b.length))
        s.send(b, [6741, 53, 6742 + (i % 64)][i % 3], '${SRV}', () => { if (++n === 3000) s.close() })
      }
      for (const port of [6741, 53]) for (let i = 0; i < 20; i++) {
        const c = net.connect(port, '${SRV}', () => c.end(randomBytes(500)))
        c.on('error', () => {})
      }`
    await lab.programs.run('client', process.execPath, ['-e', program])
    assert.match(await dig(`@${SRV}`, '+short', 'home.example', 'NS'), /dc/)
    server.signal('SIGKILL')
    await server.ended
    await serve()
    assert.match(await godwit('account', 'list'), /carol +\S+ +nas\.home\.example/)
    assert.match(await dig(`@${SRV}`, 'nas.home.example', 'AAAA'), /status: NOERROR/)
    await godwit('account', 'remove', 'carol')
    assert.match(await dig(`@${SRV}`, 'nas.home.example', 'AAAA'), /status: NXDOMAIN/)
  })
})
