/**
 * Keys of anchors that changed after this host joined (`godwit anchor rekey`): STATE/anchor-keys.json. The configuration
 * keeps the key of the invitation; here is which key has taken its place, and which one is about to.
 */
import { existsSync } from 'node:fs'
import * as z from 'zod'
import { writeSecret } from '../mechanism/files.ts'
import { readStore } from '../mechanism/store-file.ts'

const entry = z.object({
  /** Base64, as all of them: the key in the configuration. */
  configured: z.string(),
  /** What the anchor has now. */
  public_key: z.string(),
  /** What it offers; good beside `public_key` until it has used it. */
  next_public_key: z.string().optional(),
})
const file = z.object({ version: z.literal(1), anchors: z.array(entry) })

type Entry = z.output<typeof entry>

export class AnchorKeys {
  readonly #file: string
  #entries: readonly Entry[] = []

  /** Throws when the file is damaged. */
  constructor(path: string) {
    this.#file = path
    if (!existsSync(path)) return
    const hint = 'delete it; if an anchor does not answer then, leave it and join again'
    this.#entries = readStore(path, file, hint).anchors
  }

  /** The keys of the anchor that the configuration has with this key. */
  of(configured: string): { readonly current: string; readonly next?: string } {
    const known = this.#entries.find((each) => each.configured === configured)
    if (known === undefined) return { current: configured }
    return { current: known.public_key, ...(known.next_public_key && { next: known.next_public_key }) }
  }

  /** The anchor will use this key; stored when it returns. `kept`: keys of all anchors in the configuration. */
  offered(configured: string, next: string, kept: readonly string[]): void {
    this.#put({ configured, public_key: this.of(configured).current, next_public_key: next }, kept)
  }

  /** The anchor has used this key. */
  confirmed(configured: string, key: string, kept: readonly string[]): void {
    this.#put({ configured, public_key: key }, kept)
  }

  #put(changed: Entry, kept: readonly string[]): void {
    const others = this.#entries.filter(
      ({ configured }) => configured !== changed.configured && kept.includes(configured),
    )
    const anchors = [...others, changed]
    writeSecret(this.#file, `${JSON.stringify({ version: 1, anchors }, null, 2)}\n`)
    this.#entries = anchors
  }
}
