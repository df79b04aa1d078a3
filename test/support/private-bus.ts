/** A message bus of the test's own, and python-dbusmock services on it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  Bus,
  type Service,
  type Signal,
  type Target,
  type Value,
  type Variant,
} from '../../src/linux/dbus/index.ts'
import { findProgram, usesPrograms } from '../../src/linux/packages.ts'

usesPrograms('dbus-daemon', 'python3-dbusmock')

/** Debian's: the one that has Debian's modules. */
const PYTHON = '/usr/bin/python3'
const MOCK = 'org.freedesktop.DBus.Mock'

/** Why there can be no bus here; false when there can. */
export const withoutBus: string | false =
  findProgram('dbus-daemon') === undefined ? 'dbus-daemon is not installed (package dbus)' : false

export const withoutMock: string | false =
  withoutBus ||
  (findProgram('python3-dbusmock') === undefined
    ? 'python-dbusmock is not installed (package python3-dbusmock)'
    : false)

export class PrivateBus {
  readonly address: string
  readonly #folder: string
  readonly #daemon: ChildProcess
  readonly #services = new Set<ChildProcess>()
  /** Of a test that failed half-way. */
  readonly #atExit = () => this.#end()

  private constructor(folder: string, daemon: ChildProcess) {
    this.#folder = folder
    this.#daemon = daemon
    this.address = addressIn(folder)
    process.once('exit', this.#atExit)
  }

  /** `refused` is a method call that the bus lets nobody make, as its policy may: `INTERFACE.MEMBER`. */
  static async start(refused?: string): Promise<PrivateBus> {
    const folder = mkdtempSync(join(tmpdir(), 'godwit-bus-'))
    chmodSync(folder, 0o755)
    const dot = refused?.lastIndexOf('.') ?? 0
    const deny =
      refused === undefined
        ? ''
        : `<deny send_interface="${refused.slice(0, dot)}" send_member="${refused.slice(dot + 1)}"/>`
    writeFileSync(
      join(folder, 'bus.conf'),
      `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
        "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
      <busconfig><type>system</type><listen>${addressIn(folder)}</listen><auth>EXTERNAL</auth>
      <policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/>
      <allow receive_sender="*"/>${deny}</policy></busconfig>`,
    )
    const daemon = spawn(
      findProgram('dbus-daemon')!,
      [`--config-file=${join(folder, 'bus.conf')}`, '--nofork', '--nopidfile', '--print-address'],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    )
    await once(daemon.stdout, 'data')
    return new PrivateBus(folder, daemon)
  }

  /** For files of services; goes with the bus. */
  get folder(): string {
    return this.#folder
  }

  get environment(): Record<string, string | undefined> {
    return { ...process.env, DBUS_SYSTEM_BUS_ADDRESS: this.address }
  }

  connect(): Promise<Bus> {
    return Bus.open(this.address, () => {})
  }

  /** Starts a program on the bus and waits until it has its name. */
  async serve(service: Service, command: string, args: readonly string[]): Promise<ChildProcess> {
    const bus = await this.connect()
    const present = new Promise<void>((done) => {
      void bus.follow(service, { owned: (is) => is && done(), signal: () => {} })
    })
    const child = spawn(command, args, { env: this.environment, stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    child.stderr?.on('data', (data: Buffer) => {
      said += data.toString()
    })
    this.#services.add(child)
    const ended = once(child, 'exit').then(() => {
      this.#services.delete(child)
      throw new Error(`${command} ended: ${said}`)
    })
    ended.catch(() => {})
    await Promise.race([present, ended])
    bus.close()
    return child
  }

  async stop(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  }

  async close(): Promise<void> {
    for (const child of [...this.#services, this.#daemon]) await this.stop(child)
    process.off('exit', this.#atExit)
    this.#end()
  }

  #end(): void {
    for (const child of [...this.#services, this.#daemon]) child.kill('SIGKILL')
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

function addressIn(folder: string): string {
  return `unix:path=${join(folder, 'bus')}`
}

/** A method of a mocked object: name, argument types, result types, Python that sets `ret`. */
export type MockMethod = readonly [name: string, takes: string, gives: string, code: string]

/** A service that python-dbusmock stands in for. */
export class MockService {
  readonly bus: Bus
  readonly #service: Service
  readonly #process: ChildProcess
  readonly #home: PrivateBus

  private constructor(home: PrivateBus, service: Service, bus: Bus, process: ChildProcess) {
    this.#home = home
    this.#service = service
    this.bus = bus
    this.#process = process
  }

  /** `args` as `python3 -m dbusmock` takes them; `called` is told of calls of mocked methods. */
  static async start(
    home: PrivateBus,
    service: Service,
    args: readonly string[],
    called: (path: string, member: string, args: readonly Value[]) => void = () => {},
  ): Promise<MockService> {
    const process = await home.serve(service, PYTHON, ['-m', 'dbusmock', '--system', ...args])
    const bus = await home.connect()
    await bus.follow(service, {
      owned: () => {},
      signal: ({ path, interface: of, member, body }: Signal) => {
        if (of !== MOCK || member !== 'MethodCalled') return
        called(
          path,
          body[0] as string,
          (body[1] as readonly Variant[]).map(({ value }) => value),
        )
      },
    })
    return new MockService(home, service, bus, process)
  }

  /** Calls what dbusmock has on each of its objects. */
  async mock(
    path: string,
    member: string,
    signature: string,
    body: readonly Value[],
  ): Promise<Value | undefined> {
    const target: Target = { service: this.#service, path, interface: MOCK }
    return (await this.bus.call(target, member, signature, body))[0]
  }

  async add(
    root: string,
    path: string,
    of: string,
    properties: Readonly<Record<string, Variant>>,
    methods: readonly MockMethod[] = [],
  ): Promise<void> {
    await this.mock(root, 'AddObject', 'ssa{sv}a(ssss)', [
      path,
      of,
      new Map(Object.entries(properties)),
      methods as readonly Value[],
    ])
  }

  async addMethods(path: string, of: string, methods: readonly MockMethod[]): Promise<void> {
    await this.mock(path, 'AddMethods', 'sa(ssss)', [of, methods as readonly Value[]])
  }

  async addProperties(
    path: string,
    of: string,
    properties: Readonly<Record<string, Variant>>,
  ): Promise<void> {
    await this.mock(path, 'AddProperties', 'sa{sv}', [of, new Map(Object.entries(properties))])
  }

  /** Changes properties and says so. */
  async update(path: string, of: string, properties: Readonly<Record<string, Variant>>): Promise<void> {
    const target = { service: this.#service, path, interface: 'org.freedesktop.DBus.Properties' }
    for (const [name, value] of Object.entries(properties))
      await this.bus.call(target, 'Set', 'ssv', [of, name, value])
  }

  async emit(
    path: string,
    of: string,
    member: string,
    signature: string,
    args: readonly Variant[],
  ): Promise<void> {
    await this.mock(path, 'EmitSignal', 'sssav', [of, member, signature, args as readonly Value[]])
  }

  async stop(): Promise<void> {
    this.bus.close()
    await this.#home.stop(this.#process)
  }
}

export const u = (value: number): Variant => ({ signature: 'u', value })
export const i = (value: number): Variant => ({ signature: 'i', value })
export const y = (value: number): Variant => ({ signature: 'y', value })
export const o = (value: string): Variant => ({ signature: 'o', value })
export const s = (value: string): Variant => ({ signature: 's', value })
