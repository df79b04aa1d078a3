/** NT-21: the notification server and a node's connection to it, over TLS on loopback: strangers, limits, losses. */
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { type AddressInfo, connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, it } from 'node:test'
import { connect, createServer, type TLSSocket } from 'node:tls'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ensureCertificate, readCertificate, type TlsFiles } from '../../../src/mechanism/certificate.ts'
import { NotificationClient } from '../../../src/overlay/node/notification-client.ts'
import { NotificationServer } from '../../../src/overlay/servers/notification.ts'
import { encodeFrame, FrameReader, FrameType, MAX_VALUE } from '../../../src/overlay/wire/notification.ts'
import { KeyUpdates } from '../../support/key-updates.ts'

usesPrograms('openssl')

const TOKEN = new Uint8Array(32).fill(7)

describe('NT-21: the notification server', () => {
  let folder: string
  let tls: TlsFiles
  let server: NotificationServer
  let port: number
  let now = 0
  /** Of the test at hand: connections of an earlier one may end later. */
  let heard: string[] = []
  let lines: string[] = []
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-ns-'))
    const [cert, key] = [join(folder, 'crt'), join(folder, 'key')]
    ensureCertificate(cert, key, 'localhost')
    tls = readCertificate(cert, key, 'test')
  })
  after(() => rmSync(folder, { recursive: true }))
  beforeEach(() => {
    heard = []
    lines = []
    now = 0
  })

  async function started<T>(use: () => Promise<T>): Promise<T> {
    const own = heard
    server = new NotificationServer({
      ...{ tls, port: 0, now: () => now },
      onConnection: (name, _token, isConnected) => own.push(`${name} ${isConnected}`),
      log: (line) => lines.push(line),
    })
    await server.start()
    port = server.port
    try {
      return await use()
    } finally {
      await server.stop()
    }
  }

  it('NT-20: another coordinator takes a node over with the token that it has; the end of an earlier token ends nothing', () =>
    started(async () => {
      const frame = encodeFrame(FrameType.REGISTRATION, TOKEN)
      server.prepare('a.test', TOKEN, 'a')
      const { socket } = await said(frame, 1)
      assert.ok(server.prepare('a.test', TOKEN.slice(), 'b'))
      assert.deepEqual(server.connections(), [{ name: 'a.test', token: TOKEN, by: 'b' }])
      assert.equal(server.ownerOf('a.test'), 'b')
      server.end('a.test', new Uint8Array(32).fill(1))
      assert.equal(server.counts.connected, 1)
      const closed = new Promise((resolve) => socket.once('close', resolve))
      server.end('a.test', TOKEN)
      await closed
      assert.equal(server.ownerOf('a.test'), undefined)
    }))

  /** A client that has said this; resolves with all that it got when the connection has ended, or after so many bytes. */
  function said(
    bytes: Uint8Array,
    enough = Number.POSITIVE_INFINITY,
  ): Promise<{ got: Buffer; socket: TLSSocket }> {
    return new Promise((resolve) => {
      const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
      let got = Buffer.alloc(0)
      socket.on('error', () => {})
      socket.on('data', (part) => {
        got = Buffer.concat([got, part])
        if (got.length >= enough) resolve({ got, socket })
      })
      socket.on('close', () => resolve({ got, socket }))
      socket.on('secureConnect', () => socket.write(bytes))
    })
  }

  const until = async (holds: () => boolean): Promise<void> => {
    for (let i = 0; i < 500 && !holds(); i++) await new Promise((done) => setTimeout(done, 10))
    assert.ok(holds())
  }

  it('a token that its coordinator has announced registers; what is notified comes in one frame', () =>
    started(async () => {
      assert.ok(server.prepare('a.test', TOKEN))
      const { got, socket } = await said(encodeFrame(FrameType.REGISTRATION, TOKEN), 3)
      assert.deepEqual([...got], [...encodeFrame(FrameType.ACK)])
      assert.deepEqual(heard, ['a.test true'])
      const reader = new FrameReader()
      const next = new Promise<Uint8Array>((resolve) => socket.once('data', resolve))
      server.notify('a.test', Uint8Array.of(1, 2, 3))
      assert.deepEqual(reader.take(await next), [
        { type: FrameType.NOTIFICATION, value: Uint8Array.of(1, 2, 3) },
      ])
      socket.destroy()
      await until(() => heard.length === 2)
      assert.deepEqual(heard[1], 'a.test false')
    }))

  it('NT-21: two machines with one login take the connection from each other, and the operator reads it once', () =>
    started(async () => {
      const connect = async (n: number) => {
        const token = new Uint8Array(32).fill(n)
        server.prepare('a.test', token)
        return (await said(encodeFrame(FrameType.REGISTRATION, token), 3)).socket
      }
      const sockets = []
      // A node that moves each minute is one.
      for (let n = 1; n <= 8; n++) {
        now += 60_000
        sockets.push(await connect(n))
      }
      assert.deepEqual(lines, [])
      now += 120_001
      for (let n = 11; n <= 40; n++) {
        now += 7000
        sockets.push(await connect(n))
      }
      assert.equal(lines.length, 1)
      assert.match(
        lines[0]!,
        /^a\.test connects from .*127\.0\.0\.1 and .*127\.0\.0\.1 in turn: if its state folder was copied/,
      )
      for (const each of sockets) each.destroy()
    }))

  it('nobody else: an unknown or withdrawn token, a shorter one, other frames and other bytes end the connection', () =>
    started(async () => {
      server.prepare('a.test', TOKEN)
      server.prepare('a.test', new Uint8Array(32).fill(8))
      const attempts = [
        encodeFrame(FrameType.REGISTRATION, TOKEN),
        encodeFrame(FrameType.REGISTRATION, TOKEN.subarray(1)),
        encodeFrame(FrameType.REGISTRATION),
        encodeFrame(FrameType.PING),
        encodeFrame(FrameType.NOTIFICATION, TOKEN),
        Buffer.from('GET / HTTP/1.1\r\n\r\n'),
        Uint8Array.of(0xff, 0xff, 1),
      ]
      for (const each of attempts) assert.equal((await said(each)).got.length, 0)
      assert.ok(!heard.includes('a.test true'))
      assert.deepEqual(server.counts, { connected: 0, strangers: 0 })
    }))

  it('who says nothing is not kept, and one source has 64 connections; a node that is registered does not count', () =>
    started(async () => {
      server.prepare('a.test', TOKEN)
      const { socket } = await said(encodeFrame(FrameType.REGISTRATION, TOKEN), 3)
      const idle = Array.from({ length: 80 }, () => connectTcp(port, '127.0.0.1').on('error', () => {}))
      await until(() => server.counts.strangers === 64)
      assert.equal(server.counts.connected, 1)
      now = 10_001
      await until(() => server.counts.strangers === 0)
      assert.equal(socket.destroyed, false)
      for (const each of [...idle, socket]) each.destroy()
    }))

  it('a node that sends more than a ping a second loses its connection, and so does one that reads nothing', () =>
    started(async () => {
      server.prepare('a.test', TOKEN)
      const pings = Buffer.concat(Array.from({ length: 12 }, () => encodeFrame(FrameType.PING)))
      const { got } = await said(Buffer.concat([encodeFrame(FrameType.REGISTRATION, TOKEN), pings]))
      assert.ok(got.length <= 3 + 10 * 3)
      await until(() => heard.length === 2)
      const { socket } = await said(encodeFrame(FrameType.REGISTRATION, TOKEN), 3)
      socket.pause()
      for (let i = 0; i < 20_000 && heard.at(-1) === 'a.test true'; i++) {
        server.notify('a.test', new Uint8Array(MAX_VALUE))
        if (i % 100 === 0) await new Promise((done) => setImmediate(done))
      }
      assert.equal(heard.at(-1), 'a.test false')
      socket.destroy()
    }))

  it('who changes the keys of TLS without end loses the connection, also a node that is registered', () =>
    started(async () => {
      assert.ok(await (await KeyUpdates.connect(port)).flood(2000), 'a stranger')
      server.prepare('a.test', TOKEN)
      const node = await KeyUpdates.connect(port)
      node.write(encodeFrame(FrameType.REGISTRATION, TOKEN))
      await until(() => server.counts.connected === 1)
      assert.ok(await node.flood(2000), 'a node')
      await until(() => server.counts.connected + server.counts.strangers === 0)
    }))

  it('a node that connects again replaces its own connection; one that is removed loses it', () =>
    started(async () => {
      server.prepare('a.test', TOKEN)
      const first = said(encodeFrame(FrameType.REGISTRATION, TOKEN))
      await until(() => heard.length === 1)
      const { socket } = await said(encodeFrame(FrameType.REGISTRATION, TOKEN), 3)
      await first
      assert.deepEqual(heard, ['a.test true', 'a.test true'])
      server.end('a.test')
      await until(() => heard.length === 3)
      assert.equal((await said(encodeFrame(FrameType.REGISTRATION, TOKEN))).got.length, 0)
      socket.destroy()
    }))

  describe('a node', () => {
    const certificate = () =>
      new Uint8Array(Buffer.from(new X509Certificate(tls.cert).fingerprint256.replaceAll(':', ''), 'hex'))
    const target = () => ({ host: '127.0.0.1', port, token: TOKEN, certificate: certificate() })
    const node = () => {
      const seen: string[] = []
      const client = new NotificationClient(
        {
          onNotification: (bytes) => seen.push(`got ${bytes.length}`),
          onConnected: (isConnected) => seen.push(`connected ${isConnected}`),
          register: () => seen.push('register'),
          onStep: (what) => seen.push(what),
          log: () => seen.push('log'),
          random: () => 0,
        },
        60_000,
      )
      return { seen, client }
    }

    it('leaves a server that sends without end, whatever it is', async () => {
      // Ten times what may come at once, and each frame is right.
      let flood = () => true
      const hostile = createServer({ ...tls, minVersion: 'TLSv1.3' }, (socket) => {
        socket.on('error', () => {})
        socket.write(encodeFrame(FrameType.ACK))
        flood = () =>
          socket.write(Buffer.concat(Array<Uint8Array>(220_000).fill(encodeFrame(FrameType.PONG))))
      })
      await new Promise<void>((resolve) => hostile.listen(0, '127.0.0.1', resolve))
      port = (hostile.address() as AddressInfo).port
      const { seen, client } = node()
      client.want(target())
      await until(() => client.isConnected)
      flood()
      await until(() => seen.includes('register'))
      assert.ok(seen.includes('connected false'))
      client.stop()
      hostile.close()
    })

    it('connects, is notified, notices the end, says so once, and registers again', () =>
      started(async () => {
        server.prepare('a.test', TOKEN)
        const { seen, client } = node()
        client.want(target())
        await until(() => client.isConnected)
        client.want(target())
        server.notify('a.test', new Uint8Array(40))
        await until(() => seen.includes('got 40'))
        server.end('a.test')
        await until(() => seen.includes('register'))
        client.want(target())
        await until(() => seen.filter((each) => each === 'register').length === 2)
        const names = [
          'NOTIFICATION_REGISTRATION',
          'NOTIFICATION_REGISTRATION_ACK',
          'connected true',
          'got 40',
        ]
        assert.deepEqual(seen, [
          ...names,
          ...['connected false', 'log', 'register'],
          ...['NOTIFICATION_REGISTRATION', 'register'],
        ])
        client.stop()
      }))

    it('registers again when it is told of no server any more, and gives up when there is none', () =>
      started(async () => {
        server.prepare('a.test', TOKEN)
        const { seen, client } = node()
        const registrations = () => seen.filter((each) => each === 'register').length
        client.want(undefined)
        client.want(target())
        await until(() => client.isConnected)
        // The coordinator has started again, and its notification server has not come back yet.
        client.want(undefined)
        assert.equal(client.isConnected, false)
        await until(() => registrations() === 1)
        client.want(target())
        await until(() => client.isConnected)
        for (let n = 2; n <= 7; n++) {
          client.want(undefined)
          await until(() => registrations() === n)
        }
        client.want(undefined)
        await new Promise((done) => setTimeout(done, 20))
        assert.equal(registrations(), 7)
        client.stop()
      }))

    it('shows its token to nobody but the server that its coordinator named', () =>
      started(async () => {
        server.prepare('a.test', TOKEN)
        const { seen, client } = node()
        client.want({ ...target(), certificate: new Uint8Array(32) })
        await until(() => seen.includes('register'))
        assert.deepEqual(seen, ['log', 'register'])
        assert.ok(!heard.includes('a.test true'))
        client.stop()
      }))
  })
})
