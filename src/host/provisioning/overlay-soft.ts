/** `godwit overlay soft`: NATS between several coordinators of a zone. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { GodwitError, usageError } from '../../core/errors.ts'
import {
  checkSoftUrl,
  isMember,
  readAnySettings,
  readSettings,
  reportSoft,
  SERVER_NAME,
  SETTINGS_FILE,
  type SoftReport,
  type SoftSettings,
  writeSettings,
} from '../../overlay/servers/index.ts'
import type { Finding } from '../daemon/doctor.ts'
import type { State } from '../stores/state.ts'
import { addressesOf, endpointOf } from './overlay-server.ts'

export interface ShownSoft {
  readonly kind: 'memory' | 'nats'
  /** Of this coordinator among those of the zone. */
  readonly name: string | null
  readonly report: SoftReport | null
}

/** Throws SOFT_AWAY and the like where NATS cannot be used. */
export async function showSoft(state: State): Promise<ShownSoft> {
  const settings = readSettings(state.file(SETTINGS_FILE))
  if (settings.soft === undefined) return { kind: 'memory', name: null, report: null }
  return { kind: 'nats', name: settings.soft.name, report: await reportSoft(settings) }
}

export interface SoftOptions {
  readonly name: string
  readonly endpoint: string
  readonly address?: readonly string[]
  readonly passwordFile?: string
  readonly ca?: string
  readonly tls?: boolean
  readonly replicas?: number
}

/** This coordinator is one of several from its next start on. Throws USAGE, and what `showSoft` throws; nothing is changed then. */
export async function useSoft(state: State, url: string, options: SoftOptions): Promise<ShownSoft> {
  const { servers } = checkSoftUrl(url)
  const file = state.file(SETTINGS_FILE)
  const settings = readSettings(file)
  if (settings.store === undefined)
    throw usageError('several coordinators need their accounts, keys and leases in one PostgreSQL', {
      hint: 'godwit overlay store move postgres://USER@HOST/DATABASE',
    })
  if (!SERVER_NAME.test(options.name))
    throw usageError(`--name: "${options.name}" is not a valid name of a coordinator, e.g. a or paris`)
  const { host, port } = endpointOf(options.endpoint)
  if (port !== settings.port)
    throw usageError(`--endpoint: all coordinators of a zone have one port, ${settings.port}`)
  const addresses = await addressesOf(host, options.address)
  const zones = await addressesOf(settings.host).catch(() => [])
  const { passwordFile, ca, tls = true, replicas = servers.length < 3 ? 1 : 3 } = options
  const soft: SoftSettings = {
    ...{ url, name: options.name, host, addresses, tls: tls ? 'verify' : 'off', replicas },
    ...(passwordFile !== undefined && { password_file: resolve(passwordFile) }),
    ...(ca !== undefined && { ca_file: resolve(ca) }),
  }
  const all = [...new Set([...zones, ...settings.addresses, ...addresses])]
  const changed = { ...settings, addresses: all, soft }
  const report = await reportSoft(changed)
  state.lock()
  try {
    writeSettings(file, changed)
  } finally {
    state.unlock()
  }
  return { kind: 'nats', name: soft.name, report }
}

/** This coordinator is the only one from its next start on. */
export function leaveSoft(state: State): void {
  const file = state.file(SETTINGS_FILE)
  const { soft, ...settings } = readSettings(file)
  if (soft === undefined) return
  state.lock()
  try {
    const own = settings.addresses.filter((each) => soft.addresses.includes(each))
    writeSettings(file, { ...settings, ...(own.length > 0 && { addresses: own }) })
  } finally {
    state.unlock()
  }
}

/** For `doctor`; none where a zone has one coordinator. */
export async function softFindings(state: State): Promise<readonly Finding[]> {
  const file = state.file(SETTINGS_FILE)
  if (!existsSync(file)) return []
  const common = { name: 'NATS of the overlay', parts: ['overlay serve'], required: false }
  try {
    if (isMember(readAnySettings(file))) return []
    const { report } = await showSoft(state)
    if (report === null) return []
    const { server, version, tls, replicas, coordinators } = report
    const names = coordinators.map(({ name }) => name).join(', ') || 'none'
    const value = `NATS ${version} at ${server}, ${tls ? 'TLS' : 'no TLS'}; coordinators: ${names}`
    if (replicas !== null) return [{ ...common, ok: true, value: `${value}; ${replicas} replicas` }]
    const mend = 'is JetStream on, with a majority of the servers? nats-server -js'
    return [{ ...common, ok: false, value: 'there is no bucket for who has which node', mend }]
  } catch (error) {
    if (!(error instanceof GodwitError)) throw error
    return [{ ...common, ok: false, value: error.message, mend: error.hint ?? 'godwit overlay soft show' }]
  }
}
