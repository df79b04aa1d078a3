/** Says when PostgreSQL cannot be reached, when it can again, and what of it is not as safe as it could be. */
import type { StoreReport } from '../store/postgres/protocol.ts'
import type { Store } from '../store/store.ts'
import { faultText } from './answers.ts'

const LOOK_MS = 500

/** Ends with clearInterval. Undefined: the store is in SQLite. */
export function watchStore(
  store: Store,
  log: (level: 'error' | 'warn' | 'info', message: string) => void,
): NodeJS.Timeout | undefined {
  const report = store.report()
  if (report === undefined) return undefined
  log('info', `database: PostgreSQL ${report.version} at ${report.host}`)
  for (const each of risksOf(report)) log('warn', `database: ${each}`)
  let why = ''
  const timer = setInterval(() => {
    const reason = store.isAway ? reasonOf(store) : ''
    if (reason === why) return
    if (reason === '') log('info', 'the database can be reached again')
    else if (why === '') log('warn', `nodes are served from the working copy, nothing is changed: ${reason}`)
    else log('warn', reason)
    why = reason
  }, LOOK_MS)
  return timer.unref()
}

/** Asked while it is away, a store answers at once. */
function reasonOf(store: Store): string {
  try {
    store.report()
    return ''
  } catch (error) {
    return faultText(error)
  }
}

/** What loses acknowledged changes in a failure that the database could outlive. */
export function risksOf(report: StoreReport): readonly string[] {
  const { unsafe, synchronous_standby_names, synchronous_standbys } = report
  return [
    ...unsafe.map(
      (each) => `${each}: a power cut loses what was acknowledged; set it to on in postgresql.conf`,
    ),
    ...(synchronous_standby_names === ''
      ? [
          'no synchronous standby: what was acknowledged is lost with the disk of the primary; set synchronous_standby_names',
        ]
      : synchronous_standbys === 0
        ? ['no synchronous standby is connected: nothing can be written until one is']
        : []),
  ]
}
