/**
 * Captive portals: networks that answer every web request themselves until somebody signs in. While no anchor answers
 * over an access that is up, a web page is requested from the anchor's own address over it. Only the anchor sees this
 * request; only a portal answers it with a redirection (or with status 511, RFC 6585). The portal is reported. While no
 * anchor answers over any access, its addresses and port 80 bypass the tunnel, so that a browser can sign in.
 */
import { lookup } from 'node:dns/promises'
import { request } from 'node:http'
import { isIP } from 'node:net'

export interface PortalAccess {
  readonly name: string
  /** Its IPv4 address; portals that have only IPv6 are not looked for. */
  readonly address: string
  readonly table: number
}

/** What may bypass the tunnel by the table of an access: everything to an address, or TCP port 80 to any. */
export interface Passage {
  readonly table: number
  readonly to?: string
}

export interface PortalParts {
  /** Addresses or names of the anchors. */
  readonly anchors: readonly string[]
  readonly now: () => number
  /** A portal was found, or is gone (undefined). */
  readonly report: (access: string, url: string | undefined) => void
  /** Sets what bypasses the tunnel from now on. */
  readonly pass: (passages: readonly Passage[]) => void
}

/** An access without a path is asked after this, and again (ms). */
const PATIENCE_MS = 3000
const AGAIN_MS = 10_000
const TIMEOUT_MS = 4000
const MOST_ADDRESSES = 4
const MOST_CHARACTERS = 300

interface Watched {
  readonly access: PortalAccess
  askAt: number
  asking: boolean
  found: { readonly url: string; readonly addresses: readonly string[] } | undefined
}

export class PortalWatch {
  readonly #parts: PortalParts
  readonly #watched = new Map<string, Watched>()
  #passing = '[]'

  constructor(parts: PortalParts) {
    this.#parts = parts
  }

  /** Accesses that are up without a usable path; `stuck`: nothing gets through over any. */
  update(silent: readonly PortalAccess[], stuck: boolean): void {
    const now = this.#parts.now()
    for (const [name, { access, found }] of this.#watched) {
      if (silent.some((each) => each.name === name && each.address === access.address)) continue
      this.#watched.delete(name)
      if (found !== undefined) this.#parts.report(name, undefined)
    }
    for (const access of silent) {
      const known = this.#watched.get(access.name)
      if (known === undefined)
        this.#watched.set(access.name, { access, askAt: now + PATIENCE_MS, asking: false, found: undefined })
      else if (now >= known.askAt && !known.asking) void this.#ask(known)
    }
    this.#pass(stuck)
  }

  stop(): void {
    this.#watched.clear()
    this.#pass(false)
  }

  async #ask(watched: Watched): Promise<void> {
    const { access } = watched
    watched.asking = true
    const url = await this.#portalOver(access)
    const addresses = url === undefined ? [] : await addressesOf(url.hostname)
    watched.asking = false
    watched.askAt = this.#parts.now() + AGAIN_MS
    if (this.#watched.get(access.name) !== watched) return
    const text = url?.href.slice(0, MOST_CHARACTERS)
    if (text !== watched.found?.url) this.#parts.report(access.name, text)
    watched.found = text === undefined ? undefined : { url: text, addresses }
  }

  async #portalOver({ address }: PortalAccess): Promise<URL | undefined> {
    for (const anchor of this.#parts.anchors) {
      const [target] = await addressesOf(anchor)
      const url = target === undefined ? undefined : await askForPage(target, address)
      if (url !== undefined) return url
    }
    return undefined
  }

  #pass(stuck: boolean): void {
    const passages = !stuck
      ? []
      : [...this.#watched.values()].flatMap(({ access: { table }, found }) =>
          found === undefined ? [] : [{ table }, ...found.addresses.map((to) => ({ table, to }))],
        )
    const text = JSON.stringify(passages)
    if (text === this.#passing) return
    this.#passing = text
    this.#parts.pass(passages)
  }
}

/** IPv4 addresses of a name or address; none when it has none. */
async function addressesOf(host: string): Promise<string[]> {
  if (isIP(host) !== 0) return isIP(host) === 4 ? [host] : []
  try {
    return (await lookup(host, { all: true, family: 4 }))
      .slice(0, MOST_ADDRESSES)
      .map(({ address }) => address)
  } catch {
    return []
  }
}

/** The URL to which something at `target` redirects; undefined: no answer, or no redirection elsewhere. Never rejects. */
export function askForPage(target: string, localAddress: string, port = 80): Promise<URL | undefined> {
  return new Promise((resolve) => {
    const asked = request(
      { host: target, port, localAddress, path: '/', timeout: TIMEOUT_MS, agent: false, maxHeaderSize: 8192 },
      (response) => {
        const { statusCode = 0, headers } = response
        response.destroy()
        resolve(portalOf(target, statusCode, headers.location))
      },
    )
    const deadline = setTimeout(() => asked.destroy(), TIMEOUT_MS)
    asked.once('error', () => resolve(undefined))
    asked.once('close', () => {
      clearTimeout(deadline)
      resolve(undefined)
    })
    asked.end()
  })
}

export function portalOf(target: string, status: number, location: string | undefined): URL | undefined {
  const own = `http://${target}/`
  if (status === 511) return new URL(own)
  if (status < 300 || status > 399 || location === undefined || !URL.canParse(location, own)) return undefined
  const url = new URL(location, own)
  const isWeb = url.protocol === 'http:' || url.protocol === 'https:'
  return isWeb && url.hostname !== target ? url : undefined
}
