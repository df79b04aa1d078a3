/**
 * wireguard-go as distributions ship it, configured by wg: at both ends, or a stock client at a godwit anchor. Releases of
 * 2023 and later move super-packets through TUN and sockets (offloads), as godwit does; which is found here decides what
 * the subject is called. `GODWIT_WIREGUARD_GO` names a program beside the installed one (docs/benchmarks.md has the way).
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseWgQuick } from '../../src/anchoring/wg-quick.ts'
import { GodwitError } from '../../src/core/errors.ts'
import { findProgram, installHint, usesPrograms } from '../../src/linux/packages.ts'
import { Rtnetlink } from '../../src/linux/rtnetlink/index.ts'
import { type Bed, type Host, have, type Program } from '../bed.ts'
import { ANCHOR, startAnchor } from './godwit.ts'
import type { Subject } from './subject.ts'

usesPrograms('wg', 'wireguard-go')

const SERVER = { 4: '10.92.0.1', 6: 'fd00:92::1' } as const
const CLIENT = { 4: '10.92.0.2', 6: 'fd00:92::2' } as const
const PORT = 51_820
/** wg-quick's. */
const MTU = 1420

/** The installed program, and the one that the environment names. */
const PROGRAMS = [findProgram('wireguard-go'), process.env.GODWIT_WIREGUARD_GO].filter(
  (path): path is string => path !== undefined && existsSync(path),
)

/** Whether super-packets pass its TUN: the source file that does it is named in every Go binary that has it. */
function hasOffloads(program: string): boolean {
  return readFileSync(program).includes('tun/offload_linux.go')
}

function versionOf(program: string): string {
  const [first = ''] = execFileSync(program, ['--version'], { encoding: 'utf8' }).split('\n')
  return `${first} (${program})`
}

function find(offloads: boolean): string | undefined {
  return PROGRAMS.find((program) => hasOffloads(program) === offloads)
}

const OFFLOADS_HINT = 'GODWIT_WIREGUARD_GO names none with offloads (docs/benchmarks.md: how to get it)'

function missing(program: string | undefined, reason: string): string | undefined {
  if (!have('wg')) return `wg is not installed (${installHint(['wg'])})`
  return program === undefined ? reason : undefined
}

function atBothEnds(name: string, program: string | undefined, reason: string): Subject {
  return {
    name,
    families: [4, 6],
    missing: () => missing(program, reason),
    version: () => versionOf(program!),
    start: (bed, family) => startBoth(bed, family, program!),
  }
}

/** Without offloads, as Debian 12 has it. */
export const wireguardGo = atBothEnds(
  'wireguard-go',
  find(false),
  `no wireguard-go without offloads (${installHint(['wireguard-go'])} on Debian 12)`,
)

export const wireguardGoOffloads = atBothEnds('wireguard-go-offloads', find(true), OFFLOADS_HINT)

/** The newest there is, on host a in both of these. */
const client = find(true) ?? find(false)

export const stockAtStock: Subject = {
  ...atBothEnds('stock-at-stock', client, `wireguard-go is not installed (${installHint(['wireguard-go'])})`),
}

/** The same client with the file that `godwit anchor invite --wg` prints. */
export const stockAtGodwit: Subject = {
  ...stockAtStock,
  name: 'stock-at-godwit',

  async start(bed, family) {
    const { anchor, daemon } = await startAnchor(bed, family)
    const parsed = parseWgQuick(await anchor.run('anchor', 'invite', 'stock', '--wg'))
    if (!parsed.ok) throw new GodwitError('BENCH_PROGRAM', parsed.reason)
    const { privateKey, addresses, mtu = MTU, peer } = parsed.value
    const target = ANCHOR[family]
    const program = await startPeer(bed, bed.a, client!, {
      privateKey,
      addresses,
      mtu,
      routes: [target],
      peer: [
        `PublicKey = ${peer.publicKey}`,
        ...(peer.presharedKey === undefined ? [] : [`PresharedKey = ${peer.presharedKey}`]),
        `Endpoint = ${peer.endpoint}`,
        `AllowedIPs = ${peer.allowedIps.join(', ')}`,
      ],
    })
    await bed.reachable(bed.a, target)
    return {
      target,
      pids: { a: program.pid, b: daemon.pid },
      stop: async () => {
        await program.stop()
        await daemon.stop()
      },
    }
  },
}

async function startBoth(bed: Bed, family: 4 | 6, path: string) {
  const bits = family === 4 ? 32 : 128
  const keys = {
    a: (await bed.a.run('wg', ['genkey'])).trim(),
    b: (await bed.b.run('wg', ['genkey'])).trim(),
  }
  const publicKey = async (key: string) => (await bed.a.run('wg', ['pubkey'], key)).trim()
  const address = bed.b.addressOf(family)
  const server = await startPeer(bed, bed.b, path, {
    privateKey: keys.b,
    addresses: [`${SERVER[family]}/${bits}`],
    mtu: MTU,
    routes: [CLIENT[family]],
    peer: [`PublicKey = ${await publicKey(keys.a)}`, `AllowedIPs = ${CLIENT[family]}/${bits}`],
  })
  const near = await startPeer(bed, bed.a, path, {
    privateKey: keys.a,
    addresses: [`${CLIENT[family]}/${bits}`],
    mtu: MTU,
    routes: [SERVER[family]],
    peer: [
      `PublicKey = ${await publicKey(keys.b)}`,
      `AllowedIPs = ${SERVER[family]}/${bits}`,
      `Endpoint = ${family === 4 ? address : `[${address}]`}:${PORT}`,
    ],
  })
  await bed.reachable(bed.a, SERVER[family])
  return {
    target: SERVER[family],
    pids: { a: near.pid, b: server.pid },
    /** WireGuard has no paths: its packets follow the route, and the server follows them. */
    move: async () => {
      const rtnl = new Rtnetlink(bed.a.netns)
      rtnl.addRoute({ to: `${bed.b.address}/32`, via: '10.91.0.2', dev: 'eth1' })
      rtnl.close()
    },
    stop: async () => {
      await near.stop()
      await server.stop()
    },
  }
}

interface PeerConfig {
  readonly privateKey: string
  readonly addresses: readonly string[]
  readonly mtu: number
  /** Addresses reached through it. */
  readonly routes: readonly string[]
  /** The [Peer] section. */
  readonly peer: readonly string[]
}

/** One end: the program, its configuration by `wg setconf`, addresses and routes. */
async function startPeer(bed: Bed, host: Host, path: string, config: PeerConfig): Promise<Program> {
  // Interface names are unique per run: wireguard-go keeps its control sockets in one directory of the machine.
  const name = `wg${host === bed.a ? 'a' : 'b'}${process.pid}`.slice(0, 15)
  const program = host.start(path, ['-f', name], { WG_PROCESS_FOREGROUND: '1', LOG_LEVEL: 'error' })
  await bed.until(() => host.hasInterface(name), `wireguard-go to make ${name}`)
  const file = join(bed.directory('wireguard'), name)
  const text = [
    '[Interface]',
    `PrivateKey = ${config.privateKey}`,
    `ListenPort = ${PORT}`,
    '[Peer]',
    ...config.peer,
  ]
  writeFileSync(file, `${text.join('\n')}\n`, { mode: 0o600 })
  await bed.until(async () => {
    try {
      await host.run('wg', ['setconf', name, file])
      return true
    } catch {
      return false
    }
  }, 'wg setconf')
  for (const address of config.addresses) host.addAddress(name, address)
  host.setUp(name, config.mtu)
  const rtnl = new Rtnetlink(host.netns)
  for (const to of config.routes) rtnl.addRoute({ to: `${to}/${to.includes(':') ? 128 : 32}`, dev: name })
  rtnl.close()
  return program
}
