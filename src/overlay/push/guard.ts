/**
 * Requests to addresses that nodes name. Only https, only to public addresses (or to those that the operator allows), never to this
 * machine; the address that was checked is the one that is connected to. Redirects are not followed, answers and time are bounded.
 */
import { lookup } from 'node:dns'
import { request } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import { networkInterfaces } from 'node:os'
import { contains, kindOf, type Prefix, parseAddress, parsePrefix, unmapped } from '../../core/address.ts'
import { equal } from '../../core/bytes.ts'
import { must } from '../../mechanism/schema.ts'

export interface GuardInit {
  /** Private networks in which the operator runs push services. */
  readonly allowed: readonly Prefix[]
  /** Certificate of an authority beside those that Node.js knows, PEM. */
  readonly ca?: string
  readonly ms?: number
}

export interface PushRequest {
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array | string
}

export interface PushAnswer {
  readonly status: number
  readonly text: string
}

const ANSWER_MS = 10_000
const MAX_ANSWER = 16_384
/** Names that are looked up at a time: who answers late keeps a thread also when nobody waits any more. */
const MAX_LOOKUPS = 32
/** Ways into private networks, and what is nobody's, beside what `kindOf` knows: RFC 3056, 4380, 3879, 6890, 7526. */
const NOT_PUBLIC = ['2002::/16', '2001::/32', 'fec0::/10', '192.0.0.0/24', '192.88.99.0/24'].map((text) =>
  must(parsePrefix(text)),
)

export class Guard {
  readonly #init: GuardInit
  #lookups = 0

  constructor(init: GuardInit) {
    this.#init = init
  }

  /** Whether push messages may go there. */
  allows(text: string): boolean {
    const address = parseAddress(text.replace(/^\[|\]$|%.*$/g, ''))
    if (!address.ok) return false
    if (this.#init.allowed.some((prefix) => contains(prefix, address.value))) return true
    if (kindOf(address.value) !== 'global') return false
    if (NOT_PUBLIC.some((prefix) => contains(prefix, address.value))) return false
    return !ownAddresses().some((own) => equal(own, unmapped(address.value)))
  }

  /** Rejects with the reason in words. */
  post({ url, headers, body }: PushRequest): Promise<PushAnswer> {
    const { ca, ms = ANSWER_MS } = this.#init
    const host = url.hostname.replace(/^\[|\]$/g, '')
    if (url.protocol !== 'https:') return Promise.reject(new Error('not https'))
    if (isIP(host) !== 0 && !this.allows(host))
      return Promise.reject(new Error(`${host} is not a public address`))
    if (isIP(host) === 0 && this.#lookups >= MAX_LOOKUPS)
      return Promise.reject(new Error('too many names are being looked up'))
    return new Promise((resolve, reject) => {
      const signal = AbortSignal.timeout(ms)
      // Whatever came of the connection: it ends with this.
      signal.addEventListener('abort', () => reject(new Error('no answer in time')))
      const call = request(
        url,
        {
          ...{ method: 'POST', agent: false, signal, lookup: this.#lookup },
          ...(ca !== undefined && { ca }),
          headers: { ...headers, 'content-length': Buffer.byteLength(body) },
        },
        (answer) => {
          const parts: Buffer[] = []
          let length = 0
          answer.on('data', (part: Buffer) => {
            length += part.length
            if (length > MAX_ANSWER) call.destroy(new Error('the answer is too long'))
            else parts.push(part)
          })
          answer.on('end', () =>
            resolve({ status: answer.statusCode ?? 0, text: Buffer.concat(parts).toString() }),
          )
          answer.on('error', reject)
        },
      )
      call.on('upgrade', (_answer, socket) => {
        socket.destroy()
        reject(new Error('it speaks another protocol'))
      })
      call.on('error', reject)
      call.end(body)
    })
  }

  readonly #lookup: LookupFunction = (hostname, options, callback) => {
    this.#lookups++
    lookup(hostname, { ...options, all: true }, (error, all) => {
      this.#lookups--
      const public_ = (all ?? []).filter(({ address }) => this.allows(address))
      const [first] = public_
      if (error !== null) callback(error, '', 0)
      else if (first === undefined) callback(new Error(`${hostname} has no public address`), '', 0)
      else if (options.all === true) callback(null, public_)
      else callback(null, first.address, first.family)
    })
  }
}

/** Of this machine. */
function ownAddresses(): Uint8Array[] {
  return Object.values(networkInterfaces()).flatMap((all) =>
    (all ?? []).flatMap(({ address }) => {
      const own = parseAddress(address)
      return own.ok ? [own.value] : []
    }),
  )
}
