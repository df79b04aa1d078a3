/**
 * The other coordinators of the own zone (issue 13, part 2): who of them has a node, and questions to them. Sans-I/O: what is said goes
 * over a bus that the owner of this machine has (servers/soft/), which keeps claims for a while and brings everything else or loses it.
 *
 * The bus is believed nothing. Whatever it brings is sealed with a key that the coordinators of the zone have from the zone's own, for one place
 * of the bus: who can write to it can lose, hold back and repeat messages, and claim nothing. A claim says which coordinator
 * has a node, not where the node is: that one is asked. What is here never lasts: a node registers again, and its coordinator claims it again.
 */
import { ascii, concat, toHex } from '../../core/bytes.ts'
import { encoded } from '../../core/codec.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { kdf } from '../../crypto/tunnel-crypto.ts'
import { type SoftWord, softCodec, Word, wordCodec } from '../wire/fellow.ts'
import type { CertifiedServer, CoordinatorAt, Message } from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import { CounterWindow } from './counters.ts'
import { Shares } from './shares.ts'

export type SoftOutput =
  /** From now on, what is for this one is for us. */
  | { readonly type: 'soft-listen'; readonly id: string }
  /** Keep this under the key for a while, and show it to all. */
  | { readonly type: 'soft-put'; readonly key: string; readonly bytes: Uint8Array }
  /** What is kept under the key; `got` brings the answer. */
  | { readonly type: 'soft-get'; readonly id: number; readonly key: string }
  /** To the coordinator with this name of its start; `*`: to all. */
  | { readonly type: 'soft-tell'; readonly to: string; readonly bytes: Uint8Array }

export type SoftInput =
  | { readonly type: 'soft-up' }
  | { readonly type: 'soft-down' }
  /** Somebody has put it. */
  | { readonly type: 'soft-entry'; readonly key: string; readonly bytes: Uint8Array }
  | { readonly type: 'soft-got'; readonly id: number; readonly bytes: Uint8Array | undefined }
  /** `isOwn`: it was for this coordinator alone. */
  | { readonly type: 'soft-heard'; readonly isOwn: boolean; readonly bytes: Uint8Array }

export interface FellowsParts extends MachineComponents {
  /** What the coordinators of the zone have, and nobody else (32 bytes). */
  readonly secret: Uint8Array
  /** Of this coordinator, for people. */
  readonly name: string
  /** Where servers apart reach it; absent: nowhere. */
  readonly place?: Pick<CoordinatorAt, 'port' | 'addresses'>
  /** The cache server in this process. */
  readonly cache?: CertifiedServer
  readonly emit: (output: SoftOutput) => void
  /** When the node registered here, by the wall clock (ms); undefined: it is not here. */
  readonly locatedAt: (name: string) => number | undefined
  /** Nodes here. */
  readonly nodes: () => number
  /** A node that is not here, as far as `locatedAt` says, or only since before, has registered at another coordinator then. */
  readonly onMoved: (name: string, at: number) => void
  /** Where the cache server of another one is, about once a second. */
  readonly onCache?: (at: CertifiedServer) => void
  readonly onAsked: (fellow: string, message: Message, reply: (answer: Message) => void, now: number) => void
  readonly log: (level: 'info' | 'warn', message: string) => void
}

export type Sought = (fellow: string | undefined, now: number) => void

/** Between two signs of life, and how long one is good for (ms). */
const ALIVE_MS = 1000
const LOST_MS = 3500
/** A coordinator that was lost is forgotten then (ms). */
const FORGET_MS = 60_000
const MAX_FELLOWS = 32
/** Messages a second of starts that are not known, and at once: each costs a key. */
const STRANGERS_RATE = 20
const STRANGERS_BURST = 40
/** A claim that was made before a sign of life has come so long after it (ms), or is lost. */
const LATE_MS = 2000
/** Numbers of claims that are kept of a coordinator: more than come in that time. */
const MAX_COME = 100_000
/** Clocks may differ by so much (ms): a sign of life that is older was kept back. */
const MAX_SKEW = 5_000
/** A claim is put again then (ms); the bus keeps it three times as long. */
export const CLAIM_AGAIN_MS = 20 * 60_000
export const CLAIM_KEPT_MS = 60 * 60_000
/** Between two looks (ms), and claims that all coordinators put again in that time: less than half of what each is handed (soft/bus-worker.ts). */
const LOOK_MS = 20
const CLAIMS_AT_ONCE = 80
/** Claims are put again about so long after the bus is there (ms): all coordinators begin with that, and have to hear of each other first. */
const UP_MS = 1000
/**
 * Claims are put again because others were lost: not again for so many times as long as that takes, and for so long at least and at
 * most (ms).
 */
const LOST_FACTOR = 4
const LOST_PAUSE_MS = [2000, 40_000] as const
/** A look-up takes so long at most, and then a question to all (ms). */
const GET_MS = 700
const WHO_MS = 700
const MAX_SEEKING = 4096
const MAX_SEEKING_OF = 32
const MAX_WAITING = 64
/** Questions to all a second, and answers to them; and at once. */
const WHO_RATE = 200
const WHO_BURST = 1000
/** Pauses between repetitions of a question (ms): the first, then doubling. */
const FIRST_PAUSE = 300
/** Questions under way: of all, and of one account. */
const MAX_ASKING = 8192
const MAX_ASKING_OF = 128
const NEVER = Number.POSITIVE_INFINITY

interface Fellow {
  readonly id: string
  at: CoordinatorAt
  readonly sender: Uint8Array
  readonly key: Uint8Array
  readonly seen: CounterWindow
  heardAt: number
  nodes: number
  isThere: boolean
  /** Another start has its name. */
  replaced: boolean
  /** Numbers of its claims that have come, above those that count as come; and the last one at a sign of life. */
  readonly come: Set<number>
  floor: number
  said: { readonly claims: number; readonly at: number }
}

interface Seeking {
  readonly name: string
  readonly waiting: Sought[]
  id: number
  step: 'get' | 'who'
  until: number
}

interface Asking {
  readonly fellow: string
  readonly message: Message
  readonly until: number
  readonly done: (answer: Message | undefined, now: number) => void
  tries: number
  at: number
}

export class Fellows {
  readonly #parts: FellowsParts
  readonly #boot: Uint8Array
  /** As others name this start. */
  readonly id: string
  readonly #ownKey: Uint8Array
  readonly #root: Uint8Array
  readonly #names: Uint8Array
  #counter = 0
  #isUp = false
  readonly #fellows = new Map<string, Fellow>()
  readonly #strangers = new TokenBucket(STRANGERS_RATE, STRANGERS_BURST)
  readonly #questions = new TokenBucket(WHO_RATE, WHO_BURST)
  readonly #answers = new TokenBucket(WHO_RATE, WHO_BURST)
  /** When each node of ours was claimed last, that of longest ago first; -1: it is due. */
  readonly #claims = new Map<string, number>()
  #claimsAt = NEVER
  /** Since the start. */
  #claimed = 0
  /** Not all claims are put again before, for those that were lost. */
  #lostAt = 0
  /** All claims are due, and none of them was put yet. */
  #isClaimingAll = false
  /** More were lost before `#lostAt`. */
  #isLosing = false
  readonly #seeking = new Map<string, Seeking>()
  /** Those that wait for the bus, by number; and of each account. */
  readonly #getting = new Map<number, Seeking>()
  readonly #seekers = new Shares(MAX_SEEKING_OF)
  readonly #asking = new Map<number, Asking>()
  readonly #shares = new Shares(MAX_ASKING_OF)
  #aliveAt = NEVER
  #dueAt = NEVER
  #skewTold = false
  #sameNameTold = false
  readonly #counts = { sought: 0, found: 0, refused: 0 }

  constructor(parts: FellowsParts) {
    this.#parts = parts
    this.#boot = parts.random.fill(new Uint8Array(8))
    this.id = toHex(this.#boot)
    ;[this.#root, this.#names] = kdf(parts.crypto, parts.secret, TEXT.fellows, 2)
    this.#ownKey = this.#keyOf(this.#boot)
  }

  /** Others that are there, claims of our own nodes, and what was refused of the bus since the start. */
  get counts(): Readonly<Record<string, number>> {
    const fellows = [...this.#fellows.values()].filter(({ isThere }) => isThere).length
    return { fellows, claims: this.#claims.size, ...this.#counts, asking: this.#asking.size }
  }

  /** Whether there is another coordinator to ask. */
  get any(): boolean {
    if (!this.#isUp) return false
    for (const { isThere } of this.#fellows.values()) if (isThere) return true
    return false
  }

  /** This one. */
  get at(): CoordinatorAt {
    const { name, place = { port: 0, addresses: [] } } = this.#parts
    return { name, ...place }
  }

  /** For people. */
  nameOf(fellow: string): string {
    return this.#fellows.get(fellow)?.at.name ?? fellow
  }

  /** Others that are there. */
  *all(): Iterable<{ readonly at: CoordinatorAt; readonly nodes: number }> {
    for (const { at, nodes, isThere } of this.#fellows.values()) if (isThere) yield { at, nodes }
  }

  /** The node has registered here; `isFresh`: for the first time, or in another session. */
  located(name: string, isFresh: boolean, now: number): void {
    if (!isFresh && this.#claims.has(name)) return
    this.#claims.delete(name)
    if (this.#isUp) this.#claim(name, now)
    else this.#claims.set(name, -1)
  }

  /** It is not here any more. */
  gone(name: string): void {
    this.#claims.delete(name)
  }

  /** Which other coordinator has the node; undefined: none is known to. For a node of account `by`. `anew`: what the bus keeps was wrong. */
  seek(name: string, by: string, then: Sought, now: number, anew = false): void {
    const known = this.#seeking.get(name)
    const isFull =
      known === undefined ? this.#seeking.size >= MAX_SEEKING : known.waiting.length >= MAX_WAITING
    if (!this.any || isFull || !this.#seekers.take(by)) {
      then(undefined, now)
      return
    }
    const sought: Sought = (fellow, at) => {
      this.#seekers.giveBack(by)
      then(fellow, at)
    }
    if (known !== undefined) {
      known.waiting.push(sought)
      if (anew && known.step === 'get') this.#askAll(known, now)
      return
    }
    this.#counts.sought++
    let id = this.#number()
    while (this.#getting.has(id)) id = this.#number()
    const seeking: Seeking = { name, waiting: [sought], id, step: 'get', until: now + GET_MS }
    this.#seeking.set(name, seeking)
    this.#getting.set(id, seeking)
    this.#due(seeking.until)
    if (anew) this.#askAll(seeking, now)
    else this.#parts.emit({ type: 'soft-get', id: seeking.id, key: this.keyFor(name) })
  }

  /** Asks another coordinator until it answers, or for `ms`; for a node of account `by`. */
  request(
    fellow: string,
    message: Omit<Message, 'transaction'>,
    { by, ms }: { readonly by: string; readonly ms: number },
    done: (answer: Message | undefined, now: number) => void,
    now: number,
  ): void {
    const isThere = this.#isUp && this.#fellows.get(fellow)?.isThere === true
    if (!isThere || this.#asking.size >= MAX_ASKING || !this.#shares.take(by)) {
      done(undefined, now)
      return
    }
    let transaction = this.#number()
    while (this.#asking.has(transaction)) transaction = this.#number()
    const asking: Asking = {
      ...{ fellow, message: { ...message, transaction }, until: now + ms, tries: 0, at: now },
      done: (answer, at) => {
        this.#shares.giveBack(by)
        done(answer, at)
      },
    }
    this.#asking.set(transaction, asking)
    this.#ask(asking, now)
  }

  handle(input: SoftInput, now: number): void {
    switch (input.type) {
      case 'soft-up':
        this.#up(now)
        break
      case 'soft-down':
        this.#down(now)
        break
      case 'soft-entry':
        this.#entry(input.key, input.bytes, now)
        break
      case 'soft-got':
        this.#got(input.id, input.bytes, now)
        break
      case 'soft-heard':
        this.#heard(input.bytes, input.isOwn, now)
    }
  }

  nextTimeout(): number {
    return this.#isUp ? Math.min(this.#dueAt, this.#aliveAt, this.#claimsAt) : NEVER
  }

  handleTimeout(now: number): void {
    if (!this.#isUp) return
    if (this.#aliveAt <= now) this.#alive(now)
    if (this.#claimsAt <= now) this.#claimSome(now)
    if (this.#dueAt > now) return
    this.#dueAt = NEVER
    for (const seeking of [...this.#seeking.values()])
      if (seeking.until > now) this.#due(seeking.until)
      else if (seeking.step === 'get') this.#askAll(seeking, now)
      else this.#found(seeking, undefined, now)
    for (const [transaction, asking] of [...this.#asking])
      if (asking.until <= now) this.#end(transaction, undefined, now)
      else if (asking.at <= now) this.#ask(asking, now)
      else this.#due(Math.min(asking.at, asking.until))
    for (const fellow of [...this.#fellows.values()]) this.#look(fellow, now)
    this.#dueAt = Math.max(this.#dueAt, now + LOOK_MS)
  }

  /** Under which a claim of the node is kept: what reads the bus does not learn names. */
  keyFor(name: string): string {
    return toHex(this.#parts.crypto.mac(this.#names, ascii(name)))
  }

  // ---- the bus

  /** It may have lost everything meanwhile. */
  #up(now: number): void {
    this.#isUp = true
    this.#parts.emit({ type: 'soft-listen', id: this.id })
    this.#alive(now)
    this.#claimAll(now)
    this.#due(now + LOOK_MS)
  }

  /** Soon: all coordinators begin at the same time, and have to hear of each other first. */
  #claimAll(now: number): void {
    // Those claimed since all became due, too: these claims may be what was lost.
    for (const name of this.#claims.keys()) this.#claims.set(name, -1)
    if (this.#isClaimingAll && this.#claimsAt > now) return
    this.#isClaimingAll = this.#claims.size > 0
    this.#claimsAt = this.#isClaimingAll ? now + UP_MS * (0.5 + this.#number() / 2 ** 32) : NEVER
  }

  /** Some claims of another were lost: of nodes that we still claim, it claims them again when it sees that. */
  #claimLost(now: number): void {
    if (this.#isClaimingAll) {
      this.#claimAll(now)
      return
    }
    if (now < this.#lostAt) {
      this.#isLosing = true
      return
    }
    this.#isLosing = false
    const [least, most] = LOST_PAUSE_MS
    const takes = (this.#claims.size / this.#atOnce) * LOOK_MS
    this.#lostAt = now + Math.min(Math.max(LOST_FACTOR * takes, least), most)
    this.#claimAll(now)
  }

  /** Nobody else can be asked; our own nodes are served as before. */
  #down(now: number): void {
    if (!this.#isUp) return
    this.#isUp = false
    for (const seeking of [...this.#seeking.values()]) this.#found(seeking, undefined, now)
    for (const transaction of [...this.#asking.keys()]) this.#end(transaction, undefined, now)
    for (const fellow of this.#fellows.values()) fellow.isThere = false
  }

  #alive(now: number): void {
    this.#aliveAt = now + ALIVE_MS
    const { wall, nodes, cache } = this.#parts
    const at = this.at
    const claims = this.#claimed
    const word = { word: Word.ALIVE, wall: Math.max(0, Math.floor(wall())), nodes: nodes(), claims, at }
    this.#tell(EVERYBODY, word)
    // A word of its own: coordinators of before know ALIVE as it is.
    if (cache !== undefined) this.#tell(EVERYBODY, { word: Word.CACHE, at: cache })
  }

  #look(fellow: Fellow, now: number): void {
    if (fellow.heardAt + FORGET_MS <= now) {
      this.#fellows.delete(fellow.id)
      return
    }
    if (fellow.isThere && fellow.heardAt + LOST_MS <= now) {
      this.#parts.log(
        'warn',
        `coordinator ${fellow.at.name} does not answer; its nodes register with the others`,
      )
      this.#lose(fellow, now)
    }
    this.#due(fellow.heardAt + (fellow.isThere ? LOST_MS : FORGET_MS))
  }

  #lose(fellow: Fellow, now: number): void {
    fellow.isThere = false
    for (const [transaction, asking] of [...this.#asking])
      if (asking.fellow === fellow.id) this.#end(transaction, undefined, now)
  }

  #sameName(name: string): void {
    if (this.#sameNameTold) return
    this.#sameNameTold = true
    this.#parts.log(
      'warn',
      `two coordinators are called ${name}: give one another name (godwit overlay soft use --name)`,
    )
  }

  #heard(bytes: Uint8Array, isOwn: boolean, now: number): void {
    const place = isOwn ? this.id : EVERYBODY
    const opened = this.#open(bytes, place, now)
    if (opened === undefined) return
    const { fellow, counter, word } = opened
    if (!fellow.seen.take(counter)) {
      this.#counts.refused++
      return
    }
    switch (word.word) {
      case Word.ALIVE:
        if (!isOwn) this.#isAlive(fellow, word, now)
        break
      case Word.WHO: {
        const at = isOwn ? undefined : this.#parts.locatedAt(word.name)
        if (at !== undefined && this.#answers.take(now)) this.#claim(word.name, now)
        break
      }
      case Word.ASK:
        if (isOwn && fellow.isThere) this.#asked(fellow, word.message, now)
        break
      case Word.ANSWER: {
        const asking = isOwn ? this.#asking.get(word.message.transaction) : undefined
        if (asking?.fellow === fellow.id && word.message.type === asking.message.type + 1)
          this.#end(word.message.transaction, word.message, now)
        break
      }
      case Word.CACHE:
        if (!isOwn && fellow.isThere) this.#parts.onCache?.(word.at)
        break
      default:
        this.#counts.refused++
    }
  }

  #isAlive(
    fellow: Fellow,
    { wall, at, nodes, claims }: Extract<SoftWord, { word: typeof Word.ALIVE }>,
    now: number,
  ): void {
    const { name } = at
    const skew = Math.abs(wall - this.#parts.wall())
    if (skew > MAX_SKEW) {
      this.#counts.refused++
      if (!this.#skewTold)
        this.#parts.log(
          'warn',
          `the clock of coordinator ${name} differs by ${Math.round(skew / 1000)} s (or its message was kept back): it is not used; set both clocks`,
        )
      this.#skewTold = true
      return
    }
    const own = this.#parts.name
    const isNews = !fellow.isThere
    Object.assign(fellow, { at, nodes, heardAt: now, isThere: true })
    this.#fellows.set(fellow.id, fellow)
    if (isNews) {
      // What it and we have claimed meanwhile was not heard: nobody has claimed anything at a start.
      if (nodes > 0 || claims > 0) this.#claimLost(now)
      fellow.come.clear()
      Object.assign(fellow, { floor: claims, said: { claims, at: now } })
    } else if (now - fellow.said.at >= LATE_MS) {
      if (!hasCome(fellow)) this.#claimLost(now)
      fellow.said = { claims: Math.max(claims, fellow.said.claims), at: now }
    }
    if (this.#isLosing && now >= this.#lostAt) this.#claimLost(now)
    if (!isNews) return
    this.#due(now + LOST_MS)
    this.#parts.log('info', `coordinator ${name} is there`)
    if (name === own) this.#sameName(name)
    // One that was started again; unless the one before is heard again.
    for (const other of this.#fellows.values())
      if (other !== fellow && other.at.name === name && other.isThere) {
        if (fellow.replaced) this.#sameName(name)
        else this.#lose(other, now)
        other.replaced = true
      }
    // It hears at once that we are there.
    this.#aliveAt = Math.min(this.#aliveAt, now + LOOK_MS)
  }

  #asked(fellow: Fellow, message: Message, now: number): void {
    const reply = (answer: Message) => {
      if (this.#isUp) this.#tell(fellow.id, { word: Word.ANSWER, message: answer })
    }
    this.#parts.onAsked(fellow.id, message, reply, now)
  }

  // ---- claims

  #claim(name: string, now: number): void {
    const at = this.#parts.locatedAt(name)
    this.#claims.delete(name)
    if (at === undefined) return
    this.#claims.set(name, now)
    if (this.#claimsAt === NEVER) this.#claimsAt = now + CLAIM_AGAIN_MS
    const key = this.keyFor(name)
    this.#claimed++
    const word = { word: Word.CLAIM, at: Math.max(0, Math.floor(at)), number: this.#claimed, name }
    this.#parts.emit({ type: 'soft-put', key, bytes: this.#seal(placeOf(key), word) })
  }

  /**
   * Those that are due, some at a time: all coordinators together put no more than each can take, which else would lose some, and claim
   * all its own for that. Claimed ones go to the end, so what is due is looked for from the front.
   */
  #claimSome(now: number): void {
    let left = this.#atOnce
    this.#claimsAt = NEVER
    this.#isClaimingAll = false
    for (const [name, at] of this.#claims) {
      if (at >= 0 && at + CLAIM_AGAIN_MS > now) {
        this.#claimsAt = Math.min(this.#claimsAt, at + CLAIM_AGAIN_MS)
        break
      }
      if (left-- === 0) {
        this.#claimsAt = now + LOOK_MS
        break
      }
      this.#claim(name, now)
    }
  }

  /** Claims that are put again in one look. */
  get #atOnce(): number {
    return Math.floor(CLAIMS_AT_ONCE / (1 + this.#fellows.size))
  }

  /** A claim that somebody has put: it ends ours if it is newer, and may be what is looked for. */
  #entry(key: string, bytes: Uint8Array, now: number): void {
    const claim = this.#claimOf(key, bytes, now)
    if (claim === undefined) return
    const { come, floor } = claim.fellow
    if (claim.number > floor && come.size < MAX_COME) come.add(claim.number)
    const own = this.#parts.locatedAt(claim.name)
    // Of two of the same moment all take the same one.
    const ahead = own === undefined ? 1 : claim.at - Math.floor(own) || (claim.fellow.id > this.id ? 1 : -1)
    if (ahead > 0) {
      this.#claims.delete(claim.name)
      this.#parts.onMoved(claim.name, claim.at)
    } else if (ahead < 0) {
      // It has not heard that the node is here.
      if (this.#answers.take(now)) this.#claim(claim.name, now)
      return
    }
    const seeking = this.#seeking.get(claim.name)
    if (seeking !== undefined) this.#found(seeking, claim.fellow, now)
  }

  #got(id: number, bytes: Uint8Array | undefined, now: number): void {
    const seeking = this.#getting.get(id)
    if (seeking === undefined) return
    const claim = bytes && this.#claimOf(this.keyFor(seeking.name), bytes, now)
    if (claim?.name === seeking.name) this.#found(seeking, claim.fellow, now)
    // The bus may have lost it; or who claimed it is no more, and it has registered elsewhere meanwhile.
    else this.#askAll(seeking, now)
  }

  /** Of a coordinator that is there: nobody else has nodes now. One of a time to come was made when its clock was wrong, and kept. */
  #claimOf(
    key: string,
    bytes: Uint8Array,
    now: number,
  ):
    | { readonly fellow: Fellow; readonly number: number; readonly name: string; readonly at: number }
    | undefined {
    const datagram = softCodec.decode(bytes)
    if (!datagram.ok || this.#fellows.get(toHex(datagram.value.sender))?.isThere !== true) return undefined
    const opened = this.#open(bytes, placeOf(key), now)
    if (opened?.word.word !== Word.CLAIM) return undefined
    const { name, at, number } = opened.word
    return at > this.#parts.wall() + MAX_SKEW ? this.#refused() : { fellow: opened.fellow, number, name, at }
  }

  #askAll(seeking: Seeking, now: number): void {
    this.#getting.delete(seeking.id)
    if (!this.#questions.take(now)) {
      this.#found(seeking, undefined, now)
      return
    }
    seeking.step = 'who'
    seeking.until = now + WHO_MS
    this.#due(seeking.until)
    this.#tell(EVERYBODY, { word: Word.WHO, name: seeking.name })
  }

  #found(seeking: Seeking, fellow: Fellow | undefined, now: number): void {
    this.#seeking.delete(seeking.name)
    this.#getting.delete(seeking.id)
    if (fellow !== undefined) this.#counts.found++
    for (const then of seeking.waiting) then(fellow?.id, now)
  }

  // ---- questions

  #ask(asking: Asking, now: number): void {
    asking.at = now + FIRST_PAUSE * 2 ** Math.min(asking.tries, 6)
    asking.tries++
    this.#due(Math.min(asking.at, asking.until))
    this.#tell(asking.fellow, { word: Word.ASK, message: asking.message })
  }

  #end(transaction: number, answer: Message | undefined, now: number): void {
    const asking = this.#asking.get(transaction)
    this.#asking.delete(transaction)
    asking?.done(answer, now)
  }

  // ---- sealing

  /** Of another coordinator, known or, at a sign of life to all, not yet. */
  #open(
    bytes: Uint8Array,
    place: string,
    now: number,
  ): { readonly fellow: Fellow; readonly counter: number; readonly word: SoftWord } | undefined {
    const datagram = softCodec.decode(bytes)
    if (!datagram.ok) return this.#refused()
    const { sender, counter, sealed } = datagram.value
    const id = toHex(sender)
    // What it said itself comes back to it.
    if (id === this.id) return undefined
    const known = this.#fellows.get(id)
    if (known === undefined && (place !== EVERYBODY || !this.#strangers.take(now))) return this.#refused()
    const key = known?.key ?? this.#keyOf(sender)
    const head = encoded(softCodec, { sender, counter, sealed: new Uint8Array(0) })
    const plain = this.#parts.crypto.open(key, counter, sealed, concat(head, ascii(place)))
    const word = plain && wordCodec.decode(plain)
    if (word?.ok !== true) return this.#refused()
    if (known !== undefined) return { fellow: known, counter, word: word.value }
    if (word.value.word !== Word.ALIVE || !this.#makeRoom()) return this.#refused()
    const fellow = {
      ...{ id, at: word.value.at, sender, key, seen: new CounterWindow(), come: new Set<number>() },
      ...{ heardAt: now, nodes: 0, isThere: false, replaced: false },
      ...{ floor: word.value.claims, said: { claims: word.value.claims, at: now } },
    }
    return { fellow, counter, word: word.value }
  }

  #refused(): undefined {
    this.#counts.refused++
    return undefined
  }

  #makeRoom(): boolean {
    if (this.#fellows.size < MAX_FELLOWS) return true
    for (const { id, isThere } of this.#fellows.values())
      if (!isThere) {
        this.#fellows.delete(id)
        return true
      }
    return false
  }

  #tell(to: string, word: SoftWord): void {
    this.#parts.emit({ type: 'soft-tell', to, bytes: this.#seal(to, word) })
  }

  #seal(place: string, word: SoftWord): Uint8Array {
    const counter = this.#counter++
    const head = encoded(softCodec, { sender: this.#boot, counter, sealed: new Uint8Array(0) })
    const plain = encoded(wordCodec, word)
    const sealed = this.#parts.crypto.seal(this.#ownKey, counter, plain, concat(head, ascii(place)))
    return encoded(softCodec, { sender: this.#boot, counter, sealed })
  }

  /** Each start has a key of its own: counters of two never meet under one key. */
  #keyOf(boot: Uint8Array): Uint8Array {
    return kdf(this.#parts.crypto, this.#root, boot, 1)[0]
  }

  #number(): number {
    return new DataView(this.#parts.random.fill(new Uint8Array(4)).buffer).getUint32(0)
  }

  #due(at: number): void {
    this.#dueAt = Math.min(this.#dueAt, at)
  }
}

export const EVERYBODY = '*'

/** Whether all of its claims have come that it had made at its last sign of life but the newest; they count as come from now on. */
function hasCome(fellow: Fellow): boolean {
  const { come, floor, said } = fellow
  let n = 0
  for (const number of come)
    if (number <= said.claims) {
      come.delete(number)
      n++
    }
  fellow.floor = Math.max(floor, said.claims)
  return n >= said.claims - floor
}

function placeOf(key: string): string {
  return `kept ${key}`
}

const TEXT = { fellows: ascii('coordinators of one zone') }
