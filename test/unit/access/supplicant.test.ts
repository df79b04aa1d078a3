/** The wpa_supplicant driver against a stand-in that answers as wpa_supplicant 2.10 does. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import type { RadioEvent } from '../../../src/access/radio/radio.ts'
import { SupplicantRadio } from '../../../src/access/radio/supplicant.ts'
import { readEvent, readScanResults } from '../../../src/access/radio/supplicant-text.ts'
import { UnixDatagram } from '../../../src/linux/unix-datagram.ts'

const SCAN = `bssid / frequency / signal level / flags / ssid
02:00:00:00:00:01\t5180\t-61\t[WPA2-PSK-CCMP][ESS]\trow
02:00:00:00:00:02\t5220\t-48\t[WPA2-PSK-CCMP][ESS]\trow
02:00:00:00:00:03\t5220\t-70\t[ESS]\t
`

describe('wpa_supplicant', () => {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-wpa-'))
  after(() => rmSync(folder, { recursive: true, force: true }))

  it('OH-38: scans, reads signals, associates by BSSID and says what happened', async () => {
    const asked: string[] = []
    let client = ''
    const server = new UnixDatagram(join(folder, 'wlan9'), (text, from) => {
      client = from
      asked.push(text)
      const answers: Record<string, string> = {
        STATUS: 'bssid=02:00:00:00:00:01\nssid=row\nid=0\nwpa_state=COMPLETED\n',
        SIGNAL_POLL: 'RSSI=-61\nLINKSPEED=54\nNOISE=9999\nFREQUENCY=5180\n',
        SCAN_RESULTS: SCAN,
        LIST_NETWORKS: 'network id / ssid / bssid / flags\n0\trow\tany\t[CURRENT]\n',
      }
      server.send(answers[text] ?? 'OK\n', from)
      if (text === 'SCAN') server.send('<3>CTRL-EVENT-SCAN-RESULTS ', from)
      if (text.startsWith('ROAM'))
        server.send(
          '<3>CTRL-EVENT-CONNECTED - Connection to 02:00:00:00:00:02 completed [id=0 id_str=]',
          from,
        )
    })
    const radio = new SupplicantRadio('wlan9', { folder, own: folder })
    const events: RadioEvent[] = []
    let wake: () => void = () => {}
    radio.subscribe((event) => {
      events.push(event)
      wake()
    })
    const seen = async (type: RadioEvent['type'], count = 1) => {
      while (events.filter((event) => event.type === type).length < count)
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      return events.filter((event) => event.type === type).at(-1)
    }
    try {
      assert.deepEqual(await seen('associated'), {
        type: 'associated',
        point: '02:00:00:00:00:01',
        network: 'row',
      })
      assert.deepEqual(await seen('signal'), { type: 'signal', dbm: -61 })
      radio.scan()
      const heard = await seen('points')
      assert.ok(heard?.type === 'points' && heard.points.length === 2)
      radio.associate(heard.points[1]!)
      await seen('associated', 2)
      assert.ok(asked.includes('SET_NETWORK 0 bssid 02:00:00:00:00:02'))
      server.send('<3>CTRL-EVENT-DISCONNECTED bssid=02:00:00:00:00:02 reason=3', client)
      assert.deepEqual(await seen('lost'), { type: 'lost', reason: '802.11 reason 3' })
    } finally {
      radio.close()
      server.close()
    }
  })

  it('reads nothing into what it does not know', () => {
    assert.equal(readEvent('<3>WPS-AP-AVAILABLE '), undefined)
    assert.equal(readEvent('OK'), undefined)
    assert.deepEqual(readScanResults('FAIL'), [])
    assert.deepEqual(readEvent('<3>CTRL-EVENT-ASSOC-REJECT bssid=02:00:00:00:00:01 status_code=17'), {
      type: 'failed',
      op: 'associate',
      reason: 'ASSOC-REJECT bssid=02:00:00:00:00:01 status_code=17',
    })
  })
})
