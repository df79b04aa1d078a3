/** A relay that runs apart from its coordinator, on a virtual network: both machines are the real ones. */
import { toHex } from '../../src/core/bytes.ts'
import type { Endpoint } from '../../src/core/endpoint.ts'
import { Member } from '../../src/overlay/machine/member.ts'
import { Relay } from '../../src/overlay/machine/relay.ts'
import { overlayCrypto } from '../../src/overlay/node/crypto.ts'
import { Status, Type, Want } from '../../src/overlay/wire/message.ts'
import { at, type Network, type SimHost } from '../sim/overlay/network.ts'
import type { MachineServers } from './overlay-servers.ts'

const MEMBER_PORT = 6742
const FIRST_PORT = 7001
const PORTS = 8

export class SimRelay implements SimHost {
  down = false
  relay: Relay
  member: Member
  /** Datagrams forwarded. */
  forwarded = 0
  /** What it reports beside its own channels. */
  load: { maxChannels?: number; rate?: number; capacity?: number } = {}
  readonly lost: string[] = []
  readonly #net: Network
  readonly #name: string
  readonly #address: string
  readonly #key: Uint8Array

  /** Known to the coordinator of the first zone as `name`; `key`: another than the coordinator has. */
  constructor(net: Network, name: string, address: string, key?: Uint8Array) {
    this.#net = net
    this.#name = name
    this.#address = address
    const right = net.fill(new Uint8Array(32))
    this.#key = key ?? right
    const { directory } = net.servers as MachineServers
    directory.servers.set(name, { name, roles: new Set(['rs']), key: right })
    this.relay = this.#makeRelay()
    this.member = this.#makeMember()
    net.hosts.set(address, this)
    this.#start()
  }

  /** As after a crash: no channel is left. */
  restart(): void {
    this.down = false
    this.relay = this.#makeRelay()
    this.member = this.#makeMember()
    this.#start()
  }

  #start(): void {
    this.member.setWays([{ socket: 0, to: at(`${this.#net.sites[0]!.host}:6741`) }], this.#net.now)
  }

  get #parts() {
    return {
      crypto: overlayCrypto,
      random: { fill: (out: Uint8Array) => this.#net.fill(out) },
      wall: () => this.#net.wall + this.#net.now,
    }
  }

  #makeRelay(): Relay {
    return new Relay(this.#parts, {
      addresses: [at(`${this.#address}:1`).address],
      ports: Array.from({ length: PORTS }, (_, i) => FIRST_PORT + i),
      maxChannels: this.load?.maxChannels ?? 1000,
    })
  }

  #makeMember(): Member {
    return new Member(
      {
        ...this.#parts,
        send: (_socket, to, bytes) => this.#send(MEMBER_PORT, to, bytes),
        describe: () => ({
          load: {
            ...{
              channels: this.relay.channelCount,
              maxChannels: this.relay.maxChannels,
              rate: 0,
              capacity: 0,
            },
            ...this.load,
            rtt: this.member.rtt,
          },
          measured: this.relay.takeMeasured(16),
        }),
        onRegistered: () => {},
        onLost: (reason) => this.lost.push(reason),
        onRequest: ({ type, pair, account = '', want, sides }, answer) => {
          if (type !== Type.RELAY_ORDER || pair === undefined || sides?.length !== 2) return
          const [first, second] = sides
          const made = this.relay.order(
            {
              ...{
                pair: toHex(pair),
                account,
                another: want === Want.ANOTHER_CHANNEL,
                binds: want === Want.BIND,
              },
              sides: [first!, second!],
            },
            this.#net.now,
          )
          answer(made === undefined ? { status: Status.NO_RELAY } : { relays: made })
        },
      },
      { name: this.#name, key: this.#key, roles: ['rs'] },
    )
  }

  receive(port: number, bytes: Uint8Array, from: Endpoint): void {
    if (port === MEMBER_PORT) {
      this.member.handle(bytes, from, 0, this.#net.now)
      return
    }
    const index = port - FIRST_PORT
    if (bytes[0] === 0x4e) {
      const answer = this.relay.handleBind(bytes, index, from, this.#net.now)
      if (answer !== undefined) this.#send(port, from, answer)
      return
    }
    const target = this.relay.find(index, from)
    if (target?.to.bound === undefined) return
    target.from.packets++
    this.forwarded++
    this.#send(FIRST_PORT + target.to.port, target.to.bound, bytes)
  }

  #send(port: number, to: Endpoint, bytes: Uint8Array): void {
    if (!this.down) this.#net.deliver(`${this.#address}:${port}`, to, bytes)
  }

  nextTimeout(): number | undefined {
    if (this.down) return undefined
    const [a, b] = [this.member.nextTimeout(), this.relay.nextTimeout()]
    return a === undefined ? b : b === undefined ? a : Math.min(a, b)
  }

  handleTimeout(now: number): void {
    this.member.handleTimeout(now)
    this.relay.handleTimeout(now)
  }
}
