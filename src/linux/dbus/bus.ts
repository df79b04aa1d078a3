/**
 * A client of the system bus (D-Bus Specification, "Authentication Protocol", "Message Bus Specification"): calls methods
 * of services and receives their signals. A call starts no service; descriptors are not passed. Main thread or worker.
 */
import { connect, type Socket } from 'node:net'
import { encoded } from '../../core/codec.ts'
import { GodwitError } from '../../core/errors.ts'
import {
  FIXED_BYTES,
  type Message,
  messageCodec,
  messageLength,
  NO_AUTO_START,
  NO_REPLY_EXPECTED,
  type Value,
  type Variant,
} from './wire.ts'

/** A well-known name on the bus, and the name and start command that users know. */
export interface Service {
  readonly name: string
  readonly title: string
  /** Of systemd. */
  readonly unit: string
}

/** Target of a call. */
export interface Target {
  readonly service: Service
  readonly path: string
  readonly interface: string
}

export interface Signal {
  readonly path: string
  readonly interface: string
  readonly member: string
  readonly body: readonly Value[]
}

export interface Follower {
  /** The service is on the bus, has left it, or is another process now. Signals follow. */
  owned(present: boolean): void
  signal(signal: Signal): void
}

export type Properties = ReadonlyMap<string, Variant>

/** A method call that failed: `dbusName` is the error's name on the bus. */
export class BusError extends GodwitError {
  readonly dbusName: string

  constructor(code: string, message: string, dbusName: string, hint?: string) {
    super(code, message, hint === undefined ? {} : { hint })
    this.dbusName = dbusName
  }
}

const DEFAULT_ADDRESS = 'unix:path=/run/dbus/system_bus_socket'
const BUS: Service = { name: 'org.freedesktop.DBus', title: 'the message bus', unit: 'dbus' }
const BUS_OBJECT: Target = { service: BUS, path: '/org/freedesktop/DBus', interface: BUS.name }
const PROPERTIES = 'org.freedesktop.DBus.Properties'
const OPEN_MS = 5_000
/** That of libdbus. */
const CALL_MS = 25_000
const MOST_AUTH_BYTES = 16_384

const ABSENT = ['ServiceUnknown', 'NameHasNoOwner', 'Disconnected', 'Spawn.ServiceNotFound']
const REFUSED = ['AccessDenied', 'AuthFailed', 'InteractiveAuthorizationRequired']

interface Pending {
  readonly service: Service
  readonly op: string
  readonly timer: NodeJS.Timeout
  readonly done: (message: Message) => void
  readonly failed: (error: GodwitError) => void
}

interface Followed extends Follower {
  readonly service: Service
  owner: string
}

export class Bus {
  readonly #socket: Socket
  readonly #pending = new Map<number, Pending>()
  readonly #followed = new Set<Followed>()
  readonly #ended: (error: GodwitError) => void
  #serial = 0
  #received: Buffer = Buffer.alloc(0)
  #closed = false

  private constructor(socket: Socket, rest: Buffer, ended: (error: GodwitError) => void) {
    this.#socket = socket
    this.#ended = ended
    socket.on('data', (data) => this.#receive(data))
    socket.on('error', () => {})
    socket.on('close', () => this.#end())
    this.#receive(rest)
    socket.resume()
  }

  /**
   * Connects to a bus: `address` in the form of the specification ("Server Addresses"), the system's when absent. `ended`
   * is called when the connection ends by itself. Rejects with BUS_UNREACHABLE.
   */
  static async open(address: string | undefined, ended: (error: GodwitError) => void): Promise<Bus> {
    const text = address ?? process.env.DBUS_SYSTEM_BUS_ADDRESS ?? DEFAULT_ADDRESS
    const { socket, rest } = await authenticated(text)
    const bus = new Bus(socket, rest, ended)
    try {
      await bus.call(BUS_OBJECT, 'Hello')
    } catch (error) {
      bus.close()
      throw error
    }
    return bus
  }

  /**
   * Calls a method and resolves to its result. Rejects with BusError: BUS_NO_SERVICE, BUS_REFUSED, or BUS_FAILED for
   * errors of the service and for time-outs.
   */
  async call(
    target: Target,
    member: string,
    signature = '',
    body: readonly Value[] = [],
  ): Promise<readonly Value[]> {
    const { service, path, interface: of } = target
    const serial = this.#send({
      type: 'call',
      flags: NO_AUTO_START,
      path,
      interface: of,
      member,
      destination: service.name,
      signature,
      body,
    })
    const op = `${of}.${member}`
    const answer = await new Promise<Message>((done, failed) => {
      const timer = setTimeout(() => {
        this.#pending.delete(serial)
        failed(new BusError('BUS_FAILED', `${service.title} does not answer (${op})`, 'timeout'))
      }, CALL_MS)
      timer.unref()
      this.#pending.set(serial, { service, op, timer, done, failed })
      if (this.#closed) this.#end()
    })
    return answer.body
  }

  /** All properties of an interface of an object. Rejects as `call` does. */
  async properties(target: Target): Promise<Properties> {
    const [all] = await this.call({ ...target, interface: PROPERTIES }, 'GetAll', 's', [target.interface])
    return all as Properties
  }

  /** Whether somebody has the name. */
  async present(service: Service): Promise<boolean> {
    const [has] = await this.call(BUS_OBJECT, 'NameHasOwner', 's', [service.name])
    return has === true
  }

  /** Reports a service and its signals until the connection ends. Signals from other senders are ignored. */
  async follow(service: Service, follower: Follower): Promise<void> {
    const followed: Followed = {
      service,
      owner: '',
      owned: (present) => follower.owned(present),
      signal: (signal) => follower.signal(signal),
    }
    this.#followed.add(followed)
    const rules = [
      `type='signal',sender='${service.name}'`,
      `type='signal',sender='${BUS.name}',member='NameOwnerChanged',arg0='${service.name}'`,
    ]
    for (const rule of rules) await this.call(BUS_OBJECT, 'AddMatch', 's', [rule])
    if (followed.owner !== '' || !(await this.present(service))) return
    const [owner] = await this.call(BUS_OBJECT, 'GetNameOwner', 's', [service.name])
    this.#own(followed, owner as string)
  }

  close(): void {
    this.#closed = true
    this.#socket.destroy()
  }

  #send(message: Omit<Message, 'serial'>): number {
    this.#serial = (this.#serial % 0xffffffff) + 1
    if (!this.#closed) this.#socket.write(encoded(messageCodec, { ...message, serial: this.#serial }))
    return this.#serial
  }

  #receive(data: Buffer): void {
    this.#received = this.#received.length === 0 ? data : Buffer.concat([this.#received, data])
    let at = 0
    while (this.#received.length - at >= FIXED_BYTES) {
      const length = messageLength(this.#received, at)
      if (!length.ok) {
        this.#socket.destroy()
        return
      }
      if (this.#received.length - at < length.value) break
      const message = messageCodec.decode(this.#received, at, at + length.value)
      at += length.value
      // The bus validates messages: one that does not decode is of a type newer than this specification.
      if (message.ok) this.#handle(message.value)
    }
    this.#received = this.#received.subarray(at)
  }

  #handle(message: Message): void {
    if (message.type === 'signal') this.#signal(message)
    else if (message.type === 'call') this.#decline(message)
    else {
      const pending = this.#pending.get(message.replySerial!)
      if (pending === undefined) return
      this.#pending.delete(message.replySerial!)
      clearTimeout(pending.timer)
      if (message.type === 'return') pending.done(message)
      else pending.failed(failure(pending, message))
    }
  }

  #signal(message: Message): void {
    const { sender, path, interface: of, member, body } = message
    if (sender === BUS.name && member === 'NameOwnerChanged')
      for (const followed of this.#followed)
        if (followed.service.name === body[0]) this.#own(followed, body[2] as string)
    for (const followed of this.#followed)
      if (followed.owner !== '' && followed.owner === sender)
        followed.signal({ path: path!, interface: of!, member: member!, body })
  }

  #own(followed: Followed, owner: string): void {
    if (followed.owner === owner) return
    if (followed.owner !== '') followed.owned(false)
    followed.owner = owner
    if (owner !== '') followed.owned(true)
  }

  /** This client has no methods; the caller gets an error. */
  #decline({ flags, serial, sender }: Message): void {
    if ((flags & NO_REPLY_EXPECTED) !== 0 || sender === undefined) return
    this.#send({
      type: 'error',
      flags: NO_REPLY_EXPECTED,
      replySerial: serial,
      error: 'org.freedesktop.DBus.Error.UnknownMethod',
      destination: sender,
      signature: '',
      body: [],
    })
  }

  #end(): void {
    const error = new GodwitError('BUS_UNREACHABLE', 'the connection to the system bus has ended', {
      hint: 'systemctl status dbus',
    })
    for (const { timer, failed } of this.#pending.values()) {
      clearTimeout(timer)
      failed(error)
    }
    this.#pending.clear()
    if (this.#closed) return
    this.#closed = true
    this.#ended(error)
  }
}

/** The service is not on the bus. */
export function absentError(
  service: Service,
  dbusName = 'org.freedesktop.DBus.Error.ServiceUnknown',
): BusError {
  return new BusError(
    'BUS_NO_SERVICE',
    `${service.title} is not on the system bus`,
    dbusName,
    `systemctl start ${service.unit}`,
  )
}

function failure({ service, op }: Pending, message: Message): BusError {
  const name = message.error!
  const short = name.slice(name.lastIndexOf('.') + 1)
  const said = typeof message.body[0] === 'string' ? message.body[0] : short
  if (name.startsWith('org.freedesktop.DBus.Error.') && ABSENT.some((each) => name.endsWith(`.${each}`)))
    return absentError(service, name)
  if (REFUSED.includes(short) || short === 'PermissionDenied' || short === 'Unauthorized')
    return new BusError(
      'BUS_REFUSED',
      `${service.title} does not permit ${op}: ${said}`,
      name,
      'run godwit as root, or permit it to its user in polkit',
    )
  return new BusError('BUS_FAILED', `${service.title}: ${op}: ${said}`, name)
}

/** The sockets of an address, in order: `unix:path=…` and `unix:abstract=…`; other transports are left out. */
export function socketPaths(address: string): string[] {
  const paths: string[] = []
  for (const each of address.split(';')) {
    if (!each.startsWith('unix:')) continue
    for (const pair of each.slice(5).split(',')) {
      const [key, value = ''] = pair.split('=')
      const text = value.replace(/%([0-9a-fA-F]{2})/g, (_, hex) =>
        String.fromCharCode(Number.parseInt(hex, 16)),
      )
      if (key === 'path') paths.push(text)
      else if (key === 'abstract') paths.push(`\0${text}`)
    }
  }
  return paths
}

/** A connection past `BEGIN`, paused, and what came after the handshake's last line. */
async function authenticated(address: string): Promise<{ socket: Socket; rest: Buffer }> {
  let reason = 'no Unix socket in its address'
  for (const path of socketPaths(address)) {
    try {
      return await handshake(path)
    } catch (error) {
      reason = (error as Error).message
    }
  }
  throw new GodwitError('BUS_UNREACHABLE', `the system bus (${address}) cannot be reached: ${reason}`, {
    hint: 'sudo apt-get install dbus; systemctl start dbus',
  })
}

/** EXTERNAL: the kernel identifies this user to the bus. */
function handshake(path: string): Promise<{ socket: Socket; rest: Buffer }> {
  return new Promise((done, failed) => {
    const socket = connect(path)
    let received: Buffer = Buffer.alloc(0)
    const stop = (error: Error) => {
      clearTimeout(timer)
      socket.destroy()
      failed(error)
    }
    const timer = setTimeout(() => stop(new Error('no answer')), OPEN_MS)
    socket.once('error', stop)
    socket.once('close', () => stop(new Error('closed while authenticating')))
    socket.once('connect', () => {
      const uid = Buffer.from(String(process.geteuid?.() ?? 0)).toString('hex')
      socket.write(`\0AUTH EXTERNAL ${uid}\r\n`)
    })
    socket.on('data', (data: Buffer) => {
      received = Buffer.concat([received, data])
      const end = received.indexOf('\r\n')
      if (end < 0) {
        if (received.length > MOST_AUTH_BYTES) stop(new Error('not a message bus'))
        return
      }
      const line = received.toString('latin1', 0, end)
      if (!line.startsWith('OK ')) {
        stop(new Error(`it refuses this user (${line})`))
        return
      }
      clearTimeout(timer)
      socket.removeAllListeners()
      socket.write('BEGIN\r\n')
      done({ socket: socket.pause(), rest: received.subarray(end + 2) })
    })
  })
}
