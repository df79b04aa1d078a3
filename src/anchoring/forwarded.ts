/**
 * Connections that come in by an access and are forwarded: published ports of containers, virtual machines. The answers
 * carry the container's address when their route is looked up, so no rule can tell by the source which access they belong
 * to. Connection tracking knows: a table of nftables marks such answers for the access, and a rule follows the mark
 * (rules.ts, `forwarded`).
 *
 *   chain answers (prerouting, mangle), for each access N with addresses A
 *     iifname N, ct state new                          its bytes of the ct mark := N
 *     ct direction reply, ct original daddr A          its bytes of the mark := N     (translated, also from before us)
 *     ct direction reply, its bytes of the ct mark = N its bytes of the mark := N     (routed)
 *   chain arrivals (prerouting, after translation)
 *     iifname N, ct direction original, translated     its bytes of the mark := N     (for others' reverse-path checks)
 *
 * Only where this host forwards: the table would turn connection tracking on for everybody else.
 */
import { parseAddress } from '../core/address.ts'
import { ENOENT } from '../core/errno.ts'
import { type Ledger, MARK_MASK } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import {
  CompareOp,
  CtKey,
  MetaKey,
  NfBatch,
  type NfExpressions,
  NfFamily,
  NfHook,
  register32,
} from '../linux/nf_tables.ts'
import type { NfSocket } from '../linux/nf-socket.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import type { Source } from './rules.ts'

const ANSWERS = 'answers'
const ARRIVALS = 'arrivals'
/** NF_IP_PRI_MANGLE: after connection tracking, before the route is looked up. */
const MANGLE = -150
/** NF_IP_PRI_NAT_DST and a little. firewalld's check is after it. */
const AFTER_TRANSLATION = -90
const STATE_NEW = 8
/** IPS_DST_NAT */
const STATUS_TRANSLATED = 32
const REPLY = 1
const ORIGINAL = 0
const IFNAMSIZ = 16
const R = register32(0)

type RepliesSocket = Pick<NfSocket, 'commit' | 'hasTable'>

export class ForwardedReplies {
  readonly #nf: RepliesSocket
  readonly #sysctls: Sysctls
  readonly #ledger: Ledger
  readonly #report: (message: string) => void
  #applied = ''

  constructor(nf: RepliesSocket, sysctls: Sysctls, ledger: Ledger, report: (message: string) => void) {
    this.#nf = nf
    this.#sysctls = sysctls
    this.#ledger = ledger
    this.#report = report
  }

  /** Repeatable. What the kernel cannot do is reported once: answers of containers then go through the tunnel. */
  apply(sources: readonly Source[]): void {
    const own = this.#forwards() ? sources.filter(({ access }) => access !== undefined) : []
    const text = JSON.stringify(own)
    if (text === this.#applied || (own.length === 0 && this.#applied === '')) return
    this.#applied = own.length === 0 ? '' : text
    try {
      const batch = new NfBatch().table(NfFamily.INET, this.#table).deleteTable(NfFamily.INET, this.#table)
      if (own.length > 0) this.#fill(batch, own)
      this.#nf.commit(batch, 'mark replies of forwarded connections')
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      this.#report(`replies from published ports of containers go through the tunnel: ${error.message}`)
    }
  }

  /** Makes the next `apply` restore the table if another program removed it, and names it then. */
  forget(): string[] {
    if (this.#applied === '' || this.#nf.hasTable(NfFamily.INET, this.#table)) return []
    this.#applied = ''
    return [`table ${this.#table}`]
  }

  /** Also of an earlier run. Repeatable. */
  cleanUp(): void {
    this.#applied = ''
    try {
      this.#nf.commit(new NfBatch().deleteTable(NfFamily.INET, this.#table), 'remove the marks of replies')
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      if (error.errno !== ENOENT) this.#report(error.message)
    }
  }

  #forwards(): boolean {
    return ['net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'].some(
      (key) => this.#sysctls.get(key) === '1',
    )
  }

  get #table(): string {
    return this.#ledger.nftTable()
  }

  #fill(batch: NfBatch, sources: readonly Source[]): void {
    const table = this.#table
    const inet = NfFamily.INET
    batch.table(inet, table)
    const chain = (name: string, priority: number) => {
      batch.chain(inet, table, name, { type: 'filter', hook: NfHook.PREROUTING, priority })
      return (build: (the: NfExpressions) => void) => batch.rule(inet, table, name, build)
    }
    const rule = chain(ANSWERS, MANGLE)
    const accesses = new Map(sources.map(({ access, table: number }) => [access!, number]))
    for (const [access, number] of accesses)
      rule((the) => {
        isFrom(the, access)
        hasBit(the, CtKey.STATE, STATE_NEW)
        the.ct(CtKey.MARK, R)
        this.#replaceMark(the, number)
        the.setCt(CtKey.MARK, R)
      })
    for (const { family, address, table: number } of sources)
      rule((the) => {
        hasDirection(the, REPLY)
        the.ct(family === 4 ? CtKey.DESTINATION_V4 : CtKey.DESTINATION_V6, R, ORIGINAL)
        the.compare(R, CompareOp.EQ, bytesOf(address))
        this.#mark(the, number)
      })
    for (const number of accesses.values())
      rule((the) => {
        hasDirection(the, REPLY)
        the.ct(CtKey.MARK, R)
        the.bitwise(R, host32(MARK_MASK), host32(0))
        the.compare(R, CompareOp.EQ, host32(this.#ledger.accessMark(number)))
        this.#mark(the, number)
      })
    const arrival = chain(ARRIVALS, AFTER_TRANSLATION)
    for (const [access, number] of accesses)
      arrival((the) => {
        isFrom(the, access)
        hasDirection(the, ORIGINAL)
        hasBit(the, CtKey.STATUS, STATUS_TRANSLATED)
        this.#mark(the, number)
      })
  }

  #mark(the: NfExpressions, table: number): void {
    the.meta(MetaKey.MARK, R)
    this.#replaceMark(the, table)
    the.setMeta(MetaKey.MARK, R)
  }

  #replaceMark(the: NfExpressions, table: number): void {
    the.bitwise(R, host32(~MARK_MASK), host32(this.#ledger.accessMark(table)))
  }
}

function isFrom(the: NfExpressions, access: string): void {
  the.meta(MetaKey.IIFNAME, R)
  the.compare(R, CompareOp.EQ, interfaceName(access))
}

function hasDirection(the: NfExpressions, direction: 0 | 1): void {
  the.ct(CtKey.DIRECTION, R)
  the.compare(R, CompareOp.EQ, Uint8Array.of(direction))
}

function hasBit(the: NfExpressions, key: number, bit: number): void {
  the.ct(key, R)
  the.bitwise(R, host32(bit), host32(0))
  the.compare(R, CompareOp.NEQ, host32(0))
}

/** Marks and states are in the host's order: little-endian on every machine that godwit runs on. */
function host32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value >>> 0, true)
  return bytes
}

function interfaceName(name: string): Uint8Array {
  const bytes = new Uint8Array(IFNAMSIZ)
  for (let i = 0; i < name.length; i++) bytes[i] = name.charCodeAt(i)
  return bytes
}

function bytesOf(address: string): Uint8Array {
  const parsed = parseAddress(address)
  if (!parsed.ok) throw new TypeError(`the kernel has no address ${address}`)
  return parsed.value
}
