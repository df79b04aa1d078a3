/**
 * Whether another program needs this machine to forward packets. dockerd, libvirt and LXD turn forwarding on when they start if
 * it is off, and never look again: who turned it on before them must not turn it off while their containers and machines run.
 * What all of them have is a rule that masquerades.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { NetlinkMessage, NLM_F_DUMP, readAttributes } from './netlink.ts'
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink-socket.ts'
import { inNamespace } from './netns.ts'
import { findProgram } from './packages.ts'

/** Linux, include/uapi/linux/netfilter/nf_tables.h */
const GET_RULES = (10 << 8) | 7
const RULE_TABLE = 1
const RULE_EXPRESSIONS = 4
const FAMILIES = { 4: [1, 2], 6: [1, 10] } as const
/** Of nft and of iptables: names of an expression and of a target, as they stand in the kernel's rules. */
const MASQUERADES = ['masq\0', 'MASQUERADE\0']

/** Who, if the setting would be turned off; undefined where nobody is known. `own`: the name of a table, and the beginning of those of its owner. */
export function whoForwards(key: string, value: string, own: string, netns?: string): string | undefined {
  const family = /ip_forward$/.test(key) ? 4 : /ipv6.*forwarding$/.test(key) ? 6 : undefined
  if (value !== '0' || family === undefined) return undefined
  return tableOf(family, own, netns) ?? legacy(family, netns)
}

function tableOf(family: 4 | 6, own: string, netns: string | undefined): string | undefined {
  const socket = new NetlinkSocket(NETLINK_NETFILTER, netns)
  try {
    const request = new NetlinkMessage(GET_RULES, NLM_F_DUMP).u8(0).u8(0).be16(0)
    for (const { body } of socket.dump(request, 'list the rules of packet filters')) {
      if (!FAMILIES[family].some((each) => each === body[0])) continue
      const attributes = new Map(readAttributes(body, 4))
      const name = Buffer.from(attributes.get(RULE_TABLE) ?? [])
        .toString('latin1')
        .replace(/\0.*$/s, '')
      const expressions = Buffer.from(attributes.get(RULE_EXPRESSIONS) ?? [])
      if (name === own || name.startsWith(`${own}_`)) continue
      if (MASQUERADES.some((each) => expressions.includes(each))) return `table ${name}`
    }
    return undefined
  } catch {
    return undefined // a kernel without nf_tables
  } finally {
    socket.close()
  }
}

/** Rules of the legacy iptables, which nf_tables does not show. */
function legacy(family: 4 | 6, netns: string | undefined): string | undefined {
  const prefix = family === 4 ? 'ip' : 'ip6'
  return inNamespace(netns, () => {
    try {
      if (!readFileSync(`/proc/thread-self/net/${prefix}_tables_names`, 'utf8').split('\n').includes('nat'))
        return undefined
    } catch {
      return undefined
    }
    const save = findProgram(`${prefix}tables-legacy-save`) ?? findProgram(`${prefix}tables-save`)
    const rules = save && spawnSync(save, ['-t', 'nat'], { encoding: 'utf8' }).stdout
    return rules?.includes('MASQUERADE') ? `${prefix}tables-legacy` : undefined
  })
}
