/**
 * The durable state of the overlay's servers in PostgreSQL, with a synchronous standby: servers that keep it there, and what is left of what was
 * acknowledged after failures. Many more runs are in the long tier.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { GodwitError } from '../../../src/core/errors.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Link } from '../../../src/overlay/store/postgres/link.ts'
import type { PostgresSettings } from '../../../src/overlay/store/postgres/settings.ts'
import { Store } from '../../../src/overlay/store/store.ts'
import { type Fault, runShared, runWithFault } from '../../suites/postgres-failures.ts'
import { addressOf, cannotRun, own, PostgresBed, until } from '../../support/postgres.ts'

usesPrograms('openssl')

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const FAULT: Fault = 'primary killed, standby promoted'

describe('state in PostgreSQL', { skip: cannotRun() }, () => {
  const made = new PostgresBed()
  before(() => made.make())
  after(() => made.end())

  it('NT-16: a coordinator that writes all the time keeps none from writing; a turn without a write holds nobody', async () => {
    // This process waits for the database here, and nothing runs beside it.
    await made.start(true)
    const url = addressOf([made.db1.folder])
    const open = (name: string) =>
      new Store({
        file: join(made.folder, `turns-${name}.db`),
        remote: { settings: { url, tls: 'off', commit: 'on' }, zone: 'example', holds: 'shared' },
      })
    const stores = [open('a'), open('b')] as const
    const write = (store: Store, name: string) => {
      store.beginTurn()
      store.putAccount({ name, salt: new Uint8Array(16), hash: new Uint8Array(32), disabled: false })
      try {
        store.commit()
        return true
      } catch (error) {
        assert.equal((error as GodwitError).op, 'behind', `${error}`)
        return false
      }
    }
    const [busy, other] = stores
    let n = 0
    const timer = setInterval(() => write(busy, `busy${n++}`), 20)
    try {
      await sleep(700)
      const tries: number[] = []
      for (let i = 0; i < 5; i++) {
        let tried = 1
        // As a node asks again.
        for (const wait of [250, 500, 1000, 2000]) {
          if (write(other, `other${i}`)) break
          tried++
          for (let slept = 0; slept < wait; slept += 50) {
            await sleep(50)
            other.refresh()
          }
        }
        tries.push(tried)
        await sleep(137)
      }
      assert.ok(
        tries.every((each) => each <= 2),
        `tries of each request: ${tries}`,
      )
      clearInterval(timer)
      await sleep(50)
      // It was behind a moment ago, and has its turn now.
      write(other, 'last')
      for (let i = 0; i < 2; i++) write(busy, `end${i}`)
      other.beginTurn()
      other.commit()
      const began = performance.now()
      assert.ok(write(busy, 'free'))
      assert.ok(performance.now() - began < 80, 'it waits for nobody')
    } finally {
      clearInterval(timer)
      for (const store of stores) store.close()
      await made.stop()
    }
  })

  it('NT-10: the thread that talks to it ends: another goes on; what was read of everything at once is closed in any case', async () => {
    await made.start(true)
    const settings = { url: 'none', tls: 'off', commit: 'on' } as { url: string; tls: 'off'; commit: 'on' }
    const link = new Link({ settings, zone: 'test.example', hold: undefined, mark: () => undefined })
    const own = async (which: string) => {
      const sql = `FROM pg_stat_activity WHERE application_name = 'godwit' AND state ${which}`
      const [row] = await made.db1.admin<{ n: number }>(`SELECT count(*)::int AS n ${sql}`)
      return row!.n
    }
    try {
      assert.throws(() => link.ready(), /its thread has ended/)
      // This thread waits in its requests, and the gates are in this process.
      settings.url = addressOf([made.db1.folder])
      for (let n = 0; !link.isUp; n++) {
        assert.ok(n < 200, 'no other thread')
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
      assert.equal(link.ready().seq, 0)
      // One that is read anew before it has ended, and one whose other connection is lost meanwhile.
      link.call({ type: 'load' })
      link.call({ type: 'load' })
      assert.equal(await own(`= 'idle in transaction'`), 1)
      await made.db1.admin(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'godwit' AND state = 'idle'`,
      )
      for (let n = 0; link.isUp && n < 100; n++) await new Promise((resolve) => setTimeout(resolve, 10))
      assert.equal(link.call({ type: 'loaded' }).outcome, 'done')
      await until(() => link.isUp, 'it is connected again')
      assert.equal(await own(`= 'idle in transaction'`), 0)
      assert.equal(await own('IS NOT NULL'), 1)
    } finally {
      link.close()
    }
  })

  // Each has a bed of its own, and mostly waits.
  describe('side by side', { concurrency: true }, () => {
    it('NT-10: accounts move from SQLite into PostgreSQL; servers run there, a second coordinator is refused, wrong ones are told why', async () => {
      const bed = made.beside()
      const folder = mkdtempSync(join(tmpdir(), 'godwit-pg-cli-'))
      let server: ChildProcess | undefined
      try {
        await bed.start()
        const port = await freePort()
        const state = (name: string) => ['--state', join(folder, name)]
        const godwit = async (...args: string[]) => {
          const program = spawn(process.execPath, [GODWIT, ...args])
          let out = ''
          for (const stream of [program.stdout, program.stderr])
            stream.setEncoding('utf8').on('data', (text: string) => {
              out += text
            })
          const status = await new Promise<number | null>((resolve) => program.once('close', resolve))
          return { status, out }
        }
        const serve = (...args: string[]) => {
          const program = spawn(process.execPath, [GODWIT, 'overlay', 'serve', ...args, ...state('a')])
          const ended = new Promise((resolve) => program.once('exit', resolve))
          let text = ''
          for (const stream of [program.stdout, program.stderr])
            stream.setEncoding('utf8').on('data', (more: string) => {
              text += more
            })
          return { program, ended, out: () => text }
        }
        const done = async (...args: string[]) => {
          const { status, out } = await godwit(...args)
          assert.equal(status, 0, out)
          return out
        }
        const init = [
          'overlay',
          'init',
          '--zone',
          'lab.example',
          '--endpoint',
          `127.0.0.1:${port}`,
          '--dns-port',
          '0',
        ]
        // One of another zone, for later.
        const another = init.map((word) => word.replace('lab.', 'other.'))
        await Promise.all([done(...init, ...state('a')), done(...another, ...state('b'))])
        await done('overlay', 'account', 'add', 'alice', ...state('a'))
        const nowhere = 'postgres://godwit@%2Fnonexistent/godwit'
        const withPassword = 'postgres://godwit:secret@db/godwit'
        const [away, secret] = await Promise.all(
          [nowhere, withPassword].map((url) => godwit('overlay', 'store', 'move', url, ...state('a'))),
        )
        assert.ok(away && secret)
        assert.equal(away.status, 1)
        assert.match(away.out, /STORE_AWAY|does not answer/)
        assert.equal(secret.status, 2)
        assert.match(secret.out, /--password-file/)
        assert.ok(existsSync(join(folder, 'a', 'overlay.db')), 'still in SQLite')

        const moved = await done('overlay', 'store', 'move', bed.url, ...state('a'))
        assert.match(moved.replaceAll('\n', ' '), /PostgreSQL .* standbys FIRST 1 \(db2\)/)
        assert.ok(
          existsSync(join(folder, 'a', 'overlay.db.moved')) && !existsSync(join(folder, 'a', 'overlay.db')),
        )
        assert.match(await done('overlay', 'account', 'list', ...state('a')), /alice/)
        await done('overlay', 'account', 'add', 'bob', ...state('a'))
        const rows = await bed.db1.admin<{ name: string }>(
          'SELECT name FROM godwit.accounts ORDER BY name',
          'godwit',
        )
        assert.deepEqual(rows, [{ name: 'alice' }, { name: 'bob' }])

        // Settings of another zone do not take it, nor is it emptied.
        const other = await godwit('overlay', 'store', 'move', bed.url, ...state('b'))
        assert.equal(other.status, 1)
        assert.match(other.out, /that of lab.example/)

        const first = serve('--roles', 'dc,as')
        server = first.program
        await until(() => /^ready$/m.test(first.out()), 'the servers start')
        assert.match(first.out(), /PostgreSQL/)
        assert.match(first.out(), /fsync = off/)
        // The same zone on another host.
        spawnSync('cp', ['-a', join(folder, 'a'), join(folder, 'c')])
        for (const name of ['overlay-copy.db', 'overlay-copy.db-wal', 'overlay-copy.db-shm', 'lock'])
          rmSync(join(folder, 'c', name), { force: true })
        const [second, seen] = await Promise.all([
          godwit('overlay', 'serve', '--roles', 'dc', ...state('c')),
          done('overlay', 'store', 'show', ...state('a')),
        ])
        assert.equal(second.status, 1, second.out)
        assert.match(second.out, /has the database/)
        assert.match(seen, /coordinator: /)
        server.kill('SIGTERM')
        assert.equal(await first.ended, 0, first.out())
        // It has let go: another host may have it at once.
        assert.match(await done('overlay', 'store', 'show', ...state('c')), /no coordinator runs/)

        // The database is away for a while; then another coordinator has it.
        const again = serve('--roles', 'dc')
        server = again.program
        await until(() => /^ready$/m.test(again.out()), 'the coordinator starts again')
        bed.db1.signal('SIGSTOP')
        await until(
          () => /served from the working copy/.test(again.out()),
          'it says that the database is away',
        )
        bed.db1.signal('SIGCONT')
        await until(() => /can be reached again/.test(again.out()), 'it says that the database is back')
        await bed.db1.admin("UPDATE godwit.state SET epoch = epoch + 1, holder = 'another'", 'godwit')
        assert.equal(await again.ended, 1, again.out())
        assert.match(again.out(), /another coordinator has taken the database/)
      } finally {
        server?.kill('SIGKILL')
        await bed.end()
        rmSync(folder, { recursive: true, force: true })
      }
    })

    it(`NT-10, NT-13, NT-16: nothing that was acknowledged is lost or doubled: ${FAULT}`, async (t) => {
      const bed = made.beside()
      try {
        const result = await runWithFault(bed, FAULT, 1)
        t.diagnostic(JSON.stringify(result))
        assert.ok(result.acknowledged > 200)
      } finally {
        await bed.end()
      }
    })

    it('NT-16: two coordinators share the database: every number is given out once, one is killed meanwhile, and none takes it alone', async (t) => {
      const bed = made.beside()
      try {
        t.diagnostic(JSON.stringify(await runShared(bed, 1)))
      } finally {
        await bed.end()
      }
    })

    it('NT-10: over TLS: the certificate of PostgreSQL and the password count; what is wrong is said', async () => {
      const bed = made.beside()
      const folder = mkdtempSync(join(tmpdir(), 'godwit-pg-tls-'))
      try {
        await bed.start(true)
        const { db1 } = bed
        const [cert, key] = [join(db1.data, 'server.crt'), join(db1.data, 'server.key')]
        const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-days', '2']
        execFileSync(
          'openssl',
          ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert, ...subject],
          { stdio: 'pipe' },
        )
        const password = join(folder, 'password')
        writeFileSync(password, 'a good one\n', { mode: 0o600 })
        await db1.admin("ALTER ROLE godwit PASSWORD 'a good one'")
        await db1.kill()
        chmodSync(key, 0o600)
        for (const file of [cert, key]) own(file)
        writeFileSync(
          join(db1.data, 'pg_hba.conf'),
          'local all admin trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n',
        )
        db1.configure(['ssl = on'])
        const port = await freePort()
        await db1.start(port)
        const opened = (
          settings: { [Key in keyof PostgresSettings]?: PostgresSettings[Key] | undefined },
          host = 'localhost',
        ) => {
          const url = `postgres://godwit@${host}:${port}/godwit`
          const of = {
            url,
            tls: 'verify',
            commit: 'remote_apply',
            password_file: password,
            ca_file: cert,
            ...settings,
          }
          const remote = { settings: of as PostgresSettings, zone: 'example' }
          return new Store({ file: join(folder, 'copy.db'), remote })
        }
        const refused = (
          settings: { [Key in keyof PostgresSettings]?: PostgresSettings[Key] | undefined },
          code: string,
          text: RegExp,
          host?: string,
        ) =>
          assert.throws(
            () => opened(settings, host).close(),
            (error: GodwitError) => {
              assert.equal(error.code, code, error.message)
              assert.match(`${error.message} ${error.hint}`, text)
              return true
            },
          )
        const store = opened({})
        assert.equal(store.report()?.tls, true)
        assert.equal(store.report()?.synchronous_commit, 'remote_apply')
        store.close()
        const version = (to: number) => db1.admin(`UPDATE godwit.state SET version = ${to}`, 'godwit')
        await version(99)
        refused({}, 'STORE_REFUSED', /newer godwit/)
        await version(1)
        refused({ ca_file: undefined }, 'STORE_AWAY', /self-signed certificate/)
        refused({}, 'STORE_AWAY', /does not match|altnames/i, '127.0.0.1')
        refused({ tls: 'off' }, 'STORE_REFUSED', /no encryption/)
        writeFileSync(password, 'a wrong one\n')
        refused({}, 'STORE_REFUSED', /password authentication failed/)
        chmodSync(password, 0o644)
        refused({}, 'SECRET_EXPOSED', /chmod|others/)
      } finally {
        await bed.end()
        rmSync(folder, { recursive: true, force: true })
      }
    })
  })
})

/** Of TCP; of UDP it is taken to be. */
function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}
