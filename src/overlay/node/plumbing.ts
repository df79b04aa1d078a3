/**
 * Kernel state of a node: the virtual interface with its virtual addresses, and a host route to each virtual address of a
 * peer. The routes are in a table of their own that is looked up before others, so nothing else changes about routing. An
 * address that this machine or its router already has, that the firewall of another VPN drops, or whose family is turned off,
 * is not used: peers stay reachable at their other one.
 */
import { contains, formatAddress, kindOf, type Prefix, parseAddress } from '../../core/address.ts'
import { type Ledger, MAIN_TABLE, MARK_MASK } from '../../linux/ledger.ts'
import {
  clearTable,
  deleteDevice,
  describeRule,
  setDevice,
  setMtu,
  setRoutes,
  setRules,
} from '../../linux/own.ts'
import type { Rtnl, RuleSpec } from '../../linux/rtnetlink/types.ts'
import { loosenReversePath, mayHaveIpv6, type Sysctls } from '../../linux/sysctl.ts'
import { must } from '../../mechanism/schema.ts'

/** Addresses that are another's. */
interface Other {
  readonly prefix: Prefix
  readonly why: string
}

/** A burst of changes is followed once (ms). */
const FOLLOW_MS = 200
/** Tailscale drops what has a source in here and does not come from its own device. */
const SHARED: Prefix = { address: Uint8Array.of(100, 64, 0, 0), length: 10 }
const ALL_IPV6: Prefix = { address: new Uint8Array(16), length: 0 }

export interface NodePlumbingInit {
  readonly device: string
  readonly ledger: Ledger
  /** One line for the log. */
  readonly report?: (message: string) => void
}

export class NodePlumbing {
  readonly #rtnl: Rtnl
  readonly #report: (message: string) => void
  readonly #sysctls: Sysctls
  readonly #device: string
  readonly #ledger: Ledger
  #own: readonly Uint8Array[] = []
  #peers = new Set<string>()
  /** Obstacles to addresses, as last found. */
  #others: readonly Other[] = []

  constructor(rtnl: Rtnl, sysctls: Sysctls, init: NodePlumbingInit) {
    this.#rtnl = rtnl
    this.#report = init.report ?? (() => {})
    this.#sysctls = sysctls
    this.#device = init.device
    this.#ledger = init.ledger
  }

  /** The device is there. Repeatable. */
  apply(mtu: number): void {
    this.#setDevice(mtu)
    const strict = loosenReversePath(this.#sysctls, this.#device)
    if (strict !== undefined) this.#report(strict)
    this.#route()
  }

  /** Why this address cannot be used here; undefined: it can. */
  conflict(address: Uint8Array): string | undefined {
    const found = this.#others.find(({ prefix }) => contains(prefix, address))
    return found && `${formatAddress(address)} is not used: ${found.why}`
  }

  #look(): void {
    const kinds = new Map(this.#rtnl.links().map(({ name, kind }) => [name, kind]))
    const others: Other[] = []
    const add = (text: string, why: string) => {
      const { value: address } = parseAddress(text) as { value?: Uint8Array }
      if (address !== undefined) others.push({ prefix: { address, length: 8 * address.length }, why })
      return address
    }
    for (const { link, address, prefixLength } of this.#rtnl.addresses()) {
      if (link === this.#device) continue
      const bytes = add(address, `${link} has it`)
      if (bytes === undefined || prefixLength !== 32 || kinds.get(link) !== 'tun') continue
      if (kindOf(bytes) === 'shared')
        others.push({ prefix: SHARED, why: `the firewall of the VPN on ${link} drops its packets` })
    }
    for (const { to, via } of this.#rtnl.routes({ table: MAIN_TABLE }))
      if (via !== undefined && to.startsWith('default'))
        add(via, 'the router of this network has this address')
    if (!mayHaveIpv6(this.#sysctls, this.#device))
      others.push({
        prefix: ALL_IPV6,
        why: 'IPv6 is turned off on this machine (net.ipv6.conf.all.disable_ipv6)',
      })
    this.#others = others
  }

  /** The virtual addresses of this node. */
  setOwn(addresses: readonly Uint8Array[]): void {
    this.#look()
    this.#own = addresses
    this.#setDevice()
    this.#route()
  }

  /** The virtual addresses of all peers. */
  setPeers(addresses: readonly Uint8Array[]): void {
    this.#look()
    this.#peers = new Set(addresses.map(formatAddress))
    this.#route()
  }

  /** Follows what others do with addresses of this machine; the returned function ends it. */
  watch(): () => void {
    const watching = new AbortController()
    let timer: NodeJS.Timeout | undefined
    const follow = () => {
      timer = undefined
      this.restore()
    }
    this.#rtnl.watch(
      ['address'],
      (event) => {
        const isOurs = 'address' in event && event.address.link === this.#device
        if (!isOurs) timer ??= setTimeout(follow, FOLLOW_MS)
      },
      { signal: watching.signal },
    )
    return () => {
      watching.abort()
      clearTimeout(timer)
    }
  }

  setMtu(mtu: number): void {
    setMtu(this.#rtnl, this.#device, mtu)
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    this.#look()
    return [...this.#setDevice(), ...this.#route()]
  }

  /** Repeatable. */
  cleanUp(): void {
    setRules(this.#rtnl, this.#ledger, this.#ledger.overlay.rules, [])
    clearTable(this.#rtnl, this.#ledger.overlay.table)
    deleteDevice(this.#rtnl, this.#ledger, this.#device)
    this.#sysctls.restore()
  }

  get #usable(): readonly Uint8Array[] {
    return this.#own.filter((address) => this.conflict(address) === undefined)
  }

  #setDevice(mtu?: number): string[] {
    return setDevice(this.#rtnl, this.#ledger, this.#device, {
      ...(mtu !== undefined && { mtu }),
      addresses: this.#usable.map((address) => `${formatAddress(address)}/${8 * address.length}`),
    })
  }

  #route(): string[] {
    const { table, rules } = this.#ledger.overlay
    // A route names this node's own address as source: what goes to a peer comes from where the peer expects it.
    const own = this.#usable
    const routes = [...this.#peers].flatMap((text) => {
      const address = must(parseAddress(text))
      const size = address.length
      const source = own.find(({ length }) => length === size)
      return source === undefined || this.conflict(address) !== undefined
        ? []
        : [{ to: `${text}/${8 * size}`, dev: this.#device, source: formatAddress(source) }]
    })
    const set = setRoutes(this.#rtnl, table, routes).map(({ to }) => `route ${to} of ${this.#device}`)
    return set.concat(setRules(this.#rtnl, this.#ledger, rules, this.#wantedRules()).map(describeRule))
  }

  #wantedRules(): RuleSpec[] {
    const { table, bypass, peers, mark } = this.#ledger.overlay
    return ([4, 6] as const).flatMap((family) => [
      // The tunnels' own packets never enter a tunnel.
      { family, priority: bypass, mark, mask: MARK_MASK, table: MAIN_TABLE },
      { family, priority: peers, table },
    ])
  }
}
