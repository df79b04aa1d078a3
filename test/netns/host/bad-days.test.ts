/**
 * Bad days of the two daemons, as a user meets them: real programs, real namespaces, the command line alone. A host with
 * two accesses, and one machine behind both that is anchor and server. What is missing is named; what is killed leaves
 * nothing that `godwit down` does not remove; what is transferred meanwhile arrives whole.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { sha256, writePayload } from '../../../lab/payload.ts'
import type { TopologySpec } from '../../../lab/topology.ts'
import { cgroupMount, KernelCgroups } from '../../../src/linux/cgroup.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { Nft } from '../../../src/linux/nft.ts'
import { findProgram, usesPrograms } from '../../../src/linux/packages.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { daemonStatus } from '../../support/daemon.ts'

usesPrograms('curl', 'unshare')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const ANCHOR = '203.0.113.1'
const SERVER = '203.0.113.7'
const PORT = 51820
/** Six seconds of a download: curl catches up with its rate after a pause, and there must be more to come then. */
const BYTES = 24_000_000
const INSTANCE = `bad-${process.pid}`
const INIT = ['anchor', 'init', '--endpoint', `${ANCHOR}:${PORT}`]

const spec: TopologySpec = {
  name: 'two-machines',
  summary: 'a host with two accesses, and a machine behind both',
  hosts: {
    mh: {
      routes: [
        { to: 'default', via: '10.1.0.1', dev: 'acc1', metric: 100 },
        { to: 'default', via: '10.2.0.1', dev: 'acc2', metric: 200 },
      ],
    },
    an: {},
  },
  links: [1, 2].map((n) => ({
    name: `acc${n}`,
    ends: [
      { host: 'mh', iface: `acc${n}`, addresses: [`10.${n}.0.2/24`] },
      { host: 'an', iface: `net${n}`, addresses: [`10.${n}.0.1/24`] },
    ],
  })),
}

const SERVE = `
  const { createReadStream, statSync } = require('fs')
  require('http').createServer((_, response) => {
    response.setHeader('content-length', statSync(process.argv[1]).size)
    createReadStream(process.argv[1]).pipe(response)
  }).listen(80, '${SERVER}', () => console.log('up'))`

let lab: Lab
let folder: string
let hash: string
let untouched: string

const state = (role: string) => join(folder, role)
const words = (role: string, args: readonly string[]) => [GODWIT, ...args, '--state', state(role)]
const godwit = (role: string, ...args: string[]) =>
  lab.programs.run(role, process.execPath, words(role, args))

interface Ended {
  readonly status: number
  readonly errors: string
}

/** Runs a command that is expected to fail. */
async function attempt(
  role: string,
  args: readonly string[],
  wrap: readonly string[] = [],
  instance = role,
): Promise<Ended> {
  const [command, ...rest] = [...wrap, process.execPath, ...words(instance, args)]
  const program = await lab.programs.start(role, command!, rest)
  const timer = setTimeout(() => program.signal('SIGTERM'), 20_000)
  const status = await program.ended
  clearTimeout(timer)
  return { status, errors: program.errors }
}

/** In a mount namespace of its own, after these commands. */
function hiding(...commands: readonly string[]): string[] {
  return ['unshare', '-m', 'sh', '-c', `${commands.join(' && ')} && exec "$@"`, 'sh']
}

async function daemon(role: string, instance: string, ...args: string[]): Promise<Program> {
  const program = await lab.programs.start(role, process.execPath, words(instance, args), {
    log: join(folder, `${instance}.log`),
  })
  await program.expect((line) => line.trim() === 'ready', 20_000)
  return program
}

async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  for (let i = 0; i < 150; i++) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`not within 15 seconds: ${what}`)
}

const status = () => daemonStatus(state('mh'))
/** Paths that carry traffic. */
const pathsUp = async () =>
  (await status()).peers
    .flatMap(({ paths }) => paths)
    .filter(({ state }) => state === 'up' || state === 'degrading').length

/** Waits until another megabyte has arrived. */
async function grows(): Promise<void> {
  const size = () => statSync(join(folder, 'arrived'), { throwIfNoEntry: false })?.size ?? 0
  const wanted = Math.min(BYTES, size() + 1_000_000)
  await until('the download flows', () => size() >= wanted)
}

/** Starts a download that takes some seconds; resolves with the SHA-256 of what arrived. */
async function download(): Promise<string | undefined> {
  const file = join(folder, 'arrived')
  await lab.programs.run('mh', 'curl', ['-s', '--limit-rate', '4M', '-o', file, `http://${SERVER}/`])
  return sha256(file)
}

/** Downloads, and does something once it flows: `act` is awaited beside the transfer. */
async function during(act: () => Promise<void>): Promise<void> {
  rmSync(join(folder, 'arrived'), { force: true })
  const done = download()
  await grows()
  await act()
  assert.equal(await done, hash)
}

/** All that godwit may change in the kernel, a line each: rules, routes, devices, nftables, settings, control groups. */
function kernelState(): string {
  const mount = cgroupMount()
  const lines: string[] = mount === undefined ? [] : new KernelCgroups(mount, INSTANCE).list()
  for (const role of ['mh', 'an']) {
    const rtnl = lab.rtnl(role)
    const sysctls = new KernelSysctls(`gw-${role}`)
    const items = [
      ...rtnl.rules(),
      // Routes of link-local addresses come and go as interfaces settle.
      ...rtnl.routes().filter(({ to }) => !/^f[ef]/.test(to)),
      ...rtnl.links().map(({ name }) => name),
      ...new Nft(`gw-${role}`).tables(),
      ...['net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'].map((key) => [key, sysctls.get(key)]),
    ]
    lines.push(...items.map((item) => `${role} ${JSON.stringify(item)}`).sort())
  }
  return lines.join('\n')
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-bad-days-'))
  hash = writePayload(join(folder, 'payload'), BYTES, process.pid)
  lab = await Lab.build(spec)
  for (const address of [ANCHOR, SERVER]) lab.rtnl('an').addAddress('lo', `${address}/32`)
  const server = await lab.programs.start('an', process.execPath, ['-e', SERVE, join(folder, 'payload')], {
    input: true,
  })
  await server.expect((line) => line === 'up', 10_000)
  await godwit('an', ...INIT)
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
  for (const role of ['mh', 'an']) {
    appendFileSync(join(state(role), 'godwit.toml'), `\n[kernel]\ninstance = "${INSTANCE}"\n`)
  }
  await delay(1500) // the routes of new links are there when IPv6 has settled
  untouched = kernelState()
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

describe('what is missing is named, with the way to get it, and nothing is left half made', () => {
  const roles = [
    ['mh', ['up']],
    ['an', ['anchor', 'up']],
  ] as const
  for (const [role, args] of roles) {
    test(`${args.join(' ')}: no /dev/net/tun`, async () => {
      const ended = await attempt(role, args, hiding('mount -t tmpfs none /dev/net'))
      assert.equal(ended.status, 3, ended.errors)
      assert.match(ended.errors, /\/dev\/net\/tun.*modprobe tun/)
      assert.equal(kernelState(), untouched)
    })

    test(`${args.join(' ')}: no right to change the network`, async () => {
      const ended = await attempt(role, args, ['setpriv', '--bounding-set', '-all'])
      assert.equal(ended.status, 3, ended.errors)
      assert.match(ended.errors, /CAP_NET_ADMIN.*sudo/)
      assert.equal(kernelState(), untouched)
    })
  }

  test('anchor up: no nft', async () => {
    const ended = await attempt(
      'an',
      ['anchor', 'up'],
      hiding(`mount --bind /dev/null ${findProgram('nft')}`),
    )
    assert.equal(ended.status, 3, ended.errors)
    assert.match(ended.errors, /nft.*apt-get install nftables/)
    assert.equal(kernelState(), untouched)
  })

  /** Programs that answer like an old nft, and like one on a kernel without nf_tables. */
  const POOR: readonly [string, string, RegExp][] = [
    [
      'nft of ten years ago',
      `[ "$1" = --version ] && echo 'nftables v0.9.0 (Fearless Fosdick)' && exit; echo 'Error: syntax error, unexpected json' >&2; exit 1`,
      /syntax error.*nft 0\.9\.0 is too old: 1\.0 or newer is needed/,
    ],
    [
      'a kernel without nf_tables',
      `[ "$1" = --version ] && echo 'nftables v1.0.6 (Lester Gooch #5)' && exit; echo 'netlink: Error: cache initialization failed: Protocol not supported' >&2; exit 1`,
      /Protocol not supported.*modprobe -a nf_tables/,
    ],
  ]
  for (const [name, script, said] of POOR)
    test(`anchor up: ${name}`, async () => {
      const program = join(folder, 'nft')
      writeFileSync(program, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
      const ended = await attempt(
        'an',
        ['anchor', 'up'],
        hiding(`mount --bind ${program} $(readlink -f ${findProgram('nft')})`),
      )
      assert.equal(ended.status, 1, ended.errors)
      assert.match(ended.errors, said)
      assert.equal(kernelState(), untouched)
    })

  test('anchor up: the port is taken', async () => {
    const other = await lab.programs.start('an', process.execPath, [
      '-e',
      `require('dgram').createSocket('udp4').bind(${PORT}, () => console.log('up'))`,
    ])
    await other.expect((line) => line === 'up', 10_000)
    const ended = await attempt('an', ['anchor', 'up'])
    await other.stop()
    assert.equal(ended.status, 1, ended.errors)
    assert.match(ended.errors, new RegExp(`${PORT}.*another process`))
    assert.equal(kernelState(), untouched)
  })

  test('anchor up: nobody reads what it says, and its log stands still: it runs, and ends when it is told to', async () => {
    const full = 'mkfifo "$0"; exec 3<>"$0"; head -c 65536 /dev/zero >&3; exec "$@" 2>&3 3>&-'
    const args = [
      '-c',
      `(${full}) | true`,
      join(folder, 'log'),
      process.execPath,
      ...words('an', ['anchor', 'up']),
    ]
    const program = await lab.programs.start('an', 'sh', args)
    const ready = async () => (await daemonStatus(state('an'))).ready
    await until('it is ready', () => ready().catch(() => false))
    process.kill(Number(readFileSync(join(state('an'), 'lock'), 'utf8')), 'SIGTERM')
    await until('it has ended', () => !program.running)
    assert.equal(kernelState(), untouched)
  })
})

describe('an anchor that does not answer yet, and a daemon that must not hold the traffic', () => {
  let host: Program
  const direct = () =>
    lab.programs.run('mh', 'curl', [
      '-s',
      '-o',
      '/dev/null',
      '-w',
      '%{local_ip}',
      '-r',
      '0-9',
      `http://${SERVER}/`,
    ])

  test('`up` says at once what it waits for and that traffic is held, and `ready` when the anchor answers', async () => {
    host = await lab.programs.start('mh', process.execPath, words('mh', ['up']), {
      log: join(folder, 'mh.log'),
    })
    const said = () => readFileSync(join(folder, 'mh.log'), 'utf8')
    await until('it says so', () => /waiting for an answer from .* over acc1, acc2; .*held/.test(said()))
    const { ready, waiting } = await status()
    assert.equal(ready, false)
    assert.match(waiting ?? '', /held/)
    const anchor = await daemon('an', 'an', 'anchor', 'up')
    await host.expect((line) => line.trim() === 'ready', 20_000)
    assert.deepEqual([(await status()).ready, (await status()).waiting], [true, undefined])
    await host.stop()
    await anchor.stop()
  })

  test('issue 10, A11: `run --direct` starts a program past the tunnel, with the address of its access', async () => {
    const anchor = await daemon('an', 'an', 'anchor', 'up')
    host = await daemon('mh', 'mh', 'up')
    const curl = ['curl', '-s', '-o', '/dev/null', '-w', '%{local_ip}', '-r', '0-9', `http://${SERVER}/`]
    assert.equal(await direct(), '198.19.0.1')
    const command = [GODWIT, 'run', '--direct', '--state', state('mh'), '--', ...curl]
    assert.equal((await lab.programs.run('mh', process.execPath, command)).trim(), '10.1.0.2')
    await host.stop()
    await anchor.stop()
  })

  /** As on a machine whose owner removed the configuration first; nothing of the machine itself is seen. */
  const downWithoutConfiguration = async () => {
    const hide = ['/etc', '/var/lib', '/run'].map((path) => `mount -t tmpfs none ${path} && `).join('')
    const script = `umount -lR /sys/fs/cgroup && ${hide}"$@" && ls /var/lib/godwit >&2`
    const down = await lab.programs.start('mh', 'unshare', [
      ...['-m', '--propagation', 'private', 'sh', '-c', script, 'sh', process.execPath, GODWIT, 'down'],
    ])
    assert.equal(await down.ended, 0, down.errors)
    assert.match(down.errors, /there is no \/etc\/godwit\/godwit\.toml: only what a host/)
    assert.doesNotMatch(down.errors, /dime\.keys/, 'no key of DIME is made')
  }

  test('killed: new connections are held by default; with on_crash = "direct" they leave as without godwit', async () => {
    const anchor = await daemon('an', 'an', 'anchor', 'up')
    const config = join(state('mh'), 'godwit.toml')
    const text = readFileSync(config, 'utf8')
    for (const [extra, local] of [
      ['', undefined],
      ['\n[host]\non_crash = "direct"\n', '10.1.0.2'],
    ] as const) {
      writeFileSync(config, text + extra)
      host = await daemon('mh', 'mh', 'up')
      assert.equal(await direct(), '198.19.0.1')
      host.child.kill('SIGKILL')
      await host.ended
      const tried = await lab.programs.start('mh', 'curl', [
        ...['-s', '-m', '2', '-o', '/dev/null', '-w', '%{local_ip}\n', '-r', '0-9', `http://${SERVER}/`],
      ])
      const from = await tried.line()
      const ended = await tried.ended
      if (local === undefined) {
        assert.equal(ended, 28, 'it waits, and curl gives up')
        await downWithoutConfiguration()
        assert.equal(await direct(), '10.1.0.2', 'nothing is held back any more')
      } else assert.equal(from, local)
    }
    writeFileSync(config, text)
    await godwit('mh', 'down')
    await anchor.stop()
    await godwit('an', 'down')
    assert.equal(kernelState(), untouched)
  })
})

describe('daemons that are killed, interfaces that go, disks that fill up', () => {
  let anchor: Program
  let host: Program

  before(async () => {
    anchor = await daemon('an', 'an', 'anchor', 'up')
    host = await daemon('mh', 'mh', 'up')
    await until('both paths are up', async () => (await pathsUp()) === 2)
  })

  test('a second daemon on the same state is refused, and the first one carries on', async () => {
    for (const [role, args, pid] of [
      ['mh', ['up'], host.pid],
      ['an', ['anchor', 'up'], anchor.pid],
      ['mh', ['down'], host.pid],
    ] as const) {
      const ended = await attempt(role, args)
      assert.equal(ended.status, 1, ended.errors)
      assert.match(ended.errors, new RegExp(`another godwit \\(process ${pid}\\)`))
    }
    assert.equal(await pathsUp(), 2)
  })

  test('an access that disappears in mid-transfer, device and all, and comes back', async () => {
    let n = ''
    await during(async () => {
      n = (await status()).flows.find(({ app }) => app === 'curl')!.access.slice(-1)
      lab.rtnl('mh').deleteLink(`acc${n}`)
    })
    const gone = (await status()).accesses.find(({ name }) => name === `acc${n}`)
    assert.equal(gone?.state ?? 'down', 'down')
    const [mh, an] = [lab.rtnl('mh'), lab.rtnl('an')]
    mh.createLink({ kind: 'veth', name: `acc${n}`, peer: { name: `net${n}`, netns: 'gw-an' } })
    an.setLink(`net${n}`, { up: true })
    an.addAddress(`net${n}`, `10.${n}.0.1/24`)
    mh.setLink(`acc${n}`, { up: true })
    mh.addAddress(`acc${n}`, `10.${n}.0.2/24`)
    mh.addRoute({ to: 'default', via: `10.${n}.0.1`, dev: `acc${n}`, metric: Number(n) * 100 })
    await until('both paths are up again', async () => (await pathsUp()) === 2)
  })

  test('kill -9 of host daemon and anchor in mid-transfer, one after the other', async () => {
    await during(async () => {
      host.child.kill('SIGKILL')
      await host.ended
      host = await daemon('mh', 'mh', 'up')
      await grows()
      anchor.child.kill('SIGKILL')
      await anchor.ended
      anchor = await daemon('an', 'an', 'anchor', 'up')
    })
  })

  test('kill -9 of both, then `godwit down`: nothing is left; it may be called again', async () => {
    const program = await lab.programs.start('mh', process.execPath, [
      ...[GODWIT, 'run', '--state', state('mh'), '--', 'sh', '-c', 'echo up; exec sleep 60'],
    ])
    await program.expect((line) => line === 'up', 10_000)
    for (const each of [host, anchor]) each.child.kill('SIGKILL')
    await Promise.all([host.ended, anchor.ended])
    assert.notEqual(kernelState(), untouched)
    for (const role of ['mh', 'an']) {
      await godwit(role, 'down')
      await godwit(role, 'down')
    }
    assert.equal(kernelState(), untouched)
    await program.stop()
  })

  test('SIGTERM: nothing is left', async () => {
    anchor = await daemon('an', 'an', 'anchor', 'up')
    host = await daemon('mh', 'mh', 'up')
    for (const each of [host, anchor]) each.child.kill('SIGTERM')
    assert.deepEqual(await Promise.all([host.ended, anchor.ended]), [0, 0])
    assert.equal(kernelState(), untouched)
  })
})

describe('an anchor that is full', () => {
  const small = () => join(state('small'), 'filler')
  let anchor: Program

  before(async () => {
    mkdirSync(state('small'))
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k,mode=700', 'none', state('small')])
    assert.equal(mounted.status, 0, String(mounted.stderr))
    await lab.programs.run('an', process.execPath, words('small', INIT))
    // Two addresses: the anchor's own and one for a host.
    appendFileSync(
      join(state('small'), 'godwit.toml'),
      `pool4 = "198.18.0.0/30"\n[kernel]\ninstance = "${INSTANCE}"\n`,
    )
    anchor = await daemon('an', 'small', 'anchor', 'up')
  })

  after(async () => {
    await anchor?.stop()
    spawnSync('umount', [state('small')])
  })

  test('UP-19: of addresses: an invitation is refused, and one that is taken back makes room', async () => {
    await lab.programs.run('an', process.execPath, words('small', ['anchor', 'invite', 'first']))
    const ended = await attempt('an', ['anchor', 'invite', 'second'], [], 'small')
    assert.equal(ended.status, 1, ended.errors)
    assert.match(ended.errors, /no address of 198\.18\.0\.0\/30 is free.*anchor remove/)
    await lab.programs.run('an', process.execPath, words('small', ['anchor', 'remove', 'first']))
  })

  test('of files: a host joins all the same; the anchor says what it cannot remember, and does later', async () => {
    const invite = words('small', ['anchor', 'invite', 'first'])
    const invitation = (await lab.programs.run('an', process.execPath, invite)).trim()
    try {
      writeFileSync(small(), Buffer.alloc(1 << 17))
    } catch {
      // It is full now.
    }
    const refused = await attempt('an', ['anchor', 'remove', 'first'], [], 'small')
    assert.equal(refused.status, 1)
    assert.match(refused.errors, /no space left/)
    rmSync(state('mh'), { recursive: true })
    await godwit('mh', 'join', invitation)
    appendFileSync(join(state('mh'), 'godwit.toml'), `\n[kernel]\ninstance = "${INSTANCE}"\n`)
    const host = await daemon('mh', 'mh', 'up')
    const said = () => readFileSync(join(folder, 'small.log'), 'utf8')
    await until('the anchor says so', () => /key of first cannot be stored.*no space left/.test(said()))
    assert.equal(await download(), hash)
    rmSync(small())
    await until('it is remembered', () => /the key of first is stored/.test(said()))
    assert.match(said(), /first has joined/)
    assert.equal(said().match(/cannot be stored/g)?.length, 1, 'said once')
    const hosts = words('small', ['anchor', 'hosts', '--json'])
    const listed = await lab.programs.run('an', process.execPath, hosts)
    assert.match(listed, /"state": ?"joined"/)
    await host.stop()
  })
})
