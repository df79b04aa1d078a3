/**
 * What a router makes in the kernel: the tunnel device, routes to the subnets behind its peers, and forwarding.
 *
 * The routes are in a table of their own, so that none of the main table is replaced: a hotspot may have home's prefix.
 * Rules look up both tables as if they were one, and of two routes with the same prefix ours wins. For each length L of a
 * subnet, the longest first:
 *
 *   lookup main, only routes longer than L · lookup ours, only routes of L or longer
 *
 * The routes name an address of the gateway in its own subnets as source, so that what the gateway itself says to the
 * other site (ICMP: too big, time exceeded, unreachable) comes from a source that the other end takes.
 */
import { contains, formatPrefix, type Prefix, parseAddress } from '../core/address.ts'
import { type Ledger, MAIN_TABLE, MARK_MASK } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import {
  clearTable,
  deleteDevice,
  describeRule,
  setDevice,
  setMtu,
  setRoutes,
  setRules,
} from '../linux/own.ts'
import type { Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import { loosenReversePath, mayHaveIpv6, type Sysctls } from '../linux/sysctl.ts'

export interface RouterPlumbingInit {
  readonly device: string
  readonly ledger: Ledger
  /** Behind the peers. */
  readonly subnets: readonly Prefix[]
  /** Behind this gateway; empty: not said. */
  readonly own: readonly Prefix[]
  readonly report: (message: string) => void
}

export class RouterPlumbing {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  readonly #init: RouterPlumbingInit
  /** By length of an address, 4 or 16. */
  readonly #sources = new Map<number, string>()
  /** Behind the peers, of families that the device may have. */
  #subnets: readonly Prefix[]

  constructor(rtnl: Rtnl, sysctls: Sysctls, init: RouterPlumbingInit) {
    this.#rtnl = rtnl
    this.#sysctls = sysctls
    this.#init = init
    this.#subnets = init.subnets
  }

  /** The device is there: up, routes to the subnets, forwarding on. Repeatable. */
  apply(mtu: number): void {
    const { device, ledger } = this.#init
    setDevice(this.#rtnl, ledger, device, { mtu })
    this.#lookForFamilies()
    this.#lookForSources()
    this.#route()
    const strict = loosenReversePath(this.#sysctls, device)
    if (strict !== undefined) this.#init.report(strict)
    // From one site to another a packet leaves by the device it came from: nothing to redirect. `all` would overrule it.
    for (const scope of ['all', device]) this.#trySet(`net/ipv4/conf/${scope}/send_redirects`, 0)
    this.#forward()
  }

  #forward(): void {
    this.#set('net/ipv4/ip_forward', 1)
    if (this.#subnets.some(isOfIpv6)) this.#set('net/ipv6/conf/all/forwarding', 1)
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    const { device, ledger } = this.#init
    const restored = setDevice(this.#rtnl, ledger, device, {})
    const isChanged = this.#lookForFamilies()
    const isMoved = this.#lookForSources()
    const routes = this.#route()
    if (isChanged) this.#forward()
    return isChanged || isMoved ? restored : restored.concat(routes)
  }

  /** Whether routes name this address of this machine; the kernel does not follow when it goes. */
  isSource(address: string): boolean {
    return [...this.#sources.values()].includes(address)
  }

  /** Own subnets of a family in which this machine has no address (yet). */
  missingSources(): string[] {
    return this.#init.own.filter(({ address }) => !this.#sources.has(address.length)).map(formatPrefix)
  }

  /** Looks for them again, and sets the routes anew when one has appeared. True when none is missing any more. */
  findSources(): boolean {
    const before = this.#sources.size
    this.#lookForSources()
    if (this.#sources.size > before) this.#route()
    return this.missingSources().length === 0
  }

  setMtu(mtu: number): void {
    setMtu(this.#rtnl, this.#init.device, mtu)
  }

  /** Repeatable. */
  cleanUp(): void {
    const { device, ledger } = this.#init
    setRules(this.#rtnl, ledger, ledger.routing.rules, [])
    clearTable(this.#rtnl, ledger.routing.table)
    deleteDevice(this.#rtnl, ledger, device)
    this.#sysctls.restore()
  }

  /** True when IPv6 was turned on or off for the device since. */
  #lookForFamilies(): boolean {
    const { device, subnets, report } = this.#init
    const six = mayHaveIpv6(this.#sysctls, device)
    const now = six ? subnets : subnets.filter((subnet) => !isOfIpv6(subnet))
    if (now.length === this.#subnets.length) return false
    this.#subnets = now
    report(
      six
        ? `IPv6 is turned on for ${device}: its subnets are reached again`
        : `IPv6 is turned off for ${device} (net.ipv6.conf.all.disable_ipv6 or default.disable_ipv6): subnets of IPv6 are not reached. To have them: sysctl -w net.ipv6.conf.${device}.disable_ipv6=0`,
    )
    return true
  }

  /** True when one that was known is gone. */
  #lookForSources(): boolean {
    if (this.#init.own.length === 0) return false
    // A route cannot name an address that is not confirmed yet.
    const addresses = this.#rtnl.addresses().filter(({ tentative }) => !tentative)
    let isGone = false
    for (const [size, source] of this.#sources) {
      if (addresses.some(({ address }) => address === source)) continue
      this.#sources.delete(size)
      isGone = true
    }
    for (const { address } of addresses) {
      const parsed = parseAddress(address)
      if (!parsed.ok || this.#sources.has(parsed.value.length)) continue
      const size = parsed.value.length
      if (this.#init.own.some((own) => own.address.length === size && contains(own, parsed.value)))
        this.#sources.set(size, address)
    }
    return isGone
  }

  #route(): string[] {
    const { device, ledger } = this.#init
    const { table, rules } = ledger.routing
    const routes = this.#subnets.map((subnet) => {
      const source = this.#sources.get(subnet.address.length)
      return { to: destination(subnet), dev: device, ...(source !== undefined && { source }) }
    })
    // The table first: a rule without it would change nothing, but for a moment.
    const set = setRoutes(this.#rtnl, table, routes).map(({ to }) => `route ${to} of ${device}`)
    return set.concat(setRules(this.#rtnl, ledger, rules, this.#wantedRules()).map(describeRule))
  }

  /** Lengths beyond the room for them share the last pair of rules: there main's longer routes do not win. */
  #wantedRules(): RuleSpec[] {
    const { ledger } = this.#init
    const { table, bypass, mark, rules } = ledger.routing
    const out: RuleSpec[] = []
    for (const family of [4, 6] as const) {
      const own = this.#subnets.filter(({ address }) => address.length === (family === 4 ? 4 : 16))
      if (own.length === 0) continue
      // What carries the tunnels themselves never goes into one.
      out.push({ family, priority: bypass, mark, mask: MARK_MASK, table: MAIN_TABLE })
      const lengths = [...new Set(own.map(({ length }) => length))].sort((a, b) => b - a)
      let priority = bypass + 1
      for (const [i, length] of lengths.entries()) {
        const last = priority + 3 > rules[1] || i === lengths.length - 1
        out.push({ family, priority: priority++, table: MAIN_TABLE, suppressPrefixLength: length })
        const shortest = last ? lengths.at(-1)! : length
        out.push({
          family,
          priority: priority++,
          table,
          ...(shortest > 0 && { suppressPrefixLength: shortest - 1 }),
        })
        if (last) break
      }
    }
    return out
  }

  #set(key: string, value: number): void {
    if (this.#sysctls.get(key) !== undefined) this.#sysctls.set(key, value)
  }

  /** It goes without where settings cannot be written, as in a container. */
  #trySet(key: string, value: number): void {
    try {
      this.#set(key, value)
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
    }
  }
}

function isOfIpv6({ address }: Prefix): boolean {
  return address.length === 16
}

function destination(subnet: Prefix): string {
  if (subnet.length > 0) return formatPrefix(subnet)
  return subnet.address.length === 4 ? 'default' : 'default6'
}
