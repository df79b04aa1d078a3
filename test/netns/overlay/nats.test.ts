/** The thread that talks to NATS: TLS and passwords, and a writer that floods or makes things up. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import type { GodwitError } from '../../../src/core/errors.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import type { SoftInput } from '../../../src/overlay/machine/fellows.ts'
import { newSettings } from '../../../src/overlay/servers/settings.ts'
import { SoftBus } from '../../../src/overlay/servers/soft/bus.ts'
import { type NatsConnection, natsClient } from '../../../src/overlay/servers/soft/client.ts'
import { reportSoft } from '../../../src/overlay/servers/soft/report.ts'
import { type SoftSettings, softNames } from '../../../src/overlay/servers/soft/settings.ts'
import { cannotRunNats, isListening, NatsServer } from '../../support/nats.ts'
import { until } from '../../support/postgres.ts'

usesPrograms('openssl')

const ZONE = 'nats.example'

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

describe('NT-15: the thread that talks to NATS', { skip: cannotRunNats() }, () => {
  let folder: string
  const servers: NatsServer[] = []
  const start = async (name: string, more = '') => {
    const place = { name, address: '127.0.0.1', port: await freePort(), cluster: 0 }
    const server = new NatsServer(folder, place, [place], undefined, more)
    servers.push(server)
    await server.start()
    await isListening(place)
    return place.port
  }
  const settingsFor = (port: number, more: Partial<SoftSettings> = {}): SoftSettings => ({
    ...{ url: `nats://localhost:${port}`, name: 'a', host: 'x', addresses: ['127.0.0.1'] },
    ...{ tls: 'off', replicas: 1, ...more },
  })

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-nats-'))
  })
  after(async () => {
    for (const server of servers) await server.kill()
    rmSync(folder, { recursive: true, force: true })
  })

  it('over TLS: the certificate of the server and the password count; what is wrong is said', async () => {
    const [cert, key] = [join(folder, 'server.crt'), join(folder, 'server.key')]
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-days', '2']
    const args = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert, ...subject]
    execFileSync('openssl', args, { stdio: 'pipe' })
    const password = join(folder, 'password')
    writeFileSync(password, 'a good one\n', { mode: 0o600 })
    const port = await start(
      'tls',
      `tls { cert_file: "${cert}", key_file: "${key}" }\nauthorization { users: [{ user: godwit, password: "a good one" }] }`,
    )
    const zone = newSettings({
      ...{ zone: ZONE, host: 'x', port: 6741, addresses: ['127.0.0.1'], block4: null, dnsPort: 0 },
      ...{ openTo: 'zone', resolvers: [] },
    })
    const report = (
      more: { [Key in keyof SoftSettings]?: SoftSettings[Key] | undefined },
      host = 'localhost',
    ) => {
      const whole = {
        ...settingsFor(port, { url: `nats://godwit@${host}:${port}`, tls: 'verify' }),
        ...{ password_file: password, ca_file: cert, ...more },
      }
      return reportSoft({ ...zone, soft: whole as SoftSettings })
    }
    const refused = async (
      more: { [Key in keyof SoftSettings]?: SoftSettings[Key] | undefined },
      code: string,
      text: RegExp,
      host?: string,
    ) =>
      await assert.rejects(report(more, host), (error: GodwitError) => {
        assert.equal(error.code, code, error.message)
        assert.match(`${error.message} ${error.hint}`, text)
        return true
      })
    const right = await report({})
    assert.deepEqual([right.tls, right.coordinators.length, right.replicas], [true, 0, null])
    await refused({ ca_file: undefined }, 'SOFT_AWAY', /certificate/)
    await refused({}, 'SOFT_AWAY', /altnames|does not match/i, '127.0.0.1')
    writeFileSync(password, 'a wrong one\n')
    await refused({}, 'SOFT_REFUSED', /auth/i)
    chmodSync(password, 0o644)
    await refused({}, 'SECRET_EXPOSED', /chmod|others/)
  })

  it('a flood of messages, too long ones and those for other keys are dropped; what is asked is answered meanwhile', async () => {
    const port = await start('flood')
    const inputs: SoftInput[] = []
    const logged: string[] = []
    const bus = new SoftBus(
      { settings: settingsFor(port), zone: ZONE },
      {
        onInput: (input) => inputs.push(input),
        log: (_level, message) => logged.push(message),
      },
    )
    let connection: NatsConnection | undefined
    try {
      // Connected, and the bucket is there.
      await until(() => inputs.filter(({ type }) => type === 'soft-up').length === 2, 'the bus is up')
      connection = await natsClient().connect({ servers: [`127.0.0.1:${port}`] })
      const names = softNames(ZONE)
      inputs.length = 0
      connection.publish(names.all, new Uint8Array(100_000))
      connection.publish(`$KV.${names.bucket}.${'x'.repeat(300)}`, new Uint8Array(10))
      for (let i = 0; i < 120_000; i++) {
        connection.publish(names.all, new Uint8Array(60))
        if (i % 20_000 === 0) await connection.flush()
      }
      bus.post({ type: 'soft-put', key: 'k', bytes: new Uint8Array(70).fill(3) })
      await connection.flush()
      bus.post({ type: 'soft-get', id: 5, key: 'k' })
      bus.post({ type: 'soft-get', id: 6, key: 'there is none' })
      const got = (id: number) => inputs.find((input) => input.type === 'soft-got' && input.id === id)
      await until(() => got(5) !== undefined && got(6) !== undefined, 'it answers')
      const heard = inputs.filter((input) => input.type === 'soft-heard' || input.type === 'soft-entry')
      assert.ok(heard.length < 110_000, `${heard.length} were handed on`)
      assert.ok(heard.every((input) => input.bytes.length <= 1300))
      assert.match(logged.join('\n'), /too many or too long/)
      assert.doesNotMatch(logged.join('\n'), /Error/)
    } finally {
      await connection?.close()
      await bus.stop()
    }
  })

  it('servers that send whatever they like end nothing: the bus goes to one that is right when it is there', async () => {
    let what = 0
    const hostile = createServer((socket) => {
      const info = `INFO {"server_id":"x","version":"2.9.10","proto":1,"headers":true,"max_payload":1000000,"jetstream":true}\r\n`
      const texts = [
        'INFO {\r\n',
        `${info}+OK\r\nPONG\r\nMSG godwit 99999999999\r\n`,
        `${info}PONG\r\nHMSG a 1 5 3\r\nxxxxx\r\n`,
        `${info}PONG\r\nMSG ${softNames(ZONE).all} 1 4\r\nabcd\r\n-ERR 'x'\r\n`,
        `${info}PONG\r\nINFO {"lame_duck_mode":true,"connect_urls":[5]}\r\n\u0000\u0001\r\n`,
      ]
      socket.on('error', () => {})
      socket.write(texts[what++ % texts.length]!)
      setTimeout(() => socket.destroy(), 200).unref()
    })
    await new Promise<void>((resolve) => hostile.listen(0, '127.0.0.1', () => resolve()))
    const { port } = hostile.address() as { port: number }
    const inputs: SoftInput[] = []
    const url = `nats://127.0.0.1:${port},127.0.0.1:${await freePort()}`
    const right = { name: 'right', address: '127.0.0.1', port: Number(url.split(':').at(-1)), cluster: 0 }
    const bus = new SoftBus(
      { settings: settingsFor(0, { url }), zone: ZONE },
      { onInput: (input) => inputs.push(input), log: () => {} },
    )
    try {
      await until(() => what >= 5, 'it has tried them')
      hostile.close()
      const server = new NatsServer(folder, right, [right])
      servers.push(server)
      await server.start()
      await isListening(right)
      inputs.length = 0
      bus.post({ type: 'soft-put', key: 'z', bytes: new Uint8Array(70) })
      await until(
        () =>
          inputs.filter(({ type }) => type === 'soft-up').length >= 2 && inputs.at(-1)?.type === 'soft-up',
        'it is at the one that is right',
        30_000,
      )
    } finally {
      hostile.close()
      await bus.stop()
    }
  })

  it('a server that sends without end, or nothing, is left before much is gathered', async () => {
    const info = `INFO {"server_id":"x","version":"2.9.10","proto":1,"headers":true,"max_payload":1000000}\r\n`
    const { all } = softNames(ZONE)
    const letters = 'A'.repeat(1 << 20)
    // What comes first, what comes on a ping, and what comes again and again after it.
    const ways: readonly (readonly [string, string, string])[] = [
      [info, `PONG\r\nMSG ${all} 1 4000000000\r\n`, letters],
      [info, `PONG\r\nHMSG ${all} 1 12 60000000\r\n`, letters],
      [info, `PONG\r\n-ERR '`, letters],
      [info, 'PONG\r\nNONSENSE\r\n', '+OK\r\n'.repeat(200_000)],
      [info, 'PONG\r\n', 'PING\r\n'.repeat(200_000)],
      [letters, '', letters],
      ['', '', ''],
    ]
    const most = 64 << 20
    let connections = 0
    const taken = new Map<number, number>()
    const hostile = createServer((socket) => {
      const way = connections++ % ways.length
      const [first, answer, more] = ways[way]!
      const flood = () => {
        while (more !== '' && !socket.destroyed && socket.bytesWritten < most && socket.write(more));
      }
      socket.on('error', () => {})
      socket.on('drain', flood)
      socket.on('close', () => taken.set(way, Math.max(taken.get(way) ?? 0, socket.bytesWritten)))
      let isAnswered = false
      // Read once; pings are sent to one who does not read the answers.
      socket.once('data', function read(bytes: Buffer) {
        if (isAnswered || !bytes.includes('PING')) socket.once('data', read)
        else socket.pause()
        isAnswered ||= bytes.includes('PING')
        if (!isAnswered) return
        socket.write(answer)
        flood()
      })
      if (first !== '') socket.write(first)
      if (answer === '') flood()
    })
    await new Promise<void>((resolve) => hostile.listen(0, '127.0.0.1', () => resolve()))
    const { port } = hostile.address() as { port: number }
    const setup = { settings: settingsFor(port), zone: ZONE }
    const buses = ways.map(() => new SoftBus(setup, { onInput: () => {}, log: () => {} }))
    try {
      await until(() => taken.size === ways.length, 'it has left all', 30_000)
      for (const [way, bytes] of taken) assert.ok(bytes < most / 2, `way ${way}: ${bytes} bytes`)
    } finally {
      await Promise.all(buses.map((bus) => bus.stop()))
      hostile.close()
    }
  })

  it('what a server complains of fills no log', async () => {
    const lines = `-ERR 'Permissions Violation for Publish to "\u001b[31mx"'\r\nINFO {"ldm":true}\r\n`
    const hostile = createServer((socket) => {
      socket.on('error', () => {})
      socket.write('INFO {"server_id":"x","version":"2.9.10\\n","proto":1,"headers":true}\r\n')
      socket.on('data', (bytes) => {
        if (bytes.includes('PING')) socket.end(`PONG\r\n${lines.repeat(20_000)}`)
      })
    })
    await new Promise<void>((resolve) => hostile.listen(0, '127.0.0.1', () => resolve()))
    const { port } = hostile.address() as { port: number }
    const logged: string[] = []
    let downs = 0
    const bus = new SoftBus(
      { settings: settingsFor(port), zone: ZONE },
      {
        onInput: ({ type }) => {
          if (type === 'soft-down') downs++
        },
        log: (_level, message) => logged.push(message),
      },
    )
    try {
      await until(() => downs >= 2, 'it was there twice')
      assert.match(logged.join(), /Permissions Violation/)
      assert.ok(logged.length <= 40, `${logged.length} lines`)
      assert.ok(logged.every((line) => !/\p{C}/u.test(line) && line.length < 700))
    } finally {
      await bus.stop()
      hostile.close()
    }
  })
})
