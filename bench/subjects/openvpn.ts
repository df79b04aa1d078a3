/** OpenVPN over UDP, AES-256-GCM, in user space, with certificates made for the run (its peer-fingerprint mode). */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { usesPrograms } from '../../src/linux/packages.ts'
import { have } from '../bed.ts'
import type { Subject } from './subject.ts'

usesPrograms('openssl', 'openvpn')

const CLIENT = '10.91.0.2'
const SERVER = '10.91.0.1'

export const openvpn: Subject = {
  name: 'openvpn',
  families: [4],
  missing: () =>
    have('openvpn') && have('openssl')
      ? undefined
      : 'openvpn is not installed (apt-get install openvpn openssl)',

  async start(bed) {
    const dir = bed.directory('openvpn')
    const prints: Record<string, string> = {}
    for (const side of ['server', 'client']) {
      await bed.b.run('openssl', [
        ...[
          'req',
          '-x509',
          '-newkey',
          'ec',
          '-pkeyopt',
          'ec_paramgen_curve:prime256v1',
          '-nodes',
          '-days',
          '2',
        ],
        ...['-subj', `/CN=${side}`, '-keyout', join(dir, `${side}.key`), '-out', join(dir, `${side}.crt`)],
      ])
      const printed = await bed.b.run('openssl', [
        ...['x509', '-in', join(dir, `${side}.crt`), '-noout', '-sha256', '-fingerprint'],
      ])
      prints[side] = printed.slice(printed.indexOf('=') + 1).trim()
    }
    const common = (side: string, other: string): string[] => [
      ...['--dev', 'tun', '--proto', 'udp', '--port', '1194', '--verb', '1', '--disable-dco'],
      ...['--cert', join(dir, `${side}.crt`), '--key', join(dir, `${side}.key`), '--dh', 'none'],
      ...['--peer-fingerprint', prints[other]!, '--data-ciphers', 'AES-256-GCM', '--topology', 'subnet'],
      ...['--sndbuf', '4194304', '--rcvbuf', '4194304'],
    ]
    writeFileSync(join(dir, 'note'), 'made for one run\n')
    const server = bed.b.start('openvpn', [
      ...common('server', 'client'),
      ...['--tls-server', '--ifconfig', SERVER, '255.255.255.0', '--local', bed.b.address],
    ])
    const client = bed.a.start('openvpn', [
      ...common('client', 'server').filter((_, i, all) => all[i] !== '--dh' && all[i - 1] !== '--dh'),
      ...['--tls-client', '--ifconfig', CLIENT, '255.255.255.0', '--remote', bed.b.address, '--nobind'],
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
