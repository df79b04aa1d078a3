/**
 * The traffic of scenarios: unmodified programs that transfer files, and flows of datagrams that measure. Servers run on
 * correspondents, clients on the mobile host; none of them knows godwit.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { usesPrograms } from '../src/linux/packages.ts'
import { INSIDE } from './enter.ts'
import type { Program } from './hosts.ts'
import type { Stall } from './links/engine.ts'
import { sha256, writePayload } from './payload.ts'
import type { ScenarioContext } from './scenario.ts'
import { addressOf } from './topology.ts'

usesPrograms('curl', 'rsync')

/** A file on its way to the mobile host. */
export interface Transfer {
  readonly name: string
  readonly program: Program
  /** Whether the program ended well and every byte is as sent. */
  verify(): Promise<{ ok: boolean; value: string }>
}

function transfer(name: string, program: Program, received: string, hash: string): Transfer {
  return {
    name,
    program,
    async verify() {
      const status = await program.ended
      const arrived = await sha256(received)
      if (status !== 0)
        return {
          ok: false,
          value: `${name} ended with status ${status}: ${program.errors.split('\n').at(-1)}`,
        }
      return {
        ok: arrived === hash,
        value: arrived === hash ? `sha256 ${hash.slice(0, 16)}…` : `sha256 ${arrived} instead of ${hash}`,
      }
    },
  }
}

/** An HTTP server on `server`, port 80, with one file; `start` has curl fetch it on gw-mh. */
export async function httpDownload(
  context: ScenarioContext,
  server: string,
  bytes: number,
): Promise<{ start(): Promise<Transfer> }> {
  const root = join(context.scratch, `http-${server}`)
  mkdirSync(root, { recursive: true })
  const hash = writePayload(join(root, 'file.bin'), bytes, context.seed)
  await context.lab.programs.own(server, 'http-server', { root, port: 80 })
  const received = join(context.scratch, `curl-${server}.bin`)
  const url = `http://${addressOf(context.lab.spec, server, 'wan')}/file.bin`
  return {
    async start() {
      const args = ['--silent', '--show-error', '--fail', '--output', received, url]
      return transfer('curl', await context.lab.programs.start('mh', 'curl', args), received, hash)
    },
  }
}

/** A download by curl that lasts until it is ended; what arrives is compared with what was sent. */
export class EndlessDownload {
  readonly #server: Program
  readonly #client: Program
  /** Undefined: what arrives is not kept, and the client prints its hash. */
  readonly #received: string | undefined

  private constructor(server: Program, client: Program, received?: string) {
    this.#server = server
    this.#client = client
    this.#received = received
  }

  /** `through`: commands that start the server and curl, e.g. `mptcpize run`. `hashed`: nothing is kept on disk. */
  static async start(
    context: ScenarioContext,
    server: string,
    through: { readonly server: readonly string[]; readonly client: readonly string[] } = {
      server: [],
      client: [],
    },
    hashed = false,
  ): Promise<EndlessDownload> {
    const { programs, spec } = context.lab
    const argument = { root: context.scratch, port: 80 }
    const far = await programs.own(server, 'http-server', argument, { through: through.server })
    const received = join(context.scratch, `stream-${server}.bin`)
    const url = `http://${addressOf(spec, server, 'wan')}/stream`
    if (hashed) {
      const fetching = [...through.client, 'curl', '--silent', '--show-error', url]
      const near = await programs.start('mh', 'sh', ['-c', '"$@" | sha256sum', 'sh', ...fetching])
      return new EndlessDownload(far, near)
    }
    const curl = ['curl', '--silent', '--show-error', '--output', received, url]
    const [command, ...args] = [...through.client, ...curl]
    const near = await programs.start('mh', command!, args)
    return new EndlessDownload(far, near, received)
  }

  /** Ends it and says whether every byte arrived as sent. */
  async finish(): Promise<{ ok: boolean; value: string; bytes: number }> {
    this.#server.tell('end')
    const sent = JSON.parse(await this.#server.expect((line) => line.startsWith('{"sha256"'), 30_000)) as {
      sha256: string
      bytes: number
    }
    const status = await this.#client.ended
    await this.#server.stop()
    const arrived =
      this.#received === undefined ? (await this.#client.line())?.split(' ')[0] : await sha256(this.#received)
    const ok = status === 0 && arrived === sent.sha256
    const value = ok
      ? `${sent.bytes} bytes intact`
      : `curl ended with ${status}: ${this.#client.errors || 'bytes changed'}`
    return { ok, value, bytes: sent.bytes }
  }
}

/** An upload that lasts until it is ended; what arrives is compared with what was sent. */
export class EndlessUpload {
  readonly #server: Program
  readonly #client: Program

  private constructor(server: Program, client: Program) {
    this.#server = server
    this.#client = client
  }

  /** `through`: commands that start the server. */
  static async start(
    context: ScenarioContext,
    server: string,
    through: readonly string[] = [],
  ): Promise<EndlessUpload> {
    const { programs, spec } = context.lab
    const far = await programs.own(server, 'http-server', { root: context.scratch, port: 80 }, { through })
    const url = `http://${addressOf(spec, server, 'wan')}/sink`
    return new EndlessUpload(far, await programs.own('mh', 'stream-upload', { url }))
  }

  /** Ends it and says whether every byte arrived as sent. */
  async finish(): Promise<{ ok: boolean; value: string; bytes: number }> {
    this.#client.tell('end')
    const [sent, arrived] = await Promise.all(
      [this.#client, this.#server].map(
        async (program) =>
          JSON.parse(await program.expect((line) => line.startsWith('{"sha256"'), 60_000)) as {
            sha256: string
            bytes: number
          },
      ),
    )
    await this.#client.stop()
    await this.#server.stop()
    const ok = sent!.sha256 === arrived!.sha256
    return { ok, value: ok ? `${sent!.bytes} bytes intact` : 'bytes changed', bytes: sent!.bytes }
  }
}

/** An rsync daemon on `server` with one file; `start` has rsync fetch it on gw-mh. */
export async function rsyncDownload(
  context: ScenarioContext,
  server: string,
  bytes: number,
): Promise<{ start(): Promise<Transfer> }> {
  const root = join(context.scratch, `rsync-${server}`)
  mkdirSync(root, { recursive: true })
  const hash = writePayload(join(root, 'file.bin'), bytes, context.seed + 1)
  const config = join(context.scratch, `rsyncd-${server}.conf`)
  // It serves files of the user who runs the lab: no chroot, no change of user. In a user namespace root may not change
  // its groups, which rsync insists on: there it runs as an ordinary user.
  const rootless = process.env[INSIDE] !== undefined
  const settings = [
    'use chroot = no',
    `pid file = ${config}.pid`,
    `log file = ${config}.log`,
    '[files]',
    `path = ${root}`,
    'read only = yes',
    ...(rootless ? [] : ['uid = 0', 'gid = 0']),
  ]
  writeFileSync(config, `${settings.join('\n')}\n`)
  const [command, ...args] = [
    ...(rootless ? ['unshare', '--user', '--map-user=1000', '--map-group=1000'] : []),
    ...['rsync', '--daemon', '--no-detach', `--port=${RSYNC_PORT}`, `--config=${config}`],
  ]
  await context.lab.programs.start(server, command!, args)
  const received = join(context.scratch, `rsync-${server}.bin`)
  const url = `rsync://${addressOf(context.lab.spec, server, 'wan')}:${RSYNC_PORT}/files/file.bin`
  return {
    async start() {
      const args = ['--whole-file', '--inplace', url, received]
      return transfer('rsync', await context.lab.programs.start('mh', 'rsync', args), received, hash)
    },
  }
}

/** Not 873: an ordinary user may listen there. */
const RSYNC_PORT = 8730

/** What arrived at one end of a flow of datagrams. */
export interface Arrivals {
  /** Datagrams the other end sent. */
  readonly sent: number
  /** (sequence, monotonic milliseconds), in order of arrival. */
  readonly arrivals: readonly (readonly [number, number])[]
}

export interface DatagramReport {
  readonly up: Arrivals
  readonly down: Arrivals
}

/** Datagrams both ways between the client (gw-mh unless said) and `server` (at `host` or the interface's address), one every `intervalMs` each way. */
export class DatagramFlow {
  readonly intervalMs: number
  readonly port: number
  readonly #client: Program
  readonly #server: Program

  private constructor(client: Program, server: Program, port: number, intervalMs: number) {
    this.#client = client
    this.#server = server
    this.port = port
    this.intervalMs = intervalMs
  }

  static async start(
    context: ScenarioContext,
    server: string,
    port: number,
    intervalMs = 5,
    ends: { readonly client: string; readonly iface: string; readonly host?: string } = {
      client: 'mh',
      iface: 'wan',
    },
  ): Promise<DatagramFlow> {
    const { programs, spec } = context.lab
    const host = ends.host ?? addressOf(spec, server, ends.iface)
    const argument = { port, intervalMs, six: host.includes(':') }
    const far = await programs.own(server, 'udp-flow', { role: 'server', ...argument })
    const near = await programs.own(ends.client, 'udp-flow', { role: 'client', host, ...argument })
    return new DatagramFlow(near, far, port, intervalMs)
  }

  /** Stops sending, waits for what is under way, and returns what arrived where. */
  async finish(context: ScenarioContext): Promise<DatagramReport> {
    for (const end of [this.#client, this.#server]) end.tell('stop')
    await context.sleep(1000)
    const reports: Arrivals[] = []
    for (const end of [this.#client, this.#server]) {
      end.tell('report')
      reports.push(JSON.parse(await end.expect((line) => line.startsWith('{"sent"'), 10_000)) as Arrivals)
    }
    const [near, far] = reports as [Arrivals, Arrivals]
    return {
      up: { sent: near.sent, arrivals: far.arrivals },
      down: { sent: far.sent, arrivals: near.arrivals },
    }
  }
}

/** Losses, duplicates and disorder of one direction. */
export interface FlowFigures {
  readonly sent: number
  readonly lost: number
  readonly duplicated: number
  /** Datagrams that came after one sent later. */
  readonly reordered: number
}

export function figuresOf({ sent, arrivals }: Arrivals): FlowFigures {
  const seen = new Set<number>()
  let newest = -1
  let reordered = 0
  for (const [sequence] of arrivals) {
    if (seen.has(sequence)) continue
    seen.add(sequence)
    if (sequence < newest) reordered++
    else newest = sequence
  }
  return { sent, lost: sent - seen.size, duplicated: arrivals.length - seen.size, reordered }
}

/** A time without arrivals. Monotonic milliseconds. */
export interface Silence {
  readonly from: number
  readonly to: number
  /** Its length, less the interval at which datagrams come undisturbed. */
  readonly ms: number
}

/** The longest silence that overlaps [from, to]. A flow that never came back is silent to the end. */
export function longestSilence(
  { arrivals }: Arrivals,
  from: number,
  to: number,
  intervalMs: number,
): Silence {
  let longest: Silence = { from, to: from, ms: 0 }
  for (let index = 1; index <= arrivals.length; index++) {
    const start = arrivals[index - 1]![1]
    const end = arrivals[index]?.[1] ?? to
    const ms = end - start - intervalMs
    if (start <= to && end >= from && ms > longest.ms) longest = { from: start, to: end, ms }
  }
  return longest
}

/** Length of the longest silence that overlaps [from, to]. */
export function longestGap(way: Arrivals, from: number, to: number, intervalMs: number): number {
  return longestSilence(way, from, to, intervalMs).ms
}

/** How much of a silence the machine itself was to blame for: it ran something else than the links. */
export function stalledMs({ from, to }: Silence, stalls: readonly Stall[]): number {
  return stalls.reduce((sum, [start, end]) => sum + Math.max(0, Math.min(end, to) - Math.max(start, from)), 0)
}

/** (seconds on the scenario's clock, milliseconds since the arrival before), for plots. */
export function gapsOverTime(context: ScenarioContext, { arrivals }: Arrivals): [number, number][] {
  return arrivals.slice(1).map(([, at], index) => [context.seconds(at), at - arrivals[index]![1]])
}

/** An interactive session between gw-mh and `server`, port 22: a key every 100 ms, each echoed. */
export class Session {
  readonly port: number
  readonly #client: Program
  readonly #server: Program

  private constructor(client: Program, server: Program, port: number) {
    this.#client = client
    this.#server = server
    this.port = port
  }

  static async start(context: ScenarioContext, server: string, port = 22): Promise<Session> {
    const { programs, spec } = context.lab
    const far = await programs.own(server, 'session', { role: 'server', port })
    const host = addressOf(spec, server, 'wan')
    const near = await programs.own('mh', 'session', { role: 'client', port, host, intervalMs: 100 })
    return new Session(near, far, port)
  }

  /** `local` and `seen`: the client's address as it sees it, and as the server does. */
  async finish(): Promise<{
    keys: number
    echoes: number
    worst_ms: number
    local: string
    seen: string
    broken: boolean
  }> {
    this.#client.tell('report')
    const report = JSON.parse(await this.#client.expect((line) => line.startsWith('{"keys"'), 10_000))
    const { peer } = JSON.parse(await this.#server.expect((line) => line.startsWith('{"peer"'), 10_000))
    return { ...report, seen: peer }
  }
}
