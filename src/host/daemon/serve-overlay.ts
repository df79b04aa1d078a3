/** `godwit overlay serve`: servers of a zone in the foreground. No control socket: accounts are in the store. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { GodwitError, usageError } from '../../core/errors.ts'
import { forbidCoreDumps } from '../../linux/proc.ts'
import {
  type AnySettings,
  elsewhere,
  isMember,
  MemberServers,
  OverlayServers,
  ROLES,
  type Role,
  readAnySettings,
  rolesElsewhere,
  SETTINGS_FILE,
  writeMember,
} from '../../overlay/servers/index.ts'
import { HostRecorder } from '../stores/recorder.ts'
import type { State } from '../stores/state.ts'
import { Log } from './log.ts'
import { untilStopped } from './stopping.ts'
import { endUnread, sayReady } from './streams.ts'

export interface ServeOptions {
  /** Undefined: all that the settings are for, and that do not run elsewhere. */
  readonly roles: readonly Role[] | undefined
  /** Of `overlay server add`; undefined: the settings in the state. */
  readonly settings: string | undefined
}

export async function serveOverlay(state: State, options: ServeOptions): Promise<void> {
  forbidCoreDumps()
  const file = (name: string) => state.file(name)
  if (options.settings !== undefined) takeSettings(state, resolve(options.settings))
  const settings = readAnySettings(file(SETTINGS_FILE))
  state.lock()
  const recorder = new HostRecorder(new Log('info'))
  const common = {
    ...{ roles: rolesOf(settings, options.roles, file), file },
    log: (level: 'error' | 'warn' | 'info', message: string) => recorder.log(level, message),
  }
  const servers = isMember(settings)
    ? new MemberServers({ ...common, settings })
    : new OverlayServers({ ...common, settings })
  const stopped = untilStopped(recorder)
  const started = servers.start().then(() => true)
  // One that is stopped while it starts may fail at what is closed already.
  started.catch(() => {})
  try {
    if ((await Promise.race([started, stopped])) !== true) return
    sayReady(recorder)
    const failure = await Promise.race([stopped, servers.failure])
    if (failure !== undefined) throw failure
  } finally {
    await servers.stop()
    state.unlock()
    endUnread()
  }
}

/** The settings of a server apart become those of this state. Throws SERVER_EXISTS. */
function takeSettings(state: State, path: string): void {
  const settings = readAnySettings(path)
  const own = state.file(SETTINGS_FILE)
  if (!isMember(settings))
    throw usageError(`${path} is of a coordinator`, { hint: 'give its folder with --state' })
  const before = existsSync(own) ? readAnySettings(own) : undefined
  if (
    before !== undefined &&
    !(isMember(before) && before.name === settings.name && before.zone === settings.zone)
  )
    throw new GodwitError('SERVER_EXISTS', `${own} is of another server`, {
      kind: 'usage',
      hint: 'give this one a state of its own with --state DIR',
    })
  state.prepare()
  writeMember(own, settings)
}

/** Throws usage errors for roles that this process may not have. */
function rolesOf(
  settings: AnySettings,
  wanted: readonly Role[] | undefined,
  file: (name: string) => string,
): readonly Role[] {
  if (isMember(settings)) {
    const other = wanted?.find((role) => !(settings.roles as readonly Role[]).includes(role))
    if (other !== undefined)
      throw elsewhere(
        `the settings of ${settings.name} are for ${settings.roles.join()}, not for ${other}`,
        'godwit overlay server add --help',
      )
    return wanted ?? settings.roles
  }
  if (wanted !== undefined && !wanted.includes('dc'))
    throw usageError('--roles: these settings are those of the coordinator, dc', {
      hint: 'godwit overlay server add NAME --roles LIST --endpoint HOST makes settings for servers without it',
    })
  const apart = rolesElsewhere(settings, file)
  // There may be several relays; of the others there is one.
  return wanted ?? ROLES.filter((role) => role === 'rs' || !apart.has(role))
}
