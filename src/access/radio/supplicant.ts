/**
 * A Wi-Fi radio controlled through wpa_supplicant's control socket: text over a Unix datagram socket, one command at a
 * time, events in between. Networks and secrets come from the supplicant's configuration; a point is selected by fixing
 * its BSSID, so that the supplicant does not roam by itself.
 */
import { rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { GodwitError } from '../../core/errors.ts'
import { UnixDatagram } from '../../linux/unix-datagram.ts'
import { type AccessPoint, type Radio, type RadioEvent, SUPPLICANT_FOLDER } from './radio.ts'
import { type Network, readEvent, readFields, readNetworks, readScanResults } from './supplicant-text.ts'

const SIGNAL_EVERY_MS = 100
const ANSWER_MS = 2_000
/** Interval for attaching again, in case the supplicant was restarted. */
const ATTACH_EVERY_MS = 2_000

interface Command {
  readonly text: string
  readonly answered: (answer: string | undefined) => void
}

let made = 0

export class SupplicantRadio implements Radio {
  readonly name: string
  readonly #socket: UnixDatagram
  readonly #peer: string
  readonly #queue: Command[] = []
  readonly #listeners: ((event: RadioEvent) => void)[] = []
  readonly #poll: NodeJS.Timeout
  readonly #attach: NodeJS.Timeout
  readonly #answerMs: number
  #running: Command | undefined
  #timeout: NodeJS.Timeout | undefined
  #trouble: (RadioEvent & { type: 'trouble' }) | undefined
  #associated: (RadioEvent & { type: 'associated' }) | undefined
  /** Answers that came too late may still come: they are not those of the commands since. */
  #owed = 0
  #skipped = false
  /** Something may have been missed while it did not answer. */
  #doubtful = false
  #releasing = false
  /** Networks as they were before the first was selected, and what those had been fixed to that we fixed since. */
  readonly #found: { networks: readonly Network[]; selected: boolean } = { networks: [], selected: false }
  readonly #fixed = new Map<number, string>()
  #closed = false

  /**
   * `folder` holds the supplicant's sockets; `own` is a folder of this daemon, for this end's socket; `answerMs` is how
   * long an answer may take. Throws KernelError.
   */
  constructor(
    name: string,
    options: { readonly folder?: string; readonly own?: string; readonly answerMs?: number } = {},
  ) {
    this.name = name
    this.#answerMs = options.answerMs ?? ANSWER_MS
    this.#peer = join(options.folder ?? SUPPLICANT_FOLDER, name)
    const own =
      options.own === undefined
        ? join('/tmp', `godwit-${process.pid}-${made++}-${name}`)
        : join(options.own, `radio-${name}`)
    // Left by a killed daemon.
    rmSync(own, { force: true })
    this.#socket = new UnixDatagram(own, (text) => this.#receive(text))
    this.#poll = setInterval(() => this.#signal(), SIGNAL_EVERY_MS)
    this.#attach = setInterval(() => void this.#start(), ATTACH_EVERY_MS)
    void this.#start()
  }

  scan(): void {
    void this.#ask('SCAN').then((answer) => {
      // Busy: a scan is under way already, whose results will do.
      if (answer !== 'OK' && answer !== 'FAIL-BUSY')
        this.#tell({ type: 'failed', op: 'scan', reason: answer ?? 'wpa_supplicant does not answer' })
    })
  }

  associate(point: AccessPoint): void {
    this.#releasing = false
    void this.#associate(point).then((failure) => {
      if (failure !== undefined) this.#tell({ type: 'failed', op: 'associate', reason: failure })
    })
  }

  release(): void {
    this.#releasing = true
    void this.#ask('DISCONNECT')
  }

  subscribe(listener: (event: RadioEvent) => void): void {
    this.#listeners.push(listener)
    if (this.#trouble !== undefined) listener(this.#trouble)
    if (this.#associated !== undefined) listener(this.#associated)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    clearInterval(this.#poll)
    clearInterval(this.#attach)
    clearTimeout(this.#timeout)
    this.#giveBack()
    this.#socket.send('DETACH', this.#peer)
    this.#socket.close()
    for (const { answered } of this.#queue.splice(0)) answered(undefined)
  }

  /** Restores its networks, and lets it roam by itself again. */
  #giveBack(): void {
    const send = (text: string) => this.#socket.send(text, this.#peer)
    for (const [id, bssid] of this.#fixed) send(`SET_NETWORK ${id} bssid ${bssid}`)
    const { networks, selected } = this.#found
    // Selecting one disables all others.
    if (selected && networks.every(({ enabled }) => enabled)) send('ENABLE_NETWORK all')
    else if (selected) for (const { id, enabled } of networks) if (enabled) send(`ENABLE_NETWORK ${id}`)
    if (this.#releasing) send('RECONNECT')
  }

  /** Asks for events, and for what holds unless that is known. */
  async #start(): Promise<void> {
    if ((await this.#ask('ATTACH')) !== 'OK' || (this.#associated !== undefined && !this.#doubtful)) return
    const answer = await this.#ask('STATUS')
    if (answer === undefined) return
    this.#doubtful = false
    const status = readFields(answer)
    const bssid = status.get('wpa_state') === 'COMPLETED' ? status.get('bssid') : undefined
    if (bssid === undefined) this.#lost('it is no longer associated')
    else if (!this.#releasing) await this.#connected(bssid)
  }

  async #associate(point: AccessPoint): Promise<string | undefined> {
    const networks = readNetworks((await this.#ask('LIST_NETWORKS')) ?? '')
    const network = networks.find(({ ssid }) => ssid === point.network)
    if (network === undefined) return `wpa_supplicant has no network ${point.network}`
    const { id, bssid } = network
    if (!this.#found.selected) this.#found.networks = networks
    if (!this.#fixed.has(id)) this.#fixed.set(id, bssid)
    const status = readFields((await this.#ask('STATUS')) ?? '')
    const fixed = await this.#ask(`SET_NETWORK ${id} bssid ${point.id}`)
    if (fixed !== 'OK') return `SET_NETWORK: ${fixed ?? 'no answer'}`
    const same = status.get('wpa_state') === 'COMPLETED' && Number(status.get('id')) === id
    // Within a network the supplicant can move without letting go first (802.11r, cached keys).
    if (!same) this.#found.selected = true
    const answer = await this.#ask(same ? `ROAM ${point.id}` : `SELECT_NETWORK ${id}`)
    return answer === 'OK' ? undefined : `${same ? 'ROAM' : 'SELECT_NETWORK'}: ${answer ?? 'no answer'}`
  }

  async #connected(point: string): Promise<void> {
    const status = readFields((await this.#ask('STATUS')) ?? '')
    if (this.#associated?.point === point) return
    this.#associated = { type: 'associated', point, network: status.get('ssid') ?? '' }
    this.#tell(this.#associated)
  }

  #signal(): void {
    if (this.#associated === undefined || this.#running !== undefined) return
    void this.#ask('SIGNAL_POLL').then((answer) => {
      const dbm = Number(readFields(answer ?? '').get('RSSI') ?? Number.NaN)
      // Drivers report 0 and -9999 when they do not know.
      if (dbm < 0 && dbm > -200) this.#tell({ type: 'signal', dbm })
    })
  }

  #receive(text: string): void {
    if (!text.startsWith('<')) {
      this.#answer(text.trim())
      return
    }
    const event = readEvent(text)
    if (event === undefined) return
    if (event.type === 'scan-results')
      void this.#ask('SCAN_RESULTS').then((answer) =>
        this.#tell({ type: 'points', points: readScanResults(answer ?? '') }),
      )
    else if (event.type === 'connected') void this.#connected(event.point)
    else {
      if (event.type === 'lost') {
        this.#associated = undefined
        if (this.#releasing) return
      }
      this.#tell(event)
    }
  }

  #tell(event: RadioEvent): void {
    if (this.#closed) return
    for (const listener of this.#listeners) listener(event)
  }

  #ask(text: string): Promise<string | undefined> {
    return new Promise((answered) => {
      this.#queue.push({ text, answered })
      this.#next()
    })
  }

  #next(): void {
    if (this.#running !== undefined || this.#closed) return
    const command = this.#queue.shift()
    if (command === undefined) return
    this.#running = command
    this.#skipped = false
    this.#timeout = setTimeout(() => this.#late(), this.#answerMs)
    if (this.#socket.send(command.text, this.#peer) === 0) return
    // Nobody is there: it ended, and its association with it.
    this.#owed = 0
    this.#lost('wpa_supplicant has ended')
    this.#answer(undefined)
  }

  /** It is slow or hangs. The association continues without it; the tunnel judges whether packets arrive. */
  #late(): void {
    // Where an old answer was waited for in vain, another supplicant has taken its place.
    this.#owed = this.#skipped ? 0 : this.#owed + 1
    this.#doubtful = true
    this.#answer(undefined)
  }

  #answer(text: string | undefined): void {
    const command = this.#running
    if (text !== undefined && this.#owed > 0) {
      this.#owed--
      this.#skipped = true
      return
    }
    if (command === undefined) return
    clearTimeout(this.#timeout)
    this.#running = undefined
    if (text === undefined) this.#silent()
    else this.#trouble = undefined
    command.answered(text)
    this.#next()
  }

  #lost(reason: string): void {
    if (this.#associated === undefined) return
    this.#associated = undefined
    this.#tell({ type: 'lost', reason })
  }

  #silent(): void {
    if (this.#trouble !== undefined || this.#closed) return
    const error = new GodwitError('RADIO_DEVICE', `wpa_supplicant does not answer at ${this.#peer}`, {
      hint: `systemctl start wpa_supplicant; its configuration needs ctrl_interface=${dirname(this.#peer)}`,
    })
    this.#trouble = { type: 'trouble', error }
    this.#tell(this.#trouble)
  }
}
