/** A container with a published port, as Docker makes one: bridge, namespace, and rules of iptables as it writes them. */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync } from 'node:child_process'
import { createNamespace, deleteNamespace, spawnIn } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { type Bed, pause, until } from './bed.ts'
import { Counted } from './counted.ts'
import { lines } from './flows.ts'

usesPrograms('ip')

const SERVER = `require('node:net').createServer((s) => { s.on('error', () => {}); s.pipe(s) }).listen(80, () => console.log('ready'))`
const CONTAINER = '172.17.0.2'

export class Published {
  /** Of the host; it leads to the container's port 80. */
  static readonly PORT = 8080
  readonly #own = `dime-box-${process.pid}`
  #server: ChildProcess | undefined

  constructor(host: string) {
    createNamespace(this.#own)
    const run = (line: string): Buffer =>
      execFileSync('ip', ['netns', 'exec', host, ...line.split(' ')], { stdio: 'pipe' })
    run('ip link add docker0 type bridge')
    run('ip addr add 172.17.0.1/16 dev docker0')
    run('ip link set docker0 up')
    run(`ip link add veth0 type veth peer name eth0 netns ${this.#own}`)
    run('ip link set veth0 master docker0 up')
    for (const line of [
      'link set lo up',
      `addr add ${CONTAINER}/16 dev eth0`,
      'link set eth0 up',
      'route add default via 172.17.0.1',
    ])
      execFileSync('ip', ['-n', this.#own, ...line.split(' ')])
    new KernelSysctls(host).set('net.ipv4.ip_forward', 1)
    for (const rule of [
      '-t nat -N DOCKER',
      '-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER',
      '-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER',
      '-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE',
      '-t nat -A DOCKER -i docker0 -j RETURN',
      `-t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport ${Published.PORT} -j DNAT --to-destination ${CONTAINER}:80`,
      '-P FORWARD DROP',
      '-N DOCKER',
      '-N DOCKER-USER',
      '-A DOCKER-USER -j RETURN',
      '-A FORWARD -j DOCKER-USER',
      '-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
      '-A FORWARD -o docker0 -j DOCKER',
      '-A FORWARD -i docker0 ! -o docker0 -j ACCEPT',
      '-A FORWARD -i docker0 -o docker0 -j ACCEPT',
      `-A DOCKER -d ${CONTAINER}/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT`,
    ])
      run(`iptables ${rule}`)
  }

  async serve(): Promise<void> {
    this.#server = spawnIn(this.#own, process.execPath, ['-e', SERVER], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await lines(this.#server).wait('ready')
  }

  close(): void {
    this.#server?.kill('SIGKILL')
    deleteNamespace(this.#own)
  }
}

/** A connection to a container's port of this end, from the other one. */
export function openPublished(bed: Bed, at: 'm' | 'c', port: number): Promise<Counted> {
  return at === 'c' ? Counted.open(bed, 'm', '10.3.0.2', port) : Counted.open(bed, 'c', '10.1.0.2', port)
}

/** m leaves its first access: a connection of its own goes with it, one with a container waits where it is until that is back. */
export async function ownMoves(bed: Bed, own: Counted, container: Counted): Promise<void> {
  bed.up(2)
  await until('m has a way over acc2', async () => (await bed.ways('m')).includes('10.2.0.2 10.3.0.2'))
  await bed.move('m', 'all', 'acc2')
  await bed.on(2)
  await own.echo('moved', 10_000)
  await container.echo('its host has moved', 10_000)
  bed.down(1)
  await own.echo('the first access is gone', 10_000)
  container.send(1)
  await pause(1_500)
  assert.ok(container.lives, 'it waits, as without godwit')
  bed.up(1, false)
  await container.echoed('its address is back')
}
