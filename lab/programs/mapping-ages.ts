/**
 * Makes the NAT of its namespace a carrier's that ends each UDP mapping at an age, whatever flows through it: takes the
 * kernel's entry out, those that are there at first at once. The next datagram from inside gets another one, and another port where the NAT chooses it at random.
 *
 *   {"lifetimeMs": 60000}
 *   {"lifetimeMs": 60000, "keepsPort": 6741}      mappings to this port last
 *
 * Prints `{"ready": true}`, then `{"ended": N}` whenever entries were taken out.
 */
import { readFileSync } from 'node:fs'
import { parseAddress } from '../../src/core/address.ts'
import { KernelConnTracker } from '../../src/linux/conntrack.ts'
import type { SocketFlow } from '../../src/linux/sockdiag.ts'
import { argumentsOf, commands, monotonicMs, print } from './program.ts'

const LOOK_MS = 100
const UDP = 17

const { lifetimeMs, keepsPort } = argumentsOf<{ lifetimeMs: number; keepsPort?: number }>()
const tracker = new KernelConnTracker()
/** When each was first there, by its line's tuple of the first direction. */
const since = new Map<string, number>()

function look(isFirst = false): void {
  const now = monotonicMs()
  const there = new Set<string>()
  let ended = 0
  const table = readFileSync('/proc/net/nf_conntrack', 'utf8')
  for (const [tuple, ...parts] of table.matchAll(/\budp .*?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)/g)) {
    if (Number(parts[3]) === keepsPort) continue
    const key = parts.join(' ')
    there.add(key)
    const first = since.get(key) ?? (isFirst ? Number.NEGATIVE_INFINITY : now)
    since.set(key, first)
    if (now - first < lifetimeMs) continue
    since.delete(key)
    const [from, to] = [parseAddress(parts[0]!), parseAddress(parts[1]!)]
    if (!from.ok || !to.ok) throw new Error(tuple)
    const flow: SocketFlow = {
      ...{ protocol: UDP, localAddress: from.value, remoteAddress: to.value },
      ...{ localPort: Number(parts[2]), remotePort: Number(parts[3]) },
    }
    if (tracker.forget(flow)) ended++
  }
  for (const key of since.keys()) if (!there.has(key)) since.delete(key)
  if (ended > 0) print({ ended })
}

look(true)
setInterval(look, LOOK_MS)
print({ ready: true })
commands(() => {})
