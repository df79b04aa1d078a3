/** Changes of keys in an engine of anchoring: commands of the main thread to the tunnel machine, and its events back. */

import { attempt, done, type Outcome } from '../../tunnel/engine/outcome.ts'
import type { TunnelCommands, TunnelEvent } from '../../tunnel/protocol/api.ts'
import type { KeyCommand, KeyEvent } from '../protocol.ts'

/** Nothing happens for a peer (its index, undefined) that is gone by now. */
export function changeKey(
  machine: Pick<TunnelCommands, 'replaceKey' | 'acceptKey'>,
  peer: number | undefined,
  command: KeyCommand,
  now: number,
): Outcome {
  if (peer === undefined) return done
  return attempt(() =>
    command.type === 'replace-key'
      ? machine.replaceKey(peer, command.privateKey, now)
      : machine.acceptKey(peer, command.publicKey, now),
  )
}

export function keyEvent(event: TunnelEvent, nameOf: (peer: number) => string): KeyEvent | undefined {
  if (event.type !== 'key-offered' && event.type !== 'key-confirmed') return undefined
  const { peer, ...rest } = event
  return { ...rest, name: nameOf(peer) }
}
