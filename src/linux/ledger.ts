/**
 * The ledger: every number and name that godwit takes in the kernel, in one place. `[kernel] base` shifts all numbers
 * together and `[kernel] instance` is part of every name, so that instances share a network namespace.
 *
 * What is ours carries our mark: rules and routes say `PROTOCOL` (FRA_PROTOCOL, rtm_protocol), nftables tables and
 * devices have names from here. Only what carries the mark, inside this instance's numbers, is ever changed or deleted.
 *
 * Rule priorities, from the base (default 6700); tables have the same numbers:
 *
 *   +0   … +29   access n: `oif accN lookup +1+n`           tables +1 … +30
 *   +30  … +95   a router's subnets                         table +31
 *   +96  … +99   peers of the overlay                       table +196
 *   +100 … +169  a mobile host's own rules (anchoring)      table +0
 *   +200 … +263  address translation (DIME)                 tables +201 … +263
 *   +270 … +299  marks and sources of MPTCP subflows     (queue +270)
 *   after `main` and `default`: 32768 + base + offset
 *
 * Why 6700: Tailscale has 5210–5270 (1310–1370 on OpenWrt) and has to be asked before us; mwan3 1001–3254; the kernel's
 * VRF rule and systemd-networkd 1000; sing-box and Clash 9000–9510; shorewall 10000–; OpenWrt's pbr and netifd 10000–;
 * wg-quick takes the place below the lowest rule there is, or 32764, with table and mark 51820; Mullvad 32764 and netbird
 * 105–110 with table 7120; Tailscale's table is 52. Nobody of these is in 6700–6999.
 *
 * Marks of sockets: the first byte says what for, the last which instance. The two bytes between are left to others
 * (Tailscale 0xff0000, mwan3 0x3f00, Kubernetes 0xc000), and rules do not look at them.
 */
import type { Route, RuleSpec } from './rtnetlink/types.ts'

/** Marks rules and routes as ours: `g`. No routing daemon has this number (rt_protos of iproute2). */
export const PROTOCOL = 0x67
export const DEFAULT_BASE = 6700
/** Numbers that an instance takes, from its base. */
export const SPAN = 300
/** Rules of this table and after it come last (ip-rule(8)). */
const AFTER_DEFAULT = 32_768

export const MAIN_TABLE = 254
/** The bytes of a mark that are ours. */
export const MARK_MASK = 0xff00_00ff
const CONTROL_MARK = 0x6700_0000
const BYPASS_MARK = 0x4700_0000
const ROUTER_MARK = 0x5700_0000
/** Of access 0; each has the next. */
const ACCESS_MARK = 0x8000_0000
const NODE_MARK = 0x2700_0000
const MPTCP_MARK = 0x3700_0000
/** Of access 0; each has the next. */
const MPTCP_ACCESS_MARK = 0xa000_0000

/** Priority (skb->priority) of a packet that was translated on arrival, which nothing else reads there: "gdwt". */
export const TRANSLATED = 0x6764_7774

/** Names that devices have unless the configuration names them. */
export const DEVICES = { host: 'godwit0', anchor: 'gwan0', router: 'gwrt0', node: 'gwov0' } as const
/** Devices of any instance are never access networks. */
export const OUR_DEVICES: readonly string[] = ['godwit*', 'gwan*', 'gwrt*', 'gwov*', 'gwpark-*']

/** First and last of a range of numbers. */
export type Range = readonly [first: number, last: number]

export interface LedgerInit {
  readonly instance: string
  readonly base: number
}

export class Ledger {
  readonly instance: string
  readonly base: number

  constructor({ instance, base }: Partial<LedgerInit> = {}) {
    this.instance = instance ?? 'main'
    this.base = base ?? DEFAULT_BASE
  }

  /** Access n has priority `first + n` and table `first + 1 + n`; at most `slots`. */
  get access(): { readonly first: number; readonly slots: number } {
    return { first: this.base, slots: 30 }
  }

  /** The mark of packets that are to leave by the access with this table. */
  accessMark(table: number): number {
    return this.#mark(ACCESS_MARK + (table - this.base - 1) * 0x100_0000)
  }

  get anchoring() {
    const { base } = this
    return {
      table: base,
      bypass: base + 100,
      exceptions: [base + 101, base + 129] as Range,
      local: base + 130,
      /** Multicast and broadcast. */
      link: base + 131,
      /** Packets with an address of an access, by source and, forwarded ones, by mark. */
      sources: base + 132,
      forwarded: base + 133,
      /** Traffic to sign in at a captive portal. */
      portal: base + 134,
      /** Name servers that one access reaches, or the tunnel ([host] dns). */
      nameServers: base + 135,
      controlled: [base + 140, base + 169] as Range,
      /** All its rules. */
      rules: [base + 100, base + 169] as Range,
      control: this.#mark(CONTROL_MARK),
      bypassMark: this.#mark(BYPASS_MARK),
    }
  }

  get translation() {
    const first = this.base + 200
    return {
      /** Rules of flows in the other family, before all others of ours. */
      cross: first,
      /** An own address has a table, and a rule with its number as priority. */
      own: [first + 1, first + 59] as Range,
      crossUdpTable: first + 60,
      crossTable: first + 61,
      hold: first + 62,
      parkTable: first + 63,
      tables: [first, first + 63] as Range,
      /** For packets that match no route. */
      park: AFTER_DEFAULT + first,
      crossUdp: AFTER_DEFAULT + first + 1,
      /** The device for packets that match no route. */
      device: this.#deviceName('gwpark-'),
    }
  }

  get mptcp() {
    const first = this.base + 270
    return {
      /** Rules that send what has an access's address by that access. */
      rules: [first, first + 29] as Range,
      /** Name of its nftables table. */
      table: `${this.nftTable()}_mptcp`,
      /** Queues of packets: whole ones, headers of those that mostly pass as they are, and those of them that do not. */
      queue: first,
      headers: first + 1,
      bodies: first + 2,
      /** Of packets that the proxy sends itself. */
      mark: this.#mark(MPTCP_MARK),
      /** First and last of those of packets that the kernel path sends by an access. */
      marks: [this.mptcpMark(this.base + 1), this.mptcpMark(this.base + this.access.slots)] as const,
    }
  }

  /** The mark of packets of an MPTCP connection that are to leave by the access with this table. */
  mptcpMark(table: number): number {
    return this.#mark(MPTCP_ACCESS_MARK + (table - this.base - 1) * 0x100_0000)
  }

  get routing() {
    const first = this.base + 30
    return {
      table: first + 1,
      bypass: first,
      rules: [first, first + 65] as Range,
      mark: this.#mark(ROUTER_MARK),
    }
  }

  get overlay() {
    const first = this.base + 96
    return {
      table: this.base + 196,
      bypass: first,
      peers: first + 1,
      rules: [first, first + 3] as Range,
      mark: this.#mark(NODE_MARK),
    }
  }

  /** Name of an nftables table; different for different instances and purposes. */
  nftTable(purpose: '' | 'dime' | 'nat' | 'forwards' = ''): string {
    return `godwit_${escaped(this.instance)}${purpose === '' ? '' : `_${purpose}`}`
  }

  /** The alias of our devices: distinguishes them from others of the same name. */
  get alias(): string {
    return `godwit ${this.instance}`
  }

  /** Whether a rule is this instance's, in a range or in all of its numbers. */
  ownsRule(rule: RuleSpec, range?: Range): boolean {
    if (rule.origin !== PROTOCOL) return false
    if (range !== undefined) return within(rule.priority, range)
    const from = rule.priority >= AFTER_DEFAULT ? rule.priority - AFTER_DEFAULT : rule.priority
    return within(from, [this.base, this.base + SPAN - 1])
  }

  /** Whether a route is this instance's. */
  ownsRoute({ protocol, table }: Pick<Route, 'protocol' | 'table'>): boolean {
    return protocol === PROTOCOL && within(table, [this.base, this.base + SPAN - 1])
  }

  #mark(purpose: number): number {
    return purpose + (Math.floor(this.base / SPAN) & 0xff)
  }

  #deviceName(prefix: string): string {
    const room = 15 - prefix.length
    if (this.instance.length <= room) return prefix + this.instance
    return prefix + this.instance.slice(0, room - 4) + digest(this.instance)
  }
}

function within(value: number, [first, last]: Range): boolean {
  return value >= first && value <= last
}

/** Letters and digits stay; anything else becomes `_` and two hexadecimal digits, so that no two names meet. */
function escaped(name: string): string {
  return name.replace(/[^A-Za-z0-9]/g, (each) => `_${each.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

/** Four hexadecimal digits of a name (FNV-1a, folded). */
function digest(name: string): string {
  let hash = 0x811c9dc5
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193) >>> 0
  return ((hash >>> 16) ^ (hash & 0xffff)).toString(16).padStart(4, '0')
}
