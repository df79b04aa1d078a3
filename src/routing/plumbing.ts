/**
 * What a router makes in the kernel: the tunnel device, routes to the subnets behind its peers, and forwarding.
 *
 * The routes name an address of the gateway in its own subnets as source, so that what the gateway itself says to the
 * other site (ICMP: too big, time exceeded, unreachable) comes from a source that the other end takes.
 */
import { ROUTE_PROTOCOL } from '../access/index.ts'
import { contains, formatPrefix, type Prefix, parseAddress } from '../core/address.ts'
import type { Rtnl } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'

export interface RouterPlumbingInit {
  readonly device: string
  /** Behind the peers. */
  readonly subnets: readonly Prefix[]
  /** Behind this gateway; empty: not said. */
  readonly own: readonly Prefix[]
}

export class RouterPlumbing {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  readonly #init: RouterPlumbingInit
  /** By length of an address, 4 or 16. */
  readonly #sources = new Map<number, string>()

  constructor(rtnl: Rtnl, sysctls: Sysctls, init: RouterPlumbingInit) {
    this.#rtnl = rtnl
    this.#sysctls = sysctls
    this.#init = init
  }

  /** The device is there: up, routes to the subnets, forwarding on. Repeatable. */
  apply(mtu: number): void {
    const { device, subnets } = this.#init
    this.#rtnl.setLink(device, { mtu, up: true })
    this.#lookForSources()
    this.#route()
    this.#set(`net/ipv4/conf/${device}/rp_filter`, 2)
    // From one site to another a packet leaves by the device it came from: nothing to redirect. `all` would overrule it.
    for (const scope of ['all', device]) this.#set(`net/ipv4/conf/${scope}/send_redirects`, 0)
    this.#set('net/ipv4/ip_forward', 1)
    if (subnets.some(({ address }) => address.length === 16)) this.#set('net/ipv6/conf/all/forwarding', 1)
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
    if (this.#rtnl.link(this.#init.device)?.mtu !== mtu) this.#rtnl.setLink(this.#init.device, { mtu })
  }

  /** Routes go with the device. Repeatable. */
  cleanUp(): void {
    this.#rtnl.deleteLink(this.#init.device)
    this.#sysctls.restore()
  }

  #lookForSources(): void {
    if (this.#init.own.length === 0) return
    for (const { address, tentative } of this.#rtnl.addresses()) {
      // A route cannot name an address that is not confirmed yet.
      if (tentative) continue
      const parsed = parseAddress(address)
      if (!parsed.ok || this.#sources.has(parsed.value.length)) continue
      const size = parsed.value.length
      if (this.#init.own.some((own) => own.address.length === size && contains(own, parsed.value)))
        this.#sources.set(size, address)
    }
  }

  #route(): void {
    const { device, subnets } = this.#init
    for (const subnet of subnets) {
      const source = this.#sources.get(subnet.address.length)
      this.#rtnl.replaceRoute({
        to: destination(subnet),
        dev: device,
        protocol: ROUTE_PROTOCOL,
        ...(source !== undefined && { source }),
      })
    }
  }

  #set(key: string, value: number): void {
    if (this.#sysctls.get(key) !== undefined) this.#sysctls.set(key, value)
  }
}

function destination(subnet: Prefix): string {
  if (subnet.length > 0) return formatPrefix(subnet)
  return subnet.address.length === 4 ? 'default' : 'default6'
}
