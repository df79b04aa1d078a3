/** Connections that a killed daemon had go on (record.ts). */
import { Connection, type Host } from './connection.ts'
import { resetSubflow } from './joins.ts'
import { keyOf } from './keys.ts'
import { type AccessChange, accessesChanged, loseSubflow, probe, type Registry } from './lifecycle.ts'
import type { KeptConnection, KeptSubflow } from './record.ts'
import { tupleKey } from './segment.ts'
import { Subflow } from './subflow.ts'

/** As it was left, at `now`; undefined when what was kept contradicts itself. */
export function rebuild(host: Host, kept: KeptConnection, now: number): Connection | undefined {
  const { id, role, tuple, tcpIsn, forwarded, inside } = kept
  const key = tupleKey(tuple)
  const localKey = keyOf(host.sha, kept.localKey)
  const connection = new Connection({ id, host, tuple, key, role, localKey, tcpIsn, forwarded, inside, now })
  connection.remoteKey = keyOf(host.sha, kept.remoteKey)
  const { state, confirmed, answered, noJoin, peerIsn, localSyn, remoteSyn, segmentSize, removed } = kept
  Object.assign(connection, { state, confirmed, answered, noJoin, peerIsn, localSyn, remoteSyn, segmentSize })
  const { sndMax, dataUna, tan, rcvMax, window, remoteWindow, finLocal, finRemote } = kept
  Object.assign(connection, { sndMax, dataUna, tan, rcvMax, window, remoteWindow, finLocal, finRemote })
  connection.forgotten = kept.forgotten
  connection.nextSubflow = kept.nextSubflow
  connection.nextAddress = kept.nextAddress
  if (removed.length > 0) {
    connection.repeat = [{ type: 'remove-addr', ids: removed }]
    connection.repeatAt = now
  }
  for (const each of kept.subflows) {
    const subflow = rebuildSubflow(each, now)
    if (subflow === undefined) return undefined
    connection.subflows.push(subflow)
  }
  if (connection.first?.key !== key) return undefined
  connection.active = connection.subflows.find((each) => each.id === kept.active && each.usable)
  if (connection.active === undefined) connection.strandedAt = now
  return connection
}

function rebuildSubflow(kept: KeptSubflow, now: number): Subflow | undefined {
  const { id, tuple, addressId, access, state, localIsn, backup } = kept
  const key = tupleKey(tuple)
  const subflow = new Subflow({ id, tuple, key, addressId, access, state, localIsn, backup, now })
  subflow.beganAt = Number.NEGATIVE_INFINITY
  const { remoteAddressId, home, remoteIsn, remoteScale, sackPermitted, remoteBackup } = kept
  Object.assign(subflow, { remoteAddressId, home, remoteIsn, remoteScale, sackPermitted, remoteBackup })
  const { localNonce, remoteNonce, next, una, high, acked, finSent, finReceived } = kept
  Object.assign(subflow, { localNonce, remoteNonce, next, una, high, acked, finSent, finReceived })
  subflow.send.restore(kept.send, kept.appended)
  subflow.sendKnown = kept.whole
  for (const { ssn, dsn, length } of kept.recv) if (!subflow.recv.add(ssn, dsn, length)) return undefined
  if (state !== 'active' && state !== 'dead') subflow.retryAt = now
  return subflow
}

/**
 * Goes on. What was sent meanwhile is lost, and both ends send it again by their timers; each peer is asked for what it has, which may be
 * more than the local TCP knows.
 */
export function resume(connection: Connection, change: AccessChange, registry: Registry, now: number): void {
  for (const subflow of [...connection.subflows])
    if (subflow.alive && !subflow.sendKnown) {
      // A peer takes another mapping of bytes that it has a part of for an error: they go elsewhere.
      resetSubflow(connection, subflow)
      loseSubflow(connection, subflow, 'its mappings were lost with the daemon', 'gone', registry, now)
    }
  if (connection.state !== 'pre-established') accessesChanged(connection, change, registry, now)
  for (const subflow of connection.subflows) if (subflow.usable) probe(connection, subflow, now)
  connection.askWindow()
}
