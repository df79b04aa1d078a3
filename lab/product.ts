/**
 * godwit itself on the lab's hosts, through its command line only: what a user would type, with a state directory of its
 * own per host.
 */
import { appendFileSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GodwitError } from '../src/core/errors.ts'
import type { AccessStatus, FlowStatus, HandoverRecord, PeerStatus } from '../src/core/mechanism.ts'
import type { Program } from './hosts.ts'
import type { ScenarioContext } from './scenario.ts'
import { addressOf } from './topology.ts'

/** What bin/godwit runs once the checkout is set up, which it is when this runs. */
const GODWIT = fileURLToPath(new URL('../src/cli/main.js', import.meta.url))
const READY_MS = 20_000

/** What `status --json` prints, as far as scenarios read it. */
export interface StatusReport {
  readonly accesses: readonly AccessStatus[]
  readonly peers: readonly PeerStatus[]
  readonly flows: readonly FlowStatus[]
  readonly handovers: readonly HandoverRecord[]
}

/** One instance on one host. */
export class Godwit {
  readonly #context: Pick<ScenarioContext, 'lab' | 'out'>
  readonly role: string
  readonly state: string
  readonly log: string

  constructor(context: Pick<ScenarioContext, 'lab' | 'out'>, role: string) {
    this.#context = context
    this.role = role
    this.state = join(context.out, `state-${role}`)
    this.log = join(context.out, `${role}.log`)
    // Of an earlier run with the same folder.
    for (const path of [this.state, this.log]) rmSync(path, { recursive: true, force: true })
    mkdirSync(this.state, { recursive: true, mode: 0o700 })
  }

  /** Adds to the configuration, in TOML. */
  configure(toml: string): void {
    appendFileSync(join(this.state, 'godwit.toml'), toml)
  }

  /** Runs a command to its end and returns stdout. */
  run(...args: string[]): Promise<string> {
    const command = [GODWIT, ...args, '--state', this.state]
    const name = `godwit ${args[0]}`
    return this.#context.lab.programs.run(this.role, process.execPath, command, { name })
  }

  /** The same with a line on standard input. */
  runWith(line: string, ...args: string[]): Promise<string> {
    const typed = ['-c', 'printf "%s\\n" "$0" | exec "$@"', line]
    const command = [...typed, process.execPath, GODWIT, ...args, '--state', this.state]
    return this.#context.lab.programs.run(this.role, 'sh', command, { name: `godwit ${args[0]}` })
  }

  async json<T>(...args: string[]): Promise<T> {
    return JSON.parse(await this.run(...args, '--json')) as T
  }

  /** Starts a command that stays, and waits until it is ready. */
  daemon(...args: string[]): Promise<Program> {
    return this.daemonThrough((...words) => [words[0]!, words.slice(1)], ...args)
  }

  /** The same by another command that runs it. */
  async daemonThrough(
    through: (...words: readonly string[]) => readonly [string, string[]],
    ...args: string[]
  ): Promise<Program> {
    const words = through(process.execPath, GODWIT, ...args, '--state', this.state)
    const options = { log: this.log, name: `godwit ${args.join(' ')}` }
    const program = await this.#context.lab.programs.start(this.role, ...words, options)
    await program.expect((line: string) => line.trim() === 'ready', READY_MS)
    return program
  }
}

/** An anchor on gw-an and the mobile host's daemon on gw-mh, associated over both accesses. */
export interface AnchoredHost {
  readonly mobile: Godwit
  readonly anchor: Godwit
  readonly daemon: Program
  readonly anchorDaemon: Program
}

const PORT = 51_820

/** What the README tells a user to do, done in the lab; resolves once every access has a usable path. */
export async function setUpAnchoring(
  context: ScenarioContext,
  configure?: (mobile: Godwit) => void | Promise<void>,
): Promise<AnchoredHost> {
  const anchor = new Godwit(context, 'an')
  const mobile = new Godwit(context, 'mh')
  await anchor.run('anchor', 'init', '--endpoint', `${addressOf(context.lab.spec, 'an', 'wan')}:${PORT}`)
  const anchorDaemon = await anchor.daemon('anchor', 'up')
  const invitation = (await anchor.run('anchor', 'invite', 'mh')).trim()
  await mobile.run('join', invitation)
  await configure?.(mobile)
  const daemon = await mobile.daemon('up')
  await waitForPaths(context, mobile, ['acc1', 'acc2'])
  context.note('mobile host associated with the anchor over both accesses')
  return { mobile, anchor, daemon, anchorDaemon }
}

/** Waits until each of these accesses has a usable path to the anchor; rejects after ten seconds. */
export async function waitForPaths(
  context: ScenarioContext,
  mobile: Godwit,
  accesses: readonly string[],
): Promise<StatusReport> {
  for (let attempt = 0; ; attempt++) {
    const status = await mobile.json<StatusReport>('status')
    const usable = new Set(
      status.peers.flatMap((peer) =>
        peer.paths.filter((path) => path.state === 'up').map((path) => path.access),
      ),
    )
    if (accesses.every((access) => usable.has(access))) return status
    if (attempt === 50)
      throw new GodwitError(
        'PROGRAM_FAILED',
        `no path over ${accesses.filter((access) => !usable.has(access)).join(', ')} within ten seconds`,
      )
    await context.sleep(200)
  }
}
