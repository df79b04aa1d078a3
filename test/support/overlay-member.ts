/** A server apart from its coordinator on a virtual network. */
import { Member } from '../../src/overlay/machine/member.ts'
import { overlayCrypto } from '../../src/overlay/node/crypto.ts'
import { type Message, type ServerRole, Type } from '../../src/overlay/wire/message.ts'
import { at, type Network, type SimHost } from '../sim/overlay/network.ts'
import type { MachineServers } from './overlay-servers.ts'

export const MEMBER_PORT = 6742

/** A server apart that answers as it is told. */
export class SimMember implements SimHost {
  down = false
  member: Member
  where: Partial<Message> = {}
  answer: Partial<Message> | undefined = {}
  readonly asked: Message[] = []
  readonly welcomes: Message[] = []
  fresh = 0
  /** Overrides `answer`. */
  onRequest: (message: Message) => Partial<Message> | undefined = () => this.answer
  /** Takes the next datagram instead of the network. */
  hold: ((bytes: Uint8Array) => void) | undefined
  readonly #net: Network

  constructor(net: Network, name: string, address: string, roles: readonly ServerRole[], claims = roles) {
    this.#net = net
    const key = net.fill(new Uint8Array(32))
    ;(net.servers as MachineServers).directory.servers.set(name, { name, roles: new Set(roles), key })
    this.member = new Member(
      {
        ...{
          crypto: overlayCrypto,
          random: { fill: (out) => net.fill(out) },
          wall: () => net.wall + net.now,
        },
        send: (_socket, to, bytes) => {
          const { hold } = this
          this.hold = undefined
          if (hold !== undefined) hold(bytes.slice())
          else if (!this.down) net.deliver(`${address}:${MEMBER_PORT}`, to, bytes)
        },
        describe: () => this.where,
        onRegistered: (welcome, isFresh) => {
          this.welcomes.push(welcome)
          if (isFresh) this.fresh++
        },
        onLost: () => {},
        onRequest: (message, answer) => {
          this.asked.push(message)
          const fields = this.onRequest(message)
          if (fields !== undefined) answer(fields)
        },
      },
      { name, key, roles: claims },
    )
    net.hosts.set(address, this)
    this.member.setWays([{ socket: 0, to: at(`${net.sites[0]!.host}:6741`) }], net.now)
  }

  receive(_port: number, bytes: Uint8Array, from: ReturnType<typeof at>): void {
    this.member.handle(bytes, from, 0, this.#net.now)
  }

  nextTimeout(): number | undefined {
    return this.down ? undefined : this.member.nextTimeout()
  }

  handleTimeout(now: number): void {
    this.member.handleTimeout(now)
  }

  ask(message: Omit<Message, 'transaction'>): Message | undefined {
    let answered: Message | undefined
    this.member.request(message, 3000, (answer) => (answered = answer), this.#net.now)
    this.#net.run(3100)
    return answered
  }

  /** Registers beside what it does by itself. */
  register(fields: Partial<Message>): void {
    const message = { type: Type.SERVER_REGISTRATION, ...this.where, ...fields }
    this.member.request(message, 1000, () => {}, this.#net.now)
  }

  of(type: number): Message[] {
    return this.asked.filter((message) => message.type === type)
  }
}
