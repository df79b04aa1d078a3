/** Servers of NATS of a test's own: one, or a cluster of three, with JetStream in memory. They end with the test, also when that is killed. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { findProgram, installHint, needProgram, usesPrograms } from '../../src/linux/packages.ts'
import { natsClient } from '../../src/overlay/servers/soft/client.ts'
import { until } from './postgres.ts'

export const NATS = usesPrograms('nats-server', 'setpriv')

export interface NatsPlace {
  readonly name: string
  readonly address: string
  readonly port: number
  readonly cluster: number
}

/** Starts a program on the host of a server: in this network namespace, unless a lab says else. */
export type Starts = (place: NatsPlace, command: string, args: readonly string[]) => Promise<ChildProcess>

const here: Starts = async (_place, command, args) => spawn(command, [...args], { stdio: 'ignore' })

export class NatsServer {
  readonly place: NatsPlace
  readonly #config: string
  readonly #starts: Starts
  #program: ChildProcess | undefined

  /** `more`: lines of its configuration. */
  constructor(folder: string, place: NatsPlace, all: readonly NatsPlace[], starts: Starts = here, more = '') {
    this.place = place
    this.#starts = starts
    const data = join(folder, place.name)
    mkdirSync(data, { recursive: true })
    this.#config = join(folder, `${place.name}.conf`)
    const routes = all.map(({ address, cluster }) => `nats://${address}:${cluster}`)
    const cluster =
      all.length < 2
        ? ''
        : `cluster { name: test, listen: "${place.address}:${place.cluster}", routes: [${routes.map((each) => `"${each}"`).join(', ')}] }\n`
    writeFileSync(
      this.#config,
      `server_name: ${place.name}\nlisten: "${place.address}:${place.port}"\nping_interval: "1s"\nwrite_deadline: "2s"\njetstream { store_dir: "${data}", max_mem: 64M, max_file: 64M }\n${cluster}${more}\n`,
    )
  }

  get pid(): number {
    return this.#program?.pid ?? -1
  }

  async start(): Promise<void> {
    const args = ['--pdeathsig', 'KILL', needProgram('nats-server'), '-c', this.#config]
    this.#program = await this.#starts(this.place, needProgram('setpriv'), args)
  }

  signal(signal: NodeJS.Signals): void {
    this.#program?.kill(signal)
  }

  async kill(): Promise<void> {
    const program = this.#program
    this.#program = undefined
    if (program === undefined || program.exitCode !== null || program.signalCode !== null) return
    const ended = new Promise((resolve) => program.once('exit', resolve))
    program.kill('SIGKILL')
    await ended
  }
}

/** Three, on loopback. */
export function clusterHere(folder: string, first: number): NatsServer[] {
  const places = [1, 2, 3].map((n) => ({
    ...{ name: `n${n}`, address: '127.0.0.1', port: first + n, cluster: first + 10 + n },
  }))
  return places.map((place) => new NatsServer(folder, place, places))
}

/** Resolves when the server takes connections, from this network namespace. */
export async function isListening({ address, port }: NatsPlace): Promise<void> {
  let isThere = false
  const look = () => {
    const socket = createConnection(port, address, () => {
      isThere = true
      socket.destroy()
    })
    socket.on('error', () => {})
  }
  const timer = setInterval(look, 50)
  look()
  try {
    await until(() => isThere, `NATS listens at ${address} port ${port}`)
  } finally {
    clearInterval(timer)
  }
}

/** Why this machine cannot run the tests; false: it can. */
export function cannotRunNats(): string | false {
  const lacking = NATS.filter((name) => findProgram(name) === undefined)
  if (lacking.length > 0) return `${lacking.join(', ')}: ${installHint(lacking)}`
  try {
    natsClient()
  } catch (error) {
    return `${(error as Error).message}: npm ci`
  }
  return false
}
