/** What is between several coordinators of a zone on a virtual network. */
import type { SoftInput, SoftOutput } from '../../src/overlay/machine/fellows.ts'
import type { Network } from '../sim/overlay/network.ts'
import type { MachineServers } from './overlay-servers.ts'

/** As NATS: what is told reaches who listens then, what is put is kept, as long as it is not lost. */
export class Bus {
  readonly kept = new Map<string, Uint8Array>()
  readonly members: { readonly server: MachineServers; id: string; up: boolean }[] = []
  /** How often what is told or put arrives: 0 loses it. */
  copies: (output: SoftOutput) => number = () => 1
  delay: () => number = () => 1
  readonly net: Network
  readonly all: SoftOutput[] = []

  constructor(net: Network) {
    this.net = net
  }

  join(server: MachineServers): void {
    const member = { server, id: '', up: true }
    this.members.push(member)
    server.bus = (output) => this.#take(member, output)
  }

  setUp(server: MachineServers, up: boolean): void {
    const member = this.members.find((each) => each.server === server)!
    member.up = up
    server.handleSoft({ type: up ? 'soft-up' : 'soft-down' })
  }

  #take(from: Bus['members'][number], output: SoftOutput): void {
    if (output.type === 'soft-listen') from.id = output.id
    if (!from.up || output.type === 'soft-listen') return
    this.all.push(output)
    for (let copy = this.copies(output); copy > 0; copy--) this.#later(() => this.#carry(from, output))
  }

  #carry(from: Bus['members'][number], output: Exclude<SoftOutput, { type: 'soft-listen' }>): void {
    if (output.type === 'soft-get') {
      const bytes = this.kept.get(output.key)
      this.#later(() => from.up && from.server.handleSoft({ type: 'soft-got', id: output.id, bytes }))
      return
    }
    if (output.type === 'soft-put') this.kept.set(output.key, output.bytes)
    for (const each of this.members) {
      if (!each.up) continue
      if (output.type === 'soft-put')
        each.server.handleSoft({ type: 'soft-entry', key: output.key, bytes: output.bytes })
      else if (output.to === '*' || output.to === each.id)
        each.server.handleSoft({ type: 'soft-heard', isOwn: output.to !== '*', bytes: output.bytes })
    }
  }

  #later(run: () => void): void {
    this.net.after(this.delay(), run)
  }

  tellAll(input: SoftInput): void {
    for (const { server } of this.members) server.handleSoft(input)
  }
}
