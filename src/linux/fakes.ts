/**
 * Doubles in memory of what godwit asks of the kernel beside its network configuration (rtnetlink/fake.ts): packet
 * filter, sockets, control groups, settings. The suites in test/suites run on the double and on the real one.
 */

import { equal } from '../core/bytes.ts'
import { ENOENT } from '../core/errno.ts'
import { GodwitError } from '../core/errors.ts'
import { KernelError } from './libc.ts'
import type { Nftables, NftObject, NftSetName, NftTableName } from './nft.ts'
import { type SocketFilter, type SocketFlow, type SocketInfo, type SocketTable, TCP } from './sockdiag.ts'
import type { Sysctls } from './sysctl.ts'

interface FakeTable {
  readonly name: NftTableName
  readonly body: string
  readonly sets: Map<string, Set<string>>
}

/** Keeps the body of each table as it was given, and the elements of its sets and maps. Does not filter. */
export class FakeNftables implements Nftables {
  readonly #tables = new Map<string, FakeTable>()

  replaceTable(table: NftTableName, body: string): void {
    const sets = new Map<string, Set<string>>()
    for (const [, name, content] of body.matchAll(
      /\b(?:set|map)\s+(\w+)\s*\{([^{}]*(?:\{[^{}]*\})?[^{}]*)\}/g,
    )) {
      const elements = /elements\s*=\s*\{([^}]*)\}/.exec(content!)?.[1] ?? ''
      const list = elements.split(',').map((each) => each.trim())
      sets.set(name!, new Set(list.filter((each) => each !== '')))
    }
    this.#tables.set(key(table), { name: { ...table }, body, sets })
  }

  deleteTable(table: NftTableName): boolean {
    return this.#tables.delete(key(table))
  }

  tables(): NftTableName[] {
    return [...this.#tables.values()].map((table) => table.name)
  }

  listTable(table: NftTableName): NftObject[] | undefined {
    const found = this.#tables.get(key(table))
    return (
      found && [
        { table: { ...found.name } },
        ...[...found.sets].map(([name, elements]) => ({ set: { name, elem: [...elements] } })),
      ]
    )
  }

  /** The body that the table was given; undefined when there is none. */
  body(table: NftTableName): string | undefined {
    return this.#tables.get(key(table))?.body
  }

  addElements(set: NftSetName, elements: readonly string[]): void {
    const found = this.#set(set)
    for (const element of elements) found.add(element)
  }

  deleteElements(set: NftSetName, elements: readonly string[]): boolean {
    const found = this.#set(set)
    if (elements.some((element) => !found.has(element))) return false
    for (const element of elements) found.delete(element)
    return true
  }

  #set(name: NftSetName): Set<string> {
    const set = this.#tables.get(key({ family: name.family, name: name.table }))?.sets.get(name.set)
    if (set === undefined) throw new GodwitError('NFT_FAILED', `no set ${name.set} in ${name.table}`)
    return set
  }
}

function key(table: NftTableName): string {
  return `${table.family} ${table.name}`
}

/** Sockets as a test lists them. */
export class FakeSocketTable implements SocketTable {
  #sockets: SocketInfo[] = []
  #nextCookie = 1n

  /** Adds a socket; missing fields are those of a connected socket of root. Returns it. */
  add(socket: SocketFlow & Partial<SocketInfo>): SocketInfo {
    const info: SocketInfo = {
      family: socket.localAddress.length === 4 ? 4 : 6,
      state: 'established',
      device: 0,
      retransmits: 0,
      uid: 0,
      inode: Number(this.#nextCookie) + 1000,
      mark: 0,
      cgroupId: 1,
      cookie: this.#nextCookie++,
      ...socket,
    }
    this.#sockets.push(info)
    return info
  }

  remove(socket: SocketInfo): boolean {
    const before = this.#sockets.length
    this.#sockets = this.#sockets.filter((each) => each.cookie !== socket.cookie)
    return this.#sockets.length < before
  }

  find(flow: SocketFlow): SocketInfo | undefined {
    const local = (each: SocketInfo) =>
      each.protocol === flow.protocol && each.localPort === flow.localPort && each.state !== 'listen'
    const connected = this.#sockets.find(
      (each) =>
        local(each) &&
        each.remotePort === flow.remotePort &&
        equal(each.localAddress, flow.localAddress) &&
        equal(each.remoteAddress, flow.remoteAddress),
    )
    if (connected !== undefined || flow.protocol === TCP) return connected
    return this.#sockets.find(
      (each) =>
        local(each) &&
        each.remotePort === 0 &&
        (equal(each.localAddress, flow.localAddress) || each.localAddress.every((byte) => byte === 0)),
    )
  }

  sockets(filter: SocketFilter = {}): SocketInfo[] {
    return this.#sockets.filter(
      (each) =>
        (filter.protocols?.includes(each.protocol) ?? true) &&
        (filter.families?.includes(each.family) ?? true) &&
        (filter.states?.includes(each.state) ?? (each.state !== 'listen' && each.state !== 'time-wait')),
    )
  }

  destroy(socket: SocketInfo): boolean {
    return this.remove(socket)
  }

  close(): void {}
}

/** Settings as a map; a key that is not in it does not exist. */
export class FakeSysctls implements Sysctls {
  readonly values: Map<string, string>
  readonly #saved = new Map<string, string>()

  constructor(values: Iterable<readonly [string, string]> = []) {
    this.values = new Map(values)
  }

  get saved(): ReadonlyMap<string, string> {
    return this.#saved
  }

  get(key: string): string | undefined {
    return this.values.get(key)
  }

  set(key: string, value: string | number): void {
    const before = this.values.get(key)
    if (before === undefined) throw new KernelError(`set ${key}`, ENOENT)
    if (before === String(value)) return
    this.values.set(key, String(value))
    if (!this.#saved.has(key)) this.#saved.set(key, before)
  }

  restore(): void {
    for (const [key, value] of this.#saved) if (this.values.has(key)) this.values.set(key, value)
    this.#saved.clear()
  }
}
