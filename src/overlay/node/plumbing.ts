/**
 * What a node makes in the kernel: the virtual interface with its virtual addresses, and a route to each virtual address of a
 * peer. The routes are in a table of their own that is looked up before others, and hold whole addresses only: of what others
 * route nothing changes but the way to those.
 */
import { formatAddress } from '../../core/address.ts'
import { type Ledger, MAIN_TABLE, MARK_MASK } from '../../linux/ledger.ts'
import { clearTable, deleteDevice, describeRule, setDevice, setRoutes, setRules } from '../../linux/own.ts'
import type { Rtnl, RuleSpec } from '../../linux/rtnetlink/types.ts'
import type { Sysctls } from '../../linux/sysctl.ts'

export class NodePlumbing {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  readonly #device: string
  readonly #ledger: Ledger
  #own: readonly Uint8Array[] = []
  #peers = new Set<string>()

  constructor(rtnl: Rtnl, sysctls: Sysctls, init: { readonly device: string; readonly ledger: Ledger }) {
    this.#rtnl = rtnl
    this.#sysctls = sysctls
    this.#device = init.device
    this.#ledger = init.ledger
  }

  /** The device is there. Repeatable. */
  apply(mtu: number): void {
    this.#setDevice(mtu)
    const filter = `net/ipv4/conf/${this.#device}/rp_filter`
    if (this.#sysctls.get(filter) !== undefined) this.#sysctls.set(filter, 2)
    this.#route()
  }

  /** The virtual addresses of this node. */
  setOwn(addresses: readonly Uint8Array[]): void {
    this.#own = addresses
    this.#setDevice()
    this.#route()
  }

  /** The virtual addresses of all peers. */
  setPeers(addresses: readonly Uint8Array[]): void {
    this.#peers = new Set(addresses.map(formatAddress))
    this.#route()
  }

  setMtu(mtu: number): void {
    if (this.#rtnl.link(this.#device)?.mtu !== mtu) this.#rtnl.setLink(this.#device, { mtu })
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    return [...this.#setDevice(), ...this.#route()]
  }

  /** Repeatable. */
  cleanUp(): void {
    setRules(this.#rtnl, this.#ledger, this.#ledger.overlay.rules, [])
    clearTable(this.#rtnl, this.#ledger.overlay.table)
    deleteDevice(this.#rtnl, this.#ledger, this.#device)
    this.#sysctls.restore()
  }

  #setDevice(mtu?: number): string[] {
    return setDevice(this.#rtnl, this.#ledger, this.#device, {
      ...(mtu !== undefined && { mtu }),
      addresses: this.#own.map((address) => `${formatAddress(address)}/${8 * address.length}`),
    })
  }

  #route(): string[] {
    const { table, rules } = this.#ledger.overlay
    // A route names this node's own address as source: what goes to a peer comes from where the peer expects it.
    const routes = [...this.#peers].flatMap((text) => {
      const size = text.includes(':') ? 16 : 4
      const source = this.#own.find(({ length }) => length === size)
      return source === undefined
        ? []
        : [{ to: `${text}/${8 * size}`, dev: this.#device, source: formatAddress(source) }]
    })
    const set = setRoutes(this.#rtnl, table, routes).map(({ to }) => `route ${to} of ${this.#device}`)
    return set.concat(setRules(this.#rtnl, this.#ledger, rules, this.#wantedRules()).map(describeRule))
  }

  #wantedRules(): RuleSpec[] {
    const { table, bypass, peers, mark } = this.#ledger.overlay
    return ([4, 6] as const).flatMap((family) => [
      // What carries the tunnels themselves never goes into one.
      { family, priority: bypass, mark, mask: MARK_MASK, table: MAIN_TABLE },
      { family, priority: peers, table },
    ])
  }
}
