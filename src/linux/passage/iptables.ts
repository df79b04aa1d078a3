/**
 * Rules as `iptables-save` prints them, of both kinds of iptables: the nf_tables one, whose tables others read with the
 * same program and must go on reading, and the legacy one, which nft does not see.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { formatPrefix, parsePrefix } from '../../core/address.ts'
import { inNamespace } from '../netns.ts'
import { findProgram } from '../packages.ts'
import {
  type Accept,
  type FilterChain,
  type FilterRule,
  type ForwardChain,
  isFrom,
  namedAs,
  type ProbePacket,
  type Verdict,
} from './chains.ts'

export type IptablesKind = 'nft' | 'legacy'

/** Programs of one kind and family. */
export interface Iptables {
  readonly kind: IptablesKind
  readonly family: 4 | 6
  /** `iptables`, `ip6tables-legacy` … */
  readonly program: string
  readonly save: string
}

/** Those of a kind that are installed; `iptables` itself is either. */
export function findIptables(kind: IptablesKind, family: 4 | 6): Iptables | undefined {
  const base = family === 4 ? 'iptables' : 'ip6tables'
  const named = findProgram(`${base}-${kind}`)
  const save = findProgram(`${base}-${kind}-save`)
  if (named !== undefined && save !== undefined) return { kind, family, program: named, save }
  const plain = findProgram(base)
  const plainSave = findProgram(`${base}-save`)
  if (plain === undefined || plainSave === undefined) return undefined
  // Before 1.8 there was one kind, and its version does not name it.
  const version = spawnSync(plain, ['--version'], { encoding: 'utf8' }).stdout ?? ''
  const isNft = version.includes('nf_tables')
  return isNft === (kind === 'nft') ? { kind, family, program: plain, save: plainSave } : undefined
}

/** Whether somebody uses the legacy kind here; listing its tables would make them. */
export function legacyInUse(netns: string | undefined, family: 4 | 6): boolean {
  const file = `/proc/thread-self/net/${family === 4 ? 'ip' : 'ip6'}_tables_names`
  try {
    return inNamespace(netns, () => readFileSync(file, 'utf8'))
      .split('\n')
      .includes('filter')
  } catch {
    return false
  }
}

/** FORWARD of the filter table; undefined where there is none, or it holds what iptables cannot print. */
export function readForward(tool: Iptables, netns: string | undefined): ForwardChain | undefined {
  const { status, stdout } = run(tool.save, ['-t', 'filter'], netns)
  return status === 0 ? parseForward(stdout) : undefined
}

/** Puts an accept before rule number `at` (from 0), or at the end. Returns the program's complaint. */
export function insertAccept(
  tool: Iptables,
  netns: string | undefined,
  at: number | undefined,
  accept: Accept,
  comment: string,
): string | undefined {
  const { status, stderr } = run(tool.program, acceptArguments(at, accept, comment), netns)
  return status === 0 ? undefined : stderr.trim() || `${tool.program} ended with status ${status}`
}

export function acceptArguments(at: number | undefined, accept: Accept, comment: string): string[] {
  const { iif, oif, state, source } = accept
  const place = at === undefined ? ['-A', 'FORWARD'] : ['-I', 'FORWARD', String(at + 1)]
  return [
    '-w',
    ...place,
    ...(source === undefined ? [] : ['-s', formatPrefix(source)]),
    ...(iif === undefined ? [] : ['-i', iif]),
    ...(oif === undefined ? [] : ['-o', oif]),
    ...(state === undefined
      ? []
      : ['-m', 'conntrack', '--ctstate', state === 'dnat' ? 'DNAT' : 'RELATED,ESTABLISHED']),
    ...['-m', 'comment', '--comment', comment, '-j', 'ACCEPT'],
  ]
}

/** Deletes the rule, which is named by its own text. */
export function deleteRule(tool: Iptables, netns: string | undefined, handle: string): void {
  run(tool.program, ['-w', '-D', ...words(handle)], netns)
}

function run(program: string, args: readonly string[], netns: string | undefined) {
  const { status, stdout, stderr } = inNamespace(netns, () =>
    spawnSync(program, [...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    }),
  )
  return { status, stdout: stdout ?? '', stderr: stderr ?? '' }
}

/** FORWARD in what `iptables-save` prints of the filter table. */
export function parseForward(text: string): ForwardChain | undefined {
  const chains = new Map<string, { policy: 'accept' | 'drop'; rules: FilterRule[] }>()
  for (const line of text.split('\n')) {
    if (line.startsWith(':')) {
      const [name, policy] = line.slice(1).split(' ')
      chains.set(name!, { policy: policy === 'DROP' ? 'drop' : 'accept', rules: [] })
    } else if (line.startsWith('-A ')) {
      const handle = line.slice(3)
      const parts = words(handle)
      chains.get(parts[0]!)?.rules.push(readRule(parts.slice(1), handle))
    }
  }
  const forward = chains.get('FORWARD')
  if (forward === undefined) return undefined
  const others: ReadonlyMap<string, FilterChain> = chains
  return { ...forward, others }
}

/** Splits as a shell would; `iptables-save` quotes with `"` and escapes with `\`. */
export function words(line: string): string[] {
  const out: string[] = []
  for (const match of line.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g))
    out.push(match[1] === undefined ? match[2]! : match[1].replaceAll(/\\(.)/g, '$1'))
  return out
}

type Test = (packet: ProbePacket) => boolean | undefined

/** Options without effect of their own: options of the protocol or module follow. */
const MODULES = new Set(['conntrack', 'state', 'comment'])

function readRule(parts: readonly string[], handle: string): FilterRule {
  const tests: Test[] = []
  let comment: string | undefined
  let verdict: Verdict = 'continue'
  let i = 0
  const value = () => parts[++i] ?? ''
  for (; i < parts.length; i++) {
    const inverted = parts[i] === '!'
    if (inverted) i++
    const test = (yes: Test) =>
      tests.push((packet) => {
        const holds = yes(packet)
        return holds === undefined ? undefined : holds !== inverted
      })
    switch (parts[i]) {
      case '-i': {
        const name = value()
        test(({ iif }) => namedAs(name, iif, '+'))
        break
      }
      case '-o': {
        const name = value()
        test(({ oif }) => namedAs(name, oif, '+'))
        break
      }
      case '-s': {
        const prefix = parsePrefix(value())
        test((packet) => (prefix.ok ? isFrom(packet, prefix.value) : undefined))
        break
      }
      case '--ctstate':
      case '--state': {
        const states = value().toLowerCase().split(',')
        test((packet) => packet.states.some((state) => states.includes(state)))
        break
      }
      case '-m':
        if (!MODULES.has(value())) tests.push(() => undefined)
        break
      case '--comment':
        comment = value()
        break
      case '-j':
      case '-g':
        verdict = verdictOf(parts[i] === '-j', value())
        // The rest are options of the target.
        i = parts.length
        break
      default:
        tests.push(() => undefined)
    }
  }
  return {
    comment,
    handle,
    apply: (packet) => (tests.every((test) => test(packet) === true) ? verdict : 'continue'),
  }
}

/** Targets that end the packet; others that are no chains do nothing to it. */
function verdictOf(jump: boolean, target: string): Verdict {
  switch (target) {
    case 'ACCEPT':
      return 'accept'
    case 'DROP':
    case 'REJECT':
      return 'drop'
    case 'RETURN':
      return 'return'
    default:
      return { chain: target, back: jump }
  }
}
