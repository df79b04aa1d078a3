/** A server apart of a zone with several coordinators, on a virtual network: relay and registrations are the real machines. */
import { toHex } from '../../src/core/bytes.ts'
import type { Endpoint } from '../../src/core/endpoint.ts'
import { Members } from '../../src/overlay/machine/members.ts'
import { Relay } from '../../src/overlay/machine/relay.ts'
import { overlayCrypto } from '../../src/overlay/node/crypto.ts'
import { routeReport } from '../../src/overlay/servers/connection-reports.ts'
import {
  Connection,
  type Message,
  type ServerRole,
  Status,
  Type,
  Want,
} from '../../src/overlay/wire/message.ts'
import { at, type Network, type SimHost } from '../sim/overlay/network.ts'
import type { MachineServers } from './overlay-servers.ts'

const MEMBER_PORT = 6742
const FIRST_PORT = 7001
const PORTS = 8

export class SimMembers implements SimHost {
  down = false
  readonly members: Members
  readonly relay: Relay
  /** Of a notification server: who announced each node, with what, and which are connected. */
  readonly announced = new Map<string, { token: Uint8Array; by: string }>()
  readonly connected = new Set<string>()
  /** What it brings to nodes. */
  onNotification: (name: string, datagram: Uint8Array) => void = () => {}
  readonly ended: string[] = []
  /** `coordinator type` of what was asked here. */
  readonly asked: string[] = []
  readonly #net: Network
  readonly #address: string

  /** It begins with the coordinators at these addresses. */
  constructor(
    net: Network,
    name: string,
    address: string,
    roles: readonly ServerRole[],
    first: readonly string[],
  ) {
    this.#net = net
    this.#address = address
    const key = net.fill(new Uint8Array(32))
    ;(net.servers as MachineServers).directory.servers.set(name, { name, roles: new Set(roles), key })
    const common = {
      crypto: overlayCrypto,
      random: { fill: (out: Uint8Array) => net.fill(out) },
      wall: () => net.wall + net.now,
    }
    this.relay = new Relay(common, {
      addresses: [at(`${address}:1`).address],
      ports: Array.from({ length: PORTS }, (_, i) => FIRST_PORT + i),
    })
    this.members = new Members(
      {
        ...common,
        send: (_socket, to, bytes) => this.#send(MEMBER_PORT, to, bytes),
        socketFor: ({ length }) => (length === 4 ? 0 : undefined),
        describe: () => ({
          ...(roles.includes('rs') && {
            load: { channels: this.relay.channelCount, maxChannels: 1000, rate: 0, capacity: 0, rtt: 1 },
          }),
          ...(roles.includes('ns') && {
            notificationServer: { host: address, port: 25 },
            certificate: new Uint8Array(32),
          }),
        }),
        onRegistered: (_coordinator, _answer, isFresh, now) => isFresh && this.#tellConnected(now),
        onLost: (_coordinator, _reason, now) => this.#tellConnected(now),
        onRequest: (by, message, answer, now) => this.#request(by, message, answer, now),
      },
      { name, key, roles },
    )
    net.hosts.set(address, this)
    this.members.setWays(
      first.map((each) => ({ socket: 0, to: at(`${each}:6741`) })),
      net.now,
    )
  }

  /** The node has shown its token, or its connection has ended. */
  setConnected(name: string, is: boolean): void {
    if (is) this.connected.add(name)
    else this.connected.delete(name)
    this.#report(name, is ? Connection.NOW : Connection.ENDED, this.#net.now)
  }

  #tellConnected(now: number): void {
    for (const name of this.connected) this.#report(name, Connection.BEFORE, now)
  }

  #report(nodeName: string, connection: number, now: number): void {
    const { token, by } = this.announced.get(nodeName) ?? {}
    if (token === undefined) return
    const { to, status } = routeReport(by, this.members.coordinators, connection)
    const message = { type: Type.NOTIFICATION_STATE, nodeName, token, status }
    for (const each of to) this.members.requestOf(each, message, 5000, () => {}, now)
  }

  #request(by: string, message: Message, answer: (fields: Partial<Message>) => void, now: number): void {
    const { type, pair, account = '', want, sides, nodeName = '', token, datagram } = message
    this.asked.push(`${by} ${type}`)
    if (type === Type.RELAY_ORDER && pair !== undefined && sides?.length === 2) {
      const [first, second] = sides
      const made = this.relay.order(
        {
          ...{ pair: toHex(pair), account, sides: [first!, second!] },
          ...{ another: want === Want.ANOTHER_CHANNEL, binds: want === Want.BIND },
        },
        now,
      )
      answer(made === undefined ? { status: Status.NO_RELAY } : { relays: made })
    } else if (type === Type.NOTIFICATION_PREPARE && token !== undefined) {
      this.announced.set(nodeName, { token, by })
      answer({})
    } else if (type === Type.NOTIFICATION) {
      answer({})
      if (this.connected.has(nodeName)) this.onNotification(nodeName, datagram ?? new Uint8Array(0))
    } else if (type === Type.NOTIFICATION_END) {
      answer({})
      const known = this.announced.get(nodeName)
      if (token !== undefined && known !== undefined && toHex(known.token) !== toHex(token)) return
      this.ended.push(nodeName)
      this.announced.delete(nodeName)
      this.connected.delete(nodeName)
    } else answer({ status: Status.NOT_ALLOWED })
  }

  receive(port: number, bytes: Uint8Array, from: Endpoint): void {
    const now = this.#net.now
    if (port === MEMBER_PORT) {
      this.members.handle(bytes, from, 0, now)
      return
    }
    const index = port - FIRST_PORT
    if (bytes[0] === 0x4e) {
      const answer = this.relay.handleBind(bytes, index, from, now)
      if (answer !== undefined) this.#send(port, from, answer)
      return
    }
    const target = this.relay.find(index, from)
    if (target?.to.bound === undefined) return
    target.from.packets++
    this.#send(FIRST_PORT + target.to.port, target.to.bound, bytes)
  }

  #send(port: number, to: Endpoint, bytes: Uint8Array): void {
    if (!this.down) this.#net.deliver(`${this.#address}:${port}`, to, bytes)
  }

  nextTimeout(): number | undefined {
    if (this.down) return undefined
    const [a, b] = [this.members.nextTimeout(), this.relay.nextTimeout()]
    return a === undefined ? b : b === undefined ? a : Math.min(a, b)
  }

  handleTimeout(now: number): void {
    this.members.handleTimeout(now)
    this.relay.handleTimeout(now)
  }
}
