/**
 * A laptop as people have it: two accesses behind NATs that lead some ports to it, a host with the real daemon, an anchor
 * that is reached over IPv6, a server that tells whom it sees.
 */
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf, type TopologySpec } from '../../../lab/topology.ts'
import type { Status } from '../../../src/host/daemon/daemon.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonStatus } from '../../support/daemon.ts'

usesPrograms('curl', 'ip', 'nft')

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))

/** What the networks call the laptop. */
export const OUTSIDE = { acc1: '203.0.113.2', acc2: '203.0.113.18' } as const
export const INSIDE = { acc1: '192.168.1.100', acc2: '192.168.2.100' } as const
export const INSIDE6 = '2001:db8:1:1::100'
/** The anchor's address, and that of the server. */
export const ANCHOR = '192.0.2.2'
export const ANCHOR6 = '2001:db8:a:1::2'
export const SERVER = '198.51.100.2'
export const SERVER6 = '2001:db8:c:1::2'

/** Answers with a text, or with the address of whoever asks. */
const WEB = `require('http').createServer((q,r)=>r.end(process.argv[1]||q.socket.remoteAddress.replace('::ffff:',''))).listen(+process.argv[2],'::',()=>console.log('up'))`

/** The time, every 20 ms, as long as somebody reads. */
const CLOCK = `require('http').createServer((q, r) => {
  const timer = setInterval(() => r.write(Date.now() + '\\n'), 20)
  r.on('close', () => clearInterval(timer))
}).listen(8082, '::', () => console.log('up'))`

/** What the server's clock says half a second from now arrives, on the connection of the beginning. */
export async function goesOn(reader: Program): Promise<void> {
  const soon = Date.now() + 500
  await reader.expect((line) => Number(line) >= soon, 10_000)
}

export class LaptopBed {
  readonly lab: Lab
  readonly folder: string
  host: Program | undefined
  anchor!: Program
  /** Of the laptop's daemon, beside the test's own. */
  environment: Readonly<Record<string, string>> = {}

  private constructor(lab: Lab) {
    this.lab = lab
    this.folder = mkdtempSync(join(tmpdir(), 'godwit-laptop-'))
  }

  /** With the anchor, at its address of this family, and the server; the laptop has joined. */
  static async build(
    spec: TopologySpec = topologyNamed('upmt'),
    configuration = '',
    family: 4 | 6 = 6,
  ): Promise<LaptopBed> {
    const bed = new LaptopBed(await Lab.build(spec))
    try {
      await bed.web('ch1', '', 80)
      const address = addressOf(spec, 'an', 'wan', family)
      const host = family === 6 ? `[${address}]` : address
      await bed.godwit('an', 'anchor', 'init', '--endpoint', `${host}:51820`)
      bed.anchor = await bed.daemon('an')
      await bed.godwit('mh', 'join', (await bed.godwit('an', 'anchor', 'invite', 'laptop')).trim())
      bed.configure(configuration)
      return bed
    } catch (error) {
      await bed.close()
      throw error
    }
  }

  async close(): Promise<void> {
    await this.lab.close()
    rmSync(this.folder, { recursive: true })
  }

  state(role: string): string {
    return join(this.folder, role)
  }

  /** Appends to the laptop's configuration; what was there before godwit joined stays. */
  configure(text: string): void {
    if (text !== '') appendFileSync(join(this.state('mh'), 'godwit.toml'), `\n${text}\n`)
  }

  /** The laptop's configuration, to put it back. */
  get configuration(): string {
    return readFileSync(join(this.state('mh'), 'godwit.toml'), 'utf8')
  }

  set configuration(text: string) {
    writeFileSync(join(this.state('mh'), 'godwit.toml'), text, { mode: 0o600 })
  }

  godwit(role: string, ...args: string[]): Promise<string> {
    return this.run(role, process.execPath, GODWIT, ...args, '--state', this.state(role))
  }

  /** `godwit run OPTIONS -- COMMAND` on the laptop. */
  godwitRun(options: readonly string[], ...command: string[]): Promise<string> {
    const args = ['run', ...options, '--state', this.state('mh'), '--', ...command]
    return this.run('mh', process.execPath, GODWIT, ...args)
  }

  run(role: string, command: string, ...args: string[]): Promise<string> {
    return this.lab.programs.run(role, command, args)
  }

  shell(role: string, script: string): Promise<string> {
    return this.run(role, 'sh', '-ec', script)
  }

  status(): Promise<Status> {
    return daemonStatus(join(this.folder, 'mh'))
  }

  log(role: string): string {
    return readFileSync(join(this.folder, `${role}.log`), 'utf8')
  }

  async daemon(role: 'mh' | 'an'): Promise<Program> {
    const args = [GODWIT, ...(role === 'an' ? ['anchor'] : []), 'up', '--state', this.state(role)]
    const log = join(this.folder, `${role}.log`)
    const env = role === 'mh' ? this.environment : {}
    const program = await this.lab.programs.start(role, process.execPath, args, { log, env })
    await program.expect((line) => line.trim() === 'ready', 30_000)
    return program
  }

  /** Starts the laptop's daemon; both accesses reach the anchor when it resolves. */
  async up(paths = 2): Promise<void> {
    this.host = await this.daemon('mh')
    await until(`${paths} paths are up`, async () =>
      (await this.status()).peers.some(
        (peer) => peer.paths.filter(({ state }) => state === 'up').length >= paths,
      ),
    )
  }

  async down(): Promise<void> {
    await this.host?.stop()
    this.host = undefined
  }

  /** A web server that answers with `text`, or with the address that asks when that is empty. */
  async web(role: string, text: string, port: number): Promise<Program> {
    const program = await this.lab.programs.start(role, process.execPath, ['-e', WEB, text, String(port)])
    await program.expect((line) => line === 'up', 10_000)
    return program
  }

  async serveClock(): Promise<void> {
    const server = await this.lab.programs.start('ch1', process.execPath, ['-e', CLOCK])
    await server.expect((line) => line === 'up', 10_000)
  }

  /** A connection of the laptop's that is told the time; see `goesOn`. */
  readClock(): Promise<Program> {
    return this.lab.programs.start('mh', 'curl', ['-sSN', `http://${SERVER}:8082/`])
  }

  /** What a web server says; empty when there is no answer. */
  async ask(role: string, url: string, ...options: string[]): Promise<string> {
    try {
      return await this.run(role, 'curl', '-s', '-m', '5', ...options, url)
    } catch {
      return ''
    }
  }

  /** Whom the server sees when the laptop asks it: through the tunnel that is the anchor. */
  seen(...options: string[]): Promise<string> {
    return this.ask('mh', `http://${SERVER}/`, ...options)
  }

  /** Both NATs lead these TCP ports to the laptop, and let them in over IPv6. */
  async leadToLaptop(...ports: number[]): Promise<void> {
    const set = `{ ${ports.join(', ')} }`
    for (const [nat, inside] of [
      ['nat1', INSIDE.acc1],
      ['nat2', INSIDE.acc2],
    ] as const)
      await this.shell(
        nat,
        `nft 'table ip lead { chain in { type nat hook prerouting priority dstnat; iifname wan tcp dport ${set} dnat to ${inside}; }; }'
         nft insert rule ip6 gw_nat guard iifname wan tcp dport ${set} accept`,
      )
  }
}

/** Waits ten seconds at the most. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let turn = 0; turn < 100; turn++) {
    if (await holds()) return
    await delay(100)
  }
  throw new Error(`not within ten seconds: ${what}`)
}
