/**
 * nftables through the `nft` program: whole tables at a time, written in its own language because that is what people
 * read (`nft list ruleset`), read back as JSON. Each call is one transaction: all of it or nothing. A call costs a
 * process (5–10 ms); what changes at the rate of packets or by the thousand belongs into nf_tables' netlink.
 */
import { spawnSync } from 'node:child_process'
import { writeSync } from 'node:fs'
import { GodwitError, missingError } from '../core/errors.ts'
import { check, closeFd, declare } from './libc.ts'
import { inNamespace } from './netns.ts'
import { findProgram, installHint } from './packages.ts'

const memfdCreate = declare<(name: string, flags: number) => number>(
  'int memfd_create(const char *name, unsigned int flags)',
)
const MFD_CLOEXEC = 1

export type NftFamily = 'ip' | 'ip6' | 'inet' | 'netdev' | 'bridge' | 'arp'

export interface NftTableName {
  readonly family: NftFamily
  readonly name: string
}

export interface NftSetName {
  readonly family: NftFamily
  readonly table: string
  /** Of a set or a map. */
  readonly set: string
}

/** One object as `nft -j` prints it (libnftables-json(5)): a key such as `rule` or `set`, and its description. */
export type NftObject = Readonly<Record<string, Readonly<Record<string, unknown>>>>

/** The packet filter of one namespace. */
export interface Nftables {
  /** Makes the table exist with exactly this body (nft language: chains, sets, maps), in one transaction. */
  replaceTable(table: NftTableName, body: string): void
  /** False when there was no such table. */
  deleteTable(table: NftTableName): boolean
  tables(): NftTableName[]
  /** Everything in a table; undefined when there is none. */
  listTable(table: NftTableName): NftObject[] | undefined
  /** Elements in nft's words: `192.0.2.1`, `10.0.0.0/8`, `192.0.2.1 . 80 : 10.0.0.1`. Present ones are no error. */
  addElements(set: NftSetName, elements: readonly string[]): void
  /** All or none: false, and nothing deleted, when one is not there. */
  deleteElements(set: NftSetName, elements: readonly string[]): boolean
}

/** How values are printed: `2` or `established`. */
const BY_NUMBER = ['-j', '-n']
const BY_NAME = ['-j', '-t']

export class Nft implements Nftables {
  readonly #netns: string | undefined

  /** Works in the namespace (name or path), or in the thread's own. */
  constructor(netns?: string) {
    this.#netns = netns
  }

  /** Runs a script in nft's language as one transaction. Throws NFT_FAILED with nft's first complaint. */
  run(script: string): void {
    const { status, stderr } = this.#nft(['-f', '-'], script)
    if (status !== 0) throw failure('apply nftables rules', stderr, script)
  }

  replaceTable(table: NftTableName, body: string): void {
    this.run(replaceScript(table, body))
  }

  deleteTable(table: NftTableName): boolean {
    const { status, stderr } = this.#nft(['delete', 'table', table.family, table.name])
    if (status === 0) return true
    if (stderr.includes('No such file or directory')) return false
    throw failure(`delete table ${table.family} ${table.name}`, stderr)
  }

  tables(): NftTableName[] {
    const objects = this.#json(['list', 'tables'], 'list tables') ?? []
    return objects.flatMap((each) =>
      each.table === undefined
        ? []
        : [{ family: each.table.family as NftFamily, name: String(each.table.name) }],
    )
  }

  listTable(table: NftTableName): NftObject[] | undefined {
    return this.#json(['list', 'table', table.family, table.name], `list table ${table.name}`)
  }

  /** Chains of all tables. */
  chains(): NftObject[] {
    return this.#json(['list', 'chains'], 'list chains', BY_NAME) ?? []
  }

  /** Chains and rules of a table, values by name, without the contents of its sets; none when it is gone. */
  listRules(table: NftTableName): NftObject[] {
    const { family, name } = table
    return this.#json(['list', 'table', family, name], `list table ${name}`, BY_NAME) ?? []
  }

  addElements(set: NftSetName, elements: readonly string[]): void {
    if (elements.length > 0) this.run(elementsScript('add', set, elements))
  }

  deleteElements(set: NftSetName, elements: readonly string[]): boolean {
    if (elements.length === 0) return true
    const script = elementsScript('delete', set, elements)
    const { status, stderr } = this.#nft(['-f', '-'], script)
    if (status === 0) return true
    if (stderr.includes('No such file or directory') || stderr.includes('does not exist')) return false
    throw failure(`delete elements of ${set.set}`, stderr, script)
  }

  #json(args: string[], op: string, options: readonly string[] = BY_NUMBER): NftObject[] | undefined {
    const { status, stdout, stderr } = this.#nft([...options, ...args])
    if (status !== 0) {
      if (stderr.includes('No such file or directory')) return undefined
      throw failure(op, stderr)
    }
    const parsed = stdout === '' ? {} : (JSON.parse(stdout) as { nftables?: NftObject[] })
    return (parsed.nftables ?? []).filter((each) => each.metainfo === undefined)
  }

  #nft(args: string[], script?: string) {
    const program = nftProgram()
    const input = script === undefined ? undefined : memoryFile(script)
    try {
      const result = inNamespace(this.#netns, () =>
        spawnSync(program, args, {
          stdio: [input ?? 'ignore', 'pipe', 'pipe'],
          encoding: 'utf8',
          maxBuffer: 1 << 28,
        }),
      )
      if (result.error !== undefined)
        throw new GodwitError('NFT_FAILED', `cannot run ${program}`, { cause: result.error })
      return result
    } finally {
      if (input !== undefined) closeFd(input)
    }
  }
}

/** The whole of a table's replacement: the first line makes sure that there is something to delete. */
export function replaceScript(table: NftTableName, body: string): string {
  const name = `${table.family} ${table.name}`
  return `table ${name} {}\ndelete table ${name}\ntable ${name} {\n${body}\n}\n`
}

export function elementsScript(verb: 'add' | 'delete', set: NftSetName, elements: readonly string[]): string {
  return `${verb} element ${set.family} ${set.table} ${set.set} { ${elements.join(', ')} }\n`
}

/** `nft -f -` opens /dev/stdin, which a socket or pipe from Node does not allow: the script goes into memory. */
function memoryFile(text: string): number {
  const fd = check(memfdCreate('godwit-nft', MFD_CLOEXEC), 'create a file in memory')
  const bytes = new TextEncoder().encode(text)
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, at)
  return fd
}

function nftProgram(): string {
  const program = findProgram('nft')
  if (program === undefined) throw missingError('nftables is not installed', installHint(['nft']))
  return program
}

/** The version that is installed, as [major, minor, patch]; undefined when it is not. */
export function nftVersion(): readonly [number, number, number] | undefined {
  const program = findProgram('nft')
  if (program === undefined) return undefined
  const match = /v(\d+)\.(\d+)\.(\d+)/.exec(
    spawnSync(program, ['--version'], { encoding: 'utf8' }).stdout ?? '',
  )
  return match === null ? [0, 0, 0] : [Number(match[1]), Number(match[2]), Number(match[3])]
}

function failure(op: string, stderr: string, script?: string): GodwitError {
  const lines = stderr.split('\n')
  const first = lines.find((line) => line.includes('Error:')) ?? lines[0] ?? ''
  const [, line, what] = /^[^:]*:(\d+):[^:]*:\s*Error:\s*(.*)$/.exec(first) ?? []
  const text = what ?? first.replace(/^.*?Error:\s*/, '')
  const source = line === undefined ? undefined : script?.split('\n')[Number(line) - 1]?.trim().slice(0, 200)
  const message = `${op}: ${text}${source === undefined || source === '' ? '' : ` in "${source}"`}`
  if (/Operation not permitted|permission denied/i.test(stderr))
    return new GodwitError('EPERM', message, {
      op,
      hint: 'run as root, or in a user namespace (unshare -Urnm)',
    })
  const hint = hintOf(stderr)
  return new GodwitError('NFT_FAILED', message, { op, ...(hint !== undefined && { hint }) })
}

/** Before 1.0 nft does not know all that godwit's tables have. */
const LEAST_MAJOR = 1

function hintOf(stderr: string): string | undefined {
  if (/(operation|protocol) not supported/i.test(stderr))
    return 'this kernel lacks a part of nftables: sudo modprobe -a nf_tables nft_chain_nat nft_masq nft_ct; or another kernel'
  const version = nftVersion()
  if (version !== undefined && version[0] < LEAST_MAJOR)
    return `nft ${version.join('.')} is too old: 1.0 or newer is needed`
  return undefined
}
