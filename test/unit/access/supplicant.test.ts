/** The wpa_supplicant driver against a stand-in that answers as wpa_supplicant 2.10 does. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { SupplicantRadio } from '../../../src/access/radio/supplicant.ts'
import { readEvent, readScanResults } from '../../../src/access/radio/supplicant-text.ts'
import { UnixDatagram } from '../../../src/linux/unix-datagram.ts'
import { Ear, type RadioBed, radioCompliance } from '../../suites/radio.ts'

const POINTS = [
  { id: '02:00:00:00:00:01', network: 'row', dbm: -61 },
  { id: '02:00:00:00:00:02', network: 'row', dbm: -48 },
]

/** A wpa_supplicant with one radio and one network. */
class StandIn implements RadioBed {
  readonly points = POINTS
  readonly tolerance = 0
  readonly radio: SupplicantRadio
  readonly #folder = mkdtempSync(join(tmpdir(), 'godwit-wpa-'))
  readonly #clients = new Set<string>()
  #socket: UnixDatagram | undefined
  #point: string | undefined = POINTS[0]!.id
  #fixed = ''
  #dbm = POINTS[0]!.dbm
  #refuse = false
  /** What it was told, in order. */
  readonly heard: string[] = []
  /** What it has not looked at yet, while it stands still. */
  #unread: (() => void)[] | undefined

  constructor(answerMs?: number) {
    this.#listen()
    this.radio = new SupplicantRadio('wlan9', {
      folder: this.#folder,
      own: this.#folder,
      ...(answerMs !== undefined && { answerMs }),
    })
  }

  /** It stands still, and goes on with what has come meanwhile. */
  freeze(): void {
    this.#unread = []
  }

  thaw(): void {
    const unread = this.#unread ?? []
    this.#unread = undefined
    for (const work of unread) work()
  }

  setSignal(dbm: number): void {
    this.#dbm = dbm
  }

  drop(): void {
    const bssid = this.#point
    this.#point = undefined
    this.#event(`CTRL-EVENT-DISCONNECTED bssid=${bssid} reason=3`)
  }

  refuse(): void {
    this.#refuse = true
  }

  async stop(): Promise<void> {
    this.#socket?.close()
    this.#socket = undefined
    this.#clients.clear()
  }

  async start(): Promise<void> {
    this.#listen()
  }

  async close(): Promise<void> {
    this.radio.close()
    this.#socket?.close()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #listen(): void {
    this.#socket = new UnixDatagram(join(this.#folder, 'wlan9'), (text, from) => {
      if (this.#unread === undefined) this.#obey(text, from)
      else this.#unread.push(() => this.#obey(text, from))
    })
  }

  #obey(text: string, from: string): void {
    this.heard.push(text)
    this.#socket?.send(this.#answer(text, from), from)
    if (text === 'SCAN') this.#event('CTRL-EVENT-SCAN-RESULTS ')
    if (text === 'DISCONNECT') this.drop()
    if (/^(ROAM|SELECT_NETWORK)/.test(text)) this.#associate()
  }

  #answer(text: string, from: string): string {
    const [verb, ...rest] = text.split(' ')
    switch (verb) {
      case 'ATTACH':
        this.#clients.add(from)
        return 'OK\n'
      case 'STATUS':
        return this.#point === undefined
          ? 'wpa_state=DISCONNECTED\n'
          : `bssid=${this.#point}\nssid=row\nid=0\nwpa_state=COMPLETED\n`
      case 'SIGNAL_POLL':
        return `RSSI=${this.#dbm}\nLINKSPEED=54\nNOISE=9999\nFREQUENCY=5180\n`
      case 'SCAN_RESULTS':
        return [
          'bssid / frequency / signal level / flags / ssid',
          ...POINTS.map(({ id, dbm }) => `${id}\t5180\t${dbm}\t[WPA2-PSK-CCMP][ESS]\trow`),
          '02:00:00:00:00:03\t5220\t-70\t[ESS]\t\n',
        ].join('\n')
      case 'LIST_NETWORKS':
        return 'network id / ssid / bssid / flags\n0\trow\tany\t[CURRENT]\n1\thome\tany\t\n2\told\tany\t[DISABLED]\n'
      case 'SET_NETWORK':
        this.#fixed = rest[2]!
        return 'OK\n'
      default:
        return 'OK\n'
    }
  }

  #associate(): void {
    if (this.#refuse) {
      this.#refuse = false
      this.#event(`CTRL-EVENT-ASSOC-REJECT bssid=${this.#fixed} status_code=17`)
      return
    }
    this.#point = this.#fixed
    this.#event(`CTRL-EVENT-CONNECTED - Connection to ${this.#fixed} completed [id=0 id_str=]`)
  }

  #event(text: string): void {
    for (const client of this.#clients) this.#socket?.send(`<3>${text}`, client)
  }
}

radioCompliance('wpa_supplicant', async () => new StandIn())

test('OH-25: a wpa_supplicant that stands still has lost nothing; its late answers are not those of what was asked since', async () => {
  const bed = new StandIn(50)
  try {
    const ear = new Ear(bed.radio)
    await ear.next('associated')
    bed.freeze()
    await ear.next('trouble', undefined, ['lost'])
    for (let i = 0; i < 2; i++) {
      bed.radio.scan()
      await ear.next('failed', ({ op }) => op === 'scan', ['lost'])
    }
    bed.thaw()
    bed.setSignal(-66)
    await ear.next('signal', ({ dbm }) => dbm === -66, ['lost'])
    bed.radio.associate(POINTS[1]!)
    await ear.next('associated', ({ point }) => point === POINTS[1]!.id, ['lost', 'failed'])
  } finally {
    await bed.close()
  }
})

test('wpa_supplicant gets its networks back as they were, and roams by itself again', async () => {
  const bed = new StandIn()
  const detached = async () => {
    bed.radio.close()
    while (bed.heard.at(-1) !== 'DETACH') await new Promise(setImmediate)
  }
  try {
    const ear = new Ear(bed.radio)
    await ear.next('associated')
    bed.drop()
    await ear.next('lost')
    bed.radio.associate(POINTS[1]!)
    await ear.next('associated')
    bed.radio.release()
    await detached()
    assert.ok(bed.heard.includes(`SET_NETWORK 0 bssid ${POINTS[1]!.id}`))
    const last = bed.heard.slice(bed.heard.lastIndexOf('SET_NETWORK 0 bssid any'))
    assert.deepEqual(last, [
      'SET_NETWORK 0 bssid any',
      'ENABLE_NETWORK 0',
      'ENABLE_NETWORK 1',
      'RECONNECT',
      'DETACH',
    ])
  } finally {
    await bed.close()
  }
})

test('wpa_supplicant: reads nothing into what it does not know', () => {
  assert.equal(readEvent('<3>WPS-AP-AVAILABLE '), undefined)
  assert.equal(readEvent('OK'), undefined)
  assert.deepEqual(readScanResults('FAIL'), [])
  assert.deepEqual(readEvent('<3>CTRL-EVENT-ASSOC-REJECT bssid=02:00:00:00:00:01 status_code=17'), {
    type: 'failed',
    op: 'associate',
    reason: 'ASSOC-REJECT bssid=02:00:00:00:00:01 status_code=17',
  })
})
