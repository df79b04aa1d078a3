/** The commands of the overlay's nodes: login, peers, and the signalling of a node as a sequence diagram. */
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { hostname } from 'node:os'
import { GodwitError, usageError } from '../../core/errors.ts'
import { encodeKey, generatePrivateKey } from '../../crypto/keys.ts'
import { readPrivateKey, writeAtomic, writeSecret } from '../../mechanism/files.ts'
import {
  ASKED_KEY_FILE,
  keyIn,
  LEASE_FILE,
  LOGIN_FILE,
  type Login,
  logIn,
  readLogin,
  writeLogin,
} from '../../overlay/index.ts'
import { parseConfig } from '../configuration/config.ts'
import type { State } from '../stores/state.ts'

export { MAX_MESSAGE } from '../../overlay/index.ts'

export interface LoginOptions {
  readonly server?: string
  readonly pin?: string
  readonly name?: string
  readonly replace?: boolean
}

/**
 * Logs in and writes what the daemon needs: the login, and [overlay] if the configuration has none. A node that logs in
 * again keeps its private key, and so its name and addresses. Rejects with LOGIN_REFUSED if another device has the name, unless
 * `replace`.
 */
export async function loginNode(
  state: State,
  account: string,
  password: string,
  options: LoginOptions,
): Promise<{ readonly name: string; readonly config: string; readonly busy: boolean }> {
  state.prepare()
  const file = state.file(LOGIN_FILE)
  const known = readLogin(file)
  const server = options.server ?? known?.server
  if (server === undefined || !/^https:\/\/[^/?#]+\/?$/.test(server))
    throw usageError(
      '--server: the account server is missing, e.g. --server https://overlay.example.org:6741',
    )
  const node = (options.name ?? known?.name.split('.')[0] ?? hostname().split('.')[0] ?? '').toLowerCase()
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(node))
    throw usageError(`--name: "${node}" is not a valid node name: letters, digits and "-"`)
  const config = existsSync(state.configFile) ? readFileSync(state.configFile, 'utf8') : ''
  const parsed = parseConfig(config)
  if ('faults' in parsed)
    throw new GodwitError('CONFIG_INVALID', `${state.configFile} is not valid`, {
      kind: 'usage',
      hint: 'godwit config check shows the errors',
    })
  const login = await logIn({
    ...{ server, account, password, node },
    ...pinOf(options, known, server),
    ...(options.replace === true && { replace: true }),
    privateKey: known === undefined ? askedKey(state) : keyIn(known.private_key),
  })
  writeLogin(file, login)
  rmSync(state.file(ASKED_KEY_FILE), { force: true })
  if (known !== undefined && known.name !== login.name && existsSync(state.file(LEASE_FILE)))
    writeAtomic(state.file(LEASE_FILE), '\n', 0o600)
  if (parsed.config.overlay === undefined)
    writeAtomic(state.configFile, `${config === '' ? '' : `${config.trimEnd()}\n\n`}[overlay]\n`, 0o600)
  return { name: login.name, config: state.configFile, busy: state.busy() }
}

/**
 * The key of the first login, kept until that is written: if the answer is lost, the next attempt is of the same device to the
 * server.
 */
function askedKey(state: State): Uint8Array {
  const file = state.file(ASKED_KEY_FILE)
  if (!existsSync(file)) writeSecret(file, `${encodeKey(generatePrivateKey())}\n`)
  return readPrivateKey(file)
}

/** The pin that is given, or that of the server where it logged in before. */
function pinOf({ pin }: LoginOptions, known: Login | undefined, server: string): { readonly pin?: string } {
  const before = known?.server === server ? known.pin : undefined
  const now = pin ?? before
  return now === undefined ? {} : { pin: now }
}

/** Answer of GET /v1/overlay. */
export interface OverlayView {
  readonly name: string
  /** Of this node, base64. */
  readonly public_key: string
  readonly addresses: readonly string[]
  readonly coordinator: string
  readonly registered: boolean
  readonly trouble: string | null
  /** Seconds since 1970; null: the login does not end. */
  readonly login_expires: number | null
  readonly observed: string | null
  /** Connected to a notification server: no keep-alives are sent. */
  readonly notified: boolean
  readonly names: { readonly server: string | null; readonly keeper: string; readonly zone: string }
  readonly peers: readonly {
    readonly name: string
    /** Of a peer that was used since the start. */
    readonly public_key: string | null
    readonly addresses: readonly string[]
    readonly way: string | null
    readonly access: string | null
    readonly reason: string
  }[]
}

export interface TraceStep {
  readonly at: number
  /** Milliseconds since 1970. */
  readonly wall: number
  readonly from: string
  readonly to: string
  readonly what: string
}

const COLUMN = 30
const TIME = 14

/**
 * One column for each participant in order of first appearance, one line for each step; times from the first step (ms).
 */
export function conversation(steps: readonly TraceStep[]): string[] {
  const [first] = steps
  if (first === undefined) return []
  const names = [...new Set(steps.flatMap(({ from, to }) => [from, to]))]
  const pad = (text: string) => text.padEnd(COLUMN).slice(0, COLUMN)
  const head = `${''.padEnd(TIME)}${names.map((name) => pad(label(name))).join('')}`.trimEnd()
  const lines = steps.map(({ at, from, to, what }) => {
    const [a, b] = [names.indexOf(from), names.indexOf(to)]
    const [left, right] = [Math.min(a, b), Math.max(a, b)]
    const width = COLUMN * (right - left) - 3
    const text = ` ${what} `
    const rest = Math.max(2, width - text.length)
    const line = `─${text}${'─'.repeat(rest - 1)}`
    const arrow = a < b ? `├${line}>│` : `│<${line}┤`
    const before = Array.from({ length: left }, () => pad('│')).join('')
    const after = Array.from({ length: names.length - right - 1 }, () => '│'.padStart(COLUMN)).join('')
    const time = `+${(at - first.at).toFixed(1)} ms`
    return `${time.padEnd(TIME)}${before}${a === b ? `│ ${what}` : arrow}${after}`
  })
  return [head, ...lines]
}

/** The first label of a long name. */
function label(name: string): string {
  return name.length < COLUMN ? name : `${name.slice(0, COLUMN - 2)}…`
}
