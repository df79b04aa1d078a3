/** `join`, `leave`, `rekey`, `ping`. */
import { createInterface } from 'node:readline'
import { GodwitError, usageError } from '../../core/errors.ts'
import type { WayStatus } from '../../core/mechanism.ts'
import { printable } from '../../core/printable.ts'
import { descriptorOf, loadConfigOf } from '../../host/configuration/plan.ts'
import { ControlClient } from '../../host/control/client.ts'
import {
  type Joined,
  join as joinAnchor,
  joinWireguard,
  leave as leaveAnchor,
} from '../../host/provisioning/anchoring.ts'
import { checkInvitation, listAccesses, tryWays } from '../../host/provisioning/ways.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { EXIT } from '../errors.ts'
import { printJson, printLines, showMs, table, waitedFor, wrap } from '../output.ts'

export async function join(
  invitation: string | undefined,
  options: CommonOptions & { readonly wg?: string },
): Promise<void> {
  const state = new State(options)
  if ((invitation === undefined) === (options.wg === undefined)) {
    throw usageError('give an invitation or --wg FILE', {
      hint: '`godwit anchor invite NAME`, on the anchor, prints one; `godwit join -` reads it from standard input',
    })
  }
  let doubt: string | undefined
  let joined: Joined
  if (options.wg !== undefined) joined = joinWireguard(state, options.wg)
  else {
    const text = invitation === '-' ? await firstLine() : invitation!
    doubt = await waitedFor('asking the anchor for an answer', checkInvitation(text))
    joined = joinAnchor(state, text, Date.now())
  }
  if (options.json) {
    printJson({ ...joined, ...(doubt !== undefined && { warning: doubt }) })
    return
  }
  if (doubt !== undefined)
    process.stderr.write(`godwit: warning: ${printable(doubt)}; joined all the same, up keeps trying\n`)
  const flag = options.state === undefined ? '' : ` --state ${options.state}`
  printLines([
    `joined ${joined.peer} as ${joined.addresses.join(', ')}; wrote ${joined.config}`,
    ...(joined.dns === undefined
      ? []
      : [`its name servers are not used unless you set, under [host]: dns = ${JSON.stringify(joined.dns)}`]),
    `next: sudo godwit up${flag}`,
  ])
}

export async function leave(name: string | undefined, options: CommonOptions): Promise<void> {
  const state = new State(options)
  if (state.busy())
    throw new GodwitError('STATE_BUSY', `godwit runs on ${state.folder}`, {
      hint: 'stop it first (Ctrl-C, or sudo systemctl stop godwit), then leave',
    })
  const left = leaveAnchor(state, name)
  if (options.json) printJson(left)
  else
    printLines([
      `left ${left.peer}; ${left.removed ? `removed ${left.config} and the host's key` : `changed ${left.config}`}`,
      left.stock
        ? 'the WireGuard server still knows this host; to remove it there: delete its [Peer]'
        : 'the anchor still knows this host; to remove it there: sudo godwit anchor remove NAME',
      ...(left.kept === undefined
        ? []
        : [`${left.kept} stays: other hosts may know this one by that key (godwit dime key)`]),
    ])
}

/** How long to wait for the anchors to confirm. */
const REKEY_WAIT_MS = 15_000

export async function rekey(options: CommonOptions): Promise<void> {
  const asked = new ControlClient(new State(options).socket).post<{
    readonly public_key: string
    readonly peers: readonly { readonly name: string; readonly state: 'done' | 'waiting' }[]
  }>('/v1/host/rekey', { wait_ms: REKEY_WAIT_MS })
  const { public_key, peers } = await waitedFor('waiting for the anchors to take the new key', asked)
  if (options.json) {
    printJson({ public_key, peers })
    return
  }
  const waiting = peers.filter(({ state }) => state === 'waiting').map(({ name }) => name)
  const [done, later] = [
    `the public key of this host is now ${public_key}; the old key is deleted`,
    `the new public key of this host: ${public_key}; the old key stays in use until these have the new one: ${waiting.join(', ')}`,
  ]
  printLines(
    waiting.length === 0 ? [done] : [later, 'godwit keeps offering it to them whenever they can be reached'],
  )
}

async function waysOf(state: State): Promise<readonly WayStatus[]> {
  if (!state.busy()) return tryWays(state, loadConfigOf(descriptorOf('host'), state, { whole: true }))
  return (await new ControlClient(state.socket).get<{ ways: readonly WayStatus[] }>('/v1/ping')).ways
}

export async function ping(peer: string | undefined, options: CommonOptions): Promise<void> {
  const state = new State(options)
  const ways = await waitedFor('testing the way to each anchor over each access', waysOf(state))
  const found = peer === undefined ? ways : ways.filter((way) => way.peer === peer)
  if (peer !== undefined && found.length === 0) {
    const names = [...new Set(ways.map((way) => way.peer))].join(', ')
    throw usageError(`there is no peer ${peer}`, { hint: `peers: ${names || 'none'}` })
  }
  if (options.json) printJson({ ways: found })
  else if (found.length === 0) printLines(noAccesses(state))
  else printLines(wayTable(found))
  if (!found.some(({ ok }) => ok)) process.exitCode = EXIT.failed
}

/** That there is no access, and what each interface lacks. */
function noAccesses(state: State): string[] {
  const { unused } = listAccesses(loadConfigOf(descriptorOf('host'), state, { whole: true }))
  const why = unused.flatMap(({ name, reason }) => wrap(`${name} is not used: ${reason}`, '  '))
  return ['no access network: no interface has an address and a default route', ...why]
}

function wayTable(ways: readonly WayStatus[]): string[] {
  const rows = ways.map(({ peer, access, remote, ok, rtt_ms, mtu }) => [
    peer,
    access,
    remote,
    ok ? 'works' : 'fails',
    showMs(rtt_ms),
    mtu === null ? '-' : String(mtu),
  ])
  const failures = ways.flatMap(({ access, remote, reason }) =>
    reason === undefined ? [] : wrap(`${access} to ${remote}: ${reason}`, '  '),
  )
  return [...table(['PEER', 'ACCESS', 'REMOTE', 'STATE', 'RTT', 'MTU'], rows), ...failures]
}

/** The first non-empty line of standard input. */
async function firstLine(): Promise<string> {
  if (process.stdin.isTTY) process.stderr.write('paste the invitation and press Enter: ')
  for await (const line of createInterface({ input: process.stdin, terminal: false })) {
    if (line.trim() !== '') return line
  }
  throw usageError('there is no invitation on standard input')
}
