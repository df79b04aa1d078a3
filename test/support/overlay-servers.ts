/** The coordinator's and the relay's machines as one server on a virtual network, with a store in memory. */
import { toHex } from '../../src/core/bytes.ts'
import type { Endpoint } from '../../src/core/endpoint.ts'
import { signingPublicKey } from '../../src/crypto/keys.ts'
import type { MachineComponents } from '../../src/overlay/machine/api.ts'
import { Coordinator, type CoordinatorInit } from '../../src/overlay/machine/coordinator.ts'
import type { Directory, Distributor, ServerRecord, ZoneKeys } from '../../src/overlay/machine/directory.ts'
import type { SoftInput, SoftOutput } from '../../src/overlay/machine/fellows.ts'
import type { Notification } from '../../src/overlay/machine/notifier.ts'
import { Relay } from '../../src/overlay/machine/relay.ts'
import type { FoundZone } from '../../src/overlay/machine/zones.ts'
import { overlayCrypto } from '../../src/overlay/node/crypto.ts'
import type { NodeRecord } from '../../src/overlay/tables.ts'
import type { SimServer, SimServerParts } from '../sim/overlay/network.ts'

export class MemoryDirectory implements Directory {
  readonly nodes = new Map<string, NodeRecord>()
  readonly numbers = new Map<string, number>()
  readonly access = new Map<string, readonly string[]>()
  #next = 1
  #serial = 0

  nodeByName(name: string): NodeRecord | undefined {
    return this.nodes.get(name)
  }

  nodeByKeyId(keyId: Uint8Array): NodeRecord | undefined {
    return [...this.nodes.values()].find((node) => toHex(node.keyId) === toHex(keyId))
  }

  putNode(node: NodeRecord): boolean {
    this.nodes.set(node.name, { ...this.nodes.get(node.name), ...node })
    return true
  }

  takeNumber(): number {
    return this.#next++
  }

  setNumber(name: string, number: number): boolean {
    for (const [other, taken] of this.numbers) if (taken === number && other !== name) return false
    this.numbers.set(name, number)
    this.#next = Math.max(this.#next, number + 1)
    return true
  }

  numberOf(name: string): number | undefined {
    return this.numbers.get(name)
  }

  setLease(name: string, lease: Uint8Array): void {
    this.nodes.set(name, { ...this.nodes.get(name)!, lease })
  }

  takeSerial(): number {
    return ++this.#serial
  }

  /** As it is now; calling what is returned discards what was written since. */
  kept(): () => void {
    const { nodes, numbers } = this
    const all = [[...nodes], [...numbers], this.#next] as const
    return () => {
      nodes.clear()
      numbers.clear()
      for (const [name, node] of all[0]) nodes.set(name, node)
      for (const [name, number] of all[1]) numbers.set(name, number)
      this.#next = all[2]
    }
  }

  accessOf(name: string): readonly string[] | undefined {
    return this.access.get(name)
  }

  readonly pushes = new Map<string, string>()

  pushOf(name: string): string | undefined {
    return this.pushes.get(name)
  }

  setPush(name: string, address: string | undefined): void {
    if (address === undefined) this.pushes.delete(name)
    else this.pushes.set(name, address)
  }

  readonly notified = new Set<string>()

  isNotified(name: string): boolean {
    return this.notified.has(name)
  }

  setNotified(name: string): void {
    this.notified.add(name)
  }

  readonly zones = new Map<string, ZoneKeys>()

  zoneKeys(zone: string): ZoneKeys | undefined {
    return this.zones.get(zone)
  }

  pinZone(zone: string, keys: ZoneKeys): void {
    this.zones.set(zone, keys)
  }

  readonly servers = new Map<string, ServerRecord>()

  serverByName(name: string): ServerRecord | undefined {
    return this.servers.get(name)
  }

  readonly told = new Map<string, Distributor>()

  #isNews(name: string, by: Distributor): boolean {
    const told = this.told.get(name)
    if (told !== undefined && toHex(told.key) === toHex(by.key) && told.seq >= by.seq) return false
    this.told.set(name, by)
    return true
  }

  distribute(node: NodeRecord, by: Distributor): boolean {
    return this.#isNews(node.name, by) && this.putNode(node)
  }

  removeNode(name: string, by: Distributor): boolean {
    const isNews = this.#isNews(name, by)
    if (isNews) this.nodes.delete(name)
    return isNews
  }

  removeUnnamed({ seq }: Distributor): readonly string[] {
    const left = [...this.told].flatMap(([name, told]) => (told.seq < seq ? [name] : []))
    for (const name of left) this.nodes.delete(name)
    return left
  }
}

const SEED = new Uint8Array(32).fill(5)
export const ZONE: CoordinatorInit = {
  zone: 'test.example',
  zoneSeed: SEED,
  zoneKey: signingPublicKey(SEED),
  prefix6: Uint8Array.of(0xfd, 0x67, 1, 2, 3, 4, 0, 1),
  block4: { address: Uint8Array.of(100, 96, 0, 0), length: 16 },
  coordinatorKey: new Uint8Array(32).fill(9),
  relays: true,
  openTo: 'zone',
  trace: true,
}

export class MachineServers implements SimServer {
  directory = new MemoryDirectory()
  coordinator: Coordinator
  relay: Relay
  relayAnswers = true
  /** Of all datagrams of the coordinator, in order: `from to STEP`. */
  readonly steps: string[] = []
  /** What the DNS says of other zones; `silent`: it does not answer. */
  dns: (zone: string) => FoundZone | 'silent' | undefined = () => undefined
  readonly logged: string[] = []
  /** What the notification server was told: tokens by node, datagrams to bring, connections that are dead. */
  readonly prepared = new Map<string, Uint8Array>()
  readonly notifications: Notification[] = []
  readonly ended: string[] = []
  readonly cacheServers: unknown[] = []
  /** How many commits of turns that gave a node its number fail: another coordinator has written before. */
  failing = 0
  /** What these turns asked a notification server apart is sent again, and it answers. */
  readonly #askedAgain: number[] = []
  /** Takes what is for the other coordinators of the zone. */
  bus: (output: SoftOutput) => void = () => {}
  readonly #parts: SimServerParts
  readonly #init: Partial<CoordinatorInit>
  #count = 0

  constructor(parts: SimServerParts, init: Partial<CoordinatorInit> = {}, directory?: MemoryDirectory) {
    if (directory !== undefined) this.directory = directory
    this.#parts = parts
    this.#init = init
    this.coordinator = new Coordinator(this.#components, this.directory, { ...ZONE, ...init })
    this.relay = new Relay(this.#components, {
      addresses: [parts.relayPorts[0]!.address],
      // Index 0 of the network's ports is the coordinator's.
      ports: parts.relayPorts.slice(1).map(({ port }) => port),
    })
  }

  get #components(): MachineComponents {
    const { wall, fill } = this.#parts
    return { crypto: overlayCrypto, wall, random: { fill } }
  }

  /** The coordinator starts anew with the same store. */
  restart(): void {
    this.coordinator = new Coordinator(this.#components, this.directory, { ...ZONE, ...this.#init })
  }

  add(name: string, publicKey: Uint8Array) {
    const n = ++this.#count
    const keyId = new Uint8Array(16).fill(n)
    const key = new Uint8Array(32).fill(100 + n)
    this.directory.putNode({
      name,
      account: `account${n}`,
      accountId: n.toString(16).padStart(16, '0'),
      publicKey,
      keyId,
      key,
    })
    const { zone, zoneKey } = { ...ZONE, ...this.#init }
    return { credentials: { name, keyId, key, coordinator: `dc.${zone}`, zoneKey } }
  }

  receive(port: number, bytes: Uint8Array, from: Endpoint): void {
    const now = this.#parts.now()
    if (port === 0) {
      const { numbers } = this.directory
      const before = numbers.size
      for (const id of this.#askedAgain.splice(0))
        this.coordinator.handleNotificationPrepareAck(id, true, now)
      const discard = this.failing > 0 ? this.directory.kept() : undefined
      this.coordinator.handleDatagram(bytes, from, 0, now)
      if (discard !== undefined && numbers.size > before) {
        this.failing--
        discard()
        for (let output = this.coordinator.poll(); output !== undefined; output = this.coordinator.poll())
          if (output.type === 'notification-prepare') this.#askedAgain.push(output.id)
      } else this.#drain(now)
      return
    }
    if (bytes[0] === 0x4e) {
      const answer = this.relay.handleBind(bytes, port - 1, from, now)
      if (answer !== undefined) this.#parts.send(port, from, answer)
      return
    }
    const target = this.relay.find(port - 1, from)
    if (target?.to.bound === undefined) return
    target.from.packets++
    this.#parts.send(target.to.port + 1, target.to.bound, bytes)
  }

  nextTimeout(): number | undefined {
    const a = this.coordinator.nextTimeout()
    const b = this.relay.nextTimeout()
    return a === undefined ? b : b === undefined ? a : Math.min(a, b)
  }

  handleSoft(input: SoftInput): void {
    const now = this.#parts.now()
    this.coordinator.handleSoft(input, now)
    this.#drain(now)
  }

  handleTimeout(now: number): void {
    this.coordinator.handleTimeout(now)
    this.relay.handleTimeout(now)
    this.#drain(now)
  }

  #drain(now: number): void {
    for (let output = this.coordinator.poll(); output !== undefined; output = this.coordinator.poll()) {
      if (output.type === 'send') this.#parts.send(0, output.to, output.bytes)
      else if (output.type === 'step') this.steps.push(`${output.from} ${output.to} ${output.what}`)
      else if (output.type === 'find-zone') {
        const found = this.dns(output.zone)
        if (found !== 'silent') this.coordinator.handleZone(output.zone, found, now)
      } else if (output.type === 'cache-server') this.cacheServers.push(output.at)
      else if (output.type === 'log') this.logged.push(output.message)
      else if (output.type === 'notification-prepare') {
        this.prepared.set(output.name, output.token)
        this.coordinator.handleNotificationPrepareAck(output.id, true, now)
      } else if (output.type === 'notification') this.notifications.push(output)
      else if (output.type === 'notification-end') this.ended.push(output.name)
      else if (output.type !== 'relay-order') this.bus(output)
      else if (this.relayAnswers)
        this.coordinator.handleRelayAck(
          output.id,
          this.relay.order({ ...output, pair: toHex(output.pair) }, now),
          now,
        )
    }
  }
}
