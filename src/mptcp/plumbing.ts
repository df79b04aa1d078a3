/**
 * What the proxy makes in the kernel beside its packet rules: for each access rules that send what has its address, or its mark
 * (kernel/programs.ts), by it, and addresses that connections still have after their access lost them, kept on the loopback device so that the kernel goes
 * on sending from them.
 */

import type { AccessMonitor } from '../access/index.ts'
import { formatAddress } from '../core/address.ts'
import { EADDRNOTAVAIL, EEXIST } from '../core/errno.ts'
import { type Ledger, MARK_MASK } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import { describeRule, setRules } from '../linux/own.ts'
import type { Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import type { RememberedList } from './remembered.ts'

export class MptcpPlumbing {
  readonly #rtnl: Rtnl
  readonly #ledger: Ledger
  readonly #held: RememberedList
  #rules: readonly RuleSpec[] = []

  /** `held`: addresses on the loopback device, over restarts. */
  constructor(rtnl: Rtnl, ledger: Ledger, held: RememberedList) {
    this.#rtnl = rtnl
    this.#ledger = ledger
    this.#held = held
  }

  /** For each access that has a routing table a rule for its mark, and one for each of its addresses. */
  route(
    accesses: ReturnType<AccessMonitor['accesses']>,
    tableOf: (name: string) => number | undefined,
  ): void {
    const [first, last] = this.#ledger.mptcp.rules
    const rules: RuleSpec[] = []
    for (const { name, state } of accesses) {
      const table = tableOf(name)
      if (state === 'down' || table === undefined) continue
      const mark = this.#ledger.mptcpMark(table)
      for (const family of [4, 6] as const)
        rules.push({ family, priority: first, mark, mask: MARK_MASK, table })
    }
    const marks = rules.length
    for (const { name, state, addresses } of accesses) {
      const table = tableOf(name)
      if (state === 'down' || table === undefined) continue
      for (const { family, address } of addresses)
        rules.push({
          family,
          priority: Math.min(last, first + 1 + rules.length - marks),
          from: `${address}/${family === 4 ? 32 : 128}`,
          table,
        })
    }
    this.#rules = rules
    this.restore()
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    return setRules(this.#rtnl, this.#ledger, this.#ledger.mptcp.rules, this.#rules).map(describeRule)
  }

  /** Of the addresses that connections have, keeps those that no interface has any more. */
  hold(inUse: readonly Uint8Array[]): void {
    this.#held.save()
    const wanted = new Set(inUse.map(formatAddress))
    const elsewhere = new Set(
      this.#rtnl.addresses().flatMap(({ link, address }) => (link === 'lo' ? [] : [address])),
    )
    for (const address of [...this.#held.items])
      if (!wanted.has(address) || elsewhere.has(address)) this.#release(address)
    for (const address of wanted) {
      if (elsewhere.has(address) || this.#held.items.has(address)) continue
      this.#held.add(address)
      ignore(EEXIST, () => this.#rtnl.addAddress('lo', host(address), { noPrefixRoute: true, noDad: true }))
    }
  }

  cleanUp(): void {
    this.#rules = []
    this.restore()
    for (const address of [...this.#held.items]) this.#release(address)
  }

  #release(address: string): void {
    ignore(EADDRNOTAVAIL, () => this.#rtnl.deleteAddress('lo', host(address)))
    this.#held.delete(address)
  }
}

function host(address: string): string {
  return `${address}/${address.includes(':') ? 128 : 32}`
}

function ignore(number: number, work: () => void): void {
  try {
    work()
  } catch (error) {
    if (!(error instanceof KernelError) || error.errno !== number) throw error
  }
}
