/** nebula with a certificate authority made for the run; host b is the lighthouse. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { usesPrograms } from '../../src/linux/packages.ts'
import { have } from '../bed.ts'
import type { Subject } from './subject.ts'

usesPrograms('nebula', 'nebula-cert')

const CLIENT = '10.93.0.2'
const SERVER = '10.93.0.1'

export const nebula: Subject = {
  name: 'nebula',
  families: [4],
  missing: () =>
    have('nebula') && have('nebula-cert') ? undefined : 'nebula is not installed (apt-get install nebula)',

  async start(bed) {
    const dir = bed.directory('nebula')
    const path = (name: string) => join(dir, name)
    const ca = ['-ca-crt', path('ca.crt'), '-ca-key', path('ca.key')]
    await bed.b.run('nebula-cert', ['ca', '-name', 'bench', '-out-crt', ca[1]!, '-out-key', ca[3]!])
    const sign = (name: string, ip: string) =>
      bed.b.run('nebula-cert', [
        ...['sign', '-name', name, '-ip', `${ip}/24`, ...ca],
        ...['-out-crt', path(`${name}.crt`), '-out-key', path(`${name}.key`)],
      ])
    await sign('server', SERVER)
    await sign('client', CLIENT)
    const config = (name: string, lighthouse: boolean) => `
pki: { ca: ${path('ca.crt')}, cert: ${path(`${name}.crt`)}, key: ${path(`${name}.key`)} }
static_host_map: { "${SERVER}": ["${bed.b.address}:4242"] }
lighthouse: { am_lighthouse: ${lighthouse}, interval: 60, hosts: [${lighthouse ? '' : `"${SERVER}"`}] }
listen: { host: 0.0.0.0, port: ${lighthouse ? 4242 : 0}, read_buffer: 10485760, write_buffer: 10485760 }
punchy: { punch: true }
tun: { disabled: false, dev: nebula1, mtu: 1420, tx_queue: 500 }
logging: { level: error, format: text }
firewall:
  outbound: [{ port: any, proto: any, host: any }]
  inbound: [{ port: any, proto: any, host: any }]
`
    writeFileSync(path('server.yml'), config('server', true))
    writeFileSync(path('client.yml'), config('client', false))
    const server = bed.b.start('nebula', ['-config', path('server.yml')])
    const client = bed.a.start('nebula', ['-config', path('client.yml')])
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
