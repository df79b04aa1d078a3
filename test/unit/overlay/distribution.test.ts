/** NT-13: an account server apart tells its coordinator what has changed, until it has it. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Distribution } from '../../../src/overlay/servers/distribution.ts'
import { drivers } from '../../../src/overlay/store/sqlite.ts'
import { Store } from '../../../src/overlay/store/store.ts'
import { type Message, Status, Type } from '../../../src/overlay/wire/message.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-distribution-'))
after(() => rmSync(folder, { recursive: true }))
const skip = drivers().length === 0 && 'this Node.js has no SQLite, and libsql is not installed: npm ci'

test('NT-13: a login is published when the coordinator has acknowledged it; what it missed it is told when it is there again', {
  skip,
}, async () => {
  const store = new Store({ file: join(folder, 'db'), notesChanges: true })
  const told: Omit<Message, 'transaction'>[] = []
  const logged: string[] = []
  let answers: (message: Omit<Message, 'transaction'>) => number | undefined = () => Status.DONE
  const distribution = new Distribution({
    store,
    ask: (message) => {
      told.push(message)
      const status = answers(message)
      const type = Type.KEY_DISTRIBUTION_ACK
      return Promise.resolve(status === undefined ? undefined : { type, transaction: 0, status })
    },
    log: (message) => logged.push(message),
  })
  const put = (name: string, n: number) => {
    const bytes = (length: number) => new Uint8Array(length).fill(n)
    store.putNode({
      name,
      account: 'carol',
      publicKey: bytes(32),
      keyId: bytes(16),
      key: bytes(32),
      expires: 9,
    })
    store.commit()
  }
  store.putAccount({ name: 'carol', salt: new Uint8Array(16), hash: new Uint8Array(32), disabled: false })
  put('a.example', 1)
  assert.equal(await distribution.publish(), true)
  const [first] = told.splice(0)
  assert.deepEqual([first?.nodeName, first?.account, first?.expires], ['a.example', 'carol', 9])
  assert.equal(Buffer.from(first!.accountId!).toString('hex'), store.account('carol')!.id)
  // It is away.
  answers = () => undefined
  put('b.example', 2)
  assert.equal(await distribution.publish(), false)
  store.removeAccount('carol')
  store.commit()
  answers = () => Status.DONE
  told.length = 0
  assert.equal(await distribution.publish(), true)
  assert.deepEqual(told.map(({ nodeName }) => nodeName).sort(), ['a.example', 'b.example'])
  assert.ok(
    told.every(({ key }) => key === undefined),
    'they are no more',
  )
  assert.deepEqual(store.changes(10), [])
  // An older coordinator: all nodes, then the end of the others.
  store.putAccount({ name: 'erin', salt: new Uint8Array(16), hash: new Uint8Array(32), disabled: false })
  store.putNode({
    ...{ name: 'e.example', account: 'erin', publicKey: new Uint8Array(32).fill(8) },
    ...{ keyId: new Uint8Array(16).fill(8), key: new Uint8Array(32).fill(8) },
  })
  store.commit()
  assert.equal(await distribution.publish(), true)
  store.changeAll()
  store.commit()
  answers = ({ nodeName }) => (nodeName === undefined ? undefined : Status.DONE)
  told.length = 0
  assert.equal(await distribution.publish(), false)
  answers = () => Status.DONE
  assert.equal(await distribution.publish(), true)
  assert.deepEqual(
    told.map(({ nodeName }) => nodeName),
    ['e.example', undefined, undefined],
  )
  const [named, end] = told
  assert.ok(end!.seq! < named!.seq!)
  assert.equal(await distribution.publish(), true)
  assert.equal(told.length, 3, 'the end is said until it is acknowledged')
  // It refuses: that is said, and tried again.
  store.putAccount({ name: 'dave', salt: new Uint8Array(16), hash: new Uint8Array(32), disabled: false })
  answers = ({ nodeName }) => (nodeName === 'c.example' ? Status.NOT_ALLOWED : Status.DONE)
  store.putNode({
    name: 'c.example',
    account: 'dave',
    publicKey: new Uint8Array(32),
    keyId: new Uint8Array(16),
    key: new Uint8Array(32),
  })
  store.commit()
  assert.equal(await distribution.publish(), false)
  assert.match(logged.join(), /refuses c\.example/)
  await distribution.stop()
  store.close()
})
