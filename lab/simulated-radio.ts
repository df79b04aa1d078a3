/**
 * A simulated Wi-Fi radio behind the control socket of wpa_supplicant: programs under test drive it as they would a real
 * one. It hears access points along a signal trace, takes its time to scan, to associate and to get an address, and sets
 * what its link does. With a roaming policy of its own it behaves like a stock client (Ohshima §III-B; stock-client.ts).
 */
import { join } from 'node:path'
import { UnixDatagram } from '../src/linux/unix-datagram.ts'
import { monotonicMs } from './programs/program.ts'
import { NO_SIGNAL_DBM, radioConditions, type SignalTrace, signalAt } from './radio.ts'
import { LINGER_MS, LOOK_BELOW_DBM, LOOK_EVERY_MS, LOST_MS, roamingDb } from './stock-client.ts'
import type { LinkConditions } from './types.ts'

export type Roaming = 'none' | 'eager' | 'late' | 'clinging'

export interface SimulatedRadioOptions {
  /** Folder of control sockets. */
  readonly folder: string
  readonly iface: string
  readonly trace: SignalTrace
  /** Access points of the trace, each with the network (SSID) it belongs to. */
  readonly points: Readonly<Record<string, string>>
  /** Line rate at its best. */
  readonly rateMbps: number
  readonly scanMs: number
  readonly associateMs: number
  /** From association to an address. */
  readonly addressMs: number
  /**
   * `none`: does as it is told. Stock clients: `eager` scans in the background while its point is weak and takes a stronger
   * one, `late` looks for another point of its network when it has lost its own, `clinging` for another network only
   * when it has waited for the one that it lost.
   */
  readonly roaming: Roaming
  readonly setLink: (change: Partial<LinkConditions>) => void
  readonly onChange?: (what: string, dbm: number) => void
}

/** Below this an association breaks. */
const BREAK_DBM = -92
const TICK_MS = 50

type State =
  | { readonly name: 'idle'; readonly since: number }
  | { readonly name: 'associating'; readonly point: string; readonly at: number }
  | {
      readonly name: 'associated'
      readonly point: string
      readonly addressAt: number
      readonly lostAt: number
    }

export class SimulatedRadio {
  readonly #options: SimulatedRadioOptions
  readonly #socket: UnixDatagram
  readonly #timer: NodeJS.Timeout
  readonly #startedAt = monotonicMs()
  readonly #listeners = new Set<string>()
  readonly #fixed = new Map<string, string>()
  readonly #bssids: ReadonlyMap<string, string>
  #state: State = { name: 'idle', since: Number.NEGATIVE_INFINITY }
  #scanAt = Number.POSITIVE_INFINITY
  /** A stock client's own scans, while it is associated: when the next one is due, and when one ends. */
  #lookAt = Number.POSITIVE_INFINITY
  #lookedAt = Number.POSITIVE_INFINITY
  #told = ''
  /** Associations that ended while the radio had an address. */
  changes = 0

  constructor(options: SimulatedRadioOptions) {
    this.#options = options
    this.#bssids = new Map(
      Object.keys(options.points).map((name, index) => [
        name,
        `02:00:00:00:00:${(index + 1).toString(16).padStart(2, '0')}`,
      ]),
    )
    this.#socket = new UnixDatagram(join(options.folder, options.iface), (text, from) =>
      this.#command(text.trim(), from),
    )
    options.setLink({ state: 'down' })
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
  }

  /** Strength of the point in use, NO_SIGNAL_DBM for none. */
  get dbm(): number {
    return this.#state.name === 'idle' ? NO_SIGNAL_DBM : this.#strength(this.#state.point)
  }

  /** The point in use, once there is an address. */
  get point(): string | undefined {
    return this.#state.name === 'associated' && monotonicMs() >= this.#state.addressAt
      ? this.#state.point
      : undefined
  }

  close(): void {
    clearInterval(this.#timer)
    this.#socket.close()
  }

  #strength(point: string): number {
    return signalAt(this.#options.trace, point, (monotonicMs() - this.#startedAt) / 1000)
  }

  #command(text: string, from: string): void {
    const [verb = '', ...rest] = text.split(' ')
    const answer = (line: string) => this.#socket.send(`${line}\n`, from)
    switch (verb) {
      case 'ATTACH':
        this.#listeners.add(from)
        answer('OK')
        break
      case 'DETACH':
        this.#listeners.delete(from)
        answer('OK')
        break
      case 'STATUS':
        answer(this.#status())
        break
      case 'SIGNAL_POLL':
        answer(this.#state.name === 'associated' ? `RSSI=${Math.round(this.dbm)}` : 'FAIL')
        break
      case 'SCAN':
        this.#scanAt = Math.min(this.#scanAt, monotonicMs() + this.#options.scanMs)
        answer('OK')
        break
      case 'SCAN_RESULTS':
        answer(this.#scanResults())
        break
      case 'LIST_NETWORKS':
        answer(
          [
            'network id / ssid / bssid / flags',
            ...this.#networks().map((ssid, id) => `${id}\t${ssid}\tany\t`),
          ].join('\n'),
        )
        break
      case 'SET_NETWORK':
        this.#fixed.set(rest[0] ?? '', rest[2] ?? '')
        answer('OK')
        break
      case 'ROAM':
        answer(this.#associate(this.#pointOf(rest[0] ?? '')) ? 'OK' : 'FAIL')
        break
      case 'SELECT_NETWORK':
        answer(this.#associate(this.#pointOf(this.#fixed.get(rest[0] ?? '') ?? '')) ? 'OK' : 'FAIL')
        break
      case 'DISCONNECT':
        this.#leave('told to')
        answer('OK')
        break
      default:
        answer('UNKNOWN COMMAND')
    }
  }

  #status(): string {
    if (this.#state.name !== 'associated') return 'wpa_state=DISCONNECTED'
    const { point } = this.#state
    const ssid = this.#options.points[point]!
    const id = this.#networks().indexOf(ssid)
    return `bssid=${this.#bssids.get(point)}\nssid=${ssid}\nid=${id}\nwpa_state=COMPLETED`
  }

  #scanResults(): string {
    const lines = Object.entries(this.#options.points)
      .filter(([point]) => this.#strength(point) > BREAK_DBM)
      .map(
        ([point, ssid]) =>
          `${this.#bssids.get(point)}\t5180\t${Math.round(this.#strength(point))}\t[ESS]\t${ssid}`,
      )
    return ['bssid / frequency / signal level / flags / ssid', ...lines].join('\n')
  }

  #networks(): string[] {
    return [...new Set(Object.values(this.#options.points))]
  }

  #pointOf(bssid: string): string | undefined {
    for (const [point, own] of this.#bssids) if (own === bssid) return point
    return undefined
  }

  #associate(point: string | undefined): boolean {
    if (point === undefined) return false
    this.#leave(`to ${point}`)
    this.#state = { name: 'associating', point, at: monotonicMs() + this.#options.associateMs }
    return true
  }

  #leave(why: string): void {
    if (this.#state.name === 'idle') return
    if (this.#state.name === 'associated') {
      this.changes++
      this.#event(`CTRL-EVENT-DISCONNECTED bssid=${this.#bssids.get(this.#state.point)} reason=3`)
    }
    this.#options.onChange?.(`${this.#options.iface} leaves ${this.#state.point}: ${why}`, this.dbm)
    this.#state = { name: 'idle', since: monotonicMs() }
    // Within its network a stock client keeps the carrier while it moves.
    const within = this.#options.roaming === 'eager' || this.#options.roaming === 'late'
    this.#link({ state: within ? 'blackhole' : 'down' })
  }

  #tick(): void {
    const now = monotonicMs()
    if (now >= this.#scanAt) {
      this.#scanAt = Number.POSITIVE_INFINITY
      this.#event('CTRL-EVENT-SCAN-RESULTS ')
    }
    const state = this.#state
    if (state.name === 'associating' && now >= state.at) {
      if (this.#strength(state.point) < BREAK_DBM) {
        this.#state = { name: 'idle', since: now }
        this.#event(`CTRL-EVENT-ASSOC-REJECT bssid=${this.#bssids.get(state.point)} status_code=1`)
      } else {
        this.#lookAt = now + LOOK_EVERY_MS
        this.#lookedAt = Number.POSITIVE_INFINITY
        this.#state = {
          name: 'associated',
          point: state.point,
          addressAt: now + this.#options.addressMs,
          lostAt: Number.POSITIVE_INFINITY,
        }
        this.#event(
          `CTRL-EVENT-CONNECTED - Connection to ${this.#bssids.get(state.point)} completed [id=0 id_str=]`,
        )
        this.#options.onChange?.(`${this.#options.iface} associates with ${state.point}`, this.dbm)
      }
    } else if (state.name === 'associated') {
      if (this.dbm < BREAK_DBM) this.#outOfRange(state, now)
      else if (state.lostAt !== Number.POSITIVE_INFINITY)
        this.#state = { ...state, lostAt: Number.POSITIVE_INFINITY }
      else if (now >= state.addressAt) this.#link(radioConditions(this.dbm, this.#options.rateMbps))
    }
    if (this.#options.roaming !== 'none') this.#roam(now)
  }

  /** Nothing is heard of the point any more; it takes a while to be sure. */
  #outOfRange(state: State & { name: 'associated' }, now: number): void {
    this.#link({ state: 'blackhole' })
    if (state.lostAt === Number.POSITIVE_INFINITY) this.#state = { ...state, lostAt: now + LOST_MS }
    else if (now >= state.lostAt) this.#leave('out of range')
  }

  /** What a stock client does by itself. */
  #roam(now: number): void {
    const { roaming, points, scanMs } = this.#options
    const state = this.#state
    const best = Object.keys(points).reduce((a, b) => (this.#strength(b) > this.#strength(a) ? b : a))
    if (state.name === 'associated') {
      if (roaming !== 'eager') return
      if (this.dbm >= LOOK_BELOW_DBM) this.#lookAt = now
      else if (now >= this.#lookAt) {
        this.#lookAt = now + LOOK_EVERY_MS
        this.#lookedAt = now + scanMs
      }
      if (now < this.#lookedAt) return
      this.#lookedAt = Number.POSITIVE_INFINITY
      if (this.#strength(best) >= this.dbm + roamingDb(this.dbm)) this.#associate(best)
    } else if (state.name === 'idle') {
      const pause = roaming === 'clinging' ? LINGER_MS + scanMs : scanMs
      if (now - state.since > pause && this.#strength(best) > BREAK_DBM) this.#associate(best)
    }
  }

  #link(change: Partial<LinkConditions>): void {
    const text = JSON.stringify(change)
    if (text === this.#told) return
    this.#told = text
    this.#options.setLink(change)
  }

  #event(text: string): void {
    for (const listener of this.#listeners) this.#socket.send(`<3>${text}`, listener)
  }
}
