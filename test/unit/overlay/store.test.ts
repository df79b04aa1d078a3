/** The durable store of the overlay's servers: accounts, keys and address leases (NT-10, NT-13, NT-16). */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { GodwitError } from '../../../src/core/errors.ts'
import { type Database, drivers, openDatabase } from '../../../src/overlay/store/sqlite.ts'
import { Store } from '../../../src/overlay/store/store.ts'
import { hasEnded } from '../../../src/overlay/tables.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-store-'))
after(() => rmSync(folder, { recursive: true }))
const bytes = (length: number, first: number) => new Uint8Array(length).fill(first)
const keys = (n: number) => ({ publicKey: bytes(32, n), keyId: bytes(16, n), key: bytes(32, n) })
const account = (name: string) => ({ name, salt: bytes(16, 1), hash: bytes(32, 2), disabled: false })

const skip = drivers().length === 0 && 'this Node.js has no SQLite, and libsql is not installed: npm ci'

test('there is a driver on every supported Node.js', { skip }, () => {
  assert.ok(drivers().length > 0)
})

for (const driver of drivers()) {
  test(`${driver.name}: a database, with keys and hashes of passwords, is its owner's alone, also one of before`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-modes.db`)
    writeFileSync(file, '', { mode: 0o644 })
    const store = new Store({ file, driver })
    store.putAccount(account('alice'))
    store.commit()
    for (const each of [file, `${file}-wal`, `${file}-shm`])
      assert.equal(statSync(each).mode & 0o777, 0o600, each)
    store.close()
  })

  test(`${driver.name}: NT-13: logins end, are prolonged and revoked, also in a database of before; push addresses last`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-logins.db`)
    const before = new Store({ file, driver })
    before.putAccount(account('alice'))
    before.putNode({ name: 'phone.example', account: 'alice', ...keys(3) })
    before.close()
    const database = driver.open(file)
    database.exec('ALTER TABLE nodes DROP COLUMN expires')
    database.close()

    const store = new Store({ file, driver })
    assert.equal(store.nodeByName('phone.example')?.expires, undefined)
    store.putNode({ name: 'phone.example', account: 'alice', ...keys(4), expires: 1000 })
    assert.equal(store.nodeByKeyId(bytes(16, 4))?.expires, 1000)
    store.renewLogin('phone.example', 2000)
    assert.equal(store.nodeByKeyId(bytes(16, 4))?.expires, 2000)
    store.setPush('phone.example', 'https://push.example/1')
    store.setPush('phone.example', 'https://push.example/2')
    store.commit()
    const other = new Store({ file, driver })
    assert.equal(other.pushOf('phone.example'), 'https://push.example/2')
    assert.ok(other.nodeByKeyId(bytes(16, 4)))
    assert.ok(store.revokeLogin('phone.example'))
    assert.equal(store.revokeLogin('nobody.example'), false)
    store.commit()
    other.refresh()
    assert.equal(other.nodeByKeyId(bytes(16, 4)), undefined)
    assert.equal(other.nodeByName('phone.example')?.expires, 0)
    assert.equal(hasEnded(other.nodeByName('phone.example')!, 1), true)
    store.removeAccount('alice')
    assert.equal(store.pushOf('phone.example'), undefined)
    store.close()
    other.close()
  })

  test(`${driver.name}: an account that takes the name of a removed one is another; accounts of before get an identity`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-ids.db`)
    const store = new Store({ file, driver })
    const made = (name: string, n: number) => {
      store.putAccount(account(name))
      store.putNode({ name: 'phone.example', account: name, ...keys(n) })
      store.commit()
      return store.nodeByName('phone.example')!.accountId
    }
    const first = made('alice', 3)
    assert.match(first, /^[0-9a-f]{16}$/)
    store.putAccount({ ...account('alice'), hash: bytes(32, 9) })
    assert.equal(store.account('alice')?.id, first, 'a new password')
    store.removeAccount('alice')
    assert.notEqual(made('alice', 3), first)
    store.close()
    const database = driver.open(file)
    database.exec('ALTER TABLE accounts DROP COLUMN id')
    database.close()
    const again = new Store({ file, driver })
    assert.match(again.nodeByName('phone.example')!.accountId, /^[0-9a-f]{16}$/)
    again.close()
  })

  test(`${driver.name}: NT-13: every change of a node is noted for a coordinator elsewhere until it is told, whoever made it`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-changes.db`)
    const store = new Store({ file, driver, notesChanges: true })
    const names = () => store.changes(10).map(({ node }) => node)
    const tell = () => {
      for (const change of store.changes(10)) store.distributed(change)
      store.commit()
    }
    store.putAccount(account('alice'))
    store.putNode({ name: 'phone.example', account: 'alice', ...keys(3) })
    store.putNode({ name: 'nas.example', account: 'alice', ...keys(4) })
    store.commit()
    assert.deepEqual(names(), ['phone.example', 'nas.example'])
    tell()
    assert.deepEqual(names(), [])
    // A lease is the coordinator's own business.
    store.setLease('nas.example', bytes(10, 1))
    store.commit()
    assert.deepEqual(names(), [])
    // A command in another process; its triggers are the database's.
    const other = new Store({ file, driver })
    other.revokeLogin('phone.example')
    other.commit()
    assert.deepEqual(names(), ['phone.example'])
    const [told] = store.changes(10)
    other.revokeLogin('phone.example')
    other.commit()
    store.distributed(told!)
    store.commit()
    assert.deepEqual(names(), ['phone.example'], 'changed again while it was told')
    tell()
    other.removeAccount('alice')
    other.close()
    assert.deepEqual(names().sort(), ['nas.example', 'phone.example'])
    tell()
    store.putAccount(account('bob'))
    store.putNode({ name: 'tv.example', account: 'bob', ...keys(5) })
    tell()
    store.changeAll()
    assert.deepEqual(names(), ['tv.example'])
    store.close()
  })

  test(`${driver.name}: NT-13: a coordinator takes nodes as the account server has them, in any order`, () => {
    const store = new Store({ file: join(folder, `${driver.name.replace(':', '-')}-taken.db`), driver })
    const node = (name: string, of: string, accountId: string, n: number) => ({
      name,
      account: of,
      accountId,
      ...keys(n),
    })
    const key = bytes(32, 1)
    let seq = 0
    const by = () => ({ key, seq: ++seq })
    store.distribute(node('phone.example', 'alice', '0a', 3), by())
    store.distribute(node('nas.example', 'alice', '0a', 4), by())
    store.setNumber('phone.example', 7)
    store.setAccess('phone.example', ['x.example'])
    store.commit()
    assert.equal(store.account('alice')?.disabled, true, 'nobody can log in here')
    // A login anew keeps number and access list.
    store.distribute({ ...node('phone.example', 'alice', '0a', 3), key: bytes(32, 9), expires: 5 }, by())
    assert.deepEqual([store.numberOf('phone.example'), store.accessOf('phone.example')], [7, ['x.example']])
    assert.equal(store.nodeByKeyId(bytes(16, 3))?.expires, 5)
    // Its key goes by another name.
    store.distribute(node('tablet.example', 'alice', '0a', 3), by())
    assert.equal(store.nodeByName('phone.example'), undefined)
    assert.equal(store.accessOf('phone.example'), undefined)
    // The account was removed, and another has its name.
    store.distribute(node('nas.example', 'alice', '0b', 6), by())
    assert.equal(store.nodeByName('tablet.example'), undefined)
    assert.equal(store.nodeByName('nas.example')?.accountId, '0b')
    // The name is another account's now.
    store.distribute(node('nas.example', 'bob', '0c', 7), by())
    assert.deepEqual(
      [store.nodeByName('nas.example')?.account, store.numberOf('nas.example')],
      ['bob', undefined],
    )
    store.removeNode('nas.example', by())
    store.removeNode('nobody.example', by())
    store.commit()
    assert.equal(store.nodeByName('nas.example'), undefined)
    store.close()
  })

  test(`${driver.name}: NT-13: a change that was held back on its way undoes none that came after it; another account server’s word counts anew`, () => {
    const store = new Store({ file: join(folder, `${driver.name.replace(':', '-')}-late.db`), driver })
    const by = (seq: number, n = 1) => ({ key: bytes(32, n), seq })
    const login = { name: 'phone.example', account: 'alice', accountId: '0a', ...keys(3) }
    const expires = () => store.nodeByName(login.name)?.expires
    assert.equal(store.distribute({ ...login, expires: 9 }, by(5)), true)
    assert.equal(store.distribute({ ...login, expires: 0 }, by(7)), true)
    assert.equal(store.distribute({ ...login, expires: 9 }, by(5)), false)
    assert.equal(expires(), 0, 'revoked, and stays so')
    assert.equal(store.removeNode(login.name, by(6)), false)
    assert.equal(store.removeNode(login.name, by(8)), true)
    assert.equal(store.distribute(login, by(7)), false)
    assert.equal(store.nodeByName(login.name), undefined, 'removed, and stays so')
    assert.equal(store.distribute({ ...login, expires: 4 }, by(1, 2)), true)
    assert.equal(expires(), 4)
    store.close()
  })

  test(`${driver.name}: NT-13: logins that an account server has told end when it is removed, until another one tells them`, () => {
    const store = new Store({ file: join(folder, `${driver.name.replace(':', '-')}-ended.db`), driver })
    const login = { name: 'phone.example', account: 'alice', accountId: '0a', ...keys(3) }
    store.putAccount(account('bob'))
    store.putNode({ name: 'own.example', account: 'bob', ...keys(4) })
    store.putServer({ name: 'as1', roles: new Set(['as']), key: bytes(32, 1) })
    store.distribute(login, { key: bytes(32, 1), seq: 5 })
    store.removeServer('as1')
    store.commit()
    assert.equal(store.nodeByName(login.name)?.expires, 0)
    assert.equal(store.nodeByName('own.example')?.expires, undefined, 'its own stay')
    store.distribute(login, { key: bytes(32, 2), seq: 1 })
    assert.equal(store.nodeByName(login.name)?.expires, undefined)
    store.close()
  })

  test(`${driver.name}: NT-13: told everything anew, a coordinator with an older store removes the nodes that were not named`, () => {
    const file = (name: string) => join(folder, `${driver.name.replace(':', '-')}-${name}.db`)
    const accounts = new Store({ file: file('whole-as'), driver, notesChanges: true })
    const coordinator = new Store({ file: file('whole-dc'), driver })
    const key = bytes(32, 1)
    coordinator.putServer({ name: 'as1', roles: new Set(['as']), key })
    coordinator.putServer({ name: 'as2', roles: new Set(['as']), key: bytes(32, 2) })
    const told = (each: number) => ({
      account: 'alice',
      accountId: accounts.account('alice')!.id,
      ...keys(each),
    })
    const tell = () => {
      for (const change of accounts.changes(64)) {
        const node = accounts.nodeByName(change.node)
        if (node === undefined) coordinator.removeNode(change.node, { key, seq: change.seq })
        else coordinator.distribute(node, { key, seq: change.seq })
        accounts.distributed(change)
      }
    }
    accounts.putAccount(account('alice'))
    for (const n of [3, 4]) accounts.putNode({ name: `n${n}.example`, account: 'alice', ...keys(n) })
    tell()
    // Of one that is there no more, and of another one that is.
    coordinator.distribute({ name: 'n5.example', ...told(5) }, { key: bytes(32, 9), seq: 1 })
    coordinator.distribute({ name: 'n6.example', ...told(6) }, { key: bytes(32, 2), seq: 1 })
    // This removal is what the older store has not heard of.
    accounts.removeAccount('alice')
    accounts.putAccount(account('bob'))
    accounts.putNode({ name: 'n3.example', account: 'bob', ...keys(3) })
    for (const change of accounts.changes(64)) accounts.distributed(change)
    accounts.changeAll()
    assert.deepEqual(
      accounts.changes(64).map(({ node }) => node),
      ['n3.example'],
    )
    tell()
    assert.ok(accounts.whole !== undefined)
    const gone = coordinator.removeUnnamed({ key, seq: accounts.whole })
    assert.deepEqual([...gone].sort(), ['n4.example', 'n5.example'])
    assert.equal(coordinator.nodeByName('n4.example'), undefined)
    assert.equal(coordinator.nodeByName('n3.example')?.account, 'bob')
    accounts.toldWhole(accounts.whole)
    assert.equal(accounts.whole, undefined)
    accounts.close()
    coordinator.close()
  })

  test(`${driver.name}: NT-13: renewals while the coordinator is away are one row for each node; a copy that was restored goes on above them`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-rows.db`)
    const store = new Store({ file, driver, notesChanges: true })
    store.putAccount(account('alice'))
    for (const n of [3, 4]) store.putNode({ name: `n${n}.example`, account: 'alice', ...keys(n) })
    for (let i = 0; i < 500; i++) store.renewLogin('n3.example', i)
    store.commit()
    const rows = () => {
      const database = openDatabase(file, driver)
      const { count } = database.prepare('SELECT COUNT(*) AS count FROM changes').get() as { count: number }
      database.close()
      return count
    }
    assert.equal(rows(), 2)
    const [, last] = store.changes(10)
    assert.ok(last!.seq > Date.now() - 60_000)
    store.removeAccount('alice')
    store.commit()
    assert.equal(rows(), 2)
    assert.ok(store.changes(10).every(({ seq }) => seq > last!.seq))
    store.close()
  })

  test(`${driver.name}: NT-13: an account server with another key tells all its nodes anew`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-key.db`)
    const store = new Store({ file, driver, notesChanges: true })
    store.putAccount(account('alice'))
    store.putNode({ name: 'n3.example', account: 'alice', ...keys(3) })
    const names = () => store.changes(10).map(({ node }) => node)
    const tell = () => {
      for (const change of store.changes(10)) store.distributed(change)
    }
    store.tellsAs(bytes(32, 1))
    tell()
    store.tellsAs(bytes(32, 1))
    assert.deepEqual(names(), [])
    store.tellsAs(bytes(32, 2))
    assert.deepEqual(names(), ['n3.example'])
    assert.equal(store.whole, undefined, 'it says nothing of others')
    store.close()
  })

  test(`${driver.name}: accounts, nodes, access lists and pinned zones are as they were after a restart`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}.db`)
    const store = new Store({ file, driver, wall: () => 1000 })
    store.putAccount(account('alice'))
    store.putAccount(account('bob'))
    assert.ok(store.putNode({ name: 'phone.example', account: 'alice', ...keys(3) }))
    assert.equal(store.putNode({ name: 'phone.example', account: 'bob', ...keys(4) }), false)
    const number = store.takeNumber()
    assert.ok(store.setNumber('phone.example', number))
    assert.ok(store.putNode({ name: 'pc.example', account: 'bob', ...keys(5) }))
    assert.equal(store.setNumber('pc.example', number), false, 'a number of another node')
    store.setLease('phone.example', bytes(100, 7))
    store.setAccess('phone.example', ['pc.example', '*.example'])
    store.pinZone('other.example', { coordinator: bytes(32, 8), zone: bytes(32, 9) })
    store.pinZone('other.example', { coordinator: bytes(32, 1), zone: bytes(32, 1) })
    assert.equal(store.takeSerial(), 1)
    assert.ok(store.dirty)
    store.commit()
    assert.equal(store.dirty, false)
    store.close()

    const again = new Store({ file, driver })
    assert.deepEqual(
      again.accounts().map(({ name }) => name),
      ['alice', 'bob'],
    )
    assert.equal(again.account('alice')?.created, 1000)
    assert.equal(again.account('nobody'), undefined)
    const node = again.nodeByKeyId(bytes(16, 3))
    assert.deepEqual(node, again.nodeByName('phone.example'))
    assert.deepEqual(node, {
      name: 'phone.example',
      account: 'alice',
      accountId: node!.accountId,
      ...keys(3),
      lease: bytes(100, 7),
    })
    assert.equal(again.numberOf('phone.example'), number)
    assert.equal(again.takeNumber(), number + 1)
    assert.equal(again.takeSerial(), 2)
    assert.deepEqual(again.accessOf('phone.example'), ['*.example', 'pc.example'])
    assert.equal(again.accessOf('pc.example'), undefined)
    assert.deepEqual(again.zoneKeys('other.example')?.zone, bytes(32, 9), 'the first pin stays')
    assert.ok(again.removeAccount('alice'))
    assert.equal(again.nodeByName('phone.example'), undefined)
    assert.equal(again.accessOf('phone.example'), undefined)
    assert.equal(again.removeAccount('alice'), false)
    again.close()
  })

  test(`${driver.name}: a public key is of one node: refused to another account, and renamed within one`, () => {
    const store = new Store({ file: join(folder, `${driver.name.replace(':', '-')}-keys.db`), driver })
    store.putAccount(account('alice'))
    store.putAccount(account('mallory'))
    assert.ok(store.putNode({ name: 'phone.example', account: 'alice', ...keys(3) }))
    const stolen = { ...keys(4), publicKey: bytes(32, 3) }
    assert.equal(store.putNode({ name: 'phony.example', account: 'mallory', ...stolen }), false)
    assert.equal(store.nodeByName('phony.example'), undefined)
    assert.ok(store.putNode({ name: 'mobile.example', account: 'alice', ...stolen }))
    assert.equal(store.nodeByName('phone.example'), undefined)
    assert.equal(store.nodeByKeyId(bytes(16, 3)), undefined)
    store.close()
  })

  test(`NT-16: ${driver.name}: no number is given out twice, even when an older database is put back`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-old.db`)
    let store = new Store({ file, driver })
    store.takeNumber()
    store.close()
    copyFileSync(file, `${file}.backup`)
    store = new Store({ file, driver })
    let last = 0
    for (let i = 0; i < 1000; i++) last = store.takeNumber()
    store.close()
    copyFileSync(`${file}.numbers`, `${file}.backup.numbers`)
    store = new Store({ file: `${file}.backup`, driver })
    assert.ok(store.takeNumber() > last)
    store.close()
  })
}

for (const driver of drivers()) {
  test(`NT-16: ${driver.name}: numbers are reserved by a sixteenth of those there are, and at least 256`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-reserved.db`)
    const reserved = () => Number(readFileSync(`${file}.numbers`, 'utf8'))
    const store = new Store({ file, driver })
    assert.equal(store.takeNumber(), 1)
    assert.equal(reserved(), 257)
    store.putAccount(account('carol'))
    store.putNode({ name: 'nas.home.example.org', account: 'carol', ...keys(1) })
    store.setNumber('nas.home.example.org', 160_000)
    assert.equal(reserved(), 170_000)
    assert.equal(store.takeNumber(), 160_001)
    store.close()
  })

  test(`NT-16: ${driver.name}: a damaged database is named with what to do, and one of no bytes is not taken for a new one`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-damaged.db`)
    const store = new Store({ file, driver })
    store.putAccount(account('alice'))
    store.setNumber('phone.example', store.takeNumber())
    store.close()
    // libsql closes a database late: its log is still beside it.
    driver.open(file).prepare('PRAGMA wal_checkpoint(TRUNCATE)').get()
    const whole = readFileSync(file)
    const copy = `${file}.copy`
    copyFileSync(`${file}.numbers`, `${copy}.numbers`)
    const opened = (content: string | Uint8Array) => {
      for (const end of ['', '-wal', '-shm']) rmSync(`${copy}${end}`, { force: true })
      writeFileSync(copy, content)
      return new Store({ file: copy, driver })
    }
    const refused = (content: string | Uint8Array, message: RegExp, hint: RegExp) =>
      assert.throws(
        () => opened(content),
        (error: GodwitError) => {
          assert.equal(error.code, 'STORE_FAILED')
          assert.match(error.message, message)
          assert.match(error.hint!, hint)
          return true
        },
      )
    const torn = Buffer.concat([whole.subarray(0, 100), Buffer.alloc(whole.length - 100, 0xa5)])
    refused(torn, /damaged\.db\.copy: .*malformed/, /put a copy of it back/)
    refused(Buffer.alloc(8192, 0xa5), /damaged\.db\.copy: .*not a database/, /put a copy of it back/)
    refused('', /is empty/, /put a copy of it back, or remove it/)
    const again = opened(whole)
    assert.ok(again.account('alice'))
    again.close()
  })

  test(`NT-16: ${driver.name}: a database without its log, or a log without its database, is not taken for a new one`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-parted.db`)
    const store = new Store({ file, driver })
    store.putAccount(account('alice'))
    store.commit()
    // As a kill leaves them.
    const [main, log] = [readFileSync(file), readFileSync(`${file}-wal`)]
    store.close()
    let n = 0
    const opened = (database: Uint8Array | undefined, wal: Uint8Array | undefined) => {
      const copy = `${file}.${n++}`
      copyFileSync(`${file}.numbers`, `${copy}.numbers`)
      if (database !== undefined) writeFileSync(copy, database)
      if (wal !== undefined) writeFileSync(`${copy}-wal`, wal)
      return new Store({ file: copy, driver })
    }
    const refused = (message: RegExp, ...files: Parameters<typeof opened>) =>
      assert.throws(
        () => opened(...files),
        (error: GodwitError) => {
          assert.equal(error.code, 'STORE_FAILED')
          assert.match(error.message, message)
          assert.match(error.hint!, /put a copy of it back, or remove it and its log/)
          return true
        },
      )
    refused(/is gone, and its log .*-wal is there/, undefined, log)
    refused(/is empty/, new Uint8Array(0), log)
    refused(/is empty/, new Uint8Array(0), undefined)
    // Of a database that was never opened again, all is in the log.
    const bare = join(folder, `${driver.name.replace(':', '-')}-bare.db`)
    const raw = driver.open(bare)
    raw.prepare('PRAGMA journal_mode = WAL').get()
    const header = readFileSync(bare)
    raw.close()
    refused(/has no accounts: they were in .*-wal/, header, undefined)
    refused(/has no accounts/, header, log.subarray(0, 1000))
    // What was there when it was opened is in the database itself.
    for (const wal of [log, undefined, log.subarray(0, 1000)]) {
      const whole = opened(main, wal)
      assert.equal(whole.account('alice') !== undefined, wal === log)
      whole.close()
    }
    const begunAnew = opened(undefined, undefined)
    assert.deepEqual(begunAnew.accounts(), [])
    begunAnew.close()
  })

  test(`NT-16: ${driver.name}: a database that is older than the numbers beside it says so`, () => {
    const file = join(folder, `${driver.name.replace(':', '-')}-older.db`)
    const of = () => new Store({ file, driver })
    let store = of()
    store.putAccount(account('alice'))
    store.commit()
    store.close()
    store = of()
    assert.equal(store.isOlder, false)
    const before = readFileSync(file)
    store.takeNumber()
    store.commit()
    store.close()
    store = of()
    assert.equal(store.isOlder, false)
    store.close()
    for (const end of ['-wal', '-shm']) rmSync(`${file}${end}`, { force: true })
    writeFileSync(file, before)
    store = of()
    assert.equal(store.isOlder, true)
    store.close()
  })
}

test('a full disk: what was not written is not there, the next commit works again, and others are answered meanwhile', {
  skip,
}, () => {
  const [driver] = drivers()
  let database: Database | undefined
  const store = new Store({
    file: join(folder, 'full.db'),
    driver: { name: 'small', open: (file) => (database = driver!.open(file)) },
  })
  store.putAccount(account('alice'))
  store.putNode({ name: 'phone.example', account: 'alice', ...keys(3) })
  store.commit()
  const pages = (n: number) => database!.prepare(`PRAGMA max_page_count = ${n}`).get()
  const { page_count } = database!.prepare('PRAGMA page_count').get() as { page_count: number }
  pages(page_count)
  for (let i = 0; i < 3; i++) {
    assert.throws(() => {
      for (let n = 0; n < 200; n++)
        store.putNode({ name: `n${n}.example`, account: 'alice', ...keys(n), lease: bytes(400, n) } as never)
      store.commit()
    }, /full/)
    // Whoever drives it commits what came through, whatever has failed.
    try {
      store.commit()
    } catch {}
  }
  store.commit()
  assert.equal(store.nodeByName('n0.example'), undefined)
  assert.deepEqual(store.nodeByName('phone.example')?.publicKey, bytes(32, 3))
  pages(1_000_000)
  store.takeNumber()
  store.putNode({ name: 'pc.example', account: 'alice', ...keys(9) })
  store.commit()
  store.close()
  assert.ok(new Store({ file: join(folder, 'full.db') }).nodeByName('pc.example'))
})

test('the account server writes beside the coordinator without taking its numbers back', { skip }, () => {
  const file = join(folder, 'beside.db')
  const coordinator = new Store({ file })
  const accounts = new Store({ file })
  const first = coordinator.takeNumber()
  coordinator.commit()
  accounts.putAccount(account('carol'))
  accounts.commit()
  accounts.close()
  coordinator.close()
  assert.equal(new Store({ file }).takeNumber(), first + 1)
})

/** Of `overlay-writer.ts`. */
const BATCH = 10

test('what was acknowledged survives kill -9', { timeout: 60_000, skip }, async () => {
  const file = join(folder, 'killed.db')
  const entry = fileURLToPath(new URL('../../support/overlay-writer.js', import.meta.url))
  // The last numbers of batches. A kill within the batch that reserves a block leaves a gap before the next one.
  const acknowledged: number[] = []
  for (let run = 0; run < 5; run++) {
    const child = spawn(process.execPath, [entry, file], { stdio: ['ignore', 'pipe', 'inherit'] })
    let lines = 0
    for await (const line of createInterface({ input: child.stdout })) {
      acknowledged.push(Number(line))
      if (++lines === 20 + run) child.kill('SIGKILL')
    }
    const store = new Store({ file })
    for (const last of acknowledged)
      for (let number = last - BATCH + 1; number <= last; number++)
        assert.equal(store.numberOf(`n${number}.example`), number, `of ${last} in run ${run}`)
    store.close()
  }
})
