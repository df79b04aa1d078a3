/** What the cache server knows of nodes: from the store of its process, or from the coordinator elsewhere. */
import { toHex } from '../../core/bytes.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { mayAsk, type OpenTo } from '../machine/access.ts'
import { cacheProof } from '../machine/secrets.ts'
import type { Store } from '../store/store.ts'
import { hasEnded, type NodeRecord } from '../tables.ts'
import { type Message, Status, Type } from '../wire/message.ts'
import { Refusal } from './answers.ts'

export type CacheNode = Pick<NodeRecord, 'name' | 'account' | 'accountId'>

export interface KnownLease {
  readonly status: Status
  /** Absent: there is no such node, or it was never online. */
  readonly lease?: Uint8Array
  readonly accountId?: string
}

export interface CacheDirectory {
  /** Whose login key has this id and proves itself so (machine/secrets.ts, `cacheProof`); undefined: nobody's that is good. */
  authenticate(keyId: Uint8Array, proof: Uint8Array): Promise<CacheNode | undefined>
  /** The lease of a node; `by`: if that one may connect to it. */
  leaseOf(name: string, by?: string): Promise<KnownLease>
}

export function storeDirectory(store: Store, openTo: OpenTo, wall: () => number): CacheDirectory {
  return {
    async authenticate(keyId, proof) {
      store.refresh()
      const node = store.nodeByKeyId(keyId)
      const isRight = node !== undefined && nodeCrypto.equal(cacheProof(nodeCrypto, node.key, keyId), proof)
      return isRight && !hasEnded(node, wall()) ? node : undefined
    },
    async leaseOf(name, by) {
      const node = store.nodeByName(name)
      if (node === undefined) return { status: Status.UNKNOWN_NAME }
      const status = by === undefined ? Status.DONE : mayAsk(store, openTo, by, name)
      const { accountId, lease } = node
      return status === Status.DONE
        ? { status, accountId, ...(lease !== undefined && { lease }) }
        : { status }
    },
  }
}

/** `ask` resolves with undefined when the coordinator does not answer. */
export function remoteDirectory(
  ask: (message: Omit<Message, 'transaction'>) => Promise<Message | undefined>,
): CacheDirectory {
  const type = Type.NODE_REQUEST
  const asked = async (fields: Partial<Message>) => {
    const answer = await ask({ ...fields, type })
    if (answer === undefined)
      throw new Refusal(503, 'COORDINATOR_AWAY', 'the coordinator of the zone does not answer; try again')
    return answer
  }
  return {
    async authenticate(keyId, proof) {
      const { nodeName, account, accountId } = await asked({ keyId, proof })
      if (nodeName === undefined || account === undefined || accountId === undefined) return undefined
      return { name: nodeName, account, accountId: toHex(accountId) }
    },
    async leaseOf(name, by) {
      const answer = await asked({ name, ...(by !== undefined && { nodeName: by }) })
      const { status = Status.UNREACHED, lease, accountId } = answer
      return {
        status: status as Status,
        ...(lease !== undefined && { lease }),
        ...(accountId !== undefined && { accountId: toHex(accountId) }),
      }
    },
  }
}
