/** The hosts that an anchor knows, invited or joined: STATE/hosts.json, readable by its owner only (pre-shared keys). */

import { existsSync, readFileSync } from 'node:fs'
import * as z from 'zod'
import { GodwitError, usageError } from '../core/errors.ts'
import { refuseExposed, writeSecret } from '../mechanism/files.ts'

const record = z.object({
  name: z.string(),
  /** `wireguard`: a stock client, which keeps the key of its invitation. */
  kind: z.enum(['godwit', 'wireguard']),
  /** Base64. Until `expires` is gone: the invitation's, to be replaced by the host's own. */
  public_key: z.string(),
  /** Base64. Offered by the host instead of `public_key`, and good beside it until the host has used it. */
  next_public_key: z.string().optional(),
  preshared_key: z.string(),
  /** Its number in the anchor's pool, from which its virtual addresses follow. */
  number: z.int(),
  /** Milliseconds since the Unix epoch; absent once the host has joined. */
  expires: z.number().optional(),
})
const file = z.object({ version: z.literal(1), hosts: z.array(record) })

export type HostRecord = z.output<typeof record>

export class HostStore {
  readonly #file: string
  #hosts: HostRecord[] = []
  /** A key that a host has by now is in memory alone. */
  #unwritten = false

  constructor(path: string) {
    this.#file = path
    if (!existsSync(path)) return
    refuseExposed(path)
    try {
      this.#hosts = file.parse(JSON.parse(readFileSync(path, 'utf8'))).hosts
    } catch (error) {
      throw new GodwitError(
        'STORE_INVALID',
        `${path} is damaged: ${(error as Error).message.split('\n')[0]}`,
        {
          kind: 'usage',
          cause: error,
          hint: 'restore it from a backup; without it every host must be invited again',
        },
      )
    }
  }

  list(): readonly HostRecord[] {
    return this.#hosts
  }

  /** Adds a host; expired invitations of before go. Throws when the name is taken by a host that has joined. */
  add(host: HostRecord, now: number): void {
    const kept = this.#hosts.filter(({ expires }) => expires === undefined || expires > now)
    if (kept.some(({ name }) => name === host.name)) {
      throw usageError(`there is a host ${host.name} already`, {
        hint: `choose another name, or remove it: godwit anchor remove ${host.name}`,
      })
    }
    this.#save([...kept, host])
  }

  remove(name: string): HostRecord {
    const host = this.#hosts.find((candidate) => candidate.name === name)
    if (!host) throw usageError(`there is no host ${name}`, { hint: '`godwit anchor hosts` lists them' })
    this.#save(this.#hosts.filter((candidate) => candidate !== host))
    return host
  }

  /**
   * The host wants to be known by this key from now on; the old one stays good until `confirmKey`. Both count in memory at
   * once; they throw when they cannot be written, and `write` tries that again.
   */
  offerKey(name: string, key: string): void {
    this.#keep(this.#hosts.map((host) => (host.name === name ? { ...host, next_public_key: key } : host)))
  }

  /** The host has joined: its own key takes the place of the invitation's, which is worth nothing from now on. */
  confirmKey(name: string, key: string): void {
    this.#keep(
      this.#hosts.map((host) => {
        if (host.name !== name) return host
        const { expires: _, next_public_key: __, ...joined } = host
        return { ...joined, public_key: key }
      }),
    )
  }

  /** Writes what could not be written before. */
  write(): void {
    if (this.#unwritten) this.#save(this.#hosts)
  }

  #keep(hosts: HostRecord[]): void {
    this.#hosts = hosts
    this.#unwritten = true
    this.#save(hosts)
  }

  #save(hosts: HostRecord[]): void {
    writeSecret(this.#file, `${JSON.stringify({ version: 1, hosts }, null, 2)}\n`)
    this.#hosts = hosts
    this.#unwritten = false
  }
}
