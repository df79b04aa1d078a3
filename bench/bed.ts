/**
 * The bed of a benchmark: two hosts (network namespaces) joined by one veth link without limits, so that what is measured
 * is the tunnel and not a line. Names carry the process id; `close()` ends programs and removes both hosts.
 */
import { type ChildProcess, execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { GodwitError } from '../src/core/errors.ts'
import { createNamespace, deleteNamespace, spawnIn } from '../src/linux/netns.ts'
import { Rtnetlink } from '../src/linux/rtnetlink/index.ts'

const PATIENCE_MS = 15_000
const POLL_MS = 50
const LISTEN_STATE: Record<string, string> = { tcp: '0A', udp: '07' }
let beds = 0

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
  /** Its IPv4 address on the link. */
  readonly address: string
  readonly #children = new Set<ChildProcess>()

  constructor(netns: string, address: string) {
    this.netns = netns
    this.address = address
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

  /** Starts a program that stays. */
  start(
    command: string,
    args: readonly string[],
    env: Record<string, string> = {},
    input: 'ignore' | 'pipe' = 'ignore',
  ): Program {
    const child = spawnIn(this.netns, command, args, {
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
  readonly #directory = mkdtempSync(join(tmpdir(), 'godwit-bench-'))

  constructor() {
    const name = `gwbench${process.pid}-${++beds}`
    this.a = new Host(`${name}a`, '10.90.0.1')
    this.b = new Host(`${name}b`, '10.90.0.2')
    for (const host of [this.a, this.b]) createNamespace(host.netns)
    const rtnl = new Rtnetlink(this.a.netns)
    rtnl.createLink({ kind: 'veth', name: 'eth0', peer: { name: 'eth0', netns: this.b.netns } })
    rtnl.close()
    for (const host of [this.a, this.b]) {
      host.addAddress('eth0', `${host.address}/24`)
      host.setUp('eth0', 1500)
      host.setUp('lo', 65536)
    }
    // godwit takes an interface with a way out for an access.
    this.a.addDefaultRoute(this.b.address, 'eth0')
  }

  /** A directory of the bed's own, removed with it. */
  directory(name: string): string {
    const path = join(this.#directory, name)
    execFileSync('mkdir', ['-p', path])
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
    for (const host of [this.a, this.b]) {
      await host.close()
      deleteNamespace(host.netns)
    }
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

function environment(): Record<string, string> {
  return { ...(process.env as Record<string, string>), PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
}

/** Makes the output folder and answers its path. */
export async function makeOut(out: string | undefined): Promise<string> {
  const path = out ?? mkdtempSync(join(tmpdir(), 'godwit-bench-out-'))
  await mkdir(path, { recursive: true })
  return path
}
