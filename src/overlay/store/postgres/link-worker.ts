/**
 * The thread that talks to PostgreSQL: keeps a connection to the server that takes writes, and answers the store's thread (protocol.ts).
 * The database counts as up after a write of its own was confirmed, so that a primary whose standby is gone, or that was left behind by a
 * promotion, delays nobody. While it is not up, every request is answered at once.
 */
import { randomBytes } from 'node:crypto'
import { workerData } from 'node:worker_threads'
import { GodwitError } from '../../../core/errors.ts'
import {
  type Answer,
  type FailedWith,
  LAST,
  type LinkSetup,
  type Mark,
  noteEnd,
  type Request,
  SIGNAL,
  STATUS,
  Status,
  type StoreReport,
  type TableChange,
} from './protocol.ts'
import { HOLD_SECONDS, SQL, TURN_MS } from './schema.ts'
import { ANSWER_MS, placeName, placesOf, Session, Unusable } from './session.ts'
import { pageOfRows, rowsOfKeys, TABLES } from './tables.ts'

/** Between two signs of life (ms); changes of others are seen after it at the latest. */
const BEAT_MS = 1000
/** Between two rounds over all servers (ms), doubled up to the second. */
const PAUSE_MS = [100, 5000] as const
/** Rows read at a time. */
const PAGE = 5000
/** Signs of life between two trims of the log. */
const TRIM_EVERY = 60
const READ = 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY'
/** A start waits so long for a server that takes writes (ms). */
const START_MS = 3000
/** For many changes in one transaction (ms). */
const FILL_MS = 60_000

interface LastRow {
  readonly seq: string
  readonly ident: string
  readonly database: string
}

class Link {
  readonly #setup: LinkSetup
  readonly #numbers: Int32Array
  readonly #last: BigInt64Array
  #session: Session | undefined
  #mark: Mark | undefined
  /** Of this coordinator's hold. */
  #epoch: string | null = null
  readonly #writer = randomBytes(8).toString('hex')
  #why = 'not connected yet'
  #failure: FailedWith | undefined
  #closed = false
  #beats = 0
  #filling = false
  #waiting: ((answer: Answer) => void)[] = []
  /** Reads everything as of one commit, while the other goes on. */
  #loading: Session | undefined
  /** What is asked waits for what was asked before: some of it is several statements. */
  #turn: Promise<unknown> = Promise.resolve()
  #wake: () => void = () => {}

  constructor(setup: LinkSetup) {
    this.#setup = setup
    this.#numbers = new Int32Array(setup.shared)
    this.#last = new BigInt64Array(setup.shared)
    this.#mark = setup.mark
    setup.port.on('message', ({ id, request }: { id: number; request: Request }) => {
      void this.#answer(request).then((answer) => {
        setup.port.postMessage({ id, answer })
        Atomics.add(this.#numbers, SIGNAL, 1)
        Atomics.notify(this.#numbers, SIGNAL)
        if (request.type === 'close') setup.port.close()
      })
    })
    process.on('exit', () => noteEnd(this.#numbers))
    setInterval(() => void this.#inTurn(() => this.#beat()), BEAT_MS).unref()
    void this.#run()
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work)
    this.#turn = turn.catch(() => {})
    return turn
  }

  /** Connects, again and again. */
  async #run(): Promise<void> {
    let pause: number = PAUSE_MS[0]
    while (!this.#closed) {
      if (await this.#connect()) {
        pause = PAUSE_MS[0]
        await new Promise<void>((lost) => {
          this.#wake = lost
          if (this.#session === undefined || this.#session.isLost) lost()
        })
        continue
      }
      const isFinal = this.#failure !== undefined || this.#status === Status.FENCED
      if (isFinal || performance.now() > START_MS)
        for (const answer of this.#waiting.splice(0)) answer(this.#unavailable())
      if (this.#status === Status.FENCED) return
      await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random() / 2)))
      pause = Math.min(2 * pause, PAUSE_MS[1])
    }
  }

  /** One round over all servers. */
  async #connect(): Promise<boolean> {
    const reasons: string[] = []
    this.#failure = undefined
    for (const place of placesOf(this.#setup.settings)) {
      let session: Session | undefined
      try {
        session = await Session.open(place, () => this.#down())
        await this.#begin(session)
        if (this.#closed) throw new Unusable('closed')
        this.#session = session
        this.#failure = undefined
        this.#set(Status.UP)
        for (const answer of this.#waiting.splice(0)) answer(this.#at())
        return true
      } catch (error) {
        await session?.close()
        if (error instanceof GodwitError) this.#failure ??= failed(error)
        reasons.push(`${placeName(place)}: ${(error as Error).message.replace(`${placeName(place)}: `, '')}`)
        if (this.#status === Status.FENCED) return false
      }
    }
    this.#why = reasons.join('; ')
    return false
  }

  async #begin(session: Session): Promise<void> {
    const { zone, hold } = this.#setup
    await session.migrate()
    // Before anything is written: a primary that was replaced would wait for its standby.
    if (this.#mark !== undefined) {
      const [seen] = await session.query<LastRow>(SQL.last)
      await this.#checkMark(session, seen!)
    }
    const [of] = await session.query<LastRow & { zone: string }>(SQL.belongs, [zone])
    if (of?.zone !== zone)
      throw new GodwitError('STORE_REFUSED', `the database is that of ${of?.zone}`, {
        hint: 'each zone, and each account server apart, needs a database of its own',
      })
    if (hold !== undefined && this.#epoch === null) await this.#hold(session, hold)
    else if (this.#epoch !== null) await this.#confirm(session)
    const [last] = await session.query<LastRow>(SQL.probe)
    await this.#checkMark(session, last!)
    this.#setMark({ ...last!, seq: Number(last!.seq), timeline: session.timeline })
  }

  /** Throws if this is not the server that has everything which was acknowledged: one that was left behind, or an older copy. */
  async #checkMark(session: Session, last: LastRow): Promise<void> {
    const mark = this.#mark
    if (mark === undefined) return
    const seq = Number(last.seq)
    const [then] = await session.query<{ ident: string }>(SQL.identAt, [mark.seq])
    const isOther = last.database !== mark.database
    const ident = seq === mark.seq ? last.ident : then?.ident
    const isAnother = ident !== undefined && ident !== mark.ident
    if (!isOther && !isAnother && seq >= mark.seq && session.timeline >= mark.timeline) return
    const what = isOther ? 'is another database' : 'lacks changes that were acknowledged'
    throw new GodwitError('STORE_BEHIND', `${placeName(session.place)} ${what}`, {
      hint: 'is it a primary that was replaced, or an older copy? If it is to count all the same: stop the servers and remove overlay-copy.db',
    })
  }

  async #hold(session: Session, hold: NonNullable<LinkSetup['hold']>): Promise<void> {
    const sql = hold.isShared ? SQL.holdShared : SQL.hold
    const [row] = await session.query<{ epoch: string }>(sql, [hold.owner, hold.host])
    if (row !== undefined) {
      this.#epoch = row.epoch
      return
    }
    const [held] = await session.query<{ host: string; ago: number }>(SQL.heldBy)
    throw new GodwitError('STORE_HELD', `the coordinator on ${held?.host} has the database`, {
      hint: `stop it, and start this one; if that host is dead, start this one again ${HOLD_SECONDS} seconds after its last sign (${held?.ago ?? 0} s ago)`,
    })
  }

  /** Whether this coordinator still has the database. */
  async #confirm(session: Session): Promise<void> {
    const [row] = await session.query<{ seq: string }>(SQL.beat, [this.#epoch])
    if (row !== undefined) return
    this.#set(Status.FENCED)
    throw new Unusable('another coordinator has the database')
  }

  async #beat(): Promise<void> {
    const session = this.#session
    if (session === undefined || this.#filling) return
    try {
      if (this.#epoch === null) {
        const [last] = await session.query<LastRow>(SQL.last)
        this.#note(Number(last!.seq))
        return
      }
      const [row] = await session.query<{ seq: string }>(SQL.beat, [this.#epoch])
      if (row === undefined) {
        this.#set(Status.FENCED)
        session.end(new Unusable('another coordinator has the database'))
        return
      }
      this.#note(Number(row.seq))
      if (++this.#beats % TRIM_EVERY === 0) await session.query(SQL.trim)
    } catch {
      // The session ends itself; what the server refuses (a lock that is not free in time) is tried again.
    }
  }

  #down(): void {
    this.#session = undefined
    this.#filling = false
    if (this.#status !== Status.FENCED) this.#set(Status.AWAY)
    this.#why = 'the connection was lost'
    this.#wake()
  }

  get #status(): number {
    return Atomics.load(this.#numbers, STATUS)
  }

  #set(status: number): void {
    Atomics.store(this.#numbers, STATUS, status)
  }

  /** Commits of others count, too. */
  #note(seq: number): void {
    Atomics.store(this.#last, LAST, BigInt(seq))
  }

  #setMark(mark: Mark): void {
    this.#mark = mark
    this.#note(mark.seq)
  }

  #at(): Answer {
    return { outcome: 'at', mark: this.#mark! }
  }

  #unavailable(): Answer {
    if (this.#status === Status.FENCED) return { outcome: 'fenced' }
    if (this.#failure !== undefined) return { outcome: 'failed', error: this.#failure }
    return { outcome: 'away', why: this.#why }
  }

  async #answer(request: Request): Promise<Answer> {
    if (request.type === 'close') return await this.#close()
    if (request.type === 'ready' && this.#session === undefined && this.#status !== Status.FENCED)
      return await new Promise((resolve) => this.#waiting.push(resolve))
    try {
      return await this.#inTurn(async () => {
        // Its own connection stands perhaps, and holds what the server may not remove meanwhile.
        if (request.type === 'loaded') return await this.#endLoading()
        const session = this.#session
        return session === undefined ? this.#unavailable() : await this.#carryOut(session, request)
      })
    } catch (error) {
      if (this.#status === Status.FENCED) return { outcome: 'fenced' }
      if (error instanceof GodwitError) return { outcome: 'failed', error: failed(error) }
      return { outcome: 'away', why: (error as Error).message }
    }
  }

  async #carryOut(session: Session, request: Request): Promise<Answer> {
    switch (request.type) {
      case 'apply': {
        const { base, ident, touched, changes } = request
        const values = [base, this.#writer, this.#epoch, ident, touched, changes]
        const limit = this.#filling ? FILL_MS : ANSWER_MS
        const [row] = await session.query<{ outcome: 'done' | 'behind' | 'fenced' }>(SQL.apply, values, limit)
        const { outcome } = row!
        if (outcome === 'done') this.#setMark({ ...this.#mark!, seq: base + 1, ident })
        else if (outcome === 'fenced') this.#set(Status.FENCED)
        else this.#note(Number((await session.query<LastRow>(SQL.last))[0]!.seq))
        return { outcome }
      }
      case 'turn':
        await this.#takeTurn(session)
        return { outcome: 'done' }
      case 'turn-end':
        await session.query(SQL.endTurn, [this.#writer])
        return { outcome: 'done' }
      case 'changes':
        return await session.transaction(READ, () => this.#changes(session, request.since))
      case 'load':
        await this.#endLoading()
        this.#loading = await Session.open(session.place, () => {})
        await this.#loading.query(READ)
        return await this.#lastOf(this.#loading)
      case 'page': {
        if (this.#loading === undefined) return this.#unavailable()
        const sql = pageOfRows(TABLES[request.table]!)
        const [page] = await this.#loading.query<{ rows: string; last: string | null }>(
          sql,
          [request.after, PAGE],
          FILL_MS,
        )
        return { outcome: 'page', ...page! }
      }
      case 'fill':
        this.#filling = true
        await session.query('BEGIN')
        return { outcome: 'done' }
      case 'filled':
        await session.query('COMMIT', [], FILL_MS)
        this.#filling = false
        return { outcome: 'done' }
      case 'report':
        return { outcome: 'report', report: await reportOf(session) }
      default:
        return this.#at()
    }
  }

  /** As long as one may last, it is waited for. */
  async #takeTurn(session: Session): Promise<void> {
    const until = performance.now() + TURN_MS
    for (;;) {
      const [row] = await session.query<{ seq: string }>(SQL.takeTurn, [this.#writer])
      if (row !== undefined) return this.#note(Number(row.seq))
      if (performance.now() > until) return
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }

  async #endLoading(): Promise<Answer> {
    const session = this.#loading
    this.#loading = undefined
    await session?.close()
    return { outcome: 'done' }
  }

  async #lastOf(session: Session): Promise<Answer> {
    const [last] = await session.query<LastRow>(SQL.last)
    this.#setMark({ ...last!, seq: Number(last!.seq), timeline: session.timeline })
    return this.#at()
  }

  async #changes(session: Session, since: number): Promise<Answer> {
    const [last] = await session.query<LastRow>(SQL.last)
    const seq = Number(last!.seq)
    const noted = await session.query<{ touched: Record<string, unknown[]> | null }>(SQL.touchedSince, [
      since,
    ])
    if (noted.length < seq - since || noted.some(({ touched }) => touched === null))
      return { outcome: 'reload' }
    const tables: TableChange[] = []
    for (const [table, each] of TABLES.entries()) {
      const keys = new Set(noted.flatMap(({ touched }) => touched?.[each.name] ?? []))
      if (keys.size === 0) continue
      const text = JSON.stringify([...keys])
      const [found] = await session.query<{ rows: string }>(rowsOfKeys(each), [text])
      tables.push({ table, keys: text, rows: found!.rows })
    }
    this.#setMark({ ...last!, seq, timeline: session.timeline })
    return { outcome: 'changes', mark: this.#mark!, tables }
  }

  async #close(): Promise<Answer> {
    this.#closed = true
    await this.#endLoading()
    const session = this.#session
    this.#session = undefined
    if (session !== undefined) {
      // Others may share it: it ends by itself.
      const isAlone = this.#setup.hold?.isShared === false
      if (this.#epoch !== null && isAlone) await session.query(SQL.release, [this.#epoch]).catch(() => {})
      await session.close()
    }
    this.#wake()
    return { outcome: 'done' }
  }
}

function failed({ code, message, hint, kind }: GodwitError): FailedWith {
  return { code, message, hint, kind }
}

async function reportOf(session: Session): Promise<StoreReport> {
  const setting = async (name: string) => {
    const [row] = await session.query<{ value: string }>('SELECT current_setting($1) AS value', [name])
    return row?.value ?? ''
  }
  const unsafe: string[] = []
  for (const name of ['fsync', 'full_page_writes'])
    if ((await setting(name)) !== 'on') unsafe.push(`${name} = off`)
  // What of a standby this role may not see is null.
  const [standbys] = await session.query<{ seen: string; synchronous: string }>(
    `SELECT count(sync_state)::text AS seen, count(*) FILTER (WHERE sync_state IN ('sync', 'quorum'))::text AS synchronous
     FROM pg_stat_replication`,
  )
  const [all] = await session.query<{ rows: string }>(
    'SELECT count(*)::text AS rows FROM pg_stat_replication',
  )
  const isHidden = standbys!.seen === '0' && all!.rows !== '0'
  const [state] = await session.query<{ seq: string; version: number; host: string | null }>(
    'SELECT seq::text, version, CASE WHEN holder IS NULL THEN NULL ELSE host END AS host FROM godwit.state',
  )
  const { place } = session
  return {
    host: placeName(place),
    version: session.version,
    tls: place.settings.tls !== 'off' && !place.host.startsWith('/'),
    synchronous_commit: await setting('synchronous_commit'),
    synchronous_standby_names: await setting('synchronous_standby_names'),
    synchronous_standbys: isHidden ? null : Number(standbys!.synchronous),
    unsafe,
    commits: Number(state!.seq),
    schema: state!.version,
    held_by: state!.host,
  }
}

new Link(workerData as LinkSetup)
