/**
 * The bed of a benchmark: two hosts of the lab on links without limits (topologies.ts), so that what is measured is the
 * tunnel and not a line. TCP is CUBIC at both ends, as everywhere in the lab. `close()` ends programs and removes it all.
 */
import { type ChildProcess, execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Lab } from '../lab/build.ts'
import { addressOf, namespaceOf, type TopologySpec } from '../lab/topology.ts'
import { GodwitError } from '../src/core/errors.ts'
import { spawnIn } from '../src/linux/netns.ts'
import { Rtnetlink } from '../src/linux/rtnetlink/index.ts'
import { wire } from './topologies.ts'

const PATIENCE_MS = 15_000
const POLL_MS = 50
const LISTEN_STATE: Record<string, string> = { tcp: '0A', udp: '07' }

/** Whether a command is installed. */
export function have(command: string): boolean {
  try {
    execFileSync('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin; command -v ${command}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

export interface Program {
  readonly pid: number
  /** Everything it wrote so far, both streams. */
  output(): string
  /** To its standard input, when it was started with one. */
  write(text: string): void
  stop(): Promise<void>
}

/** One host of the bed. */
export class Host {
  readonly netns: string
  /** Its IPv4 and IPv6 address on the link. */
  readonly address: string
  readonly address6: string
  readonly #children = new Set<ChildProcess>()

  constructor(netns: string, address: string, address6: string) {
    this.netns = netns
    this.address = address
    this.address6 = address6
  }

  addressOf(family: 4 | 6): string {
    return family === 4 ? this.address : this.address6
  }

  /** Runs a program to its end; resolves with its standard output, rejects when it fails. */
  async run(command: string, args: readonly string[], input = ''): Promise<string> {
    const child = spawnIn(this.netns, command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: environment() })
    this.#children.add(child)
    let out = ''
    let err = ''
    child.stdout?.on('data', (data) => {
      out += data
    })
    child.stderr?.on('data', (data) => {
      err += data
    })
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject)
      child.on('close', resolve)
    })
    this.#children.delete(child)
    if (code !== 0) {
      throw new GodwitError(
        'BENCH_PROGRAM',
        `${command} ended with ${code}: ${(err || out).trim().slice(-400)}`,
      )
    }
    return out
  }

  /**
   * Starts a program that stays, in a session of its own as services are: the kernel may share the processor between
   * sessions (autogroup, sched(7)), and the subjects of a comparison are to stand alike.
   */
  start(
    command: string,
    args: readonly string[],
    env: Record<string, string> = {},
    input: 'ignore' | 'pipe' = 'ignore',
  ): Program {
    const child = spawnIn(this.netns, command, args, {
      detached: true,
      stdio: [input, 'pipe', 'pipe'],
      env: { ...environment(), ...env },
    })
    this.#children.add(child)
    let output = ''
    const collect = (data: Buffer) => {
      output = (output + data).slice(-20_000)
    }
    child.stdout?.on('data', collect)
    child.stderr?.on('data', collect)
    const ended = new Promise<void>((resolve) => {
      child.on('error', () => resolve())
      child.on('close', () => resolve())
    })
    return {
      pid: child.pid ?? -1,
      output: () => output,
      write: (text) => child.stdin?.write(text),
      stop: async () => {
        child.kill('SIGTERM')
        const killer = setTimeout(() => child.kill('SIGKILL'), 5_000)
        await ended
        clearTimeout(killer)
        this.#children.delete(child)
      },
    }
  }

  hasInterface(name: string): boolean {
    return this.#kernel((rtnl) => rtnl.link(name) !== undefined)
  }

  addAddress(link: string, address: string): void {
    this.#kernel((rtnl) => rtnl.addAddress(link, address))
  }

  addDefaultRoute(via: string, dev: string, metric = 0): void {
    this.#kernel((rtnl) => rtnl.addRoute({ to: 'default', via, dev, metric }))
  }

  setUp(link: string, mtu: number): void {
    this.#kernel((rtnl) => rtnl.setLink(link, { mtu, up: true }))
  }

  /** Whether a program of this host listens on the port. Reads the host's socket table through one of its processes. */
  listens(port: number, protocol: 'tcp' | 'udp' = 'tcp'): boolean {
    const child = [...this.#children].find((candidate) => candidate.pid !== undefined)
    if (child === undefined) return false
    const hex = port.toString(16).toUpperCase().padStart(4, '0')
    return ['', '6'].some((family) =>
      readFileSync(`/proc/${child.pid}/net/${protocol}${family}`, 'utf8')
        .split('\n')
        .some((line) => new RegExp(`:${hex} [0-9A-F]+:0000 ${LISTEN_STATE[protocol]}`).test(line)),
    )
  }

  /** Ends everything that is still running here. */
  async close(): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL')
    this.#children.clear()
  }

  #kernel<T>(work: (rtnl: Rtnetlink) => T): T {
    const rtnl = new Rtnetlink(this.netns)
    try {
      return work(rtnl)
    } finally {
      rtnl.close()
    }
  }
}

export class Bed {
  readonly a: Host
  readonly b: Host
  readonly lab: Lab
  /** Logs and states of daemons; removed with it. */
  readonly out: string

  private constructor(lab: Lab) {
    this.lab = lab
    this.out = lab.createScratch()
    const host = (role: string) =>
      new Host(namespaceOf(role), addressOf(lab.spec, role, 'eth0'), addressOf(lab.spec, role, 'eth0', 6))
    this.a = host('mh')
    this.b = host('an')
  }

  static async open(topology: TopologySpec = wire): Promise<Bed> {
    return new Bed(await Lab.build(topology))
  }

  /** A directory of the bed's own, removed with it. */
  directory(name: string): string {
    const path = join(this.out, name)
    mkdirSync(path, { recursive: true })
    return path
  }

  /** Waits until `condition` holds, 15 s at most unless told otherwise. */
  async until(
    condition: () => boolean | Promise<boolean>,
    what: string,
    patienceMs = PATIENCE_MS,
  ): Promise<void> {
    const end = performance.now() + patienceMs
    while (!(await condition())) {
      if (performance.now() > end) throw new GodwitError('BENCH_TIMEOUT', `waited in vain for ${what}`)
      await sleep(POLL_MS)
    }
  }

  /** Waits until `target` answers a TCP connection attempt from `host` (a refusal is an answer too). */
  async reachable(host: Host, target: string): Promise<void> {
    const probe = `const s=require('net').connect({host:'${target}',port:9});s.setTimeout(700,()=>process.exit(1));s.on('connect',()=>process.exit(0));s.on('error',e=>process.exit(e.code==='ECONNREFUSED'?0:1))`
    await this.until(async () => {
      try {
        await host.run(process.execPath, ['-e', probe])
        return true
      } catch {
        return false
      }
    }, `${target} to answer`)
  }

  async close(): Promise<void> {
    for (const host of [this.a, this.b]) await host.close()
    await this.lab.close()
  }
}

function environment(): Record<string, string> {
  return { ...(process.env as Record<string, string>), PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
}

/** CPU time of all threads of a process so far, milliseconds; threads that ended are not counted. */
export function cpuMs(pid: number): number {
  let ns = 0
  for (const thread of readdirSync(`/proc/${pid}/task`))
    ns += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0])
  return ns / 1e6
}

/** Makes the output folder and answers its path. */
export async function makeOut(out: string | undefined): Promise<string> {
  const path = out ?? mkdtempSync(join(tmpdir(), 'godwit-bench-out-'))
  await mkdir(path, { recursive: true })
  return path
}
