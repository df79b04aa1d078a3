/**
 * A daemon in the foreground, from its configuration to its end: `ready` on standard output, the log on standard error,
 * SIGINT and SIGTERM stop it. A second one ends it at once.
 */
import { existsSync } from 'node:fs'
import { missingError, usageError } from '../core/errors.ts'
import { needProgram } from '../linux/packages.ts'
import { forbidCoreDumps, optimizeLate } from '../linux/proc.ts'
import { IhmpNat, readPrivateKeys } from '../translation/index.ts'
import { type Composition, composeAnchor, composeHost } from './compose.ts'
import { loadConfig } from './config.ts'
import { Daemon } from './daemon.ts'
import { composeDime, dimeKeyFile } from './dime.ts'
import { mayChangeNetwork } from './doctor.ts'
import { Log } from './log.ts'
import { HostRecorder } from './recorder.ts'
import { composeRouter, needSite } from './router.ts'
import type { Config } from './schema.ts'
import {
  loadAnchorConfig,
  loadDimeConfig,
  loadHostConfig,
  loadRouterConfig,
  type Role,
  roleOf,
} from './setup.ts'
import type { State } from './state.ts'
import { version } from './version.ts'

/** Runs until it is told to stop; resolves when everything it made is gone again. */
export async function serve(role: Role, state: State): Promise<void> {
  forbidCoreDumps()
  const { config, compose } = planOf(role, state)
  needNetworkAdmin()
  if (role === 'anchor') needProgram('nft')
  state.lock()
  const recorder = new HostRecorder(new Log(config.log.level))
  // Not beside a tunnel: its engine lives on optimized code.
  if (role === 'dime') optimizeLate()
  const { mechanisms, routes } = compose(recorder)
  const daemon = new Daemon({
    role,
    version: version(),
    state,
    mechanisms,
    recorder,
    instance: config.kernel.instance,
    routes,
  })
  let stopping = false
  const stopped = untilStopped(recorder).then(() => {
    stopping = true
    daemon.hurry()
  })
  try {
    await daemon.start()
    if (!stopping) process.stdout.write('ready\n')
    await stopped
  } finally {
    await daemon.stop()
    state.unlock()
  }
}

/**
 * Removes what a killed daemon left: that of the configuration, or of `role`. Returns whose it was. Refuses while one runs.
 */
export async function cleanUp(state: State, only?: Role): Promise<Role> {
  needNetworkAdmin()
  state.lock()
  const role = only ?? roleOf(loadConfig(state.configFile))
  const { config, compose } = planOf(role, state, false)
  const recorder = new HostRecorder(new Log(config.log.level))
  for (const mechanism of compose(recorder).mechanisms) await mechanism.cleanUp()
  // Cgroups, and the control socket.
  const { instance } = config.kernel
  await new Daemon({ role, version: version(), state, mechanisms: [], recorder, instance }).stop()
  state.unlock()
  return role
}

/** The configuration of a role, and its daemon's mechanisms. `whole`: it must be enough to run. */
function planOf(
  role: Role,
  state: State,
  whole = true,
): { config: Config; compose: (recorder: HostRecorder) => Composition } {
  switch (role) {
    case 'anchor': {
      const config = loadAnchorConfig(state)
      return { config, compose: (recorder) => composeAnchor(config, state, recorder) }
    }
    case 'router': {
      const config = loadRouterConfig(state)
      if (whole) needSite(config, state)
      return { config, compose: (recorder) => composeRouter(config, state, recorder) }
    }
    case 'dime': {
      const config = loadDimeConfig(state)
      return { config, compose: (recorder) => composeDime(config, state, recorder) }
    }
    default: {
      const config = whole ? loadHostConfig(state) : loadConfig(state.configFile)
      return { config, compose: (recorder) => composeHost(config, state, recorder) }
    }
  }
}

/** `godwit dime nat`: no control socket, only the translation and its announcements. */
export async function serveNat(
  state: State,
  options: {
    readonly inside: string
    readonly outside: string
    readonly ports?: string
    readonly port?: number
  },
): Promise<void> {
  forbidCoreDumps()
  needNetworkAdmin()
  state.lock()
  const config = loadDimeConfig(state)
  const recorder = new HostRecorder(new Log(config.log.level))
  const nat = new IhmpNat({
    instance: config.kernel.instance,
    inside: options.inside,
    outside: options.outside,
    ports: parsePorts(options.ports),
    port: options.port ?? config.dime.port,
    key: readPrivateKeys(dimeKeyFile(state))[0]?.key,
    log: (message) => recorder.log('info', message),
  })
  const stopped = untilStopped(recorder)
  try {
    nat.start()
    process.stdout.write('ready\n')
    await stopped
  } finally {
    nat.stop()
    state.unlock()
  }
}

function parsePorts(text: string | undefined): readonly [number, number] | undefined {
  if (text === undefined) return undefined
  const [, first, last] = /^(\d{1,5})-(\d{1,5})$/.exec(text)?.map(Number) ?? []
  if (first === undefined || last === undefined || first < 1 || last > 65535 || first > last)
    throw usageError(`--ports: "${text}" is not FIRST-LAST, e.g. 40000-49999`)
  return [first, last]
}

/** Resolves with the first signal to stop. */
function untilStopped(recorder: HostRecorder): Promise<void> {
  return new Promise((done) => {
    let asked = false
    const stop = (signal: NodeJS.Signals): void => {
      if (asked) process.exit(1)
      asked = true
      recorder.log('info', `${signal}: stopping`)
      done()
    }
    process.on('SIGINT', stop)
    process.on('SIGTERM', stop)
    process.on('SIGHUP', () =>
      recorder.log('warn', 'SIGHUP: the configuration is read at start only; restart to apply it'),
    )
    // What nobody caught: leave nothing behind, then fail.
    const fault = (error: unknown): void => {
      recorder.log(
        'error',
        `fault: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      )
      process.exitCode = 1
      if (asked) process.exit(1)
      asked = true
      done()
    }
    process.on('uncaughtException', fault)
    process.on('unhandledRejection', fault)
  })
}

/** Throws what is missing for interfaces, routes and rules to be made. */
function needNetworkAdmin(): void {
  if (!mayChangeNetwork()) {
    throw missingError(
      'the right to change the network (CAP_NET_ADMIN) is missing',
      'run it as root: sudo godwit …',
    )
  }
  if (!existsSync('/dev/net/tun')) {
    throw missingError(
      '/dev/net/tun does not exist',
      'sudo modprobe tun; in a container: --device /dev/net/tun',
    )
  }
}
