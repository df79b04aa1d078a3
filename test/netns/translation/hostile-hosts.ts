/**
 * The attacker's kit: a victim v and an honest host p with DIME, a host b without, and m, which is hostile, on one switch. m has
 * a connection with v, greets it with a key of its own, and then sends all it can think of, as that peer, as strangers from
 * addresses of its own, and in the names of b and p.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ControlClient } from '../../../src/host/control/client.ts'
import type { HostView, SocketView } from '../../../src/host/provisioning/translation.ts'
import { createNamespace, deleteNamespace, spawnIn } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { daemonAt } from '../../support/daemon.ts'
import { until } from './bed.ts'
import { lines } from './flows.ts'

usesPrograms('ip', 'nft')

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const ATTACKER = fileURLToPath(new URL('./hostile-host.js', import.meta.url))

export const ADDRESS = { v: '10.98.0.1', m: '10.98.0.2', p: '10.98.0.3', b: '10.98.0.4' } as const
export type HostileName = keyof typeof ADDRESS
/** Where p goes. */
export const ELSEWHERE = '10.98.0.77'
export const FLOWS = 10
const PORT = 1021

/** Sends back what it gets. */
const SERVER = `require('node:net').createServer((s) => { s.on('error', () => {}); s.setNoDelay(); s.pipe(s) }).listen(80, '0.0.0.0', () => console.log('ready'))`

/** N connections, each sends a kilobyte every 20 ms and checks what comes back; \`report\`: bytes and delays since the last. */
const CLIENT = `
const net = require('node:net')
const [to, n] = [process.argv[1], Number(process.argv[2])]
let bytes = 0, delays = [], faults = 0, open = 0, reports = 0
for (let i = 0; i < n; i++) {
  const s = net.connect(80, to); s.setNoDelay()
  let seq = 0, next = 0, rest = Buffer.alloc(0); const sent = new Map()
  s.on('connect', () => { if (++open === n) console.log('ready'); setInterval(() => { const b = Buffer.alloc(1024, 65 + i); b.writeUInt32BE(seq, 0); sent.set(seq++, performance.now()); s.write(b) }, 20) })
  s.on('data', (d) => { rest = Buffer.concat([rest, d]); while (rest.length >= 1024) { const k = rest.readUInt32BE(0); if (k !== next++ || rest[1023] !== 65 + i) faults++; delays.push(performance.now() - sent.get(k)); sent.delete(k); bytes += 1024; rest = rest.subarray(1024) } })
  s.on('error', (e) => { faults++; console.log('error ' + e.code) }); s.on('close', () => faults++)
}
process.stdin.on('data', () => { delays.sort((a, b) => a - b); console.log('report ' + ++reports + ' ' + JSON.stringify({ bytes, faults, p99: delays[Math.floor(delays.length * 0.99)] ?? 0, p50: delays[delays.length >> 1] ?? 0 })); bytes = 0; delays = [] })`

export interface Report {
  readonly bytes: number
  readonly faults: number
  /** Milliseconds. */
  readonly p50: number
  readonly p99: number
}

export interface Outcome {
  readonly before: Report
  readonly during: Report
  readonly bystander: Report
  /** Resident memory of v's daemon, bytes. */
  readonly rss: { readonly before: number; readonly most: number; readonly after: number }
  /** Seconds of CPU that it used for each second of the attack. */
  readonly cpu: number
  /** IHMP bytes to v that are not p's, and from v to addresses that have proven nothing. */
  readonly came: number
  readonly left: number
  readonly datagrams: number
}

export class HostileBed {
  readonly folder = mkdtempSync(join(tmpdir(), 'hostile-'))
  readonly #programs: ChildProcess[] = []
  readonly #daemons: ChildProcess[] = []

  constructor() {
    const sw = this.netns('sw')
    createNamespace(sw)
    const ip = (...args: string[]) => execFileSync('ip', args)
    ip('-n', sw, 'link', 'add', 'br0', 'type', 'bridge')
    ip('-n', sw, 'link', 'set', 'br0', 'up')
    for (const [name, address] of Object.entries(ADDRESS)) {
      const own = this.netns(name)
      createNamespace(own)
      ip('-n', sw, 'link', 'add', `to-${name}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', own)
      ip('-n', sw, 'link', 'set', `to-${name}`, 'master', 'br0', 'up')
      ip('-n', own, 'link', 'set', 'lo', 'up')
      ip('-n', own, 'link', 'set', 'eth0', 'up')
      ip('-n', own, 'addr', 'add', `${address}/16`, 'dev', 'eth0')
    }
    // In the names of others, and of itself as many.
    for (const forged of [ADDRESS.b, ADDRESS.p])
      ip('-n', this.netns('m'), 'addr', 'add', `${forged}/32`, 'dev', 'lo')
    for (let i = 1; i <= 8; i++) ip('-n', this.netns('m'), 'addr', 'add', `10.98.1.${i}/16`, 'dev', 'eth0')
    // Nor does it take their place on the link: that is no attack on DIME.
    const sysctls = new KernelSysctls(this.netns('m'))
    sysctls.set('net.ipv4.conf.all.arp_ignore', 1)
    sysctls.set('net.ipv4.conf.all.arp_announce', 2)
    // Without it the kernel takes p's second address of the network away together with the first (`move`).
    new KernelSysctls(this.netns('p')).set('net.ipv4.conf.all.promote_secondaries', 1)
    const proven = `{ ${ADDRESS.m}, ${ADDRESS.p}, ${ELSEWHERE} }`
    const rules = `table ip measured {
      counter came {}
      counter left {}
      chain i { type filter hook prerouting priority -400; udp dport ${PORT} ip saddr != { ${ADDRESS.p}, ${ELSEWHERE} } counter name came; }
      chain o { type filter hook postrouting priority 400; udp sport ${PORT} ip daddr != ${proven} counter name left; }
    }`
    execFileSync('ip', ['netns', 'exec', this.netns('v'), 'nft', '-f', '-'], { input: rules })
  }

  netns(name: string): string {
    return `hostile-${name}-${process.pid}`
  }

  spawn(name: HostileName, args: readonly string[]): ChildProcess {
    const program = spawnIn(this.netns(name), process.execPath, [...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    this.#programs.push(program)
    return program
  }

  async daemon(name: 'v' | 'p'): Promise<ChildProcess> {
    const state = join(this.folder, name)
    mkdirSync(state, { recursive: true, mode: 0o700 })
    const daemon = this.spawn(name, ['--max-semi-space-size=4', GODWIT, 'dime', 'up', '--state', state])
    this.#daemons.push(daemon)
    let log = ''
    daemon.stderr!.on('data', (bytes) => {
      log += bytes
      writeFileSync(join(this.folder, `${name}.log`), log)
    })
    await lines(daemon).wait('ready')
    return daemon
  }

  #client(name: 'v' | 'p'): ControlClient {
    return daemonAt(join(this.folder, name))
  }

  async hosts(name: 'v' | 'p'): Promise<HostView[]> {
    return (await this.#client(name).get<{ hosts: HostView[] }>('/v1/dime/hosts')).hosts
  }

  async sockets(name: 'v' | 'p'): Promise<SocketView[]> {
    return (await this.#client(name).get<{ sockets: SocketView[] }>('/v1/dime/sockets')).sockets
  }

  counter(name: 'came' | 'left'): { packets: number; bytes: number } {
    const text = execFileSync('ip', [
      'netns',
      'exec',
      this.netns('v'),
      'nft',
      '-j',
      'list',
      'counter',
      'ip',
      'measured',
      name,
    ])
    const { nftables } = JSON.parse(text.toString()) as {
      nftables: { counter?: { packets: number; bytes: number } }[]
    }
    return nftables.find((e) => e.counter !== undefined)!.counter!
  }

  move(): void {
    const n = this.netns('p')
    execFileSync('ip', ['-n', n, 'addr', 'add', `${ELSEWHERE}/16`, 'dev', 'eth0'])
    execFileSync('ip', ['-n', n, 'addr', 'del', `${ADDRESS.p}/16`, 'dev', 'eth0'])
    assert.ok(execFileSync('ip', ['-n', n, 'addr', 'show', 'eth0']).includes(ELSEWHERE), 'p is there')
  }

  async close(): Promise<void> {
    for (const program of this.#programs) if (!this.#daemons.includes(program)) program.kill('SIGKILL')
    for (const daemon of this.#daemons)
      if (daemon.exitCode === null && daemon.signalCode === null)
        await new Promise((gone) => {
          daemon.once('exit', gone)
          daemon.kill('SIGTERM')
        })
    for (const name of ['sw', ...Object.keys(ADDRESS)]) deleteNamespace(this.netns(name))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

function rssOf(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1024
}

function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(' ')
  return (Number(fields[13]) + Number(fields[14])) / 100
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

/** How long honest connections are measured before an attack of so many seconds. */
export function secondsBefore(seconds: number): number {
  return Math.min(seconds / 10, 10)
}

/** Attacks for so many seconds and asserts what holds whatever the machine's speed; the figures come back. */
export async function attacked(bed: HostileBed, seconds: number, rate: number): Promise<Outcome> {
  await lines(bed.spawn('v', ['-e', SERVER])).wait('ready')
  const v = await bed.daemon('v')
  await bed.daemon('p')
  const client = bed.spawn('p', ['-e', CLIENT, ADDRESS.v, String(FLOWS)])
  const clientOut = lines(client)
  await clientOut.wait('ready')
  const other = bed.spawn('b', ['-e', CLIENT, ADDRESS.v, '1'])
  const otherOut = lines(other)
  await otherOut.wait('ready')
  const peers = async (n: number) =>
    until(
      `v has ${n} peers`,
      async () => (await bed.hosts('v')).filter((h) => h.state === 'peer').length === n,
    )
  await peers(1)
  const asked = new Map<ChildProcess, number>()
  const report = async (program: ChildProcess, out: ReturnType<typeof lines>): Promise<Report> => {
    const n = (asked.get(program) ?? 0) + 1
    asked.set(program, n)
    program.stdin!.write('report\n')
    const line = await out.wait(`report ${n} `)
    return JSON.parse(line.slice(line.indexOf('{'))) as Report
  }
  await pause(2_000)
  await report(client, clientOut)
  await pause(secondsBefore(seconds) * 1_000)
  const before = await report(client, clientOut)
  const key = (await bed.hosts('v')).find((h) => h.active.includes(ADDRESS.p))!.key!
  const attacker = bed.spawn('m', [ATTACKER, JSON.stringify({ seconds, rate, key, ...ADDRESS })])
  const attackerOut = lines(attacker)
  await attackerOut.wait('peer')
  await peers(2)
  await pause(1_000)
  const rss = { before: rssOf(v.pid!), most: 0, after: 0 }
  const cpu = cpuOf(v.pid!)
  const [came, left] = [bed.counter('came'), bed.counter('left')]
  await report(client, clientOut)
  await report(other, otherOut)
  attacker.stdin!.write('go\n')
  const startedAt = Date.now()
  while (Date.now() - startedAt < seconds * 1_000) {
    await pause(500)
    rss.most = Math.max(rss.most, rssOf(v.pid!))
    // Nobody's connection goes another way than its own.
    for (const s of await bed.sockets('v')) {
      const owner = s.bound.split(':')[0]!
      if (owner === ADDRESS.p || owner === ADDRESS.b) assert.equal(s.wire, owner)
    }
  }
  const during = await report(client, clientOut)
  const bystander = await report(other, otherOut)
  await attackerOut.wait('done')
  const used = cpuOf(v.pid!) - cpu
  const now = [bed.counter('came'), bed.counter('left')]
  const outcome: Outcome = {
    before,
    during,
    bystander,
    rss,
    cpu: used / seconds,
    came: now[0]!.bytes - came.bytes,
    left: now[1]!.bytes - left.bytes,
    datagrams: now[0]!.packets - came.packets,
  }
  assert.equal(v.exitCode, null, 'the daemon lives')
  assert.ok(outcome.datagrams > (seconds * rate) / 4, `${outcome.datagrams} datagrams came`)
  assert.ok(outcome.left <= 3 * outcome.came, `${outcome.left} bytes left for ${outcome.came}`)
  assert.equal(during.faults + bystander.faults, 0)
  for (const name of ['p', 'b'] as const)
    assert.ok((await bed.sockets('v')).some((s) => s.bound.startsWith(`${ADDRESS[name]}:`)))
  await pause(Math.min(seconds / 10, 5) * 1_000)
  rss.after = rssOf(v.pid!)
  return outcome
}

/** Those that are honest still move after an attack, and are followed. */
export async function followed(bed: HostileBed): Promise<void> {
  bed.move()
  await until('v follows p', async () => {
    const flows = (await bed.sockets('v')).filter((s) => s.bound.startsWith(`${ADDRESS.p}:`))
    return flows.length === FLOWS && flows.every((s) => s.wire === ELSEWHERE)
  })
}
