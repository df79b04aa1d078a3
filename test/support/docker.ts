/**
 * A real dockerd in a host of a test: its own namespaces of mounts and processes, so that nothing of it is left when it ends,
 * images and containers in a folder. It is asked by its API; a container runs a script by the Node.js of this process.
 */
import type { ChildProcess } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
} from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createNamespace, deleteNamespace, spawnIn } from '../../src/linux/netns.ts'
import { findProgram, usesPrograms } from '../../src/linux/packages.ts'

usesPrograms('containerd', 'dockerd', 'iptables', 'runc', 'unshare')

/** Docker 20.10, as Debian 12 has it, and newer. */
const API = '/v1.41'
const IMAGE = 'box'
const CGROUPS = '/sys/fs/cgroup'
/** What a tar ends with; alone it is an image without files. */
const EMPTY_TAR = Buffer.alloc(1024)
const SYSTEM_PATH = '/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin'
/** dockerd writes a key to /etc/docker and sockets to /run: copies of its own. */
const START = `
set -e
folder=$1
shift
mount --bind "$folder/etc" /etc
mount -t tmpfs tmpfs /run
exec dockerd "$@"
`

export interface Container {
  readonly name: string
  /** Published: of the host, to port 80 of the container. Undefined: it has the host's own network. */
  readonly port?: number
  readonly script: string
}

/** Why dockerd cannot run here; false: it can. */
export async function dockerSkip(folder: string): Promise<string | false> {
  for (const name of ['dockerd', 'containerd', 'runc'])
    if (findProgram(name) === undefined) return `${name} is not installed (Debian: docker.io)`
  // In a network of its own: a first dockerd changes rules and settings of the machine.
  const netns = `docker-try-${process.pid}`
  createNamespace(netns)
  const docker = new Docker(netns, join(folder, 'try'))
  try {
    await docker.start()
    return false
  } catch (error) {
    return `dockerd does not run here: ${(error as Error).message}`
  } finally {
    await docker.close()
    deleteNamespace(netns)
  }
}

export class Docker {
  readonly #netns: string
  readonly #folder: string
  /** Its containers' group, which ends with it. */
  readonly #cgroup: string
  #daemon: ChildProcess | undefined

  /** `folder` is made and removed. */
  constructor(netns: string, folder: string) {
    this.#netns = netns
    this.#folder = folder
    this.#cgroup = `test-${netns}-${process.pid}`
    for (const each of ['etc', 'data', 'exec']) mkdirSync(join(folder, each), { recursive: true })
  }

  /** Containers that ran when it ended come back with it. */
  async start(): Promise<void> {
    const log = openSync(join(this.#folder, 'log'), 'a')
    const inFolder = (name: string) => join(this.#folder, name)
    const args = [
      ...['--data-root', inFolder('data'), '--exec-root', inFolder('exec'), '-p', inFolder('pid')],
      ...['-H', `unix://${this.#socket}`, '--storage-driver', 'vfs', '--cgroup-parent', `/${this.#cgroup}`],
    ]
    const enter = ['-m', '-p', '-f', '--mount-proc', '--kill-child', '--propagation', 'private']
    rmSync(this.#socket, { force: true })
    rmSync(inFolder('pid'), { force: true })
    const copy = `cp -a /etc/. ${inFolder('etc')}/`
    const script = `${existsSync(inFolder('etc/passwd')) ? ':' : copy}${START}`
    const env = { ...process.env, PATH: `${process.env.PATH}:${SYSTEM_PATH}` }
    const command = [...enter, 'sh', '-c', script, 'sh', this.#folder, ...args]
    this.#daemon = spawnIn(this.#netns, 'unshare', command, { stdio: ['ignore', log, log], env })
    closeSync(log)
    for (let turn = 0; ; turn++) {
      if (turn > 300 || this.#daemon.exitCode !== null) throw new Error(`dockerd: ${this.log.slice(-1500)}`)
      const answer = await this.#ask('GET', '/_ping').catch(() => undefined)
      if (answer === 'OK') break
      await delay(100)
    }
  }

  /** As `systemctl stop docker` does: SIGTERM, and containers end. */
  async stop(): Promise<void> {
    const daemon = this.#daemon
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return
    const gone = new Promise((done) => daemon.once('exit', done))
    // unshare waits for dockerd, its only child.
    const [child] = readFileSync(`/proc/${daemon.pid}/task/${daemon.pid}/children`, 'utf8').split(' ')
    process.kill(Number(child), 'SIGTERM')
    await gone
  }

  async restart(): Promise<void> {
    await this.stop()
    await this.start()
  }

  /** Starts a container with a published port. */
  async run({ name, port, script }: Container): Promise<void> {
    await this.#ask('POST', `/images/create?fromSrc=-&repo=${IMAGE}`, EMPTY_TAR)
    const folders = ['/usr', '/bin', '/lib', '/lib64'].filter(existsSync)
    const created = await this.#ask('POST', `/containers/create?name=${name}`, {
      Image: IMAGE,
      Cmd: ['/node', '-e', script],
      ...(port !== undefined && { ExposedPorts: { '80/tcp': {} } }),
      // Node.js does not end by itself as process 1 of a container.
      StopSignal: 'SIGKILL',
      HostConfig: {
        Binds: [...folders, `${process.execPath}:/node`].map((each) =>
          each.includes(':') ? `${each}:ro` : `${each}:${each}:ro`,
        ),
        ...(port === undefined
          ? { NetworkMode: 'host' }
          : { PortBindings: { '80/tcp': [{ HostPort: String(port) }] } }),
        RestartPolicy: { Name: 'always' },
      },
    })
    await this.#ask('POST', `/containers/${(JSON.parse(created) as { Id: string }).Id}/start`)
  }

  get log(): string {
    return readFileSync(join(this.#folder, 'log'), 'utf8')
  }

  /** Ends it, with all its processes, and removes everything. */
  async close(): Promise<void> {
    const daemon = this.#daemon
    if (daemon !== undefined && daemon.exitCode === null && daemon.signalCode === null) {
      const gone = new Promise((done) => daemon.once('exit', done))
      daemon.kill('SIGKILL')
      await gone
    }
    for (let turn = 0; turn < 50 && !this.#removeCgroups(); turn++) await delay(100)
    rmSync(this.#folder, { recursive: true, force: true })
  }

  get #socket(): string {
    return join(this.#folder, 'sock')
  }

  /** False: processes in it are still ending. */
  #removeCgroups(): boolean {
    const roots = [CGROUPS, ...readdirSync(CGROUPS).map((name) => join(CGROUPS, name))]
    return roots.map((root) => removeGroup(join(root, this.#cgroup))).every((gone) => gone)
  }

  #ask(method: string, path: string, body: object | Buffer = {}): Promise<string> {
    const data = Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body))
    const type = Buffer.isBuffer(body) ? 'application/x-tar' : 'application/json'
    const headers = method === 'GET' ? {} : { 'content-type': type, 'content-length': data.length }
    return new Promise((resolve, reject) => {
      const asked = request(
        { socketPath: this.#socket, method, path: `${API}${path}`, headers },
        (answer) => {
          let text = ''
          answer.on('data', (bytes) => {
            text += bytes
          })
          answer.on('end', () =>
            (answer.statusCode ?? 500) < 400
              ? resolve(text)
              : reject(new Error(`${method} ${path}: ${answer.statusCode} ${text}`)),
          )
        },
      )
      asked.on('error', reject)
      asked.end(method === 'GET' ? undefined : data)
    })
  }
}

function removeGroup(folder: string): boolean {
  if (!existsSync(folder)) return true
  for (const each of readdirSync(folder, { withFileTypes: true }))
    if (each.isDirectory()) removeGroup(join(folder, each.name))
  try {
    rmdirSync(folder)
    return true
  } catch {
    return false
  }
}
