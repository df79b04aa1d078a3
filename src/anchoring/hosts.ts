/**
 * The hosts that an anchor knows, invited or joined: STATE/hosts.json, readable only by its owner (it contains pre-shared
 * keys).
 */

import { existsSync } from 'node:fs'
import * as z from 'zod'
import { usageError } from '../core/errors.ts'
import { refuseExposed, writeSecret } from '../mechanism/files.ts'
import { readStore } from '../mechanism/store-file.ts'

const record = z.object({
  name: z.string(),
  /** `wireguard`: a stock client, which keeps the key of its invitation. */
  kind: z.enum(['godwit', 'wireguard']),
  /** Base64. While `expires` is set: the invitation's key, to be replaced by the host's own. */
  public_key: z.string(),
  /** Base64. Offered by the host instead of `public_key`, and good beside it until the host has used it. */
  next_public_key: z.string().optional(),
  preshared_key: z.string(),
  /** Its number in the anchor's pool, from which its virtual addresses follow. */
  number: z.int(),
  /** Milliseconds since the Unix epoch; absent once the host has joined. */
  expires: z.number().optional(),
  /** The anchor's public key that the invitation names; absent once the host has joined. */
  anchor_key: z.string().optional(),
})
/** A key that was valid once. Its holder is told why it is not any more. */
const gone = z.object({
  name: z.string(),
  why: z.enum(['used', 'expired', 'removed']),
  public_key: z.string(),
  preshared_key: z.string(),
})
const file = z.object({
  version: z.literal(1),
  hosts: z.array(record),
  gone: z.array(gone).default([]),
})

/** Keys of before that are kept: each is a peer of the engine. */
const MAX_GONE = 256

export type HostRecord = z.output<typeof record>
export type GoneRecord = z.output<typeof gone>

export class HostStore {
  readonly #file: string
  #hosts: HostRecord[] = []
  /** Oldest first. */
  #gone: GoneRecord[] = []
  /** A key that a host has by now is in memory alone. */
  #unwritten = false

  constructor(path: string) {
    this.#file = path
    if (!existsSync(path)) return
    refuseExposed(path)
    const hint = 'restore it from a backup; without one, invite every host again'
    const { hosts, gone } = readStore(path, file, hint)
    this.#hosts = hosts
    this.#gone = gone
  }

  list(): readonly HostRecord[] {
    return this.#hosts
  }

  /** Keys that are worth nothing any more, oldest first. */
  gone(): readonly GoneRecord[] {
    return this.#gone
  }

  /** Adds a host; expired invitations of before go. Throws when the name is taken by a host that has joined. */
  add(host: HostRecord, now: number): void {
    const kept = this.#hosts.filter(({ expires }) => expires === undefined || expires > now)
    if (kept.some(({ name }) => name === host.name)) {
      throw usageError(`a host ${host.name} exists already`, {
        hint: `choose another name, or remove it: godwit anchor remove ${host.name}`,
      })
    }
    const expired = this.#hosts.filter((each) => !kept.includes(each))
    this.#save([...kept, host], this.#goneWith('expired', expired))
  }

  remove(name: string): HostRecord {
    const host = this.#hosts.find((candidate) => candidate.name === name)
    if (!host) throw usageError(`there is no host ${name}`, { hint: '`godwit anchor hosts` lists them' })
    const keys =
      host.next_public_key === undefined ? [host] : [host, { ...host, public_key: host.next_public_key }]
    this.#save(
      this.#hosts.filter((candidate) => candidate !== host),
      this.#goneWith('removed', keys),
    )
    return host
  }

  /**
   * The host wants to be known by this key from now on; the old one stays good until `confirmKey`. Both count in memory at
   * once; they throw when they cannot be written, and `write` tries that again.
   */
  offerKey(name: string, key: string): void {
    this.#keep(this.#hosts.map((host) => (host.name === name ? { ...host, next_public_key: key } : host)))
  }

  /** The host has joined: its own key replaces the invitation's key, which is void from now on. */
  confirmKey(name: string, key: string): void {
    const invited = this.#hosts.filter((host) => host.name === name && host.expires !== undefined)
    this.#gone = this.#goneWith('used', invited)
    this.#keep(
      this.#hosts.map((host) => {
        if (host.name !== name) return host
        const { expires: _, next_public_key: __, anchor_key: ___, ...joined } = host
        return { ...joined, public_key: key }
      }),
    )
  }

  /** Writes what could not be written before. */
  write(): void {
    if (this.#unwritten) this.#save(this.#hosts)
  }

  #goneWith(why: GoneRecord['why'], hosts: readonly HostRecord[]): GoneRecord[] {
    // A stock client speaks no control frames, so it cannot be told.
    const added = hosts
      .filter(({ kind }) => kind === 'godwit')
      .map(({ name, public_key, preshared_key }) => ({ name, why, public_key, preshared_key }))
    return [...this.#gone, ...added].slice(-MAX_GONE)
  }

  #keep(hosts: HostRecord[]): void {
    this.#hosts = hosts
    this.#unwritten = true
    this.#save(hosts)
  }

  #save(hosts: HostRecord[], gone: GoneRecord[] = this.#gone): void {
    writeSecret(this.#file, `${JSON.stringify({ version: 1, hosts, gone }, null, 2)}\n`)
    this.#hosts = hosts
    this.#gone = gone
    this.#unwritten = false
  }
}
