/** D10: who may ask for whom in a zone, for the coordinator and the cache server. */
import { Status } from '../wire/message.ts'
import type { Directory } from './directory.ts'
import { mayBeAsked } from './names.ts'

/** Who may ask for a node without an access list: any node of the zone, or only nodes of its account. */
export type OpenTo = 'zone' | 'account'

/** DONE, UNKNOWN_NAME or NOT_ALLOWED. */
export function mayAsk(
  directory: Pick<Directory, 'nodeByName' | 'accessOf'>,
  openTo: OpenTo,
  asker: string,
  name: string,
): Status {
  const target = directory.nodeByName(name)
  const by = directory.nodeByName(asker)
  if (target === undefined || by === undefined) return Status.UNKNOWN_NAME
  if (target.account === by.account) return Status.DONE
  const patterns = directory.accessOf(name)
  if (patterns === undefined) return openTo === 'zone' ? Status.DONE : Status.NOT_ALLOWED
  return mayBeAsked(patterns, asker) ? Status.DONE : Status.NOT_ALLOWED
}
