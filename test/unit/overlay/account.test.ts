import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:https'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { connect } from 'node:tls'
import { toHex } from '../../../src/core/bytes.ts'
import { GodwitError } from '../../../src/core/errors.ts'
import { loginNode } from '../../../src/host/provisioning/overlay.ts'
import { addAccount, initOverlay, listAccounts } from '../../../src/host/provisioning/overlay-server.ts'
import { State } from '../../../src/host/stores/state.ts'
import { AccountServer } from '../../../src/overlay/servers/account.ts'
import { hashPassword } from '../../../src/overlay/servers/passwords.ts'
import { Store } from '../../../src/overlay/store/store.ts'
import { KeyUpdates } from '../../support/key-updates.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-account-'))
after(() => rmSync(folder, { recursive: true }))

test('an account whose command cannot be shown is not made: its password would be lost (issue 14, point 7)', async () => {
  const state = new State({ state: folder })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  // As without openssl: there is no certificate that nodes could pin.
  for (const name of ['overlay-server.crt', 'overlay-server.key']) mkdirSync(state.file(name))
  await assert.rejects(addAccount(state, 'carol', {}))
  assert.deepEqual(listAccounts(state), [])
})

async function serve(state: State, store: Store, published: () => Promise<boolean> = async () => true) {
  const asked = { configurations: 0 }
  const port = await new Promise<number>((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port: free } = probe.address() as { port: number }
      probe.close(() => resolve(free))
    })
  })
  const [cert, key] = ['crt', 'key'].map((end) => readFileSync(state.file(`overlay-server.${end}`), 'utf8'))
  const server = new AccountServer({
    ...{ store, tls: { cert: cert!, key: key! }, port, zone: 'home.example.org', coordinator: 'x:1' },
    ...{ zoneKey: new Uint8Array(32), pushKey: '', loginDays: 0, published },
    caches: () => {
      asked.configurations++
      return []
    },
    ...{ wall: () => Date.now(), now: () => performance.now(), onLogin: () => {}, log: () => {} },
  })
  await server.start()
  const login = (node: string, from = '127.0.0.1', account = 'dave') => {
    const text = {
      ...{ account, node, password: 'a good one' },
      public_key: Buffer.alloc(32, node).toString('base64'),
    }
    return new Promise<number>((resolve, reject) => {
      const options = {
        ...{ host: '127.0.0.1', port, localAddress: from, agent: false },
        ...{ method: 'POST', path: '/v1/login', rejectUnauthorized: false },
      }
      request(options, (response) => resolve(response.resume().statusCode!))
        .on('error', reject)
        .end(JSON.stringify(text))
    })
  }
  return { server, login, port, asked }
}

test('NT-10: a login at the moment at which another server writes is judged again and written; one that never can is refused', async () => {
  const state = new State({ state: join(folder, 'behind') })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  await addAccount(state, 'carol', {})
  const store = new Store({ file: join(folder, 'behind.db') })
  store.putAccount({ name: 'dave', ...(await hashPassword('a good one')), disabled: false })
  store.commit()
  let behind = 3
  const { commit } = store
  store.commit = () => {
    if (behind-- > 0) throw new GodwitError('STORE_AWAY', 'another writer', { op: 'behind' })
    commit.call(store)
  }
  const { server, login } = await serve(state, store)
  try {
    assert.equal(await login('laptop'), 200)
    assert.equal(behind, -1)
    assert.ok(store.nodeByName('laptop.home.example.org'))
    behind = Number.POSITIVE_INFINITY
    assert.equal(await login('phone'), 503)
  } finally {
    await server.stop()
    store.commit = commit
    store.close()
  }
})

test('NT-13: a name that another device of the account has is refused, with what to do, and that device is left alone', async () => {
  const state = new State({ state: join(folder, 'names') })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  const { pin } = await addAccount(state, 'carol', {})
  const store = new Store({ file: join(folder, 'names.db') })
  store.putAccount({ name: 'dave', ...(await hashPassword('a good one')), disabled: false })
  store.commit()
  const { server, port } = await serve(state, store)
  const device = (name: string) => new State({ state: join(folder, `names-${name}`) })
  const login = (on: State, more: object = {}) =>
    loginNode(on, 'dave', 'a good one', {
      ...{ server: `https://127.0.0.1:${port}`, name: 'laptop', ...more },
      ...(pin !== null && { pin }),
    })
  const kept = () => toHex(store.nodeByName('laptop.home.example.org')!.keyId)
  try {
    const [first, second, third] = ['first', 'second', 'third'].map(device)
    await login(first!)
    const before = kept()
    await assert.rejects(login(second!), (error: GodwitError) => {
      assert.equal(error.code, 'LOGIN_REFUSED')
      assert.match(error.message, /another device of this account is logged in as laptop\.home\.example\.org/)
      assert.match(error.hint!, /--name.*--replace/)
      return true
    })
    assert.equal(kept(), before)
    // Another name, or the same device again.
    assert.equal((await login(second!, { name: 'desk' })).name, 'desk.home.example.org')
    await login(first!)
    assert.notEqual(kept(), before)
    // A device that has another name takes no third one's either, unless it is said.
    await assert.rejects(login(second!), /another device of this account/)
    await login(second!, { replace: true })
    await assert.rejects(login(first!), /another device of this account/)
    store.revokeLogin('laptop.home.example.org')
    store.commit()
    await login(third!)
  } finally {
    await server.stop()
    store.close()
  }
})

test('NT-13: a first login whose answer was lost is the same device when it is tried again', async () => {
  const state = new State({ state: join(folder, 'lost') })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  const { pin } = await addAccount(state, 'carol', {})
  const store = new Store({ file: join(folder, 'lost.db') })
  store.putAccount({ name: 'dave', ...(await hashPassword('a good one')), disabled: false })
  store.commit()
  const published = [false, true]
  const { server, port } = await serve(state, store, async () => published.shift()!)
  const own = new State({ state: join(folder, 'lost-device') })
  const options = { server: `https://127.0.0.1:${port}`, name: 'laptop', ...(pin !== null && { pin }) }
  try {
    await assert.rejects(loginNode(own, 'dave', 'a good one', options), { code: 'LOGIN_REFUSED' })
    assert.ok(store.nodeByName('laptop.home.example.org'))
    await loginNode(own, 'dave', 'a good one', options)
    assert.equal(existsSync(own.file('overlay-login.key')), false)
  } finally {
    await server.stop()
    store.close()
  }
})

test('guesses from many sources keep nobody out: a login waits for its turn, before sources that have guessed', async () => {
  const state = new State({ state: join(folder, 'flood') })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  await addAccount(state, 'carol', {})
  const store = new Store({ file: join(folder, 'flood.db') })
  store.putAccount({ name: 'dave', ...(await hashPassword('a good one')), disabled: false })
  store.commit()
  const { server, login } = await serve(state, store)
  const guesses = (n: number) =>
    Array.from({ length: n }, (_, i) => login('m', `127.0.1.${i + 1}`, `nobody${i}`))
  try {
    await Promise.all(guesses(12))
    const flood = guesses(12)
    // All of them are checked, or wait, one for each source.
    const answered: string[] = []
    for (const each of flood) void each.then((status) => answered.push(String(status)))
    await flood[0]
    const status = await login('laptop', '127.0.2.1')
    assert.equal(status, 200)
    assert.ok(answered.length < 12, `${answered.length} were answered before`)
    assert.ok((await Promise.all(flood)).every((each) => each === 401))
  } finally {
    await server.stop()
    store.close()
  }
})

test('requests that come in one piece on one connection are not all answered: the first is, and the connection ends', async () => {
  const state = new State({ state: join(folder, 'pipelined') })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  await addAccount(state, 'carol', {})
  const store = new Store({ file: join(folder, 'pipelined.db') })
  const { server, port, asked } = await serve(state, store)
  try {
    const client = connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
    client.on('error', () => {})
    client.resume()
    client.write('GET /v1/configuration HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(300))
    await once(client, 'close')
    assert.equal(asked.configurations, 1)
  } finally {
    await server.stop()
    store.close()
  }
})

test('who changes the keys of TLS without end, before a request or within one, loses the connection', async () => {
  const state = new State({ state: join(folder, 'updates') })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  await addAccount(state, 'carol', {})
  const store = new Store({ file: join(folder, 'updates.db') })
  const { server, port } = await serve(state, store)
  try {
    assert.ok(await (await KeyUpdates.connect(port)).flood(5000))
    const within = await KeyUpdates.connect(port)
    within.write('POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n{')
    assert.ok(await within.flood(5000))
  } finally {
    await server.stop()
    store.close()
  }
})
