/** Parses the text of wpa_supplicant's control socket: tables in replies and `<level>CTRL-EVENT-…` lines. */
import type { AccessPoint, RadioEvent } from './radio.ts'

/** `SCAN_RESULTS`: a heading, then bssid, frequency, level, flags, ssid, with tabs between. */
export function readScanResults(text: string): AccessPoint[] {
  const points: AccessPoint[] = []
  for (const line of text.split('\n').slice(1)) {
    const [id, , level, , network = ''] = line.split('\t')
    const dbm = Number(level)
    if (id !== undefined && isBssid(id) && Number.isFinite(dbm) && network !== '')
      points.push({ id, network, dbm })
  }
  return points
}

export interface Network {
  readonly id: number
  readonly ssid: string
  /** The access point that it is fixed to, or `any`. */
  readonly bssid: string
  readonly enabled: boolean
}

/** `LIST_NETWORKS`: id, SSID, BSSID and flags in columns. */
export function readNetworks(text: string): Network[] {
  return text
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const [id = '', ssid, bssid = 'any', flags = ''] = line.split('\t')
      if (ssid === undefined || !/^\d+$/.test(id)) return []
      return [{ id: Number(id), ssid, bssid: bssid || 'any', enabled: !flags.includes('[DISABLED]') }]
    })
}

/** `STATUS`, `SIGNAL_POLL`: lines of name=value. */
export function readFields(text: string): Map<string, string> {
  const fields = new Map<string, string>()
  for (const line of text.split('\n')) {
    const at = line.indexOf('=')
    if (at > 0) fields.set(line.slice(0, at), line.slice(at + 1))
  }
  return fields
}

export type SupplicantEvent =
  | { readonly type: 'scan-results' }
  | { readonly type: 'connected'; readonly point: string }
  | RadioEvent

/** An unsolicited line; undefined when it is none of those that matter here. */
export function readEvent(text: string): SupplicantEvent | undefined {
  const line = /^<\d>(.*)/.exec(text)?.[1]
  if (line === undefined) return undefined
  if (line.startsWith('CTRL-EVENT-SCAN-RESULTS')) return { type: 'scan-results' }
  if (line.startsWith('CTRL-EVENT-SCAN-FAILED')) return { type: 'failed', op: 'scan', reason: line.slice(11) }
  const connected = /^CTRL-EVENT-CONNECTED .*?([0-9a-f]{2}(?::[0-9a-f]{2}){5})/i.exec(line)
  if (connected !== null) return { type: 'connected', point: connected[1]!.toLowerCase() }
  const signal = /^CTRL-EVENT-SIGNAL-CHANGE .*\bsignal=(-?\d+)/.exec(line)
  if (signal !== null) return { type: 'signal', dbm: Number(signal[1]) }
  if (line.startsWith('CTRL-EVENT-DISCONNECTED')) {
    const reason = /reason=(\d+)/.exec(line)?.[1] ?? 'unknown'
    return { type: 'lost', reason: `802.11 reason ${reason}` }
  }
  if (/^CTRL-EVENT-(ASSOC-REJECT|AUTH-REJECT|NETWORK-NOT-FOUND|SSID-TEMP-DISABLED)/.test(line))
    return { type: 'failed', op: 'associate', reason: line.slice(11) }
  return undefined
}

function isBssid(text: string): boolean {
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)
}
