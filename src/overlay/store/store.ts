/**
 * Durable state, in SQLite or in PostgreSQL (postgres/replica.ts): accounts, nodes with their keys and address leases, access lists,
 * keys of foreign zones (NT-10, NT-13, NT-16). Writes join one transaction; `commit` writes them to the disk. Callers commit before they answer, once for a
 * batch of requests (group commit), so that acknowledged state survives a kill and a power cut.
 */
import { createHash, randomBytes } from 'node:crypto'
import { statSync } from 'node:fs'
import { mapKey, toHex } from '../../core/bytes.ts'
import { GodwitError } from '../../core/errors.ts'
import type { Directory, DistributedNode, Distributor, ServerRecord, ZoneKeys } from '../machine/directory.ts'
import type { NodeRecord } from '../tables.ts'
import type { ServerRole } from '../wire/message.ts'
import { Numbers } from './numbers.ts'
import type { StoreReport } from './postgres/protocol.ts'
import { COPY, type RemoteInit, Replica } from './postgres/replica.ts'
import { type Database, type Driver, openDatabase, type Statement } from './sqlite.ts'

export interface Account {
  readonly name: string
  /** 8 bytes in hexadecimal: an account that takes the name of a removed one has another. */
  readonly id: string
  readonly salt: Uint8Array
  readonly hash: Uint8Array
  readonly disabled: boolean
  /** Seconds since 1970. */
  readonly created: number
}

const SCHEMA = `
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (
  name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL, disabled INTEGER NOT NULL, created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (
  name TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts(name) ON DELETE CASCADE, public_key BLOB NOT NULL,
  key_id BLOB NOT NULL UNIQUE, key BLOB NOT NULL, number INTEGER UNIQUE, lease BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nodes_of_account ON nodes (account);
CREATE INDEX IF NOT EXISTS nodes_of_key ON nodes (public_key);
CREATE TABLE IF NOT EXISTS access (
  node TEXT NOT NULL, pattern TEXT NOT NULL, PRIMARY KEY (node, pattern)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pushes (
  node TEXT PRIMARY KEY REFERENCES nodes(name) ON DELETE CASCADE, address TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notified (
  node TEXT PRIMARY KEY REFERENCES nodes(name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS servers (
  name TEXT PRIMARY KEY, roles TEXT NOT NULL, key BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS changes_of_node ON changes (node);
CREATE TABLE IF NOT EXISTS distributed (node TEXT PRIMARY KEY, source TEXT NOT NULL, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS zones (
  name TEXT PRIMARY KEY, coordinator BLOB NOT NULL, zone BLOB NOT NULL, seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`

/**
 * The next number of a change. At least the time (ms since 1970): a database that was restored from an older copy goes on above
 * what its coordinator has heard.
 */
const NEXT_SEQ = `MAX(
  COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0) + 1, COALESCE((SELECT MAX(seq) FROM changes), 0) + 1,
  CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))`

/** Of an account server apart: which nodes its coordinator has not heard of as they are now; one row for each. */
const TRIGGERS = ['INSERT', 'UPDATE', 'DELETE'].map((change) => {
  const which = change === 'DELETE' ? 'OLD' : 'NEW'
  const of = change === 'UPDATE' ? 'UPDATE OF account, public_key, key_id, key, expires' : change
  const note = `INSERT INTO changes (seq, node) VALUES (${NEXT_SEQ}, ${which}.name)`
  const forget = `DELETE FROM changes WHERE node = ${which}.name AND seq < (SELECT MAX(seq) FROM changes WHERE node = ${which}.name)`
  return `TRIGGER IF NOT EXISTS nodes_${change.toLowerCase()} AFTER ${of} ON main.nodes BEGIN ${note}; ${forget}; END`
})

/** Columns of a node, with its account's id. */
const NODES =
  'SELECT nodes.*, accounts.id AS account_id FROM nodes JOIN accounts ON accounts.name = nodes.account'

/** Max nodes kept in memory until another connection writes: a look-up in SQLite takes about 30 µs. */
const MAX_CACHED = 100_000

const STATEMENTS = {
  version: 'PRAGMA data_version',
  meta: 'SELECT value FROM meta WHERE key = ?',
  setMeta: 'INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
  account: 'SELECT * FROM accounts WHERE name = ?',
  accounts: 'SELECT * FROM accounts ORDER BY name',
  putAccount:
    'INSERT INTO accounts (name, salt, hash, disabled, created, id) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET salt = excluded.salt, hash = excluded.hash, disabled = excluded.disabled',
  removeAccount: 'DELETE FROM accounts WHERE name = ?',
  node: `${NODES} WHERE nodes.name = ?`,
  nodeByKeyId: `${NODES} WHERE nodes.key_id = ?`,
  nodesOf: `${NODES} WHERE nodes.account = ? ORDER BY nodes.name`,
  putNode:
    'INSERT INTO nodes (name, account, public_key, key_id, key, expires) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET public_key = excluded.public_key, key_id = excluded.key_id, key = excluded.key, expires = excluded.expires',
  renew: 'UPDATE nodes SET expires = ? WHERE name = ?',
  revoke: 'UPDATE nodes SET key_id = randomblob(16), key = randomblob(32), expires = 0 WHERE name = ?',
  withKey: 'SELECT name, account FROM nodes WHERE public_key = ? AND name <> ?',
  removeNode: 'DELETE FROM nodes WHERE name = ?',
  holder: 'SELECT name FROM nodes WHERE number = ?',
  setNumber: 'UPDATE nodes SET number = ? WHERE name = ?',
  setLease: 'UPDATE nodes SET lease = ? WHERE name = ?',
  access: 'SELECT pattern FROM access WHERE node = ? ORDER BY pattern',
  addAccess: 'INSERT OR IGNORE INTO access VALUES (?, ?)',
  clearAccess: 'DELETE FROM access WHERE node = ?',
  push: 'SELECT address FROM pushes WHERE node = ?',
  setPush: 'INSERT INTO pushes VALUES (?, ?) ON CONFLICT (node) DO UPDATE SET address = excluded.address',
  clearPush: 'DELETE FROM pushes WHERE node = ?',
  isNotified: 'SELECT 1 FROM notified WHERE node = ?',
  setNotified: 'INSERT OR IGNORE INTO notified SELECT name FROM nodes WHERE name = ?',
  zone: 'SELECT * FROM zones WHERE name = ?',
  pinZone: 'INSERT OR IGNORE INTO zones VALUES (?, ?, ?, ?)',
  unpinZone: 'DELETE FROM zones WHERE name = ?',
  server: 'SELECT * FROM servers WHERE name = ?',
  servers: 'SELECT * FROM servers ORDER BY name',
  putServer: 'INSERT INTO servers (name, roles, key, host) VALUES (?, ?, ?, ?)',
  removeServer: 'DELETE FROM servers WHERE name = ?',
  changes: 'SELECT node, MAX(seq) AS seq FROM changes GROUP BY node ORDER BY seq LIMIT ?',
  changed: 'DELETE FROM changes WHERE node = ? AND seq <= ?',
  nextSeq: `SELECT ${NEXT_SEQ} AS seq`,
  forgetChanges: 'DELETE FROM changes WHERE node IN (SELECT name FROM nodes)',
  changeAll:
    'INSERT INTO changes (seq, node) SELECT CAST(? AS INTEGER) + ROW_NUMBER() OVER (ORDER BY name), name FROM nodes',
  forgetMeta: 'DELETE FROM meta WHERE key = ? AND value = ?',
  toldOf: 'SELECT source, seq FROM distributed WHERE node = ?',
  noteTold:
    'INSERT INTO distributed VALUES (?, ?, ?) ON CONFLICT (node) DO UPDATE SET source = excluded.source, seq = excluded.seq',
  told: 'SELECT node, source, seq FROM distributed WHERE source <> ? OR seq < ?',
  forgetTold: 'DELETE FROM distributed WHERE node = ?',
  endOf: 'UPDATE nodes SET expires = 0 WHERE name IN (SELECT node FROM distributed WHERE source = ?)',
} as const

interface NodeRow {
  readonly name: string
  readonly account: string
  readonly account_id: string
  readonly public_key: Uint8Array
  readonly key_id: Uint8Array
  readonly key: Uint8Array
  readonly number: number | null
  readonly lease: Uint8Array | null
  readonly expires: number | null
}

export interface StoreInit {
  /** The database; `FILE.numbers` is beside it. */
  readonly file: string
  readonly driver?: Driver
  /** The state is in PostgreSQL, and the database a working copy of it. */
  readonly remote?: RemoteInit
  /** Notes which nodes have changed, for a coordinator elsewhere (`changes`). */
  readonly notesChanges?: boolean
  /** Seconds since 1970. */
  readonly wall?: () => number
}

/**
 * SQLite takes a file of no bytes for a new database, removes the log of one that is not there, and reads one whose log is gone as it was
 * before: every login would be gone without a word. That the file of numbers is there, or a log, shows that the database is not new.
 */
function refuseLost(file: string, database?: Database): void {
  const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size
  const log = `${file}-wal`
  const hasLog = (sizeOf(log) ?? 0) > 0
  const wasThere = sizeOf(`${file}.numbers`) !== undefined
  const size = sizeOf(file)
  if (database !== undefined) {
    if (wasThere && database.prepare('SELECT 1 FROM sqlite_master').get() == null)
      throw lost(`${file} has no accounts: they were in ${log}, which is gone or damaged`)
  } else if (size === 0 && (hasLog || wasThere))
    throw lost(`${file} is empty: its accounts and logins are lost`)
  else if (size === undefined && hasLog) throw lost(`${file} is gone, and its log ${log} is there`)
}

function lost(message: string): GodwitError {
  return new GodwitError('STORE_FAILED', message, {
    op: 'open',
    hint: 'put a copy of it back, or remove it and its log (-wal, -shm) to begin again: addresses stay, accounts and logins do not',
  })
}

function seconds(): number {
  return Math.floor(Date.now() / 1000)
}

export class Store implements Directory {
  readonly #database: Database
  readonly #statements: { readonly [Name in keyof typeof STATEMENTS]: Statement }
  readonly #numbers: Numbers
  readonly #wall: () => number
  readonly #remote: Replica | undefined
  #serial: number
  /** Other coordinators give out numbers and serials, too. */
  readonly #isShared: boolean
  #open = false
  /** Numbers or serials were taken: by the coordinator's store alone, others of the same file leave them as they are. */
  #counted = false

  readonly #byName = new Map<string, KnownNode>()
  readonly #byKeyId = new Map<string, KnownNode>()
  #version = -1
  /** The number that `takeNumber` gave last, until it is a node's. */
  #taken = -1

  constructor({ file, driver, remote, notesChanges, wall = seconds }: StoreInit) {
    this.#wall = wall
    this.#isShared = remote?.holds === 'shared'
    if (remote === undefined) refuseLost(file)
    const isNew = statSync(file, { throwIfNoEntry: false }) === undefined
    this.#database = openDatabase(file, driver, remote && COPY)
    if (remote === undefined && !isNew) this.#opened(() => refuseLost(file, this.#database))
    for (const statement of SCHEMA.split(';')) if (statement.trim() !== '') this.#database.exec(statement)
    this.#addColumn('nodes', 'expires', 'INTEGER')
    this.#addColumn('accounts', 'id', 'TEXT')
    this.#addColumn('servers', 'host', 'TEXT')
    const nameless = this.#database.prepare('SELECT 1 FROM accounts WHERE id IS NULL').get()
    if (nameless != null)
      this.#database.exec('UPDATE accounts SET id = lower(hex(randomblob(8))) WHERE id IS NULL')
    if (remote !== undefined) this.#remote = this.#replica(file, driver, remote)
    // What was changed elsewhere is noted there: the triggers of a copy are this connection's.
    const kind = remote === undefined ? 'CREATE' : 'CREATE TEMP'
    if (notesChanges === true) for (const trigger of TRIGGERS) this.#database.exec(`${kind} ${trigger}`)
    this.#statements = Object.fromEntries(
      Object.entries(STATEMENTS).map(([name, sql]) => [name, this.#database.prepare(sql)]),
    ) as never
    this.#numbers = new Numbers(
      `${file}.numbers`,
      this.#meta('next_number') ?? 1,
      this.#meta('reserved') ?? 1,
    )
    this.#serial = this.#meta('serial') ?? 0
    if (remote === undefined) this.#moveLog()
  }

  #opened<T>(use: () => T): T {
    try {
      return use()
    } catch (error) {
      this.#database.close()
      throw error
    }
  }

  /** What is in the log goes into the database, as far as no other connection needs it there: a copy of the one file lacks little. */
  #moveLog(): void {
    this.#database.prepare('PRAGMA wal_checkpoint(PASSIVE)').get()
  }

  #replica(file: string, driver: Driver | undefined, remote: RemoteInit): Replica {
    return this.#opened(() => new Replica(this.#database, file, driver, remote))
  }

  /** Databases of before lack it. */
  #addColumn(of: string, name: string, type: string): void {
    const columns = this.#database.prepare(`PRAGMA table_info(${of})`).all() as { name: string }[]
    if (columns.some((column) => column.name === name)) return
    try {
      this.#database.exec(`ALTER TABLE ${of} ADD COLUMN ${name} ${type}`)
    } catch (error) {
      // Another process has done it meanwhile.
      if (!/duplicate column/.test((error as Error).message)) throw error
    }
  }

  /** Writes what has changed to the disk, or to PostgreSQL; returns when it is there. What fails is discarded. */
  commit(): void {
    if (!this.#open) {
      this.#remote?.endTurn()
      return
    }
    try {
      if (this.#counted) {
        const { setMeta } = this.#statements
        setMeta.run('next_number', this.#numbers.next)
        setMeta.run('reserved', this.#numbers.reserved)
        setMeta.run('serial', this.#serial)
      }
      this.#remote?.commit()
      this.#database.exec('COMMIT')
    } catch (error) {
      this.#rollBack()
      throw error
    }
    this.#open = false
    this.#counted = false
  }

  /**
   * Discards the transaction; the next write begins a new one. SQLite may have rolled back by itself if the disk is full.
   */
  #rollBack(): void {
    this.#forgetNodes()
    this.#open = false
    this.#counted = false
    try {
      this.#database.exec('ROLLBACK')
    } catch {}
  }

  /** Whether PostgreSQL cannot be reached: look-ups are answered by the working copy, and `commit` fails at once. */
  get isAway(): boolean {
    return this.#remote?.isAway === true
  }

  /** More numbers were assigned when it was opened than it knows: it is a copy from before, or its log is gone. */
  get isOlder(): boolean {
    return this.#remote === undefined && this.#numbers.wereMore
  }

  /** Of PostgreSQL; undefined: the state is in SQLite. */
  report(): StoreReport | undefined {
    return this.#remote?.report()
  }

  /**
   * Takes everything from a store in SQLite, which nothing else uses meanwhile. Throws STORE_REFUSED unless the database is empty; it
   * stays so if anything fails.
   */
  moveFrom(file: string): void {
    if (this.#remote === undefined) return
    if (this.#database.prepare('SELECT 1 FROM accounts UNION ALL SELECT 1 FROM servers').get() != null)
      throw new GodwitError('STORE_REFUSED', 'the database has accounts or servers already', {
        hint: 'name an empty one, or: drop schema godwit cascade',
      })
    const old = new Store({ file })
    // With the numbers that were reserved.
    old.#begin()
    old.#counted = true
    old.close()
    this.#remote.copyFrom(file)
  }

  /** Sees what other connections have written: call it before a batch of look-ups. Throws STORE_TAKEN. */
  refresh(): void {
    if (!this.#open) this.#remote?.refresh()
    const { data_version } = this.#statements.version.get() as { data_version: number }
    if (data_version === this.#version) return
    this.#version = data_version
    this.#forgetNodes()
  }

  /** As `refresh`, before a turn that may write and ends with `commit`: others let one go first that was behind them. */
  beginTurn(): void {
    if (!this.#open) this.#remote?.beginTurn()
    this.refresh()
  }

  #forgetNodes(): void {
    this.#byName.clear()
    this.#byKeyId.clear()
  }

  /** What was written of this node is read again. */
  #forgetNode(name: string): void {
    const node = this.#byName.get(name)
    this.#byName.delete(name)
    if (node !== undefined) this.#byKeyId.delete(mapKey(node.record.keyId))
  }

  #change(name: string, change: (known: KnownNode) => KnownNode): void {
    const known = this.#byName.get(name)
    if (known !== undefined) this.#keep(change(known))
  }

  #keep(known: KnownNode): KnownNode {
    if (this.#byName.size >= MAX_CACHED) this.#forgetNodes()
    this.#byName.set(known.record.name, known)
    this.#byKeyId.set(mapKey(known.record.keyId), known)
    return known
  }

  /** Whether something waits for `commit`. */
  get dirty(): boolean {
    return this.#open
  }

  close(): void {
    try {
      this.commit()
      if (this.#remote === undefined) this.#moveLog()
    } finally {
      this.#remote?.close()
      this.#database.close()
    }
  }

  account(name: string): Account | undefined {
    const row = this.#statements.account.get(name) as AccountRow | undefined | null
    return row == null ? undefined : accountOf(row)
  }

  accounts(): readonly Account[] {
    return (this.#statements.accounts.all() as AccountRow[]).map(accountOf)
  }

  /** An account that is there keeps its id; `id`: of one that another server has made. */
  putAccount(account: Omit<Account, 'created' | 'id'>, id = toHex(randomBytes(8))): void {
    this.#begin()
    const { name, salt, hash, disabled } = account
    this.#statements.putAccount.run(name, salt, hash, disabled ? 1 : 0, this.#wall(), id)
  }

  /** Its nodes go with it; their addresses are never given out again. */
  removeAccount(name: string): boolean {
    if (this.account(name) === undefined) return false
    this.#begin()
    for (const node of this.nodesOf(name)) this.#statements.clearAccess.run(node.name)
    this.#forgetNodes()
    this.#statements.removeAccount.run(name)
    return true
  }

  nodesOf(account: string): readonly NodeRecord[] {
    return (this.#statements.nodesOf.all(account) as NodeRow[]).map(nodeOf)
  }

  nodeByName(name: string): NodeRecord | undefined {
    return this.#known(name)?.record
  }

  nodeByKeyId(keyId: Uint8Array): NodeRecord | undefined {
    const known = this.#byKeyId.get(mapKey(keyId))
    if (known !== undefined) return known.record
    const row = this.#statements.nodeByKeyId.get(keyId) as NodeRow | undefined | null
    return row == null ? undefined : this.#keep(knownOf(row)).record
  }

  putNode(node: Pick<NodeRecord, 'name' | 'account' | 'publicKey' | 'keyId' | 'key' | 'expires'>): boolean {
    const there = this.#known(node.name)?.record
    if (there !== undefined && there.account !== node.account) return false
    const { clearAccess, removeNode, withKey } = this.#statements
    const same = withKey.all(node.publicKey, node.name) as Pick<NodeRow, 'name' | 'account'>[]
    if (same.some(({ account }) => account !== node.account)) return false
    this.#begin()
    for (const { name } of same) {
      clearAccess.run(name)
      removeNode.run(name)
      this.#forgetNode(name)
    }
    this.#forgetNode(node.name)
    const { name, account, publicKey, keyId, key, expires = null } = node
    this.#statements.putNode.run(name, account, publicKey, keyId, key, expires)
    return true
  }

  /** Until when its login key is good from now on; undefined: for good. */
  renewLogin(name: string, expires: number | undefined): void {
    this.#begin()
    this.#statements.renew.run(expires ?? null, name)
    this.#forgetNode(name)
  }

  /** Its login key is of no use any more. False when there is no such node. */
  revokeLogin(name: string): boolean {
    if (this.nodeByName(name) === undefined) return false
    this.#begin()
    this.#statements.revoke.run(name)
    this.#forgetNode(name)
    return true
  }

  takeNumber(): number {
    this.#begin()
    this.#counted = true
    this.#taken = this.#numbers.take()
    return this.#taken
  }

  setNumber(name: string, number: number): boolean {
    // A number that was just taken is free.
    if (number !== this.#taken) {
      const holder = this.#statements.holder.get(number) as { name: string } | undefined | null
      if (holder != null && holder.name !== name) return false
    }
    this.#taken = -1
    this.#begin()
    this.#counted = true
    this.#numbers.note(number)
    this.#statements.setNumber.run(number, name)
    this.#change(name, ({ record }) => ({ record, number }))
    return true
  }

  numberOf(name: string): number | undefined {
    return this.#known(name)?.number
  }

  setLease(name: string, lease: Uint8Array): void {
    this.#begin()
    this.#statements.setLease.run(lease, name)
    this.#change(name, ({ record, number }) => ({ record: { ...record, lease }, number }))
  }

  takeSerial(): number {
    this.#begin()
    this.#counted = true
    return ++this.#serial
  }

  accessOf(name: string): readonly string[] | undefined {
    const rows = this.#statements.access.all(name) as { pattern: string }[]
    return rows.length === 0 ? undefined : rows.map(({ pattern }) => pattern)
  }

  /** Undefined: the zone's rule holds again. */
  setAccess(name: string, patterns: readonly string[] | undefined): void {
    this.#begin()
    this.#statements.clearAccess.run(name)
    for (const pattern of patterns ?? []) this.#statements.addAccess.run(name, pattern)
  }

  pushOf(name: string): string | undefined {
    const row = this.#statements.push.get(name) as { address: string } | undefined | null
    return row?.address
  }

  setPush(name: string, address: string | undefined): void {
    this.#begin()
    if (address === undefined) this.#statements.clearPush.run(name)
    else this.#statements.setPush.run(name, address)
  }

  isNotified(name: string): boolean {
    return this.#statements.isNotified.get(name) != null
  }

  setNotified(name: string): void {
    this.#begin()
    this.#statements.setNotified.run(name)
  }

  zoneKeys(zone: string): ZoneKeys | undefined {
    const row = this.#statements.zone.get(zone) as
      | { coordinator: Uint8Array; zone: Uint8Array }
      | undefined
      | null
    return row == null ? undefined : { coordinator: own(row.coordinator), zone: own(row.zone) }
  }

  pinZone(zone: string, keys: ZoneKeys): void {
    this.#begin()
    this.#statements.pinZone.run(zone, keys.coordinator, keys.zone, this.#wall())
  }

  // ---- servers apart

  serverByName(name: string): ServerRecord | undefined {
    const row = this.#statements.server.get(name) as ServerRow | undefined | null
    return row == null ? undefined : serverOf(row)
  }

  servers(): readonly ServerRecord[] {
    return (this.#statements.servers.all() as ServerRow[]).map(serverOf)
  }

  /** One that is not there yet. */
  putServer({ name, roles, key, host }: ServerRecord): void {
    this.#begin()
    this.#statements.putServer.run(name, [...roles].join(), key, host ?? null)
  }

  /** False when there is none. Logins that it has told end until another account server tells them. */
  removeServer(name: string): boolean {
    const record = this.serverByName(name)
    if (record === undefined) return false
    this.#begin()
    this.#statements.removeServer.run(name)
    this.#statements.endOf.run(sourceOf(record.key))
    this.#forgetNodes()
    return true
  }

  distribute(node: DistributedNode, by: Distributor): boolean {
    const { name, account, accountId, publicKey, keyId, key, expires } = node
    if (!this.#isNews(name, by)) return false
    const known = this.account(account)
    if (known !== undefined && known.id !== accountId) this.removeAccount(account)
    const { removeNode, clearAccess, withKey, nodeByKeyId, putNode } = this.#statements
    this.#begin()
    if (known?.id !== accountId) {
      const nobody = { salt: new Uint8Array(0), hash: new Uint8Array(0), disabled: true }
      this.putAccount({ name: account, ...nobody }, accountId)
    }
    const others = withKey.all(publicKey, name) as { name: string }[]
    const same = nodeByKeyId.get(keyId) as { name: string } | undefined | null
    const there = this.#known(name)?.record
    for (const other of [...others, ...(same != null && same.name !== name ? [same] : [])])
      this.#removeNode(other.name)
    if (there !== undefined && there.account !== account) {
      clearAccess.run(name)
      removeNode.run(name)
    }
    this.#forgetNode(name)
    putNode.run(name, account, publicKey, keyId, key, expires ?? null)
    return true
  }

  removeNode(name: string, by: Distributor): boolean {
    if (!this.#isNews(name, by)) return false
    this.#removeNode(name)
    return true
  }

  removeUnnamed({ key, seq }: Distributor): readonly string[] {
    const source = sourceOf(key)
    const others = this.servers().filter(({ roles }) => roles.has('as'))
    const there = new Set(others.map((server) => sourceOf(server.key)))
    const told = this.#statements.told.all(source, seq) as { node: string; source: string }[]
    const left = told.filter((each) => each.source === source || !there.has(each.source))
    for (const { node } of left) {
      this.#removeNode(node)
      this.#begin()
      this.#statements.forgetTold.run(node)
    }
    return left.map(({ node }) => node)
  }

  /** False: this server has said something newer of the node, or this already. */
  #isNews(node: string, { key, seq }: Distributor): boolean {
    const source = sourceOf(key)
    const told = this.#statements.toldOf.get(node) as { source: string; seq: number } | undefined | null
    if (told != null && told.source === source && told.seq >= seq) return false
    this.#begin()
    this.#statements.noteTold.run(node, source, seq)
    return true
  }

  #removeNode(name: string): void {
    if (this.#known(name) === undefined) return
    this.#begin()
    this.#statements.clearAccess.run(name)
    this.#statements.removeNode.run(name)
    this.#forgetNode(name)
  }

  /** Nodes that have changed since `distributed` was called for them, the oldest change first. */
  changes(most: number): readonly Change[] {
    return this.#statements.changes.all(most) as Change[]
  }

  /** The coordinator has the node as it was at this change. */
  distributed({ node, seq }: Change): void {
    this.#begin()
    this.#statements.changed.run(node, seq)
  }

  /** All nodes count as changed, and what the coordinator has beside them is no more: it has an older store. */
  changeAll(): void {
    this.#statements.setMeta.run('whole', this.#renumber())
  }

  /** All nodes were changed at this number or after it, and the coordinator is to remove all others. */
  get whole(): number | undefined {
    return this.#meta('whole')
  }

  /** It has removed all others. */
  toldWhole(whole: number): void {
    this.#begin()
    this.#statements.forgetMeta.run('whole', whole)
  }

  /** The key under which changes are told from now on. Under another than before, all nodes are told anew. */
  tellsAs(key: Uint8Array): void {
    const id = Number.parseInt(sourceOf(key).slice(0, 12), 16)
    if (this.#meta('tells_as') === id) return
    this.#renumber()
    this.#statements.setMeta.run('tells_as', id)
  }

  /** All nodes count as changed; returns a number that is less than theirs, and greater than all before. */
  #renumber(): number {
    this.#begin()
    const { nextSeq, forgetChanges, changeAll } = this.#statements
    const { seq } = nextSeq.get() as { seq: number }
    forgetChanges.run()
    changeAll.run(seq)
    return seq
  }

  unpinZone(zone: string): void {
    this.#begin()
    this.#statements.unpinZone.run(zone)
  }

  #begin(): void {
    if (this.#open) return
    this.#remote?.refresh()
    this.#database.exec('BEGIN IMMEDIATE')
    this.#open = true
    this.#remote?.begun()
    if (!this.#isShared) return
    // What others have given out is in the commit that this one is made on, or this one is refused.
    this.#numbers.seen(this.#meta('next_number') ?? 1, this.#meta('reserved') ?? 1)
    this.#serial = this.#meta('serial') ?? 0
  }

  #meta(key: string): number | undefined {
    const row = this.#statements.meta.get(key) as { value: number } | undefined | null
    return row == null ? undefined : row.value
  }

  #known(name: string): KnownNode | undefined {
    const known = this.#byName.get(name)
    if (known !== undefined) return known
    const row = this.#statements.node.get(name) as NodeRow | undefined | null
    return row == null ? undefined : this.#keep(knownOf(row))
  }
}

/** A node that was written or removed. */
export interface Change {
  readonly node: string
  readonly seq: number
}

interface ServerRow {
  readonly name: string
  readonly roles: string
  readonly key: Uint8Array
  readonly host: string | null
}

function serverOf({ name, roles, key, host }: ServerRow): ServerRecord {
  const known = { name, roles: new Set(roles.split(',') as ServerRole[]), key: own(key) }
  return host === null ? known : { ...known, host }
}

interface AccountRow {
  readonly name: string
  readonly id: string
  readonly salt: Uint8Array
  readonly hash: Uint8Array
  readonly disabled: number
  readonly created: number
}

function accountOf({ name, id, salt, hash, disabled, created }: AccountRow): Account {
  return { name, id, salt: own(salt), hash: own(hash), disabled: disabled !== 0, created }
}

interface KnownNode {
  /** The same for all who ask: nobody changes its byte arrays. */
  readonly record: NodeRecord
  readonly number: number | undefined
}

function knownOf(row: NodeRow): KnownNode {
  return { record: nodeOf(row), number: row.number ?? undefined }
}

function nodeOf(row: NodeRow): NodeRecord {
  return {
    name: row.name,
    account: row.account,
    accountId: row.account_id,
    publicKey: own(row.public_key),
    keyId: own(row.key_id),
    key: own(row.key),
    ...(row.lease !== null && { lease: own(row.lease) }),
    ...(row.expires !== null && { expires: row.expires }),
  }
}

/** How an account server is called in `distributed`. */
function sourceOf(key: Uint8Array): string {
  return createHash('sha256').update(key).digest('hex').slice(0, 16)
}

/** Drivers differ in what a blob is. */
function own(blob: Uint8Array): Uint8Array {
  return new Uint8Array(blob)
}
