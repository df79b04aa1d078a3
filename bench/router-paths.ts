/**
 * One TCP flow between the sites of two routers on two links without limits, both ways: one path used (`failover`), then
 * both (`round-robin`, `weighted`), in turn, beside the bare link. What a router costs, and what spreading a flow adds.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../src/crypto/keys.ts'
import { Bed, type Host } from './bed.ts'
import { type Bench, type BenchResult, machine, Recorder } from './harness.ts'
import { tcpThroughput } from './iperf.ts'
import { command } from './subjects/godwit.ts'
import { twoWires } from './topologies.ts'

const PORT = 51_901
const MODES = ['failover', 'round-robin', 'weighted'] as const
const BARE = 'veth'
/** An address of each site, on the router itself. */
const SITES = ['10.1.0.1', '10.2.0.1'] as const

interface Status {
  readonly peers: readonly { readonly paths: readonly { readonly state: string }[] }[]
}

export const routerPaths: Bench = {
  name: 'router-paths',
  summary: 'mobile router: one TCP flow both ways over one path and over two, on links without limits',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const bed = await Bed.open(twoWires)
    try {
      const states = await setUp(bed)
      for (let again = 1; again <= context.rounds; again++) {
        for (const mode of [...MODES, BARE]) {
          context.signal.throwIfAborted()
          if (mode !== BARE)
            for (const [host, state] of states)
              await host.run(command, ['router', 'scheduler', 'rest', mode, '--state', state])
          const [target, source] = mode === BARE ? [bed.b.address, bed.a.address] : [SITES[1], SITES[0]]
          for (const way of ['up', 'down'] as const) {
            const mbps = await tcpThroughput(bed, target, { seconds: context.seconds, source, way })
            recorder.add(`tcp-1-${way}`, mode, 'mbps', mbps)
            context.progress(`round ${again} of ${context.rounds}: ${mode}, ${way}: ${mbps} mbps`)
          }
        }
      }
    } finally {
      await bed.close()
    }
    const ratios: Record<string, number> = {}
    for (const [mode, other] of [
      ...MODES.slice(1).map((mode) => [mode, MODES[0]]),
      [MODES[0], BARE],
    ] as const)
      for (const way of ['up', 'down'])
        ratios[`tcp-1-${way} ${mode}/${other}`] = recorder.ratio(
          [`tcp-1-${way}`, mode!],
          [`tcp-1-${way}`, other!],
        )
    return { bench: this.name, machine: machine(), runs: recorder.runs(), ratios, skipped: {} }
  },
}

/** Two routers with a path over each link; resolves when both work. */
async function setUp(bed: Bed): Promise<readonly (readonly [Host, string])[]> {
  const hosts = [bed.a, bed.b] as const
  for (const [index, host] of hosts.entries()) {
    host.addAddress('lo', `${SITES[index]!}/32`)
  }
  const keys = hosts.map(() => generatePrivateKey())
  const states = hosts.map((host, index) => {
    const state = bed.directory(`router-${index}`)
    writeFileSync(join(state, 'private.key'), `${encodeKey(keys[index]!)}\n`, { mode: 0o600 })
    const other = 1 - index
    writeFileSync(
      join(state, 'godwit.toml'),
      `[router]
${index === 0 ? 'accesses = ["eth0", "eth1"]' : `listen_port = ${PORT}`}

[[router.site]]
name = "other"
public_key = "${encodeKey(publicKeyOf(keys[other]!))}"
${index === 0 ? `endpoint = "${bed.b.address}:${PORT}"` : ''}
subnets = ["${SITES[other]!}/32"]
`,
    )
    return [host, state] as const
  })
  for (const [host, state] of [...states].reverse()) {
    const daemon = host.start(command, ['router', 'up', '--state', state])
    await bed.until(() => /^ready$/m.test(daemon.output()), `the router: ${daemon.output()}`)
  }
  const [mobile, state] = states[0]!
  await bed.until(async () => {
    const status = JSON.parse(await mobile.run(command, ['status', '--json', '--state', state])) as Status
    return status.peers[0]?.paths.filter((path) => path.state === 'up').length === 2
  }, 'two paths')
  return states
}
