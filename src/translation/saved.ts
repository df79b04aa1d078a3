/** What a restarted daemon reads back: its hosts and its identifiers (D14). */
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import * as z from 'zod'
import { parseAddress } from '../core/address.ts'
import { fromHex, toHex } from '../core/bytes.ts'
import type { SavedHost } from './machine/state.ts'
import type { Ip } from './tables.ts'

/** What a kill may cost of the newest changes; a new run then compiles anew from the sockets. */
const SAVE_MS = 20
/** Saving takes at most this share of a CPU. */
const SAVE_SHARE = 0.05
/** What could not be written is tried again after this. */
const SAVE_AGAIN_MS = 10_000

const ip = z.string().refine((text) => parseAddress(text).ok)
const ips = z.array(ip)
const pair = z.looseObject({ local: ip, foreign: ip })
const pairs = z.array(pair)
const bytes = z.instanceof(Uint8Array)
const number = z.number()
const port = number.optional()
/** What a host has to have: a file of another version may have others. */
const savedHost = z.looseObject({
  hid: z.int(),
  bound: pair,
  key: bytes.optional(),
  formerKey: bytes.optional(),
  ownKey: z.looseObject({ publicKey: bytes, privateKey: bytes }).optional(),
  secret: bytes.optional(),
  privileged: z.boolean(),
  taken: z.array(z.string()),
  diversions: z
    .array(z.looseObject({ connection: z.string(), pair, own: z.boolean(), counter: number }))
    .optional(),
  numbers: z.array(z.looseObject({ connection: z.string(), own: port, other: port })).optional(),
  floor: number,
  counter: number,
  preferred: ip.optional(),
  ...{ known: ips, indexed: ips, answered: ips, active: ips, unreachable: ips, local: ips, lost: ips },
  nats: z.array(z.tuple([ip, ip])).optional(),
  ports: z
    .array(z.looseObject({ protocol: number, foreignPort: number, natPort: number, localPort: number }))
    .optional(),
  natFloors: z.array(z.tuple([ip, number])),
  ...{ accepted: pairs, confirmed: pairs, current: pairs, flows: pairs },
  crossed: z.array(z.union([z.literal(4), z.literal(6)])).optional(),
})

export interface SavedState {
  readonly hosts: readonly SavedHost[]
  readonly identifiers: readonly Ip[]
}

export class StateFile {
  readonly #path: string
  readonly #current: () => SavedState
  readonly #fault: (what: string) => void
  #timer: NodeJS.Timeout | undefined
  #failed = false
  /** How long the last time took, milliseconds. */
  #took = 0

  /** `current` gives what is worth saving now. `fault` hears, once, why it cannot be: connections move all the same. */
  constructor(path: string, current: () => SavedState, fault: (what: string) => void) {
    this.#path = path
    this.#current = current
    this.#fault = fault
  }

  /** Undefined when there is none; throws when it is damaged. Hosts and identifiers that are none of this version's are left out. */
  static read(path: string): SavedState | undefined {
    if (!existsSync(path)) return undefined
    const state = JSON.parse(readFileSync(path, 'utf8'), fromJson) as SavedState
    for (const list of [state.hosts, state.identifiers]) if (!Array.isArray(list)) throw new Error('damaged')
    return {
      ...state,
      hosts: state.hosts.filter((host) => savedHost.safeParse(host).success),
      identifiers: state.identifiers.filter((each) => ip.safeParse(each).success),
    }
  }

  saveSoon(): void {
    this.#timer ??= setTimeout(() => this.save(), Math.max(SAVE_MS, this.#took / SAVE_SHARE))
  }

  save(): void {
    this.forgetSoon()
    const from = performance.now()
    const temporary = `${this.#path}.new`
    try {
      writeFileSync(temporary, `${JSON.stringify(this.#current(), toJson)}\n`, { mode: 0o600 })
      renameSync(temporary, this.#path)
      this.#failed = false
    } catch (error) {
      rmSync(temporary, { force: true })
      const reason = (error as Error).message
      if (!this.#failed)
        this.#fault(`what a daemon started anew needs cannot be saved: ${reason}; tried again`)
      this.#failed = true
      this.#timer = setTimeout(() => this.save(), SAVE_AGAIN_MS).unref()
    }
    this.#took = performance.now() - from
  }

  /** No saving that was begun happens any more. */
  forgetSoon(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  remove(): void {
    this.forgetSoon()
    rmSync(this.#path, { force: true })
  }
}

function toJson(_: string, value: unknown): unknown {
  return value instanceof Uint8Array ? { hex: toHex(value) } : value
}

function fromJson(_: string, value: unknown): unknown {
  const hex = (value as { hex?: unknown } | null)?.hex
  if (typeof hex !== 'string') return value
  const bytes = fromHex(hex)
  return bytes.ok ? bytes.value : value
}
