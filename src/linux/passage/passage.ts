/**
 * Lets packets of our device pass the filters of other programs. Where a base chain of the forward hook would drop them
 * (Docker and ufw set the policy of FORWARD to drop, firewalld rejects at its end), accept rules with our comment are
 * inserted directly before the rule that drops, so that an administrator's earlier drops still apply. They are inserted
 * again after the other program has flushed its chain, and removed at the end, also by the clean-up after a kill.
 *
 * A chain that cannot be changed (a table with an owner) is reported with the command that changes it.
 */
import { MAIN_TABLE } from '../ledger.ts'
import { watchNftables } from '../nf-watch.ts'
import type { Nft } from '../nft.ts'
import type { Rtnl } from '../rtnetlink/types.ts'
import {
  type Accept,
  concernsFamily,
  droppedAt,
  type FilterRule,
  type ForwardChain,
  probeOf,
} from './chains.ts'
import {
  acceptArguments,
  deleteRule,
  findIptables,
  type Iptables,
  insertAccept,
  legacyInUse,
  readForward,
} from './iptables.ts'
import { acceptScript, forwardChainsIn, type NftForwardChain, readNftChain } from './nft-chains.ts'

export interface PassageParts {
  /** Undefined where nft is not installed: only iptables is looked at. */
  readonly nft: Pick<Nft, 'chains' | 'listRules' | 'run'> | undefined
  /** Tells the device at the other end: that of the default route. */
  readonly rtnl: Pick<Rtnl, 'routes'>
  readonly report: (message: string) => void
  /** Default: the thread's own. */
  readonly netns?: string
}

export interface PassageInit {
  /** The comment by which rules are known as ours. */
  readonly comment: string
  /** What has to pass. */
  readonly accepts: readonly Accept[]
  /** False: what would drop is only said. */
  readonly change: boolean
}

/** A chain that drops what should pass. */
export interface Obstacle {
  /** As its own program would name it. */
  readonly chain: string
  /** Why: its policy, or a rule at its end. */
  readonly because: string
  /** Commands for a shell. */
  readonly mend: string
}

/** The legacy kind has no events: it is looked at this often (ms). */
const LEGACY_INTERVAL_MS = 5_000

export class Passage {
  readonly #parts: PassageParts
  readonly #init: PassageInit
  readonly #said = new Set<string>()

  constructor(parts: PassageParts, init: PassageInit) {
    this.#parts = parts
    this.#init = init
  }

  /** Puts in what is missing, and names it; repeatable. What cannot be mended is reported once. */
  restore(): string[] {
    const restored: string[] = []
    for (const chain of this.#chains()) {
      const missing = this.#missing(chain)
      if (missing.length === 0) continue
      const fault = this.#init.change ? chain.insert(missing, this.#init.comment) : NOT_ASKED
      if (fault === undefined) {
        restored.push(`accepts in ${chain.label}`)
        this.#once(
          `${chain.label} in`,
          `${chain.label} (${because(chain, missing)}) would drop forwarded packets: godwit inserted accept rules before that, until it stops`,
        )
      } else {
        const { mend } = this.#obstacle(chain, missing)
        const why = fault === NOT_ASKED ? '' : `, and cannot be changed (${fault})`
        this.#once(
          `${chain.label} out`,
          `${chain.label} (${because(chain, missing)}) drops forwarded packets${why}; to allow them: ${mend}`,
        )
      }
    }
    return restored
  }

  /** What drops now; looks only. */
  obstacles(): Obstacle[] {
    return this.#chains().flatMap((chain) => {
      const missing = this.#missing(chain)
      return missing.length === 0 ? [] : [this.#obstacle(chain, missing)]
    })
  }

  /** Takes all of ours out, whoever put it in. */
  cleanUp(): void {
    for (const chain of this.#chains())
      for (const list of [
        chain.forward.rules,
        ...[...chain.forward.others.values()].map(({ rules }) => rules),
      ])
        for (const rule of list) if (rule.comment === this.#init.comment) chain.remove(rule)
  }

  /** Calls back when rules may have changed; the returned function ends it. */
  watch(changed: () => void): () => void {
    const { netns } = this.#parts
    const end = watchNftables(netns, changed)
    const timer = setInterval(() => {
      if (legacyInUse(netns, 4) || legacyInUse(netns, 6)) changed()
    }, LEGACY_INTERVAL_MS)
    timer.unref()
    return () => {
      end()
      clearInterval(timer)
    }
  }

  #once(key: string, message: string): void {
    if (this.#said.has(key)) return
    this.#said.add(key)
    this.#parts.report(message)
  }

  /** Accepts that the chain needs, the last place first, so that the numbers of the others hold. */
  #missing({ forward, families }: Chain): Missing[] {
    const out: Missing[] = []
    for (const accept of this.#init.accepts) {
      let at: number | undefined
      for (const family of families) {
        if (!concernsFamily(accept, family)) continue
        const where = droppedAt(forward, probeOf(accept, family, this.#uplink(family)))
        if (where !== undefined) at = Math.min(where, at ?? where)
      }
      if (at !== undefined) out.push({ accept, at })
    }
    return out.sort((a, b) => b.at - a.at)
  }

  #uplink(family: 4 | 6): string {
    const to = family === 4 ? 'default' : 'default6'
    const found = this.#parts.rtnl
      .routes({ table: MAIN_TABLE, family })
      .find((route) => route.to === to && route.dev !== undefined)
    return found?.dev ?? ''
  }

  #obstacle(chain: Chain, missing: readonly Missing[]): Obstacle {
    return {
      chain: chain.label,
      because: because(chain, missing),
      mend: chain.mend(missing, this.#init.comment),
    }
  }

  /** Base chains of the forward hook. Tables of iptables are read and changed by iptables, else nobody else could read them. */
  #chains(): Chain[] {
    const { nft, netns } = this.#parts
    const names = nft === undefined ? undefined : forwardChainsIn(nft.chains())
    const out: Chain[] = []
    const add = (tool: Iptables | undefined): boolean => {
      const forward = tool && readForward(tool, netns)
      if (forward !== undefined) out.push(iptablesChain(tool!, netns, forward))
      return forward !== undefined
    }
    for (const family of [4, 6] as const) {
      if (legacyInUse(netns, family)) add(findIptables('legacy', family))
      // Without nft it is not known whether there is a table; asking makes none.
      if (names === undefined) add(findIptables('nft', family))
    }
    for (const name of names ?? []) {
      const ofIptables = name.family !== 'inet' && name.table === 'filter' && name.name === 'FORWARD'
      if (ofIptables && add(findIptables('nft', name.family === 'ip' ? 4 : 6))) continue
      const chain = readNftChain(name, nft!.listRules({ family: name.family, name: name.table }))
      if (chain !== undefined) out.push(nftChain(nft!, chain))
    }
    return out
  }
}

const NOT_ASKED = 'not asked to'

interface Missing {
  readonly accept: Accept
  /** Index of the rule that drops, or the number of rules for the policy. */
  readonly at: number
}

/** A base chain, and how it is changed. */
interface Chain {
  readonly label: string
  readonly families: readonly (4 | 6)[]
  readonly forward: ForwardChain
  /** The complaint of whoever refused. */
  insert(missing: readonly Missing[], comment: string): string | undefined
  remove(rule: FilterRule): void
  mend(missing: readonly Missing[], comment: string): string
}

function because({ forward }: Chain, missing: readonly Missing[]): string {
  return missing.some(({ at }) => at === forward.rules.length) ? 'policy drop' : `rule ${missing[0]!.at + 1}`
}

function iptablesChain(tool: Iptables, netns: string | undefined, forward: ForwardChain): Chain {
  const place = (at: number) => (at === forward.rules.length ? undefined : at)
  return {
    label: `${tool.program.split('/').at(-1)} FORWARD`,
    families: [tool.family],
    forward,
    insert: (missing, comment) => {
      for (const { at, accept } of missing) {
        const fault = insertAccept(tool, netns, place(at), accept, comment)
        if (fault !== undefined) return fault
      }
      return undefined
    },
    remove: ({ handle }) => deleteRule(tool, netns, handle),
    mend: (missing, comment) =>
      missing
        .map(({ at, accept }) =>
          ['sudo', tool.program.split('/').at(-1)!, ...acceptArguments(place(at), accept, comment)]
            .map((word) => (/^[\w./:,-]+$/.test(word) ? word : `'${word}'`))
            .join(' '),
        )
        .join('; '),
  }
}

function nftChain(nft: Pick<Nft, 'run'>, chain: NftForwardChain): Chain {
  const { family, table, name } = chain
  const script = (missing: readonly Missing[], comment: string) =>
    missing.map(({ at, accept }) => acceptScript(chain, chain.rules[at]?.handle, accept, comment)).join('')
  return {
    label: `nft chain ${family} ${table} ${name}`,
    families: family === 'inet' ? [4, 6] : [family === 'ip' ? 4 : 6],
    forward: chain,
    insert: (missing, comment) => {
      try {
        nft.run(script(missing, comment))
        return undefined
      } catch (error) {
        return (error as Error).message
      }
    },
    remove: ({ handle }) => {
      try {
        nft.run(`delete rule ${family} ${table} ${name} handle ${handle}\n`)
      } catch {
        // Gone in between.
      }
    },
    mend: (missing, comment) => {
      const devices = new Set(missing.flatMap(({ accept: { iif, oif } }) => iif ?? oif ?? []))
      if (table === 'firewalld')
        return [...devices]
          .map((device) => `sudo firewall-cmd --zone=trusted --add-interface=${device}`)
          .concat('sudo firewall-cmd --runtime-to-permanent')
          .join(' && ')
      return script(missing, comment)
        .trim()
        .split('\n')
        .map((line) => `sudo nft '${line}'`)
        .join('; ')
    },
  }
}
