/**
 * NT-22: push services by their documented protocols, each against an endpoint on loopback that checks what a real one does:
 * signatures, encryption, headers. And what a node that names an endpoint cannot make the server do.
 */
import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync, type KeyObject, verify } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { mkdtempSync, rmSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createSecureServer, type Http2SecureServer } from 'node:http2'
import { createServer, type Server } from 'node:https'
import { syncBuiltinESMExports } from 'node:module'
import type { AddressInfo } from 'node:net'
import os, { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { createServer as createTls } from 'node:tls'
import { decode, encode } from 'dns-packet'
import { parsePrefix } from '../../../src/core/address.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ensureCertificate, readCertificate, type TlsFiles } from '../../../src/mechanism/certificate.ts'
import { must } from '../../../src/mechanism/schema.ts'
import { openPush, PUSH_KEYS_FILE, pushKeys, registeredPush } from '../../../src/overlay/node/push.ts'
import { parseEndpoint, parsePush } from '../../../src/overlay/push/address.ts'
import { decryptPush, encryptPush, publicPoint } from '../../../src/overlay/push/encryption.ts'
import { Guard } from '../../../src/overlay/push/guard.ts'
import { PushSender, type PushSenderParts } from '../../../src/overlay/push/sender.ts'
import { Apns, Fcm, type PushService, WebPush } from '../../../src/overlay/push/services.ts'
import { vapidOf } from '../../../src/overlay/servers/push-settings.ts'
import { newSettings } from '../../../src/overlay/servers/settings.ts'

usesPrograms('openssl')

const raw = (text: string) => Buffer.from(text, 'base64url')
const WALL = Date.UTC(2026, 10, 29)
const DATAGRAM = Uint8Array.of(0x4e, 1, 5, 0, 9)

/** The claims of a token that this key has signed; throws otherwise. */
function claimsOf(token: string, key: KeyObject, algorithm: string) {
  const [header, claims, signature] = token.split('.') as [string, string, string]
  const options = algorithm === 'ES256' ? { key, dsaEncoding: 'ieee-p1363' as const } : key
  assert.ok(verify('sha256', Buffer.from(`${header}.${claims}`), options, raw(signature)), 'the signature')
  const head = JSON.parse(raw(header).toString()) as Record<string, string>
  assert.equal(head.alg, algorithm)
  return { head, claims: JSON.parse(raw(claims).toString()) as Record<string, string & number> }
}

describe('NT-22: message encryption for Web Push', () => {
  /** RFC 8291, section 5 and appendix A. */
  const RFC = {
    plain: 'When I grow up, I want to be a watermelon',
    salt: raw('DGv6ra1nlYgDCS1FRnbzlw'),
    own: raw('yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw'),
    privateKey: raw('q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94'),
    publicKey: raw('BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4'),
    secret: raw('BTBZMqHH6r4Tts7J_aSIgg'),
    message:
      'DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN',
  }

  it('is that of the example in RFC 8291, both ways', () => {
    const message = encryptPush(Buffer.from(RFC.plain), RFC, RFC.own, RFC.salt)
    assert.equal(message.toString('base64url'), RFC.message)
    assert.equal(Buffer.from(decryptPush(raw(RFC.message), RFC)!).toString(), RFC.plain)
    assert.deepEqual(Buffer.from(publicPoint(RFC.privateKey)), RFC.publicKey)
  })

  it('what is cut, changed, longer or for somebody else is not read', () => {
    const whole = raw(RFC.message)
    for (let i = 0; i < whole.length; i++) {
      assert.equal(decryptPush(whole.subarray(0, i), RFC), undefined)
      const changed = Buffer.from(whole)
      changed[i]! ^= 1
      // The record size alone is not authenticated.
      if (i < 16 || i > 19) assert.equal(decryptPush(changed, RFC), undefined)
    }
    assert.equal(decryptPush(whole, { ...RFC, secret: Buffer.alloc(16) }), undefined)
    assert.equal(
      openPush(new Uint8Array(4097), () => RFC),
      undefined,
    )
  })
})

describe('NT-22: where a push service reaches a node', () => {
  it('is an https URL with keys, or a token of APNs or FCM; nothing else', () => {
    const folder = mkdtempSync(join(tmpdir(), 'godwit-push-'))
    try {
      const keys = () => pushKeys(join(folder, PUSH_KEYS_FILE))
      const web = must(parsePush(registeredPush('https://push.example/up?x=1', keys)))
      assert.ok(web.service === 'web')
      assert.equal(web.endpoint.href, 'https://push.example/up?x=1')
      assert.deepEqual(web.secret, new Uint8Array(keys().secret))
      const message = encryptPush(DATAGRAM, web)
      assert.deepEqual(openPush(message, keys), DATAGRAM)
      assert.equal(parsePush(`apns:${'0a'.repeat(32)}`).ok, true)
      assert.equal(parsePush(`fcm:${'x'.repeat(150)}`).ok, true)
      for (const bad of [
        '',
        'apns:',
        'apns:../x',
        'fcm:a b',
        `https://a#${'A'.repeat(87)}.${'A'.repeat(22)}`,
        'https://a/',
      ])
        assert.equal(parsePush(bad).ok, false, bad)
      for (const bad of ['http://a/', 'https://u:p@a/', 'https://a/#x', 'file:///etc/passwd', 'https:'])
        assert.equal(parseEndpoint(bad).ok, false, bad)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

describe('NT-22: push services', () => {
  let folder: string
  let tls: TlsFiles
  let server: Server
  let apple: Http2SecureServer
  /** What came, and what is answered. */
  let asked: { readonly path: string; readonly headers: Record<string, string>; readonly body: Buffer }[] = []
  let answer: (path: string, response: ServerResponse) => void
  const origin = (of: Server | Http2SecureServer) => `https://localhost:${(of.address() as AddressInfo).port}`
  const guard = (allowed = ['127.0.0.0/8', '::1/128'], ms = 2000) =>
    new Guard({ allowed: allowed.map((text) => must(parsePrefix(text))), ca: tls.cert, ms })

  const listen = (of: Server | Http2SecureServer) =>
    new Promise<void>((resolve) => of.listen(0, 'localhost', resolve))
  const note = async (request: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = []
    for await (const part of request) parts.push(part as Buffer)
    const headers = request.headers as Record<string, string>
    asked.push({ path: request.url!, headers, body: Buffer.concat(parts) })
    answer(request.url!, response)
  }
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-push-'))
    const [cert, key] = [join(folder, 'crt'), join(folder, 'key')]
    ensureCertificate(cert, key, 'localhost')
    tls = readCertificate(cert, key, 'test')
    server = createServer({ ...tls }, (request, response) => void note(request, response))
    apple = createSecureServer(
      { ...tls },
      (request, response) => void note(request as never, response as never),
    )
    await Promise.all([listen(server), listen(apple)])
  })
  after(() => {
    server.closeAllConnections()
    server.close()
    apple.close()
    rmSync(folder, { recursive: true })
  })
  const answering = (next: typeof answer) => {
    asked = []
    answer = next
  }
  const status = (code: number, text = '') =>
    answering((_path, response) => {
      response.statusCode = code
      response.end(text)
    })

  it('NT-22: Web Push and UnifiedPush: the endpoint reads the sender’s token, the node alone the message', async () => {
    status(201)
    const settings = newSettings({
      ...{ zone: 'home.example', host: 'h', port: 1, addresses: ['192.0.2.1'], block4: null, dnsPort: 0 },
      ...{ openTo: 'zone', resolvers: [] },
    })
    const vapid = vapidOf(settings, 'mailto:admin@home.example')
    assert.deepEqual(vapidOf(settings, undefined).point, vapid.point)
    const push = new WebPush(guard(), vapid, () => WALL)
    const keys = () => pushKeys(join(folder, PUSH_KEYS_FILE))
    const address = must(parsePush(registeredPush(`${origin(server)}/up/1`, keys)))
    assert.ok(address.service === 'web')
    assert.equal(await push.send(address, DATAGRAM, 'a'), 'sent')
    const [{ path, headers, body }] = asked as [(typeof asked)[0]]
    assert.equal(path, '/up/1')
    assert.deepEqual(
      [headers['content-encoding'], headers.ttl, headers.urgency, headers.topic],
      ['aes128gcm', '30', 'high', 'wake'],
    )
    const [, token, k] = /^vapid t=(\S+), k=(\S+)$/.exec(headers.authorization!)!
    const point = raw(k!)
    const key = createPublicKey({
      key: {
        ...{ kty: 'EC', crv: 'P-256' },
        ...{ x: point.subarray(1, 33).toString('base64url'), y: point.subarray(33).toString('base64url') },
      },
      format: 'jwk',
    })
    const { claims } = claimsOf(token!, key, 'ES256')
    assert.deepEqual(claims, {
      aud: origin(server),
      exp: WALL / 1000 + 12 * 3600,
      sub: 'mailto:admin@home.example',
    })
    assert.deepEqual(openPush(body, keys), DATAGRAM)
    status(410)
    assert.equal(await push.send(address, DATAGRAM, 'a'), 'gone')
    status(500, 'later')
    await assert.rejects(push.send(address, DATAGRAM, 'a'), /status 500 later/)
  })

  it('NT-22: APNs: HTTP/2, a provider token that is used again, the device that is gone', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const key = privateKey.export({ format: 'pem', type: 'pkcs8' }) as string
    let wall = WALL
    const init = { key, keyId: 'ABC123DEFG', team: 'DEF123GHIJ', topic: 'org.example.app' }
    const apns = new Apns({ ...init, origin: origin(apple), ca: tls.cert }, () => wall)
    const device = { service: 'apns', token: 'ab'.repeat(32) } as const
    try {
      status(200)
      assert.equal(await apns.send(device, DATAGRAM), 'sent')
      assert.equal(await apns.send(device, DATAGRAM), 'sent')
      const [first, second] = asked as [(typeof asked)[0], (typeof asked)[0]]
      assert.equal(first.path, `/3/device/${device.token}`)
      assert.equal(first.headers['apns-topic'], 'org.example.app')
      assert.equal(first.headers['apns-push-type'], 'background')
      const bearer = ({ headers }: typeof first) => headers.authorization!.replace('bearer ', '')
      const { head, claims } = claimsOf(bearer(first), publicKey, 'ES256')
      assert.deepEqual([head.kid, claims.iss, claims.iat], ['ABC123DEFG', 'DEF123GHIJ', WALL / 1000])
      assert.equal(bearer(second), bearer(first))
      const body = JSON.parse(first.body.toString()) as { aps: object; ntm: string }
      assert.deepEqual(body.aps, { 'content-available': 1 })
      assert.deepEqual(new Uint8Array(Buffer.from(body.ntm, 'base64')), DATAGRAM)
      wall += 50 * 60_000
      status(410, '{"reason":"Unregistered"}')
      assert.equal(await apns.send(device, DATAGRAM), 'gone')
      assert.notEqual(bearer(asked[0]!), bearer(first))
    } finally {
      apns.close()
    }
  })

  it('NT-22: FCM: an access token for a signed assertion, used until it ends; the application that is gone', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const account = {
      ...{ project_id: 'my-project', client_email: 'sender@my-project.example' },
      private_key: privateKey.export({ format: 'pem', type: 'pkcs8' }) as string,
      token_uri: `${origin(server)}/token`,
    }
    const grants = (code: number, text: string) =>
      answering((path, response) => {
        response.statusCode = path === '/token' ? 200 : code
        response.end(path === '/token' ? '{"access_token":"secret-1","expires_in":3600}' : text)
      })
    let wall = WALL
    const fcm = new Fcm(guard(), account, origin(server), () => wall)
    const device = { service: 'fcm', token: 'x'.repeat(140) } as const
    grants(200, '{}')
    assert.equal(await fcm.send(device, DATAGRAM), 'sent')
    assert.equal(await fcm.send(device, DATAGRAM), 'sent')
    assert.deepEqual(
      asked.map(({ path }) => path),
      ['/token', '/v1/projects/my-project/messages:send', '/v1/projects/my-project/messages:send'],
    )
    const form = new URLSearchParams(asked[0]!.body.toString())
    assert.equal(form.get('grant_type'), 'urn:ietf:params:oauth:grant-type:jwt-bearer')
    const { claims } = claimsOf(form.get('assertion')!, publicKey, 'RS256')
    assert.equal(claims.aud, account.token_uri)
    assert.equal(claims.scope, 'https://www.googleapis.com/auth/firebase.messaging')
    assert.equal(asked[1]!.headers.authorization, 'Bearer secret-1')
    const { message } = JSON.parse(asked[1]!.body.toString()) as {
      message: { token: string; data: { ntm: string }; android: { priority: string } }
    }
    assert.deepEqual([message.token, message.android.priority], [device.token, 'HIGH'])
    assert.deepEqual(new Uint8Array(Buffer.from(message.data.ntm, 'base64')), DATAGRAM)
    wall += 3_500_000
    grants(404, '{"error":{"details":[{"errorCode":"UNREGISTERED"}]}}')
    assert.equal(await fcm.send(device, DATAGRAM), 'gone')
    assert.equal(asked[0]!.path, '/token')
  })

  describe('an endpoint that a node names', () => {
    it('is left when it sends much, also if that is no answer', async () => {
      const early = 'HTTP/1.1 103 Early Hints\r\nLink: <x>; rel=preload\r\n\r\n'.repeat(3000)
      const hostile = createTls({ ...tls }, (socket) => {
        socket.on('error', () => {})
        socket.once('data', () => socket.end(`${early}HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n`))
      })
      await new Promise<void>((resolve) => hostile.listen(0, 'localhost', resolve))
      const url = new URL(`https://localhost:${(hostile.address() as AddressInfo).port}/`)
      await assert.rejects(guard().post({ url, headers: {}, body: 'x', by: 'a' }), /sends too much/)
      hostile.close()
    })

    it('is no private address, no name of one, and not this machine', async () => {
      status(201)
      const strict = guard([])
      const post = (url: string) => strict.post({ url: new URL(url), headers: {}, body: 'x', by: 'a' })
      const { port } = server.address() as AddressInfo
      for (const url of [origin(server), `https://127.0.0.1:${port}`, `https://[::1]:${port}`])
        await assert.rejects(post(url), /public address/)
      await assert.rejects(post(`http://127.0.0.1:${port}`), /not https/)
      assert.deepEqual(asked, [])
      const refused = [
        ...[
          '10.0.0.1',
          '172.16.0.1',
          '192.168.1.1',
          '169.254.169.254',
          '100.100.0.1',
          '0.0.0.0',
          '127.1.1.1',
        ],
        ...[
          '224.0.0.1',
          '255.255.255.255',
          '198.18.0.1',
          '192.0.0.8',
          '::',
          '::1',
          'fe80::1%eth0',
          'fd00::1',
        ],
        ...[
          '::ffff:10.0.0.1',
          '64:ff9b::a00:1',
          '2002:a00:1::',
          '2001:0:1::',
          'fec0::1',
          'ff02::1',
          'nonsense',
        ],
      ]
      for (const address of refused) assert.equal(strict.allows(address), false, address)
      for (const address of ['9.9.9.9', '2620:fe::fe']) assert.equal(strict.allows(address), true, address)
      assert.equal(guard(['10.0.0.0/8']).allows('10.0.0.1'), true)
    })

    it('is not this machine by its public address, however that is written', (context) => {
      const eth0 = [{ address: '9.9.9.9' }, { address: '2620:fe::fe' }]
      context.mock.method(os, 'networkInterfaces', () => ({ eth0 }))
      syncBuiltinESMExports()
      try {
        for (const address of [
          '9.9.9.9',
          '::ffff:9.9.9.9',
          '::ffff:909:909',
          '2620:fe::fe',
          '2620:fe:0::0:fe',
        ])
          assert.equal(guard([]).allows(address), false, address)
        assert.equal(guard([]).allows('9.9.9.10'), true)
      } finally {
        context.mock.restoreAll()
        syncBuiltinESMExports()
      }
    })

    it('has names that are answered late or never: only its own account waits, and has room again afterwards', async () => {
      status(201)
      const names = createSocket('udp4')
      let silent = 0
      // Answers `quick.test` with 127.0.0.1, and no other name.
      names.on('message', (query, { port }) => {
        if (!query.includes('quick')) silent++
        else {
          const { id, questions } = decode(query)
          const isA = questions?.[0]?.type === 'A'
          const answers = isA
            ? [{ type: 'A' as const, name: questions![0]!.name, ttl: 1, data: '127.0.0.1' }]
            : []
          names.send(encode({ type: 'response', id: id!, questions: questions!, answers }), port, '127.0.0.1')
        }
      })
      await new Promise<void>((resolve) => names.bind(0, '127.0.0.1', resolve))
      try {
        const { port } = server.address() as AddressInfo
        const one = new Guard({
          ...{ allowed: [must(parsePrefix('127.0.0.0/8'))], ca: tls.cert, ms: 400 },
          nameServers: [`127.0.0.1:${names.address().port}`],
        })
        const post = (name: string, by: string) =>
          one.post({ url: new URL(`https://${name}.test:${port}/`), headers: {}, body: 'x', by })
        const held = Array.from({ length: 8 }, (_, i) =>
          assert.rejects(post(`a${i}`, 'a'), /no answer in time|CANCEL/),
        )
        await assert.rejects(post('quick', 'a'), /too many names/)
        // It is found; the certificate is for another name.
        await assert.rejects(post('quick', 'b'), /altnames/)
        assert.ok(silent >= 8)
        await Promise.all(held)
        // The resolver tells of a query that was cancelled a turn later.
        await new Promise(setImmediate)
        await assert.rejects(post('quick', 'a'), /altnames/)
      } finally {
        names.close()
      }
    })

    it('keeps no place by changing the protocol', { timeout: 10_000 }, async () => {
      answering((_path, response) =>
        response.socket!.write(
          'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n',
        ),
      )
      const post = guard(undefined, 300).post({
        url: new URL(`${origin(server)}/x`),
        headers: {},
        body: 'x',
        by: 'a',
      })
      await assert.rejects(post, /another protocol/)
    })

    it('leads nowhere else by a redirect, and neither fills memory nor takes long', async () => {
      const post = () =>
        guard(undefined, 300).post({ url: new URL(`${origin(server)}/x`), headers: {}, body: 'x', by: 'a' })
      answering((_path, response) => response.writeHead(307, { location: `${origin(server)}/other` }).end())
      assert.equal((await post()).status, 307)
      assert.deepEqual(
        asked.map(({ path }) => path),
        ['/x'],
      )
      answering((_path, response) => response.end('x'.repeat(1_000_000)))
      await assert.rejects(post(), /too long|too much/)
      answering(() => {})
      await assert.rejects(post(), /no answer in time/)
      const stranger = new Guard({
        allowed: [must(parsePrefix('127.0.0.0/8')), must(parsePrefix('::1/128'))],
      })
      await assert.rejects(
        stranger.post({ url: new URL(origin(server)), headers: {}, body: 'x', by: 'a' }),
        /certificate/,
      )
    })
  })

  describe('the sender', () => {
    const sending = (send: PushService['send']) => {
      const gone: string[] = []
      const logged: string[] = []
      let [now, count] = [0, 0]
      const parts: PushSenderParts = {
        services: {
          fcm: {
            close: () => {},
            send: (address, datagram, account) => {
              count++
              return send(address, datagram, account)
            },
          },
        },
        now: () => now,
        log: (message) => logged.push(message),
        onGone: (name) => gone.push(name),
      }
      const sender = new PushSender(parts)
      const push = (n: number, account = 'a') =>
        sender.send({ name: `n${n}.test`, account, address: `fcm:${'x'.repeat(30)}${n}`, datagram: DATAGRAM })
      return {
        ...{ push, gone, logged, count: () => count },
        wait: (ms: number) => {
          now += ms
        },
      }
    }

    it('an address that fails is left alone, longer from time to time; others of the host are not', async () => {
      const { push, wait, count, logged } = sending(() => Promise.reject(new Error('no')))
      await push(1)
      await push(1)
      assert.equal(count(), 1)
      await push(2)
      assert.equal(count(), 2)
      let tries = 0
      for (let second = 0; second < 3600; second++) {
        wait(1000)
        const before = count()
        await push(1)
        tries += count() - before
      }
      assert.ok(tries >= 10 && tries <= 13, `${tries} tries in an hour`)
      assert.ok(logged.length <= 70)
    })

    it('an account has sixteen messages under way and a rate to each host; another account is not kept from its own', async () => {
      const { push, count, wait } = sending(() => new Promise(() => {}))
      for (let i = 0; i < 40; i++) {
        wait(1000)
        void push(i)
      }
      assert.equal(count(), 16)
      void push(100, 'b')
      assert.equal(count(), 17)
      const quick = sending(() => Promise.resolve('sent'))
      for (let i = 0; i < 100; i++) await quick.push(i)
      assert.equal(quick.count(), 20)
    })

    it('who is gone is reported; what is no address goes nowhere', async () => {
      const { push, gone } = sending(() => Promise.resolve('gone'))
      assert.equal(await push(1), false)
      assert.deepEqual(gone, ['n1.test'])
      const { push: never } = sending(() => assert.fail())
      void never
    })
  })
})
