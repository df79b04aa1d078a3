/**
 * Accesses that carry no IPv4 but translate it (NAT64): what IPv4 addresses have in front there, by RFC 7050. It is asked for once
 * for each network, and again a few times where no answer comes: the access may have just come up.
 */
import { NAT64_PREFIX } from '../../linux/sockaddr.ts'

const TRIES = 6
const FIRST_PAUSE_MS = 1_000
/** Bits of a prefix that is used: others put the IPv4 address elsewhere, and are rare. */
const PREFIX_BITS = 8 * NAT64_PREFIX

export interface TranslationParts {
  /** Prefixes of an access. */
  readonly ask: (
    access: string,
  ) => Promise<readonly { readonly address: Uint8Array; readonly length: number }[]>
  readonly onFound: () => void
}

interface Asked {
  readonly generation: number
  prefix: Uint8Array | undefined
  tries: number
  timer: NodeJS.Timeout | undefined
}

export class Translation {
  readonly #parts: TranslationParts
  readonly #asked = new Map<string, Asked>()

  constructor(parts: TranslationParts) {
    this.#parts = parts
  }

  /** 12 bytes; undefined: there is none, or it is being asked for. */
  prefix(access: string, generation: number): Uint8Array | undefined {
    const known = this.#asked.get(access)
    if (known?.generation === generation) return known.prefix
    clearTimeout(known?.timer)
    const asked: Asked = { generation, prefix: undefined, tries: 0, timer: undefined }
    this.#asked.set(access, asked)
    void this.#ask(access, asked)
    return undefined
  }

  async #ask(access: string, asked: Asked): Promise<void> {
    const found = await this.#parts.ask(access).catch(() => [])
    if (this.#asked.get(access) !== asked) return
    const prefix = found.find(({ length }) => length === PREFIX_BITS)
    if (prefix !== undefined) {
      asked.prefix = prefix.address.slice(0, NAT64_PREFIX)
      this.#parts.onFound()
    } else if (++asked.tries < TRIES)
      asked.timer = setTimeout(
        () => void this.#ask(access, asked),
        FIRST_PAUSE_MS * 2 ** (asked.tries - 1),
      ).unref()
  }

  stop(): void {
    for (const { timer } of this.#asked.values()) clearTimeout(timer)
    this.#asked.clear()
  }
}
