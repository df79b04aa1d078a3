/**
 * What an anchor's memory costs: per host with two paths and a live session, and per flow. A real `godwit anchor up`, and a
 * swarm of a thousand real tunnel machines on the other side of a veth (programs/swarm.ts).
 */
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GodwitError } from '../src/core/errors.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../src/crypto/keys.ts'
import { Bed, type Program } from './bed.ts'
import { type Bench, type BenchResult, machine, Recorder, round } from './harness.ts'
import type { SwarmSpec } from './programs/swarm.ts'
import { command } from './subjects/godwit.ts'

const HOSTS = 1000
const FLOWS = 50_000
const PORT = 51_910
/** The anchor's own address in its pool, and that of a host by its number. */
const TARGET = '198.18.0.1'
const vipa = (number: number) => `198.18.${number >> 8}.${number & 255}`
const SETTLE_MS = 3000

export const memory: Bench = {
  name: 'memory',
  summary: `memory of an anchor per host (${HOSTS} hosts) and per flow (${FLOWS})`,

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    for (let again = 1; again <= context.rounds; again++) {
      const { idle, connected, busy } = await once()
      const perPeer = (connected - idle) / HOSTS
      const perFlow = (busy - connected) / FLOWS
      recorder.add('anchor-idle', 'godwit', 'bytes', idle)
      recorder.add('per-host', 'godwit', 'bytes', round(perPeer))
      recorder.add('per-flow', 'godwit', 'bytes', round(perFlow))
      context.progress(
        `round ${again}: ${(idle / 1048576).toFixed(0)} MB idle, ${(perPeer / 1024).toFixed(1)} KB a host, ${perFlow.toFixed(0)} bytes a flow`,
      )
      context.signal.throwIfAborted()
    }
    return { bench: this.name, machine: machine(), runs: recorder.runs(), ratios: {}, skipped: {} }
  },
}

/** Resident bytes of the anchor: without hosts, with all connected, with all flows. */
async function once(): Promise<{ idle: number; connected: number; busy: number }> {
  const bed = await Bed.open()
  try {
    const state = bed.directory('anchor')
    await bed.b.run(command, ['anchor', 'init', '--state', state, '--endpoint', `${bed.b.address}:${PORT}`])
    const hosts = Array.from({ length: HOSTS }, (_, n) => ({
      privateKey: generatePrivateKey(),
      presharedKey: randomBytes(32),
      number: n + 2,
    }))
    const empty = await startAnchor(bed, state)
    await pause()
    const idle = resident(empty.pid)
    await empty.stop()
    writeFileSync(
      join(state, 'hosts.json'),
      JSON.stringify({
        version: 1,
        hosts: hosts.map(({ privateKey, presharedKey, number }) => ({
          name: `h${number}`,
          kind: 'godwit',
          public_key: encodeKey(publicKeyOf(privateKey)),
          preshared_key: encodeKey(presharedKey),
          number,
        })),
      }),
      { mode: 0o600 },
    )
    const anchor = await startAnchor(bed, state)
    const key = readFileSync(join(state, 'private.key'), 'utf8').trim()
    const spec: SwarmSpec = {
      anchor: [bed.b.address, PORT],
      local: bed.a.address,
      anchorKey: encodeKey(publicKeyOf(new Uint8Array(Buffer.from(key, 'base64')))),
      hosts: hosts.map(({ privateKey, presharedKey, number }) => ({
        privateKey: encodeKey(privateKey),
        presharedKey: encodeKey(presharedKey),
        address: vipa(number),
      })),
      target: TARGET,
    }
    const file = join(bed.directory('swarm'), 'spec.json')
    writeFileSync(file, JSON.stringify(spec), { mode: 0o600 })
    const program = fileURLToPath(new URL('./programs/swarm.js', import.meta.url))
    const swarm = bed.a.start(process.execPath, [program, file], {}, 'pipe')
    await bed.until(() => /^(up$|not all are up)/m.test(swarm.output()), 'all hosts to be up', 60_000)
    if (!/^up$/m.test(swarm.output())) throw new GodwitError('BENCH_PROGRAM', swarm.output().trim())
    await pause()
    const connected = resident(anchor.pid)
    swarm.write(`flows ${FLOWS}\n`)
    await bed.until(() => /^sent$/m.test(swarm.output()), 'all flows', 120_000)
    await pause()
    const busy = resident(anchor.pid)
    await swarm.stop()
    await anchor.stop()
    return { idle, connected, busy }
  } finally {
    await bed.close()
  }
}

async function startAnchor(bed: Bed, state: string): Promise<Program> {
  const anchor = bed.b.start(command, ['anchor', 'up', '--state', state])
  await bed.until(() => /^ready$/m.test(anchor.output()), 'the anchor')
  return anchor
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
}

/** VmRSS of a process, huge pages of its tables included. */
function resident(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? Number.NaN) * 1024
}
