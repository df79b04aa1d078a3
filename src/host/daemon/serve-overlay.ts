/** `godwit overlay serve`: the servers of a zone in the foreground. No control socket: accounts are in the store. */
import { forbidCoreDumps } from '../../linux/proc.ts'
import { OverlayServers, type Role, readSettings, SETTINGS_FILE } from '../../overlay/servers/index.ts'
import { HostRecorder } from '../stores/recorder.ts'
import type { State } from '../stores/state.ts'
import { Log } from './log.ts'
import { untilStopped } from './serve.ts'

export async function serveOverlay(state: State, roles: readonly Role[]): Promise<void> {
  forbidCoreDumps()
  const settings = readSettings(state.file(SETTINGS_FILE))
  state.lock()
  const recorder = new HostRecorder(new Log('info'))
  const servers = new OverlayServers({
    ...{ settings, roles, file: (name) => state.file(name) },
    log: (level, message) => recorder.log(level, message),
  })
  const stopped = untilStopped(recorder)
  try {
    await servers.start()
    process.stdout.write('ready\n')
    const failure = await Promise.race([stopped, servers.failure])
    if (failure !== undefined) throw failure
  } finally {
    await servers.stop()
    state.unlock()
  }
}
