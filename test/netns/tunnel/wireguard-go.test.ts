/**
 * The protocol machine beside wireguard-go, in both directions. The scenarios run in a namespace of their own with
 * nothing but loopback in it: this file starts itself again under `unshare --net`.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { encodeKey, generatePresharedKey, generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { echoRequest, isEchoReply, PlainDriver } from './plain-driver.ts'

const INSIDE = 'GODWIT_TEST_INSIDE_NETNS'
const loopback = Uint8Array.of(127, 0, 0, 1)

function missing(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  for (const program of ['wireguard-go', 'wg', 'ip', 'unshare'])
    if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) return `needs ${program}`
  return undefined
}

if (process.env[INSIDE] === undefined) {
  test('wireguard-go: interoperation in a namespace of its own', { skip: missing() ?? false }, () => {
    const result = spawnSync(
      'unshare',
      ['--net', process.execPath, '--test-reporter=tap', fileURLToPath(import.meta.url)],
      {
        env: { ...process.env, [INSIDE]: '1', NODE_TEST_CONTEXT: undefined },
        encoding: 'utf8',
        timeout: 120_000,
      },
    )
    assert.equal(result.status, 0, result.stdout + result.stderr)
  })
} else {
  execFileSync('ip', ['link', 'set', 'lo', 'up'])
  inside()
}

/** wireguard-go on 10.99.0.1, and a machine of ours that it knows as 10.99.0.2. */
class Bench {
  readonly name = `wgt${process.pid}`
  readonly directory = mkdtempSync(join(tmpdir(), 'godwit-wg-'))
  readonly theirKey = generatePrivateKey()
  readonly ourKey = generatePrivateKey()
  readonly presharedKey: Uint8Array | undefined
  readonly port: number
  readonly driver: PlainDriver
  #process: ChildProcess | undefined

  constructor(port: number, preshared: boolean) {
    this.port = port
    this.presharedKey = preshared ? generatePresharedKey() : undefined
    this.driver = new PlainDriver({ privateKey: this.ourKey })
  }

  async start(extra: readonly string[] = []): Promise<this> {
    this.#process = spawn('wireguard-go', ['-f', this.name], {
      env: { ...process.env, LOG_LEVEL: 'error' },
      stdio: 'ignore',
    })
    for (let i = 0; i < 100 && spawnSync('wg', ['show', this.name]).status !== 0; i++) await delay(30)
    this.wg('private-key', this.#file('key', this.theirKey), 'listen-port', `${this.port}`)
    this.wg(
      'peer',
      encodeKey(publicKeyOf(this.ourKey)),
      'allowed-ips',
      '10.99.0.2/32',
      ...extra,
      ...this.#psk(),
    )
    execFileSync('ip', ['addr', 'add', '10.99.0.1/24', 'dev', this.name])
    execFileSync('ip', ['link', 'set', this.name, 'up'])
    return this
  }

  wg(...words: string[]): void {
    execFileSync('wg', ['set', this.name, ...words])
  }

  /** One value of `wg show`, of the only peer. */
  show(what: string): string {
    return execFileSync('wg', ['show', this.name, what], { encoding: 'utf8' }).trim().split('\t')[1] ?? ''
  }

  /** Adds wireguard-go as our peer. */
  addPeer(dialect: 'auto' | 'stock' = 'stock', persistentKeepalive = 0): number {
    return this.driver.machine.addPeer(
      {
        publicKey: publicKeyOf(this.theirKey),
        dialect,
        persistentKeepalive,
        ...(this.presharedKey === undefined ? {} : { presharedKey: this.presharedKey }),
      },
      this.driver.now,
    )
  }

  async path(peer: number): Promise<number> {
    const socket = await this.driver.open()
    const remote = { address: loopback, port: this.port }
    return this.driver.machine.addPath(peer, { pathId: 1, socket, remote, mtu: 1500 }, this.driver.now)
  }

  async ping(slot: number, sequence: number): Promise<void> {
    const { driver } = this
    if (!driver.sendPacket(slot, echoRequest(sequence))) {
      await driver.until('a session', () =>
        driver.events.some((event) => event.type === 'session' && event.up),
      )
      assert.ok(driver.sendPacket(slot, echoRequest(sequence)))
    }
    await driver.until(`echo reply ${sequence}`, () =>
      driver.packets.some((each) => isEchoReply(each, sequence)),
    )
  }

  async stop(): Promise<void> {
    this.driver.close()
    const child = this.#process
    if (child !== undefined && child.exitCode === null) {
      child.kill()
      await new Promise((resolve) => child.once('exit', resolve))
    }
    rmSync(this.directory, { recursive: true })
  }

  #psk(): string[] {
    return this.presharedKey === undefined ? [] : ['preshared-key', this.#file('psk', this.presharedKey)]
  }

  #file(name: string, key: Uint8Array): string {
    const path = join(this.directory, name)
    writeFileSync(path, encodeKey(key), { mode: 0o600 })
    return path
  }
}

async function withBench(
  port: number,
  preshared: boolean,
  extra: string[],
  run: (bench: Bench) => Promise<void>,
) {
  const bench = new Bench(port, preshared)
  try {
    await bench.start(extra)
    await run(bench)
  } finally {
    await bench.stop()
  }
}

function sessions(bench: Bench): number {
  return bench.driver.events.filter((event) => event.type === 'session' && event.up).length
}

function inside(): void {
  for (const preshared of [false, true]) {
    test(`we initiate, data both ways, our rekey, ${preshared ? 'with' : 'without'} a pre-shared key`, async () => {
      await withBench(52_001, preshared, [], async (bench) => {
        const peer = bench.addPeer()
        const slot = await bench.path(peer)
        await bench.ping(slot, 1)
        bench.driver.machine.updatePeer(peer, {}, bench.driver.now)
        // WireGuard lets an initiator speak again after 5 s.
        await delay(5_000)
        bench.driver.machine.connect(peer, bench.driver.now)
        bench.driver.settle()
        await bench.driver.until('a second session', () => sessions(bench) === 2)
        await bench.ping(slot, 2)
        assert.equal(bench.show('latest-handshakes').length, 10)
      })
    })
  }

  test('they initiate, with a pre-shared key; we learn their endpoint and keep the session alive', async () => {
    const bench = new Bench(52_002, true)
    const socket = await bench.driver.open()
    try {
      await bench.start(['endpoint', `127.0.0.1:${bench.driver.port(socket)}`, 'persistent-keepalive', '1'])
      bench.addPeer()
      await bench.driver.until('a session', () => sessions(bench) === 1)
      const up = bench.driver.events.find((event) => event.type === 'session')
      assert.ok(up?.type === 'session' && !up.initiator)
      const path = bench.driver.machine.peer(0)!.paths[0]!
      assert.equal(path.state.name, 'up')
      await bench.ping(path.slot, 3)
      await bench.driver.until('keepalives', () => bench.driver.keepalives >= 3)
    } finally {
      await bench.stop()
    }
  })

  test('we roam: wireguard-go follows us to another port', async () => {
    await withBench(52_003, false, [], async (bench) => {
      const peer = bench.addPeer()
      const first = await bench.path(peer)
      await bench.ping(first, 1)
      bench.driver.machine.removePath(first, bench.driver.now)
      const second = await bench.path(peer)
      await bench.ping(second, 2)
      assert.ok(bench.show('endpoints').endsWith(`:${bench.driver.port(1)}`))
    })
  })

  test('they roam: we follow wireguard-go to another port', async () => {
    await withBench(52_004, false, ['persistent-keepalive', '1'], async (bench) => {
      const peer = bench.addPeer()
      const slot = await bench.path(peer)
      await bench.ping(slot, 1)
      bench.wg('listen-port', '52005')
      await bench.driver.until('roaming', () => bench.driver.machine.path(slot)!.remote.port === 52_005)
      await bench.ping(slot, 2)
    })
  })

  test('HELLO does not trouble a stock peer: data flows, and after six tries it is left alone', async () => {
    await withBench(52_006, false, [], async (bench) => {
      const peer = bench.addPeer('auto', 1)
      const slot = await bench.path(peer)
      await bench.ping(slot, 1)
      assert.equal(bench.driver.machine.peer(peer)!.godwit, false)
      await bench.ping(slot, 2)
    })
  })

  test('a wrong pre-shared key and an unknown key: no session, and the reason is named', async () => {
    await withBench(52_007, true, [], async (bench) => {
      const peer = bench.driver.machine.addPeer(
        { publicKey: publicKeyOf(bench.theirKey), dialect: 'stock', presharedKey: generatePresharedKey() },
        bench.driver.now,
      )
      const slot = await bench.path(peer)
      bench.driver.sendPacket(slot, echoRequest(1))
      await bench.driver.until('refusal', () =>
        bench.driver.events.some(
          (event) => event.type === 'handshake-failed' && event.reason === 'authentication',
        ),
      )
      assert.equal(sessions(bench), 0)
    })
  })
}
