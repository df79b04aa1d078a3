/** wireguard-go as the distribution ships it, configured by wg. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { have } from '../bed.ts'
import type { Subject } from './subject.ts'

const CLIENT = '10.92.0.2'
const SERVER = '10.92.0.1'
const PORT = 51820

export const wireguardGo: Subject = {
  name: 'wireguard-go',
  missing: () =>
    have('wireguard-go') && have('wg')
      ? undefined
      : 'wireguard-go or wg is not installed (apt-get install wireguard-go wireguard-tools)',

  async start(bed) {
    const dir = bed.directory('wireguard')
    const keys = {
      a: (await bed.a.run('wg', ['genkey'])).trim(),
      b: (await bed.b.run('wg', ['genkey'])).trim(),
    }
    const publicKey = async (key: string) => (await bed.a.run('wg', ['pubkey'], key)).trim()
    const configure = async (side: 'a' | 'b', address: string, peer: string[]) => {
      const host = bed[side]
      // Interface names are unique per run: wireguard-go keeps its control sockets in one directory of the machine.
      const name = `wg${side}${process.pid}`.slice(0, 15)
      const child = host.start('wireguard-go', ['-f', name], {
        WG_PROCESS_FOREGROUND: '1',
        LOG_LEVEL: 'error',
      })
      await bed.until(() => host.hasInterface(name), `wireguard-go to make ${name}`)
      const keyFile = join(dir, side)
      writeFileSync(keyFile, keys[side], { mode: 0o600 })
      await bed.until(async () => {
        try {
          await host.run('wg', ['set', name, 'private-key', keyFile, 'listen-port', String(PORT), ...peer])
          return true
        } catch {
          return false
        }
      }, 'wg set')
      host.addAddress(name, `${address}/24`)
      host.setUp(name, 1420)
      return child
    }
    const server = await configure('b', SERVER, [
      ...['peer', await publicKey(keys.a), 'allowed-ips', `${CLIENT}/32`],
    ])
    const client = await configure('a', CLIENT, [
      ...['peer', await publicKey(keys.b), 'allowed-ips', `${SERVER}/32`],
      ...['endpoint', `${bed.b.address}:${PORT}`],
    ])
    await bed.reachable(bed.a, SERVER)
    return {
      target: SERVER,
      pids: { a: client.pid, b: server.pid },
      stop: async () => {
        await client.stop()
        await server.stop()
      },
    }
  },
}
