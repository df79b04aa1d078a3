/** Durable state as the coordinator's machine sees it (store/store.ts keeps it). */
import type { NodeRecord } from '../tables.ts'
import type { ServerRole } from '../wire/message.ts'

/** Durable state for the coordinator's machine; all calls are synchronous. */
export interface Directory {
  nodeByName(name: string): NodeRecord | undefined
  nodeByKeyId(keyId: Uint8Array): NodeRecord | undefined
  /**
   * Adds the node of a login, or replaces its keys. False when the name, or the public key, belongs to a node of another
   * account. A key has one name: a node of the same account that had it under another name is removed.
   */
  putNode(node: Pick<NodeRecord, 'name' | 'account' | 'publicKey' | 'keyId' | 'key' | 'expires'>): boolean
  /** A number that no node has or had. */
  takeNumber(): number
  /** Keeps the node's number, unless another node has it. */
  setNumber(name: string, number: number): boolean
  numberOf(name: string): number | undefined
  setLease(name: string, lease: Uint8Array): void
  /** A serial for a lease, greater than all before. */
  takeSerial(): number
  /** Patterns of names that may ask for this node: full names and `*.zone`; undefined: the zone's rule holds. */
  accessOf(name: string): readonly string[] | undefined
  /** Where a push service reaches the node. */
  pushOf(name: string): string | undefined
  setPush(name: string, address: string | undefined): void
  /** Whether the node was ever given a token for the notification server. */
  isNotified(name: string): boolean
  setNotified(name: string): void
  /** The keys of a foreign zone as first seen. */
  zoneKeys(zone: string): ZoneKeys | undefined
  pinZone(zone: string, keys: ZoneKeys): void
  /** A server of this zone that runs apart. */
  serverByName(name: string): ServerRecord | undefined
  /**
   * As the account server apart says: the node is this account's, and another node with its name or public key is no more. The account
   * is another one if its id is. False: it has said something newer of the node.
   */
  distribute(node: DistributedNode, by: Distributor): boolean
  /** The node is no more, for the account server. False: it has said something newer of the node. */
  removeNode(name: string, by: Distributor): boolean
  /**
   * Removes the nodes of which this account server, or one that is there no more, has said nothing since `by.seq`: it has named
   * all that it has. Returns their names.
   */
  removeUnnamed(by: Distributor): readonly string[]
}

export type DistributedNode = Omit<NodeRecord, 'lease'>

/** The account server of a change, and which of its changes it is. */
export interface Distributor {
  /** Of the server. */
  readonly key: Uint8Array
  readonly seq: number
}

export interface ServerRecord {
  readonly name: string
  /** What it may be. */
  readonly roles: ReadonlySet<ServerRole>
  /** 32 bytes. */
  readonly key: Uint8Array
  /** Where nodes reach it, as the operator said; absent: as it says itself. */
  readonly host?: string
}

export interface ZoneKeys {
  /** X25519 and Ed25519, 32 bytes each. */
  readonly coordinator: Uint8Array
  readonly zone: Uint8Array
}
