/**
 * A daemon in the foreground, from its configuration to its end: `ready` on standard output, the log on standard error,
 * SIGINT and SIGTERM stop it. A second one ends it at once.
 */
import { existsSync } from 'node:fs'
import { usageError } from '../../core/errors.ts'
import { RealClock } from '../../linux/clock.ts'
import { KernelGuard } from '../../linux/guard.ts'
import { Ledger } from '../../linux/ledger.ts'
import { forbidCoreDumps, optimizeLate } from '../../linux/proc.ts'
import { Rtnetlink } from '../../linux/rtnetlink/index.ts'
import type { MechanismDescriptor } from '../../mechanism/descriptor.ts'
import { NETWORK_ADMIN, TUN } from '../../mechanism/needs.ts'
import { IhmpNat, readPrivateKeys } from '../../translation/index.ts'
import { loadConfig } from '../configuration/config.ts'
import {
  claimantOf,
  descriptorOf,
  emptyConfig,
  loadConfigOf,
  type MechanismList,
  mechanismsFor,
  mechanismsToClean,
} from '../configuration/plan.ts'
import type { Config } from '../configuration/schema.ts'
import { MECHANISMS } from '../mechanisms.ts'
import { dimeKeyFile } from '../provisioning/translation.ts'
import { HostRecorder } from '../stores/recorder.ts'
import type { State } from '../stores/state.ts'
import { version } from '../version.ts'
import { Daemon } from './daemon.ts'
import { leftovers } from './leftovers.ts'
import { Log } from './log.ts'
import { Reloader } from './reload.ts'
import { DaemonServices } from './services.ts'
import { untilStopped } from './stopping.ts'
import { endUnread, sayReady } from './streams.ts'
import { withLinkCounters, withSocketCounters } from './traffic.ts'

/**
 * Runs the mechanism that a command names, and those that the configuration adds, until it is stopped; resolves when
 * everything it made is removed.
 */
export async function serve(role: string, state: State, list: MechanismList = MECHANISMS): Promise<void> {
  forbidCoreDumps()
  const descriptor = descriptorOf(role, list)
  const config = loadConfigOf(descriptor, state, { whole: true, list })
  const running = mechanismsFor(descriptor, config, list)
  for (const { needs } of running) for (const need of needs) need.demand?.()
  state.lock()
  const recorder = new HostRecorder(new Log(config.log.level))
  // Not beside a tunnel: its engine lives on optimized code.
  if (descriptor.alone) optimizeLate()
  const { daemon, services } = composeDaemon(config, state, recorder, running, list)
  const stopped = untilStopped(recorder, () => {
    daemon.reload().catch((error) => recorder.log('error', `SIGHUP: ${(error as Error).message}`))
  })
  const started = daemon.start()
  try {
    const ready = await Promise.race([started.then(() => daemon.untilReady()).then(() => true), stopped])
    if (ready === true) sayReady(recorder)
    await Promise.race([stopped, daemon.untilFailure()])
  } finally {
    await daemon.stop()
    await started.catch(() => {})
    services.close()
    state.unlock()
    endUnread()
  }
}

/** A daemon of these mechanisms, the named one first, and the services that they share. */
export function composeDaemon(
  config: Config,
  state: State,
  recorder: HostRecorder,
  running: readonly MechanismDescriptor[],
  list: MechanismList = MECHANISMS,
): { daemon: Daemon; services: DaemonServices } {
  const services = new DaemonServices(config, state, recorder, running)
  const composed = running.map((descriptor) => ({
    descriptor,
    mechanism: descriptor.compose(config, services),
  }))
  const reloader = new Reloader({
    state,
    running: composed,
    list,
    config,
    setLogLevel: (level) => {
      recorder.logLevel = level
    },
    setServices: (changed) => services.reload(changed),
    log: (level, message) => recorder.log(level, message),
  })
  const daemon = new Daemon({
    role: running[0]!.role,
    roles: MECHANISMS.map(({ role }) => role),
    version: version(),
    state,
    mechanisms: composed.map(({ mechanism }) => mechanism),
    reload: () => reloader.reload(),
    recorder,
    instance: config.kernel.instance,
    accesses: () => services.accesses.status(),
    counters: {
      accesses: (accesses) => withLinkCounters(accesses, services.rtnl),
      flows: (flows) => withSocketCounters(flows, services.sockets),
    },
    unused: () => services.accesses.unused(),
    metrics: () => services.metrics(),
  })
  return { daemon, services }
}

/**
 * Removes what a killed daemon left: that of the configuration, or of the mechanism with the role `only`, and of all that may
 * have run beside it. Returns whose it was. Refuses while one runs.
 */
export async function cleanUp(
  state: State,
  only?: string,
  list: MechanismList = MECHANISMS,
): Promise<string> {
  NETWORK_ADMIN.demand?.()
  TUN.demand?.()
  state.lock()
  // Of a machine whose configuration was removed first: the traffic of a killed host is still held back.
  const removed = only === undefined && state.isMachine && !existsSync(state.configFile)
  const found = removed
    ? emptyConfig(list)
    : only === undefined
      ? loadConfig(state.configFile, list)
      : undefined
  const descriptor = found === undefined ? descriptorOf(only!, list) : claimantOf(found, list)
  const config = removed ? emptyConfig(list) : loadConfigOf(descriptor, state, { list })
  const recorder = new HostRecorder(new Log(config.log.level))
  if (removed)
    recorder.log(
      'warn',
      `there is no ${state.configFile}: only what a host with the default configuration leaves is removed`,
    )
  const left = mechanismsToClean(descriptor, config, list)
  const services = new DaemonServices(config, state, recorder, left)
  for (const each of left) await each.compose(config, services).cleanUp()
  services.cleanUp()
  nameLeftovers(services.rtnl, recorder)
  services.close()
  // Cgroups, and the control socket.
  const { role } = descriptor
  const { instance } = config.kernel
  await new Daemon({ role, version: version(), state, mechanisms: [], recorder, instance }).stop()
  state.unlock()
  return role
}

function nameLeftovers(rtnl: Rtnetlink, recorder: HostRecorder): void {
  const commands = leftovers(rtnl)
  if (commands.length === 0) return
  const which = 'rules and routes that look like those of an older godwit were not removed'
  recorder.log('warn', `${which}; to remove them: ${commands.join('; ')}`)
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
  NETWORK_ADMIN.demand?.()
  TUN.demand?.()
  refuseUnknownInterfaces(options.inside, options.outside)
  state.lock()
  const config = loadConfigOf(descriptorOf('dime'), state)
  const recorder = new HostRecorder(new Log(config.log.level))
  const log = (message: string) => recorder.log('info', message)
  const ledger = new Ledger(config.kernel)
  const rtnl = new Rtnetlink()
  const guard = new KernelGuard({
    rtnl,
    ledger,
    clock: new RealClock(),
    report: (line) => recorder.log('warn', line),
  })
  const nat = new IhmpNat({
    ledger,
    inside: options.inside,
    outside: options.outside,
    ports: parsePorts(options.ports),
    port: options.port ?? config.dime.port,
    key: readPrivateKeys(dimeKeyFile(state))[0]?.key,
    guard,
    log,
  })
  const stopped = untilStopped(recorder)
  try {
    nat.start()
    sayReady(recorder)
    await stopped
  } finally {
    nat.stop()
    guard.stop()
    rtnl.close()
    state.unlock()
    endUnread()
  }
}

function refuseUnknownInterfaces(inside: string, outside: string): void {
  const rtnl = new Rtnetlink()
  const names = rtnl.links().map(({ name }) => name)
  rtnl.close()
  for (const wanted of [inside, outside])
    if (!names.includes(wanted))
      throw usageError(`there is no interface ${wanted}`, { hint: `interfaces: ${names.join(', ')}` })
  if (inside === outside) throw usageError('inside and outside must be different interfaces')
}

function parsePorts(text: string | undefined): readonly [number, number] | undefined {
  if (text === undefined) return undefined
  const [, first, last] = /^(\d{1,5})-(\d{1,5})$/.exec(text)?.map(Number) ?? []
  if (first === undefined || last === undefined || first < 1 || last > 65535 || first > last)
    throw usageError(`--ports: "${text}" is not FIRST-LAST, e.g. 40000-49999`)
  return [first, last]
}
