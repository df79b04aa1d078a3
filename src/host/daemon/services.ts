/** The services that a daemon owns (mechanism/services.ts), each made when the first mechanism asks for it. */
import { dirname, resolve } from 'node:path'
import { AccessMonitor } from '../../access/index.ts'
import { AccessResolver, SystemServers } from '../../access/names/index.ts'
import type { Metric, Recorder } from '../../core/mechanism.ts'
import { nodeRandom } from '../../crypto/node-crypto.ts'
import { cgroupMount, KernelCgroups } from '../../linux/cgroup.ts'
import { RealClock } from '../../linux/clock.ts'
import { whoForwards } from '../../linux/forwarding.ts'
import { KernelGuard } from '../../linux/guard.ts'
import { Ledger, OUR_DEVICES } from '../../linux/ledger.ts'
import { NfSocket } from '../../linux/nf-socket.ts'
import { Nft } from '../../linux/nft.ts'
import { FlowOwners } from '../../linux/owners.ts'
import { findProgram } from '../../linux/packages.ts'
import type { Accept } from '../../linux/passage/chains.ts'
import { Passage } from '../../linux/passage/passage.ts'
import { SocketOwners } from '../../linux/proc.ts'
import { Rtnetlink } from '../../linux/rtnetlink/index.ts'
import { SockDiag } from '../../linux/sockdiag.ts'
import type { Sysctls } from '../../linux/sysctl.ts'
import { RememberedEndpoints } from '../../mechanism/endpoints.ts'
import { RememberedSeen } from '../../mechanism/seen.ts'
import type { Files, Services } from '../../mechanism/services.ts'
import { RememberedSysctls, SharedSysctls } from '../../mechanism/sysctls.ts'
import { RememberedTimestamp } from '../../mechanism/timestamp.ts'
import type { MechanismList } from '../configuration/plan.ts'
import type { Config } from '../configuration/schema.ts'
import type { State } from '../stores/state.ts'

export class DaemonServices implements Services {
  readonly ledger: Ledger
  readonly clock = new RealClock()
  readonly random = nodeRandom
  readonly recorder: Recorder
  readonly files: Files
  readonly #config: Config
  readonly #state: State
  readonly #running: MechanismList
  #rtnl: Rtnetlink | undefined
  #sockets: SockDiag | undefined
  #nfTables: NfSocket | undefined
  #accesses: AccessMonitor | undefined
  #names: AccessResolver | undefined
  #guard: KernelGuard | undefined
  #owners: FlowOwners | undefined
  #sysctls: SharedSysctls | undefined
  /** Settings that stay as they are, since others need them. */
  readonly #kept = new Set<string>()
  #cgroups: { readonly groups: KernelCgroups | undefined } | undefined

  /** `running`: the mechanisms that these services are for. */
  constructor(config: Config, state: State, recorder: Recorder, running: MechanismList) {
    this.#config = config
    this.#state = state
    this.#running = running
    this.recorder = recorder
    this.ledger = new Ledger(config.kernel)
    this.files = {
      folder: state.folder,
      file: (name) => state.file(name),
      resolve: (path) => resolve(dirname(state.configFile), path),
      keyFile: () => {
        const named = config.interface.private_key_file
        return named === undefined ? state.keyFile : this.files.resolve(named)
      },
      privateKey: () => state.ensurePrivateKey(this.files.keyFile()),
    }
  }

  get rtnl(): Rtnetlink {
    this.#rtnl ??= new Rtnetlink()
    return this.#rtnl
  }

  get sockets(): SockDiag {
    this.#sockets ??= new SockDiag()
    return this.#sockets
  }

  get nfTables(): NfSocket {
    this.#nfTables ??= new NfSocket()
    return this.#nfTables
  }

  readonly nftables = new Nft()

  passage(accepts: readonly Accept[], change: boolean): Passage {
    const nft = findProgram('nft') === undefined ? undefined : this.nftables
    const { rtnl, ledger } = this
    return new Passage(
      { nft, rtnl, report: (line) => this.#warn(line) },
      { comment: ledger.alias, accepts, change },
    )
  }

  get cgroups(): KernelCgroups | undefined {
    if (this.#cgroups === undefined) {
      const mount = cgroupMount()
      const { instance } = this.ledger
      this.#cgroups = { groups: mount === undefined ? undefined : new KernelCgroups(mount, instance) }
    }
    return this.#cgroups.groups
  }

  get owners(): FlowOwners {
    this.#owners ??= new FlowOwners(this.sockets, new SocketOwners(), this.cgroups)
    return this.#owners
  }

  get guard(): KernelGuard {
    const { rtnl, ledger, clock } = this
    this.#guard ??= new KernelGuard({ rtnl, ledger, clock, report: (line) => this.#warn(line) })
    return this.#guard
  }

  get accesses(): AccessMonitor {
    if (this.#accesses !== undefined) return this.#accesses
    const { rtnl, clock, ledger } = this
    this.#accesses = new AccessMonitor(
      {
        rtnl,
        clock,
        sysctls: this.sysctls('access'),
        report: (line) => this.#warn(line),
        protect: (guarded) => this.guard.protect(guarded),
      },
      {
        ledger,
        routing: 'on demand',
        ours: [...OUR_DEVICES, ...this.#running.flatMap((each) => each.devices?.(this.#config) ?? [])],
        ...this.#patterns(this.#config),
      },
    )
    return this.#accesses
  }

  #patterns(config: Config) {
    return {
      never: Object.entries(config.access).flatMap(([pattern, { use }]) =>
        use === 'never' ? [pattern] : [],
      ),
      named: [
        ...Object.keys(config.access),
        ...this.#running.flatMap((each) => each.accesses?.(config) ?? []),
      ],
    }
  }

  /** Takes other accesses while mechanisms run. */
  reload(config: Config): void {
    this.#accesses?.setPatterns(this.#patterns(config))
  }

  sysctls(owner: string): Sysctls {
    const keeps = (key: string, value: string) => this.#keepsForwarding(key, value)
    this.#sysctls ??= new SharedSysctls(new RememberedSysctls(this.#state.file('sysctls.json'), keeps), keeps)
    return this.#sysctls.view(owner)
  }

  #keepsForwarding(key: string, value: string): boolean {
    const who = whoForwards(key, value, this.ledger.nftTable())
    if (who !== undefined && !this.#kept.has(key))
      this.recorder.log('info', `${key} stays on: another program translates addresses (${who})`)
    if (who !== undefined) this.#kept.add(key)
    return who !== undefined
  }

  get endpoints(): RememberedEndpoints {
    return new RememberedEndpoints(this.#state.endpointsFile)
  }

  get names(): AccessResolver {
    this.#names ??= new AccessResolver({
      servers: new SystemServers(),
      access: (name) => this.accesses.access(name),
      clock: this.clock,
      random: this.random,
      mark: this.ledger.anchoring.bypassMark,
    })
    return this.#names
  }

  get timestamp(): RememberedTimestamp {
    return new RememberedTimestamp(this.#state.file('timestamp'))
  }

  get seen(): RememberedSeen {
    return new RememberedSeen(this.#state.file('seen.json'))
  }

  metrics(): Metric[] {
    return [
      {
        name: 'godwit_kernel_restored_total',
        help: 'Rules, routes, addresses and devices of godwit that another program removed and godwit restored.',
        type: 'counter',
        value: this.#guard?.restored ?? 0,
      },
    ]
  }

  /** Removes what a killed run left of the services themselves: tables of accesses, settings. */
  cleanUp(): void {
    this.accesses.cleanUp()
    this.sysctls('access')
    this.#sysctls?.restore()
  }

  /** When every mechanism has stopped. */
  close(): void {
    this.#guard?.stop()
    this.#accesses?.stop()
    this.#sysctls?.restore()
    this.#nfTables?.close()
    this.#sockets?.close()
    this.#rtnl?.close()
  }

  #warn(line: string): void {
    this.recorder.log('warn', line)
  }
}
