/**
 * wireguard-go and a machine of ours in a namespace that holds nothing but loopback: the test file starts itself again
 * under `unshare --net`.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { echoRequest, isEchoReply, PlainDriver } from '../../../bench/programs/plain-driver.ts'
import { encodeKey, generatePresharedKey, generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('ip', 'wg', 'wireguard-go')

const INSIDE = 'GODWIT_TEST_INSIDE_NETNS'
const loopback = Uint8Array.of(127, 0, 0, 1)

/** Runs `inside` in a fresh network namespace; `file` is the test file's `import.meta.url`, `limit` in milliseconds. */
export function inOwnNamespace(file: string, limit: number, inside: () => void): void {
  if (process.env[INSIDE] !== undefined) {
    execFileSync('ip', ['link', 'set', 'lo', 'up'])
    inside()
    return
  }
  test('wireguard-go: interoperation in a namespace of its own', { skip: missing() ?? false }, () => {
    const result = spawnSync(
      'unshare',
      ['--net', process.execPath, '--test-reporter=tap', fileURLToPath(file)],
      {
        env: { ...process.env, [INSIDE]: '1', NODE_TEST_CONTEXT: undefined },
        encoding: 'utf8',
        timeout: limit,
      },
    )
    assert.equal(result.status, 0, result.stdout + result.stderr)
  })
}

function missing(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  for (const program of ['wireguard-go', 'wg', 'ip', 'unshare'])
    if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) return `needs ${program}`
  return undefined
}

/** wireguard-go on 10.99.0.1, and a machine of ours that it knows as 10.99.0.2. */
export class Bench {
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

export async function withBench(
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

export function sessions(bench: Bench): number {
  return bench.driver.events.filter((event) => event.type === 'session' && event.up).length
}
