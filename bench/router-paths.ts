/**
 * What the packet engine loses by spreading one TCP flow over two paths, where no line is the limit: two routers on two bare
 * links, one path used (`failover`), then both (`round-robin`, `weighted`), in turn.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../src/crypto/keys.ts'
import { Rtnetlink } from '../src/linux/rtnetlink/index.ts'
import { Bed, type Host } from './bed.ts'
import { type Bench, type BenchResult, machine, Recorder, round } from './harness.ts'
import { command } from './subjects/godwit.ts'
import { iperf } from './tunnel-tcp.ts'

const PORT = 51_901
const MODES = ['failover', 'round-robin', 'weighted'] as const
/** The second link; the first is the bed's. */
const SECOND = ['10.91.0.1', '10.91.0.2'] as const
/** An address of each site, on the router itself. */
const SITES = ['10.1.0.1', '10.2.0.1'] as const

interface Status {
  readonly peers: readonly { readonly paths: readonly { readonly state: string }[] }[]
}

export const routerPaths: Bench = {
  name: 'router-paths',
  summary: 'mobile router: one TCP flow over one path and over two, on links without limits',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const bed = new Bed()
    try {
      const states = await setUp(bed)
      for (let again = 1; again <= context.rounds; again++) {
        for (const mode of MODES) {
          context.signal.throwIfAborted()
          for (const [host, state] of states)
            await host.run(command, ['router', 'scheduler', 'rest', mode, '--state', state])
          const mbps = Math.round(await iperf(bed, SITES[1], 1, context.seconds, SITES[0]))
          recorder.add('tcp-1', mode, 'mbps', mbps)
          context.progress(`round ${again} of ${context.rounds}: ${mode}: ${mbps} mbps`)
        }
      }
    } finally {
      await bed.close()
    }
    const runs = recorder.runs()
    const of = (mode: string) => runs.find(({ subject }) => subject === mode)!.median
    const ratios = Object.fromEntries(
      MODES.slice(1).map((mode) => [`tcp-1 ${mode}/failover`, round(of(mode) / of('failover'))]),
    )
    return { bench: this.name, machine: machine(), runs, ratios, skipped: {} }
  },
}

/** Two routers with a path over each link; resolves when both work. */
async function setUp(bed: Bed): Promise<readonly (readonly [Host, string])[]> {
  const hosts = [bed.a, bed.b] as const
  const rtnl = new Rtnetlink(bed.a.netns)
  rtnl.createLink({ kind: 'veth', name: 'eth1', peer: { name: 'eth1', netns: bed.b.netns } })
  rtnl.close()
  for (const [index, host] of hosts.entries()) {
    host.addAddress('eth1', `${SECOND[index]!}/24`)
    host.addAddress('lo', `${SITES[index]!}/32`)
    host.setUp('eth1', 1500)
  }
  // The far end is on the first link; by the second one it is reached through its other address.
  bed.a.addDefaultRoute(SECOND[1], 'eth1', 200)
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
