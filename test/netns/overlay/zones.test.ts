/** Nodes of two zones on the real kernel: real servers that find each other over a real resolver, by delegation. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { unboundConfiguration } from '../../support/unbound.ts'

usesPrograms('curl', 'dig', 'ip', 'ping', 'unbound')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const RESOLVER = '192.0.2.3'
/** Each zone: its server, and the node in it. */
const ZONES = [
  { zone: 'home.example', server: 'sa', at: '192.0.2.11', node: 'alice', nodeAt: '192.0.2.21' },
  { zone: 'work.example', server: 'sb', at: '192.0.2.12', node: 'bob', nodeAt: '192.0.2.22' },
] as const
type Zone = (typeof ZONES)[number]

describe('NT-17, NT-19, NT-40: nodes of two zones', () => {
  const [home, work] = ZONES
  let lab: Lab
  let folder: string
  const servers = new Map<Zone, Program>()
  const state = (host: string) => join(folder, host)
  const godwit = (host: string, ...args: string[]) =>
    lab.programs.run(host, process.execPath, [GODWIT, 'overlay', ...args, '--state', state(host)])
  const start = async (host: string, ...args: string[]) => {
    const words = [GODWIT, 'overlay', ...args, '--state', state(host)]
    const log = join(folder, `${host}.log`)
    const program = await lab.programs.start(host, process.execPath, words, { log })
    await program.expect((line) => line.trim() === 'ready', 30_000)
    return program
  }
  const refused = (host: string, name: string) =>
    godwit(host, 'resolve', name).then(
      () => assert.fail(`${name} was found`),
      (error: Error) => error.message,
    )

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-zones-'))
    const hosts = [
      ['res', RESOLVER],
      ...ZONES.flatMap((z) => [
        [z.server, z.at],
        [z.node, z.nodeAt],
      ]),
    ] as [string, string][]
    lab = await Lab.build({
      name: 'overlay-zones',
      summary: 'servers and nodes of two zones, and a resolver',
      hosts: {
        net: { bridge: true },
        ...Object.fromEntries(hosts.map(([host]) => [host, { routes: [{ to: 'default', via: RESOLVER }] }])),
        res: {},
      },
      links: hosts.map(([host, address]) => ({
        name: host,
        ends: [
          { host, iface: 'wan', addresses: [`${address}/24`] },
          { host: 'net', iface: host },
        ],
      })),
    })
    const zoneFile = join(folder, 'example.zone')
    writeFileSync(
      zoneFile,
      [
        '$ORIGIN example.',
        '@ 300 IN SOA ns.example. root.example. 1 3600 600 86400 300',
        '@ 300 IN NS ns.example.',
        `ns 300 IN A ${RESOLVER}`,
        ...ZONES.flatMap(({ zone, at }) => [`${zone}. 300 IN NS dc.${zone}.`, `dc.${zone}. 300 IN A ${at}`]),
        '',
      ].join('\n'),
    )
    const configuration = join(folder, 'unbound.conf')
    writeFileSync(
      configuration,
      unboundConfiguration({ folder, address: RESOLVER, zone: 'example.', zoneFile }),
    )
    await lab.programs.start('res', 'unbound', ['-d', '-c', configuration])
    for (const each of ZONES) {
      await godwit(each.server, 'init', '--zone', each.zone, '--endpoint', each.at, '--resolver', RESOLVER)
      servers.set(each, await start(each.server, 'serve'))
      const account = JSON.parse(await godwit(each.server, 'account', 'add', 'carol', '--json')) as {
        password: string
        server: string
        pin: string
      }
      const other = ZONES.find((zone) => zone !== each)!
      mkdirSync(state(each.node), { recursive: true, mode: 0o700 })
      writeFileSync(
        join(state(each.node), 'godwit.toml'),
        `[overlay]\naccesses = ["wan"]\ndns = "none"\nzones = ["${other.zone}"]\n`,
      )
      const login = [GODWIT, 'overlay', 'login', 'carol', '--server', account.server, '--pin', account.pin]
      const words = [...login, '--name', each.node, '--state', state(each.node)]
      const typed = 'printf "%s\\n" "$0" | exec "$@"'
      await lab.programs.run(each.node, 'sh', ['-c', typed, account.password, process.execPath, ...words])
      await start(each.node, 'up')
    }
  })
  after(async () => {
    await lab?.close()
    rmSync(folder, { recursive: true, force: true })
  })

  it('D10: until its zone says so, a node is not reached from another; a zone that is not there is said to be', async () => {
    assert.match(await refused('alice', 'bob.work.example'), /not allowed to reach it/)
    assert.match(await refused('alice', 'x.nowhere.example'), /its coordinator does not answer/)
  })

  it('NT-40: a name of the other zone is resolved, by command and by the node’s name server, and packets go from end to end', async () => {
    await godwit(work.server, 'allow', 'bob', '*.home.example')
    const text = await godwit('alice', 'resolve', 'bob.work.example')
    const address = /fd\S+/.exec(text)![0]
    await lab.programs.run('alice', 'ping', ['-c', '3', '-i', '0.2', '-W', '2', address])
    const own = await lab.programs.run('alice', 'ip', ['-6', '-o', 'address', 'show', 'dev', 'gwov0'])
    const server = /inet6 (fd[0-9a-f:]+)/.exec(own)![1]!
    const answer = await lab.programs.run('alice', 'dig', [
      `@${server}`,
      '+short',
      'bob.work.example',
      'AAAA',
    ])
    assert.equal(answer.trim(), address)
  })

  it('the coordinators die: the tunnel stands; they come back, and the names are found again', async () => {
    for (const each of ZONES) {
      servers.get(each)!.signal('SIGKILL')
      await servers.get(each)!.ended
    }
    const text = await godwit('alice', 'resolve', 'bob.work.example').catch(() => '')
    const address = /fd\S+/.exec(text)?.[0]
    if (address !== undefined)
      await lab.programs.run('alice', 'ping', ['-c', '2', '-i', '0.2', '-W', '2', address])
    for (const each of ZONES) servers.set(each, await start(each.server, 'serve'))
    const end = Date.now() + 30_000
    while (
      !(await godwit('alice', 'resolve', 'bob.work.example').then(
        (t) => t.includes('fd'),
        () => false,
      ))
    ) {
      assert.ok(Date.now() < end, 'found again')
      await delay(300)
    }
  })

  it('forget-zone: only a zone that was met', async () => {
    assert.match(await godwit(home.server, 'forget-zone', 'work.example'), /the keys that its DNS shows next/)
    await assert.rejects(
      godwit(home.server, 'forget-zone', 'work.example'),
      /no node of zone work\.example has been met/,
    )
  })
})
