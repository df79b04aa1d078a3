/** NT-26: the cache server and its clients over HTTPS on loopback, with the real store: end to end, whole, resumed, bounded, refused. */
import assert from 'node:assert/strict'
import { createHash, randomBytes, X509Certificate } from 'node:crypto'
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import type { ClientRequest, IncomingMessage } from 'node:http'
import { Agent, createServer, request } from 'node:https'
import { type AddressInfo, connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, it } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { encoded } from '../../../src/core/codec.ts'
import { GodwitError } from '../../../src/core/errors.ts'
import { decodeKey, encodeKey, publicKeyOf, signBytes, signingPublicKey } from '../../../src/crypto/keys.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ensureCertificate, readCertificate, type TlsFiles } from '../../../src/mechanism/certificate.ts'
import { must } from '../../../src/mechanism/schema.ts'
import { CacheClient } from '../../../src/overlay/cache/client.ts'
import {
  decodeHead,
  encodeHead,
  openSegment,
  SEGMENT,
  safeName,
  sealSegment,
  unwrapKey,
  wrapKey,
} from '../../../src/overlay/cache/envelope.ts'
import {
  type Exchange,
  fetchWaiting,
  listAll,
  listWaiting,
  receive,
  sendFile,
  sendToAny,
} from '../../../src/overlay/cache/exchange.ts'
import { cacheProof } from '../../../src/overlay/machine/secrets.ts'
import { credentialsOf, type Login } from '../../../src/overlay/node/login.ts'
import { CacheServer, type CacheServerInit, MAX_PART } from '../../../src/overlay/servers/cache.ts'
import { storeDirectory } from '../../../src/overlay/servers/cache-directory.ts'
import { CacheFiles } from '../../../src/overlay/servers/cache-files.ts'
import {
  type CacheLimits,
  CacheStore,
  isFor,
  isFrom,
  limitsFor,
} from '../../../src/overlay/servers/cache-store.ts'
import { Store } from '../../../src/overlay/store/store.ts'
import { leaseCodec, leaseTranscript } from '../../../src/overlay/wire/lease.ts'
import { KeyUpdates } from '../../support/key-updates.ts'

usesPrograms('openssl')

const DAY = 86_400_000
const SEED = new Uint8Array(32).fill(5)
const GENEROUS = { ...limitsFor(2 ** 30), free: 0 }

/** Stands until it is told to go on. */
class SlowDisk {
  readonly files: CacheFiles
  syncs = 0
  stands = false
  fails: Error | undefined
  #goOn: (() => void)[] = []

  constructor(folder: string) {
    this.files = new CacheFiles(folder, async () => {
      this.syncs++
      if (this.fails !== undefined) throw this.fails
      if (this.stands) await new Promise<void>((resolve) => this.#goOn.push(resolve))
    })
  }

  goOn(): void {
    this.stands = false
    for (const each of this.#goOn.splice(0)) each()
  }
}

describe('NT-26: what goes through the cache server', () => {
  const party = (name: string, n: number) => {
    const privateKey = new Uint8Array(32).fill(n)
    return { name, privateKey, publicKey: publicKeyOf(privateKey) }
  }
  const [a, b, c] = [party('a.test', 1), party('b.test', 2), party('c.test', 3)] as const
  const key = new Uint8Array(32).fill(9)
  const hash = new Uint8Array(32).fill(4)

  it('opens for its recipient alone, of its sender alone, and with its hash alone', () => {
    const wrap = wrapKey(nodeCrypto, key, a, b, new Uint8Array(32).fill(7), hash)!
    assert.deepEqual(unwrapKey(nodeCrypto, wrap, a, b, hash), key)
    assert.equal(unwrapKey(nodeCrypto, wrap, c, b, hash), undefined)
    assert.equal(unwrapKey(nodeCrypto, wrap, { ...a, name: 'x.test' }, b, hash), undefined)
    assert.equal(unwrapKey(nodeCrypto, wrap, a, c, hash), undefined)
    assert.equal(unwrapKey(nodeCrypto, wrap, a, b, new Uint8Array(32)), undefined)
    for (let i = 0; i < wrap.length; i++) {
      assert.equal(unwrapKey(nodeCrypto, wrap.subarray(0, i), a, b, hash), undefined)
      const changed = wrap.slice()
      changed[i]! ^= 1
      assert.equal(unwrapKey(nodeCrypto, changed, a, b, hash), undefined)
    }
    // A recipient who knows the content's key cannot wrap another content for the others.
    assert.equal(wrapKey(nodeCrypto, key, a, { ...b, publicKey: new Uint8Array(32) }, key, hash), undefined)
  })

  it('a segment in another place, or an end that is not the end, does not open', () => {
    const sealed = sealSegment(nodeCrypto, key, 3, Uint8Array.of(1, 2), false)
    assert.deepEqual(openSegment(nodeCrypto, key, 3, sealed, false), Uint8Array.of(1, 2))
    assert.equal(openSegment(nodeCrypto, key, 4, sealed, false), undefined)
    assert.equal(openSegment(nodeCrypto, key, 3, sealed, true), undefined)
  })

  it('the name of a file is one in a folder, whatever its sender says', () => {
    const names = [
      ['../../etc/passwd', 'passwd'],
      ['/etc/cron.d/x', 'x'],
      ['..\\..\\a.exe', 'a.exe'],
      ['.bashrc', 'bashrc'],
      ['..', 'file'],
      ['', 'file'],
      ['a\u0000b\u001b[31m\u202ec', 'a_b_[31m_c'],
      ['bericht über alles.pdf', 'bericht über alles.pdf'],
      ['x'.repeat(500), 'x'.repeat(120)],
      // File systems count bytes, at most 255.
      ['語'.repeat(120), '語'.repeat(80)],
      [`${'語'.repeat(79)}x😀`, `${'語'.repeat(79)}x`],
    ] as const
    for (const [name, safe] of names) assert.equal(safeName(name), safe)
    const head = encodeHead({ name: 'a', bytes: 5 })
    assert.deepEqual(decodeHead(head), { ok: true, value: { name: 'a', bytes: 5, at: head.length } })
    for (const bad of [[], [0], [255, 255], [0, 2, 123, 125], [0, 1, 255]])
      assert.equal(decodeHead(Uint8Array.from(bad)).ok, false)
  })
})

describe('NT-26: the cache server', () => {
  let folder: string
  let tls: TlsFiles
  let store: Store
  let server: CacheServer
  let objects: CacheStore
  let wall = Date.UTC(2026, 10, 29)
  let port = 0
  const logins = new Map<string, Login>()
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-cache-'))
    const [cert, key] = [join(folder, 'crt'), join(folder, 'key')]
    ensureCertificate(cert, key, 'localhost')
    tls = readCertificate(cert, key, 'test')
    store = new Store({ file: join(folder, 'db') })
    for (const [i, name] of ['alice', 'bob', 'carol', 'dave'].entries()) {
      const privateKey = new Uint8Array(32).fill(i + 1)
      const keyId = new Uint8Array(16).fill(i + 1)
      const loginKey = new Uint8Array(32).fill(i + 100)
      const account = i < 2 ? 'one' : name
      if (store.account(account) === undefined)
        store.putAccount({ name: account, salt: keyId, hash: loginKey, disabled: false })
      const node = { name: `${name}.test`, account, publicKey: publicKeyOf(privateKey), keyId, key: loginKey }
      store.putNode(node)
      if (name !== 'dave') store.setLease(node.name, lease(node.name, node.publicKey, i + 1))
      logins.set(name, {
        ...{ version: 1, name: node.name, coordinator: 'dc:1', server: 'https://dc', account },
        key_id: Buffer.from(keyId).toString('base64'),
        ...{ key: encodeKey(loginKey), zone_key: encodeKey(signingPublicKey(SEED)) },
        ...{ private_key: encodeKey(privateKey), expires: null, renewed: 0 },
      })
    }
    store.commit()
  })
  after(() => {
    store.close()
    rmSync(folder, { recursive: true })
  })
  beforeEach(() => {
    rmSync(join(folder, 'objects'), { recursive: true, force: true })
    wall = Date.UTC(2026, 10, 29)
  })

  function lease(name: string, publicKey: Uint8Array, serial: number): Uint8Array {
    const seconds = wall / 1000
    const bytes = encoded(leaseCodec, {
      ...{ serial, notBefore: seconds, notAfter: seconds + 30 * 86_400, publicKey, name },
      ...{ v6: new Uint8Array(16).fill(0xfd), signature: new Uint8Array(64) },
    })
    bytes.set(signBytes(SEED, leaseTranscript(bytes)), bytes.length - 64)
    return bytes
  }

  async function started<T>(
    use: () => Promise<T>,
    limits: CacheLimits = GENEROUS,
    more: Partial<CacheServerInit> = {},
    files?: CacheFiles,
  ): Promise<T> {
    objects = new CacheStore(join(folder, 'objects'), limits, () => wall, files)
    let now = 0
    server = new CacheServer({
      ...{ objects, tls, port, wall: () => wall, now: () => (now += 100) },
      directory: storeDirectory(store, 'zone', () => wall),
      log: (message) => assert.fail(message),
      ...more,
    })
    await server.start()
    port = server.port
    try {
      return await use()
    } finally {
      await server.stop()
    }
  }

  /** A node; `state`: where it remembers what it has begun. */
  function exchange(name: string, at = port): Exchange {
    const login = logins.get(name)!
    const certificate = Buffer.from(
      new X509Certificate(tls.cert).fingerprint256.replaceAll(':', ''),
      'hex',
    ).toString('base64')
    return {
      ...{ login, wall: () => wall, file: (each) => join(folder, name, each) },
      client: new CacheClient({ host: '127.0.0.1', port: at, certificate }, credentialsOf(login)),
    }
  }

  function authorizationOf(name: string): string {
    const { keyId, key } = credentialsOf(logins.get(name)!)
    const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
    return `Godwit ${base64(keyId)} ${base64(cacheProof(nodeCrypto, key, keyId))}`
  }

  /** A request of which the test sends each byte. */
  function requestOf(name: string, method: string, path: string, options: object = {}): ClientRequest {
    const authorization = authorizationOf(name)
    const { headers, ...others } = options as { headers?: object }
    return request({
      ...{ host: '127.0.0.1', port, method, path, rejectUnauthorized: false, ...others },
      headers: { authorization, ...headers },
    })
  }

  const statusOf = (call: ClientRequest) =>
    new Promise<number>((resolve, reject) => {
      call.on('error', reject)
      call.on('response', (answer: IncomingMessage) => {
        answer.resume()
        answer.on('end', () => resolve(answer.statusCode!))
      })
    })

  /** Announces `content` as it is, with a wrap that is right: what a sender with a program of its own can do. */
  async function announced(
    from: string,
    to: string,
    content: Uint8Array,
  ): Promise<{ status: number; id: string }> {
    const party = (name: string) => {
      const privateKey = must(decodeKey(logins.get(name)!.private_key))
      return { name: `${name}.test`, privateKey, publicKey: publicKeyOf(privateKey) }
    }
    const hash = createHash('sha256').update(content).digest()
    const key = new Uint8Array(32).fill(9)
    const wrap = wrapKey(nodeCrypto, key, party(from), party(to), new Uint8Array(32).fill(7), hash)!
    const wraps = { [`${to}.test`]: Buffer.from(wrap).toString('base64') }
    const body = { bytes: content.length, hash: hash.toString('base64'), wraps, days: 7 }
    const { status, value } = await exchange(from).client.ask('/v1/objects', {
      ...{ method: 'POST', body: Buffer.from(JSON.stringify(body)) },
    })
    return { status, id: (value as { id: string }).id }
  }

  function fileOf(bytes: number, name = 'a.bin'): { readonly path: string; readonly content: Buffer } {
    const content = randomBytes(bytes)
    mkdirSync(join(folder, 'files'), { recursive: true })
    const path = join(folder, 'files', name)
    writeFileSync(path, content)
    return { path, content }
  }

  function inboxFolder(name: string): string {
    const path = join(folder, `${name}-inbox`)
    rmSync(path, { recursive: true, force: true })
    mkdirSync(path)
    return path
  }

  async function fetchAll(name: string): Promise<string[]> {
    const into = inboxFolder(name)
    const paths = []
    for (const each of await listWaiting(exchange(name)))
      paths.push(await receive(exchange(name), each, into))
    assert.equal(readdirSync(into).length, paths.length, 'nothing else is left in the folder')
    return paths
  }

  const code = (wanted: string) => (error: Error) => (error as Error & { code: string }).code === wanted

  it('NT-26: one file for two nodes: each reads it, the server does not; when both have it, it is gone', () =>
    started(async () => {
      for (const size of [0, 1, SEGMENT - 40, 3 * SEGMENT, 5_000_000]) {
        const { path, content } = fileOf(size, `size ${size}.bin`)
        await sendFile(exchange('alice'), path, ['bob.test', 'carol.test'], 7)
        const [data] = readdirSync(join(folder, 'objects')).filter((each) => each.endsWith('.data'))
        if (size > 100)
          assert.equal(readFileSync(join(folder, 'objects', data!)).includes(content.subarray(50, 82)), false)
        for (const name of ['bob', 'carol']) {
          const [got] = await fetchAll(name)
          assert.ok(got!.endsWith(`size ${size}.bin`))
          assert.ok(readFileSync(got!).equals(content))
        }
        assert.deepEqual(readdirSync(join(folder, 'objects')), [])
      }
    }))

  it('an upload that was cut off goes on where it ended, also at a server that started again; so does a download', async () => {
    const { path, content } = fileOf(20_000_000)
    await started(async () => {
      const stops = (done: number) => {
        if (done > 8_000_000) throw new Error('killed')
      }
      await assert.rejects(sendFile(exchange('alice'), path, ['bob.test'], 7, stops), /killed/)
    })
    const [data] = readdirSync(join(folder, 'objects')).filter((each) => each.endsWith('.data'))
    const there = statSync(join(folder, 'objects', data!)).size
    // In the middle of a segment, as a crash leaves it.
    truncateSync(join(folder, 'objects', data!), there - 1234)
    await started(async () => {
      const sent = await sendFile(exchange('alice'), path, ['bob.test'], 7)
      assert.equal(sent.resumed, there - 1234)
      assert.deepEqual(readdirSync(join(folder, 'alice', 'overlay-outbox')), [])
      const [object] = await listWaiting(exchange('bob'))
      const into = inboxFolder('bob')
      const whole = readFileSync(join(folder, 'objects', data!))
      writeFileSync(join(into, `.${object!.id}.part`), whole.subarray(0, 7_777_777))
      const got = await receive(exchange('bob'), object!, into)
      assert.ok(readFileSync(got).equals(content))
    })
  })

  it('a file that has changed is sent anew under another key; what the server damages or exchanges is not taken', () =>
    started(async () => {
      const { path } = fileOf(2_000_000)
      const stops = (done: number) => {
        if (done > 0) throw new Error('killed')
      }
      await assert.rejects(sendFile(exchange('alice'), path, ['bob.test'], 7, stops), /killed/)
      const info = statSync(path)
      appendFileSync(path, 'x')
      truncateSync(path, info.size)
      assert.equal((await sendFile(exchange('alice'), path, ['bob.test'], 7)).resumed, 0)
      const [object] = await listWaiting(exchange('bob'))
      const data = objects.path(object!.id)
      const whole = readFileSync(data)
      const into = inboxFolder('bob')
      whole[1_000_000]! ^= 1
      writeFileSync(data, whole)
      await assert.rejects(receive(exchange('bob'), object!, into), code('CACHE_DAMAGED'))
      const other = {
        ...object!,
        from: 'carol.test',
        lease: Buffer.from(store.nodeByName('carol.test')!.lease!).toString('base64'),
      }
      await assert.rejects(receive(exchange('bob'), other, into), code('CACHE_DAMAGED'))
      await assert.rejects(receive(exchange('bob'), { ...object!, lease: null }, into), code('CACHE_DAMAGED'))
      assert.deepEqual(readdirSync(into), [])
    }))

  /** Two servers; each keeps its own. */
  async function two(
    use: (
      of: (name: string) => [Exchange, Exchange],
      stop: (i: 0 | 1) => Promise<void>,
      kept: (i: 0 | 1) => number,
    ) => Promise<void>,
  ): Promise<void> {
    const stores = [0, 1].map((i) => {
      rmSync(join(folder, `objects ${i}`), { recursive: true, force: true })
      return new CacheStore(join(folder, `objects ${i}`), GENEROUS, () => wall)
    })
    let now = 0
    const servers = stores.map(
      (each) =>
        new CacheServer({
          ...{ objects: each, tls, port: 0, wall: () => wall, now: () => (now += 100) },
          directory: storeDirectory(store, 'zone', () => wall),
          log: (message) => assert.fail(message),
        }),
    )
    for (const each of servers) await each.start()
    const ports = servers.map((each) => each.port)
    const stop = (i: 0 | 1) => servers[i]!.stop()
    try {
      await use(
        (name) => [exchange(name, ports[0]), exchange(name, ports[1])],
        stop,
        (i) => stores[i]!.size,
      )
    } finally {
      for (const i of [0, 1] as const) await stop(i)
    }
  }

  it('NT-26: of several servers each keeps its own: a file goes to the first that answers, and who fetches asks all and hears which does not answer', () =>
    two(async (of, stop, kept) => {
      const [first, second] = [fileOf(1000, 'first.bin'), fileOf(2000, 'second.bin')]
      await sendToAny(of('alice'), first.path, ['bob.test'], 7)
      assert.deepEqual([kept(0), kept(1)], [1, 0])
      await sendToAny([of('alice')[1], of('alice')[0]], second.path, ['bob.test'], 7)
      const { waiting, unreached } = await listAll(of('bob'))
      assert.deepEqual([waiting.length, unreached], [2, []])
      await stop(0)
      await sendToAny(of('alice'), first.path, ['carol.test'], 7)
      assert.deepEqual([kept(0), kept(1)], [1, 2])
      const into = inboxFolder('bob')
      const fetched = await fetchWaiting(of('bob'), into)
      assert.deepEqual(fetched.received, [{ path: join(into, 'second.bin'), from: 'alice.test' }])
      assert.ok(readFileSync(join(into, 'second.bin')).equals(second.content))
      const [lost] = of('bob')
      assert.deepEqual(
        fetched.unreached.map(({ server }) => server),
        [lost.client.server],
      )
      assert.match(fetched.unreached[0]!.reason, /cache server 127.0.0.1:\d+: .*ECONNREFUSED/)
      await stop(1)
      await assert.rejects(listAll(of('bob')), code('CACHE_FAILED'))
      await assert.rejects(sendToAny(of('alice'), first.path, ['bob.test'], 7), code('CACHE_FAILED'))
    }))

  it('NT-26: an upload whose server is lost begins anew at the next; one that was only cut off goes on where it was', () =>
    two(async (of, stop, kept) => {
      const { path, content } = fileOf(20_000_000)
      const [client] = of('alice')
      const ask = client.client.ask.bind(client.client)
      let parts = 0
      client.client.ask = (to, options) => {
        if (options?.method === 'PATCH' && ++parts === 2)
          return Promise.reject(new GodwitError('CACHE_FAILED', 'cut off'))
        return ask(to, options)
      }
      const sent = await sendToAny([client, of('alice')[1]], path, ['bob.test'], 7)
      assert.ok(sent.resumed > 0)
      assert.deepEqual([kept(0), kept(1)], [1, 0])
      const outbox = () => readdirSync(join(folder, 'alice', 'overlay-outbox'))
      const before = outbox()
      let isLost: Promise<void> | undefined
      const loses = (done: number) => {
        if (done > 0) isLost ??= stop(0)
      }
      assert.equal((await sendToAny(of('alice'), path, ['carol.test'], 7, loses)).resumed, 0)
      await isLost
      assert.deepEqual([kept(0), kept(1)], [2, 1])
      assert.deepEqual(outbox(), before)
      const into = inboxFolder('carol')
      const { received } = await fetchWaiting(of('carol'), into)
      assert.ok(readFileSync(received[0]!.path).equals(content))
      assert.deepEqual(readdirSync(into), ['a.bin'])
    }))

  it('NT-26: a server that does not end its answer has not answered', async () => {
    const slow = createServer({ cert: tls.cert, key: tls.key }, (_request, response) => {
      response.writeHead(200)
      response.write('{')
    })
    await new Promise<void>((resolve) => slow.listen(0, '127.0.0.1', resolve))
    const { client } = exchange('bob', (slow.address() as AddressInfo).port)
    await assert.rejects(client.ask('/v1/inbox', { within: 300 }), /no whole answer/)
    slow.closeAllConnections()
    slow.close()
  })

  it('NT-26: what was begun at a server goes on there when it answers again, although it is not the first', () =>
    two(async (of, _stop, kept) => {
      const { path } = fileOf(20_000_000)
      const stops = (done: number) => {
        if (done > 0) throw new Error('killed')
      }
      await assert.rejects(sendFile(of('alice')[1], path, ['bob.test'], 7, stops), /killed/)
      assert.ok((await sendToAny(of('alice'), path, ['bob.test'], 7)).resumed > 0)
      assert.deepEqual([kept(0), kept(1)], [0, 1])
    }))

  it('no file of the recipient is replaced', () =>
    started(async () => {
      const { path } = fileOf(10, 'note.txt')
      const into = inboxFolder('bob')
      writeFileSync(join(into, 'note.txt'), 'mine')
      await sendFile(exchange('alice'), path, ['bob.test'], 7)
      const [object] = await listWaiting(exchange('bob'))
      assert.equal(await receive(exchange('bob'), object!, into), join(into, 'note (2).txt'))
      assert.equal(readFileSync(join(into, 'note.txt'), 'utf8'), 'mine')
    }))

  it('what its sender made so that it never opens is fetched once, and leaves nothing', () =>
    started(async () => {
      const content = randomBytes(1000)
      const { id } = await announced('carol', 'bob', content)
      const patched = await exchange('carol').client.ask(`/v1/objects/${id}`, {
        ...{ method: 'PATCH', headers: { 'upload-offset': '0' }, body: content },
      })
      assert.equal(patched.status, 200)
      const into = inboxFolder('bob')
      const [object] = await listWaiting(exchange('bob'))
      await assert.rejects(receive(exchange('bob'), object!, into), code('CACHE_DAMAGED'))
      assert.deepEqual(readdirSync(into), [])
      assert.deepEqual(await listWaiting(exchange('bob')), [])
    }))

  it('a link that somebody put into the folder is not followed', () =>
    started(async () => {
      const { path, content } = fileOf(1000)
      const there = join(folder, 'of-another')
      writeFileSync(there, 'mine')
      for (const target of [there, join(folder, 'dangling')]) {
        await sendFile(exchange('alice'), path, ['bob.test'], 7)
        const [object] = await listWaiting(exchange('bob'))
        const into = inboxFolder('bob')
        symlinkSync(target, join(into, `.${object!.id}.part`))
        assert.ok(readFileSync(await receive(exchange('bob'), object!, into)).equals(content))
      }
      assert.equal(readFileSync(there, 'utf8'), 'mine')
      assert.equal(readdirSync(folder).includes('dangling'), false)
    }))

  it('many requests on one connection leave nothing behind on it', () =>
    started(async () => {
      const warnings: string[] = []
      const note = ({ name }: Error) => warnings.push(name)
      process.on('warning', note)
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      try {
        for (let i = 0; i < 20; i++)
          assert.equal(await statusOf(requestOf('bob', 'GET', '/v1/inbox', { agent }).end()), 200)
        await turn()
        assert.deepEqual(warnings, [])
      } finally {
        agent.destroy()
        process.off('warning', note)
      }
    }))

  it('an upload whose object is removed meanwhile ends, and is no fault of the server', () =>
    started(async () => {
      const { id } = await announced('carol', 'bob', new Uint8Array(10))
      const headers = { 'upload-offset': '0', 'content-length': '10' }
      const call = requestOf('carol', 'PATCH', `/v1/objects/${id}`, { headers })
      const status = statusOf(call)
      call.write(new Uint8Array(5))
      while (objects.offset(id) < 5) await turn()
      assert.equal(
        (await exchange('carol').client.ask(`/v1/objects/${id}`, { method: 'DELETE' })).status,
        200,
      )
      call.end(new Uint8Array(5))
      assert.equal(await status, 404)
    }))

  it('an account announces no more than so many objects at once; others are not kept from it', () =>
    started(
      async () => {
        const statuses = []
        for (let i = 0; i < 61; i++) statuses.push((await announced('alice', 'bob', randomBytes(9))).status)
        assert.deepEqual([statuses.indexOf(429), statuses.at(-1)], [60, 429])
        assert.equal((await announced('carol', 'bob', randomBytes(9))).status, 200)
      },
      GENEROUS,
      { now: () => 0 },
    ))

  it('neither one account nor several together fill what may wait for a node, or the whole', async () => {
    const kept = new CacheStore(join(folder, 'objects'), { ...limitsFor(1_000_000), free: 0 }, () => wall)
    const create = (account: string, bytes: number, to = 'bob.test') =>
      kept.create({
        ...{ from: `x.${account}`, account, bytes, hash: '', wraps: { [to]: '' } },
        expires: wall + DAY,
      })
    assert.equal(typeof (await create('one', 250_000)), 'object')
    assert.equal(await create('one', 1), 'sender-quota')
    // Each leaves to others as much as it has itself.
    assert.equal(typeof (await create('two', 125_000)), 'object')
    assert.equal(await create('two', 1), 'recipient-quota')
    assert.equal(typeof (await create('three', 62_500)), 'object')
    assert.equal(await create('three', 1), 'recipient-quota')
    assert.equal(typeof (await create('three', 187_500, 'carol.test')), 'object')
    for (const other of ['four', 'five', 'six'])
      for (let bytes = 65_536; bytes >= 1; bytes /= 2)
        while (typeof (await create(other, bytes, 'dave.test')) === 'object');
    assert.equal(await create('four', 5000, 'erin.test'), 'full')
    assert.equal(typeof (await create('honest', 5000, 'erin.test')), 'object')
    assert.equal(typeof (await create('honest', 5000, 'bob.test')), 'object')
    const few = { ...limitsFor(1_000_000), free: 0 }
    assert.ok(few.objectsOfAccount < few.objectsOfRecipient)
  })

  it('what a request costs does not grow with what others keep', async (context) => {
    const kept = new CacheStore(join(folder, 'objects'), GENEROUS, () => wall)
    const create = (account: string) =>
      kept.create({
        ...{ from: `x.${account}`, account, bytes: 10, hash: '', wraps: { [`${account}.test`]: '' } },
        expires: wall + DAY,
      })
    for (let i = 0; i < 50; i++) await create(`n${i}`)
    const looks = context.mock.method(Object, 'hasOwn')
    await create('n7')
    assert.deepEqual(kept.inbox({ name: 'n7.test', accountId: '1' }), [])
    assert.ok(looks.mock.callCount() < 5, `${looks.mock.callCount()} objects looked at`)
  })

  it('who takes the name of a removed account’s node sees and ends nothing of what that one was sent or had sent', async () => {
    const kept = new CacheStore(
      join(folder, 'objects'),
      { ...GENEROUS, ofAccount: 60, ofRecipient: 100 },
      () => wall,
    )
    const [alice, before, now] = [
      { name: 'alice.test', accountId: 'a' },
      { name: 'bob.test', accountId: 'b1' },
      { name: 'bob.test', accountId: 'b2' },
    ]
    const sent = async (from: typeof alice, to: typeof alice) => {
      const made = await kept.create({
        ...{ from: from.name, account: 'x', accountId: from.accountId, bytes: 40, hash: '' },
        ...{ wraps: { [to.name]: '' }, owners: { [to.name]: to.accountId }, expires: wall + DAY },
      })
      if (typeof made === 'string') return made
      writeFileSync(kept.path(made.id), Buffer.alloc(40))
      await kept.finish(made.id)
      return made.id
    }
    const first = await sent(alice, before)
    const own = await sent(before, alice)
    const seen = (node: typeof alice) => kept.inbox(node).map(({ id }) => id)
    assert.deepEqual([seen(before), seen(now)], [[first], []])
    assert.equal(isFor(kept.get(first)!, now), false)
    assert.equal(isFrom(kept.get(own)!, now), false)
    assert.equal(isFrom(kept.get(own)!, before), true)
    // Nor does it count for its room: neither as sender nor as recipient.
    const third = { name: 'carol.test', accountId: 'c' }
    assert.match(await sent(third, now), /^[0-9a-f]{32}$/)
    assert.match(await sent(now, third), /^[0-9a-f]{32}$/)
    const again = new CacheStore(join(folder, 'objects'), GENEROUS, () => wall)
    assert.equal(again.inbox(before).length, 1)
    assert.equal(again.inbox(now).length, 1)
  })

  it('the sums of quotas are right after fetches, removals and a start', async () => {
    const limits = { ...GENEROUS, bytes: 130, ofAccount: 60, ofRecipient: 90 }
    const kept = new CacheStore(join(folder, 'objects'), limits, () => wall)
    const announce = async (into: CacheStore, account: string, bytes: number, ...names: string[]) => {
      const wraps = Object.fromEntries(names.map((name) => [name, '']))
      const made = await into.create({ from: 'x', account, bytes, hash: '', wraps, expires: wall + DAY })
      return typeof made === 'string' ? made : made.id
    }
    const first = await announce(kept, 'one', 40, 'b', 'c')
    writeFileSync(kept.path(first), Buffer.alloc(40))
    await kept.finish(first)
    assert.equal(await announce(kept, 'two', 30, 'b'), 'recipient-quota')
    await kept.received(first, 'b')
    const second = await announce(kept, 'two', 30, 'b')
    assert.equal(await announce(kept, 'three', 31, 'd'), 'full')
    assert.deepEqual(
      kept.inbox({ name: 'c', accountId: '1' }).map(({ id }) => id),
      [first],
    )
    assert.deepEqual(kept.inbox({ name: 'b', accountId: '1' }), [])
    const again = new CacheStore(join(folder, 'objects'), limits, () => wall)
    assert.equal(await announce(again, 'three', 31, 'd'), 'full')
    assert.equal(await announce(again, 'one', 21, 'd'), 'sender-quota')
    await again.remove(second)
    await again.received(first, 'c')
    assert.equal(again.size, 0)
    assert.match(await announce(again, 'one', 45, 'b', 'c'), /^[0-9a-f]{32}$/)
  })

  it('D10: who may not connect may not send, and learns no key; who is unknown or was never online gets nothing', () =>
    started(async () => {
      const { path } = fileOf(10)
      store.setAccess('carol.test', ['nobody.test'])
      store.commit()
      try {
        await assert.rejects(
          sendFile(exchange('alice'), path, ['carol.test'], 7),
          /not allowed to reach carol/,
        )
        const { status } = await exchange('alice').client.ask('/v1/nodes/carol.test')
        assert.equal(status, 403)
        const wraps = { 'carol.test': Buffer.alloc(80).toString('base64') }
        const body = { bytes: 10, hash: Buffer.alloc(32).toString('base64'), wraps, days: 7 }
        const direct = await exchange('alice').client.ask('/v1/objects', {
          method: 'POST',
          body: Buffer.from(JSON.stringify(body)),
        })
        assert.equal(direct.status, 403)
        await assert.rejects(sendFile(exchange('alice'), path, ['dave.test'], 7), /ever online/)
        await assert.rejects(sendFile(exchange('alice'), path, ['eve.test'], 7), /ever online/)
      } finally {
        store.setAccess('carol.test', undefined)
        store.commit()
      }
      assert.equal(objects.size, 0)
    }))

  it('an object is its sender’s to write and its recipients’ to read; a login that was revoked is nobody’s', () =>
    started(async () => {
      const { path } = fileOf(1000)
      await sendFile(exchange('alice'), path, ['bob.test'], 7)
      const [object] = await listWaiting(exchange('bob'))
      const status = async (name: string, at: string, method = 'GET') =>
        (await exchange(name).client.ask(at, { method })).status
      const at = `/v1/objects/${object!.id}`
      assert.equal(await status('carol', at), 404)
      assert.equal(await status('carol', `${at}/data`), 404)
      assert.equal(await status('carol', at, 'DELETE'), 404)
      assert.equal(await status('carol', at, 'PATCH'), 404)
      assert.equal(await status('bob', at), 404)
      assert.equal(await status('alice', `${at}/data`), 404)
      for (const other of ['/v1/objects/../../db', '/v1/objects/%2e%2e/data', '/', '/v1/objects/zz'])
        assert.equal(await status('alice', other), 404)
      const { client, login } = exchange('bob')
      void client
      const wrong = new CacheClient(
        { host: '127.0.0.1', port, certificate: '' },
        credentialsOf({ ...login, key: encodeKey(new Uint8Array(32)) }),
      )
      await assert.rejects(wrong.ask('/v1/inbox'), /certificate is not the one/)
      store.putNode({
        ...{ name: 'erin.test', account: 'one', publicKey: publicKeyOf(new Uint8Array(32).fill(77)) },
        ...{ keyId: new Uint8Array(16).fill(77), key: new Uint8Array(32).fill(77), expires: wall / 1000 - 1 },
      })
      store.commit()
      const erin = {
        ...login,
        key_id: Buffer.alloc(16, 77).toString('base64'),
        key: encodeKey(new Uint8Array(32).fill(77)),
      }
      const ended = new CacheClient(
        {
          ...{ host: '127.0.0.1', port },
          certificate: Buffer.from(
            new X509Certificate(tls.cert).fingerprint256.replaceAll(':', ''),
            'hex',
          ).toString('base64'),
        },
        credentialsOf(erin),
      )
      assert.equal((await ended.ask('/v1/inbox')).status, 401)
    }))

  it('who lists an inbox all the time has its senders looked up once in a while', () => {
    const directory = storeDirectory(store, 'zone', () => wall)
    let [now, looks] = [0, 0]
    const leaseOf: typeof directory.leaseOf = (name, by) => {
      if (by === undefined) looks++
      return directory.leaseOf(name, by)
    }
    return started(
      async () => {
        await sendFile(exchange('alice'), fileOf(10).path, ['bob.test'], 1)
        for (let i = 0; i < 10; i++) assert.equal((await listWaiting(exchange('bob'))).length, 1)
        assert.equal(looks, 1)
        now = 5000
        await listWaiting(exchange('bob'))
        assert.equal(looks, 2)
      },
      GENEROUS,
      { directory: { ...directory, leaseOf }, now: () => now },
    )
  })

  it('bounded: quotas of sender and recipient and of all, what is longer than announced, what expires', () =>
    started(
      async () => {
        const { path } = fileOf(300_000, 'big')
        const send = (name: string, to: string) => sendFile(exchange(name), path, [to], 1)
        await send('alice', 'bob.test')
        await send('alice', 'carol.test')
        await assert.rejects(send('alice', 'alice.test'), /account has sent/)
        await assert.rejects(send('bob', 'carol.test'), /account has sent/)
        await send('carol', 'bob.test')
        await assert.rejects(send('carol', 'bob.test'), /waits for one of the recipients/)
        await assert.rejects(send('carol', 'alice.test'), /no room left/)
        const [first] = await listWaiting(exchange('carol'))
        const long = { 'upload-offset': '0' }
        const more = await exchange('alice').client.ask(`/v1/objects/${first!.id}`, {
          ...{ method: 'PATCH', headers: long, body: new Uint8Array(10) },
        })
        assert.deepEqual(more.value, { offset: first!.bytes, is_done: true })
        wall += DAY + 1
        await objects.expire()
        assert.equal(objects.size, 0)
        assert.deepEqual(readdirSync(join(folder, 'objects')), [])
        const body = { bytes: 100, hash: Buffer.alloc(32).toString('base64'), days: 1 }
        const wraps = { 'bob.test': Buffer.alloc(80).toString('base64') }
        const made = await exchange('alice').client.ask('/v1/objects', {
          ...{ method: 'POST', body: Buffer.from(JSON.stringify({ ...body, wraps })) },
        })
        const { id } = made.value as { id: string }
        const patch = async (bytes: number, offset = 0) =>
          (
            await exchange('alice').client.ask(`/v1/objects/${id}`, {
              ...{
                method: 'PATCH',
                headers: { 'upload-offset': String(offset) },
                body: new Uint8Array(bytes),
              },
            })
          ).status
        assert.equal(await patch(101), 413)
        assert.equal(await patch(10, 5), 409)
        assert.equal(await patch(50), 200)
        assert.equal(await patch(50, 50), 422)
        assert.equal(objects.size, 0)
        assert.ok(MAX_PART < 2 ** 24)
      },
      { ...GENEROUS, bytes: 1_500_000, ofAccount: 700_000, ofRecipient: 1_300_000 },
    ))

  it('a full disk is said to be full: nothing is lost, and there is room again', async () => {
    const { path } = fileOf(1000)
    await started(() => assert.rejects(sendFile(exchange('alice'), path, ['bob.test'], 1), /no room left/), {
      ...GENEROUS,
      free: Number.MAX_SAFE_INTEGER,
    })
    await started(async () => {
      await sendFile(exchange('alice'), path, ['bob.test'], 1)
      assert.equal((await fetchAll('bob')).length, 1)
    })
  })

  it('a disk that stands holds up what waits for it alone; nothing is acknowledged before it is on the disk', async () => {
    const disk = new SlowDisk(join(folder, 'objects'))
    await started(
      async () => {
        disk.stands = true
        let answered = 0
        const several = Array.from({ length: 8 }, async (_, i) => {
          const { status } = await announced(i < 4 ? 'alice' : 'carol', 'bob', randomBytes(9))
          answered++
          return status
        })
        while (objects.size < 8) await turn()
        assert.deepEqual(await listWaiting(exchange('bob')), [])
        assert.equal((await exchange('bob').client.ask('/v1/nodes/carol.test')).status, 200)
        assert.deepEqual([answered, disk.syncs], [0, 1])
        disk.goOn()
        assert.deepEqual([...new Set(await Promise.all(several))], [200])
      },
      GENEROUS,
      {},
      disk.files,
    )
  })

  it('what waits for a slow disk shares one wait for the folder', async () => {
    const disk = new SlowDisk(join(folder, 'objects'))
    const kept = new CacheStore(join(folder, 'objects'), GENEROUS, () => wall, disk.files)
    const create = () => {
      const wraps = { bob: '', carol: '' }
      return kept.create({ from: 'x', account: 'x', bytes: 4, hash: '', wraps, expires: wall + DAY })
    }
    disk.stands = true
    const several = Array.from({ length: 10 }, create)
    while (disk.syncs === 0) await turn()
    disk.goOn()
    const ids = (await Promise.all(several)).map((made) => (made as { id: string }).id)
    assert.equal(disk.syncs, 12, 'each description, the folder for the first, and once for the others')
    // What others do to the same object while one waits is not undone by it.
    const [id, removed] = ids as [string, string]
    for (const each of [id, removed]) writeFileSync(kept.path(each), 'four')
    await Promise.all([kept.finish(id), kept.received(id, 'bob'), kept.received(removed, 'bob')])
    assert.deepEqual(Object.keys(kept.get(id)!.wraps), ['carol'])
    disk.stands = true
    const finished = kept.finish(removed)
    const gone = kept.remove(removed)
    assert.equal(kept.get(removed), undefined)
    disk.goOn()
    await Promise.allSettled([finished, gone])
    await Promise.all(ids.slice(2).map((each) => kept.remove(each)))
    const again = new CacheStore(join(folder, 'objects'), GENEROUS, () => wall)
    assert.deepEqual(
      again.inbox({ name: 'carol', accountId: '1' }).map((object) => object.id),
      [id],
    )
    assert.deepEqual(readdirSync(join(folder, 'objects')).sort(), [`${id}.data`, `${id}.json`])
  })

  it('what a disk does not write was not announced: it takes no room, and leaves no file', async () => {
    const disk = new SlowDisk(join(folder, 'objects'))
    await started(
      async () => {
        disk.fails = Object.assign(new Error('no space left'), { code: 'ENOSPC' })
        assert.equal((await announced('alice', 'bob', randomBytes(900))).status, 507)
        disk.fails = undefined
        await objects.settle()
        assert.deepEqual([objects.size, readdirSync(join(folder, 'objects'))], [0, []])
        assert.equal((await announced('alice', 'bob', randomBytes(900))).status, 200)
      },
      { ...GENEROUS, ofAccount: 1000 },
      {},
      disk.files,
    )
  })

  it('what a crash leaves half is removed; an upload that does not go on for a day, too', async () => {
    const into = join(folder, 'objects')
    mkdirSync(into)
    writeFileSync(join(into, `${'a'.repeat(32)}.data`), 'x')
    writeFileSync(join(into, `${'b'.repeat(32)}.json`), '{')
    writeFileSync(join(into, 'note'), 'of somebody else')
    await started(async () => {
      assert.deepEqual(readdirSync(into), ['note'])
      const { path } = fileOf(1_000_000)
      const stops = () => {
        throw new Error('killed')
      }
      await assert.rejects(sendFile(exchange('alice'), path, ['bob.test'], 7, stops), /killed/)
      wall = Date.now() + DAY + 60_000
      await objects.expire()
      assert.equal(objects.size, 0)
    })
  })

  it('what a power cut or another version left: a file that is not whole goes, what is not understood stays for a month', async () => {
    const into = join(folder, 'objects')
    const { path } = fileOf(100_000)
    await started(async () => {
      await sendFile(exchange('alice'), path, ['bob.test'], 7)
      await sendFile(exchange('alice'), fileOf(5000, 'b.bin').path, ['bob.test'], 7)
    })
    const described = readdirSync(into).filter((each) => each.endsWith('.json'))
    const isLong = (each: string) => statSync(join(into, each.replace('json', 'data'))).size > 50_000
    const long = described.find(isLong)!.slice(0, 32)
    const short = described.find((each) => !isLong(each))!.slice(0, 32)
    const description = join(into, `${short}.json`)
    const object = JSON.parse(readFileSync(description, 'utf8')) as object
    // It was said to be there, and the disk has lost its end.
    truncateSync(join(into, `${long}.data`), 60_000)
    writeFileSync(join(into, `${short}.json.4711.new`), '{')
    writeFileSync(description, JSON.stringify({ ...object, wraps: [], later: 1 }))
    const later = [`${short}.data`, `${short}.json`]
    await started(async () => {
      assert.deepEqual(readdirSync(into).sort(), later)
      assert.equal(objects.size, 0)
    })
    writeFileSync(description, JSON.stringify({ ...object, later: 1 }))
    await started(async () => {
      assert.equal((await fetchAll('bob')).length, 1)
      await sendFile(exchange('alice'), path, ['bob.test'], 7)
    })
    writeFileSync(join(into, readdirSync(into).find((each) => each.endsWith('.json'))!), '[]')
    wall = Date.now() + 32 * DAY
    await started(async () => assert.deepEqual(readdirSync(into), []))
  })

  it('who changes the keys of TLS without end loses the connection, also in a part of its own upload', () =>
    started(async () => {
      assert.ok(await (await KeyUpdates.connect(port)).flood(10_000), 'a stranger')
      const { id } = await announced('alice', 'bob', randomBytes(500_000))
      const node = await KeyUpdates.connect(port)
      const head = `PATCH /v1/objects/${id} HTTP/1.1\r\nHost: x\r\nAuthorization: ${authorizationOf('alice')}`
      node.write(`${head}\r\nUpload-Offset: 0\r\nContent-Length: 500000\r\n\r\n`)
      for (let i = 0; i < 20; i++) node.write(randomBytes(1000))
      assert.ok(await node.flood(10_000), 'a node')
      assert.ok(objects.offset(id) <= 20_000)
    }))

  it('an account lists what waits as often as it may, whichever of its nodes asks, and others are not kept from it', async () => {
    const into = join(folder, 'objects')
    mkdirSync(into)
    const { accountId } = store.nodeByName('alice.test')!
    for (let i = 0; i < 480; i++) {
      const id = i.toString(16).padStart(32, '0')
      const object = {
        ...{
          id,
          from: 'alice.test',
          account: 'one',
          accountId,
          bytes: 1,
          hash: '',
          sent: wall,
          isDone: true,
        },
        ...{ wraps: { 'bob.test': '' }, owners: { 'bob.test': accountId }, expires: wall + DAY },
      }
      writeFileSync(join(into, `${id}.json`), JSON.stringify(object))
      writeFileSync(join(into, `${id}.data`), 'x')
    }
    const use = async () => {
      const list = (name: string) => statusOf(requestOf(name, 'GET', '/v1/inbox').end())
      let listed = 0
      while ((await list('bob')) === 200) listed++
      // Each costs 25 of 2,000; of its own a node may do a hundred at once.
      assert.equal(listed, 80)
      assert.equal(await list('alice'), 429, 'of the same account')
      assert.equal(await list('carol'), 200)
    }
    await started(use, GENEROUS, { now: () => 0 })
  })

  it('a node has sixteen connections', () =>
    started(async () => {
      const agent = new Agent({ keepAlive: true })
      const listed = Array.from({ length: 4 }, () => requestOf('bob', 'GET', '/v1/inbox', { agent }).end())
      assert.deepEqual(await Promise.all(listed.map(statusOf)), [200, 200, 200, 200])
      const agents = Array.from({ length: 16 }, () => new Agent({ keepAlive: true }))
      const statuses: number[] = []
      for (const each of agents)
        statuses.push(await statusOf(requestOf('bob', 'GET', '/v1/inbox', { agent: each }).end()))
      assert.deepEqual(statuses, [...Array<number>(12).fill(200), ...Array<number>(4).fill(429)])
      for (const each of [agent, ...agents]) each.destroy()
    }))

  it('strangers: connections without a login end soon, and are few of one source', () =>
    started(async () => {
      const sockets = Array.from({ length: 60 }, () => connectTcp(port, '127.0.0.1').on('error', () => {}))
      const closed = sockets.map((socket) => new Promise((resolve) => socket.once('close', resolve)))
      await Promise.all(closed)
      assert.deepEqual(await listWaiting(exchange('bob')), [])
    }))
})
