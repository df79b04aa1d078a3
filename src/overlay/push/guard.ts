/**
 * Requests to addresses that nodes name. Only https, only to public addresses (or to those that the operator allows), never to this
 * machine; the address that was checked is the one that is connected to. Redirects are not followed, answers and time are bounded.
 *
 * Names are looked up in /etc/hosts and by the DNS, without the few threads of this process that the C library would take: who
 * answers late keeps nobody waiting, and each account has a share of the look-ups.
 */
import type { LookupAddress } from 'node:dns'
import { Resolver } from 'node:dns/promises'
import { request } from 'node:https'
import { connect as connectTcp, isIP, type LookupFunction } from 'node:net'
import { networkInterfaces } from 'node:os'
import { connect as connectTls } from 'node:tls'
import { SystemServers } from '../../access/names/servers.ts'
import { contains, kindOf, type Prefix, parseAddress, parsePrefix, unmapped } from '../../core/address.ts'
import { equal } from '../../core/bytes.ts'
import { must } from '../../mechanism/schema.ts'
import { Shares } from '../machine/shares.ts'
import { metered } from '../metered.ts'

export interface GuardInit {
  /** Private networks in which the operator runs push services. */
  readonly allowed: readonly Prefix[]
  /** Certificate of an authority beside those that Node.js knows, PEM. */
  readonly ca?: string
  readonly ms?: number
  /** Name servers, as text; absent: those of this machine. */
  readonly nameServers?: readonly string[]
}

export interface PushRequest {
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array | string
  /** The account that it is for, or the operator's own. */
  readonly by: string
}

export interface PushAnswer {
  readonly status: number
  readonly text: string
}

const HTTPS = 443
const ANSWER_MS = 10_000
const MAX_ANSWER = 16_384
/** Of all that comes: certificates, heads, answers before the answer, and what TLS takes for itself. */
const MAX_BYTES = 65_536
/** Names that are looked up at a time: of all, and of one account. */
const MAX_LOOKUPS = 256
const MAX_LOOKUPS_OF = 8
const LOOKUP_MS = 2000
const LOOKUP_TRIES = 2
/** Ways into private networks, and what is nobody's, beside what `kindOf` knows: RFC 3056, 4380, 3879, 6890, 7526. */
const NOT_PUBLIC = ['2002::/16', '2001::/32', 'fec0::/10', '192.0.0.0/24', '192.88.99.0/24'].map((text) =>
  must(parsePrefix(text)),
)

export class Guard {
  readonly #init: GuardInit
  readonly #files = new SystemServers()
  readonly #lookups = new Shares(MAX_LOOKUPS_OF)
  #lookingUp = 0

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
  post({ url, headers, body, by }: PushRequest): Promise<PushAnswer> {
    const { ca, ms = ANSWER_MS } = this.#init
    const host = url.hostname.replace(/^\[|\]$/g, '')
    if (url.protocol !== 'https:') return Promise.reject(new Error('not https'))
    if (isIP(host) !== 0 && !this.allows(host))
      return Promise.reject(new Error(`${host} is not a public address`))
    return new Promise((resolve, reject) => {
      const signal = AbortSignal.timeout(ms)
      // Whatever came of the connection: it ends with this.
      signal.addEventListener('abort', () => reject(new Error('no answer in time')))
      const connect = () => {
        let left = MAX_BYTES
        const lookup = this.#lookupFor(by, signal)
        const raw = connectTcp({ host, port: Number(url.port || HTTPS), lookup })
        const socket = metered(raw, (bytes) => {
          left -= bytes
          return left >= 0
        })
        const name = isIP(host) === 0 ? { servername: host } : {}
        return connectTls({ socket, host, ...name, ...(ca !== undefined && { ca }) })
      }
      const call = request(
        url,
        {
          ...{ method: 'POST', signal, createConnection: connect },
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

  #lookupFor(by: string, signal: AbortSignal): LookupFunction {
    return (hostname, options, callback) => {
      this.#find(hostname, by, signal).then(
        (all) => {
          const found = all.filter(({ address }) => this.allows(address))
          const [first] = found
          if (first === undefined) callback(new Error(`${hostname} has no public address`), '', 0)
          else if (options.all === true) callback(null, found)
          else callback(null, first.address, first.family)
        },
        (error: Error) => callback(error, '', 0),
      )
    }
  }

  async #find(name: string, by: string, signal: AbortSignal): Promise<LookupAddress[]> {
    const known = this.#files.hosts(name)
    if (known.length > 0) return known.map(withFamily)
    if (this.#lookingUp >= MAX_LOOKUPS || !this.#lookups.take(by))
      throw new Error('too many names are being looked up')
    this.#lookingUp++
    const resolver = new Resolver({ timeout: LOOKUP_MS, tries: LOOKUP_TRIES })
    const cancel = () => resolver.cancel()
    signal.addEventListener('abort', cancel)
    try {
      if (this.#init.nameServers !== undefined) resolver.setServers(this.#init.nameServers)
      const found = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)])
      const addresses = found.flatMap((each) => (each.status === 'fulfilled' ? each.value : []))
      const [failed] = found.flatMap((each) => (each.status === 'rejected' ? [each.reason as Error] : []))
      if (addresses.length === 0 && failed !== undefined) throw failed
      return addresses.map(withFamily)
    } finally {
      signal.removeEventListener('abort', cancel)
      this.#lookups.giveBack(by)
      this.#lookingUp--
    }
  }
}

function withFamily(address: string): LookupAddress {
  return { address, family: isIP(address) }
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
