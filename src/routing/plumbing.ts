/** What a router makes in the kernel: the tunnel device, routes to the subnets behind its peers, and forwarding. */
import { ROUTE_PROTOCOL } from '../access/index.ts'
import { formatPrefix } from '../core/address.ts'
import type { Rtnl } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import type { PlainPrefix } from './protocol.ts'

export interface RouterPlumbingInit {
  readonly device: string
  readonly subnets: readonly PlainPrefix[]
}

export class RouterPlumbing {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  readonly #init: RouterPlumbingInit

  constructor(rtnl: Rtnl, sysctls: Sysctls, init: RouterPlumbingInit) {
    this.#rtnl = rtnl
    this.#sysctls = sysctls
    this.#init = init
  }

  /** The device is there: up, routes to the subnets, forwarding on. Repeatable. */
  apply(mtu: number): void {
    const { device, subnets } = this.#init
    this.#rtnl.setLink(device, { mtu, up: true })
    for (const subnet of subnets) {
      const route = { to: destination(subnet), dev: device, protocol: ROUTE_PROTOCOL }
      this.#rtnl.replaceRoute(route)
    }
    this.#set(`net/ipv4/conf/${device}/rp_filter`, 2)
    this.#set('net/ipv4/ip_forward', 1)
    if (subnets.some(({ address }) => address.length === 16)) this.#set('net/ipv6/conf/all/forwarding', 1)
  }

  setMtu(mtu: number): void {
    if (this.#rtnl.link(this.#init.device)?.mtu !== mtu) this.#rtnl.setLink(this.#init.device, { mtu })
  }

  /** Routes go with the device. Repeatable. */
  cleanUp(): void {
    this.#rtnl.deleteLink(this.#init.device)
    this.#sysctls.restore()
  }

  #set(key: string, value: number): void {
    if (this.#sysctls.get(key) !== undefined) this.#sysctls.set(key, value)
  }
}

function destination(subnet: PlainPrefix): string {
  if (subnet.length > 0) return formatPrefix(subnet)
  return subnet.address.length === 4 ? 'default' : 'default6'
}
