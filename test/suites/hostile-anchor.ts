/**
 * A hostile host that was invited, at full rate, against a live anchor that carries ten flows of another host: the daemon lives, its
 * memory is bounded, nobody gets what they did not ask for, and the ten flows hardly notice.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../lab/build.ts'
import type { Program } from '../../lab/hosts.ts'
import { topologyNamed } from '../../lab/topologies/index.ts'
import { addressOf } from '../../lab/topology.ts'
import { usesPrograms } from '../../src/linux/packages.ts'
import type { HostileReport } from '../support/hostile-host.ts'

usesPrograms('curl', 'ip', 'nft')

const GODWIT = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
const HOSTILE = fileURLToPath(new URL('../support/hostile-host.js', import.meta.url))
const FLOWS = 10
/** Bytes a second of each. */
const RATE = 200_000
const BASELINE_S = 10
const ECHO_PORT = 7007
/** Connections of one host that the anchor's kernel follows, of which one of 32 is counted. */
const MOST_CONNECTIONS = 1.3 * 8_192
const SERVER = `const b=Buffer.alloc(65536,7);require('http').createServer((q,r)=>{const n=+q.url.slice(1);r.setHeader('content-length',n);let s=0;const w=()=>{while(s<n){const k=Math.min(b.length,n-s);s+=k;if(!r.write(b.subarray(0,k))){r.once('drain',w);return}}r.end()};w()}).listen(80,'::',()=>console.log('up'));const u=require('dgram').createSocket('udp4');u.on('message',(m,f)=>u.send(m,f.port,f.address));u.bind(${ECHO_PORT})`
/** Round trips of a datagram each 10 ms; prints the 99th percentile in milliseconds when its input ends. */
const PING = `const u=require('dgram').createSocket('udp4');const[,a,p]=process.argv;const at=[];const trips=[];let n=0;const now=()=>Number(process.hrtime.bigint())/1e6;u.on('message',m=>trips.push(now()-at[m.readUInt32BE(0)]));setInterval(()=>{const m=Buffer.alloc(64);m.writeUInt32BE(n,0);at[n++]=now();u.send(m,+p,a)},10);process.stdin.on('end',()=>{trips.sort((a,b)=>a-b);console.log(JSON.stringify({sent:n,got:trips.length,p99:trips[Math.floor(trips.length*.99)]}));process.exit(0)});process.stdin.resume()`

export interface HostileOutcome extends HostileReport {
  readonly rssBefore: number
  readonly rssMost: number
  readonly rssAfter: number
  readonly throughput: number
  readonly p99Before: number
  readonly p99: number
  readonly flowsDone: number
  /** In the table of the anchor's kernel, at the end of the attack. */
  readonly connections: number
}

/** Attacks for that long; returns what was measured. Throws when the anchor or a flow did not live through it. */
export async function attackAnchor(seconds: number): Promise<HostileOutcome> {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-hostile-'))
  const lab = await Lab.build(topologyNamed('upmt'))
  const state = (role: string) => join(folder, role)
  const godwit = (role: string, ...args: string[]) =>
    lab.programs.run(role, process.execPath, [GODWIT, ...args, '--state', state(role)])
  const daemon = async (role: string, ...args: string[]): Promise<Program> => {
    const options = { log: join(folder, `${role}.log`) }
    const command = ['--max-semi-space-size=4', GODWIT, ...args, '--state', state(role)]
    const program = await lab.programs.start(role, process.execPath, command, options)
    await program.expect((line) => line.trim() === 'ready', 20_000)
    return program
  }
  try {
    const server = await lab.programs.start('ch1', process.execPath, ['-e', SERVER], { input: true })
    await server.expect((line) => line === 'up', 10_000)
    const anchorAt = addressOf(lab.spec, 'an', 'wan')
    const to = addressOf(lab.spec, 'ch1', 'wan')
    await godwit('an', 'anchor', 'init', '--endpoint', `${anchorAt}:51820`)
    const anchor = await daemon('an', 'anchor', 'up')
    await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
    await daemon('mh', 'up')
    await delay(3000)

    const rss = () => {
      const status = readFileSync(`/proc/${anchor.pid}/status`, 'utf8')
      return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1])
    }
    const measure = async (forSeconds: number, meanwhile: () => Promise<void>) => {
      const size = Math.round(RATE * forSeconds)
      const ping = await lab.programs.start('mh', process.execPath, ['-e', PING, to, `${ECHO_PORT}`], {
        input: true,
      })
      const started = Date.now()
      const done = Promise.all(
        Array.from({ length: FLOWS }, () =>
          lab.programs.run('mh', 'curl', [
            ...['-s', '--limit-rate', `${RATE}`, '-o', '/dev/null', '-w', '%{http_code} %{size_download}'],
            `http://${to}/${size}`,
          ]),
        ),
      )
      await meanwhile()
      const results = await done
      const took = (Date.now() - started) / 1000
      ping.child.stdin?.end()
      const trips = JSON.parse((await ping.expect((line) => line.startsWith('{'), 10_000)) ?? '{}') as {
        p99: number
      }
      const flowsDone = results.filter((result) => result === `200 ${size}`).length
      return { rate: (FLOWS * size) / took, p99: trips.p99, flowsDone }
    }

    const own = addressOf(lab.spec, 'ch2', 'wan')
    const victim = own.replace(/\d+$/, (last) => String(Number(last) + 100))
    const wan = lab.spec.links.flatMap(({ ends }) => ends).find(({ host }) => host === 'ch2')!
    await lab.programs.run('ch2', 'ip', ['addr', 'add', `${victim}/32`, 'dev', wan.iface])
    await lab.programs.run('net', 'ip', ['route', 'replace', `${victim}/32`, 'via', own])
    const invitation = (await godwit('an', 'anchor', 'invite', 'mallory')).trim()
    const args = [HOSTILE, invitation, own, victim, anchorAt, '51820']
    const hostile = await lab.programs.start('ch2', process.execPath, args, { input: true })
    await hostile.expect((line) => line === 'joined', 20_000)
    let rssMost = 0
    const attacked = async (forSeconds: number) => {
      let report: HostileReport | undefined
      const measured = await measure(forSeconds, async () => {
        hostile.tell(`${forSeconds}`)
        const watch = setInterval(() => {
          rssMost = Math.max(rssMost, rss())
        }, 500)
        const line = await hostile.expect((each) => each.startsWith('{'), (forSeconds + 30) * 1000)
        report = JSON.parse(line ?? '{}') as HostileReport
        clearInterval(watch)
      })
      return { ...measured, report: report! }
    }
    // Without the attack: this machine is as busy, but what the hostile host sends does not reach the daemon.
    const nft = (...rule: string[]) => lab.programs.run('an', 'nft', rule)
    await nft('add', 'table', 'ip', 'wall')
    await nft('add', 'chain', 'ip', 'wall', 'in', '{ type filter hook prerouting priority -400; }')
    await nft(
      'add',
      'rule',
      'ip',
      'wall',
      'in',
      'ip',
      'saddr',
      `{ ${own}, ${victim} }`,
      'udp',
      'dport',
      '51820',
      'drop',
    )
    const before = await attacked(BASELINE_S)
    await nft('delete', 'table', 'ip', 'wall')
    const rssBefore = rss()
    rssMost = 0
    const { report, ...during } = await attacked(seconds)
    assert.equal(anchor.child.exitCode, null, 'the daemon lives')
    const connections = Number(
      await lab.programs.run('an', 'cat', ['/proc/sys/net/netfilter/nf_conntrack_count']),
    )
    await delay(Math.min(60, seconds) * 500)
    return {
      ...report,
      rssBefore,
      rssMost,
      rssAfter: rss(),
      throughput: during.rate / before.rate,
      p99Before: before.p99,
      p99: during.p99,
      flowsDone: during.flowsDone,
      connections,
    }
  } finally {
    await lab.close()
    rmSync(folder, { recursive: true })
  }
}

/** The bounds of "nothing unproven". */
export function holds(outcome: HostileOutcome): void {
  assert.equal(outcome.flowsDone, FLOWS, 'no connection was touched')
  assert.ok(outcome.toVictim <= 3 * outcome.asVictim, `${outcome.toVictim} bytes for ${outcome.asVictim}`)
  assert.ok(outcome.rssMost < 1.5 * outcome.rssBefore, `${outcome.rssMost} kB of ${outcome.rssBefore}`)
  assert.ok(outcome.connections <= MOST_CONNECTIONS, `${outcome.connections} connections in the kernel`)
  // What stays is V8's: compiled code, and a heap that an idle thread does not collect.
  assert.ok(outcome.rssAfter < 1.35 * outcome.rssBefore, `${outcome.rssAfter} kB afterwards`)
  assert.ok(outcome.throughput >= 0.8, `throughput × ${outcome.throughput}`)
  assert.ok(
    outcome.p99 <= Math.max(2 * outcome.p99Before, 5),
    `${outcome.p99} ms, ${outcome.p99Before} before`,
  )
}
